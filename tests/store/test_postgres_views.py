"""What a person at psql or Grafana sees, the quote log, and numbers in PostgreSQL's binary forms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import InvalidInput, StoreError
from marketd.model import (
    AnsweredSpan,
    BackfillJob,
    Bar,
    CorporateAction,
    Cursor,
    Instrument,
    Name,
    Quote,
    parse_ns,
)
from marketd.store.postgres import PostgresConfig, PostgresQuoteLog, PostgresRecords, PostgresStore
from marketd.store.postgres.columns import from_array, ns_of, pg_time, rounds_of, to_copy
from marketd.testing import ManualClock
from marketd.testing.records_conformance import observation_table
from marketd.testing.store_conformance import bar_table

START = parse_ns("2026-11-20T14:30:00Z")
AT = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
MINUTE = 60 * 10**9


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    store = PostgresStore(postgres_url, PostgresConfig(), ManualClock(START))
    yield store
    store.close()


@pytest.fixture
def records(postgres_url: str) -> Iterator[PostgresRecords]:
    records = PostgresRecords(postgres_url, PostgresConfig())
    yield records
    records.close()


def ask(url: str, sql: str, *asked: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        return connection.execute(sql.encode(), asked or None).fetchall()


def bar(close: float, as_of: int, **changed: Any) -> Bar:
    fields: dict[str, Any] = {"symbol": "AAPL", "interval": "1m", "side": "trade", "ts_ns": START, "open": 1.0}
    fields |= {"high": 9.0, "low": 0.5, "close": close, "volume": None, "vwap": None, "trades": 3}
    fields |= {"provider": "sim", "status": "final", "as_of_ns": START + as_of * 10**9}
    return Bar(**(fields | changed))


def test_v_candles_shows_each_bar_once_as_it_is_now(store: PostgresStore, postgres_url: str) -> None:
    store.append(
        bar_table(
            [
                bar(1.0, 60),
                bar(2.0, 120, status="corrected"),
                bar(3.0, 90, provider="other"),
                bar(4.0, 60, ts_ns=START + MINUTE),
                bar(4.0, 120, ts_ns=START + MINUTE, status="withdrawn"),
                bar(5.0, 60, interval="1d", ts_ns=parse_ns("2026-11-20")),
            ]
        )
    )
    shown = "SELECT ts, interval, close, provider, status, as_of FROM v_candles WHERE symbol = 'AAPL' ORDER BY interval"
    corrected = datetime(2026, 11, 20, 14, 32, tzinfo=UTC)
    assert ask(postgres_url, shown) == [
        (datetime(2026, 11, 20, tzinfo=UTC), "1d", 5.0, "sim", "final", datetime(2026, 11, 20, 14, 31, tzinfo=UTC)),
        (AT, "1m", 2.0, "sim", "corrected", corrected),
    ]
    then = "SELECT ts, close, provider FROM candles_as_of(%s) WHERE symbol = 'AAPL' AND interval = '1m' ORDER BY ts"
    next_minute = datetime(2026, 11, 20, 14, 31, tzinfo=UTC)
    assert ask(postgres_url, then, datetime(2026, 11, 20, 14, 30, 59, tzinfo=UTC)) == []
    assert ask(postgres_url, then, datetime(2026, 11, 20, 14, 31, tzinfo=UTC)) == [
        (AT, 1.0, "sim"),
        (next_minute, 4.0, "sim"),
    ]
    assert ask(postgres_url, then, datetime(2026, 11, 20, 14, 31, 45, tzinfo=UTC))[0] == (AT, 3.0, "other")
    versions = "SELECT count(*) FROM v_candle_versions WHERE symbol = 'AAPL' AND ts = %s AND interval = '1m'"
    assert ask(postgres_url, versions, AT) == [(3,)]


def test_v_candles_shows_an_adjusted_bar_where_there_is_no_raw_one(store: PostgresStore, postgres_url: str) -> None:
    next_minute = START + MINUTE
    store.append(
        bar_table(
            [
                bar(1.0, 60),
                bar(2.0, 120, provider="file:adjusted"),
                bar(3.0, 60, ts_ns=next_minute, provider="file:adjusted"),
            ]
        )
    )
    expected = [(1.0, "sim"), (3.0, "file:adjusted")]
    shown = "SELECT close, provider FROM {} WHERE symbol = 'AAPL' AND interval = '1m' ORDER BY ts"
    assert ask(postgres_url, shown.format("v_candles")) == expected
    assert ask(postgres_url, shown.format("candles_as_of('2026-11-20 15:00Z')")) == expected


def test_a_filter_on_v_candles_reaches_the_index_and_the_partition(store: PostgresStore, postgres_url: str) -> None:
    store.append(bar_table([bar(1.0, 60), bar(1.0, 60, ts_ns=parse_ns("2025-01-01"))]))
    sql = (
        "SELECT * FROM v_candles WHERE symbol = 'AAPL' AND interval = '1m' AND side = 'trade' AND ts BETWEEN %s AND %s"
    )
    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET enable_seqscan = off")
        rows = connection.execute(f"EXPLAIN {sql}".encode(), (AT, AT)).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "candles_intraday_p2026_11" in plan
    assert "candles_intraday_p2025_01" not in plan
    assert "candles_long" not in plan  # its CHECK says that it has no minutes
    assert "Index Cond: ((symbol = 'AAPL'" in plan


def test_the_views_of_the_records_show_times_and_what_is_in_force(records: PostgresRecords, postgres_url: str) -> None:
    records.save_universe([Instrument(id="FB", symbol="FB"), Instrument(id="X", symbol="X")], source="a", as_of_ns=1)
    meta = Instrument(id="FB", symbol="META", exchange="XNAS", names=(Name(symbol="FB", end_ns=5),))
    records.save_universe([meta], source="b", as_of_ns=2)
    assert ask(postgres_url, "SELECT symbol, id, exchange, names, version FROM v_universe") == [
        ("META", "FB", "XNAS", [{"symbol": "FB", "start_ns": None, "end_ns": 5}], 2)
    ]
    span = AnsweredSpan(
        symbol=None,
        interval="1m",
        provider="sim",
        start_ns=START,
        end_ns=START + MINUTE,
        reason="no_trades",
        as_of_ns=START + 2 * MINUTE,
    )
    records.note_spans([span])
    job = BackfillJob(
        id="j", symbol="AAPL", interval="1m", start_ns=START, end_ns=START + MINUTE, tier="T0", reason="gap"
    )
    records.add_jobs([job])
    minute = datetime(2026, 11, 20, 14, 31, tzinfo=UTC)
    assert ask(postgres_url, "SELECT symbol, starts, ends, reason FROM v_gaps ORDER BY reason") == [
        (None, AT, minute, "no_trades"),
        ("AAPL", AT, minute, "not_fetched"),
    ]
    assert ask(postgres_url, "SELECT id, starts, state, done FROM v_jobs") == [("j", AT, "queued", None)]
    records.set_cursors([Cursor(symbol="AAPL", interval="1m", provider="sim", until_ns=START, updated_ns=START)])
    assert ask(postgres_url, "SELECT symbol, until FROM v_cursors") == [("AAPL", AT)]
    split = CorporateAction(
        symbol="AAPL", kind="split", ex_ns=parse_ns("2014-06-09"), provider="sim", as_of_ns=1, ratio=7.0
    )
    records.add_actions([split])
    assert ask(postgres_url, "SELECT symbol, ex_date, ratio FROM v_actions") == [("AAPL", date(2014, 6, 9), 7.0)]
    records.add_observations(
        observation_table([("VIX", START, 20.0, "cboe", 1), ("VIX", START, 21.0, "cboe", 2), ("CPI", 0, 1.0, "x", 1)])
    )
    records.add_observations(observation_table([("CPI", 0, None, "x", 2)]))
    assert ask(postgres_url, "SELECT series, ts, value FROM v_macro") == [("VIX", AT, 21.0)]


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01 00:00:00"),
        (1_999, "1970-01-01 00:00:00.000001"),
        (-1, "1969-12-31 23:59:59.999999"),
        (1_763_649_000_123_456_789, "2025-11-20 14:30:00.123456"),
        (-1_325_289_600_000_000_000, "1928-01-03 00:00:00"),
        (9_214_646_400_000_001_000, "2262-01-01 00:00:00.000001"),
    ],
)
def test_times_of_the_views_are_exact(postgres_url: str, ns: int, text: str) -> None:
    assert ask(postgres_url, "SELECT marketd_time(%s)::timestamp::text", ns) == [(text,)]
    assert ask(postgres_url, "SELECT marketd_ns(%s::timestamp AT TIME ZONE 'UTC')", text) == [(ns // 1000 * 1000,)]


# -- quote log --------------------------------------------------------------------------------------------------------


def quote(symbol: str, seconds: float, bid: float | None = 1.0, **changed: Any) -> Quote:
    at_ns = START + int(seconds * 10**9)
    return Quote(symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns + 7, source="sim", bid=bid, **changed)


def test_the_quote_log_keeps_one_row_a_symbol_and_pause(store: PostgresStore, postgres_url: str) -> None:
    clock = ManualClock(START)
    log = PostgresQuoteLog(postgres_url, PostgresConfig(quote_log_seconds=5), clock)
    assert log.write([quote("A", 0), quote("A", 1, ask=3.0), quote("B", 0, None, last=2.0, volume=9.0)]) == 2
    clock._elapsed_ns += 4 * 10**9
    assert log.write([quote("A", 4), quote("C", 4)]) == 1
    clock._elapsed_ns += 10**9
    assert log.write([quote("A", 5), quote("B", 0, None, last=2.0, volume=9.0)]) == 1
    assert log.write([]) == 0
    shown = "SELECT symbol, extract(epoch FROM ts - %s)::int, bid, ask, last, volume, mid FROM v_quotes ORDER BY 1, 2"
    assert ask(postgres_url, shown, AT) == [
        ("A", 1, 1.0, 3.0, None, None, 2.0),
        ("A", 5, 1.0, None, None, None, None),
        ("B", 0, None, None, 2.0, 9.0, None),
        ("C", 4, 1.0, None, None, None, None),
    ]
    log.close()
    log.close()
    with pytest.raises(StoreError, match="closed"):
        log.write([quote("A", 99)])


def test_the_quote_log_is_off_unless_it_is_asked_for(postgres_url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        PostgresQuoteLog(postgres_url, PostgresConfig(), ManualClock(START))
    assert refused.value.field == "quote_log_seconds"


# -- binary forms -----------------------------------------------------------------------------------------------------

NS = st.integers(-(2**63) + 1, 2**63 - 1)


@given(st.lists(NS, max_size=20))
def test_a_time_comes_back_to_the_nanosecond(times: list[int]) -> None:
    ns = np.array(times, np.int64)
    us, nanos = pg_time(ns)
    assert ((nanos >= 0) & (nanos < 1000)).all()
    assert ns_of(us, nanos).tolist() == times


def test_times_are_counted_from_2000() -> None:
    us, nanos = pg_time(np.array([parse_ns("2000-01-01T00:00:00.000001002Z")], np.int64))
    assert (us.tolist(), nanos.tolist()) == ([1], [2])


@pytest.mark.usefixtures("store")
def test_numbers_survive_the_way_in_and_out(postgres_url: str) -> None:
    columns = {
        "a": np.array([0, -1, 2**15 - 1], np.int16),
        "b": np.array([0, -1, 2**31 - 1], np.int32),
        "c": np.array([0, -(2**63), 2**63 - 1], np.int64),
        "d": np.array([0.1 + 0.2, -0.0, np.inf]),
    }
    with psycopg.connect(postgres_url) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute("CREATE TEMP TABLE numbers (a smallint, b integer, c bigint, d double precision)")
        with cursor.copy("COPY numbers FROM STDIN (FORMAT binary)") as copy:
            copy.write(to_copy(columns))
        assert cursor.execute("SELECT * FROM numbers").fetchall() == [
            (0, 0, 0, 0.30000000000000004),
            (-1, -1, -(2**63), -0.0),
            (32767, 2147483647, 2**63 - 1, float("inf")),
        ]
        result = cursor.execute("SELECT array_agg(a), array_agg(b), array_agg(c), array_agg(d) FROM numbers").pgresult
        assert result is not None
        for place, (kind, values) in enumerate(zip(("i2", "i4", "i8", "f8"), columns.values(), strict=True)):
            assert from_array(result.get_value(0, place), kind).tobytes() == values.tobytes()
        cursor.execute("SELECT array_agg(a) FROM numbers WHERE false")
        assert cursor.pgresult is not None
        assert from_array(cursor.pgresult.get_value(0, 0), "i2").tolist() == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12))
def test_rounds_count_the_rows_of_a_key_by_as_of(rows: list[tuple[int, int, int]]) -> None:
    expected = [
        sum(other[:2] == row[:2] and (other[2], j) < (row[2], i) for j, other in enumerate(rows))
        for i, row in enumerate(rows)
    ]
    number, ts_ns, as_of_ns = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    assert rounds_of(number, ts_ns, as_of_ns).tolist() == expected
