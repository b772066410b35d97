"""What a calendar can be asked. Implementations: `ExchangeCalendar`, `SessionCalendar`, `AlwaysOpen`."""

from __future__ import annotations

from typing import Protocol

import msgspec

from marketd.calendars.spans import Int64s

__all__ = ["Calendar", "Sessions"]


class Sessions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One row a session, ascending. label_ns: midnight UTC of the session's date at the venue. open_ns, close_ns: its
    first and last moment, UTC; pauses are not told here. int64 arrays of one length."""

    label_ns: Int64s
    open_ns: Int64s
    close_ns: Int64s


class Calendar(Protocol):
    """When a venue is open. Pure: the same question has the same answer, whatever the time is.

    Every method raises InvalidInput naming `covers` for a range that reaches outside of it: unknown is not closed.
    A calendar does not change, and is equal to none but itself.
    """

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """As it is configured and shown: `XNYS`, `24/7`, `FX`."""
        ...

    @property
    def covers(self) -> tuple[int, int]:
        """(start_ns, end_ns): the time that the calendar knows about."""
        ...

    @property
    def days_are_sessions(self) -> bool:
        """Whether `days` are dates of sessions, which may open on the UTC day before; else they are UTC days."""
        ...

    def open_spans(self, start_ns: int, end_ns: int) -> Int64s:
        """Open time within start_ns <= t < end_ns: int64 (n, 2), half-open, UTC, ascending, none touching another.

        A lunch break and a daily pause part two spans. Empty when closed throughout, or when end_ns <= start_ns.
        """
        ...

    def sessions(self, start_ns: int, end_ns: int) -> Sessions:
        """The sessions whose *label* lies within start_ns <= label < end_ns."""
        ...

    def days(self, start_ns: int, end_ns: int) -> Int64s:
        """The starts of expected daily bars within the range, ascending: midnights UTC.

        Exchanges label a day by the session's date, although Sydney's opens on the UTC day before. Venues that are
        open round the clock have UTC days: each that has open time.
        """
        ...
