"""Files to values. The reference is Python's csv and float(), or values typed here."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import math
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.model import BOOK, LAST, TRADE, Ended, Quarantined, TickBatch
from marketd.model.ticks import NO_TRADE_ID
from marketd.sources.contract import Subscriptions
from marketd.sources.lines import LINE_BYTES_MAX, blocks
from marketd.sources.replay import ReplayConfig, ReplayFile, ReplaySource
from marketd.sources.replay.layout import symbol_from_name
from marketd.testing import ManualClock

_PRICES = ("bid", "ask", "bid_size", "ask_size", "last", "last_size", "volume")


def _play(*files, decoders=None, block_bytes=None, **config):
    """All events of a replay as fast as possible, all symbols wanted."""
    entries = tuple(f if isinstance(f, ReplayFile) else ReplayFile(path=str(f)) for f in files)

    async def main():
        config.setdefault("speed", None)
        source = ReplaySource(ReplayConfig(files=entries, **config), ManualClock(), decoders or {})
        if block_bytes is not None:
            source._block_bytes = block_bytes
        return [e async for events in source.stream(Subscriptions(source.symbols)) for e in events]

    return asyncio.run(main())


def _column(events, name):
    return np.concatenate([getattr(e, name) for e in events if isinstance(e, TickBatch)])


def _rows(events):
    """Ticks as dictionaries of what is stated, and quarantined lines, in their order."""
    out = []
    for event in events:
        if isinstance(event, Quarantined):
            out.append((event.reason, event.where, event.detail))
        if isinstance(event, TickBatch):
            for i in range(len(event)):
                row = {"symbol": event.symbols[event.symbol_index[i]], "flags": int(event.flags[i])}
                row["event"], row["received"] = int(event.time_event_ns[i]), int(event.time_received_ns[i])
                row |= {n: float(v) for n in _PRICES if not math.isnan(v := getattr(event, n)[i])}
                if event.trade_id is not None and event.trade_id[i] != NO_TRADE_ID:
                    row["trade_id"] = int(event.trade_id[i])
                out.append(row)
    return out


def _write(tmp_path, name, text):
    path = tmp_path / name
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


QUOTES = "ts_us,bid,ask\n1398988800277000,1.38694,1.38705\n1398988802339000,1.38692,\n"


def test_quotes_in_microseconds_need_no_mapping(tmp_path):
    for name in ("oanda_eurusd_20140502_ticks.csv", "oanda_eurusd_20140502_ticks.csv.gz"):
        events = _play(_write(tmp_path, name, QUOTES))
        t1, t2 = 1398988800277000000, 1398988802339000000
        assert _rows(events) == [
            {"symbol": "EURUSD", "flags": BOOK, "event": t1, "received": t1, "bid": 1.38694, "ask": 1.38705},
            {"symbol": "EURUSD", "flags": BOOK, "event": t2, "received": t2, "bid": 1.38692},
        ]
        assert isinstance(events[-1], Ended)


def test_vendor_volumes_beside_quotes_are_sizes(tmp_path):
    path = _write(
        tmp_path, "eurusd.csv", "ts_ms,ask,bid,ask_volume,bid_volume\n1549238400994,1.14545,1.14543,1.0,2.06\n"
    )
    t = 1549238400994000000
    assert _rows(_play(path)) == [
        {"symbol": "EURUSD", "flags": BOOK, "event": t, "received": t,
         "ask": 1.14545, "bid": 1.14543, "ask_size": 1.0, "bid_size": 2.06}
    ]  # fmt: skip


def test_empty_event_time_falls_back_to_transact_then_receive(tmp_path):
    header = "recv_ns,event_ms,transact_ms,update_id,symbol,bid,bid_size,ask,ask_size\n"
    body = (
        "1723161256207640365,1723161257476,1723161257465,1,BTCUSDT,61804.7,35,61804.8,1645\n"
        "1723161258207640365,,1723161258465,2,ETHUSDT,61804.7,35,61804.8,1649\n"
        "1723161259087891268,,,3,BTCUSDT,61837.63000000,3.78826000,61837.64000000,1.54698000\n"
    )
    rows = _rows(_play(_write(tmp_path, "x.csv", header + body)))
    assert [(r["symbol"], r["event"], r["received"]) for r in rows] == [
        ("BTCUSDT", 1723161257476000000, 1723161256207640365),
        ("ETHUSDT", 1723161258465000000, 1723161258207640365),
        ("BTCUSDT", 1723161259087891268, 1723161259087891268),
    ]
    assert rows[2]["ask_size"] == 1.54698


def test_trades_carry_size_and_id(tmp_path):
    text = (
        "recv_ns,event_ms,trade_ms,trade_id,symbol,price,size,aggressor\n"
        "1723161254087896568,1723161255343,1723161255342,3735683259,BTCUSDT,61837.63000000,0.02000000,sell\n"
    )
    assert _rows(_play(_write(tmp_path, "t.csv.gz", text))) == [
        {"symbol": "BTCUSDT", "flags": LAST | TRADE, "event": 1723161255343000000, "received": 1723161254087896568,
         "last": 61837.63, "last_size": 0.02, "trade_id": 3735683259}
    ]  # fmt: skip


def test_a_trade_bar_is_four_ticks_that_give_it_back(tmp_path):
    text = (
        "ts,open,high,low,close,volume\n"
        "2017-09-03T00:00:00Z,10,14,8,12,6.63487803\n"
        "2017-09-03T00:01:00Z,12,13,9,11,1.5\n"
        "2017-09-03T00:03:00Z,11,11,11,11,\n"
    )
    rows = _rows(_play(_write(tmp_path, "coinbase_btcusd_minute_trade.csv", text)))
    minute = 1504396800000000000
    assert [r["event"] - minute for r in rows[:4]] == [0, 15_000_000_000, 30_000_000_000, 45_000_000_000]
    assert [r["event"] - minute for r in rows[4:8]] == [s * 10**9 for s in (60, 75, 90, 105)]
    assert [r["last"] for r in rows] == [10, 8, 14, 12, 12, 13, 9, 11, 11, 11, 11, 11]
    assert [r.get("last_size") for r in rows] == [None] * 3 + [6.63487803] + [None] * 3 + [1.5] + [None] * 4
    assert {(r["symbol"], r["flags"]) for r in rows} == {("BTCUSD", LAST | TRADE)}


def test_a_quote_bar_is_four_book_rows(tmp_path):
    text = (
        "ts,bid_open,bid_high,bid_low,bid_close,bid_size,ask_open,ask_high,ask_low,ask_close,ask_size\n"
        "2014-05-01T00:00:00Z,1.5,1.7,1.4,1.6,0,1.6,1.8,1.5,1.7,3\n"
    )
    rows = _rows(_play(_write(tmp_path, "eurusd.csv", text)))
    assert [(r["bid"], r["ask"], r.get("bid_size"), r.get("ask_size")) for r in rows] == [
        (1.5, 1.6, None, None), (1.4, 1.5, None, None), (1.7, 1.8, None, None), (1.6, 1.7, None, 3.0),
    ]  # fmt: skip
    assert {r["flags"] for r in rows} == {BOOK}


def test_ten_minute_bars_stay_inside_their_interval(tmp_path):
    text = "ts_s,open,high,low,close\n1200,1,1,1,1\n2400,1,1,1,1\n1800,1,1,1,1\n"
    rows = _rows(_play(_write(tmp_path, "x.csv", text)))
    assert [r["event"] // 10**9 for r in rows[:4]] == [1200, 1350, 1500, 1650]


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1399006800", 1399006800 * 10**9),
        ("1399006800.125", 1399006800_125000000),
        ("1399006800.123456789", 1399006800_123456789),
        ("1399006800123", 1399006800_123000000),
        ("1399006800123456", 1399006800_123456000),
        ("1399006800123456789", 1399006800_123456789),
        ("-1.5", -1_500_000_000),
        ("2014-05-02T05:00:00Z", 1399006800 * 10**9),
        ("2014-05-02 07:00:00.000000001+02:00", 1399006800_000000001),
        ("2014-05-02", 1398988800 * 10**9),
    ],
)
@pytest.mark.parametrize("damaged", [False, True])
def test_times_are_exact_both_ways(tmp_path, text, expected_ns, damaged):
    """A damaged line beside it sends the block the careful way, which must give the same."""
    body = f"time,bid,ask\n{text},1,2\n" + ("damaged\n" if damaged else "")
    rows = _rows(_play(_write(tmp_path, "x.csv", body)))
    assert rows[0]["event"] == expected_ns
    assert len(rows) == 1 + damaged


@pytest.mark.parametrize("damaged", [False, True])
def test_naive_times_are_refused_or_read_in_the_named_zone(tmp_path, damaged):
    body = "Date,Open,High,Low,Close\n2019-11-05 09:30:00,1,1,1,1\n" + ("x\n" if damaged else "")
    path = _write(tmp_path, "spx.csv", body)
    with pytest.raises(InvalidInput, match=r"Date.*offset"):
        _play(path)
    rows = _rows(_play(ReplayFile(path=str(path), timezone="America/New_York")))
    expected = datetime(2019, 11, 5, 9, 30, tzinfo=ZoneInfo("America/New_York")).timestamp()
    assert rows[0]["event"] == int(expected) * 10**9


def test_a_local_time_that_is_none_or_two_is_quarantined(tmp_path):
    body = "time,bid\n2019-11-03 00:30:00,1\n2019-11-03 01:30:00,1\n2019-03-10 02:30:00,1\n"
    rows = _rows(_play(ReplayFile(path=str(_write(tmp_path, "x.csv", body)), timezone="America/New_York")))
    assert [r[2] for r in rows[1:]] == ["2019-11-03 01:30:00,1", "2019-03-10 02:30:00,1"]


BAD = [
    "abc",
    "3000,1.0",
    "3000,1.0,2.0,9",
    "x,1.0,2.0",
    ",1.0,2.0",
    "3000,nan,2.0",
    "3000,NaN,2.0",
    "3000,inf,2.0",
    "3000,1e999,2.0",
    "3000,1_0,2.0",
    "3000,0x10,2.0",
    "0x10,1.0,2.0",
    "3000,1.0,2.0f",
    "99999999999999999999999,1.0,2.0",
    "9300000000000,1.0,2.0",  # past the year 2262, where 64 bits of nanoseconds end
    "3000,\x00,2.0",
    "\xff\xfe",
]


@pytest.mark.parametrize("bad", BAD)
def test_only_the_corrupt_line_is_put_aside_with_its_number(tmp_path, bad):
    text = f"ts_ms,bid,ask\n1000,1.5,2\n\n2000,1.25,2\r\n{bad}\n4000,1,2"
    path = _write(tmp_path, "x.csv", text.encode("latin-1"))
    for block_bytes in (1, 20, 1 << 20):
        rows = _rows(_play(path, block_bytes=block_bytes))
        assert [r["bid"] for r in rows if isinstance(r, dict)] == [1.5, 1.25, 1.0]
        shown = bad.encode("latin-1").decode(errors="replace")
        assert rows[2] == ("corrupt_line", f"{path}:5", shown)


def test_long_detail_is_cut_and_a_line_without_end_is_skipped(tmp_path):
    endless = "7" * (LINE_BYTES_MAX + 100_000)
    path = _write(tmp_path, "x.csv", f"ts_ms,bid\n1000,1\n{endless}\n2000,2\n{'z' * 500}\n3000,3\n")
    rows = _rows(_play(path, block_bytes=1 << 16))
    assert [r["bid"] for r in rows if isinstance(r, dict)] == [1, 2, 3]
    assert [(r[1], r[2]) for r in rows if isinstance(r, tuple)] == [
        (f"{path}:3", "7" * 200), (f"{path}:5", "z" * 200),
    ]  # fmt: skip


def test_a_cut_off_gzip_gives_all_whole_lines_and_says_where_it_broke(tmp_path):
    rng = np.random.default_rng(5)
    lines = [f"{1_000_000 + i},{bid},{bid + 1}" for i, bid in enumerate(rng.random(20_000).tolist())]
    packed = gzip.compress(("ts_ms,bid,ask\n" + "\n".join(lines) + "\n").encode())
    path = tmp_path / "x.csv.gz"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    events = _play(path)
    bids = _column(events, "bid").tolist()
    assert bids == [float(line.split(",")[1]) for line in lines[: len(bids)]]
    assert len(bids) > 5_000
    quarantined = [e for e in events if isinstance(e, Quarantined)]
    assert [e.where for e in quarantined] == [f"{path}:{len(bids) + 2}"]
    assert lines[len(bids)].startswith(quarantined[0].detail) or "end early" in quarantined[0].detail


def test_gzip_members_one_after_another_are_one_file(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"ts_ms,bid\n1000,1\n20") + gzip.compress(b"00,2\n") + b"\0\0")
    assert [r["bid"] for r in _rows(_play(path))] == [1, 2]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_blocks_hold_whole_lines_and_know_their_numbers(tmp_path, size):
    text = b"".join(b"line %d\n" % i for i in range(1, 500)) + b"last"
    parts = list(blocks(_write(tmp_path, "x.csv", text), size))
    assert b"".join(p.data for p in parts) == text
    for part in parts:
        assert part.line == text[: text.index(part.data)].count(b"\n") + 1


def test_mapping_constant_symbol_delimiter_and_bom(tmp_path):
    text = "\ufeffwhen;b;a;v\n1000;1;2;7\n"
    path = _write(tmp_path, "x.csv", text)
    file = ReplayFile(
        path=str(path), symbol="GOLD", kind="quotes", time_unit="ms",
        columns={"time_event": "when", "bid": "b", "ask": "a", "bid_size": "v"},
    )  # fmt: skip
    t = 10**9
    assert _rows(_play(file)) == [
        {"symbol": "GOLD", "flags": BOOK, "event": t, "received": t, "bid": 1, "ask": 2, "bid_size": 7}
    ]


def test_ticks_say_by_what_is_filled_what_they_are(tmp_path):
    text = "ts_ms,bid,ask,last,last_size\n1,1,2,,\n2,,,1.5,3\n3,1,2,1.5,\n4,1,2,1.5,4\n5,,,,\n"
    rows = _rows(_play(_write(tmp_path, "x.csv", text)))
    assert [r["flags"] for r in rows[:4]] == [BOOK, LAST | TRADE, BOOK | LAST, BOOK | LAST | TRADE]
    assert rows[4][2] == "5,,,,"


def test_json_lines_take_numbers_and_decimal_text(tmp_path):
    lines = [
        '{"time":"2014-05-02T05:00:00.5Z","symbol":"A","bid":1.5,"ask":"2.5","extra":[1]}',
        '{"time":"2014-05-02T05:00:01Z","symbol":"B","bid":null,"ask":3}',
        '{"time":"2014-05-02T05:00:02Z","symbol":"B","bid":true,"ask":3}',
        "[1]",
        '{"time":',
        '{"time":"2014-05-02T05:00:03Z","bid":1,"ask":3}',
    ]  # fmt: skip
    base = 1399006800 * 10**9
    for name in ("x.jsonl", "x.jsonl.gz"):
        path = _write(tmp_path, name, "\n".join(lines))
        rows = _rows(_play(path))
        t = base + 500_000_000
        assert rows[0] == {"symbol": "A", "flags": BOOK, "event": t, "received": t, "bid": 1.5, "ask": 2.5}
        assert (rows[1]["symbol"], rows[1]["ask"], "bid" in rows[1]) == ("B", 3.0, False)
        assert rows[2:] == [("corrupt_line", f"{path}:{n}", lines[n - 1]) for n in (3, 4, 5, 6)]


def test_parquet_types(tmp_path):
    path = tmp_path / "x.parquet"
    base = 1399006800 * 10**9
    pq.write_table(
        pa.table(
            {
                "ts": pa.array([base + 1, base + 2, base + 3, None], pa.timestamp("ns", tz="UTC")),
                "symbol": pa.array(["A", "B", "A", "A"]).dictionary_encode(),
                "bid": pa.array([1.5, None, 2.5, 1.0]),
                "ask": pa.array([2, 3, 4, 5], pa.int32()),
                "bid_size": pa.array([1.0, math.nan, math.inf, 1.0], pa.float32()),
            }
        ),
        path,
    )
    rows = _rows(_play(path))
    assert rows[0] == {"symbol": "A", "flags": BOOK, "event": base + 1, "received": base + 1,
                       "bid": 1.5, "ask": 2.0, "bid_size": 1.0}  # fmt: skip
    assert rows[1] == {"symbol": "B", "flags": BOOK, "event": base + 2, "received": base + 2, "ask": 3.0}
    assert [(r[0], r[1]) for r in rows[2:]] == [("corrupt_line", f"{path}:3"), ("corrupt_line", f"{path}:4")]


def test_damaged_parquet_is_said_after_what_could_be_read(tmp_path):
    path = tmp_path / "x.parquet"
    bids = np.random.default_rng(1).random(200_000)
    table = pa.table({"ts_ns": np.arange(len(bids)), "bid": bids})
    pq.write_table(table, path, row_group_size=50_000, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = b"\xff" * 5000
    path.write_bytes(data)
    events = _play(path)
    read = _column(events, "bid")
    assert len(read) >= 50_000
    assert read.tolist() == bids[: len(read)].tolist()
    quarantined = [e for e in events if isinstance(e, Quarantined)]
    assert [e.where for e in quarantined] == [f"{path}:{len(read) + 1}"]
    assert isinstance(events[-1], Ended)
    path.write_bytes(data[:middle])
    with pytest.raises(InvalidInput, match="Parquet"):
        _play(path)


@pytest.mark.parametrize(
    ("name", "text", "changes", "words"),
    [
        ("x.txt", "a", {}, r"x.txt.*ending in"),
        ("x.csv", "", {}, "not empty"),
        ("x.csv", "ts,foo\n1,2\n", {}, "columns.*bid and ask"),
        ("x.csv", "bid,ask\n1,2\n", {}, "time_event"),
        ("x.csv", "ts,bid\nhello,2\n", {}, "x.csv: ts.*hello"),
        ("x.csv", QUOTES, {"columns": {"bid": "offer"}}, r"x.csv: columns.bid: 'offer'.*ts_us, bid, ask"),
        ("x.csv", QUOTES, {"kind": "trades"}, "x.csv: kind.*price"),
        ("x.csv", QUOTES, {"kind": "bars"}, "x.csv: kind.*open"),
        ("x.csv", QUOTES, {"kind": "recording"}, "JSON lines"),
        ("x.csv", "ts,bid,bid\n1,1,2\n", {}, "columns: 'bid'"),
        ("x.parquet", "not parquet", {}, "Parquet"),
        ("x.jsonl", "nothing\n", {}, "JSON"),
    ],
)
def test_what_cannot_be_is_refused_before_it_starts(tmp_path, name, text, changes, words):
    path = _write(tmp_path, name, text)
    with pytest.raises(InvalidInput, match=words):
        ReplaySource(ReplayConfig(files=(ReplayFile(path=str(path), **changes),)), ManualClock())


def test_a_gz_that_is_none_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(b"ts,bid\n1,2\n")
    for name in ("x.csv.gz", "missing.csv"):
        with pytest.raises(InvalidInput, match=name):
            ReplaySource(ReplayConfig(files=(ReplayFile(path=str(tmp_path / name)),)), ManualClock())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("oanda_eurusd_20140502_ticks.csv.gz", "EURUSD"),
        ("nse_yesbank_1m_20190709-11.csv.gz", "YESBANK"),
        ("dukascopy_eurusd_20190204_ticks.csv.gz", "EURUSD"),
        ("dir/BTC-USD.csv", "BTC-USD"),
        ("aapl_quotes.parquet", "AAPL"),
        ("lean_spy_10_min_20150303-19.csv.gz", "SPY"),
    ],
)
def test_symbol_from_the_name_of_a_file(name, expected):
    assert symbol_from_name(name) == expected


def test_command_line_form(tmp_path):
    odd = tmp_path / "a=b.csv"
    odd.touch()
    assert ReplayFile.parse("x/y.csv=EUR/USD".replace("/U", "U")) == ReplayFile(path="x/y.csv", symbol="EURUSD")
    assert ReplayFile.parse("x/y.csv") == ReplayFile(path="x/y.csv")
    assert ReplayFile.parse(str(odd)) == ReplayFile(path=str(odd))


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"speed": 0.0}, "speed"), ({"speed": math.nan}, "speed"), ({"batch_rows": 0}, "batch_rows"),
     ({"start": "2020-01-02", "end": "2020-01-01"}, "end"), ({"start": "2020-01-01T00:00:00"}, "start")],
)  # fmt: skip
def test_impossible_configurations(changes, field):
    with pytest.raises(InvalidInput) as caught:
        ReplayConfig(files=(ReplayFile(path="x.csv"),), **changes)
    assert caught.value.field == field


_NUMBER_TEXT = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**6), max_value=10**6).map(str),
    st.from_regex(r"[0-9]{1,25}\.[0-9]{1,25}", fullmatch=True),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_NUMBER_TEXT, min_size=1, max_size=30), st.booleans())
def test_prices_are_exactly_what_float_makes_of_them(tmp_path, texts, damaged):
    body = "ts_ms,bid\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)) + ("bad\n" if damaged else "")
    events = _play(_write(tmp_path, "x.csv", body))
    assert [b.hex() for b in _column(events, "bid").tolist()] == [float(text).hex() for text in texts]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["x.csv", "x.csv.gz", "x.jsonl", "x.jsonl.gz", "x.parquet"]),
    st.sampled_from([b"", b"ts_ms,symbol,bid,ask\n", b'{"ts_ms":1,"symbol":"a","bid":1}\n',
                     b'{"time_received_ns":1,"source":"s","raw":"x"}\n',
                     b"ts,open,high,low,close\n2014-05-01T00:00:00Z,1,1,1,1\n"]),
    st.binary(max_size=400) | st.text(alphabet='0123456789.,-eE"\n\r{}:[]naif ', max_size=400).map(str.encode),
    st.sampled_from([3, 50, 1 << 20]),
)  # fmt: skip
def test_no_bytes_crash_a_replay(tmp_path, name, head, tail, block_bytes):
    path = _write(tmp_path, name, head + tail)
    try:
        events = _play(path, block_bytes=block_bytes, decoders={"s": lambda raw, received_ns: []})
    except InvalidInput:
        return
    assert isinstance(events[-1], Ended)
    for event in events:
        if isinstance(event, Quarantined):
            assert event.reason == "corrupt_line"
            assert event.where.startswith(f"{path}:")
        elif isinstance(event, TickBatch):
            for column in _PRICES:
                assert not np.isinf(getattr(event, column)).any()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(alphabet='0123456789.,-eE" +', max_size=20), max_size=6))
def test_the_fast_and_the_careful_way_agree(tmp_path, lines):
    """The same lines with a damaged one at the end (careful throughout) and each line in a block of its own."""
    path = _write(tmp_path, "x.csv", "ts_ms,bid\n1000,1\n" + "".join(f"{line}\n" for line in lines))
    apart = _rows(_play(path, block_bytes=1))
    together = _rows(_play(path))
    damaged = _rows(_play(_write(tmp_path, "x.csv", path.read_text() + "damaged\n")))
    assert apart == together == damaged[:-1]


# Recorded data, when it is there.


def _reference(path):
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "name",
    ["quotes_fx/oanda_eurusd_20140502_ticks.csv.gz", "quotes_fx/fxcm_eurusd_20140505_ticks.csv.gz",
     "quotes_fx/oanda_xauusd_20140507_ticks.csv.gz"],
)  # fmt: skip
def test_recorded_fx_ticks_equal_python_csv(data_folder, name):
    expected = _reference(data_folder / name)
    events = _play(data_folder / name)
    assert _column(events, "time_event_ns").tolist() == [int(r["ts_us"]) * 1000 for r in expected]
    assert _column(events, "bid").tolist() == [float(r["bid"]) for r in expected]
    assert _column(events, "ask").tolist() == [float(r["ask"]) for r in expected]
    assert not any(isinstance(e, Quarantined) for e in events)


def test_recorded_crypto_quotes_and_trades_equal_python_csv(data_folder):
    folder = data_folder / "quotes_crypto"
    expected = _reference(folder / "binance_usdm_btcusdt_20240808_quotes.csv.gz")
    events = _play(folder / "binance_usdm_btcusdt_20240808_quotes.csv.gz")
    for ours in ("bid", "ask", "bid_size", "ask_size"):
        assert _column(events, ours).tolist() == [float(r[ours]) for r in expected]
    assert _column(events, "time_event_ns").tolist() == [int(r["event_ms"]) * 10**6 for r in expected]
    assert _column(events, "time_received_ns").tolist() == [int(r["recv_ns"]) for r in expected]

    expected = _reference(folder / "binance_spot_btcusdt_20240809_trades.csv.gz")
    events = _play(folder / "binance_spot_btcusdt_20240809_trades.csv.gz")
    assert _column(events, "last").tolist() == [float(r["price"]) for r in expected]
    assert _column(events, "last_size").tolist() == [float(r["size"]) for r in expected]
    assert _column(events, "trade_id").tolist() == [int(r["trade_id"]) for r in expected]


@pytest.mark.parametrize(
    ("name", "prefix", "ours"),
    [("quotes_fx/oanda_xauusd_minute_20140501-20140509.csv.gz", "bid_", "bid"),
     ("quotes_fx/oanda_xauusd_minute_20140501-20140509.csv.gz", "ask_", "ask"),
     ("quotes_crypto/coinbase_btcusd_minute_trade.csv.gz", "", "last"),
     ("quotes_fx/dukascopy_sample_h1.csv.gz", "", "last")],
)  # fmt: skip
def test_recorded_bars_come_back_from_their_ticks(data_folder, name, prefix, ours):
    expected = _reference(data_folder / name)
    events = _play(data_folder / name)
    assert not any(isinstance(e, Quarantined) for e in events)
    prices = _column(events, ours).reshape(-1, 4)
    for column, values in (
        ("open", prices[:, 0]), ("high", prices.max(1)), ("low", prices.min(1)), ("close", prices[:, 3]),
    ):  # fmt: skip
        assert values.tolist() == [float(row[f"{prefix}{column}"]) for row in expected]
    seconds = 3600 if "h1" in name else 60
    times = _column(events, "time_event_ns").reshape(-1, 4) // (seconds * 10**9)
    stamps = [
        int(r["ts_ms"]) // 1000 if "ts_ms" in r else int(datetime.fromisoformat(r["ts"]).timestamp()) for r in expected
    ]
    assert (times == np.array(stamps)[:, None] // seconds).all()


def test_files_of_every_format_say_the_same(data_folder, tmp_path):
    source = data_folder / "quotes_crypto" / "binance_coinm_btcusd_perp_20240808_trades.csv.gz"
    rows = _reference(source)
    with io.StringIO(newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
        _write(tmp_path, "a.csv", out.getvalue())
    typed = [
        {k: v if k in ("symbol", "aggressor") else float(v) if k in ("price", "size") else int(v) for k, v in r.items()}
        for r in rows
    ]
    _write(tmp_path, "b.jsonl.gz", "\n".join(json.dumps(row) for row in typed))
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "c.parquet")
    expected = _rows(_play(source))
    assert len(expected) == len(rows)
    for name in ("a.csv", "b.jsonl.gz", "c.parquet"):
        assert _rows(_play(tmp_path / name)) == expected
