"""Finnhub: US stocks live, currencies and crypto; a key is needed, and a paid one for bars. See the README beside this
file.

`feed.FinnhubSource` streams trades, `quotes.FinnhubQuotes` asks for the latest price, `history.FinnhubHistory` for
bars, `options.FinnhubOptions` for chains; requests share one client (`client`). `parse` understands them all.
"""

from __future__ import annotations

from marketd.errors import InvalidInput
from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry
from marketd.sources.finnhub.config import FinnhubConfig

__all__ = ["ENTRY", "FinnhubConfig"]


def _build(config: FinnhubConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.finnhub.client import http_client
    from marketd.sources.finnhub.feed import FinnhubSource
    from marketd.sources.finnhub.history import FinnhubHistory
    from marketd.sources.finnhub.options import FinnhubOptions
    from marketd.sources.finnhub.quotes import FinnhubQuotes
    from marketd.sources.finnhub.symbols import symbol_map

    if not config.api_key:
        raise InvalidInput("finnhub.api_key", None, "what the environment gives in FINNHUB_API_KEY")
    symbols = symbol_map(config.symbol_table)
    http = http_client(config, deps.clock, budget=deps.budget, metrics=deps.metrics)
    source = FinnhubSource(config, symbols, deps.clock, deps.tap, rng=deps.rng)
    quotes = FinnhubQuotes(http, symbols, deps.clock)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=quotes,
        bars=FinnhubHistory(http, config, symbols, quotes, deps.clock),
        options=FinnhubOptions(http, config, symbols, deps.clock),
        close=http.close,
    )


ENTRY = ProviderEntry(name="finnhub", config=FinnhubConfig, build=_build, secrets={"FINNHUB_API_KEY": "api_key"})
"""How the Finnhub provider is set up."""
