"""The one way to read time and to wait, so that a test can own both.

Times are integer nanoseconds since the Unix epoch, UTC. ``monotonic_ns`` is for durations only.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Reads time and waits. Implementations: `SystemClock`, `marketd.testing.ManualClock`."""

    def time_ns(self) -> int:
        """Wall-clock time, nanoseconds since the Unix epoch, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds on a clock that never goes back; its zero means nothing."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` on this clock; at once (but after a turn of the loop) if not positive."""
        ...


class SystemClock:
    """The machine's clocks and asyncio's timer."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0, seconds))
