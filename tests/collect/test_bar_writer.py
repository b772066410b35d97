from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from marketd.collect import bar_writer
from marketd.collect.bar_writer import BarWriter
from marketd.collect.history_writer import HistoryWriter
from marketd.errors import StoreError
from marketd.ingest.bar_checks import BarContext
from marketd.ingest.bars import BarBatch, BarBuilder, _concatenate
from marketd.model import Interval, TickBatch, Trade
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.memory import MemoryStore
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

T0 = 1_772_461_800 * 10**9  # 2026-03-02T14:30:00Z
MINUTE = Interval.parse("1m")
FAR = T0 + 10**18


def closed(*prices: float, symbol: str = "A", interval: str = "1m") -> BarBatch:
    """Finished bars, one a price, of consecutive minutes."""
    builder = BarBuilder("s")
    for i, price in enumerate(prices):
        at = T0 + i * MINUTE.ns
        event = Trade(symbol=symbol, time_event_ns=at, time_received_ns=at, source="s", price=price)
        builder.add(TickBatch.from_events([event]))
    builder.advance(T0 + 10**15)
    parts = [b for b in builder.drain() if b.interval.name == interval]
    records = _concatenate([part.records for part in parts])
    return replace(parts[0], records=records, status=[status for part in parts for status in part.status])


def closes(batch: BarBatch) -> list[float]:
    return [bar.close for bar in batch.bars(0)]


def stored(store: MemoryStore | EmbeddedStore, symbol: str = "A") -> list[float]:
    return store.read(symbol, MINUTE, 0, FAR)["close"].to_pylist()


class Failing(MemoryStore):
    """Fails so often before it works."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.tables: list[pa.Table] = []

    def append(self, bars: pa.Table) -> int:
        self.tables.append(bars)
        if self.errors:
            raise self.errors.pop(0)
        return super().append(bars)


class Slow(MemoryStore):
    """Appends when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.let = threading.Event(), threading.Event()

    def append(self, bars: pa.Table) -> int:
        self.called.set()
        assert self.let.wait(10)
        return super().append(bars)


class Desk:
    def __init__(
        self, store: MemoryStore | EmbeddedStore, keep=lambda batch: batch.interval is MINUTE, turn=None
    ) -> None:
        self.store = store
        self.clock = ManualClock(T0)
        self.metrics = Metrics()
        self.published: list[tuple[list[float], list[float]]] = []
        """Closes of each published batch, and what the store had at that moment."""
        self.writer = BarWriter(store, self.clock, self.metrics, keep=keep, publish=self.publish, turn=turn)

    def publish(self, batch: BarBatch) -> None:
        self.published.append((closes(batch), stored(self.store)))

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


def test_bars_are_published_only_when_the_store_has_them(tmp_path: Path) -> None:
    async def body() -> None:
        clock = ManualClock(T0)
        store = EmbeddedStore(tmp_path, EmbeddedStoreConfig(), clock)
        desk = Desk(store)
        desk.writer.start()
        desk.writer.put([closed(1.0, 2.0)])
        assert desk.writer.waiting == 2
        await desk.until(lambda: desk.published)
        desk.writer.put([closed(1.0, 2.0, 3.0)])
        await desk.writer.stop(5)
        assert desk.published == [([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])]
        assert (desk.writer.waiting, desk.writer.error, desk.writer.not_durable()) == (0, None, [])
        assert desk.count("marketd_bars_stored_total", interval="1m") == 5
        assert desk.count("marketd_store_append_seconds_count") == 2
        store.close()
        reopened = EmbeddedStore(tmp_path, EmbeddedStoreConfig(), clock)
        assert stored(reopened) == [1.0, 2.0, 3.0]
        reopened.close()

    asyncio.run(body())


def test_while_the_store_works_nothing_is_published_and_all_of_it_is_not_durable() -> None:
    async def body() -> None:
        store = Slow()
        desk = Desk(store)
        desk.writer.start()
        first, second = closed(1.0), closed(5.0, symbol="B")
        desk.writer.put([first])
        await desk.until(store.called.is_set)
        desk.writer.put([second])
        await asyncio.sleep(0.02)
        assert (desk.published, desk.writer.waiting) == ([], 2)
        assert desk.writer.not_durable() == [first, second]
        store.let.set()
        await desk.writer.stop(5)
        assert [got for got, _ in desk.published] == [[1.0], [5.0]]
        assert (stored(store), stored(store, "B"), desk.writer.not_durable()) == ([1.0], [5.0], [])

    asyncio.run(body())


def test_a_minute_seen_in_part_does_not_take_the_place_of_one_that_was_fetched() -> None:
    async def body() -> None:
        store = MemoryStore()
        desk = Desk(store)
        fetched = closed(1.0, 2.0).table(T0)
        status = fetched.schema.get_field_index("status")
        fetched = fetched.set_column(status, fetched.schema.field(status), pa.array(["backfill", "final"]))
        store.append(fetched)
        desk.writer.start()
        seen = closed(7.0, 8.0, 9.0)
        desk.writer.put([replace(seen, status=["provisional"] * 3)])
        await desk.until(lambda: desk.published)
        # What another provider fetched says nothing of this one's minute; what was seen throughout stands for itself.
        desk.writer.put([replace(closed(5.0), provider="other", status=["provisional"]), closed(6.0)])
        await desk.writer.stop(5)
        assert [got for got, _ in desk.published] == [[8.0, 9.0], [5.0], [6.0]]
        in_force = store.read("A", MINUTE, 0, FAR, prefer=("s",))
        assert in_force["close"].to_pylist() == [6.0, 8.0, 9.0]
        assert in_force["status"].to_pylist() == ["final", "provisional", "provisional"]
        assert (desk.writer.waiting, desk.count("marketd_bars_stored_total", interval="1m")) == (0, 4)

    asyncio.run(body())


class Turn:
    """A lock that tells when somebody comes while it is held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.came = threading.Event()

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            self.came.set()
            assert self.lock.acquire(timeout=10)

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class Raced(MemoryStore):
    """While one looks what is there, another comes to append."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self.looked = threading.Event()

    def cross_section(self, *args: Any, **kwargs: Any) -> pa.Table:
        found = super().cross_section(*args, **kwargs)
        self.looked.set()
        assert self.turn.came.wait(10)
        return found


def test_nothing_is_fetched_between_looking_for_a_minute_and_storing_what_was_seen_of_it() -> None:
    async def body() -> None:
        turn = Turn()
        store = Raced(turn)
        desk = Desk(store, turn=turn)
        clock = ManualClock(T0 + 10**12)
        unbounded = BarContext(now_ns=clock.time_ns())
        door = HistoryWriter(
            store,
            clock,
            desk.metrics,
            context_of=lambda *_: unbounded,
            note=lambda *_: None,
            stored=lambda *_: None,
            turn=turn,  # type: ignore[arg-type]
        )
        desk.writer.start()
        desk.writer.put([replace(closed(7.0), status=["provisional"])])
        await desk.until(store.looked.is_set)
        fetched = closed(1.0).table(clock.time_ns())
        status = fetched.schema.get_field_index("status")
        await door.keep("s", fetched.set_column(status, fetched.schema.field(status), pa.array(["backfill"])))
        await desk.writer.stop(5)
        door.close()
        versions = store.versions("A", MINUTE, T0)
        assert list(zip(versions["status"].to_pylist(), versions["close"].to_pylist(), strict=True)) == [
            ("provisional", 7.0),
            ("backfill", 1.0),
        ]

    asyncio.run(body())


def test_bars_that_are_not_kept_are_published_in_their_turn_and_not_stored() -> None:
    async def body() -> None:
        store = Failing()
        desk = Desk(store)
        desk.writer.start()
        desk.writer.put([closed(1.0), closed(2.0, interval="1h"), closed(3.0, symbol="B")])
        await desk.writer.stop(5)
        assert [got for got, _ in desk.published] == [[1.0], [2.0], [3.0]]
        assert [t["close"].to_pylist() for t in store.tables] == [[1.0, 3.0]]
        desk = Desk(store := Failing(StoreError("d", "full")), keep=lambda _: False)
        desk.writer.start()
        desk.writer.put([closed(1.0)])
        await desk.writer.stop(5)
        assert ([got for got, _ in desk.published], store.tables) == ([[1.0]], [])

    asyncio.run(body())


def test_a_failing_store_is_tried_again_longer_and_longer_apart(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        store = Failing(*(StoreError("disk", f"full {i}") for i in range(7)))
        desk = Desk(store)
        desk.writer.start()
        desk.writer.put([closed(1.0)])
        for tries, wait_s in enumerate((0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0), 1):
            await desk.until(lambda: desk.clock._sleepers)
            assert len(store.tables) == tries
            assert (desk.writer.error, desk.writer.waiting) == (f"disk: full {tries - 1}", 1)
            assert desk.published == []
            await desk.clock.advance(wait_s - 0.001)
            assert len(store.tables) == tries
            await desk.clock.advance(0.001)
        await desk.until(lambda: desk.published)
        assert (desk.writer.error, desk.writer.waiting) == (None, 0)
        assert desk.published == [([1.0], [1.0])]
        assert desk.count("marketd_store_errors_total") == 7
        assert desk.count("marketd_bars_stored_total", interval="1m") == 1
        assert all(
            t.equals(store.tables[0]) for t in store.tables
        )  # known since when it was known, not since it worked
        await desk.writer.stop(1)

    with caplog.at_level(logging.ERROR, "marketd.collect.bar_writer"):
        asyncio.run(body())
    assert len(caplog.records) == 7
    assert "could not store 1 bars, trying again: disk: full 0" in caplog.text


def test_what_comes_while_the_store_fails_is_written_afterwards_in_order() -> None:
    async def body() -> None:
        store = Failing(StoreError("disk", "full"))
        desk = Desk(store)
        desk.writer.start()
        desk.writer.put([closed(1.0)])
        await desk.until(lambda: desk.clock._sleepers)
        desk.writer.put([closed(2.0)])
        desk.writer.put([])
        desk.writer.put([closed(3.0)])
        assert (desk.writer.waiting, [closes(b) for b in desk.writer.not_durable()]) == (3, [[1.0], [2.0], [3.0]])
        await desk.clock.advance(0.1)
        await desk.writer.stop(5)
        assert [got for got, _ in desk.published] == [[1.0], [2.0], [3.0]]
        assert stored(store) == [3.0]

    asyncio.run(body())


def test_an_unexpected_error_of_a_store_is_no_end_of_writing(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        store = Failing(OSError(28, "No space left on device"))
        desk = Desk(store)
        desk.writer.start()
        desk.writer.put([closed(1.0)])
        await desk.until(lambda: desk.clock._sleepers)
        assert desk.writer.error == "OSError: [Errno 28] No space left on device"
        await desk.clock.advance(0.1)
        await desk.until(lambda: desk.published)
        assert desk.writer.error is None
        await desk.writer.stop(1)

    asyncio.run(body())
    assert "Traceback" in caplog.text


def test_a_defect_in_publishing_stops_neither_other_bars_nor_the_writer(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        store = MemoryStore()
        published = []

        def publish(batch: BarBatch) -> None:
            if closes(batch) == [1.0]:
                raise ZeroDivisionError("a hub's defect")
            published.append(closes(batch))

        writer = BarWriter(store, ManualClock(T0), Metrics(), keep=lambda _: True, publish=publish)
        writer.start()
        writer.put([closed(1.0), closed(2.0)])
        await writer.stop(5)
        assert (published, stored(store), writer.waiting) == ([[2.0]], [2.0], 0)

    asyncio.run(body())
    assert "a hub's defect" in caplog.text


def test_stopping_gives_up_after_its_time_and_says_what_was_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        desk = Desk(Failing(*[StoreError("disk", "full")] * 99))
        desk.writer.start()
        desk.writer.put([closed(1.0, 2.0)])
        await desk.until(lambda: desk.clock._sleepers)
        await desk.writer.stop(0.05)
        assert (desk.writer.waiting, desk.published) == (2, [])
        await desk.writer.stop(0.05)  # idempotent

    asyncio.run(body())
    assert "stopped with 2 bars that could not be stored: disk: full" in caplog.text


def test_stopping_without_anything_to_write_is_quick_and_before_starting_is_nothing() -> None:
    async def body() -> None:
        desk = Desk(MemoryStore())
        await desk.writer.stop(5)
        desk = Desk(MemoryStore())
        desk.writer.start()
        async with asyncio.timeout(2):
            await desk.writer.stop(60)

    asyncio.run(body())


def test_the_oldest_bars_are_given_up_when_too_many_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bar_writer, "_BARS_WAITING_MAX", 4)

    async def body() -> None:
        store = Failing(StoreError("disk", "full"))
        desk = Desk(store)
        desk.writer.start()
        desk.writer.put([closed(1.0)])
        await desk.until(lambda: desk.clock._sleepers)
        desk.writer.put([closed(2.0, 2.0)])
        assert desk.writer.waiting == 3
        desk.writer.put([closed(3.0), closed(4.0)])
        assert desk.writer.waiting == 3
        assert [closes(b) for b in desk.writer.not_durable()] == [[1.0], [3.0], [4.0]]
        await desk.clock.advance(0.1)
        await desk.writer.stop(5)
        assert [got for got, _ in desk.published] == [[1.0], [3.0], [4.0]]
        assert desk.writer.waiting == 0

    asyncio.run(body())
    assert "gave up 2 bars of 1m" in caplog.text
