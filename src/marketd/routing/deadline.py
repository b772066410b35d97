"""Waiting for an answer, but not longer than so many seconds on a clock that a test can own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from marketd.clock import Clock

__all__ = ["Deadlines"]

T = TypeVar("T")


class Deadlines:
    """Keeps what was given up until it has ended, since it may take its time to be cancelled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._given_up: set[asyncio.Future[Any]] = set()

    async def within(self, asked: Awaitable[T], seconds: float) -> T:
        """The answer. Raises TimeoutError; what was asked is cancelled then, and not waited for."""
        task = asyncio.ensure_future(asked)
        timer = asyncio.create_task(self._clock.sleep(seconds))
        both: set[asyncio.Future[Any]] = {task, timer}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise TimeoutError
        finally:
            timer.cancel()
            if not task.done():
                task.cancel()
                self._given_up.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # seen: who asked was told that it was too late

    async def close(self) -> None:
        """Wait for what was given up to end."""
        await asyncio.gather(*self._given_up, return_exceptions=True)
