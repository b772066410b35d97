"""The wire format of a Lightstreamer server (TLCP) as a local server: WebSocket, HTTP streaming and polling.

Owns sessions, their notifications (kept for recovery) and their streams; `publish` says what an item is now. Shares no
code with `marketd.sources.lightstreamer`, so that one can be tested by the other. It refuses messages and MPN. A
provider that streams by it hangs `routes` into its own application (`ig`); alone it is an async context.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from aiohttp import WSMsgType, web

from marketd.clock import Clock, SystemClock

__all__ = ["LightstreamerSimulator", "Refusal"]

_LOG_MAX = 20_000
_OUTBOX_MAX = 50_000
_REQUEST_LIMIT = 50_000
_SPECIAL = "#$^"
_UNKNOWN_SUBSCRIPTION, _BAD_ITEMS, _BAD_FIELDS, _BAD_REQUEST = 19, 21, 23, 65

Refusal = tuple[int, str]
"""Code and words."""

Fields = Mapping[str, str | None]


def _escaped(value: str) -> str:
    text = "".join(f"%{ord(c):02X}" if c in "%|\r\n" else c for c in value)
    return f"%{ord(text[0]):02X}{text[1:]}" if text[0] in _SPECIAL else text


def _written(values: list[str | None], before: list[str | None] | None) -> str:
    """The value list of a `U`; runs of two and more unchanged fields are counted."""
    parts: list[str] = []
    run = 0
    for position, value in enumerate(values):
        if before is not None and before[position] == value:
            run += 1
            continue
        parts += [""] if run == 1 else [f"^{run}"] if run else []
        run = 0
        parts.append("#" if value is None else "$" if value == "" else _escaped(value))
    parts += [""] if run == 1 else [f"^{run}"] if run else []
    return "|".join(parts)


@dataclass(eq=False)
class _Subscription:
    number: int
    mode: str
    items: list[str]
    fields: list[str]
    adapter: str | None
    snapshot: bool
    before: dict[int, list[str | None]] = field(default_factory=dict)


@dataclass(eq=False)
class _Stream:
    """One connection that carries a session. polling: it ends when it has said what there was."""

    request: web.Request
    outbox: asyncio.Queue[str | None]
    polling: bool = False
    said_ns: int = 0
    closes: bool = False

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


@dataclass(eq=False)
class _Session:
    id: str
    user: str
    stream: _Stream | None = None
    subscriptions: dict[int, _Subscription] = field(default_factory=dict)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_MAX))
    count: int = 0
    sent: int = 0

    def keep(self, line: str) -> None:
        self.log.append(line)
        self.count += 1

    @property
    def first(self) -> int:
        """How many notifications came before the oldest that is kept."""
        return self.count - len(self.log)


class LightstreamerSimulator:
    """Use as an async context (then `url` is known), or hang `routes` into an application and call `start` and `stop`.

    authenticate: (user, password) → None or a refusal. refuse_item: (data adapter, item) → None or a refusal of its
    subscription. snapshot: an item's fields at the time of subscribing, None if there are none. unsupported: versions
    that are refused with code 65. keepalive_s: silence before a PROBE. control_link: told to clients.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        authenticate: Callable[[str, str], Refusal | None] | None = None,
        refuse_item: Callable[[str | None, str], Refusal | None] | None = None,
        snapshot: Callable[[str], Fields | None] | None = None,
        unsupported: Iterable[str] = (),
        keepalive_s: float = 5.0,
        control_link: str = "*",
    ) -> None:
        self._rng = random.Random(f"tlcp:{seed}")
        self._clock = clock or SystemClock()
        self._port = port
        self._authenticate = authenticate
        self._refuse_item = refuse_item
        self.current: dict[str, dict[str, str | None]] = {}
        """What was published last, by item."""
        self._snapshot = snapshot or self.current.get
        self._keepalive_s = keepalive_s
        self._control_link = control_link
        self._runner: web.AppRunner | None = None
        self._beat: asyncio.Task[None] | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        self._streams: set[_Stream] = set()
        self._sessions: dict[str, _Session] = {}
        self._refusals: deque[Refusal] = deque()
        self._gathered: dict[_Stream, list[str]] | None = None
        self._muted = False
        self.unsupported = set(unsupported)
        """Versions that are refused with code 65."""
        self.websocket = True
        """Whether an upgrade to WebSocket is granted; else it is answered with 404."""
        self.unknown_fields: set[str] = set()
        """Fields that no subscription may name."""
        self.rewind = 0
        """A recovery starts so many notifications earlier than was asked."""
        self.broken_at: int | None = None
        """Every text over HTTP is written in two parts, the first of this many bytes."""
        self.requests: deque[tuple[str, dict[str, str]]] = deque(maxlen=10_000)
        """Name and parameters of what clients asked, oldest first."""
        self.attempts: deque[int] = deque(maxlen=10_000)
        """Times at which sessions were asked for, on this simulator's clock."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def routes(self) -> list[web.RouteDef]:
        """What to hang into an application."""
        names = ("create_session", "bind_session", "control", "heartbeat")
        return [
            web.get("/lightstreamer", self._over_websocket),
            *(web.post(f"/lightstreamer/{name}.txt", self._over_http) for name in names),
        ]

    def start(self) -> None:
        self._beat = asyncio.create_task(self._probe())

    async def stop(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait([self._beat])
        self.cut()

    # Commands and truth

    @property
    def connections(self) -> int:
        """Streams that carry a session now."""
        return sum(session.stream is not None for session in self._sessions.values())

    @property
    def sessions(self) -> tuple[str, ...]:
        """Ids of the sessions that are known, oldest first."""
        return tuple(self._sessions)

    @property
    def subscribed(self) -> list[str]:
        """Items subscribed now, over all sessions, in the order in which they were."""
        return [item for s in self._sessions.values() for sub in s.subscriptions.values() for item in sub.items]

    def publish(self, item: str, fields: Fields, *, event: bool = False) -> None:
        """An item's fields changed; those not named stay. event: they are no state that a snapshot would repeat."""
        known = self.current.setdefault(item, {})
        known.update(fields)
        for session in self._sessions.values():
            for subscription in session.subscriptions.values():
                for position, name in enumerate(subscription.items):
                    if name == item:
                        self._update(session, subscription, position, known)
        if event:
            del self.current[item]

    def gather(self) -> None:
        """Hold back what is said, until `release` says it in one text a stream."""
        self._gathered = {}

    def release(self) -> None:
        held, self._gathered = self._gathered or {}, None
        for stream, lines in held.items():
            self._send(stream, "".join(lines))

    def say(self, line: str, *, data: bool = False) -> None:
        """A line to every session, as it stands. data: it counts as a data notification."""
        for session in self._sessions.values():
            self._notify(session, line) if data else self._tell(session, line)

    def cut(self) -> None:
        """Cut every connection without a goodbye; sessions are kept."""
        for session in self._sessions.values():
            session.stream = None
        for stream in [*self._streams]:
            stream.cut()

    async def close_cleanly(self) -> None:
        """Close every WebSocket with a goodbye, and end every HTTP answer; sessions are kept."""
        for session in self._sessions.values():
            session.stream = None
        for stream in [*self._streams]:
            stream.outbox.put_nowait(None)
        for socket in [*self._sockets]:
            await socket.close()

    def mute(self, *, muted: bool = True) -> None:
        """Say nothing more, and keep the connections open. What is published meanwhile is kept for recovery."""
        self._muted = muted

    def loop(self, delay_ms: int = 0) -> None:
        """End every stream connection as a server does that wants it bound again."""
        for session in self._sessions.values():
            if session.stream is not None:
                self._end_stream(session, f"LOOP,{delay_ms}")

    def end(self, code: int, words: str) -> None:
        """End every session."""
        for session in [*self._sessions.values()]:
            self._end_stream(session, f"END,{code},{words}")
        self._sessions.clear()

    def forget(self) -> None:
        """Know no session any more; streams stay as they are, and what they carry is no session's."""
        self._sessions.clear()

    def refuse(self, code: int, words: str, times: int = 1) -> None:
        """Answer so many requests for sessions, or to bind them, with CONERR."""
        self._refusals.extend([(code, words)] * times)

    def accept(self) -> None:
        """Refuse no more."""
        self._refusals.clear()

    # Notifications

    def _update(self, session: _Session, sub: _Subscription, position: int, known: Fields) -> None:
        values = [known.get(name) for name in sub.fields]
        line = f"U,{sub.number},{position + 1},{_written(values, sub.before.get(position))}"
        sub.before[position] = values
        self._notify(session, line)

    def _notify(self, session: _Session, line: str) -> None:
        """A data notification: kept, and said if there is somebody to say it to."""
        session.keep(line)
        if session.stream is not None:
            session.sent = session.count
            self._tell(session, line)

    def _tell(self, session: _Session, line: str) -> None:
        if session.stream is not None:
            self._say_to(session.stream, line + "\r\n")
            if session.stream.polling:
                self._end_stream(session, "LOOP,0")

    def _say_to(self, stream: _Stream, text: str) -> None:
        if self._gathered is not None:
            self._gathered.setdefault(stream, []).append(text)
        else:
            self._send(stream, text)

    def _send(self, stream: _Stream, text: str) -> None:
        if self._muted:
            return
        stream.said_ns = self._clock.monotonic_ns()
        if stream.outbox.full():
            stream.cut()
        else:
            stream.outbox.put_nowait(text)

    def _end_stream(self, session: _Session, line: str) -> None:
        stream, session.stream = session.stream, None
        if stream is not None:
            self._say_to(stream, line + "\r\n")
            if stream.closes:
                stream.outbox.put_nowait(None)

    async def _probe(self) -> None:
        while True:
            await self._clock.sleep(self._keepalive_s / 4)
            for session in [*self._sessions.values()]:
                stream = session.stream
                if stream is not None:
                    silent_s = (self._clock.monotonic_ns() - stream.said_ns) / 1e9
                    if silent_s >= self._keepalive_s * 0.74:
                        self._send(stream, "PROBE\r\n")

    # Requests

    def _bind(self, name: str, parameters: dict[str, str], version: str, stream: _Stream) -> None:
        """`create_session` or `bind_session`: the answer, and what was missed, go to the stream."""
        refusal = self._refused(name, parameters, version)
        if refusal is not None:
            self._send(stream, f"CONERR,{refusal[0]},{refusal[1]}\r\n")
            stream.outbox.put_nowait(None) if stream.closes else None
            return
        if name == "create_session":
            session = _Session(f"S{self._rng.getrandbits(64):016x}T{len(self._sessions)}", parameters["LS_user"])
            self._sessions[session.id] = session
        else:
            session = self._sessions[parameters["LS_session"]]
        if session.stream is not None and session.stream is not stream:
            session.stream.cut()  # the old connection is invalid from now on
        stream.polling = parameters.get("LS_polling") == "true"
        keepalive_ms = round(self._keepalive_s * 1_000)
        lines = [f"CONOK,{session.id},{_REQUEST_LIMIT},{keepalive_ms},{self._control_link}"]
        if parameters.get("LS_reduce_head") != "true":
            lines += ["SERVNAME,Lightstreamer HTTP Server", "CLIENTIP,127.0.0.1", "CONS,unlimited"]
        start = session.sent
        if "LS_recovery_from" in parameters:
            start = max(session.first, int(parameters["LS_recovery_from"]) - self.rewind)
            lines.append(f"PROG,{start}")
        lines += [*session.log][start - session.first :]
        session.sent = session.count
        session.stream = stream
        waits_s = int(parameters.get("LS_idle_millis", "0")) / 1_000 if start == session.count else 0.0
        if stream.polling and not waits_s:
            lines.append("LOOP,0")
            session.stream = None
        self._send(stream, "".join(f"{line}\r\n" for line in lines))
        if stream.polling and waits_s:
            asyncio.get_running_loop().call_later(waits_s, self._give_up_waiting, session, stream)
        elif stream.polling and stream.closes:
            stream.outbox.put_nowait(None)

    def _give_up_waiting(self, session: _Session, stream: _Stream) -> None:
        if session.stream is stream:
            self._end_stream(session, "LOOP,0")

    def _refused(self, name: str, parameters: dict[str, str], version: str) -> Refusal | None:
        if name == "create_session":
            self.attempts.append(self._clock.monotonic_ns())
        if version in self.unsupported:
            return 65, f"Unsupported protocol version: {version}"
        if self._refusals:
            return self._refusals.popleft()
        if name == "create_session":
            if "LS_cid" not in parameters:
                return 67, "LS_cid is missing"
            parameters.setdefault("LS_user", "")
            if self._authenticate is not None:
                return self._authenticate(parameters["LS_user"], parameters.get("LS_password", ""))
            return None
        session = self._sessions.get(parameters.get("LS_session", ""))
        if session is None:
            return 20, "Session not found"
        asked = parameters.get("LS_recovery_from")
        if asked is not None and not session.first <= int(asked) <= session.count:
            return 4, "Recovery point not kept"
        return None

    def _control(self, name: str, parameters: dict[str, str]) -> str:
        """The answer; what follows from it goes to the session's stream."""
        request = parameters.get("LS_reqId", "")
        session = self._sessions.get(parameters.get("LS_session", ""))
        if name == "heartbeat":
            return "REQOK\r\n"
        if not request:
            return f"ERROR,{_BAD_REQUEST},LS_reqId is missing\r\n"
        if session is None:
            return f"REQERR,{request},20,Session not found\r\n"
        refusal = self._done(session, parameters)
        if refusal is not None:
            return f"REQERR,{request},{refusal[0]},{refusal[1]}\r\n"
        return "" if parameters.get("LS_ack") == "false" else f"REQOK,{request}\r\n"

    def _done(self, session: _Session, parameters: dict[str, str]) -> Refusal | None:
        match parameters.get("LS_op"):
            case "add":
                return self._add(session, parameters)
            case "delete":
                number = int(parameters["LS_subId"])
                if session.subscriptions.pop(number, None) is None:
                    return _UNKNOWN_SUBSCRIPTION, "Subscription not found"
                self._notify(session, f"UNSUB,{number}")
            case "destroy":
                self._end_stream(session, "END,31,Destroy invoked by client")
                self._sessions.pop(session.id, None)
            case "force_rebind":
                self._end_stream(session, "LOOP,0")
            case "reconf" | "constrain":
                pass
            case _:
                return _BAD_REQUEST, "Unknown LS_op"
        return None

    def _add(self, session: _Session, parameters: dict[str, str]) -> Refusal | None:
        items, fields = parameters.get("LS_group", "").split(), parameters.get("LS_schema", "").split()
        adapter = parameters.get("LS_data_adapter")
        if not items:
            return _BAD_ITEMS, "Bad Item Group name"
        if not fields or not self.unknown_fields.isdisjoint(fields):
            return _BAD_FIELDS, "Bad Field Schema name"
        if parameters.get("LS_mode") not in ("MERGE", "DISTINCT", "RAW"):
            return 24, "Mode not allowed"
        for item in items if self._refuse_item is not None else ():
            assert self._refuse_item is not None
            refusal = self._refuse_item(adapter, item)
            if refusal is not None:
                return refusal
        sub = _Subscription(
            int(parameters["LS_subId"]),
            parameters["LS_mode"],
            items,
            fields,
            adapter,
            parameters.get("LS_snapshot") not in (None, "false"),
        )
        if sub.number in session.subscriptions:
            return None  # the same request again
        session.subscriptions[sub.number] = sub
        self._notify(session, f"SUBOK,{sub.number},{len(items)},{len(fields)}")
        self._notify(session, f"CONF,{sub.number},unlimited,filtered")
        for position, item in enumerate(items if sub.snapshot and sub.mode != "RAW" else ()):
            known = self._snapshot(item)
            if known is not None:
                self._update(session, sub, position, known)
            if sub.mode == "DISTINCT":
                self._notify(session, f"EOS,{sub.number},{position + 1}")
        return None

    # Transports

    async def _over_websocket(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Sec-WebSocket-Protocol", "")
        if not self.websocket or not asked.startswith("TLCP-2."):
            raise web.HTTPNotFound
        socket = web.WebSocketResponse(protocols=(asked,), autoping=True, heartbeat=None, compress=False)
        await socket.prepare(request)
        version = asked.removeprefix("TLCP-").removesuffix(".lightstreamer.com")
        stream = _Stream(request, asyncio.Queue(_OUTBOX_MAX))
        self._sockets.add(socket)
        self._streams.add(stream)
        writer = asyncio.create_task(self._write_socket(socket, stream))
        bound = ""
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                name, _, body = message.data.partition("\r\n")
                for line in body.split("\r\n") if name == "control" else [body]:
                    parameters = _parameters(line)
                    self.requests.append((name, dict(parameters)))
                    if name == "wsok":
                        self._send(stream, "WSOK\r\n")
                    elif name in ("create_session", "bind_session"):
                        parameters.setdefault("LS_session", bound)
                        self._bind(name, parameters, version, stream)
                        bound = next((s.id for s in self._sessions.values() if s.stream is stream), bound)
                    else:
                        parameters.setdefault("LS_session", bound)
                        self._send(stream, text) if (text := self._control(name, parameters)) else None
        finally:
            self._leave(stream)
            self._sockets.discard(socket)
            writer.cancel()
            await asyncio.wait([writer])
        return socket

    async def _write_socket(self, socket: web.WebSocketResponse, stream: _Stream) -> None:
        while (text := await stream.outbox.get()) is not None:
            try:
                await socket.send_str(text)
            except ConnectionError:
                return

    async def _over_http(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2].removesuffix(".txt")
        version = request.query.get("LS_protocol", "").removeprefix("TLCP-")
        body = (await request.read()).decode()
        answer = ""
        for line in body.split("\r\n"):
            parameters = _parameters(line)
            if "LS_session" in request.query:
                parameters.setdefault("LS_session", request.query["LS_session"])
            self.requests.append((name, dict(parameters)))
            if name in ("create_session", "bind_session"):
                return await self._stream_http(request, name, parameters, version)
            answer += self._control(name, parameters)
        return web.Response(text=answer or "REQOK\r\n", content_type="text/plain")

    async def _stream_http(
        self, request: web.Request, name: str, parameters: dict[str, str], version: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/enriched; charset=utf-8"})
        await response.prepare(request)
        stream = _Stream(request, asyncio.Queue(_OUTBOX_MAX), closes=True)
        self._streams.add(stream)
        self._bind(name, parameters, version, stream)
        try:
            while (text := await stream.outbox.get()) is not None:
                data = text.encode()
                if self.broken_at is not None and len(data) > self.broken_at:
                    await response.write(data[: self.broken_at])
                    await self._clock.sleep(0.001)
                    data = data[self.broken_at :]
                await response.write(data)
        except ConnectionError:
            pass
        finally:
            self._leave(stream)
        return response

    def _leave(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        for session in self._sessions.values():
            if session.stream is stream:
                session.stream = None


def _parameters(line: str) -> dict[str, str]:
    """A parameter line; `+` is no space."""
    return {name: unquote(value) for name, _, value in (pair.partition("=") for pair in line.split("&")) if name}
