"""The latest quote by request: a documented answer typed by hand, the exchange's manners, and ccxt as referee."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager

import ccxt.async_support
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import MalformedMessage, SourceRejected, SourceUnavailable
from marketd.model import Quote, parse_ns
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.coinbase.history import http_client
from marketd.sources.coinbase.parse import RestTicker, parse_rest_ticker
from marketd.sources.coinbase.quotes import CoinbaseQuotes
from marketd.sources.contract import QuoteRequest
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers import CoinbaseSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
BTC = "BTC-USD"
ANSWER = {
    "ask": "68901.01",
    "bid": "68900.5",
    "volume": "15328.12345678",
    "trade_id": 995_098_700,
    "price": "68900.75",
    "size": "0.0015",
    "time": "2026-04-07T00:28:58.544778Z",
    "rfq_volume": "0.000000",
}


def quotes_of(rest_url, **fields):
    quick = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
    http = HttpConfig(retry=quick, requests_per_s=1e6, burst=1_000)
    clock = ManualClock(NOW_NS)
    client = http_client(CoinbaseConfig(rest_url=rest_url, http=http, **fields), clock)
    return client, CoinbaseQuotes(client, clock)


@asynccontextmanager
async def exchange(body):
    """Answers every request with this text."""
    asked = []

    async def answer(request):
        asked.append(request.path_qs)
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client, quotes = quotes_of(f"http://127.0.0.1:{runner.addresses[0][1]}")
        async with client:
            yield quotes, asked
    finally:
        await runner.cleanup()


def ask(body, symbol=BTC):
    async def main():
        async with exchange(body) as (quotes, asked):
            return await quotes.quote(symbol), asked

    return asyncio.run(main())


def test_an_answer_is_a_quote_at_the_time_of_the_last_trade():
    quote, asked = ask(json.dumps(ANSWER), "btc/usd")
    assert quote == Quote(
        symbol="BTC-USD",
        time_event_ns=1_775_521_738_544_778_000,
        time_received_ns=NOW_NS,
        source="coinbase",
        bid=68900.5,
        ask=68901.01,
        last=68900.75,
        volume=15328.12345678,
    )
    assert asked == ["/products/BTC-USD/ticker"]


@pytest.mark.parametrize("nothing", ["", "0", "0.00", None])
def test_an_empty_side_of_the_book_is_absent(nothing):
    quote, _ = ask(json.dumps({**ANSWER, "bid": nothing}))
    assert (quote.bid, quote.ask) == (None, 68901.01)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{",
        json.dumps({k: v for k, v in ANSWER.items() if k != "price"}),
        json.dumps({**ANSWER, "price": "NaN"}),
        json.dumps({**ANSWER, "price": 68900.75}),
        json.dumps({**ANSWER, "ask": "1_000"}),
        json.dumps({**ANSWER, "volume": "1e999"}),
        json.dumps({**ANSWER, "time": "yesterday"}),
        json.dumps({**ANSWER, "time": "1969-12-31T23:59:59Z"}),
    ],
)
def test_what_is_not_as_documented_is_malformed(body):
    with pytest.raises(MalformedMessage, match="/products/BTC-USD/ticker"):
        ask(body)


@given(st.dictionaries(st.sampled_from(sorted(ANSWER)), st.none() | st.text(max_size=30) | st.floats() | st.integers()))
def test_no_answer_breaks_the_parser(changes):
    with contextlib.suppress(ValueError):
        answer = msgspec.convert({**ANSWER, **changes}, RestTicker)
        quote = parse_rest_ticker(answer, BTC, NOW_NS)
        assert quote.symbol == BTC
        assert all(v is None or abs(v) < float("inf") for v in (quote.bid, quote.ask, quote.last, quote.volume))


def test_refusals_are_told_with_what_the_exchange_said():
    async def main():
        async with CoinbaseSimulator([BTC], clock=ManualClock(NOW_NS)) as simulator:
            client, quotes = quotes_of(simulator.rest_url)
            async with client:
                with pytest.raises(SourceRejected, match=r'HTTP 404: \{"message":"NotFound"\}'):
                    await quotes.quote("FOO-USD")
                simulator.refuse(2, status=503)
                assert (await quotes.quote(BTC)).symbol == BTC  # tried again
                simulator.refuse(9, status=429, retry_after="120")
                with pytest.raises(SourceUnavailable) as caught:
                    await quotes.quote(BTC)
                assert caught.value.retry_after_s == 120.0

    asyncio.run(main())


def test_it_is_what_ccxt_reads():
    async def main():
        async with CoinbaseSimulator([BTC], seed=21) as simulator:
            referee = ccxt.async_support.coinbaseexchange({"enableRateLimit": False})
            referee.urls["api"] = {"public": simulator.rest_url, "private": simulator.rest_url}
            client, quotes = quotes_of(simulator.rest_url)
            try:
                async with client:
                    asked: QuoteRequest = quotes
                    for _ in range(5):
                        simulator.trade(BTC)
                        quote, theirs = await asked.quote(BTC), await referee.fetch_ticker("BTC/USD")
                        names = ("last", "bid", "ask", "baseVolume")
                        assert tuple(theirs[n] for n in names) == (quote.last, quote.bid, quote.ask, quote.volume)
                        assert theirs["timestamp"] == quote.time_event_ns // 1_000_000
            finally:
                await referee.close()

    asyncio.run(main())
