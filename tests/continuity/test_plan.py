"""Spans, chunks and what is left to ask for. Expected values are typed by hand or told by sets of minutes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.continuity.plan import (
    BackfillConfig,
    TierLimits,
    answers_for,
    chunk_ranges,
    merged,
    uncovered,
    unexplained,
)
from marketd.errors import InvalidInput
from marketd.model import AnsweredSpan, BackfillJob, Interval, parse_ns
from marketd.sources.reconnect import ReconnectPolicy

MINUTE = Interval.parse("1m")
HOUR_NS = 3_600 * 10**9
DAY_NS = 24 * HOUR_NS


def t(text):
    return parse_ns(text)


def test_the_settings_are_those_that_are_documented_elsewhere():
    config = BackfillConfig()
    limits = config.max_concurrency
    assert (config.chunk_minutes, config.dispatch_rate_per_s) == (1440, 2.0)
    assert (config.live_batch_size, config.batch_size) == (500, 5000)
    assert (limits.of("T0"), limits.of("T1"), limits.of("T2")) == (4, 2, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chunk_minutes", 0),
        ("batch_size", 0),
        ("attempts_max", 0),
        ("dispatch_rate_per_s", 0.0),
        ("dispatch_rate_per_s", float("nan")),
        ("settle_s", -1.0),
        ("scan_days", 0),
        ("scan_intervals", ("1m", "7m")),
    ],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(InvalidInput) as caught:
        BackfillConfig(**{field: value})
    assert caught.value.field == field


def test_places_of_a_tier_are_checked():
    with pytest.raises(InvalidInput) as caught:
        TierLimits(T1=-1)
    assert (caught.value.field, caught.value.value) == ("T1", -1)


def test_chunks_are_utc_days_oldest_first():
    chunks = list(
        chunk_ranges(MINUTE, t("2026-11-18T14:30:20Z"), t("2026-11-20T02:00:00Z"), BackfillConfig().chunk_ns(MINUTE))
    )
    assert chunks == [
        (t("2026-11-18T14:31:00Z"), t("2026-11-19T00:00:00Z")),
        (t("2026-11-19T00:00:00Z"), t("2026-11-20T00:00:00Z")),
        (t("2026-11-20T00:00:00Z"), t("2026-11-20T02:00:00Z")),
    ]


@pytest.mark.parametrize(
    ("interval", "days"), [("1s", 1), ("1m", 1), ("5m", 5), ("1h", 60), ("1d", 1440), ("1w", 10_080)]
)
def test_a_chunk_of_longer_bars_has_as_many_bars(interval, days):
    assert BackfillConfig().chunk_ns(Interval.parse(interval)) == days * DAY_NS


@given(
    interval=st.sampled_from(["1s", "1m", "15m", "1h", "1d", "1w"]),
    start=st.integers(0, 10**18),
    bars=st.integers(0, 3_000),
    chunk=st.integers(1, 700),
)
def test_chunks_cover_the_range_once(interval, start, bars, chunk):
    step = Interval.parse(interval)
    end = start + bars * step.ns
    pieces = list(chunk_ranges(step, start, end, chunk * step.ns))
    starts = [s for piece in pieces for s in step.starts(*piece).tolist()]
    offset = 4 * DAY_NS if interval == "1w" else 0
    assert starts == list(range(start + (offset - start) % step.ns, end, step.ns))
    assert all(low < high <= low + 2 * chunk * step.ns for low, high in pieces)


def test_a_chunk_that_is_no_multiple_of_the_interval_is_refused():
    with pytest.raises(InvalidInput):
        list(chunk_ranges(Interval.parse("1h"), 0, DAY_NS, 90 * 60 * 10**9))


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def minutes(some):
    return {m for low, high in some for m in range(low, high)}


@given(spans)
def test_merged_spans_are_the_same_time_in_as_few_as_possible(some):
    out = merged(some)
    assert minutes(out) == minutes(some)
    assert all(a_end < b_start for (_, a_end), (b_start, _) in itertools.pairwise(out))


def test_what_is_near_enough_becomes_one():
    assert merged([(0, 5), (7, 9), (12, 13)], 2) == [(0, 9), (12, 13)]


@given(st.integers(0, 60), st.integers(0, 60), spans)
def test_uncovered_is_the_rest_of_the_range(start, end, covers):
    assert minutes(uncovered(start, end, covers)) == set(range(start, end)) - minutes(covers)


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(-5, 65)), spans)
def test_unexplained_is_neither_there_nor_answered(expected, present, answered):
    left = unexplained(np.array(sorted(expected), np.int64), np.array(sorted(present), np.int64), answered)
    assert left.tolist() == sorted(expected - present - minutes(answered))


def job(**changed):
    fields = {"id": "j", "symbol": "A", "interval": "1m", "start_ns": 0, "end_ns": 9, "tier": "T1", "reason": "scan"}
    return BackfillJob(**(fields | changed))


def answer(provider, reason, start):
    return AnsweredSpan(
        symbol="A", interval="1m", provider=provider, start_ns=start, end_ns=start + 1, reason=reason, as_of_ns=0
    )


def test_what_was_answered_is_not_asked_again():
    known = [answer("x", "no_trades", 0), answer("y", "provider_lacks", 1), answer("x", "quarantined", 2)]
    assert answers_for(job(), known) == [(0, 1), (1, 2), (2, 3)]
    assert answers_for(job(provider="y"), known) == [(1, 2)]
    assert answers_for(job(reason="manual"), known) == [(0, 1)]


def test_rests_between_attempts_end_soon_enough_for_an_outage_of_minutes():
    assert BackfillConfig().retry == ReconnectPolicy(delay_first_s=2.0, delay_max_s=120.0, jitter=0.2)
