"""Closed bars to the store, and only then to subscribers: what was announced as final survives a crash.

While the store fails the bars wait in memory, are retried, and `/health` says so. The wait is bounded: the
oldest bars are given up with an error in the log when there are more than `bars_waiting_max`.

A minute that was watched in part and that the provider has answered meanwhile is neither stored nor announced: what was
fetched is all of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketd.clock import Clock
from marketd.errors import StoreError
from marketd.ingest.bars import BarBatch
from marketd.model import Interval
from marketd.store.contract import BarStore
from marketd.telemetry import Metrics

__all__ = ["BarWriter"]

_logger = logging.getLogger(__name__)

_MINUTE = Interval.parse("1m")
_BARS_WAITING_MAX = 2_000_000
_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


class BarWriter:
    """keep: whether bars of a batch are stored (others are only published). publish: called once it is durable. turn:
    shared with the `HistoryWriter`, so that nothing is fetched between looking for it and storing the provisional."""

    def __init__(
        self,
        store: BarStore,
        clock: Clock,
        metrics: Metrics,
        *,
        keep: Callable[[BarBatch], bool],
        publish: Callable[[BarBatch], None],
        turn: threading.Lock | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._keep = keep
        self._publish = publish
        self._turn = turn or threading.Lock()
        self._waiting: deque[BarBatch] = deque()
        self._writing: list[BarBatch] = []
        self._thread = ThreadPoolExecutor(1, "bar-writer")
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.waiting = 0
        self.error: str | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="bar-writer")

    def put(self, batches: list[BarBatch]) -> None:
        """Take closed or corrected bars."""
        if not batches:
            return
        for batch in batches:
            self._waiting.append(batch)
            self.waiting += len(batch)
        while self.waiting > _BARS_WAITING_MAX and len(self._waiting) > 1:
            lost = self._waiting.popleft()
            self.waiting -= len(lost)
            _logger.error("gave up %d bars of %s: the store has been failing for too long", len(lost), lost.interval)
        self._arrived.set()

    def not_durable(self) -> list[BarBatch]:
        """Bars that were closed and are not in the store yet, oldest first."""
        return [*self._writing, *self._waiting]

    async def stop(self, timeout_s: float) -> None:
        """Write what waits, for at most `timeout_s`."""
        self._stopping = True
        self._arrived.set()
        if self._task is None:
            return
        done, _ = await asyncio.wait({self._task}, timeout=timeout_s)
        if not done:
            _logger.error("stopped with %d bars that could not be stored: %s", self.waiting, self.error)
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                self._writing = list(self._waiting)
                self._waiting.clear()
                taken = sum(map(len, self._writing))
                is_kept = [self._keep(batch) for batch in self._writing]
                kept = iter(await self._append([b for b, keep in zip(self._writing, is_kept, strict=True) if keep]))
                written = [next(kept) if keep else b for b, keep in zip(self._writing, is_kept, strict=True)]
                self._writing = []
                self.waiting -= taken
                for batch in filter(len, written):
                    try:
                        self._publish(batch)
                    except Exception:
                        _logger.exception("a defect in publishing bars; they are stored, and it goes on")
            if self._stopping:
                return

    async def _append(self, batches: list[BarBatch]) -> list[BarBatch]:
        """Durable when it returns, however often that has to be tried; the batches with the rows that were stored."""
        if not batches:
            return batches
        loop = asyncio.get_running_loop()
        as_of_ns = self._clock.time_ns()
        count = sum(map(len, batches))
        attempt = 0
        while True:
            began_ns = self._clock.monotonic_ns()
            try:
                batches = await loop.run_in_executor(self._thread, self._stored, batches, as_of_ns)
            except StoreError as error:
                self.error = str(error)
                _logger.error("could not store %d bars, trying again: %s", count, error)  # noqa: TRY400 - it says all
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                _logger.exception("a defect in storing %d bars, trying again", count)
            else:
                break
            self._metrics.store_errors.inc()
            await self._clock.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1
        self.error = None
        self._metrics.store_append_seconds.observe((self._clock.monotonic_ns() - began_ns) / 1e9)
        for batch in batches:
            self._metrics.bars_stored.labels(batch.interval.name).inc(len(batch))
        return batches

    def _stored(self, batches: list[BarBatch], as_of_ns: int) -> list[BarBatch]:
        provisional = any(batch.interval is _MINUTE and "provisional" in batch.status for batch in batches)
        with self._turn if provisional else nullcontext():
            if provisional:
                batches = self._unanswered(batches)
            table = pa.concat_tables([batch.table(as_of_ns) for batch in batches])
            if table.num_rows:
                self._store.append(table)
        return batches

    def _unanswered(self, batches: list[BarBatch]) -> list[BarBatch]:
        """Without provisional minutes that their provider was asked for meanwhile."""
        found = []
        for batch in batches:
            rows = np.flatnonzero([status == "provisional" for status in batch.status])
            if batch.interval is not _MINUTE or not len(rows):
                found.append(batch)
                continue
            names, starts = batch.symbols, batch.records.bucket
            answered: set[tuple[str, int]] = set()
            for ts_ns in np.unique(starts[rows]).tolist():
                asked = [names[row] for row in rows[starts[rows] == ts_ns].tolist()]
                there = self._store.cross_section(
                    _MINUTE, ts_ns, side=batch.side, symbols=asked, prefer=(batch.provider,)
                )
                is_own = pc.equal(there["provider"], pa.scalar(batch.provider))
                fetched = pc.and_(is_own, pc.equal(there["status"], pa.scalar("backfill")))
                answered.update((str(symbol), int(ts_ns)) for symbol in there.filter(fetched)["symbol"].to_pylist())
            stays = np.ones(len(batch), np.bool_)
            stays[rows] = [(names[row], int(starts[row])) not in answered for row in rows.tolist()]
            found.append(batch if stays.all() else batch.take(np.flatnonzero(stays)))
        return found
