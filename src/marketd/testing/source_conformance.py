"""The contract of `marketd.sources.contract.Source`, sentence by sentence, as tests any provider can inherit.

A provider's own test is only a fixture: subclass `SourceConformance`, name the class ``Test…`` and write `make`,
which yields a `SourceHarness`. Every test runs over the bare source and over the source wrapped in each fault,
because whatever reads a source must not be able to tell a faulty provider from a correct one by its manners.

    class TestMyProvider(SourceConformance):
        @asynccontextmanager
        async def make(self):
            async with my_provider_simulator() as server:
                yield SourceHarness(source=MySource(server.url), symbols=("A", "B"), drive=server.tick_all)

It needs at least two symbols that tick about as often as each other. A finite source should hold a few hundred rows
of each and not say them all at once, so that a fault which loses rows leaves some. Nothing here sleeps and hopes: with
a `ManualClock` the suite moves time itself, with any other clock it waits for the condition, and every wait has a
deadline.

A new sentence in the contract is a new test here, and every provider is held to it at once.
"""

from __future__ import annotations

import asyncio
import gc
from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest

from marketd.clock import Clock, SystemClock
from marketd.faults import FaultConfig, FaultySource
from marketd.model import (
    BOOK,
    LAST,
    TRADE,
    Connected,
    Disconnected,
    Ended,
    Quarantined,
    Quote,
    SourceEvent,
    TickBatch,
    Trade,
    parse_ns,
)
from marketd.sources.contract import Capabilities, Source, Subscriptions
from marketd.testing.manual_clock import ManualClock

__all__ = ["FAULTS", "SourceConformance", "SourceHarness"]

FAULTS: dict[str, FaultConfig | None] = {
    "none": None,
    "delay": FaultConfig(enabled=True, delay_probability=0.5, delay_ms_range=(5, 30)),
    "duplicate": FaultConfig(enabled=True, duplicate_probability=0.5),
    "out_of_order": FaultConfig(enabled=True, out_of_order_probability=0.5, out_of_order_offset_ms=50),
    "stale_window": FaultConfig(enabled=True, stale_window_probability=0.05, stale_window_duration_ms=(10, 40)),
    "drop": FaultConfig(enabled=True, drop_probability=0.3),
    "disconnect": FaultConfig(enabled=True, disconnect_probability=0.03, disconnect_duration_ms=(10, 40)),
    "all_together": FaultConfig(
        enabled=True,
        delay_probability=0.2,
        delay_ms_range=(5, 30),
        duplicate_probability=0.2,
        out_of_order_probability=0.2,
        out_of_order_offset_ms=50,
        stale_window_probability=0.02,
        stale_window_duration_ms=(10, 40),
        drop_probability=0.1,
        disconnect_probability=0.02,
        disconnect_duration_ms=(10, 40),
    ),
}
"""What each source is wrapped in, by name; durations are short so that a suite on the machine's clock is too."""

_COLUMNS = {
    "symbol_index": np.int32,
    "flags": np.uint8,
    "time_event_ns": np.int64,
    "time_received_ns": np.int64,
    "bid": np.float64,
    "ask": np.float64,
    "bid_size": np.float64,
    "ask_size": np.float64,
    "last": np.float64,
    "last_size": np.float64,
    "volume": np.float64,
}
_EARLIEST_NS = parse_ns("1970-01-02")
_LATEST_NS = parse_ns("2200-01-01")
_TOLERANCE_NS = 60_000_000_000


@dataclass(kw_only=True)
class SourceHarness:
    """One fresh source and what the suite may do to it.

    source: built, not yet streaming. symbols: at least two it knows, each of which ticks. clock: the one the
    source was given. unknown_symbol: one it must refuse, or None if it cannot know. drive: makes the far end say
    something, called again and again while the suite waits. disconnect: makes the far end hang up once, so that a
    later connection works. finite: it ends by itself, with `Ended`. recorded_receive_times: rows carry the receive
    times of a recording, not of `clock`. crossed_allowed: bid above ask may come. step_s: how far a `ManualClock`
    is moved at a time. deadline_s: longest wait for anything, on the machine's clock.
    """

    source: Source
    symbols: Sequence[str]
    clock: Clock = field(default_factory=SystemClock)
    unknown_symbol: str | None = None
    drive: Callable[[], Awaitable[None]] | None = None
    disconnect: Callable[[], Awaitable[None]] | None = None
    finite: bool = False
    recorded_receive_times: bool = False
    crossed_allowed: bool = False
    step_s: float = 0.005
    deadline_s: float = 20.0


def _symbols_of(event: SourceEvent) -> list[str]:
    """Symbols of the rows of one event, a name a row; none for what is not a tick."""
    if isinstance(event, TickBatch):
        positions = event.symbol_index.tolist()
        assert all(0 <= p < len(event.symbols) for p in positions), "symbol_index out of range"
        return [event.symbols[p] for p in positions]
    return [event.symbol] if isinstance(event, Quote | Trade) else []


class _Listener:
    """Reads a source in a task of its own and keeps what came, batch by batch."""

    def __init__(self, harness: SourceHarness, source: Source, wanted: Subscriptions) -> None:
        self.harness = harness
        self.batches: list[Sequence[SourceEvent]] = []
        self.ticks: Counter[str] = Counter()
        self._progress = asyncio.Event()
        self._started_ns = harness.clock.time_ns()
        self._stream = source.stream(wanted)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        await _aclose(self._stream)
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    async def _read(self) -> None:
        try:
            async for events in self._stream:
                self.batches.append(tuple(events))
                for event in events:
                    self.ticks.update(_symbols_of(event))
                self._progress.set()
        finally:
            self._progress.set()

    @property
    def events(self) -> list[SourceEvent]:
        return [event for batch in self.batches for event in batch]

    @property
    def finished(self) -> bool:
        return self._task is not None and self._task.done()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let time pass and the far end speak until `condition`; fail with `what` after the deadline."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.harness.deadline_s
        while not condition():
            if self.finished:
                assert self._task is not None
                self._task.result()
                assert condition(), f"the stream ended before: {what}; saw {self._seen()}"
                return
            assert loop.time() < deadline, f"waited {self.harness.deadline_s} s for: {what}; saw {self._seen()}"
            self._progress.clear()
            if self.harness.drive is not None:
                await self.harness.drive()
            if isinstance(self.harness.clock, ManualClock):
                await self.harness.clock.advance(self.harness.step_s)
            else:
                try:
                    await asyncio.wait_for(self._progress.wait(), 0.02)
                except TimeoutError:
                    continue

    async def until_ticks(self, symbols: Sequence[str], count: int, what: str) -> None:
        """Wait until each of `symbols` has ticked `count` more times."""
        goal = {symbol: self.ticks[symbol] + count for symbol in symbols}
        await self.until(lambda: all(self.ticks[s] >= n for s, n in goal.items()), what)

    def _seen(self) -> str:
        kinds = Counter(type(event).__name__ for event in self.events)
        return f"{dict(kinds)}, ticks {dict(self.ticks)}"

    def check(self) -> None:
        """Everything that holds for any stream at any moment."""
        _check_connection_order(self.events)
        _check_times(self.events, self.harness, self._started_ns)
        for event in self.events:
            _check_event(event, self.harness)


async def _aclose(stream: AsyncIterator[Any]) -> None:
    close: Callable[[], Awaitable[None]] | None = getattr(stream, "aclose", None)
    assert close is not None, "stream() must return something with aclose(), as an async generator has"
    await close()


def _check_connection_order(events: Sequence[SourceEvent]) -> None:
    up = False
    for position, event in enumerate(events):
        assert not (position and isinstance(events[position - 1], Ended)), f"{event} came after Ended"
        if isinstance(event, Connected):
            assert not up, "Connected came twice without a Disconnected between"
            up = True
        elif isinstance(event, Disconnected):
            assert event.reason, "a Disconnected must say why"
            up = False
        elif _symbols_of(event):
            assert up, f"a tick came while not connected, at event {position}"


def _check_times(events: Sequence[SourceEvent], harness: SourceHarness, started_ns: int) -> None:
    received = [
        event.time_received_ns if isinstance(event, TickBatch) else np.array([event.time_received_ns], np.int64)
        for event in events
        if isinstance(event, TickBatch | Quote | Trade)
    ]
    if not received:
        return
    joined = np.concatenate(received)
    assert (np.diff(joined) >= 0).all(), "receive times of ticks went back"
    if not harness.recorded_receive_times:
        now_ns = harness.clock.time_ns()
        assert joined[0] >= started_ns - _TOLERANCE_NS, "a tick was received before the stream was opened"
        assert joined[-1] <= now_ns + _TOLERANCE_NS, "a tick was received in the future"


def _check_event(event: SourceEvent, harness: SourceHarness) -> None:
    name = harness.source.name
    assert event.source == name, f"source is {event.source!r}, the source's name is {name!r}"
    match event:
        case TickBatch():
            _check_rows(event, harness)
        case Quote() | Trade():
            for stamp in (event.time_event_ns, event.time_received_ns):
                assert type(stamp) is int, f"times are int nanoseconds, not {stamp!r}"
            prices = {"bid", "ask", "bid_size", "ask_size", "last", "volume", "price", "size"}
            for column in prices.intersection(event.__struct_fields__):
                value = getattr(event, column)
                assert value is None or not np.isnan(value), f"{column} is NaN; in a single value absent is None"
            _check_rows(TickBatch.from_events([event]), harness)
        case Quarantined():
            assert event.reason, "a Quarantined must give a reason"
            assert event.detail, "a Quarantined must show what was refused"
            assert type(event.time_received_ns) is int
        case _:
            assert type(event.time_received_ns) is int


def _check_rows(batch: TickBatch, harness: SourceHarness) -> None:
    rows = len(batch)
    assert rows, "an empty batch says nothing and must not be sent"
    for column, dtype in _COLUMNS.items():
        values = getattr(batch, column)
        assert values.dtype == dtype, f"{column} is {values.dtype}, not {np.dtype(dtype)}"
        assert values.shape == (rows,), f"{column} has shape {values.shape}, the batch has {rows} rows"
    if batch.trade_id is not None:
        assert batch.trade_id.dtype == np.int64
        assert batch.trade_id.shape == (rows,)
    assert isinstance(batch.symbols, tuple)
    assert len(set(batch.symbols)) == len(batch.symbols), "a name occurs twice in symbols"

    flags = batch.flags
    assert ((flags & ~np.uint8(BOOK | LAST | TRADE)) == 0).all(), "a flag that is none of BOOK, LAST, TRADE"
    assert (flags != 0).all(), "a row that states nothing"
    trade, last, book = (flags & TRADE) != 0, (flags & LAST) != 0, (flags & BOOK) != 0
    assert (last | ~trade).all(), "a TRADE row states the last price, so it is LAST too"
    assert not np.isnan(batch.last[last]).any(), "a LAST row without a last price"
    for column in ("bid", "ask", "last"):
        values = getattr(batch, column)
        stated = values[~np.isnan(values)]
        assert np.isfinite(stated).all(), f"{column} is infinite"
        assert (stated > 0).all(), f"{column} is not positive"
    for column in ("bid_size", "ask_size", "last_size", "volume"):
        values = getattr(batch, column)
        stated = values[~np.isnan(values)]
        assert np.isfinite(stated).all(), f"{column} is infinite"
        assert (stated >= 0).all(), f"{column} is negative"
    if not harness.crossed_allowed:
        both = book & ~np.isnan(batch.bid) & ~np.isnan(batch.ask)
        assert (batch.bid[both] <= batch.ask[both]).all(), "bid above ask"

    for column in ("time_event_ns", "time_received_ns"):
        stamps = getattr(batch, column)
        assert (stamps > _EARLIEST_NS).all(), f"{column} is not nanoseconds since 1970"
        assert (stamps < _LATEST_NS).all(), f"{column} is not nanoseconds since 1970"


class SourceConformance:
    """Tests that every source passes, bare and in each fault. Subclasses write `make`."""

    @abstractmethod
    def make(self) -> AbstractAsyncContextManager[SourceHarness]:
        """A fresh source with whatever it needs running, released on exit. Called once a test."""

    @pytest.fixture(params=list(FAULTS))
    def fault(self, request: pytest.FixtureRequest) -> str:
        """Name of the fault that the source of this test is wrapped in."""
        name: str = request.param
        return name

    @asynccontextmanager
    async def _made(self, fault: str) -> AsyncIterator[tuple[SourceHarness, Source]]:
        async with self.make() as harness:
            assert len(harness.symbols) >= 2, "the suite needs two symbols"
            faults = FAULTS[fault]
            if faults is None:
                yield harness, harness.source
            else:
                yield harness, FaultySource(harness.source, faults, seed=7, clock=harness.clock)

    def _run(self, body: Coroutine[Any, Any, None]) -> None:
        asyncio.run(body)
        gc.collect()  # what was not closed warns now, in the test that left it open

    def test_it_is_a_source_with_a_stable_lower_case_name(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                assert isinstance(source, Source)
                assert isinstance(source.capabilities, Capabilities)
                before = source.name
                assert before, "the name is empty"
                assert before == before.lower().strip(), f"the name {before!r} is not lower case"
                async with _Listener(harness, source, Subscriptions(harness.symbols)) as heard:
                    await heard.until_ticks(harness.symbols[:1], 1, "a tick")
                assert source.name == before, "the name changed"

        self._run(body())

    def test_connected_comes_first_and_rows_are_well_formed(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                async with _Listener(harness, source, Subscriptions(harness.symbols)) as heard:
                    await heard.until_ticks(harness.symbols, 3, "three ticks of each symbol")
                kinds = [type(event) for event in heard.events]
                ticks = [i for i, event in enumerate(heard.events) if _symbols_of(event)]
                assert Connected in kinds[: ticks[0]], "no Connected before the first tick"
                heard.check()

        self._run(body())

    def test_only_wanted_symbols_come(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                wanted, *others = harness.symbols
                async with _Listener(harness, source, Subscriptions([wanted])) as heard:
                    await heard.until_ticks([wanted], 5, f"five ticks of {wanted}")
                assert set(heard.ticks) == {wanted}, f"{others} were not asked for"
                heard.check()

        self._run(body())

    def test_a_symbol_added_while_running_starts(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                first, second = harness.symbols[:2]
                wanted = Subscriptions([first])
                async with _Listener(harness, source, wanted) as heard:
                    await heard.until_ticks([first], 1, f"a tick of {first}")
                    assert heard.ticks[second] == 0, f"{second} was not asked for"
                    wanted.add([second])
                    await heard.until_ticks([second], 2, f"two ticks of {second}, added while running")
                heard.check()

        self._run(body())

    def test_nothing_wanted_is_silence_until_something_is(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                wanted = Subscriptions()
                async with _Listener(harness, source, wanted) as heard:
                    for _ in range(5):
                        if isinstance(harness.clock, ManualClock):
                            await harness.clock.advance(harness.step_s)
                        else:
                            await asyncio.sleep(0)
                    assert not heard.ticks, "ticks came that nobody asked for"
                    assert not heard.finished, "the stream ended although nothing had been asked of it"
                    wanted.add(harness.symbols[:1])
                    await heard.until_ticks(harness.symbols[:1], 1, "a tick of the first symbol ever wanted")
                heard.check()

        self._run(body())

    def test_a_removed_symbol_falls_silent_after_at_most_one_batch(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                stays, goes = harness.symbols[:2]
                wanted = Subscriptions([stays, goes])
                async with _Listener(harness, source, wanted) as heard:
                    await heard.until_ticks([stays, goes], 1, "a tick of both")
                    wanted.discard([goes])
                    in_flight = len(heard.batches)
                    await heard.until_ticks([stays], 5, f"five ticks of {stays}, still wanted")
                later = [symbol for batch in heard.batches[in_flight + 1 :] for e in batch for symbol in _symbols_of(e)]
                assert set(later) <= {stays}, f"{goes} was removed and went on"
                heard.check()

        self._run(body())

    def test_a_symbol_wanted_again_comes_again(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                stays, returns = harness.symbols[:2]
                wanted = Subscriptions([stays, returns])
                async with _Listener(harness, source, wanted) as heard:
                    await heard.until_ticks([stays, returns], 1, "a tick of both")
                    wanted.discard([returns])
                    await heard.until_ticks([stays], 2, f"two ticks of {stays} alone")
                    wanted.add([returns])
                    await heard.until_ticks([returns], 2, f"two ticks of {returns}, wanted again")
                heard.check()

        self._run(body())

    def test_an_unknown_symbol_is_quarantined_and_the_others_go_on(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                unknown = harness.unknown_symbol
                if unknown is None:
                    pytest.skip(f"{harness.source.name} cannot tell an unknown symbol from a silent one")
                async with _Listener(harness, source, Subscriptions([unknown, *harness.symbols])) as heard:
                    await heard.until_ticks(harness.symbols, 2, "two ticks of each known symbol")
                    await heard.until(
                        lambda: any(isinstance(e, Quarantined) and e.symbol == unknown for e in heard.events),
                        f"a Quarantined that names {unknown}",
                    )
                refused = [e for e in heard.events if isinstance(e, Quarantined) and e.symbol == unknown]
                assert [e.reason for e in refused] == ["unknown_symbol"], (
                    f"refused as {refused}, not once as unknown_symbol"
                )
                assert heard.ticks[unknown] == 0, f"{unknown} was refused and ticked"
                heard.check()

        self._run(body())

    def test_a_lost_connection_is_an_event_and_ticks_come_again(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                faults = FAULTS[fault]
                if harness.disconnect is None and not (faults and faults.disconnect_probability):
                    pytest.skip(f"{harness.source.name} has no connection to lose")
                async with _Listener(harness, source, Subscriptions(harness.symbols)) as heard:
                    await heard.until_ticks(harness.symbols[:1], 1, "a tick")
                    if harness.disconnect is not None:
                        await harness.disconnect()
                    await heard.until(lambda: _phases(heard.events) >= 3, "Disconnected, then Connected, then a tick")
                heard.check()

        self._run(body())

    def test_ended_is_the_last_event(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                if not harness.finite:
                    pytest.skip(f"{harness.source.name} goes on for ever")
                async with _Listener(harness, source, Subscriptions(harness.symbols)) as heard:
                    await heard.until(lambda: heard.finished, "the end of the stream")
                ended = [i for i, event in enumerate(heard.events) if isinstance(event, Ended)]
                assert ended == [len(heard.events) - 1], (
                    f"Ended at {ended} of {len(heard.events)} events, not once, last"
                )
                assert heard.ticks, "the stream ended without a tick"
                heard.check()

        self._run(body())

    def test_closing_the_iterator_releases_everything(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                before = asyncio.all_tasks()
                stream = source.stream(Subscriptions(harness.symbols))

                async def first_tick() -> None:
                    async for events in stream:
                        if any(_symbols_of(event) for event in events):
                            return

                await self._finish(asyncio.create_task(first_tick()), harness)
                await _aclose(stream)
                await _no_new_tasks(before)
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)

        self._run(body())

    def test_cancelling_the_reader_releases_everything(self, fault: str) -> None:
        async def body() -> None:
            async with self._made(fault) as (harness, source):
                before = asyncio.all_tasks()
                async with _Listener(harness, source, Subscriptions(harness.symbols)) as heard:
                    await heard.until_ticks(harness.symbols[:1], 1, "a tick")
                await _no_new_tasks(before)

        self._run(body())

    @staticmethod
    async def _finish(task: asyncio.Task[None], harness: SourceHarness) -> None:
        deadline = asyncio.get_running_loop().time() + harness.deadline_s
        while not task.done():
            assert asyncio.get_running_loop().time() < deadline, f"no tick within {harness.deadline_s} s"
            if harness.drive is not None:
                await harness.drive()
            if isinstance(harness.clock, ManualClock):
                await harness.clock.advance(harness.step_s)
            else:
                await asyncio.wait({task}, timeout=0.02)
        task.result()


def _phases(events: Sequence[SourceEvent]) -> int:
    """How many of Disconnected, Connected, a tick have come in this order."""
    reached = 0
    for event in events:
        expected = (Disconnected, Connected, TickBatch | Quote | Trade)
        if reached < 3 and isinstance(event, expected[reached]):
            reached += 1
    return reached


async def _no_new_tasks(before: set[asyncio.Task[Any]]) -> None:
    """What was cancelled may need a few turns of the loop to be gone; what was leaked stays."""
    for _ in range(20):
        if asyncio.all_tasks() <= before:
            return
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    assert not left, f"tasks left behind: {left}"
