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

import duckdb
import pyarrow as pa
import pytest

from marketd.model import Interval
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.testing import ManualClock
from marketd.testing.store_conformance import bar_table

sys.path.insert(0, str(Path(__file__).parent))
from test_embedded_store import MINUTE, OPENING, bar

BATCH = 25

# Appends batch after batch, of one bar for each of 25 symbols and a revision of the minute before, and says
# which are acknowledged; ends itself at the given step if there is one.
WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_embedded_store_crash import *

step_to_die_at, countdown = {step!r}, {countdown}

def on_step(step):
    global countdown
    if step == step_to_die_at:
        countdown -= 1
        if countdown == 0:
            os._exit(9)

config = EmbeddedStoreConfig(seal_rows={seal_rows})
store = EmbeddedStore(Path({folder!r}), config, ManualClock(OPENING), on_step=on_step)
for number in range({first}, {last}):
    store.append(batch(number))
    os.write(1, b"acked %d\\n" % number)
store.close()
"""


def batch(number: int) -> pa.Table:
    """Minute `number` of every symbol, and the corrected minute before it."""
    bars = [bar(number, f"S{n}", close=100.0) for n in range(BATCH)]
    if number:
        bars += [bar(number - 1, f"S{n}", close=100.0 + number) for n in range(0, BATCH, 5)]
    return bar_table(bars)


def expected_closes(symbol: int, batches: int) -> list[float]:
    corrected = [101.0 + minute for minute in range(batches - 1)] if symbol % 5 == 0 else [100.0] * (batches - 1)
    return [*corrected, 100.0] if batches else []


def writer(folder: Path, first: int, last: int, *, seal_rows: int = 90, step: str = "", countdown: int = 1):
    program = WRITER.format(
        tests=str(Path(__file__).parent),
        folder=str(folder),
        first=first,
        last=last,
        seal_rows=seal_rows,
        step=step,
        countdown=countdown,
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def acked(output: bytes) -> int:
    """How many batches were acknowledged by these lines (the last may be cut)."""
    lines = output.decode().split("\n")[:-1]
    return int(lines[-1].split()[1]) + 1 if lines else 0


def check(folder: Path, known: int) -> int:
    """Every acknowledged batch is there, at most one more is, whole; nothing is there twice. How many there are."""
    store = EmbeddedStore(folder, EmbeddedStoreConfig(seal_rows=90), ManualClock(OPENING))
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
        query = "SELECT count(*), count(DISTINCT (symbol, ts, as_of)) FROM read_parquet(?, hive_partitioning=false)"
        if stored:
            counted = duckdb.connect().execute(query, [f"{folder}/bars/**/*.parquet"]).fetchone()
            assert counted == (versions, versions)
            manifest = json.loads((folder / "manifest.json").read_bytes())["manifest"]
            assert sum(file["rows"] for file in manifest["files"]) == versions
            assert len({file["path"] for file in manifest["files"]}) == len(manifest["files"])
            assert [path.name for path in (folder / "log").iterdir()] == [f"log-{manifest['log_sealed'] + 1:06d}.bars"]
    finally:
        store.close()
    left = [path.name for path in folder.rglob("*") if path.suffix == ".tmp"]
    assert left == []
    return stored


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
    ],
)
def test_death_at_any_step_loses_and_doubles_nothing(tmp_path: Path, step: str, countdown: int) -> None:
    process = writer(tmp_path, 0, 40, step=step, countdown=countdown)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 9, errors.decode()
    stored = check(tmp_path, acked(output))
    process = writer(tmp_path, stored, stored + 8)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert check(tmp_path, stored + 8) == stored + 8


def kill_rounds(folder: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    stored = 0
    for _ in range(rounds):
        process = writer(folder, stored, stored + 100_000)
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]  # it has begun
        reader = threading.Thread(target=lambda lines=lines, out=process.stdout: lines.append(out.read()))
        reader.start()
        time.sleep(chance.uniform(0, 0.2))  # the moment is what is being varied
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        reader.join(30)
        errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        assert errors == b""
        stored = check(folder, acked(b"".join(lines)))


def test_kill_9_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 20, seed=20_261_120)


@pytest.mark.drill
def test_kill_9_three_hundred_times(tmp_path: Path) -> None:
    for seed in range(15):
        kill_rounds(tmp_path / str(seed), 20, seed)
