"""Records without a database server: one SQLite file beside the embedded store."""

from marketd.store.sqlite.records import SqliteRecords

__all__ = ["SqliteRecords"]
