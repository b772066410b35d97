"""The Binance source keeps the contract, bare and in every fault."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

from marketd.clock import SystemClock
from marketd.sources.binance import BinanceConfig
from marketd.sources.binance.feed import BinanceSource
from marketd.sources.binance.symbols import symbol_map
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing.providers.binance import BinanceSimulator
from marketd.testing.source_conformance import SourceConformance, SourceHarness


class TestBinance(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = SystemClock()
        async with BinanceSimulator(["BTCUSDT", "ETHUSDT"]) as simulator:
            config = BinanceConfig(
                rest_url=simulator.rest_url,
                old_trades_url=simulator.rest_url,
                ws_url=simulator.ws_url,
                reconnect=ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1),
            )

            async def drive():
                for name in ("BTCUSDT", "ETHUSDT"):
                    simulator.quote(name)
                    simulator.trade(name)

            async def disconnect():
                simulator.drop_connections()

            yield SourceHarness(
                source=BinanceSource(config, symbol_map({}), clock, rng=random.Random(1)),
                symbols=("BTC-USDT", "ETH-USDT"),
                clock=clock,
                unknown_symbol="FOO-USDT",
                drive=drive,
                disconnect=disconnect,
            )
