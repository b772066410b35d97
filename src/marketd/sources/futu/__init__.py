"""Futu OpenD: the gateway of a broker for Hong Kong, the United States, China, Singapore, Japan. See the README beside
this file.

`feed.FutuSource` streams, `quotes`, `history` and `options` ask, `parse` understands them all; `protobuf`, `frame` and
`connection` are the way bytes travel. They are imported when the provider is built.
"""

from __future__ import annotations

from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry
from marketd.sources.futu.config import FutuConfig

__all__ = ["ENTRY", "FutuConfig"]


def _build(config: FutuConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.futu.feed import FutuSource
    from marketd.sources.futu.history import FutuHistory
    from marketd.sources.futu.options import FutuOptions
    from marketd.sources.futu.quotes import FutuQuotes
    from marketd.sources.futu.requests import Requests
    from marketd.sources.futu.symbols import symbol_map

    symbols = symbol_map(config.symbol_table)
    requests = Requests(config, deps.clock, budget=deps.budget, metrics=deps.metrics, rng=deps.rng)
    source = FutuSource(config, deps.clock, deps.tap, symbols=symbols, rng=deps.rng)
    history = FutuHistory(requests, config, symbols, deps.clock)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=FutuQuotes(requests, symbols, deps.clock),
        bars=history,
        options=FutuOptions(requests, symbols, deps.clock),
        actions=history,
        venue=config.venue,
        close=requests.close,
    )


ENTRY = ProviderEntry(name="futu", config=FutuConfig, build=_build)
"""How the Futu provider is set up. It has no secrets: OpenD holds the login."""
