"""What a provider may be able to do, each as a protocol of its own, and the `Provider` that holds those it can.

A provider streams ticks (`Source`) or answers requests (`QuoteRequest`, `BarHistory`, `OptionChains`, `MacroSeries`,
`ActionHistory`). It says what it can, and under which conventions, in `Capabilities`, maps its names with a
`SymbolMap`, and tells every failure as a `SourceError` of the right kind. To add one, copy the layout of ``coinbase/``
(``parse`` is pure, ``feed`` owns the socket, ``history`` the requests, ``__init__`` the `ProviderEntry`), and run
`marketd.testing.SourceConformance` and `RequestConformance` over it. See ``docs/add-a-provider.md``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import SourceError
from marketd.model import CorporateAction, Interval, Quote, SourceEvent
from marketd.sources.http import RequestBudget
from marketd.sources.symbols import SymbolMap
from marketd.telemetry import Metrics

__all__ = [
    "CAPABILITIES",
    "ActionHistory",
    "BarHistory",
    "Capabilities",
    "Capability",
    "Limit",
    "MacroSeries",
    "OptionChains",
    "Provider",
    "ProviderDeps",
    "ProviderEntry",
    "QuoteRequest",
    "RawTap",
    "Source",
    "Subscriptions",
]

Capability = Literal[
    "stream_quotes", "stream_trades", "quotes_l1", "bars_1m", "eod", "options_chain", "macro", "corporate_actions"
]
"""What can be asked of a provider, as policies, circuits and statistics name it. bars_1m: bars within the day; eod:
bars of a day and longer."""

CAPABILITIES: tuple[Capability, ...] = (
    "stream_quotes",
    "stream_trades",
    "quotes_l1",
    "bars_1m",
    "eod",
    "options_chain",
    "macro",
    "corporate_actions",
)

RawTap = Callable[[int, str], None]
"""Called with (time_received_ns, message as it came) for each raw message, before it is parsed."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """At most `count` (requests, or what they weigh) in any window of `seconds`. endpoint: of these requests only, by
    the label they are made with; None: of all of the provider's."""

    count: int
    seconds: float
    endpoint: str | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of a provider, its limits and its conventions.

    quotes, options, macro, actions: by request. bars: intervals of its history. quotes_per_request: how many symbols
    one request for quotes may name. stamp: whether its bars are stamped with their start or end (ours always with the
    start). time_zone: of the times on its wire, IANA name. empty_minute: what it answers for a minute without trades.
    numbered_trades: trade ids are consecutive per symbol, so a lost trade is noticed. limits: documented ones, the
    defaults of the quota. symbols_per_connection, connections: of the stream; None is unlimited. delayed_s: how old its
    quotes are at best. simulated: its prices are made up.
    """

    stream_quotes: bool = False
    stream_trades: bool = False
    quotes: bool = False
    bars: tuple[str, ...] = ()
    options: bool = False
    macro: bool = False
    actions: bool = False
    quotes_per_request: int = 1
    stamp: Literal["start", "end"] = "start"
    time_zone: str = "UTC"
    empty_minute: Literal["missing", "flat", "null"] = "missing"
    adjustment: Literal["raw", "split", "all"] = "raw"
    numbered_trades: bool = False
    limits: tuple[Limit, ...] = ()
    symbols_per_connection: int | None = None
    connections: int | None = None
    delayed_s: float = 0.0
    simulated: bool = False

    @property
    def names(self) -> tuple[Capability, ...]:
        """What of `CAPABILITIES` there is, in that order."""
        days = ("1d", "1w")
        has: dict[Capability, bool] = {
            "stream_quotes": self.stream_quotes,
            "stream_trades": self.stream_trades,
            "quotes_l1": self.quotes,
            "bars_1m": any(interval not in days for interval in self.bars),
            "eod": any(interval in days for interval in self.bars),
            "options_chain": self.options,
            "macro": self.macro,
            "corporate_actions": self.actions,
        }
        return tuple(name for name in CAPABILITIES if has[name])


class Subscriptions:
    """The symbols wanted of a source: a set that changes while the source runs.

    A source reads `symbols` when it connects and awaits `changed` to follow; it re-asserts all of `symbols`
    after every reconnect. Only the event loop's thread touches it.

    attempts: after so many failures in a row to connect, the source rests until `ask`; None never rests. resting:
    whether it does.
    """

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        self._symbols: dict[str, None] = dict.fromkeys(symbols)
        self._version = 0
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self.attempts: int | None = None
        self.resting = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """What is wanted now, in the order it was first asked for."""
        return tuple(self._symbols)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._symbols

    @property
    def version(self) -> int:
        """Grows by one with every change."""
        return self._version

    def add(self, symbols: Iterable[str]) -> tuple[str, ...]:
        """Want these too; returns those that were new."""
        new = tuple(s for s in dict.fromkeys(symbols) if s not in self._symbols)
        if new:
            self._symbols.update(dict.fromkeys(new))
            self._bump()
        return new

    def discard(self, symbols: Iterable[str]) -> tuple[str, ...]:
        """Want these no longer; returns those that had been wanted."""
        gone = tuple(s for s in dict.fromkeys(symbols) if s in self._symbols)
        if gone:
            for symbol in gone:
                del self._symbols[symbol]
            self._bump()
        return gone

    def ask(self) -> None:
        """Ask a source that rests after too many failures to try again."""
        self._asked.set()
        self._asked = asyncio.Event()

    async def rest(self, failures: int) -> bool:
        """What a source awaits after so many failures in a row: returns False while there are attempts left, else True
        once it was asked."""
        if self.attempts is None or failures < self.attempts:
            return False
        self.resting = True
        try:
            await self._asked.wait()
        finally:
            self.resting = False
        return True

    def _bump(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, version: int) -> int:
        """Return the current version once it differs from `version`."""
        while self._version == version:
            await self._changed.wait()
        return self._version


@runtime_checkable
class Source(Protocol):
    """A provider's live side. Built by `app.py`; used by one task."""

    @property
    def name(self) -> str:
        """Short, lower case, stable: it is stored with every row."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        """Yield events in the batches they came in, until closed or ended.

        Called once per object. `Connected` comes before the first tick of every connection; a lost
        connection is a `Disconnected` event, never an exception, and the source reconnects by itself
        (`sources.reconnect`). What cannot be understood is a `Quarantined` event. Ticks carry both clocks;
        the order of the provider is kept. Symbols added to `wanted` while it runs are followed, removed ones
        fall silent. `Ended` is the last event of a source that is finite.
        Raises `SourceRejected` only for what retrying cannot cure. Cancelling the task that iterates, or
        `aclose()` on the iterator, releases sockets and tasks.
        """
        ...


@runtime_checkable
class BarHistory(Protocol):
    """A provider's memory."""

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """Finished bars with start_ns <= ts < end_ns, ascending by ts, as a `BAR_SCHEMA` table, status `backfill`.

        Pages by itself and keeps within the provider's limits. A running bar is left out. Minutes that the
        provider does not have are absent rows, also where it sends flat rows or nulls for them. Prices are raw unless
        `Capabilities.adjustment` says otherwise; then `provider` carries the mark `ADJUSTED`. Raises SymbolNotFound,
        OutOfRange (no such interval, or nothing so far back), NotEntitled, SourceRejected, SourceUnavailable (Throttled
        with `retry_after_s` if it was told), MalformedMessage.
        """
        ...


class QuoteRequest(Protocol):
    """A provider's latest quotes by request."""

    async def quote(self, symbol: str) -> Quote:
        """The quote now, with the provider's event time. Raises SymbolNotFound, MarketClosed (there is none because of
        it), NotEntitled, SourceRejected, SourceUnavailable, MalformedMessage."""
        ...

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """A quote or a reason for each, in as few requests as the provider allows. Raises what concerns all of them."""
        ...


class OptionChains(Protocol):
    """A provider's option chains."""

    async def expiries(self, symbol: str) -> Sequence[date]:
        """Ascending. Raises what `chain` raises."""
        ...

    async def chain(self, symbol: str, expiry: date | None = None) -> pa.Table:
        """An `OPTION_SCHEMA` table of one expiry; None: the nearest that has not passed. Raises SymbolNotFound (also
        for a symbol without options), OutOfRange (no such expiry), NotEntitled, SourceRejected, SourceUnavailable,
        MalformedMessage."""
        ...


class MacroSeries(Protocol):
    """A provider's economic series, as they were published."""

    async def observations(self, series: str, start: date | None = None, end: date | None = None) -> pa.Table:
        """An `OBSERVATION_SCHEMA` table of observations dated start <= date <= end, ascending by (ts, as_of).

        With every vintage the provider has: `as_of` is when a value was published, or the time of the request where the
        provider keeps no vintages. Raises SymbolNotFound, NotEntitled, SourceRejected, SourceUnavailable,
        MalformedMessage.
        """
        ...


class ActionHistory(Protocol):
    """A provider's corporate actions."""

    async def actions(self, symbol: str, start_ns: int, end_ns: int) -> Sequence[CorporateAction]:
        """Splits and dividends with start_ns <= ex_ns < end_ns, ascending, as of now. Raises what `BarHistory.bars`
        raises."""
        ...


def _none(_: str) -> None:
    return None


async def _nothing() -> None:
    pass


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One configured provider: what it can do, each part or None, over shared connections.

    stream_symbols: what to stream at first, our names. venue: the calendar its symbols follow unless the universe says
    otherwise (a key of `calendars.venues` or a MIC); None for the configured default. close: releases connections; the
    source's own are released by closing its stream.
    """

    name: str
    capabilities: Capabilities
    symbols: SymbolMap
    stream: Source | None = None
    stream_symbols: tuple[str, ...] = ()
    quotes: QuoteRequest | None = None
    bars: BarHistory | None = None
    options: OptionChains | None = None
    macro: MacroSeries | None = None
    actions: ActionHistory | None = None
    venue: str | None = None
    close: Callable[[], Awaitable[None]] = _nothing

    @classmethod
    def streaming(cls, source: Source, symbols: Iterable[str]) -> Provider:
        """A provider that has these symbols and no others, by our names, and can only stream."""
        known = tuple(dict.fromkeys(symbols))
        table = SymbolMap({symbol: symbol for symbol in known}, to_provider=_none, from_provider=_none)
        return cls(
            name=source.name, capabilities=source.capabilities, symbols=table, stream=source, stream_symbols=known
        )


class ProviderDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider is given by the server. budget: its share of the quota, None to use its own rate limit. tap: sees
    every raw message before it is parsed."""

    clock: Clock
    metrics: Metrics
    budget: RequestBudget | None = None
    tap: RawTap | None = None
    rng: random.Random = random.Random()


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider is known: what its folder, or a third party's package, offers to the registry.

    name: key under `sources` in the configuration, and the source of its rows. aliases: other names it goes by in
    policies and hints. config: a frozen Struct whose fields have defaults. secrets: variables of the environment that
    set fields of it. build: from (config, deps); imports what is heavy when called, and raises ConfigError or
    InvalidInput for what it cannot use. extra: what to install for it (`marketd[yahoo]`), None if nothing.
    """

    name: str
    config: type[msgspec.Struct]
    build: Callable[[Any, ProviderDeps], Provider]
    aliases: tuple[str, ...] = ()
    secrets: Mapping[str, str] = {}
    extra: str | None = None
