"""What Alpha Vantage remembers: bars, by request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import NotEntitled, OutOfRange
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.alphavantage.client import AlphaVantageClient
from marketd.sources.alphavantage.config import AlphaVantageConfig
from marketd.sources.alphavantage.parse import NAME, Series, parse_series
from marketd.sources.alphavantage.quotes import name_of
from marketd.sources.alphavantage.symbols import is_crypto, pair_of, session_of
from marketd.sources.contract import Capabilities, Limit
from marketd.sources.symbols import SymbolMap

__all__ = ["MINUTES", "AlphaVantageHistory", "capabilities"]

MINUTES: dict[str, str] = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}
"""Alpha Vantage's words by interval within the day."""

_FUNCTIONS = {
    "stock": {"minutes": "TIME_SERIES_INTRADAY", "1d": "TIME_SERIES_DAILY", "1w": "TIME_SERIES_WEEKLY"},
    "currency": {"minutes": "FX_INTRADAY", "1d": "FX_DAILY", "1w": "FX_WEEKLY"},
    "crypto": {"minutes": "CRYPTO_INTRADAY", "1d": "DIGITAL_CURRENCY_DAILY", "1w": "DIGITAL_CURRENCY_WEEKLY"},
}
_DAY_NS = 86_400 * NS_PER_S
_COMPACT_DAYS = 140
"""What 100 sessions reach back over at least, in days of the calendar."""
_PAIR_MINUTES_DAYS = 30
_DELAYS_S = {"realtime": 0.0, "delayed": 900.0, None: 86_400.0}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def capabilities(config: AlphaVantageConfig) -> Capabilities:
    limits = [Limit(count=1, seconds=1.0)] if config.requests_per_minute is None else []
    if config.requests_per_minute is not None:
        limits.append(Limit(count=config.requests_per_minute, seconds=60.0))
    if config.requests_per_day is not None:
        limits.append(Limit(count=config.requests_per_day, seconds=86_400.0))
    return Capabilities(
        quotes=True,
        bars=(*MINUTES, "1d", "1w"),
        options=True,
        macro=True,
        time_zone="America/New_York",
        limits=tuple(limits),
        delayed_s=_DELAYS_S[config.entitlement],
    )


class AlphaVantageHistory:
    """Implements `BarHistory`. client: its owner closes it."""

    def __init__(
        self, client: AlphaVantageClient, config: AlphaVantageConfig, symbols: SymbolMap, clock: Clock
    ) -> None:
        self._client = client
        self._config = config
        self._symbols = symbols
        self._clock = clock
        self._full_is_paid = False

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. As traded. Minutes without trades are absent; `vwap` and `trades` are not told, nor is
        the volume of currencies. A free key has days back over 100 sessions, and weeks; what is earlier is OutOfRange.
        """
        if interval.name not in MINUTES and interval.name not in ("1d", "1w"):
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join((*MINUTES, '1d', '1w'))}")
        theirs = name_of(self._symbols, symbol)
        start_ns = interval.ceil(start_ns)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        if start_ns >= end_ns:
            return BAR_SCHEMA.empty_table()
        pair = pair_of(theirs)
        market = "stock" if pair is None else "crypto" if is_crypto(pair) else "currency"
        params = _named(theirs, market)
        if interval.name in MINUTES:
            asked = self._minutes(theirs, market, interval, start_ns, end_ns)
        elif interval.name == "1d" and market != "crypto":
            asked = [{"outputsize": self._size(symbol, start_ns)}]
        else:
            asked = [{}]
        function = _FUNCTIONS[market]["minutes" if interval.name in MINUTES else interval.name]
        tables = [await self._page(function, {**params, **page}, symbol, interval, start_ns, end_ns) for page in asked]
        return pa.concat_tables(tables)

    async def _page(
        self, function: str, params: dict[str, str], symbol: str, interval: Interval, start_ns: int, end_ns: int
    ) -> pa.Table:
        try:
            sections = await self._client.ask(function, params)
        except NotEntitled as error:
            if params.get("outputsize") != "full" or "outputsize" not in error.reason:
                raise
            self._full_is_paid = True
            raise self._too_early(symbol) from error
        meta = self._client.section(sections, "Meta Data", dict[str, str], symbol)
        series = self._client.section(sections, "Time Series", Series, symbol)
        return parse_series(
            meta,
            series,
            symbol=symbol,
            interval=interval,
            start_ns=start_ns,
            end_ns=end_ns,
            as_of_ns=self._clock.time_ns(),
            divisor=self._config.price_divisors.get(symbol, 1.0),
        )

    def _size(self, symbol: str, start_ns: int) -> str:
        """How much of the days to ask for. A refusal of all of them is learned: it would cost a request each time."""
        if start_ns >= self._clock.time_ns() - _COMPACT_DAYS * _DAY_NS:
            return "compact"
        if self._full_is_paid:
            raise self._too_early(symbol)
        return "full"

    def _too_early(self, symbol: str) -> OutOfRange:
        return OutOfRange(NAME, f"{symbol}: this key has the last 100 days only, so none {_COMPACT_DAYS} days ago")

    def _minutes(
        self, theirs: str, market: str, interval: Interval, start_ns: int, end_ns: int
    ) -> list[dict[str, str]]:
        """The parameters of each request: stocks a month at a time, pairs what there is."""
        params = {"interval": MINUTES[interval.name], "outputsize": "full"}
        if market != "stock":
            if start_ns < self._clock.time_ns() - _PAIR_MINUTES_DAYS * _DAY_NS:
                raise OutOfRange(NAME, f"{theirs}: minutes of the last {_PAIR_MINUTES_DAYS} days only")
            return [params]
        params |= {"adjusted": "false", "extended_hours": str(self._config.extended_hours).lower()}
        if self._config.entitlement is not None:
            params["entitlement"] = self._config.entitlement
        zone = session_of(theirs).zone
        months = _months(_local(start_ns, zone), _local(end_ns - 1, zone))
        return [params | {"month": f"{month:%Y-%m}"} for month in months]


def _named(theirs: str, market: str) -> dict[str, str]:
    pair = pair_of(theirs)
    if pair is None:
        return {"symbol": theirs}
    keys = ("symbol", "market") if market == "crypto" else ("from_symbol", "to_symbol")
    return dict(zip(keys, pair, strict=True))


def _local(time_ns: int, zone: ZoneInfo) -> date:
    return (_EPOCH + timedelta(seconds=time_ns // NS_PER_S)).astimezone(zone).date()


def _months(first: date, last: date) -> Iterator[date]:
    month = first.replace(day=1)
    while month <= last:
        yield month
        month = (month + timedelta(days=32)).replace(day=1)
