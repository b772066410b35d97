"""Bars taken apart for judging: columns as numpy, rows grouped into series, and where verdicts are collected.

Shared by the modules `bar_checks_*`. Here stands what every reason and note is called; what each means is in
`docs/quarantine.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import InvalidInput
from marketd.model import INTERVALS, starts_of

__all__ = ["NOTES", "REASONS", "BarNote", "Findings", "Rows", "Series", "has_level", "may_be_negative", "series_of"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REASONS = (
    "ok", "no_time", "bad_time", "time_unit", "future", "unfinished", "misaligned", "overlapping",
    "not_finite", "non_positive", "high_below_low", "outside_range", "negative_volume",
    "duplicate", "conflicting_duplicate", "outside_session", "time_zone", "day_shifted", "file_shifted",
    "repeated_bar", "unit_error", "off_level",
)  # fmt: skip
"""Why a row is refused, by its code. Words are stable; new ones come at the end."""

NOTES = (
    "unordered", "time_unit", "shifted_grid", "time_zone", "day_shifted", "file_shifted", "weekend_dates",
    "calendar_doubt", "unit_change", "level_change", "wide_bar", "flat_stretch", "unsteady",
)  # fmt: skip
"""What is said about a whole series. Those that are also reasons explain the refusal of many rows at once."""

_CODES = {reason: code for code, reason in enumerate(REASONS)}

_MAY_BE_NEGATIVE = frozenset({"future", "futures", "commodity", "spread", "rate", "macro"})
_WITHOUT_LEVEL = frozenset({"option", "warrant", "rate", "spread", "macro"})
_COLUMNS = (
    "symbol", "interval", "side", "ts", "open", "high", "low", "close", "volume", "vwap", "trades", "provider",
    "status",
)  # fmt: skip


def may_be_negative(asset_class: str) -> bool:
    """Whether prices of these can be zero or less: oil was, on one day in 2020; a share cannot."""
    return asset_class.lower() in _MAY_BE_NEGATIVE


def has_level(asset_class: str) -> bool:
    """Whether a price four times the last one is odd; for options and rates it is not."""
    return asset_class.lower() not in _WITHOUT_LEVEL


class BarNote(msgspec.Struct, frozen=True, kw_only=True):
    """Something odd about a series. code: one of `NOTES`. rows: how many bars with start_ns <= ts <= end_ns it is
    about; they are kept, unless the same word is a reason too. detail: in words, with the numbers."""

    code: str
    symbol: str
    interval: str
    detail: str
    start_ns: int
    end_ns: int
    rows: int


class Rows:
    """The columns of a batch. timed: the stamp is there. beyond: it is no time that nanoseconds
    in 64 bits can tell. series: number of the series of each row. withdrawn: the
    provider takes the bar back, so its prices do not matter.

    Absent prices and volumes are NaN; `volume_told` tells an absent volume from one that is not a number.
    """

    def __init__(self, columns: dict[str, Any], series: npt.NDArray[np.intp]) -> None:
        self.ts: Ints = columns["ts"]
        self.open: Floats = columns["open"]
        self.high: Floats = columns["high"]
        self.low: Floats = columns["low"]
        self.close: Floats = columns["close"]
        self.volume: Floats = columns["volume"]
        self.vwap: Floats = columns["vwap"]
        self.trades: Floats = columns["trades"]
        self.timed: Bools = columns["timed"]
        self.beyond: Bools = columns["beyond"]
        self.volume_told: Bools = columns["volume_told"]
        self.withdrawn: Bools = columns["withdrawn"]
        self.series = series
        self.names: list[tuple[str, str, str]] = columns["names"]
        self.width: Ints = columns["width"]
        self.offset: Ints = columns["offset"]

    def __len__(self) -> int:
        return len(self.ts)

    @classmethod
    def of(cls, bars: pa.Table) -> Rows:
        """Raises InvalidInput for missing columns, other types than those of `BAR_SCHEMA`, unknown intervals."""
        missing = [name for name in _COLUMNS if name not in bars.schema.names]
        if missing:
            raise InvalidInput("bars", bars.schema.names, f"the columns of BAR_SCHEMA; missing: {', '.join(missing)}")
        columns: dict[str, Any] = {name: _floats(bars, name) for name in _COLUMNS if name in _NUMBERS}
        stamps = bars["ts"].combine_chunks()
        if not pa.types.is_timestamp(stamps.type):
            raise InvalidInput("ts", str(stamps.type), "timestamps, UTC")
        columns["timed"] = stamps.is_valid().to_numpy(zero_copy_only=False)
        columns["ts"], columns["beyond"] = _nanoseconds(stamps)
        columns["volume_told"] = bars["volume"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
        withdrawn: Any = pc.equal(bars["status"], pa.scalar("withdrawn"))
        columns["withdrawn"] = withdrawn.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        series, names = _grouped(bars)
        widths, offsets = _grid([interval for _, interval, _ in names])
        columns |= {"names": names, "width": widths[series], "offset": offsets[series]}
        return cls(columns, series)


_NUMBERS = frozenset({"open", "high", "low", "close", "volume", "vwap", "trades"})


def _nanoseconds(stamps: Any) -> tuple[Ints, Bools]:
    """Of any unit; 0 where absent or outside the years 1677 to 2262, with a mask of the latter."""
    finer = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[stamps.type.unit]
    values = stamps.cast(pa.int64()).fill_null(0).to_numpy()
    furthest = (2**63 - 1) // finer
    beyond = (values > furthest) | (values < -furthest)
    return np.where(beyond, 0, values) * finer, beyond


def _floats(bars: pa.Table, name: str) -> Floats:
    column = bars[name]
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise InvalidInput(name, str(column.type), "numbers")
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _grouped(bars: pa.Table) -> tuple[npt.NDArray[np.intp], list[tuple[str, str, str]]]:
    """Series number of each row, and per series (symbol, interval, side). Providers are apart from one another."""
    code = np.zeros(bars.num_rows, np.int64)
    words: list[list[str]] = []
    for name in ("provider", "side", "interval", "symbol"):
        encoded: Any = pc.dictionary_encode(bars[name].combine_chunks().fill_null(""))
        words.append(encoded.dictionary.to_pylist())
        code = code * max(1, len(words[-1])) + encoded.indices.to_numpy()
    present, series = np.unique(code, return_inverse=True)
    _, sides, intervals, symbols = words
    names = []
    for key in present.tolist():
        rest, symbol = divmod(key, len(symbols))
        rest, interval = divmod(rest, len(intervals))
        names.append((symbols[symbol], intervals[interval], sides[rest % len(sides)]))
    return series.astype(np.intp), names


def _grid(intervals: list[str]) -> tuple[Ints, Ints]:
    by_name = {i.name: i for i in INTERVALS}
    for name in set(intervals):
        if name not in by_name:
            raise InvalidInput("interval", name, f"one of {', '.join(by_name)}")
    found = [by_name[name] for name in intervals]
    return np.array([i.ns for i in found], np.int64), np.array([i.offset_ns for i in found], np.int64)


class Findings:
    """Verdicts while they are collected. A row keeps the first reason that it was given."""

    def __init__(self, rows: Rows) -> None:
        self.reasons = np.zeros(len(rows), np.uint8)
        self.notes: list[BarNote] = []
        self._rows = rows

    @property
    def good(self) -> Bools:
        good: Bools = self.reasons == 0
        return good

    def refuse(self, which: Bools, reason: str) -> None:
        """which: a mask over all rows."""
        self.reasons[which & (self.reasons == 0)] = _CODES[reason]

    def refuse_rows(self, which: npt.NDArray[np.intp], reason: str) -> None:
        """which: positions of rows."""
        self.reasons[which[self.reasons[which] == 0]] = _CODES[reason]

    def note(self, code: str, series: int, ts: Ints, detail: str) -> None:
        """ts: stamps of the rows it is about, at least one."""
        symbol, interval, _ = self._rows.names[series]
        start_ns, end_ns = int(ts.min()), int(ts.max())
        self.notes.append(
            BarNote(
                code=code,
                symbol=symbol,
                interval=interval,
                detail=detail,
                start_ns=start_ns,
                end_ns=end_ns,
                rows=len(ts),
            )
        )


class Series:
    """The rows of one series that are good so far, ascending by time, among the known bars around them.

    row: place in the batch, -1 for known bars. known_*: the known bars, also where the batch has the same stamp.
    """

    def __init__(self, rows: Rows, number: int, own: npt.NDArray[np.intp], known: pa.Table | None) -> None:
        self.number = number
        self.symbol, self.interval, _ = rows.names[number]
        self.width = int(rows.width[own[0]])
        self.row = own
        self.ts = rows.ts[own]
        self.open, self.high, self.low, self.close = rows.open[own], rows.high[own], rows.low[own], rows.close[own]
        self.volume = rows.volume[own]
        self.known_ts = np.zeros(0, np.int64)
        self.known_close = np.zeros(0)
        if known is not None and known.num_rows:
            self._join(known)

    def __len__(self) -> int:
        return len(self.ts)

    def _join(self, known: pa.Table) -> None:
        ts = starts_of(known)
        order = np.argsort(ts, kind="stable")
        order = order[np.r_[True, ts[order][1:] != ts[order][:-1]]]
        self.known_ts, self.known_close = ts[order], known["close"].to_numpy()[order]
        fresh = order[~np.isin(ts[order], self.ts)]
        self.row = np.r_[self.row, np.full(len(fresh), -1, np.intp)]
        self.ts = np.r_[self.ts, ts[fresh]]
        again = np.argsort(self.ts, kind="stable")
        self.ts, self.row = self.ts[again], self.row[again]
        for name in ("open", "high", "low", "close", "volume"):
            theirs = np.asarray(known[name].to_numpy(), np.float64)[fresh]
            setattr(self, name, np.r_[getattr(self, name), theirs][again])

    def keep(self, which: Bools) -> None:
        """Go on with these rows alone."""
        for name in ("row", "ts", "open", "high", "low", "close", "volume"):
            setattr(self, name, getattr(self, name)[which])


def series_of(rows: Rows, found: Findings, known: pa.Table | None, *, fewest: int) -> Iterator[Series]:
    """Each series with at least so many rows, known ones counted. Rows that were refused before are not in it."""
    good = np.flatnonzero(found.good & ~rows.withdrawn)
    order = good[np.lexsort((rows.ts[good], rows.series[good]))]
    numbers, starts = np.unique(rows.series[order], return_index=True)
    bounds = np.r_[starts, len(order)]
    lengths = np.diff(bounds)
    around = _by_name(known) if known is not None and known.num_rows else {}
    worth = lengths >= fewest
    if around:
        worth |= np.array([rows.names[n] in around for n in numbers.tolist()], bool)
    for i in np.flatnonzero(worth).tolist():
        number = int(numbers[i])
        series = Series(rows, number, order[bounds[i] : bounds[i + 1]], around.get(rows.names[number]))
        if len(series) >= fewest:
            yield series


def _by_name(known: pa.Table) -> dict[tuple[str, str, str], pa.Table]:
    """Known bars by (symbol, interval, side), of all providers."""
    series, names = _grouped(known)
    order = np.argsort(series, kind="stable")
    known, bounds = known.take(order), np.r_[np.flatnonzero(np.diff(series[order], prepend=-1)), len(order)]
    parts: dict[tuple[str, str, str], list[pa.Table]] = {}
    for name, start, end in zip(names, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        parts.setdefault(name, []).append(known.slice(start, end - start))
    return {name: pa.concat_tables(tables) for name, tables in parts.items()}
