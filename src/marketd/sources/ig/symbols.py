"""Names: IG's are epics such as `CS.D.EURUSD.MINI.IP`, one for each contract of an instrument.

A pair of currencies is a rule; what else has a name of ours is a table, which the configuration extends. An epic is
also taken as it stands. Which of them an account has, only IG knows: `IgQuotes.search`.
"""

from __future__ import annotations

import re

from marketd.sources.ig.config import IgConfig
from marketd.sources.symbols import SymbolMap

__all__ = ["TABLE", "symbol_map"]

TABLE = {
    "BTC-USD": "CS.D.BITCOIN.CFD.IP",
    "DE40": "IX.D.DAX.IFD.IP",
    "ETH-USD": "CS.D.ETHUSD.CFD.IP",
    "UK100": "IX.D.FTSE.CFD.IP",
    "US500": "IX.D.SPTRD.IFM.IP",
    "XAGUSD": "CS.D.CFDSILVER.BMU.IP",
    "XAUUSD": "CS.D.CFDGOLD.BMU.IP",
}
"""Cash CFDs are no indices, so they do not have the names of those."""

_CURRENCIES = frozenset(
    re.findall(
        "...",
        "AUDBRLCADCHFCNHCZKDKKEURGBPHKDHUFIDRILSINRJPYKRWMXNNOKNZDPHPPLNRONSEKSGDTHBTRYTWDUSDZAR",
    )
)

_EPIC = re.compile(r"[A-Za-z0-9_]{1,20}(?:\.[A-Za-z0-9_]{1,20}){2,5}", re.ASCII)


def symbol_map(config: IgConfig) -> SymbolMap:
    """Raises InvalidInput when two of our names are one epic."""
    pair = re.compile(rf"CS\.D\.([A-Z]{{6}})\.{config.fx_contract}\.IP", re.ASCII)

    def to_provider(symbol: str) -> str | None:
        if _is_pair(symbol):
            return f"CS.D.{symbol}.{config.fx_contract}.IP"
        return symbol if _EPIC.fullmatch(symbol) else None

    def from_provider(epic: str) -> str | None:
        found = pair.fullmatch(epic)
        if found is not None and _is_pair(found[1]):
            return found[1]
        return epic if _EPIC.fullmatch(epic) else None

    table = {**TABLE, **config.symbol_table}
    return SymbolMap(table, to_provider=to_provider, from_provider=from_provider)


def _is_pair(symbol: str) -> bool:
    return len(symbol) == 6 and symbol[:3] in _CURRENCIES and symbol[3:] in _CURRENCIES
