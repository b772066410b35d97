"""The scripted source plays what it was given, and keeps the contract while doing so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from marketd.errors import SourceRejected
from marketd.model import Connected, Disconnected, Ended, Quote, TickBatch, Trade
from marketd.sources.contract import Subscriptions
from marketd.testing import ManualClock, ScriptedSource, SourceConformance, SourceHarness

NOW_NS = 1_700_000_000_000_000_000


def quote(symbol: str, bid: float, *, at_ns: int = NOW_NS) -> Quote:
    return Quote(
        symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source="scripted", bid=bid, ask=bid + 1, last=bid
    )


def trade(symbol: str, price: float, *, at_ns: int = NOW_NS) -> Trade:
    return Trade(symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source="scripted", price=price, size=2.0)


class TestScriptedConformance(SourceConformance):
    @asynccontextmanager
    async def make(self) -> AsyncIterator[SourceHarness]:
        clock = ManualClock(NOW_NS)
        script: list = []
        for step in range(400):
            at_ns = NOW_NS + (step + 1) * 2_000_000
            pair = [quote("A", 100.0 + step, at_ns=at_ns), trade("B", 50.0 + step, at_ns=at_ns)]
            script += [0.002, pair if step % 2 else [TickBatch.from_events(pair)]]
            if step == 100:
                script += [
                    [Disconnected(source="scripted", time_received_ns=at_ns, reason="written down")],
                    0.01,
                    [Connected(source="scripted", time_received_ns=at_ns)],
                ]

        async def nothing() -> None:
            """The script disconnects by itself."""

        source = ScriptedSource(script, clock=clock)
        yield SourceHarness(source=source, symbols=("A", "B"), clock=clock, disconnect=nothing, finite=True)


def test_plays_steps_in_order_with_waits_and_ends() -> None:
    async def main() -> None:
        clock = ManualClock(NOW_NS)
        first, second = quote("A", 1.0), trade("A", 2.0)
        source = ScriptedSource([[first], 1.5, [second]], clock=clock, name="played")
        seen = []

        async def read() -> None:
            async for events in source.stream(Subscriptions(["A"])):
                seen.extend((clock.time_ns() - NOW_NS, event) for event in events)

        task = asyncio.create_task(read())
        await clock.advance(1.4)
        assert len(seen) == 2
        await clock.advance(0.2)
        await task
        assert seen == [
            (0, Connected(source="played", time_received_ns=NOW_NS)),
            (0, first),
            (1_500_000_000, second),
            (1_500_000_000, Ended(source="played", time_received_ns=NOW_NS + 1_500_000_000)),
        ]

    asyncio.run(main())


def test_leaves_out_what_is_not_wanted_and_keeps_a_wholly_wanted_batch_as_it_is() -> None:
    async def main() -> None:
        both = TickBatch.from_events([quote("A", 1.0), quote("B", 2.0), quote("A", 3.0)])
        wanted = Subscriptions(["A"])
        stream = ScriptedSource([[both], [quote("B", 4.0)], [both]], clock=ManualClock()).stream(wanted)
        assert isinstance((await anext(stream))[0], Connected)
        (part,) = await anext(stream)
        assert isinstance(part, TickBatch)
        assert part.to_events() == [quote("A", 1.0), quote("A", 3.0)]
        wanted.add(["B"])
        assert (await anext(stream)) == [quote("B", 4.0)]
        (whole,) = await anext(stream)
        assert whole is both
        await stream.aclose()

    asyncio.run(main())


def test_raises_what_the_script_says() -> None:
    async def main() -> None:
        refusal = SourceRejected("scripted", "no such key")
        stream = ScriptedSource([refusal], clock=ManualClock()).stream(Subscriptions())
        assert isinstance((await anext(stream))[0], Connected)
        with pytest.raises(SourceRejected) as raised:
            await anext(stream)
        assert raised.value is refusal

    asyncio.run(main())


def test_falls_silent_when_it_does_not_end() -> None:
    async def main() -> None:
        clock = ManualClock()
        wanted = Subscriptions(["A"])
        stream = ScriptedSource([[quote("A", 1.0)]], clock=clock, ends=False).stream(wanted)
        await anext(stream)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await clock.advance(3600)
        wanted.add(["B"])
        await clock.advance(1)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait({waiting})

    asyncio.run(main())
