"""How files of bars are understood: expectations typed by hand."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files_of_bars import AS_OF_NS, Read, minutes, write

from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA
from marketd.sources.files import FILE_REASONS, FileOptions, understand

NEW_YORK = "America/New_York"


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


def test_a_plain_file_becomes_bars(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-02T14:30:00Z", "2020-01-02T14:31:00Z", "2020-01-02T14:32:00Z"))
    found = Read(path)
    assert found.table.schema.equals(BAR_SCHEMA)
    assert found.bars[1] == {
        "symbol": "AAPL", "interval": "1m", "side": "trade", "ts": ns("2020-01-02T14:31"), "open": 3.0, "high": 5.0,
        "low": 2.0, "close": 4.0, "volume": 20.0, "vwap": None, "trades": None, "provider": "file",
        "status": "backfill", "as_of": AS_OF_NS,
    }  # fmt: skip
    assert (found.rows, found.refused, found.plan.order) == (3, {}, "ascending")


@pytest.mark.parametrize(
    ("stamp", "options"),
    [
        ("2020-01-02 09:30", {"timezone": NEW_YORK}),
        ("2020-01-02T09:30:00.000", {"timezone": NEW_YORK}),
        ("2020-01-02 09:30:00-05:00", {}),
        ("2020-01-02 20:00:00+0530", {}),
        ("2020-01-02T14:30Z", {}),
        ("20200102 143000", {"timezone": "UTC"}),
        ("20200102 1430", {"timezone": "UTC"}),
        ("202001021430", {"timezone": "UTC"}),
        ("20200102143000", {"timezone": "UTC"}),
        ("2020.01.02 14:30", {"timezone": "UTC"}),
        ("1/2/2020 9:30", {"timezone": NEW_YORK, "date_format": "MM/DD/YYYY"}),
        ("2/1/2020 9:30", {"timezone": NEW_YORK, "date_format": "DD/MM/YYYY"}),
        ("02.01.2020 14:30:00.000 GMT+0000", {"date_format": "DD/MM/YYYY"}),
        ("1/2/2020 9:30:00 AM", {"timezone": NEW_YORK, "date_format": "MM/DD/YYYY"}),
        ("1/2/2020 2:30 p.m.", {"timezone": "UTC", "date_format": "MM/DD/YYYY"}),
        ("02-Jan-2020 14:30", {"timezone": "UTC"}),
        ("2 January 2020 14:30", {"timezone": "UTC"}),
        ("Jan 2 2020 14:30", {"timezone": "UTC"}),
        ("1577975400", {}),
        ("1577975400.000", {}),
        ("1577975400000", {}),
        ("1577975400000000", {}),
        ("1577975400000000000", {}),
        ("02/01/20 14h30", {"timezone": "UTC", "date_format": "%d/%m/%y %Hh%M"}),
    ],
)
def test_times_are_read_however_they_are_written(tmp_path: Path, stamp: str, options: dict[str, str]) -> None:
    found = Read(write(tmp_path, minutes(stamp)), interval="1m", **options)
    assert found.times == ["2020-01-02 14:30"]


def test_quoted_commas_in_dates_are_part_of_the_date(tmp_path: Path) -> None:
    text = 'date,open,high,low,close\n"Jan 2, 2020",1,3,1,2\n"Jan 3, 2020",2,4,2,3\n'
    assert Read(write(tmp_path, text)).times == ["2020-01-02 00:00", "2020-01-03 00:00"]


@pytest.mark.parametrize("suffix", ["_s", "_ms", "_us", "_ns"])
def test_a_unit_in_the_name_of_the_column_counts(tmp_path: Path, suffix: str) -> None:
    digits = {"_s": 0, "_ms": 3, "_us": 6, "_ns": 9}[suffix]
    stamps = [f"{1577975400 + 60 * n}{'0' * digits}" for n in range(3)]
    found = Read(write(tmp_path, minutes(*stamps, header=f"start{suffix},open,high,low,close,volume")))
    assert found.times == ["2020-01-02 14:30", "2020-01-02 14:31", "2020-01-02 14:32"]


def test_a_unit_in_the_name_that_cannot_be_is_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("1577975400", "1577975460", header="start_ns,open,high,low,close,volume"))
    with pytest.raises(InvalidInput, match=r"date_format.*ns since 1970"):
        understand(path)


def test_milliseconds_among_seconds_are_refused_not_shifted(tmp_path: Path) -> None:
    stamps = [str(1577975400 + 60 * n) for n in range(200)]
    stamps[7] += "000"
    found = Read(write(tmp_path, minutes(*stamps)))
    assert (len(found.bars), dict(found.refused)) == (199, {"bad_time": 1})
    assert found.examples[0].line == 9


def test_seconds_among_milliseconds_are_refused_not_shifted(tmp_path: Path) -> None:
    stamps = [f"{1577975400 + 60 * n}000" for n in range(200)]
    stamps[7] = stamps[7][:-3]
    found = Read(write(tmp_path, minutes(*stamps)))
    assert (len(found.bars), dict(found.refused)) == (199, {"mixed_units": 1})


def test_a_series_that_runs_through_1970_keeps_its_small_numbers(tmp_path: Path) -> None:
    days = [86_400_000 * n for n in range(-400, 400)]
    found = Read(write(tmp_path, minutes(*map(str, days))))
    assert (len(found.bars), found.refused, found.plan.interval) == (800, {}, found.plan.interval)
    assert [bar["ts"] for bar in found.bars] == [n * 1_000_000 for n in days]


# --- day and month -------------------------------------------------------------------------------------------


def test_a_day_above_twelve_anywhere_in_the_file_decides(tmp_path: Path) -> None:
    rows = minutes("1/2/2020", "1/3/2020", "1/6/2020", "1/7/2020", "1/13/2020")
    assert Read(write(tmp_path, rows), interval="1d").times[0] == "2020-01-02 00:00"
    rows = minutes("1/2/2020", "2/2/2020", "3/2/2020", "13/2/2020")
    assert Read(write(tmp_path, rows), interval="1d").times[:2] == ["2020-02-01 00:00", "2020-02-02 00:00"]


def test_a_day_above_twelve_far_down_decides_too(tmp_path: Path) -> None:
    many = [
        f"{day}/{month}/{year}" for year in range(1400 + 500, 2100) for month in range(1, 13) for day in range(1, 13)
    ]
    rows = minutes(*many, "13/12/2099")
    found = Read(write(tmp_path, rows), interval="1d")
    assert (found.times[0], found.times[-1]) == ("1900-01-01 00:00", "2099-12-13 00:00")


def test_the_order_of_rows_decides_when_no_number_does(tmp_path: Path) -> None:
    found = Read(write(tmp_path, minutes("2/1/2020", "3/1/2020", "6/1/2020", "3/2/2020")), interval="1d")
    assert found.times == ["2020-01-02 00:00", "2020-01-03 00:00", "2020-01-06 00:00", "2020-02-03 00:00"]
    assert any("day and month" in note for note in found.plan.notes)


def test_dates_that_can_be_read_both_ways_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("1/2/2020", "1/3/2020", "1/6/2020"))
    with pytest.raises(InvalidInput, match=r"date_format.*DD/MM/YYYY or MM/DD/YYYY"):
        understand(path)
    assert Read(path, date_format="MM/DD/YYYY").times[0] == "2020-01-02 00:00"


def test_days_and_months_in_both_orders_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("1/13/2020", "1/14/2020", "15/1/2020", "16/1/2020"))
    with pytest.raises(InvalidInput, match=r"date_format.*one order"):
        understand(path, FileOptions(interval="1d"))


def test_days_and_months_in_both_orders_far_apart_are_asked_about(tmp_path: Path) -> None:
    first = [f"{1 + n % 12}/{13 + n % 16}/{1990 + n // 192}" for n in range(300_000)]
    second = [f"{13 + n % 16}/{1 + n % 12}/{1990 + n // 192}" for n in range(6_000)]
    path = write(tmp_path, minutes(*(stamp for stamp in first + second)))
    with pytest.raises(InvalidInput, match="date_format"):
        understand(path, FileOptions(interval="1d"))


def test_one_date_that_cannot_be_is_refused(tmp_path: Path) -> None:
    stamps = [f"2020-{1 + n // 28:02}-{1 + n % 28:02}" for n in range(300)]
    stamps[40] = "2020-02-31"
    found = Read(write(tmp_path, minutes(*stamps)))
    assert (len(found.bars), dict(found.refused), found.examples[0].line) == (299, {"bad_time": 1}, 42)


# --- time zones ----------------------------------------------------------------------------------------------


def test_times_without_an_offset_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-02 09:30", "2020-01-02 09:31", "2020-01-02 09:32"))
    with pytest.raises(InvalidInput, match=r"timezone.*America/New_York"):
        understand(path)


def test_a_column_that_says_utc_is_believed(tmp_path: Path) -> None:
    stamps = ("2020-01-02 09:30", "2020-01-02 09:31", "2020-01-02 09:32")
    found = Read(write(tmp_path, minutes(*stamps, header="Gmt time,Open,High,Low,Close,Volume")))
    assert found.times[0] == "2020-01-02 09:30"


def test_summer_time_is_followed(tmp_path: Path) -> None:
    stamps = ("2020-03-06 09:30", "2020-03-06 09:31", "2020-03-09 09:30", "2020-03-09 09:31")
    found = Read(write(tmp_path, minutes(*stamps)), timezone=NEW_YORK, interval="1m")
    assert found.times == ["2020-03-06 14:30", "2020-03-06 14:31", "2020-03-09 13:30", "2020-03-09 13:31"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_an_hour_that_happens_twice_is_told_apart_by_the_order_of_rows(tmp_path: Path, newest_first: bool) -> None:
    stamps = [
        f"2020-11-01 {clock}" for clock in ("00:30", "01:00", "01:30", "01:00", "01:30", "02:00", "02:30", "03:00")
    ]
    times = ["04:30", "05:00", "05:30", "06:00", "06:30", "07:00", "07:30", "08:00"]
    if newest_first:
        stamps, times = stamps[::-1], times[::-1]
    found = Read(write(tmp_path, minutes(*stamps)), timezone=NEW_YORK)
    assert found.times == [f"2020-11-01 {clock}" for clock in times]
    assert any("happened twice" in note and note.startswith("4 ") for note in found.plan.notes)


def test_an_hour_that_happens_twice_and_is_there_once_is_refused(tmp_path: Path) -> None:
    stamps = [f"2020-11-01 {clock}" for clock in ("00:00", "00:30", "01:00", "01:30", "02:00", "02:30")]
    found = Read(write(tmp_path, minutes(*stamps)), timezone=NEW_YORK)
    assert dict(found.refused) == {"ambiguous_time": 2}
    assert found.times == ["2020-11-01 04:00", "2020-11-01 04:30", "2020-11-01 07:00", "2020-11-01 07:30"]


def test_a_time_that_the_clocks_skip_is_refused(tmp_path: Path) -> None:
    stamps = [f"2020-03-08 {clock}" for clock in ("01:00", "01:30", "02:00", "02:30", "03:00", "03:30")]
    found = Read(write(tmp_path, minutes(*stamps)), timezone=NEW_YORK)
    assert dict(found.refused) == {"nonexistent_time": 2}
    assert found.times[-2:] == ["2020-03-08 07:00", "2020-03-08 07:30"]


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(InvalidInput, match="timezone: 'Mars/Base'"):
        FileOptions(timezone="Mars/Base")


# --- start and end, days and weeks ---------------------------------------------------------------------------


def test_stamps_at_the_end_are_moved_to_the_start(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-02T14:35Z", "2020-01-02T14:40Z", "2020-01-02T14:45Z"))
    assert Read(path, stamp="end").times[0] == "2020-01-02 14:30"
    assert Read(path).times[0] == "2020-01-02 14:35"


def test_a_column_named_for_the_end_is_the_end(tmp_path: Path) -> None:
    header = "close_time,open,high,low,close,volume"
    path = write(tmp_path, minutes("2020-01-02T14:35Z", "2020-01-02T14:40Z", header=header))
    assert Read(path, interval="5m").times == ["2020-01-02 14:30", "2020-01-02 14:35"]
    assert Read(path, interval="5m", stamp="start").times == ["2020-01-02 14:35", "2020-01-02 14:40"]


def test_daily_bars_are_named_by_the_date_on_the_wall(tmp_path: Path) -> None:
    utc = minutes("2020-03-06T05:00Z", "2020-03-09T04:00Z", "2020-03-10T04:00Z")
    with pytest.raises(InvalidInput, match=r"timezone.*midnight"):
        understand(write(tmp_path, utc))
    days = ["2020-03-06 00:00", "2020-03-09 00:00", "2020-03-10 00:00"]
    assert Read(write(tmp_path, utc), timezone=NEW_YORK, interval="1d").times == days
    tokyo = minutes("2020-03-06 00:00:00+09:00", "2020-03-09 00:00:00+09:00", "2020-03-10 00:00:00+09:00")
    assert Read(write(tmp_path, tokyo), interval="1d").times == days
    closing = minutes("2020-03-06 16:00", "2020-03-09 16:00", "2020-03-10 16:00")
    assert Read(write(tmp_path, closing), timezone=NEW_YORK, interval="1d").times == days


def test_daily_bars_that_end_at_midnight_belong_to_the_day_before(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-03-07T00:00Z", "2020-03-08T00:00Z", "2020-03-09T00:00Z"))
    assert Read(path, stamp="end").times == ["2020-03-06 00:00", "2020-03-07 00:00", "2020-03-08 00:00"]


def test_daily_bars_stamped_in_the_evening_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-03-05 18:00", "2020-03-08 18:00", "2020-03-09 18:00"))
    with pytest.raises(InvalidInput, match=r"stamp.*evening"):
        understand(path, FileOptions(timezone=NEW_YORK, interval="1d"))
    starts = Read(path, timezone=NEW_YORK, interval="1d", stamp="start").times
    assert starts == ["2020-03-06 00:00", "2020-03-09 00:00", "2020-03-10 00:00"]
    ends = Read(path, timezone=NEW_YORK, interval="1d", stamp="end").times
    assert ends == ["2020-03-05 00:00", "2020-03-08 00:00", "2020-03-09 00:00"]


@pytest.mark.parametrize(
    ("days", "options", "first"),
    [
        (("2020-01-06", "2020-01-13", "2020-01-20", "2020-01-27"), {}, "2020-01-06"),
        (("2020-01-10", "2020-01-17", "2020-01-24", "2020-01-31"), {}, "2020-01-06"),
        (("2020-01-05", "2020-01-12", "2020-01-19", "2020-01-26"), {"stamp": "start"}, "2020-01-06"),
        (("2020-01-12", "2020-01-19", "2020-01-26", "2020-02-02"), {"stamp": "end"}, "2020-01-06"),
        (("2020-01-13", "2020-01-20", "2020-01-27", "2020-02-03"), {"stamp": "end"}, "2020-01-06"),
    ],
)
def test_weekly_bars_start_on_mondays(
    tmp_path: Path, days: tuple[str, ...], options: dict[str, str], first: str
) -> None:
    assert Read(write(tmp_path, minutes(*days)), **options).times[0] == f"{first} 00:00"


def test_weeks_that_begin_in_the_middle_of_others_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-02", "2020-01-09", "2020-01-16", "2020-01-20"))
    found = Read(path, interval="1w", stamp="start")
    assert (found.times, dict(found.refused)) == (["2020-01-20 00:00"], {"off_grid": 3})


def test_weeks_stamped_on_sundays_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-05", "2020-01-12", "2020-01-19"))
    with pytest.raises(InvalidInput, match=r"stamp.*start or end"):
        understand(path)


# --- interval ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "name"),
    [(1, "1s"), (60, "1m"), (300, "5m"), (600, "10m"), (900, "15m"), (1800, "30m"), (3600, "1h"), (14400, "4h")],
)
def test_the_interval_is_the_usual_spacing(tmp_path: Path, seconds: int, name: str) -> None:
    start = 1_577_923_200
    stamps = [str(start + seconds * n) for n in (0, 1, 2, 3, 5, 6, 7, 100, 101)]
    assert str(Read(write(tmp_path, minutes(*stamps))).plan.interval) == name


def test_a_spacing_that_is_no_interval_is_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, minutes(*(str(1_577_923_200 + 120 * n) for n in range(5))))
    with pytest.raises(InvalidInput, match=r"interval.*2 min apart"):
        understand(path)


def test_an_interval_longer_than_the_spacing_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, minutes(*(str(1_577_923_200 + 60 * n) for n in range(5))))
    with pytest.raises(InvalidInput, match="interval: '1h'"):
        understand(path, FileOptions(interval="1h"))


def test_bars_off_the_grid_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-02T14:30Z", "2020-01-02T15:30Z", "2020-01-02T16:00Z", "2020-01-02T17:00Z"))
    found = Read(path, interval="1h")
    assert (found.times, dict(found.refused)) == (["2020-01-02 16:00", "2020-01-02 17:00"], {"off_grid": 2})


# --- columns and numbers -------------------------------------------------------------------------------------


def test_columns_may_come_in_any_order_and_case(tmp_path: Path) -> None:
    text = "Vol.,<CLOSE>,Low,HIGH,1. open,<DATE>,<TIME>,<OPENINT>\n7,2,0.5,3,1,20200102,09:30:00,0\n"
    found = Read(write(tmp_path, text), timezone="UTC", interval="1m")
    assert (found.times, found.prices) == (["2020-01-02 09:30"], [(1.0, 3.0, 0.5, 2.0, 7.0)])


def test_clock_times_without_leading_zeros_are_read_by_their_longest(tmp_path: Path) -> None:
    rows = [f"20200102,{clock},1,3,1,2" for clock in ("0", "100", "930", "1000", "2359")]
    found = Read(write(tmp_path, "date,time,open,high,low,close\n" + "\n".join(rows)), timezone="UTC", interval="1m")
    assert [time[11:] for time in found.times] == ["00:00", "01:00", "09:30", "10:00", "23:59"]
    # 59 minutes of seconds, then an hour: what looked like HHMM was HHMMSS
    seconds = [f"{h:d}{m:02d}{s:02d}".lstrip("0") or "0" for h in (0, 1) for m in range(60) for s in range(60)]
    rows = [f"20200102,{clock},1,3,1,2" for clock in seconds]
    found = Read(write(tmp_path, "date,time,open,high,low,close\n" + "\n".join(rows)), timezone="UTC")
    assert str(found.plan.interval) == "1s"
    assert [bar["ts"] for bar in found.bars] == [ns("2020-01-02") + n * 1_000_000_000 for n in range(7200)]


def test_an_hour_alone_is_not_taken_for_minutes(tmp_path: Path) -> None:
    rows = [f"20200102,{hour},1,3,1,2" for hour in range(9, 17)]
    with pytest.raises(InvalidInput, match=r"column hour.*09:30"):
        understand(write(tmp_path, "date,hour,open,high,low,close\n" + "\n".join(rows)), FileOptions(timezone="UTC"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(tmp_path: Path, delimiter: str) -> None:
    text = minutes("2020-01-02T14:30Z", "2020-01-02T14:31Z").replace(",", delimiter)
    assert Read(write(tmp_path, text), interval="1m").prices[0] == (2.0, 4.0, 1.0, 3.0, 10.0)


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    text = "ts;open;high;low;close;volume\n2020-01-02;1.234,5;1.300,25;1.200,0;1.250,75;1.000.000\n"
    assert Read(write(tmp_path, text), interval="1d").prices == [(1234.5, 1300.25, 1200.0, 1250.75, 1_000_000.0)]


def test_thousands_currency_and_suffixes(tmp_path: Path) -> None:
    text = 'ts,open,high,low,close,volume\n2020-01-02,"$1,234.50","$1,300.00","$1,200.00","$1,250.75",1.2M\n'
    assert Read(write(tmp_path, text), interval="1d").prices == [(1234.5, 1300.0, 1200.0, 1250.75, 1_200_000.0)]


def test_a_comma_that_could_be_either_mark_is_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, "ts;open;high;low;close\n2020-01-02;1,234;1,300;1,200;1,250\n")
    with pytest.raises(InvalidInput, match=r"decimal.*1234 or 1.234"):
        understand(path, FileOptions(interval="1d"))
    assert Read(path, interval="1d", decimal=",").bars[0]["open"] == 1.234
    assert Read(path, interval="1d", decimal=".").bars[0]["open"] == 1234.0


def test_a_file_without_a_header_is_read_when_its_prices_say_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "20200102 143000;1;3;0.5;2;7\n20200102 143100;2;4;1.5;3;8\n")
    found = Read(path, timezone="UTC", interval="1m")
    assert found.prices == [(1.0, 3.0, 0.5, 2.0, 7.0), (2.0, 4.0, 1.5, 3.0, 8.0)]
    path = write(tmp_path, "20200102 143000;1;2;3;0.5;7\n20200102 143100;2;3;4;1.5;8\n")
    with pytest.raises(InvalidInput, match="--column"):
        understand(path, FileOptions(timezone="UTC", interval="1m"))
    mapping = {"ts": "1", "open": "2", "close": "3", "high": "4", "low": "5"}
    assert Read(path, timezone="UTC", interval="1m", columns=mapping).prices[0] == (1.0, 3.0, 0.5, 2.0, None)


def test_bid_and_ask_columns_give_both_sides(tmp_path: Path) -> None:
    names = ",".join(f"{side}_{price}" for side in ("bid", "ask") for price in ("open", "high", "low", "close"))
    path = write(tmp_path, f"ts,{names}\n2020-01-02T14:30Z,1,3,1,2,1.1,3.1,1.1,2.1\n", "EURUSD.csv")
    found = Read(path, interval="1m")
    assert [(bar["side"], bar["close"]) for bar in found.bars] == [("bid", 2.0), ("ask", 2.1)]
    assert [bar["side"] for bar in Read(path, interval="1m", side="ask").bars] == ["ask"]


def test_many_symbols_in_one_file(tmp_path: Path) -> None:
    text = "".join(
        f"{symbol},2020-01-02T14:{minute}Z,1,3,1,2\n" for minute in (30, 31, 32) for symbol in ("AAPL", "MSFT", "")
    )
    found = Read(write(tmp_path, "ticker,ts,open,high,low,close\n" + text, "all.csv"))
    assert (str(found.plan.interval), dict(found.refused)) == ("1m", {"no_symbol": 3})
    assert [bar["symbol"] for bar in found.bars] == ["AAPL", "MSFT"] * 3


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for text, words in (
        ("ts,open,high,low\n2020-01-02,1,2,1\n", "columns.*close"),
        ("open,high,low,close\n1,2,1,2\n", "columns.*times"),
        ("ts,open,open,high,low,close\n2020-01-02,1,1,2,1,2\n", "column open.*once"),
        ("ts,open,high,low,close\n", "rows"),
        ("", "empty"),
    ):
        with pytest.raises(InvalidInput, match=words):
            understand(write(tmp_path, text), FileOptions(interval="1d"))
    with pytest.raises(InvalidInput, match=r"symbol.*--symbol"):
        understand(write(tmp_path, minutes("2020-01-02"), "daily_data.csv"), FileOptions(interval="1d"))
    with pytest.raises(InvalidInput, match="can be read"):
        understand(str(tmp_path / "nowhere.csv"))
    with pytest.raises(InvalidInput, match=r"column open: 'Opn'.*one of ts"):
        understand(write(tmp_path, minutes("2020-01-02")), FileOptions(columns={"open": "Opn"}))


def test_adjusted_prices_are_kept_apart_and_the_adjusted_close_is_left_out(tmp_path: Path) -> None:
    text = "Date,Open,High,Low,Close,Adj Close,Volume\n2020-01-02,1,3,1,2,0.5,7\n2020-01-03,1,3,1,2,0.5,7\n"
    found = Read(write(tmp_path, text), interval="1d")
    assert found.bars[0]["close"] == 2.0
    assert any("Adj Close" in note for note in found.plan.notes)
    assert Read(write(tmp_path, text), interval="1d", adjusted=True).bars[0]["provider"] == "file:adjusted"


# --- lines ---------------------------------------------------------------------------------------------------


def test_bad_lines_are_put_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    text = (
        "\ufeffts,open,high,low,close,volume\r\n"
        "2020-01-02T14:30Z,1,3,1,2,7\r\n"
        "2020-01-02T14:31Z,1,3,1\r\n"
        "\r\n"
        "2020-01-02T14:32Z,one,3,1,2,7\r\n"
        "2020-01-02T14:33Z,,3,1,2,7\r\n"
        "yesterday,1,3,1,2,7\r\n"
        "2020-01-02T14:35Z,1,inf,1,2,7\r\n"
        "2020-01-02T14:36Z,1,3,1,2,7"
    )
    found = Read(write(tmp_path, text), interval="1m")
    assert found.times == ["2020-01-02 14:30", "2020-01-02 14:36"]
    assert sorted((refused.line, refused.reason) for refused in found.examples) == [
        (3, "corrupt_line"), (5, "not_a_number"), (6, "absent_price"), (7, "bad_time"), (8, "not_a_number"),
    ]  # fmt: skip
    assert found.rows == 7


def test_a_line_that_is_no_utf_8_is_put_aside_where_it_matters(tmp_path: Path) -> None:
    text = "symbol,ts,open,high,low,close,name\n" + "".join(
        f"{symbol},2020-01-02T14:3{n}Z,1,3,1,2,{name}\n"
        for n, (symbol, name) in enumerate((("BMW", "M\u00fcnchen"), ("NESN", "Vevey"), ("M\u00dc", "x"), ("BMW", "x")))
    )
    found = Read(write(tmp_path, text.encode("latin-1"), "all.csv"), interval="1m")
    assert [bar["symbol"] for bar in found.bars] == ["BMW", "NESN", "BMW"]
    assert [(refused.line, refused.reason) for refused in found.examples] == [(4, "corrupt_line")]


def test_a_quote_without_end_costs_its_own_line_only(tmp_path: Path) -> None:
    rows = minutes("2020-01-02T14:30Z", "2020-01-02T14:31Z", "2020-01-02T14:32Z", "2020-01-02T14:33Z").split("\n")
    rows[2] = '"' + rows[2]
    found = Read(write(tmp_path, "\n".join(rows)), interval="1m")
    assert found.times == ["2020-01-02 14:30", "2020-01-02 14:32", "2020-01-02 14:33"]
    assert [(refused.line, refused.reason) for refused in found.examples] == [(3, "corrupt_line")]


def test_a_cut_off_gz_file_gives_what_is_whole(tmp_path: Path) -> None:
    stamps = [str(1_577_923_200 + 60 * n) for n in range(50_000)]
    path = Path(write(tmp_path, minutes(*stamps), "AAPL.csv.gz"))
    path.write_bytes(path.read_bytes()[:-100_000])
    found = Read(str(path))
    assert 1_000 < len(found.bars) < 50_000
    assert [bar["ts"] // 1_000_000_000 for bar in found.bars] == [int(stamp) for stamp in stamps[: len(found.bars)]]
    assert dict(found.refused) == {"corrupt_line": 1}


def test_newest_first_is_seen_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-06", "2020-01-03", "2020-01-02", "2020-01-01"))
    found = Read(path)
    assert (found.plan.order, found.times[0], str(found.plan.interval)) == ("descending", "2020-01-06 00:00", "1d")


def test_lines_that_say_how_the_file_is_separated_are_skipped(tmp_path: Path) -> None:
    text = "sep=;\n# made by hand\n" + minutes("2020-01-02", "2020-01-03").replace(",", ";")
    assert Read(write(tmp_path, text), interval="1d").times == ["2020-01-02 00:00", "2020-01-03 00:00"]


# --- other formats -------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    text = (
        '{"t":1577975400000,"o":1.5,"h":3,"l":1,"c":2,"v":7,"n":3}\n'
        '{"t":1577975460000,"o":1.5,"h":3,"l":1\n'
        "\n"
        '{"c":"2.5","t":1577975520000,"o":1.5,"h":3,"l":1,"vw":2.25}\n'
        '{"t":1577975580000,"o":null,"h":3,"l":1,"c":2}\n'
    )
    found = Read(write(tmp_path, text, "AAPL.jsonl"), interval="1m")
    assert [(bar["close"], bar["volume"], bar["vwap"], bar["trades"]) for bar in found.bars] == [
        (2.0, 7.0, None, 3),
        (2.5, None, 2.25, None),
    ]
    assert [(refused.line, refused.reason) for refused in found.examples] == [(2, "corrupt_line"), (5, "absent_price")]


def test_parquet_and_arrow_with_types_of_their_own(tmp_path: Path) -> None:
    values = {name: [1.0, 2.0] for name in ("open", "high", "low", "close")}
    stamps = [ns("2020-01-02T14:30"), ns("2020-01-02T14:31")]
    for kind in (pa.timestamp("ns", tz="UTC"), pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz=NEW_YORK)):
        table = pa.table({"ts": pa.array(stamps, pa.timestamp("ns", tz="UTC")).cast(kind), **values})
        pq.write_table(table, tmp_path / "AAPL.parquet")
        assert Read(str(tmp_path / "AAPL.parquet"), interval="1m").times == ["2020-01-02 14:30", "2020-01-02 14:31"]
    table = pa.table({"Date": pa.array([date(2020, 1, 2), date(2020, 1, 3)]), **values})
    with pa.ipc.new_file(str(tmp_path / "AAPL.arrow"), table.schema) as file:
        file.write_table(table)
    assert Read(str(tmp_path / "AAPL.arrow"), interval="1d").times == ["2020-01-02 00:00", "2020-01-03 00:00"]
    naive = pa.table({"ts": pa.array(stamps, pa.timestamp("ns")), **values})
    pq.write_table(naive, tmp_path / "AAPL.parquet")
    with pytest.raises(InvalidInput, match="timezone"):
        understand(str(tmp_path / "AAPL.parquet"), FileOptions(interval="1m"))
    assert Read(str(tmp_path / "AAPL.parquet"), interval="1m", timezone=NEW_YORK).times[0] == "2020-01-02 19:30"


def test_numbers_in_parquet_count_by_their_size(tmp_path: Path) -> None:
    values = {name: [1.0, 2.0] for name in ("open", "high", "low", "close")}
    for stamps in ([1577975400, 1577975460], [1577975400000, 1577975460000], [20200102, 20200103]):
        pq.write_table(pa.table({"date": stamps, **values}), tmp_path / "AAPL.parquet")
        daily = stamps[0] == 20200102
        found = Read(str(tmp_path / "AAPL.parquet"), interval="1d" if daily else "1m")
        assert found.times[0] == ("2020-01-02 00:00" if daily else "2020-01-02 14:30")


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"PAR1 but not really", "AAPL.parquet", "readable file"),
        (b"ARROW1 but not really", "AAPL.arrow", "readable file"),
        (b"DBN\x01\xff\xff\xff\xff nothing", "AAPL.dbn", "a DBN file"),
        (b"\x28\xb5\x2f\xfd nothing", "AAPL.dbn.zst", "a DBN file"),
        (b"PK\x03\x04zip", "AAPL.zip", "unpack"),
        ("ts,open\n".encode("utf-16"), "AAPL.csv", "UTF-16"),
        (b'[{"t":1}]', "AAPL.json", "one object a line"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, data: bytes, name: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=words):
        understand(str(path))


def test_dbn_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "databento_dbn", None)
    (tmp_path / "AAPL.dbn").write_bytes(b"DBN\x03")
    with pytest.raises(InvalidInput, match=r"pip install \"marketd\[dbn\]\""):
        understand(str(tmp_path / "AAPL.dbn"))


def test_truth_values_and_dates_are_no_prices(tmp_path: Path) -> None:
    good = pa.array([1.0])
    for odd in (pa.array([True]), pa.array([date(2020, 1, 2)])):
        table = pa.table({"ts": ["2020-01-02"], "open": odd, "high": good, "low": good, "close": good})
        pq.write_table(table, tmp_path / "AAPL.parquet")
        assert dict(Read(str(tmp_path / "AAPL.parquet"), interval="1d").refused) == {"not_a_number": 1}


def test_what_was_understood_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, minutes("2020-01-02 09:35", "2020-01-02 09:40", "2020-01-02 09:45"), "AAPL.csv.gz")
    told = understand(path, FileOptions(timezone=NEW_YORK, stamp="end")).describe()
    assert ("column", "'ts': ts") in told
    assert ("times", "YYYY-MM-DD [HH:MM], America/New_York") in told
    assert ("stamp", "end of the bar") in told
    assert ("interval", "5m") in told
    assert ("order", "oldest first") in told
    assert ("format", "CSV, fields between ,, gzip") in told


def test_every_reason_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "import-export.md").read_text(encoding="utf-8")
    assert [reason for reason, words in FILE_REASONS.items() if f"| `{reason}` | {words} |" not in page] == []
