"""DuckDB's part of the history benchmark: one file, one thread, default settings.

Tables have what a bar has beside `interval` and `side`, which are the same in all rows here; a row is a version.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

import history_data as data
from history_work import batches, timed, timed_each

_COLUMNS = (
    "symbol VARCHAR, ts TIMESTAMP_NS, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE, vwap DOUBLE,"
    " trades BIGINT, provider VARCHAR, status VARCHAR, as_of TIMESTAMP_NS"
)
_VALUES = ("open", "high", "low", "close", "volume", "vwap", "trades", "status")
_CHECKED = (
    "INSERT INTO bars SELECT * FROM batch b WHERE NOT EXISTS (SELECT 1 FROM (SELECT * FROM bars o SEMI JOIN batch"
    " USING (symbol, ts, provider) QUALIFY row_number() OVER (PARTITION BY symbol, ts, provider ORDER BY as_of DESC)"
    " = 1) o WHERE o.symbol = b.symbol AND o.ts = b.ts AND o.provider = b.provider AND "
    + " AND ".join(f"o.{name} IS NOT DISTINCT FROM b.{name}" for name in _VALUES)
    + ")"
)
"""The insert that makes no version of a row that says nothing new."""
_LATEST = (
    "SELECT * FROM bars WHERE symbol = ? {known} QUALIFY row_number() OVER (PARTITION BY ts ORDER BY as_of DESC) = 1"
    " ORDER BY ts"
)


@contextmanager
def _open(folder: Path, name: str = "bars.db") -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(folder / name, config={"threads": 1}) as connection:
        yield connection


def _rows(bars: pa.Table) -> pa.Table:
    """Without the columns of constants, and times of a type that keeps nanoseconds."""
    bars = bars.drop_columns(["interval", "side"])
    for name in ("ts", "as_of"):
        bars = bars.set_column(bars.schema.get_field_index(name), name, bars[name].cast(pa.timestamp("ns")))
    return bars


def _insert(connection: duckdb.DuckDBPyConnection, batch: pa.Table, sql: str = "INSERT INTO bars FROM batch") -> None:
    """Durable when it returns: the transaction is in the write-ahead log, which is synced."""
    connection.register("batch", batch)
    connection.execute(sql)
    connection.unregister("batch")


def append_day(
    folder: Path, *, symbols: int, minutes: int, session: int, holes: bool = False, checked: bool = False
) -> dict:
    day = data.Day(symbols, minutes, session, holes=holes)
    tables = [_rows(day.minute(number)) for number in range(minutes)]
    sql = _CHECKED if checked else "INSERT INTO bars FROM batch"
    with _open(folder) as connection:
        connection.execute(f"CREATE TABLE bars ({_COLUMNS})")
        times = [timed(lambda table=table: _insert(connection, table, sql))[0] for table in tables]
    return batches(times, sum(table.num_rows for table in tables))


def sort_day(folder: Path) -> dict:
    """The table in the order of symbols, in place of the one in order of arrival."""
    with _open(folder) as connection:
        connection.execute("CREATE TABLE sorted AS FROM bars ORDER BY symbol, ts, as_of")
        connection.execute("DROP TABLE bars")
        connection.execute("ALTER TABLE sorted RENAME TO bars")
        connection.execute("CHECKPOINT")
    return {}


def backfill(folder: Path, *, symbols: int, sessions: int) -> dict:
    known = np.int64(data.open_of(sessions))
    with _open(folder) as connection:
        connection.execute(f"CREATE TABLE bars ({_COLUMNS})")
        times, rows = [], 0
        for number in range(symbols):
            ts, values = data.series(number, sessions)
            bars = data.table(data.names(number + 1)[-1], ts, values, np.full(len(ts), known), "backfill")
            batch = _rows(bars)
            times.append(timed(lambda batch=batch: _insert(connection, batch))[0])
            rows += batch.num_rows
    return batches(times, rows)


def build_year(folder: Path, *, year: str, symbols: int, sessions: int, order: str) -> dict:
    """order: `arrival`, `symbol`, or `latest`: by symbol, without versions."""
    source = data.Year(Path(year), symbols, sessions)
    if order == "arrival":
        parts = (source.session(number) for number in range(sessions + 1))
    else:
        parts = (source.symbol(number, versions=order == "symbol") for number in range(symbols))
    return _build(folder, parts)


def build_versions(folder: Path, *, symbols: int, sessions: int, versions: int) -> dict:
    def parts() -> Iterator[pa.Table]:
        for number in range(symbols):
            bars = pa.concat_tables(data.version(number, sessions, times) for times in range(versions))
            yield bars.sort_by([("ts", "ascending"), ("as_of", "ascending")])

    return _build(folder, parts())


def _build(folder: Path, parts: Iterator[pa.Table]) -> dict:
    rows = 0
    with _open(folder) as connection:
        connection.execute(f"CREATE TABLE bars ({_COLUMNS})")
        for part in parts:
            _insert(connection, _rows(part))
            rows += part.num_rows
        connection.execute("CHECKPOINT")
    return {"versions": rows, "bytes": (folder / "bars.db").stat().st_size}


def read(folder: Path, *, numbers: list[int], warm_up: int, as_of_ns: int | None = None) -> dict:
    """The last versions of one symbol, or those known at a time."""
    sql = _LATEST.format(known="" if as_of_ns is None else f"AND as_of <= make_timestamp_ns({as_of_ns})")
    with _open(folder) as connection:
        times, digests = timed_each(
            lambda number: connection.execute(sql, [data.names(number + 1)[-1]]).to_arrow_table(),
            numbers,
            warm_up,
            data.digest,
        )
    return {"ms": statistics.median(times), "all_ms": times, "digests": digests}


def cross_section(folder: Path, *, minutes: list[int], warm_up: int) -> dict:
    with _open(folder) as connection:
        times, digests = timed_each(
            lambda ts: connection.execute(
                f"SELECT * FROM bars WHERE ts = make_timestamp_ns({ts}) ORDER BY symbol"
            ).to_arrow_table(),
            minutes,
            warm_up,
            data.digest,
        )
    return {"ms": statistics.median(times), "all_ms": times, "digests": digests}


def gaps(folder: Path, *, symbols: int, sessions: list[int], times: int, minutes: int = data.MINUTES) -> dict:
    """The anti-join of what is expected and what is there: rows, not spans. The expected minutes are at hand."""
    opens = np.array([data.open_of(session) for session in sessions], np.int64)
    expected = (opens[:, None] + np.arange(minutes) * data.MINUTE_NS).ravel()
    given = pa.table({"ts": pa.array(expected).cast(pa.timestamp("ns"))})
    wanted = pa.table({"symbol": data.names(symbols)})
    with _open(folder) as connection:
        connection.register("minutes_given", given)
        connection.register("wanted_given", wanted)
        connection.execute("CREATE TEMP TABLE minutes AS FROM minutes_given")
        connection.execute("CREATE TEMP TABLE wanted AS FROM wanted_given")
        found = [
            timed(
                lambda: connection.execute(
                    "SELECT symbol, ts FROM (FROM wanted CROSS JOIN minutes) ANTI JOIN bars USING (symbol, ts)"
                ).to_arrow_table()
            )
            for _ in range(times + 1)
        ]
    ms = [taken for taken, _ in found]
    return {"ms": statistics.median(ms[1:]), "first_ms": ms[0], "all_ms": ms, "missing": found[0][1].num_rows}


def roll_up(folder: Path, *, times: int) -> dict:
    """Days of a table without versions."""
    with _open(folder) as connection:
        pairs = [
            timed(
                lambda: connection.execute(
                    "SELECT symbol, date_trunc('day', ts) AS ts, arg_min(open, ts) AS open, max(high) AS high,"
                    " min(low) AS low, arg_max(close, ts) AS close, sum(volume) AS volume FROM bars GROUP BY ALL"
                ).to_arrow_table()
            )
            for _ in range(times)
        ]
    table = pairs[-1][1].sort_by([("symbol", "ascending"), ("ts", "ascending")])
    ms = [taken for taken, _ in pairs]
    digest = [*data.digest(table), float(table["volume"].to_numpy().sum())]
    return {"ms": statistics.median(ms), "all_ms": ms, "digest": digest}


JOBS = {
    "append_day": append_day,
    "sort_day": sort_day,
    "backfill": backfill,
    "build_year": build_year,
    "build_versions": build_versions,
    "read": read,
    "cross_section": cross_section,
    "gaps": gaps,
    "roll_up": roll_up,
}
