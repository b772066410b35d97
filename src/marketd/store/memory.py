"""A bar store in a dictionary: the contract in its plainest form, for tests and for programs that keep nothing.

Owns no file; forgets everything at `close`. Its only concern is to be obviously right: other engines are
compared with it. It loops over rows, so it is not for bulk data.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from marketd.errors import StoreError
from marketd.model import ADJUSTED, BAR_SCHEMA, Interval, Side
from marketd.store.batch import checked_batch, checked_columns, checked_range, presence_slots
from marketd.store.contract import Presence, StoreStats

__all__ = ["MemoryStore"]

_Group = tuple[str, str, str]
_Key = tuple[int, str]
_Row = dict[str, Any]
_VALUES = ("open", "high", "low", "close", "volume", "vwap", "trades", "status")


class MemoryStore:
    """Implements `BarStore`; durable as long as the process."""

    def __init__(self) -> None:
        self._bars: dict[_Group, dict[_Key, list[_Row]]] = {}
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
        group = self._bars.setdefault((row["symbol"], row["interval"], row["side"]), {})
        versions = group.setdefault((row["ts"], row["provider"]), [])
        if versions:
            in_force = [version for version in versions if version["as_of"] <= row["as_of"]]
            if any(_same(row, known) for known in (versions[-1], *in_force[-1:])):
                return False
            row["as_of"] = max(row["as_of"], versions[-1]["as_of"] + 1)
        versions.append(row)
        return True

    def _in_force(
        self, group: _Group, start_ns: int, end_ns: int, as_of_ns: int | None, prefer: Sequence[str]
    ) -> list[_Row]:
        """The bars that the policy chooses, by ts."""
        offered: dict[int, list[_Row]] = {}
        for (ts_ns, _), versions in self._bars.get(group, {}).items():
            known = [v for v in versions if as_of_ns is None or v["as_of"] <= as_of_ns]
            if start_ns <= ts_ns < end_ns and known and known[-1]["status"] != "withdrawn":
                offered.setdefault(ts_ns, []).append(known[-1])

        def first_choice(row: _Row) -> tuple[int, bool, int, str]:
            provider = row["provider"]
            named = list(prefer).index(provider) if provider in prefer else len(prefer)
            return named, provider.endswith(ADJUSTED), -row["as_of"], provider

        return [min(rows, key=first_choice) for _, rows in sorted(offered.items())]

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
        prefer: Sequence[str] = (),
        coded: bool = False,  # noqa: ARG002 - plain words are allowed
    ) -> pa.Table:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, limit, as_of_ns)
        with self._lock:
            self._check_open()
            rows = self._in_force((symbol, interval.name, side), start_ns, end_ns, as_of_ns, prefer)
        return _table(rows[::-1][:limit] if newest_first else rows[:limit])

    def cross_section(
        self,
        interval: Interval,
        ts_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
    ) -> pa.Table:
        start_ns, end_ns = checked_range(ts_ns, ts_ns + 1, side, None, as_of_ns)
        with self._lock:
            self._check_open()
            rows = [
                row
                for symbol in self._asked(symbols)
                for row in self._in_force((symbol, interval.name, side), start_ns, end_ns, as_of_ns, prefer)
            ]
        return _table(rows)

    def scan(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        names = checked_columns(columns)
        with self._lock:
            self._check_open()
            asked = self._asked(symbols)
        for symbol in asked:
            bars = self.read(symbol, interval, start_ns, end_ns, side=side, as_of_ns=as_of_ns, prefer=prefer)
            yield from bars.select(names).combine_chunks().to_batches()

    def versions(self, symbol: str, interval: Interval, ts_ns: int, *, side: Side = "trade") -> pa.Table:
        return pa.Table.from_batches(self.read_versions(symbol, interval, ts_ns, ts_ns + 1, side=side), BAR_SCHEMA)

    def read_versions(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, side: Side = "trade"
    ) -> Iterator[pa.RecordBatch]:
        checked_range(start_ns, end_ns, side, None, None)
        with self._lock:
            self._check_open()
            group = self._bars.get((symbol, interval.name, side), {})
            rows = [row for (ts, _), versions in group.items() if start_ns <= ts < end_ns for row in versions]
        rows.sort(key=lambda row: (row["ts"], row["as_of"], row["provider"]))
        yield from _table(rows).combine_chunks().to_batches()

    def presence(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
    ) -> Presence:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, None, None)
        with self._lock:
            self._check_open()
            asked = self._asked(None) if symbols is None else list(symbols)
            first_ns, slots = presence_slots(interval, start_ns, end_ns, len(asked))
            present = np.zeros((len(asked), slots), np.bool_)
            for line, symbol in enumerate(asked):
                for row in self._in_force((symbol, interval.name, side), first_ns, end_ns, None, ()):
                    present[line, (row["ts"] - first_ns) // interval.ns] = True
        bits = np.packbits(present, axis=1, bitorder="little")
        return Presence(symbols=tuple(asked), interval=interval, start_ns=first_ns, slots=slots, bits=bits)

    def symbols(self) -> tuple[str, ...]:
        with self._lock:
            self._check_open()
            return tuple(self._asked(None))

    def stats(self) -> StoreStats:
        with self._lock:
            self._check_open()
            keys = sum(len(group) for group in self._bars.values())
            rows = sum(len(versions) for group in self._bars.values() for versions in group.values())
            symbols = len(self._asked(None))
        return StoreStats(kind="memory", symbols=symbols, versions=rows, bytes=None, details={"bars": keys})

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._bars.clear()

    def _asked(self, symbols: Sequence[str] | None) -> list[str]:
        return sorted({group[0] for group in self._bars} if symbols is None else set(symbols))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("memory", "the store is closed")


def _table(rows: list[_Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=BAR_SCHEMA)


def _absent(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _same(row: _Row, other: _Row) -> bool:
    return all(row[name] == other[name] for name in _VALUES)
