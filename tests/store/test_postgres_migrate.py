"""Migrations of PostgreSQL: once each, all or nothing, and only of a database that is ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from marketd.cli.migrate import migrate as command
from marketd.errors import ConfigError, InvalidInput, StoreError
from marketd.model import BackfillJob
from marketd.store.postgres import Database, PostgresConfig, PostgresRecords, PostgresStore, TimescaleConfig, migrate
from marketd.store.postgres.migrate import Migration, check_schema, migrations
from marketd.testing import ManualClock

NAMES = ("001 bars", "002 quotes", "003 records", "004 analytics", "005 adjusted_last")
TABLES = {
    *("candles_intraday", "candles_long", "candle_series", "quotes_l1", "symbol_universe", "universe_versions"),
    *("ingestion_cursor", "backfill_jobs", "answered_spans", "macro_factors", "options_metrics", "indicator_values"),
    *("corporate_actions", "schema_migrations", "schema_settings"),
}
VIEWS = {
    *("v_candles", "v_candle_versions", "v_quotes", "v_universe", "v_gaps", "v_cursors", "v_jobs", "v_actions"),
    *("v_macro", "v_options_metrics", "v_indicators"),
}


@pytest.fixture
def database(empty_database: str) -> Iterator[Database]:
    database = Database(empty_database, PostgresConfig())
    yield database
    database.close()


def relations(database: Database, *kinds: str) -> set[str]:
    sql = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = ANY (%s)"
        " AND NOT relispartition"
    )
    with database.connection(snapshot=True) as connection:
        return {row[0] for row in connection.execute(sql, (list(kinds),))}


def test_an_empty_database_gets_every_table_and_view(database: Database) -> None:
    report = migrate(database)
    assert (report.before, report.after, report.applied) == (0, 5, NAMES)
    assert (report.partitioning, report.settings) == ("native", ())
    assert relations(database, "r", "p") == TABLES
    assert relations(database, "v") == VIEWS


def test_a_second_time_there_is_nothing_to_do(database: Database) -> None:
    migrate(database)
    again = migrate(database)
    assert (again.before, again.after, again.applied) == (5, 5, ())
    check_schema(database)
    with database.connection(snapshot=True) as connection:
        rows = connection.execute("SELECT version, name, length(checksum) FROM schema_migrations ORDER BY 1").fetchall()
    assert rows == [
        (1, "bars", 64),
        (2, "quotes", 64),
        (3, "records", 64),
        (4, "analytics", 64),
        (5, "adjusted_last", 64),
    ]


def test_a_dry_run_changes_nothing(database: Database) -> None:
    report = migrate(database, dry_run=True)
    assert (report.before, report.after, report.applied) == (0, 5, NAMES)
    assert relations(database, "r", "p", "v") == set()


def test_several_at_once_take_turns(empty_database: str) -> None:
    applied: list[tuple[str, ...]] = []
    begin = threading.Barrier(4)

    def work() -> None:
        database = Database(empty_database, PostgresConfig())
        begin.wait(30)
        applied.append(migrate(database).applied)
        database.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(applied) == [(), (), (), NAMES]


def test_a_later_migration_is_applied_alone(database: Database) -> None:
    known = migrations()
    migrate(database, known[:2])
    with pytest.raises(StoreError, match="has schema 2; run `marketd migrate`"):
        check_schema(database)
    report = migrate(database)
    assert (report.before, report.after, report.applied) == (2, 5, NAMES[2:])


def test_a_migration_that_fails_leaves_nothing_behind(database: Database) -> None:
    bad = Migration(version=6, name="bad", checksum="x", sql="CREATE TABLE half (n integer); SELECT 1 / 0")
    with pytest.raises(StoreError, match="division by zero"):
        migrate(database, (*migrations(), bad))
    assert relations(database, "r", "p", "v") == set()
    assert migrate(database).applied == NAMES


def test_a_database_of_a_later_version_is_refused(database: Database) -> None:
    migrate(database)
    with database.connection() as connection:
        connection.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (99, 'teleport', 'x')")
    for ask in (migrate, check_schema):
        with pytest.raises(StoreError, match=r"has schema 99 \(teleport\); this version of marketd knows 5"):
            ask(database)


def test_a_migration_that_was_another_is_refused(database: Database) -> None:
    migrate(database)
    with database.connection() as connection:
        connection.execute("UPDATE schema_migrations SET checksum = 'abc' WHERE version = 2")
    with pytest.raises(StoreError, match="another migration 002 quotes"):
        migrate(database)


def test_stores_migrate_by_themselves_unless_told_not_to(empty_database: str) -> None:
    strict = PostgresConfig(migrate_at_start=False)
    for make in (
        lambda: PostgresStore(empty_database, strict, ManualClock()),
        lambda: _records(empty_database, strict),
    ):
        with pytest.raises(StoreError, match="has no tables of ours; run `marketd migrate`"):
            make()
    PostgresStore(empty_database, PostgresConfig(), ManualClock()).close()
    _records(empty_database, strict).close()


def _records(url: str, config: PostgresConfig) -> PostgresRecords:
    return PostgresRecords(url, config)


def test_every_field_of_a_job_has_a_column(database: Database) -> None:
    migrate(database)
    with database.connection(snapshot=True) as connection:
        columns = connection.execute("SELECT * FROM backfill_jobs").description
    assert columns is not None
    assert {column.name for column in columns} == set(BackfillJob.__struct_fields__)


def test_the_command_says_what_it_does(empty_database: str) -> None:
    runner = CliRunner()
    planned = runner.invoke(command, ["--database-url", empty_database, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert planned.output.splitlines()[0] == "001 bars would be applied"
    done = runner.invoke(command, ["--database-url", empty_database])
    assert "005 adjusted_last applied" in done.output
    assert done.output.splitlines()[-1].endswith("at schema 5 (partitioned by PostgreSQL)")
    again = runner.invoke(command, ["--database-url", empty_database])
    assert again.output.splitlines()[-1].endswith("up to date (partitioned by PostgreSQL)")


def test_the_command_without_a_database_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 2
    assert "--database-url" in result.output


@pytest.mark.parametrize("url", ["mysql://x/y", "postgresql://[::1/x", "market", "postgresql://h/d?nonsense=1"])
def test_what_is_no_url_of_a_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Database(url, PostgresConfig())
    assert refused.value.field == "database_url"


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r'pip install "marketd\[postgres\]"'):
        Database("postgresql://localhost/market", PostgresConfig())


def test_a_server_that_cannot_be_reached_is_named_without_the_password(tmp_path: Any) -> None:
    with pytest.raises(StoreError) as refused:
        Database(f"postgresql://me:hunter2@/market?host={tmp_path}", PostgresConfig())
    assert "hunter2" not in str(refused.value)
    assert "postgresql:///market" in str(refused.value)
    assert isinstance(refused.value.__cause__, psycopg.OperationalError)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (PostgresConfig, "pool_size", 0),
        (PostgresConfig, "connect_timeout_s", 0.5),
        (PostgresConfig, "statement_timeout_s", -1),
        (PostgresConfig, "quote_log_seconds", 0),
        (TimescaleConfig, "chunk_days", 0),
        (TimescaleConfig, "compress_after_days", 0),
        (TimescaleConfig, "minute_retention_days", 7),
        (TimescaleConfig, "refresh_minutes", 0),
        (TimescaleConfig, "aggregates", ("1h",)),
    ],
)
def test_settings_out_of_range_are_refused(config: type[msgspec.Struct], field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        config(**{field: value})
    assert refused.value.field == field
