"""What the direct connection class takes from uvicorn and websockets, and that the two keep out of each other's way.

The first tests fail when an upgrade has taken away or changed something that is not documented there.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from stream_door import RawClient, run, serving, until
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from marketd.api import uvicorn_protocol
from marketd.api.uvicorn_protocol import DirectWebSocketProtocol

# Attributes of a new connection, with what they must be.
ATTRIBUTES: dict[str, type] = {
    "conn": ServerProtocol,
    "queue": asyncio.Queue,
    "handshake_complete": bool,
    "close_sent": bool,
    "disconnected": bool,
    "close_timer": type(None),
    "transport": type(None),
    "writable": asyncio.Event,
    "loop": asyncio.AbstractEventLoop,
}
# Methods, with their parameters.
METHODS = {"handle_connect": ["self", "event"], "stop_keepalive": ["self"]}
CONNECTION_METHODS = {"send_close": ["self", "code", "reason"], "data_to_send": ["self"]}


def test_uvicorn_still_has_what_the_connection_leans_on() -> None:
    async def main() -> None:
        config = uvicorn.Config(_no_app, ws=DirectWebSocketProtocol, log_config=None)
        config.load()
        connection = DirectWebSocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        for name, kind in ATTRIBUTES.items():
            assert hasattr(connection, name), f"uvicorn's WebSocketsSansIOProtocol has no `{name}` any more"
            assert isinstance(getattr(connection, name), kind), f"`{name}` is no {kind.__name__} any more"
        assert connection.handshake_complete is connection.close_sent is connection.disconnected is False
        assert connection.writable.is_set()

    asyncio.run(main())
    for name, parameters in METHODS.items():
        assert list(inspect.signature(getattr(WebSocketsSansIOProtocol, name)).parameters) == parameters
    for name, parameters in CONNECTION_METHODS.items():
        assert list(inspect.signature(getattr(ServerProtocol, name)).parameters) == parameters


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("never called")


def test_the_list_above_is_whole() -> None:
    """Every attribute of `self` that the class uses and does not define is named here."""
    (definition,) = (
        node
        for node in ast.walk(ast.parse(inspect.getsource(uvicorn_protocol)))
        if isinstance(node, ast.ClassDef) and node.name == "DirectWebSocketProtocol"
    )
    own = {node.name for node in definition.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    used = {
        node.attr
        for node in ast.walk(definition)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    # `scope` is there once the request has been understood; `disconnected` is read by tests alone.
    assert used - own - {"__dict__"} == (ATTRIBUTES.keys() | METHODS.keys() | {"scope"}) - {
        "disconnected",
        "handle_connect",
    }


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """A client's frame."""
    return Frame(opcode, data, fin).serialize(mask=True)


def test_a_message_in_parts_is_put_together_while_quotes_go_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await asyncio.to_thread(RawClient, door.port)
            try:
                client.send({"action": "subscribe", "symbols": ["AAPL"]})
                await asyncio.to_thread(client.read_until, lambda: len(client.messages) == 2, "subscription")
                parts = [b'{"action":"pi', b'ng",', b'"id":"in parts"}']
                client.send_bytes(frame(Opcode.TEXT, parts[0], fin=False))
                await door.push(door.feed.quote("AAPL", 1.0, 2.0))
                await asyncio.to_thread(client.read_until, lambda: len(client.messages) == 3, "first quote")
                client.send_bytes(frame(Opcode.CONT, parts[1], fin=False) + frame(Opcode.PING, b"between"))
                await door.push(door.feed.quote("AAPL", 3.0, 4.0))
                client.send_bytes(frame(Opcode.CONT, parts[2]))
                await asyncio.to_thread(
                    client.read_until, lambda: len(client.messages) == 5, "two quotes and an answer"
                )
                (pong,) = (m for m in client.messages if m["type"] == "pong")
                assert pong["id"] == "in parts"
                assert client.pongs == [b"between"]
                bids = [m["bidPrice"] for m in client.messages if m["type"] == "quote_update"]
                assert bids == [1.0, 3.0]
            finally:
                client.close()

    run(main())


def test_pings_are_answered_while_quotes_stream(tmp_path: Path) -> None:
    async def main() -> None:
        symbols = [f"S{i}" for i in range(200)]
        async with serving(tmp_path, symbols) as door:
            client = await door.stream()
            await client.ask({"action": "subscribe", "symbols": ["*"]})
            reading = asyncio.create_task(client.closed())
            waiters = []
            for i in range(30):
                waiters.append(await client.connection.ping(f"p{i}"))
                await door.push(*(door.feed.quote(s, 1.0 + i, 2.0 + i) for s in symbols))
            async with asyncio.timeout(10):
                await asyncio.gather(*waiters)
            await until(lambda: {m["symbol"] for m in client.quotes() if m["bidPrice"] == 30.0} == set(symbols), "end")
            await client.connection.close(1000)
            assert (await reading)[0] == 1000

    run(main())


def test_the_server_pings_and_hangs_up_on_who_does_not_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            answering = await door.stream()
            silent = await asyncio.to_thread(RawClient, door.port)
            try:
                await asyncio.to_thread(silent.read_until, lambda: silent.messages, "welcome")
                await until(lambda: door.server.hub.clients == 2, "clients")
                for client in door.server.hub._clients:
                    connection: Any = client.outlet
                    connection.ping_timeout = 0.2
                    connection.stop_keepalive()
                    connection.send_keepalive_ping()
                reading = asyncio.create_task(answering.closed())
                await until(lambda: door.server.hub.clients == 1, "end of the silent client")
                assert not reading.done()
                await answering.connection.close()
                await reading
            finally:
                silent.close()

    run(main())


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going away"), (4123, "mine")])
def test_a_close_by_the_client_is_answered_with_its_code(tmp_path: Path, code: int, reason: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.stream()
            await client.ask({"action": "subscribe", "symbols": ["*"]})
            await client.connection.close(code, reason)
            assert client.connection.protocol.close_rcvd is not None
            assert client.connection.protocol.close_rcvd.code == code
            await until(lambda: door.server.hub.clients == 0, "end of the client")
            await door.push(door.feed.quote("AAPL", 1.0, 2.0))  # nobody is written to

    run(main())


def test_a_close_by_the_server_waits_for_the_answer_and_then_hangs_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await door.stream()
            (known,) = door.server.hub._clients
            connection: Any = known.outlet
            for _ in range(20):
                await client.send("{")
            code, _ = await client.closed()
            assert code == 4400
            assert client.connection.protocol.close_rcvd_then_sent is True
            await until(lambda: connection.disconnected, "end of the connection", timeout_s=1.5)
            assert connection.close_timer is None
            # Late writes go nowhere, and closing again changes nothing.
            connection.write(b"late")
            connection.close(uvicorn_protocol.CloseCode(4999, "again"))

    run(main())


def test_a_connection_that_breaks_off_is_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await asyncio.to_thread(RawClient, door.port)
            client.send({"action": "subscribe", "symbols": ["AAPL"], "channels": ["quotes", "bars_1m"]})
            await asyncio.to_thread(client.read_until, lambda: len(client.messages) == 2, "subscription")
            assert door.server.hub.clients == 1
            client.close()
            await until(lambda: door.server.hub.clients == 0, "end of the client")
            assert door.server.hub.bar_channels() == set()

    run(main())


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Opcode.CONT, b"without a beginning"), 1002),
        (b"\xc1\x81\0\0\0\0x", 1002),
        (b"\x81\x01x", 1002),
        (frame(Opcode.TEXT, b"\xff\xfe"), 1007),
    ],
    ids=["continuation", "compressed", "unmasked", "not UTF-8"],
)
def test_frames_against_the_rules_end_the_connection(tmp_path: Path, data: bytes, code: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as door:
            client = await asyncio.to_thread(RawClient, door.port)
            try:
                client.send_bytes(data)
                await asyncio.to_thread(client.read_to_end)
                assert client.protocol.close_code == code
                await until(lambda: door.server.hub.clients == 0, "end of the client")
            finally:
                client.close()

    run(main())
