"""The embedded store: a data directory, one owner, no server.

An append goes to the log and into memory (`log`, `hot`); when enough has come together, or a UTC day is over,
the rows of the log are written as sorted Parquet (`sealed`), the manifest says so, and the log goes. Later these
files are merged into longer ones, the last versions apart from those before (`compact`, in a process of its own). A
read merges what it finds in all of them and chooses (`choose`). Why it is built so: ``docs/decisions``, 003 and 007;
the files: ``docs/store-layout.md``.

It refuses a second owner, and goes on refusing appends while it cannot seal, rather than growing without bound.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import InvalidInput, StoreCorrupt, StoreError, StoreLocked
from marketd.model import BAR_SCHEMA, INTERVALS, Interval, Side
from marketd.store.batch import checked_batch, checked_columns, checked_range, presence_slots
from marketd.store.contract import Presence, StoreStats
from marketd.store.embedded.background import Compactor, Merge, Worker
from marketd.store.embedded.choose import in_force, in_force_at
from marketd.store.embedded.columns import I64, INTERVAL_NAMES, Columns, Mask, Names, distinct
from marketd.store.embedded.compact import outdated, plan
from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.coverage import BLOCK_SLOTS, Bits, Grid
from marketd.store.embedded.durable import make_folder
from marketd.store.embedded.hot import KeyIndex, Segment
from marketd.store.embedded.log import Log
from marketd.store.embedded.manifest import Catalogue, Manifest, SealedFile, load_manifest, save_manifest
from marketd.store.embedded.sealed import FOLDERS, SealedReader, write_parts
from marketd.store.embedded.verify import stats_of

__all__ = ["EmbeddedStore"]

_logger = logging.getLogger(__name__)

_NS_PER_DAY = 86_400 * 10**9
_LOG_NAME = re.compile(r"log-(\d{6,})\.bars")
_SEALED_NAME = re.compile(r"(day|month|year)-(part-\d{6,}|\d{6,}-\d{3,})\.(parquet|coverage)(\.tmp)?")
_BATCH_ROWS_MAX = 4_194_304
_SYMBOLS_READ_SINGLY = 64
_VERSIONS_AT_ONCE = 131_072
_SCAN_THREADS = 2
_IDLE_NS = 250_000_000


class _State(NamedTuple):
    """What is sealed and what is in memory, at one moment: together every version once."""

    catalogue: Catalogue
    segments: tuple[Segment, ...]


class _Retired(NamedTuple):
    """Files that the catalogue of this generation was the last to list, and when that ended."""

    generation: int
    files: tuple[SealedFile, ...]
    monotonic_ns: int


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

    data_dir: created if missing; holds `marketd.lock`, `manifest.json`, `log/`, `bars/`, `history/`, `bytime/`.
    on_step: called with the name of each step on disk, from the thread that takes it; for crash drills.
    merge: what does the work of a compaction; None for a process of its own.
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
        merge: Merge | None = None,
    ) -> None:
        self._root = data_dir
        self._config = config
        self._clock = clock
        self._on_step = on_step
        self._names = Names()
        self._sealed = SealedReader(data_dir, self._names, config)
        self._commit_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._manifest_lock = threading.Lock()
        self._compaction_lock = threading.Lock()
        self._worker = Worker()
        self._merge: Merge = self._worker if merge is None else merge
        self._compactor: Compactor | None = None
        self._retired: list[_Retired] = []
        self._readers: Counter[int] = Counter()
        self._waiting: deque[_Ticket] = deque()
        self._frozen: tuple[Segment, ...] = ()
        self._seals: dict[int, Future[None]] = {}
        self._appended_ns = clock.monotonic_ns()
        self._closed = False
        self._lock_fd = _take_directory(data_dir)
        try:
            self._catalogue = Catalogue(load_manifest(data_dir / "manifest.json"))
            self._check_sealed_files()
            self._remove_unlisted()
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
            self._begin_sealing(self._frozen[-1].number)
        if config.compact_every_s is not None:
            self._compactor = Compactor(self._look_after, config.compact_every_s, str(data_dir))
            self._compactor.start()

    # -- opening ----------------------------------------------------------------------------------------------

    def _check_sealed_files(self) -> None:
        for file in self._catalogue.manifest.files:
            for name, size in ((file.path, file.bytes), (file.coverage, file.coverage_bytes)):
                if not size:
                    continue
                path = self._root / name
                try:
                    found = path.stat().st_size
                except OSError as error:
                    raise StoreCorrupt(str(path), f"listed in the manifest, but {error.strerror}") from error
                if found != size:
                    raise StoreCorrupt(str(path), f"has {found} bytes; the manifest says {size}")

    def _remove_unlisted(self) -> None:
        """Remove what a crash left: files that were not listed yet, and those that were listed no longer."""
        listed = {name for file in self._catalogue.manifest.files for name in (file.path, file.coverage)}
        for kind in set(FOLDERS.values()):
            for folder, _, names in os.walk(self._root / kind, topdown=False):
                for name in names:
                    path = Path(folder) / name
                    if _SEALED_NAME.fullmatch(name) and str(path.relative_to(self._root)) not in listed:
                        path.unlink()
                if folder != str(self._root / kind):
                    with suppress(OSError):  # not empty
                        Path(folder).rmdir()

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
            log, rows, parts = Log.open(path, self._names, last=number == kept[-1][0])
            if log is None:  # the last one, whose creation was interrupted
                return self._create_segment(number)
            segment = self._segment(number, log, rows)
            self._frozen += (segment,)
            for part in parts:
                segment.append(part)
        if not self._frozen:
            return self._create_segment(self._catalogue.manifest.log_sealed + 1)
        active = self._frozen[-1]
        self._frozen = self._frozen[:-1]
        return active

    def _segment(self, number: int, log: Log, rows: int = 0) -> Segment:
        rows = max(rows, self._config.seal_rows) + 16_384
        return Segment(number, log, log.created_ns // _NS_PER_DAY, rows, self._config.run_rows)

    def _create_segment(self, number: int) -> Segment:
        now_ns = self._clock.time_ns()
        log = Log.create(self._root / "log" / f"log-{number:06d}.bars", now_ns)
        self._on_step("log_created")
        return self._segment(number, log)

    def _hot_symbols(self, *segments: Segment) -> frozenset[str]:
        names = self._names.symbols.names
        return frozenset(names[code] for segment in segments for code in segment.symbols())

    # -- appending --------------------------------------------------------------------------------------------

    def append(self, bars: pa.Table) -> int:
        if bars.num_rows > _BATCH_ROWS_MAX:
            raise InvalidInput("bars", f"{bars.num_rows:,} rows", f"at most {_BATCH_ROWS_MAX:,} at once")
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
        self._make_room()
        self._appended_ns = self._clock.monotonic_ns()
        versions, rows, unknown = self._new_versions(batch)
        if len(versions):
            self._active.reserve(len(versions))
            frame = self._active.log.append(versions, self._names)
            self._on_step("frame_synced")
            self._active.append(versions, frame if unknown else None)
            self._note_symbols(versions)
        if len(tickets) == 1:
            tickets[0].versions = len(rows)
            return
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        for ticket, count in zip(tickets, np.bincount(owner[rows], minlength=len(tickets)).tolist(), strict=True):
            ticket.versions = count

    def _new_versions(self, batch: Columns) -> tuple[Columns, I64, bool]:
        """Those rows of a batch that say something new, in the order `by_version`; and their positions in the batch.

        Last, whether it is known that each is the first version of its key.
        """
        order = batch.by_version()
        rows = batch if order is None else batch.take(order)
        order = np.arange(len(rows)) if order is None else order
        state = self._state()
        known, last = self._last_versions(state, rows)
        first = rows.first_of_key()
        if not known.any() and first.all():
            return rows, order, True
        same_as_last = known & rows.same_values(last)
        late = known & (rows.as_of <= last.as_of)
        late &= ~(same_as_last & (first | (rows.as_of == last.as_of)))
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
        return versions, order[new], False

    def _state(self) -> _State:
        with self._state_lock:
            self._check_open()
            return _State(self._catalogue, (*self._frozen, self._active))

    @contextmanager
    def _reading(self) -> Iterator[_State]:
        """The state, whose files stay until the reader is done."""
        with self._state_lock:
            self._check_open()
            state = _State(self._catalogue, (*self._frozen, self._active))
            self._readers[state.catalogue.generation] += 1
        try:
            yield state
        finally:
            with self._state_lock:
                self._readers[state.catalogue.generation] -= 1
                if not self._readers[state.catalogue.generation]:
                    del self._readers[state.catalogue.generation]

    def _last_versions(self, state: _State, rows: Columns) -> tuple[Mask, Columns]:
        """For each row (ordered `by_version`) whether its key has a version, and the last one."""
        n = len(rows)
        known = np.zeros(n, np.bool_)
        last: Columns | None = None
        missing = np.arange(n)
        for segment in reversed(state.segments):
            if len(segment) and len(missing):
                for at, found in segment.last_versions(_these(rows, missing)):
                    last = _put(last, n, missing[at], found)
                    known[missing[at]] = True
                missing = np.flatnonzero(~known)
        if len(missing):
            asked = _these(rows, missing)
            versions, key_of = self._sealed_versions(state.catalogue, asked, superseded=False)
            if len(versions):
                newest = np.flatnonzero(np.append(key_of[1:] != key_of[:-1], True))
                of_key = np.cumsum(asked.first_of_key()) - 1
                at = np.full(int(of_key[-1]) + 1, -1, np.int64)
                at[of_key[key_of[newest]]] = newest
                hit = np.flatnonzero(at[of_key] >= 0)
                last = _put(last, n, missing[hit], versions.take(at[of_key][hit]))
                known[missing[hit]] = True
        return known, rows if last is None else last

    def _sealed_versions(self, catalogue: Catalogue, rows: Columns, *, superseded: bool) -> tuple[Columns, I64]:
        """The sealed versions of the keys of `rows` (ordered `by_version`), by key and as_of.

        With each comes the position of the first of `rows` that has its key. superseded: all versions; without it, the
        last one is among them.
        """
        index: KeyIndex | None = None
        parts: list[tuple[Columns, I64]] = []
        for code in distinct(rows.interval).tolist():
            files = catalogue.overlapping(INTERVAL_NAMES[code], int(rows.ts.min()), int(rows.ts.max()))
            if not files:
                continue
            at = np.flatnonzero(rows.interval == code)
            ts = rows.ts[at]
            for file in files:
                if file.kind == "superseded" and not superseded:
                    continue
                inside = at[(ts >= file.ts_min_ns) & (ts <= file.ts_max_ns)]
                asked = rows.take(inside)
                asked = asked.take(np.flatnonzero(self._sealed.coverage(file).has(asked)))
                if not len(asked):
                    continue
                if index is None:
                    index = KeyIndex(len(rows))
                    index.put(rows, np.flatnonzero(rows.first_of_key()))
                for found in self._rows_near(file, asked):
                    position = index.find(rows, found)
                    hit = np.flatnonzero(position >= 0)
                    parts.append((found.take(hit), position[hit]))
        versions = Columns.concat([part for part, _ in parts])
        position = np.concatenate([np.empty(0, np.int64), *(position for _, position in parts)])
        order = np.lexsort((versions.as_of, position))
        return versions.take(order), position[order]

    def _rows_near(self, file: SealedFile, asked: Columns) -> Iterable[Columns]:
        """Rows of a file, among them those that have a symbol, interval, side and ts of `asked`."""
        groups, least, most = distinct(asked.group), int(asked.ts.min()), int(asked.ts.max())
        if len(groups) > _SYMBOLS_READ_SINGLY:
            return self._sealed.groups(file, groups, least, most)
        return [self._sealed.group(file, group, least, most + 1) for group in groups.tolist()]

    def _in_force_already(self, state: _State, rows: Columns, late: Mask) -> Mask:
        """Which of the late rows equal the version that was in force at their own as_of."""
        at = np.flatnonzero(late)
        asked = rows.take(at)
        sealed, sealed_key = self._sealed_versions(state.catalogue, asked, superseded=True)
        index = KeyIndex(len(asked))
        firsts = np.flatnonzero(asked.first_of_key())
        index.put(asked, firsts)
        found, keys = [sealed], [sealed_key]
        for segment in state.segments:
            for near in segment.near(asked):
                position = index.find(asked, near)
                hit = np.flatnonzero(position >= 0)
                found.append(near.take(hit))
                keys.append(position[hit])
        versions = Columns.concat(found)
        key_of_version = np.concatenate(keys)
        key_of_row = firsts[np.cumsum(asked.first_of_key()) - 1]
        # versions and rows in one line by key and as_of, versions first: the version before a row was in force
        key = np.append(key_of_version, key_of_row)
        is_row = np.append(np.zeros(len(versions), np.bool_), np.ones(len(asked), np.bool_))
        line = np.lexsort((is_row, np.append(versions.as_of, asked.as_of), key))
        before = np.maximum.accumulate(np.where(is_row[line], -1, np.arange(len(line))))
        row = np.flatnonzero(is_row[line])
        has = row[(before[row] >= 0) & (key[line[before[row]]] == key[line[row]])]
        version_of, row_of = line[before[has]], line[has] - len(versions)
        same = versions.take(version_of).same_values(asked.take(row_of))
        answer = np.zeros(len(rows), np.bool_)
        answer[at[row_of[same]]] = True
        return answer

    def _note_symbols(self, versions: Columns) -> None:
        names, seen = self._names.symbols.names, self._symbols_seen
        if len(seen) < len(names):
            seen = np.append(seen, np.zeros(2 * len(names) - len(seen), np.bool_))
            self._symbols_seen = seen
        new = distinct(versions.symbol[~seen[versions.symbol]])
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
        idle_ns = self._clock.monotonic_ns() - self._appended_ns
        if not len(segment):
            segment.day = today
        elif len(segment) >= self._config.seal_rows or segment.log.size >= self._config.log_bytes_max:
            self._finish_sealing()
            self._rotate()
        elif segment.day < today or (len(segment) >= self._config.seal_rows_idle and idle_ns >= _IDLE_NS):
            if self._frozen:  # it can wait for the seals before it, which are begun again if they failed
                self._begin_sealing(self._frozen[-1].number)
            else:
                self._rotate()

    def _rotate(self) -> None:
        """Begin a new log and seal the old one in the background."""
        segment = self._create_segment(self._active.number + 1)
        with self._state_lock:
            self._frozen += (self._active,)
            self._active = segment
        self._begin_sealing(segment.number - 1)

    def _begin_sealing(self, number: int) -> Future[None]:
        """Seal the segments up to this one in the background, unless that is under way."""
        self._seals = {n: seal for n, seal in self._seals.items() if not seal.done()}
        if number not in self._seals:
            self._seals[number] = self._sealer.submit(self._seal_up_to, number)
        return self._seals[number]

    def _finish_sealing(self) -> None:
        """Wait until what was begun to be sealed is; what failed is tried once more. Raises StoreError."""
        while frozen := self._frozen:
            try:
                self._begin_sealing(frozen[-1].number).result()
            except (OSError, pa.ArrowException) as error:
                raise StoreError(str(self._root / "bars"), f"cannot seal: {error}") from error

    def _seal_up_to(self, number: int) -> None:
        while self._frozen and self._frozen[0].number <= number:
            segment = self._frozen[0]
            try:
                self._seal_segment(segment, segment.everything())
            except (OSError, pa.ArrowException, StoreCorrupt):
                _logger.exception("%s: sealing %d rows failed; they stay in the log", self._root, len(segment))
                raise

    def _seal_segment(self, segment: Segment, rows: Columns) -> None:
        files: tuple[SealedFile, ...] = ()
        if len(rows):
            files = write_parts(self._root, segment.number, segment.day, rows, self._names, self._config, self._on_step)
        with self._manifest_lock:
            old = self._catalogue.manifest
            manifest = msgspec.structs.replace(
                old,
                log_sealed=segment.number,
                symbols=tuple(sorted(self._catalogue.symbols | self._hot_symbols(segment))),
                files=(*old.files, *files),
            )
            self._save(manifest, "manifest")
            with self._state_lock:
                self._catalogue = Catalogue(manifest, self._catalogue.generation + 1)
                self._frozen = self._frozen[1:]
        segment.log.delete()
        self._on_step("log_deleted")

    def _save(self, manifest: Manifest, step: str) -> None:
        path = self._root / "manifest.json"
        save_manifest(path, manifest, before_rename=lambda: self._on_step(f"{step}_written"))
        self._on_step(f"{step}_renamed")

    # -- compaction -------------------------------------------------------------------------------------------

    def compact(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> int:
        """Merge everything that is sealed, now; how many jobs that took. Raises StoreError; nothing is lost by that.

        progress: called with the rows done and to do, of the job that runs.
        """
        jobs = 0
        while self._compact_once(progress, everything=True):
            jobs += 1
        self._remove_retired(at_once=self._config.retire_after_s == 0)
        return jobs

    def _look_after(self) -> None:
        """What the background thread does every so often."""
        with self._commit_lock:
            self._check_open()
            self._make_room()
        self._compact_what_is_due()

    def _compact_what_is_due(self) -> None:
        while self._compact_once(lambda _done, _all: None, everything=False):
            self._remove_retired(at_once=False)
        self._remove_retired(at_once=False)

    def _compact_once(self, progress: Callable[[int, int], None], *, everything: bool) -> bool:
        with self._compaction_lock:
            self._check_open()
            today = self._clock.time_ns() // _NS_PER_DAY
            manifest = self._catalogue.manifest
            old_copies = outdated(manifest, today, self._config)
            if old_copies:
                self._list_instead(old_copies, (), manifest.jobs)
            job = plan(self._catalogue.manifest, today, self._config, everything=everything)
            if job is None:
                return False
            try:
                files = self._merge(self._root, job, self._config, progress=lambda rows: progress(rows, job.rows))
                self._on_step("merged")
                self._list_instead(job.inputs, files, job.number)
            except (OSError, pa.ArrowException) as error:
                raise StoreError(str(self._root), f"cannot compact: {error}") from error
            _logger.info("%s: merged %d rows of %s from %d files", self._root, job.rows, job.interval, len(job.inputs))
            return True

    def _list_instead(self, inputs: Sequence[SealedFile], files: Sequence[SealedFile], job: int) -> None:
        gone = {file.path for file in inputs}
        with self._manifest_lock:
            old = self._catalogue
            kept = tuple(file for file in old.manifest.files if file.path not in gone)
            manifest = msgspec.structs.replace(old.manifest, jobs=job, files=(*kept, *files))
            self._save(manifest, "compaction")
            with self._state_lock:
                self._catalogue = Catalogue(manifest, old.generation + 1)
        self._retired.append(_Retired(old.generation, tuple(inputs), self._clock.monotonic_ns()))

    def _remove_retired(self, *, at_once: bool) -> None:
        """Remove files that are listed no longer, once no reader here has them and others had their time."""
        now_ns = self._clock.monotonic_ns()
        with self._compaction_lock:
            while self._retired:
                oldest = self._retired[0]
                if not at_once and now_ns - oldest.monotonic_ns < self._config.retire_after_s * 10**9:
                    return
                with self._state_lock:
                    if min(self._readers, default=oldest.generation + 1) <= oldest.generation:
                        return
                for file in oldest.files:
                    (self._root / file.path).unlink(missing_ok=True)
                    (self._root / file.coverage).unlink(missing_ok=True)
                self._on_step("retired_removed")
                del self._retired[0]

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
        prefer: Sequence[str] = (),
        coded: bool = False,
    ) -> pa.Table:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, limit, as_of_ns)
        with self._reading() as state:
            group = self._names.group(symbol, interval.name, side)
            if group is None or start_ns >= end_ns:
                return self._names.table(Columns.empty())
            asked = _Asked(symbol, interval, side, group, start_ns, end_ns, as_of_ns, prefer)
            if limit is None and not newest_first:
                return self._answer(state, asked, BAR_SCHEMA.names, coded=coded)
            rows = self._bars(state, asked, limit, newest_first=newest_first)
        if newest_first:
            rows = rows.take(slice(None, None, -1))
        return self._names.table(rows.take(slice(0, limit)))

    def _answer(self, state: _State, asked: _Asked, columns: Sequence[str], *, coded: bool = False) -> pa.Table:
        """All bars in force, ascending by ts, in one chunk. coded: words may be dictionary-encoded."""
        plain = self._plain(state, asked, columns, coded=coded)
        if plain is None:
            return pa.Table.from_batches([self._names.batch(self._bars(state, asked), columns)])
        table, until_ns = plain
        if until_ns < asked.end_ns:
            rows = self._bars(state, asked._replace(start_ns=until_ns))
            rest = pa.Table.from_batches([self._names.batch(rows, columns)])
            table = pa.concat_tables([table.cast(rest.schema) if coded else table, rest])
        return table.combine_chunks()

    def _plain(
        self, state: _State, asked: _Asked, columns: Sequence[str], *, coded: bool
    ) -> tuple[pa.Table, int] | None:
        """The beginning of the answer straight from sealed files, as far as there is nothing to choose between.

        With it comes from where on one must choose (the end of what was asked for if nowhere); None if from the start.
        """
        until_ns = asked.end_ns
        for segment in state.segments:
            if len(segment) and segment.coverage.has(asked.group >> 7, Names.kind(asked.interval.name, asked.side)):
                first_ns = segment.first_ns(asked.group, asked.start_ns, asked.end_ns)
                until_ns = until_ns if first_ns is None else min(until_ns, first_ns)
        files: list[SealedFile] = []
        for file in sorted(asked.overlapping(state.catalogue), key=lambda f: f.ts_min_ns):
            is_plain = None if file.kind == "superseded" else self._sealed.is_plain(file, asked.group)
            if is_plain is None:
                continue
            later = asked.as_of_ns is not None and file.as_of_max_ns > asked.as_of_ns
            if later or not is_plain or (files and file.ts_min_ns <= files[-1].ts_max_ns):
                until_ns = min(until_ns, file.ts_min_ns)
                break
            files.append(file)
        files = [file for file in files if file.ts_min_ns < until_ns]
        if not files:
            return None
        return self._sealed.plain(files, asked.group, asked.start_ns, until_ns, columns, coded=coded), until_ns

    def _bars(self, state: _State, asked: _Asked, limit: int | None = None, *, newest_first: bool = False) -> Columns:
        """The bars in force, ascending by ts: all, or at least the first `limit` in the order of reading."""
        parts = [
            asked.known(segment.select(asked.group, asked.start_ns, asked.end_ns))
            for segment in state.segments
            if len(segment)
        ]
        files = asked.files(state.catalogue)
        later: list[Columns] = []
        if limit is None:
            for file in asked.overlapping(state.catalogue):
                if file.kind != "superseded":
                    found = self._sealed.group(file, asked.group, asked.start_ns, asked.end_ns)
                    parts.append(asked.known(found))
                    if file.kind == "current" and asked.as_of_ns is not None and len(parts[-1]) < len(found):
                        later.append(found.take(np.flatnonzero(found.as_of > asked.as_of_ns)))
            if later:
                parts += self._versions_before(asked, Columns.concat(later), files)
            return self._choose(parts, asked)
        files.sort(key=lambda f: f.ts_max_ns if newest_first else -f.ts_min_ns)
        while files:
            if self._has_enough(parts, asked, files[-1], limit, newest_first=newest_first):
                break
            parts.append(asked.known(self._sealed.group(files.pop(), asked.group, asked.start_ns, asked.end_ns)))
        return self._choose(parts, asked)

    def _versions_before(self, asked: _Asked, later: Columns, files: list[SealedFile]) -> Iterator[Columns]:
        """What was known at the time asked for of bars whose last version was not."""
        ts = np.sort(later.ts)
        series = int(later.series[0])
        one_provider = bool((later.series == series).all())
        for file in files:
            if file.kind != "superseded" or asked.as_of_ns is None:
                continue
            if one_provider:
                yield self._sealed.known_before(file, asked.group, series, ts, asked.as_of_ns)
            else:
                yield asked.known(self._sealed.group(file, asked.group, asked.start_ns, asked.end_ns))

    def _choose(self, parts: list[Columns], asked: _Asked) -> Columns:
        parts = sorted((part for part in parts if len(part)), key=lambda part: int(part.ts[0]))
        return in_force(Columns.concat(parts), self._names, asked.prefer)

    def _has_enough(
        self, parts: list[Columns], asked: _Asked, file: SealedFile, limit: int, *, newest_first: bool
    ) -> bool:
        """Whether so many bars were found that neither `file` nor those after it can add to or change."""
        beyond = [
            part.take(np.flatnonzero(part.ts > file.ts_max_ns if newest_first else part.ts < file.ts_min_ns))
            for part in parts
        ]
        return sum(map(len, beyond)) >= limit and len(self._choose(beyond, asked)) >= limit

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
        kind = Names.kind(interval.name, side)
        with self._reading() as state:
            codes = np.arange(len(self._names.symbols))
            if symbols is not None:
                known = {self._names.symbols.code(symbol) for symbol in symbols}
                codes = np.array(sorted(code for code in known if code is not None), np.int64)
            parts = []
            if start_ns < end_ns and len(codes):
                parts = [segment.at(kind, ts_ns) for segment in state.segments if len(segment)]
                parts += self._sealed_at(state.catalogue, interval, kind, ts_ns, codes, as_of_ns)
            rows = Columns.concat([part for part in parts if len(part)])
            if as_of_ns is not None:
                rows = rows.take(np.flatnonzero(rows.as_of <= as_of_ns))
            if symbols is not None:
                rows = rows.take(np.flatnonzero(np.isin(rows.symbol, codes)))
            return self._names.table(in_force_at(rows, self._names, prefer))

    def _sealed_at(
        self, catalogue: Catalogue, interval: Interval, kind: int, ts_ns: int, codes: I64, as_of_ns: int | None
    ) -> Iterator[Columns]:
        """The sealed rows of one time; of more symbols than were asked for if that is less work."""
        copies = {(f.span, f.first_day): f for f in catalogue.by_time(interval.name, ts_ns)}
        groups = Names.groups(codes, kind)
        copied = set()
        for file in catalogue.overlapping(interval.name, ts_ns, ts_ns):
            if file.kind == "superseded" and (as_of_ns is None or file.as_of_min_ns > as_of_ns):
                continue
            if len(groups) <= _SYMBOLS_READ_SINGLY:
                for group in groups.tolist():
                    yield self._sealed.group(file, group, ts_ns, ts_ns + 1)
            elif file.kind == "current" and (file.span, file.first_day) in copies:
                copied.add((file.span, file.first_day))
            else:
                for rows in self._sealed.groups(file, groups, ts_ns, ts_ns):
                    yield rows.take(np.flatnonzero((rows.ts == ts_ns) & (rows.kind == kind)))
        for place in copied:
            yield self._sealed.at(copies[place], kind, ts_ns)

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
        start_ns, end_ns = checked_range(start_ns, end_ns, side, None, as_of_ns)
        wanted = checked_columns(columns)
        names = self.symbols() if symbols is None else sorted(set(symbols))

        def bars(symbol: str) -> pa.RecordBatch | None:
            with self._reading() as state:
                group = self._names.group(symbol, interval.name, side)
                if group is None or start_ns >= end_ns:
                    return None
                asked = _Asked(symbol, interval, side, group, start_ns, end_ns, as_of_ns, prefer)
                return next(iter(self._answer(state, asked, wanted).to_batches()), None)

        # decoding takes no interpreter, so the next symbols are read while the caller works on this one
        with ThreadPoolExecutor(_SCAN_THREADS, "marketd-scan") as pool:
            ahead: deque[Future[pa.RecordBatch | None]] = deque()
            try:
                for symbol in names:
                    ahead.append(pool.submit(bars, symbol))
                    if len(ahead) > _SCAN_THREADS:
                        batch = ahead.popleft().result()
                        if batch is not None:
                            yield batch
                while ahead:
                    batch = ahead.popleft().result()
                    if batch is not None:
                        yield batch
            finally:
                for future in ahead:
                    future.cancel()

    def versions(self, symbol: str, interval: Interval, ts_ns: int, *, side: Side = "trade") -> pa.Table:
        return pa.Table.from_batches(self.read_versions(symbol, interval, ts_ns, ts_ns + 1, side=side), BAR_SCHEMA)

    def read_versions(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, side: Side = "trade"
    ) -> Iterator[pa.RecordBatch]:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, None, None)
        with self._reading() as state:
            group = self._names.group(symbol, interval.name, side)
            if group is None or start_ns >= end_ns:
                return
            asked = _Asked(symbol, interval, side, group, start_ns, end_ns, None, ())
            bounds = self._version_bounds(state, asked)
        for begin_ns, until_ns in pairwise(bounds):
            with self._reading() as state:
                rows = self._versions(state, asked._replace(start_ns=begin_ns, end_ns=until_ns))
            if len(rows):
                yield self._names.batch(rows, BAR_SCHEMA.names)

    def _versions(self, state: _State, asked: _Asked) -> Columns:
        """Every version, ascending by (ts, as_of, provider)."""
        parts = [segment.select(asked.group, asked.start_ns, asked.end_ns) for segment in state.segments]
        files = asked.overlapping(state.catalogue)
        parts += [self._sealed.group(file, asked.group, asked.start_ns, asked.end_ns) for file in files]
        rows = Columns.concat(parts)
        return rows.take(np.lexsort((self._names.providers.ranks()[rows.provider], rows.as_of, rows.ts)))

    def _version_bounds(self, state: _State, asked: _Asked) -> list[int]:
        """Times that cut a range into pieces of a bounded number of versions, as coverage counts them; its ends too."""
        length, offset = BLOCK_SLOTS * asked.interval.ns, asked.interval.offset_ns
        first, last = (asked.start_ns - offset) // length, (asked.end_ns - 1 - offset) // length
        if first == last:
            return [asked.start_ns, asked.end_ns]
        blocks, counts = [], []
        for segment in state.segments:
            ts = segment.select(asked.group, asked.start_ns, asked.end_ns).ts
            blocks.append((ts - offset) // length)
            counts.append(np.ones(len(ts), np.int64))
        for file in asked.overlapping(state.catalogue):
            held = self._sealed.coverage(file)
            at = np.flatnonzero((held.groups == asked.group) & (held.blocks >= first) & (held.blocks <= last))
            blocks.append(held.blocks[at])
            counts.append(held.rows[at])
        places, of_count = np.unique(np.concatenate(blocks), return_inverse=True)
        rows = np.zeros(len(places), np.int64)
        np.add.at(rows, of_count, np.concatenate(counts))
        piece = (np.cumsum(rows) - rows) // _VERSIONS_AT_ONCE
        cuts = places[1:][piece[1:] != piece[:-1]] * length + offset
        return [asked.start_ns, *cuts.tolist(), asked.end_ns]

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
        with self._reading() as state:
            asked = tuple(sorted(self._symbols)) if symbols is None else tuple(symbols)
            first_ns, slots = presence_slots(interval, start_ns, end_ns, len(asked))
            bits = np.zeros((len(asked), -(-slots // 8)), np.uint8)
            if bits.size:
                lines = dict.fromkeys(asked)
                bits = self._presence(state, interval, side, tuple(lines), first_ns, slots)
                if len(lines) < len(asked):  # one was asked for twice
                    place = {symbol: line for line, symbol in enumerate(lines)}
                    bits = bits[[place[symbol] for symbol in asked]]
        return Presence(symbols=asked, interval=interval, start_ns=first_ns, slots=slots, bits=bits)

    def _presence(
        self, state: _State, interval: Interval, side: Side, symbols: Sequence[str], first_ns: int, slots: int
    ) -> Bits:
        codes = [self._names.symbols.code(symbol) for symbol in symbols]
        codes_or_none = np.array([-1 if code is None else code for code in codes], np.int64)
        end_ns = first_ns + slots * interval.ns
        grid = Grid(codes_or_none, Names.kind(interval.name, side), INTERVALS.index(interval), first_ns, slots)
        for segment in state.segments:
            grid.add_hot(segment.coverage)
        for file in state.catalogue.overlapping(interval.name, first_ns, end_ns - 1):
            if file.kind != "superseded":
                grid.add_sealed(self._sealed.coverage(file))
        bits = grid.bits()
        for line, doubtful in grid.doubtful():
            group = self._names.group(symbols[line], interval.name, side)
            assert group is not None  # it has rows
            low = first_ns + int(doubtful[0]) * interval.ns
            high = first_ns + int(doubtful[-1] + 1) * interval.ns
            asked = _Asked(symbols[line], interval, side, group, low, high, None, ())
            present = (self._bars(state, asked).ts - first_ns) // interval.ns
            mask = np.unpackbits(bits[line], count=slots, bitorder="little")
            mask[doubtful] = np.isin(doubtful, present)
            bits[line] = np.packbits(mask, bitorder="little")
        return bits

    def symbols(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(sorted(self._symbols))

    def stats(self) -> StoreStats:
        with self._reading() as state:
            hot = state.segments
            size = sum(segment.log.size for segment in hot)
            return stats_of(state.catalogue.manifest, len(self._symbols), sum(map(len, hot)), size)

    # -- closing ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._compactor is not None:
            self._compactor.stop(self._worker.stop)
        self._worker.stop()
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
        for folder in sorted(set(FOLDERS.values())):
            make_folder(data_dir / folder)
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


def _put(target: Columns | None, count: int, at: I64, rows: Columns) -> Columns:
    """`rows` at these places of `target`, which is made when it is needed first."""
    if target is None:
        target = Columns(tuple(np.zeros((4, count), np.int64)), tuple(np.zeros((6, count))), np.zeros(count, np.uint8))
    target.put(at, rows)
    return target


class _Asked(NamedTuple):
    """One symbol's bars, as a reader asks for them."""

    symbol: str
    interval: Interval
    side: Side
    group: int
    start_ns: int
    end_ns: int
    as_of_ns: int | None
    prefer: Sequence[str]

    def known(self, rows: Columns) -> Columns:
        """Those of `rows` that were known at the time asked for."""
        if self.as_of_ns is None:
            return rows
        known = rows.as_of <= self.as_of_ns
        return rows if known.all() else rows.take(np.flatnonzero(known))

    def overlapping(self, catalogue: Catalogue) -> list[SealedFile]:
        """The files that can hold a version of these bars."""
        files = catalogue.overlapping(self.interval.name, self.start_ns, self.end_ns - 1)
        return [file for file in files if file.symbol_min <= self.symbol <= file.symbol_max]

    def files(self, catalogue: Catalogue) -> list[SealedFile]:
        """The files that can add to the answer."""
        if self.as_of_ns is None:
            return [file for file in self.overlapping(catalogue) if file.kind != "superseded"]
        return [file for file in self.overlapping(catalogue) if file.as_of_min_ns <= self.as_of_ns]


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
