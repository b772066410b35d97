"""Requests over the simulator: passes, pages, silence after 429, what is refused and how."""

from __future__ import annotations

import asyncio
import builtins
import random
from contextlib import asynccontextmanager
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from marketd.errors import (
    ConfigError,
    InvalidInput,
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import Interval, parse_ns, starts_of
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.registry import provider_entry
from marketd.sources.yahoo import ENTRY, YahooConfig
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.yahoo import YahooSimulator

DAY_NS = 86_400 * 10**9
NOW = "2026-11-20T20:10:30Z"  # Friday, 15:10:30 in New York
AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)


@asynccontextmanager
async def yahoo(symbols=("AAPL",), *, now=NOW, attempts=2, config=None, **market):
    clock = ManualClock(parse_ns(now))
    async with YahooSimulator(symbols, clock=clock, **market) as simulator:
        http = HttpConfig(retry=AT_ONCE, retry_after_max_s=0.0, requests_per_s=1e10, burst=1_000, attempts=attempts)
        settings = YahooConfig(
            rest_url=simulator.rest_url,
            cookie_url=simulator.cookie_url,
            transport="aiohttp",
            http=http,
            **(config or {}),
        )
        provider = ENTRY.build(settings, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1)))
        try:
            yield provider, simulator
        finally:
            await provider.close()


def run(body, *args, **settings):
    async def main():
        async with yahoo(*args, **settings) as (provider, simulator):
            return await body(provider, simulator)

    return asyncio.run(main())


def paths(simulator):
    return [each.split("?")[0] for each in simulator.requests]


# --- passes -----------------------------------------------------------------------------------------------------


def test_a_pass_is_asked_for_once_and_charts_need_none():
    async def body(provider, simulator):
        await provider.bars.bars("AAPL", Interval.parse("1d"), parse_ns("2026-11-01"), parse_ns("2026-11-20"))
        assert paths(simulator) == ["/v8/finance/chart/AAPL"]
        assert "crumb" not in simulator.requests[0]
        quotes = [provider.quotes.quote("AAPL") for _ in range(4)]
        await asyncio.gather(*quotes)
        assert paths(simulator)[1:3] == ["/fc/", "/v1/test/getcrumb"]
        assert paths(simulator)[3:] == ["/v7/finance/quote"] * 4

    run(body)


def test_a_crumb_that_is_good_no_longer_is_renewed_once_for_all_that_wait():
    async def body(provider, simulator):
        await provider.quotes.quote("AAPL")
        simulator.expire_crumb()
        simulator.requests.clear()
        await asyncio.gather(*(provider.quotes.quote("AAPL") for _ in range(3)))
        asked = paths(simulator)
        assert (asked.count("/fc/"), asked.count("/v1/test/getcrumb")) == (1, 1)
        assert asked.count("/v7/finance/quote") == 6

    run(body)


def test_a_pass_that_is_refused_again_is_not_asked_for_without_end():
    async def body(provider, simulator):
        simulator.misbehaviour.kind = "unauthorised"
        simulator.misbehaviour.only = "/v7/"
        with pytest.raises(NotEntitled):
            await provider.quotes.quote("AAPL")
        assert paths(simulator) == ["/fc/", "/v1/test/getcrumb", "/v7/finance/quote"] * 2

    run(body)


def test_where_consent_is_asked_for_the_refusal_says_what_to_do_and_a_cookie_helps():
    async def body(provider, simulator):
        simulator.consent_required = True
        with pytest.raises(SourceRejected, match="asks for consent to its terms first; set `cookie`"):
            await provider.quotes.quote("AAPL")

    run(body)

    async def with_cookie(provider, simulator):
        simulator.consent_required = True
        assert (await provider.quotes.quote("AAPL")).symbol == "AAPL"
        assert paths(simulator) == ["/v1/test/getcrumb", "/v7/finance/quote"]

    run(with_cookie, config={"cookie": "A3=d=AQABB0000&S=AQAAAk"})


def test_secrets_are_in_no_error_and_in_no_text_of_the_configuration():
    async def body(provider, simulator):
        await provider.quotes.quote("AAPL")
        cookie, crumb = simulator.secrets
        simulator.misbehaviour.kind = "not_json"
        with pytest.raises(MalformedMessage) as caught:
            await provider.quotes.quote("AAPL")
        assert not any(secret in f"{caught.value!r} {caught.value}" for secret in (cookie, crumb))

    run(body)
    config = YahooConfig(cookie="A3=secret")
    assert "secret" not in f"{config!r} {config}"
    with pytest.raises(InvalidInput) as refused:
        YahooConfig(cookie="B=secret")
    assert "secret" not in str(refused.value)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_after_429_the_silence_grows_until_something_is_answered():
    async def body(provider, simulator):
        told = []
        for _ in range(6):
            simulator.throttle(1)
            with pytest.raises(Throttled, match="HTTP 429: Too Many Requests") as caught:
                await provider.bars.bars("AAPL", Interval.parse("1d"), 0, DAY_NS)
            told.append(caught.value.retry_after_s)
        assert told == [60.0, 120.0, 240.0, 480.0, 960.0, 960.0]
        await provider.quotes.quote("AAPL")
        simulator.throttle(1)
        with pytest.raises(Throttled) as caught:
            await provider.quotes.quote("AAPL")
        assert caught.value.retry_after_s == 60.0

    run(body, attempts=1)


def test_a_page_of_html_is_the_provider_down():
    async def body(provider, simulator):
        simulator.be_back(1)
        assert (await provider.quotes.quote("AAPL")).symbol == "AAPL"  # tried again
        simulator.be_back(9)
        with pytest.raises(SourceUnavailable, match="HTTP 503"):
            await provider.quotes.quote("AAPL")

    run(body)


@pytest.mark.parametrize("symbol", ["NOSUCH9", "BRK-B", "EURUSD=X", "../etc"])
def test_what_is_no_symbol_is_not_found(symbol):
    async def body(provider, simulator):
        for ask in (
            lambda: provider.quotes.quote(symbol),
            lambda: provider.bars.bars(symbol, Interval.parse("1d"), parse_ns("2026-11-01"), parse_ns("2026-11-20")),
            lambda: provider.actions.actions(symbol, 0, 2**62),
            lambda: provider.options.expiries(symbol),
        ):
            with pytest.raises(SymbolNotFound):
                await ask()
        assert bool(simulator.requests) == (symbol == "NOSUCH9")  # what cannot be a name is not asked for

    run(body, ("AAPL", "BRK-B", "EURUSD=X"))


def test_without_curl_cffi_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith(("curl_cffi", "marketd.sources.yahoo.transport")):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"marketd\[yahoo\]"):
        ENTRY.build(YahooConfig(), ProviderDeps(clock=ManualClock(), metrics=Metrics()))


def test_it_is_known_by_both_of_its_names():
    assert provider_entry("yfinance") is provider_entry("yahoo") is ENTRY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbols", ("BRK-B",)), ("rest_url", "ftp://x"), ("ws_url", "https://x"), ("mute_timeout_s", 0.0),
        ("throttle_max_s", 1.0), ("cookie", "x"), ("impersonate", ""), ("keepalive_s", -1.0),
        ("gather_s", 2.0),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(field, value):
    with pytest.raises(InvalidInput) as refused:
        YahooConfig(**{field: value})
    assert refused.value.field == field


def test_symbols_of_the_configuration_are_spelled_as_ours():
    assert YahooConfig(symbols=(" aapl", "btc/usd", "AAPL")).symbols == ("AAPL", "BTC-USD")


# --- bars -------------------------------------------------------------------------------------------------------


def truth(simulator, name, interval, start_ns, end_ns):
    return [(s * 10**9, *values) for s, *values in simulator.bars(name, interval) if start_ns <= s * 10**9 < end_ns]


def rows_of(table):
    names = ("open", "high", "low", "close", "volume")
    return list(zip(starts_of(table).tolist(), *(table[name].to_pylist() for name in names), strict=True))


def test_minutes_are_asked_for_a_week_at_a_time():
    async def body(provider, simulator):
        start_ns, end_ns = parse_ns("2026-11-01"), parse_ns("2026-11-20")
        table = await provider.bars.bars("AAPL", Interval.parse("1m"), start_ns, end_ns)
        assert rows_of(table) == truth(simulator, "AAPL", "1m", start_ns, end_ns)
        assert table.num_rows > 4_000
        spans = [dict(pair.split("=") for pair in each.split("?")[1].split("&")) for each in simulator.requests]
        assert [(int(span["period1"]), int(span["period2"])) for span in spans] == [
            (parse_ns(a) // 10**9, parse_ns(b) // 10**9)
            for a, b in (("2026-11-01", "2026-11-08"), ("2026-11-08", "2026-11-15"), ("2026-11-15", "2026-11-20"))
        ]
        assert {(span["interval"], span["includePrePost"]) for span in spans} == {("1m", "false")}

    run(body, history_days=25, history_years=1)


def test_what_lies_before_its_memory_is_said_and_left_out():
    async def body(provider, simulator):
        minute = Interval.parse("1m")
        begins_ns = provider.bars.history_start_ns("AAPL", minute)
        assert begins_ns == parse_ns("2026-10-21T21:10:30Z")
        with pytest.raises(OutOfRange, match="1m bars of the last 30 days"):
            await provider.bars.bars("AAPL", minute, parse_ns("2026-10-01"), parse_ns("2026-10-21"))
        assert not simulator.requests
        table = await provider.bars.bars("AAPL", minute, parse_ns("2026-10-01"), parse_ns("2026-11-20"))
        assert rows_of(table) == truth(simulator, "AAPL", "1m", begins_ns, parse_ns("2026-11-20"))
        assert provider.bars.history_start_ns("AAPL", Interval.parse("1d")) is None
        assert provider.bars.history_start_ns("AAPL", Interval.parse("1h")) == parse_ns("2026-09-21T21:10:30Z")
        assert provider.bars.history_start_ns("BTC-USD", Interval.parse("1h")) == parse_ns("2024-11-20T21:10:30Z")

    run(body, history_days=40, history_years=1)


def test_hours_of_stocks_begin_with_the_hour():
    async def body(provider, simulator):
        start_ns, end_ns = parse_ns("2026-11-18"), parse_ns("2026-11-20")
        table = await provider.bars.bars("AAPL", Interval.parse("1h"), start_ns, end_ns)
        hours = [int(ts) // 10**9 % 86_400 / 3_600 for ts in starts_of(table)]
        assert hours == [14, 15, 16, 17, 18, 19, 20] * 2
        minutes = truth(simulator, "AAPL", "1m", start_ns, end_ns)
        in_hour = [
            row for row in minutes if row[0] // (3_600 * 10**9) == parse_ns("2026-11-18T14:00:00Z") // (3_600 * 10**9)
        ]
        assert rows_of(table)[0] == (
            parse_ns("2026-11-18T14:00:00Z"), in_hour[0][1], max(r[2] for r in in_hour), min(r[3] for r in in_hour),
            in_hour[-1][4], sum(r[5] for r in in_hour),
        )  # fmt: skip
        assert "interval=15m" in simulator.requests[0]
        native = await provider.bars.bars("BTC-USD", Interval.parse("1h"), start_ns, end_ns)
        assert rows_of(native) == truth(simulator, "BTC-USD", "60m", start_ns, end_ns)
        assert native.num_rows == 48

    run(body, ("AAPL", "BTC-USD"))


ZONES = {
    "AAPL": "America/New_York", "7203.T": "Asia/Tokyo", "VOD.L": "Europe/London", "EURUSD=X": "Europe/London",
    "BTC-USD": "UTC",
}  # fmt: skip


@pytest.mark.parametrize("name", list(ZONES))
@pytest.mark.parametrize("now", [NOW, "2026-11-21T12:00:00Z", "2026-03-09T14:00:00Z"])
def test_days_are_those_of_the_exchange_across_seasons(name, now):
    async def body(provider, simulator):
        start_ns, end_ns = parse_ns(now) // DAY_NS * DAY_NS - 300 * DAY_NS, parse_ns(now)
        ours = provider.symbols.from_provider(name)
        table = await provider.bars.bars(ours, Interval.parse("1d"), start_ns, end_ns)
        zone = ZoneInfo(ZONES[name])
        expected = {
            parse_ns(datetime.fromtimestamp(second, zone).date().isoformat()): values
            for second, *values in simulator.bars(name, "1d")
        }
        found = rows_of(table)
        today = parse_ns(datetime.fromtimestamp(end_ns // 10**9, zone).date().isoformat())
        over = [ts for ts in expected if start_ns <= ts < today and ts + DAY_NS <= end_ns]
        assert [row[0] for row in found] == over
        assert len(found) > 150
        pence = 100.0 if name == "VOD.L" else 1.0
        for ts, *values in found:
            told = expected[ts]
            assert values[:4] == pytest.approx([price / pence for price in told[:4]], rel=1e-7)
            assert values[4] == (None if name.endswith("=X") else told[4])

    run(body, (name,), now=now)


def test_a_span_without_sessions_is_empty():
    async def body(provider, simulator):
        day = Interval.parse("1d")
        table = await provider.bars.bars("AAPL", day, parse_ns("2020-01-01"), parse_ns("2020-01-05"))
        assert table.num_rows == 0  # "Data doesn't exist for startDate"
        table = await provider.bars.bars(
            "AAPL", Interval.parse("1m"), parse_ns("2026-11-14T12:00:00Z"), parse_ns("2026-11-15T12:00:00Z")
        )
        assert table.num_rows == 0  # a weekend: neither stamps nor columns
        assert len(simulator.requests) == 2

    run(body, history_years=1)


# --- actions ----------------------------------------------------------------------------------------------------


def test_actions_are_as_they_were_declared():
    async def body(provider, simulator):
        found = await provider.actions.actions("AAPL", 0, 2**62)
        midnight = {kind: {a.ex_ns: a for a in found if a.kind == kind} for kind in ("split", "dividend")}
        splits = {parse_ns(day.isoformat()): new / old for day, new, old in simulator.splits("AAPL")}
        dividends = {parse_ns(day.isoformat()): amount for day, amount in simulator.dividends("AAPL")}
        assert {ts: a.ratio for ts, a in midnight["split"].items()} == splits
        assert {ts: a.amount for ts, a in midnight["dividend"].items()} == dividends
        assert len(dividends) > 5
        assert [a.ex_ns for a in found] == sorted(a.ex_ns for a in found)
        first, second, *_ = sorted(dividends)
        (one,) = await provider.actions.actions("AAPL", first, second)
        assert one == midnight["dividend"][first]
        assert "events=div%2Csplits" in simulator.requests[-1] or "events=div,splits" in simulator.requests[-1]

    run(body)


def test_a_symbol_without_actions_has_none():
    async def body(provider, simulator):
        assert await provider.actions.actions("BTC-USD", 0, 2**62) == ()
        assert await provider.actions.actions("BTC-USD", 5, 5) == ()

    run(body, ("BTC-USD",))


# --- quotes and options -----------------------------------------------------------------------------------------


def test_many_quotes_are_asked_for_fifty_at_a_time():
    names = [f"SYM{n}" for n in range(120)]

    async def body(provider, simulator):
        found = await provider.quotes.quotes([*names, "NOSUCH9", "not a name"])
        assert list(found) == [*names, "NOSUCH9", "not a name"]
        assert all(found[name].symbol == name for name in names)
        assert all(isinstance(found[name], SymbolNotFound) for name in ("NOSUCH9", "not a name"))
        assert paths(simulator).count("/v7/finance/quote") == 3

    run(body, names, history_years=0, history_days=3)


def test_a_quote_comes_under_our_name_whatever_yahoo_calls_it():
    async def body(provider, simulator):
        found = await provider.quotes.quotes(["BRK.B", "EURUSD", "VOD.L"])
        assert [found[name].symbol for name in found] == ["BRK.B", "EURUSD", "VOD.L"]
        pence = simulator._instruments["VOD.L"].last()[1] / 100
        assert found["VOD.L"].last == pytest.approx(pence / 100)
        assert found["EURUSD"].volume is None

    run(body, ("BRK-B", "EURUSD=X", "VOD.L"))


def test_the_nearest_chain_is_of_an_expiry_that_has_not_passed():
    async def body(provider, simulator):
        listed = simulator.expiries("AAPL")
        assert listed[0] == date(2026, 11, 13)  # has passed, and Yahoo lists it still
        assert await provider.options.expiries("AAPL") == listed[1:]
        nearest = await provider.options.chain("AAPL")
        assert set(nearest["expiry"].to_pylist()) == {date(2026, 11, 20)}
        assert nearest.num_rows == 18
        quoted = [bid is not None for bid in nearest["bid"].to_pylist()]
        assert quoted == [iv is not None for iv in nearest["implied_volatility"].to_pylist()]
        assert 0 < sum(quoted) < 18
        with pytest.raises(OutOfRange, match="AAPL has no expiry 2026-11-21"):
            await provider.options.chain("AAPL", date(2026, 11, 21))
        with pytest.raises(SymbolNotFound, match="has no options"):
            await provider.options.chain("EURUSD")

    run(body, ("AAPL", "EURUSD=X"))
