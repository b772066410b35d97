"""Latest values to the quote cache, a few times a second and many at a time.

A tick only marks its symbol; what is written is the newest value at the time of writing. So nothing queues: while the
cache fails, symbols stay marked, the writer tries again, longer and longer apart, and says so in `state`. A cache that
comes back may be empty, and one that was emptied says nothing: all symbols are written again after a failure, and
once a minute. When writing takes more than a tenth of the time, it is done less often, down to once a second. What it
refuses: to hold up the pipeline, and to write a value that is no longer the newest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Literal

import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.errors import InvalidInput, StoreError
from marketd.fanout.latest import LatestTable
from marketd.model.time import NS_PER_S
from marketd.sources.reconnect import ReconnectPolicy
from marketd.store.quotes import CachedQuote, QuoteCache
from marketd.telemetry import Metrics

__all__ = ["CacheWriter"]

_logger = logging.getLogger(__name__)

_Ids = npt.NDArray[np.intp]

_BATCH_ROWS = 500
"""One round trip each, and about a millisecond of encoding: the event loop has other work."""
_REFRESH_S = 60.0
_SHARE = 0.1
_SPREAD_S_MAX = 1.0
_RETRY = ReconnectPolicy(delay_first_s=0.1, delay_max_s=5.0, jitter=0.2)


class CacheWriter:
    """latest: whose values are written. interval_ms: least time between writes; in between, values replace one another.

    Owns the cache and closes it. Give `mark` to the pipeline. Raises InvalidInput (interval_ms).
    """

    def __init__(
        self,
        latest: LatestTable,
        cache: QuoteCache,
        clock: Clock,
        *,
        interval_ms: float = 100,
        metrics: Metrics | None = None,
        retry: ReconnectPolicy = _RETRY,
    ) -> None:
        if not interval_ms > 0:
            raise InvalidInput("interval_ms", interval_ms, "milliseconds above 0")
        self._latest = latest
        self._cache = cache
        self._clock = clock
        self._interval_s = interval_ms / 1e3
        self._metrics = metrics or Metrics()
        self._retry = retry
        self._rng = random.Random()
        self._failures = 0
        self._is_dirty = np.zeros(64, np.bool_)
        self._writing: _Ids = np.empty(0, np.intp)
        self._task: asyncio.Task[None] | None = None
        self.error: str | None = None

    @property
    def state(self) -> Literal["ok", "failing"]:
        """failing: the last write failed, and `error` says how."""
        return "ok" if self.error is None else "failing"

    @property
    def waiting(self) -> int:
        """Symbols whose newest value is not in the cache yet."""
        return int(np.count_nonzero(self._is_dirty) + np.count_nonzero(~self._is_dirty[self._writing]))

    def mark(self, changed: _Ids) -> None:
        """The latest values of these symbol numbers are news."""
        room = len(self._is_dirty)
        if len(self._latest.symbols) > room:
            grown = np.zeros(max(len(self._latest.symbols), 2 * room), np.bool_)
            grown[:room] = self._is_dirty
            self._is_dirty = grown
        self._is_dirty[changed] = True

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="cache-writer")

    async def stop(self, timeout_s: float = 1.0) -> None:
        """Write what is marked, for at most `timeout_s`, and close the cache. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                await self._write_marked()
        except StoreError as error:
            self.error = str(error)
        except TimeoutError:
            self.error = f"no answer within {timeout_s:g} s"
        finally:
            await self._cache.close()
        if self.waiting:
            _logger.error("stopped with %d quotes that could not be cached: %s", self.waiting, self.error)

    async def _run(self) -> None:
        refreshed_ns = self._clock.monotonic_ns()
        spread_s = 0.0
        while True:
            delay_s = self._retry.delay_s(self._failures - 1, self._rng) if self._failures else spread_s
            await self._clock.sleep(max(delay_s, self._interval_s))
            now_ns = self._clock.monotonic_ns()
            if now_ns - refreshed_ns >= _REFRESH_S * NS_PER_S:
                refreshed_ns = now_ns
                self.mark(self._latest.known())
            try:
                await self._write_marked()
            except StoreError as error:
                self._failed(str(error))
            except Exception as error:
                _logger.exception("a defect in writing the quote cache; it goes on")
                self._failed(f"{type(error).__name__}: {error}")
            took_s = (self._clock.monotonic_ns() - now_ns) / NS_PER_S
            spread_s = min(took_s * (1 - _SHARE) / _SHARE, _SPREAD_S_MAX)

    def _failed(self, error: str) -> None:
        if self.error is None:
            _logger.warning("the quote cache fails, trying again: %s", error)
        self.error = error
        self._failures += 1
        self._metrics.cache_errors.inc()

    async def _write_marked(self) -> None:
        marked = np.flatnonzero(self._is_dirty)
        for start in range(0, len(marked), _BATCH_ROWS):
            self._writing = marked[start : start + _BATCH_ROWS]
            quotes = self._newest(self._writing)
            self._is_dirty[self._writing] = False
            try:
                await self._cache.put(quotes)
            except BaseException:  # a cancelled write is as unsure as a failed one
                self._is_dirty[self._writing] = True
                raise
            finally:
                self._writing = self._writing[:0]
            if self.error is not None:
                _logger.warning("the quote cache works again")
                self.error = None
                self._failures = 0
                self.mark(self._latest.known())

    def _newest(self, ids: _Ids) -> list[CachedQuote]:
        latest, now_ns = self._latest, self._clock.time_ns()
        bid, ask, last = latest.bid[ids], latest.ask[ids], latest.last[ids]
        price = np.where(np.isnan(last), (bid + ask) / 2, last)
        columns = (_absent_as_none(column) for column in (price, bid, ask, latest.volume[ids]))
        return [
            CachedQuote(
                symbol=latest.symbols.names[number],
                price=price_,
                bid=bid_,
                ask=ask_,
                volume=volume,
                time_event_ns=event_ns,
                time_cached_ns=now_ns,
            )
            for number, event_ns, price_, bid_, ask_, volume in zip(
                ids.tolist(), latest.time_event_ns(ids).tolist(), *columns, strict=True
            )
        ]


def _absent_as_none(column: npt.NDArray[np.float64]) -> list[float | None]:
    values: list[float | None] = column.tolist()
    for row in np.flatnonzero(np.isnan(column)).tolist():
        values[row] = None
    return values
