"""Bars of whole recordings: every file is read through once, and its rows become minutes.

The same rows make the same bars as they do when they are streamed: executions make trade bars, books make bid and ask
bars. A file of bars gives bars of its own interval and longer ones. Pure, but for reading the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.model import BOOK, INTERVALS, TRADE, Interval, Side
from marketd.model.ticks import F64, I64
from marketd.sources.replay.readers import FileReader
from marketd.sources.replay.rows import Asides, Rows, SymbolTable

__all__ = ["SIDES", "BarRows", "Past", "rolled"]

SIDES: tuple[Side, ...] = ("trade", "bid", "ask")
_MINUTE = Interval.parse("1m")
_BLOCK_BYTES = 1 << 20


class BarRows(NamedTuple):
    """Parts of bars. symbol: position. first_ns, last_ns: event times of the first and last tick. volume, notional: NaN
    where no size was told. trades: 0 where it is not known."""

    symbol: I64
    ts: I64
    first_ns: I64
    last_ns: I64
    open: F64
    high: F64
    low: F64
    close: F64
    volume: F64
    notional: F64
    trades: I64

    def take(self, rows: Any) -> BarRows:
        return BarRows(*(column[rows] for column in self))


def rolled(rows: BarRows, interval: Interval) -> BarRows:
    """One row a symbol and bar, ascending by both. Opens and closes go by event time, at equal times by order."""
    if not len(rows.ts):
        return rows
    bar = interval.floor(rows.ts)
    order = np.lexsort((rows.first_ns, bar, rows.symbol))
    symbol, ts = rows.symbol[order], bar[order]
    first = np.flatnonzero(np.concatenate([[True], (symbol[1:] != symbol[:-1]) | (ts[1:] != ts[:-1])]))
    end = np.append(first[1:], len(ts)) - 1
    closing = np.lexsort((rows.last_ns, bar, rows.symbol))[end]
    told = ~np.isnan(rows.volume[order])
    some = np.add.reduceat(told, first) > 0

    def summed(column: F64) -> F64:
        return np.where(some, np.add.reduceat(np.where(told, column[order], 0.0), first), np.nan)

    return BarRows(
        symbol=symbol[first],
        ts=ts[first],
        first_ns=rows.first_ns[order][first],
        last_ns=rows.last_ns[closing],
        open=rows.open[order][first],
        high=np.maximum.reduceat(rows.high[order], first),
        low=np.minimum.reduceat(rows.low[order], first),
        close=rows.close[closing],
        volume=summed(rows.volume),
        notional=summed(rows.notional),
        trades=np.add.reduceat(rows.trades[order], first),
    )


class Past:
    """Of some files. Reads them when it is made, so make it in a thread."""

    def __init__(self, files: Sequence[FileReader]) -> None:
        self._table = SymbolTable()
        parts: dict[tuple[Interval, Side], list[BarRows]] = {}
        for file in files:
            base = _base(file.layout.interval_ns)
            for rows in _chunks(file, self._table):
                for side in SIDES:
                    part = _ticks_of(rows, side, whole=file.layout.interval_ns == 0)
                    if base is not None and part is not None:
                        parts.setdefault((base, side), []).append(rolled(part, base))
        self._found = {
            key: rolled(BarRows(*(np.concatenate(column) for column in zip(*found, strict=True))), key[0])
            for key, found in parts.items()
        }
        self._positions = {name: position for position, name in enumerate(self._table.names)}

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._positions

    def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> dict[Side, BarRows] | None:
        """By side, those with start_ns <= ts < end_ns; both are starts of bars. None where the recording is too coarse
        for them. Of files of several intervals the shortest counts."""
        position = self._positions[symbol]
        found: dict[Side, BarRows] = {}
        for side in SIDES:
            for base in (base for base in INTERVALS if base.ns <= interval.ns and interval.ns % base.ns == 0):
                rows = self._found.get((base, side))
                if rows is None:
                    continue
                low, high = np.searchsorted(rows.symbol, [position, position + 1]).tolist()
                if low == high:
                    continue
                first, last = (low + np.searchsorted(rows.ts[low:high], [start_ns, end_ns])).tolist()
                found[side] = rolled(rows.take(slice(first, last)), interval)
                break
        return found or None


def _base(interval_ns: int) -> Interval | None:
    """The shortest interval whose bars can be made of ticks (0) or of bars of that length."""
    fitting = (i for i in INTERVALS if i.ns >= _MINUTE.ns and (interval_ns == 0 or i.ns % interval_ns == 0))
    return next(fitting, None)


def _chunks(file: FileReader, table: SymbolTable) -> Iterator[Rows]:
    """Ticks alone: what else a recording tells is not kept."""
    asides = Asides()
    for rows in file.chunks(table, asides, _BLOCK_BYTES):
        beside = rows.flags == 0
        if beside.any():
            for number in rows.trade_id[beside].tolist():
                asides.pop(number)
            yield rows.take(~beside)
        else:
            yield rows


def _ticks_of(rows: Rows, side: Side, *, whole: bool) -> BarRows | None:
    """A bar of its own for each tick of a side. whole: the ticks are ticks, and not made of bars."""
    chosen: npt.NDArray[np.bool_]
    if side == "trade":
        price, size = rows.last, rows.last_size
        chosen = (rows.flags & TRADE) > 0
    else:
        price = rows.bid if side == "bid" else rows.ask
        size = np.full(len(price), np.nan)
        chosen = ((rows.flags & (BOOK | TRADE)) == BOOK) & ~np.isnan(price)
    if not chosen.any():
        return None
    time_ns, at, price, size = rows.time_event_ns[chosen], rows.symbol_index[chosen], price[chosen], size[chosen]
    count = np.full(len(price), int(whole), np.int64)
    notional = price * size if whole else np.full(len(price), np.nan)
    return BarRows(at.astype(np.int64), time_ns, time_ns, time_ns, price, price, price, price, size, notional, count)
