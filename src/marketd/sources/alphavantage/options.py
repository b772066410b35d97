"""Alpha Vantage's option chains, by request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model.time import NS_PER_S
from marketd.sources.alphavantage.client import AlphaVantageClient
from marketd.sources.alphavantage.config import AlphaVantageConfig
from marketd.sources.alphavantage.parse import NAME, Contracts, parse_chain
from marketd.sources.alphavantage.quotes import name_of
from marketd.sources.alphavantage.symbols import pair_of
from marketd.sources.symbols import SymbolMap

__all__ = ["AlphaVantageOptions"]

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AlphaVantageOptions:
    """Implements `OptionChains`. One answer has all expiries. client: its owner closes it."""

    def __init__(
        self, client: AlphaVantageClient, config: AlphaVantageConfig, symbols: SymbolMap, clock: Clock
    ) -> None:
        self._client = client
        self._is_live = config.options == "realtime"
        self._symbols = symbols
        self._clock = clock

    async def expiries(self, symbol: str) -> Sequence[date]:
        """See `OptionChains.expiries`. Those that have passed in New York are left out."""
        return self._to_come(await self._all(symbol))

    async def chain(self, symbol: str, expiry: date | None = None) -> pa.Table:
        """See `OptionChains.chain`. Of the last session that is over, unless the configuration says realtime."""
        table = await self._all(symbol)
        if expiry is None:
            expiry = next(iter(self._to_come(table)), None)
            if expiry is None:
                raise OutOfRange(NAME, f"{symbol}: all expiries that are listed have passed")
        found = table.filter(pc.equal(table["expiry"], pa.scalar(expiry, pa.date32())))
        if not found.num_rows:
            raise OutOfRange(NAME, f"{symbol} has no contracts of the expiry {expiry}")
        return found.combine_chunks()

    def _to_come(self, table: pa.Table) -> list[date]:
        now = _EPOCH + timedelta(seconds=self._clock.time_ns() // NS_PER_S)
        today = now.astimezone(_NEW_YORK).date()
        listed = pc.unique(table["expiry"]).to_pylist()
        return sorted(expiry for expiry in listed if expiry is not None and expiry >= today)

    async def _all(self, symbol: str) -> pa.Table:
        theirs = name_of(self._symbols, symbol)
        if pair_of(theirs) is not None:
            raise SymbolNotFound(NAME, f"{symbol} has no options here")
        if self._is_live:
            sections = await self._client.ask("REALTIME_OPTIONS", {"symbol": theirs, "require_greeks": "true"})
        else:
            sections = await self._client.ask("HISTORICAL_OPTIONS", {"symbol": theirs})
        contracts = self._client.section(sections, "data", Contracts, symbol)
        if not contracts:
            raise SymbolNotFound(NAME, f"{symbol} has no options here")
        return parse_chain(contracts, symbol, self._clock.time_ns(), is_live=self._is_live)
