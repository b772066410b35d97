"""What Binance says, as our values. Pure: no clock, no socket, no log.

Formats: https://github.com/binance/binance-spot-api-docs (web-socket-streams.md, rest-api.md). Messages of the stream
are read a batch at a time into columns, with the decimal texts decoded as numbers on the way. To understand a new one,
add its fields to `_Payload`, its kind to `_KINDS` and its rows to `_columns`; what is no tick goes to `_other`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, BOOK, LAST, TRADE, Interval, Quarantined, Quote, TickBatch
from marketd.model.ticks import NO_TRADE_ID
from marketd.model.time import NS_PER_MS

__all__ = [
    "NAME",
    "Names",
    "RestTrade",
    "Shutdown",
    "Ticker",
    "Understood",
    "parse_klines",
    "parse_quote",
    "parse_tickers",
    "read_batch",
    "trade_text",
]

NAME = "binance"

_INT64_MAX = 2**63 - 1
_SHOWN = 200
_NAN = math.nan

Natural = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]
Bools = npt.NDArray[np.bool_]

_MS_MAX = 10**14
"""Times below are in milliseconds (until the year 5138), those from it in microseconds (since 1973)."""
_TIME_MAX = 9_200_000_000_000_000
_NS_PER_US = 1_000


# {"stream":"bnbusdt@bookTicker","data":{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000",
#  "a":"25.36520000","A":"40.66000000"}}
# {"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100",
#  "T":1672515782136,"m":true,"M":true}}
class _Payload(msgspec.Struct, frozen=True, gc=False):
    """A book ticker, which has no `e` and no time, or a trade. What is absent is told by the defaults."""

    s: str = ""
    e: str = ""
    u: Natural = -1
    b: float = _NAN
    B: float = _NAN
    a: float = _NAN
    A: float = _NAN
    t: Natural = -1
    p: float = _NAN
    q: float = _NAN
    T: Natural = 0


class _Message(msgspec.Struct, frozen=True, gc=False):
    data: _Payload


# Lax, so that "25.35190000" becomes a double right away. Of what is no JSON number in quotes only nan and inf pass.
_MESSAGE = msgspec.json.Decoder(_Message, strict=False)

_IS_BOOK, _IS_TRADE, _IS_OTHER = 0, 1, 2
_KINDS = {"": _IS_BOOK, "trade": _IS_TRADE}


class _Event(msgspec.Struct, frozen=True):
    e: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    code: int | None = None
    msg: str = ""


# {"result":null,"id":1}
# {"code":2,"msg":"Invalid request: too many parameters","id":1}
# {"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}
class _Other(msgspec.Struct, frozen=True):
    """Whatever is no tick."""

    data: _Event | msgspec.UnsetType = msgspec.UNSET
    id: Any = msgspec.UNSET
    code: int | None = None
    msg: str = ""
    error: _Refusal | None = None


_OTHER = msgspec.json.Decoder(_Other)


class Shutdown(msgspec.Struct, frozen=True):
    """The exchange is about to cut this connection."""


class Names:
    """The symbols whose ticks are wanted. symbols: ours, in a fixed order. position: in it, by Binance's name.
    position_of: the same by ours."""

    def __init__(self, ours: Mapping[str, str]) -> None:
        """ours: by Binance's name."""
        self.symbols = tuple(ours.values())
        self.position = {name: position for position, name in enumerate(ours)}
        self.position_of = {symbol: position for position, symbol in enumerate(self.symbols)}


class Understood(msgspec.Struct, frozen=True):
    """ticks: in the order they came, None if there are none. rest: what else was said."""

    ticks: TickBatch | None
    rest: list[Quarantined | Shutdown]


def read_batch(inbox: Sequence[tuple[int, str]], names: Names) -> Understood:
    """What messages of the combined stream, each with the time it came, say of `names`. Never raises.

    A book ticker has no time of its own: its event time is that of its receipt. Acknowledgements and ticks of other
    symbols give nothing; refusals, unknown kinds and what is not as documented are each one `Quarantined`.
    """
    if not inbox:
        return Understood(None, [])
    decode = _MESSAGE.decode
    try:
        return _columns(inbox, [decode(text).data for _, text in inbox], names)
    except (ValueError, RecursionError):
        return _one_by_one(inbox, names)


def _one_by_one(inbox: Sequence[tuple[int, str]], names: Names) -> Understood:
    """The same, when a message among them is no tick."""
    decode = _MESSAGE.decode
    ticks: list[tuple[int, str]] = []
    payloads: list[_Payload] = []
    rest: list[Quarantined | Shutdown] = []
    for message in inbox:
        try:
            payloads.append(decode(message[1]).data)
            ticks.append(message)
        except (ValueError, RecursionError) as error:
            rest += _other(message, str(error))
    if not ticks:
        return Understood(None, rest)
    understood = _columns(ticks, payloads, names)
    return Understood(understood.ticks, rest + understood.rest)


def _columns(inbox: Sequence[tuple[int, str]], payloads: list[_Payload], names: Names) -> Understood:
    received = np.array([time_ns for time_ns, _ in inbox], np.int64)
    kind = np.array([_KINDS.get(d.e, _IS_OTHER) for d in payloads], np.int8)
    index = np.array([names.position.get(d.s, -1) for d in payloads], np.int32)
    # a row a column, so that what is not of a row's kind is NaN in it
    book = np.array(
        [[d.b for d in payloads], [d.a for d in payloads], [d.B for d in payloads], [d.A for d in payloads]]
    )
    trade = np.array([[d.p for d in payloads], [d.q for d in payloads]])
    number = np.array([d.t for d in payloads], np.int64)
    time = np.array([d.T for d in payloads], np.int64)
    update = np.array([d.u for d in payloads], np.int64)

    is_trade = kind == _IS_TRADE
    whole_trade = is_trade & (number >= 0) & (time > 0) & (time < _TIME_MAX) & np.isfinite(trade).all(axis=0)
    whole_book = (kind == _IS_BOOK) & (update >= 0) & np.isfinite(book).all(axis=0)
    whole = whole_trade | whole_book
    rest: list[Quarantined | Shutdown] = []
    for row in np.flatnonzero(~whole).tolist():
        rest += _other(inbox[row], "a number or a field is missing")

    keep = whole & (index >= 0)
    if not keep.any():
        return Understood(None, rest)
    book[:2][book[:2] == 0] = _NAN  # an empty side of the book
    book[2:][np.isnan(book[:2])] = _NAN
    book[:, is_trade] = _NAN
    trade[:, ~is_trade] = _NAN
    time_ns = np.where(is_trade, time * np.where(time < _MS_MAX, NS_PER_MS, _NS_PER_US), received)
    ticks = TickBatch(
        source=NAME,
        symbols=names.symbols,
        symbol_index=index,
        flags=np.where(is_trade, np.uint8(LAST | TRADE), np.uint8(BOOK)),
        time_event_ns=time_ns,
        time_received_ns=received,
        bid=book[0],
        ask=book[1],
        bid_size=book[2],
        ask_size=book[3],
        last=trade[0],
        last_size=trade[1],
        volume=np.full(len(inbox), _NAN),
        trade_id=np.where(is_trade, number, NO_TRADE_ID) if is_trade.any() else None,
    )
    return Understood(ticks if keep.all() else ticks.take(keep), rest)


def _other(message: tuple[int, str], why: str) -> list[Quarantined | Shutdown]:
    """What a message says that is no tick. why: it is none."""
    time_received_ns, text = message
    shown = repr(text[:_SHOWN])
    try:
        other = _OTHER.decode(text)
    except (ValueError, RecursionError) as error:
        return [_quarantined("malformed", f"{error}: {shown}", time_received_ns)]
    refusal = other.error or _Refusal(other.code, other.msg)
    if refusal.code is not None:
        return [_quarantined("provider_error", f"{refusal.code}: {refusal.msg[:_SHOWN]}", time_received_ns)]
    if other.data is msgspec.UNSET:
        if other.id is msgspec.UNSET:
            return [_quarantined("malformed", f"neither data nor an answer: {shown}", time_received_ns)]
        return []
    if other.data.e == "serverShutdown":
        return [Shutdown()]
    if other.data.e in _KINDS:
        return [_quarantined("malformed", f"{why}: {shown}", time_received_ns)]
    return [_quarantined("unknown_message", shown, time_received_ns)]


def _quarantined(reason: str, detail: str, time_received_ns: int) -> Quarantined:
    return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail)


# {"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1499865549590,"isBuyerMaker":true,
#  "isBestMatch":true}
class RestTrade(msgspec.Struct, frozen=True, rename="camel"):
    """A row of `/api/v3/trades` and `/api/v3/historicalTrades`."""

    id: Natural
    price: str
    qty: str
    time: Natural
    is_buyer_maker: bool


def trade_text(name: str, trade: RestTrade) -> str:
    """The message of the stream that would have brought this trade: a refilled trade comes in by the same door."""
    data = {
        "e": "trade",
        "E": trade.time,
        "s": name,
        "t": trade.id,
        "p": trade.price,
        "q": trade.qty,
        "T": trade.time,
        "m": trade.is_buyer_maker,
        "M": True,
    }
    return msgspec.json.encode({"stream": f"{name.lower()}@trade", "data": data}).decode()


# {"symbol":"BNBBTC","priceChange":"-94.99999800",…,"lastPrice":"4.00000200","lastQty":"200.00000000",
#  "bidPrice":"4.00000000","bidQty":"100.00000000","askPrice":"4.00000200","askQty":"100.00000000",…,
#  "volume":"8913.30000000",…,"openTime":1499783499040,"closeTime":1499869899040,"firstId":28385,"lastId":28460,
#  "count":76}
class Ticker(msgspec.Struct, frozen=True, rename="camel"):
    """A row of `/api/v3/ticker/24hr`. last_id: of its last trade, -1 if it had none in the 24 hours."""

    symbol: str
    last_price: float
    bid_price: float
    bid_qty: float
    ask_price: float
    ask_qty: float
    volume: float
    close_time: Natural
    last_id: int


_TICKERS = msgspec.json.Decoder(list[Ticker], strict=False)


def parse_tickers(body: bytes) -> list[Ticker]:
    """The answer of `/api/v3/ticker/24hr` with several symbols, or with all. Raises MalformedMessage."""
    try:
        return _TICKERS.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(NAME, f"tickers: {error}", body) from None


def parse_quote(ticker: Ticker, symbol: str, time_received_ns: int) -> Quote:
    """Its event time is the end of the 24 hours. Raises MalformedMessage on a number or time that is none."""
    numbers = (ticker.last_price, ticker.bid_price, ticker.bid_qty, ticker.ask_price, ticker.ask_qty, ticker.volume)
    if not all(map(math.isfinite, numbers)) or not 0 < ticker.close_time < _TIME_MAX:
        raise MalformedMessage(NAME, f"{symbol}: a ticker with a number or a time that is none")
    unit = NS_PER_MS if ticker.close_time < _MS_MAX else _NS_PER_US
    return Quote(
        symbol=symbol,
        time_event_ns=ticker.close_time * unit,
        time_received_ns=time_received_ns,
        source=NAME,
        bid=ticker.bid_price or None,
        ask=ticker.ask_price or None,
        bid_size=ticker.bid_qty if ticker.bid_price else None,
        ask_size=ticker.ask_qty if ticker.ask_price else None,
        last=ticker.last_price or None,
        volume=ticker.volume,
    )


# [1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,"2434.19055334",
#  308,"1756.87402397","28.46694368","0"]
_Kline = tuple[Natural, float, float, float, float, float, Natural, float, Natural, float, float, float]
"""Open time, open, high, low, close, volume, close time, quote volume, trades, and three that we do not use."""

_KLINES = msgspec.json.Decoder(list[_Kline], strict=False)


class Klines(msgspec.Struct, frozen=True):
    """bars: a `BAR_SCHEMA` table. count, last_ns: of all rows that came, flat and running ones too; 0 if none came."""

    bars: pa.Table
    count: int
    last_ns: int


def parse_klines(body: bytes, *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int) -> Klines:
    """Those rows of `/api/v3/klines` (times in ms) with start_ns <= ts < end_ns that were over at `as_of_ns`,
    ascending.

    Flat rows, which stand for intervals without trades, are left out. `vwap` is quote volume by volume. Raises
    MalformedMessage for what is not as documented, or not ascending.
    """
    try:
        rows = _KLINES.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(NAME, f"{symbol}: klines: {error}", body) from None
    table = np.array(rows, np.float64).reshape(-1, 12)  # milliseconds are exact in a double
    if not np.isfinite(table).all() or (table[:, 0] >= _MS_MAX).any() or (np.diff(table[:, 0]) <= 0).any():
        raise MalformedMessage(NAME, f"{symbol}: {interval} klines with a number that is none, or not ascending", body)
    ts = table[:, 0].astype(np.int64) * NS_PER_MS
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns) & (table[:, 8] > 0)
    _, open_, high, low, close, volume, _, notional, trades, *_ = table[keep].T
    n = len(open_)
    vwap = np.divide(notional, volume, out=np.full(n, _NAN), where=volume > 0)
    constant = {"symbol": symbol, "interval": interval.name, "side": "trade", "provider": NAME, "status": "backfill"}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    columns |= {"ts": ts[keep], "open": open_, "high": high, "low": low, "close": close, "volume": volume}
    columns |= {"trades": trades.astype(np.int64), "as_of": np.full(n, as_of_ns, np.int64)}
    columns["vwap"] = pa.array(vwap, from_pandas=True)
    bars = pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)
    return Klines(bars, len(ts), int(ts[-1]) if len(ts) else 0)
