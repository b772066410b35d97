"""ccxt, an independent implementation, reads the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import ccxt.async_support
import ccxt.pro
from hearing import hearing

from marketd.clock import SystemClock
from marketd.model import Interval, Quote, Trade
from marketd.sources.contract import Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.kraken import KrakenConfig
from marketd.sources.kraken.feed import KrakenSource
from marketd.sources.kraken.history import KrakenHistory
from marketd.sources.kraken.quotes import KrakenQuotes
from marketd.sources.kraken.requests import KrakenRequests
from marketd.sources.kraken.symbols import symbol_map
from marketd.testing.providers.kraken import KrakenSimulator

BTC, CCXT = "BTC-USD", "BTC/USD"
NAMES = symbol_map({})
MINUTE_NS = 60_000_000_000


@asynccontextmanager
async def ccxt_of(simulator, make=ccxt.async_support.kraken):
    exchange = make({"enableRateLimit": False})
    exchange.urls["api"] = {"public": simulator.rest_url, "ws": {"publicV2": simulator.ws_url}}
    try:
        yield exchange
    finally:
        await exchange.close()


@asynccontextmanager
async def ours(simulator):
    """Requests over the simulator."""
    config = config_of(simulator)
    requests = KrakenRequests(config, SystemClock())
    try:
        yield requests, config
    finally:
        await requests.close()


def config_of(simulator):
    http = HttpConfig(requests_per_s=1_000.0, burst=100)
    return KrakenConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, http=http)


def streaming(simulator):
    return hearing(lambda _: KrakenSource(config_of(simulator), NAMES, SystemClock()), Subscriptions([BTC]))


def test_quotes_and_trades_by_request_are_what_we_read_and_stream():
    async def main():
        async with (
            KrakenSimulator([CCXT, "ETH/BTC"], seed=11) as simulator,
            ccxt_of(simulator) as referee,
            ours(simulator) as (requests, _),
            streaming(simulator) as heard,
        ):
            await heard.until(lambda: heard.of(Quote))
            for _ in range(20):
                simulator.trade(CCXT)
            await heard.until(lambda: len(heard.of(Trade)) == 20)
            quote = await KrakenQuotes(requests, NAMES, SystemClock()).quote(BTC)
            ticker = await referee.fetch_ticker(CCXT)
            assert tuple(ticker[name] for name in ("last", "bid", "ask", "baseVolume")) == (
                quote.last, quote.bid, quote.ask, quote.volume,
            )  # fmt: skip
            last = heard.of(Quote)[-1]
            assert (ticker["bid"], ticker["ask"], ticker["last"]) == (last.bid, last.ask, last.last)
            theirs = (await referee.fetch_trades(CCXT, limit=1_000))[-20:]
            assert [(t["id"], t["price"], t["amount"], t["side"], t["timestamp"]) for t in theirs] == [
                (str(t.trade_id), t.price, t.size, t.aggressor, t.time_event_ns // 1_000_000) for t in heard.of(Trade)
            ]

    asyncio.run(main())


def test_the_stream_is_what_ccxt_streams():
    async def main():
        async with (
            KrakenSimulator([CCXT], seed=12) as simulator,
            ccxt_of(simulator, ccxt.pro.kraken) as referee,
            streaming(simulator) as heard,
        ):
            await heard.until(lambda: heard.of(Quote))
            first_id = simulator.market(CCXT).trades[-1].trade_id + 1

            async def watched(watching):
                """One answer of ccxt, which sees only what comes while it waits."""
                task = asyncio.create_task(watching)
                for _ in range(200):
                    simulator.trade(CCXT)
                    await asyncio.wait({task}, timeout=0.05)
                    if task.done():
                        return task.result()
                raise AssertionError("ccxt saw nothing")

            trades = {}
            while len(trades) < 5:
                for t in await watched(referee.watch_trades(CCXT)):
                    if int(t["id"]) >= first_id:
                        trades[int(t["id"])] = (t["price"], t["amount"], t["side"], t["timestamp"])
            ticker = await watched(referee.watch_ticker(CCXT))
            await heard.until(lambda: len(heard.of(Trade)) > max(trades) - first_id)
            mine = {t.trade_id: (t.price, t.size, t.aggressor, t.time_event_ns // 1_000_000) for t in heard.of(Trade)}
            assert trades == {trade_id: mine[trade_id] for trade_id in trades}
            seen = [(q.last, q.bid, q.ask, q.bid_size, q.ask_size, q.volume) for q in heard.of(Quote)]
            names = ("last", "bid", "ask", "bidVolume", "askVolume", "baseVolume")
            assert tuple(ticker[name] for name in names) in seen

    asyncio.run(main())


def test_candles_are_our_bars_but_for_those_without_trades():
    async def main():
        clock = SystemClock()
        async with (
            KrakenSimulator([CCXT], seed=13, history_minutes=400) as simulator,
            ccxt_of(simulator) as referee,
            ours(simulator) as (requests, config),
        ):
            start_ns = clock.time_ns() // MINUTE_NS * MINUTE_NS - 250 * MINUTE_NS
            end_ns = start_ns + 240 * MINUTE_NS
            for interval in ("1m", "5m", "15m", "30m", "1h"):
                step = Interval.parse(interval)
                first_ns = step.ceil(start_ns)
                theirs = await referee.fetch_ohlcv(CCXT, interval, since=first_ns // 1_000_000)
                table = await KrakenHistory(requests, NAMES, config, clock).bars(BTC, step, first_ns, end_ns)
                names = ["open", "high", "low", "close", "volume"]
                starts_ms = [ts // 1_000_000 for ts in table["ts"].cast("int64").to_pylist()]
                mine = [[ts, *row.values()] for ts, row in zip(starts_ms, table.select(names).to_pylist(), strict=True)]
                stop_ms = min(end_ns, step.floor(clock.time_ns())) // 1_000_000  # theirs has the running one too
                assert [row for row in theirs if row[5] and row[0] < stop_ms] == mine
                assert len(mine) > 2

    asyncio.run(main())
