"""Bars over REST, against the script and the stored bars of `rest_door`, typed by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rest_door import LONG_BARS, Door, asgi, make_server

from marketd.api.asgi import build_app
from marketd.api.bars import period_start
from marketd.errors import StoreError
from marketd.model import BAR_SCHEMA, format_ns, parse_ns
from marketd.testing import ManualClock

HISTORICAL = "/api/v1/market-data/historical"
MISSING = {"calendar", "complete", "missing", "missing_total"}
"""Depends on the calendars; see test_rest_history.py."""
KEYS = ("timestamp", "open", "high", "low", "close", "volume", "vwap", "trades", "status", "source")


def bar(*values: Any) -> dict[str, Any]:
    return dict(zip(KEYS, values, strict=True))


AAPL_TODAY = [
    # Watching began at 14:30:30, so the first minute is not sure. vwap: 30,082.5 / 200.
    bar("2026-11-20T14:30:00Z", 150.25, 150.75, 150.0, 150.5, 200.0, 150.4125, 4, "provisional", "venue"),
    bar("2026-11-20T14:31:00Z", 151.0, 151.0, 151.0, 151.0, 10.0, 151.0, 1, "final", "venue"),
    bar("2026-11-20T14:32:00Z", 152.0, 152.0, 152.0, 152.0, 5.0, 152.0, 1, "live", "venue"),
]


def newco(i: int) -> dict[str, Any]:
    ts = format_ns(parse_ns("2026-11-17T00:00:00Z") + i * 60_000_000_000)
    o = 100 + i / 8
    return bar(ts, o, o + 1, o - 1, o + 0.5, float(i), None, 2, "final", "venue")


def test_by_default_the_last_500_minutes_up_to_now(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/AAPL")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert {k: v for k, v in answer.json.items() if k not in MISSING} == {
        "symbol": "AAPL",
        "interval": "1m",
        "side": "trade",
        "from": "2026-11-20T06:12:10Z",
        "to": "2026-11-20T14:32:10Z",
        "as_of": None,
        "adjustment": "raw",
        "count": 3,
        "truncated": False,
        "next": None,
        "bars": AAPL_TODAY,
    }
    assert set(answer.json) >= MISSING


def test_a_range_has_its_start_and_not_its_end(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/AAPL?from=2026-11-20T14:31:00Z&to=2026-11-20T14:32:00Z").json
    assert answer["bars"] == AAPL_TODAY[1:2]
    assert (answer["from"], answer["to"], answer["truncated"]) == (
        "2026-11-20T14:31:00Z",
        "2026-11-20T14:32:00Z",
        False,
    )


@pytest.mark.parametrize(
    "start", ["2026-11-20T15:31:00%2B01:00", "2026-11-20T15:31:00+01:00", "2026-11-20T09:31:00.000-0500"]
)
def test_an_offset_is_understood_also_with_a_bare_plus(door: Door, start: str) -> None:
    answer = door.get(f"{HISTORICAL}/AAPL?from={start}").json
    assert (answer["from"], answer["bars"]) == ("2026-11-20T14:31:00Z", AAPL_TODAY[1:])


def test_a_date_is_its_midnight_and_bars_of_earlier_days_come_from_the_store(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/AAPL?from=2026-11-19&to=2026-11-20").json
    assert answer["from"] == "2026-11-19T00:00:00Z"
    assert answer["bars"] == [
        bar("2026-11-19T20:58:00Z", 149.0, 149.25, 148.0, 148.5, 100.0, None, 2, "final", "venue"),
        bar("2026-11-19T20:59:00Z", 148.5, 150.0, 148.25, 149.5, 200.0, None, 2, "final", "venue"),
    ]


@pytest.mark.parametrize("spelled", ["1h", "H1", "1hour"])
def test_intervals_in_their_spellings_and_rolled_up(door: Door, spelled: str) -> None:
    answer = door.get(f"{HISTORICAL}/AAPL?interval={spelled}&from=2026-11-20").json
    assert answer["interval"] == "1h"
    (hour,) = answer["bars"]
    # vwap: (200 × 150.4125 + 10 × 151 + 5 × 152) / 215
    assert hour.pop("vwap") == pytest.approx(32_352.5 / 215, rel=1e-12)
    assert hour.pop("partial")  # nobody has the minutes before 14:30
    assert hour == {k: v for k, v in bar(
        "2026-11-20T14:00:00Z", 150.25, 152.0, 150.0, 152.0, 215.0, None, 6, "live", "venue"
    ).items() if k != "vwap"}  # fmt: skip


def test_a_symbol_without_trades_has_bars_of_its_bids(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/EUR/USD").json
    assert answer["side"] == "bid"
    assert answer["bars"] == [
        bar("2026-11-20T14:30:00Z", 1.25, 1.5, 1.125, 1.125, None, None, 3, "provisional", "venue"),
        bar("2026-11-20T14:31:00Z", 1.25, 1.25, 1.25, 1.25, None, None, 1, "final", "venue"),
        bar("2026-11-20T14:32:00Z", 1.25, 1.25, 1.25, 1.25, None, None, 1, "live", "venue"),
    ]


def test_mid_is_the_average_where_there_is_both_a_bid_and_an_ask(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/EUR%2FUSD?side=mid").json
    assert answer["side"] == "mid"
    assert answer["bars"] == [
        # bid 1.25, 1.5, 1.125, 1.125; ask 1.5, 1.75, 1.25, 1.25
        bar("2026-11-20T14:30:00Z", 1.375, 1.625, 1.1875, 1.1875, None, None, 6, "provisional", "venue"),
        bar("2026-11-20T14:32:00Z", 1.375, 1.375, 1.375, 1.375, None, None, 2, "live", "venue"),
    ]
    newest = door.get(f"{HISTORICAL}/EUR%2FUSD?side=mid&limit=1").json
    assert (newest["truncated"], newest["bars"]) == (True, answer["bars"][1:])


def test_a_side_without_bars_is_empty_and_no_error(door: Door) -> None:
    for side in ("trade", "mid"):
        answer = door.get(f"{HISTORICAL}/TEST?side={side}&to=2026-11-20T14:00:00Z")
        assert (answer.status, answer.json["count"], answer.json["bars"]) == (200, 0, [])


def test_the_newest_of_a_long_range_are_kept_and_it_says_so(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/NEWCO?from=2026-11-17&limit=2").json
    assert (answer["count"], answer["truncated"]) == (2, True)
    assert answer["bars"] == [newco(LONG_BARS - 2), newco(LONG_BARS - 1)]


def test_a_long_answer_is_whole_and_ascending(door: Door) -> None:
    for limit, count, truncated in ((LONG_BARS, LONG_BARS, False), (LONG_BARS - 1, LONG_BARS - 1, True)):
        answer = door.get(f"{HISTORICAL}/NEWCO?from=2026-11-17&limit={limit}").json
        assert (answer["count"], answer["truncated"]) == (count, truncated)
        assert answer["bars"] == [newco(i) for i in range(LONG_BARS - count, LONG_BARS)]


def test_days_from_the_store_alone(door: Door) -> None:
    answer = door.get(f"{HISTORICAL}/NEWCO?interval=1d&from=2026-11-17&to=2026-11-19").json
    days = [{k: b[k] for k in ("timestamp", "open", "high", "low", "close", "volume")} for b in answer["bars"]]
    # Minutes 0…1439 and 1440…2879: open 100 + i/8 of the first, close +0.5 of the last, volume the sum of i.
    assert days == [
        {
            "timestamp": "2026-11-17T00:00:00Z",
            "open": 100.0,
            "high": 280.875,
            "low": 99.0,
            "close": 280.375,
            "volume": 1_036_080.0,
        },
        {
            "timestamp": "2026-11-18T00:00:00Z",
            "open": 280.0,
            "high": 460.875,
            "low": 279.0,
            "close": 460.375,
            "volume": 3_109_680.0,
        },
    ]


def test_history_is_daily_bars_of_a_period(door: Door) -> None:
    answer = door.get("/stocks/AAPL/history").json
    assert {k: v for k, v in answer.items() if k not in {"bars", *MISSING}} == {
        "symbol": "AAPL",
        "period": "1mo",
        "interval": "1d",
        "side": "trade",
        "from": "2026-10-20T00:00:00Z",
        "to": "2026-11-20T14:32:10Z",
        "as_of": None,
        "adjustment": "raw",
        "count": 3,
        "truncated": False,
        "next": None,
    }
    prices = [[b[k] for k in ("timestamp", "open", "high", "low", "close", "volume", "status")] for b in answer["bars"]]
    assert prices == [
        ["2026-11-18T00:00:00Z", 140.0, 142.0, 139.0, 141.0, 30.0, "final"],
        ["2026-11-19T00:00:00Z", 149.0, 150.0, 148.0, 149.5, 300.0, "final"],
        ["2026-11-20T00:00:00Z", 150.25, 152.0, 150.0, 152.0, 215.0, "live"],
    ]
    two = door.get("/stocks/AAPL/history?period=5d").json
    assert two["from"] == "2026-11-16T00:00:00Z"
    assert [b["timestamp"] for b in door.get("/stocks/AAPL/history?period=1d").json["bars"]] == ["2026-11-20T00:00:00Z"]


def test_intraday_is_today_since_midnight(door: Door) -> None:
    answer = door.get("/stocks/AAPL/intraday").json
    assert (answer["from"], answer["bars"]) == ("2026-11-20T00:00:00Z", AAPL_TODAY)
    five = door.get("/stocks/AAPL/intraday?interval=5m").json
    assert [(b["timestamp"], b["open"], b["close"]) for b in five["bars"]] == [("2026-11-20T14:30:00Z", 150.25, 152.0)]


@pytest.mark.parametrize(
    ("period", "first"),
    [
        ("1d", "2024-03-31"),
        ("5d", "2024-03-27"),
        ("1mo", "2024-02-29"),
        ("3mo", "2023-12-31"),
        ("6mo", "2023-09-30"),
        ("1y", "2023-03-31"),
        ("2y", "2022-03-31"),
        ("5y", "2019-03-31"),
        ("10y", "2014-03-31"),
        ("ytd", "2024-01-01"),
        ("max", "1800-01-01"),
    ],
)
def test_periods_on_the_31st_of_march_2024(period: str, first: str) -> None:
    assert format_ns(period_start(period, parse_ns("2024-03-31T23:59:59.999999999Z"))) == f"{first}T00:00:00Z"


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("interval=2m", "interval", "2m"),
        ("interval=", "interval", ""),
        ("from=2026-11-20T14:30:00", "from", "2026-11-20T14:30:00"),
        ("to=yesterday", "to", "yesterday"),
        ("from=1763649000", "from", "1763649000"),
        ("from=1799-12-31", "from", "1799-12-31"),
        ("to=9999-12-31", "to", "9999-12-31"),
        ("from=2026-02-30", "from", "2026-02-30"),
        ("from=2026-11-20&to=2026-11-19", "from", "2026-11-20T00:00:00Z"),
        ("from=2026-11-20&to=2026-11-20", "from", "2026-11-20T00:00:00Z"),
        ("from=2027-01-01", "from", "2027-01-01T00:00:00Z"),
        ("side=last", "side", "last"),
        ("limit=0", "limit", "0"),
        ("limit=100001", "limit", "100001"),
        ("limit=1.5", "limit", "1.5"),
        ("limit=" + "9" * 5_000, "limit", "9" * 119 + "…"),
        ("symbol=TSLA", "symbol", "TSLA"),
        ("limit=1&limit=2", "limit", "1, 2"),
    ],
    ids=lambda v: v[:40],
)
def test_a_parameter_that_is_not_allowed_is_named(door: Door, query: str, field: str, value: str) -> None:
    answer = door.get(f"{HISTORICAL}/AAPL?{query}")
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (422, "invalid_input")
    assert (error["details"]["field"], error["details"]["value"]) == (field, value)
    assert error["details"]["allowed"]


def test_what_is_allowed_is_said_in_words(door: Door) -> None:
    allowed = {
        "interval=2m": "one of 1s, 1m, 5m, 10m, 15m, 30m, 1h, 4h, 1d, 1w",
        "side=last": "one of trade, bid, ask, mid",
        "limit=0": "a whole number from 1 to 100000",
        "symbol=TSLA": "one of interval, from, to, side, limit, as_of, adjustment, fill, prefer, order, format, page",
        "limit=1&limit=2": "the parameter once",
        "from=2026-11-20&to=2026-11-19": "a time before `to`, which is 2026-11-19T00:00:00Z",
    }
    told = {query: door.get(f"{HISTORICAL}/AAPL?{query}").json["error"]["details"]["allowed"] for query in allowed}
    assert told == allowed
    assert door.get("/stocks/AAPL/history?period=3w").json["error"]["details"]["allowed"] == (
        "one of 1d, 5d, 1mo, 3mo, 6mo, 1y, 2y, 5y, 10y, ytd, max"
    )
    assert door.get("/stocks/AAPL/intraday?interval=1d").json["error"]["details"]["allowed"] == (
        "one of 1s, 1m, 5m, 10m, 15m, 30m, 1h, 4h"
    )


def test_a_failing_store_is_told_without_its_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        server = make_server(tmp_path, ManualClock(parse_ns("2026-11-20T14:30:30Z")))
        server.store.close()
        with pytest.raises(StoreError):
            server.store.symbols()
        answer = await asgi(build_app(server), f"{HISTORICAL}/AAPL", headers={"X-Request-ID": "find-me"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["error"]["code"] == "store_error"
        assert str(tmp_path) not in answer.body.decode()

    asyncio.run(body())
    assert "find-me" in caplog.text


def test_mids_of_disjoint_pages_are_whole(tmp_path: Path) -> None:
    """Bids and asks in blocks that overlap rarely, so that one page of either side does not reach far enough."""
    minute = 60_000_000_000
    first = parse_ns("2026-11-01T00:00:00Z")
    bids = [*range(12_000), 13_000]
    asks = [0, 5, 5_999, *range(6_000, 14_000, 2)]
    both = sorted(set(bids) & set(asks))

    async def body() -> None:
        server = make_server(tmp_path, ManualClock(parse_ns("2026-11-20T14:30:30Z")))
        rows = [
            {
                "symbol": "EUR/USD",
                "interval": "1m",
                "side": side,
                "ts": first + i * minute,
                **dict.fromkeys(("open", "high", "low", "close"), 100.0 + i + extra),
                "volume": None,
                "vwap": None,
                "trades": 1,
                "provider": provider,
                "status": status,
                "as_of": first,
            }
            for side, minutes, extra, provider, status in (
                ("bid", bids, 0.0, "venue", "final"),
                ("ask", asks, 1.0, "other", "backfill"),
            )
            for i in minutes
        ]
        server.store.append(pa.Table.from_pylist(rows, BAR_SCHEMA))
        app = build_app(server)
        for limit in (1, 10, len(both) - 1, len(both), 50_000):
            query = f"side=mid&from=2026-11-01&limit={limit}".encode()
            answer = (await asgi(app, f"{HISTORICAL}/EUR/USD", query=query)).json
            kept = both[-limit:]
            assert (answer["count"], answer["truncated"]) == (len(kept), len(kept) < len(both))
            assert answer["bars"] == [
                bar(format_ns(first + i * minute), *[100.5 + i] * 4, None, None, 2, "backfill", "venue/other")
                for i in kept
            ]
        server.store.close()

    asyncio.run(body())
