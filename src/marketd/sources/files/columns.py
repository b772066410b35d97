"""What the columns of a file of bars mean: from their names, or without a header from what is in them.

Pure. To teach a vendor's spelling, add it to `_NAMES` as it is after `_plain` (lower case, words joined by `_`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.sources.files.numbers import looks_like_number, number_style, numbers
from marketd.sources.files.options import PRICES, WORDS, FileOptions
from marketd.sources.files.stamps import best_form, has_clock

__all__ = ["Layout", "has_header", "layout_by_content", "layout_by_name", "named_columns"]

_UNITS = ("", "_ns", "_us", "_ms", "_s")
_START = (
    *("ts", "ts_event", "time_event", "datetime", "date_time", "timestamp", "start", "start_time", "time_start"),
    *("bar_start", "window_start", "time_period_start", "open_time", "opentime", "time_open", "begins_at", "gmt_time"),
    *("utc_time", "time_utc", "utc", "datetime_utc", "timestamp_utc", "date_utc", "local_time", "unix", "unix_time"),
    *("unix_timestamp", "epoch", "date_gmt", "t", "date", "day", "dt", "yyyymmdd", "dtyyyymmdd", "time", "index", ""),
)
_END = (
    *("end", "end_time", "time_end", "bar_end", "ts_end", "end_ts", "window_end", "time_period_end", "close_time"),
    *("closetime", "time_close"),
)
_DATE = ("date", "day", "yyyymmdd", "dtyyyymmdd", "trade_date", "local_date")
_TIME = ("time", "clock", "hour", "hhmm", "hhmmss", "timestamp", "local_time", "bar_time")
_UTC_NAMES = re.compile(r"(?:^|_)(?:utc|gmt)(?:_|$)")

_NAMES: dict[str, tuple[str, ...]] = {
    "open": ("open", "o", "open_price", "price_open", "first", "opening_price"),
    "high": ("high", "h", "high_price", "price_high", "max", "maximum"),
    "low": ("low", "l", "low_price", "price_low", "min", "minimum"),
    "close": ("close", "c", "close_price", "price_close", "last", "close_last", "closing_price", "latest"),
    "volume": ("volume", "v", "vol", "total_volume", "volume_traded", "shares", "tick_volume", "tickvol"),
    "vwap": ("vwap", "vw", "wap", "weighted_price", "average", "avg_price"),
    "trades": ("trades", "n", "trade_count", "tradecount", "num_trades", "number_of_trades", "trades_count"),
    "symbol": ("symbol", "ticker", "instrument", "product_id", "sym", "tic", "act_symbol", "stock_code"),
    "interval": ("interval", "timeframe"),
    "side": ("side",),
    "provider": ("provider",),
    "status": ("status",),
    "as_of": ("as_of", "known_at"),
}
_BESIDE: dict[str, tuple[str, ...]] = {
    "adj_close": ("adj_close", "adjusted_close", "adjclose", "close_adj"),
    "dividend": ("dividend", "dividends", "dividend_amount", "div_cash", "divcash"),
    "split": ("stock_splits", "stock_split", "splits", "split", "split_coefficient", "split_factor", "splitfactor"),
    "capital_gain": ("capital_gains", "capital_gain"),
}
_ADJUSTED = (*_BESIDE["adj_close"], "adj_factor")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are, as positions of columns from 0.

    stamp: one column of times, or two (date, time). stamp_end: the column's name says that it is the bar's end.
    stamp_utc: the name says UTC. sides: of which prices, to ours → position. words: ours → position of text columns.
    beside: adj_close, dividend, split, capital_gain → position, where there are the first two: compared, not kept.
    """

    names: tuple[str, ...]
    header: bool
    stamp: tuple[int, ...]
    stamp_end: bool = False
    stamp_utc: bool = False
    sides: dict[str, dict[str, int]]
    words: dict[str, int] = {}
    as_of: int | None = None
    beside: dict[str, int] = {}
    notes: tuple[str, ...] = ()

    def used(self) -> tuple[int, ...]:
        """The positions that are read, each once, ascending."""
        places = {*self.stamp, *self.words.values()}
        for prices in self.sides.values():
            places.update(prices.values())
        places.update(self.beside.values())
        if self.as_of is not None:
            places.add(self.as_of)
        return tuple(sorted(places))

    def numeric(self) -> tuple[int, ...]:
        """The positions of prices, volumes and counts."""
        return tuple(sorted({place for prices in self.sides.values() for place in prices.values()}))

    def meanings(self) -> tuple[tuple[str, str], ...]:
        """Of each column in the file's order: its name and what it is taken for (`-`: not used)."""
        found: dict[int, list[str]] = {}
        for number, place in enumerate(self.stamp):
            words = ("date", "time") if len(self.stamp) == 2 else ("end" if self.stamp_end else "ts",)
            found.setdefault(place, []).append(words[number])
        for ours, place in self.words.items():
            found.setdefault(place, []).append(ours)
        if self.as_of is not None:
            found.setdefault(self.as_of, []).append("as_of")
        for side, prices in self.sides.items():
            for ours, place in prices.items():
                found.setdefault(place, []).append(ours if side == "trade" else f"{side}_{ours}")
        for ours, place in self.beside.items():
            found.setdefault(place, []).append(f"{ours}, compared only")
        return tuple((name, " ".join(found.get(place, ["-"]))) for place, name in enumerate(self.names))


def _plain(name: str) -> str:
    words = re.sub(r"[^0-9a-z]+", "_", name.strip().strip("<>").lower()).strip("_")
    return re.sub(r"^[0-9]+_(?=[a-z])", "", words)  # `1. open`


def has_header(first: Sequence[str]) -> bool:
    """Whether a first line names columns: none of its fields is a number or a time."""
    filled = [text.strip() for text in first if text.strip()]
    return bool(filled) and not any(looks_like_number(text) or best_form([text]) is not None for text in filled)


def named_columns(options: FileOptions, names: Sequence[str], *, header: bool) -> dict[str, int]:
    """Positions of the columns that the person mapped. Raises InvalidInput naming the mapping."""
    mapped: dict[str, int] = {}
    for ours, theirs in options.columns.items():
        places = [place for place, name in enumerate(names) if name == theirs]
        if not places:
            places = [place for place, name in enumerate(names) if name.strip().lower() == theirs.strip().lower()]
        if not places and not header and theirs.isascii() and theirs.isdigit() and 1 <= int(theirs) <= len(names):
            places = [int(theirs) - 1]
        if len(places) != 1:
            some = ", ".join(names) if header else f"1 to {len(names)}"
            raise InvalidInput(
                f"column {ours}", theirs, f"one of {some}" if not places else "a name that is there once"
            )
        mapped[ours] = places[0]
    return mapped


def layout_by_name(options: FileOptions, names: Sequence[str], sample: Mapping[int, Sequence[str]]) -> Layout:
    """The layout of a file with these column names. sample: texts of the first rows, by position.

    Raises InvalidInput naming the column that is missing, or there twice.
    """
    mapped = named_columns(options, names, header=True)
    plain = [_plain(name) for name in names]
    taken = set(mapped.values())

    def find(spellings: Sequence[str], ours: str) -> int | None:
        if ours in mapped:
            return mapped[ours]
        for spelling in spellings:
            places = [place for place, name in enumerate(plain) if name == spelling and place not in taken]
            if len(places) > 1:
                raise InvalidInput(f"column {ours}", names[places[0]], "a name that is there once, or a mapping")
            if places:
                return places[0]
        return None

    stamp, end, utc = _stamp(mapped, plain, taken, sample)
    taken |= set(stamp)
    words = {ours: place for ours in WORDS if (place := find(_NAMES[ours], ours)) is not None}
    sides: dict[str, dict[str, int]] = {}
    for side in ("trade", "bid", "ask"):
        prefixes = ("",) if side == "trade" else (f"{side}_", f"{side}")
        found = {}
        for ours in (*PRICES, "volume", "vwap", "trades"):
            spellings = [prefix + name for name in _NAMES[ours] for prefix in prefixes]
            if side != "trade":
                spellings += [side + "_size"] * (ours == "volume") + [f"{name}_{side}" for name in _NAMES[ours][:1]]
            place = find(spellings, ours if side == "trade" else f"{side}_{ours}")
            if place is not None and place not in (*stamp, *words.values()):
                found[ours] = place
        if all(price in found for price in PRICES):
            sides[side] = found
        elif side == "trade" and any(price in found for price in PRICES):
            missing = [price for price in PRICES if price not in found]
            raise InvalidInput(
                "columns", tuple(names), f"one for {', '.join(missing)} too, or --column open=… and so on"
            )
    if not sides:
        raise InvalidInput(
            "columns", tuple(names), "columns for open, high, low and close, or --column open=… and so on"
        )
    if options.side is not None:
        if options.side not in sides and list(sides) != ["trade"]:
            raise InvalidInput("side", options.side, f"a side of this file: {', '.join(sides)}")
        sides = {options.side: sides.get(options.side) or sides["trade"]}
    beside = {ours: place for ours, names_ in _BESIDE.items() if (place := _first(plain, names_, taken)) is not None}
    if not ("adj_close" in beside and "dividend" in beside and "trade" in sides):
        beside = {}
    notes = [
        f"{names[place]!r} is not kept: what is kept is raw, adjustment is made on read"
        for place, name in enumerate(plain)
        if name in _ADJUSTED
    ]
    return Layout(
        names=tuple(names),
        header=True,
        stamp=stamp,
        stamp_end=end,
        stamp_utc=utc,
        sides=sides,
        words=words,
        as_of=find(_NAMES["as_of"], "as_of"),
        beside=beside,
        notes=tuple(notes),
    )


def _stamp(
    mapped: Mapping[str, int], plain: Sequence[str], taken: set[int], sample: Mapping[int, Sequence[str]]
) -> tuple[tuple[int, ...], bool, bool]:
    if "date" in mapped and "time" in mapped:
        return (mapped["date"], mapped["time"]), False, False
    for ours in ("ts", "end", "date", "time"):
        if ours in mapped:
            place = mapped[ours]
            return (place,), ours == "end", _UTC_NAMES.search(plain[place]) is not None
    date = next((found for name in _DATE if (found := _place(plain, name, taken)) is not None), None)
    if date is not None:
        for name in _TIME:
            time = _place(plain, name, taken)
            if time is not None and time != date and _is_clock(sample.get(time, ())) and not has_clock(sample[date]):
                return (date, time), False, _UTC_NAMES.search(plain[time]) is not None
    for spellings, end in ((_START, False), (_END, True)):
        for spelling in spellings:
            for unit in _UNITS:
                found = _place(plain, spelling + unit, taken)
                if found is not None and any(sample.get(found, ())) and not _is_clock(sample[found]):
                    return (found,), end, _UTC_NAMES.search(plain[found]) is not None
    raise InvalidInput("columns", tuple(plain), "a column of times, or --column ts=…")


def _first(plain: Sequence[str], names: Sequence[str], taken: set[int]) -> int | None:
    return next((place for name in names if (place := _place(plain, name, taken)) is not None), None)


def _place(plain: Sequence[str], name: str, taken: set[int]) -> int | None:
    return next((place for place, have in enumerate(plain) if have == name and place not in taken), None)


def _is_clock(texts: Sequence[str]) -> bool:
    filled = [text for text in texts if text]
    form = best_form(filled, clock_only=True)
    if form is None:
        # bare digits without leading zeros: 930 is half past nine, 0 is midnight
        return bool(filled) and all(text.isascii() and text.isdigit() and len(text) <= 6 for text in filled)
    return True


def layout_by_content(options: FileOptions, count: int, sample: Mapping[int, Sequence[str]]) -> Layout:
    """The layout of a file without a header: a time, then open, high, low, close and perhaps the volume.

    The order of prices is believed when the highest and the lowest are where they must be in every row of the sample.
    Raises InvalidInput asking for mappings otherwise.
    """
    names = [f"column {place + 1}" for place in range(count)]
    mapped = named_columns(options, names, header=False)
    if {"open", "high", "low", "close"} <= mapped.keys() and mapped.keys() & {"ts", "end", "date"}:
        stamp, end, _ = _stamp(mapped, names, set(), sample)
        prices = {ours: mapped[ours] for ours in (*PRICES, "volume", "vwap", "trades") if ours in mapped}
        words = {ours: mapped[ours] for ours in WORDS if ours in mapped}
        side = options.side or "trade"
        return Layout(
            names=tuple(names), header=False, stamp=stamp, stamp_end=end, sides={side: prices}, words=words,
            as_of=mapped.get("as_of"),
        )  # fmt: skip
    ask = InvalidInput(
        "columns", [next(iter(sample.get(place, ())), "") for place in range(count)],
        "a header, or mappings by number: --column ts=1 --column open=2 --column high=3 …",
    )  # fmt: skip
    if mapped:
        raise ask
    times = [place for place in range(count) if _time_like(sample.get(place, ()))]
    if not times:
        raise ask
    stamp = (times[0],)
    clock = times[0] + 1
    if clock < count and not has_clock(sample[times[0]]) and _clock_beside(sample[times[0]], sample.get(clock, ())):
        stamp = (times[0], clock)
    rest = [
        place
        for place in range(max(stamp) + 1, count)
        if (filled := [t for t in sample.get(place, ()) if t.strip()]) and all(looks_like_number(t) for t in filled)
    ]
    before = [place for place in range(times[0]) if not all(map(looks_like_number, sample.get(place, ())))]
    if not 4 <= len(rest) <= 5 or rest != list(range(rest[0], rest[0] + len(rest))):
        raise ask
    style = number_style((t for place in rest for t in sample[place]), options.decimal)
    values = np.array([numbers(pa.array(list(sample[place]), pa.string()), style)[0] for place in rest[:4]])
    whole = ~np.isnan(values).any(axis=0)
    if (
        not whole.any()
        or (values[1] < values.max(axis=0))[whole].any()
        or (values[2] > values.min(axis=0))[whole].any()
    ):
        raise ask
    prices = dict(zip((*PRICES, "volume"), rest, strict=False))
    return Layout(
        names=tuple(names), header=False, stamp=stamp, sides={options.side or "trade": prices},
        words={"symbol": before[0]} if len(before) == 1 and options.symbol is None else {},
        notes=("no header: the order of the columns was taken from their content",),
    )  # fmt: skip


def _time_like(texts: Sequence[str]) -> bool:
    filled = [text for text in texts if text]
    if not filled:
        return False
    if best_form(filled) is not None:
        return True
    return all(text.isascii() and text.lstrip("+-").isdigit() and len(text.lstrip("+-")) >= 9 for text in filled)


def _clock_beside(dates: Sequence[str], texts: Sequence[str]) -> bool:
    """Bare digits may be a price as well: they are a time of day only where a date has several of them."""
    return _is_clock(texts) and (any(":" in text for text in texts) or len(set(dates)) < len(dates))
