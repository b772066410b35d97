"""Bar intervals: the lengths the server builds, and how people write them."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from marketd.model.time import NS_PER_S

__all__ = ["BUILT_INTERVALS", "INTERVALS", "Interval"]

_T = TypeVar("_T", int, Any)


class Interval:
    """A bar length. Compare and hash by identity: there is one object per length, in `INTERVALS`.

    name: `1m`. ns: nanoseconds. timeframe: the other common spelling, `M1`. Bars of every interval start
    at whole multiples of it since the Unix epoch, UTC; `1d` is the UTC day. Weeks start `offset_ns` later: on Mondays.
    """

    __slots__ = ("name", "ns", "offset_ns", "timeframe")

    def __init__(self, name: str, seconds: int, timeframe: str, offset_s: int = 0) -> None:
        self.name = name
        self.ns = seconds * NS_PER_S
        self.timeframe = timeframe
        self.offset_ns = offset_s * NS_PER_S

    def __repr__(self) -> str:
        return f"Interval({self.name})"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return Interval.parse, (self.name,)

    def floor(self, time_ns: _T) -> _T:
        """Start of the bar that holds `time_ns`; element by element for a numpy array."""
        # numpy divides several times faster than it takes remainders
        return (time_ns - self.offset_ns) // self.ns * self.ns + self.offset_ns

    def ceil(self, time_ns: _T) -> _T:
        """The first start of a bar at or after `time_ns`."""
        return time_ns + (self.offset_ns - time_ns) % self.ns

    def starts(self, start_ns: int, end_ns: int) -> npt.NDArray[np.int64]:
        """The starts of all bars with start_ns <= ts < end_ns, ascending."""
        first_ns = self.ceil(start_ns)
        # numpy.arange with a step counts in doubles, and can lose the last one
        count = -(-(end_ns - first_ns) // self.ns)
        found: npt.NDArray[np.int64] = first_ns + self.ns * np.arange(count, dtype=np.int64)
        return found

    @staticmethod
    def parse(text: str) -> Interval:
        """The interval spelled `1m`, `M1` or `1min`, in any case. Raises ValueError naming what is allowed."""
        found = _BY_SPELLING.get(text.strip().lower())
        if found is None:
            raise ValueError(f"{text!r} is not one of {', '.join(i.name for i in INTERVALS)}")
        return found


INTERVALS: tuple[Interval, ...] = (
    Interval("1s", 1, "S1"),
    Interval("1m", 60, "M1"),
    Interval("5m", 300, "M5"),
    Interval("10m", 600, "M10"),
    Interval("15m", 900, "M15"),
    Interval("30m", 1_800, "M30"),
    Interval("1h", 3_600, "H1"),
    Interval("4h", 14_400, "H4"),
    Interval("1d", 86_400, "D1"),
    Interval("1w", 604_800, "W1", offset_s=4 * 86_400),
)
"""Every length, shortest first: what can be stored, fetched, imported and asked for."""

_BY_SPELLING: dict[str, Interval] = {}
for _interval in INTERVALS:
    _count, _unit = _interval.name[:-1], _interval.name[-1]
    for _spelling in (_interval.name, _interval.timeframe.lower()):
        _BY_SPELLING[_spelling] = _interval
    for _long in {"s": ("sec",), "m": ("min",), "h": ("hour", "hr"), "d": ("day",), "w": ("wk", "week")}[_unit]:
        _BY_SPELLING[_count + _long] = _interval

BUILT_INTERVALS: tuple[Interval, ...] = tuple(Interval.parse(n) for n in ("1s", "1m", "5m", "15m", "1h", "1d"))
"""The lengths that are built from ticks as they come and have a live channel."""
