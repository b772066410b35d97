"""Bars and quotes by request, over a real socket. Expected bars are computed here from the simulator's trades."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from fractions import Fraction
from urllib.parse import parse_qs, urlsplit

import pytest

from marketd.errors import NotEntitled, OutOfRange, SymbolNotFound, Throttled
from marketd.model import BAR_SCHEMA, Interval, Quote, parse_ns
from marketd.sources.binance import BinanceConfig
from marketd.sources.binance.history import BinanceHistory
from marketd.sources.binance.quotes import BinanceQuotes
from marketd.sources.binance.requests import BinanceRequests
from marketd.sources.binance.symbols import symbol_map
from marketd.sources.contract import BarHistory
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers.binance import BinanceSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE_NS = 60_000_000_000
BTC = "BTC-USDT"
NAMES = symbol_map({})


class Weights:
    """A quota that counts what it is asked for."""

    def __init__(self):
        self.taken = []
        self.told = []
        self.throttles = []

    async def take(self, endpoint, weight):
        self.taken.append((endpoint, weight))

    def answered(self, _, answer):
        self.told.append(int(answer.headers["x-mbx-used-weight-1m"]))

    def throttled(self, endpoint, retry_after_s):
        self.throttles.append((endpoint, retry_after_s))


@asynccontextmanager
async def provider(*, minutes=60, symbols=("BTCUSDT",), budget=None, simulated=None, **fields):
    clock = ManualClock(NOW_NS)
    quick = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
    async with BinanceSimulator(
        symbols, seed=3, clock=clock, history_minutes=minutes, **(simulated or {})
    ) as simulator:
        http = HttpConfig(retry=quick, requests_per_s=1e6, burst=1_000, retry_after_max_s=0.0)
        urls = {"rest_url": simulator.rest_url, "old_trades_url": simulator.rest_url, "ws_url": simulator.ws_url}
        config = BinanceConfig(http=http, **urls, **fields)
        requests = BinanceRequests(config, clock, budget=budget)
        try:
            yield BinanceHistory(requests, NAMES, config, clock), BinanceQuotes(requests, NAMES, clock), simulator
        finally:
            await requests.close()


def expected_bars(simulator, step, start_ns, end_ns):
    """(ts, open, high, low, close, volume, trades) of finished intervals with trades, exact arithmetic, ascending."""
    bars = {}
    monday_ns = 4 * 86_400 * 10**9 if step.name == "1w" else 0
    for trade in simulator.market("BTCUSDT").trades:
        ts = (trade.time_us * 1_000 - monday_ns) // step.ns * step.ns + monday_ns
        if start_ns <= ts < end_ns and ts + step.ns <= NOW_NS:
            bars.setdefault(ts, []).append((trade.price, Fraction(trade.size)))
    found = []
    for ts, trades in sorted(bars.items()):
        prices = [float(price) for price, _ in trades]
        volume = float(sum(size for _, size in trades))
        found.append((ts, prices[0], max(prices), min(prices), prices[-1], volume, len(trades)))
    return found


def rows(table):
    names = ("open", "high", "low", "close", "volume", "trades")
    columns = [table["ts"].cast("int64"), *(table[name] for name in names)]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


@pytest.mark.parametrize("interval", ["1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w"])
def test_bars_are_those_of_the_trades_without_the_running_one(interval):
    async def main():
        minutes = {"1s": 30, "1d": 4_000, "1w": 21_000}.get(interval, 1_500)
        async with provider(minutes=minutes) as (history, _, simulator):
            simulator.trade("BTCUSDT")  # in the running bar
            step = Interval.parse(interval)
            start_ns, end_ns = NOW_NS - (minutes + 10) * MINUTE_NS, NOW_NS + 10 * MINUTE_NS
            table = await history.bars(BTC, step, start_ns, end_ns)
            assert rows(table) == expected_bars(simulator, step, start_ns, end_ns)
            assert table.num_rows
            assert table.schema == BAR_SCHEMA
            low, vwap, high = (table[name].to_numpy() for name in ("low", "vwap", "high"))
            assert (low * (1 - 1e-9) <= vwap).all()
            assert (vwap <= high * (1 + 1e-9)).all()
            assert set(table["as_of"].cast("int64").to_pylist()) == {NOW_NS}

    asyncio.run(main())


def test_it_pages_from_row_to_row():
    async def main():
        async with provider(minutes=900, klines_per_call=300) as (history, _, simulator):
            start_ns = NOW_NS // MINUTE_NS * MINUTE_NS - 800 * MINUTE_NS
            table = await history.bars(BTC, Interval.parse("1m"), start_ns, NOW_NS)
            assert rows(table) == expected_bars(simulator, Interval.parse("1m"), start_ns, NOW_NS)
            asked = [{k: v[0] for k, v in parse_qs(urlsplit(r).query).items()} for r in simulator.requests]
            assert [int(a["startTime"]) for a in asked] == [(start_ns + n * 300 * MINUTE_NS) // 10**6 for n in range(3)]
            assert {(a["symbol"], a["interval"], a["limit"]) for a in asked} == {("BTCUSDT", "1m", "300")}

    asyncio.run(main())


def test_a_span_that_begins_before_the_market_takes_no_more_requests():
    async def main():
        async with provider(minutes=60) as (history, _, simulator):
            assert isinstance(history, BarHistory)
            table = await history.bars(BTC, Interval.parse("1m"), parse_ns("2017-01-01"), NOW_NS)
            assert table.num_rows > 30
            assert len(simulator.requests) == 1

    asyncio.run(main())


def test_an_empty_span_asks_nothing():
    async def main():
        async with provider() as (history, _, simulator):
            for start, end in ((5, 10), (-10, -10), (-10, -20)):
                table = await history.bars(
                    BTC, Interval.parse("1m"), NOW_NS + start * MINUTE_NS, NOW_NS + end * MINUTE_NS
                )
                assert table.equals(BAR_SCHEMA.empty_table())
            assert not simulator.requests

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "kind", "retry_after_s"),
    [(429, Throttled, 17.0), (418, Throttled, 17.0), (403, Throttled, 17.0), (451, NotEntitled, None)],
)
def test_a_status_is_what_it_means_here(status, kind, retry_after_s):
    async def main():
        async with provider() as (history, quotes, simulator):
            for ask in (
                lambda: history.bars(BTC, Interval.parse("1m"), NOW_NS - 20 * MINUTE_NS, NOW_NS),
                lambda: quotes.quote(BTC),
            ):
                simulator.refuse(9, status=status, retry_after="17")
                with pytest.raises(kind, match=f"HTTP {status}") as caught:
                    await ask()
                assert getattr(caught.value, "retry_after_s", None) == retry_after_s
                simulator.refuse(0)

    asyncio.run(main())


def test_what_is_not_there_is_told_apart():
    async def main():
        async with provider() as (history, _, _):
            minute = Interval.parse("1m")
            with pytest.raises(SymbolNotFound, match="Invalid symbol"):
                await history.bars("FOO-USDT", minute, NOW_NS - 20 * MINUTE_NS, NOW_NS)
            with pytest.raises(SymbolNotFound, match="is no pair"):
                await history.bars("FOO", minute, NOW_NS - 20 * MINUTE_NS, NOW_NS)
            with pytest.raises(OutOfRange, match="has no 10m bars, only 1s, 1m"):
                await history.bars(BTC, Interval.parse("10m"), NOW_NS - 20 * MINUTE_NS, NOW_NS)

    asyncio.run(main())


def test_requests_are_made_with_their_weight_and_the_exchange_counts_the_same():
    async def main():
        budget = Weights()
        names = [f"C{i}USDT" for i in range(120)]
        symbols = [f"C{i}-USDT" for i in range(120)]
        async with provider(minutes=2, symbols=["BTCUSDT", *names], budget=budget) as (history, quotes, simulator):
            await history.bars(BTC, Interval.parse("1m"), NOW_NS - 20 * MINUTE_NS, NOW_NS)
            await quotes.quotes(symbols[:45])
            assert budget.taken == [("klines", 2), ("ticker", 2), ("ticker", 2), ("ticker", 2)]
            found = await quotes.quotes([*symbols, "FOO-USDT"])  # one request for all
            assert budget.taken[4:] == [("ticker", 80)]
            assert [type(found[s]) for s in (*symbols, "FOO-USDT")] == [Quote] * 120 + [SymbolNotFound]
            assert budget.told == [2, 4, 6, 8, 88]
            asked = parse_qs(urlsplit(simulator.requests[1]).query)
            assert json.loads(asked["symbols"][0]) == names[:20]

    asyncio.run(main())


def test_too_much_weight_is_a_throttle_until_the_minute_is_over():
    async def main():
        budget = Weights()
        async with provider(budget=budget, simulated={"weight_per_minute": 3}) as (_, quotes, _):
            await quotes.quote(BTC)
            with pytest.raises(Throttled) as caught:
                await quotes.quote(BTC)
            assert caught.value.retry_after_s == 40.0  # it is 14:30:20
            assert budget.throttles == [("ticker", 40.0)]

    asyncio.run(main())


def test_one_bad_name_among_many_is_found():
    async def main():
        names = [f"C{i}USDT" for i in range(19)]
        async with provider(minutes=2, symbols=names) as (_, quotes, simulator):
            symbols = [*(f"C{i}-USDT" for i in range(7)), "FOO-USDT", *(f"C{i}-USDT" for i in range(7, 19)), "NOPAIR"]
            found = await quotes.quotes(symbols)
            assert list(found) == symbols
            assert [s for s, value in found.items() if not isinstance(value, Quote)] == ["FOO-USDT", "NOPAIR"]
            assert len(simulator.requests) < 12
            assert await quotes.quotes([]) == {}

    asyncio.run(main())
