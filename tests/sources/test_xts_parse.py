"""Payloads in the shapes that were documented and recorded, and what they mean; expected values are typed by hand."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import MalformedMessage
from marketd.model import BAR_SCHEMA, Interval, MarketState, Quarantined, Quote, parse_ns, starts_of
from marketd.sources.xts import engineio
from marketd.sources.xts.parse import (
    Reader,
    parse_index_list,
    parse_master,
    parse_message,
    parse_ohlc,
    quote_of,
    read_touch,
    time_ns,
)
from marketd.sources.xts.symbols import MASTER_SCHEMA

# seconds since 1980 on India's wall clock: 1420629367 is 2025-01-06 11:16:07 there
RECEIVED_NS = parse_ns("2025-01-06T05:46:08.250Z")
AT_NS = parse_ns("2025-01-06T05:46:07Z")

LINE = {
    "LastTradedPrice": 1650.5,
    "LastTradedQunatity": 10,
    "TotalBuyQuantity": 1200,
    "TotalSellQuantity": 900,
    "TotalTradedQuantity": 50211,
    "AverageTradedPrice": 1648.2,
    "LastTradedTime": 1420629360,
    "LastUpdateTime": 1420629366,
    "PercentChange": 0.38,
    "Open": 1645,
    "High": 1655,
    "Low": 1640.05,
    "Close": 1644.1,
    "TotalValueTraded": None,
    "AskInfo": {"Size": 15, "Price": 1650.6, "TotalOrders": 1, "BuyBackMarketMaker": 0},
    "BidInfo": {"Size": 119, "Price": 1650.4, "TotalOrders": 3, "BuyBackMarketMaker": 0},
}
FLAT = {"MessageCode": 1501, "ExchangeSegment": 1, "ExchangeInstrumentID": 22, **LINE, "XMarketType": 1, "BookType": 1}
NESTED = {
    "MessageCode": 1501,
    "MessageVersion": 4,
    "ApplicationType": 0,
    "TokenID": 0,
    "ExchangeSegment": 1,
    "ExchangeInstrumentID": 22,
    "ExchangeTimeStamp": 1420629367,
    "Touchline": {**LINE, "BuyBackTotalBuy": 0, "BuyBackTotalSell": 0},
    "BookType": 1,
    "XMarketType": 1,
    "SequenceNumber": 1583105129732134,
}
FIVE = [{"Size": 407, "Price": 1269.35 - step, "TotalOrders": 1, "BuyBackMarketMaker": 0} for step in range(5)]
DEPTH = {**NESTED, "MessageCode": 1502, "Bids": FIVE, "Asks": FIVE}


def event(name, payload):
    """As on the wire: JSON text inside JSON."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return "42" + json.dumps([name, text])


def quote(**fields):
    return Quote(
        symbol="NSECM:22",
        time_received_ns=RECEIVED_NS,
        source="xts",
        **{
            "time_event_ns": AT_NS,
            "bid": 1650.4,
            "ask": 1650.6,
            "bid_size": 119.0,
            "ask_size": 15.0,
            "last": 1650.5,
            "volume": 50211.0,
            **fields,
        },
    )


def test_a_flat_touchline_is_a_quote_of_its_last_update():
    flat = parse_message(event("1501-json-full", FLAT), RECEIVED_NS)
    assert flat == [quote(time_event_ns=parse_ns("2025-01-06T05:46:06Z"))]


def test_a_nested_touchline_has_the_exchanges_time():
    assert parse_message(event("1501-json-full", NESTED), RECEIVED_NS) == [quote()]


def test_depth_is_read_at_its_touchline():
    assert parse_message(event("1502-json-full", DEPTH), RECEIVED_NS) == [quote()]


def test_a_payload_that_is_an_object_is_read_too():
    assert parse_message("42" + json.dumps(["1501-json-full", NESTED]), RECEIVED_NS) == [quote()]


def test_a_namespace_and_an_acknowledgement_id_are_skipped():
    assert parse_message("42/feed,17" + event("1501-json-full", NESTED)[2:], RECEIVED_NS) == [quote()]


def test_both_spellings_of_the_quantity_are_the_same_quote():
    other = {("LastTradedQuantity" if k == "LastTradedQunatity" else k): v for k, v in FLAT.items()}
    assert parse_message(event("1501-json-full", other), RECEIVED_NS)[0].last == 1650.5


def test_an_index_has_neither_book_nor_volume():
    nothing = {"Size": 0, "Price": 0, "TotalOrders": 0, "BuyBackMarketMaker": 0}
    index = {**FLAT, "TotalTradedQuantity": 0, "AskInfo": nothing, "BidInfo": nothing, "LastTradedPrice": 24037.35}
    (got,) = parse_message(event("1501-json-full", index), RECEIVED_NS)
    assert (got.bid, got.ask, got.bid_size, got.ask_size, got.last, got.volume) == (
        None, None, None, None, 24037.35, None,
    )  # fmt: skip


def test_an_empty_side_is_absent_and_no_trade_yet_is_a_volume_of_zero():
    early = {**FLAT, "AskInfo": {"Size": 0, "Price": 0}, "LastTradedPrice": 0, "TotalTradedQuantity": 0}
    (got,) = parse_message(event("1501-json-full", early), RECEIVED_NS)
    assert (got.bid, got.ask, got.last, got.volume) == (1650.4, None, None, 0.0)


def test_what_states_no_price_is_no_quote():
    silent = {"MessageCode": 1501, "ExchangeSegment": 1, "ExchangeInstrumentID": 22, "LastUpdateTime": 0}
    assert parse_message(event("1501-json-full", silent), RECEIVED_NS) == []


@pytest.mark.parametrize(
    ("seconds", "times", "received", "expected"),
    [
        (1420629367, "auto", "2025-01-06T05:46:08Z", "2025-01-06T05:46:07Z"),
        (1420629367, "since_1980", "2025-01-06T05:46:08Z", "2025-01-06T05:46:07Z"),
        # Unix-shaped: 2024-03-19 10:57:33 in India
        (1710845853, "auto", "2024-03-19T05:27:34Z", "2024-03-19T05:27:33Z"),
        (1710845853, "unix_ist", "2024-03-19T05:27:34Z", "2024-03-19T05:27:33Z"),
        (1710845853, "unix_utc", "2024-03-19T10:57:34Z", "2024-03-19T10:57:33Z"),
        # a quote of last week, of either kind
        (1420629367, "auto", "2025-01-13T05:46:08Z", "2025-01-06T05:46:07Z"),
        (1710845853, "auto", "2024-03-26T05:27:34Z", "2024-03-19T05:27:33Z"),
    ],
)
def test_seconds_of_either_kind_become_utc(seconds, times, received, expected):
    assert time_ns(seconds, parse_ns(received), times) == parse_ns(expected)


def test_a_quote_from_the_future_is_refused_and_says_what_to_look_at():
    ahead = {**NESTED, "ExchangeTimeStamp": 1420629367 + 302}
    (refused,) = parse_message(event("1501-json-full", ahead), RECEIVED_NS)
    assert (refused.reason, refused.symbol) == ("time_ahead", "NSECM:22")
    assert refused.detail == "NSECM:22: dated 301 s ahead; is `times` right for this broker?"
    near = {**NESTED, "ExchangeTimeStamp": 1420629367 + 300}
    assert isinstance(parse_message(event("1501-json-full", near), RECEIVED_NS)[0], Quote)


def test_a_reader_gives_the_names_that_are_wanted_and_no_others():
    reader = Reader({(1, 22): ("ACC", "NSECM:22")})
    assert reader.read(event("1501-json-full", NESTED), RECEIVED_NS) == [
        named(quote()),
        quote(),
    ]
    other = {**NESTED, "ExchangeInstrumentID": 23}
    assert reader.read(event("1501-json-full", other), RECEIVED_NS) == []


def as_dict(value):
    return {name: getattr(value, name) for name in value.__struct_fields__}


def test_noise_and_other_messages_are_counted_and_say_nothing():
    reader = Reader()
    for packet in (
        event("1105-json-partial", "t:2_128677,8:1419724800,18:01-01-1980 00:00:00,24:\x00\x00,28:175"),
        event("1505-json-full", {"MessageCode": 1505, "BarTime": 1736164979}),
        event("joined", {"type": "success"}),
        '42["xts-binary-packet",{"_placeholder":true,"num":0}]',
        '42["lonely"]',
        "42[]",
        "40",
        "3",
        "",
    ):
        assert reader.read(packet, RECEIVED_NS) == []
    assert reader.ignored == {"1105-json-partial": 1, "1505-json-full": 1, "joined": 1, "xts-binary-packet": 1,
                              "lonely": 1, "": 1}  # fmt: skip


def test_names_of_unknown_messages_are_not_collected_for_ever():
    reader = Reader()
    for number in range(500):
        reader.read(event(f"new-{number}" + "x" * 1_000, "{}"), RECEIVED_NS)
    assert len(reader.ignored) == 100
    assert max(map(len, reader.ignored)) == 100


@pytest.mark.parametrize(
    "packet",
    [
        "42",
        "42[",
        "42{}",
        '42["1501-json-full","{"]',
        event("1501-json-full", {**FLAT, "ExchangeInstrumentID": None}),
        event("1501-json-full", {**FLAT, "LastTradedPrice": "1650.5"}),
        event("1501-json-full", {**FLAT, "LastUpdateTime": 0, "LastTradedTime": 0}),
        event("1501-json-full", {**FLAT, "LastUpdateTime": 10**18}),
        event("1501-json-full", "[]"),
        event("1507-json-full", "{}"),
        '42["1501-json-full",' + "[" * 5_000 + "]" * 5_000 + "]",
    ],
)
def test_what_is_not_as_documented_is_one_quarantined(packet):
    (refused,) = parse_message(packet, RECEIVED_NS)
    assert isinstance(refused, Quarantined)
    assert refused.reason == "malformed"
    assert packet[:20] in refused.detail


def test_changes_alone_are_completed_from_what_was_told_before():
    reader = Reader({(1, 22): ("ACC",)}, merge=True)
    first = (
        "t:1_22,ltp:1650.5,ltq:10,tb:1200,ts:900,v:50211,ap:1648.2,pc:0.4,lut:1420629367,ltt:1420629367,o:1645,h:1655,"
        "l:1640.05,c:1644.1,ai:0|15|1650.60|1,bi:0|119|1650.40|3"
    )
    assert reader.read(event("1501-json-partial", first), RECEIVED_NS) == [named(quote())]
    later = "t:1_22,ltp:1650.6,v:50221,lut:1420629368"
    assert reader.read(event("1501-json-partial", later), RECEIVED_NS) == [
        named(quote(last=1650.6, volume=50221.0, time_event_ns=parse_ns("2025-01-06T05:46:08Z")))
    ]
    # the same as an object, numbers as numbers
    side = {"t": "1_22", "ai": "0|7|1650.65|1", "ltp": 1650.55}
    packet = "42" + json.dumps(["1501-json-partial", side])
    assert reader.read(packet, RECEIVED_NS) == [
        named(
            quote(
                last=1650.55, volume=50221.0, ask=1650.65, ask_size=7.0, time_event_ns=parse_ns("2025-01-06T05:46:08Z")
            )
        )
    ]
    # a whole quote begins anew
    assert reader.read(event("1501-json-full", NESTED), RECEIVED_NS) == [named(quote())]
    assert reader.read(event("1501-json-partial", "t:1_22,lut:1420629367"), RECEIVED_NS) == [named(quote())]


def named(value):
    return Quote(**{**as_dict(value), "symbol": "ACC"})


@pytest.mark.parametrize(
    "payload",
    ["", "t:", "t:1_22,ltp:abc", "t:1_22,lut:1.5", "t:1_22,ai:0|1", "t:x_22", "t:1_22,bi:0|1|--2|3", "t:1_22,v:1e5"],
)
def test_changes_that_cannot_be_read_are_quarantined(payload):
    (refused,) = Reader({(1, 22): ("ACC",)}, merge=True).read(event("1501-json-partial", payload), RECEIVED_NS)
    assert refused.reason == "malformed"


def test_changes_without_what_was_told_before_say_nothing():
    assert parse_message(event("1501-json-partial", "t:1_22,ltp:1650.5"), RECEIVED_NS) == []


def test_the_ordinary_market_opens_and_closes_for_its_segment():
    status = {
        "MessageCode": 1507, "ExchangeSegment": 2, "ExchangeInstrumentID": 0, "ExchangeTimeStamp": 1415460600,
        "exchangeSegment": 2, "tradingSession": 4, "maketType": 1,
        "message": "THE REGULAR SEGMENT HAS CLOSED FOR 07 NOV 2024", "SequenceNumber": 1,
    }  # fmt: skip
    reader = Reader({(1, 22): ("ACC",), (2, 7): ("NIFTY26JUNFUT",)})
    assert reader.read(event("1507-json-full", status), RECEIVED_NS) == [
        MarketState(source="xts", symbol="NIFTY26JUNFUT", time_received_ns=RECEIVED_NS, state="closed")
    ]
    opened = {**status, "exchangeSegment": 1, "message": "THE NORMAL MARKET HAS OPENED FOR 06 JAN 2025"}
    assert [e.state for e in reader.read(event("1507-json-full", opened), RECEIVED_NS)] == ["open"]
    auction = {**opened, "maketType": 6, "message": "THE CALL AUCTION 2 MARKET HAS OPENED FOR SESSION: 5"}
    assert reader.read(event("1507-json-full", auction), RECEIVED_NS) == []


# Bars

MINUTE = Interval.parse("1m")
# 09:15:59, 09:16:59 and 09:18:59 of India's wall clock, 2025-01-06
ROWS = (
    "1736154959|24037.35|24054.95|24022.9|24045.15|1200|0|,"
    "1736155019|24045.15|24046|24040.1|24041|350|0|,"
    "1736155139|24041|24050|24041|24049.5|90|0|"
)


def ohlc(text, interval=MINUTE, **changes):
    given = {
        "symbol": "ACC",
        "start_ns": parse_ns("2025-01-01"),
        "end_ns": parse_ns("2025-02-01"),
        "as_of_ns": parse_ns("2025-02-01"),
        "index": False,
        "cash": True,
        **changes,
    }
    return parse_ohlc(text, interval=interval, **given)


def starts(table):
    return [np.datetime_as_string(value, "s") for value in starts_of(table).astype("datetime64[ns]")]


def test_bars_are_stamped_with_their_start_in_utc():
    table = ohlc(ROWS)
    assert table.schema.equals(BAR_SCHEMA)
    assert starts(table) == ["2025-01-06T03:45:00", "2025-01-06T03:46:00", "2025-01-06T03:48:00"]
    assert table.select(["open", "high", "low", "close", "volume"]).to_pylist()[0] == {
        "open": 24037.35, "high": 24054.95, "low": 24022.9, "close": 24045.15, "volume": 1200.0,
    }  # fmt: skip
    assert table["as_of"].to_numpy().astype(np.int64).tolist() == [parse_ns("2025-02-01")] * 3
    assert set(table["provider"].to_pylist()) == {"xts"}
    assert set(table["side"].to_pylist()) == {"trade"}
    assert table["vwap"].null_count == table["trades"].null_count == 3


def test_longer_bars_begin_at_their_first_minute():
    # 09:19:59 and 09:29:59
    assert starts(ohlc("1736155199|1|2|1|2|5|0|", Interval.parse("5m"))) == ["2025-01-06T03:45:00"]
    assert starts(ohlc("1736155799|1|2|1|2|5|0|", Interval.parse("15m"))) == ["2025-01-06T03:45:00"]


def test_a_days_bar_has_the_date_it_is_of():
    # 15:29:59 of 2025-01-06 in India, which is ten o'clock in Greenwich
    assert starts(ohlc("1736177399|1|2|1|2|5|0|", Interval.parse("1d"))) == ["2025-01-06T00:00:00"]


@pytest.mark.parametrize(
    ("cash", "as_of", "there"),
    [
        (True, "2025-01-06T10:29:59Z", False),  # 15:59:59 in India
        (True, "2025-01-06T10:30:00Z", True),
        (False, "2025-01-06T18:29:59Z", False),  # a second before midnight there
        (False, "2025-01-06T18:30:00Z", True),
    ],
)
def test_a_day_is_over_when_its_market_is(cash, as_of, there):
    got = ohlc("1736177399|1|2|1|2|5|0|", Interval.parse("1d"), cash=cash, as_of_ns=parse_ns(as_of))
    assert got.num_rows == there


def test_the_running_minute_and_minutes_beyond_the_span_are_left_out():
    cut = ohlc(ROWS, start_ns=parse_ns("2025-01-06T03:45:01Z"), end_ns=parse_ns("2025-01-06T03:48:00Z"))
    assert starts(cut) == ["2025-01-06T03:46:00"]
    running = ohlc(ROWS, as_of_ns=parse_ns("2025-01-06T03:48:59.999Z"))
    assert starts(running)[-1] == "2025-01-06T03:46:00"
    assert starts(ohlc(ROWS, as_of_ns=parse_ns("2025-01-06T03:49:00Z")))[-1] == "2025-01-06T03:48:00"


def test_a_minute_of_no_volume_is_one_without_trades_but_of_an_index():
    text = "1736154959|1|2|1|2|5|0|,1736155019|2|2|2|2|0|0|,1736155079|2|3|2|3|0|0|"
    got = ohlc(text)
    assert starts(got) == ["2025-01-06T03:45:00", "2025-01-06T03:47:00"]
    assert got["volume"].to_pylist() == [5.0, None]  # the price moved, so its volume is not known
    index = ohlc(text, index=True)
    assert index.num_rows == 3
    assert index["volume"].null_count == 3


def test_rows_in_another_order_are_sorted_and_no_rows_are_an_empty_table():
    backwards = ",".join(reversed(ROWS.split(",")))
    assert ohlc(backwards).equals(ohlc(ROWS))
    for text in ("", ",", "1736154959|1|2|1|2|5|0|,"):
        assert ohlc(text).num_rows == ("|" in text)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "1736154959|1|2|1|2|5|0|,1736155019|1|2|1|2|5|0|1|",  # rows of different lengths
        "1736154959|1|2|1|2|",
        "1736154959|1|2|1|x|5|0|",
        "1736154959|1|nan|1|2|5|0|",
        "1736154959|1|inf|1|2|5|0|",
        "1736154959.5|1|2|1|2|5|0|",
        "-5|1|2|1|2|5|0|",
        "99999999999|1|2|1|2|5|0|",
        "1736154959|1|2|1|2|5|0|,1736154959|1|2|1|2|5|0|",  # twice
        "1736154900|1|2|1|2|5|0|,1736154960|1|2|1|2|5|0|",  # whole minutes: start or end, nobody can tell
    ],
)
def test_bars_that_cannot_be_read_are_malformed(text):
    with pytest.raises(MalformedMessage):
        ohlc(text)


# Instruments

MASTER = """\
NSECM|2885|8|RELIANCE|RELIANCE-EQ|EQ|RELIANCE-EQ|1100100002885|1440.4|1178.6|67662|0.1|1|1|RELIANCE|INE002A01018|1|1|RELIANCE INDUSTRIES LTD-EQ|0|-1|-1
NSEFO|62329|1|NIFTY|NIFTY26JUNFUT|FUTIDX|NIFTY-FUTIDX|2618100062329|26237.7|21467.3|1801|0.1|65|1|-1|Nifty 50|2026-06-30T14:30:00|NIFTY 30JUN2026|1|1|NIFTY26JUNFUT
NSEFO|48225|2|NIFTY|NIFTY2621725700PE|OPTIDX|NIFTY-OPTIDX|2604800048225|588.1|14.5|1801|0.05|65|1|-1|Nifty 50|2026-02-17T14:30:00|25700|4|NIFTY 17FEB2026 PE 25700|1|1|NIFTY2621725700PE
NSEFO|9028052|4|GAIL|GAIL26JUN26JULFUT|FUTSTK|GAIL-FUTSTK|2100109028052|12.85|-12.85|40001|0.05|1000|1|-1||2026-06-30T14:30:00|GAIL 30JUN28JUL SPD|1|1|GAIL26JUN26JULFUT
"""  # noqa: E501


def test_every_shape_of_the_master_is_read():
    table = parse_master(MASTER)
    assert table.schema.equals(MASTER_SCHEMA)
    share, future, option, spread = table.to_pylist()
    assert share == {
        "symbol": "", "segment": "NSECM", "id": 2885, "kind": "equity", "name": "RELIANCE",
        "description": "RELIANCE-EQ", "series": "EQ", "isin": "INE002A01018", "lot": 1.0, "tick": 0.1,
        "expiry": None, "strike": None, "right": None,
    }  # fmt: skip
    assert [future[name] for name in ("kind", "description", "lot", "expiry", "strike", "isin")] == [
        "future", "NIFTY26JUNFUT", 65.0, date(2026, 6, 30), None, None,
    ]  # fmt: skip
    assert [option[name] for name in ("kind", "lot", "tick", "expiry", "strike", "right")] == [
        "option", 65.0, 0.05, date(2026, 2, 17), 25700.0, "put",
    ]  # fmt: skip
    assert [spread[name] for name in ("kind", "expiry")] == ["spread", date(2026, 6, 30)]


def test_lines_that_are_no_instruments_are_left_out():
    header = "ExchangeSegment|ExchangeInstrumentID|InstrumentType|Name\r\n"
    assert parse_master(header + "\n\nNSECM|22\n" + MASTER.replace("\n", "\r\n") + "|||").num_rows == 5
    assert parse_master("\n \n").num_rows == 0
    for text in ("<html>", header, "NSEFO|1|1|A|A|A|A|1|1|1|1|1|1|1|-1||2026-13-40T14:30:00|x"):
        with pytest.raises(MalformedMessage):
            parse_master(text)


def test_indices_are_named_before_the_last_underscore():
    table = parse_index_list(["NIFTY 50_26000", "Nifty_Bank_26001", "none", "_5", "x_y"], "NSECM")
    assert [(row["name"], row["id"], row["kind"], row["segment"]) for row in table.to_pylist()] == [
        ("NIFTY 50", 26000, "index", "NSECM"), ("NIFTY_BANK", 26001, "index", "NSECM"),
    ]  # fmt: skip


# Engine.IO

HELLO = '0{"sid":"jOF0UlgslsOZKUn_AAAQ","upgrades":[],"pingInterval":20000,"pingTimeout":60000}'


def test_the_first_packet_says_how_often_to_ping():
    begun = engineio.opened("xts", HELLO)
    assert (begun.sid, begun.upgrades, begun.ping_interval, begun.ping_timeout) == (
        "jOF0UlgslsOZKUn_AAAQ", (), 20_000, 60_000,
    )  # fmt: skip


@pytest.mark.parametrize("packet", ["", "0", "0{}", "40", HELLO[1:], '0{"sid":1}', "0" + "[" * 9_999])
def test_another_first_packet_is_malformed(packet):
    with pytest.raises(MalformedMessage):
        engineio.opened("xts", packet)


def test_polled_packets_are_counted_as_javascript_counts():
    assert engineio.packets("xts", "5:42[1]2:40") == ["42[1]", "40"]
    assert engineio.packets("xts", "3:a€b1:3") == ["a€b", "3"]
    # beyond the first 65,536 characters each counts twice
    assert engineio.packets("xts", "4:a🚀b1:3") == ["a🚀b", "3"]
    assert engineio.packets("xts", "") == []


@pytest.mark.parametrize("payload", ["x", "5:42", ":40", "1", "2:402:", "-1:4", "99999999999:4"])
def test_polled_packets_that_do_not_fit_are_malformed(payload):
    with pytest.raises(MalformedMessage):
        engineio.packets("xts", payload)


def test_a_fetched_message_reads_as_the_event_it_would_have_been():
    text = json.dumps(NESTED)
    assert engineio.event_of(engineio.event_text("1501-json-full", text)) == ("1501-json-full", text)


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["1501-json-full", "1501-json-partial", "1502-json-full", "1507-json-full", "1105-json-partial", "joined"]
)
FIELD = st.sampled_from(sorted({*FLAT, *NESTED, "exchangeSegment", "maketType", "message"}))


@given(st.text() | st.text().map(lambda text: "42" + text), st.integers(0, 2**62))
def test_no_text_breaks_the_reader(text, received_ns):
    for event_ in Reader(merge=True).read(text, received_ns):
        assert isinstance(event_, Quote | Quarantined)


@given(NAMES, JSON, st.dictionaries(FIELD, JSON, max_size=3), st.booleans())
def test_no_payload_breaks_the_reader(name, payload, changes, wrapped):
    reader = Reader({(1, 22): ("ACC",)}, merge=True)
    for body in (payload, {**NESTED, **changes}, {**FLAT, **changes}):
        packet = event(name, json.dumps(body)) if wrapped else "42" + json.dumps([name, body])
        for event_ in reader.read(packet, RECEIVED_NS):
            assert isinstance(event_, Quote | Quarantined | MarketState)
            if isinstance(event_, Quote):
                for value in (event_.bid, event_.ask, event_.last, event_.volume):
                    assert value is None or np.isfinite(value)


@given(st.text(alphabet="0123456789|,.-enaif ", max_size=120) | st.text(max_size=60), st.sampled_from(["1m", "1d"]))
def test_no_text_breaks_the_bars(text, interval):
    try:
        table = ohlc(text, Interval.parse(interval))
    except MalformedMessage:
        return
    assert (np.diff(starts_of(table)) > 0).all()
    for name in ("open", "high", "low", "close"):
        assert np.isfinite(table[name].to_numpy()).all()


@given(st.lists(st.lists(st.sampled_from(["NSECM", "NSEFO", "8", "2", "1", "x", "", "2026-06-30T14:30:00", "-1", "1e9",
                                          "2026-99-99", "\U0001f680", "25700"]), max_size=26), max_size=6))  # fmt: skip
def test_no_text_breaks_the_master(lines):
    try:
        table = parse_master("\n".join("|".join(cells) for cells in lines))
    except MalformedMessage:
        return
    assert table.schema.equals(MASTER_SCHEMA)
    assert isinstance(table, pa.Table)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_the_handshake(packet, payload):
    for read, text in ((engineio.opened, packet), (engineio.packets, payload)):
        try:
            read("xts", text)
        except MalformedMessage:
            continue


def test_one_of_their_quotes_by_request_reads_like_the_stream():
    assert quote_of(read_touch(json.dumps(NESTED)), "NSECM:22", RECEIVED_NS) == quote()
