"""The score: its weights as documented, and how each part comes about. Expected numbers are computed by hand."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.routing import Health, HealthConfig, Parts, score_of
from marketd.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def after(clock, seconds):
    asyncio.run(clock.advance(seconds))


@pytest.mark.parametrize(
    ("parts", "score"),
    [
        ((1, 1, 1, 1), 1.0),
        ((0.5, 1, 1, 1), 0.775),
        ((0, 1, 1, 1), 0.55),
        ((1, 0, 1, 1), 0.75),
        ((1, 1, 0, 1), 0.8),
        ((1, 1, 1, 0), 0.9),
        ((0, 0, 0, 0), 0.0),
    ],
)
def test_the_weights(parts, score):
    breaker, latency, errors, completeness = parts
    assert score_of(Parts(breaker=breaker, latency=latency, errors=errors, completeness=completeness)) == score


unit = st.floats(0, 1)


@given(unit, unit, unit)
def test_an_open_circuit_is_never_usable(latency, errors, completeness):
    parts = Parts(breaker=0.0, latency=latency, errors=errors, completeness=completeness)
    assert 0 <= score_of(parts) <= 0.55


def test_nothing_known_is_healthy(clock):
    health = Health(HealthConfig(), clock)
    assert health.parts("closed") == Parts(breaker=1.0, latency=1.0, errors=1.0, completeness=1.0)
    assert health.latency_ms(0.5) is None


def test_errors_are_an_ewma_of_calls(clock):
    health = Health(HealthConfig(call_weight=0.2), clock)
    health.called(is_failure=True)
    assert health.error_ewma == pytest.approx(0.2)
    health.called(is_failure=True)
    assert health.error_ewma == pytest.approx(0.36)
    health.called(is_failure=False)
    assert health.error_ewma == pytest.approx(0.288)
    assert health.calls == pytest.approx(3)


def test_failures_fade_without_calls(clock):
    health = Health(HealthConfig(call_weight=0.5, error_half_life_s=120.0), clock)
    health.called(is_failure=True)
    after(clock, 120)
    assert health.error_ewma == pytest.approx(0.25)
    after(clock, 240)
    assert health.error_ewma == pytest.approx(0.0625)


@pytest.mark.parametrize(
    ("ms", "part"), [(10, 1.0), (250, 1.0), (500, 0.75), (1_000, 0.5), (2_000, 0.25), (4_000, 0.0), (60_000, 0.0)]
)
def test_latency_counts_by_its_logarithm(clock, ms, part):
    health = Health(HealthConfig(latency_good_ms=250.0, latency_bad_ms=4_000.0), clock)
    health.took(ms / 1e3)
    assert health.latency_part == pytest.approx(part)


def test_latency_is_of_the_window_only(clock):
    health = Health(HealthConfig(latency_calls=4, latency_s=60.0), clock)
    for ms in (9_000, 100, 200, 300, 400):
        health.took(ms / 1e3)
    assert health.latency_ms(0.5) == pytest.approx(200)
    assert health.latency_ms(0.95) == pytest.approx(400)
    after(clock, 30)
    health.took(0.5)
    after(clock, 31)
    assert health.latency_ms(0.5) == pytest.approx(500)
    after(clock, 30)
    assert health.latency_ms(0.5) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=64), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_a_quantile_is_the_nearest_rank(values, quantile):
    """Nearest rank by its definition: the smallest value that at least this part of the values does not exceed."""
    health = Health(HealthConfig(), ManualClock())
    for value in values:
        health.took(value)
    found = health.latency_ms(quantile)
    in_ms = [value * 1e3 for value in values]
    assert found in in_ms
    assert sum(v <= found for v in in_ms) >= quantile * len(values)
    assert sum(v < found for v in in_ms) < quantile * len(values)


def test_completeness_is_what_came_of_what_was_expected(clock):
    health = Health(HealthConfig(call_weight=0.5, completeness_half_life_s=3_600.0), clock)
    health.completed(390, 195)
    assert health.completeness == pytest.approx(0.75)
    health.completed(0, 0)
    assert health.completeness == pytest.approx(0.75)
    health.completed(10, 12)
    assert health.completeness == pytest.approx(0.875)
    after(clock, 3_600)
    assert health.completeness == pytest.approx(0.9375)
