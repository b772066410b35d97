"""How far providers of the same instrument disagree, and which of them is the outlier. Pure: no clock, no I/O.

A provider's value is the middle of bid and ask, or the last price where it has no book. Measured is every pair, in
basis points of the mean of both. One that is beyond the threshold, check after check for `confirm_s`, is quarantined:

- of three or more, the one that is far from the median, if at least two are near it;
- of two, the one that moved more than twice as far as the other from where both last agreed, once the other has said
  something since the disagreement began: one that jumped away, not one that waits for its next tick. If both moved
  alike, or never agreed, nobody is: it is only measured.

It is released when it was near the others for `release_s`, or had nobody to be compared with for as long. Values older
than `fresh_s` take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.collect.streams import CrossCheckConfig
from marketd.model.time import NS_PER_S

__all__ = ["CrossCheck", "CrossCheckRow", "Judged", "Values"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.intp]

_SMOOTHING = 0.1
_CLEARLY = 2.0


class CrossCheckRow(msgspec.Struct, frozen=True, kw_only=True):
    """One symbol of two providers. bp: (a - b) in basis points of their mean, at the last check in which both had
    fresh values; bp_mean: exponential mean of its size (a tenth each check); bp_max: its largest. staleness_s: age of
    each one's value then, by its event time. quarantined: which of the two is, None for neither."""

    symbol: str
    a: str
    b: str
    bp: float
    bp_mean: float
    bp_max: float
    staleness_a_s: float
    staleness_b_s: float
    samples: int
    quarantined: str | None


class Values(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What some providers say of some symbols: (providers, symbols) each. value: NaN for none. event_ns, received_ns:
    of it."""

    value: F64
    event_ns: I64
    received_ns: I64


class Judged(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A provider's symbols that are quarantined from now on, or are no longer. detail: of the first of them."""

    line: int
    ids: Ids
    quarantined: bool
    detail: str = ""


class _Pair:
    def __init__(self) -> None:
        self.columns: dict[str, F64] = {}
        self.grow(0)

    def grow(self, size: int) -> None:
        for name in ("bp", "bp_mean", "bp_max", "staleness_a_s", "staleness_b_s", "samples"):
            before = self.columns.get(name, np.zeros(0))
            if size > len(before):
                grown = np.zeros(max(size, 2 * len(before)))
                grown[: len(before)] = before
                self.columns[name] = grown
            else:
                self.columns[name] = before

    def note(self, ids: Ids, bp: F64, stale_a: F64, stale_b: F64) -> None:
        c = self.columns
        size = np.abs(bp)
        first = c["samples"][ids] == 0
        c["bp"][ids] = bp
        c["bp_mean"][ids] = np.where(first, size, (1 - _SMOOTHING) * c["bp_mean"][ids] + _SMOOTHING * size)
        c["bp_max"][ids] = np.maximum(c["bp_max"][ids], size)
        c["staleness_a_s"][ids] = stale_a
        c["staleness_b_s"][ids] = stale_b
        c["samples"][ids] += 1


class CrossCheck:
    """Providers (lines) and symbols by number. `compare` is called every `every_s` for each set of lines that have
    symbols in common."""

    def __init__(self, config: CrossCheckConfig, lines: int = 0) -> None:
        self._config = config
        self._limit = np.inf if config.threshold_bp is None else config.threshold_bp
        self._pairs: dict[tuple[int, int], _Pair] = {}
        self._agreed = np.full((lines, 0), np.nan)
        self._suspect_ns = np.zeros((lines, 0), np.int64)
        self._well_ns = np.zeros((lines, 0), np.int64)
        self.quarantined: Mask = np.zeros((lines, 0), np.bool_)
        """(lines, symbols)."""

    def grow(self, lines: int, symbols: int) -> None:
        """Make room for the numbers below these."""
        have = self.quarantined.shape
        if lines <= have[0] and symbols <= have[1]:
            return
        shape = max(lines, have[0]), have[1] if symbols <= have[1] else max(symbols, 2 * have[1])
        for name, absent in (("_agreed", np.nan), ("_suspect_ns", 0), ("_well_ns", 0), ("quarantined", False)):
            before = getattr(self, name)
            grown = np.full(shape, absent, before.dtype)
            grown[: have[0], : have[1]] = before
            setattr(self, name, grown)

    def forget(self, ids: Ids) -> None:
        """Nothing is known of these any more."""
        self._agreed[:, ids] = np.nan
        self._suspect_ns[:, ids] = self._well_ns[:, ids] = 0
        self.quarantined[:, ids] = False

    def compare(self, lines: Sequence[int], ids: Ids, values: Values, now_ns: int) -> list[Judged]:
        """Measure, and judge. lines, ids: rows and columns of `values`."""
        value = values.value
        fresh = ~np.isnan(value) & (values.received_ns >= now_ns - round(self._config.fresh_s * NS_PER_S))
        self._measure(lines, ids, values, fresh, now_ns)
        if self._limit == np.inf:
            return []
        at = np.ix_(np.array(lines, np.intp), ids)
        apart = self.quarantined[at]
        good = fresh & ~apart
        count = good.sum(0)
        suspect = np.zeros(value.shape, np.bool_)
        accepted = np.zeros(value.shape, np.bool_)
        median = _median(value, good)
        many = count >= 3
        if many.any():
            near = good & (_bp(value, median) <= self._limit)
            decided = many & (near.sum(0) >= 2)
            suspect |= good & ~near & decided
            accepted |= near & decided
        two = count == 2
        if two.any():
            self._judge_two(value, good, two, at, suspect, accepted)
        self._agreed[at] = np.where(accepted, value, self._agreed[at])
        since = self._suspect_ns[at]
        since = np.where(suspect, np.where(since == 0, now_ns, since), np.where(fresh, 0, since))
        self._suspect_ns[at] = since
        out = suspect & (now_ns - since >= round(self._config.confirm_s * NS_PER_S))
        out &= ~two | _others_spoke(values.received_ns, good, since)
        # the others, seen from one that is apart
        with_others = fresh & (count > 0) & (_bp(value, median) > self._limit)
        well = apart & ~with_others & (fresh | (count == 0))
        well_ns = np.where(well, np.where(self._well_ns[at] == 0, now_ns, self._well_ns[at]), 0)
        back = well & (now_ns - well_ns >= round(self._config.release_s * NS_PER_S))
        self._well_ns[at] = np.where(back, 0, well_ns)
        self.quarantined[at] = (apart | out) & ~back
        return self._told(lines, ids, value, median, out, back)

    def _judge_two(self, value: F64, good: Mask, two: Mask, at: tuple[Ids, ...], suspect: Mask, accepted: Mask) -> None:
        columns = np.flatnonzero(two)
        picked = good[:, columns]
        first = picked.argmax(0)
        second = len(picked) - 1 - picked[::-1].argmax(0)
        one, other = value[first, columns], value[second, columns]
        apart = np.abs(one - other) / np.abs(one + other) * 2e4 > self._limit
        accepted[first[~apart], columns[~apart]] = True
        accepted[second[~apart], columns[~apart]] = True
        agreed = self._agreed[at]
        moved_one = _bp(one, agreed[first, columns])
        moved_other = _bp(other, agreed[second, columns])
        is_one = apart & (moved_one > _CLEARLY * moved_other)  # NaN, never agreed, is not greater
        is_other = apart & (moved_other > _CLEARLY * moved_one)
        suspect[first[is_one], columns[is_one]] = True
        suspect[second[is_other], columns[is_other]] = True

    def _measure(self, lines: Sequence[int], ids: Ids, values: Values, fresh: Mask, now_ns: int) -> None:
        for i, j in combinations(range(len(lines)), 2):
            both = np.flatnonzero(fresh[i] & fresh[j])
            if not len(both):
                continue
            pair = self._pairs.setdefault((lines[i], lines[j]), _Pair())
            pair.grow(int(ids.max()) + 1)
            a, b = values.value[i, both], values.value[j, both]
            bp = (a - b) / np.abs(a + b) * 2e4
            age = (now_ns - values.event_ns[:, both]) / NS_PER_S
            pair.note(ids[both], bp, age[i], age[j])

    @staticmethod
    def _told(lines: Sequence[int], ids: Ids, value: F64, median: F64, out: Mask, back: Mask) -> list[Judged]:
        found: list[Judged] = []
        for row, line in enumerate(lines):
            columns = np.flatnonzero(out[row])
            if len(columns):
                first = columns[0]
                detail = f"{value[row, first]:g} where the median is {median[first]:g}"
                found.append(Judged(line=line, ids=ids[columns], quarantined=True, detail=detail))
            columns = np.flatnonzero(back[row])
            if len(columns):
                found.append(Judged(line=line, ids=ids[columns], quarantined=False))
        return found

    def rows(self, lines: Sequence[str], symbols: Sequence[str]) -> list[CrossCheckRow]:
        """What was measured; by names of lines and symbols, both in the order of their numbers."""
        found: list[CrossCheckRow] = []
        for (a, b), pair in self._pairs.items():
            for number in np.flatnonzero(pair.columns["samples"]).tolist():
                apart = [line for line in (a, b) if self.quarantined[line, number]]
                measured = {name: round(float(column[number]), 4) for name, column in pair.columns.items()}
                samples = int(measured.pop("samples"))
                found.append(
                    CrossCheckRow(
                        symbol=symbols[number],
                        a=lines[a],
                        b=lines[b],
                        samples=samples,
                        quarantined=lines[apart[0]] if apart else None,
                        **measured,
                    )
                )
        return found


def _bp(value: F64, reference: F64) -> F64:
    """Distance in basis points of the reference; NaN where there is none."""
    distance: F64 = np.abs(value - reference) / np.abs(reference) * 1e4
    return distance


def _median(value: F64, good: Mask) -> F64:
    """Of the good ones of each column; NaN where there are none."""
    count = good.sum(0)
    ordered = np.sort(np.where(good, value, np.inf), axis=0)
    columns = np.arange(value.shape[1])
    middle = (ordered[np.maximum(count - 1, 0) // 2, columns] + ordered[count // 2, columns]) / 2
    return np.where(count > 0, middle, np.nan)


def _others_spoke(received_ns: I64, good: Mask, since_ns: I64) -> Mask:
    """For each, whether another good one of its column was heard after its suspicion began."""
    heard = np.where(good, received_ns, 0)
    spoke = np.zeros(good.shape, np.bool_)
    for row in range(len(heard)):
        others = np.delete(heard, row, axis=0)
        spoke[row] = others.max(axis=0, initial=0) > since_ns[row]
    return spoke
