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
from marketd.api.uvicorn_protocol import OUTLET, DirectWebSocketProtocol
from marketd.errors import InvalidInput, UnknownSymbol
from marketd.fanout.hub import SINGLE, Client
from marketd.model import format_ns
from marketd.model.time import NS_PER_MS
from marketd.wire.close_codes import TOO_MANY_ERRORS, UNKNOWN_SYMBOL, UNSUPPORTED_SERVER
from marketd.wire.frames import text_frame
from marketd.wire.messages import (
    ACTIONS,
    CHANNELS,
    DEFAULT_FIELDS,
    FIELDS,
    ClientMessage,
    ErrorBody,
    ErrorMessage,
    Pong,
    SingleQuoteUpdate,
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


async def _outlet(websocket: WebSocket) -> DirectWebSocketProtocol | None:
    """Accept the handshake; None (and closed) behind a web server that gives no direct access to the socket."""
    outlet: DirectWebSocketProtocol | None = websocket.scope.get("extensions", {}).get(OUTLET)
    await websocket.accept()
    if outlet is None:
        await websocket.close(*UNSUPPORTED_SERVER)
    return outlet


async def _serve_symbol(engine: Engine, websocket: WebSocket) -> None:
    outlet = await _outlet(websocket)
    if outlet is None:
        return
    symbol = websocket.path_params["symbol"]
    try:
        number = engine.acquire(symbol)
    except InvalidInput as error:
        outlet.write(_error_frame(error.code, error, None))
        await websocket.close(*UNKNOWN_SYMBOL)
        return
    info = engine.info(symbol)
    hub = engine.hub
    client = hub.connect(outlet, single=True)
    try:
        hub.subscribe_quotes(client, [number], SINGLE)
        hub.subscribe_bars(client, "bars_1m", [number])
        if engine.quote(info.symbol) is None:
            nothing_yet = SingleQuoteUpdate(
                symbol=info.symbol,
                seq=hub.seq,
                ts=None,
                bid=None,
                ask=None,
                mid=None,
                last=None,
                bid_size=None,
                ask_size=None,
                volume=None,
                received=None,
                source=info.source,
                stale=True,
                epoch=hub.epoch,
                snapshot=True,
            )
            outlet.write(text_frame(encode(nothing_yet)))
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
        engine.release(symbol)


class _StreamDoor:
    def __init__(self, engine: Engine, websocket: WebSocket) -> None:
        self._engine = engine
        self._hub = engine.hub
        self._websocket = websocket
        self._errors = 0
        self._held: dict[int, str] = {}
        """Symbols that are subscribed for this client too, by their numbers."""

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
                await outlet.drained()  # who does not read the answers is not asked for more questions
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self._take(client, message)
        finally:
            self._hub.disconnect(client)
            for symbol in self._held.values():
                self._engine.release(symbol)

    def _take(self, client: Client, message: Any) -> None:
        try:
            request = _parse(_text(message))
        except _NotUnderstood as error:
            limit = _TOO_LONG_IN_A_ROW if error.code == "message_too_long" else _ERRORS_IN_A_ROW
            self._refuse(error.code, error.reason, error.identity, limit)
            return
        try:
            self._apply(client, request)
        except UnknownSymbol as error:
            self._refuse(error.code, error, request.id, _ERRORS_IN_A_ROW)
        except InvalidInput as error:
            self._refuse("invalid_input", error, request.id, _ERRORS_IN_A_ROW)
        else:
            self._errors = 0

    def _refuse(self, code: str, reason: InvalidInput, identity: str | int | None, limit: int) -> None:
        self._errors += 1
        self._outlet.write(_error_frame(code, reason, identity))
        if self._errors >= limit:
            self._outlet.close(TOO_MANY_ERRORS)

    def _apply(self, client: Client, request: ClientMessage) -> None:
        if request.action == "ping":
            self._send(Pong(format_ns(self._engine.clock.time_ns()), request.id))
            return
        channels = request.channels if request.channels is not None else ["quotes"]
        for channel in channels or [""]:
            if channel not in CHANNELS:
                raise InvalidInput("channels", channel, f"one of {', '.join(CHANNELS)}")
        for name in request.fields or ():
            if name not in FIELDS:
                raise InvalidInput("fields", name, f"one of {', '.join(FIELDS)}")
        if not request.symbols:
            raise InvalidInput("symbols", request.symbols, 'a list of symbols, or ["*"] for all')
        numbers = self._numbers(client, request)
        bars = [channel for channel in channels if channel != "quotes"]
        fields = DEFAULT_FIELDS if request.fields is None else tuple(f for f in FIELDS if f in request.fields)
        if numbers is not None:
            self._refuse_part_of_all(client, request, channels, fields)
        if request.action == "subscribe":
            answer = Subscribed(self._hub.epoch, self._hub.seq, request.symbols, channels, request.fields, request.id)
            self._send(answer)
            if "quotes" in channels:
                self._hub.subscribe_quotes(client, numbers, fields)
                self._hub.snapshot(client, numbers)
            for channel in bars:
                self._hub.subscribe_bars(client, channel, numbers)
        else:
            self._hub.deliver(client)
            if "quotes" in channels:
                self._hub.unsubscribe_quotes(client, numbers)
                if numbers is None:
                    self._hub.unsubscribe_quotes(client, list(client.quotes))
            for channel in bars:
                self._hub.unsubscribe_bars(client, channel, numbers)
            self._let_go(client)
            self._send(Unsubscribed(request.symbols, channels, request.id))

    @staticmethod
    def _refuse_part_of_all(
        client: Client, request: ClientMessage, channels: list[str], fields: tuple[str, ...]
    ) -> None:
        """A subscription to all symbols has no exceptions: neither other fields for some, nor all but some."""
        leaving = request.action == "unsubscribe"
        all_quotes = "quotes" in channels and client.star_quotes is not None
        all_bars = any(channel in client.bars and client.bars[channel] is None for channel in channels)
        if leaving and (all_quotes or all_bars):
            raise InvalidInput("symbols", request.symbols[0], '["*"], because all symbols are subscribed')
        if all_quotes and client.star_quotes != fields:
            raise InvalidInput("fields", request.fields, "those of the subscription to all symbols")

    def _numbers(self, client: Client, request: ClientMessage) -> list[int] | None:
        """The symbols' numbers, None for all."""
        if "*" in request.symbols:
            return None
        most = self._hub.config.max_symbols_per_client
        too_many = InvalidInput("symbols", f"{len(request.symbols)} symbols", f"at most {most} a connection")
        if len(request.symbols) > most:
            raise too_many
        if request.action != "subscribe":
            return [self._engine.symbol_number(symbol) for symbol in request.symbols]
        held: dict[int, str] = {}
        numbers = []
        try:
            for symbol in request.symbols:
                number = self._engine.acquire(symbol)
                numbers.append(number)
                if number in self._held or number in held:
                    self._engine.release(symbol)
                else:
                    held[number] = symbol
            if len(client.quotes.keys() | numbers) > most:
                raise too_many
        except InvalidInput:
            for symbol in held.values():
                self._engine.release(symbol)
            raise
        self._held.update(held)
        return numbers

    def _let_go(self, client: Client) -> None:
        """Of symbols of which the client has neither quotes nor bars any longer."""
        if client.star_quotes is not None or any(numbers is None for numbers in client.bars.values()):
            return
        wanted = client.quotes.keys() | {number for numbers in client.bars.values() for number in numbers or ()}
        for number in self._held.keys() - wanted:
            self._engine.release(self._held.pop(number))

    def _send(self, message: msgspec.Struct) -> None:
        self._outlet.write(text_frame(encode(message)))


class _NotUnderstood(Exception):
    def __init__(self, code: str, reason: InvalidInput, identity: str | int | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.identity = identity


def _text(message: Any) -> str:
    """Raises _NotUnderstood."""
    text: str | None = message.get("text")
    if text is None:
        wrong = InvalidInput("message", "a binary message", "a text message with one JSON object")
        raise _NotUnderstood("not_text", wrong)
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_MESSAGE_BYTES:
        wrong = InvalidInput("message", f"{size} bytes", f"at most {MAX_MESSAGE_BYTES} bytes")
        raise _NotUnderstood("message_too_long", wrong)
    return text


def _parse(text: str) -> ClientMessage:
    """Raises _NotUnderstood."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # What is wrong with the message may be told before all of it has been read as JSON.
        try:
            given = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _NotUnderstood("bad_json", InvalidInput("message", text[:100], "one JSON object")) from error
        raise _misfit(given, str(error)) from error


def _misfit(given: Any, told: str) -> _NotUnderstood:
    """What is wrong with JSON that is no message, from msgspec's words: `Expected … - at `$.symbols[0]``."""
    reason, at, path = told.rpartition(" - at `$")
    if not isinstance(given, dict):
        return _NotUnderstood("bad_json", InvalidInput("message", given, "one JSON object"))
    identity = given.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        identity = None
    known = ClientMessage.__struct_fields__
    unknown = next((name for name in given if name not in known), None)
    if given.get("action") not in ACTIONS:
        wrong = InvalidInput("action", given.get("action"), f"one of {', '.join(ACTIONS)}")
        return _NotUnderstood("unknown_action", wrong, identity)
    if unknown is not None and not at:
        wrong = InvalidInput(unknown[:100], given[unknown], f"one of {', '.join(known)}")
        return _NotUnderstood("invalid_input", wrong, identity)
    name, _, position = path.strip(".`]").partition("[")
    value = given.get(name)
    if position.isdecimal():
        value = value[int(position)] if isinstance(value, list) else value
        name = f"{name}[{position}]"
    allowed = reason.removeprefix("Expected ").replace("`", "").partition(", got")[0]
    return _NotUnderstood("invalid_input", InvalidInput(name, value, allowed), identity)


def _error_frame(code: str, error: InvalidInput, identity: Any) -> bytes:
    near = list(error.near) if isinstance(error, UnknownSymbol) else None
    shown = error.value
    if shown is not None and not isinstance(shown, str | int | float):
        shown = msgspec.json.encode(shown).decode()
    if isinstance(shown, str):
        shown = shown[:100]
    body = ErrorBody(field=error.field, value=shown, allowed=error.allowed, near=near)
    return text_frame(encode(ErrorMessage(code, str(error), body, identity)))
