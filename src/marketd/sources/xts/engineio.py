"""Engine.IO 3 and Socket.IO 2 as texts: what a packet is, and the event in it. Pure.

An Engine.IO packet is one character (`0` open, `1` close, `2` ping, `3` pong, `4` message, `5` upgrade, `6` noop) and
its data. A message is a Socket.IO packet: `0` connect, `1` disconnect, `2` event, `4` error. In version 3 it is the
*client* that pings. See <https://github.com/socketio/engine.io-protocol/tree/v3> and
<https://github.com/socketio/socket.io-protocol/tree/v4>.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from marketd.errors import MalformedMessage

__all__ = ["CLOSE", "CONNECTED", "DISCONNECT", "ERROR", "EVENT", "PING", "PROBE", "PROBED", "UPGRADE", "Open"]
__all__ += ["event_of", "event_text", "opened", "packets"]

CLOSE, PING, UPGRADE = "1", "2", "5"
PROBE, PROBED = "2probe", "3probe"
CONNECTED, DISCONNECT, EVENT, ERROR = "40", "41", "42", "44"

_PACKETS_MAX = 10_000


# {"sid":"jOF0UlgslsOZKUn_AAAQ","upgrades":[],"pingInterval":20000,"pingTimeout":60000}
class Open(msgspec.Struct, frozen=True, rename="camel"):
    """The first packet's data. ping_interval, ping_timeout: milliseconds."""

    sid: str
    ping_interval: float
    ping_timeout: float
    upgrades: tuple[str, ...] = ()


_OPEN = msgspec.json.Decoder(Open)
_EVENT = msgspec.json.Decoder(tuple[str, str | dict[str, Any]])
_ANY_EVENT = msgspec.json.Decoder(list[Any])
_LENGTH = re.compile(r"([0-9]{1,9}):")
_PREFIX = re.compile(r"(?:/[^,]{0,200},)?[0-9]{0,18}")


def opened(source: str, packet: str) -> Open:
    """The data of an open packet. Raises MalformedMessage for any other."""
    try:
        return _OPEN.decode(packet[1:] if packet.startswith("0") else "")
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(source, f"Engine.IO handshake: {error}", packet) from None


def packets(source: str, payload: str) -> list[str]:
    """The packets of one answer over HTTP: each after its length in UTF-16 units and a colon.

    Raises MalformedMessage if the lengths do not fit.
    """
    # JavaScript counts characters beyond the first 65,536 twice
    units = payload.encode("utf-16-le", "surrogatepass")
    found: list[str] = []
    at = 0
    while at < len(payload) or at * 2 < len(units):
        head = _LENGTH.match(units[at * 2 : at * 2 + 20].decode("utf-16-le", "replace"))
        if head is None or len(found) == _PACKETS_MAX:
            raise MalformedMessage(source, "Engine.IO payload: no length", payload)
        begin = at + head.end()
        at = begin + int(head.group(1))
        if at * 2 > len(units):
            raise MalformedMessage(source, "Engine.IO payload: shorter than it says", payload)
        found.append(units[begin * 2 : at * 2].decode("utf-16-le", "replace"))
    return found


def event_of(packet: str) -> tuple[str, str | dict[str, Any]]:
    """Name and first argument of an event packet (`42[…]`); an argument of another kind is an empty text.

    Raises ValueError or RecursionError.
    """
    text = packet[2:]
    if not text.startswith("["):
        prefix = _PREFIX.match(text)  # a namespace, an acknowledgement id
        text = text[prefix.end() :] if prefix else text
    try:
        return _EVENT.decode(text)
    except msgspec.ValidationError:
        name, *arguments = _ANY_EVENT.decode(text) or [""]
        first = arguments[0] if arguments else ""
        return str(name), first if isinstance(first, str | dict) else ""


def event_text(name: str, argument: str) -> str:
    """The packet that brings this event: what was fetched comes in by the same door."""
    return EVENT + msgspec.json.encode([name, argument]).decode()
