"""What a provider must be able to do, and what it may add.

A source streams ticks (`Source`); some can also fetch history (`BarHistory`). Each says what it can in
`Capabilities`. To add a provider, copy the layout of ``coinbase/`` (``parse`` is pure, ``feed`` owns the
socket, ``history`` the requests), and run `marketd.testing.SourceConformance` over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec
import pyarrow as pa

from marketd.model import Interval, Quote, SourceEvent

__all__ = ["BarHistory", "Capabilities", "QuoteRequest", "RawTap", "Source", "Subscriptions"]

RawTap = Callable[[int, str], None]
"""Called with (time_received_ns, message as it came) for each raw message, before it is parsed."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of a provider, and its conventions.

    stamp: whether its bars are stamped with their start or end. empty_minute: what it answers for a minute
    without trades. numbered_trades: trade ids are consecutive per symbol, so a lost trade is noticed.
    """

    stream_quotes: bool = False
    stream_trades: bool = False
    bars: tuple[str, ...] = ()
    stamp: Literal["start", "end"] = "start"
    empty_minute: Literal["missing", "flat", "null"] = "missing"
    adjustment: Literal["raw", "split", "all"] = "raw"
    numbered_trades: bool = False
    simulated: bool = False


class Subscriptions:
    """The symbols wanted of a source: a set that changes while the source runs.

    A source reads `symbols` when it connects and awaits `changed` to follow; it re-asserts all of `symbols`
    after every reconnect. Only the event loop's thread touches it.
    """

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        self._symbols: dict[str, None] = dict.fromkeys(symbols)
        self._version = 0
        self._changed = asyncio.Event()

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
        provider does not have are absent rows. Raises `SourceRejected` (unknown symbol or interval),
        `SourceUnavailable` (with `retry_after_s` if it was told), `MalformedPayload`.
        """
        ...


class QuoteRequest(Protocol):
    """A provider's latest quote by request."""

    async def quote(self, symbol: str) -> Quote:
        """The quote now, with the provider's event time. Raises `SourceRejected` (unknown symbol), `SourceUnavailable`
        (with `retry_after_s` if it was told), `MalformedPayload`."""
        ...
