"""Two and three providers of the same symbols: who is shown, when that changes, and what never goes out twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from feeds import T0, Feed, Requests, provider, quote_of
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import Calendars
from marketd.collect.live import Desk, LiveSwitch
from marketd.collect.streams import CrossCheckConfig, StreamsConfig
from marketd.errors import InvalidInput, NotEntitled, SymbolNotFound, Throttled, UnknownSymbol
from marketd.model import Quarantined, TickBatch
from marketd.pipeline import Pipeline
from marketd.routing import Router, RoutingConfig
from marketd.sources.contract import Provider
from marketd.sources.symbols import SymbolMap
from marketd.telemetry import Metrics
from marketd.testing import ManualClock


class Floor:
    """A desk over a real pipeline. shown: (source, symbol, event time, bid) of every row that went out, in order."""

    def __init__(self, config: StreamsConfig | None = None, order: Callable[..., Sequence[str]] | None = None) -> None:
        self.clock = ManualClock(T0)
        self.metrics = Metrics()
        self.pipeline = Pipeline(self.clock, metrics=self.metrics)
        self.shown: list[tuple[str, str, int, float]] = []
        self.seqs: list[int] = []
        self.switches: list[LiveSwitch] = []
        self.holes: list[tuple[str, tuple[str, ...]]] = []
        self.pipeline.on_accepted.append(self._went_out)
        self.desk = Desk(
            config or StreamsConfig(),
            self.clock,
            self.pipeline.latest,
            self.pipeline,
            on_switch=self.switches.append,
            backfill=lambda name, symbols, _since: self.holes.append((name, tuple(symbols))),
            metrics=self.metrics,
            **({} if order is None else {"order": order}),
        )

    def _went_out(self, batch: TickBatch, _changed: Any) -> None:
        names = [batch.symbols[i] for i in batch.symbol_index]
        rows = zip(names, batch.time_event_ns.tolist(), batch.bid.tolist(), strict=True)
        self.shown += [(batch.source, *row) for row in rows]
        self.seqs.append(self.pipeline.sequencer.seq)

    def seat(self, one: Provider, **more: Any) -> None:
        self.pipeline.add_source(one.name)
        self.desk.add(one, **more)

    @property
    def now(self) -> float:
        return self.clock.monotonic_ns() / 1e9

    async def run(self, seconds: float, *feeds: Feed, symbols: Sequence[str] = ("X",), late_s: float = 0.0) -> None:
        """Time passes; each of these feeds quotes each symbol every quarter of a second (of long times: every second),
        at the same price."""
        step = 0.25 if seconds <= 100 else 1.0
        for _ in range(round(seconds / step)):
            await self.clock.advance(step)
            for feed in feeds:
                for symbol in symbols:
                    feed.quote(symbol, round(100 + self.now / 1000, 6), late_s=late_s)
            await self.clock.advance(0)

    def sources(self, since: int = 0) -> list[str]:
        """Who was shown, without repetitions."""
        names = [name for name, *_ in self.shown[since:]]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]

    def told(self) -> list[tuple[str | None, str | None, str]]:
        return [(s.old, s.new, s.reason) for s in self.switches]

    def check(self) -> None:
        """No row went out twice, and none after a newer one of its symbol from another source. A late row of the same
        source is not new to the table of latest values."""
        newest: dict[str, tuple[str, int]] = {}
        seen: set[tuple[str, str, int, float]] = set()
        for row in self.shown:
            source, symbol, event_ns, _ = row
            assert row not in seen
            seen.add(row)
            before = newest.get(symbol)
            if before is None or before[0] != source:
                assert before is None or event_ns > before[1]
            newest[symbol] = (source, event_ns if before is None else max(event_ns, before[1]))
        assert self.seqs == sorted(self.seqs)


class Two(Floor):
    """a is preferred, b is warm; both have X and Y."""

    def __init__(
        self,
        config: StreamsConfig | None = None,
        *,
        polls: bool = False,
        order: Callable[..., Sequence[str]] | None = None,
        b: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config, order)
        self.a, self.b = Feed("a", self.clock), Feed("b", self.clock, **(b or {}))
        self.requests = Requests("a", self.clock, {"X": 50.0, "Y": 60.0})
        self.seat(provider("a", feed=self.a, quotes=self.requests if polls else None, symbols=("X", "Y")))
        self.seat(provider("b", feed=self.b, symbols=("X", "Y")))


def play(story: Callable[[Any], Awaitable[None]], floor: Callable[..., Any] = Two, **how: Any) -> Any:
    made: list[Any] = []

    async def body() -> None:
        made.append(floor(**how))
        made[0].desk.start()
        try:
            await story(made[0])
        finally:
            await made[0].desk.stop()

    asyncio.run(body())
    made[0].check()
    return made[0]


def test_the_preferred_provider_is_shown_and_the_other_is_warm() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        assert f.b.wanted.symbols == ("X", "Y")
        assert f.pipeline.sources["b"].accepted == 20
        assert (f.desk.active("X"), f.desk.active("Z")) == ("a", None)
        number = f.pipeline.symbols.get("X")
        assert (f.desk.speaks("a", number), f.desk.speaks("b", number)) == (True, False)
        assert f.desk.speaks("somebody else", number)

    f = play(story)
    assert f.sources() == ["a"]
    assert f.switches == []
    assert f.pipeline.sequencer.seq == 20


def test_a_reset_is_followed_by_the_warm_one_within_a_tick() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        f.a.cut("reset by peer")
        await f.clock.advance(0)
        at = f.clock.time_ns()
        assert [(s.old, s.new, s.reason, s.detail, s.at_ns) for s in f.switches] == [
            ("a", "b", "disconnected", "reset by peer", at)
        ]
        assert sorted(f.switches[0].symbols) == ["X", "Y"]
        shown = len(f.shown)
        await f.run(0.5, f.b)
        assert [row[0] for row in f.shown[shown:]] == ["b", "b"]
        assert f.pipeline.latest.get("X").source == "b"

    f = play(story)
    assert f.sources() == ["a", "b"]
    switched = f.metrics.registry.get_sample_value(
        "provider_switches_total", {"capability": "stream_quotes", "provider": "b", "reason": "disconnected"}
    )
    assert switched == 1
    assert list(f.desk.switches) == f.switches


def test_what_the_warm_one_said_before_the_switch_is_shown_at_once_if_it_is_news() -> None:
    async def story(f: Two) -> None:
        await f.run(1)
        f.b.quote("X", 90.0)
        f.b.quote("Y", 91.0)
        await f.clock.advance(0.5)
        f.a.quote("X", 100.0)  # newer than b's
        await f.clock.advance(0.5)
        f.b.trade("Y", 92.0, 1)
        await f.clock.advance(0.5)
        assert f.shown == [("a", "X", T0 + 1_500_000_000, 100.0)]
        f.a.cut()
        await f.clock.advance(0)
        assert f.told() == [("a", "b", "disconnected")]
        # of Y b's book and its newer trade; of X nothing, for it is older than what was shown
        assert [row[:3] for row in f.shown[1:]] == [
            ("b", "Y", T0 + 1_000_000_000),
            ("b", "Y", T0 + 2_000_000_000),
        ]
        y = f.pipeline.latest.get("Y")
        assert (y.bid, y.last, y.time_received_ns) == (91.0, 92.0, T0 + 2_000_000_000)

    play(story)


def test_nothing_that_is_not_newer_goes_out_after_a_switch() -> None:
    async def story(f: Two) -> None:
        await f.run(2, f.a)
        f.a.cut()
        await f.clock.advance(0)
        newest = f.shown[-1][2]
        shown = len(f.shown)
        now = f.clock.time_ns()
        for event_ns in (newest - 10**9, newest, newest + 1):
            late = (now - event_ns) / 1e9
            f.b.say(quote_of("b", "X", 101.0 + late, now, late_s=late))
        await f.clock.advance(0)
        assert [row[2] for row in f.shown[shown:]] == [newest + 1]

    play(story)


def test_a_provider_that_is_back_is_preferred_again_after_it_did_well_for_a_while() -> None:
    async def story(f: Two) -> None:
        await f.run(3, f.a, f.b)
        f.a.cut(up=True)
        await f.run(20, f.a, f.b)
        assert f.desk.active("X") == "b"
        await f.run(15, f.a, f.b)
        assert f.desk.active("X") == "a"

    f = play(story)
    assert f.told() == [("a", "b", "disconnected"), ("b", "a", "preferred")]
    assert f.switches[1].at_ns - f.switches[0].at_ns >= 30 * 10**9
    assert f.sources() == ["a", "b", "a"]


def test_one_that_flaps_is_left_alone() -> None:
    async def story(f: Two) -> None:
        await f.run(3, f.a, f.b)
        for _ in range(10):
            f.a.cut(up=True)
            await f.run(8, f.a, f.b)

    f = play(story)
    assert f.told() == [("a", "b", "disconnected")]


def test_the_order_decides_between_two_that_do_well() -> None:
    preferred = ["a", "b"]
    asked: list[tuple[str, tuple[str, ...], str | None]] = []

    def order(capability: str, names: Sequence[str], *, current: str | None) -> list[str]:
        asked.append((capability, tuple(names), current))
        return [name for name in preferred if name in names]

    async def story(f: Two) -> None:
        await f.run(2, f.a, f.b)
        preferred.reverse()
        await f.run(2, f.a, f.b)
        assert f.desk.active("X") == "b"
        preferred.remove("b")  # it is not to be used
        await f.run(1, f.a, f.b)
        assert f.desk.active("X") == "a"

    f = play(story, order=order)
    assert f.told() == [("a", "b", "preferred"), ("b", "a", "preferred")]
    assert ("stream_quotes", ("a", "b"), "a") in asked


def test_a_live_stream_comes_before_polling_and_polling_before_nothing() -> None:
    async def story(f: Two) -> None:
        await f.run(2, f.a, f.b)
        f.a.cut()
        await f.run(2, f.b)
        assert f.desk.active("X") == "b"
        assert f.requests.asked == []  # nobody needs it
        f.b.cut()
        await f.run(2)
        assert f.desk.active("X") == "a"
        assert f.pipeline.latest.get("X").bid == 50.0
        f.requests.error = Throttled("a", "HTTP 429", retry_after_s=100.0)
        f.b.up = True
        await f.run(20, f.b)
        assert f.desk.active("X") == "b"

    f = play(story, polls=True)
    told = f.told()
    assert told[:2] == [("a", "b", "disconnected"), ("b", "a", "disconnected")]
    assert told[2][:2] == ("a", "b")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Throttled("a", "HTTP 429", retry_after_s=60.0), "throttled"),
        (NotEntitled("a", "HTTP 403"), "not_entitled"),
        (OSError("boom"), "failing"),
    ],
)
def test_a_polled_provider_that_refuses_is_followed_by_the_next_within_two_seconds(
    error: Exception, reason: str
) -> None:
    def floor() -> Floor:
        f = Floor()
        f.first, f.second = Requests("a", f.clock, {"X": 10.0}), Requests("b", f.clock, {"X": 20.0})
        f.seat(provider("a", quotes=f.first, symbols=("X",)))
        f.seat(provider("b", quotes=f.second, symbols=("X",)))
        return f

    async def story(f: Any) -> None:
        await f.run(5)
        assert f.second.asked == []
        f.first.error = error
        await f.run(2)
        assert f.desk.active("X") == "b"
        assert f.pipeline.latest.get("X").bid == 20.0

    f = play(story, floor)
    assert f.told() == [("a", "b", reason)]


def test_a_poll_that_takes_too_long_is_followed_by_the_next_provider() -> None:
    def floor() -> Floor:
        f = Floor()
        f.first = Requests("a", f.clock, {"X": 10.0})
        f.feed = Feed("b", f.clock)
        f.seat(provider("a", quotes=f.first, symbols=("X",)))
        f.seat(provider("b", feed=f.feed, symbols=("X",)))
        return f

    order = []

    async def story(f: Any) -> None:
        f.feed.up = False
        await f.run(5)
        assert f.desk.active("X") == "a"
        order.append(f.told())
        f.first.took_s = 10.0
        f.feed.up = True
        await f.run(10, f.feed)
        assert f.desk.active("X") == "b"

    play(story, floor)


def test_a_mute_provider_is_followed_within_its_budget_and_two_seconds() -> None:
    config = StreamsConfig(stream_health_timeout_s=3.0)

    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        silent = f.now
        while f.desk.active("X") == "a":
            await f.run(0.25, f.b)
        assert 3.0 <= f.now - silent <= 5.0

    f = play(story, config=config)
    assert f.told() == [("a", "b", "mute")]


def test_one_mute_symbol_of_a_provider_that_is_otherwise_well() -> None:
    async def story(f: Two) -> None:
        await f.run(20, f.a, f.b, symbols=("X", "Y"))
        silent = f.now
        for _ in range(60):
            f.a.quote("Y", 100.0 + f.now / 1000)
            await f.run(0.25, f.b, symbols=("X", "Y"))
            if f.desk.active("X") == "b":
                break
        # ten times the length-biased gap is less than the floor of 10 s
        assert 10.0 <= f.now - silent <= 12.0
        assert f.desk.active("Y") == "a"

    f = play(story)
    assert f.told() == [("a", "b", "symbol_mute")]
    assert f.switches[0].symbols == ("X",)


def test_a_quiet_market_is_no_mute_symbol() -> None:
    async def story(f: Two) -> None:
        await f.run(20, f.a, f.b, symbols=("X", "Y"))
        await f.run(60, f.a, f.b, symbols=("Y",))
        assert f.desk.active("X") == "a"

    assert play(story).switches == []


def test_a_symbol_that_never_came_is_mute_when_the_other_has_it() -> None:
    async def story(f: Two) -> None:
        for _ in range(140):
            f.a.quote("Y", 100.0 + f.now / 1000)
            await f.run(0.25, f.b)
        assert f.desk.active("X") == "b"

    f = play(story)
    assert f.told() == [("a", "b", "symbol_mute")]
    # a had the whole timeout
    assert 30.0 <= (f.switches[0].at_ns - T0) / 1e9 <= 32.0


def test_a_provider_whose_ticks_come_late_is_slow() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        began = f.now
        for _ in range(40):
            f.a.quote("X", 100.0 + f.now / 1000, late_s=10.0)
            await f.run(0.25, f.b)
            if f.desk.active("X") == "b":
                break
        assert f.now - began <= 5.0

    f = play(story)
    assert f.told() == [("a", "b", "slow")]


def test_a_delay_that_a_provider_declares_is_not_slow() -> None:
    def floor() -> Floor:
        f = Floor()
        f.a, f.b = Feed("a", f.clock, delayed_s=900.0), Feed("b", f.clock)
        f.seat(provider("a", feed=f.a, symbols=("X",)))
        f.seat(provider("b", feed=f.b, symbols=("X",)))
        return f

    async def story(f: Any) -> None:
        await f.run(10, f.a, late_s=900.0)
        assert f.desk.active("X") == "a"

    assert play(story, floor).switches == []


def test_garbage_is_followed_by_the_next_provider() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        for i in range(6):
            f.a.say(Quarantined(source="a", time_received_ns=T0, reason="malformed", detail=f"<html>{i}"))
        await f.run(1, f.b)
        assert f.desk.active("X") == "b"

    f = play(story)
    assert f.told() == [("a", "b", "garbage")]


def test_rows_that_are_refused_are_garbage_too_and_never_go_out() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        for _ in range(6):
            f.a.quote("X", -1.0)
        await f.run(1, f.b)

    f = play(story)
    assert f.told() == [("a", "b", "garbage")]
    assert min(row[3] for row in f.shown) > 0


def test_a_few_bad_rows_among_many_good_ones_are_not_garbage() -> None:
    async def story(f: Two) -> None:
        for _ in range(40):
            for _ in range(4):
                f.a.quote("Y", 100.0 + f.now / 1000)
            f.a.quote("X", -1.0)
            await f.run(0.25, f.a, f.b, symbols=("X", "Y"))

    assert play(story).switches == []


def test_when_all_are_down_the_last_stays_and_the_first_that_returns_is_shown() -> None:
    async def story(f: Two) -> None:
        await f.run(3, f.a, f.b)
        f.a.cut()
        await f.run(0.25)
        f.b.cut()
        await f.run(5)
        assert f.desk.active("X") == "b"
        f.a.up = True
        await f.run(70, f.a)
        assert f.desk.active("X") == "a"

    f = play(story)
    assert f.told() == [("a", "b", "disconnected"), ("b", "a", "disconnected")]


def test_bars_of_a_warm_provider_are_its_own_and_whole() -> None:
    """After a switch there is no minute of which only half is known."""

    async def story(f: Two) -> None:
        await f.run(90, f.a, f.b)
        f.a.cut()
        await f.run(91, f.b)
        f.pipeline.tick_clock()
        bars = [
            bar
            for batch in f.pipeline.drain_bars()
            for bar in batch.bars(0)
            if bar.interval == "1m" and bar.side == "bid" and bar.symbol == "X"
        ]
        minute = T0 + 60 * 10**9
        found = {(bar.provider, (bar.ts_ns - T0) // (60 * 10**9)): (bar.status, bar.trades) for bar in bars}
        assert found[("b", 1)] == ("final", 240)
        assert found[("a", 1)][0] == "provisional"
        assert minute in {bar.ts_ns for bar in bars}

    play(story)


# --- on demand ---------------------------------------------------------------------------------------------


class Wide(Floor):
    """a and b stream nothing at first; a can have what begins with N, b everything but what ends in !."""

    def __init__(self, config: StreamsConfig | None = None) -> None:
        super().__init__(config)
        self.a, self.b = Feed("a", self.clock), Feed("b", self.clock)
        of_a = SymbolMap(to_provider=lambda s: s if s.startswith("N") else None)
        of_b = SymbolMap(to_provider=lambda s: None if s.endswith("!") else s)
        self.seat(provider("a", feed=self.a, maps=of_a))
        self.seat(provider("b", feed=self.b, maps=of_b))


def test_a_symbol_is_subscribed_once_for_all_who_want_it_and_lingers_after_the_last() -> None:
    async def story(f: Wide) -> None:
        number = f.desk.acquire("NVDA")
        assert f.desk.acquire("NVDA") == number == f.pipeline.symbols.get("NVDA")
        await f.run(2, f.a, symbols=("NVDA",))
        assert (f.a.wanted.symbols, f.b.wanted.symbols) == (("NVDA",), ())
        assert f.pipeline.latest.get("NVDA").source == "a"
        f.desk.release("NVDA")
        await f.run(40, f.a, symbols=("NVDA",))
        assert f.a.wanted.symbols == ("NVDA",)
        f.desk.release("NVDA")
        await f.run(29, f.a, symbols=("NVDA",))
        assert f.a.wanted.symbols == ("NVDA",)
        await f.run(2, f.a, symbols=("NVDA",))
        assert f.a.wanted.symbols == ()
        assert f.desk.active("NVDA") is None

    play(story, Wide)


def test_who_comes_back_while_it_lingers_finds_it() -> None:
    async def story(f: Wide) -> None:
        f.desk.acquire("NVDA")
        f.desk.release("NVDA")
        await f.run(20, f.a, symbols=("NVDA",))
        f.desk.acquire("NVDA")
        await f.run(60, f.a, symbols=("NVDA",))
        assert f.a.wanted.symbols == ("NVDA",)
        f.desk.release("NVDA")
        f.desk.release("NVDA")  # once too often
        await f.run(31, f.a, symbols=("NVDA",))
        assert f.a.wanted.symbols == ()

    play(story, Wide)


def test_on_demand_too_the_next_provider_takes_over_and_only_it_is_subscribed() -> None:
    async def story(f: Wide) -> None:
        f.desk.acquire("NVDA")
        await f.run(2, f.a, symbols=("NVDA",))
        f.a.cut()
        await f.run(2, f.b, symbols=("NVDA",))
        assert (f.a.wanted.symbols, f.b.wanted.symbols) == ((), ("NVDA",))
        assert f.pipeline.latest.get("NVDA").source == "b"

    f = play(story, Wide)
    assert f.told() == [("a", "b", "disconnected")]


def test_a_provider_that_does_not_have_it_is_followed_by_the_next_and_then_by_nobody() -> None:
    async def story(f: Wide) -> None:
        f.desk.acquire("NONSENSE")
        await f.run(1)
        for feed, name in ((f.a, "a"), (f.b, "b")):
            feed.say(
                Quarantined(source=name, time_received_ns=T0, reason="unknown_symbol", detail="?", symbol="NONSENSE")
            )
            await f.run(0.5)
        assert (f.a.wanted.symbols, f.b.wanted.symbols) == ((), ())
        assert f.desk.active("NONSENSE") is None

    f = play(story, Wide)
    # nothing of it was shown ever, but who asked for it is told
    assert f.told() == [("a", "b", "symbol_refused"), ("b", None, "symbol_refused")]


def test_what_nobody_can_have_is_an_unknown_symbol() -> None:
    async def story(f: Wide) -> None:
        for symbol in ("X!", "", "X Y", "X\n", "X" * 65):
            with pytest.raises(UnknownSymbol):
                f.desk.acquire(symbol)
        f.desk.release("X!")
        assert f.desk.acquire("NVDA!") >= 0

    play(story, Wide)


def test_only_so_many_at_a_time() -> None:
    async def story(f: Wide) -> None:
        f.desk.acquire("N1")
        f.desk.acquire("N2")
        with pytest.raises(InvalidInput, match="2 are subscribed by request"):
            f.desk.acquire("N3")
        f.desk.release("N1")
        await f.run(31)
        f.desk.acquire("N3")

    play(story, Wide, config=StreamsConfig(on_demand_max=2))


def test_a_provider_without_room_is_no_candidate() -> None:
    def floor() -> Floor:
        f = Floor()
        f.a, f.b = Feed("a", f.clock, symbols_per_connection=1, connections=1), Feed("b", f.clock)
        f.seat(provider("a", feed=f.a))
        f.seat(provider("b", feed=f.b))
        return f

    async def story(f: Any) -> None:
        f.desk.acquire("N1")
        f.desk.acquire("N2")
        await f.run(1)
        assert (f.a.wanted.symbols, f.b.wanted.symbols) == (("N1",), ("N2",))

    play(story, floor)


def test_a_symbol_that_is_streamed_anyway_or_comes_from_elsewhere_is_not_subscribed() -> None:
    async def story(f: Two) -> None:
        f.pipeline.add_source("recording")
        now = f.clock.time_ns()
        f.pipeline.take("recording", [quote_of("recording", "OLD", 1.0, now)])
        assert f.desk.acquire("OLD") == f.pipeline.symbols.get("OLD")
        assert f.desk.acquire("X") == f.pipeline.symbols.get("X")
        f.desk.release("X")
        await f.run(31, f.a)
        assert f.a.wanted.symbols == ("X", "Y")

    f = play(story)
    assert ("recording", "OLD", T0, 1.0) in f.shown


def test_a_symbol_that_is_asked_for_on_demand_makes_no_bar_that_passes_for_whole() -> None:
    async def story(f: Wide) -> None:
        await f.run(30)
        f.desk.acquire("N")
        await f.run(40, f.a, symbols=("N",))
        f.desk.release("N")
        await f.run(60)
        f.desk.acquire("N")
        await f.run(20, f.a, symbols=("N",))
        await f.run(60, f.a, symbols=("N",))
        f.pipeline.tick_clock()
        bars = [
            bar
            for batch in f.pipeline.drain_bars()
            for bar in batch.bars(0)
            if bar.interval == "1m" and bar.side == "bid" and bar.ts_ns == T0 + 120 * 10**9
        ]
        assert [bar.status for bar in bars] == ["provisional"]

    play(story, Wide)


# --- outliers ----------------------------------------------------------------------------------------------


def test_an_outlier_is_set_apart_told_and_released_when_it_agrees_again() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        for _ in range(40):
            f.a.quote("X", 110.0 + f.now / 1000)
            f.b.quote("X", 100.0 + f.now / 1000)
            await f.run(0.25)
        assert f.desk.active("X") == "b"
        rows = {row.symbol: row for row in f.desk.cross_checks()}
        assert (rows["X"].a, rows["X"].b, rows["X"].quarantined) == ("a", "b", "a")
        # 110 over 100 is 952 basis points of 105
        assert rows["X"].bp == pytest.approx(952, rel=0.01)
        await f.run(40, f.a, f.b)
        assert f.desk.active("X") == "a"

    f = play(story, config=StreamsConfig(cross_check=CrossCheckConfig(confirm_s=2.0)))
    assert f.told() == [("a", "b", "outlier"), ("b", "a", "preferred")]
    assert f.pipeline.sources["a"].quarantined["outlier"] == 1
    assert f.pipeline.sources["a"].quarantined["outlier_over"] == 1
    assert [q.symbol for q in f.pipeline.quarantine if q.reason == "outlier"] == ["X"]


def test_an_outlier_is_not_shown_when_nobody_else_is_left_until_there_is_nothing_to_compare_with_for_a_while() -> None:
    async def story(f: Two) -> None:
        await f.run(5, f.a, f.b)
        for _ in range(40):
            f.a.quote("X", 110.0 + f.now / 1000)
            f.b.quote("X", 100.0 + f.now / 1000)
            await f.run(0.25)
        assert f.desk.active("X") == "b"
        f.b.cut()
        await f.run(1)
        assert f.desk.active("X") == "b"  # rather old than wrong
        for _ in range(160):
            f.a.quote("X", 110.0 + f.now / 1000)
            await f.run(0.25)
        assert f.desk.active("X") == "a"

    play(story)


# --- what holds always -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("tick a", "tick b", "both", "cut a", "cut b", "mute", "old b", "garbage a", "wait")),
            st.integers(1, 12),
        ),
        max_size=25,
    )
)
def test_whatever_happens_nothing_goes_out_twice_or_back_in_time(story: list[tuple[str, int]]) -> None:
    config = StreamsConfig(stream_health_timeout_s=2.0, recover_s=3.0, mute_floor_s=1.0, mute_least_gaps=3)

    async def live(f: Two) -> None:
        for word, count in story:
            match word:
                case "tick a":
                    await f.run(count / 4, f.a)
                case "tick b":
                    await f.run(count / 4, f.b)
                case "both":
                    await f.run(count / 4, f.a, f.b, symbols=("X", "Y"))
                case "cut a" | "cut b":
                    feed = f.a if word[-1] == "a" else f.b
                    if feed._line is not None:
                        feed.cut(up=True)
                    await f.run(0.25)
                case "old b":
                    f.b.quote("X", 99.0 + f.now / 1000, late_s=count / 2)
                    await f.run(0.25)
                case "garbage a":
                    for _ in range(count):
                        f.a.quote("X", -5.0)
                    await f.run(0.25)
                case _:
                    await f.run(count / 2)

    f = play(live, config=config)
    for switch in f.switches:
        assert switch.old != switch.new


def test_the_gate_costs_little() -> None:
    """Not a benchmark: that nothing in it grows with the number of symbols."""

    async def story(f: Two) -> None:
        await f.run(1, f.a, f.b)
        n = 1_000
        now = f.clock.time_ns()
        symbols = tuple(f"S{i}" for i in range(n))
        batch = TickBatch.from_events([quote_of("b", s, 1.0, now) for s in symbols])
        ids = f.pipeline.symbols.translate(batch.symbols, batch.symbol_index)
        assert f.desk.gate("b", batch, ids) is None  # nobody's symbols are everybody's
        f.desk._active[ids[:500]] = 0
        shown = f.desk.gate("b", batch, ids)
        assert np.count_nonzero(shown) == 500

    play(story)


def test_a_symbol_refused_by_request_goes_to_the_next() -> None:
    def floor() -> Floor:
        f = Floor()
        f.first, f.second = Requests("a", f.clock, {"X": 10.0}), Requests("b", f.clock, {"X": 20.0})
        f.first.refusals["X"] = SymbolNotFound("a", "no such symbol")
        f.seat(provider("a", quotes=f.first, symbols=("X",)))
        f.seat(provider("b", quotes=f.second, symbols=("X",)))
        return f

    async def story(f: Any) -> None:
        await f.run(2)
        assert f.pipeline.latest.get("X").source == "b"

    f = play(story, floor)
    assert f.told() == [("a", "b", "symbol_refused")]


def test_health_of_all_in_the_order_of_their_seats() -> None:
    async def story(f: Two) -> None:
        await f.run(1, f.a)
        assert [(h.provider, h.connected, h.mode) for h in f.desk.stream_health()] == [
            ("a", True, "STREAM"),
            ("b", True, "STREAM"),
        ]
        assert list(f.desk.controllers) == ["a", "b"]

    play(story)


def test_symbols_can_change_while_it_runs() -> None:
    async def story(f: Two) -> None:
        await f.run(2, f.a, f.b)
        f.desk.acquire("Z")
        assert f.a.wanted.symbols == ("X", "Y", "Z")
        f.desk.set_symbols("a", ["Y", "W"])
        assert f.desk.active("X") == "b"
        assert f.a.wanted.symbols == ("Y", "Z", "W")
        f.desk.set_symbols("b", ["Z"])
        assert f.desk.active("X") is None
        assert (f.desk.active("W"), f.desk.active("Z")) == ("a", "b")
        f.desk.release("Z")  # it is configured now
        await f.run(31, f.a, f.b, symbols=("W", "Z"))
        assert f.b.wanted.symbols == ("Z",)

    f = play(story)
    assert f.told()[0] == ("a", "b", "preferred")


def test_after_it_was_released_a_symbol_can_be_asked_for_again_and_by_request_in_between() -> None:
    async def story(f: Wide) -> None:
        f.desk.acquire("NVDA")
        await f.run(1, f.a, symbols=("NVDA",))
        f.desk.release("NVDA")
        await f.run(31, f.a, symbols=("NVDA",))
        await f.clock.advance(0.1)
        f.pipeline.take_asked("b", quote_of("b", "NVDA", 7.0, f.clock.time_ns()))
        assert f.pipeline.latest.get("NVDA").source == "b"
        f.desk.acquire("NVDA")
        assert f.a.wanted.symbols == ("NVDA",)
        await f.run(1, f.a, symbols=("NVDA",))
        assert f.pipeline.latest.get("NVDA").source == "a"

    play(story, Wide)


def test_a_closed_venue_makes_nobody_mute() -> None:
    saturday = 5 * 86_400 * 10**9

    def floor() -> Two:
        f = Two()
        f.clock._start_ns += saturday
        f.desk.hours = f.desk.hours.__class__(lambda _: Calendars().named("XNYS"))
        for controller in f.desk.controllers.values():
            controller._hours = f.desk.hours
        f.desk.hours.prepare(["X", "Y"])
        f.desk._grow()
        f.desk._venue[:2] = f.desk.hours.numbers(["X", "Y"])
        return f

    async def story(f: Two) -> None:
        await f.run(20, f.a, f.b)
        await f.run(300)
        assert [h.stale for h in f.desk.stream_health()] == [False, False]

    assert play(story, floor).switches == []


class Routed(Two):
    """a and b under the router of the server: b is the preferred one by policy."""

    def __init__(self) -> None:
        Floor.__init__(self)
        self.a, self.b = Feed("a", self.clock), Feed("b", self.clock)
        providers = [
            provider("a", feed=self.a, symbols=("X", "Y")),
            provider("b", feed=self.b, symbols=("X", "Y")),
        ]
        self.router = Router(providers, RoutingConfig(policies={"stream_quotes": "b,a"}), self.clock, self.metrics)
        self.desk = Desk(
            StreamsConfig(),
            self.clock,
            self.pipeline.latest,
            self.pipeline,
            order=self.router.order,
            report=self.router.report,
            on_switch=self.switches.append,
            metrics=self.metrics,
        )
        for one in providers:
            self.seat(one)


def test_with_the_router_the_policy_decides_and_one_that_recovered_is_gone_back_to() -> None:
    async def story(f: Routed) -> None:
        await f.run(5, f.a, f.b)
        assert f.desk.active("X") == "b"
        f.b.cut()
        await f.run(60, f.a, f.b)
        assert f.desk.active("X") == "a"
        assert f.router.order("stream_quotes", ("a", "b"), current="a")[0] == "a"  # the circuit of b is open
        f.b.up = True
        await f.run(240, f.a, f.b)
        assert f.desk.active("X") == "b"
        await f.router.close()

    f = play(story, Routed)
    assert f.told() == [("b", "a", "disconnected"), ("a", "b", "preferred")]
