"""The latest quote of Coinbase Exchange, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import MalformedMessage, SourceError
from marketd.model import Quote
from marketd.sources.coinbase.parse import NAME, RestTicker, parse_rest_ticker
from marketd.sources.coinbase.symbols import product_id
from marketd.sources.http import HttpClient
from marketd.sources.one_by_one import one_by_one

__all__ = ["CoinbaseQuotes"]


class CoinbaseQuotes:
    """Implements `QuoteRequest`. http: that of `CoinbaseHistory`, so that one rate limit holds; its owner closes it."""

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Its time is that of the last trade; sizes are not told."""
        product = product_id(symbol)
        path = f"/products/{product}/ticker"
        answer = await self._http.get_json(path, RestTicker, endpoint="ticker")
        try:
            return parse_rest_ticker(answer, product, self._clock.time_ns())
        except ValueError as error:
            raise MalformedMessage(NAME, f"GET {path}: {error}") from None

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. One request each."""
        return await one_by_one(self.quote, symbols)
