"""Names: ours and Finnhub's, both ways. Pure.

| ours | Finnhub's | |
| --- | --- | --- |
| `AAPL`, `BRK.B`, `0700.HK`, `^GSPC` | the same | |
| `EURUSD` | `OANDA:EUR_USD` | currencies |
| `BTC-USDT` | `BINANCE:BTCUSDT` | crypto against USDT |
| `BTC-USD`, `ETH-EUR` | `COINBASE:BTC-USD`, … | crypto against money |

London (`VOD.L`) is left to the configured table: its prices are in pence, and nothing in an answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from marketd.sources.symbols import SymbolMap

__all__ = ["from_finnhub", "market_of", "symbol_map", "to_finnhub"]

_CODES = """
AUD CAD CHF CNH CZK DKK EUR GBP HKD HUF INR JPY MXN NOK NZD PLN SAR SEK SGD THB TRY TWD USD XAG XAU XPD XPT ZAR
"""
_CURRENCIES = frozenset(_CODES.split())

_STOCK = re.compile(r"\^?[A-Z0-9]{1,15}(?:\.[A-Z]{1,4}){0,2}", re.ASCII)
_PAIR = re.compile(r"([A-Z]{3})([A-Z]{3})", re.ASCII)
_CRYPTO = re.compile(r"([A-Z0-9]{1,15})-(USDT|USD|EUR|GBP)", re.ASCII)
_THEIR_PAIR = re.compile(r"OANDA:([A-Z]{3})_([A-Z]{3})", re.ASCII)
_THEIR_CRYPTO = re.compile(r"BINANCE:([A-Z0-9]{1,15})USDT|COINBASE:([A-Z0-9]{1,15}-(?:USD|EUR|GBP))", re.ASCII)

_FOREX = frozenset({"OANDA", "FXCM", "FOREX.COM", "FXPRO", "FXPIG", "FOREX", "IC MARKETS", "PEPPERSTONE", "ICM"})


def to_finnhub(symbol: str) -> str | None:
    """Finnhub's name of ours; None for what is no name of ours."""
    if (pair := _PAIR.fullmatch(symbol)) and _CURRENCIES.issuperset(pair.groups()):
        return f"OANDA:{pair[1]}_{pair[2]}"
    if crypto := _CRYPTO.fullmatch(symbol):
        return f"BINANCE:{crypto[1]}USDT" if crypto[2] == "USDT" else f"COINBASE:{symbol}"
    return symbol if _STOCK.fullmatch(symbol) and not symbol.endswith(".L") else None


def from_finnhub(name: str) -> str | None:
    """Our name of Finnhub's; None for what no rule of `to_finnhub` gives."""
    ours = name
    if pair := _THEIR_PAIR.fullmatch(name):
        ours = pair[1] + pair[2]
    elif crypto := _THEIR_CRYPTO.fullmatch(name):
        ours = crypto[2] or f"{crypto[1]}-USDT"
    return ours if to_finnhub(ours) == name else None


def symbol_map(table: Mapping[str, str]) -> SymbolMap:
    """The rules, and before them the configured table."""
    return SymbolMap(table, to_provider=to_finnhub, from_provider=from_finnhub)


def market_of(name: str) -> Literal["stock", "forex", "crypto"]:
    """Which of Finnhub's candle paths has what it names so."""
    exchange, colon, _ = name.partition(":")
    if not colon:
        return "stock"
    return "forex" if exchange in _FOREX else "crypto"
