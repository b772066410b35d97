"""How the Coinbase provider is set up."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.coinbase.symbols import product_id
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy

__all__ = ["CoinbaseConfig"]


class CoinbaseConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first; `BTC/USD` is kept as `BTC-USD`.

    mute_timeout_s: a connection that says nothing for so long is given up (heartbeats come every second).
    open_timeout_s: for a connection to be made. refill_max_trades: a longer hole is filled at its newer end
    only. refill_attempts: the requests may lag behind the stream, so trades that are not there yet are
    asked for again, `reconnect` saying after what wait. candles_per_call: the exchange allows 300, and does
    not say whether `end` is inclusive; with 299 both readings are within. http.proxy is used by the stream too.
    """

    symbols: tuple[str, ...] = ()
    rest_url: str = "https://api.exchange.coinbase.com"
    ws_url: str = "wss://ws-feed.exchange.coinbase.com"
    mute_timeout_s: float = 5.0
    open_timeout_s: float = 10.0
    refill_max_trades: int = 10_000
    refill_attempts: int = 3
    candles_per_call: int = 299
    reconnect: ReconnectPolicy = ReconnectPolicy()
    http: HttpConfig = HttpConfig()

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            if not symbol.strip():
                raise InvalidInput("symbols", symbol, "products such as BTC-USD")
        msgspec.structs.force_setattr(self, "symbols", tuple(dict.fromkeys(map(product_id, self.symbols))))
        for field, schemes in (("rest_url", ("https://", "http://")), ("ws_url", ("wss://", "ws://"))):
            if not getattr(self, field).startswith(schemes):
                raise InvalidInput(field, getattr(self, field), f"a URL that begins with {' or '.join(schemes)}")
        for field in ("mute_timeout_s", "open_timeout_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        if not 1 <= self.candles_per_call <= 299:
            raise InvalidInput("candles_per_call", self.candles_per_call, "a whole number from 1 to 299")
        if self.refill_max_trades < 0:
            raise InvalidInput("refill_max_trades", self.refill_max_trades, "a whole number from 0")
        if self.refill_attempts < 1:
            raise InvalidInput("refill_attempts", self.refill_attempts, "a whole number from 1")
