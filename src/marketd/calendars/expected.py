"""Which bars are expected: the one place that turns open time into starts of bars. Pure.

- Below a day: every bar of the interval, aligned as `Interval` says, that overlaps open time. A bar that the opening
  or a pause cuts in two is expected once.
- `1d`: `Calendar.days`.
- `1w`: the Monday of every week with an expected day.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.calendars.contract import Calendar
from marketd.calendars.spans import Int64s, ranges
from marketd.errors import InvalidInput
from marketd.model import Interval

__all__ = ["expected_bits", "expected_count", "expected_starts"]

_DAY = Interval.parse("1d")
_BARS_MAX = 1 << 27
_CACHED_SLOTS_MAX = 1 << 21


def expected_starts(calendar: Calendar, interval: Interval, start_ns: int, end_ns: int) -> Int64s:
    """Starts of the expected bars with start_ns <= ts < end_ns, ascending, int64 nanoseconds UTC.

    Raises InvalidInput for more than 2^27 bars, and for time that the calendar does not cover.
    """
    if interval.ns >= _DAY.ns:
        return _coarse(calendar, interval, start_ns, end_ns)
    low, high = _slots(calendar, interval, start_ns, end_ns)
    count = int((high - low).sum())
    if count > _BARS_MAX:
        raise InvalidInput("range", f"{count} bars of {interval}", f"at most {_BARS_MAX} bars; ask for less at a time")
    return ranges(low, high) * interval.ns


def expected_count(calendar: Calendar, interval: Interval, start_ns: int, end_ns: int) -> int:
    """How many bars are expected in the range, whatever their number."""
    if interval.ns >= _DAY.ns:
        return len(_coarse(calendar, interval, start_ns, end_ns))
    low, high = _slots(calendar, interval, start_ns, end_ns)
    return int((high - low).sum())


def expected_bits(calendar: Calendar, interval: Interval, start_ns: int, slots: int) -> npt.NDArray[np.uint8]:
    """The same as bits, laid out as a row of `store.contract.Presence`: bit k is the bar at start_ns + k * interval.ns.

    start_ns: at a start of a bar. uint8 (ceil(slots / 8),), read-only; kept for the next who asks for the same.
    """
    if interval.floor(start_ns) != start_ns:
        raise InvalidInput("start_ns", start_ns, f"a start of a bar of {interval}")
    if slots > _CACHED_SLOTS_MAX:
        return _bits(calendar, interval, start_ns, slots)
    return _kept_bits(calendar, interval, start_ns, slots)


def _bits(calendar: Calendar, interval: Interval, start_ns: int, slots: int) -> npt.NDArray[np.uint8]:
    end_ns = start_ns + slots * interval.ns
    flags = np.zeros(slots + 1, np.int8)
    if interval.ns >= _DAY.ns:
        flags[(_coarse(calendar, interval, start_ns, end_ns) - start_ns) // interval.ns] = 1
    else:
        low, high = _slots(calendar, interval, start_ns, end_ns)
        first = start_ns // interval.ns
        flags[low - first] += 1
        flags[high - first] -= 1
        np.cumsum(flags, out=flags)
    bits = np.packbits(flags[:slots].view(np.bool_), bitorder="little")
    bits.setflags(write=False)
    return bits


@lru_cache(maxsize=128)
def _kept_bits(calendar: Any, interval: Interval, start_ns: int, slots: int) -> npt.NDArray[np.uint8]:
    return _bits(calendar, interval, start_ns, slots)


def _slots(calendar: Calendar, interval: Interval, start_ns: int, end_ns: int) -> tuple[Int64s, Int64s]:
    """Runs of expected bars, low <= ts // interval.ns < high: ascending, and none empty."""
    first, beyond = interval.ceil(start_ns), interval.ceil(max(start_ns, end_ns))
    spans = calendar.open_spans(first, beyond)
    low, high = spans[:, 0] // interval.ns, -(-spans[:, 1] // interval.ns)
    low[1:] = np.maximum(low[1:], high[:-1])
    some = low < high
    return low[some], high[some]


def _coarse(calendar: Calendar, interval: Interval, start_ns: int, end_ns: int) -> Int64s:
    if interval is _DAY:
        return calendar.days(start_ns, end_ns)
    first, beyond = interval.ceil(start_ns), interval.ceil(max(start_ns, end_ns))
    known_ns = calendar.covers[1]
    if end_ns <= known_ns:
        beyond = min(beyond, known_ns)  # the last week may be known in part
    return np.unique(interval.floor(calendar.days(first, beyond)))
