"""One job: what is asked, kept, remembered and given up. The clock is the test's, the records are real."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest
from backfill_desk import MINUTE, NOW_NS, Desk

from marketd.continuity.plan import BackfillConfig
from marketd.errors import MalformedMessage, SourceRejected, SourceUnavailable, StoreError
from marketd.model import BackfillJob, Interval, parse_ns
from marketd.testing import ScriptedHistory

M = 60 * 10**9
DAY = parse_ns("2026-11-18")
QUICK = {"dispatch_rate_per_s": 1e6}


def job(start="2026-11-18T10:00:00Z", end="2026-11-18T10:10:00Z", **changed):
    fields = {
        "id": "job-1",
        "symbol": "AAPL",
        "interval": "1m",
        "start_ns": parse_ns(start),
        "end_ns": parse_ns(end),
        "tier": "T1",
        "reason": "manual",
        "created_ns": NOW_NS,
        "updated_ns": NOW_NS,
    }
    return BackfillJob(**(fields | changed))


async def worked(desk, asked, worker=None, seconds=600.0):
    """Put the job, take it, let the worker work; the job as it is kept afterwards."""
    await desk.queue.put([asked])
    (taken,) = await desk.queue.take(asked.tier, 1)
    return await finished(desk, taken, worker, seconds)


async def finished(desk, taken, worker=None, seconds=600.0):
    task = asyncio.create_task((worker or desk.worker()).work(taken))
    for _ in range(2_000):
        if task.done():
            break
        await asyncio.sleep(0.001)
        await desk.clock.advance(seconds / 2_000)
    ended = await asyncio.wait_for(task, 5)
    assert await desk.queue.job(taken.id) == ended
    return ended


def spans(desk, reason, symbol="AAPL", interval="1m"):
    found = desk.records.spans(interval, 0, 2**62, symbol=symbol)
    return [(s.provider, s.start_ns, s.end_ns) for s in found if s.reason == reason]


def sample(desk, name, **labels):
    return desk.metrics.registry.get_sample_value(name, labels) or 0.0


def test_every_bar_of_the_range_comes_in_by_the_door():
    async def main():
        desk = Desk()
        ended = await worked(desk, job())
        first = parse_ns("2026-11-18T10:00:00Z")
        # ScriptedHistory: 100 + minutes since the epoch modulo 1000; 2026-11-18T10:00Z is minute 29_916_600
        assert desk.stored() == {first + i * M: 700.0 + i for i in range(10)}
        assert (ended.state, ended.bars, ended.new_versions, ended.no_trades, ended.quarantined) == (
            "done",
            10,
            10,
            0,
            0,
        )
        assert ended.done_ns == ended.end_ns
        assert sample(desk, "jobs_processed_total", type="backfill", provider="scripted") == 1
        assert sample(desk, "backfill_jobs_completed_total", tier="T1", status="done") == 1

    asyncio.run(main())


def test_a_long_range_is_asked_for_day_by_day_and_kept_in_batches():
    async def main():
        desk = Desk(BackfillConfig(batch_size=1_000, **QUICK))
        ended = await worked(desk, job("2026-11-17T12:00:00Z", "2026-11-19T06:00:00Z"))
        assert [(a[2], a[3]) for a in desk.history.asked] == [
            (parse_ns("2026-11-17T12:00:00Z"), DAY),
            (DAY, parse_ns("2026-11-19")),
            (parse_ns("2026-11-19"), parse_ns("2026-11-19T06:00:00Z")),
        ]
        assert [rows for _, rows in desk.batches] == [720, 1000, 440, 360]
        assert (ended.bars, len(desk.stored())) == (2520, 2520)

    asyncio.run(main())


def test_an_absent_minute_is_remembered_and_not_asked_for_again():
    async def main():
        desk = Desk()
        hole = parse_ns("2026-11-18T10:04:00Z")
        desk.history = ScriptedHistory(desk.clock, holes=[hole])
        desk.providers = [("scripted", desk.history)]
        ended = await worked(desk, job())
        assert (ended.bars, ended.no_trades) == (9, 1)
        ((provider, low, high),) = spans(desk, "no_trades")
        assert provider == "scripted"
        assert low <= hole < high
        again = await worked(desk, job(id="job-2", reason="gap"))
        assert (again.state, again.bars) == ("done", 0)
        assert len(desk.history.asked) == 1

    asyncio.run(main())


def test_a_hole_in_the_middle_is_all_that_is_asked_for():
    async def main():
        desk = Desk()
        await worked(desk, job("2026-11-18T10:00:00Z", "2026-11-18T10:03:00Z", id="a"))
        await worked(desk, job("2026-11-18T10:07:00Z", "2026-11-18T10:10:00Z", id="b"))
        await worked(desk, job(id="c", reason="gap"))
        asked = desk.history.asked[-1]
        assert asked[2:] == (parse_ns("2026-11-18T10:03:00Z"), parse_ns("2026-11-18T10:07:00Z"))
        assert len(desk.stored()) == 10

    asyncio.run(main())


def test_what_is_there_between_holes_stays_as_it_is():
    async def main():
        desk = Desk()
        await worked(desk, job("2026-11-18T10:02:00Z", "2026-11-18T10:05:00Z", id="a"))
        # what a stream wrote: the same bar with more known of it
        seen = desk.store.read("AAPL", MINUTE, 0, 2**62, limit=1)
        for name, value in (("trades", 7), ("status", "final")):
            column = seen.schema.get_field_index(name)
            seen = seen.set_column(column, seen.schema.field(name), pa.array([value], seen.schema.field(name).type))
        assert desk.store.append(seen) == 1
        done = await worked(desk, job(id="b", reason="gap"))
        assert desk.history.asked[-1][2:] == (parse_ns("2026-11-18T10:00:00Z"), parse_ns("2026-11-18T10:10:00Z"))
        assert (done.bars, done.new_versions) == (10, 7)
        there = desk.store.read("AAPL", MINUTE, 0, 2**62)
        assert there["status"].to_pylist() == ["backfill"] * 2 + ["final"] + ["backfill"] * 7
        assert there["trades"].to_pylist() == [None] * 2 + [7] + [None] * 7

    asyncio.run(main())


def test_after_a_reconnect_all_is_asked_for_even_what_was_answered():
    async def main():
        desk = Desk()
        desk.history = ScriptedHistory(desk.clock, holes=[parse_ns("2026-11-18T10:04:00Z")])
        desk.providers = [("scripted", desk.history)]
        await worked(desk, job(id="a", reason="gap"))
        again = await worked(desk, job(id="b", reason="reconnect"))
        assert (again.bars, again.new_versions) == (9, 0)
        assert len(desk.history.asked) == 2

    asyncio.run(main())


def test_closed_time_is_not_asked_for():
    async def main():
        desk = Desk()
        opens, closes = parse_ns("2026-11-18T14:30:00Z"), parse_ns("2026-11-18T21:00:00Z")
        everything = desk.expected

        def expected(*asked):
            starts = everything(*asked)
            return starts[(starts >= opens) & (starts < closes)]

        worker = desk.worker(expected=expected)
        ended = await worked(desk, job("2026-11-15", "2026-11-20"), worker)
        assert [a[2:] for a in desk.history.asked] == [(opens, closes)]
        assert (ended.state, ended.bars) == ("done", 390)
        cursor = desk.records.cursor("AAPL", "1m", "scripted")
        assert cursor.until_ns == parse_ns("2026-11-20T14:29:00Z")  # all that is expected is there

    asyncio.run(main())


def test_refused_rows_are_quarantined_and_the_others_kept():
    async def main():
        desk = Desk()
        bad = [parse_ns("2026-11-18T10:02:00Z"), parse_ns("2026-11-18T10:03:00Z"), parse_ns("2026-11-18T10:06:00Z")]
        desk.refuse = set(bad)
        ended = await worked(desk, job())
        assert (ended.bars, ended.new_versions, ended.quarantined, ended.no_trades) == (10, 7, 3, 0)
        assert spans(desk, "quarantined") == [("scripted", bad[0], bad[1] + M), ("scripted", bad[2], bad[2] + M)]
        assert spans(desk, "no_trades") == []

    asyncio.run(main())


def test_what_lies_before_a_providers_history_is_asked_of_the_next():
    async def main():
        desk = Desk()
        begins = parse_ns("2026-11-18T10:06:00Z")
        young = ScriptedHistory(desk.clock, name="young", start_ns=begins)
        old = ScriptedHistory(desk.clock, name="old", start_ns=parse_ns("2026-11-18T10:02:00Z"))
        desk.providers = [("young", young), ("old", old)]
        ended = await worked(desk, job())
        assert young.asked[0][2:] == (begins, parse_ns("2026-11-18T10:10:00Z"))
        assert old.asked[0][2:] == (parse_ns("2026-11-18T10:02:00Z"), begins)
        assert (ended.state, ended.bars) == ("done", 8)
        lacking = (parse_ns("2026-11-18T10:00:00Z"), parse_ns("2026-11-18T10:02:00Z"))
        assert sorted(spans(desk, "provider_lacks")) == [("old", *lacking), ("young", *lacking)]

    asyncio.run(main())


@pytest.mark.parametrize("error", [SourceRejected("first", "no such symbol"), SourceUnavailable("first", "down")])
def test_the_next_provider_is_asked_when_one_cannot(error):
    async def main():
        desk = Desk()
        first, second = ScriptedHistory(desk.clock, name="first"), ScriptedHistory(desk.clock, name="second")
        first.failures.append(error)
        desk.providers = [("first", first), ("second", second)]
        ended = await worked(desk, job())
        assert (ended.state, ended.bars, ended.attempts) == ("done", 10, 0)
        assert [provider for provider, _ in desk.batches] == ["second"]

    asyncio.run(main())


def test_a_job_for_one_provider_asks_no_other():
    async def main():
        desk = Desk()
        first, second = ScriptedHistory(desk.clock, name="first"), ScriptedHistory(desk.clock, name="second")
        desk.providers = [("first", first), ("second", second)]
        await worked(desk, job(provider="second"))
        assert (first.asked, len(second.asked)) == ([], 1)

    asyncio.run(main())


def test_what_nobody_can_answer_is_parked_with_the_reason():
    async def main():
        desk = Desk()
        desk.history.failures.append(SourceRejected("scripted", "unknown symbol AAPL"))
        refused = await worked(desk, job())
        assert (refused.state, refused.error) == ("parked", "scripted: unknown symbol AAPL")
        nobody = await worked(desk, job(id="job-2", provider="elsewhere"))
        assert nobody.state == "parked"
        assert nobody.error == "elsewhere is not a provider that has a history of 1m bars of AAPL"
        assert sample(desk, "backfill_jobs_completed_total", tier="T1", status="parked") == 2

    asyncio.run(main())


def test_a_failure_rests_and_goes_on_from_the_last_chunk():
    async def main():
        desk = Desk()
        two_days = job("2026-11-17", "2026-11-19")
        await desk.queue.put([two_days])
        (taken,) = await desk.queue.take("T1", 1)
        desk.history.failures.extend([MalformedMessage("scripted", "no JSON")])
        first = await finished(desk, taken)
        assert (first.state, first.attempts, first.error) == ("queued", 1, "scripted: no JSON: ''")
        rest_s = (first.not_before_ns - first.updated_ns) / 1e9
        assert 2.0 <= rest_s <= 2.4
        assert await desk.queue.take("T1", 1) == ()
        await desk.clock.advance(3)
        (taken,) = await desk.queue.take("T1", 1)
        asked = len(desk.history.asked)
        second = await finished(desk, taken)
        assert (second.state, second.bars, second.attempts, second.error) == ("done", 2880, 0, None)
        assert len(desk.history.asked) - asked == 2

    asyncio.run(main())


def test_a_provider_that_says_when_is_not_asked_before():
    async def main():
        desk = Desk()
        desk.history.failures.append(SourceUnavailable("scripted", "HTTP 429", retry_after_s=900.0))
        ended = await worked(desk, job(), seconds=1.0)
        assert (ended.not_before_ns - desk.clock.time_ns()) / 1e9 == pytest.approx(900.0, abs=1.0)

    asyncio.run(main())


def test_a_poison_job_is_parked_after_so_many_failures():
    async def main():
        desk = Desk(BackfillConfig(attempts_max=3, **QUICK))
        await desk.queue.put([job()])
        worker = desk.worker()
        states = []
        for _ in range(3):
            (taken,) = await desk.queue.take("T1", 1)
            desk.history.failures.append(MalformedMessage("scripted", "no JSON"))
            states.append((await finished(desk, taken, worker)).state)
            await desk.clock.advance(300)
        assert states == ["queued", "queued", "parked"]
        assert await desk.queue.take("T1", 1) == ()

    asyncio.run(main())


def test_an_outage_parks_nothing_however_long():
    async def main():
        desk = Desk(BackfillConfig(attempts_max=3, **QUICK))
        await desk.queue.put([job()])
        worker = desk.worker()
        desk.history.down = True
        for _ in range(10):
            (taken,) = await desk.queue.take("T1", 1)
            ended = await finished(desk, taken, worker)
            assert ended.state == "queued"
            await desk.clock.advance(300)
        desk.history.down = False
        (taken,) = await desk.queue.take("T1", 1)
        assert (await finished(desk, taken, worker)).state == "done"

    asyncio.run(main())


def test_a_job_that_alone_cannot_be_answered_is_poison():
    """Its provider answers others meanwhile."""

    async def main():
        desk = Desk(BackfillConfig(attempts_max=3, **QUICK))
        worker = desk.worker()
        await desk.queue.put([job()])
        for number in range(3):
            (taken,) = await desk.queue.take("T1", 1)
            await desk.clock.advance(1)
            await worker.fetch("MSFT", MINUTE, DAY, DAY + M)
            desk.history.failures.append(SourceUnavailable("scripted", "HTTP 500"))
            ended = await finished(desk, taken, worker)
            assert ended.state == ("parked" if number == 2 else "queued")
            await desk.clock.advance(300)

    asyncio.run(main())


def test_a_store_that_fails_loses_nothing_and_blames_no_job():
    async def main():
        desk = Desk()
        desk.keep_errors = [StoreError("disk", "no space left")] * 4
        worker = desk.worker()
        await desk.queue.put([job()])
        (taken,) = await desk.queue.take("T1", 1)
        task = asyncio.create_task(worker.work(taken))
        while len(desk.keep_errors) > 1:
            await asyncio.sleep(0.001)
            await desk.clock.advance(0.05)
        assert "no space left" in worker.error
        for _ in range(500):
            await asyncio.sleep(0.001)
            await desk.clock.advance(0.05)
        ended = await asyncio.wait_for(task, 5)
        assert (ended.state, ended.bars, ended.attempts) == ("done", 10, 0)
        assert worker.error is None

    asyncio.run(main())


def test_the_running_bar_is_left_out_and_a_fresh_absence_is_not_believed():
    async def main():
        desk = Desk(BackfillConfig(settle_s=60.0, **QUICK))
        # Now is 14:30:20. 14:29 has been over for 20 s, 14:28 for 80 s, 14:30 is running.
        holes = [parse_ns(f"2026-11-20T14:{m}:00Z") for m in (27, 29)]
        desk.history = ScriptedHistory(desk.clock, holes=holes)
        desk.providers = [("scripted", desk.history)]
        ended = await worked(desk, job("2026-11-20T14:25:00Z", "2026-11-20T15:00:00Z"), seconds=0.01)
        assert sorted(desk.stored()) == [parse_ns(f"2026-11-20T14:{m}:00Z") for m in (25, 26, 28)]
        assert (ended.state, ended.no_trades) == ("done", 1)
        ((_, low, high),) = spans(desk, "no_trades")
        assert low <= holes[0] < high <= holes[1]
        assert desk.records.cursor("AAPL", "1m", "scripted").until_ns == holes[1]

    asyncio.run(main())


def test_a_cancelled_job_stops_after_its_request():
    async def main():
        desk = Desk()
        desk.history.delay_s = 10.0
        await desk.queue.put([job("2026-11-10", "2026-11-15")])
        (taken,) = await desk.queue.take("T1", 1)
        task = asyncio.create_task(desk.worker().work(taken))
        while len(desk.history.asked) < 2:
            await asyncio.sleep(0.001)
            await desk.clock.advance(1)
        cancelled = await desk.queue.cancel(taken.id)
        assert cancelled.state == "cancelled"
        for _ in range(100):
            await asyncio.sleep(0.001)
            await desk.clock.advance(1)
        ended = await asyncio.wait_for(task, 5)
        assert ended.state == "cancelled"
        assert len(desk.history.asked) == 2
        assert (await desk.queue.job(taken.id)).state == "cancelled"
        assert len(desk.stored()) == 2 * 1440  # what had been asked for is kept

    asyncio.run(main())


def test_a_second_time_makes_no_version():
    async def main():
        desk = Desk()
        await worked(desk, job())
        again = await worked(desk, job(id="job-2"))
        assert (again.state, again.bars, again.new_versions) == ("done", 10, 0)
        assert desk.versions() == 10

    asyncio.run(main())


def test_a_job_whose_worker_died_goes_on_where_it_was():
    async def main():
        desk = Desk(BackfillConfig(chunk_minutes=60, **QUICK))
        desk.history.delay_s = 1.0
        await desk.queue.put([job("2026-11-10", "2026-11-10T05:00:00Z")])
        (taken,) = await desk.queue.take("T1", 1)
        task = asyncio.create_task(desk.worker().work(taken))
        while len(desk.history.asked) < 3:
            await asyncio.sleep(0.001)
            await desk.clock.advance(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await desk.queue.job(taken.id)).state == "running"
        await desk.clock.advance(1)
        assert await desk.queue.recover() == 1
        (again,) = await desk.queue.take("T1", 1)
        assert again.done_ns == parse_ns("2026-11-10T02:00:00Z")
        ended = await finished(desk, again, seconds=60.0)
        assert (ended.state, ended.bars) == ("done", 5 * 60)
        assert len(desk.stored()) == desk.versions() == 5 * 60

    asyncio.run(main())


def test_a_slow_request_keeps_its_lease():
    async def main():
        desk = Desk(BackfillConfig(lease_s=30.0, **QUICK))
        desk.history.delay_s = 100.0
        await desk.queue.put([job()])
        (taken,) = await desk.queue.take("T1", 1)
        task = asyncio.create_task(desk.worker().work(taken))
        for _ in range(95):
            await asyncio.sleep(0.001)
            await desk.clock.advance(1.0)
        known = await desk.queue.job(taken.id)
        assert known.state == "running"
        assert desk.clock.time_ns() - known.updated_ns <= 15 * 10**9
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_requests_are_dispatched_at_a_rate():
    async def main():
        desk = Desk(BackfillConfig(dispatch_rate_per_s=2.0))
        await desk.queue.put([job("2026-11-01", "2026-11-11")])
        (taken,) = await desk.queue.take("T1", 1)
        task = asyncio.create_task(desk.worker().work(taken))
        for _ in range(300):
            await asyncio.sleep(0.002)
            await desk.clock.advance(0.01)
        # Two at once, then one every half second: 3 s make at most 2 + 6.
        assert 2 <= len(desk.history.asked) <= 8
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_back_fill_waits_while_live_work_is_behind():
    async def main():
        desk = Desk(BackfillConfig(batch_size=500, **QUICK))
        room = asyncio.Event()
        worker = desk.worker(ready=room.wait)
        await desk.queue.put([job("2026-11-10", "2026-11-11")])
        (taken,) = await desk.queue.take("T1", 1)
        task = asyncio.create_task(worker.work(taken))
        for _ in range(50):
            await asyncio.sleep(0.001)
            await desk.clock.advance(1)
        assert desk.history.asked == []
        room.set()
        ended = await asyncio.wait_for(task, 5)
        assert ended.bars == 1440

    asyncio.run(main())


def test_a_fetch_as_it_comes_asks_at_once_in_small_batches():
    async def main():
        desk = Desk(BackfillConfig(live_batch_size=4))
        fetched = await desk.worker().fetch("AAPL", MINUTE, DAY + 1, DAY + 11 * M)
        assert (fetched.provider, fetched.bars, fetched.new_versions) == ("scripted", 10, 10)
        assert [rows for _, rows in desk.batches] == [4, 4, 2]
        desk.history.down = True
        with pytest.raises(SourceUnavailable):
            await desk.worker().fetch("AAPL", MINUTE, DAY, DAY + M)
        desk.providers = []
        with pytest.raises(SourceRejected, match="no provider has a history"):
            await desk.worker().fetch("AAPL", MINUTE, DAY, DAY + M)

    asyncio.run(main())


def test_a_cursor_moves_over_what_is_there_and_stops_at_a_hole():
    async def main():
        desk = Desk()
        start = parse_ns("2026-11-18T10:00:00Z")
        await worked(desk, job("2026-11-18T10:10:00Z", "2026-11-18T10:20:00Z", id="late"))
        assert desk.records.cursor("AAPL", "1m", "scripted").until_ns == start + 20 * M
        await worked(desk, job("2026-11-18T10:30:00Z", "2026-11-18T10:40:00Z", id="later"))
        assert desk.records.cursor("AAPL", "1m", "scripted").until_ns == start + 20 * M
        await worked(desk, job("2026-11-18T10:20:00Z", "2026-11-18T10:30:00Z", id="between"))
        assert desk.records.cursor("AAPL", "1m", "scripted").until_ns == start + 40 * M

    asyncio.run(main())


def test_daily_bars_are_asked_for_years_at_once():
    async def main():
        desk = Desk()
        daily = job("2023-01-01", "2026-11-01", interval="1d")
        ended = await worked(desk, daily)
        assert ended.state == "done"
        assert len(desk.history.asked) <= 2
        assert len(desk.stored(interval=Interval.parse("1d"))) == 1400  # days from 2023-01-01 to 2026-11-01

    asyncio.run(main())


def test_a_defect_is_told_and_counted_as_a_failure(caplog):
    async def main():
        desk = Desk(BackfillConfig(attempts_max=1, **QUICK))
        desk.history.failures.append(ZeroDivisionError("a defect"))
        ended = await worked(desk, job())
        assert (ended.state, ended.error) == ("parked", "ZeroDivisionError: a defect")

    asyncio.run(main())
    assert "a defect in working off back-fill" in caplog.text
