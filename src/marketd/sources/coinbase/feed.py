"""The live side of Coinbase Exchange: one WebSocket, ticker and matches and heartbeats, no hole unsaid.

Owns the socket, the watchdog and the subscriptions. Refuses to understand payloads (`parse`) or to judge order
(`sources.sequence`). Symbols that the exchange does not know are told once and
left out; the others go on.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Literal

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidURI

from marketd.clock import Clock
from marketd.errors import SourceRejected, SourceUnavailable
from marketd.model import Quarantined, SourceEvent, Trade
from marketd.model.time import NS_PER_S
from marketd.sources.coinbase.config import CoinbaseConfig
from marketd.sources.coinbase.history import GRANULARITIES, http_client, product_ids, trade_pages
from marketd.sources.coinbase.parse import (
    NAME,
    Heartbeat,
    LastMatch,
    Match,
    ProviderError,
    Ticker,
    match_text,
    parse_message,
    read_message,
)
from marketd.sources.coinbase.symbols import product_id
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.http import USER_AGENT, HttpClient
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.refill import TradeRefill

__all__ = ["CoinbaseSource"]

_CHANNELS = ("ticker", "matches", "heartbeat")
_INBOX_MAX = 10_000
"""Messages read and not yet handed on. When full, reading stops, and the exchange drops slow readers."""
_QUEUE_MAX = 1_000
"""Frames that wait inside the client before it stops reading: what one batch can drain at once."""
_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 1.0


class CoinbaseSource:
    """Implements `Source`. tap: sees every message, and every refilled trade as the `match` it would have been.

    http: share the client of `CoinbaseHistory`, so that one rate limit holds; None makes one, closed at the end.
    rng: for the jitter of the waits.
    """

    def __init__(
        self,
        config: CoinbaseConfig,
        clock: Clock,
        tap: RawTap | None = None,
        *,
        http: HttpClient | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._tap = tap
        self._http = http
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            stream_quotes=True,
            stream_trades=True,
            quotes=True,
            bars=tuple(GRANULARITIES),
            numbered_trades=True,
            limits=(Limit(count=10, seconds=1.0),),
        )

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Connects once anything is wanted."""
        http = self._http or http_client(self._config, self._clock)
        try:
            feed = _Feed(self._config, self._clock, self._tap, http, wanted, self._rng)
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
        finally:
            if self._http is None:
                await http.close()


class _Feed:
    """What outlives a connection (`_trades`, `_unknown`) and one connection at a time."""

    def __init__(
        self,
        config: CoinbaseConfig,
        clock: Clock,
        tap: RawTap | None,
        http: HttpClient,
        wanted: Subscriptions,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._clock = clock
        self._tap = tap
        self._http = http
        self._wanted = wanted
        self._unknown: set[str] = set()
        self._trades = TradeRefill(
            NAME,
            clock=clock,
            pages=self._trade_pages,
            read=parse_message,
            max_trades=config.refill_max_trades,
            attempts=config.refill_attempts,
            retry=config.reconnect,
            rng=rng,
            tap=tap,
            woken=self._woken,
        )
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._followed: int | None = None  # version of `wanted` that `_active` agrees with
        self._active: dict[str, None] = {}  # subscribed products, in order
        self._asked: set[str] = set()  # products ever asked for on this connection
        self._inbox: list[tuple[int, str]] = []
        self._heard_ns = self._clock.monotonic_ns()
        self._mute = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    def _woken(self) -> None:
        self._wake.set()

    def _products(self) -> dict[str, None]:
        """What is wanted now and not known to be unknown."""
        products = dict.fromkeys(product_id(symbol) for symbol in self._wanted.symbols)
        self._unknown &= products.keys()  # given up by the user: asked for again if it comes back
        for product in self._unknown:
            del products[product]
        return products

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Batches]:
        """One connection, subscribed; its batches end with SourceUnavailable."""
        while not self._products():
            await self._wanted.changed(self._wanted.version)
        self._reset()
        socket = await self._open()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._follow(socket)  # within the 5 s that the exchange allows
            tasks += [asyncio.create_task(job) for job in (self._read(socket), self._watch(), self._follow_wanted())]
            for task in tasks:
                task.add_done_callback(lambda _: self._wake.set())
            yield self._batches(socket, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._trades.disconnected()
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
        """Notice a connection that is open and says nothing: with heartbeats, silence is a fault."""
        limit_ns = round(self._config.mute_timeout_s * NS_PER_S)
        while not self._mute:
            silent_ns = self._clock.monotonic_ns() - self._heard_ns
            if silent_ns < limit_ns:
                await self._clock.sleep((limit_ns - silent_ns) / NS_PER_S)
            elif self._active and len(self._inbox) < _INBOX_MAX:
                self._mute = True
                self._wake.set()
            else:
                await self._clock.sleep(self._config.mute_timeout_s)

    async def _follow_wanted(self) -> None:
        version = self._wanted.version
        while True:
            self._wake.set()
            version = await self._wanted.changed(version)

    async def _batches(self, socket: ClientConnection, tasks: list[asyncio.Task[None]]) -> Batches:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended = [task for task in tasks if task.done()]
            await self._follow(socket)
            inbox, self._inbox = self._inbox, []
            self._room.set()
            events: list[SourceEvent] = []
            refused: list[ProviderError] = []
            for time_received_ns, text in inbox:
                events += self._receive(text, time_received_ns, refused)
            events += self._trades.collect()
            for error in refused:
                left_out = await self._leave_out(error)
                if left_out and self._active:
                    await self._send(socket, "subscribe", self._active)  # one bad product may drop the others
                events += left_out
            if events:
                yield events
            for task in ended:
                task.result()
            if self._mute:
                raise SourceUnavailable(NAME, f"no message for {self._config.mute_timeout_s:g} s")

    async def _follow(self, socket: ClientConnection) -> None:
        """Subscribe what is wanted and is not yet, unsubscribe what no longer is."""
        if self._followed == self._wanted.version:
            return
        self._followed = self._wanted.version
        products = self._products()
        gone = [product for product in self._active if product not in products]
        new = [product for product in products if product not in self._active]
        self._active = products
        for product in gone:
            self._trades.forget(product)
        if gone:
            await self._send(socket, "unsubscribe", gone)
        if new:
            self._heard_ns = self._clock.monotonic_ns()
            await self._send(socket, "subscribe", new)

    async def _send(
        self, socket: ClientConnection, action: Literal["subscribe", "unsubscribe"], products: Iterable[str]
    ) -> None:
        request = {"type": action, "product_ids": list(products), "channels": _CHANNELS}
        self._asked.update(request["product_ids"])
        try:
            await socket.send(msgspec.json.encode(request).decode())
        except ConnectionClosed as error:
            raise SourceUnavailable(NAME, f"connection closed: {error}") from error

    def _receive(self, text: str, time_received_ns: int, refused: list[ProviderError]) -> list[SourceEvent]:
        if self._tap is not None:
            self._tap(time_received_ns, text)
        message, events = read_message(text, time_received_ns)
        match message:
            case Ticker(product_id=product):
                return events if product in self._active else []
            case Match(product_id=product) if product in self._active:
                sequence = self._trades.sequence(product)
                released = [trade for event in events if isinstance(event, Trade) for trade in sequence.trade(event)]
                self._trades.check(product)
                return [*released]
            case LastMatch(product_id=product, trade_id=trade_id) if product in self._active:
                self._trades.sequence(product).anchor(trade_id)
                self._trades.check(product)
            case Heartbeat(product_id=product, last_trade_id=trade_id) if product in self._active:
                self._trades.sequence(product).heartbeat(trade_id)
                self._trades.check(product)
            case ProviderError() if "subscribe" in message.message.lower():
                refused.append(message)
            case ProviderError() | None:
                return events
            case _:
                pass
        return []

    async def _leave_out(self, error: ProviderError) -> list[SourceEvent]:
        """Find the products that a refused subscription was about and want them no longer."""
        named = {p for p in self._asked if re.search(rf"(?<![\w-]){re.escape(p)}(?![\w-])", error.text)}
        if not named:
            try:
                named = self._active.keys() - await product_ids(self._http)
            except SourceRejected as unlisted:
                raise SourceUnavailable(NAME, f"{error.text}; {unlisted.reason}") from unlisted
            if not named:
                raise SourceUnavailable(NAME, error.text)
        events: list[SourceEvent] = []
        for product in sorted(named & self._active.keys()):
            self._unknown.add(product)
            del self._active[product]
            self._trades.forget(product)
            events.append(self._quarantined("unknown_symbol", f"{product}: {error.text}", product))
        return events

    async def _trade_pages(self, product: str, ids: range) -> AsyncGenerator[Mapping[int, str], None]:
        async with aclosing(trade_pages(self._http, product, ids)) as pages:
            async for page in pages:
                yield {trade.trade_id: match_text(product, trade) for trade in page}

    def _quarantined(self, reason: str, detail: str, symbol: str) -> Quarantined:
        return Quarantined(
            source=NAME, time_received_ns=self._clock.time_ns(), reason=reason, detail=detail, symbol=symbol
        )
