"""The job list, in a real Redis: what is pushed is done, once or more, or said to be impossible."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from marketd.clock import SystemClock
from marketd.collect.jobs import JobConsumer, JobsConfig, parse_job
from marketd.errors import InvalidInput, SourceRejected, SourceUnavailable, StoreError
from marketd.model import parse_ns
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

BARS = {
    "version": 1,
    "type": "fetch_bars",
    "symbol": "AAPL",
    "interval": "1m",
    "start": "2026-11-18T10:00:00Z",
    "end": "2026-11-18T11:00:00Z",
    "tier": "T0",
    "provider": "desk",
    "id": "one",
    "enqueued_at": "2026-11-18T11:00:01.5Z",
}
QUICK = ReconnectPolicy(delay_first_s=0.001, delay_max_s=0.002)


class Bench:
    def __init__(self, server, **fields):
        self.done = []
        self.fails = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.metrics = Metrics()
        self.config = JobsConfig(use_rlc=True, **({"retry": QUICK, "poll_s": 0.002} | fields))
        self.consumer = self.make(server)
        self.client = Redis.from_url(server.url, decode_responses=True)

    def make(self, server, clock=None):
        handlers = dict.fromkeys(("backfill", "fetch_bars", "eod"), self.handle)
        return JobConsumer(self.config, server.url, clock or SystemClock(), handlers, metrics=self.metrics)

    async def handle(self, job):
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        self.done.append(job)
        return job.provider

    async def push(self, *jobs):
        for job in jobs:
            await self.client.lpush("market:jobs", job if isinstance(job, str | bytes) else json.dumps(job))

    async def counts(self):
        return await asyncio.gather(*(self.client.llen(f"market:jobs{end}") for end in ("", ":in-flight", ":dead")))

    async def dead(self):
        return [json.loads(row) for row in await self.client.lrange("market:jobs:dead", 0, -1)]

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def bench(server, **fields):
    made = Bench(server, **fields)
    try:
        yield made
    finally:
        await made.consumer.stop()
        await made.client.aclose()


async def until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.002)


def test_jobs_are_done_in_the_order_they_were_pushed(redis_server):
    async def main():
        async with bench(redis_server, concurrency=1) as made:
            await made.push(*(BARS | {"id": str(n)} for n in range(20)))
            made.consumer.start()
            await until(lambda: len(made.done) == 20)
            await until(lambda: made.consumer.state.done == 20)
            assert [job.id for job in made.done] == [str(n) for n in range(20)]
            first = made.done[0]
            assert (first.type, first.symbol, first.interval.name, first.tier, first.provider) == (
                "fetch_bars", "AAPL", "1m", "T0", "desk",
            )  # fmt: skip
            assert (first.start_ns, first.end_ns) == (parse_ns(BARS["start"]), parse_ns(BARS["end"]))
            assert first.enqueued_ns == parse_ns(BARS["enqueued_at"])
            assert await made.counts() == [0, 0, 0]
            assert await made.client.hgetall("market:jobs:in-flight:since") == {}
            assert made.value("jobs_processed_total", type="fetch_bars", provider="desk") == 20

    asyncio.run(main())


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("{", "truncated"),
        ("null", "object"),
        (BARS | {"version": 2}, "version"),
        ({k: v for k, v in BARS.items() if k != "version"}, "version"),
        (BARS | {"type": "dance"}, "type"),
        (BARS | {"symbol": ""}, "symbol is empty"),
        (BARS | {"tier": "T7"}, "tier"),
        (BARS | {"interval": "7m"}, "7m"),
        (BARS | {"start": None}, "start and end"),
        (BARS | {"start": "soon"}, "soon"),
        (BARS | {"end": BARS["start"]}, "no 1m bar"),
        (BARS | {"type": "eod"}, "1d"),
        (BARS | {"type": "fetch_quotes"}, "no interval"),
        (BARS | {"enqueued_at": "then"}, "then"),
        (BARS | {"sybmol": "AAPL"}, "sybmol"),
        ({"version": 1, "type": "fetch_quotes", "symbol": "AAPL"}, "does no fetch_quotes jobs"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_what_is_no_job_goes_to_the_dead_letters_with_the_reason(redis_server, job, reason):
    async def main():
        async with bench(redis_server) as made:
            await made.push(job, BARS | {"id": "good"})
            made.consumer.start()
            await until(lambda: made.consumer.state.dead == 1 and made.done)
            await until(lambda: made.consumer.state.done == 1)
            assert await made.counts() == [0, 0, 1]
            (dead,) = await made.dead()
            assert reason in dead["reason"]
            if isinstance(job, dict):
                assert json.loads(dead["job"]) == job
            assert [j.id for j in made.done] == ["good"]

    asyncio.run(main())


@pytest.mark.parametrize("error", [SourceUnavailable("desk", "down"), StoreError("disk", "full")])
def test_what_may_be_cured_is_tried_again(redis_server, error):
    async def main():
        async with bench(redis_server) as made:
            made.fails = [error] * 3
            await made.push(BARS)
            made.consumer.start()
            await until(lambda: made.consumer.state.done == 1)
            assert await made.counts() == [0, 0, 0]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (SourceUnavailable("desk", "down"), 3),
        (SourceRejected("desk", "no such symbol"), 1),
        (InvalidInput("symbol", "AAPL", "another"), 1),
        (ZeroDivisionError("a defect"), 1),
    ],
)
def test_what_cannot_be_done_is_given_up(redis_server, error, tries):
    async def main():
        async with bench(redis_server, attempts_max=3) as made:
            made.fails = [error] * 5
            await made.push(BARS)
            made.consumer.start()
            await until(lambda: made.consumer.state.dead == 1)
            assert len(made.fails) == 5 - tries
            assert await made.counts() == [0, 0, 1]
            assert str(error) in (await made.dead())[0]["reason"]
            assert made.value("jobs_failed_total", type="fetch_bars", reason="given_up") == 1

    asyncio.run(main())


def test_an_id_that_was_done_is_not_done_again(redis_server):
    async def main():
        async with bench(redis_server, concurrency=1) as made:
            await made.push(BARS, BARS | {"symbol": "MSFT"}, BARS | {"id": "two"})
            made.consumer.start()
            await until(lambda: len(made.done) == 2)
            await until(lambda: made.consumer.state.done == 2)
            assert [job.id for job in made.done] == ["one", "two"]
            assert await made.counts() == [0, 0, 0]

    asyncio.run(main())


def test_what_a_dead_consumer_worked_on_is_done_by_another(redis_server):
    async def main():
        async with bench(redis_server) as made:
            clock = ManualClock(time.time_ns())
            dying = made.make(redis_server, clock)
            await made.push(*(BARS | {"id": str(n)} for n in range(3)))
            made.gate.clear()
            dying.start()
            for _ in range(1000):
                await clock.advance(0)
                await asyncio.sleep(0.001)
                if (await made.counts())[1] == 3:
                    break
            await dying.stop()
            assert await made.counts() == [0, 3, 0]
            made.gate.set()
            # For the other its lease is long over.
            later = ManualClock(clock.time_ns() + 121 * 10**9)
            other = made.make(redis_server, later)
            other.start()
            for _ in range(1000):
                await later.advance(0.01)
                await asyncio.sleep(0.001)
                if other.state.done == 3:
                    break
            assert sorted(job.id for job in made.done) == ["0", "1", "2"]
            assert await made.counts() == [0, 0, 0]
            await other.stop()

    asyncio.run(main())


def test_redis_goes_and_comes_back_in_the_middle(redis_server):
    async def main():
        async with bench(redis_server, concurrency=2) as made:
            made.gate.clear()
            await made.push(*(BARS | {"id": str(n)} for n in range(6)))
            made.consumer.start()
            await until(lambda: made.consumer.state.running == 2)
            await until(lambda: _in_flight(made, 2))
            await made.client.save()
            redis_server.kill()
            made.gate.set()
            await until(lambda: made.consumer.state.state == "failing")
            assert made.consumer.state.error
            redis_server.start()
            await until(lambda: made.consumer.state.done == 6)
            await until(lambda: made.consumer.state.state == "ok")
            assert sorted({job.id for job in made.done}) == [str(n) for n in range(6)]
            assert len(made.done) == 6
            assert await made.counts() == [0, 0, 0]

    async def _in_flight(made, count):
        return (await made.counts())[1] == count

    asyncio.run(main())


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda changed: json.dumps(BARS | changed).encode(),
            st.dictionaries(
                st.sampled_from(sorted(BARS)),
                st.one_of(
                    st.none(), st.integers(), st.text(max_size=20), st.sampled_from(["1d", "eod", "fetch_quotes"])
                ),
                max_size=4,
            ),
        ),
    )
)
def test_whatever_is_pushed_is_a_job_or_a_value_error(text):
    try:
        job = parse_job(text)
    except ValueError:
        return
    assert job.symbol.strip()
    assert job.id
    assert (job.interval is None) == (job.type == "fetch_quotes")


@pytest.mark.parametrize(
    "field", ["concurrency", "attempts_max", "done_max", "dead_max", "lease_s", "poll_s", "jobs_key"]
)
def test_a_setting_out_of_range_is_named(field):
    with pytest.raises(InvalidInput) as caught:
        JobsConfig(**{field: "" if field == "jobs_key" else 0})
    assert caught.value.field == field


def test_what_the_example_pushes_is_a_job(redis_server):
    async def main():
        async with bench(redis_server) as made:
            path = Path(__file__).parents[2] / "examples" / "push_job.py"
            command = [sys.executable, str(path), redis_server.url, "AAPL", "2026-11-16T00:00:00Z", "2026-11-21"]
            said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
            made.consumer.start()
            await until(lambda: made.done)
            (job,) = made.done
            assert (job.id, job.type, job.symbol) == (said.stdout.strip(), "backfill", "AAPL")
            assert (job.start_ns, job.end_ns) == (parse_ns("2026-11-16"), parse_ns("2026-11-21"))

    asyncio.run(main())
