"""The cache writer: newest values, in batches, through failures of the cache, until the last."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from marketd.collect.cache_writer import CacheWriter
from marketd.errors import InvalidInput
from marketd.model import Quote, Trade
from marketd.pipeline import Pipeline
from marketd.store.quotes import CachedQuote, MemoryQuoteCache, QuoteCache, RedisQuoteCache
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

# 2026-11-20T14:30:00Z
START_NS = 1_795_185_000_000_000_000
MS = 1_000_000


class Bench:
    """A pipeline with a cache writer behind it, on a clock of the test's own."""

    def __init__(self, cache: QuoteCache, interval_ms: float = 100) -> None:
        self.clock = ManualClock(START_NS)
        self.metrics = Metrics()
        self.pipeline = Pipeline(self.clock)
        self.pipeline.add_source("test")
        self.writer = CacheWriter(
            self.pipeline.latest, cache, self.clock, interval_ms=interval_ms, metrics=self.metrics
        )
        self.pipeline.on_accepted.append(lambda _batch, changed: self.writer.mark(changed))

    def quote(self, symbol: str, bid: float | None, ask: float | None, **others: Any) -> None:
        now_ns = self.clock.time_ns()
        others.setdefault("time_event_ns", now_ns)
        self.pipeline.take(
            "test", [Quote(symbol=symbol, time_received_ns=now_ns, source="test", bid=bid, ask=ask, **others)]
        )

    @property
    def errors(self) -> float:
        return self.metrics.registry.get_sample_value("marketd_quote_cache_errors_total") or 0.0


async def until(condition: Callable[[], bool], clock: ManualClock) -> None:
    """Let the clock run, 0.1 s at a time, and I/O happen, until it is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await clock.advance(0.1)
        await asyncio.sleep(0.002)


class GatedCache(MemoryQuoteCache):
    """A cache that takes as long as the test wants, and remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[str]] = []
        self.closed = False

    async def put(self, quotes: Sequence[CachedQuote]) -> None:
        self.batches.append([quote.symbol for quote in quotes])
        await self.gate.wait()
        await super().put(quotes)

    async def close(self) -> None:
        self.closed = True


def test_what_is_written_is_the_newest_value_of_each_symbol() -> None:
    async def main() -> None:
        cache = GatedCache()
        bench = Bench(cache)
        bench.writer.start()
        bench.quote("AAPL", 150.0, 150.5, last=150.25, volume=700.0)
        bench.quote("BTC-USD", 60_000.0, 60_010.0)
        bench.quote("ONE-SIDED", 1.5, None)
        await bench.clock.advance(0.05)
        assert cache.batches == []
        assert bench.writer.waiting == 3
        bench.quote("AAPL", 150.1, 150.6, last=150.5, volume=800.0)
        await bench.clock.advance(0.05)
        assert cache.batches == [["AAPL", "BTC-USD", "ONE-SIDED"]]
        assert bench.writer.waiting == 0
        assert await cache.get("AAPL") == CachedQuote(
            symbol="AAPL",
            price=150.5,
            bid=150.1,
            ask=150.6,
            volume=800.0,
            time_event_ns=START_NS + 50 * MS,
            time_cached_ns=START_NS + 100 * MS,
        )
        assert await cache.get("BTC-USD") == CachedQuote(
            symbol="BTC-USD",
            price=60_005.0,
            bid=60_000.0,
            ask=60_010.0,
            volume=None,
            time_event_ns=START_NS,
            time_cached_ns=START_NS + 100 * MS,
        )
        one_sided = await cache.get("ONE-SIDED")
        assert one_sided is not None
        assert (one_sided.price, one_sided.bid, one_sided.ask) == (None, 1.5, None)
        bench.pipeline.take(
            "test",
            [
                Trade(
                    symbol="BTC-USD",
                    time_event_ns=START_NS + 60 * MS,
                    time_received_ns=START_NS + 100 * MS,
                    source="test",
                    price=60_007.5,
                    size=0.1,
                )
            ],
        )
        await bench.clock.advance(0.2)
        assert cache.batches[1:] == [["BTC-USD"]], "only what changed is written, and nothing when nothing did"
        traded = await cache.get("BTC-USD")
        assert traded is not None
        assert (traded.price, traded.bid, traded.time_event_ns) == (60_007.5, 60_000.0, START_NS + 60 * MS)
        await bench.writer.stop()

    asyncio.run(main())


def test_ten_thousand_ticks_are_a_few_round_trips(redis_server: Any) -> None:
    async def main() -> None:
        client = Redis.from_url(redis_server.url)
        bench = Bench(RedisQuoteCache(redis_server.url))
        for repeat in range(10):
            bench.pipeline.take(
                "test",
                [
                    Quote(
                        symbol=f"S{i}",
                        time_event_ns=START_NS + repeat,
                        time_received_ns=START_NS + repeat,
                        source="test",
                        bid=i + 1.0,
                        ask=i + 2.0,
                        last=i + 1.0 + repeat / 16,
                    )
                    for i in range(1_200)
                ],
            )
        bench.writer.start()
        await bench.clock.advance(0.1)
        await until(lambda: bench.writer.waiting == 0, bench.clock)
        stats = await client.info("commandstats")
        assert stats["cmdstat_mset"]["calls"] == 3
        assert "cmdstat_set" not in stats
        for i in range(1_200):
            held = json.loads(await client.get(f"quote:S{i}") or "")
            assert float(held["price"]) == i + 1.0 + 9 / 16
            assert held["timestamp"] == "2026-11-20T14:30:00.000000009Z"
        await bench.writer.stop()
        await client.aclose()

    asyncio.run(main())


def test_a_value_that_comes_during_a_write_is_written_next() -> None:
    async def main() -> None:
        cache = GatedCache()
        cache.gate.clear()
        bench = Bench(cache)
        bench.writer.start()
        bench.quote("AAPL", 1.0, 2.0)
        await bench.clock.advance(0.1)
        assert cache.batches == [["AAPL"]]
        assert bench.writer.waiting == 1
        bench.quote("AAPL", 1.25, 2.0)
        assert bench.writer.waiting == 1
        cache.gate.set()
        await bench.clock.advance(0.0)
        held = await cache.get("AAPL")
        assert held is not None
        assert held.bid == 1.0
        assert bench.writer.waiting == 1
        await bench.clock.advance(0.1)
        held = await cache.get("AAPL")
        assert held is not None
        assert held.bid == 1.25
        assert bench.writer.waiting == 0
        await bench.writer.stop()

    asyncio.run(main())


class SlowCache(MemoryQuoteCache):
    """Takes 50 ms for a batch, and notes when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: ManualClock | None = None
        self.at_ms: list[int] = []

    async def put(self, quotes: Sequence[CachedQuote]) -> None:
        assert self.clock is not None
        self.at_ms.append((self.clock.time_ns() - START_NS) // MS)
        await self.clock.sleep(0.05)
        await super().put(quotes)


def test_writing_takes_a_tenth_of_the_time_at_most() -> None:
    async def main() -> None:
        cache = SlowCache()
        bench = Bench(cache)
        cache.clock = bench.clock
        bench.writer.start()
        for i in range(250):
            bench.quote("AAPL", 1.0 + i / 1_000, 2.0)
            await bench.clock.advance(0.01)
        assert cache.at_ms == [100, 600, 1_100, 1_600, 2_100]
        stopping = asyncio.create_task(bench.writer.stop())
        await bench.clock.advance(0.1)
        await stopping
        held = await cache.get("AAPL")
        assert held is not None
        assert held.bid == 1.249

    asyncio.run(main())


def test_redis_gone_and_back(redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bench = Bench(RedisQuoteCache(redis_server.url))
        writer = bench.writer
        writer.start()
        for i in range(700):
            bench.quote(f"S{i}", i + 1.0, i + 2.0)
        await until(lambda: writer.waiting == 0, bench.clock)
        assert (writer.state, writer.error) == ("ok", None)

        redis_server.kill()
        bench.quote("S3", 4.5, 5.5)
        bench.quote("S699", 740.0, 741.0)
        await until(lambda: writer.state == "failing", bench.clock)
        assert writer.error is not None
        assert "ConnectionError" in writer.error
        assert writer.waiting == 2
        assert bench.errors == 1.0
        bench.quote("S3", 4.25, 5.25)
        assert writer.waiting == 2, "a symbol waits once, whatever comes"

        redis_server.start()
        await until(lambda: writer.state == "ok" and writer.waiting == 0, bench.clock)
        assert writer.error is None
        client = Redis.from_url(redis_server.url)
        bids = {i: i + 1.0 for i in range(700)} | {3: 4.25, 699: 740.0}
        held = {i: json.loads(await client.get(f"quote:S{i}") or "") for i in range(700)}
        assert {i: float(quote["bid"]) for i, quote in held.items()} == bids, "the quiet ones too: it came back empty"
        await client.aclose()
        await writer.stop()

    with caplog.at_level(logging.WARNING, "marketd.collect.cache_writer"):
        asyncio.run(main())
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the quote cache fails, trying again",
        "the quote cache works again",
    ]


def test_tries_come_further_apart_while_the_cache_fails(redis_server: Any) -> None:
    async def main() -> None:
        bench = Bench(RedisQuoteCache(redis_server.url))
        redis_server.kill()
        bench.writer.start()
        bench.quote("AAPL", 1.0, 2.0)
        tried_after_s = []
        for failures in range(1, 6):
            began_ns = bench.clock.time_ns()
            await until(lambda: bench.errors == failures, bench.clock)  # noqa: B023
            tried_after_s.append((bench.clock.time_ns() - began_ns) / 1e9)
        # 0.1 s, then 0.1, 0.2, 0.4, 0.8 with up to a fifth on top, seen in steps of 0.1 s that I/O may add to.
        assert tried_after_s[4] >= 0.8
        assert tried_after_s[3] >= 0.4
        await bench.writer.stop()

    asyncio.run(main())


def test_a_cache_that_was_emptied_is_filled_again_within_a_minute(redis_server: Any) -> None:
    async def main() -> None:
        client = Redis.from_url(redis_server.url)
        bench = Bench(RedisQuoteCache(redis_server.url))
        bench.writer.start()
        bench.quote("AAPL", 1.0, 2.0)
        bench.quote("MSFT", 3.0, 4.0)
        await until(lambda: bench.writer.waiting == 0, bench.clock)
        await client.flushall()
        await bench.clock.advance(58)
        assert await client.dbsize() == 0
        await bench.clock.advance(2.2)
        await until(lambda: bench.writer.waiting == 0, bench.clock)
        assert sorted(await client.keys()) == [b"quote:AAPL", b"quote:MSFT"]
        await bench.writer.stop()
        await client.aclose()

    asyncio.run(main())


def test_stop_writes_what_waits(redis_server: Any) -> None:
    async def main() -> None:
        bench = Bench(RedisQuoteCache(redis_server.url))
        bench.writer.start()
        bench.quote("AAPL", 1.0, 2.0)
        bench.quote("MSFT", 3.0, 4.0)
        await bench.writer.stop()
        await bench.writer.stop()
        assert (bench.writer.waiting, bench.writer.state) == (0, "ok")
        client = Redis.from_url(redis_server.url)
        assert json.loads(await client.get("quote:MSFT") or "")["ask"] == "4"
        await client.aclose()

    asyncio.run(main())


def test_stop_does_not_wait_for_a_cache_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cache = GatedCache()
        cache.gate.clear()
        bench = Bench(cache)
        bench.writer.start()
        bench.quote("AAPL", 1.0, 2.0)
        await bench.clock.advance(0.1)
        assert cache.batches == [["AAPL"]]
        await asyncio.wait_for(bench.writer.stop(timeout_s=0.05), 5)
        assert cache.batches == [["AAPL"], ["AAPL"]], "the write that was cut off was tried once more"
        assert (bench.writer.waiting, bench.writer.state) == (1, "failing")
        assert bench.writer.error == "no answer within 0.05 s"
        assert cache.closed

    asyncio.run(main())
    assert "stopped with 1 quotes that could not be cached: no answer within 0.05 s" in caplog.text


def test_stop_with_redis_gone_says_what_was_not_written(redis_server: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bench = Bench(RedisQuoteCache(redis_server.url))
        bench.writer.start()
        bench.quote("AAPL", 1.0, 2.0)
        redis_server.kill()
        await asyncio.wait_for(bench.writer.stop(), 5)
        assert bench.writer.waiting == 1

    asyncio.run(main())
    assert "stopped with 1 quotes that could not be cached: unix://" in caplog.text


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(InvalidInput, match="interval_ms: 0 is not allowed"):
        Bench(MemoryQuoteCache(), interval_ms=0)


@pytest.mark.parametrize("server", ["silent", "gone"])
def test_stop_ends_whatever_the_writer_is_doing_while_redis_cannot_be_reached(server: str) -> None:
    """Stopped after each of the first turns of the event loop in which it connects and shakes hands."""

    async def main() -> None:
        async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                writer.close()

        listening = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        if server == "gone":
            listening.close()
        for turns in range(30):
            bench = Bench(RedisQuoteCache(f"redis://127.0.0.1:{port}/0"))
            bench.writer.start()
            bench.quote("AAPL", 1.0, 2.0)
            await bench.clock.advance(0.1)
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.wait_for(bench.writer.stop(timeout_s=0.02), 5)
            assert (bench.writer.waiting, bench.writer.state) == (1, "failing")
        listening.close()

    asyncio.run(main())
