"""Which date a bar counts to: its session's where the calendar dates days by sessions, else its UTC day. Pure.

A date begins at its midnight UTC; earlier if its session opens before that, later if the session before goes on
beyond it. So time outside of all sessions stays with its UTC day, and what trades in the evening before is the next
day's. A bar in which a date begins counts to that date, unless the session before ends in it.
"""

from __future__ import annotations

import numpy as np

from marketd.calendars.contract import Calendar
from marketd.calendars.spans import Int64s
from marketd.model import Interval

__all__ = ["date_begins", "dates_of"]

_DAY = Interval.parse("1d")
_FAR_NS = 2 * _DAY.ns
"""More than a session begins before its date, or ends after it."""


def date_begins(calendar: Calendar, interval: Interval, start_ns: int, end_ns: int) -> Int64s:
    """For each midnight UTC within start_ns <= t < end_ns: from which start on bars of an interval below a day count
    to that date. Ascending, nanoseconds UTC. What the calendar does not cover are UTC days."""
    begins = labels = _DAY.starts(start_ns, end_ns)
    if not calendar.days_are_sessions or not len(labels):
        return labels
    low, high = calendar.covers
    first_ns = min(max(int(labels[0]) - _FAR_NS, low), high)
    sessions = calendar.sessions(first_ns, max(min(end_ns, high), first_ns))
    places = np.searchsorted(labels, sessions.label_ns)
    asked = sessions.label_ns >= labels[0]
    opens = interval.floor(sessions.open_ns[asked])
    begins = labels.copy()
    begins[places[asked]] = np.minimum(labels[places[asked]], opens)
    before = np.searchsorted(sessions.label_ns, labels) - 1
    ends = interval.ceil(sessions.close_ns[np.maximum(before, 0)]) if len(sessions.label_ns) else labels
    later: Int64s = np.where(before >= 0, np.maximum(begins, ends), begins)
    found: Int64s = np.maximum.accumulate(later)
    return found


def dates_of(calendar: Calendar, interval: Interval, starts: Int64s) -> Int64s:
    """Midnight UTC of the date that each bar of an interval below a day counts to, in any order."""
    if not calendar.days_are_sessions or not len(starts):
        days: Int64s = _DAY.floor(starts)
        return days
    first_ns, last_ns = _DAY.floor(int(starts.min())) - _FAR_NS, _DAY.floor(int(starts.max())) + _FAR_NS
    begins = date_begins(calendar, interval, first_ns, last_ns + _DAY.ns)
    dates: Int64s = first_ns + _DAY.ns * (np.searchsorted(begins, starts, "right") - 1)
    return dates
