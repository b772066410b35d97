"""What OpenD says, as our values. Pure: no clock, no socket, no log.

`messages` has the shapes; here is what they mean. To understand another push, add its message there and its rows to
`read_push`. What is not as documented is a MalformedMessage, whatever it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import BAR_SCHEMA, BOOK, LAST, OPTION_SCHEMA, TRADE, CorporateAction, Interval, Quote, TickBatch
from marketd.model.ticks import NO_TRADE_ID
from marketd.model.time import NS_PER_S
from marketd.sources.futu.messages import (
    BasicSnapshot,
    BookLevel,
    KLine,
    Notify,
    Proto,
    Rehab,
    Response,
    Security,
    Snapshot,
    TickerRow,
    UpdateBasic,
    UpdateBook,
    UpdateTicker,
)
from marketd.sources.futu.protobuf import decode
from marketd.sources.futu.symbols import MARKETS, Market, occ_symbol, text_of, zone_of

__all__ = [
    "NAME",
    "Pushed",
    "State",
    "answer_of",
    "batch_of",
    "chain_table",
    "corporate_actions",
    "date_of",
    "is_quota",
    "kline_table",
    "market_state",
    "read_push",
    "refusal",
    "snapshot_quote",
]

NAME = "futu"

T = TypeVar("T", bound=msgspec.Struct)
State = Literal["open", "closed", "auction", "suspended"]
Row = tuple[int, int, int, int, float, float, float, float, float, float, float, int]
"""A row of a `TickBatch`: index, flags, event and receive time, bid, ask, their sizes, last, its size, volume, trade
id."""

_NAN = math.nan
_INT64_MAX = 2**63 - 1
_WINDOW_S = 30.0
_SHOWN = 200

# What is refused comes without a code, in the language of the account
_TOO_OFTEN = re.compile(r"频率|頻率|frequen|too (?:often|many)", re.IGNORECASE)
_NO_RIGHT = re.compile(
    r"额度|額度|quota|权限|權限|permission|authori[sz]|authority|quote right|no right", re.IGNORECASE
)
_UNKNOWN = re.compile(
    r"未知股票|未知证券|unknown (?:stock|security|code)|不存在|找不到|does not exist|not exist|no such", re.IGNORECASE
)
_QUOTA = re.compile(r"额度|額度|quota", re.IGNORECASE)

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_NOT_OF_NOW = frozenset((2, 9, 14, 15, 16, 18, 19, 20, 23, 24, 25, 27, 30, 31))
"""TickerType of trades whose price was not made in the market at that moment, and of official prices that are no
trades: late and delayed ones, cash, next day, seller, prior reference, contingent, average price, derivatively priced,
off the exchange, opening and closing prices of the market centre. They would make wrong highs and lows."""

_FROM_CACHE = 3
"""PushDataType of what OpenD had before the subscription: an old trade."""

_STATES: dict[int, State] = {
    **dict.fromkeys((3, 5, 13, 15, 21, 23, 25, 28, 32, 35), "open"),
    **dict.fromkeys((1, 19, 30, 36), "auction"),
    **dict.fromkeys((0, 2, 4, 6, 9, 11, 12, 14, 16, 17, 18, 20, 22, 24, 26, 27, 29, 31, 34), "closed"),
}
_EXTENDED = (8, 10, 33, 37)
_SPLITS = ((1, "split"), (2, "join"), (4, "bonus"), (8, "transfer"))
_DIVIDENDS = ((64, "dividend"), (128, "special_dividend"))
_RIGHTS = {1: "call", 2: "put"}
_MARKET: dict[int, Market] = {market.number: market for market in MARKETS.values()}


def refusal(ret_type: int, text: str, what: str) -> SourceError:
    """An answer that is not well, as the failure that it is. what: of what, for the error."""
    reason = f"{what}: {text.strip()[:_SHOWN] or 'refused without a reason'} ({ret_type})"
    if ret_type in (-100, -200, -400):
        return SourceUnavailable(NAME, reason)
    if _TOO_OFTEN.search(text):
        return Throttled(NAME, reason, _WINDOW_S)
    if _NO_RIGHT.search(text):
        return NotEntitled(NAME, reason)
    if _UNKNOWN.search(text):
        return SymbolNotFound(NAME, reason)
    return SourceRejected(NAME, reason)


def is_quota(error: SourceError) -> bool:
    """Whether a refusal is about how much the account may have, not about what."""
    return isinstance(error, NotEntitled) and _QUOTA.search(error.reason) is not None


def answer_of(kind: type[T], body: bytes, what: str) -> T:
    """The answer in a frame's body. Raises what `refusal` says, or MalformedMessage."""
    try:
        response = decode(Response, body)
        if response.ret_type == 0:
            return decode(kind, response.s2c or b"")
    except ValueError as error:
        raise MalformedMessage(NAME, f"{what}: {error}", body) from None
    raise refusal(response.ret_type, response.ret_msg, what)


class Pushed(msgspec.Struct, frozen=True):
    """What one push says. rows: see `Row`. suspended: of securities, by symbol's index. notice: of the gateway."""

    rows: list[Row] = []
    suspended: list[tuple[int, bool]] = []
    notice: Notify | None = None


_NOTHING = Pushed()


def read_push(proto: int, body: bytes, time_received_ns: int, index_of: Mapping[Security, int]) -> Pushed:
    """What a push says of the symbols in `index_of`; nothing for the others, and for pushes that are not used.

    Raises MalformedMessage, and what an answer that is not well would raise.
    """
    try:
        if proto == Proto.UPDATE_BOOK:
            return _book(_pushed(UpdateBook, body), time_received_ns, index_of)
        if proto == Proto.UPDATE_BASIC:
            return _basic(_pushed(UpdateBasic, body), time_received_ns, index_of)
        if proto == Proto.UPDATE_TICKER:
            return _trades(_pushed(UpdateTicker, body), time_received_ns, index_of)
        if proto == Proto.NOTIFY:
            return Pushed(notice=_pushed(Notify, body))
    except ValueError as error:
        raise MalformedMessage(NAME, f"push {proto}: {error}", body) from None
    return _NOTHING


def _pushed(kind: type[T], body: bytes) -> T:
    response = decode(Response, body)
    if response.ret_type != 0:
        raise refusal(response.ret_type, response.ret_msg, "a push")
    return decode(kind, response.s2c or b"")


def _book(update: UpdateBook, time_received_ns: int, index_of: Mapping[Security, int]) -> Pushed:
    index = index_of.get(update.security)
    if index is None:
        return _NOTHING
    bid, bid_size = _best(update.bids)
    ask, ask_size = _best(update.asks)
    told = max(update.bid_timestamp or 0.0, update.ask_timestamp or 0.0)
    time_ns = _seconds_ns(told) if told > 0 else time_received_ns
    row = (index, BOOK, time_ns, time_received_ns, bid, ask, bid_size, ask_size, _NAN, _NAN, _NAN, NO_TRADE_ID)
    return Pushed([row])


def _best(levels: Sequence[bytes]) -> tuple[float, float]:
    """Price and size of the best level; NaN for a side that is empty."""
    if not levels:
        return _NAN, _NAN
    best = decode(BookLevel, levels[0])
    price = _price(best.price)
    return (price, _size(best.volume, best.volume_exact)) if price else (_NAN, _NAN)


def _basic(update: UpdateBasic, time_received_ns: int, index_of: Mapping[Security, int]) -> Pushed:
    rows: list[Row] = []
    suspended: list[tuple[int, bool]] = []
    for quote in update.quotes:
        index = index_of.get(quote.security)
        if index is None:
            continue
        suspended.append((index, quote.suspended))
        last = _price(quote.last)
        if last:
            time_ns = _time_ns(quote.update_timestamp, quote.update_time, quote.security.market)
            volume = _size(quote.volume, quote.volume_exact)
            rows.append(
                (index, LAST, time_ns, time_received_ns, _NAN, _NAN, _NAN, _NAN, last, _NAN, volume, NO_TRADE_ID)
            )
    return Pushed(rows, suspended)


def _trades(update: UpdateTicker, time_received_ns: int, index_of: Mapping[Security, int]) -> Pushed:
    index = index_of.get(update.security)
    if index is None:
        return _NOTHING
    market = update.security.market
    rows = [row for row in update.rows if row.kind not in _NOT_OF_NOW and row.pushed != _FROM_CACHE]
    return Pushed([_trade(row, index, market, time_received_ns) for row in rows])


def _trade(row: TickerRow, index: int, market: int, time_received_ns: int) -> Row:
    price = _price(row.price)
    if not price:
        raise ValueError("a trade without a price")
    time_ns = _time_ns(row.timestamp, row.time, market)
    size = _size(row.volume, row.volume_exact)
    flags = LAST | TRADE
    return (index, flags, time_ns, time_received_ns, _NAN, _NAN, _NAN, _NAN, price, size, _NAN, row.sequence)


def batch_of(rows: Sequence[Row], symbols: tuple[str, ...]) -> TickBatch:
    """Columns of rows, at least one, whose index counts in `symbols`."""
    index, flags, event, received, bid, ask, bid_size, ask_size, last, last_size, volume, trade_id = zip(
        *rows, strict=True
    )
    numbered = any(number != NO_TRADE_ID for number in trade_id)
    return TickBatch(
        source=NAME,
        symbols=symbols,
        symbol_index=np.array(index, np.int32),
        flags=np.array(flags, np.uint8),
        time_event_ns=np.array(event, np.int64),
        time_received_ns=np.array(received, np.int64),
        bid=np.array(bid, np.float64),
        ask=np.array(ask, np.float64),
        bid_size=np.array(bid_size, np.float64),
        ask_size=np.array(ask_size, np.float64),
        last=np.array(last, np.float64),
        last_size=np.array(last_size, np.float64),
        volume=np.array(volume, np.float64),
        trade_id=np.array(trade_id, np.int64) if numbered else None,
    )


def market_state(number: int, *, extended_hours: bool) -> State | None:
    """Of Qot_Common.QotMarketState; None for one that is not known. extended_hours: trading before and after the
    regular session counts as open."""
    if number in _EXTENDED:
        return "open" if extended_hours else "closed"
    return _STATES.get(number)


def snapshot_quote(snapshot: BasicSnapshot, symbol: str, time_received_ns: int) -> Quote | None:
    """None if there is no price at all. Raises MalformedMessage."""
    try:
        bid, ask, last = _price(snapshot.bid), _price(snapshot.ask), _price(snapshot.last)
        if bid is None and ask is None and last is None:
            return None
        return Quote(
            symbol=symbol,
            time_event_ns=_time_ns(snapshot.update_timestamp, snapshot.update_time, snapshot.security.market),
            time_received_ns=time_received_ns,
            source=NAME,
            bid=bid,
            ask=ask,
            bid_size=_size_or_none(snapshot.bid_volume, snapshot.bid_volume_exact) if bid else None,
            ask_size=_size_or_none(snapshot.ask_volume, snapshot.ask_volume_exact) if ask else None,
            last=last,
            volume=_size(snapshot.volume, snapshot.volume_exact),
        )
    except ValueError as error:
        raise MalformedMessage(NAME, f"snapshot of {symbol}: {error}") from None


def kline_table(
    rows: Sequence[KLine],
    *,
    symbol: str,
    market: int,
    interval: Interval,
    start_ns: int,
    end_ns: int,
    as_of_ns: int,
) -> pa.Table:
    """Those of `rows` with start_ns <= ts < end_ns that were over at `as_of_ns`, as a `BAR_SCHEMA` table by ts.

    Raises MalformedMessage, also if a bar comes twice.
    """
    try:
        rows = [row for row in rows if not row.blank]
        ts = _starts(rows, market, interval)
        values = np.array(
            [(r.open, r.high, r.low, r.close, _size_or_none(r.volume, r.volume_exact)) for r in rows], np.float64
        ).reshape(-1, 5)
    except (ValueError, TypeError, OverflowError, pa.ArrowInvalid) as error:
        raise MalformedMessage(NAME, f"{symbol}: {interval} bars: {error}") from None
    if not np.isfinite(values[:, :4]).all():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar without a price")
    order = np.argsort(ts, kind="stable")
    ts, values = ts[order], values[order]
    keep = (ts >= start_ns) & (ts < end_ns) & (ts <= as_of_ns - interval.ns)
    ts, values = ts[keep], values[keep]
    if (np.diff(ts) == 0).any():
        raise MalformedMessage(NAME, f"{symbol}: a {interval} bar came twice")
    n = len(ts)
    constant = {"symbol": symbol, "interval": interval.name, "side": "trade", "provider": NAME, "status": "backfill"}
    columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value), n) for name, value in constant.items()}
    columns |= dict(zip(("open", "high", "low", "close"), values.T, strict=False))
    columns |= {"ts": ts, "volume": pa.array(values[:, 4], from_pandas=True)}
    columns |= {"vwap": pa.nulls(n), "trades": pa.nulls(n), "as_of": np.full(n, as_of_ns, np.int64)}
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in BAR_SCHEMA], schema=BAR_SCHEMA)


def _starts(rows: Sequence[KLine], market: int, interval: Interval) -> npt.NDArray[np.int64]:
    """A day begins at midnight UTC of its date; bars within the day are stamped with their end."""
    zone = zone_of(market)
    days = interval.ns >= 86_400 * NS_PER_S
    told = [row.timestamp for row in rows]
    if not days and all(told):
        seconds = np.array(told, np.float64)
        if not ((seconds > 0) & (seconds < _INT64_MAX / NS_PER_S)).all():
            raise ValueError("a time outside 1970 to 2262")
        ends = np.rint(seconds).astype(np.int64) * NS_PER_S
        return _floor(ends - 1, interval)
    texts = [row.time for row in rows]
    for text in texts:
        if _TIME.fullmatch(text) is None and not (days and _DATE.fullmatch(text)):
            raise ValueError(f"{text[:40]!r} is no time")
    local = np.array(texts, "datetime64[s]")
    if days:
        return local.astype("datetime64[D]").astype(np.int64) * (86_400 * NS_PER_S)
    utc = pc.assume_timezone(pa.array(local), zone.key, ambiguous="earliest", nonexistent="latest")
    ends = utc.to_numpy(zero_copy_only=False).astype("datetime64[s]").astype(np.int64) * NS_PER_S
    return _floor(ends - 1, interval)


def _floor(time_ns: npt.NDArray[np.int64], interval: Interval) -> npt.NDArray[np.int64]:
    floored: npt.NDArray[np.int64] = interval.floor(time_ns)
    return floored


def date_of(text: str) -> date:
    """Of `2026-12-18` or `2026-12-18 00:00:00`. Raises MalformedMessage."""
    try:
        return date.fromisoformat(text[:10] if _DATE.fullmatch(text[:10]) else "")
    except ValueError:
        raise MalformedMessage(NAME, f"{text[:40]!r} is no date") from None


def chain_table(
    snapshots: Sequence[Snapshot],
    *,
    underlying: str,
    expiry: date,
    underlying_price: float | None,
    time_received_ns: int,
) -> pa.Table:
    """The options among `snapshots` as an `OPTION_SCHEMA` table. Raises MalformedMessage."""
    try:
        rows = [_option_row(s, underlying, expiry, underlying_price, time_received_ns) for s in snapshots if s.option]
    except ValueError as error:
        raise MalformedMessage(NAME, f"options of {underlying}: {error}") from None
    rows.sort(key=lambda row: (row["strike"], row["right"]))
    return pa.Table.from_arrays(
        [pa.array([row[f.name] for row in rows], f.type) for f in OPTION_SCHEMA], schema=OPTION_SCHEMA
    )


def _option_row(
    snapshot: Snapshot, underlying: str, expiry: date, underlying_price: float | None, time_received_ns: int
) -> dict[str, Any]:
    basic, option = snapshot.basic, snapshot.option
    assert option is not None
    name, right = text_of(basic.security), _RIGHTS.get(option.type)
    strike = _price(option.strike)
    if right is None or not strike:
        raise ValueError(f"{name} is neither call nor put, or has no strike")
    bid, ask, last = _price(basic.bid), _price(basic.ask), _price(basic.last)
    market = _MARKET.get(basic.security.market)
    volatility = _finite(option.implied_volatility)
    return {
        "underlying": underlying,
        "contract": (occ_symbol(basic.security.code) if name.startswith("US.") else None) or name,
        "expiry": expiry,
        "strike": strike,
        "right": right,
        "bid": bid,
        "ask": ask,
        "bid_size": _size_or_none(basic.bid_volume, basic.bid_volume_exact) if bid else None,
        "ask_size": _size_or_none(basic.ask_volume, basic.ask_volume_exact) if ask else None,
        "last": last,
        "time_last": _time_ns(basic.update_timestamp, basic.update_time, basic.security.market) if last else None,
        "volume": _size(basic.volume, basic.volume_exact),
        "open_interest": _size(option.open_interest, None),
        "implied_volatility": volatility / 100 if volatility and volatility > 0 else None,
        "delta": _finite(option.delta),
        "gamma": _finite(option.gamma),
        "theta": _finite(option.theta),
        "vega": _finite(option.vega),
        "rho": _finite(option.rho),
        "underlying_price": underlying_price,
        "multiplier": option.multiplier or option.contract_size_exact or float(option.contract_size) or None,
        "currency": None if market is None else market.currency,
        "provider": NAME,
        "time_event": None,
        "time_received": time_received_ns,
    }


def corporate_actions(
    rows: Sequence[Rehab], *, symbol: str, market: int, start_ns: int, end_ns: int, as_of_ns: int
) -> list[CorporateAction]:
    """Splits (also consolidations, bonus and transferred shares) and dividends with start_ns <= ex_ns < end_ns.

    Of one day the ratios are multiplied and the dividends added. Rights issues, placements and spin-offs are left out.
    Raises MalformedMessage.
    """
    known = _MARKET.get(market)
    found: list[CorporateAction] = []
    for row in rows:
        day = date_of(row.time)
        ex_ns = (day - date(1970, 1, 1)).days * 86_400 * NS_PER_S
        if not start_ns <= ex_ns < end_ns:
            continue
        ratio, amount = _ratio(row), sum(getattr(row, name) for flag, name in _DIVIDENDS if row.flags & flag)
        if not math.isfinite(amount) or amount < 0:
            raise MalformedMessage(NAME, f"{symbol}: a dividend of {amount} on {day}")
        common: dict[str, Any] = {"symbol": symbol, "ex_ns": ex_ns, "provider": NAME, "as_of_ns": as_of_ns}
        if ratio != 1.0:
            found.append(CorporateAction(kind="split", ratio=ratio, **common))
        if amount:
            currency = None if known is None else known.currency
            found.append(CorporateAction(kind="dividend", amount=amount, currency=currency, **common))
    return sorted(found, key=lambda action: (action.ex_ns, action.kind))


def _ratio(row: Rehab) -> float:
    """New shares for one old. Bonus and transferred shares come on top of the old ones."""
    ratio = 1.0
    for flag, name in _SPLITS:
        if row.flags & flag:
            base, ert = getattr(row, f"{name}_base"), getattr(row, f"{name}_ert")
            if base <= 0 or ert <= 0:
                raise MalformedMessage(NAME, f"a {name} of {base} to {ert} on {row.time[:10]}")
            ratio *= (base + ert) / base if name in ("bonus", "transfer") else ert / base
    return ratio


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _price(value: float | None) -> float | None:
    """Absent is 0 or not there."""
    if value is None or value == 0:
        return None
    if not 0 < value < math.inf:
        raise ValueError(f"{value} is no price")
    return value


def _size(volume: int, exact: float | None) -> float:
    """exact: where the provider counts in fractions."""
    value = float(volume) if exact is None else exact
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is no size")
    return value


def _size_or_none(volume: int | None, exact: float | None) -> float | None:
    return None if volume is None and exact is None else _size(volume or 0, exact)


def _time_ns(timestamp: float | None, text: str, market: int) -> int:
    """timestamp: seconds since 1970, to the microsecond, before the text at the exchange."""
    if timestamp is not None and timestamp > 0:
        return _seconds_ns(timestamp)
    return _local_ns(text, market)


def _seconds_ns(seconds: float) -> int:
    if not 0 < seconds < _INT64_MAX / NS_PER_S:
        raise ValueError(f"{seconds} is outside 1970 to 2262")
    return round(seconds * 1e6) * 1_000


@lru_cache(4_096)
def _local_ns(text: str, market: int) -> int:
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is no time")
    local = datetime.fromisoformat(text).replace(tzinfo=zone_of(market))
    time_ns = int(local.timestamp()) * NS_PER_S + local.microsecond * 1_000
    if not 0 < time_ns <= _INT64_MAX:
        raise ValueError(f"{text!r} is outside 1970 to 2262")
    return time_ns
