"""Requests to OpenD: one connection shared by all of them, with the provider's limits, retries and metrics.

The connection is made with the first request and made again when it was lost. What `sources.http` is for providers
that speak HTTP, this is here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TypeVar

import msgspec

from marketd.clock import Clock
from marketd.errors import SourceError, SourceUnavailable, Throttled
from marketd.model.time import NS_PER_S
from marketd.sources.contract import Limit
from marketd.sources.futu.config import FutuConfig
from marketd.sources.futu.connection import Connection
from marketd.sources.futu.parse import NAME
from marketd.sources.http import PRIORITY, RequestBudget
from marketd.telemetry import Metrics

__all__ = ["LIMITS", "Requests"]

T = TypeVar("T", bound=msgspec.Struct)

LIMITS: tuple[Limit, ...] = (
    Limit(count=60, seconds=30.0, endpoint="snapshot"),
    Limit(count=60, seconds=30.0, endpoint="history"),
    Limit(count=60, seconds=30.0, endpoint="rehab"),
    Limit(count=60, seconds=30.0, endpoint="option_expiries"),
    Limit(count=10, seconds=30.0, endpoint="option_chain"),
    Limit(count=10, seconds=30.0, endpoint="market_state"),
)
"""As documented. Of a history's pages the first alone counts: the others go by the label `history_page`."""

_MARGIN_S = 0.5
"""Requests may take this much longer on their way than others: OpenD counts them when they come."""


class Requests:
    """budget: the quota shared with the rest of the server; without it `LIMITS` are kept here."""

    def __init__(
        self,
        config: FutuConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._budget = budget
        self._metrics = metrics
        self._rng = rng or random.Random()
        self._windows = {} if budget is not None else {limit.endpoint: _Window(limit, clock) for limit in LIMITS}
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        """Close the connection. Idempotent; requests raise SourceUnavailable afterwards."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def ask(self, proto: int, c2s: msgspec.Struct, answer: type[T], what: str, endpoint: str) -> T:
        """The answer to one request. what: of what, in errors. endpoint: of `LIMITS`, and of metrics.

        Tries again what may be cured by it, within `FutuConfig.attempts`; a live request that shares a budget is tried
        once, since whoever routes it has others to ask. Raises what `Connection.ask` raises.
        """
        failures = 0
        while True:
            if self._budget is not None:
                await self._budget.take(endpoint, 1)
            elif (window := self._windows.get(endpoint)) is not None:
                await window.take()
            try:
                return await self._once(proto, c2s, answer, what, endpoint)
            except SourceUnavailable as error:
                routed = self._budget is not None and (isinstance(error, Throttled) or PRIORITY.get() == "live")
                if routed or self._closed or isinstance(error, Throttled) or failures + 1 >= self._config.attempts:
                    raise
                await self._clock.sleep(self._config.retry.delay_s(failures, self._rng))
                failures += 1

    async def _once(self, proto: int, c2s: msgspec.Struct, answer: type[T], what: str, endpoint: str) -> T:
        began_ns = self._clock.monotonic_ns()
        try:
            connection = await self._connected()
            return await connection.ask(proto, c2s, answer, what)
        except SourceError as error:
            if isinstance(error, Throttled) and self._budget is not None:
                self._budget.throttled(endpoint, error.retry_after_s)
            if self._metrics is not None:
                self._metrics.provider_errors.labels(NAME, endpoint, error.code).inc()
            raise
        finally:
            if self._metrics is not None:
                took_ms = (self._clock.monotonic_ns() - began_ns) / 1e6
                self._metrics.provider_latency.labels(NAME, endpoint).observe(took_ms)

    async def _connected(self) -> Connection:
        async with self._opening:
            if self._closed:
                raise SourceUnavailable(NAME, "the provider was closed")
            if self._connection is not None and self._connection.reason is not None:
                lost, self._connection = self._connection, None
                await lost.close()
            if self._connection is None:
                self._connection = await Connection.open(self._config, self._clock)
            return self._connection


class _Window:
    """At most `limit.count` in any `limit.seconds`: the n+1st comes more than that after the first, as documented."""

    def __init__(self, limit: Limit, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._taken: deque[int] = deque(maxlen=limit.count)

    async def take(self) -> None:
        """Return when it is the caller's turn, in the order of asking."""
        now_ns = self._clock.monotonic_ns()
        turn_ns = now_ns
        if len(self._taken) == self._limit.count:
            turn_ns = max(now_ns, self._taken[0] + round((self._limit.seconds + _MARGIN_S) * NS_PER_S))
        self._taken.append(turn_ns)
        if turn_ns > now_ns:
            await self._clock.sleep((turn_ns - now_ns) / NS_PER_S)
