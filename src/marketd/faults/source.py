"""A source with faults: the same contract, kept to the letter, around ticks that are late, twice, lost or misdated.

Receive times never go back: a tick that was held back is stamped with how long it was held, and what
follows it is stamped no earlier. What is held is let go before `Ended`, and by time even when the source is silent;
nothing comes between `Disconnected` and `Connected`. With nothing enabled, batches pass through untouched.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.faults.config import FaultConfig
from marketd.faults.injector import FaultInjector
from marketd.model import Connected, Disconnected, Ended, Quarantined, Quote, SourceEvent, TickBatch, Trade
from marketd.model.ticks import NO_TRADE_ID
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.sources.contract import Capabilities, Source, Subscriptions

__all__ = ["FaultySource"]

_I64 = npt.NDArray[np.int64]
_Tick = TickBatch | Quote | Trade


_TOGETHER_NS = 5 * NS_PER_MS
"""Held ticks that fall due this close together are let go together; one by one they would cost more than the rest."""


class _HeldTick(NamedTuple):
    """One tick that comes later. due_ns: when; since_ns: held since; both monotonic."""

    due_ns: int
    order: int
    since_ns: int
    tick: Quote | Trade


class _HeldRows:
    """Rows with the same symbols that come later, by `due_ns`. Their receive times count from when they were held."""

    def __init__(self, due_ns: _I64, since_ns: int, rows: TickBatch) -> None:
        self.due_ns = due_ns[:0]
        self.rows = rows.take(slice(0))
        self.add(due_ns, since_ns, rows)

    def add(self, due_ns: _I64, since_ns: int, rows: TickBatch) -> None:
        rows = rows.replace(time_received_ns=rows.time_received_ns - since_ns)
        due_ns = np.concatenate([self.due_ns, due_ns])
        by_due = np.argsort(due_ns, kind="stable")
        self.due_ns, self.rows = due_ns[by_due], _concatenated([self.rows, rows]).take(by_due)

    def take_until(self, due_ns: int, now_ns: int) -> tuple[_I64, TickBatch]:
        """Remove what is due by `due_ns`; it is received at `now_ns`."""
        count = int(np.searchsorted(self.due_ns, due_ns, side="right"))
        taken = self.due_ns[:count], self.rows.take(slice(count))
        self.due_ns, self.rows = self.due_ns[count:], self.rows.take(slice(count, None))
        return taken[0], taken[1].replace(time_received_ns=taken[1].time_received_ns + now_ns)

    def keep(self, wanted: frozenset[str]) -> None:
        keep = np.array([symbol in wanted for symbol in self.rows.symbols], np.bool_)[self.rows.symbol_index]
        self.due_ns, self.rows = self.due_ns[keep], self.rows.take(keep)


class FaultySource:
    """Any source, with faults. clock: the one the source has; delays and windows are measured on it.

    per_symbol: faults of some symbols instead of `faults`. seed: the same seed and the same ticks give the same
    faults. Used by one task, streamed once, as any source.
    """

    def __init__(
        self,
        source: Source,
        faults: FaultConfig,
        *,
        per_symbol: Mapping[str, FaultConfig] | None = None,
        seed: int = 0,
        clock: Clock,
    ) -> None:
        self._source = source
        self._clock = clock
        self._injector = FaultInjector(faults, per_symbol=per_symbol, seed=seed)
        self._held_rows: list[_HeldRows] = []
        self._held_ticks: list[_HeldTick] = []
        self._let_go_ns = -_TOGETHER_NS
        self._order = itertools.count()
        self._source_up = False
        self._seen_up = False
        self._received_floor_ns = 0

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def capabilities(self) -> Capabilities:
        return self._source.capabilities

    @property
    def counts(self) -> dict[str, int]:
        """How often each fault happened; see `FaultInjector`."""
        return self._injector.counts

    def set_faults(self, faults: FaultConfig | None, symbol: str | None = None) -> None:
        """Switch while running, for one symbol or for all without their own; None means none.

        Ticks that are held already keep their time.
        """
        self._injector.set_faults(faults, symbol)

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        inlet = _Inlet(self._source, wanted)
        alarm = _Alarm(self._clock, inlet.wake)
        version = wanted.version
        try:
            while True:
                await inlet.wake.wait()
                inlet.wake.clear()
                # Before anything is taken: what the source said up to here is older than what is let go now.
                over = inlet.over
                out = self._pass(inlet.take())
                if wanted.version != version:
                    version = wanted.version
                    self._forget_unwanted(frozenset(wanted.symbols))
                now_ns = self._clock.monotonic_ns()
                if self._source_up and not self._seen_up:
                    out = [*out, *self._reconnected(now_ns)]
                if self._seen_up and (due := self._let_go(now_ns, now_ns)):
                    out = [*out, *due]
                if over and (rest := self._let_go_of_all(now_ns)):
                    out = [*out, *rest]
                if out:
                    yield out
                if over:
                    inlet.result()
                    return
                await alarm.set(self._next_due_ns())
        finally:
            await alarm.close()
            await inlet.close()

    def _pass(self, events: Sequence[SourceEvent]) -> Sequence[SourceEvent]:
        """What comes of these events now; the very same object if that is all of them, unchanged."""
        out: list[SourceEvent] = []
        for event in events:
            match event:
                case TickBatch():
                    out += self._pass_batch(event)
                case Quote() | Trade():
                    out += self._pass_one(event)
                case Connected():
                    self._source_up = True
                    if not self._in_outage(self._clock.monotonic_ns()):
                        self._seen_up = True
                        out.append(event)
                case Disconnected():
                    self._source_up = False
                    if self._seen_up or not self._in_outage(self._clock.monotonic_ns()):
                        self._seen_up = False
                        out.append(event)
                case Ended():
                    out += self._let_go_of_all(self._clock.monotonic_ns())
                    out.append(event)
                case Quarantined():
                    out.append(event)
        untouched = len(out) == len(events) and all(a is b for a, b in zip(out, events, strict=True))
        return events if untouched else out

    def _in_outage(self, now_ns: int) -> bool:
        return self._injector.enabled and now_ns < self._injector.outage_until_ns

    def _pass_batch(self, batch: TickBatch) -> list[SourceEvent]:
        now_ns = self._clock.monotonic_ns()
        out: list[SourceEvent] = list(self._reconnected(now_ns))
        if not self._injector.enabled:
            return [*out, self._received_in_order(batch)]
        verdicts = self._injector.decide(batch.symbols, batch.symbol_index, now_ns)
        if verdicts.untouched:
            return [*out, self._received_in_order(batch)]
        rows = np.flatnonzero(~verdicts.lost)
        rows = np.repeat(rows, 1 + verdicts.duplicated[rows])
        delay_ns = verdicts.delay_ns[rows]
        late = rows[delay_ns > 0]
        if late.size:
            due_ns = now_ns + delay_ns[delay_ns > 0]
            self._hold_rows(due_ns, now_ns, _redated(batch, late, verdicts.earlier_ns))
        prompt = rows[delay_ns == 0]
        if prompt.size:
            out.append(self._received_in_order(_redated(batch, prompt, verdicts.earlier_ns)))
        if verdicts.disconnected:
            out.append(self._lost_connection())
        return out

    def _pass_one(self, tick: Quote | Trade) -> list[SourceEvent]:
        now_ns = self._clock.monotonic_ns()
        out: list[SourceEvent] = list(self._reconnected(now_ns))
        if not self._injector.enabled:
            return [*out, self._received_in_order(tick)]
        verdict = self._injector.decide_one(tick.symbol, now_ns)
        if not verdict.lost:
            if verdict.earlier_ns:
                tick = msgspec.structs.replace(tick, time_event_ns=tick.time_event_ns - verdict.earlier_ns)
            for _ in range(1 + verdict.duplicated):
                if verdict.delay_ns:
                    held = _HeldTick(now_ns + verdict.delay_ns, next(self._order), now_ns, tick)
                    heapq.heappush(self._held_ticks, held)
                else:
                    out.append(self._received_in_order(tick))
        if verdict.disconnected:
            out.append(self._lost_connection())
        return out

    def _lost_connection(self) -> Disconnected:
        self._seen_up = False
        return Disconnected(source=self.name, time_received_ns=self._clock.time_ns(), reason="injected fault")

    def _reconnected(self, now_ns: int) -> list[SourceEvent]:
        if self._seen_up or not self._source_up or self._in_outage(now_ns):
            return []
        self._seen_up = True
        return [Connected(source=self.name, time_received_ns=self._clock.time_ns())]

    def _hold_rows(self, due_ns: _I64, since_ns: int, rows: TickBatch) -> None:
        for held in self._held_rows:
            if held.rows.symbols is rows.symbols:
                held.add(due_ns, since_ns, rows)
                return
        self._held_rows.append(_HeldRows(due_ns, since_ns, rows))

    def _let_go(self, due_ns: int, now_ns: int) -> list[SourceEvent]:
        """What is held and due by `due_ns`, in the order it is due."""
        rows = [held.take_until(due_ns, now_ns) for held in self._held_rows if held.due_ns[0] <= due_ns]
        self._held_rows = [held for held in self._held_rows if len(held.due_ns)]
        ticks: list[_HeldTick] = []
        while self._held_ticks and self._held_ticks[0].due_ns <= due_ns:
            ticks.append(heapq.heappop(self._held_ticks))
        if not (rows or ticks):
            return []
        self._let_go_ns = now_ns
        return [self._received_in_order(tick, watched=True) for tick in _in_due_order(rows, ticks, now_ns)]

    def _let_go_of_all(self, now_ns: int) -> list[SourceEvent]:
        """The source has no more to say: what is held comes out now, after a last `Connected` if it takes one."""
        rest = self._let_go(np.iinfo(np.int64).max, now_ns)
        if not rest or self._seen_up:
            return rest
        self._seen_up = self._source_up = True
        return [Connected(source=self.name, time_received_ns=self._clock.time_ns()), *rest]

    def _next_due_ns(self) -> int | None:
        """When something happens without the source: a held tick is let go, or the outage ends."""
        if self._source_up and not self._seen_up:
            return self._injector.outage_until_ns
        due_ns = [int(held.due_ns[0]) for held in self._held_rows]
        if self._held_ticks:
            due_ns.append(self._held_ticks[0].due_ns)
        if not due_ns or not self._seen_up:
            return None
        return max(min(due_ns), self._let_go_ns + _TOGETHER_NS)

    def _received_in_order(self, ticks: _Tick, *, watched: bool = False) -> _Tick:
        """The ticks, received no earlier than those before; the same object if they were not."""
        floor_ns = self._received_floor_ns
        watched = watched or self._injector.enabled
        if not (floor_ns or watched):
            return ticks
        if isinstance(ticks, TickBatch):
            early = int(ticks.time_received_ns.min()) < floor_ns
            if early:
                ticks = ticks.replace(time_received_ns=np.maximum(ticks.time_received_ns, floor_ns))
            latest_ns = int(ticks.time_received_ns.max())
        else:
            early = ticks.time_received_ns < floor_ns
            if early:
                ticks = msgspec.structs.replace(ticks, time_received_ns=floor_ns)
            latest_ns = ticks.time_received_ns
        self._received_floor_ns = latest_ns if watched or early else 0
        return ticks

    def _forget_unwanted(self, wanted: frozenset[str]) -> None:
        """A removed symbol falls silent: what is held of it does not come any more."""
        for held in self._held_rows:
            held.keep(wanted)
        self._held_rows = [held for held in self._held_rows if len(held.due_ns)]
        self._held_ticks = [held for held in self._held_ticks if held.tick.symbol in wanted]
        heapq.heapify(self._held_ticks)


class _Inlet:
    """The source, read by one task of its own, one batch ahead and no more."""

    def __init__(self, source: Source, wanted: Subscriptions) -> None:
        self.wake = asyncio.Event()
        self._batch: Sequence[SourceEvent] | None = None
        self._taken = asyncio.Event()
        self._task = asyncio.create_task(self._read(source.stream(wanted)))

    async def _read(self, stream: AsyncIterator[Sequence[SourceEvent]]) -> None:
        try:
            async for events in stream:
                self._batch = events
                self._taken.clear()
                self.wake.set()
                await self._taken.wait()
        finally:
            close: Any = getattr(stream, "aclose", None)
            if close is not None:
                await close()
            self.wake.set()

    def take(self) -> Sequence[SourceEvent]:
        """The batch that came, if one did; the source goes on once it is taken."""
        batch, self._batch = self._batch, None
        self._taken.set()
        return batch or ()

    @property
    def over(self) -> bool:
        return self._task.done()

    def result(self) -> None:
        """Raise what the source raised."""
        self._task.result()

    async def close(self) -> None:
        await _cancelled(self._task)


class _Alarm:
    """Sets an event at a time, or a little after; at most one task."""

    def __init__(self, clock: Clock, wake: asyncio.Event) -> None:
        self._clock = clock
        self._wake = wake
        self._at_ns = 0
        self._task: asyncio.Task[None] | None = None

    async def set(self, at_ns: int | None) -> None:
        """Ring at `at_ns` (monotonic), unless it will earlier anyway; None asks for nothing."""
        if at_ns is None:
            return
        if self._task is not None and not self._task.done():
            if self._at_ns <= at_ns:
                return
            await _cancelled(self._task)
        self._at_ns = at_ns
        self._task = asyncio.create_task(self._ring())

    async def _ring(self) -> None:
        await self._clock.sleep((self._at_ns - self._clock.monotonic_ns()) / NS_PER_S)
        self._wake.set()

    async def close(self) -> None:
        if self._task is not None:
            await _cancelled(self._task)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it is gone; what it raised is its reader's to see."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _redated(batch: TickBatch, rows: npt.NDArray[np.intp], earlier_ns: _I64) -> TickBatch:
    taken = batch.take(rows)
    earlier_ns = earlier_ns[rows]
    return taken.replace(time_event_ns=taken.time_event_ns - earlier_ns) if earlier_ns.any() else taken


def _in_due_order(
    rows: Sequence[tuple[_I64, TickBatch]], ticks: Sequence[_HeldTick], now_ns: int
) -> Iterator[TickBatch | Quote | Trade]:
    """What was held, received at `now_ns`, in as few pieces as its order allows."""
    due_ns, joined, start = np.empty(0, np.int64), None, 0
    if rows:
        due_ns, joined = rows[0]
    if len(rows) > 1:
        due_ns = np.concatenate([piece[0] for piece in rows])
        by_due = np.argsort(due_ns, kind="stable")
        due_ns, joined = due_ns[by_due], _concatenated([piece[1] for piece in rows]).take(by_due)
    if joined is not None:
        joined = joined.replace(time_received_ns=np.maximum.accumulate(joined.time_received_ns))
    for held in ticks:
        stop = int(np.searchsorted(due_ns, held.due_ns, side="right"))
        if joined is not None and stop > start:
            yield joined.take(slice(start, stop))
            start = stop
        received_ns = held.tick.time_received_ns + now_ns - held.since_ns
        yield msgspec.structs.replace(held.tick, time_received_ns=received_ns)
    if joined is not None and start < len(joined):
        yield joined.take(slice(start, None))


def _concatenated(batches: Sequence[TickBatch]) -> TickBatch:
    first = batches[0]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in TickBatch.__slots__
        if name not in {"source", "symbols", "symbol_index", "trade_id"}
    }
    if all(batch.symbols is first.symbols for batch in batches):
        columns["symbol_index"] = np.concatenate([batch.symbol_index for batch in batches])
    else:
        position: dict[str, int] = {}
        columns["symbol_index"] = np.concatenate(
            [
                np.array([position.setdefault(s, len(position)) for s in batch.symbols], np.int32)[batch.symbol_index]
                for batch in batches
            ]
        )
        columns["symbols"] = tuple(position)
    if any(batch.trade_id is not None for batch in batches):
        columns["trade_id"] = np.concatenate(
            [np.full(len(b), NO_TRADE_ID, np.int64) if b.trade_id is None else b.trade_id for b in batches]
        )
    return first.replace(**columns)
