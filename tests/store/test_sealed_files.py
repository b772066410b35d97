"""Sealed files as others see them: DuckDB gets the numbers that were appended, and the documentation's queries run."""

import re
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marketd.model import Bar
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = EmbeddedStore(tmp_path, EmbeddedStoreConfig(compact_every_s=None), ManualClock(OPENING))
    store.append(bar_table([OTHER, CORRECTED, SECOND, FIRST, BID, DAY]))
    store.seal()
    store.close()
    return tmp_path


def test_duckdb_reads_what_was_appended(folder: Path) -> None:
    columns = "symbol, interval, side, epoch_ns(ts), open, high, low, close, volume, vwap, trades, provider, status"
    rows = duckdb.connect().execute(
        f"SELECT {columns}, epoch_ns(as_of) FROM read_parquet('{folder}/bars/**/*.parquet', hive_partitioning=false)"
    )
    expected = {msgspec.structs.astuple(bar) for bar in (FIRST, CORRECTED, SECOND, BID, OTHER, DAY)}
    assert set(rows.fetchall()) == expected


def test_rows_are_sorted_within_a_file(folder: Path) -> None:
    table = pq.read_table(folder / "bars/interval=1m/date=2026-11-20/day-part-000001.parquet", partitioning=None)
    assert table.equals(bar_table([BID, FIRST, CORRECTED, SECOND, OTHER]))


def test_integers_are_delta_packed_and_words_are_dictionaries(folder: Path) -> None:
    group = pq.read_metadata(folder / "bars/interval=1m/date=2026-11-20/day-part-000001.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name in ("ts", "as_of", "trades"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
    for name in ("symbol", "interval", "side", "provider", "status"):
        assert columns[name].has_dictionary_page
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def documented_queries() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", LAYOUT.read_text(encoding="utf-8"), re.DOTALL)


def test_the_documented_queries_give_the_bars_of_now_and_of_then(folder: Path) -> None:
    now, then = (
        duckdb.connect().sql(query.replace("'bars/", f"'{folder}/bars/")).to_arrow_table()
        for query in documented_queries()
    )
    assert now.column("ts").cast(pa.int64()).to_pylist() == [OPENING, OPENING + MINUTE]
    assert now.select(["open", "high", "low", "close"]).to_pylist() == [
        {"open": 0.1, "high": 1e17, "low": -0.3, "close": 4.5},
        {"open": 0.1, "high": 1e17, "low": -0.3, "close": 2.5},
    ]
    assert then.column("close").to_pylist() == [1 / 3, 2.5]
