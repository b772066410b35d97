"""The provider keeps the contract, its stream bare and in every fault."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

from marketd.clock import SystemClock
from marketd.model import Interval, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.futu import ENTRY, FutuConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.futu import FutuSimulator
from marketd.testing.request_conformance import RequestConformance, RequestHarness
from marketd.testing.source_conformance import SourceConformance, SourceHarness

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
AAPL, TENCENT = "US.AAPL", "HK.00700"
MINUTE_NS = 60_000_000_000


def provider_over(simulator, clock, **fields):
    config = FutuConfig(port=simulator.port, reconnect=QUICK, retry=QUICK, **fields)
    return ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1)))


class TestFutuStream(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with FutuSimulator([AAPL, TENCENT], history_minutes=5) as simulator:

            async def drive():
                for name in (AAPL, TENCENT):
                    simulator.trade(name)

            async def disconnect():
                simulator.drop_connections()

            yield SourceHarness(
                source=provider_over(simulator, clock).stream,
                symbols=("AAPL", "0700.HK"),
                clock=clock,
                unknown_symbol="NOSUC",
                drive=drive,
                disconnect=disconnect,
            )


class TestFutuRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock(parse_ns("2026-11-20T15:00:20Z"))
        async with FutuSimulator([AAPL, TENCENT], clock=clock, history_minutes=90) as simulator:
            provider = provider_over(simulator, clock, bars_per_call=25)
            now_ns = clock.time_ns() // MINUTE_NS * MINUTE_NS
            start_ns, end_ns = now_ns - 80 * MINUTE_NS, now_ns - 5 * MINUTE_NS
            truth = [(row[0] * 10**9, *row[1:]) for row in simulator.bars(AAPL, "1m")]
            bid, ask, last, *_ = simulator.quote(AAPL)
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol="AAPL",
                    unknown_symbol="NOSUC",
                    clock=clock,
                    interval=Interval.parse("1m"),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    bars=[row for row in truth if start_ns <= row[0] < end_ns],
                    quote=(bid, ask, last),
                )
            finally:
                await provider.close()
