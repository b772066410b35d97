"""Which rows say something that was not said before.

- A numbered trade is a duplicate if its number was seen with its stamp. Numbers rise; one that comes late is
  looked up among the recent ones.
- Any other row with a book is a duplicate if it equals, stamp and all, the row with a book before it.
- A trade without number and without book is never a duplicate: two equal trades in one millisecond are
  two trades, and nothing tells them from a repeated message.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from marketd.model import BOOK, TickBatch
from marketd.model.ticks import NO_TRADE_ID

__all__ = ["Deduper"]

_RECENT_TRADES = 128
_VALUES = ("bid", "ask", "bid_size", "ask_size", "last", "last_size", "volume")


class Deduper:
    """Remembers, per symbol, the last row with a book and the last trade number. One for each source."""

    def __init__(self) -> None:
        self._size = 0
        self._time_event_ns = np.empty(0, np.int64)
        self._values = np.empty((0, len(_VALUES)))
        self._trade_id: dict[int, int] = {}
        self._recent: dict[int, deque[tuple[int, int]]] = {}

    def duplicates(self, batch: TickBatch, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_] | None:
        """True for each row that repeats an earlier one, or None if none does."""
        self._grow(int(ids.max(initial=-1)) + 1)
        found = self._repeated_books(batch, ids)
        if batch.trade_id is not None:
            repeated = self._repeated_trades(batch.trade_id, batch.time_event_ns, ids)
            # Of a row that is both, the number decides: two trades can leave the same book in the same instant.
            found = repeated if found is None else np.where(batch.trade_id == NO_TRADE_ID, found, repeated)
        return found if found is not None and found.any() else None

    def _grow(self, size: int) -> None:
        if size <= self._size:
            return
        room = max(size, 2 * self._size)
        times = np.zeros(room, np.int64)
        values = np.full((room, len(_VALUES)), np.nan)
        times[: self._size] = self._time_event_ns[: self._size]
        values[: self._size] = self._values[: self._size]
        self._time_event_ns, self._values, self._size = times, values, room

    def _repeated_books(self, batch: TickBatch, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_] | None:
        has_book = (batch.flags & BOOK) > 0
        everywhere = bool(has_book.all())
        rows = slice(None) if everywhere else np.flatnonzero(has_book)
        ids = ids[rows]
        if not len(ids):
            return None
        times = batch.time_event_ns[rows]
        values = np.column_stack([getattr(batch, name)[rows] for name in _VALUES])
        time_before = self._time_event_ns[ids]
        here = before = np.empty(0, np.intp)
        if len(ids) > 1:
            order = np.argsort(ids, kind="stable")
            same = ids[order][1:] == ids[order][:-1]
            if same.any():
                here, before = order[1:][same], order[:-1][same]
                time_before[here] = times[before]
        repeated: npt.NDArray[np.bool_] = times == time_before
        if repeated.any():
            values_before = self._values[ids]
            values_before[here] = values[before]
            equal = (values == values_before) | (np.isnan(values) & np.isnan(values_before))
            repeated &= equal.all(axis=1)
        self._time_event_ns[ids] = times
        self._values[ids] = values
        if not repeated.any():
            return None
        if everywhere:
            return repeated
        found = np.zeros(len(batch), np.bool_)
        found[rows] = repeated
        return found

    def _repeated_trades(
        self, trade_id: npt.NDArray[np.int64], time_event_ns: npt.NDArray[np.int64], ids: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(ids), np.bool_)
        numbered = trade_id != NO_TRADE_ID
        if not numbered.any():
            return found
        symbol = int(ids[0])
        if numbered.all() and (ids == symbol).all() and (np.diff(trade_id) > 0).all():
            newest = self._trade_id.get(symbol)
            if newest is None or trade_id[0] > newest:  # the usual case: one symbol, rising numbers
                self._trade_id[symbol] = int(trade_id[-1])
                tail = slice(-_RECENT_TRADES, None)
                pairs = zip(trade_id[tail].tolist(), time_event_ns[tail].tolist(), strict=True)
                self._remembered(symbol).extend(pairs)
                return found
        for row in np.flatnonzero(numbered):
            symbol, number = int(ids[row]), int(trade_id[row])
            pair = (number, int(time_event_ns[row]))
            recent = self._remembered(symbol)
            if pair in recent:
                found[row] = True
                continue
            self._trade_id[symbol] = max(number, self._trade_id.get(symbol, number))
            stamp = pair[::-1]
            if len(recent) < _RECENT_TRADES or stamp > recent[0][::-1]:
                recent.append(pair)  # one older than all remembered must not push out a newer one
        return found

    def _remembered(self, symbol: int) -> deque[tuple[int, int]]:
        recent = self._recent.get(symbol)
        if recent is None:
            recent = self._recent[symbol] = deque(maxlen=_RECENT_TRADES)
        return recent
