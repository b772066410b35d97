"""What Yahoo answers to requests, as our values. Pure: no clock, no socket, no log. The stream's messages: `pricing`.

Yahoo documents nothing; the shapes are those of recorded answers. To understand a new field, add it to its struct with
an example above it.
"""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
)
from marketd.model import ADJUSTED, BAR_SCHEMA, OPTION_SCHEMA, CorporateAction, Interval, Quote
from marketd.model.time import NS_PER_S
from marketd.sources.yahoo.single import as_meant, hundredths

__all__ = [
    "HUNDREDTHS",
    "NAME",
    "Chain",
    "ChainAnswer",
    "Chart",
    "ChartAnswer",
    "NothingThere",
    "QuoteAnswer",
    "QuoteRow",
    "Refusal",
    "expiries_of",
    "found_chain",
    "found_chart",
    "found_quotes",
    "local_date",
    "parse_actions",
    "parse_bars",
    "parse_chain",
    "parse_quote",
    "refused",
    "rolled_up",
]

NAME = "yahoo"

HUNDREDTHS = {"GBp": "GBP", "GBX": "GBP", "ZAc": "ZAR", "ILA": "ILS"}
"""Currencies in whose hundredths Yahoo writes prices, and what they are hundredths of."""

_INT64_MAX = 2**63 - 1
_DAY_S = 86_400
_DAY_NS = _DAY_S * NS_PER_S
_PRICES = ("open", "high", "low", "close")

_T = TypeVar("_T")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Second = Annotated[int, msgspec.Meta(ge=-(_INT64_MAX // NS_PER_S) + 2 * _DAY_S, le=_INT64_MAX // NS_PER_S - 2 * _DAY_S)]
"""Since the epoch, such that two days on either side are within what 64 bits hold in nanoseconds."""


class NothingThere(OutOfRange):
    """Yahoo says that there is no data in a span: it was closed, or the instrument did not exist."""


# {"code":"Not Found","description":"No data found, symbol may be delisted"}
class Refusal(msgspec.Struct, frozen=True):
    code: str | None = None
    description: str | None = None


class Meta(msgspec.Struct, frozen=True, rename={"zone": "exchangeTimezoneName", "kind": "instrumentType"}):
    zone: str
    symbol: str = ""
    currency: str | None = None
    kind: str | None = None


# {"open":[34.25,null],"high":[…],"low":[…],"close":[…],"volume":[1251,null]}; {} for a span without rows
class Columns(msgspec.Struct, frozen=True):
    open: list[float | None] | None = None
    high: list[float | None] | None = None
    low: list[float | None] | None = None
    close: list[float | None] | None = None
    volume: list[float | None] | None = None


class Indicators(msgspec.Struct, frozen=True):
    quote: list[Columns] = []


# "1604673000":{"amount":0.205,"date":1604673000}; currency only where it is not that of the prices
class Dividend(msgspec.Struct, frozen=True):
    amount: float
    date: Second
    currency: str | None = None


# "1598880600":{"date":1598880600,"numerator":4,"denominator":1,"splitRatio":"4:1"}
class Split(msgspec.Struct, frozen=True):
    date: Second
    numerator: float
    denominator: float


class Events(msgspec.Struct, frozen=True):
    dividends: dict[str, Dividend] = {}
    splits: dict[str, Split] = {}


# {"meta":{…},"timestamp":[1691132400,…],"indicators":{"quote":[{…}]},"events":{"dividends":{…},"splits":{…}}}
class Chart(msgspec.Struct, frozen=True):
    """Rows of one symbol. timestamp: starts of bars; absent where there is none."""

    meta: Meta
    indicators: Indicators
    timestamp: list[Second] | None = None
    events: Events | None = None


class ChartBody(msgspec.Struct, frozen=True):
    result: list[Chart] | None = None
    error: Refusal | None = None


class ChartAnswer(msgspec.Struct, frozen=True):
    """The answer of `/v8/finance/chart/{symbol}`."""

    chart: ChartBody


# {"symbol":"AAPL","regularMarketPrice":244.6,"regularMarketTime":1739566800,"postMarketPrice":244.64,
#  "postMarketTime":1739581198,"bid":244.44,"ask":253.37,"bidSize":2,"askSize":1,"regularMarketVolume":40896227,
#  "currency":"USD","quoteType":"EQUITY","exchangeTimezoneName":"America/New_York", …}
class QuoteRow(msgspec.Struct, frozen=True, rename="camel"):
    symbol: str = ""
    quote_type: str | None = None
    currency: str | None = None
    exchange_timezone_name: str = "UTC"
    regular_market_price: float | None = None
    regular_market_time: Second | None = None
    regular_market_volume: float | None = None
    pre_market_price: float | None = None
    pre_market_time: Second | None = None
    post_market_price: float | None = None
    post_market_time: Second | None = None
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None


class QuoteBody(msgspec.Struct, frozen=True):
    result: list[QuoteRow] | None = None
    error: Refusal | None = None


class QuoteAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of `/v7/finance/quote`. Symbols that Yahoo does not know are left out."""

    quote_response: QuoteBody


# {"contractSymbol":"AAPL250228C00110000","strike":110,"currency":"USD","lastPrice":111.67,"openInterest":0,"bid":135.9,
#  "ask":136.65,"contractSize":"REGULAR","expiration":1740700800,"lastTradeDate":1737487202,
#  "impliedVolatility":3.58593853515625, …}; volume is left out where nothing was traded
class Contract(msgspec.Struct, frozen=True, rename="camel"):
    contract_symbol: str
    strike: float
    expiration: Second
    currency: str | None = None
    contract_size: str | None = None
    last_price: float | None = None
    last_trade_date: Second | None = None
    bid: float | None = None
    ask: float | None = None
    volume: float | None = None
    open_interest: float | None = None
    implied_volatility: float | None = None


class Expiry(msgspec.Struct, frozen=True, rename="camel"):
    expiration_date: Second
    calls: list[Contract] = []
    puts: list[Contract] = []


# {"underlyingSymbol":"AAPL","expirationDates":[1740700800,…],"strikes":[…],"quote":{…},"options":[{…}]}
class Chain(msgspec.Struct, frozen=True, rename="camel"):
    """expiration_dates: midnights, UTC, of all that are listed. options: those of one of them."""

    expiration_dates: list[Second] = []
    quote: QuoteRow = QuoteRow()
    options: list[Expiry] = []


class ChainBody(msgspec.Struct, frozen=True):
    result: list[Chain] | None = None
    error: Refusal | None = None


class ChainAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of `/v7/finance/options/{symbol}`."""

    option_chain: ChainBody


def refused(refusal: Refusal) -> SourceError:
    """What Yahoo says is wrong, in our words."""
    code, description = refusal.code or "", refusal.description or ""
    reason = f"{code}: {description}" if description else code or "refused without a reason"
    if "Data doesn't exist" in description:
        return NothingThere(NAME, reason)
    kinds: dict[str, type[SourceError]] = {
        "Not Found": SymbolNotFound,
        "Unprocessable Entity": OutOfRange,
        "Unauthorized": NotEntitled,
        "internal-error": SourceUnavailable,
    }
    kind = NotEntitled if "Crumb" in description else kinds.get(code, SourceRejected)
    return kind(NAME, reason)


def found_chart(answer: ChartAnswer, symbol: str) -> Chart:
    """Raises what `refused` says, and SymbolNotFound for an empty answer."""
    return _only(answer.chart.result, answer.chart.error, symbol)


def found_chain(answer: ChainAnswer, symbol: str) -> Chain:
    """Raises what `refused` says, and SymbolNotFound for an empty answer."""
    return _only(answer.option_chain.result, answer.option_chain.error, symbol)


def found_quotes(answer: QuoteAnswer) -> list[QuoteRow]:
    """Raises what `refused` says."""
    if answer.quote_response.error is not None:
        raise refused(answer.quote_response.error)
    return answer.quote_response.result or []


def _only(result: list[_T] | None, error: Refusal | None, symbol: str) -> _T:
    if error is not None:
        raise refused(error)
    if not result:
        raise SymbolNotFound(NAME, f"has no {symbol}")
    return result[0]


# --- bars -------------------------------------------------------------------------------------------------------


def parse_bars(chart: Chart, *, symbol: str, interval: Interval, start_ns: int, end_ns: int, as_of_ns: int) -> pa.Table:
    """Rows with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    Rows of nulls are left out, and so is the live row that Yahoo puts last. A day's bar starts at midnight, UTC, of its
    date at the exchange. Raises MalformedMessage.
    """
    ts, values = _rows(chart, symbol)
    if interval.ns >= _DAY_NS:
        ts, values = _days(chart, symbol, ts, values)
        over = (ts + interval.ns <= as_of_ns) & (ts < _local_days(np.array([as_of_ns]), chart.meta.zone)[0])
    else:
        ts, values = _without_live(chart, symbol, interval, ts, values)
        over = ts <= as_of_ns - interval.ns
    if (np.diff(ts) == 0).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar came twice")
    keep = over & (ts >= start_ns) & (ts < end_ns)
    ts, values = ts[keep], values[:, keep]
    prices = as_meant(values[:4].ravel())
    if chart.meta.currency in HUNDREDTHS:
        prices = hundredths(prices)
    values[:4] = prices.reshape(4, -1)
    if chart.meta.kind == "CURRENCY":
        values[4] = np.nan  # always 0: not told
    return _bar_table(symbol, interval, ts, values, as_of_ns)


def rolled_up(bars: pa.Table, interval: Interval, *, start_ns: int, end_ns: int, as_of_ns: int) -> pa.Table:
    """Longer bars of finished shorter ones: those with start_ns <= ts < end_ns that were over at `as_of_ns`."""
    starts = interval.floor(bars["ts"].to_numpy().astype(np.int64))
    keep = (starts >= start_ns) & (starts < end_ns) & (starts <= as_of_ns - interval.ns)
    bars, starts = bars.filter(pa.array(keep)), starts[keep]
    if not starts.size:
        return BAR_SCHEMA.empty_table()
    first = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    last = np.append(first[1:], starts.size) - 1
    columns = [bars[name].to_numpy() for name in (*_PRICES, "volume")]
    open_, high, low, close = columns[:4]
    volume = np.add.reduceat(columns[4], first)
    values = np.array(
        [open_[first], np.maximum.reduceat(high, first), np.minimum.reduceat(low, first), close[last], volume]
    )
    return _bar_table(bars["symbol"][0].as_py(), interval, starts[first], values, as_of_ns)


def _rows(chart: Chart, symbol: str) -> tuple[Ints, Floats]:
    """Stamps in nanoseconds, ascending, and open, high, low, close, volume of the rows that have prices."""
    ts = np.array(chart.timestamp or (), np.int64) * NS_PER_S
    told = chart.indicators.quote[0] if chart.indicators.quote else Columns()
    values = np.full((5, ts.size), np.nan)
    for at, name in enumerate((*_PRICES, "volume")):
        column = getattr(told, name)
        if column is None and (not ts.size or name == "volume"):
            continue
        if column is None or len(column) != ts.size:
            length = "none" if column is None else len(column)
            raise MalformedMessage(NAME, f"{symbol}: {ts.size} rows, and {length} in the column {name}")
        values[at] = np.array(column, np.float64)
    order = np.argsort(ts, kind="stable")
    order = order[~np.isnan(values[:4, order]).any(axis=0)]
    return ts[order], values[:, order]


def _days(chart: Chart, symbol: str, ts: Ints, values: Floats) -> tuple[Ints, Floats]:
    days = _local_days(ts, chart.meta.zone)
    if days.size > 1 and days[-1] == days[-2]:  # today's row, and the live row of today, which knows more
        keep = np.arange(days.size) != days.size - 2
        days, values = days[keep], values[:, keep]
    if (np.diff(days) < 0).any():
        raise MalformedMessage(NAME, f"{symbol}: days went back")
    return days, values


def _without_live(chart: Chart, symbol: str, interval: Interval, ts: Ints, values: Floats) -> tuple[Ints, Floats]:
    """Only the live row, whose stamp is that of the last trade, may lie between the starts of bars."""
    between = np.flatnonzero(ts % interval.ns)
    if not between.size:
        return ts, values
    if between[0] < ts.size - 1:
        stamp = ts[between[0]] // NS_PER_S
        raise MalformedMessage(NAME, f"{symbol}: {stamp} is no start of a {interval} bar ({chart.meta.zone})")
    return ts[:-1], values[:, :-1]


def local_date(time_ns: int, zone: str) -> date:
    """The date in a time zone. Raises MalformedMessage for a zone that is none."""
    return _date(int(_local_days(np.array([time_ns]), zone)[0]) // NS_PER_S)


def _local_days(ts: Ints, zone: str) -> Ints:
    """Midnights, UTC, of the dates in a time zone. Raises MalformedMessage for a zone that is none."""
    stamps: Any = pa.array(ts, pa.timestamp("ns", tz="UTC"))
    try:
        local = pc.local_timestamp(stamps.cast(pa.timestamp("ns", tz=zone)))
    except pa.ArrowException as error:
        raise MalformedMessage(NAME, f"time zone {zone[:80]!r}: {error}") from None
    days: Ints = local.to_numpy(zero_copy_only=False).astype(np.int64) // _DAY_NS * _DAY_NS
    return days


def _bar_table(symbol: str, interval: Interval, ts: Ints, values: Floats, as_of_ns: int) -> pa.Table:
    n = len(ts)
    constant = {
        "symbol": symbol,
        "interval": interval.name,
        "side": "trade",
        "provider": NAME + ADJUSTED,
        "status": "backfill",
    }
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    columns |= {name: values[at] for at, name in enumerate(_PRICES)}
    columns |= {"ts": ts, "volume": pa.array(values[4], from_pandas=True), "vwap": pa.nulls(n), "trades": pa.nulls(n)}
    columns["as_of"] = np.full(n, as_of_ns, np.int64)
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


# --- corporate actions ------------------------------------------------------------------------------------------


def parse_actions(
    chart: Chart, *, symbol: str, start_ns: int, end_ns: int, as_of_ns: int
) -> tuple[CorporateAction, ...]:
    """Splits and dividends with start_ns <= ex_ns < end_ns, ascending. chart: reaches from the start to now.

    Yahoo writes dividends in today's shares. Here they are those of the day before the ex date: multiplied with every
    split since, that day's too, and rounded to the decimals that six of Yahoo's leave. Raises MalformedMessage.
    """
    events = chart.events or Events()
    splits = [(_ex_ns(split.date, chart), _ratio(split, symbol)) for split in events.splits.values()]
    kept = [
        CorporateAction(symbol=symbol, kind="split", ex_ns=ex_ns, provider=NAME, as_of_ns=as_of_ns, ratio=ratio)
        for ex_ns, ratio in splits
    ]
    for dividend in events.dividends.values():
        ex_ns = _ex_ns(dividend.date, chart)
        factor = math.prod(ratio for split_ns, ratio in splits if split_ns >= ex_ns)
        if not (0 < dividend.amount < 1e9 and 1e-9 < factor < 1e9):
            raise MalformedMessage(NAME, f"{symbol}: a dividend of {dividend.amount} before splits of {factor}")
        currency = dividend.currency or chart.meta.currency
        amount = round(dividend.amount * factor, 6 - math.ceil(math.log10(factor)))
        if currency in HUNDREDTHS:
            amount, currency = _hundredth(amount), HUNDREDTHS[currency]
        kept.append(
            CorporateAction(
                symbol=symbol,
                kind="dividend",
                ex_ns=ex_ns,
                provider=NAME,
                as_of_ns=as_of_ns,
                amount=amount,
                currency=currency,
            )
        )
    return tuple(sorted((a for a in kept if start_ns <= a.ex_ns < end_ns), key=lambda a: (a.ex_ns, a.kind)))


def _ex_ns(second: int, chart: Chart) -> int:
    return int(_local_days(np.array([second * NS_PER_S]), chart.meta.zone)[0])


def _ratio(split: Split, symbol: str) -> float:
    """New shares for one old."""
    if not (1e-6 <= split.numerator <= 1e6 and 1e-6 <= split.denominator <= 1e6):
        raise MalformedMessage(NAME, f"{symbol}: a split of {split.numerator}:{split.denominator}")
    return split.numerator / split.denominator


# --- quotes -----------------------------------------------------------------------------------------------------


def parse_quote(row: QuoteRow, symbol: str, time_received_ns: int) -> Quote:
    """The newest of the prices before, in and after hours. Raises SymbolNotFound if there is none."""
    newest = _newest(row)
    if newest is None:
        raise SymbolNotFound(NAME, f"{symbol} has no price")
    time_s, last = newest
    bid, ask = row.bid or None, row.ask or None
    if row.currency in HUNDREDTHS:
        last, bid, ask = _hundredth(last), bid and _hundredth(bid), ask and _hundredth(ask)
    return Quote(
        symbol=symbol,
        time_event_ns=time_s * NS_PER_S,
        time_received_ns=time_received_ns,
        source=NAME,
        bid=bid,
        ask=ask,
        bid_size=row.bid_size or None if bid is not None else None,
        ask_size=row.ask_size or None if ask is not None else None,
        last=last,
        volume=None if row.quote_type == "CURRENCY" else row.regular_market_volume,
    )


def _hundredth(value: float) -> float:
    return round(value / 100.0, 12)


def _newest(row: QuoteRow) -> tuple[int, float] | None:
    """When, in seconds, and at what price it was last traded."""
    prices = (
        (row.regular_market_time, row.regular_market_price),
        (row.pre_market_time, row.pre_market_price),
        (row.post_market_time, row.post_market_price),
    )
    told = [(time, price) for time, price in prices if time is not None and time > 0 and price]
    return max(told, key=lambda pair: pair[0], default=None)


# --- options ----------------------------------------------------------------------------------------------------


def expiries_of(chain: Chain, symbol: str) -> list[date]:
    """Ascending. Raises SymbolNotFound for a symbol without options."""
    if not chain.expiration_dates:
        raise SymbolNotFound(NAME, f"{symbol} has no options")
    return [_date(second) for second in sorted(set(chain.expiration_dates))]


def _date(second: int) -> date:
    """Raises MalformedMessage beyond the years that a date can have."""
    try:
        return date.fromordinal(date(1970, 1, 1).toordinal() + second // _DAY_S)
    except (ValueError, OverflowError):
        raise MalformedMessage(NAME, f"{second} is no date") from None


def parse_chain(chain: Chain, symbol: str, expiry: date, time_received_ns: int) -> pa.Table:
    """The contracts of `expiry` in this answer, as an `OPTION_SCHEMA` table by strike and right.

    A side of 0 is absent. Yahoo's volatility of a contract that has neither side is a stand-in: absent too.
    """
    rows: list[Contract] = []
    rights: list[str] = []
    for told in chain.options:
        for right, contracts in (("call", told.calls), ("put", told.puts)):
            here = [contract for contract in contracts if _date(contract.expiration) == expiry]
            rows += here
            rights += [right] * len(here)
    if not rows:
        return OPTION_SCHEMA.empty_table()
    table = pa.Table.from_pylist(msgspec.to_builtins(rows), _CONTRACT)
    sides = {name: _positive(table[name]) for name in ("bid", "ask", "lastPrice")}
    quoted = pc.or_(pc.is_valid(sides["bid"]), pc.is_valid(sides["ask"]))
    size = pc.index_in(table["contractSize"], pa.array(["REGULAR", "MINI"]))
    n = table.num_rows
    newest = _newest(chain.quote)
    columns: dict[str, Any] = {
        "underlying": pa.repeat(pa.scalar(symbol), n),
        "contract": table["contractSymbol"],
        "expiry": pa.repeat(pa.scalar(expiry, pa.date32()), n),
        "strike": table["strike"],
        "right": pa.array(rights),
        "bid": sides["bid"],
        "ask": sides["ask"],
        "last": sides["lastPrice"],
        "time_last": pc.cast(table["lastTradeDate"], pa.timestamp("s", "UTC")),
        "volume": table["volume"],
        "open_interest": table["openInterest"],
        "implied_volatility": pc.if_else(quoted, _positive(table["impliedVolatility"]), None),
        "underlying_price": pa.repeat(pa.scalar(newest and newest[1], pa.float64()), n),
        "multiplier": pc.take(pa.array([100.0, 10.0]), size),
        "currency": table["currency"],
        "provider": pa.repeat(pa.scalar(NAME), n),
        "time_received": pa.repeat(pa.scalar(time_received_ns, pa.int64()), n),
    }
    arrays = [pc.cast(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in OPTION_SCHEMA]
    found = pa.Table.from_arrays(arrays, schema=OPTION_SCHEMA)
    return found.sort_by([("strike", "ascending"), ("right", "ascending"), ("contract", "ascending")]).combine_chunks()


_CONTRACT_COLUMNS: list[pa.Field[Any]] = [
    *(pa.field(name, pa.string()) for name in ("contractSymbol", "contractSize", "currency")),
    pa.field("lastTradeDate", pa.int64()),
    *(
        pa.field(name, pa.float64())
        for name in ("strike", "lastPrice", "bid", "ask", "volume", "openInterest", "impliedVolatility")
    ),
]
_CONTRACT = pa.schema(_CONTRACT_COLUMNS)


def _positive(column: Any) -> Any:
    return pc.if_else(pc.greater(column, pa.scalar(0.0)), column, None)
