"""Two exchanges over real sockets, in their own wire format: each bad day, and how soon the other one is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from marketd.clock import SystemClock
from marketd.collect.live import Desk, LiveSwitch
from marketd.collect.streams import StreamsConfig
from marketd.model import Quote, SourceEvent, TickBatch
from marketd.pipeline import Pipeline
from marketd.sources.coinbase import ENTRY, CoinbaseConfig
from marketd.sources.contract import Provider, ProviderDeps, Source, Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing.providers import CoinbaseSimulator

_BTC = "BTC-USD"


class _Renamed:
    """A source under another name, so that two of one kind are two providers."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.capabilities = source.capabilities
        self._source = source

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        async for events in self._source.stream(wanted):
            yield [
                e.replace(source=self.name)
                if isinstance(e, TickBatch)
                else msgspec.structs.replace(e, source=self.name)
                for e in events
            ]


class _RenamedQuotes:
    def __init__(self, name: str, quotes: Any) -> None:
        self._name = name
        self._quotes = quotes

    async def quote(self, symbol: str) -> Quote:
        return msgspec.structs.replace(await self._quotes.quote(symbol), source=self._name)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Any]:
        found = await self._quotes.quotes(symbols)
        return {
            s: msgspec.structs.replace(a, source=self._name) if isinstance(a, Quote) else a for s, a in found.items()
        }


class _Market:
    """Two exchanges, `first` preferred, and what went out: (when, source, event time)."""

    def __init__(self, first: CoinbaseSimulator, second: CoinbaseSimulator, *, polls: bool) -> None:
        self.first, self.second = first, second
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.pipeline = Pipeline(self.clock, metrics=self.metrics)
        self.shown: list[tuple[int, str, int]] = []
        self.switches: list[LiveSwitch] = []
        self.pipeline.on_accepted.append(self._went_out)
        config = StreamsConfig(stream_health_timeout_s=1.5, recover_s=1.0, poll_interval_ms=100)
        config = msgspec.structs.replace(
            config, cross_check=msgspec.structs.replace(config.cross_check, threshold_bp=None)
        )
        self.desk = Desk(config, self.clock, self.pipeline.latest, self.pipeline, on_switch=self.switches.append)
        self.providers = [self._provider("first", first, polls=polls), self._provider("second", second, polls=False)]
        for one in self.providers:
            self.pipeline.add_source(one.name)
            self.desk.add(one)

    def _provider(self, name: str, exchange: CoinbaseSimulator, *, polls: bool) -> Provider:
        config = CoinbaseConfig(
            symbols=(_BTC,),
            rest_url=exchange.rest_url,
            ws_url=exchange.ws_url,
            mute_timeout_s=60.0,  # it is for the desk to notice
            reconnect=ReconnectPolicy(delay_first_s=0.2, delay_max_s=0.4),
            http=HttpConfig(attempts=1, retry_after_max_s=0.1),
        )
        built = ENTRY.build(config, ProviderDeps(clock=self.clock, metrics=self.metrics))
        assert built.stream is not None
        return msgspec.structs.replace(
            built,
            name=name,
            stream=_Renamed(name, built.stream),
            quotes=_RenamedQuotes(name, built.quotes) if polls else None,
        )

    def _went_out(self, batch: TickBatch, _ids: Any) -> None:
        now = self.clock.monotonic_ns()
        self.shown += [(now, batch.source, event_ns) for event_ns in batch.time_event_ns.tolist()]

    async def until(self, condition: Callable[[], bool], what: str, within_s: float = 10.0) -> float:
        """Seconds it took."""
        began = self.clock.monotonic_ns()
        while not condition():
            assert self.clock.monotonic_ns() - began < within_s * 1e9, f"not within {within_s} s: {what}"
            await asyncio.sleep(0.01)
        return (self.clock.monotonic_ns() - began) / 1e9

    def speaks(self, name: str) -> Callable[[], bool]:
        """Whether something of it has gone out since now."""
        count = len(self.shown)
        return lambda: any(source == name for _, source, _ in self.shown[count:])

    def check(self) -> None:
        newest = 0
        before = ""
        for _, source, event_ns in self.shown:
            assert event_ns > newest or source == before
            newest, before = max(newest, event_ns), source


def _play(story: Callable[[_Market], Awaitable[None]], *, polls: bool = False) -> _Market:
    made: list[_Market] = []

    async def body() -> None:
        async with (
            CoinbaseSimulator([_BTC, "ETH-USD"], seed=1, trade_interval_s=0.05) as first,
            CoinbaseSimulator([_BTC, "ETH-USD"], seed=2, trade_interval_s=0.05) as second,
        ):
            market = _Market(first, second, polls=polls)
            made.append(market)
            market.desk.start()
            try:
                await market.until(market.speaks("first"), "a first quote")
                await market.until(lambda: market.pipeline.sources["second"].accepted > 0, "the other is warm")
                await story(market)
            finally:
                await market.desk.stop()
                for one in market.providers:
                    await one.close()

    asyncio.run(body())
    made[0].check()
    return made[0]


def test_a_refusal_and_the_way_back() -> None:
    async def story(market: _Market) -> None:
        await market.first.go_down()
        assert await market.until(market.speaks("second"), "the second after a refusal") < 2.0
        await market.first.come_back()
        await market.until(market.speaks("first"), "the first again")

    market = _play(story)
    assert [(s.old, s.new, s.reason) for s in market.switches] == [
        ("first", "second", "disconnected"),
        ("second", "first", "preferred"),
    ]


def test_mute() -> None:
    async def story(market: _Market) -> None:
        market.first.mute()
        assert await market.until(market.speaks("second"), "the second") < 1.5 + 2.0

    assert [s.reason for s in _play(story).switches] == ["mute"]


def test_garbage() -> None:
    async def story(market: _Market) -> None:
        market.first.mute()
        for number in range(50):
            market.first._muted = False
            market.first.inject(f"<html>{number}</html>")
            market.first._muted = True
            if market.switches:
                break
            await asyncio.sleep(0.05)
        await market.until(market.speaks("second"), "the second")

    assert [s.reason for s in _play(story).switches] == ["garbage"]


@pytest.mark.parametrize("kind", ["throttle", "forbidden", "html", "refuse"])
def test_a_stream_that_is_lost_and_requests_that_fail(kind: Any) -> None:
    """The second is away and the first loses its stream, so it is polled; then that fails too; the second returns."""

    async def story(market: _Market) -> None:
        controller = market.desk.controllers["first"]
        await market.second.go_down()
        market.first.drop_connections()
        await market.until(lambda: controller.polled_well, "polled")
        market.first.misbehaviour.kind = kind  # for the stream's handshake, too
        market.first.drop_connections()
        await market.second.come_back()
        assert await market.until(market.speaks("second"), "the second") < 4.0

    assert _play(story, polls=True).switches[-1].new == "second"


def test_one_subscription_for_many_who_ask() -> None:
    async def story(market: _Market) -> None:
        for _ in range(20):
            market.desk.acquire("ETH-USD")
        await asyncio.sleep(0.5)
        asked = [c for c in (*market.first.commands, *market.second.commands) if "ETH-USD" in str(c)]
        assert [c["type"] for c in asked] == ["subscribe"]
        assert market.pipeline.latest.get("ETH-USD") is not None

    _play(story)
