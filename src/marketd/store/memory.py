"""A bar store in a dictionary: the contract in its plainest form, for tests and for programs that keep nothing.

Owns no file; forgets everything at `close`. Its only concern is to be obviously right: other engines are
compared with it. It loops over rows, so it is not for bulk data.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import pyarrow as pa

from marketd.errors import StoreError
from marketd.model import BAR_SCHEMA, Interval, Side
from marketd.store.batch import checked_batch, checked_range

__all__ = ["MemoryStore"]

_Key = tuple[str, str, str, int, str]
_Row = dict[str, Any]
_VALUES = ("open", "high", "low", "close", "volume", "vwap", "trades", "status")


class MemoryStore:
    """Implements `BarStore`; durable as long as the process."""

    def __init__(self) -> None:
        self._versions: dict[_Key, list[_Row]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def append(self, bars: pa.Table) -> int:
        table = checked_batch(bars)
        plain = table.set_column(3, "ts", table.column("ts").cast(pa.int64()))
        plain = plain.set_column(13, "as_of", table.column("as_of").cast(pa.int64()))
        rows = [{name: _absent(value) for name, value in row.items()} for row in plain.to_pylist()]
        with self._lock:
            self._check_open()
            return sum(self._keep(row) for row in sorted(rows, key=lambda row: int(row["as_of"])))

    def _keep(self, row: _Row) -> bool:
        key = (row["symbol"], row["interval"], row["side"], row["ts"], row["provider"])
        versions = self._versions.setdefault(key, [])
        if versions:
            in_force = [version for version in versions if version["as_of"] <= row["as_of"]]
            if any(_same(row, known) for known in (versions[-1], *in_force[-1:])):
                return False
            row["as_of"] = max(row["as_of"], versions[-1]["as_of"] + 1)
        versions.append(row)
        return True

    def read(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        limit: int | None = None,
        newest_first: bool = False,
        as_of_ns: int | None = None,
    ) -> pa.Table:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, limit, as_of_ns)
        best: dict[int, _Row] = {}
        with self._lock:
            self._check_open()
            # providers in descending order, so that on equal as_of the first name replaces the others
            for key, versions in sorted(self._versions.items(), key=lambda item: item[0][4], reverse=True):
                if key[:3] != (symbol, interval.name, side) or not start_ns <= key[3] < end_ns:
                    continue
                known = [v for v in versions if as_of_ns is None or v["as_of"] <= as_of_ns]
                if known and (key[3] not in best or known[-1]["as_of"] >= best[key[3]]["as_of"]):
                    best[key[3]] = known[-1]
        rows = [best[ts] for ts in sorted(best, reverse=newest_first)][:limit]
        return pa.Table.from_pylist(rows, schema=BAR_SCHEMA)

    def symbols(self) -> tuple[str, ...]:
        with self._lock:
            self._check_open()
            return tuple(sorted({key[0] for key in self._versions}))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._versions.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("memory", "the store is closed")


def _absent(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _same(row: _Row, other: _Row) -> bool:
    return all(row[name] == other[name] for name in _VALUES)
