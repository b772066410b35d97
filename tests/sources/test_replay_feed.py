"""Pace, pause, seek, loop, filter: what a replay does in time, on a clock the test owns."""

from __future__ import annotations

import asyncio
import gzip
import heapq
from contextlib import asynccontextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marketd.clock import SystemClock
from marketd.model import Connected, Disconnected, Ended, Quarantined, TickBatch
from marketd.sources.contract import Subscriptions
from marketd.sources.replay import ReplayConfig, ReplayFile, ReplaySource
from marketd.testing import ManualClock

_S = 10**9
_NOW = 1_700_000_000 * _S
_FIRST = 1_399_006_800 * _S


class _Heard:
    """Reads a source in a task and notes when each tick came."""

    def __init__(self, clock):
        self.clock = clock
        self.events = []
        self.ticks = []  # (seconds since the start, bid)

    async def read(self, source, wanted):
        async for events in source.stream(wanted):
            for event in events:
                self.events.append(event)
                if isinstance(event, TickBatch):
                    now = self.clock.monotonic_ns() / _S
                    self.ticks += [(now, bid) for bid in event.bid.tolist()]

    def kinds(self):
        return [type(e).__name__ for e in self.events]

    def times(self, column="time_event_ns"):
        return [t for e in self.events if isinstance(e, TickBatch) for t in getattr(e, column).tolist()]


@asynccontextmanager
async def _playing(files, wanted=None, clock=None, **config):
    clock = clock or ManualClock(_NOW)
    entries = tuple(ReplayFile.parse(str(f)) for f in files)
    source = ReplaySource(ReplayConfig(files=entries, **config), clock)
    heard = _Heard(clock)
    wanted = wanted or Subscriptions(source.symbols)
    task = asyncio.create_task(heard.read(source, wanted))
    try:
        await _until(clock, lambda: heard.events)
        yield source, heard, clock, task
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _until(clock, condition):
    """Let the reading thread and the loop work until `condition`; a manual clock stands still."""
    deadline = asyncio.get_running_loop().time() + 10
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited too long"
        if isinstance(clock, ManualClock):
            await clock.advance(0)
        await asyncio.sleep(0.001)


async def _quiet(clock):
    """Give everything that could still happen at this moment the chance to happen."""
    for _ in range(5):
        await clock.advance(0)
        await asyncio.sleep(0.002)


def _quotes(path, offsets_s, first=1):
    rows = [f"{_FIRST + round(s * _S)},{first + i},{first + i + 1}" for i, s in enumerate(offsets_s)]
    path.write_text("ts_ns,bid,ask\n" + "\n".join(rows) + "\n")
    return path


def test_original_pace(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0, 0.25, 0.25, 1.5, 100])
        async with _playing([path]) as (source, heard, clock, task):
            await _until(clock, lambda: heard.ticks)
            await clock.advance(0.249)
            assert heard.ticks == [(0, 1)]
            await clock.advance(0.001)
            assert heard.ticks == [(0, 1), (0.25, 2), (0.25, 3)]
            assert source.position == _FIRST + _S // 4
            await clock.advance(98)
            assert heard.ticks[3:] == [(1.5, 4)]
            await clock.advance(2)
            await asyncio.wait_for(task, 5)
            assert heard.ticks[4:] == [(100, 5)]
            assert heard.kinds() == ["Connected"] + ["TickBatch"] * 4 + ["Ended"]
            assert heard.times() == [_FIRST + round(s * _S) for s in (0, 0.25, 0.25, 1.5, 100)]
            assert heard.times("time_received_ns") == heard.times()

    asyncio.run(main())


def test_n_times_faster(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0, 1, 3, 10])
        async with _playing([path], speed=4.0) as (_, heard, clock, task):
            await _until(clock, lambda: heard.ticks)
            await clock.advance(10)
            await asyncio.wait_for(task, 5)
            assert heard.ticks == [(0, 1), (0.25, 2), (0.75, 3), (2.5, 4)]

    asyncio.run(main())


@pytest.mark.parametrize(("speed", "expected_s"), [(1.0, [0, 1, 3]), (4.0, [0, 0.25, 0.75])])
def test_shifted_times_start_now_and_keep_their_spacing(tmp_path, speed, expected_s):
    async def main():
        path = tmp_path / "x.csv"
        path.write_text(
            "recv_ns,event_ns,bid\n" + "".join(f"{_FIRST + s * _S - 1270},{_FIRST + s * _S},1\n" for s in (0, 1, 3))
        )
        async with _playing([path], speed=speed, times="shifted") as (_, heard, clock, task):
            await _until(clock, lambda: heard.ticks)
            await clock.advance(5)
            await asyncio.wait_for(task, 5)
            assert heard.times() == [_NOW + round(s * _S) for s in expected_s]
            assert heard.times("time_received_ns") == [_NOW + round(s * _S) - 1270 for s in expected_s]

    asyncio.run(main())


def test_shifted_without_a_pace_is_stamped_when_it_goes_out(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0, 1, 3])
        async with _playing([path], speed=None, times="shifted") as (_, heard, _clock, task):
            await asyncio.wait_for(task, 5)
            assert heard.times() == [_NOW] * 3 == heard.times("time_received_ns")

    asyncio.run(main())


def test_pause_holds_and_resume_goes_on_where_it_was(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0, 1, 2])
        async with _playing([path], times="shifted") as (source, heard, clock, task):
            await _until(clock, lambda: heard.ticks)
            await clock.advance(0.5)
            source.pause()
            source.pause()
            assert source.paused
            await clock.advance(1_000)
            assert heard.ticks == [(0, 1)]
            source.resume()
            await clock.advance(0.499)
            assert heard.ticks == [(0, 1)]
            await clock.advance(0.001)
            assert heard.ticks == [(0, 1), (1_001, 2)]
            await clock.advance(1)
            await asyncio.wait_for(task, 5)
            assert heard.times() == [_NOW, _NOW + 1_001 * _S, _NOW + 1_002 * _S]

    asyncio.run(main())


def test_pause_as_fast_as_possible_stops_the_batches(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", range(100))
        source = ReplaySource(
            ReplayConfig(files=(ReplayFile(path=str(path)),), speed=None, batch_rows=10), ManualClock()
        )
        stream = source.stream(Subscriptions(["X"]))
        assert [type(e) for e in await anext(stream)] == [Connected]
        assert (await anext(stream))[0].bid.tolist() == list(range(1, 11))
        source.pause()
        following = asyncio.ensure_future(anext(stream))
        done, _ = await asyncio.wait({following}, timeout=0.05)
        assert not done
        source.resume()
        assert (await asyncio.wait_for(following, 5))[0].bid.tolist() == list(range(11, 21))
        await stream.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_seek_forward_and_back(tmp_path, suffix):
    path = _quotes(tmp_path / "x.csv", range(100))
    if suffix == "csv.gz":
        (tmp_path / "x.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    elif suffix == "parquet":
        times = pa.array([_FIRST + s * _S for s in range(100)])
        pq.write_table(pa.table({"ts_ns": times, "bid": np.arange(1.0, 101.0)}), tmp_path / "x.parquet")

    async def main():
        async with _playing([tmp_path / f"x.{suffix}"]) as (source, heard, clock, task):
            await _until(clock, lambda: heard.ticks)
            source.seek(_FIRST + 90 * _S - 1)
            await _until(clock, lambda: len(heard.ticks) == 2)
            assert heard.ticks == [(0, 1), (0, 91)]
            assert source.position == _FIRST + 90 * _S
            assert heard.kinds() == ["Connected", "TickBatch", "Disconnected", "Connected", "TickBatch"]
            await clock.advance(1)
            assert heard.ticks[2:] == [(1, 92)]
            source.seek(_FIRST + 5 * _S)
            await _until(clock, lambda: len(heard.ticks) == 4)
            assert heard.ticks[3:] == [(1, 6)]
            source.pause()
            source.seek(_FIRST + 99 * _S)
            await _quiet(clock)
            assert len(heard.ticks) == 4
            source.resume()
            await _until(clock, task.done)
            assert heard.ticks[4:] == [(1, 100)]
            assert heard.kinds()[-1] == "Ended"

    asyncio.run(main())


async def _three_rounds(heard, clock):
    """Of three ticks 2 s apart; between two rounds lies the mean spacing."""
    for ticks in (1, 4, 7):
        await _until(clock, lambda ticks=ticks: len(heard.ticks) >= ticks)
        if ticks < 7:
            await clock.advance(4)
            await _until(clock, lambda: any(not waiter.done() for *_, waiter in clock._sleepers))
            await clock.advance(2)


def test_loop_kept_says_that_it_starts_over(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0, 2, 4])
        async with _playing([path], loop=True) as (_, heard, clock, _task):
            await _three_rounds(heard, clock)
            assert heard.ticks == [(0, 1), (2, 2), (4, 3), (6, 1), (8, 2), (10, 3), (12, 1)]
            assert heard.times() == [_FIRST + s * _S for s in (0, 2, 4, 0, 2, 4, 0)]
            assert heard.kinds()[:6] == ["Connected", *["TickBatch"] * 3, "Disconnected", "Connected"]

    asyncio.run(main())


def test_loop_shifted_goes_on_in_time(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0, 2, 4])
        async with _playing([path], loop=True, times="shifted") as (_, heard, clock, _task):
            await _three_rounds(heard, clock)
            assert heard.times() == [_NOW + s * _S for s in (0, 2, 4, 6, 8, 10, 12)]
            assert set(heard.kinds()[1:]) == {"TickBatch"}

    asyncio.run(main())


def test_looping_over_nothing_ends(tmp_path):
    async def main():
        (tmp_path / "x.csv").write_text("ts_ns,bid\n")
        async with _playing([tmp_path / "x.csv"], loop=True) as (_, heard, _clock, task):
            await asyncio.wait_for(task, 5)
            assert [type(e) for e in heard.events] == [Connected, Ended]

    asyncio.run(main())


def test_window(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", range(10))
        config = {"start": "2014-05-02T05:00:03Z", "end": "2014-05-02T05:00:06Z", "speed": None}
        async with _playing([path], **config) as (_, heard, _clock, task):
            await asyncio.wait_for(task, 5)
            assert [bid for _, bid in heard.ticks] == [4, 5, 6]

    asyncio.run(main())


def test_files_are_merged_by_event_time_and_late_rows_keep_their_place(tmp_path):
    a, b = [0, 3, 1, 9, 12], [0, 1, 2, 3, 4, 10]
    _quotes(tmp_path / "a.csv", a, first=100)
    _quotes(tmp_path / "b.csv", b, first=200)

    async def main():
        async with _playing([tmp_path / "a.csv", tmp_path / "b.csv"], speed=None) as (source, heard, _clock, task):
            await asyncio.wait_for(task, 5)
            assert source.symbols == ("A", "B")
            running = np.maximum.accumulate(a).tolist()
            expected = heapq.merge(
                [(t, 100 + i) for i, t in enumerate(running)],
                [(t, 200 + i) for i, t in enumerate(b)],
                key=lambda r: r[0],
            )
            assert [bid for _, bid in heard.ticks] == [bid for _, bid in expected]
            assert len({id(e.symbols) for e in heard.events if isinstance(e, TickBatch)}) == 1

    asyncio.run(main())


def test_wanted_is_followed_and_unknown_symbols_are_said_once(tmp_path):
    _quotes(tmp_path / "a.csv", range(10), first=100)
    _quotes(tmp_path / "b.csv", range(10), first=200)

    async def main():
        wanted = Subscriptions(["A", "NOPE"])
        files = [tmp_path / "a.csv", tmp_path / "b.csv"]
        async with _playing(files, wanted) as (_, heard, clock, _task):
            await _until(clock, lambda: heard.ticks)
            assert [(e.reason, e.symbol) for e in heard.events if isinstance(e, Quarantined)] == [
                ("unknown_symbol", "NOPE")
            ]
            await clock.advance(1)
            wanted.add(["B", "NEITHER"])
            # At once, not with the next tick: the clock stands still.
            await _until(clock, lambda: getattr(heard.events[-1], "symbol", None) == "NEITHER")
            await clock.advance(1)
            wanted.discard(["A"])
            await clock.advance(1)
            assert [bid for _, bid in heard.ticks] == [100, 101, 102, 202, 203]
            assert sum(isinstance(e, Quarantined) for e in heard.events) == 2

    asyncio.run(main())


def test_backpressure_reads_at_most_a_batch_ahead(tmp_path):
    path = _quotes(tmp_path / "x.csv", range(50_000))

    async def main():
        source = ReplaySource(
            ReplayConfig(files=(ReplayFile(path=str(path)),), speed=None, batch_rows=100), ManualClock()
        )
        source._block_bytes = 4_096
        pulled = []
        rows_of = source._rows

        def counted(from_ns):
            for rows in rows_of(from_ns):
                pulled.append(len(rows.key))
                yield rows

        source._rows = counted
        stream = source.stream(Subscriptions(["X"]))
        await anext(stream)
        for _ in range(3):
            await anext(stream)
        await asyncio.sleep(0.05)
        assert sum(pulled) <= 400
        await stream.aclose()

    asyncio.run(main())


def test_the_loop_is_never_held_for_long(tmp_path):
    """While 300,000 packed rows are read, another task gets its turn within 20 ms (a slow machine may miss a few)."""
    text = "ts_ns,bid,ask\n" + "".join(f"{_FIRST + i},{i}.25,{i}.5\n" for i in range(300_000))
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(text.encode(), 1))

    async def main():
        source = ReplaySource(ReplayConfig(files=(ReplayFile(path=str(path)),), speed=None), SystemClock())
        loop = asyncio.get_running_loop()
        turns = []

        async def watch():
            while True:
                turns.append(loop.time())
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        rows = 0
        async for events in source.stream(Subscriptions(["X"])):
            rows += sum(len(e) for e in events if isinstance(e, TickBatch))
        watcher.cancel()
        await asyncio.wait({watcher})
        assert rows == 300_000
        assert np.percentile(np.diff(turns), 99) < 0.02

    asyncio.run(main())


def test_a_source_is_streamed_once(tmp_path):
    async def main():
        path = _quotes(tmp_path / "x.csv", [0])
        async with _playing([path]) as (source, heard, _clock, task):
            await asyncio.wait_for(task, 5)
            with pytest.raises(RuntimeError, match="once"):
                await anext(source.stream(Subscriptions()))
            assert [type(e) for e in heard.events if not isinstance(e, Disconnected)] == [Connected, TickBatch, Ended]

    asyncio.run(main())


def test_a_file_that_vanishes_is_said_and_the_others_go_on(tmp_path):
    _quotes(tmp_path / "a.csv", [0, 1], first=100)
    _quotes(tmp_path / "b.csv", [0, 1], first=200)

    async def main():
        files = tuple(ReplayFile(path=str(tmp_path / name)) for name in ("a.csv", "b.csv"))
        source = ReplaySource(ReplayConfig(files=files, speed=None), ManualClock())
        (tmp_path / "a.csv").unlink()
        events = [e async for events in source.stream(Subscriptions(source.symbols)) for e in events]
        assert [e.bid.tolist() for e in events if isinstance(e, TickBatch)] == [[200, 201]]
        said = [(e.reason, e.where) for e in events if isinstance(e, Quarantined)]
        assert said == [("corrupt_line", f"{tmp_path / 'a.csv'}:1")]

    asyncio.run(main())
