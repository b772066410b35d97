"""What Kraken says, as our values. Pure: no clock, no socket, no log.

Formats: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2 and …/spot-rest-api. To understand a new
channel, add its struct to `Message` with an example above it, and what it means to the feed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, Interval, Quarantined, Quote, Trade, parse_ns
from marketd.model.time import NS_PER_S

__all__ = [
    "NAME",
    "Answer",
    "Heartbeat",
    "Message",
    "Ohlc",
    "RestTrade",
    "Status",
    "TickerMessage",
    "TickerRow",
    "TradeMessage",
    "TradeRow",
    "bars_of_trades",
    "parse_ohlc",
    "parse_quote",
    "parse_rest_ticker",
    "parse_rest_trades",
    "parse_trade",
    "read_message",
    "trade_text",
]

NAME = "kraken"

_INT64_MAX = 2**63 - 1
_SHOWN = 200
_NS_PER_US = 1_000

Natural = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]
Size = Annotated[float, msgspec.Meta(ge=0)]
Kind = Literal["snapshot", "update"]


class TickerRow(msgspec.Struct, frozen=True):
    """volume: of 24 hours. timestamp: older versions of the stream do not tell it."""

    symbol: str
    bid: float | None = None
    bid_qty: float | None = None
    ask: float | None = None
    ask_qty: float | None = None
    last: float | None = None
    volume: float | None = None
    timestamp: str | None = None


# {"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":105944.20,"bid_qty":2.5,"ask":105944.30,
#  "ask_qty":3.2,"last":105899.40,"volume":163.28908096,"vwap":105904.39279,"low":104711.00,"high":106613.10,
#  "change":250.00,"change_pct":0.24,"timestamp":"2026-04-28T09:30:59.123456Z"}]}
class TickerMessage(msgspec.Struct, frozen=True, tag_field="channel", tag="ticker"):
    """With the trigger `bbo`: sent whenever the best bid or offer changes."""

    data: list[TickerRow]


class TradeRow(msgspec.Struct, frozen=True):
    """side: the taker's. trade_id: consecutive per symbol."""

    symbol: str
    side: Literal["buy", "sell"]
    price: float
    qty: float
    trade_id: Natural
    timestamp: str


# {"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,
#  "ord_type":"limit","trade_id":10218208,"timestamp":"2023-10-06T17:35:55.440295Z"}]}
class TradeMessage(msgspec.Struct, frozen=True, tag_field="channel", tag="trade"):
    """A snapshot holds the last 50 trades at the time of subscribing: state, not new trades."""

    type: Kind
    data: list[TradeRow]


# {"channel":"heartbeat"}
class Heartbeat(msgspec.Struct, frozen=True, tag_field="channel", tag="heartbeat"):
    """About once a second while nothing else is sent."""


class StatusRow(msgspec.Struct, frozen=True):
    system: str


# {"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online","api_version":"v2",
#  "connection_id":12393906104898154338}]}
class Status(msgspec.Struct, frozen=True, tag_field="channel", tag="status"):
    """system: online, maintenance, cancel_only, post_only."""

    data: list[StatusRow]


# {"error":"Currency pair not supported FOO/BAR","method":"subscribe","success":false,"symbol":"FOO/BAR",
#  "time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z","req_id":1}
class Answer(msgspec.Struct, frozen=True):
    """To a command: one for each symbol it named. channel: of a message that is none of `Message`."""

    method: str = ""
    success: bool = True
    error: str | None = None
    symbol: str | None = None
    channel: str | None = None


Message = TickerMessage | TradeMessage | Heartbeat | Status

_MESSAGE = msgspec.json.Decoder(Message)
_ANSWER = msgspec.json.Decoder(Answer)
_KNOWN = ("ticker", "trade", "heartbeat", "status")


def read_message(raw: str, time_received_ns: int) -> Message | Answer | Quarantined:
    """One message of the stream. Never raises: what is not as documented is `Quarantined`, as `unknown_message` if its
    channel is none that we know, else as `malformed`."""
    try:
        message: Message = _MESSAGE.decode(raw)
    except (ValueError, RecursionError) as error:
        why = str(error)
    else:
        return message
    reason = "malformed"
    try:
        answer = _ANSWER.decode(raw)
    except (ValueError, RecursionError) as error:
        why = str(error)
    else:
        if answer.channel is None and (answer.method or answer.error is not None):
            return answer
        if answer.channel is not None and answer.channel not in _KNOWN:
            reason = "unknown_message"
    detail = f"{why}: {raw[:_SHOWN]!r}"
    return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail)


def parse_quote(row: TickerRow, symbol: str, time_received_ns: int) -> Quote:
    """Raises ValueError on a time that is none."""
    return Quote(
        symbol=symbol,
        time_event_ns=time_received_ns if row.timestamp is None else _time_ns(row.timestamp),
        time_received_ns=time_received_ns,
        source=NAME,
        bid=row.bid or None,
        ask=row.ask or None,
        bid_size=row.bid_qty if row.bid else None,
        ask_size=row.ask_qty if row.ask else None,
        last=row.last or None,
        volume=row.volume,
    )


def parse_trade(row: TradeRow, symbol: str, time_received_ns: int) -> Trade:
    """Raises ValueError on a time that is none."""
    return Trade(
        symbol=symbol,
        time_event_ns=_time_ns(row.timestamp),
        time_received_ns=time_received_ns,
        source=NAME,
        price=row.price,
        size=row.qty,
        aggressor=row.side,
        trade_id=row.trade_id,
    )


# ["105433.60000","0.00027625",1762795433.9717445,"b","l","",10218208]
class RestTrade(msgspec.Struct, frozen=True, array_like=True):
    """A row of `/0/public/Trades`. time: seconds. side: the taker's."""

    price: str
    volume: str
    time: Decimal
    side: Literal["b", "s"]
    kind: str
    misc: str
    trade_id: Natural

    @property
    def time_ns(self) -> int:
        return int(self.time * NS_PER_S)

    def check(self) -> None:
        """Raises ValueError on a number or time that is none."""
        _number(self.price)
        _number(self.volume)
        if not 0 < self.time < _INT64_MAX // NS_PER_S:
            raise ValueError(f"{self.time} is no time")


_REST_TRADES = msgspec.json.Decoder(list[RestTrade])


def parse_rest_trades(rows: msgspec.Raw, symbol: str) -> list[RestTrade]:
    """Rows of `/0/public/Trades`. Raises MalformedMessage."""
    try:
        trades = _REST_TRADES.decode(rows)
        for trade in trades:
            trade.check()
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(NAME, f"{symbol}: trades: {error}", bytes(rows)) from None
    return trades


def trade_text(name: str, trade: RestTrade) -> str:
    """The message of the stream that would have brought this trade: a refilled trade comes in by the same door.

    The stream tells times to the microsecond, and so does this.
    """
    seconds, rest_ns = divmod(trade.time_ns, NS_PER_S)
    whole = np.datetime_as_string(np.datetime64(seconds, "s"))
    row = {
        "symbol": name,
        "side": "buy" if trade.side == "b" else "sell",
        "price": float(trade.price),
        "qty": float(trade.volume),
        "ord_type": "limit" if trade.kind == "l" else "market",
        "trade_id": trade.trade_id,
        "timestamp": f"{whole}.{rest_ns // _NS_PER_US:06d}Z",
    }
    return msgspec.json.encode({"channel": "trade", "type": "update", "data": [row]}).decode()


# {"a":["30300.10000","1","1.000"],"b":["30300.00000","1","1.000"],"c":["30303.20000","0.00067643"],
#  "v":["4083.67001100","4412.73601799"],"p":[…],"t":[34619,38907],"l":[…],"h":[…],"o":"30502.80000"}
class _RestTicker(msgspec.Struct, frozen=True):
    """a, b: price, whole lots, lots. c: price and size of the last trade. v: volume of today, of 24 hours."""

    a: tuple[float, float, float]
    b: tuple[float, float, float]
    c: tuple[float, float]
    v: tuple[float, float]


_REST_TICKER = msgspec.json.Decoder(_RestTicker, strict=False)


def parse_rest_ticker(row: msgspec.Raw, symbol: str, time_received_ns: int) -> Quote:
    """A row of `/0/public/Ticker`, which tells no time: that of its receipt. Raises MalformedMessage."""
    try:
        ticker = _REST_TICKER.decode(row)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(NAME, f"{symbol}: ticker: {error}", bytes(row)) from None
    ask, _, ask_size = ticker.a
    bid, _, bid_size = ticker.b
    if not all(map(math.isfinite, (ask, ask_size, bid, bid_size, ticker.c[0], ticker.v[1]))):
        raise MalformedMessage(NAME, f"{symbol}: ticker with a number that is none", bytes(row))
    return Quote(
        symbol=symbol,
        time_event_ns=time_received_ns,
        time_received_ns=time_received_ns,
        source=NAME,
        bid=bid or None,
        ask=ask or None,
        bid_size=bid_size if bid else None,
        ask_size=ask_size if ask else None,
        last=ticker.c[0] or None,
        volume=ticker.v[1],
    )


# [1762777140,"106038.3","106038.3","106038.3","106038.3","106038.3","0.00032101",1]
_OhlcRow = tuple[Natural, float, float, float, float, float, float, Natural]
"""Start in seconds, open, high, low, close, vwap, volume, number of trades."""

_OHLC = msgspec.json.Decoder(list[_OhlcRow], strict=False)


class Ohlc(msgspec.Struct, frozen=True):
    """bars: a `BAR_SCHEMA` table. count: of all rows that came. first_ns: start of the first of them, 0, or 0."""

    bars: pa.Table
    count: int
    first_ns: int


def parse_ohlc(
    rows: msgspec.Raw, *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int
) -> Ohlc:
    """Those rows of `/0/public/OHLC` with start_ns <= ts < end_ns that were over at `as_of_ns`, ascending.

    Flat rows, which stand for intervals without trades, are left out. Raises MalformedMessage for what is not as
    documented, or not ascending.
    """
    try:
        decoded = _OHLC.decode(rows)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(NAME, f"{symbol}: OHLC: {error}", bytes(rows)) from None
    table = np.array(decoded, np.float64).reshape(-1, 8)  # seconds are exact in a double
    seconds = table[:, 0]
    if not np.isfinite(table).all() or (seconds > _INT64_MAX // NS_PER_S).any() or (np.diff(seconds) <= 0).any():
        raise MalformedMessage(NAME, f"{symbol}: {interval} OHLC with a number that is none, or not ascending")
    ts = seconds.astype(np.int64) * NS_PER_S
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns) & (table[:, 7] > 0)
    _, open_, high, low, close, vwap, volume, trades = table[keep].T
    columns = {"ts": ts[keep], "open": open_, "high": high, "low": low, "close": close, "volume": volume}
    columns |= {"vwap": vwap, "trades": trades.astype(np.int64)}
    return Ohlc(_bars(columns, symbol, interval, as_of_ns), len(ts), int(ts[0]) if len(ts) else 0)


def bars_of_trades(
    trades: Sequence[RestTrade], *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int
) -> pa.Table:
    """The bars that these trades, ascending by time, make from start_ns to before end_ns, as a `BAR_SCHEMA` table.

    The caller has every trade of each of these intervals.
    """
    time_ns = np.array([trade.time_ns for trade in trades], np.int64)
    price = np.array([float(trade.price) for trade in trades], np.float64)
    size = np.array([float(trade.volume) for trade in trades], np.float64)
    inside = (time_ns >= start_ns) & (time_ns < end_ns)
    ts, price, size = interval.floor(time_ns[inside]), price[inside], size[inside]
    first = np.flatnonzero(np.diff(ts, prepend=-1))
    last = np.append(first[1:], len(ts)) - 1
    empty = np.empty(0, np.float64)

    def summed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.add.reduceat(values, first) if len(first) else empty

    # volumes have eight decimals: rounded, their sum is the double that OHLC's text becomes
    volume = np.round(summed(size), 8)
    columns = {
        "ts": ts[first],
        "open": price[first],
        "high": np.maximum.reduceat(price, first) if len(first) else empty,
        "low": np.minimum.reduceat(price, first) if len(first) else empty,
        "close": price[last] if len(first) else empty,
        "volume": volume,
        "vwap": np.divide(summed(price * size), volume, out=np.full(len(first), np.nan), where=volume > 0),
        "trades": last - first + 1 if len(first) else np.empty(0, np.int64),
    }
    return _bars(columns, symbol, interval, as_of_ns)


def _bars(columns: dict[str, Any], symbol: str, interval: Interval, as_of_ns: int) -> pa.Table:
    n = len(columns["ts"])
    constant = {"symbol": symbol, "interval": interval.name, "side": "trade", "provider": NAME, "status": "backfill"}
    filled: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    filled |= columns
    filled["vwap"] = pa.array(columns["vwap"], pa.float64(), from_pandas=True)
    filled["as_of"] = np.full(n, as_of_ns, np.int64)
    return pa.Table.from_arrays([pa.array(filled[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


# float() alone would take "nan", "1_000" and digits of other scripts
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None or len(text) > 40:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    return float(text)


def _time_ns(text: str) -> int:
    time_ns = parse_ns(text)
    if not 0 <= time_ns <= _INT64_MAX:
        raise ValueError(f"{text!r} is outside 1970 to 2262")
    return time_ns
