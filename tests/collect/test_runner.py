from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from marketd.collect.runner import SourceRunner
from marketd.errors import SourceRejected
from marketd.model import Connected, Disconnected, Ended, Quote, SourceEvent
from marketd.pipeline import Pipeline
from marketd.sources.contract import Capabilities, Source, Subscriptions
from marketd.testing import ManualClock, ScriptedSource

T0 = 1_700_000_000_000_000_000


def quote(price: float, at: int = T0) -> Quote:
    return Quote(symbol="A", time_event_ns=at, time_received_ns=at, source="scripted", bid=price, ask=price + 1)


UP = Connected(source="scripted", time_received_ns=T0)
DOWN = Disconnected(source="scripted", time_received_ns=T0, reason="the network went away")


class Desk:
    """A runner over a real pipeline, and what it said about itself."""

    def __init__(self, clock: ManualClock, source: Source, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        self.pipeline = Pipeline(clock)
        self.state = self.pipeline.add_source(source.name)
        self.said: list[tuple[str, bool, str | None]] = []
        self.runner = SourceRunner(
            source,
            Subscriptions(["A"]),
            take=self.pipeline.take,
            connected=lambda: self.state.connected,
            on_change=lambda runner: self.said.append((runner.state, self.state.connected, runner.reason)),
            ready=ready,
            clock=clock,
        )


def play(
    script: Sequence[Sequence[SourceEvent] | float | Exception], seconds: float = 1.0, *, ends: bool = True
) -> Desk:
    """What a desk looks like after a script and so many seconds, just before it is stopped."""

    async def body() -> Desk:
        clock = ManualClock(T0)
        desk = Desk(clock, ScriptedSource(script, clock=clock, ends=ends))
        assert desk.runner.state == "connecting"
        desk.runner.start()
        await clock.advance(seconds)
        desk.said.append((desk.runner.state, desk.state.connected, desk.runner.reason))
        await desk.runner.stop()
        return desk

    return asyncio.run(body())


def test_a_stream_that_ends() -> None:
    desk = play([[quote(10.0)], [quote(11.0)]])
    ended = ("ended", False, "the recording has ended")
    assert desk.said == [("streaming", True, None), ended, ended]
    assert desk.pipeline.latest.get("A").bid == 11.0
    assert (desk.state.accepted, desk.state.ended) == (2, True)


def test_a_stream_that_falls_silent_stays_streaming() -> None:
    assert play([[quote(1.0)]], ends=False).said == [("streaming", True, None)] * 2


def test_a_lost_connection_and_its_return() -> None:
    desk = play([[UP], 1.0, [DOWN], 5.0, [UP, quote(1.0)]], 10.0, ends=False)
    assert desk.said == [("streaming", True, None), ("reconnecting", False, None)] + [("streaming", True, None)] * 2
    assert desk.state.disconnects == 1


def test_attempts_that_fail_before_the_first_connection_are_still_connecting() -> None:
    desk = play([[DOWN], [DOWN]], ends=False)
    # The script's player connects first; what follows is one loss and one failed attempt.
    assert desk.said == [("streaming", True, None), ("reconnecting", False, None), ("reconnecting", False, None)]
    assert desk.state.disconnects == 1


def test_a_loss_and_return_within_one_batch_is_no_change_of_state() -> None:
    desk = play([[UP], [DOWN, UP, quote(1.0)]], ends=False)
    assert desk.said == [("streaming", True, None)] * 2
    assert desk.state.disconnects == 1


def test_an_end_in_the_batch_of_the_last_quotes() -> None:
    desk = play([[UP, quote(1.0), Ended(source="scripted", time_received_ns=T0)]], ends=True)
    assert [state for state, *_ in desk.said] == ["ended", "ended"]


def test_a_rejected_source_says_why_and_is_down() -> None:
    desk = play([[UP, quote(1.0)], SourceRejected("scripted", "no such product: A")])
    down = ("rejected", False, "scripted: no such product: A")
    assert desk.said == [("streaming", True, None), down, down]
    assert (desk.state.reason, desk.state.disconnects) == ("scripted: no such product: A", 1)


def test_a_source_rejected_before_it_connected_was_never_lost() -> None:
    class Refused(ScriptedSource):
        async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
            if wanted.symbols:
                raise SourceRejected(self.name, "bad key")
            yield []

    async def body() -> Desk:
        clock = ManualClock(T0)
        desk = Desk(clock, Refused([], clock=clock))
        desk.runner.start()
        await clock.advance(1)
        await desk.runner.stop()
        return desk

    desk = asyncio.run(body())
    assert desk.said == [("rejected", False, "scripted: bad key")]
    assert desk.state.disconnects == 0


def test_a_crash_is_told_logged_and_leaves_no_bar_that_passes_for_watched(caplog: pytest.LogCaptureFixture) -> None:
    minute = T0 // 60_000_000_000 * 60_000_000_000 + 60_000_000_000
    desk = play([[UP], 120.0, [quote(1.0, minute + 1)], ZeroDivisionError("division by zero")], 130.0)
    down = ("failed", False, "ZeroDivisionError: division by zero")
    assert desk.said[1:] == [down, down]
    assert [r.levelname for r in caplog.records if r.name == "marketd.collect.runner"] == ["ERROR"]
    assert "division by zero" in caplog.text
    desk.pipeline.clock._elapsed_ns += 600 * 10**9
    desk.pipeline.tick_clock()
    bars = [bar for batch in desk.pipeline.drain_bars() for bar in batch.bars(0) if bar.interval == "1m"]
    assert {bar.status for bar in bars} == {"provisional"}


def test_a_defect_behind_the_door_brings_down_the_source_and_nobody_else() -> None:
    async def body() -> None:
        clock = ManualClock(T0)
        desk = Desk(clock, ScriptedSource([[quote(1.0)]], clock=clock))

        def listener(*_: object) -> None:
            raise KeyError("a listener's defect")

        desk.pipeline.on_accepted.append(listener)
        desk.runner.start()
        await clock.advance(1)
        assert (desk.runner.state, desk.runner.reason) == ("failed", 'KeyError: "a listener\'s defect"')
        assert not desk.state.connected
        await desk.runner.stop()

    asyncio.run(body())


def test_stopping_releases_the_stream_and_leaves_the_state() -> None:
    released = []

    class Held(ScriptedSource):
        async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
            try:
                yield [UP]
                await asyncio.Event().wait()
            finally:
                released.append(True)

    async def body() -> None:
        clock = ManualClock(T0)
        desk = Desk(clock, Held([], clock=clock, capabilities=Capabilities()))
        await desk.runner.stop()  # before it was started: nothing to end
        desk.runner.start()
        await clock.advance(0)
        assert released == []
        await desk.runner.stop()
        await desk.runner.stop()
        assert (released, desk.said) == ([True], [("streaming", True, None)])

    asyncio.run(body())


def test_a_source_waits_until_its_reader_is_ready_and_gives_others_their_turn() -> None:
    async def body() -> None:
        clock = ManualClock(T0)
        ready = asyncio.Event()
        desk = Desk(clock, ScriptedSource([[quote(float(i))] for i in range(1, 6)], clock=clock), ready.wait)
        desk.runner.start()
        await clock.advance(1)
        assert (desk.state.ticks, desk.runner.state) == (0, "streaming")  # only `Connected` was taken
        ready.set()
        turns = 0
        while desk.runner.state != "ended":
            await asyncio.sleep(0)
            turns += 1
            assert turns < 1_000
        assert turns >= 5
        assert desk.state.ticks == 5
        await desk.runner.stop()

    asyncio.run(body())
