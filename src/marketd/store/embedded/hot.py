"""The rows in memory: what the log holds, as columns, with an index from key to last version.

A segment belongs to one log file. Rows are only added; whoever holds a `view` keeps seeing the same rows. They are in
the order they came: a time is found by the least and greatest ts of each stretch of rows, a symbol by
the sorted order of each longer stretch, which the first reader who needs it makes.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.store.embedded.columns import I64, Columns, Mask
from marketd.store.embedded.coverage import HotCoverage
from marketd.store.embedded.log import Log

__all__ = ["KeyIndex", "Segment", "between"]

_STRETCH = 8_192
_RUN = 131_072
_FEW = 65_536


class KeyIndex:
    """Key → row in `columns`, by open addressing, a whole batch at a time.

    A dictionary of Python integers takes 110 bytes a row and as long for 8,000 rows as all the rest of an
    append; this takes 8 to 16 bytes. The keys themselves stay in the columns.
    """

    def __init__(self, rows: int) -> None:
        self._bits = max(10, (2 * rows - 1).bit_length())
        self._slots = np.zeros(1 << self._bits, np.int32)  # row + 1: memory of zeros is not there until it is used
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
        mask, step = len(self._slots) - 1, 0
        while len(todo):
            step += 1  # further each time: one after the other they would crowd together
            rows = self._slots[slots]
            taken = np.flatnonzero(rows)
            if not len(taken):
                break
            todo, slots, rows = todo[taken], slots[taken], rows[taken] - 1
            match = _same_keys(columns, rows, keys, todo)
            found[todo[match]] = rows[match]
            go_on = np.flatnonzero(~match)
            todo, slots = todo[go_on], (slots[go_on] + step) & mask
        return found

    def put(self, columns: Columns, rows: I64) -> None:
        """Let the keys of `rows` (each key once) lead to these rows, already written in `columns`."""
        if 2 * (self._used + len(rows)) > len(self._slots):
            known = self._slots[self._slots > 0].astype(np.int64) - 1
            self._bits = (2 * (self._used + len(rows)) * 2 - 1).bit_length()
            self._slots = np.zeros(1 << self._bits, np.int32)
            self._used = 0
            self._put(columns, known)
        self._put(columns, rows)

    def _put(self, columns: Columns, rows: I64) -> None:
        slots, mask = self._first_slots(columns.series[rows], columns.ts[rows]), len(self._slots) - 1
        step = 0
        while len(rows):
            step += 1
            present = self._slots[slots]
            taken = np.flatnonzero(present)
            done = present == 0
            if len(taken):
                match = taken[_same_keys(columns, present[taken] - 1, columns, rows[taken])]
                self._slots[slots[match]] = rows[match] + 1
            self._slots[slots[done]] = rows[done] + 1
            # of several that wanted one free slot the last has it; the others look further
            done &= self._slots[slots] == rows + 1
            self._used += int(np.count_nonzero(done))
            if len(taken):
                done[match] = True
            go_on = np.flatnonzero(~done)
            rows, slots = rows[go_on], (slots[go_on] + step) & mask


def _same_keys(columns: Columns, rows: npt.NDArray[Any], others: Columns, at: I64) -> Mask:
    same: Mask = (columns.series[rows] == others.series[at]) & (columns.ts[rows] == others.ts[at])
    return same


class Segment:
    """The rows of one log file. number: the log's. day: UTC day the log was begun, days since 1970.

    rows: how many there may be. Once there are many, room for all is reserved: memory is taken as they come, in huge
    pages, which for a few would be waste.
    """

    def __init__(self, number: int, log: Log, day: int, rows: int) -> None:
        self.number = number
        self.log = log
        self.day = day
        self.coverage = HotCoverage()
        self._most = rows
        self._rows = Columns.empty(min(rows, _FEW))
        self._index: KeyIndex | None = None
        self._unindexed: list[tuple[int, int]] = []
        self._count = 0
        self._ts_min = np.full(rows // _STRETCH + 2, np.iinfo(np.int64).max)
        self._ts_max = np.full(rows // _STRETCH + 2, np.iinfo(np.int64).min)
        self._runs: list[tuple[I64, npt.NDArray[np.int32]]] = []
        self._runs_lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def view(self) -> Columns:
        """The rows now, without copying."""
        count = self._count  # read first: the rows read after it hold at least as many
        return self._rows.take(slice(0, count))

    def find(self, keys: Columns) -> I64:
        """The row of the last version of each key, -1 where there is none. For the thread that appends.

        The index is made when a bar comes again: most never do.
        """
        found = np.full(len(keys), -1, np.int64)
        again = np.flatnonzero(self.coverage.known(keys))
        if not len(again):
            return found
        if self._index is None:
            self._index = KeyIndex(max(_FEW, 2 * self._count))
        for start, stop in self._unindexed:
            versions = self._rows.take(slice(start, stop))
            self._index.put(self._rows, start + np.flatnonzero(versions.last_of_key()))
        self._unindexed.clear()
        found[again] = self._index.find(self._rows, keys if len(again) == len(keys) else keys.take(again))
        return found

    def take(self, rows: npt.NDArray[np.int64]) -> Columns:
        return self._rows.take(rows)

    def reserve(self, rows: int) -> None:
        """Make room, so that `append` cannot fail after the log was written."""
        needed = self._count + rows
        if needed > len(self._rows):
            grown = Columns.empty(max(self._most, needed + needed // 4))
            grown.put(slice(0, self._count), self.view)
            self._rows = grown
        stretches = needed // _STRETCH + 1
        if stretches > len(self._ts_min):
            more = np.zeros(stretches, np.int64)
            self._ts_min = np.append(self._ts_min, more + np.iinfo(np.int64).max)
            self._ts_max = np.append(self._ts_max, more + np.iinfo(np.int64).min)

    def append(self, versions: Columns) -> None:
        """Add rows that are in the order `by_version` and later than every version here of their keys."""
        self.reserve(len(versions))
        start, stop = self._count, self._count + len(versions)
        self._rows.put(slice(start, stop), versions)
        self._unindexed.append((start, stop))
        for stretch in range(start // _STRETCH, (stop - 1) // _STRETCH + 1):
            ts = self._rows.ts[max(start, stretch * _STRETCH) : min(stop, (stretch + 1) * _STRETCH)]
            self._ts_min[stretch] = min(int(self._ts_min[stretch]), int(ts.min()))
            self._ts_max[stretch] = max(int(self._ts_max[stretch]), int(ts.max()))
        self.coverage.mark(versions)
        self._count = stop

    def select(self, group: int, start_ns: int, end_ns: int) -> Columns:
        """All versions of one symbol, interval and side with start_ns <= ts < end_ns."""
        rows = self.view
        found = []
        runs = self._sorted_runs(len(rows))
        for number, (groups, order) in enumerate(runs):
            first, last = np.searchsorted(groups, (group, group + 1)).tolist()
            if first < last:
                found.append(order[first:last].astype(np.int64) + number * _RUN)
        tail = len(runs) * _RUN
        found.append(np.flatnonzero(rows.group[tail:] == group) + tail)
        return between(rows.take(np.concatenate(found)), start_ns, end_ns)

    def _sorted_runs(self, count: int) -> list[tuple[I64, npt.NDArray[np.int32]]]:
        """For each full run of the first `count` rows, its groups in order and the rows they are of."""
        wanted = count // _RUN
        if len(self._runs) < wanted:
            with self._runs_lock:
                for run in range(len(self._runs), wanted):
                    groups = self._rows.group[run * _RUN : (run + 1) * _RUN]
                    order = np.argsort(groups, kind="stable")
                    self._runs.append((groups[order], order.astype(np.int32)))
        return self._runs[:wanted]

    def at(self, kind: int, ts_ns: int) -> Columns:
        """All versions of all symbols of one interval and side at `ts_ns`."""
        rows = self.view
        stretches = -(-len(rows) // _STRETCH)
        held = (self._ts_min[:stretches] <= ts_ns) & (self._ts_max[:stretches] >= ts_ns)
        found = []
        for stretch in np.flatnonzero(held).tolist():
            part = rows.take(slice(stretch * _STRETCH, (stretch + 1) * _STRETCH))
            found.append(np.flatnonzero((part.ts == ts_ns) & (part.kind == kind)) + stretch * _STRETCH)
        places = np.concatenate(found) if found else np.zeros(0, np.int64)
        if len(places) and places[-1] - places[0] == len(places) - 1:  # as a live minute is: no need to copy it
            return rows.take(slice(int(places[0]), int(places[-1]) + 1))
        return rows.take(places)


def between(rows: Columns, start_ns: int, end_ns: int) -> Columns:
    """The rows with start_ns <= ts < end_ns."""
    wanted: Mask = (rows.ts >= start_ns) & (rows.ts < end_ns)
    return rows if wanted.all() else rows.take(wanted)
