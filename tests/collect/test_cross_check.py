"""Disagreement by hand: which of two or three is the outlier, and when nobody is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.collect.cross_check import CrossCheck, Judged, Values
from marketd.collect.streams import CrossCheckConfig
from marketd.errors import InvalidInput

_S = 10**9
_T0 = 1_764_000_000 * _S
_X = np.array([0])


class Check:
    """One symbol, compared every second. None: the provider says nothing then."""

    def __init__(self, lines: int = 2, **how: float) -> None:
        self.config = CrossCheckConfig(**{"confirm_s": 2.0, "release_s": 5.0, **how})  # type: ignore[arg-type]
        self.check = CrossCheck(self.config)
        self.check.grow(lines, 1)
        self.lines = range(lines)
        self.now_ns = _T0
        self.received = np.zeros((lines, 1), np.int64)
        self.value = np.full((lines, 1), np.nan)

    def __call__(self, *values: float | None) -> list[tuple[int, bool]]:
        self.now_ns += _S
        for line, value in enumerate(values):
            if value is not None:
                self.value[line], self.received[line] = value, self.now_ns
        told = self.check.compare(
            tuple(self.lines),
            _X,
            Values(value=self.value, event_ns=self.received, received_ns=self.received),
            self.now_ns,
        )
        return [(judged.line, judged.quarantined) for judged in told]

    def again(self, times: int, *values: float | None) -> list[tuple[int, tuple[int, bool]]]:
        """The same a few times: (which time, verdict)."""
        return [(turn, told) for turn in range(times) for told in self(*values)]


def test_the_measure_is_in_basis_points_of_the_mean() -> None:
    c = Check()
    c(101.0, 99.0)
    c(100.0, 100.0)
    c(99.5, 100.5)
    row = c.check.rows(["a", "b"], ["X"])[0]
    assert (row.symbol, row.a, row.b, row.samples) == ("X", "a", "b", 3)
    assert (row.bp, row.bp_max) == (pytest.approx(-100.0), pytest.approx(200.0))
    # 200, then nine tenths of it and a tenth of 0, then the same with 100
    assert row.bp_mean == pytest.approx(200 * 0.81 + 10)
    assert (row.staleness_a_s, row.quarantined) == (0.0, None)


def test_of_two_the_one_that_jumped_away_is_set_apart_when_the_other_has_spoken_since() -> None:
    c = Check()
    assert c.again(3, 100.0, 100.1) == []
    # b says nothing at first: it may just be waiting for its next tick
    assert c.again(3, 110.0, None) == []
    assert c.again(2, 110.0, 100.2) == [(0, (0, True))]
    assert c.check.quarantined.tolist() == [[True], [False]]
    assert c.check.rows(["a", "b"], ["X"])[0].quarantined == "a"


def test_two_that_both_moved_or_never_agreed_are_only_measured() -> None:
    c = Check()
    assert c.again(3, 100.0, 100.0) == []
    assert c.again(5, 103.0, 97.5) == []
    never = Check()
    assert never.again(20, 100.0, 200.0) == []
    assert never.check.rows(["a", "b"], ["X"])[0].samples == 20


def test_a_move_of_the_market_that_one_shows_a_little_later_is_no_outlier() -> None:
    c = Check()
    c.again(3, 100.0, 100.0)
    assert c.again(1, 110.0, 100.0) == []
    assert c.again(5, 110.0, 110.1) == []


def test_of_three_the_one_far_from_the_median() -> None:
    c = Check(3)
    assert c.again(4, 100.0, 150.0, 100.2) == [(2, (1, True))]
    assert c.check.quarantined[:, 0].tolist() == [False, True, False]
    # those that are left go on being compared, by the rule for two
    assert c.again(3, 100.0, 150.0, 100.2) == []


def test_three_that_all_disagree_have_no_outlier() -> None:
    assert Check(3).again(10, 100.0, 110.0, 120.0) == []


def test_release_after_agreeing_for_a_while_and_not_before() -> None:
    c = Check()
    c.again(2, 100.0, 100.0)
    assert c.again(4, 110.0, 100.0) == [(2, (0, True))]
    assert c.again(3, 100.0, 100.0) == []
    assert c.again(1, 110.0, 100.0) == []  # the count starts anew
    assert c.again(8, 100.0, 100.0) == [(5, (0, False))]


def test_release_when_there_is_nobody_to_compare_with() -> None:
    c = Check(fresh_s=1.0)
    c.again(2, 100.0, 100.0)
    assert c.again(4, 110.0, 100.0) == [(2, (0, True))]
    assert c.again(10, 110.0, None) == [(6, (0, False))]


def test_without_a_threshold_it_is_only_measured() -> None:
    c = Check()
    c.check = CrossCheck(CrossCheckConfig(threshold_bp=None))
    c.check.grow(2, 1)
    c.again(2, 100.0, 100.0)
    assert c.again(10, 200.0, 100.0) == []
    assert c.check.rows(["a", "b"], ["X"])[0].bp == pytest.approx(20_000 / 3)


def test_old_values_take_no_part() -> None:
    c = Check(fresh_s=2.0)
    c(100.0, 100.0)
    assert c.again(20, 150.0, None) == []
    assert c.check.rows(["a", "b"], ["X"])[0].samples == 3


def test_a_symbol_that_is_forgotten_begins_anew() -> None:
    c = Check()
    c.again(2, 100.0, 100.0)
    c.again(4, 110.0, 100.0)
    c.check.forget(_X)
    assert not c.check.quarantined.any()
    assert c.again(10, 110.0, 100.0) == []


def test_symbols_are_judged_apart_and_told_together() -> None:
    check = CrossCheck(CrossCheckConfig(confirm_s=1.0))
    check.grow(3, 100)
    ids = np.arange(100)
    told: list[Judged] = []
    for second in range(4):
        now = _T0 + second * _S
        value = np.full((3, 100), 50.0)
        value[2, ::2] = 60.0
        stamps = np.full((3, 100), now)
        told += check.compare((0, 1, 2), ids, Values(value=value, event_ns=stamps, received_ns=stamps), now)
    assert [(judged.line, judged.quarantined) for judged in told] == [(2, True)]
    assert told[0].ids.tolist() == list(range(0, 100, 2))
    assert told[0].detail == "60 where the median is 50"


@given(
    st.lists(
        st.tuples(*[st.one_of(st.none(), st.floats(1.0, 1e6)) for _ in range(3)]),
        min_size=1,
        max_size=40,
    )
)
def test_never_are_all_set_apart_at_once_by_one_another(story: Sequence[tuple[float | None, ...]]) -> None:
    c = Check(3)
    for values in story:
        before = c.check.quarantined[:, 0].copy()
        told = c(*values)
        assert sum(quarantined for _, quarantined in told) <= 1
        # who is set apart had somebody to be measured by who is not
        if any(quarantined for _, quarantined in told):
            assert not (c.check.quarantined[:, 0] & ~before).all()
            assert not c.check.quarantined.all()


@pytest.mark.parametrize("field", ["threshold_bp", "every_s", "fresh_s", "confirm_s", "release_s"])
def test_settings_out_of_range_are_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        CrossCheckConfig(**{field: -1.0})
    assert refused.value.field == field
