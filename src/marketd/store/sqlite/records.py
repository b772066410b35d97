"""`Records` in one SQLite file: durable at each commit, versions checked by the database itself.

Owns `records.db` (and its `-wal` and `-shm` while it is open); the tables are in `schema`. One connection writes, under
a lock; reads go over connections of their own and never wait for it. Refuses a file that is damaged, of another
program, or of a later version. Two processes do each other no harm (SQLite locks the file), though the server's data
directory has one owner all the same.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from marketd.errors import InvalidInput, StoreCorrupt, StoreError
from marketd.model import (
    OBSERVATION_SCHEMA,
    AnsweredSpan,
    BackfillJob,
    CorporateAction,
    Cursor,
    Instrument,
    JobState,
    Tier,
)
from marketd.store import record_checks as checks
from marketd.store.durable import make_folder, sync_folder
from marketd.store.records import UniverseVersion
from marketd.store.spans import joined, laid_over
from marketd.store.sqlite.schema import APPLICATION_ID, COLUMNS, STEPS, crc_of

__all__ = ["SqliteRecords"]

_BUSY_S = 10.0
_WAL_KEPT_BYTES = 16 * 2**20

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _write_row(table: str, how: str = "INSERT") -> str:
    """SQL that writes one row (parameters: its `COLUMNS`) with its checksum."""
    its = ", ".join(f"?{number}" for number in range(1, len(COLUMNS[table]) + 1))
    return f"{how} INTO {table} ({', '.join(COLUMNS[table])}, crc) VALUES ({its}, crc_of({its}))"


def _write_version(table: str, key: Sequence[str]) -> str:
    """The same, unless the row repeats the last version of its key or the one in force at its own `as_of`."""
    fields = COLUMNS[table]
    its = {name: f"?{number}" for number, name in enumerate(fields, 1)}
    same_key = " AND ".join(f"{name} = {its[name]}" for name in key)
    values = [name for name in fields if name not in key and name != "as_of_ns"]
    same_values = " AND ".join(f"{name} IS {its[name]}" for name in values)
    last = f"SELECT {', '.join(values)} FROM {table} WHERE {same_key}"  # noqa: S608 - names of our own, as below
    newest = "ORDER BY as_of_ns DESC LIMIT 1"
    after_last = f"SELECT max(as_of_ns) + 1 FROM {table} WHERE {same_key}"  # noqa: S608
    its_later = its | {"as_of_ns": f"max({its['as_of_ns']}, coalesce(({after_last}), {its['as_of_ns']}))"}
    return f"""
        INSERT INTO {table} ({", ".join(fields)}, crc)
        SELECT *, crc_of({", ".join(fields)}) FROM (
            SELECT {", ".join(f"{its_later[name]} AS {name}" for name in fields)}
            WHERE NOT EXISTS (SELECT 1 FROM ({last} {newest}) WHERE {same_values})
            AND NOT EXISTS (SELECT 1 FROM ({last} AND as_of_ns <= {its["as_of_ns"]} {newest}) WHERE {same_values})
        )
    """  # noqa: S608


_ADD_VERSION = _write_row("universe_versions")
_ADD_INSTRUMENT = _write_row("symbol_universe")
_ADD_SPAN = _write_row("answered_spans")
_KEEP_CURSOR = _write_row("ingestion_cursor", "INSERT OR REPLACE")
_KEEP_JOB = _write_row("backfill_jobs", "INSERT OR REPLACE")
_ADD_ACTION = _write_version("corporate_actions", ("symbol", "kind", "ex_ns", "provider"))
_ADD_OBSERVATION = _write_version("macro_factors", ("series", "ts_ns", "provider"))
_ACTION_FIELDS = COLUMNS["corporate_actions"]
_JOB_COLUMNS = COLUMNS["backfill_jobs"][:-1]


class SqliteRecords:
    """Implements `Records`.

    path: the file, created with its folder if missing; None for records that end with the process.
    Raises StoreCorrupt when the file is damaged, StoreError when it cannot be used or another program made it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._where = "memory" if path is None else str(path)
        self._lock = threading.Lock()
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False
        if path is not None:
            try:
                make_folder(path.parent)
            except OSError as error:
                raise StoreError(self._where, f"cannot be opened: {error.strerror}") from error
        self._writer = self._connect()
        try:
            with self._our_errors():
                self._open()
        except BaseException:
            self._writer.close()
            raise

    # -- connections --------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        with self._our_errors():
            connection = sqlite3.connect(
                self._path or ":memory:", timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            # a commit has returned when the disk has it; without FULL the last ones may be lost with the power
            connection.execute("PRAGMA synchronous = FULL")
            connection.create_function("crc_of", -1, crc_of, deterministic=True)
        return connection

    def _open(self) -> None:
        writer = self._writer
        tables, application, version = (
            writer.execute(sql).fetchone()[0]
            for sql in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
        )
        if tables and application != APPLICATION_ID:
            raise StoreError(self._where, "is an SQLite file of another program")
        if version > len(STEPS):
            raise StoreError(self._where, f"has schema {version}; this version of marketd knows {len(STEPS)}")
        damage = self._damage("quick_check")
        if damage:
            raise StoreCorrupt(self._where, damage[0])
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        if version < len(STEPS):
            self._migrate()

    def _migrate(self) -> None:
        with self._write() as writer:
            # asked again under the lock: another process may have been first
            version = writer.execute("PRAGMA user_version").fetchone()[0]
            for step in STEPS[version:]:
                for statement in step:
                    writer.execute(statement)
            writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            writer.execute(f"PRAGMA user_version = {len(STEPS)}")
        if self._path is not None:
            sync_folder(self._path.parent)

    def _damage(self, check: str) -> list[str]:
        return [row[0] for row in self._writer.execute(f"PRAGMA {check}") if row[0] != "ok"]

    def verify(self) -> list[str]:
        """Every page, index and row read and compared; what is wrong, one line each, none if nothing is."""
        with self._lock, self._our_errors():
            self._check_open()
            damage = self._damage("integrity_check")
            for table, columns in COLUMNS.items():
                sql = f"SELECT count(*) FROM {table} WHERE crc IS NOT crc_of({', '.join(columns)})"  # noqa: S608 - our own
                rows = self._writer.execute(sql).fetchone()[0]
                if rows:
                    damage.append(f"{rows} rows of {table} are not what was written")
            return [f"{self._where}: {line}" for line in damage]

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension
            kind = StoreCorrupt if code in _CORRUPT else StoreError
            raise kind(self._where, str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # neither JSON nor UTF-8 any more
            raise StoreCorrupt(self._where, str(error)) from error
        except UnicodeEncodeError as error:
            raise InvalidInput("name", error.object, "text that UTF-8 can write") from error

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is durable afterwards, or none of it was done."""
        with self._lock, self._our_errors():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        if self._path is None:
            with self._lock, self._our_errors():
                self._check_open()
                yield self._writer
            return
        self._check_open()
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = self._connect()
        try:
            with self._our_errors():
                yield reader
        finally:
            self._idle.append(reader)
            if self._closed:
                self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread was quicker
                return

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(self._where, "the records are closed")

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._close_idle()
            self._writer.close()

    # -- universe -----------------------------------------------------------------------------------------------

    def save_universe(self, instruments: Sequence[Instrument], *, source: str, as_of_ns: int) -> UniverseVersion:
        after = {i.id: i for i in checks.checked_universe(instruments, source, as_of_ns)}
        with self._write() as writer:
            last = _universe_versions(writer, "ORDER BY version DESC LIMIT 1")
            before = {i.id: i for i in _instruments(writer, last[0].version)} if last else {}
            changed = {i: after.get(i) for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
            if last and not changed:
                return last[0]
            version = UniverseVersion(
                version=last[0].version + 1 if last else 1,
                as_of_ns=max(as_of_ns, last[0].as_of_ns + 1) if last else as_of_ns,
                source=source,
                instruments=len(after),
                active=sum(i.active for i in after.values()),
                changed=len(changed),
            )
            writer.execute(_ADD_VERSION, msgspec.structs.astuple(version))
            writer.executemany(
                _ADD_INSTRUMENT, ((i, version.version, _json(instrument)) for i, instrument in changed.items())
            )
        return version

    def universe(self, *, as_of_ns: int | None = None, version: int | None = None) -> tuple[Instrument, ...]:
        if as_of_ns is not None and version is not None:
            raise InvalidInput("version", version, "a version or as_of_ns, not both")
        with self._read() as reader:
            known = _universe_versions(reader, "WHERE as_of_ns <= ?", checks.checked_as_of(as_of_ns))
            if version is not None and not 1 <= version <= len(known):
                allowed = f"1 to {len(known)}" if known else "no version: there is none yet"
                raise InvalidInput("version", version, allowed)
            return _instruments(reader, len(known) if version is None else version)

    def universe_versions(self) -> tuple[UniverseVersion, ...]:
        with self._read() as reader:
            return _universe_versions(reader, "")

    # -- ledger -------------------------------------------------------------------------------------------------

    def note_spans(self, spans: Sequence[AnsweredSpan]) -> None:
        checks.checked_spans(spans)
        if not spans:
            return
        with self._write() as writer:
            for span in spans:
                _note(writer, span)

    def spans(
        self, interval: str, start_ns: int, end_ns: int, *, symbol: str | None = None, as_of_ns: int | None = None
    ) -> tuple[AnsweredSpan, ...]:
        start_ns, end_ns = checks.checked_range(start_ns, end_ns)
        of_symbol = "" if symbol is None else "AND symbol IN (?, '')"
        sql = f"""
            SELECT symbol, provider, start_ns, end_ns, reason, as_of_ns FROM answered_spans
            WHERE interval = ? {of_symbol} AND end_ns > ? AND start_ns < ? AND as_of_ns <= ?
        """  # noqa: S608 - one of two texts of our own
        asked = (interval, *(() if symbol is None else (symbol,)), start_ns, end_ns, checks.checked_as_of(as_of_ns))
        with self._read() as reader:
            rows = reader.execute(sql, asked).fetchall()
        found = (
            AnsweredSpan(
                symbol=symbol_ or None,
                interval=interval,
                provider=provider,
                start_ns=its_start_ns,
                end_ns=its_end_ns,
                reason=reason,
                as_of_ns=its_as_of_ns,
            )
            for symbol_, provider, its_start_ns, its_end_ns, reason, its_as_of_ns in rows
        )
        return joined(interval, found, start_ns, end_ns)

    def set_cursors(self, cursors: Sequence[Cursor]) -> None:
        checks.checked_cursors(cursors)
        if not cursors:
            return
        with self._write() as writer:
            writer.executemany(_KEEP_CURSOR, map(msgspec.structs.astuple, cursors))

    def cursor(self, symbol: str, interval: str, provider: str) -> Cursor | None:
        found = self._cursors("symbol = ? AND interval = ? AND provider = ?", symbol, interval, provider)
        return found[0] if found else None

    def cursors(self, interval: str) -> tuple[Cursor, ...]:
        return self._cursors("interval = ?", interval)

    def _cursors(self, condition: str, *asked: str) -> tuple[Cursor, ...]:
        sql = f"""
            SELECT symbol, interval, provider, until_ns, updated_ns FROM ingestion_cursor
            WHERE {condition} ORDER BY symbol, provider
        """  # noqa: S608 - one of two texts of our own
        with self._read() as reader:
            return tuple(_made(Cursor, Cursor.__struct_fields__, row) for row in reader.execute(sql, asked))

    # -- back-fill jobs -----------------------------------------------------------------------------------------

    def add_jobs(self, jobs: Sequence[BackfillJob]) -> tuple[str, ...]:
        checks.checked_jobs(jobs)
        if not jobs:
            return ()
        with self._write() as writer:
            return tuple(_add_job(writer, job) for job in jobs)

    def take_jobs(self, tier: Tier, now_ns: int, limit: int) -> tuple[BackfillJob, ...]:
        asked = (checks.checked_tier(tier), now_ns, checks.checked_limit(limit, 0))
        due = "state = 'queued' AND tier = ? AND not_before_ns <= ? ORDER BY created_ns, id LIMIT ?"
        # most calls find nothing to do, and need not write to learn it
        with self._read() as reader:
            if not _jobs(reader, due, *asked[:2], min(asked[2], 1)):
                return ()
        with self._write() as writer:
            taken = tuple(
                msgspec.structs.replace(job, state="running", updated_ns=now_ns) for job in _jobs(writer, due, *asked)
            )
            writer.executemany(_KEEP_JOB, map(_job_row, taken))
        return taken

    def save_job(self, job: BackfillJob) -> bool:
        checks.checked_jobs([job])
        with self._write() as writer:
            kept = _jobs(writer, "id = ?", job.id)
            if not kept:
                raise InvalidInput("id", job.id, "the id of a job that was added")
            ended = "done" if job.state == "cancelled" else "cancelled"
            if kept[0].state == ended:
                return False
            writer.execute(_KEEP_JOB, _job_row(job))
        return True

    def job(self, job_id: str) -> BackfillJob | None:
        with self._read() as reader:
            found = _jobs(reader, "id = ?", job_id)
        return found[0] if found else None

    def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1000
    ) -> tuple[BackfillJob, ...]:
        wanted = checks.checked_states(states)
        conditions = ["1"]
        if wanted:
            conditions.append(f"state IN ({', '.join('?' * len(wanted))})")
        if symbol is not None:
            conditions.append("symbol = ?")
        condition = f"{' AND '.join(conditions)} ORDER BY created_ns DESC, id DESC LIMIT ?"
        asked = (*wanted, *(() if symbol is None else (symbol,)), checks.checked_limit(limit, 1))
        with self._read() as reader:
            return _jobs(reader, condition, *asked)

    def requeue_running(self, before_ns: int) -> int:
        with self._write() as writer:
            left = _jobs(writer, "state = 'running' AND updated_ns < ?", before_ns)
            writer.executemany(_KEEP_JOB, (_job_row(msgspec.structs.replace(job, state="queued")) for job in left))
        return len(left)

    # -- actions and observations -------------------------------------------------------------------------------

    def add_actions(self, actions: Sequence[CorporateAction]) -> int:
        ordered = checks.checked_actions(actions)
        if not ordered:
            return 0
        with self._write() as writer:
            return writer.executemany(_ADD_ACTION, map(msgspec.structs.astuple, ordered)).rowcount

    def actions(self, symbol: str, *, as_of_ns: int | None = None) -> tuple[CorporateAction, ...]:
        sql = f"""
            SELECT * FROM (
                SELECT {", ".join(name for name in _ACTION_FIELDS if name != "as_of_ns")}, max(as_of_ns) AS as_of_ns
                FROM corporate_actions WHERE symbol = ? AND as_of_ns <= ? GROUP BY kind, ex_ns, provider
            ) WHERE NOT withdrawn ORDER BY ex_ns, kind, provider
        """  # noqa: S608 - names of our own columns
        fields = (*(name for name in _ACTION_FIELDS if name != "as_of_ns"), "as_of_ns")
        with self._read() as reader:
            rows = reader.execute(sql, (symbol, checks.checked_as_of(as_of_ns))).fetchall()
        return tuple(msgspec.structs.replace(_made(CorporateAction, fields, row), withdrawn=False) for row in rows)

    def add_observations(self, table: pa.Table) -> int:
        ordered = checks.checked_observations(table)
        if not ordered.num_rows:
            return 0
        for number, name in ((1, "ts"), (4, "as_of")):
            ordered = ordered.set_column(number, name, ordered.column(name).cast(pa.int64()))
        with self._write() as writer:
            rows = zip(*(column.to_pylist() for column in ordered.itercolumns()), strict=True)
            return writer.executemany(_ADD_OBSERVATION, rows).rowcount

    def observations(
        self,
        series: str,
        start_ns: int,
        end_ns: int,
        *,
        provider: str | None = None,
        as_of_ns: int | None = None,
    ) -> pa.Table:
        of_provider = "" if provider is None else "AND provider = ?"
        sql = f"""
            SELECT ts_ns, value, provider, as_of_ns FROM (
                SELECT ts_ns, value, provider, max(as_of_ns) AS as_of_ns FROM macro_factors
                WHERE series = ? AND ts_ns >= ? AND ts_ns < ? AND as_of_ns <= ? {of_provider}
                GROUP BY ts_ns, provider
            ) WHERE value IS NOT NULL ORDER BY ts_ns, provider
        """  # noqa: S608 - one of two texts of our own
        asked = (series, *checks.checked_range(start_ns, end_ns), checks.checked_as_of(as_of_ns))
        with self._read() as reader:
            rows = reader.execute(sql, asked if provider is None else (*asked, provider)).fetchall()
        columns = [[series] * len(rows), *(zip(*rows, strict=True) if rows else [()] * 4)]
        return pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, OBSERVATION_SCHEMA, strict=True)],
            schema=OBSERVATION_SCHEMA,
        )

    def series(self) -> tuple[str, ...]:
        # one step of the index a series, however many rows it has
        sql = """
            WITH RECURSIVE names (name) AS (
                SELECT min(series) FROM macro_factors
                UNION ALL
                SELECT (SELECT min(series) FROM macro_factors WHERE series > name) FROM names WHERE name IS NOT NULL
            ) SELECT name FROM names WHERE name IS NOT NULL
        """
        with self._read() as reader:
            return tuple(row[0] for row in reader.execute(sql))


def _json(instrument: Instrument | None) -> str | None:
    return None if instrument is None else msgspec.json.encode(instrument).decode()


def _made(kind: type[Any], fields: Sequence[str], row: Sequence[Any]) -> Any:
    return kind(**dict(zip(fields, row, strict=True)))


def _universe_versions(connection: sqlite3.Connection, which: str, *asked: int) -> tuple[UniverseVersion, ...]:
    fields = UniverseVersion.__struct_fields__
    order = "" if "ORDER" in which else "ORDER BY version"
    sql = f"SELECT {', '.join(fields)} FROM universe_versions {which} {order}"  # noqa: S608 - texts of our own
    return tuple(_made(UniverseVersion, fields, row) for row in connection.execute(sql, asked))


def _instruments(connection: sqlite3.Connection, version: int) -> tuple[Instrument, ...]:
    """The universe of a version; empty for version 0."""
    sql = """
        SELECT instrument FROM (SELECT id, max(version), instrument FROM symbol_universe WHERE version <= ? GROUP BY id)
        WHERE instrument IS NOT NULL
    """  # beside a lone max(), SQLite gives the other columns of the row that has it
    rows = connection.execute(sql, (version,)).fetchall()
    decode = msgspec.json.Decoder(Instrument).decode
    return tuple(sorted((decode(row[0]) for row in rows), key=lambda i: (i.symbol, i.id)))


def _note(writer: sqlite3.Connection, span: AnsweredSpan) -> None:
    key = (span.interval, span.symbol or "", span.provider, span.reason)
    # spans of one key are disjoint: in the order of their ends they are in that of their starts, and the first one
    # that begins after this is the last to look at
    found = []
    for row in writer.execute(
        "SELECT start_ns, end_ns, as_of_ns FROM answered_spans"
        " WHERE interval = ? AND symbol = ? AND provider = ? AND reason = ? AND end_ns >= ? ORDER BY end_ns",
        (*key, span.start_ns),
    ):
        if row[0] > span.end_ns:
            break
        found.append(row)
    pieces = laid_over(found, (span.start_ns, span.end_ns, span.as_of_ns))
    if pieces == found:
        return
    writer.executemany(
        "DELETE FROM answered_spans WHERE interval = ? AND symbol = ? AND provider = ? AND reason = ? AND end_ns = ?",
        ((*key, end_ns) for _, end_ns, _ in found),
    )
    writer.executemany(_ADD_SPAN, ((*key, *piece) for piece in pieces))


def _jobs(connection: sqlite3.Connection, condition: str, *asked: Any) -> tuple[BackfillJob, ...]:
    rows = connection.execute(f"SELECT job FROM backfill_jobs WHERE {condition}", asked)  # noqa: S608 - texts of our own
    decode = msgspec.json.Decoder(BackfillJob).decode
    return tuple(decode(row[0]) for row in rows)


def _job_row(job: BackfillJob) -> tuple[Any, ...]:
    return (*(getattr(job, name) for name in _JOB_COLUMNS), msgspec.json.encode(job).decode())


def _add_job(writer: sqlite3.Connection, job: BackfillJob) -> str:
    if _jobs(writer, "id = ?", job.id):
        return job.id
    same = _jobs(
        writer,
        "symbol = ? AND interval = ? AND start_ns = ? AND end_ns = ? AND provider IS ?"
        " AND state IN ('queued', 'running') ORDER BY created_ns, id LIMIT 1",
        *(job.symbol, job.interval, job.start_ns, job.end_ns, job.provider),
    )
    if same:
        return same[0].id
    writer.execute(_KEEP_JOB, _job_row(job))
    return job.id
