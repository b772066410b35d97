"""The door for fetched and imported bars: checked as a whole, then durable, then told.

Live bars have `bar_writer`; both end in the same store. Nothing else writes bars.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.clock import Clock
from marketd.ingest.bar_checks import BarContext, CheckedBars, check_bars
from marketd.ingest.history import KeptBars
from marketd.model import Interval, Quarantined, starts_of
from marketd.store.contract import BarStore
from marketd.telemetry import Metrics

__all__ = ["ContextOf", "HistoryWriter"]

ContextOf = Callable[[str, Interval, int, int], BarContext]
"""(symbol, interval, first ts, last ts, ns) → what the checks may know of these bars. Called in a thread."""

_QUARANTINED_MAX = 1_000


class HistoryWriter:
    """note: called on the loop with (provider, what was found) of each batch, before it is durable. stored: called on
    the loop with (interval, end of the newest bar, ns) after it is. turn: see `BarWriter`."""

    def __init__(
        self,
        store: BarStore,
        clock: Clock,
        metrics: Metrics,
        *,
        context_of: ContextOf,
        note: Callable[[str, CheckedBars], None],
        stored: Callable[[Interval, int], None],
        turn: threading.Lock | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._context_of = context_of
        self._note = note
        self._stored = stored
        self._turn = turn or threading.Lock()
        # A thread of its own: a large batch must not keep live bars waiting for a turn.
        self._thread = ThreadPoolExecutor(1, "history-writer")

    async def keep(self, provider: str, bars: pa.Table) -> KeptBars:
        """See `marketd.ingest.history.KeepBars`."""
        loop = asyncio.get_running_loop()
        checked = await loop.run_in_executor(self._thread, self._checked, bars)
        good = pa.concat_tables([part.good for part, _ in checked]) if checked else bars.slice(0, 0)
        versions = 0
        if good.num_rows:
            began_ns = self._clock.monotonic_ns()
            versions = await loop.run_in_executor(self._thread, self._append, good)
            self._metrics.write_batch_ms.observe((self._clock.monotonic_ns() - began_ns) / 1e6)
            for interval, rows, end_ns in _told(good):
                self._metrics.bars_stored.labels(interval.name).inc(rows)
                self._stored(interval, end_ns)
        refused: dict[str, int] = {}
        quarantined: list[Quarantined] = []
        places: list[int] = []
        for part, order in checked:
            self._note(provider, part)
            for reason, count in part.refused.items():
                refused[reason] = refused.get(reason, 0) + count
                self._metrics.bars_quarantined.labels(provider, reason).inc(count)
            room = _QUARANTINED_MAX - len(quarantined)
            quarantined += part.quarantined(provider, self._clock.time_ns(), room, order) if room else ()
            places += order[np.flatnonzero(part.reasons)[:room]].tolist()
        return KeptBars(
            received=bars.num_rows,
            accepted=good.num_rows,
            new_versions=versions,
            refused=refused,
            quarantined=tuple(quarantined),
            quarantined_rows=tuple(places),
        )

    def _append(self, bars: pa.Table) -> int:
        with self._turn:
            return self._store.append(bars)

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _checked(self, bars: pa.Table) -> list[tuple[CheckedBars, npt.NDArray[np.intp]]]:
        """Each symbol and interval with its own context, and where its rows stood in the batch."""
        names = [bars[column].combine_chunks().dictionary_encode() for column in ("symbol", "interval")]
        symbols, intervals = ([str(word) for word in column.dictionary.to_pylist()] for column in names)
        codes = names[0].indices.to_numpy().astype(np.int64) * max(len(intervals), 1) + names[1].indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0]) if len(order) else order
        sorted_bars = bars if len(starts) <= 1 else bars.take(order)
        parts = []
        for start, end in itertools.pairwise([*starts.tolist(), len(order)]):
            part = sorted_bars.slice(start, end - start)
            symbol, name = divmod(int(codes[order[start]]), len(intervals))
            ts = starts_of(part)
            context = self._context_of(symbols[symbol], Interval.parse(intervals[name]), int(ts.min()), int(ts.max()))
            parts.append((check_bars(part, context), order[start:end]))
        return parts


def _told(bars: pa.Table) -> list[tuple[Interval, int, int]]:
    """Of each interval: how many rows, and where the newest bar ends."""
    found = []
    for name in _words(bars, "interval"):
        interval = Interval.parse(name)
        ts = starts_of(bars.filter(pc.equal(bars["interval"], pa.scalar(name))))
        found.append((interval, len(ts), int(ts.max()) + interval.ns))
    return found


def _words(bars: pa.Table, column: str) -> list[str]:
    return [word for word in pc.unique(bars[column]).to_pylist() if word is not None]
