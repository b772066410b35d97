"""Rows of bars as numpy columns with names as numbers: the one shape that log, memory and sealed files meet in.

`Columns` are rows; `Names` turns symbols and providers into numbers and back. A *series* is the number of
(symbol, interval, side, provider); with `ts` it is the key of a bar. Nothing here touches a file.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA, INTERVALS
from marketd.store.batch import SIDES, STATUSES

__all__ = ["Columns", "Names"]

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_PROVIDER_BITS, _SIDE_BITS, _INTERVAL_BITS = 12, 2, 5
_NO_TRADES = np.iinfo(np.int64).min  # stands for null in an int64 column, which has no NaN
_INTERVAL_NAMES = tuple(i.name for i in INTERVALS)
_TS = BAR_SCHEMA.field("ts").type
_PRICES = ("open", "high", "low", "close", "volume", "vwap")


class Columns:
    """n rows. ints: int64 (4, n): series, ts, as_of, trades. floats: float64 (6, n): open, high, low, close, volume,
    vwap, NaN where absent. status: uint8 (n,), a position in `STATUSES`. Treat as immutable.
    """

    __slots__ = ("floats", "ints", "status")

    def __init__(self, ints: I64, floats: npt.NDArray[np.float64], status: npt.NDArray[np.uint8]) -> None:
        self.ints = ints
        self.floats = floats
        self.status = status

    @classmethod
    def empty(cls, rows: int = 0) -> Columns:
        return cls(np.empty((4, rows), np.int64), np.empty((6, rows), np.float64), np.empty(rows, np.uint8))

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([p.ints for p in parts], axis=1),
            np.concatenate([p.floats for p in parts], axis=1),
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
        return Columns(self.ints[:, rows], self.floats[:, rows], self.status[rows])

    def put(self, rows: Any, other: Columns) -> None:
        """Write `other` at `rows`; for the one who made this object and has not shared those rows yet."""
        self.ints[:, rows] = other.ints
        self.floats[:, rows] = other.floats
        self.status[rows] = other.status

    def same_values(self, other: Columns) -> Mask:
        """Row by row, whether prices, volume, vwap, trades and status are equal; absent equals absent."""
        equal = (self.floats == other.floats) | (np.isnan(self.floats) & np.isnan(other.floats))
        same: Mask = equal.all(axis=0) & (self.ints[3] == other.ints[3]) & (self.status == other.status)
        return same

    def by_version(self) -> I64:
        """The order by (series, ts, as_of); rows equal in all three stay in the order they are in."""
        return np.lexsort((self.as_of, self.ts, self.series)).astype(np.int64, copy=False)

    def last_of_key(self) -> Mask:
        """The last row of each key, for rows that are in the order `by_version`."""
        last = np.ones(len(self), np.bool_)
        last[:-1] = (self.ints[:2, 1:] != self.ints[:2, :-1]).any(axis=0)
        return last

    def first_of_key(self) -> Mask:
        first = np.ones(len(self), np.bool_)
        first[1:] = (self.ints[:2, 1:] != self.ints[:2, :-1]).any(axis=0)
        return first


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
        encoded = array.dictionary_encode()
        codes = np.array(self.add(encoded.dictionary.to_pylist()), np.int64)
        return _int64(codes[encoded.indices.to_numpy()])

    def decode(self, codes: I64) -> Any:
        array = self._array
        if len(array) != len(self.names):
            array = self._array = pa.array(self.names, pa.string())
        return array.take(codes)

    def ranks(self) -> I64:
        """Of each number, the position of its name among the sorted names."""
        names = list(self.names)
        ranks = np.empty(len(names), np.int64)
        ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
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
        return (code << _INTERVAL_BITS | _INTERVAL_NAMES.index(interval)) << _SIDE_BITS | SIDES.index(side)

    def columns(self, table: pa.Table) -> Columns:
        """Rows of a `BAR_SCHEMA` table (strings may be dictionary-encoded)."""
        if not table.num_rows:
            return Columns.empty()
        column = {name: _one_chunk(table.column(name)) for name in BAR_SCHEMA.names}
        rows = Columns.empty(table.num_rows)
        providers = self.providers.encode(column["provider"])
        series = self.symbols.encode(column["symbol"])
        series = series << _INTERVAL_BITS | _positions(column["interval"], _INTERVAL_NAMES)
        series = series << _SIDE_BITS | _positions(column["side"], SIDES)
        rows.ints[0] = series << _PROVIDER_BITS | providers
        rows.ints[1] = column["ts"].view(pa.int64()).to_numpy()
        rows.ints[2] = column["as_of"].view(pa.int64()).to_numpy()
        rows.ints[3] = column["trades"].fill_null(_NO_TRADES).to_numpy()
        for position, name in enumerate(_PRICES):
            rows.floats[position] = column[name].to_numpy(zero_copy_only=False)
        rows.status[:] = _positions(column["status"], STATUSES)
        return rows

    def table(self, rows: Columns) -> pa.Table:
        """Rows as a `BAR_SCHEMA` table in one chunk; NaN becomes null."""
        trades = rows.ints[3]
        columns = {
            "symbol": self.symbols.decode(rows.symbol),
            "interval": _INTERVAL_ARRAY.take(rows.interval),
            "side": _SIDE_ARRAY.take(rows.side),
            "ts": pa.array(rows.ts).view(_TS),
            "trades": pa.array(trades, mask=trades == _NO_TRADES),
            "provider": self.providers.decode(rows.provider),
            "status": _STATUS_ARRAY.take(rows.status),
            "as_of": pa.array(rows.as_of).view(_TS),
        }
        for position, name in enumerate(_PRICES):
            columns[name] = pa.array(rows.floats[position], from_pandas=True)
        return pa.Table.from_arrays([columns[name] for name in BAR_SCHEMA.names], schema=BAR_SCHEMA)


_INTERVAL_ARRAY = pa.array(_INTERVAL_NAMES, pa.string())
_SIDE_ARRAY = pa.array(SIDES, pa.string())
_STATUS_ARRAY = pa.array(STATUSES, pa.string())


def _one_chunk(column: Any) -> Any:
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.combine_chunks()


def _positions(array: Any, words: Sequence[str]) -> I64:
    encoded = array.dictionary_encode()
    positions = np.array([words.index(word) for word in encoded.dictionary.to_pylist()], np.int64)
    return _int64(positions[encoded.indices.to_numpy()])
