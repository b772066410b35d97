"""Bytes and texts typed from the documentation, values typed from them by hand; the official classes as referee."""

from __future__ import annotations

import contextlib
import math
import struct
from datetime import date

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketd.errors import (
    InvalidInput,
    MalformedMessage,
    NotEntitled,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import BAR_SCHEMA, BOOK, LAST, OPTION_SCHEMA, TRADE, Interval
from marketd.model.ticks import NO_TRADE_ID
from marketd.sources.futu.frame import FrameReader, frame_bytes
from marketd.sources.futu.messages import (
    BasicSnapshot,
    GlobalStateAnswer,
    HistoryRequest,
    InitAnswer,
    InitRequest,
    KeepAlive,
    KLine,
    OptionData,
    Proto,
    Rehab,
    Request,
    Response,
    Security,
    Snapshot,
    SubRequest,
    UpdateBasic,
)
from marketd.sources.futu.parse import (
    answer_of,
    batch_of,
    chain_table,
    corporate_actions,
    date_of,
    kline_table,
    market_state,
    read_push,
    refusal,
    snapshot_quote,
)
from marketd.sources.futu.protobuf import decode, encode
from marketd.sources.futu.symbols import occ_symbol, security_of, symbol_map, text_of

RECEIVED_NS = 1_700_000_000_123_456_789
AAPL, TENCENT = Security(11, "AAPL"), Security(1, "00700")
INDEX = {AAPL: 0, TENCENT: 1}
M1, M5, M30, D1 = (Interval.parse(name) for name in ("1m", "5m", "30m", "1d"))
LAST_NS = 2**62


def double(number, value):
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


def part(number, data):
    data = data.encode() if isinstance(data, str) else data
    assert number < 16
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


AAPL_BYTES = b"\x08\x0b\x12\x04AAPL"
TENCENT_BYTES = b"\x08\x01\x12\x0500700"


def pushed(s2c):
    """A push that is well: retType 0 and its s2c, whose length may take two bytes."""
    size = len(s2c)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return b"\x08\x00\x22" + length + s2c


# Frames


def test_the_greeting_is_sent_as_the_official_client_sends_it():
    frame = frame_bytes(1001, 1, encode(Request(encode(InitRequest(client_ver=300, client_id="PyNormal")))))
    # the header's fields as documented, and the body's SHA-1
    assert frame[:44].hex() == (
        "4654" "e9030000" "00" "00" "01000000" "26000000" "4d698c15ec3857ebffeefeee5b1047040700c6dd" "0000000000000000"
    )  # fmt: skip
    assert frame[44:].hex() == "0a2408ac02120850794e6f726d616c180120ffffffffffffffffff0128003206507974686f6e"


def test_the_answer_to_the_greeting_is_read():
    raw = bytes.fromhex(
        "4654e9030000000001000000270000000a52e5d592b0cd22c4e1cb51ffc9d2f7cdbcf3c400000000000000000800222308f3071000"
        "189582a6efc79e849111221030313233343536373839616263646566280a"
    )
    (frame,) = FrameReader(1_000).feed(raw)
    assert (frame.proto, frame.serial, frame.raw) == (1001, 1, raw)
    assert answer_of(InitAnswer, frame.body(), "InitConnect") == InitAnswer(1011, 10)


def test_a_refusal_is_read_with_its_words():
    body = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\x11Unknown stock BAD"
    assert decode(Response, body) == Response(-1, "Unknown stock BAD")
    with pytest.raises(SymbolNotFound, match=r"futu: Qot_Sub: Unknown stock BAD \(-1\)"):
        answer_of(KeepAlive, body, "Qot_Sub")


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(st.integers(0, 400), max_size=20))
def test_frames_come_whole_however_they_are_cut(bodies, cuts):
    stream = b"".join(frame_bytes(3005, number, body) for number, body in enumerate(bodies))
    reader = FrameReader(200)
    frames = []
    at = 0
    for cut in [*sorted(cuts), len(stream)]:
        frames += reader.feed(stream[at:cut])
        at = max(at, min(cut, len(stream)))
    assert [(frame.serial, frame.body()) for frame in frames] == list(enumerate(bodies))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_frames_are_refused_or_awaited(data):
    reader = FrameReader(100)
    try:
        frames = reader.feed(data)
    except ValueError:
        return
    for frame in frames:
        with pytest.raises(ValueError):
            frame.body()


def test_a_frame_is_refused_for_its_size_its_checksum_and_its_format():
    good = frame_bytes(3005, 1, b"\x08\x00")
    with pytest.raises(ValueError, match="a body of 2 bytes; 1 are allowed"):
        FrameReader(1).feed(good)
    with pytest.raises(ValueError, match="a frame begins with b'HT'"):
        FrameReader(9).feed(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    (frame,) = FrameReader(9).feed(good[:-1] + b"\x01")
    with pytest.raises(ValueError, match="the checksum of the body is wrong"):
        frame.body()
    (frame,) = FrameReader(9).feed(good[:6] + b"\x01" + good[7:])
    with pytest.raises(ValueError, match="the format is 1, not Protocol Buffers"):
        frame.body()


# Protocol Buffers


def test_numbers_and_texts_are_read_as_the_format_describes():
    # protobuf.dev: field 1 = 150 is 08 96 01, field 2 = "testing" is 12 07 74 65 73 74 69 6e 67
    assert decode(Security, bytes.fromhex("089601120774657374696e67")) == Security(150, "testing")
    # the last one counts; a field that is not known is skipped, whatever its type
    unknown = b"\x18\x05" + b"\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\x32\x02hi"
    assert decode(Security, b"\x08\x01" + unknown + b"\x08\x0b\x12\x04AAPL") == AAPL
    # a negative number takes ten bytes
    assert decode(KeepAlive, b"\x08" + b"\xff" * 9 + b"\x01") == KeepAlive(-1)
    assert encode(KeepAlive(-1)) == b"\x08" + b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08\x0b\x12\x05AAPL",  # shorter than it says
        b"\x08\x0b",  # without the code
        b"\x08\x0b\x12\x02\xff\xfe",  # no UTF-8
        b"\x0b",  # a group
        b"\x08" + b"\xff" * 11,  # a number that does not end
        b"\x09" + bytes(7),  # half a double
    ],
)
def test_what_is_no_message_is_a_value_error(data):
    with pytest.raises(ValueError):
        decode(Security, data)


@given(st.binary(max_size=200))
@example(b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
def test_any_bytes_are_a_message_or_a_value_error(data):
    for kind in (UpdateBasic, Response, Snapshot):
        try:
            decode(kind, data)
        except ValueError:
            continue


OFFICIAL_NUMBERS = st.integers(-(2**31), 2**31 - 1)
OFFICIAL_LONGS = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False)


@given(OFFICIAL_NUMBERS, st.text(max_size=20), st.booleans(), DOUBLES, OFFICIAL_LONGS, st.none() | DOUBLES)
def test_the_official_classes_write_what_we_read(market, code, suspended, last, volume, stamp):
    pb = pytest.importorskip("google.protobuf", reason="the referee's runtime is not installed") and _official()
    message = pb["Qot_UpdateBasicQot"].S2C()
    row = message.basicQotList.add()
    row.security.market, row.security.code, row.isSuspended, row.name = market, code, suspended, "Ä" * 200
    row.listTime, row.updateTime, row.priceSpread, row.curPrice, row.volume = "x", "y", 0.01, last, volume
    row.highPrice = row.openPrice = row.lowPrice = row.lastClosePrice = row.turnover = 1.5
    row.turnoverRate = row.amplitude = 2.5
    row.preMarket.price = 3.5
    if stamp is not None:
        row.updateTimestamp = stamp
    (read,) = decode(UpdateBasic, message.SerializeToString()).quotes
    assert (read.security, read.suspended, read.last, read.volume) == (Security(market, code), suspended, last, volume)
    assert (read.update_time, read.update_timestamp, read.volume_exact) == ("y", stamp, None)


@given(OFFICIAL_NUMBERS, st.text(max_size=20), st.lists(OFFICIAL_NUMBERS, max_size=4), st.none() | st.binary())
def test_the_official_classes_read_what_we_write(market, code, numbers, key):
    pb = _official()
    sub = SubRequest(securities=[Security(market, code)] * 2, sub_types=numbers, subscribe=False, push=True)
    theirs = pb["Qot_Sub"].Request.FromString(encode(Request(encode(sub)))).c2s
    assert [(s.market, s.code) for s in theirs.securityList] == [(market, code)] * 2
    assert (list(theirs.subTypeList), theirs.isSubOrUnSub, theirs.isRegOrUnRegPush) == (numbers, False, True)
    assert not theirs.HasField("isFirstPush")
    asked = HistoryRequest(
        rehab_type=0,
        kl_type=1,
        security=Security(market, code),
        begin_time="a",
        end_time="b",
        count_max=7,
        next_key=key,
    )
    history = pb["Qot_RequestHistoryKL"].C2S.FromString(encode(asked))
    assert (history.klType, history.maxAckKLNum, history.beginTime, history.endTime) == (1, 7, "a", "b")
    assert (history.HasField("nextReqKey"), history.nextReqKey) == (key is not None, key or b"")


def _official():
    """The generated classes of futu-api, without the package around them (it starts threads and writes logs)."""
    import importlib.util
    import sys

    found = importlib.util.find_spec("futu")
    if found is None:
        pytest.skip("futu-api, the referee, is not installed")
    path = f"{found.submodule_search_locations[0]}/common/pb"
    if path not in sys.path:
        sys.path.append(path)
    names = ("Qot_UpdateBasicQot", "Qot_Sub", "Qot_RequestHistoryKL")
    return {name: importlib.import_module(f"{name}_pb2") for name in names}


# Pushes


def test_a_basic_quote_is_the_last_price_and_the_volume_of_the_day():
    row = (
        part(1, AAPL_BYTES)
        + b"\x10\x00"
        + part(5, "2026-11-20 10:00:00")
        + double(9, 231.25)
        + b"\x58\x80\x89\x7a"  # 2000000 = 0x1e8480: 00, 09, 7a by seven bits
        + b"\x91\x01"  # field 18: the price's time
        + struct.pack("<d", 1795186800.25)
    )
    (got,) = read_push(Proto.UPDATE_BASIC, pushed(part(1, row)), RECEIVED_NS, INDEX).rows
    index, flags, time_ns, received_ns, bid, _, _, _, last, size, volume, number = got
    assert (index, flags, time_ns, received_ns) == (0, LAST, 1795186800_250_000_000, RECEIVED_NS)
    assert (last, volume, number) == (231.25, 2_000_000.0, NO_TRADE_ID)
    assert math.isnan(bid)
    assert math.isnan(size)


@pytest.mark.parametrize(
    ("security", "text", "time_ns"),
    [
        # 20 November is winter in New York (UTC-5), 20 July is summer (UTC-4); Hong Kong is UTC+8
        (AAPL_BYTES, "2026-11-20 10:00:00", 1795186800_000_000_000),
        (AAPL_BYTES, "2026-07-20 10:00:00.5", 1784556000_500_000_000),
        (TENCENT_BYTES, "2026-11-20 10:00:00", 1795140000_000_000_000),
    ],
)
def test_a_time_without_a_timestamp_is_the_exchanges(security, text, time_ns):
    row = part(1, security) + b"\x10\x00" + part(5, text) + double(9, 1.0) + b"\x58\x00"
    ((_, _, got_ns, *_),) = read_push(Proto.UPDATE_BASIC, pushed(part(1, row)), RECEIVED_NS, INDEX).rows
    assert got_ns == time_ns


def test_a_security_without_a_price_today_has_no_row_and_a_halted_one_says_so():
    row = part(1, TENCENT_BYTES) + b"\x10\x01" + part(5, "") + double(9, 0.0) + b"\x58\x00"
    got = read_push(Proto.UPDATE_BASIC, pushed(part(1, row)), RECEIVED_NS, INDEX)
    assert (got.rows, got.suspended) == ([], [(1, True)])


def test_a_book_is_its_best_levels_and_an_empty_side_is_empty():
    def level(price, volume):
        return double(1, price) + b"\x10" + bytes([volume]) + b"\x18\x01"

    asks = part(2, level(100.5, 7)) + part(2, level(100.6, 8))
    bids = part(3, level(100.4, 9)) + part(3, level(100.3, 10))
    (row,) = read_push(Proto.UPDATE_BOOK, pushed(part(1, AAPL_BYTES) + asks + bids), RECEIVED_NS, INDEX).rows
    assert row[:8] == (0, BOOK, RECEIVED_NS, RECEIVED_NS, 100.4, 100.5, 9.0, 7.0)
    (row,) = read_push(Proto.UPDATE_BOOK, pushed(part(1, AAPL_BYTES) + bids), RECEIVED_NS, INDEX).rows
    assert (row[4], row[6]) == (100.4, 9.0)
    assert math.isnan(row[5])
    assert math.isnan(row[7])
    # of Hong Kong the time is told, 0 for what was there before
    told = double(5, 1795140000.0) + double(7, 1795140000.5)
    (row,) = read_push(Proto.UPDATE_BOOK, pushed(part(1, TENCENT_BYTES) + bids + told), RECEIVED_NS, INDEX).rows
    assert row[2] == 1795140000_500_000_000
    (row,) = read_push(
        Proto.UPDATE_BOOK, pushed(part(1, TENCENT_BYTES) + bids + double(5, 0.0)), RECEIVED_NS, INDEX
    ).rows
    assert row[2] == RECEIVED_NS


def ticker(kind=b"", price=231.25):
    row = (
        part(1, "2026-11-20 10:00:00")
        + b"\x10\x81\x80\x80\x80\x80\x80\x80\x02"  # sequence 2^50 + 1
        + b"\x18\x01"
        + double(4, price)
        + b"\x28\x64"
        + double(6, 23_125.0)
        + kind
    )
    return pushed(part(1, AAPL_BYTES) + part(2, row))


def test_a_trade_has_its_number_price_and_size():
    (row,) = read_push(Proto.UPDATE_TICKER, ticker(b"\x40\x01"), RECEIVED_NS, INDEX).rows
    assert row[:4] == (0, LAST | TRADE, 1795186800_000_000_000, RECEIVED_NS)
    assert (row[8], row[9], row[11]) == (231.25, 100.0, 2**50 + 1)


@pytest.mark.parametrize(("kind", "counts"), [(1, True), (6, True), (7, True), (24, False), (14, False), (31, False)])
def test_trades_whose_price_is_not_of_the_moment_are_left_out(kind, counts):
    got = read_push(Proto.UPDATE_TICKER, ticker(bytes([0x40, kind])), RECEIVED_NS, INDEX)
    assert bool(got.rows) is counts


@pytest.mark.parametrize(("pushed_as", "counts"), [(1, True), (2, True), (3, False)])
def test_a_trade_that_opend_had_before_is_no_trade_of_now(pushed_as, counts):
    got = read_push(Proto.UPDATE_TICKER, ticker(bytes([0x50, pushed_as])), RECEIVED_NS, INDEX)
    assert bool(got.rows) is counts


@pytest.mark.parametrize(
    ("proto", "body"),
    [
        (Proto.UPDATE_TICKER, ticker(price=0.0)),
        (Proto.UPDATE_TICKER, ticker(price=-1.0)),
        (Proto.UPDATE_TICKER, ticker(price=math.nan)),
        (Proto.UPDATE_TICKER, ticker(price=math.inf)),
        (Proto.UPDATE_TICKER, pushed(part(1, AAPL_BYTES) + part(2, b"\x10\x01"))),
        (Proto.UPDATE_BASIC, b"\x08"),
        (Proto.UPDATE_BASIC, pushed(part(1, part(1, AAPL_BYTES) + b"\x10\0" + part(5, "x") + double(9, 1)))),
        (Proto.NOTIFY, pushed(b"")),
    ],
)  # fmt: skip
def test_a_push_that_is_not_as_documented_is_malformed(proto, body):
    with pytest.raises(MalformedMessage, match="push "):
        read_push(proto, body, RECEIVED_NS, INDEX)


def test_other_securities_and_other_pushes_are_nothing():
    assert read_push(Proto.UPDATE_TICKER, ticker(), RECEIVED_NS, {}).rows == []
    assert read_push(3007, b"anything", RECEIVED_NS, INDEX).rows == []


@given(st.sampled_from([1003, 3005, 3011, 3013, 3007]), st.binary(max_size=200), st.booleans())
def test_any_push_is_read_or_is_a_source_error(proto, data, wrapped):
    with contextlib.suppress(SourceError):
        read_push(proto, pushed(data) if wrapped else data, RECEIVED_NS, INDEX)


def test_rows_become_columns():
    (trade,) = read_push(Proto.UPDATE_TICKER, ticker(), RECEIVED_NS, INDEX).rows
    (book,) = read_push(Proto.UPDATE_BOOK, pushed(part(1, AAPL_BYTES)), RECEIVED_NS, INDEX).rows
    symbols = ("AAPL", "0700.HK")
    batch = batch_of([trade, book], symbols)
    assert batch.symbols is symbols
    assert batch.flags.tolist() == [LAST | TRADE, BOOK]
    assert batch.trade_id.tolist() == [2**50 + 1, NO_TRADE_ID]
    assert batch.last[0] == 231.25
    assert np.isnan(batch.bid[1])
    assert batch_of([book], symbols).trade_id is None


# Refusals


@pytest.mark.parametrize(
    ("ret_type", "text", "kind"),
    [
        (-1, "Unknown stock BAD", SymbolNotFound),
        (-1, "未知股票 BAD", SymbolNotFound),
        (-1, "请求频率太高，请求失败，每30秒最多60次", Throttled),
        (-1, "The request frequency is too high", Throttled),
        (-1, "历史K线额度不足", NotEntitled),
        (-1, "Insufficient subscription quota", NotEntitled),
        (-1, "没有行情权限", NotEntitled),
        (-1, "No permission to get the quote", NotEntitled),
        (-1, "something else", SourceRejected),
        (-1, "", SourceRejected),
        (-500, "bad packet", SourceRejected),
        (-100, "timeout", SourceUnavailable),
        (-200, "disconnected", SourceUnavailable),
        (-400, "", SourceUnavailable),
    ],
)
def test_a_refusal_is_the_failure_that_its_words_say(ret_type, text, kind):
    error = refusal(ret_type, text, "history of US.AAPL")
    assert type(error) is kind
    assert error.reason.startswith("history of US.AAPL: ")
    assert getattr(error, "retry_after_s", None) == (30.0 if kind is Throttled else None)


def test_an_answer_without_a_result_is_unknown_and_one_without_a_body_lacks_what_is_required():
    with pytest.raises(SourceUnavailable, match="-400"):
        answer_of(GlobalStateAnswer, b"", "GetGlobalState")
    with pytest.raises(MalformedMessage, match="quotes_logged_in"):
        answer_of(GlobalStateAnswer, b"\x08\x00", "GetGlobalState")


# Bars


def line(time, close=2.0, *, timestamp=None, blank=False, volume=300):
    if blank:
        return KLine(time=time, blank=True)
    return KLine(time=time, blank=False, high=3.0, open=1.5, low=1.0, close=close, volume=volume, timestamp=timestamp)


def bars_of(rows, interval=M1, market=11, start_ns=0, end_ns=LAST_NS, as_of_ns=LAST_NS):
    return kline_table(
        rows,
        symbol="AAPL",
        market=market,
        interval=interval,
        start_ns=start_ns,
        end_ns=end_ns,
        as_of_ns=as_of_ns,
    )


def starts(table):
    return table["ts"].to_numpy().astype(np.int64).tolist()


# 2026-11-20 09:31:00 in New York is 14:31 UTC
FIRST_END_S = 1795185060


def test_a_minute_is_stamped_with_its_end_and_begins_a_minute_before():
    rows = [line("2026-11-20 09:31:00"), line("2026-11-20 09:32:00", blank=True), line("2026-11-20 09:33:00", 2.5)]
    got = bars_of(rows)
    assert got.schema.equals(BAR_SCHEMA)
    assert starts(got) == [(FIRST_END_S - 60) * 10**9, (FIRST_END_S + 60) * 10**9]
    assert got.to_pylist()[0] | {"ts": 0, "as_of": 0} == {
        "symbol": "AAPL", "interval": "1m", "side": "trade", "ts": 0, "open": 1.5, "high": 3.0, "low": 1.0,
        "close": 2.0, "volume": 300.0, "vwap": None, "trades": None, "provider": "futu", "status": "backfill",
        "as_of": 0,
    }  # fmt: skip


def test_the_timestamp_is_believed_before_the_text():
    # half past one comes twice in New York on 2026-11-01: at 05:30 and at 06:30 UTC
    assert starts(bars_of([line("2026-11-01 01:30:00", timestamp=1793514600.0)])) == [1793514540 * 10**9]
    assert starts(bars_of([line("2026-11-01 01:30:00")])) == [1793510940 * 10**9]


def test_longer_bars_begin_at_their_own_multiple_also_when_the_session_ends_early():
    rows = [line("2026-11-20 10:00:00"), line("2026-11-20 10:30:00"), line("2026-11-20 10:47:00")]
    half_past_nine_s = FIRST_END_S - 60
    assert starts(bars_of(rows, M30)) == [(half_past_nine_s + 1800 * i) * 10**9 for i in range(3)]
    assert starts(bars_of([line("2026-11-20 16:00:00")], M5)) == [(half_past_nine_s + 385 * 60) * 10**9]


@pytest.mark.parametrize("text", ["2026-11-20 00:00:00", "2026-11-20"])
def test_a_day_begins_at_midnight_utc_of_its_date(text):
    # the timestamp of a day is midnight at the exchange, which is another moment
    got = bars_of([line(text, timestamp=1795150800.0)], D1)
    assert starts(got) == [1795132800 * 10**9]


def test_only_bars_of_the_span_that_are_over_are_kept():
    rows = [line(f"2026-11-20 09:3{minute}:00") for minute in (3, 1, 2)]
    first_ns = (FIRST_END_S - 60) * 10**9
    assert starts(bars_of(rows)) == [first_ns + i * 60 * 10**9 for i in range(3)]
    assert starts(bars_of(rows, start_ns=first_ns + 1, end_ns=first_ns + 120 * 10**9)) == [first_ns + 60 * 10**9]
    assert starts(bars_of(rows, as_of_ns=first_ns + 60 * 10**9)) == [first_ns]
    assert bars_of([]).num_rows == 0


@pytest.mark.parametrize(
    "rows",
    [
        [line("2026-11-20 09:31:00"), line("2026-11-20 09:31:00")],
        [line("2026-11-20 09:31:00", math.nan)],
        [line("2026-11-20 09:31:00", None)],
        [line("2026-11-20 09:31:00", volume=-1)],
        [line("today")],
        [line("NaT")],
        [line("2026-13-20 09:31:00")],
        [line("2026-11-20 09:31:00", timestamp=math.inf)],
        [line("2026-11-20 09:31:00", timestamp=-5.0)],
    ],
)
def test_bars_that_are_not_as_documented_are_malformed(rows):
    with pytest.raises(MalformedMessage, match="AAPL: "):
        bars_of(rows)
    with pytest.raises(MalformedMessage, match="market 99"):
        bars_of([line("2026-11-20 09:31:00")], market=99)


@given(
    st.lists(
        st.builds(
            KLine,
            time=st.text(max_size=20) | st.datetimes().map(lambda t: t.strftime("%Y-%m-%d %H:%M:%S")),
            blank=st.booleans(),
            high=st.none() | st.floats(),
            open=st.none() | st.floats(),
            low=st.none() | st.floats(),
            close=st.none() | st.floats(),
            volume=st.none() | st.integers(-(2**63), 2**63 - 1),
            timestamp=st.none() | st.floats(),
        ),
        max_size=4,
    ),
    st.sampled_from([M1, M5, D1]),
    st.sampled_from([1, 11, 21, 99]),
)
def test_any_lines_are_a_table_or_malformed(rows, interval, market):
    try:
        got = bars_of(rows, interval, market)
    except MalformedMessage:
        return
    assert got.schema.equals(BAR_SCHEMA)
    assert starts(got) == sorted(set(starts(got)))


# Snapshots


def snapshot(security=AAPL, **fields):
    told = {"suspended": False, "update_time": "2026-11-20 10:00:00", "last": 231.25, "volume": 5_000}
    return BasicSnapshot(security=security, **(told | fields))


def test_a_snapshot_is_a_quote_and_zero_is_absent():
    told = {"bid": 231.2, "ask": 231.3, "bid_volume": 100, "ask_volume": 200, "update_timestamp": 1795186800.123456}
    quote = snapshot_quote(snapshot(**told), "AAPL", RECEIVED_NS)
    assert (quote.symbol, quote.source, quote.time_event_ns) == ("AAPL", "futu", 1795186800_123_456_000)
    assert (quote.bid, quote.ask, quote.bid_size, quote.ask_size) == (231.2, 231.3, 100.0, 200.0)
    assert (quote.last, quote.volume, quote.time_received_ns) == (231.25, 5_000.0, RECEIVED_NS)
    quote = snapshot_quote(snapshot(bid=0.0, bid_volume=0), "AAPL", RECEIVED_NS)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (None, None, None, None)
    assert quote.time_event_ns == 1795186800_000_000_000
    quote = snapshot_quote(snapshot(volume_exact=0.5), "AAPL", RECEIVED_NS)
    assert quote.volume == 0.5
    assert snapshot_quote(snapshot(last=0.0), "AAPL", RECEIVED_NS) is None
    with pytest.raises(MalformedMessage):
        snapshot_quote(snapshot(last=math.nan), "AAPL", RECEIVED_NS)
    with pytest.raises(MalformedMessage):
        snapshot_quote(snapshot(update_time="yesterday"), "AAPL", RECEIVED_NS)


def option(kind, strike, code, **fields):
    data = OptionData(
        type=kind, owner=AAPL, strike_time="2026-12-18", strike=strike, contract_size=100, open_interest=42,
        implied_volatility=25.5, delta=0.5, gamma=0.02, vega=0.11, theta=-0.04, rho=0.03,
    )  # fmt: skip
    return Snapshot(snapshot(Security(11, code), **fields), data)


def test_a_chain_is_a_table_by_strike_and_right():
    rows = [
        option(2, 200.0, "AAPL261218P200000", bid=0.0, ask=1.1, bid_volume=0, ask_volume=3),
        option(1, 200.0, "AAPL261218C200000", bid=1.0, ask=1.2, bid_volume=5, ask_volume=6, last=0.0),
        option(1, 197.5, "AAPL261218C197500"),
        Snapshot(snapshot()),  # the underlying itself
    ]
    expiry = date(2026, 12, 18)
    got = chain_table(rows, underlying="AAPL", expiry=expiry, underlying_price=201.5, time_received_ns=RECEIVED_NS)
    assert got.schema.equals(OPTION_SCHEMA)
    assert got["contract"].to_pylist() == [f"AAPL261218{key}" for key in ("C00197500", "C00200000", "P00200000")]
    assert got["strike"].to_pylist() == [197.5, 200.0, 200.0]
    assert got["right"].to_pylist() == ["call", "call", "put"]
    assert got["bid"].to_pylist() == [None, 1.0, None]
    assert got["bid_size"].to_pylist() == [None, 5.0, None]
    assert got["last"].to_pylist() == [231.25, None, 231.25]
    assert [time is None for time in got["time_last"].to_pylist()] == [False, True, False]
    assert got["implied_volatility"].to_pylist() == [0.255] * 3
    assert got["theta"].to_pylist() == [-0.04] * 3
    assert got["open_interest"].to_pylist() == [42.0] * 3
    assert got["multiplier"].to_pylist() == [100.0] * 3
    assert got["underlying_price"].to_pylist() == [201.5] * 3
    assert set(got["currency"].to_pylist()) == {"USD"}
    with pytest.raises(MalformedMessage, match="neither call nor put"):
        chain_table([option(3, 1.0, "X")], underlying="AAPL", expiry=expiry, underlying_price=None, time_received_ns=1)


@pytest.mark.parametrize("text", ["", "2026-12", "2026-13-01", "next friday", "２０２６-12-18"])
def test_a_text_that_is_no_date_is_malformed(text):
    with pytest.raises(MalformedMessage):
        date_of(text)
    assert date_of("2026-12-18 00:00:00") == date(2026, 12, 18)


# Corporate actions


def test_splits_and_dividends_come_from_the_flags():
    rows = [
        # one share becomes five; the dividend's flag is not set, so it does not count
        Rehab(time="2026-06-10 00:00:00", flags=1, split_base=1, split_ert=5, dividend=9.0),
        # fifty become one
        Rehab(time="2026-03-02", flags=2, join_base=50, join_ert=1),
        # three bonus shares for ten, and both dividends
        Rehab(time="2026-01-05", flags=4 | 64 | 128, bonus_base=10, bonus_ert=3, dividend=0.05, special_dividend=0.2),
        Rehab(time="2025-01-05", flags=64, dividend=0.1),
    ]
    start_ns = 1767225600 * 10**9  # 2026-01-01
    got = corporate_actions(rows, symbol="0700.HK", market=1, start_ns=start_ns, end_ns=LAST_NS, as_of_ns=7)
    assert [(a.kind, a.ratio, a.amount, a.currency) for a in got] == [
        ("dividend", None, 0.25, "HKD"),
        ("split", 1.3, None, None),
        ("split", 0.02, None, None),
        ("split", 5.0, None, None),
    ]
    assert [a.ex_ns // 10**9 for a in got] == [1767571200, 1767571200, 1772409600, 1781049600]
    assert {(a.symbol, a.provider, a.as_of_ns) for a in got} == {("0700.HK", "futu", 7)}
    for bad in (Rehab(time="2026-06-10", flags=1), Rehab(time="2026-06-10", flags=64, dividend=math.nan)):
        with pytest.raises(MalformedMessage):
            corporate_actions([bad], symbol="X", market=1, start_ns=0, end_ns=LAST_NS, as_of_ns=7)


# Names and states


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("AAPL", "US.AAPL"),
        ("BRK.B", "US.BRK.B"),
        ("0700.HK", "HK.00700"),
        ("9988.HK", "HK.09988"),
        ("80700.HK", "HK.80700"),
        ("600519.SS", "SH.600519"),
        ("000001.SZ", "SZ.000001"),
        ("D05.SI", "SG.D05"),
        ("7203.T", "JP.7203"),
        ("1155.KL", "MY.1155"),
        ("^GSPC", "US..SPX"),
        ("^HSI", "HK.800000"),
        ("AAPL261218C00197500", "US.AAPL261218C197500"),
        ("^VIX", "US..VIX"),
    ],
)
def test_a_name_goes_there_and_back(ours, theirs):
    names = symbol_map({"^VIX": "US..VIX"})
    assert names.to_provider(ours) == theirs
    assert names.from_provider(theirs) == ours
    security = security_of(theirs)
    assert text_of(security) == theirs


def test_the_configured_table_comes_before_ours():
    names = symbol_map({"SPX": "US..SPX", "^DJI": "US.DIA"})
    assert (names.to_provider("SPX"), names.from_provider("US..SPX")) == ("US..SPX", "SPX")
    assert (names.to_provider("^GSPC"), names.to_provider("^DJI")) == (None, "US.DIA")
    with pytest.raises(InvalidInput):
        symbol_map({"SPX": "US..SPX", "S&P": "US..SPX"})


@pytest.mark.parametrize("symbol", ["", "EURUSD", "BTC-USD", "aapl", "00700.HK", "700.HK", "X9", "^N225", "A.B.C", "."])
def test_what_no_market_has_is_none(symbol):
    assert symbol_map({}).to_provider(symbol) is None


@pytest.mark.parametrize("name", ["", "US.", "XX.AAPL", "HK.TCH261229C600000", "US.aapl", "SH.1"])
def test_names_that_we_cannot_read_are_none(name):
    assert symbol_map({}).from_provider(name) is None


def test_an_option_code_is_the_occ_symbol():
    assert occ_symbol("AAPL261218C200000") == "AAPL261218C00200000"
    assert occ_symbol("SPY261218P592500") == "SPY261218P00592500"
    assert occ_symbol("AAPL") is None


@given(st.text(max_size=12) | st.from_regex(r"[A-Z0-9^.]{1,10}", fullmatch=True))
def test_what_goes_there_comes_back(symbol):
    names = symbol_map({})
    theirs = names.to_provider(symbol)
    assert theirs is None or names.from_provider(theirs) == symbol


@pytest.mark.parametrize(
    ("number", "regular", "extended"),
    [
        (3, "open", "open"),  # morning
        (5, "open", "open"),  # afternoon
        (4, "closed", "closed"),  # lunch
        (6, "closed", "closed"),
        (1, "auction", "auction"),
        (8, "closed", "open"),  # before the session in the United States
        (10, "closed", "open"),  # after it
        (99, None, None),
    ],
)
def test_market_states(number, regular, extended):
    assert market_state(number, extended_hours=False) == regular
    assert market_state(number, extended_hours=True) == extended
