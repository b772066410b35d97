"""The rows in memory: what the log holds, as columns, with an index from key to last version.

A segment belongs to one log file. Rows are only added; whoever holds a `view` keeps seeing the same rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.store.embedded.columns import I64, Columns, Mask
from marketd.store.embedded.log import Log

__all__ = ["KeyIndex", "Segment"]

_ROWS_AT_FIRST = 1024


class KeyIndex:
    """Key → row in `columns`, by open addressing, a whole batch at a time.

    A dictionary of Python integers takes 110 bytes a row and as long for 8,000 rows as all the rest of an
    append; this takes 8 to 16 bytes. The keys themselves stay in the columns.
    """

    def __init__(self, rows: int = _ROWS_AT_FIRST) -> None:
        self._bits = max(10, (2 * rows - 1).bit_length())
        self._slots = np.full(1 << self._bits, -1, np.int32)
        self._used = 0

    def _first_slots(self, series: I64, ts: I64) -> I64:
        h = series.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(32)
        h += ts.view(np.uint64)
        h *= np.uint64(0xD6E8FEB86659FD93)
        h ^= h >> np.uint64(32)
        h *= np.uint64(0xD6E8FEB86659FD93)
        return (h >> np.uint64(64 - self._bits)).view(np.int64)

    def find(self, columns: Columns, keys: Columns) -> I64:
        """The row in `columns` of each key, -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        if not self._used:
            return found
        slots, todo = self._first_slots(keys.series, keys.ts), np.arange(len(keys))
        mask = len(self._slots) - 1
        while len(todo):
            rows = self._slots[slots]
            taken = rows >= 0
            match = taken & _same_keys(columns, rows, keys, todo)
            found[todo[match]] = rows[match]
            go_on = taken & ~match
            todo, slots = todo[go_on], (slots[go_on] + 1) & mask
        return found

    def put(self, columns: Columns, rows: I64) -> None:
        """Let the keys of `rows` (each key once) lead to these rows, already written in `columns`."""
        if 2 * (self._used + len(rows)) > len(self._slots):
            known = self._slots[self._slots >= 0].astype(np.int64)
            self._bits = (2 * (self._used + len(rows)) * 2 - 1).bit_length()
            self._slots = np.full(1 << self._bits, -1, np.int32)
            self._used = 0
            self._put(columns, known)
        self._put(columns, rows)

    def _put(self, columns: Columns, rows: I64) -> None:
        slots, mask = self._first_slots(columns.series[rows], columns.ts[rows]), len(self._slots) - 1
        while len(rows):
            present = self._slots[slots]
            free = present < 0
            match = ~free & _same_keys(columns, present, columns, rows)
            self._slots[slots[match]] = rows[match]
            self._slots[slots[free]] = rows[free]
            # of several that wanted one free slot the last has it; the others look further
            won = free & (self._slots[slots] == rows)
            self._used += int(np.count_nonzero(won))
            go_on = ~(match | won)
            rows, slots = rows[go_on], (slots[go_on] + 1) & mask


def _same_keys(columns: Columns, rows: npt.NDArray[Any], others: Columns, at: I64) -> Mask:
    same: Mask = (columns.series[rows] == others.series[at]) & (columns.ts[rows] == others.ts[at])
    return same


class Segment:
    """The rows of one log file. number: the log's. day: UTC day the log was begun, days since 1970."""

    def __init__(self, number: int, log: Log, day: int) -> None:
        self.number = number
        self.log = log
        self.day = day
        self._rows = Columns.empty(_ROWS_AT_FIRST)
        self._index = KeyIndex()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def view(self) -> Columns:
        """The rows now, without copying."""
        count = self._count  # read first: the rows read after it hold at least as many
        return self._rows.take(slice(0, count))

    def find(self, keys: Columns) -> I64:
        """The row of the last version of each key, -1 where there is none."""
        return self._index.find(self._rows, keys)

    def take(self, rows: npt.NDArray[np.int64]) -> Columns:
        return self._rows.take(rows)

    def reserve(self, rows: int) -> None:
        """Make room, so that `append` cannot fail after the log was written."""
        needed = self._count + rows
        if needed > len(self._rows):
            grown = Columns.empty(max(needed, 2 * len(self._rows)))
            grown.put(slice(0, self._count), self.view)
            self._rows = grown

    def append(self, versions: Columns) -> None:
        """Add rows that are in the order `by_version` and later than every version here of their keys."""
        self.reserve(len(versions))
        start = self._count
        self._rows.put(slice(start, start + len(versions)), versions)
        self._index.put(self._rows, start + np.flatnonzero(versions.last_of_key()))
        self._count = start + len(versions)

    def select(self, group: int, start_ns: int, end_ns: int) -> Columns:
        """All versions of one symbol, interval and side with start_ns <= ts < end_ns."""
        return select(self.view, group, start_ns, end_ns)


def select(rows: Columns, group: int, start_ns: int, end_ns: int) -> Columns:
    """All versions of one symbol, interval and side with start_ns <= ts < end_ns."""
    found = rows.take(np.flatnonzero(rows.group == group))
    wanted: Mask = (found.ts >= start_ns) & (found.ts < end_ns)
    return found.take(wanted)
