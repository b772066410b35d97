"""Alpha Vantage's economic series and commodities, by request.

A series is named by its function and what it takes, such as `CPI`, `REAL_GDP:quarterly`, `TREASURY_YIELD:daily:10year`.
What is left out is Alpha Vantage's default. To add one, add it to `SERIES`.
"""

from __future__ import annotations

from datetime import date

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import SymbolNotFound
from marketd.sources.alphavantage.client import AlphaVantageClient
from marketd.sources.alphavantage.parse import NAME, Observations, parse_observations

__all__ = ["SERIES", "AlphaVantageMacro", "params_of"]

_DAYS = ("daily", "weekly", "monthly")
_MONTHS = ("monthly", "quarterly", "annual")
_MATURITIES = ("3month", "2year", "5year", "7year", "10year", "30year")

SERIES: dict[str, dict[str, tuple[str, ...]]] = {
    "REAL_GDP": {"interval": ("annual", "quarterly")},
    "TREASURY_YIELD": {"interval": _DAYS, "maturity": _MATURITIES},
    "FEDERAL_FUNDS_RATE": {"interval": _DAYS},
    "CPI": {"interval": ("monthly", "semiannual")},
    **{name: {} for name in ("REAL_GDP_PER_CAPITA", "INFLATION", "RETAIL_SALES", "DURABLES", "UNEMPLOYMENT")},
    "NONFARM_PAYROLL": {},
    **{name: {"interval": _DAYS} for name in ("WTI", "BRENT", "NATURAL_GAS")},
    **{name: {"interval": _MONTHS} for name in ("COPPER", "ALUMINUM", "WHEAT", "CORN", "COTTON", "SUGAR", "COFFEE")},
    "ALL_COMMODITIES": {"interval": _MONTHS},
}
"""By function: the parameters it takes, and their values."""


def params_of(series: str) -> tuple[str, dict[str, str]]:
    """The function of a series, and its parameters. Raises SymbolNotFound."""
    function, *words = series.split(":")
    takes = SERIES.get(function)
    if takes is None:
        raise SymbolNotFound(NAME, f"{series[:80]!r} is none of {', '.join(SERIES)}")
    params: dict[str, str] = {}
    for word in words:
        name = next((name for name, values in takes.items() if word in values and name not in params), None)
        if name is None:
            allowed = "; ".join(f"{name}: {', '.join(values)}" for name, values in takes.items()) or "nothing"
            raise SymbolNotFound(NAME, f"{series[:80]!r}: {function} takes {allowed}")
        params[name] = word
    return function, params


class AlphaVantageMacro:
    """Implements `MacroSeries`. client: its owner closes it."""

    def __init__(self, client: AlphaVantageClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def observations(self, series: str, start: date | None = None, end: date | None = None) -> pa.Table:
        """See `MacroSeries.observations`. Alpha Vantage keeps no vintages: `as_of` is now."""
        function, params = params_of(series)
        sections = await self._client.ask(function, params)
        told = self._client.section(sections, "data", Observations, series)
        return parse_observations(told, series, start, end, self._clock.time_ns())
