"""Finnhub's option chains, by request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model.time import NS_PER_S
from marketd.sources.finnhub.config import FinnhubConfig
from marketd.sources.finnhub.parse import NAME, ChainAnswer, parse_chain
from marketd.sources.finnhub.quotes import name_of
from marketd.sources.http import HttpClient
from marketd.sources.symbols import SymbolMap

__all__ = ["FinnhubOptions"]

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FinnhubOptions:
    """Implements `OptionChains`. One answer has all expiries. http: its owner closes it."""

    def __init__(self, http: HttpClient, config: FinnhubConfig, symbols: SymbolMap, clock: Clock) -> None:
        self._http = http
        self._scale = 0.01 if config.implied_volatility == "percent" else 1.0
        self._symbols = symbols
        self._clock = clock

    async def expiries(self, symbol: str) -> Sequence[date]:
        """See `OptionChains.expiries`. Those that have passed in New York are left out."""
        return self._to_come(await self._answer(symbol))

    async def chain(self, symbol: str, expiry: date | None = None) -> pa.Table:
        """See `OptionChains.chain`."""
        answer = await self._answer(symbol)
        if expiry is None:
            expiry = next(iter(self._to_come(answer)), None)
            if expiry is None:
                raise OutOfRange(NAME, f"{symbol}: all expiries that are listed have passed")
        table = parse_chain(answer, symbol, expiry, self._clock.time_ns(), self._scale)
        if not table.num_rows:
            raise OutOfRange(NAME, f"{symbol} has no contracts of the expiry {expiry}")
        return table

    def _to_come(self, answer: ChainAnswer) -> list[date]:
        now = _EPOCH + timedelta(seconds=self._clock.time_ns() // NS_PER_S)
        today = now.astimezone(_NEW_YORK).date()
        return sorted({each.expiration_date for each in answer.data if each.expiration_date >= today})

    async def _answer(self, symbol: str) -> ChainAnswer:
        theirs = name_of(self._symbols, symbol)
        answer = await self._http.get_json(
            "/stock/option-chain", ChainAnswer, {"symbol": theirs}, endpoint="option-chain"
        )
        if not answer.data:
            raise SymbolNotFound(NAME, f"{symbol} has no options here")
        return answer
