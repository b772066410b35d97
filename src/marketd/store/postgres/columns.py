"""Columns of numbers into and out of PostgreSQL, whole columns at a time.

In: the binary form of COPY, laid out as one numpy record a row. That needs rows of one length, so nothing is null in
it: NaN and the least integer stand for absent, and the SQL that reads the staged rows turns them back. Out: each column
as one array value (`array_agg`), whose binary form is as regular.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ABSENT", "from_array", "ns_of", "pg_time", "rounds_of", "to_copy"]

ABSENT = int(np.iinfo(np.int64).min)
"""Stands for null in a column of int64, which has no NaN."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01
_ARRAY_HEADER_BYTES = 20

_I64 = npt.NDArray[np.int64]


def to_copy(columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Numbers of equal length as `COPY … FROM STDIN (FORMAT binary)` reads them, in the order given.

    The SQL type follows from the numpy type: int16, int32, int64, float64; timestamptz is int64 (`pg_time`).
    """
    rows = len(next(iter(columns.values())))
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, values in columns.items():
        fields += [(f"{name}_length", ">i4"), (name, values.dtype.newbyteorder(">").str)]
    out = np.empty(rows, dtype=fields)
    out["fields"] = len(columns)
    for name, values in columns.items():
        out[f"{name}_length"] = values.dtype.itemsize
        out[name] = values
    return _HEADER + out.tobytes() + _TRAILER


def from_array(raw: bytes | None, kind: str) -> npt.NDArray[Any]:
    """The elements of an array value in binary form; none for null. kind: numpy's type of one, such as `f8`.

    The array has one dimension and no null.
    """
    if raw is None:
        return np.empty(0, kind)
    stored = np.dtype([("length", ">i4"), ("value", f">{kind}")])
    return np.frombuffer(raw, stored, offset=_ARRAY_HEADER_BYTES)["value"].astype(kind)


def pg_time(ns: _I64) -> tuple[_I64, npt.NDArray[np.int16]]:
    """Nanoseconds since 1970 as timestamptz in binary form (microseconds since 2000) and the nanoseconds after it."""
    us = ns // 1_000
    return us - _PG_EPOCH_US, (ns - us * 1_000).astype(np.int16)


def ns_of(pg_us: _I64, nanos: npt.NDArray[Any]) -> _I64:
    """The reverse of `pg_time`."""
    return (pg_us + _PG_EPOCH_US) * 1_000 + nanos.astype(np.int64)


def rounds_of(number: npt.NDArray[Any], ts_ns: _I64, as_of_ns: _I64) -> npt.NDArray[np.int32]:
    """For each row, how many rows with the same number and time come before it, by `as_of` and then by place.

    What checks versions against those already kept takes the rows round by round.
    """
    order = np.lexsort((as_of_ns, ts_ns, number))
    number, ts_ns = number[order], ts_ns[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (number[1:] != number[:-1]) | (ts_ns[1:] != ts_ns[:-1])
    place = np.arange(len(order))
    rounds = np.empty(len(order), np.int32)
    rounds[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return rounds
