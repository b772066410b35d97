"""How often a symbol may be published: a token bucket a symbol (GCRA), for all symbols at once.

Two tokens: a source that itself sends at the allowed rate, with some jitter, is then passed through as it
is. "At least so long since the last one" would beat against it and merge away updates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["RateLimit"]


class RateLimit:
    """max_rate_hz: sustained publications a second and symbol; None for no limit."""

    def __init__(self, max_rate_hz: float | None) -> None:
        self._spacing_ns = 0 if max_rate_hz is None else round(1e9 / max_rate_hz)
        self._full_at_ns = np.zeros(0, np.int64)

    def admit(
        self, ids: npt.NDArray[np.intp], now_ns: int, changed_ns: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which of these (distinct) symbols may be published now; those that may are counted as published.

        changed_ns: when each got the value to be published (by default now). A token is taken as of then: our own
        delay until the flush is not charged, because at a source that sends at just the allowed rate that debt
        would never be paid back, and every later update would wait.
        """
        top = int(ids.max(initial=-1)) + 1
        if top > len(self._full_at_ns):
            grown = np.zeros(max(top, 2 * len(self._full_at_ns)), np.int64)
            grown[: len(self._full_at_ns)] = self._full_at_ns
            self._full_at_ns = grown
        full_at = self._full_at_ns[ids]
        taken_ns = now_ns if changed_ns is None else changed_ns
        admitted = full_at <= now_ns + self._spacing_ns
        chosen = ids[admitted]
        self._full_at_ns[chosen] = np.maximum(full_at, taken_ns)[admitted] + self._spacing_ns
        return admitted
