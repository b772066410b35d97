"""The same question asked by many at the same time goes out once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

__all__ = ["Flights"]

T = TypeVar("T")


class Flights:
    """Questions under way, by key. Whoever asks one again shares the answer, or the error."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def join(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to `ask`, or to the same that is under way. It ends early when all who wait for it are gone."""
        flight = self._flights.get(key)
        if flight is None:
            flight = _Flight(asyncio.create_task(ask()))
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiting += 1
        try:
            answer: T = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                self._drop(key, flight.task)
        return answer

    def _landed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._drop(key, task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any longer

    def _drop(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


class _Flight:
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiting = 0
