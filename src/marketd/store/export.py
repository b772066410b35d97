"""Bars out of a store into one file: Parquet, CSV or Arrow, a piece at a time, whole or not at all.

The file has the columns of `BAR_SCHEMA` and can be imported again. It appears under its name when it is complete and
durable; until then, and after a failure, a file that was there before is untouched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from marketd.errors import InvalidInput, StoreError
from marketd.model import BAR_SCHEMA, Interval, starts_of
from marketd.store.batch import SIDES
from marketd.store.contract import BarStore
from marketd.store.embedded.durable import sync_folder

__all__ = ["ExportFormat", "ExportQuery", "ExportSummary", "export"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

ExportFormat = Literal["parquet", "csv", "arrow"]

_SLICE_BARS = 500_000
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_COARSER = (
    (pa.timestamp("s", tz="UTC"), 1_000_000_000), (pa.timestamp("ms", tz="UTC"), 1_000_000),
    (pa.timestamp("us", tz="UTC"), 1_000),
)  # fmt: skip
_SUFFIXES: dict[str, ExportFormat] = {
    ".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which bars. symbols: empty for all. start_ns, end_ns: start_ns <= ts < end_ns, None for unbounded. side: one, or
    `all`. as_of_ns: as known then. versions: every version instead of the one in force (not with as_of_ns).
    prefer: providers whose bar wins, in this order."""

    interval: Interval
    symbols: tuple[str, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    side: str = "trade"
    as_of_ns: int | None = None
    versions: bool = False
    prefer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.side not in (*SIDES, "all"):
            raise InvalidInput("side", self.side, f"one of {', '.join(SIDES)}, all")
        if self.start_ns is not None and self.end_ns is not None and self.start_ns >= self.end_ns:
            raise InvalidInput("to", self.end_ns, "a time after from")
        if self.versions and (self.as_of_ns is not None or self.prefer):
            raise InvalidInput("versions", self.versions, "no as_of and no preferred provider beside it")


class ExportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """symbols: those that had a bar. bytes: of the file."""

    path: str
    format: ExportFormat
    rows: int
    symbols: int
    bytes: int


def export(
    store: BarStore,
    query: ExportQuery,
    out: Path,
    file_format: ExportFormat | None = None,
    progress: Callable[[int, int], None] = lambda _done, _rows: None,
) -> ExportSummary:
    """Write the bars to `out`, by symbol, side and ts. file_format: by default what the name ends in.

    progress: told, after each symbol, that it is done (1) and how many rows it had. Blocks; memory is bounded by
    500,000 bars. Raises InvalidInput for a name that does not tell the format, StoreError when it cannot be written.
    """
    file_format = file_format or _format_of(out)
    temporary = out.with_name(out.name + ".tmp")
    rows = symbols = 0
    try:
        with ExitStack() as stack:
            write = _writer(stack, temporary, file_format, zipped=out.name.endswith(".gz"))
            for symbol in query.symbols or store.symbols():
                count = 0
                for side in SIDES if query.side == "all" else (query.side,):
                    for table in _tables(store, query, symbol, side):
                        write(table)
                        count += table.num_rows
                rows += count
                symbols += count > 0
                progress(1, count)
        size = _make_durable(temporary)
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(str(out), error.strerror or str(error)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return ExportSummary(path=str(out), format=file_format, rows=rows, symbols=symbols, bytes=size)


def _format_of(out: Path) -> ExportFormat:
    found = next((file_format for suffix, file_format in _SUFFIXES.items() if out.name.lower().endswith(suffix)), None)
    if found is None:
        raise InvalidInput("out", str(out), f"a name ending in {', '.join(_SUFFIXES)}, or --format")
    return found


def _make_durable(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


# --- reading -----------------------------------------------------------------------------------------------


def _tables(store: BarStore, query: ExportQuery, symbol: str, side: Any) -> Iterator[pa.Table]:
    start_ns = _INT64_MIN if query.start_ns is None else query.start_ns
    end_ns = _INT64_MAX if query.end_ns is None else query.end_ns
    interval = query.interval
    if query.versions:
        for batch in store.read_versions(symbol, interval, start_ns, end_ns, side=side):
            yield pa.Table.from_batches([batch])
        return
    asked: dict[str, Any] = {"side": side, "as_of_ns": query.as_of_ns, "prefer": query.prefer}
    # two looks for the ends, so that a decade is read in slices and an empty symbol costs nothing
    first = store.read(symbol, interval, start_ns, end_ns, limit=1, **asked)
    if not first.num_rows:
        return
    last = store.read(symbol, interval, start_ns, end_ns, limit=1, newest_first=True, **asked)
    at, until = int(starts_of(first)[0]), int(starts_of(last)[0]) + 1
    while at < until:
        upto = min(at + _SLICE_BARS * interval.ns, until)
        table = store.read(symbol, interval, at, upto, **asked)
        if table.num_rows:
            yield table
        at = upto


# --- writing -----------------------------------------------------------------------------------------------


def _writer(stack: ExitStack, path: Path, file_format: ExportFormat, *, zipped: bool) -> Callable[[pa.Table], None]:
    if file_format == "parquet":
        parquet = stack.enter_context(
            pq.ParquetWriter(
                path,
                BAR_SCHEMA,
                compression="zstd",
                compression_level=1,
                use_dictionary=["symbol", "interval", "side", "provider", "status"],  # type: ignore[arg-type]
                column_encoding=dict.fromkeys(("ts", "trades", "as_of"), "DELTA_BINARY_PACKED"),
                write_page_checksum=True,
            )
        )
        return parquet.write_table
    if file_format == "arrow":
        arrow = stack.enter_context(pa.ipc.new_file(str(path), BAR_SCHEMA))
        return arrow.write_table
    sink: Any = stack.enter_context(pa.OSFile(str(path), "wb"))
    if zipped:
        sink = stack.enter_context(pa.CompressedOutputStream(sink, "gzip"))
    csv = stack.enter_context(pacsv.CSVWriter(sink, _as_text(BAR_SCHEMA.empty_table()).schema))
    return lambda table: csv.write_table(_as_text(table))


def _as_text(table: pa.Table) -> pa.Table:
    """Times as RFC 3339, with the decimals that all of them need."""
    for name in ("ts", "as_of"):
        place = BAR_SCHEMA.get_field_index(name)
        table = table.set_column(place, name, _rfc3339(table.column(name)))
    return table


def _rfc3339(column: Any) -> Any:
    ns = column.cast(pa.int64())
    for stamp, size in _COARSER:
        rest = pc.subtract(ns, pc.multiply(pc.divide(ns, size), size))
        if pc.all(pc.equal(rest, 0)).as_py():
            column = column.cast(stamp)
            break
    return pc.replace_substring(column.cast(pa.string()), " ", "T")
