"""Names: ours and Binance's, both ways. Pure.

`BTC-USDT` ↔ `BTCUSDT`: Binance writes base and quote in one word, so reading it back needs the quotes there are. Of two
that fit the longer is meant (`BTCFDUSD` is quoted in FDUSD, not in USD). A pair that is quoted in something else, or
whose reading would be wrong, goes into `symbol_table`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from marketd.sources.symbols import SymbolMap

__all__ = ["QUOTE_ASSETS", "canonical", "from_binance", "symbol_map", "to_binance"]

_QUOTES = """
USDT FDUSD USDC TUSD BUSD USDP USDS USD1 USDE DAI UST PAX USD EUR AEUR EURI GBP AUD TRY BRL ARS JPY MXN COP CZK PLN RON
UAH ZAR RUB NGN IDR IDRT BIDR BKRW BVND VAI BTC ETH BNB SOL XRP TRX DOGE DOT
"""
QUOTE_ASSETS = frozenset(_QUOTES.split())
"""What pairs are or were quoted in."""

_LONGEST = max(map(len, QUOTE_ASSETS))
_OURS = re.compile(r"([A-Z0-9]{1,20})-([A-Z0-9]{2,10})")
_THEIRS = re.compile(r"[A-Z0-9]{3,30}")


def canonical(symbol: str) -> str:
    """`BTC-USDT` of `btc/usdt`."""
    return symbol.strip().upper().replace("/", "-")


def to_binance(symbol: str) -> str | None:
    """`BTCUSDT` of `BTC-USDT`, whatever the quote; None for what is no pair."""
    pair = _OURS.fullmatch(symbol)
    return pair and pair[1] + pair[2]


def from_binance(name: str) -> str | None:
    """`BTC-USDT` of `BTCUSDT`; None if its quote is none of `QUOTE_ASSETS`."""
    if _THEIRS.fullmatch(name) is None:
        return None
    for length in range(min(_LONGEST, len(name) - 1), 2, -1):
        if name[-length:] in QUOTE_ASSETS:
            return f"{name[:-length]}-{name[-length:]}"
    return None


def symbol_map(table: Mapping[str, str]) -> SymbolMap:
    """table: our name to Binance's, before the rules."""
    return SymbolMap(table, to_provider=to_binance, from_provider=from_binance)
