"""Hands the newest quotes to a log every few seconds, off the loop. A log that fails loses rows, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.errors import StoreError
from marketd.fanout.latest import LatestQuote, LatestTable

__all__ = ["QuoteLog", "QuoteLogger"]

_logger = logging.getLogger(__name__)


class QuoteLog(Protocol):
    """Calls block, and are made by one thread at a time."""

    def write(self, quotes: Sequence[LatestQuote]) -> int:
        """Keep them; returns how many rows that made. Raises StoreError."""
        ...

    def close(self) -> None: ...


class QuoteLogger:
    """Owns the log. error: the last failure, None since it worked again."""

    def __init__(self, latest: LatestTable, log: QuoteLog, seconds: float, clock: Clock) -> None:
        self._latest = latest
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._written_seq = np.zeros(0, np.int64)
        self._thread = ThreadPoolExecutor(1, "quote-log")
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="quote-log")

    async def stop(self) -> None:
        """What has changed since the last time is written before it returns."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._write()
        self._thread.shutdown(wait=True)
        self._log.close()

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._seconds)
            await self._write()

    async def _write(self) -> None:
        changed = self._changed()
        if not len(changed):
            return
        rows = self._latest.rows(changed.tolist())
        seq = self._latest.seq[changed]
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._log.write, rows)
        except StoreError as error:
            if self.error is None:
                _logger.error("quotes are not logged: %s", error)  # noqa: TRY400 - it says all
            self.error = str(error)
            return
        self.error = None
        self._written_seq[changed] = seq

    def _changed(self) -> npt.NDArray[np.intp]:
        known = self._latest.known()
        size = len(self._latest.seq)
        if len(self._written_seq) < size:
            self._written_seq = np.append(self._written_seq, np.zeros(size - len(self._written_seq), np.int64))
        changed: npt.NDArray[np.intp] = known[self._latest.seq[known] != self._written_seq[known]]
        return changed
