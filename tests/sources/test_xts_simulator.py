"""The simulator keeps the manners that were documented and recorded: asked as a client would, without our connector."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from marketd.model import parse_ns
from marketd.testing import ManualClock
from marketd.testing.providers.xts import XtsSimulator

NOON = parse_ns("2026-06-11T07:30:00Z")  # 13:00 in India
ONE = {"exchangeSegment": 1, "exchangeInstrumentID": 1594}
TWO = {"exchangeSegment": 1, "exchangeInstrumentID": 2885}


class Client:
    def __init__(self, simulator, session):
        self._root = f"{simulator.rest_url}/apimarketdata"
        self._session = session
        self._keys = {"appKey": simulator.app_key, "secretKey": simulator.secret_key, "source": "WEBAPI"}
        self.token = ""

    async def login(self, **kinds):
        async with self._session.post(f"{self._root}/auth/login", **(kinds or {"json": self._keys})) as answer:
            result = (await answer.json())["result"]
        self.token = result["token"]
        return result

    async def call(self, method, path, body=None, **query):
        headers = {"authorization": self.token}
        url = f"{self._root}{path}"
        async with self._session.request(method, url, json=body, params=query, headers=headers) as answer:
            return answer.status, await answer.json()

    def socket(self, **changes):
        query = {"token": self.token, "userID": "SIMUSER_1", "EIO": "3", "transport": "websocket", **changes}
        return self._session.ws_connect(f"{self._root}/socket.io/", params=query)


def run(body, **options):
    async def main():
        async with XtsSimulator(**options) as simulator, aiohttp.ClientSession() as session:
            await body(simulator, Client(simulator, session))

    asyncio.run(main())


def test_a_login_is_taken_as_json_and_as_a_form_and_ends_the_one_before():
    async def body(simulator, client):
        await client.login()
        first = client.token
        assert (await client.call("GET", "/config/clientConfig"))[0] == 200
        await client.login(data={"appKey": simulator.app_key, "secretKey": simulator.secret_key, "source": "WEBAPI"})
        assert client.token != first
        client.token = first
        status, answer = await client.call("GET", "/config/clientConfig")
        assert (status, answer["code"], answer["description"]) == (400, "e-session-0007", "Invalid Token")

    run(body)


def test_a_batch_is_refused_as_a_whole_and_the_limit_is_named():
    async def body(simulator, client):
        await client.login()
        subscribe = {"instruments": [ONE], "xtsMessageCode": 1501}
        assert (await client.call("POST", "/instruments/subscription", subscribe))[0] == 200
        both = {**subscribe, "instruments": [TWO, ONE]}
        status, answer = await client.call("POST", "/instruments/subscription", both)
        assert (status, answer["code"]) == (400, "e-session-0002")
        assert simulator.subscribed == {1501: ["NSECM:INFY-EQ"]}
        status, answer = await client.call("POST", "/instruments/subscription", {**both, "xtsMessageCode": 1502})
        assert (status, answer["description"]) == (400, "Exceeded Instrument Subscription Limit of 1")

    run(body, subscription_max=1)


def test_bars_are_texts_of_their_last_seconds_on_indias_clock():
    async def body(simulator, client):
        await client.login()
        query = {"exchangeSegment": "NSECM", "exchangeInstrumentID": 26000, "compressionValue": 60,
                 "startTime": "Jun 11 2026 091500", "endTime": "Jun 11 2026 091659"}  # fmt: skip
        _, answer = await client.call("GET", "/instruments/ohlc", **query)
        text = answer["result"]["dataReponse"]
        first, second = (row.split("|") for row in text.split(","))
        # 09:15:59 and 09:16:59 as if they were Greenwich's
        assert [int(first[0]), int(second[0])] == [
            parse_ns("2026-06-11T09:15:59Z") // 10**9, parse_ns("2026-06-11T09:16:59Z") // 10**9,
        ]  # fmt: skip
        assert (len(first), first[-1]) == (8, "")
        status, _ = await client.call("GET", "/instruments/ohlc", **{**query, "startTime": "Jun 01 2026 091500"})
        assert status == 400

    run(body, clock=ManualClock(NOON))


def test_quotes_are_texts_inside_the_text_and_seconds_count_from_1980():
    async def body(simulator, client):
        simulator.tick("NSECM:INFY-EQ", price=1500.05)
        await client.login()
        asked = {"instruments": [ONE, TWO], "xtsMessageCode": 1501, "publishFormat": "JSON"}
        _, answer = await client.call("POST", "/instruments/quotes", asked)
        (text,) = answer["result"]["listQuotes"]
        quote = json.loads(text)
        # 2026-06-11 13:00:00 counted from 1980-01-01
        assert (quote["LastTradedPrice"], quote["LastUpdateTime"]) == (1500.05, 1_465_650_000)
        assert "LastTradedQunatity" in quote

    run(body, clock=ManualClock(NOON))


def test_the_stream_begins_as_engine_io_3_does():
    async def body(simulator, client):
        await client.login()
        async with client.socket() as socket:
            hello = await socket.receive_str(timeout=5)
            assert hello[0] == "0"
            assert {name: json.loads(hello[1:])[name] for name in ("upgrades", "pingInterval", "pingTimeout")} == {
                "upgrades": [], "pingInterval": 20_000, "pingTimeout": 60_000,
            }  # fmt: skip
            assert await socket.receive_str(timeout=5) == "40"
            assert (await socket.receive_str(timeout=5)).startswith('42["joined","{')
            await socket.send_str("2")
            assert await socket.receive_str(timeout=5) == "3"
        for wrong in ({"token": "x"}, {"EIO": "4"}, {"sid": "nobody"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.socket(**wrong)
            assert refused.value.status == 400

    run(body)


def test_who_does_not_ping_is_cut_off():
    async def body(_, client):
        await client.login()
        async with client.socket() as socket:
            while not socket.closed:
                message = await socket.receive(timeout=5)
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)

    run(body, ping_interval_s=0.1, ping_timeout_s=0.1)


def test_the_past_is_the_same_for_the_same_seed():
    async def bars(seed):
        simulator = XtsSimulator(seed=seed, clock=ManualClock(NOON))
        return simulator.bars("NSECM:INFY-EQ", NOON // 10**9 - 86_400, NOON // 10**9)

    assert asyncio.run(bars(1)) == asyncio.run(bars(1)) != asyncio.run(bars(2))
