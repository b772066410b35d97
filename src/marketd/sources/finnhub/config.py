"""How the Finnhub provider is set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.finnhub.symbols import to_finnhub
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy

__all__ = ["FinnhubConfig"]


class FinnhubConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first, our names. symbol_table: our name to Finnhub's, where no rule says it.

    stream_symbols_max: how many the plan lets one connection follow; a free key has 50. mute_timeout_s: a connection
    without any message for so long is given up (one comes each minute at least). open_timeout_s: for a connection to be
    made. candle_days_per_call: of bars within the day; Finnhub gives about a month. implied_volatility: how chains
    write it. reconnect: Finnhub refuses those who come back within a few seconds. http: a free key has 60 requests a
    minute. http.proxy is used by the stream too.
    """

    symbols: tuple[str, ...] = ()
    api_key: str | None = None
    rest_url: str = "https://finnhub.io/api/v1"
    ws_url: str = "wss://ws.finnhub.io"
    symbol_table: Mapping[str, str] = {}
    stream_symbols_max: int = 50
    mute_timeout_s: float = 90.0
    open_timeout_s: float = 10.0
    candle_days_per_call: int = 30
    implied_volatility: Literal["percent", "fraction"] = "percent"
    reconnect: ReconnectPolicy = ReconnectPolicy(delay_first_s=5.0, delay_max_s=60.0, jitter=0.5)
    http: HttpConfig = HttpConfig(requests_per_s=1.0, burst=20)

    def __post_init__(self) -> None:
        symbols = tuple(dict.fromkeys(symbol.strip().upper().replace("/", "-") for symbol in self.symbols))
        for symbol in symbols:
            if symbol not in self.symbol_table and to_finnhub(symbol) is None:
                raise InvalidInput("symbols", symbol, "names such as AAPL, BRK.B, EURUSD, BTC-USD")
        msgspec.structs.force_setattr(self, "symbols", symbols)
        key = self.api_key
        if key is not None and (not key.isprintable() or key != key.strip() or not key.isascii()):
            raise InvalidInput("api_key", "…", "printable ASCII without spaces around it")
        for field, schemes in (("rest_url", ("https://", "http://")), ("ws_url", ("wss://", "ws://"))):
            if not getattr(self, field).startswith(schemes):
                raise InvalidInput(field, getattr(self, field), f"a URL that begins with {' or '.join(schemes)}")
        for field in ("mute_timeout_s", "open_timeout_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        for field, highest in (("stream_symbols_max", 10_000), ("candle_days_per_call", 366)):
            if not 1 <= getattr(self, field) <= highest:
                raise InvalidInput(field, getattr(self, field), f"a whole number from 1 to {highest}")
        if self.implied_volatility not in ("percent", "fraction"):
            raise InvalidInput("implied_volatility", self.implied_volatility, "percent or fraction")

    def __repr__(self) -> str:
        shown = (
            f"{field}='…'" if field == "api_key" and self.api_key else f"{field}={getattr(self, field)!r}"
            for field in self.__struct_fields__
        )
        return f"FinnhubConfig({', '.join(shown)})"
