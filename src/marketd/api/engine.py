"""What the doors need of the engine behind them. `marketd.app.Server` is the one implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import pyarrow as pa

from marketd.clock import Clock
from marketd.fanout.hub import Hub
from marketd.fanout.latest import LatestQuote
from marketd.model import Interval, Quarantined, Side
from marketd.telemetry import Metrics

__all__ = ["Engine", "Health", "PartState", "Rates", "Session", "SourceStatus", "SymbolInfo"]


class SymbolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol that can be asked for. exchange: where it trades, as its source names it."""

    symbol: str
    exchange: str
    source: str
    simulated: bool


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one source is doing. state: connecting, streaming, reconnecting, ended or rejected."""

    name: str
    connected: bool
    state: str
    reason: str | None
    simulated: bool
    symbols: int
    ticks: int
    accepted: int
    quarantined: dict[str, int]
    last_event: str | None
    reconnects: int


class PartState(msgspec.Struct, frozen=True, kw_only=True):
    """How the store or the quote cache is doing. state: ok or failing."""

    kind: str
    state: str
    error: str | None
    waiting: int
    """Rows that are not durable (or not cached) yet."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    ticks_per_s: float
    messages_per_s: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """status: starting (no quote yet), ok, or degraded (a source that should be up is down, a store fails)."""

    status: str
    version: str
    epoch: str
    uptime_s: float
    time: str
    demo: bool
    symbols: int
    clients: int
    rates: Rates
    store: PartState
    cache: PartState
    sources: list[SourceStatus]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The current UTC day of a symbol. previous_close: of the last stored day before it."""

    open: float | None = None
    high: float | None = None
    low: float | None = None
    volume: float | None = None
    previous_close: float | None = None


class Engine(Protocol):
    clock: Clock
    hub: Hub
    metrics: Metrics
    stale_after_ns: int

    def symbols(self) -> Sequence[SymbolInfo]: ...

    def info(self, symbol: str) -> SymbolInfo:
        """Raises UnknownSymbol (with near matches)."""
        ...

    def symbol_number(self, symbol: str) -> int:
        """What the hub and the latest table call the symbol. Raises UnknownSymbol (with near matches)."""
        ...

    def quote(self, symbol: str) -> LatestQuote | None:
        """The newest accepted value, None while the symbol has none. Raises UnknownSymbol."""
        ...

    async def session(self, symbol: str) -> Session:
        """Raises UnknownSymbol."""
        ...

    def default_side(self, symbol: str) -> Side: ...

    async def bars(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> pa.Table:
        """Stored bars and the one in the making (status `live`), start_ns <= ts < end_ns, as `BAR_SCHEMA`.

        Ascending by ts; at most `limit`, the newest with `newest_first`. Intervals above 1 m are rolled up from
        1 m. Raises UnknownSymbol, InvalidInput (interval not kept), StoreError.
        """
        ...

    def health(self) -> Health: ...

    def quarantine(self) -> Sequence[Quarantined]:
        """The newest refused rows and lines, oldest first."""
        ...
