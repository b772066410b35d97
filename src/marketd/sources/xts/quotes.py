"""The latest quotes of XTS, by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from marketd.clock import Clock
from marketd.errors import MalformedMessage, MarketClosed, SourceError, SymbolNotFound
from marketd.model import Quote
from marketd.sources.xts.config import XtsConfig
from marketd.sources.xts.instruments import XtsInstruments
from marketd.sources.xts.parse import NAME, Quotes, Touch, quote_of, read_touch
from marketd.sources.xts.session import XtsSession
from marketd.sources.xts.symbols import Instrument, Key

__all__ = ["PER_REQUEST", "XtsQuotes", "latest"]

PER_REQUEST = 50


class XtsQuotes:
    """Implements `QuoteRequest`."""

    def __init__(self, session: XtsSession, instruments: XtsInstruments, config: XtsConfig, clock: Clock) -> None:
        self._session = session
        self._instruments = instruments
        self._config = config
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`."""
        found = (await self.quotes([symbol]))[symbol]
        if isinstance(found, SourceError):
            raise found
        return found

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`. Fifty a request."""
        instruments = await self._instruments.find(dict.fromkeys(symbols))
        keys = list(dict.fromkeys(found.key for found in instruments.values() if found is not None))
        texts: list[str] = []
        for first in range(0, len(keys), PER_REQUEST):
            texts += await latest(self._session, keys[first : first + PER_REQUEST])
        time_received_ns = self._clock.time_ns()
        touches: dict[Key, Touch] = {}
        for text in texts:
            try:
                touch = read_touch(text)
            except (ValueError, RecursionError) as error:
                raise MalformedMessage(NAME, f"POST quotes: {error}", text) from None
            touches[touch.key] = touch
        return {
            symbol: self._quote(symbol, instrument, touches, time_received_ns)
            for symbol, instrument in instruments.items()
        }

    def _quote(
        self, symbol: str, instrument: Instrument | None, touches: Mapping[Key, Touch], time_received_ns: int
    ) -> Quote | SourceError:
        if instrument is None:
            return SymbolNotFound(NAME, f"{symbol} is not in the master")
        touch = touches.get(instrument.key)
        try:
            quote = quote_of(touch, symbol, time_received_ns, self._config.times) if touch is not None else None
        except ValueError as error:
            return MalformedMessage(NAME, f"{symbol}: {error}")
        if quote is None:
            return MarketClosed(NAME, f"{symbol}: no price yet")
        ahead_s = (quote.time_event_ns - time_received_ns) / 1e9
        if ahead_s > self._config.future_max_s:
            return MalformedMessage(NAME, f"{symbol}: a quote dated {ahead_s:.0f} s ahead; is `times` right?")
        return quote


async def latest(session: XtsSession, keys: Sequence[Key]) -> list[str]:
    """The messages 1501 of instruments, of at most `PER_REQUEST`; those that have none yet are absent."""
    body = {"instruments": instruments_of(keys), "xtsMessageCode": 1501, "publishFormat": "JSON"}
    answer = await session.call("POST", "/instruments/quotes", Quotes, endpoint="quotes", json=body)
    return answer.quotes


def instruments_of(keys: Sequence[Key]) -> list[dict[str, int]]:
    """As requests name them."""
    return [{"exchangeSegment": segment, "exchangeInstrumentID": number} for segment, number in keys]
