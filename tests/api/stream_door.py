"""A whole server behind a real socket, its source in the hands of the test, and WebSocket clients to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from marketd.app import Server, listen, serve
from marketd.clock import Clock, SystemClock
from marketd.config import Config, ServerConfig
from marketd.ingest.validate import ValidationConfig
from marketd.model import Connected, Quote, SourceEvent, Trade
from marketd.sources.contract import Capabilities, Provider, Subscriptions

STREAM = "/api/v1/market-data/stream"
DEADLINE_S = 15.0


def run(main: Coroutine[Any, Any, None]) -> None:
    """On the event loop that the server is served with."""

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await main

    uvloop.run(bounded())


class Feed:
    """A source that says what the test says, when it says it. since_ns: from when on it claims to have seen all."""

    name = "feed"
    capabilities = Capabilities(stream_quotes=True, stream_trades=True)

    def __init__(self, clock: Clock, since_ns: int | None = None) -> None:
        self.clock = clock
        self._since_ns = since_ns
        self._said: asyncio.Queue[Sequence[SourceEvent]] = asyncio.Queue()
        self.pushed = 0

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        del wanted
        since_ns = self.clock.time_ns() if self._since_ns is None else self._since_ns
        yield [Connected(source=self.name, time_received_ns=since_ns)]
        while True:
            yield await self._said.get()

    def push(self, *events: SourceEvent) -> None:
        self.pushed += sum(isinstance(event, Quote | Trade) for event in events)
        self._said.put_nowait(events)

    def quote(self, symbol: str, bid: float, ask: float, at_ns: int | None = None, **values: float) -> Quote:
        at_ns = self.clock.time_ns() if at_ns is None else at_ns
        return Quote(
            symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source=self.name, bid=bid, ask=ask, **values
        )

    def trade(self, symbol: str, price: float, size: float | None = None, at_ns: int | None = None) -> Trade:
        at_ns = self.clock.time_ns() if at_ns is None else at_ns
        return Trade(
            symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source=self.name, price=price, size=size
        )


class Client:
    """One connection. seen: every message it got, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        await self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def next(self, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            text = await self.connection.recv()
        assert isinstance(text, str)
        self.seen.append(json.loads(text))
        return self.seen[-1]

    async def until(self, accept: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message from now on that is accepted."""
        async with asyncio.timeout(DEADLINE_S):
            while not accept(message := await self.next()):
                pass
        return message

    async def ask(self, message: Any) -> dict[str, Any]:
        """The answer to a message; what else comes before it stays in `seen`."""
        await self.send(message)
        return await self.until(lambda m: m["type"] in {"subscribed", "unsubscribed", "pong", "error"})

    async def closed(self) -> tuple[int, str]:
        """Code and reason with which the server closes; messages before that are in `seen`."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""

    def quotes(self, symbol: str | None = None) -> list[dict[str, Any]]:
        return [m for m in self.seen if m["type"] == "quote_update" and symbol in (None, m["symbol"])]


class StreamDoor:
    """A running server. feed: its source."""

    def __init__(self, server: Server, feed: Feed, port: int, task: asyncio.Task[None]) -> None:
        self.server = server
        self.feed = feed
        self.port = port
        self._task = task
        self._open = contextlib.AsyncExitStack()

    def url(self, path: str = STREAM) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    async def client(self, path: str = STREAM) -> Client:
        return Client(await self._open.enter_async_context(open_socket(self.url(path))))

    async def stream(self) -> Client:
        """A connection that has been welcomed."""
        client = await self.client()
        welcome = await client.next()
        assert welcome["type"] == "welcome"
        return client

    async def push(self, *events: SourceEvent) -> None:
        """Say these, and wait until the pipeline has taken them."""
        self.feed.push(*events)
        await until(lambda: self.server.pipeline.sources["feed"].ticks == self.feed.pushed, "end of taking")

    async def stop(self) -> None:
        """End the server as a service manager does it."""
        if not self._task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await self._task

    async def close(self) -> None:
        """Hang up all clients and end the server."""
        await self._open.aclose()
        await self.stop()


@contextlib.asynccontextmanager
async def open_socket(url: str) -> AsyncIterator[ClientConnection]:
    # Without a queue limit of its own, so that the client never holds up what the server sends.
    async with connect(url, max_size=None, max_queue=None, compression=None, proxy=None) as connection:
        yield connection


@contextlib.asynccontextmanager
async def serving(
    data_dir: Path,
    symbols: Sequence[str] = ("AAPL", "MSFT", "TSLA"),
    *,
    clock: Clock | None = None,
    since_ns: int | None = None,
    **sections: Any,
) -> AsyncIterator[StreamDoor]:
    """`marketd serve` in this process, up to the signal that ends it. sections: of `Config`; prices may jump."""
    clock = clock or SystemClock()
    feed = Feed(clock, since_ns)
    sections = {"validation": ValidationConfig(max_jump=None)} | sections
    config = Config(server=ServerConfig(data_dir=str(data_dir)), **sections)
    server = Server(config, clock, [Provider.streaming(feed, symbols)])
    listener = listen("127.0.0.1", 0)
    started = asyncio.Event()
    task = asyncio.create_task(serve(server, listener, started))
    door = StreamDoor(server, feed, listener.getsockname()[1], task)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await started.wait()
        yield door
    finally:
        await door.close()
        listener.close()


async def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        await asyncio.sleep(0.002)


class RawClient:
    """A client that reads only when it is told to, with a small receive buffer. Its calls block: use a thread."""

    def __init__(self, port: int, path: str = STREAM, receive_bytes: int = 65_536) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(("127.0.0.1", port))
        self.protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}{path}"), max_size=None)
        self.protocol.send_request(self.protocol.connect())
        self.messages: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self._flush()
        self.read_until(lambda: self.protocol.state is State.OPEN, "handshake")

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self._socket.sendall(data)

    def send(self, message: Any) -> None:
        self.protocol.send_text(json.dumps(message).encode())
        self._flush()

    def send_bytes(self, data: bytes) -> None:
        """Frames as they are, such as the parts of a fragmented message."""
        self._socket.sendall(data)

    def read(self) -> bool:
        """Take what is there, waiting for it; False at the end."""
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self._flush_or_closed()
        for event in self.protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.messages.append(json.loads(event.data))
            elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                self.pongs.append(bytes(event.data))
        return bool(data)

    def _flush_or_closed(self) -> None:
        with contextlib.suppress(OSError):  # our answer to a close comes too late when the server has gone
            self._flush()

    def read_until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S} s"
            assert self.read(), f"the connection ended before {what}; close code {self.protocol.close_code}"

    def read_to_end(self) -> None:
        while self.read():
            pass

    def close(self) -> None:
        self._socket.close()
