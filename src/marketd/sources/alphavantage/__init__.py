"""Alpha Vantage: stocks, currencies and crypto at the end of the day, option chains, economic series; a key is needed.
See the README beside this file.

`quotes.AlphaVantageQuotes` asks for the latest price, `history.AlphaVantageHistory` for bars,
`options.AlphaVantageOptions` for chains, `macro.AlphaVantageMacro` for series; they share one client (`client`).
`parse` understands them all. There is no stream.
"""

from __future__ import annotations

from marketd.errors import InvalidInput
from marketd.sources.alphavantage.config import AlphaVantageConfig
from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry

__all__ = ["ENTRY", "AlphaVantageConfig"]


def _build(config: AlphaVantageConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.alphavantage.client import AlphaVantageClient
    from marketd.sources.alphavantage.history import AlphaVantageHistory, capabilities
    from marketd.sources.alphavantage.macro import AlphaVantageMacro
    from marketd.sources.alphavantage.options import AlphaVantageOptions
    from marketd.sources.alphavantage.quotes import AlphaVantageQuotes
    from marketd.sources.alphavantage.symbols import symbol_map

    if not config.api_key:
        raise InvalidInput("alphavantage.api_key", None, "what the environment gives in ALPHAVANTAGE_API_KEY")
    symbols = symbol_map(config.symbol_table)
    client = AlphaVantageClient(config, deps.clock, budget=deps.budget, metrics=deps.metrics)
    return Provider(
        name=ENTRY.name,
        capabilities=capabilities(config),
        symbols=symbols,
        quotes=AlphaVantageQuotes(client, config, symbols, deps.clock),
        bars=AlphaVantageHistory(client, config, symbols, deps.clock),
        options=AlphaVantageOptions(client, config, symbols, deps.clock),
        macro=AlphaVantageMacro(client, deps.clock),
        close=client.close,
    )


ENTRY = ProviderEntry(
    name="alphavantage",
    config=AlphaVantageConfig,
    build=_build,
    secrets={"ALPHAVANTAGE_API_KEY": "api_key"},
)
"""How the Alpha Vantage provider is set up."""
