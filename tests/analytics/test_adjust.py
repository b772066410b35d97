"""Adjustment on read: published adjusted prices as the answer, and what must hold whatever the numbers."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.analytics.adjust import MARKS, adjust, adjusted, believed, split_doubts
from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA, CorporateAction

NS = 1_000_000_000
DAY = 86_400 * NS
PRICES = ("open", "high", "low", "close")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def bars(
    ts: list[int],
    prices: dict[str, list[float]] | list[float],
    volume: list[float] | None = None,
    vwap: list[float] | None = None,
    interval: str = "1d",
) -> pa.Table:
    n = len(ts)
    if isinstance(prices, list):
        prices = dict.fromkeys(PRICES, prices)
    stamp = pa.timestamp("ns", tz="UTC")
    words = {"symbol": "X", "interval": interval, "side": "trade", "provider": "p", "status": "final"}
    columns = {name: pa.array([word] * n, pa.string()) for name, word in words.items()}
    columns |= {name: pa.array(prices[name], pa.float64()) for name in PRICES}
    columns |= {"ts": pa.array(ts, pa.int64()).cast(stamp), "as_of": pa.array([0] * n, pa.int64()).cast(stamp)}
    columns |= {
        "volume": pa.array(volume or [None] * n, pa.float64()),
        "vwap": pa.array(vwap or [None] * n, pa.float64()),
    }
    columns["trades"] = pa.nulls(n, pa.int64())
    return pa.table([columns[name] for name in BAR_SCHEMA.names], schema=BAR_SCHEMA)


def split(day: str, ratio: float, provider: str = "a", as_of_ns: int = 0, symbol: str = "X") -> CorporateAction:
    return CorporateAction(
        symbol=symbol, kind="split", ex_ns=at(day), provider=provider, as_of_ns=as_of_ns, ratio=ratio
    )


def dividend(day: str, amount: float, provider: str = "a", as_of_ns: int = 0, symbol: str = "X") -> CorporateAction:
    return CorporateAction(
        symbol=symbol,
        kind="dividend",
        ex_ns=at(day),
        provider=provider,
        as_of_ns=as_of_ns,
        amount=amount,
        currency="USD",
    )


# AAPL in 2014, as announced
AAPL_2014 = (
    dividend("2014-02-06", 3.05),
    dividend("2014-05-08", 3.29),
    split("2014-06-09", 7.0),
    dividend("2014-08-07", 0.47),
    dividend("2014-11-06", 0.47),
)


def quandl(data_folder: Path, ticker: str) -> list[dict[str, str]]:
    path = data_folder / "corporate_actions" / "quandl_wiki_raw_and_adjusted_2014.csv.gz"
    with gzip.open(path, "rt") as lines:
        return [row for row in csv.DictReader(lines) if row["ticker"] == ticker]


def raw_and_published(rows: list[dict[str, str]]) -> tuple[pa.Table, dict[str, np.ndarray]]:
    ts = [at(row["date"]) for row in rows]
    raw = bars(ts, {n: [float(r[n]) for r in rows] for n in PRICES}, [float(r["volume"]) for r in rows])
    return raw, {n: np.array([float(r[f"adj_{n}"]) for r in rows]) for n in (*PRICES, "volume")}


def test_apple_2014_from_raw_and_actions_equals_the_published_adjusted_prices(data_folder: Path) -> None:
    raw, published = raw_and_published(quandl(data_folder, "AAPL"))
    assert raw.num_rows == 252
    # the publisher adjusted for the dividends after 2014 as well: one constant factor, that of the last day
    later = published["close"][-1] / raw["close"][-1].as_py()
    ours = adjust(raw, AAPL_2014, "all")
    for name in PRICES:
        np.testing.assert_allclose(ours[name].to_numpy() * later, published[name], rtol=1e-4)
    np.testing.assert_allclose(ours["volume"].to_numpy(), published["volume"], rtol=1e-9)
    assert adjusted(raw, AAPL_2014, "all").marks == ()


def test_apple_before_its_split_does_not_know_it(data_folder: Path) -> None:
    raw, published = raw_and_published(quandl(data_folder, "AAPL"))
    known = [a for a in AAPL_2014 if a.ex_ns <= at("2014-06-06")]  # as of 2014-06-06
    then = raw.filter(pa.array(raw["ts"].cast(pa.int64()).to_numpy() <= at("2014-06-06")))
    last = published["close"][then.num_rows - 1] / then["close"][-1].as_py()
    ours = adjust(then, known, "all")["close"].to_numpy()
    np.testing.assert_allclose(ours * last, published["close"][: then.num_rows], rtol=1e-4)
    assert ours[-1] == 645.57  # as traded on the day
    announced = adjusted(then, AAPL_2014, "all", until_ns=at("2014-06-06"))
    assert announced.bars.equals(adjust(then, known, "all"))
    assert [mark.code for mark in announced.marks] == ["not_in_force"] * 3


def test_a_share_without_actions_stays_as_it_is(data_folder: Path) -> None:
    raw, published = raw_and_published(quandl(data_folder, "BRK_A"))
    ours = adjust(raw, (), "all")
    assert ours.equals(raw)
    np.testing.assert_allclose(ours["close"].to_numpy(), published["close"], rtol=1e-12)


def test_nvidia_2021_from_traded_prices_equals_the_published_split_adjusted_ones(data_folder: Path) -> None:
    (path,) = (data_folder / "corporate_actions").glob("yahoo_*NVDA*.json.gz")
    chart = json.loads(gzip.decompress(path.read_bytes()))["chart"]["result"][0]
    (event,) = chart["events"]["splits"].values()
    ex = datetime.fromtimestamp(event["date"], UTC).date().isoformat()
    ratio = event["numerator"] / event["denominator"]
    assert (ex, ratio) == ("2021-07-20", 4.0)
    ts = [int(t) // 86_400 * DAY for t in chart["timestamp"]]
    published = np.array(chart["indicators"]["quote"][0]["close"]) * 10  # the later split of 2024 taken back
    traded = np.where(np.array(ts) < at(ex), published * 4, published)
    row = ts.index(at("2021-07-19"))
    assert traded[row : row + 2].round(2).tolist() == [751.19, 186.12]  # as traded
    ours = adjust(bars(ts, traded.tolist()), [split(ex, ratio)], "split")
    np.testing.assert_allclose(ours["close"].to_numpy(), published, rtol=1e-12)


@pytest.mark.parametrize(("ticker", "day", "ratio"), [("AAPL", "2014-06-09", 7.0), ("KO", "2012-08-13", 2.0)])
def test_prices_that_were_adjusted_before_are_doubted(data_folder: Path, ticker: str, day: str, ratio: float) -> None:
    path = data_folder / "bars_daily" / f"zipline_csvdir_{ticker}_2012-2014.csv.gz"
    with gzip.open(path, "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert {r["date"]: float(r["split"]) for r in rows if float(r["split"]) != 1} == {day: ratio}
    table = bars([at(r["date"]) for r in rows], {n: [float(r[n]) for r in rows] for n in PRICES})
    (mark,) = split_doubts(table, [split(day, ratio)])
    assert (mark.code, mark.ex_ns) == ("already_adjusted", at(day))
    raw = adjust(table, [split(day, 1 / ratio)], "split")  # as it was traded
    assert split_doubts(raw, [split(day, ratio)]) == ()
    np.testing.assert_allclose(
        adjust(raw, [split(day, ratio)], "split")["close"].to_numpy(), table["close"].to_numpy(), rtol=1e-12
    )


# --- by hand ---------------------------------------------------------------------------------------------------

THREE = [at("2024-03-01"), at("2024-03-04"), at("2024-03-05")]


def test_a_split_divides_prices_and_multiplies_volume_before_its_date() -> None:
    ours = adjust(
        bars(THREE, [90.0, 30.0, 31.0], [10.0, 33.0, 30.0], [91.5, 30.3, 31.2]), [split("2024-03-04", 3.0)], "split"
    )
    assert ours["close"].to_pylist() == pytest.approx([30.0, 30.0, 31.0])
    assert ours["open"].to_pylist() == pytest.approx([30.0, 30.0, 31.0])
    assert ours["vwap"].to_pylist() == pytest.approx([30.5, 30.3, 31.2])
    assert ours["volume"].to_pylist() == [30.0, 33.0, 30.0]
    assert ours.schema == BAR_SCHEMA


def test_a_dividend_takes_its_part_of_the_close_before_off_prices_alone() -> None:
    raw = bars(THREE, [100.0, 98.0, 99.0], [10.0, 20.0, 30.0])
    ours = adjust(raw, [dividend("2024-03-04", 2.0)], "all")
    assert ours["close"].to_pylist() == [98.0, 98.0, 99.0]
    assert ours["volume"].to_pylist() == [10.0, 20.0, 30.0]
    assert adjust(raw, [dividend("2024-03-04", 2.0)], "split").equals(raw)
    assert adjust(raw, [dividend("2024-03-04", 2.0)], "raw").equals(raw)


def test_absent_volume_stays_absent() -> None:
    ours = adjust(bars(THREE, [90.0, 30.0, 31.0]), [split("2024-03-04", 3.0)], "all")
    assert ours["volume"].to_pylist() == [None, None, None]
    assert ours["vwap"].to_pylist() == [None, None, None]


def test_a_dividend_before_a_split_is_in_old_shares() -> None:
    days = [at(f"2024-03-{d:02}") for d in (1, 4, 5, 6)]
    raw = bars(days, [100.0, 98.0, 49.0, 49.0])
    ours = adjust(raw, [dividend("2024-03-04", 2.0), split("2024-03-05", 2.0)], "all")
    assert ours["close"].to_pylist() == pytest.approx([49.0, 49.0, 49.0, 49.0])


def test_a_split_and_a_dividend_of_one_day() -> None:
    """The dividend is a share's that was held the day before: an old one."""
    raw = bars(THREE, [100.0, 19.0, 19.0])
    ours = adjust(raw, [split("2024-03-04", 5.0), dividend("2024-03-04", 5.0)], "all")
    assert ours["close"].to_pylist() == pytest.approx([19.0, 19.0, 19.0])


def test_minutes_are_adjusted_by_the_date_of_their_session() -> None:
    """A session that opens at 23:00 UTC belongs to the next day's date (Sydney in summer)."""
    ts = [at("2024-03-03T04:59"), at("2024-03-03T23:00"), at("2024-03-04T04:00")]
    raw = bars(ts, [90.0, 30.0, 31.0], interval="1m")
    action = [split("2024-03-04", 3.0)]

    def two_hours_ahead(table: pa.Table) -> Any:
        return (table["ts"].cast(pa.int64()).to_numpy() + 2 * 3600 * NS) // DAY * DAY

    by_session = adjust(raw, action, "split", session_of=two_hours_ahead)
    assert by_session["close"].to_pylist() == pytest.approx([30.0, 30.0, 31.0])
    assert adjust(raw, action, "split")["close"].to_pylist() == pytest.approx([30.0, 10.0, 31.0])


def test_a_range_that_ends_before_the_ex_date_takes_the_close_from_elsewhere() -> None:
    early = bars([at("2024-01-02")], [110.0])
    closes = bars([at("2024-01-02"), *THREE], [110.0, 100.0, 98.0, 99.0])
    action = [dividend("2024-03-04", 2.0)]
    assert adjust(early, action, "all", closes=closes)["close"].to_pylist() == pytest.approx([107.8])
    unknown = adjusted(early, action, "all")
    assert unknown.bars["close"].to_pylist() == [110.0]
    assert [mark.code for mark in unknown.marks] == ["no_previous_close"]


def test_a_dividend_larger_than_the_price_is_not_taken_off() -> None:
    told = adjusted(bars(THREE, [0.4, 0.4, 0.4]), [dividend("2024-03-04", 0.42)], "all")
    assert told.bars["close"].to_pylist() == [0.4, 0.4, 0.4]
    assert [mark.code for mark in told.marks] == ["dividend_exceeds_price"]


def test_withdrawn_actions_and_renames_change_nothing() -> None:
    raw = bars(THREE, [90.0, 30.0, 31.0])
    taken_back = CorporateAction(
        symbol="X", kind="split", ex_ns=THREE[1], provider="a", as_of_ns=0, ratio=3.0, withdrawn=True
    )
    rename = CorporateAction(symbol="X", kind="rename", ex_ns=THREE[1], provider="a", as_of_ns=0, new_symbol="Y")
    assert adjust(raw, [taken_back, rename], "all").equals(raw)


def test_what_makes_no_sense_is_named() -> None:
    raw = bars(THREE, [1.0, 1.0, 1.0])
    with pytest.raises(InvalidInput, match="adjustment: 'both' is not allowed; expected one of raw, split, all"):
        adjust(raw, (), "both")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"ratio: 0\.0"):
        adjust(raw, [split("2024-03-04", 0.0)], "split")
    with pytest.raises(InvalidInput, match="amount: -1"):
        adjust(raw, [dividend("2024-03-04", -1.0)], "all")


def test_an_empty_table_is_fine() -> None:
    empty = BAR_SCHEMA.empty_table()
    assert adjust(empty, [split("2024-03-04", 3.0)], "all").equals(empty)


# --- several providers -----------------------------------------------------------------------------------------


def codes(marks: tuple[object, ...]) -> list[str]:
    return [mark.code for mark in marks]  # type: ignore[attr-defined]


def test_an_action_from_one_provider_is_marked_and_used() -> None:
    chosen, marks = believed([split("2024-03-04", 3.0)])
    assert chosen == (split("2024-03-04", 3.0),)
    assert codes(marks) == ["single_source"]


def test_providers_that_agree_make_one_action() -> None:
    chosen, marks = believed([dividend("2024-03-04", 0.47), dividend("2024-03-04", 0.4685, "b", as_of_ns=5)])
    assert chosen == (dividend("2024-03-04", 0.47),)
    assert marks == ()


def test_the_majority_is_believed_and_the_quarrel_marked() -> None:
    told = [split("2024-03-04", 10.0, "a"), split("2024-03-04", 5.0, "b"), split("2024-03-04", 5.0, "c")]
    chosen, marks = believed(told)
    assert [a.ratio for a in chosen] == [5.0]
    assert codes(marks) == ["providers_disagree"]
    assert "a: 10 for 1 on 2024-03-04" in marks[0].detail


def test_among_equals_the_preferred_provider_then_the_older_knowledge_is_believed() -> None:
    told = [split("2024-03-04", 10.0, "a", as_of_ns=7), split("2024-03-04", 5.0, "b", as_of_ns=3)]
    assert [a.ratio for a in believed(told)[0]] == [5.0]
    assert [a.ratio for a in believed(told, prefer=("a",))[0]] == [10.0]


def test_one_split_with_two_dates_is_not_applied_twice() -> None:
    told = [split("2024-03-04", 5.0, "a"), split("2024-03-05", 5.0, "b"), split("2024-03-05", 5.0, "c")]
    chosen, marks = believed(told)
    assert [a.ex_ns for a in chosen] == [at("2024-03-05")]
    assert codes(marks) == ["dates_disagree"]


def test_equal_dividends_of_two_weeks_stay_two() -> None:
    told = [dividend(day, 0.1, provider) for day in ("2024-03-04", "2024-03-08") for provider in "ab"]
    chosen, marks = believed(told)
    assert [a.ex_ns for a in chosen] == [at("2024-03-04"), at("2024-03-08")]
    assert marks == ()


def test_unequal_values_a_few_days_apart_are_two_actions() -> None:
    chosen, _ = believed([dividend("2024-03-04", 0.1, "a"), dividend("2024-03-06", 2.0, "b")])
    assert [a.amount for a in chosen] == [0.1, 2.0]


def test_every_mark_is_explained() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "adjustment.md").read_text(encoding="utf-8")
    assert [code for code in MARKS if f"| `{code}` |" not in page] == []


# --- whatever the numbers --------------------------------------------------------------------------------------

_RATIO = st.floats(0.05, 20).filter(lambda r: abs(r - 1) > 0.01)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), mode=st.sampled_from(["raw", "split", "all"]))
def test_no_actions_is_the_identity(seed: int, mode: str) -> None:
    closes = (100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 50)))).tolist()
    table = bars([i * DAY for i in range(50)], closes)
    assert adjust(table, (), mode).equals(table)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), ratio=_RATIO, row=st.integers(1, 49))
def test_a_split_and_its_inverse_cancel(seed: int, ratio: float, row: int) -> None:
    closes = (100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 50)))).tolist()
    table = bars([i * DAY for i in range(50)], closes, [float(i + 1) for i in range(50)])
    there = CorporateAction(symbol="X", kind="split", ex_ns=row * DAY, provider="a", as_of_ns=0, ratio=ratio)
    back = CorporateAction(symbol="X", kind="split", ex_ns=row * DAY, provider="a", as_of_ns=0, ratio=1 / ratio)
    again = adjust(adjust(table, [there], "split"), [back], "split")
    for name in (*PRICES, "volume"):
        np.testing.assert_allclose(again[name].to_numpy(), table[name].to_numpy(), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    splits=st.dictionaries(st.integers(1, 59), _RATIO, max_size=3),
    paid=st.dictionaries(st.integers(1, 59), st.floats(0.001, 0.3), max_size=5),
)
def test_returns_across_every_ex_date_are_those_of_a_holder(
    seed: int, splits: dict[int, float], paid: dict[int, float]
) -> None:
    """A holder's returns are drawn first; traded prices follow from them, the splits and the dividends."""
    returns = np.random.default_rng(seed).normal(0, 0.02, 60)
    price, traded, actions = 100.0, [], []
    for i, step in enumerate(np.exp(returns).tolist()):
        if i and i in paid:
            amount = price * paid[i]
            actions.append(
                CorporateAction(symbol="X", kind="dividend", ex_ns=i * DAY, provider="a", as_of_ns=0, amount=amount)
            )
            price -= amount
        if i and i in splits:
            actions.append(
                CorporateAction(symbol="X", kind="split", ex_ns=i * DAY, provider="a", as_of_ns=0, ratio=splits[i])
            )
            price /= splits[i]
        price *= step if i else 1.0
        traded.append(price)
    ours = adjust(bars([i * DAY for i in range(60)], traded), actions, "all")["close"].to_numpy()
    np.testing.assert_allclose(np.diff(np.log(ours)), returns[1:], atol=1e-9)
    assert ours[-1] == traded[-1]
