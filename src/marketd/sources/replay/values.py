"""One value of a file at a time: numbers and times, exactly, or a `ValueError` that says why not.

The fast way through a file is Arrow's; this is the careful way, and the two accept the same texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from datetime import time as midnight
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec

from marketd.errors import InvalidInput
from marketd.model import parse_ns
from marketd.model.ticks import NO_TRADE_ID
from marketd.model.time import NS_PER_S

__all__ = ["INTEGER", "NS_PER_UNIT", "TimeColumn", "integer", "moment", "number", "time_column"]

NS_PER_UNIT = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
_INT64_MAX = 2**63 - 1

INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EPOCH = re.compile(r"([+-]?)([0-9]{1,30})(?:\.([0-9]*))?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_HAS_OFFSET = re.compile(r"(?:[Zz]|[+-]\d{2}:?\d{2})$")
_ALLOWED_TIME = "epoch seconds, ms, us or ns, or RFC 3339"


class TimeColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of times. unit: of a number since the epoch; rfc3339 has an offset in the text, date is a day (its
    midnight, UTC), local is a time in `zone`. fractional: numbers have decimals.
    """

    column: str
    unit: str
    fractional: bool = False
    zone: ZoneInfo | None = None


def number(value: object) -> float:
    """A finite float, exactly as `float(text)`; NaN for what is absent (empty text, None, a NaN of a binary file)."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return math.nan
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is not a number")
        result = float(text)
    elif value is None:
        return math.nan
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{str(value)[:40]!r} is not a number")
    else:
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if math.isnan(result):
            return math.nan
    if math.isinf(result):
        raise ValueError("a number out of range")
    return result


def integer(value: object) -> int:
    """An int64; `NO_TRADE_ID` for what is absent."""
    if value is None or value == "":
        return NO_TRADE_ID
    if isinstance(value, bool) or not isinstance(value, int | str) or not INTEGER.fullmatch(str(value).strip()):
        raise ValueError(f"{str(value)[:40]!r} is not a whole number")
    return _in_range(int(value))


def moment(value: object, column: TimeColumn) -> int | None:
    """Nanoseconds since the epoch; None for what is absent."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{str(value)[:40]!r} is not a time")  # noqa: TRY004 - the text is at fault, not a caller
    text = value.strip() if isinstance(value, str) else format(Decimal(str(value)), "f")
    if not text:
        return None
    if column.unit in NS_PER_UNIT:
        match = _EPOCH.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:40]!r} is not a number of {column.unit} since 1970")
        sign, whole, fraction = match.groups()
        digits = _DIGITS[column.unit]
        if fraction and fraction[digits:].strip("0"):
            raise ValueError(f"{text[:40]!r} is finer than a nanosecond")
        nanoseconds = int(whole + (fraction or "")[:digits].ljust(digits, "0"))
        return _in_range(-nanoseconds if sign == "-" else nanoseconds)
    if column.zone is not None and (_DATE.fullmatch(text) or not _HAS_OFFSET.search(text)):
        return _in_range(_local(text, column.zone))
    if column.unit == "date" and not _DATE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a date")
    return _in_range(parse_ns(text))


def _local(text: str, zone: ZoneInfo) -> int:
    wall_ns = parse_ns(text, naive_is_utc=True)
    seconds, fraction = divmod(wall_ns, NS_PER_S)
    wall = datetime.combine(date(1970, 1, 1), midnight()) + timedelta(seconds=seconds)
    offsets = {wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)}
    offset = offsets.pop()
    if offsets or offset is None:
        raise ValueError(f"{text!r} does not name one moment in {zone.key}")
    return (seconds - round(offset.total_seconds())) * NS_PER_S + fraction


def _in_range(value: int) -> int:
    if not -_INT64_MAX <= value <= _INT64_MAX:
        raise ValueError(f"{value} does not fit in 64 bits")
    return value


def time_column(
    path: str, column: str, sample: Sequence[object], unit: str, zone: ZoneInfo | None
) -> TimeColumn | None:
    """How to read a column of times, from its name's suffix and first values; None if they are all empty.

    unit: `auto`, or what the configuration or the file's types say. Raises `InvalidInput` if nothing in it is a time.
    """
    texts = [text for value in sample if (text := _plain(value))]
    if not texts:  # perhaps filled further down: a unit in the name is enough to read it then
        suffix = column.strip().lower().rpartition("_")[2]
        unit = suffix if unit == "auto" else unit
        return TimeColumn(column=column, unit=unit) if unit in NS_PER_UNIT else None
    for text in texts:
        if _EPOCH.fullmatch(text) and unit != "rfc3339":
            numbers = [other for other in texts if _EPOCH.fullmatch(other)]
            typical = sorted(abs(int(other.partition(".")[0])) for other in numbers)[len(numbers) // 2]
            known = unit if unit in NS_PER_UNIT else _unit_of(column, typical)
            return TimeColumn(column=column, unit=known, fractional=any("." in other for other in numbers))
        if unit in NS_PER_UNIT:
            continue
        try:
            parse_ns(text, naive_is_utc=True)
        except ValueError:
            continue
        if _DATE.fullmatch(text):
            return TimeColumn(column=column, unit="date" if zone is None else "local", zone=zone)
        if _HAS_OFFSET.search(text):
            return TimeColumn(column=column, unit="rfc3339", zone=zone)
        if zone is None:
            raise InvalidInput(f"{path}: {column}", text, "a time with its UTC offset, or `timezone` given")
        return TimeColumn(column=column, unit="local", zone=zone)
    raise InvalidInput(f"{path}: {column}", texts[0], f"{_ALLOWED_TIME} ({unit})")


def _plain(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format(Decimal(str(value)), "f")
    return str(value).strip()


def _unit_of(column: str, value: int) -> str:
    suffix = column.strip().lower().rpartition("_")[2]
    if suffix in NS_PER_UNIT and "_" in column:
        return suffix
    return "s" if value < 10**11 else "ms" if value < 10**14 else "us" if value < 10**17 else "ns"
