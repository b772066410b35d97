"""The newest accepted value of every symbol, as columns. It never goes back in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.ingest.symbols import SymbolTable
from marketd.model import BOOK, LAST, TickBatch

__all__ = ["LatestQuote", "LatestTable"]

Ids = npt.NDArray[np.intp]

_COLUMNS: dict[str, tuple[type, float | int]] = {
    "book_ns": (np.int64, 0),
    "last_ns": (np.int64, 0),
    "received_ns": (np.int64, 0),
    "seq": (np.int64, 0),
    "bid": (np.float64, np.nan),
    "ask": (np.float64, np.nan),
    "bid_size": (np.float64, np.nan),
    "ask_size": (np.float64, np.nan),
    "last": (np.float64, np.nan),
    "volume": (np.float64, np.nan),
    "marks": (np.uint8, 0),
    "source": (np.int16, -1),
}


class LatestQuote(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. time_event_ns: of the newest part of it."""

    symbol: str
    source: str
    seq: int
    time_event_ns: int
    time_received_ns: int
    bid: float | None
    ask: float | None
    bid_size: float | None
    ask_size: float | None
    last: float | None
    volume: float | None
    marks: int


class LatestTable:
    """Rows by the numbers of a `SymbolTable`. seq 0: nothing accepted yet."""

    book_ns: npt.NDArray[np.int64]
    last_ns: npt.NDArray[np.int64]
    received_ns: npt.NDArray[np.int64]
    seq: npt.NDArray[np.int64]
    bid: npt.NDArray[np.float64]
    ask: npt.NDArray[np.float64]
    bid_size: npt.NDArray[np.float64]
    ask_size: npt.NDArray[np.float64]
    last: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    marks: npt.NDArray[np.uint8]
    source: npt.NDArray[np.int16]

    def __init__(self, symbols: SymbolTable) -> None:
        self.symbols = symbols
        self.source_names: list[str] = []
        self._source_number: dict[str, int] = {}
        self._room = 0
        self._grow(64)

    def _grow(self, size: int) -> None:
        if size <= self._room:
            return
        room = max(size, self._room * 2)
        for name, (kind, absent) in _COLUMNS.items():
            column: npt.NDArray[Any] = np.full(room, absent, kind)
            if self._room:
                column[: self._room] = getattr(self, name)
            setattr(self, name, column)
        self._room = room

    def update(self, batch: TickBatch, ids: Ids, seq: npt.NDArray[np.int64], marks: npt.NDArray[np.uint8]) -> Ids:
        """Take accepted rows; returns the numbers of the rows that were news (an older row never is)."""
        self._grow(len(self.symbols))
        times = batch.time_event_ns
        if len(times) > 1 and (times[1:] < times[:-1]).any():
            # With repeated symbols the last assignment wins: make it the one with the newest event.
            order = np.argsort(times, kind="stable")
            batch, ids, seq, marks, times = batch.take(order), ids[order], seq[order], marks[order], times[order]
        number = self._source_number.get(batch.source)
        if number is None:
            number = self._source_number[batch.source] = len(self.source_names)
            self.source_names.append(batch.source)
        book = ((batch.flags & BOOK) > 0) & (times >= self.book_ns[ids])
        last = ((batch.flags & LAST) > 0) & (times >= self.last_ns[ids])
        if book.all() and last.all():
            rows: slice | npt.NDArray[np.bool_] = slice(None)
            book_rows = last_rows = rows
        else:
            rows, book_rows, last_rows = book | last, book, last
        i = ids[book_rows]
        self.book_ns[i] = times[book_rows]
        self.bid[i] = batch.bid[book_rows]
        self.ask[i] = batch.ask[book_rows]
        self.bid_size[i] = batch.bid_size[book_rows]
        self.ask_size[i] = batch.ask_size[book_rows]
        self.marks[i] = marks[book_rows]
        i = ids[last_rows]
        self.last_ns[i] = times[last_rows]
        self.last[i] = batch.last[last_rows]
        volume = batch.volume
        known = ~np.isnan(volume)
        if known.all():
            i = ids[rows]
            self.volume[i] = volume[rows]
        elif known.any():
            known &= book | last
            self.volume[ids[known]] = volume[known]
        i = ids[rows]
        self.received_ns[i] = batch.time_received_ns[rows]
        self.seq[i] = seq[rows]
        self.source[i] = number
        return i

    def time_event_ns(self, ids: Ids) -> npt.NDArray[np.int64]:
        return np.maximum(self.book_ns[ids], self.last_ns[ids])

    def get(self, symbol: str) -> LatestQuote | None:
        """The newest value of a symbol, or None if it has none yet."""
        number = self.symbols.get(symbol)
        if number is None or number >= self._room or not self.seq[number]:
            return None
        return self._row(number)

    def rows(self, numbers: Sequence[int]) -> list[LatestQuote]:
        return [self._row(n) for n in numbers]

    def known(self, among: Ids | None = None) -> Ids:
        """Numbers of the symbols that have a value; those `among` the given ones, in their order."""
        if among is None:
            return np.flatnonzero(self.seq)
        among = among[among < self._room]  # a symbol may have a number long before it has a value
        return among[self.seq[among] > 0]

    def _row(self, i: int) -> LatestQuote:
        return LatestQuote(
            symbol=self.symbols.names[i],
            source=self.source_names[self.source[i]],
            seq=int(self.seq[i]),
            time_event_ns=int(max(self.book_ns[i], self.last_ns[i])),
            time_received_ns=int(self.received_ns[i]),
            bid=_present(self.bid[i]),
            ask=_present(self.ask[i]),
            bid_size=_present(self.bid_size[i]),
            ask_size=_present(self.ask_size[i]),
            last=_present(self.last[i]),
            volume=_present(self.volume[i]),
            marks=int(self.marks[i]),
        )


def _present(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
