"""The SQLite records against the contract, and what only a file can suffer: kills, damage, a full disk, age."""

import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from marketd.errors import StoreCorrupt, StoreError
from marketd.model import AnsweredSpan, BackfillJob, CorporateAction, Cursor, Instrument, Name
from marketd.store.sqlite import SqliteRecords
from marketd.testing.records_conformance import RecordsConformance, observation_table


class TestSqliteRecords(RecordsConformance):
    def make_records(self, folder: Path) -> SqliteRecords:
        return SqliteRecords(folder / "records.db")


class TestSqliteRecordsInMemory(RecordsConformance):
    def make_records(self, folder: Path) -> SqliteRecords:
        return SqliteRecords(None)


MINUTE = 60 * 10**9
ROWS = 20


def observations(number: int, value: float = 1.0, as_of: int = 1) -> pa.Table:
    """Minute `number` of twenty series."""
    return observation_table([(f"S{n}", number * MINUTE, value, "sim", as_of) for n in range(ROWS)])


def stored_minutes(records: SqliteRecords, series: str = "S0", **options: int) -> list[int]:
    answer = records.observations(series, 0, 2**63 - 1, **options)
    return [ts // MINUTE for ts in answer.column("ts").cast(pa.int64()).to_pylist()]


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "records.db"
    instrument = Instrument(id="FB", symbol="META", names=(Name(symbol="FB", end_ns=5),))
    span = AnsweredSpan(
        symbol=None, interval="1m", provider="sim", start_ns=0, end_ns=9, reason="no_trades", as_of_ns=10
    )
    job = BackfillJob(id="a", symbol="AAPL", interval="1m", start_ns=0, end_ns=9, tier="T0", reason="gap")
    cursor = Cursor(symbol="AAPL", interval="1m", provider="sim", until_ns=9, updated_ns=10)
    action = CorporateAction(symbol="AAPL", kind="split", ex_ns=5, provider="sim", as_of_ns=1, ratio=7.0)
    first = SqliteRecords(path)
    first.add_observations(observations(1))
    version = first.save_universe([instrument], source="u.csv", as_of_ns=7)
    first.note_spans([span])
    first.add_jobs([job])
    first.set_cursors([cursor])
    first.add_actions([action])
    for close_first in (True, False):  # without it, as after a crash
        if close_first:
            first.close()
        again = SqliteRecords(path)
        assert again.observations("S0", 0, 2 * MINUTE).equals(observations(1).slice(0, 1))
        assert again.universe() == (instrument,)
        assert again.universe_versions() == (version,)
        assert again.spans("1m", 0, 99) == (span,)
        assert again.jobs() == (job,)
        assert again.cursors("1m") == (cursor,)
        assert again.actions("AAPL") == (action,)
        assert again.verify() == []
        again.close()
    assert [p.name for p in path.parent.iterdir()] == ["records.db"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteRecords(tmp_path / "file" / "records.db")
    with pytest.raises(StoreError, match="unable to open"):
        SqliteRecords(tmp_path)


def test_damage_is_found_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    records = SqliteRecords(path)
    for number in range(100):
        records.add_observations(observations(number))
    records.close()
    whole = path.read_bytes()
    # a page of a table: its header, which says where on the page the rows are
    for page in range(2, len(whole) // 4096, 7):
        path.write_bytes(whole[: page * 4096] + b"\xff" * 16 + whole[page * 4096 + 16 :])
        with pytest.raises(StoreCorrupt, match=re.escape(str(path))):
            SqliteRecords(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreCorrupt):
        SqliteRecords(path)
    path.write_bytes(b"symbol,exchange\nAAPL,XNAS\n" * 500)
    with pytest.raises(StoreCorrupt, match="not a database"):
        SqliteRecords(path)


def one_of_each(records: SqliteRecords) -> None:
    records.add_observations(observations(1))
    records.add_observations(observations(1, 2.5, as_of=2))
    records.save_universe([Instrument(id="FB", symbol="META", exchange="XNAS")], source="u.csv", as_of_ns=7)
    records.save_universe([Instrument(id="FB", symbol="META", active=False)], source="u.csv", as_of_ns=8)
    records.note_spans([span(1, None), span(2, "A")])
    records.add_jobs([job(1), job(2)])
    records.set_cursors([Cursor(symbol="A", interval="1m", provider="sim", until_ns=9, updated_ns=10)])
    # a whole number where the database keeps fractions
    records.add_actions(
        [
            CorporateAction(symbol="A", kind="split", ex_ns=5, provider="sim", as_of_ns=1, ratio=7, withdrawn=w)
            for w in (0, 1)
        ]
    )


def everything(records: SqliteRecords) -> list[object]:
    """All that can be read, in values that compare."""
    return [
        records.universe_versions(),
        records.universe(version=1),
        records.universe(),
        records.spans("1m", -(2**63), 2**63 - 1),
        records.cursors("1m"),
        records.jobs(),
        records.actions("A", as_of_ns=1),
        records.actions("A"),
        records.series(),
        *(
            records.observations(f"S{n}", -(2**63), 2**63 - 1, as_of_ns=as_of).to_pydict()
            for n in range(ROWS)
            for as_of in (1, 2)
        ),
    ]


def test_a_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    records = SqliteRecords(path)
    one_of_each(records)
    assert records.verify() == []
    records.close()
    with contextlib.closing(SqliteRecords(path)) as again:
        assert again.verify() == []
        expected = everything(again)
    whole = path.read_bytes()
    assert expected[0] != ()
    # where something is: most of a young file is empty pages
    used = [place for place, byte in enumerate(whole) if byte]
    chance = random.Random(20_261_120)
    found = 0
    for place in chance.sample(used, 250):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            with contextlib.closing(SqliteRecords(path)) as damaged:
                if damaged.verify():
                    found += 1
                else:
                    assert everything(damaged) == expected, place
        except StoreError:
            found += 1
        for left in ("records.db-wal", "records.db-shm"):
            (tmp_path / left).unlink(missing_ok=True)
    assert found > 150


def test_a_changed_value_is_said_with_its_table(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    records = SqliteRecords(path)
    one_of_each(records)
    records.close()
    whole = path.read_bytes()
    assert whole.count(b"u.csv") == 2
    path.write_bytes(whole.replace(b"u.csv", b"v.csv", 1))
    records = SqliteRecords(path)
    assert records.verify() == [f"{path}: 1 rows of universe_versions are not what was written"]
    records.close()


def test_a_file_of_another_program_or_of_the_future_is_refused(tmp_path: Path) -> None:
    other, future = tmp_path / "other.db", tmp_path / "future.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE places (url TEXT)")
    with pytest.raises(StoreError, match="another program"):
        SqliteRecords(other)
    SqliteRecords(future).close()
    with contextlib.closing(sqlite3.connect(future)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="schema 99"):
        SqliteRecords(future)


def test_processes_that_open_a_new_file_at_once_make_its_tables_once(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from marketd.store.sqlite import SqliteRecords
sys.stdin.readline()
SqliteRecords(Path(sys.argv[1])).close()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "records.db")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [(p.communicate(timeout=60)[1], p.returncode) for p in processes] == [("", 0)] * 3


def test_a_full_disk_is_an_error_that_keeps_nothing_half(tmp_path: Path) -> None:
    records = SqliteRecords(tmp_path / "records.db")
    records.add_observations(observations(0))
    pages = records._writer.execute("PRAGMA page_count").fetchone()[0]
    records._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    kept = 1
    with contextlib.suppress(StoreError):
        while kept < 1000:
            records.add_observations(observations(kept))
            kept += 1
    with pytest.raises(StoreError, match="full"):
        records.add_observations(observations(kept))
    assert all(stored_minutes(records, f"S{n}") == list(range(kept)) for n in range(ROWS))
    records._writer.execute("PRAGMA max_page_count = 1000000")
    assert records.add_observations(observations(kept)) == ROWS
    assert stored_minutes(records) == list(range(kept + 1))
    records.close()


FILLER = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sqlite_records import *

records = SqliteRecords(Path({path!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for number in range(10_000):
    try:
        records.add_observations(observations(number))
    except StoreError as error:
        print(number, error, flush=True)
        break
os._exit(0)
"""


def test_a_write_that_the_system_refuses_loses_nothing_before_it(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    program = FILLER.format(tests=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    number, _, reason = done.stdout.partition(" ")
    assert done.stderr == ""
    assert reason.startswith(str(path))
    records = SqliteRecords(path)
    assert stored_minutes(records) == list(range(int(number)))
    assert records.verify() == []
    records.close()


def test_a_writer_in_another_process_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    records = SqliteRecords(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO macro_factors VALUES ('X', 1, 'sim', 1, 1.0, 0)")
        assert records.series() == ()  # reads do not wait
        threading.Timer(0.2, lambda: other.execute("COMMIT")).start()
        assert records.add_observations(observations(0)) == ROWS
    assert records.series()[-1] == "X"
    records.close()


# Writes a minute of everything, over and over, and says after each call that it has returned.
WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sqlite_records import *

records = SqliteRecords(Path({path!r}))
records.requeue_running(2**62 + 1)
number = {first}
while True:
    write_all(records, number, lambda what: os.write(1, b"%s %d\\n" % (what.encode(), number)))
    number += 1
"""

CALLS = ("observations", "revision", "span", "cursor", "universe", "job", "taken", "done")


def write_all(records: SqliteRecords, number: int, said: Callable[[str], object]) -> None:
    """Every kind of write, of minute `number`; done over, it changes nothing that was done."""
    records.add_observations(observations(number))
    said("observations")
    records.add_observations(observations(number, 2.0, as_of=2))
    said("revision")
    records.note_spans([span(number, symbol) for symbol in (None, "A", "B")])
    said("span")
    records.set_cursors(
        [Cursor(symbol=s, interval="1m", provider="sim", until_ns=number, updated_ns=number) for s in ("A", "B")]
    )
    said("cursor")
    records.save_universe(
        [Instrument(id="A", symbol="A", rank=number), Instrument(id=f"N{number}", symbol="N")],
        source="u.csv",
        as_of_ns=number,
    )
    said("universe")
    records.add_jobs([job(number)])
    said("job")
    for taken in records.take_jobs("T0", 2**62, 9):
        said("taken")
        records.save_job(msgspec.structs.replace(taken, state="done", bars=1))
    said("done")


def span(number: int, symbol: str | None) -> AnsweredSpan:
    return AnsweredSpan(
        symbol=symbol,
        interval="1m",
        provider="sim",
        start_ns=number * MINUTE,
        end_ns=(number + 1) * MINUTE,
        reason="no_trades",
        as_of_ns=number * MINUTE,
    )


def job(number: int) -> BackfillJob:
    return BackfillJob(
        id=f"job-{number:06}",
        symbol="A",
        interval="1m",
        start_ns=number * MINUTE,
        end_ns=(number + 1) * MINUTE,
        tier="T0",
        reason="gap",
        created_ns=number,
    )


def check(path: Path, said: dict[str, int]) -> int:
    """What was acknowledged is there, whole, and at most the next of each kind; the first minute that is not."""
    records = SqliteRecords(path)
    assert records.verify() == []
    minutes = stored_minutes(records)
    for n in range(ROWS):
        assert stored_minutes(records, f"S{n}") == minutes
    revised = [stored_minutes(records, f"S{n}", as_of_ns=2) for n in range(ROWS)]
    assert revised == [minutes] * ROWS
    values = [records.observations(f"S{n}", 0, 2**62).column("value").to_pylist() for n in range(ROWS)]
    assert values == [values[0]] * ROWS
    revisions = values[0].count(2.0)
    assert values[0] == [2.0] * revisions + [1.0] * (len(minutes) - revisions)
    spans = {s.symbol: s for s in records.spans("1m", 0, 2**62)}
    assert len({s.end_ns for s in spans.values()}) <= 1
    cursors = {c.until_ns for c in records.cursors("1m")}
    assert len(cursors) <= 1
    jobs = sorted(records.jobs(limit=10**9), key=lambda j: j.id)
    assert [j.id for j in jobs] == [f"job-{n:06}" for n in range(len(jobs))]
    assert all(j.bars == (j.state == "done") for j in jobs)
    assert [j.id for j in jobs[:-1] if j.state != "done"] == []
    universe = {i.id: i for i in records.universe()}
    last_universe = universe["A"].rank if universe else -1
    assert set(universe) in (set(), {"A", f"N{last_universe}"})
    assert len(records.universe_versions()) == last_universe + 1
    there = {
        "observations": len(minutes) - 1,
        "revision": revisions - 1,
        "span": max((s.end_ns // MINUTE - 1 for s in spans.values()), default=-1),
        "cursor": max(cursors, default=-1),
        "universe": last_universe,
        "job": len(jobs) - 1,
        "done": sum(j.state == "done" for j in jobs) - 1,
    }
    for call, last in there.items():
        assert said.get(call, -1) <= last <= said.get(call, -1) + 1, (call, said, there)
    records.close()
    return min(there.values()) + 1


def kill_rounds(path: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    said: dict[str, int] = {}
    for _ in range(rounds):
        first = check(path, said)
        program = WRITER.format(tests=str(Path(__file__).parent), path=str(path), first=first)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it has begun
        reader = threading.Thread(target=lambda lines=lines, out=process.stdout: lines.append(out.read()))
        reader.start()
        time.sleep(chance.uniform(0, 0.15))  # the moment is what is being varied
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        reader.join(30)
        assert process.stderr is not None
        errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        assert errors == b""
        for line in b"".join(lines).decode().split("\n")[:-1]:
            call, number = line.split()
            assert call in CALLS
            said[call] = max(int(number), said.get(call, -1))
    assert check(path, said) > rounds


def test_kill_9_at_random_moments_loses_and_halves_nothing(tmp_path: Path) -> None:
    kill_rounds(tmp_path / "records.db", 6, seed=20_261_120)


@pytest.mark.drill
def test_kill_9_a_hundred_times(tmp_path: Path) -> None:
    for seed in range(5):
        kill_rounds(tmp_path / str(seed) / "records.db", 20, seed)
