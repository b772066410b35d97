"""The contract's request side over the exchange's simulator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from fractions import Fraction

from marketd.model import Interval, parse_ns
from marketd.sources.coinbase import ENTRY, CoinbaseConfig
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, RequestConformance, RequestHarness
from marketd.testing.providers import CoinbaseSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE = Interval.parse("1m")
BTC = "BTC-USD"


class TestCoinbaseRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock(NOW_NS)
        async with CoinbaseSimulator([BTC], seed=3, clock=clock, history_minutes=700) as simulator:
            quick = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
            http = HttpConfig(
                retry=quick,
                retry_after_max_s=0.0,
                requests_per_s=1e6,
                burst=1_000,
                timeout_s=0.3,
                body_max_bytes=500_000,
            )
            config = CoinbaseConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, http=http)
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics()))
            start_ns, end_ns = MINUTE.floor(NOW_NS) - 650 * MINUTE.ns, MINUTE.floor(NOW_NS)
            found = {}
            for row in simulator.trade_rows(BTC):
                ts_ns = parse_ns(row["time"]) // MINUTE.ns * MINUTE.ns
                if start_ns <= ts_ns < end_ns:
                    found.setdefault(ts_ns, []).append((float(row["price"]), Fraction(row["size"])))
            bars = []
            for ts_ns, trades in sorted(found.items()):
                prices = [price for price, _ in trades]
                volume = float(sum(size for _, size in trades))
                bars.append((ts_ns, prices[0], max(prices), min(prices), prices[-1], volume))
            assert len(bars) < 650, "a minute without trades"
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol=BTC,
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    start_ns=start_ns,
                    end_ns=end_ns,
                    bars=bars,
                )
            finally:
                await provider.close()
