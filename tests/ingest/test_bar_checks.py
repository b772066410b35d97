"""Historical bars: what one row, its neighbours or its series shows to be wrong, and what is odd and true."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from bar_tables import (
    DAY,
    HOUR,
    MINUTE,
    NOW,
    NS,
    at,
    bars,
    codes,
    minutes,
    reasons,
    scaled,
    shifted,
    walk,
    weekdays,
    with_rows,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.ingest.bar_checks import NOTES, REASONS, BarContext, check_bars
from marketd.ingest.bar_checks_adjusted import ADJUSTED_CODES
from marketd.model import BAR_SCHEMA, CorporateAction

SHARE = BarContext(now_ns=NOW)
OIL = BarContext(now_ns=NOW, asset_class="commodity")

# New York, the week of 2025-01-06 (winter) and that of 2025-07-07 (summer): 09:30 to 16:00 local
WINTER = [(at(f"2025-01-{d:02}T14:30"), at(f"2025-01-{d:02}T21:00")) for d in (6, 7, 8, 10, 13)]  # the 9th: mourning
SUMMER = [(at(f"2025-07-{d:02}T13:30"), at(f"2025-07-{d:02}T20:00")) for d in (7, 8, 9, 10, 11)]


def in_sessions(sessions: list[tuple[int, int]], step: int) -> list[int]:
    return [ts for start, end in sessions for ts in range(start, end, step)]


def new_york(sessions: list[tuple[int, int]]) -> BarContext:
    return BarContext(now_ns=NOW, open_spans=np.array(sessions, np.int64))


# --- one row by itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"high": 99.0}, "high_below_low"),
        ({"open": 108.0}, "outside_range"),
        ({"open": 92.0}, "outside_range"),
        ({"close": 107.5}, "outside_range"),
        ({"close": 0.0}, "non_positive"),
        ({"low": -1.0}, "non_positive"),
        ({"close": math.nan}, "not_finite"),
        ({"open": None}, "not_finite"),
        ({"high": math.inf}, "not_finite"),
        ({"low": -math.inf}, "not_finite"),
        ({"volume": math.inf}, "not_finite"),
        ({"volume": math.nan}, "not_finite"),
        ({"volume": -1.0}, "negative_volume"),
        ({"trades": -1}, "negative_volume"),
        ({"vwap": math.inf}, "not_finite"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused_and_the_others_are_kept(
    values: dict[str, float | None], reason: str
) -> None:
    table = bars(minutes("2025-01-06T15:00", 3), [100.0, 102, 101], high=[103.0, 107, 104], low=[99.0, 100, 98])
    checked = check_bars(with_rows(table, [1], **values), SHARE)
    assert reasons(checked) == {1: reason}
    assert checked.refused == {reason: 1}
    assert checked.good["close"].to_pylist() == [100.0, 101.0]
    assert checked.good.schema.names == BAR_SCHEMA.names


def test_absent_volume_and_zero_volume_are_no_faults() -> None:
    table = bars(minutes("2025-01-06T15:00", 2), [4000.0, 4001.0], volume=[0.0, None])
    assert check_bars(table, BarContext(now_ns=NOW, asset_class="index")).refused == {}


def test_prices_that_went_through_single_precision_may_miss_the_range_by_a_rounding() -> None:
    table = bars([at("2025-01-06T15:00")], [0.0529999993741512], high=[0.053], low=[0.053])
    assert check_bars(table, SHARE).refused == {}


def test_oil_below_zero_is_accepted_where_a_share_is_refused() -> None:
    days = weekdays("2020-04-15", 7)
    prices = [19.96, 19.82, 18.31, -36.98, 8.91, 13.64, 15.06]  # West Texas Intermediate, as published
    table = bars(days, prices, interval="1d")
    assert check_bars(table, OIL).refused == {}
    assert check_bars(table, OIL).notes == ()
    assert reasons(check_bars(table, SHARE)) == {3: "non_positive"}
    assert check_bars(table, BarContext(now_ns=NOW, asset_class="equity", allow_negative=True)).refused == {}
    assert check_bars(table, BarContext(now_ns=NOW, asset_class="future", allow_negative=False)).refused == {
        "non_positive": 1
    }


def test_a_lost_or_gained_minus_is_not_a_real_negative_price() -> None:
    table = bars(weekdays("2020-03-02", 5), [51.0, 50.5, -50.8, 50.2, 51.1], interval="1d")
    assert reasons(check_bars(table, OIL)) == {2: "non_positive"}


def test_a_row_of_zeros_is_a_placeholder_even_where_prices_may_be_negative() -> None:
    table = bars(weekdays("2020-03-02", 5), [51.0, 50.5, 0.0, 50.2, 51.1], interval="1d")
    assert reasons(check_bars(table, OIL)) == {2: "non_positive"}
    rate = BarContext(now_ns=NOW, asset_class="rate")
    assert check_bars(bars(weekdays("2020-03-02", 4), [0.02, 0.01, 0.0, 0.01], interval="1d"), rate).refused == {}


def test_withdrawn_bars_pass_whatever_their_prices() -> None:
    table = bars(minutes("2025-01-06T15:00", 2), [0.0, 0.0], status="withdrawn")
    assert check_bars(table, SHARE).refused == {}


# --- stamps ----------------------------------------------------------------------------------------------------


def test_future_and_unfinished_bars_are_refused() -> None:
    now = at("2025-01-06T15:02:30")
    table = bars(minutes("2025-01-06T15:00", 4), [100.0] * 4)
    assert reasons(check_bars(table, BarContext(now_ns=now))) == {2: "unfinished", 3: "future"}
    assert reasons(check_bars(table, BarContext(now_ns=at("2025-01-06T15:03")))) == {3: "unfinished"}


def test_a_daily_bar_is_finished_when_its_session_has_closed() -> None:
    table = bars([at("2025-01-06")], [100.0], interval="1d")
    spans = np.array(WINTER, np.int64)
    early = BarContext(now_ns=at("2025-01-06T20:59"), open_spans=spans)
    late = BarContext(now_ns=at("2025-01-06T21:00"), open_spans=spans)
    assert reasons(check_bars(table, early)) == {0: "unfinished"}
    assert reasons(check_bars(table, late)) == {}
    assert reasons(check_bars(table, BarContext(now_ns=at("2025-01-06T21:00")))) == {0: "unfinished"}


def test_stamps_off_the_grid_are_misaligned_or_overlap() -> None:
    times = [at("2025-01-06T15:00"), at("2025-01-06T15:01"), at("2025-01-06T15:01:20"), at("2025-01-06T15:07:20")]
    checked = check_bars(bars(times, [1.0] * 4), SHARE)
    assert reasons(checked) == {2: "overlapping", 3: "misaligned"}


def test_a_file_on_a_grid_of_its_own_is_told_by_how_much() -> None:
    times = [at("2025-01-06T14:30") + i * HOUR for i in range(6)]
    checked = check_bars(bars(times, [1.0] * 6, interval="1h"), SHARE)
    assert checked.refused == {"misaligned": 6}
    assert [n.detail for n in checked.notes] == ["bars of 1h start 1800 s after its multiples"]


@pytest.mark.parametrize(("factor", "word"), [(1_000, "milliseconds"), (1_000_000, "microseconds")])
def test_seconds_taken_for_a_finer_unit_are_recognised(factor: int, word: str) -> None:
    true = minutes("2025-01-06T15:00", 8)
    checked = check_bars(walk([ts // factor for ts in true]), SHARE)
    assert checked.refused == {"time_unit": 8}
    (note,) = checked.notes
    assert note.code == "time_unit"
    assert word in note.detail
    assert "2025-01-06T15:00:00Z" in note.detail


def test_milliseconds_taken_for_seconds_are_in_the_year_57000() -> None:
    table = walk(minutes("2025-01-06T15:00", 4))
    milliseconds = [*(ts // 1_000_000 for ts in minutes("2025-01-06T15:00", 3)), None]
    for unit in ("s", "ms"):
        stamps = pa.array([t if t is None or unit == "s" else t * 1000 for t in milliseconds])
        checked = check_bars(table.set_column(3, "ts", stamps.cast(pa.timestamp(unit, "UTC"))), SHARE)
        assert reasons(checked) == {0: "time_unit", 1: "time_unit", 2: "time_unit", 3: "no_time"}
    true = pa.array(minutes("2025-01-06T15:00", 4)).cast(pa.timestamp("ns", "UTC")).cast(pa.timestamp("ms", "UTC"))
    assert check_bars(table.set_column(3, "ts", true), SHARE).refused == {}


def test_real_bars_of_1970_and_before_are_accepted() -> None:
    days = weekdays("1969-12-01", 60)
    assert check_bars(walk(days, interval="1d"), BarContext(now_ns=NOW, asset_class="index")).refused == {}
    assert check_bars(bars([at("1799-12-31")], [1.0], interval="1d"), SHARE).refused == {"bad_time": 1}
    assert reasons(check_bars(bars([None, at("2025-01-06")], [1.0, 1.0]), SHARE)) == {0: "no_time"}


def test_equal_duplicates_keep_the_first_and_unequal_ones_none() -> None:
    t0, t1, t2 = minutes("2025-01-06T15:00", 3)
    table = bars([t0, t1, t1, t2, t2, t2, t0], [100.0, 101, 101, 102, 102.5, 102, 100], volume=[5.0] * 7)
    assert reasons(check_bars(table, SHARE)) == {
        2: "duplicate",
        3: "conflicting_duplicate",
        4: "conflicting_duplicate",
        5: "conflicting_duplicate",
        6: "duplicate",
    }


def test_a_broken_twin_does_not_take_the_good_row_with_it() -> None:
    t0 = at("2025-01-06T15:00")
    assert reasons(check_bars(bars([t0, t0], [math.nan, 100.0]), SHARE)) == {0: "not_finite"}


def test_two_symbols_and_two_providers_are_no_duplicates() -> None:
    t0 = at("2025-01-06T15:00")
    table = pa.concat_tables(
        [bars([t0, t0], [1.0, 2.0], symbol=["A", "B"]), bars([t0], [1.1], symbol="A", provider="other")]
    )
    assert check_bars(table, SHARE).refused == {}


def test_newest_first_is_an_order_and_a_jumble_is_noted_and_kept() -> None:
    table = walk(minutes("2025-01-06T15:00", 30))
    backwards = table.take(list(range(29, -1, -1)))
    jumbled = table.take([3, 0, 2, 1, *range(4, 30)])
    assert check_bars(backwards, SHARE).notes == ()
    assert check_bars(backwards, SHARE).refused == {}
    checked = check_bars(jumbled, SHARE)
    assert codes(checked) == {"unordered"}
    assert checked.good.equals(jumbled)


# --- sessions --------------------------------------------------------------------------------------------------


def test_bars_when_the_venue_is_closed_are_refused() -> None:
    night, saturday = at("2025-07-08T03:00"), at("2025-07-12T15:00")
    times = sorted([*in_sessions(SUMMER, MINUTE), night, saturday])
    checked = check_bars(walk(times), new_york(SUMMER))
    assert reasons(checked) == {times.index(night): "outside_session", times.index(saturday): "outside_session"}
    assert checked.notes == ()


def test_the_bar_of_the_closing_auction_belongs_to_the_session() -> None:
    times = [*in_sessions(SUMMER, MINUTE), at("2025-07-08T20:00"), at("2025-07-08T20:10")]
    assert check_bars(walk(times), new_york(SUMMER)).refused == {}
    strict = BarContext(now_ns=NOW, open_spans=np.array(SUMMER, np.int64), after_close_ns=0)
    assert check_bars(walk(times), strict).refused == {"outside_session": 2}


@pytest.mark.parametrize("hours", [-5, -1, 1, 4, 5.5, 9])
@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_a_wrong_time_zone_is_told_with_the_hours(hours: float, interval: str) -> None:
    step = MINUTE if interval == "1m" else HOUR
    true = [ts - ts % step for ts in in_sessions(SUMMER, step)]
    if interval == "1h" and hours == 5.5:
        return
    spans = [(s, e) for s, e in SUMMER]
    checked = check_bars(walk([ts + int(hours * HOUR) for ts in true], interval=interval), new_york(spans))
    assert checked.refused == {"time_zone": len(true)}
    (note,) = checked.notes
    assert f"moved by {-hours:+g} h" in note.detail


def test_standard_time_in_summer_is_told_for_the_summer_alone() -> None:
    wrong_summer = [ts + HOUR for ts in in_sessions(SUMMER, MINUTE)]
    good_winter = in_sessions(WINTER, MINUTE)
    checked = check_bars(walk([*good_winter, *wrong_summer]), new_york([*WINTER, *SUMMER]))
    assert checked.refused == {"time_zone": len(wrong_summer)}
    assert min(reasons(checked)) == len(good_winter)


def test_a_calendar_that_does_not_fit_is_doubted_itself() -> None:
    around_the_clock = [at("2025-07-07") + i * 15 * MINUTE for i in range(96 * 5)]
    checked = check_bars(walk(around_the_clock, interval="15m"), new_york(SUMMER))
    assert "calendar_doubt" in codes(checked)


@pytest.mark.parametrize("days", [-1, 1])
def test_dates_a_day_off_are_told_with_the_days(days: int) -> None:
    sessions = weekdays("2025-06-02", 40)
    expected = np.array(weekdays("2025-05-01", 120), np.int64)
    context = BarContext(now_ns=NOW, expected_starts=expected)
    assert check_bars(walk(sessions, interval="1d"), context).refused == {}
    checked = check_bars(walk([ts + days * DAY for ts in sessions], interval="1d"), context)
    assert checked.refused == {"day_shifted": 40}
    assert f"moved by {-days:+d} day" in checked.notes[0].detail


def test_a_daily_bar_on_a_holiday_is_refused_alone() -> None:
    spans = np.array(
        [[day + 14 * HOUR, day + 20 * HOUR] for day in weekdays("2025-06-02", 40) if day != at("2025-07-04")]
    )
    checked = check_bars(walk(weekdays("2025-06-02", 40), interval="1d"), BarContext(now_ns=NOW, open_spans=spans))
    assert checked.refused == {"outside_session": 1}
    assert checked.bars["ts"].filter(pa.array(checked.reasons > 0)).cast(pa.int64()).to_pylist() == [at("2025-07-04")]


def test_without_a_calendar_weekend_dates_are_noted_and_kept() -> None:
    table = walk([ts - DAY for ts in weekdays("2025-06-02", 40)], interval="1d")
    checked = check_bars(table, SHARE)
    assert (checked.refused, codes(checked)) == ({}, {"weekend_dates"})
    assert "no Fridays" in checked.notes[0].detail
    always_open = BarContext(now_ns=NOW, asset_class="crypto")
    assert check_bars(table, always_open).notes == ()


# --- neighbours ------------------------------------------------------------------------------------------------

YEAR = weekdays("2024-01-01", 250)


@pytest.mark.parametrize("factor", [100.0, 0.01, 10.0, 0.1, 1000.0])
@pytest.mark.parametrize("rows", [[120], [120, 121, 122], list(range(100, 130))])
def test_a_stretch_in_another_unit_is_refused_when_the_level_comes_back(factor: float, rows: list[int]) -> None:
    checked = check_bars(scaled(walk(YEAR, interval="1d"), rows, factor), SHARE)
    assert checked.refused == {"unit_error": len(rows)}
    assert list(reasons(checked)) == rows


@pytest.mark.parametrize("factor", [0.5, 3.3, 7.0, 5e-7, 3e5])
def test_a_stretch_of_other_prices_is_refused_when_the_level_comes_back(factor: float) -> None:
    rows = list(range(60, 75))
    checked = check_bars(scaled(walk(YEAR, interval="1d"), rows, factor), SHARE)
    assert reasons(checked) == dict.fromkeys(rows, "off_level")


def test_a_new_unit_for_good_is_noted_and_kept() -> None:
    rows = list(range(200, 250))
    checked = check_bars(scaled(walk(YEAR, interval="1d"), rows, 0.01), SHARE)
    assert (checked.refused, codes(checked)) == ({}, {"unit_change"})
    (note,) = checked.notes
    assert (note.rows, note.start_ns, note.end_ns) == (50, YEAR[200], YEAR[249])


def test_a_last_row_off_level_may_be_a_crash_and_is_kept() -> None:
    checked = check_bars(scaled(walk(YEAR, interval="1d"), [249], 0.1), SHARE)
    assert (checked.refused, codes(checked)) == ({}, {"level_change"})


def test_units_that_take_turns_are_told_by_where_the_volume_is() -> None:
    """Pence, pounds, pence: the middle is shorter, and the only trade was there."""
    prices = [0.1455] * 4 + [14.55] * 9 + [0.1455] * 10
    volume = [0.0] * 11 + [532454.0] + [0.0] * 11
    checked = check_bars(bars(weekdays("2022-05-03", 23), prices, volume=volume, interval="1d"), SHARE)
    assert checked.refused == {}
    assert [(n.code, n.rows) for n in checked.notes] == [("unit_change", 4), ("unit_change", 10)]


def test_a_stretch_that_outweighs_the_rest_is_not_refused() -> None:
    """Only the sixty bars around it were traded, but it is longer than they are."""
    stretch = list(range(30, 130))
    table = scaled(with_rows(walk(YEAR[:160], interval="1d"), stretch, volume=0.0), stretch, 0.01)
    checked = check_bars(table, SHARE)
    assert (checked.refused, codes(checked)) == ({}, {"unit_change"})


def test_one_price_of_a_bar_in_another_unit_is_refused() -> None:
    table = with_rows(walk(YEAR, interval="1d"), [50], low=1.0)
    assert reasons(check_bars(table, SHARE)) == {50: "unit_error"}


def test_a_split_is_a_note_until_the_action_is_known() -> None:
    raw = scaled(walk(YEAR, interval="1d"), list(range(125, 250)), 1 / 7)
    (note,) = check_bars(raw, SHARE).notes
    assert note.code == "level_change"
    assert "a split of 7:1" in note.detail or "a split of 1:7" in note.detail
    split = CorporateAction(symbol="AAPL", kind="split", ex_ns=YEAR[125], provider="a", as_of_ns=0, ratio=7.0)
    checked = check_bars(raw, BarContext(now_ns=NOW, actions=(split,)))
    assert (checked.refused, checked.notes) == ({}, ())


def test_a_real_crash_and_a_real_recovery_are_accepted() -> None:
    prices = [100.0] * 20 + [48.2, 45.0, 47.5] + [50.0] * 20 + [81.0] + [80.0] * 20  # half in a day, +62 % in another
    jitter = np.random.default_rng(0).normal(1, 0.01, len(prices))
    days = weekdays("2024-01-01", len(prices))
    checked = check_bars(bars(days, (np.array(prices) * jitter).tolist(), interval="1d"), SHARE)
    assert checked.refused == {}


def test_option_prices_have_no_level() -> None:
    prices = [1.0, 9.0, 0.8, 11.0, 1.1, 0.9, 12.0, 1.0] * 4
    option = BarContext(now_ns=NOW, asset_class="option")
    checked = check_bars(bars(weekdays("2024-01-01", 32), prices, interval="1d"), option)
    assert (checked.refused, checked.notes) == ({}, ())


def test_a_stuck_feed_is_refused_from_its_first_repetition() -> None:
    table = walk(YEAR, interval="1d")
    last = {name: table[name][99].as_py() for name in ("open", "high", "low", "close", "volume")}
    checked = check_bars(with_rows(table, list(range(100, 110)), **last), SHARE)
    assert reasons(checked) == dict.fromkeys(range(100, 110), "repeated_bar")


def test_a_flat_constant_stretch_with_volume_is_refused_whole() -> None:
    table = with_rows(walk(YEAR, interval="1d"), list(range(50, 100)), open=100.0, high=100.0, low=100.0, close=100.0)
    checked = check_bars(with_rows(table, list(range(50, 100)), volume=1e8), SHARE)
    assert reasons(checked) == dict.fromkeys(range(50, 100), "repeated_bar")


@pytest.mark.parametrize("volume", [None, 0.25])
def test_a_token_of_next_to_no_price_is_healthy(volume: float | None) -> None:
    table = walk(YEAR, interval="1d", level=3e-11)
    part = [None if volume is None else volume * v for v in table["volume"].to_numpy() / 1e6]
    table = table.set_column(8, "volume", pa.array(part, pa.float64()))
    assert check_bars(table, BarContext(now_ns=NOW, asset_class="crypto")).refused == {}


def test_bars_that_climb_by_equal_steps_were_filled_in() -> None:
    table = walk(YEAR, interval="1d")
    for k, row in enumerate(range(30, 54), start=1):
        filled = {name: table[name][29].as_py() + k * 0.01 for name in ("open", "high", "low", "close")}
        table = with_rows(table, [row], **filled, volume=table["volume"][29].as_py() + 1000.0 * k)
    assert reasons(check_bars(table, SHARE)) == dict.fromkeys(range(30, 54), "repeated_bar")


def test_an_unchanged_price_without_trades_is_the_truth() -> None:
    table = bars(YEAR, [14.55] * 250, volume=[0.0] * 250, interval="1d")
    assert check_bars(table, SHARE).refused == {}
    assert check_bars(table, SHARE).notes == ()


def test_single_lots_at_one_price_in_a_quiet_hour_are_real() -> None:
    rng = np.random.default_rng(3)
    steps = rng.choice([-0.01, 0.0, 0.0, 0.01], 3000)
    price = (96 + np.cumsum(steps)).round(2).tolist()
    volume = rng.choice([1.0, 1.0, 2.0, 5.0], 3000).tolist()
    checked = check_bars(bars(minutes("2025-01-06T00:00", 3000), price, volume=volume), OIL)
    assert checked.refused == {}


def test_a_long_flat_stretch_without_volume_is_noted() -> None:
    table = with_rows(
        walk(YEAR, interval="1d"), list(range(60, 100)), open=1e2, high=1e2, low=1e2, close=1e2, volume=0.0
    )
    checked = check_bars(table, SHARE)
    assert (checked.refused, codes(checked)) == ({}, {"flat_stretch"})


# --- beside the bars that are known ----------------------------------------------------------------------------


def test_one_new_row_is_judged_by_the_known_bars_around_it() -> None:
    table = walk(YEAR, interval="1d")
    known = table.take([i for i in range(250) if i != 125])
    alone = scaled(table.slice(125, 1), [0], 0.01)
    assert check_bars(alone, SHARE).refused == {}
    assert check_bars(alone, BarContext(now_ns=NOW, known=known)).refused == {"unit_error": 1}


def test_known_bars_are_never_judged() -> None:
    known = scaled(walk(YEAR[:100], interval="1d"), [50], 100.0)
    fresh = walk(YEAR[100:], interval="1d", seed=1)
    checked = check_bars(fresh, BarContext(now_ns=NOW, known=known))
    assert checked.refused == {}
    assert checked.good.equals(fresh)


@pytest.mark.parametrize("days", [-1, 1, 2])
def test_a_file_shifted_against_the_known_bars_is_refused_whole(days: int) -> None:
    table = walk([at("2024-01-01") + i * DAY for i in range(200)], interval="1d", symbol="BTC-USD")
    crypto = BarContext(now_ns=NOW, asset_class="crypto", known=table)
    checked = check_bars(shifted(table.slice(20, 100), days * DAY), crypto)
    assert checked.refused == {"file_shifted": 100}
    assert f"moved by {-days:+d} days" in checked.notes[0].detail
    assert check_bars(table.slice(20, 100), crypto).refused == {}


def test_another_provider_with_slightly_other_prices_is_not_shifted() -> None:
    table = walk([at("2024-01-01") + i * DAY for i in range(200)], interval="1d", symbol="BTC-USD")
    noise = np.random.default_rng(9).normal(1, 0.0005, 200)
    other = table
    for name in ("open", "high", "low", "close"):
        values = table[name].to_numpy() * noise
        other = other.set_column(other.schema.get_field_index(name), name, pa.array(values))
    crypto = BarContext(now_ns=NOW, asset_class="crypto", known=table)
    assert check_bars(other, crypto).notes == ()


def test_a_likeness_that_is_not_close_is_no_shift() -> None:
    days = [at("2024-01-01") + i * DAY for i in range(120)]
    climb = 100 * 1.05 ** np.arange(120)
    known = bars(days, climb.tolist(), interval="1d")
    noise = np.random.default_rng(4).normal(1, 0.006, 119)
    other = bars(days[1:], (climb[:-1] * noise).tolist(), interval="1d")
    assert check_bars(other, BarContext(now_ns=NOW, known=known)).refused == {}
    same = bars(days[1:], climb[:-1].tolist(), interval="1d")
    assert check_bars(same, BarContext(now_ns=NOW, known=known)).refused == {"file_shifted": 119}


# --- the shape of the answer -----------------------------------------------------------------------------------


def test_quarantined_rows_say_where_they_were() -> None:
    table = with_rows(bars(minutes("2025-01-06T15:00", 3), [100.0, 101, 102]), [1], close=None)
    (row,) = check_bars(table, SHARE).quarantined("yahoo", 7)
    assert (row.source, row.time_received_ns, row.reason, row.symbol, row.where) == (
        "yahoo", 7, "not_finite", "AAPL", "row 1",
    )  # fmt: skip
    assert row.detail == "1m 2025-01-06T15:01:00Z o=101.0 h=101.0 l=101.0 c=None v=None"
    zeros = bars(minutes("2025-01-06T15:00", 50), [0.0] * 50)
    assert len(check_bars(zeros, SHARE).quarantined("yahoo", 7, limit=10)) == 10


def test_an_empty_table_is_fine() -> None:
    checked = check_bars(BAR_SCHEMA.empty_table(), SHARE)
    assert (checked.refused, checked.notes, checked.good.num_rows) == ({}, (), 0)


def test_what_cannot_be_judged_is_named() -> None:
    table = walk(minutes("2025-01-06T15:00", 3))
    with pytest.raises(InvalidInput, match="missing: close"):
        check_bars(table.drop_columns(["close"]), SHARE)
    with pytest.raises(InvalidInput, match="interval: '7m'"):
        check_bars(walk(minutes("2025-01-06T15:00", 3), interval="7m"), SHARE)
    with pytest.raises(InvalidInput, match="open: 'string'"):
        check_bars(table.set_column(4, "open", pa.array(["a", "b", "c"])), SHARE)
    with pytest.raises(InvalidInput, match="open_spans"):
        BarContext(now_ns=NOW, open_spans=np.zeros(4, np.int64))
    with pytest.raises(InvalidInput, match="after_close_ns"):
        BarContext(now_ns=NOW, after_close_ns=-1)


def test_every_word_is_explained() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "quarantine.md").read_text(encoding="utf-8")
    assert [word for word in (*REASONS[1:], *NOTES, *ADJUSTED_CODES) if f"| `{word}` |" not in page] == []
    assert REASONS[0] == "ok"
    assert len(set(REASONS)) == len(REASONS) < 256


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 400), level=st.floats(1e-10, 500_000))
def test_healthy_walks_are_never_refused(seed: int, n: int, level: float) -> None:
    daily = check_bars(walk(weekdays("2010-01-04", n), seed=seed, level=level, interval="1d"), SHARE)
    minute = check_bars(walk(minutes("2025-01-06T15:00", n), seed=seed, level=level), SHARE)
    assert (daily.refused, daily.notes, minute.refused, minute.notes) == ({}, (), {}, ())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.sets(st.integers(3, 196), min_size=1, max_size=20), data=st.data())
def test_corrupted_rows_are_found_and_no_others_in_any_order(seed: int, rows: set[int], data: st.DataObject) -> None:
    faults = {
        "not_finite": {"high": math.nan},
        "non_positive": {"low": -3.0},
        "negative_volume": {"volume": -5.0},
        "high_below_low": {"high": 1.0, "open": 0.9, "close": 0.9, "low": 2.0},
    }
    table = walk(weekdays("2015-01-05", 200), seed=seed, interval="1d")
    expected = {}
    for row in rows:
        reason = data.draw(st.sampled_from(sorted(faults)))
        table = with_rows(table, [row], **faults[reason])
        expected[row] = reason
    assert reasons(check_bars(table, SHARE)) == expected
    order = np.random.default_rng(seed).permutation(200)
    jumbled = check_bars(table.take(order), SHARE)
    assert {int(order[row]): reason for row, reason in reasons(jumbled).items()} == expected


_NUMBER = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -1.0, 1.0, 100.0]))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 50).map(lambda i: i * 60 * NS)),
                  _NUMBER, _NUMBER, _NUMBER, _NUMBER, _NUMBER),
        max_size=30,
    ),
    kind=st.sampled_from(["equity", "future", "option", "crypto", "rate"]),
    with_spans=st.booleans(),
)  # fmt: skip
def test_nothing_that_comes_in_makes_the_checks_fail(
    rows: list[tuple[float, ...]], kind: str, with_spans: bool
) -> None:
    ts, o, h, low, c, v = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [], [], [])
    table = bars(ts, c, open=o, high=h, low=low, volume=v)
    spans = np.array([[0, 1800 * NS]], np.int64) if with_spans else None
    checked = check_bars(table, BarContext(now_ns=NOW, asset_class=kind, open_spans=spans))
    assert checked.good.num_rows + sum(checked.refused.values()) == len(rows)
    prices = np.concatenate([checked.good[n].to_numpy() for n in ("open", "high", "low", "close")] or [np.zeros(0)])
    assert np.isfinite(prices).all()
    assert checked.good["ts"].null_count == 0
    checked.quarantined("fuzz", 0)
