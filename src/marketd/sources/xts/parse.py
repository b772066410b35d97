"""What XTS says, as documented and as recorded, and what it means. Pure: texts and a receive time in, values out.

Owns the payloads of `https://developers.symphonyfintech.in/doc/marketdata` and the conversion to our types. Refuses to
know clocks, sockets or names: `Reader` is told which symbols an instrument has. To add a message, write its struct
under a sample of it and add its event to `Reader`.

Two wrappings surround a message of the stream: Socket.IO's, and a JSON text inside the JSON (`engineio`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, Interval, MarketState, Quarantined, Quote, SourceEvent
from marketd.model.time import NS_PER_S
from marketd.sources.xts.config import Times
from marketd.sources.xts.engineio import EVENT, event_of
from marketd.sources.xts.symbols import MASTER_SCHEMA, SEGMENT_NAMES, SEGMENTS, Key

__all__ = ["IST_NS", "NAME", "IndexList", "LoggedIn", "Ohlc", "Quotes", "Reader", "Reply", "Subscribed", "Touch"]
__all__ += ["parse_index_list", "parse_master", "parse_message", "parse_ohlc", "quote_of", "read_touch", "time_ns"]

NAME = "xts"
IST_NS = 19_800 * NS_PER_S
"""India's wall clock is so far ahead of UTC; it has had no daylight saving since 1945."""

_SINCE_1980_S = 315_532_800
_INT64_MAX = 2**63 - 1
_SHOWN = 200
_DAY_S = 86_400
_MORE_COLUMNS = "|" * 24

T = TypeVar("T")

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts


class Reply(msgspec.Struct, Generic[T], frozen=True):
    """Every answer of the requests."""

    type: Literal["success"]
    result: T


# {"type":"success","code":"s-user-0001","description":"Valid User.","result":{"token":"eyJ…","userID":"ABC_123",
#  "appVersion":"2.0","application_expiry_date":"10-04-2026"}}
class LoggedIn(msgspec.Struct, frozen=True, rename={"user_id": "userID"}):
    token: str
    user_id: str


# "result":{"mdp":1501,"quotesList":[{"exchangeSegment":1,"exchangeInstrumentID":2885}],
#  "listQuotes":["{\"MessageCode\":1501,…}"],"Remaining_Subscription_Count":47}
class Subscribed(msgspec.Struct, frozen=True):
    """quotes: messages of those that have one yet. remaining: how many more of this kind the session may have."""

    quotes: list[str] = msgspec.field(name="listQuotes", default_factory=list)
    remaining: int | None = msgspec.field(name="Remaining_Subscription_Count", default=None)


class Quotes(msgspec.Struct, frozen=True, rename={"quotes": "listQuotes"}):
    quotes: list[str]


# "result":{"exchangeSegment":"1","indexList":["NIFTY 50_26000","NIFTY BANK_26001","INDIA VIX_26002"]}
class IndexList(msgspec.Struct, frozen=True, rename={"indices": "indexList"}):
    indices: list[str]


# "result":{"exchangeSegment":"NSECM","exchangeInstrumentID":"22","dataReponse":"1736154959|24037.35|…|0|0|,…"}
class Ohlc(msgspec.Struct, frozen=True):
    """The field is misspelt by the server."""

    dataReponse: str  # noqa: N815
    """Rows as `parse_ohlc` reads them."""


class Level(msgspec.Struct, frozen=True, rename="pascal"):
    size: float | None = None
    price: float | None = None


class Touchline(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    last_traded_price: float | None = None
    total_traded_quantity: float | None = None
    last_traded_time: int | None = None
    last_update_time: int | None = None
    ask_info: Level | None = None
    bid_info: Level | None = None


# flat (first snapshot, cash segment):
#   {"MessageCode":1501,"ExchangeSegment":1,"ExchangeInstrumentID":22,"LastTradedPrice":1650.5,"LastTradedQunatity":10,
#    "TotalTradedQuantity":50211,"LastTradedTime":1420629367,"LastUpdateTime":1420629367,"Close":1644.1,
#    "AskInfo":{"Size":1,"Price":1650.6,…},"BidInfo":{"Size":10,"Price":1650.4,…},"XMarketType":1,"BookType":1}
# nested: the same under "Touchline", beside "ExchangeTimeStamp" and "SequenceNumber"; 1502 has "Bids" and "Asks" too
class Touch(Touchline, frozen=True, kw_only=True, rename="pascal"):
    """Messages 1501 and 1502: the best bid and ask, and the last trade. `Close` in them is the previous day's."""

    exchange_segment: int
    exchange_instrument_id: int = msgspec.field(name="ExchangeInstrumentID")
    exchange_time_stamp: int | None = None
    touchline: Touchline | None = None

    @property
    def key(self) -> Key:
        return self.exchange_segment, self.exchange_instrument_id


# {"MessageCode":1507,"ExchangeSegment":2,"ExchangeInstrumentID":0,"ExchangeTimeStamp":1415460600,"exchangeSegment":2,
#  "tradingSession":4,"maketType":1,"message":"THE REGULAR SEGMENT HAS CLOSED FOR 07 NOV 2024","SequenceNumber":…}
class MarketStatus(msgspec.Struct, frozen=True):
    """Message 1507. maketType (sic): 1 is the ordinary market, others are auctions and the like."""

    exchangeSegment: int  # noqa: N815
    maketType: int  # noqa: N815
    message: str


_TOUCH = msgspec.json.Decoder(Touch)
_STATUS = msgspec.json.Decoder(MarketStatus)

_TOUCH_EVENTS = frozenset(("1501-json-full", "1502-json-full"))
_PARTIAL_EVENTS = frozenset(("1501-json-partial", "1502-json-partial"))
_STATUS_EVENT = "1507-json-full"
_OPENED_OR_CLOSED = re.compile(r"\bHAS (OPENED|CLOSED)\b")


def read_touch(payload: str | dict[str, Any]) -> Touch:
    """A message 1501 or 1502. Raises ValueError (msgspec's are) or RecursionError."""
    return _TOUCH.decode(payload) if isinstance(payload, str) else msgspec.convert(payload, Touch)


def quote_of(touch: Touch, symbol: str, time_received_ns: int, times: Times = "auto") -> Quote | None:
    """The quote in it, None if it states no price. Raises ValueError for a time that is none."""
    line = touch if touch.touchline is None else touch.touchline
    stamp = touch.exchange_time_stamp or line.last_update_time or line.last_traded_time
    return _quote(line, stamp, symbol, time_received_ns, times)


def _quote(line: Touchline, stamp: int | None, symbol: str, time_received_ns: int, times: Times) -> Quote | None:
    bid, bid_size = _side(line.bid_info)
    ask, ask_size = _side(line.ask_info)
    last = line.last_traded_price or None
    if bid is None and ask is None and last is None:
        return None
    volume = line.total_traded_quantity
    if not stamp:
        raise ValueError("a quote without a time")
    return Quote(
        symbol=symbol,
        time_event_ns=time_ns(stamp, time_received_ns, times),
        time_received_ns=time_received_ns,
        source=NAME,
        bid=bid,
        ask=ask,
        bid_size=bid_size,
        ask_size=ask_size,
        last=last,
        volume=(volume or None) if bid is None and ask is None else volume,  # an index says 0
    )


def _side(level: Level | None) -> tuple[float | None, float | None]:
    """An empty side of the book is told as 0."""
    if level is None or not level.price:
        return None, None
    return level.price, level.size


def time_ns(seconds: int, time_received_ns: int, times: Times = "auto") -> int:
    """UTC of the seconds of a quote. Raises ValueError outside 1970 to 2262."""
    wall_s = (time_received_ns + IST_NS) // NS_PER_S
    if times == "since_1980" or (times == "auto" and abs(seconds + _SINCE_1980_S - wall_s) < abs(seconds - wall_s)):
        seconds += _SINCE_1980_S
    time = seconds * NS_PER_S - (0 if times == "unix_utc" else IST_NS)
    if not 0 <= time <= _INT64_MAX:
        raise ValueError(f"{seconds} s is outside 1970 to 2262")
    return time


class Reader:
    """Understands the packets of one stream, in their order.

    names: the symbols of each instrument that is wanted; None: any, by XTS's name. times: see `XtsConfig`.
    future_max_s: a quote dated further ahead of its receipt is refused. merge: quotes that tell only what changed are
    completed from what was told before; without it they say nothing.
    """

    def __init__(
        self,
        names: Mapping[Key, Sequence[str]] | None = None,
        *,
        times: Times = "auto",
        future_max_s: float = 300.0,
        merge: bool = False,
    ) -> None:
        self.names = names
        self.ignored: Counter[str] = Counter()
        """Events that say nothing to us, by name; at most 100 names."""
        self._times = times
        self._future_max_ns = round(future_max_s * NS_PER_S)
        self._known: dict[Key, Touchline] | None = {} if merge else None

    def read(self, packet: str, time_received_ns: int) -> list[SourceEvent]:
        """The events in a packet; none for what is neither a quote nor the state of a market.

        Never raises: what is not as documented is one `Quarantined(reason="malformed")`.
        """
        if not packet.startswith(EVENT):
            return []
        try:
            name, payload = event_of(packet)
            if name in _TOUCH_EVENTS:
                return self._touch(read_touch(payload), time_received_ns)
            if name in _PARTIAL_EVENTS:
                return self._partial(payload, time_received_ns)
            if name == _STATUS_EVENT:
                return self._status(payload, time_received_ns)
        except (ValueError, RecursionError) as error:
            return [_quarantined("malformed", f"{error}: {packet[:_SHOWN]!r}", time_received_ns)]
        name = name[:100]
        if name in self.ignored or len(self.ignored) < 100:
            self.ignored[name] += 1
        return []

    def _touch(self, touch: Touch, time_received_ns: int) -> list[SourceEvent]:
        symbols = self._symbols(touch.key)
        if not symbols:
            return []
        quote = quote_of(touch, symbols[0], time_received_ns, self._times)
        if self._known is not None:
            self._known[touch.key] = touch if touch.touchline is None else touch.touchline
        return self._accepted(quote, symbols)

    # t:1_22,ltp:1650.5,ltq:10,tb:1200,ts:900,v:50211,ap:1648.2,pc:0.4,lut:1710845853,ltt:1710845853,o:1644.1,h:1651,
    # l:1640.2,c:1644.1,ai:0|1|1650.6|1,bi:0|10|1650.4|2           (or the same as a JSON object)
    def _partial(self, payload: str | dict[str, Any], time_received_ns: int) -> list[SourceEvent]:
        if self._known is None:
            return []
        if isinstance(payload, str):
            told = {name: value for name, _, value in (field.partition(":") for field in payload.split(","))}
        else:
            told = {name: str(value) for name, value in payload.items()}
        key = _partial_key(told.get("t", ""))
        symbols = self._symbols(key)
        if not symbols:
            return []
        before = self._known.get(key) or Touchline()
        line = Touchline(
            last_traded_price=_number(told["ltp"]) if "ltp" in told else before.last_traded_price,
            total_traded_quantity=_number(told["v"]) if "v" in told else before.total_traded_quantity,
            last_traded_time=_seconds(told["ltt"]) if "ltt" in told else before.last_traded_time,
            last_update_time=_seconds(told["lut"]) if "lut" in told else before.last_update_time,
            ask_info=_level(told["ai"]) if "ai" in told else before.ask_info,
            bid_info=_level(told["bi"]) if "bi" in told else before.bid_info,
        )
        stamp = line.last_update_time or line.last_traded_time
        quote = _quote(line, stamp, symbols[0], time_received_ns, self._times)
        self._known[key] = line
        return self._accepted(quote, symbols)

    def _status(self, payload: str | dict[str, Any], time_received_ns: int) -> list[SourceEvent]:
        status = _STATUS.decode(payload) if isinstance(payload, str) else msgspec.convert(payload, MarketStatus)
        word = _OPENED_OR_CLOSED.search(status.message)
        if word is None or status.maketType != 1 or self.names is None:
            return []
        state: Literal["open", "closed"] = "open" if word.group(1) == "OPENED" else "closed"
        return [
            MarketState(source=NAME, symbol=symbol, time_received_ns=time_received_ns, state=state)
            for (segment, _), symbols in self.names.items()
            if segment == status.exchangeSegment
            for symbol in symbols
        ]

    def _symbols(self, key: Key) -> Sequence[str]:
        if self.names is not None:
            return self.names.get(key, ())
        return (f"{SEGMENT_NAMES.get(key[0], key[0])}:{key[1]}",)

    def _accepted(self, quote: Quote | None, symbols: Sequence[str]) -> list[SourceEvent]:
        if quote is None:
            return []
        ahead_ns = quote.time_event_ns - quote.time_received_ns
        if ahead_ns > self._future_max_ns:
            detail = f"{symbols[0]}: dated {ahead_ns / NS_PER_S:.0f} s ahead; is `times` right for this broker?"
            return [_quarantined("time_ahead", detail, quote.time_received_ns, symbols[0])]
        if len(symbols) == 1:
            return [quote]
        return [msgspec.structs.replace(quote, symbol=symbol) for symbol in symbols]


def parse_message(raw: str, time_received_ns: int) -> list[SourceEvent]:
    """The events in one packet of the stream, under XTS's names (`NSECM:2885`). Never raises; see `Reader.read`."""
    return Reader().read(raw, time_received_ns)


def parse_ohlc(
    text: str, *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int, index: bool, cash: bool
) -> pa.Table:
    """Those of the rows with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    `1736154959|24037.35|24054.95|24022.9|24045.15|0|0|,1736155019|…`: the *last* second of the bar in Unix seconds of
    India's wall clock, open, high, low, close, volume, open interest. A row of no volume whose price did not move
    is a minute without trades, unless it is of an index, which has no volume at all. A day's bar has the date it is of.
    cash: of a segment whose day ends at 16:00 in India at the latest; others' at midnight. Raises MalformedMessage.
    """
    rows = [row for row in text.split(",") if row]
    if not rows:
        return BAR_SCHEMA.empty_table()
    try:
        columns = _columns(rows)
    except ValueError as error:
        raise MalformedMessage(NAME, f"{symbol}: bars of {interval}: {error}", text) from None
    stamp = columns[0].astype(np.int64)
    if interval.name != "1d" and len(stamp) > 1 and not (stamp % 60).any():
        raise MalformedMessage(NAME, f"{symbol}: bars of {interval} are stamped with whole minutes", text)
    wall_ns = interval.floor(stamp * NS_PER_S)
    if interval.name == "1d":
        ts = wall_ns
        over = wall_ns + (16 * 3_600 if cash else _DAY_S) * NS_PER_S <= as_of_ns + IST_NS
    else:
        ts = wall_ns - IST_NS
        over = ts <= as_of_ns - interval.ns
    order = np.argsort(ts, kind="stable")
    keep = ((ts >= start_ns) & (ts < end_ns) & over)[order]
    order = order[keep]
    ts = ts[order]
    if (np.diff(ts) == 0).any():
        raise MalformedMessage(NAME, f"{symbol}: a bar of {interval} came twice", text)
    open_, high, low, close, volume = (columns[place][order] for place in range(1, 6))
    counted = (volume > 0) & (not index)
    told = counted | (high > low) | index
    ts, open_, high, low, close = (column[told] for column in (ts, open_, high, low, close))
    volume, counted = volume[told], counted[told]
    n = len(ts)
    constant = {"symbol": symbol, "interval": interval.name, "side": "trade", "provider": NAME, "status": "backfill"}
    found: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    found |= {"ts": ts, "open": open_, "high": high, "low": low, "close": close}
    found |= {"volume": pa.array(volume, mask=~counted)}
    found |= {"vwap": pa.nulls(n), "trades": pa.nulls(n), "as_of": np.full(n, as_of_ns, np.int64)}
    return pa.Table.from_arrays([pa.array(found[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


def _columns(rows: list[str]) -> list[Any]:
    """The first six columns of rows of equal length. Raises ValueError."""
    cells = pc.split_pattern(pa.array(rows), "|")
    lengths = pc.list_value_length(cells)
    low, high = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    if low != high or low < 7:
        raise ValueError(f"rows of {low} to {high} columns instead of one number of at least 7")
    columns = [pc.list_element(cells, place).cast(pa.float64()).to_numpy() for place in range(6)]
    stamp = columns[0]
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("a number that is none")
    if (stamp != np.floor(stamp)).any() or (stamp < 0).any() or (stamp > _INT64_MAX // NS_PER_S - _DAY_S).any():
        raise ValueError("a stamp that is not Unix seconds")
    return columns


# NSECM|2885|8|RELIANCE|RELIANCE-EQ|EQ|RELIANCE-EQ|1100100002885|1440.4|1178.6|67662|0.1|1|1|RELIANCE|INE002A01018|1|1|…
# NSEFO|62329|1|NIFTY|NIFTY26JUNFUT|FUTIDX|NIFTY-FUTIDX|2618100062329|26237.7|21467.3|1801|0.1|65|1|-1|Nifty 50|
#   2026-06-30T14:30:00|NIFTY 30JUN2026|1|1|NIFTY26JUNFUT
# NSEFO|48225|2|NIFTY|NIFTY2621725700PE|OPTIDX|NIFTY-OPTIDX|2604800048225|588.1|14.5|1801|0.05|65|1|-1|Nifty 50|
#   2026-02-17T14:30:00|25700|4|NIFTY 17FEB2026 PE 25700|1|1|NIFTY2621725700PE
def parse_master(text: str) -> pa.Table:
    """The instruments of a master, a `MASTER_SCHEMA` table whose `symbol` is empty; `XtsSymbols.load` gives it.

    Lines of `ExchangeSegment|ExchangeInstrumentID|InstrumentType|Name|Description|Series|NameWithSeries|InstrumentID|
    PriceBandHigh|PriceBandLow|FreezeQty|TickSize|LotSize|Multiplier|…`, then by type: shares (8) DisplayName|ISIN|…,
    futures (1) and spreads (4) UnderlyingInstrumentId|UnderlyingIndexName|ContractExpiration|DisplayName|…, options (2)
    the same with StrikePrice|OptionType (3 or 1 call, 4 or 2 put) before DisplayName. Other lines are left out.
    Raises MalformedMessage if there are lines and none is an instrument, and for a date that is none.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        table = _master(lines) if lines else MASTER_SCHEMA.empty_table()
    except ValueError as error:
        raise MalformedMessage(NAME, f"master: {error}", text) from None
    if lines and not table.num_rows:
        raise MalformedMessage(NAME, "master: no instrument in it", text)
    return table


def _master(lines: list[str]) -> pa.Table:
    """Raises ValueError for a date that is none."""
    padded = pc.binary_join_element_wise(pc.utf8_trim(pa.array(lines), "\r "), _MORE_COLUMNS, "")
    cells = pc.split_pattern(padded, "|")
    numbered = pc.match_substring_regex(pc.list_element(cells, 1), r"^[0-9]{1,15}$")
    known = pc.is_in(pc.list_element(cells, 0), value_set=pa.array(SEGMENTS))
    cells = cells.filter(pc.and_(numbered, known))

    def column(place: int) -> pa.Array[Any]:
        found: pa.Array[Any] = pc.list_element(cells, place)
        return found

    kinds = {"1": "future", "2": "option", "4": "spread", "8": "equity", "16": "index"}
    kind_place = pc.index_in(column(2), value_set=pa.array(list(kinds)))
    kind = pc.fill_null(pc.take(pa.array(list(kinds.values())), kind_place), "other")
    dated = pc.is_in(kind, value_set=pa.array(["future", "option", "spread"]))
    option = pc.equal(kind, "option")
    right_place = pc.index_in(column(18), value_set=pa.array(["3", "4", "1", "2", "CE", "PE"]))
    right = pc.take(pa.array(["call", "put", "call", "put", "call", "put"]), right_place)
    day = pc.utf8_slice_codeunits(column(16), 0, 10)
    day = pc.if_else(pc.and_(dated, pc.match_substring_regex(day, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")), day, None)
    isin = pc.if_else(pc.and_(pc.equal(kind, "equity"), pc.not_equal(column(15), "")), column(15), None)
    columns = {
        "symbol": pa.repeat(pa.scalar(""), len(cells)),
        "segment": column(0),
        "id": column(1).cast(pa.int64()),
        "kind": kind,
        "name": pc.utf8_upper(column(3)),
        "description": pc.utf8_upper(column(4)),
        "series": column(5),
        "isin": pc.utf8_upper(isin),
        "lot": _numbers(column(12)),
        "tick": _numbers(column(11)),
        "expiry": day.cast(pa.date32()),
        "strike": pc.if_else(option, _numbers(column(17)), None),
        "right": pc.if_else(option, right, None),
    }
    return pa.table(columns, schema=MASTER_SCHEMA)


def parse_index_list(names: Sequence[str], segment: str) -> pa.Table:
    """Indices as a `MASTER_SCHEMA` table: `NIFTY 50_26000` is the name and the instrument. Others are left out."""
    found = [re.fullmatch(r"(.+)_([0-9]{1,15})", name.strip(), re.ASCII) for name in names]
    pairs = [(match.group(1).strip().upper(), int(match.group(2))) for match in found if match is not None]
    values: dict[str, list[Any]] = {name: [None] * len(pairs) for name in MASTER_SCHEMA.names}
    values |= {"name": [name for name, _ in pairs], "description": [name for name, _ in pairs]}
    values |= {"id": [number for _, number in pairs], "symbol": [""] * len(pairs)}
    constant = {"segment": segment, "kind": "index", "series": "INDEX"}
    values |= {name: [value] * len(pairs) for name, value in constant.items()}
    return pa.table(values, schema=MASTER_SCHEMA)


_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_LEVEL = re.compile(r"[0-9]+\|([0-9.]+)\|([-0-9.]+)(?:\|[0-9]*)?")
_PARTIAL_KEY = re.compile(r"([0-9]{1,5})_([0-9]{1,15})")


def _numbers(texts: pa.Array[Any]) -> pa.Array[Any]:
    """Numbers, null where a text is none."""
    fits = pc.match_substring_regex(texts, r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$")
    numbers: pa.Array[Any] = pc.if_else(fits, texts, None).cast(pa.float64())
    return numbers


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    return float(text)


def _seconds(text: str) -> int:
    value = _number(text)
    if not value.is_integer():
        raise ValueError(f"{text[:40]!r} is not whole seconds")
    return int(value)


def _level(text: str) -> Level:
    """`0|10|2409.85|2`: level, size, price, orders."""
    match = _LEVEL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a level of the book")
    return Level(size=_number(match.group(1)), price=_number(match.group(2)))


def _partial_key(text: str) -> Key:
    match = _PARTIAL_KEY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an instrument")
    return int(match.group(1)), int(match.group(2))


def _quarantined(reason: str, detail: str, time_received_ns: int, symbol: str | None = None) -> Quarantined:
    return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail, symbol=symbol)
