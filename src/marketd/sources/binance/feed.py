"""The live side of Binance: book tickers and trades of any number of symbols, over as many sockets as they need.

Owns the sockets, their subscriptions, the quotes at the beginning, and what happens on a reconnect. Refuses to
understand payloads (`parse`) or to judge the order of trades (`numbers`). All sockets are one connection: when one is
lost, all are opened anew, since whoever listens is told of one stream.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import numpy as np

from marketd.clock import Clock
from marketd.errors import MalformedMessage, SourceError, SourceUnavailable, SymbolNotFound
from marketd.model import BOOK, Quarantined, SourceEvent, TickBatch
from marketd.sources.binance.config import BinanceConfig
from marketd.sources.binance.history import INTERVALS
from marketd.sources.binance.numbers import TradeNumbers
from marketd.sources.binance.parse import NAME, Names, Shutdown, Ticker, parse_quote, read_batch
from marketd.sources.binance.requests import LIMIT_PER_MINUTE, TICKERS_PER_REQUEST, BinanceRequests
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.refill import TradeRefill
from marketd.sources.socket import Inbox, Socket
from marketd.sources.symbols import SymbolMap

__all__ = ["CAPABILITIES", "BinanceSource"]

_STREAMS = ("bookTicker", "trade")
"""Of each symbol."""

CAPABILITIES = Capabilities(
    stream_quotes=True,
    stream_trades=True,
    quotes=True,
    bars=INTERVALS,
    quotes_per_request=TICKERS_PER_REQUEST,
    empty_minute="flat",
    numbered_trades=True,
    limits=(Limit(count=LIMIT_PER_MINUTE, seconds=60.0),),
    symbols_per_connection=1_024 // len(_STREAMS),
)
"""The limit is of weight, which requests are made with."""


class BinanceSource:
    """Implements `Source`. tap: sees every message, and every refilled trade as the message it would have been.

    requests: shared with the other parts, so that one limit holds; None makes its own, closed at the end. rng: for the
    jitter of the waits.
    """

    def __init__(
        self,
        config: BinanceConfig,
        symbols: SymbolMap,
        clock: Clock,
        tap: RawTap | None = None,
        *,
        requests: BinanceRequests | None = None,
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
        """See `Source.stream`. Connects once anything is wanted. Ticks come as `TickBatch`; the quotes at the beginning
        and refilled trades as single values."""
        requests = self._requests or BinanceRequests(self._config, self._clock)
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


class _Line:
    """One socket and what it is to bring. wanted, asked: Binance's names, in order. changed: they may differ."""

    def __init__(self) -> None:
        self.wanted: dict[str, None] = {}
        self.asked: dict[str, None] = {}
        self.changed = asyncio.Event()
        self.is_open = asyncio.Event()


class _Feed:
    """What outlives a connection (`_numbers`, `_unknown`) and one connection at a time."""

    def __init__(
        self,
        config: BinanceConfig,
        symbols: SymbolMap,
        clock: Clock,
        tap: RawTap | None,
        requests: BinanceRequests,
        wanted: Subscriptions,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._tap = tap
        self._requests = requests
        self._wanted = wanted
        self._url = f"{config.ws_url.rstrip('/')}/stream" + ("?timeUnit=MICROSECOND" if config.microseconds else "")
        self._per_line = config.streams_per_connection // len(_STREAMS)
        self._unknown: set[str] = set()  # symbols
        self._told: set[str] = set()  # of these
        self._refill = TradeRefill(
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
        self._numbers = TradeNumbers(self._refill)
        self._names = Names({})
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._followed: int | None = None  # version of `wanted` that `_active` agrees with
        self._active: dict[str, str] = {}  # subscribed symbols, by Binance's name
        self._inbox = Inbox(self._clock, self._config.gather_s)
        self._lines: dict[asyncio.Task[None], _Line] = {}
        self._commands = itertools.count(1)
        self._quoted = np.empty(0, np.bool_)  # by position in `_names`: a quote came on this connection
        self._unquoted: dict[str, None] = {}  # names whose quote at the beginning is to be asked for
        self._asking: asyncio.Task[dict[str, Ticker | SymbolNotFound]] | None = None
        self._settling: dict[asyncio.Task[None], dict[str, int]] = {}

    def _wake(self) -> None:
        self._inbox.wake()

    def _theirs(self) -> dict[str, str]:
        """What is wanted now and not known to be unknown: symbols by Binance's name."""
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
        while not self._wanted.symbols:
            await self._wanted.changed(self._wanted.version)
        self._reset()
        others: list[asyncio.Task[None]] = []
        try:
            self._follow()
            for task, line in self._lines.items():
                await _either(task, line)
            others.append(asyncio.create_task(self._follow_wanted()))
            yield self._batches()
        finally:
            tasks: list[asyncio.Task[None]] = [*self._lines, *self._settling, *others]
            for task in tasks:
                task.cancel()
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.gather(self._asking, return_exceptions=True)
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._numbers.disconnected()

    async def _run(self, line: _Line) -> None:
        """Open a line's socket and serve it until it is lost."""
        socket = await Socket.open(
            NAME,
            self._url,
            self._clock,
            self._inbox,
            proxy=self._config.http.proxy,
            open_timeout_s=self._config.open_timeout_s,
        )
        jobs: list[asyncio.Task[None]] = []
        try:
            line.is_open.set()
            work = (socket.read(), socket.watch(self._config.mute_timeout_s), self._subscribe(line, socket))
            jobs += [asyncio.create_task(job) for job in work]
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await socket.close()

    async def _subscribe(self, line: _Line, socket: Socket) -> None:
        """Keep the subscriptions of a line as they are wanted, at the pace the exchange allows."""
        at_once = self._config.names_per_command // len(_STREAMS)
        while True:
            await line.changed.wait()
            line.changed.clear()
            while line.asked.keys() != line.wanted.keys():
                gone = [name for name in line.asked if name not in line.wanted]
                names = (gone or [name for name in line.wanted if name not in line.asked])[:at_once]
                for name in names:
                    if gone:
                        del line.asked[name]
                    else:
                        line.asked[name] = None
                streams = [f"{name.lower()}@{stream}" for name in names for stream in _STREAMS]
                method = "UNSUBSCRIBE" if gone else "SUBSCRIBE"
                await socket.send({"method": method, "params": streams, "id": next(self._commands)})
                await self._clock.sleep(1 / self._config.commands_per_s)

    async def _follow_wanted(self) -> None:
        version = self._wanted.version
        while True:
            self._inbox.wake()
            version = await self._wanted.changed(version)

    async def _batches(self) -> Batches:
        while True:
            await self._inbox.wait()
            ended = [line for line in self._lines if line.done()]
            self._follow()
            messages = self._inbox.take()
            if self._tap is not None:
                for time_received_ns, text in messages:
                    self._tap(time_received_ns, text)
            understood = read_batch(messages, self._names)
            events: list[SourceEvent] = []
            if understood.ticks is not None:
                events += self._taken(understood.ticks)
            events += [event for event in understood.rest if isinstance(event, Quarantined)]
            events += self._refill.collect()
            self._numbers.collected()
            events += self._collect_quotes()
            events += self._tell_unknown()
            if events:
                yield events
            for line in ended:
                line.result()
            if any(isinstance(event, Shutdown) for event in understood.rest):
                raise SourceUnavailable(NAME, "the exchange said that it shuts this connection")

    def _taken(self, ticks: TickBatch) -> list[SourceEvent]:
        self._quoted[ticks.symbol_index[ticks.flags & BOOK > 0]] = True
        batch, released = self._numbers.take(ticks)
        return [*([] if batch is None else [batch]), *released]

    def _follow(self) -> None:
        """Subscribe what is wanted and is not yet, unsubscribe what no longer is, each where there is room."""
        if self._followed == self._wanted.version:
            return
        self._followed = self._wanted.version
        before, self._active = self._active, self._theirs()
        gone = {name: symbol for name, symbol in before.items() if name not in self._active}
        new = [name for name in self._active if name not in before]
        self._rename(gone)
        for line in self._lines.values():
            for name in gone.keys() & line.wanted.keys():
                del line.wanted[name]
                line.changed.set()
        for name in new:
            line = (
                next((at for at in self._lines.values() if len(at.wanted) < self._per_line), None) or self._add_line()
            )
            line.wanted[name] = None
            line.changed.set()
        for name in gone:
            self._unquoted.pop(name, None)
        self._unquoted |= dict.fromkeys(new)
        self._ask_quotes()

    def _rename(self, gone: Mapping[str, str]) -> None:
        """`_active` has changed."""
        quoted = {self._names.symbols[position] for position in np.flatnonzero(self._quoted).tolist()}
        self._names = Names(self._active)
        self._quoted = np.array([symbol in quoted for symbol in self._names.symbols], np.bool_)
        self._numbers.follow(self._names)
        for symbol in gone.values():
            self._numbers.forget(symbol)

    def _add_line(self) -> _Line:
        line = _Line()
        task = asyncio.create_task(self._run(line))
        task.add_done_callback(lambda _: self._wake())
        self._lines[task] = line
        return line

    # The stream says a quote only when it changes, does not say which trade is the newest, and passes over symbols that
    # the exchange does not have. One request answers all three.

    def _ask_quotes(self) -> None:
        if self._unquoted and self._asking is None:
            names, self._unquoted = list(self._unquoted), {}
            self._asking = asyncio.create_task(self._requests.tickers(names))
            self._asking.add_done_callback(lambda _: self._wake())

    def _collect_quotes(self) -> list[SourceEvent]:
        """The quotes of symbols that had none yet; trades up to those named are expected a little later."""
        events: list[SourceEvent] = []
        if self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            try:
                events += self._quotes_of(asked.result())
            except SourceError as error:
                events.append(self._quarantined("quotes_missing", f"those at the beginning: {error.reason}"))
            self._ask_quotes()
        for task in [task for task in self._settling if task.done()]:
            self._numbers.expect(self._settling.pop(task))
        return events

    def _quotes_of(self, tickers: Mapping[str, Ticker | SymbolNotFound]) -> list[SourceEvent]:
        events: list[SourceEvent] = []
        last_ids: dict[str, int] = {}
        time_received_ns = self._clock.time_ns()
        for name, ticker in tickers.items():
            symbol = self._active.get(name)
            if symbol is None:
                continue
            if isinstance(ticker, SymbolNotFound):
                self._unknown.add(symbol)
                self._followed = None
                continue
            last_ids[symbol] = ticker.last_id
            if self._quoted[self._names.position[name]]:
                continue
            try:
                events.append(parse_quote(ticker, symbol, time_received_ns))
            except MalformedMessage as error:
                events.append(self._quarantined("malformed", error.reason, symbol))
        task = asyncio.create_task(self._clock.sleep(self._config.settle_s))
        task.add_done_callback(lambda _: self._wake())
        self._settling[task] = last_ids
        if self._followed is None:
            self._inbox.wake()
        return events

    def _tell_unknown(self) -> list[SourceEvent]:
        news = self._unknown - self._told
        self._told |= news
        return [
            self._quarantined("unknown_symbol", f"{symbol[:80]!r} is no pair of this exchange", symbol)
            for symbol in sorted(news)
        ]

    def _read_one(self, text: str, time_received_ns: int) -> list[SourceEvent]:
        """The trade in a message that was made of a request's answer."""
        understood = read_batch([(time_received_ns, text)], self._names)
        ticks = [] if understood.ticks is None else understood.ticks.to_events()
        return [*ticks, *(event for event in understood.rest if isinstance(event, Quarantined))]

    async def _trade_pages(self, symbol: str, ids: range) -> AsyncGenerator[Mapping[int, str], None]:
        name = self._symbols.to_provider(symbol)
        assert name is not None, "it was subscribed"
        async with aclosing(self._requests.trade_pages(name, ids)) as pages:
            async for page in pages:
                yield page

    def _quarantined(self, reason: str, detail: str, symbol: str | None = None) -> Quarantined:
        return Quarantined(
            source=NAME, time_received_ns=self._clock.time_ns(), reason=reason, detail=detail, symbol=symbol
        )


async def _either(task: asyncio.Task[None], line: _Line) -> None:
    """Return when the line is open; raises why it is not."""
    opened = asyncio.create_task(line.is_open.wait())
    try:
        await asyncio.wait({task, opened}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        opened.cancel()
    if task.done():
        task.result()
