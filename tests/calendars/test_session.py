"""Venues with a week of their own: days typed by hand, and a referee that looks at a wall clock."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import PRESETS, AlwaysOpen, Calendar, Calendars, CalendarsConfig, SessionCalendar, VenueConfig
from marketd.calendars.config import EarlierHours, parse_break
from marketd.calendars.session import instant_ns
from marketd.errors import InvalidInput
from marketd.model import format_ns, parse_ns

DAY_NS = 86_400 * 10**9
WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def shown(calendar: Calendar, start: str, end: str) -> list[str]:
    spans = calendar.open_spans(parse_ns(start), parse_ns(end)).tolist()
    return [f"{format_ns(low)[5:16]} {format_ns(high)[5:16]}" for low, high in spans]


def preset(name: str) -> Calendar:
    return Calendars().named(name)


def test_fx_weeks_follow_new_york_through_both_changes_of_the_clock() -> None:
    assert shown(preset("FX"), "2025-03-02", "2025-03-22") == [
        "03-02T22:00 03-07T22:00",
        "03-09T21:00 03-14T21:00",  # 49 hours after Friday's close become 47
        "03-16T21:00 03-21T21:00",
    ]
    assert shown(preset("FX"), "2025-10-25", "2025-11-15") == [
        "10-26T21:00 10-31T21:00",
        "11-02T22:00 11-07T22:00",
        "11-09T22:00 11-14T22:00",
    ]


def test_fx_is_closed_for_christmas_and_new_year_from_evening_to_evening() -> None:
    assert shown(preset("FX"), "2025-12-22", "2026-01-03") == [
        "12-22T00:00 12-24T22:00",
        "12-25T22:00 12-26T22:00",
        "12-28T22:00 12-31T22:00",
        "01-01T22:00 01-02T22:00",
    ]


def test_a_venue_may_close_early() -> None:
    assert shown(preset("OANDA"), "2014-12-24", "2014-12-27") == [
        "12-24T00:00 12-24T19:00",
        "12-25T22:00 12-26T22:00",
    ]


def test_the_same_instrument_opens_when_its_venue_does() -> None:
    assert shown(preset("OANDA"), "2014-05-02", "2014-05-05") == ["05-02T00:00 05-02T21:00", "05-04T21:00 05-05T00:00"]
    assert shown(preset("FXCM"), "2014-05-02", "2014-05-05") == ["05-02T00:00 05-02T21:00", "05-04T19:00 05-05T00:00"]


def test_a_daily_pause_parts_the_day() -> None:
    assert shown(preset("METALS"), "2025-06-02", "2025-06-04") == [
        "06-02T00:00 06-02T21:00",
        "06-02T22:00 06-03T21:00",
        "06-03T22:00 06-04T00:00",
    ]


def test_futures_pause_an_hour_and_keep_the_holidays_of_the_exchange() -> None:
    assert shown(preset("CME"), "2025-11-26", "2025-12-01") == [
        "11-26T00:00 11-26T22:00",
        "11-26T23:00 11-27T18:00",  # Thanksgiving ends at noon in Chicago
        "11-27T23:00 11-28T18:00",
        "11-30T23:00 12-01T00:00",
    ]
    labels = preset("CME").days(parse_ns("2025-11-24"), parse_ns("2025-12-02"))
    assert [format_ns(t)[:10] for t in labels.tolist()] == [
        *("2025-11-24", "2025-11-25", "2025-11-26", "2025-11-27", "2025-11-28", "2025-12-01"),
    ]


def test_round_the_clock_venues_have_utc_days_and_others_those_with_open_time() -> None:
    start, end = parse_ns("2025-06-06"), parse_ns("2025-06-10")  # Friday to Monday
    assert [format_ns(t)[8:10] for t in AlwaysOpen().days(start, end).tolist()] == ["06", "07", "08", "09"]
    assert [format_ns(t)[8:10] for t in preset("FX").days(start, end).tolist()] == ["06", "08", "09"]
    assert [format_ns(t)[8:10] for t in preset("24/5").days(start, end).tolist()] == ["06", "09"]


def test_sessions_of_fx_go_from_evening_to_evening() -> None:
    found = preset("FX").sessions(parse_ns("2025-03-07"), parse_ns("2025-03-12"))
    rows = [
        (format_ns(label)[5:10], format_ns(opens)[5:16], format_ns(closes)[5:16])
        for label, opens, closes in zip(
            found.label_ns.tolist(), found.open_ns.tolist(), found.close_ns.tolist(), strict=True
        )
    ]
    assert rows == [
        ("03-07", "03-06T22:00", "03-07T22:00"),
        ("03-10", "03-09T21:00", "03-10T21:00"),
        ("03-11", "03-10T21:00", "03-11T21:00"),
    ]


def test_hours_of_former_years_end_at_their_date() -> None:
    venue = VenueConfig(
        time_zone="America/New_York",
        open="Sun 18:00",
        close="Fri 17:00",
        breaks=("17:00-18:00",),
        rollover="17:00",
        earlier=(EarlierHours(until="2015-09-21", open="Sun 18:00", close="Fri 17:15", breaks=("17:15-18:00",)),),
    )
    assert shown(SessionCalendar("CL", venue), "2015-09-18", "2015-09-22") == [
        "09-18T00:00 09-18T21:15",
        "09-20T22:00 09-21T21:00",
        "09-21T22:00 09-22T00:00",
    ]


def test_late_opens_and_yearly_holidays_on_leap_days() -> None:
    venue = VenueConfig(
        time_zone="Europe/London",
        open="Mon 08:00",
        close="Fri 16:30",
        breaks=("16:30-08:00",),
        holidays=("02-29",),
        late_opens={"2024-02-28": "10:00"},
        early_closes={"2024-03-01": "12:30"},
    )
    calendar = SessionCalendar("LSE", venue)
    assert shown(calendar, "2024-02-27", "2024-03-03") == [
        "02-27T08:00 02-27T16:30",
        "02-28T10:00 02-28T16:30",
        "03-01T08:00 03-01T12:30",
    ]
    assert calendar.days(parse_ns("2023-02-27"), parse_ns("2023-03-03")).size == 4


@pytest.mark.parametrize(
    ("zone", "day", "clock", "first", "last"),
    [
        ("America/New_York", "2025-03-09", "02:30", "2025-03-09T07:00:00Z", "2025-03-09T07:00:00Z"),  # skipped
        ("America/New_York", "2025-11-02", "01:30", "2025-11-02T05:30:00Z", "2025-11-02T06:30:00Z"),  # twice
        ("America/New_York", "2025-11-02", "02:00", "2025-11-02T07:00:00Z", "2025-11-02T07:00:00Z"),
        ("Australia/Lord_Howe", "2025-10-05", "02:15", "2025-10-04T15:30:00Z", "2025-10-04T15:30:00Z"),  # half an hour
        ("Europe/London", "2025-06-02", "08:00", "2025-06-02T07:00:00Z", "2025-06-02T07:00:00Z"),
        ("Pacific/Apia", "2011-12-30", "12:00", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z"),  # a day left out
    ],
)
def test_wall_times_that_are_skipped_or_come_twice(zone: str, day: str, clock: str, first: str, last: str) -> None:
    at = date.fromisoformat(day), time.fromisoformat(clock)
    assert instant_ns(ZoneInfo(zone), *at) == parse_ns(first)
    assert instant_ns(ZoneInfo(zone), *at, last=True) == parse_ns(last)


ZONES = ["America/New_York", "America/Chicago", "Europe/London", "Australia/Sydney", "Asia/Tokyo", "America/Santiago",
         "Australia/Lord_Howe", "UTC"]  # fmt: skip
clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from([0, 5, 15, 30, 59]))


@st.composite
def venues(draw: st.DrawFn) -> VenueConfig:
    return VenueConfig(
        time_zone=draw(st.sampled_from(ZONES)),
        open=f"{draw(st.sampled_from(WEEKDAYS))} {draw(clocks)}",
        close=f"{draw(st.sampled_from(WEEKDAYS))} {draw(clocks)}",
        breaks=tuple(f"{a}-{b}" for a, b in draw(st.lists(st.tuples(clocks, clocks), max_size=2)) if a != b),
    )


def changes_of(zone: str) -> list[datetime]:
    """Hours from 2007 to 2026 at whose end the offset is another one."""
    hours = [datetime(2007, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(20 * 365)]
    offsets = [h.astimezone(ZoneInfo(zone)).utcoffset() for h in hours]
    return [hours[n] for n in range(len(hours) - 1) if offsets[n] != offsets[n + 1]]


CHANGES = {zone: changes_of(zone) or [datetime(2020, 1, 1, tzinfo=UTC)] for zone in ZONES}


def open_by_the_wall_clock(venue: VenueConfig, at: datetime) -> bool | None:
    """Whether a wall clock says open; None within a time that it shows twice."""
    local = at.astimezone(ZoneInfo(venue.time_zone))
    if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset():
        return None
    minutes = local.hour * 60 + local.minute

    def of_week(text: str) -> int:
        day, clock = text.split()
        hour, minute = clock.split(":")
        return WEEKDAYS.index(day) * 1440 + int(hour) * 60 + int(minute)

    begin, end, now = of_week(venue.open), of_week(venue.close), local.weekday() * 1440 + minutes
    if begin != end and (now - begin) % 10_080 >= (end - begin) % 10_080:
        return False
    for pause in venue.breaks:
        low, high = (int(c[:2]) * 60 + int(c[3:]) for c in pause.split("-"))
        if (minutes - low) % 1440 < (high - low) % 1440:
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(venue=venues(), data=st.data())
def test_every_moment_is_open_as_the_wall_clock_says_also_around_changes(venue: VenueConfig, data: Any) -> None:
    change = data.draw(st.sampled_from(CHANGES[venue.time_zone]))
    start = change - timedelta(days=2)
    spans = SessionCalendar("X", venue).open_spans(_ns(start), _ns(start + timedelta(days=5)))
    moments = [start + timedelta(minutes=15 * n + 1) for n in range(5 * 96)]
    found = [_holds(spans, _ns(at)) for at in moments]
    expected = [open_by_the_wall_clock(venue, at) for at in moments]
    wrong = [
        (at.isoformat(), f, e) for at, f, e in zip(moments, found, expected, strict=True) if e is not None and f != e
    ]
    assert wrong == []


@settings(max_examples=80, deadline=None)
@given(venue=venues(), day=st.integers(0, 7000), length=st.integers(0, 900), cut=st.integers(0, 900 * 86_400))
def test_a_range_asked_for_in_two_pieces_is_the_range(venue: VenueConfig, day: int, length: int, cut: int) -> None:
    calendar = SessionCalendar("X", venue)
    start = parse_ns("2007-01-01") + day * DAY_NS
    end = start + length * DAY_NS
    middle = min(start + cut * 10**9, end)
    whole = calendar.open_spans(start, end)
    pieces = np.concatenate([calendar.open_spans(start, middle), calendar.open_spans(middle, end)])
    assert int((whole[:, 1] - whole[:, 0]).sum()) == int((pieces[:, 1] - pieces[:, 0]).sum())
    assert set(whole.ravel().tolist()) <= set(pieces.ravel().tolist())
    assert (whole[:, 0] < whole[:, 1]).all()
    assert (whole[1:, 0] > whole[:-1, 1]).all()


@settings(max_examples=60, deadline=None)
@given(venue=venues(), rollover=clocks, day=st.integers(0, 7000))
def test_sessions_hold_all_open_time_and_no_two_overlap(venue: VenueConfig, rollover: str, day: int) -> None:
    calendar = SessionCalendar("X", msgspec.structs.replace(venue, rollover=rollover))
    start = parse_ns("2007-01-01") + day * DAY_NS
    found = calendar.sessions(start, start + 20 * DAY_NS)
    assert (found.open_ns < found.close_ns).all()
    assert (found.open_ns[1:] >= found.close_ns[:-1]).all()
    assert (np.abs(found.open_ns - found.label_ns) < 2 * DAY_NS).all()
    low, high = start + 3 * DAY_NS, start + 17 * DAY_NS
    for opens, closes in calendar.open_spans(low, high).tolist():
        edges = [(o, c) for o, c in zip(found.open_ns.tolist(), found.close_ns.tolist(), strict=True)]
        covered = sum(min(c, closes) - max(o, opens) for o, c in edges if min(c, closes) > max(o, opens))
        assert covered == closes - opens


def test_outside_of_all_time_is_an_error() -> None:
    for calendar in (AlwaysOpen(), preset("FX")):
        with pytest.raises(InvalidInput, match="1700-01-01T00:00:00Z to 2262-01-01T00:00:00Z"):
            calendar.open_spans(-(2**63), 0)
    with pytest.raises(InvalidInput, match="CME knows: 1990-01-01"):
        preset("CME").open_spans(0, DAY_NS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"time_zone": "America/Nowhere"}, "time_zone"),
        ({"time_zone": "../etc"}, "time_zone"),
        ({"open": "Sun"}, "open"),
        ({"open": "Sunny 17:00"}, "open"),
        ({"close": "Fri 24:00"}, "close"),
        ({"breaks": ("17:00",)}, "breaks"),
        ({"breaks": ("Mon-Foo 17:00-18:00",)}, "breaks"),
        ({"rollover": "5pm"}, "rollover"),
        ({"holidays": ("2025-02-29",)}, "holidays"),
        ({"holidays": ("0000-01-01",)}, "holidays"),
        ({"holidays": ("Christmas",)}, "holidays"),
        ({"early_closes": {"12-24": "1 pm"}}, "early_closes"),
        ({"late_opens": {"13-01": "10:00"}}, "late_opens"),
        ({"days": "local"}, "days"),
    ],
)
def test_a_wrong_venue_is_refused_by_the_field(changes: dict[str, Any], field: str) -> None:
    right = {"time_zone": "America/New_York", "open": "Sun 17:00", "close": "Fri 17:00"}
    with pytest.raises(InvalidInput, match=rf"^{re.escape(field)}: "):
        VenueConfig(**(right | changes))


@given(st.text(max_size=20) | st.from_regex(r"\A[A-Z][a-z]{2,8}(-[A-Z][a-z]{2})? \d\d:\d\d-\d\d:\d\d\Z"))
def test_a_pause_is_understood_or_refused(text: str) -> None:
    try:
        days, start, end = parse_break(text)
    except InvalidInput:
        return
    assert days
    assert text.endswith(f"{start:%H:%M}-{end:%H:%M}")


def test_the_calendar_of_a_symbol_is_the_first_that_is_configured() -> None:
    venue = VenueConfig(time_zone="Europe/London", open="Sun 23:00", close="Fri 22:00", breaks=("22:00-23:00",))
    calendars = Calendars(
        CalendarsConfig(
            venues={"DESK": venue},
            symbols={"XAU*": "METALS", "XAUUSD.D": "DESK", "BTC-USD": "24/5", "X*": "FX"},
            exchanges={"IG": "DESK"},
            default="24/5",
        )
    )
    names = {
        ("XAUUSD.D", None, None): "DESK",
        ("XAUEUR", "XNYS", None): "METALS",
        ("XPTUSD", None, None): "FX",
        ("BTC-USD", "COINBASE", "crypto"): "24/5",
        ("ETH-USD", "COINBASE", "crypto"): "24/7",
        ("ETH-USD", None, "crypto"): "24/7",
        ("EURUSD", None, "fx"): "FX",
        ("GOLD", "IG", "cfd"): "DESK",
        ("AAPL", None, "equity"): "24/5",
    }
    assert {key: calendars.of(*key).name for key in names} == names
    assert calendars.of("GOLD", "IG") is calendars.named("DESK")


def test_a_calendar_cannot_lie_within_itself() -> None:
    def venue(within: str) -> VenueConfig:
        return VenueConfig(time_zone="UTC", open="Mon 00:00", close="Sat 00:00", within=within)

    with pytest.raises(InvalidInput, match="within"):
        CalendarsConfig(venues={"A": venue("A")})
    with pytest.raises(InvalidInput, match="A > B"):
        Calendars(CalendarsConfig(venues={"A": venue("B"), "B": venue("A")})).named("A")


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 10**9


def _holds(spans: np.ndarray, at_ns: int) -> bool:
    row = int(np.searchsorted(spans[:, 1], at_ns, "right"))
    return row < len(spans) and bool(spans[row, 0] <= at_ns)


def test_the_page_names_every_preset_and_field_and_its_example_is_accepted() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "calendars.md").read_text(encoding="utf-8")
    fields = {f for kind in (VenueConfig, EarlierHours, CalendarsConfig) for f in kind.__struct_fields__} - {"venues"}
    assert [name for name in (*PRESETS, "24/7", *fields) if f"`{name}`" not in page] == []
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = msgspec.convert(yaml.safe_load(example)["calendars"], CalendarsConfig)
    calendars = Calendars(config)
    assert calendars.of("CLZ5").name == "CRUDE"
    assert shown(calendars.of("GER40"), "2026-04-02", "2026-04-04") == ["04-02T00:00 04-02T21:00"]


@pytest.mark.parametrize(
    "calendar",
    [
        AlwaysOpen(),
        SessionCalendar("days", VenueConfig(time_zone="UTC", open="Mon 00:00", close="Mon 00:00")),
        SessionCalendar("dates", VenueConfig(time_zone="UTC", open="Mon 00:00", close="Mon 00:00", days="session")),
    ],
)
def test_no_day_of_a_long_range_is_lost(calendar: Calendar) -> None:
    assert len(calendar.days(1, 1 + 129 * DAY_NS)) == 129
    assert len(calendar.sessions(1, 1 + 129 * DAY_NS).label_ns) == 129
