"""Yahoo Finance: stocks, funds, indices, currencies and crypto of the whole world, unofficially and without a key. See
the README beside this file.

`feed.YahooSource` streams, `history.YahooHistory` fetches bars, splits and dividends, `quotes.YahooQuotes` the latest
quotes, `options.YahooOptions` chains; `parse` and `pricing` understand them all, `client` makes the requests. They are
imported when the provider is built: a program that only reads its configuration needs no HTTP or WebSocket library.
"""

from __future__ import annotations

from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry
from marketd.sources.yahoo.config import YahooConfig

__all__ = ["ENTRY", "YahooConfig"]


def _build(config: YahooConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.symbols import SymbolMap
    from marketd.sources.yahoo.client import YahooClient
    from marketd.sources.yahoo.feed import YahooSource
    from marketd.sources.yahoo.history import YahooHistory
    from marketd.sources.yahoo.options import YahooOptions
    from marketd.sources.yahoo.quotes import YahooQuotes
    from marketd.sources.yahoo.symbols import from_yahoo, to_yahoo

    symbols = SymbolMap(config.symbol_table, to_provider=to_yahoo, from_provider=from_yahoo)
    client = YahooClient(config, deps.clock, budget=deps.budget, metrics=deps.metrics)
    source = YahooSource(config, symbols, deps.clock, deps.tap, rng=deps.rng)
    history = YahooHistory(client, symbols, deps.clock)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=YahooQuotes(client, symbols, deps.clock),
        bars=history,
        options=YahooOptions(client, symbols, deps.clock),
        actions=history,
        close=client.close,
    )


ENTRY = ProviderEntry(
    name="yahoo",
    config=YahooConfig,
    build=_build,
    aliases=("yfinance",),
    secrets={"YAHOO_COOKIE": "cookie"},
    extra="yahoo",
)
"""How Yahoo is set up."""
