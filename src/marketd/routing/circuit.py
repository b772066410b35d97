"""What is known of one capability of one provider: its circuit, its health, whether the key covers it."""

from __future__ import annotations

from collections.abc import Sequence

from marketd.clock import Clock
from marketd.errors import SourceError, SourceUnavailable
from marketd.model.time import NS_PER_S
from marketd.routing.breaker import Breaker
from marketd.routing.config import RoutingConfig
from marketd.routing.health import Health, Parts, score_of
from marketd.routing.stats import LastError
from marketd.routing.verdict import kind_of, redacted

__all__ = ["Circuit"]

_REFUSALS_MAX = 3
_REFUSED_MAX = 10_000


class Circuit:
    """Takes what calls end with and says what that amounts to.

    A refusal for want of entitlement bars the capability at once if the key has never worked for it, and after three
    different symbols in a row if it has: one that the plan does not cover must not cost all others. What was refused of
    a capability that works is not asked for again, until the key changes.
    """

    def __init__(self, config: RoutingConfig, clock: Clock) -> None:
        self._clock = clock
        self.breaker = Breaker(config.breaker, clock)
        self.health = Health(config.health, clock)
        self.last_error: LastError | None = None
        self.barred: str | None = None
        """Why the key does not cover it; None if it does, or nobody knows yet."""
        self._usable_above = config.usable_above
        self._is_proven = False
        self._refused: dict[str, str] = {}
        self._refusals = 0
        self._healthy_ns: int | None = clock.monotonic_ns()

    def configure(self, config: RoutingConfig) -> None:
        """Take up other settings; the state stays."""
        self._usable_above = config.usable_above
        self.breaker.configure(config.breaker)
        self.health.configure(config.health)

    def forgive(self) -> None:
        """The key changed: what the old one did not cover says nothing."""
        self.barred = None
        self._is_proven = False
        self._refused.clear()
        self._refusals = 0
        self.healthy_s(is_throttled=False)

    @property
    def parts(self) -> Parts:
        return self.health.parts(self.breaker.state)

    @property
    def score(self) -> float:
        return score_of(self.parts)

    def refusal_of(self, subject: str | None) -> str | None:
        """Why this symbol cannot be asked for with this key; None if it can."""
        if self.barred is not None:
            return self.barred
        return None if subject is None else self._refused.get(subject)

    def healthy_s(self, *, is_throttled: bool) -> float:
        """Since when it has been healthy, as far as it was looked at; 0 if it is not."""
        now_ns = self._clock.monotonic_ns()
        is_healthy = (
            not is_throttled
            and self.barred is None
            and self.breaker.state == "closed"
            and self.score > self._usable_above
        )
        if not is_healthy:
            self._healthy_ns = None
            return 0.0
        if self._healthy_ns is None:
            self._healthy_ns = now_ns
        return (now_ns - self._healthy_ns) / NS_PER_S

    def answered(self, latency_s: float | None) -> None:
        """It answered; latency_s: None if that is not known."""
        self._is_proven = True
        self._refusals = 0
        self.breaker.succeeded()
        self.health.called(is_failure=False)
        if latency_s is not None:
            self.health.took(latency_s)
        self.healthy_s(is_throttled=False)

    def failed(self, error: SourceError, latency_s: float | None, subjects: Sequence[str] = ()) -> None:
        """A call ended with an error. latency_s: None if it says nothing. subjects: the symbols that were asked for;
        none if it was not about symbols."""
        kind = kind_of(error)
        if kind == "answer":
            self.answered(latency_s)
            return
        self.last_error = LastError(code=error.code, reason=redacted(error.reason), at_ns=self._clock.time_ns())
        if kind == "throttled":
            self.breaker.released()
        elif kind == "not_entitled":
            self.breaker.released()
            self._refuse(error, subjects)
        else:
            self.health.called(is_failure=True)
            if latency_s is not None:
                self.health.took(latency_s)
            retry_after_s = error.retry_after_s if isinstance(error, SourceUnavailable) else None
            self.breaker.failed(self.health.error_ewma, self.health.calls, retry_after_s)
        self.healthy_s(is_throttled=kind == "throttled")

    def refused(self, subject: str, error: SourceError) -> None:
        """The key does not cover this symbol, though it covers others."""
        if len(self._refused) >= _REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[subject] = _words(error)

    def _refuse(self, error: SourceError, subjects: Sequence[str]) -> None:
        if subjects and self._is_proven:
            if subjects[0] not in self._refused:
                self._refusals += 1
            if len(subjects) == 1:
                self.refused(subjects[0], error)
            if self._refusals < _REFUSALS_MAX:
                return
        self.barred = _words(error)


def _words(error: SourceError) -> str:
    return f"not entitled: {redacted(error.reason)}"
