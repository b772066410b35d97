"""The doors to the providers: how they are doing, what they are asked directly, and taking up a changed configuration.

Translates `routing.Router`, `collect.live.Desk` and the engine's reload into replies; decides nothing. `rest` adds
`PROVIDER_OPERATIONS` to its table.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pyarrow as pa

from marketd.api.engine import Engine
from marketd.api.openapi import Operation, text, whole
from marketd.collect.cross_check import CrossCheckRow
from marketd.collect.stream_controller import StreamHealth
from marketd.errors import InvalidInput
from marketd.model import format_ns
from marketd.routing import LastError, Parts, ProviderStats, WindowState

__all__ = ["PROVIDER_OPERATIONS", "ReloadReply"]


class LastErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong last, without secrets."""

    code: str
    message: str
    at: str


class CapabilityReply(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a provider can do. state: available, not_entitled, throttled, open or half_open. chosen: it would
    be asked first now; why: why it is, or is not."""

    capability: str
    state: str
    reason: str | None
    chosen: bool
    why: str
    health_score: float
    error_ewma: float
    parts: Parts
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    last_error: LastErrorReply | None


class ProviderReply(msgspec.Struct, frozen=True, kw_only=True):
    """A provider; what concerns all of it is that of the capability that is doing worst. state: closed, half_open or
    open. parts: of the score, each from 0 (bad) to 1. quota: its windows, and what is left of them."""

    provider: str
    health_score: float
    state: str
    error_ewma: float
    parts: Parts
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    quota: list[WindowState]
    told_left: int | None
    throttled_until: str | None
    quota_error: str | None
    last_error: LastErrorReply | None
    live_symbols: int
    capabilities: list[CapabilityReply]


class SwitchReply(msgspec.Struct, frozen=True, kw_only=True):
    """Symbols went from one provider to another. old: null if there was none; new: null if nobody is left."""

    old: str | None
    new: str | None
    reason: str
    detail: str | None
    at: str
    symbols: list[str]


class ProvidersReply(msgspec.Struct, frozen=True, kw_only=True):
    """Every provider, in the order of the configuration, and the newest switches of live symbols, newest first."""

    providers: list[ProviderReply]
    switches: list[SwitchReply]


class TierReply(msgspec.Struct, frozen=True, kw_only=True):
    """A tier of the universe. cadence: seconds between two fetches of a symbol, or a time of day, by kind."""

    tier: str
    symbols: int
    cadence: dict[str, Any]


class CadenceReply(msgspec.Struct, frozen=True, kw_only=True):
    """What is fetched how often. enabled: whether the sweeper runs."""

    enabled: bool
    tiers: list[TierReply]


class StreamHealthReply(msgspec.Struct, frozen=True, kw_only=True):
    providers: list[StreamHealth]


class CrossChecksReply(msgspec.Struct, frozen=True, kw_only=True):
    """Every symbol that two providers give, with their disagreement."""

    checks: list[CrossCheckRow]


class ReloadReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a changed configuration changes. applied: false where it was only looked at. changed: settings that are
    taken up. needs_restart: settings that differ and are not."""

    applied: bool
    changed: list[str]
    needs_restart: list[str]


class MappingRow(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol's name at a provider."""

    symbol: str
    provider: str
    provider_symbol: str


class MappingsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Names of symbols at providers, sorted by symbol. complete: false if there are more than were asked for."""

    mappings: list[MappingRow]
    complete: bool


class ExpiriesReply(msgspec.Struct, frozen=True, kw_only=True):
    """Expiry dates, ascending. source: who said it; why: why it was asked."""

    symbol: str
    source: str
    why: str
    expiries: list[str]


class ChainReply(msgspec.Struct, frozen=True, kw_only=True):
    """The contracts of one expiry, ascending by strike. implied_volatility: a year's, as a fraction. Absent is null."""

    symbol: str
    source: str
    why: str
    expiry: str | None
    contracts: list[dict[str, Any]]


def _last_error(error: LastError | None) -> LastErrorReply | None:
    return None if error is None else LastErrorReply(code=error.code, message=error.reason, at=format_ns(error.at_ns))


def _provider(stats: ProviderStats, live_symbols: int) -> ProviderReply:
    return ProviderReply(
        provider=stats.provider,
        health_score=stats.health_score,
        state=stats.state,
        error_ewma=stats.error_ewma,
        parts=stats.parts,
        latency_p50_ms=stats.latency_p50_ms,
        latency_p95_ms=stats.latency_p95_ms,
        quota=list(stats.quota),
        told_left=stats.told_left,
        throttled_until=None if stats.throttled_until_ns is None else format_ns(stats.throttled_until_ns),
        quota_error=stats.quota_error,
        last_error=_last_error(stats.last_error),
        live_symbols=live_symbols,
        capabilities=[
            CapabilityReply(
                capability=c.capability,
                state=c.state,
                reason=c.reason,
                chosen=c.chosen,
                why=c.why,
                health_score=c.health_score,
                error_ewma=c.error_ewma,
                parts=c.parts,
                latency_p50_ms=c.latency_p50_ms,
                latency_p95_ms=c.latency_p95_ms,
                last_error=_last_error(c.last_error),
            )
            for c in stats.capabilities
        ],
    )


async def _providers(engine: Engine) -> ProvidersReply:
    live = engine.live_counts()
    return ProvidersReply(
        providers=[_provider(stats, live.get(stats.provider, 0)) for stats in engine.router.stats()],
        switches=[
            SwitchReply(
                old=switch.old,
                new=switch.new,
                reason=switch.reason,
                detail=switch.detail,
                at=format_ns(switch.at_ns),
                symbols=list(switch.symbols),
            )
            for switch in reversed(engine.desk.switches)
        ],
    )


async def _cadence(engine: Engine) -> CadenceReply:
    enabled, tiers = engine.cadence()
    return CadenceReply(
        enabled=enabled,
        tiers=[TierReply(tier=tier, symbols=symbols, cadence=cadence) for tier, symbols, cadence in tiers],
    )


async def _stream_health(engine: Engine) -> StreamHealthReply:
    return StreamHealthReply(providers=engine.desk.stream_health())


async def _cross_checks(engine: Engine) -> CrossChecksReply:
    return CrossChecksReply(checks=engine.desk.cross_checks())


async def _reload(engine: Engine) -> ReloadReply:
    changed, needs_restart = await engine.reload(apply=True)
    return ReloadReply(applied=True, changed=changed, needs_restart=needs_restart)


async def _validate(engine: Engine) -> ReloadReply:
    changed, needs_restart = await engine.reload(apply=False)
    return ReloadReply(applied=False, changed=changed, needs_restart=needs_restart)


async def _mappings(engine: Engine, q: str | None, provider: str | None, limit: int) -> MappingsReply:
    rows = [
        MappingRow(symbol=ours, provider=name, provider_symbol=theirs)
        for ours, name, theirs in engine.symbol_mappings(q or "", provider)
    ]
    rows.sort(key=lambda row: (row.symbol, row.provider))
    return MappingsReply(mappings=rows[:limit], complete=len(rows) <= limit)


async def _expiries(engine: Engine, symbol: str, source: str | None) -> ExpiriesReply:
    found = await engine.router.expiries(symbol, source=source)
    return ExpiriesReply(
        symbol=symbol, source=found.provider, why=found.why, expiries=[day.isoformat() for day in found.value]
    )


async def _chain(engine: Engine, symbol: str, expiry: str | None, source: str | None) -> ChainReply:
    day = None
    if expiry is not None:
        try:
            day = date.fromisoformat(expiry)
        except ValueError as error:
            raise InvalidInput("expiry", expiry, "a date such as 2026-12-18") from error
    found = await engine.router.chain(symbol, day, source=source)
    contracts = _rows(found.value)
    return ChainReply(
        symbol=symbol,
        source=found.provider,
        why=found.why,
        expiry=contracts[0]["expiry"] if contracts else None,
        contracts=contracts,
    )


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """As they go into JSON: times and dates in RFC 3339."""
    columns: dict[str, list[Any]] = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_timestamp(field.type):
            stamps = column.cast(pa.int64()).to_pylist()
            columns[field.name] = [None if ns is None else format_ns(ns) for ns in stamps]
        elif pa.types.is_date(field.type):
            columns[field.name] = [None if day is None else day.isoformat() for day in column.to_pylist()]
        else:
            columns[field.name] = column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


SOURCE = text("source", 64, "Ask this provider first, if hints are allowed.", "the name of a provider")

PROVIDER_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="GET",
        path="/stats/providers",
        summary="How every provider is doing, what it may still be asked, and why it is chosen or not",
        tag="operations",
        handler=_providers,
        response=ProvidersReply,
    ),
    Operation(
        method="GET",
        path="/stats/cadence",
        summary="Tiers of the universe, and how often their symbols are fetched",
        tag="operations",
        handler=_cadence,
        response=CadenceReply,
    ),
    Operation(
        method="GET",
        path="/diagnostics/stream_health",
        summary="Every provider's live feed: mode, staleness, reconnects",
        tag="operations",
        handler=_stream_health,
        response=StreamHealthReply,
    ),
    Operation(
        method="GET",
        path="/diagnostics/cross_checks",
        summary="By how much providers of the same symbol disagree",
        tag="operations",
        handler=_cross_checks,
        response=CrossChecksReply,
    ),
    Operation(
        method="POST",
        path="/ops/reload",
        summary="Take up changed policies, quotas, keys and symbols from the configuration",
        description="All or nothing: a mistake is told and changes nothing. No connection of a client is dropped.",
        tag="operations",
        handler=_reload,
        response=ReloadReply,
    ),
    Operation(
        method="POST",
        path="/ops/validate",
        summary="What a reload would change; the mistake, if there is one",
        tag="operations",
        handler=_validate,
        response=ReloadReply,
    ),
    Operation(
        method="GET",
        path="/api/v1/market-data/symbols/mappings",
        summary="What symbols are called at providers",
        tag="market data",
        handler=_mappings,
        response=MappingsReply,
        params=(
            text("q", 100, "In our name or the provider's, in any case.", "a part of a name"),
            text("provider", 64, "Only of this provider.", "the name of a provider"),
            whole("limit", 1, 10_000, "At most so many.", 1_000),
        ),
    ),
    Operation(
        method="GET",
        path="/api/v1/market-data/options/{symbol}/expiries",
        summary="Expiry dates of the options on a symbol",
        tag="market data",
        handler=_expiries,
        response=ExpiriesReply,
        params=(SOURCE,),
        errors=(404, 502, 503),
    ),
    Operation(
        method="GET",
        path="/api/v1/market-data/options/{symbol}",
        summary="The options on a symbol that expire on one day",
        tag="market data",
        handler=_chain,
        response=ChainReply,
        params=(text("expiry", 10, "By default the nearest.", "a date such as 2026-12-18"), SOURCE),
        errors=(404, 502, 503),
    ),
)
