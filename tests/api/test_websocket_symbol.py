"""`WS /ws/{symbol}` over a real socket."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from stream_door import DEADLINE_S, RawClient, run, serving, until

from marketd.fanout.hub import FanoutConfig
from marketd.model import parse_ns
from marketd.testing import ManualClock


def test_the_present_then_what_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            feed = door.feed
            sent = feed.quote("AAPL", 149.5, 150.5, bid_size=3.0, ask_size=4.0, last=150.25, volume=900.0)
            await door.push(sent)
            client = await door.client("/ws/AAPL")
            welcome = (await door.stream()).seen[0]
            snapshot = await client.next()
            assert parse_ns(snapshot.pop("ts")) == sent.time_event_ns
            assert parse_ns(snapshot.pop("received")) == sent.time_received_ns
            assert snapshot == {
                "type": "quote_update",
                "symbol": "AAPL",
                "seq": 1,
                "bid": 149.5,
                "ask": 150.5,
                "mid": 150.0,
                "last": 150.25,
                "bid_size": 3.0,
                "ask_size": 4.0,
                "volume": 900.0,
                "source": "feed",
                "stale": False,
                "epoch": welcome["epoch"],
                "snapshot": True,
            }
            await door.push(feed.quote("MSFT", 7.0, 8.0), feed.quote("AAPL", 150.0, 151.0))
            update = await client.next()
            assert update.keys() == (snapshot.keys() - {"epoch", "snapshot"}) | {"ts", "received"}
            assert (update["symbol"], update["seq"], update["mid"]) == ("AAPL", 3, 150.5)

    run(main())


def test_a_symbol_without_a_quote_yet_says_so_and_when_it_has_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.client("/ws/TSLA")
            first = await client.next()
            absent = ("ts", "bid", "ask", "mid", "last", "bid_size", "ask_size", "volume", "received")
            assert [first[name] for name in absent] == [None] * len(absent)
            assert (first["snapshot"], first["stale"], first["source"]) == (True, True, "feed")
            assert first["epoch"] == (await door.stream()).seen[0]["epoch"]
            await door.push(door.feed.quote("TSLA", 1.0, 2.0))
            update = await client.next()
            assert (update["bid"], update["ask"], update["stale"]) == (1.0, 2.0, False)
            assert "snapshot" not in update

    run(main())


def test_bars_of_a_minute_while_they_run_and_when_they_are_over(tmp_path: Path) -> None:
    async def main() -> None:
        clock = ManualClock(parse_ns("2026-11-20T14:30:58Z"))
        async with serving(tmp_path, clock=clock) as door:
            client = await door.client("/ws/AAPL")
            await door.push(door.feed.trade("AAPL", 10.0, 2.0), door.feed.trade("MSFT", 99.0, 2.0))
            await door.push(door.feed.trade("AAPL", 9.0, 3.0))
            await clock.advance(1)

            async def bar(status: str) -> dict[str, Any]:
                return await client.until(lambda m: m["type"] == "bar_update" and m["status"] == status)

            expected = {
                "type": "bar_update",
                "symbol": "AAPL",
                "timeframe": "M1",
                "side": "trade",
                "bar": {"ts": "2026-11-20T14:30:00Z", "o": 10.0, "h": 10.0, "l": 9.0, "c": 9.0, "v": 5.0},
            }
            live = await bar("live")
            assert live.pop("seq") > 0
            assert live == {**expected, "status": "live"}
            await clock.advance(2)
            over = await bar("provisional")  # it was not watched from its start on
            assert over.pop("seq") > 0
            assert over == {**expected, "status": "provisional"}
            assert {m["symbol"] for m in client.seen} == {"AAPL"}

    run(main())


def test_at_most_ten_a_second_and_the_last_value_always(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.client("/ws/AAPL")
            began = time.monotonic()
            for i in range(20):  # 20 times a second
                await door.push(door.feed.quote("AAPL", 100.0 + i, 101.0 + i))
                await asyncio.sleep(0.05)
            await client.until(lambda m: m.get("bid") == 119.0)
            updates = client.quotes()[1:]
            assert len(updates) <= 10 * (time.monotonic() - began) + 2
            assert 5 <= len(updates) < 20
            seqs = [m["seq"] for m in updates]
            assert seqs == sorted(set(seqs))

    run(main())


@pytest.mark.parametrize(("path", "symbol"), [("BTC%2FUSD", "BTC/USD"), ("BTC/USD", "BTC/USD"), ("BRK.B", "BRK.B")])
def test_symbols_with_signs_in_them(tmp_path: Path, path: str, symbol: str) -> None:
    async def main() -> None:
        async with serving(tmp_path, ["BTC/USD", "BRK.B"]) as door:
            await door.push(door.feed.quote(symbol, 1.0, 2.0))
            assert (await (await door.client(f"/ws/{path}")).next())["symbol"] == symbol

    run(main())


def test_an_unknown_symbol(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.client("/ws/AAPK")
            assert await client.closed() == (4404, "unknown symbol")
            (error,) = client.seen
            assert error == {
                "type": "error",
                "code": "unknown_symbol",
                "message": "unknown symbol 'AAPK'; did you mean AAPL?",
                "details": {
                    "field": "symbol",
                    "value": "AAPK",
                    "allowed": "a symbol listed by /api/v1/market-data/symbols",
                    "near": ["AAPL"],
                },
                "id": None,
            }
            assert door.server.hub.clients == 0

    run(main())


def test_it_takes_no_messages(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.client("/ws/AAPL")
            await client.next()
            await client.send({"action": "ping"})
            error = await client.next()
            assert (error["type"], error["code"]) == ("error", "unknown_action")
            await door.push(door.feed.quote("AAPL", 1.0, 2.0))
            assert (await client.next())["bid"] == 1.0
            for _ in range(19):
                await client.send("{")
            assert (await client.closed())[0] == 4400
            await until(lambda: door.server.hub.clients == 0, "end of the client")

    run(main())


def test_a_client_that_never_reads_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        fanout = FanoutConfig(max_rate_hz=None, client_buffer_bytes=16_384, slow_close_s=0.2)
        async with serving(tmp_path, fanout=fanout) as door:
            slow = await asyncio.to_thread(RawClient, door.port, "/ws/AAPL", 4_096)
            try:
                deadline = time.monotonic() + DEADLINE_S
                spare = 0
                # Its bytes are few, so the server's side of the socket is made small as well.
                (client,) = door.server.hub._clients
                shrink(client.outlet.transport)  # type: ignore[attr-defined]
                while door.server.hub.clients:
                    assert time.monotonic() < deadline, "it is still connected"
                    spare += 1
                    await door.push(door.feed.quote("AAPL", 1.0 + spare, 2.0 + spare))
                await asyncio.to_thread(slow.read_to_end)
                assert slow.protocol.close_code == 4508
            finally:
                slow.close()

    run(main())


def shrink(transport: Any) -> None:
    import socket

    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
