"""Merging sealed files: which ones (`plan`), and how (`merge`). Run as a program, it does one job for the owner.

A job takes the parts of one day, month or year, and what was merged before of it, and writes the last version of
each key to files of their own (`current`), every version before to others (`superseded`). It only reads files
that are listed and only writes files that are not: the owner lists them when the job is done.

As a program (``python -m marketd.store.embedded.compact``) it reads one line of JSON, a `Request`, and answers
with lines of JSON, `Report`s, the last of which has the files. It ends when its standard input does, so that it
does not outlive the owner, and never runs twice on one directory at once.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marketd.model import Interval
from marketd.store.embedded.columns import I64, Columns, Names
from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.manifest import FileKind, Manifest, SealedFile, Span
from marketd.store.embedded.sealed import SealedReader, SealedWriter, first_days, folder_of, span_at, span_end

__all__ = ["Job", "Report", "Request", "merge", "outdated", "plan"]

_SPANS: tuple[Span, ...] = ("day", "month", "year")
_ROWS_AT_ONCE = 262_144
_BY_TIME_ROWS_AT_ONCE = 1_048_576
_BY_TIME_ROWS_MAX = 33_554_432
_SUPERSEDED_FILES_MAX = 8
_PARTS_MAX = 64
_NS_PER_DAY = 86_400 * 10**9


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Merge `inputs` into files of the `span` that begins on `first_day`. by_time: also write the copy by time."""

    number: int
    interval: str
    span: Span
    first_day: int
    inputs: tuple[SealedFile, ...]
    by_time: bool

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.inputs if file.kind != "by_time")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    root: str
    job: Job
    config: EmbeddedStoreConfig


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """rows: read so far. files: what was written, when it is done."""

    rows: int = 0
    files: tuple[SealedFile, ...] | None = None


# -- which files --------------------------------------------------------------------------------------------------


def plan(manifest: Manifest, today: int, config: EmbeddedStoreConfig, *, everything: bool = False) -> Job | None:
    """The smallest job that is worth doing, None if there is none. today: in days since 1970.

    everything: whatever is not merged yet is worth it.
    """
    jobs = []
    for (interval, span, first_day), files in _by_target(manifest, today, config).items():
        job = _job_of(manifest, interval, span, first_day, files, today, config, everything=everything)
        if job is not None:
            jobs.append(job)
    return min(jobs, key=lambda job: (job.rows, job.first_day, job.interval), default=None)


def outdated(manifest: Manifest, today: int, config: EmbeddedStoreConfig) -> tuple[SealedFile, ...]:
    """Copies by time that are not kept any longer."""
    return tuple(
        file
        for file in manifest.files
        if file.kind == "by_time" and span_end(file.first_day, file.span) + config.by_time_days <= today
    )


def _by_target(
    manifest: Manifest, today: int, config: EmbeddedStoreConfig
) -> dict[tuple[str, Span, int], list[SealedFile]]:
    """Files by the interval, span and first day of the file that should hold their rows today.

    A span that was longer once (the clock was set back since) stays so, with all that lies in it.
    """
    spans: dict[str, int] = {}
    for file in manifest.files:
        wanted = span_at(Interval.parse(file.interval), file.first_day, today, config.day_files)
        spans[file.path] = max(_SPANS.index(wanted), _SPANS.index(file.span))
    for level in (1, 2):
        long = {
            (file.interval, int(first_days(file.first_day, _SPANS[level])))
            for file in manifest.files
            if spans[file.path] >= level
        }
        for file in manifest.files:
            if (file.interval, int(first_days(file.first_day, _SPANS[level]))) in long:
                spans[file.path] = max(spans[file.path], level)
    found: dict[tuple[str, Span, int], list[SealedFile]] = {}
    for file in manifest.files:
        span = _SPANS[spans[file.path]]
        found.setdefault((file.interval, span, int(first_days(file.first_day, span))), []).append(file)
    return found


def _job_of(
    manifest: Manifest,
    interval: str,
    span: Span,
    first_day: int,
    files: list[SealedFile],
    today: int,
    config: EmbeddedStoreConfig,
    *,
    everything: bool,
) -> Job | None:
    parts = [f for f in files if f.kind == "part"]
    shorter = [f for f in files if f.kind not in ("part", "by_time") and f.span != span]
    current = [f for f in files if f.kind == "current" and f.span == span]
    superseded = [f for f in files if f.kind == "superseded" and f.span == span]
    end = span_end(first_day, span)
    by_time = end + config.by_time_days > today and config.by_time_days > 0
    by_time &= span == span_at(Interval.parse(interval), first_day, first_day, config.day_files)
    fresh = parts + shorter
    if by_time:
        touched = current
    else:
        least, most = min((f.symbol_min for f in fresh), default=""), max((f.symbol_max for f in fresh), default="")
        touched = [f for f in current if f.symbol_min <= most and f.symbol_max >= least]
    too_many = len(superseded) > _SUPERSEDED_FILES_MAX
    if not (
        shorter or too_many or (parts and everything) or _worth_it(manifest, parts, touched, span, end, today, config)
    ):
        return None
    copies = [f for f in files if f.kind == "by_time"]
    return Job(
        number=manifest.jobs + 1,
        interval=interval,
        span=span,
        first_day=first_day,
        inputs=(*fresh, *(touched if fresh else ()), *(superseded if too_many else ()), *(copies if fresh else ())),
        by_time=by_time and bool(fresh),
    )


def _worth_it(
    manifest: Manifest,
    parts: list[SealedFile],
    touched: list[SealedFile],
    span: Span,
    end: int,
    today: int,
    config: EmbeddedStoreConfig,
) -> bool:
    """Whether parts are many enough beside what must be written again with them, or have waited long enough."""
    if not parts:
        return False
    over = end <= today
    if over and span == "day":
        return True
    large = 4 * sum(f.rows for f in parts) >= sum(f.rows for f in touched)
    if len(parts) >= _PARTS_MAX or (large and (over or len(parts) >= config.compact_parts)):
        return True
    return over and max(f.log for f in parts) < manifest.log_sealed - 1


# -- how ----------------------------------------------------------------------------------------------------------


def _no_step(_step: str) -> None:
    pass


def merge(
    root: Path,
    job: Job,
    config: EmbeddedStoreConfig,
    *,
    progress: Callable[[int], None] = lambda _rows: None,
    on_step: Callable[[str], None] = _no_step,
) -> tuple[SealedFile, ...]:
    """Do a job; the files written, durable but not listed. Raises OSError, StoreCorrupt.

    progress: called with the rows read so far.
    """
    names = Names()
    reader = SealedReader(root, names, msgspec.structs.replace(config, rows_cached=2 * _ROWS_AT_ONCE))
    inputs = [file for file in job.inputs if file.kind != "by_time"]
    with ExitStack() as unfinished:
        current = _Series(root, job, "current", names, config, on_step, unfinished)
        superseded = _Series(root, job, "superseded", names, config, on_step, unfinished)
        done = 0
        for lasts, befores in _by_symbols(reader, inputs, names):
            current.write(lasts)
            superseded.write(befores)
            done += len(lasts) + len(befores)
            progress(done)
        files = [*current.finish(), *superseded.finish()]
        if job.by_time:
            copies = _Series(root, job, "by_time", names, config, on_step, unfinished)
            for rows in _by_time(root, reader, [f for f in files if f.kind == "current"], names):
                copies.write(rows)
            files += copies.finish()
        unfinished.pop_all()
    return tuple(files)


class _Series:
    """Files of one kind, begun when the one before is full."""

    def __init__(
        self,
        root: Path,
        job: Job,
        kind: FileKind,
        names: Names,
        config: EmbeddedStoreConfig,
        on_step: Callable[[str], None],
        unfinished: ExitStack,
    ) -> None:
        self._root = root
        self._job = job
        self._kind: FileKind = kind
        self._names = names
        self._config = config
        self._on_step = on_step
        self._writer: SealedWriter | None = None
        self._files: list[SealedFile] = []
        unfinished.callback(self._discard)

    def write(self, rows: Columns) -> None:
        if not len(rows):
            return
        if self._writer is None:
            job = self._job
            folder = folder_of(self._kind, job.interval, job.first_day)
            path = f"{folder}/{job.span}-{job.number:06d}-{len(self._files):03d}.parquet"
            self._writer = SealedWriter(
                self._root,
                path,
                self._kind,
                job.interval,
                job.span,
                job.first_day,
                self._names,
                self._config,
                on_step=self._on_step,
            )
        self._writer.write(rows)
        if self._writer.rows >= self._config.file_rows:
            self.finish()

    def finish(self) -> list[SealedFile]:
        """All files so far."""
        if self._writer is not None:
            self._files.append(self._writer.finish())
            self._writer = None
        return self._files

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.discard()


def _by_symbols(reader: SealedReader, inputs: list[SealedFile], names: Names) -> Iterator[tuple[Columns, Columns]]:
    """The last versions sorted by symbol, side, ts and provider, and those before `_newest_first`; whole symbols."""
    places = [reader.everything(file) for file in inputs]
    ranks = names.symbols.ranks()
    rows = np.zeros(len(ranks), np.int64)
    for groups, starts, _ in places:
        np.add.at(rows, ranks[groups >> 7], np.diff(starts))
    # files are sorted by symbol, so a range of ranks is a range of rows in each
    ranks_of = [ranks[groups >> 7] for groups, _, _ in places]
    total = np.cumsum(rows)
    begin = 0
    while begin < len(rows):
        read = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, read + _ROWS_AT_ONCE, "right")))
        parts, never_last = [], []
        for file, (_, starts, _), rank in zip(inputs, places, ranks_of, strict=True):
            low, high = np.searchsorted(rank, (begin, end)).tolist()
            part = reader.rows(file, int(starts[low]), int(starts[high]))
            parts.append(part)
            never_last.append(np.full(len(part), file.kind == "superseded"))
        found, before = Columns.concat(parts), np.concatenate(never_last)
        order = _sorted_by_key(found, ranks, names)
        found, before = found.take(order), before[order]
        before |= ~found.last_of_key()
        yield found.take(np.flatnonzero(~before)), _newest_first(found.take(np.flatnonzero(before)), ranks)
        begin = end


def _newest_first(rows: Columns, ranks: I64) -> Columns:
    """Rows that are sorted by key and as_of, by symbol and side, then the number of later versions here, then ts."""
    ends = np.flatnonzero(rows.last_of_key())
    after = np.repeat(ends, np.diff(np.append(-1, ends))) - np.arange(len(rows))
    return rows.take(np.lexsort((rows.ts, after, ranks[rows.symbol] << 2 | rows.side)))


def _sorted_by_key(rows: Columns, ranks: I64, names: Names) -> I64:
    place = ranks[rows.symbol] << 2 | rows.side
    if len(rows) and (rows.provider == rows.provider[0]).all():
        return np.lexsort((rows.as_of, rows.ts, place))
    return np.lexsort((rows.as_of, names.providers.ranks()[rows.provider], rows.ts, place))


def _by_time(root: Path, reader: SealedReader, files: list[SealedFile], names: Names) -> Iterator[Columns]:
    """The rows of files sorted by ts, side, symbol and provider, so many at a time; nothing if they are too many."""
    total = sum(file.rows for file in files)
    if total > _BY_TIME_ROWS_MAX:
        return
    times = [pq.read_table(root / f.path, columns=["ts"], partitioning=None).column("ts").to_numpy() for f in files]
    ts = np.sort(np.concatenate(times).astype(np.int64)) if times else np.zeros(0, np.int64)
    bounds = np.unique(np.append(ts[::_BY_TIME_ROWS_AT_ONCE], ts[-1:] + 1))
    ranks = names.symbols.ranks()
    for low, high in pairwise(bounds.tolist()):
        parts = []
        for file in files:
            for begin, end in _row_groups(reader, file):
                rows = reader.rows(file, begin, end)
                parts.append(rows.take(np.flatnonzero((rows.ts >= low) & (rows.ts < high))))
        found = Columns.concat(parts)
        order = np.lexsort((names.providers.ranks()[found.provider], ranks[found.symbol], found.side, found.ts))
        yield found.take(order)


def _row_groups(reader: SealedReader, file: SealedFile) -> list[tuple[int, int]]:
    starts = reader.everything(file)[2].tolist()
    return list(pairwise(starts))


# -- as a program -------------------------------------------------------------------------------------------------


def main() -> None:
    """Do the job that standard input names."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    os.nice(15)
    pa.set_cpu_count(1)
    lock = os.open(Path(request.root) / "compact.lock", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)  # an earlier one that is on its way out
    files = merge(Path(request.root), request.job, request.config, progress=lambda rows: _say(Report(rows=rows)))
    _say(Report(rows=request.job.rows, files=files))
    os._exit(0)  # the thread that listens to the owner cannot be joined


def _say(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_owner() -> None:
    while os.read(0, 4_096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
