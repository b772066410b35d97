"""What the doors need of the engine behind them. `marketd.app.Server` is the one implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from marketd.clock import Clock
from marketd.collect.live import Desk
from marketd.continuity.history import HistoryService
from marketd.continuity.ledger import LedgerService
from marketd.fanout.hub import Hub
from marketd.fanout.latest import LatestQuote
from marketd.model import BackfillJob, Bar, Cursor, Interval, JobState, Quarantined, Side, Tier
from marketd.routing import Router
from marketd.store.contract import BarStore
from marketd.store.records import Records
from marketd.telemetry import Metrics

__all__ = ["Backfill", "Engine", "Health", "PartState", "Rates", "Session", "SourceStatus", "SymbolInfo"]


class SymbolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol that can be asked for. exchange: where it trades, as its source names it."""

    symbol: str
    exchange: str
    source: str
    simulated: bool


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one source is doing. state: connecting, streaming, reconnecting, polling, ended,
    rejected or failed."""

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
    """How a part is doing. state: ok, failing, or off (not configured, or stopped)."""

    kind: str
    state: str
    error: str | None
    waiting: int
    """Rows that are not durable (not cached) yet; jobs that are not done."""


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
    backfill: PartState
    sweeper: PartState
    jobs: PartState
    sources: list[SourceStatus]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The current UTC day of a symbol. previous_close: of the last stored day before it."""

    open: float | None = None
    high: float | None = None
    low: float | None = None
    volume: float | None = None
    previous_close: float | None = None


class Backfill(Protocol):
    """What takes, works off and remembers back-fill jobs. Called on the event loop's thread."""

    async def submit(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        tier: Tier | None = None,
        provider: str | None = None,
        reason: str = "manual",
    ) -> BackfillJob:
        """The job that will get the bars: a new one, or an open one that already asks for them. tier: None for the
        symbol's own. Raises InvalidInput, StoreError."""
        ...

    async def job(self, job_id: str) -> BackfillJob | None: ...

    async def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1_000
    ) -> Sequence[BackfillJob]:
        """The newest first. states: only in these, by default in any."""
        ...

    async def cancel(self, job_id: str) -> BackfillJob | None:
        """The job, now cancelled, or as it ended before; None if there is none."""
        ...

    async def cursor(self, symbol: str, interval: Interval, provider: str) -> Cursor | None: ...


class Engine(Protocol):
    clock: Clock
    hub: Hub
    metrics: Metrics
    stale_after_ns: int
    store: BarStore
    records: Records
    history: HistoryService
    ledger: LedgerService
    backfill: Backfill
    router: Router
    desk: Desk

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
        """All absent while the store fails. Raises UnknownSymbol."""
        ...

    def default_side(self, symbol: str) -> Side: ...

    def check_history(self, symbol: str, interval: Interval | None = None) -> None:
        """Raises UnknownSymbol (with near matches) for a symbol that is neither live nor stored nor in the universe;
        InvalidInput for an interval that this server does not keep."""
        ...

    def live_bars(self, symbol: str, base: Interval, side: Side, start_ns: int, end_ns: int) -> Sequence[Bar]:
        """Bars of `base` (1 s or 1 m) with start_ns <= ts < end_ns that are in the making or not stored yet, with
        status `live`. Called on the event loop's thread, before the store is read. Empty for a symbol without any."""
        ...

    def health(self) -> Health: ...

    def quarantine(self) -> Sequence[Quarantined]:
        """The newest refused rows and lines, oldest first."""
        ...

    def acquire(self, symbol: str) -> int:
        """As `symbol_number`, for one who wants its quotes: a symbol that nobody streams is subscribed if a provider
        may have it. `release` it as often. Raises UnknownSymbol, InvalidInput (too many at a time)."""
        ...

    def release(self, symbol: str) -> None: ...

    def live_counts(self) -> dict[str, int]:
        """How many symbols are shown from each provider."""
        ...

    def cadence(self) -> tuple[bool, list[tuple[str, int, dict[str, Any]]]]:
        """Whether the sweeper runs; (tier, symbols, cadence by kind) of each tier."""
        ...

    def symbol_mappings(self, part: str, provider: str | None) -> list[tuple[str, str, str]]:
        """(symbol, provider, the provider's symbol) where `part` is in a name. Raises InvalidInput for a provider that
        is not configured."""
        ...

    async def reload(self, *, apply: bool) -> tuple[list[str], list[str]]:
        """What of a configuration that is read anew is (or would be) taken up, and what waits for the next start. All
        or nothing. Raises InvalidInput."""
        ...
