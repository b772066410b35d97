"""Answers as Yahoo once gave them, row by row. Skipped without the folder of data."""

from __future__ import annotations

import gzip
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from marketd.model import Interval, Quote, parse_ns, starts_of
from marketd.sources.yahoo.parse import (
    ChartAnswer,
    QuoteAnswer,
    found_chart,
    found_quotes,
    parse_actions,
    parse_bars,
    parse_quote,
)

NOW_NS = parse_ns("2025-02-22T00:00:00Z")


def quote(symbol, time_s, **values):
    return Quote(symbol=symbol, time_event_ns=time_s * 10**9, time_received_ns=NOW_NS, source="yahoo", **values)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "AAPL-BABA",
            [
                quote(
                    "AAPL", 1_739_581_198, bid=244.44, ask=253.37, bid_size=2.0, ask_size=1.0, last=244.64,
                    volume=40_896_227.0,
                ),
                quote(
                    "BABA", 1_739_581_199, bid=124.75, ask=124.97, bid_size=12.0, ask_size=18.0, last=124.81,
                    volume=52_086_273.0,
                ),
            ],
        ),
        ("BTC-USD", [quote("BTC-USD", 1_739_789_580, last=96_077.45, volume=21_228_961_792.0)]),
        ("EURUSD=X", [quote("EURUSD=X", 1_739_789_683, bid=1.0489877, ask=1.0484378, last=1.0489877)]),
    ],
)  # fmt: skip
def test_quotes(data_folder, name, expected):
    body = (data_folder / "provider_payloads" / f"yahoo_quote-{name}.json").read_bytes()
    rows = found_quotes(msgspec.json.decode(body, type=QuoteAnswer))
    assert [parse_quote(row, row.symbol, NOW_NS) for row in rows] == expected


def test_a_year_of_days_with_a_split(data_folder):
    (path,) = (data_folder / "corporate_actions").glob("yahoo_*NVDA-split*.json.gz")
    body = gzip.decompress(path.read_bytes())
    chart = found_chart(msgspec.json.decode(body, type=ChartAnswer), "NVDA")
    span = {"start_ns": parse_ns("2021-02-01"), "end_ns": parse_ns("2022-01-31")}
    table = parse_bars(chart, symbol="NVDA", interval=Interval.parse("1d"), as_of_ns=NOW_NS, **span)
    assert table.num_rows == 252
    first, last = table.slice(0, 1).to_pylist()[0], table.slice(251).to_pylist()[0]
    names = ("open", "high", "low", "close", "volume")
    assert [first[n] for n in names] == [13.05325, 13.27075, 12.90275, 13.237, 217_204_000.0]
    assert [last[n] for n in names] == [22.012, 22.858, 21.296, 22.84, 543_774_000.0]

    told = msgspec.json.decode(body)["chart"]["result"][0]
    columns = told["indicators"]["quote"][0]
    for name in names:
        assert table[name].to_pylist() == [float(str(np.float32(value))) for value in columns[name]]
    new_york = ZoneInfo("America/New_York")
    days = [datetime.fromtimestamp(second, new_york).date().isoformat() for second in told["timestamp"]]
    assert starts_of(table).tolist() == [parse_ns(day) for day in days]

    (split,) = parse_actions(chart, symbol="NVDA", as_of_ns=NOW_NS, **span)
    assert (split.kind, split.ex_ns, split.ratio) == ("split", parse_ns("2021-07-20"), 4.0)
