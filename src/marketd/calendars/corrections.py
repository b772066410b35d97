"""What exchanges did that the package `exchange_calendars` 4.13 does not know. UTC; by the name of the calendar.

An entry says how the session was, not how it differs, so that it does no harm once the package knows it too.
"""

from __future__ import annotations

__all__ = ["CLOSED", "HOURS"]

CLOSED: dict[str, tuple[str, ...]] = {
    "XKRX": ("2026-06-03",),  # local elections
}
"""Dates on which there was no session."""

_EXAM = ("01:00", "07:30")

HOURS: dict[str, dict[str, tuple[str | None, str]]] = {
    # The day of the university entrance exam: everything is an hour later.
    "XKRX": dict.fromkeys(("2021-11-18", "2022-11-17", "2023-11-16", "2024-11-14", "2025-11-13"), _EXAM),
    # Juneteenth: ends at noon in Chicago.
    "CMES": dict.fromkeys(
        (
            *("2022-06-20", "2023-06-19", "2024-06-19", "2025-06-19", "2026-06-19", "2027-06-18", "2028-06-19"),
            *("2029-06-19", "2030-06-19", "2031-06-19", "2032-06-18", "2033-06-20", "2034-06-19", "2035-06-19"),
        ),
        (None, "17:00"),
    ),
}
"""Date of a session to its opening (None: as the package has it) and its close, both on that UTC day."""
