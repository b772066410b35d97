"""How much was spent in the last so many seconds: one limit of a provider, exactly.

At most `count` in any window (t − seconds, t], whoever spent it, and of what is not live at most its share. Times are
nanoseconds of one clock that never goes back. Pure: nobody is asked, no clock is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from marketd.model.time import NS_PER_S
from marketd.routing.config import PRIORITIES, SharesConfig
from marketd.sources.contract import Limit

__all__ = ["Spent", "Window"]

Spent = tuple[int, int, int, int]
"""time_ns, and what was spent then live, by sweep, by back-fill."""

_SLOTS = 1_024


class Window:
    """Begins with nothing spent."""

    def __init__(self, limit: Limit, shares: SharesConfig) -> None:
        self.limit = limit
        self.span_ns = max(1, round(limit.seconds * NS_PER_S))
        # What is spent within a slot counts as spent at its latest: a little late, never too early.
        self._slot_ns = max(1, self.span_ns // _SLOTS)
        self._spent: deque[list[int]] = deque()
        self._totals = [0] * len(PRIORITIES)
        share = (1.0, shares.sweep, shares.backfill)
        self.shares = shares
        self._caps = [max(1, int(limit.count * part)) for part in share]

    @property
    def key(self) -> tuple[float, str | None]:
        return self.limit.seconds, self.limit.endpoint

    def concerns(self, endpoint: str) -> bool:
        return self.limit.endpoint is None or self.limit.endpoint == endpoint

    def used(self, now_ns: int) -> int:
        """Spent in the window that ends now."""
        self._forget(now_ns)
        return sum(self._totals)

    def spent(self, now_ns: int) -> list[Spent]:
        """What counts now, oldest first."""
        self._forget(now_ns)
        return [(e[0], e[1], e[2], e[3]) for e in self._spent]

    def spend(self, now_ns: int, weight: int, rank: int) -> None:
        """Count it, whether there is room or not. rank: place of its priority in `PRIORITIES`."""
        if weight <= 0:
            return
        newest = self._spent[-1] if self._spent else None
        if newest is not None and newest[0] // self._slot_ns >= now_ns // self._slot_ns:
            newest[0] = max(newest[0], now_ns)
        else:
            newest = [now_ns, 0, 0, 0]
            self._spent.append(newest)
        newest[1 + rank] += weight
        self._totals[rank] += weight

    def remember(self, entries: Iterable[Spent], now_ns: int) -> None:
        """Count what was spent earlier, on top of nothing. Times in the future count as now."""
        for time_ns, *weights in sorted(entries):
            for rank, weight in enumerate(weights):
                self.spend(min(time_ns, now_ns), weight, rank)
        self._forget(now_ns)

    def ready_ns(self, now_ns: int, weight: int, rank: int) -> int | None:
        """When there is room for it if nothing else is spent: `now_ns` if there is now; None: never, since it weighs
        more than the whole window."""
        if weight > self.limit.count:
            return None
        self._forget(now_ns)
        totals = list(self._totals)
        if self._fits(totals, weight, rank):
            return now_ns
        for entry in self._spent:
            for place in range(len(totals)):
                totals[place] -= entry[1 + place]
            if self._fits(totals, weight, rank):
                return entry[0] + self.span_ns
        return now_ns

    def empty_ns(self, now_ns: int) -> int:
        """When nothing that was spent counts any longer."""
        self._forget(now_ns)
        return self._spent[-1][0] + self.span_ns if self._spent else now_ns

    def _fits(self, totals: Sequence[int], weight: int, rank: int) -> bool:
        if sum(totals) + weight > self._caps[0]:
            return False
        for place in range(1, rank + 1):
            used = sum(totals[place:])
            # What weighs more than a whole share goes when nobody else of the kind has spent anything.
            if used and used + weight > self._caps[place]:
                return False
        return True

    def _forget(self, now_ns: int) -> None:
        while self._spent and self._spent[0][0] + self.span_ns <= now_ns:
            entry = self._spent.popleft()
            for place in range(len(self._totals)):
                self._totals[place] -= entry[1 + place]
