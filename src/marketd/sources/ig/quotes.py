"""The latest quotes of IG by request, and the search for what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import MalformedMessage, MarketClosed, SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.ig.account import IgAccount
from marketd.sources.ig.config import IgConfig
from marketd.sources.ig.parse import NAME, FoundMarket, MarketAnswer, MarketsAnswer, SearchAnswer, parse_snapshot
from marketd.sources.one_by_one import one_by_one
from marketd.sources.symbols import SymbolMap

__all__ = ["AT_ONCE", "IgQuotes"]

AT_ONCE = 50
"""Epics that one request may name."""


class IgQuotes:
    """Implements `QuoteRequest`."""

    def __init__(self, config: IgConfig, clock: Clock, symbols: SymbolMap, account: IgAccount) -> None:
        self._config = config
        self._clock = clock
        self._symbols = symbols
        self._account = account

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Its time is to the second, of the account's local time of day."""
        epic = self._epic(symbol)
        answer = await self._account.get(f"/markets/{epic}", MarketAnswer, version=3, endpoint="market")
        return await self._read(answer, symbol)

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. Fifty a request; where one epic has the whole request refused, one by one."""
        found: dict[str, Quote | SourceError] = {}
        wanted = [symbol for symbol in dict.fromkeys(symbols) if self._symbols.to_provider(symbol) is not None]
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            try:
                found |= await self._some(some)
            except SymbolNotFound as error:
                found |= await one_by_one(self.quote, some) if len(some) > 1 else {some[0]: error}
        nowhere = SymbolNotFound(NAME, "has no epic of this name")
        return {symbol: found.get(symbol, nowhere) for symbol in dict.fromkeys(symbols)}

    async def search(self, term: str) -> Sequence[tuple[str, FoundMarket]]:
        """What IG has for a few words: our name of each, and IG's."""
        answer = await self._account.get("/markets", SearchAnswer, {"searchTerm": term}, version=1, endpoint="search")
        return [(self._symbols.from_provider(market.epic) or market.epic, market) for market in answer.markets]

    async def _some(self, symbols: Sequence[str]) -> dict[str, Quote | SourceError]:
        epics = {symbol: self._epic(symbol) for symbol in symbols}
        params = {"epics": ",".join(dict.fromkeys(epics.values())), "filter": "SNAPSHOT_ONLY"}
        answer = await self._account.get("/markets", MarketsAnswer, params, version=2, endpoint="markets")
        by_epic = {market.instrument.epic: market for market in answer.market_details}
        found: dict[str, Quote | SourceError] = {}
        for symbol, epic in epics.items():
            if epic not in by_epic:
                found[symbol] = SymbolNotFound(NAME, f"{symbol}: {epic} is not in the answer")
                continue
            try:
                found[symbol] = await self._read(by_epic[epic], symbol)
            except (MarketClosed, MalformedMessage) as error:
                found[symbol] = error
        return found

    def _epic(self, symbol: str) -> str:
        epic = self._symbols.to_provider(symbol)
        if epic is None:
            raise SymbolNotFound(NAME, f"{symbol}: no epic is known; set it in symbol_table")
        return epic

    async def _read(self, answer: MarketAnswer, symbol: str) -> Quote:
        tokens = await self._account.tokens()
        return parse_snapshot(
            answer.snapshot,
            symbol,
            self._clock.time_ns(),
            offset_hours=tokens.timezone_offset,
            divisor=self._config.price_divisors.get(symbol, 1.0),
        )
