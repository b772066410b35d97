"""What Alpha Vantage says, as our values. Pure: no clock, no socket, no log.

Formats: https://www.alphavantage.co/documentation. All numbers are texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, OBSERVATION_SCHEMA, OPTION_SCHEMA, Interval, Quote
from marketd.model.time import NS_PER_S
from marketd.sources.alphavantage.symbols import Session

__all__ = [
    "NAME",
    "Contracts",
    "ExchangeRate",
    "GlobalQuote",
    "Observations",
    "Refusal",
    "Series",
    "notice_of",
    "parse_chain",
    "parse_observations",
    "parse_quote",
    "parse_rate",
    "parse_series",
    "refusal_of",
]

NAME = "alphavantage"

Refusal = Literal["premium", "day", "minute", "second", "key", "symbol", "other"]
"""What a notice is about: the plan, a limit of a day, a minute or a second, the key, a symbol or parameter."""

_NOTICES = ("Error Message", "Information", "Note")
_LONGEST_NOTICE = 65_536
_DAY_NS = 86_400 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ANY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)


# {"Information":"Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly
#  (1 request per second). You may subscribe to any of the premium plans at … to lift the free key rate limit
#  (25 requests per day), raise the per-second burst limit, and instantly unlock all premium endpoints"}
# {"endpoint":"Realtime Options","message":"This is a premium endpoint. ***THE SAMPLE DATA SCHEMA BELOW IS ARTIFICIAL
#  AND FOR ILLUSTRATION PURPOSES ONLY***. …","data":[…]}
def notice_of(body: bytes) -> str | None:
    """The words of an answer that is a notice instead of data, or that comes with made-up data; None of any other."""
    if len(body) > _LONGEST_NOTICE:
        return None
    try:
        sections = _ANY.decode(body)
        message = sections.get("message")
        if message is not None and _IS_PREMIUM.search(words := _TEXT.decode(message)):
            return words
        if not sections or not sections.keys() <= set(_NOTICES):
            return None
        return _TEXT.decode(next(iter(sections.values())))
    except (ValueError, RecursionError):
        return None


_IS_PREMIUM = re.compile(r"\bis an? premium\b", re.IGNORECASE)


def refusal_of(words: str) -> Refusal:
    """What a notice is about. Those on limits advertise premium plans, and name other limits: the order matters."""
    low = words.lower()
    rules: tuple[tuple[Refusal, bool], ...] = (
        ("premium", _IS_PREMIUM.search(low) is not None),
        ("symbol", "invalid api call" in low),
        ("key", "apikey" in low),
        ("second", "sparingly" in low or "spreading out" in low),
        ("minute", "call frequency" in low),
        ("day", "per day" in low or "daily rate limit" in low or "daily limit" in low),
        ("second", "per second" in low),
        ("minute", "per minute" in low),
        ("key", "api key" in low),
        ("premium", "premium" in low),
    )
    return next((kind for kind, is_it in rules if is_it), "other")


# {"01. symbol":"IBM","02. open":"…","03. high":"…","04. low":"…","05. price":"240.1200","06. volume":"3406520",
#  "07. latest trading day":"2026-08-28","08. previous close":"…","09. change":"…","10. change percent":"0.4100%"}
class GlobalQuote(msgspec.Struct, frozen=True):
    """Without any field: there is no such symbol. An index may have no volume."""

    price: str | None = msgspec.field(name="05. price", default=None)
    volume: str | None = msgspec.field(name="06. volume", default=None)
    day: date | None = msgspec.field(name="07. latest trading day", default=None)


# {"1. From_Currency Code":"USD","2. From_Currency Name":"United States Dollar","3. To_Currency Code":"JPY",
#  "4. To_Currency Name":"Japanese Yen","5. Exchange Rate":"147.0300","6. Last Refreshed":"2026-08-28 20:01:02",
#  "7. Time Zone":"UTC","8. Bid Price":"147.0250","9. Ask Price":"147.0350"}
class ExchangeRate(msgspec.Struct, frozen=True):
    rate: str = msgspec.field(name="5. Exchange Rate")
    refreshed: str = msgspec.field(name="6. Last Refreshed")
    zone: str = msgspec.field(name="7. Time Zone")
    bid: str | None = msgspec.field(name="8. Bid Price", default=None)
    ask: str | None = msgspec.field(name="9. Ask Price", default=None)


# "Time Series (5min)": {"2026-08-28 19:55:00":{"1. open":"…","2. high":"…","3. low":"…","4. close":"…",
#  "5. volume":"…"}}, newest first; "Time Series (Daily)" and weeks have dates for stamps
Series = dict[str, dict[str, str]]

# {"contractID":"IBM260918C00150000","symbol":"IBM","expiration":"2026-09-18","strike":"150.00","type":"call",
#  "last":"…","mark":"…","bid":"…","bid_size":"…","ask":"…","ask_size":"…","volume":"…","open_interest":"…",
#  "date":"2026-08-28","implied_volatility":"…","delta":"…","gamma":"…","theta":"…","vega":"…","rho":"…"}
Contracts = list[dict[str, str | None]]

# {"date":"2024-01-01","value":"23358.4"}   and where there is none: "value":"."
Observations = list[dict[str, str]]


def parse_quote(told: GlobalQuote, symbol: str, session: Session, time_received_ns: int, divisor: float = 1.0) -> Quote:
    """Its time is the close of the day's session, or now while that is to come. Raises MalformedMessage."""
    if told.price is None or told.day is None:
        raise MalformedMessage(NAME, f"{symbol}: a quote without a price or a day")
    close = datetime.combine(told.day, session.close, session.zone)
    return Quote(
        symbol=symbol,
        time_event_ns=min(_ns(close, symbol), time_received_ns),
        time_received_ns=time_received_ns,
        source=NAME,
        last=_divided(_price(told.price, symbol), divisor),
        volume=None if told.volume is None else _number(told.volume, symbol),
    )


def parse_rate(told: ExchangeRate, symbol: str, time_received_ns: int, divisor: float = 1.0) -> Quote:
    """Raises MalformedMessage."""
    try:
        local = datetime.strptime(told.refreshed, "%Y-%m-%d %H:%M:%S").replace(tzinfo=_zone(told.zone))
    except ValueError as error:
        raise MalformedMessage(NAME, f"{symbol}: {error}") from None
    sides = [
        None if text in (None, "-", "") else _divided(_price(str(text), symbol), divisor)
        for text in (told.bid, told.ask)
    ]
    return Quote(
        symbol=symbol,
        time_event_ns=_ns(local, symbol),
        time_received_ns=time_received_ns,
        source=NAME,
        bid=sides[0],
        ask=sides[1],
        last=_divided(_price(told.rate, symbol), divisor),
    )


def parse_series(
    meta: Mapping[str, str],
    series: Series,
    *,
    symbol: str,
    interval: Interval,
    start_ns: int,
    end_ns: int,
    as_of_ns: int,
    divisor: float = 1.0,
) -> pa.Table:
    """Those with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    Stamps of minutes are local, and meta says where; a day is its UTC day; a week is stamped with its last day of
    trade, and is of the Monday before. Raises MalformedMessage.
    """
    try:
        ts = _stamps(meta, list(series), interval)
        rows = pa.Table.from_pylist(list(series.values()), _ROW)
        values = [pc.cast(rows[name], pa.float64()).to_numpy() for name in _ROW.names]
    except (pa.ArrowException, ValueError) as error:
        raise MalformedMessage(NAME, f"{symbol}: {error}"[:300]) from None
    if not all(np.isfinite(column).all() for column in values[:4]) or np.isinf(values[4]).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar without all of its prices")
    if (interval.floor(ts) != ts).any() and interval.ns < _DAY_NS:
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar does not begin where one does")
    ts = interval.floor(ts)
    order = np.argsort(ts, kind="stable")
    ts = ts[order]
    if (np.diff(ts) == 0).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar came twice")
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns)
    chosen = order[keep]
    n = len(chosen)
    constant = {"symbol": symbol, "interval": interval.name, "side": "trade", "provider": NAME, "status": "backfill"}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    prices = zip(("open", "high", "low", "close"), values, strict=False)
    columns |= {"ts": ts[keep], **{name: _divided(column[chosen], divisor) for name, column in prices}}
    columns["volume"] = pa.array(values[4][chosen], from_pandas=True)
    columns |= {"vwap": pa.nulls(n), "trades": pa.nulls(n), "as_of": np.full(n, as_of_ns, np.int64)}
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


_ROW = pa.schema([pa.field(name, pa.string()) for name in ("1. open", "2. high", "3. low", "4. close", "5. volume")])


def _stamps(meta: Mapping[str, str], texts: list[str], interval: Interval) -> Any:
    """Nanoseconds UTC. Raises ValueError or ArrowException."""
    if interval.ns >= _DAY_NS:
        return _cast_dates(pa.array(texts, pa.string())).cast(pa.int32()).to_numpy().astype(np.int64) * _DAY_NS
    zone = next((value for key, value in meta.items() if key.endswith("Time Zone")), None)
    if zone is None:
        raise ValueError("no time zone is told")
    local = pc.strptime(pa.array(texts, pa.string()), format="%Y-%m-%d %H:%M:%S", unit="s")
    utc = pc.assume_timezone(local, _zone(zone).key, ambiguous="raise", nonexistent="raise")
    return utc.cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()


def parse_chain(contracts: Contracts, symbol: str, time_received_ns: int, *, is_live: bool) -> pa.Table:
    """An `OPTION_SCHEMA` table of all expiries. Volatility is a fraction, theta a day's, vega and rho of one percentage
    point, as ours. A price of 0 is absent. is_live: the chain is of now; else it is of the close in New York of the
    date on its rows. Raises MalformedMessage.
    """
    table = pa.Table.from_pylist(contracts, _CONTRACT)
    n = table.num_rows
    right = table["type"]
    if not n or pc.any(pc.invert(pc.is_in(right, pa.array(["call", "put"])))).as_py():
        raise MalformedMessage(NAME, f"{symbol}: a contract that is neither a call nor a put")
    try:
        numbers = {name: pc.cast(table[name], pa.float64()) for name in _NUMBERS}
        columns: dict[str, Any] = {
            "underlying": pa.repeat(pa.scalar(symbol), n),
            "contract": table["contractID"],
            "expiry": _cast_dates(table["expiration"]),
            "strike": numbers["strike"],
            "right": right,
            **{name: _positive(numbers[name]) for name in ("bid", "ask", "last", "implied_volatility")},
            **{name: numbers[name] for name in _NUMBERS[5:]},
            "provider": pa.repeat(pa.scalar(NAME), n),
            "time_event": pa.nulls(n) if is_live else _closes(table["date"]),
            "time_received": pa.repeat(pa.scalar(time_received_ns, pa.int64()), n),
        }
        arrays = [pc.cast(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in OPTION_SCHEMA]
    except (pa.ArrowException, ValueError) as error:
        raise MalformedMessage(NAME, f"{symbol}: {error}"[:300]) from None
    found = pa.Table.from_arrays(arrays, schema=OPTION_SCHEMA)
    if any(found[f.name].null_count for f in OPTION_SCHEMA if not f.nullable):
        raise MalformedMessage(NAME, f"{symbol}: a contract without a name, an expiry or a strike")
    if any(not pc.all(pc.is_finite(numbers[name]), skip_nulls=True).as_py() for name in _NUMBERS):
        raise MalformedMessage(NAME, f"{symbol}: a number of a contract is none")
    keys = ("expiry", "strike", "right", "contract")
    return found.sort_by([(key, "ascending") for key in keys]).combine_chunks()


_NUMBERS = (
    "strike",
    "last",
    "bid",
    "ask",
    "implied_volatility",
    "bid_size",
    "ask_size",
    "volume",
    "open_interest",
    "delta",
    "gamma",
    "theta",
    "vega",
    "rho",
)
_CONTRACT = pa.schema([pa.field(name, pa.string()) for name in ("contractID", "expiration", "type", "date", *_NUMBERS)])


def _closes(days: Any) -> Any:
    local = pc.add(pc.cast(_cast_dates(days), pa.timestamp("s")), pa.scalar(timedelta(hours=16), pa.duration("s")))
    return pc.assume_timezone(local, "America/New_York").cast(pa.timestamp("ns", "UTC"))


def parse_observations(
    told: Observations, series: str, start: date | None, end: date | None, as_of_ns: int
) -> pa.Table:
    """An `OBSERVATION_SCHEMA` table by ts of what is dated start <= date <= end; one without a value (`.`) is left out.
    Raises MalformedMessage."""
    table = pa.Table.from_pylist(told, _OBSERVATION)
    if any(column.null_count for column in table.columns):
        raise MalformedMessage(NAME, f"{series}: an observation without a date or a value")
    try:
        table = table.filter(pc.not_equal(table["value"], pa.scalar(".")))
        days = _cast_dates(table["date"])
        value = pc.cast(table["value"], pa.float64())
        ts = pc.cast(pc.cast(days, pa.timestamp("s", "UTC")), pa.timestamp("ns", "UTC"))
    except (pa.ArrowException, ValueError) as error:
        raise MalformedMessage(NAME, f"{series}: {error}"[:300]) from None
    if not pc.all(pc.is_finite(value), min_count=0).as_py():
        raise MalformedMessage(NAME, f"{series}: a value that is no number")
    n = table.num_rows
    arrays = [
        pa.repeat(pa.scalar(series), n),
        ts,
        value,
        pa.repeat(pa.scalar(NAME), n),
        pa.repeat(pa.scalar(as_of_ns, pa.int64()), n).cast(pa.timestamp("ns", "UTC")),
    ]
    found = pa.Table.from_arrays(arrays, schema=OBSERVATION_SCHEMA)
    keep = pc.and_(
        pc.greater_equal(days, pa.scalar(start or date.min, pa.date32())),
        pc.less_equal(days, pa.scalar(end or date.max, pa.date32())),
    )
    found = found.filter(keep).sort_by("ts")
    if pc.count_distinct(found["ts"]).as_py() != found.num_rows:
        raise MalformedMessage(NAME, f"{series}: an observation came twice")
    return found.combine_chunks()


_OBSERVATION = pa.schema([pa.field(name, pa.string()) for name in ("date", "value")])

_DATE = r"^\d{4}-\d{2}-\d{2}$"


def _cast_dates(texts: Any) -> Any:
    """date32 of `2026-08-28`, which Arrow alone would read more freely. Raises ValueError or ArrowException."""
    if not pc.all(pc.match_substring_regex(texts, _DATE), min_count=0).as_py():
        raise ValueError("a date that is none")
    return pc.cast(texts, pa.date32())


def _positive(column: Any) -> Any:
    return pc.if_else(pc.greater(column, pa.scalar(0.0)), column, None)


_ZONES = {
    "US/Eastern": "America/New_York",
    "US/Central": "America/Chicago",
    "US/Pacific": "America/Los_Angeles",
    "GMT": "UTC",
}
"""Old names, which not every system knows."""


def _zone(name: str) -> ZoneInfo:
    """Raises ValueError."""
    try:
        return ZoneInfo(_ZONES.get(name, name))
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone {name[:40]!r}") from None


# float() alone would take "nan", "1_000" and digits of other scripts
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)


def _number(text: str, symbol: str) -> float:
    if _NUMBER.fullmatch(text) is None:
        raise MalformedMessage(NAME, f"{symbol}: {text[:40]!r} is not a decimal number")
    return float(text)


def _price(text: str, symbol: str) -> float:
    value = _number(text, symbol)
    if not value > 0:
        raise MalformedMessage(NAME, f"{symbol}: the price {text[:40]!r}")
    return value


def _divided(value: Any, divisor: float) -> Any:
    """A price, or an array of them, without the noise of the division: 240.12 pence are 2.4012 pounds."""
    return value if divisor == 1 else np.round(value / divisor, 10)


def _ns(when: datetime, symbol: str) -> int:
    seconds = (when - _EPOCH) // timedelta(seconds=1)
    if not 0 <= seconds < 2**63 // NS_PER_S:
        raise MalformedMessage(NAME, f"{symbol}: {when} is outside 1970 to 2262")
    return seconds * NS_PER_S
