"""Merging sealed files: which, when, in what process, and that nobody notices but by the speed."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marketd.errors import StoreCorrupt, StoreError
from marketd.model import Bar, Interval
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.embedded.compact import Job, Report, Request, merge, plan
from marketd.store.embedded.manifest import Manifest, SealedFile, load_manifest
from marketd.testing import ManualClock
from marketd.testing.store_conformance import bar_table

M1 = Interval.parse("1m")
DAY = 86_400 * NS_PER_S
MINUTE = 60 * NS_PER_S
OPENING = parse_ns("2026-11-20T14:30:00Z")
FOREVER = 2**63 - 1


def bar(minute: int, symbol: str = "AAPL", close: float = 101.5, as_of: int = 1, **changed: Any) -> Bar:
    ts_ns = changed.pop("ts_ns", OPENING + minute * MINUTE)
    fields: dict[str, Any] = {
        "symbol": symbol,
        "interval": "1m",
        "side": "trade",
        "ts_ns": ts_ns,
        "open": 100.0,
        "high": 103.0,
        "low": 99.5,
        "close": close,
        "volume": 5.0,
        "vwap": None,
        "trades": 3,
        "provider": "sim",
        "status": "final",
        "as_of_ns": ts_ns + MINUTE + as_of,
    }
    return Bar(**(fields | changed))


def open_store(folder: Path, clock: ManualClock | None = None, *, worker: bool = False, **config: Any) -> EmbeddedStore:
    settings = EmbeddedStoreConfig(**({"compact_every_s": None, "retire_after_s": 0} | config))
    return EmbeddedStore(folder, settings, clock or ManualClock(OPENING), merge=None if worker else merge)


def listed(folder: Path, *kinds: str) -> list[str]:
    files = load_manifest(folder / "manifest.json").files
    return sorted(file.path for file in files if file.kind in (kinds or ("part", "current", "superseded", "by_time")))


def test_last_versions_and_those_before_are_in_files_of_their_own(tmp_path: Path) -> None:
    store = open_store(tmp_path, by_time_days=0)
    first = [bar(0), bar(1), bar(0, "MSFT")]
    revised = [bar(0, close=7.0, as_of=2), bar(0, close=8.0, as_of=3), bar(0, "MSFT", close=9.0, as_of=2)]
    for batch in (first, revised):
        store.append(bar_table(batch))
        store.seal()
    assert len(listed(tmp_path, "part")) == 2
    assert store.compact() == 1
    assert listed(tmp_path) == [
        "bars/interval=1m/date=2026-11-20/day-000001-000.parquet",
        "history/interval=1m/date=2026-11-20/day-000001-000.parquet",
    ]
    current, before = (pq.read_table(tmp_path / path, partitioning=None) for path in listed(tmp_path))
    assert current.equals(bar_table([revised[1], first[1], revised[2]]))
    assert before.equals(bar_table([revised[0], first[0], first[2]]))
    assert store.versions("AAPL", M1, OPENING).equals(bar_table([first[0], *revised[:2]]))
    assert store.compact() == 0
    store.close()


def test_versions_of_a_range_come_in_pieces_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketd.store.embedded.engine._VERSIONS_AT_ONCE", 10)
    store = open_store(tmp_path, ManualClock(OPENING + 9 * DAY), row_group_rows=4, by_time_days=0)
    # three bars a day for nine days, the second with three versions, the third withdrawn
    first = [bar(0, ts_ns=OPENING + d * DAY + n * MINUTE, as_of=1) for d in range(9) for n in range(3)]
    second = [msgspec.structs.replace(b, close=7.0, as_of_ns=b.as_of_ns + DAY) for b in first[1::3]]
    third = [msgspec.structs.replace(b, close=8.0, as_of_ns=b.as_of_ns + DAY) for b in second]
    gone = [msgspec.structs.replace(b, status="withdrawn", as_of_ns=b.as_of_ns + DAY) for b in first[2::3]]
    expected = []
    for day in range(9):
        expected += [*first[3 * day : 3 * day + 2], second[day], third[day], first[3 * day + 2], gone[day]]
    for rows in (first, second, third[:6], gone[:3]):
        store.append(bar_table([*rows, bar(0, "MSFT")]))
        store.seal()
    assert store.compact() > 0
    store.append(bar_table(gone[3:7]))
    store.seal()
    store.append(bar_table([*third[6:], *gone[7:]]))
    assert listed(tmp_path, "superseded")
    assert listed(tmp_path, "part")
    batches = list(store.read_versions("AAPL", M1, -FOREVER, FOREVER))
    assert [batch.num_rows for batch in batches] == [12, 12, 6, 12, 12]  # cut where 10, 20, 30 and 40 are full
    assert pa.Table.from_batches(batches).equals(bar_table(expected))
    some = store.read_versions("AAPL", M1, OPENING + DAY + MINUTE, OPENING + 7 * DAY + 1)
    assert pa.Table.from_batches(some).equals(bar_table(expected[7:43]))
    # what comes while it is read is there if its turn has not come yet
    reading = store.read_versions("AAPL", M1, -FOREVER, FOREVER)
    seen = [next(reading)]
    late = msgspec.structs.replace(first[0], ts_ns=OPENING + 9 * DAY, as_of_ns=OPENING + 10 * DAY)
    store.append(bar_table([late, msgspec.structs.replace(first[0], close=9.0, as_of_ns=OPENING + 10 * DAY)]))
    store.seal()
    store.compact()
    assert pa.Table.from_batches([*seen, *reading]).equals(bar_table([*expected, late]))
    store.close()


def test_a_later_revision_is_merged_with_what_was_merged_before(tmp_path: Path) -> None:
    store = open_store(tmp_path, by_time_days=0)
    versions = [bar(0, close=100.0 + n, as_of=n) for n in range(5)]
    for version in versions:
        store.append(bar_table([version, bar(n := versions.index(version) + 1), bar(n, "MSFT")]))
        store.seal()
        assert store.compact() == 1
        assert store.read("AAPL", M1, 0, MINUTE + OPENING).equals(bar_table([version]))
    for version in versions:
        assert store.read("AAPL", M1, 0, MINUTE + OPENING, as_of_ns=version.as_of_ns).equals(bar_table([version]))
    assert len(listed(tmp_path, "current")) == 1
    assert store.versions("AAPL", M1, OPENING).equals(bar_table(versions))
    store.close()


def test_a_day_that_was_revised_later_is_read_as_it_was_beside_one_that_was_not(tmp_path: Path) -> None:
    store = open_store(tmp_path, ManualClock(OPENING + 3 * DAY), by_time_days=0)
    first = [bar(0), bar(1)]
    second = [bar(0, ts_ns=OPENING + DAY + n * MINUTE) for n in range(2)]
    third = [bar(0, ts_ns=OPENING + 2 * DAY)]
    revised = [msgspec.structs.replace(b, close=7.0, as_of_ns=b.as_of_ns + 2 * DAY) for b in second]
    store.append(bar_table([*first, *second]))
    store.append(bar_table([*third, *revised]))
    store.seal()
    store.compact()
    assert len(listed(tmp_path, "current")) == 3
    assert len(listed(tmp_path, "superseded")) == 1

    def closes(as_of_ns: int | None, **asked: Any) -> list[float]:
        options = {"start_ns": 0, "end_ns": FOREVER} | asked
        return store.read("AAPL", M1, as_of_ns=as_of_ns, **options).column("close").to_pylist()

    assert closes(None) == [101.5, 101.5, 7.0, 7.0, 101.5]
    assert closes(OPENING + DAY + 9 * MINUTE) == [101.5, 101.5, 101.5, 101.5]
    assert closes(third[0].as_of_ns) == [101.5] * 5
    assert closes(revised[0].as_of_ns) == [101.5, 101.5, 7.0, 101.5, 101.5]
    assert closes(OPENING + MINUTE) == []
    # what is in memory is chosen from there on, what was before comes straight from the files
    today = bar(0, ts_ns=OPENING + 3 * DAY, close=9.0, as_of=60 * MINUTE)
    store.append(bar_table([today, msgspec.structs.replace(third[0], close=8.0, as_of_ns=today.as_of_ns)]))
    assert closes(None) == [101.5, 101.5, 7.0, 7.0, 8.0, 9.0]
    assert closes(today.as_of_ns - 1) == [101.5, 101.5, 7.0, 7.0, 101.5]
    assert closes(None, end_ns=OPENING + MINUTE) == [101.5]
    assert closes(None, start_ns=second[1].ts_ns, end_ns=third[0].ts_ns + 1) == [7.0, 8.0]
    scanned = list(store.scan(M1, 0, FOREVER, columns=["close"]))
    assert [batch.to_pydict() for batch in scanned] == [{"close": [101.5, 101.5, 7.0, 7.0, 8.0, 9.0]}]
    store.close()


def test_days_become_months_and_months_a_year(tmp_path: Path) -> None:
    clock = ManualClock(parse_ns("2025-12-30T00:00:00Z"))
    store = open_store(tmp_path, clock, day_files=30, by_time_days=0)
    days = [parse_ns(f"{day}T15:00:00Z") for day in ("2025-12-30", "2025-12-31", "2026-01-02", "2026-02-02")]
    bars = [bar(0, ts_ns=day) for day in days]

    def seal_on(day: str) -> None:
        clock._elapsed_ns = parse_ns(day) - clock._start_ns
        store.append(bar_table([one for one in bars if one.ts_ns < clock.time_ns()]))
        store.seal()
        store._compact_what_is_due()
        known = [one for one in bars if one.ts_ns < clock.time_ns()]
        assert store.read("AAPL", M1, 0, FOREVER).equals(bar_table(known))

    def spans() -> list[str]:
        return [f"{Path(path).parent.name[5:]} {Path(path).name.split('-')[0]}" for path in listed(tmp_path)]

    seal_on("2025-12-31T00:00:00Z")
    assert spans() == ["2025-12-30 day"]
    seal_on("2026-01-01T00:00:00Z")
    seal_on("2026-01-03T00:00:00Z")
    assert spans() == ["2025-12-30 day", "2025-12-31 day", "2026-01-02 day"]
    seal_on("2026-02-02T23:00:00Z")  # thirty days after the end of the year, its days become the year
    assert spans() == ["2025-01-01 year", "2026-01-02 day", "2026-02-02 day"]
    seal_on("2026-03-03T00:00:00Z")
    assert spans() == ["2025-01-01 year", "2026-01-01 month", "2026-02-02 day"]
    seal_on("2027-02-02T00:00:00Z")
    assert spans() == ["2025-01-01 year", "2026-01-01 year"]
    store.close()


def test_history_goes_straight_into_files_of_its_age(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    days = [parse_ns(f"{day}T15:00:00Z") for day in ("2019-01-02", "2019-12-31", "2026-09-01", "2026-11-19")]
    store.append(bar_table([bar(0, ts_ns=day) for day in days]))
    store.append(bar_table([bar(0, ts_ns=day - day % (86_400 * NS_PER_S), interval="1d") for day in days]))
    store.seal()
    assert [path.removeprefix("bars/interval=") for path in listed(tmp_path)] == [
        "1d/date=2019-01-01/year-part-000001.parquet",
        "1d/date=2026-01-01/year-part-000001.parquet",
        "1m/date=2019-01-01/year-part-000001.parquet",
        "1m/date=2026-09-01/month-part-000001.parquet",
        "1m/date=2026-11-19/day-part-000001.parquet",
    ]
    store.close()


def a_file(kind: str, rows: int, number: int, **changed: Any) -> SealedFile:
    fields: dict[str, Any] = {
        "path": f"bars/{kind}-{number}",
        "kind": kind,
        "interval": "1m",
        "span": "year",
        "first_day": 19_723,  # 2024-01-01
        "rows": rows,
        "bytes": 1,
        "crc32": 0,
        "coverage_bytes": 1,
        "coverage_crc32": 0,
        "ts_min_ns": 0,
        "ts_max_ns": 1,
        "as_of_min_ns": 0,
        "as_of_max_ns": 1,
        "symbol_min": "A",
        "symbol_max": "Z",
        "log": number,
    }
    return SealedFile(**(fields | changed))


def planned(files: list[SealedFile], log_sealed: int = 0, **config: Any) -> Job | None:
    return plan(Manifest(files=tuple(files), log_sealed=log_sealed), 20_777, EmbeddedStoreConfig(**config))


def test_little_is_not_merged_with_much_while_more_may_come() -> None:
    much = a_file("current", 1_000_000, 0)
    assert planned([much]) is None
    assert planned([much, a_file("part", 1_000, 9)], log_sealed=9) is None
    waited = planned([much, a_file("part", 1_000, 9)], log_sealed=11)
    assert waited is not None
    assert [file.path for file in waited.inputs] == ["bars/part-9", "bars/current-0"]
    enough = planned([much, a_file("part", 250_000, 9)], log_sealed=9)
    assert enough is not None
    many = planned([much, *(a_file("part", 10, n) for n in range(64))], log_sealed=63)
    assert many is not None
    assert len(many.inputs) == 65


def test_files_of_other_symbols_are_left_alone() -> None:
    other = a_file("current", 100, 0, symbol_min="A", symbol_max="F")
    near = a_file("current", 100, 1, symbol_min="G", symbol_max="K")
    part = a_file("part", 100, 5, symbol_min="H", symbol_max="P")
    job = planned([other, near, part])
    assert job is not None
    assert {file.path for file in job.inputs} == {"bars/current-1", "bars/part-5"}


def test_today_is_merged_when_it_has_many_parts() -> None:
    today = {"span": "day", "first_day": 20_777}
    parts = [a_file("part", 100, n, **today) for n in range(7)]
    assert planned(parts, compact_parts=8) is None
    job = planned([*parts, a_file("part", 100, 8, **today)], compact_parts=8)
    assert job is not None
    assert (job.span, job.first_day, job.rows, job.by_time) == ("day", 20_777, 800, True)


def test_the_smallest_job_comes_first() -> None:
    yesterday = a_file("part", 10, 1, span="day", first_day=20_776)
    job = planned([a_file("part", 1_000_000, 0), yesterday])
    assert job is not None
    assert job.inputs == (yesterday,)


def test_a_cross_section_of_a_merged_day_comes_from_the_copy_by_time(tmp_path: Path) -> None:
    clock = ManualClock(OPENING)
    store = open_store(tmp_path, clock, row_group_rows=50, by_time_days=2)
    names = [f"S{n:03d}" for n in range(100)]
    bars = {name: [bar(minute, name, close=100.0 + minute) for minute in range(5)] for name in names}
    store.append(bar_table([one for name in reversed(names) for one in bars[name]]))
    store.seal()
    store.compact()
    (copy,) = listed(tmp_path, "by_time")
    assert copy == "bytime/interval=1m/date=2026-11-20/day-000001-000.parquet"
    ts = pq.read_table(tmp_path / copy, partitioning=None, columns=["ts"]).column("ts").cast(pa.int64()).to_pylist()
    assert ts == sorted(ts)
    expected = bar_table([bars[name][3] for name in names])
    assert store.cross_section(M1, OPENING + 3 * MINUTE).equals(expected)
    revised = bar(3, "S050", close=7.0, as_of=2)
    store.append(bar_table([revised]))
    store.seal()
    there = store.cross_section(M1, OPENING + 3 * MINUTE)
    assert there.slice(50, 1).equals(bar_table([revised]))
    assert there.num_rows == 100
    store.compact()
    assert store.cross_section(M1, OPENING + 3 * MINUTE).equals(there)
    assert store.cross_section(M1, OPENING + 3 * MINUTE, as_of_ns=revised.as_of_ns - 1).equals(expected)
    (newer,) = listed(tmp_path, "by_time")
    assert newer != copy
    assert not (tmp_path / copy).exists()
    clock._elapsed_ns += 3 * DAY
    store.compact()
    assert listed(tmp_path, "by_time") == []
    assert store.cross_section(M1, OPENING + 3 * MINUTE).equals(there)
    store.close()


def test_files_stay_while_a_reader_has_them(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    bars = {name: [bar(minute, name) for minute in range(3)] for name in ("A", "B", "C", "D", "E", "F")}
    for of_symbol in bars.values():
        store.append(bar_table(of_symbol))
        store.seal()
    parts = listed(tmp_path, "part")
    with store._reading():
        store.append(bar_table([bar(4)]))
        store.seal()  # which makes a new catalogue, that the reader does not have
        store.compact()
        assert listed(tmp_path, "part") == []
        assert all((tmp_path / part).exists() for part in parts)
    store.compact()
    assert not any((tmp_path / part).exists() for part in parts)
    store.close()


def test_files_that_were_merged_stay_for_a_while_and_go_with_a_restart(tmp_path: Path) -> None:
    clock = ManualClock(OPENING)
    store = open_store(tmp_path, clock, retire_after_s=600)
    store.append(bar_table([bar(0)]))
    store.seal()
    (part,) = listed(tmp_path)
    store.compact()
    assert (tmp_path / part).exists()
    clock._elapsed_ns += 599 * NS_PER_S
    store._compact_what_is_due()
    assert (tmp_path / part).exists()
    clock._elapsed_ns += 2 * NS_PER_S
    store._compact_what_is_due()
    assert not (tmp_path / part).exists()
    store.append(bar_table([bar(1)]))
    store.seal()
    (part,) = listed(tmp_path, "part")
    store.compact()
    store.close()
    (tmp_path / "bars" / "notes.txt").write_text("not ours")
    assert (tmp_path / part).exists()
    again = open_store(tmp_path, clock)
    assert not (tmp_path / part).exists()
    assert (tmp_path / "bars" / "notes.txt").exists()
    assert again.read("AAPL", M1, 0, FOREVER).equals(bar_table([bar(0), bar(1)]))
    again.close()


def test_a_merge_that_fails_changes_nothing_and_is_tried_again(tmp_path: Path) -> None:
    broken = True

    def flaky(root: Path, job: Job, config: EmbeddedStoreConfig, **options: Any) -> tuple[SealedFile, ...]:
        files = merge(root, job, config, **options)
        if broken:
            raise OSError(28, "No space left on device")
        return files

    settings = EmbeddedStoreConfig(compact_every_s=None, retire_after_s=0)
    store = EmbeddedStore(tmp_path, settings, ManualClock(OPENING), merge=flaky)
    store.append(bar_table([bar(0), bar(1)]))
    store.seal()
    before = listed(tmp_path)
    with pytest.raises(StoreError, match=r"cannot compact: .*No space left on device"):
        store.compact()
    assert listed(tmp_path) == before
    assert store.read("AAPL", M1, 0, FOREVER).num_rows == 2
    broken = False
    assert store.compact() == 1
    assert store.read("AAPL", M1, 0, FOREVER).equals(bar_table([bar(0), bar(1)]))
    store.close()


def test_a_damaged_part_is_never_merged(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.append(bar_table([bar(minute) for minute in range(100)]))
    store.seal()
    (part,) = listed(tmp_path)
    path = tmp_path / part
    data = bytearray(path.read_bytes())
    about = pq.read_metadata(path).row_group(0).column(7)
    data[about.data_page_offset + about.total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="row group 0 cannot be read"):
        store.compact()
    assert listed(tmp_path) == [part]
    assert not list(tmp_path.rglob("*.tmp"))
    store.close()


def test_the_work_is_done_in_a_process_of_its_own(tmp_path: Path) -> None:
    store = open_store(tmp_path, worker=True)
    for number in range(3):
        store.append(bar_table([bar(number), bar(0, close=number, as_of=number)]))
        store.seal()
    told: list[tuple[int, int]] = []
    assert store.compact(lambda done, total: told.append((done, total))) == 1
    assert told[-1] == (6, 6)
    assert store.read("AAPL", M1, 0, FOREVER).column("close").to_pylist() == [2.0, 101.5, 101.5]
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.compact()


def test_it_runs_by_itself(tmp_path: Path) -> None:
    clock = ManualClock(OPENING + DAY)
    store = open_store(tmp_path, clock, compact_every_s=1)
    store.append(bar_table([bar(0)]))
    store.seal()
    deadline = time.monotonic() + 20
    while not listed(tmp_path, "current"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store.close()


def test_what_fails_by_itself_is_logged_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    attempts = threading.Semaphore(0)

    def refuse(root: Path, job: Job, config: EmbeddedStoreConfig, **options: Any) -> tuple[SealedFile, ...]:
        attempts.release()
        raise StoreError(str(root), "no")

    settings = EmbeddedStoreConfig(compact_every_s=1)
    with caplog.at_level(logging.CRITICAL, "marketd"), caplog.at_level(logging.ERROR, "marketd.store"):
        store = EmbeddedStore(tmp_path, settings, ManualClock(OPENING + DAY), merge=refuse)
        store.append(bar_table([bar(0)]))
        store.seal()
        assert attempts.acquire(timeout=20)
        assert attempts.acquire(timeout=20)
        assert store.append(bar_table([bar(1)])) == 1
        store.close()
    assert "compaction failed; nothing is lost, it is tried again" in caplog.text


def test_a_process_that_is_killed_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path, worker=True)
    store.append(bar_table([bar(0)]))
    store.seal()

    def kill(_done: int, _total: int) -> None:
        process = store._worker._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)  # or it might be done before it is killed
        os.kill(process.pid, signal.SIGKILL)

    # the first report may be the last one, so that the kill comes too late: then there is nothing to see
    try:
        store.compact(kill)
    except StoreError as error:
        assert "the compaction process" in str(error)  # noqa: PT017 - it may not be raised
        assert store.compact() == 1
    assert len(listed(tmp_path, "current")) == 1
    assert store.read("AAPL", M1, 0, FOREVER).num_rows == 1
    store.close()


def test_the_process_ends_with_its_owner(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "marketd.store.embedded.compact"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    store = open_store(tmp_path)
    store.append(bar_table([bar(0)]))
    store.seal()
    job = plan(load_manifest(tmp_path / "manifest.json"), 20_777, EmbeddedStoreConfig(), everything=True)
    assert job is not None
    holder = os.open(tmp_path / "compact.lock", os.O_RDWR | os.O_CREAT)
    import fcntl

    fcntl.flock(holder, fcntl.LOCK_EX)  # so that it waits, as for one that is on its way out
    request = Request(root=str(tmp_path), job=job, config=EmbeddedStoreConfig())
    process.stdin.write(msgspec.json.encode(request) + b"\n")
    process.stdin.close()
    assert process.wait(30) == 1
    process.stdout.close()
    os.close(holder)
    assert listed(tmp_path) == [file.path for file in job.inputs]
    store.close()


def test_what_the_process_says_can_be_read() -> None:
    assert msgspec.json.decode(b'{"rows":5}', type=Report) == Report(rows=5)


def test_an_external_reader_gets_every_version_once_while_all_goes_on(tmp_path: Path) -> None:
    """DuckDB over the files that the manifest lists, as docs/store-layout.md says, beside appends and merges."""
    store = open_store(tmp_path, seal_rows=40, retire_after_s=600, row_group_rows=10, file_rows=100)
    stop = threading.Event()
    appended = 0
    failures: list[BaseException] = []

    def append() -> None:
        nonlocal appended
        minute = 0
        while not stop.is_set():
            rows = [bar(minute, f"S{n}") for n in range(5)]
            rows += [bar(minute - 1, "S0", close=minute, as_of=2)] if minute else []
            store.append(bar_table(rows))
            minute += 1
            appended = minute

    def compact() -> None:
        while not stop.is_set():
            store.compact()

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (append, compact)]
    for thread in threads:
        thread.start()
    query = "SELECT count(*), count(DISTINCT (symbol, ts, as_of)) FROM read_parquet(?)"
    seen = 0
    deadline = time.monotonic() + 20
    connection = duckdb.connect()
    while seen < 12 and time.monotonic() < deadline:
        manifest = json.loads((tmp_path / "manifest.json").read_bytes())["manifest"] if seen or appended > 20 else {}
        files = [f"{tmp_path}/{f['path']}" for f in manifest.get("files", ()) if f["kind"] != "by_time"]
        if not files:
            continue
        rows, distinct = connection.execute(query, [files]).fetchone() or (0, 0)
        assert rows == distinct
        assert rows == sum(f["rows"] for f in manifest["files"] if f["kind"] != "by_time")
        # the glob has each at least once, so that what takes the last version is right
        glob = f"SELECT count(DISTINCT (symbol, ts, as_of)) FROM read_parquet('{tmp_path}/*/**/*.parquet')"
        assert (connection.execute(glob).fetchone() or (0,))[0] >= distinct
        seen += 1
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert seen == 12
    minutes = appended
    store.seal()
    store.compact()
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())["manifest"]
    current = [f"{tmp_path}/{f['path']}" for f in manifest["files"] if f["kind"] == "current"]
    counted = connection.execute("SELECT count(*), sum(close) FROM read_parquet(?) WHERE symbol = 'S0'", [current])
    assert counted.fetchone() == (minutes, sum(range(1, minutes)) + 101.5)
    store.close()
