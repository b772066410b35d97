"""IG keeps the contract: the stream bare and in every fault, and the requests on good days and bad."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.model import Interval
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.ig import ENTRY, IgConfig
from marketd.sources.ig.quotes import IgQuotes
from marketd.sources.lightstreamer import LightstreamerConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing.providers.ig import IgSimulator
from marketd.testing.request_conformance import RequestConformance, RequestHarness
from marketd.testing.source_conformance import SourceConformance, SourceHarness

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
EPICS = {"EURUSD": "CS.D.EURUSD.MINI.IP", "GBPUSD": "CS.D.GBPUSD.MINI.IP"}
MINUTE = Interval.parse("1m")


def config_of(simulator, **fields):
    http = HttpConfig(
        timeout_s=0.4,
        attempts=2,
        retry=QUICK,
        retry_after_max_s=0.1,
        requests_per_s=1e6,
        burst=1_000,
        body_max_bytes=500_000,
    )
    given = {"http": http, "reconnect": QUICK, **fields}
    return IgConfig(
        rest_url=simulator.rest_url,
        api_key=simulator.api_key,
        username=simulator.username,
        password=simulator.password,
        **given,
    )


class _Streams(SourceConformance):
    channel = "price"
    transport = "websocket"

    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with IgSimulator(list(EPICS.values())) as simulator:
            config = config_of(
                simulator, channel=self.channel, lightstreamer=LightstreamerConfig(transport=self.transport)
            )
            deps = ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1))
            provider = ENTRY.build(config, deps)

            await provider.quotes.quote("EURUSD")  # logs in, and opens the connection that requests go on having

            async def drive():
                for epic in EPICS.values():
                    simulator.tick(epic)

            async def disconnect():
                simulator.stream.cut()

            try:
                yield SourceHarness(
                    source=provider.stream,
                    symbols=tuple(EPICS),
                    clock=clock,
                    unknown_symbol="NOSUCH9",
                    drive=drive,
                    disconnect=disconnect,
                )
            finally:
                await provider.close()


class TestPrices(_Streams):
    pass


class TestTicksOverHttp(_Streams):
    channel = "chart_tick"
    transport = "http"

    @pytest.fixture(params=["none", "all_together"])
    def fault(self, request):
        return request.param


class TestRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with IgSimulator(list(EPICS.values()), history_minutes=90, zone="America/New_York") as simulator:
            config = config_of(simulator, bar_sides="ask", points_per_call=20)
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics()))
            now_s = clock.time_ns() // 10**9
            start_s, end_s = now_s // 60 * 60 - 80 * 60, now_s // 60 * 60
            rows = simulator.bars(EPICS["EURUSD"], start_s, end_s)
            assert isinstance(provider.quotes, IgQuotes)
            await provider.quotes.quote("EURUSD")  # logs in: what misbehaves is then what was asked for
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol="EURUSD",
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    interval=MINUTE,
                    start_ns=start_s * 10**9,
                    end_ns=end_s * 10**9,
                    bars=[(ts * 10**9, *sides["ask"], None) for ts, sides, _ in rows],
                    quote=(*simulator.last(EPICS["EURUSD"]), None),
                    secrets=[simulator.api_key, simulator.password, simulator.username, "CST"],
                )
            finally:
                await provider.close()
