"""Payloads from the exchange's documentation, values typed from them by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, Interval, Quarantined, Quote, Trade
from marketd.sources.coinbase.parse import RestTrade, match_text, parse_candles, parse_message
from marketd.sources.coinbase.symbols import product_id

RECEIVED_NS = 1_700_000_000_123_456_789

TICKER = (
    '{"type":"ticker","sequence":12042642428,"product_id":"BTC-USD","price":"9380.55","open_24h":"9450.81000000",'
    '"volume_24h":"9611.79166047","low_24h":"9195.49000000","high_24h":"9475.19000000","volume_30d":"327812.00311873",'
    '"best_bid":"9380.54","best_bid_size":"0.46688654","best_ask":"9380.55","best_ask_size":"1.56637040","side":"buy",'
    '"time":"2020-02-01T01:40:16.253563Z","trade_id":82062566,"last_size":"0.41969131"}'
)
MATCH = (
    '{"type":"match","trade_id":82047307,"maker_order_id":"0f358725-2134-435e-be11-753912a326e0",'
    '"taker_order_id":"252b7002-87a3-425c-ac73-f5b9e23f3caf","side":"sell","size":"0.00513192","price":"9314.78",'
    '"product_id":"BTC-USD","sequence":12038915443,"time":"2020-01-31T20:03:41.158814Z"}'
)
HEARTBEAT = (
    '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD","time":"2014-11-07T08:19:28.464459Z"}'
)
SUBSCRIPTIONS = '{"type":"subscriptions","channels":[{"name":"ticker","product_ids":["BTC-USD"]}]}'
ERROR = '{"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not a valid product"}'


def changed(message: str, **fields: object) -> str:
    return json.dumps({**json.loads(message), **fields})


def without(message: str, *fields: str) -> str:
    return json.dumps({key: value for key, value in json.loads(message).items() if key not in fields})


def test_a_ticker_is_a_quote_with_the_last_price_and_the_volume_of_24_hours():
    assert parse_message(TICKER, RECEIVED_NS) == [
        Quote(
            symbol="BTC-USD",
            time_event_ns=1_580_521_216_253_563_000,
            time_received_ns=RECEIVED_NS,
            source="coinbase",
            bid=9380.54,
            ask=9380.55,
            bid_size=0.46688654,
            ask_size=1.56637040,
            last=9380.55,
            volume=9611.79166047,
        )
    ]


def test_a_match_is_a_trade_whose_aggressor_is_the_other_side():
    # a maker who sells was hit by a taker who bought: an up-tick, says the documentation
    assert parse_message(MATCH, RECEIVED_NS) == [
        Trade(
            symbol="BTC-USD",
            time_event_ns=1_580_501_021_158_814_000,
            time_received_ns=RECEIVED_NS,
            source="coinbase",
            price=9314.78,
            size=0.00513192,
            aggressor="buy",
            trade_id=82_047_307,
        )
    ]
    (trade,) = parse_message(changed(MATCH, side="buy"), RECEIVED_NS)
    assert isinstance(trade, Trade)
    assert trade.aggressor == "sell"


@pytest.mark.parametrize("raw", [HEARTBEAT, SUBSCRIPTIONS, changed(MATCH, type="last_match")])
def test_state_is_not_an_event(raw):
    assert parse_message(raw, RECEIVED_NS) == []


def test_an_error_of_the_exchange_is_quarantined_in_its_words():
    assert parse_message(ERROR, RECEIVED_NS) == [
        Quarantined(
            source="coinbase",
            time_received_ns=RECEIVED_NS,
            reason="provider_error",
            detail="Failed to subscribe: FOO-USD is not a valid product",
        )
    ]


def test_recordings_without_book_sizes_are_read():
    (quote,) = parse_message(without(TICKER, "best_bid_size", "best_ask_size"), RECEIVED_NS)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask_size) == (9380.54, None, None)


@pytest.mark.parametrize("empty", ["0", "0.00", ""])
def test_an_empty_side_of_the_book_is_absent(empty):
    (quote,) = parse_message(changed(TICKER, best_bid=empty), RECEIVED_NS)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask) == (None, 9380.55)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "null",
        "[]",
        "{",
        '{"type":"auction"}',
        '{"product_id":"BTC-USD"}',
        without(TICKER, "time"),
        without(MATCH, "trade_id"),
        changed(TICKER, price="nan"),
        changed(TICKER, price="1_000"),
        changed(TICKER, price="٣"),
        changed(TICKER, price=" 1"),
        changed(TICKER, price="1e999"),
        changed(TICKER, price=9380.55),
        changed(TICKER, time="2020-13-01T01:40:16Z"),
        changed(TICKER, time="0001-01-01T00:00:00Z"),
        changed(TICKER, time="9999-01-01T00:00:00Z"),
        changed(MATCH, trade_id=-1),
        changed(MATCH, trade_id=2**63),
        changed(MATCH, trade_id="82047307"),
        changed(MATCH, side="maker"),
        '{"type":"ticker","x":' + "[" * 100_000,
        "\ud800",
    ],
)
def test_what_is_not_as_documented_is_quarantined_as_malformed(raw):
    (event,) = parse_message(raw, RECEIVED_NS)
    assert isinstance(event, Quarantined)
    assert (event.source, event.reason, event.time_received_ns) == ("coinbase", "malformed", RECEIVED_NS)
    assert event.detail
    assert len(event.detail) < 700


@given(st.text())
def test_any_text_is_quarantined_and_never_raises(raw):
    (event,) = parse_message(raw, RECEIVED_NS)
    assert isinstance(event, Quarantined)
    assert event.reason == "malformed"


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


@given(
    st.sampled_from([TICKER, MATCH, HEARTBEAT, SUBSCRIPTIONS, ERROR]),
    st.dictionaries(
        st.sampled_from(
            ["type", "price", "time", "side", "trade_id", "size", "best_bid", "product_id", "last_trade_id"]
        ),
        _SCALARS | st.lists(_SCALARS, max_size=3),
        min_size=1,
    ),
)
def test_any_field_may_be_anything_and_no_number_that_is_none_gets_through(message, fields):
    for event in parse_message(changed(message, **fields), RECEIVED_NS):
        assert isinstance(event, Quote | Trade | Quarantined)
        values = [event.last, event.bid] if isinstance(event, Quote) else []
        values += [event.price, event.size] if isinstance(event, Trade) else []
        assert all(math.isfinite(value) for value in values if value is not None)


@given(st.binary())
def test_any_cut_of_a_message_is_quarantined(noise):
    cut = len(noise) % len(MATCH)
    (event,) = parse_message(MATCH[:cut] + noise.decode("latin-1"), RECEIVED_NS)
    assert isinstance(event, Quarantined)


@given(st.decimals(min_value="0.00000001", max_value="100000000", places=8))
def test_a_decimal_text_becomes_the_nearest_double(number):
    (trade,) = parse_message(changed(MATCH, price=f"{number:f}"), RECEIVED_NS)
    assert isinstance(trade, Trade)
    assert trade.price == float(number)


def test_a_trade_from_a_request_is_read_as_the_match_it_was():
    # the row as documented for /products/{id}/trades
    row = RestTrade(trade_id=74, time="2014-11-07T22:19:28.578544Z", price="10.00000000", size="0.01000000", side="buy")
    assert parse_message(match_text("BTC-USD", row), RECEIVED_NS) == [
        Trade(
            symbol="BTC-USD",
            time_event_ns=1_415_398_768_578_544_000,
            time_received_ns=RECEIVED_NS,
            source="coinbase",
            price=10.0,
            size=0.01,
            aggressor="sell",
            trade_id=74,
        )
    ]


# [time, low, high, open, close, volume], newest first; 1591514100 is 2020-06-07T07:15:00Z
CANDLES = [
    (1_591_514_220, 0.02506, 0.02509, 0.02507, 0.02508, 0.5),
    (1_591_514_160, 0.02505, 0.02508, 0.02506, 0.02507, 0.02816506),
    (1_591_514_040, 0.02501, 0.02504, 0.02502, 0.02503, 1.63830323),
    (1_591_513_980, 0.02401, 0.02404, 0.02402, 0.02403, 0.19918178),
]


def candles(rows, *, as_of_s=1_591_514_250, start_s=1_591_514_040, end_s=1_591_517_000):
    return parse_candles(
        rows,
        symbol="ETH-BTC",
        interval=Interval.parse("1m"),
        start_ns=start_s * 10**9,
        end_ns=end_s * 10**9,
        as_of_ns=as_of_s * 10**9,
    )


def test_candles_are_put_in_our_order_without_the_running_one_and_those_before_the_start():
    table = candles(CANDLES)
    assert table.schema == BAR_SCHEMA
    rows = [tuple(row.values()) for row in table.select(["open", "high", "low", "close", "volume"]).to_pylist()]
    assert rows == [(0.02502, 0.02504, 0.02501, 0.02503, 1.63830323), (0.02506, 0.02508, 0.02505, 0.02507, 0.02816506)]
    assert table["ts"].cast("int64").to_pylist() == [1_591_514_040 * 10**9, 1_591_514_160 * 10**9]
    assert table["as_of"].cast("int64").to_pylist() == [1_591_514_250 * 10**9] * 2
    for name, value in {
        "symbol": "ETH-BTC",
        "interval": "1m",
        "side": "trade",
        "vwap": None,
        "trades": None,
        "provider": "coinbase",
        "status": "backfill",
    }.items():
        assert table[name].to_pylist() == [value, value]


def test_a_candle_is_finished_when_its_interval_is_over_and_the_end_is_exclusive():
    assert candles(CANDLES, as_of_s=1_591_514_279).num_rows == 2
    assert candles(CANDLES, as_of_s=1_591_514_280)["close"].to_pylist() == [0.02503, 0.02507, 0.02508]
    assert candles(CANDLES, end_s=1_591_514_160)["close"].to_pylist() == [0.02503]
    assert candles([]).equals(BAR_SCHEMA.empty_table())


def test_a_candle_that_comes_twice_is_malformed():
    with pytest.raises(MalformedMessage, match="ETH-BTC: a 1m candle came twice"):
        candles([CANDLES[1], *CANDLES])


@pytest.mark.parametrize("symbol", ["BTC-USD", "BTC/USD", "btc-usd", " BTC-USD "])
def test_a_symbol_is_the_product_id(symbol):
    assert product_id(symbol) == "BTC-USD"
