"""Calendars of exchanges: a thin, vectorised face of the package `exchange_calendars` (extra `calendars`).

The package (and pandas with it) is imported when the first exchange is asked for. A new exchange needs nothing here;
another name for one it knows goes into `ALIASES`, a day that it has wrong into `corrections`.
"""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from marketd.calendars.contract import Sessions
from marketd.calendars.corrections import CLOSED, HOURS
from marketd.calendars.spans import Int64s, clip, joined
from marketd.errors import InvalidInput
from marketd.model import format_ns

__all__ = ["ALIASES", "ExchangeCalendar"]

ALIASES = {
    "ARCA": "XNYS", "AMEX": "XNYS", "BATY": "XNYS", "EDGA": "XNYS", "EDGX": "XNYS", "IEXG": "XNYS", "MEMX": "XNYS",
    "XBOS": "XNYS", "XCHI": "XNYS", "XCIS": "XNYS", "XPSX": "XNYS", "XNSE": "XBOM", "NSE": "XBOM", "XNGS": "XNYS",
    "XNMS": "XNYS", "XNCM": "XNYS", "GLBX": "CMES", "XCME": "CMES", "XCBT": "CMES", "XNYM": "CMES", "XCEC": "CMES",
    "KRX": "XKRX", "TSE": "XTKS", "XETRA": "XETR",
}  # fmt: skip
"""Names that the package does not know, for venues that keep the hours of one it does."""

_FIRST = "1990-01-01"
"""From when the package's own tests vouch for it, where a calendar does not say."""
_FIRST_BY_NAME = {"XKRX": "1986-01-01", "XNYS": "1970-01-01"}
"""Checked against published lists: holidays before these are not in the package, and would look like gaps."""
_LAST = "2035-12-31"
_LOADED_UNTIL = "2036-01-31"
"""What the package tells of the last days of a range can depend on the range, so a month more is loaded."""

_DAY_NS = 86_400_000_000_000


class ExchangeCalendar:
    """Implements `Calendar`. name: a MIC (`XNYS`) or another name of the exchange (`NASDAQ`), in any case.

    Knows sessions from 1990 (New York 1970, Korea 1986) or the package's first year to 2035 or its last. Half days,
    late opens and lunch breaks are as the exchange had them; what it announces later needs a newer package. Raises
    InvalidInput for an exchange that is not known, and when the package is missing.
    """

    def __init__(self, name: str) -> None:
        self._name, schedule, first_ns, last_ns = _load(name)
        labels = schedule.sessions_nanos.astype(np.int64)
        held = (labels >= first_ns) & (labels <= last_ns) & ~np.isin(labels, _closed(self._name))
        self._labels = labels[held]
        self._opens = schedule.opens_nanos.astype(np.int64)[held]
        self._closes = schedule.closes_nanos.astype(np.int64)[held]
        for date, (opens, closes) in HOURS.get(self._name, {}).items():
            row = self._labels == _ns(date)
            if opens is not None:
                self._opens[row] = _ns(f"{date}T{opens}")
            self._closes[row] = _ns(f"{date}T{closes}")
        pauses = np.stack((schedule.break_starts_nanos, schedule.break_ends_nanos), axis=1).astype(np.int64)[held]
        paused = pauses[:, 0] > np.iinfo(np.int64).min  # "not a time" is the least int64
        self._spans = joined(
            np.concatenate(
                (
                    np.stack((self._opens[~paused], self._closes[~paused]), axis=1),
                    np.stack((self._opens[paused], pauses[paused, 0]), axis=1),
                    np.stack((pauses[paused, 1], self._closes[paused]), axis=1),
                )
            )
        )
        # Where sessions open on the UTC day before their date, the last day's evening belongs to a date not known.
        opens_before = bool((self._opens < self._labels).any())
        self._covers = first_ns, last_ns if opens_before else last_ns + _DAY_NS

    @property
    def name(self) -> str:
        return self._name

    @property
    def days_are_sessions(self) -> bool:
        return True

    @property
    def covers(self) -> tuple[int, int]:
        return self._covers

    def open_spans(self, start_ns: int, end_ns: int) -> Int64s:
        self._check(start_ns, end_ns)
        return clip(self._spans, start_ns, end_ns)

    def sessions(self, start_ns: int, end_ns: int) -> Sessions:
        rows = self._rows(start_ns, end_ns)
        return Sessions(label_ns=self._labels[rows], open_ns=self._opens[rows], close_ns=self._closes[rows])

    def days(self, start_ns: int, end_ns: int) -> Int64s:
        labels: Int64s = self._labels[self._rows(start_ns, end_ns)]
        return labels

    def _rows(self, start_ns: int, end_ns: int) -> slice:
        self._check(start_ns, end_ns)
        low, high = np.searchsorted(self._labels, (start_ns, max(start_ns, end_ns)))
        return slice(int(low), int(high))

    def _check(self, start_ns: int, end_ns: int) -> None:
        low, high = self._covers
        if start_ns < low or max(start_ns, end_ns) > high:
            given = f"{format_ns(start_ns)} to {format_ns(end_ns)}"
            allowed = f"a time that the calendar of {self._name} knows: {format_ns(low)} to {format_ns(high)}"
            raise InvalidInput("range", given, allowed)


def _load(name: str) -> tuple[str, Any, int, int]:
    """The package's name of an exchange, its calendar, and midnight UTC of its first and last date."""
    try:
        import exchange_calendars
    except ImportError as error:
        allowed = "the package exchange_calendars, which calendars of exchanges need: pip install 'marketd[calendars]'"
        raise InvalidInput("calendar", name, allowed) from error
    known = exchange_calendars.get_calendar_names()
    wanted = name.strip().upper()
    canonical = exchange_calendars.resolve_alias(ALIASES.get(wanted, wanted)) if wanted in {*ALIASES, *known} else None
    if canonical is None:
        near = difflib.get_close_matches(wanted, [*known, *ALIASES], 3, 0.5)
        hint = f" (near: {', '.join(near)})" if near else ""
        allowed = f"24/7, 24/5, a venue of this server's calendars, or the MIC of an exchange that is known{hint}"
        raise InvalidInput("calendar", name, allowed)
    kind = exchange_calendars.calendar_utils.global_calendar_dispatcher._calendar_factories[canonical]
    low, high = kind.bound_min(), kind.bound_max()
    first = _FIRST_BY_NAME.get(canonical, _FIRST)
    first = first if low is None else max(first, str(low.date()))
    until = _LOADED_UNTIL if high is None else min(_LOADED_UNTIL, str(high.date()))
    calendar = exchange_calendars.get_calendar(canonical, start=first, end=until, side="left")
    return canonical, calendar, _ns(first), _ns(min(_LAST, until))


def _closed(name: str) -> Int64s:
    return np.array([_ns(date) for date in CLOSED.get(name, ())], np.int64)


def _ns(time: str) -> int:
    return int(np.datetime64(time, "ns").astype(np.int64))
