from __future__ import annotations

from typing import Literal

import msgspec

from marketd.errors import InvalidInput

__all__ = ["LightstreamerConfig"]


class LightstreamerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to speak TLCP.

    versions: tried in this order until the server takes one, which is remembered. transport: `auto` goes over to HTTP
    when the server refuses WebSocket. keepalive_s: asked of the server, which may choose otherwise; None leaves it to
    the server. mute_factor: a connection that is silent for so many keep-alives is given up. inactivity_s: promise the
    server a sign of life this often, and keep it; None is no promise. open_timeout_s: for a connection and the
    server's answer on it. recovery_attempts: connections that fail in a row before a lost session is given up for a new
    one; 0 never recovers. renewals: of one subscription whose updates cannot be understood, in one session.
    """

    versions: tuple[str, ...] = ("2.5.0", "2.4.0", "2.1.0")
    transport: Literal["auto", "websocket", "http"] = "auto"
    keepalive_s: float | None = None
    mute_factor: float = 2.0
    inactivity_s: float | None = None
    open_timeout_s: float = 10.0
    recovery_attempts: int = 3
    renewals: int = 3

    def __post_init__(self) -> None:
        if not self.versions or not all(v.startswith("2.") for v in self.versions):
            raise InvalidInput("versions", self.versions, "versions of TLCP such as 2.5.0, at least one")
        for field in ("keepalive_s", "inactivity_s"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise InvalidInput(field, value, "a number of seconds above 0, or null")
        if not self.mute_factor > 1:
            raise InvalidInput("mute_factor", self.mute_factor, "a number above 1")
        if not self.open_timeout_s > 0:
            raise InvalidInput("open_timeout_s", self.open_timeout_s, "a number of seconds above 0")
        for field in ("recovery_attempts", "renewals"):
            if getattr(self, field) < 0:
                raise InvalidInput(field, getattr(self, field), "a whole number from 0")
