"""A whole server on a free port with a clock that stands still, and the ticks it was given.

What the tests expect is typed from the script and the stored bars below.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import uvicorn

from marketd.api.asgi import Application, build_app
from marketd.app import Server, listen
from marketd.calendars import CalendarsConfig
from marketd.config import Config, ServerConfig
from marketd.model import BAR_SCHEMA, Connected, Quarantined, Quote, SourceEvent, Trade, parse_ns
from marketd.sources.contract import Capabilities, Provider
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.testing import ManualClock, ScriptedSource

START = "2026-11-20T14:30:30Z"
NOW = "2026-11-20T14:32:10Z"
SECONDS = 100
DEADLINE_S = 20.0


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def at(text: str) -> int:
    return parse_ns(f"2026-11-20T{text}Z")


def _trade(symbol: str, event: str, price: float, size: float) -> Trade:
    event_ns = at(event)
    return Trade(
        symbol=symbol,
        time_event_ns=event_ns,
        time_received_ns=event_ns + 20_000_000,
        source="venue",
        price=price,
        size=size,
    )


def _quote(symbol: str, event: str, source: str = "venue", **values: float | None) -> Quote:
    event_ns = at(event)
    return Quote(symbol=symbol, time_event_ns=event_ns, time_received_ns=event_ns + 5_000_000, source=source, **values)


def script() -> list[list[SourceEvent] | float]:
    """Parts of three minutes of four symbols. EUR/USD has no ask in 14:31."""
    return [
        [Connected(source="venue", time_received_ns=at("14:30:30"))],
        5.0,
        [
            _trade("AAPL", "14:30:31", 150.25, 100.0),
            _trade("AAPL", "14:30:32", 150.75, 50.0),
            _trade("AAPL", "14:30:33", 150.0, 10.0),
            _trade("AAPL", "14:30:34", 150.5, 40.0),
            _quote("EUR/USD", "14:30:31", bid=1.25, ask=1.5),
            _quote("EUR/USD", "14:30:32", bid=1.5, ask=1.75),
            _quote("EUR/USD", "14:30:33", bid=1.125, ask=1.25),
        ],
        10.0,
        [_quote("BRK.B", "14:30:40", bid=480.0, ask=480.0)],
        35.0,
        [
            _trade("AAPL", "14:31:19", 151.0, 10.0),
            _quote("EUR/USD", "14:31:19", bid=1.25),
        ],
        45.0,
        [
            _trade("AAPL", "14:32:04.5", 152.0, 5.0),
            _trade("AAPL", "14:32:04.75", -1.0, 5.0),
            Quarantined(
                source="venue",
                time_received_ns=at("14:32:04.875"),
                reason="bad_line",
                detail="not a number: 'abc'",
                where="line 7",
            ),
        ],
        5.0,
        [
            _quote("AAPL", "14:32:09", bid=151.5, ask=152.5, bid_size=3.0, ask_size=4.0, last=152.0, volume=12345.0),
            _quote("BTC/USD", "14:32:09.125", bid=90000.5, ask=90000.0, last=90000.25),
            _quote("EUR/USD", "14:32:09.5", bid=1.25, ask=1.5),
        ],
    ]


LONG_BARS = 3_000
"""Minutes of NEWCO from 2026-11-17T00:00:00Z, each with open 100 + i/8, high +1, low -1, close +0.5, volume i."""


def _row(symbol: str, ts: str | int, prices: tuple[float, float, float, float], volume: float | None) -> dict[str, Any]:
    ts_ns = parse_ns(ts) if isinstance(ts, str) else ts
    return {
        **dict(zip(("open", "high", "low", "close"), prices, strict=True)),
        "symbol": symbol,
        "interval": "1m",
        "side": "trade",
        "ts": ts_ns,
        "volume": volume,
        "vwap": None,
        "trades": 2,
        "provider": "venue",
        "status": "final",
        "as_of": ts_ns + 61_000_000_000,
    }


def stored_bars() -> pa.Table:
    """What earlier runs left: two minutes of AAPL on each of two days before, and a long row of NEWCO."""
    first = parse_ns("2026-11-17T00:00:00Z")
    rows = [
        _row("AAPL", "2026-11-18T20:58:00Z", (140.0, 141.0, 139.0, 140.5), 10.0),
        _row("AAPL", "2026-11-18T20:59:00Z", (140.5, 142.0, 140.25, 141.0), 20.0),
        _row("AAPL", "2026-11-19T20:58:00Z", (149.0, 149.25, 148.0, 148.5), 100.0),
        _row("AAPL", "2026-11-19T20:59:00Z", (148.5, 150.0, 148.25, 149.5), 200.0),
    ]
    for i in range(LONG_BARS):
        o = 100 + i / 8
        rows.append(_row("NEWCO", first + i * 60_000_000_000, (o, o + 1, o - 1, o + 0.5), float(i)))
    return pa.Table.from_pylist(rows, BAR_SCHEMA)


def make_server(data_dir: Path, clock: ManualClock) -> Server:
    """A server of a real venue, of which two symbols are silent, and a simulated one."""
    store = EmbeddedStore(data_dir, EmbeddedStoreConfig(), clock)
    store.append(stored_bars())
    store.close()
    venue = ScriptedSource(
        script(),
        clock=clock,
        name="venue",
        capabilities=Capabilities(stream_quotes=True, stream_trades=True),
        ends=False,
    )
    paper = ScriptedSource(
        [99.0, [_quote("TEST", "14:32:09", "paper", bid=9.0, ask=11.0)]], clock=clock, name="paper", ends=False
    )
    return Server(
        Config(
            server=ServerConfig(data_dir=str(data_dir)),
            calendars=CalendarsConfig(symbols={"*": "24/7"}),  # no market has the hours of the script
        ),
        clock,
        [
            Provider.streaming(venue, ["AAPL", "BRK.B", "BTC/USD", "EUR/USD", "NEWCO"]),
            Provider.streaming(paper, ["TEST"]),
        ],
    )


class Door:
    """The server, its application, and requests to it over a real connection."""

    def __init__(self, server: Server, app: Application, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.app = app
        self.port = port
        self._loop = loop
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            self._connection.request(method, path, body, dict(headers or {}))
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # The server ends a connection that rested for five seconds; the next request opens another.
            self._connection.close()
            self._connection.request(method, path, body, dict(headers or {}))
            response = self._connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine run on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def close(self) -> None:
        self._connection.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S} s"
        await asyncio.sleep(0.005)


async def play(server: Server, clock: ManualClock) -> None:
    """The whole script, second by second; closed bars are on disk afterwards."""
    for _ in range(SECONDS):
        await clock.advance(1.0)
    await until(lambda: server.health().store.waiting == 0, "end of writing")


@contextmanager
def serving(data_dir: Path) -> Iterator[Door]:
    """A server in a thread of its own, at `NOW`, with the script played."""
    clock = ManualClock(parse_ns(START))
    server_of: list[tuple[Server, Application, int, asyncio.AbstractEventLoop, uvicorn.Server]] = []
    failure: list[BaseException] = []
    ready = threading.Event()

    async def main() -> None:
        server = make_server(data_dir, clock)
        listener = listen("127.0.0.1", 0)
        app = build_app(server)
        web = uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False))
        await server.start()
        try:
            await play(server, clock)
            server_of.append((server, app, listener.getsockname()[1], asyncio.get_running_loop(), web))
            ready.set()
            await web.serve(sockets=[listener])
        finally:
            listener.close()
            await server.stop()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server under test", daemon=True)
    thread.start()
    assert ready.wait(DEADLINE_S)
    if failure:
        raise failure[0]
    server, app, port, loop, web = server_of[0]
    door = Door(server, app, port, loop)
    try:
        yield door
    finally:
        door.close()
        web.should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    if failure:
        raise failure[0]


async def asgi(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    query: bytes = b"",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """One request put to an ASGI application directly."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "app": app,
    }
    sent: list[Any] = []

    request = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if not request:
            await asyncio.Event().wait()  # the client stays
        return request.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    return Answer(
        start["status"],
        {k.decode(): v.decode() for k, v in start["headers"]},
        b"".join(m.get("body", b"") for m in sent[1:]),
    )
