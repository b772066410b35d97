"""How the XTS provider is set up."""

from __future__ import annotations

import re
from typing import Literal, get_args

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.xts.symbols import SEGMENTS, XtsSymbols, normal

__all__ = ["Broadcast", "Handshake", "Times", "XtsConfig", "XtsPace"]

Times = Literal["auto", "since_1980", "unix_ist", "unix_utc"]
"""What the seconds of quotes count. since_1980: from 1980-01-01 00:00 of India's wall clock. unix_ist: Unix seconds of
its wall clock, so 19,800 too many. unix_utc: Unix seconds. auto: one of the first two, whichever is nearer to the time
of receipt (they are ten years apart)."""

Broadcast = Literal["Full", "Partial"]
Handshake = Literal["websocket", "polling"]

_SECRET = re.compile(r"\S+", re.ASCII)
_SOCKETS = {"https://": "wss://", "http://": "ws://"}


class XtsPace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests a second, by kind. Brokers do not publish their limits; these have been seen to pass."""

    login: float = 1.0
    master: float = 1.0
    quotes: float = 1.0
    ohlc: float = 1.0
    subscription: float = 5.0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of requests a second above 0")


class XtsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first. rest_url: the broker's root, with its port; `path` and below follow it.

    ws_url: where the stream is, None for that of `rest_url`. app_key, secret_key: of a *market data* application in the
    broker's dashboard. application: sent as `source` of the login. segments: whose instruments are known by name, the
    first that has a name keeps it. symbol_table: our name → `NSECM:2885`, before any other rule.

    message_codes: kinds of message to subscribe, in this order; each takes `symbols_per_code` instruments (1501 is the
    best bid and ask, 1502 five levels, of which the first is read). broadcast: ask for whole or for changed quotes.
    times: what the seconds of quotes count. future_max_s: a quote dated further ahead is refused.
    handshake: `polling` begins over HTTP and upgrades, for servers or proxies that want it.
    mute_timeout_s: a connection that says nothing for so long, not even to our pings, is given up.
    open_timeout_s: for a connection to be made. relogin_after_s: a session that ends again so soon after it was renewed
    is not renewed before that, because somebody else uses the key. days_per_call: of bars within the day.
    pace: used where the server keeps no quota. http.proxy is used by the stream too.
    """

    symbols: tuple[str, ...] = ()
    rest_url: str = "https://developers.symphonyfintech.in"
    path: str = "/apimarketdata"
    ws_url: str | None = None
    app_key: str | None = None
    secret_key: str | None = None
    application: str = "WEBAPI"
    segments: tuple[str, ...] = ("NSECM",)
    symbol_table: dict[str, str] = {}
    message_codes: tuple[int, ...] = (1501, 1502)
    symbols_per_code: int = 50
    broadcast: Broadcast = "Full"
    times: Times = "auto"
    future_max_s: float = 300.0
    handshake: Handshake = "websocket"
    mute_timeout_s: float = 30.0
    open_timeout_s: float = 10.0
    relogin_after_s: float = 60.0
    days_per_call: int = 7
    pace: XtsPace = XtsPace()
    reconnect: ReconnectPolicy = ReconnectPolicy()
    http: HttpConfig = HttpConfig(timeout_s=30.0, body_max_bytes=128 * 1024 * 1024)

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            if not symbol.strip():
                raise InvalidInput("symbols", symbol, "names such as RELIANCE")
        msgspec.structs.force_setattr(self, "symbols", tuple(dict.fromkeys(map(normal, self.symbols))))
        for field in ("app_key", "secret_key"):
            value = getattr(self, field)
            if value is not None and _SECRET.fullmatch(value) is None:
                raise InvalidInput(field, "…", "a key without spaces, as the broker's dashboard shows it")
        if not self.rest_url.startswith(tuple(_SOCKETS)):
            raise InvalidInput("rest_url", self.rest_url, "a URL that begins with https:// or http://")
        if self.ws_url is not None and not self.ws_url.startswith(tuple(_SOCKETS.values())):
            raise InvalidInput("ws_url", self.ws_url, "a URL that begins with wss:// or ws://")
        if not self.path.startswith("/") or self.path.endswith("/"):
            raise InvalidInput("path", self.path, "a path such as /apimarketdata")
        if not self.segments or not set(self.segments) <= SEGMENTS.keys():
            raise InvalidInput("segments", self.segments, f"some of {', '.join(SEGMENTS)}")
        XtsSymbols(self.symbol_table, self.segments)
        if not self.message_codes or not set(self.message_codes) <= {1501, 1502}:
            raise InvalidInput("message_codes", self.message_codes, "1501, 1502 or both")
        for field, allowed in (("broadcast", Broadcast), ("times", Times), ("handshake", Handshake)):
            if getattr(self, field) not in get_args(allowed):
                raise InvalidInput(field, getattr(self, field), f"one of {', '.join(get_args(allowed))}")
        for field in ("future_max_s", "mute_timeout_s", "open_timeout_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        if not self.relogin_after_s >= 0:
            raise InvalidInput("relogin_after_s", self.relogin_after_s, "a number of seconds from 0")
        for field, highest in (("symbols_per_code", 100_000), ("days_per_call", 30)):
            if not 1 <= getattr(self, field) <= highest:
                raise InvalidInput(field, getattr(self, field), f"a whole number from 1 to {highest}")

    def __repr__(self) -> str:
        """Without the keys."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        for secret in ("app_key", "secret_key"):
            fields[secret] = "…" if fields[secret] else None
        return f"XtsConfig({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    @property
    def socket_url(self) -> str:
        """Of the stream's server, without path."""
        if self.ws_url is not None:
            return self.ws_url.rstrip("/")
        scheme = next(scheme for scheme in _SOCKETS if self.rest_url.startswith(scheme))
        return _SOCKETS[scheme] + self.rest_url.removeprefix(scheme).rstrip("/")
