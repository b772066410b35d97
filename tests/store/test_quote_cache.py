"""The quote cache: what is put comes back, in memory, in Redis and in anything with `set` and `get`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from marketd.errors import ConfigError, InvalidInput, StoreError
from marketd.store.quotes import (
    CachedQuote,
    MemoryQuoteCache,
    QuoteCache,
    QuoteRecord,
    RedisQuoteCache,
    decimal_text,
)

# 2026-11-20T14:30:00.125Z and 2 ms later
EVENT_NS = 1_795_185_000_125_000_000
CACHED_NS = 1_795_185_000_127_000_000

AAPL = CachedQuote(
    symbol="AAPL",
    price=150.25,
    bid=150.2,
    ask=150.3,
    volume=1200.0,
    time_event_ns=EVENT_NS,
    time_cached_ns=CACHED_NS,
)
BARE = CachedQuote(
    symbol="EUR/USD",
    price=None,
    bid=1e-7,
    ask=None,
    volume=0.5,
    time_event_ns=EVENT_NS + 1,
    time_cached_ns=CACHED_NS,
)


class OnlySetAndGet:
    """The least a client can be."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def set(self, name: str, value: str) -> None:
        self.values[name] = value

    async def get(self, name: str) -> str | None:
        return self.values.get(name)


class WithPipeline(OnlySetAndGet):
    """Counts the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.executed = 0

    def pipeline(self, transaction: bool = True) -> WithPipeline.Batch:
        assert transaction is False
        return WithPipeline.Batch(self)

    class Batch:
        def __init__(self, owner: WithPipeline) -> None:
            self._owner = owner
            self._queued: dict[str, str] = {}

        def set(self, name: str, value: str) -> None:
            self._queued[name] = value

        async def execute(self) -> None:
            self._owner.values.update(self._queued)
            self._owner.executed += 1


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (150.0, "150"),
        (150.25, "150.25"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (1.5e-8, "0.000000015"),
        (5e-324, "0." + "0" * 323 + "5"),
        (1e16, "10000000000000000"),
        (1e22, "10000000000000000000000"),
        (-37.63, "-37.63"),
        (0.1 + 0.2, "0.30000000000000004"),
        (Decimal("150.00"), "150.00"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1.23456789012345678901234567"), "1.23456789012345678901234567"),
        (None, None),
    ],
)
def test_prices_are_written_in_decimal_digits(price: float | Decimal | None, text: str | None) -> None:
    assert decimal_text(price) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_price_reads_back_as_the_same_float_and_no_shorter_text_does(price: float) -> None:
    text = decimal_text(price)
    assert text is not None
    assert set(text) <= set("-0123456789.")
    assert float(text) == price
    digits = Decimal(text).normalize().as_tuple().digits
    for precision in range(1, len(digits)):  # what C's %e gives with fewer significant digits is another number
        assert float(f"{price:.{precision - 1}e}") != price


def each_cache(body: Any, url: str) -> None:
    """Run `body` over every implementation of the contract."""

    @asynccontextmanager
    async def made(cache: QuoteCache) -> AsyncIterator[QuoteCache]:
        try:
            yield cache
        finally:
            await cache.close()
            await cache.close()

    async def main() -> None:
        client = Redis.from_url(url)
        try:
            for cache in (
                MemoryQuoteCache(),
                RedisQuoteCache(url),
                RedisQuoteCache(client),
                RedisQuoteCache(OnlySetAndGet()),
                RedisQuoteCache(WithPipeline()),
            ):
                await client.flushall()
                async with made(cache):
                    await body(cache)
            assert await client.ping(), "a client that was handed in is its owner's to close"
        finally:
            await client.aclose()

    asyncio.run(main())


def test_what_is_put_comes_back_value_for_value(redis_server: Any) -> None:
    async def body(cache: QuoteCache) -> None:
        assert await cache.get("AAPL") is None
        await cache.put([AAPL, BARE])
        assert await cache.get("AAPL") == AAPL
        assert await cache.get("EUR/USD") == BARE
        assert await cache.get("aapl") is None

    each_cache(body, redis_server.url)


def test_the_quote_put_last_is_kept(redis_server: Any) -> None:
    newer = CachedQuote(
        symbol="AAPL",
        price=151.0,
        bid=None,
        ask=151.5,
        volume=None,
        time_event_ns=EVENT_NS + 5,
        time_cached_ns=CACHED_NS + 5,
    )

    async def body(cache: QuoteCache) -> None:
        await cache.put([AAPL])
        await cache.put([AAPL, BARE, newer])
        assert await cache.get("AAPL") == newer
        await cache.put([])
        assert await cache.get("AAPL") == newer
        assert await cache.get("EUR/USD") == BARE

    each_cache(body, redis_server.url)


def test_redis_holds_exactly_the_documented_json_without_expiry(redis_server: Any) -> None:
    async def main() -> None:
        cache = RedisQuoteCache(redis_server.url)
        client = Redis.from_url(redis_server.url)
        await cache.put([AAPL, BARE])
        assert sorted(await client.keys()) == [b"quote:AAPL", b"quote:EUR/USD"]
        assert json.loads(await client.get("quote:AAPL") or "") == {
            "symbol": "AAPL",
            "price": "150.25",
            "bid": "150.2",
            "ask": "150.3",
            "volume": 1200,
            "timestamp": "2026-11-20T14:30:00.125Z",
            "cached_at": "2026-11-20T14:30:00.127Z",
        }
        assert json.loads(await client.get("quote:EUR/USD") or "") == {
            "symbol": "EUR/USD",
            "price": None,
            "bid": "0.0000001",
            "ask": None,
            "volume": 0.5,
            "timestamp": "2026-11-20T14:30:00.125000001Z",
            "cached_at": "2026-11-20T14:30:00.127Z",
        }
        assert await client.ttl("quote:AAPL") == -1
        assert await client.ttl("quote:EUR/USD") == -1
        await cache.put([AAPL])  # alone it takes another command
        assert await client.ttl("quote:AAPL") == -1
        await client.aclose()
        await cache.close()

    asyncio.run(main())


def many(count: int) -> list[CachedQuote]:
    return [
        CachedQuote(
            symbol=f"S{i}",
            price=i + 0.5,
            bid=float(i),
            ask=i + 1.0,
            volume=None,
            time_event_ns=EVENT_NS + i,
            time_cached_ns=CACHED_NS,
        )
        for i in range(count)
    ]


def test_a_batch_is_one_round_trip(redis_server: Any) -> None:
    async def main() -> None:
        cache = RedisQuoteCache(redis_server.url)
        client = Redis.from_url(redis_server.url)
        await cache.put(many(2_000))
        stats = await client.info("commandstats")
        assert stats["cmdstat_mset"]["calls"] == 1
        assert "cmdstat_set" not in stats
        assert await client.dbsize() == 2_000
        assert await cache.get("S1999") == many(2_000)[-1]
        await client.aclose()
        await cache.close()

    asyncio.run(main())


def test_a_client_with_a_pipeline_is_given_a_batch_in_one_go() -> None:
    async def main() -> None:
        client = WithPipeline()
        await RedisQuoteCache(client).put(many(50))
        assert client.executed == 1
        assert len(client.values) == 50
        assert json.loads(client.values["quote:S49"])["price"] == "49.5"

    asyncio.run(main())


def test_records_keep_the_digits_they_were_given() -> None:
    record = QuoteRecord(
        symbol="AAPL",
        price="150.00",
        bid="149.90",
        ask="150.10",
        volume=7,
        timestamp="2026-11-20T14:30:00Z",
        cached_at="2026-11-20T14:30:01Z",
    )

    async def main() -> None:
        cache = RedisQuoteCache(OnlySetAndGet())
        await cache.put_records([record])
        assert await cache.get_record("AAPL") == record
        assert await cache.get_record("MSFT") is None

    asyncio.run(main())


def test_a_server_that_is_gone_is_a_store_error_and_one_that_is_back_is_not(redis_server: Any) -> None:
    async def main() -> None:
        cache = RedisQuoteCache(redis_server.url)
        await cache.put([AAPL])
        redis_server.kill()
        with pytest.raises(StoreError, match=r"^unix:///.*redis\.sock: ConnectionError: "):
            await cache.put([AAPL])
        with pytest.raises(StoreError):
            await cache.get("AAPL")
        redis_server.start()
        assert await cache.get("AAPL") is None
        await cache.put([AAPL])
        assert await cache.get("AAPL") == AAPL
        await cache.close()

    asyncio.run(main())


_GOOD: dict[str, Any] = {
    "symbol": "AAPL",
    "price": "1",
    "bid": None,
    "ask": None,
    "volume": None,
    "timestamp": "2026-11-20T14:30:00Z",
    "cached_at": "2026-11-20T14:30:00Z",
}


@pytest.mark.parametrize(
    "value",
    [
        "no json",
        "{}",
        json.dumps(_GOOD | {"price": "much"}),
        json.dumps(_GOOD | {"price": "NaN"}),
        json.dumps(_GOOD | {"price": 1.5}),
        json.dumps(_GOOD | {"timestamp": "yesterday"}),
        json.dumps(_GOOD | {"cached_at": "2026-11-20T14:30:00"}),
    ],
)
def test_something_else_under_the_key_is_an_error_that_names_it(value: str) -> None:
    async def main() -> None:
        client = OnlySetAndGet()
        client.values["quote:AAPL"] = value
        with pytest.raises(StoreError, match="quote:AAPL does not hold a quote: "):
            await RedisQuoteCache(client).get("AAPL")

    asyncio.run(main())


def test_a_key_of_another_type_is_an_error(redis_server: Any) -> None:
    async def main() -> None:
        client = Redis.from_url(redis_server.url)
        await client.rpush("quote:AAPL", "x")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await RedisQuoteCache(client).get("AAPL")
        await client.aclose()

    asyncio.run(main())


def test_no_message_shows_a_password() -> None:
    async def main() -> None:
        with pytest.raises(InvalidInput) as refused:
            RedisQuoteCache("http://user:hunter2@127.0.0.1:1/0?password=hunter2")
        assert "hunter2" not in str(refused.value)
        assert refused.value.__suppress_context__
        assert refused.value.value == "http://127.0.0.1:1/0"
        cache = RedisQuoteCache("redis://user:hunter2@127.0.0.1:1/0")
        with pytest.raises(StoreError) as failed:
            await cache.put([AAPL])
        assert failed.value.where == "redis://127.0.0.1:1/0"
        assert "hunter2" not in str(failed.value)
        await cache.close()

    asyncio.run(main())


def test_what_is_neither_url_nor_client_is_refused() -> None:
    with pytest.raises(InvalidInput, match="an object with async set and get"):
        RedisQuoteCache(None)  # type: ignore[arg-type]


def test_without_the_redis_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match=r"pip install 'marketd\[redis\]'") as refused:
        RedisQuoteCache("redis://:hunter2@localhost:6379/0")
    assert "hunter2" not in str(refused.value)
