"""The configured sources, and recording what they send."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from marketd.clock import Clock, SystemClock
from marketd.config import Config
from marketd.errors import InvalidInput
from marketd.model import Quote, TickBatch, Trade
from marketd.routing import QuotaMemory, Router
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.contract import Provider, ProviderDeps, RawTap, Source, Subscriptions
from marketd.sources.http import RequestBudget
from marketd.sources.registry import provider_entry
from marketd.sources.replay import Recorder, replay_provider
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, simulator_provider
from marketd.telemetry import Metrics

__all__ = ["Providers", "live_providers", "record", "routed_providers"]


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
        self._config, self._clock, self._metrics = config, clock, metrics
        self._budget_of = budget_of
        self._taps = taps or {}
        self._spare: list[Provider] = []
        self.by_name: dict[str, Provider] = {name: self._built(name) for name in config.sources.providers}

    def _built(self, name: str) -> Provider:
        deps = ProviderDeps(
            clock=self._clock,
            metrics=self._metrics,
            budget=None if self._budget_of is None else self._budget_of(name),
            tap=self._taps.get(name),
        )
        return provider_entry(name).build(self._config.sources.providers[name], deps)

    def renew(self, name: str) -> Provider:
        """Another one of the same settings, for its stream: it is closed with the others."""
        provider = self._built(name)
        self._spare.append(provider)
        return provider

    def take_up(self, others: Providers) -> None:
        """Those of another set come in place of those of the same name; what was there is for the caller to close."""
        self.by_name.update(others.by_name)
        providers = {**self._config.sources.providers, **others._config.sources.providers}
        sources = msgspec.structs.replace(self._config.sources, providers=providers)
        self._config = msgspec.structs.replace(self._config, sources=sources)

    async def aclose(self) -> None:
        for provider in (*self.by_name.values(), *self._spare):
            await provider.close()


def routed_providers(
    config: Config, clock: Clock, metrics: Metrics, memory: QuotaMemory | None = None
) -> tuple[Providers, Router]:
    """The configured providers, and the router that asks them. memory: where their quotas outlive the process."""

    def alias(name: str) -> str:
        return name if name in ("simulator", "replay") else provider_entry(name).name

    router = Router((), config.routing, clock, metrics, memory, alias=alias)
    providers = Providers(config, clock, metrics, budget_of=router.budget_of)
    router.replace(providers=tuple(providers.by_name.values()))
    return providers, router


def live_providers(config: Config, clock: Clock, providers: Providers) -> list[Provider]:
    """What can be shown live: the simulator, the configured providers that stream or give quotes, the recording.

    Raises InvalidInput for a recording that cannot be replayed.
    """
    found: list[Provider] = []
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
        found.append(simulator_provider(simulator, clock))
    found += [p for p in providers.by_name.values() if p.stream is not None or p.quotes is not None]
    if config.sources.replay is not None:
        found.append(replay_provider(config.sources.replay, clock, {"coinbase": parse_message}))
    return found


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
        chosen = [
            (provider.stream, Subscriptions(provider.stream_symbols))
            for provider in live_providers(config, clock, providers)
            if provider.stream is not None
        ]
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
