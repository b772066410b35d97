from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.model import INTERVALS, Interval

SECONDS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}
NUMPY_UNIT = {"1s": "s", "1m": "m", "5m": "5m", "15m": "15m", "1h": "h", "1d": "D"}


def test_the_lengths_and_both_names_of_each() -> None:
    assert {i.name: i.ns for i in INTERVALS} == {name: s * 10**9 for name, s in SECONDS.items()}
    assert [i.timeframe for i in INTERVALS] == ["S1", "M1", "M5", "M15", "H1", "D1"]
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
    ],
)
def test_every_spelling_is_the_one_object_of_its_length(spellings: list[str], name: str) -> None:
    [interval] = [i for i in INTERVALS if i.name == name]
    for text in spellings:
        assert Interval.parse(text) is interval


@pytest.mark.parametrize("text", ["", "1", "m", "2m", "60m", "1w", "1mo", "M 1", "1 m", "0m", "min1", "１m"])
def test_other_lengths_are_refused_with_those_that_are_built(text: str) -> None:
    with pytest.raises(ValueError, match="is not one of 1s, 1m, 5m, 15m, 1h, 1d"):
        Interval.parse(text)


@given(st.sampled_from(INTERVALS), st.integers(-(2**62), 2**62))
def test_the_start_of_a_bar_is_where_numpy_cuts(interval: Interval, time_ns: int) -> None:
    cut = np.datetime64(time_ns, "ns").astype(f"datetime64[{NUMPY_UNIT[interval.name]}]").astype("datetime64[ns]")
    assert interval.floor(time_ns) == int(cut.astype(np.int64))
