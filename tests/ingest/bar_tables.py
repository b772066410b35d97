"""Tables of bars for the tests of the checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from marketd.ingest.bar_checks import REASONS, CheckedBars
from marketd.model import BAR_SCHEMA

NS = 1_000_000_000
MINUTE = 60 * NS
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOW = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp()) * NS


def at(text: str) -> int:
    """Nanoseconds of an ISO time, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def bars(
    ts: Sequence[int | None],
    close: Sequence[float | None],
    *,
    open: Sequence[float | None] | None = None,  # noqa: A002
    high: Sequence[float | None] | None = None,
    low: Sequence[float | None] | None = None,
    volume: Sequence[float | None] | None = None,
    symbol: str | Sequence[str] = "AAPL",
    interval: str = "1m",
    provider: str = "file",
    status: str = "backfill",
) -> pa.Table:
    """Bars without a range, unless it is given."""
    n = len(ts)
    stamp = pa.timestamp("ns", tz="UTC")
    columns = {
        "symbol": pa.array([symbol] * n if isinstance(symbol, str) else symbol, pa.string()),
        "interval": pa.array([interval] * n, pa.string()),
        "side": pa.array(["trade"] * n, pa.string()),
        "ts": pa.array(list(ts), pa.int64()).cast(stamp),
        "open": pa.array(list(open or close), pa.float64()),
        "high": pa.array(list(high or close), pa.float64()),
        "low": pa.array(list(low or close), pa.float64()),
        "close": pa.array(list(close), pa.float64()),
        "volume": pa.array(list(volume) if volume is not None else [None] * n, pa.float64()),
        "vwap": pa.nulls(n, pa.float64()),
        "trades": pa.nulls(n, pa.int64()),
        "provider": pa.array([provider] * n, pa.string()),
        "status": pa.array([status] * n, pa.string()),
        "as_of": pa.array([NOW] * n, pa.int64()).cast(stamp),
    }
    return pa.table([columns[name] for name in BAR_SCHEMA.names], names=BAR_SCHEMA.names)


def walk(ts: Sequence[int], seed: int = 0, level: float = 100.0, **more: object) -> pa.Table:
    """A healthy series: small steps, a range around them, traded volumes."""
    rng = np.random.default_rng(seed)
    close = level * np.exp(np.cumsum(rng.normal(0, 0.002, len(ts))))
    opened = np.r_[level, close[:-1]]
    top = np.maximum(opened, close) * (1 + rng.uniform(0.0001, 0.001, len(ts)))
    bottom = np.minimum(opened, close) * (1 - rng.uniform(0.0001, 0.001, len(ts)))
    volume = rng.integers(100, 100_000, len(ts)).astype(float)
    return bars(
        ts,
        close.tolist(),
        open=opened.tolist(),
        high=top.tolist(),
        low=bottom.tolist(),
        volume=volume.tolist(),
        **more,  # type: ignore[arg-type]
    )


def minutes(start: str, count: int) -> list[int]:
    return [at(start) + i * MINUTE for i in range(count)]


def weekdays(start: str, count: int) -> list[int]:
    """Midnights from Monday to Friday."""
    days = (at(start) + i * DAY for i in range(2 * count + 7))
    return [day for day in days if (day // DAY + 3) % 7 < 5][:count]


def with_rows(table: pa.Table, rows: Sequence[int], **columns: float | None) -> pa.Table:
    """The table with other values in some rows."""
    for name, value in columns.items():
        values = table[name].to_pylist()
        for row in rows:
            values[row] = value
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(values, table.schema.field(name).type))
    return table


def scaled(table: pa.Table, rows: Sequence[int], factor: float) -> pa.Table:
    """The table with the prices of some rows multiplied."""
    for name in ("open", "high", "low", "close"):
        values = table[name].to_numpy().copy()
        values[list(rows)] *= factor
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    return table


def shifted(table: pa.Table, by_ns: int) -> pa.Table:
    ts = table["ts"].cast(pa.int64()).to_numpy() + by_ns
    return table.set_column(3, "ts", pa.array(ts).cast(pa.timestamp("ns", tz="UTC")))


def reasons(checked: CheckedBars) -> dict[int, str]:
    """Refused rows and why."""
    return {int(row): REASONS[checked.reasons[row]] for row in np.flatnonzero(checked.reasons)}


def codes(checked: CheckedBars) -> set[str]:
    return {note.code for note in checked.notes}
