"""Half-open spans of time as int64 arrays (n, 2): start and end, nanoseconds UTC, ascending, none touching another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Int64s", "clip", "intersect", "joined", "no_spans", "ranges", "subtract"]

Int64s = npt.NDArray[np.int64]


def no_spans() -> Int64s:
    return np.empty((0, 2), np.int64)


def joined(spans: Int64s) -> Int64s:
    """Any spans in any order, made ascending; those that touch or overlap become one, empty ones go."""
    spans = spans[spans[:, 1] > spans[:, 0]]
    if len(spans) < 2:
        return spans
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate(([True], spans[1:, 0] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return np.stack((spans[first, 0], reach[last]), axis=1)


def clip(spans: Int64s, start_ns: int, end_ns: int) -> Int64s:
    """What of the spans lies within start_ns <= t < end_ns."""
    if end_ns <= start_ns:
        return no_spans()
    low = np.searchsorted(spans[:, 1], start_ns, "right")
    high = np.searchsorted(spans[:, 0], end_ns, "left")
    return np.clip(spans[low:high], start_ns, end_ns)


def intersect(one: Int64s, other: Int64s) -> Int64s:
    """The time that is in both."""
    low = np.searchsorted(other[:, 1], one[:, 0], "right")
    high = np.searchsorted(other[:, 0], one[:, 1], "left")
    counts = np.maximum(high - low, 0)
    a = np.repeat(np.arange(len(one)), counts)
    b = ranges(low, low + counts)
    return np.stack((np.maximum(one[a, 0], other[b, 0]), np.minimum(one[a, 1], other[b, 1])), axis=1)


def subtract(one: Int64s, other: Int64s) -> Int64s:
    """The time that is in `one` and not in `other`."""
    if not len(one) or not len(other):
        return one
    low, high = min(one[0, 0], other[0, 0]), max(one[-1, 1], other[-1, 1])
    starts = np.concatenate(([low], other[:, 1]))
    ends = np.concatenate((other[:, 0], [high]))
    rest = np.stack((starts, ends), axis=1)
    return intersect(one, rest[starts < ends])


def ranges(low: npt.NDArray[np.integer], high: npt.NDArray[np.integer]) -> Int64s:
    """The integers low[0] … high[0] - 1, low[1] … high[1] - 1, and so on, in one array."""
    counts = high - low
    ends = np.cumsum(counts)
    return np.repeat(low - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
