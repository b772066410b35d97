"""History that comes at once: acknowledged when it is in the log, read from there, and sealed like everything else."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from marketd.errors import StoreCorrupt
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.embedded.columns import Names
from marketd.store.embedded.compact import merge
from marketd.store.embedded.log import Log
from marketd.testing import ManualClock

M1 = Interval.parse("1m")
MINUTE = 60 * NS_PER_S
OPENING = parse_ns("2026-01-05T14:30:00Z")
NOW = parse_ns("2026-11-20T12:00:00Z")
ROWS = 40_000


def history(
    symbol: str = "AAPL", first: int = 0, rows: int = ROWS, *, raised: float = 0.0, as_of_ns: int = NOW
) -> pa.Table:
    """Every third minute from minute `first` on, with volumes and counts that are absent, small, or huge."""
    number = np.arange(first, first + rows)
    close = np.round(100 + (number % 977) / 100 + raised, 2)
    columns = {
        "symbol": pa.repeat(symbol, rows),
        "interval": pa.repeat("1m", rows),
        "side": pa.repeat("trade", rows),
        "ts": pa.array(OPENING + 3 * number * MINUTE).cast(BAR_SCHEMA.field("ts").type),
        "open": pa.array(close),
        "high": pa.array(close + 1 / 3),
        "low": pa.array(close - 0.5),
        "close": pa.array(close),
        "volume": pa.array(number * 1e9, mask=number % 7 == 0),
        "vwap": pa.nulls(rows, pa.float64()),
        "trades": pa.array(number * 10**6, mask=number % 11 == 0),
        "provider": pa.repeat("sim", rows),
        "status": pa.repeat("backfill", rows),
        "as_of": pa.repeat(as_of_ns, rows).cast(BAR_SCHEMA.field("as_of").type),
    }
    return pa.table(columns, schema=BAR_SCHEMA)


def open_store(folder: Path, **config: int) -> EmbeddedStore:
    settings = EmbeddedStoreConfig(compact_every_s=None, retire_after_s=0, **config)
    return EmbeddedStore(folder, settings, ManualClock(NOW), merge=merge)


def read(store: EmbeddedStore, symbol: str = "AAPL", as_of_ns: int | None = None) -> pa.Table:
    return store.read(symbol, M1, 0, 2**63 - 1, as_of_ns=as_of_ns)


def held_in_memory(store: EmbeddedStore) -> int:
    return sum(segment._held.in_memory for segment in store._state().segments)


def test_it_is_the_same_from_the_log_after_a_restart_and_sealed(tmp_path: Path) -> None:
    one, other = history(), history("MSFT", first=5, rows=20_000)
    store = open_store(tmp_path)
    assert [store.append(table) for table in (one, other, one)] == [ROWS, 20_000, 0]
    assert held_in_memory(store) == 0

    def check() -> None:
        assert read(store).equals(one)
        assert read(store, "MSFT").equals(other)
        begin, end = OPENING + 300 * MINUTE, OPENING + 1_500 * MINUTE
        assert store.read("AAPL", M1, begin, end).equals(one.slice(100, 400))
        assert store.read("AAPL", M1, begin, end, limit=3, newest_first=True).equals(one.slice(497, 3).take([2, 1, 0]))
        assert store.cross_section(M1, begin).equals(pa.concat_tables([one.slice(100, 1), other.slice(95, 1)]))
        assert store.versions("AAPL", M1, begin).equals(one.slice(100, 1))
        assert store.symbols() == ("AAPL", "MSFT")
        assert store.stats().versions == ROWS + 20_000
        presence = store.presence(M1, OPENING, OPENING + 30 * MINUTE)
        there = np.unpackbits(presence.bits, axis=1, count=30, bitorder="little")
        assert np.flatnonzero(there[0]).tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
        assert np.flatnonzero(there[1]).tolist() == [15, 18, 21, 24, 27]

    check()
    store.close()
    store = open_store(tmp_path)
    check()
    store.seal()
    check()
    store.close()


def test_what_was_revised_since_is_in_memory_and_comes_before_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first = history()
    store.append(first)
    revised = history(first=100, rows=50, raised=1.0, as_of_ns=NOW + NS_PER_S)
    assert store.append(revised) == 50
    assert held_in_memory(store) == 50
    wanted = pa.concat_tables([first.slice(0, 100), revised, first.slice(150)])

    def check() -> None:
        assert read(store).equals(wanted)
        assert read(store, as_of_ns=NOW).equals(first)
        ts_ns = OPENING + 360 * MINUTE
        assert store.versions("AAPL", M1, ts_ns).equals(pa.concat_tables([first.slice(120, 1), revised.slice(20, 1)]))
        assert store.cross_section(M1, ts_ns).equals(revised.slice(20, 1))
        assert store.append(first) == 0  # what was in force once is no news
        assert store.append(revised) == 0

    check()
    store.seal()
    check()
    # all of it revised, which is not history that was unknown
    again = history(raised=2.0, as_of_ns=NOW + 2 * NS_PER_S)
    assert store.append(again) == ROWS
    assert held_in_memory(store) == ROWS
    assert read(store).equals(again)
    assert read(store, as_of_ns=NOW + NS_PER_S).equals(wanted)
    store.close()


def test_a_year_may_come_in_several_batches_in_any_order_between_live_bars(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    whole = history(rows=80_000)
    for begin in (40_000, 0, 60_000, 20_000):
        assert store.append(whole.slice(begin, 20_000)) == 20_000
        assert store.append(history("MSFT", first=begin, rows=1)) == 1
    assert held_in_memory(store) == 4
    assert read(store).equals(whole)
    assert store.append(whole.slice(30_000, 20_000)) == 0
    store.seal()
    assert read(store).equals(whole)
    assert read(store, "MSFT").num_rows == 4
    store.close()


def test_who_reads_while_it_is_sealed_reads_on(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    table = history()
    store.append(table)
    with store._reading() as state:
        store.seal()
        assert not list((tmp_path / "log").glob("log-000001.bars"))
        rows = state.segments[0].everything()
        assert len(rows) == ROWS
        assert rows.floats[3].tolist() == table.column("close").to_pylist()
    store.close()


def test_a_log_that_was_damaged_meanwhile_is_not_sealed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.append(history())
    log = tmp_path / "log" / "log-000001.bars"
    with log.open("r+b") as file:
        file.seek(-1_000, 2)
        byte = file.read(1)[0]
        file.seek(-1_000, 2)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(StoreCorrupt, match=r"log-000001\.bars: the frame at byte \d+ is damaged"):
        store.seal()
    assert log.exists()
    assert not list((tmp_path / "bars").rglob("*.parquet"))
    store.close()


def test_counts_beyond_32_bits_and_absent_ones_come_back_from_the_log(tmp_path: Path) -> None:
    counts: list[list[int | None]] = [[0, 5, 2**31 - 1], [0, 2**31, 5], [None, 1, 2], [0, 2**62, None]]
    for number, trades in enumerate(counts):
        table = history(rows=3).set_column(10, BAR_SCHEMA.field("trades"), pa.array(trades, pa.int64()))
        names = Names()
        rows = names.columns(table)
        log = Log.create(tmp_path / f"log-{number:06d}.bars", NOW)
        frame = log.append(rows, names)
        frame.keep()
        assert names.table(frame.rows(int(rows.series[0]), slice(None))).equals(table)
        log.close()
        assert names.table(frame.rows(int(rows.series[0]), slice(1, 3))).equals(table.slice(1, 2))
        again, count, parts = Log.open(tmp_path / f"log-{number:06d}.bars", names, last=True)
        assert count == 3
        assert [names.table(part) for part in parts] == [table]
        assert again is not None
        again.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_embedded_store_backfill import FIRST_HOUR, history, open_store
store = open_store(Path(sys.argv[1]))
for symbol in ("AAPL", "MSFT"):
    store.append(history(symbol))
    assert store.read(symbol, *FIRST_HOUR).num_rows == 20
    os.write(1, symbol.encode() + b"\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""
FIRST_HOUR = (M1, OPENING, OPENING + 60 * MINUTE)


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    program = [sys.executable, "-c", _KILLED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["AAPL", "MSFT"]
    store = open_store(tmp_path)
    assert read(store).equals(history())
    assert read(store, "MSFT").equals(history("MSFT"))
    store.close()
