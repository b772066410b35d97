"""Messages of the two WebSocket doors. Field names are public; ``docs/protocol.md`` explains each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

__all__ = [
    "ACTIONS",
    "CHANNELS",
    "DEFAULT_FIELDS",
    "FIELDS",
    "SWITCHED_NAMED_MAX",
    "BarValues",
    "ClientMessage",
    "ErrorBody",
    "ErrorMessage",
    "Lag",
    "Pong",
    "ProviderSwitchMessage",
    "SingleBarUpdate",
    "SingleQuoteUpdate",
    "SourceStatusMessage",
    "StaleMessage",
    "StreamBarUpdate",
    "Subscribed",
    "Unsubscribed",
    "Welcome",
    "encode",
    "encode_each",
    "quote_struct",
]

ACTIONS = ("subscribe", "unsubscribe", "ping")

CHANNELS = ("quotes", "bars_1s", "bars_1m", "bars_5m", "bars_15m", "bars_1h", "bars_1d")

FIELDS = (
    "lastPrice",
    "bidPrice",
    "askPrice",
    "midPrice",
    "bidSize",
    "askSize",
    "volume",
    "received",
    "source",
    "stale",
)
"""What `fields` of a subscription may name; symbol, seq and timestamp are in every quote."""

SWITCHED_NAMED_MAX = 200
"""Symbols that a `provider_switch` names: it goes to every client."""

DEFAULT_FIELDS = tuple(f for f in FIELDS if f != "midPrice")

_encoder = msgspec.json.Encoder(decimal_format="string")
encode: Callable[[Any], bytes] = _encoder.encode


def encode_each(messages: Iterable[msgspec.Struct]) -> list[bytes]:
    """The JSON of each message. One call for all; a line break inside a string is escaped, so it only separates."""
    lines = _encoder.encode_lines(list(messages)).split(b"\n")
    lines.pop()
    return lines


_TYPES: dict[str, Any] = {"source": str, "received": str, "stale": bool}


def quote_struct(fields: tuple[str, ...], *, snapshot: bool) -> type[msgspec.Struct]:
    """The quote message with these fields; positional arguments: symbol, seq, timestamp, then the fields in order."""
    columns: list[Any] = [("symbol", str), ("seq", int), ("timestamp", str)]
    columns += [(name, _TYPES.get(name, float | None)) for name in fields]
    if snapshot:
        columns.append(("snapshot", bool, True))
    return msgspec.defstruct("QuoteUpdate", columns, tag_field="type", tag="quote_update", frozen=True, gc=False)


class SingleQuoteUpdate(msgspec.Struct, tag_field="type", tag="quote_update", omit_defaults=True, gc=False):
    """Quote on `/ws/{symbol}`. ts, received: null while the symbol has no quote yet."""

    symbol: str
    seq: int
    ts: str | None
    bid: float | None
    ask: float | None
    mid: float | None
    last: float | None
    bid_size: float | None
    ask_size: float | None
    volume: float | None
    received: str | None
    source: str
    stale: bool
    epoch: str | None = None
    snapshot: bool = False


class BarValues(msgspec.Struct, gc=False):
    ts: str
    o: float
    h: float
    l: float  # noqa: E741 - the field's public name
    c: float
    v: float | None


class SingleBarUpdate(msgspec.Struct, tag_field="type", tag="bar_update", gc=False):
    """Bar on `/ws/{symbol}`."""

    symbol: str
    seq: int
    timeframe: str
    side: str
    status: str
    bar: BarValues


class StreamBarUpdate(msgspec.Struct, tag_field="type", tag="bar_update", gc=False):
    """Bar on the multi-symbol stream."""

    symbol: str
    seq: int
    channel: str
    timeframe: str
    side: str
    status: str
    bar: BarValues


class StaleMessage(msgspec.Struct, tag_field="type", tag="stale"):
    """No newer event for longer than the threshold. timestamp: event time of the last one."""

    symbol: str
    seq: int
    timestamp: str
    stale: bool = True


class Welcome(msgspec.Struct, tag_field="type", tag="welcome"):
    """max_rate_hz: quotes a second and symbol at most, null for no limit."""

    epoch: str
    seq: int
    time: str
    max_rate_hz: float | None
    stale_after_ms: int


class Subscribed(msgspec.Struct, tag_field="type", tag="subscribed"):
    epoch: str
    seq: int
    symbols: list[str]
    channels: list[str]
    fields: list[str] | None
    id: Any = None


class Unsubscribed(msgspec.Struct, tag_field="type", tag="unsubscribed"):
    symbols: list[str]
    channels: list[str]
    id: Any = None


class Pong(msgspec.Struct, tag_field="type", tag="pong"):
    time: str
    id: Any = None


class Lag(msgspec.Struct, tag_field="type", tag="lag"):
    """The client did not keep up: `conflated` messages were replaced by the latest values that follow."""

    conflated: int


class SourceStatusMessage(msgspec.Struct, tag_field="type", tag="source_status"):
    source: str
    connected: bool
    state: str
    reason: str | None
    time: str


class ProviderSwitchMessage(msgspec.Struct, tag_field="type", tag="provider_switch"):
    """Quotes of these symbols come from another provider now. symbols: null for more than `SWITCHED_NAMED_MAX`; count:
    how many."""

    old: str | None
    new: str | None
    reason: str
    detail: str | None
    at: str
    count: int
    symbols: list[str] | None


class ErrorBody(msgspec.Struct, omit_defaults=True):
    field: str | None = None
    value: Any = None
    allowed: str | None = None
    near: list[str] | None = None


class ErrorMessage(msgspec.Struct, tag_field="type", tag="error"):
    code: str
    message: str
    details: ErrorBody
    id: Any = None


class ClientMessage(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send on the stream."""

    action: Literal["subscribe", "unsubscribe", "ping"]
    symbols: list[str] = []
    channels: list[str] | None = None
    fields: list[str] | None = None
    id: str | int | None = None
