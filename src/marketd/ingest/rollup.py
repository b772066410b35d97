"""Longer bars from stored shorter ones. Pure functions on `BAR_SCHEMA` tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.model import BAR_SCHEMA, Interval, starts_of

__all__ = ["roll_up"]

_NS = pa.timestamp("ns", tz="UTC")
_SURENESS = ("final", "corrected", "backfill", "provisional", "live")


def roll_up(
    bars: pa.Table,
    interval: Interval,
    start_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]] | None = None,
) -> pa.Table:
    """Bars of one symbol and side, ascending by ts, as bars of a longer interval.

    open of the first, highest high, lowest low, close of the last; volumes and trades added (absent ones
    leave the sum absent only if all are); vwap weighted by volume, absent if a part with volume has none.
    status: the least sure of its parts; as_of: the latest; provider: of the last part. Withdrawn bars are no parts.
    start_of: starts of parts to those of the bars that they become part of, both ascending; by default
    `interval.floor`.
    """
    bars = bars.filter(pc.not_equal(bars["status"], pa.scalar("withdrawn")))
    if not bars.num_rows:
        return bars
    ts = starts_of(bars)
    bucket = interval.floor(ts) if start_of is None else start_of(ts)
    starts = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]])
    ends = np.r_[starts[1:], len(ts)] - 1
    volume = _floats(bars["volume"])
    vwap = _floats(bars["vwap"])
    total = np.add.reduceat(np.nan_to_num(volume), starts)
    # A part without volume weighs nothing; one with volume and without vwap makes the sum NaN, which is absent.
    weighted = np.add.reduceat(np.where(volume > 0, vwap * volume, 0.0), starts)
    known = np.logical_or.reduceat(~np.isnan(volume), starts)
    volumes = np.where(known, total, np.nan)
    trades = bars["trades"].combine_chunks()
    counts = np.add.reduceat(trades.fill_null(0).to_numpy(), starts)
    counted = np.logical_or.reduceat(trades.is_valid().to_numpy(zero_copy_only=False), starts)
    sureness = np.asarray(pc.index_in(bars["status"], value_set=pa.array(_SURENESS)))
    n = len(starts)
    columns = {
        "symbol": bars["symbol"].take(starts),
        "interval": pa.repeat(interval.name, n),
        "side": bars["side"].take(starts),
        "ts": pa.array(bucket[starts]).cast(_NS),
        "open": bars["open"].take(starts),
        "high": pa.array(np.maximum.reduceat(bars["high"].to_numpy(), starts)),
        "low": pa.array(np.minimum.reduceat(bars["low"].to_numpy(), starts)),
        "close": bars["close"].take(ends),
        "volume": pa.array(volumes, from_pandas=True),
        "vwap": pa.array(np.where(total > 0, weighted / np.where(total > 0, total, 1), np.nan), from_pandas=True),
        "trades": pa.array(counts, mask=~counted),
        "provider": bars["provider"].take(ends),
        "status": pa.array([_SURENESS[i] for i in np.maximum.reduceat(sureness, starts)]),
        "as_of": pa.array(np.maximum.reduceat(bars["as_of"].to_numpy().astype(np.int64), starts)).cast(_NS),
    }
    return pa.Table.from_pydict(columns, BAR_SCHEMA)


def _floats(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.float64]:
    """Absent as NaN."""
    return column.to_numpy().astype(np.float64)
