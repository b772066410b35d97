"""The path of a batch, end to end: what is believed, what is set apart, and what everything behind it is given."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.fanout.hub import Hub
from marketd.fanout.latest import LatestQuote, LatestTable
from marketd.ingest.bars import BarConfig
from marketd.ingest.sequence import Sequencer
from marketd.ingest.symbols import SymbolTable
from marketd.ingest.validate import ValidationConfig
from marketd.model import (
    BOOK,
    LAST,
    TRADE,
    Bar,
    Connected,
    Disconnected,
    Ended,
    Interval,
    Quarantined,
    Quote,
    TickBatch,
    Trade,
)
from marketd.pipeline import Pipeline
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

T0 = 1_772_461_800 * 10**9  # 2026-03-02T14:30:00Z
S = 10**9
MINUTE = Interval.parse("1m")


def quote(bid: float | None, ask: float | None = None, symbol: str = "A", at: int = T0, **fields: Any) -> Quote:
    base = {"source": "s", "time_received_ns": at}
    return Quote(symbol=symbol, time_event_ns=at, bid=bid, ask=ask, **(base | fields))


def trade(price: float, symbol: str = "A", at: int = T0, **fields: Any) -> Trade:
    base = {"source": "s", "time_received_ns": at}
    return Trade(symbol=symbol, time_event_ns=at, price=price, **(base | fields))


class House:
    def __init__(self, *, hub: bool = False, event_time: bool = False, **config: Any) -> None:
        self.clock = ManualClock(T0)
        self.metrics = Metrics()
        latest, sequencer = LatestTable(SymbolTable()), Sequencer("e")
        self.hub = Hub(latest, sequencer, self.clock, metrics=self.metrics) if hub else None
        self.pipeline = Pipeline(
            self.clock, hub=self.hub, latest=latest, sequencer=sequencer, metrics=self.metrics, **config
        )
        self.state = self.pipeline.add_source("s", event_time=event_time)

    def take(self, *events: Any, source: str = "s") -> None:
        self.pipeline.take(source, events)

    def latest(self, symbol: str = "A") -> LatestQuote:
        found = self.pipeline.latest.get(symbol)
        assert found is not None
        return found

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"marketd_{name}", {"source": "s"} | labels)

    def bars(self, interval: str = "1m") -> list[Bar]:
        batches = self.pipeline.drain_bars()
        return [bar for batch in batches for bar in batch.bars(0) if bar.interval == interval]


def test_good_rows_are_numbered_counted_and_kept_and_bad_ones_told_apart() -> None:
    house = House()
    good = [quote(10.0, 10.2), trade(10.1, size=3.0), quote(5.0, 5.1, "B")]
    bad = [trade(-1.0), quote(10.0, 10.2, at=T0 + 6 * S, time_received_ns=T0), trade(30.0, size=2.0)]
    house.take(good[0], bad[0], good[1], bad[1], good[2], bad[2])
    assert house.latest() == LatestQuote(
        symbol="A", source="s", seq=2, time_event_ns=T0, time_received_ns=T0, bid=10.0, ask=10.2, bid_size=None,
        ask_size=None, last=10.1, volume=None, marks=0,
    )  # fmt: skip
    assert (house.latest("B").seq, house.pipeline.sequencer.seq) == (3, 3)
    assert (house.state.ticks, house.state.accepted) == (6, 3)
    assert house.state.quarantined == {"non_positive": 1, "future_stamp": 1, "jump": 1}
    assert list(house.pipeline.quarantine) == [
        Quarantined(source="s", time_received_ns=T0, symbol="A", reason=reason, detail=detail)
        for reason, detail in (
            ("non_positive", f"event_ns={T0} bid=nan ask=nan last=-1.0 last_size=nan"),
            ("future_stamp", f"event_ns={T0 + 6 * S} bid=10.0 ask=10.2 last=nan last_size=nan"),
            ("jump", f"event_ns={T0} bid=nan ask=nan last=30.0 last_size=2.0"),
        )
    ]
    assert house.count("ticks_received_total") == 6
    assert house.count("ticks_accepted_total") == 3
    for reason in ("non_positive", "future_stamp", "jump"):
        assert house.count("ticks_quarantined_total", reason=reason) == 1


def test_a_batch_with_nothing_good_changes_nothing() -> None:
    house = House()
    heard: list[int] = []
    house.pipeline.on_accepted.append(lambda batch, _: heard.append(len(batch)))
    house.take(trade(-1.0), trade(float("nan")))
    house.take(TickBatch.from_events([trade(1.0)]).take(slice(0, 0)))
    house.take()
    assert (house.pipeline.latest.get("A"), house.pipeline.sequencer.seq, heard) == (None, 0, [])
    assert (house.state.ticks, house.state.accepted, house.state.newest_event_ns) == (2, 0, 0)


def test_crossed_and_locked_books_are_counted_and_marked() -> None:
    house = House()
    house.take(quote(10.2, 10.0), quote(10.0, 10.0, "B"), quote(10.0, 10.2, "C"))
    assert [house.latest(s).marks for s in "ABC"] == [1, 2, 0]
    assert [house.count("ticks_flagged_total", flag=f) for f in ("crossed", "locked")] == [1, 1]
    house.take(quote(10.2, 10.0), trade(-1.0), quote(10.2, 10.0, at=T0 + 1))  # a repetition is not counted again
    assert house.count("ticks_flagged_total", flag="crossed") == 2


def test_repetitions_are_counted_apart_and_reach_no_bar() -> None:
    house = House()
    trades = [trade(10.0 + n / 10, at=T0 + n, size=1.0, trade_id=n) for n in range(1, 4)]
    house.take(*trades)
    house.take(Disconnected(source="s", time_received_ns=T0, reason="r"), Connected(source="s", time_received_ns=T0))
    house.take(*trades[1:], trade(10.4, at=T0 + 4, size=1.0, trade_id=4))
    assert (house.state.accepted, house.state.quarantined) == (4, {"duplicate": 2})
    assert house.count("ticks_quarantined_total", reason="duplicate") == 2
    [running] = house.pipeline.running_bars(MINUTE, "trade", "A")
    [bar] = running.bars(0)
    assert (bar.volume, bar.trades, bar.high) == (4.0, 4, 10.4)


def test_the_quarantine_is_bounded_and_keeps_the_newest() -> None:
    house = House()
    house.take(*(trade(-float(n)) for n in range(1, 1_501)))
    assert len(house.pipeline.quarantine) == 1_000
    assert [q.detail.split()[3] for q in (house.pipeline.quarantine[0], house.pipeline.quarantine[-1])] == [
        "last=-501.0",
        "last=-1500.0",
    ]
    assert house.state.quarantined == {"non_positive": 1_500}


def test_what_a_source_set_apart_is_counted_with_the_rest() -> None:
    house = House()
    said = Quarantined(source="s", time_received_ns=T0, reason="malformed", detail="{", where="line 7")
    house.take(quote(1.0), said, quote(1.1, at=T0 + 1))
    assert list(house.pipeline.quarantine) == [said]
    assert (house.state.accepted, house.state.quarantined) == (2, {"malformed": 1})


def test_events_take_effect_in_their_order_whatever_their_kind() -> None:
    house = House()
    columns = TickBatch.from_events([quote(2.0, at=T0 + 2), quote(2.5, symbol="B", at=T0 + 2)])
    house.take(quote(1.0, at=T0 + 1), trade(1.5, at=T0 + 1), columns, trade(2.2, "B", at=T0 + 3), quote(2.1, at=T0 + 4))
    assert [(house.latest(s).bid, house.latest(s).last, house.latest(s).seq) for s in "AB"] == [
        (2.1, 1.5, 6),
        (2.5, 2.2, 5),
    ]


def test_each_source_has_a_level_of_its_own_for_jumps_and_the_newer_value_stands() -> None:
    house = House()
    house.pipeline.add_source("t")
    house.take(trade(100.0))
    house.take(trade(1.0, source="t", at=T0 + 1), source="t")  # other units, perhaps, but its first word
    house.take(trade(101.0))
    assert (house.latest().last, house.latest().source) == (1.0, "t")
    assert house.state.quarantined == {}
    assert house.pipeline.sources["t"].accepted == 1


def test_a_connection_its_loss_and_failed_attempts() -> None:
    house = House()
    down = Disconnected(source="s", time_received_ns=T0, reason="refused")
    house.take(down)
    assert (house.state.connected, house.state.reason, house.state.disconnects) == (False, "refused", 0)
    house.take(Connected(source="s", time_received_ns=T0))
    assert (house.state.connected, house.state.reason, house.count("source_connected")) == (True, None, 1)
    house.take(down, down)
    assert (house.state.connected, house.state.disconnects, house.count("source_connected")) == (False, 1, 0)
    assert house.count("source_disconnects_total") == 1
    house.take(Connected(source="s", time_received_ns=T0), Ended(source="s", time_received_ns=T0))
    assert (house.state.connected, house.state.ended, house.count("source_connected")) == (False, True, 0)
    assert house.state.disconnects == 1


def test_bars_of_a_live_source_close_by_the_clock_after_a_delay_for_ticks_under_way() -> None:
    house = House(bars=BarConfig(close_delay_ms=250))
    house.take(Connected(source="s", time_received_ns=T0), trade(10.0, at=T0 + S))

    def beat(seconds: float) -> list[tuple[str, float, str]]:
        house.clock._elapsed_ns = round(seconds * S)
        house.pipeline.tick_clock()
        return [(bar.side, bar.close, bar.status) for bar in house.bars()]

    assert beat(60.249) == []
    house.take(trade(11.0, at=T0 + 60 * S - 1))
    assert beat(60.25) == [("trade", 11.0, "final")]
    house.take(trade(12.0, at=T0 + 59 * S, size=1.0))
    assert beat(60.3) == []  # a correction is issued with the bars of the next second
    assert beat(61.25) == [("trade", 11.0, "corrected")]


def test_bars_of_a_recording_close_by_its_own_times_and_at_its_end() -> None:
    house = House(event_time=True)
    house.clock._elapsed_ns = 10**15
    house.take(Connected(source="s", time_received_ns=T0), trade(10.0), trade(11.0, at=T0 + 60 * S + S // 4))
    house.pipeline.tick_clock()
    assert [(bar.close, bar.status) for bar in house.bars()] == [(10.0, "final")]
    house.take(trade(12.0, at=T0 + 61 * S), Ended(source="s", time_received_ns=T0))
    assert [bar.close for bar in house.bars()] == [12.0]


def test_a_tick_too_late_for_any_bar_is_told_apart_though_it_was_accepted() -> None:
    house = House(event_time=True)
    late = T0 - 3_600 * S
    house.take(trade(10.0, at=T0), trade(10.0, at=T0 + 7_200 * S))
    house.take(trade(10.0, at=late))
    house.bars()
    assert house.state.quarantined["too_late_for_bar"] == 1
    assert house.pipeline.quarantine[-1].detail == f"event_ns={late}: its bar can no longer be corrected"
    house.bars()
    assert house.state.quarantined["too_late_for_bar"] == 1


def test_the_side_of_bars_is_trades_as_soon_as_there_was_one() -> None:
    house = House()
    pipeline = house.pipeline
    assert pipeline.default_side("A") == "trade"
    house.take(quote(10.0, 10.2, last=10.1), quote(1.0, 1.1, "B"))
    number = pipeline.symbols.get("A")
    assert number is not None
    assert [pipeline.default_side(s) for s in "AB"] == ["bid", "bid"]
    assert (pipeline.is_default_side(number, "bid"), pipeline.is_default_side(number, "trade")) == (True, False)
    house.take(quote(10.0, 10.3, at=T0 + 1), trade(10.1))
    assert [pipeline.default_side(s) for s in "AB"] == ["trade", "bid"]
    assert (pipeline.is_default_side(number, "bid"), pipeline.is_default_side(number, "trade")) == (False, True)


def test_symbols_announced_without_a_value_have_sides_too() -> None:
    house = House()
    names = [f"S{i}" for i in range(300)]
    for name in names:
        house.pipeline.symbols.add(name)
    house.take(quote(1.0, 1.1, "S200"))
    assert [house.pipeline.default_side(s) for s in ("S0", "S200", "S299", "new")] == ["trade", "bid", "trade", "trade"]


def test_growing_past_the_first_room_loses_nothing() -> None:
    house = House()
    names = [f"S{i}" for i in range(500)]
    for step, count in enumerate((1, 63, 64, 65, 200, 500)):
        house.take(
            *(quote(i + 1.0 + step / 1_000, i + 2.0, name, at=T0 + step) for i, name in enumerate(names[:count]))
        )
        assert [house.latest(name).bid for name in names[:count]] == [i + 1.0 + step / 1_000 for i in range(count)]
    assert house.state.quarantined == {}


def test_listeners_get_the_accepted_rows_and_the_numbers_that_changed() -> None:
    house = House()
    heard: list[tuple[list[Quote | Trade], set[str]]] = []
    names = house.pipeline.symbols.names
    house.pipeline.on_accepted.append(lambda b, ids: heard.append((b.to_events(), {names[i] for i in ids.tolist()})))
    new, old, bad = quote(10.0, 10.1, at=T0 + 5), quote(9.0, 9.1, at=T0 + 4), quote(-1.0, at=T0 + 6)
    other = trade(3.0, "B")
    house.take(new, bad)
    house.take(old, other, new)
    assert heard == [([new], {"A"}), ([old, other, new], {"B", "A"})]
    house.take(new, old)
    assert heard[2:] == [([old], set())]


def test_what_the_gate_holds_back_is_in_bars_and_not_shown_until_it_is() -> None:
    house = House()
    heard: list[float] = []
    house.pipeline.on_accepted.append(lambda batch, _: heard.extend(batch.bid.tolist()))
    asked: list[tuple[str, list[int]]] = []

    def gate(source: str, batch: TickBatch, ids: Any) -> Any:
        asked.append((source, ids.tolist()))
        return batch.bid != 11.0

    house.pipeline.gate = gate
    house.take(quote(10.0, 10.1), quote(11.0, 11.1, symbol="B"), quote(-1.0))
    house.take(quote(11.0, 11.1, symbol="B", at=T0 + 1))
    assert asked == [(house.state.name, [0, 1]), (house.state.name, [1])]  # of what was accepted
    assert (heard, house.pipeline.sequencer.seq, house.state.accepted) == ([10.0], 1, 3)
    assert house.pipeline.latest.get("B") is None
    running = house.pipeline.running_bars(MINUTE, "bid")
    assert {bar.symbol: bar.trades for batch in running for bar in batch.bars(0)} == {"A": 1, "B": 2}
    house.pipeline.show(TickBatch.from_events([quote(11.0, 10.9, symbol="B", at=T0 + 1)]))
    row = house.pipeline.latest.get("B")
    assert (row.bid, row.seq, row.marks) == (11.0, 2, 1)
    assert heard == [10.0, 11.0]


def test_repetitions_are_those_of_one_source() -> None:
    house = House()
    other = house.pipeline.add_source("other")
    house.take(quote(10.0, 10.1))
    house.pipeline.take("other", [quote(10.0, 10.1, source="other")])
    house.take(quote(10.0, 10.1))
    assert (house.state.accepted, house.state.quarantined["duplicate"]) == (1, 1)
    assert (other.accepted, other.quarantined["duplicate"]) == (1, 0)


def test_polled_quotes_make_no_bars() -> None:
    house = House()
    house.pipeline.take_polled(house.state.name, TickBatch.from_events([quote(10.0, 10.1), quote(5.0, symbol="B")]))
    assert house.pipeline.latest.get("B").bid == 5.0
    assert house.pipeline.running_bars(MINUTE, "bid") == []


def test_mixed_sources_in_one_batch_are_a_defect_that_is_told() -> None:
    with pytest.raises(ValueError, match=r"\['s', 't'\]"):
        House().take(quote(1.0), quote(1.0, source="t"))


some = st.builds(
    quote, st.sampled_from([None, 10.0, 10.1, 99.0, -1.0, float("inf")]), st.sampled_from([None, 10.0, 10.2]),
    st.sampled_from("ABC"), st.integers(T0, T0 + 3 * S), last=st.sampled_from([None, 10.0, 99.0]),
    volume=st.sampled_from([None, 5.0]),
) | st.builds(
    trade, st.sampled_from([10.0, 10.1, 99.0, 0.0]), st.sampled_from("ABC"), st.integers(T0, T0 + 3 * S),
    size=st.sampled_from([None, 1.0, -1.0]), trade_id=st.none() | st.integers(1, 9),
)  # fmt: skip
COLUMNS = [name for name in TickBatch.__slots__ if name not in {"source", "symbols", "trade_id"}]


class Socket:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def unsent(self) -> int:
        return 0

    def close(self, code: Any) -> None:
        raise AssertionError(code)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(some, min_size=1, max_size=10), max_size=6), st.booleans())
def test_nothing_behind_the_door_writes_into_a_batch(batches, both) -> None:
    """The columns are read-only, so an attempt would raise; and they hold afterwards what they held before."""

    async def body() -> None:
        house = House(hub=True)
        assert house.hub is not None
        client = house.hub.connect(Socket())
        house.hub.subscribe_quotes(client, None)
        house.hub.subscribe_bars(client, "bars_1m", None)
        for events in batches:
            batch = TickBatch.from_events(events)
            if both:  # rows that are book and trade at once
                flags = np.where(batch.flags == BOOK | LAST, BOOK | LAST | TRADE, batch.flags).astype(np.uint8)
                batch = batch.replace(flags=flags)
            columns = {name: getattr(batch, name) for name in COLUMNS}
            if batch.trade_id is not None:
                columns["trade_id"] = batch.trade_id
            frozen = {name: column.copy() for name, column in columns.items()}
            for column in frozen.values():
                column.flags.writeable = False
            house.take(batch.replace(**frozen))
            house.hub.flush()
            house.clock._elapsed_ns += 30 * S
            house.pipeline.tick_clock()
            for bars in house.pipeline.drain_bars():
                house.hub.publish_bars(bars)
            for name, column in columns.items():
                np.testing.assert_array_equal(frozen[name], column, err_msg=name)
        state = house.state
        assert state.accepted + sum(state.quarantined[r] for r in state.quarantined if r != "too_late_for_bar") == (
            state.ticks
        )
        assert house.pipeline.sequencer.seq >= state.accepted

    asyncio.run(body())


def test_a_tick_reaches_a_subscriber_in_the_same_turn() -> None:
    async def body() -> None:
        house = House(hub=True, validation=ValidationConfig(max_jump=None))
        assert house.hub is not None
        socket = Socket()
        house.hub.subscribe_quotes(house.hub.connect(socket), None, ("bidPrice",))
        house.take(quote(10.0, 10.1), quote(-1.0), quote(11.0, 11.1, at=T0 + 1))
        assert socket.data[:1] == b"\x81"
        assert json.loads(socket.data[2:]) == {
            "type": "quote_update", "symbol": "A", "seq": 2, "timestamp": "2026-03-02T14:30:00.000000001Z",
            "bidPrice": 11.0,
        }  # fmt: skip

    asyncio.run(body())
