"""What IG sends, typed by hand from its documentation, as our values; and nothing breaks the parsers."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import InvalidInput, MalformedMessage, MarketClosed
from marketd.model import BAR_SCHEMA, Interval, MarketState, Quote, parse_ns, starts_of
from marketd.sources.ig import ENTRY, IgConfig
from marketd.sources.ig.parse import (
    CHANNELS,
    MarketAnswer,
    PricesAnswer,
    parse_bars,
    parse_snapshot,
    parse_state,
    parse_update,
    state_of,
)
from marketd.sources.ig.symbols import symbol_map

NOW_NS = parse_ns("2026-11-20T14:30:20.5Z")
MINUTE = Interval.parse("1m")
PRICE, TICK, MARKET = CHANNELS["price"], CHANNELS["chart_tick"], CHANNELS["market"]


def test_a_price_is_a_quote_in_the_providers_milliseconds():
    values = ["1.15801", "1.15807", "1795184999123", "500000", "1000000", "DEAL", "0"]
    assert parse_update(PRICE, values, "EURUSD", NOW_NS) == Quote(
        symbol="EURUSD",
        time_event_ns=1_795_184_999_123_000_000,
        time_received_ns=NOW_NS,
        source="ig",
        bid=1.15801,
        ask=1.15807,
        bid_size=500_000.0,
        ask_size=1_000_000.0,
    )
    state = MarketState(source="ig", symbol="EURUSD", time_received_ns=NOW_NS, state="open", delayed=False)
    assert parse_state(PRICE, values, "EURUSD", NOW_NS) == state


def test_a_chart_tick_has_a_last_price_where_there_is_one():
    quote = parse_update(TICK, ["99.5", "99.7", "1795184999000", None], "UK100", NOW_NS)
    assert (quote.bid, quote.ask, quote.last, quote.bid_size) == (99.5, 99.7, None, None)
    assert parse_update(TICK, ["99.5", "99.7", "1795184999000", "99.6"], "UK100", NOW_NS).last == 99.6
    assert parse_state(TICK, ["99.5", "99.7", "1795184999000", None], "UK100", NOW_NS) is None


@pytest.mark.parametrize(
    ("received", "shown", "expected"),
    [
        ("2026-11-20T14:30:20Z", "14:30:19", "2026-11-20T14:30:19Z"),  # winter: London is UTC
        ("2026-07-20T14:30:20Z", "15:30:19", "2026-07-20T14:30:19Z"),  # summer: an hour ahead
        ("2026-07-20T23:00:05Z", "23:59:58", "2026-07-20T22:59:58Z"),  # midnight in London has passed
        ("2026-11-21T00:00:01Z", "23:59:59", "2026-11-20T23:59:59Z"),
        ("2026-11-20T23:59:59Z", "00:00:00", "2026-11-21T00:00:00Z"),  # its clock is a little ahead
        ("2026-10-25T00:30:10Z", "01:30:09", "2026-10-25T00:30:09Z"),  # first of the hour that comes twice
        ("2026-10-25T01:30:10Z", "01:30:09", "2026-10-25T01:30:09Z"),  # and second
    ],
)
def test_a_time_of_day_in_london_is_the_last_such_moment(received, shown, expected):
    quote = parse_update(MARKET, ["1", "2", shown, "TRADEABLE", "0"], "X", parse_ns(received))
    assert quote.time_event_ns == parse_ns(expected)


def test_absent_is_none_and_a_quote_without_price_or_time_is_none():
    quote = parse_update(PRICE, [None, "1.5", "1795184999123", None, "", None, None], "X", NOW_NS)
    assert (quote.bid, quote.ask, quote.bid_size, quote.ask_size) == (None, 1.5, None, None)
    assert parse_update(PRICE, ["0", "0.0", "1795184999123", None, None, None, None], "X", NOW_NS) is None
    assert parse_update(PRICE, ["1", "2", None, None, None, "DEAL", "0"], "X", NOW_NS) is None
    assert parse_state(PRICE, ["1", "2", "1", None, None, None, None], "X", NOW_NS) is None


def test_a_contract_in_points_is_divided():
    quote = parse_update(
        PRICE, ["11580.1", "11580.7", "1795184999123", "1", "2", "DEAL", "0"], "EURUSD", NOW_NS, 10_000.0
    )
    assert (quote.bid, quote.ask, quote.bid_size) == (1.15801, 1.15807, 1.0)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("TRADEABLE", "open"), ("DEAL", "open"), ("DEALNOEDIT", "open"), ("CLOSINGSONLY", "open"),
        ("CLOSED", "closed"), ("EDIT", "closed"), ("OFFLINE", "offline"), ("CALL", "offline"),
        ("AUCTION", "auction"), ("AUCTION_NO_EDIT", "auction"), ("AUCTIONNOEDIT", "auction"),
        ("SUSPENDED", "suspended"), ("SUSPEND", "suspended"),
    ],
)  # fmt: skip
def test_states_of_both_vocabularies(word, state):
    assert state_of(word) == state


@pytest.mark.parametrize(
    "values",
    [
        ["nan", "1", "1795184999123", "1", "1"],
        ["1_0", "1", "1795184999123", "1", "1"],
        ["1e999", "1", "1795184999123", "1", "1"],
        ["٣", "1", "1795184999123", "1", "1"],
        ["1", "1", "yesterday", "1", "1"],
        ["1", "1", "-5", "1", "1"],
        ["1", "1", "9" * 30, "1", "1"],
        ["1", "1", "1795184999123", "many", "1"],
    ],
)
def test_what_is_no_number_or_time_is_told(values):
    with pytest.raises(ValueError):
        parse_update(PRICE, [*values, "DEAL", "0"], "X", NOW_NS)


_TEXT = st.none() | st.text(max_size=12) | st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,9})?", fullmatch=True)


@given(st.sampled_from(list(CHANNELS)), st.data())
def test_no_fields_break_the_parsers(name, data):
    channel = CHANNELS[name]
    values = data.draw(st.lists(_TEXT, min_size=len(channel.fields), max_size=len(channel.fields)))
    with contextlib.suppress(ValueError):
        quote = parse_update(channel, values, "X", NOW_NS)
        numbers = () if quote is None else (quote.bid, quote.ask, quote.last, quote.bid_size, quote.ask_size)
        assert all(v is None or abs(v) < float("inf") for v in numbers)
    with contextlib.suppress(ValueError):
        parse_state(channel, values, "X", NOW_NS)


# REST

MARKET_V3 = {
    "instrument": {"epic": "CS.D.EURUSD.MINI.IP", "name": "EUR/USD Mini", "type": "CURRENCIES", "expiry": "-"},
    "dealingRules": {"minDealSize": {"unit": "POINTS", "value": 0.1}},
    "snapshot": {
        "marketStatus": "TRADEABLE",
        "netChange": -0.00102,
        "updateTime": "14:30:11",
        "delayTime": 0,
        "bid": 1.15801,
        "offer": 1.15807,
        "high": 1.16,
        "low": 1.15,
        "binaryOdds": None,
        "scalingFactor": 10000,
    },
}


def market(**snapshot):
    return msgspec.json.decode(
        json.dumps({**MARKET_V3, "snapshot": {**MARKET_V3["snapshot"], **snapshot}}), type=MarketAnswer
    )


def test_a_market_is_a_quote_at_the_accounts_time_of_day():
    quote = parse_snapshot(market().snapshot, "EURUSD", NOW_NS, offset_hours=0)
    assert (quote.bid, quote.ask, quote.last) == (1.15801, 1.15807, None)
    assert quote.time_event_ns == parse_ns("2026-11-20T14:30:11Z")
    east = parse_snapshot(market(updateTime="01:30:11").snapshot, "EURUSD", NOW_NS, offset_hours=11)
    assert east.time_event_ns == parse_ns("2026-11-20T14:30:11Z")
    before_midnight = parse_snapshot(market(updateTime="23:59:00").snapshot, "EURUSD", NOW_NS, offset_hours=0)
    assert before_midnight.time_event_ns == parse_ns("2026-11-19T23:59:00Z")


@pytest.mark.parametrize(
    "snapshot",
    [{"marketStatus": "CLOSED"}, {"marketStatus": "OFFLINE"}, {"marketStatus": "EDIT"}, {"bid": None, "offer": None}],
)
def test_a_closed_market_is_said_to_be(snapshot):
    with pytest.raises(MarketClosed, match="EURUSD: the market is"):
        parse_snapshot(market(**snapshot).snapshot, "EURUSD", NOW_NS, offset_hours=0)


@pytest.mark.parametrize("time", [None, "", "25:00:00", "12:00", "12:00:00Z"])
def test_a_market_without_a_time_is_malformed(time):
    with pytest.raises(MalformedMessage, match="no time of day"):
        parse_snapshot(market(updateTime=time).snapshot, "EURUSD", NOW_NS, offset_hours=0)


def row(start, bid=(1.0, 1.2, 0.9, 1.1), ask=(1.5, 1.7, 1.4, 1.6), ticks=7):
    names = ("openPrice", "highPrice", "lowPrice", "closePrice")
    prices = {n: {"bid": b, "ask": a, "lastTraded": None} for n, b, a in zip(names, bid, ask, strict=True)}
    return {"snapshotTime": "2020/09/01 05:00:00", "snapshotTimeUTC": start, **prices, "lastTradedVolume": ticks}


def answer(*rows):
    body = {
        "prices": rows,
        "instrumentType": "CURRENCIES",
        "metadata": {
            "allowance": {"remainingAllowance": 500, "totalAllowance": 10000, "allowanceExpiry": 50000},
            "size": len(rows),
            "pageData": {"pageSize": 0, "pageNumber": 1, "totalPages": 1},
        },
    }
    return msgspec.json.decode(json.dumps(body), type=PricesAnswer).prices


def bars(
    *rows, sides=("bid", "ask"), start="2020-09-01T04:00Z", end="2020-09-01T05:00Z", as_of="2020-09-01T06:00Z", **more
):
    return parse_bars(
        answer(*rows),
        symbol="EURUSD",
        interval=MINUTE,
        sides=sides,
        start_ns=parse_ns(start),
        end_ns=parse_ns(end),
        as_of_ns=parse_ns(as_of),
        **more,
    )


def test_prices_are_bars_of_bids_and_asks_in_utc():
    table = bars(row("2020-09-01T04:01:00", ticks=9), row("2020-09-01T04:00:00"))
    assert table.schema.equals(BAR_SCHEMA)
    first, second = parse_ns("2020-09-01T04:00Z"), parse_ns("2020-09-01T04:01Z")
    assert starts_of(table).tolist() == [first, first, second, second]
    assert table["side"].to_pylist() == ["bid", "ask", "bid", "ask"]
    names = ("open", "high", "low", "close", "volume", "vwap", "trades")
    assert [tuple(r.values()) for r in table.select(list(names)).to_pylist()[:2]] == [
        (1.0, 1.2, 0.9, 1.1, None, None, 7), (1.5, 1.7, 1.4, 1.6, None, None, 7),
    ]  # fmt: skip
    assert table["trades"].to_pylist() == [7, 7, 9, 9]
    assert set(table["provider"].to_pylist()) == {"ig"}


def test_a_side_that_is_null_has_no_bar():
    table = bars(row("2020-09-01T04:00:00", ask=(None, None, None, None), ticks=None))
    assert (table["side"].to_pylist(), table["trades"].to_pylist()) == (["bid"], [None])
    assert bars(sides=("ask",)).num_rows == 0


def test_bars_are_within_the_span_and_over():
    rows = [row(f"2020-09-01T04:{minute:02}:00") for minute in range(1, 10)]
    table = bars(
        *rows, sides=("bid",), start="2020-09-01T04:02Z", end="2020-09-01T04:08Z", as_of="2020-09-01T04:06:30Z"
    )
    assert [ts // 60_000_000_000 % 60 for ts in starts_of(table).tolist()] == [2, 3, 4, 5]
    assert bars(rows[0], sides=("bid",), divisor=10.0)["high"].to_pylist() == [0.12]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("2020-09-01T04:00:00")] * 2, "came twice"),
        ([row("2020-09-01T04:00:30")], "does not start on a whole one"),
        ([row("2020-09-01T03:00:00")], "is request_zone right"),
        ([row("2020-09-01T06:00:00")], "is request_zone right"),
        ([row("yesterday")], "not an RFC 3339"),
        ([row("1960-01-01T00:00:00")], "outside 1970"),
    ],
)
def test_bars_that_cannot_be_are_malformed(rows, words):
    with pytest.raises(MalformedMessage, match=words):
        bars(*rows)


@pytest.mark.parametrize("ticks", [-1, 10**30])
def test_a_count_of_ticks_that_cannot_be_is_no_answer(ticks):
    with pytest.raises(msgspec.ValidationError, match="lastTradedVolume"):
        answer(row("2020-09-01T04:00:00", ticks=ticks))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["2020-09-01T04:00:00", "2020-09-01T04:01:00", "x", "NaT"]) | st.text(max_size=20), _TEXT
        ),
        max_size=4,
    )
)
def test_no_prices_break_the_parser(rows):
    for_json = [{**row(start), "openPrice": {"bid": number}} for start, number in rows]
    with contextlib.suppress(MalformedMessage, msgspec.ValidationError):
        parse_bars(
            msgspec.json.decode(json.dumps({"prices": for_json}), type=PricesAnswer).prices,
            symbol="X", interval=MINUTE, sides=("bid",), start_ns=0, end_ns=NOW_NS, as_of_ns=NOW_NS,
        )  # fmt: skip


@given(
    st.recursive(
        st.none() | st.floats() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["snapshot", "instrument", "epic", "marketStatus", "updateTime", "bid"]), inner
        ),
        max_leaves=8,
    )
)
def test_no_market_breaks_the_parser(body):
    with contextlib.suppress(MalformedMessage, MarketClosed, msgspec.ValidationError, ValueError):
        parse_snapshot(msgspec.convert(body, MarketAnswer).snapshot, "X", NOW_NS, offset_hours=0)


# Names and settings


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("EURUSD", "CS.D.EURUSD.MINI.IP"),
        ("USDJPY", "CS.D.USDJPY.MINI.IP"),
        ("XAUUSD", "CS.D.CFDGOLD.BMU.IP"),
        ("BTC-USD", "CS.D.BITCOIN.CFD.IP"),
        ("CS.D.EURUSD.TODAY.IP", "CS.D.EURUSD.TODAY.IP"),
        ("KA.D.VOD.CASH.IP", "KA.D.VOD.CASH.IP"),
    ],
)
def test_names_go_both_ways(ours, theirs):
    symbols = symbol_map(IgConfig())
    assert symbols.to_provider(ours) == theirs
    assert symbols.from_provider(theirs) == ours


def test_names_are_configured():
    symbols = symbol_map(
        IgConfig(fx_contract="CFD", symbol_table={"VOD": "KA.D.VOD.CASH.IP", "XAUUSD": "CS.D.USCGC.TODAY.IP"})
    )
    assert symbols.to_provider("GBPUSD") == "CS.D.GBPUSD.CFD.IP"
    assert symbols.from_provider("KA.D.VOD.CASH.IP") == "VOD"
    assert symbols.to_provider("XAUUSD") == "CS.D.USCGC.TODAY.IP"
    assert [symbols.to_provider(s) for s in ("AAPL", "^GSPC", "EURXXX", "eurusd", "", "A/B.C.D")] == [None] * 6
    with pytest.raises(InvalidInput, match="another name"):
        symbol_map(IgConfig(symbol_table={"GOLD": "CS.D.CFDGOLD.BMU.IP"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbols", ("",)), ("rest_url", "ftp://x"), ("stream_url", "x"), ("fx_contract", "MAXI"),
        ("channel", "chart"), ("bar_sides", "mid"), ("subscriptions_max", 0), ("points_per_call", 20_000),
        ("request_zone", "Mars/Olympus"), ("relogin_after_s", -1.0), ("price_divisors", {"EURUSD": 0.0}),
    ],
)  # fmt: skip
def test_settings_are_checked(field, value):
    with pytest.raises(InvalidInput, match=field):
        IgConfig(**{field: value})


def test_no_secret_is_shown():
    config = IgConfig(api_key="the-key", username="the-user", password="the-word")
    assert not any(word in repr(config) + str(config) for word in ("the-key", "the-user", "the-word"))
    for field in ENTRY.secrets.values():
        with pytest.raises(InvalidInput) as caught:
            IgConfig(**{field: "the-key\n"})
        assert "the-key" not in str(caught.value)


@pytest.mark.parametrize("missing", ["api_key", "username", "password"])
def test_it_is_not_built_without_its_keys(missing):
    given_ = {"api_key": "a", "username": "b", "password": "c", missing: None}
    with pytest.raises(InvalidInput, match=f"ig.{missing}.*IG_"):
        ENTRY.build(IgConfig(**given_), None)
