"""The live side of Kraken: one WebSocket, ticker and trades of any number of symbols, no hole unsaid.

Owns the socket, its subscriptions and the refilling of lost trades. Refuses to understand payloads (`parse`) or to
judge the order of trades (`sources.sequence`). Symbols that the exchange does not know are told once and left out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Literal

from marketd.clock import Clock
from marketd.model import MarketState, Quarantined, SourceEvent, Trade
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.kraken.config import KrakenConfig
from marketd.sources.kraken.history import MINUTES
from marketd.sources.kraken.parse import (
    NAME,
    Answer,
    Heartbeat,
    Status,
    TickerMessage,
    TradeMessage,
    TradeRow,
    parse_quote,
    parse_trade,
    read_message,
    trade_text,
)
from marketd.sources.kraken.quotes import QUOTES_PER_REQUEST
from marketd.sources.kraken.requests import KrakenRequests
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.refill import TradeRefill
from marketd.sources.socket import Inbox, Socket
from marketd.sources.symbols import SymbolMap

__all__ = ["CAPABILITIES", "KrakenSource"]

CAPABILITIES = Capabilities(
    stream_quotes=True,
    stream_trades=True,
    quotes=True,
    bars=tuple(MINUTES),
    quotes_per_request=QUOTES_PER_REQUEST,
    empty_minute="flat",
    numbered_trades=True,
    limits=(Limit(count=1, seconds=1.0),),
)

_STATES: dict[str, Literal["open", "suspended", "offline"]] = {
    "online": "open",
    "post_only": "suspended",
    "cancel_only": "suspended",
    "maintenance": "offline",
}
_NS_PER_US = 1_000
_COMMAND_INTERVAL_S = 0.1


class KrakenSource:
    """Implements `Source`. tap: sees every message, and every refilled trade as the message it would have been.

    requests: shared with the other parts, so that one limit holds; None makes its own, closed at the end. rng: for the
    jitter of the waits.
    """

    def __init__(
        self,
        config: KrakenConfig,
        symbols: SymbolMap,
        clock: Clock,
        tap: RawTap | None = None,
        *,
        requests: KrakenRequests | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._tap = tap
        self._requests = requests
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Connects once anything is wanted."""
        requests = self._requests or KrakenRequests(self._config, self._clock)
        try:
            feed = _Feed(self._config, self._symbols, self._clock, self._tap, requests, wanted, self._rng)
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
            if self._requests is None:
                await requests.close()


class _Feed:
    """What outlives a connection (`_trades`, `_known_ns`, `_unknown`) and one connection at a time."""

    def __init__(
        self,
        config: KrakenConfig,
        symbols: SymbolMap,
        clock: Clock,
        tap: RawTap | None,
        requests: KrakenRequests,
        wanted: Subscriptions,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._tap = tap
        self._requests = requests
        self._wanted = wanted
        self._unknown: set[str] = set()  # symbols
        self._told: set[str] = set()  # of these
        self._known_ns: dict[str, int] = {}  # time of a trade before any hole, by symbol
        self._trades = TradeRefill(
            NAME,
            clock=clock,
            pages=self._trade_pages,
            read=self._read_one,
            max_trades=config.refill_max_trades,
            attempts=config.refill_attempts,
            retry=config.reconnect,
            rng=rng,
            tap=tap,
            woken=self._wake,
        )
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._followed: int | None = None  # version of `wanted` that `_active` agrees with
        self._active: dict[str, str] = {}  # wanted symbols, by Kraken's name
        self._asked: dict[str, None] = {}  # subscribed names
        self._changed = asyncio.Event()
        self._inbox = Inbox(self._clock, self._config.gather_s)
        self._state = _STATES["online"]

    def _wake(self) -> None:
        self._inbox.wake()

    def _theirs(self) -> dict[str, str]:
        """What is wanted now and not known to be unknown: symbols by Kraken's name."""
        wanted = self._wanted.symbols
        self._unknown.intersection_update(wanted)  # given up by the user: asked for again if it comes back
        self._told.intersection_update(wanted)
        theirs: dict[str, str] = {}
        for symbol in wanted:
            name = self._symbols.to_provider(symbol)
            if name is None or name in theirs:
                self._unknown.add(symbol)
            elif symbol not in self._unknown:
                theirs[name] = symbol
        return theirs

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Batches]:
        """One connection, subscribed; its batches end with SourceUnavailable."""
        while not self._theirs() and not self._unknown - self._told:
            await self._wanted.changed(self._wanted.version)
        self._reset()
        socket = await Socket.open(
            NAME,
            self._config.ws_url,
            self._clock,
            self._inbox,
            proxy=self._config.http.proxy,
            open_timeout_s=self._config.open_timeout_s,
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            self._follow()
            jobs = (
                socket.read(),
                socket.watch(self._config.mute_timeout_s, lambda: bool(self._asked)),
                self._subscribe(socket),
                self._follow_wanted(),
            )
            tasks += [asyncio.create_task(job) for job in jobs]
            for task in tasks:
                task.add_done_callback(lambda _: self._wake())
            yield self._batches(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._trades.disconnected()
            await socket.close()

    async def _follow_wanted(self) -> None:
        version = self._wanted.version
        while True:
            self._wake()
            version = await self._wanted.changed(version)

    async def _subscribe(self, socket: Socket) -> None:
        """Keep the subscriptions as they are wanted."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._asked.keys() != self._active.keys():
                gone = [name for name in self._asked if name not in self._active]
                names = gone or [name for name in self._active if name not in self._asked]
                names = names[: self._config.names_per_command]
                for name in names:
                    if gone:
                        del self._asked[name]
                    else:
                        self._asked[name] = None
                await self._command(socket, "unsubscribe" if gone else "subscribe", names)
                await self._clock.sleep(_COMMAND_INTERVAL_S)

    async def _command(self, socket: Socket, method: str, names: Sequence[str]) -> None:
        for channel in ("ticker", "trade"):
            params: dict[str, object] = {"channel": channel, "symbol": names}
            if channel == "ticker":
                params["event_trigger"] = "bbo"
            if method == "subscribe":
                params["snapshot"] = True
            await socket.send({"method": method, "params": params})

    async def _batches(self, tasks: Iterable[asyncio.Task[None]]) -> Batches:
        while True:
            await self._inbox.wait()
            ended = [task for task in tasks if task.done()]
            self._follow()
            events: list[SourceEvent] = []
            for time_received_ns, text in self._inbox.take():
                if self._tap is not None:
                    self._tap(time_received_ns, text)
                events += self._receive(text, time_received_ns)
            events += self._trades.collect()
            events += self._tell_unknown()
            if events:
                yield events
            for task in ended:
                task.result()

    def _follow(self) -> None:
        """Want on this connection what is wanted."""
        if self._followed == self._wanted.version:
            return
        self._followed = self._wanted.version
        before, self._active = self._active, self._theirs()
        for name, symbol in before.items():
            if name not in self._active:
                self._trades.forget(symbol)
                self._known_ns.pop(symbol, None)
        self._changed.set()

    def _receive(self, text: str, time_received_ns: int) -> list[SourceEvent]:
        message = read_message(text, time_received_ns)
        match message:
            case TickerMessage() | TradeMessage():
                try:
                    return self._ticks(message, time_received_ns)
                except ValueError as error:
                    return [self._quarantined("malformed", f"{error}: {text[:200]!r}")]
            case Status():
                return self._status(message, time_received_ns)
            case Answer():
                return self._answered(message)
            case Quarantined():
                return [message]
            case Heartbeat():
                return []

    def _ticks(self, message: TickerMessage | TradeMessage, time_received_ns: int) -> list[SourceEvent]:
        if isinstance(message, TickerMessage):
            named = ((row, self._active.get(row.symbol)) for row in message.data)
            return [parse_quote(row, symbol, time_received_ns) for row, symbol in named if symbol is not None]
        trades: dict[str, list[Trade]] = {}
        for row in message.data:
            symbol = self._active.get(row.symbol)
            if symbol is not None:
                trades.setdefault(symbol, []).append(parse_trade(row, symbol, time_received_ns))
        released: list[SourceEvent] = []
        for symbol, rows in trades.items():
            released += self._snapshot(symbol, rows) if message.type == "snapshot" else self._sequenced(symbol, rows)
        return released

    def _sequenced(self, symbol: str, trades: Sequence[Trade]) -> list[Trade]:
        sequence = self._trades.sequence(symbol)
        released = [out for trade in trades for out in sequence.trade(trade)]
        if sequence.missing is None:
            self._known_ns[symbol] = trades[-1].time_event_ns
        elif released:
            self._known_ns[symbol] = released[-1].time_event_ns
        self._trades.check(symbol)
        return released

    def _snapshot(self, symbol: str, trades: list[Trade]) -> list[Trade]:
        """The last trades at the time of subscribing: after a reconnect, those that were not seen are news."""
        trades.sort(key=lambda trade: trade.trade_id or 0)
        newest = trades[-1]
        assert newest.trade_id is not None, "these trades are numbered"
        sequence = self._trades.sequence(symbol)
        if sequence.last_id is None or newest.trade_id < sequence.last_id:
            sequence.anchor(newest.trade_id)
            self._known_ns[symbol] = newest.time_event_ns
            return []
        last_id = sequence.last_id
        news = [trade for trade in trades if trade.trade_id is not None and trade.trade_id > last_id]
        return self._sequenced(symbol, news) if news else []

    def _status(self, message: Status, time_received_ns: int) -> list[SourceEvent]:
        """The whole exchange's; said of every symbol, when it changes."""
        if not message.data or message.data[-1].system not in _STATES:
            return []
        before, self._state = self._state, _STATES[message.data[-1].system]
        if self._state == before:
            return []
        return [
            MarketState(source=NAME, symbol=symbol, time_received_ns=time_received_ns, state=self._state)
            for symbol in self._active.values()
        ]

    def _answered(self, answer: Answer) -> list[SourceEvent]:
        if answer.success and answer.error is None:
            return []
        error = answer.error or f"{answer.method} failed"
        symbol = None if answer.symbol is None else self._active.get(answer.symbol)
        if "not supported" in error.lower():
            if symbol is not None:
                del self._active[str(answer.symbol)]
                self._asked.pop(str(answer.symbol), None)  # nothing there to unsubscribe
                self._trades.forget(symbol)
                self._unknown.add(symbol)
            return []  # there is one answer for each channel, and the symbol is told once
        return [self._quarantined("provider_error", error[:400], symbol)]

    def _tell_unknown(self) -> list[SourceEvent]:
        news = self._unknown - self._told
        self._told |= news
        return [
            self._quarantined("unknown_symbol", f"{symbol[:80]!r} is no pair of this exchange", symbol)
            for symbol in sorted(news)
        ]

    def _read_one(self, text: str, time_received_ns: int) -> list[SourceEvent]:
        """The trade in a message that was made of a request's answer."""
        message = read_message(text, time_received_ns)
        if not isinstance(message, TradeMessage):
            return [message] if isinstance(message, Quarantined) else []
        rows: Iterable[TradeRow] = message.data
        return [
            parse_trade(row, self._active[row.symbol], time_received_ns) for row in rows if row.symbol in self._active
        ]

    async def _trade_pages(self, symbol: str, ids: range) -> AsyncGenerator[Mapping[int, str], None]:
        """From the last trade before the hole on: requests count by time, not by number."""
        name = self._symbols.to_provider(symbol)
        assert name is not None, "it was subscribed"
        async with aclosing(self._requests.trade_pages(name, self._known_ns[symbol] - _NS_PER_US)) as pages:
            async for page in pages:
                yield {trade.trade_id: trade_text(name, trade) for trade in page}
                if page and page[-1].trade_id >= ids.stop - 1:
                    return

    def _quarantined(self, reason: str, detail: str, symbol: str | None = None) -> Quarantined:
        return Quarantined(
            source=NAME, time_received_ns=self._clock.time_ns(), reason=reason, detail=detail, symbol=symbol
        )
