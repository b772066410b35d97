"""Venues that are open round the clock, or by a week of their own: crypto, FX, metals, CFDs, futures.

Daylight saving comes from the zone's rules: sessions are kept in wall-clock time, and every year is turned into UTC
once, when it is first asked for.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from marketd.calendars.config import EarlierHours, VenueConfig, parse_break, parse_clock, parse_date, parse_weekly
from marketd.calendars.contract import Calendar, Sessions
from marketd.calendars.spans import Int64s, clip, intersect, joined, no_spans, subtract
from marketd.errors import InvalidInput
from marketd.model import Interval, format_ns
from marketd.model.time import NS_PER_S

__all__ = ["AlwaysOpen", "SessionCalendar", "instant_ns"]

_DAY = Interval.parse("1d")
_ONE_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_FIRST, _YEAR_LAST = 1700, 2261


def _year_ns(year: int) -> int:
    return int(np.datetime64(f"{year}-01-01", "ns").astype(np.int64))


_ALL_TIME = _year_ns(_YEAR_FIRST), _year_ns(_YEAR_LAST + 1)


def _check(calendar: Calendar, start_ns: int, end_ns: int) -> None:
    low, high = calendar.covers
    if start_ns < low or max(start_ns, end_ns) > high:
        shown = f"{start_ns} to {end_ns} (ns)"
        allowed = f"a time that the calendar {calendar.name} knows: {format_ns(low)} to {format_ns(high)}"
        raise InvalidInput("range", shown, allowed)


class AlwaysOpen:
    """Implements `Calendar`: every second of every day. Sessions are UTC days."""

    name = "24/7"
    covers = _ALL_TIME
    days_are_sessions = False

    def open_spans(self, start_ns: int, end_ns: int) -> Int64s:
        _check(self, start_ns, end_ns)
        return no_spans() if end_ns <= start_ns else np.array([[start_ns, end_ns]], np.int64)

    def sessions(self, start_ns: int, end_ns: int) -> Sessions:
        labels = self.days(start_ns, end_ns)
        return Sessions(label_ns=labels, open_ns=labels, close_ns=labels + _DAY.ns)

    def days(self, start_ns: int, end_ns: int) -> Int64s:
        _check(self, start_ns, end_ns)
        return _DAY.starts(start_ns, end_ns)


class SessionCalendar:
    """Implements `Calendar` for a venue's week as `VenueConfig` describes it. within: the calendar that it names.

    A session is the open time of one date: from the rollover on the day before to the rollover on the day (of the
    whole local day for `00:00`). Knows all time, or what `within` knows.
    """

    def __init__(self, name: str, venue: VenueConfig, within: Calendar | None = None) -> None:
        self._name = name
        self._zone = ZoneInfo(venue.time_zone)
        self._venue = venue
        self._rollover = parse_clock("rollover", venue.rollover)
        self._within = within
        self._begins: dict[date, int] = {}
        self._hours: list[tuple[int, int, _Week]] = []
        start_ns = _ALL_TIME[0]
        for earlier in venue.earlier:
            until_ns = self._begins_ns(date.fromisoformat(earlier.until))
            self._hours.append((start_ns, until_ns, _Week(earlier)))
            start_ns = until_ns
        self._hours.append((start_ns, _ALL_TIME[1], _Week(venue)))
        self._years: dict[int, Int64s] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def days_are_sessions(self) -> bool:
        return self._venue.days == "session"

    @property
    def covers(self) -> tuple[int, int]:
        return _ALL_TIME if self._within is None else self._within.covers

    def open_spans(self, start_ns: int, end_ns: int) -> Int64s:
        _check(self, start_ns, end_ns)
        if end_ns <= start_ns:
            return no_spans()
        years = range(_date_of(start_ns).year, _date_of(end_ns - 1).year + 1)
        spans = clip(joined(np.concatenate([self._year(y) for y in years])), start_ns, end_ns)
        return spans if self._within is None else intersect(spans, self._within.open_spans(start_ns, end_ns))

    def sessions(self, start_ns: int, end_ns: int) -> Sessions:
        _check(self, start_ns, end_ns)
        labels = _DAY.starts(start_ns, end_ns)
        if not len(labels):
            return Sessions(label_ns=labels, open_ns=labels, close_ns=labels)
        first = _date_of(int(labels[0]))
        edges = np.array([self._begins_ns(first + n * _ONE_DAY) for n in range(len(labels) + 1)], np.int64)
        low, high = self.covers
        spans = self.open_spans(max(int(edges[0]), low), min(int(edges[-1]), high))
        begin = np.searchsorted(spans[:, 1], edges[:-1], "right")
        end = np.searchsorted(spans[:, 0], edges[1:], "left")
        rows = np.flatnonzero(end > begin)
        return Sessions(
            label_ns=labels[rows],
            open_ns=np.maximum(spans[begin[rows], 0], edges[rows]),
            close_ns=np.minimum(spans[end[rows] - 1, 1], edges[rows + 1]),
        )

    def days(self, start_ns: int, end_ns: int) -> Int64s:
        if self._venue.days == "session":
            return self.sessions(start_ns, end_ns).label_ns
        first, beyond = _DAY.ceil(start_ns), _DAY.ceil(max(start_ns, end_ns))
        labels = _DAY.starts(first, beyond)
        spans = self.open_spans(first, beyond)
        begin = np.searchsorted(spans[:, 1], labels, "right")
        end = np.searchsorted(spans[:, 0], labels + _DAY.ns, "left")
        found: Int64s = labels[end > begin]
        return found

    def _begins_ns(self, day: date) -> int:
        """When the session of a date begins, had it no other limits."""
        known = self._begins.get(day)
        if known is None:
            on = day if self._rollover == time() else day - _ONE_DAY
            known = self._begins[day] = instant_ns(self._zone, on, self._rollover)
        return known

    def _year(self, year: int) -> Int64s:
        """Open time of a UTC year, without regard to `within`. Two threads may compute the same one: no harm."""
        known = self._years.get(year)
        if known is not None:
            return known
        start_ns, end_ns = _year_ns(year), _year_ns(year + 1)
        days = [date(year, 1, 1) + n * _ONE_DAY for n in range(-8, 374)]
        parts = [
            clip(week.spans(self._zone, days), max(low, start_ns), min(high, end_ns))
            for low, high, week in self._hours
            if low < end_ns and high > start_ns
        ]
        spans = subtract(np.concatenate(parts), self._exceptions(year))
        self._years[year] = spans
        return spans

    def _exceptions(self, year: int) -> Int64s:
        """Holidays, early closes and late opens around a year: time that is closed."""
        venue = self._venue
        closed = [(self._begins_ns(d), self._begins_ns(d + _ONE_DAY)) for h in venue.holidays for d in _dates(h, year)]
        for when, clock in venue.early_closes.items():
            closed += [(self._at(d, clock, last=True), self._begins_ns(d + _ONE_DAY)) for d in _dates(when, year)]
        for when, clock in venue.late_opens.items():
            closed += [(self._begins_ns(d), self._at(d, clock, last=False)) for d in _dates(when, year)]
        return joined(np.array(closed, np.int64).reshape(-1, 2))

    def _at(self, day: date, clock: str, *, last: bool) -> int:
        """A time of day within the session of a date: of the day before, if it is at or after the rollover."""
        at = parse_clock("time", clock)
        evening = self._rollover != time() and at >= self._rollover
        return instant_ns(self._zone, day - _ONE_DAY if evening else day, at, last=last)


class _Week:
    """The regular week of a venue."""

    def __init__(self, hours: VenueConfig | EarlierHours) -> None:
        self._open_day, self._open = parse_weekly("open", hours.open)
        self._close_day, self._close = parse_weekly("close", hours.close)
        days = (self._close_day - self._open_day) % 7
        self._length = timedelta(days=7 if days == 0 and self._close <= self._open else days)
        self._breaks = [parse_break(b) for b in hours.breaks]

    def spans(self, zone: ZoneInfo, days: list[date]) -> Int64s:
        """Open time of the weeks that begin on one of these days."""
        weeks = [
            (instant_ns(zone, d, self._open), instant_ns(zone, d + self._length, self._close, last=True))
            for d in days
            if d.weekday() == self._open_day
        ]
        pauses = [
            (instant_ns(zone, d, start), instant_ns(zone, d if end > start else d + _ONE_DAY, end, last=True))
            for on, start, end in self._breaks
            for d in days
            if d.weekday() in on
        ]
        open_time = joined(np.array(weeks, np.int64).reshape(-1, 2))
        return subtract(open_time, joined(np.array(pauses, np.int64).reshape(-1, 2)))


def instant_ns(zone: ZoneInfo, day: date, clock: time, *, last: bool = False) -> int:
    """The moment at which clocks in `zone` show this. One that is skipped: the moment of the jump. One that comes
    twice: the first, or with `last` the second."""
    wall = datetime.combine(day, clock)
    first, second = (_utc(wall, zone, fold) for fold in (0, 1))
    if first <= second:
        return (second if last else first) * NS_PER_S
    # Skipped: `second` counts with the offset after the jump, `first` with the one before; the jump lies between.
    low, high = second, first
    before = _offset(zone, low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    return high * NS_PER_S


def _utc(wall: datetime, zone: ZoneInfo, fold: int) -> int:
    offset = wall.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None
    return (wall.replace(tzinfo=UTC) - offset - _EPOCH) // timedelta(seconds=1)


def _offset(zone: ZoneInfo, seconds: int) -> timedelta | None:
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone).utcoffset()


def _date_of(time_ns: int) -> date:
    return (_EPOCH + timedelta(seconds=time_ns // NS_PER_S)).date()


def _dates(text: str, year: int) -> list[date]:
    """The dates that a holiday's text means in a year and its neighbours."""
    parsed = parse_date(text)
    assert parsed is not None
    fixed, month, day = parsed
    leap_only = (month, day) == (2, 29)
    years = [y for y in (year - 1, year, year + 1) if fixed in (None, y)]
    return [date(y, month, day) for y in years if not leap_only or _is_leap(y)]


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
