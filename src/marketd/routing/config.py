"""What can be set about routing: the section `routing` of the configuration. Knows no provider by name.

A new setting is a field here with a check, a line in ``docs/routing.md``, and nothing else: the rooms take the Structs.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.contract import CAPABILITIES, Capability, Limit
from marketd.sources.http import Priority

__all__ = [
    "PRIORITIES",
    "REST",
    "BreakerConfig",
    "HealthConfig",
    "QuotaConfig",
    "RoutingConfig",
    "SharesConfig",
    "WaitsConfig",
]

PRIORITIES: tuple[Priority, ...] = ("live", "sweep", "backfill")
"""Most urgent first."""

REST = "*"
"""In a policy: everybody else that can, in the order of the configuration."""

_DAY_S = 86_400.0


def _within(field: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise InvalidInput(field, value, f"a number from {lowest:g} to {highest:g}")


def _at_least(field: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise InvalidInput(field, value, f"a whole number from {lowest}")


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a circuit opens, and for how long.

    failures: so many in a row open it. error_rate: so does an error EWMA of at least this, once there were about
    calls_min calls. open_first_s: the first time it stays open for so long, then twice as long, up to open_max_s.
    A circuit that was closed for open_max_s begins anew. probe_s: a probe whose end is not heard of for so long is
    given up.
    """

    failures: int = 5
    error_rate: float = 0.7
    calls_min: int = 10
    open_first_s: float = 5.0
    open_max_s: float = 300.0
    probe_s: float = 60.0

    def __post_init__(self) -> None:
        _at_least("failures", self.failures, 1)
        _within("error_rate", self.error_rate, 0.01, 1.0)
        _at_least("calls_min", self.calls_min, 1)
        _within("open_first_s", self.open_first_s, 0.001, _DAY_S)
        _within("open_max_s", self.open_max_s, self.open_first_s, _DAY_S)
        _within("probe_s", self.probe_s, 0.001, _DAY_S)


class HealthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How calls become a score.

    latency_good_ms: a median of up to this counts 1; latency_bad_ms: of this and more counts 0. latency_calls,
    latency_s: the window of calls, at most so many and so old. call_weight: of the newest call in the EWMAs.
    error_half_life_s, completeness_half_life_s: what is bad halves in this time without calls.
    """

    latency_good_ms: float = 250.0
    latency_bad_ms: float = 5_000.0
    latency_calls: int = 64
    latency_s: float = 600.0
    call_weight: float = 0.2
    error_half_life_s: float = 120.0
    completeness_half_life_s: float = 3_600.0

    def __post_init__(self) -> None:
        _within("latency_good_ms", self.latency_good_ms, 0.001, 1e9)
        if not self.latency_good_ms < self.latency_bad_ms <= 1e9:
            raise InvalidInput("latency_bad_ms", self.latency_bad_ms, "a number above latency_good_ms")
        _at_least("latency_calls", self.latency_calls, 1)
        _within("latency_s", self.latency_s, 0.001, _DAY_S)
        _within("call_weight", self.call_weight, 0.001, 1.0)
        _within("error_half_life_s", self.error_half_life_s, 0.001, 365 * _DAY_S)
        _within("completeness_half_life_s", self.completeness_half_life_s, 0.001, 365 * _DAY_S)


class QuotaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one provider may be asked, instead of what its page documents.

    per_s, per_minute, per_day: requests (or what they weigh) in any such time; None for no such limit. limits: others,
    also of one endpoint. weights: what a request counts, by endpoint, instead of what the provider's code says.
    """

    per_s: int | None = None
    per_minute: int | None = None
    per_day: int | None = None
    limits: tuple[Limit, ...] = ()
    weights: Mapping[str, int] = {}

    def __post_init__(self) -> None:
        for field in ("per_s", "per_minute", "per_day"):
            if getattr(self, field) is not None:
                _at_least(field, getattr(self, field), 1)
        seen: set[tuple[float, str | None]] = set()
        for limit in self.given:
            _at_least("limits.count", limit.count, 1)
            _within("limits.seconds", limit.seconds, 0.001, 366 * _DAY_S)
            if (limit.seconds, limit.endpoint) in seen:
                raise InvalidInput("limits", f"{limit.seconds:g} s, {limit.endpoint}", "each window once")
            seen.add((limit.seconds, limit.endpoint))
        for endpoint, weight in self.weights.items():
            _at_least(f"weights.{endpoint}", weight, 0)

    @property
    def given(self) -> tuple[Limit, ...]:
        """All of its limits; empty when only weights are set."""
        short = ((self.per_s, 1.0), (self.per_minute, 60.0), (self.per_day, _DAY_S))
        return (*(Limit(count=count, seconds=seconds) for count, seconds in short if count is not None), *self.limits)


class SharesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of each window that what is not live may use. sweep: sweep and back-fill together; backfill: back-fill
    alone. What is left is live's."""

    sweep: float = 0.8
    backfill: float = 0.5

    def __post_init__(self) -> None:
        _within("sweep", self.sweep, 0.01, 1.0)
        _within("backfill", self.backfill, 0.01, self.sweep)


class WaitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long a request waits for its turn before it is told when to come back, seconds."""

    live: float = 1.0
    sweep: float = 30.0
    backfill: float = 60.0

    def __post_init__(self) -> None:
        for field in PRIORITIES:
            _within(field, getattr(self, field), 0.0, _DAY_S)

    def of(self, priority: Priority) -> float:
        return {"live": self.live, "sweep": self.sweep, "backfill": self.backfill}[priority]


class RoutingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """policies: who is asked, by capability, the preferred one first; a list, or a text with commas. `*` stands for
    everybody else. A capability without one: all that can, in the order of the configuration.

    allow_source_override: whether a request may name whom to ask first. usable_above: a score must be better.
    recover_s: who comes earlier in the order must have been healthy for so long to be gone back to. overtake_margin,
    overtake_s: without a policy, who has been better by so much for so long is gone over to. attempt_live_s: a live
    request for quotes is given up after so long and the next one asked; attempt_s: any other.
    quotas: by provider; waits, shares: of all of them.
    """

    policies: Mapping[str, str | tuple[str, ...]] = {}
    allow_source_override: bool = False
    usable_above: float = 0.55
    recover_s: float = 30.0
    overtake_margin: float = 0.15
    overtake_s: float = 30.0
    attempt_live_s: float = 2.0
    attempt_s: float = 30.0
    breaker: BreakerConfig = BreakerConfig()
    health: HealthConfig = HealthConfig()
    quotas: Mapping[str, QuotaConfig] = {}
    shares: SharesConfig = SharesConfig()
    waits: WaitsConfig = WaitsConfig()

    def __post_init__(self) -> None:
        _within("usable_above", self.usable_above, 0.0, 0.99)
        _within("recover_s", self.recover_s, 0.0, _DAY_S)
        _within("overtake_margin", self.overtake_margin, 0.0, 1.0)
        _within("overtake_s", self.overtake_s, 0.0, _DAY_S)
        _within("attempt_live_s", self.attempt_live_s, 0.001, 3_600.0)
        _within("attempt_s", self.attempt_s, 0.001, 3_600.0)
        policies = {name: _names(name, given) for name, given in self.policies.items()}
        msgspec.structs.force_setattr(self, "policies", policies)

    def policy(self, capability: Capability) -> tuple[str, ...] | None:
        """The names as they are written; None if there is no policy."""
        names = self.policies.get(capability)
        return names if names is None or isinstance(names, tuple) else _names(capability, names)


def _names(capability: str, given: str | tuple[str, ...]) -> tuple[str, ...]:
    field = f"policies.{capability}"
    if capability not in CAPABILITIES:
        raise InvalidInput(field, given, f"one of {', '.join(CAPABILITIES)}")
    parts = given.split(",") if isinstance(given, str) else given
    names = tuple(dict.fromkeys(part.strip().lower() for part in parts))
    if not names or "" in names:
        raise InvalidInput(field, given, "names of providers, the preferred one first")
    return names
