"""Killed with `kill -9` while it works: what was told as kept is there, jobs are done once, no bar comes twice."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marketd.clock import SystemClock
from marketd.model import BackfillJob, Interval, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.sqlite import SqliteRecords

CHILD = Path(__file__).with_name("backfill_child.py")
MINUTE = Interval.parse("1m")
M = 60 * 10**9
START_NS = parse_ns("2026-01-05")
HOURS = 12


def jobs(count):
    return [
        BackfillJob(
            id=f"job-{n}",
            symbol=f"S{n}",
            interval="1m",
            start_ns=START_NS,
            end_ns=START_NS + HOURS * 60 * M,
            tier=("T0", "T1", "T2")[n % 3],
            reason="manual",
            created_ns=n + 1,
            updated_ns=n + 1,
        )
        for n in range(count)
    ]


def run(folder, alive_s):
    """The lines the child said before it was killed, or until its end (alive_s None)."""
    child = subprocess.Popen([sys.executable, str(CHILD), str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout as lines:
        said = []
        for line in lines:
            if line.endswith("\n"):  # else the kill has cut it off
                said.append(line.split())
            if line == "ready\n" and alive_s is not None:
                time.sleep(alive_s)  # at any moment of its work
                child.kill()
    assert alive_s is not None or child.returncode == 0, said[-3:]
    sizes = {"asked": 3, "kept": 5}
    return [words for words in said if words and len(words) == sizes.get(words[0])]


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=[pytest.mark.drill, pytest.mark.timeout(900)])])
def test_killed_at_any_moment(tmp_path, rounds):
    rng = random.Random(rounds)
    wanted = jobs(max(9, rounds // 2))
    records = SqliteRecords(tmp_path / "records.db")
    records.add_jobs(wanted)
    records.close()
    kept: dict[str, int] = {}
    done: set[str] = set()
    for number in range(rounds + 1):
        for words in run(tmp_path, None if number == rounds else rng.uniform(0.0, 0.25)):
            if words[0] == "asked":
                assert int(words[2]) >= kept.get(words[1], START_NS), "what was kept is asked for again"
                assert words[1] not in done, "a job that was done is worked on again"
            elif words[0] == "kept":
                kept[words[1]] = int(words[3])
                if words[4] == "done":
                    done.add(words[1])
    assert done <= {job.symbol for job in wanted}

    records = SqliteRecords(tmp_path / "records.db")
    store = EmbeddedStore(tmp_path / "bars", EmbeddedStoreConfig(), SystemClock())
    expected = [START_NS + n * M for n in range(HOURS * 60)]
    for job in wanted:
        known = records.job(job.id)
        assert known is not None
        assert (known.state, known.bars, known.done_ns) == ("done", HOURS * 60, job.end_ns)
        bars = store.read(job.symbol, MINUTE, 0, 2**62)
        assert bars["ts"].cast("int64").to_pylist() == expected
        # A version more would be a bar that came twice with other values; the same values are no version.
        assert all(store.versions(job.symbol, MINUTE, ts).num_rows == 1 for ts in expected[::97])
        cursor = records.cursor(job.symbol, "1m", "scripted")
        assert cursor is not None
        assert cursor.until_ns == job.end_ns
    store.close()
    records.close()
