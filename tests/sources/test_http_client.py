"""The HTTP client against a real server on a free port."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime

import msgspec
import pytest
from aiohttp import web

from marketd import __version__
from marketd.clock import SystemClock
from marketd.errors import InvalidInput, MalformedMessage, SourceRejected, SourceUnavailable
from marketd.sources.http import HttpClient, HttpConfig, RateLimit
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock

QUICK = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)
SECRET = "s3cr3t-k3y"


class Row(msgspec.Struct):
    a: int


@asynccontextmanager
async def server(*answers, config=None, clock=None, secrets=()):
    """A client of a server that gives these answers in turn, and the requests it got."""
    left = list(answers)
    requests = []

    async def handle(request):
        requests.append(request)
        answer = left.pop(0)
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "cut":
            request.transport.abort()
        return answer

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        config = config or HttpConfig(retry=QUICK)
        async with HttpClient("coinbase", url, config, clock or SystemClock(), secrets=secrets) as client:
            yield client, requests
    finally:
        await runner.cleanup()


def ok(body=b'{"a": 7}'):
    return web.Response(body=body)


def test_an_answer_is_decoded_as_its_type_and_the_request_names_us():
    async def main():
        async with server(ok()) as (client, requests):
            assert await client.get_json("/rows", Row, {"limit": 5, "q": "a b&c"}) == Row(7)
            (request,) = requests
            assert request.headers["User-Agent"] == f"marketd/{__version__}"
            assert dict(request.query) == {"limit": "5", "q": "a b&c"}

    asyncio.run(main())


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": "7"}', b"[" * 100_000, b'{"a": 7'])
def test_an_answer_of_another_shape_is_malformed_and_not_asked_for_again(body):
    async def main():
        async with server(ok(body)) as (client, requests):
            with pytest.raises(MalformedMessage, match=r"^coinbase: GET /rows: "):
                await client.get_json("/rows", Row)
            assert len(requests) == 1

    asyncio.run(main())


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_passing_failure_is_tried_again(status):
    async def main():
        async with server(web.Response(status=status), "cut", ok()) as (client, requests):
            assert await client.get_json("/rows", Row) == Row(7)
            assert len(requests) == 3

    asyncio.run(main())


def test_attempts_are_bounded_and_the_last_failure_is_told():
    async def main():
        answers = [web.Response(status=503, text=f"no {n}") for n in range(4)]
        async with server(*answers) as (client, requests):
            with pytest.raises(SourceUnavailable) as caught:
                await client.get_json("/rows", Row)
            assert caught.value.reason == "GET /rows: HTTP 503: no 3"
            assert caught.value.retryable
            assert len(requests) == 4

    asyncio.run(main())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_a_refusal_is_final_and_a_redirect_is_not_followed(status):
    async def main():
        answer = web.json_response({"message": "NotFound"}, status=status, headers={"Location": "http://127.0.0.1:1/"})
        async with server(answer) as (client, requests):
            with pytest.raises(SourceRejected) as caught:
                await client.get_json("/rows", Row)
            assert caught.value.reason == f'GET /rows: HTTP {status}: {{"message": "NotFound"}}'
            assert len(requests) == 1

    asyncio.run(main())


def test_retry_after_is_waited_for_in_seconds_or_until_a_date():
    async def main():
        clock = ManualClock(1_700_000_000_000_000_000)
        date = format_datetime(datetime.fromtimestamp(1_700_000_020, UTC), usegmt=True)
        answers = [web.Response(status=429, headers={"Retry-After": text}) for text in ("7", date)]
        async with server(*answers, ok(), clock=clock) as (client, requests):
            task = asyncio.create_task(client.get_json("/rows", Row))
            await until(lambda: len(requests) == 1 and clock._sleepers)
            await clock.advance(6.9)
            assert len(requests) == 1
            await clock.advance(0.2)
            await until(lambda: len(requests) == 2 and clock._sleepers)
            await clock.advance(12.8)
            assert len(requests) == 2
            await clock.advance(0.2)
            assert await task == Row(7)

    asyncio.run(main())


def test_a_pause_that_was_asked_for_holds_for_every_request():
    async def main():
        clock = ManualClock(1_700_000_000_000_000_000)
        async with server(web.Response(status=429, headers={"Retry-After": "7"}), ok(), ok(), clock=clock) as (
            client,
            requests,
        ):
            first = asyncio.create_task(client.get_json("/rows", Row))
            await until(lambda: len(requests) == 1 and clock._sleepers)
            second = asyncio.create_task(client.get_json("/others", Row))
            await until(lambda: len(clock._sleepers) == 2)
            await clock.advance(6.9)
            assert len(requests) == 1
            await clock.advance(1.0)
            assert await asyncio.gather(first, second) == [Row(7), Row(7)]

    asyncio.run(main())


def test_a_pause_that_is_too_long_is_told_to_the_caller():
    async def main():
        async with server(web.Response(status=429, headers={"Retry-After": "3600"})) as (client, requests):
            with pytest.raises(SourceUnavailable) as caught:
                await client.get_json("/rows", Row)
            assert caught.value.retry_after_s == 3600.0
            assert len(requests) == 1

    asyncio.run(main())


def test_silence_is_unavailable_after_the_timeout():
    async def main():
        async with server("hang", config=HttpConfig(timeout_s=0.05, attempts=1)) as (client, _):
            with pytest.raises(SourceUnavailable, match=r"GET /rows: no answer within 0\.05 s"):
                await client.get_json("/rows", Row)

    asyncio.run(main())


def test_nobody_listening_is_unavailable():
    async def main():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            async with HttpClient("coinbase", url, HttpConfig(attempts=2, retry=QUICK), SystemClock()) as client:
                with pytest.raises(SourceUnavailable, match="GET /rows: ClientConnectorError: ") as caught:
                    await client.get_json("/rows", Row, {"key": SECRET})
                assert SECRET not in str(caught.value)

    asyncio.run(main())


def test_an_answer_that_is_too_large_is_refused():
    async def main():
        async with server(ok(b"9" * 2_000), config=HttpConfig(body_max_bytes=1_000)) as (client, _):
            with pytest.raises(MalformedMessage, match="larger than 1000 bytes"):
                await client.get_json("/rows", Row)

    asyncio.run(main())


def test_secrets_are_never_said():
    async def main():
        echo = web.Response(status=403, text=f"key {SECRET} is blocked")
        answers = [echo, ok(f"<html>{SECRET}".encode()), web.Response(status=500, text=SECRET)]
        config = HttpConfig(attempts=1)
        async with server(*answers, config=config, secrets=[SECRET, ""]) as (client, _):
            for kind in (SourceRejected, MalformedMessage, SourceUnavailable):
                with pytest.raises(kind) as caught:
                    await client.get_json("/rows", Row, {"apikey": SECRET})
                assert SECRET not in str(caught.value)
                assert caught.value.__suppress_context__ or caught.value.__context__ is None

    asyncio.run(main())


def test_a_closed_client_says_so():
    async def main():
        async with server() as (client, _):
            await client.close()
            with pytest.raises(SourceUnavailable, match="the client was closed"):
                await client.get_json("/rows", Row)

    asyncio.run(main())


def test_the_rate_limit_lets_a_burst_through_and_then_so_many_a_second_in_order():
    async def main():
        clock = ManualClock()
        limit = RateLimit(10.0, 3, clock)
        turns = []

        async def ask(who):
            await limit.take()
            turns.append((who, clock.monotonic_ns()))

        tasks = [asyncio.create_task(ask(n)) for n in range(6)]
        await clock.advance(1.0)
        ms = 1_000_000
        assert turns == [(0, 0), (1, 0), (2, 0), (3, 100 * ms), (4, 200 * ms), (5, 300 * ms)]
        await asyncio.gather(*tasks)
        # 0.7 s of rest saved up a burst again, and no more than one
        turns.clear()
        tasks = [asyncio.create_task(ask(n)) for n in range(5)]
        await clock.advance(1.0)
        assert [at - 1000 * ms for _, at in turns] == [0, 0, 0, 100 * ms, 200 * ms]
        await asyncio.gather(*tasks)
        turns.clear()
        limit.pause(5.0)
        task = asyncio.create_task(ask(9))
        await clock.advance(6.0)
        assert turns == [(9, 7_000 * ms)]
        await task

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"requests_per_s": float("nan")}, "requests_per_s"),
        ({"attempts": 0}, "attempts"),
        ({"burst": 0}, "burst"),
        ({"retry_after_max_s": -1.0}, "retry_after_max_s"),
        ({"proxy": f"socks5://user:{SECRET}@proxy"}, "proxy"),
    ],
)
def test_an_impossible_setting_is_refused_by_field_and_a_password_is_not_repeated(fields, named):
    with pytest.raises(InvalidInput) as caught:
        HttpConfig(**fields)
    assert caught.value.field == named
    assert SECRET not in str(caught.value)


async def until(condition, deadline_s=5.0):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while not condition():
        assert loop.time() < deadline, "the condition did not come true"
        await asyncio.sleep(0.002)
