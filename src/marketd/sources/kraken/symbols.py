"""Names: ours, and Kraken's three. Pure.

| ours | stream (v2) | in a request | in its answer |
| --- | --- | --- | --- |
| `BTC-USD` | `BTC/USD` | `XBTUSD` | `XXBTZUSD` |
| `DOGE-EUR` | `DOGE/EUR` | `XDGEUR` | `XDGEUR` |
| `SOL-USD` | `SOL/USD` | `SOLUSD` | `SOLUSD` |

Kraken's name is that of the stream. Older assets have a letter before their code in answers: X for coins, Z for money.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from marketd.sources.symbols import SymbolMap

__all__ = ["answer_keys", "canonical", "from_kraken", "request_pair", "symbol_map", "to_kraken"]

_OURS = re.compile(r"([A-Z0-9.]{1,20})-([A-Z0-9]{1,10})")
_THEIRS = re.compile(r"([A-Z0-9.]{1,20})/([A-Z0-9]{1,10})")
_IN_REQUESTS = {"BTC": "XBT", "DOGE": "XDG"}


def canonical(symbol: str) -> str:
    """`BTC-USD` of `btc/usd`."""
    return symbol.strip().upper().replace("/", "-")


def to_kraken(symbol: str) -> str | None:
    """`BTC/USD` of `BTC-USD`; None for what is no pair."""
    pair = _OURS.fullmatch(symbol)
    return pair and f"{pair[1]}/{pair[2]}"


def from_kraken(name: str) -> str | None:
    """`BTC-USD` of `BTC/USD`; None for what is no pair."""
    pair = _THEIRS.fullmatch(name)
    return pair and f"{pair[1]}-{pair[2]}"


def request_pair(name: str) -> str:
    """`XBTUSD` of `BTC/USD`."""
    return "".join(_in_requests(name))


def answer_keys(name: str) -> tuple[str, ...]:
    """Every key under which an answer may speak of `BTC/USD`."""
    base, quote = _in_requests(name)
    return tuple(f"{x}{base}{z}{quote}" for x in ("", "X", "Z") for z in ("", "X", "Z"))


def _in_requests(name: str) -> tuple[str, str]:
    base, _, quote = name.partition("/")
    return _IN_REQUESTS.get(base, base), _IN_REQUESTS.get(quote, quote)


def symbol_map(table: Mapping[str, str]) -> SymbolMap:
    """table: our name to that of Kraken's stream, before the rules."""
    return SymbolMap(table, to_provider=to_kraken, from_provider=from_kraken)
