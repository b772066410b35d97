"""The newest quotes, written down every few seconds: rows of `quotes_l1` for those who look at a day in SQL.

Not a record of every tick (`marketd record` makes that), and nothing reads it here. Off unless `quote_log_seconds` is
set. Refuses to decide who calls it and when: it drops what comes too soon after the last row of its symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.errors import InvalidInput
from marketd.store.postgres.columns import pg_time, to_copy
from marketd.store.postgres.config import PostgresConfig
from marketd.store.postgres.database import Database
from marketd.store.postgres.partitions import Partitions

__all__ = ["LoggedQuote", "PostgresQuoteLog"]

_NUMBERS = ("bid", "ask", "bid_size", "ask_size", "last", "volume")

_STAGE = """
    CREATE TEMP TABLE IF NOT EXISTS marketd_quotes (
        number integer, ts timestamptz, ts_nanos smallint, received_ns bigint, bid double precision,
        ask double precision, bid_size double precision, ask_size double precision, last double precision,
        volume double precision
    ) ON COMMIT DELETE ROWS
"""
_COPY = f"""
    COPY marketd_quotes (number, ts, ts_nanos, received_ns, {", ".join(_NUMBERS)}) FROM STDIN (FORMAT binary)
""".encode()
_KEEP = f"""
    INSERT INTO quotes_l1 (symbol, source, ts, ts_nanos, received_ns, {", ".join(_NUMBERS)})
    SELECT n.symbol, n.source, q.ts, q.ts_nanos, q.received_ns,
        {", ".join(f"nullif(q.{name}, 'NaN')" for name in _NUMBERS)}
    FROM marketd_quotes q
    JOIN unnest(%(symbols)s::text[], %(sources)s::text[]) WITH ORDINALITY AS n (symbol, source, place)
        ON n.place = q.number + 1
    ON CONFLICT DO NOTHING
""".encode()  # noqa: S608 - our own columns


class LoggedQuote(Protocol):
    """What `marketd.model.Quote` has, and a row of the table of latest quotes. Absent is None."""

    @property
    def symbol(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def time_event_ns(self) -> int: ...
    @property
    def time_received_ns(self) -> int: ...
    @property
    def bid(self) -> float | None: ...
    @property
    def ask(self) -> float | None: ...
    @property
    def bid_size(self) -> float | None: ...
    @property
    def ask_size(self) -> float | None: ...
    @property
    def last(self) -> float | None: ...
    @property
    def volume(self) -> float | None: ...


class PostgresQuoteLog:
    """Writes to a database that has our tables (`PostgresStore` or `marketd migrate` makes them).

    Raises InvalidInput when `quote_log_seconds` is not set, else as `Database`. For one thread at a time.
    """

    def __init__(self, url: str, config: PostgresConfig, clock: Clock) -> None:
        if config.quote_log_seconds is None:
            raise InvalidInput("quote_log_seconds", None, "seconds: the quote log is off")
        self._pause_ns = round(config.quote_log_seconds * 10**9)
        self._clock = clock
        self._due_ns: dict[str, int] = {}
        self._database = Database(url, config)
        try:
            self._partitions = Partitions(self._database)
        except BaseException:
            self._database.close()
            raise

    def write(self, quotes: Sequence[LoggedQuote]) -> int:
        """Keep the last of each symbol's quotes, if its pause is over; returns how many rows that made.

        Durable when it returns. A quote that is kept already makes no row. Raises StoreError: then nothing was kept,
        and the same quotes may be given again.
        """
        now_ns = self._clock.monotonic_ns()
        last = {quote.symbol: quote for quote in quotes}
        due = [quote for symbol, quote in last.items() if self._due_ns.get(symbol, now_ns) <= now_ns]
        if not due:
            self._database.check_open()
            return 0
        event_ns = np.array([quote.time_event_ns for quote in due], np.int64)
        ts, ts_nanos = pg_time(event_ns)
        columns: dict[str, npt.NDArray[Any]] = {
            "number": np.arange(len(due), dtype=np.int32),
            "ts": ts,
            "ts_nanos": ts_nanos,
            "received_ns": np.array([quote.time_received_ns for quote in due], np.int64),
            **{name: np.array([getattr(quote, name) for quote in due], np.float64) for name in _NUMBERS},
        }
        self._partitions.ensure("quotes_l1", event_ns)
        with self._database.connection() as connection, connection.cursor() as cursor:
            cursor.execute(_STAGE)
            with cursor.copy(_COPY) as copy:
                copy.write(to_copy(columns))
            names = {"symbols": [quote.symbol for quote in due], "sources": [quote.source for quote in due]}
            kept = cursor.execute(_KEEP, names).rowcount
        for quote in due:
            self._due_ns[quote.symbol] = now_ns + self._pause_ns
        return kept

    def close(self) -> None:
        """Idempotent; `write` raises StoreError afterwards."""
        self._database.close()
