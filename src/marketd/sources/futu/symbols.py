"""Names: ours and OpenD's, which are a market and a code, written `US.AAPL`.

| market | ours | OpenD's |
| --- | --- | --- |
| United States | `AAPL`, `BRK.B` | `US.AAPL`, `US.BRK.B` |
| Hong Kong | `0700.HK` | `HK.00700` |
| Shanghai, Shenzhen | `600519.SS`, `000001.SZ` | `SH.600519`, `SZ.000001` |
| Singapore, Japan, Malaysia | `D05.SI`, `7203.T`, `1155.KL` | `SG.D05`, `JP.7203`, `MY.1155` |
| indices | `^GSPC`, `^HSI` | by the table `INDICES` |
| options | the OCC symbol `AAPL261218C00200000` | `US.AAPL261218C200000` |

OpenD alone knows which of them exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from zoneinfo import ZoneInfo

import msgspec

from marketd.sources.futu.messages import Security
from marketd.sources.symbols import SymbolMap

__all__ = ["INDICES", "MARKETS", "Market", "occ_symbol", "security_of", "symbol_map", "text_of", "zone_of"]


class Market(msgspec.Struct, frozen=True):
    """number: Qot_Common.QotMarket."""

    number: int
    zone: str
    currency: str


MARKETS: dict[str, Market] = {
    "HK": Market(1, "Asia/Hong_Kong", "HKD"),
    "US": Market(11, "America/New_York", "USD"),
    "SH": Market(21, "Asia/Shanghai", "CNY"),
    "SZ": Market(22, "Asia/Shanghai", "CNY"),
    "SG": Market(31, "Asia/Singapore", "SGD"),
    "JP": Market(41, "Asia/Tokyo", "JPY"),
    "MY": Market(61, "Asia/Kuala_Lumpur", "MYR"),
}

INDICES: dict[str, str] = {
    "^GSPC": "US..SPX",
    "^DJI": "US..DJI",
    "^IXIC": "US..IXIC",
    "^HSI": "HK.800000",
    "^HSCE": "HK.800100",
    "^HSTECH": "HK.800700",
}
"""Ours to OpenD's, where no rule says it."""

_PREFIX = {market.number: prefix for prefix, market in MARKETS.items()}
_ZONES = {market.number: ZoneInfo(market.zone) for market in MARKETS.values()}
_OF_SUFFIX = {"HK": "HK", "SS": "SH", "SZ": "SZ", "SI": "SG", "T": "JP", "KL": "MY"}
_SUFFIX = {prefix: suffix for suffix, prefix in _OF_SUFFIX.items()}
_CODE_OF = {
    "HK": re.compile(r"[0-9]{4}|[1-9][0-9]{4,5}"),
    "SS": re.compile(r"[0-9]{6}"),
    "SZ": re.compile(r"[0-9]{6}"),
    "SI": re.compile(r"[A-Z0-9]{1,6}"),
    "T": re.compile(r"[0-9][0-9A-Z]{3}"),
    "KL": re.compile(r"[0-9]{4}[A-Z]{0,2}"),
}
_US = re.compile(r"[A-Z]{1,5}(?:\.[A-Z]{1,2})?")
_OCC = re.compile(r"([A-Z]{1,6})([0-9]{6}[CP])([0-9]{8})")
_OPTION = re.compile(r"([A-Z]{1,6})([0-9]{6}[CP])([0-9]{1,8})")


def symbol_map(table: Mapping[str, str]) -> SymbolMap:
    """table: ours → OpenD's, before the rules and `INDICES`."""
    indices = {ours: theirs for ours, theirs in INDICES.items() if theirs not in table.values()}
    return SymbolMap(indices | dict(table), to_provider=_to_provider, from_provider=_from_provider)


def _to_provider(symbol: str) -> str | None:
    base, _, suffix = symbol.rpartition(".")
    if base and suffix in _CODE_OF and (suffix != "T" or base[0].isdigit()):
        if not _CODE_OF[suffix].fullmatch(base):
            return None
        return f"{_OF_SUFFIX[suffix]}.{base.zfill(5) if suffix == 'HK' else base}"
    if option := _OCC.fullmatch(symbol):
        return f"US.{option[1]}{option[2]}{int(option[3])}"
    return f"US.{symbol}" if _US.fullmatch(symbol) else None


def _from_provider(name: str) -> str | None:
    prefix, _, code = name.partition(".")
    if prefix == "US":
        if _US.fullmatch(code):
            return code
        return occ_symbol(code)
    suffix = _SUFFIX.get(prefix)
    if suffix is None:
        return None
    if prefix == "HK":
        code = code.lstrip("0").zfill(4)
    return f"{code}.{suffix}" if _CODE_OF[suffix].fullmatch(code) else None


def occ_symbol(code: str) -> str | None:
    """`AAPL261218C00200000` of the code `AAPL261218C200000` of an American option; None for another code."""
    option = _OPTION.fullmatch(code)
    return f"{option[1]}{option[2]}{int(option[3]):08d}" if option else None


def security_of(name: str) -> Security | None:
    """`US.AAPL` as a market and a code; None if there is no such market."""
    prefix, _, code = name.partition(".")
    market = MARKETS.get(prefix)
    return Security(market.number, code) if market is not None and code else None


def text_of(security: Security) -> str:
    """`US.AAPL`; of a market that we do not know, its number."""
    return f"{_PREFIX.get(security.market, security.market)}.{security.code}"


def zone_of(market: int) -> ZoneInfo:
    """Of the times in its messages. Raises ValueError for a market that we do not know."""
    zone = _ZONES.get(market)
    if zone is None:
        raise ValueError(f"market {market} is not known")
    return zone
