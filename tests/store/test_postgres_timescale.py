"""TimescaleDB: the SQL that is sent, and what it means.

The extension is not at hand here, so its functions are stood in for in a real PostgreSQL, with the names and parameters
of its documentation: a misspelt call fails. Its continuous aggregates are run as plain views of the same SELECT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from marketd.errors import StoreError
from marketd.model import Bar, Interval, parse_ns
from marketd.store.postgres import Database, PostgresConfig, PostgresStore, TimescaleConfig, migrate, timescale
from marketd.testing import ManualClock
from marketd.testing.store_conformance import bar_table

M1 = Interval.parse("1m")
START = parse_ns("2026-11-20T14:30:00Z")
MINUTE = 60 * 10**9

STAND_INS = """
CREATE TABLE calls (place serial, call text);
CREATE FUNCTION by_range(column_name name, partition_interval interval) RETURNS text LANGUAGE sql AS
    $$ SELECT format('%s %s', column_name, partition_interval) $$;
CREATE FUNCTION create_hypertable(relation regclass, dimension text, create_default_indexes boolean DEFAULT true,
    if_not_exists boolean DEFAULT false, migrate_data boolean DEFAULT false) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO calls (call) VALUES (format('hypertable %s by %s', relation, dimension)) $$;
CREATE FUNCTION add_compression_policy(hypertable regclass, compress_after interval,
    if_not_exists boolean DEFAULT false) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO calls (call) VALUES (format('compress %s after %s', hypertable, compress_after)) $$;
CREATE FUNCTION remove_compression_policy(hypertable regclass, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE sql AS $$ INSERT INTO calls (call) VALUES (format('no compress %s', hypertable)) $$;
CREATE FUNCTION add_retention_policy(relation regclass, drop_after interval, if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE sql AS
    $$ INSERT INTO calls (call) VALUES (format('drop %s after %s', relation, drop_after)) $$;
CREATE FUNCTION remove_retention_policy(relation regclass, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE sql AS $$ INSERT INTO calls (call) VALUES (format('no drop %s', relation)) $$;
CREATE FUNCTION add_continuous_aggregate_policy(continuous_aggregate regclass, start_offset interval,
    end_offset interval, schedule_interval interval, if_not_exists boolean DEFAULT false) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO calls (call) VALUES (format('refresh %s from %s to %s every %s', continuous_aggregate,
        coalesce(start_offset::text, 'the first'), end_offset, schedule_interval)) $$;
CREATE FUNCTION remove_continuous_aggregate_policy(continuous_aggregate regclass, if_exists boolean DEFAULT NULL)
    RETURNS void LANGUAGE sql AS
    $$ INSERT INTO calls (call) VALUES (format('no refresh %s', continuous_aggregate)) $$;
CREATE FUNCTION hypertable_size(hypertable regclass) RETURNS bigint LANGUAGE sql AS
    $$ SELECT pg_total_relation_size(hypertable) $$;
CREATE FUNCTION time_bucket(bucket_width interval, ts timestamptz) RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT date_bin(bucket_width, ts, timestamptz '2000-01-03 00:00:00+00') $$;

CREATE FUNCTION kept(state jsonb, value jsonb, place numeric, newer boolean) RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE WHEN state IS NULL OR (place > (state->>'place')::numeric) = newer
        THEN jsonb_build_object('place', place, 'value', value) ELSE state END $$;
CREATE FUNCTION of_float(state jsonb) RETURNS float8 LANGUAGE sql AS $$ SELECT (state->>'value')::float8 $$;
CREATE FUNCTION of_bigint(state jsonb) RETURNS bigint LANGUAGE sql AS $$ SELECT (state->>'value')::bigint $$;
CREATE FUNCTION of_text(state jsonb) RETURNS text LANGUAGE sql AS $$ SELECT state->>'value' $$;
CREATE FUNCTION last_step(state jsonb, value float8, place bigint) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT kept(state, to_jsonb(value), place, true) $$;
CREATE FUNCTION last_step(state jsonb, value bigint, place bigint) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT kept(state, to_jsonb(value), place, true) $$;
CREATE FUNCTION last_step(state jsonb, value text, place bigint) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT kept(state, to_jsonb(value), place, true) $$;
CREATE FUNCTION last_step(state jsonb, value float8, place timestamptz) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT kept(state, to_jsonb(value), extract(epoch FROM place), true) $$;
CREATE FUNCTION first_step(state jsonb, value float8, place timestamptz) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT kept(state, to_jsonb(value), extract(epoch FROM place), false) $$;
CREATE AGGREGATE last(float8, bigint) (sfunc = last_step, stype = jsonb, finalfunc = of_float);
CREATE AGGREGATE last(bigint, bigint) (sfunc = last_step, stype = jsonb, finalfunc = of_bigint);
CREATE AGGREGATE last(text, bigint) (sfunc = last_step, stype = jsonb, finalfunc = of_text);
CREATE AGGREGATE last(float8, timestamptz) (sfunc = last_step, stype = jsonb, finalfunc = of_float);
CREATE AGGREGATE first(float8, timestamptz) (sfunc = first_step, stype = jsonb, finalfunc = of_float);

INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    SELECT 999999, 'timescaledb', 10, oid, false, '2.17.2' FROM pg_namespace WHERE nspname = 'public';
"""


def plain(statements: tuple[str, ...]) -> tuple[str, ...]:
    """The statements as a PostgreSQL without the extension takes them: aggregates as views, no options of its own."""
    kept = []
    for statement in statements:
        if statement.startswith("ALTER TABLE"):
            assert re.fullmatch(
                r"ALTER TABLE \w+ SET \(timescaledb\.compress, timescaledb\.compress_segmentby = '[\w, ]+',"
                r" timescaledb\.compress_orderby = '[\w, ]+'\)",
                statement,
            )
            continue
        view = re.sub(r"WITH \(timescaledb\.continuous, timescaledb\.materialized_only = false\) AS", "AS", statement)
        view = view.replace("CREATE MATERIALIZED VIEW IF NOT EXISTS", "CREATE OR REPLACE VIEW")
        kept.append(view.replace("DROP MATERIALIZED VIEW", "DROP VIEW").removesuffix("WITH NO DATA"))
    return tuple(kept)


@pytest.fixture
def url(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which the extension seems to be."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(STAND_INS)
    hypertables, settings = timescale.hypertable_statements, timescale.settings_statements
    monkeypatch.setattr(timescale, "hypertable_statements", lambda config: plain(hypertables(config)))
    monkeypatch.setattr(timescale, "settings_statements", lambda config: plain(settings(config)))
    return empty_database


def calls(url: str) -> list[str]:
    """What has been called since the last time this was asked."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute("SELECT call FROM calls ORDER BY place").fetchall()
        connection.execute("DELETE FROM calls")
    return [row[0] for row in rows]


def migrated(url: str, **settings: Any) -> tuple[str, tuple[str, ...]]:
    database = Database(url, PostgresConfig(timescale=TimescaleConfig(**settings)))
    try:
        report = migrate(database)
    finally:
        database.close()
    return report.partitioning, report.settings


def test_with_the_extension_tables_are_hypertables_with_the_policies_of_the_settings(url: str) -> None:
    assert migrated(url)[0] == "timescale"
    tables = ("candles_intraday", "candles_long", "quotes_l1", "options_metrics", "indicator_values")
    assert calls(url) == [
        "hypertable candles_intraday by ts 7 days",
        "hypertable candles_long by ts 364 days",
        "hypertable quotes_l1 by ts 7 days",
        "hypertable options_metrics by ts 28 days",
        "hypertable indicator_values by ts 28 days",
        *(call for table in tables for call in (f"no compress {table}", f"compress {table} after 14 days")),
        "no refresh candles_1m_last",
        "refresh candles_1m_last from 358 days to 00:01:00 every 00:05:00",
        "no refresh candles_5m",
        "refresh candles_5m from 358 days to 00:05:00 every 00:05:00",
        "no refresh candles_15m",
        "refresh candles_15m from 358 days to 00:15:00 every 00:05:00",
        "no drop candles_intraday",
        "no drop candles_1m_last",
        "drop candles_intraday after 365 days",
        "drop candles_1m_last after 365 days",
    ]
    with psycopg.connect(url) as connection:
        kinds = connection.execute(
            "SELECT DISTINCT relkind::text FROM pg_class WHERE relname = ANY (%s)", (list(tables),)
        ).fetchall()
    assert kinds == [("r",)]  # not partitioned by PostgreSQL: such a table cannot become a hypertable


def test_settings_are_applied_again_only_when_they_change(url: str) -> None:
    migrated(url)
    calls(url)
    assert migrated(url) == ("timescale", ())
    assert calls(url) == []
    assert migrated(url, minute_retention_days=None, compress_after_days=None, aggregates=("15m",))[1]
    tables = ("candles_intraday", "candles_long", "quotes_l1", "options_metrics", "indicator_values")
    assert calls(url) == [
        *(f"no compress {table}" for table in tables),
        "no refresh candles_1m_last",
        "refresh candles_1m_last from the first to 00:01:00 every 00:05:00",
        "no refresh candles_15m",
        "refresh candles_15m from the first to 00:15:00 every 00:05:00",
        "no drop candles_intraday",
        "no drop candles_1m_last",
    ]
    migrated(url, aggregates=())
    assert not [call for call in calls(url) if "refresh" in call or "candles_1m_last" in call]


def test_nothing_of_it_is_used_when_it_is_off_or_too_old(url: str) -> None:
    assert migrated(url, enabled=False) == ("native", ())
    assert calls(url) == []
    # and what was decided when the tables were made stays
    assert migrated(url) == ("native", ())


def test_an_old_extension_is_as_good_as_none(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE pg_extension SET extversion = '2.9.3' WHERE extname = 'timescaledb'")
    assert migrated(url) == ("native", ())


def test_the_apache_edition_gets_hypertables_alone(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE \"{name}\" SET timescaledb.license = 'apache'")
    assert migrated(url)[0] == "timescale"
    assert {call.split()[0] for call in calls(url)} == {"hypertable"}


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    store = PostgresStore(url, PostgresConfig(), ManualClock(START))
    yield store
    store.close()


def bar(minute: int, *prices: float, as_of: int = 1, **changed: Any) -> Bar:
    opened, high, low, close = prices
    ts_ns = START + minute * MINUTE
    fields: dict[str, Any] = {"symbol": "AAPL", "interval": "1m", "side": "trade", "ts_ns": ts_ns, "open": opened}
    fields |= {"high": high, "low": low, "close": close, "volume": 10.0, "vwap": close, "trades": 2, "provider": "sim"}
    fields |= {"status": "final", "as_of_ns": ts_ns + MINUTE + as_of}
    return Bar(**(fields | changed))


def test_a_store_on_hypertables_makes_no_partitions(store: PostgresStore) -> None:
    bars = [bar(0, 1.0, 2.0, 0.5, 1.5), bar(10_000_000, 1.0, 2.0, 0.5, 1.5)]
    assert store.append(bar_table(bars)) == 2
    assert store.read("AAPL", M1, 0, 2**63 - 1).equals(bar_table(bars))
    stats = store.stats()
    assert (stats.details["partitioning"], stats.versions) == ("timescale", 2)


def test_the_aggregates_hold_the_last_versions(store: PostgresStore, url: str) -> None:
    store.append(
        bar_table(
            [
                bar(0, 10.0, 12.0, 9.0, 11.0, volume=100.0, vwap=10.5),
                bar(1, 11.0, 15.0, 11.0, 14.0, volume=300.0, vwap=12.5),  # corrected below
                bar(2, 14.0, 99.0, 1.0, 14.0),  # withdrawn below
                bar(4, 14.0, 14.5, 13.0, 13.5, volume=None, vwap=None, trades=None),
                bar(5, 13.5, 13.6, 13.4, 13.5, volume=50.0, vwap=13.5),
                bar(7, 13.5, 13.5, 13.5, 13.5, volume=5.0, vwap=None),
            ]
        )
    )
    corrected = bar(1, 11.0, 13.0, 10.5, 12.0, as_of=9, volume=200.0, vwap=12.0, status="corrected")
    store.append(bar_table([corrected, bar(2, 14.0, 99.0, 1.0, 14.0, as_of=9, status="withdrawn")]))
    store.append(bar_table([bar(0, 1.0, 2.0, 0.5, 1.5, provider="other"), bar(0, 9.0, 9.0, 9.0, 9.0, interval="1s")]))
    with psycopg.connect(url) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        columns = "to_char(ts, 'HH24:MI'), open, high, low, close, volume, vwap, trades::int, minutes"
        of = "WHERE symbol = 'AAPL' AND side = 'trade' AND provider = 'sim' ORDER BY ts"
        five = connection.execute(f"SELECT {columns} FROM candles_5m {of}".encode()).fetchall()
        fifteen = connection.execute(f"SELECT {columns} FROM candles_15m {of}".encode()).fetchall()
    # vwap of the first: (100 × 10.5 + 200 × 12) / 300; of the second: a part with volume has none
    assert five == [
        ("14:30", 10.0, 14.5, 9.0, 13.5, 300.0, 11.5, 4, 3),
        ("14:35", 13.5, 13.6, 13.4, 13.5, 55.0, None, 4, 2),
    ]
    assert fifteen == [("14:30", 10.0, 14.5, 9.0, 13.5, 355.0, None, 8, 5)]


def test_every_column_of_a_unique_index_is_segmented_or_ordered_by() -> None:
    """Or a chunk cannot be compressed."""
    indexes = {
        "candles_intraday": {"symbol", "interval", "side", "ts", "ts_nanos", "provider", "as_of_ns"},
        "candles_long": {"symbol", "interval", "side", "ts", "ts_nanos", "provider", "as_of_ns"},
        "quotes_l1": {"symbol", "ts", "ts_nanos", "source", "received_ns"},
        "options_metrics": {"underlying", "metric", "expiry", "strike", "ts", "ts_nanos", "provider", "as_of_ns"},
        "indicator_values": {"symbol", "interval", "indicator", "parameters", "output", "ts", "ts_nanos", "as_of_ns"},
    }
    for table, (_, segment_by, order_by) in timescale.TABLES.items():
        segmented = set(segment_by.split(", "))
        ordered = {word.split()[0] for word in order_by.split(", ")}
        assert segmented | ordered == indexes[table]
        assert not segmented & ordered


@pytest.mark.parametrize(("kept", "chunk"), [(365, 7), (30, 7), (8, 7), (2, 1)])
def test_a_refresh_never_reaches_minutes_that_retention_has_dropped(kept: int, chunk: int) -> None:
    config = TimescaleConfig(minute_retention_days=kept, chunk_days=chunk)
    text = "\n".join(timescale.settings_statements(config))
    starts = [int(days) for days in re.findall(r"start_offset => INTERVAL '(\d+) days'", text)]
    assert len(starts) == 3
    assert all(0 < start < kept for start in starts)


def test_a_failing_setting_leaves_the_database_as_it_was(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP FUNCTION add_retention_policy")
    with pytest.raises(StoreError, match="add_retention_policy"):
        migrated(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('candles_intraday')").fetchone() == (None,)
