"""What Finnhub says, as our values. Pure: no clock, no socket, no log.

Formats: https://finnhub.io/docs/api. To understand a new kind of message of the stream, give it a case in
`read_messages` with an example above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import MalformedMessage
from marketd.model import ADJUSTED, BAR_SCHEMA, LAST, OPTION_SCHEMA, TRADE, Interval, Quarantined, Quote, TickBatch
from marketd.model.time import NS_PER_MS, NS_PER_S

__all__ = [
    "NAME",
    "Candles",
    "ChainAnswer",
    "Heard",
    "Names",
    "RestQuote",
    "parse_candles",
    "parse_chain",
    "parse_quote",
    "read_messages",
]

NAME = "finnhub"

_INT64_MAX = 2**63 - 1
_SHOWN = 200
_DAY_NS = 86_400 * NS_PER_S

Seconds = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX // NS_PER_S)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX // NS_PER_MS)]


# {"c":261.74,"d":1.2,"dp":0.46,"h":263.31,"l":260.68,"o":261.07,"pc":259.45,"t":1582641000}
# and of a symbol that there is not: {"c":0,"d":null,"dp":null,"h":0,"l":0,"o":0,"pc":0,"t":0}
class RestQuote(msgspec.Struct, frozen=True):
    """c: the last price. t: its time in seconds; 0 says that there is no such symbol."""

    c: float
    t: Seconds


# {"c":[217.68,221.03],"h":[222.49,221.5],"l":[217.19,217.1402],"o":[221.03,218.55],"s":"ok",
#  "t":[1569297600,1569384000],"v":[33463820,24018876]}   or   {"s":"no_data"}
class Candles(msgspec.Struct, frozen=True):
    """s: `ok` or `no_data`. t: starts, seconds UTC."""

    s: str
    t: list[Seconds] | None = None
    o: list[float] | None = None
    h: list[float] | None = None
    l: list[float] | None = None  # noqa: E741 - Finnhub's name
    c: list[float] | None = None
    v: list[float] | None = None


# {"contractName":"AAPL261218C00150000","contractSize":"REGULAR","currency":"USD","strike":150,"lastPrice":112.1,
#  "bid":111.6,"ask":112.4,"volume":12,"openInterest":340,"impliedVolatility":48.6,"delta":0.98,"gamma":0.001,
#  "theta":-0.03,"vega":0.02,"rho":0.11, …}
class Contract(msgspec.Struct, frozen=True, rename="camel"):
    contract_name: str
    strike: float
    contract_size: str | None = None
    currency: str | None = None
    last_price: float | None = None
    bid: float | None = None
    ask: float | None = None
    volume: float | None = None
    open_interest: float | None = None
    implied_volatility: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None


class Expiry(msgspec.Struct, frozen=True, rename="camel"):
    """options: lists of contracts by `CALL` and `PUT`."""

    expiration_date: date
    options: dict[str, list[Contract]] = {}


# {"code":"AAPL","exchange":"US","lastTradeDate":"2026-11-20","lastTradePrice":261.74,"data":[{"expirationDate":
#  "2026-12-18","options":{"CALL":[…],"PUT":[…]}, …}]}
class ChainAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of `/stock/option-chain`. Without data there are no options of that symbol."""

    data: list[Expiry]
    last_trade_price: float | None = None


def parse_quote(answer: RestQuote, symbol: str, time_received_ns: int) -> Quote:
    """Raises MalformedMessage for a price that is none."""
    if not answer.c > 0:
        raise MalformedMessage(NAME, f"{symbol}: the price {answer.c!r}")
    return Quote(
        symbol=symbol,
        time_event_ns=answer.t * NS_PER_S,
        time_received_ns=time_received_ns,
        source=NAME,
        last=answer.c,
    )


def parse_candles(
    answer: Candles, *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int
) -> pa.Table:
    """Those with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    A daily candle is stamped with midnight in New York or in UTC: it is of that UTC day either way. Raises
    MalformedMessage: columns of different lengths, a candle twice, one that begins between two starts.
    """
    if answer.s == "no_data":
        return BAR_SCHEMA.empty_table()
    told = (answer.o, answer.h, answer.l, answer.c)
    if answer.s != "ok" or answer.t is None or any(column is None or len(column) != len(answer.t) for column in told):
        raise MalformedMessage(NAME, f"{symbol}: candles {answer.s[:40]!r} without all of t, o, h, l, c")
    n = len(answer.t)
    if answer.v is not None and len(answer.v) != n:
        raise MalformedMessage(NAME, f"{symbol}: {n} candles with {len(answer.v)} volumes")
    ts = np.array(answer.t, np.int64) * NS_PER_S
    if interval.ns == _DAY_NS:
        ts = interval.floor(ts)
    elif (interval.floor(ts) != ts).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} candle does not begin where one does")
    order = np.argsort(ts, kind="stable")
    ts = ts[order]
    if (np.diff(ts) == 0).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} candle came twice")
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns)
    chosen = order[keep]
    prices = np.array(told, np.float64).reshape(4, n)[:, chosen]
    n = len(chosen)
    constant = {
        "symbol": symbol,
        "interval": interval.name,
        "side": "trade",
        "provider": NAME + ADJUSTED,
        "status": "backfill",
    }
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    columns |= {"ts": ts[keep], **dict(zip(("open", "high", "low", "close"), prices, strict=True))}
    columns["volume"] = pa.nulls(n) if answer.v is None else np.array(answer.v, np.float64)[chosen]
    columns |= {"vwap": pa.nulls(n), "trades": pa.nulls(n), "as_of": np.full(n, as_of_ns, np.int64)}
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


def parse_chain(
    answer: ChainAnswer, symbol: str, expiry: date, time_received_ns: int, volatility_scale: float
) -> pa.Table:
    """The contracts of `expiry`, as an `OPTION_SCHEMA` table by strike and right.

    A price of 0 is absent, and so is a volatility of 0. When a contract was last traded is written without a zone, and
    left out. volatility_scale: what a volatility is multiplied by to be a fraction.
    """
    rows: list[Contract] = []
    rights: list[str] = []
    for told in answer.data:
        if told.expiration_date == expiry:
            for right, key in (("call", "CALL"), ("put", "PUT")):
                here = told.options.get(key, [])
                rows += here
                rights += [right] * len(here)
    if not rows:
        return OPTION_SCHEMA.empty_table()
    table = pa.Table.from_pylist(msgspec.to_builtins(rows), _CONTRACT)
    n = table.num_rows
    size = pc.index_in(table["contractSize"], pa.array(["REGULAR", "MINI"]))
    price = answer.last_trade_price
    columns: dict[str, Any] = {
        "underlying": pa.repeat(pa.scalar(symbol), n),
        "contract": table["contractName"],
        "expiry": pa.repeat(pa.scalar(expiry, pa.date32()), n),
        "strike": table["strike"],
        "right": pa.array(rights),
        "bid": _positive(table["bid"]),
        "ask": _positive(table["ask"]),
        "last": _positive(table["lastPrice"]),
        "volume": table["volume"],
        "open_interest": table["openInterest"],
        "implied_volatility": pc.multiply(_positive(table["impliedVolatility"]), volatility_scale),
        **{greek: table[greek] for greek in ("delta", "gamma", "theta", "vega", "rho")},
        "underlying_price": pa.repeat(pa.scalar(price if price and price > 0 else None, pa.float64()), n),
        "multiplier": pc.take(pa.array([100.0, 10.0]), size),
        "currency": table["currency"],
        "provider": pa.repeat(pa.scalar(NAME), n),
        "time_received": pa.repeat(pa.scalar(time_received_ns, pa.int64()), n),
    }
    arrays = [pc.cast(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in OPTION_SCHEMA]
    found = pa.Table.from_arrays(arrays, schema=OPTION_SCHEMA)
    return found.sort_by([("strike", "ascending"), ("right", "ascending"), ("contract", "ascending")]).combine_chunks()


_TEXTS = ("contractName", "contractSize", "currency")
_CONTRACT = pa.schema(
    [pa.field(name, pa.string() if name in _TEXTS else pa.float64()) for name in Contract.__struct_encode_fields__]
)


def _positive(column: Any) -> Any:
    return pc.if_else(pc.greater(column, pa.scalar(0.0)), column, None)


# {"s":"AAPL","p":261.74,"t":1582641000123,"v":100,"c":["1","12"]}
class _Tick(msgspec.Struct, frozen=True, gc=False):
    """v: 0 of currencies, where nothing is traded and the price is a quote."""

    s: str
    p: float
    t: Millis
    v: float | None = None


# {"type":"trade","data":[…]}   {"type":"ping"}   {"type":"error","msg":"Subscribing to too many symbols"}
class _Message(msgspec.Struct, frozen=True, gc=False):
    type: str
    data: list[_Tick] = []
    msg: str = ""


_MESSAGE = msgspec.json.Decoder(_Message)


class Names:
    """Which symbols are wanted, and under which names of ours. wanted: ours → Finnhub's."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self.symbols = tuple(wanted)
        self.index = {theirs: at for at, theirs in enumerate(wanted.values())}


class Heard(msgspec.Struct):
    """What a batch of messages says. ticks: None for none. errors: the words of each error."""

    ticks: TickBatch | None
    quarantined: list[Quarantined]
    errors: list[str]


def read_messages(messages: Sequence[tuple[int, str]], names: Names) -> Heard:
    """Of (time_received_ns, message), in one go. Never raises: what is not as documented is `Quarantined`.

    Ticks of symbols that are not wanted are passed over. A tick without a size is a price, not a trade.
    """
    rows: list[_Tick] = []
    counts: list[int] = []
    times: list[int] = []
    heard = Heard(None, [], [])
    decode = _MESSAGE.decode
    for time_received_ns, text in messages:
        try:
            message = decode(text)
        except (ValueError, RecursionError) as error:
            heard.quarantined.append(_quarantined("malformed", f"{error}: {text[:_SHOWN]!r}", time_received_ns))
            continue
        if message.type == "trade":
            rows += message.data
            counts.append(len(message.data))
            times.append(time_received_ns)
        elif message.type == "error":
            heard.errors.append(message.msg[:_SHOWN])
        elif message.type != "ping":
            heard.quarantined.append(_quarantined("unknown_message", repr(text[:_SHOWN]), time_received_ns))
    if rows:
        heard.ticks = _ticks(rows, np.repeat(np.array(times, np.int64), counts), names, heard)
    return heard


def _ticks(rows: list[_Tick], received_ns: Any, names: Names, heard: Heard) -> TickBatch | None:
    n = len(rows)
    find = names.index.get
    index = np.fromiter([find(row.s, -1) for row in rows], np.int32, n)
    price = np.fromiter([row.p for row in rows], np.float64, n)
    size = np.fromiter([row.v or 0.0 for row in rows], np.float64, n)
    event_ns = np.fromiter([row.t for row in rows], np.int64, n) * NS_PER_MS
    bad = (index >= 0) & ((price <= 0) | (size < 0))
    for at in np.flatnonzero(bad).tolist():
        row = rows[at]
        detail = f"a trade of {row.v!r} at {row.p!r}"
        heard.quarantined.append(
            _quarantined("malformed", detail, int(received_ns[at]), symbol=names.symbols[index[at]])
        )
    keep = np.flatnonzero((index >= 0) & ~bad)
    if not keep.size:
        return None
    size = size[keep]
    absent = np.full(len(keep), np.nan)
    return TickBatch(
        source=NAME,
        symbols=names.symbols,
        symbol_index=index[keep],
        flags=np.where(size > 0, LAST | TRADE, LAST).astype(np.uint8),
        time_event_ns=event_ns[keep],
        time_received_ns=received_ns[keep],
        bid=absent,
        ask=absent,
        bid_size=absent,
        ask_size=absent,
        last=price[keep],
        last_size=np.where(size > 0, size, np.nan),
        volume=absent,
    )


def _quarantined(reason: str, detail: str, time_received_ns: int, *, symbol: str | None = None) -> Quarantined:
    return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail, symbol=symbol)
