"""The manners of the simulator, as the exchange's documentation tells them; read with plain aiohttp."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from marketd.model import parse_ns
from marketd.testing import ManualClock
from marketd.testing.providers.kraken import KrakenSimulator

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
NOW_S = NOW_NS // 10**9


@asynccontextmanager
async def simulator(**fields):
    fields = {"clock": ManualClock(NOW_NS), "history_minutes": 30, **fields}
    async with (
        KrakenSimulator(["BTC/USD", "ETH/BTC", "SOL/USD"], **fields) as server,
        aiohttp.ClientSession(server.rest_url) as session,
    ):
        yield server, session, fields["clock"]


async def get(session, path, **params):
    async with session.get(f"/0/public/{path}", params=params) as answer:
        assert answer.status == 200
        return await answer.json()


def test_ohlc_rows_are_flat_without_trades_the_last_one_runs_and_only_720_are_kept():
    async def main():
        async with simulator(history_minutes=900) as (server, session, _):
            server.trade("BTC/USD", price="10", size="0.5")
            answer = await get(session, "OHLC", pair="XBTUSD", interval=1)
            assert answer["error"] == []
            assert set(answer["result"]) == {"XXBTZUSD", "last"}
            rows = answer["result"]["XXBTZUSD"]
            assert len(rows) == 720
            assert [row[0] for row in rows] == list(range(rows[0][0], rows[0][0] + 720 * 60, 60))
            assert rows[-1][0] == NOW_S // 60 * 60
            assert answer["result"]["last"] == rows[-2][0]
            flat = [i for i, row in enumerate(rows) if i and row[7] == 0]
            assert flat
            for i in flat:
                assert rows[i][1:7] == [rows[i - 1][4]] * 4 + ["0.0", "0.00000000"]
            later = await get(session, "OHLC", pair="XBTUSD", interval=1, since=rows[-3][0])
            assert later["result"]["XXBTZUSD"] == rows[-2:]

    asyncio.run(main())


def test_trades_are_paged_by_their_time():
    async def main():
        async with simulator() as (server, session, _):
            trades = server.market("BTC/USD").trades
            first = await get(session, "Trades", pair="XBTUSD", since=0, count=10)
            rows = first["result"]["XXBTZUSD"]
            assert [row[6] for row in rows] == [trade.trade_id for trade in trades[:10]]
            assert rows[0][:2] == [f"{trades[0].price:.5f}", f"{trades[0].size:.8f}"]
            assert rows[0][3] == trades[0].taker[0]
            second = await get(session, "Trades", pair="XBTUSD", since=first["result"]["last"], count=10)
            assert [row[6] for row in second["result"]["XXBTZUSD"]] == [trade.trade_id for trade in trades[10:20]]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "params", "error"),
    [
        ("OHLC", {"pair": "FOOUSD"}, "EQuery:Unknown asset pair"),
        ("OHLC", {"pair": "XBTUSD", "interval": 7}, "EGeneral:Invalid arguments:interval"),
        ("Ticker", {"pair": "XBTUSD,FOOUSD"}, "EQuery:Unknown asset pair"),
        ("Nothing", {}, "EGeneral:Unknown method"),
    ],
)
def test_errors_come_with_status_200(path, params, error):
    async def main():
        async with simulator() as (_, session, _):
            assert await get(session, path, **params) == {"error": [error]}

    asyncio.run(main())


def test_pairs_have_the_names_of_the_exchange():
    async def main():
        async with simulator() as (_, session, _):
            pairs = (await get(session, "AssetPairs"))["result"]
            assert {key: (pair["altname"], pair["wsname"]) for key, pair in pairs.items()} == {
                "XXBTZUSD": ("XBTUSD", "XBT/USD"),
                "XETHXXBT": ("ETHXBT", "ETH/XBT"),
                "SOLUSD": ("SOLUSD", "SOL/USD"),
            }
            assert set((await get(session, "Assets"))["result"]) == {"XXBT", "ZUSD", "XETH", "SOL"}
            assert (await get(session, "Time"))["result"]["unixtime"] == NOW_S
            assert (await get(session, "SystemStatus"))["result"]["status"] == "online"

    asyncio.run(main())


def test_a_subscriber_is_answered_for_each_symbol_and_kept_alive_by_heartbeats():
    async def main():
        async with simulator() as (server, session, clock), session.ws_connect("/v2") as socket:
            hello = await socket.receive_json(timeout=5)
            assert (hello["channel"], hello["data"][0]["system"]) == ("status", "online")
            params = {"channel": "trade", "symbol": ["BTC/USD", "FOO/BAR"], "snapshot": True}
            await socket.send_json({"method": "subscribe", "params": params, "req_id": 3})
            accepted, snapshot, refused = [await socket.receive_json(timeout=5) for _ in range(3)]
            assert (accepted["success"], accepted["req_id"], accepted["result"]["symbol"]) == (True, 3, "BTC/USD")
            assert (snapshot["type"], len(snapshot["data"])) == ("snapshot", 50)
            assert (refused["success"], refused["error"]) == (False, "Currency pair not supported FOO/BAR")
            trade_id = server.trade("BTC/USD", price="10.5", size="2", taker="sell")
            assert await socket.receive_json(timeout=5) == {
                "channel": "trade",
                "type": "update",
                "data": [
                    {
                        "symbol": "BTC/USD",
                        "side": "sell",
                        "price": 10.5,
                        "qty": 2,
                        "ord_type": "limit",
                        "trade_id": trade_id,
                        "timestamp": "2026-11-20T14:30:20.000000Z",
                    }
                ],
            }
            await clock.advance(1.0)  # something was said in this second
            await clock.advance(1.0)
            assert await socket.receive_json(timeout=5) == {"channel": "heartbeat"}
            await socket.send_json({"method": "ping", "req_id": 4})
            pong = await socket.receive_json(timeout=5)
            assert (pong["method"], pong["req_id"]) == ("pong", 4)

    asyncio.run(main())
