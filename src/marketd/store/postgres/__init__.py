"""Bars and records in PostgreSQL 14 or newer, with TimescaleDB where the database has it: the extra `postgres`.

The driver is imported when the first connection is made; without it a ConfigError says what to install.
"""

from marketd.store.postgres.bars import PostgresStore
from marketd.store.postgres.config import PostgresConfig, TimescaleConfig
from marketd.store.postgres.database import Database
from marketd.store.postgres.migrate import MigrationReport, migrate
from marketd.store.postgres.quote_log import PostgresQuoteLog
from marketd.store.postgres.records import PostgresRecords

__all__ = [
    "Database",
    "MigrationReport",
    "PostgresConfig",
    "PostgresQuoteLog",
    "PostgresRecords",
    "PostgresStore",
    "TimescaleConfig",
    "migrate",
]
