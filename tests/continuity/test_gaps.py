"""What is missing and why: typed cases, and a referee that looks at one bar after the other."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.calendars import AlwaysOpen, Calendars, expected_bits, expected_starts
from marketd.continuity.gaps import (
    answers,
    continuous_until,
    count_bits,
    due_end,
    due_slots,
    find_missing,
    is_complete,
    missing_by_reason,
    pack_answers,
    spans_of_bits,
    without_tail,
)
from marketd.model import MISSING_REASONS, AnsweredSpan, Interval, MissingSpan, parse_ns

MINUTE = Interval.parse("1m")
M = MINUTE.ns
Reason = Literal["no_trades", "provider_lacks", "quarantined"]
PRIORITY = ["not_fetched", "provider_lacks", "no_trades", "quarantined"]


def at(*minutes: int) -> np.ndarray:
    return np.array(minutes, np.int64) * M


def answered(low: int, high: int, reason: Reason, provider: str = "a", as_of: int = 0) -> AnsweredSpan:
    return AnsweredSpan(
        symbol="X", interval="1m", provider=provider, start_ns=low * M, end_ns=high * M, reason=reason, as_of_ns=as_of
    )


def told(spans: list[MissingSpan]) -> list[tuple[int, int, str, int]]:
    return [(s.start_ns // M, s.end_ns // M, s.reason, s.count) for s in spans]


def test_nothing_is_missing_of_what_is_there() -> None:
    assert find_missing(at(1, 2, 3), at(0, 1, 2, 3, 9), (), MINUTE) == []
    assert find_missing(at(), at(1), (), MINUTE) == []


def test_gaps_at_both_ends_and_inside_are_found_in_order() -> None:
    missing = find_missing(at(0, 1, 2, 3, 4, 5, 6), at(2, 5), (), MINUTE)
    assert told(missing) == [(0, 2, "not_fetched", 2), (3, 5, "not_fetched", 2), (6, 7, "not_fetched", 1)]


def test_bars_may_come_in_any_order() -> None:
    assert told(find_missing(at(0, 1, 2, 3), at(3, 0, 2), (), MINUTE)) == [(1, 2, "not_fetched", 1)]


def test_a_gap_goes_on_over_closed_time_unless_that_is_told_too() -> None:
    expected = at(10, 11, 20, 21)
    assert told(find_missing(expected, at(10), (), MINUTE)) == [(11, 22, "not_fetched", 3)]
    assert told(find_missing(expected, at(10), (), MINUTE, closed_within=(8 * M, 25 * M))) == [
        (8, 10, "closed", 0),
        (11, 12, "not_fetched", 1),
        (12, 20, "closed", 0),
        (20, 22, "not_fetched", 2),
        (22, 25, "closed", 0),
    ]


def test_closed_time_alone_covers_a_range_without_bars() -> None:
    assert told(find_missing(at(), at(), (), MINUTE, closed_within=(3 * M, 5 * M))) == [(3, 5, "closed", 0)]


def test_each_reason_has_its_span() -> None:
    spans = [answered(1, 3, "no_trades"), answered(3, 4, "provider_lacks"), answered(5, 6, "quarantined")]
    assert told(find_missing(at(0, 1, 2, 3, 4, 5), at(), spans, MINUTE)) == [
        (0, 1, "not_fetched", 1),
        (1, 3, "no_trades", 2),
        (3, 4, "provider_lacks", 1),
        (4, 5, "not_fetched", 1),
        (5, 6, "quarantined", 1),
    ]


def test_of_several_providers_the_one_that_knows_most_counts() -> None:
    spans = [
        answered(0, 4, "provider_lacks", "a", as_of=9),
        answered(1, 3, "no_trades", "b", as_of=1),
        answered(2, 3, "quarantined", "c", as_of=5),
    ]
    assert answers(at(0, 1, 2, 3, 4), spans).tolist() == [1, 2, 3, 1, 0]


def test_of_one_provider_the_latest_answer_counts() -> None:
    spans = [answered(0, 3, "no_trades", as_of=7), answered(1, 2, "quarantined", as_of=3)]
    assert answers(at(0, 1, 2), spans).tolist() == [2, 2, 2]
    spans = [answered(1, 2, "quarantined", as_of=8), answered(0, 3, "no_trades", as_of=7)]
    assert answers(at(0, 1, 2), spans).tolist() == [2, 3, 2]


@pytest.mark.parametrize(
    ("reasons", "complete"),
    [([], True), (["closed", "no_trades"], True), (["provider_lacks"], False), (["quarantined"], False),
     (["no_trades", "not_fetched"], False)],
)  # fmt: skip
def test_complete_means_that_whatever_traded_is_there(reasons: list[Any], complete: bool) -> None:
    spans = [MissingSpan(start_ns=n, end_ns=n + 1, reason=r, count=1) for n, r in enumerate(reasons)]
    assert is_complete(spans) is complete


def test_bars_are_counted_by_reason_and_closed_time_is_not() -> None:
    spans = [
        MissingSpan(start_ns=0, end_ns=1, reason="closed", count=0),
        MissingSpan(start_ns=1, end_ns=4, reason="no_trades", count=3),
        MissingSpan(start_ns=5, end_ns=6, reason="no_trades", count=1),
    ]
    assert missing_by_reason(spans) == {"not_fetched": 0, "provider_lacks": 0, "no_trades": 4, "quarantined": 0}


def test_a_bar_is_due_when_it_has_been_over_for_the_grace() -> None:
    now = 10 * M
    due = due_end(MINUTE, now, 30 * 10**9)
    assert due > 8 * M  # over at minute 9, due at 9:30
    assert due <= 9 * M
    assert due_end(MINUTE, 9 * M + 30 * 10**9, 30 * 10**9) == 8 * M + 1
    assert [due_slots(0, 20, MINUTE, d) for d in (-5, 0, 1, M, M + 1, 100 * M)] == [0, 0, 1, 1, 2, 20]


def test_history_is_continuous_up_to_the_first_bar_that_nobody_asked_for() -> None:
    expected = at(0, 1, 2, 10, 11)
    assert continuous_until(expected, at(0, 1, 2, 10, 11), (), MINUTE, 15 * M) == 15 * M
    assert continuous_until(expected, at(0, 2, 10, 11), (), MINUTE, 15 * M) == M
    assert continuous_until(expected, at(0, 2), [answered(1, 2, "no_trades")], MINUTE, 15 * M) == 10 * M
    assert continuous_until(expected, at(0, 2), [answered(1, 99, "provider_lacks")], MINUTE, 15 * M) == 15 * M


times = st.integers(0, 60)
answer_spans = st.builds(
    answered,
    times,
    times,
    st.sampled_from(["no_trades", "provider_lacks", "quarantined"]),
    st.sampled_from(["a", "b", "c"]),
    as_of=st.integers(0, 1000),
)


def unique_as_of(spans: list[AnsweredSpan]) -> list[AnsweredSpan]:
    """Two answers of one provider at one moment have no order."""
    return list({(s.provider, s.as_of_ns): s for s in spans if s.start_ns < s.end_ns}.values())


def reason_of(minute: int, spans: list[AnsweredSpan]) -> str:
    last: dict[str, AnsweredSpan] = {}
    for span in sorted(spans, key=lambda s: s.as_of_ns):
        if span.start_ns <= minute * M < span.end_ns:
            last[span.provider] = span
    return max((s.reason for s in last.values()), key=PRIORITY.index, default="not_fetched")


@settings(max_examples=300, deadline=None)
@given(expected=st.sets(times), present=st.sets(times), spans=st.lists(answer_spans, max_size=6).map(unique_as_of))
def test_every_absent_bar_is_in_the_span_of_its_reason(
    expected: set[int], present: set[int], spans: list[AnsweredSpan]
) -> None:
    missing = find_missing(at(*sorted(expected)), at(*sorted(present)), spans, MINUTE)
    absent = {minute: reason_of(minute, spans) for minute in expected - present}
    assert sum(s.count for s in missing) == len(absent)
    for span in missing:
        inside = [m for m in sorted(expected) if span.start_ns <= m * M < span.end_ns]
        assert [absent.get(m) for m in inside] == [span.reason] * span.count
        assert (span.start_ns, span.end_ns) == (inside[0] * M, (inside[-1] + 1) * M)
    order = [s.start_ns for s in missing]
    assert order == sorted(order)
    for one, other in itertools.pairwise(missing):  # spans are as long as they can be
        between = [m for m in expected if one.end_ns <= m * M < other.start_ns]
        assert between or one.reason != other.reason
    by_reason = missing_by_reason(missing)
    assert {r: n for r, n in by_reason.items() if n} == {
        r: list(absent.values()).count(r) for r in set(absent.values())
    }
    assert continuous_until(at(*sorted(expected)), at(*sorted(present)), spans, MINUTE, 99 * M) == min(
        (m * M for m, r in absent.items() if r == "not_fetched"), default=99 * M
    )


@settings(max_examples=200, deadline=None)
@given(expected=st.sets(times), present=st.sets(times), low=times, high=times)
def test_with_closed_time_the_answer_and_the_bars_cover_the_range(
    expected: set[int], present: set[int], low: int, high: int
) -> None:
    wanted = sorted(m for m in expected if low <= m < high)
    spans = find_missing(at(*wanted), at(*sorted(present)), (), MINUTE, closed_within=(low * M, high * M))
    covered = [m for s in spans for m in range(s.start_ns // M, s.end_ns // M)]
    assert sorted(covered + sorted(set(wanted) & present)) == list(range(low, high))


def bits(rows: list[set[int]], slots: int) -> np.ndarray:
    flags = np.zeros((len(rows), slots), np.bool_)
    for line, row in enumerate(rows):
        flags[line, sorted(row)] = True
    return np.packbits(flags, axis=1, bitorder="little")


slot_sets = st.sets(st.integers(0, 49))


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(slot_sets, slot_sets, slot_sets), min_size=1, max_size=4),
    column=st.sampled_from([1, 6, 8, 24, 50, 64]),
    shared=st.booleans(),
)
def test_counts_of_bits_are_those_of_sets(rows: list[tuple[set[int], ...]], column: int, shared: bool) -> None:
    rows = [(here, rows[0][1], rows[0][2]) if shared else (here, wanted, known) for here, wanted, known in rows]
    here, wanted, known = (bits([row[n] for row in rows], 50) for n in range(3))
    found = count_bits(
        here, wanted[0] if shared else wanted, known[0] if shared else known, slots=50, column_slots=column
    )
    for line, (there, expected, explained) in enumerate(rows):
        for number, low in enumerate(range(0, 50, column)):
            inside = set(range(low, low + column))
            assert found.expected[line, number] == len(expected & inside)
            assert found.present[line, number] == len(expected & there & inside)
            assert found.explained[line, number] == len((expected - there) & explained & inside)
            assert found.missing[line, number] == len((expected - there - explained) & inside)
            assert found.outside[line, number] == len((there - expected) & inside)
    assert found.expected.shape == (len(rows), -(-50 // column))


def test_no_bars_at_all_are_counted_too() -> None:
    nothing = np.zeros((2, 0), np.uint8)
    assert count_bits(nothing, nothing[0], slots=0, column_slots=8).missing.shape == (2, 0)


@settings(max_examples=150, deadline=None)
@given(expected=slot_sets, present=slot_sets, spans=st.lists(answer_spans, max_size=5).map(unique_as_of))
def test_bits_and_starts_tell_the_same(expected: set[int], present: set[int], spans: list[AnsweredSpan]) -> None:
    wanted, here = bits([expected], 50)[0], bits([present], 50)[0]
    no_trades, known = pack_answers(spans, 0, 50, MINUTE)
    starts = at(*sorted(expected))
    by_starts = find_missing(starts, at(*sorted(present)), spans, MINUTE)
    lacking = wanted & ~here & ~known
    rows = spans_of_bits(np.stack((lacking, np.zeros_like(lacking), wanted)), starts, 0, MINUTE)
    assert rows.get(0, []) == [s for s in by_starts if s.reason == "not_fetched"]
    assert rows.get(2, []) == find_missing(starts, at(), (), MINUTE)
    assert 1 not in rows
    counts = count_bits(here[None], wanted, no_trades, slots=50, column_slots=50)
    totals = missing_by_reason(by_starts)
    assert counts.explained[0, 0] == totals["no_trades"]
    assert counts.missing[0, 0] == sum(totals.values()) - totals["no_trades"]


@given(row=slot_sets, slots=st.integers(0, 60))
def test_the_tail_of_a_row_can_be_cut(row: set[int], slots: int) -> None:
    kept = np.flatnonzero(np.unpackbits(without_tail(bits([row], 50)[0], slots), bitorder="little"))
    assert kept.tolist() == sorted(m for m in row if m < slots)


def test_a_session_of_8000_symbols_is_counted_in_milliseconds() -> None:
    start = parse_ns("2025-11-26")
    wanted = expected_bits(Calendars().named("XNYS"), MINUTE, start, 1440)
    present = np.repeat(wanted[None], 8000, axis=0)
    present[::10, 120] = 0  # eight minutes of every tenth
    fastest, counts = _fastest(lambda: count_bits(present, wanted, slots=1440, column_slots=1440))
    assert counts.expected.sum() == 8000 * 390
    assert counts.missing.sum() == 800 * 8
    assert fastest < 0.1  # about 5 ms; the bound is for busy machines


def test_a_year_of_500_symbols_is_counted_fast() -> None:
    start, end = parse_ns("2024-01-01"), parse_ns("2025-01-01")
    slots = (end - start) // M
    wanted = expected_bits(Calendars().named("XNYS"), MINUTE, start, slots)
    present = np.repeat(wanted[None], 500, axis=0)
    present[::5, 93] = 0
    fastest, counts = _fastest(lambda: count_bits(present, wanted, slots=slots, column_slots=1440))
    assert counts.missing.shape == (500, 366)
    assert counts.expected[0].sum() == 252 * 390 - 3 * 180
    assert fastest < 1.5  # about 0.15 s


def _fastest(run: Any) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(3):
        begin = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - begin)
    return best, result


def test_round_the_clock_every_minute_is_expected() -> None:
    start = parse_ns("2025-06-07")
    assert expected_starts(AlwaysOpen(), MINUTE, start, start + 5 * M).tolist() == (start + at(0, 1, 2, 3, 4)).tolist()


def test_the_page_names_every_reason() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "continuity.md").read_text(encoding="utf-8")
    assert [reason for reason in MISSING_REASONS if f"| `{reason}` |" not in page] == []
