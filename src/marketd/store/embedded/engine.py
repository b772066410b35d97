"""The embedded store: a data directory, one owner, no server.

An append goes to the log and into memory (`log`, `hot`); when enough has come together, or a UTC day is over,
the rows of the log are written as sorted Parquet (`sealed`), the manifest says so, and the log goes. A read
merges both. Why it is built so: ``docs/decisions/003-embedded-store.md``; the files: ``docs/store-layout.md``.

It refuses a second owner, and goes on refusing appends while it cannot seal, rather than growing without bound.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import StoreCorrupt, StoreError, StoreLocked
from marketd.model import INTERVALS, Interval, Side
from marketd.store.batch import checked_batch, checked_range
from marketd.store.embedded.columns import I64, Columns, Mask, Names
from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.durable import make_folder
from marketd.store.embedded.hot import KeyIndex, Segment, select
from marketd.store.embedded.log import Log
from marketd.store.embedded.manifest import Catalogue, Manifest, SealedFile, load_manifest, save_manifest
from marketd.store.embedded.sealed import FOLDER, SealedReader, write_sealed

__all__ = ["EmbeddedStore"]

_logger = logging.getLogger(__name__)

_NS_PER_DAY = 86_400 * 10**9
_LOG_NAME = re.compile(r"log-(\d{6,})\.bars")


_State = tuple[Catalogue, tuple[Segment, ...]]
"""What is sealed and what is in memory, at one moment: together every row once."""


def _no_step(_step: str) -> None:
    pass


class _Ticket:
    """One caller's batch on its way to the disk."""

    __slots__ = ("done", "error", "rows", "versions")

    def __init__(self, rows: Columns) -> None:
        self.rows = rows
        self.done = False
        self.error: BaseException | None = None
        self.versions = 0


class EmbeddedStore:
    """Implements `BarStore` in a directory of its own.

    data_dir: created if missing; holds `marketd.lock`, `manifest.json`, `log/` and `bars/`.
    on_step: called with the name of each step on disk, from the thread that takes it; for crash drills.
    Raises StoreLocked when another store has the directory open, StoreCorrupt when its files are not what
    was written, StoreError when it cannot be used.

    Versions of one key have strictly increasing `as_of`: one that comes with an `as_of` no later than its
    predecessor's (a clock set back) is kept one nanosecond after it, so that the newest is always the last. A row
    that equals the version in force at its own `as_of` is a repetition and makes no version.
    """

    def __init__(
        self,
        data_dir: Path,
        config: EmbeddedStoreConfig,
        clock: Clock,
        *,
        on_step: Callable[[str], None] = _no_step,
    ) -> None:
        self._root = data_dir
        self._config = config
        self._clock = clock
        self._on_step = on_step
        self._names = Names()
        self._sealed = SealedReader(data_dir, self._names, config)
        self._commit_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._frozen: tuple[Segment, ...] = ()
        self._sealing: Future[None] | None = None
        self._closed = False
        self._lock_fd = _take_directory(data_dir)
        try:
            self._catalogue = Catalogue(load_manifest(data_dir / "manifest.json"))
            self._check_sealed_files()
            self._active = self._open_logs()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise StoreError(str(error.filename or data_dir), f"cannot be opened: {error.strerror}") from error
            raise
        self._names.symbols.add(self._catalogue.manifest.symbols)
        self._symbols_seen = np.zeros(0, np.bool_)
        self._symbols = self._catalogue.symbols | self._hot_symbols(self._active, *self._frozen)
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="marketd-seal")
        if self._frozen:
            self._sealing = self._sealer.submit(self._seal_frozen)

    # -- opening ----------------------------------------------------------------------------------------------

    def _check_sealed_files(self) -> None:
        for file in self._catalogue.manifest.files:
            path = self._root / file.path
            try:
                size = path.stat().st_size
            except OSError as error:
                raise StoreCorrupt(str(path), f"listed in the manifest, but {error.strerror}") from error
            if size != file.bytes:
                raise StoreCorrupt(str(path), f"has {size} bytes; the manifest says {file.bytes}")

    def _open_logs(self) -> Segment:
        folder = self._root / "log"
        numbered = sorted((int(m[1]), path) for path in folder.iterdir() if (m := _LOG_NAME.fullmatch(path.name)))
        kept = []
        for number, path in numbered:
            if number <= self._catalogue.manifest.log_sealed:
                path.unlink()
            else:
                kept.append((number, path))
        for number, path in kept:
            log, batches = Log.open(path, last=number == kept[-1][0])
            if log is None:  # the last one, whose creation was interrupted
                return self._create_segment(number)
            segment = Segment(number, log, log.created_ns // _NS_PER_DAY)
            self._frozen += (segment,)
            if batches:
                rows = self._names.columns(pa.Table.from_batches(batches))
                segment.append(rows.take(rows.by_version()))
        if not self._frozen:
            return self._create_segment(self._catalogue.manifest.log_sealed + 1)
        active = self._frozen[-1]
        self._frozen = self._frozen[:-1]
        return active

    def _create_segment(self, number: int) -> Segment:
        now_ns = self._clock.time_ns()
        log = Log.create(self._root / "log" / f"log-{number:06d}.bars", now_ns)
        self._on_step("log_created")
        return Segment(number, log, now_ns // _NS_PER_DAY)

    def _hot_symbols(self, *segments: Segment) -> frozenset[str]:
        names = self._names.symbols.names
        return frozenset(names[code] for segment in segments for code in np.unique(segment.view.symbol).tolist())

    # -- appending --------------------------------------------------------------------------------------------

    def append(self, bars: pa.Table) -> int:
        ticket = _Ticket(self._names.columns(checked_batch(bars)))
        self._waiting.append(ticket)
        # Whoever gets the lock commits for all who wait, with one sync; they find their ticket done.
        with self._commit_lock:
            if not ticket.done:
                self._commit_waiting()
        if ticket.error is not None:
            if isinstance(ticket.error, StoreError):
                raise StoreError(ticket.error.where, ticket.error.reason) from ticket.error
            raise ticket.error
        return ticket.versions

    def _commit_waiting(self) -> None:
        tickets = []
        while self._waiting:
            tickets.append(self._waiting.popleft())
        try:
            self._commit(tickets)
        except BaseException as error:  # noqa: BLE001 - it is raised by every `append` it belongs to
            for ticket in tickets:
                ticket.error = error
        for ticket in tickets:
            ticket.done = True

    def _commit(self, tickets: list[_Ticket]) -> None:
        self._check_open()
        parts = [ticket.rows for ticket in tickets]
        batch = Columns.concat(parts)
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self._make_room()
        versions, rows = self._new_versions(batch)
        if len(versions):
            self._active.reserve(len(versions))
            self._active.log.append(self._names.table(versions).to_batches()[0])
            self._on_step("frame_synced")
            self._active.append(versions)
            self._note_symbols(versions)
        for ticket, count in zip(tickets, np.bincount(owner[rows], minlength=len(tickets)).tolist(), strict=True):
            ticket.versions = count

    def _new_versions(self, batch: Columns) -> tuple[Columns, I64]:
        """Those rows of a batch that say something new, in the order `by_version`; and their positions in the batch."""
        order = batch.by_version()
        rows = batch.take(order)
        state = self._state()
        last, known = self._last_versions(state, rows)
        same_as_last = known & rows.same_values(last)
        late = known & (rows.as_of <= last.as_of)
        late &= ~(same_as_last & (rows.first_of_key() | (rows.as_of == last.as_of)))
        repeated = known & same_as_last & (rows.as_of == last.as_of)
        if late.any():
            repeated |= self._in_force_already(state, rows, late)
        if repeated.any():
            keep = np.flatnonzero(~repeated)
            order, rows, last = order[keep], rows.take(keep), last.take(keep)
            known, same_as_last = known[keep], same_as_last[keep]
        # Within a key, rows follow one another by as_of, and the last version always has the values of the row
        # before: it either is that row or was equal to it.
        changed = ~same_as_last
        again = np.flatnonzero(~rows.first_of_key())
        changed[again] = ~rows.take(again).same_values(rows.take(again - 1))
        new = np.flatnonzero(changed)
        versions = rows.take(new)
        _order_as_of(versions, last.take(new), known[new])
        return versions, order[new]

    def _state(self) -> _State:
        with self._state_lock:
            self._check_open()
            return self._catalogue, (*self._frozen, self._active)

    def _last_versions(self, state: _State, rows: Columns) -> tuple[Columns, Mask]:
        """For each row (ordered `by_version`) the last version of its key, and whether there is one."""
        n = len(rows)
        last = Columns(np.zeros((4, n), np.int64), np.zeros((6, n)), np.zeros(n, np.uint8))
        known = np.zeros(n, np.bool_)
        catalogue, segments = state
        for segment in reversed(segments):
            missing = np.flatnonzero(~known)
            found = segment.find(_these(rows, missing))
            hit = np.flatnonzero(found >= 0)
            if len(hit):
                last.put(missing[hit], segment.take(found[hit]))
                known[missing[hit]] = True
        missing = np.flatnonzero(~known)
        if len(missing):
            asked = _these(rows, missing)
            found_rows, key_of = self._sealed_versions(catalogue, asked)
            if len(found_rows):
                newest = np.flatnonzero(np.append(key_of[1:] != key_of[:-1], True))
                of_key = np.cumsum(asked.first_of_key()) - 1
                at = np.full(int(of_key[-1]) + 1, -1, np.int64)
                at[of_key[key_of[newest]]] = newest
                hit = at[of_key] >= 0
                last.put(missing[hit], found_rows.take(at[of_key][hit]))
                known[missing[hit]] = True
        return last, known

    def _sealed_versions(self, catalogue: Catalogue, rows: Columns) -> tuple[Columns, I64]:
        """All sealed versions of the keys of `rows` (ordered `by_version`), by key and as_of.

        With each comes the position of the first of `rows` that has its key.
        """
        symbols = self._names.symbols.names
        parts: list[tuple[Columns, I64]] = []
        for code in np.unique(rows.interval).tolist():
            at = np.flatnonzero(rows.interval == code)
            ts = rows.ts[at]
            files = catalogue.overlapping(INTERVALS[code].name, int(ts.min()), int(ts.max()))
            if not files:
                continue
            index = KeyIndex(len(rows))
            index.put(rows, np.flatnonzero(rows.first_of_key()))
            for file in files:
                inside = np.flatnonzero((ts >= file.ts_min_ns) & (ts <= file.ts_max_ns))
                asked = {symbols[i] for i in np.unique(rows.symbol[at[inside]]).tolist()} & catalogue.symbols
                if not asked:
                    continue
                bounds = int(ts[inside].min()), int(ts[inside].max())
                for group in self._sealed.groups(file, sorted(asked), *bounds):
                    position = index.find(rows, group)
                    hit = np.flatnonzero(position >= 0)
                    parts.append((group.take(hit), position[hit]))
        found = Columns.concat([part for part, _ in parts])
        position = np.concatenate([np.empty(0, np.int64), *(position for _, position in parts)])
        order = np.lexsort((found.as_of, position))
        return found.take(order), position[order]

    def _in_force_already(self, state: _State, rows: Columns, late: Mask) -> Mask:
        """Which of the late rows equal the version that was in force at their own as_of. Rare, so row by row."""
        answer = np.zeros(len(rows), np.bool_)
        asked = rows.take(late)
        catalogue, segments = state
        sealed, key_of = self._sealed_versions(catalogue, asked)
        for position, row in enumerate(np.flatnonzero(late).tolist()):
            one = asked.take(slice(position, position + 1))
            first = np.flatnonzero((asked.series == one.series) & (asked.ts == one.ts))[0]
            group, ts = int(one.group[0]), int(one.ts[0])
            hot = [segment.select(group, ts, ts + 1) for segment in segments]
            hot = [part.take(part.series == one.series) for part in hot]
            versions = Columns.concat([sealed.take(key_of == first), *hot])
            before = np.flatnonzero(versions.as_of <= one.as_of)
            if len(before):
                in_force = before[np.argmax(versions.as_of[before])]
                answer[row] = versions.take([in_force]).same_values(one)[0]
        return answer

    def _note_symbols(self, versions: Columns) -> None:
        names, seen = self._names.symbols.names, self._symbols_seen
        if len(seen) < len(names):
            seen = np.append(seen, np.zeros(2 * len(names) - len(seen), np.bool_))
            self._symbols_seen = seen
        new = np.unique(versions.symbol[~seen[versions.symbol]])
        if len(new):
            seen[new] = True
            self._symbols = self._symbols | {names[code] for code in new.tolist()}

    # -- sealing ----------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """Seal everything appended so far, now. Raises StoreError; nothing is lost by that."""
        with self._commit_lock:
            self._check_open()
            if len(self._active):
                self._finish_sealing()
                self._rotate()
            self._finish_sealing()

    def _make_room(self) -> None:
        segment, today = self._active, self._clock.time_ns() // _NS_PER_DAY
        if not len(segment):
            segment.day = today
            return
        full = len(segment) >= self._config.seal_rows or segment.log.size >= self._config.log_bytes_max
        if full or segment.day < today:
            if not full and self._sealing is not None and not self._sealing.done():
                return  # the day can wait for the seal before it; a full memory cannot
            self._finish_sealing()
            self._rotate()

    def _rotate(self) -> None:
        """Begin a new log and seal the old one in the background."""
        segment = self._create_segment(self._active.number + 1)
        with self._state_lock:
            self._frozen += (self._active,)
            self._active = segment
        self._sealing = self._sealer.submit(self._seal_frozen)

    def _finish_sealing(self) -> None:
        """Wait for the seal that runs; try one that failed once more. Raises StoreError."""
        if self._sealing is not None and self._sealing.done() and self._sealing.exception() is not None:
            self._sealing = self._sealer.submit(self._seal_frozen)
        if self._sealing is not None:
            try:
                self._sealing.result()
            except (OSError, pa.ArrowException) as error:
                raise StoreError(str(self._root / FOLDER), f"cannot seal: {error}") from error

    def _seal_frozen(self) -> None:
        while self._frozen:
            segment = self._frozen[0]
            rows = segment.view
            try:
                self._seal_segment(segment, rows)
            except (OSError, pa.ArrowException):
                _logger.exception("%s: sealing %d rows failed; they stay in the log", self._root, len(rows))
                raise

    def _seal_segment(self, segment: Segment, rows: Columns) -> None:
        old = self._catalogue.manifest
        files: tuple[SealedFile, ...] = ()
        if len(rows):
            files = write_sealed(self._root, segment.number, rows, self._names, self._config, self._on_step)
        manifest = Manifest(
            log_sealed=segment.number,
            symbols=tuple(sorted(self._catalogue.symbols | self._hot_symbols(segment))),
            files=(*old.files, *files),
        )
        save_manifest(self._root / "manifest.json", manifest, before_rename=lambda: self._on_step("manifest_written"))
        self._on_step("manifest_renamed")
        catalogue = Catalogue(manifest)
        with self._state_lock:
            self._catalogue = catalogue
            self._frozen = self._frozen[1:]
        segment.log.delete()
        self._on_step("log_deleted")

    # -- reading ----------------------------------------------------------------------------------------------

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
        catalogue, segments = self._state()
        group = self._names.group(symbol, interval.name, side)
        if group is None or start_ns >= end_ns:
            return self._names.table(Columns.empty())
        parts = [segment.select(group, start_ns, end_ns) for segment in segments]
        if as_of_ns is not None:
            parts = [part.take(part.as_of <= as_of_ns) for part in parts]
        files = [
            file
            for file in catalogue.overlapping(interval.name, start_ns, end_ns - 1)
            if file.symbol_min <= symbol <= file.symbol_max and (as_of_ns is None or file.as_of_min_ns <= as_of_ns)
        ]
        files.sort(key=lambda f: f.ts_max_ns if newest_first else -f.ts_min_ns)
        while files:
            if limit is not None and _bars_beyond(parts, files[-1], newest_first=newest_first) >= limit:
                break
            for rows in self._sealed.groups(files.pop(), (symbol,), start_ns, end_ns - 1):
                found = select(rows, group, start_ns, end_ns)
                parts.append(found if as_of_ns is None else found.take(found.as_of <= as_of_ns))
        chosen = self._choose(Columns.concat(parts))
        if newest_first:
            chosen = chosen.take(slice(None, None, -1))
        return self._names.table(chosen.take(slice(0, limit)))

    def _choose(self, rows: Columns) -> Columns:
        """The version with the latest as_of of each ts, by ts; on a tie the provider whose name comes first."""
        ranks = self._names.providers.ranks()
        rows = rows.take(np.lexsort((-ranks[rows.provider], rows.as_of, rows.ts)))
        last = np.ones(len(rows), np.bool_)
        last[:-1] = rows.ts[1:] != rows.ts[:-1]
        return rows.take(last)

    def symbols(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(sorted(self._symbols))

    # -- closing ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        with self._commit_lock:
            if self._closed:
                return
            self._sealer.shutdown(wait=True)
            with self._state_lock:
                self._closed = True
            self._active.log.close()
            self._release()

    def _release(self) -> None:
        for segment in self._frozen:
            segment.log.close()
        os.close(self._lock_fd)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(str(self._root), "the store is closed")


def _take_directory(data_dir: Path) -> int:
    """Make the directory ours; the descriptor that holds the lock. Raises StoreLocked, StoreError."""
    if data_dir.exists() and not data_dir.is_dir():
        raise StoreError(str(data_dir), "is not a directory")
    try:
        make_folder(data_dir / "log")
        make_folder(data_dir / FOLDER)
        fd = os.open(data_dir / "marketd.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(str(data_dir), f"cannot be used as data directory: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise StoreLocked(str(data_dir), f"held by process {owner}") from error
        raise StoreError(str(data_dir), f"cannot be locked: {error.strerror}") from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _these(rows: Columns, at: I64) -> Columns:
    return rows if len(at) == len(rows) else rows.take(at)


def _bars_beyond(parts: list[Columns], file: SealedFile, *, newest_first: bool) -> int:
    """How many bars were found that neither `file` nor those after it can add to or change."""
    ts = np.concatenate([part.ts for part in parts])
    return len(np.unique(ts[ts > file.ts_max_ns] if newest_first else ts[ts < file.ts_min_ns]))


def _order_as_of(versions: Columns, last: Columns, known: Mask) -> None:
    """Make as_of strictly increasing within each key, and later than the last version known before."""
    first = versions.first_of_key()
    as_of = versions.as_of
    floor = np.where(first, last.as_of, np.append(0, as_of[:-1]))
    broken = (as_of <= floor) & (known | ~first)
    if not broken.any():
        return
    series, ts = versions.series, versions.ts
    for row in np.flatnonzero(broken).tolist():
        as_of[row] = max(as_of[row], floor[row] + 1)
        after = row + 1
        while after < len(as_of) and series[after] == series[row] and ts[after] == ts[row]:
            if as_of[after] > as_of[after - 1]:
                break
            as_of[after] = as_of[after - 1] + 1
            after += 1
