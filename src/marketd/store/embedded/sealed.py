"""Sealed files: Parquet that is written once, sorted, listed in the manifest and never changed.

`SealedWriter` writes one and its coverage, `write_parts` all those of one log; `SealedReader` finds rows in them. The
layout is public and described in ``docs/store-layout.md``: change both together.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marketd.errors import StoreCorrupt
from marketd.model import BAR_SCHEMA, INTERVALS, Interval
from marketd.store.batch import SIDES
from marketd.store.embedded.columns import (
    DICTIONARY_SCHEMA,
    I64,
    Columns,
    Names,
    columns_of,
    distinct,
    repeated,
)
from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.coverage import BLOCK_BYTES, Blocks
from marketd.store.embedded.durable import make_folder, sync_folder
from marketd.store.embedded.hot import between
from marketd.store.embedded.manifest import FileKind, SealedFile, Span

__all__ = ["FOLDERS", "SealedReader", "SealedWriter", "first_days", "folder_of", "span_at", "span_end", "write_parts"]

FOLDERS: dict[FileKind, str] = {"part": "bars", "current": "bars", "superseded": "history", "by_time": "bytime"}
"""Where files of each kind are, below the data directory."""

_NS_PER_HOUR, _NS_PER_DAY = 3_600 * 10**9, 86_400 * 10**9
_TS_COLUMN, _AS_OF_COLUMN = BAR_SCHEMA.get_field_index("ts"), BAR_SCHEMA.get_field_index("as_of")
_PRICES = ("open", "high", "low", "close", "volume", "vwap")
_READ = ["ts", *_PRICES, "trades", "provider", "status", "as_of"]
_WORDS = ("symbol", "interval", "side", "provider", "status")
_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "column_encoding": dict.fromkeys(("ts", "as_of", "trades"), "DELTA_BINARY_PACKED"),
    "write_page_checksum": True,
    "store_schema": False,
}
_ROW_GROUP_ROWS_MAX = 131_072

_COVERAGE_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("symbol", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("block", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bits", pa.binary(BLOCK_BYTES), nullable=False),
        pa.field("withdrawn", pa.binary(BLOCK_BYTES)),
    ]
)


# -- which file a row belongs to ----------------------------------------------------------------------------------


def span_at(interval: Interval, first_day: int, today: int, day_files: int) -> Span:
    """How much time the file of `first_day` holds at `today`: longer intervals and older times have longer files."""
    year = np.datetime64(first_day, "D").astype("datetime64[Y]")
    if interval.ns >= _NS_PER_DAY or _day(year + 1) + day_files <= today:
        return "year"
    month = np.datetime64(first_day, "D").astype("datetime64[M]")
    if interval.ns >= _NS_PER_HOUR or _day(month + 1) + day_files <= today:
        return "month"
    return "day"


def span_end(first_day: int, span: Span) -> int:
    """The day after the last one that a file holds."""
    unit = {"day": "D", "month": "M", "year": "Y"}[span]
    return _day(np.datetime64(first_day, "D").astype(f"datetime64[{unit}]") + 1)


def first_days(days: Any, span: Span) -> I64:
    """The first day of the file that holds each of these days."""
    unit = {"day": "D", "month": "M", "year": "Y"}[span]
    starts = np.asarray(days, np.int64).astype("datetime64[D]").astype(f"datetime64[{unit}]")
    return np.asarray(starts.astype("datetime64[D]").astype(np.int64))


def _day(date: np.datetime64) -> int:
    return int(date.astype("datetime64[D]").astype(np.int64))


def folder_of(kind: FileKind, interval: str, first_day: int) -> str:
    return f"{FOLDERS[kind]}/interval={interval}/date={np.datetime64(first_day, 'D')}"


# -- writing ------------------------------------------------------------------------------------------------------


def _no_step(_step: str) -> None:
    pass


class _Sink(io.RawIOBase):
    """A file being written under a temporary name, with the checksum of what went into it."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        self.check = 0
        self.size = 0
        self._file = self.temporary.open("wb", buffering=0)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.check = crc32(view, self.check)
        self.size += len(view)
        left = view
        while left:
            left = left[self._file.write(left) :]
        return len(view)

    def tell(self) -> int:
        return self.size

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.temporary.unlink(missing_ok=True)


class SealedWriter:
    """Writes rows that come in the order of the file; `finish` makes them a durable file, `discard` forgets them.

    Each call of `write` must bring all rows of its symbols, but for copies by time.
    """

    def __init__(
        self,
        root: Path,
        path: str,
        kind: FileKind,
        interval: str,
        span: Span,
        first_day: int,
        names: Names,
        config: EmbeddedStoreConfig,
        *,
        log: int = 0,
        on_step: Callable[[str], None] = _no_step,
    ) -> None:
        self.rows = 0
        self._about: dict[str, Any] = {
            "path": path,
            "kind": kind,
            "interval": interval,
            "span": span,
            "first_day": first_day,
            "log": log,
        }
        self._names = names
        self._config = config
        self._on_step = on_step
        self._pending: list[Columns] = []
        self._waiting = 0
        self._blocks: list[Blocks] | None = None if kind == "by_time" else []
        self._sinks = [_Sink(root / path)]
        self._ranges: list[tuple[int, int, int, int]] = []
        self._symbols: set[int] = set()
        self._parquet: pq.ParquetWriter | None = None

    def write(self, rows: Columns) -> None:
        """Raises OSError."""
        if not len(rows):
            return
        self.rows += len(rows)
        self._ranges.append((int(rows.ts.min()), int(rows.ts.max()), int(rows.as_of.min()), int(rows.as_of.max())))
        self._symbols.update(distinct(rows.symbol).tolist())
        if self._blocks is not None:
            in_time = rows
            if self._about["kind"] == "superseded":
                starts = np.append(0, np.flatnonzero(np.diff(rows.group)) + 1)
                place = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
                in_time = rows.take(np.lexsort((rows.as_of, rows.ts, place)))
            self._blocks.append(Blocks.of(in_time))
        self._pending.append(rows)
        self._waiting += len(rows)
        if self._waiting >= self._config.row_group_rows:  # enough for one, of whatever length
            self._write_row_groups(Columns.concat(self._pending), last=False)

    def _write_row_groups(self, rows: Columns, *, last: bool) -> None:
        wanted = self._config.row_group_rows
        if self._about["span"] == "day" and self._about["kind"] != "by_time":
            wanted = max(1, wanted // 4)  # a symbol has few rows in it
        begins = np.diff(rows.symbol) != 0
        if self._about["kind"] == "superseded":
            begins |= np.diff(rows.ts) < 0  # older versions begin
        ends = np.append(np.flatnonzero(begins) + 1, len(rows))
        start = 0
        while len(rows) - start >= (1 if last else wanted):
            if self._about["kind"] == "by_time":
                stop = min(start + wanted, len(rows))
            elif self._about["kind"] == "superseded":
                # short ones, since a reader of then skips those of which nothing was known
                place = int(np.searchsorted(ends, start + wanted, "right")) - 1
                stop = int(ends[place]) if place >= 0 and ends[place] > start + wanted // 2 else start + wanted
                stop = min(stop, len(rows))
            else:
                place = int(np.searchsorted(ends, start + wanted))
                stop = int(ends[min(place, len(ends) - 1)])
                stop = min(stop, start + max(_ROW_GROUP_ROWS_MAX, wanted))
            group = rows.take(slice(start, stop))
            if self._parquet is None:
                sink = pa.PythonFile(self._sinks[0], "w")
                options = _FORMAT | {"use_dictionary": [*_WORDS, *_repeating(group)]}
                self._parquet = pq.ParquetWriter(sink, DICTIONARY_SCHEMA, **options)
            self._parquet.write_table(self._names.compact_table(group), row_group_size=stop - start)
            start = stop
        self._pending = [rows.take(slice(start, None))]
        self._waiting = len(rows) - start

    def finish(self) -> SealedFile:
        """Raises OSError."""
        if self._waiting:
            self._write_row_groups(Columns.concat(self._pending), last=True)
        assert self._parquet is not None  # no file is begun without rows
        self._parquet.close()
        path = self._sinks[0].path
        if self._blocks is not None:
            self._sinks.append(_Sink(path.with_suffix(".coverage")))
            _write_coverage(self._sinks[1], self._blocks, self._names)
        for sink in self._sinks:
            sink.sync()
        self._on_step("part_written")
        for sink in self._sinks:
            sink.temporary.replace(sink.path)
        sync_folder(path.parent)
        self._on_step("part_renamed")
        spelled = sorted(self._names.symbols.names[code] for code in self._symbols)
        least, most = np.min(self._ranges, axis=0), np.max(self._ranges, axis=0)
        return SealedFile(
            **self._about,
            rows=self.rows,
            bytes=self._sinks[0].size,
            crc32=self._sinks[0].check,
            coverage_bytes=self._sinks[1].size if self._blocks is not None else 0,
            coverage_crc32=self._sinks[1].check if self._blocks is not None else 0,
            ts_min_ns=int(least[0]),
            ts_max_ns=int(most[1]),
            as_of_min_ns=int(least[2]),
            as_of_max_ns=int(most[3]),
            symbol_min=spelled[0],
            symbol_max=spelled[-1],
        )

    def discard(self) -> None:
        if self._parquet is not None:
            self._parquet.is_open = False  # or it would finish the file when it is collected
        for sink in self._sinks:
            sink.discard()


def _repeating(rows: Columns) -> list[str]:
    """Of prices, volume and vwap those that a dictionary makes half as long or less: ticks of a cent, say.

    They are smaller then, and read twice as fast.
    """
    found = []
    for name, values in zip(_PRICES, rows.floats, strict=True):
        distinct_count = len(np.unique(values))
        width = max(1, int(distinct_count - 1).bit_length())
        if 8 * distinct_count + len(values) * width / 8 <= 4 * len(values):
            found.append(name)
    return found


def _write_coverage(sink: _Sink, parts: list[Blocks], names: Names) -> None:
    groups = np.concatenate([part.groups for part in parts])
    bits = np.concatenate([part.bits for part in parts])
    arrays = [
        names.symbols.dictionary(groups >> 7),
        pa.array(SIDES).take(pa.array(groups & 3)),
        pa.array(np.concatenate([part.blocks for part in parts])),
        pa.array(np.concatenate([part.rows for part in parts])),
        _binary(bits),
        pa.nulls(len(bits), pa.binary(BLOCK_BYTES)),
    ]
    if any(part.withdrawn is not None for part in parts):
        gone = np.concatenate([np.zeros_like(p.bits) if p.withdrawn is None else p.withdrawn for p in parts])
        has: Any = gone.any(axis=1)
        full = _binary(gone)
        arrays[5] = pc.if_else(pa.array(has), full, None)
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["symbol", "side"],
        "write_statistics": False,
        "write_page_checksum": True,
        "store_schema": False,
    }
    pq.write_table(pa.Table.from_arrays(arrays, schema=_COVERAGE_SCHEMA), pa.PythonFile(sink, "w"), **options)


def write_parts(
    root: Path,
    log_number: int,
    today: int,
    rows: Columns,
    names: Names,
    config: EmbeddedStoreConfig,
    on_step: Callable[[str], None],
) -> tuple[SealedFile, ...]:
    """Write the rows of a log as durable files under `root`; one per interval and span of time. Raises OSError.

    today: the day the log was begun. Names depend on the log and its rows alone: done again after a crash, it
    replaces whatever was left behind, finished or not.
    """
    days = rows.ts // _NS_PER_DAY
    words: tuple[Span, ...] = ("day", "month", "year")
    places, of_row = np.unique(days * len(INTERVALS) + rows.interval, return_inverse=True)
    found = []
    for place in places.tolist():
        day, code = divmod(place, len(INTERVALS))
        span = span_at(INTERVALS[code], day, today, config.day_files)
        found.append((int(first_days(day, span)), words.index(span)))
    firsts, spans = np.array(found, np.int64)[of_row].T
    ranks = names.symbols.ranks()
    order = np.lexsort((rows.as_of, rows.ts, rows.side, ranks[rows.symbol], spans, firsts, rows.interval))
    rows, firsts, spans = rows.take(order), firsts[order], spans[order]
    cuts = (np.diff(rows.interval) != 0) | (np.diff(firsts) != 0) | (np.diff(spans) != 0)
    bounds = (np.flatnonzero(cuts) + 1).tolist()
    sealed = []
    for start, end in zip([0, *bounds], [*bounds, len(rows)], strict=True):
        interval, first_day = INTERVALS[int(rows.interval[start])].name, int(firsts[start])
        span = words[int(spans[start])]
        path = f"{folder_of('part', interval, first_day)}/{span}-part-{log_number:06d}.parquet"
        writer = SealedWriter(
            root, path, "part", interval, span, first_day, names, config, log=log_number, on_step=on_step
        )
        try:
            writer.write(rows.take(slice(start, end)))
            sealed.append(writer.finish())
        except BaseException:
            writer.discard()
            raise
    return tuple(sealed)


# -- reading ------------------------------------------------------------------------------------------------------


class _Shape:
    """Where a file's rows are: of each row group the first row and the range of ts, of each group its rows."""

    __slots__ = (
        "_doubtful",
        "_order",
        "_sorted",
        "as_of_min",
        "group_starts",
        "groups",
        "metadata",
        "row_groups",
        "ts_max",
        "ts_min",
    )

    def __init__(self, metadata: pq.FileMetaData, blocks: Blocks | None) -> None:
        self.metadata = metadata
        counts, least, most, known = [], [], [], []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            counts.append(group.num_rows)
            ts: Any = group.column(_TS_COLUMN).statistics
            least.append(ts.min_raw)
            most.append(ts.max_raw)
            as_of: Any = group.column(_AS_OF_COLUMN).statistics
            known.append(as_of.min_raw)
        self.row_groups = np.append(0, np.cumsum(counts)).astype(np.int64)
        self.ts_min, self.ts_max = np.array(least, np.int64), np.array(most, np.int64)
        self.as_of_min = np.array(known, np.int64)
        self._doubtful: frozenset[int] = frozenset()
        if blocks is None:
            self.groups = self.group_starts = self._order = self._sorted = np.zeros(0, np.int64)
            return
        first = np.ones(len(blocks.groups), np.bool_)
        first[1:] = blocks.groups[1:] != blocks.groups[:-1]
        at = np.flatnonzero(first)
        self.groups = blocks.groups[at]
        self.group_starts = np.append(np.append(0, np.cumsum(blocks.rows))[at], blocks.rows.sum())
        self._order = np.argsort(self.groups)
        self._sorted = self.groups[self._order]
        self._doubtful = frozenset(blocks.doubtful_groups().tolist())

    def is_plain(self, group: int) -> bool:
        """Whether every row of a group is a bar in force, if no other file says otherwise."""
        return group not in self._doubtful

    def rows_of(self, group: int) -> tuple[int, int]:
        """First row and the one after the last of a group; equal if it has none."""
        at = int(np.searchsorted(self._sorted, group))
        if at == len(self._sorted) or self._sorted[at] != group:
            return 0, 0
        place = int(self._order[at])
        return int(self.group_starts[place]), int(self.group_starts[place + 1])

    def holding(self, groups: I64, ts_min_ns: int, ts_max_ns: int) -> list[int]:
        """The row groups that can hold one of these groups at a ts within the bounds."""
        places = np.flatnonzero(np.isin(self.groups, groups))
        wanted = np.zeros(len(self.row_groups), np.bool_)
        first = np.searchsorted(self.row_groups, self.group_starts[places], "right") - 1
        last = np.searchsorted(self.row_groups, self.group_starts[places + 1] - 1, "right") - 1
        wanted[first] = wanted[last] = True
        for begin, end in zip(first.tolist(), last.tolist(), strict=True):
            if end > begin + 1:
                wanted[begin:end] = True
        wanted[:-1] &= (self.ts_min <= ts_max_ns) & (self.ts_max >= ts_min_ns)
        return [int(number) for number in np.flatnonzero(wanted[:-1])]

    def series_groups(self, start: int, stop: int) -> I64:
        """The group of each of these rows."""
        first = int(np.searchsorted(self.group_starts, start, "right")) - 1
        last = int(np.searchsorted(self.group_starts, stop, "left"))
        edges = np.clip(self.group_starts[first : last + 1], start, stop)
        repeated: I64 = np.repeat(self.groups[first:last], np.diff(edges))
        return repeated


class SealedReader:
    """Finds rows in sealed files, keeping footers, coverage and decoded row groups within bounds. Thread-safe."""

    def __init__(self, root: Path, names: Names, config: EmbeddedStoreConfig) -> None:
        self._root = root
        self._names = names
        self._config = config
        self._shapes: OrderedDict[str, _Shape] = OrderedDict()
        self._blocks: OrderedDict[str, Blocks] = OrderedDict()
        self._bytes_held = 0
        self._row_groups: OrderedDict[tuple[str, int], Columns] = OrderedDict()
        self._rows_held = 0
        self._tables: OrderedDict[tuple[str, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._table_rows_held = 0
        self._being_read: dict[tuple[str, int, tuple[str, ...]], Future[pa.Table]] = {}
        self._lock = threading.Lock()

    def group(self, file: SealedFile, group: int, start_ns: int, end_ns: int) -> Columns:
        """All rows of one symbol, interval and side with start_ns <= ts < end_ns, as sorted as the file."""
        shape = self._shape(file)
        parts = []
        for number, part in self._parts_of(shape, group):
            if shape.ts_min[number] >= end_ns or shape.ts_max[number] < start_ns:
                continue
            rows = self._row_group(file, shape, number).take(part)
            if file.kind == "superseded":
                parts.append(between(rows, start_ns, end_ns))
            else:
                low, high = np.searchsorted(rows.ts, (start_ns, end_ns)).tolist()
                parts.append(rows.take(slice(low, high)))
        return Columns.concat(parts)

    def known_before(self, file: SealedFile, group: int, series: int, ts: I64, as_of_ns: int) -> Columns:
        """Of a superseded file the rows of one series, which is of `group`, that were in force at `as_of_ns`.

        ts: for which ones, ascending. Some that were not in force any longer may be among them.
        """
        shape = self._shape(file)
        parts = []
        for number, part in self._parts_of(shape, group):
            low, high = np.searchsorted(ts, (shape.ts_min[number], shape.ts_max[number] + 1)).tolist()
            if low == high or shape.as_of_min[number] > as_of_ns:
                continue
            rows = self._row_group(file, shape, number).take(part)
            at = np.minimum(np.searchsorted(ts, rows.ts), len(ts) - 1)
            found = np.flatnonzero((ts[at] == rows.ts) & (rows.as_of <= as_of_ns) & (rows.series == series))
            parts.append(rows.take(found))
            left = np.ones(len(ts), np.bool_)  # what follows is older
            left[at[found]] = False
            ts = ts[left]
            if not len(ts):
                break
        return Columns.concat(parts)

    @staticmethod
    def _parts_of(shape: _Shape, group: int) -> Iterator[tuple[int, slice]]:
        """The row groups that hold a group, with its rows in each."""
        start, stop = shape.rows_of(group)
        if start == stop:
            return
        first = int(np.searchsorted(shape.row_groups, start, "right")) - 1
        for number in range(first, int(np.searchsorted(shape.row_groups, stop, "left"))):
            begin = int(shape.row_groups[number])
            yield number, slice(max(0, start - begin), stop - begin)

    def is_plain(self, file: SealedFile, group: int) -> bool | None:
        """Whether every row of a group is a bar in force, as far as this file knows; None if it has none."""
        shape = self._shape(file)
        start, stop = shape.rows_of(group)
        return shape.is_plain(group) if stop > start else None

    def plain(
        self,
        files: Sequence[SealedFile],
        group: int,
        start_ns: int,
        end_ns: int,
        columns: Sequence[str],
        *,
        coded: bool = False,
    ) -> pa.Table:
        """As `group` of one file after the other, some columns of a group that `is_plain`, straight from the files.

        coded: words are dictionary-encoded.
        """
        cut = [file.ts_min_ns < start_ns or file.ts_max_ns >= end_ns for file in files]
        wanted = [name for name in columns if name in _READ]
        if "ts" not in wanted and (any(cut) or not wanted):
            wanted.append("ts")
        schema = pa.schema([BAR_SCHEMA.field(name) for name in columns])
        tables = []
        for file, is_cut in zip(files, cut, strict=True):
            shape = self._shape(file)
            for number, part in self._parts_of(shape, group):
                if shape.ts_min[number] >= end_ns or shape.ts_max[number] < start_ns:
                    continue
                shared = part.stop - part.start < shape.row_groups[number + 1] - shape.row_groups[number]
                read = self._shared_row_group if shared else self._read_row_group
                table = read(file, shape, number, wanted).slice(part.start, part.stop - part.start)
                if is_cut:
                    ts = table.column("ts").to_numpy().astype(np.int64, copy=False)
                    low, high = np.searchsorted(ts, (start_ns, end_ns)).tolist()
                    table = table.slice(low, high - low)
                tables.append(table)
        if not tables:
            return schema.empty_table()
        table = pa.concat_tables(tables)
        if coded:
            always = self._names.coded_words(group, len(table))
            return pa.table({name: always[name] if name in always else table.column(name) for name in columns})
        same = self._names.words(group, len(table))
        arrays = [same[name] if name in same else _as_stored(table, name) for name in columns]
        return pa.Table.from_arrays(arrays, schema=schema)

    def groups(self, file: SealedFile, groups: I64, ts_min_ns: int, ts_max_ns: int) -> Iterator[Columns]:
        """The row groups that can hold one of `groups` at a ts within the bounds. Raises StoreCorrupt."""
        shape = self._shape(file)
        for number in shape.holding(groups, ts_min_ns, ts_max_ns):
            yield self._row_group(file, shape, number)

    def everything(self, file: SealedFile) -> tuple[I64, I64, I64]:
        """The groups of a file in its order, the first row of each (one more at the end), and its row groups' rows."""
        shape = self._shape(file)
        return shape.groups, shape.group_starts, shape.row_groups

    def rows(self, file: SealedFile, start: int, stop: int) -> Columns:
        """Rows by their place in the file. Raises StoreCorrupt."""
        shape = self._shape(file)
        parts = []
        first = int(np.searchsorted(shape.row_groups, start, "right")) - 1
        for number in range(first, int(np.searchsorted(shape.row_groups, stop, "left"))):
            begin = int(shape.row_groups[number])
            rows = self._row_group(file, shape, number)
            parts.append(rows.take(slice(max(0, start - begin), stop - begin)))
        return Columns.concat(parts)

    def at(self, file: SealedFile, kind: int, ts_ns: int) -> Columns:
        """All rows of a copy by time of one side at `ts_ns`."""
        shape = self._shape(file)
        parts = []
        for number in np.flatnonzero((shape.ts_min <= ts_ns) & (shape.ts_max >= ts_ns)).tolist():
            rows = self._row_group(file, shape, number)
            low, high = np.searchsorted(rows.ts, (ts_ns, ts_ns + 1)).tolist()
            part = rows.take(slice(low, high))
            parts.append(part.take(np.flatnonzero(part.kind == kind)))
        return Columns.concat(parts)

    def coverage(self, file: SealedFile) -> Blocks:
        """Raises StoreCorrupt."""
        with self._lock:
            held = self._blocks.get(file.path)
            if held is not None:
                self._blocks.move_to_end(file.path)
                return held
        path = self._root / file.coverage
        try:
            with pq.ParquetFile(path, read_dictionary=["symbol", "side"], page_checksum_verification=True) as parquet:
                table = parquet.read().combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(str(path), f"the coverage cannot be read: {error}") from error
        blocks = self._blocks_of(file, table)
        with self._lock:
            if file.path not in self._blocks:
                self._blocks[file.path] = blocks
                self._bytes_held += blocks.nbytes
            while self._bytes_held > self._config.coverage_bytes_cached:
                _, dropped = self._blocks.popitem(last=False)
                self._bytes_held -= dropped.nbytes
        return blocks

    def _blocks_of(self, file: SealedFile, table: pa.Table) -> Blocks:
        column = {name: _whole(table.column(name)) for name in table.schema.names}
        sides = np.array([SIDES.index(side) for side in column["side"].dictionary.to_pylist()], np.int64)
        kinds = Names.kind(file.interval, SIDES[0]) + sides[column["side"].indices.to_numpy()]
        withdrawn = None
        if column["withdrawn"].null_count < table.num_rows:
            gone = column["withdrawn"]
            withdrawn = _bits(gone).copy()
            withdrawn[gone.is_null().to_numpy(zero_copy_only=False)] = 0
        return Blocks(
            Names.groups(self._names.symbols.encode(column["symbol"]), kinds),
            column["block"].to_numpy(),
            column["rows"].to_numpy(),
            _bits(column["bits"]),
            withdrawn,
        )

    def _shape(self, file: SealedFile) -> _Shape:
        with self._lock:
            held = self._shapes.get(file.path)
            if held is not None:
                self._shapes.move_to_end(file.path)
                return held
        try:
            metadata = pq.read_metadata(self._root / file.path)
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(str(self._root / file.path), f"the footer cannot be read: {error}") from error
        shape = _Shape(metadata, None if file.kind == "by_time" else self.coverage(file))
        with self._lock:
            self._shapes[file.path] = shape
            while len(self._shapes) > self._config.footers_cached:
                self._shapes.popitem(last=False)
        return shape

    def _row_group(self, file: SealedFile, shape: _Shape, number: int) -> Columns:
        key = (file.path, number)
        with self._lock:
            held = self._row_groups.get(key)
            if held is not None:
                self._row_groups.move_to_end(key)
                return held
        wanted = [*_READ, "symbol", "side"] if file.kind == "by_time" else _READ
        table = self._read_row_group(file, shape, number, wanted)
        rows = self._decoded(file, shape, number, {name: _whole(table.column(name)) for name in table.schema.names})
        with self._lock:
            if key not in self._row_groups:
                self._row_groups[key] = rows
                self._rows_held += len(rows)
            while self._rows_held > self._config.rows_cached:
                _, dropped = self._row_groups.popitem(last=False)
                self._rows_held -= len(dropped)
        return rows

    def _shared_row_group(self, file: SealedFile, shape: _Shape, number: int, columns: list[str]) -> pa.Table:
        """A row group of several symbols, kept, since who reads one often reads the next, and read by one thread."""
        key = (file.path, number, tuple(columns))
        with self._lock:
            held = self._tables.get(key)
            if held is not None:
                self._tables.move_to_end(key)
                return held
            promised = self._being_read.get(key)
            if promised is None:
                mine = self._being_read[key] = Future()
        if promised is not None:
            return promised.result()
        try:
            table = self._read_row_group(file, shape, number, columns)
        except BaseException as error:
            with self._lock:
                del self._being_read[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._being_read[key]
            self._tables[key] = table
            self._table_rows_held += len(table)
            while self._table_rows_held > self._config.rows_cached:
                _, dropped = self._tables.popitem(last=False)
                self._table_rows_held -= len(dropped)
        mine.set_result(table)
        return table

    def _read_row_group(self, file: SealedFile, shape: _Shape, number: int, columns: list[str]) -> pa.Table:
        path = self._root / file.path
        try:
            with pq.ParquetFile(
                path,
                metadata=shape.metadata,
                read_dictionary=["symbol", "side", "provider", "status"],
                page_checksum_verification=True,
            ) as parquet:
                return parquet.read_row_group(number, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(str(path), f"row group {number} cannot be read: {error}") from error

    def _decoded(self, file: SealedFile, shape: _Shape, number: int, column: dict[str, Any]) -> Columns:
        if file.kind == "by_time":
            sides = np.array([SIDES.index(side) for side in column["side"].dictionary.to_pylist()], np.int64)
            kinds = Names.kind(file.interval, SIDES[0]) + sides[column["side"].indices.to_numpy()]
            groups = Names.groups(self._names.symbols.encode(column["symbol"]), kinds)
        else:
            groups = shape.series_groups(*shape.row_groups[number : number + 2].tolist())
        return columns_of(Names.series(groups, self._names.providers.encode(column["provider"])), column)


def _as_stored(table: pa.Table, name: str) -> Any:
    """A column as `BAR_SCHEMA` has it."""
    column: Any = table.column(name)
    if not pa.types.is_dictionary(column.type):
        return column
    array = _whole(column)
    if len(array.dictionary) == 1:
        return repeated(array.dictionary[0].as_py(), len(array))
    return array.dictionary.take(array.indices)


def _binary(bits: Any) -> Any:
    """A matrix of bytes as a column of fixed-size binary."""
    data = pa.py_buffer(bits.tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(BLOCK_BYTES), len(bits), [None, data])


def _whole(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _bits(array: Any) -> Any:
    """A column of fixed-size binary as a matrix of bytes."""
    data = np.frombuffer(array.buffers()[1], np.uint8)
    return data[array.offset * BLOCK_BYTES : (array.offset + len(array)) * BLOCK_BYTES].reshape(-1, BLOCK_BYTES)
