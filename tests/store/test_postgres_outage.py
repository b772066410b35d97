"""What only a database can suffer: outages, killed writers, writers that meet, partitions, text that it cannot hold."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from marketd.errors import InvalidInput, StoreError
from marketd.model import BAR_SCHEMA, Interval, parse_ns
from marketd.store.postgres import PostgresConfig, PostgresRecords, PostgresStore
from marketd.testing import ManualClock
from postgres_server import PostgresServer

M1, D1 = Interval.parse("1m"), Interval.parse("1d")
START = parse_ns("2026-11-20T14:30:00Z")
MINUTE = 60 * 10**9
FOREVER = 2**63 - 1
ROWS = 20


def minute(number: int, close: float = 1.0, as_of_ns: int | None = None, interval: str = "1m") -> pa.Table:
    """Bars of one minute of twenty symbols."""
    ts_ns = START + number * MINUTE
    known_ns = ts_ns + MINUTE if as_of_ns is None else as_of_ns
    columns = {
        "symbol": [f"S{n}" for n in range(ROWS)],
        "interval": [interval] * ROWS,
        "side": ["trade"] * ROWS,
        "ts": pa.array([ts_ns] * ROWS, pa.int64()).cast(BAR_SCHEMA.field("ts").type),
        **{name: [close] * ROWS for name in ("open", "high", "low", "close")},
        "volume": [None] * ROWS,
        "vwap": [None] * ROWS,
        "trades": [1] * ROWS,
        "provider": ["sim"] * ROWS,
        "status": ["final"] * ROWS,
        "as_of": pa.array([known_ns] * ROWS, pa.int64()).cast(BAR_SCHEMA.field("as_of").type),
    }
    return pa.table(columns).cast(BAR_SCHEMA)


def stored(store: PostgresStore, symbol: str = "S0", interval: Interval = M1) -> list[int]:
    answer = store.read(symbol, interval, -FOREVER, FOREVER)
    return [(ts - START) // MINUTE for ts in answer.column("ts").cast(pa.int64()).to_pylist()]


def open_store(url: str, **settings: object) -> PostgresStore:
    return PostgresStore(url, PostgresConfig(**settings), ManualClock(START))


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    store = open_store(postgres_url)
    yield store
    store.close()


def test_while_the_database_is_gone_calls_fail_and_afterwards_they_work(own_postgres_server: PostgresServer) -> None:
    url = own_postgres_server.url("postgres")
    store, records = open_store(url), PostgresRecords(url, PostgresConfig())
    assert store.append(minute(0)) == ROWS
    own_postgres_server.stop()
    calls = (
        lambda: store.append(minute(1)),
        lambda: stored(store),
        lambda: store.presence(M1, START, START + MINUTE),
        store.symbols,
        store.stats,
        records.universe,
        lambda: records.requeue_running(0),
    )
    for call in calls:
        with pytest.raises(StoreError, match="postgresql:///postgres"):
            call()
    own_postgres_server.start()
    assert stored(store) == [0]
    assert store.append(minute(1)) == ROWS
    assert stored(store) == [0, 1]
    assert records.universe() == ()
    store.close()
    records.close()


def test_nothing_acknowledged_is_lost_when_the_server_crashes_under_load(own_postgres_server: PostgresServer) -> None:
    store = open_store(own_postgres_server.url("postgres"))
    acknowledged: list[int] = []
    failures: list[StoreError] = []
    enough, stop = threading.Event(), threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            try:
                store.append(minute(number))
            except StoreError as error:
                failures.append(error)
                stop.wait(0.01)
                continue
            acknowledged.append(number)
            number += 1
            if len(acknowledged) >= wanted:
                enough.set()

    wanted = 5
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(2):
        assert enough.wait(30)
        own_postgres_server.stop(signal.SIGQUIT)
        wanted = len(acknowledged) + 5
        enough.clear()
        own_postgres_server.start()
    assert enough.wait(30)
    stop.set()
    thread.join(30)
    assert acknowledged == list(range(len(acknowledged)))
    for symbol in ("S0", f"S{ROWS - 1}"):
        assert stored(store, symbol) == acknowledged
    assert store.stats().versions == len(acknowledged) * ROWS
    store.close()


WRITER = """
import sys
sys.path[:0] = {path!r}
from test_postgres_outage import minute, open_store
store = open_store({url!r}, migrate_at_start=False)
for number in range({start}, 100_000):
    store.append(minute(number))
    print(number, flush=True)
"""


def kill_writers(url: str, kills: int) -> None:
    seed = random.Random(20)
    acknowledged: list[int] = []
    for _ in range(kills):
        start = acknowledged[-1] + 1 if acknowledged else 0
        code = WRITER.format(path=[str(Path(__file__).parent), str(Path(__file__).parent.parent)], url=url, start=start)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged += [int(process.stdout.readline()) for _ in range(seed.randrange(1, 12))]
        process.kill()
        acknowledged += map(int, process.stdout.read().split())
        process.stdout.close()
        process.wait(30)
    store = open_store(url)
    found = stored(store)
    # a batch that was committed before its writer could say so may be there too
    assert [number for number in found if number <= acknowledged[-1]] == sorted(set(acknowledged))
    assert len(found) <= len(acknowledged) + 1
    assert store.stats().versions == len(found) * ROWS
    store.close()


def test_nothing_acknowledged_is_lost_when_writers_are_killed(postgres_url: str) -> None:
    kill_writers(postgres_url, 2)


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_when_a_hundred_writers_are_killed(postgres_url: str) -> None:
    kill_writers(postgres_url, 100)


def test_stores_that_write_the_same_bars_at_once_make_each_version_once(postgres_url: str) -> None:
    """Three stores, as three processes would have them, send the same corrections of the same bars."""
    batches = [minute(0, close=float(n), as_of_ns=START + n) for n in range(1, 6)]
    stores = [open_store(postgres_url, migrate_at_start=False) for _ in range(3)]
    made: list[int] = []
    begin = threading.Barrier(len(stores))

    def work(store: PostgresStore) -> None:
        begin.wait(30)
        made.append(sum(store.append(batch) for batch in batches))

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    versions = stores[0].versions("S7", M1, START)
    assert len(made) == len(stores)
    assert sum(made) == stores[0].stats().versions
    as_of = versions.column("as_of").cast(pa.int64()).to_pylist()
    assert as_of == sorted(set(as_of))
    # whatever order they came in, no version repeats the one before it
    closes = versions.column("close").to_pylist()
    assert all(one != other for one, other in itertools.pairwise(closes))
    assert set(closes) == {1.0, 2.0, 3.0, 4.0, 5.0}
    for store in stores:
        store.close()


def test_a_pool_that_is_used_up_says_so(postgres_url: str) -> None:
    store = open_store(postgres_url, pool_size=1, connect_timeout_s=1.0)
    with store._database.connection(), pytest.raises(StoreError, match="all 1 connections are in use"):
        store.symbols()
    assert store.symbols() == ()
    store.close()


def test_partitions_are_made_when_their_first_row_comes(store: PostgresStore, postgres_url: str) -> None:
    days = ("1969-12-31T23:59:00Z", "1970-01-01", "2024-02-29T12:00:00Z", "2031-12-31T23:59:00Z", "2032-01-01")
    numbers = [(parse_ns(day) - START) // MINUTE for day in days]
    for number in numbers:
        assert store.append(minute(number)) == ROWS
        assert store.append(minute(number, interval="5m")) == ROWS
    assert stored(store) == numbers
    assert stored(store, interval=Interval.parse("5m")) == numbers
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute(
            "SELECT DISTINCT tableoid::regclass::text FROM candles_intraday"
            " UNION SELECT DISTINCT tableoid::regclass::text FROM candles_long"
        ).fetchall()
    assert {row[0] for row in rows} == {
        *("candles_intraday_p1969_12", "candles_intraday_p1970_01", "candles_intraday_p2024_02"),
        *("candles_intraday_p2031_12", "candles_intraday_p2032_01"),
        *("candles_long_p1969", "candles_long_p1970", "candles_long_p2024", "candles_long_p2031", "candles_long_p2032"),
    }


def test_a_partition_that_was_dropped_by_hand_is_made_again(store: PostgresStore, postgres_url: str) -> None:
    number = (parse_ns("2019-05-05") - START) // MINUTE
    assert store.append(minute(number)) == ROWS
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE candles_intraday_p2019_05")
    assert store.append(minute(number + 1)) == ROWS
    assert stored(store) == [number + 1]


def test_other_stores_make_partitions_at_the_same_time(postgres_url: str) -> None:
    stores = [open_store(postgres_url, migrate_at_start=False) for _ in range(4)]
    numbers = [(parse_ns(f"2018-{month:02}-15") - START) // MINUTE for month in range(1, 13)]

    def work(store: PostgresStore) -> None:
        for number in numbers:
            store.append(minute(number))

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert stored(stores[0]) == numbers
    for store in stores:
        store.close()


def test_a_long_read_is_put_together_from_pages(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.store.postgres.bars._PAGE_ROWS", 7)
    numbers = list(range(30))
    for number in numbers:
        store.append(minute(number))
    assert stored(store) == numbers
    for limit in (6, 7, 8, 14, 29, 30, 99):
        for newest_first in (False, True):
            answer = store.read("S3", M1, START, FOREVER, limit=limit, newest_first=newest_first)
            expected = (numbers[::-1] if newest_first else numbers)[:limit]
            assert [(ts - START) // MINUTE for ts in answer["ts"].cast(pa.int64()).to_pylist()] == expected


def test_versions_are_put_together_from_pages(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.store.postgres.bars._PAGE_ROWS", 4)
    # six versions of each bar, of two providers, each time at one moment
    parts = []
    for number in range(5):
        for version in range(3):
            rows = minute(number, close=float(version), as_of_ns=START + 100 * number + version)
            other = rows.set_column(11, "provider", pa.array(["yahoo"] * ROWS)).cast(BAR_SCHEMA)
            parts += [rows.slice(3, 1), other.slice(3, 1)]
            store.append(pa.concat_tables([rows, other]))
    batches = list(store.read_versions("S3", M1, -FOREVER, FOREVER))
    assert [batch.num_rows for batch in batches] == [4, 4, 4, 4, 4, 4, 4, 2]
    assert pa.Table.from_batches(batches).equals(pa.concat_tables(parts).combine_chunks())
    some = store.read_versions("S3", M1, START + 1, START + 2 * MINUTE + 1)
    assert pa.Table.from_batches(some).equals(pa.concat_tables(parts[6:18]).combine_chunks())
    # exactly one page
    monkeypatch.setattr("marketd.store.postgres.bars._PAGE_ROWS", 30)
    assert [batch.num_rows for batch in store.read_versions("S3", M1, -FOREVER, FOREVER)] == [30]


def test_nanoseconds_are_kept(store: PostgresStore) -> None:
    table = minute(0).slice(0, 1)
    times = [START, START + 1, START + 999, START + 1_000, -1, -1_001]
    as_of = [5, -5, 1_234_567_890_123_456_789, 0, 999, 1_000]
    kind = BAR_SCHEMA.field("ts").type
    table = pa.concat_tables([table] * 6)
    table = table.set_column(3, "ts", pa.array(times, pa.int64()).cast(kind))
    table = table.set_column(13, "as_of", pa.array(as_of, pa.int64()).cast(kind)).cast(BAR_SCHEMA)
    assert store.append(table) == 6
    order = np.argsort(times)
    assert store.read("S0", M1, -FOREVER, FOREVER).equals(table.take(pa.array(order)))
    within = store.read("S0", M1, START + 1, START + 1_000)
    assert within.column("ts").cast(pa.int64()).to_pylist() == [START + 1, START + 999]
    assert store.versions("S0", M1, START + 1).num_rows == 1
    assert store.cross_section(M1, START + 999).num_rows == 1


def test_text_that_postgresql_cannot_hold_is_refused_and_not_found(store: PostgresStore) -> None:
    table = minute(0).slice(0, 1)
    with pytest.raises(InvalidInput, match="symbol: "):
        store.append(table.set_column(0, "symbol", pa.array(["A\0B"])).cast(BAR_SCHEMA))
    store.append(table)
    for symbol in ("A\0B", "\ud800"):
        assert store.read(symbol, M1, 0, FOREVER).num_rows == 0
        assert store.versions(symbol, M1, START).num_rows == 0
        assert list(store.read_versions(symbol, M1, 0, FOREVER)) == []
        assert store.cross_section(M1, START, symbols=[symbol, "S0"]).num_rows == 1
        presence = store.presence(M1, START, START + MINUTE, symbols=[symbol, "S0", "S0"])
        assert [bool(row[0]) for row in presence.bits] == [False, True, True]


def test_presence_of_bars_that_were_withdrawn(store: PostgresStore) -> None:
    store.append(pa.concat_tables([minute(number) for number in range(200)]))
    gone = minute(70, as_of_ns=START + 10**15)
    withdrawn = pa.array(["withdrawn"] * ROWS)
    store.append(gone.set_column(12, "status", withdrawn).cast(BAR_SCHEMA).slice(3, 1))
    presence = store.presence(M1, START, START + 200 * MINUTE)
    assert presence.of("S0").all()
    assert np.flatnonzero(~presence.of("S3")).tolist() == [70]
    # given back
    store.append(minute(70, close=2.0, as_of_ns=START + 2 * 10**15).slice(3, 1))
    assert store.presence(M1, START, START + 200 * MINUTE).of("S3").all()
