"""Payloads of Alpha Vantage as they were published, and anything else: a value or a typed failure."""

from __future__ import annotations

from datetime import date, time
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import MalformedMessage
from marketd.model import Interval, parse_ns, starts_of
from marketd.sources.alphavantage.macro import params_of
from marketd.sources.alphavantage.parse import (
    ExchangeRate,
    GlobalQuote,
    notice_of,
    parse_chain,
    parse_observations,
    parse_quote,
    parse_rate,
    parse_series,
    refusal_of,
)
from marketd.sources.alphavantage.symbols import (
    Session,
    from_alphavantage,
    pair_of,
    session_of,
    to_alphavantage,
)

NOW_NS = parse_ns("2026-11-20T20:00:00Z")
FAR_NS = 2**62
NEW_YORK = Session(ZoneInfo("America/New_York"), time(16))


THANKS = "Thank you for using Alpha Vantage! "
PLANS = "any of the premium plans at https://www.alphavantage.co/premium/ to "

# Words of notices as users of the service published them.
NOTICES = [
    (
        (
            f"{THANKS}Please consider spreading out your free API requests more sparingly (1 "
            f"request per second). You may "
            f"subscribe to {PLANS}lift the free key rate limit (25 requests per day), raise the "
            f"per-second burst limit, "
            "and instantly unlock all premium endpoints"
        ),
        "second",
    ),
    (
        (
            "We have detected your API key as ABC123 and our standard API rate limit is 25 requests per day. Please "
            f"subscribe to {PLANS}instantly remove all daily rate limits."
        ),
        "day",
    ),
    (
        (
            f"{THANKS}Our standard API rate limit is 25 requests per day. Please subscribe to "
            f"{PLANS}instantly remove all "
            "daily rate limits."
        ),
        "day",
    ),
    (
        (
            f"{THANKS}Our standard API call frequency is 5 calls per minute and 500 calls per day. Please visit "
            "https://www.alphavantage.co/premium/ if you would like to target a higher API call frequency."
        ),
        "minute",
    ),
    (
        f"{THANKS}This is a premium endpoint. You may subscribe to {PLANS}instantly unlock all premium endpoints",
        "premium",
    ),
    (
        (
            f"{THANKS}The outputsize=full parameter value is a premium feature for the "
            f"TIME_SERIES_DAILY endpoint. You may "
            f"subscribe to {PLANS}instantly unlock all premium features"
        ),
        "premium",
    ),
    (
        (
            "the parameter apikey is invalid or missing. Please claim your free API key on "
            "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
        ),
        "key",
    ),
    (
        (
            "Invalid API call. Please retry or visit the documentation "
            "(https://www.alphavantage.co/documentation/) for "
            "TIME_SERIES_DAILY."
        ),
        "symbol",
    ),
    ("This API function (FOO) does not exist.", "other"),
]


@pytest.mark.parametrize(("words", "kind"), NOTICES)
def test_what_a_notice_is_about(words, kind):
    assert refusal_of(words) == kind


@pytest.mark.parametrize("key", ["Error Message", "Information", "Note"])
def test_a_notice_is_one_only_where_there_is_no_data(key):
    assert notice_of(msgspec.json.encode({key: "so"})) == "so"
    assert notice_of(msgspec.json.encode({key: "so", "Meta Data": {}, "Time Series (Daily)": {}})) is None


def test_made_up_rows_of_a_premium_endpoint_are_no_data():
    words = "This is a premium endpoint. ***THE SAMPLE DATA SCHEMA BELOW IS ARTIFICIAL***"
    assert notice_of(msgspec.json.encode({"endpoint": "x", "message": words, "data": [{}]})) == words
    assert notice_of(msgspec.json.encode({"endpoint": "x", "message": "success", "data": [{}]})) is None


@given(st.binary(max_size=80) | st.text(max_size=40).map(lambda text: f'{{"Information":{text}}}'.encode()))
def test_any_body_has_a_notice_or_none(body):
    words = notice_of(body)
    assert words is None or refusal_of(words)


def quote(**fields):
    told = {"05. price": "240.1200", "06. volume": "3406520", "07. latest trading day": "2026-08-28", **fields}
    told = {key: value for key, value in told.items() if value is not None}
    return msgspec.convert(told, GlobalQuote)


def test_a_quote_is_of_the_close_of_its_day():
    got = parse_quote(quote(), "IBM", NEW_YORK, NOW_NS)
    assert (got.symbol, got.last, got.volume, got.source) == ("IBM", 240.12, 3406520.0, "alphavantage")
    assert got.time_event_ns == parse_ns("2026-08-28T20:00:00Z")
    winter = parse_quote(quote(**{"07. latest trading day": "2026-11-19"}), "IBM", NEW_YORK, NOW_NS)
    assert winter.time_event_ns == parse_ns("2026-11-19T21:00:00Z")


def test_a_quote_of_a_day_that_is_not_over_is_of_now():
    got = parse_quote(quote(**{"07. latest trading day": "2026-11-20"}), "IBM", NEW_YORK, NOW_NS)
    assert got.time_event_ns == NOW_NS


def test_an_index_has_no_volume_and_pence_are_divided():
    got = parse_quote(quote(**{"06. volume": None}), "VOD.L", session_of("VOD.LON"), NOW_NS, 100.0)
    assert (got.volume, got.last) == (None, 2.4012)
    assert got.time_event_ns == parse_ns("2026-08-28T15:30:00Z")


@pytest.mark.parametrize("price", [None, "0.0000", "-1", "", "nan", "1_0", "1e5", "\u0661"])
def test_a_quote_without_a_price_is_malformed(price):
    with pytest.raises(MalformedMessage):
        parse_quote(quote(**{"05. price": price}), "IBM", NEW_YORK, NOW_NS)


RATE = (
    b'{"1. From_Currency Code":"USD","2. From_Currency Name":"United States Dollar","3. To_Currency Code":"JPY",'
    b'"4. To_Currency Name":"Japanese Yen","5. Exchange Rate":"147.03000000","6. Last Refreshed":"2026-08-28 20:01:02",'
    b'"7. Time Zone":"UTC","8. Bid Price":"147.02500000","9. Ask Price":"-"}'
)


def test_a_rate_has_sides_and_its_own_time():
    got = parse_rate(msgspec.json.decode(RATE, type=ExchangeRate), "USDJPY", NOW_NS)
    assert (got.last, got.bid, got.ask) == (147.03, 147.025, None)
    assert got.time_event_ns == parse_ns("2026-08-28T20:01:02Z")


@pytest.mark.parametrize(("a", "b"), [(b"20:01:02", b"later"), (b'"UTC"', b'"Mars/Base"'), (b"147.03000000", b"zero")])
def test_a_rate_that_cannot_be_read_is_malformed(a, b):
    with pytest.raises(MalformedMessage):
        parse_rate(msgspec.json.decode(RATE.replace(a, b), type=ExchangeRate), "USDJPY", NOW_NS)


def row(open_="10.0", high="12.0", low="9.0", close="11.0", volume="100"):
    told = {"1. open": open_, "2. high": high, "3. low": low, "4. close": close, "5. volume": volume}
    return {key: value for key, value in told.items() if value is not None}


def series(rows, interval, zone="US/Eastern", **span):
    span = {"start_ns": 0, "end_ns": FAR_NS, "as_of_ns": NOW_NS, **span}
    return parse_series({"6. Time Zone": zone}, rows, symbol="IBM", interval=Interval.parse(interval), **span)


def test_minutes_are_local_and_become_utc_in_summer_and_winter():
    rows = {"2026-08-28 19:55:00": row(), "2026-11-19 09:30:00": row(close="11.5")}
    got = series(rows, "5m")
    assert starts_of(got).tolist() == [parse_ns("2026-08-28T23:55:00Z"), parse_ns("2026-11-19T14:30:00Z")]
    assert got["close"].to_pylist() == [11.0, 11.5]
    assert set(got["provider"].to_pylist()) == {"alphavantage"}
    assert starts_of(series(rows, "5m", "Europe/London"))[0] == parse_ns("2026-08-28T18:55:00Z")


def test_newest_first_becomes_oldest_first_and_the_running_bar_is_left_out():
    rows = {"2026-11-20 15:00:00": row(), "2026-11-20 14:59:00": row("10.5"), "2026-11-20 14:58:00": row("10.4")}
    assert series(rows, "1m")["open"].to_pylist() == [10.4, 10.5]


def test_days_are_utc_days_and_weeks_begin_on_their_monday():
    days = {"2026-11-20": row(), "2026-11-19": row(), "2026-11-18": row()}
    assert starts_of(series(days, "1d")).tolist() == [parse_ns("2026-11-18"), parse_ns("2026-11-19")]
    weeks = {"2026-11-20": row(), "2026-11-13": row(), "2026-11-05": row()}
    assert starts_of(series(weeks, "1w")).tolist() == [parse_ns("2026-11-02"), parse_ns("2026-11-09")]


def test_currencies_have_no_volume_and_a_span_is_half_open():
    rows = {"2026-11-18": row(volume=None), "2026-11-17": row(volume=None), "2026-11-16": row(volume=None)}
    got = series(rows, "1d", start_ns=parse_ns("2026-11-17"), end_ns=parse_ns("2026-11-18"))
    assert (starts_of(got).tolist(), got["volume"].to_pylist()) == ([parse_ns("2026-11-17")], [None])


@pytest.mark.parametrize(
    ("rows", "interval"),
    [
        ({"2026-08-28 19:55:30": row()}, "1m"),
        ({"2026-08-28": row()}, "1m"),
        ({"2026-02-30": row()}, "1d"),
        ({"20260828": row()}, "1d"),
        ({"2026-08-28": row(close=None)}, "1d"),
        ({"2026-08-28": row(close="")}, "1d"),
        ({"2026-08-28": row(close="nan")}, "1d"),
        ({"2026-08-28": row(close="inf")}, "1d"),
        ({"2026-08-28": row(volume="inf")}, "1d"),
        ({"2026-08-28": row(), "2026-08-27": row()}, "1w"),
        ({"2026-11-01 01:30:00": row()}, "1m"),
        ({"2026-03-08 02:30:00": row()}, "1m"),
    ],
)
def test_bars_that_cannot_be_are_malformed(rows, interval):
    with pytest.raises(MalformedMessage):
        series(rows, interval)


def test_an_unknown_zone_is_malformed():
    with pytest.raises(MalformedMessage):
        series({"2026-08-28 19:55:00": row()}, "5m", "Mars/Base")
    with pytest.raises(MalformedMessage):
        parse_series(
            {},
            {"2026-08-28 19:55:00": row()},
            symbol="IBM",
            interval=Interval.parse("5m"),
            start_ns=0,
            end_ns=FAR_NS,
            as_of_ns=NOW_NS,
        )


# A contract as the service gave it on 2026-09-25.
CALL = {
    "contractID": "IBM261016C00220000",
    "symbol": "IBM",
    "expiration": "2026-10-16",
    "strike": "220.00",
    "type": "call",
    "last": "11.65",
    "mark": "11.72",
    "bid": "10.95",
    "bid_size": "137",
    "ask": "12.50",
    "ask_size": "197",
    "volume": "18",
    "open_interest": "517",
    "date": "2026-09-24",
    "implied_volatility": "0.33682",
    "delta": "0.67422",
    "gamma": "0.01919",
    "theta": "-0.16876",
    "vega": "0.20083",
    "rho": "0.08518",
}


def test_a_chain_in_our_units():
    put = {**CALL, "contractID": "IBM261016P00220000", "type": "put", "bid": "0.00", "rho": None}
    rows = parse_chain([put, CALL], "IBM", NOW_NS, is_live=False).to_pylist()
    assert [row["right"] for row in rows] == ["call", "put"]
    first, second = rows
    assert (first["contract"], first["expiry"], first["strike"]) == ("IBM261016C00220000", date(2026, 10, 16), 220.0)
    assert (first["bid"], first["ask"], first["last"]) == (10.95, 12.5, 11.65)
    assert (first["bid_size"], first["ask_size"], first["volume"], first["open_interest"]) == (137, 197, 18, 517)
    assert (first["implied_volatility"], first["delta"], first["gamma"]) == (0.33682, 0.67422, 0.01919)
    assert (first["theta"], first["vega"], first["rho"]) == (-0.16876, 0.20083, 0.08518)
    assert first["time_event"].isoformat() == "2026-09-24T20:00:00+00:00"
    assert (second["bid"], second["rho"]) == (None, None)
    assert parse_chain([CALL], "IBM", NOW_NS, is_live=True)["time_event"].to_pylist() == [None]


def test_the_greeks_of_that_contract_are_a_days_and_a_points():
    """By hand: N'(d1) of delta 0.674 is 0.360; 22 days are 0.0603 years; gamma gives the price of the underlying."""
    density, years, volatility = 0.360, 22 / 365, 0.33682
    price = density / (0.01919 * volatility * years**0.5)
    vega_of_a_point = price * density * years**0.5 / 100
    theta_of_a_day = price * density * volatility / (2 * years**0.5) / 365
    got = parse_chain([CALL], "IBM", NOW_NS, is_live=False).to_pylist()[0]
    assert got["vega"] == pytest.approx(vega_of_a_point, rel=0.1)
    assert -got["theta"] == pytest.approx(theta_of_a_day, rel=0.2)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "straddle"},
        {"type": None},
        {"expiration": "2099-99-99"},
        {"expiration": None},
        {"strike": ""},
        {"strike": None},
        {"contractID": None},
        {"bid": "nan"},
        {"delta": "-inf"},
    ],
)
def test_contracts_that_cannot_be_are_malformed(fields):
    with pytest.raises(MalformedMessage):
        parse_chain([{**CALL, **fields}], "IBM", NOW_NS, is_live=False)


def test_observations_are_ascending_and_missing_ones_are_left_out():
    told = [
        {"date": "2024-01-01", "value": "23358.4"},
        {"date": "2023-01-01", "value": "."},
        {"date": "2022-01-01", "value": "21989.9"},
    ]
    got = parse_observations(told, "REAL_GDP", None, None, NOW_NS)
    assert got["value"].to_pylist() == [21989.9, 23358.4]
    assert got["ts"].cast("int64").to_pylist() == [parse_ns("2022-01-01"), parse_ns("2024-01-01")]
    assert set(got["series"].to_pylist()) == {"REAL_GDP"}
    assert got["as_of"].cast("int64").to_pylist() == [NOW_NS] * 2
    bounded = parse_observations(told, "REAL_GDP", date(2022, 1, 2), date(2024, 1, 1), NOW_NS)
    assert bounded["value"].to_pylist() == [23358.4]
    assert parse_observations([], "REAL_GDP", None, None, NOW_NS).num_rows == 0


@pytest.mark.parametrize(
    "told",
    [
        [{"date": "2024-01-01", "value": "many"}],
        [{"date": "2024-01-01", "value": "nan"}],
        [{"date": "2024-01-01"}],
        [{"date": "2024", "value": "1"}],
        [{"value": "1"}],
        [{"date": "2024-01-01", "value": "1"}, {"date": "2024-01-01", "value": "2"}],
    ],
)
def test_observations_that_cannot_be_are_malformed(told):
    with pytest.raises(MalformedMessage):
        parse_observations(told, "CPI", None, None, NOW_NS)


TEXTS = st.text(max_size=8) | st.sampled_from(["1.5", "0", "-3", "nan", "2026-08-28", "2026-08-28 19:55:00", "call"])
FIELDS = ("1. open", "2. high", "3. low", "4. close", "5. volume")


@given(
    st.dictionaries(
        TEXTS, st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, TEXTS)) | st.just(row()), max_size=4
    ),
    st.sampled_from(["1m", "1h", "1d", "1w"]),
    st.sampled_from(["US/Eastern", "UTC", ""]) | TEXTS,
)
def test_any_series_is_a_table_or_malformed(rows, interval, zone):
    try:
        table = series(rows, interval, zone)
    except MalformedMessage:
        return
    starts = starts_of(table).tolist()
    assert starts == sorted(set(starts))


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(CALL, TEXTS | st.none())), max_size=3))
def test_any_chain_is_a_table_or_malformed(rows):
    for told in (rows, [{**CALL, **row} for row in rows]):
        try:
            table = parse_chain(told, "IBM", NOW_NS, is_live=False)
        except MalformedMessage:
            continue
        assert table.num_rows == len(told)


@given(st.lists(st.fixed_dictionaries({}, optional={"date": TEXTS, "value": TEXTS}), max_size=3))
def test_any_observations_are_a_table_or_malformed(told):
    try:
        parse_observations(told, "CPI", None, None, NOW_NS)
    except MalformedMessage:
        return


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("IBM", "IBM"),
        ("BRK.B", "BRK-B"),
        ("SHOP.TO", "SHOP.TRT"),
        ("SAP.DE", "SAP.DEX"),
        ("600104.SS", "600104.SHH"),
        ("EURUSD", "EUR/USD"),
        ("BTC-USD", "BTC/USD"),
    ],
)
def test_names_go_both_ways(ours, theirs):
    assert to_alphavantage(ours) == theirs
    assert from_alphavantage(theirs) == ours
    assert (pair_of(theirs) is None) == ("/" not in theirs)


@pytest.mark.parametrize("symbol", ["", "VOD.L", "^GSPC", "BRK-B", "EUR/USD", "EUR-USD", "0700.HK", "a", "\u0661"])
def test_what_is_no_name_of_ours_has_none_there(symbol):
    assert to_alphavantage(symbol) is None


@given(st.text(max_size=12) | st.from_regex(r"[A-Z0-9.^/-]{1,12}", fullmatch=True))
def test_every_name_comes_back_as_itself(text):
    theirs = to_alphavantage(text)
    assert theirs is None or from_alphavantage(theirs) == text
    ours = from_alphavantage(text)
    assert ours is None or to_alphavantage(ours) == text


def test_a_series_is_named_by_its_function_and_what_it_takes():
    assert params_of("CPI") == ("CPI", {})
    assert params_of("TREASURY_YIELD:daily:10year") == ("TREASURY_YIELD", {"interval": "daily", "maturity": "10year"})
    assert params_of("TREASURY_YIELD:2year") == ("TREASURY_YIELD", {"maturity": "2year"})
