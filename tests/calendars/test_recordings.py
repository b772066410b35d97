"""Calendars against recorded bars: no closed time is expected, and what is missing is what really is.

The holes are typed from the files (each is where the stamps jump), not computed with the code under test.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from marketd.calendars import AlwaysOpen, Calendar, Calendars, SessionCalendar, VenueConfig, expected_starts
from marketd.continuity.gaps import find_missing
from marketd.model import Interval, format_ns, parse_ns

NEW_YORK = ZoneInfo("America/New_York")


def stamps(path: Path, of: Callable[[list[str]], int], delimiter: str = ",") -> np.ndarray:
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        return np.array([of(row) for row in list(csv.reader(lines, delimiter=delimiter))[1:]], np.int64)


def iso(row: list[str]) -> int:
    return parse_ns(row[0])


def local(row: list[str], form: str) -> int:
    text = " ".join(row[:2]) if form.startswith("%d") else row[0]
    return int(datetime.strptime(text, form).replace(tzinfo=NEW_YORK).timestamp()) * 10**9


def holes(calendar: Calendar, interval: str, present: np.ndarray) -> list[tuple[str, int]]:
    """(first missing bar, how many) between the first and the last bar that is there."""
    length = Interval.parse(interval)
    expected = expected_starts(calendar, length, int(present[0]), int(present[-1]) + 1)
    return [(format_ns(s.start_ns)[:16], s.count) for s in find_missing(expected, present, (), length)]


def outside(calendar: Calendar, interval: str, present: np.ndarray) -> list[str]:
    """The bars that are there although none is expected."""
    expected = expected_starts(calendar, Interval.parse(interval), int(present[0]), int(present[-1]) + 1)
    return [format_ns(t)[:16] for t in present[~np.isin(present, expected)].tolist()]


def test_four_hours_of_bitcoin_have_exactly_their_three_holes(data_folder: Path) -> None:
    path = data_folder / "bars_minute" / "ta4j_Coinbase-BTC-USD-PT4H-20160518_20251028.csv.gz"
    present = stamps(path, lambda row: int(row[0]) * 10**9)
    assert len(present) == 20_695
    assert holes(AlwaysOpen(), "4h", present) == [
        ("2017-02-28T20:00", 1),
        ("2018-08-10T04:00", 3),
        ("2025-10-25T16:00", 1),
    ]
    assert outside(AlwaysOpen(), "4h", present) == []


def test_eleven_years_of_hourly_euros_miss_only_what_the_venue_did_not_send(data_folder: Path) -> None:
    present = stamps(data_folder / "quotes_fx" / "oanda_eurusd_hour.csv.gz", iso)
    assert len(present) == 74_439
    assert holes(Calendars().named("OANDA"), "1h", present) == [
        ("2007-01-08T23:00", 22),
        ("2012-12-25T22:00", 15),  # opened late after the holidays of 2012 …
        ("2013-01-01T22:00", 7),
        ("2015-08-20T19:00", 9),
        ("2016-12-11T22:00", 103),  # a week
        ("2016-12-25T22:00", 25),  # … and a day late, Christmas 2016 being a Sunday
        ("2016-12-30T19:00", 28),  # … and New Year too
        ("2017-03-31T04:00", 17),  # Fridays that stop after three hours
        ("2017-10-06T04:00", 17),
        ("2017-12-25T22:00", 2),
        ("2018-01-01T22:00", 2),
        ("2018-06-08T04:00", 17),
        ("2018-10-28T21:00", 3),
        ("2018-12-25T22:00", 26),
    ]


def test_at_no_change_of_the_clock_is_a_weekend_taken_for_a_hole_or_a_bar_for_closed(data_folder: Path) -> None:
    present = stamps(data_folder / "quotes_fx" / "oanda_eurusd_hour.csv.gz", iso)
    calendar = Calendars().named("OANDA")
    changes = 0
    for year in range(2007, 2019):
        for month, nth in ((3, 2), (11, 1)):
            first = datetime(year, month, 1, tzinfo=UTC)
            sunday = first + timedelta(days=(6 - first.weekday()) % 7 + 7 * (nth - 1))
            low, high = (int((sunday + timedelta(days=d)).timestamp()) * 10**9 for d in (-3, 4))
            expected = expected_starts(calendar, Interval.parse("1h"), low, high)
            assert expected.tolist() == present[(present >= low) & (present < high)].tolist()
            changes += 1
    assert changes == 24


def test_days_of_euros(data_folder: Path) -> None:
    present = stamps(data_folder / "quotes_fx" / "oanda_eurusd_daily.csv.gz", iso)
    hours = stamps(data_folder / "quotes_fx" / "oanda_eurusd_hour.csv.gz", iso)
    assert present.tolist() == np.unique(hours // 86_400_000_000_000 * 86_400_000_000_000).tolist()
    assert [(day[:10], n) for day, n in holes(Calendars().named("OANDA"), "1d", present)] == [
        ("2012-12-25", 1),
        ("2013-01-01", 1),
        ("2016-12-11", 5),
        ("2016-12-25", 1),
        ("2017-01-01", 1),
        ("2017-12-25", 1),
        ("2018-01-01", 1),
        ("2018-10-28", 1),
        ("2018-12-25", 2),
    ]


@pytest.mark.parametrize(
    ("file", "venue"),
    [
        ("oanda_eurusd_minute_20140501-20140515", "OANDA"),
        ("fxcm_eurusd_minute_20140501-20140515", "FXCM"),
        ("oanda_xauusd_minute_20140501-20140509", "GOLD"),
    ],
)
def test_minutes_of_a_venue_lie_within_its_session(data_folder: Path, file: str, venue: str) -> None:
    # In 2014 the pause for gold was 17:15 to 18:00, and none on Friday.
    gold = VenueConfig(
        time_zone="America/New_York", open="Sun 18:00", close="Fri 17:00", breaks=("Mon-Thu 17:15-18:00",)
    )
    calendar = SessionCalendar("GOLD", gold) if venue == "GOLD" else Calendars().named(venue)
    present = stamps(data_folder / "quotes_fx" / f"{file}.csv.gz", iso)
    assert outside(calendar, "1m", present) == []
    # A minute without a tick has no bar; closed time would be a long hole.
    assert max(count for _, count in holes(calendar, "1m", present)) < 15


def test_crude_oil_is_closed_at_weekends_and_in_the_evening_pause(data_folder: Path) -> None:
    path = data_folder / "bars_minute" / "optionstratlib_CL_1m_20080101-20080214.csv.gz"
    present = stamps(path, lambda row: local(row, "%d/%m/%Y %H:%M:%S"), ";")
    venue = VenueConfig(
        time_zone="America/New_York", open="Sun 18:00", close="Fri 17:15", breaks=("17:15-18:00",), days="session"
    )
    calendar = SessionCalendar("CL", venue)
    assert len(present) == 35_648
    assert outside(calendar, "1m", present) == []
    long = [(start, count) for start, count in holes(calendar, "1m", present) if count >= 15]
    # Minutes without trade, most of them on Martin Luther King day; no weekend and no evening is among them.
    assert all(count < 240 for _, count in long)
    assert ("2008-01-22T19:30", 165) in long
    wall = [datetime.fromtimestamp(parse_ns(start + ":00Z") // 10**9, NEW_YORK) for start, _ in long]
    assert all(w.weekday() != 5 and not (w.hour == 17 and w.minute >= 15) for w in wall)


def test_minutes_of_the_index_are_the_sessions_of_new_york_and_the_closing_print(data_folder: Path) -> None:
    path = data_folder / "bars_minute" / "mplfinance_SP500_NOV2019_IDay.csv.gz"
    present = stamps(path, lambda row: local(row, "%m/%d/%Y %H:%M"))
    new_york = Calendars().named("XNYS")
    assert holes(new_york, "1m", present) == []
    assert outside(new_york, "1m", present) == ["2019-11-05T21:00", "2019-11-06T21:00", "2019-11-07T21:00"]


def test_ten_minutes_of_spy_on_both_sides_of_the_change_of_the_clock(data_folder: Path) -> None:
    path = data_folder / "bars_minute" / "lean_spy_10_min_20150303-19.csv.gz"
    ends = stamps(path, lambda row: local(row, "%m/%d/%Y %I:%M:%S %p"))
    present = ends - Interval.parse("10m").ns
    new_york = Calendars().named("XNYS")
    assert len(present) == 500
    assert outside(new_york, "10m", present) == []
    assert holes(new_york, "10m", present) == []


def test_minutes_of_an_indian_share_go_on_into_the_closing_session(data_folder: Path) -> None:
    present = stamps(data_folder / "bars_minute" / "nse_yesbank_1m_20190709-11.csv.gz", iso)
    india = Calendars().named("NSE")
    assert all(t[11:] >= "10:00" for t in outside(india, "1m", present))
    assert holes(india, "1m", present) == []


def test_days_of_a_share_are_the_sessions_of_its_exchange(data_folder: Path) -> None:
    path = data_folder / "bars_daily" / "mplfinance_yahoofinance-AAPL-20040819-20180120.csv.gz"
    present = stamps(path, iso)
    assert holes(Calendars().named("XNYS"), "1d", present) == []
    assert outside(Calendars().named("XNYS"), "1d", present) == []


def test_weeks_of_the_index(data_folder: Path) -> None:
    path = data_folder / "bars_daily" / "ta4j_YahooFinance-SP500-PT7D-19500103_20260310.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        ends = [int(row["end_ms"]) for row in csv.DictReader(lines)]
    week = Interval.parse("1w")
    # A stamp is the midnight of New York that ends the week's last day or begins its next: either lies after Monday.
    mondays = np.unique([int(week.floor(ms * 10**6 - 2 * 86_400 * 10**9)) for ms in ends])
    mondays = mondays[mondays >= parse_ns("1970-01-05")]
    assert holes(Calendars().named("XNYS"), "1w", mondays) == []
    assert outside(Calendars().named("XNYS"), "1w", mondays) == []
