"""How the Binance provider is set up."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.binance.symbols import canonical, symbol_map
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy

__all__ = ["BinanceConfig"]


class BinanceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first; `BTC/USDT` is kept as `BTC-USDT`. symbol_table: our name to Binance's, where
    the rule (base and quote in one word) does not say it.

    rest_url, ws_url: hosts for market data alone; `https://api.binance.us` with `wss://stream.binance.us:9443` speak
    the same. old_trades_url: where trades are asked for that are older than the thousand newest, to fill a long hole;
    None: they are given up. microseconds: ask for times in µs; else they come in ms. mute_timeout_s: a connection that
    says nothing for so long, not even a ping (they come every 20 s), is given up. open_timeout_s: for a connection to
    be made.

    streams_per_connection: the exchange allows 1024, and a symbol takes two. names_per_command: how many streams one
    subscription names. commands_per_s: per connection; the exchange allows 5, pongs included. gather_s: batches of a
    dense stream are at least so far apart. settle_s: a trade that the exchange counts and that did not come within this
    time after a reconnect is missing. refill_max_trades: a longer hole is filled at its newer end
    only. refill_attempts: trades that are not there yet are asked for again, `reconnect` saying after what wait.
    klines_per_call: the exchange allows 1000. http.proxy is used by the stream too.
    """

    symbols: tuple[str, ...] = ()
    symbol_table: dict[str, str] = {}
    rest_url: str = "https://data-api.binance.vision"
    ws_url: str = "wss://data-stream.binance.vision"
    old_trades_url: str | None = "https://api.binance.com"
    microseconds: bool = True
    mute_timeout_s: float = 60.0
    open_timeout_s: float = 10.0
    streams_per_connection: int = 1_024
    names_per_command: int = 200
    commands_per_s: float = 4.0
    gather_s: float = 0.005
    settle_s: float = 1.0
    refill_max_trades: int = 10_000
    refill_attempts: int = 3
    klines_per_call: int = 1_000
    reconnect: ReconnectPolicy = ReconnectPolicy()
    http: HttpConfig = HttpConfig()

    def __post_init__(self) -> None:
        names = symbol_map(self.symbol_table)
        symbols = tuple(dict.fromkeys(map(canonical, self.symbols)))
        for symbol in symbols:
            if names.to_provider(symbol) is None:
                raise InvalidInput("symbols", symbol, "pairs such as BTC-USDT, or names of symbol_table")
        msgspec.structs.force_setattr(self, "symbols", symbols)
        web = ("https://", "http://")
        urls = [("rest_url", self.rest_url, web), ("ws_url", self.ws_url, ("wss://", "ws://"))]
        if self.old_trades_url is not None:
            urls.append(("old_trades_url", self.old_trades_url, web))
        for field, url, schemes in urls:
            if not url.startswith(schemes):
                raise InvalidInput(field, url, f"a URL that begins with {' or '.join(schemes)}")
        for field in ("mute_timeout_s", "open_timeout_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        for field in ("gather_s", "settle_s", "refill_max_trades"):
            if not getattr(self, field) >= 0:
                raise InvalidInput(field, getattr(self, field), "a number from 0")
        if not 2 <= self.streams_per_connection <= 1_024:
            raise InvalidInput("streams_per_connection", self.streams_per_connection, "a whole number from 2 to 1024")
        if not 2 <= self.names_per_command <= 1_024:
            raise InvalidInput("names_per_command", self.names_per_command, "a whole number from 2 to 1024")
        if not 0 < self.commands_per_s <= 5:
            raise InvalidInput("commands_per_s", self.commands_per_s, "a number above 0, at most 5")
        if not 1 <= self.klines_per_call <= 1_000:
            raise InvalidInput("klines_per_call", self.klines_per_call, "a whole number from 1 to 1000")
        if self.refill_attempts < 1:
            raise InvalidInput("refill_attempts", self.refill_attempts, "a whole number from 1")
