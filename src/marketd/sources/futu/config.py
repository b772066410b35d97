from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.futu.symbols import security_of, symbol_map
from marketd.sources.reconnect import ReconnectPolicy

__all__ = ["FutuConfig", "Stream"]

Stream = Literal["basic", "book", "trades"]


class FutuConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what to stream at first. host, port: where OpenD listens, without encryption. client_id: what it shows.

    streams: what is subscribed of a symbol, each of which takes one of the account's subscriptions: last price and
    volume, best bid and ask, trades. extended_hours: also before and after the regular session of the United States, in
    trades and bars of minutes. symbol_table: ours → OpenD's (`^VIX: US..VIX`). venue: the calendar of its symbols
    unless the universe says otherwise.

    open_timeout_s: for a connection to be made and greeted. timeout_s: for an answer. attempts: at most so many for one
    answer, `retry` saying after what wait. mute_timeout_s: a connection that says nothing for so long is given up;
    OpenD answers a keep-alive every few seconds. market_state_s: how often it is asked whether symbols are traded; None
    is never. unsubscribe_after_s: OpenD refuses to end a subscription sooner. bars_per_call: at most 1000.
    message_max_bytes: a larger message ends the connection.
    """

    symbols: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 11_111
    client_id: str = "marketd"
    streams: tuple[Stream, ...] = ("basic", "book", "trades")
    extended_hours: bool = False
    symbol_table: Mapping[str, str] = {}
    venue: str | None = "XNYS"
    open_timeout_s: float = 10.0
    timeout_s: float = 10.0
    attempts: int = 3
    mute_timeout_s: float = 30.0
    market_state_s: float | None = 60.0
    unsubscribe_after_s: float = 61.0
    bars_per_call: int = 1_000
    message_max_bytes: int = 32 * 1024 * 1024
    reconnect: ReconnectPolicy = ReconnectPolicy()
    retry: ReconnectPolicy = ReconnectPolicy(delay_first_s=0.5, delay_max_s=10.0)

    def __post_init__(self) -> None:
        for ours, theirs in self.symbol_table.items():
            if security_of(theirs) is None:
                raise InvalidInput("symbol_table", f"{ours}: {theirs}", "a market and a code such as US..VIX")
        names = symbol_map(self.symbol_table)
        msgspec.structs.force_setattr(self, "symbols", tuple(dict.fromkeys(s.strip().upper() for s in self.symbols)))
        for symbol in self.symbols:
            if names.to_provider(symbol) is None:
                raise InvalidInput("symbols", symbol, "symbols such as AAPL, BRK.B, 0700.HK, or ones of symbol_table")
        if not self.host.strip():
            raise InvalidInput("host", self.host, "the name or address of the machine that OpenD runs on")
        if not 1 <= self.port <= 65_535:
            raise InvalidInput("port", self.port, "a whole number from 1 to 65535")
        if not self.streams or len(set(self.streams)) != len(self.streams):
            raise InvalidInput("streams", self.streams, "one or more of basic, book, trades, each once")
        for field in ("open_timeout_s", "timeout_s", "mute_timeout_s", "unsubscribe_after_s"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number of seconds above 0")
        if self.market_state_s is not None and not self.market_state_s >= 3.0:
            raise InvalidInput("market_state_s", self.market_state_s, "a number of seconds from 3, or null")
        if self.attempts < 1:
            raise InvalidInput("attempts", self.attempts, "a whole number from 1")
        if not 1 <= self.bars_per_call <= 1_000:
            raise InvalidInput("bars_per_call", self.bars_per_call, "a whole number from 1 to 1000")
        if self.message_max_bytes < 1_024:
            raise InvalidInput("message_max_bytes", self.message_max_bytes, "a number of bytes from 1024")
