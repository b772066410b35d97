"""Expected bars: typed counts, and a referee that walks from bar to bar."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import (
    AlwaysOpen,
    Calendar,
    Calendars,
    SessionCalendar,
    VenueConfig,
    expected_bits,
    expected_count,
    expected_starts,
)
from marketd.errors import InvalidInput
from marketd.model import INTERVALS, Interval, format_ns, parse_ns

DAY_NS = 86_400 * 10**9
MINUTE = Interval.parse("1m")


@pytest.fixture(scope="module")
def calendars() -> Calendars:
    return Calendars()


def starts(calendar: Calendar, interval: str, start: str, end: str) -> list[str]:
    found = expected_starts(calendar, Interval.parse(interval), parse_ns(start), parse_ns(end))
    return [format_ns(t)[5:16] for t in found.tolist()]


def test_minutes_of_a_half_day(calendars: Calendars) -> None:
    found = starts(calendars.named("XNYS"), "1m", "2025-11-28", "2025-11-29")
    assert len(found) == 210
    assert (found[0], found[-1]) == ("11-28T14:30", "11-28T17:59")


def test_a_bar_that_the_opening_cuts_is_expected_once(calendars: Calendars) -> None:
    new_york, tokyo = calendars.named("XNYS"), calendars.named("XTKS")
    assert starts(new_york, "1h", "2025-11-28", "2025-11-29") == [
        *("11-28T14:00", "11-28T15:00", "11-28T16:00", "11-28T17:00")
    ]
    assert starts(new_york, "4h", "2025-11-28", "2025-11-29") == ["11-28T12:00", "11-28T16:00"]
    assert starts(tokyo, "1h", "2024-06-03", "2024-06-04") == [
        *("06-03T00:00", "06-03T01:00", "06-03T02:00", "06-03T03:00", "06-03T04:00", "06-03T05:00")
    ]
    assert starts(tokyo, "4h", "2024-06-03", "2024-06-04") == ["06-03T00:00", "06-03T04:00"]
    assert starts(tokyo, "30m", "2024-06-03T02:00:00Z", "2024-06-03T04:00:00Z") == ["06-03T02:00", "06-03T03:30"]


def test_days_have_the_date_of_the_session(calendars: Calendars) -> None:
    sydney = calendars.named("XASX")
    assert starts(sydney, "1d", "2025-01-01", "2025-01-07") == ["01-02T00:00", "01-03T00:00", "01-06T00:00"]
    assert starts(calendars.named("FX"), "1d", "2025-06-06", "2025-06-09") == ["06-06T00:00", "06-08T00:00"]


def test_weeks_are_the_mondays_of_weeks_with_a_session(calendars: Calendars) -> None:
    new_york = calendars.named("XNYS")
    # The week of Monday, 10 September 2001 had one session, the 10th; all others of the month had five.
    assert starts(new_york, "1w", "2001-09-01", "2001-10-01") == [
        *("09-03T00:00", "09-10T00:00", "09-17T00:00", "09-24T00:00")
    ]
    # Good Friday's week has four days; a week is expected where it starts, although it ends after the range.
    assert starts(new_york, "1w", "2025-04-14", "2025-04-15") == ["04-14T00:00"]
    # A Monday that is a holiday is still the start of its week; FX's Sunday belongs to the week before.
    assert starts(new_york, "1w", "2025-05-26", "2025-06-02") == ["05-26T00:00"]
    assert starts(calendars.named("FX"), "1w", "2025-06-02", "2025-06-09") == ["06-02T00:00"]
    closed = SessionCalendar(
        "X", VenueConfig(time_zone="UTC", open="Mon 08:00", close="Mon 09:00", holidays=("06-09",))
    )
    assert starts(closed, "1w", "2025-06-02", "2025-06-23") == ["06-02T00:00", "06-16T00:00"]


def test_a_range_holds_the_bars_that_start_in_it(calendars: Calendars) -> None:
    new_york = calendars.named("XNYS")
    assert starts(new_york, "1m", "2025-11-28T14:29:30Z", "2025-11-28T14:31:30Z") == ["11-28T14:30", "11-28T14:31"]
    assert starts(new_york, "1m", "2025-11-28T14:30:30Z", "2025-11-28T14:31:00Z") == []
    assert starts(new_york, "1h", "2025-11-28T14:01:00Z", "2025-11-28T15:00:01Z") == ["11-28T15:00"]
    assert starts(new_york, "1m", "2025-11-28T15:00:00Z", "2025-11-28T14:00:00Z") == []


def test_the_last_week_that_is_known_in_part_is_told(calendars: Calendars) -> None:
    assert starts(calendars.named("XNYS"), "1w", "2035-12-24", "2036-01-01") == ["12-24T00:00", "12-31T00:00"]


@st.composite
def random_calendars(draw: st.DrawFn) -> Calendar:
    clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from([0, 7, 15, 30]))
    days = st.sampled_from(["Mon", "Wed", "Fri", "Sun"])
    pauses = [f"{a}-{b}" for a, b in draw(st.lists(st.tuples(clocks, clocks), max_size=3)) if a != b]
    venue = VenueConfig(
        time_zone=draw(st.sampled_from(["America/New_York", "Australia/Sydney", "UTC"])),
        open=f"{draw(days)} {draw(clocks)}",
        close=f"{draw(days)} {draw(clocks)}",
        breaks=tuple(pauses),
    )
    return SessionCalendar("random", venue)


@settings(max_examples=120, deadline=None)
@given(
    calendar=random_calendars(),
    interval=st.sampled_from([i for i in INTERVALS if 300 * 10**9 <= i.ns <= DAY_NS]),
    start=st.integers(0, 6000 * 86_400),
    length=st.integers(0, 6 * 86_400),
)
def test_a_bar_is_expected_exactly_when_it_overlaps_open_time(
    calendar: Calendar, interval: Interval, start: int, length: int
) -> None:
    start_ns = parse_ns("2008-01-01") + start * 10**9
    end_ns = start_ns + length * 10**9
    expected = []
    ts = -(-start_ns // interval.ns) * interval.ns
    while ts < end_ns:
        if len(calendar.open_spans(ts, ts + interval.ns)):
            expected.append(ts)
        ts += interval.ns
    assert expected_starts(calendar, interval, start_ns, end_ns).tolist() == expected
    assert expected_count(calendar, interval, start_ns, end_ns) == len(expected)


@settings(max_examples=80, deadline=None)
@given(
    calendar=random_calendars(),
    interval=st.sampled_from([i for i in INTERVALS if i.ns >= 60 * 10**9]),
    start=st.integers(0, 6000),
    slots=st.integers(0, 3000),
)
def test_bits_say_what_starts_say(calendar: Calendar, interval: Interval, start: int, slots: int) -> None:
    slots = min(slots, 3000 * DAY_NS // interval.ns)
    start_ns = interval.floor(parse_ns("2008-01-03") + start * DAY_NS)
    bits = expected_bits(calendar, interval, start_ns, slots)
    assert bits.shape == ((slots + 7) // 8,)
    flags = np.unpackbits(bits, bitorder="little")
    found = expected_starts(calendar, interval, start_ns, start_ns + slots * interval.ns)
    assert (start_ns + np.flatnonzero(flags) * interval.ns).tolist() == found.tolist()
    assert not bits.flags.writeable


def test_bits_begin_at_a_start_of_a_bar() -> None:
    with pytest.raises(InvalidInput, match="start_ns"):
        expected_bits(AlwaysOpen(), MINUTE, 1, 10)


def test_more_bars_than_memory_should_hold_are_refused_but_counted() -> None:
    second = Interval.parse("1s")
    start, end = parse_ns("2000-01-01"), parse_ns("2025-01-01")
    with pytest.raises(InvalidInput, match="789004800 bars of 1s"):
        expected_starts(AlwaysOpen(), second, start, end)
    assert expected_count(AlwaysOpen(), second, start, end) == 789_004_800


def test_a_year_of_minutes_takes_milliseconds(calendars: Calendars) -> None:
    new_york = calendars.named("XNYS")
    start, end = parse_ns("2024-01-01"), parse_ns("2025-01-01")
    assert len(new_york.days(start, end)) == 252
    begin = time.perf_counter()
    found = expected_starts(new_york, MINUTE, start, end)
    took = time.perf_counter() - begin
    # 252 sessions of 390 minutes, of which 2024-07-03, 11-29 and 12-24 end three hours early.
    assert len(found) == 252 * 390 - 3 * 180
    assert took < 0.05
