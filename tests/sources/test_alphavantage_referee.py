"""alpha_vantage, an independent client, reads the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from marketd.clock import SystemClock
from marketd.model import Interval
from marketd.sources.alphavantage import ENTRY, AlphaVantageConfig
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.telemetry import Metrics
from marketd.testing.providers.alphavantage import AlphaVantageSimulator

timeseries = pytest.importorskip("alpha_vantage.timeseries", reason="alpha_vantage is not installed")
alphavantage = pytest.importorskip("alpha_vantage.alphavantage")
econindicators = pytest.importorskip("alpha_vantage.econindicators")
foreignexchange = pytest.importorskip("alpha_vantage.foreignexchange")
options = pytest.importorskip("alpha_vantage.options")

DAY_NS = 86_400 * 10**9
KEYS = ("1. open", "2. high", "3. low", "4. close", "5. volume")
COLUMNS = ("open", "high", "low", "close", "volume")


def both(monkeypatch, body, **market):
    async def main():
        async with AlphaVantageSimulator(["IBM", "EUR/USD"], seed=5, minute_days=8, **market) as simulator:
            monkeypatch.setattr(alphavantage.AlphaVantage, "_ALPHA_VANTAGE_API_URL", f"{simulator.rest_url}/query?")
            config = AlphaVantageConfig(
                api_key=simulator.api_key,
                rest_url=simulator.rest_url,
                http=HttpConfig(requests_per_s=1e6, burst=100),
            )
            provider = ENTRY.build(config, ProviderDeps(clock=SystemClock(), metrics=Metrics()))
            try:
                await body(provider, simulator)
            finally:
                await provider.close()

    asyncio.run(main())


def rows_of(table):
    columns = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
    return dict(zip(table["ts"].cast("int64").to_pylist(), columns, strict=True))


def theirs_of(data, zone):
    found = {}
    for stamp, row in data.items():
        at = int(datetime.fromisoformat(stamp).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9
        found[at] = tuple(float(row[key]) if key in row else None for key in KEYS)
    return found


def test_a_quote_is_theirs(monkeypatch):
    async def body(provider, simulator):
        theirs, _ = await asyncio.to_thread(timeseries.TimeSeries(simulator.api_key).get_quote_endpoint, "IBM")
        ours = await provider.quotes.quote("IBM")
        assert (float(theirs["05. price"]), float(theirs["06. volume"])) == (ours.last, ours.volume)

    both(monkeypatch, body)


def test_a_rate_is_theirs(monkeypatch):
    async def body(provider, simulator):
        client = foreignexchange.ForeignExchange(simulator.api_key)
        theirs, _ = await asyncio.to_thread(client.get_currency_exchange_rate, "EUR", "USD")
        ours = await provider.quotes.quote("EURUSD")
        told = [float(theirs[key]) for key in ("8. Bid Price", "9. Ask Price", "5. Exchange Rate")]
        assert told == [ours.bid, ours.ask, ours.last]

    both(monkeypatch, body)


def test_days_and_minutes_are_our_bars(monkeypatch):
    async def body(provider, simulator):
        now_ns = SystemClock().time_ns()
        client = timeseries.TimeSeries(simulator.api_key)
        data, _ = await asyncio.to_thread(client.get_daily, "IBM", "full")
        ours = rows_of(await provider.bars.bars("IBM", Interval.parse("1d"), now_ns - 20 * DAY_NS, now_ns))
        theirs = theirs_of(data, "UTC")
        assert len(ours) > 10
        assert ours == {at: theirs[at] for at in ours}
        data, meta = await asyncio.to_thread(client.get_intraday, "IBM", "5min", "full")
        ours = rows_of(await provider.bars.bars("IBM", Interval.parse("5m"), now_ns - 20 * DAY_NS, now_ns))
        theirs = theirs_of(data, meta["6. Time Zone"].replace("US/Eastern", "America/New_York"))
        assert len(ours) > 200
        assert ours == {at: theirs[at] for at in ours}
        assert len(theirs) - len(ours) <= 1, "the running one"

    both(monkeypatch, body)


def test_a_chain_and_a_series_are_theirs(monkeypatch):
    async def body(provider, simulator):
        theirs, _ = await asyncio.to_thread(options.Options(simulator.api_key).get_historical_options, "IBM")
        ours = (await provider.options.chain("IBM")).to_pylist()
        asks = {row["contractID"]: float(row["ask"]) for row in theirs.to_dict("records")}
        assert len(ours) == 10
        assert all(asks[row["contract"]] == row["ask"] for row in ours)
        client = econindicators.EconIndicators(simulator.api_key)
        theirs, _ = await asyncio.to_thread(client.get_cpi)
        table = await provider.macro.observations("CPI:monthly")
        told = {row["date"]: float(row["value"]) for row in theirs.to_dict("records") if row["value"] != "."}
        assert (
            dict(zip((f"{ts:%Y-%m-%d}" for ts in table["ts"].to_pylist()), table["value"].to_pylist(), strict=True))
            == told
        )

    both(monkeypatch, body)


def test_it_is_refused_in_the_same_words(monkeypatch):
    async def body(_, simulator):
        client = timeseries.TimeSeries(simulator.api_key)
        with pytest.raises(ValueError, match="premium endpoint"):
            await asyncio.to_thread(client.get_intraday, "IBM", "5min")
        with pytest.raises(ValueError, match="Invalid API call"):
            await asyncio.to_thread(client.get_daily, "NOSUCH")

    both(monkeypatch, body, paid=False)
