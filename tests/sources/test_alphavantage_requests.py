"""Requests over the simulator: plans, limits, months, and what comes with status 200 instead of an error."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import date

import pytest

from marketd.errors import (
    InvalidInput,
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceRejected,
    SymbolNotFound,
    Throttled,
)
from marketd.model import Interval, parse_ns, starts_of
from marketd.sources.alphavantage import ENTRY, AlphaVantageConfig
from marketd.sources.contract import Limit, ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.alphavantage import AlphaVantageSimulator

NOW_NS = parse_ns("2026-12-02T20:10:30Z")  # a Wednesday, 15:10:30 in New York
AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
DAY_NS = 86_400 * 10**9
DAY, WEEK, MINUTE, FIVE = (Interval.parse(name) for name in ("1d", "1w", "1m", "5m"))


@asynccontextmanager
async def alphavantage(symbols=("IBM",), *, config=None, **market):
    clock = ManualClock(NOW_NS)
    async with AlphaVantageSimulator(symbols, clock=clock, **market) as simulator:
        http = HttpConfig(retry=AT_ONCE, retry_after_max_s=0.0, requests_per_s=1e10, burst=1_000, attempts=2)
        fields = {"api_key": simulator.api_key, "http": http, "rest_url": simulator.rest_url, **(config or {})}
        provider = ENTRY.build(
            AlphaVantageConfig(**fields), ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1))
        )
        try:
            yield provider, simulator
        finally:
            await provider.close()


def run(body, *args, **settings):
    async def main():
        async with alphavantage(*args, **settings) as (provider, simulator):
            await body(provider, simulator)

    asyncio.run(main())


def asks_of(provider):
    return (
        lambda: provider.quotes.quote("IBM"),
        lambda: provider.bars.bars("IBM", DAY, NOW_NS - 9 * DAY_NS, NOW_NS),
        lambda: provider.options.chain("IBM"),
        lambda: provider.macro.observations("CPI"),
    )


def test_it_asks_for_its_key():
    with pytest.raises(InvalidInput, match="ALPHAVANTAGE_API_KEY"):
        ENTRY.build(AlphaVantageConfig(), ProviderDeps(clock=ManualClock(), metrics=Metrics()))


def test_a_wrong_key_is_not_entitled_to_anything():
    async def body(provider, simulator):
        for ask in asks_of(provider):
            with pytest.raises(NotEntitled, match="the parameter apikey"):
                await ask()
        assert len(simulator.requests) == 4, "nothing is tried again"

    run(body, config={"api_key": "invalid"})


def test_a_used_up_day_lasts_until_midnight_in_new_york_and_its_notice_loses_the_key():
    async def body(provider, simulator):
        await provider.quotes.quote("IBM")
        for ask in asks_of(provider):
            with pytest.raises(Throttled) as caught:
                await ask()
            assert caught.value.retry_after_s == 8 * 3_600 + 49 * 60 + 30
            assert "We have detected your API key as …" in str(caught.value)
            assert simulator.api_key not in f"{caught.value} {caught.value!r}"

    run(body, requests_per_day=1)


def test_a_burst_is_a_matter_of_a_second_though_its_notice_names_the_day_and_the_plans():
    async def body(provider, _):
        await provider.quotes.quote("IBM")
        with pytest.raises(Throttled) as caught:
            await provider.quotes.quote("IBM")
        assert caught.value.retry_after_s == 1.5

    run(body, requests_per_s=1)


def test_a_free_key_has_quotes_days_weeks_and_series():
    async def body(provider, _):
        assert (await provider.quotes.quote("IBM")).last
        assert (await provider.bars.bars("IBM", DAY, NOW_NS - 9 * DAY_NS, NOW_NS)).num_rows == 6
        assert (await provider.bars.bars("IBM", WEEK, 0, NOW_NS)).num_rows >= 4
        assert (await provider.macro.observations("CPI")).num_rows == 23
        with pytest.raises(NotEntitled, match="premium endpoint"):
            await provider.bars.bars("IBM", MINUTE, NOW_NS - DAY_NS, NOW_NS)
        with pytest.raises(NotEntitled, match="premium endpoint"):
            await provider.options.chain("IBM")

    run(body, paid=False)


def test_made_up_contracts_are_refused():
    async def body(provider, _):
        with pytest.raises(NotEntitled, match="ARTIFICIAL"):
            await provider.options.chain("IBM")

    run(body, paid=False, config={"options": "realtime"})


def test_days_before_the_last_hundred_are_out_of_range_of_a_free_key_and_asked_for_once():
    async def body(provider, simulator):
        for _ in range(3):
            with pytest.raises(OutOfRange):
                await provider.bars.bars("IBM", DAY, NOW_NS - 200 * DAY_NS, NOW_NS)
        assert [query["outputsize"] for query in simulator.requests] == ["full"]
        assert (await provider.bars.bars("IBM", DAY, NOW_NS - 139 * DAY_NS, NOW_NS)).num_rows > 90

    run(body, paid=False, days=300)


def test_a_paid_key_has_all_days():
    async def body(provider, simulator):
        got = await provider.bars.bars("IBM", DAY, NOW_NS - 250 * DAY_NS, NOW_NS)
        sent = {day: row for day, row in simulator.days("IBM").items() if "2026-03-28" <= day < "2026-12-02"}
        assert starts_of(got).tolist() == sorted(map(parse_ns, sent))
        assert got["close"].to_pylist() == [float(sent[day]["4. close"]) for day in sorted(sent)]

    run(body, days=300)


def test_a_week_is_of_its_monday_and_the_running_one_is_left_out():
    async def body(provider, simulator):
        got = await provider.bars.bars("IBM", WEEK, NOW_NS - 22 * DAY_NS, NOW_NS)
        assert starts_of(got).tolist() == [parse_ns("2026-11-16"), parse_ns("2026-11-23")]
        sent = simulator.weeks("IBM")
        assert got["high"].to_pylist() == [float(sent[day]["2. high"]) for day in ("2026-11-20", "2026-11-27")]

    run(body)


def test_minutes_come_by_month_as_traded_and_within_the_session():
    async def body(provider, simulator):
        await provider.bars.bars("IBM", FIVE, parse_ns("2026-10-30"), NOW_NS)
        assert [query["month"] for query in simulator.requests] == ["2026-10", "2026-11", "2026-12"]
        (query, *_) = simulator.requests
        assert (query["adjusted"], query["extended_hours"], query["interval"]) == ("false", "false", "5min")
        simulator.requests.clear()
        # 03:00 UTC of the first is the evening before in New York
        await provider.bars.bars("IBM", FIVE, parse_ns("2026-12-01T03:00:00Z"), parse_ns("2026-12-01T04:00:00Z"))
        assert [query["month"] for query in simulator.requests] == ["2026-11"]

    run(body)


@pytest.mark.parametrize(
    ("symbol", "functions"),
    [
        ("EURUSD", ["FX_DAILY", "FX_INTRADAY", "FX_WEEKLY"]),
        ("BTC-USD", ["DIGITAL_CURRENCY_DAILY", "CRYPTO_INTRADAY", "DIGITAL_CURRENCY_WEEKLY"]),
    ],
)
def test_pairs_have_functions_of_their_own(symbol, functions):
    async def body(provider, simulator):
        for interval in (DAY, MINUTE, WEEK):
            span_ns = 20 * interval.ns if interval is not WEEK else 30 * DAY_NS
            table = await provider.bars.bars(symbol, interval, NOW_NS - span_ns, NOW_NS)
            assert table.num_rows > 2
            assert (table["volume"].null_count == 0) == (symbol == "BTC-USD")
        assert [query["function"] for query in simulator.requests] == functions
        quote = await provider.quotes.quote(symbol)
        assert quote.bid < quote.last < quote.ask
        assert quote.time_event_ns == NOW_NS
        with pytest.raises(OutOfRange):
            await provider.bars.bars(symbol, MINUTE, NOW_NS - 90 * DAY_NS, NOW_NS)
        with pytest.raises(SymbolNotFound):
            await provider.options.chain(symbol)

    run(body, ("EUR/USD", "BTC/USD"))


def test_an_entitlement_is_asked_for_and_its_other_key_is_read():
    async def body(provider, simulator):
        assert (await provider.quotes.quote("IBM")).last
        assert simulator.requests[0]["entitlement"] == "delayed"
        assert provider.capabilities.delayed_s == 900.0

    run(body, config={"entitlement": "delayed"})


def test_a_chain_is_of_the_last_session_and_has_no_expiry_that_has_passed():
    async def body(provider, simulator):
        expiries = await provider.options.expiries("IBM")
        assert expiries == [date(2026, 12, 4), date(2026, 12, 11), date(2026, 12, 18)]
        rows = (await provider.options.chain("IBM", expiries[1])).to_pylist()
        sent = {row["contractID"]: row for row in simulator.chain("IBM") if row["expiration"] == "2026-12-11"}
        assert {row["contract"] for row in rows} == set(sent)
        for row in rows:
            told = sent[row["contract"]]
            assert (row["strike"], row["bid"]) == (float(told["strike"]), float(told["bid"]) or None)
            assert (row["implied_volatility"], row["vega"]) == (float(told["implied_volatility"]), float(told["vega"]))
            assert row["time_event"].isoformat() == "2026-12-01T21:00:00+00:00"
        with pytest.raises(OutOfRange):
            await provider.options.chain("IBM", date(2030, 1, 4))

    run(body)


@pytest.mark.parametrize("series", ["NOSUCH", "CPI:daily", "TREASURY_YIELD:daily:weekly", "REAL_GDP:", "GLOBAL_QUOTE"])
def test_a_series_that_there_is_not_costs_no_request(series):
    async def body(provider, simulator):
        with pytest.raises(SymbolNotFound):
            await provider.macro.observations(series)
        assert not simulator.requests

    run(body)


def test_a_series_is_asked_for_with_what_it_takes():
    async def body(provider, simulator):
        await provider.macro.observations("TREASURY_YIELD:weekly:2year")
        assert simulator.requests[0] == {"function": "TREASURY_YIELD", "interval": "weekly", "maturity": "2year"}

    run(body)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({}, SymbolNotFound),
        ({"Global Quote": {}}, SymbolNotFound),
        (
            {"Error Message": "Invalid API call. Please retry or visit the documentation for GLOBAL_QUOTE."},
            SymbolNotFound,
        ),
        ({"Note": "Our standard API call frequency is 5 calls per minute and 500 calls per day."}, Throttled),
        ({"Information": "The **demo** API key is for demo purposes only."}, NotEntitled),
        ({"Information": "Something new"}, SourceRejected),
        ({"Something": {"new": 1}}, MalformedMessage),
        ({"Global Quote": {"05. price": "1.0"}}, MalformedMessage),
        ({"Global Quote": []}, MalformedMessage),
        ({"Information": 5}, MalformedMessage),
    ],
)
def test_what_comes_instead_of_a_quote(answer, kind):
    async def body(provider, simulator):
        simulator.refuse(answer, answer)
        with pytest.raises(kind) as caught:
            await provider.quotes.quote("IBM")
        assert type(caught.value) is kind

    run(body)


def test_pence_become_pounds_where_the_table_says_so():
    async def body(provider, simulator):
        sent = next(iter(simulator.days("VOD.LON").values()))
        quote = await provider.quotes.quote("VOD.L")
        assert quote.last == pytest.approx(float(sent["4. close"]) / 100, abs=1e-9)
        bars = await provider.bars.bars("VOD.L", DAY, NOW_NS - 9 * DAY_NS, NOW_NS)
        yesterday = simulator.days("VOD.LON")["2026-12-01"]
        assert bars["open"].to_pylist()[-1] == pytest.approx(float(yesterday["1. open"]) / 100, abs=1e-9)
        assert bars["volume"].to_pylist()[-1] == float(yesterday["5. volume"])

    run(body, ("VOD.LON",), config={"symbol_table": {"VOD.L": "VOD.LON"}, "price_divisors": {"VOD.L": 100.0}})


def test_the_plan_is_what_the_capabilities_say():
    async def body(provider, _):
        assert provider.capabilities.limits == (Limit(count=1, seconds=1.0), Limit(count=25, seconds=86_400.0))
        assert provider.capabilities.names == ("quotes_l1", "bars_1m", "eod", "options_chain", "macro")

    async def paid(provider, _):
        assert provider.capabilities.limits == (Limit(count=75, seconds=60.0),)

    run(body)
    run(paid, config={"requests_per_day": None, "requests_per_minute": 75})


def test_the_configuration_shows_no_key():
    assert "SECRET" not in repr(AlphaVantageConfig(api_key="SECRET"))
    with pytest.raises(InvalidInput) as caught:
        AlphaVantageConfig(api_key="SECRET ")
    assert "SECRET" not in str(caught.value)
    assert ENTRY.secrets == {"ALPHAVANTAGE_API_KEY": "api_key"}


@pytest.mark.parametrize(
    "fields",
    [
        {"rest_url": "x"},
        {"requests_per_day": 0},
        {"requests_per_minute": 0},
        {"entitlement": "free"},
        {"options": "all"},
        {"price_divisors": {"VOD.L": 0.0}},
    ],
)
def test_what_cannot_be_configured_names_its_field(fields):
    with pytest.raises(InvalidInput) as caught:
        AlphaVantageConfig(**fields)
    assert caught.value.field.startswith(next(iter(fields)))
