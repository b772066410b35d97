"""Latest values over REST, against what the script in `rest_door` says, typed by hand."""

from __future__ import annotations

from typing import Any

import pytest
from rest_door import Door

AAPL = {
    "symbol": "AAPL",
    "exchange": "VENUE",
    "source": "venue",
    "lastPrice": 152.0,
    "bidPrice": 151.5,
    "askPrice": 152.5,
    "bidSize": 3.0,
    "askSize": 4.0,
    "volume": 12345.0,
    "openPrice": 150.25,
    "highPrice": 152.0,
    "lowPrice": 150.0,
    "closePrice": 149.5,  # of the stored day before
    "timestamp": "2026-11-20T14:32:09Z",
    "received": "2026-11-20T14:32:09.005Z",
    "stale": False,
    "ageMs": 1000,
    "flags": [],
}

AAPL_PRICE = {
    "symbol": "AAPL",
    "price": 152.0,
    "bid": 151.5,
    "ask": 152.5,
    "mid": 152.0,
    "volume": 12345.0,
    "source": "venue",
    "timestamp": "2026-11-20T14:32:09Z",
    "received": "2026-11-20T14:32:09.005Z",
    "stale": False,
    "age_ms": 1000,
}


def without_seq(quote: dict[str, Any]) -> dict[str, Any]:
    assert quote.pop("seq") > 0
    return quote


def test_a_quote_tells_both_clocks_its_source_and_the_day(door: Door) -> None:
    answer = door.get("/api/v1/market-data/quote/AAPL")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert without_seq(answer.json) == AAPL


def test_a_later_quote_has_a_later_seq(door: Door) -> None:
    early, late = (door.get(f"/api/v1/market-data/quote/{s}").json["seq"] for s in ("BRK.B", "AAPL"))
    assert early < late


def test_a_locked_book_is_flagged_and_an_old_event_is_stale(door: Door) -> None:
    quote = door.get("/api/v1/market-data/quote/BRK.B").json
    assert quote["flags"] == ["locked"]
    assert (quote["stale"], quote["ageMs"], quote["lastPrice"]) == (True, 90_000, None)


@pytest.mark.parametrize("spelled", ["BTC/USD", "BTC%2FUSD", "%42TC%2fUSD"])
def test_a_slash_in_a_symbol_may_be_escaped(door: Door, spelled: str) -> None:
    quote = door.get(f"/api/v1/market-data/quote/{spelled}").json
    assert (quote["symbol"], quote["flags"], quote["ageMs"]) == ("BTC/USD", ["crossed"], 875)
    price = door.get(f"/stocks/{spelled}/price").json
    assert (price["symbol"], price["price"], price["mid"]) == ("BTC/USD", 90000.25, 90000.25)


def test_a_price_in_snake_case(door: Door) -> None:
    answer = door.get("/stocks/AAPL/price")
    assert answer.status == 200
    assert answer.json == AAPL_PRICE


def test_without_a_last_price_the_price_is_the_mid(door: Door) -> None:
    price = door.get("/stocks/EUR/USD/price").json
    assert (price["price"], price["bid"], price["ask"], price["age_ms"]) == (1.375, 1.25, 1.5, 500)


def test_an_unknown_symbol_is_told_with_near_ones(door: Door) -> None:
    for path in ("/api/v1/market-data/quote/AAPLX", "/stocks/AAPLX/price", "/stocks/AAPLX/history"):
        answer = door.get(path, **{"X-Request-ID": "mine"})
        assert answer.status == 404
        assert answer.json == {
            "error": {
                "code": "unknown_symbol",
                "message": "unknown symbol 'AAPLX'; did you mean AAPL?",
                "details": {
                    "field": "symbol",
                    "value": "AAPLX",
                    "allowed": "a symbol listed by /api/v1/market-data/symbols",
                    "near": ["AAPL"],
                },
                "request_id": "mine",
            }
        }


def test_a_known_symbol_without_a_quote_is_worth_asking_again(door: Door) -> None:
    for path in ("/api/v1/market-data/quote/NEWCO", "/stocks/NEWCO/price"):
        answer = door.get(path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["error"]["code"] == "no_quote_yet"


def test_several_quotes_keep_the_order_and_name_the_others(door: Door) -> None:
    answer = door.get("/api/v1/market-data/quotes?symbols=BRK.B,AAPL,NEWCO,AAPLX,BRK.B,+AAPL,zzzz")
    assert answer.status == 200
    assert [q["symbol"] for q in answer.json["quotes"]] == ["BRK.B", "AAPL"]
    assert without_seq(answer.json["quotes"][1]) == AAPL
    assert answer.json["waiting"] == ["NEWCO"]
    assert answer.json["unknown"] == [{"symbol": "AAPLX", "near": ["AAPL"]}, {"symbol": "zzzz", "near": []}]


def test_near_symbols_are_looked_for_only_a_few_times(door: Door) -> None:
    unknown = door.get("/api/v1/market-data/quotes?symbols=" + ",".join(f"AAPL{i}" for i in range(7))).json["unknown"]
    assert [u["near"] for u in unknown] == [["AAPL"]] * 5 + [[], []]


def test_five_hundred_symbols_are_taken_and_one_more_is_not(door: Door) -> None:
    symbols = ["AAPL", *(f"S{i}" for i in range(499))]
    answer = door.get("/api/v1/market-data/quotes?symbols=" + ",".join(symbols))
    assert (answer.status, len(answer.json["unknown"])) == (200, 499)
    answer = door.get("/api/v1/market-data/quotes?symbols=" + ",".join([*symbols, "one more"]).replace(" ", "+"))
    assert answer.status == 422
    details = answer.json["error"]["details"]
    assert (details["field"], details["allowed"]) == ("symbols", "1 to 500 symbols separated by commas")


def test_all_symbols_with_their_sources(door: Door) -> None:
    venue = {"exchange": "VENUE", "source": "venue", "simulated": False}
    paper = {"exchange": "PAPER", "source": "paper", "simulated": True}
    assert door.get("/api/v1/market-data/symbols").json == {
        "symbols": [
            {"symbol": "AAPL", **venue, "lastPrice": 152.0, "timestamp": "2026-11-20T14:32:09Z"},
            {"symbol": "BRK.B", **venue, "lastPrice": 480.0, "timestamp": "2026-11-20T14:30:40Z"},
            {"symbol": "BTC/USD", **venue, "lastPrice": 90000.25, "timestamp": "2026-11-20T14:32:09.125Z"},
            {"symbol": "EUR/USD", **venue, "lastPrice": 1.375, "timestamp": "2026-11-20T14:32:09.500Z"},
            {"symbol": "NEWCO", **venue, "lastPrice": None, "timestamp": None},
            {"symbol": "TEST", **paper, "lastPrice": 10.0, "timestamp": "2026-11-20T14:32:09Z"},
        ],
        "count": 6,
    }


def test_what_was_refused_is_told_newest_first(door: Door) -> None:
    line = {
        "source": "venue",
        "symbol": None,
        "reason": "bad_line",
        "detail": "not a number: 'abc'",
        "where": "line 7",
        "received": "2026-11-20T14:32:04.875Z",
    }
    answer = door.get("/api/v1/market-data/quarantine").json
    assert answer["count"] == 2
    assert answer["quarantined"][0] == line
    row = answer["quarantined"][1]
    assert (row["symbol"], row["reason"], row["received"]) == ("AAPL", "non_positive", "2026-11-20T14:32:04.770Z")
    assert door.get("/api/v1/market-data/quarantine?limit=1").json == {"quarantined": [line], "count": 1}


def test_a_batch_answers_what_it_can(door: Door) -> None:
    answer = door.request("POST", "/stocks/batch", b'{"symbols": ["AAPL", "NEWCO", "AAPLX", "AAPL"]}')
    assert answer.status == 200
    assert answer.json == {
        "prices": [AAPL_PRICE],
        "errors": [
            {"symbol": "NEWCO", "code": "no_quote_yet", "message": "NEWCO is known, but no quote has come yet"},
            {"symbol": "AAPLX", "code": "unknown_symbol", "message": "unknown symbol 'AAPLX'; did you mean AAPL?"},
        ],
    }


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "bad_json", "body"),
        (b'{"symbols": ["AAPL"', 400, "bad_json", "body"),
        (b"\xff\xfe", 400, "bad_json", "body"),
        (b"[" * 100_000, 400, "bad_json", "body"),
        (b"[]", 422, "invalid_input", "body"),
        (b"{}", 422, "invalid_input", "symbols"),
        (b'{"symbols": 5', 400, "bad_json", "body"),
        (b'{"symbols": "AAPL"}', 422, "invalid_input", "symbols"),
        (b'{"symbols": []}', 422, "invalid_input", "symbols"),
        (b'{"symbols": [""]}', 422, "invalid_input", "symbols"),
        (b'{"symbols": ["AAPL", 5]}', 422, "invalid_input", "symbols[1]"),
        (b'{"symbols": ["AAPL"], "depth": 5}', 422, "invalid_input", "depth"),
        (b'{"symbols": [' + b",".join([b'"A"'] * 501) + b"]}", 422, "invalid_input", "symbols"),
        (b'{"symbols": ["' + b"A" * (1 << 20) + b'"]}', 413, "body_too_large", "body"),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_a_batch_that_cannot_be_understood(door: Door, body: bytes, status: int, code: str, field: str) -> None:
    answer = door.request("POST", "/stocks/batch", body)
    error = answer.json["error"]
    assert (answer.status, error["code"], error["details"]["field"]) == (status, code, field)
    assert error["details"]["allowed"]
    assert len(answer.body) < 2_000
    assert door.get("/health").status == 200
