"""Rows of bars as numpy columns with names as numbers: the one shape that log, memory and sealed files meet in.

`Columns` are rows; `Names` turns symbols and providers into numbers and back. A *series* is the number of
(symbol, interval, side, provider); with `ts` it is the key of a bar. Nothing here touches a file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA, INTERVALS
from marketd.store.batch import SIDES, STATUSES, one_word

__all__ = [
    "DICTIONARY_SCHEMA",
    "INTERVAL_NAMES",
    "NO_TRADES",
    "Columns",
    "Names",
    "columns_of",
    "distinct",
    "repeated",
]

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_PROVIDER_BITS, _SIDE_BITS, _INTERVAL_BITS = 12, 2, 5
NO_TRADES = int(np.iinfo(np.int64).min)
"""Stands for null in the column of trades: int64 has no NaN."""

INTERVAL_NAMES = tuple(i.name for i in INTERVALS)
_TS = BAR_SCHEMA.field("ts").type
_PRICES = ("open", "high", "low", "close", "volume", "vwap")
_NULLABLE = ("volume", "vwap")


class Columns:
    """n rows. ints: four of int64 (n,): series, ts, as_of, trades. floats: six of float64 (n,): open, high, low, close,
    volume, vwap, NaN where absent. status: uint8 (n,), a position in `STATUSES`. Treat as immutable.
    """

    __slots__ = ("floats", "ints", "status")

    def __init__(self, ints: tuple[I64, ...], floats: tuple[F64, ...], status: npt.NDArray[np.uint8]) -> None:
        self.ints = ints
        self.floats = floats
        self.status = status

    @classmethod
    def empty(cls, rows: int = 0) -> Columns:
        ints, floats = np.empty((4, rows), np.int64), np.empty((6, rows), np.float64)
        return cls(tuple(ints), tuple(floats), np.empty(rows, np.uint8))

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.empty()
        return cls(
            tuple(np.concatenate(column) for column in zip(*(p.ints for p in parts), strict=True)),
            tuple(np.concatenate(column) for column in zip(*(p.floats for p in parts), strict=True)),
            np.concatenate([p.status for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.status)

    @property
    def series(self) -> I64:
        return _int64(self.ints[0])

    @property
    def ts(self) -> I64:
        return _int64(self.ints[1])

    @property
    def as_of(self) -> I64:
        return _int64(self.ints[2])

    @property
    def group(self) -> I64:
        """The series without its provider: what a reader asks for."""
        return _int64(self.ints[0] >> _PROVIDER_BITS)

    @property
    def provider(self) -> I64:
        return _int64(self.ints[0] & ((1 << _PROVIDER_BITS) - 1))

    @property
    def side(self) -> I64:
        return _int64(self.group & ((1 << _SIDE_BITS) - 1))

    @property
    def interval(self) -> I64:
        return _int64((self.group >> _SIDE_BITS) & ((1 << _INTERVAL_BITS) - 1))

    @property
    def symbol(self) -> I64:
        return _int64(self.group >> (_SIDE_BITS + _INTERVAL_BITS))

    def take(self, rows: Any) -> Columns:
        """The rows of a mask, an index array or a slice."""
        if isinstance(rows, slice):
            return Columns(tuple(c[rows] for c in self.ints), tuple(c[rows] for c in self.floats), self.status[rows])
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        ints, floats = tuple(c.take(at) for c in self.ints), tuple(c.take(at) for c in self.floats)
        return Columns(ints, floats, self.status.take(at))

    def put(self, rows: Any, other: Columns) -> None:
        """Write `other` at `rows`; for the one who made this object and has not shared those rows yet."""
        for mine, theirs in zip(self.ints, other.ints, strict=True):
            mine[rows] = theirs
        for held, given in zip(self.floats, other.floats, strict=True):
            held[rows] = given
        self.status[rows] = other.status

    def same_values(self, other: Columns) -> Mask:
        """Row by row, whether prices, volume, vwap, trades and status are equal; absent equals absent."""
        same: Mask = (self.ints[3] == other.ints[3]) & (self.status == other.status)
        for mine, theirs in zip(self.floats, other.floats, strict=True):
            same &= (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
        return same

    @property
    def kind(self) -> I64:
        """Interval and side as one number, below 128."""
        return _int64(self.group & ((1 << (_SIDE_BITS + _INTERVAL_BITS)) - 1))

    def by_version(self) -> I64 | None:
        """The order by (series, ts, as_of), None if they are in it; rows equal in all three stay as they are."""
        if len(self) < 2:
            return None
        later, equal = np.ones(len(self) - 1, np.bool_), np.zeros(len(self) - 1, np.bool_)
        for column in (self.as_of, self.ts, self.series):
            equal = column[1:] == column[:-1]
            later = (column[1:] > column[:-1]) | (equal & later)
        if later.all():
            return None
        if (self.ts == self.ts[0]).all():  # one minute of many symbols: one sort instead of three
            order = np.argsort(self.series, kind="stable").astype(np.int64, copy=False)
            series = self.series[order]
            if (series[1:] != series[:-1]).all():
                return order
        return np.lexsort((self.as_of, self.ts, self.series)).astype(np.int64, copy=False)

    def last_of_key(self) -> Mask:
        """The last row of each key, for rows that are in the order `by_version`."""
        last = np.ones(len(self), np.bool_)
        last[:-1] = self._key_changes()
        return last

    def first_of_key(self) -> Mask:
        first = np.ones(len(self), np.bool_)
        first[1:] = self._key_changes()
        return first

    def _key_changes(self) -> Mask:
        changes: Mask = (self.ts[1:] != self.ts[:-1]) | (self.series[1:] != self.series[:-1])
        return changes


def distinct(values: I64) -> I64:
    """The different values, ascending. Most columns of codes have one, which is seen without sorting."""
    if len(values) and (values == values[0]).all():
        return values[:1].copy()
    return np.unique(values)


def _int64(values: Any) -> I64:
    """`values`, which numpy's types know as Any."""
    column: I64 = values
    return column


class _NameTable:
    """Names to numbers, in the order they were first seen. Numbers live as long as the process."""

    def __init__(self, field: str, most: int) -> None:
        self.names: list[str] = []
        self._field = field
        self._most = most
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._array = pa.array([], pa.string())
        self._ranks = np.zeros(0, np.int64)
        self._last: tuple[Any, I64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def code(self, name: str) -> int | None:
        return self._codes.get(name)

    def add(self, names: Sequence[str]) -> list[int]:
        codes = list(map(self._codes.get, names))
        return [self._new(name) if code is None else code for name, code in zip(names, codes, strict=True)]

    def _new(self, name: str) -> int:
        with self._lock:
            code = self._codes.get(name)
            if code is None:
                code = len(self.names)
                if code == self._most:
                    raise InvalidInput(self._field, name, f"at most {self._most:,} different names")
                self.names.append(name)
                self._codes[name] = code
            return code

    def encode(self, array: Any) -> I64:
        """The numbers of an array of names, which may be dictionary-encoded; new names get one."""
        if pa.types.is_dictionary(array.type):
            of_word = np.array(self.add(array.dictionary.to_pylist()), np.int64)
            return _int64(of_word[array.indices.to_numpy()])
        last = self._last
        if last is not None and len(last[0]) == len(array) and last[0].equals(array):
            return last[1]  # live batches name the same symbols minute after minute
        word = one_word(array)
        if word is not None:
            return np.full(len(array), self.add([word])[0])
        if len(array) > 4 * len(self.names):
            return self.encode(array.dictionary_encode())
        found = pc.index_in(array, value_set=self._names_array())
        if found.null_count:
            return self.encode(array.dictionary_encode())
        codes: I64 = found.to_numpy().astype(np.int64)
        codes.flags.writeable = False
        self._last = array, codes
        return codes

    def _names_array(self) -> Any:
        array = self._array
        if len(array) != len(self.names):
            array = self._array = pa.array(self.names, pa.string())
        return array

    def decode(self, codes: I64) -> Any:
        return _spelled(self._names_array(), codes)

    def dictionary(self, codes: I64) -> Any:
        """As `decode`, dictionary-encoded with the names that occur."""
        if len(codes) and (codes == codes[0]).all():
            return _dictionary(np.zeros(len(codes), np.int32), self._names_array().take(pa.array(codes[:1])))
        present, indices = np.unique(codes, return_inverse=True)
        return _dictionary(indices.astype(np.int32), self._names_array().take(pa.array(present)))

    def ranks(self) -> I64:
        """Of each number, the position of its name among the sorted names."""
        ranks = self._ranks
        if len(ranks) != len(self.names):
            names = list(self.names)
            ranks = np.empty(len(names), np.int64)
            ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
            self._ranks = ranks
        return ranks


class Names:
    """Translates between Arrow tables of `BAR_SCHEMA` and `Columns`. Safe to use from several threads."""

    def __init__(self) -> None:
        self.symbols = _NameTable("symbol", 1 << 31)
        self.providers = _NameTable("provider", 1 << _PROVIDER_BITS)

    def group(self, symbol: str, interval: str, side: str) -> int | None:
        """The `Columns.group` of a symbol, None if the symbol was never seen."""
        code = self.symbols.code(symbol)
        if code is None:
            return None
        return (code << _INTERVAL_BITS | INTERVAL_NAMES.index(interval)) << _SIDE_BITS | SIDES.index(side)

    @staticmethod
    def kind(interval: str, side: str) -> int:
        """The `Columns.kind` of an interval and a side."""
        return INTERVAL_NAMES.index(interval) << _SIDE_BITS | SIDES.index(side)

    @staticmethod
    def kinds(intervals: I64, sides: I64) -> I64:
        """The same of numbers of intervals and sides."""
        return _int64(intervals << _SIDE_BITS | sides)

    @staticmethod
    def groups(symbols: I64, kinds: Any) -> I64:
        """The `Columns.group` of numbers of symbols and of kinds."""
        return _int64(symbols << (_INTERVAL_BITS + _SIDE_BITS) | kinds)

    @staticmethod
    def series(groups: Any, providers: I64) -> I64:
        """The `Columns.series` of groups and numbers of providers."""
        return _int64(groups << _PROVIDER_BITS | providers)

    def words(self, group: int, count: int) -> dict[str, Any]:
        """The columns that are the same in every row of a group, so many times."""
        return {name: repeated(word, count) for name, word in self._words_of(group).items()}

    def coded_words(self, group: int, count: int) -> dict[str, Any]:
        """As `words`, dictionary-encoded."""
        zeros: Any = pa.array(np.zeros(count, np.int8))
        return {
            name: pa.DictionaryArray.from_arrays(zeros, pa.array([word]), safe=False)
            for name, word in self._words_of(group).items()
        }

    def _words_of(self, group: int) -> dict[str, str]:
        kind = group & ((1 << (_SIDE_BITS + _INTERVAL_BITS)) - 1)
        return {
            "symbol": self.symbols.names[group >> (_SIDE_BITS + _INTERVAL_BITS)],
            "interval": INTERVAL_NAMES[kind >> _SIDE_BITS],
            "side": SIDES[kind & ((1 << _SIDE_BITS) - 1)],
        }

    def columns(self, table: pa.Table) -> Columns:
        """Rows of a `BAR_SCHEMA` table (strings may be dictionary-encoded), in its memory as far as that can be."""
        if not table.num_rows:
            return Columns.empty()
        column = {name: _one_chunk(table.column(name)) for name in BAR_SCHEMA.names}
        providers = self.providers.encode(column["provider"])
        series = self.symbols.encode(column["symbol"])
        series = series << _INTERVAL_BITS | _positions(column["interval"], _INTERVAL_ARRAY)
        series = series << _SIDE_BITS | _positions(column["side"], _SIDE_ARRAY)
        return columns_of(series << _PROVIDER_BITS | providers, column)

    def table(self, rows: Columns) -> pa.Table:
        """Rows as a `BAR_SCHEMA` table in one chunk; NaN becomes null."""
        return pa.Table.from_arrays([self._column(rows, name) for name in BAR_SCHEMA.names], schema=BAR_SCHEMA)

    def batch(self, rows: Columns, columns: Sequence[str]) -> pa.RecordBatch:
        """Some columns of `table`."""
        schema = pa.schema([BAR_SCHEMA.field(name) for name in columns])
        return pa.RecordBatch.from_arrays([self._column(rows, name) for name in columns], schema=schema)

    def compact_table(self, rows: Columns) -> pa.Table:
        """As `table`, with words dictionary-encoded: what a Parquet writer takes most quickly."""
        words = {
            "symbol": self.symbols.dictionary(rows.symbol),
            "interval": _dictionary(rows.interval.astype(np.int8), _INTERVAL_ARRAY),
            "side": _dictionary(rows.side.astype(np.int8), _SIDE_ARRAY),
            "provider": self.providers.dictionary(rows.provider),
            "status": _dictionary(rows.status.astype(np.int8), _STATUS_ARRAY),
        }
        arrays = [words[name] if name in words else self._column(rows, name) for name in BAR_SCHEMA.names]
        return pa.Table.from_arrays(arrays, schema=DICTIONARY_SCHEMA)

    def _column(self, rows: Columns, name: str) -> Any:
        if name in _PRICES:
            return pa.array(rows.floats[_PRICES.index(name)], from_pandas=name in _NULLABLE)
        return _COLUMNS[name](self, rows)


def _dictionary(indices: Any, words: Any) -> Any:
    return pa.DictionaryArray.from_arrays(indices, words)


def repeated(word: str, count: int) -> Any:
    """An array of one word, many times."""
    data = word.encode()
    if len(data) * count >= 2**31:
        return pa.repeat(word, count)
    ends: Any = np.arange(count + 1, dtype=np.int32) * np.int32(len(data))
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(data * count))


def _spelled(words: Any, codes: npt.NDArray[Any]) -> Any:
    """The words of numbers. Most often all are the same one, which needs no look-up."""
    if len(codes) > 64 and (codes == codes[0]).all():
        return repeated(words[int(codes[0])].as_py(), len(codes))
    return words.take(pa.array(codes))


_INTERVAL_ARRAY = pa.array(INTERVAL_NAMES, pa.string())
_SIDE_ARRAY = pa.array(SIDES, pa.string())
_STATUS_ARRAY = pa.array(STATUSES, pa.string())

_COLUMNS: dict[str, Callable[[Names, Columns], Any]] = {
    "symbol": lambda names, rows: names.symbols.decode(rows.symbol),
    "interval": lambda _, rows: _spelled(_INTERVAL_ARRAY, rows.interval),
    "side": lambda _, rows: _spelled(_SIDE_ARRAY, rows.side),
    "ts": lambda _, rows: pa.array(rows.ts).view(_TS),
    "trades": lambda _, rows: pa.array(rows.ints[3], mask=rows.ints[3] == NO_TRADES),
    "provider": lambda names, rows: names.providers.decode(rows.provider),
    "status": lambda _, rows: _spelled(_STATUS_ARRAY, rows.status),
    "as_of": lambda _, rows: pa.array(rows.as_of).view(_TS),
}

_WIDTHS = {"symbol": pa.int32(), "interval": pa.int8(), "side": pa.int8(), "provider": pa.int32(), "status": pa.int8()}
DICTIONARY_SCHEMA: pa.Schema = pa.schema(
    [f.with_type(pa.dictionary(_WIDTHS[f.name], f.type)) if f.name in _WIDTHS else f for f in BAR_SCHEMA]
)


def _one_chunk(column: Any) -> Any:
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.combine_chunks()


def _positions(array: Any, words: Any) -> I64:
    """Of each word, its position in `words`, where all of them are."""
    if pa.types.is_dictionary(array.type):
        return _int64(_positions(array.dictionary, words)[array.indices.to_numpy()])
    word = one_word(array)
    if word is not None:
        return np.full(len(array), words.index(word).as_py())
    return _int64(pc.index_in(array, value_set=words).to_numpy().astype(np.int64))


def columns_of(series: I64, column: dict[str, Any]) -> Columns:
    """Rows of a series each, the rest from arrays as `BAR_SCHEMA` has them, without copying what can be shared."""
    trades = column["trades"]
    ints = (
        series,
        column["ts"].view(pa.int64()).to_numpy(),
        column["as_of"].view(pa.int64()).to_numpy(),
        (trades.fill_null(NO_TRADES) if trades.null_count else trades).to_numpy(),
    )
    floats = tuple(column[name].to_numpy(zero_copy_only=False) for name in _PRICES)
    return Columns(ints, floats, _positions(column["status"], _STATUS_ARRAY).astype(np.uint8))
