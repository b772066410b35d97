"""Whether a symbol that says nothing is quiet or mute, judged by its own recent rate. Pure: no clock, no calendar.

The measure is the length-biased mean gap, L = Σ g² / Σ g over its recent gaps g, each weighted by half for every
half-life that passed since. L is how long the gap is that a random moment falls into: for ticks at random times twice
the mean gap, for bursts with pauses between them about the length of a pause, which a mean of gaps would miss.
A symbol is mute when it was silent for longer than factor × L, but at least the floor and at most the cap.
With fewer gaps than `least_gaps` nothing is known of it, and it is never mute.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Silence"]

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.intp]


class Silence:
    """Symbols by number. Times are seconds of any one clock that does not go back.

    `mark` is called for every batch and costs one assignment; `fold` does the rest a few times a second, so gaps are
    known to within the time between two folds. All ticks between two folds are one.
    """

    def __init__(self, *, factor: float, floor_s: float, cap_s: float, half_life_s: float, least_gaps: int) -> None:
        self._factor = factor
        self._floor_s = floor_s
        self._cap_s = cap_s
        self._half_life_s = half_life_s
        self._least_gaps = least_gaps
        self._seen = np.zeros(0, np.bool_)
        self._last_s = np.zeros(0)  # NaN: not watched
        self._ticked_s = np.zeros(0)  # NaN: never
        self._squares = np.zeros(0)
        self._sum = np.zeros(0)
        self._gaps = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._seen)

    def grow(self, size: int) -> None:
        """Make room for the numbers below `size`."""
        have = len(self._seen)
        if size <= have:
            return
        room = max(size, 2 * have)
        nothing = (("_seen", False), ("_last_s", np.nan), ("_ticked_s", np.nan))
        for name, absent in (*nothing, ("_squares", 0.0), ("_sum", 0.0), ("_gaps", 0)):
            before = getattr(self, name)
            grown = np.full(room, absent, before.dtype)
            grown[:have] = before
            setattr(self, name, grown)

    def mark(self, ids: Ids) -> None:
        """These ticked. Numbers must be below the size grown to."""
        self._seen[ids] = True

    def watch(self, ids: Ids, now_s: float) -> None:
        """These are expected to tick from now on, if they were not already."""
        new = ids[np.isnan(self._last_s[ids])]
        self._last_s[new] = now_s

    def forget(self, ids: Ids) -> None:
        """These are no longer expected to tick, and nothing is known of them."""
        self._seen[ids] = False
        self._last_s[ids] = self._ticked_s[ids] = np.nan
        self._squares[ids] = self._sum[ids] = 0.0
        self._gaps[ids] = 0

    def restart(self, now_s: float) -> None:
        """The silence of all begins now: what was before says nothing (a new connection)."""
        self._seen[:] = False
        self._last_s[~np.isnan(self._last_s)] = now_s

    def fold(self, now_s: float, closed: Mask | None = None) -> Ids:
        """Take up what was marked; returns those numbers. closed: whose venue is closed, of the same length: their
        silence begins anew, and their ticks say nothing of their rate."""
        if closed is not None and closed.any():
            self._seen[closed] = False
            self._last_s[closed & ~np.isnan(self._last_s)] = now_s
        ids = np.flatnonzero(self._seen)
        if not len(ids):
            return ids
        self._seen[ids] = False
        gap = now_s - self._last_s[ids]
        known = gap > 0  # NaN is not
        self._last_s[ids] = self._ticked_s[ids] = now_s
        rows, gap = ids[known], gap[known]
        kept = np.exp2(-gap / self._half_life_s)
        self._squares[rows] = self._squares[rows] * kept + gap * gap
        self._sum[rows] = self._sum[rows] * kept + gap
        self._gaps[rows] += 1
        return ids

    def silent_s(self, now_s: float) -> F64:
        """For how long each is silent while it is expected to tick; NaN where it is not."""
        silent: F64 = now_s - self._last_s
        return silent

    def heard_s(self, now_s: float) -> F64:
        """How long ago each ticked; infinite where it never did."""
        return np.where(np.isnan(self._ticked_s), np.inf, now_s - self._ticked_s)

    def is_known(self) -> Mask:
        """Of which the rate is known."""
        return self._gaps >= self._least_gaps

    def limit_s(self) -> F64:
        """How long each may be silent; infinite where too little is known."""
        expected = np.divide(self._squares, self._sum, out=np.full(len(self), np.inf), where=self._sum > 0)
        limits: F64 = np.clip(self._factor * expected, self._floor_s, self._cap_s)
        limits[~self.is_known()] = np.inf
        return limits

    def mute(self, now_s: float) -> Mask:
        """Which are silent for too long. Call after `fold`."""
        muted: Mask = self.silent_s(now_s) > self.limit_s()
        return muted
