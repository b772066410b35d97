from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.fanout.rate import RateLimit

MS = 1_000_000


def admitted(limit: RateLimit, ids: list[int], at_ms: float) -> list[bool]:
    return limit.admit(np.array(ids, np.intp), round(at_ms * MS)).tolist()


def test_two_at_once_then_ten_a_second() -> None:
    limit = RateLimit(10.0)
    times = [0, 0, 0, 50, 99.999, 100, 100, 199, 200, 1_000, 1_000, 1_000]
    expected = [True, True, False, False, False, True, False, False, True, True, True, False]
    assert [admitted(limit, [0], at)[0] for at in times] == expected


def test_a_source_that_sends_at_the_allowed_rate_with_jitter_passes_whole() -> None:
    limit = RateLimit(10.0)
    times = [100.0 * i + (-40 if i % 2 else 40) for i in range(1, 200)]
    assert all(admitted(limit, [0], at)[0] for at in times)


def test_symbols_do_not_use_up_one_anothers_tokens_and_refusals_cost_nothing() -> None:
    limit = RateLimit(10.0)
    assert admitted(limit, [3, 0], 0) == [True, True]
    assert admitted(limit, [3], 0) == [True]
    for at in range(100):
        assert admitted(limit, [3], at) == [False]
    assert admitted(limit, [1_000, 3, 0], 100) == [True, True, True]
    assert admitted(limit, [1_000, 3, 0], 100) == [True, False, True]
    assert admitted(limit, [], 100) == []


def test_no_limit_admits_everything() -> None:
    limit = RateLimit(None)
    assert [admitted(limit, [0, 9], at) for at in (0, 0, 1, 1)] == [[True, True]] * 4


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.sets(st.integers(0, 100), max_size=4)), max_size=60),
    st.sampled_from([1.0, 3.0, 10.0, 40.0]),
)
def test_never_more_than_the_rate_and_one_in_any_second(steps, rate) -> None:
    limit = RateLimit(rate)
    at_ns, passed = 7 * 10**15, {}
    bucket = {}  # tokens as a real number, refilled by the time that went by
    for wait_ms, ids in steps:
        at_ns += wait_ms * MS
        chosen = sorted(ids)
        for symbol, ok in zip(chosen, limit.admit(np.array(chosen, np.intp), at_ns).tolist(), strict=True):
            tokens, since = bucket.get(symbol, (2.0, at_ns))
            tokens = min(2.0, tokens + (at_ns - since) / 1e9 * rate)
            if abs(tokens - 1) > 1e-6:
                assert ok == (tokens > 1)
            bucket[symbol] = (tokens - ok, at_ns)
            if ok:
                passed.setdefault(symbol, []).append(at_ns)
    for times in passed.values():
        for first in times:
            assert sum(first <= t < first + 10**9 for t in times) <= rate + 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), min_size=1, max_size=100),
    st.sampled_from([1.0, 3.0, 10.0]),
)
def test_delays_of_ours_are_not_charged_and_are_no_way_round_the_rate(steps, rate) -> None:
    limit = RateLimit(rate)
    at_ns, passed = 7 * 10**15, []
    for wait_ms, delay_ms in steps:
        at_ns += wait_ms * MS
        if limit.admit(np.array([0]), at_ns, np.array([at_ns - delay_ms * MS]))[0]:
            passed.append(at_ns)
    for i, first in enumerate(passed):
        for count, last in enumerate(passed[i:], 1):
            assert count <= ((last - first) / 1e9 + 0.060) * rate + 2 + 1e-6


def test_a_source_at_the_allowed_rate_passes_whole_through_late_flushes() -> None:
    limit = RateLimit(10.0)
    for i in range(1_000):
        changed_ns = 100 * i * MS
        late_ns = (7 * i % 23) * MS
        assert limit.admit(np.array([0]), changed_ns + late_ns, np.array([changed_ns]))[0]
