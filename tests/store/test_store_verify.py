"""`verify` finds a flipped bit wherever it is, and `marketd store` says so."""

import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from marketd.cli.store import store as store_commands
from marketd.errors import StoreError, StoreLocked
from marketd.model import Bar, Interval
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig, describe, verify
from marketd.store.embedded.compact import merge
from marketd.testing import ManualClock
from marketd.testing.store_conformance import bar_table

OPENING = 1_795_185_000 * 10**9
MINUTE = 60 * 10**9
CONFIG = EmbeddedStoreConfig(compact_every_s=None, retire_after_s=0)


def bars(minutes: range, close: float = 1.0, as_of: int = 1) -> list[Bar]:
    return [
        Bar(
            symbol=symbol,
            interval="1m",
            side="trade",
            ts_ns=OPENING + minute * MINUTE,
            open=1.0,
            high=3.0,
            low=0.5,
            close=close + minute,
            volume=5.0,
            vwap=None,
            trades=3,
            provider="sim",
            status="final",
            as_of_ns=OPENING + (minute + as_of) * MINUTE,
        )
        for symbol in ("AAPL", "MSFT")
        for minute in minutes
    ]


def open_store(folder: Path) -> EmbeddedStore:
    return EmbeddedStore(folder, CONFIG, ManualClock(OPENING), merge=merge)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with every kind of file: merged, superseded, by time, a part and a log."""
    opened = open_store(tmp_path / "data")
    for batch in (bars(range(50)), bars(range(20), close=2.0, as_of=2)):
        opened.append(bar_table(batch))
        opened.seal()
    opened.compact()
    opened.append(bar_table(bars(range(40, 60), close=3.0, as_of=3)))
    opened.seal()
    for minute in range(60, 63):
        opened.append(bar_table(bars(range(minute, minute + 1))))
    opened.close()
    return tmp_path / "data"


def content(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_store_that_is_whole_is_found_whole(folder: Path) -> None:
    assert {path.suffix for path in content(folder)} == {".json", ".bars", ".parquet", ".coverage"}
    told: list[tuple[int, int]] = []
    assert verify(folder, lambda done, total: told.append((done, total))) == []
    size = sum(path.stat().st_size for path in content(folder) if path.name != "manifest.json")
    assert told[-1] == (size, size)


def test_a_flipped_bit_is_found_wherever_it_is(folder: Path) -> None:
    chance = random.Random(7)
    for path in content(folder):
        data = path.read_bytes()
        places = {0, len(data) - 1, len(data) // 2, *(chance.randrange(len(data)) for _ in range(20))}
        for place in places:
            damaged = bytearray(data)
            damaged[place] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            found = verify(folder)
            assert [damage.path for damage in found] == [str(path.relative_to(folder))], (path, place)
        path.write_bytes(data)
    assert verify(folder) == []


def test_damage_is_named_by_its_place(folder: Path) -> None:
    path = next(path for path in content(folder) if "bars/interval" in str(path) and path.suffix == ".parquet")
    data = bytearray(path.read_bytes())
    about = pq.read_metadata(path).row_group(0).column(7)
    start, end = about.dictionary_page_offset or about.data_page_offset, 0
    end = start + about.total_compressed_size
    data[end - 3] ^= 4
    path.write_bytes(data)
    (damage,) = verify(folder)
    assert damage.place.startswith(f"fails its checksum: row group 0, column close, bytes {start} to {end} (")
    path.write_bytes(data[:-1])
    (damage,) = verify(folder)
    assert damage.place == f"has {len(data) - 1} bytes; the manifest says {len(data)}"
    path.unlink()
    (damage,) = verify(folder)
    assert damage.place == "is listed in the manifest, but does not exist"


def test_a_frame_that_was_never_finished_is_said(folder: Path) -> None:
    log = next(path for path in content(folder) if path.suffix == ".bars")
    log.write_bytes(log.read_bytes()[:-5])
    (damage,) = verify(folder)
    assert "is damaged or was never finished; none follows" in damage.place
    open_store(folder).close()
    assert verify(folder) == []


def test_a_store_may_be_verified_while_it_is_written_to(folder: Path) -> None:
    opened = open_store(folder)
    assert verify(folder) == []
    opened.append(bar_table(bars(range(100, 130))))
    assert verify(folder) == []
    assert describe(folder).versions == opened.stats().versions
    assert describe(folder).details == opened.stats().details
    opened.close()


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    for asked in (verify, describe):
        with pytest.raises(StoreError, match="is not the data directory of a store"):
            asked(tmp_path)


def test_the_commands(folder: Path) -> None:
    run = CliRunner().invoke
    told = run(store_commands, ["stats", "--data-dir", str(folder)], catch_exceptions=False)
    # 2 × 50 bars, 2 × 20 revised, 2 × 20 of which 2 × 10 revise again and the others are new, 2 × 3 in the log
    assert {tuple(line.split()) for line in told.output.splitlines()} >= {
        ("symbols", "sealed", "2"),
        ("versions", "186"),
        ("rows", "in", "log", "6"),
        ("rows", "current", "100"),
        ("rows", "superseded", "40"),
        ("rows", "part", "40"),
    }
    told = run(store_commands, ["verify", "--data-dir", str(folder)], catch_exceptions=False)
    assert (told.exit_code, told.output) == (0, f"{folder}: everything is as it was written\n")
    told = run(store_commands, ["compact", "--data-dir", str(folder)], catch_exceptions=False)
    left = len(list(folder.rglob("*.parquet")))  # one of them only for a week, until nobody wants it by time
    assert (told.exit_code, told.output) == (0, f"sealed the log; 1 merge: 4 files are {left} now\n")
    opened = open_store(folder)
    assert opened.read("AAPL", Interval.parse("1m"), 0, 2**63 - 1).num_rows == 63
    with pytest.raises(StoreLocked):
        run(store_commands, ["compact", "--data-dir", str(folder)], catch_exceptions=False)
    opened.close()
    damaged = next(path for path in content(folder) if path.suffix == ".coverage")
    data = bytearray(damaged.read_bytes())
    data[30] ^= 1
    damaged.write_bytes(data)
    told = run(store_commands, ["verify", "--data-dir", str(folder)], catch_exceptions=False)
    assert told.exit_code == 1
    assert told.output.startswith(f"{damaged.relative_to(folder)}: fails its checksum: ")


def test_importing_the_commands_is_light() -> None:
    program = "import sys, marketd.cli.store; print('pyarrow' in sys.modules, 'numpy' in sys.modules)"
    # the family itself; whatever `marketd.cli` imports beside it is not its concern
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
