"""Finnhub keeps the contracts: its stream bare and in every fault, its requests on good days and bad."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

from marketd.clock import SystemClock
from marketd.model import Interval, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.finnhub import ENTRY, FinnhubConfig
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.finnhub import FinnhubSimulator
from marketd.testing.request_conformance import RequestConformance, RequestHarness
from marketd.testing.source_conformance import SourceConformance, SourceHarness

QUICK = ReconnectPolicy(delay_first_s=0.01, delay_max_s=0.05)
AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
NOW_NS = parse_ns("2026-11-20T20:10:30Z")
MINUTE = Interval.parse("1m")


def built(simulator, clock, **fields):
    http = HttpConfig(
        retry=AT_ONCE,
        retry_after_max_s=0.0,
        requests_per_s=1e10,
        burst=1_000,
        timeout_s=0.3,
        attempts=2,
        body_max_bytes=500_000,
    )
    config = FinnhubConfig(
        api_key=simulator.api_key,
        rest_url=simulator.rest_url,
        ws_url=simulator.ws_url,
        reconnect=QUICK,
        http=http,
        **fields,
    )
    return ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1)))


def bars_of(trades, step_ns):
    """(ts_ns, open, high, low, close, volume) of what the simulator traded."""
    found = {}
    for trade in trades:
        found.setdefault(trade.time_ms * 1_000_000 // step_ns * step_ns, []).append(trade)
    return [
        (
            ts_ns,
            group[0].price,
            max(t.price for t in group),
            min(t.price for t in group),
            group[-1].price,
            float(sum(t.size for t in group)),
        )
        for ts_ns, group in sorted(found.items())
    ]


class TestStream(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with FinnhubSimulator(["AAPL", "OANDA:EUR_USD", "BINANCE:BTCUSDT"]) as simulator:
            provider = built(simulator, clock)

            async def drive():
                simulator.burst(["AAPL", "OANDA:EUR_USD", "BINANCE:BTCUSDT"])

            async def disconnect():
                simulator.drop_connections()

            try:
                yield SourceHarness(
                    source=provider.stream,
                    symbols=("AAPL", "EURUSD", "BTC-USDT"),
                    clock=clock,
                    unknown_symbol="no such name",
                    drive=drive,
                    disconnect=disconnect,
                )
            finally:
                await provider.close()


class TestRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock(NOW_NS)
        async with FinnhubSimulator(["AAPL"], clock=clock, history_minutes=4_000) as simulator:
            provider = built(simulator, clock, candle_days_per_call=1)
            start_ns, end_ns = MINUTE.floor(NOW_NS) - 3_000 * MINUTE.ns, MINUTE.floor(NOW_NS) - 10 * MINUTE.ns
            last = simulator.trade("AAPL", price=123.45)
            bars = bars_of(simulator.trades("AAPL"), MINUTE.ns)
            bars = [row for row in bars if start_ns <= row[0] < end_ns]
            assert 1_500 < len(bars) < 2_990, "minutes without trades, and more than two pages"
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol="AAPL",
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    start_ns=start_ns,
                    end_ns=end_ns,
                    bars=bars,
                    quote=(None, None, last.price),
                    secrets=(simulator.api_key,),
                )
            finally:
                await provider.close()
