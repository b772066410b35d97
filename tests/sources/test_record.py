"""What is recorded comes back: rows value for value, raw messages through their decoder, and what a crash leaves."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from marketd.errors import InvalidInput, StoreError
from marketd.model import BOOK, LAST, TRADE, Connected, Disconnected, Ended, Quarantined, Quote, TickBatch, Trade
from marketd.model.ticks import NO_TRADE_ID
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.contract import Subscriptions
from marketd.sources.replay import Recorder, ReplayConfig, ReplayFile, ReplaySource, record
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource
from marketd.testing import ManualClock

_NOW = 1_700_000_000_000_000_000
_COLUMNS = (
    "flags",
    "time_event_ns",
    "time_received_ns",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "last",
    "last_size",
    "volume",
)


def _replayed(path, decoders=None, **config):
    async def main():
        config.setdefault("speed", None)
        source = ReplaySource(
            ReplayConfig(files=(ReplayFile(path=str(path)),), **config), ManualClock(), decoders or {}
        )
        return [e async for events in source.stream(Subscriptions(source.symbols)) for e in events]

    return asyncio.run(main())


def _table(events):
    """Ticks of all batches, row by row, every value in a form that can be compared (NaN as None)."""
    rows = []
    for event in events:
        if isinstance(event, TickBatch):
            names = [event.symbols[i] for i in event.symbol_index.tolist()]
            ids = [NO_TRADE_ID] * len(event) if event.trade_id is None else event.trade_id.tolist()
            columns = [[None if v != v else v for v in getattr(event, c).tolist()] for c in _COLUMNS]
            rows += zip(names, ids, *columns, strict=True)
    return rows


def _batch(n=3, source="simulator", first=0):
    rng = np.random.default_rng(first)
    nan = np.full(n, np.nan)
    flags = np.array([BOOK, LAST | TRADE, BOOK | LAST | TRADE] * n, np.uint8)[:n]
    last = np.where(flags & LAST, rng.random(n) * 1e5, nan)
    return TickBatch(
        source=source,
        symbols=("AAA", 'B"\n∂'),
        symbol_index=np.arange(n, dtype=np.int32) % 2,
        flags=flags,
        time_event_ns=_NOW + np.arange(first, first + n),
        time_received_ns=_NOW + 1_270 + np.arange(first, first + n),
        bid=np.where(flags & BOOK, rng.random(n), nan),
        ask=np.where(flags & BOOK, rng.random(n) * 1e-9, nan),
        bid_size=nan,
        ask_size=nan,
        last=last,
        last_size=np.where(flags & TRADE, 0.1, nan),
        volume=np.where(flags & LAST, 2.0**60, nan),
        trade_id=np.where(flags & TRADE, 2**62 + np.arange(n), NO_TRADE_ID),
    )


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_simulator_recorded_and_replayed_is_the_same_value_for_value(tmp_path, suffix):
    path = tmp_path / f"session.{suffix}"
    sent = []

    async def main():
        clock = ManualClock(_NOW)
        symbols = {n: SimulatedSymbol(base_price=p, scenario="volatile") for n, p in (("AAPL", 150.0), ("TSLA", 240.0))}
        source = SimulatorSource(SimulatorConfig(symbols=symbols, seed=3), clock)

        async def keep():
            async for events in source.stream(Subscriptions(symbols)):
                sent.extend(events)
                recorder.record(events)

        async with Recorder(path, clock) as recorder:
            task = asyncio.create_task(keep())
            for _ in range(200):
                await clock.advance(0.05)
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(main())
    assert len(_table(sent)) >= 190
    assert _table(_replayed(path)) == _table(sent)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_every_column_comes_back(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    recorder = Recorder(path, ManualClock())
    batches = [_batch(), _batch(5, first=10)]
    recorder.record(batches)
    recorder.close()
    recorder.close()
    assert _table(_replayed(path)) == _table(batches)
    assert {e.source for e in _replayed(path)} == {"replay"}


def test_what_a_recording_looks_like(tmp_path):
    recorder = Recorder(tmp_path / "x.jsonl", ManualClock())
    raw = recorder.tap("coinbase")
    recorder.record([Connected(source="coinbase", time_received_ns=1)])
    raw(2, '{"type":"x"}')
    recorder.record([Quote(symbol="B", source="coinbase", time_event_ns=1, time_received_ns=2, bid=1.0)])  # is in `raw`
    recorder.record([Disconnected(source="coinbase", time_received_ns=3, reason="mute")])
    recorder.record([Quote(symbol="A", source="sim", time_event_ns=4, time_received_ns=5, bid=0.1, ask=0.3)])
    recorder.record(
        [Trade(symbol="A", source="sim", time_event_ns=6, time_received_ns=7, price=0.2, size=1.0, trade_id=8)]
    )
    recorder.record([Ended(source="sim", time_received_ns=9)])
    recorder.close()
    assert [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()] == [
        {"time_received_ns": 1, "source": "coinbase", "event": "connected"},
        {"time_received_ns": 2, "source": "coinbase", "raw": '{"type":"x"}'},
        {"time_received_ns": 3, "source": "coinbase", "event": "disconnected", "reason": "mute"},
        {"time_received_ns": 5, "time_event_ns": 4, "source": "sim", "symbol": "A", "flags": 1, "bid": 0.1, "ask": 0.3},
        {"time_received_ns": 7, "time_event_ns": 6, "source": "sim", "symbol": "A", "flags": 6, "last": 0.2,
         "last_size": 1.0, "trade_id": 8},
        {"time_received_ns": 9, "source": "sim", "event": "ended"},
    ]  # fmt: skip


TICKER = (
    '{"type":"ticker","sequence":12042642428,"product_id":"BTC-USD","price":"9380.55","open_24h":"9450.81000000",'
    '"volume_24h":"9611.79166047","low_24h":"9195.49000000","high_24h":"9475.19000000","volume_30d":"327812.00311873",'
    '"best_bid":"9380.54","best_bid_size":"0.46688654","best_ask":"9380.55","best_ask_size":"1.56637040","side":"buy",'
    '"time":"2020-02-01T01:40:16.253563Z","trade_id":82062566,"last_size":"0.41969131"}'
)
MATCH = (
    '{"type":"match","trade_id":82062567,"sequence":12042642430,"maker_order_id":"a","taker_order_id":"b",'
    '"time":"2020-02-01T01:40:17.000001Z","product_id":"ETH-USD","size":"5.23512","price":"180.23","side":"sell"}'
)


def _record_raw(path, lines):
    recorder = Recorder(path, ManualClock())
    write = recorder.tap("coinbase")
    for received_ns, raw in lines:
        write(received_ns, raw)
    recorder.close()


def test_raw_messages_of_coinbase_come_back_with_their_receive_times(tmp_path):
    _record_raw(tmp_path / "x.jsonl.gz", [(1580521216300000000, TICKER), (1580521217100000000, MATCH)])
    events = _replayed(tmp_path / "x.jsonl.gz", {"coinbase": parse_message})
    assert _table(events) == [
        ("BTC-USD", NO_TRADE_ID, BOOK | LAST, 1580521216253563000, 1580521216300000000,
         9380.54, 9380.55, 0.46688654, 1.5663704, 9380.55, None, 9611.79166047),
        ("ETH-USD", 82062567, LAST | TRADE, 1580521217000001000, 1580521217100000000,
         None, None, None, None, 180.23, 5.23512, None),
    ]  # fmt: skip


def test_any_decoder_will_do_and_its_complaints_are_placed(tmp_path):
    def decode(raw, received_ns):
        if raw == "bad":
            return [Quarantined(source="coinbase", time_received_ns=received_ns, reason="malformed", detail=raw)]
        if raw == "worse":
            raise ValueError(raw)
        return [
            Trade(symbol="S", time_event_ns=received_ns - 5, time_received_ns=received_ns, source="x", price=float(raw))
        ]

    path = tmp_path / "x.jsonl"
    _record_raw(path, [(_NOW, "1.5"), (_NOW + 1, "bad"), (_NOW + 2, "worse"), (_NOW + 3, "2.5")])
    events = _replayed(path, {"coinbase": decode})
    assert [row[5 + 4] for row in _table(events)] == [1.5, 2.5]
    quarantined = [(e.reason, e.where, e.time_received_ns) for e in events if isinstance(e, Quarantined)]
    assert quarantined[0] == ("malformed", f"{path}:2", _NOW + 1)
    assert quarantined[1][:2] == ("corrupt_line", f"{path}:3")
    with pytest.raises(InvalidInput, match=r"coinbase.*decoded"):
        _replayed(path)


def test_recorded_disconnects_come_back_in_their_place(tmp_path):
    recorder = Recorder(tmp_path / "x.jsonl", ManualClock())
    recorder.record([Connected(source="s", time_received_ns=_NOW), _batch(1, "s")])
    recorder.record([Disconnected(source="s", time_received_ns=_NOW + 9, reason="mute")])
    recorder.record([Connected(source="s", time_received_ns=_NOW + 10), _batch(1, "s", first=50)])
    recorder.close()
    events = _replayed(tmp_path / "x.jsonl")
    assert [type(e) for e in events] == [Connected, TickBatch, Disconnected, Connected, TickBatch, Ended]
    assert (events[2].reason, events[2].time_received_ns, events[2].source) == ("mute", _NOW + 9, "replay")


def test_it_is_written_every_second(tmp_path):
    async def main():
        clock = ManualClock()
        path = tmp_path / "x.jsonl.gz"
        async with Recorder(path, clock) as recorder:
            recorder.record([_batch(3)])
            await clock.advance(0.9)
            assert path.stat().st_size == 0
            for lines in (3, 6):
                deadline = asyncio.get_running_loop().time() + 10
                while path.stat().st_size == 0 or recorder._waiting:
                    assert asyncio.get_running_loop().time() < deadline
                    await clock.advance(1)
                    await asyncio.sleep(0.001)
                recorder._writing.acquire()  # the thread has let go: what it took is in the file
                recorder._writing.release()
                assert len(_table(_replayed_in_thread(path))) == lines
                recorder.record([_batch(3)])

    def _replayed_in_thread(path):
        found = []
        thread = threading.Thread(target=lambda: found.extend(_replayed(path)))
        thread.start()
        thread.join()
        return found

    asyncio.run(main())


def test_a_killed_recorder_leaves_at_most_a_cut_last_line(tmp_path):
    path = tmp_path / "x.jsonl"
    program = textwrap.dedent(
        f"""
        import sys
        sys.path[:] = {sys.path!r}
        from marketd.clock import SystemClock
        from marketd.sources.replay import Recorder
        recorder = Recorder({str(path)!r}, SystemClock())
        write = recorder.tap("s")
        for i in range(10**9):
            write({_NOW} + i, str(i))
            if i % 1000 == 0:
                recorder.flush()
                print(i, flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with process:
        flushed = [int(process.stdout.readline()) for _ in range(20)][-1]
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()
    with path.open("r+b") as file:  # and the worst the file system could have made of it
        file.truncate(path.stat().st_size - 7)

    def decode(raw, ns):
        return [Trade(symbol="S", time_event_ns=ns, time_received_ns=ns, source="s", price=float(raw) + 1)]

    events = _replayed(path, {"s": decode})
    prices = [row[9] for row in _table(events)]
    assert prices == [float(i + 1) for i in range(len(prices))]
    assert len(prices) >= flushed
    assert [e.where for e in events if isinstance(e, Quarantined)] == [f"{path}:{len(prices) + 1}"]


def test_a_cut_packed_recording_gives_what_was_flushed(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    recorder = Recorder(path, ManualClock())
    recorder.record([_batch(30)])
    recorder.flush()
    before_close = path.read_bytes()
    recorder.close()
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 30
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(before_close)
    events = _replayed(cut)
    assert _table(events) == _table([_batch(30)])
    assert [e.where for e in events if isinstance(e, Quarantined)] == [f"{cut}:31"]


def test_lines_that_are_no_recording_are_put_aside(tmp_path):
    good = '{"time_received_ns":5,"source":"s","time_event_ns":4,"symbol":"A","flags":1,"bid":1.5}'
    bad = [
        '{"time_received_ns":5,"source":"s","time_event_ns":4,"symbol":"A","flags":9,"bid":1.5}',
        '{"time_received_ns":5,"source":"s","time_event_ns":4,"symbol":"A","flags":2,"bid":1.5}',
        '{"time_received_ns":5,"source":"s","symbol":"A","flags":1}',
        '{"time_received_ns":99999999999999999999,"source":"s","event":"connected"}',
        '{"time_received_ns":5,"source":"s","event":"exploded"}',
        '{"time_received_ns":5,"sou',
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([good, *bad]))
    events = _replayed(path)
    assert [(row[0], row[5]) for row in _table(events)] == [("A", 1.5)]
    quarantined = [(e.where, e.detail) for e in events if isinstance(e, Quarantined)]
    assert quarantined == [(f"{path}:{n}", line) for n, line in enumerate(bad, 2)]


def test_parquet_recording_is_a_plain_table(tmp_path):
    recorder = Recorder(tmp_path / "x.parquet", ManualClock())
    recorder.tap("s")(1, "raw is left out")
    recorder.record([Connected(source="s", time_received_ns=1), _batch(2, "s")])
    recorder.close()
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(r["source"], r["symbol"], r["flags"], r["trade_id"], r["bid_size"]) for r in rows] == [
        ("s", "AAA", BOOK, None, None), ("s", 'B"\n∂', LAST | TRADE, 2**62 + 1, None),
    ]  # fmt: skip


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "old.jsonl").write_text("precious\n")
    for name, words in (
        ("old.jsonl", "exist"), ("x.csv", "ending in"), ("no/x.jsonl", "No such file"), ("no/x.parquet", "No such"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=words) as caught:
            Recorder(tmp_path / name, ManualClock())
        assert caught.value.field == "out"
    assert (tmp_path / "old.jsonl").read_text() == "precious\n"


def test_a_full_disk_is_said_and_not_hidden(tmp_path):
    class Full:
        def write(self, items):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    recorder = Recorder(tmp_path / "x.jsonl", ManualClock())
    recorder._writer.close()
    recorder._writer = Full()
    recorder.record([_batch(1)])
    recorder.flush()
    for attempt in (lambda: recorder.record([_batch(1)]), recorder.close):
        with pytest.raises(StoreError, match="No space left"):
            attempt()


def test_a_writer_that_falls_behind_holds_the_source_up(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_ROWS_WAITING_MAX", 50)
    path = tmp_path / "x.jsonl"
    recorder = Recorder(path, ManualClock())
    recorder.record([_batch(50)])
    assert path.read_text() == ""
    recorder.record([_batch(1, first=50)])
    assert len(path.read_text().splitlines()) == 51
    recorder.close()
