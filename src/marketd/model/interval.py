"""Bar intervals: the lengths the server builds, and how people write them."""

from __future__ import annotations

from marketd.model.time import NS_PER_S

__all__ = ["INTERVALS", "Interval"]


class Interval:
    """A bar length. Compare and hash by identity: there is one object per length, in `INTERVALS`.

    name: `1m`. ns: nanoseconds. timeframe: the other common spelling, `M1`. Bars of every interval start
    at whole multiples of it since the Unix epoch, UTC; `1d` is the UTC day.
    """

    __slots__ = ("name", "ns", "timeframe")

    def __init__(self, name: str, seconds: int, timeframe: str) -> None:
        self.name = name
        self.ns = seconds * NS_PER_S
        self.timeframe = timeframe

    def __repr__(self) -> str:
        return f"Interval({self.name})"

    def __str__(self) -> str:
        return self.name

    def floor(self, time_ns: int) -> int:
        """Start of the bar that holds `time_ns`."""
        return time_ns - time_ns % self.ns

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
    Interval("15m", 900, "M15"),
    Interval("1h", 3_600, "H1"),
    Interval("1d", 86_400, "D1"),
)

_BY_SPELLING: dict[str, Interval] = {}
for _interval in INTERVALS:
    _count, _unit = _interval.name[:-1], _interval.name[-1]
    for _spelling in (_interval.name, _interval.timeframe.lower()):
        _BY_SPELLING[_spelling] = _interval
    for _long in {"s": ("sec",), "m": ("min",), "h": ("hour", "hr"), "d": ("day",)}[_unit]:
        _BY_SPELLING[_count + _long] = _interval
