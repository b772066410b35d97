"""One provider's feed over its stream and its requests, by a clock that the test owns."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from feeds import T0, Feed, Requests

from marketd.calendars import AlwaysOpen, Calendars
from marketd.collect.hours import Hours
from marketd.collect.stream_controller import StreamController
from marketd.collect.streams import StreamsConfig
from marketd.errors import InvalidInput, NotEntitled, SourceRejected, SourceUnavailable, SymbolNotFound, Throttled
from marketd.model import Quarantined
from marketd.pipeline import Pipeline
from marketd.sources.contract import Subscriptions
from marketd.testing import ManualClock


class Rig:
    """A controller over a real pipeline, and all that it said."""

    def __init__(
        self,
        *,
        feed: bool = True,
        polls: bool = True,
        config: StreamsConfig | None = None,
        clock: ManualClock | None = None,
        symbols: tuple[str, ...] = ("A",),
        hours: Hours | None = None,
        **more: Any,
    ) -> None:
        self.clock = clock or ManualClock(T0)
        self.feed = Feed("p", self.clock)
        self.requests = Requests("p", self.clock, dict.fromkeys(symbols, 10.0))
        self.pipeline = Pipeline(self.clock)
        self.state = self.pipeline.add_source("p")
        self.wanted = Subscriptions(symbols)
        self.modes: list[tuple[float, str]] = []
        self.holes: list[tuple[float, tuple[str, ...], float]] = []
        self.outcomes: list[tuple[str, str | None]] = []
        self.refused: list[str] = []
        self.controller = StreamController(
            "p",
            config or StreamsConfig(),
            self.clock,
            wanted=self.wanted,
            hours=hours or Hours(),
            take=self.pipeline.take,
            take_polled=self.pipeline.take_polled,
            connected=lambda: self.state.connected,
            on_change=self._changed,
            source=self.feed if feed else None,
            quotes=self.requests if polls else None,
            backfill=lambda names, since: self.holes.append((self.now, tuple(names), (since - T0) / 1e9)),
            report=lambda _name, what, error, _s: self.outcomes.append((what, None if error is None else error.code)),
            on_refused=lambda symbol, _detail: self.refused.append(symbol),
            **more,
        )

    @property
    def now(self) -> float:
        return self.clock.monotonic_ns() / 1e9

    def _changed(self, controller: StreamController) -> None:
        if not self.modes or self.modes[-1][1] != controller.mode:
            self.modes.append((self.now, controller.mode))

    async def run(self, seconds: float, *, ticks: bool = False) -> None:
        """Time passes; every quarter of a second (of long times: every second) the controller looks, and the stream
        ticks if it shall."""
        step = 0.25 if seconds <= 100 else 1.0
        for _ in range(round(seconds / step)):
            await self.clock.advance(step)
            if ticks:
                self.feed.quote("A", 10.0 + self.now / 1000)
                await self.clock.advance(0)
            self.controller.look()

    def polls(self, since_s: float = 0.0) -> list[float]:
        return [at for at, _ in self.requests.asked if at >= since_s]


def play(story: Callable[[Rig], Awaitable[None]], **how: Any) -> Rig:
    rig: list[Rig] = []

    async def body() -> None:
        rig.append(Rig(**how))
        rig[0].controller.start()
        try:
            await story(rig[0])
        finally:
            await rig[0].controller.stop()

    asyncio.run(body())
    return rig[0]


def test_a_stream_that_ticks_is_never_polled() -> None:
    async def story(rig: Rig) -> None:
        await rig.run(40, ticks=True)
        health = rig.controller.health()
        assert (health.provider, health.connected, health.mode, health.stale) == ("p", True, "STREAM", False)
        assert (health.stale_threshold_s, health.subscriptions, health.reconnect_attempts) == (30.0, 1, 0)
        assert health.last_tick_ts == "2025-11-24T16:00:40Z"
        assert health.last_error is None

    rig = play(story)
    assert rig.polls() == []
    assert rig.holes == []
    assert [mode for _, mode in rig.modes] == ["STREAM", "OFF"]


def test_a_lost_stream_is_polled_twice_a_second_until_it_ticks_again_and_its_hole_is_asked_for() -> None:
    async def story(rig: Rig) -> None:
        await rig.run(5, ticks=True)
        rig.feed.cut("reset by peer")
        await rig.run(10)
        assert rig.controller.mode == "POLL"
        health = rig.controller.health()
        assert (health.connected, health.reconnect_attempts, health.last_error) == (False, 4, "connection refused")
        polls = rig.polls()
        assert polls[0] == 5.0
        assert {round(b - a, 3) for a, b in itertools.pairwise(polls)} == {0.5}
        rig.feed.up = True
        await rig.run(20, ticks=True)
        assert rig.controller.mode == "STREAM"
        assert rig.controller.health().reconnect_attempts == 0

    rig = play(story)
    # of the first loss, and once more when the stream is back
    assert [(names, since) for _, names, since in rig.holes] == [(("A",), 5.0)] * 2
    back = rig.holes[-1][0]
    assert [at for at, _ in rig.requests.asked if at > back + 0.5] == []
    assert rig.state.disconnects == 1
    assert ("stream_quotes", "source_unavailable") in rig.outcomes
    assert ("quotes_l1", None) in rig.outcomes


def test_the_waits_between_attempts_double_up_to_a_minute_with_a_tenth_of_jitter_and_end_after_ten() -> None:
    async def story(rig: Rig) -> None:
        rig.feed.up = False
        await rig.run(700)
        opened = rig.feed.opened_s
        assert len(opened) == 10
        waits = [b - a for a, b in itertools.pairwise(opened)]
        for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
            assert least <= wait <= 1.1 * least + 1e-6
        assert rig.wanted.resting
        assert (rig.controller.mode, rig.controller.attempts) == ("POLL", 10)
        await rig.run(200)
        assert len(rig.feed.opened_s) == 10
        rig.feed.up = True
        rig.controller.ask()
        await rig.run(1, ticks=True)
        assert rig.controller.mode == "STREAM"

    play(story, config=StreamsConfig(poll_interval_ms=60_000))


def test_without_requests_a_stream_that_gave_up_rests() -> None:
    async def story(rig: Rig) -> None:
        rig.feed.up = False
        await rig.run(20)
        assert rig.controller.mode == "STREAM"  # it is reconnecting
        assert not rig.controller.streams_well
        await rig.run(300)
        assert rig.controller.mode == "RESTING"

    play(story, polls=False)


@pytest.mark.parametrize(
    ("calendar", "begins_s"),
    [
        # 24/7: the next UTC day, eight hours after T0
        ("24/7", 8 * 3_600),
        # New York: T0 is 11:00, the next session opens at 9:30, 22.5 hours later
        ("XNYS", 22.5 * 3_600),
    ],
)
def test_a_stream_that_gave_up_is_tried_again_when_the_next_session_opens(calendar: str, begins_s: float) -> None:
    hours = Hours(lambda _: AlwaysOpen() if calendar == "24/7" else Calendars().named(calendar))
    hours.prepare(["A"])

    async def story(rig: Rig) -> None:
        rig.feed.up = False
        rig.controller.wanted.attempts = 2
        await rig.run(10)
        assert rig.wanted.resting
        rig.feed.up = True
        await rig.clock.advance(begins_s - rig.now - 1)
        rig.controller.look()
        await rig.clock.advance(0)
        assert len(rig.feed.opened_s) == 2
        await rig.run(2)
        assert len(rig.feed.opened_s) == 3

    play(story, polls=False, hours=hours)


def test_a_stream_that_is_connected_and_mute_is_polled_and_its_minutes_are_not_taken_for_watched() -> None:
    async def story(rig: Rig) -> None:
        await rig.run(20, ticks=True)
        assert rig.state.builder.covered_since_ns == T0
        await rig.run(29.75)
        assert rig.controller.mode == "STREAM"
        await rig.run(0.5)
        assert rig.controller.mode == "POLL"
        assert rig.state.builder.covered_since_ns is None
        health = rig.controller.health()
        assert not health.connected
        assert health.last_error == "connected, but no tick for 30.0 s"
        await rig.run(5)
        rig.feed.quote("A", 11.0)
        await rig.run(0.25)
        assert rig.controller.mode == "STREAM"
        assert rig.state.connected
        assert rig.pipeline.latest.get("A").bid == 11.0

    rig = play(story)
    # since the last tick, at the switch to polling and at the return
    assert [since for _, _, since in rig.holes] == [20.0, 20.0]


def test_silence_while_the_venue_is_closed_is_not_mute_and_nothing_is_polled() -> None:
    hours = Hours(lambda _: Calendars().named("XNYS"))
    hours.prepare(["A"])
    sunday = T0 - 86_400 * 10**9

    async def story(rig: Rig) -> None:
        await rig.run(120)
        assert rig.controller.mode == "STREAM"
        assert not rig.controller.health().stale
        rig.feed.cut()
        await rig.run(30)
        assert rig.controller.mode == "POLL"
        assert rig.polls() == []

    play(story, hours=hours, clock=ManualClock(sunday))


def test_a_stream_that_is_slow_by_nature_is_not_mute_at_its_usual_pace() -> None:
    async def story(rig: Rig) -> None:
        for _ in range(40):
            rig.feed.quote("A", 10.0 + rig.now / 1000)
            await rig.run(25)
        await rig.run(60)
        assert rig.controller.mode == "STREAM"
        await rig.run(400)
        assert rig.controller.mode == "POLL"

    play(story, config=StreamsConfig(poll_interval_ms=60_000))


def test_a_mute_stream_is_opened_anew_after_the_fallback_has_lasted_long_enough() -> None:
    made: list[Feed] = []

    async def story(rig: Rig) -> None:
        await rig.run(35)
        assert (rig.controller.mode, made) == ("POLL", [])
        await rig.run(54)
        assert made == []
        await rig.run(3)
        assert len(made) == 1
        made[0].quote("A", 12.0)
        await rig.run(0.25)
        assert rig.controller.mode == "STREAM"
        assert rig.pipeline.latest.get("A").bid == 12.0

    clock = ManualClock(T0)

    def renew() -> Feed:
        made.append(Feed("p", clock))
        return made[-1]

    play(story, renew=renew, clock=clock)


def test_a_stream_that_does_not_connect_at_all_is_polled_after_the_timeout() -> None:
    class Hanging(Feed):
        async def stream(self, wanted: Subscriptions) -> Any:
            await asyncio.Event().wait()
            yield []

    async def body() -> None:
        rig = Rig()
        rig.controller.runner.source = Hanging("p", rig.clock)
        rig.controller.start()
        await rig.run(29)
        assert rig.controller.mode == "STREAM"
        await rig.run(2)
        assert (rig.controller.mode, rig.controller.last_error) == ("POLL", "not connected after 30 s")
        await rig.controller.stop()

    asyncio.run(body())


def test_a_provider_without_a_stream_is_polled_always() -> None:
    async def story(rig: Rig) -> None:
        await rig.run(10)
        assert rig.controller.mode == "POLL"
        assert rig.controller.fault is None
        assert not rig.controller.health().stale

    rig = play(story, feed=False)
    assert rig.polls() == [0.5 * n for n in range(21)]
    assert rig.pipeline.latest.get("A").bid == 10.0
    assert rig.pipeline.drain_bars() == []  # what is seen now and then is no bar
    assert rig.state.ticks == 21


def test_a_429_is_waited_out_as_told_and_without_a_word_ever_longer() -> None:
    async def story(rig: Rig) -> None:
        rig.requests.error = Throttled("p", "too many requests", retry_after_s=7.0)
        await rig.run(15)
        assert rig.polls() == [0.0, 7.0, 14.0]
        assert rig.controller.fault == "throttled"
        rig.requests.error = Throttled("p", "too many requests")
        await rig.run(185)
        # the third wait was told, the fourth failure in a row is not: 8, 16, 32, 60, 60 s
        assert rig.polls(20) == [21.0, 29.0, 45.0, 77.0, 137.0, 197.0]
        rig.requests.error = None
        await rig.run(65)
        assert rig.controller.fault is None
        assert rig.polls(257.0) == [257.0 + 0.5 * n for n in range(17)]

    play(story, feed=False)


def test_a_slow_provider_is_asked_once_at_a_time() -> None:
    async def story(rig: Rig) -> None:
        rig.requests.took_s = 3.0
        await rig.run(2)
        assert rig.controller.poll_age_s == 2.0
        await rig.run(8)

    rig = play(story, feed=False)
    assert rig.polls() == pytest.approx([0.0, 3.05, 6.1, 9.15])


def test_requests_that_are_refused_for_good_are_not_repeated_until_asked() -> None:
    async def story(rig: Rig) -> None:
        rig.requests.error = NotEntitled("p", "HTTP 401")
        await rig.run(10)
        assert (len(rig.polls()), rig.controller.mode, rig.controller.fault) == (1, "OFF", "not_entitled")
        rig.requests.error = None
        rig.controller.ask()
        await rig.run(2)
        assert rig.controller.mode == "POLL"
        assert rig.controller.fault is None

    play(story, feed=False)


def test_a_rejected_stream_is_polled_and_made_anew_when_asked() -> None:
    clock = ManualClock(T0)
    fresh = Feed("p", clock)

    async def story(rig: Rig) -> None:
        rig.feed.up, rig.feed.refusal = False, NotEntitled("p", "the key does not cover streaming")
        await rig.run(1)
        assert (rig.controller.mode, rig.controller.cause) == ("POLL", "not_entitled")
        assert ("stream_quotes", "not_entitled") in rig.outcomes
        rig.controller.ask()
        await rig.run(1)
        fresh.quote("A", 20.0)
        await rig.run(1)
        assert (rig.controller.mode, rig.controller.cause) == ("STREAM", None)

    play(story, renew=lambda: fresh, clock=clock)


def test_a_defect_of_the_parser_leaves_the_requests(caplog: pytest.LogCaptureFixture) -> None:
    async def story(rig: Rig) -> None:
        await rig.run(1, ticks=True)
        rig.feed._line.put_nowait(ZeroDivisionError("division by zero"))
        await rig.run(5)
        assert (rig.controller.mode, rig.controller.cause) == ("POLL", "rejected")
        assert rig.polls()

    play(story)
    assert "division by zero" in caplog.text


def test_a_defect_in_a_request_is_logged_and_polling_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def story(rig: Rig) -> None:
        rig.requests.error = KeyError("price")
        await rig.run(10)
        assert rig.controller.fault == "failing"

    rig = play(story, feed=False)
    assert "price" in caplog.text
    assert rig.polls() == [0.0, 1.0, 3.0, 7.0]


def test_only_what_is_needed_is_polled_and_unknown_symbols_are_told() -> None:
    async def story(rig: Rig) -> None:
        rig.requests.refusals["B"] = SymbolNotFound("p", "no such symbol")
        await rig.run(1)

    rig = play(story, feed=False, symbols=("A", "B", "C"), needed=lambda: ("A", "B"))
    assert {names for _, names in rig.requests.asked} == {("A", "B")}
    assert rig.refused == ["B"] * 3
    assert rig.pipeline.latest.get("A").bid == 10.0


def test_a_symbol_that_the_stream_refuses_is_told() -> None:
    async def story(rig: Rig) -> None:
        await rig.run(0.25)
        rig.feed.say(
            Quarantined(source="p", time_received_ns=T0, reason="unknown_symbol", detail="no such product", symbol="A")
        )
        await rig.run(0.25)
        assert rig.refused == ["A"]
        assert rig.state.quarantined == {"unknown_symbol": 1}

    play(story)


def test_no_backfill_if_it_is_not_wanted_and_five_minutes_where_the_hole_is_not_known() -> None:
    async def story(rig: Rig) -> None:
        rig.feed.up = False
        await rig.run(3)
        rig.feed.up = True
        await rig.run(10, ticks=True)
        assert rig.controller.mode == "STREAM"

    rig = play(story)
    opened = rig.feed.opened_s[-1]
    assert [(at, since) for at, _, since in rig.holes] == [(opened, pytest.approx(opened - 300))]
    assert play(story, config=StreamsConfig(backfill_on_reconnect=False)).holes == []


def test_tick_then_loss_in_one_batch_counts_as_a_failure_after_the_tick() -> None:
    async def story(rig: Rig) -> None:
        await rig.run(1, ticks=True)
        rig.feed.cut()
        await rig.run(0.5)
        assert rig.controller.attempts == 1

    play(story)


def test_something_must_be_there_to_control() -> None:
    with pytest.raises(ValueError, match="neither streams nor answers"):
        Rig(feed=False, polls=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream_health_timeout_s", 0),
        ("poll_interval_ms", 0),
        ("poll_fallback_duration_s", -1),
        ("reconnect_attempts", 0),
        ("backfill_s", -1),
        ("mute_factor", float("nan")),
        ("mute_cap_s", 5),
        ("slow_after_ms", 0),
        ("garbage_share", 1.5),
        ("recover_s", -0.1),
        ("linger_s", float("inf")),
        ("on_demand_max", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidInput) as refused:
        StreamsConfig(**{field: value})
    assert refused.value.field == field


def test_errors_are_told_apart() -> None:
    from marketd.collect.stream_controller import _cause_of

    assert _cause_of(SourceRejected("p", "")) == "rejected"
    assert _cause_of(SourceUnavailable("p", "")) == "failing"
