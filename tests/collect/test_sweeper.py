"""When the sweeper asks for which symbol, on a clock of the test's own. Expected times are typed by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from marketd.calendars import AlwaysOpen, Sessions
from marketd.collect.lease import LocalLease, RedisLease
from marketd.collect.sweeper import SweepConfig, Sweeper
from marketd.errors import InvalidInput, SourceRejected, SourceUnavailable, StoreError
from marketd.model import Instrument, parse_ns
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

S = 10**9
# A Friday, 14:30:00 UTC.
NOW_NS = 1_795_185_000 * S
DAY_NS = 86_400 * S


class Weekdays:
    """Open from 14:00 to 21:00 UTC, Monday to Friday."""

    name = "WEEKDAYS"
    covers = (0, 2**62)

    def sessions(self, start_ns, end_ns):
        days = np.arange(-(-start_ns // DAY_NS), -(-end_ns // DAY_NS), dtype=np.int64)
        days = days[(days + 3) % 7 < 5]  # 1970-01-01 was a Thursday
        return Sessions(
            label_ns=days * DAY_NS, open_ns=days * DAY_NS + 14 * 3600 * S, close_ns=days * DAY_NS + 21 * 3600 * S
        )

    def open_spans(self, start_ns, end_ns):
        sessions = self.sessions(start_ns - 2 * DAY_NS, end_ns + DAY_NS)
        spans = np.stack([sessions.open_ns, sessions.close_ns], axis=1).clip(start_ns, end_ns)
        return spans[spans[:, 0] < spans[:, 1]]

    def days(self, start_ns, end_ns):
        return self.sessions(start_ns, end_ns).label_ns


def universe(**sizes):
    return [
        Instrument(id=f"{tier}-{i:03d}", symbol=f"{tier}-{i:03d}", tier=tier, rank=i + 1)
        for tier, size in sizes.items()
        for i in range(size)
    ]


@dataclass
class Bench:
    members: list
    config: SweepConfig
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW_NS))
    lease: object = None
    calendar: object = field(default_factory=AlwaysOpen)

    def __post_init__(self):
        self.tasks = []
        self.errors = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.metrics = Metrics()
        self.sweeper = self.make(self.lease or LocalLease(self.clock))

    def make(self, lease):
        return Sweeper(
            self.config,
            self.clock,
            members=lambda: self.members,
            calendar_of=lambda _: self.calendar,
            fetch=dict.fromkeys(("bars_1m", "quotes_l1", "eod"), self.fetch),
            lease=lease,
            metrics=self.metrics,
        )

    async def fetch(self, task):
        self.tasks.append((self.clock.time_ns(), task))
        await self.gate.wait()
        if task.symbol in self.errors:
            raise self.errors[task.symbol]
        return "desk"

    async def run(self, seconds, step=1.0):
        """Time in steps; threads get their turn between them."""
        for _ in range(round(seconds / step)):
            await self.clock.advance(step)
            await asyncio.sleep(0)

    async def started(self, sweeper=None):
        sweeper = sweeper or self.sweeper
        sweeper.start()
        for _ in range(1_000):
            await self.clock.advance(0)
            if sweeper.state.lanes:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it did not start")

    def symbols(self, kind=None):
        return [task.symbol for _, task in self.tasks if kind in (None, task.kind)]


def only(cadence):
    """This and nothing else."""
    never = dict.fromkeys(("bars_1m", "quotes_l1", "eod"), 0)
    return {tier: never | cadence.get(tier, {}) for tier in ("T0", "T1", "T2")}


def config(**cadence):
    return SweepConfig(enabled=True, cadence=only(cadence))


def test_what_is_not_given_is_as_by_default():
    assert SweepConfig(cadence={"T0": {"bars_1m": 30}, "T2": {"eod": 0}}).cadence == {
        "T0": {"bars_1m": 30, "quotes_l1": 5},
        "T1": {"bars_1m": 300, "quotes_l1": 15},
        "T2": {"eod": 0},
    }


def test_each_symbol_once_a_period_and_evenly():
    async def main():
        bench = Bench(universe(T0=120), config(T0={"bars_1m": 60}))
        await bench.started()
        await bench.run(5)
        bench.tasks.clear()
        await bench.run(180)
        assert set(Counter(bench.symbols()).values()) == {3}
        per_second = Counter((at - NOW_NS) // S for at, _ in bench.tasks)
        assert max(per_second.values()) <= 3  # 120 in 60 s are 2 a second
        await bench.sweeper.stop()

    asyncio.run(main())


def test_cadences_are_those_of_tier_and_kind():
    async def main():
        bench = Bench(universe(T0=4, T1=4, T2=4), config(T0={"bars_1m": 60, "quotes_l1": 5}, T1={"quotes_l1": 15}))
        await bench.started()
        await bench.run(60)
        bench.tasks.clear()
        await bench.run(300)
        counted = Counter((task.symbol[:2], task.kind) for _, task in bench.tasks)
        assert counted == {("T0", "bars_1m"): 20, ("T0", "quotes_l1"): 240, ("T1", "quotes_l1"): 80}
        await bench.sweeper.stop()

    asyncio.run(main())


def test_bars_follow_one_another_with_one_minute_twice():
    async def main():
        bench = Bench(universe(T0=1), config(T0={"bars_1m": 60}))
        await bench.started()
        await bench.run(200)
        ranges = [(task.start_ns, task.end_ns) for _, task in bench.tasks]
        assert len(ranges) == 3
        assert all(end % (60 * S) == 0 for _, end in ranges)
        for (_, end), (start, _) in itertools.pairwise(ranges):
            assert start == end - 60 * S
        await bench.sweeper.stop()

    asyncio.run(main())


def test_after_a_stall_everybody_is_owed_once_and_there_is_no_burst():
    async def main():
        bench = Bench(universe(T0=120), config(T0={"quotes_l1": 60}))
        await bench.started()
        await bench.run(10)
        bench.tasks.clear()
        before_ns = bench.clock.time_ns()
        # The process stands still for ten minutes: sleepers wake late.
        bench.clock._elapsed_ns += 600 * S
        await bench.run(70)
        late = [at for at, _ in bench.tasks if at - before_ns - 600 * S <= 70 * S]
        counted = Counter(bench.symbols())
        assert max(counted.values()) <= 3
        assert len(counted) == 120
        per_second = Counter(at // S for at in late)
        assert max(per_second.values()) <= 8  # twice the pace, and what was saved up
        await bench.sweeper.stop()

    asyncio.run(main())


def test_closed_venues_are_left_alone():
    async def main():
        cadence = {"T0": {"bars_1m": 60, "quotes_l1": 5}}
        slow = SweepConfig(enabled=True, cadence=only(cadence), pulse_s=5.0)
        bench = Bench(universe(T0=3), slow, calendar=Weekdays())
        await bench.started()
        await bench.run(60)
        assert bench.symbols("quotes_l1")
        await bench.run(6.5 * 3600, step=30.0)  # to 21:01
        bench.tasks.clear()
        await bench.run(600)  # the last bars are still fetched, quotes are not
        assert bench.symbols("quotes_l1") == []
        assert all(task.start_ns < parse_ns("2026-11-20T21:00:00Z") for _, task in bench.tasks)
        bench.tasks.clear()
        await bench.run(3600, step=10.0)
        assert bench.tasks == []
        await bench.sweeper.stop()

    asyncio.run(main())


def test_the_day_is_fetched_once_after_its_close_and_spread():
    async def main():
        settings = SweepConfig(
            enabled=True, cadence=only({"T2": {"eod": 1}}), eod_delay_s=1800, eod_spread_s=1800, pulse_s=15.0
        )
        bench = Bench(universe(T2=60), settings, calendar=Weekdays())
        await bench.started()
        await bench.run(2400, step=5.0)  # Thursday's, after the start
        assert Counter(bench.symbols()) == dict.fromkeys((i.symbol for i in bench.members), 1)
        assert {(task.start_ns, task.end_ns) for _, task in bench.tasks} == {
            (parse_ns("2026-11-19"), parse_ns("2026-11-20"))
        }
        bench.tasks.clear()
        await bench.run(6 * 3600, step=30.0)  # until 21:10
        assert bench.tasks == []
        await bench.run(3600, step=5.0)
        assert Counter(bench.symbols()) == dict.fromkeys((i.symbol for i in bench.members), 1)
        first, last = bench.tasks[0], bench.tasks[-1]
        assert parse_ns("2026-11-20T21:30:00Z") <= first[0] <= parse_ns("2026-11-20T21:32:00Z")
        assert parse_ns("2026-11-20T21:55:00Z") <= last[0] <= parse_ns("2026-11-20T22:05:00Z")
        assert {task.start_ns for _, task in bench.tasks} == {parse_ns("2026-11-20")}
        bench.tasks.clear()
        await bench.run(2 * 86_400, step=300.0)  # the weekend
        assert bench.tasks == []
        await bench.sweeper.stop()

    asyncio.run(main())


def test_two_processes_share_the_work_and_one_takes_over():
    async def main():
        clock = ManualClock(NOW_NS)
        one = LocalLease(clock)
        first = Bench(universe(T0=10), config(T0={"bars_1m": 60}), clock, one)
        second = Bench(universe(T0=10), config(T0={"bars_1m": 60}), clock, LocalLease(clock, one))
        await first.started()
        await second.started()
        await first.run(180)
        assert len(first.tasks) >= 29
        assert second.tasks == []
        # The first dies without a word.
        for task in first.sweeper._tasks:
            task.cancel()
        await first.run(180)
        assert set(Counter(second.symbols()).values()) <= {2, 3}
        assert len(Counter(second.symbols())) == 10
        await second.sweeper.stop()

    asyncio.run(main())


def test_slow_fetches_hold_back_new_ones():
    async def main():
        settings = SweepConfig(enabled=True, cadence=only({"T0": {"quotes_l1": 5}}), in_flight_max=8)
        bench = Bench(universe(T0=100), settings)
        await bench.started()
        bench.gate.clear()
        await bench.run(30)
        assert len(bench.tasks) == 8
        assert bench.sweeper.state.in_flight == 8
        assert bench.sweeper.state.lanes[0].owed > 0
        bench.gate.set()
        await bench.run(30)
        assert len(bench.tasks) > 100
        await bench.sweeper.stop()

    asyncio.run(main())


def test_failures_are_counted_and_go_on(caplog):
    async def main():
        slow = SweepConfig(enabled=True, cadence=only({"T0": {"quotes_l1": 5}}), pulse_s=2.5)
        bench = Bench(universe(T0=3), slow)
        bench.errors = {
            "T0-000": SourceUnavailable("desk", "down"),
            "T0-001": SourceRejected("desk", "unknown"),
            "T0-002": ZeroDivisionError("a defect"),
        }
        await bench.started()
        await bench.run(60)
        counted = Counter(bench.symbols())
        assert counted["T0-001"] == 1  # rests for an hour
        assert counted["T0-000"] >= 10
        assert counted["T0-002"] >= 10
        assert bench.sweeper.state.state == "failing"
        value = bench.metrics.registry.get_sample_value
        assert value("jobs_failed_total", {"type": "quotes_l1", "reason": "SourceRejected"}) == 1
        bench.errors = {}
        await bench.run(3600, step=5.0)
        assert bench.sweeper.state.state == "ok"
        assert value("jobs_processed_total", {"type": "quotes_l1", "provider": "desk"}) > 1000
        await bench.sweeper.stop()

    asyncio.run(main())
    assert "a defect in fetching" in caplog.text


def test_a_lease_that_cannot_be_asked_stops_the_work_when_its_time_is_up():
    class Gone(LocalLease):
        gone = False

        async def hold(self, name, seconds):
            if self.gone:
                raise StoreError("redis", "connection refused")
            return await super().hold(name, seconds)

    async def main():
        clock = ManualClock(NOW_NS)
        lease = Gone(clock)
        bench = Bench(universe(T0=10), config(T0={"quotes_l1": 5}), clock, lease)
        await bench.started()
        await bench.run(20)
        lease.gone = True
        await bench.run(20)
        bench.tasks.clear()
        await bench.run(60)
        assert bench.tasks == []
        assert "connection refused" in bench.sweeper.state.error
        lease.gone = False
        await bench.run(20)
        assert bench.tasks
        assert bench.sweeper.state.error is None
        await bench.sweeper.stop()

    asyncio.run(main())


def test_a_symbol_without_a_calendar_is_taken_for_open():
    async def main():
        bench = Bench(universe(T0=2), config(T0={"quotes_l1": 5}))

        def unknown(symbol):
            raise InvalidInput("exchange", "XXXX", "a known one")

        bench.sweeper._calendar_of = unknown
        await bench.started()
        await bench.run(20)
        assert set(bench.symbols()) == {"T0-000", "T0-001"}
        await bench.sweeper.stop()

    asyncio.run(main())


def test_it_does_nothing_unless_enabled():
    async def main():
        bench = Bench(universe(T0=2), SweepConfig())
        bench.sweeper.start()
        await bench.run(20)
        assert bench.tasks == []
        assert bench.sweeper.state.state == "stopped"
        await bench.sweeper.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cadence": {"T9": {}}}, "cadence"),
        ({"cadence": {"T0": {"bars_5m": 1}}}, "cadence.T0"),
        ({"cadence": {"T0": {"bars_1m": 0.5}}}, "cadence.T0.bars_1m"),
        ({"cadence": {"T2": {"eod": 2}}}, "cadence.T2.eod"),
        ({"in_flight_max": 0}, "in_flight_max"),
        ({"lease_s": 0}, "lease_s"),
        ({"eod_delay_s": -1}, "eod_delay_s"),
    ],
)
def test_a_setting_out_of_range_is_named(fields, field):
    with pytest.raises(InvalidInput) as caught:
        SweepConfig(**fields)
    assert caught.value.field == field


def test_a_lease_in_redis_has_one_holder(redis_server):
    async def main():
        one, other = RedisLease(redis_server.url), RedisLease(redis_server.url)
        try:
            assert await one.hold("lane", 60)
            assert await one.hold("lane", 60)
            assert not await other.hold("lane", 60)
            await other.release("lane")
            assert not await other.hold("lane", 60)
            await one.release("lane")
            assert await other.hold("lane", 60)
            assert 0 < await other._client.pttl("market:lease:lane") <= 60_000
            await other._client.pexpire("market:lease:lane", 0)  # its time is up
            assert await one.hold("lane", 60)
            redis_server.kill()
            with pytest.raises(StoreError):
                await one.hold("lane", 60)
        finally:
            await one.close()
            await other.close()

    asyncio.run(main())


@pytest.mark.parametrize("pulse_s", [0.25, 1.0, 2.5, 7.0])
def test_the_cadence_does_not_depend_on_the_pulse(pulse_s):
    async def main():
        bench = Bench(universe(T0=3), SweepConfig(enabled=True, cadence=only({"T0": {"bars_1m": 60}}), pulse_s=pulse_s))
        await bench.started()
        await bench.run(120)
        bench.tasks.clear()
        await bench.run(600)
        assert all(9 <= times <= 11 for times in Counter(bench.symbols()).values())
        assert len(Counter(bench.symbols())) == 3
        await bench.sweeper.stop()

    asyncio.run(main())
