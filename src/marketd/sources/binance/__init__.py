"""Binance Spot: public market data of a crypto exchange, no key needed. See the README beside this file.

`feed.BinanceSource` streams, `history.BinanceHistory` fetches bars, `quotes.BinanceQuotes` the latest quotes, `parse`
understands them all. They are imported when the provider is built: a program that only reads its configuration needs no
HTTP or WebSocket library.
"""

from __future__ import annotations

from marketd.sources.binance.config import BinanceConfig
from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry

__all__ = ["ENTRY", "BinanceConfig"]


def _build(config: BinanceConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.binance.feed import BinanceSource
    from marketd.sources.binance.history import BinanceHistory
    from marketd.sources.binance.quotes import BinanceQuotes
    from marketd.sources.binance.requests import BinanceRequests
    from marketd.sources.binance.symbols import symbol_map

    symbols = symbol_map(config.symbol_table)
    requests = BinanceRequests(config, deps.clock, budget=deps.budget, metrics=deps.metrics)
    source = BinanceSource(config, symbols, deps.clock, deps.tap, requests=requests, rng=deps.rng)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=BinanceQuotes(requests, symbols, deps.clock),
        bars=BinanceHistory(requests, symbols, config, deps.clock),
        venue="BINANCE",
        close=requests.close,
    )


ENTRY = ProviderEntry(name="binance", config=BinanceConfig, build=_build)
"""How Binance is set up."""
