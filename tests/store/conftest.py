"""The stores' fixtures: a PostgreSQL server for those who ask for one."""

from postgres_server import (
    empty_database,
    migrated_database,
    own_postgres_server,
    postgres_programs,
    postgres_server,
    postgres_url,
)

__all__ = [
    "empty_database",
    "migrated_database",
    "own_postgres_server",
    "postgres_programs",
    "postgres_server",
    "postgres_url",
]
