"""The service: asks, places by tier, healing, restarts. The end-to-end part speaks to a provider's wire format."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from backfill_desk import MINUTE, NOW_NS, Desk

from marketd.continuity.backfill import BackfillService
from marketd.continuity.ledger import SymbolGaps
from marketd.continuity.plan import BackfillConfig, TierLimits
from marketd.continuity.queue import RedisQueue
from marketd.errors import InvalidInput, StoreError
from marketd.model import Interval, MissingSpan, parse_ns
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.coinbase.history import CoinbaseHistory, http_client
from marketd.sources.http import HttpConfig
from marketd.testing.providers import CoinbaseSimulator

M = 60 * 10**9
TEN = parse_ns("2026-11-18T10:00:00Z")
QUICK = {"dispatch_rate_per_s": 1e6, "heal_delay_s": 1.0}


def service_of(desk, **others):
    return BackfillService(desk.queue, desk.records, desk.store, desk.config, desk.clock, **(desk.seams() | others))


@asynccontextmanager
async def running(desk, **others):
    service = service_of(desk, **others)
    service.start()
    try:
        yield service
    finally:
        await service.stop()


async def until(desk, condition, step_s=0.5, turns=4_000):
    """Let the clock run and threads work until it is so."""
    for _ in range(turns):
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await desk.clock.advance(step_s)
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


async def ended(desk, service, job):
    async def is_over():
        known = await service.job(job.id)
        return known if known.state in ("done", "parked", "cancelled") else None

    return await until(desk, is_over)


def hole(start_ns, minutes):
    return MissingSpan(start_ns=start_ns, end_ns=start_ns + minutes * M, reason="not_fetched", count=minutes)


def test_an_ask_is_worked_off():
    async def main():
        desk = Desk()
        async with running(desk) as service:
            job = await service.submit("AAPL", MINUTE, TEN + 1, TEN + 11 * M, tier="T0")
            assert (job.state, job.start_ns, job.end_ns, job.tier) == ("queued", TEN + M, TEN + 11 * M, "T0")
            over = await ended(desk, service, job)
            assert (over.state, over.bars) == ("done", 10)
            assert (await service.cursor("AAPL", MINUTE, "scripted")).until_ns == TEN + 11 * M
            assert [j.id for j in await service.jobs(symbol="AAPL")] == [job.id]
            value = desk.metrics.registry.get_sample_value
            assert value("backfill_jobs_enqueued_total", {"tier": "T0"}) == 1

    asyncio.run(main())


def test_asks_are_cut_at_now_and_empty_ones_refused():
    async def main():
        desk = Desk()
        service = service_of(desk)
        job = await service.submit("AAPL", MINUTE, NOW_NS - 5 * M, NOW_NS + 60 * M)
        assert job.end_ns == parse_ns("2026-11-20T14:30:00Z")
        for start, end in ((NOW_NS, NOW_NS + M), (TEN + 1, TEN + 2), (TEN, TEN)):
            with pytest.raises(InvalidInput, match="at least one 1m bar"):
                await service.submit("AAPL", MINUTE, start, end)
        await service.stop()

    asyncio.run(main())


def test_an_ask_that_an_open_job_covers_is_that_job():
    async def main():
        desk = Desk()
        service = service_of(desk)
        wide = await service.submit("AAPL", MINUTE, TEN, TEN + 60 * M, tier="T1")
        assert (await service.submit("AAPL", MINUTE, TEN, TEN + 60 * M, tier="T1")).id == wide.id
        assert (await service.submit("AAPL", MINUTE, TEN + 5 * M, TEN + 9 * M, tier="T2")).id == wide.id
        others = [
            await service.submit("AAPL", MINUTE, TEN + 5 * M, TEN + 9 * M, tier="T0"),  # more urgent
            await service.submit("AAPL", MINUTE, TEN + 5 * M, TEN + 61 * M, tier="T1"),
            await service.submit("AAPL", MINUTE, TEN, TEN + 60 * M, tier="T1", provider="scripted"),
            await service.submit("MSFT", MINUTE, TEN, TEN + 60 * M, tier="T1"),
            await service.submit("AAPL", Interval.parse("5m"), TEN, TEN + 60 * M, tier="T1"),
        ]
        assert len({wide.id, *(job.id for job in others)}) == 6
        await service.stop()

    asyncio.run(main())


def test_tiers_have_their_places():
    async def main():
        desk = Desk(BackfillConfig(max_concurrency=TierLimits(T0=3, T1=2, T2=0), **QUICK))
        desk.history.delay_s = 1e6
        async with running(desk) as service:
            for tier in ("T0", "T1", "T2"):
                for n in range(6):
                    await service.submit(f"{tier}-{n}", MINUTE, TEN, TEN + M, tier=tier)
            await until(desk, lambda: len(desk.history.asked) == 5, step_s=0.1)
            for _ in range(20):
                await desk.clock.advance(1)
            assert Counter(asked[0][:2] for asked in desk.history.asked) == {"T0": 3, "T1": 2}
            assert service.state.running == 5
            await until(desk, lambda: service.state.waiting and service.state.waiting["T2"].count == 6)
            assert service.state.waiting["T0"].count == 3
            await until(desk, lambda: desk.metrics.registry.get_sample_value("backfill_queue_depth", {"tier": "T1"}))
            assert desk.metrics.registry.get_sample_value("backfill_queue_depth", {"tier": "T2"}) == 6
            assert desk.metrics.registry.get_sample_value("backfill_oldest_age_seconds", {"tier": "T2"}) > 0

    asyncio.run(main())


def test_holes_are_healed_in_few_requests_and_by_tier():
    async def main():
        desk = Desk(BackfillConfig(**QUICK))
        async with running(desk, tier_of=lambda s: "T0" if s == "AAPL" else "T1") as service:
            for at in (0, 7, 30):
                service.gap_found("AAPL", MINUTE, hole(TEN + at * M, 3))
            service.gap_found("MSFT", MINUTE, hole(TEN, 3))
            closed = MissingSpan(start_ns=TEN, end_ns=TEN + M, reason="closed", count=0)
            service.gap_found("SPY", MINUTE, closed)
            await until(desk, lambda: len(desk.stored("MSFT")) == 3 and len(desk.stored("AAPL")) == 33)
            jobs = {job.symbol: job for job in await service.jobs()}
            assert {s: (j.tier, j.reason) for s, j in jobs.items()} == {"AAPL": ("T0", "gap"), "MSFT": ("T1", "gap")}
            assert len(desk.history.asked) == 2
            value = desk.metrics.registry.get_sample_value
            assert value("gaps_found_total", {"interval": "1m"}) == 4

    asyncio.run(main())


def test_the_scan_finds_what_nobody_told():
    async def main():
        desk = Desk(BackfillConfig(scan_interval_s=60, scan_days=7, **QUICK))
        seen = []

        def scan(interval, start_ns, end_ns):
            seen.append((interval, start_ns, end_ns))
            if TEN in desk.stored():
                return []
            return [SymbolGaps(symbol="AAPL", interval="1m", spans=(hole(TEN, 5),))]

        async with running(desk, scan=scan):
            await until(desk, lambda: len(desk.stored()) == 5)
            await until(desk, lambda: len(seen) >= 3)
        interval, start_ns, end_ns = seen[0]
        # Settled before 14:29:20, so that 14:28 is the last that can be missing.
        assert (interval, end_ns) == (MINUTE, parse_ns("2026-11-20T14:29:00Z"))
        assert end_ns - start_ns == 7 * 86_400 * 10**9
        assert len(desk.history.asked) == 1

    asyncio.run(main())


def test_a_hole_whose_job_was_parked_is_left_alone_for_a_while():
    async def main():
        desk = Desk(BackfillConfig(scan_interval_s=60, parked_rest_s=3_600, **QUICK))
        desk.providers = []
        gaps = [SymbolGaps(symbol="AAPL", interval="1m", spans=(hole(TEN, 5),))]
        async with running(desk, scan=lambda *_: gaps) as service:

            async def parked():
                return len(await service.jobs(states=["parked"]))

            await until(desk, parked)
            for _ in range(30):
                await desk.clock.advance(60)
                await asyncio.sleep(0.002)
            assert len(await service.jobs()) == 1
            for _ in range(45):
                await desk.clock.advance(60)
                await asyncio.sleep(0.002)
            assert len(await service.jobs()) == 2

    asyncio.run(main())


def test_a_stream_that_returns_has_its_minutes_fetched_with_those_it_saw_in_part():
    async def main():
        desk = Desk(BackfillConfig(**QUICK))
        down_ns = parse_ns("2026-11-20T14:20:40Z")
        async with running(desk) as service:
            service.source_returned(["AAPL", "MSFT"], MINUTE, down_ns)
            await until(desk, lambda: len(desk.stored("AAPL")) == 11 and len(desk.stored("MSFT")) == 11)
            assert min(desk.stored()) == parse_ns("2026-11-20T14:20:00Z")
            assert max(desk.stored()) == parse_ns("2026-11-20T14:30:00Z")

    asyncio.run(main())


def test_a_hole_that_is_asked_for_already_does_not_keep_a_return_from_asking_for_all():
    async def main():
        desk = Desk(BackfillConfig(**QUICK))
        down_ns = parse_ns("2026-11-20T14:20:40Z")
        async with running(desk) as service:
            desk.history.down = True
            service.gap_found("AAPL", MINUTE, hole(parse_ns("2026-11-20T14:10:00Z"), 15))

            async def is_asked():
                return len(await service.jobs())

            await until(desk, is_asked)
            service.source_returned(["AAPL"], MINUTE, down_ns)
            await until(desk, lambda: is_two(service))
            spans = {job.reason: (job.start_ns, job.end_ns) for job in await service.jobs()}
            assert spans["gap"] == (parse_ns("2026-11-20T14:10:00Z"), parse_ns("2026-11-20T14:25:00Z"))
            low, high = spans["reconnect"]
            assert low == parse_ns("2026-11-20T14:20:00Z")
            assert high > spans["gap"][1]

    async def is_two(service):
        return len(await service.jobs()) == 2

    asyncio.run(main())


def test_a_full_queue_delays_healing_and_says_so():
    async def main():
        desk = Desk(BackfillConfig(max_concurrency=TierLimits(T0=0, T1=0, T2=0), **QUICK))
        desk.queue._queue_max = 1
        async with running(desk) as service:
            first = await service.submit("X", MINUTE, TEN, TEN + M)
            service.gap_found("AAPL", MINUTE, hole(TEN, 5))
            await until(desk, lambda: service.state.state == "failing")
            assert "at most 1 jobs" in service.state.error
            assert service.state.unqueued == 1
            await service.cancel(first.id)
            await until(desk, lambda: service.state.state == "ok")
            assert {j.symbol for j in await service.jobs(states=["queued"])} == {"AAPL"}

    asyncio.run(main())


def test_a_restart_goes_on_with_what_was_running():
    async def main():
        desk = Desk(BackfillConfig(chunk_minutes=60, **QUICK))
        desk.history.delay_s = 1.0
        async with running(desk) as service:
            job = await service.submit("AAPL", MINUTE, parse_ns("2026-11-10"), parse_ns("2026-11-10T05:00:00Z"))
            await until(desk, lambda: len(desk.history.asked) >= 3, step_s=0.2)
        assert (await desk.queue.job(job.id)).state == "running"
        await desk.clock.advance(1)
        async with running(desk) as service:
            over = await ended(desk, service, job)
            assert (over.state, over.bars) == ("done", 5 * 60)
        assert len(desk.stored()) == desk.versions() == 5 * 60
        assert len(desk.history.asked) <= 6

    asyncio.run(main())


def test_a_queue_that_fails_is_told_and_recovers():
    async def main():
        desk = Desk(BackfillConfig(**QUICK))
        take = desk.queue.take

        async def gone(tier, limit):
            raise StoreError("records", "disk I/O error")

        desk.queue.take = gone
        async with running(desk) as service:
            await until(desk, lambda: service.state.state == "failing")
            assert "disk I/O error" in service.state.error
            desk.queue.take = take
            await until(desk, lambda: service.state.state == "ok")
        assert service.state.state == "stopped"

    asyncio.run(main())


def test_fetching_as_it_comes_tells_how_fresh_the_store_is():
    async def main():
        desk = Desk(BackfillConfig(**QUICK))
        async with running(desk) as service:
            await service.fetch("AAPL", MINUTE, NOW_NS - 5 * M, parse_ns("2026-11-20T14:30:00Z"))
            value = desk.metrics.registry.get_sample_value
            await until(desk, lambda: value("ingestion_lag_seconds", {"interval": "1m"}))
            assert 20 <= value("ingestion_lag_seconds", {"interval": "1m"}) <= 60

    asyncio.run(main())


@pytest.mark.parametrize("engine", ["records", "redis"])
def test_end_to_end_over_a_providers_wire(engine, redis_server):
    """Bars in the store equal those made here, one by one, from the provider's trades."""

    async def main():
        desk = Desk(BackfillConfig(chunk_minutes=120, **QUICK))
        if engine == "redis":
            desk.queue = RedisQueue(redis_server.url, desk.clock, queue_max=10)
        async with CoinbaseSimulator(["BTC-USD"], seed=3, clock=desk.clock, history_minutes=900) as simulator:
            http = HttpConfig(requests_per_s=1e6, burst=1_000)
            config = CoinbaseConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, http=http)
            async with http_client(config, desk.clock) as client:
                desk.providers = [("coinbase", CoinbaseHistory(client, config, desk.clock))]
                start_ns, end_ns = NOW_NS - 800 * M, NOW_NS - 5 * M
                first_ns, last_ns = -(-start_ns // M) * M, end_ns
                async with running(desk) as service:
                    job = await service.submit("BTC-USD", MINUTE, start_ns, end_ns)
                    over = await ended(desk, service, job)
                closes = {}
                for row in simulator.trade_rows("BTC-USD"):
                    ts = parse_ns(row["time"]) // M * M
                    if first_ns <= ts < last_ns:
                        closes[ts] = float(row["price"])
                assert desk.stored("BTC-USD") == closes
                assert over.state == "done"
                assert (over.bars, over.no_trades) == (len(closes), 795 - len(closes))
                assert over.no_trades > 100

    asyncio.run(main())
