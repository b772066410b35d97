"""The configured sources, and recording what they send."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from marketd.clock import Clock, SystemClock
from marketd.config import Config
from marketd.errors import InvalidInput
from marketd.model import Quote, TickBatch, Trade
from marketd.sources.coinbase.feed import CoinbaseSource
from marketd.sources.coinbase.history import GRANULARITIES, CoinbaseHistory, http_client
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.coinbase.quotes import CoinbaseQuotes
from marketd.sources.contract import BarHistory, QuoteRequest, RawTap, Source, Subscriptions
from marketd.sources.http import HttpClient
from marketd.sources.replay import Recorder, ReplaySource
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource

__all__ = ["Memories", "build_sources", "record"]


class Memories:
    """The histories of the configured providers, and the connections they share."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.by_source: dict[str, tuple[BarHistory, tuple[str, ...]]] = {}
        """History and the intervals it has, by source name."""
        self.quotes_by_source: dict[str, QuoteRequest] = {}
        """Who gives quotes by request, by source name."""
        self._clients: list[HttpClient] = []
        if config.sources.coinbase is not None:
            client = http_client(config.sources.coinbase, clock)
            self._clients.append(client)
            self.quotes_by_source["coinbase"] = CoinbaseQuotes(client, clock)
            self.by_source["coinbase"] = (CoinbaseHistory(client, config.sources.coinbase, clock), tuple(GRANULARITIES))
            self.quotes_by_source["coinbase"] = CoinbaseQuotes(client, clock)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


def build_sources(
    config: Config, clock: Clock, tap: dict[str, RawTap] | None = None
) -> list[tuple[Source, Subscriptions]]:
    """The configured sources and what is wanted of each at first. tap: raw messages of a source, by its name.

    Raises InvalidInput for a recording that cannot be replayed.
    """
    taps = tap or {}
    built: list[tuple[Source, Subscriptions]] = []
    scenarios = config.market_data.scenarios
    if scenarios:
        simulator = SimulatorConfig(
            symbols={
                name: SimulatedSymbol(
                    scenario=s.scenario, base_price=float(s.base_price), tick_interval_ms=s.tick_interval_ms
                )
                for name, s in scenarios.items()
            },
            seed=config.market_data.seed,
        )
        built.append((SimulatorSource(simulator, clock), Subscriptions(scenarios)))
    if config.sources.coinbase is not None:
        coinbase = CoinbaseSource(config.sources.coinbase, clock, taps.get("coinbase"))
        built.append((coinbase, Subscriptions(config.sources.coinbase.symbols)))
    if config.sources.replay is not None:
        replay = ReplaySource(config.sources.replay, clock, {"coinbase": parse_message})
        built.append((replay, Subscriptions(replay.symbols)))
    return built


async def record(
    config: Config, out: Path, names: Sequence[str], seconds: float | None, progress: Callable[[int], None]
) -> int:
    """Write what the configured sources (or those named) send to a file; returns how many ticks were seen.

    Until they end, `seconds` are over, or SIGINT or SIGTERM. progress: called about once a second with the
    ticks so far. Raises InvalidInput for an unknown source or a file that cannot be written.
    """
    clock = SystemClock()
    async with Recorder(out, clock) as recorder:
        chosen = build_sources(config, clock, {"coinbase": recorder.tap("coinbase")})
        known = [source.name for source, _ in chosen]
        for name in names:
            if name not in known:
                raise InvalidInput("source", name, f"one of {', '.join(known)}")
        seen = 0
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

        async def take(source: Source, wanted: Subscriptions) -> None:
            nonlocal seen
            async with contextlib.aclosing(source.stream(wanted)) as batches:  # type: ignore[type-var]
                async for events in batches:
                    recorder.record(events)
                    seen += sum(len(e) if isinstance(e, TickBatch) else isinstance(e, Quote | Trade) for e in events)

        tasks = [asyncio.create_task(take(s, w)) for s, w in chosen if not names or s.name in names]
        everything: asyncio.Future[Any] = asyncio.gather(*tasks)
        stopped = asyncio.create_task(stop.wait())
        ends_ns = None if seconds is None else clock.monotonic_ns() + round(seconds * 1e9)
        try:
            while not everything.done() and not stopped.done():
                left = 1.0 if ends_ns is None else min(1.0, (ends_ns - clock.monotonic_ns()) / 1e9)
                if left <= 0:
                    break
                pair: set[asyncio.Future[Any]] = {everything, stopped}
                await asyncio.wait(pair, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                progress(seen)
            if everything.done():
                everything.result()
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, everything, return_exceptions=True)
        return seen
