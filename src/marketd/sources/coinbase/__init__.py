"""Coinbase Exchange: public market data of a crypto exchange, no key needed. See the README beside this file.

`feed.CoinbaseSource` streams, `history.CoinbaseHistory` fetches bars, `quotes.CoinbaseQuotes` the latest quote, `parse`
understands them all. They are imported when the provider is built: a program that only reads its configuration needs no
HTTP or WebSocket library.
"""

from __future__ import annotations

from marketd.sources.coinbase.config import CoinbaseConfig
from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry

__all__ = ["ENTRY", "CoinbaseConfig"]


def _build(config: CoinbaseConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.coinbase.feed import CoinbaseSource
    from marketd.sources.coinbase.history import CoinbaseHistory, http_client
    from marketd.sources.coinbase.quotes import CoinbaseQuotes
    from marketd.sources.coinbase.symbols import product_or_none
    from marketd.sources.symbols import SymbolMap

    http = http_client(config, deps.clock, budget=deps.budget, metrics=deps.metrics)
    source = CoinbaseSource(config, deps.clock, deps.tap, http=http, rng=deps.rng)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=SymbolMap(to_provider=product_or_none, from_provider=product_or_none),
        stream=source,
        stream_symbols=config.symbols,
        quotes=CoinbaseQuotes(http, deps.clock),
        bars=CoinbaseHistory(http, config, deps.clock),
        venue="COINBASE",
        close=http.close,
    )


ENTRY = ProviderEntry(name="coinbase", config=CoinbaseConfig, build=_build)
