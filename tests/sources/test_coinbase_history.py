"""Bars by request, over a real socket. Expected bars are computed here from the simulator's trades, one by one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from fractions import Fraction
from urllib.parse import parse_qs, urlsplit

import pytest

from marketd.errors import SourceRejected, SourceUnavailable
from marketd.model import BAR_SCHEMA, Interval, parse_ns
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.coinbase.history import CoinbaseHistory, http_client
from marketd.sources.contract import BarHistory
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers import CoinbaseSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE_NS = 60_000_000_000
BTC = "BTC-USD"


@asynccontextmanager
async def history(*, minutes=60, **fields):
    clock = ManualClock(NOW_NS)
    quick = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
    async with CoinbaseSimulator([BTC], seed=3, clock=clock, history_minutes=minutes) as simulator:
        http = HttpConfig(retry=quick, requests_per_s=1e6, burst=1_000)
        config = CoinbaseConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, http=http, **fields)
        async with http_client(config, clock) as client:
            yield CoinbaseHistory(client, config, clock), simulator, clock


def expected_bars(simulator, interval_ns, start_ns, end_ns):
    """(ts, open, high, low, close, volume) of finished intervals with trades, exact arithmetic, ascending."""
    bars = {}
    for row in simulator.trade_rows(BTC):
        ts = parse_ns(row["time"]) // interval_ns * interval_ns
        if start_ns <= ts < end_ns and ts + interval_ns <= NOW_NS:
            bars.setdefault(ts, []).append((float(row["price"]), Fraction(row["size"])))
    return [
        (
            ts,
            trades[0][0],
            max(p for p, _ in trades),
            min(p for p, _ in trades),
            trades[-1][0],
            float(sum(s for _, s in trades)),
        )
        for ts, trades in sorted(bars.items())
    ]


def rows(table):
    columns = [table["ts"].cast("int64"), *(table[n] for n in ("open", "high", "low", "close", "volume"))]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "1h", "1d"])
def test_bars_are_those_of_the_trades_without_the_running_one(interval):
    async def main():
        async with history(minutes=4_000) as (bars, simulator, _):
            simulator.trade(BTC)  # in the running bar
            step = Interval.parse(interval)
            start_ns, end_ns = NOW_NS - 3_000 * MINUTE_NS, NOW_NS + 10 * MINUTE_NS
            table = await bars.bars("BTC/USD", step, start_ns, end_ns)
            expected = expected_bars(simulator, step.ns, start_ns, end_ns)
            assert rows(table) == expected
            assert expected[-1][0] + step.ns <= NOW_NS
            assert table.schema == BAR_SCHEMA
            assert set(table["symbol"].to_pylist()) == {BTC}
            assert set(table["interval"].to_pylist()) == {interval}
            assert set(table["as_of"].cast("int64").to_pylist()) == {NOW_NS}

    asyncio.run(main())


def test_it_pages_so_that_no_call_is_refused_and_no_bar_is_asked_for_twice():
    async def main():
        async with history(minutes=900) as (bars, simulator, _):
            start_ns = NOW_NS // MINUTE_NS * MINUTE_NS - 800 * MINUTE_NS
            table = await bars.bars(BTC, Interval.parse("1m"), start_ns, NOW_NS)
            assert rows(table) == expected_bars(simulator, MINUTE_NS, start_ns, NOW_NS)
            asked = [{k: int(v[0]) for k, v in parse_qs(urlsplit(r).query).items()} for r in simulator.requests]
            start_s = start_ns // 10**9
            assert asked == [
                {"granularity": 60, "start": start_s, "end": start_s + 299 * 60},
                {"granularity": 60, "start": start_s + 299 * 60, "end": start_s + 598 * 60},
                {"granularity": 60, "start": start_s + 598 * 60, "end": start_s + 800 * 60},
            ]

    asyncio.run(main())


def test_a_start_within_a_bar_leaves_that_bar_out():
    async def main():
        async with history() as (bars, simulator, _):
            start_ns = NOW_NS // MINUTE_NS * MINUTE_NS - 30 * MINUTE_NS + 1
            table = await bars.bars(BTC, Interval.parse("1m"), start_ns, start_ns + 10 * MINUTE_NS)
            assert rows(table) == expected_bars(simulator, MINUTE_NS, start_ns, start_ns + 10 * MINUTE_NS)
            assert table.num_rows > 3

    asyncio.run(main())


@pytest.mark.parametrize("span_minutes", [(5, 10), (-10, -10), (-10, -20)])
def test_a_range_without_finished_bars_is_empty_and_asks_nothing(span_minutes):
    async def main():
        async with history() as (bars, simulator, _):
            start_ns, end_ns = (NOW_NS + minutes * MINUTE_NS for minutes in span_minutes)
            table = await bars.bars(BTC, Interval.parse("1m"), start_ns, end_ns)
            assert table.equals(BAR_SCHEMA.empty_table())
            assert not simulator.requests

    asyncio.run(main())


def test_a_passing_failure_is_tried_again():
    async def main():
        async with history() as (bars, simulator, _):
            simulator.refuse(2, status=503)
            table = await bars.bars(BTC, Interval.parse("1m"), NOW_NS - 20 * MINUTE_NS, NOW_NS)
            assert rows(table) == expected_bars(simulator, MINUTE_NS, NOW_NS - 20 * MINUTE_NS, NOW_NS)
            assert len(simulator.requests) == 3

    asyncio.run(main())


def test_refusals_are_told_with_what_the_exchange_said():
    async def main():
        async with history() as (bars, simulator, _):
            start_ns = NOW_NS - 20 * MINUTE_NS
            with pytest.raises(SourceRejected, match=r'HTTP 404: \{"message":"NotFound"\}'):
                await bars.bars("FOO-USD", Interval.parse("1m"), start_ns, NOW_NS)
            with pytest.raises(SourceRejected, match="has no 1s bars, only 1m, 5m, 15m, 1h, 1d"):
                await bars.bars(BTC, Interval.parse("1s"), start_ns, NOW_NS)
            simulator.refuse(9, status=429, retry_after="120")
            with pytest.raises(SourceUnavailable, match="Public rate limit exceeded") as caught:
                await bars.bars(BTC, Interval.parse("1m"), start_ns, NOW_NS)
            assert caught.value.retry_after_s == 120.0

    asyncio.run(main())


def test_it_is_a_bar_history():
    async def main():
        async with history() as (bars, _, _):
            assert isinstance(bars, BarHistory)

    asyncio.run(main())
