"""Times cross the border as RFC 3339 in UTC and live inside as integer nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["NS_PER_MS", "NS_PER_S", "format_ns", "parse_ns"]

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:[Tt ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?([Zz]|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)

_prefix_by_second: dict[str, str] = {}
_PREFIXES_KEPT = 4096
_NINE_DIGITS = NS_PER_S


def format_ns(time_ns: int) -> str:
    """RFC 3339 in UTC, with as many of 0, 3, 6 or 9 decimals as the value needs: `2026-11-20T14:30:00.125Z`."""
    # The decimal digits of the number are, but for its last nine, the second: cheaper than dividing.
    digits = str(time_ns)
    prefix = _prefix_by_second.get(digits[:-9]) or _prefix(time_ns, digits[:-9])
    if digits[-3:] != "000" and time_ns >= _NINE_DIGITS:
        return f"{prefix}.{digits[-9:]}Z"
    fraction = time_ns % NS_PER_S
    if not fraction:
        return prefix + "Z"
    if fraction % 1_000_000 == 0:
        return f"{prefix}.{fraction // 1_000_000:03d}Z"
    if fraction % 1_000 == 0:
        return f"{prefix}.{fraction // 1_000:06d}Z"
    return f"{prefix}.{fraction:09d}Z"


def _prefix(time_ns: int, key: str) -> str:
    prefix = datetime.fromtimestamp(time_ns // NS_PER_S, UTC).isoformat()[:19]  # far cheaper than strftime
    if time_ns >= _NINE_DIGITS:  # below, and before 1970, the leading digits do not name one second
        if len(_prefix_by_second) >= _PREFIXES_KEPT:
            _prefix_by_second.clear()
        _prefix_by_second[key] = prefix
    return prefix


def parse_ns(text: str, *, naive_is_utc: bool = False) -> int:
    """Nanoseconds of an RFC 3339 time, exact to the nanosecond. A date alone is its midnight, UTC.

    Raises ValueError for anything else, and for a time without an offset unless `naive_is_utc`.
    """
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-11-20T14:30:00Z")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if hour is not None and zone is None and not naive_is_utc:
        raise ValueError(f"{text!r} has no UTC offset; write 2026-11-20T14:30:00Z or …+00:00")
    whole = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC)
    seconds = int(whole.timestamp())
    if zone not in (None, "Z", "z"):
        digits = zone[1:].replace(":", "")
        offset = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        if offset >= 86_400 or int(digits[2:]) >= 60:
            raise ValueError(f"{text!r} has an impossible UTC offset")
        seconds += -offset if zone[0] == "+" else offset
    return seconds * NS_PER_S + int((fraction or "0").ljust(9, "0"))
