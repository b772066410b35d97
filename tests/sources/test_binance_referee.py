"""ccxt, an independent implementation, reads the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import ccxt.async_support
import ccxt.pro
from hearing import hearing

from marketd.clock import SystemClock
from marketd.model import Interval, Quote, Trade
from marketd.sources.binance import BinanceConfig
from marketd.sources.binance.feed import BinanceSource
from marketd.sources.binance.history import BinanceHistory
from marketd.sources.binance.quotes import BinanceQuotes
from marketd.sources.binance.requests import BinanceRequests
from marketd.sources.binance.symbols import symbol_map
from marketd.sources.contract import Subscriptions
from marketd.testing.providers.binance import BinanceSimulator

BTC, THEIRS, CCXT = "BTC-USDT", "BTCUSDT", "BTC/USDT"
NAMES = symbol_map({})
MINUTE_NS = 60_000_000_000


@asynccontextmanager
async def ccxt_of(simulator, make=ccxt.async_support.binance):
    exchange = make({"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
    exchange.urls["api"] = {"public": simulator.rest_url + "/api/v3", "ws": {"spot": simulator.ws_url + "/ws"}}
    try:
        yield exchange
    finally:
        await exchange.close()


@asynccontextmanager
async def ours(simulator):
    """Requests over the simulator."""
    config = config_of(simulator)
    requests = BinanceRequests(config, SystemClock())
    try:
        yield requests, config
    finally:
        await requests.close()


def config_of(simulator):
    return BinanceConfig(
        rest_url=simulator.rest_url, old_trades_url=simulator.rest_url, ws_url=simulator.ws_url, microseconds=False
    )


def streaming(simulator):
    return hearing(lambda _: BinanceSource(config_of(simulator), NAMES, SystemClock()), Subscriptions([BTC]))


def test_quotes_and_trades_by_request_are_what_we_read_and_stream():
    async def main():
        async with (
            BinanceSimulator([THEIRS], seed=11) as simulator,
            ccxt_of(simulator) as referee,
            ours(simulator) as (requests, _),
            streaming(simulator) as heard,
        ):
            await heard.until(lambda: any(simulator.subscribed))
            for _ in range(20):
                simulator.trade(THEIRS)
            await heard.until(lambda: len(heard.of(Trade)) == 20)
            quote = await BinanceQuotes(requests, NAMES, SystemClock()).quote(BTC)
            ticker = await referee.fetch_ticker(CCXT)
            names = ("last", "bid", "ask", "bidVolume", "askVolume", "baseVolume")
            assert tuple(ticker[name] for name in names) == (
                quote.last, quote.bid, quote.ask, quote.bid_size, quote.ask_size, quote.volume,
            )  # fmt: skip
            book = (await referee.fetch_bids_asks([CCXT]))[CCXT]
            last = heard.of(Quote)[-1]
            assert (book["bid"], book["ask"], book["bidVolume"], book["askVolume"]) == (
                last.bid, last.ask, last.bid_size, last.ask_size,
            )  # fmt: skip
            answer = await referee.publicGetTrades({"symbol": THEIRS, "limit": 20})
            theirs = referee.parse_trades(answer, referee.market(CCXT))
            assert [(t["id"], t["price"], t["amount"], t["timestamp"]) for t in theirs] == [
                (str(t.trade_id), t.price, t.size, t.time_event_ns // 1_000_000) for t in heard.of(Trade)
            ]

    asyncio.run(main())


def test_the_stream_is_what_ccxt_streams():
    async def main():
        async with (
            BinanceSimulator([THEIRS], seed=12) as simulator,
            ccxt_of(simulator, ccxt.pro.binance) as referee,
            streaming(simulator) as heard,
        ):
            await heard.until(lambda: any(simulator.subscribed))
            first_id = simulator.market(THEIRS).trades[-1].trade_id + 1

            async def watched(watching):
                """One answer of ccxt, which sees only what comes while it waits."""
                task = asyncio.create_task(watching)
                for _ in range(200):
                    simulator.trade(THEIRS)
                    await asyncio.wait({task}, timeout=0.05)
                    if task.done():
                        return task.result()
                raise AssertionError("ccxt saw nothing")

            trades = {}
            while len(trades) < 5:
                for t in await watched(referee.watch_trades(CCXT, params={"name": "trade"})):
                    if int(t["id"]) >= first_id:
                        trades[int(t["id"])] = (t["price"], t["amount"], t["timestamp"])
            book = (await watched(referee.watch_bids_asks([CCXT])))[CCXT]
            await heard.until(lambda: len(heard.of(Trade)) > max(trades) - first_id)
            mine = {t.trade_id: (t.price, t.size, t.time_event_ns // 1_000_000) for t in heard.of(Trade)}
            assert trades == {trade_id: mine[trade_id] for trade_id in trades}
            seen = [(q.bid, q.ask, q.bid_size, q.ask_size) for q in heard.of(Quote)]
            assert tuple(book[name] for name in ("bid", "ask", "bidVolume", "askVolume")) in seen

    asyncio.run(main())


def test_candles_are_our_bars_but_for_those_without_trades():
    async def main():
        clock = SystemClock()
        async with (
            BinanceSimulator([THEIRS], seed=13, history_minutes=400) as simulator,
            ccxt_of(simulator) as referee,
            ours(simulator) as (requests, config),
        ):
            start_ns = clock.time_ns() // MINUTE_NS * MINUTE_NS - 250 * MINUTE_NS
            end_ns = start_ns + 240 * MINUTE_NS
            for interval in ("1m", "5m", "15m", "30m", "1h"):
                step = Interval.parse(interval)
                first_ns = step.ceil(start_ns)
                limit = (end_ns - first_ns) // step.ns
                theirs = await referee.fetch_ohlcv(CCXT, interval, since=first_ns // 1_000_000, limit=limit)
                history = BinanceHistory(requests, NAMES, config, clock)
                table = await history.bars(BTC, step, first_ns, first_ns + limit * step.ns)
                names = ["open", "high", "low", "close", "volume"]
                starts_ms = [ts // 1_000_000 for ts in table["ts"].cast("int64").to_pylist()]
                mine = [[ts, *row.values()] for ts, row in zip(starts_ms, table.select(names).to_pylist(), strict=True)]
                assert [row for row in theirs if row[5]] == mine
                assert len(mine) > 2

    asyncio.run(main())
