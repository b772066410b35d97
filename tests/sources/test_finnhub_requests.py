"""Requests over the simulator: plans, limits, pages, and what Finnhub says instead of an error."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import date

import pytest

from marketd.errors import InvalidInput, NotEntitled, OutOfRange, SourceRejected, SymbolNotFound, Throttled
from marketd.model import Interval, parse_ns, starts_of
from marketd.sources.contract import ProviderDeps
from marketd.sources.finnhub import ENTRY, FinnhubConfig
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.finnhub import FinnhubSimulator

NOW_NS = parse_ns("2026-11-20T20:10:30Z")  # a Friday, 15:10:30 in New York
AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
DAY_NS = 86_400 * 10**9


@asynccontextmanager
async def finnhub(symbols=("AAPL",), *, config=None, **market):
    clock = ManualClock(NOW_NS)
    async with FinnhubSimulator(symbols, clock=clock, **market) as simulator:
        http = HttpConfig(retry=AT_ONCE, retry_after_max_s=0.0, requests_per_s=1e10, burst=1_000, attempts=2)
        fields = {"api_key": simulator.api_key, "http": http, **(config or {})}
        settings = FinnhubConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, **fields)
        provider = ENTRY.build(settings, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1)))
        try:
            yield provider, simulator
        finally:
            await provider.close()


def run(body, *args, **settings):
    async def main():
        async with finnhub(*args, **settings) as (provider, simulator):
            await body(provider, simulator)

    asyncio.run(main())


def test_it_asks_for_its_key():
    with pytest.raises(InvalidInput, match="FINNHUB_API_KEY"):
        ENTRY.build(FinnhubConfig(), ProviderDeps(clock=ManualClock(), metrics=Metrics()))


def test_the_key_goes_in_a_header_and_in_no_path():
    async def body(provider, simulator):
        await provider.quotes.quote("AAPL")
        assert list(simulator.requests) == ["/api/v1/quote?symbol=AAPL"]

    run(body)


def test_an_invalid_key_is_not_entitled_to_anything():
    async def body(provider, simulator):
        asks = (
            lambda: provider.quotes.quote("AAPL"),
            lambda: provider.bars.bars("AAPL", Interval.parse("1m"), NOW_NS - DAY_NS, NOW_NS),
            lambda: provider.options.expiries("AAPL"),
        )
        for ask in asks:
            with pytest.raises(NotEntitled) as caught:
                await ask()
            assert "Invalid API key" in str(caught.value)
        assert len(simulator.requests) == 3, "nothing is tried again"

    run(body, config={"api_key": "invalid"})


def test_a_free_key_has_quotes_and_no_bars_or_chains():
    async def body(provider, _):
        assert (await provider.quotes.quote("AAPL")).last
        with pytest.raises(NotEntitled, match="don't have access"):
            await provider.bars.bars("AAPL", Interval.parse("1d"), NOW_NS - 9 * DAY_NS, NOW_NS)
        with pytest.raises(NotEntitled):
            await provider.options.chain("AAPL")

    run(body, paid=False)


def test_a_used_up_minute_says_when_it_ends():
    async def body(provider, _):
        await provider.quotes.quote("AAPL")
        with pytest.raises(Throttled) as caught:
            await provider.quotes.quote("AAPL")
        assert caught.value.retry_after_s == pytest.approx(30.0)

    run(body, requests_per_minute=1)


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (401, '{"error":"Please use an API key."}', NotEntitled),
        (429, '{"error":"API limit reached. Please sign up for a free account to continue using."}', NotEntitled),
        (429, '{"error":"API limit reached. Please try again later. Remaining Limit: 0"}', Throttled),
        (200, '{"error":"API limit reached. Please try again later."}', Throttled),
        (200, '{"error":"You don\'t have access to this resource."}', NotEntitled),
        (200, '{"error":"something new"}', SourceRejected),
        (422, '{"error":"Symbol not supported"}', SymbolNotFound),
        (422, '{"error":"Wrong resolution"}', SourceRejected),
        (302, "<html></html>", SourceRejected),
    ],
)
def test_refusals_are_told_apart_by_their_words(status, answer, kind):
    async def body(provider, simulator):
        simulator.refuse(2, status, answer)
        with pytest.raises(SourceRejected if kind is SourceRejected else kind) as caught:
            await provider.quotes.quote("AAPL")
        assert type(caught.value) is kind

    run(body)


def test_a_path_that_there_is_not_is_a_page_and_not_followed():
    async def body(provider, simulator):
        with pytest.raises(SourceRejected, match="302"):
            await provider.quotes.quote("AAPL")
        assert len(simulator.requests) == 1

    async def main():
        async with finnhub() as (_, simulator):
            config = {"rest_url": f"{simulator.rest_url}/v9", "api_key": simulator.api_key}
            provider = ENTRY.build(FinnhubConfig(**config), ProviderDeps(clock=ManualClock(NOW_NS), metrics=Metrics()))
            try:
                await body(provider, simulator)
            finally:
                await provider.close()

    asyncio.run(main())


def test_an_empty_span_of_a_stock_that_exists_is_no_error_and_is_asked_about_once():
    async def body(provider, simulator):
        for _ in range(2):
            table = await provider.bars.bars("AAPL", Interval.parse("1m"), NOW_NS - 9 * DAY_NS, NOW_NS - 8 * DAY_NS)
            assert table.num_rows == 0
        assert sum("/quote" in path for path in simulator.requests) == 1
        with pytest.raises(SymbolNotFound):
            await provider.bars.bars("NOSUCH", Interval.parse("1m"), NOW_NS - 9 * DAY_NS, NOW_NS - 8 * DAY_NS)

    run(body)


@pytest.mark.parametrize(("symbol", "path"), [("EURUSD", "forex"), ("BTC-USDT", "crypto"), ("AAPL", "stock")])
def test_each_market_is_asked_on_its_path(symbol, path):
    async def body(provider, simulator):
        table = await provider.bars.bars(symbol, Interval.parse("5m"), NOW_NS - 3_600 * 10**9, NOW_NS)
        assert table.num_rows > 5
        assert simulator.requests[0].startswith(f"/api/v1/{path}/candle?")

    run(body, ("AAPL", "OANDA:EUR_USD", "BINANCE:BTCUSDT"))


@pytest.mark.parametrize("stamp", ["new_york", "utc"])
def test_days_are_utc_days_wherever_their_midnight_is(stamp):
    async def body(provider, _):
        table = await provider.bars.bars("AAPL", Interval.parse("1d"), NOW_NS - 3 * DAY_NS, NOW_NS)
        assert starts_of(table).tolist() == [parse_ns("2026-11-18"), parse_ns("2026-11-19")]

    run(body, history_minutes=4_000, daily_stamp=stamp)


def test_pages_are_as_long_as_is_configured():
    async def body(provider, simulator):
        await provider.bars.bars("AAPL", Interval.parse("1m"), NOW_NS - 5 * DAY_NS, NOW_NS)
        assert sum("/candle" in path for path in simulator.requests) == 3

    run(body, config={"candle_days_per_call": 2})


def test_a_chain_has_the_contracts_of_the_day_and_none_that_has_expired():
    async def body(provider, simulator):
        expiries = await provider.options.expiries("AAPL")
        assert expiries == [date(2026, 11, 20), date(2026, 11, 27), date(2026, 12, 4)]
        rows = (await provider.options.chain("AAPL", expiries[1])).to_pylist()
        sent = next(each for each in simulator.chain("AAPL") if each["expirationDate"] == "2026-11-27")["options"]
        sent = {row["contractName"]: row for row in sent["CALL"] + sent["PUT"]}
        assert {row["contract"] for row in rows} == set(sent)
        for row in rows:
            told = sent[row["contract"]]
            assert (row["strike"], row["bid"], row["ask"]) == (told["strike"], told["bid"] or None, told["ask"])
            assert row["implied_volatility"] == pytest.approx(told["impliedVolatility"] / 100)
            assert (row["delta"], row["vega"], row["open_interest"]) == (
                told["delta"],
                told["vega"],
                told["openInterest"],
            )
        with pytest.raises(OutOfRange):
            await provider.options.chain("AAPL", date(2030, 1, 4))

    run(body)


def test_a_volatility_may_be_configured_to_come_as_a_fraction():
    async def body(provider, simulator):
        rows = (await provider.options.chain("AAPL")).to_pylist()
        sent = {row["contractName"]: row for each in simulator.chain("AAPL") for row in each["options"]["CALL"]}
        assert all(
            row["implied_volatility"] == sent[row["contract"]]["impliedVolatility"]
            for row in rows
            if row["right"] == "call"
        )

    run(body, config={"implied_volatility": "fraction"})
