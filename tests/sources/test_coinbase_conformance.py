"""The Coinbase source keeps the contract, bare and in every fault."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

from marketd.clock import SystemClock
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.coinbase.feed import CoinbaseSource
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing.providers import CoinbaseSimulator
from marketd.testing.source_conformance import SourceConformance, SourceHarness


class TestCoinbase(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with CoinbaseSimulator(["BTC-USD", "ETH-USD"]) as simulator:
            config = CoinbaseConfig(
                rest_url=simulator.rest_url,
                ws_url=simulator.ws_url,
                reconnect=ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1),
            )

            async def drive():
                for product in ("BTC-USD", "ETH-USD"):
                    simulator.trade(product)

            async def disconnect():
                simulator.drop_connections()

            yield SourceHarness(
                source=CoinbaseSource(config, clock, rng=random.Random(1)),
                symbols=("BTC-USD", "ETH-USD"),
                clock=clock,
                unknown_symbol="FOO-USD",
                drive=drive,
                disconnect=disconnect,
            )
