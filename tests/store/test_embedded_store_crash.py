"""Killed at every step and at any moment: what was acknowledged is there afterwards, once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import crash_writer
import duckdb
import pyarrow as pa
import pytest
from crash_writer import BATCH, MINUTE, OPENING, batch, settings

from marketd.model import Interval
from marketd.store.embedded import EmbeddedStore, verify
from marketd.store.embedded.compact import merge
from marketd.testing import ManualClock


def expected_closes(symbol: int, batches: int) -> list[float]:
    corrected = [101.0 + minute for minute in range(batches - 1)] if symbol % 5 == 0 else [100.0] * (batches - 1)
    return [*corrected, 100.0] if batches else []


def writer(
    folder: Path,
    first: int,
    last: int,
    *,
    seal_rows: int = 90,
    step: str = "",
    countdown: int = 1,
    merging: str = "",
) -> subprocess.Popen[bytes]:
    told = {"folder": str(folder), "first": first, "last": last, "seal_rows": seal_rows}
    told |= {"step": step, "countdown": countdown, "merging": merging}
    program = [sys.executable, crash_writer.__file__, json.dumps(told)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def acked(output: bytes) -> int:
    """How many batches were acknowledged by these lines (the last may be cut)."""
    lines = output.decode().split("\n")[:-1]
    return int(lines[-1].split()[1]) + 1 if lines else 0


def check(folder: Path, known: int) -> int:
    """Every acknowledged batch is there, at most one more is, whole; nothing is there twice. How many there are."""
    store = EmbeddedStore(folder, settings(seal_rows=90), ManualClock(OPENING), merge=merge)
    try:
        stored = store.read("S1", Interval.parse("1m"), 0, 2**63 - 1).num_rows
        assert known <= stored <= known + 1
        for n in range(BATCH):
            answer = store.read(f"S{n}", Interval.parse("1m"), 0, 2**63 - 1)
            assert answer.column("ts").cast(pa.int64()).to_pylist() == [OPENING + m * MINUTE for m in range(stored)]
            assert answer.column("close").to_pylist() == expected_closes(n, stored)
        if stored:
            assert store.append(batch(stored - 1)) == 0
        store.seal()
        # after which the files alone hold each version once: 25 bars a batch and 5 corrections from the second on
        versions = BATCH * stored + 5 * max(0, stored - 1)
        if stored:
            count_versions(folder, versions)
            store.compact()
            count_versions(folder, versions)
            assert store.read("S1", Interval.parse("1m"), 0, 2**63 - 1).num_rows == stored
    finally:
        store.close()
    assert verify(folder) == []
    return stored


def count_versions(folder: Path, versions: int) -> None:
    """The files alone hold each version once, and nothing else is there."""
    manifest = json.loads((folder / "manifest.json").read_bytes())["manifest"]
    listed = [file["path"] for file in manifest["files"] if file["kind"] != "by_time"]
    assert sum(file["rows"] for file in manifest["files"] if file["kind"] != "by_time") == versions
    query = "SELECT count(*), count(DISTINCT (symbol, ts, as_of)) FROM read_parquet(?, hive_partitioning=false)"
    for files in ([f"{folder}/{path}" for path in listed], sealed_paths(folder)):
        assert duckdb.connect().execute(query, [files]).fetchone() == (versions, versions)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    parquet = {file["path"] for file in manifest["files"]}
    coverage = {path.replace(".parquet", ".coverage") for path in parquet if not path.startswith("bytime/")}
    log = f"log/log-{manifest['log_sealed'] + 1:06d}.bars"
    assert there - {"compact.lock"} == parquet | coverage | {log, "manifest.json", "marketd.lock"}


def sealed_paths(folder: Path) -> list[str]:
    return [str(path) for name in ("bars", "history") for path in (folder / name).rglob("*.parquet")]


@pytest.mark.parametrize(
    ("step", "countdown"),
    [
        ("log_created", 1),  # in an empty directory
        ("log_created", 2),  # the rows before it not sealed yet
        ("frame_synced", 3),
        ("part_written", 2),
        ("part_renamed", 1),
        ("part_renamed", 2),
        ("manifest_written", 2),
        ("manifest_renamed", 2),
        ("log_deleted", 2),
        ("merge_part_written", 1),
        ("merge_part_renamed", 1),
        ("merge_part_renamed", 5),
        ("merged", 2),
        ("compaction_written", 1),
        ("compaction_written", 2),
        ("compaction_renamed", 1),
        ("compaction_renamed", 2),
        ("retired_removed", 1),
    ],
)
def test_death_at_any_step_loses_and_doubles_nothing(tmp_path: Path, step: str, countdown: int) -> None:
    process = writer(tmp_path, 0, 40, step=step, countdown=countdown, merging="between")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 9, errors.decode()
    stored = check(tmp_path, acked(output))
    store = EmbeddedStore(tmp_path, settings(seal_rows=90), ManualClock(OPENING), merge=merge)
    for number in range(stored, stored + 8):
        store.append(batch(number))
    store.close()
    assert check(tmp_path, stored + 8) == stored + 8


def kill_rounds(folder: Path, rounds: int, seed: int, *, processes: bool = False) -> None:
    chance = random.Random(seed)
    stored = 0
    for number in range(rounds):
        merging = "process" if processes else ("thread" if number % 2 else "")
        process = writer(folder, stored, stored + 100_000, merging=merging)
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]  # it has begun
        reader = threading.Thread(target=lambda lines=lines, out=process.stdout: lines.append(out.read()))
        reader.start()
        time.sleep(chance.uniform(0, 1.5 if processes else 0.2))  # the moment is what is being varied
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        reader.join(30)
        errors = process.stderr.read()  # ends when no compaction process holds it either
        process.stdout.close()
        process.stderr.close()
        assert errors == b""
        stored = check(folder, acked(b"".join(lines)))


def test_kill_9_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 20, seed=20_261_120)


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_kill_9_three_hundred_times(tmp_path: Path) -> None:
    for seed in range(15):
        kill_rounds(tmp_path / str(seed), 20, seed)


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_kill_9_a_hundred_times_while_processes_merge(tmp_path: Path) -> None:
    for seed in range(5):
        kill_rounds(tmp_path / str(seed), 20, 100 + seed, processes=True)
