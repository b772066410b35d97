"""To which date a bar counts: sessions typed by hand from the published hours of the venues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import AlwaysOpen, Calendar, Calendars, SessionCalendar, VenueConfig, date_begins, dates_of
from marketd.model import INTERVALS, Interval, format_ns, parse_ns

DAY_NS = 86_400 * 10**9
MINUTE = Interval.parse("1m")


def dates(calendar: Calendar, interval: str, *times: str) -> list[str]:
    starts = np.array([parse_ns(t + "Z") for t in times], np.int64)
    return [format_ns(t)[:10] for t in dates_of(calendar, Interval.parse(interval), starts).tolist()]


def test_sydney_opens_on_the_utc_day_before_in_summer_and_on_the_day_in_winter() -> None:
    """10:00 to 16:00: of 3 April 2025 from 23:00 UTC the day before; clocks go back on the 6th."""
    sydney = Calendars().named("XASX")
    times = [
        "2025-04-02T22:59", "2025-04-02T23:00", "2025-04-03T04:59", "2025-04-03T05:10", "2025-04-03T22:59",
        "2025-04-03T23:00", "2025-04-04T04:59", "2025-04-06T23:00", "2025-04-06T23:59", "2025-04-07T00:00",
        "2025-04-07T05:59",
    ]  # fmt: skip
    assert dates(sydney, "1m", *times) == [
        "2025-04-02", "2025-04-03", "2025-04-03", "2025-04-03", "2025-04-03",
        "2025-04-04", "2025-04-04", "2025-04-06", "2025-04-06", "2025-04-07",
        "2025-04-07",
    ]  # fmt: skip
    # bars that hold the opening: of four hours from 20:00, of one from 23:00
    assert dates(sydney, "4h", "2025-04-01T20:00", "2025-04-02T16:00", "2025-04-02T20:00") == [
        "2025-04-02",
        "2025-04-02",
        "2025-04-03",
    ]
    assert dates(sydney, "1h", "2025-04-02T22:00", "2025-04-02T23:00") == ["2025-04-02", "2025-04-03"]


def test_futures_of_chicago_begin_in_the_evening_before() -> None:
    """17:00 to 16:00 Chicago: 22:00 to 21:00 UTC in summer, 23:00 to 22:00 in winter; Sunday evening is Monday's."""
    cme = Calendars().named("CME")
    assert dates(cme, "1m", "2025-06-01T21:59", "2025-06-01T22:00", "2025-06-02T20:59", "2025-06-02T21:59") == [
        "2025-06-01",
        *["2025-06-02"] * 3,
    ]
    assert dates(cme, "1m", "2025-06-02T22:00", "2025-06-06T20:59", "2025-06-06T22:30", "2025-06-07T12:00") == [
        *("2025-06-03", "2025-06-06", "2025-06-06", "2025-06-07"),
    ]
    # Thanksgiving ends at noon in Chicago; Friday's session begins at 17:00 as ever
    assert dates(cme, "1h", "2025-11-26T22:00", "2025-11-26T23:00", "2025-11-27T17:00", "2025-11-27T23:00") == [
        *("2025-11-26", "2025-11-27", "2025-11-27", "2025-11-28"),
    ]


def test_a_session_that_goes_on_after_midnight_keeps_what_trades_then() -> None:
    """Midnight to midnight in Los Angeles: 08:00 to 08:00 UTC in winter."""
    venue = SessionCalendar(
        "west", VenueConfig(time_zone="America/Los_Angeles", open="Mon 00:00", close="Sat 00:00", days="session")
    )
    times = ["2025-01-14T08:00", "2025-01-15T00:00", "2025-01-15T07:59", "2025-01-15T08:00", "2025-01-18T07:59"]
    assert dates(venue, "1m", *times) == ["2025-01-14", "2025-01-14", "2025-01-14", "2025-01-15", "2025-01-17"]
    # of an hour that holds the end of one session and the beginning of the next, the first has it
    odd = SessionCalendar(
        "odd", VenueConfig(time_zone="UTC", open="Mon 00:30", close="Mon 00:30", rollover="00:30", days="session")
    )
    assert dates(odd, "1m", "2025-01-15T00:29", "2025-01-15T00:30") == ["2025-01-15", "2025-01-16"]
    assert dates(odd, "1h", "2025-01-15T00:00", "2025-01-15T01:00") == ["2025-01-15", "2025-01-16"]


@pytest.mark.parametrize("name", ["24/7", "FX", "METALS", "XNYS", "XTKS"])
def test_elsewhere_dates_are_utc_days(name: str) -> None:
    times = ["2025-01-14T00:00", "2025-01-14T23:59", "2025-01-15T00:00"]
    assert dates(Calendars().named(name), "1m", *times) == ["2025-01-14", "2025-01-14", "2025-01-15"]


def test_beyond_what_the_calendar_knows_dates_are_utc_days() -> None:
    sydney = Calendars().named("XASX")
    assert dates(sydney, "1m", "1850-01-14T23:30", "2200-01-14T23:30") == ["1850-01-14", "2200-01-14"]
    low, high = sydney.covers
    for edge in (low, high):
        assert len(date_begins(sydney, MINUTE, edge - 3 * DAY_NS, edge + 3 * DAY_NS)) == 6


CALENDARS = [AlwaysOpen(), *(Calendars().named(name) for name in ("XASX", "CME", "XNYS", "FX"))]


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(CALENDARS),
    st.sampled_from([i for i in INTERVALS if i.ns <= 3_600 * 10**9]),
    st.integers(parse_ns("2000-01-01"), parse_ns("2030-01-01")),
    st.integers(1, 20),
)
def test_begins_and_dates_agree_whatever_range_is_asked(
    calendar: Calendar, interval: Interval, start_ns: int, days: int
) -> None:
    first_ns = start_ns - start_ns % DAY_NS
    begins = date_begins(calendar, interval, first_ns, first_ns + days * DAY_NS)
    assert len(begins) == days
    assert (np.diff(begins) > 0).all()
    labels = [first_ns + n * DAY_NS for n in range(days)]
    assert dates_of(calendar, interval, begins).tolist() == labels
    assert dates_of(calendar, interval, begins - interval.ns).tolist() == [label - DAY_NS for label in labels]
    one = [date_begins(calendar, interval, label, label + 1).tolist() for label in labels]
    assert [[begin] for begin in begins.tolist()] == one
    # every session's own minutes have its date
    sessions = calendar.sessions(first_ns, first_ns + days * DAY_NS)
    if calendar.days_are_sessions and interval is MINUTE:
        assert (dates_of(calendar, interval, sessions.open_ns) == sessions.label_ns).all()
        assert (dates_of(calendar, interval, sessions.close_ns - interval.ns) == sessions.label_ns).all()
