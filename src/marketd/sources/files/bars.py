"""From a file that was understood to bars, a piece at a time. A row that is no bar is put aside with line and reason.

What is refused here is what cannot be *read*; whether a bar is believed is decided where all history comes in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from marketd.model import ADJUSTED, BAR_SCHEMA, BarStatus, Interval
from marketd.model.ticks import I64
from marketd.sources.files.numbers import numbers
from marketd.sources.files.options import PRICES, SIDES
from marketd.sources.files.plan import EVENING_NS, FilePlan, labels, stamps_of
from marketd.sources.files.stamps import NS_PER_DAY, Column, Mask, Stamps, best_form, text_stamps, zone_table
from marketd.sources.files.tables import Chunk, Refused, refused_row, words_of

__all__ = ["FILE_REASONS", "FileBatch", "read"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

FILE_REASONS: dict[str, str] = {
    "corrupt_line": "no row of the table: other number of fields, an open quote, no UTF-8, broken JSON, a cut-off file",
    "bad_time": "the time cannot be read in the form of its column, or has no offset where others do",
    "mixed_units": "a number since 1970 that looks like a coarser unit than the rest of its column",
    "nonexistent_time": "a local time that the clocks skipped",
    "ambiguous_time": "a local time that happened twice, and the order of rows does not tell which it is",
    "off_grid": "the bar does not start at a multiple of its interval",
    "no_symbol": "the symbol is empty",
    "bad_word": "an interval, side, status or provider that is not one",
    "absent_price": "open, high, low or close is empty",
    "not_a_number": "a price, volume, vwap or number of trades that is not a finite number",
}
_CODES = {reason: code for code, reason in enumerate(FILE_REASONS, 1)}
_REASONS = tuple(FILE_REASONS)
_EXAMPLES = 1_000
_WEEK = Interval.parse("1w")
_STATUSES = get_args(BarStatus)
_NO_WEEK = 99
_WEEK_MOVES = {
    "start": (0, 0, _NO_WEEK, _NO_WEEK, _NO_WEEK, 2, 1),
    "end": (-7, _NO_WEEK, _NO_WEEK, 0, 0, 0, 0),
}
"""Days from a stamp on Monday, Tuesday … to a day in its week."""
_TS = pa.timestamp("ns", tz="UTC")

U8 = npt.NDArray[np.uint8]


class FileBatch(NamedTuple):
    """bars: `BAR_SCHEMA`, in the file's order. rows: of the file, one a side where a row has several sides.

    refused: by reason. examples: at most the first 1,000 of them, with lines. lines: of the file, one a bar. beside:
    of a file with adjusted closes, for its rows of a day or longer, bars or not: symbol, interval, ts, open, close,
    adj_close, dividend, split, capital_gain; NaN where absent.
    """

    bars: pa.Table
    rows: int
    refused: Counter[str]
    examples: list[Refused]
    lines: I64
    beside: pa.Table | None = None


def read(plan: FilePlan, as_of_ns: int, progress: Callable[[int], None] = lambda _: None) -> Iterator[FileBatch]:
    """The bars of a file. as_of_ns: of all of them, unless the plan says that the file tells it.

    Raises InvalidInput when the file cannot be read on.
    """
    row = 0
    for chunk in plan.table.chunks(plan.layout.used(), progress):
        yield _batch(plan, chunk, row, as_of_ns)
        row += len(chunk.lines)


def _batch(plan: FilePlan, chunk: Chunk, row: int, as_of_ns: int) -> FileBatch:
    layout, length = plan.layout, len(chunk.lines)
    counts = Counter(refused.reason for refused in chunk.refused)
    examples = list(chunk.refused[:_EXAMPLES])
    rows = len(chunk.refused)
    if not length:
        return FileBatch(BAR_SCHEMA.empty_table(), rows, counts, examples, chunk.lines)
    problem = np.zeros(length, np.uint8)
    words = _words(plan, chunk, problem)
    starts = _starts(plan, chunk, row, words["interval"], problem)
    as_of = _as_of(plan, chunk, as_of_ns, problem)
    beside = _beside(plan, chunk, words, starts, problem == 0)
    tables, lines = [], []
    for side, prices in layout.sides.items():
        of_side = problem.copy()
        columns = {ours: _number(plan, chunk.columns[place], ours, of_side) for ours, place in prices.items()}
        good = of_side == 0
        rows += length
        if not good.all():
            counts.update({_REASONS[code - 1]: int(n) for code, n in enumerate(np.bincount(of_side)) if code and n})
            some = np.flatnonzero(~good)[: _EXAMPLES - len(examples)].tolist()
            names, used = layout.names, layout.used()
            examples += [refused_row(chunk, at, _REASONS[of_side[at] - 1], names, used) for at in some]
        if good.any():
            tables.append(_bars(plan, side, words, starts, as_of, columns, good))
            lines.append(chunk.lines[good])
    table = pa.concat_tables([BAR_SCHEMA.empty_table(), *tables])
    return FileBatch(table, rows, counts, examples, np.concatenate([chunk.lines[:0], *lines]), beside)


def _beside(plan: FilePlan, chunk: Chunk, words: dict[str, Any], starts: I64, timed: Mask) -> pa.Table | None:
    """What a file tells of adjustment, of every row that has a time."""
    layout = plan.layout
    long = np.broadcast_to(np.asarray(words["interval"], np.int64) >= NS_PER_DAY, timed.shape)
    keep = timed & long
    if not layout.beside or not keep.any():
        return None
    places = {name: layout.sides["trade"][name] for name in ("open", "close")} | layout.beside
    told = {}
    for ours, place in places.items():
        values, _, bad = numbers(chunk.columns[place], plan.style)
        told[ours] = np.where(bad, np.nan, values)[keep]
    kept = pa.array(keep)
    symbol = words.get("symbol")
    interval = words.get("interval_name")
    return pa.table(
        {
            "symbol": pa.repeat(plan.symbol or "", int(keep.sum())) if symbol is None else symbol.filter(kept),
            "interval": pa.repeat(plan.interval.name if plan.interval else "", int(keep.sum()))
            if interval is None
            else interval.filter(kept),
            "ts": pa.array(starts[keep]).cast(_TS),
            **{ours: pa.array(values) for ours, values in told.items()},
        }
    )


def _bars(
    plan: FilePlan, side: str, words: dict[str, Any], starts: I64, as_of: I64, columns: dict[str, Any], good: Mask
) -> pa.Table:
    keep = pa.array(good)
    kept = int(good.sum())

    def word(name: str, otherwise: str) -> Column:
        column = words.get(name)
        return pa.nulls(kept, pa.string()).fill_null(otherwise) if column is None else column.filter(keep)

    def real(name: str) -> Column:
        values = columns.get(name)
        return pa.nulls(kept, pa.float64()) if values is None else pa.array(values[good], from_pandas=True)

    trades = columns.get("trades")
    arrays = {
        "symbol": word("symbol", plan.symbol or ""),
        "interval": word("interval_name", "" if plan.interval is None else plan.interval.name),
        "side": word("side", side),
        "ts": pa.array(starts[good]).cast(_TS),
        **{name: pa.array(columns[name][good]) for name in PRICES},
        "volume": real("volume"),
        "vwap": real("vwap"),
        "trades": pa.nulls(kept, pa.int64())
        if trades is None
        else pa.array(np.where(np.isnan(trades), 0, trades)[good].astype(np.int64), mask=np.isnan(trades)[good]),
        "provider": word("provider", plan.provider),
        "status": word("status", "backfill"),
        "as_of": pa.array(as_of[good]).cast(_TS),
    }
    return pa.Table.from_arrays([arrays[name] for name in BAR_SCHEMA.names], schema=BAR_SCHEMA)


def _mark(problem: U8, where: Mask, reason: str) -> None:
    problem[(problem == 0) & where] = _CODES[reason]


# --- words -------------------------------------------------------------------------------------------------


def _words(plan: FilePlan, chunk: Chunk, problem: U8) -> dict[str, Any]:
    """Columns of words as string arrays; `interval`: nanoseconds a row, an int or an array."""
    found: dict[str, Any] = {"interval": None if plan.interval is None else plan.interval.ns}
    places = plan.layout.words
    if plan.symbol is None:
        column = words_of(chunk.columns[places["symbol"]])
        _mark(problem, pc.equal(column, "").to_numpy(zero_copy_only=False), "no_symbol")
        found["symbol"] = column
    if plan.interval is None:
        coded = words_of(chunk.columns[places["interval"]]).dictionary_encode()
        known = [_interval(text) for text in coded.dictionary.to_pylist()]
        codes = coded.indices.to_numpy(zero_copy_only=False)
        sizes = np.array([0 if interval is None else interval.ns for interval in known], np.int64)[codes]
        names = pa.array(["" if interval is None else interval.name for interval in known]).take(pa.array(codes))
        _mark(problem, sizes == 0, "bad_word")
        found["interval"], found["interval_name"] = np.maximum(sizes, 1), names
    if "side" in places and plan.options.side is None:
        found["side"] = _allowed(chunk.columns[places["side"]], SIDES, problem)
    if "status" in places:
        found["status"] = _allowed(chunk.columns[places["status"]], _STATUSES, problem)
    if "provider" in places and plan.options.provider is None:
        column = words_of(chunk.columns[places["provider"]])
        _mark(problem, pc.equal(column, "").to_numpy(zero_copy_only=False), "bad_word")
        if plan.options.adjusted:
            column = pc.binary_join_element_wise(column, ADJUSTED, "")
        found["provider"] = column
    return found


def _interval(text: str) -> Interval | None:
    try:
        return Interval.parse(text)
    except ValueError:
        return None


def _allowed(column: Column, words: tuple[str, ...], problem: U8) -> Column:
    text = pc.utf8_lower(words_of(column))
    _mark(problem, ~pc.is_in(text, value_set=pa.array(words)).to_numpy(zero_copy_only=False), "bad_word")
    return text


# --- numbers -----------------------------------------------------------------------------------------------


def _number(plan: FilePlan, column: Column, ours: str, problem: U8) -> Any:
    values, absent, bad = numbers(column, plan.style)
    if ours == "trades":
        with np.errstate(invalid="ignore"):
            bad = bad | (values < 0) | (values != np.trunc(values)) & ~absent | (values >= 2.0**53)
    _mark(problem, bad, "not_a_number")
    if ours in PRICES:
        _mark(problem, absent, "absent_price")
    return np.where(bad, np.nan, values)


# --- times -------------------------------------------------------------------------------------------------


def _as_of(plan: FilePlan, chunk: Chunk, as_of_ns: int, problem: U8) -> I64:
    if plan.options.as_of != "file" or plan.layout.as_of is None:
        return np.full(len(chunk.lines), as_of_ns, np.int64)
    column = chunk.columns[plan.layout.as_of]
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        _mark(problem, column.is_null().to_numpy(zero_copy_only=False), "bad_time")
        return np.asarray(pc.fill_null(column.cast(_TS).cast(pa.int64()), 0).to_numpy(zero_copy_only=False), np.int64)
    text = words_of(column)
    form = best_form(text.slice(0, _EXAMPLES).to_pylist())
    if form is None:
        _mark(problem, np.ones(len(text), np.bool_), "bad_time")
        return np.zeros(len(text), np.int64)
    stamps = text_stamps(text, form)
    _mark(problem, ~(stamps.ok & stamps.absolute), "bad_time")
    return stamps.ns


def _starts(plan: FilePlan, chunk: Chunk, row: int, interval: Any, problem: U8) -> I64:
    reading = plan.reading
    stamps, mixed = stamps_of(chunk, plan.layout, reading.form, reading.clock)
    _mark(problem, ~stamps.ok, "bad_time")
    _mark(problem, mixed, "mixed_units")
    sizes = np.broadcast_to(np.asarray(interval, np.int64), len(stamps.ns))
    dated = sizes >= NS_PER_DAY
    starts = np.zeros(len(stamps.ns), np.int64)
    if dated.any():
        starts = np.where(dated, _dated(plan, stamps, sizes, problem, dated), starts)
    if not dated.all():
        starts = np.where(dated, starts, _timed(plan, stamps, row, sizes, problem, ~dated))
    return starts


def _timed(plan: FilePlan, stamps: Stamps, row: int, sizes: I64, problem: U8, timed: Mask) -> I64:
    reading = plan.reading
    utc = stamps.ns
    local = ~stamps.absolute & timed & stamps.ok
    if local.any():
        if reading.zone is None:
            _mark(problem, local, "bad_time")
        else:
            first, last, change, skipped = zone_table(reading.zone).moments(stamps.ns)
            fold = np.full(len(utc), -1, np.int8)
            inside = (reading.twice >= row) & (reading.twice < row + len(utc))
            fold[reading.twice[inside] - row] = reading.folds[inside]
            utc = np.where(local, np.where(fold == 1, last, first), utc)
            _mark(problem, local & skipped, "nonexistent_time")
            _mark(problem, local & (change > 0) & (fold < 0), "ambiguous_time")
    starts = utc - sizes if reading.stamp == "end" else utc
    _mark(problem, timed & (starts % sizes != 0), "off_grid")
    return starts


def _dated(plan: FilePlan, stamps: Stamps, sizes: I64, problem: U8, dated: Mask) -> I64:
    """The date on the wall names a day. A week is named by its first days or the weekend before, or by its last days,
    the weekend or the Monday after: a week that begins in the middle of another is neither."""
    reading = plan.reading
    wall = labels(stamps, reading.zone)
    of_day = wall % NS_PER_DAY
    if reading.zone is None:
        _mark(problem, dated & stamps.absolute & (of_day != 0) & (stamps.offset_ns == 0), "bad_time")
    day = wall - of_day
    if plan.options.stamp == "start":  # a session that starts in the evening has the next date
        day = np.where(stamps.clock & (of_day >= EVENING_NS), day + NS_PER_DAY, day)
    if reading.stamp == "end":  # midnight is the end of the day before
        day = np.where(stamps.clock & (of_day == 0) & (sizes == NS_PER_DAY), day - NS_PER_DAY, day)
    weekly = sizes == _WEEK.ns
    if not weekly.any():
        return day
    move = np.array(_WEEK_MOVES[reading.stamp])[(day // NS_PER_DAY + 3) % 7]
    _mark(problem, dated & weekly & (move == _NO_WEEK), "off_grid")
    return np.where(weekly, _WEEK.floor(day + move * NS_PER_DAY), day)
