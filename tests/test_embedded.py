"""The engine inside another program: the API of `marketd.embedded`, as a program uses it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from marketd import embedded
from marketd.embedded import (
    DataSource,
    FaultConfig,
    MarketData,
    MarketDataConfig,
    MarketDataService,
    MockDataSource,
    QuoteProcessor,
    QuoteSnapshot,
    SymbolScenario,
)
from marketd.errors import ConfigError, InvalidInput, StoreError
from marketd.testing import ManualClock

# 2026-11-20T14:30:00Z
START_NS = 1_795_185_000_000_000_000
START = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
MS = timedelta(milliseconds=1)

QUOTE = MarketData("AAPL", Decimal("150.00"), Decimal("149.95"), Decimal("150.05"), 1200, START)

SYMBOLS = (
    SymbolScenario("AAPL", "volatile", Decimal("150.00"), 50),
    SymbolScenario("TSLA", "trend_up", Decimal("250.00"), 100),
    SymbolScenario("SPY", "flat", Decimal("600.00"), 20),
)


class Dictionary:
    """A `redis` with nothing but what is asked for."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def set(self, name: str, value: str) -> None:
        self.values[name] = value

    async def get(self, name: str) -> str | None:
        return self.values.get(name)


def config(**others: Any) -> MarketDataConfig:
    settings: dict[str, Any] = {"symbols": SYMBOLS, "queue_max_size": 100_000}
    return MarketDataConfig(**settings | others)


def drained(stream: asyncio.Queue[MarketData]) -> list[MarketData]:
    return [stream.get_nowait() for _ in range(stream.qsize())]


async def run_for(
    seconds: float, settings: MarketDataConfig, symbols: Iterable[str] = ("AAPL", "TSLA", "SPY"), step_s: float = 1.0
) -> tuple[MarketDataService, list[MarketData], Dictionary]:
    """A service's whole life on a clock of its own."""
    clock, redis = ManualClock(START_NS), Dictionary()
    service = MarketDataService(redis, settings, clock=clock)
    service.ensure_subscribed(symbols)
    await service.start()
    for _ in range(round(seconds / step_s)):
        await clock.advance(step_s)
    await service.stop()
    return service, drained(service.get_stream()), redis


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.005)


# --- the service ------------------------------------------------------------------------------------------------


def test_each_symbol_ticks_on_its_own_interval_with_prices_of_its_scenario() -> None:
    async def main() -> None:
        service, quotes, _ = await run_for(10, config())
        assert service.overflow_count == 0
        by_symbol = {s: [q for q in quotes if q.symbol == s] for s in ("AAPL", "TSLA", "SPY")}
        assert {s: len(q) for s, q in by_symbol.items()} == {"AAPL": 200, "TSLA": 100, "SPY": 500}
        for symbol, interval, drift, volatility in (
            ("AAPL", 50, Decimal(0), Decimal("0.01")),
            ("TSLA", 100, Decimal("0.0005"), Decimal("0.001")),
            ("SPY", 20, Decimal(0), Decimal("0.0001")),
        ):
            base = {s.symbol: s.base_price for s in SYMBOLS}[symbol]
            prices = [base, *(q.price for q in by_symbol[symbol])]
            for before, after in pairwise(prices):
                assert abs(after / before - 1 - drift) <= volatility + Decimal("1e-12")
            assert len(set(prices)) == len(prices)
            for before_q, after_q in pairwise(by_symbol[symbol]):
                assert after_q.timestamp - before_q.timestamp == interval * MS
            assert START <= by_symbol[symbol][0].timestamp < START + interval * MS
        for q in quotes:
            assert q.bid < q.price < q.ask
            # 5 basis points of the price, as far as a double tells
            assert abs((q.ask - q.bid) / q.price - Decimal("0.0005")) < Decimal("1e-12")
        assert quotes == sorted(quotes, key=lambda q: q.timestamp)

    asyncio.run(main())


def test_the_same_config_gives_the_same_quotes_and_another_seed_others() -> None:
    async def main() -> None:
        _, first, _ = await run_for(3, config(seed=7))
        _, second, _ = await run_for(3, config(seed=7), step_s=0.01)
        _, alone, _ = await run_for(3, config(seed=7), symbols=["TSLA"])
        _, other, _ = await run_for(3, config(seed=8))
        assert first == second
        assert alone == [q for q in first if q.symbol == "TSLA"]
        assert {q.price for q in first}.isdisjoint({q.price for q in other})

    asyncio.run(main())


def test_a_program_reads_a_real_redis_through_get_quote(redis_server: Any) -> None:
    async def main() -> None:
        redis = Redis.from_url(redis_server.url)
        service = MarketDataService(redis, config())
        await service.start()
        await service.ensure_subscribed(["AAPL", "TSLA", "SPY"])
        stream = service.get_stream()
        newest: dict[str, MarketData] = {}
        began = datetime.now(UTC)
        while len(newest) < 3:
            quote = await asyncio.wait_for(stream.get(), 10)
            newest[quote.symbol] = quote
            held = await service.get_quote(quote.symbol)
            assert held is not None, "a quote is in the cache before it is in the stream"
            assert held.timestamp >= quote.timestamp
        await service.stop()
        for quote in drained(stream):
            newest[quote.symbol] = quote
        assert sorted(await redis.keys()) == [b"quote:AAPL", b"quote:SPY", b"quote:TSLA"]
        for symbol, quote in newest.items():
            raw = json.loads(await redis.get(f"quote:{symbol}") or "")
            cached_at = datetime.fromisoformat(raw.pop("cached_at"))
            assert datetime.fromisoformat(raw.pop("timestamp")) == quote.timestamp
            assert raw == {
                "symbol": symbol,
                "price": f"{quote.price:f}",
                "bid": f"{quote.bid:f}",
                "ask": f"{quote.ask:f}",
                "volume": quote.volume,
            }
            assert began <= cached_at <= datetime.now(UTC)
            assert await redis.ttl(f"quote:{symbol}") == -1
            assert await service.get_quote(symbol) == QuoteSnapshot.from_market_data(quote, cached_at)
        assert await service.get_quote("MSFT") is None
        assert await redis.ping(), "the client stays the program's"
        await redis.aclose()

    asyncio.run(main())


def test_anything_with_set_and_get_will_do() -> None:
    async def main() -> None:
        service, quotes, redis = await run_for(1, config())
        newest = {q.symbol: q for q in quotes}
        assert set(redis.values) == {"quote:AAPL", "quote:TSLA", "quote:SPY"}
        for symbol, quote in newest.items():
            snapshot = await service.get_quote(symbol)
            assert snapshot is not None
            assert (snapshot.price, snapshot.bid, snapshot.ask) == (quote.price, quote.bid, quote.ask)
            assert (snapshot.volume, snapshot.timestamp) == (quote.volume, quote.timestamp)
            assert START <= snapshot.cached_at <= START + 1000 * MS

    asyncio.run(main())


def test_what_cannot_set_and_get_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"redis: None is not allowed; expected .* async set and get"):
        MarketDataService(None, config())  # type: ignore[arg-type]


def test_subscribing_is_idempotent_before_the_start_and_while_running() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        service = MarketDataService(Dictionary(), config(), clock=clock)
        stream = service.get_stream()
        assert service.subscribed == frozenset()
        service.ensure_subscribed(["TSLA"])
        await service.ensure_subscribed(["TSLA"])
        await service.start()
        await service.start()
        assert service.subscribed == {"TSLA"}
        await clock.advance(1)
        assert [q.symbol for q in drained(stream)] == ["TSLA"] * 10
        await service.ensure_subscribed(["TSLA", "SPY"])
        await service.ensure_subscribed("SPY")
        assert service.subscribed == {"TSLA", "SPY"}
        await clock.advance(1)
        symbols = [q.symbol for q in drained(stream)]
        assert (symbols.count("TSLA"), symbols.count("SPY"), len(symbols)) == (10, 50, 60)
        assert service.get_stream() is stream
        await service.stop()

    asyncio.run(main())


def test_nothing_comes_of_what_is_not_subscribed() -> None:
    async def main() -> None:
        _, quotes, redis = await run_for(2, config(), symbols=[])
        assert quotes == []
        assert redis.values == {}

    asyncio.run(main())


def test_a_symbol_that_is_not_configured_is_refused_by_name_and_nothing_is_added() -> None:
    service = MarketDataService(Dictionary(), config())
    with pytest.raises(InvalidInput, match=r"symbols: 'APPL' is not allowed; .*: AAPL, TSLA, SPY$"):
        service.ensure_subscribed(["TSLA", "APPL"])
    assert service.subscribed == frozenset()
    many = [SymbolScenario(f"S{i}") for i in range(12)]
    with pytest.raises(InvalidInput, match=r"S0, S1, S2, S3, S4, S5, S6, S7, S8, S9 and 2 more$"):
        MarketDataService(Dictionary(), config(symbols=many)).ensure_subscribed(["X"])
    with pytest.raises(InvalidInput, match=r"there are none$"):
        MarketDataService(Dictionary(), MarketDataConfig()).ensure_subscribed(["X"])


def test_a_full_stream_loses_its_oldest_quotes_and_counts_them() -> None:
    async def main() -> None:
        _, everything, _ = await run_for(1, config())
        assert len(everything) == 80
        service, kept, redis = await run_for(1, config(queue_max_size=30))
        assert service.get_stream().maxsize == 30
        assert kept == everything[-30:]
        assert service.overflow_count == 50
        newest = {q.symbol: q for q in everything}
        assert {k: json.loads(v)["price"] for k, v in redis.values.items()} == {
            f"quote:{s}": f"{q.price:f}" for s, q in newest.items()
        }

    asyncio.run(main())


def test_stop_drains_what_is_on_its_way() -> None:
    async def main() -> None:
        _, prompt, _ = await run_for(1, config())
        clock, redis = ManualClock(START_NS), Dictionary()
        slow = FaultConfig(enabled=True, delay_probability=1, delay_ms_range=(60_000, 60_000))
        service = MarketDataService(redis, config(faults=slow), clock=clock)
        service.ensure_subscribed(["AAPL", "TSLA", "SPY"])
        await service.start()
        await clock.advance(1)
        assert service.get_stream().empty()
        assert redis.values == {}
        await service.stop()
        await service.stop()
        assert drained(service.get_stream()) == prompt
        assert {json.loads(v)["price"] for v in redis.values.values()} == {
            f"{q.price:f}" for q in {q.symbol: q for q in prompt}.values()
        }
        await clock.advance(5)
        assert service.get_stream().empty(), "nothing comes after stop"

    asyncio.run(main())


def test_it_can_be_started_again_from_the_same_prices() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        service = MarketDataService(Dictionary(), config(), clock=clock)
        service.ensure_subscribed(["AAPL"])
        prices = []
        for _ in range(2):
            await service.start()
            await clock.advance(5)
            await service.stop()
            prices.append([q.price for q in drained(service.get_stream())])
        assert prices[0] == prices[1]
        assert len(prices[0]) == 100

    asyncio.run(main())


def test_faults_reach_the_stream() -> None:
    async def main() -> None:
        _, clean, _ = await run_for(1, config())
        twice = FaultConfig(enabled=True, duplicate_probability=1)
        _, doubled, _ = await run_for(1, config(faults=twice))
        assert doubled == [q for q in clean for _ in range(2)]
        early = FaultConfig(enabled=True, out_of_order_probability=1, out_of_order_offset_ms=200)
        _, shifted, _ = await run_for(1, config(symbol_faults={"TSLA": early}))
        assert [q.timestamp for q in shifted if q.symbol == "TSLA"] == [
            q.timestamp - 200 * MS for q in clean if q.symbol == "TSLA"
        ]
        assert [q for q in shifted if q.symbol != "TSLA"] == [q for q in clean if q.symbol != "TSLA"]
        gone = FaultConfig(enabled=True, drop_probability=1)
        _, none, redis = await run_for(1, config(faults=gone))
        assert none == []
        assert redis.values == {}
        off = FaultConfig(enabled=False, drop_probability=1)
        assert (await run_for(1, config(faults=off)))[1] == clean

    asyncio.run(main())


def test_the_stream_goes_on_without_redis_and_redis_catches_up(redis_server: Any) -> None:
    async def main() -> None:
        redis = Redis.from_url(redis_server.url, retry=None)
        service = MarketDataService(redis, config())
        service.ensure_subscribed(["AAPL", "TSLA", "SPY"])
        await service.start()
        stream = service.get_stream()
        await until(lambda: stream.qsize() > 5)
        assert service.cache_error is None
        redis_server.kill()
        await until(lambda: service.cache_error is not None)
        assert "ConnectionError" in str(service.cache_error)
        with pytest.raises(StoreError):
            await service.get_quote("AAPL")
        drained(stream)
        await until(lambda: stream.qsize() > 20)
        redis_server.start()
        await until(lambda: service.cache_error is None)
        await service.stop()
        newest = {q.symbol: q for q in drained(stream)}
        assert len(newest) == 3
        for symbol, quote in newest.items():
            held = await service.get_quote(symbol)
            assert held is not None
            assert (held.price, held.timestamp) == (quote.price, quote.timestamp)
        await redis.aclose()

    asyncio.run(main())


def test_a_redis_that_never_answers_holds_up_neither_stream_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Dictionary):
        asked = 0

        async def set(self, name: str, value: str) -> None:
            self.asked += 1
            await asyncio.Event().wait()

    monkeypatch.setattr(embedded, "_WRITE_TIMEOUT_S", 0.05)

    async def main() -> None:
        clock, redis = ManualClock(START_NS), Silent()
        service = MarketDataService(redis, config(), clock=clock)
        service.ensure_subscribed(["SPY"])
        await service.start()
        await clock.advance(1)
        assert service.get_stream().empty()
        await until(lambda: service.cache_error is not None)
        assert service.cache_error == "no answer within 0.05 s"
        monkeypatch.setattr(embedded, "_WRITE_TIMEOUT_S", 60)
        await clock.advance(1)
        assert redis.asked == 2, "one more try, which takes its time"
        assert service.get_stream().qsize() == 100
        monkeypatch.setattr(embedded, "_WRITE_TIMEOUT_S", 0.05)
        await asyncio.wait_for(service.stop(), 5)
        assert redis.asked == 3, "and a last one"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_pause_that_is_none_is_refused_at_the_start_and_leaves_nothing_running() -> None:
    async def main() -> None:
        service = MarketDataService(Dictionary(), config())
        service.source.stale_pause_probability = 2.0
        with pytest.raises(InvalidInput, match=r"stale_pause_probability: 2\.0"):
            await service.start()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        service.source.stale_pause_probability = 0.5
        await service.start()
        await service.stop()

    asyncio.run(main())


# --- the source -------------------------------------------------------------------------------------------------


def test_the_mock_source_is_a_data_source_and_other_things_are_not() -> None:
    assert isinstance(MockDataSource(config()), DataSource)
    assert not isinstance(Dictionary(), DataSource)


def test_the_source_sends_quotes_until_it_is_stopped() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        source = MockDataSource(config(), clock=clock)
        quotes = source.quotes()
        await source.subscribe(["TSLA"])
        await source.start()
        await source.start()
        received: list[MarketData] = []

        async def read() -> None:
            async for quote in quotes:
                received.append(quote)  # noqa: PERF401 - it is looked at meanwhile

        reader = asyncio.create_task(read())
        await clock.advance(1)
        assert len(received) == 10
        late = source.quotes()
        await clock.advance(1)
        await source.stop()
        await source.stop()
        await asyncio.wait_for(reader, 5)
        assert len(received) == 20
        assert [quote async for quote in late] == received[10:], "what was sent can be read after stop"
        _, expected, _ = await run_for(2, config(), symbols=["TSLA"])
        assert received == expected

    asyncio.run(main())


def test_a_reader_that_leaves_takes_nothing_with_it() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        source = MockDataSource(config(), clock=clock)
        source.subscribe(["SPY"])
        await source.start()
        leaver, stayer = source.quotes(), source.quotes()
        await clock.advance(0.1)
        first = await anext(leaver)
        await leaver.aclose()
        await clock.advance(0.1)
        await source.stop()
        received = [quote async for quote in stayer]
        assert len(received) == 10
        assert received[0] == first

    asyncio.run(main())


def test_a_reader_far_behind_loses_the_oldest_batches_and_they_are_counted() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        source = MockDataSource(config(), clock=clock)
        source.subscribe(["SPY"])
        await source.start()
        slow = source.quotes()
        await clock.advance(24)  # 1,200 ticks, a batch each, the first batch told of the connection
        await source.stop()
        received = [quote async for quote in slow]
        _, everything, _ = await run_for(24, config(), symbols=["SPY"])
        assert len(everything) == 1_200
        assert len(received) + source.overflow_count == 1_200
        assert received == everything[source.overflow_count :]
        assert 999 <= len(received) <= 1_000

    asyncio.run(main())


def test_pauses_of_the_scenario_stale_can_be_set() -> None:
    async def main() -> None:
        settings = config(symbols=[SymbolScenario("NAP", "stale", Decimal(10), 10)])
        clock = ManualClock(START_NS)
        source = MockDataSource(settings, clock=clock)
        assert source.stale_pause_probability == 0.1
        assert source.stale_pause_duration_ms == (5_000, 10_000)
        source.stale_pause_probability = 1.0
        source.stale_pause_duration_ms = (500, 500)
        source.subscribe(["NAP"])
        quotes = source.quotes()
        await source.start()
        await clock.advance(5)
        await source.stop()
        times = [quote.timestamp async for quote in quotes]
        assert len(times) == 10
        assert {after - before for before, after in pairwise(times)} == {510 * MS}

    asyncio.run(main())


# --- the processor ----------------------------------------------------------------------------------------------


def test_a_quote_without_faults_is_cached_with_its_own_digits_and_returned() -> None:
    async def main() -> None:
        redis = Dictionary()
        processor = QuoteProcessor(redis, clock=ManualClock(START_NS + 2_000_000))
        assert await processor.process(QUOTE) is QUOTE
        assert {key: json.loads(value) for key, value in redis.values.items()} == {
            "quote:AAPL": {
                "symbol": "AAPL",
                "price": "150.00",
                "bid": "149.95",
                "ask": "150.05",
                "volume": 1200,
                "timestamp": "2026-11-20T14:30:00Z",
                "cached_at": "2026-11-20T14:30:00.002Z",
            }
        }
        assert await processor.read("AAPL") == QuoteSnapshot.from_market_data(QUOTE, START + 2 * MS)

    asyncio.run(main())


def test_a_duplicate_is_a_list_of_the_quote_twice() -> None:
    async def main() -> None:
        redis = Dictionary()
        processor = QuoteProcessor(redis, FaultConfig(enabled=True, duplicate_probability=1))
        assert await processor.process(QUOTE) == [QUOTE, QUOTE]
        assert json.loads(redis.values["quote:AAPL"])["price"] == "150.00"

    asyncio.run(main())


def test_an_out_of_order_quote_has_an_earlier_timestamp_in_the_cache_too() -> None:
    async def main() -> None:
        redis = Dictionary()
        faults = FaultConfig(enabled=True, out_of_order_probability=1, out_of_order_offset_ms=250)
        arrived = await QuoteProcessor(redis, faults).process(QUOTE)
        assert arrived == MarketData(
            "AAPL", Decimal("150.00"), Decimal("149.95"), Decimal("150.05"), 1200, START - 250 * MS
        )
        assert json.loads(redis.values["quote:AAPL"])["timestamp"] == "2026-11-20T14:29:59.750Z"

    asyncio.run(main())


def test_a_delayed_quote_arrives_and_is_cached_after_its_delay() -> None:
    async def main() -> None:
        redis, clock = Dictionary(), ManualClock(START_NS)
        faults = FaultConfig(enabled=True, delay_probability=1, delay_ms_range=[300, 300])  # type: ignore[arg-type]
        task = asyncio.create_task(QuoteProcessor(redis, faults, clock=clock).process(QUOTE))
        await clock.advance(0.299)
        assert not task.done()
        assert redis.values == {}
        await clock.advance(0.001)
        assert task.done()
        assert task.result() == QUOTE
        assert json.loads(redis.values["quote:AAPL"])["cached_at"] == "2026-11-20T14:30:00.300Z"

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["stale_window", "drop", "disconnect"])
def test_a_quote_that_never_arrives_leaves_the_cache_as_it_was(fault: str) -> None:
    async def main() -> None:
        redis, clock = Dictionary(), ManualClock(START_NS)
        await QuoteProcessor(redis, clock=clock).process(QUOTE)
        before = dict(redis.values)
        certain: dict[str, Any] = {f"{fault}_probability": 1}
        faults = FaultConfig(enabled=True, **certain)
        assert await QuoteProcessor(redis, faults, clock=clock).process(QUOTE) is None
        assert redis.values == before

    asyncio.run(main())


def test_a_stale_window_silences_its_symbol_until_it_is_over() -> None:
    async def main() -> None:
        clock = ManualClock(START_NS)
        faults = FaultConfig(enabled=True, stale_window_probability=0.02, stale_window_duration_ms=(3_000, 3_000))
        processor = QuoteProcessor(Dictionary(), faults, seed=1, clock=clock)
        silent_since: int | None = None
        windows = 0
        for _ in range(3_000):
            arrived = await processor.process(QUOTE)
            if arrived is None:
                silent_since = clock.time_ns() if silent_since is None else silent_since
            elif silent_since is not None:
                assert (clock.time_ns() - silent_since) % 3_000_000_000 == 0, "one window, or several in a row"
                silent_since = None
                windows += 1
            await clock.advance(0.1)
        # A window begins in 50 ticks, on average, and lasts 30: about 3,000 / 80 of them.
        assert 20 < windows < 60

    asyncio.run(main())


def test_the_same_seed_gives_the_same_faults() -> None:
    async def outcomes(seed: int) -> list[str]:
        faults = FaultConfig(enabled=True, drop_probability=0.3, duplicate_probability=0.3)
        processor = QuoteProcessor(Dictionary(), faults, seed=seed)
        return [type(await processor.process(QUOTE)).__name__ for _ in range(200)]

    async def main() -> None:
        first = await outcomes(3)
        assert first == await outcomes(3)
        assert first != await outcomes(4)
        assert set(first) == {"MarketData", "list", "NoneType"}

    asyncio.run(main())


# --- values -----------------------------------------------------------------------------------------------------


def test_staleness_is_by_event_time_however_lately_it_was_cached() -> None:
    snapshot = QuoteSnapshot.from_market_data(QUOTE, cached_at=START + 9_000 * MS)
    assert not snapshot.is_stale(5_000, now=START + 5_000 * MS)
    assert snapshot.is_stale(5_000, now=START + 5_001 * MS)
    assert snapshot.is_stale(5_000, now=(START + 5_001 * MS).astimezone(timezone(timedelta(hours=9))))
    assert snapshot.is_stale(5_000, now=(START + 5_001 * MS).replace(tzinfo=None))
    fresh = MarketData("AAPL", Decimal(1), Decimal(1), Decimal(1), None, datetime.now(UTC))
    assert not QuoteSnapshot.from_market_data(fresh).is_stale(5_000)
    old = MarketData("AAPL", Decimal(1), Decimal(1), Decimal(1), None, datetime.now(UTC) - 6_000 * MS)
    assert QuoteSnapshot.from_market_data(old).is_stale(5_000)


def test_naive_times_count_as_utc() -> None:
    naive = MarketData(
        "AAPL",
        Decimal("150.00"),
        Decimal("149.95"),
        Decimal("150.05"),
        1200,
        datetime(2026, 11, 20, 14, 30),  # noqa: DTZ001
    )
    assert naive == QUOTE
    snapshot = QuoteSnapshot.from_market_data(naive, cached_at=datetime(2026, 11, 20, 14, 31))  # noqa: DTZ001
    assert snapshot.timestamp == START
    assert snapshot.cached_at == START + timedelta(minutes=1)

    async def main() -> None:
        redis = Dictionary()
        elsewhere = START.astimezone(timezone(timedelta(hours=-5)))
        await QuoteProcessor(redis).process(MarketData("AAPL", Decimal(1), Decimal(1), Decimal(1), None, elsewhere))
        assert json.loads(redis.values["quote:AAPL"])["timestamp"] == "2026-11-20T14:30:00Z"

    asyncio.run(main())


def test_values_are_frozen_and_prices_are_decimal() -> None:
    with pytest.raises(AttributeError):
        QUOTE.price = Decimal(1)  # type: ignore[misc]
    snapshot = QuoteSnapshot.from_market_data(QUOTE)
    with pytest.raises(AttributeError):
        snapshot.price = Decimal(1)  # type: ignore[misc]
    for bad in (150.0, "150", Decimal("NaN"), None):
        with pytest.raises(InvalidInput, match=r"bid: .* is not allowed; expected a finite decimal\.Decimal"):
            MarketData("AAPL", Decimal(1), bad, Decimal(1), 0, START)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"timestamp: 'now' is not allowed; expected a datetime"):
        MarketData("AAPL", Decimal(1), Decimal(1), Decimal(1), 0, "now")  # type: ignore[arg-type]


def test_a_quote_that_the_server_cached_can_be_read_with_what_it_lacks() -> None:
    async def main() -> None:
        redis = Dictionary()
        redis.values["quote:EURUSD"] = (
            '{"symbol":"EURUSD","price":null,"bid":"1.16","ask":null,"volume":null,'
            '"timestamp":"2026-11-20T14:30:00.000001999Z","cached_at":"2026-11-20T14:30:01Z"}'
        )
        service = MarketDataService(redis, config())
        assert await service.get_quote("EURUSD") == QuoteSnapshot(
            "EURUSD", None, Decimal("1.16"), None, None, START + timedelta(microseconds=1), START + 1_000 * MS
        )
        redis.values["quote:EURUSD"] = redis.values["quote:EURUSD"].replace("1.16", "much")
        with pytest.raises(StoreError, match="quote:EURUSD does not hold a quote"):
            await service.get_quote("EURUSD")

    asyncio.run(main())


# --- configuration and imports ----------------------------------------------------------------------------------

YAML = """
market_data:
  queue_max_size: 500
  default_tick_interval_ms: 200
  staleness_threshold_ms: 4000
  symbols:
    AAPL: {scenario: volatile, base_price: "150.00", tick_interval_ms: 50}
    SPY: {base_price: 600.5}
  faults: {enabled: false, delay_probability: 0.05, delay_ms_range: [100, 500]}
"""


def test_a_service_from_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "marketd.yaml"
    path.write_text(YAML, encoding="utf-8")
    settings = MarketDataConfig.from_yaml(path)
    assert settings == MarketDataConfig(
        queue_max_size=500,
        default_tick_interval_ms=200,
        staleness_threshold_ms=4_000,
        symbols={
            "AAPL": SymbolScenario("AAPL", "volatile", Decimal("150.00"), 50),
            "SPY": SymbolScenario("SPY", "flat", Decimal("600.5"), 200),
        },
        faults=FaultConfig(enabled=False, delay_probability=0.05, delay_ms_range=(100, 500)),
    )

    async def main() -> None:
        _, quotes, _ = await run_for(2, settings, symbols=["AAPL", "SPY"])
        assert sum(q.symbol == "AAPL" for q in quotes) == 40
        assert sum(q.symbol == "SPY" for q in quotes) == 10

    asyncio.run(main())
    path.write_text(YAML.replace("queue_max_size", "queue_size"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"marketd\.yaml: market_data\.queue_size"):
        MarketDataConfig.from_yaml(path)


def test_the_example_runs_and_is_the_one_in_the_documentation() -> None:
    repository = Path(__file__).resolve().parent.parent
    example = repository / "examples" / "embedded_quotes.py"
    documentation = (repository / "docs" / "embedded.md").read_text(encoding="utf-8")
    assert f"```python\n{example.read_text(encoding='utf-8')}```\n" in documentation
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    *quotes, cached = done.stdout.splitlines()
    assert len(quotes) == 20
    for line in quotes:
        _, symbol, bid, ask, _, last = line.split()
        assert symbol in {"AAPL", "TSLA"}
        assert Decimal(bid) < Decimal(last) < Decimal(ask)
    assert cached.startswith("cached: AAPL ")
    assert cached.endswith(", fresh")


def test_importing_it_brings_no_server_along() -> None:
    code = """
import sys, marketd.embedded
print(sorted({m.partition('.')[0] for m in sys.modules} & {"uvicorn", "starlette", "aiohttp", "redis", "websockets"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
