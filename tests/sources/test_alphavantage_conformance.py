"""Alpha Vantage keeps the request side of the contract, on good days and bad."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from datetime import datetime
from zoneinfo import ZoneInfo

from marketd.model import Interval, parse_ns
from marketd.sources.alphavantage import ENTRY, AlphaVantageConfig
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.alphavantage import AlphaVantageSimulator
from marketd.testing.request_conformance import RequestConformance, RequestHarness

AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
NOW_NS = parse_ns("2026-12-02T20:10:30Z")  # a Wednesday, 15:10:30 in New York
NEW_YORK = ZoneInfo("America/New_York")


def rows_of(rows, zone=NEW_YORK):
    """(ts_ns, open, high, low, close, volume) of what the simulator sends, ascending."""
    found = []
    for stamp, row in rows.items():
        local = datetime.fromisoformat(stamp).replace(tzinfo=zone)
        values = (float(row[key]) for key in ("1. open", "2. high", "3. low", "4. close", "5. volume"))
        found.append((int(local.timestamp()) * 10**9, *values))
    return sorted(found)


class Requests(RequestConformance):
    symbol = "BRK.B"
    theirs = "BRK-B"

    @asynccontextmanager
    async def make(self):
        clock = ManualClock(NOW_NS)
        async with AlphaVantageSimulator([self.theirs], clock=clock, minute_days=6) as simulator:
            http = HttpConfig(
                retry=AT_ONCE,
                retry_after_max_s=0.0,
                requests_per_s=1e10,
                burst=1_000,
                timeout_s=0.3,
                attempts=2,
                body_max_bytes=500_000,
            )
            config = AlphaVantageConfig(api_key=simulator.api_key, rest_url=simulator.rest_url, http=http)
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1)))
            start_ns, end_ns = parse_ns("2026-11-29T00:00:00Z"), parse_ns("2026-12-02T19:00:00Z")
            bars = [row for row in rows_of(simulator.minutes(self.theirs)) if start_ns <= row[0] < end_ns]
            assert 700 < len(bars) < 1_050, "minutes without trades, in two months"
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol=self.symbol,
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    interval=Interval.parse("1m"),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    bars=bars,
                    quote=(None, None, float(next(iter(simulator.days(self.theirs).values()))["4. close"])),
                    series="TREASURY_YIELD:daily:10year",
                    secrets=(simulator.api_key,),
                )
            finally:
                await provider.close()


class TestRequests(Requests):
    pass
