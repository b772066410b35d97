"""What the simulator remembers: bars, and the last tick, by request.

From its first tick on, a symbol's past is what the stream said: the walk's ticks, made again. Before it, and for a
symbol that was never streamed, it is `past.Past`, which follows from the seed alone.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import BAR_SCHEMA, Interval, Quote
from marketd.model.time import NS_PER_MS
from marketd.sources.simulator.config import SimulatorConfig
from marketd.sources.simulator.feed import CAPABILITIES, NAME
from marketd.sources.simulator.past import FIRST_NS, MINUTE, Past, Rows, concatenated, rolled
from marketd.sources.simulator.walk import Run, Stretch, Walk, book

__all__ = ["SimulatorHistory"]

_CHUNK = 8_192
"""Ticks that are made at once; the state is kept as often."""
_PAGE_NS = (1 << 17) * MINUTE.ns


class SimulatorHistory:
    """Implements `BarHistory`. walk: that of the stream, None while there is none."""

    def __init__(self, config: SimulatorConfig, clock: Clock, walk: Callable[[], Walk | None]) -> None:
        self._config = config
        self._clock = clock
        self._walk = walk
        self._pasts: dict[str, Past] = {}
        self._marks: dict[tuple[str, Run], list[Run]] = {}
        self._lock = threading.Lock()

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. The same whenever it is asked; a minute without a tick is absent. `vwap` and `trades`
        are told. Raises OutOfRange for a span before 2000."""
        past = self._past(symbol)
        if interval.name not in CAPABILITIES.bars:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(CAPABILITIES.bars)}")
        if end_ns <= FIRST_NS:
            raise OutOfRange(NAME, "tells nothing of the time before 2000")
        now_ns = self._clock.time_ns()
        start_ns = interval.ceil(max(start_ns, FIRST_NS))
        end_ns = min(interval.ceil(end_ns), interval.floor(now_ns))
        if start_ns >= end_ns:
            return BAR_SCHEMA.empty_table()
        walk, runs = self._runs(symbol, now_ns)
        first_ns = MINUTE.floor(runs[0].due_ns) if runs else end_ns

        def parts() -> Iterator[Rows]:
            until_ns = min(first_ns, end_ns)
            for page_ns in range(start_ns, until_ns, _PAGE_NS):
                yield rolled(past.bars(page_ns, min(page_ns + _PAGE_NS, until_ns)), interval)
            from_ns = max(start_ns, first_ns)
            for run in runs:
                for ticks in self._stretches(walk, symbol, run, from_ns, end_ns - 1):
                    first, stop = np.searchsorted(ticks.time_event_ns, [from_ns, end_ns]).tolist()
                    yield rolled(_as_rows(ticks, slice(first, stop)), MINUTE)

        rows = await asyncio.to_thread(lambda: _joined(list(parts()), interval))
        return _table(rows, symbol, interval, self._clock.time_ns())

    async def last(self, symbol: str) -> Quote:
        """Of its last tick by now. Raises SymbolNotFound."""
        past = self._past(symbol)
        now_ns = self._clock.time_ns()
        walk, runs = self._runs(symbol, now_ns)
        return await asyncio.to_thread(self._last, symbol, past, walk, runs, now_ns)

    def _past(self, symbol: str) -> Past:
        if symbol not in self._config.symbols:
            raise SymbolNotFound(NAME, f"{symbol!r} is not among the {len(self._config.symbols)} simulated symbols")
        found = self._pasts.get(symbol)
        if found is None:
            found = self._pasts[symbol] = Past(self._config, symbol)
        return found

    def _runs(self, symbol: str, now_ns: int) -> tuple[Walk | None, Sequence[Run]]:
        """Those in which there was a tick; what they are by now."""
        walk = self._walk()
        if walk is None:
            return None, ()
        runs = [run if run.last_ns is not None else run._replace(last_ns=now_ns) for run in walk.runs(symbol)]
        return walk, [run for run in runs if run.last_ns is not None and run.due_ns <= run.last_ns]

    def _stretches(self, walk: Walk | None, symbol: str, run: Run, start_ns: int, last_ns: int) -> Iterator[Stretch]:
        """Ticks of a run up to `last_ns`, a piece at a time, from a place not long before `start_ns`."""
        if walk is None or run.last_ns is None:
            return
        last_ns = min(last_ns, run.last_ns)
        beginning = run._replace(last_ns=None)
        with self._lock:
            marks = self._marks.setdefault((symbol, beginning), [beginning])
            place = max(bisect_right(marks, start_ns, key=lambda mark: mark.due_ns) - 1, 0)
            mark = marks[place]
        interval_ns = self._config.symbols[symbol].tick_interval_ms * NS_PER_MS
        while mark.due_ns <= last_ns:
            count = min(_CHUNK, (last_ns - mark.due_ns) // interval_ns + 1)
            ticks = walk.stretch(symbol, mark, count)
            happened = int(np.searchsorted(ticks.time_event_ns, last_ns, side="right"))
            yield ticks if happened == count else ticks.head(happened)
            mark, place = ticks.after, place + 1
            if count == _CHUNK:
                with self._lock:
                    if place == len(marks):
                        marks.append(mark)

    def _last(self, symbol: str, past: Past, walk: Walk | None, runs: Sequence[Run], now_ns: int) -> Quote:
        volume: float | None = None
        if runs and runs[-1].last_ns is not None:
            *_, ticks = self._stretches(walk, symbol, runs[-1], runs[-1].last_ns, runs[-1].last_ns)
            columns = (ticks.time_event_ns, ticks.price, ticks.bid_size, ticks.ask_size, ticks.volume)
            time_ns, price, bid_size, ask_size, volume = (column[-1].item() for column in columns)
        else:
            time_ns, price, bid_size, ask_size = past.last_tick(now_ns)
        bid, ask = book(price, self._config.spread_bp)
        return Quote(
            symbol=symbol,
            time_event_ns=time_ns,
            time_received_ns=now_ns,
            source=NAME,
            bid=float(bid),
            ask=float(ask),
            bid_size=bid_size,
            ask_size=ask_size,
            last=price,
            volume=volume,
        )


def _as_rows(ticks: Stretch, taken: slice) -> Rows:
    """A bar of its own for each tick."""
    time_ns, price, size = ticks.time_event_ns[taken], ticks.price[taken], ticks.last_size[taken]
    return Rows(time_ns, price, price, price, price, size, price * size, np.ones(len(time_ns), np.int64))


def _joined(parts: list[Rows], interval: Interval) -> Rows:
    rows = concatenated([Rows.empty(), *parts])
    order = np.argsort(rows.ts, kind="stable")  # the clock may have been set back between two runs
    return rolled(rows.take(order), interval)


def _table(rows: Rows, symbol: str, interval: Interval, as_of_ns: int) -> pa.Table:
    count, stamp = len(rows.ts), BAR_SCHEMA.field("ts").type
    return pa.Table.from_pydict(
        {
            "symbol": pa.repeat(symbol, count),
            "interval": pa.repeat(interval.name, count),
            "side": pa.repeat("trade", count),
            "ts": pa.array(rows.ts).cast(stamp),
            "open": pa.array(rows.open),
            "high": pa.array(rows.high),
            "low": pa.array(rows.low),
            "close": pa.array(rows.close),
            "volume": pa.array(rows.volume),
            "vwap": pa.array(rows.notional / rows.volume),
            "trades": pa.array(rows.trades),
            "provider": pa.repeat(NAME, count),
            "status": pa.repeat("backfill", count),
            "as_of": pa.array(np.full(count, as_of_ns)).cast(stamp),
        },
        BAR_SCHEMA,
    )
