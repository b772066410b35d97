"""The latest quotes of Kraken, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from marketd.clock import Clock
from marketd.errors import MalformedMessage, SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.kraken.parse import NAME, parse_rest_ticker
from marketd.sources.kraken.requests import KrakenRequests
from marketd.sources.kraken.symbols import answer_keys
from marketd.sources.symbols import SymbolMap

__all__ = ["QUOTES_PER_REQUEST", "KrakenQuotes"]

QUOTES_PER_REQUEST = 50


class KrakenQuotes:
    """Implements `QuoteRequest`. requests: the caller closes it."""

    def __init__(self, requests: KrakenRequests, symbols: SymbolMap, clock: Clock) -> None:
        self._requests = requests
        self._symbols = symbols
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. The exchange tells no time: that of the receipt stands for it."""
        found = (await self.quotes([symbol]))[symbol]
        if isinstance(found, SourceError):
            raise found
        return found

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. Fifty symbols a request."""
        named = {symbol: self._symbols.to_provider(symbol) for symbol in symbols}
        names = [name for name in named.values() if name is not None]
        rows: dict[str, msgspec.Raw | SymbolNotFound] = {}
        for first in range(0, len(names), QUOTES_PER_REQUEST):
            rows |= await self._rows(names[first : first + QUOTES_PER_REQUEST])
        time_received_ns = self._clock.time_ns()
        found: dict[str, Quote | SourceError] = {}
        for symbol, name in named.items():
            row = SymbolNotFound(NAME, f"{symbol[:80]!r} is no pair such as BTC-USD") if name is None else rows[name]
            if isinstance(row, SymbolNotFound):
                found[symbol] = row
                continue
            try:
                found[symbol] = parse_rest_ticker(row, symbol, time_received_ns)
            except MalformedMessage as error:
                found[symbol] = error
        return found

    async def _rows(self, names: list[str]) -> dict[str, msgspec.Raw | SymbolNotFound]:
        try:
            answer = await self._requests.tickers(names)
        except SymbolNotFound as error:
            if len(names) == 1:
                return {names[0]: error}
            # one bad name refuses all, and the answer does not say which
            half = len(names) // 2
            return await self._rows(names[:half]) | await self._rows(names[half:])
        if len(names) == len(answer) == 1:
            return {names[0]: next(iter(answer.values()))}
        found: dict[str, msgspec.Raw | SymbolNotFound] = {}
        for name in names:
            row = next((answer[key] for key in answer_keys(name) if key in answer), None)
            found[name] = SymbolNotFound(NAME, f"{name} is not in the answer") if row is None else row
        return found
