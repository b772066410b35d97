"""What the columns of a file mean: guessed from their names and first rows, or told by the configuration.

To teach a new vendor's spelling, add it to the tables below. What cannot be understood is `InvalidInput` naming
the file and the column, before anything is replayed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from marketd.errors import InvalidInput
from marketd.model import INTERVALS, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.replay.config import Kind, ReplayFile
from marketd.sources.replay.values import INTEGER, TimeColumn, moment, time_column

__all__ = ["BAR_SIDES", "OHLC", "Layout", "guess", "symbol_from_name"]

OHLC = ("open", "high", "low", "close")
BAR_SIDES = ("bid", "ask")

_NAMES: dict[str, tuple[str, ...]] = {
    "symbol": ("symbol", "ticker", "instrument", "product_id"),
    "bid": ("bid", "bid_price", "best_bid", "bidprice"),
    "ask": ("ask", "ask_price", "best_ask", "askprice", "offer"),
    "bid_size": ("bid_size", "bid_volume", "bid_qty", "best_bid_size", "bidsize"),
    "ask_size": ("ask_size", "ask_volume", "ask_qty", "best_ask_size", "asksize"),
    "last": ("last", "price", "last_price", "trade_price"),
    "last_size": ("last_size", "size", "qty", "quantity", "amount", "trade_size"),
    "volume": ("volume",),
    "trade_id": ("trade_id",),
    "flags": ("flags",),
    **{name: (name,) for name in OHLC},
    **{f"{side}_{name}": (f"{side}_{name}",) for side in BAR_SIDES for name in OHLC},
}
_UNITS = ("", "_ns", "_us", "_ms", "_s")
_EVENT = ("time_event", "event", "event_time", "ts_event", "ts", "timestamp", "time", "datetime", "date", "start")
_EVENT_ELSE = ("transact", "transact_time", "trade_time", "trade")
_RECEIVED = ("time_received", "recv", "received", "receive", "recv_time", "receive_time", "ts_recv", "local_timestamp")

_PRICES: dict[str, tuple[str, ...]] = {
    "quotes": ("bid", "ask", "bid_size", "ask_size", "last", "volume"),
    "trades": ("last", "last_size", "volume"),
    "ticks": ("bid", "ask", "bid_size", "ask_size", "last", "last_size", "volume", "flags"),
}
_WORDS = re.compile(
    "ticks?|quotes?|trades?|bars?|minute|min|hour|hourly|daily|day|second|sample|with|gaps|flats|raw|replay|recording|l1"
)
_INTERVAL_WORD = re.compile(r"[smhdw]\d+")
_ALLOWED_BAR_SPACING = "rows at least one interval apart, or `interval` given"


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How to read one file.

    events: columns of the event time, the first that is not empty counts; if all are, the receive time does.
    numbers: ours → theirs for prices, sizes and volume. interval_ns: of bars, else 0. columns: the file's own names.
    """

    path: str
    kind: Kind
    columns: tuple[str, ...]
    symbol: str | None
    symbol_column: str | None = None
    events: tuple[TimeColumn, ...] = ()
    received: TimeColumn | None = None
    numbers: dict[str, str] = {}
    trade_id: str | None = None
    interval_ns: int = 0
    delimiter: str = ","

    @property
    def times(self) -> tuple[TimeColumn, ...]:
        return self.events if self.received is None else (*self.events, self.received)

    def used(self) -> tuple[str, ...]:
        """The file's columns that are read, each once."""
        names = [time.column for time in self.times]
        names += self.numbers.values()
        names += [name for name in (self.symbol_column, self.trade_id) if name is not None]
        return tuple(dict.fromkeys(names))


def guess(
    file: ReplayFile,
    columns: Sequence[str],
    sample: Sequence[Mapping[str, object]],
    *,
    delimiter: str = ",",
    units: Mapping[str, str] | None = None,
) -> Layout:
    """The layout of a file with these columns. sample: its first rows. units: of time columns whose type says it.

    Raises `InvalidInput` naming the file and the column.
    """
    found = _Columns(file, columns)
    numbers = {ours: theirs for ours in _NAMES if (theirs := found.named(ours)) is not None}
    symbol_column = numbers.pop("symbol", None) if file.symbol is None else None
    numbers.pop("symbol", None)
    trade_id = numbers.pop("trade_id", None)
    if trade_id is not None and "trade_id" not in file.columns and not _numbered(sample, trade_id):
        trade_id = None
    kind = file.kind or _kind(file, numbers, columns)
    wanted = _wanted(file, kind, numbers, columns)

    zone = None if file.timezone is None else ZoneInfo(file.timezone)
    known = units or {}

    def timed(name: str, unit: str) -> TimeColumn | None:
        return time_column(file.path, name, [row.get(name) for row in sample], known.get(name, unit), zone)

    event_names, received_name = found.times()
    events = tuple(
        column
        for position, name in enumerate(event_names)
        if (column := timed(name, file.time_unit if position == 0 else "auto")) is not None
    )
    received = None if received_name is None else timed(received_name, "auto")
    if not events and received is None and sample:
        raise InvalidInput(f"{file.path}: time_event", tuple(columns), "a column of event times, named or mapped")
    layout = Layout(
        path=file.path,
        kind=kind,
        columns=tuple(columns),
        symbol=None if symbol_column is not None else file.symbol or symbol_from_name(file.path),
        symbol_column=symbol_column,
        events=events,
        received=received,
        numbers={ours: numbers[ours] for ours in wanted if ours in numbers},
        trade_id=trade_id if kind in ("trades", "ticks") else None,
        delimiter=delimiter,
    )
    for name in layout.used():
        if list(columns).count(name) > 1:
            raise InvalidInput(f"{file.path}: columns", name, "each used column once in the header")
    if kind == "bars":
        layout = msgspec.structs.replace(layout, interval_ns=_interval_ns(file, layout, sample))
    return layout


def symbol_from_name(path: str) -> str:
    """The last part of the file's name that is no number, date, or word for the kind.

    `oanda_eurusd_20140502_ticks.csv.gz` is EURUSD, `BTC-USD.csv` is BTC-USD.
    """
    stem = Path(path).name.split(".")[0]
    parts = [
        part
        for part in stem.split("_")
        if part
        and not part[0].isdigit()
        and not _WORDS.fullmatch(part.lower())
        and not _INTERVAL_WORD.fullmatch(part.lower())
    ]
    return (parts[-1] if parts else stem or path).upper()


class _Columns:
    """Finds our names among theirs, whatever their case."""

    def __init__(self, file: ReplayFile, columns: Sequence[str]) -> None:
        self._file = file
        self._by_name: dict[str, str] = {}
        for column in columns:
            self._by_name.setdefault(column.strip().lower(), column)
        for ours, theirs in file.columns.items():
            if theirs not in columns:
                raise InvalidInput(f"{file.path}: columns.{ours}", theirs, f"one of {', '.join(columns)}")
        self._taken = set(file.columns.values())

    def named(self, ours: str) -> str | None:
        mapped = self._file.columns.get(ours)
        if mapped is not None:
            return mapped
        return next((c for n in _NAMES[ours] if (c := self._by_name.get(n)) is not None and c not in self._taken), None)

    def times(self) -> tuple[list[str], str | None]:
        """Event-time columns in order of trust, and the receive-time column."""
        mapped = self._file.columns.get("time_event")
        received = self._file.columns.get("time_received") or next(iter(self._timed(_RECEIVED)), None)
        events = [mapped] if mapped is not None else [*self._timed(_EVENT), *self._timed(_EVENT_ELSE)]
        return events, received

    def _timed(self, bases: Sequence[str]) -> list[str]:
        names = (f"{base}{unit}" for base in bases for unit in _UNITS)
        return [c for n in names if (c := self._by_name.get(n)) is not None and c not in self._taken]


def _numbered(sample: Sequence[Mapping[str, object]], column: str) -> bool:
    values = (str(value) for row in sample if (value := row.get(column)) not in (None, ""))
    return any(INTEGER.fullmatch(value) for value in values)


def _kind(file: ReplayFile, numbers: Mapping[str, str], columns: Sequence[str]) -> Kind:
    if "open" in numbers or any(f"{side}_open" in numbers for side in BAR_SIDES):
        return "bars"
    book = "bid" in numbers or "ask" in numbers
    if book:
        return "ticks" if "last" in numbers and ("last_size" in numbers or "flags" in numbers) else "quotes"
    if "last" in numbers:
        return "trades"
    raise InvalidInput(
        f"{file.path}: columns", tuple(columns), "bid and ask, or a price, or open, high, low and close; or a mapping"
    )


def _wanted(file: ReplayFile, kind: Kind, numbers: Mapping[str, str], columns: Sequence[str]) -> tuple[str, ...]:
    """Our names that this kind reads. Raises `InvalidInput` when one it cannot do without is missing."""

    def refuse(allowed: str) -> InvalidInput:
        return InvalidInput(f"{file.path}: kind", kind, f"{allowed}; the columns are {', '.join(columns)}")

    if kind == "recording":
        raise refuse("recording only for JSON lines written by a recorder")
    if kind == "bars":
        if all(name in numbers for name in OHLC):
            return (*OHLC, "volume")
        sides = [side for side in BAR_SIDES if all(f"{side}_{name}" in numbers for name in OHLC)]
        if not sides:
            raise refuse("open, high, low and close, or the same of bid or ask")
        return tuple(name for side in sides for name in (*(f"{side}_{price}" for price in OHLC), f"{side}_size"))
    if kind == "trades" and "last" not in numbers:
        raise refuse("a column with the price")
    if kind == "quotes" and not ("bid" in numbers or "ask" in numbers):
        raise refuse("a column with the bid or the ask")
    if kind == "ticks" and not any(name in numbers for name in ("bid", "ask", "last")):
        raise refuse("a column with the bid, the ask or the last price")
    return _PRICES[kind]


def _interval_ns(file: ReplayFile, layout: Layout, sample: Sequence[Mapping[str, object]]) -> int:
    """Given, or the longest interval we know that divides every spacing between rows.

    Too short does no harm (the ticks still lie inside their bar), too long would.
    """
    if file.interval is not None:
        return Interval.parse(file.interval).ns
    column = (layout.events or (layout.received,))[0]
    times: list[int] = []
    for row in sample:
        try:
            time_ns = None if column is None else moment(row.get(column.column), column)
        except ValueError:
            continue
        if time_ns is not None:
            times.append(time_ns)
    spacing = math.gcd(*(b - a for a, b in itertools.pairwise(times)))
    if spacing == 0:
        if len(times) > 1:
            raise InvalidInput(f"{file.path}: interval", None, _ALLOWED_BAR_SPACING)
        return 60 * NS_PER_S
    return max((i.ns for i in INTERVALS if spacing % i.ns == 0), default=spacing)
