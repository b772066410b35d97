"""ccxt, an independent implementation, reads the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import ccxt.async_support
import ccxt.pro

from marketd.clock import SystemClock
from marketd.model import Interval, Quote, Trade
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.coinbase.feed import CoinbaseSource
from marketd.sources.coinbase.history import CoinbaseHistory, http_client
from marketd.sources.contract import Subscriptions
from marketd.testing.providers import CoinbaseSimulator

BTC = "BTC-USD"
MINUTE_NS = 60_000_000_000


@asynccontextmanager
async def ccxt_of(simulator, make=ccxt.async_support.coinbaseexchange):
    exchange = make({"enableRateLimit": False})
    exchange.urls["api"] = {"public": simulator.rest_url, "private": simulator.rest_url, "ws": simulator.ws_url}
    try:
        yield exchange
    finally:
        await exchange.close()


def config_of(simulator):
    return CoinbaseConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url)


@asynccontextmanager
async def streaming(simulator, until):
    """The events of our source, once `until` is true of them; it goes on until the block ends."""
    events = []
    ready = asyncio.Event()
    stream = CoinbaseSource(config_of(simulator), SystemClock()).stream(Subscriptions([BTC]))

    async def listen():
        async for batch in stream:
            events.extend(batch)
            if until(events):
                ready.set()

    task = asyncio.create_task(listen())
    try:
        yield events, ready
    finally:
        task.cancel()
        await asyncio.wait({task})
        await stream.aclose()


async def subscribed(simulator, clients=1):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10.0
    while sum(command["type"] == "subscribe" for command in simulator.commands) < clients:
        assert loop.time() < deadline, "nobody subscribed"
        await asyncio.sleep(0.005)


def test_ticker_and_trades_by_request_are_what_our_stream_said():
    async def main():
        async with CoinbaseSimulator([BTC], seed=11) as simulator, ccxt_of(simulator) as referee:
            async with streaming(simulator, lambda e: sum(isinstance(x, Quote) for x in e) == 20) as (events, ready):
                await subscribed(simulator)
                for _ in range(20):
                    simulator.trade(BTC)
                await asyncio.wait_for(ready.wait(), 10.0)
                ticker = await referee.fetch_ticker("BTC/USD")
                theirs = await referee.fetch_trades("BTC/USD", limit=20)
            quote = [e for e in events if isinstance(e, Quote)][-1]
            assert (ticker["last"], ticker["bid"], ticker["ask"]) == (quote.last, quote.bid, quote.ask)
            assert ticker["baseVolume"] == quote.volume
            assert ticker["timestamp"] == quote.time_event_ns // 1_000_000
            ours = [e for e in events if isinstance(e, Trade)]
            assert [(t["id"], t["price"], t["amount"], t["side"], t["timestamp"]) for t in theirs] == [
                (str(t.trade_id), t.price, t.size, t.aggressor, t.time_event_ns // 1_000_000) for t in ours
            ]

    asyncio.run(main())


def test_the_stream_is_what_ccxt_streams():
    async def main():
        async with (
            CoinbaseSimulator([BTC], seed=12) as simulator,
            ccxt_of(simulator, ccxt.pro.coinbaseexchange) as referee,
            streaming(simulator, lambda e: sum(isinstance(x, Trade) for x in e) >= 5) as (events, ready),
        ):
            await subscribed(simulator)
            first_id = simulator.last_trade_id(BTC) + 1

            async def watched(watch):
                """One answer of ccxt, which sees only what comes while it waits."""
                task = asyncio.create_task(watch("BTC/USD"))
                for _ in range(200):
                    simulator.trade(BTC)
                    await asyncio.wait({task}, timeout=0.05)
                    if task.done():
                        return task.result()
                raise AssertionError("ccxt saw nothing")

            trades = {}
            while len(trades) < 5:
                for t in await watched(referee.watch_trades):
                    if int(t["id"]) >= first_id:
                        trades[int(t["id"])] = (t["price"], t["amount"], t["timestamp"])
            ticker = await watched(referee.watch_ticker)
            await asyncio.wait_for(ready.wait(), 10.0)
            ours = {t.trade_id: (t.price, t.size, t.time_event_ns // 1_000_000) for t in events if isinstance(t, Trade)}
            assert trades == {trade_id: ours[trade_id] for trade_id in trades}
            names = ("last", "bid", "ask", "bidVolume", "askVolume", "timestamp")
            assert tuple(ticker[name] for name in names) in [
                (q.last, q.bid, q.ask, q.bid_size, q.ask_size, q.time_event_ns // 1_000_000)
                for q in events
                if isinstance(q, Quote)
            ]

    asyncio.run(main())


def test_candles_are_our_bars():
    async def main():
        clock = SystemClock()
        async with CoinbaseSimulator([BTC], seed=13, history_minutes=400) as simulator, ccxt_of(simulator) as referee:
            start_ns = clock.time_ns() // MINUTE_NS * MINUTE_NS - 250 * MINUTE_NS
            end_ns = start_ns + 240 * MINUTE_NS
            for interval in ("1m", "5m", "15m", "1h"):
                step = Interval.parse(interval)
                first_ns = -(-start_ns // step.ns) * step.ns
                limit = (end_ns - first_ns) // step.ns
                theirs = await referee.fetch_ohlcv("BTC/USD", interval, since=first_ns // 1_000_000, limit=limit)
                config = config_of(simulator)
                async with http_client(config, clock) as http:
                    history = CoinbaseHistory(http, config, clock)
                    table = await history.bars(BTC, step, first_ns, first_ns + limit * step.ns)
                names = ["open", "high", "low", "close", "volume"]
                starts_ms = [ts // 1_000_000 for ts in table["ts"].cast("int64").to_pylist()]
                ours = [[ts, *row.values()] for ts, row in zip(starts_ms, table.select(names).to_pylist(), strict=True)]
                assert theirs == ours
                assert len(ours) > 2

    asyncio.run(main())
