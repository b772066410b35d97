"""Messages as documented in, values out. Expected values are typed from the messages by hand."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import InvalidInput, MalformedMessage
from marketd.model import BAR_SCHEMA, Interval, Quarantined, Quote, Trade
from marketd.sources.kraken import KrakenConfig
from marketd.sources.kraken.parse import (
    Answer,
    Heartbeat,
    Status,
    TickerMessage,
    TradeMessage,
    bars_of_trades,
    parse_ohlc,
    parse_quote,
    parse_rest_ticker,
    parse_rest_trades,
    parse_trade,
    read_message,
    trade_text,
)
from marketd.sources.kraken.symbols import answer_keys, from_kraken, request_pair, symbol_map, to_kraken

RECEIVED_NS = 1_777_777_777_123_456_789

TICKER = (
    '{"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":105944.20,"bid_qty":2.5,'
    '"ask":105944.30,"ask_qty":3.2,"last":105899.40,"volume":163.28908096,"vwap":105904.39279,"low":104711.00,'
    '"high":106613.10,"change":250.00,"change_pct":0.24,"timestamp":"2026-04-28T09:30:59.123456Z"}]}'
)
TRADE = (
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,'
    '"ord_type":"limit","trade_id":10218208,"timestamp":"2023-10-06T17:35:55.440295Z"}]}'
)
STATUS = (
    '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online","api_version":"v2",'
    '"connection_id":12393906104898154338}]}'
)
ACCEPTED = (
    '{"method":"subscribe","result":{"channel":"ticker","symbol":"BTC/USD","snapshot":true},"success":true,'
    '"time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z","req_id":1}'
)
REFUSED = (
    '{"error":"Currency pair not supported FOO/BAR","method":"subscribe","success":false,"symbol":"FOO/BAR",'
    '"time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z","req_id":1}'
)
OHLC = (
    '{"channel":"ohlc","type":"update","timestamp":"2023-10-04T16:26:30.524394914Z","data":[{"symbol":"MATIC/USD",'
    '"open":0.5624,"high":0.5628,"low":0.5622,"close":0.5627,"trades":12,"volume":30927.68066226,"interval":5}]}'
)


def quote_of(raw):
    (row,) = read_message(raw, RECEIVED_NS).data
    return parse_quote(row, "BTC-USD", RECEIVED_NS)


def trade_of(raw):
    (row,) = read_message(raw, RECEIVED_NS).data
    return parse_trade(row, "BTC-USD", RECEIVED_NS)


def changed(raw, **fields):
    message = json.loads(raw)
    message["data"][0].update(fields)
    return json.dumps(message)


def without(raw, *fields):
    message = json.loads(raw)
    for name in fields:
        del message["data"][0][name]
    return json.dumps(message)


def test_a_ticker_is_a_quote():
    assert quote_of(TICKER) == Quote(
        symbol="BTC-USD",
        time_event_ns=1_777_368_659_123_456_000,  # 2026-04-28T09:30:59.123456Z
        time_received_ns=RECEIVED_NS,
        source="kraken",
        bid=105944.2,
        ask=105944.3,
        bid_size=2.5,
        ask_size=3.2,
        last=105899.4,
        volume=163.28908096,
    )


def test_a_ticker_without_a_time_has_that_of_its_receipt():
    assert quote_of(without(TICKER, "timestamp")).time_event_ns == RECEIVED_NS


def test_an_empty_side_of_the_book_is_absent():
    quote = quote_of(changed(TICKER, bid=0, bid_qty=0, last=0))
    assert (quote.bid, quote.bid_size, quote.ask, quote.last) == (None, None, 105944.3, None)


def test_a_trade_is_a_trade_whose_side_is_the_aggressors():
    assert trade_of(TRADE) == Trade(
        symbol="BTC-USD",
        time_event_ns=1_696_613_755_440_295_000,  # 2023-10-06T17:35:55.440295Z
        time_received_ns=RECEIVED_NS,
        source="kraken",
        price=105944.2,
        size=0.00027625,
        aggressor="buy",
        trade_id=10_218_208,
    )


def test_other_messages_are_told_apart():
    assert read_message('{"channel":"heartbeat"}', RECEIVED_NS) == Heartbeat()
    status = read_message(STATUS, RECEIVED_NS)
    assert isinstance(status, Status)
    assert status.data[0].system == "online"
    accepted = read_message(ACCEPTED, RECEIVED_NS)
    assert isinstance(accepted, Answer)
    assert (accepted.success, accepted.error) == (True, None)
    refused = read_message(REFUSED, RECEIVED_NS)
    assert refused == Answer("subscribe", False, "Currency pair not supported FOO/BAR", "FOO/BAR")
    assert isinstance(read_message('{"method":"pong","req_id":2,"time_in":"x","time_out":"y"}', RECEIVED_NS), Answer)
    assert read_message(TRADE.replace("update", "snapshot"), RECEIVED_NS).type == "snapshot"


@pytest.mark.parametrize("raw", [OHLC, '{"channel":"book","type":"snapshot","data":[]}'])
def test_an_unknown_channel_is_counted(raw):
    event = read_message(raw, RECEIVED_NS)
    assert isinstance(event, Quarantined)
    assert event.reason == "unknown_message"


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"channel":"ticker"}',
        '{"channel":5}',
        TRADE[:-1],
        without(TRADE, "trade_id"),
        without(TRADE, "timestamp"),
        changed(TRADE, price="105944.20"),
        changed(TRADE, price=float("nan")),
        TRADE.replace("105944.20", "1e999"),
        changed(TRADE, trade_id=-1),
        changed(TRADE, trade_id=2**63),
        changed(TRADE, side="b"),
        changed(TICKER, bid="1"),
        '{"channel":"trade","x":' + "[" * 100_000,
        "\ud800",
    ],
)
def test_what_is_not_as_documented_is_quarantined_as_malformed(raw):
    event = read_message(raw, RECEIVED_NS)
    assert isinstance(event, Quarantined)
    assert (event.source, event.reason, event.time_received_ns) == ("kraken", "malformed", RECEIVED_NS)
    assert 0 < len(event.detail) < 700


@pytest.mark.parametrize("time", ["yesterday", "2023-13-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-01-01T00:00:00Z"])
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(ValueError, match=r"RFC 3339|month|outside"):
        trade_of(changed(TRADE, timestamp=time))


@given(st.text())
def test_any_text_is_read_or_quarantined(raw):
    assert isinstance(read_message(raw, RECEIVED_NS), Quarantined)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


@given(
    st.sampled_from([TICKER, TRADE, STATUS]),
    st.dictionaries(
        st.sampled_from(["symbol", "bid", "ask", "last", "timestamp", "side", "price", "qty", "trade_id", "system"]),
        _SCALARS | st.lists(_SCALARS, max_size=3),
        min_size=1,
    ),
)
def test_any_field_may_be_anything_and_no_number_that_is_none_gets_through(raw, fields):
    message = read_message(changed(raw, **fields), RECEIVED_NS)
    if not isinstance(message, TickerMessage | TradeMessage):
        assert isinstance(message, Quarantined | Status)
        return
    for row in message.data:
        parse = parse_quote if isinstance(message, TickerMessage) else parse_trade
        try:
            event = parse(row, "BTC-USD", RECEIVED_NS)
        except ValueError:
            continue
        values = [event.bid, event.ask, event.last] if isinstance(event, Quote) else [event.price, event.size]
        assert all(math.isfinite(value) for value in values if value is not None)


@given(st.binary(), st.integers(0, len(TRADE) - 1))
def test_any_cut_of_a_message_is_quarantined(noise, cut):
    assert isinstance(read_message(TRADE[:cut] + noise.decode("latin-1"), RECEIVED_NS), Quarantined)


def raw(value):
    return msgspec.Raw(value if isinstance(value, bytes) else json.dumps(value).encode())


ROW = b'[["105433.60000","0.00027625",1762795433.9717445,"b","l","",10218208]]'


def test_a_trade_from_a_request_is_exact_and_is_read_as_the_message_it_was():
    (row,) = parse_rest_trades(raw(ROW), "BTC/USD")
    assert row.time_ns == 1_762_795_433_971_744_500
    assert trade_of(trade_text("BTC/USD", row)) == Trade(
        symbol="BTC-USD",
        time_event_ns=1_762_795_433_971_744_000,  # the stream tells the microsecond
        time_received_ns=RECEIVED_NS,
        source="kraken",
        price=105433.6,
        size=0.00027625,
        aggressor="buy",
        trade_id=10_218_208,
    )


@given(
    st.binary()
    | st.lists(st.lists(_SCALARS, min_size=7, max_size=7), max_size=2).map(json.dumps).map(str.encode)
    | st.lists(_SCALARS, min_size=7, max_size=7).map(
        lambda row: json.dumps(
            [[v if v is not None else w for v, w in zip(row, json.loads(ROW)[0], strict=True)]]
        ).encode()
    )
)
def test_any_answer_is_trades_or_malformed(body):
    try:
        trades = parse_rest_trades(msgspec.Raw(body), "BTC/USD")
    except MalformedMessage:
        return
    for trade in trades:
        (event,) = read_message(trade_text("BTC/USD", trade), RECEIVED_NS).data
        assert math.isfinite(parse_trade(event, "BTC-USD", RECEIVED_NS).price)


REST_TICKER = {
    "a": ["30300.10000", "1", "1.500"],
    "b": ["30300.00000", "1", "1.000"],
    "c": ["30303.20000", "0.00067643"],
    "v": ["4083.67001100", "4412.73601799"],
    "p": ["30706.77771", "30689.13205"],
    "t": [34619, 38907],
    "l": ["29868.30000", "29868.30000"],
    "h": ["31631.00000", "31631.00000"],
    "o": "30502.80000",
}


def test_a_ticker_by_request_is_a_quote_at_the_time_of_its_receipt():
    assert parse_rest_ticker(raw(REST_TICKER), "BTC-USD", RECEIVED_NS) == Quote(
        symbol="BTC-USD",
        time_event_ns=RECEIVED_NS,
        time_received_ns=RECEIVED_NS,
        source="kraken",
        bid=30300.0,
        ask=30300.1,
        bid_size=1.0,
        ask_size=1.5,
        last=30303.2,
        volume=4412.73601799,
    )


@given(
    st.binary()
    | st.dictionaries(st.sampled_from("abcv"), _SCALARS | st.lists(_SCALARS, max_size=3)).map(
        lambda fields: json.dumps({**REST_TICKER, **fields}).encode()
    )
)
def test_any_answer_is_a_ticker_or_malformed(body):
    try:
        quote = parse_rest_ticker(msgspec.Raw(body), "BTC-USD", RECEIVED_NS)
    except MalformedMessage:
        return
    assert all(v is None or math.isfinite(v) for v in (quote.bid, quote.ask, quote.last, quote.volume))


# a flat minute and one with a trade, as recorded; 1762777080 is 2025-11-10T12:18:00Z
FLAT = [1762777080, "106038.2", "106038.2", "106038.2", "106038.2", "0.0", "0.00000000", 0]
BUSY = [1762777140, "106038.3", "106040.1", "106030.0", "106038.5", "106038.3", "0.00032101", 3]
START_S = 1762777080


def ohlc(rows, *, start_s=START_S, end_s=START_S + 600, as_of_s=START_S + 600):
    return parse_ohlc(
        raw(rows),
        symbol="BTC-USD",
        interval=Interval.parse("1m"),
        start_ns=start_s * 10**9,
        end_ns=end_s * 10**9,
        as_of_ns=as_of_s * 10**9,
    )


def test_ohlc_rows_are_bars_without_flat_ones_and_the_running_one():
    page = ohlc([FLAT, BUSY, [START_S + 120, *BUSY[1:]]], as_of_s=START_S + 179)
    (row,) = page.bars.to_pylist()
    expected = {
        "symbol": "BTC-USD",
        "interval": "1m",
        "side": "trade",
        "open": 106038.3,
        "high": 106040.1,
        "low": 106030.0,
        "close": 106038.5,
        "volume": 0.00032101,
        "vwap": 106038.3,
        "trades": 3,
        "provider": "kraken",
        "status": "backfill",
    }
    assert {name: row[name] for name in expected} == expected
    assert row["ts"].value == 1762777140 * 10**9
    assert (page.count, page.first_ns) == (3, START_S * 10**9)
    assert ohlc([BUSY], end_s=START_S + 60).bars.num_rows == 0
    assert ohlc([]).bars.equals(BAR_SCHEMA.empty_table())


@pytest.mark.parametrize(
    "rows",
    [b"", b"{}", [1], [FLAT[:7]], [BUSY, FLAT], [BUSY, BUSY], [[-1, *BUSY[1:]]], [[2**60, *BUSY[1:]]],
     [[*BUSY[:1], "nan", *BUSY[2:]]]],
)  # fmt: skip
def test_ohlc_that_is_not_as_documented_is_malformed(rows):
    with pytest.raises(MalformedMessage, match="BTC-USD"):
        ohlc(rows)


@given(st.binary() | st.lists(st.lists(_SCALARS, min_size=8, max_size=8), max_size=3).map(json.dumps).map(str.encode))
def test_any_answer_is_ohlc_or_malformed(body):
    try:
        page = ohlc(body)
    except MalformedMessage:
        return
    assert page.bars.schema == BAR_SCHEMA


def test_bars_of_trades_are_made_as_one_would_by_hand():
    rows = [
        ["10.0", "1.0", START_S - 0.5, "b", "l", "", 1],  # before the start
        ["11.0", "0.1", START_S, "b", "l", "", 2],
        ["13.0", "0.2", START_S + 30.25, "s", "l", "", 3],
        ["12.0", "0.3", START_S + 59.999, "s", "m", "", 4],
        # a minute without a trade
        ["20.0", "2.0", START_S + 120, "b", "l", "", 5],
        ["21.0", "1.0", START_S + 180, "b", "l", "", 6],  # from the end on
    ]
    table = bars_of_trades(
        parse_rest_trades(raw(rows), "BTC/USD"),
        symbol="BTC-USD",
        interval=Interval.parse("1m"),
        start_ns=START_S * 10**9,
        end_ns=(START_S + 180) * 10**9,
        as_of_ns=RECEIVED_NS,
    )
    assert table.schema == BAR_SCHEMA
    names = ["open", "high", "low", "close", "volume", "trades"]
    assert [tuple(row.values()) for row in table.select(names).to_pylist()] == [
        (11.0, 13.0, 11.0, 12.0, 0.6, 3),
        (20.0, 20.0, 20.0, 20.0, 2.0, 1),
    ]
    assert table["ts"].cast("int64").to_pylist() == [START_S * 10**9, (START_S + 120) * 10**9]
    assert table["vwap"].to_pylist() == [pytest.approx((1.1 + 2.6 + 3.6) / 0.6), 20.0]
    none = bars_of_trades(
        [], symbol="BTC-USD", interval=Interval.parse("1m"), start_ns=0, end_ns=1, as_of_ns=RECEIVED_NS
    )
    assert none.equals(BAR_SCHEMA.empty_table())


@pytest.mark.parametrize(
    ("ours", "theirs", "asked", "answered"),
    [
        ("BTC-USD", "BTC/USD", "XBTUSD", "XXBTZUSD"),
        ("ETH-BTC", "ETH/BTC", "ETHXBT", "XETHXXBT"),
        ("SOL-USD", "SOL/USD", "SOLUSD", "SOLUSD"),
        ("DOGE-EUR", "DOGE/EUR", "XDGEUR", "XDGEUR"),
        ("USDT-USD", "USDT/USD", "USDTUSD", "USDTZUSD"),
        ("EUR-USD", "EUR/USD", "EURUSD", "ZEURZUSD"),
    ],
)
def test_symbols_are_mapped_both_ways(ours, theirs, asked, answered):
    assert (to_kraken(ours), from_kraken(theirs), request_pair(theirs)) == (theirs, ours, asked)
    assert answered in answer_keys(theirs)


@pytest.mark.parametrize("symbol", ["BTCUSD", "BTC-", "-USD", "btc-usd", "BTC/USD", "", "NOSUCH9"])
def test_what_is_no_pair_has_no_name(symbol):
    assert to_kraken(symbol) is None


@given(st.text())
def test_no_text_breaks_the_names(text):
    for found in (to_kraken(text), from_kraken(text)):
        assert found is None or found.isascii()


def test_a_table_comes_before_the_rules():
    assert symbol_map({"LUNC-USD": "LUNA/USD"}).from_provider("LUNA/USD") == "LUNC-USD"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbols", ("BTCUSD",)),
        ("symbol_table", {"BTC-USD": "XBTUSD"}),
        ("rest_url", "ftp://x"),
        ("ws_url", "https://x"),
        ("mute_timeout_s", 0),
        ("old_bars_max_pages", -1),
        ("names_per_command", 0),
        ("gather_s", -1),
        ("refill_attempts", 0),
        ("refill_max_trades", -1),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(InvalidInput) as caught:
        KrakenConfig(**{field: value})
    assert caught.value.field == field


def test_symbols_are_kept_as_ours():
    assert KrakenConfig(symbols=("btc/usd", " BTC-USD", "eth-usd")).symbols == ("BTC-USD", "ETH-USD")
