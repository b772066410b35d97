"""What is remembered of providers between choices: circuits by capability, a budget each. And how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import NotEntitled, SourceError, SourceUnavailable, Throttled
from marketd.routing.able import has
from marketd.routing.choose import Choice
from marketd.routing.circuit import Circuit
from marketd.routing.config import QuotaConfig, RoutingConfig
from marketd.routing.health import Parts
from marketd.routing.quota import Budget, OutOfQuota
from marketd.routing.quota_memory import QuotaMemory
from marketd.routing.stats import CapabilityState, CapabilityStats, LastError, ProviderStats
from marketd.sources.contract import Capability, Provider

__all__ = ["Standing"]

_UNKNOWN = Parts(breaker=1.0, latency=1.0, errors=1.0, completeness=1.0)


class Standing:
    """Of every provider there is or was. memory: where quotas outlive the process."""

    def __init__(self, clock: Clock, memory: QuotaMemory | None) -> None:
        self._clock = clock
        self._memory = memory
        self._config = RoutingConfig()
        self._quotas: Mapping[str, QuotaConfig] = {}
        self._budgets: dict[str, Budget] = {}
        self._circuits: dict[tuple[str, Capability], Circuit] = {}

    def configure(self, config: RoutingConfig, quotas: Mapping[str, QuotaConfig]) -> None:
        """Go on with other settings. quotas: by the names under which providers are configured."""
        self._config, self._quotas = config, quotas
        for circuit in self._circuits.values():
            circuit.configure(config)

    def admit(self, provider: Provider) -> None:
        """Hold it to its limits from now on."""
        self._hold(self.budget(provider.name), provider)

    def _hold(self, budget: Budget, provider: Provider | None) -> None:
        limits = () if provider is None else provider.capabilities.limits
        quota = self._quotas.get(budget.provider)
        if provider is not None or quota is not None:
            budget.configure(limits, quota, shares=self._config.shares, waits=self._config.waits)

    def forgive(self, name: str) -> None:
        """Its key may be another one now."""
        for (provider, _), circuit in self._circuits.items():
            if provider == name:
                circuit.forgive()

    async def close(self) -> None:
        """Save what was spent."""
        for budget in self._budgets.values():
            await budget.close()

    def budget(self, name: str) -> Budget:
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = Budget(name, self._clock, memory=self._memory)
            self._hold(budget, None)
        return budget

    def circuit(self, name: str, capability: Capability) -> Circuit:
        circuit = self._circuits.get((name, capability))
        if circuit is None:
            circuit = self._circuits[name, capability] = Circuit(self._config, self._clock)
        return circuit

    def record(
        self,
        name: str,
        capability: Capability,
        error: SourceError | None,
        latency_s: float | None,
        subjects: Sequence[str] = (),
    ) -> None:
        """A call ended. See `Circuit.answered` and `Circuit.failed`."""
        circuit = self.circuit(name, capability)
        if error is None:
            circuit.answered(latency_s)
        elif isinstance(error, OutOfQuota):
            circuit.breaker.released()
        else:
            circuit.failed(error, latency_s, subjects)
            if isinstance(error, Throttled) and not self.budget(name).is_closed:
                self.budget(name).throttled("", error.retry_after_s)

    def not_asked(self, name: str, capability: Capability, subject: str | None) -> SourceError:
        """Why one that could have it is not asked now."""
        circuit = self.circuit(name, capability)
        refusal = circuit.refusal_of(subject)
        if refusal is not None:
            return NotEntitled(name, refusal)
        closed_s = self.budget(name).closed_s
        if closed_s > 0:
            return Throttled(name, f"asks for a rest of {closed_s:.3g} s more", closed_s)
        because = "" if circuit.last_error is None else f" after: {circuit.last_error.reason}"
        if circuit.breaker.state == "open":
            open_s = circuit.breaker.open_s
            return SourceUnavailable(name, f"not asked for {open_s:.3g} s more{because}", open_s)
        return SourceUnavailable(name, f"on trial{because}", 1.0)

    # --- how it is shown -----------------------------------------------------------------------------------

    def worst_circuit(self, provider: Provider) -> float:
        """0 open, 0.5 half-open, 1 closed."""
        circuits = [self.circuit(provider.name, capability) for capability in provider.capabilities.names]
        return min((circuit.parts.breaker for circuit in circuits), default=1.0)

    def stats(self, provider: Provider, choices: Mapping[Capability, Choice]) -> ProviderStats:
        """choices: what would be chosen now, by capability."""
        name = provider.name
        budget = self.budget(name)
        rows = [
            self._capability_stats(name, capability, choices[capability])
            for capability in provider.capabilities.names
            if has(provider, capability)
        ]
        worst = min(rows, key=lambda row: row.health_score, default=None)
        errors = [row.last_error for row in rows if row.last_error is not None]
        return ProviderStats(
            provider=name,
            health_score=1.0 if worst is None else worst.health_score,
            state="closed" if worst is None else self.circuit(name, worst.capability).breaker.state,
            error_ewma=0.0 if worst is None else worst.error_ewma,
            parts=_UNKNOWN if worst is None else worst.parts,
            latency_p50_ms=None if worst is None else worst.latency_p50_ms,
            latency_p95_ms=None if worst is None else worst.latency_p95_ms,
            quota=tuple(budget.windows),
            told_left=budget.told_left,
            throttled_until_ns=budget.closed_until_ns,
            quota_error=budget.error,
            last_error=max(errors, key=_at_ns, default=None),
            capabilities=tuple(rows),
        )

    def _capability_stats(self, name: str, capability: Capability, choice: Choice) -> CapabilityStats:
        circuit = self.circuit(name, capability)
        health = circuit.health
        state: CapabilityState = "available"
        if circuit.barred is not None:
            state = "not_entitled"
        elif self.budget(name).closed_s > 0:
            state = "throttled"
        elif circuit.breaker.state != "closed":
            state = circuit.breaker.state
        why = choice.reasons[name]
        return CapabilityStats(
            capability=capability,
            state=state,
            reason=None if state == "available" else why,
            chosen=choice.chosen == name,
            why=why,
            health_score=circuit.score,
            error_ewma=health.error_ewma,
            parts=circuit.parts,
            latency_p50_ms=health.latency_ms(0.5),
            latency_p95_ms=health.latency_ms(0.95),
            last_error=circuit.last_error,
        )


def _at_ns(error: LastError) -> int:
    return error.at_ns
