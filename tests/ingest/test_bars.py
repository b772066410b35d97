"""Bars against a plain reference: a dictionary of lists of ticks, reduced with min, max, first and last."""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.ingest.bars import BarBuilder, BarConfig
from marketd.model import BAR_SCHEMA, BUILT_INTERVALS, Bar, Interval, Quote, TickBatch, Trade, parse_ns

T0 = parse_ns("2026-03-02T14:30:00Z")
S = 1_000_000_000


def trade(symbol: str, at_ms: int, price: float, size: float | None = 1.0) -> Trade:
    at_ns = T0 + at_ms * 1_000_000
    return Trade(symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source="s", price=price, size=size)


def quote(symbol: str, at_ms: int, bid: float | None, ask: float | None) -> Quote:
    at_ns = T0 + at_ms * 1_000_000
    return Quote(symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source="s", bid=bid, ask=ask)


def drained(builder: BarBuilder) -> list[Bar]:
    return [bar for batch in builder.drain() for bar in batch.bars(0)]


def latest(bars: list[Bar]) -> dict[tuple[str, str, str, int], Bar]:
    """The last issue of each bar."""
    return {(b.symbol, b.interval, b.side, b.ts_ns): b for b in bars}


def build(events: list[Quote | Trade], config: BarConfig | None = None, chunk: int = 1) -> list[Bar]:
    builder = BarBuilder("s", config)
    for i in range(0, len(events), chunk):
        builder.add(TickBatch.from_events(events[i : i + chunk]))
        builder.advance(0)
    builder.finish()
    return drained(builder)


def test_a_minute_of_trades_gives_its_open_high_low_close_volume_and_vwap() -> None:
    events = [
        trade("A", 0, 10.0, 2),
        trade("A", 10_000, 12.0, 1),
        trade("A", 59_999, 11.0, 3),
        trade("A", 60_000, 20.0),
    ]
    bars = latest(build(list(events)))
    bar = bars["A", "1m", "trade", T0]
    assert (bar.open, bar.high, bar.low, bar.close) == (10.0, 12.0, 10.0, 11.0)
    assert (bar.volume, bar.trades) == (6.0, 3)
    assert bar.vwap == pytest.approx((10 * 2 + 12 + 11 * 3) / 6, rel=1e-15)
    assert bars["A", "1m", "trade", T0 + 60 * S].open == 20.0
    five = bars["A", "5m", "trade", T0]
    assert (five.open, five.high, five.low, five.close, five.volume) == (10.0, 20.0, 10.0, 20.0, 7.0)


def test_every_interval_starts_at_a_multiple_of_itself() -> None:
    at = parse_ns("2026-03-02T23:59:59.999999999Z")
    ticks = [Trade(symbol="A", time_event_ns=at + i, time_received_ns=at, source="s", price=1.0 + i) for i in range(2)]
    starts = {(b.interval, b.ts_ns) for b in build(list(ticks))}
    expected = {
        ("1s", "2026-03-02T23:59:59Z"), ("1m", "2026-03-02T23:59:00Z"), ("5m", "2026-03-02T23:55:00Z"),
        ("15m", "2026-03-02T23:45:00Z"), ("1h", "2026-03-02T23:00:00Z"), ("1d", "2026-03-02T00:00:00Z"),
    }  # fmt: skip
    expected |= {(i.name, "2026-03-03T00:00:00Z") for i in BUILT_INTERVALS}
    assert starts == {(name, parse_ns(text)) for name, text in expected}


def test_bid_and_ask_have_bars_of_their_own_and_an_empty_side_has_none() -> None:
    bars = latest(build([quote("E", 0, 1.0, None), quote("E", 500, 1.2, 1.3), quote("E", 900, None, 1.1)], chunk=3))
    bid, ask = bars["E", "1m", "bid", T0], bars["E", "1m", "ask", T0]
    assert (bid.open, bid.high, bid.low, bid.close, bid.trades, bid.volume) == (1.0, 1.2, 1.0, 1.2, 2, None)
    assert (ask.open, ask.high, ask.low, ask.close, ask.trades, ask.volume) == (1.3, 1.3, 1.1, 1.1, 2, None)
    assert ("E", "1m", "trade", T0) not in bars


def test_a_trade_without_size_leaves_the_volume_absent_and_one_with_size_sets_it() -> None:
    assert latest(build([trade("A", 0, 5.0, None)]))["A", "1m", "trade", T0].volume is None
    mixed = latest(build([trade("A", 0, 5.0, None), trade("A", 1, 5.0, 2.0)]))["A", "1m", "trade", T0]
    assert mixed.volume == 2.0


def test_time_closes_a_bar_without_a_later_tick() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 100, 7.0)]))
    builder.advance(T0 + S - 1)
    assert drained(builder) == []
    builder.advance(T0 + S)
    assert [(b.interval, b.status) for b in drained(builder)] == [("1s", "final")]
    builder.advance(T0 + 60 * S)
    assert [(b.interval, b.close) for b in drained(builder)] == [("1m", 7.0)]


def test_a_late_tick_issues_each_closed_bar_again_as_corrected() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 500, 10.0), trade("A", 61_000, 11.0)]))
    builder.advance(T0 + 62 * S)
    first = latest(drained(builder))
    assert first["A", "1m", "trade", T0].status == "final"
    builder.add(TickBatch.from_events([trade("A", 400, 9.0, 4.0)]))
    builder.advance(T0 + 62 * S)
    second = drained(builder)
    # The second is beyond correction (5 s), its minute is not.
    assert [(b.interval, b.status, b.open, b.low, b.close, b.volume) for b in second] == [
        ("1m", "corrected", 9.0, 9.0, 10.0, 5.0)
    ]
    five = builder.running(Interval.parse("5m"), "trade", "A")
    assert five is not None
    [bar] = five.bars(0)
    assert (bar.status, bar.open, bar.low, bar.close, bar.volume) == ("live", 9.0, 9.0, 11.0, 6.0)


def test_a_late_tick_of_a_second_that_had_none_makes_its_bar() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 0, 10.0), trade("A", 2_000, 12.0)]))
    builder.advance(T0 + 2 * S)
    drained(builder)
    builder.add(TickBatch.from_events([trade("A", 1_500, 11.0)]))
    builder.advance(T0 + 2 * S)
    assert [(b.interval, b.ts_ns - T0, b.close) for b in drained(builder)] == [("1s", S, 11.0)]


def test_a_tick_too_late_for_its_minute_is_reported_and_changes_nothing() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 0, 10.0)]))
    builder.advance(T0 + 361 * S)
    drained(builder)
    builder.add(TickBatch.from_events([trade("A", 30_000, 99.0)]))
    builder.advance(T0 + 361 * S)
    assert drained(builder) == []
    assert builder.too_late == [("A", T0 + 30 * S)]


def test_a_bar_not_watched_from_its_start_is_provisional() -> None:
    builder = BarBuilder("s")
    builder.covered_from(T0 + 30 * S)
    builder.add(TickBatch.from_events([trade("A", 31_000, 1.0), trade("A", 61_000, 2.0)]))
    builder.advance(T0 + 180 * S)
    statuses = {(b.interval, b.ts_ns): b.status for b in drained(builder)}
    assert statuses["1m", T0] == "provisional"
    assert statuses["1s", T0 + 31 * S] == "final"
    assert statuses["1m", T0 + 60 * S] == "final"


def test_a_lost_connection_makes_the_running_bar_provisional() -> None:
    builder = BarBuilder("s")
    builder.covered_from(T0)
    builder.add(TickBatch.from_events([trade("A", 1_000, 1.0)]))
    builder.advance(T0 + 5 * S)
    builder.covered_from(None)
    builder.advance(T0 + 60 * S)
    assert {b.interval: b.status for b in drained(builder)} == {"1s": "final", "1m": "provisional"}


def test_a_symbol_first_seen_within_a_bar_has_it_provisional() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 0, 1.0)]), since_ns=T0)
    builder.add(TickBatch.from_events([trade("B", 20_000, 1.0)]), since_ns=T0 + 20 * S)
    builder.advance(T0 + 60 * S)
    assert {b.symbol: b.status for b in drained(builder) if b.interval == "1m"} == {"A": "final", "B": "provisional"}


def test_symbols_that_are_subscribed_later_or_no_longer_have_provisional_bars() -> None:
    builder = BarBuilder("s")
    builder.watched_from(["B"], T0 + 30 * S)
    builder.add(TickBatch.from_events([trade("A", 40_000, 1.0), trade("B", 40_000, 1.0)]))
    builder.advance(T0 + 60 * S)
    builder.add(TickBatch.from_events([trade("A", 70_000, 1.0), trade("B", 70_000, 1.0)]))
    builder.advance(T0 + 120 * S)
    builder.add(TickBatch.from_events([trade("A", 130_000, 1.0), trade("B", 130_000, 1.0)]))
    builder.watched_from(["B"], None)
    builder.advance(T0 + 180 * S)
    found = {(b.symbol, (b.ts_ns - T0) // S): b.status for b in drained(builder) if b.interval == "1m"}
    whole, part = "final", "provisional"
    assert found == {("A", 0): whole, ("B", 0): part, ("A", 60): whole, ("B", 60): whole, ("A", 120): whole} | {
        ("B", 120): part
    }


def test_a_bar_goes_on_from_what_an_earlier_run_stored() -> None:
    builder = BarBuilder("s")
    stored = Bar(
        symbol="A", interval="1m", side="trade", ts_ns=T0, open=5.0, high=9.0, low=4.0, close=6.0, volume=10.0,
        vwap=6.0, trades=7, provider="s", status="provisional", as_of_ns=T0 + 20 * S,
    )  # fmt: skip
    builder.seed([stored])
    builder.add(TickBatch.from_events([trade("A", 40_000, 8.0, 2.0)]), since_ns=T0 + 39 * S)
    builder.advance(T0 + 60 * S)
    [bar] = [b for b in drained(builder) if b.interval == "1m"]
    assert (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades) == (5.0, 9.0, 4.0, 8.0, 12.0, 8)
    assert bar.vwap == pytest.approx((6.0 * 10 + 8.0 * 2) / 12)
    assert bar.status == "provisional"


def test_a_batch_becomes_a_table_of_the_schema() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 0, 10.0, 2), trade("B", 0, 3.0, None)]))
    builder.advance(T0 + S)
    [batch] = builder.drain()
    table = batch.table(T0 + 5)
    assert table.schema == BAR_SCHEMA
    assert table.column("volume").to_pylist() == [2.0, None]
    assert table.column("ts").cast(pa.int64()).to_pylist() == [T0, T0]
    assert table.column("as_of").cast(pa.int64()).to_pylist() == [T0 + 5, T0 + 5]


ticks = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(0, 200_000), st.floats(1, 100, width=32), st.floats(0.5, 9, width=16)),
    min_size=1,
    max_size=60,
    unique_by=lambda t: (t[0], t[1]),  # ticks of one instant have no order but that of arrival
)


def reference(rows: list[tuple[str, int, float, float]]) -> dict[tuple[str, str, int], tuple[float, ...]]:
    """Open, high, low, close, volume, count of every bar, by sorting."""
    groups: dict[tuple[str, str, int], list[tuple[int, float, float]]] = defaultdict(list)
    for symbol, at_ms, price, size in rows:
        at = T0 + at_ms * 1_000_000
        for interval in BUILT_INTERVALS:
            groups[symbol, interval.name, at // interval.ns * interval.ns].append((at, price, size))
    out = {}
    for key, members in groups.items():
        members.sort()
        prices = [price for _, price, _ in members]
        volume = math.fsum(size for _, _, size in members)
        out[key] = (prices[0], max(prices), min(prices), prices[-1], volume, len(prices))
    return out


@settings(max_examples=150, deadline=None)
@given(ticks, st.integers(1, 7), st.data())
def test_any_order_and_batching_gives_the_same_bars(rows, chunk, data) -> None:
    shuffled = data.draw(st.permutations(rows))
    config = BarConfig(allowed_lateness_ms=10**9)
    bars = latest(build([trade(*row) for row in shuffled], config, chunk))
    got = {
        (b.symbol, b.interval, b.ts_ns): (b.open, b.high, b.low, b.close, pytest.approx(b.volume), b.trades)
        for b in bars.values()
    }
    assert got == reference(rows)


@settings(max_examples=60, deadline=None)
@given(ticks)
def test_running_bars_are_those_that_closing_now_would_give(rows) -> None:
    rows = sorted(rows, key=lambda r: r[1])
    builder = BarBuilder("s")
    for row in rows:
        builder.add(TickBatch.from_events([trade(*row)]))
    closed = dict(latest(drained(builder)).items())
    running: dict[tuple[str, str, str, int], Bar] = {}
    for interval in BUILT_INTERVALS:
        batch = builder.running(interval, "trade")
        assert batch is not None
        running |= latest(batch.bars(0))
    closed |= latest(drained(builder))
    whole = closed | running
    got = {
        (symbol, name, ts): (b.open, b.high, b.low, b.close, pytest.approx(b.volume), b.trades)
        for (symbol, name, _, ts), b in whole.items()
    }
    assert got == reference(rows)


@pytest.mark.parametrize(
    ("ticks_files", "minute_file", "symbol"),
    [
        (
            ["oanda_eurusd_20140502", "oanda_eurusd_20140504", "oanda_eurusd_20140505", "oanda_eurusd_20140506"],
            "oanda_eurusd_minute_20140501-20140515",
            "EURUSD",
        ),
        (
            ["oanda_xauusd_20140502", "oanda_xauusd_20140505", "oanda_xauusd_20140506", "oanda_xauusd_20140507"],
            "oanda_xauusd_minute_20140501-20140509",
            "XAUUSD",
        ),
        (
            ["fxcm_eurusd_20140502", "fxcm_eurusd_20140504", "fxcm_eurusd_20140505"],
            "fxcm_eurusd_minute_20140501-20140515",
            "EURUSD",
        ),
    ],
)
def test_real_ticks_give_the_venues_own_minute_bars(data_folder: Path, ticks_files, minute_file, symbol) -> None:
    folder = data_folder / "quotes_fx"
    builder = BarBuilder("s")
    spans = []
    for name in ticks_files:
        with gzip.open(folder / f"{name}_ticks.csv.gz", "rt", encoding="utf-8-sig") as lines:
            rows = [(int(r["ts_us"]) * 1000, float(r["bid"]), float(r["ask"])) for r in csv.DictReader(lines)]
        spans.append((rows[0][0] // (60 * S) * 60 * S, rows[-1][0]))
        for i in range(0, len(rows), 1000):
            part = rows[i : i + 1000]
            events = [
                Quote(symbol=symbol, time_event_ns=t, time_received_ns=t, source="s", bid=b, ask=a) for t, b, a in part
            ]
            builder.add(TickBatch.from_events(events))
            builder.advance(part[-1][0] - 250_000_000)
    builder.finish()
    built = {(b.side, b.ts_ns): (b.open, b.high, b.low, b.close) for b in drained(builder) if b.interval == "1m"}
    expected = {}
    with gzip.open(folder / f"{minute_file}.csv.gz", "rt", encoding="utf-8-sig") as lines:
        for r in csv.DictReader(lines):
            ts = parse_ns(r["ts"])
            if any(first <= ts <= last for first, last in spans):
                for side in ("bid", "ask"):
                    expected[side, ts] = tuple(float(r[f"{side}_{f}"]) for f in ("open", "high", "low", "close"))
    assert len(expected) > 4_000
    assert {k: v for k, v in built.items() if k in expected} == expected
    assert built.keys() == expected.keys()


def test_columns_of_a_batch_stay_as_they_were_issued() -> None:
    builder = BarBuilder("s")
    builder.add(TickBatch.from_events([trade("A", 0, 10.0)]))
    builder.advance(T0 + S)
    [batch] = builder.drain()
    builder.add(TickBatch.from_events([trade("A", 10, 12.0)]))
    builder.advance(T0 + S)
    assert batch.bars(0)[0].high == 10.0
    assert builder.drain()[0].bars(0)[0].high == 12.0
    assert np.array_equal(batch.records.high, [10.0])
