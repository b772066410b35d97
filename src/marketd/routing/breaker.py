"""The circuit of one capability of one provider: closed, open, half-open. Reads a clock, asks nobody.

    closed ──(failures in a row, or the error EWMA)──> open ──(its time is over)──> half-open
       ^                                                 ^                             │ │
       │                                                 └──────(a failure)────────────┘ │
       └──────────────────────(a success, or nobody asked for open_max_s)────────────────┘

Half-open lets one call through at a time: the probe. What is a failure is not decided here (`verdict.kind_of`).
"""

from __future__ import annotations

from typing import Literal

from marketd.clock import Clock
from marketd.model.time import NS_PER_S
from marketd.routing.config import BreakerConfig

__all__ = ["Breaker", "BreakerState"]

BreakerState = Literal["closed", "half_open", "open"]


class Breaker:
    """Begins closed. Each call that `take` allowed ends with `succeeded`, `failed` or `released`."""

    def __init__(self, config: BreakerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._failures = 0
        self._opened = 0
        """Times it opened since it was last closed for long: decides for how long the next time."""
        self._until_ns: int | None = None
        """When it may half-open; None while closed."""
        self._closed_ns = clock.monotonic_ns()
        self._probe_ns: int | None = None

    def configure(self, config: BreakerConfig) -> None:
        """Take up other settings; the state stays."""
        self._config = config

    @property
    def state(self) -> BreakerState:
        if self._until_ns is None:
            return "closed"
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._until_ns:
            return "open"
        idle_ns = now_ns - max(self._until_ns, self._probe_ns or self._until_ns)
        if idle_ns >= round(self._config.open_max_s * NS_PER_S):
            # Nobody needed it. What is that old says little, but one failure more is enough to open it again.
            self._close(now_ns)
            self._failures = self._config.failures - 1
            return "closed"
        return "half_open"

    @property
    def open_s(self) -> float:
        """For how long it stays open, seconds; 0 if it is not."""
        if self._until_ns is None:
            return 0.0
        return max(0.0, (self._until_ns - self._clock.monotonic_ns()) / NS_PER_S)

    @property
    def has_turn(self) -> bool:
        """Whether `take` would allow a call."""
        state = self.state
        return state == "closed" or (state == "half_open" and not self._is_probing())

    def _is_probing(self) -> bool:
        if self._probe_ns is None:
            return False
        return self._clock.monotonic_ns() - self._probe_ns < round(self._config.probe_s * NS_PER_S)

    def take(self) -> bool:
        """Whether a call may be made now. In half-open the call is the probe."""
        if not self.has_turn:
            return False
        if self.state == "half_open":
            self._probe_ns = self._clock.monotonic_ns()
        return True

    def released(self) -> None:
        """A call ended without saying anything of the provider (cancelled, not allowed by the quota)."""
        self._probe_ns = None

    def succeeded(self) -> None:
        """The provider answered. While it is open (a call that began before) this is the end of waiting, no more."""
        state = self.state
        self._probe_ns = None
        if state == "open":
            self._until_ns = self._clock.monotonic_ns()
        elif state == "half_open":
            self._close(self._clock.monotonic_ns())
        self._failures = 0

    def failed(self, error_ewma: float = 0.0, calls: float = 0.0, retry_after_s: float | None = None) -> None:
        """The provider failed. error_ewma, calls: of its health, this call included. retry_after_s: if it opens, then
        for at least so long (of up to a day)."""
        state = self.state
        self._probe_ns = None
        if state == "open":
            return  # a call that began before
        self._failures += 1
        config = self._config
        often = calls >= config.calls_min and error_ewma >= config.error_rate
        if state == "half_open" or self._failures >= config.failures or often:
            self._open(retry_after_s)

    def _open(self, retry_after_s: float | None) -> None:
        now_ns = self._clock.monotonic_ns()
        config = self._config
        if self._until_ns is None and now_ns - self._closed_ns >= round(config.open_max_s * NS_PER_S):
            self._opened = 0
        open_s = min(config.open_first_s * 2.0 ** min(self._opened, 64), config.open_max_s)
        if retry_after_s is not None:
            open_s = max(open_s, min(retry_after_s, 86_400.0))
        self._opened += 1
        self._failures = 0
        self._until_ns = now_ns + round(open_s * NS_PER_S)

    def _close(self, now_ns: int) -> None:
        self._until_ns = None
        self._probe_ns = None
        self._closed_ns = now_ns
