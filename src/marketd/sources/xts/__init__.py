"""XTS market data (Symphony), as many Indian brokers offer it: NSE, BSE and MCX. See the README beside this file.

`session.XtsSession` holds the one login, `symbols.XtsSymbols` the instruments, `feed.XtsSource` streams,
`history.XtsHistory` fetches bars, `quotes.XtsQuotes` the latest quotes, `parse` and `engineio` understand them all.
They are imported when the provider is built.
"""

from __future__ import annotations

from marketd.errors import InvalidInput
from marketd.sources.contract import Provider, ProviderDeps, ProviderEntry
from marketd.sources.xts.config import XtsConfig, XtsPace

__all__ = ["ENTRY", "XtsConfig", "XtsPace"]


def _build(config: XtsConfig, deps: ProviderDeps) -> Provider:
    from marketd.sources.xts.feed import XtsSource
    from marketd.sources.xts.history import XtsHistory
    from marketd.sources.xts.instruments import XtsInstruments
    from marketd.sources.xts.quotes import XtsQuotes
    from marketd.sources.xts.session import XtsSession

    for field, variable in (("app_key", "XTS_APP_KEY"), ("secret_key", "XTS_SECRET_KEY")):
        if not getattr(config, field):
            raise InvalidInput(field, None, f"the key of the broker's dashboard, by {variable} or the configuration")
    session = XtsSession(config, deps.clock, budget=deps.budget, metrics=deps.metrics, rng=deps.rng)
    instruments = XtsInstruments(session, config, deps.clock)
    source = XtsSource(config, deps.clock, session, instruments, deps.tap, rng=deps.rng)
    return Provider(
        name=ENTRY.name,
        capabilities=source.capabilities,
        symbols=instruments.symbols,
        stream=source,
        stream_symbols=config.symbols,
        quotes=XtsQuotes(session, instruments, config, deps.clock),
        bars=XtsHistory(session, instruments, config, deps.clock),
        venue="XNSE",
        close=session.close,
    )


ENTRY = ProviderEntry(
    name="xts",
    config=XtsConfig,
    build=_build,
    secrets={"XTS_APP_KEY": "app_key", "XTS_SECRET_KEY": "secret_key"},
)
