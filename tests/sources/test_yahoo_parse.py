"""Answers typed by hand after recorded ones, the manners of charts one by one, and fuzz."""

from __future__ import annotations

import contextlib
import json
from datetime import date
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SymbolNotFound,
)
from marketd.model import BAR_SCHEMA, OPTION_SCHEMA, CorporateAction, Interval, Quote, parse_ns, starts_of
from marketd.sources.symbols import SymbolMap
from marketd.sources.yahoo.parse import (
    ChainAnswer,
    ChartAnswer,
    NothingThere,
    QuoteAnswer,
    QuoteRow,
    Refusal,
    expiries_of,
    found_chain,
    found_chart,
    found_quotes,
    parse_actions,
    parse_bars,
    parse_chain,
    parse_quote,
    refused,
    rolled_up,
)
from marketd.sources.yahoo.single import as_meant
from marketd.sources.yahoo.symbols import from_yahoo, is_around_the_clock, to_yahoo

NOW_NS = parse_ns("2025-02-20T11:03:40Z")
DAY, HOUR, QUARTER, MINUTE = (Interval.parse(name) for name in ("1d", "1h", "15m", "1m"))
FOREVER = {"start_ns": 0, "end_ns": 2**62}
NEW_YORK = "America/New_York"


def chart_of(stamps, columns, *, zone=NEW_YORK, currency="USD", kind="EQUITY", events=None):
    """A chart with rows (open, high, low, close, volume)."""
    meta = {"symbol": "X", "currency": currency, "exchangeTimezoneName": zone, "instrumentType": kind}
    names = ("open", "high", "low", "close", "volume")
    quote = dict(zip(names, map(list, zip(*columns, strict=True)), strict=True)) if columns else {}
    result = {"meta": meta, "indicators": {"quote": [quote]}}
    if stamps:
        result["timestamp"] = stamps
    if events is not None:
        result["events"] = events
    return found_chart(msgspec.convert({"chart": {"result": [result], "error": None}}, ChartAnswer), "X")


def bars_of(chart, interval, *, now_ns=NOW_NS, symbol="X", **span):
    return parse_bars(chart, symbol=symbol, interval=interval, as_of_ns=now_ns, **{**FOREVER, **span})


def seconds(text):
    return parse_ns(text) // 10**9


def rows_of(table):
    names = ("open", "high", "low", "close", "volume")
    return list(zip(starts_of(table).tolist(), *(table[name].to_pylist() for name in names), strict=True))


FLAT = (1.0, 1.0, 1.0, 1.0, 5)


def test_days_are_dated_at_the_exchange_and_prices_are_decimals():
    # Xetra opens at 09:00 in Berlin: three sessions of August 2023, at 07:00 UTC
    rows = [
        (34.25, 34.54999923706055, 34.099998474121094, 34.45000076293945, 1251),
        (34.79999923706055, 34.79999923706055, 34, 34, 336),
        (34.04999923706055, 34.20000076293945, 32.900001525878906, 33.20000076293945, 10846),
    ]
    chart = chart_of([1691132400, 1691391600, 1691478000], rows, zone="Europe/Berlin", currency="EUR")
    table = bars_of(chart, DAY, symbol="WSU.DE")
    assert table.schema.equals(BAR_SCHEMA)
    assert rows_of(table) == [
        (parse_ns("2023-08-04"), 34.25, 34.55, 34.1, 34.45, 1251.0),
        (parse_ns("2023-08-07"), 34.8, 34.8, 34.0, 34.0, 336.0),
        (parse_ns("2023-08-08"), 34.05, 34.2, 32.9, 33.2, 10846.0),
    ]
    (row, *_) = table.to_pylist()
    assert (row["provider"], row["status"], row["side"]) == ("yahoo:adjusted", "backfill", "trade")
    assert (row["vwap"], row["trades"]) == (None, None)


@pytest.mark.parametrize(
    ("zone", "stamp", "day"),
    [
        (NEW_YORK, "2025-01-10T14:30:00Z", "2025-01-10"),  # winter
        (NEW_YORK, "2024-07-10T13:30:00Z", "2024-07-10"),  # summer
        ("Europe/London", "2024-07-09T23:00:00Z", "2024-07-10"),  # currencies: midnight in London
        ("Australia/Sydney", "2025-01-09T23:00:00Z", "2025-01-10"),
        ("Pacific/Auckland", "2025-01-09T21:00:00Z", "2025-01-10"),
        ("UTC", "2025-01-10T00:00:00Z", "2025-01-10"),
    ],
)
def test_a_day_has_the_date_of_its_session_in_any_zone_and_season(zone, stamp, day):
    table = bars_of(chart_of([seconds(stamp)], [FLAT], zone=zone), DAY)
    assert starts_of(table).tolist() == [parse_ns(day)]


def test_a_day_is_over_when_it_is_in_utc_and_at_the_exchange():
    stamps = [seconds("2025-02-18T14:30:00Z"), seconds("2025-02-19T14:30:00Z"), seconds("2025-02-20T14:30:00Z")]
    chart = chart_of(stamps, [FLAT] * 3)
    days = [parse_ns(f"2025-02-{n}") for n in (18, 19, 20)]
    for now, count in (
        ("2025-02-19T23:59:59Z", 1),
        ("2025-02-20T03:00:00Z", 1),  # still the 19th in New York
        ("2025-02-20T05:00:00Z", 2),
        ("2025-02-21T04:59:59Z", 2),
        ("2025-02-21T05:00:00Z", 3),
    ):
        assert starts_of(bars_of(chart, DAY, now_ns=parse_ns(now))).tolist() == days[:count]
    tokyo = chart_of([seconds("2025-02-20T00:00:00Z")], [FLAT], zone="Asia/Tokyo")
    assert bars_of(tokyo, DAY, now_ns=parse_ns("2025-02-20T23:00:00Z")).num_rows == 0  # ours lasts until midnight, UTC


def test_the_live_row_of_a_day_takes_the_place_of_its_row():
    stamps = [seconds("2025-02-18T14:30:00Z"), seconds("2025-02-19T14:30:00Z"), seconds("2025-02-19T21:00:01Z")]
    chart = chart_of(stamps, [FLAT, (1.0, 2.0, 1.0, 2.0, 900), (1.0, 2.0, 1.0, 2.0, 901)])
    assert [row[5] for row in rows_of(bars_of(chart, DAY))] == [5.0, 901.0]


def test_the_live_row_between_minutes_is_left_out():
    stamps = [seconds("2025-02-20T11:00:00Z"), seconds("2025-02-20T11:01:00Z"), seconds("2025-02-20T11:03:27Z")]
    table = bars_of(chart_of(stamps, [FLAT] * 3), MINUTE)
    assert starts_of(table).tolist() == [stamps[0] * 10**9, stamps[1] * 10**9]


def test_a_running_minute_is_left_out():
    stamps = [seconds("2025-02-20T11:02:00Z"), seconds("2025-02-20T11:03:00Z")]
    table = bars_of(chart_of(stamps, [FLAT] * 2), MINUTE)
    assert starts_of(table).tolist() == [stamps[0] * 10**9]


def test_rows_of_nulls_are_minutes_without_trades():
    stamps = [seconds("2025-02-20T10:00:00Z") + 60 * n for n in range(3)]
    table = bars_of(chart_of(stamps, [FLAT, (None,) * 5, (2.0, 2.0, 2.0, 2.0, None)]), MINUTE)
    assert rows_of(table) == [
        (stamps[0] * 10**9, 1.0, 1.0, 1.0, 1.0, 5.0),
        (stamps[2] * 10**9, 2.0, 2.0, 2.0, 2.0, None),
    ]


def test_an_empty_window_has_neither_stamps_nor_columns():
    assert bars_of(chart_of([], []), MINUTE).num_rows == 0


def test_pence_become_pounds_and_currencies_have_no_volume():
    stamp = seconds("2025-02-20T10:00:00Z")
    pence = chart_of([stamp], [(72.36000061035156, 72.5, 72.25, 72.4000015258789, 7)], currency="GBp")
    assert rows_of(bars_of(pence, MINUTE)) == [(stamp * 10**9, 0.7236, 0.725, 0.7225, 0.724, 7.0)]
    euro = chart_of([stamp], [(1.048799991607666,) * 4 + (0,)], kind="CURRENCY")
    assert rows_of(bars_of(euro, MINUTE)) == [(stamp * 10**9, 1.0488, 1.0488, 1.0488, 1.0488, None)]


@pytest.mark.parametrize(
    ("stamps", "columns", "zone", "words"),
    [
        ([0, 60], [FLAT], NEW_YORK, "2 rows, and 1 in the column open"),
        ([60], [], NEW_YORK, "1 rows, and none in the column open"),
        ([61, 120], [FLAT] * 2, NEW_YORK, "61 is no start"),
        ([60, 60], [FLAT] * 2, NEW_YORK, "came twice"),
    ],
)
def test_a_chart_that_cannot_be_is_malformed(stamps, columns, zone, words):
    with pytest.raises(MalformedMessage, match=words):
        bars_of(chart_of(stamps, columns, zone=zone), MINUTE)


def test_a_zone_that_is_none_is_malformed():
    with pytest.raises(MalformedMessage, match="time zone 'Mars/Olympus'"):
        bars_of(chart_of([60], [FLAT], zone="Mars/Olympus"), DAY)


def test_hours_are_made_of_finished_quarters():
    begin = seconds("2025-02-19T14:30:00Z")
    quarters = [
        (10.0, 12.0, 9.0, 11.0, 100), (11.0, 11.5, 10.5, 11.25, 50),  # 14:30, 14:45
        (11.25, 13.0, 11.0, 12.5, 10), (12.5, 12.5, 8.0, 9.0, None),  # 15:00, 15:15
    ]  # fmt: skip
    table = bars_of(chart_of([begin + 900 * n for n in range(4)], quarters), QUARTER)
    span = {"start_ns": 0, "end_ns": 2**62}
    hours = rolled_up(table, HOUR, **span, as_of_ns=parse_ns("2025-02-19T16:00:00Z"))
    assert hours.schema.equals(BAR_SCHEMA)
    assert rows_of(hours) == [
        (parse_ns("2025-02-19T14:00:00Z"), 10.0, 12.0, 9.0, 11.25, 150.0),
        (parse_ns("2025-02-19T15:00:00Z"), 11.25, 13.0, 8.0, 9.0, None),
    ]
    assert set(hours["interval"].to_pylist()) == {"1h"}
    # at 15:59 the second hour still runs
    assert rolled_up(table, HOUR, **span, as_of_ns=parse_ns("2025-02-19T15:59:00Z")).num_rows == 1
    assert rolled_up(table.slice(0, 0), HOUR, **span, as_of_ns=NOW_NS).num_rows == 0


# --- corporate actions ------------------------------------------------------------------------------------------


def actions_of(dividends, splits, *, currency="USD", zone=NEW_YORK, **span):
    events = {
        "dividends": {str(n): each for n, each in enumerate(dividends)},
        "splits": {str(n): each for n, each in enumerate(splits)},
    }
    chart = chart_of([], [], events=events, currency=currency, zone=zone)
    return parse_actions(chart, symbol="AAPL", as_of_ns=NOW_NS, **{**FOREVER, **span})


FOUR_TO_ONE = {"date": seconds("2020-08-31T13:30:00Z"), "numerator": 4, "denominator": 1, "splitRatio": "4:1"}
SEVEN_TO_ONE = {"date": seconds("2014-06-09T13:30:00Z"), "numerator": 7, "denominator": 1, "splitRatio": "7:1"}


def dividend(day, amount, **others):
    return {"date": seconds(f"{day}T14:30:00Z"), "amount": amount, **others}


def test_dividends_are_those_of_shares_before_later_splits():
    # Apple declared 3.05, 0.47, 0.82 and 0.205 a share
    told = [
        dividend("2014-02-06", 0.108929), dividend("2014-08-07", 0.1175),
        dividend("2020-08-07", 0.205), dividend("2020-11-06", 0.205),
    ]  # fmt: skip
    found = actions_of(told, [FOUR_TO_ONE, SEVEN_TO_ONE])
    assert [(a.kind, a.ex_ns, a.amount, a.ratio) for a in found] == [
        ("dividend", parse_ns("2014-02-06"), 3.05, None),
        ("split", parse_ns("2014-06-09"), None, 7.0),
        ("dividend", parse_ns("2014-08-07"), 0.47, None),
        ("dividend", parse_ns("2020-08-07"), 0.82, None),
        ("split", parse_ns("2020-08-31"), None, 4.0),
        ("dividend", parse_ns("2020-11-06"), 0.205, None),
    ]
    assert found[0] == CorporateAction(
        symbol="AAPL", kind="dividend", ex_ns=parse_ns("2014-02-06"), provider="yahoo", as_of_ns=NOW_NS,
        amount=3.05, currency="USD",
    )  # fmt: skip


def test_a_dividend_with_the_date_of_a_split_is_that_of_an_old_share():
    found = actions_of([dividend("2020-08-31", 0.205)], [FOUR_TO_ONE])
    assert [a.amount for a in found if a.kind == "dividend"] == [0.82]


def test_a_consolidation_makes_the_dividends_before_it_smaller():
    ten_to_one = {"date": seconds("2022-01-03T14:30:00Z"), "numerator": 1, "denominator": 10}
    found = actions_of([dividend("2021-01-04", 0.5)], [ten_to_one])
    assert [(a.kind, a.amount or a.ratio) for a in found] == [("dividend", 0.05), ("split", 0.1)]


def test_dividends_in_pence_or_in_another_currency():
    (pence,) = actions_of([dividend("2024-06-06", 4.5)], [], currency="GBp", zone="Europe/London")
    assert (pence.amount, pence.currency) == (0.045, "GBP")
    (dollars,) = actions_of([dividend("2024-06-06", 0.31, currency="USD")], [], currency="GBp")
    assert (dollars.amount, dollars.currency) == (0.31, "USD")


def test_actions_are_those_of_the_span_but_later_splits_count():
    told = [dividend("2014-02-06", 0.108929), dividend("2014-08-07", 0.1175)]
    span = {"start_ns": parse_ns("2014-02-06"), "end_ns": parse_ns("2014-06-09")}
    assert [a.amount for a in actions_of(told, [FOUR_TO_ONE, SEVEN_TO_ONE], **span)] == [3.05]


@pytest.mark.parametrize(
    ("dividends", "splits"),
    [
        ([], [{"date": 0, "numerator": 0, "denominator": 1}]),
        ([], [{"date": 0, "numerator": 1, "denominator": 0}]),
        ([{"date": 0, "amount": -1.0}], []),
        ([{"date": 0, "amount": 1e300}], []),
        ([{"date": 0, "amount": 1.0}], [{"date": 9 * n, "numerator": 1e6, "denominator": 1} for n in range(60)]),
    ],
)
def test_actions_that_cannot_be_are_malformed(dividends, splits):
    with pytest.raises(MalformedMessage):
        actions_of(dividends, splits)


# --- quotes -----------------------------------------------------------------------------------------------------

# as it was recorded on a Friday night
APPLE = {
    "quoteType": "EQUITY", "marketState": "CLOSED", "regularMarketPrice": 244.6, "currency": "USD",
    "exchangeTimezoneName": "America/New_York", "postMarketTime": 1739581198, "regularMarketTime": 1739566800,
    "postMarketPrice": 244.64, "regularMarketVolume": 40896227, "bid": 244.44, "ask": 253.37, "bidSize": 2,
    "askSize": 1, "symbol": "AAPL",
}  # fmt: skip


def quote_of(changes=None, without=()):
    told = {name: value for name, value in {**APPLE, **(changes or {})}.items() if name not in without}
    return parse_quote(msgspec.convert(told, QuoteRow), "AAPL", NOW_NS)


def test_a_quote_has_the_newest_of_its_prices():
    assert quote_of() == Quote(
        symbol="AAPL",
        time_event_ns=1_739_581_198_000_000_000,
        time_received_ns=NOW_NS,
        source="yahoo",
        bid=244.44,
        ask=253.37,
        bid_size=2.0,
        ask_size=1.0,
        last=244.64,
        volume=40_896_227.0,
    )
    assert quote_of({"postMarketPrice": None}).last == 244.6
    early = quote_of({"preMarketPrice": 250.0, "preMarketTime": 1739600000})
    assert (early.last, early.time_event_ns) == (250.0, 1_739_600_000_000_000_000)


def test_a_side_of_zero_is_absent_in_a_quote():
    quote = quote_of({"bid": 0, "ask": 0.0})
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (None, None, None, None)


def test_a_quote_in_pence_is_in_pounds():
    quote = quote_of({"currency": "GBp", "postMarketPrice": 72.36, "bid": 72.34, "ask": 72.38})
    assert (quote.last, quote.bid, quote.ask, quote.volume) == (0.7236, 0.7234, 0.7238, 40_896_227.0)


def test_a_row_without_a_price_is_no_symbol():
    with pytest.raises(SymbolNotFound, match="AAPL has no price"):
        quote_of(without=("regularMarketPrice", "postMarketPrice"))


# --- options ----------------------------------------------------------------------------------------------------

CALL = {
    "contractSymbol": "AAPL250228C00110000", "strike": 110, "currency": "USD", "lastPrice": 111.67, "change": 0,
    "percentChange": 0, "openInterest": 0, "bid": 135.9, "ask": 136.65, "contractSize": "REGULAR",
    "expiration": 1740700800, "lastTradeDate": 1737487202, "impliedVolatility": 3.58593853515625, "inTheMoney": True,
}  # fmt: skip
PUT = CALL | {
    "contractSymbol": "AAPL250228P00100000", "strike": 100, "lastPrice": 0.03, "volume": 1, "bid": 0, "ask": 0,
    "impliedVolatility": 0.500005, "lastTradeDate": 1738593011, "openInterest": 7,
}  # fmt: skip


def chain_of(calls, puts, **others):
    result = {
        "underlyingSymbol": "AAPL", "expirationDates": [1741305600, 1740700800], "strikes": [], "hasMiniOptions": False,
        "quote": APPLE, "options": [{"expirationDate": 1740700800, "calls": calls, "puts": puts}], **others,
    }  # fmt: skip
    answer = msgspec.convert({"optionChain": {"result": [result], "error": None}}, ChainAnswer)
    return found_chain(answer, "AAPL")


def test_a_chain_has_a_row_for_each_contract():
    chain = chain_of([CALL], [PUT])
    assert expiries_of(chain, "AAPL") == [date(2025, 2, 28), date(2025, 3, 7)]
    table = parse_chain(chain, "AAPL", date(2025, 2, 28), NOW_NS)
    assert table.schema.equals(OPTION_SCHEMA)
    table = table.set_column(10, "time_last", table["time_last"].cast("int64"))
    table = table.set_column(24, "time_received", table["time_received"].cast("int64"))
    put, call = table.to_pylist()
    absent = dict.fromkeys(("bid_size", "ask_size", "delta", "gamma", "theta", "vega", "rho", "time_event"))
    shared = absent | {
        "underlying": "AAPL", "expiry": date(2025, 2, 28), "underlying_price": 244.64, "multiplier": 100.0,
        "currency": "USD", "provider": "yahoo", "time_received": NOW_NS,
    }  # fmt: skip
    assert call == shared | {
        "contract": "AAPL250228C00110000", "strike": 110.0, "right": "call", "bid": 135.9, "ask": 136.65,
        "last": 111.67, "time_last": 1_737_487_202_000_000_000, "volume": None, "open_interest": 0.0,
        "implied_volatility": 3.58593853515625,
    }  # fmt: skip
    assert put == shared | {
        "contract": "AAPL250228P00100000", "strike": 100.0, "right": "put", "bid": None, "ask": None, "last": 0.03,
        "time_last": 1_738_593_011_000_000_000, "volume": 1.0, "open_interest": 7.0, "implied_volatility": None,
    }  # fmt: skip


def test_contracts_of_another_expiry_are_not_taken():
    assert parse_chain(chain_of([CALL], []), "AAPL", date(2025, 3, 7), NOW_NS).num_rows == 0


def test_a_symbol_without_options_is_not_found():
    with pytest.raises(SymbolNotFound, match="has no options"):
        expiries_of(chain_of([], [], expirationDates=[]), "AAPL")


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "description", "kind"),
    [
        ("Not Found", "No data found, symbol may be delisted", SymbolNotFound),
        ("Unprocessable Entity", "1m data not available for startTime=1 and endTime=2.", OutOfRange),
        ("Bad Request", "Data doesn't exist for startDate = 1672462800, endDate = 1672549200", NothingThere),
        ("Unauthorized", "Invalid Crumb", NotEntitled),
        ("Unauthorized", "User is unable to access this feature", NotEntitled),
        ("Bad Request", "Invalid input - start date cannot be after end date.", SourceRejected),
        (None, None, SourceRejected),
    ],
)
def test_what_yahoo_says_is_wrong_has_a_kind_of_ours(code, description, kind):
    error = refused(Refusal(code, description))
    assert type(error) is kind
    assert (description or "refused without a reason") in error.reason


def test_an_error_inside_of_a_good_answer_is_one():
    body = {"result": None, "error": {"code": "Not Found", "description": "No data found, symbol may be delisted"}}
    with pytest.raises(SymbolNotFound):
        found_chart(msgspec.convert({"chart": body}, ChartAnswer), "X")
    with pytest.raises(SymbolNotFound):
        found_chain(msgspec.convert({"optionChain": {"result": [], "error": None}}, ChainAnswer), "X")
    with pytest.raises(SourceRejected):
        found_quotes(msgspec.convert({"quoteResponse": {"error": {"code": "argument-error"}}}, QuoteAnswer))


# --- names and numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("AAPL", "AAPL"), ("BRK.B", "BRK-B"), ("RCI.B.TO", "RCI-B.TO"), ("NOVO.B.CO", "NOVO-B.CO"), ("VOD.L", "VOD.L"),
        ("7203.T", "7203.T"), ("0700.HK", "0700.HK"), ("SAP.DE", "SAP.DE"), ("M&M.NS", "M&M.NS"),
        ("BAJAJ-AUTO.NS", "BAJAJ-AUTO.NS"), ("EURUSD", "EURUSD=X"), ("USDJPY", "JPY=X"), ("EURJPY", "EURJPY=X"),
        ("BTC-USD", "BTC-USD"), ("^GSPC", "^GSPC"), ("ES=F", "ES=F"), ("DX.Y.NYB", "DX-Y.NYB"),
        ("AAPL261218C00150000", "AAPL261218C00150000"), ("ABCDEF", "ABCDEF"),
    ],
)  # fmt: skip
def test_names_go_both_ways(ours, theirs):
    assert to_yahoo(ours) == theirs
    assert from_yahoo(theirs) == ours


@pytest.mark.parametrize("name", ["BRK-B", "EURUSD=X", "JPY=X", "aapl", "", "A B", "../v1", "A?b=c", "Ä", "A" * 41])
def test_another_spelling_is_no_name_of_ours(name):
    assert to_yahoo(name) is None


def test_a_class_that_would_read_as_an_exchange_needs_the_table():
    assert from_yahoo("MKC-V") is None
    assert to_yahoo("MKC.V") == "MKC.V"  # Toronto Venture
    table = SymbolMap({"MKC.V": "MKC-V"}, to_provider=to_yahoo, from_provider=from_yahoo)
    assert (table.to_provider("MKC.V"), table.from_provider("MKC-V")) == ("MKC-V", "MKC.V")


@given(st.text(alphabet="ABL.^=-&XUSDEURGTV019", max_size=12))
def test_a_name_that_goes_there_comes_back(name):
    theirs = to_yahoo(name)
    assert theirs is None or from_yahoo(theirs) == name


def test_what_never_closes():
    assert [n for n in ("BTC-USD", "BRK-B", "EURUSD=X", "AAPL", "SHIB-EUR") if is_around_the_clock(n)] == [
        "BTC-USD",
        "SHIB-EUR",
    ]


@given(st.lists(st.floats(width=32), max_size=20))
def test_decimals_are_the_shortest_that_are_the_same_single_number(values):
    meant = as_meant(np.array(values, np.float64))
    for got, value in zip(meant.tolist(), values, strict=True):
        if np.isfinite(value) and 1e-13 < abs(value) < 1e9:
            assert repr(got) == repr(float(str(np.float32(value))))  # numpy writes the shortest
        else:
            assert np.float32(got) == np.float32(value) or np.isnan(value)


def test_what_is_no_single_number_stays():
    values = np.array([0.1, 244.64, 1e300, 0.0, np.inf, np.nan])
    assert as_meant(values).tolist()[:5] == values.tolist()[:5]


# --- fuzz -------------------------------------------------------------------------------------------------------

NUMBERS = st.none() | st.floats(allow_nan=False) | st.integers(-(2**70), 2**70) | st.text(max_size=3)
STAMPS = st.integers(0, 2**31) | st.integers(-(2**40), 2**40)
SMALL = st.lists(STAMPS, max_size=4)
COLUMN = st.lists(st.none() | st.floats(), max_size=4) | st.none()


@given(
    stamps=SMALL | st.none() | st.lists(NUMBERS, max_size=3),
    columns=st.dictionaries(st.sampled_from(["open", "high", "low", "close", "volume"]), COLUMN),
    zone=st.sampled_from(["UTC", NEW_YORK, "", "x", "+01:00"]) | st.text(max_size=5),
    currency=st.sampled_from(["USD", "GBp", None]),
    dividends=st.lists(st.fixed_dictionaries({"date": STAMPS, "amount": NUMBERS}), max_size=2),
    splits=st.lists(st.fixed_dictionaries({"date": STAMPS, "numerator": NUMBERS, "denominator": NUMBERS}), max_size=2),
)
def test_no_chart_breaks_the_parser(stamps, columns, zone, currency, dividends, splits):
    meta = {"symbol": "X", "currency": currency, "exchangeTimezoneName": zone}
    events = {
        "dividends": {str(n): each for n, each in enumerate(dividends)},
        "splits": {str(n): each for n, each in enumerate(splits)},
    }
    result = {"meta": meta, "timestamp": stamps, "indicators": {"quote": [columns]}, "events": events}
    try:
        answer = msgspec.json.decode(json.dumps({"chart": {"result": [result]}}), type=ChartAnswer)
    except ValueError:
        return  # as `HttpClient.decode` tells it
    chart = found_chart(answer, "X")
    for interval in (MINUTE, DAY):
        with contextlib.suppress(SourceError):
            assert bars_of(chart, interval).schema.equals(BAR_SCHEMA)
    with contextlib.suppress(SourceError):
        parse_actions(chart, symbol="X", start_ns=-(2**63), end_ns=2**63 - 1, as_of_ns=NOW_NS)


@given(
    contract=st.fixed_dictionaries({}, optional=dict.fromkeys(CALL, NUMBERS)),
    quote=st.fixed_dictionaries({}, optional=dict.fromkeys(APPLE, NUMBERS)),
    expiries=st.lists(STAMPS, max_size=3),
)
def test_no_chain_and_no_quote_breaks_the_parser(contract, quote, expiries):
    result = {
        "expirationDates": expiries, "quote": APPLE | quote,
        "options": [{"expirationDate": 1740700800, "calls": [CALL | contract], "puts": [PUT]}],
    }  # fmt: skip
    with contextlib.suppress(ValueError, SourceError):
        answer = msgspec.json.decode(json.dumps({"optionChain": {"result": [result]}}), type=ChainAnswer)
        chain = found_chain(answer, "X")
        with contextlib.suppress(SourceError):
            expiries_of(chain, "X")
        with contextlib.suppress(SourceError):
            assert parse_chain(chain, "X", date(2025, 2, 28), NOW_NS).schema.equals(OPTION_SCHEMA)
        found = parse_quote(chain.quote, "X", NOW_NS)
        assert all(v is None or abs(Fraction(v)) >= 0 for v in (found.bid, found.ask, found.last))
