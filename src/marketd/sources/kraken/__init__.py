"""Kraken Spot: public market data of a crypto exchange, no key needed. See the README beside this file.

`feed.KrakenSource` streams, `history.KrakenHistory` fetches bars, `quotes.KrakenQuotes` the latest quotes, `parse`
understands them all. They are imported when the provider is built: a program that only reads its configuration needs no
HTTP or WebSocket library.
"""

from __future__ import annotations

from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry
from marketd.sources.kraken.config import KrakenConfig

__all__ = ["ENTRY", "KrakenConfig"]


def _build(config: KrakenConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.kraken.feed import KrakenSource
    from marketd.sources.kraken.history import KrakenHistory
    from marketd.sources.kraken.quotes import KrakenQuotes
    from marketd.sources.kraken.requests import KrakenRequests
    from marketd.sources.kraken.symbols import symbol_map

    symbols = symbol_map(config.symbol_table)
    requests = KrakenRequests(config, deps.clock, budget=deps.budget, metrics=deps.metrics)
    source = KrakenSource(config, symbols, deps.clock, deps.tap, requests=requests, rng=deps.rng)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=KrakenQuotes(requests, symbols, deps.clock),
        bars=KrakenHistory(requests, symbols, config, deps.clock),
        venue="KRAKEN",
        close=requests.close,
    )


ENTRY = ProviderEntry(name="kraken", config=KrakenConfig, build=_build)
"""How Kraken is set up."""
