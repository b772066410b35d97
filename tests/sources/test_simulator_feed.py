"""The simulator as a source: on its clock, followed subscriptions, and the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

from marketd.clock import SystemClock
from marketd.model import Connected, Quarantined, SourceEvent, TickBatch
from marketd.sources.contract import Source, Subscriptions
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource
from marketd.testing import ManualClock, SourceConformance, SourceHarness

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def config(interval_ms: int = 100, **settings: object) -> SimulatorConfig:
    symbols = {
        name: SimulatedSymbol(scenario=scenario, base_price=price, tick_interval_ms=interval_ms)
        for name, scenario, price in [("AAPL", "volatile", 150.0), ("SPY", "flat", 600.0), ("TSLA", "jump", 300.0)]
    }
    return SimulatorConfig(symbols=symbols, **settings)


class TestSimulatorConformance(SourceConformance):
    @asynccontextmanager
    async def make(self) -> AsyncIterator[SourceHarness]:
        clock = ManualClock(START_NS)
        yield SourceHarness(
            source=SimulatorSource(config(interval_ms=10), clock),
            symbols=("AAPL", "SPY", "TSLA"),
            unknown_symbol="NOPE",
            clock=clock,
        )


class CountingClock(ManualClock):
    """A manual clock that remembers how long it was asked to sleep."""

    def __init__(self, time_ns: int) -> None:
        super().__init__(time_ns)
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await super().sleep(seconds)


@asynccontextmanager
async def listening(source: Source, wanted: Subscriptions) -> AsyncIterator[list[SourceEvent]]:
    heard: list[SourceEvent] = []

    async def read() -> None:
        async with aclosing(source.stream(wanted)) as stream:
            async for events in stream:
                heard.extend(events)

    task = asyncio.create_task(read())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait({task})


def ticks(heard: list[SourceEvent]) -> list[tuple]:
    return [
        (batch.symbols[i], event_ns, last)
        for batch in heard
        if isinstance(batch, TickBatch)
        for i, event_ns, last in zip(
            batch.symbol_index.tolist(), batch.time_event_ns.tolist(), batch.last.tolist(), strict=True
        )
    ]


def test_the_same_seed_gives_the_same_ticks_at_any_pace_of_batches() -> None:
    async def run(batch_ms: float, step_s: float, seed: int = 4) -> list[tuple]:
        clock = ManualClock(START_NS)
        source = SimulatorSource(config(seed=seed, batch_ms=batch_ms), clock)
        async with listening(source, Subscriptions(["AAPL", "SPY", "TSLA"])) as heard:
            for _ in range(round(3 / step_s)):
                await clock.advance(step_s)
        return ticks(heard)

    one = asyncio.run(run(5, 0.5))
    other = asyncio.run(run(220, 0.3))
    assert len(one) == 90
    until_ns = min(one[-1][1], other[-1][1])
    assert [t for t in one if t[1] <= until_ns] == [t for t in other if t[1] <= until_ns]
    assert until_ns > START_NS + 2_700 * MS
    assert [t[2] for t in asyncio.run(run(5, 0.5, seed=5))] != [t[2] for t in one]


def test_ticks_are_received_when_they_are_due_and_batches_are_at_least_batch_ms_apart() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        source = SimulatorSource(config(interval_ms=7, batch_ms=5), clock)
        async with listening(source, Subscriptions(["AAPL", "SPY", "TSLA"])) as heard:
            await clock.advance(1.0)
        batches = [event for event in heard if isinstance(event, TickBatch)]
        received = [int(batch.time_received_ns[0]) for batch in batches]
        assert all(b - a >= 5 * MS for a, b in pairwise(received) if b != a)
        for batch in batches:
            late_ns = batch.time_received_ns - batch.time_event_ns
            assert ((late_ns >= 0) & (late_ns <= 5 * MS)).all()
        assert heard[0] == Connected(source="simulator", time_received_ns=START_NS)

    asyncio.run(main())


def test_a_slow_symbol_sleeps_until_it_is_due() -> None:
    async def main() -> None:
        clock = CountingClock(START_NS)
        source = SimulatorSource(config(interval_ms=60_000), clock)
        async with listening(source, Subscriptions(["SPY"])) as heard:
            await clock.advance(600)
        assert len(ticks(heard)) == 10
        assert len(clock.sleeps) <= 11
        assert min(clock.sleeps[1:]) >= 59.9

    asyncio.run(main())


def test_a_symbol_added_during_a_long_sleep_starts_on_its_own_interval() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        symbols = {
            "SLOW": SimulatedSymbol(base_price=1.0, tick_interval_ms=3_600_000),
            "FAST": SimulatedSymbol(base_price=1.0, tick_interval_ms=100),
        }
        wanted = Subscriptions(["SLOW"])
        async with listening(SimulatorSource(SimulatorConfig(symbols=symbols), clock), wanted) as heard:
            await clock.advance(10)
            assert ticks(heard) == []
            wanted.add(["FAST"])
            await clock.advance(1)
            assert [t[0] for t in ticks(heard)] == ["FAST"] * 10
            wanted.discard(["FAST"])
            await clock.advance(1)
            assert len(ticks(heard)) == 10
            wanted.add(["FAST"])
            await clock.advance(1)
            assert len(ticks(heard)) == 20
        assert {t[1] % (100 * MS) for t in ticks(heard)} == {ticks(heard)[0][1] % (100 * MS)}

    asyncio.run(main())


def test_an_unknown_symbol_is_refused_once_while_it_stays_wanted() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        wanted = Subscriptions(["NOPE", "SPY"])
        async with listening(SimulatorSource(config(), clock), wanted) as heard:
            await clock.advance(0.5)
            wanted.add(["AAPL"])
            await clock.advance(0.5)
            refused = [event for event in heard if isinstance(event, Quarantined)]
            assert [(e.symbol, e.reason, e.time_received_ns) for e in refused] == [("NOPE", "unknown_symbol", START_NS)]
            assert "'NOPE' is not among the 3 simulated symbols" in refused[0].detail
            wanted.discard(["NOPE"])
            await clock.advance(0.5)
            wanted.add(["NOPE"])
            await clock.advance(0.5)
            assert len([event for event in heard if isinstance(event, Quarantined)]) == 2
        assert {t[0] for t in ticks(heard)} == {"SPY", "AAPL"}

    asyncio.run(main())


def test_it_says_what_it_can() -> None:
    source = SimulatorSource(config(), ManualClock())
    assert source.name == "simulator"
    assert source.capabilities.simulated
    assert source.capabilities.stream_quotes
    assert source.capabilities.stream_trades
    assert not source.capabilities.numbered_trades


def test_on_the_machines_clock_ticks_come_at_their_pace() -> None:
    async def main() -> None:
        source = SimulatorSource(config(interval_ms=10), SystemClock())
        before_ns = time.time_ns()
        async with aclosing(source.stream(Subscriptions(["SPY"]))) as stream:
            heard: list[SourceEvent] = []
            async with asyncio.timeout(20):
                async for events in stream:
                    heard.extend(events)
                    if len(ticks(heard)) >= 20:
                        break
        times = [t[1] for t in ticks(heard)]
        assert before_ns <= times[0]
        assert times[-1] <= time.time_ns()
        assert len({event_ns % (10 * MS) for event_ns in times}) == 1

    asyncio.run(main())
