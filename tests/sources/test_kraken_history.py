"""Bars by request: the latest 720, older ones from trades, and what is out of reach. Expected bars are computed here
from the simulator's trades, one by one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from fractions import Fraction

import pytest

from marketd.errors import (
    NotEntitled,
    OutOfRange,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import BAR_SCHEMA, Interval, Quote, parse_ns
from marketd.sources.contract import BarHistory
from marketd.sources.http import HttpConfig
from marketd.sources.kraken import KrakenConfig
from marketd.sources.kraken.history import KrakenHistory
from marketd.sources.kraken.quotes import KrakenQuotes
from marketd.sources.kraken.requests import KrakenRequests
from marketd.sources.kraken.symbols import symbol_map
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers.kraken import KrakenSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE_NS = 60_000_000_000
BTC = "BTC-USD"
NAMES = symbol_map({})


@asynccontextmanager
async def provider(*, minutes, symbols=("BTC/USD",), **fields):
    clock = ManualClock(NOW_NS)
    quick = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
    async with KrakenSimulator(symbols, seed=3, clock=clock, history_minutes=minutes) as simulator:
        http = HttpConfig(retry=quick, requests_per_s=1e6, burst=1_000)
        config = KrakenConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, http=http, **fields)
        requests = KrakenRequests(config, clock)
        try:
            history = KrakenHistory(requests, NAMES, config, clock)
            yield history, KrakenQuotes(requests, NAMES, clock), simulator
        finally:
            await requests.close()


def expected_bars(simulator, interval_ns, start_ns, end_ns):
    """(ts, open, high, low, close, volume, trades) of finished intervals with trades, exact arithmetic, ascending."""
    bars = {}
    for trade in simulator.market("BTC/USD").trades:
        ts = trade.time_us * 1_000 // interval_ns * interval_ns
        if start_ns <= ts < end_ns and ts + interval_ns <= NOW_NS:
            bars.setdefault(ts, []).append((float(trade.price), Fraction(trade.size)))
    return [
        (
            ts,
            trades[0][0],
            max(p for p, _ in trades),
            min(p for p, _ in trades),
            trades[-1][0],
            float(sum(s for _, s in trades)),
            len(trades),
        )
        for ts, trades in sorted(bars.items())
    ]


def rows(table):
    names = ("open", "high", "low", "close", "volume", "trades")
    columns = [table["ts"].cast("int64"), *(table[name] for name in names)]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "30m", "1h", "4h", "1d"])
def test_bars_are_those_of_the_trades_without_the_running_one(interval):
    async def main():
        async with provider(minutes=4_000) as (history, _, simulator):
            simulator.trade("BTC/USD")  # in the running bar
            step = Interval.parse(interval)
            start_ns, end_ns = NOW_NS - 700 * MINUTE_NS, NOW_NS + 10 * MINUTE_NS
            if interval in ("4h", "1d"):
                start_ns -= 3_000 * MINUTE_NS
            table = await history.bars(BTC, step, start_ns, end_ns)
            assert rows(table) == expected_bars(simulator, step.ns, start_ns, end_ns)
            assert table.num_rows
            assert table.schema == BAR_SCHEMA
            assert len(simulator.requests) == 1

    asyncio.run(main())


def test_minutes_older_than_the_latest_720_are_built_from_trades_and_join_them():
    async def main():
        async with provider(minutes=2_500) as (history, _, simulator):
            start_ns, end_ns = NOW_NS - 2_000 * MINUTE_NS, NOW_NS
            table = await history.bars(BTC, Interval.parse("1m"), start_ns, end_ns)
            assert rows(table) == expected_bars(simulator, MINUTE_NS, start_ns, end_ns)
            asked = [request.split("?")[0].rsplit("/", 1)[1] for request in simulator.requests]
            assert asked[0] == "OHLC"
            assert set(asked[1:]) == {"Trades"}
            assert len(asked) > 3
            # a span that ends before them asks for no more trades than it needs
            simulator.requests.clear()
            end_ns = start_ns + 100 * MINUTE_NS
            table = await history.bars(BTC, Interval.parse("5m"), start_ns, end_ns)
            assert rows(table) == expected_bars(simulator, 5 * MINUTE_NS, Interval.parse("5m").ceil(start_ns), end_ns)

    asyncio.run(main())


def test_what_takes_too_many_requests_is_out_of_range():
    async def main():
        async with provider(minutes=2_500, old_bars_max_pages=2) as (history, _, simulator):
            with pytest.raises(OutOfRange, match=r"720 1m bars, and 2000 trades do not make the older ones"):
                await history.bars(BTC, Interval.parse("1m"), NOW_NS - 2_000 * MINUTE_NS, NOW_NS)
            assert len(simulator.requests) == 3

    asyncio.run(main())


def test_without_old_bars_they_are_out_of_range_at_once():
    async def main():
        async with provider(minutes=2_500, old_bars_max_pages=0) as (history, _, simulator):
            with pytest.raises(OutOfRange, match="keeps only the latest 720 1m bars"):
                await history.bars(BTC, Interval.parse("1m"), NOW_NS - 2_000 * MINUTE_NS, NOW_NS)
            assert len(simulator.requests) == 1
            found = await history.bars(BTC, Interval.parse("1m"), NOW_NS - 700 * MINUTE_NS, NOW_NS)
            assert found.num_rows > 400

    asyncio.run(main())


def test_a_pair_younger_than_what_is_asked_for_has_all_its_bars():
    async def main():
        async with provider(minutes=300) as (history, _, simulator):
            start_ns = NOW_NS - 5_000 * MINUTE_NS
            table = await history.bars(BTC, Interval.parse("1m"), start_ns, NOW_NS)
            assert rows(table) == expected_bars(simulator, MINUTE_NS, start_ns, NOW_NS)
            assert len(simulator.requests) == 1

    asyncio.run(main())


def test_an_empty_span_asks_nothing():
    async def main():
        async with provider(minutes=60) as (history, _, simulator):
            assert isinstance(history, BarHistory)
            for start, end in ((5, 10), (-10, -10), (-10, -20)):
                table = await history.bars(
                    BTC, Interval.parse("1m"), NOW_NS + start * MINUTE_NS, NOW_NS + end * MINUTE_NS
                )
                assert table.equals(BAR_SCHEMA.empty_table())
            assert not simulator.requests

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("EQuery:Unknown asset pair", SymbolNotFound),
        ("EGeneral:Too many requests", Throttled),
        ("EAPI:Rate limit exceeded", Throttled),
        ("EGeneral:Temporary lockout", Throttled),
        ("EGeneral:Permission denied", NotEntitled),
        ("EService:Unavailable", SourceUnavailable),
        ("EService:Busy", SourceUnavailable),
        ("EService:Market in cancel_only mode", SourceUnavailable),
        ("EGeneral:Internal error", SourceUnavailable),
        ("EGeneral:Invalid arguments:interval", SourceRejected),
    ],
)
def test_an_error_with_status_200_is_what_it_says(error, kind):
    async def main():
        async with provider(minutes=60) as (history, quotes, simulator):
            for ask in (
                lambda: history.bars(BTC, Interval.parse("1m"), NOW_NS - 20 * MINUTE_NS, NOW_NS),
                lambda: quotes.quote(BTC),
            ):
                simulator.refuse(99, error)
                with pytest.raises(SourceUnavailable if kind is Throttled else kind, match=error) as caught:
                    await ask()
                assert type(caught.value) is kind
                simulator.refuse(0, "")

    asyncio.run(main())


def test_a_page_of_the_network_in_front_is_a_throttle():
    async def main():
        async with provider(minutes=60) as (_, quotes, simulator):
            simulator.refuse(99, "Error 1015: you are being rate limited", status=403)
            with pytest.raises(Throttled):
                await quotes.quote(BTC)

    asyncio.run(main())


def test_quotes_of_pairs_with_old_and_new_names_come_in_one_request():
    async def main():
        names = ("BTC/USD", "ETH/BTC", "SOL/EUR", "DOGE/USD")
        async with provider(minutes=60, symbols=names) as (_, quotes, simulator):
            symbols = [name.replace("/", "-") for name in names]
            found = await quotes.quotes(symbols)
            assert list(found) == symbols
            for name, symbol in zip(names, symbols, strict=True):
                market = simulator.market(name)
                assert isinstance(found[symbol], Quote)
                assert (found[symbol].bid, found[symbol].ask) == (float(market.bid), float(market.ask))
            assert list(simulator.requests) == ["/0/public/Ticker?pair=XBTUSD,ETHXBT,SOLEUR,XDGUSD"]
            found = await quotes.quotes([*symbols, "FOO-USD", "NOPAIR"])
            kinds = [type(value) for value in found.values()]
            assert kinds == [Quote, Quote, Quote, Quote, SymbolNotFound, SymbolNotFound]
            assert await quotes.quotes([]) == {}

    asyncio.run(main())
