"""Longer bars from stored shorter ones. Pure functions on `BAR_SCHEMA` tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.model import BAR_SCHEMA, Interval, starts_of

__all__ = ["roll_up"]

_Floats = npt.NDArray[np.float64]

_NS = pa.timestamp("ns", tz="UTC")
_SURENESS = ("final", "corrected", "backfill", "provisional", "live")
_WITHDRAWN = len(_SURENESS)
_BY_LETTER = np.zeros(256, np.uint8)
"""Of the first byte of a status its position in `_SURENESS`: no two begin alike."""
for _position, _word in enumerate((*_SURENESS, "withdrawn")):
    _BY_LETTER[ord(_word[0])] = _position


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
    sureness = _sureness_of(bars["status"])
    if sureness.max(initial=0) == _WITHDRAWN:
        in_force = sureness != _WITHDRAWN
        bars, sureness = bars.filter(pa.array(in_force)), sureness[in_force]
    if not bars.num_rows:
        return BAR_SCHEMA.empty_table()
    ts = starts_of(bars)
    bucket = interval.floor(ts) if start_of is None else start_of(ts)
    starts = np.append(0, np.flatnonzero(bucket[1:] != bucket[:-1]) + 1)
    ends = np.append(starts[1:], len(ts)) - 1
    volumes, vwaps = _volumes(_floats(bars["volume"]), _floats(bars["vwap"]), starts)
    columns = {
        "symbol": bars["symbol"].take(starts),
        "interval": pa.repeat(interval.name, len(starts)),
        "side": bars["side"].take(starts),
        "ts": pa.array(bucket[starts]).cast(_NS),
        "open": bars["open"].take(starts),
        "high": pa.array(np.maximum.reduceat(bars["high"].to_numpy(), starts)),
        "low": pa.array(np.minimum.reduceat(bars["low"].to_numpy(), starts)),
        "close": bars["close"].take(ends),
        "volume": pa.array(volumes, from_pandas=True),
        "vwap": pa.array(vwaps, from_pandas=True),
        "trades": _counts(bars["trades"], starts),
        "provider": bars["provider"].take(ends),
        "status": pa.array(_SURENESS).take(np.maximum.reduceat(sureness, starts)),
        "as_of": pa.array(np.maximum.reduceat(_int64(bars["as_of"]), starts)).cast(_NS),
    }
    return pa.Table.from_pydict(columns, BAR_SCHEMA)


def _sureness_of(status: pa.ChunkedArray[Any]) -> npt.NDArray[np.uint8]:
    """Positions in `_SURENESS`, and `_WITHDRAWN`."""
    parts = [np.zeros(0, np.uint8)]
    for chunk in filter(len, status.chunks):
        buffers: Any = chunk.buffers()
        _, ends, data = buffers
        begins = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk)]
        parts.append(_BY_LETTER[np.frombuffer(data, np.uint8)[begins]])
    return parts[1] if len(parts) == 2 else np.concatenate(parts)


def _volumes(volume: _Floats, vwap: _Floats, starts: npt.NDArray[np.int64]) -> tuple[_Floats, _Floats]:
    """Volumes and vwaps of rows, NaN where absent, as those of the buckets that begin at `starts`."""
    volumes = total = np.add.reduceat(volume, starts)
    if not np.isfinite(total).all():  # some are absent
        known = np.logical_or.reduceat(~np.isnan(volume), starts)
        total = np.add.reduceat(np.nan_to_num(volume), starts)
        volumes = np.where(known, total, np.nan)
    # A part without volume weighs nothing; one with volume and without vwap makes the sum NaN, which is absent.
    weights = vwap * volume
    weighted = np.add.reduceat(weights if volume.min() > 0 else np.where(volume > 0, weights, 0.0), starts)
    return volumes, np.where(total > 0, weighted / np.where(total > 0, total, 1), np.nan)


def _counts(trades: pa.ChunkedArray[Any], starts: npt.NDArray[np.int64]) -> pa.Array[Any]:
    if not trades.null_count:
        return pa.array(np.add.reduceat(trades.to_numpy(), starts))
    whole = trades.combine_chunks()
    counted = np.logical_or.reduceat(whole.is_valid().to_numpy(zero_copy_only=False), starts)
    return pa.array(np.add.reduceat(whole.fill_null(0).to_numpy(), starts), mask=~counted)


def _floats(column: pa.ChunkedArray[Any]) -> _Floats:
    """Absent as NaN."""
    return column.to_numpy().astype(np.float64, copy=False)


def _int64(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.int64]:
    return column.to_numpy().view(np.int64)
