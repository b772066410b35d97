"""The latest quotes of OpenD, by request: snapshots, which need no subscription and have both sides of the book."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import MalformedMessage, MarketClosed, SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.futu.history import wanted_security
from marketd.sources.futu.messages import Proto, Securities, Security, Snapshot, SnapshotAnswer
from marketd.sources.futu.parse import NAME, snapshot_quote
from marketd.sources.futu.requests import Requests
from marketd.sources.futu.symbols import text_of
from marketd.sources.symbols import SymbolMap

__all__ = ["PER_REQUEST", "FutuQuotes", "snapshots"]

PER_REQUEST = 400


async def snapshots(requests: Requests, securities: Sequence[Security]) -> list[Snapshot]:
    """Of at most `PER_REQUEST`. One that OpenD does not know has all refused: SymbolNotFound."""
    what = f"snapshot of {text_of(securities[0]) if len(securities) == 1 else f'{len(securities)} securities'}"
    answer = await requests.ask(Proto.SNAPSHOT, Securities(list(securities)), SnapshotAnswer, what, "snapshot")
    return answer.rows


class FutuQuotes:
    """Implements `QuoteRequest`. requests: shared by all parts; the caller closes it."""

    def __init__(self, requests: Requests, symbols: SymbolMap, clock: Clock) -> None:
        self._requests = requests
        self._symbols = symbols
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Its time is that of the last price."""
        found = (await self.quotes([symbol]))[symbol]
        if isinstance(found, SourceError):
            raise found
        return found

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. One request for 400; more when one of them is not known."""
        found: dict[str, Quote | SourceError] = {}
        wanted: dict[Security, str] = {}
        for symbol in dict.fromkeys(symbols):
            try:
                wanted[wanted_security(self._symbols, symbol)] = symbol
            except SymbolNotFound as error:
                found[symbol] = error
        securities = list(wanted)
        for at in range(0, len(securities), PER_REQUEST):
            await self._ask(securities[at : at + PER_REQUEST], wanted, found)
        return {symbol: found[symbol] for symbol in dict.fromkeys(symbols)}

    async def _ask(
        self, securities: list[Security], symbols: Mapping[Security, str], found: dict[str, Quote | SourceError]
    ) -> None:
        """Ask, and when one is not known, without it: the one that the refusal names, else half by half."""
        try:
            rows = await snapshots(self._requests, securities)
        except SymbolNotFound as error:
            if len(securities) == 1:
                found[symbols[securities[0]]] = error
                return
            words = error.reason.replace(",", " ").split()
            named = [security for security in securities if security.code in words]
            others = [security for security in securities if security not in named]
            # a word may look like a code: who is named is asked alone
            for part in [*([security] for security in named), others] if named else _halves(securities):
                if part:
                    await self._ask(part, symbols, found)
            return
        now_ns = self._clock.time_ns()
        basics = {row.basic.security: row.basic for row in rows}
        for security in securities:
            symbol, basic = symbols[security], basics.get(security)
            if basic is None:
                found[symbol] = SymbolNotFound(NAME, f"no snapshot of {text_of(security)}")
                continue
            try:
                quote = snapshot_quote(basic, symbol, now_ns)
            except MalformedMessage as error:
                found[symbol] = error
            else:
                found[symbol] = quote or MarketClosed(NAME, f"{text_of(security)} has no price")


def _halves(securities: list[Security]) -> list[list[Security]]:
    middle = len(securities) // 2
    return [securities[:middle], securities[middle:]]
