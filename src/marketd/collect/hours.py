"""Which symbols' venues are open now, for those who ask several times a second.

A calendar is asked when its answer may have changed, not each time. Loading one can take a second, so it is
loaded by `prepare`, which may run in another thread; a symbol that was not prepared, or has no calendar, is taken for
open: unknown is not closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from marketd.calendars import Calendar
from marketd.errors import InvalidInput
from marketd.model.time import NS_PER_S

__all__ = ["Hours"]

_DAY_NS = 86_400 * NS_PER_S
_AHEAD_NS = 2 * _DAY_NS
_SESSIONS_AHEAD_DAYS = 15


class _Venue:
    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self._from_ns = self._until_ns = 0
        self._spans = np.empty((0, 2), np.int64)

    def is_open(self, now_ns: int) -> bool:
        if not self._from_ns <= now_ns < self._until_ns:
            self._from_ns, self._until_ns = now_ns, now_ns + _AHEAD_NS
            try:
                self._spans = self.calendar.open_spans(self._from_ns, self._until_ns)
            except InvalidInput:  # beyond what it knows
                self._spans = np.array([[self._from_ns, self._until_ns]], np.int64)
        place = int(np.searchsorted(self._spans[:, 1], now_ns, "right"))
        return place < len(self._spans) and int(self._spans[place, 0]) <= now_ns

    def next_session_ns(self, now_ns: int) -> int:
        try:
            sessions = self.calendar.sessions(now_ns - 2 * _DAY_NS, now_ns + _SESSIONS_AHEAD_DAYS * _DAY_NS)
        except InvalidInput:
            return now_ns + _DAY_NS
        later = sessions.open_ns[sessions.open_ns > now_ns]
        return int(later[0]) if len(later) else now_ns + _DAY_NS


class Hours:
    """calendar_of: None for a symbol without one; an InvalidInput of it counts as that."""

    def __init__(self, calendar_of: Callable[[str], Calendar | None] | None = None) -> None:
        self._calendar_of = calendar_of
        self._venues: list[_Venue] = []
        self._number_of: dict[Calendar, int] = {}
        self._venue_of: dict[str, int | None] = {}
        """A place in `_venues`, or None for always open. Grows only."""

    def prepare(self, symbols: Iterable[str]) -> None:
        """Find the calendars of these symbols. By one thread at a time."""
        for symbol in symbols:
            if symbol in self._venue_of:
                continue
            calendar = None
            if self._calendar_of is not None:
                try:
                    calendar = self._calendar_of(symbol)
                except InvalidInput:
                    calendar = None
            if calendar is None:
                self._venue_of[symbol] = None
                continue
            number = self._number_of.get(calendar)
            if number is None:
                self._venues.append(_Venue(calendar))
                number = self._number_of[calendar] = len(self._venues) - 1
            self._venue_of[symbol] = number

    def is_prepared(self, symbol: str) -> bool:
        return symbol in self._venue_of

    def numbers(self, symbols: Iterable[str]) -> npt.NDArray[np.int16]:
        """The venue of each symbol as a number for `open_by_number`."""
        found = (self._venue_of.get(symbol) for symbol in symbols)
        return np.fromiter((0 if number is None else number + 1 for number in found), np.int16)

    def open_by_number(self, now_ns: int) -> npt.NDArray[np.bool_]:
        """Whether each venue is open; the first is that of symbols without a calendar."""
        return np.array([True, *(venue.is_open(now_ns) for venue in list(self._venues))], np.bool_)

    def is_open(self, symbol: str, now_ns: int) -> bool:
        number = self._venue_of.get(symbol)
        return number is None or self._venues[number].is_open(now_ns)

    def any_open(self, symbols: Iterable[str], now_ns: int) -> bool:
        """Whether a venue of these is open; False for none."""
        numbers = {self._venue_of.get(symbol) for symbol in symbols}
        return any(number is None or self._venues[number].is_open(now_ns) for number in numbers)

    def next_session_ns(self, symbols: Iterable[str], now_ns: int) -> int:
        """When the next session of any of these begins, after now. Of those without a calendar: a new UTC day."""
        numbers = {self._venue_of.get(symbol) for symbol in symbols} or {None}
        return min(
            (now_ns // _DAY_NS + 1) * _DAY_NS if number is None else self._venues[number].next_session_ns(now_ns)
            for number in numbers
        )
