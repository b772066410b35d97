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
from marketd.testing.providers.binance import BinanceSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
BOTH = ["btcusdt@bookTicker", "btcusdt@trade"]


@asynccontextmanager
async def simulator(**fields):
    fields = {"clock": ManualClock(NOW_NS), "history_minutes": 30, **fields}
    async with (
        BinanceSimulator(["BTCUSDT", "ETHUSDT"], **fields) as server,
        aiohttp.ClientSession(server.rest_url) as session,
    ):
        yield server, session, fields["clock"]


async def get(session, path, headers=None, **params):
    async with session.get(f"/api/v3/{path}", params=params, headers=headers) as answer:
        return answer.status, answer.headers, await answer.json()


def test_the_same_seed_is_the_same_market():
    def trades(seed):
        return BinanceSimulator(["BTCUSDT"], seed=seed, clock=ManualClock(NOW_NS)).market("BTCUSDT").trades

    assert trades(1) == trades(1)
    assert trades(1) != trades(2)


def test_klines_are_flat_without_trades_and_the_last_one_is_running():
    async def main():
        async with simulator() as (server, session, _):
            server.trade("BTCUSDT", price="10", size="0.5")
            _, _, rows = await get(session, "klines", symbol="BTCUSDT", interval="1m")
            starts = [row[0] for row in rows]
            assert starts == list(range(starts[0], starts[0] + 60_000 * 31, 60_000))
            assert rows[-1][0] == parse_ns("2026-11-20T14:30:00Z") // 10**6
            assert rows[-1][4] == "10.00000000"
            flat = [i for i, row in enumerate(rows) if row[8] == 0]
            assert flat
            for i in flat:
                assert rows[i][1:6] == [rows[i - 1][4]] * 4 + ["0.00000000"]
            # both bounds are inclusive and mean the open time
            _, _, some = await get(
                session, "klines", symbol="BTCUSDT", interval="1m", startTime=starts[3], endTime=starts[5]
            )
            assert some == rows[3:6]
            _, _, micro = await get(
                session, "klines", symbol="BTCUSDT", interval="1m", headers={"X-MBX-TIME-UNIT": "MICROSECOND"}
            )
            assert micro[0][0] == starts[0] * 1_000

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "params", "code", "message"),
    [
        ("klines", {"symbol": "FOOUSDT", "interval": "1m"}, -1121, "Invalid symbol."),
        ("klines", {"symbol": "BTCUSDT", "interval": "1M1"}, -1120, "Invalid interval."),
        ("ticker/24hr", {"symbols": '["BTCUSDT","FOOUSDT"]'}, -1121, "Invalid symbol."),
        ("trades", {}, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."),
    ],
)
def test_errors_are_those_of_the_exchange(path, params, code, message):
    async def main():
        async with simulator() as (_, session, _):
            status, _, body = await get(session, path, **params)
            assert (status, body) == (400, {"code": code, "msg": message})
            status, _, body = await get(session, "trades", symbol="btcusdt")
            assert body["code"] == -1100

    asyncio.run(main())


def test_weight_is_counted_by_the_minute():
    async def main():
        async with simulator(weight_per_minute=30) as (_, session, clock):
            asked = [("ping", {}), ("ticker/24hr", {"symbol": "BTCUSDT"}), ("trades", {"symbol": "BTCUSDT"})]
            used = [(await get(session, path, **params))[1]["X-MBX-USED-WEIGHT-1M"] for path, params in asked]
            assert used == ["1", "3", "28"]
            status, headers, body = await get(session, "exchangeInfo")
            assert (status, body["code"], headers["Retry-After"]) == (429, -1003, "40")
            await clock.advance(40.0)
            assert (await get(session, "exchangeInfo"))[0] == 200

    asyncio.run(main())


def test_old_trades_are_asked_for_by_their_id():
    async def main():
        async with simulator(recent_trades_max=2) as (server, session, _):
            ids = [trade.trade_id for trade in server.market("BTCUSDT").trades]
            _, _, recent = await get(session, "trades", symbol="BTCUSDT", limit=1_000)
            assert [row["id"] for row in recent] == ids[-2:]
            _, _, old = await get(session, "historicalTrades", symbol="BTCUSDT", fromId=ids[4], limit=3)
            assert [row["id"] for row in old] == ids[4:7]

    asyncio.run(main())


def test_raw_and_combined_streams_say_the_same():
    async def main():
        async with (
            simulator() as (server, session, _),
            session.ws_connect("/stream?streams=btcusdt@trade/btcusdt@bookTicker") as combined,
            session.ws_connect("/ws") as raw,
        ):
            await raw.send_json({"method": "SUBSCRIBE", "params": [*BOTH, "foousdt@trade"], "id": 7})
            assert await raw.receive_json(timeout=5) == {"result": None, "id": 7}  # unknown ones are silent
            trade_id = server.trade("BTCUSDT", price="10.5", size="2", taker="sell")
            told = [await raw.receive_json(timeout=5) for _ in range(2)]
            assert told[0] == {
                "e": "trade", "E": NOW_NS // 10**6, "s": "BTCUSDT", "t": trade_id, "p": "10.50000000",
                "q": "2.00000000", "T": NOW_NS // 10**6, "m": True, "M": True,
            }  # fmt: skip
            assert set(told[1]) == {"u", "s", "b", "B", "a", "A"}
            wrapped = [await combined.receive_json(timeout=5) for _ in range(2)]
            assert wrapped == [{"stream": s, "data": d} for s, d in zip(BOTH[::-1], told, strict=True)]
            await raw.send_str("{")
            assert (await raw.receive_json(timeout=5))["code"] == 3
            await raw.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 8})
            assert (await raw.receive_json(timeout=5))["result"] == [*BOTH, "foousdt@trade"]

    asyncio.run(main())


def test_a_connection_is_pinged_and_cut_after_its_time():
    async def main():
        async with (
            simulator(lifetime_s=50.0) as (_, session, clock),
            session.ws_connect("/ws", autoping=False) as socket,
        ):
            await clock.advance(20.0)
            assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.PING
            await clock.advance(30.0)
            kinds = [(await socket.receive(timeout=5)).type for _ in range(2)]
            assert kinds[0] is aiohttp.WSMsgType.PING
            assert kinds[1] in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)

    asyncio.run(main())


def test_more_streams_than_allowed_close_the_connection():
    async def main():
        async with simulator() as (_, session, _), session.ws_connect("/ws") as socket:
            names = [f"c{i}usdt@trade" for i in range(1_025)]
            await socket.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
            assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE

    asyncio.run(main())


@pytest.mark.parametrize(("name", "command"), [
    ("binance", {"method": "SUBSCRIBE", "params": BOTH, "id": 1}),
    ("kraken", {"method": "subscribe", "params": {"channel": "ticker", "symbol": ["BTC/USD"]}}),
])  # fmt: skip
def test_it_runs_by_hand(name, command):
    arguments = [sys.executable, "-m", "marketd.testing.providers", name, "--tick-interval-s", "0.05"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            lines = [process.stdout.readline() for _ in range(3)]
            url = re.fullmatch(r"ws_url   (ws://127\.0\.0\.1:\d+\S*)\n", lines[1])[1]

            async def main():
                url_of_stream = url if name == "kraken" else url + "/ws"
                async with aiohttp.ClientSession() as session, session.ws_connect(url_of_stream) as socket:
                    await socket.send_json(command)
                    said = [await socket.receive_json(timeout=5) for _ in range(5)]
                    assert any("b" in message or message.get("channel") == "ticker" for message in said)

            asyncio.run(main())
        finally:
            process.terminate()
            process.wait(5)
