"""Messages as documented and as recorded in, values out. Expected values are typed from the messages by hand."""

from __future__ import annotations

import csv
import gzip
import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import InvalidInput, MalformedMessage
from marketd.model import BAR_SCHEMA, BOOK, LAST, TRADE, Interval, Quarantined, Quote, Trade
from marketd.sources.binance import BinanceConfig
from marketd.sources.binance.parse import (
    Names,
    RestTrade,
    Shutdown,
    parse_klines,
    parse_quote,
    parse_tickers,
    read_batch,
    trade_text,
)
from marketd.sources.binance.symbols import from_binance, symbol_map, to_binance

RECEIVED_NS = 1_700_000_000_123_456_789
NAMES = Names({"BNBBTC": "BNB-BTC", "BNBUSDT": "BNB-USDT"})

# web-socket-streams.md, wrapped as it says that combined streams are
BOOK_TICKER = (
    '{"stream":"bnbusdt@bookTicker","data":{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000",'
    '"a":"25.36520000","A":"40.66000000"}}'
)
TRADE_TEXT = (
    '{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100",'
    '"T":1672515782136,"m":true,"M":true}}'
)
KLINE = (
    '{"stream":"bnbbtc@kline_1m","data":{"e":"kline","E":1672515782136,"s":"BNBBTC","k":{"t":1672515780000,'
    '"T":1672515839999,"s":"BNBBTC","i":"1m","f":100,"L":200,"o":"0.0010","c":"0.0020","x":false}}}'
)
AGG_TRADE = (
    '{"stream":"bnbbtc@aggTrade","data":{"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001",'
    '"q":"100","f":100,"l":105,"T":1672515782136,"m":true,"M":true}}'
)
SHUTDOWN = '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'
ACK = '{"result":null,"id":1}'
REFUSED = '{"code":2,"msg":"Invalid request: too many parameters","id":3}'

QUOTE = Quote(
    symbol="BNB-USDT",
    time_event_ns=RECEIVED_NS,
    time_received_ns=RECEIVED_NS,
    source="binance",
    bid=25.3519,
    ask=25.3652,
    bid_size=31.21,
    ask_size=40.66,
)
EXECUTED = Trade(
    symbol="BNB-BTC",
    time_event_ns=1_672_515_782_136_000_000,
    time_received_ns=RECEIVED_NS,
    source="binance",
    price=0.001,
    size=100.0,
    trade_id=12345,
)


def read(*texts, names=NAMES):
    return read_batch([(RECEIVED_NS + i, text) for i, text in enumerate(texts)], names)


def ticks(*texts, names=NAMES):
    batch = read_batch([(RECEIVED_NS, text) for text in texts], names).ticks
    return [] if batch is None else batch.to_events()


def changed(text, **fields):
    message = json.loads(text)
    message["data"].update(fields)
    return json.dumps(message)


def without(text, *fields):
    message = json.loads(text)
    for name in fields:
        del message["data"][name]
    return json.dumps(message)


def test_a_book_ticker_is_a_quote_at_the_time_of_its_receipt():
    assert ticks(BOOK_TICKER) == [QUOTE]


def test_a_trade_is_a_trade():
    assert ticks(TRADE_TEXT) == [EXECUTED]


def test_times_in_microseconds_are_known_by_their_length():
    (trade,) = ticks(changed(TRADE_TEXT, T=1_672_515_782_136_789))
    assert trade.time_event_ns == 1_672_515_782_136_789_000


def test_a_batch_keeps_its_order_in_columns():
    understood = read(TRADE_TEXT, BOOK_TICKER, changed(TRADE_TEXT, t=12346, p="0.002"))
    batch = understood.ticks
    assert understood.rest == []
    assert batch.symbols == ("BNB-BTC", "BNB-USDT")
    assert batch.symbol_index.tolist() == [0, 1, 0]
    assert batch.flags.tolist() == [LAST | TRADE, BOOK, LAST | TRADE]
    assert batch.time_received_ns.tolist() == [RECEIVED_NS, RECEIVED_NS + 1, RECEIVED_NS + 2]
    assert batch.time_event_ns.tolist() == [1_672_515_782_136_000_000, RECEIVED_NS + 1, 1_672_515_782_136_000_000]
    np.testing.assert_array_equal(batch.bid, [math.nan, 25.3519, math.nan])
    np.testing.assert_array_equal(batch.last, [0.001, math.nan, 0.002])
    assert batch.trade_id.tolist() == [12345, np.iinfo(np.int64).min, 12346]


def test_an_empty_side_of_the_book_is_absent():
    (quote,) = ticks(changed(BOOK_TICKER, b="0.00000000", B="0.00000000"))
    assert (quote.bid, quote.bid_size, quote.ask) == (None, None, 25.3652)


def test_symbols_that_are_not_followed_give_nothing():
    understood = read(BOOK_TICKER, TRADE_TEXT, names=Names({"BNBBTC": "BNB-BTC"}))
    assert understood.ticks.to_events()[0].symbol == "BNB-BTC"
    assert len(understood.ticks) == 1
    assert read(BOOK_TICKER, names=Names({})).ticks is None


@pytest.mark.parametrize("text", [ACK, '{"id":4,"result":["bnbbtc@trade"]}'])
def test_answers_are_no_events(text):
    understood = read(BOOK_TICKER, text)
    assert (len(understood.ticks), understood.rest) == (1, [])


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (REFUSED, "2: Invalid request: too many parameters"),
        ('{"error":{"code":-1003,"msg":"Too many"},"id":4}', "-1003: Too many"),
    ],
)
def test_refusals_are_told_and_the_ticks_beside_them_go_on(text, detail):
    understood = read(BOOK_TICKER, text, TRADE_TEXT)
    assert len(understood.ticks) == 2
    assert understood.rest == [
        Quarantined(source="binance", time_received_ns=RECEIVED_NS + 1, reason="provider_error", detail=detail)
    ]


@pytest.mark.parametrize("text", [KLINE, AGG_TRADE, changed(TRADE_TEXT, e="blockTrade")])
def test_unknown_kinds_are_counted_and_the_ticks_beside_them_go_on(text):
    understood = read(BOOK_TICKER, text, TRADE_TEXT)
    assert len(understood.ticks) == 2
    assert [event.reason for event in understood.rest] == ["unknown_message"]


def test_a_shutdown_is_noticed():
    understood = read(BOOK_TICKER, SHUTDOWN)
    assert (len(understood.ticks), understood.rest) == (1, [Shutdown()])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"data":null}',
        '{"data":{}}',
        '{"stream":"x"}',
        BOOK_TICKER[:-1],
        without(BOOK_TICKER, "u"),
        without(BOOK_TICKER, "A"),
        without(TRADE_TEXT, "t"),
        without(TRADE_TEXT, "T"),
        without(TRADE_TEXT, "p"),
        changed(BOOK_TICKER, b="nan"),
        changed(BOOK_TICKER, b="Infinity"),
        changed(BOOK_TICKER, b=" 1"),
        changed(BOOK_TICKER, b="1_000"),
        changed(BOOK_TICKER, b="٣"),
        changed(BOOK_TICKER, b="1e999"),
        changed(BOOK_TICKER, b=None),
        changed(BOOK_TICKER, b=[1]),
        changed(BOOK_TICKER, u=-1),
        changed(BOOK_TICKER, s=5),
        changed(TRADE_TEXT, t=-1),
        changed(TRADE_TEXT, t=2**63),
        changed(TRADE_TEXT, T=0),
        changed(TRADE_TEXT, T=2**62),
        changed(TRADE_TEXT, e=7),
        '{"data":{"x":' + "[" * 100_000,
        "\ud800",
    ],
)
def test_what_is_not_as_documented_is_quarantined_as_malformed_and_the_ticks_beside_it_go_on(text):
    understood = read(BOOK_TICKER, text, TRADE_TEXT)
    assert understood.ticks.to_events() == [
        QUOTE,
        msgspec.structs.replace(EXECUTED, time_received_ns=RECEIVED_NS + 2),
    ]
    (event,) = understood.rest
    assert (event.source, event.reason, event.time_received_ns) == ("binance", "malformed", RECEIVED_NS + 1)
    assert 0 < len(event.detail) < 700


@given(st.lists(st.text() | st.sampled_from([BOOK_TICKER, TRADE_TEXT, ACK, SHUTDOWN]), max_size=6))
def test_any_text_is_read_or_quarantined(texts):
    understood = read(*texts)
    known = [text for text in texts if text in (BOOK_TICKER, TRADE_TEXT)]
    assert (0 if understood.ticks is None else len(understood.ticks)) == len(known)
    told = len(texts) - len(known) - texts.count(ACK)
    assert len(understood.rest) == told


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


@given(
    st.sampled_from([BOOK_TICKER, TRADE_TEXT, KLINE]),
    st.dictionaries(
        st.sampled_from(["e", "s", "u", "b", "B", "a", "A", "t", "T", "p", "q", "m"]),
        _SCALARS | st.lists(_SCALARS, max_size=3),
        min_size=1,
    ),
)
def test_any_field_may_be_anything_and_no_number_that_is_none_gets_through(text, fields):
    understood = read(changed(text, **fields))
    assert (understood.ticks is not None) + len(understood.rest) <= 1
    if understood.ticks is None:
        return
    for event in understood.ticks.to_events():
        values = [event.price, event.size] if isinstance(event, Trade) else [event.bid, event.ask, event.bid_size]
        assert all(math.isfinite(value) for value in values if value is not None)
        assert 0 < event.time_event_ns < 2**63


@given(st.binary(), st.integers(0, len(TRADE_TEXT) - 1))
def test_any_cut_of_a_message_is_quarantined(noise, cut):
    understood = read(TRADE_TEXT[:cut] + noise.decode("latin-1"))
    assert understood.ticks is None
    assert len(understood.rest) == 1


@given(st.decimals(min_value="0.00000001", max_value="100000000", places=8))
def test_a_decimal_text_becomes_the_nearest_double(number):
    (trade,) = ticks(changed(TRADE_TEXT, p=f"{number:f}"))
    assert trade.price == float(number)


def recorded(folder):
    """(received, message) of the recording, but for its depth, which is not subscribed here."""
    path = folder / "raw_feeds" / "binance_spot_btcusdt_20240809_raw.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = (line.rstrip("\n").split(" ", 1) for line in lines)
        return [(int(time_ns), text) for time_ns, text in pairs if '"btcusdt@depth' not in text]


@pytest.mark.parametrize("batch", [1, 100])
def test_a_recorded_feed_gives_the_recorded_quotes_and_trades_row_by_row(data_folder, batch):
    messages = recorded(data_folder)[: 3_000 if batch == 1 else None]
    names = Names({"BTCUSDT": "BTC-USDT"})
    quotes, trades = [], []
    for first in range(0, len(messages), batch):
        understood = read_batch(messages[first : first + batch], names)
        assert understood.rest == []
        for event in understood.ticks.to_events():
            (quotes if isinstance(event, Quote) else trades).append(event)

    def rows(kind):
        path = data_folder / "quotes_crypto" / f"binance_spot_btcusdt_20240809_{kind}.csv.gz"
        with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines)

    expected = [
        (int(r["recv_ns"]), float(r["bid"]), float(r["bid_size"]), float(r["ask"]), float(r["ask_size"]))
        for r in rows("quotes")
    ]
    got = [(q.time_received_ns, q.bid, q.bid_size, q.ask, q.ask_size) for q in quotes]
    assert got == (expected[: len(got)] if batch == 1 else expected)
    assert all(q.time_event_ns == q.time_received_ns for q in quotes)
    expected = [
        (int(r["recv_ns"]), int(r["trade_ms"]) * 10**6, int(r["trade_id"]), float(r["price"]), float(r["size"]))
        for r in rows("trades")
    ]
    got = [(t.time_received_ns, t.time_event_ns, t.trade_id, t.price, t.size) for t in trades]
    assert got == (expected[: len(got)] if batch == 1 else expected)
    assert len(quotes) > 2_000
    assert len(trades) > 300


# rest-api.md
DAY_TICKER = {
    "symbol": "BNBBTC",
    "priceChange": "-94.99999800",
    "priceChangePercent": "-95.960",
    "weightedAvgPrice": "0.29628482",
    "prevClosePrice": "0.10002000",
    "lastPrice": "4.00000200",
    "lastQty": "200.00000000",
    "bidPrice": "4.00000000",
    "bidQty": "100.00000000",
    "askPrice": "4.00000200",
    "askQty": "100.00000000",
    "openPrice": "99.00000000",
    "highPrice": "100.00000000",
    "lowPrice": "0.10000000",
    "volume": "8913.30000000",
    "quoteVolume": "15.30000000",
    "openTime": 1499783499040,
    "closeTime": 1499869899040,
    "firstId": 28385,
    "lastId": 28460,
    "count": 76,
}


def test_a_ticker_of_24_hours_is_a_quote_at_their_end():
    (ticker,) = parse_tickers(json.dumps([DAY_TICKER]).encode())
    assert ticker.last_id == 28460
    assert parse_quote(ticker, "BNB-BTC", RECEIVED_NS) == Quote(
        symbol="BNB-BTC",
        time_event_ns=1_499_869_899_040_000_000,
        time_received_ns=RECEIVED_NS,
        source="binance",
        bid=4.0,
        ask=4.000002,
        bid_size=100.0,
        ask_size=100.0,
        last=4.000002,
        volume=8913.3,
    )


@given(
    st.binary()
    | st.dictionaries(st.sampled_from([*DAY_TICKER]), _SCALARS).map(
        lambda fields: json.dumps([{**DAY_TICKER, **fields}]).encode()
    )
)
def test_any_answer_is_a_ticker_or_malformed(body):
    try:
        quotes = [parse_quote(ticker, "BNB-BTC", RECEIVED_NS) for ticker in parse_tickers(body)]
    except MalformedMessage:
        return
    for quote in quotes:
        values = (quote.bid, quote.ask, quote.bid_size, quote.ask_size, quote.last, quote.volume)
        assert all(value is None or math.isfinite(value) for value in values)


def test_a_trade_from_a_request_is_read_as_the_message_it_was():
    row = (
        b'{"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1499865549590,'
        b'"isBuyerMaker":true,"isBestMatch":true}'
    )
    text = trade_text("BNBBTC", msgspec.json.decode(row, type=RestTrade))
    assert ticks(text) == [
        Trade(
            symbol="BNB-BTC",
            time_event_ns=1_499_865_549_590_000_000,
            time_received_ns=RECEIVED_NS,
            source="binance",
            price=4.000001,
            size=12.0,
            trade_id=28457,
        )
    ]


# rest-api.md: a week from 2017-07-03, then the same figures a minute apart
WEEK = [
    1499040000000, "0.01634790", "0.80000000", "0.01575800", "0.01577100", "148976.11427815", 1499644799999,
    "2434.19055334", 308, "1756.87402397", "28.46694368", "0",
]  # fmt: skip


def klines(rows, *, interval="1m", start_ms=1_499_040_000_000, end_ms=1_499_040_600_000, as_of_ms=1_499_040_600_000):
    return parse_klines(
        rows if isinstance(rows, bytes) else json.dumps(rows).encode(),
        symbol="BNB-BTC",
        interval=Interval.parse(interval),
        start_ns=start_ms * 10**6,
        end_ns=end_ms * 10**6,
        as_of_ns=as_of_ms * 10**6,
    )


def minute(offset, *, trades=308, volume="148976.11427815"):
    start = 1_499_040_000_000 + offset * 60_000
    return [start, *WEEK[1:5], volume, start + 59_999, WEEK[7], trades, *WEEK[9:]]


def test_a_documented_kline_is_a_bar():
    (row,) = klines([WEEK], interval="1w", end_ms=1_499_700_000_000, as_of_ms=1_499_700_000_000).bars.to_pylist()
    assert row["vwap"] == pytest.approx(0.016339468, rel=1e-6)  # 2434.19055334 / 148976.11427815
    expected = {
        "symbol": "BNB-BTC",
        "interval": "1w",
        "side": "trade",
        "open": 0.0163479,
        "high": 0.8,
        "low": 0.015758,
        "close": 0.015771,
        "volume": 148976.11427815,
        "trades": 308,
        "provider": "binance",
        "status": "backfill",
    }
    assert {name: row[name] for name in expected} == expected
    assert row["ts"].value == 1_499_040_000_000 * 10**6


def test_flat_rows_and_the_running_one_are_left_out_and_the_end_is_exclusive():
    page = klines([minute(0), minute(1, trades=0, volume="0"), minute(2), minute(3)], as_of_ms=1_499_040_239_999)
    assert page.bars["ts"].cast("int64").to_pylist() == [1_499_040_000_000 * 10**6, 1_499_040_120_000 * 10**6]
    assert (page.count, page.last_ns) == (4, 1_499_040_180_000 * 10**6)
    page = klines([minute(0), minute(1)], end_ms=1_499_040_060_000)
    assert page.bars.num_rows == 1
    assert klines([]).bars.equals(BAR_SCHEMA.empty_table())


@pytest.mark.parametrize(
    "rows",
    [
        b"",
        b"{}",
        b"[1]",
        [minute(0)[:11]],
        [minute(0), minute(0)],
        [minute(1), minute(0)],
        [[*minute(0)[:1], "nan", *minute(0)[2:]]],
        [[-1, *minute(0)[1:]]],
        [[2**62, *minute(0)[1:]]],
    ],
)
def test_klines_that_are_not_as_documented_are_malformed(rows):
    with pytest.raises(MalformedMessage, match="BNB-BTC"):
        klines(rows)


@given(st.binary() | st.lists(st.lists(_SCALARS, min_size=12, max_size=12), max_size=3).map(json.dumps).map(str.encode))
def test_any_answer_is_klines_or_malformed(body):
    try:
        page = klines(body)
    except MalformedMessage:
        return
    assert page.bars.schema == BAR_SCHEMA


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("BTC-USDT", "BTCUSDT"), ("BTC-FDUSD", "BTCFDUSD"), ("ETH-BTC", "ETHBTC"), ("1INCH-USDC", "1INCHUSDC"),
     ("BTC-TRY", "BTCTRY"), ("USDC-USDT", "USDCUSDT"), ("BTC-USD", "BTCUSD"), ("BNB-EUR", "BNBEUR")],
)  # fmt: skip
def test_symbols_are_mapped_both_ways(ours, theirs):
    assert (to_binance(ours), from_binance(theirs)) == (theirs, ours)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTC-", "-USDT", "btc-usdt", "BTC USDT", "BTC-USDT-X", "", "NOSUCH9"])
def test_what_is_no_pair_has_no_name(symbol):
    assert to_binance(symbol) is None


@given(st.text())
def test_no_text_breaks_the_names(text):
    for found in (to_binance(text), from_binance(text)):
        assert found is None or found.isascii()


def test_a_table_comes_before_the_rules():
    names = symbol_map({"LUNC-USDT": "LUNAUSDT"})
    assert names.to_provider("LUNC-USDT") == "LUNAUSDT"
    assert names.from_provider("LUNAUSDT") == "LUNC-USDT"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbols", ("BTCUSDT",)),
        ("rest_url", "ftp://x"),
        ("old_trades_url", "x"),
        ("ws_url", "https://x"),
        ("mute_timeout_s", 0),
        ("gather_s", -1),
        ("settle_s", float("nan")),
        ("streams_per_connection", 1_025),
        ("names_per_command", 1),
        ("commands_per_s", 6),
        ("klines_per_call", 1_001),
        ("refill_attempts", 0),
        ("refill_max_trades", -1),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(InvalidInput) as caught:
        BinanceConfig(**{field: value})
    assert caught.value.field == field


def test_symbols_are_kept_as_ours():
    assert BinanceConfig(symbols=("btc/usdt", " BTC-USDT", "eth-usdt")).symbols == ("BTC-USDT", "ETH-USDT")
