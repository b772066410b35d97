"""The Kraken source keeps the contract, bare and in every fault."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

from marketd.clock import SystemClock
from marketd.sources.kraken import KrakenConfig
from marketd.sources.kraken.feed import KrakenSource
from marketd.sources.kraken.symbols import symbol_map
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing.providers.kraken import KrakenSimulator
from marketd.testing.source_conformance import SourceConformance, SourceHarness


class TestKraken(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with KrakenSimulator(["BTC/USD", "ETH/USD"]) as simulator:
            config = KrakenConfig(
                rest_url=simulator.rest_url,
                ws_url=simulator.ws_url,
                reconnect=ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1),
            )

            async def drive():
                for name in ("BTC/USD", "ETH/USD"):
                    simulator.quote(name)
                    simulator.trade(name)

            async def disconnect():
                simulator.drop_connections()

            yield SourceHarness(
                source=KrakenSource(config, symbol_map({}), clock, rng=random.Random(1)),
                symbols=("BTC-USD", "ETH-USD"),
                clock=clock,
                unknown_symbol="FOO-USD",
                drive=drive,
                disconnect=disconnect,
            )
