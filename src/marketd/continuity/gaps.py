"""What is missing, and why: expected bars, less those that are there, with the answers that are known. Pure.

Two forms that agree. *Starts*: int64 arrays of one symbol's bars, ascending (`find_missing`). *Bits*: rows of
`store.contract.Presence` for many symbols at once (`count_bits`, `spans_of_bits`); nothing in them looks at a single
bar. Which reason an absent bar has: a provider's latest answer about it counts; of several providers' answers
`quarantined` comes first (a bar is known to exist), then `no_trades`, then `provider_lacks`. Without one it is
`not_fetched`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.model import AnsweredSpan, Interval, MissingReason, MissingSpan

__all__ = [
    "BitCounts",
    "answers",
    "continuous_until",
    "count_bits",
    "due_end",
    "due_slots",
    "find_missing",
    "is_complete",
    "missing_by_reason",
    "pack_answers",
    "spans_of_bits",
    "without_tail",
]

Int64s = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]

_REASON_BY_CODE: tuple[MissingReason, ...] = ("not_fetched", "provider_lacks", "no_trades", "quarantined")
_CODE_BY_REASON = {reason: code for code, reason in enumerate(_REASON_BY_CODE)}
_NO_TRADES = _CODE_BY_REASON["no_trades"]

_BLOCK_BYTES = 1 << 22


def due_end(interval: Interval, now_ns: int, grace_ns: int) -> int:
    """Bars with ts below this are over since `grace_ns`, so that they can be missing; later ones cannot."""
    return now_ns - grace_ns - interval.ns + 1


def find_missing(
    expected: Int64s,
    present: Int64s,
    spans: Sequence[AnsweredSpan],
    interval: Interval,
    *,
    closed_within: tuple[int, int] | None = None,
) -> list[MissingSpan]:
    """The expected bars that are not present, in order, as spans of one reason each.

    expected, present: starts, UTC; `expected` ascending, of due bars only. spans: those that apply to the symbol.
    A span goes on over closed time and ends at a bar that is there or at another reason. With `closed_within`
    (start_ns, end_ns) the closed time of that range is told too, as spans of reason `closed` and count 0, and the
    others end where it begins: then the answer and the bars that are there cover the range without overlap.
    """
    here = np.sort(present) if len(present) > 1 and (present[1:] < present[:-1]).any() else present
    absent = _absent(expected, here, interval.ns)
    starts = expected[absent]
    codes = answers(starts, spans)
    if not len(starts):
        found: list[MissingSpan] = []
    else:
        follows = (np.diff(absent) == 1) & (codes[1:] == codes[:-1])
        if closed_within is not None:
            follows &= np.diff(starts) == interval.ns
        found = _runs(starts, codes, follows, interval)
    if closed_within is None:
        return found
    return sorted([*found, *_closed(expected, interval, *closed_within)], key=lambda span: span.start_ns)


def answers(starts: Int64s, spans: Iterable[AnsweredSpan]) -> npt.NDArray[np.uint8]:
    """What is known about the bars that start at these times (ascending), were they absent: 0 nothing,
    1 provider_lacks, 2 no_trades, 3 quarantined."""
    by_provider: dict[str, list[AnsweredSpan]] = {}
    for span in spans:
        by_provider.setdefault(span.provider, []).append(span)
    codes = np.zeros(len(starts), np.uint8)
    for theirs in by_provider.values():
        theirs.sort(key=lambda span: span.as_of_ns)
        edges = np.array([(span.start_ns, span.end_ns) for span in theirs], np.int64)
        places = np.searchsorted(starts, edges).tolist()
        own = codes if len(by_provider) == 1 else np.zeros(len(starts), np.uint8)
        for (low, high), span in zip(places, theirs, strict=True):
            own[low:high] = _CODE_BY_REASON[span.reason]
        if own is not codes:
            np.maximum(codes, own, out=codes)
    return codes


def missing_by_reason(spans: Iterable[MissingSpan]) -> dict[MissingReason, int]:
    """How many bars are missing for each reason but `closed`; every reason is there."""
    totals: dict[MissingReason, int] = dict.fromkeys(_REASON_BY_CODE, 0)
    for span in spans:
        if span.reason != "closed":
            totals[span.reason] += span.count
    return totals


def is_complete(spans: Iterable[MissingSpan]) -> bool:
    """Whether whatever traded is there: nothing is missing but where the venue was closed or nothing traded."""
    return all(span.reason in ("closed", "no_trades") for span in spans)


def continuous_until(
    expected: Int64s, present: Int64s, spans: Sequence[AnsweredSpan], interval: Interval, end_ns: int
) -> int:
    """Up to where history goes on without a bar that is `not_fetched`: the start of the first, or `end_ns`.

    A bar with any answer is explained: asking again is nothing that a cursor should wait for.
    """
    missing = find_missing(expected, present, spans, interval)
    return next((span.start_ns for span in missing if span.reason == "not_fetched"), end_ns)


class BitCounts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Numbers of bars, int64 arrays (symbols, columns). expected = present + explained + missing.

    explained: absent, and known to have had no trades. missing: absent for any other reason. outside: there, although
    not expected (before the opening, on a holiday).
    """

    expected: Int64s
    present: Int64s
    explained: Int64s
    missing: Int64s
    outside: Int64s


def count_bits(
    present: Bits, expected: Bits, explained: Bits | None = None, *, slots: int, column_slots: int
) -> BitCounts:
    """Count rows of bits in columns of `column_slots` bars each; the last column may be shorter.

    present: uint8 (symbols, bytes). expected, explained (bars that had no trades): the same, or (bytes,) for all.
    Works in blocks of a few MiB, whatever the size.
    """
    symbols, width = present.shape
    columns = -(-slots // column_slots)
    totals = np.zeros((4, symbols, columns), np.int64)
    rows = max(1, _BLOCK_BYTES // max(width, 1))
    common = None if expected.ndim > 1 else _by_column(expected[None], slots, column_slots)
    for low in range(0, symbols, rows):
        block = slice(low, low + rows)
        here = present[block]
        wanted = expected if expected.ndim == 1 else expected[block]
        totals[0, block] = _by_column(wanted, slots, column_slots) if common is None else common
        totals[1, block] = _by_column(here & wanted, slots, column_slots)
        totals[2, block] = _by_column(here, slots, column_slots) - totals[1, block]
        if explained is not None:
            known = explained if explained.ndim == 1 else explained[block]
            totals[3, block] = _by_column(wanted & ~here & known, slots, column_slots)
    return BitCounts(
        expected=totals[0],
        present=totals[1],
        explained=totals[3],
        missing=totals[0] - totals[1] - totals[3],
        outside=totals[2],
    )


def spans_of_bits(missing: Bits, expected: Int64s, start_ns: int, interval: Interval) -> dict[int, list[MissingSpan]]:
    """The rows of missing bits, uint8 (symbols, bytes), that have any: spans of reason `not_fetched` by row, in order.

    expected: the expected starts of the rows' range, ascending. A span goes on over closed time. Costs by what is
    missing, not by the range.
    """
    rows = np.flatnonzero(missing.any(axis=1))
    line, byte = np.nonzero(missing[rows])
    flags = np.unpackbits(missing[rows[line], byte], bitorder="little").reshape(-1, 8)
    place, bit = np.nonzero(flags)
    if not len(place):
        return {}
    starts = start_ns + (byte[place] * 8 + bit) * interval.ns
    row = rows[line[place]]
    follows = (np.diff(np.searchsorted(expected, starts)) == 1) & (np.diff(row) == 0)
    spans = _runs(starts, np.zeros(len(starts), np.uint8), follows, interval)
    found: dict[int, list[MissingSpan]] = {}
    for number, span in zip(row[_firsts(follows)].tolist(), spans, strict=True):
        found.setdefault(number, []).append(span)
    return found


def pack_answers(spans: Iterable[AnsweredSpan], start_ns: int, slots: int, interval: Interval) -> tuple[Bits, Bits]:
    """(no trades, any answer) as bits of the bars from `start_ns`, were they absent."""
    codes = answers(start_ns + np.arange(slots) * interval.ns, spans)
    return np.packbits(codes == _NO_TRADES, bitorder="little"), np.packbits(codes > 0, bitorder="little")


def due_slots(start_ns: int, slots: int, interval: Interval, due_end_ns: int) -> int:
    """How many of the bars from `start_ns` start before `due_end_ns`."""
    return min(max(-((start_ns - due_end_ns) // interval.ns), 0), slots)


def without_tail(bits: Bits, slots: int) -> Bits:
    """A row of bits of which only the first `slots` stay."""
    if slots >= len(bits) * 8:
        return bits
    kept = bits.copy()
    kept[-(-slots // 8) :] = 0
    if slots % 8:
        kept[slots // 8] &= (1 << slots % 8) - 1
    return kept


def _absent(expected: Int64s, here: Int64s, step_ns: int) -> Int64s:
    """The positions of the expected starts that are not in `here`; both ascending, all whole steps from one another.

    Looks at runs of bars instead of each.
    """
    if not len(here):
        return np.arange(len(expected))
    ends = np.flatnonzero(np.diff(here) != step_ns)
    first = np.searchsorted(expected, here[np.concatenate(([0], ends + 1))])
    after = np.searchsorted(expected, here[np.concatenate((ends, [len(here) - 1]))], "right")
    low, high = np.concatenate(([0], after)), np.concatenate((first, [len(expected)]))
    count = np.maximum(high - low, 0)  # less where a bar is there twice
    return np.repeat(low - np.cumsum(count) + count, count) + np.arange(count.sum())


def _runs(
    starts: Int64s, codes: npt.NDArray[np.uint8], follows: npt.NDArray[np.bool_], interval: Interval
) -> list[MissingSpan]:
    """Bars that follow one another, as spans. follows[k]: whether bar k + 1 goes on where bar k was."""
    first = _firsts(follows)
    last = np.concatenate((first[1:], [len(starts)])) - 1
    return [
        MissingSpan(start_ns=start, end_ns=end + interval.ns, reason=_REASON_BY_CODE[code], count=count)
        for start, end, code, count in zip(
            starts[first].tolist(),
            starts[last].tolist(),
            codes[first].tolist(),
            (last - first + 1).tolist(),
            strict=True,
        )
    ]


def _firsts(follows: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Where runs begin."""
    return np.flatnonzero(np.concatenate(([True], ~follows)))


def _closed(expected: Int64s, interval: Interval, start_ns: int, end_ns: int) -> list[MissingSpan]:
    """The time of a range in which no bar is expected, from whole bar to whole bar."""
    within = expected[(expected >= start_ns) & (expected < end_ns)]
    begins = np.concatenate(([interval.ceil(start_ns)], within + interval.ns))
    ends = np.concatenate((within, [interval.ceil(end_ns)]))
    rows = np.flatnonzero(begins < ends)
    return [
        MissingSpan(start_ns=low, end_ns=high, reason="closed", count=0)
        for low, high in zip(begins[rows].tolist(), ends[rows].tolist(), strict=True)
    ]


def _by_column(bits: Bits, slots: int, column_slots: int) -> Int64s:
    """Numbers of bits in columns: (rows, columns). bits: (rows, bytes), or (bytes,) for one row."""
    rows = bits if bits.ndim > 1 else bits[None]
    columns = -(-slots // column_slots)
    if column_slots % 8 == 0 or columns == 1:
        counted = np.bitwise_count(rows)
        edges = np.arange(columns) * (column_slots // 8) if columns > 1 else np.zeros(1, np.intp)
        return (
            np.add.reduceat(counted, edges, axis=1, dtype=np.int64) if rows.shape[1] else _nothing(len(rows), columns)
        )
    flags = np.unpackbits(rows, axis=1, count=slots, bitorder="little")
    return np.add.reduceat(flags, np.arange(columns) * column_slots, axis=1, dtype=np.int64)


def _nothing(rows: int, columns: int) -> Int64s:
    return np.zeros((rows, columns), np.int64)
