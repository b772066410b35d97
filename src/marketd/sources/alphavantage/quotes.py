"""The latest price of Alpha Vantage, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.alphavantage.client import AlphaVantageClient
from marketd.sources.alphavantage.config import AlphaVantageConfig
from marketd.sources.alphavantage.parse import NAME, ExchangeRate, GlobalQuote, parse_quote, parse_rate
from marketd.sources.alphavantage.symbols import pair_of, session_of
from marketd.sources.one_by_one import one_by_one
from marketd.sources.symbols import SymbolMap

__all__ = ["AlphaVantageQuotes", "name_of"]


def name_of(symbols: SymbolMap, symbol: str) -> str:
    """Alpha Vantage's name of ours. Raises SymbolNotFound."""
    theirs = symbols.to_provider(symbol)
    if theirs is None:
        raise SymbolNotFound(NAME, f"{symbol[:80]!r} is no name that Alpha Vantage could have")
    return theirs


class AlphaVantageQuotes:
    """Implements `QuoteRequest`. client: its owner closes it."""

    def __init__(
        self, client: AlphaVantageClient, config: AlphaVantageConfig, symbols: SymbolMap, clock: Clock
    ) -> None:
        self._client = client
        self._config = config
        self._symbols = symbols
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Of a stock the last price and the day's volume; its day is told, not its time: the
        session's close is taken, or now if that is earlier. Of currencies and crypto bid, ask, last and their time."""
        theirs = name_of(self._symbols, symbol)
        pair = pair_of(theirs)
        divisor = self._config.price_divisors.get(symbol, 1.0)
        if pair is not None:
            params = {"from_currency": pair[0], "to_currency": pair[1]}
            sections = await self._client.ask("CURRENCY_EXCHANGE_RATE", params)
            rate = self._client.section(sections, "Realtime Currency Exchange Rate", ExchangeRate, symbol)
            return parse_rate(rate, symbol, self._clock.time_ns(), divisor)
        params = {"symbol": theirs}
        if self._config.entitlement is not None:
            params["entitlement"] = self._config.entitlement
        sections = await self._client.ask("GLOBAL_QUOTE", params)
        told = self._client.section(sections, "Global Quote", GlobalQuote, symbol)
        if told == GlobalQuote():
            raise SymbolNotFound(NAME, f"{symbol}: an empty quote, which is how Alpha Vantage says that it has none")
        return parse_quote(told, symbol, session_of(theirs), self._clock.time_ns(), divisor)

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. One request each."""
        return await one_by_one(self.quote, symbols)
