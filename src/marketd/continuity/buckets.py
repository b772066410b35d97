"""Which longer bar each shorter one is part of. Pure.

Buckets are those of `Interval`, in UTC, but for days and weeks of a venue whose calendar dates days by sessions: these
are made of what counts to a date there (`calendars.dates`), so that a day is the exchange's own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from marketd.calendars import Calendar, date_begins, dates_of
from marketd.model import Interval

__all__ = ["Buckets"]

_DAY = Interval.parse("1d")
_HOUR = Interval.parse("1h")

_Ints = npt.NDArray[np.int64]


class Buckets:
    """Buckets of one length. calendar: of the symbol; None: UTC."""

    def __init__(self, calendar: Calendar | None, interval: Interval) -> None:
        self._interval = interval
        dated = calendar is not None and calendar.days_are_sessions and interval.ns >= _DAY.ns
        self._calendar = calendar if dated else None

    def can_hold(self, base: Interval) -> bool:
        """Whether bars of `base` lie within one bucket each. A bar of hours can hold the end of one session and the
        beginning of the next."""
        whole = base.ns < self._interval.ns and not self._interval.ns % base.ns
        return whole and (self._calendar is None or base.ns <= _HOUR.ns or base is _DAY)

    def of(self, base: Interval, starts: _Ints) -> _Ints:
        """Starts of bars of `base` to the starts of their buckets."""
        if self._calendar is not None and base.ns < _DAY.ns:
            starts = dates_of(self._calendar, base, starts)
            if self._interval is _DAY:
                return starts
        found: _Ints = self._interval.floor(starts)
        return found

    def begin(self, base: Interval, start_ns: int) -> int:
        """From which start on bars of `base` are part of the bucket that starts at `start_ns`, or of later ones."""
        if self._calendar is None or base.ns >= _DAY.ns:
            return start_ns
        return int(date_begins(self._calendar, base, start_ns, start_ns + 1)[0])
