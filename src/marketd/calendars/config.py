"""Which calendar a symbol follows, and venues of one's own. `PRESETS` are the venues that need no configuration.

A new venue is a few lines of configuration; one that many people need is a line in `PRESETS`.
"""

from __future__ import annotations

import re
from datetime import date, time
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from marketd.errors import InvalidInput

__all__ = [
    "PRESETS",
    "CalendarsConfig",
    "EarlierHours",
    "VenueConfig",
    "parse_break",
    "parse_clock",
    "parse_date",
    "parse_weekly",
]

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CLOCK = r"([01]\d|2[0-3]):([0-5]\d)"
_WEEKLY = re.compile(rf"([A-Za-z]{{3,9}}) {_CLOCK}", re.ASCII)
_BREAK = re.compile(rf"(?:([A-Za-z]{{3,9}})(?:-([A-Za-z]{{3,9}}))? )?{_CLOCK}-{_CLOCK}", re.ASCII)
_HOLIDAY = re.compile(r"(?:(\d{4})-)?(\d{2})-(\d{2})", re.ASCII)
_LEAP_YEAR = 2000

Break = tuple[frozenset[int], time, time]


class EarlierHours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hours that a venue had for sessions before the date `until`. Fields as in `VenueConfig`."""

    until: str
    open: str
    close: str
    breaks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if parse_date(self.until) is None or len(self.until) != 10:
            raise InvalidInput("until", self.until, "a date such as 2015-09-21")
        _check_hours(self.open, self.close, self.breaks)


class VenueConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The week of a venue that is not an exchange of its own calendar: FX, metals, CFDs, futures.

    All times are wall-clock times of `time_zone`. One that does not exist on a day (clocks go forward) is the moment
    the clocks jump; one that exists twice opens at its first and closes at its second.

    open, close: of the week, `Sun 17:00` and `Fri 17:00`. breaks: pauses of every day, `17:00-18:00`, or of some,
    `Mon-Thu 17:00-18:00`; one that ends at or before its start ends on the next day. rollover: when a session's date
    begins, on the day before; `00:00` for the day itself. holidays: dates of sessions that do not take place,
    `2026-12-25`, or `12-25` for every year. early_closes, late_opens: date of a session to the time of day at which
    it ends or begins. days: whether daily bars are of UTC days (`utc`) or of sessions (`session`). within: a
    calendar outside of whose open time this venue is closed, too (`CMES`). earlier: hours of former years.
    """

    time_zone: str
    open: str
    close: str
    breaks: tuple[str, ...] = ()
    rollover: str = "00:00"
    holidays: tuple[str, ...] = ()
    early_closes: dict[str, str] = {}
    late_opens: dict[str, str] = {}
    days: Literal["utc", "session"] = "utc"
    within: str | None = None
    earlier: tuple[EarlierHours, ...] = ()

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.time_zone)
        except (KeyError, OSError, ValueError) as error:
            raise InvalidInput("time_zone", self.time_zone, "an IANA zone such as America/New_York") from error
        _check_hours(self.open, self.close, self.breaks)
        parse_clock("rollover", self.rollover)
        for holiday in self.holidays:
            if parse_date(holiday) is None:
                raise InvalidInput("holidays", holiday, "a date such as 2026-12-25, or 12-25 for every year")
        for field in ("early_closes", "late_opens"):
            for day, clock in getattr(self, field).items():
                if parse_date(day) is None:
                    raise InvalidInput(field, day, "a date such as 2026-12-24, or 12-24 for every year")
                parse_clock(field, clock)
        if self.days not in ("utc", "session"):
            raise InvalidInput("days", self.days, "utc or session")
        untils = [e.until for e in self.earlier]
        if untils != sorted(set(untils)):
            raise InvalidInput("earlier", untils, "dates `until` that ascend")


class CalendarsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calendar a symbol follows: the first that applies of symbols, exchanges, asset_classes, default.

    venues: definitions by name; one named like a preset or an exchange takes its place. symbols: symbol, or its
    beginning followed by `*` (the longest wins), to a calendar's name. exchanges, asset_classes: as in the universe,
    to a calendar's name; an exchange that is not named here is its own calendar. default: for what has neither.
    """

    venues: dict[str, VenueConfig] = {}
    symbols: dict[str, str] = {}
    exchanges: dict[str, str] = {}
    asset_classes: dict[str, str] = msgspec.field(
        default_factory=lambda: {"crypto": "24/7", "fx": "FX", "metal": "METALS"}
    )
    default: str = "24/7"

    def __post_init__(self) -> None:
        for field in ("venues", "symbols", "exchanges", "asset_classes"):
            for key, value in getattr(self, field).items():
                if not key.strip() or not (field == "venues" or (isinstance(value, str) and value.strip())):
                    raise InvalidInput(field, {key: value}, "names that are not empty")
        for pattern in self.symbols:
            if "*" in pattern[:-1]:
                raise InvalidInput("symbols", pattern, "a symbol, or the beginning of one followed by *")
        for name, venue in self.venues.items():
            if venue.within == name:
                raise InvalidInput("within", venue.within, "another calendar")
        if not self.default.strip():
            raise InvalidInput("default", self.default, "the name of a calendar")


def parse_clock(field: str, text: str) -> time:
    """`17:00`. Raises InvalidInput naming the field."""
    match = re.fullmatch(_CLOCK, text, re.ASCII)
    if match is None:
        raise InvalidInput(field, text, "a time of day such as 17:00")
    return time(int(match[1]), int(match[2]))


def parse_weekly(field: str, text: str) -> tuple[int, time]:
    """`Sun 17:00`: (weekday, time), Monday is 0. Raises InvalidInput naming the field."""
    match = _WEEKLY.fullmatch(text)
    day = _weekday(match[1]) if match else None
    if match is None or day is None:
        raise InvalidInput(field, text, "a day and a time such as Sun 17:00")
    return day, time(int(match[2]), int(match[3]))


def parse_break(text: str) -> Break:
    """`17:00-18:00` or `Mon-Thu 17:00-18:00`: (weekdays on which it begins, start, end). Raises InvalidInput."""
    match = _BREAK.fullmatch(text)
    first = _weekday(match[1]) if match and match[1] else None
    last = _weekday(match[2]) if match and match[2] else first
    if match is None or (match[1] and first is None) or (match[2] and last is None):
        raise InvalidInput("breaks", text, "a pause such as 17:00-18:00 or Mon-Thu 17:00-18:00")
    days = frozenset(range(7))
    if first is not None and last is not None:
        days = frozenset((first + k) % 7 for k in range((last - first) % 7 + 1))
    return days, time(int(match[3]), int(match[4])), time(int(match[5]), int(match[6]))


def _weekday(text: str) -> int | None:
    return next((n for n, name in enumerate(_WEEKDAYS) if name.startswith(text.lower())), None)


def parse_date(text: str) -> tuple[int | None, int, int] | None:
    """(year or None for every year, month, day)."""
    match = _HOLIDAY.fullmatch(text)
    if match is None:
        return None
    year = int(match[1]) if match[1] else None
    try:
        date(_LEAP_YEAR if year is None else year, int(match[2]), int(match[3]))
    except ValueError:
        return None
    return year, int(match[2]), int(match[3])


def _check_hours(opens: str, closes: str, breaks: tuple[str, ...]) -> None:
    parse_weekly("open", opens)
    parse_weekly("close", closes)
    for pause in breaks:
        parse_break(pause)


_NEW_YORK = "America/New_York"
_FX: dict[str, Any] = {
    "time_zone": _NEW_YORK,
    "close": "Fri 17:00",
    "rollover": "17:00",
    "holidays": ("12-25", "01-01"),
}

PRESETS: dict[str, VenueConfig] = {
    "24/5": VenueConfig(time_zone="UTC", open="Mon 00:00", close="Sat 00:00"),
    "FX": VenueConfig(open="Sun 17:00", **_FX),
    "OANDA": VenueConfig(open="Sun 17:00", early_closes={"12-24": "14:00", "12-31": "14:00"}, **_FX),
    "FXCM": VenueConfig(open="Sun 15:00", **_FX),
    "METALS": VenueConfig(
        time_zone=_NEW_YORK,
        open="Sun 18:00",
        close="Fri 17:00",
        breaks=("17:00-18:00",),
        rollover="17:00",
        holidays=("12-25", "01-01"),
    ),
    "CME": VenueConfig(
        time_zone="America/Chicago",
        open="Sun 17:00",
        close="Fri 16:00",
        breaks=("16:00-17:00",),
        rollover="17:00",
        days="session",
        within="CMES",
    ),
}
