"""What Yahoo remembers: bars, splits and dividends, by request."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import BAR_SCHEMA, CorporateAction, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.symbols import SymbolMap
from marketd.sources.yahoo.client import YahooClient
from marketd.sources.yahoo.parse import (
    NAME,
    Chart,
    ChartAnswer,
    NothingThere,
    found_chart,
    parse_actions,
    parse_bars,
    rolled_up,
)
from marketd.sources.yahoo.symbols import is_around_the_clock, is_currency

__all__ = ["INTERVALS", "YahooHistory"]

INTERVALS = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "60m", "1d": "1d"}
"""Ours and Yahoo's. Its weeks and months depend on the span that is asked for; its 30m are known to be 60m at times."""

_DAY_NS = 86_400 * NS_PER_S
_HOUR_NS = 3_600 * NS_PER_S
_DEPTH_NS = {
    "1m": 30 * _DAY_NS - _HOUR_NS,
    "5m": 60 * _DAY_NS - _HOUR_NS,
    "15m": 60 * _DAY_NS - _HOUR_NS,
    "60m": 730 * _DAY_NS - _HOUR_NS,
}
"""How far back Yahoo's bars reach, less an hour for what a request waits and how clocks differ."""
_WINDOW_NS = {"1m": 7 * _DAY_NS}
"""The longest span of one request, where it is shorter than the depth. Yahoo allows eight days, from an unsaid edge."""
_QUARTER = Interval.parse("15m")


class YahooHistory:
    """Implements `BarHistory` and `ActionHistory`. client: its owner closes it."""

    def __init__(self, client: YahooClient, symbols: SymbolMap, clock: Clock) -> None:
        self._client = client
        self._symbols = symbols
        self._clock = clock

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Adjusted for splits. What lies before `history_start_ns` is absent."""
        if interval.name not in INTERVALS:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(INTERVALS)}")
        theirs = self._name(symbol)
        asked = _asked(theirs, interval)
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        begins_ns = self.history_start_ns(symbol, interval)
        if begins_ns is not None and start_ns < end_ns <= begins_ns:
            raise OutOfRange(
                NAME, f"has {interval} bars of the last {_DEPTH_NS[INTERVALS[asked.name]] // _DAY_NS + 1} days"
            )
        page_ns = interval.ceil(start_ns if begins_ns is None else max(start_ns, begins_ns))
        tables: list[pa.Table] = []
        while page_ns < end_ns:
            page_end_ns = min(page_ns + _WINDOW_NS.get(INTERVALS[asked.name], end_ns - page_ns), end_ns)
            tables.append(await self._page(symbol, theirs, asked, page_ns, page_end_ns))
            page_ns = page_end_ns
        found = pa.concat_tables(tables) if tables else BAR_SCHEMA.empty_table()
        if asked is interval:
            return found
        return rolled_up(found, interval, start_ns=start_ns, end_ns=end_ns, as_of_ns=self._clock.time_ns())

    def history_start_ns(self, symbol: str, interval: Interval) -> int | None:
        """Bars that start earlier cannot be had; None: as old as the instrument is."""
        theirs = self._symbols.to_provider(symbol)
        if theirs is None or interval.name not in INTERVALS:
            return None
        depth_ns = _DEPTH_NS.get(INTERVALS[_asked(theirs, interval).name])
        return None if depth_ns is None else self._clock.time_ns() - depth_ns

    async def actions(self, symbol: str, start_ns: int, end_ns: int) -> Sequence[CorporateAction]:
        """See `ActionHistory.actions`."""
        theirs = self._name(symbol)
        now_ns = self._clock.time_ns()
        if start_ns >= end_ns:
            return ()
        # to now, whatever the end: later splits tell what a dividend was before them
        day = Interval.parse("1d")
        chart = await self._chart(theirs, day, start_ns - _DAY_NS, max(now_ns, end_ns) + _DAY_NS, "actions")
        if chart is None:
            return ()
        return parse_actions(chart, symbol=symbol, start_ns=start_ns, end_ns=end_ns, as_of_ns=now_ns)

    async def _page(self, symbol: str, theirs: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        # a date begins up to 14 hours before its midnight in UTC, and its session may be 12 hours after it
        margin_ns = _DAY_NS if interval.ns >= _DAY_NS else 0
        chart = await self._chart(theirs, interval, start_ns - margin_ns, end_ns + margin_ns, "chart")
        if chart is None:
            return BAR_SCHEMA.empty_table()
        as_of_ns = self._clock.time_ns()
        return parse_bars(chart, symbol=symbol, interval=interval, start_ns=start_ns, end_ns=end_ns, as_of_ns=as_of_ns)

    async def _chart(self, theirs: str, interval: Interval, start_ns: int, end_ns: int, endpoint: str) -> Chart | None:
        """None where Yahoo says that there is nothing in the span."""
        params: dict[str, str | int] = {
            "interval": INTERVALS[interval.name],
            "period1": start_ns // NS_PER_S,
            "period2": -(-end_ns // NS_PER_S),
            "includePrePost": "false",
        }
        if endpoint == "actions":
            params["events"] = "div,splits"
        try:
            answer = await self._client.get("/v8/finance/chart", theirs, ChartAnswer, params, endpoint)
            return found_chart(answer, theirs)
        except NothingThere:
            return None

    def _name(self, symbol: str) -> str:
        theirs = self._symbols.to_provider(symbol)
        if theirs is None:
            raise SymbolNotFound(NAME, f"{symbol[:80]!r} is no name that Yahoo could have")
        return theirs


def _asked(theirs: str, interval: Interval) -> Interval:
    """What is asked for: Yahoo's hours begin with the session, on the half hour in New York, so they are made of
    quarters, except where trade has no session to begin with."""
    has_hours = is_currency(theirs) or is_around_the_clock(theirs)
    return _QUARTER if interval.name == "1h" and not has_hours else interval
