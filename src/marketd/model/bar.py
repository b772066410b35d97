"""Open, high, low, close over one interval, one at a time and as an Arrow schema."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["ADJUSTED", "BAR_SCHEMA", "Bar", "BarStatus", "Side", "starts_of"]

Side = Literal["trade", "bid", "ask"]
"""What the prices of a bar are: executions (or last prices), best bids, best asks."""

BarStatus = Literal["live", "provisional", "final", "corrected", "backfill", "withdrawn"]
"""live: its interval is still running. provisional: over, but we did not watch all of it. final: over and
watched throughout. corrected: a final bar that late data changed. backfill: fetched from the provider
afterwards. withdrawn: the provider took it back."""

ADJUSTED = ":adjusted"
"""How the name of a provider ends whose prices were adjusted for splits or dividends before they came: `file:adjusted`.
They are kept apart from raw ones, and not adjusted again."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar. ts_ns: its *start*, UTC. volume: sum of trade sizes (None if no size was told).

    vwap: volume-weighted mean price, None without sizes. trades: number of ticks in it.
    as_of_ns: when this version became known to us.
    """

    symbol: str
    interval: str
    side: Side
    ts_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    vwap: float | None
    trades: int
    provider: str
    status: BarStatus
    as_of_ns: int


_TS = pa.timestamp("ns", tz="UTC")

_COLUMNS: list[pa.Field[Any]] = [
    pa.field("symbol", pa.string(), nullable=False),
    pa.field("interval", pa.string(), nullable=False),
    pa.field("side", pa.string(), nullable=False),
    pa.field("ts", _TS, nullable=False),
    pa.field("open", pa.float64(), nullable=False),
    pa.field("high", pa.float64(), nullable=False),
    pa.field("low", pa.float64(), nullable=False),
    pa.field("close", pa.float64(), nullable=False),
    pa.field("volume", pa.float64()),
    pa.field("vwap", pa.float64()),
    pa.field("trades", pa.int64()),
    pa.field("provider", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("as_of", _TS, nullable=False),
]

BAR_SCHEMA: pa.Schema = pa.schema(_COLUMNS)
"""Columns of a table of bars, the same names and meanings as `Bar`."""


def starts_of(bars: pa.Table) -> npt.NDArray[np.int64]:
    """The column `ts`, nanoseconds UTC."""
    return bars["ts"].to_numpy().astype(np.int64)
