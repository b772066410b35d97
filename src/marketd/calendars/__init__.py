"""Which bars are expected: exchanges, round-the-clock venues, FX and CFD sessions. Pure.

`Calendars` finds a symbol's calendar, `expected_starts` and `expected_bits` say which bars it expects, `dates_of` to
which date a bar counts. What each kind of venue means for daily and weekly bars is written in ``docs/calendars.md``.
"""

from marketd.calendars.config import PRESETS, CalendarsConfig, EarlierHours, VenueConfig
from marketd.calendars.contract import Calendar, Sessions
from marketd.calendars.dates import date_begins, dates_of
from marketd.calendars.exchange import ExchangeCalendar
from marketd.calendars.expected import expected_bits, expected_count, expected_starts
from marketd.calendars.registry import Calendars
from marketd.calendars.session import AlwaysOpen, SessionCalendar

__all__ = [
    "PRESETS",
    "AlwaysOpen",
    "Calendar",
    "Calendars",
    "CalendarsConfig",
    "EarlierHours",
    "ExchangeCalendar",
    "SessionCalendar",
    "Sessions",
    "VenueConfig",
    "date_begins",
    "dates_of",
    "expected_bits",
    "expected_count",
    "expected_starts",
]
