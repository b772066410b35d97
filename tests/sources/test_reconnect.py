"""The reconnect loop against scripted connections, on a clock the test owns."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, asynccontextmanager

import pytest

from marketd.errors import InvalidInput, MalformedMessage, SourceRejected, SourceUnavailable
from marketd.model import Connected, Disconnected, Quarantined, Trade
from marketd.sources.contract import Subscriptions
from marketd.sources.reconnect import ReconnectPolicy, reconnecting
from marketd.testing import ManualClock

START_NS = 1_700_000_000_000_000_000
NO_JITTER = ReconnectPolicy(jitter=0.0)


def trade(trade_id):
    return Trade(symbol="A", time_event_ns=1, time_received_ns=2, source="x", price=1.0, trade_id=trade_id)


class Script:
    """Connections in turn: each an error to fail with, or a list of batches, seconds to live, errors to die of."""

    def __init__(self, *connections):
        self.clock = ManualClock(START_NS)
        self.left = list(connections)
        self.attempts_s = []
        self.released = 0

    @asynccontextmanager
    async def connect(self):
        self.attempts_s.append(self.clock.monotonic_ns() / 1e9)
        if not self.left:
            raise SourceUnavailable("x", "no more connections in the script")
        connection = self.left.pop(0)
        if isinstance(connection, Exception):
            raise connection
        try:
            yield self._batches(connection)
        finally:
            self.released += 1

    async def _batches(self, connection):
        for step in connection:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, (int, float)):
                await self.clock.sleep(step)
            else:
                yield step

    async def play(self, seconds, policy=NO_JITTER, seed=0):
        """Everything that is said within so many seconds."""
        heard = []
        rng = random.Random(seed)

        async def listen():
            async with aclosing(reconnecting("x", self.connect, clock=self.clock, policy=policy, rng=rng)) as batches:
                async for batch in batches:
                    heard.extend(batch)

        task = asyncio.create_task(listen())
        try:
            await self.clock.advance(seconds)
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
        return heard


def connected(at_s):
    return Connected(source="x", time_received_ns=START_NS + round(at_s * 1e9))


def disconnected(at_s, reason):
    return Disconnected(source="x", time_received_ns=START_NS + round(at_s * 1e9), reason=reason)


def test_what_a_connection_says_is_framed_by_connected_and_disconnected():
    script = Script(
        [[trade(1)], 2.0, [trade(2), trade(3)], SourceUnavailable("x", "cut")],
        [[trade(4)], 500.0],
    )
    heard = asyncio.run(script.play(10.0))
    assert heard == [
        connected(0), trade(1), trade(2), trade(3), disconnected(2, "cut"), connected(3), trade(4),
    ]  # fmt: skip
    assert script.released == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SourceUnavailable("x", "HTTP 503"), "HTTP 503"),
        (MalformedMessage("x", "not JSON"), "not JSON"),
        (ConnectionRefusedError(111, "Connection refused"), "ConnectionRefusedError: Connection refused"),
        (TimeoutError("too slow"), "TimeoutError: too slow"),
    ],
)
def test_an_attempt_that_fails_says_why_and_is_repeated(error, reason):
    script = Script(error, [500.0])
    assert asyncio.run(script.play(5.0)) == [disconnected(0, reason), connected(1)]


def test_a_stream_that_just_ends_is_a_lost_connection():
    script = Script([[trade(1)]], [500.0])
    assert asyncio.run(script.play(5.0)) == [
        connected(0), trade(1), disconnected(0, "the provider ended the stream"), connected(1),
    ]  # fmt: skip


def test_waits_double_to_the_cap():
    script = Script()
    asyncio.run(script.play(303.0))
    # 1, 2, 4, 8, 16, 32, then 60 each
    assert script.attempts_s == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303]


def test_a_tick_starts_the_waits_anew_and_a_remark_does_not():
    remark = Quarantined(source="x", time_received_ns=1, reason="r", detail="d")
    fail = SourceUnavailable("x", "f")
    script = Script(fail, fail, [[remark], fail], [[trade(1)], fail], fail)
    asyncio.run(script.play(12.0))
    # waits 1, 2, 4 (the remark changed nothing), then 1 again after the tick, 2, 4
    assert script.attempts_s == [0, 1, 3, 7, 8, 10]


def test_a_connection_that_lived_starts_the_waits_anew_without_a_tick():
    fail = SourceUnavailable("x", "f")
    script = Script(fail, fail, [29.0, fail], [30.0, fail], fail)
    asyncio.run(script.play(70.0))
    assert script.attempts_s == [0, 1, 3, 36, 67, 69]


def test_after_so_many_failures_a_source_rests_until_it_is_asked():
    script = Script(*[SourceUnavailable("x", f"no {n}") for n in range(5)])
    wanted = Subscriptions()
    wanted.attempts = 3

    async def main():
        async def listen():
            loop = reconnecting(
                "x", script.connect, clock=script.clock, policy=NO_JITTER, rng=random.Random(0), rest=wanted.rest
            )
            async with aclosing(loop) as batches:
                async for _ in batches:
                    pass

        task = asyncio.create_task(listen())
        await script.clock.advance(1_000.0)
        assert script.attempts_s == [0.0, 1.0, 3.0]
        assert wanted.resting
        wanted.ask()
        await script.clock.advance(1.5)
        assert script.attempts_s == [0.0, 1.0, 3.0, 1_000.0, 1_001.0]
        assert not wanted.resting
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())


def test_jitter_adds_up_to_a_tenth_and_is_seeded():
    policy = ReconnectPolicy()
    rng = random.Random(5)
    drawn = [policy.delay_s(n, rng) for n in (0, 1, 2, 3, 9, 2_000)]
    plain = [1.0, 2.0, 4.0, 8.0, 60.0, 60.0]
    assert all(low <= value <= low * 1.1 for low, value in zip(plain, drawn, strict=True))
    assert len({value / low for low, value in zip(plain, drawn, strict=True)}) == 6
    again = random.Random(5)
    assert drawn == [policy.delay_s(n, again) for n in (0, 1, 2, 3, 9, 2_000)]


def test_a_provider_that_says_when_is_not_asked_before():
    script = Script(SourceUnavailable("x", "HTTP 429", retry_after_s=17.0), [500.0])
    asyncio.run(script.play(20.0))
    assert script.attempts_s == [0, 17]


@pytest.mark.parametrize("error", [SourceRejected("x", "no such key"), ZeroDivisionError("a bug of ours")])
@pytest.mark.parametrize("opened", [True, False])
def test_what_retrying_cannot_cure_passes_through(error, opened):
    script = Script([[trade(1)], error] if opened else error)
    with pytest.raises(type(error)):
        asyncio.run(script.play(5.0))
    assert script.released == opened


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"delay_first_s": -1.0}, "delay_first_s"),
        ({"delay_first_s": 5.0, "delay_max_s": 1.0}, "delay_max_s"),
        ({"jitter": 1.5}, "jitter"),
        ({"lived_s": float("nan")}, "lived_s"),
    ],
)
def test_an_impossible_policy_is_refused_by_field(fields, named):
    with pytest.raises(InvalidInput) as caught:
        ReconnectPolicy(**fields)
    assert caught.value.field == named
