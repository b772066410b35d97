"""What Finnhub remembers: bars, by request, for paid keys."""

from __future__ import annotations

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.finnhub.config import FinnhubConfig
from marketd.sources.finnhub.parse import NAME, Candles, parse_candles
from marketd.sources.finnhub.quotes import FinnhubQuotes, name_of
from marketd.sources.finnhub.symbols import market_of
from marketd.sources.http import HttpClient
from marketd.sources.symbols import SymbolMap

__all__ = ["RESOLUTIONS", "FinnhubHistory"]

RESOLUTIONS: dict[str, str] = {"1m": "1", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "1d": "D"}
"""Finnhub's words by interval. It has weeks and months too, and does not say on which day they begin."""

_DAY_NS = 86_400 * NS_PER_S
_DAYS_PER_CALL = 3_650
"""Of daily bars: no limit is known."""


class FinnhubHistory:
    """Implements `BarHistory`. http: its owner closes it. quotes: asked whether a symbol without bars exists."""

    def __init__(
        self, http: HttpClient, config: FinnhubConfig, symbols: SymbolMap, quotes: FinnhubQuotes, clock: Clock
    ) -> None:
        self._http = http
        self._config = config
        self._symbols = symbols
        self._quotes = quotes
        self._clock = clock
        self._known: set[str] = set()

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Adjusted for splits. Minutes without trades are absent; `vwap` and `trades` are not
        told. Finnhub says `no_data` of a stock that it does not have too: then one quote is asked for, once a stock."""
        resolution = RESOLUTIONS.get(interval.name)
        if resolution is None:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(RESOLUTIONS)}")
        theirs = name_of(self._symbols, symbol)
        market = market_of(theirs)
        days = _DAYS_PER_CALL if interval.ns == _DAY_NS else self._config.candle_days_per_call
        page_ns = interval.ceil(start_ns)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        tables: list[pa.Table] = []
        while page_ns < end_ns:
            page_end_ns = min(page_ns + days * _DAY_NS, end_ns)
            answer = await self._http.get_json(
                f"/{market}/candle",
                Candles,
                {
                    "symbol": theirs,
                    "resolution": resolution,
                    "from": page_ns // NS_PER_S,
                    "to": page_end_ns // NS_PER_S - 1,
                },
                endpoint="candle",
            )
            tables.append(
                parse_candles(
                    answer,
                    symbol=symbol,
                    interval=interval,
                    start_ns=page_ns,
                    end_ns=page_end_ns,
                    as_of_ns=self._clock.time_ns(),
                )
            )
            page_ns = page_end_ns
        if not tables:
            return BAR_SCHEMA.empty_table()
        found = pa.concat_tables(tables)
        if market == "stock" and symbol not in self._known:
            if not found.num_rows:
                await self._quotes.quote(symbol)
            self._known.add(symbol)
        return found
