"""`Records` in PostgreSQL: the tables of `migrations/003_records.sql`, shared by as many processes as there are.

What must not be decided by two at once (the next version, whether a job is there already, how spans overlap) is decided
under an advisory lock of its kind, held until the transaction ends. Jobs are handed out with SKIP LOCKED.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import numpy as np
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.model import (
    OBSERVATION_SCHEMA,
    AnsweredSpan,
    BackfillJob,
    CorporateAction,
    Cursor,
    Instrument,
    JobState,
    Name,
    Tier,
)
from marketd.store import record_checks as checks
from marketd.store.postgres.columns import from_array, rounds_of, to_copy
from marketd.store.postgres.config import PostgresConfig
from marketd.store.postgres.database import Database
from marketd.store.postgres.migrate import check_schema, migrate
from marketd.store.records import UniverseVersion
from marketd.store.spans import joined, laid_over

if TYPE_CHECKING:
    from marketd.store.postgres.database import Connection

__all__ = ["PostgresRecords"]

_LOCK_CLASS = 0x6D6B_7465
_LOCKS = {"universe": 1, "spans": 2, "jobs": 3, "actions": 4, "observations": 5, "cursors": 6}

_JOB_FIELDS = BackfillJob.__struct_fields__
_JOB_TYPES = {
    name: "bigint" if kind in (int, int | None) else "text" for name, kind in get_type_hints(BackfillJob).items()
}
_JOB_COLUMNS = ", ".join(_JOB_FIELDS)
_CURSOR_TYPES = {"symbol": "text", "interval": "text", "provider": "text", "until_ns": "bigint", "updated_ns": "bigint"}
_INSTRUMENT_FIELDS = Instrument.__struct_fields__
_UNIVERSE_TYPES = {
    "version": "integer",
    "id": "text",
    "symbol": "text",
    "exchange": "text",
    "asset_class": "text",
    "currency": "text",
    "tier": "text",
    "active": "boolean",
    "rank": "bigint",
    "names": "jsonb",
}
_VERSION_FIELDS = UniverseVersion.__struct_fields__

_ACTION_FIELDS = CorporateAction.__struct_fields__
_ACTION_KEY = ("symbol", "kind", "ex_ns", "provider")
_ACTION_VALUES = ("ratio", "amount", "currency", "new_symbol", "withdrawn")
_ACTION_COLUMNS = ", ".join(_ACTION_FIELDS)


def _insert_version(table: str, key: Sequence[str], values: Sequence[str], staged: str) -> str:
    """SQL that keeps the rows of `staged` that repeat neither the last version nor the one in force at their time."""
    same_key = " AND ".join(f"c.{name} = s.{name}" for name in key)
    last = f"SELECT as_of_ns, {', '.join(values)} FROM {table} c WHERE {same_key}"  # noqa: S608 - our own columns
    newest = "ORDER BY c.as_of_ns DESC LIMIT 1"
    same = " AND ".join(f"{{0}}.{name} IS NOT DISTINCT FROM s.{name}" for name in values)
    columns = ", ".join((*key, *values))
    return f"""
        INSERT INTO {table} ({columns}, as_of_ns)
        SELECT {", ".join(f"s.{name}" for name in (*key, *values))}, greatest(s.as_of_ns, last.as_of_ns + 1)
        FROM ({staged}) s
        LEFT JOIN LATERAL ({last} {newest}) last ON true
        LEFT JOIN LATERAL ({last} AND c.as_of_ns <= s.as_of_ns {newest}) then_known ON true
        WHERE (last.as_of_ns IS NULL OR NOT ({same.format("last")}))
        AND (then_known.as_of_ns IS NULL OR NOT ({same.format("then_known")}))
    """  # noqa: S608 - names of our own tables and columns


_INSERT_ACTION = _insert_version(
    "corporate_actions",
    _ACTION_KEY,
    _ACTION_VALUES,
    "SELECT %(symbol)s::text AS symbol, %(kind)s::text AS kind, %(ex_ns)s::bigint AS ex_ns,"
    " %(provider)s::text AS provider, %(as_of_ns)s::bigint AS as_of_ns, %(ratio)s::float8 AS ratio,"
    " %(amount)s::float8 AS amount, %(currency)s::text AS currency, %(new_symbol)s::text AS new_symbol,"
    " %(withdrawn)s::boolean AS withdrawn",
).encode()

_STAGE_OBSERVATIONS = """
    CREATE TEMP TABLE IF NOT EXISTS marketd_observations (
        key integer, round integer, ts_ns bigint, as_of_ns bigint, value double precision
    ) ON COMMIT DELETE ROWS
"""
_COPY_OBSERVATIONS = b"COPY marketd_observations (key, round, ts_ns, as_of_ns, value) FROM STDIN (FORMAT binary)"
_INSERT_OBSERVATIONS = _insert_version(
    "macro_factors",
    ("series", "ts_ns", "provider"),
    ("value",),
    "SELECT n.series, o.ts_ns, n.provider, o.as_of_ns, nullif(o.value, 'NaN') AS value FROM marketd_observations o"
    " JOIN unnest(%(series)s::text[], %(providers)s::text[]) WITH ORDINALITY AS n (series, provider, number)"
    " ON n.number = o.key + 1 WHERE o.round = %(round)s",
).encode()


class PostgresRecords:
    """Implements `Records` in a PostgreSQL database; it may be the one of a `PostgresStore`.

    url, config: as for `PostgresStore`. Raises StoreError when the database cannot be used or is of another version.
    """

    def __init__(self, url: str, config: PostgresConfig) -> None:
        self._database = Database(url, config)
        try:
            if config.migrate_at_start:
                migrate(self._database)
            else:
                check_schema(self._database)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    # -- universe -----------------------------------------------------------------------------------------------

    def save_universe(self, instruments: Sequence[Instrument], *, source: str, as_of_ns: int) -> UniverseVersion:
        after = {i.id: i for i in checks.checked_universe(instruments, source, as_of_ns)}
        with self._database.connection() as connection:
            _lock(connection, "universe")
            versions = _universe_versions(connection, checks.checked_as_of(None))
            last = versions[-1] if versions else None
            before = {i.id: i for i in _instruments(connection, last.version)} if last else {}
            changed = {i: after.get(i) for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
            if last and not changed:
                return last
            version = UniverseVersion(
                version=last.version + 1 if last else 1,
                as_of_ns=max(as_of_ns, last.as_of_ns + 1) if last else as_of_ns,
                source=source,
                instruments=len(after),
                active=sum(i.active for i in after.values()),
                changed=len(changed),
            )
            connection.execute(
                f"INSERT INTO universe_versions ({', '.join(_VERSION_FIELDS)})"  # noqa: S608 - our own columns
                " VALUES (%s, %s, %s, %s, %s, %s)".encode(),
                msgspec.structs.astuple(version),
            )
            rows = [_instrument_row(version.version, id_, instrument) for id_, instrument in changed.items()]
            connection.execute(*_insert("symbol_universe", _UNIVERSE_TYPES, rows))
        return version

    def universe(self, *, as_of_ns: int | None = None, version: int | None = None) -> tuple[Instrument, ...]:
        if as_of_ns is not None and version is not None:
            raise InvalidInput("version", version, "a version or as_of_ns, not both")
        known_ns = checks.checked_as_of(as_of_ns)
        with self._database.connection(snapshot=True) as connection:
            known = _universe_versions(connection, known_ns)
            if version is not None and not 1 <= version <= len(known):
                allowed = f"1 to {len(known)}" if known else "no version: there is none yet"
                raise InvalidInput("version", version, allowed)
            return _instruments(connection, len(known) if version is None else version)

    def universe_versions(self) -> tuple[UniverseVersion, ...]:
        with self._database.connection(snapshot=True) as connection:
            return _universe_versions(connection, checks.checked_as_of(None))

    # -- ledger -------------------------------------------------------------------------------------------------

    def note_spans(self, spans: Sequence[AnsweredSpan]) -> None:
        checks.checked_spans(spans)
        with self._database.connection() as connection:
            _lock(connection, "spans")
            for span in spans:
                _note(connection, span)

    def spans(
        self, interval: str, start_ns: int, end_ns: int, *, symbol: str | None = None, as_of_ns: int | None = None
    ) -> tuple[AnsweredSpan, ...]:
        start_ns, end_ns = checks.checked_range(start_ns, end_ns)
        sql = """
            SELECT symbol, provider, start_ns, end_ns, reason, as_of_ns FROM answered_spans
            WHERE interval = %(interval)s AND (%(symbols)s::text[] IS NULL OR symbol = ANY (%(symbols)s::text[]))
            AND end_ns > %(start)s AND start_ns < %(end)s AND as_of_ns <= %(as_of)s
        """
        asked = {
            "interval": interval,
            "symbols": None if symbol is None else [symbol, ""],
            "start": start_ns,
            "end": end_ns,
            "as_of": checks.checked_as_of(as_of_ns),
        }
        with self._database.connection(snapshot=True) as connection:
            rows = connection.execute(sql, asked).fetchall()
        found = (
            AnsweredSpan(
                symbol=its_symbol or None,
                interval=interval,
                provider=provider,
                start_ns=its_start_ns,
                end_ns=its_end_ns,
                reason=reason,
                as_of_ns=its_as_of_ns,
            )
            for its_symbol, provider, its_start_ns, its_end_ns, reason, its_as_of_ns in rows
        )
        return joined(interval, found, start_ns, end_ns)

    def set_cursors(self, cursors: Sequence[Cursor]) -> None:
        checks.checked_cursors(cursors)
        last = {(c.symbol, c.interval, c.provider): msgspec.structs.astuple(c) for c in cursors}
        with self._database.connection() as connection:
            if not last:
                return
            _lock(connection, "cursors")  # or two that set the same ones in other orders would wait for each other
            insert, rows = _insert("ingestion_cursor", _CURSOR_TYPES, list(last.values()))
            connection.execute(
                insert + b" ON CONFLICT (symbol, interval, provider)"
                b" DO UPDATE SET until_ns = excluded.until_ns, updated_ns = excluded.updated_ns",
                rows,
            )

    def cursor(self, symbol: str, interval: str, provider: str) -> Cursor | None:
        sql = f"""
            SELECT {", ".join(_CURSOR_TYPES)} FROM ingestion_cursor
            WHERE symbol = %s AND interval = %s AND provider = %s
        """  # noqa: S608 - our own columns
        with self._database.connection(snapshot=True) as connection:
            row = connection.execute(sql.encode(), (symbol, interval, provider)).fetchone()
        return None if row is None else _made(Cursor, _CURSOR_TYPES, row)

    def cursors(self, interval: str) -> tuple[Cursor, ...]:
        sql = f"""
            SELECT {", ".join(_CURSOR_TYPES)} FROM ingestion_cursor WHERE interval = %s ORDER BY symbol, provider
        """  # noqa: S608 - our own columns
        with self._database.connection(snapshot=True) as connection:
            rows = connection.execute(sql.encode(), (interval,)).fetchall()
        return tuple(_made(Cursor, _CURSOR_TYPES, row) for row in rows)

    # -- back-fill jobs -----------------------------------------------------------------------------------------

    def add_jobs(self, jobs: Sequence[BackfillJob]) -> tuple[str, ...]:
        checks.checked_jobs(jobs)
        with self._database.connection() as connection:
            if not jobs:
                return ()
            _lock(connection, "jobs")
            kept = {row[0] for row in connection.execute(_KEPT_JOBS, ([job.id for job in jobs],))}
            alive: dict[tuple[Any, ...], tuple[int, str]] = {}
            ranges = [[getattr(job, name) for job in jobs] for name in ("symbol", "interval", "start_ns", "end_ns")]
            for job in map(_job, connection.execute(_ALIVE_JOBS, ranges)):
                _note_alive(alive, job)
            ids, new = [], []
            for job in jobs:
                same = alive.get(_job_key(job))
                if job.id in kept or same is None:
                    ids.append(job.id)
                else:
                    ids.append(same[1])
                if job.id not in kept and same is None:
                    kept.add(job.id)
                    _note_alive(alive, job)
                    new.append(_job_row(job))
            if new:
                connection.execute(*_insert("backfill_jobs", _JOB_TYPES, new))
        return tuple(ids)

    def take_jobs(self, tier: Tier, now_ns: int, limit: int) -> tuple[BackfillJob, ...]:
        asked = {"tier": checks.checked_tier(tier), "now": now_ns, "limit": checks.checked_limit(limit, 0)}
        with self._database.connection() as connection:
            taken = [_job(row) for row in connection.execute(_TAKE_JOBS, asked)]
        return tuple(sorted(taken, key=lambda job: (job.created_ns, job.id)))

    def save_job(self, job: BackfillJob) -> bool:
        checks.checked_jobs([job])
        with self._database.connection() as connection:
            row = connection.execute("SELECT state FROM backfill_jobs WHERE id = %s FOR UPDATE", (job.id,)).fetchone()
            if row is None:
                raise InvalidInput("id", job.id, "the id of a job that was added")
            if row[0] == ("done" if job.state == "cancelled" else "cancelled"):
                return False
            connection.execute(_UPDATE_JOB, (*_job_row(job), job.id))
        return True

    def job(self, job_id: str) -> BackfillJob | None:
        sql = f"SELECT {_JOB_COLUMNS} FROM backfill_jobs WHERE id = %s"  # noqa: S608 - our own columns
        with self._database.connection(snapshot=True) as connection:
            row = connection.execute(sql.encode(), (job_id,)).fetchone()
        return None if row is None else _job(row)

    def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1000
    ) -> tuple[BackfillJob, ...]:
        sql = f"""
            SELECT {_JOB_COLUMNS} FROM backfill_jobs
            WHERE (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
            AND (%(symbol)s::text IS NULL OR symbol = %(symbol)s::text)
            ORDER BY created_ns DESC, id DESC LIMIT %(limit)s
        """  # noqa: S608 - our own columns
        wanted = list(checks.checked_states(states))
        asked = {"states": wanted or None, "symbol": symbol, "limit": checks.checked_limit(limit, 1)}
        with self._database.connection(snapshot=True) as connection:
            return tuple(_job(row) for row in connection.execute(sql.encode(), asked))

    def requeue_running(self, before_ns: int) -> int:
        with self._database.connection() as connection:
            sql = "UPDATE backfill_jobs SET state = 'queued' WHERE state = 'running' AND updated_ns < %s"
            return connection.execute(sql, (before_ns,)).rowcount

    # -- actions and observations -------------------------------------------------------------------------------

    def add_actions(self, actions: Sequence[CorporateAction]) -> int:
        ordered = checks.checked_actions(actions)
        new = 0
        with self._database.connection() as connection:
            _lock(connection, "actions")
            for action in ordered:
                new += connection.execute(_INSERT_ACTION, msgspec.structs.asdict(action)).rowcount
        return new

    def actions(self, symbol: str, *, as_of_ns: int | None = None) -> tuple[CorporateAction, ...]:
        sql = f"""
            SELECT * FROM (
                SELECT DISTINCT ON (ex_ns, kind, provider) {_ACTION_COLUMNS} FROM corporate_actions
                WHERE symbol = %s AND as_of_ns <= %s ORDER BY ex_ns, kind, provider, as_of_ns DESC
            ) last_version WHERE NOT withdrawn
        """  # noqa: S608 - our own columns
        with self._database.connection(snapshot=True) as connection:
            rows = connection.execute(sql.encode(), (symbol, checks.checked_as_of(as_of_ns))).fetchall()
        return tuple(_made(CorporateAction, _ACTION_FIELDS, row) for row in rows)

    def add_observations(self, table: pa.Table) -> int:
        ordered = checks.checked_observations(table)
        with self._database.connection() as connection, connection.cursor() as cursor:
            if not ordered.num_rows:
                return 0
            _lock(connection, "observations")
            cursor.execute(_STAGE_OBSERVATIONS)
            codes, words = [], []
            for name in ("series", "provider"):
                encoded = ordered.column(name).combine_chunks().dictionary_encode()
                codes.append(encoded.indices.to_numpy().astype(np.int64))
                words.append(encoded.dictionary.to_pylist())
            flat, key = np.unique(codes[0] * len(words[1]) + codes[1], return_inverse=True)
            ts_ns, as_of_ns = (ordered.column(name).cast(pa.int64()).to_numpy() for name in ("ts", "as_of"))
            rounds = rounds_of(key, ts_ns, as_of_ns)
            columns = {
                "key": key.astype(np.int32),
                "round": rounds,
                "ts_ns": ts_ns,
                "as_of_ns": as_of_ns,
                "value": ordered.column("value").to_numpy().astype(np.float64),  # null becomes NaN
            }
            with cursor.copy(_COPY_OBSERVATIONS) as copy:
                copy.write(to_copy(columns))
            series, provider = np.divmod(flat, len(words[1]))
            names = {"series": [words[0][i] for i in series], "providers": [words[1][i] for i in provider]}
            new = 0
            for number in range(int(rounds.max()) + 1):
                cursor.execute(_INSERT_OBSERVATIONS, names | {"round": number})
                new += cursor.rowcount
        return new

    def observations(
        self,
        series: str,
        start_ns: int,
        end_ns: int,
        *,
        provider: str | None = None,
        as_of_ns: int | None = None,
    ) -> pa.Table:
        sql = """
            SELECT array_agg(ts_ns), array_agg(value), array_agg(as_of_ns), array_to_json(array_agg(provider))::text
            FROM (
                SELECT DISTINCT ON (ts_ns, provider) ts_ns, provider, as_of_ns, value FROM macro_factors
                WHERE series = %(series)s AND ts_ns >= %(start)s AND ts_ns < %(end)s AND as_of_ns <= %(as_of)s
                AND (%(provider)s::text IS NULL OR provider = %(provider)s::text)
                ORDER BY ts_ns, provider, as_of_ns DESC
            ) last_version WHERE value IS NOT NULL
        """
        start_ns, end_ns = checks.checked_range(start_ns, end_ns)
        asked = {
            "series": series,
            "start": start_ns,
            "end": end_ns,
            "as_of": checks.checked_as_of(as_of_ns),
            "provider": provider,
        }
        with self._database.connection(snapshot=True) as connection, connection.cursor(binary=True) as cursor:
            result = cursor.execute(sql, asked).pgresult
            assert result is not None
            ts, value, known = (from_array(result.get_value(0, i), kind) for i, kind in enumerate(("i8", "f8", "i8")))
            providers = msgspec.json.decode(result.get_value(0, 3) or b"[]", type=list[str])
        columns: list[Any] = [[series] * len(ts), ts, value, providers, known]
        return pa.Table.from_arrays(
            [
                pa.array(column, pa.int64()).cast(field.type) if field.name in ("ts", "as_of") else pa.array(column)
                for column, field in zip(columns, OBSERVATION_SCHEMA, strict=True)
            ]
            if len(ts)
            else [pa.array([], field.type) for field in OBSERVATION_SCHEMA],
            schema=OBSERVATION_SCHEMA,
        )

    def series(self) -> tuple[str, ...]:
        # one step of the index a series, however many rows it has
        sql = """
            WITH RECURSIVE names (name) AS (
                (SELECT series FROM macro_factors ORDER BY series LIMIT 1)
                UNION ALL
                SELECT (SELECT series FROM macro_factors WHERE series > name ORDER BY series LIMIT 1)
                FROM names WHERE name IS NOT NULL
            ) SELECT name FROM names WHERE name IS NOT NULL
        """
        with self._database.connection(snapshot=True) as connection:
            return tuple(row[0] for row in connection.execute(sql))


_KEPT_JOBS = "SELECT id FROM backfill_jobs WHERE id = ANY (%s::text[])"
_ALIVE_JOBS = f"""
    SELECT {", ".join(f"b.{name}" for name in _JOB_FIELDS)} FROM backfill_jobs b
    JOIN (SELECT DISTINCT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[])
        AS n (symbol, interval, start_ns, end_ns)) n USING (symbol, interval, start_ns, end_ns)
    WHERE b.state IN ('queued', 'running')
""".encode()  # noqa: S608 - our own columns
_TAKE_JOBS = f"""
    UPDATE backfill_jobs SET state = 'running', updated_ns = %(now)s
    WHERE id IN (
        SELECT id FROM backfill_jobs WHERE state = 'queued' AND tier = %(tier)s AND not_before_ns <= %(now)s
        ORDER BY created_ns, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    RETURNING {_JOB_COLUMNS}
""".encode()  # noqa: S608 - our own columns
_UPDATE_JOB = (
    f"UPDATE backfill_jobs SET {', '.join(f'{name} = %s' for name in _JOB_FIELDS)} WHERE id = %s".encode()  # noqa: S608
)


def _lock(connection: Connection, what: str) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK_CLASS, _LOCKS[what]))


def _insert(
    table: str, type_by_column: Mapping[str, str], rows: Sequence[Sequence[Any]]
) -> tuple[bytes, dict[str, list[Any]]]:
    """SQL and parameters that insert all of the rows by one statement."""
    arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in type_by_column.items())
    sql = f"INSERT INTO {table} ({', '.join(type_by_column)}) SELECT * FROM unnest({arrays})"  # noqa: S608 - ours
    columns = zip(*rows, strict=True)
    return sql.encode(), {name: list(column) for name, column in zip(type_by_column, columns, strict=True)}


def _made(kind: type[Any], fields: Iterable[str], row: Sequence[Any]) -> Any:
    return kind(**dict(zip(fields, row, strict=True)))


def _universe_versions(connection: Connection, as_of_ns: int) -> tuple[UniverseVersion, ...]:
    sql = f"""
        SELECT {", ".join(_VERSION_FIELDS)} FROM universe_versions WHERE as_of_ns <= %s ORDER BY version
    """  # noqa: S608 - our own columns
    return tuple(_made(UniverseVersion, _VERSION_FIELDS, row) for row in connection.execute(sql.encode(), (as_of_ns,)))


def _instruments(connection: Connection, version: int) -> tuple[Instrument, ...]:
    """The universe of a version; empty for version 0."""
    sql = f"""
        SELECT {", ".join(_INSTRUMENT_FIELDS)} FROM (
            SELECT DISTINCT ON (id) * FROM symbol_universe WHERE version <= %s ORDER BY id, version DESC
        ) last_of_instrument WHERE symbol IS NOT NULL ORDER BY symbol, id
    """  # noqa: S608 - our own columns
    found = []
    for row in connection.execute(sql.encode(), (version,)):
        fields = dict(zip(_INSTRUMENT_FIELDS, row, strict=True))
        fields["names"] = msgspec.convert(fields["names"], tuple[Name, ...])
        found.append(Instrument(**fields))
    return tuple(found)


def _instrument_row(version: int, id_: str, instrument: Instrument | None) -> tuple[Any, ...]:
    if instrument is None:
        return version, id_, *(None,) * (len(_UNIVERSE_TYPES) - 2)
    names = msgspec.json.encode(instrument.names).decode()
    return version, *(names if name == "names" else getattr(instrument, name) for name in list(_UNIVERSE_TYPES)[1:])


def _note(connection: Connection, span: AnsweredSpan) -> None:
    key = (span.interval, span.symbol or "", span.provider, span.reason)
    rows = connection.execute(
        "SELECT start_ns, end_ns, as_of_ns FROM answered_spans WHERE interval = %s AND symbol = %s AND provider = %s"
        " AND reason = %s AND end_ns >= %s AND start_ns <= %s ORDER BY end_ns",
        (*key, span.start_ns, span.end_ns),
    )
    found = [(int(row[0]), int(row[1]), int(row[2])) for row in rows]
    pieces = laid_over(found, (span.start_ns, span.end_ns, span.as_of_ns))
    if pieces == found:
        return
    connection.execute(
        "DELETE FROM answered_spans WHERE interval = %s AND symbol = %s AND provider = %s AND reason = %s"
        " AND end_ns = ANY (%s::bigint[])",
        (*key, [end_ns for _, end_ns, _ in found]),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO answered_spans (interval, symbol, provider, reason, start_ns, end_ns, as_of_ns)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [(*key, *piece) for piece in pieces],
        )


def _job(row: Sequence[Any]) -> BackfillJob:
    made: BackfillJob = _made(BackfillJob, _JOB_FIELDS, row)
    return made


def _job_row(job: BackfillJob) -> tuple[Any, ...]:
    """A provider's words may hold what a text of PostgreSQL cannot: a NUL, half of a surrogate pair."""
    return tuple(
        value.replace("\0", "\\0").encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for value in msgspec.structs.astuple(job)
    )


def _job_key(job: BackfillJob) -> tuple[Any, ...]:
    return job.symbol, job.interval, job.provider, job.start_ns, job.end_ns


def _note_alive(alive: dict[tuple[Any, ...], tuple[int, str]], job: BackfillJob) -> None:
    if job.state in ("queued", "running"):
        key, place = _job_key(job), (job.created_ns, job.id)
        alive[key] = min(alive.get(key, place), place)
