"""Sealed files: Parquet that is written once, sorted, listed in the manifest and never changed.

`write_sealed` makes them of the rows of one log; `SealedReader` finds rows in them. The layout is public
and described in ``docs/store-layout.md``: change both together.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marketd.errors import StoreCorrupt
from marketd.model import BAR_SCHEMA, INTERVALS
from marketd.store.embedded.columns import I64, Columns, Names
from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.durable import make_folder, replace_file
from marketd.store.embedded.manifest import SealedFile

__all__ = ["FOLDER", "SealedReader", "write_sealed"]

FOLDER = "bars"
_WORDS = ["symbol", "interval", "side", "provider", "status"]
_SYMBOL_COLUMN, _TS_COLUMN = BAR_SCHEMA.get_field_index("symbol"), BAR_SCHEMA.get_field_index("ts")
_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": _WORDS,
    "column_encoding": dict.fromkeys(("ts", "as_of", "trades"), "DELTA_BINARY_PACKED"),
    "write_page_checksum": True,
}
_NS_PER_HOUR, _NS_PER_DAY = 3_600 * 10**9, 86_400 * 10**9


def write_sealed(
    root: Path,
    log_number: int,
    rows: Columns,
    names: Names,
    config: EmbeddedStoreConfig,
    on_step: Callable[[str], None],
) -> tuple[SealedFile, ...]:
    """Write the rows of a log as durable files under `root`; one per interval and period. Raises OSError.

    Names depend on the log and its rows alone: done again after a crash, it replaces whatever was left behind,
    finished or not.
    """
    ranks = names.symbols.ranks()
    periods = _periods(rows)
    order = np.lexsort((rows.as_of, rows.ts, rows.side, ranks[rows.symbol], periods, rows.interval))
    rows, periods = rows.take(order), periods[order]
    bounds = np.flatnonzero((np.diff(rows.interval) != 0) | (np.diff(periods) != 0)) + 1
    sealed = []
    for start, end in zip([0, *bounds.tolist()], [*bounds.tolist(), len(rows)], strict=True):
        part = rows.take(slice(start, end))
        interval = INTERVALS[int(part.interval[0])].name
        date = str(np.datetime64(int(periods[start]), "D"))
        path = f"{FOLDER}/interval={interval}/date={date}/part-{log_number:06d}.parquet"
        table = names.table(part)
        data = _parquet(table, config)
        make_folder((root / path).parent)
        replace_file(root / path, data, before_rename=lambda: on_step("part_written"))
        on_step("part_renamed")
        sealed.append(
            SealedFile(
                path=path,
                interval=interval,
                rows=len(part),
                bytes=len(data),
                ts_min_ns=int(part.ts.min()),
                ts_max_ns=int(part.ts.max()),
                as_of_min_ns=int(part.as_of.min()),
                symbol_min=table.column("symbol")[0].as_py(),
                symbol_max=table.column("symbol")[-1].as_py(),
            )
        )
    return tuple(sealed)


def _periods(rows: Columns) -> I64:
    """The first day of the period that a row is filed under, in days since 1970: a day, a month for hours, a year
    for days, so that a file holds a number of rows that is worth a file.
    """
    day = (rows.ts // _NS_PER_DAY).astype("datetime64[D]")
    length = np.array([i.ns for i in INTERVALS])[rows.interval]
    month = day.astype("datetime64[M]").astype("datetime64[D]")
    year = day.astype("datetime64[Y]").astype("datetime64[D]")
    return np.where(length >= _NS_PER_DAY, year, np.where(length >= _NS_PER_HOUR, month, day)).astype(np.int64)


def _parquet(table: pa.Table, config: EmbeddedStoreConfig) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=config.row_group_rows,
        **_FORMAT,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


class _Footer:
    """A file's metadata, and of each row group the first and last symbol and the least and greatest ts."""

    __slots__ = ("metadata", "ranges")

    def __init__(self, metadata: pq.FileMetaData) -> None:
        self.metadata = metadata
        self.ranges: list[tuple[str, str, int, int]] = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            symbol: Any = group.column(_SYMBOL_COLUMN).statistics
            ts: Any = group.column(_TS_COLUMN).statistics
            self.ranges.append((symbol.min, symbol.max, ts.min_raw, ts.max_raw))


class SealedReader:
    """Finds rows in sealed files, keeping footers and decoded row groups within bounds. Safe for several threads."""

    def __init__(self, root: Path, names: Names, config: EmbeddedStoreConfig) -> None:
        self._root = root
        self._names = names
        self._config = config
        self._footers: OrderedDict[str, _Footer] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], Columns] = OrderedDict()
        self._rows_held = 0
        self._lock = threading.Lock()

    def groups(self, file: SealedFile, symbols: Sequence[str], ts_min_ns: int, ts_max_ns: int) -> Iterator[Columns]:
        """The row groups that can hold one of `symbols` (sorted) at a ts within the bounds. Raises StoreCorrupt."""
        footer = self._footer(file)
        for number, (symbol_min, symbol_max, group_ts_min, group_ts_max) in enumerate(footer.ranges):
            if group_ts_min > ts_max_ns or group_ts_max < ts_min_ns:
                continue
            if bisect_left(symbols, symbol_min) < bisect_right(symbols, symbol_max):
                yield self._group(file, footer.metadata, number)

    def _footer(self, file: SealedFile) -> _Footer:
        with self._lock:
            held = self._footers.get(file.path)
            if held is not None:
                self._footers.move_to_end(file.path)
                return held
        try:
            footer = _Footer(pq.read_metadata(self._root / file.path))
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(str(self._root / file.path), f"the footer cannot be read: {error}") from error
        with self._lock:
            self._footers[file.path] = footer
            while len(self._footers) > self._config.footers_cached:
                self._footers.popitem(last=False)
        return footer

    def _group(self, file: SealedFile, metadata: pq.FileMetaData, number: int) -> Columns:
        key = (file.path, number)
        with self._lock:
            held = self._groups.get(key)
            if held is not None:
                self._groups.move_to_end(key)
                return held
        path = self._root / file.path
        try:
            with pq.ParquetFile(
                path, metadata=metadata, read_dictionary=_WORDS, page_checksum_verification=True
            ) as parquet:
                table = parquet.read_row_group(number, columns=BAR_SCHEMA.names, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(str(path), f"row group {number} cannot be read: {error}") from error
        rows = self._names.columns(table)
        with self._lock:
            if key not in self._groups:
                self._groups[key] = rows
                self._rows_held += len(rows)
            while self._rows_held > self._config.rows_cached:
                _, dropped = self._groups.popitem(last=False)
                self._rows_held -= len(dropped)
        return rows
