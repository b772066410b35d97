"""A provider for drills: the exchange's wire format on a real socket, in a thread of its own.

Its market trades by itself, also while its servers are down. What bars its candles must make is computed here from its
trades, one by one, with exact arithmetic.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Self

from marketd.clock import Clock, SystemClock
from marketd.testing.providers import CoinbaseSimulator

MINUTE_NS = 60 * 10**9
_STEP_S = 0.5

Values = tuple[float, float, float, float, float]
"""open, high, low, close, volume."""


class HurriedClock:
    """Implements `Clock`: runs so many times faster than the machine's."""

    def __init__(self, times: float) -> None:
        self.times = times
        self._began_ns = time.time_ns()
        self._zero_ns = time.monotonic_ns()

    def time_ns(self) -> int:
        return self._began_ns + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return round((time.monotonic_ns() - self._zero_ns) * self.times)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self.times)


def time_ns(text: str) -> int:
    """Of an RFC 3339 time in UTC that is exact to the microsecond."""
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return (int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond) * 1_000


class Exchange:
    """Use as a context. trades_per_minute: of each product, on average; a list for the products one by one."""

    def __init__(
        self,
        products: Sequence[str],
        *,
        trades_per_minute: float | Sequence[float] = 6.0,
        history_minutes: int = 0,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.products = tuple(products)
        self._clock: Clock = clock or SystemClock()
        rates = [trades_per_minute] * len(products) if isinstance(trades_per_minute, int | float) else trades_per_minute
        self._chances = [rate * _STEP_S / 60 for rate in rates]
        self._rng = random.Random(seed)
        self._simulator = CoinbaseSimulator(products, seed=seed, clock=clock, history_minutes=max(1, history_minutes))
        self._loop = asyncio.new_event_loop()
        self._ready: Future[None] = Future()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="exchange")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        async with self._simulator:
            trading = asyncio.create_task(self._trade())
            self._ready.set_result(None)
            await self._end.wait()
            trading.cancel()
            await asyncio.wait({trading})

    async def _trade(self) -> None:
        while True:
            for product, chance in zip(self.products, self._chances, strict=True):
                if self._rng.random() < chance:
                    self._simulator.trade(product)
            await self._clock.sleep(_STEP_S)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    # what a drill does to it and asks of it

    @property
    def settings(self) -> dict[str, Any]:
        """For `sources.coinbase` of a configuration."""
        return {
            "symbols": list(self.products),
            "rest_url": self._simulator.rest_url,
            "ws_url": self._simulator.ws_url,
        }

    def go_down(self) -> None:
        self._call(self._simulator.go_down())

    def come_back(self) -> None:
        self._call(self._simulator.come_back())

    def bars(self, product: str, start_ns: int, end_ns: int) -> dict[int, Values]:
        """Minutes with trades, by start."""

        async def rows() -> list[dict[str, Any]]:
            return self._simulator.trade_rows(product)

        found: dict[int, list[tuple[float, Fraction]]] = {}
        for row in self._call(rows()):
            minute_ns = time_ns(row["time"]) // MINUTE_NS * MINUTE_NS
            if start_ns <= minute_ns < end_ns:
                found.setdefault(minute_ns, []).append((float(row["price"]), Fraction(row["size"])))
        return {
            minute_ns: (
                trades[0][0],
                max(price for price, _ in trades),
                min(price for price, _ in trades),
                trades[-1][0],
                float(sum(size for _, size in trades)),
            )
            for minute_ns, trades in found.items()
        }
