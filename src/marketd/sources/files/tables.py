"""Files as tables of columns, a piece at a time: what is in them, before anything is said about what it means.

Text comes as text. A line that is no row of the table is put aside with its number and the rest goes on. A format is
recognised by its first bytes. To read a new one, write a class with the members of `Table` and add it to `open_table`.
"""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from marketd.errors import InvalidInput
from marketd.model.ticks import I64
from marketd.sources.files.columns import has_header
from marketd.sources.files.options import FileOptions
from marketd.sources.files.stamps import Column
from marketd.sources.lines import Block, blocks

__all__ = ["Chunk", "Progress", "Refused", "Table", "open_table", "refused_row", "words_of"]

Progress = Callable[[int], None]
"""Told how many bytes of the file were read since the last call."""

pc: Any = pyarrow.compute  # as for `Column`

_SAMPLE_BYTES = 1 << 18
_SAMPLE_ROWS = 2_000
_BLOCK_BYTES = 1 << 22
_BATCH_ROWS = 65_536
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = "\t;|, "
_SEP = re.compile(r"sep=(.)", re.IGNORECASE)


class Refused(NamedTuple):
    """A line or row that was put aside. line: from 1."""

    reason: str
    line: int
    detail: str


class Chunk(NamedTuple):
    """Columns by position, the line (or row) of each element, and the lines that are in none of them."""

    columns: dict[int, Column]
    lines: I64
    refused: list[Refused]


def refused_row(chunk: Chunk, at: int, reason: str, names: Sequence[str], places: Sequence[int]) -> Refused:
    """A row of a chunk that is put aside, with what these columns say."""
    detail = ", ".join(f"{names[place]}={chunk.columns[place][at].as_py()}" for place in places)
    return Refused(reason, int(chunk.lines[at]), detail[:200])


def words_of(column: Column) -> Column:
    """As text without spaces around it; absent is empty."""
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))


class Table(Protocol):
    """format: in words. names: of the columns; `column 1` … without a header. sample: texts of the first rows, by
    position. bytes: of the file, as `progress` counts them. interval: if the format itself tells it."""

    @property
    def format(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def header(self) -> bool: ...
    @property
    def sample(self) -> Mapping[int, Sequence[str]]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def interval(self) -> str | None: ...

    def chunks(self, positions: Sequence[int], progress: Progress) -> Iterator[Chunk]:
        """The whole file from its start, in order. Raises InvalidInput when it cannot be read on."""
        ...


def open_table(path: Path, options: FileOptions) -> Table:
    """Look at the beginning of a file. Raises InvalidInput saying what is wrong with it."""
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise InvalidInput("path", str(path), f"a file that can be read ({error.strerror})") from None
    if not magic:
        raise InvalidInput("path", str(path), "a file that is not empty")
    if magic.startswith(b"PAR1"):
        return _ParquetTable(path)
    if magic.startswith(b"ARROW1"):
        return _ArrowTable(path)
    if magic.startswith((b"DBN", b"\x28\xb5\x2f\xfd")):
        from marketd.sources.files.dbn import DbnTable

        return DbnTable(path, compressed=not magic.startswith(b"DBN"))
    if magic.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidInput("path", str(path), "text in UTF-8; this is UTF-16: save it again")
    if magic.startswith(b"PK\x03\x04"):
        raise InvalidInput("path", str(path), "a file of its own; this is a zip archive: unpack it first")
    zipped = magic.startswith(b"\x1f\x8b")
    if zipped != (path.suffix.lower() == ".gz"):
        raise InvalidInput("path", str(path), "a name that ends in .gz" if zipped else "gzip data, as its name says")
    head = _head(path)
    start = head.removeprefix(_BOM).lstrip()[:1]
    if start == b"[":
        raise InvalidInput("path", str(path), "JSON lines: one object a line; this begins with [")
    return _JsonTable(path, head, zipped) if start == b"{" else _CsvTable(path, head, options, zipped)


def _head(path: Path) -> bytes:
    for block in blocks(path, _SAMPLE_BYTES):
        if block.damage is not None:
            raise InvalidInput("path", str(path), f"a readable file; its {block.damage}")
        if block.data.removeprefix(_BOM).strip():
            return block.data
    raise InvalidInput("path", str(path), "a file with rows")


# --- CSV ---------------------------------------------------------------------------------------------------


class _CsvTable:
    interval: str | None = None

    def __init__(self, path: Path, head: bytes, options: FileOptions, zipped: bool) -> None:
        self._path = path
        self.bytes = path.stat().st_size
        lines = head.removeprefix(_BOM).decode(errors="replace").split("\n")
        lines = [line.rstrip("\r") for line in lines]
        first = next(number for number, line in enumerate(lines) if line.strip())
        told = options.delimiter
        separator = _SEP.fullmatch(lines[first].strip())
        if separator is not None:
            told = told or separator[1]
            first += 1
        while first < len(lines) and (not lines[first].strip() or lines[first].startswith("#")):
            first += 1
        body = lines[first : first + _SAMPLE_ROWS]
        if not body:
            raise InvalidInput("path", str(path), "a file with rows")
        self._delimiter = told or _delimiter(body)
        rows = [fields for line in body if line.strip() and (fields := _split(line, self._delimiter)) is not None]
        if not rows:
            raise InvalidInput("path", str(path), "lines of a table")
        self.header = has_header(rows[0])
        self.names = tuple(rows[0]) if self.header else tuple(f"column {n + 1}" for n in range(len(rows[0])))
        self._first_line = first + 1 + self.header
        data = [row for row in rows[self.header :] if len(row) == len(self.names)]
        self.sample = {place: [row[place].strip() for row in data] for place in range(len(self.names))}
        shown = {"\t": "tab", " ": "space"}.get(self._delimiter, self._delimiter)
        self.format = f"CSV, fields between {shown}" + (", gzip" if zipped else "")

    def chunks(self, positions: Sequence[int], progress: Progress) -> Iterator[Chunk]:
        for block in blocks(self._path, _BLOCK_BYTES, progress):
            if block.damage is not None:
                yield _damaged(positions, block)
                continue
            data, line = block.data.removeprefix(_BOM) if block.line == 1 else block.data, block.line
            while line < self._first_line and data:
                _, _, data = data.partition(b"\n")
                line += 1
            if data:
                yield self._at_once(data, line, positions) or self._by_line(data, line, positions)

    def _at_once(self, data: bytes, first: int, positions: Sequence[int]) -> Chunk | None:
        """None if a quote runs over the end of a line, or a text is not UTF-8: then each line is looked at."""
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        bad: list[Refused] = []

        def put_aside(row: Any) -> Literal["skip", "error"]:
            bad.append(
                _corrupt(first + (row.number or 1) - 1, row.text, f"{row.actual_columns} fields", len(self.names))
            )
            return "skip"

        names = [str(place) for place in range(len(self.names))]
        wanted = [str(place) for place in positions]
        try:
            table = pacsv.read_csv(
                io.BytesIO(data),
                read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
                parse_options=pacsv.ParseOptions(
                    delimiter=self._delimiter, ignore_empty_lines=False, invalid_row_handler=put_aside
                ),
                convert_options=pacsv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowException:
            return None
        if table.num_rows + len(bad) != lines:
            return None
        numbers = np.arange(first, first + lines)
        if bad:
            numbers = np.setdiff1d(numbers, np.array([refused.line for refused in bad]))
        columns = {place: _flat(table.column(str(place))) for place in positions}
        return _without_blank(Chunk(columns, numbers, bad))

    def _by_line(self, data: bytes, first: int, positions: Sequence[int]) -> Chunk:
        columns: dict[int, list[str]] = {place: [] for place in positions}
        numbers: list[int] = []
        bad: list[Refused] = []
        for number, raw in enumerate(data.split(b"\n")[: data.count(b"\n") + (not data.endswith(b"\n"))], first):
            text = raw.decode(errors="replace").rstrip("\r")
            if not text.strip():
                continue
            fields = _split(text, self._delimiter)
            if fields is None or len(fields) != len(self.names):
                found = "a quote without its end" if fields is None else f"{len(fields)} fields"
                bad.append(_corrupt(number, text, found, len(self.names)))
                continue
            if any("\ufffd" in fields[place] for place in positions):
                bad.append(Refused("corrupt_line", number, f"no UTF-8: {text[:80]}"))
                continue
            numbers.append(number)
            for place in positions:
                columns[place].append(fields[place])
        arrays = {place: pa.array(texts, pa.string()) for place, texts in columns.items()}
        return Chunk(arrays, np.array(numbers, np.int64), bad)


def _corrupt(line: int, text: str, found: str, expected: int) -> Refused:
    return Refused("corrupt_line", line, f"{found} where there are {expected}: {text[:80]}")


def _damaged(positions: Sequence[int], block: Block) -> Chunk:
    empty = pa.array([], pa.string())
    refused = Refused("corrupt_line", block.line, str(block.damage))
    return Chunk(dict.fromkeys(positions, empty), np.zeros(0, np.int64), [refused])


def _without_blank(chunk: Chunk) -> Chunk:
    """Without lines in which nothing that matters is written."""
    blank = np.ones(len(chunk.lines), np.bool_)
    for column in chunk.columns.values():
        blank &= pc.equal(column, "").to_numpy(zero_copy_only=False)
    if not blank.any():
        return chunk
    keep = pa.array(~blank)
    return Chunk(
        {place: column.filter(keep) for place, column in chunk.columns.items()}, chunk.lines[~blank], chunk.refused
    )


def _flat(column: Column) -> Column:
    return column.combine_chunks()


def _split(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None


def _delimiter(lines: Sequence[str]) -> str:
    """The mark that cuts most lines into the same number of fields, if possible five or more."""
    best, best_score = ",", (0.0, False)
    for mark in _DELIMITERS:
        counts = Counter(len(fields) for line in lines[:200] if line.strip() and (fields := _split(line, mark)))
        if not counts:
            continue
        usual, times = counts.most_common(1)[0]
        score = (round(times / sum(counts.values()), 1), usual >= 5)
        if usual > 1 and (score[1], score[0]) > (best_score[1], best_score[0]):
            best, best_score = mark, score
    return best


# --- JSON lines --------------------------------------------------------------------------------------------


class _JsonTable:
    interval: str | None = None
    header = True

    def __init__(self, path: Path, head: bytes, zipped: bool) -> None:
        self._path = path
        self.bytes = path.stat().st_size
        self.format = "JSON lines" + (", gzip" if zipped else "")
        rows = [row for _, row in _objects(head.removeprefix(_BOM), 1, [])][:_SAMPLE_ROWS]
        if not rows:
            raise InvalidInput("path", str(path), "JSON lines: one object a line")
        self.names = tuple(dict.fromkeys(key for row in rows for key in row))
        self.sample = {place: [_text(row.get(name)) or "" for row in rows] for place, name in enumerate(self.names)}

    def chunks(self, positions: Sequence[int], progress: Progress) -> Iterator[Chunk]:
        for block in blocks(self._path, _BLOCK_BYTES, progress):
            if block.damage is not None:
                yield _damaged(positions, block)
                continue
            bad: list[Refused] = []
            data = block.data.removeprefix(_BOM) if block.line == 1 else block.data
            rows = list(_objects(data, block.line, bad))
            columns = {
                place: pa.array([_text(row.get(self.names[place])) for _, row in rows], pa.string())
                for place in positions
            }
            yield Chunk(columns, np.array([line for line, _ in rows], np.int64), bad)


def _objects(data: bytes, first: int, bad: list[Refused]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(data.split(b"\n"), first):
        if not line.strip():
            continue
        try:
            yield number, _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(Refused("corrupt_line", number, f"{error}: {line[:80].decode(errors='replace')}"))


_DECODER = msgspec.json.Decoder(dict[str, Any])


def _text(value: Any) -> str | None:
    """A JSON value as it would be written in CSV; the text of a float reads back to the same double."""
    if value is None:
        return None
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return str(value).strip()


# --- Parquet and Arrow -------------------------------------------------------------------------------------


class _BatchTable(ABC):
    """What Parquet and Arrow files have in common: typed columns. Rows are counted from 1."""

    interval: str | None = None
    header = True
    format = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes = path.stat().st_size
        with self._reading():
            self.names, head = self._look()
        self.sample = {place: _shown(head.column(place)) for place in range(len(self.names))}

    def chunks(self, positions: Sequence[int], progress: Progress) -> Iterator[Chunk]:
        row = 1
        with self._reading():
            for batch, done in self._batches(positions):
                columns = dict(zip(positions, (_decoded(column) for column in batch.columns), strict=True))
                yield Chunk(columns, np.arange(row, row + batch.num_rows), [])
                row += batch.num_rows
                progress(done)

    def _reading(self) -> _Reading:
        return _Reading(self._path)

    @abstractmethod
    def _look(self) -> tuple[tuple[str, ...], pa.Table]:
        """The names of the columns, and the first rows."""

    @abstractmethod
    def _batches(self, positions: Sequence[int]) -> Iterator[tuple[pa.RecordBatch, int]]:
        """The columns, a piece at a time, and how many bytes of the file each stands for."""


class _Reading:
    """Makes errors of Arrow ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowException | OSError):
            raise InvalidInput("path", str(self._path), f"a readable file ({error})") from None


class _ParquetTable(_BatchTable):
    format = "Parquet"

    def _look(self) -> tuple[tuple[str, ...], pa.Table]:
        file = pq.ParquetFile(self._path)
        names = tuple(file.schema_arrow.names)
        head = next(file.iter_batches(_SAMPLE_ROWS), None)
        if head is None:
            raise InvalidInput("path", str(self._path), "a file with rows")
        return names, pa.Table.from_batches([head])

    def _batches(self, positions: Sequence[int]) -> Iterator[tuple[pa.RecordBatch, int]]:
        file = pq.ParquetFile(self._path)
        rows = max(file.metadata.num_rows, 1)
        wanted = [self.names[place] for place in positions]
        for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
            yield batch.select(wanted), self.bytes * batch.num_rows // rows


class _ArrowTable(_BatchTable):
    format = "Arrow"

    def _look(self) -> tuple[tuple[str, ...], pa.Table]:
        with pa.memory_map(str(self._path)) as source:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(n) for n in range(file.num_record_batches))
            head = next((batch for batch in batches if batch.num_rows), None)
            if head is None:
                raise InvalidInput("path", str(self._path), "a file with rows")
            return tuple(file.schema.names), pa.Table.from_batches([head.slice(0, _SAMPLE_ROWS)])

    def _batches(self, positions: Sequence[int]) -> Iterator[tuple[pa.RecordBatch, int]]:
        with pa.memory_map(str(self._path)) as source:
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                whole = file.get_batch(number)
                done = self.bytes // max(file.num_record_batches, 1)
                for start in range(0, whole.num_rows, _BATCH_ROWS):
                    part = whole.slice(start, _BATCH_ROWS)
                    yield part.select(list(positions)), done if start == 0 else 0


def _decoded(column: Column) -> Column:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return column


def _shown(column: Column) -> list[str]:
    """Texts of a typed column, for guessing what it is; times are not given as texts: their type says it."""
    flat = _decoded(_flat(column))
    if pa.types.is_string(flat.type):
        return [(text or "").strip() for text in flat.to_pylist()]
    if pa.types.is_time(flat.type):
        return ["00:00"] * len(flat)
    if pa.types.is_temporal(flat.type):
        return ["1970-01-01"] * len(flat)
    if pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type) or pa.types.is_decimal(flat.type):
        return [_text(value) or "" for value in flat.to_pylist()]
    return [""] * len(flat)
