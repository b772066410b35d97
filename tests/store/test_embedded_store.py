"""The embedded store against the contract, with everything in the log and with nearly everything sealed."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
import pytest

from marketd.errors import InvalidInput, StoreCorrupt, StoreError, StoreLocked
from marketd.model import Bar, Interval
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.embedded.compact import merge
from marketd.testing import ManualClock
from marketd.testing.store_conformance import StoreConformance, bar_table

M1 = Interval.parse("1m")
OPENING = parse_ns("2026-11-20T14:30:00Z")
MINUTE = 60 * NS_PER_S


def bar(minute: int, symbol: str = "AAPL", close: float = 101.5, interval: str = "1m", ts_ns: int | None = None) -> Bar:
    ts_ns = OPENING + minute * MINUTE if ts_ns is None else ts_ns
    return Bar(
        symbol=symbol,
        interval=interval,
        side="trade",
        ts_ns=ts_ns,
        open=100.0,
        high=103.0,
        low=99.5,
        close=close,
        volume=None,
        vwap=None,
        trades=3,
        provider="sim",
        status="final",
        as_of_ns=OPENING + (minute + 1) * MINUTE,
    )


def open_store(folder: Path, clock: ManualClock | None = None, **config: int) -> EmbeddedStore:
    settings = EmbeddedStoreConfig(compact_every_s=None, retire_after_s=0, **config)
    return EmbeddedStore(folder, settings, clock or ManualClock(OPENING), merge=merge)


def read_all(store: EmbeddedStore, symbol: str = "AAPL", interval: str = "1m") -> pa.Table:
    return store.read(symbol, Interval.parse(interval), 0, 2**63 - 1)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestWithEverythingInTheLog(StoreConformance):
    def make_store(self, folder: Path) -> EmbeddedStore:
        return open_store(folder)


class TestReadingHistoryFromTheLog(StoreConformance):
    def make_store(self, folder: Path) -> EmbeddedStore:
        return open_store(folder, run_rows=1)


class TestSealingHistoryThatIsReadFromTheLog(StoreConformance):
    def make_store(self, folder: Path) -> EmbeddedStore:
        return open_store(folder, run_rows=2, seal_rows=5)


class TestSealingAllTheTime(StoreConformance):
    def make_store(self, folder: Path) -> EmbeddedStore:
        return open_store(folder, seal_rows=1, row_group_rows=2)


class _MergingAllTheTime(EmbeddedStore):
    """Everything is sealed and merged after every append."""

    def append(self, bars: pa.Table) -> int:
        made = super().append(bars)
        self.seal()
        self.compact()
        return made


class TestMergingAllTheTime(StoreConformance):
    def make_store(self, folder: Path) -> EmbeddedStore:
        config = EmbeddedStoreConfig(row_group_rows=2, file_rows=5, compact_every_s=None, retire_after_s=0)
        return _MergingAllTheTime(folder, config, ManualClock(OPENING), merge=merge)


class TestSealingWithoutCaches(StoreConformance):
    def make_store(self, folder: Path) -> EmbeddedStore:
        return open_store(
            folder, seal_rows=3, row_group_rows=1, rows_cached=0, footers_cached=1, coverage_bytes_cached=0
        )


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    bars = [bar(minute) for minute in range(10)]
    for seal_rows in (4, 100, 1):
        store = open_store(tmp_path, seal_rows=seal_rows)
        for one in bars:
            store.append(bar_table([one]))
        store.append(bar_table([bar(0, "MSFT")]))
        store.close()
        again = open_store(tmp_path, seal_rows=seal_rows)
        assert read_all(again).equals(bar_table(bars))
        assert again.symbols() == ("AAPL", "MSFT")
        assert again.append(bar_table([*bars, bar(0, "MSFT")])) == 0
        again.close()


def test_numbers_come_back_to_the_bit_from_the_log(tmp_path: Path) -> None:
    columns = [
        [0.01, 1.1, 187.33, 21474836.46],  # cents: written as whole numbers
        [21474836.47, 21474836.48, 1.0, 2.0],  # too many cents for 32 bits
        [0.0, -0.0, 5.0, 7.0],  # a zero that is not the zero it would come back as
        [1.08731, 1.08732, 1.1, 1.0],
        [0.1 + 0.2, 1 / 3, 5e-324, 1e300],
        [-37.63, -0.01, 0.29, 1.15],
    ]
    for number, values in enumerate(columns):
        store = open_store(tmp_path / str(number))
        bars = [
            msgspec.structs.replace(bar(minute), close=value, volume=value if minute != 1 else None)
            for minute, value in enumerate(values)
        ]
        store.append(bar_table(bars))
        store.append(bar_table([msgspec.structs.replace(one, symbol="ALL", volume=one.close) for one in bars]))
        store.close()
        again = open_store(tmp_path / str(number))
        for symbol in ("AAPL", "ALL"):
            closes = read_all(again, symbol).column("close").to_pylist()
            assert [value.hex() for value in closes] == [value.hex() for value in values]
        assert read_all(again).column("volume").to_pylist()[1] is None
        assert [v.hex() for v in read_all(again, "ALL").column("volume").to_pylist()] == [v.hex() for v in values]
        again.close()


def test_sealing_moves_rows_from_the_log_to_sorted_files(tmp_path: Path) -> None:
    store = open_store(tmp_path, seal_rows=3)
    next_day = parse_ns("2026-11-21T00:00:00Z")
    store.append(bar_table([bar(1, "MSFT"), bar(0, "MSFT"), bar(0, "AAPL"), bar(0, ts_ns=next_day)]))
    assert files(tmp_path) == ["log/log-000001.bars", "marketd.lock"]
    store.append(bar_table([bar(0, interval="1h", ts_ns=next_day), bar(0, interval="1d", ts_ns=next_day)]))
    store.seal()
    parts = [
        "bars/interval=1d/date=2026-01-01/year-part-000002",
        "bars/interval=1h/date=2026-11-01/month-part-000002",
        "bars/interval=1m/date=2026-11-20/day-part-000001",
        "bars/interval=1m/date=2026-11-21/day-part-000001",
    ]
    others = ["log/log-000003.bars", "manifest.json", "marketd.lock"]
    assert files(tmp_path) == [part + end for part in parts for end in (".coverage", ".parquet")] + others
    sealed = pa.parquet.read_table(tmp_path / f"{parts[2]}.parquet", partitioning=None)
    assert sealed.equals(bar_table([bar(0, "AAPL"), bar(0, "MSFT"), bar(1, "MSFT")]))
    store.close()


def test_a_new_day_seals_the_day_before(tmp_path: Path) -> None:
    clock = ManualClock(parse_ns("2026-11-20T23:59:00Z"))
    store = open_store(tmp_path, clock)
    store.append(bar_table([bar(0)]))
    store.append(bar_table([bar(1)]))
    assert [name for name in files(tmp_path) if name.startswith("log/")] == ["log/log-000001.bars"]
    clock._elapsed_ns += 2 * MINUTE
    store.append(bar_table([bar(2)]))
    store.close()  # waits for the seal
    assert [name for name in files(tmp_path) if not name.endswith(("lock", "coverage"))] == [
        "bars/interval=1m/date=2026-11-20/day-part-000001.parquet",
        "log/log-000002.bars",
        "manifest.json",
    ]


def test_a_log_that_grows_too_big_is_sealed(tmp_path: Path) -> None:
    store = open_store(tmp_path, log_bytes_max=4096)
    for minute in range(110):
        store.append(bar_table([bar(minute)]))
    assert len([name for name in files(tmp_path) if name.endswith(".parquet")]) >= 3
    assert read_all(store).equals(bar_table([bar(minute) for minute in range(110)]))
    store.close()


def test_appends_go_on_while_a_seal_is_under_way(tmp_path: Path) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold(step: str) -> None:
        if step == "part_written":
            reached.set()
            assert release.wait(30)

    config = EmbeddedStoreConfig(seal_rows=2, compact_every_s=None)
    store = EmbeddedStore(tmp_path, config, ManualClock(OPENING), on_step=hold)
    store.append(bar_table([bar(0), bar(1)]))
    assert store.append(bar_table([bar(2)])) == 1
    assert reached.wait(30)
    # rows being sealed are seen, once, and known to the version check
    assert store.append(bar_table([bar(0), bar(1, close=7.0)])) == 1
    assert read_all(store).column("close").to_pylist() == [101.5, 7.0, 101.5]
    assert not [name for name in files(tmp_path) if name == "manifest.json"]
    release.set()
    store.seal()
    assert read_all(store).column("close").to_pylist() == [101.5, 7.0, 101.5]
    store.close()


def test_while_sealing_fails_rows_are_kept_and_then_appends_refused(tmp_path: Path) -> None:
    broken = True

    def fail(step: str) -> None:
        if broken and step == "part_written":
            raise OSError(errno.ENOSPC, "No space left on device")

    config = EmbeddedStoreConfig(seal_rows=2, compact_every_s=None)
    store = EmbeddedStore(tmp_path, config, ManualClock(OPENING), on_step=fail)
    store.append(bar_table([bar(0), bar(1)]))
    store.append(bar_table([bar(2), bar(3)]))  # seals the first two, in vain
    for _ in range(2):
        with pytest.raises(StoreError, match=r"bars: cannot seal: .*No space left on device"):
            store.append(bar_table([bar(4)]))
    assert read_all(store).equals(bar_table([bar(minute) for minute in range(4)]))
    assert not list(tmp_path.rglob("*.tmp"))
    broken = False
    assert store.append(bar_table([bar(4)])) == 1
    store.seal()
    assert read_all(store).equals(bar_table([bar(minute) for minute in range(5)]))
    assert [name for name in files(tmp_path) if name.startswith("log/")] == ["log/log-000004.bars"]


def test_rows_are_sealed_early_when_nothing_comes(tmp_path: Path) -> None:
    clock = ManualClock(OPENING)
    store = open_store(tmp_path, clock, seal_rows=100, seal_rows_idle=3)
    for minute in range(5):  # as fast as they come
        store.append(bar_table([bar(minute)]))
    assert store.stats().details["files_part"] == 0
    clock._elapsed_ns += NS_PER_S
    store._look_after()
    store._finish_sealing()
    assert store.stats().details["rows_part"] == 5
    store.append(bar_table([bar(5), bar(6), bar(7)]))
    clock._elapsed_ns += NS_PER_S
    store.append(bar_table([bar(8)]))
    store._finish_sealing()
    assert store.stats().details["rows_part"] == 8
    assert read_all(store).equals(bar_table([bar(minute) for minute in range(9)]))
    store.close()
    store.close()


def test_readers_see_each_bar_once_at_every_moment_of_sealing(tmp_path: Path) -> None:
    store = open_store(tmp_path, seal_rows=3, rows_cached=6)
    written = 0

    def write() -> None:
        nonlocal written
        for minute in range(150):
            store.append(bar_table([bar(minute)]))
            written = minute + 1

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while reads == 0 or writer.is_alive():
        before = written
        minutes = (pa.compute.subtract(read_all(store).column("ts").cast(pa.int64()), OPENING)).to_pylist()
        assert minutes == [minute * MINUTE for minute in range(len(minutes))]
        assert before <= len(minutes) <= written + 1
        reads += 1
    writer.join(60)
    assert reads > 5
    assert read_all(store).num_rows == 150
    store.close()


def test_a_second_owner_is_told_who_has_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(StoreLocked) as refused:
        open_store(tmp_path)
    assert str(refused.value) == f"{tmp_path}: held by process {os.getpid()}"
    store.close()
    open_store(tmp_path).close()


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as refused:
        open_store(tmp_path / "file")
    assert str(refused.value) == f"{tmp_path}/file: is not a directory"


def test_a_folder_that_may_not_be_written_is_refused() -> None:
    folder = Path("/proc/marketd")  # where not even root may create one
    with pytest.raises(StoreError, match=f"{folder}: cannot be used as data directory: "):
        open_store(folder)


def test_a_setting_out_of_range_is_named() -> None:
    with pytest.raises(InvalidInput, match="seal_rows: 0 is not allowed; expected 1 to 10,000,000"):
        EmbeddedStoreConfig(seal_rows=0)


def log_of(folder: Path, count: int) -> tuple[Path, list[int]]:
    """A closed store with `count` one-bar frames; its log and the size of the log after each."""
    store = open_store(folder)
    log = folder / "log" / "log-000001.bars"
    sizes = [log.stat().st_size]
    for minute in range(count):
        store.append(bar_table([bar(minute)]))
        sizes.append(log.stat().st_size)
    store.close()
    return log, sizes


def test_a_torn_end_is_cut_off_wherever_it_tore(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, sizes = log_of(tmp_path, 3)
    whole = log.read_bytes()
    for cut in (sizes[2] + 1, sizes[2] + 15, sizes[2] + 16, sizes[2] + 200, sizes[3] - 1):
        for tail in (b"", b"\0" * 100):
            log.write_bytes((whole[:cut] + tail)[: sizes[3] - 1])
            caplog.clear()
            store = open_store(tmp_path)
            assert read_all(store).equals(bar_table([bar(0), bar(1)]))
            assert f"of an unfinished write at byte {sizes[2]}" in caplog.text
            assert store.append(bar_table([bar(2)])) == 1
            store.close()
            assert log.read_bytes() == whole


def test_a_beginning_that_was_never_finished_is_begun_again(tmp_path: Path) -> None:
    log, sizes = log_of(tmp_path, 0)
    for size in (0, 3, 17, sizes[0] - 1):
        log.write_bytes(log.read_bytes()[:size])
        store = open_store(tmp_path)
        assert store.append(bar_table([bar(0)])) == 1
        store.close()


@pytest.mark.parametrize("place", [0, 4, 9, 13, 16, 100, -1])
def test_damage_before_the_last_frame_is_refused_with_file_and_offset(tmp_path: Path, place: int) -> None:
    log, sizes = log_of(tmp_path, 4)
    data = bytearray(log.read_bytes())
    flipped = sizes[1] + place if place >= 0 else sizes[2] - 1
    data[flipped] ^= 0x10
    log.write_bytes(data)
    with pytest.raises(StoreCorrupt) as refused:
        open_store(tmp_path)
    assert str(refused.value) == (
        f"{log}: the frame at byte {sizes[1]} is damaged; an undamaged one follows at {sizes[2]}"
    )
    assert log.read_bytes() == bytes(data)
    data[flipped] ^= 0x10
    log.write_bytes(data)
    store = open_store(tmp_path)  # the refusal released the directory
    assert read_all(store).equals(bar_table([bar(minute) for minute in range(4)]))
    store.close()


def test_a_log_with_a_successor_must_be_whole(tmp_path: Path) -> None:
    log, sizes = log_of(tmp_path, 2)
    (tmp_path / "log" / "log-000002.bars").write_bytes(b"")
    log.write_bytes(log.read_bytes()[: sizes[2] - 8])
    with pytest.raises(StoreCorrupt, match=f"the frame at byte {sizes[1]} is damaged, and a later log exists"):
        open_store(tmp_path)


def sealed_file(folder: Path) -> Path:
    store = open_store(folder)
    store.append(bar_table([bar(minute) for minute in range(50)]))
    store.seal()
    store.close()
    return folder / "bars/interval=1m/date=2026-11-20/day-part-000001.parquet"


def test_a_sealed_file_that_is_gone_or_cut_is_noticed_at_once(tmp_path: Path) -> None:
    path = sealed_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(StoreCorrupt, match=f"has {len(data) - 10} bytes; the manifest says {len(data)}"):
        open_store(tmp_path)
    path.unlink()
    with pytest.raises(StoreCorrupt, match="listed in the manifest, but No such file or directory"):
        open_store(tmp_path)


def test_a_flipped_bit_in_a_sealed_page_is_an_error_and_not_a_price(tmp_path: Path) -> None:
    path = sealed_file(tmp_path)
    data = bytearray(path.read_bytes())
    column = pa.parquet.read_metadata(path).row_group(0).column(7)
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    store = open_store(tmp_path)
    with pytest.raises(StoreCorrupt, match="row group 0 cannot be read"):
        read_all(store)
    store.close()


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    sealed_file(tmp_path)
    manifest = tmp_path / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"rows":50', b'"rows":51'))
    with pytest.raises(StoreCorrupt, match="the manifest fails its checksum"):
        open_store(tmp_path)
    manifest.write_bytes(whole[:40])
    with pytest.raises(StoreCorrupt, match="the manifest cannot be read"):
        open_store(tmp_path)


DISK_FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_embedded_store import *

folder = Path({folder!r})
store = open_store(folder)
store.append(bar_table([bar(0)]))
log = folder / "log" / "log-000001.bars"
size = log.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        store.append(bar_table([bar(minute, "MSFT") for minute in range(100)]))
    except StoreError as error:
        assert str(error) == f"{{log}}: cannot append to the log: File too large", error
    else:
        raise SystemExit("an append to a full disk was acknowledged")
    assert log.stat().st_size == size
    assert read_all(store, "MSFT").num_rows == 0
    assert store.symbols() == ("AAPL",)
try:
    store.seal()
except StoreError as error:
    assert "cannot create the log" in str(error) or "cannot seal" in str(error), error
else:
    raise SystemExit("a seal on a full disk was acknowledged")
assert read_all(store).equals(bar_table([bar(0)]))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.append(bar_table([bar(minute, "MSFT") for minute in range(100)])) == 100
store.seal()
assert read_all(store, "MSFT").equals(bar_table([bar(minute, "MSFT") for minute in range(100)]))
store.close()
store = open_store(folder)
assert read_all(store).equals(bar_table([bar(0)]))
assert read_all(store, "MSFT").equals(bar_table([bar(minute, "MSFT") for minute in range(100)]))
store.close()
print("fine")
"""


def test_a_full_disk_refuses_the_batch_and_later_ones_are_kept(tmp_path: Path) -> None:
    program = DISK_FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "data"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr
