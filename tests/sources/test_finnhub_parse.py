"""Payloads of Finnhub as its documentation shows them, and anything else: a value or a typed failure."""

from __future__ import annotations

from datetime import date

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import MalformedMessage
from marketd.model import LAST, TRADE, Interval, Quarantined, TickBatch, parse_ns
from marketd.sources.finnhub.parse import (
    Candles,
    ChainAnswer,
    Names,
    RestQuote,
    parse_candles,
    parse_chain,
    parse_quote,
    read_messages,
)
from marketd.sources.finnhub.symbols import from_finnhub, market_of, to_finnhub

DAY, MINUTE = Interval.parse("1d"), Interval.parse("1m")
NOW_NS = parse_ns("2026-11-20T20:00:00Z")
FAR_NS = 2**62

QUOTE = b'{"c":261.74,"d":1.2,"dp":0.46,"h":263.31,"l":260.68,"o":261.07,"pc":259.45,"t":1582641000}'
CANDLES = (
    b'{"c":[217.68,221.03,219.89],"h":[222.49,221.5,220.94],"l":[217.19,217.1402,218.83],"o":[221.03,218.55,220],'
    b'"s":"ok","t":[1569297600,1569384000,1569470400],"v":[33463820,24018876,20730608]}'
)


def candles(raw, interval=DAY, start_ns=0, end_ns=FAR_NS, as_of_ns=NOW_NS):
    answer = msgspec.json.decode(raw, type=Candles)
    return parse_candles(answer, symbol="AAPL", interval=interval, start_ns=start_ns, end_ns=end_ns, as_of_ns=as_of_ns)


def test_the_quote_of_the_documentation():
    quote = parse_quote(msgspec.json.decode(QUOTE, type=RestQuote), "AAPL", NOW_NS)
    assert (quote.symbol, quote.source, quote.last) == ("AAPL", "finnhub", 261.74)
    assert quote.time_event_ns == parse_ns("2020-02-25T14:30:00Z")
    assert (quote.bid, quote.ask, quote.volume) == (None, None, None)


@pytest.mark.parametrize("price", ["0", "-1.5"])
def test_a_quote_without_a_price_is_malformed(price):
    answer = msgspec.json.decode(QUOTE.replace(b"261.74", price.encode()), type=RestQuote)
    with pytest.raises(MalformedMessage):
        parse_quote(answer, "AAPL", NOW_NS)


def test_the_candles_of_the_documentation_are_of_the_days_that_begin_at_midnight_in_new_york():
    table = candles(CANDLES)
    assert table["ts"].cast("int64").to_pylist() == [parse_ns(f"2019-09-{day}") for day in (24, 25, 26)]
    assert table["open"].to_pylist() == [221.03, 218.55, 220.0]
    assert table["high"].to_pylist() == [222.49, 221.5, 220.94]
    assert table["low"].to_pylist() == [217.19, 217.1402, 218.83]
    assert table["close"].to_pylist() == [217.68, 221.03, 219.89]
    assert table["volume"].to_pylist() == [33463820.0, 24018876.0, 20730608.0]
    assert set(table["provider"].to_pylist()) == {"finnhub:adjusted"}


def test_days_stamped_with_midnight_utc_are_the_same_days():
    utc = CANDLES.replace(b"1569297600", b"1569283200")
    assert candles(utc).equals(candles(CANDLES))


def test_the_running_day_and_days_outside_the_span_are_left_out():
    table = candles(CANDLES, as_of_ns=parse_ns("2019-09-26T18:00:00Z"))
    assert table.num_rows == 2
    table = candles(CANDLES, start_ns=parse_ns("2019-09-25"), end_ns=parse_ns("2019-09-26"))
    assert table["close"].to_pylist() == [221.03]


def test_no_data_is_an_empty_table():
    assert candles(b'{"s":"no_data"}').num_rows == 0


@pytest.mark.parametrize(
    "raw",
    [
        b'{"s":"ok"}',
        b'{"s":"error"}',
        CANDLES.replace(b"217.68,", b""),
        CANDLES.replace(b"33463820,", b""),
        CANDLES.replace(b"1569297600", b"1569384000"),
    ],
)
def test_columns_that_do_not_fit_are_malformed(raw):
    with pytest.raises(MalformedMessage):
        candles(raw)


def test_a_minute_that_begins_between_two_is_malformed():
    raw = b'{"s":"ok","t":[1569297630],"o":[1],"h":[1],"l":[1],"c":[1],"v":[1]}'
    with pytest.raises(MalformedMessage):
        candles(raw, MINUTE)


def test_rates_without_volumes_have_none():
    raw = b'{"s":"ok","t":[1569297600],"o":[1.1],"h":[1.2],"l":[1.0],"c":[1.1]}'
    assert candles(raw, MINUTE)["volume"].to_pylist() == [None]


CHAIN = b"""{"code":"AAPL","exchange":"US","lastTradePrice":261.74,"data":[{"expirationDate":"2026-12-18","options":{
"CALL":[{"contractName":"AAPL261218C00260000","contractSize":"REGULAR","currency":"USD","strike":260,"lastPrice":9.1,
"bid":9.0,"ask":9.2,"volume":120,"openInterest":3400,"impliedVolatility":31.5,"delta":0.56,"gamma":0.017,
"theta":-0.12,"vega":0.28,"rho":0.1},{"contractName":"AAPL261218C00250000","strike":250,"bid":0,"ask":null}],
"PUT":[{"contractName":"AAPL261218P00260000","strike":260,"lastPrice":0,"impliedVolatility":0}]}},
{"expirationDate":"2027-01-15","options":{}}]}"""


def test_a_chain_in_our_units():
    answer = msgspec.json.decode(CHAIN, type=ChainAnswer)
    rows = parse_chain(answer, "AAPL", date(2026, 12, 18), NOW_NS, 0.01).to_pylist()
    assert [(row["strike"], row["right"], row["contract"]) for row in rows] == [
        (250.0, "call", "AAPL261218C00250000"),
        (260.0, "call", "AAPL261218C00260000"),
        (260.0, "put", "AAPL261218P00260000"),
    ]
    bare, full, put = rows
    assert (bare["bid"], bare["ask"], bare["last"], bare["multiplier"]) == (None, None, None, None)
    assert (full["bid"], full["ask"], full["last"], full["volume"]) == (9.0, 9.2, 9.1, 120.0)
    assert (full["open_interest"], full["multiplier"], full["currency"]) == (3400.0, 100.0, "USD")
    assert full["implied_volatility"] == pytest.approx(0.315)
    assert (full["delta"], full["theta"], full["underlying_price"]) == (0.56, -0.12, 261.74)
    assert (put["last"], put["implied_volatility"]) == (None, None)
    assert parse_chain(answer, "AAPL", date(2027, 1, 15), NOW_NS, 0.01).num_rows == 0


NAMES = Names({"AAPL": "AAPL", "EURUSD": "OANDA:EUR_USD"})
TRADES = (
    '{"data":[{"p":261.74,"s":"AAPL","t":1582641000123,"v":100,"c":["1","12"]},'
    '{"p":1.0841,"s":"OANDA:EUR_USD","t":1582641000124,"v":0},'
    '{"p":7296.89,"s":"BINANCE:BTCUSDT","t":1575526691134,"v":0.011467}],"type":"trade"}'
)


def test_trades_are_columns_and_a_tick_without_size_is_a_price():
    heard = read_messages([(1, TRADES), (2, '{"type":"ping"}'), (3, TRADES)], NAMES)
    batch = heard.ticks
    assert isinstance(batch, TickBatch)
    assert batch.symbols is NAMES.symbols
    assert [batch.symbols[at] for at in batch.symbol_index] == ["AAPL", "EURUSD", "AAPL", "EURUSD"]
    assert batch.flags.tolist() == [LAST | TRADE, LAST, LAST | TRADE, LAST]
    assert batch.time_event_ns.tolist()[:2] == [1582641000123000000, 1582641000124000000]
    assert batch.time_received_ns.tolist() == [1, 1, 3, 3]
    assert batch.last.tolist()[:2] == [261.74, 1.0841]
    assert batch.last_size[0] == 100.0
    assert np.isnan(batch.last_size[1])
    assert not heard.quarantined
    assert not heard.errors


@pytest.mark.parametrize("trade", ['"p":0,"v":1', '"p":-3,"v":1', '"p":3,"v":-1'])
def test_a_trade_that_cannot_be_is_quarantined_and_the_others_go_on(trade):
    raw = '{"type":"trade","data":[{"s":"AAPL","t":5,%s},{"s":"AAPL","t":6,"p":9.5,"v":2}]}' % trade  # noqa: UP031
    heard = read_messages([(7, raw)], NAMES)
    assert heard.ticks.last.tolist() == [9.5]
    (quarantined,) = heard.quarantined
    assert (quarantined.reason, quarantined.symbol, quarantined.time_received_ns) == ("malformed", "AAPL", 7)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "malformed"),
        ("[]", "malformed"),
        ('{"type":"trade","data":[{"s":"AAPL"}]}', "malformed"),
        ('{"type":"trade","data":[{"s":"AAPL","p":"9","t":1,"v":1}]}', "malformed"),
        ('{"type":"trade","data":[{"s":"AAPL","p":9,"t":99999999999999999,"v":1}]}', "malformed"),
        ('{"type":"news","data":[]}', "unknown_message"),
        ("[" * 100_000, "malformed"),
    ],
)
def test_what_is_not_as_documented_is_quarantined(raw, reason):
    heard = read_messages([(7, raw)], NAMES)
    assert [each.reason for each in heard.quarantined] == [reason]
    assert heard.ticks is None


def test_errors_are_handed_on_in_words():
    heard = read_messages([(7, '{"msg":"Subscribing to too many symbols","type":"error"}')], NAMES)
    assert heard.errors == ["Subscribing to too many symbols"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none(), st.text(max_size=4))
TICKS = st.fixed_dictionaries(
    {}, optional={"s": st.sampled_from(["AAPL", "X"]), "p": NUMBERS, "t": NUMBERS, "v": NUMBERS, "c": JSON}
)
MESSAGES = st.one_of(
    st.text(max_size=60),
    JSON.map(lambda value: msgspec.json.encode(value).decode() if _is_writable(value) else ""),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["trade", "ping", "error", "x"])}, optional={"data": st.lists(TICKS, max_size=3)}
    ).map(lambda value: msgspec.json.encode(value).decode() if _is_writable(value) else ""),
)


def _is_writable(value):
    try:
        msgspec.json.encode(value)
    except (ValueError, OverflowError):
        return False
    return True


@given(st.lists(st.tuples(st.integers(0, 2**60), MESSAGES), max_size=5))
def test_any_message_of_the_stream_is_rows_or_quarantined(messages):
    heard = read_messages(messages, NAMES)
    if heard.ticks is not None:
        assert len(heard.ticks) > 0
        assert (heard.ticks.last > 0).all()
        assert (heard.ticks.time_event_ns >= 0).all()
    assert all(isinstance(each, Quarantined) for each in heard.quarantined)


COLUMN = st.none() | st.lists(st.integers(-5, 2**40) | st.floats(allow_nan=False, allow_infinity=False), max_size=4)


@given(
    st.fixed_dictionaries(
        {"s": st.sampled_from(["ok", "no_data", ""])},
        optional=dict.fromkeys("tohlcv", COLUMN),
    ),
    st.sampled_from([MINUTE, DAY]),
)
def test_any_candles_are_a_table_or_malformed(value, interval):
    try:
        answer = msgspec.convert(value, Candles)
    except msgspec.ValidationError:
        return
    try:
        table = parse_candles(answer, symbol="A", interval=interval, start_ns=0, end_ns=FAR_NS, as_of_ns=NOW_NS)
    except MalformedMessage:
        return
    ts = table["ts"].cast("int64").to_pylist()
    assert ts == sorted(set(ts))
    assert all(at % interval.ns == 0 and at + interval.ns <= NOW_NS for at in ts)


@given(JSON)
def test_any_chain_is_a_table_or_malformed(value):
    data = [{"expirationDate": "2026-12-18", "options": {"CALL": [value], "PUT": [{"contractName": "X", "strike": 1}]}}]
    try:
        answer = msgspec.convert({"data": data}, ChainAnswer)
    except msgspec.ValidationError:
        return
    assert parse_chain(answer, "AAPL", date(2026, 12, 18), NOW_NS, 1.0).num_rows == 2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("AAPL", "AAPL"),
        ("BRK.B", "BRK.B"),
        ("0700.HK", "0700.HK"),
        ("^GSPC", "^GSPC"),
        ("EURUSD", "OANDA:EUR_USD"),
        ("XAUUSD", "OANDA:XAU_USD"),
        ("BTC-USDT", "BINANCE:BTCUSDT"),
        ("BTC-USD", "COINBASE:BTC-USD"),
    ],
)
def test_names_go_both_ways(ours, theirs):
    assert to_finnhub(ours) == theirs
    assert from_finnhub(theirs) == ours


@pytest.mark.parametrize("symbol", ["", "VOD.L", "a b", "BRK-B", "OANDA:EUR_USD", "AAPL\n", "\u0661"])
def test_what_is_no_name_of_ours_has_none_there(symbol):
    assert to_finnhub(symbol) is None


@pytest.mark.parametrize("name", ["EURUSD", "BTC-USD", "KRAKEN:XXBTZUSD", "OANDA:US30_USD", ""])
def test_what_no_rule_gives_has_no_name_here(name):
    assert from_finnhub(name) is None


@given(st.text(max_size=12) | st.from_regex(r"[A-Z^:._-]{1,12}", fullmatch=True))
def test_every_name_comes_back_as_itself(symbol):
    theirs = to_finnhub(symbol)
    assert theirs is None or from_finnhub(theirs) == symbol


def test_markets_have_paths_of_their_own():
    assert [market_of(name) for name in ("AAPL", "OANDA:EUR_USD", "FXCM:EUR/USD", "BINANCE:BTCUSDT")] == [
        "stock",
        "forex",
        "forex",
        "crypto",
    ]
