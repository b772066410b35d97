"""The latest quotes of Binance, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import MalformedMessage, SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.binance.parse import NAME, parse_quote
from marketd.sources.binance.requests import BinanceRequests
from marketd.sources.symbols import SymbolMap

__all__ = ["BinanceQuotes"]


class BinanceQuotes:
    """Implements `QuoteRequest`. requests: the caller closes it."""

    def __init__(self, requests: BinanceRequests, symbols: SymbolMap, clock: Clock) -> None:
        self._requests = requests
        self._symbols = symbols
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Book, last price and the volume of 24 hours."""
        found = (await self.quotes([symbol]))[symbol]
        if isinstance(found, SourceError):
            raise found
        return found

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. Twenty symbols a request, or one request for all of many."""
        named = {symbol: self._symbols.to_provider(symbol) for symbol in symbols}
        tickers = await self._requests.tickers([name for name in named.values() if name is not None])
        time_received_ns = self._clock.time_ns()
        found: dict[str, Quote | SourceError] = {}
        for symbol, name in named.items():
            if name is None:
                found[symbol] = SymbolNotFound(NAME, f"{symbol[:80]!r} is no pair such as BTC-USDT")
                continue
            ticker = tickers[name]
            if isinstance(ticker, SourceError):
                found[symbol] = ticker
                continue
            try:
                found[symbol] = parse_quote(ticker, symbol, time_received_ns)
            except MalformedMessage as error:
                found[symbol] = error
        return found
