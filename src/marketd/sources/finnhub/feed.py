"""Finnhub's stream: trades of a limited number of symbols over the one connection that a key is allowed.

Owns the socket, the watchdog, the subscriptions and their limit. Refuses to understand payloads (`parse`). Finnhub
numbers nothing, replays nothing, acknowledges nothing, and passes over most symbols that it does not know in silence.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Literal

import aiohttp

from marketd.clock import Clock
from marketd.errors import NotEntitled, SourceError, SourceRejected, SourceUnavailable, Throttled
from marketd.model import Quarantined, SourceEvent
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.finnhub.config import FinnhubConfig
from marketd.sources.finnhub.history import RESOLUTIONS
from marketd.sources.finnhub.parse import NAME, Heard, Names, read_messages
from marketd.sources.http import USER_AGENT
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.socket import Inbox, Socket
from marketd.sources.symbols import SymbolMap

__all__ = ["FinnhubSource", "capabilities"]

_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 1.0


def capabilities(config: FinnhubConfig) -> Capabilities:
    """60 requests a minute are a free key's; nobody has more than 30 a second."""
    return Capabilities(
        stream_trades=True,
        quotes=True,
        bars=tuple(RESOLUTIONS),
        options=True,
        adjustment="split",
        limits=(Limit(count=60, seconds=60.0), Limit(count=30, seconds=1.0)),
        symbols_per_connection=config.stream_symbols_max,
        connections=1,
    )


class FinnhubSource:
    """Implements `Source`. tap: sees every message. rng: for the jitter of the waits."""

    def __init__(
        self,
        config: FinnhubConfig,
        symbols: SymbolMap,
        clock: Clock,
        tap: RawTap | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._tap = tap
        self._rng = rng or random.Random()
        self._capabilities = capabilities(config)

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Connects once anything is wanted. Raises NotEntitled for a key that is refused."""
        feed = _Feed(self._config, self._symbols, self._clock, self._tap, wanted)
        loop = reconnecting(
            NAME,
            feed.connection,
            clock=self._clock,
            policy=self._config.reconnect,
            rng=self._rng,
            rest=wanted.rest,
        )
        async with aclosing(loop):
            async for batch in loop:
                yield batch


class _Feed:
    """What outlives a connection (what was told of symbols) and one connection at a time."""

    def __init__(
        self, config: FinnhubConfig, symbols: SymbolMap, clock: Clock, tap: RawTap | None, wanted: Subscriptions
    ) -> None:
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._tap = tap
        self._wanted = wanted
        self._refused: set[str] = set()  # ours, that Finnhub named in an error
        self._told: dict[str, str] = {}  # ours → the reason that was told
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._followed: int | None = None  # version of `wanted` that `_active` agrees with
        self._active: dict[str, str] = {}  # ours → Finnhub's, in the order of subscribing
        self._names = Names({})
        self._room = self._config.stream_symbols_max
        self._inbox = Inbox(self._clock)
        self._news: list[SourceEvent] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Batches]:
        """One connection, subscribed; its batches end with SourceUnavailable."""
        while not self._wanted.symbols:
            await self._wanted.changed(self._wanted.version)
        self._reset()
        socket = await self._open()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._follow(socket)
            jobs = (
                socket.read(),
                socket.watch(self._config.mute_timeout_s, lambda: bool(self._active)),
                self._follow_wanted(),
            )
            tasks += [asyncio.create_task(job) for job in jobs]
            for task in tasks:
                task.add_done_callback(lambda _: self._inbox.wake())
            yield self._batches(socket, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await socket.close()

    async def _open(self) -> Socket:
        """Raises NotEntitled (401, 403), Throttled (429: also a second connection of the key), SourceUnavailable. No
        error shows the URL: it has the key."""
        session = aiohttp.ClientSession(headers={"User-Agent": USER_AGENT})
        try:
            async with asyncio.timeout(self._config.open_timeout_s):
                peer = await session.ws_connect(
                    self._config.ws_url,
                    params={"token": self._config.api_key or ""},
                    proxy=self._config.http.proxy,
                    autoping=False,  # a ping is a sign of life that is to be seen
                    max_msg_size=_MESSAGE_MAX_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                )
        except BaseException as error:
            await session.close()
            if isinstance(error, TimeoutError | aiohttp.ClientError | OSError | ValueError):
                raise self._not_opened(error) from None
            raise
        return Socket(NAME, session, peer, self._clock, self._inbox)

    def _not_opened(self, error: Exception) -> SourceError:
        if isinstance(error, TimeoutError):
            return SourceUnavailable(NAME, f"no connection within {self._config.open_timeout_s:g} s")
        if isinstance(error, aiohttp.InvalidURL):
            return SourceRejected(NAME, "ws_url is no URL of a WebSocket")
        if isinstance(error, aiohttp.WSServerHandshakeError):
            reason = f"no stream: HTTP {error.status}"
            if error.status in (401, 403):
                return NotEntitled(NAME, reason)
            return Throttled(NAME, reason) if error.status == 429 else SourceUnavailable(NAME, reason)
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        words = (isinstance(cause, OSError) and cause.strerror) or ""
        return SourceUnavailable(NAME, f"no connection: {type(error).__name__} {words}".rstrip())

    async def _follow_wanted(self) -> None:
        version = self._wanted.version
        while True:
            self._inbox.wake()
            version = await self._wanted.changed(version)

    async def _batches(self, socket: Socket, tasks: list[asyncio.Task[None]]) -> Batches:
        while True:
            await self._inbox.wait()
            ended = [task for task in tasks if task.done()]
            await self._follow(socket)
            messages = self._inbox.take()
            if self._tap is not None:
                for time_received_ns, text in messages:
                    self._tap(time_received_ns, text)
            heard = read_messages(messages, self._names)
            events: list[SourceEvent] = [] if heard.ticks is None else [heard.ticks]
            events += heard.quarantined
            await self._heed(socket, heard)
            news, self._news = self._news, []
            events += news
            if events:
                yield events
            for task in ended:
                task.result()

    async def _follow(self, socket: Socket) -> None:
        """Subscribe what is wanted and is not yet, unsubscribe what no longer is, tell what cannot be."""
        if self._followed == self._wanted.version:
            return
        self._followed = self._wanted.version
        wanted = self._wanted.symbols
        self._refused.intersection_update(wanted)
        self._told = {symbol: reason for symbol, reason in self._told.items() if symbol in self._wanted}
        named: dict[str, str] = {}
        for symbol in wanted:
            theirs = self._symbols.to_provider(symbol)
            if theirs is None:
                self._tell(symbol, "unknown_symbol", f"{symbol[:80]!r} is no name that Finnhub could have")
            elif symbol not in self._refused:
                named[symbol] = theirs
        gone = [theirs for symbol, theirs in self._active.items() if symbol not in named]
        kept = {symbol: theirs for symbol, theirs in self._active.items() if symbol in named}
        waiting = [symbol for symbol in named if symbol not in kept]
        room = max(0, self._room - len(kept))
        new = {symbol: named[symbol] for symbol in waiting[:room]}
        for symbol in waiting[room:]:
            self._tell(symbol, "subscription_limit", f"{symbol}: Finnhub lets this key follow {self._room} symbols")
        for symbol in new:
            self._told.pop(symbol, None)
        self._active = kept | new
        self._names = Names(self._active)
        await self._send(socket, "unsubscribe", gone)
        await self._send(socket, "subscribe", new.values())

    async def _heed(self, socket: Socket, heard: Heard) -> None:
        """Errors come without a number, and most without a name."""
        key = self._config.api_key or ""
        for words in heard.errors:
            said = words.replace(key, "…") if key else words
            if "too many symbols" in words.lower():
                # each refuses one subscription, and of those made it can only be the newest
                if self._active:
                    symbol, theirs = self._active.popitem()
                    self._room = len(self._active)
                    self._tell(symbol, "subscription_limit", f"{symbol}: {said}")
                    await self._send(socket, "unsubscribe", [theirs])
                continue
            named = [
                symbol
                for symbol, theirs in self._active.items()
                if re.search(rf"(?<![\w.:-]){re.escape(theirs)}(?![\w:-])", words)
            ]
            for symbol in named:
                del self._active[symbol]
                self._refused.add(symbol)
                self._tell(symbol, "unknown_symbol", f"{symbol}: {said}")
            if not named:
                self._news.append(self._quarantined("provider_error", said, None))
        if heard.errors:
            self._names = Names(self._active)

    async def _send(self, socket: Socket, action: Literal["subscribe", "unsubscribe"], names: Iterable[str]) -> None:
        for name in names:
            await socket.send({"type": action, "symbol": name})

    def _tell(self, symbol: str, reason: str, detail: str) -> None:
        """Once, until it changes or the symbol is given up."""
        if self._told.get(symbol) != reason:
            self._told[symbol] = reason
            self._news.append(self._quarantined(reason, detail, symbol))

    def _quarantined(self, reason: str, detail: str, symbol: str | None) -> Quarantined:
        return Quarantined(
            source=NAME, time_received_ns=self._clock.time_ns(), reason=reason, detail=detail, symbol=symbol
        )
