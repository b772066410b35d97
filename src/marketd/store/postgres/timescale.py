"""SQL for the TimescaleDB extension (2.13 or newer), as text. Pure; `migrate` executes it.

Hypertables are made once, with the tables. Policies and aggregates follow the settings each time they change. Only
documented calls are used; the pages are named in ``docs/postgres.md``. What is here runs inside one transaction.
"""

from __future__ import annotations

from marketd.store.postgres.config import AGGREGATES, TimescaleConfig

__all__ = ["TABLES", "VERSION_LEAST", "hypertable_statements", "settings_statements"]

VERSION_LEAST = (2, 13)
"""Older ones are treated as if the extension was not there."""

TABLES: dict[str, tuple[int, str, str]] = {
    # chunks of so many times chunk_days; segmentby and orderby together hold every column of the unique index
    "candles_intraday": (1, "symbol, interval, side, provider", "ts, ts_nanos, as_of_ns DESC"),
    "candles_long": (52, "symbol, interval, side, provider", "ts, ts_nanos, as_of_ns DESC"),
    "quotes_l1": (1, "symbol, source", "ts, ts_nanos, received_ns"),
    "options_metrics": (4, "underlying, metric, provider", "ts, ts_nanos, expiry, strike, as_of_ns DESC"),
    "indicator_values": (4, "symbol, interval, indicator, parameters, output", "ts, ts_nanos, as_of_ns DESC"),
}

_MINUTES = "candles_1m_last"

# An aggregate cannot choose versions with a window or a subquery, so the choice is an aggregate of its own: the last
# version of each minute of each provider. The longer ones are made from that one.
_LAST_VERSIONS = f"""
CREATE MATERIALIZED VIEW IF NOT EXISTS {_MINUTES}
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol, side, provider, time_bucket(INTERVAL '1 minute', ts) AS minute,
    last(open, as_of_ns) AS open, last(high, as_of_ns) AS high, last(low, as_of_ns) AS low,
    last(close, as_of_ns) AS close, last(volume, as_of_ns) AS volume, last(vwap, as_of_ns) AS vwap,
    last(trades, as_of_ns) AS trades, last(status, as_of_ns) AS status
FROM candles_intraday
WHERE interval = '1m'
GROUP BY symbol, side, provider, minute
WITH NO DATA
"""  # noqa: S608 - a name of our own

_ROLLED_UP = """
CREATE MATERIALIZED VIEW IF NOT EXISTS candles_{name}
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT symbol, side, provider, time_bucket(INTERVAL '{minutes} minutes', minute) AS ts,
    first(open, minute) AS open, max(high) AS high, min(low) AS low, last(close, minute) AS close,
    sum(volume) AS volume,
    CASE WHEN bool_and(vwap IS NOT NULL OR coalesce(volume, 0) = 0)
        THEN sum(vwap * volume) / nullif(sum(volume), 0) END AS vwap,
    sum(trades) AS trades, count(*) AS minutes
FROM {source}
WHERE status <> 'withdrawn'
GROUP BY symbol, side, provider, time_bucket(INTERVAL '{minutes} minutes', minute)
WITH NO DATA
"""


def hypertable_statements(config: TimescaleConfig) -> tuple[str, ...]:
    """Turn the empty tables into hypertables that can be compressed."""
    statements = []
    for table, (chunks, segment_by, order_by) in TABLES.items():
        length = f"INTERVAL '{config.chunk_days * chunks} days'"
        statements.append(
            f"SELECT create_hypertable('{table}', by_range('ts', {length}),"
            " create_default_indexes => FALSE, if_not_exists => TRUE)"
        )
        statements.append(
            f"ALTER TABLE {table} SET (timescaledb.compress, timescaledb.compress_segmentby = '{segment_by}',"
            f" timescaledb.compress_orderby = '{order_by}')"
        )
    return tuple(statements)


def settings_statements(config: TimescaleConfig) -> tuple[str, ...]:
    """Make compression, retention and aggregates what the settings say, whatever they were before."""
    return (*_compression(config), *_aggregates(config), *_retention(config))


def _compression(config: TimescaleConfig) -> list[str]:
    statements = []
    for table in TABLES:
        statements.append(f"SELECT remove_compression_policy('{table}', if_exists => TRUE)")
        if config.compress_after_days is not None:
            after = f"INTERVAL '{config.compress_after_days} days'"
            statements.append(f"SELECT add_compression_policy('{table}', compress_after => {after})")
    return statements


def _aggregates(config: TimescaleConfig) -> list[str]:
    statements = [
        f"DROP MATERIALIZED VIEW IF EXISTS candles_{name}" for name in AGGREGATES if name not in config.aggregates
    ]
    if not config.aggregates:
        return [*statements, f"DROP MATERIALIZED VIEW IF EXISTS {_MINUTES}"]
    statements += [_LAST_VERSIONS.strip(), *_refresh(config, _MINUTES, 1)]
    for name in AGGREGATES:
        if name in config.aggregates:
            minutes = int(name.removesuffix("m"))
            statements.append(_ROLLED_UP.strip().format(name=name, minutes=minutes, source=_MINUTES))
            statements += _refresh(config, f"candles_{name}", minutes)
    return statements


def _refresh(config: TimescaleConfig, aggregate: str, minutes: int) -> list[str]:
    # A refresh that reaches minutes which retention has dropped would drop them from the aggregate too.
    kept = config.minute_retention_days
    since = "NULL" if kept is None else f"INTERVAL '{kept - config.chunk_days} days'"
    every = f"INTERVAL '{config.refresh_minutes} minutes'"
    add = (
        f"SELECT add_continuous_aggregate_policy('{aggregate}', start_offset => {since},"
        f" end_offset => INTERVAL '{minutes} minutes', schedule_interval => {every})"
    )
    return [f"SELECT remove_continuous_aggregate_policy('{aggregate}', if_exists => TRUE)", add]


def _retention(config: TimescaleConfig) -> list[str]:
    tables = ["candles_intraday", *([_MINUTES] if config.aggregates else [])]
    statements = [f"SELECT remove_retention_policy('{table}', if_exists => TRUE)" for table in tables]
    if config.minute_retention_days is not None:
        after = f"INTERVAL '{config.minute_retention_days} days'"
        statements += [f"SELECT add_retention_policy('{table}', drop_after => {after})" for table in tables]
    return statements
