"""What IG remembers: bars of bids and asks, by request, within a weekly allowance that IG counts."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import MalformedMessage, OutOfRange, SymbolNotFound, Throttled
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.bar import Side
from marketd.model.time import NS_PER_S
from marketd.sources.ig.account import HistoryAllowanceSpent, IgAccount
from marketd.sources.ig.config import IgConfig
from marketd.sources.ig.parse import NAME, Allowance, PriceRow, PricesAnswer, parse_bars
from marketd.sources.symbols import SymbolMap

__all__ = ["RESOLUTIONS", "IgHistory"]

RESOLUTIONS: dict[str, str] = {
    "1m": "MINUTE",
    "5m": "MINUTE_5",
    "10m": "MINUTE_10",
    "15m": "MINUTE_15",
    "30m": "MINUTE_30",
    "1h": "HOUR",
}
"""By interval. IG's longer bars begin at hours of its own, not at whole ones of UTC."""

_MINUTES_KEPT_NS = 40 * 86_400 * NS_PER_S
_PAGES_MAX = 100


class IgHistory:
    """Implements `BarHistory`. allowance: what IG last said of the week's bars, None before it did."""

    def __init__(self, config: IgConfig, clock: Clock, symbols: SymbolMap, account: IgAccount) -> None:
        self._config = config
        self._clock = clock
        self._symbols = symbols
        self._account = account
        self._zone = ZoneInfo(config.request_zone)
        self._sides: tuple[Side, ...] = ("bid", "ask") if config.bar_sides == "both" else (config.bar_sides,)
        self._spent_until_ns: int | None = None
        self._expiry_ns: int | None = None
        self.allowance: Allowance | None = None

    def history_start_ns(self, symbol: str, interval: Interval) -> int | None:  # noqa: ARG002
        """See `marketd.continuity.worker.KnowsItsStart`: minutes are kept for 40 days."""
        return self._clock.time_ns() - _MINUTES_KEPT_NS if interval.name == "1m" else None

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Bids and asks, as configured; `trades` is IG's count of ticks, volumes are not told.

        Raises Throttled with `retry_after_s` while the week's allowance is spent.
        """
        resolution = RESOLUTIONS.get(interval.name)
        if resolution is None:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(RESOLUTIONS)}")
        epic = self._symbols.to_provider(symbol)
        if epic is None:
            raise SymbolNotFound(NAME, f"{symbol}: no epic is known; set it in symbol_table")
        tables: list[pa.Table] = []
        page_ns = interval.ceil(start_ns)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        while page_ns < end_ns:
            page_end_ns = min(page_ns + self._config.points_per_call * interval.ns, end_ns)
            rows = await self._rows(epic, resolution, page_ns, page_end_ns)
            tables.append(
                parse_bars(
                    rows,
                    symbol=symbol,
                    interval=interval,
                    sides=self._sides,
                    start_ns=page_ns,
                    end_ns=page_end_ns,
                    as_of_ns=self._clock.time_ns(),
                    divisor=self._config.price_divisors.get(symbol, 1.0),
                )
            )
            page_ns = page_end_ns
        return pa.concat_tables(tables) if tables else BAR_SCHEMA.empty_table()

    async def _rows(self, epic: str, resolution: str, start_ns: int, end_ns: int) -> list[PriceRow]:
        """All pages of one span. It is asked for to the second before each end: whether IG counts them in is not
        documented."""
        params: dict[str, str | int] = {
            "resolution": resolution,
            "from": self._written(start_ns - NS_PER_S),
            "to": self._written(end_ns - NS_PER_S),
            "max": self._config.points_per_call,
            "pageSize": 0,
        }
        rows: list[PriceRow] = []
        for page in range(1, _PAGES_MAX + 1):
            answer = await self._ask(epic, {**params, "pageNumber": page})
            rows += answer.prices
            if page >= answer.metadata.page_data.total_pages:
                return rows
        raise MalformedMessage(NAME, f"{epic}: more than {_PAGES_MAX} pages of prices")

    async def _ask(self, epic: str, params: dict[str, str | int]) -> PricesAnswer:
        now_ns = self._clock.monotonic_ns()
        if self._spent_until_ns is not None and now_ns < self._spent_until_ns:
            raise self._spent("the week's allowance of bars is spent")
        try:
            answer = await self._account.get(f"/prices/{epic}", PricesAnswer, params, version=3, endpoint="prices")
        except HistoryAllowanceSpent as error:
            self._spent_until_ns = self._expiry_ns
            raise self._spent(error.reason) from None
        allowance = answer.metadata.allowance
        if allowance is not None:
            self.allowance = allowance
            self._expiry_ns = self._clock.monotonic_ns() + round(max(0.0, allowance.allowance_expiry) * NS_PER_S)
            if allowance.remaining_allowance <= 0:
                self._spent_until_ns = self._expiry_ns
        return answer

    def _spent(self, reason: str) -> Throttled:
        if self._spent_until_ns is None:
            return Throttled(NAME, reason)
        return Throttled(NAME, reason, max(0.0, (self._spent_until_ns - self._clock.monotonic_ns()) / NS_PER_S))

    def _written(self, time_ns: int) -> str:
        moment = datetime.fromtimestamp(time_ns // NS_PER_S, UTC).astimezone(self._zone)
        return moment.strftime("%Y-%m-%dT%H:%M:%S")
