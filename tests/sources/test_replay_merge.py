"""The merge against Python's own `heapq.merge`, over arbitrary files cut into arbitrary chunks."""

from __future__ import annotations

import heapq
from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketd.sources.replay.merge import cut, merge, window
from marketd.sources.replay.rows import NO_TIME, Rows, running_key


def _chunk(times, file, first, before):
    n = len(times)
    event = np.array(times, np.int64)
    absent = np.full(n, np.nan)
    return Rows(
        running_key(event, before),
        event,
        event,
        np.full(n, file, np.int32),
        np.ones(n, np.uint8),
        *[absent] * 7,
        np.arange(first, first + n, dtype=np.int64),
    )


def _file(number, chunks):
    before, first = NO_TIME, 0
    for times in chunks:
        rows = _chunk(times, number, first, before)
        if times:
            before = int(rows.key[-1])
        first += len(times)
        yield rows


_FILES = st.lists(st.lists(st.lists(st.integers(0, 12), max_size=5), max_size=5), min_size=1, max_size=5)


def _expected(files):
    """(running time, file, row) as heapq.merge puts them: stable in the order of the files."""
    keyed = []
    for number, chunks in enumerate(files):
        times = [time for chunk in chunks for time in chunk]
        keyed.append([(key, number, row) for row, key in enumerate(accumulate(times, max))])
    return list(heapq.merge(*keyed, key=lambda row: row[0]))


def _seen(parts):
    return [
        row for p in parts for row in zip(p.key.tolist(), p.symbol_index.tolist(), p.trade_id.tolist(), strict=True)
    ]


@given(_FILES)
def test_merge_equals_the_stable_merge_of_python(files):
    assert _seen(merge([_file(n, chunks) for n, chunks in enumerate(files)])) == _expected(files)


@given(_FILES, st.integers(0, 13), st.integers(0, 13), st.integers(1, 4))
def test_window_and_cut_leave_exactly_what_lies_between(files, start, end, rows_max):
    parts = list(cut(merge([window(_file(n, c), start, end) for n, c in enumerate(files)]), rows_max))
    assert _seen(parts) == [row for row in _expected(files) if start <= row[0] < end]
    assert all(1 <= len(part.key) <= rows_max for part in parts)


def test_memory_is_one_chunk_a_file():
    pulled = [0, 0]

    def endless(number):
        for start in range(0, 10**9, 10):
            pulled[number] += 1
            yield _chunk(list(range(start, start + 10)), number, start, NO_TIME)

    merged = merge([endless(0), endless(1)])
    rows = [next(merged) for _ in range(50)]
    assert [int(part.key[0]) for part in rows[:3]] == [0, 9, 10]
    assert sum(len(part.key) for part in rows) >= sum(pulled) * 10 - 40
