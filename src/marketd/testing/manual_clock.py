"""A clock that a test owns: time moves when `advance` says so, and sleepers wake in order of their deadlines."""

from __future__ import annotations

import asyncio
import heapq
import itertools

__all__ = ["ManualClock"]


class ManualClock:
    """Implements `marketd.clock.Clock`. time_ns: where the wall clock starts; the monotonic one starts at 0."""

    def __init__(self, time_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = time_ns
        self._elapsed_ns = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        return self._start_ns + self._elapsed_ns

    def monotonic_ns(self) -> int:
        return self._elapsed_ns

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_ns + round(seconds * 1e9), next(self._order), waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Move time on by `seconds`; each sleeper wakes at its own deadline and runs until it waits again."""
        target_ns = self._elapsed_ns + round(seconds * 1e9)
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= target_ns:
            self._elapsed_ns = max(self._elapsed_ns, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._elapsed_ns:
                waiter = heapq.heappop(self._sleepers)[2]
                if not waiter.done():
                    waiter.set_result(None)
            await self._settle()
        self._elapsed_ns = target_ns
        await self._settle()

    @staticmethod
    async def _settle() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
