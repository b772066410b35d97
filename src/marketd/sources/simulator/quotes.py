"""The simulator's latest quotes, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.errors import SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.simulator.history import SimulatorHistory

__all__ = ["SimulatorQuotes"]


class SimulatorQuotes:
    """Implements `QuoteRequest`: what the stream said last, or would have said of a symbol that was not streamed."""

    def __init__(self, history: SimulatorHistory) -> None:
        self._history = history

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. A symbol that is streamed no longer stands still at its last tick. `volume` is told
        of streamed symbols only."""
        return await self._history.last(symbol)

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`."""
        found: dict[str, Quote | SourceError] = {}
        for symbol in symbols:
            try:
                found[symbol] = await self._history.last(symbol)
            except SymbolNotFound as error:
                found[symbol] = error
        return found
