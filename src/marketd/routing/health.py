"""How one capability of one provider has been doing: errors, latency, completeness, and the score made of them.

    score = 0.45 × breaker + 0.25 × latency + 0.20 × (1 − error EWMA) + 0.10 × completeness

- breaker: 1 closed, 0.5 half-open, 0 open.
- latency: 1 up to `latency_good_ms` of median, 0 from `latency_bad_ms`, between them by the logarithm: twice as slow
  costs the same everywhere. 1 while nothing was measured.
- error EWMA: of the calls, the newest with `call_weight`; it halves every `error_half_life_s` by itself.
- completeness: EWMA of received over expected; what is missing is forgotten in the same way, more slowly.

Reads a clock, asks nobody. What counts as an error is not decided here (`verdict.kind_of`).
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

from marketd.clock import Clock
from marketd.model.time import NS_PER_S
from marketd.routing.breaker import BreakerState
from marketd.routing.config import HealthConfig

__all__ = ["Health", "Parts", "score_of"]

_BREAKER = {"closed": 1.0, "half_open": 0.5, "open": 0.0}


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a score is made of, each from 0 (bad) to 1. errors: 1 − error EWMA."""

    breaker: float
    latency: float
    errors: float
    completeness: float


def score_of(parts: Parts) -> float:
    """From 0 to 1. An open circuit alone keeps it at 0.55 or less."""
    # exact in decimal: 0.55 must not become 0.5500000000000001, which would be above 0.55
    total = 0.45 * parts.breaker + 0.25 * parts.latency + 0.20 * parts.errors + 0.10 * parts.completeness
    return round(total, 9)


class Health:
    """Begins healthy: nothing is known against it."""

    def __init__(self, config: HealthConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._errors = _Fading(clock, config.call_weight, config.error_half_life_s)
        self._missing = _Fading(clock, config.call_weight, config.completeness_half_life_s)
        self._latency: deque[tuple[int, float]] = deque(maxlen=config.latency_calls)
        self._sorted: list[float] | None = None

    def configure(self, config: HealthConfig) -> None:
        """Take up other settings; what was measured stays."""
        self._config = config
        self._errors.configure(config.call_weight, config.error_half_life_s)
        self._missing.configure(config.call_weight, config.completeness_half_life_s)
        self._latency = deque(self._latency, maxlen=config.latency_calls)
        self._sorted = None

    def called(self, *, is_failure: bool) -> None:
        """A call ended."""
        self._errors.add(1.0 if is_failure else 0.0)

    def took(self, latency_s: float) -> None:
        """An answer took so long, or was not waited for any longer."""
        self._latency.append((self._clock.monotonic_ns(), max(0.0, latency_s) * 1e3))
        self._sorted = None

    def completed(self, expected: int, got: int) -> None:
        """Of so many that were expected so many came. Nothing expected says nothing."""
        if expected > 0:
            self._missing.add(1.0 - min(max(got, 0) / expected, 1.0))

    @property
    def error_ewma(self) -> float:
        return self._errors.value

    @property
    def calls(self) -> float:
        """How many calls the error EWMA knows of; old ones fade."""
        return self._errors.count

    @property
    def completeness(self) -> float:
        return 1.0 - self._missing.value

    def latency_ms(self, quantile: float) -> float | None:
        """Of the calls in the window (nearest rank); None without any."""
        oldest_ns = self._clock.monotonic_ns() - round(self._config.latency_s * NS_PER_S)
        while self._latency and self._latency[0][0] < oldest_ns:
            self._latency.popleft()
            self._sorted = None
        if not self._latency:
            return None
        if self._sorted is None:
            self._sorted = sorted(ms for _, ms in self._latency)
        return self._sorted[max(0, math.ceil(quantile * len(self._sorted)) - 1)]

    @property
    def latency_part(self) -> float:
        median_ms = self.latency_ms(0.5)
        good_ms, bad_ms = self._config.latency_good_ms, self._config.latency_bad_ms
        if median_ms is None or median_ms <= good_ms:
            return 1.0
        return max(0.0, 1.0 - math.log(median_ms / good_ms) / math.log(bad_ms / good_ms))

    def parts(self, state: BreakerState) -> Parts:
        return Parts(
            breaker=_BREAKER[state],
            latency=self.latency_part,
            errors=1.0 - self.error_ewma,
            completeness=self.completeness,
        )


class _Fading:
    """An EWMA over calls that also goes to 0 with time."""

    def __init__(self, clock: Clock, weight: float, half_life_s: float) -> None:
        self._clock = clock
        self._weight = weight
        self._half_life_s = half_life_s
        self._value = 0.0
        self._count = 0.0
        self._at_ns = clock.monotonic_ns()

    def configure(self, weight: float, half_life_s: float) -> None:
        self._fade()
        self._weight, self._half_life_s = weight, half_life_s

    def _fade(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns > self._at_ns:
            left = 0.5 ** ((now_ns - self._at_ns) / NS_PER_S / self._half_life_s)
            self._value *= left
            self._count *= left
            self._at_ns = now_ns

    def add(self, value: float) -> None:
        self._fade()
        self._value += self._weight * (value - self._value)
        self._count += 1.0

    @property
    def value(self) -> float:
        self._fade()
        return self._value

    @property
    def count(self) -> float:
        self._fade()
        return self._count
