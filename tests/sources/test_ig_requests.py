"""Login, quotes and bars over HTTP, against the simulator of the wire format, which shares no code with them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from marketd.errors import (
    MalformedMessage,
    MarketClosed,
    NotEntitled,
    OutOfRange,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import Interval, Quote, parse_ns, starts_of
from marketd.sources.contract import BarHistory, ProviderDeps, QuoteRequest
from marketd.sources.http import HttpConfig
from marketd.sources.ig import ENTRY, IgConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.ig import IgSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE_NS = 60_000_000_000
EURUSD, GBPUSD = "CS.D.EURUSD.MINI.IP", "CS.D.GBPUSD.MINI.IP"
MINUTE, FIVE, HOUR = (Interval.parse(name) for name in ("1m", "5m", "1h"))


@asynccontextmanager
async def market(*, now_ns=NOW_NS, config=(), attempts=1, **fields):
    """(simulator, provider, clock)."""
    clock = ManualClock(now_ns)
    quick = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
    http = HttpConfig(retry=quick, requests_per_s=1e6, burst=1_000, attempts=attempts)
    async with IgSimulator([EURUSD, GBPUSD], clock=clock, keepalive_s=1e6, **fields) as simulator:
        given = {"api_key": simulator.api_key, "username": simulator.username, "password": simulator.password}
        settings = IgConfig(**{"rest_url": simulator.rest_url, "http": http, **given, **dict(config)})
        provider = ENTRY.build(settings, ProviderDeps(clock=clock, metrics=Metrics()))
        try:
            yield simulator, provider, clock
        finally:
            await provider.close()


def run(body, **fields):
    async def main():
        async with market(**fields) as (simulator, provider, clock):
            await body(simulator, provider, clock)

    asyncio.run(main())


def asked(simulator):
    return [what for _, what in simulator.requests]


def test_one_login_serves_all_requests_and_each_names_its_version():
    async def body(simulator, provider, _):
        assert isinstance(provider.bars, BarHistory)
        quotes: QuoteRequest = provider.quotes
        await asyncio.gather(*(quotes.quote("EURUSD") for _ in range(3)), quotes.quotes(["EURUSD", "GBPUSD"]))
        await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 5 * MINUTE_NS, NOW_NS)
        await quotes.search("EUR")
        assert simulator.logins == 1
        assert {(version, what.split("?")[0]) for version, what in simulator.requests} == {
            ("2", "POST /session"),
            ("3", f"GET /markets/{EURUSD}"),
            ("2", "GET /markets"),
            ("1", "GET /markets"),
            ("3", f"GET /prices/{EURUSD}"),
        }

    run(body)


def test_a_quote_is_of_now():
    async def body(simulator, provider, clock):
        bid, ask, _ = simulator.tick(EURUSD, bid="1.15801")
        await clock.advance(3.0)
        assert await provider.quotes.quote("EURUSD") == Quote(
            symbol="EURUSD",
            time_event_ns=NOW_NS,
            time_received_ns=NOW_NS + 3_000_000_000,
            source="ig",
            bid=bid,
            ask=ask,
        )
        assert (bid, ask) == (1.15801, 1.15807)

    for zone in ("Europe/London", "America/New_York", "Australia/Sydney"):
        run(body, zone=zone)


def test_many_quotes_are_one_request_and_one_by_one_when_one_is_not_known():
    async def body(simulator, provider, _):
        for epic in (EURUSD, GBPUSD):
            simulator.tick(epic)
        found = await provider.quotes.quotes(["EURUSD", "GBPUSD", "EURUSD"])
        assert [(q.symbol, q.bid) for q in found.values()] == [
            ("EURUSD", simulator.last(EURUSD)[0]), ("GBPUSD", simulator.last(GBPUSD)[0]),
        ]  # fmt: skip
        assert asked(simulator)[1:] == [f"GET /markets?epics={EURUSD},{GBPUSD}&filter=SNAPSHOT_ONLY"]
        simulator.set_state(GBPUSD, "CLOSED")
        found = await provider.quotes.quotes(["AAPL", "EURUSD", "USDCHF", "GBPUSD"])
        assert [type(v) for v in found.values()] == [SymbolNotFound, Quote, SymbolNotFound, MarketClosed]
        assert list(found) == ["AAPL", "EURUSD", "USDCHF", "GBPUSD"]
        assert len(asked(simulator)) == 2 + 1 + 3

    run(body)


def test_more_than_fifty_symbols_are_several_requests():
    async def body(simulator, provider, _):
        names = [f"CS.D.X{number}.CASH.IP" for number in range(49)]
        simulator._markets.update(dict.fromkeys(names, simulator._markets[EURUSD]))
        await provider.quotes.quotes(["EURUSD", "GBPUSD", *names])
        lists = [what.split("epics=")[1].split("&")[0].split(",") for what in asked(simulator)[1:]]
        assert [len(epics) for epics in lists] == [50, 1]

    run(body)


def test_what_ig_has_is_searched_for():
    async def body(_, provider, __):
        ((ours, found),) = await provider.quotes.search("GBP/USD")
        assert (ours, found.epic, found.instrument_type) == ("GBPUSD", GBPUSD, "CURRENCIES")
        assert await provider.quotes.search("nothing like it") == []

    run(body)


def test_an_expired_token_is_renewed_once():
    async def body(simulator, provider, clock):
        await provider.quotes.quote("EURUSD")
        for _ in range(3):
            await clock.advance(6 * 3_600 + 1.0)
            simulator.tick(EURUSD)
            await asyncio.gather(*(provider.quotes.quote("EURUSD") for _ in range(4)))
        assert simulator.logins == 4

    run(body)


def test_a_new_token_that_is_refused_too_is_told_and_no_login_follows_for_a_while():
    async def body(simulator, provider, clock):
        await provider.quotes.quote("EURUSD")
        simulator.misbehaviour.kind, simulator.misbehaviour.only = "unauthorised", "/markets/"
        for _ in range(5):
            with pytest.raises(NotEntitled):
                await provider.quotes.quote("EURUSD")
        assert simulator.logins == 2
        simulator.misbehaviour.kind = None
        await clock.advance(61.0)
        simulator.tick(EURUSD)
        await provider.quotes.quote("EURUSD")
        simulator.expire_tokens()
        await provider.quotes.quote("EURUSD")
        assert simulator.logins == 3

    run(body)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "error.security.invalid-details"),
        (403, "error.security.too-many-failed-attempts"),
        (403, "error.security.api-key-disabled"),
        (403, "endpoint.unavailable.for.api-key"),
        (400, "error.public-api.failure.kyc.required"),
    ],
)
def test_a_refused_login_is_final(status, code):
    async def body(simulator, provider, _):
        simulator.refuse(status, code)
        for _ in range(4):
            with pytest.raises(NotEntitled, match=code) as caught:
                await provider.quotes.quote("EURUSD")
        assert "lock the account" in str(caught.value)
        assert asked(simulator) == ["POST /session"]

    run(body, attempts=4)


def test_a_wrong_password_is_tried_once_and_never_shown():
    async def body(simulator, provider, _):
        for ask in (provider.quotes.quote("EURUSD"), provider.bars.bars("EURUSD", MINUTE, 0, NOW_NS)):
            with pytest.raises(NotEntitled, match="invalid-details") as caught:
                await ask
            assert "open-sesame2" not in f"{caught.value!r}{caught.value}"
        assert asked(simulator) == ["POST /session"]

    run(body, config={"password": "open-sesame2"}.items(), attempts=4)


def test_a_login_that_failed_on_the_way_is_tried_again():
    async def body(simulator, provider, _):
        simulator.misbehaviour.kind = "forbidden"  # by a gateway: it is not in IG's words
        with pytest.raises(SourceUnavailable, match="HTTP 403"):
            await provider.quotes.quote("EURUSD")
        simulator.misbehaviour.kind = "html"
        with pytest.raises(MalformedMessage):
            await provider.quotes.quote("EURUSD")
        simulator.misbehaviour.kind = None
        await provider.quotes.quote("EURUSD")

    run(body)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "error.public-api.exceeded-api-key-allowance", Throttled),
        (403, "error.public-api.exceeded-account-allowance", Throttled),
        (403, "error.public-api.exceeded-account-trading-allowance", Throttled),
        (403, "error.security.api-key-invalid", NotEntitled),
        (403, "unauthorised.access.to.equity.exception", NotEntitled),
        (400, "error.public-api.stockbroking-not-supported", NotEntitled),
        (404, "error.public-api.epic-not-found", SymbolNotFound),
        (404, "error.service.marketdata.instrument.epic.unavailable", SymbolNotFound),
        (400, "error.invalid.daterange", OutOfRange),
        (400, "error.request.invalid.page-size", SourceRejected),
        (404, "error.error.price-history.io-error", SourceUnavailable),
        (500, "system.error", SourceUnavailable),
    ],
)
def test_errors_are_of_the_kind_that_they_are(status, code, kind):
    async def body(simulator, provider, _):
        await provider.quotes.quote("EURUSD")
        simulator.refuse(status, code)
        with pytest.raises((SourceRejected, SourceUnavailable), match=code) as caught:
            await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 5 * MINUTE_NS, NOW_NS)
        assert isinstance(caught.value, kind)
        assert isinstance(caught.value, Throttled) == (kind is Throttled)
        if kind is Throttled:
            assert caught.value.retry_after_s == 60.0

    run(body)


# Bars


def rows_of(table):
    names = ("open", "high", "low", "close", "trades")
    return list(
        zip(starts_of(table).tolist(), table["side"].to_pylist(), *(table[n].to_pylist() for n in names), strict=True)
    )


def truth(simulator, start_ns, end_ns, minutes=1):
    rows = simulator.bars(EURUSD, start_ns // 10**9, end_ns // 10**9, minutes=minutes)
    return [
        (ts * 10**9, side, *sides[side], ticks) for ts, sides, ticks in rows for side in ("bid", "ask")
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("request_zone", ["UTC", "Europe/London"])
def test_bars_are_those_of_the_market_across_pages_and_daylight_saving(zone, request_zone):
    now_ns = parse_ns("2026-11-01T06:45:20Z")  # New York turned its clocks back at 06:00

    async def body(simulator, provider, _):
        start_ns, end_ns = now_ns - 170 * MINUTE_NS, now_ns - 3 * MINUTE_NS
        table = await provider.bars.bars("EURUSD", MINUTE, start_ns, end_ns)
        assert rows_of(table) == truth(simulator, MINUTE.ceil(start_ns), end_ns)
        assert table.num_rows > 200

    config = {"points_per_call": 50, "request_zone": request_zone}
    run(body, now_ns=now_ns, history_minutes=180, zone=zone, request_zone=request_zone, config=config.items())


def test_pages_that_come_unasked_are_all_read():
    async def body(simulator, provider, _):
        start_ns = NOW_NS - 100 * MINUTE_NS
        table = await provider.bars.bars("EURUSD", MINUTE, start_ns, NOW_NS)
        assert rows_of(table) == truth(simulator, MINUTE.ceil(start_ns), MINUTE.floor(NOW_NS))
        pages = [what for what in asked(simulator) if "/prices/" in what]
        assert [int(what.split("pageNumber=")[1].split("&")[0]) for what in pages] == list(range(1, len(pages) + 1))
        assert len(pages) > 2

    run(body, history_minutes=120, pages_forced=30)


@pytest.mark.parametrize(("interval", "minutes"), [(FIVE, 5), (HOUR, 60)])
def test_longer_bars_too(interval, minutes):
    async def body(simulator, provider, _):
        start_ns = interval.floor(NOW_NS) - 4 * interval.ns
        table = await provider.bars.bars("EURUSD", interval, start_ns, NOW_NS)
        assert rows_of(table) == truth(simulator, start_ns, interval.floor(NOW_NS), minutes)
        assert table.num_rows == 8

    run(body, history_minutes=400)


def test_one_side_may_be_enough():
    async def body(_, provider, __):
        table = await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 9 * MINUTE_NS, NOW_NS)
        assert set(table["side"].to_pylist()) == {"ask"}

    run(body, config={"bar_sides": "ask"}.items())


def test_a_span_read_in_another_zone_is_noticed():
    async def body(_, provider, __):
        with pytest.raises(MalformedMessage, match="request_zone"):
            await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 30 * MINUTE_NS, NOW_NS)

    run(body, history_minutes=800, request_zone="Asia/Kolkata")


def test_longer_bars_than_an_hour_are_not_had():
    async def body(_, provider, __):
        for name in ("4h", "1d", "1w", "1s"):
            with pytest.raises(OutOfRange, match="only 1m, 5m, 10m, 15m, 30m, 1h"):
                await provider.bars.bars("EURUSD", Interval.parse(name), 0, NOW_NS)
        assert provider.bars.history_start_ns("EURUSD", MINUTE) == NOW_NS - 40 * 86_400 * 10**9
        assert provider.bars.history_start_ns("EURUSD", HOUR) is None

    run(body)


def test_a_spent_week_stops_history_and_nothing_else():
    async def body(simulator, provider, clock):
        await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 10 * MINUTE_NS, NOW_NS)
        spent = 60 - simulator.points_left
        assert provider.bars.allowance.remaining_allowance == simulator.points_left == 60 - spent
        with pytest.raises(Throttled, match="historical-data-allowance") as caught:
            await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 110 * MINUTE_NS, NOW_NS)
        assert caught.value.retry_after_s == 50_000.0
        count = len(simulator.requests)
        await clock.advance(10.0)
        with pytest.raises(Throttled, match="allowance of bars is spent") as caught:
            await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 2 * MINUTE_NS, NOW_NS)
        assert caught.value.retry_after_s == 49_990.0
        assert len(simulator.requests) == count
        await provider.quotes.quote("EURUSD")
        simulator.points_left = 10_000
        await clock.advance(50_000.0)
        assert (await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 110 * MINUTE_NS, NOW_NS)).num_rows > 50

    run(body, history_minutes=120, history_points=60, attempts=4)


def test_a_last_point_spent_is_noticed_without_a_refusal():
    async def body(simulator, provider, _):
        simulator.points_left = len(truth(simulator, NOW_NS - 10 * MINUTE_NS, MINUTE.floor(NOW_NS))) // 2
        await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 10 * MINUTE_NS, NOW_NS)
        with pytest.raises(Throttled, match="is spent"):
            await provider.bars.bars("EURUSD", MINUTE, NOW_NS - 10 * MINUTE_NS, NOW_NS)

    run(body)
