"""The configured sources, and recording what they send."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marketd.clock import Clock, SystemClock
from marketd.config import Config
from marketd.errors import InvalidInput
from marketd.model import Quote, TickBatch, Trade
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.contract import Provider, ProviderDeps, RawTap, Source, Subscriptions
from marketd.sources.http import RequestBudget
from marketd.sources.registry import provider_entry
from marketd.sources.replay import Recorder, ReplaySource
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource
from marketd.telemetry import Metrics

__all__ = ["Providers", "build_sources", "record"]


class Providers:
    """The configured providers by name, each built once; their parts share its connections and its quota.

    budget_of: a provider's share of the quota; None leaves each to its own rate limit. taps: who sees raw messages, by
    name. Raises InvalidInput, also for a provider whose extra is not installed.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        metrics: Metrics,
        *,
        budget_of: Callable[[str], RequestBudget] | None = None,
        taps: Mapping[str, RawTap] | None = None,
    ) -> None:
        self.by_name: dict[str, Provider] = {}
        for name, settings in config.sources.providers.items():
            deps = ProviderDeps(
                clock=clock,
                metrics=metrics,
                budget=None if budget_of is None else budget_of(name),
                tap=(taps or {}).get(name),
            )
            self.by_name[name] = provider_entry(name).build(settings, deps)

    async def aclose(self) -> None:
        for provider in self.by_name.values():
            await provider.close()


def build_sources(config: Config, clock: Clock, providers: Providers) -> list[tuple[Source, Subscriptions]]:
    """What streams, and what is wanted of each at first: the simulator, the providers, the recording.

    Raises InvalidInput for a recording that cannot be replayed.
    """
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
    built += [
        (provider.stream, Subscriptions(provider.stream_symbols))
        for provider in providers.by_name.values()
        if provider.stream is not None
    ]
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
    async with contextlib.AsyncExitStack() as stack:
        recorder = await stack.enter_async_context(Recorder(out, clock))
        taps = {name: recorder.tap(name) for name in config.sources.providers}
        providers = await stack.enter_async_context(contextlib.aclosing(Providers(config, clock, Metrics(), taps=taps)))
        chosen = build_sources(config, clock, providers)
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
