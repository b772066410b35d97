"""What Kraken remembers: the latest 720 bars of each length, and every trade, by request."""

from __future__ import annotations

from contextlib import aclosing

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.kraken.config import KrakenConfig
from marketd.sources.kraken.parse import NAME, RestTrade, bars_of_trades, parse_ohlc
from marketd.sources.kraken.requests import TRADES_PER_REQUEST, KrakenRequests
from marketd.sources.symbols import SymbolMap

__all__ = ["MINUTES", "ROWS_MAX", "KrakenHistory"]

MINUTES: dict[str, int] = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1_440}
"""By interval. The exchange's weeks begin on Thursdays, ours on Mondays: there are none."""

ROWS_MAX = 720
_DAY = "1d"


class KrakenHistory:
    """Implements `BarHistory`. requests: the caller closes it."""

    def __init__(self, requests: KrakenRequests, symbols: SymbolMap, config: KrakenConfig, clock: Clock) -> None:
        self._requests = requests
        self._symbols = symbols
        self._max_pages = config.old_bars_max_pages
        self._clock = clock

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. With `vwap` and `trades`; the exchange's flat rows without trades are absent.

        What is older than the latest 720 bars is built from trades, if that takes no more than `old_bars_max_pages`
        requests; else, and for days, it is out of range.
        """
        minutes = MINUTES.get(interval.name)
        if minutes is None:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(MINUTES)}")
        name = self._symbols.to_provider(symbol)
        if name is None:
            raise SymbolNotFound(NAME, f"{symbol[:80]!r} is no pair such as BTC-USD")
        start_ns = interval.ceil(start_ns)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        if start_ns >= end_ns:
            return BAR_SCHEMA.empty_table()
        # the exchange does not say whether `since` is inclusive: from one bar before, both readings are within
        since_s = max(0, (start_ns - interval.ns) // NS_PER_S - 1)
        latest = parse_ohlc(
            await self._requests.ohlc(name, minutes, since_s),
            symbol=symbol,
            interval=interval,
            start_ns=start_ns,
            end_ns=end_ns,
            as_of_ns=self._clock.time_ns(),
        )
        # fewer rows than there may be are all there are: the pair is younger
        if latest.first_ns <= start_ns or latest.count < ROWS_MAX:
            return latest.bars
        older_end_ns = min(end_ns, latest.first_ns)
        if interval.name == _DAY or not self._max_pages:
            raise OutOfRange(NAME, f"keeps only the latest {ROWS_MAX} {interval} bars")
        older = await self._of_trades(name, symbol, interval, start_ns, older_end_ns)
        return pa.concat_tables([older, latest.bars])

    async def _of_trades(self, name: str, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        trades: list[RestTrade] = []
        count = 0
        async with aclosing(self._requests.trade_pages(name, max(0, start_ns - 1))) as pages:
            async for page in pages:
                trades += page
                if page and page[-1].time_ns >= end_ns:
                    break
                count += 1
                if count == self._max_pages and len(page) == TRADES_PER_REQUEST:
                    raise OutOfRange(
                        NAME,
                        f"keeps only the latest {ROWS_MAX} {interval} bars, and {len(trades)} trades do not make the "
                        "older ones: ask for a shorter span, or raise old_bars_max_pages",
                    )
        return bars_of_trades(
            trades,
            symbol=symbol,
            interval=interval,
            start_ns=start_ns,
            end_ns=end_ns,
            as_of_ns=self._clock.time_ns(),
        )
