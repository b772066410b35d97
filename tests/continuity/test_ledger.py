"""The ledger over real stores: typed accounts, and one day counted in three ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import Calendars, SessionCalendar, VenueConfig
from marketd.continuity.ledger import LedgerConfig, LedgerService
from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA, AnsweredSpan, Cursor, Instrument, Interval, format_ns, parse_ns
from marketd.store.memory import MemoryStore
from marketd.store.sqlite import SqliteRecords
from marketd.testing import ManualClock

M1, M5, D1, W1 = (Interval.parse(n) for n in ("1m", "5m", "1d", "1w"))
FRIDAY = parse_ns("2025-11-28")  # New York closes at 13:00: 210 minutes from 14:30 UTC
OPEN = parse_ns("2025-11-28T14:30:00Z")
LATER = parse_ns("2025-12-01T12:00:00Z")
DAY_NS = 86_400 * 10**9


def bars(symbol: str, ts: Sequence[int], interval: str = "1m", side: str = "trade", status: str = "final") -> pa.Table:
    count = len(ts)
    return pa.table(
        {
            "symbol": [symbol] * count, "interval": [interval] * count, "side": [side] * count,
            "ts": pa.array(ts, pa.int64()).cast(pa.timestamp("ns", tz="UTC")),
            "open": [1.0] * count, "high": [1.0] * count, "low": [1.0] * count, "close": [1.0] * count,
            "volume": [1.0] * count, "vwap": [1.0] * count, "trades": [1] * count,
            "provider": ["yahoo"] * count, "status": [status] * count,
            "as_of": pa.array([LATER + (status == "withdrawn")] * count, pa.int64()).cast(pa.timestamp("ns", tz="UTC")),
        },
        schema=BAR_SCHEMA,
    )  # fmt: skip


def minutes(*numbers: int) -> list[int]:
    """Starts of minutes of the half day, 0 is the opening."""
    return [OPEN + n * M1.ns for n in numbers]


class Desk:
    """A store, records, and a ledger over them. calendars: by symbol; New York for others."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.records = SqliteRecords(None)
        self.clock = ManualClock(LATER)
        self.calendars: dict[str, str] = {}
        self.providers: dict[str, list[str]] = {}
        named = Calendars()
        self.ledger = LedgerService(
            self.store,
            self.records,
            lambda symbol: named.named(self.calendars.get(symbol, "XNYS")),
            lambda symbol: self.providers.get(symbol, ["yahoo"]),
            self.clock,
            LedgerConfig(grace_s=60, grace_daily_s=3600),
        )

    def note(
        self,
        symbol: str | None,
        low: int,
        high: int,
        reason: Literal["no_trades", "provider_lacks", "quarantined"],
        provider: str = "yahoo",
    ) -> None:
        span = AnsweredSpan(
            symbol=symbol, interval="1m", provider=provider, start_ns=OPEN + low * M1.ns, end_ns=OPEN + high * M1.ns,
            reason=reason, as_of_ns=self.clock.time_ns(),
        )  # fmt: skip
        self.records.note_spans([span])

    def close(self) -> None:
        self.records.close()
        self.store.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk()
    yield one
    one.close()


def test_the_account_of_a_half_day(desk: Desk) -> None:
    desk.store.append(bars("AAPL", minutes(*range(-5, 100), *range(103, 206))))
    desk.note("AAPL", 206, 208, "no_trades")
    desk.note("AAPL", 208, 209, "quarantined")
    desk.records.set_cursors([Cursor(symbol="AAPL", interval="1m", provider="yahoo", until_ns=OPEN, updated_ns=LATER)])
    ledger = desk.ledger.ledger("AAPL", M1, FRIDAY, FRIDAY + DAY_NS)
    assert (ledger.expected, ledger.present, ledger.outside) == (210, 203, 5)
    assert ledger.missing == {"not_fetched": 4, "provider_lacks": 0, "no_trades": 2, "quarantined": 1}
    assert [(format_ns(s.start_ns)[11:16], format_ns(s.end_ns)[11:16], s.reason, s.count) for s in ledger.spans] == [
        ("16:10", "16:13", "not_fetched", 3),
        ("17:56", "17:58", "no_trades", 2),
        ("17:58", "17:59", "quarantined", 1),
        ("17:59", "18:00", "not_fetched", 1),
    ]
    assert not ledger.complete
    assert (ledger.calendar, ledger.side, ledger.base) == ("XNYS", "trade", "1m")
    assert [c.provider for c in ledger.cursors] == ["yahoo"]


def test_a_day_with_all_that_traded_is_complete_and_says_so_as_json(desk: Desk) -> None:
    desk.store.append(bars("AAPL", minutes(*range(209))))
    desk.note("AAPL", 209, 210, "no_trades")
    told = desk.ledger.ledger("AAPL", M1, FRIDAY, FRIDAY + DAY_NS, closed=True).as_json()
    assert told["complete"] is True
    assert told["start"] == "2025-11-28T00:00:00Z"
    assert told["missing"] == {"not_fetched": 0, "provider_lacks": 0, "no_trades": 1, "quarantined": 0}
    assert told["spans"] == [
        {"start": "2025-11-28T00:00:00Z", "end": "2025-11-28T14:30:00Z", "reason": "closed", "count": 0},
        {"start": "2025-11-28T17:59:00Z", "end": "2025-11-28T18:00:00Z", "reason": "no_trades", "count": 1},
        {"start": "2025-11-28T18:00:00Z", "end": "2025-11-29T00:00:00Z", "reason": "closed", "count": 0},
    ]


def test_a_bar_can_be_missing_only_when_it_has_been_over_for_the_grace(desk: Desk) -> None:
    desk.clock = clock = ManualClock(OPEN + 10 * M1.ns + 30 * 10**9)
    ledger = LedgerService(
        desk.store, desk.records, lambda _: Calendars().named("XNYS"), lambda _: (), clock, LedgerConfig(grace_s=60)
    )
    desk.store.append(bars("AAPL", minutes(0, 1, 2, 9)))
    found = ledger.ledger("AAPL", M1, FRIDAY, FRIDAY + DAY_NS)
    # At 14:40:30 the bar of 14:38 has been over for 90 seconds, that of 14:39 for 30.
    assert (found.expected, found.present, found.missing["not_fetched"], found.outside) == (9, 3, 6, 0)
    assert ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS).expected.tolist() == [[9]]
    assert [s.count for s in ledger.scan(M1, FRIDAY, FRIDAY + DAY_NS)[0].spans] == [6]
    nothing_yet = ledger.ledger("AAPL", M1, OPEN + 60 * M1.ns, FRIDAY + DAY_NS)
    assert (nothing_yet.expected, nothing_yet.complete) == (0, True)


def test_an_answer_for_all_symbols_counts_for_those_that_the_provider_serves(desk: Desk) -> None:
    desk.providers = {"AAPL": ["stream"], "MSFT": ["yahoo"]}
    for symbol in ("AAPL", "MSFT"):
        desk.store.append(bars(symbol, minutes(*range(200))))
    desk.note(None, 0, 210, "no_trades", "stream")
    assert desk.ledger.ledger("AAPL", M1, FRIDAY, FRIDAY + DAY_NS).complete
    assert not desk.ledger.ledger("MSFT", M1, FRIDAY, FRIDAY + DAY_NS).complete
    heat = desk.ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS)
    assert (heat.explained.tolist(), heat.missing.tolist()) == ([[10], [0]], [[0], [10]])
    assert [g.symbol for g in desk.ledger.scan(M1, FRIDAY, FRIDAY + DAY_NS)] == ["MSFT"]


def test_a_symbol_without_trades_is_counted_by_its_bids(desk: Desk) -> None:
    desk.store.append(bars("EURUSD", minutes(*range(210)), side="bid"))
    ledger = desk.ledger.ledger("EURUSD", M1, FRIDAY, FRIDAY + DAY_NS)
    assert (ledger.side, ledger.complete, ledger.present) == ("bid", True, 210)
    assert desk.ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS, ["EURUSD", "NONE"]).present.tolist() == [[210], [0]]
    asked = desk.ledger.ledger("EURUSD", M1, FRIDAY, FRIDAY + DAY_NS, side="trade")
    assert (asked.side, asked.present, asked.missing["not_fetched"]) == ("trade", 0, 210)


def test_longer_bars_that_are_made_of_minutes_are_accounted_for_in_minutes(desk: Desk) -> None:
    desk.store.append(bars("AAPL", minutes(*range(100))))
    ledger = desk.ledger.ledger("AAPL", M5, FRIDAY, FRIDAY + DAY_NS)
    assert (ledger.interval, ledger.base, ledger.expected, ledger.present) == ("5m", "1m", 210, 100)
    desk.store.append(bars("AAPL", [OPEN], "5m"))
    ledger = desk.ledger.ledger("AAPL", M5, FRIDAY, FRIDAY + DAY_NS)
    assert (ledger.base, ledger.expected, ledger.present) == ("5m", 42, 1)


def test_a_bar_that_was_taken_back_is_absent(desk: Desk) -> None:
    desk.store.append(bars("AAPL", minutes(*range(210))))
    desk.store.append(bars("AAPL", minutes(7), status="withdrawn"))
    ledger = desk.ledger.ledger("AAPL", M1, FRIDAY, FRIDAY + DAY_NS)
    assert [(s.start_ns, s.count) for s in ledger.spans] == [(OPEN + 7 * M1.ns, 1)]


def test_daily_and_weekly_bars(desk: Desk) -> None:
    desk.calendars = {"BHP": "XASX"}
    start, end = parse_ns("2025-11-17"), parse_ns("2025-12-01")
    desk.store.append(bars("AAPL", [start + n * DAY_NS for n in (0, 1, 2, 3, 4, 7, 8, 9)], "1d"))
    ledger = desk.ledger.ledger("AAPL", D1, start, end)
    assert (ledger.expected, ledger.present) == (9, 8)  # Thanksgiving is none
    assert [format_ns(s.start_ns)[:10] for s in ledger.spans] == ["2025-11-28"]
    weekly = desk.ledger.ledger("BHP", W1, start, end)
    assert [(format_ns(s.start_ns)[:10], s.count) for s in weekly.spans] == [("2025-11-17", 2)]
    heat = desk.ledger.heat_map(D1, start, end, ["AAPL"])
    assert heat.expected.tolist() == [[1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 0]]
    assert heat.missing.sum() == 1
    weeks = desk.ledger.heat_map(W1, start, end, ["AAPL"])
    assert [format_ns(w)[:10] for w in weeks.days_ns] == ["2025-11-17", "2025-11-24"]
    assert weeks.expected.tolist() == [[1, 1]]
    desk.clock = ManualClock(end + 3599 * 10**9)  # the week of the 24th is over, but for less than the grace
    earlier = LedgerService(
        desk.store,
        desk.records,
        lambda _: Calendars().named("XNYS"),
        lambda _: (),
        desk.clock,
        LedgerConfig(grace_daily_s=3600),
    )
    assert earlier.heat_map(W1, start, end, ["AAPL"]).expected.tolist() == [[1, 0]]


def test_the_heat_map_has_a_row_a_symbol_and_names_those_it_cannot_judge(desk: Desk) -> None:
    desk.calendars = {"BTC": "24/7", "ODD": "XNYC"}
    desk.store.append(bars("BTC", minutes(*range(10))))
    desk.store.append(bars("AAPL", minutes(*range(210))))
    heat = desk.ledger.heat_map(M1, FRIDAY + 5, FRIDAY + DAY_NS + 5, ["BTC", "ODD", "AAPL", "BTC"])
    assert heat.symbols == ("AAPL", "BTC")
    assert [format_ns(d)[:10] for d in heat.days_ns] == ["2025-11-28", "2025-11-29"]
    assert heat.expected.tolist() == [[210, 0], [1440, 1440]]
    assert heat.missing.tolist() == [[0, 0], [1430, 1440]]
    assert "XNYC" in heat.unknown["ODD"]
    assert heat.as_json()["days"] == ["2025-11-28", "2025-11-29"]
    assert not heat.complete
    assert not desk.ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS, ["AAPL", "ODD"]).complete
    assert desk.ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS, ["AAPL"]).complete
    assert desk.ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS, []).as_json()["missing"] == []


def test_the_scan_is_about_the_active_ones_of_the_universe(desk: Desk) -> None:
    desk.store.append(bars("OLD", minutes(0)))
    assert desk.ledger.symbols() == ("OLD",)
    universe = [Instrument(id="A", symbol="A"), Instrument(id="OLD", symbol="OLD", active=False)]
    desk.records.save_universe(universe, source="test", as_of_ns=1)
    assert desk.ledger.symbols() == ("A",)
    [gaps] = desk.ledger.scan(M1, FRIDAY, FRIDAY + DAY_NS)
    assert (gaps.symbol, gaps.interval, [s.count for s in gaps.spans]) == ("A", "1m", [210])


def test_the_scan_leaves_out_what_was_answered(desk: Desk) -> None:
    desk.store.append(bars("A", minutes(*range(50))))
    desk.note("A", 50, 60, "provider_lacks")
    desk.note("A", 60, 70, "quarantined")
    desk.note("A", 70, 80, "no_trades")
    [gaps] = desk.ledger.scan(M1, FRIDAY, FRIDAY + DAY_NS)
    assert [(s.start_ns, s.count, s.reason) for s in gaps.spans] == [(OPEN + 80 * M1.ns, 130, "not_fetched")]


def test_a_range_that_ends_before_it_starts_is_refused(desk: Desk) -> None:
    for ask in (lambda: desk.ledger.ledger("A", M1, 1, 0), lambda: desk.ledger.scan(M1, 1, 0)):
        with pytest.raises(InvalidInput, match="end: "):
            ask()


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", True])
def test_a_wrong_grace_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="grace_daily_s"):
        LedgerConfig(grace_daily_s=value)


slots = st.sets(st.integers(0, 59))
notes = st.lists(
    st.tuples(
        st.sampled_from(["A", "B", None]),
        st.integers(0, 59),
        st.integers(1, 20),
        st.sampled_from(["no_trades", "provider_lacks", "quarantined"]),
        st.sampled_from(["p", "q"]),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(a=slots, b=slots, noted=notes, serves=st.sets(st.sampled_from(["p", "q"])), pause=st.integers(0, 25))
def test_ledger_heat_map_and_scan_agree(a: set[int], b: set[int], noted: Any, serves: set[str], pause: int) -> None:
    venue = VenueConfig(
        time_zone="UTC", open="Fri 14:30", close="Fri 15:20", breaks=(f"14:{30 + pause}-14:58",) if pause else ()
    )
    calendar = SessionCalendar("short", venue)
    store, records, clock = MemoryStore(), SqliteRecords(None), ManualClock(LATER)
    try:
        for symbol, there in (("A", a), ("B", b)):
            if there:
                store.append(bars(symbol, minutes(*sorted(there))))
        for number, (symbol, low, length, reason, provider) in enumerate(noted):
            span = AnsweredSpan(
                symbol=symbol, interval="1m", provider=provider, start_ns=OPEN + low * M1.ns,
                end_ns=OPEN + (low + length) * M1.ns, reason=reason, as_of_ns=number,
            )  # fmt: skip
            records.note_spans([span])
        service = LedgerService(store, records, lambda _: calendar, lambda _: sorted(serves), clock)
        heat = service.heat_map(M1, FRIDAY, FRIDAY + DAY_NS, ["A", "B"])
        scanned = {g.symbol: g.spans for g in service.scan(M1, FRIDAY, FRIDAY + DAY_NS, ["A", "B"])}
        for row, symbol in enumerate(("A", "B")):
            ledger = service.ledger(symbol, M1, FRIDAY, FRIDAY + DAY_NS)
            absent = sum(ledger.missing.values())
            assert ledger.expected == ledger.present + absent == heat.expected[row, 0]
            assert heat.present[row, 0] == ledger.present
            assert heat.explained[row, 0] == ledger.missing["no_trades"]
            assert heat.missing[row, 0] == absent - ledger.missing["no_trades"]
            assert ledger.complete == (not heat.missing[row, 0])
            assert scanned.get(symbol, ()) == tuple(s for s in ledger.spans if s.reason == "not_fetched")
            assert ledger.outside == len({"A": a, "B": b}[symbol]) - ledger.present
    finally:
        records.close()
        store.close()


def test_many_symbols_are_asked_for_in_groups(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.continuity.ledger._BITS_AT_A_TIME", 3 * 1440)
    names = [f"S{n}" for n in range(10)]
    for n, name in enumerate(names):
        desk.store.append(bars(name, minutes(*range(n))) if n else bars(name, minutes(500)))
    heat = desk.ledger.heat_map(M1, FRIDAY, FRIDAY + DAY_NS, names)
    assert heat.symbols == tuple(names)
    assert np.array_equal(heat.present[:, 0], np.arange(10))
