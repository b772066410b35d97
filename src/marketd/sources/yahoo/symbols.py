"""Names: ours and Yahoo's, both ways. Pure.

| ours | Yahoo's | |
| --- | --- | --- |
| `AAPL`, `VOD.L`, `0700.HK` | the same | a point and a suffix name the exchange |
| `BRK.B`, `RCI.B.TO` | `BRK-B`, `RCI-B.TO` | a share class of one letter |
| `EURUSD`, `USDJPY` | `EURUSD=X`, `JPY=X` | currencies; dollars come first unsaid |
| `BTC-USD`, `^GSPC`, `ES=F`, `AAPL261218C00150000` | the same | |

An instrument has one name of ours: Yahoo's own spelling of another (`BRK-B`, `EURUSD=X`) is none.
"""

from __future__ import annotations

import re

__all__ = ["from_yahoo", "is_around_the_clock", "is_currency", "to_yahoo"]

_CODES = """
AED ARS AUD BGN BRL CAD CHF CLP CNH CNY COP CZK DKK EGP EUR GBP HKD HUF IDR ILS INR ISK JPY KES KRW KWD KZT
MAD MXN MYR NGN NOK NZD PEN PHP PKR PLN QAR RON RUB SAR SEK SGD THB TRY TWD UAH USD VND XAG XAU XPD XPT ZAR
"""
CURRENCIES = frozenset(_CODES.split())

_EXCHANGES_OF_ONE_LETTER = "FLTV"
"""Frankfurt, London, Tokyo, Toronto Venture: after a point these are no share class."""

_NAME = re.compile(r"[A-Z0-9^][A-Z0-9.^=&_-]{0,39}")
_PAIR = re.compile(r"([A-Z]{3})([A-Z]{3})")
_YAHOO_PAIR = re.compile(r"(?:([A-Z]{3}))?([A-Z]{3})=X")
_CLASS = re.compile(r"([A-Z0-9&]+)\.([A-Z])(\.[A-Z]{1,3})?")
_YAHOO_CLASS = re.compile(r"([A-Z0-9&]+)-([A-Z])(\.[A-Z]{1,3})?")
_CRYPTO = re.compile(r"[A-Z0-9]+-[A-Z]{3,4}")


def to_yahoo(symbol: str) -> str | None:
    """Yahoo's name of ours; None for what is no name of ours."""
    if (pair := _PAIR.fullmatch(symbol)) and CURRENCIES.issuperset(pair.groups()):
        return f"{pair[2]}=X" if pair[1] == "USD" else f"{symbol}=X"
    theirs = symbol
    if (share := _CLASS.fullmatch(symbol)) and (share[3] or share[2] not in _EXCHANGES_OF_ONE_LETTER):
        theirs = f"{share[1]}-{share[2]}{share[3] or ''}"
    return theirs if from_yahoo(theirs) == symbol else None


def from_yahoo(name: str) -> str | None:
    """Our name of Yahoo's; None where ours would be read as another instrument, and for what is no name."""
    if _NAME.fullmatch(name) is None:
        return None
    if (pair := _YAHOO_PAIR.fullmatch(name)) and pair[2] in CURRENCIES and (pair[1] or "USD") in CURRENCIES:
        return (pair[1] or "USD") + pair[2]
    if share := _YAHOO_CLASS.fullmatch(name):
        if share[2] in _EXCHANGES_OF_ONE_LETTER and not share[3]:
            return None
        return f"{share[1]}.{share[2]}{share[3] or ''}"
    return name


def is_currency(name: str) -> bool:
    """Whether Yahoo's name is that of a pair of currencies."""
    return name.endswith("=X")


def is_around_the_clock(name: str) -> bool:
    """Whether what Yahoo names so never stops trading: a crypto currency."""
    return _CRYPTO.fullmatch(name) is not None
