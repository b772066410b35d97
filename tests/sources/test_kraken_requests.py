"""The contract's request side over the exchange's simulator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from fractions import Fraction

from marketd.model import Interval, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.kraken import ENTRY, KrakenConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, RequestConformance, RequestHarness
from marketd.testing.providers.kraken import KrakenSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE = Interval.parse("1m")


class TestKrakenRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock(NOW_NS)
        async with KrakenSimulator(["BTC/USD"], seed=3, clock=clock, history_minutes=1_500) as simulator:
            http = HttpConfig(
                retry=ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0),
                attempts=2,
                retry_after_max_s=0.0,
                requests_per_s=1e6,
                burst=1_000,
                timeout_s=0.3,
                body_max_bytes=500_000,
            )
            config = KrakenConfig(
                rest_url=simulator.rest_url,
                ws_url=simulator.ws_url,
                http=http,
            )
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics()))
            start_ns, end_ns = MINUTE.floor(NOW_NS) - 1_400 * MINUTE.ns, MINUTE.floor(NOW_NS)
            market = simulator.market("BTC/USD")
            found = {}
            for trade in market.trades:
                ts_ns = trade.time_us * 1_000 // MINUTE.ns * MINUTE.ns
                if start_ns <= ts_ns < end_ns:
                    found.setdefault(ts_ns, []).append((float(trade.price), Fraction(trade.size)))
            bars = []
            for ts_ns, trades in sorted(found.items()):
                prices = [price for price, _ in trades]
                volume = float(sum(size for _, size in trades))
                bars.append((ts_ns, prices[0], max(prices), min(prices), prices[-1], volume))
            assert len(bars) < 1_400, "a minute without trades"
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol="BTC-USD",
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    start_ns=start_ns,
                    end_ns=end_ns,
                    bars=bars,
                    quote=(float(market.bid), float(market.ask), float(market.price)),
                )
            finally:
                await provider.close()
