"""Bars out of a store and back: what is exported is imported as the same bars."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput, StoreError
from marketd.model import BAR_SCHEMA, INTERVALS, Interval
from marketd.sources.files import FileOptions, read, understand
from marketd.store.export import ExportQuery, export
from marketd.store.memory import MemoryStore

MINUTE = Interval.parse("1m")
FORMATS = ("parquet", "csv", "arrow")


def bar(ts_ns: int, **given: Any) -> dict[str, Any]:
    return {
        "symbol": "AAPL", "interval": "1m", "side": "trade", "ts": ts_ns, "open": 1.0, "high": 3.0, "low": 0.5,
        "close": 2.0, "volume": 10.0, "vwap": None, "trades": None, "provider": "file", "status": "backfill",
        "as_of": 1,
    } | given  # fmt: skip


def table(*bars: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(bars), schema=BAR_SCHEMA)


def stored(*bars: dict[str, Any]) -> MemoryStore:
    store = MemoryStore()
    store.append(table(*bars))
    return store


def imported(path: Path, **told: Any) -> pa.Table:
    plan = understand(str(path), FileOptions(**told))
    batches = list(read(plan, 0))
    assert [batch.refused for batch in batches if batch.refused] == []
    return pa.concat_tables([batch.bars for batch in batches])


# --- round trip ----------------------------------------------------------------------------------------------

prices = st.floats(allow_nan=False, allow_infinity=False)
letters = st.characters(codec="utf-8", exclude_characters="\r\n\x00", exclude_categories=("Z", "C"))
names = st.text(letters, min_size=1, max_size=8)


@st.composite
def bars_of_one_interval(draw: st.DrawFn) -> tuple[Interval, list[dict[str, Any]]]:
    interval = draw(st.sampled_from(INTERVALS))
    slots = st.integers(-20_000_000_000 // (interval.ns // 10**9) // 10, 40_000_000_000 // (interval.ns // 10**9) // 10)
    keys = draw(
        st.lists(
            st.tuples(names, st.sampled_from(["trade", "bid", "ask"]), slots),
            min_size=1, max_size=12, unique=True,
        )
    )  # fmt: skip
    bars = [
        bar(
            interval.floor(slot * interval.ns), symbol=symbol, side=side, interval=interval.name,
            open=draw(prices), high=draw(prices), low=draw(prices), close=draw(prices),
            volume=draw(st.none() | prices), vwap=draw(st.none() | prices),
            trades=draw(st.none() | st.integers(0, 2**50)),
            provider=draw(names), status=draw(st.sampled_from(["final", "backfill", "corrected"])),
            as_of=draw(st.integers(0, 2**62)),
        )
        for symbol, side, slot in keys
    ]  # fmt: skip
    return interval, bars


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=bars_of_one_interval())
def test_what_is_exported_is_imported_as_the_same_bars(
    file_format: Any, made: tuple[Interval, list[dict[str, Any]]]
) -> None:
    interval, bars = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.bars"
        summary = export(stored(*bars), ExportQuery(interval=interval, side="all"), path, file_format)
        back = imported(path, as_of="file")
    assert summary.rows == len(bars)
    keys = ["symbol", "side", "ts"]
    order = [(key, "ascending") for key in keys]
    assert back.sort_by(order).to_pylist() == table(*bars).sort_by(order).to_pylist()


def test_csv_is_text_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "aapl.csv.gz"
    export(
        stored(bar(1_577_975_400 * 10**9, volume=None), bar(1_577_975_460 * 10**9)), ExportQuery(interval=MINUTE), path
    )
    read_back = pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types={"ts": pa.string()}))
    assert read_back.column("ts").to_pylist() == ["2020-01-02T14:30:00Z", "2020-01-02T14:31:00Z"]
    assert read_back.column("volume").to_pylist() == [None, 10]


# --- what is chosen ------------------------------------------------------------------------------------------


def closes(path: Path) -> list[float]:
    return [float(value) for value in pq.read_table(path).column("close").to_pylist()]


def test_range_symbols_and_time_of_knowledge(tmp_path: Path) -> None:
    step = MINUTE.ns
    store = stored(
        *(bar(n * step, close=float(n), as_of=10) for n in range(10)),
        bar(3 * step, close=33.0, as_of=20),
        bar(0, symbol="MSFT", close=100.0),
    )
    path = tmp_path / "out.parquet"

    def exported(**asked: Any) -> list[float]:
        export(store, ExportQuery(interval=MINUTE, **asked), path)
        return closes(path)

    assert exported(symbols=("AAPL",), start_ns=2 * step, end_ns=5 * step) == [2.0, 33.0, 4.0]
    assert exported(symbols=("AAPL",), start_ns=2 * step, end_ns=5 * step, as_of_ns=10) == [2.0, 3.0, 4.0]
    assert exported(symbols=("MSFT",)) == [100.0]
    assert exported(side="bid") == []
    assert len(exported()) == 11


def test_versions_hold_everything_even_what_was_withdrawn(tmp_path: Path) -> None:
    step = MINUTE.ns
    store = stored(
        bar(step, close=1.0, as_of=10), bar(2 * step, close=2.0, as_of=10), bar(4 * step, close=4.0, as_of=10),
        bar(2 * step, close=2.5, as_of=20), bar(2 * step, close=2.5, as_of=30, status="withdrawn"),
    )  # fmt: skip
    path = tmp_path / "out.parquet"
    export(store, ExportQuery(interval=MINUTE, versions=True), path)
    assert closes(path) == [1.0, 2.0, 2.5, 2.5, 4.0]
    assert pq.read_table(path).column("status").to_pylist()[3] == "withdrawn"


def test_versions_of_withdrawn_bars_at_open_ends_are_there_too(tmp_path: Path) -> None:
    step = MINUTE.ns
    store = stored(
        bar(0, as_of=10), bar(0, as_of=20, status="withdrawn"), bar(2 * step, as_of=10),
        bar(9 * step, as_of=10), bar(9 * step, as_of=30, status="withdrawn"),
        bar(7 * step, symbol="GONE", as_of=10, status="withdrawn"),
    )  # fmt: skip
    path = tmp_path / "out.parquet"

    def exported(**asked: Any) -> list[tuple[str, int]]:
        summary = export(store, ExportQuery(interval=MINUTE, versions=True, **asked), path)
        rows = pq.read_table(path)
        assert (summary.rows, summary.symbols) == (rows.num_rows, len(set(rows.column("symbol").to_pylist())))
        starts = [ts // step for ts in rows.column("ts").cast(pa.int64()).to_pylist()]
        return list(zip(rows.column("symbol").to_pylist(), starts, strict=True))

    assert exported() == [("AAPL", 0), ("AAPL", 0), ("AAPL", 2), ("AAPL", 9), ("AAPL", 9), ("GONE", 7)]
    assert exported(start_ns=step, end_ns=9 * step) == [("AAPL", 2), ("GONE", 7)]
    assert exported(symbols=("AAPL",), start_ns=3 * step) == [("AAPL", 9), ("AAPL", 9)]
    assert exported(end_ns=step) == [("AAPL", 0), ("AAPL", 0)]


@pytest.mark.parametrize("file_format", FORMATS)
def test_versions_are_imported_as_the_same_versions(tmp_path: Path, file_format: Any) -> None:
    step = MINUTE.ns
    bars = [
        bar(step, close=1.0, as_of=10), bar(step, close=2.0, as_of=20), bar(step, close=1.0, as_of=30),
        bar(step, close=1.0, as_of=30, provider="other"), bar(step, close=1.0, as_of=40, status="withdrawn"),
        bar(step, close=3.0, as_of=41, provider="file:adjusted"), bar(3 * step, close=4.0, as_of=10, side="bid"),
    ]  # fmt: skip
    path = tmp_path / "all.bars"
    export(stored(*bars), ExportQuery(interval=MINUTE, versions=True, side="all"), path, file_format)
    again = MemoryStore()
    again.append(imported(path, as_of="file"))
    for side, expected in (("trade", bars[:6]), ("bid", bars[6:]), ("ask", [])):
        batches = again.read_versions("AAPL", MINUTE, 0, 9 * step, side=side)
        assert pa.Table.from_batches(batches, BAR_SCHEMA).equals(table(*expected))


def test_a_long_range_is_read_in_slices_without_losing_a_bar(tmp_path: Path) -> None:
    step = MINUTE.ns
    slots = (0, 1, 499_999, 500_000, 500_001, 1_700_000)
    path = tmp_path / "out.arrow"
    export(stored(*(bar(n * step) for n in slots)), ExportQuery(interval=MINUTE), path)
    with pa.ipc.open_file(str(path)) as file:
        assert file.read_all().column("ts").cast(pa.int64()).to_pylist() == [n * step for n in slots]


def test_progress_tells_each_symbol(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    store = stored(bar(0), bar(MINUTE.ns), bar(0, symbol="MSFT"))
    summary = export(
        store, ExportQuery(interval=MINUTE), tmp_path / "out.csv", progress=lambda done, rows: told.append((done, rows))
    )
    assert (told, summary.symbols, summary.rows) == ([(1, 2), (1, 1)], 2, 3)
    assert summary.bytes == (tmp_path / "out.csv").stat().st_size


# --- failures ------------------------------------------------------------------------------------------------


class Failing(MemoryStore):
    """Fails at the second symbol."""

    def read(self, symbol: str, *arguments: Any, **asked: Any) -> pa.Table:
        if symbol == "MSFT":
            raise StoreError("test", "gone")
        return super().read(symbol, *arguments, **asked)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path, file_format: Any) -> None:
    store = Failing()
    store.append(table(bar(0), bar(0, symbol="MSFT")))
    path = tmp_path / "out"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(StoreError, match="gone"):
        export(store, ExportQuery(interval=MINUTE), path, file_format)
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"out: .*--format"):
        export(stored(), ExportQuery(interval=MINUTE), tmp_path / "out.xls")
    with pytest.raises(InvalidInput, match="side"):
        ExportQuery(interval=MINUTE, side="mid")
    with pytest.raises(InvalidInput, match="after from"):
        ExportQuery(interval=MINUTE, start_ns=2, end_ns=1)
    with pytest.raises(InvalidInput, match="versions"):
        ExportQuery(interval=MINUTE, versions=True, as_of_ns=1)
    with pytest.raises(StoreError, match="No such file"):
        export(stored(bar(0)), ExportQuery(interval=MINUTE), tmp_path / "nowhere" / "out.parquet")
