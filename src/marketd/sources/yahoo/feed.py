"""Yahoo's stream: one WebSocket that takes any number of symbols.

Owns the socket, the watchdog and the subscriptions. Refuses to understand payloads (`pricing`). Yahoo numbers nothing,
replays nothing, and passes over symbols that it does not know in silence.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Literal

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidURI

from marketd.clock import Clock
from marketd.errors import SourceRejected, SourceUnavailable
from marketd.model import Quarantined, SourceEvent
from marketd.model.time import NS_PER_S
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.http import USER_AGENT
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.symbols import SymbolMap
from marketd.sources.yahoo.config import YahooConfig
from marketd.sources.yahoo.history import INTERVALS
from marketd.sources.yahoo.parse import NAME
from marketd.sources.yahoo.pricing import Names, read_frames
from marketd.sources.yahoo.quotes import QUOTES_PER_REQUEST
from marketd.sources.yahoo.symbols import is_around_the_clock

__all__ = ["CAPABILITIES", "YahooSource"]

CAPABILITIES = Capabilities(
    stream_quotes=True,
    quotes=True,
    bars=tuple(INTERVALS),
    options=True,
    actions=True,
    quotes_per_request=QUOTES_PER_REQUEST,
    empty_minute="null",
    adjustment="split",
    limits=(Limit(count=60, seconds=60.0),),
)
"""Yahoo publishes no limits: a request a second is what it is known to bear."""

_INBOX_MAX = 10_000
"""Messages read and not yet handed on. When full, reading stops."""
_QUEUE_MAX = 1_000
"""Frames that wait inside the client before it stops reading: what one batch can drain at once."""
_MESSAGE_MAX_BYTES = 1024 * 1024
_CLOSE_TIMEOUT_S = 1.0


class YahooSource:
    """Implements `Source`. tap: sees every message. rng: for the jitter of the waits."""

    def __init__(
        self,
        config: YahooConfig,
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

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Connects once anything is wanted."""
        feed = _Feed(self._config, self._symbols, self._clock, self._tap, wanted)
        loop = reconnecting(NAME, feed.connection, clock=self._clock, policy=self._config.reconnect, rng=self._rng)
        async with aclosing(loop):
            async for batch in loop:
                yield batch


class _Feed:
    """What outlives a connection (`_unknown`) and one connection at a time."""

    def __init__(
        self, config: YahooConfig, symbols: SymbolMap, clock: Clock, tap: RawTap | None, wanted: Subscriptions
    ) -> None:
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._tap = tap
        self._wanted = wanted
        self._unknown: set[str] = set()
        self._told_unknown: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._followed: int | None = None  # version of `wanted` that `_active` agrees with
        self._active: dict[str, str] = {}  # subscribed symbols, ours and Yahoo's
        self._names = Names({})
        self._is_never_silent = False
        self._inbox: list[tuple[int, str]] = []
        self._heard_ns = self._gathered_ns = self._clock.monotonic_ns()
        self._mute = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    def _theirs(self) -> dict[str, str]:
        """What is wanted now and has a name there."""
        named = {symbol: self._symbols.to_provider(symbol) for symbol in self._wanted.symbols}
        self._unknown = {symbol for symbol, name in named.items() if name is None}
        self._told_unknown &= self._unknown  # given up by the user: told again if it comes back
        return {symbol: name for symbol, name in named.items() if name is not None}

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
            jobs = (self._read(socket), self._watch(), self._follow_wanted(), self._keep_alive(socket))
            tasks += [asyncio.create_task(job) for job in jobs]
            for task in tasks:
                task.add_done_callback(lambda _: self._wake.set())
            yield self._batches(socket, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await socket.close()

    async def _open(self) -> ClientConnection:
        try:
            return await connect(
                self._config.ws_url,
                user_agent_header=USER_AGENT,
                proxy=self._config.http.proxy,
                open_timeout=self._config.open_timeout_s,
                close_timeout=_CLOSE_TIMEOUT_S,
                compression=None,
                max_queue=_QUEUE_MAX,
                max_size=_MESSAGE_MAX_BYTES,
            )
        except InvalidURI as error:
            raise SourceRejected(NAME, str(error)) from error
        except InvalidProxy:
            raise SourceRejected(NAME, "http.proxy is not the URL of a proxy") from None  # it may hold a password
        except TimeoutError as error:
            raise SourceUnavailable(NAME, f"no connection within {self._config.open_timeout_s:g} s") from error
        except (InvalidHandshake, OSError) as error:
            # even a 403 may pass: of a public stream, none is final
            raise SourceUnavailable(NAME, f"no connection: {error}") from error

    async def _read(self, socket: ClientConnection) -> None:
        """Take in what comes; `recv` does not wait while there is more, so a burst becomes one batch."""
        while True:
            try:
                raw = await socket.recv()
            except ConnectionClosed as error:
                raise SourceUnavailable(NAME, f"connection closed: {error}") from error
            self._heard_ns = self._clock.monotonic_ns()
            text = raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
            self._inbox.append((self._clock.time_ns(), text))
            self._wake.set()
            if len(self._inbox) >= _INBOX_MAX:
                self._room.clear()
                await self._room.wait()

    async def _watch(self) -> None:
        """Notice a connection that is open and says nothing. Of what trades by the hour, silence is no fault."""
        limit_ns = round(self._config.mute_timeout_s * NS_PER_S)
        while not self._mute:
            silent_ns = self._clock.monotonic_ns() - self._heard_ns
            if silent_ns < limit_ns:
                await self._clock.sleep((limit_ns - silent_ns) / NS_PER_S)
            elif self._is_never_silent and len(self._inbox) < _INBOX_MAX:
                self._mute = True
                self._wake.set()
            else:
                await self._clock.sleep(self._config.mute_timeout_s)

    async def _follow_wanted(self) -> None:
        version = self._wanted.version
        while True:
            self._wake.set()
            version = await self._wanted.changed(version)

    async def _keep_alive(self, socket: ClientConnection) -> None:
        while True:
            await self._clock.sleep(self._config.keepalive_s)
            if self._active:
                await self._send(socket, "subscribe", self._active.values())

    async def _batches(self, socket: ClientConnection, tasks: list[asyncio.Task[None]]) -> Batches:
        while True:
            await self._wake.wait()
            await self._gather(tasks)
            self._wake.clear()
            ended = [task for task in tasks if task.done()]
            await self._follow(socket)
            inbox, self._inbox = self._inbox, []
            self._room.set()
            if self._tap is not None:
                for time_received_ns, text in inbox:
                    self._tap(time_received_ns, text)
            events = read_frames(inbox, self._names) if inbox else []
            events += self._tell_unknown()
            if events:
                yield events
            for task in ended:
                task.result()
            if self._mute:
                raise SourceUnavailable(NAME, f"no message for {self._config.mute_timeout_s:g} s")

    async def _gather(self, tasks: list[asyncio.Task[None]]) -> None:
        """In a dense stream, wait for what makes a batch: one costs a hundred microseconds, and a row of it three."""
        if not self._inbox:
            return
        left_ns = self._gathered_ns - self._clock.monotonic_ns()
        if left_ns > 0 and not any(task.done() for task in tasks):
            await self._clock.sleep(left_ns / NS_PER_S)
        self._gathered_ns = self._clock.monotonic_ns() + round(self._config.gather_s * NS_PER_S)

    async def _follow(self, socket: ClientConnection) -> None:
        """Subscribe what is wanted and is not yet, unsubscribe what no longer is."""
        if self._followed == self._wanted.version:
            return
        self._followed = self._wanted.version
        before, self._active = self._active, self._theirs()
        gone = [name for symbol, name in before.items() if symbol not in self._active]
        new = [name for symbol, name in self._active.items() if symbol not in before]
        self._names = Names(self._active)
        self._is_never_silent = any(map(is_around_the_clock, self._active.values()))
        if gone:
            await self._send(socket, "unsubscribe", gone)
        if new:
            self._heard_ns = self._clock.monotonic_ns()
            await self._send(socket, "subscribe", new)

    async def _send(
        self, socket: ClientConnection, action: Literal["subscribe", "unsubscribe"], names: Iterable[str]
    ) -> None:
        try:
            await socket.send(msgspec.json.encode({action: list(names)}).decode())
        except ConnectionClosed as error:
            raise SourceUnavailable(NAME, f"connection closed: {error}") from error

    def _tell_unknown(self) -> list[SourceEvent]:
        """Once for each symbol that is wanted and can be no name there."""
        news = sorted(self._unknown - self._told_unknown)
        self._told_unknown.update(news)
        return [
            Quarantined(
                source=NAME,
                time_received_ns=self._clock.time_ns(),
                reason="unknown_symbol",
                detail=f"{symbol[:80]!r} is no name that Yahoo could have",
                symbol=symbol,
            )
            for symbol in news
        ]
