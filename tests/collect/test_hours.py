"""Open or closed, by dates of exchanges typed by hand."""

from __future__ import annotations

from marketd.calendars import AlwaysOpen, Calendar, Calendars
from marketd.collect.hours import Hours
from marketd.errors import InvalidInput
from marketd.model import parse_ns

_CALENDARS = Calendars()


def _calendar_of(symbol: str) -> Calendar | None:
    if symbol == "BAD":
        raise InvalidInput("exchange", "BAD", "one that has a calendar")
    names = {"AAPL": "XNYS", "MSFT": "XNYS", "BTC": "24/7", "EURUSD": "FX"}
    return _CALENDARS.named(names[symbol]) if symbol in names else None


def _hours() -> Hours:
    hours = Hours(_calendar_of)
    hours.prepare(["AAPL", "MSFT", "BTC", "EURUSD", "BAD", "WHO"])
    return hours


def test_open_and_closed() -> None:
    hours = _hours()
    thanksgiving, friday_early = parse_ns("2025-11-27T17:00:00Z"), parse_ns("2025-11-28T18:30:00Z")
    monday = parse_ns("2025-11-24T15:00:00Z")
    assert [hours.is_open("AAPL", t) for t in (monday, thanksgiving, friday_early)] == [True, False, False]
    assert hours.is_open("AAPL", friday_early - 3_600 * 10**9)  # until 13:00 in New York
    assert hours.is_open("BTC", thanksgiving)
    assert not hours.is_open("EURUSD", parse_ns("2025-11-29T12:00:00Z"))


def test_what_is_not_known_is_open() -> None:
    hours = _hours()
    for symbol in ("BAD", "WHO", "NEVER PREPARED"):
        assert hours.is_open(symbol, parse_ns("2025-11-29T12:00:00Z"))
    beyond = parse_ns("2200-01-01T00:00:00Z")
    assert hours.is_open("AAPL", beyond)
    assert hours.next_session_ns(["AAPL"], beyond) == beyond + 86_400 * 10**9
    assert hours.is_prepared("BAD")
    assert not hours.is_prepared("NEVER PREPARED")


def test_any_and_by_number() -> None:
    hours = _hours()
    saturday = parse_ns("2025-11-29T12:00:00Z")
    assert not hours.any_open(["AAPL", "EURUSD"], saturday)
    assert hours.any_open(["AAPL", "BTC"], saturday)
    assert not hours.any_open([], saturday)
    numbers = hours.numbers(["AAPL", "MSFT", "BTC", "WHO"])
    assert numbers[0] == numbers[1]
    assert hours.open_by_number(saturday)[numbers].tolist() == [False, False, True, True]


def test_the_next_session() -> None:
    hours = _hours()
    friday = parse_ns("2025-11-28T19:00:00Z")
    assert hours.next_session_ns(["AAPL"], friday) == parse_ns("2025-12-01T14:30:00Z")
    assert hours.next_session_ns(["AAPL", "BTC"], friday) == parse_ns("2025-11-29T00:00:00Z")
    assert hours.next_session_ns([], friday) == parse_ns("2025-11-29T00:00:00Z")
    assert Hours(lambda _: AlwaysOpen()).next_session_ns(["X"], friday) == parse_ns("2025-11-29T00:00:00Z")
