"""IG Markets: FX, indices, commodities and shares as CFDs and spread bets; an account is needed. See the README here.

`feed.IgSource` streams over TLCP (`sources.lightstreamer`), `history.IgHistory` fetches bars, `quotes.IgQuotes` the
latest quotes and searches; they share one login (`account.IgAccount`). `parse` understands them all.
"""

from __future__ import annotations

from marketd.errors import InvalidInput
from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry
from marketd.sources.ig.config import IgConfig

__all__ = ["ENTRY", "IgConfig"]


def _build(config: IgConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.ig.account import IgAccount
    from marketd.sources.ig.feed import IgSource
    from marketd.sources.ig.history import IgHistory
    from marketd.sources.ig.quotes import IgQuotes
    from marketd.sources.ig.symbols import symbol_map

    for variable, field in ENTRY.secrets.items():
        if not getattr(config, field):
            raise InvalidInput(f"ig.{field}", None, f"what the environment gives in {variable}")
    symbols = symbol_map(config)
    account = IgAccount(config, deps.clock, budget=deps.budget, metrics=deps.metrics, rng=deps.rng)
    source = IgSource(config, deps.clock, symbols, account, deps.tap, rng=deps.rng)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=IgQuotes(config, deps.clock, symbols, account),
        bars=IgHistory(config, deps.clock, symbols, account),
        venue="FX",
        close=account.close,
    )


ENTRY = ProviderEntry(
    name="ig",
    config=IgConfig,
    build=_build,
    secrets={"IG_API_KEY": "api_key", "IG_USERNAME": "username", "IG_PASSWORD": "password"},
)
"""How the IG provider is set up."""
