"""Which provider is asked: health, circuit breaker, quota and policy. See ``docs/routing.md``.

`Router` asks; `choose` decides and is pure; `Budget` says when a request may go. Knows no provider by name. A new
capability is one of `sources.contract.CAPABILITIES`, with a method of `Router` that asks for it.
"""

from __future__ import annotations

from marketd.routing.breaker import Breaker, BreakerState
from marketd.routing.choose import Candidate, Choice, Policy, choose
from marketd.routing.config import (
    BreakerConfig,
    HealthConfig,
    QuotaConfig,
    RoutingConfig,
    SharesConfig,
    WaitsConfig,
)
from marketd.routing.health import Health, Parts, score_of
from marketd.routing.quota import Budget, OutOfQuota, WindowState
from marketd.routing.quota_memory import FileQuotaMemory, QuotaMemory, SavedQuota, SavedWindow
from marketd.routing.router import Routed, Router
from marketd.routing.stats import CapabilityStats, LastError, ProviderStats, Switch

__all__ = [
    "Breaker",
    "BreakerConfig",
    "BreakerState",
    "Budget",
    "Candidate",
    "CapabilityStats",
    "Choice",
    "FileQuotaMemory",
    "Health",
    "HealthConfig",
    "LastError",
    "OutOfQuota",
    "Parts",
    "Policy",
    "ProviderStats",
    "QuotaConfig",
    "QuotaMemory",
    "Routed",
    "Router",
    "RoutingConfig",
    "SavedQuota",
    "SavedWindow",
    "SharesConfig",
    "Switch",
    "WaitsConfig",
    "WindowState",
    "choose",
    "score_of",
]
