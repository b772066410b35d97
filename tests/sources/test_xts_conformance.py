"""The XTS source keeps the contract, bare and in every fault, and so do its requests."""

from __future__ import annotations

import itertools
import random
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from marketd.clock import SystemClock
from marketd.errors import InvalidInput
from marketd.model import Interval
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.xts import ENTRY, XtsConfig, XtsPace
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.xts import XtsSimulator
from marketd.testing.request_conformance import RequestConformance, RequestHarness
from marketd.testing.source_conformance import SourceConformance, SourceHarness

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
AT_ONCE = XtsPace(login=1e12, master=1e12, quotes=1e12, ohlc=1e12, subscription=1e12)


class TestXtsStream(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with XtsSimulator() as simulator:
            for name in ("NSECM:INFY-EQ", "NSECM:NIFTY 50"):
                simulator.tick(name)
            config = XtsConfig(
                rest_url=simulator.rest_url,
                app_key=simulator.app_key,
                secret_key=simulator.secret_key,
                reconnect=QUICK,
                pace=AT_ONCE,
                http=HttpConfig(requests_per_s=1e12, retry=QUICK),
                relogin_after_s=0.0,
            )

            async def drive():
                for name in ("NSECM:INFY-EQ", "NSECM:NIFTY 50"):
                    simulator.tick(name)

            async def disconnect():
                simulator.drop_connections()

            deps = ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1))
            provider = ENTRY.build(config, deps)
            await provider.quotes.quote("INFY")  # the provider's HTTP connection outlives a stream: it is not a leak
            try:
                yield SourceHarness(
                    source=provider.stream,
                    symbols=("INFY", "^NIFTY50"),
                    clock=clock,
                    unknown_symbol="NOSUCH9",
                    drive=drive,
                    disconnect=disconnect,
                )
            finally:
                await provider.close()


# 2026-06-11 13:00 in India, a Thursday; sessions are from 09:15 to 15:30
NOON_S = 1_781_163_000


class _Requests(RequestConformance):
    """Of nine days of minutes, the last eight days, so that there are two pages."""

    symbol = "RELIANCE"
    table: ClassVar = {}

    @asynccontextmanager
    async def make(self):
        # its time stands still, so that bars are the same all the while; what waits for time is not needed here
        clock = StandingClock(NOON_S * 10**9)
        async with XtsSimulator(clock=clock) as simulator:
            simulator.misbehaviour.huge_bytes = 20_000_000
            simulator.tick("NSECM:RELIANCE-EQ", price=1300.5, bid=1300.45, ask=1300.6)
            config = XtsConfig(
                rest_url=simulator.rest_url,
                app_key=simulator.app_key,
                secret_key=simulator.secret_key,
                symbol_table=self.table,
                pace=AT_ONCE,
                http=HttpConfig(
                    requests_per_s=1e12, retry=QUICK, timeout_s=0.25, attempts=2, body_max_bytes=10_000_000,
                    retry_after_max_s=0.0,
                ),
                relogin_after_s=0.0,
            )  # fmt: skip
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1)))
            await self.prepare(provider)
            start_s = NOON_S - 8 * 86_400
            bars = simulator.bars("NSECM:RELIANCE-EQ", start_s, NOON_S - 59)
            assert len(bars) > 2_000
            gaps = {later[0] - earlier[0] for earlier, later in itertools.pairwise(bars)}
            assert 120 in gaps  # a minute without a trade
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol=self.symbol,
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    interval=Interval.parse("1m"),
                    start_ns=start_s * 10**9,
                    end_ns=NOON_S * 10**9,
                    bars=[(row[0] * 10**9, *row[1:5], float(row[5])) for row in bars],
                    quote=(1300.45, 1300.6, 1300.5),
                    secrets=(simulator.app_key, simulator.secret_key, simulator.token or "no token yet"),
                )
            finally:
                await provider.close()

    async def prepare(self, provider):
        """What happened before the test."""


class TestXtsRequests(_Requests):
    """Nobody has asked anything before: whatever is asked logs in first."""

    table: ClassVar = {"RELIANCE": "NSECM:2885"}


class TestXtsRequestsOfTheMaster(_Requests):
    """The names come from the master, which was fetched before."""

    async def prepare(self, provider):
        await provider.quotes.quote("RELIANCE")


class StandingClock(ManualClock):
    """Sleepers are not kept waiting."""

    async def sleep(self, seconds):
        await SystemClock().sleep(min(max(seconds, 0.0), 0.01))


@pytest.mark.parametrize("missing", ["app_key", "secret_key"])
def test_a_key_that_is_missing_is_said_by_name(missing):
    config = XtsConfig(**{key: "abc" for key in ("app_key", "secret_key") if key != missing})
    with pytest.raises(InvalidInput) as caught:
        ENTRY.build(config, ProviderDeps(clock=SystemClock(), metrics=Metrics()))
    assert caught.value.field == missing
