"""How a file of bars is understood: columns, times, interval and order, decided from all of it before a bar is made.

`understand` goes through the times once and decides; `read` (in `bars`) goes through everything and makes bars. What
two readings are left for is asked (`InvalidInput` naming the option that settles it), never chosen in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from marketd.errors import InvalidInput
from marketd.model import ADJUSTED, INTERVALS, Interval, format_ns
from marketd.model.ticks import I64
from marketd.sources.files.columns import Layout, layout_by_content, layout_by_name
from marketd.sources.files.numbers import NumberStyle, looks_like_number, number_style
from marketd.sources.files.options import FileOptions
from marketd.sources.files.stamps import (
    NS_PER_DAY,
    NS_PER_UNIT,
    Column,
    EpochForm,
    Mask,
    Stamps,
    TextForm,
    around_1970,
    best_form,
    clock_of,
    custom_form,
    epoch_parts,
    epoch_stamps,
    epoch_unit,
    settle_folds,
    text_stamps,
    zone_table,
)
from marketd.sources.files.tables import Chunk, Table, open_table

__all__ = ["EVENING_NS", "FilePlan", "Order", "Reading", "labels", "stamps_of", "understand"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

Order = Literal["ascending", "descending", "unordered"]

_HOUR = 3_600_000_000_000
_DAY, _WEEK = Interval.parse("1d"), Interval.parse("1w")
EVENING_NS = 17 * _HOUR
_FEW = 0.01
_MOST = 0.9
_RULED_OUT = 1_000
_SPACINGS_KEPT = 1_000
_SYMBOL_NAME = r"[A-Z0-9][A-Z0-9.^=\-]{0,11}"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How times are read. form: None when their type says it. zone: of times without an offset, and of the dates of
    daily bars; told, or by the column's name. twice, folds: the rows (from 0) whose wall time happened twice, and which
    time it is (-1 unknown).
    """

    form: TextForm | EpochForm | None
    clock: TextForm | None = None
    zone: str | None = None
    stamp: Literal["start", "end"] = "start"
    twice: I64
    folds: npt.NDArray[np.int8]


class FilePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a file will be read. symbol, interval: None when a column tells. rows: those whose time was understood."""

    path: str
    options: FileOptions
    table: Table
    layout: Layout
    style: NumberStyle
    reading: Reading
    symbol: str | None
    interval: Interval | None
    order: Order
    rows: int
    notes: tuple[str, ...] = ()

    @property
    def provider(self) -> str:
        """What bars are kept under when the file has no column for it."""
        name = self.options.provider or "file"
        return name + ADJUSTED if self.options.adjusted else name

    @property
    def bytes(self) -> int:
        return self.table.bytes

    def describe(self) -> list[tuple[str, str]]:
        """What was understood, as pairs of a word and its meaning, for people."""
        reading = self.reading
        lines = [("format", self.table.format + ("" if self.layout.header else ", no header"))]
        lines += [("column", f"{name!r}: {meaning}") for name, meaning in self.layout.meanings()]
        lines.append(("symbol", self.symbol or "from its column"))
        lines.append(("interval", "from its column" if self.interval is None else self.interval.name))
        lines.append(("times", self._times()))
        lines.append(("stamp", f"{reading.stamp} of the bar"))
        lines.append(("numbers", f"decimal mark {self.style.decimal}" + self._thousands()))
        lines.append(("order", {"ascending": "oldest first", "descending": "newest first"}.get(self.order, "mixed")))
        lines.append(("provider", self.provider))
        lines += [("note", note) for note in self.notes]
        return lines

    def _thousands(self) -> str:
        mark = self.style.thousands
        return "" if mark is None else f", {'space' if mark.isspace() else mark} between thousands"

    def _times(self) -> str:
        form, clock = self.reading.form, self.reading.clock
        if isinstance(form, EpochForm):
            words = f"{form.unit} since 1970, UTC"
        elif form is None:
            words = "stamps of the file's own type"
        else:
            order = {True: "DD/MM/YYYY", False: "MM/DD/YYYY", None: "PP/QQ/YYYY"}[form.day_first]
            words = form.words.replace("PP/QQ/YYYY", order) + (f" and {clock.words}" if clock is not None else "")
        return words + (f", {self.reading.zone}" if self.reading.zone else "")


def understand(
    path: str, options: FileOptions | None = None, progress: Callable[[int], None] = lambda _: None
) -> FilePlan:
    """Find out how to read a file of bars. progress: told the bytes read, the whole file once.

    Raises InvalidInput naming the file, and the option that settles what the file leaves open.
    """
    options = options or FileOptions()
    try:
        return _understand(path, options, progress)
    except InvalidInput as error:
        if error.field == "path" or error.field.startswith(path):
            raise
        raise InvalidInput(f"{path}: {error.field}", error.value, error.allowed) from None


def _understand(path: str, options: FileOptions, progress: Callable[[int], None]) -> FilePlan:
    table = open_table(Path(path), options)
    if not any(map(len, table.sample.values())):
        raise InvalidInput("path", path, "a file with rows")
    if table.header:
        layout = layout_by_name(options, table.names, table.sample)
    else:
        layout = layout_by_content(options, len(table.names), table.sample)
    style = number_style(_written_numbers(table, layout), options.decimal)
    scan = _Scan(table, layout, options)
    while (again := scan.run(progress)) is not None:  # only for what the first rows did not show
        scan = again
        progress = _silent
    symbol = _symbol(path, options, layout)
    return scan.plan(path, style, symbol)


def _silent(_: int) -> None:
    return None


def _written_numbers(table: Table, layout: Layout) -> list[str]:
    if not table.format.startswith("CSV"):
        return []
    return [text for place in layout.numeric() for text in table.sample[place] if looks_like_number(text)]


def _symbol(path: str, options: FileOptions, layout: Layout) -> str | None:
    if options.symbol is not None:
        return options.symbol.strip()
    if "symbol" in layout.words:
        return None
    stem = Path(path).name.split(".")[0] if not Path(path).name.count(".") > 2 else ""
    if pc.match_substring_regex(pa.array([stem]), f"^{_SYMBOL_NAME}$")[0].as_py():
        return stem
    raise InvalidInput("symbol", None, "a symbol (--symbol), a column of symbols, or a file named like AAPL.csv")


# --- one column of times -----------------------------------------------------------------------------------


def stamps_of(
    chunk: Chunk, layout: Layout, form: TextForm | EpochForm | None, clock: TextForm | None
) -> tuple[Stamps, Mask]:
    """The times of a chunk, and which of them look like numbers of another unit."""
    first = _one_column(chunk.columns[layout.stamp[0]], form)
    if len(layout.stamp) == 1:
        return first
    date, mixed = first
    column = chunk.columns[layout.stamp[1]]
    if pa.types.is_time(column.type):
        ns = pc.fill_null(column.cast(pa.time64("ns")), 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        ok = column.is_valid().to_numpy(zero_copy_only=False)
        time = Stamps(ns, ok & False, np.zeros(len(ns), np.int64), ok, ok)
    else:
        assert clock is not None
        time = clock_of(_written(column), clock)
    ok = date.ok & time.ok & ~date.clock
    ns = np.where(ok, date.ns + time.ns - time.offset_ns * time.absolute, 0)
    return Stamps(ns, time.absolute & ok, time.offset_ns, ok, ok), mixed


def _one_column(column: Column, form: TextForm | EpochForm | None) -> tuple[Stamps, Mask]:
    if form is None:
        return _typed(column), np.zeros(len(column), np.bool_)
    if isinstance(form, EpochForm):
        return epoch_stamps(column if _numeric(column.type) else _written(column), form)
    return text_stamps(_written(column), form), np.zeros(len(column), np.bool_)


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _written(column: Column) -> Column:
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    return pc.utf8_trim_whitespace(column)


def _typed(column: Column) -> Stamps:
    kind = column.type
    zero = np.zeros(len(column), np.int64)
    if pa.types.is_date(kind):
        days = (
            pc.fill_null(column.cast(pa.date32()).cast(pa.int32()), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        ok = column.is_valid().to_numpy(zero_copy_only=False) & (np.abs(days) < 90_000)
        return Stamps(np.where(ok, days, 0) * NS_PER_DAY, ok & False, zero, ok & False, ok)
    scale = NS_PER_UNIT[kind.unit]
    ticks = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    ok = column.is_valid().to_numpy(zero_copy_only=False) & (np.abs(ticks) < np.iinfo(np.int64).max // scale)
    ns = np.where(ok, ticks, 0) * scale
    return Stamps(ns, ok & (kind.tz is not None), zero, ok, ok)


def labels(stamps: Stamps, zone: str | None) -> I64:
    """What a clock on the wall shows: of the zone when it was told, else of the written offset, else UTC.

    Daily and weekly bars are named by its date.
    """
    wall = np.where(stamps.absolute, stamps.ns + stamps.offset_ns, stamps.ns)
    if zone is not None and stamps.absolute.any():
        wall = np.where(stamps.absolute, zone_table(zone).wall(stamps.ns), wall)
    return wall


# --- going through the times -------------------------------------------------------------------------------


class _Guess:
    """What one reading of the times makes of the file."""

    def __init__(self, form: TextForm | EpochForm | None) -> None:
        self.form = form
        self.rows = self.ups = self.downs = self.repeats = 0
        self.lowest, self.highest = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self.spacings: Counter[int] = Counter()
        self.weekdays = np.zeros(7, np.int64)
        self.absolute = self.with_offset = self.without_clock = self.midnight = self.evening = self.odd_utc = 0
        self.mixed = 0
        self._last: dict[int, int] = {}
        self.twice: list[tuple[I64, I64, I64, I64]] = []

    def see(self, stamps: Stamps, mixed: Mask, groups: I64, rows: I64, zone: str | None) -> None:
        self.mixed += int(mixed.sum())
        good = np.flatnonzero(stamps.ok & ~mixed)
        if not len(good):
            return
        ns, group, absolute = stamps.ns[good], groups[good], stamps.absolute[good]
        self.rows += len(good)
        self.lowest, self.highest = min(self.lowest, int(ns.min())), max(self.highest, int(ns.max()))
        wall = labels(stamps, zone)[good]
        of_day = wall % NS_PER_DAY
        self.weekdays += np.bincount((wall // NS_PER_DAY + 3) % 7, minlength=7)
        self.absolute += int(absolute.sum())
        self.with_offset += int((stamps.offset_ns[good] != 0).sum())
        self.without_clock += int((~stamps.clock[good]).sum())
        self.midnight += int((of_day == 0).sum())
        self.evening += int((of_day >= EVENING_NS).sum())
        if zone is None:
            self.odd_utc += int((absolute & (of_day != 0) & (stamps.offset_ns[good] == 0)).sum())
        self._steps(ns, group)
        if zone is not None and not absolute.all():
            local = good[~absolute]
            _, _, change, _ = zone_table(zone).moments(stamps.ns[local])
            again = local[change > 0]
            if len(again):
                self.twice.append((rows[again], stamps.ns[again], change[change > 0], groups[again]))

    def _steps(self, ns: I64, group: I64) -> None:
        order = np.argsort(group, kind="stable")
        sorted_ns, sorted_group = ns[order], group[order]
        starts = np.flatnonzero(np.append(True, sorted_group[1:] != sorted_group[:-1]))
        ends = np.append(starts[1:], len(order)) - 1
        step = np.diff(sorted_ns)[sorted_group[1:] == sorted_group[:-1]]
        seams = []
        for number, first, last in zip(
            sorted_group[starts].tolist(), sorted_ns[starts].tolist(), sorted_ns[ends].tolist(), strict=True
        ):
            if number in self._last:
                seams.append(first - self._last[number])
            self._last[number] = last
        step = np.append(step, np.array(seams, np.int64))
        self.ups += int((step > 0).sum())
        self.downs += int((step < 0).sum())
        self.repeats += int((step == 0).sum())
        sizes, counts = np.unique(np.abs(step[step != 0]), return_counts=True)
        self.spacings.update(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))
        if len(self.spacings) > 10 * _SPACINGS_KEPT:
            self.spacings = Counter(dict(self.spacings.most_common(_SPACINGS_KEPT)))

    @property
    def order(self) -> Order:
        steps = self.ups + self.downs
        if self.downs <= _FEW * steps:
            return "ascending"
        return "descending" if self.ups <= _FEW * steps else "unordered"


class _Digits(NamedTuple):
    """Of a column of numbers since 1970: how many fit each unit, and the extremes."""

    fits: Counter[str]
    lowest: int
    highest: int


class _Scan:
    def __init__(
        self, table: Table, layout: Layout, options: FileOptions, *, clock_digits: int = 4,
        unit: str | None = None, through_1970: bool = False,
    ) -> None:  # fmt: skip
        self._table, self._layout, self._options = table, layout, options
        self._clock_digits = clock_digits
        self._zone = options.timezone or ("UTC" if layout.stamp_utc else None)
        sample = [text for text in table.sample[layout.stamp[0]] if text]
        self._typed = _is_typed(table, layout)
        form = None if self._typed else _form(sample, table.names[layout.stamp[0]], options)
        if isinstance(form, EpochForm):
            form = EpochForm(unit=unit or form.unit, around_1970=through_1970)
        self._clock = self._clock_form(clock_digits)
        forms = [form]
        if isinstance(form, TextForm) and form.date == "PP/QQ/YYYY" and form.day_first is None:
            forms = [msgspec.structs.replace(form, day_first=day_first) for day_first in (True, False)]
        self.guesses = [_Guess(form) for form in forms]
        self._given_up = False
        self._seen_rows = self._datable = 0

    def _clock_form(self, digits: int) -> TextForm | None:
        if len(self._layout.stamp) == 1:
            return None
        texts = [text for text in self._table.sample[self._layout.stamp[1]] if text]
        if all(text.isascii() and text.isdigit() for text in texts):
            digits = max(digits, 6 if max(map(len, texts), default=0) > 4 else 4)
            form = best_form(["0000"], clock_only=True)
            assert form is not None
            return msgspec.structs.replace(form, clock_digits=digits, words="HHMMSS"[:digits])
        return best_form(texts, clock_only=True)

    def run(self, progress: Callable[[int], None]) -> _Scan | None:
        """Go through the file. Another scan if what its first rows showed does not hold for all of it."""
        layout = self._layout
        words = [layout.words[name] for name in ("symbol", "interval", "side") if name in layout.words]
        positions = sorted({*layout.stamp, *words})
        codes: dict[Any, int] = {}
        fits: Counter[str] = Counter()
        lowest, highest, longest = 0, 0, 0
        epoch = isinstance(self.guesses[0].form, EpochForm)
        for chunk in self._table.chunks(positions, progress):
            if not len(chunk.lines):
                continue
            if epoch:
                whole, _, ok = epoch_parts(_plain(chunk.columns[layout.stamp[0]]), "s")
                for unit, ns in NS_PER_UNIT.items():
                    scale = 1_000_000_000 // ns
                    inside = ok & (whole >= -2_208_988_800 * scale) & (whole <= 4_102_444_800 * scale)
                    fits[unit] += int(inside.sum())
                fits["rows"] += len(whole)
                if ok.any():
                    lowest, highest = min(lowest, int(whole[ok].min())), max(highest, int(whole[ok].max()))
            if self._clock is not None and self._clock.clock_digits:
                texts = _written(chunk.columns[layout.stamp[1]])
                longest = max(longest, pc.max(pc.utf8_length(texts)).as_py() or 0)
            groups = _groups([chunk.columns[place] for place in words], codes, len(chunk.lines))
            rows = np.arange(self._seen_rows, self._seen_rows + len(chunk.lines))
            self._seen_rows += len(rows)
            either = np.zeros(len(rows), np.bool_)
            for guess in self.guesses:
                stamps, mixed = stamps_of(chunk, layout, guess.form, self._clock)
                guess.see(stamps, mixed, groups, rows, self._zone)
                either |= stamps.ok
            # with one order given up, a row that the other cannot read may still be a date: it counts against it
            self._datable += len(rows) if self._given_up else int(either.sum())
            self._give_up()
        if self._clock is not None and self._clock.clock_digits and 0 < longest <= 2:
            name = self._table.names[layout.stamp[1]]
            raise InvalidInput(f"column {name}", f"{longest} digits", "times of day such as 09:30, 0930 or 93000")
        if longest > 4 and self._clock is not None and self._clock.clock_digits == 4:
            return self._again(clock_digits=6)
        return self._other_unit(_Digits(fits, lowest, highest)) if epoch else None

    def _give_up(self) -> None:
        """Stop trying an order of day and month that many rows have ruled out."""
        if len(self.guesses) == 2:
            more, fewer = sorted(self.guesses, key=lambda guess: -guess.rows)
            if more.rows - fewer.rows > max(_RULED_OUT, 0.1 * more.rows):
                self.guesses = [more]
                self._given_up = True

    def _again(self, **changed: Any) -> _Scan:
        form = self.guesses[0].form
        kept: dict[str, Any] = {"clock_digits": self._clock_digits}
        if isinstance(form, EpochForm):
            kept |= {"unit": form.unit, "through_1970": form.around_1970}
        return _Scan(self._table, self._layout, self._options, **(kept | changed))

    def _other_unit(self, digits: _Digits) -> _Scan | None:
        form = self.guesses[0].form
        assert isinstance(form, EpochForm)
        name = self._table.names[self._layout.stamp[0]]
        said = self._options.date_format
        told = said or _unit_in_name(name)
        enough = (1 - _FEW) * max(digits.fits["rows"], 1)
        unit = told or next((unit for unit in NS_PER_UNIT if digits.fits[unit] >= enough), None)
        if unit is None or digits.fits[unit] < enough:
            raise InvalidInput(
                "date_format",
                name,
                f"numbers that are all {told or 's, ms, us or ns'} since 1970, between 1900 and 2100",
            )
        if (
            said is None
            and told is not None
            and any(
                digits.fits[coarser] >= enough for coarser in NS_PER_UNIT if NS_PER_UNIT[coarser] > NS_PER_UNIT[unit]
            )
        ):
            raise InvalidInput(
                "date_format", name, f"told: its numbers would lie in 1970 if they were {unit} since 1970"
            )
        through = said is not None or around_1970(digits.lowest, digits.highest, unit)
        if unit == form.unit and through == form.around_1970:
            return None
        return self._again(unit=unit, through_1970=through)

    # --- deciding ------------------------------------------------------------------------------------------

    def plan(self, path: str, style: NumberStyle, symbol: str | None) -> FilePlan:
        layout, options = self._layout, self._options
        notes = list(layout.notes)
        guess = self._chosen(notes)
        if not guess.rows:
            name = self._table.names[layout.stamp[0]]
            text = next((text for text in self._table.sample[layout.stamp[0]] if text), "")
            raise InvalidInput(f"column {name}", text, "times; see --date-format and --column")
        interval = self._interval(guess)
        stamp: Literal["start", "end"] = "end" if (options.stamp or "") == "end" else "start"
        if options.stamp is None and layout.stamp_end:
            stamp = "end"
            notes.append(f"{layout.names[layout.stamp[0]]!r} is taken for the end of the bar, by its name")
        by_date = interval is not None and interval.ns >= _DAY.ns
        if by_date:
            stamp = self._dated(guess, interval or _DAY, stamp, notes)
        elif self._zone is None and guess.absolute < guess.rows and interval is not None:
            example = format_ns(guess.lowest).removesuffix("Z")
            raise InvalidInput(
                "timezone", example, "a time zone told, such as America/New_York or UTC: it has no offset"
            )
        elif options.stamp is None and not layout.stamp_end and self._table.interval is None:
            notes.append("stamps are taken for the start of the bar; if they are its end, say so (--stamp end)")
        twice, folds = self._folds(guess, notes) if not by_date else (np.zeros(0, np.int64), np.zeros(0, np.int8))
        if guess.mixed:
            notes.append(f"{guess.mixed:,} times look like numbers of a coarser unit and are refused")
        return FilePlan(
            path=path,
            options=options,
            table=self._table,
            layout=layout,
            style=style,
            reading=Reading(
                form=guess.form,
                clock=self._clock,
                zone=self._zone,
                stamp=stamp,
                twice=twice,
                folds=folds,
            ),
            symbol=symbol,
            interval=interval,
            order=guess.order,
            rows=guess.rows,
            notes=tuple(notes),
        )

    def _chosen(self, notes: list[str]) -> _Guess:
        """Day first or month first: a number above 12 tells, else an order in time that only one of them has."""
        if len(self.guesses) == 1:
            if self._given_up and self.guesses[0].rows < (1 - _FEW) * self._datable:
                raise self._ask_date("told, DD/MM/YYYY or MM/DD/YYYY: some cannot be read as the others")
            return self.guesses[0]
        day_first, month_first = self.guesses
        more, fewer = sorted(self.guesses, key=lambda guess: -guess.rows)
        if more.rows < (1 - _FEW) * self._datable:
            raise self._ask_date("dates in one order; these have both")
        if more.rows > fewer.rows:
            return more
        ordered = [guess for guess in self.guesses if guess.order != "unordered" and guess.rows > 2]
        ordered = [guess for guess in ordered if min(guess.ups, guess.downs) == 0]
        if len(ordered) == 1:
            notes.append("the order of day and month was taken from the order of the rows")
            return ordered[0]
        if day_first.lowest == month_first.lowest and day_first.highest == month_first.highest and day_first.rows == 1:
            return day_first
        raise self._ask_date("told, DD/MM/YYYY or MM/DD/YYYY: every date can be read both ways")

    def _ask_date(self, allowed: str) -> InvalidInput:
        text = next(text for text in self._table.sample[self._layout.stamp[0]] if text)
        return InvalidInput("date_format", text, allowed)

    def _interval(self, guess: _Guess) -> Interval | None:
        options, layout = self._options, self._layout
        usual = guess.spacings.most_common(1)[0][0] if guess.spacings else None
        if usual is not None:
            times = guess.spacings[usual]
            usual = min(size for size, count in guess.spacings.items() if count == times)
        if options.interval is not None:
            told = Interval.parse(options.interval)
            if usual is not None and usual * 3 < told.ns * 2:
                raise InvalidInput("interval", told.name, f"one not longer than the time between rows, {_span(usual)}")
            return told
        if "interval" in layout.words:
            return None
        if self._table.interval is not None:
            return Interval.parse(self._table.interval)
        found = next((interval for interval in INTERVALS if interval.ns == usual), None)
        if found is not None and found.ns < _DAY.ns:
            total = sum(guess.spacings.values())
            multiples = sum(count for size, count in guess.spacings.items() if size % found.ns == 0)
            if multiples < (1 - _FEW) * total:
                found = None
        if found is None:
            seen = None if usual is None else f"rows {_span(usual)} apart"
            raise InvalidInput("interval", seen, f"one told: {', '.join(interval.name for interval in INTERVALS)}")
        return found

    def _dated(
        self, guess: _Guess, interval: Interval, stamp: Literal["start", "end"], notes: list[str]
    ) -> Literal["start", "end"]:
        """Daily and weekly bars are named by a date. Which, if their stamps are not midnights?"""
        few = _FEW * guess.rows
        if guess.odd_utc > few:
            raise InvalidInput(
                "timezone",
                None,
                f"told: these {interval.name} bars are not stamped at midnight UTC; at whose midnight?",
            )
        if guess.evening > few and stamp == "start":
            if self._options.stamp is None:
                raise InvalidInput(
                    "stamp", None, "told: start of the next date's session in the evening, or a day's end?"
                )
            notes.append("a start in the evening counts to the session of the next date")
        if interval is _DAY or self._options.stamp is not None or self._layout.stamp_end:
            return stamp
        days = guess.weekdays / guess.rows
        if days[0] + days[1] > _MOST:
            return "start"
        if days[3] + days[4] + days[5] > _MOST:
            notes.append("weeks are stamped with one of their last days")
            return "end"
        raise InvalidInput("stamp", None, "told, start or end: the days of these weeks do not tell")

    def _folds(self, guess: _Guess, notes: list[str]) -> tuple[I64, npt.NDArray[np.int8]]:
        if not guess.twice:
            return np.zeros(0, np.int64), np.zeros(0, np.int8)
        rows, walls, changes, groups = (np.concatenate(part) for part in zip(*guess.twice, strict=True))
        folds = settle_folds(rows, walls, changes, groups, descending=guess.downs > guess.ups)
        known, unknown = int((folds >= 0).sum()), int((folds < 0).sum())
        if known:
            notes.append(f"{known:,} times that happened twice (clocks put back) were told apart by the order of rows")
        if unknown:
            notes.append(f"{unknown:,} times happened twice (clocks put back), no order of rows tells which: refused")
        return rows, folds


def _plain(column: Column) -> Column:
    return column if _numeric(column.type) else _written(column)


def _span(ns: int) -> str:
    seconds = ns / 1_000_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _groups(columns: Sequence[Column], codes: dict[Any, int], rows: int) -> I64:
    """A number for each series (symbol, interval, side), the same in every chunk."""
    groups = np.zeros(rows, np.int64)
    for column in columns:
        coded = pc.fill_null(_written(column), "").dictionary_encode()
        local = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        both = groups * max(len(coded.dictionary), 1) + local
        distinct, first, inverse = np.unique(both, return_index=True, return_inverse=True)
        names = coded.dictionary.to_pylist()
        keys = [(int(groups[at]), names[int(local[at])]) for at in first]
        known = np.array([codes.setdefault(key, len(codes) + 1) for key in keys], np.int64)
        groups = known[inverse] if len(distinct) else groups
    return groups


def _is_typed(table: Table, layout: Layout) -> bool:
    """Whether the times have a type of their own: then nothing is to be found out about their form."""
    chunk = next(table.chunks(list(layout.stamp), _silent), None)
    if chunk is None:
        return False
    return bool(
        pa.types.is_timestamp(chunk.columns[layout.stamp[0]].type)
        or pa.types.is_date(chunk.columns[layout.stamp[0]].type)
    )


def _unit_in_name(name: str) -> str | None:
    head, _, unit = name.strip().lower().rpartition("_")
    return unit if head and unit in NS_PER_UNIT else None


def _form(sample: Sequence[str], name: str, options: FileOptions) -> TextForm | EpochForm:
    told = options.date_format
    if told in NS_PER_UNIT:
        return EpochForm(unit=told)
    if told is not None and told not in ("DD/MM/YYYY", "MM/DD/YYYY"):
        return custom_form(told)
    form = best_form(sample)
    if form is None or _unit_in_name(name) is not None:
        column = pa.array(list(sample), pa.string())
        whole, _, ok = epoch_parts(column, "s")
        if ok.sum() >= 0.9 * len(sample) and len(sample):
            return EpochForm(unit=_unit_in_name(name) or epoch_unit(whole, ok) or "s")
    if form is None:
        raise InvalidInput(f"column {name}", sample[0] if sample else "", "times; see --date-format and --column")
    if told is not None:
        if form.date != "PP/QQ/YYYY":
            raise InvalidInput("date_format", told, f"the form of {sample[0]!r}")
        return msgspec.structs.replace(form, day_first=told.startswith("DD"))
    return form
