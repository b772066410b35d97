"""Adjusted closes, dividends and splits of one file: what contradicts what. All numbers are typed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from bar_tables import DAY, at, weekdays
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.ingest.bar_checks_adjusted import ADJUSTED_CODES, check_adjusted


def frame(
    close: list[float],
    adjusted: list[float],
    dividend: dict[int, float] | None = None,
    split: dict[int, float] | None = None,
    gain: dict[int, float] | None = None,
    days: list[int] | None = None,
) -> pa.Table:
    n = len(close)
    ts = pa.array(days or weekdays("2023-01-02", n)).cast(pa.timestamp("ns", tz="UTC"))
    columns = {"ts": ts, "close": pa.array(close), "adj_close": pa.array(adjusted)}
    for name, told in (("dividend", dividend), ("split", split), ("capital_gain", gain)):
        columns[name] = pa.array([(told or {}).get(i, 0.0) for i in range(n)], pa.float64())
    return pa.table(columns)


def quiet(n: int = 40, level: float = 100.0) -> list[float]:
    """Closes that go up and down by half a per cent."""
    return [level * (1.005 if i % 2 else 1.0) for i in range(n)]


def codes(table: pa.Table) -> list[str]:
    return [finding.code for finding in check_adjusted(table)]


def test_a_consistent_file_has_no_findings() -> None:
    close = quiet()
    close[20:] = [c - 2.0 for c in close[20:]]
    adjusted = [c * (1 - 2.0 / close[19]) for c in close[:20]] + close[20:]
    assert codes(frame(close, adjusted, {20: 2.0})) == []


def test_a_dividend_that_was_not_taken_off() -> None:
    close = [19.35, 18.79, 18.90, 19.0, 18.66]
    (finding,) = check_adjusted(frame(close, close, {2: 0.7}))
    assert (finding.code, finding.rows) == ("adjustment_missing", 2)
    days = weekdays("2023-01-02", 5)
    assert (finding.at_ns, finding.start_ns, finding.end_ns) == (days[2], days[0], days[1])


def test_a_dividend_that_was_taken_off_twice() -> None:
    close = quiet()
    adjusted = [c * (1 - 4.0 / close[19]) for c in close[:20]] + close[20:]
    assert codes(frame(close, adjusted, {20: 2.0})) == ["adjustment_twice"]


def test_an_adjustment_a_hundred_times_too_small_and_a_dividend_a_hundred_times_too_large() -> None:
    close = quiet()
    close[20:] = [c - 2.0 for c in close[20:]]
    small = [c * (1 - 0.02 / close[19]) for c in close[:20]] + close[20:]
    (finding,) = check_adjusted(frame(close, small, {20: 2.0}))
    assert (finding.code, finding.rows) == ("adjustment_scaled", 20)
    right = [c * (1 - 0.4 / 100.5) for c in quiet()[:20]] + quiet()[20:]
    (finding,) = check_adjusted(frame(quiet(), right, {20: 40.0}))
    assert (finding.code, finding.rows) == ("dividend_scaled", 1)


def test_a_usual_dividend_is_believed_even_when_the_price_stood_still() -> None:
    close = quiet()
    tiny = [c * (1 - 0.04 / close[19]) for c in close[:20]] + close[20:]
    (finding,) = check_adjusted(frame(close, tiny, {20: 4.0}))
    assert (finding.code, finding.rows) == ("adjustment_scaled", 20)


def test_a_dividend_quoted_before_a_split() -> None:
    close = quiet()
    adjusted = [c * (1 - 0.5 / close[19]) for c in close[:20]] + close[20:]
    (finding,) = check_adjusted(frame(close, adjusted, {20: 2.5}, {20: 5.0}))
    assert (finding.code, finding.rows) == ("dividend_not_split_adjusted", 1)


def test_an_adjustment_without_a_dividend() -> None:
    close = quiet()
    adjusted = [c * 0.97 for c in close[:20]] + close[20:]
    assert codes(frame(close, adjusted)) == ["adjustment_without_dividend"]


def test_a_capital_gain_counted_twice() -> None:
    close = quiet()
    close[20:] = [c - 9.0 for c in close[20:]]
    adjusted = [c * (1 - (9.0 + 8.0) / close[19]) for c in close[:20]] + close[20:]
    assert codes(frame(close, adjusted, {20: 9.0}, gain={20: 8.0})) == ["capital_gain_twice"]


def test_a_dividend_that_the_price_never_noticed() -> None:
    close = quiet()
    adjusted = [c * (1 - 18.0 / close[19]) for c in close[:20]] + close[20:]
    (finding,) = check_adjusted(frame(close, adjusted, {20: 18.0}))
    assert (finding.code, finding.rows) == ("dividend_too_large", 21)


def test_a_large_dividend_that_the_price_followed_is_healthy() -> None:
    close = quiet()
    close[20:] = [c - 35.0 for c in close[20:]]
    adjusted = [c * (1 - 35.0 / close[19]) for c in close[:20]] + close[20:]
    assert codes(frame(close, adjusted, {20: 35.0})) == []


def test_a_dividend_dated_a_day_early() -> None:
    close = quiet()
    close[21:] = [c * 0.86 for c in close[21:]]
    adjusted = [c * (1 - 15.0 / close[19]) for c in close[:20]] + close[20:]
    (finding,) = check_adjusted(frame(close, adjusted, {20: 15.0}))
    assert finding.code == "dividend_day_off"
    assert "on the next day" in finding.detail


def test_a_dividend_told_on_two_days_in_a_row() -> None:
    close = quiet()
    close[21:] = [c - 3.5 for c in close[21:]]
    first, second = 1 - 3.5 / close[19], 1 - 3.5 / close[20]
    adjusted = [c * first * second for c in close[:20]] + [close[20] * second] + close[21:]
    (finding,) = check_adjusted(frame(close, adjusted, {20: 3.5, 21: 3.5}))
    assert (finding.code, finding.at_ns) == ("dividend_repeated", weekdays("2023-01-02", 21)[20])


def test_a_dividend_larger_than_the_price_makes_adjusted_closes_negative() -> None:
    close = quiet(level=0.4)
    adjusted = [c * (1 - 0.42 / close[19]) for c in close[:20]] + close[20:]
    found = check_adjusted(frame(close, adjusted, {20: 0.42}))
    assert [(f.code, f.rows) for f in found] == [("adjusted_not_positive", 20), ("dividend_exceeds_price", 21)]


def test_regular_dividends_in_a_unit_too_large() -> None:
    """Four times a dividend of 0.015 %, and the price fell by 1.5 % each time."""
    close, at_rows = quiet(60), (10, 22, 34, 46)
    for row in at_rows:
        close[row:] = [c * 0.985 for c in close[row:]]
    dividend = {row: close[row - 1] * 0.00015 for row in at_rows}
    adjusted = list(close)
    for row in at_rows:
        adjusted[:row] = [a * (1 - 0.00015) for a in adjusted[:row]]
    assert codes(frame(close, adjusted, dividend)) == ["dividend_too_small"] * 4
    steady = quiet(60)
    healthy = list(steady)
    for row in at_rows:
        healthy[:row] = [a * (1 - 0.015 / steady[row - 1]) for a in healthy[:row]]
    assert codes(frame(steady, healthy, dict.fromkeys(at_rows, 0.015))) == []


def test_values_that_are_no_prices() -> None:
    close = quiet(10)
    found = check_adjusted(frame(close, [-np.inf] * 3 + close[3:]))
    assert [(f.code, f.rows) for f in found] == [("adjusted_not_finite", 3)]


@pytest.mark.parametrize("early", [0, 1, 6])
def test_a_split_that_was_not_applied(early: int) -> None:
    close = quiet()
    close[: 20 - early] = [c * 5 for c in close[: 20 - early]]
    (finding,) = check_adjusted(frame(close, close, split={20: 5.0}))
    assert (finding.code, finding.rows) == ("split_missing", 20 - early)


def test_a_split_that_was_applied_twice_and_one_that_was_applied() -> None:
    close = quiet()
    assert codes(frame(close, close, split={20: 5.0})) == []
    close[:20] = [c / 5 for c in close[:20]]
    assert codes(frame(close, close, split={20: 5.0})) == ["split_twice"]


def test_one_row_off_near_a_split_is_no_finding_about_the_split() -> None:
    close = quiet()
    close[18] /= 10
    assert codes(frame(close, close, split={20: 0.1})) == []


def test_a_weekly_bar_may_carry_its_dividend_to_the_next() -> None:
    weeks = [at("2022-01-03") + i * 7 * DAY for i in range(40)]
    close = quiet()
    adjusted = [c * (1 - 2.0 / close[20]) for c in close[:21]] + close[21:]
    assert codes(frame(close, adjusted, {20: 2.0}, days=weeks)) == []
    assert codes(frame(close, close, {20: 2.0}, days=weeks)) == ["adjustment_missing"]


def test_a_dividend_on_a_day_without_a_price_counts_on_the_next() -> None:
    close = [*quiet(20), float("nan"), *quiet(19)]
    adjusted = [c * (1 - 2.0 / close[19]) for c in close[:20]] + close[20:]
    assert codes(frame(close, adjusted, {20: 2.0})) == []


def test_columns_that_are_missing_are_named() -> None:
    with pytest.raises(InvalidInput, match="missing: adj_close"):
        check_adjusted(frame(quiet(), quiet()).drop_columns(["adj_close"]))
    assert check_adjusted(frame([], [])) == ()
    assert check_adjusted(frame([1.0], [1.0])) == ()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.sets(st.integers(5, 240), max_size=8), part=st.floats(0.002, 0.07))
def test_files_adjusted_by_the_rule_have_no_findings(seed: int, rows: set[int], part: float) -> None:
    """Built backwards with the published rule: each dividend takes its part of the close before off all before it."""
    rng = np.random.default_rng(seed)
    rows = {row for row in rows if not {row - 1, row + 1} & rows}
    moves = rng.normal(0, 0.01, 250)
    for row in rows:
        moves[row] += np.log(1 - part)
    close = 50 * np.exp(np.cumsum(moves))
    factor = np.ones(250)
    for row in rows:
        factor[:row] *= 1 - part
    dividends = {row: float(close[row - 1] * part) for row in rows}
    assert codes(frame(close.tolist(), (close * factor).tolist(), dividends)) == []


_VALUE = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 100.0, -1.0]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_VALUE, _VALUE, _VALUE, _VALUE, _VALUE), max_size=25))
def test_nothing_that_comes_in_makes_the_check_fail(rows: list[tuple[float, ...]]) -> None:
    close, adjusted, dividend, split, gain = (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 5
    table = frame(close, adjusted, dict(enumerate(dividend)), dict(enumerate(split)), dict(enumerate(gain)))
    assert all(f.code in ADJUSTED_CODES and f.start_ns <= f.end_ns and f.rows > 0 for f in check_adjusted(table))
