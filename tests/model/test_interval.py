from __future__ import annotations

from datetime import datetime, time, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.model import INTERVALS, Interval

SECONDS = {
    "1s": 1,
    "1m": 60,
    "5m": 300,
    "10m": 600,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "4h": 14_400,
    "1d": 86_400,
    "1w": 604_800,
}
NUMPY_UNIT = {"1s": "s", "1m": "m", "1h": "h", "4h": "4h", "1d": "D"} | {f"{n}m": f"{n}m" for n in (5, 10, 15, 30)}


def test_the_lengths_and_both_names_of_each() -> None:
    assert {i.name: i.ns for i in INTERVALS} == {name: s * 10**9 for name, s in SECONDS.items()}
    assert [i.timeframe for i in INTERVALS] == ["S1", "M1", "M5", "M10", "M15", "M30", "H1", "H4", "D1", "W1"]
    assert [str(i) for i in INTERVALS] == list(SECONDS)


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (["1s", "S1", "s1", "1sec"], "1s"),
        (["1m", "1M", "M1", "m1", "1min", "1MIN", " 1m "], "1m"),
        (["5m", "M5", "5min"], "5m"),
        (["15m", "M15", "15min"], "15m"),
        (["1h", "H1", "1hour", "1hr", "1Hour"], "1h"),
        (["1d", "D1", "1day", "1D"], "1d"),
        (["1w", "W1", "1week", "1wk"], "1w"),
    ],
)
def test_every_spelling_is_the_one_object_of_its_length(spellings: list[str], name: str) -> None:
    [interval] = [i for i in INTERVALS if i.name == name]
    for text in spellings:
        assert Interval.parse(text) is interval


@pytest.mark.parametrize("text", ["", "1", "m", "2m", "60m", "2w", "1mo", "M 1", "1 m", "0m", "min1", "１m"])
def test_other_lengths_are_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(ValueError, match="is not one of 1s, 1m, 5m, 10m, 15m, 30m, 1h, 4h, 1d, 1w"):
        Interval.parse(text)


@given(st.sampled_from([i for i in INTERVALS if i.name != "1w"]), st.integers(-(2**62), 2**62))
def test_the_start_of_a_bar_is_where_numpy_cuts(interval: Interval, time_ns: int) -> None:
    cut = np.datetime64(time_ns, "ns").astype(f"datetime64[{NUMPY_UNIT[interval.name]}]").astype("datetime64[ns]")
    assert interval.floor(time_ns) == int(cut.astype(np.int64))


@given(st.datetimes(datetime(1700, 1, 1), datetime(2260, 1, 1)))  # noqa: DTZ001 - UTC throughout
def test_a_week_begins_on_monday(moment: datetime) -> None:
    monday = datetime.combine(moment.date() - timedelta(days=moment.weekday()), time.min)
    week = Interval.parse("1w")
    assert week.floor(_ns(moment)) == _ns(monday)
    assert week.ceil(_ns(moment)) == _ns(monday if moment == monday else monday + timedelta(days=7))


def _ns(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) * 1000  # noqa: DTZ001


@given(st.sampled_from(INTERVALS), st.lists(st.integers(-(2**61), 2**61), min_size=1))
def test_arrays_are_cut_as_single_times_are(interval: Interval, times: list[int]) -> None:
    column = np.array(times)
    assert interval.floor(column).tolist() == [interval.floor(t) for t in times]
    assert interval.ceil(column).tolist() == [interval.ceil(t) for t in times]


@given(st.sampled_from(INTERVALS), st.integers(-(2**61), 2**61), st.integers(-3, 3_000), st.integers(-1, 1))
def test_every_start_of_a_range_is_told(interval: Interval, start_ns: int, count: int, odd: int) -> None:
    end_ns = start_ns + count * interval.ns + odd
    first = next(t for t in (start_ns, interval.floor(start_ns) + interval.ns) if interval.floor(t) == t)
    assert interval.starts(start_ns, end_ns).tolist() == list(range(first, end_ns, interval.ns))


def test_the_last_of_many_days_is_among_their_starts() -> None:
    day_ns = 86_400 * 10**9
    assert len(Interval.parse("1d").starts(1, 1 + 129 * day_ns)) == 129  # numpy.arange, which counts in doubles: 128
