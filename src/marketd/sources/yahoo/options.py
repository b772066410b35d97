"""Yahoo's option chains, by request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.sources.symbols import SymbolMap
from marketd.sources.yahoo.client import YahooClient
from marketd.sources.yahoo.parse import NAME, Chain, ChainAnswer, expiries_of, found_chain, local_date, parse_chain

__all__ = ["YahooOptions"]


class YahooOptions:
    """Implements `OptionChains`. client: its owner closes it."""

    def __init__(self, client: YahooClient, symbols: SymbolMap, clock: Clock) -> None:
        self._client = client
        self._symbols = symbols
        self._clock = clock

    async def expiries(self, symbol: str) -> Sequence[date]:
        """See `OptionChains.expiries`. Those that have passed, which Yahoo lists for some days, are left out."""
        chain = await self._chain(symbol, None)
        return self._to_come(chain, expiries_of(chain, symbol))

    async def chain(self, symbol: str, expiry: date | None = None) -> pa.Table:
        """See `OptionChains.chain`. One request, two where the nearest expiry has passed."""
        chain = await self._chain(symbol, expiry)
        listed = expiries_of(chain, symbol)
        if expiry is None:
            expiry = next(iter(self._to_come(chain, listed)), None)
            if expiry is None:
                raise OutOfRange(NAME, f"{symbol}: all expiries that are listed have passed")
        elif expiry not in listed:
            raise OutOfRange(NAME, f"{symbol} has no expiry {expiry}")
        table = parse_chain(chain, symbol, expiry, self._clock.time_ns())
        if not table.num_rows:
            chain = await self._chain(symbol, expiry)
            table = parse_chain(chain, symbol, expiry, self._clock.time_ns())
        if not table.num_rows:
            raise OutOfRange(NAME, f"{symbol} has no contracts of the expiry {expiry}")
        return table

    def _to_come(self, chain: Chain, listed: Sequence[date]) -> list[date]:
        today = local_date(self._clock.time_ns(), chain.quote.exchange_timezone_name)
        return [expiry for expiry in listed if expiry >= today]

    async def _chain(self, symbol: str, expiry: date | None) -> Chain:
        theirs = self._symbols.to_provider(symbol)
        if theirs is None:
            raise SymbolNotFound(NAME, f"{symbol[:80]!r} is no name that Yahoo could have")
        asked = {} if expiry is None else {"date": int(np.datetime64(expiry, "s").astype(np.int64))}
        answer = await self._client.get_with_pass("/v7/finance/options", theirs, ChainAnswer, asked, "options")
        return found_chain(answer, symbol)
