"""How the Kraken provider is set up."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.http import HttpConfig
from marketd.sources.kraken.symbols import canonical, symbol_map
from marketd.sources.reconnect import ReconnectPolicy

__all__ = ["KrakenConfig"]


class KrakenConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first; `BTC/USD` is kept as `BTC-USD`. symbol_table: our name to that of Kraken's
    stream, where the rule does not say it.

    mute_timeout_s: a connection that says nothing for so long is given up (heartbeats come every second).
    open_timeout_s: for a connection to be made. names_per_command: how many symbols one subscription names. gather_s:
    batches of a dense stream are at least so far apart. old_bars_max_pages: bars older than the latest 720 are built
    from trades, a thousand a request and a request a second; so many requests may be spent on one span, and 0 builds
    none. refill_max_trades: a longer hole is filled at its newer end only. refill_attempts: trades that are not there
    yet are asked for again, `reconnect` saying after what wait. http.proxy is used by the stream too.
    """

    symbols: tuple[str, ...] = ()
    symbol_table: dict[str, str] = {}
    rest_url: str = "https://api.kraken.com"
    ws_url: str = "wss://ws.kraken.com/v2"
    mute_timeout_s: float = 5.0
    open_timeout_s: float = 10.0
    names_per_command: int = 100
    gather_s: float = 0.005
    old_bars_max_pages: int = 30
    refill_max_trades: int = 10_000
    refill_attempts: int = 3
    reconnect: ReconnectPolicy = ReconnectPolicy()
    http: HttpConfig = HttpConfig(requests_per_s=1.0, burst=3)

    def __post_init__(self) -> None:
        names = symbol_map(self.symbol_table)
        symbols = tuple(dict.fromkeys(map(canonical, self.symbols)))
        for symbol in symbols:
            if names.to_provider(symbol) is None:
                raise InvalidInput("symbols", symbol, "pairs such as BTC-USD, or names of symbol_table")
        msgspec.structs.force_setattr(self, "symbols", symbols)
        for ours, theirs in self.symbol_table.items():
            if theirs.count("/") != 1:
                raise InvalidInput("symbol_table", f"{ours}: {theirs}", "a base and a quote such as BTC/USD")
        for field, schemes in (("rest_url", ("https://", "http://")), ("ws_url", ("wss://", "ws://"))):
            if not getattr(self, field).startswith(schemes):
                raise InvalidInput(field, getattr(self, field), f"a URL that begins with {' or '.join(schemes)}")
        for field in ("mute_timeout_s", "open_timeout_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        for field in ("old_bars_max_pages", "gather_s", "refill_max_trades"):
            if not getattr(self, field) >= 0:
                raise InvalidInput(field, getattr(self, field), "a number from 0")
        for field in ("names_per_command", "refill_attempts"):
            if getattr(self, field) < 1:
                raise InvalidInput(field, getattr(self, field), "a whole number from 1")
