"""Sealed files as others see them: DuckDB gets the numbers that were appended, and the documentation's queries run."""

import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marketd.errors import StoreCorrupt
from marketd.model import Bar, Interval
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.embedded.compact import merge
from marketd.testing import ManualClock
from marketd.testing.store_conformance import bar_table

LAYOUT = Path(__file__).resolve().parents[2] / "docs" / "store-layout.md"
OPENING = parse_ns("2026-11-20T14:30:00Z")
MINUTE = 60 * NS_PER_S
FIRST = Bar(
    symbol="AAPL",
    interval="1m",
    side="trade",
    ts_ns=OPENING,
    open=0.1,
    high=1e17,
    low=-0.3,
    close=1 / 3,
    volume=None,
    vwap=5e-324,
    trades=2**53 + 1,
    provider="sim",
    status="final",
    as_of_ns=OPENING + MINUTE + 123_456_789,
)
changed = msgspec.structs.replace
SECOND = changed(FIRST, ts_ns=OPENING + MINUTE, close=2.5, volume=10.25, trades=None)
# known only on the following day
CORRECTED = changed(FIRST, close=4.5, status="corrected", as_of_ns=parse_ns("2026-11-21T09:00:00Z"))
BID = changed(FIRST, side="bid", close=9.0)
OTHER = changed(FIRST, symbol="MSFT", close=7.0)
DAY = changed(FIRST, interval="1d", ts_ns=parse_ns("2026-11-20"), close=8.0)


GONE = changed(SECOND, provider="yahoo", status="withdrawn")


@pytest.fixture(params=["parts", "merged", "half"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Sealed as it comes, merged, or merged with a revision sealed afterwards."""
    config = EmbeddedStoreConfig(compact_every_s=None, retire_after_s=0)
    store = EmbeddedStore(tmp_path, config, ManualClock(OPENING), merge=merge)
    if request.param == "half":
        store.append(bar_table([OTHER, SECOND, FIRST, BID, DAY, GONE]))
        store.seal()
        store.compact()
        store.append(bar_table([CORRECTED]))
    else:
        store.append(bar_table([OTHER, CORRECTED, SECOND, FIRST, BID, DAY, GONE]))
    store.seal()
    if request.param == "merged":
        store.compact()
    store.close()
    return tmp_path


def the_minutes(folder: Path) -> Path:
    """The file in bars/ that has the first minutes."""
    return min((folder / "bars/interval=1m/date=2026-11-20").glob("*.parquet"))


def test_duckdb_reads_what_was_appended(folder: Path) -> None:
    columns = "symbol, interval, side, epoch_ns(ts), open, high, low, close, volume, vwap, trades, provider, status"
    paths = [str(path) for name in ("bars", "history") for path in (folder / name).rglob("*.parquet")]
    rows = duckdb.connect().execute(
        f"SELECT {columns}, epoch_ns(as_of) FROM read_parquet({paths}, hive_partitioning=false)"
    )
    expected = [msgspec.structs.astuple(bar) for bar in (FIRST, CORRECTED, SECOND, BID, OTHER, DAY, GONE)]
    assert sorted(rows.fetchall(), key=repr) == sorted(expected, key=repr)


@pytest.mark.parametrize("folder", ["parts"], indirect=True)
def test_rows_are_sorted_within_a_file(folder: Path) -> None:
    table = pq.read_table(the_minutes(folder), partitioning=None)
    assert table.equals(bar_table([BID, FIRST, CORRECTED, SECOND, GONE, OTHER]))


def test_integers_are_delta_packed_and_words_are_dictionaries(folder: Path) -> None:
    group = pq.read_metadata(the_minutes(folder)).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name in ("ts", "as_of", "trades"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
    for name in ("symbol", "interval", "side", "provider", "status"):
        assert columns[name].has_dictionary_page
    assert {column.compression for column in columns.values()} == {"ZSTD"}


@pytest.mark.parametrize(("decimals", "dictionary"), [(2, True), (12, False)])
def test_prices_are_dictionaries_where_that_halves_them(tmp_path: Path, decimals: int, dictionary: bool) -> None:
    store = EmbeddedStore(tmp_path, EmbeddedStoreConfig(compact_every_s=None), ManualClock(OPENING))
    chance = random.Random(1)
    closes = [round(chance.uniform(100, 101), decimals) for _ in range(2_000)]
    store.append(bar_table([changed(FIRST, ts_ns=OPENING + n * MINUTE, close=c) for n, c in enumerate(closes)]))
    store.seal()
    assert store.read("AAPL", Interval.parse("1m"), 0, 2**63 - 1).column("close").to_pylist() == closes
    store.close()
    group = pq.read_metadata(the_minutes(tmp_path)).row_group(0)
    (close,) = (group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "close")
    assert close.has_dictionary_page == dictionary


def test_row_groups_end_with_a_symbol(tmp_path: Path) -> None:
    config = EmbeddedStoreConfig(compact_every_s=None, retire_after_s=0, row_group_rows=40)  # of a day 10
    store = EmbeddedStore(tmp_path, config, ManualClock(OPENING), merge=merge)
    counts = {"A": 4, "B": 9, "C": 1, "D": 25, "E": 3}
    for symbol, count in counts.items():
        store.append(bar_table([changed(FIRST, symbol=symbol, ts_ns=OPENING + n * MINUTE) for n in range(count)]))
    store.seal()
    store.compact()
    store.close()
    (path,) = (tmp_path / "bars").rglob("*.parquet")
    with pq.ParquetFile(path) as parquet:
        groups = [
            sorted(set(parquet.read_row_group(number, columns=["symbol"]).column("symbol").to_pylist()))
            for number in range(parquet.num_row_groups)
        ]
    assert groups == [["A", "B"], ["C", "D"], ["E"]]


@pytest.mark.parametrize("columns", [["status", "provider"], ["symbol", "side"], ["close"], ["provider", "ts", "vwap"]])
@pytest.mark.parametrize(("first", "last"), [(0, 5), (1, 4), (2, 3)])
def test_files_of_different_words_are_read_as_one(tmp_path: Path, columns: list[str], first: int, last: int) -> None:
    days = [parse_ns(f"2026-11-{day}T14:30:00Z") for day in (16, 16, 17, 18, 18)]
    rows = [
        changed(FIRST, ts_ns=ts + n * MINUTE, close=float(n), provider=provider, status=status)
        for n, (ts, provider, status) in enumerate(
            zip(days, "abacb", ["final", "backfill", "final", "corrected", "final"], strict=True)
        )
    ]
    with closing(EmbeddedStore(tmp_path, EmbeddedStoreConfig(compact_every_s=None), ManualClock(OPENING))) as store:
        for row in rows:
            store.append(bar_table([row, changed(row, symbol="MSFT")]))
            store.seal()
        bounds = rows[first].ts_ns, rows[last - 1].ts_ns + 1
        [found] = store.scan(Interval.parse("1m"), *bounds, symbols=["AAPL"], columns=columns)
    assert found.schema.names == columns
    assert found.equals(bar_table(rows[first:last]).select(columns).combine_chunks().to_batches()[0])


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store with four symbols in one row group, none of which it has read."""
    config = EmbeddedStoreConfig(compact_every_s=None)
    store = EmbeddedStore(tmp_path, config, ManualClock(OPENING), merge=merge)
    store.append(bar_table([changed(FIRST, symbol=symbol, open=float(n)) for n, symbol in enumerate("ABCD")]))
    store.seal()
    store.compact()
    yield store
    store.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_row_group_that_several_ask_for_at_once_is_read_once(
    shared: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    reads = threading.Semaphore(0)
    go_on = threading.Event()
    read_row_group = pq.ParquetFile.read_row_group

    def slow(*args: object, **more: object) -> pa.Table:
        reads.release()
        assert go_on.wait(10)
        if fails:
            raise OSError("the disk is gone")
        return read_row_group(*args, **more)

    def opens(symbol: str) -> list[float]:
        return shared.read(symbol, Interval.parse("1m"), OPENING, OPENING + MINUTE)["open"].to_pylist()

    with ThreadPoolExecutor(4) as pool, monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "read_row_group", slow)
        asked = [pool.submit(opens, symbol) for symbol in "ABCD"]
        assert reads.acquire(timeout=10)
        assert not reads.acquire(timeout=0.2)
        go_on.set()
        if not fails:
            assert [future.result() for future in asked] == [[0.0], [1.0], [2.0], [3.0]]
            assert not reads.acquire(blocking=False)
            return
        for future in asked:
            with pytest.raises(StoreCorrupt, match="the disk is gone"):
                future.result()
    assert opens("C") == [2.0]  # what failed once is tried again


@pytest.mark.parametrize("folder", ["parts"], indirect=True)
def test_coverage_says_which_bars_are_there(folder: Path) -> None:
    # 14:30 is slot 870 of the day: bit 6 of byte 108; 2026-11-20 is day 20,777
    rows = pq.read_table(the_minutes(folder).with_suffix(".coverage"), partitioning=None).to_pylist()
    assert [(row["symbol"], row["side"], row["block"], row["rows"]) for row in rows] == [
        ("AAPL", "bid", 20_777, 1),
        ("AAPL", "trade", 20_777, 4),
        ("MSFT", "trade", 20_777, 1),
    ]
    assert [row["bits"][108] for row in rows] == [64, 192, 64]
    assert [sum(row["bits"]) for row in rows] == [64, 192, 64]
    assert [None if row["withdrawn"] is None else row["withdrawn"][108] for row in rows] == [None, 128, None]


def documented_queries() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", LAYOUT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("listed", [True, False])
def test_the_documented_queries_give_the_bars_of_now_and_of_then(folder: Path, listed: bool) -> None:
    connection = duckdb.connect()
    files, *queries = (query.replace("marketd-data/", f"{folder}/") for query in documented_queries())
    if listed:
        connection.execute(files)
    else:
        globs = [f"'{folder}/bars/**/*.parquet'", f"'{folder}/history/**/*.parquet'"]
        there = [glob for glob, name in zip(globs, ("bars", "history"), strict=True) if [*(folder / name).rglob("*")]]
        queries = [query.replace("getvariable('files')", f"[{', '.join(there)}]") for query in queries]
    now, then = (connection.sql(query).to_arrow_table() for query in queries)
    assert now.column("ts").cast(pa.int64()).to_pylist() == [OPENING, OPENING + MINUTE]
    assert now.select(["open", "high", "low", "close", "volume"]).to_pylist() == [
        {"open": 0.1, "high": 1e17, "low": -0.3, "close": 4.5, "volume": None},
        {"open": 0.1, "high": 1e17, "low": -0.3, "close": 2.5, "volume": 10.25},
    ]
    assert then.column("close").to_pylist() == [1 / 3, 2.5]
