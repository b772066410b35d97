"""The manners of the simulator, as the exchange's documentation tells them; read with plain aiohttp."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from marketd.model import parse_ns
from marketd.testing import ManualClock
from marketd.testing.providers import CoinbaseSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
SUBSCRIBE = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker", "matches", "heartbeat"]}


@asynccontextmanager
async def simulator(**fields):
    fields = {"clock": ManualClock(NOW_NS), "history_minutes": 30, **fields}
    async with (
        CoinbaseSimulator(["BTC-USD", "ETH-USD"], **fields) as server,
        aiohttp.ClientSession(server.rest_url) as session,
    ):
        yield server, session, fields["clock"]


async def get(session, path, **params):
    async with session.get(path, params=params) as answer:
        return answer.status, answer.headers, await answer.json()


def test_the_same_seed_is_the_same_market():
    def rows(seed):
        return CoinbaseSimulator(["BTC-USD"], seed=seed, clock=ManualClock(NOW_NS)).trade_rows("BTC-USD")

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_history_has_minutes_without_trades_and_consecutive_ids():
    rows = CoinbaseSimulator(["BTC-USD"], clock=ManualClock(NOW_NS), history_minutes=200).trade_rows("BTC-USD")
    minutes = {row["time"][:16] for row in rows}
    assert 120 < len(minutes) < 190
    assert [row["trade_id"] for row in rows] == list(range(rows[0]["trade_id"], rows[0]["trade_id"] + len(rows)))
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_trades_are_paged_newest_first_with_cursor_headers():
    async def main():
        async with simulator() as (server, session, _):
            rows = server.trade_rows("BTC-USD")[::-1]
            _, headers, page = await get(session, "/products/BTC-USD/trades", limit=10)
            assert page == rows[:10]
            assert (headers["CB-BEFORE"], headers["CB-AFTER"]) == (str(rows[0]["trade_id"]), str(rows[9]["trade_id"]))
            _, _, older = await get(session, "/products/BTC-USD/trades", limit=10, after=headers["CB-AFTER"])
            assert older == rows[10:20]
            _, _, newer = await get(session, "/products/BTC-USD/trades", before=rows[3]["trade_id"])
            assert newer == rows[:3]

    asyncio.run(main())


def test_candles_are_newest_first_low_before_high_with_the_running_one_and_a_row_before_the_start():
    async def main():
        async with simulator(history_minutes=0) as (server, session, clock):
            for wait_s, price in ((0, "10"), (60, "30"), (5, "50"), (5, "20"), (120, "70")):
                await clock.advance(wait_s)
                server.trade("BTC-USD", price=price, size="0.5")
            start_s = NOW_NS // 10**9 // 60 * 60
            status, _, rows = await get(
                session, "/products/BTC-USD/candles", granularity=60, start=start_s + 60, end=start_s + 240
            )
            assert (status, rows) == (
                200,
                [
                    [start_s + 180, 70, 70, 70, 70, 0.5],
                    [start_s + 60, 20, 50, 30, 20, 1.5],
                    [start_s, 10, 10, 10, 10, 0.5],
                ],
            )

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "params", "status", "message"),
    [
        ("/products/FOO-USD/ticker", {}, 404, "NotFound"),
        ("/nothing", {}, 404, "NotFound"),
        ("/products/BTC-USD/candles", {"granularity": 120}, 400, "Unsupported granularity"),
        (
            "/products/BTC-USD/candles",
            {"granularity": 60, "start": 0, "end": 300 * 60},
            400,
            "granularity too small for the requested time range. Count of aggregations requested exceeds 300",
        ),
    ],
)
def test_errors_are_those_of_the_exchange(path, params, status, message):
    async def main():
        async with simulator() as (_, session, _):
            answered, _, body = await get(session, path, **params)
            assert (answered, body) == (status, {"message": message})

    asyncio.run(main())


def test_products_and_time_are_described():
    async def main():
        async with simulator() as (_, session, _):
            _, _, products = await get(session, "/products")
            assert [(p["id"], p["base_currency"], p["status"]) for p in products] == [
                ("BTC-USD", "BTC", "online"), ("ETH-USD", "ETH", "online"),
            ]  # fmt: skip
            assert (await get(session, "/products/ETH-USD"))[2] == products[1]
            assert (await get(session, "/time"))[2]["iso"] == "2026-11-20T14:30:20.000000Z"

    asyncio.run(main())


def test_refusals_are_counted_down():
    async def main():
        async with simulator() as (server, session, _):
            server.refuse(1, retry_after="3")
            status, headers, body = await get(session, "/time")
            assert (status, headers["Retry-After"], body) == (429, "3", {"message": "Public rate limit exceeded"})
            assert (await get(session, "/time"))[0] == 200

    asyncio.run(main())


def test_a_subscriber_is_answered_then_told_the_last_match_then_what_happens():
    async def main():
        async with simulator() as (server, session, clock), session.ws_connect("/") as socket:
            last_id = server.last_trade_id("BTC-USD")
            await socket.send_json(SUBSCRIBE)
            answer, last = [await socket.receive_json(timeout=5) for _ in range(2)]
            assert answer == {
                "type": "subscriptions",
                "channels": [{"name": n, "product_ids": ["BTC-USD"]} for n in ("ticker", "matches", "heartbeat")],
            }
            assert (last["type"], last["trade_id"]) == ("last_match", last_id)
            server.trade("ETH-USD")
            server.trade("BTC-USD", price="123.45", size="0.5", taker="buy")
            match, ticker = [await socket.receive_json(timeout=5) for _ in range(2)]
            assert (match["type"], match["side"], match["price"], match["trade_id"]) == (
                "match", "sell", "123.45", last_id + 1,
            )  # fmt: skip
            assert (ticker["type"], ticker["side"], ticker["best_ask"]) == ("ticker", "buy", "123.45")
            await clock.advance(1.0)
            beat = await socket.receive_json(timeout=5)
            assert (beat["type"], beat["last_trade_id"]) == ("heartbeat", last_id + 1)

    asyncio.run(main())


def test_who_does_not_subscribe_in_five_seconds_is_cut():
    async def main():
        async with (
            simulator() as (_, session, clock),
            session.ws_connect("/") as silent,
            session.ws_connect("/") as other,
        ):
            await other.send_json(SUBSCRIBE)
            assert (await other.receive_json(timeout=5))["type"] == "subscriptions"
            await clock.advance(5.0)
            ended = await silent.receive(timeout=5)
            assert ended.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)
            assert not other.closed

    asyncio.run(main())


def test_one_bad_product_refuses_the_whole_subscription():
    async def main():
        async with simulator() as (_, session, _), session.ws_connect("/") as socket:
            await socket.send_json({**SUBSCRIBE, "product_ids": ["BTC-USD", "FOO-USD"]})
            assert await socket.receive_json(timeout=5) == {
                "type": "error",
                "message": "Failed to subscribe",
                "reason": "FOO-USD is not a valid product",
            }
            await socket.send_str("{")
            assert await socket.receive_json(timeout=5) == {"type": "error", "message": "Malformed JSON"}

    asyncio.run(main())


def test_it_runs_by_hand():
    command = [sys.executable, "-m", "marketd.testing.providers", "coinbase", "--trade-interval-s", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            lines = [process.stdout.readline() for _ in range(3)]
            url = re.fullmatch(r"rest_url (http://127\.0\.0\.1:\d+)\n", lines[0])[1]

            async def main():
                async with aiohttp.ClientSession(url) as session, session.ws_connect("/") as socket:
                    await socket.send_json(SUBSCRIBE)
                    kinds = {(await socket.receive_json(timeout=5))["type"] for _ in range(6)}
                    assert {"subscriptions", "last_match", "match", "ticker"} <= kinds

            asyncio.run(main())
        finally:
            process.terminate()
            process.wait(5)
