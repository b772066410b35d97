"""FRED and ALFRED: economic series of the Federal Reserve Bank of St. Louis, every vintage. See the README beside this
file.

`series.FredSeries` asks, `parse` understands and joins vintages, `symbols` has the names. They are imported when the
provider is built.
"""

from __future__ import annotations

from marketd.errors import InvalidInput
from marketd.sources.contract import Capabilities, Limit, Provider, ProviderDeps, ProviderEntry
from marketd.sources.fred.config import FredConfig

__all__ = ["ENTRY", "FredConfig"]

_CAPABILITIES = Capabilities(macro=True, time_zone="America/Chicago", limits=(Limit(count=120, seconds=60.0),))


def _build(config: FredConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.fred.series import FredSeries, http_client
    from marketd.sources.fred.symbols import series_id
    from marketd.sources.symbols import SymbolMap

    if config.api_key is None:
        raise InvalidInput("api_key", None, "the key of a FRED account, by FRED_API_KEY or the configuration")
    http = http_client(config, deps.clock, budget=deps.budget, metrics=deps.metrics, rng=deps.rng)
    return Provider(
        name=ENTRY.name,
        capabilities=_CAPABILITIES,
        symbols=SymbolMap(to_provider=series_id, from_provider=series_id),
        macro=FredSeries(http, config, deps.clock),
        close=http.close,
    )


ENTRY = ProviderEntry(
    name="fred", config=FredConfig, build=_build, aliases=("alfred",), secrets={"FRED_API_KEY": "api_key"}
)
