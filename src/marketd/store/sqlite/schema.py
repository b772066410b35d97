"""The tables of `records.db`, as the steps that make them.

Each step is some statements, applied once, in order; `PRAGMA user_version` is how many steps have been. A change of the
schema is a further step; those that a release has brought are never changed. Times are integer nanoseconds since 1970,
UTC. Rows of `symbol_universe`, `corporate_actions` and `macro_factors` are only ever added. SQLite has no checksums, so
each row has one of its own: `crc`, of its columns in the order of `COLUMNS`.
"""

from __future__ import annotations

import zlib

__all__ = ["APPLICATION_ID", "COLUMNS", "STEPS", "crc_of"]

APPLICATION_ID = 0x6D6B7464
"""Says in the file's header whose it is: `mktd`."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE universe_versions (
            version INTEGER PRIMARY KEY,
            as_of_ns INTEGER NOT NULL,
            source TEXT NOT NULL,
            instruments INTEGER NOT NULL,
            active INTEGER NOT NULL,
            changed INTEGER NOT NULL,
            crc INTEGER NOT NULL
        )
        """,
        """
        -- what a version changed: the instrument as JSON, or null for one that went
        CREATE TABLE symbol_universe (
            id TEXT NOT NULL,
            version INTEGER NOT NULL REFERENCES universe_versions,
            instrument TEXT,
            crc INTEGER NOT NULL,
            PRIMARY KEY (id, version)
        ) WITHOUT ROWID
        """,
        """
        -- symbol '' is all symbols. Spans of one symbol, provider and reason never overlap: their ends tell them apart
        CREATE TABLE answered_spans (
            interval TEXT NOT NULL,
            symbol TEXT NOT NULL,
            end_ns INTEGER NOT NULL,
            provider TEXT NOT NULL,
            reason TEXT NOT NULL,
            start_ns INTEGER NOT NULL,
            as_of_ns INTEGER NOT NULL,
            crc INTEGER NOT NULL,
            PRIMARY KEY (interval, symbol, end_ns, provider, reason)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX answered_spans_by_end ON answered_spans (interval, end_ns)",
        """
        CREATE TABLE ingestion_cursor (
            interval TEXT NOT NULL,
            symbol TEXT NOT NULL,
            provider TEXT NOT NULL,
            until_ns INTEGER NOT NULL,
            updated_ns INTEGER NOT NULL,
            crc INTEGER NOT NULL,
            PRIMARY KEY (interval, symbol, provider)
        ) WITHOUT ROWID
        """,
        """
        -- what jobs are looked for by, and all of it as JSON: jobs may learn to say more
        CREATE TABLE backfill_jobs (
            id TEXT PRIMARY KEY NOT NULL,
            symbol TEXT NOT NULL,
            interval TEXT NOT NULL,
            start_ns INTEGER NOT NULL,
            end_ns INTEGER NOT NULL,
            provider TEXT,
            tier TEXT NOT NULL,
            state TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            updated_ns INTEGER NOT NULL,
            not_before_ns INTEGER NOT NULL,
            job TEXT NOT NULL,
            crc INTEGER NOT NULL
        )
        """,
        "CREATE INDEX backfill_jobs_by_state ON backfill_jobs (state, tier, created_ns, id)",
        "CREATE INDEX backfill_jobs_by_range ON backfill_jobs (symbol, interval, start_ns, end_ns)",
        "CREATE INDEX backfill_jobs_by_age ON backfill_jobs (created_ns, id)",
        """
        CREATE TABLE corporate_actions (
            symbol TEXT NOT NULL,
            kind TEXT NOT NULL,
            ex_ns INTEGER NOT NULL,
            provider TEXT NOT NULL,
            as_of_ns INTEGER NOT NULL,
            ratio REAL,
            amount REAL,
            currency TEXT,
            new_symbol TEXT,
            withdrawn INTEGER NOT NULL,
            crc INTEGER NOT NULL,
            PRIMARY KEY (symbol, kind, ex_ns, provider, as_of_ns)
        ) WITHOUT ROWID
        """,
        """
        -- value null: withdrawn
        CREATE TABLE macro_factors (
            series TEXT NOT NULL,
            ts_ns INTEGER NOT NULL,
            provider TEXT NOT NULL,
            as_of_ns INTEGER NOT NULL,
            value REAL,
            crc INTEGER NOT NULL,
            PRIMARY KEY (series, ts_ns, provider, as_of_ns)
        ) WITHOUT ROWID
        """,
    ),
)

COLUMNS: dict[str, tuple[str, ...]] = {
    "universe_versions": ("version", "as_of_ns", "source", "instruments", "active", "changed"),
    "symbol_universe": ("id", "version", "instrument"),
    "answered_spans": ("interval", "symbol", "provider", "reason", "start_ns", "end_ns", "as_of_ns"),
    "ingestion_cursor": ("symbol", "interval", "provider", "until_ns", "updated_ns"),
    "backfill_jobs": (
        *("id", "symbol", "interval", "start_ns", "end_ns", "provider", "tier", "state", "created_ns", "updated_ns"),
        *("not_before_ns", "job"),
    ),
    "corporate_actions": (
        *("symbol", "kind", "ex_ns", "provider", "as_of_ns", "ratio", "amount", "currency", "new_symbol"),
        "withdrawn",
    ),
    "macro_factors": ("series", "ts_ns", "value", "provider", "as_of_ns"),
}
"""Every column but `crc`, in the order in which rows are written."""


def crc_of(*values: float | str | None) -> int:
    """The checksum of a row. A number is the same written as an integer or not: SQLite stores it as it likes."""
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    return zlib.crc32(repr(plain).encode())
