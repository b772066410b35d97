from __future__ import annotations

from typing import Literal

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.yahoo.symbols import to_yahoo

__all__ = ["YahooConfig"]


class YahooConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first, our names. symbol_table: our name to Yahoo's, where no rule says it.

    transport: `curl_cffi` greets as the browser `impersonate` does; `aiohttp` greets as itself, which Yahoo often
    answers with 429. cookie: `A3=…` of a browser that agreed to Yahoo's terms, needed where Yahoo asks for consent
    first; None: one is asked for. gather_s: batches of the stream are at least so far apart. keepalive_s: the stream is
    subscribed anew so often. mute_timeout_s: a stream that follows anything around the clock and says nothing for so
    long is given up. throttle_first_s, throttle_max_s: how long to be silent after a 429 that does not say, doubled
    each time.
    """

    symbols: tuple[str, ...] = ()
    symbol_table: dict[str, str] = {}
    rest_url: str = "https://query2.finance.yahoo.com"
    cookie_url: str = "https://fc.yahoo.com"
    ws_url: str = "wss://streamer.finance.yahoo.com/?version=2"
    transport: Literal["curl_cffi", "aiohttp"] = "curl_cffi"
    impersonate: str = "chrome"
    cookie: str | None = None
    gather_s: float = 0.005
    keepalive_s: float = 15.0
    mute_timeout_s: float = 60.0
    open_timeout_s: float = 10.0
    throttle_first_s: float = 60.0
    throttle_max_s: float = 960.0
    reconnect: ReconnectPolicy = ReconnectPolicy()
    http: HttpConfig = HttpConfig(requests_per_s=1.0, burst=5, attempts=3)

    def __post_init__(self) -> None:
        symbols = tuple(dict.fromkeys(symbol.strip().upper().replace("/", "-") for symbol in self.symbols))
        for symbol in symbols:
            if symbol not in self.symbol_table and to_yahoo(symbol) is None:
                raise InvalidInput("symbols", symbol, "names such as AAPL, BRK.B, EURUSD, BTC-USD, ^GSPC")
        msgspec.structs.force_setattr(self, "symbols", symbols)
        web = ("https://", "http://")
        for field, schemes in (("rest_url", web), ("cookie_url", web), ("ws_url", ("wss://", "ws://"))):
            if not getattr(self, field).startswith(schemes):
                raise InvalidInput(field, getattr(self, field), f"a URL that begins with {' or '.join(schemes)}")
        for field in ("keepalive_s", "mute_timeout_s", "open_timeout_s", "throttle_first_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        if not 0.0 <= self.gather_s <= 1.0:
            raise InvalidInput("gather_s", self.gather_s, "a number of seconds from 0 to 1")
        if not self.throttle_max_s >= self.throttle_first_s:
            raise InvalidInput("throttle_max_s", self.throttle_max_s, f"a number from {self.throttle_first_s:g}")
        if self.cookie is not None and not self.cookie.startswith("A3="):
            raise InvalidInput("cookie", "…", "the cookie A3 of yahoo.com, written A3=…")
        if not self.impersonate:
            raise InvalidInput("impersonate", self.impersonate, "a browser that curl_cffi knows, such as chrome")

    def __repr__(self) -> str:
        shown = ((field, getattr(self, field)) for field in self.__struct_fields__)
        return f"YahooConfig({', '.join(f'{n}={v!r}' for n, v in shown if n != 'cookie' or v is None)})"
