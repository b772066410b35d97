"""How providers are doing, as values: what `Router.stats` gives and `api` renders. Times are nanoseconds, UTC."""

from __future__ import annotations

from typing import Literal

import msgspec

from marketd.routing.breaker import BreakerState
from marketd.routing.health import Parts
from marketd.routing.quota import WindowState
from marketd.sources.contract import Capability

__all__ = ["CapabilityState", "CapabilityStats", "LastError", "ProviderStats", "Switch", "SwitchCause"]

CapabilityState = Literal["available", "not_entitled", "throttled", "open", "half_open"]

SwitchCause = Literal["circuit_open", "throttled", "not_entitled", "unhealthy", "preferred", "better", "reconfigured"]
"""Why a provider is no longer the chosen one, for metrics. preferred: one that comes earlier in the order is healthy
again; better: another has had the better score for long."""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for a capability go to another provider from now on. among: the providers that can have what is asked
    for, since there is a chosen one for each such group. reason: in words; cause: for metrics."""

    capability: Capability
    old: str
    new: str
    reason: str
    cause: SwitchCause
    at_ns: int
    among: tuple[str, ...]


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """code: of the error's class. reason: redacted."""

    code: str
    reason: str
    at_ns: int


class CapabilityStats(msgspec.Struct, frozen=True, kw_only=True):
    """One capability of a provider. reason: why it is not available, None if it is. chosen: whether it would be asked
    first now, of all that can; why: why it is, or is not. latency: of the calls in the window, None without any."""

    capability: Capability
    state: CapabilityState
    reason: str | None
    chosen: bool
    why: str
    health_score: float
    error_ewma: float
    parts: Parts
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    last_error: LastError | None


class ProviderStats(msgspec.Struct, frozen=True, kw_only=True):
    """A provider. health_score, state, error_ewma, parts, latency: of the capability that is doing worst. quota: its
    windows. told_left: what it said itself is left of its current window. throttled_until_ns: None if it is not.
    quota_error: why what was spent is not saved, None if it is."""

    provider: str
    health_score: float
    state: BreakerState
    error_ewma: float
    parts: Parts
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    quota: tuple[WindowState, ...]
    told_left: int | None
    throttled_until_ns: int | None
    quota_error: str | None
    last_error: LastError | None
    capabilities: tuple[CapabilityStats, ...]
