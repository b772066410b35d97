"""History as it is asked for, from a store filled by hand. What is expected is typed, not computed by the code."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import AlwaysOpen, Calendar, Calendars
from marketd.continuity.history import HISTORY_SCHEMA, HistoryAnswer, HistoryQuery, HistoryService
from marketd.errors import InvalidInput, StoreError
from marketd.model import BAR_SCHEMA, AnsweredSpan, Bar, CorporateAction, Interval, MissingSpan, format_ns, parse_ns
from marketd.store.memory import MemoryStore
from marketd.store.sqlite import SqliteRecords
from marketd.testing import ManualClock

MINUTE = 60_000_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOW = "2026-11-20T12:00:00Z"


def at(text: str) -> int:
    """`10:31` of 20 November 2026, or a whole time."""
    return parse_ns(text if len(text) > 8 else f"2026-11-20T{text}Z" if len(text) > 5 else f"2026-11-20T{text}:00Z")


def row(ts: str | int, price: float, interval: str = "1m", **changes: Any) -> dict[str, Any]:
    """A bar that opens at a price, rises by 2, falls by 1 below and closes 1 above it."""
    ts_ns = at(ts) if isinstance(ts, str) else ts
    return {
        "symbol": "X",
        "interval": interval,
        "side": "trade",
        "ts": ts_ns,
        "open": price,
        "high": price + 2,
        "low": price - 1,
        "close": price + 1,
        "volume": 10.0,
        "vwap": None,
        "trades": 2,
        "provider": "venue",
        "status": "final",
        "as_of": ts_ns + MINUTE,
        **changes,
    }


class Desk:
    """A store, records and the service over them, at `NOW`, with a calendar that is always open."""

    def __init__(self, rows: Sequence[dict[str, Any]], calendar: Calendar | None = None, now: str = NOW) -> None:
        self.clock = ManualClock(parse_ns(now))
        self.store = MemoryStore()
        self.records = SqliteRecords(None)
        if rows:
            self.store.append(pa.Table.from_pylist(list(rows), BAR_SCHEMA))
        known = calendar or AlwaysOpen()
        self.service = HistoryService(self.store, self.records, lambda _: known, lambda _: ("venue",), self.clock)

    def ask(self, start: str, end: str, interval: str = "1m", live: Sequence[Bar] = (), **more: Any) -> HistoryAnswer:
        return self.service.answer(query(start, end, interval, **more), live)


def query(start: str, end: str, interval: str = "1m", **more: Any) -> HistoryQuery:
    return HistoryQuery(symbol="X", interval=Interval.parse(interval), start_ns=at(start), end_ns=at(end), **more)


def span(start: str, end: str, reason: str, count: int) -> MissingSpan:
    return MissingSpan(start_ns=at(start), end_ns=at(end), reason=reason, count=count)  # type: ignore[arg-type]


def answered(start: str, end: str, reason: str, **more: Any) -> AnsweredSpan:
    fields = {"symbol": "X", "interval": "1m", "provider": "venue", "as_of_ns": at("11:30"), **more}
    return AnsweredSpan(start_ns=at(start), end_ns=at(end), reason=reason, **fields)  # type: ignore[arg-type]


def times(answer: HistoryAnswer) -> list[str]:
    return [format_ns(ts)[11:16] for ts in answer.table["ts"].cast(pa.int64()).to_pylist()]


def column(answer: HistoryAnswer, name: str) -> list[Any]:
    return answer.table[name].to_pylist()


# --- what is there -----------------------------------------------------------------------------------------------


def test_stored_minutes_come_as_they_are_with_two_flags() -> None:
    answer = Desk([row("10:00", 100.0), row("10:01", 101.0)]).ask("10:00", "10:02")
    assert answer.table.schema == HISTORY_SCHEMA
    assert (times(answer), column(answer, "close")) == (["10:00", "10:01"], [101.0, 102.0])
    assert (column(answer, "partial"), column(answer, "filled")) == ([False, False], [False, False])
    assert (answer.missing, answer.complete, answer.rest) == ((), True, None)


def test_of_two_providers_the_preferred_one_is_given() -> None:
    desk = Desk([row("10:00", 100.0), row("10:00", 200.0, provider="other", as_of=at("10:30"))])
    assert column(desk.ask("10:00", "10:01"), "open") == [200.0]
    assert column(desk.ask("10:00", "10:01", prefer=("venue",)), "open") == [100.0]


def test_as_of_gives_what_was_known_then() -> None:
    desk = Desk([row("10:00", 100.0), row("10:00", 150.0, status="corrected", as_of=at("10:30"))])
    assert column(desk.ask("10:00", "10:01"), "open") == [150.0]
    assert column(desk.ask("10:00", "10:01", as_of_ns=at("10:29")), "open") == [100.0]
    assert column(desk.ask("10:00", "10:01", as_of_ns=at("10:00")), "open") == []


def test_bars_in_the_making_stand_in_for_stored_ones_but_not_as_of() -> None:
    desk = Desk([row("11:58", 100.0), row("11:59", 101.0)])
    live = [
        Bar(
            symbol="X", interval="1m", side="trade", ts_ns=at(t), open=7.0, high=7.0, low=7.0, close=7.0, volume=None,
            vwap=None, trades=1, provider="venue", status="live", as_of_ns=at("12:00"),
        )
        for t in ("11:59", "12:00")
    ]  # fmt: skip
    answer = desk.ask("11:58", "12:01", live=live)
    assert (times(answer), column(answer, "open")) == (["11:58", "11:59", "12:00"], [100.0, 7.0, 7.0])
    assert column(answer, "status") == ["final", "live", "live"]
    assert times(desk.ask("11:58", "12:01", live=live, as_of_ns=at("12:00"))) == ["11:58", "11:59"]


# --- longer bars -------------------------------------------------------------------------------------------------


def test_longer_bars_are_made_of_minutes() -> None:
    desk = Desk([row(at("10:00") + i * MINUTE, 100.0 + i) for i in range(10)])
    answer = desk.ask("10:00", "10:10", "5m")
    assert times(answer) == ["10:00", "10:05"]
    assert [column(answer, n) for n in ("open", "high", "low", "close", "volume", "trades")] == [
        [100.0, 105.0],
        [106.0, 111.0],
        [99.0, 104.0],
        [105.0, 110.0],
        [50.0, 50.0],
        [10, 10],
    ]
    assert (column(answer, "partial"), answer.complete) == ([False, False], True)


def test_a_bar_that_lacks_minutes_is_partial_unless_they_had_no_trades() -> None:
    desk = Desk([row(at("10:00") + i * MINUTE, 100.0) for i in (0, 1, 2, 4, 5, 6, 7, 8)])
    answer = desk.ask("10:00", "10:10", "5m")
    assert (column(answer, "partial"), answer.complete, answer.missing) == ([True, True], False, ())
    desk.records.note_spans([answered("10:03", "10:04", "no_trades")])
    answer = desk.ask("10:00", "10:10", "5m")
    assert (column(answer, "partial"), answer.complete) == ([False, True], False)
    desk.records.note_spans([answered("10:09", "10:10", "no_trades")])
    answer = desk.ask("10:00", "10:10", "5m")
    assert (column(answer, "partial"), answer.complete) == ([False, False], True)


def test_a_whole_stored_bar_stands_in_for_a_partial_one_and_for_none() -> None:
    minutes = [row(at("10:00") + i * MINUTE, 100.0) for i in (0, 1, 2, 3, 4, 5)]
    desk = Desk([*minutes, *(row(t, 500.0, "5m") for t in ("10:00", "10:05", "10:10"))])
    answer = desk.ask("10:00", "10:20", "5m")
    assert (times(answer), column(answer, "open")) == (["10:00", "10:05", "10:10"], [100.0, 500.0, 500.0])
    assert column(answer, "partial") == [False, False, False]
    assert answer.missing == (span("10:15", "10:20", "not_fetched", 1),)


def test_weeks_are_made_of_stored_days() -> None:
    monday = parse_ns("2026-11-09")
    desk = Desk([row(monday + i * DAY, 100.0 + i, "1d") for i in range(7)])
    answer = desk.ask("2026-11-09", "2026-11-16", "1w")
    assert answer.table["ts"].cast(pa.int64()).to_pylist() == [monday]
    assert [column(answer, n) for n in ("open", "high", "low", "close")] == [[100.0], [108.0], [99.0], [107.0]]
    assert answer.complete


def test_mids_are_averages_of_bids_and_asks() -> None:
    bids = [row(at("10:00") + i * MINUTE, 100.0, side="bid") for i in (0, 1, 2)]
    asks = [row(at("10:00") + i * MINUTE, 101.0, side="ask", provider="other") for i in (0, 2)]
    answer = Desk([*bids, *asks]).ask("10:00", "10:03", side="mid")
    assert (times(answer), column(answer, "open")) == (["10:00", "10:02"], [100.5, 100.5])
    assert (column(answer, "provider"), column(answer, "volume")) == (["venue/other"] * 2, [None, None])
    assert answer.missing == (span("10:01", "10:02", "not_fetched", 1),)


# --- what is not there -------------------------------------------------------------------------------------------


def test_missing_spans_have_their_reasons() -> None:
    desk = Desk([row(t, 100.0) for t in ("10:00", "10:05", "10:06")])
    desk.records.note_spans(
        [
            answered("10:01", "10:03", "no_trades"),
            answered("10:03", "10:04", "quarantined"),
            answered("10:07", "10:08", "provider_lacks"),
            answered("10:08", "10:09", "no_trades", symbol=None),
            answered("10:09", "10:10", "no_trades", symbol=None, provider="stranger"),
        ]
    )
    answer = desk.ask("10:00", "10:10")
    assert answer.missing == (
        span("10:01", "10:03", "no_trades", 2),
        span("10:03", "10:04", "quarantined", 1),
        span("10:04", "10:05", "not_fetched", 1),
        span("10:07", "10:08", "provider_lacks", 1),
        span("10:08", "10:09", "no_trades", 1),
        span("10:09", "10:10", "not_fetched", 1),
    )
    assert not answer.complete
    assert desk.ask("10:00", "10:03").complete
    # the answers came at 11:30; nothing was known of them before
    assert desk.ask("10:00", "10:03", as_of_ns=at("11:00")).missing == (span("10:01", "10:03", "not_fetched", 2),)


def test_a_bar_is_missing_only_after_its_end_and_a_grace_of_90_seconds() -> None:
    desk = Desk([row("11:55", 100.0)])
    assert desk.ask("11:55", "13:00").missing == (span("11:56", "11:58", "not_fetched", 2),)


def test_closed_time_is_not_missing() -> None:
    nyse = Calendars().named("XNYS")
    # Friday 28 November 2025 closed at 13:00 New York, 18:00 UTC; Monday opened at 14:30 UTC.
    friday = [row(parse_ns("2025-11-28T17:58:00Z") + i * MINUTE, 100.0) for i in range(2)]
    monday = [row(parse_ns("2025-12-01T14:31:00Z"), 100.0)]
    answer = Desk([*friday, *monday], nyse).ask("2025-11-28T17:58:00Z", "2025-12-01T14:32:00Z")
    assert answer.missing == (span("2025-12-01T14:30:00Z", "2025-12-01T14:31:00Z", "not_fetched", 1),)


def test_a_bar_outside_the_session_is_not_partial_because_of_minutes_missing_around_it() -> None:
    nyse = Calendars().named("XNYS")
    friday = [row(parse_ns("2025-11-28T18:30:00Z") + i * MINUTE, 100.0) for i in range(3)]
    answer = Desk(friday, nyse).ask("2025-11-28T14:00:00Z", "2025-12-01T16:00:00Z", "1h")
    assert (times(answer), column(answer, "partial")) == (["18:00"], [False])


def test_time_that_the_calendar_does_not_know_is_never_complete() -> None:
    desk = Desk([row("10:00", 100.0)], Calendars().named("XNYS"))
    answer = desk.ask("1850-01-01", "1850-01-02", "1d")
    assert (answer.missing, answer.complete, answer.calendar) == ((), False, "XNYS")


def test_without_a_calendar_bars_are_given_and_nothing_is_complete() -> None:
    def none(symbol: str) -> Calendar:
        raise InvalidInput("calendar", symbol, "a symbol with one")

    desk = Desk([row("10:00", 100.0)])
    service = HistoryService(desk.store, desk.records, none, lambda _: (), desk.clock)
    answer = service.answer(query("10:00", "10:02"))
    assert (times(answer), answer.missing, answer.complete, answer.calendar) == (["10:00"], (), False, None)


def test_centuries_without_bars_are_one_span() -> None:
    desk = Desk([row("10:00", 100.0), row("10:02", 100.0)])
    desk.clock = ManualClock(parse_ns("2100-01-01"))
    desk.service = HistoryService(desk.store, desk.records, lambda _: AlwaysOpen(), lambda _: (), desk.clock)
    answer = desk.ask("1990-01-01", "2090-01-01")
    # 36,525 days less the days from 1990-01-01 to 2026-11-20 (13,472): 1,440 minutes each
    before, after = 13_472 * 1_440 + 600, 36_525 * 1_440 - (13_472 * 1_440 + 603)
    assert answer.missing == (
        span("1990-01-01", "10:00", "not_fetched", before),
        span("10:01", "10:02", "not_fetched", 1),
        span("10:03", "2090-01-01", "not_fetched", after),
    )
    assert [len(part.table) for part in desk.service.slices(query("1990-01-01", "2090-01-01"))] == [2]
    nothing = desk.service.answer(query("1800-01-01", "1900-01-01", fill="forward"))
    assert (nothing.table.num_rows, [m.count for m in nothing.missing]) == (0, [36_524 * 1_440])
    later = query("2030-01-01", "2090-01-01", fill="forward", limit=2, order="asc")
    assert times(desk.service.answer(later)) == ["00:00", "00:01"]


# --- pages and slices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, "asc", "desc"])
@pytest.mark.parametrize("interval", ["1m", "5m"])
def test_pages_together_are_the_whole(order: str | None, interval: str) -> None:
    gone = {3, 4, 17, 30, 31, 32}
    desk = Desk([row(at("10:00") + i * MINUTE, 100.0 + i) for i in range(40) if i not in gone])
    whole = desk.ask("10:00", "10:40", interval, order=order)
    ask: HistoryQuery | None = query("10:00", "10:40", interval, order=order, limit=3)
    pages = []
    while ask is not None:
        pages.append(desk.service.answer(ask))
        ask = pages[-1].rest
    assert all(page.table.num_rows == 3 for page in pages[:-1])
    if order is None:
        pages.reverse()
    assert pa.concat_tables([page.table for page in pages]).equals(whole.table)
    pages.sort(key=lambda page: page.start_ns)
    assert [page.end_ns for page in pages[:-1]] == [page.start_ns for page in pages[1:]]
    counted = sum(s.count for page in pages for s in page.missing)
    assert counted == sum(s.count for s in whole.missing)


def test_pages_are_of_one_moment() -> None:
    desk = Desk([row(at("10:00") + i * MINUTE, 100.0) for i in range(6)])
    first = desk.ask("10:00", "10:06", limit=3, order="asc")
    assert first.rest is not None
    assert first.rest.as_of_ns == parse_ns(NOW)
    changed = row("10:04", 900.0, status="corrected", as_of=parse_ns(NOW) + 1)
    desk.store.append(pa.Table.from_pylist([changed], BAR_SCHEMA))
    assert column(desk.service.answer(first.rest), "open") == [100.0, 100.0, 100.0]
    assert column(desk.ask("10:00", "10:06"), "open") == [100.0, 100.0, 100.0, 100.0, 900.0, 100.0]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(("interval", "fill"), [("1m", None), ("5m", None), ("1m", "forward")])
def test_slices_of_any_size_are_the_same_answer(
    order: str, interval: str, fill: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {3, 4, 17, 30, 31, 32, 90, *range(200, 290)}
    desk = Desk([row(at("05:00") + i * MINUTE, 100.0 + i) for i in range(300) if i not in gone])
    ask = query("04:50", "10:10", interval, order=order, fill=fill)
    whole = desk.service.answer(ask)
    for rows, slots in ((7, 600_000), (1_000, 13), (11, 17)):
        for name in ("_ROWS", "_ROWS_COUNTED"):
            monkeypatch.setattr(f"marketd.continuity.history.{name}", min(rows, 100))
        monkeypatch.setattr("marketd.continuity.history._SLOTS", slots)
        monkeypatch.setattr("marketd.continuity.history._SLOTS_FILLED", slots)
        slices = list(desk.service.slices(ask))
        assert len(slices) > 1
        assert not any(s.is_whole(ask) for s in slices)
        assert pa.concat_tables([s.table for s in slices]).equals(whole.table)
        assert sum(m.count for s in slices for m in s.missing) == sum(m.count for m in whole.missing)
        assert {s.complete for s in slices} >= {whole.complete}
        outline = desk.service.outline(ask)
        assert (outline.missing, outline.complete) == (whole.missing, whole.complete)
        assert desk.service.answer(ask).table.equals(whole.table)


_PLACES = st.sets(st.integers(0, 5_000), max_size=80)


@settings(max_examples=40, deadline=None)
@given(_PLACES, st.integers(1, 30), st.sampled_from(["1s", "1m"]), st.sampled_from(["asc", "desc"]))
def test_slices_are_counted_beforehand(places: set[int], rows: int, interval: str, order: str) -> None:
    """Over the turn of a year and of months: as many bars as are allowed and no more, and no slice more than needed."""
    step_ns = {"1s": 1_000_000_000, "1m": MINUTE}[interval]
    first_ns = parse_ns("2025-12-31T23:00:00Z")
    starts = [first_ns + n * step_ns * 17 for n in sorted(places)]
    desk = Desk([row(ts, 1.0, interval) for ts in starts])
    asked = query("2025-12-31T00:00:00Z", "2026-03-15T00:00:00Z", interval, order=order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marketd.continuity.history._ROWS_COUNTED", rows)
        slices = list(desk.service.slices(asked))
    given = [ts for s in slices for ts in s.table["ts"].cast(pa.int64()).to_pylist()]
    assert given == (starts if order == "asc" else starts[::-1])
    assert all(s.table.num_rows <= rows for s in slices)
    assert all(one.table.num_rows + next_.table.num_rows > rows for one, next_ in itertools.pairwise(slices))
    assert [s.is_whole(asked) for s in slices] == [len(slices) == 1] * len(slices)
    covered = sorted((s.start_ns, s.end_ns) for s in slices)
    assert [end for _, end in covered] == [*(start for start, _ in covered[1:]), asked.end_ns]
    assert covered[0][0] == asked.start_ns


_NOONS = st.sets(st.integers(0, 239), max_size=60)


@settings(max_examples=40, deadline=None)
@given(_NOONS, _NOONS, st.sampled_from(["trade", "bid", "mid"]), st.integers(1, 300), st.sampled_from(["24/7", "FX"]))
def test_the_outline_says_what_the_bars_would(
    bids: set[int], asks: set[int], side: str, slots: int, calendar: str
) -> None:
    """Around Friday's close of FX, and up to minutes that are not over; without reading a bar."""
    start_ns = parse_ns("2026-11-20T20:00Z")
    sides = {"bid": bids, "ask": asks, "trade": bids}
    rows = [row(start_ns + n * MINUTE, 1.0, side=name) for name, places in sides.items() for n in places]
    desk = Desk(rows, Calendars().named(calendar), now="2026-11-20T23:30Z")
    desk.records.note_spans([answered("2026-11-20T20:10:00Z", "2026-11-20T20:40:00Z", "no_trades")])
    asked = query("2026-11-20T19:00:00Z", "2026-11-21T00:00:00Z", side=side)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marketd.continuity.history._SLOTS", slots)
        told, whole = desk.service.outline(asked), desk.service.answer(asked)
    assert told.table.num_rows == 0
    assert told.complete == whole.complete

    def counted(answer: HistoryAnswer) -> list[tuple[int, str, int]]:
        return [(s.start_ns, s.reason, s.count) for s in answer.missing]

    assert counted(told) == counted(whole)


# --- filling and adjustment ----------------------------------------------------------------------------------------


def test_filled_bars_repeat_the_close_and_say_so() -> None:
    desk = Desk([row("09:58", 50.0), row("10:01", 100.0), row("10:04", 110.0)])
    answer = desk.ask("10:00", "10:06", fill="forward")
    assert times(answer) == ["10:00", "10:01", "10:02", "10:03", "10:04", "10:05"]
    assert column(answer, "filled") == [True, False, True, True, False, True]
    for name in ("open", "high", "low"):
        assert [v for v, f in zip(column(answer, name), column(answer, "filled"), strict=True) if f] == [
            51.0,
            101.0,
            101.0,
            111.0,
        ]
    assert column(answer, "close") == [51.0, 101.0, 101.0, 101.0, 111.0, 111.0]
    assert column(answer, "volume") == [None, 10.0, None, None, 10.0, None]
    assert column(answer, "trades") == [None, 2, None, None, 2, None]
    # filling hides nothing
    assert sum(m.count for m in answer.missing) == 4
    assert not answer.complete


def test_nothing_is_filled_before_the_first_bar_or_before_its_time() -> None:
    desk = Desk([row("11:56", 100.0)])
    answer = desk.ask("11:54", "13:00", fill="forward")
    assert (times(answer), column(answer, "filled")) == (["11:56", "11:57"], [False, True])
    assert times(desk.ask("11:50", "11:56", fill="forward")) == []


def _split(ratio: float, ex: str, as_of: str, provider: str = "venue") -> CorporateAction:
    return CorporateAction(symbol="X", kind="split", ex_ns=at(ex), provider=provider, as_of_ns=at(as_of), ratio=ratio)


def _dividend(amount: float, ex: str) -> CorporateAction:
    return CorporateAction(
        symbol="X", kind="dividend", ex_ns=at(ex), provider="venue", as_of_ns=at("2026-11-01"), amount=amount,
        currency="USD",
    )  # fmt: skip


def _days() -> list[dict[str, Any]]:
    return [row(parse_ns("2026-11-02") + i * DAY, 100.0, "1d") for i in range(5)]


def test_prices_before_a_split_are_divided_and_only_once_it_is_known() -> None:
    desk = Desk(_days())
    desk.records.add_actions([_split(4.0, "2026-11-04", "2026-11-03T12:00:00Z")])
    raw = desk.ask("2026-11-02", "2026-11-07", "1d")
    assert column(raw, "open") == [100.0] * 5
    assert raw.actions == ()
    split = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="split")
    assert column(split, "open") == [25.0, 25.0, 100.0, 100.0, 100.0]
    assert column(split, "volume") == [40.0, 40.0, 10.0, 10.0, 10.0]
    assert [(a.ratio, a.ex_ns) for a in split.actions] == [(4.0, at("2026-11-04"))]
    codes = ["already_adjusted", "single_source"]  # the price went on at 100
    assert [(mark.code, mark.ex_ns) for mark in split.marks] == [(code, at("2026-11-04")) for code in codes]
    before = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="split", as_of_ns=at("2026-11-03T11:59:59Z"))
    assert set(column(before, "open")) == {100.0}


def test_an_action_after_the_range_counts_and_a_dividend_is_measured_by_the_close_before_it() -> None:
    desk = Desk(_days())
    desk.records.add_actions([_dividend(10.1, "2026-11-05")])
    # close 101 before it: prices before are worth 1 - 10.1 / 101 = 0.9 of what they were
    answer = desk.ask("2026-11-02", "2026-11-04", "1d", adjustment="all")
    assert column(answer, "open") == pytest.approx([90.0, 90.0], rel=1e-12)
    assert column(desk.ask("2026-11-02", "2026-11-04", "1d", adjustment="split"), "open") == [100.0, 100.0]


def test_weeks_are_adjusted_day_by_day() -> None:
    desk = Desk([row(parse_ns("2026-11-02") + i * DAY, 100.0 if i < 2 else 25.0, "1d") for i in range(7)])
    desk.records.add_actions([_split(4.0, "2026-11-04", "2026-11-03T12:00:00Z")])
    answer = desk.ask("2026-11-02", "2026-11-09", "1w", adjustment="split")
    assert [column(answer, n) for n in ("open", "high", "low", "close")] == [[25.0], [27.0], [24.0], [26.0]]


# --- days of sessions ----------------------------------------------------------------------------------------------


def _minutes(first: str, last: str, price: float, **changes: Any) -> list[dict[str, Any]]:
    """Every minute from one to another, both included: the first opens at the price, each a hundredth higher."""
    start_ns = parse_ns(first + "Z")
    count = (parse_ns(last + "Z") - start_ns) // MINUTE + 1
    return [row(start_ns + n * MINUTE, price + n / 100, **changes) for n in range(count)]


def _dated(answer: HistoryAnswer) -> list[str]:
    return [format_ns(ts)[:10] for ts in answer.table["ts"].cast(pa.int64()).to_pylist()]


def _sydney() -> list[dict[str, Any]]:
    """Friday 10, Monday 13 and Tuesday 14 January 2025: 10:00 to 16:00, at 23:00 UTC on the day before."""
    return [
        *_minutes("2025-01-09T23:00", "2025-01-10T04:59", 100.0),
        *_minutes("2025-01-12T23:00", "2025-01-13T04:59", 200.0),
        row(parse_ns("2025-01-13T05:10Z"), 250.0),  # the auction after the close
        *_minutes("2025-01-13T23:00", "2025-01-14T04:59", 300.0),
    ]


def test_a_day_in_sydney_is_its_session() -> None:
    answer = Desk(_sydney(), Calendars().named("XASX")).ask("2025-01-09", "2025-01-15", "1d")
    assert _dated(answer) == ["2025-01-10", "2025-01-13", "2025-01-14"]
    assert column(answer, "open") == [100.0, 200.0, 300.0]
    assert column(answer, "close") == pytest.approx([104.59, 251.0, 304.59])
    assert column(answer, "volume") == [3_600.0, 3_610.0, 3_600.0]
    assert column(answer, "partial") == [False] * 3
    # the 9th was a session of which nothing is there
    assert answer.missing == (span("2025-01-09", "2025-01-10", "not_fetched", 1),)
    assert Desk(_sydney(), Calendars().named("XASX")).ask("2025-01-10", "2025-01-15", "1d").complete


def test_a_week_in_sydney_begins_with_mondays_session() -> None:
    answer = Desk(_sydney(), Calendars().named("XASX")).ask("2025-01-06", "2025-01-20", "1w")
    assert (_dated(answer), column(answer, "open")) == (["2025-01-06", "2025-01-13"], [100.0, 200.0])
    assert column(answer, "partial") == [True, True]  # four and three sessions are missing


def test_one_minute_that_is_missing_in_the_evening_before_makes_the_day_partial() -> None:
    rows = [r for r in _sydney() if r["ts"] != parse_ns("2025-01-13T23:30Z")]
    desk = Desk(rows, Calendars().named("XASX"))
    assert column(desk.ask("2025-01-10", "2025-01-15", "1d"), "partial") == [False, False, True]
    desk.records.note_spans([answered("2025-01-13T23:30:00Z", "2025-01-13T23:31:00Z", "no_trades")])
    answer = desk.ask("2025-01-10", "2025-01-15", "1d")
    assert (column(answer, "partial"), answer.complete) == ([False] * 3, True)


def test_a_day_of_futures_begins_in_the_evening_before() -> None:
    """Sunday 1 June 2025, 17:00 Chicago (22:00 UTC) to Monday 16:00; then Tuesday. Saturday and Sunday have none."""
    rows = [
        *_minutes("2025-06-01T22:00", "2025-06-02T20:59", 100.0),
        *_minutes("2025-06-02T22:00", "2025-06-03T20:59", 200.0),
    ]
    for interval in ("1m", "1h"):
        kept = rows if interval == "1m" else [r | {"interval": "1h"} for r in rows if r["ts"] % HOUR == 0]
        answer = Desk(kept, Calendars().named("CME")).ask("2025-05-31", "2025-06-04", "1d")
        assert _dated(answer) == ["2025-06-02", "2025-06-03"]
        assert column(answer, "open") == [100.0, 200.0]
        assert column(answer, "volume") == [10.0 * (1_380 if interval == "1m" else 23)] * 2
        assert (answer.missing, answer.complete) == ((), True)


def test_bars_of_four_hours_make_no_day_of_sessions() -> None:
    """20:00 UTC holds the end of one session and the beginning of the next."""
    rows = [row(parse_ns("2025-06-01T20:00Z") + n * 4 * HOUR, 100.0, "4h") for n in range(12)]
    assert Desk(rows, Calendars().named("CME")).ask("2025-06-01", "2025-06-04", "1d").table.num_rows == 0
    assert Desk(rows).ask("2025-06-02", "2025-06-03", "1d").table.num_rows == 1


def test_the_running_session_is_told_under_its_date() -> None:
    """At 23:30 UTC on Thursday 19 November 2026, Friday's session in Sydney is half an hour old."""
    rows = _minutes("2026-11-19T23:00", "2026-11-19T23:28", 100.0)
    desk = Desk(rows, Calendars().named("XASX"), now="2026-11-19T23:30Z")
    live = Bar(
        symbol="X", interval="1m", side="trade", ts_ns=parse_ns("2026-11-19T23:29Z"), open=7.0, high=7.0, low=7.0,
        close=7.0, volume=None, vwap=None, trades=1, provider="venue", status="live", as_of_ns=at("12:00"),
    )  # fmt: skip
    answer = desk.ask("2026-11-20", "2026-11-21", "1d", live=[live])
    assert (_dated(answer), column(answer, "open"), column(answer, "close")) == (["2026-11-20"], [100.0], [7.0])
    assert desk.ask("2026-11-19", "2026-11-20", "1d", live=[live]).table.num_rows == 0
    until = [desk.service.present_end("X", Interval.parse(name)) for name in ("1d", "1m")]
    assert until == [parse_ns("2026-11-21"), parse_ns("2026-11-19T23:30Z")]
    assert Desk([]).service.present_end("X", Interval.parse("1d")) == parse_ns(NOW)


@pytest.mark.parametrize("order", ["asc", "desc", None])
@pytest.mark.parametrize(("rows", "slots"), [(131_072, 600_000), (400, 600_000), (131_072, 2_000), (721, 1_500)])
def test_slices_of_days_of_sessions_are_the_same_answer(
    monkeypatch: pytest.MonkeyPatch, order: str | None, rows: int, slots: int
) -> None:
    desk = Desk(_sydney(), Calendars().named("XASX"))
    whole = desk.ask("2025-01-06", "2025-01-20", "1d", order=order)
    monkeypatch.setattr("marketd.continuity.history._ROWS", rows)
    monkeypatch.setattr("marketd.continuity.history._SLOTS", slots)
    again = desk.ask("2025-01-06", "2025-01-20", "1d", order=order)
    assert (again.table, again.complete) == (whole.table, whole.complete)
    assert [(s.start_ns, s.count) for s in again.missing] == [(s.start_ns, s.count) for s in whole.missing]
    pages: list[pa.Table] = []
    asked: HistoryQuery | None = query("2025-01-06", "2025-01-20", "1d", order=order, limit=1)
    while asked is not None:
        page = desk.service.answer(asked)
        pages.append(page.table)
        asked = page.rest
    ordered = pages if order else pages[::-1]
    assert pa.concat_tables(ordered).equals(whole.table)


def test_days_of_an_old_century_are_one_span_at_an_exchange_too() -> None:
    answer = Desk(_sydney(), Calendars().named("XASX")).ask("1800-01-01T00:00:00Z", "2025-01-15", "1d")
    assert _dated(answer) == ["2025-01-10", "2025-01-13", "2025-01-14"]
    assert not answer.complete


# --- actions and sessions ------------------------------------------------------------------------------------------


def test_an_ex_date_begins_with_its_session() -> None:
    """2 for 1 on 14 January 2025 in Sydney: the minute of 23:00 UTC on the 13th is the first without."""
    rows = [
        row(parse_ns(f"2025-01-{t}Z"), price)
        for t, price in (("12T23:00", 200.0), ("13T04:59", 201.0), ("13T23:00", 100.0), ("14T04:59", 101.0))
    ]
    desk = Desk(rows, Calendars().named("XASX"))
    desk.records.add_actions([_split(2.0, "2025-01-14", "2025-01-10T00:00:00Z")])
    answer = desk.ask("2025-01-12", "2025-01-15", adjustment="split")
    assert column(answer, "open") == [100.0, 100.5, 100.0, 101.0]
    assert [mark.code for mark in answer.marks] == ["single_source"]
    days = desk.ask("2025-01-12", "2025-01-15", "1d", adjustment="split")
    assert (_dated(days), column(days, "open"), column(days, "close")) == (
        ["2025-01-13", "2025-01-14"],
        [100.0, 100.0],
        [101.0, 102.0],
    )
    late = desk.ask("2025-01-13T23:00:00Z", "2025-01-15", adjustment="split")
    assert (column(late, "open"), late.actions) == ([100.0, 101.0], ())


def test_an_action_that_is_not_in_force_is_told() -> None:
    desk = Desk(_days())
    desk.records.add_actions([_split(4.0, "2026-11-25", "2026-11-03T12:00:00Z"), _dividend(1.0, "2026-11-26")])
    answer = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="all")
    assert (column(answer, "open"), answer.actions) == ([100.0] * 5, ())
    assert [(m.code, m.kind) for m in answer.marks] == [
        *(("not_in_force", "split"), ("single_source", "split")),
        *(("not_in_force", "dividend"), ("single_source", "dividend")),
    ]
    split = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="split")
    assert {m.kind for m in split.marks} == {"split"}


def test_dividends_that_cannot_be_taken_off_are_told() -> None:
    desk = Desk(_days(), now="2026-12-20")
    desk.records.add_actions([_dividend(101.0, "2026-11-04"), _dividend(1.0, "2026-11-30")])
    answer = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="all")
    assert column(answer, "open") == [100.0] * 5
    codes = {(format_ns(m.ex_ns)[:10], m.code) for m in answer.marks}
    assert codes == {
        *(("2026-11-04", "dividend_exceeds_price"), ("2026-11-04", "single_source")),
        *(("2026-11-30", "no_previous_close"), ("2026-11-30", "single_source")),
    }


def test_slices_and_outline_tell_the_same_marks_whatever_part_of_it_they_are_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(_days())
    desk.records.add_actions([_split(4.0, "2026-11-04", "2026-11-03T12:00:00Z")])
    asked = query("2026-11-02", "2026-11-07", "1d", adjustment="split")
    whole = desk.service.answer(asked)
    assert [m.code for m in whole.marks] == ["already_adjusted", "single_source"]
    monkeypatch.setattr("marketd.continuity.history._ROWS", 2)
    parts = list(desk.service.slices(asked))
    assert len(parts) > 2
    assert {part.marks for part in parts} == {whole.marks} == {desk.service.outline(asked).marks}
    assert pa.concat_tables([part.table for part in parts]).equals(whole.table)


def test_prices_that_were_adjusted_before_they_came_are_not_adjusted_again() -> None:
    early = [r | {"provider": "file:adjusted", "open": 25.0} for r in _days()[:1]]
    desk = Desk([*early, *_days()[1:]])
    desk.records.add_actions([_split(4.0, "2026-11-04", "2026-11-03T12:00:00Z")])
    mixed = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="split")
    assert column(mixed, "open") == [25.0, 25.0, 100.0, 100.0, 100.0]
    desk = Desk([r | {"provider": "file:adjusted"} for r in _days()])
    desk.records.add_actions([_split(4.0, "2026-11-04", "2026-11-03T12:00:00Z"), _dividend(10.1, "2026-11-05")])
    answer = desk.ask("2026-11-02", "2026-11-07", "1d", adjustment="all")
    assert column(answer, "open") == [100.0] * 5
    told = [m for m in answer.marks if m.code != "single_source"]
    assert [(m.code, m.kind) for m in told] == [("already_adjusted", "split"), ("already_adjusted", "dividend")]
    assert "file:adjusted" in told[0].detail


def test_a_dividend_is_measured_by_the_days_own_close_where_it_is_known() -> None:
    """The last minute traded at 110 after the close, which was 101."""
    minute = row(parse_ns("2026-11-04T23:00:00Z"), 109.0)
    desk = Desk([*_days(), minute])
    desk.records.add_actions([_dividend(10.1, "2026-11-05")])
    answer = desk.ask("2026-11-02", "2026-11-04", "1d", adjustment="all")
    assert column(answer, "open") == pytest.approx([90.0, 90.0], rel=1e-12)


# --- the rest ------------------------------------------------------------------------------------------------------


def test_stored_days_that_differ_from_their_minutes_are_told() -> None:
    day = parse_ns("2026-11-10")
    minutes = [row(day + i * MINUTE, 100.0) for i in range(1_440)]
    same = row(day, 100.0, "1d", volume=14_400.0)
    desk = Desk([*minutes, same, row(day + DAY, 100.0), row(day + DAY, 90.0, "1d"), row(day + 2 * DAY, 1.0, "1d")])
    compared, found = desk.service.disagreements("X", Interval.parse("1d"), day, day + 5 * DAY)
    assert compared == 2
    (one,) = found
    assert (one.stored.open, one.rolled.open, one.partial) == (90.0, 100.0, True)
    assert one.fields == ("open", "high", "low", "close")
    with pytest.raises(InvalidInput, match="interval"):
        desk.service.disagreements("X", Interval.parse("1m"), day, day + DAY)


def test_what_cannot_be_asked_is_named() -> None:
    desk = Desk([])
    with pytest.raises(InvalidInput, match="limit"):
        desk.ask("10:00", "10:01", limit=0)
    with pytest.raises(InvalidInput, match="start_ns"):
        desk.ask("10:01", "10:01")
    assert desk.ask("10:00", "10:01").table.schema == HISTORY_SCHEMA
    desk.store.close()
    with pytest.raises(StoreError):
        desk.ask("10:00", "10:01")
