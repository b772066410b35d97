"""Router, budgets and the HTTP client together, against real servers on free ports and on the machine's clock."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from marketd.clock import SystemClock
from marketd.model import Quote
from marketd.routing import Router, RoutingConfig
from marketd.sources.contract import Capabilities, Provider
from marketd.sources.http import HttpClient, HttpConfig
from marketd.sources.symbols import SymbolMap
from marketd.telemetry import Metrics


class Price(msgspec.Struct):
    price: float


class Quotes:
    def __init__(self, name, client):
        self.name = name
        self.client = client

    async def quote(self, symbol):
        found = await self.client.get_json("/quote", Price, {"symbol": symbol, "key": "s3cr3t"}, endpoint="quote")
        now_ns = time.time_ns()
        return Quote(symbol=symbol, time_event_ns=now_ns, time_received_ns=now_ns, source=self.name, last=found.price)

    async def quotes(self, symbols):
        return {symbol: await self.quote(symbol) for symbol in symbols}


@asynccontextmanager
async def desk(*servers):
    """A router of one provider per server, and the requests each of them got. A server is a function of a request."""
    clock, metrics = SystemClock(), Metrics()
    router = Router([], RoutingConfig(), clock, metrics)
    runners, providers, requests = [], [], []
    for number, serve in enumerate(servers):
        got = []
        requests.append(got)

        async def handle(request, got=got, serve=serve):
            got.append(request)
            return await serve(request)

        app = web.Application()
        app.router.add_get("/quote", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        name = ("alpha", "beta")[number]
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        budget = router.budget_of(name)
        client = HttpClient(name, url, HttpConfig(), clock, secrets=["s3cr3t"], budget=budget, metrics=metrics)
        providers.append(
            Provider(
                name=name,
                capabilities=Capabilities(quotes=True),
                symbols=SymbolMap(),
                quotes=Quotes(name, client),
                close=client.close,
            )
        )
    router.replace(providers=providers)
    try:
        yield router, requests
    finally:
        await router.close()
        for provider in providers:
            await provider.close()
        for runner in runners:
            await runner.cleanup()


async def well(_request):
    return web.json_response({"price": 2.0})


def test_a_429_goes_to_the_next_provider_at_once_and_is_kept_to():
    async def throttled(_request):
        return web.Response(status=429, headers={"Retry-After": "120"}, text="slow down, key=s3cr3t")

    async def go():
        async with desk(throttled, well) as (router, (alpha, beta)):
            began = time.monotonic()
            routed = await router.quote("AAPL")
            assert time.monotonic() - began < 2.0
            assert (routed.provider, routed.value.last) == ("beta", 2.0)
            for _ in range(5):
                assert (await router.quote("AAPL")).provider == "beta"
            assert (len(alpha), len(beta)) == (1, 6)
            stats = router.stats()[0]
            assert 118 < (stats.throttled_until_ns - time.time_ns()) / 1e9 <= 120
            assert "s3cr3t" not in repr(router.stats()) + routed.why

    asyncio.run(go())


def test_a_provider_that_hangs_costs_two_seconds_at_most():
    async def hangs(_request):
        await asyncio.Event().wait()

    async def go():
        async with desk(hangs, well) as (router, _):
            began = time.monotonic()
            assert (await router.quote("AAPL")).provider == "beta"
            assert time.monotonic() - began < 2.5

    asyncio.run(go())


def test_a_connection_that_is_cut_goes_to_the_next_provider_at_once():
    async def cut(request):
        request.transport.abort()
        return web.Response()

    async def go():
        async with desk(cut, well) as (router, (alpha, _)):
            began = time.monotonic()
            assert (await router.quote("AAPL")).provider == "beta"
            assert time.monotonic() - began < 2.0
            assert router.stats()[0].last_error.code == "source_unavailable"
            assert len(alpha) >= 1

    asyncio.run(go())


def test_what_headers_say_is_left_is_kept_to():
    async def counting(_request):
        headers = {
            "X-Ratelimit-Limit": "60",
            "X-Ratelimit-Remaining": "0",
            "X-Ratelimit-Reset": f"{time.time() + 60:.0f}",
        }
        return web.json_response({"price": 1.0}, headers=headers)

    async def go():
        async with desk(counting, well) as (router, (alpha, _)):
            assert (await router.quote("AAPL")).provider == "alpha"
            assert router.stats()[0].told_left == 0
            assert (await router.quote("AAPL")).provider == "beta"
            assert len(alpha) == 1

    asyncio.run(go())
