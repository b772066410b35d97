"""Bars as the REST doors tell them: which range is meant, bids and asks to mids, Arrow columns to JSON.

Nothing here knows HTTP. Bars are never computed here, only chosen, except `mid`, which nobody stores.
"""

from __future__ import annotations

import asyncio
import calendar
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketd.api.engine import Engine
from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA, BarStatus, Interval, format_ns, parse_ns
from marketd.model.time import NS_PER_S

__all__ = ["PERIODS", "SIDES", "BarReply", "BarsReply", "bars_reply", "history_range", "period_start"]

SIDES = ("trade", "bid", "ask", "mid")
PERIODS = ("1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max")
DEFAULT_BARS = 500
_ROWS_A_TURN = 1_024
_MID_PAGE = 5_000
_FIRST_NS = parse_ns("1800-01-01")


class BarReply(msgspec.Struct, frozen=True, gc=False):
    """One bar. timestamp: its start, UTC. volume, vwap: null without sizes. trades: number of ticks in it.

    source: who provided it. status: live is still running; final was watched throughout; corrected was
    final until late data came; provisional is over but was not watched throughout.
    """

    timestamp: str
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    vwap: float | None
    trades: int | None
    status: BarStatus
    source: str


class BarsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Bars with from <= timestamp < to, ascending. truncated: older ones of the range were left out."""

    symbol: str
    period: str | msgspec.UnsetType = msgspec.UNSET
    interval: str
    side: Annotated[
        Literal["trade", "bid", "ask", "mid"],
        msgspec.Meta(description="What the prices are. mid: the average of each bid and ask value, without volume."),
    ]
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    count: int
    truncated: bool
    bars: list[BarReply]


def history_range(engine: Engine, interval: Interval, start: int | None, end: int | None) -> tuple[int, int]:
    """The range in nanoseconds: up to now, and 500 intervals long, unless told. Raises InvalidInput if reversed."""
    end_ns = engine.clock.time_ns() if end is None else end
    start_ns = end_ns - DEFAULT_BARS * interval.ns if start is None else start
    if start_ns >= end_ns:
        raise InvalidInput("from", format_ns(start_ns), f"a time before `to`, which is {format_ns(end_ns)}")
    return start_ns, end_ns


def period_start(period: str, now_ns: int) -> int:
    """Midnight UTC of the first day of a period that ends with today, today included. `5d` is five calendar days.

    Months and years go back to the same day of the month, or its last day if it is shorter.
    """
    today = datetime.fromtimestamp(now_ns // NS_PER_S, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "max":
        return _FIRST_NS
    if period == "ytd":
        first = today.replace(month=1, day=1)
    elif period.endswith("mo"):
        first = _months_before(today, int(period[:-2]))
    elif period.endswith("y"):
        first = _months_before(today, 12 * int(period[:-1]))
    else:
        first = today - timedelta(days=int(period[:-1]) - 1)
    return int(first.timestamp()) * NS_PER_S


def _months_before(day: datetime, months: int) -> datetime:
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1]))


async def bars_reply(
    engine: Engine,
    symbol: str,
    interval: Interval,
    start_ns: int,
    end_ns: int,
    *,
    side: str | None,
    limit: int,
    period: str | msgspec.UnsetType = msgspec.UNSET,
) -> bytes:
    """JSON of a `BarsReply` with the newest `limit` bars of a range. side: None for the symbol's own.

    Raises UnknownSymbol, InvalidInput (interval not kept), StoreError.
    """
    side = side or engine.default_side(symbol)
    if side == "mid":
        table, truncated = await _mids(engine, symbol, interval, start_ns, end_ns, limit)
    else:
        table, truncated = await _newest(engine, symbol, interval, start_ns, end_ns, side, limit)
    head = msgspec.json.encode(
        BarsReply(
            symbol=symbol,
            period=period,
            interval=interval.name,
            side=side,  # type: ignore[arg-type]  # a word of `SIDES`
            start=format_ns(start_ns),
            end=format_ns(end_ns),
            count=len(table),
            truncated=truncated,
            bars=[],
        )
    )
    parts = []
    for offset in range(0, len(table), _ROWS_A_TURN):
        parts.append(_encoded(table.slice(offset, _ROWS_A_TURN)))
        await asyncio.sleep(0)  # a long answer lets the live path through
    return head.removesuffix(b"]}") + b",".join(parts) + b"]}"


async def _newest(
    engine: Engine, symbol: str, interval: Interval, start_ns: int, end_ns: int, side: str, limit: int
) -> tuple[pa.Table, bool]:
    """The newest `limit` bars, ascending, and whether there are more. One more is read than given, to know."""
    table = await engine.bars(
        symbol,
        interval,
        start_ns,
        end_ns,
        side=side,  # type: ignore[arg-type]  # a word of `SIDES`, not mid
        limit=limit + 1,
        newest_first=True,
    )
    table = table.take(np.argsort(_ts(table), kind="stable"))
    cut = max(0, len(table) - limit)
    return table.slice(cut), cut > 0


async def _mids(
    engine: Engine, symbol: str, interval: Interval, start_ns: int, end_ns: int, limit: int
) -> tuple[pa.Table, bool]:
    """The newest `limit` bars that have both a bid and an ask, page by page back in time."""
    pages: list[pa.Table] = []
    have = 0
    while True:
        size = max(limit - have, _MID_PAGE)
        bid, bid_cut = await _newest(engine, symbol, interval, start_ns, end_ns, "bid", size)
        ask, ask_cut = await _newest(engine, symbol, interval, start_ns, end_ns, "ask", size)
        # A side that was cut says nothing of what is before its first row.
        complete_ns = max([start_ns, *(int(_ts(side)[0]) for side, cut in ((bid, bid_cut), (ask, ask_cut)) if cut)])
        page = _mid_of(bid.filter(_ts(bid) >= complete_ns), ask.filter(_ts(ask) >= complete_ns))
        pages.insert(0, page)
        have += len(page)
        if have > limit or not (bid_cut or ask_cut):
            table = pa.concat_tables(pages)
            return table.slice(max(0, have - limit)), have > limit
        end_ns = complete_ns


_LEAST_SETTLED_FIRST = pa.array(["withdrawn", "live", "provisional", "backfill", "corrected", "final"])


def _mid_of(bid: pa.Table, ask: pa.Table) -> pa.Table:
    """Averages of the rows of both that start together. status: of the one that is less settled."""
    _, of_bid, of_ask = np.intersect1d(_ts(bid), _ts(ask), assume_unique=True, return_indices=True)
    bid, ask = bid.take(of_bid), ask.take(of_ask)
    n = len(bid)

    def both(name: str) -> tuple[Any, Any]:
        return bid.column(name), ask.column(name)

    columns: dict[str, Any] = {name: bid.column(name) for name in ("symbol", "interval", "ts")}
    columns["side"] = pa.repeat("mid", n)
    for name in ("open", "high", "low", "close"):
        columns[name] = pc.divide(pc.add(*both(name)), 2.0)
    columns["volume"] = columns["vwap"] = pa.nulls(n, pa.float64())
    columns["trades"] = pc.add(*both("trades"))
    one, other = both("provider")
    columns["provider"] = pc.if_else(pc.equal(one, other), one, pc.binary_join_element_wise(one, other, "/"))
    ranks = [pc.index_in(status, value_set=_LEAST_SETTLED_FIRST) for status in both("status")]
    least: Any = pc.min_element_wise(*ranks)
    columns["status"] = _LEAST_SETTLED_FIRST.take(least.combine_chunks())
    as_of: Any = pc.max_element_wise(*(column.cast(pa.int64()) for column in both("as_of")))
    columns["as_of"] = as_of.cast(BAR_SCHEMA.field("as_of").type)
    return pa.table([columns[name] for name in BAR_SCHEMA.names], schema=BAR_SCHEMA)


def _ts(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(table.column("ts").cast(pa.int64()).to_numpy(), np.int64)


def _encoded(table: pa.Table) -> bytes:
    """The rows as JSON objects separated by commas. Starts are whole seconds: no interval is shorter."""
    seconds = (_ts(table) // NS_PER_S).astype("datetime64[s]")
    columns = (
        table.column(n) for n in ("open", "high", "low", "close", "volume", "vwap", "trades", "status", "provider")
    )
    rows = map(BarReply, np.datetime_as_string(seconds, timezone="UTC").tolist(), *(c.to_pylist() for c in columns))
    return msgspec.json.encode(list(rows))[1:-1]
