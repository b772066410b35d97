"""What IG says, as our values. Pure: no clock, no socket, no log.

Formats: <https://labs.ig.com/rest-trading-api-reference> and <https://labs.ig.com/streaming-api-reference>. Numbers on
the stream are texts, and absent where the server says null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa

from marketd.errors import MalformedMessage, MarketClosed
from marketd.model import BAR_SCHEMA, Interval, MarketState, Quote, parse_ns
from marketd.model.bar import Side
from marketd.model.time import NS_PER_MS, NS_PER_S

__all__ = [
    "CHANNELS",
    "NAME",
    "Channel",
    "ErrorAnswer",
    "FoundMarket",
    "LoginAnswer",
    "MarketAnswer",
    "MarketsAnswer",
    "PricesAnswer",
    "SearchAnswer",
    "State",
    "parse_bars",
    "parse_snapshot",
    "parse_state",
    "parse_update",
    "state_of",
]

NAME = "ig"

State = Literal["open", "closed", "auction", "suspended", "offline"]

_LONDON = ZoneInfo("Europe/London")
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d)", re.ASCII)
_AHEAD_NS = 60 * NS_PER_S
_LATEST_MS = (2**63 - 1) // NS_PER_MS

_STATES: Mapping[str, State] = {
    # as REST and the channel `market` have it
    "TRADEABLE": "open",
    "CLOSED": "closed",
    "EDITS_ONLY": "closed",
    "EDIT": "closed",
    "OFFLINE": "offline",
    "AUCTION": "auction",
    "AUCTION_NO_EDIT": "auction",
    "ON_AUCTION": "auction",
    "ON_AUCTION_NO_EDITS": "auction",
    "SUSPENDED": "suspended",
    # as the channel `price` has it
    "DEAL": "open",
    "DEALNOEDIT": "open",
    "CLOSINGSONLY": "open",
    "CLOSINGS_ONLY": "open",
    "CALL": "offline",
    "AUCTIONNOEDIT": "auction",
    "SUSPEND": "suspended",
}
"""EDIT lets orders be changed and nothing be dealt; CALL is dealing by telephone."""


# {"errorCode":"error.security.client-token-invalid"}
class ErrorAnswer(msgspec.Struct, frozen=True):
    errorCode: str  # noqa: N815


# {"accountType":"SPREADBET","currentAccountId":"ABC123","clientId":"100112233","timezoneOffset":1,
#  "lightstreamerEndpoint":"https://demo-apd.marketdatasystems.com", …}
class LoginAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """timezone_offset: hours of the account's local time before UTC."""

    current_account_id: str
    lightstreamer_endpoint: str
    timezone_offset: float = 0.0


# {"marketStatus":"TRADEABLE","netChange":324,"updateTime":"16:59:55","delayTime":0,"bid":8933.0,"offer":8939.0,
#  "high":9022.0,"low":7487.0,"scalingFactor":1, …}
class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """update_time: the account's time of day. delay_time: minutes."""

    market_status: str
    update_time: str | None = None
    bid: float | None = None
    offer: float | None = None


class Described(msgspec.Struct, frozen=True):
    """What of `instrument` is needed."""

    epic: str


class MarketAnswer(msgspec.Struct, frozen=True):
    """The answer of `/markets/{epic}` (version 3), and an element of `/markets?epics=` (version 2)."""

    instrument: Described
    snapshot: Snapshot


class MarketsAnswer(msgspec.Struct, frozen=True, rename="camel"):
    market_details: list[MarketAnswer]


class FoundMarket(msgspec.Struct, frozen=True, rename="camel"):
    """A row of `/markets?searchTerm=`."""

    epic: str
    instrument_name: str
    instrument_type: str = ""
    expiry: str = ""


class SearchAnswer(msgspec.Struct, frozen=True):
    markets: list[FoundMarket]


class Price(msgspec.Struct, frozen=True):
    bid: float | None = None
    ask: float | None = None


Ticks = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


# {"snapshotTime":"2020/09/01 05:00:00","snapshotTimeUTC":"2020-09-01T04:00:00",
#  "openPrice":{"bid":1992.7,"ask":1993.3,"lastTraded":null},"closePrice":{…},"highPrice":{…},"lowPrice":{…},
#  "lastTradedVolume":202326}
class PriceRow(msgspec.Struct, frozen=True, rename="camel"):
    """A bar. last_traded_volume: how many ticks are in it."""

    start: str = msgspec.field(name="snapshotTimeUTC")
    open_price: Price
    high_price: Price
    low_price: Price
    close_price: Price
    last_traded_volume: Ticks | None = None


class Allowance(msgspec.Struct, frozen=True, rename="camel"):
    """Of bars a week. allowance_expiry: seconds until it is full again."""

    remaining_allowance: int
    total_allowance: int
    allowance_expiry: float


class Page(msgspec.Struct, frozen=True, rename="camel"):
    page_number: int = 1
    total_pages: int = 1


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    allowance: Allowance | None = None
    page_data: Page = Page()


class PricesAnswer(msgspec.Struct, frozen=True):
    """The answer of `/prices/{epic}` (version 3)."""

    prices: list[PriceRow]
    metadata: Metadata = Metadata()


def state_of(word: str) -> State:
    """Raises ValueError for a word that is not known."""
    state = _STATES.get(word.strip())
    if state is None:
        raise ValueError(f"{word[:40]!r} is no state of a market that is known")
    return state


def parse_snapshot(
    snapshot: Snapshot, symbol: str, time_received_ns: int, *, offset_hours: float, divisor: float = 1.0
) -> Quote:
    """offset_hours: `LoginAnswer.timezone_offset`. Raises MarketClosed when it says so, or has no price;
    MalformedMessage otherwise."""
    status = snapshot.market_status
    if _STATES.get(status) in ("closed", "offline") or (snapshot.bid is None and snapshot.offer is None):
        # the last price has a time of day and no date: it cannot be placed
        raise MarketClosed(NAME, f"{symbol}: the market is {status[:40]}")
    try:
        zone = timezone(timedelta(hours=offset_hours))
        time_ns = _of_day(snapshot.update_time or "", zone, time_received_ns)
    except (ValueError, OverflowError) as error:
        raise MalformedMessage(NAME, f"{symbol}: {error}") from None
    return Quote(
        symbol=symbol,
        time_event_ns=time_ns,
        time_received_ns=time_received_ns,
        source=NAME,
        bid=_scaled(snapshot.bid, divisor) or None,
        ask=_scaled(snapshot.offer, divisor) or None,
    )


def parse_bars(
    rows: Sequence[PriceRow],
    *,
    symbol: str,
    interval: Interval,
    sides: Sequence[Side],
    start_ns: int,
    end_ns: int,
    as_of_ns: int,
    divisor: float = 1.0,
) -> pa.Table:
    """Those of `rows` with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    A side whose prices are null has no bar. Raises MalformedMessage for a bar that comes twice, that does not start
    on a multiple of the interval, or that lies more than an interval outside of what was asked for (the request was
    read in another zone).
    """
    try:
        ts = np.array([_at_ns(row.start) for row in rows], np.int64)
    except ValueError as error:
        raise MalformedMessage(NAME, f"{symbol}: {error}") from None
    prices = np.array(
        [
            [
                (_scaled(price.bid, divisor), _scaled(price.ask, divisor))
                for price in (row.open_price, row.high_price, row.low_price, row.close_price)
            ]
            for row in rows
        ],
        np.float64,
    ).reshape(-1, 4, 2)
    ticks = np.array([np.nan if row.last_traded_volume is None else row.last_traded_volume for row in rows], np.float64)
    order = np.argsort(ts, kind="stable")
    ts, prices, ticks = ts[order], prices[order], ticks[order]
    if (ts[1:] == ts[:-1]).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar came twice")
    if (interval.floor(ts) != ts).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar does not start on a whole one")
    if ((ts < start_ns - interval.ns) | (ts > end_ns + interval.ns)).any():
        raise MalformedMessage(NAME, f"{symbol}: bars of another time than was asked for; is request_zone right?")
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns)
    tables = [
        _side(side, symbol, interval, ts[keep], prices[keep, :, 0 if side == "bid" else 1], ticks[keep], as_of_ns)
        for side in sides
    ]
    table = pa.concat_tables(tables)
    if len(sides) == 1:
        return table
    by_time: Any = np.argsort(table["ts"].to_numpy(), kind="stable")
    return table.take(by_time)


def _side(side: Side, symbol: str, interval: Interval, ts: Any, prices: Any, ticks: Any, as_of_ns: int) -> pa.Table:
    there = np.isfinite(prices).all(axis=1)
    ts, (open_, high, low, close), ticks = ts[there], prices[there].T, ticks[there]
    n = len(ts)
    constant = {"symbol": symbol, "interval": interval.name, "side": side, "provider": NAME, "status": "backfill"}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    columns |= {"ts": ts, "open": open_, "high": high, "low": low, "close": close}
    columns |= {"volume": pa.nulls(n), "vwap": pa.nulls(n), "as_of": np.full(n, as_of_ns, np.int64)}
    columns["trades"] = pa.array(np.nan_to_num(ticks).astype(np.int64), mask=np.isnan(ticks))
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


# The stream

Fields = Sequence[str | None]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of item. item: its name of (epic, account). quoted: how many of the first fields make the quote; the next
    are the state and whether prices are delayed, which not all servers have."""

    mode: Literal["MERGE", "DISTINCT"]
    data_adapter: str | None
    fields: tuple[str, ...]
    quoted: int
    item: Callable[[str, str], str]
    time_ns: Callable[[str, int], int]


def _stamp_ns(text: str, _: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= _LATEST_MS):
        raise ValueError(f"{text[:40]!r} is no time in milliseconds")
    return int(text) * NS_PER_MS


def _london_ns(text: str, time_received_ns: int) -> int:
    return _of_day(text, _LONDON, time_received_ns)


# bid, ask, time, bid size, ask size, last; then state and delay
CHANNELS: Mapping[str, Channel] = {
    "price": Channel(
        mode="MERGE",
        data_adapter="Pricing",
        fields=("BIDPRICE1", "ASKPRICE1", "TIMESTAMP", "BIDSIZE1", "ASKSIZE1", "DLG_FLAG", "DELAY"),
        quoted=5,
        item=lambda epic, account: f"PRICE:{account}:{epic}",
        time_ns=_stamp_ns,
    ),
    "chart_tick": Channel(
        mode="DISTINCT",
        data_adapter=None,
        fields=("BID", "OFR", "UTM", "LTP"),
        quoted=4,
        item=lambda epic, _: f"CHART:{epic}:TICK",
        time_ns=_stamp_ns,
    ),
    "market": Channel(
        mode="MERGE",
        data_adapter=None,
        fields=("BID", "OFFER", "UPDATE_TIME", "MARKET_STATE", "MARKET_DELAY"),
        quoted=3,
        item=lambda epic, _: f"MARKET:{epic}",
        time_ns=_london_ns,
    ),
}


def parse_update(
    channel: Channel, values: Fields, symbol: str, time_received_ns: int, divisor: float = 1.0
) -> Quote | None:
    """None if it states no price or no time. Raises ValueError on a number or time that is none."""
    bid_text, ask_text, time_text, *more = values
    bid, ask = _price(bid_text, divisor), _price(ask_text, divisor)
    sized = channel.quoted == 5
    last = _price(more[0], divisor) if channel.quoted == 4 else None
    if not time_text or (bid is None and ask is None and last is None):
        return None
    return Quote(
        symbol=symbol,
        time_event_ns=channel.time_ns(time_text, time_received_ns),
        time_received_ns=time_received_ns,
        source=NAME,
        bid=bid,
        ask=ask,
        bid_size=_size(more[0]) if sized else None,
        ask_size=_size(more[1]) if sized else None,
        last=last,
    )


def parse_state(channel: Channel, values: Fields, symbol: str, time_received_ns: int) -> MarketState | None:
    """None if the channel does not tell, or not yet. Raises ValueError for a state that is not known."""
    state, delay = (*values[channel.quoted :], None, None)[:2]
    if not state:
        return None
    return MarketState(
        source=NAME,
        symbol=symbol,
        time_received_ns=time_received_ns,
        state=state_of(state),
        delayed={"0": False, "1": True}.get(delay or ""),
    )


# float() alone would take "nan", "1_000" and digits of other scripts
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{0,30})?(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]!r} is out of range")
    return value


def _price(text: str | None, divisor: float) -> float | None:
    """An empty side is null, an empty text or 0."""
    return _scaled(_number(text), divisor) or None if text else None


def _size(text: str | None) -> float | None:
    return _number(text) if text else None


def _scaled(value: float | None, divisor: float) -> float | None:
    """Divided as decimals are: 11580.1 / 10000 is 1.15801."""
    if value is None or divisor == 1.0:
        return value
    return float(Decimal(repr(value)) / Decimal(repr(divisor)))


def _at_ns(text: str) -> int:
    time_ns = parse_ns(text, naive_is_utc=True)
    if not 0 <= time_ns <= 2**63 - 1:
        raise ValueError(f"{text[:40]!r} is outside 1970 to 2262")
    return time_ns


def _of_day(text: str, zone: tzinfo, time_received_ns: int) -> int:
    """The last moment, a minute ahead at most, at which a clock in `zone` showed this time of day."""
    found = _TIME_OF_DAY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no time of day")
    hour, minute, second = map(int, found.groups())
    of_day = time(hour, minute, second)
    today: date = datetime.fromtimestamp((time_received_ns + _AHEAD_NS) // NS_PER_S, zone).date()
    latest_ns = time_received_ns + _AHEAD_NS
    for days in range(3):
        for fold in (1, 0):
            local = datetime.combine(today - timedelta(days=days), of_day.replace(fold=fold), zone)
            at_ns = int(local.astimezone(UTC).timestamp()) * NS_PER_S
            if at_ns <= latest_ns:
                return at_ns
    raise ValueError(f"{text[:40]!r} is no time of the last days")
