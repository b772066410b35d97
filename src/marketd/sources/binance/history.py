"""What Binance remembers: bars, by request."""

from __future__ import annotations

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_MS
from marketd.sources.binance.config import BinanceConfig
from marketd.sources.binance.parse import NAME, parse_klines
from marketd.sources.binance.requests import BinanceRequests
from marketd.sources.symbols import SymbolMap

__all__ = ["INTERVALS", "BinanceHistory"]

INTERVALS = ("1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w")
"""Of ours, those the exchange has, under the same names; its weeks begin on Mondays too."""


class BinanceHistory:
    """Implements `BarHistory`. requests: the caller closes it."""

    def __init__(self, requests: BinanceRequests, symbols: SymbolMap, config: BinanceConfig, clock: Clock) -> None:
        self._requests = requests
        self._symbols = symbols
        self._limit = config.klines_per_call
        self._clock = clock

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. With `vwap` and `trades`; the exchange's flat rows without trades are absent."""
        if interval.name not in INTERVALS:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(INTERVALS)}")
        name = self._symbols.to_provider(symbol)
        if name is None:
            raise SymbolNotFound(NAME, f"{symbol[:80]!r} is no pair such as BTC-USDT")
        tables: list[pa.Table] = []
        page_ns = interval.ceil(start_ns)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        while page_ns < end_ns:
            body = await self._requests.klines(
                name, interval.name, page_ns // NS_PER_MS, (end_ns - 1) // NS_PER_MS, self._limit
            )
            page = parse_klines(
                body,
                symbol=symbol,
                interval=interval,
                start_ns=page_ns,
                end_ns=end_ns,
                as_of_ns=self._clock.time_ns(),
            )
            tables.append(page.bars)
            if page.count < self._limit:
                break
            page_ns = max(page.last_ns, page_ns) + interval.ns
        return pa.concat_tables(tables) if tables else BAR_SCHEMA.empty_table()
