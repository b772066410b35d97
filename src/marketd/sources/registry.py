"""Which providers there are: those of this package and those that other packages bring.

A package adds one by an entry point of the group `marketd.sources` whose value is a `ProviderEntry`:

    [project.entry-points."marketd.sources"]
    acme = "acme_marketd:ENTRY"

Nothing is imported before it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from marketd.errors import InvalidInput
from marketd.sources.contract import ProviderEntry

__all__ = ["BUILT_IN", "GROUP", "provider_entry", "provider_names"]

GROUP = "marketd.sources"

BUILT_IN = ("alphavantage", "binance", "coinbase", "finnhub", "fred", "futu", "ig", "kraken", "xts", "yahoo")
"""Those of this package: each a folder beside this file."""
_ALIASES = {"alfred": "fred", "yfinance": "yahoo"}


@cache
def _brought() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def provider_names() -> tuple[str, ...]:
    """Names of all providers: ours, then those that other packages bring, sorted."""
    return (*BUILT_IN, *sorted(_brought()))


def provider_entry(name: str) -> ProviderEntry:
    """The entry of a name or an alias. Raises InvalidInput for one that is not known, or whose package is broken."""
    name = _ALIASES.get(name, name)
    if name in BUILT_IN:
        entry = import_module(f"marketd.sources.{name}").ENTRY
    elif name in _brought():
        entry = _brought()[name].load()
    else:
        raise InvalidInput("provider", name, f"one of {', '.join(provider_names())}")
    if not isinstance(entry, ProviderEntry) or entry.name != name:
        raise InvalidInput("provider", name, f"an entry point of {GROUP} that is a ProviderEntry of this name")
    return entry
