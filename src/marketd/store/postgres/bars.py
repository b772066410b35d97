"""Bars in PostgreSQL: every version a row of one table, chosen among on read.

`candles_intraday` holds bars of 1 second and 1 minute, `candles_long` all others; both are partitioned by time, or are
hypertables. An append copies its rows to a temporary table and keeps from there what is new, in one transaction that
holds a lock on its symbols: writers of other symbols, also in other processes, are not held up. Why it is built so:
``docs/decisions/008-postgres.md``; the tables: ``docs/postgres.md``.

It refuses text with a NUL, which PostgreSQL cannot hold. It retries nothing: an append that failed may be made again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import InvalidInput, StoreError
from marketd.model import ADJUSTED, BAR_SCHEMA, Interval, Side
from marketd.store.batch import STATUSES, checked_batch, checked_columns, checked_range, presence_slots
from marketd.store.contract import Presence, StoreStats
from marketd.store.postgres.columns import ABSENT, from_array, ns_of, pg_time, rounds_of, to_copy
from marketd.store.postgres.config import PostgresConfig
from marketd.store.postgres.database import Database
from marketd.store.postgres.migrate import check_schema, migrate
from marketd.store.postgres.partitions import Partitions

if TYPE_CHECKING:
    from marketd.store.postgres.database import Connection

__all__ = ["PostgresStore"]

_I64 = npt.NDArray[np.int64]

_INTRADAY = ("1s", "1m")
_TABLES = ("candles_intraday", "candles_long")

_LOCKS = 64
_LOCK_CLASS = 0x6D6B_7464
"""First number of the advisory locks of appends; the second is `_lock_of` a symbol."""

_PAGE_ROWS = 131_072
"""Rows of one answer of the server; a longer read is made of several."""

_INT64_MAX = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TS = BAR_SCHEMA.field("ts").type
_PRICES = ("open", "high", "low", "close")
_VALUES = (*_PRICES, "volume", "vwap", "trades", "status")

_STATUS_LIST = f"'{{{','.join(STATUSES)}}}'::text[]"

_STAGE = """
    CREATE TEMP TABLE IF NOT EXISTS marketd_stage (
        series integer, round integer, ts timestamptz, ts_nanos smallint, as_of_ns bigint,
        open double precision, high double precision, low double precision, close double precision,
        volume double precision, vwap double precision, trades bigint, status smallint
    ) ON COMMIT DELETE ROWS
"""

_COPY = b"""
    COPY marketd_stage (series, round, ts, ts_nanos, as_of_ns, open, high, low, close, volume, vwap, trades, status)
    FROM STDIN (FORMAT binary)
"""

_KEEP_SERIES = b"""
    INSERT INTO candle_series (symbol, interval, side, provider)
    SELECT * FROM unnest(%(symbols)s::text[], %(intervals)s::text[], %(sides)s::text[], %(providers)s::text[])
    ON CONFLICT DO NOTHING
"""


def _keep(table: str) -> bytes:
    """SQL that keeps the staged rows of one round that are new versions."""
    values = ", ".join(_VALUES)
    key = (
        "c.symbol = n.symbol AND c.interval = n.interval AND c.side = n.side AND c.ts = s.ts"
        " AND c.ts_nanos = s.ts_nanos AND c.provider = n.provider"
    )
    same = " AND ".join(f"{{0}}.{name} IS NOT DISTINCT FROM s.{name}" for name in _VALUES)
    return f"""
        INSERT INTO {table} (symbol, interval, side, ts, ts_nanos, provider, as_of_ns, {values})
        SELECT n.symbol, n.interval, n.side, s.ts, s.ts_nanos, n.provider,
            greatest(s.as_of_ns, last.as_of_ns + 1), {", ".join(f"s.{name}" for name in _VALUES)}
        FROM (
            SELECT series, ts, ts_nanos, as_of_ns, open, high, low, close, nullif(volume, 'NaN') AS volume,
                nullif(vwap, 'NaN') AS vwap, nullif(trades, {ABSENT}) AS trades,
                ({_STATUS_LIST})[status + 1] AS status
            FROM marketd_stage WHERE round = %(round)s
        ) s
        JOIN unnest(%(symbols)s::text[], %(intervals)s::text[], %(sides)s::text[], %(providers)s::text[],
            %(numbers)s::integer[])
            AS n (symbol, interval, side, provider, number) ON n.number = s.series
        LEFT JOIN LATERAL (
            SELECT as_of_ns, {values} FROM {table} c WHERE {key} ORDER BY c.as_of_ns DESC LIMIT 1
        ) last ON true
        LEFT JOIN LATERAL (
            SELECT as_of_ns, {values} FROM {table} c
            WHERE last.as_of_ns > s.as_of_ns AND {key} AND c.as_of_ns <= s.as_of_ns ORDER BY c.as_of_ns DESC LIMIT 1
        ) then_known ON true
        WHERE (last.as_of_ns IS NULL OR NOT ({same.format("last")}))
        AND (then_known.as_of_ns IS NULL OR NOT ({same.format("then_known")}))
    """.encode()  # noqa: S608 - names of our own tables and columns


_KEEP = {table: _keep(table) for table in _TABLES}

# Sorts rows of raw prices before others; doubled, since it stands in statements that take parameters.
_ADJUSTED_LAST = f"{{0}} LIKE '%%{ADJUSTED}'"

# What one page of an answer is, as arrays; the numbers of providers are places in `providers`.
_AS_ARRAYS = f"""
    array_agg(ts), array_agg(ts_nanos), array_agg(as_of_ns),
    array_agg(open), array_agg(high), array_agg(low), array_agg(close),
    array_agg(coalesce(volume, 'NaN')), array_agg(coalesce(vwap, 'NaN')), array_agg(coalesce(trades, {ABSENT})),
    array_agg(array_position({_STATUS_LIST}, status)), array_agg(array_position((SELECT list FROM names), provider)),
    (SELECT array_to_json(list)::text FROM names)
"""  # noqa: S608 - names of our own columns
_KINDS = ("i8", "i2", "i8", "f8", "f8", "f8", "f8", "f8", "f8", "i8", "i4", "i4")

_IN_RANGE = """
    c.ts >= %(start)s AND (c.ts, c.ts_nanos) >= (%(start)s, %(start_nanos)s)
    AND c.ts <= %(end)s AND (c.ts, c.ts_nanos) < (%(end)s, %(end_nanos)s)
"""

_NAMES_OF_SERIES = """
    names AS (
        SELECT array_agg(provider ORDER BY provider) AS list FROM candle_series
        WHERE symbol = %(symbol)s AND interval = %(interval)s AND side = %(side)s
    )
"""


def _read(table: str, order: str) -> bytes:
    """SQL of the bars in force of one series, one page of them."""
    return f"""
        WITH {_NAMES_OF_SERIES}
        SELECT {_AS_ARRAYS} FROM (
            SELECT DISTINCT ON (ts, ts_nanos) * FROM (
                SELECT DISTINCT ON (c.ts, c.ts_nanos, c.provider) c.*
                FROM {table} c
                WHERE c.symbol = %(symbol)s AND c.interval = %(interval)s AND c.side = %(side)s AND {_IN_RANGE}
                AND c.as_of_ns <= %(as_of)s
                ORDER BY c.ts {order}, c.ts_nanos {order}, c.provider, c.as_of_ns DESC
            ) v
            WHERE status <> 'withdrawn'
            ORDER BY ts {order}, ts_nanos {order},
                array_position(%(prefer)s::text[], provider), {_ADJUSTED_LAST.format("provider")},
                as_of_ns DESC, provider
            LIMIT %(limit)s
        ) chosen
    """.encode()  # noqa: S608 - names of our own tables and columns


_READ = {(table, order): _read(table, order) for table in _TABLES for order in ("ASC", "DESC")}

_VERSIONS = {
    table: f"""
        WITH {_NAMES_OF_SERIES}
        SELECT {_AS_ARRAYS} FROM (
            SELECT c.* FROM {table} c
            WHERE c.symbol = %(symbol)s AND c.interval = %(interval)s AND c.side = %(side)s AND {_IN_RANGE}
            AND (c.ts, c.ts_nanos, c.as_of_ns, c.provider) > (%(start)s, %(start_nanos)s, %(as_of)s, %(provider)s)
            ORDER BY c.ts, c.ts_nanos, c.as_of_ns, c.provider
            LIMIT %(limit)s
        ) page
    """.encode()  # noqa: S608 - names of our own tables and columns
    for table in _TABLES
}

# One look into the index a series: the tables have no order by time over all symbols, and need none for this.
_CROSS = {
    table: f"""
        WITH names AS (SELECT array_agg(DISTINCT provider ORDER BY provider) AS list FROM candle_series)
        SELECT {_AS_ARRAYS}, array_to_json(array_agg(symbol))::text FROM (
            SELECT DISTINCT ON (s.symbol) c.* FROM candle_series s
            CROSS JOIN LATERAL (
                SELECT * FROM {table} c
                WHERE c.symbol = s.symbol AND c.interval = s.interval AND c.side = s.side
                AND c.ts = %(ts)s AND c.ts_nanos = %(ts_nanos)s AND c.provider = s.provider
                AND c.as_of_ns <= %(as_of)s
                ORDER BY c.as_of_ns DESC LIMIT 1
            ) c
            WHERE s.interval = %(interval)s AND s.side = %(side)s
            AND (%(symbols)s::text[] IS NULL OR s.symbol = ANY (%(symbols)s::text[]))
            AND c.status <> 'withdrawn'
            ORDER BY s.symbol, array_position(%(prefer)s::text[], c.provider), {_ADJUSTED_LAST.format("c.provider")},
                c.as_of_ns DESC, c.provider
        ) chosen
    """.encode()  # noqa: S608 - names of our own tables and columns
    for table in _TABLES
}

_WITHDRAWN = {
    table: f"""
        SELECT DISTINCT c.symbol FROM {table} c
        WHERE c.interval = %(interval)s AND c.side = %(side)s AND c.status = 'withdrawn'
        AND c.symbol = ANY (%(symbols)s::text[]) AND {_IN_RANGE}
    """.encode()  # noqa: S608 - names of our own tables and columns
    for table in _TABLES
}


def _presence(table: str, *, exact: bool) -> bytes:
    """SQL of 64 slots a row. exact: withdrawn bars are left out; else there must be none."""
    rows = f"""
        SELECT {{0}} FROM {table} c
        WHERE c.symbol = n.symbol AND c.interval = %(interval)s AND c.side = %(side)s AND {_IN_RANGE}
    """  # noqa: S608 - names of our own tables and columns
    if exact:
        rows = rows.format("DISTINCT ON (c.ts, c.ts_nanos, c.provider) c.ts, c.status")
        rows += "ORDER BY c.ts, c.ts_nanos, c.provider, c.as_of_ns DESC"
        rows = f"SELECT ts FROM ({rows}) last_of_provider WHERE status <> 'withdrawn'"  # noqa: S608
    else:
        rows = rows.format("c.ts")
    # symbol by symbol, each by the index: left to itself, the planner joins all rows with all symbols when it has not
    # seen the table yet
    return f"""
        SELECT array_agg(number), array_agg(word), array_agg(bits)
        FROM unnest(%(symbols)s::text[], %(numbers)s::integer[]) AS n (symbol, number)
        CROSS JOIN LATERAL (
            SELECT slot / 64 AS word, bit_or(1::bigint << (slot %% 64)::integer) AS bits FROM (
                SELECT (date_part('epoch', ts - %(start)s) * 1000000)::bigint / %(interval_us)s AS slot
                FROM ({rows}) present
            ) slots GROUP BY slot / 64
        ) words
    """.encode()  # noqa: S608 - names of our own tables and columns


_PRESENCE = {(table, exact): _presence(table, exact=exact) for table in _TABLES for exact in (False, True)}


class PostgresStore:
    """Implements `BarStore` in a PostgreSQL database (14 or newer), with TimescaleDB where it has that.

    url: as for `Database`. clock: tells which partitions will be wanted soon. Makes or updates the tables first, unless
    `migrate_at_start` is off. Raises StoreError when the database cannot be used or is of another version.

    Several stores, in one process or in many, may write to one database at once.
    """

    def __init__(self, url: str, config: PostgresConfig, clock: Clock) -> None:
        self._database = Database(url, config)
        try:
            if config.migrate_at_start:
                migrate(self._database)
            else:
                check_schema(self._database)
            self._partitions = Partitions(self._database)
            self._partitions.ensure("candles_intraday", _soon(clock))
            self._partitions.ensure("candles_long", _soon(clock))
        except BaseException:
            self._database.close()
            raise
        self._known_series: set[tuple[str, str, str, str]] = set()

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, bars: pa.Table) -> int:
        table = checked_batch(bars)
        self._database.check_open()
        if not table.num_rows:
            return 0
        batch = _Batch(table)
        for name, ts_ns in batch.times():
            self._partitions.ensure(name, ts_ns)
        try:
            return self._append(batch)
        except StoreError as error:
            if not _lacks_partition(error):
                raise
        # somebody has dropped a partition that this process knew
        self._partitions.forget()
        for name, ts_ns in batch.times():
            self._partitions.ensure(name, ts_ns)
        return self._append(batch)

    def _append(self, batch: _Batch) -> int:
        versions = 0
        with self._database.connection() as connection, connection.cursor() as cursor:
            cursor.execute(_STAGE)
            cursor.execute(
                "SELECT pg_advisory_xact_lock(%s, bucket) FROM unnest(%s::integer[]) AS bucket",
                (_LOCK_CLASS, batch.locks()),
            )
            new = [series for series in batch.series if series not in self._known_series]
            if new:
                cursor.execute(_KEEP_SERIES, _by_column(new))
            with cursor.copy(_COPY) as copy:
                copy.write(batch.to_copy())
            for name, numbers in batch.numbers_by_table.items():
                asked = _by_column([batch.series[number] for number in numbers]) | {"numbers": numbers}
                for number in range(batch.rounds):
                    cursor.execute(_KEEP[name], asked | {"round": number})
                    versions += cursor.rowcount
        self._known_series.update(new)
        return versions

    # -- reading ------------------------------------------------------------------------------------------------

    def read(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        limit: int | None = None,
        newest_first: bool = False,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
        coded: bool = False,  # noqa: ARG002 - plain words are allowed
    ) -> pa.Table:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, limit, as_of_ns)
        self._database.check_open()
        sql = _READ[_table_of(interval), "DESC" if newest_first else "ASC"]
        asked = _series(symbol, interval, side, as_of_ns, prefer)
        pages: list[pa.Table] = []
        left = _INT64_MAX if limit is None else limit
        if not _is_storable(symbol):
            left = 0
        with self._database.connection(snapshot=True) as connection:
            while start_ns < end_ns and left > 0:
                wanted = min(left, _PAGE_ROWS)
                page = _Page(connection, sql, asked | _range(start_ns, end_ns) | {"limit": wanted})
                if page.rows:
                    pages.append(page.table(symbol, interval, side))
                if page.rows < wanted:
                    break
                left -= wanted
                if newest_first:
                    end_ns = int(page.ts_ns[-1])
                else:
                    start_ns = int(page.ts_ns[-1]) + 1
        return pa.concat_tables(pages) if pages else BAR_SCHEMA.empty_table()

    def cross_section(
        self,
        interval: Interval,
        ts_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
    ) -> pa.Table:
        checked_range(ts_ns, ts_ns, side, None, as_of_ns)
        self._database.check_open()
        if not -_INT64_MAX <= ts_ns <= _INT64_MAX:
            return BAR_SCHEMA.empty_table()
        ts, ts_nanos = _time(ts_ns)
        asked = _series("", interval, side, as_of_ns, prefer) | {"ts": ts, "ts_nanos": ts_nanos}
        asked["symbols"] = None if symbols is None else sorted(filter(_is_storable, set(symbols)))
        with self._database.connection(snapshot=True) as connection:
            page = _Page(connection, _CROSS[_table_of(interval)], asked)
            return page.table(page.texts(13), interval, side)

    def scan(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        names = checked_columns(columns)
        for symbol in self.symbols() if symbols is None else sorted(set(symbols)):
            bars = self.read(symbol, interval, start_ns, end_ns, side=side, as_of_ns=as_of_ns, prefer=prefer)
            yield from bars.select(names).combine_chunks().to_batches()

    def versions(self, symbol: str, interval: Interval, ts_ns: int, *, side: Side = "trade") -> pa.Table:
        return pa.Table.from_batches(self.read_versions(symbol, interval, ts_ns, ts_ns + 1, side=side), BAR_SCHEMA)

    def read_versions(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, side: Side = "trade"
    ) -> Iterator[pa.RecordBatch]:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, None, None)
        self._database.check_open()
        if start_ns >= end_ns or not _is_storable(symbol):
            return
        asked = {"symbol": symbol, "interval": interval.name, "side": side, "limit": _PAGE_ROWS}
        after = {"as_of": -_INT64_MAX - 1, "provider": ""}  # before every version of the first ts
        while True:
            with self._database.connection(snapshot=True) as connection:
                page = _Page(connection, _VERSIONS[_table_of(interval)], asked | _range(start_ns, end_ns) | after)
                table = page.table(symbol, interval, side)
            yield from table.combine_chunks().to_batches()
            if page.rows < _PAGE_ROWS:
                return
            start_ns = int(page.ts_ns[-1])
            after = {"as_of": int(page.as_of_ns[-1]), "provider": table.column("provider")[-1].as_py()}

    def presence(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
    ) -> Presence:
        start_ns, end_ns = checked_range(start_ns, end_ns, side, None, None)
        asked = self.symbols() if symbols is None else tuple(symbols)
        first_ns, slots = presence_slots(interval, start_ns, end_ns, len(asked))
        words = np.zeros((len(asked), -(-slots // 64)), "<i8")
        if slots and asked:
            table = _table_of(interval)
            numbers: dict[str, int] = {}
            for number, symbol in enumerate(asked):
                if _is_storable(symbol):
                    numbers.setdefault(symbol, number)
            common = {"interval": interval.name, "side": side, "interval_us": interval.ns // 1_000}
            common |= _range(first_ns, end_ns)
            with self._database.connection(snapshot=True) as connection:
                rows = connection.execute(_WITHDRAWN[table], common | {"symbols": list(numbers)}).fetchall()
                withdrawn = {row[0] for row in rows}
                for exact in (False, True):
                    part = {s: n for s, n in numbers.items() if (s in withdrawn) == exact}
                    if part:
                        parameters = common | {"symbols": list(part), "numbers": list(part.values())}
                        _fill(words, connection, _PRESENCE[table, exact], parameters)
            for number, symbol in enumerate(asked):  # one that was named twice
                words[number] = words[numbers.get(symbol, number)]
        bits = words.view(np.uint8)[:, : -(-slots // 8)]
        return Presence(
            symbols=asked, interval=interval, start_ns=first_ns, slots=slots, bits=np.ascontiguousarray(bits)
        )

    def symbols(self) -> tuple[str, ...]:
        with self._database.connection(snapshot=True) as connection:
            rows = connection.execute("SELECT DISTINCT symbol FROM candle_series ORDER BY symbol").fetchall()
        return tuple(row[0] for row in rows)

    def stats(self) -> StoreStats:
        """Counts rows: seconds for each hundred million."""
        sql = """
            SELECT
                (SELECT count(DISTINCT symbol) FROM candle_series),
                (SELECT count(*) FROM candles_intraday), (SELECT count(*) FROM candles_long),
                (SELECT count(*) FROM (SELECT DISTINCT symbol, interval, side, ts, ts_nanos, provider
                    FROM candles_intraday) keys)
                + (SELECT count(*) FROM (SELECT DISTINCT symbol, interval, side, ts, ts_nanos, provider
                    FROM candles_long) keys),
                (SELECT value FROM schema_settings WHERE name = 'partitioning'),
                current_setting('server_version')
        """
        with self._database.connection(snapshot=True) as connection:
            row = connection.execute(sql).fetchone()
            assert row is not None
            symbols, intraday, long, bars, partitioning, version = row
            size = _bytes(connection, hypertables=partitioning == "timescale")
        return StoreStats(
            kind="postgres",
            symbols=symbols,
            versions=intraday + long,
            bytes=size,
            details={"bars": bars, "partitioning": partitioning, "server_version": version},
        )

    def close(self) -> None:
        self._database.close()


class _Batch:
    """Rows of an append as numbers, ready to be staged. series: (symbol, interval, side, provider), each once.

    Rows with one key are in different rounds, ascending by `as_of`: each round is checked against what the one before
    has kept.
    """

    def __init__(self, bars: pa.Table) -> None:
        codes, names = [], []
        for name in ("symbol", "interval", "side", "provider"):
            encoded = bars.column(name).combine_chunks().dictionary_encode()
            words = encoded.dictionary.to_pylist()
            for word in words:
                if "\0" in str(word):
                    raise InvalidInput(name, word, "text without a NUL")
            codes.append(encoded.indices.to_numpy().astype(np.int64))
            names.append(words)
        sizes = [len(words) for words in names]
        flat, number = np.unique(np.ravel_multi_index(codes, sizes), return_inverse=True)
        places = np.unravel_index(flat, sizes)
        self.series: list[tuple[str, str, str, str]] = list(
            zip(*([words[i] for i in place] for words, place in zip(names, places, strict=True)), strict=True)
        )
        self.numbers_by_table: dict[str, list[int]] = {}
        for place, series in enumerate(self.series):
            self.numbers_by_table.setdefault(_table_named(series[1]), []).append(place)
        self._number = number.astype(np.int32)
        self._ts_ns = _int64(bars.column("ts").cast(pa.int64()).to_numpy())
        self._as_of_ns = _int64(bars.column("as_of").cast(pa.int64()).to_numpy())
        self._round = rounds_of(self._number, self._ts_ns, self._as_of_ns)
        self.rounds = int(self._round.max()) + 1
        self._bars = bars

    def times(self) -> Iterator[tuple[str, _I64]]:
        """The times of the rows of each table that has any."""
        for name, numbers in self.numbers_by_table.items():
            if len(self.numbers_by_table) == 1:
                yield name, self._ts_ns
            else:
                yield name, self._ts_ns[np.isin(self._number, numbers)]

    def locks(self) -> list[int]:
        """The locks of its symbols, in the one order that all writers take them in."""
        return sorted({zlib.crc32(symbol.encode()) % _LOCKS for symbol in {series[0] for series in self.series}})

    def to_copy(self) -> bytes:
        ts, ts_nanos = pg_time(self._ts_ns)
        status = self._bars.column("status").combine_chunks().dictionary_encode()
        numbers = np.array([STATUSES.index(word) for word in status.dictionary.to_pylist()], np.int16)
        columns: dict[str, npt.NDArray[Any]] = {
            "series": self._number,
            "round": self._round,
            "ts": ts,
            "ts_nanos": ts_nanos,
            "as_of_ns": self._as_of_ns,
        }
        for name in (*_PRICES, "volume", "vwap"):
            columns[name] = self._bars.column(name).to_numpy().astype(np.float64)  # null becomes NaN
        columns["trades"] = _int64(self._bars.column("trades").fill_null(pa.scalar(ABSENT)).to_numpy())
        columns["status"] = numbers[status.indices.to_numpy()]
        return to_copy(columns)


class _Page:
    """One answer of `_AS_ARRAYS`, taken apart."""

    def __init__(self, connection: Connection, sql: bytes, asked: Mapping[str, Any]) -> None:
        with connection.cursor(binary=True) as cursor:
            cursor.execute(sql, asked)
            result = cursor.pgresult
            assert result is not None
            self._result = result
            columns = [from_array(result.get_value(0, i), kind) for i, kind in enumerate(_KINDS)]
        self.ts_ns = ns_of(columns[0], columns[1])
        self.as_of_ns = columns[2]
        self._columns = columns
        self.rows = len(self.ts_ns)

    def texts(self, column: int) -> list[str]:
        raw = self._result.get_value(0, column)
        return [] if raw is None else msgspec.json.decode(raw, type=list[str])

    def table(self, symbol: str | list[str], interval: Interval, side: Side) -> pa.Table:
        """symbol: of all rows, or of each."""
        _, _, _, *prices, volume, vwap, trades, status, provider = self._columns
        columns = {
            "symbol": pa.repeat(symbol, self.rows) if isinstance(symbol, str) else pa.array(symbol, pa.string()),
            "interval": pa.repeat(interval.name, self.rows),
            "side": pa.repeat(side, self.rows),
            "ts": pa.array(self.ts_ns).cast(_TS),
            **{name: pa.array(values) for name, values in zip(_PRICES, prices, strict=True)},
            "volume": pa.array(volume, from_pandas=True),
            "vwap": pa.array(vwap, from_pandas=True),
            "trades": pa.array(trades, mask=trades == ABSENT),
            "provider": _words(provider, self.texts(12)),
            "status": _words(status, STATUSES),
            "as_of": pa.array(self.as_of_ns).cast(_TS),
        }
        return pa.Table.from_pydict(columns, BAR_SCHEMA)


def _words(numbers: npt.NDArray[Any], words: Sequence[str]) -> pa.Array[Any]:
    """Numbers from 1 as the words they stand for."""
    return pa.DictionaryArray.from_arrays(pa.array(numbers - 1), pa.array(words, pa.string())).dictionary_decode()


def _fill(words: npt.NDArray[Any], connection: Connection, sql: bytes, asked: Mapping[str, Any]) -> None:
    with connection.cursor(binary=True) as cursor:
        cursor.execute(sql, asked)
        result = cursor.pgresult
        assert result is not None
        number, word, bits = (from_array(result.get_value(0, i), kind) for i, kind in enumerate(("i4", "i8", "i8")))
    words[number, word] = bits


def _bytes(connection: Connection, *, hypertables: bool) -> int:
    if hypertables:
        sql = "SELECT sum(hypertable_size(name::regclass)) FROM unnest(%s::text[]) AS name"
    else:
        sql = (
            "SELECT sum(pg_total_relation_size(part.relid)) FROM unnest(%s::text[]) AS name,"
            " pg_partition_tree(name::regclass) AS part"
        )
    row = connection.execute(sql.encode(), (list(_TABLES),)).fetchone()
    return 0 if row is None else int(row[0])


def _lacks_partition(error: StoreError) -> bool:
    return getattr(error.__cause__, "sqlstate", None) == "23514"


def _table_of(interval: Interval) -> str:
    return _table_named(interval.name)


def _table_named(interval: str) -> str:
    return _TABLES[0] if interval in _INTRADAY else _TABLES[1]


def _by_column(series: Sequence[tuple[str, str, str, str]]) -> dict[str, list[Any]]:
    symbols, intervals, sides, providers = map(list, zip(*series, strict=True))
    return {"symbols": symbols, "intervals": intervals, "sides": sides, "providers": providers}


def _series(symbol: str, interval: Interval, side: Side, as_of_ns: int | None, prefer: Sequence[str]) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "interval": interval.name,
        "side": side,
        "as_of": _INT64_MAX if as_of_ns is None else as_of_ns,
        "prefer": list(filter(_is_storable, prefer)),
    }


def _range(start_ns: int, end_ns: int) -> dict[str, Any]:
    start, start_nanos = _time(start_ns)
    end, end_nanos = _time(end_ns)
    return {"start": start, "start_nanos": start_nanos, "end": end, "end_nanos": end_nanos}


def _time(ns: int) -> tuple[datetime, int]:
    """As the columns ts and ts_nanos have it."""
    us, nanos = divmod(ns, 1_000)
    return _EPOCH + timedelta(microseconds=us), nanos


def _is_storable(text: str) -> bool:
    """Whether there can be such a text in the database."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _soon(clock: Clock) -> _I64:
    now_ns = clock.time_ns()
    return np.array([now_ns, now_ns + 7 * 86_400 * 10**9], np.int64)


def _int64(values: npt.NDArray[Any]) -> _I64:
    return values.astype(np.int64, copy=False)
