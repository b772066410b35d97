"""Names: ours and Alpha Vantage's, both ways. Pure.

| ours | Alpha Vantage's | |
| --- | --- | --- |
| `IBM` | the same | |
| `BRK.B` | `BRK-B` | a share class of one letter |
| `SHOP.TO`, `SAP.DE`, `600104.SS` | `SHOP.TRT`, `SAP.DEX`, `600104.SHH` | the exchanges of `_EXCHANGES` |
| `EURUSD`, `BTC-USD` | `EUR/USD`, `BTC/USD` | two parameters of a request, written here as one name |

London (`VOD.L`) is left to the configured table: its prices are in pence, and nothing in an answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time
from typing import NamedTuple
from zoneinfo import ZoneInfo

from marketd.sources.symbols import SymbolMap

__all__ = ["Session", "from_alphavantage", "is_crypto", "pair_of", "session_of", "symbol_map", "to_alphavantage"]

_CODES = """
AED ARS AUD BRL CAD CHF CLP CNH CNY COP CZK DKK EUR GBP HKD HUF IDR ILS INR JPY KRW MXN MYR NOK NZD PEN PHP PLN RON
RUB SAR SEK SGD THB TRY TWD USD VND XAG XAU ZAR
"""
_CURRENCIES = frozenset(_CODES.split())


class Session(NamedTuple):
    """Where an exchange is, and when its ordinary day of trade ends there."""

    zone: ZoneInfo
    close: time


_EXCHANGES: dict[str, tuple[str, Session]] = {
    "TO": ("TRT", Session(ZoneInfo("America/Toronto"), time(16))),
    "V": ("TRV", Session(ZoneInfo("America/Toronto"), time(16))),
    "DE": ("DEX", Session(ZoneInfo("Europe/Berlin"), time(17, 30))),
    "F": ("FRK", Session(ZoneInfo("Europe/Berlin"), time(20))),
    "PA": ("PAR", Session(ZoneInfo("Europe/Paris"), time(17, 30))),
    "AS": ("AMS", Session(ZoneInfo("Europe/Amsterdam"), time(17, 30))),
    "BO": ("BSE", Session(ZoneInfo("Asia/Kolkata"), time(15, 30))),
    "SS": ("SHH", Session(ZoneInfo("Asia/Shanghai"), time(15))),
    "SZ": ("SHZ", Session(ZoneInfo("Asia/Shanghai"), time(15))),
}
"""Our suffix → Alpha Vantage's, and the session."""
_OURS = {theirs: ours for ours, (theirs, _) in _EXCHANGES.items()}
_SESSIONS = dict(_EXCHANGES.values()) | {"LON": Session(ZoneInfo("Europe/London"), time(16, 30))}
_NEW_YORK = Session(ZoneInfo("America/New_York"), time(16))

_NOT_A_CLASS = "FLTV"
"""After a point these are exchanges."""

_STOCK = re.compile(r"([A-Z0-9]{1,12})(?:\.([A-Z]{1,4}))?", re.ASCII)
_THEIR_STOCK = re.compile(r"([A-Z0-9]{1,12})(?:-([A-Z])|\.([A-Z]{3}))?", re.ASCII)
_PAIR = re.compile(r"([A-Z]{3})([A-Z]{3})", re.ASCII)
_CRYPTO = re.compile(r"([A-Z0-9]{2,10})-(USD|EUR|GBP|JPY|CNY)", re.ASCII)
_THEIR_PAIR = re.compile(r"([A-Z0-9]{2,10})/([A-Z]{3})", re.ASCII)


def to_alphavantage(symbol: str) -> str | None:
    """Alpha Vantage's name of ours; None for what is no name of ours."""
    if (pair := _PAIR.fullmatch(symbol)) and _CURRENCIES.issuperset(pair.groups()):
        return f"{pair[1]}/{pair[2]}"
    if crypto := _CRYPTO.fullmatch(symbol):
        return None if crypto[1] in _CURRENCIES else f"{crypto[1]}/{crypto[2]}"
    stock = _STOCK.fullmatch(symbol)
    if stock is None:
        return None
    base, suffix = stock.groups()
    if suffix is None:
        return base
    if suffix in _EXCHANGES:
        return f"{base}.{_EXCHANGES[suffix][0]}"
    return f"{base}-{suffix}" if len(suffix) == 1 and suffix not in _NOT_A_CLASS else None


def from_alphavantage(name: str) -> str | None:
    """Our name of Alpha Vantage's; None for what no rule of `to_alphavantage` gives."""
    ours: str | None = None
    if pair := _THEIR_PAIR.fullmatch(name):
        ours = pair[1] + pair[2] if pair[1] in _CURRENCIES else f"{pair[1]}-{pair[2]}"
    elif stock := _THEIR_STOCK.fullmatch(name):
        base, share_class, exchange = stock.groups()
        suffix = share_class if exchange is None else _OURS.get(exchange, "?")
        ours = base if suffix is None else f"{base}.{suffix}"
    return ours if ours is not None and to_alphavantage(ours) == name else None


def symbol_map(table: Mapping[str, str]) -> SymbolMap:
    """The rules, and before them the configured table."""
    return SymbolMap(table, to_provider=to_alphavantage, from_provider=from_alphavantage)


def pair_of(name: str) -> tuple[str, str] | None:
    """Both parts of Alpha Vantage's name of currencies or crypto; None of a stock's."""
    base, slash, quote = name.partition("/")
    return (base, quote) if slash else None


def is_crypto(pair: tuple[str, str]) -> bool:
    return pair[0] not in _CURRENCIES


def session_of(name: str) -> Session:
    """Of a stock, by the end of Alpha Vantage's name; New York where it says nothing."""
    return _SESSIONS.get(name.rpartition(".")[2], _NEW_YORK)
