"""Puts the walk on a clock: wakes when ticks are due, sends them in one batch, sleeps until the next are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from marketd.clock import Clock
from marketd.model import INTERVALS, Connected, Quarantined, SourceEvent
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.sources.contract import Capabilities, Subscriptions
from marketd.sources.simulator.config import SimulatorConfig
from marketd.sources.simulator.walk import Walk

__all__ = ["CAPABILITIES", "NAME", "SimulatorSource"]

NAME = "simulator"

CAPABILITIES = Capabilities(
    stream_quotes=True,
    stream_trades=True,
    quotes=True,
    bars=tuple(interval.name for interval in INTERVALS if interval.ns >= 60 * NS_PER_S),
    options=True,
    quotes_per_request=1_000,
    simulated=True,
)

_UNINTERRUPTED_S = 0.02
"""A sleep this short need not end when subscriptions change; not watching them costs less."""


class SimulatorSource:
    """A `Source` of simulated symbols. It has no connection to lose and never ends.

    Wanted symbols that are not configured are quarantined as `unknown_symbol`, once while they stay wanted.
    """

    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._walk: Walk | None = None

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def walk(self) -> Walk | None:
        """What it streams, None before it does."""
        return self._walk

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        clock = self._clock
        batch_ns = round(self._config.batch_ms * NS_PER_MS)
        walk = self._walk = Walk(self._config, clock.time_ns())
        refused: set[str] = set()
        version = -1
        yield [Connected(source=self.name, time_received_ns=clock.time_ns())]
        while True:
            now_ns = clock.time_ns()
            if wanted.version != version:
                version = wanted.version
                unknown = walk.want(wanted.symbols, now_ns)
                if new := [symbol for symbol in unknown if symbol not in refused]:
                    yield [self._unknown(symbol, now_ns) for symbol in new]
                refused = set(unknown)
            if batches := walk.take(now_ns):
                yield batches
            await self._wait(walk.next_due_ns(), now_ns + batch_ns, wanted, version)

    async def _wait(self, due_ns: int | None, earliest_ns: int, wanted: Subscriptions, version: int) -> None:
        """Until something is due, but not before `earliest_ns`; less if subscriptions change meanwhile."""
        if due_ns is None:
            await wanted.changed(version)
            return
        seconds = (max(due_ns, earliest_ns) - self._clock.time_ns()) / NS_PER_S
        if seconds <= _UNINTERRUPTED_S:
            await self._clock.sleep(seconds)
            return
        tasks = {asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(wanted.changed(version))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _unknown(self, symbol: str, now_ns: int) -> Quarantined:
        return Quarantined(
            source=self.name,
            time_received_ns=now_ns,
            reason="unknown_symbol",
            detail=f"{symbol!r} is not among the {len(self._config.symbols)} simulated symbols",
            symbol=symbol,
        )
