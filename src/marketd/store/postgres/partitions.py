"""Native partitions by time, for a database without TimescaleDB: made when the first row of a period comes.

Owns the names `<table>_p2026` and `<table>_p2026_11`. There is no default partition: one would have to be searched,
under a lock, each time another is made beside it. A partition is made as a table of its own and then attached, which
holds up neither readers nor writers.
"""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np
import numpy.typing as npt

from marketd.store.postgres.database import Database

__all__ = ["PERIODS", "Partitions"]

Period = Literal["M", "Y"]

PERIODS: dict[str, Period] = {
    "candles_intraday": "M",
    "candles_long": "Y",
    "quotes_l1": "M",
    "options_metrics": "Y",
    "indicator_values": "Y",
}
"""How long a table's partitions are: a UTC month or a UTC year."""

_LOCK = 0x6D6B_7464_0002
_I64 = npt.NDArray[np.int64]


class Partitions:
    """Which partitions there are, as far as this process knows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: set[str] = set()
        with database.connection(snapshot=True) as connection:
            row = connection.execute("SELECT value FROM schema_settings WHERE name = 'partitioning'").fetchone()
        self._native = row == ("native",)

    def ensure(self, table: str, ts_ns: _I64) -> None:
        """Make room for rows of these times. Committed when it returns. Nothing to do for a hypertable."""
        if not self._native:
            return
        period = PERIODS[table]
        starts = np.unique(ts_ns.astype("datetime64[ns]").astype(f"datetime64[{period}]"))
        wanted = {f"{table}_p{str(start).replace('-', '_')}": start for start in starts}
        with self._lock:
            missing = {name: start for name, start in wanted.items() if name not in self._known}
            if missing:
                self._make(table, missing, np.timedelta64(1, period))
                self._known |= missing.keys()

    def forget(self) -> None:
        """Look anew which there are: one that was known is gone."""
        with self._lock:
            self._known.clear()

    def _make(self, table: str, start_by_name: dict[str, np.datetime64], period: np.timedelta64) -> None:
        names = sorted(start_by_name)
        with self._database.connection(snapshot=True) as connection:
            rows = connection.execute(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = %s::regclass AND c.relname = ANY(%s)",
                (table, names),
            ).fetchall()
        there = {row[0] for row in rows}
        for name in names:
            if name not in there:
                start = start_by_name[name]
                self._attach(table, name, _midnight(start), _midnight(start + period))

    def _attach(self, table: str, name: str, start: str, end: str) -> None:
        with self._database.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            # asked again under the lock: another process may have been first
            row = connection.execute(
                "SELECT 1 FROM pg_inherits WHERE inhparent = %s::regclass AND inhrelid = to_regclass(%s)", (table, name)
            ).fetchone()
            if row is None:
                connection.execute(
                    f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL);"
                    f" ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')".encode()
                )


def _midnight(start: np.datetime64) -> str:
    return f"{start.astype('datetime64[D]')} 00:00:00+00"
