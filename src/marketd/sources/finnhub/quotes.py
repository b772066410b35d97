"""The latest price of Finnhub, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.finnhub.parse import NAME, RestQuote, parse_quote
from marketd.sources.http import HttpClient
from marketd.sources.one_by_one import one_by_one
from marketd.sources.symbols import SymbolMap

__all__ = ["FinnhubQuotes", "name_of"]


def name_of(symbols: SymbolMap, symbol: str) -> str:
    """Finnhub's name of ours. Raises SymbolNotFound."""
    theirs = symbols.to_provider(symbol)
    if theirs is None:
        raise SymbolNotFound(NAME, f"{symbol[:80]!r} is no name that Finnhub could have")
    return theirs


class FinnhubQuotes:
    """Implements `QuoteRequest`. http: its owner closes it."""

    def __init__(self, http: HttpClient, symbols: SymbolMap, clock: Clock) -> None:
        self._http = http
        self._symbols = symbols
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. The last price and its time; outside the session that of the last regular trade.
        No bid, ask, sizes or volume."""
        theirs = name_of(self._symbols, symbol)
        answer = await self._http.get_json("/quote", RestQuote, {"symbol": theirs}, endpoint="quote")
        if not answer.t:
            raise SymbolNotFound(NAME, f"{symbol}: zeros, which is how Finnhub says that it has no such symbol")
        return parse_quote(answer, symbol, self._clock.time_ns())

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. One request each."""
        return await one_by_one(self.quote, symbols)
