"""What is not sealed yet: what the log holds, as columns in memory, with an index from key to last version.

A segment belongs to one log file. Rows are only added; whoever holds a `view` keeps seeing the same rows. They are in
the order they came: a time is found by the least and greatest ts of each stretch of rows, a symbol by
the sorted order of each longer stretch, which the first reader who needs it makes.

A *run* is history that came at once: many bars of one series that were not there before, sorted. It is not copied into
memory but read from the log, where it is a column each; copying would cost more than writing it did. Later versions
of its bars are rows in memory, so a run has the oldest version of each of its bars.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.store.embedded.columns import I64, Columns, Mask, distinct
from marketd.store.embedded.coverage import HotCoverage
from marketd.store.embedded.log import Frame, Log

__all__ = ["KeyIndex", "Segment", "between"]

_STRETCH = 8_192
_LONG = 131_072
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


class _Run(NamedTuple):
    """Bars of one series, ascending by ts, each once. group: the series without its provider."""

    series: int
    group: int
    rows: int
    first_ns: int
    last_ns: int
    frame: Frame

    def places(self, start_ns: int, end_ns: int) -> slice:
        """Where the rows with start_ns <= ts < end_ns are."""
        if self.first_ns >= end_ns or self.last_ns < start_ns:
            return slice(0, 0)
        low, high = np.searchsorted(self.frame.ts, (start_ns, end_ns)).tolist()
        return slice(low, high)

    def between(self, start_ns: int, end_ns: int) -> Columns:
        return self.frame.rows(self.series, self.places(start_ns, end_ns))


class _Held(NamedTuple):
    """What a segment has at one moment. in_memory: so many rows. runs: by group, and how many rows they have."""

    in_memory: int
    runs: dict[int, tuple[_Run, ...]]
    run_rows: int


class Segment:
    """The rows of one log file. number: the log's. day: UTC day the log was begun, days since 1970.

    rows: how many there may be. Once there are many, room for all is reserved: memory is taken as they come, in huge
    pages, which for a few would be waste. run_rows: how many make a run.
    """

    def __init__(self, number: int, log: Log, day: int, rows: int, run_rows: int) -> None:
        self.number = number
        self.log = log
        self.day = day
        self.coverage = HotCoverage()
        self._most = rows
        self._run_rows = run_rows
        self._rows = Columns.empty(min(rows, _FEW))
        self._index: KeyIndex | None = None
        self._unindexed: list[tuple[int, int]] = []
        self._held = _Held(0, {}, 0)
        self._ts_min = np.full(rows // _STRETCH + 2, np.iinfo(np.int64).max)
        self._ts_max = np.full(rows // _STRETCH + 2, np.iinfo(np.int64).min)
        self._sorted: list[tuple[I64, npt.NDArray[np.int32]]] = []
        self._sorted_lock = threading.Lock()

    def __len__(self) -> int:
        held = self._held
        return held.in_memory + held.run_rows

    def _in_memory(self, held: _Held) -> Columns:
        """The rows in memory at that moment, without copying."""
        return self._rows.take(slice(0, held.in_memory))

    def everything(self) -> Columns:
        """All rows now. Raises StoreCorrupt if the log does not say any longer what was written."""
        held = self._held
        parts = [self._in_memory(held)]
        for run in _all_runs(held):
            run.frame.check()
            parts.append(run.frame.rows(run.series, slice(None)))
        return Columns.concat(parts)

    def symbols(self) -> set[int]:
        """The numbers of the symbols that have a row."""
        held = self._held
        return {*distinct(self._in_memory(held).symbol).tolist(), *(group >> 7 for group in held.runs)}

    def last_versions(self, keys: Columns) -> Iterator[tuple[I64, Columns]]:
        """Of those of the keys (ordered `by_version`) that have a row, the positions and the last versions.

        For the thread that appends. The index is made when a bar comes again: most never do.
        """
        again = np.flatnonzero(self.coverage.known(keys))
        if not len(again):
            return
        asked = keys if len(again) == len(keys) else keys.take(again)
        found = self._find(asked)
        hit = found >= 0
        if hit.any():
            yield again[hit], self._rows.take(found[hit])
        left = again[~hit]
        runs = self._held.runs
        series = keys.series[left]
        for group in distinct(keys.group[left]).tolist() if runs else ():
            for run in runs.get(group, ()):
                low, high = np.searchsorted(series, (run.series, run.series + 1)).tolist()
                ts, run_ts = keys.ts[left[low:high]], run.frame.ts
                at = np.minimum(np.searchsorted(run_ts, ts), run.rows - 1)
                same = run_ts[at] == ts
                if same.any():
                    yield left[low:high][same], run.frame.rows(run.series, at[same])

    def _find(self, keys: Columns) -> I64:
        """The row in memory of the last version of each key, -1 where there is none."""
        if not self._held.in_memory:
            return np.full(len(keys), -1, np.int64)
        if self._index is None:
            self._index = KeyIndex(max(_FEW, 2 * self._held.in_memory))
        for start, stop in self._unindexed:
            versions = self._rows.take(slice(start, stop))
            self._index.put(self._rows, start + np.flatnonzero(versions.last_of_key()))
        self._unindexed.clear()
        return self._index.find(self._rows, keys)

    def reserve(self, rows: int) -> None:
        """Make room, so that `append` cannot fail after the log was written."""
        needed = self._held.in_memory + rows
        if needed > len(self._rows):
            grown = Columns.empty(max(self._most, needed + needed // 4))
            grown.put(slice(0, self._held.in_memory), self._in_memory(self._held))
            self._rows = grown
        stretches = needed // _STRETCH + 1
        if stretches > len(self._ts_min):
            more = np.zeros(stretches, np.int64)
            self._ts_min = np.append(self._ts_min, more + np.iinfo(np.int64).max)
            self._ts_max = np.append(self._ts_max, more + np.iinfo(np.int64).min)

    def append(self, versions: Columns, frame: Frame | None = None) -> None:
        """Add rows that are in the order `by_version` and later than every version here of their keys.

        frame: where they are in the log, if there is no version here of any of their keys, and each comes once.
        """
        if frame is not None and len(versions) >= self._run_rows and versions.series[0] == versions.series[-1]:
            self._append_run(versions, frame)
            return
        self.reserve(len(versions))
        held = self._held
        start, stop = held.in_memory, held.in_memory + len(versions)
        self._rows.put(slice(start, stop), versions)
        self._unindexed.append((start, stop))
        for stretch in range(start // _STRETCH, (stop - 1) // _STRETCH + 1):
            ts = self._rows.ts[max(start, stretch * _STRETCH) : min(stop, (stretch + 1) * _STRETCH)]
            self._ts_min[stretch] = min(int(self._ts_min[stretch]), int(ts.min()))
            self._ts_max[stretch] = max(int(self._ts_max[stretch]), int(ts.max()))
        self.coverage.mark(versions)
        self._held = held._replace(in_memory=stop)

    def _append_run(self, versions: Columns, frame: Frame) -> None:
        ends = int(versions.ts[0]), int(versions.ts[-1])
        run = _Run(int(versions.series[0]), int(versions.group[0]), len(versions), *ends, frame)
        frame.keep()
        self.coverage.mark(versions)
        held = self._held
        runs = {**held.runs, run.group: (*held.runs.get(run.group, ()), run)}
        self._held = _Held(held.in_memory, runs, held.run_rows + run.rows)

    def select(self, group: int, start_ns: int, end_ns: int) -> Columns:
        """All versions of one symbol, interval and side with start_ns <= ts < end_ns."""
        held = self._held
        rows = self._in_memory(held)
        parts = [run.between(start_ns, end_ns) for run in held.runs.get(group, ())]
        parts.append(between(rows.take(self._places(rows, group)), start_ns, end_ns))
        return Columns.concat([part for part in parts if len(part)])

    def first_ns(self, group: int, start_ns: int, end_ns: int) -> int | None:
        """The least ts of what `select` would find, None if that is nothing."""
        held = self._held
        rows = self._in_memory(held)
        ts = rows.ts[self._places(rows, group)]
        found = [ts[(ts >= start_ns) & (ts < end_ns)]]
        found += [run.frame.ts[run.places(start_ns, end_ns)][:1] for run in held.runs.get(group, ())]
        return min((int(times.min()) for times in found if len(times)), default=None)

    def near(self, keys: Columns) -> Iterator[Columns]:
        """All versions of these keys, and others."""
        held = self._held
        rows, least, most = self._in_memory(held), int(keys.ts.min()), int(keys.ts.max())
        yield rows.take(np.flatnonzero((rows.ts >= least) & (rows.ts <= most)))
        for group in distinct(keys.group).tolist() if held.runs else ():
            yield from (run.between(least, most + 1) for run in held.runs.get(group, ()))

    def _places(self, rows: Columns, group: int) -> I64:
        """Which rows in memory are of a group."""
        found = []
        stretches = self._sorted_stretches(len(rows))
        for number, (groups, order) in enumerate(stretches):
            first, last = np.searchsorted(groups, (group, group + 1)).tolist()
            if first < last:
                found.append(order[first:last].astype(np.int64) + number * _LONG)
        tail = len(stretches) * _LONG
        found.append(np.flatnonzero(rows.group[tail:] == group) + tail)
        return np.concatenate(found)

    def _sorted_stretches(self, count: int) -> list[tuple[I64, npt.NDArray[np.int32]]]:
        """For each full long stretch of the first `count` rows, its groups in order and the rows they are of."""
        wanted = count // _LONG
        if len(self._sorted) < wanted:
            with self._sorted_lock:
                for number in range(len(self._sorted), wanted):
                    groups = self._rows.group[number * _LONG : (number + 1) * _LONG]
                    order = np.argsort(groups, kind="stable")
                    self._sorted.append((groups[order], order.astype(np.int32)))
        return self._sorted[:wanted]

    def at(self, kind: int, ts_ns: int) -> Columns:
        """All versions of all symbols of one interval and side at `ts_ns`."""
        held = self._held
        rows = self._in_memory(held)
        stretches = -(-len(rows) // _STRETCH)
        near = (self._ts_min[:stretches] <= ts_ns) & (self._ts_max[:stretches] >= ts_ns)
        found = []
        for stretch in np.flatnonzero(near).tolist():
            part = rows.take(slice(stretch * _STRETCH, (stretch + 1) * _STRETCH))
            found.append(np.flatnonzero((part.ts == ts_ns) & (part.kind == kind)) + stretch * _STRETCH)
        places = np.concatenate(found) if found else np.zeros(0, np.int64)
        of_runs = [run.between(ts_ns, ts_ns + 1) for run in _all_runs(held) if run.group & 127 == kind]
        if any(map(len, of_runs)):
            return Columns.concat([rows.take(places), *of_runs])
        if len(places) and places[-1] - places[0] == len(places) - 1:  # as a live minute is: no need to copy it
            return rows.take(slice(int(places[0]), int(places[-1]) + 1))
        return rows.take(places)


def _all_runs(held: _Held) -> Iterator[_Run]:
    return (run for runs in held.runs.values() for run in runs)


def between(rows: Columns, start_ns: int, end_ns: int) -> Columns:
    """The rows with start_ns <= ts < end_ns."""
    wanted: Mask = (rows.ts >= start_ns) & (rows.ts < end_ns)
    return rows if wanted.all() else rows.take(wanted)
