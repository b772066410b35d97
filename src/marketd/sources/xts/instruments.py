"""The instruments master, fetched once a day: what a name of ours is at XTS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import SymbolNotFound
from marketd.model.time import NS_PER_S
from marketd.sources.xts.config import XtsConfig
from marketd.sources.xts.parse import IST_NS, NAME, IndexList, parse_index_list, parse_master
from marketd.sources.xts.session import Refused, XtsSession
from marketd.sources.xts.symbols import CASH, SEGMENTS, Instrument, XtsSymbols

__all__ = ["XtsInstruments"]

_DAY_NS = 86_400 * NS_PER_S


class XtsInstruments:
    """symbols: the table, which grows when the master is fetched."""

    def __init__(self, session: XtsSession, config: XtsConfig, clock: Clock) -> None:
        self.symbols = XtsSymbols(config.symbol_table, config.segments)
        self._session = session
        self._segments = config.segments
        self._clock = clock
        self._lock = asyncio.Lock()
        self._day: int | None = None

    async def find(self, symbols: Iterable[str]) -> dict[str, Instrument | None]:
        """The instrument of each symbol, None for one that XTS does not have.

        Fetches the master if a symbol is not known and it was not fetched since midnight in India. Raises what
        `XtsSession.call` raises.
        """
        found = {symbol: self.symbols.find(symbol) for symbol in symbols}
        if None in found.values() and self._day != self._today():
            await self.load()
            found = {symbol: self.symbols.find(symbol) for symbol in found}
        return found

    async def one(self, symbol: str) -> Instrument:
        """The instrument of a symbol. Raises SymbolNotFound, and what `find` raises."""
        instrument = (await self.find([symbol]))[symbol]
        if instrument is None:
            raise SymbolNotFound(NAME, f"{symbol} is not in the master of {', '.join(self._segments)}")
        return instrument

    async def load(self) -> None:
        """Fetch the master and the lists of indices, unless another task does so now."""
        asked = self._today()
        async with self._lock:
            if self._day == asked:
                return
            body = {"exchangeSegmentList": list(self._segments)}
            text = await self._session.call("POST", "/instruments/master", str, endpoint="master", json=body)
            indices = [await self._indices(segment) for segment in self._segments if segment in CASH]
            # of all segments it is 20 MB: quotes go on meanwhile
            await asyncio.to_thread(self._take, text, indices)
            self._day = asked

    def _take(self, text: str, indices: Sequence[pa.Table]) -> None:
        self.symbols.load(pa.concat_tables([parse_master(text), *indices]))

    async def _indices(self, segment: str) -> pa.Table:
        params = {"exchangeSegment": SEGMENTS[segment]}
        try:
            names = await self._session.call(
                "GET", "/instruments/indexlist", IndexList, endpoint="master", params=params
            )
        except Refused:  # some brokers have no list; their indices go by number
            return parse_index_list([], segment)
        return parse_index_list(names.indices, segment)

    def _today(self) -> int:
        return (self._clock.time_ns() + IST_NS) // _DAY_NS
