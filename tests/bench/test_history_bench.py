"""The history benchmark compares like with like: its bars are the same for all, and its figures are what they say."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from marketd.calendars import expected_starts
from marketd.model import BAR_SCHEMA, Interval
from marketd.store.batch import checked_batch

BENCH = Path(__file__).resolve().parents[2] / "bench"
MINUTE = Interval.parse("1m")


@pytest.fixture(autouse=True)
def _bench_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def run(engine: str, job: str, folder: Path, **parameters: object) -> dict:
    command = [sys.executable, str(BENCH / "history_work.py"), engine, job, str(folder), json.dumps(parameters)]
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bars_are_what_a_store_accepts_and_make_sense() -> None:
    import history_data as data

    ts, values = data.series(3, 2)
    bars = checked_batch(data.table("S0003", ts, values, data.known_at(ts), "final"))
    assert bars.schema.equals(BAR_SCHEMA)
    assert bars.num_rows == 780
    assert (values["high"] >= np.maximum(values["open"], values["close"])).all()
    assert (values["low"] <= np.minimum(values["open"], values["close"])).all()
    assert ((values["vwap"] >= values["low"]) & (values["vwap"] <= values["high"])).all()
    assert str(bars["ts"][0].as_py()) == "2025-01-06 14:30:00+00:00"
    assert str(bars["ts"][-1].as_py()) == "2025-01-07 20:59:00+00:00"
    assert bars.equals(data.table("S0003", *data.series(3, 2), data.known_at(ts), "final"))


def test_the_calendar_expects_the_minutes_of_the_sessions_and_no_others() -> None:
    import history_data as data

    wanted = expected_starts(data.calendar(), MINUTE, data.open_of(0), data.open_of(12))
    assert len(wanted) == 12 * 390
    assert np.array_equal(wanted, data.starts(12))


def test_a_year_by_day_and_by_symbol_has_the_same_rows(tmp_path: Path) -> None:
    import history_data as data

    year = data.Year(tmp_path / "year", symbols=3, sessions=6)
    year.make()
    order = [(name, "ascending") for name in ("symbol", "ts", "as_of")]
    by_day = pa.concat_tables(year.session(n) for n in range(7)).sort_by(order)
    by_symbol = pa.concat_tables(year.symbol(n, versions=True) for n in range(3))
    assert by_day.equals(by_symbol.combine_chunks())
    assert by_symbol.num_rows == 3 * 6 * 390 - year.holes + year.revisions
    assert 0 < year.holes < 60
    assert 0 < year.revisions < 150
    latest = year.symbol(1, versions=False)
    assert len(pc.unique(latest["ts"])) == latest.num_rows
    assert set(latest["status"].to_pylist()) == {"final", "corrected"}


def test_copy_bytes_are_the_documented_format() -> None:
    pytest.importorskip("psycopg")
    import history_data as data
    from peers import postgres_history

    bars = data.Day(2, 1, 0, holes=False).minute(0)
    raw = postgres_history.copy_bytes(bars)
    # https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
    assert raw[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    assert raw[-2:] == b"\xff\xff"
    place = 19
    rows = []
    for _ in range(2):
        (fields,) = struct.unpack_from(">h", raw, place)
        place += 2
        row = []
        for _ in range(fields):
            (length,) = struct.unpack_from(">i", raw, place)
            row.append(raw[place + 4 : place + 4 + length])
            place += 4 + length
        rows.append(row)
    assert place == len(raw) - 2
    assert [row[0] for row in rows] == [b"S0000", b"S0001"]
    assert [struct.unpack(">d", row[5])[0] for row in rows] == bars["close"].to_pylist()
    assert [struct.unpack(">q", row[1])[0] for row in rows] == bars["ts"].cast(pa.int64()).to_pylist()
    assert [row[9:11] for row in rows] == [[b"bench", b"final"]] * 2


def test_marketd_and_duckdb_give_the_same_series_as_of_a_time(tmp_path: Path) -> None:
    import history_data as data

    sizes = {"symbols": 2, "sessions": 8, "versions": 3}
    asked = {"numbers": [1, 0], "warm_up": 0, "as_of_ns": data.open_of(8) + 30 * data.DAY_NS}
    run("marketd", "build_versions", tmp_path / "ours", **sizes)
    run("DuckDB", "build_versions", tmp_path / "theirs", **sizes)
    ours = run("marketd", "read", tmp_path / "ours", now_ns=data.open_of(500), **asked)
    theirs = run("DuckDB", "read", tmp_path / "theirs", **asked)
    assert ours["digests"] == theirs["digests"]
    assert [digest[0] for digest in ours["digests"]] == [8 * 390, 8 * 390]
    assert ours["ms"] > 0
    assert ours["peak_mb"] > 10


def test_a_report_says_what_was_missed_and_keeps_every_run(tmp_path: Path) -> None:
    pytest.importorskip("arcticdb")
    command = [sys.executable, str(BENCH / "history.py"), "--quick", "--only", "h2,h10", "--folder", str(tmp_path)]
    out = tmp_path / "bench.json"
    done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "## H2: back-fill" in done.stdout
    assert "| rows/s ≥ 2 × DuckDB" in done.stdout
    assert "not judged" in done.stdout
    results = json.loads(out.read_text())["results"]
    assert len(results["h2"]["runs"]["DuckDB"]) == 1
    assert results["h10"]["runs"]["default settings"][0]["lost"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json"}
