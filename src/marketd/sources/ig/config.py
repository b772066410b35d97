from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.http import HttpConfig
from marketd.sources.lightstreamer import LightstreamerConfig
from marketd.sources.reconnect import ReconnectPolicy

__all__ = ["ChannelName", "IgConfig"]

ChannelName = Literal["price", "chart_tick", "market"]
Contract = Literal["MINI", "CFD", "TODAY"]
Sides = Literal["both", "bid", "ask"]

_SECRET = ("api_key", "username", "password")


class IgConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first. api_key, username, password: of the account; rest_url: that of a demo account
    unless it is changed, and a key is good for one of the two.

    symbol_table: our names → epics, beside and before those built in. fx_contract: which contract a pair such as
    EURUSD is. price_divisors: our names → what IG's prices are divided by, for contracts quoted in points. channel: of
    the stream: `price` has sizes, market state and times; `chart_tick` ticks without states; `market` is the former
    one, which IG withdrew in 2026. subscriptions_max: at once; IG forbids a second connection. bar_sides: whether bars
    are fetched as bids and asks or one of them. points_per_call: bars asked for at once; each counts against the week's
    allowance. request_zone: IANA name of the zone in which IG reads the span that is asked for. relogin_after_s: a
    login that a refused token caused is not repeated sooner. stream_url: None for what the login names.
    http: its rate keeps within the account's 30 a minute. http.proxy is used by the stream too.
    """

    symbols: tuple[str, ...] = ()
    api_key: str | None = None
    username: str | None = None
    password: str | None = None
    rest_url: str = "https://demo-api.ig.com/gateway/deal"
    stream_url: str | None = None
    symbol_table: Mapping[str, str] = {}
    fx_contract: Contract = "MINI"
    price_divisors: Mapping[str, float] = {}
    channel: ChannelName = "price"
    subscriptions_max: int = 40
    bar_sides: Sides = "both"
    points_per_call: int = 1_000
    request_zone: str = "UTC"
    relogin_after_s: float = 60.0
    reconnect: ReconnectPolicy = ReconnectPolicy()
    lightstreamer: LightstreamerConfig = LightstreamerConfig()
    http: HttpConfig = HttpConfig(requests_per_s=0.4, burst=6)

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            if not symbol.strip():
                raise InvalidInput("symbols", symbol, "symbols such as EURUSD, or epics")
        msgspec.structs.force_setattr(self, "symbols", tuple(dict.fromkeys(s.strip() for s in self.symbols)))
        for field in ("rest_url", "stream_url"):
            url = getattr(self, field)
            if url is not None and not url.startswith(("https://", "http://")):
                raise InvalidInput(field, url, "a URL that begins with https:// or http://")
        for field, allowed in (("fx_contract", Contract), ("channel", ChannelName), ("bar_sides", Sides)):
            if getattr(self, field) not in get_args(allowed):
                raise InvalidInput(field, getattr(self, field), f"one of {', '.join(get_args(allowed))}")
        for field in _SECRET:
            value = getattr(self, field)
            if value is not None and (not value.isprintable() or value != value.strip() or not value.isascii()):
                raise InvalidInput(field, "…", "printable ASCII without spaces around it")
        for symbol, divisor in self.price_divisors.items():
            if not 0 < divisor < float("inf"):
                raise InvalidInput(f"price_divisors.{symbol}", divisor, "a number above 0")
        for field, highest in (("subscriptions_max", 1_000), ("points_per_call", 10_000)):
            if not 1 <= getattr(self, field) <= highest:
                raise InvalidInput(field, getattr(self, field), f"a whole number from 1 to {highest}")
        if not self.relogin_after_s >= 0:
            raise InvalidInput("relogin_after_s", self.relogin_after_s, "a number of seconds from 0")
        try:
            ZoneInfo(self.request_zone)
        except (KeyError, ValueError, OSError):
            raise InvalidInput("request_zone", self.request_zone, "an IANA time zone such as Europe/London") from None

    def __repr__(self) -> str:
        shown = (
            f"{field}='…'" if field in _SECRET and getattr(self, field) else f"{field}={getattr(self, field)!r}"
            for field in self.__struct_fields__
        )
        return f"IgConfig({', '.join(shown)})"
