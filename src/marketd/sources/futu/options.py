"""Option chains of OpenD: which contracts there are, and a snapshot of each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.sources.futu.history import wanted_security
from marketd.sources.futu.messages import (
    ChainAnswer,
    ChainRequest,
    ExpiriesAnswer,
    ExpiriesRequest,
    Proto,
    Security,
)
from marketd.sources.futu.parse import NAME, chain_table, date_of, snapshot_quote
from marketd.sources.futu.quotes import PER_REQUEST, snapshots
from marketd.sources.futu.requests import Requests
from marketd.sources.futu.symbols import text_of
from marketd.sources.symbols import SymbolMap

__all__ = ["FutuOptions"]


class FutuOptions:
    """Implements `OptionChains`. requests: shared by all parts; the caller closes it."""

    def __init__(self, requests: Requests, symbols: SymbolMap, clock: Clock) -> None:
        self._requests = requests
        self._symbols = symbols
        self._clock = clock

    async def expiries(self, symbol: str) -> Sequence[date]:
        """See `OptionChains.expiries`."""
        return await self._expiries(symbol, wanted_security(self._symbols, symbol))

    async def _expiries(self, symbol: str, security: Security) -> list[date]:
        answer = await self._requests.ask(
            Proto.OPTION_EXPIRIES,
            ExpiriesRequest(security),
            ExpiriesAnswer,
            f"option expiries of {text_of(security)}",
            "option_expiries",
        )
        dates = sorted({date_of(row.strike_time) for row in answer.rows if row.days_left >= 0})
        if not dates:
            raise SymbolNotFound(NAME, f"{symbol} has no options")
        return dates

    async def chain(self, symbol: str, expiry: date | None = None) -> pa.Table:
        """See `OptionChains.chain`. One request for the contracts, and one for the prices of every 400."""
        security = wanted_security(self._symbols, symbol)
        if expiry is None:
            expiry = (await self._expiries(symbol, security))[0]
        contracts = await self._contracts(security, expiry)
        if not contracts:
            dates = await self._expiries(symbol, security)
            raise OutOfRange(NAME, f"{symbol} has no options of {expiry}, only of {', '.join(map(str, dates))}")
        wanted = [security, *contracts]
        rows = [
            row
            for at in range(0, len(wanted), PER_REQUEST)
            for row in await snapshots(self._requests, wanted[at : at + PER_REQUEST])
        ]
        now_ns = self._clock.time_ns()
        of_underlying = next((row.basic for row in rows if row.basic.security == security), None)
        quote = None if of_underlying is None else snapshot_quote(of_underlying, symbol, now_ns)
        return chain_table(
            rows,
            underlying=symbol,
            expiry=expiry,
            underlying_price=None if quote is None else quote.last,
            time_received_ns=now_ns,
        )

    async def _contracts(self, security: Security, expiry: date) -> list[Security]:
        answer = await self._requests.ask(
            Proto.OPTION_CHAIN,
            ChainRequest(security, str(expiry), str(expiry)),
            ChainAnswer,
            f"options of {text_of(security)}",
            "option_chain",
        )
        pairs = [pair for row in answer.rows if date_of(row.strike_time) == expiry for pair in row.pairs]
        return [info.basic.security for pair in pairs for info in (pair.call, pair.put) if info is not None]
