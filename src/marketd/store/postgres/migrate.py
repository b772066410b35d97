"""Bringing a database up to date: numbered files of SQL, each applied once, in order, never undone.

Owns `schema_migrations` (which files a database has had, with their checksums) and `schema_settings`. A change of the
schema is a further file `migrations/NNN_name.sql`; files that a release has brought are never changed. Refuses a
database that a later version has migrated, and one whose files were others than ours. Two processes that migrate at
once take turns.
"""

from __future__ import annotations

import hashlib
import logging
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from marketd.errors import StoreError
from marketd.store.postgres import timescale
from marketd.store.postgres.database import Database

if TYPE_CHECKING:
    from marketd.store.postgres.database import Connection

__all__ = ["Migration", "MigrationReport", "check_schema", "migrate", "migrations"]

_logger = logging.getLogger(__name__)

_FILE = re.compile(r"(\d{3})_(\w+)\.sql")
_LOCK = 0x6D6B_7464_0001
"""Of `pg_advisory_xact_lock`: one process migrates at a time."""

_PARTITIONED = "{partitioned}"
_NATIVE = "PARTITION BY RANGE (ts)"

_OWN_TABLES = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS schema_settings (name text PRIMARY KEY, value text NOT NULL)
"""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file. checksum: SHA-256 of its text, in hexadecimal."""

    version: int
    name: str
    checksum: str
    sql: str

    def __str__(self) -> str:
        return f"{self.version:03} {self.name}"


class MigrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """before, after: the version of the schema, 0 for none. applied: migrations that were (or would be) applied.

    partitioning: `native` or `timescale`. settings: SQL that was (or would be) executed for TimescaleDB's settings.
    """

    before: int
    after: int
    applied: tuple[str, ...]
    partitioning: str
    settings: tuple[str, ...]


def migrations() -> tuple[Migration, ...]:
    """All of them, in order."""
    found = []
    for entry in files(__package__).joinpath("migrations").iterdir():
        match = _FILE.fullmatch(entry.name)
        if match:
            sql = entry.read_text(encoding="utf-8")
            checksum = hashlib.sha256(sql.encode()).hexdigest()
            found.append(Migration(version=int(match[1]), name=match[2], checksum=checksum, sql=sql))
    return tuple(sorted(found, key=lambda m: m.version))


def migrate(
    database: Database, known: tuple[Migration, ...] | None = None, *, dry_run: bool = False
) -> MigrationReport:
    """Apply what is pending, all of it or nothing. dry_run: only say what would be done. known: `migrations()`.

    Raises StoreError for a database from a later version, or with a migration that was not ours.
    """
    known = migrations() if known is None else known
    with database.connection(snapshot=dry_run) as connection:
        if not dry_run:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_OWN_TABLES)
        before, pending = _pending(database.where, connection, known)
        partitioning = _setting(connection, "partitioning") if before else None
        if partitioning is None:
            partitioning = "timescale" if _has_timescale(database, connection) else "native"
        settings = _settings_pending(database, connection, partitioning, fresh=not before)
        if not dry_run:
            _apply(database, connection, pending, partitioning, settings)
        return MigrationReport(
            before=before,
            after=pending[-1].version if pending else before,
            applied=tuple(map(str, pending)),
            partitioning=partitioning,
            settings=settings,
        )


def check_schema(database: Database) -> None:
    """Raises StoreError unless the database is of exactly this version."""
    with database.connection(snapshot=True) as connection:
        before, pending = _pending(database.where, connection, migrations())
    if pending:
        state = f"has schema {before}" if before else "has no tables of ours"
        raise StoreError(database.where, f"{state}; run `marketd migrate`")


def _pending(where: str, connection: Connection, known: tuple[Migration, ...]) -> tuple[int, tuple[Migration, ...]]:
    """The version a database is of, and what it has not had yet."""
    if not _exists(connection, "schema_migrations"):
        return 0, known
    had = connection.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY version").fetchall()
    ours = {m.version: m for m in known}
    for version, name, checksum in had:
        migration = ours.get(version)
        if migration is None:
            raise StoreError(where, f"has schema {version} ({name}); this version of marketd knows {len(known)}")
        if migration.checksum != checksum:
            raise StoreError(where, f"was made with another migration {migration}: its checksum is {checksum[:12]}…")
    versions = {row[0] for row in had}
    return max(versions, default=0), tuple(m for m in known if m.version not in versions)


def _apply(
    database: Database,
    connection: Connection,
    pending: tuple[Migration, ...],
    partitioning: str,
    settings: tuple[str, ...],
) -> None:
    for migration in pending:
        sql = migration.sql.replace(_PARTITIONED, _NATIVE if partitioning == "native" else "")
        connection.execute(sql.encode())
        connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )
    for statement in settings:
        connection.execute(statement.encode())
    _set(connection, "partitioning", partitioning)
    if partitioning == "timescale":
        _set(connection, "timescale", _fingerprint(database))


def _settings_pending(database: Database, connection: Connection, partitioning: str, *, fresh: bool) -> tuple[str, ...]:
    if partitioning != "timescale":
        return ()
    config = database.config.timescale
    made = timescale.hypertable_statements(config) if fresh else ()
    if not fresh and _setting(connection, "timescale") == _fingerprint(database):
        return ()
    if _row(connection, "SELECT current_setting('timescaledb.license', true)") == ("apache",):
        _logger.warning(
            "%s has TimescaleDB under the Apache licence: no compression, retention or aggregates", database.where
        )
        return tuple(s for s in made if s.startswith("SELECT create_hypertable"))
    return (*made, *timescale.settings_statements(config))


def _fingerprint(database: Database) -> str:
    return msgspec.json.encode(database.config.timescale).decode()


def _has_timescale(database: Database, connection: Connection) -> bool:
    found = _row(connection, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    if found is None or not database.config.timescale.enabled:
        return False
    version = tuple(int(number) for number in re.findall(r"\d+", str(found[0]))[:2])
    if version < timescale.VERSION_LEAST:
        _logger.warning("%s has TimescaleDB %s, which is too old to be used", database.where, found[0])
        return False
    return True


def _exists(connection: Connection, table: str) -> bool:
    return _row(connection, "SELECT to_regclass(%s) IS NOT NULL", table) == (True,)


def _setting(connection: Connection, name: str) -> str | None:
    row = _row(connection, "SELECT value FROM schema_settings WHERE name = %s", name)
    return None if row is None else str(row[0])


def _set(connection: Connection, name: str, value: str) -> None:
    connection.execute(
        "INSERT INTO schema_settings (name, value) VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE schema_settings.value <> excluded.value",
        (name, value),
    )


def _row(connection: Connection, sql: str, *asked: Any) -> tuple[Any, ...] | None:
    return connection.execute(sql.encode(), asked or None).fetchone()
