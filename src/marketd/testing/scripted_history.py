"""A provider's memory that a test has made up: the smallest whole implementation of `BarHistory`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import SourceUnavailable
from marketd.model import BAR_SCHEMA, Interval

__all__ = ["ScriptedHistory"]


class ScriptedHistory:
    """Has every bar since `start_ns`, but for `holes` (starts) and where `is_open` says no; prices count up with time.

    The close of a bar is the number of its interval since the Unix epoch modulo 1000, plus 100; open is 1 below, low 2
    below, high 1 above; the volume is 10. down: while true, every request raises SourceUnavailable. failures: what the
    next requests raise, one each. asked: the requests, oldest first. delay_s: how long an answer takes on the clock.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "scripted",
        start_ns: int | None = None,
        holes: Iterable[int] = (),
        is_open: Callable[[int], bool] | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.name = name
        self.down = False
        self.failures: deque[Exception] = deque()
        self.asked: list[tuple[str, str, int, int]] = []
        self.delay_s = delay_s
        self._clock = clock
        self._start_ns = start_ns
        self._holes = np.array(sorted(holes), np.int64)
        self._is_open = is_open

    def history_start_ns(self, symbol: str, interval: Interval) -> int | None:  # noqa: ARG002 - the same for all
        return self._start_ns

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`."""
        self.asked.append((symbol, interval.name, start_ns, end_ns))
        await self._clock.sleep(self.delay_s)
        if self.failures:
            raise self.failures.popleft()
        if self.down:
            raise SourceUnavailable(self.name, "is down")
        end_ns = min(interval.ceil(end_ns), interval.floor(self._clock.time_ns()))
        starts = interval.starts(max(start_ns, self._start_ns or 0), end_ns)
        starts = starts[~np.isin(starts, self._holes)]
        if self._is_open is not None:
            starts = starts[np.array([self._is_open(start) for start in starts.tolist()], np.bool_)]
        count = len(starts)
        close = 100.0 + starts // interval.ns % 1_000
        times = pa.array(starts).cast(BAR_SCHEMA.field("ts").type)
        columns = {
            "symbol": pa.repeat(symbol, count),
            "interval": pa.repeat(interval.name, count),
            "side": pa.repeat("trade", count),
            "ts": times,
            "open": pa.array(close - 1),
            "high": pa.array(close + 1),
            "low": pa.array(close - 2),
            "close": pa.array(close),
            "volume": pa.repeat(10.0, count),
            "vwap": pa.nulls(count, pa.float64()),
            "trades": pa.nulls(count, pa.int64()),
            "provider": pa.repeat(self.name, count),
            "status": pa.repeat("backfill", count),
            "as_of": pa.array(np.full(count, self._clock.time_ns())).cast(BAR_SCHEMA.field("as_of").type),
        }
        return pa.table(columns, schema=BAR_SCHEMA)
