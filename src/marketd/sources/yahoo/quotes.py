"""Yahoo's latest quotes, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.symbols import SymbolMap
from marketd.sources.yahoo.client import YahooClient
from marketd.sources.yahoo.parse import NAME, QuoteAnswer, found_quotes, parse_quote

__all__ = ["QUOTES_PER_REQUEST", "YahooQuotes"]

QUOTES_PER_REQUEST = 50
"""Yahoo names no limit; the length of an address has one."""


class YahooQuotes:
    """Implements `QuoteRequest`. client: its owner closes it."""

    def __init__(self, client: YahooClient, symbols: SymbolMap, clock: Clock) -> None:
        self._client = client
        self._symbols = symbols
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Its time is that of the last trade, before, in or after hours, in seconds."""
        found = (await self.quotes([symbol]))[symbol]
        if isinstance(found, SourceError):
            raise found
        return found

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. Fifty in a request."""
        found: dict[str, Quote | SourceError] = {}
        theirs: dict[str, str] = {}
        for symbol in dict.fromkeys(symbols):
            found[symbol] = SymbolNotFound(NAME, f"has no {symbol[:80]}")
            name = self._symbols.to_provider(symbol)
            if name is not None:
                theirs[name] = symbol
        names = list(theirs)
        for at in range(0, len(names), QUOTES_PER_REQUEST):
            found |= await self._ask({name: theirs[name] for name in names[at : at + QUOTES_PER_REQUEST]})
        return found

    async def _ask(self, theirs: Mapping[str, str]) -> dict[str, Quote | SourceError]:
        """theirs: Yahoo's names and ours. Symbols that Yahoo leaves out are left out."""
        asked = {"symbols": ",".join(theirs)}
        answer = await self._client.get_with_pass("/v7/finance/quote", None, QuoteAnswer, asked, "quote")
        rows = found_quotes(answer)
        now_ns = self._clock.time_ns()
        found: dict[str, Quote | SourceError] = {}
        for row in rows:
            # Yahoo may answer under another spelling than it was asked by: JPY=X for USDJPY=X
            symbol = theirs.get(row.symbol) or self._symbols.from_provider(row.symbol)
            if symbol is None or symbol not in theirs.values():
                continue
            try:
                found[symbol] = parse_quote(row, symbol, now_ns)
            except SymbolNotFound as error:
                found[symbol] = error
        return found
