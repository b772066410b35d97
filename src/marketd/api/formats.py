"""Bars as bytes: JSON rows and columns, CSV, an Arrow IPC stream, Parquet; and which of them a client wants.

Owns the text of every column, made column by column without a Python object a row, and the writers that hand out
an answer slice by slice. Numbers have the shortest text that reads back exactly. To add a format: a word in
`FORMATS`, its media type, and a function from slices to an iterator of bytes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marketd.store.batch import one_word

__all__ = [
    "FORMATS",
    "MEDIA",
    "Format",
    "Piece",
    "arrow_stream",
    "coded",
    "csv_stream",
    "json_columns",
    "json_rows",
    "negotiate",
    "parquet_stream",
]

Piece = bytes | memoryview
Format = Literal["rows", "columns", "csv", "arrow", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

MEDIA: dict[Format, str] = {
    "rows": "application/json",
    "columns": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}

_NAMES = {"ts": "timestamp", "provider": "source"}
_ROWS_A_TEXT = 16_384
_ROWS_A_BATCH = 65_536
_COMBINATIONS = 4_096
_NS_PER_S = 1_000_000_000
_DAY_S = 86_400
_SMALL_BYTES = 16_384

_CODES = {
    **dict.fromkeys(("symbol", "interval", "side", "status", "series"), pa.dictionary(pa.int8(), pa.string())),
    "provider": pa.dictionary(pa.int16(), pa.string()),
}
"""Columns of words of which an answer has few, and how Arrow numbers them."""

_Ints = npt.NDArray[np.int64]
_Spell = Callable[[Any], str]


def negotiate(accept: str) -> Format:
    """What an Accept header prefers: by quality, then by order. JSON rows if it names nothing we have."""
    best: Format = "rows"
    best_quality = 0.0
    for part in accept.lower().split(","):
        kind, *attributes = (p.strip() for p in part.split(";"))
        found = next((f for f in FORMATS if MEDIA[f] == kind), None)
        if found is None:
            continue
        try:
            quality = float(next((a[2:] for a in attributes if a.startswith("q=")), "1"))
        except ValueError:
            continue
        if quality > best_quality:
            best, best_quality = found, quality
    return best


# --- text ------------------------------------------------------------------------------------------------------


def json_rows(table: pa.Table, names: Sequence[str]) -> Iterator[bytes]:
    """The rows as JSON objects with commas between, in pieces. Absent values are null; a flag is there if true."""
    for part in _pieces(table):
        members = []
        for i, name in enumerate(names):
            key = ("" if i == 0 else ",") + _json(_NAMES.get(name, name)) + ":"
            members.append((key, name))
        yield _joined(part, members, "{", "},", _json)[:-1]


def json_columns(table: pa.Table, names: Sequence[str]) -> Iterator[bytes]:
    """The columns as members of one JSON object, in pieces, its braces included."""
    yield b"{"
    for i, name in enumerate(names):
        yield (("" if i == 0 else ",") + _json(_NAMES.get(name, name)) + ":[").encode()
        for offset in range(0, table.num_rows, _ROWS_A_BATCH):
            part = table.slice(offset, _ROWS_A_BATCH)
            more = offset + _ROWS_A_BATCH < table.num_rows
            text = _joined(part, [("", name)], "", ",", _json, flags_in_full=True)
            yield text if more else text[:-1]
        yield b"]"
    yield b"}"


def csv_stream(names: Sequence[str], slices: Iterable[pa.Table]) -> Iterator[bytes]:
    """A header line and a line a row, ended by LF. Absent values are empty; flags are true or false."""
    yield (",".join(_NAMES.get(name, name) for name in names) + "\n").encode()
    for table in slices:
        for part in _pieces(table):
            members = [("" if i == 0 else ",", name) for i, name in enumerate(names)]
            yield _joined(part, members, "", "\n", _csv, absent="", flags_in_full=True)


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for offset in range(0, table.num_rows, _ROWS_A_TEXT):
        yield table.slice(offset, _ROWS_A_TEXT)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _csv(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _joined(
    table: pa.Table,
    members: Sequence[tuple[str, str]],
    opening: str,
    closing: str,
    spell: _Spell,
    *,
    absent: str = "null",
    flags_in_full: bool = False,
) -> bytes:
    """For each row: opening, then of each member its key and its value as text, then closing; all in one run.

    members: (key, column). flags_in_full: a flag is told also where it is false.
    """
    parts: list[Any] = []
    literal = opening
    words: list[tuple[str, str]] = []

    def flush() -> None:
        nonlocal literal
        if words:
            text = _words(table, words, spell, flags_in_full=flags_in_full)
            if isinstance(text, str):
                literal += text
            else:
                parts.extend([literal, text])
                literal = ""
            words.clear()

    for key, name in members:
        kind = table.schema.field(name).type
        if pa.types.is_string(kind) or pa.types.is_boolean(kind):
            words.append((key, name))
            continue
        flush()
        column = table.column(name).combine_chunks()
        if pa.types.is_timestamp(kind):
            quote = '"' if spell is _json else ""
            parts += [literal + key + quote, *_times(column)]
            literal = "Z" + quote
        else:
            parts += [literal + key, _numbers(column)]
            literal = ""
    flush()
    parts.append(literal + closing)
    if all(isinstance(part, str) for part in parts):
        return ("".join(parts) * table.num_rows).encode()
    text = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement=absent)
    array = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    _, offsets, data = array.buffers()
    if data is None or offsets is None:
        return b""
    ends = np.frombuffer(memoryview(offsets), np.int32, len(array) + 1, array.offset * 4)
    return bytes(data.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes())


def _numbers(column: pa.Array[Any]) -> pa.Array[Any]:
    """Shortest text that reads back exactly; what is not finite is absent."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    return column.cast(pa.string())


def _words(
    table: pa.Table, members: Sequence[tuple[str, str]], spell: _Spell, *, flags_in_full: bool
) -> str | pa.Array[Any]:
    """Columns of few different values, as text with their keys: each combination is spelled once."""
    codes: _Ints = np.zeros(table.num_rows, np.int64)
    spelled: Sequence[str] = [""]
    for key, name in members:
        column = table.column(name).combine_chunks()
        if pa.types.is_boolean(column.type):
            values: list[Any] = [False, True]
            index = column.cast(pa.int8()).to_numpy()
            texts = [key + spell(v) if v or flags_in_full else "" for v in values]
        else:
            encoded = column.dictionary_encode(null_encoding="encode")
            values = encoded.dictionary.to_pylist()
            index = encoded.indices.to_numpy()
            texts = [key + spell(v) for v in values]
        if len(spelled) * len(texts) > _COMBINATIONS:
            codes, spelled = _met(codes, spelled)
        codes = codes * len(texts) + index
        spelled = _Product(spelled, texts)
    if table.num_rows and codes[0] == codes[-1] and (codes == codes[0]).all():
        return str(spelled[int(codes[0])])
    codes, spelled = _met(codes, spelled) if len(spelled) > _COMBINATIONS else (codes, list(spelled))
    return pa.array(spelled, pa.string()).take(codes)


class _Product(Sequence[str]):
    """Every text of one list followed by every text of another, made when asked for."""

    def __init__(self, heads: Sequence[str], tails: Sequence[str]) -> None:
        self._heads, self._tails = heads, tails

    def __len__(self) -> int:
        return len(self._heads) * len(self._tails)

    def __getitem__(self, i: Any) -> Any:
        if i >= len(self):
            raise IndexError(i)
        head, tail = divmod(int(i), len(self._tails))
        return self._heads[head] + self._tails[tail]


def _met(codes: _Ints, spelled: Sequence[str]) -> tuple[_Ints, list[str]]:
    """The combinations that occur, and the codes as places among them."""
    met, places = np.unique(codes, return_inverse=True)
    return places.astype(np.int64), [spelled[int(code)] for code in met]


def _times(column: pa.Array[Any]) -> list[pa.Array[Any]]:
    """Date and time of day of each, without the Z: seconds, or nine decimals if any has a fraction."""
    ns = np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    seconds = ns // _NS_PER_S
    days = seconds // _DAY_S
    first = int(days.min()) if len(days) else 0
    last = int(days.max()) if len(days) else 0
    if last - first < 10 * _COMBINATIONS:
        spelled = _dates(np.arange(first, last + 1))
        texts = [spelled.take(days - first)]
    else:
        texts = [_dates(days)]
    texts.append(_clock().take(seconds - days * _DAY_S))
    fraction = ns - seconds * _NS_PER_S
    if fraction.any():
        digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), 9, "0")
        texts += [pc.binary_join_element_wise(".", digits, "")]
    return texts


def _dates(days: _Ints) -> pa.Array[Any]:
    return pa.array(np.datetime_as_string(days.astype("datetime64[D]")), pa.string())


@functools.cache
def _clock() -> pa.Array[Any]:
    """Every second of a day: `T00:00:00` and so on."""
    seconds = np.arange(_DAY_S).astype("datetime64[s]")
    return pc.utf8_slice_codeunits(pa.array(np.datetime_as_string(seconds), pa.string()), 10)


# --- binary ----------------------------------------------------------------------------------------------------


def coded(schema: pa.Schema, *, plain: Sequence[str] = ()) -> pa.Schema:
    """The schema of an Arrow answer: words are dictionary-encoded, all but the columns that are named."""
    for place, field in enumerate(schema):
        if field.name in _CODES and field.name not in plain:
            schema = schema.set(place, pa.field(field.name, _CODES[field.name], nullable=field.nullable))
    return schema


def arrow_stream(schema: pa.Schema, slices: Iterable[pa.Table]) -> Iterator[list[Piece]]:
    """An Arrow IPC stream, a list a slice of it: small pieces joined, columns as they are, without a copy.

    schema: of the answer; columns of strings are encoded where it has them as dictionaries. A dictionary grows from
    slice to slice, and is then sent again.
    """
    sink = _Sheaf()
    words = {field.name: _Words(field.type) for field in schema if pa.types.is_dictionary(field.type)}
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as writer:
        for table in slices:
            for batch in table.to_batches():
                columns = [
                    words[name].coded(column) if name in words else column
                    for name, column in zip(schema.names, batch.columns, strict=True)
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
                del batch, columns
            del table  # what was sent is not held while the next slice is read
            yield sink.take()
    yield sink.take()


class _Words:
    """The dictionary of one column of an answer."""

    def __init__(self, kind: pa.DictionaryType[Any, Any]) -> None:
        self._kind = kind
        self._codes: dict[str, int] = {}
        self._dictionary = pa.array([], kind.value_type)

    def coded(self, column: pa.Array[Any]) -> pa.Array[Any]:
        """A column of strings, or of strings that are dictionary-encoded already, in the words of the answer."""
        found: Any = column
        word = one_word(column)
        if word is not None:
            codes = [self._code(word)]
        else:
            found = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            codes = [self._code(str(word)) for word in found.dictionary.to_pylist()]
        indices: Any
        if len(codes) == 1 and not found.null_count:
            indices = pa.array(np.full(len(found), codes[0], self._kind.index_type.to_pandas_dtype()))
        else:
            indices = pa.array(codes, self._kind.index_type).take(found.indices)
        if len(self._dictionary) != len(self._codes):
            self._dictionary = pa.array(list(self._codes), self._kind.value_type)
        return pa.DictionaryArray.from_arrays(indices, self._dictionary, safe=False)  # codes are right by making

    def _code(self, word: str) -> int:
        return self._codes.setdefault(word, len(self._codes))


class _Sheaf(io.RawIOBase):
    """A file that keeps what is written to it as it is, until it is taken."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def take(self) -> list[Piece]:
        pieces: list[Piece] = []
        small: list[Any] = []
        for part in self._parts:
            if len(part) < _SMALL_BYTES:
                small.append(part)
                continue
            pieces += [b"".join(small), memoryview(part).cast("B")]
            small.clear()
        pieces.append(b"".join(small))
        self._parts.clear()
        return [piece for piece in pieces if piece]


class _Drain(io.RawIOBase):
    """A file that is read away while it is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        parts = b"".join(self._parts)
        self._parts.clear()
        return parts


_DELTA = {"ts": "DELTA_BINARY_PACKED", "as_of": "DELTA_BINARY_PACKED", "trades": "DELTA_BINARY_PACKED"}
_DICTIONARY = ["symbol", "interval", "side", "provider", "status"]


def parquet_stream(schema: pa.Schema, slices: Iterable[pa.Table]) -> Iterator[bytes]:
    """A Parquet file, a row group a slice, compressed with zstd."""
    drain = _Drain()
    with pq.ParquetWriter(
        pa.PythonFile(drain, mode="w"),
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=_DICTIONARY,  # type: ignore[arg-type]  # a list of columns is documented
        column_encoding=_DELTA,
        write_statistics=True,
    ) as writer:
        for table in slices:
            if table.num_rows:
                writer.write_table(table)
                del table
                yield drain.take()
    yield drain.take()
