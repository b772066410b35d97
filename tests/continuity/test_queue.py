"""Both engines of the queue do what the contract says; then what only Redis has: other programs, and going away."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from marketd.continuity.queue import JobRecord, RecordsQueue, RedisQueue, job_from_json
from marketd.errors import InvalidInput, StoreError
from marketd.model import BackfillJob, parse_ns
from marketd.store.sqlite import SqliteRecords
from marketd.testing import ManualClock

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
START_NS = parse_ns("2026-11-18T10:00:00Z")
M = 60 * 10**9


def job(number=0, **changed):
    fields = {
        "id": f"job-{number}",
        "symbol": f"S{number}",
        "interval": "1m",
        "start_ns": START_NS,
        "end_ns": START_NS + 10 * M,
        "tier": "T0",
        "reason": "gap",
        "created_ns": NOW_NS + number,
        "updated_ns": NOW_NS + number,
    }
    return BackfillJob(**(fields | changed))


def as_told(some):
    """Without what a queue itself writes."""
    return msgspec.structs.replace(some, updated_ns=0, state="queued")


@pytest.fixture(params=["records", "redis"])
def open_queue(request):
    @asynccontextmanager
    async def opened(**options):
        clock = ManualClock(NOW_NS + 10**9)
        options = {"queue_max": 100, "lease_s": 30.0} | options
        if request.param == "records":
            records = SqliteRecords(None)
            queue = RecordsQueue(records, clock, **options)
        else:
            queue = RedisQueue(request.getfixturevalue("redis_server").url, clock, **options)
        try:
            yield queue, clock
        finally:
            await queue.close()
            await queue.close()

    return opened


def in_queue(open_queue, test, **options):
    async def main():
        async with open_queue(**options) as (queue, clock):
            await test(queue, clock)

    asyncio.run(main())


def test_the_oldest_of_a_tier_is_taken_first_and_once(open_queue):
    async def test(queue, _):
        assert await queue.put([job(0), job(1), job(2), job(3, tier="T1")]) == ("job-0", "job-1", "job-2", "job-3")
        first = await queue.take("T0", 2)
        assert [as_told(j) for j in first] == [as_told(job(0)), as_told(job(1))]
        assert {j.state for j in first} == {"running"}
        assert [j.id for j in await queue.take("T0", 5)] == ["job-2"]
        assert await queue.take("T0", 5) == ()
        assert [j.id for j in await queue.take("T1", 5)] == ["job-3"]
        assert await queue.take("T2", 5) == ()

    in_queue(open_queue, test)


def test_the_same_ask_is_kept_once_while_it_is_open(open_queue):
    async def test(queue, _):
        assert await queue.put([job(0)]) == ("job-0",)
        same = job(0, id="other", reason="scan", tier="T1")
        assert await queue.put([same]) == ("job-0",)
        (taken,) = await queue.take("T0", 5)
        assert await queue.put([same]) == ("job-0",)
        assert await queue.job("other") is None
        assert await queue.take("T1", 5) == ()
        assert await queue.put([job(0, id="by-name", provider="x")]) == ("by-name",)
        assert await queue.save(msgspec.structs.replace(taken, state="done"))
        assert await queue.put([same]) == ("other",)
        assert [j.id for j in await queue.take("T1", 5)] == ["other"]

    in_queue(open_queue, test)


def test_a_state_is_kept_with_all_its_numbers(open_queue):
    async def test(queue, _):
        await queue.put([job(0)])
        (taken,) = await queue.take("T0", 1)
        changed = msgspec.structs.replace(
            taken,
            done_ns=START_NS + 4 * M,
            bars=4,
            new_versions=3,
            no_trades=2,
            quarantined=1,
            attempts=5,
            error="it was “so”",
            updated_ns=NOW_NS + 123_456_789,
        )
        assert await queue.save(changed)
        assert await queue.job("job-0") == changed
        assert await queue.jobs(states=["running"]) == (changed,)

    in_queue(open_queue, test)


def test_what_is_given_back_rests_and_keeps_its_place(open_queue):
    async def test(queue, clock):
        await queue.put([job(0), job(1)])
        (taken,) = await queue.take("T0", 1)
        rests = msgspec.structs.replace(
            taken, state="queued", attempts=1, done_ns=START_NS + M, not_before_ns=clock.time_ns() + 5 * 10**9
        )
        assert await queue.save(rests)
        assert (await queue.waiting())["T0"].count == 2
        assert [j.id for j in await queue.take("T0", 5)] == ["job-1"]
        assert await queue.take("T0", 5) == ()
        await clock.advance(5)
        (again,) = await queue.take("T0", 5)
        assert (again.id, again.attempts, again.done_ns, again.state) == ("job-0", 1, START_NS + M, "running")

    in_queue(open_queue, test)


def test_what_is_put_to_rest_is_not_taken_before(open_queue):
    async def test(queue, clock):
        await queue.put([job(0, not_before_ns=clock.time_ns() + 60 * 10**9)])
        assert await queue.take("T0", 5) == ()
        await clock.advance(60)
        assert [j.id for j in await queue.take("T0", 5)] == ["job-0"]

    in_queue(open_queue, test)


def test_a_cancelled_job_is_not_taken_and_not_saved(open_queue):
    async def test(queue, _):
        await queue.put([job(0), job(1)])
        (running,) = await queue.take("T0", 1)
        for number in (0, 1):
            assert (await queue.cancel(f"job-{number}")).state == "cancelled"
        assert await queue.take("T0", 5) == ()
        assert not await queue.save(msgspec.structs.replace(running, bars=3))
        assert (await queue.job("job-0")).bars == 0
        assert await queue.cancel("nobody") is None
        assert await queue.put([job(0, id="anew")]) == ("anew",)

    in_queue(open_queue, test)


def test_what_has_ended_cannot_be_cancelled(open_queue):
    async def test(queue, _):
        await queue.put([job(0)])
        (running,) = await queue.take("T0", 1)
        await queue.save(msgspec.structs.replace(running, state="done"))
        assert (await queue.cancel("job-0")).state == "done"

    in_queue(open_queue, test)


def test_a_full_tier_refuses_and_keeps_none(open_queue):
    async def test(queue, _):
        await queue.put([job(n) for n in range(3)])
        with pytest.raises(InvalidInput) as caught:
            await queue.put([job(3), job(4)])
        assert (caught.value.field, caught.value.value) == ("jobs", 5)
        assert await queue.job("job-3") is None
        assert await queue.put([job(5, tier="T1")]) == ("job-5",)
        await queue.take("T0", 1)
        assert await queue.put([job(3), job(4)]) == ("job-3", "job-4")

    in_queue(open_queue, test, queue_max=4)


def test_what_waits_is_counted_with_its_age(open_queue):
    async def test(queue, _):
        await queue.put([job(0), job(1), job(2, tier="T2")])
        await queue.take("T0", 1)
        found = await queue.waiting()
        assert {tier: (w.count, w.oldest_ns) for tier, w in found.items()} == {
            "T0": (1, NOW_NS + 1),
            "T1": (0, None),
            "T2": (1, NOW_NS + 2),
        }

    in_queue(open_queue, test)


def test_jobs_are_listed_newest_first(open_queue):
    async def test(queue, _):
        await queue.put([job(n) for n in range(4)])
        await queue.take("T0", 1)
        assert [j.id for j in await queue.jobs()] == ["job-3", "job-2", "job-1", "job-0"]
        assert [j.id for j in await queue.jobs(limit=2)] == ["job-3", "job-2"]
        assert [j.id for j in await queue.jobs(states=["running"])] == ["job-0"]
        assert [j.id for j in await queue.jobs(symbol="S2")] == ["job-2"]
        assert await queue.job("nobody") is None

    in_queue(open_queue, test)


def test_what_a_dead_worker_left_waits_again(open_queue):
    async def test(queue, clock):
        await queue.put([job(0), job(1)])
        dead, alive = await queue.take("T0", 2)
        await clock.advance(60)
        assert await queue.save(msgspec.structs.replace(alive, updated_ns=clock.time_ns()))
        assert await queue.recover(clock.time_ns() - 30 * 10**9) == 1
        assert [j.id for j in await queue.take("T0", 5)] == [dead.id]
        assert await queue.recover(clock.time_ns() - 30 * 10**9) == 0

    in_queue(open_queue, test)


def test_many_takers_never_get_the_same(open_queue):
    async def test(queue, _):
        await queue.put([job(n) for n in range(60)])
        taken = await asyncio.gather(*(queue.take("T0", 7) for _ in range(12)))
        ids = [j.id for some in taken for j in some]
        assert sorted(ids) == sorted(f"job-{n}" for n in range(60))

    in_queue(open_queue, test)


def test_a_process_of_its_own_takes_up_all_that_ran():
    async def main():
        clock = ManualClock(NOW_NS)
        records = SqliteRecords(None)
        await RecordsQueue(records, clock, queue_max=10).put([job(0)])
        queue = RecordsQueue(records, clock, queue_max=10)
        await queue.take("T0", 1)
        shared = RecordsQueue(records, clock, queue_max=10, lease_s=30, shared=True)
        assert await shared.recover() == 0
        assert await queue.recover() == 1

    asyncio.run(main())


# --- what is in Redis --------------------------------------------------------------------------------------


@asynccontextmanager
async def redis_queue(server, **options):
    clock = ManualClock(NOW_NS)
    options = {"queue_max": 100, "lease_s": 30.0} | options
    queue = RedisQueue(server.url, clock, **options)
    async with Redis.from_url(server.url, decode_responses=True) as client:
        yield queue, clock, client
    await queue.close()


PUSHED = {
    "version": 1,
    "symbol": "AAPL",
    "interval": "M1",
    "start": "2026-11-18T10:00:00Z",
    "end": "2026-11-18T12:00:00+01:00",
}


def test_another_program_can_push_a_job(redis_server):
    async def main():
        async with redis_queue(redis_server) as (queue, _, client):
            await client.lpush("market:backfills:T1", json.dumps(PUSHED))
            (taken,) = await queue.take("T1", 5)
            assert (taken.symbol, taken.interval, taken.tier, taken.reason) == ("AAPL", "1m", "T1", "manual")
            assert (taken.start_ns, taken.end_ns) == (START_NS, parse_ns("2026-11-18T11:00:00Z"))
            assert await client.lrange("market:backfills:T1:in-flight", 0, -1) == [json.dumps(PUSHED)]
            assert await queue.job(taken.id) == taken
            await queue.save(msgspec.structs.replace(taken, state="done"))
            assert await client.lrange("market:backfills:T1:in-flight", 0, -1) == []
            assert await client.hgetall("market:backfills:T1:in-flight:since") == {}
            assert await client.hgetall("market:backfills:open") == {}
            # The same text is the same job.
            await client.lpush("market:backfills:T1", json.dumps(PUSHED))
            assert await queue.take("T1", 5) == ()
            assert await client.lrange("market:backfills:T1:in-flight", 0, -1) == []

    asyncio.run(main())


def test_what_is_already_asked_for_is_not_worked_on_twice(redis_server):
    async def main():
        async with redis_queue(redis_server) as (queue, _, client):
            for name in ("a", "b"):
                await client.lpush("market:backfills:T0", json.dumps(PUSHED | {"id": name}))
            assert [j.id for j in await queue.take("T0", 5)] == ["a"]
            twin = await queue.job("b")
            assert (twin.state, twin.error) == ("cancelled", "the same as a")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "malformed"),
        ("[1, 2]", "object"),
        (json.dumps(PUSHED | {"version": 2}), "version"),
        (json.dumps({k: v for k, v in PUSHED.items() if k != "symbol"}), "symbol"),
        (json.dumps(PUSHED | {"symbol": " "}), "symbol"),
        (json.dumps(PUSHED | {"interval": "7m"}), "7m"),
        (json.dumps(PUSHED | {"start": "yesterday"}), "yesterday"),
        (json.dumps(PUSHED | {"start": "2026-11-18T10:00:00"}), "offset"),
        (json.dumps(PUSHED | {"end": PUSHED["start"]}), "no 1m bar"),
        (json.dumps(PUSHED | {"tier": "T2"}), "tier T2"),
        (json.dumps(PUSHED | {"priority": 1}), "priority"),
        (json.dumps(PUSHED | {"id": ""}), "id"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_a_text_that_is_no_job_goes_to_the_dead_letters(redis_server, text, reason):
    async def main():
        async with redis_queue(redis_server) as (queue, _, client):
            await client.lpush("market:backfills:T0", text)
            await queue.put([job(1)])
            assert [j.id for j in await queue.take("T0", 5)] == ["job-1"]
            (dead,) = [json.loads(row) for row in await client.lrange("market:backfills:T0:dead", 0, -1)]
            assert dead["job"] == (text if isinstance(text, str) else text.decode("utf-8", "replace"))
            assert reason in dead["reason"].lower() or reason in dead["reason"]
            assert dead["at"] == "2026-11-20T14:30:20Z"
            assert await client.llen("market:backfills:T0:in-flight") == 1

    asyncio.run(main())


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda d: json.dumps(PUSHED | d).encode(),
            st.dictionaries(
                st.sampled_from(["version", "symbol", "interval", "start", "end", "tier", "provider", "id", "created"]),
                st.one_of(st.none(), st.integers(), st.text(max_size=20), st.lists(st.integers(), max_size=2)),
                max_size=4,
            ),
        ),
    )
)
def test_whatever_is_pushed_is_a_job_or_a_value_error(text):
    try:
        made = job_from_json(text, "T0", NOW_NS)
    except ValueError:
        return
    assert made.start_ns < made.end_ns
    assert made.symbol.strip()
    assert made.id


@given(
    st.builds(
        job,
        st.integers(0, 9),
        state=st.sampled_from(["queued", "running", "done", "parked", "cancelled"]),
        done_ns=st.one_of(st.none(), st.integers(1, 4 * 10**18)),
        bars=st.integers(0, 10**9),
        not_before_ns=st.integers(0, 4 * 10**18),
        error=st.one_of(st.none(), st.text()),
        provider=st.one_of(st.none(), st.text(min_size=1)),
    )
)
def test_a_record_reads_back_as_the_same_job(some):
    text = msgspec.json.encode(JobRecord.from_job(some))
    assert msgspec.json.decode(text, type=JobRecord).to_job() == some


def test_a_crash_between_taking_and_saving_loses_nothing(redis_server):
    async def main():
        async with redis_queue(redis_server) as (queue, clock, client):
            await queue.put([job(0)])
            assert await queue.lists["T0"].take(clock.time_ns()) is not None  # and here the process dies
            assert await queue.take("T0", 5) == ()
            await clock.advance(31)
            assert await queue.recover() == 1
            assert [j.id for j in await queue.take("T0", 5)] == ["job-0"]
            assert await client.llen("market:backfills:T0:in-flight") == 1

    asyncio.run(main())


def test_only_so_many_ended_jobs_are_remembered(redis_server):
    async def main():
        async with redis_queue(redis_server, ended_max=3) as (queue, clock, client):
            await queue.put([job(n) for n in range(5)])
            for taken in await queue.take("T0", 5):
                await clock.advance(1)
                await queue.save(msgspec.structs.replace(taken, state="done"))
            assert sorted(j.id for j in await queue.jobs()) == ["job-2", "job-3", "job-4"]
            assert await client.zcard("market:backfills:ended") == 3
            assert await client.hlen("market:backfills:open") == 0

    asyncio.run(main())


def test_redis_may_go_and_come_back(redis_server):
    async def main():
        async with redis_queue(redis_server) as (queue, _, client):
            await queue.put([job(0), job(1)])
            (running,) = await queue.take("T0", 1)
            await client.save()
            redis_server.kill()
            for call in (queue.take("T0", 1), queue.save(running), queue.put([job(2)]), queue.job("job-0")):
                with pytest.raises(StoreError):
                    await call
            redis_server.start()
            assert await queue.save(msgspec.structs.replace(running, state="done"))
            assert [j.id for j in await queue.take("T0", 5)] == ["job-1"]

    asyncio.run(main())


def test_a_url_that_is_none_is_refused_without_its_password():
    with pytest.raises(InvalidInput) as caught:
        RedisQueue("nothing://user:secret@host", ManualClock(), queue_max=1)
    assert "secret" not in str(caught.value)
