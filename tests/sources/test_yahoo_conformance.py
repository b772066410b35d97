"""Yahoo keeps the contracts: its stream bare and in every fault, its requests on good days and bad."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.model import Interval, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.yahoo import ENTRY, YahooConfig
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.yahoo import YahooSimulator
from marketd.testing.request_conformance import RequestConformance, RequestHarness
from marketd.testing.source_conformance import SourceConformance, SourceHarness

QUICK = ReconnectPolicy(delay_first_s=0.01, delay_max_s=0.05)
AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
FRIDAY_EVENING_NS = parse_ns("2026-11-20T20:10:30Z")  # 15:10:30 in New York: the session is on


def configured(simulator, **fields):
    http = HttpConfig(
        retry=AT_ONCE,
        retry_after_max_s=0.0,
        requests_per_s=1e10,
        burst=1_000,
        timeout_s=0.3,
        attempts=2,
        body_max_bytes=500_000,
    )
    fields = {"reconnect": QUICK, "http": http, **fields}
    return YahooConfig(rest_url=simulator.rest_url, cookie_url=simulator.cookie_url, ws_url=simulator.ws_url, **fields)


def built(simulator, clock, **fields):
    return ENTRY.build(
        configured(simulator, **fields), ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1))
    )


class TestStream(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with YahooSimulator(["AAPL", "EURUSD=X", "BTC-USD"], history_years=1) as simulator:
            provider = built(simulator, clock, transport="aiohttp")

            async def drive():
                for name in simulator.symbols:
                    simulator.tick(name)

            async def disconnect():
                simulator.drop_connections()

            try:
                yield SourceHarness(
                    source=provider.stream,
                    symbols=("AAPL", "EURUSD", "BTC-USD"),
                    clock=clock,
                    unknown_symbol="no such name",
                    drive=drive,
                    disconnect=disconnect,
                )
            finally:
                await provider.close()


class Requests(RequestConformance):
    transport = "aiohttp"

    @asynccontextmanager
    async def make(self):
        clock = ManualClock(FRIDAY_EVENING_NS)
        async with YahooSimulator(["AAPL", "MSFT"], clock=clock, history_days=12, history_years=1) as simulator:
            simulator.misbehaviour.huge_bytes = 2_000_000
            bars = [(s * 10**9, *values) for s, *values in simulator.bars("AAPL", "1m")]
            sent = simulator.tick("AAPL", price=123.45)
            provider = built(simulator, clock, transport=self.transport)
            start_ns, end_ns = bars[30][0], bars[-20][0]
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol="AAPL",
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    interval=Interval.parse("1m"),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    bars=[row for row in bars if start_ns <= row[0] < end_ns],
                    quote=(sent["bid"], sent["ask"], 123.45),
                    secrets=simulator.secrets,
                )
            finally:
                await provider.close()


class TestRequests(Requests):
    pass


class TestRequestsAsABrowser(Requests):
    transport = "curl_cffi"

    @asynccontextmanager
    async def make(self):
        pytest.importorskip("curl_cffi", reason="marketd[yahoo] is not installed")
        async with super().make() as harness:
            yield harness
