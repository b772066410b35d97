"""Providers whose line a test holds in its hand: a stream over the real reconnect loop, and quotes by request."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from marketd.clock import Clock
from marketd.errors import SourceError, SourceUnavailable
from marketd.model import Quote, SourceEvent, Trade
from marketd.sources.contract import Capabilities, Provider, Subscriptions
from marketd.sources.reconnect import Batches, ReconnectPolicy, reconnecting
from marketd.sources.symbols import SymbolMap

T0 = 1_764_000_000_000_000_000
"""2025-11-24T16:00:00Z, a Monday."""


class Feed:
    """up: whether connecting succeeds. refusal: with what it fails."""

    def __init__(self, name: str, clock: Clock, **can: Any) -> None:
        self.name = name
        self.capabilities = Capabilities(stream_quotes=True, **can)
        self.up = True
        self.refusal: Exception = SourceUnavailable(name, "connection refused")
        self.opened_s: list[float] = []
        self.wanted: Subscriptions | None = None
        self._clock = clock
        self._line: asyncio.Queue[Sequence[SourceEvent] | Exception] | None = None

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        self.wanted = wanted
        rng = random.Random(7)
        policy = ReconnectPolicy()
        async for batch in reconnecting(
            self.name, self._connect, clock=self._clock, policy=policy, rng=rng, rest=wanted.rest
        ):
            yield batch

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Batches]:
        self.opened_s.append(self._clock.monotonic_ns() / 1e9)
        if not self.up:
            raise self.refusal
        self._line = asyncio.Queue()
        try:
            yield self._batches(self._line)
        finally:
            self._line = None

    @staticmethod
    async def _batches(line: asyncio.Queue[Sequence[SourceEvent] | Exception]) -> Batches:
        while True:
            said = await line.get()
            if isinstance(said, Exception):
                raise said
            yield said

    def say(self, *events: SourceEvent) -> None:
        """One batch, if somebody is connected."""
        if self._line is not None:
            self._line.put_nowait(events)

    def cut(self, reason: str = "reset by peer", *, up: bool = False) -> None:
        """Lose the connection; up: the next attempt succeeds."""
        self.up = up
        assert self._line is not None
        self._line.put_nowait(SourceUnavailable(self.name, reason))

    def quote(self, symbol: str, bid: float, *, late_s: float = 0.0, **more: Any) -> None:
        """A quote of now, which the provider stamped `late_s` ago."""
        self.say(quote_of(self.name, symbol, bid, self._clock.time_ns(), late_s=late_s, **more))

    def trade(self, symbol: str, price: float, trade_id: int) -> None:
        now_ns = self._clock.time_ns()
        self.say(
            Trade(
                symbol=symbol,
                time_event_ns=now_ns,
                time_received_ns=now_ns,
                source=self.name,
                price=price,
                size=1.0,
                trade_id=trade_id,
            )
        )


def quote_of(source: str, symbol: str, bid: float, now_ns: int, *, late_s: float = 0.0, spread: float = 0.02) -> Quote:
    event_ns = now_ns - round(late_s * 1e9)
    return Quote(
        symbol=symbol, time_event_ns=event_ns, time_received_ns=now_ns, source=source, bid=bid, ask=bid + spread
    )


class Requests:
    """error: what every request fails with. took_s: how long each takes. bids: the quotes; others are unknown."""

    def __init__(self, name: str, clock: Clock, bids: Mapping[str, float] | None = None) -> None:
        self.name = name
        self.error: Exception | None = None
        self.took_s = 0.0
        self.bids = dict(bids or {})
        self.refusals: dict[str, SourceError] = {}
        self.asked: list[tuple[float, tuple[str, ...]]] = []
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        answer = (await self.quotes([symbol]))[symbol]
        if isinstance(answer, SourceError):
            raise answer
        return answer

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        self.asked.append((self._clock.monotonic_ns() / 1e9, tuple(symbols)))
        if self.took_s:
            await self._clock.sleep(self.took_s)
        if self.error is not None:
            raise self.error
        now_ns = self._clock.time_ns()
        return {s: self.refusals.get(s) or quote_of(self.name, s, self.bids[s], now_ns) for s in symbols}


def provider(
    name: str,
    *,
    feed: Feed | None = None,
    quotes: Requests | None = None,
    symbols: Sequence[str] = (),
    maps: SymbolMap | None = None,
    **can: Any,
) -> Provider:
    capabilities = Capabilities(quotes=quotes is not None, **can) if feed is None else feed.capabilities
    return Provider(
        name=name,
        capabilities=capabilities,
        symbols=maps or SymbolMap(),
        stream=feed,
        stream_symbols=tuple(symbols),
        quotes=quotes,
    )
