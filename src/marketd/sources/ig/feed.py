"""The live side of IG: one TLCP session, one subscription for each symbol.

Owns what is subscribed and what was said last. Refuses to speak TLCP (`sources.lightstreamer`) or to understand fields
(`parse`). Symbols that IG refuses are told once and left out; the others go on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from marketd.clock import Clock
from marketd.model import Quarantined, SourceEvent
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.ig.account import IgAccount, Tokens
from marketd.sources.ig.config import IgConfig
from marketd.sources.ig.history import RESOLUTIONS
from marketd.sources.ig.parse import CHANNELS, NAME, parse_state, parse_update
from marketd.sources.ig.quotes import AT_ONCE
from marketd.sources.lightstreamer.client import LightstreamerClient, Login, Received
from marketd.sources.lightstreamer.protocol import Values
from marketd.sources.lightstreamer.session import Malformed, Missed, Refused, Subscription, Update
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.symbols import SymbolMap

__all__ = ["IgSource"]

_BAD_ITEM, _BAD_FIELDS = 21, 23


class IgSource:
    """Implements `Source`. tap: sees every text of the stream. account: shared with requests; its owner closes it."""

    def __init__(
        self,
        config: IgConfig,
        clock: Clock,
        symbols: SymbolMap,
        account: IgAccount,
        tap: RawTap | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._symbols = symbols
        self._account = account
        self._tap = tap
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            stream_quotes=True,
            quotes=True,
            bars=tuple(RESOLUTIONS),
            quotes_per_request=AT_ONCE,
            limits=(Limit(count=30, seconds=60.0),),
            symbols_per_connection=self._config.subscriptions_max,
            connections=1,
        )

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Logs in and connects once anything is wanted."""
        feed = _Feed(self._config, self._clock, self._symbols, self._account, self._tap, wanted)
        loop = reconnecting(NAME, feed.connection, clock=self._clock, policy=self._config.reconnect, rng=self._rng)
        async with aclosing(loop):
            async for batch in loop:
                yield batch


class _Feed:
    """What outlives a connection: the TLCP session, what was refused, what was said last of each symbol."""

    def __init__(
        self,
        config: IgConfig,
        clock: Clock,
        symbols: SymbolMap,
        account: IgAccount,
        tap: RawTap | None,
        wanted: Subscriptions,
    ) -> None:
        self._config = config
        self._clock = clock
        self._symbols = symbols
        self._account = account
        self._wanted = wanted
        self._channel = CHANNELS[config.channel]
        self._delay_told = len(self._channel.fields) > self._channel.quoted + 1
        self._client = LightstreamerClient(NAME, config.lightstreamer, clock, tap=tap, proxy=config.http.proxy)
        self._tokens: Tokens | None = None
        self._account_id: str | None = None
        self._handles: dict[str, int] = {}  # symbol → subscription
        self._of_handle: dict[int, str] = {}
        self._left_out: dict[str, None] = {}  # told already
        self._without_delay: dict[str, None] = {}  # the server refused the last field
        self._over_limit: dict[str, None] = {}  # told already; they get a place when there is one
        self._quotes: dict[str, Values] = {}
        self._states: dict[str, Values] = {}
        self._to_tell: list[SourceEvent] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Batches]:
        """One connection, subscribed; its batches end with SourceUnavailable."""
        while not self._wanted.symbols:
            await self._wanted.changed(self._wanted.version)
        self._tokens = await self._account.tokens()
        self._follow()
        async with self._client.connection(self._login) as received:
            follower = asyncio.create_task(self._follow_wanted())
            try:
                yield self._events(received)
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)

    async def _login(self, refused: bool) -> Login:
        tokens = await self._account.tokens(refused=self._tokens if refused else None)
        self._tokens = tokens
        self._follow()
        return Login(
            url=tokens.stream_url,
            user=tokens.account_id,
            password=f"CST-{tokens.client}|XST-{tokens.security}",
        )

    async def _follow_wanted(self) -> None:
        version = self._wanted.version
        while True:
            self._follow()
            version = await self._wanted.changed(version)

    def _follow(self) -> None:
        """Subscribe what is wanted and is not yet, as far as there are places; leave what no longer is."""
        assert self._tokens is not None, "subscriptions name the account"
        if self._account_id != self._tokens.account_id:
            self._account_id = self._tokens.account_id
            for symbol in [*self._handles]:
                self._leave(symbol)
        wanted = dict.fromkeys(self._wanted.symbols)
        for symbol in [symbol for symbol in self._handles if symbol not in wanted]:
            self._leave(symbol)
        for told in (self._left_out, self._over_limit, self._without_delay):
            for symbol in [symbol for symbol in told if symbol not in wanted]:
                del told[symbol]  # asked for again if it comes back
        for symbol in wanted:
            if symbol not in self._handles and symbol not in self._left_out:
                self._enter(symbol, self._account_id)
        if self._to_tell:
            self._client.nudge()

    def _enter(self, symbol: str, account_id: str) -> None:
        epic = self._symbols.to_provider(symbol)
        if epic is None:
            self._left_out[symbol] = None
            self._tell("unknown_symbol", f"{symbol}: no epic is known; set it in symbol_table", symbol)
        elif len(self._handles) >= self._config.subscriptions_max:
            if symbol not in self._over_limit:
                self._over_limit[symbol] = None
                reason = f"IG streams {self._config.subscriptions_max} symbols at once; it waits for a place"
                self._tell("subscription_limit", f"{symbol}: {reason}", symbol)
        else:
            self._over_limit.pop(symbol, None)
            fields = self._channel.fields
            handle = self._client.subscribe(
                Subscription(
                    items=(self._channel.item(epic, account_id),),
                    fields=fields[:-1] if symbol in self._without_delay else fields,
                    mode=self._channel.mode,
                    data_adapter=self._channel.data_adapter,
                )
            )
            self._handles[symbol] = handle
            self._of_handle[handle] = symbol

    def _leave(self, symbol: str) -> None:
        handle = self._handles.pop(symbol)
        del self._of_handle[handle]
        self._client.unsubscribe(handle)
        self._quotes.pop(symbol, None)
        self._states.pop(symbol, None)

    async def _events(self, received: AsyncGenerator[Sequence[Received], None]) -> Batches:
        async with aclosing(received):
            async for texts in received:
                events: list[SourceEvent] = []
                for time_received_ns, said in texts:
                    for event in said:
                        if isinstance(event, Update):
                            self._update(event, time_received_ns, events)
                        else:
                            self._other(event, time_received_ns, events)
                events += self._to_tell
                self._to_tell = []
                if events:
                    yield events

    def _update(self, update: Update, time_received_ns: int, events: list[SourceEvent]) -> None:
        symbol = self._of_handle.get(update.handle)
        if symbol is None:
            return  # no longer wanted
        channel, values = self._channel, update.values
        try:
            said = values[channel.quoted :]
            if said and self._states.get(symbol) != said:
                self._states[symbol] = said
                state = parse_state(channel, values, symbol, time_received_ns)
                if state is not None:
                    events.append(state)
        except ValueError as error:
            events.append(self._quarantined("unknown_state", f"{symbol}: {error}", symbol, time_received_ns))
        try:
            quoted = values[: channel.quoted]
            # a snapshot after a reconnect repeats what is known; a state may change alone
            if (channel.mode == "DISTINCT" and not update.snapshot) or self._quotes.get(symbol) != quoted:
                self._quotes[symbol] = quoted
                divisor = self._config.price_divisors.get(symbol, 1.0)
                quote = parse_update(channel, values, symbol, time_received_ns, divisor)
                if quote is not None:
                    events.append(quote)
        except ValueError as error:
            events.append(self._quarantined("malformed", f"{symbol}: {error}", symbol, time_received_ns))

    def _other(self, event: object, time_received_ns: int, events: list[SourceEvent]) -> None:
        match event:
            case Refused(handle=handle, code=code, reason=reason) if handle in self._of_handle:
                symbol = self._of_handle[handle]
                self._leave(symbol)
                if code == _BAD_FIELDS and self._delay_told and symbol not in self._without_delay:
                    self._without_delay[symbol] = None
                else:
                    self._left_out[symbol] = None
                    kind = "unknown_symbol" if code == _BAD_ITEM else "not_entitled"
                    detail = f"{symbol}: subscription refused: {code} {reason}"
                    events.append(self._quarantined(kind, detail, symbol, time_received_ns))
                self._follow()  # there is a place again
            case Malformed(detail=detail, handle=handle):
                symbol_or_none = self._of_handle.get(handle) if handle is not None else None
                events.append(self._quarantined("malformed", detail, symbol_or_none, time_received_ns))
            case Missed(handle=handle, count=count) if handle in self._of_handle:
                symbol = self._of_handle[handle]
                detail = f"{symbol}: the server dropped {count} updates"
                events.append(self._quarantined("updates_missed", detail, symbol, time_received_ns))
            case _:
                pass

    def _tell(self, reason: str, detail: str, symbol: str) -> None:
        self._to_tell.append(self._quarantined(reason, detail, symbol, self._clock.time_ns()))

    @staticmethod
    def _quarantined(reason: str, detail: str, symbol: str | None, time_received_ns: int) -> Quarantined:
        return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail, symbol=symbol)
