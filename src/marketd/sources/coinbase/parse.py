"""What Coinbase Exchange says, as our values. Pure: no clock, no socket, no log.

Formats: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels and …/exchange/reference. To understand a
new message, add its struct to `Message` with an example above it, and its values to `read_message`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, Interval, Quarantined, Quote, SourceEvent, Trade, parse_ns
from marketd.model.time import NS_PER_S

__all__ = [
    "NAME",
    "Candle",
    "Heartbeat",
    "LastMatch",
    "Match",
    "Message",
    "ProviderError",
    "RestTicker",
    "RestTrade",
    "Subscriptions",
    "Ticker",
    "match_text",
    "parse_candles",
    "parse_message",
    "parse_quote",
    "parse_rest_ticker",
    "parse_trade",
    "read_message",
]

NAME = "coinbase"

_INT64_MAX = 2**63 - 1
_SHOWN = 200

TradeId = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]
BookSide = Literal["buy", "sell"]


# {"type":"ticker","sequence":12042642428,"product_id":"BTC-USD","price":"9380.55","open_24h":"9450.81000000",
#  "volume_24h":"9611.79166047","low_24h":"9195.49000000","high_24h":"9475.19000000","volume_30d":"327812.00311873",
#  "best_bid":"9380.54","best_bid_size":"0.46688654","best_ask":"9380.55","best_ask_size":"1.56637040","side":"buy",
#  "time":"2020-02-01T01:40:16.253563Z","trade_id":82062566,"last_size":"0.41969131"}
class Ticker(msgspec.Struct, frozen=True, tag_field="type", tag="ticker"):
    """Sent on trades only, so bid and ask lag between trades. Recordings before 2021 have no book sizes."""

    product_id: str
    time: str
    price: str
    best_bid: str | None = None
    best_ask: str | None = None
    best_bid_size: str | None = None
    best_ask_size: str | None = None
    volume_24h: str | None = None


# {"type":"match","trade_id":82047307,"maker_order_id":"0f358725-…","taker_order_id":"252b7002-…","side":"sell",
#  "size":"0.00513192","price":"9314.78","product_id":"BTC-USD","sequence":12038915443,
#  "time":"2020-01-31T20:03:41.158814Z"}
class Match(msgspec.Struct, frozen=True, tag_field="type", tag="match"):
    """One trade. side: the *maker's*."""

    product_id: str
    time: str
    trade_id: TradeId
    price: str
    size: str
    side: BookSide


# The same fields as `match`.
class LastMatch(msgspec.Struct, frozen=True, tag_field="type", tag="last_match"):
    """The newest trade at the time of subscribing: state, not a new trade."""

    product_id: str
    trade_id: TradeId


# {"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"2014-11-07T08:19:28.464459Z"}
class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """Once a second and product."""

    product_id: str
    last_trade_id: TradeId


# {"type":"subscriptions","channels":[{"name":"ticker","product_ids":["BTC-USD"]}]}
class Subscriptions(msgspec.Struct, frozen=True, tag_field="type", tag="subscriptions"):
    """The answer to subscribe and unsubscribe."""


# {"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not a valid product"}
class ProviderError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    message: str
    reason: str = ""

    @property
    def text(self) -> str:
        return f"{self.message}: {self.reason}" if self.reason else self.message


Message = Ticker | Match | LastMatch | Heartbeat | Subscriptions | ProviderError

_MESSAGE = msgspec.json.Decoder(Message)


# {"time":"2014-11-07T22:19:28.578544Z","trade_id":74,"price":"10.00000000","size":"0.01000000","side":"buy"}
class RestTrade(msgspec.Struct, frozen=True):
    """A row of `/products/{id}/trades`. side: the maker's, as in `match`."""

    trade_id: TradeId
    time: str
    price: str
    size: str
    side: BookSide


# {"ask":"9380.55","bid":"9380.54","volume":"9611.79166047","trade_id":82062566,"price":"9380.55","size":"0.41969131",
#  "time":"2020-02-01T01:40:16.253563Z","rfq_volume":"0.000000"}
class RestTicker(msgspec.Struct, frozen=True):
    """The answer of `/products/{id}/ticker`: the book without sizes, and the last trade with its time."""

    time: str
    price: str
    bid: str | None = None
    ask: str | None = None
    volume: str | None = None


# [1591514160, 0.02507, 0.02508, 0.02507, 0.02508, 0.02816506]
Candle = tuple[Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX // NS_PER_S)], float, float, float, float, float]
"""A row of `/products/{id}/candles`: start in seconds, **low, high, open, close**, volume."""


def parse_message(raw: str, time_received_ns: int) -> list[SourceEvent]:
    """The events in one message of the stream; none for acknowledgements, heartbeats and `last_match`.

    Never raises: what is not as documented is one `Quarantined(reason="malformed")`, and an `error` from the
    exchange one `Quarantined(reason="provider_error")`. Needs nothing but its arguments, so recordings can be read.
    """
    return read_message(raw, time_received_ns)[1]


def read_message(raw: str, time_received_ns: int) -> tuple[Message | None, list[SourceEvent]]:
    """The message, None if it is malformed, and the events in it. Never raises."""
    try:
        message = _MESSAGE.decode(raw)
        match message:
            case Ticker():
                return message, [parse_quote(message, time_received_ns)]
            case Match():
                return message, [parse_trade(message, time_received_ns)]
            case ProviderError():
                return message, [_quarantined("provider_error", message.text, time_received_ns)]
            case _:
                return message, []
    except (ValueError, RecursionError) as error:
        return None, [_quarantined("malformed", f"{error}: {raw[:_SHOWN]!r}", time_received_ns)]


def parse_quote(message: Ticker, time_received_ns: int) -> Quote:
    """Raises ValueError on a number or time that is none."""
    return Quote(
        symbol=message.product_id,
        time_event_ns=_time_ns(message.time),
        time_received_ns=time_received_ns,
        source=NAME,
        bid=_price_or_none(message.best_bid),
        ask=_price_or_none(message.best_ask),
        bid_size=_size_or_none(message.best_bid_size),
        ask_size=_size_or_none(message.best_ask_size),
        last=_number(message.price),
        volume=_size_or_none(message.volume_24h),
    )


def parse_rest_ticker(answer: RestTicker, product: str, time_received_ns: int) -> Quote:
    """Raises ValueError on a number or time that is none."""
    return Quote(
        symbol=product,
        time_event_ns=_time_ns(answer.time),
        time_received_ns=time_received_ns,
        source=NAME,
        bid=_price_or_none(answer.bid),
        ask=_price_or_none(answer.ask),
        last=_number(answer.price),
        volume=_size_or_none(answer.volume),
    )


def parse_trade(message: Match, time_received_ns: int) -> Trade:
    """Raises ValueError on a number or time that is none."""
    return Trade(
        symbol=message.product_id,
        time_event_ns=_time_ns(message.time),
        time_received_ns=time_received_ns,
        source=NAME,
        price=_number(message.price),
        size=_number(message.size),
        aggressor="buy" if message.side == "sell" else "sell",
        trade_id=message.trade_id,
    )


def match_text(product_id: str, trade: RestTrade) -> str:
    """The `match` message that would have brought this trade: a refilled trade comes in by the same door."""
    return msgspec.json.encode(
        Match(
            product_id=product_id,
            time=trade.time,
            trade_id=trade.trade_id,
            price=trade.price,
            size=trade.size,
            side=trade.side,
        )
    ).decode()


def parse_candles(
    rows: Sequence[Candle], *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int
) -> pa.Table:
    """Those of `rows` with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    The exchange sends the newest first, may send rows before the asked start, and includes the running candle.
    Raises MalformedMessage if a candle comes twice.
    """
    table = np.array(rows, np.float64).reshape(-1, 6)  # seconds are exact in a double
    ts = table[:, 0].astype(np.int64) * NS_PER_S
    order = np.argsort(ts)
    ts = ts[order]
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns)
    ts, (_, low, high, open_, close, volume) = ts[keep], table[order][keep].T
    if (np.diff(ts) == 0).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} candle came twice")
    n = len(ts)
    constant = {"symbol": symbol, "interval": interval.name, "side": "trade", "provider": NAME, "status": "backfill"}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    columns |= {"ts": ts, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
    columns |= {"vwap": pa.nulls(n), "trades": pa.nulls(n), "as_of": np.full(n, as_of_ns, np.int64)}
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


# float() alone would take "nan", "1_000" and digits of other scripts
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]!r} is out of range")
    return value


def _price_or_none(text: str | None) -> float | None:
    """An empty side of the book is told as 0 or an empty text."""
    return _number(text) or None if text else None


def _size_or_none(text: str | None) -> float | None:
    return _number(text) if text else None


def _time_ns(text: str) -> int:
    time_ns = parse_ns(text)
    if not 0 <= time_ns <= _INT64_MAX:
        raise ValueError(f"{text!r} is outside 1970 to 2262")
    return time_ns


def _quarantined(reason: str, detail: str, time_received_ns: int) -> Quarantined:
    return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail)
