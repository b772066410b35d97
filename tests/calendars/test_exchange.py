"""Exchanges: hand-typed days anybody can look up, and every session of the recorded calendars."""

from __future__ import annotations

import csv
import gzip
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from marketd.calendars import AlwaysOpen, Calendar, Calendars, ExchangeCalendar
from marketd.errors import InvalidInput
from marketd.model import parse_ns

DAY_NS = 86_400 * 10**9


@pytest.fixture(scope="module")
def calendars() -> Calendars:
    return Calendars()


def hours(calendar: Calendar, day: str) -> list[tuple[str, str]]:
    """Open spans of a UTC day, as HH:MM."""
    start = parse_ns(day)
    spans = calendar.open_spans(start, start + DAY_NS)
    return [(clock(low), clock(high)) for low, high in spans.tolist()]


def clock(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%H:%M")


@pytest.mark.parametrize(
    ("exchange", "day", "expected"),
    [
        ("XNYS", "2025-11-26", [("14:30", "21:00")]),
        ("XNYS", "2025-11-27", []),  # Thanksgiving
        ("XNYS", "2025-11-28", [("14:30", "18:00")]),  # closes at 13:00
        ("XNYS", "2025-03-07", [("14:30", "21:00")]),  # the Friday before clocks go forward
        ("XNYS", "2025-03-10", [("13:30", "20:00")]),
        ("XNYS", "2025-10-31", [("13:30", "20:00")]),
        ("XNYS", "2025-11-03", [("14:30", "21:00")]),
        ("XNYS", "2025-04-18", []),  # Good Friday
        ("XLON", "2025-04-18", []),
        ("XNYS", "2025-01-09", []),  # day of mourning
        ("XNYS", "2025-11-29", []),  # a Saturday
        ("XNYS", "2001-09-12", []),
        ("XTKS", "2024-06-03", [("00:00", "02:30"), ("03:30", "06:00")]),
        ("XTKS", "2024-11-05", [("00:00", "02:30"), ("03:30", "06:30")]),  # closes half an hour later from that day on
        ("XKRX", "2024-11-14", [("01:00", "07:30")]),  # university entrance exam
        ("XKRX", "2026-06-03", []),  # local elections
        ("XKRX", "2025-12-30", [("00:00", "06:30")]),
        ("XKRX", "2026-01-02", [("01:00", "06:30")]),  # the first session of a year
        ("CMES", "2025-06-19", [("00:00", "17:00"), ("22:00", "00:00")]),  # Juneteenth
        ("XLON", "2025-12-24", [("08:00", "12:30")]),
        ("XASX", "2025-01-02", [("00:00", "05:00"), ("23:00", "00:00")]),  # the next session begins on this UTC day
    ],
)
def test_hours_of_days_that_can_be_looked_up(
    calendars: Calendars, exchange: str, day: str, expected: list[tuple[str, str]]
) -> None:
    assert hours(calendars.named(exchange), day) == expected


def test_a_session_is_labelled_with_its_date_at_the_exchange(calendars: Calendars) -> None:
    sydney = calendars.named("XASX")
    found = sydney.sessions(parse_ns("2025-01-02"), parse_ns("2025-01-04"))
    assert found.label_ns.tolist() == [parse_ns("2025-01-02"), parse_ns("2025-01-03")]
    assert found.open_ns.tolist() == [parse_ns("2025-01-01T23:00:00Z"), parse_ns("2025-01-02T23:00:00Z")]
    assert found.close_ns.tolist() == [parse_ns("2025-01-02T05:00:00Z"), parse_ns("2025-01-03T05:00:00Z")]
    assert sydney.days(parse_ns("2025-01-02"), parse_ns("2025-01-04")).tolist() == found.label_ns.tolist()


@pytest.mark.parametrize(
    ("name", "same"),
    [("xnys", "XNYS"), ("NASDAQ", "XNYS"), ("XNAS", "XNYS"), ("ARCX", "XNYS"), ("IEXG", "XNYS"), ("lse", "XLON"),
     ("NSE", "XBOM"), ("JPX", "XTKS"), ("CBOT", "CMES")],
)  # fmt: skip
def test_an_exchange_has_one_calendar_under_all_its_names(calendars: Calendars, name: str, same: str) -> None:
    assert calendars.named(name) is calendars.named(same)
    assert calendars.named(name).name == same


def test_an_unknown_exchange_is_refused_with_names_like_it(calendars: Calendars) -> None:
    with pytest.raises(InvalidInput, match=r"calendar: 'XNYC' is not allowed.*MIC.*XNYS"):
        calendars.named("XNYC")


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.raises(InvalidInput, match=r"pip install 'marketd\[calendars\]'"):
        Calendars().of("AAPL", "XNYS")
    assert Calendars().of("EURUSD", "FX").name == "FX"


@pytest.mark.parametrize(
    ("start", "end"),
    [("1969-12-31T23:59:59Z", "1980-01-01"), ("2025-01-01", "2036-01-01T00:00:01Z"), ("2040-01-01", "2041-01-01")],
)
def test_outside_of_what_is_known_is_an_error_and_not_closed(calendars: Calendars, start: str, end: str) -> None:
    known = "1970-01-01T00:00:00Z to 2036-01-01T00:00:00Z"
    for ask in ("open_spans", "sessions", "days"):
        with pytest.raises(InvalidInput, match=known):
            getattr(calendars.named("XNYS"), ask)(parse_ns(start), parse_ns(end))


def test_the_last_evening_before_an_unknown_session_is_not_called_closed() -> None:
    """Sydney's Monday opens on Sunday, UTC: without the last date's successor its evening is not known."""
    low, high = ExchangeCalendar("XASX").covers
    assert (low, high) == (parse_ns("1990-01-01"), parse_ns("2035-12-31"))


def test_an_empty_range_has_nothing(calendars: Calendars) -> None:
    now = parse_ns("2025-06-04T15:00:00Z")
    for start, end in ((now, now), (now, now - DAY_NS)):
        assert calendars.named("XNYS").open_spans(start, end).shape == (0, 2)
        assert len(calendars.named("XNYS").days(start, end)) == 0
        assert len(AlwaysOpen().days(start, end)) == 0


# The last row of the file: Korea opens an hour later on the first session of a year, and the program that wrote the
# file took the end of its range for that.
NOT_SO = {("xkrx.csv.gz", "2026-12-30T01:00:00Z"): "2026-12-30T00:00:00Z"}
RECORDED = ["24-5", "24-7", "cmes", "xasx", "xbom", "xetr", "xkrx", "xlon", "xnys", "xswx", "xtks", "xtse"]


@pytest.mark.parametrize("file", RECORDED)
def test_every_recorded_session_break_and_half_day(calendars: Calendars, data_folder: Path, file: str) -> None:
    labels, opens, closes, pieces = recorded(data_folder / "calendars" / f"{file}.csv.gz")
    calendar = calendars.named(file.replace("-", "/").upper())
    start, end = labels[0], labels[-1] + DAY_NS
    found = calendar.sessions(start, end)
    assert found.label_ns.tolist() == labels
    assert found.open_ns.tolist() == opens
    assert found.close_ns.tolist() == closes
    assert calendar.days(start, end).tolist() == labels
    # Past the last recorded session, where the next one may open on the same UTC day, nothing is compared.
    spans = calendar.open_spans(opens[0], closes[-1])
    assert spans.tolist() == touching_joined(pieces)


def recorded(path: Path) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    labels, opens, closes, pieces = [], [], [], []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for label, opens_at, closes_at, pause, resume in list(csv.reader(lines))[1:]:
            labels.append(parse_ns(label))
            opens.append(parse_ns(NOT_SO.get((path.name, opens_at), opens_at)))
            closes.append(parse_ns(closes_at))
            if pause:
                pieces += [[opens[-1], parse_ns(pause)], [parse_ns(resume), closes[-1]]]
            else:
                pieces.append([opens[-1], closes[-1]])
    return labels, opens, closes, pieces


def touching_joined(pieces: list[list[int]]) -> list[list[int]]:
    joined: list[list[int]] = []
    for low, high in pieces:
        if joined and joined[-1][1] == low:
            joined[-1][1] = high
        else:
            joined.append([low, high])
    return joined


def test_new_york_since_1970_has_a_session_on_every_weekday_but_the_published_holidays(
    calendars: Calendars, data_folder: Path
) -> None:
    text = (data_folder / "calendars" / "nyse_full_day_holidays_since_1928.csv").read_text(encoding="utf-8")
    dates = {datetime.strptime(line, "%m/%d/%Y").replace(tzinfo=UTC).date() for line in text.split()}
    holidays = {d for d in dates if d.year >= 1970}
    assert len(holidays) > 400
    weekdays = np.arange("1970-01-01", "2021-07-06", dtype="datetime64[D]")
    weekdays = weekdays[np.is_busday(weekdays)]
    labels = calendars.named("XNYS").days(parse_ns("1970-01-01"), parse_ns("2021-07-06"))
    sessions = set(labels.astype("datetime64[ns]").astype("datetime64[D]").tolist())
    assert sessions == set(weekdays.tolist()) - holidays
