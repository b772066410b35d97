"""finnhub-python, an independent client, reads the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
from datetime import date

import pytest

from marketd.clock import SystemClock
from marketd.model import Interval
from marketd.sources.contract import ProviderDeps
from marketd.sources.finnhub import ENTRY, FinnhubConfig
from marketd.telemetry import Metrics
from marketd.testing.providers.finnhub import FinnhubSimulator

finnhub = pytest.importorskip("finnhub", reason="finnhub-python is not installed")

MINUTE_NS = 60 * 10**9


def referee_of(simulator, key=None):
    class Client(finnhub.Client):
        API_URL = simulator.rest_url

    return Client(api_key=key or simulator.api_key)


def both(body, **market):
    async def main():
        async with FinnhubSimulator(["AAPL", "OANDA:EUR_USD"], seed=5, history_minutes=300, **market) as simulator:
            config = FinnhubConfig(api_key=simulator.api_key, rest_url=simulator.rest_url, ws_url=simulator.ws_url)
            provider = ENTRY.build(config, ProviderDeps(clock=SystemClock(), metrics=Metrics()))
            referee = referee_of(simulator)
            try:
                await body(provider, referee, simulator)
            finally:
                referee.close()
                await provider.close()

    asyncio.run(main())


def test_a_quote_is_theirs():
    async def body(provider, referee, _):
        theirs = await asyncio.to_thread(referee.quote, "AAPL")
        ours = await provider.quotes.quote("AAPL")
        assert (theirs["c"], theirs["t"] * 10**9) == (ours.last, ours.time_event_ns)
        assert (await asyncio.to_thread(referee.quote, "NOSUCH"))["t"] == 0

    both(body)


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "1h"])
def test_candles_are_our_bars(interval):
    async def body(provider, referee, _):
        step = Interval.parse(interval)
        end_ns = step.floor(SystemClock().time_ns())
        start_ns = step.ceil(end_ns - 290 * MINUTE_NS)
        resolution = str(step.ns // MINUTE_NS)
        for symbol, name, ask in (
            ("AAPL", "AAPL", referee.stock_candles),
            ("EURUSD", "OANDA:EUR_USD", referee.forex_candles),
        ):
            theirs = await asyncio.to_thread(ask, name, resolution, start_ns // 10**9, end_ns // 10**9 - 1)
            ours = await provider.bars.bars(symbol, step, start_ns, end_ns)
            assert ours.num_rows > 3
            for letter, column in zip("ohlcv", ("open", "high", "low", "close", "volume"), strict=True):
                assert theirs[letter] == ours[column].to_pylist()
            assert [at * 10**9 for at in theirs["t"]] == ours["ts"].cast("int64").to_pylist()

    both(body)


def test_a_chain_is_theirs():
    async def body(provider, referee, _):
        theirs = await asyncio.to_thread(referee.option_chain, symbol="AAPL")
        expiry = theirs["data"][1]
        ours = (await provider.options.chain("AAPL", date.fromisoformat(expiry["expirationDate"]))).to_pylist()
        sent = expiry["options"]["CALL"] + expiry["options"]["PUT"]
        assert {(row["contract"], row["ask"]) for row in ours} == {(r["contractName"], r["ask"]) for r in sent}

    both(body)


def test_it_is_refused_as_we_are():
    async def body(_, referee, simulator):
        with pytest.raises(finnhub.FinnhubAPIException) as caught:
            await asyncio.to_thread(referee.stock_candles, "AAPL", "D", 0, 1)
        assert caught.value.status_code == 403
        stranger = referee_of(simulator, "invalid")
        with pytest.raises(finnhub.FinnhubAPIException) as caught:
            await asyncio.to_thread(stranger.quote, "AAPL")
        assert caught.value.status_code == 401
        stranger.close()

    both(body, paid=False)
