"""The two WebSocket doors: `/api/v1/market-data/stream` and `/ws/{symbol}`.

They read what a client sends, refuse what cannot be understood (nothing of such a message is applied), and
turn the rest into subscriptions of the hub, which does all the sending.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from marketd.api.engine import Engine
from marketd.api.uvicorn_protocol import OUTLET
from marketd.errors import InvalidInput, UnknownSymbol
from marketd.fanout.hub import SINGLE, Client, Outlet
from marketd.model import format_ns
from marketd.model.time import NS_PER_MS
from marketd.wire.close_codes import TOO_MANY_ERRORS, UNKNOWN_SYMBOL, UNSUPPORTED_SERVER
from marketd.wire.frames import text_frame
from marketd.wire.messages import (
    CHANNELS,
    DEFAULT_FIELDS,
    FIELDS,
    ClientMessage,
    ErrorBody,
    ErrorMessage,
    Pong,
    Subscribed,
    Unsubscribed,
    Welcome,
    encode,
)

__all__ = ["websocket_routes"]

MAX_MESSAGE_BYTES = 1 << 20
"""A longer message is refused; one of over 16 times as much ends the connection (1009)."""
_ERRORS_IN_A_ROW = 20
_TOO_LONG_IN_A_ROW = 3

_decode = msgspec.json.Decoder(ClientMessage).decode


def websocket_routes(engine: Engine) -> list[WebSocketRoute]:
    """The doors, for the application's routing table."""

    async def stream(websocket: WebSocket) -> None:
        await _StreamDoor(engine, websocket).run()

    async def single(websocket: WebSocket) -> None:
        await _serve_symbol(engine, websocket)

    return [
        WebSocketRoute("/api/v1/market-data/stream", stream),
        WebSocketRoute("/ws/{symbol:path}", single),
    ]


async def _outlet(websocket: WebSocket) -> Outlet | None:
    """Accept the handshake; None (and closed) behind a web server that gives no direct access to the socket."""
    outlet: Outlet | None = websocket.scope.get("extensions", {}).get(OUTLET)
    await websocket.accept()
    if outlet is None:
        await websocket.close(*UNSUPPORTED_SERVER)
    return outlet


async def _serve_symbol(engine: Engine, websocket: WebSocket) -> None:
    outlet = await _outlet(websocket)
    if outlet is None:
        return
    try:
        symbol = engine.info(websocket.path_params["symbol"]).symbol
    except UnknownSymbol as error:
        outlet.write(_error_frame("unknown_symbol", error, None))
        await websocket.close(*UNKNOWN_SYMBOL)
        return
    hub = engine.hub
    number = engine.symbol_number(symbol)
    client = hub.connect(outlet, single=True)
    try:
        hub.subscribe_quotes(client, [number], SINGLE)
        hub.subscribe_bars(client, "bars_1m", [number])
        hub.snapshot(client, [number])
        errors = 0
        while (await websocket.receive())["type"] != "websocket.disconnect":
            errors += 1
            nothing = InvalidInput("message", "a message", "none: this door only sends")
            outlet.write(_error_frame("unknown_action", nothing, None))
            if errors >= _ERRORS_IN_A_ROW:
                outlet.close(TOO_MANY_ERRORS)
    finally:
        hub.disconnect(client)


class _StreamDoor:
    def __init__(self, engine: Engine, websocket: WebSocket) -> None:
        self._engine = engine
        self._hub = engine.hub
        self._websocket = websocket
        self._errors = 0

    async def run(self) -> None:
        outlet = await _outlet(self._websocket)
        if outlet is None:
            return
        self._outlet = outlet
        client = self._hub.connect(outlet)
        try:
            now = format_ns(self._engine.clock.time_ns())
            stale_after_ms = self._engine.stale_after_ns // NS_PER_MS
            welcome = Welcome(self._hub.epoch, self._hub.seq, now, self._hub.config.max_rate_hz, stale_after_ms)
            self._send(welcome)
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self._take(client, message)
        finally:
            self._hub.disconnect(client)

    def _take(self, client: Client, message: Any) -> None:
        text = message.get("text")
        limit = _ERRORS_IN_A_ROW
        code = "invalid_input"
        identity: Any = None
        try:
            if text is None:
                code = "not_text"
                raise InvalidInput("message", "a binary message", "a text message with one JSON object")
            size = len(text) if text.isascii() else len(text.encode())
            if size > MAX_MESSAGE_BYTES:
                code, limit = "message_too_long", _TOO_LONG_IN_A_ROW
                raise InvalidInput("message", f"{size} bytes", f"at most {MAX_MESSAGE_BYTES} bytes")
            code, request = _parse(text)
            identity = request.id
            code = "invalid_input"
            self._apply(client, request)
            self._errors = 0
        except InvalidInput as error:
            self._errors += 1
            code = error.code if isinstance(error, UnknownSymbol) else code
            self._outlet.write(_error_frame(code, error, identity))
        except _NotUnderstood as error:
            self._errors += 1
            self._outlet.write(_error_frame(error.code, error.reason, None))
        if self._errors >= limit:
            self._outlet.close(TOO_MANY_ERRORS)

    def _apply(self, client: Client, request: ClientMessage) -> None:
        if request.action == "ping":
            self._send(Pong(format_ns(self._engine.clock.time_ns()), request.id))
            return
        channels = request.channels if request.channels is not None else ["quotes"]
        for channel in channels:
            if channel not in CHANNELS:
                raise InvalidInput("channels", channel, f"one of {', '.join(CHANNELS)}")
        for name in request.fields or ():
            if name not in FIELDS:
                raise InvalidInput("fields", name, f"one of {', '.join(FIELDS)}")
        if not request.symbols:
            raise InvalidInput("symbols", request.symbols, 'a list of symbols, or ["*"] for all')
        numbers = self._numbers(client, request)
        bars = [channel for channel in channels if channel != "quotes"]
        if request.action == "subscribe":
            fields = DEFAULT_FIELDS if request.fields is None else tuple(f for f in FIELDS if f in request.fields)
            answer = Subscribed(self._hub.epoch, self._hub.seq, request.symbols, channels, request.fields, request.id)
            self._send(answer)
            if "quotes" in channels:
                self._hub.subscribe_quotes(client, numbers, fields)
                self._hub.snapshot(client, numbers)
            for channel in bars:
                self._hub.subscribe_bars(client, channel, numbers)
        else:
            if "quotes" in channels:
                self._hub.unsubscribe_quotes(client, numbers)
            for channel in bars:
                self._hub.unsubscribe_bars(client, channel, numbers)
            self._send(Unsubscribed(request.symbols, channels, request.id))

    def _numbers(self, client: Client, request: ClientMessage) -> list[int] | None:
        """The symbols' numbers, None for all."""
        if "*" in request.symbols:
            return None
        most = self._hub.config.max_symbols_per_client
        if len(request.symbols) + len(client.quotes) > most and request.action == "subscribe":
            raise InvalidInput("symbols", f"{len(request.symbols)} symbols", f"at most {most} a connection")
        return [self._engine.symbol_number(symbol) for symbol in request.symbols]

    def _send(self, message: msgspec.Struct) -> None:
        self._outlet.write(text_frame(encode(message)))


class _NotUnderstood(Exception):
    def __init__(self, code: str, reason: InvalidInput) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def _parse(text: str) -> tuple[str, ClientMessage]:
    try:
        return "", _decode(text)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = path.strip("`.") or "message"
        code = "unknown_action" if field == "action" else "invalid_input"
        if "unknown field" in reason:
            field = reason.split("`")[1]
            reason = f"one of {', '.join(ClientMessage.__struct_fields__)}"
        if field == "action":
            reason = "one of subscribe, unsubscribe, ping"
        reason = reason.removeprefix("Expected ")
        raise _NotUnderstood(code, InvalidInput(field, _given(text, field), reason)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _NotUnderstood("bad_json", InvalidInput("message", text[:100], "one JSON object")) from error


def _given(text: str, field: str) -> Any:
    """What the client gave for a field, for the error that names it."""
    message = msgspec.json.decode(text)
    return message.get(field.split("[", maxsplit=1)[0]) if isinstance(message, dict) else message


def _error_frame(code: str, error: InvalidInput, identity: Any) -> bytes:
    near = list(error.near) if isinstance(error, UnknownSymbol) else None
    shown = error.value if isinstance(error.value, str | int | float) else repr(error.value)[:100]
    if isinstance(shown, str):
        shown = shown[:100]
    body = ErrorBody(field=error.field, value=shown, allowed=error.allowed, near=near)
    return text_frame(encode(ErrorMessage(code, str(error), body, identity)))
