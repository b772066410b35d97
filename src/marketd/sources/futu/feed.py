"""The live side of OpenD: one connection, what is wanted subscribed on it, pushes in batches as they come.

Owns the subscriptions, what OpenD refuses of them, and the states of markets. Refuses to understand payloads (`parse`)
or to keep a socket (`connection`). Symbols that OpenD does not know are told once and left out; the others go on.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from marketd.clock import Clock
from marketd.errors import MalformedMessage, SourceError, SourceRejected, SourceUnavailable, SymbolNotFound
from marketd.model import MarketState, Quarantined, SourceEvent
from marketd.model.time import NS_PER_S
from marketd.sources.contract import Capabilities, RawTap, Subscriptions
from marketd.sources.futu.config import FutuConfig
from marketd.sources.futu.connection import Connection
from marketd.sources.futu.frame import Frame
from marketd.sources.futu.history import KL_TYPES
from marketd.sources.futu.messages import (
    BASIC,
    BOOK,
    TICKER,
    Empty,
    MarketStateAnswer,
    Notify,
    Proto,
    Securities,
    Security,
    SubInfoAnswer,
    SubInfoRequest,
    SubRequest,
)
from marketd.sources.futu.parse import NAME, Row, State, batch_of, is_quota, market_state, read_push
from marketd.sources.futu.quotes import PER_REQUEST
from marketd.sources.futu.requests import LIMITS
from marketd.sources.futu.symbols import security_of, text_of
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.symbols import SymbolMap

__all__ = ["FutuSource", "capabilities_of"]

_SUB_TYPES = {"basic": BASIC, "book": BOOK, "trades": TICKER}
_INBOX_MAX = 20_000
"""Pushes read and not yet handed on. When full, reading stops."""
_PER_SUBSCRIPTION = 100
_EXTENDED_SESSION = 2
_GATEWAY_EVENT, _CONNECT_STATUS = 1, 3


def capabilities_of(config: FutuConfig) -> Capabilities:
    """What the provider can with this configuration."""
    return Capabilities(
        stream_quotes="basic" in config.streams or "book" in config.streams,
        stream_trades="trades" in config.streams,
        quotes=True,
        bars=tuple(KL_TYPES),
        options=True,
        actions=True,
        quotes_per_request=PER_REQUEST,
        stamp="end",
        time_zone="America/New_York",
        empty_minute="null",
        limits=LIMITS,
        connections=1,
    )


class FutuSource:
    """Implements `Source`. tap: sees every push as base64 of its frame. rng: for the jitter of the waits."""

    def __init__(
        self,
        config: FutuConfig,
        clock: Clock,
        tap: RawTap | None = None,
        *,
        symbols: SymbolMap,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._tap = tap
        self._symbols = symbols
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return capabilities_of(self._config)

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Connects once anything is wanted."""
        feed = _Feed(self._config, self._clock, self._tap, self._symbols, wanted)
        loop = reconnecting(NAME, feed.connection, clock=self._clock, policy=self._config.reconnect, rng=self._rng)
        async with aclosing(loop):
            async for batch in loop:
                yield batch


class _Feed:
    """What outlives a connection (`_unknown`) and one connection at a time."""

    def __init__(
        self, config: FutuConfig, clock: Clock, tap: RawTap | None, symbols: SymbolMap, wanted: Subscriptions
    ) -> None:
        self._config = config
        self._clock = clock
        self._tap = tap
        self._map = symbols
        self._wanted = wanted
        self._unknown: dict[str, None] = {}  # wanted symbols that OpenD does not have, told already
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._version = -1  # of `wanted` that `_symbols` agrees with
        self._symbols: tuple[str, ...] = ()
        self._securities: tuple[Security, ...] = ()
        self._index: dict[Security, int] = {}
        self._since_ns: dict[Security, int] = {}  # when each was subscribed
        self._refused: set[Security] = set()  # refused on this connection
        self._inbox: list[tuple[int, Frame]] = []
        self._told: list[SourceEvent] = []  # by the tasks beside the batches
        self._polled: dict[Security, State] = {}
        self._suspended: set[Security] = set()
        self._stated: dict[Security, State] = {}
        self._down = False  # OpenD said so
        self._wake = asyncio.Event()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Batches]:
        """One connection, subscribed; its batches end with SourceUnavailable."""
        while not self._wanted.symbols:
            await self._wanted.changed(self._wanted.version)
        self._reset()
        connection = await Connection.open(self._config, self._clock, self._take_in)
        tasks: list[asyncio.Task[None]] = []
        try:
            version = self._wanted.version
            await self._follow(connection)
            tasks.append(asyncio.create_task(self._follow_wanted(connection, version)))
            tasks.append(asyncio.create_task(self._wait_until_lost(connection)))
            if self._config.market_state_s is not None:
                tasks.append(asyncio.create_task(self._poll_states(connection, self._config.market_state_s)))
            for task in tasks:
                task.add_done_callback(lambda _: self._wake.set())
            yield self._batches(connection, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.close()

    def _take_in(self, time_received_ns: int, pushes: Sequence[Frame]) -> bool:
        self._inbox += [(time_received_ns, frame) for frame in pushes]
        self._wake.set()
        return len(self._inbox) < _INBOX_MAX

    async def _batches(self, connection: Connection, tasks: list[asyncio.Task[None]]) -> Batches:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended = [task for task in tasks if task.done()]
            self._agree()
            inbox, self._inbox = self._inbox, []
            connection.resume()
            events, self._told = self._told, []
            rows: list[Row] = []
            for time_received_ns, frame in inbox:
                self._receive(frame, time_received_ns, rows, events)
            if rows:
                events.append(batch_of(rows, self._symbols))
            if events:
                yield events
            for task in ended:
                task.result()
            if self._down:
                raise SourceUnavailable(NAME, "OpenD lost its connection to the quote servers")

    def _agree(self) -> None:
        """Know the wanted symbols by what OpenD calls them. The names stay the same tuple until they change."""
        if self._version == self._wanted.version:
            return
        self._version = self._wanted.version
        wanted = self._wanted.symbols
        for symbol in [symbol for symbol in self._unknown if symbol not in self._wanted]:
            del self._unknown[symbol]  # given up by the user: asked for again if it comes back
        known: dict[Security, str] = {}
        for symbol in wanted:
            if symbol in self._unknown:
                continue
            name = self._map.to_provider(symbol)
            security = None if name is None else security_of(name)
            if security is None:
                self._leave_out(symbol, f"{symbol} is no symbol of its markets")
            elif security in known:
                self._leave_out(symbol, f"{symbol} is {known[security]} by another name")
            else:
                known[security] = symbol
        self._symbols, self._securities = tuple(known.values()), tuple(known)
        self._index = {security: index for index, security in enumerate(known)}
        self._refused &= known.keys()

    def _leave_out(self, symbol: str, detail: str) -> None:
        self._unknown[symbol] = None
        self._tell(self._quarantined("unknown_symbol", detail, symbol))

    def _tell(self, event: SourceEvent) -> None:
        self._told.append(event)
        self._wake.set()

    def _receive(self, frame: Frame, time_received_ns: int, rows: list[Row], events: list[SourceEvent]) -> None:
        if self._tap is not None:
            self._tap(time_received_ns, base64.b64encode(frame.raw).decode())
        try:
            pushed = read_push(frame.proto, frame.body(), time_received_ns, self._index)
        except ValueError as error:
            events.append(self._quarantined("malformed", f"push {frame.proto}: {error}"))
            return
        except MalformedMessage as error:
            events.append(self._quarantined("malformed", str(error)))
            return
        except SourceError as error:
            events.append(self._quarantined("provider_error", error.reason))
            return
        rows += pushed.rows
        if pushed.suspended:
            for index, suspended in pushed.suspended:
                self._suspend(self._securities[index], suspended=suspended)
        if pushed.notice is not None:
            self._notice(pushed.notice, events)

    def _notice(self, notice: Notify, events: list[SourceEvent]) -> None:
        if notice.type == _GATEWAY_EVENT and notice.event is not None and notice.event.event_type:
            detail = f"OpenD tells event {notice.event.event_type}: {notice.event.desc}"
            events.append(self._quarantined("provider_error", detail))
        status = notice.connect_status
        if notice.type == _CONNECT_STATUS and status is not None and not status.quotes_logged_in:
            self._down = True

    async def _follow_wanted(self, connection: Connection, version: int) -> None:
        """Subscribe what becomes wanted; unsubscribe what no longer is, once OpenD allows it."""
        while True:
            due_s = self._due_s()
            changed = asyncio.create_task(self._wanted.changed(version))
            waits: set[asyncio.Task[int] | asyncio.Task[None]] = {changed}
            if due_s is not None:
                waits.add(asyncio.create_task(self._clock.sleep(due_s)))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            version = self._wanted.version
            await self._follow(connection)

    def _gone(self) -> list[Security]:
        return [security for security in self._since_ns if security not in self._index]

    def _due_s(self) -> float | None:
        """Until a subscription that nobody wants may be ended; None if there is none."""
        gone = self._gone()
        if not gone:
            return None
        least_ns = round(self._config.unsubscribe_after_s * NS_PER_S)
        return (min(self._since_ns[s] for s in gone) + least_ns - self._clock.monotonic_ns()) / NS_PER_S

    async def _follow(self, connection: Connection) -> None:
        self._agree()
        now_ns, least_ns = self._clock.monotonic_ns(), round(self._config.unsubscribe_after_s * NS_PER_S)
        over = [security for security in self._gone() if now_ns - self._since_ns[security] >= least_ns]
        if over:
            await self._unsubscribe(connection, over)
        new = [s for s in self._index if s not in self._since_ns and s not in self._refused]
        for at in range(0, len(new), _PER_SUBSCRIPTION):
            await self._subscribe(connection, new[at : at + _PER_SUBSCRIPTION])

    async def _subscribe(self, connection: Connection, securities: list[Security]) -> None:
        """Subscribe, and when OpenD refuses, without those that it is about: one bad symbol has all refused."""
        try:
            await self._sub(connection, securities, subscribe=True)
        except SourceRejected as error:
            if is_quota(error):
                await self._within_quota(connection, securities, error)
            elif len(securities) == 1:
                self._refuse(securities[0], error)
            else:
                words = error.reason.replace(",", " ").split()
                named = [security for security in securities if security.code in words]
                rest = [security for security in securities if security not in named]
                middle = len(rest) // 2
                parts = [[security] for security in named] + ([rest] if named else [rest[:middle], rest[middle:]])
                for part in parts:
                    if part:
                        await self._subscribe(connection, part)
        else:
            now_ns = self._clock.monotonic_ns()
            self._since_ns.update(dict.fromkeys(securities, now_ns))

    async def _unsubscribe(self, connection: Connection, securities: list[Security]) -> None:
        """What OpenD refuses to end goes on, unheard, and is tried again as late."""
        try:
            await self._sub(connection, securities, subscribe=False)
        except SourceRejected as error:
            self._tell(self._quarantined("provider_error", error.reason))
            self._since_ns.update(dict.fromkeys(securities, self._clock.monotonic_ns()))
        else:
            for security in securities:
                del self._since_ns[security]
            # there is room again for those that the quota had refused
            self._refused = {s for s in self._refused if s in self._index and self._symbol(s) in self._unknown}

    def _symbol(self, security: Security) -> str:
        return self._symbols[self._index[security]]

    async def _within_quota(self, connection: Connection, securities: list[Security], error: SourceRejected) -> None:
        """Subscribe as many as the account still may, and refuse the others."""
        try:
            info = await connection.ask(Proto.SUB_INFO, SubInfoRequest(), SubInfoAnswer, "GetSubInfo")
            allowed = max(0, info.remain_quota) // len(self._config.streams)
        except SourceRejected:  # what was refused is told below, whatever the reason is
            allowed = 0
        allowed = allowed if allowed < len(securities) else 0  # what it says and does differ
        for security in securities[allowed:]:
            self._refuse(security, error)
        if allowed:
            await self._subscribe(connection, securities[:allowed])

    def _refuse(self, security: Security, error: SourceError) -> None:
        symbol = self._symbol(security) if security in self._index else text_of(security)
        if isinstance(error, SymbolNotFound):
            self._leave_out(symbol, error.reason)
        else:
            self._tell(self._quarantined(error.code, error.reason, symbol))
        self._refused.add(security)

    async def _sub(self, connection: Connection, securities: list[Security], *, subscribe: bool) -> None:
        """All kinds in one request, so that they are had together or not at all; what OpenD has is sent at once."""
        extended = True if self._config.extended_hours and subscribe else None
        request = SubRequest(
            securities=securities,
            sub_types=[_SUB_TYPES[stream] for stream in self._config.streams],
            subscribe=subscribe,
            push=subscribe,
            first_push=True if subscribe else None,
            extended_time=extended,
            session=_EXTENDED_SESSION if extended else None,
        )
        named = text_of(securities[0]) if len(securities) == 1 else f"{len(securities)} securities"
        what = f"{'subscription' if subscribe else 'end of subscription'} of {named}"
        await connection.ask(Proto.SUB, request, Empty, what)

    async def _wait_until_lost(self, connection: Connection) -> None:
        await connection.lost.wait()
        raise SourceUnavailable(NAME, connection.reason or "the connection is lost")

    async def _poll_states(self, connection: Connection, every_s: float) -> None:
        """Ask whether what is subscribed is traded, and tell what changed. What fails is told; a refusal ends it."""
        while True:
            asked = list(self._since_ns)
            for at in range(0, len(asked), PER_REQUEST):
                request = Securities(asked[at : at + PER_REQUEST])
                try:
                    answer = await connection.ask(Proto.MARKET_STATE, request, MarketStateAnswer, "market state")
                except SourceError as error:
                    self._tell(self._quarantined("provider_error", str(error)))
                    if not isinstance(error, SourceUnavailable):
                        return
                    break
                for row in answer.rows:
                    state = market_state(row.state, extended_hours=self._config.extended_hours)
                    if state is not None:
                        self._polled[row.security] = state
                        self._state(row.security)
            await self._clock.sleep(every_s)

    def _suspend(self, security: Security, *, suspended: bool) -> None:
        if suspended != (security in self._suspended):
            (self._suspended.add if suspended else self._suspended.discard)(security)
            self._state(security)

    def _state(self, security: Security) -> None:
        """Tell a security's state if it is another than was told."""
        index = self._index.get(security)
        state: State | None = "suspended" if security in self._suspended else self._polled.get(security)
        if index is None or state is None or self._stated.get(security) == state:
            return
        self._stated[security] = state
        symbol, now_ns = self._symbols[index], self._clock.time_ns()
        self._tell(MarketState(source=NAME, symbol=symbol, time_received_ns=now_ns, state=state))

    def _quarantined(self, reason: str, detail: str, symbol: str | None = None) -> Quarantined:
        return Quarantined(
            source=NAME, time_received_ns=self._clock.time_ns(), reason=reason, detail=detail, symbol=symbol
        )
