"""Times as people write them in files: whole columns of text or numbers to integer nanoseconds, exactly or not at all.

Pure. A value that does not match its column's form is not ok; nothing is rounded, rolled over (31 February) or
guessed row by row. To teach a new way of writing dates, add it to `_DATES`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from marketd.errors import InvalidInput
from marketd.model.ticks import I64
from marketd.model.time import NS_PER_S

__all__ = [
    "NS_PER_DAY",
    "NS_PER_UNIT",
    "Column",
    "EpochForm",
    "Mask",
    "Stamps",
    "TextForm",
    "ZoneTable",
    "around_1970",
    "best_form",
    "clock_of",
    "custom_form",
    "epoch_parts",
    "epoch_stamps",
    "epoch_unit",
    "has_clock",
    "settle_folds",
    "text_stamps",
    "zone_table",
]

pc: Any = pyarrow.compute  # as for `Column`

Column = Any
"""A `pyarrow.Array`; the stubs of what computes with it refuse much of what it accepts."""
Mask = npt.NDArray[np.bool_]

NS_PER_DAY = 86_400 * NS_PER_S
NS_PER_UNIT = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}
_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
_YEAR_MIN, _YEAR_MAX = 1700, 2261
_EPOCH_MIN_S, _EPOCH_MAX_S = -2_208_988_800, 4_102_444_800  # 1900 and 2100
_SHARE = 0.99

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    "(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?)"
)
_DATES: dict[str, str] = {
    "YYYY-MM-DD": r"(?P<y>[0-9]{4})[-/.](?P<m>[0-9]{1,2})[-/.](?P<d>[0-9]{1,2})",
    "YYYYMMDD": r"(?P<y>[0-9]{4})(?P<m>[0-9]{2})(?P<d>[0-9]{2})",
    "PP/QQ/YYYY": r"(?P<p>[0-9]{1,2})[-/.](?P<q>[0-9]{1,2})[-/.](?P<y>[0-9]{4})",
    "DD Mon YYYY": rf"(?P<d>[0-9]{{1,2}})[-/. ](?P<b>{_MONTH})[-/., ] ?(?P<y>[0-9]{{4}})",
    "Mon DD, YYYY": rf"(?P<b>{_MONTH})[-. ] ?(?P<d>[0-9]{{1,2}}),?[- ](?P<y>[0-9]{{4}})",
}
_FRACTION = r"(?:[.,](?P<f>[0-9]{1,9}))?"
_CLOCKS: dict[str, str] = {
    "HH:MM": rf"(?P<H>[0-9]{{1,2}}):(?P<M>[0-9]{{2}})(?::(?P<S>[0-9]{{2}}){_FRACTION})?"
    r"(?: ?(?P<ap>[AaPp])\.?[Mm]\.?)?",
    "HHMM": rf"(?P<H>[0-9]{{2}})(?P<M>[0-9]{{2}})(?:(?P<S>[0-9]{{2}}){_FRACTION})?",
}
_ZONE = r"(?P<z>(?: ?(?:[Zz]|UTC|GMT))?(?: ?[+-][0-9]{1,2}(?::?[0-9]{2})?)?)"
_OFFSET = re.compile(r"([+-])([0-9]{1,2}):?([0-9]{2})?")
_EPOCH = r"^(?P<sign>[+-]?)(?P<whole>[0-9]{1,19})(?:\.(?P<f>[0-9]{0,12}))?$"


class TextForm(msgspec.Struct, frozen=True, kw_only=True):
    """How a column of written times reads. date: None in a column of clock times. words: the form, for people.

    day_first: of `PP/QQ/YYYY`. clock_digits: of a clock column of bare digits, 4 (HHMM) or 6 (HHMMSS), else 0.
    """

    pattern: str
    words: str
    date: str | None
    day_first: bool | None = None
    clock_digits: int = 0


class EpochForm(msgspec.Struct, frozen=True, kw_only=True):
    """A column of numbers since 1970, UTC. around_1970: the series runs through 1970, so small numbers are meant."""

    unit: str
    around_1970: bool = False


class Stamps(NamedTuple):
    """A column of times, element by element.

    ns: UTC where `absolute`, else the reading of a clock on some wall. offset_ns: of the written UTC offset.
    clock: the text has a time of day. ok: it was understood; the rest means nothing where it was not.
    """

    ns: I64
    absolute: Mask
    offset_ns: I64
    clock: Mask
    ok: Mask


# --- text --------------------------------------------------------------------------------------------------


def best_form(texts: Sequence[str], *, clock_only: bool = False) -> TextForm | None:
    """The form that reads most of these texts (None if none does). clock_only: of a column of times of day."""
    filled = [text for text in texts if text]
    if not any(char.isdigit() for text in filled for char in text):
        return None
    column = pa.array(filled, pa.string())
    best, best_count = None, 0
    for form in _clock_forms() if clock_only else _date_forms():
        if not pc.any(pc.match_substring_regex(column, form.pattern)).as_py():
            continue
        stamps = clock_of(column, form) if clock_only else _either_order(column, form)
        count = int(stamps.ok.sum())
        if count > best_count:
            best, best_count = form, count
    return best if best_count > len(column) / 2 else None


def _either_order(column: Column, form: TextForm) -> Stamps:
    if form.date != "PP/QQ/YYYY":
        return text_stamps(column, form)
    first = text_stamps(column, msgspec.structs.replace(form, day_first=True))
    second = text_stamps(column, msgspec.structs.replace(form, day_first=False))
    return first._replace(ok=first.ok | second.ok, clock=first.clock | second.clock)


def has_clock(texts: Sequence[str]) -> bool:
    """Whether most of these texts are dates with a time of day."""
    form = best_form(texts)
    if form is None:
        return False
    stamps = _either_order(pa.array([text for text in texts if text], pa.string()), form)
    return bool(stamps.clock.sum() > len(stamps.clock) / 2)


@functools.cache
def _date_forms() -> tuple[TextForm, ...]:
    return tuple(
        TextForm(pattern=f"^{date}(?:[T ,_:]{{{least},2}}{clock}{_ZONE})?$", words=f"{name} [{clock_name}]", date=name)
        for name, date in _DATES.items()
        for clock_name, clock in _CLOCKS.items()
        for least in (0 if name == "YYYYMMDD" and clock_name == "HHMM" else 1,)
    )


@functools.cache
def _clock_forms() -> tuple[TextForm, ...]:
    return tuple(
        TextForm(pattern=f"^{clock}{_ZONE}$", words=name, date=None, clock_digits=0 if name == "HH:MM" else 4)
        for name, clock in _CLOCKS.items()
    )


_DIRECTIVES: dict[str, str] = {
    "Y": "(?P<y>[0-9]{4})",
    "y": "(?P<y2>[0-9]{2})",
    "m": "(?P<m>[0-9]{1,2})",
    "d": "(?P<d>[0-9]{1,2})",
    "b": f"(?P<b>{_MONTH})",
    "B": f"(?P<b>{_MONTH})",
    "H": "(?P<H>[0-9]{1,2})",
    "I": "(?P<H>[0-9]{1,2})",
    "M": "(?P<M>[0-9]{2})",
    "S": "(?P<S>[0-9]{2})",
    "f": "(?P<f>[0-9]{1,9})",
    "p": r"(?P<ap>[AaPp])\.?[Mm]\.?",
    "z": "(?P<z>(?:[Zz]|[+-][0-9]{2}:?[0-9]{2}))",
    "a": "[A-Za-z]{2,3}",
    "A": "[A-Za-z]{6,9}",
    "%": "%",
}


def custom_form(date_format: str) -> TextForm:
    """A form told with the directives of strptime (%Y %y %m %d %b %B %H %I %M %S %f %p %z %a %A).

    %y: 69 to 99 are 1969 to 1999. Raises InvalidInput for others, and without a day, a month and a year.
    """
    parts: list[str] = []
    seen: set[str] = set()
    position = 0
    while position < len(date_format):
        char = date_format[position]
        if char != "%":
            parts.append(re.escape(char))
            position += 1
            continue
        directive = date_format[position + 1 : position + 2]
        pattern = _DIRECTIVES.get(directive)
        if pattern is None:
            raise InvalidInput("date_format", date_format, f"directives among %{' %'.join(_DIRECTIVES)}")
        names = set(re.findall(r"\?P<(\w+)>", pattern))
        if names & seen:
            raise InvalidInput("date_format", date_format, f"each part once; %{directive} says it again")
        seen |= names
        parts.append(pattern)
        position += 2
    if not ({"y", "y2"} & seen and {"m", "b"} & seen and "d" in seen):
        raise InvalidInput("date_format", date_format, "a year, a month and a day, such as %d/%m/%Y %H:%M")
    if ("M" in seen or "S" in seen) and "H" not in seen:
        raise InvalidInput("date_format", date_format, "an hour (%H, or %I with %p) where there are minutes")
    return TextForm(pattern=f"^{''.join(parts)}$", words=date_format, date=date_format)


def text_stamps(column: Column, form: TextForm) -> Stamps:
    """A string column, read as dates with or without a time of day. An absent or empty text is not ok."""
    fields, ok = _fields(column, form)
    year, month, day = _date_parts(fields, form)
    ok &= (year >= _YEAR_MIN) & (year <= _YEAR_MAX) & (month >= 1) & (month <= 12)
    ok &= (day >= 1) & (day <= _days_in_month(year, np.clip(month, 1, 12)))
    of_day, clock, clock_ok = _time_of_day(fields, len(column))
    offset, absolute, zone_ok = _offsets(fields, len(column))
    ok &= clock_ok & zone_ok
    days = _days(np.where(ok, year, 1970), np.where(ok, month, 1), np.where(ok, day, 1))
    ns = days * NS_PER_DAY + np.where(ok, of_day, 0) - np.where(ok, offset, 0)
    return Stamps(ns, absolute & ok, offset, clock & ok, ok)


def clock_of(column: Column, form: TextForm) -> Stamps:
    """A string column of times of day: `ns` since midnight on the wall, not yet less the offset."""
    if form.clock_digits:
        width = form.clock_digits
        digits = pc.match_substring_regex(column, "^[0-9]+$")
        column = pc.if_else(pc.fill_null(digits, False), pc.utf8_lpad(column, width, "0"), column)
    fields, ok = _fields(column, form)
    of_day, clock, clock_ok = _time_of_day(fields, len(column))
    offset, absolute, zone_ok = _offsets(fields, len(column))
    ok &= clock & clock_ok & zone_ok
    return Stamps(np.where(ok, of_day, 0), absolute & ok, offset, ok, ok)


def _fields(column: Column, form: TextForm) -> tuple[dict[str, Column], Mask]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    found = pc.extract_regex(column, pattern=form.pattern)
    ok = found.is_valid().to_numpy(zero_copy_only=False).copy()
    named = {field.name: found.field(position) for position, field in enumerate(found.type)}
    return named, ok


def _numbers(fields: dict[str, Column], name: str, length: int, default: int = 0) -> I64:
    column = fields.get(name)
    if column is None:
        return np.full(length, default, np.int64)
    column = pc.fill_null(column, "")
    column = pc.if_else(pc.equal(column, ""), str(default), column)
    return np.asarray(pc.cast(column, pa.int64()).to_numpy(zero_copy_only=False), np.int64)


def _date_parts(fields: dict[str, Column], form: TextForm) -> tuple[I64, I64, I64]:
    length = len(next(iter(fields.values())))
    if "y2" in fields:
        short = _numbers(fields, "y2", length)
        year = np.where(short >= 69, 1900 + short, 2000 + short)
    else:
        year = _numbers(fields, "y", length)
    if "b" in fields:
        names = pc.utf8_slice_codeunits(pc.utf8_lower(pc.fill_null(fields["b"], "")), 0, 3)
        index = pc.fill_null(pc.index_in(names, value_set=pa.array(_MONTHS)), -1)
        month = np.asarray(index.to_numpy(zero_copy_only=False), np.int64) + 1
    elif "p" in fields:
        first, second = ("d", "m") if form.day_first else ("m", "d")
        parts = {first: _numbers(fields, "p", length), second: _numbers(fields, "q", length)}
        return year, parts["m"], parts["d"]
    else:
        month = _numbers(fields, "m", length)
    return year, month, _numbers(fields, "d", length)


def _time_of_day(fields: dict[str, Column], length: int) -> tuple[I64, Mask, Mask]:
    if "H" not in fields:
        none = np.zeros(length, np.bool_)
        return np.zeros(length, np.int64), none, ~none
    hour, minute = _numbers(fields, "H", length, -1), _numbers(fields, "M", length)
    second = _numbers(fields, "S", length)
    fraction = np.zeros(length, np.int64)
    if "f" in fields:
        padded = pc.utf8_rpad(pc.fill_null(fields["f"], ""), 9, "0")
        fraction = np.asarray(pc.cast(padded, pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    clock = hour >= 0
    ok = np.ones(length, np.bool_)
    if "ap" in fields:
        half = pc.utf8_lower(pc.fill_null(fields["ap"], "")).to_numpy(zero_copy_only=False)
        twelve = half != ""
        ok &= ~twelve | ((hour >= 1) & (hour <= 12))
        hour = np.where(twelve, hour % 12 + np.where(half == "p", 12, 0), hour)
    midnight = (hour == 24) & (minute == 0) & (second == 0) & (fraction == 0)
    ok &= (hour < 24) | midnight
    ok &= (minute < 60) & (second < 60)
    hour = np.maximum(hour, 0)
    return ((hour * 60 + minute) * 60 + second) * NS_PER_S + fraction, clock, ok


def _offsets(fields: dict[str, Column], length: int) -> tuple[I64, Mask, Mask]:
    offset, absolute, ok = np.zeros(length, np.int64), np.zeros(length, np.bool_), np.ones(length, np.bool_)
    if "z" not in fields:
        return offset, absolute, ok
    coded = pc.fill_null(fields["z"], "").dictionary_encode()
    known = [_offset_ns(text) for text in coded.dictionary.to_pylist()]
    codes = coded.indices.to_numpy(zero_copy_only=False)
    if known:
        offset = np.array([o or 0 for _, o in known], np.int64)[codes]
        absolute = np.array([said for said, _ in known], np.bool_)[codes]
        ok = np.array([o is not None for _, o in known], np.bool_)[codes]
    return offset, absolute, ok


def _offset_ns(text: str) -> tuple[bool, int | None]:
    """Whether an offset was written, and it; None if there is no such offset."""
    match = _OFFSET.search(text)
    if match is None:
        return bool(text.strip()), 0
    hours, minutes = int(match[2]), int(match[3] or 0)
    if hours > 15 or minutes > 59:
        return True, None
    return True, (hours * 60 + minutes) * 60 * NS_PER_S * (-1 if match[1] == "-" else 1)


def _days(year: I64, month: I64, day: I64) -> I64:
    """Days since 1970-01-01 of a date of the Gregorian calendar (after Howard Hinnant's `days_from_civil`)."""
    year = year - (month <= 2)
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    days: I64 = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return days


def _days_in_month(year: I64, month: I64) -> I64:
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[month]
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    result: I64 = lengths + (leap & (month == 2))
    return result


# --- numbers since 1970 ------------------------------------------------------------------------------------


def epoch_unit(whole: I64, ok: Mask) -> str | None:
    """The coarsest unit in which 99 of 100 numbers lie between 1900 and 2100; None if there is none."""
    values = whole[ok]
    for unit, ns in NS_PER_UNIT.items():
        scale = NS_PER_S // ns
        fits = (values >= _EPOCH_MIN_S * scale) & (values <= _EPOCH_MAX_S * scale)
        if len(values) and fits.mean() >= _SHARE:
            return unit
    return None


def epoch_stamps(column: Column, form: EpochForm) -> tuple[Stamps, Mask]:
    """An integer, float or string column of numbers since 1970, and which of them look like another unit's.

    A number finer than a nanosecond, or outside 1900 to 2100, is not ok.
    """
    whole, fraction, ok = epoch_parts(column, form.unit)
    scale = NS_PER_S // NS_PER_UNIT[form.unit]
    ok &= (whole >= _EPOCH_MIN_S * scale) & (whole <= _EPOCH_MAX_S * scale)
    ns = np.where(ok, whole, 0) * NS_PER_UNIT[form.unit] + np.where(ok, fraction, 0)
    mixed = np.zeros(len(ns), np.bool_)
    if form.unit != "s" and not form.around_1970:
        coarser = scale // 1_000
        mixed = ok & (whole >= _EPOCH_MIN_S * coarser) & (whole <= _EPOCH_MAX_S * coarser)
    true = np.ones(len(ns), np.bool_)
    return Stamps(ns, true, np.zeros(len(ns), np.int64), true, ok), mixed


def around_1970(lowest: int, highest: int, unit: str) -> bool:
    """Whether numbers from `lowest` to `highest` run through the weeks around 1970, where units are confused."""
    coarser = NS_PER_S // NS_PER_UNIT[unit] // 1_000
    return unit != "s" and lowest < _EPOCH_MIN_S * coarser and highest > _EPOCH_MAX_S * coarser


def epoch_parts(column: Column, unit: str) -> tuple[I64, I64, Mask]:
    """Whole units and the nanoseconds beyond them (both negative before 1970), and which were numbers at all."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    valid = column.is_valid().to_numpy(zero_copy_only=False).copy()
    if pa.types.is_integer(column.type):
        try:
            whole = np.asarray(pc.cast(pc.fill_null(column, 0), pa.int64()).to_numpy(zero_copy_only=False), np.int64)
        except pa.ArrowInvalid:  # an unsigned number beyond int64
            small = pc.less_equal(column, 2**63 - 1)
            return epoch_parts(pc.if_else(small, column, None).cast(pa.int64()), unit)
        return whole, np.zeros(len(whole), np.int64), valid
    if pa.types.is_floating(column.type):
        values = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False)
        # a double is exact up to 2^53, enough for seconds to a microsecond and for whole milliseconds
        valid &= np.isfinite(values) & (np.abs(values) < 2.0**53)
        safe = np.where(valid, values, 0.0)
        whole = np.trunc(safe).astype(np.int64)
        part = np.round((safe - whole) * min(NS_PER_UNIT[unit], 1_000_000)).astype(np.int64)
        return whole, part * (NS_PER_UNIT[unit] // min(NS_PER_UNIT[unit], 1_000_000)), valid
    found = pc.extract_regex(column, pattern=_EPOCH)
    valid &= found.is_valid().to_numpy(zero_copy_only=False)
    named = {field.name: pc.fill_null(found.field(position), "") for position, field in enumerate(found.type)}
    digits = pc.if_else(pc.equal(named["whole"], ""), "0", named["whole"])
    if not pc.all(pc.less(pc.binary_length(digits), 19)).as_py() and len(digits):
        # 19 digits may be beyond int64: compared as text, which is right at equal length
        big = pc.and_(pc.equal(pc.binary_length(digits), 19), pc.greater(digits, pa.scalar(str(2**63 - 1))))
        valid &= ~big.to_numpy(zero_copy_only=False)
        digits = pc.if_else(big, "0", digits)
    whole = np.asarray(pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False), np.int64).copy()
    places = _DIGITS[unit]
    texts = pc.utf8_rpad(named["f"], 12, "0")
    kept = pc.utf8_slice_codeunits(texts, 0, places) if places else pa.array(["0"] * len(texts), pa.string())
    beyond = pc.utf8_slice_codeunits(texts, places, 12)
    valid &= pc.match_substring_regex(beyond, "^0*$").to_numpy(zero_copy_only=False)
    part = np.asarray(pc.cast(kept, pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    sign = np.where(pc.equal(named["sign"], "-").to_numpy(zero_copy_only=False), -1, 1)
    return whole * sign, part * sign, valid


# --- zones -------------------------------------------------------------------------------------------------


class ZoneTable:
    """The offsets of a time zone from 1900 to 2100, to turn columns of wall times into UTC and back."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.name = zone.key
        starts, offsets = [_EPOCH_MIN_S], [_offset_s(zone, _EPOCH_MIN_S)]
        for day in range(_EPOCH_MIN_S + 86_400, _EPOCH_MAX_S + 1, 86_400):
            offset = _offset_s(zone, day)
            if offset != offsets[-1]:
                low, high = day - 86_400, day
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if _offset_s(zone, middle) == offset else (middle, high)
                starts.append(high)
                offsets.append(offset)
        self._utc = np.array(starts, np.int64) * NS_PER_S
        self._offset = np.array(offsets, np.int64) * NS_PER_S
        self._wall = self._utc + self._offset
        self._wall_end = np.append(self._utc[1:] + self._offset[:-1], np.iinfo(np.int64).max)

    def wall(self, utc_ns: I64) -> I64:
        """What a clock on the wall shows at these moments."""
        at = np.clip(np.searchsorted(self._utc, utc_ns, "right") - 1, 0, None)
        result: I64 = utc_ns + self._offset[at]
        return result

    def moments(self, wall_ns: I64) -> tuple[I64, I64, I64, Mask]:
        """Of each wall time: its first moment, its last, the change of the clocks it lies at (0: one moment only),
        and whether the clocks skipped it."""
        at = np.clip(np.searchsorted(self._wall, wall_ns, "right") - 1, 0, None)
        before = np.clip(at - 1, 0, None)
        twice = (at > 0) & (wall_ns < self._wall_end[before])
        last = wall_ns - self._offset[at]
        first = np.where(twice, wall_ns - self._offset[before], last)
        return first, last, np.where(twice, at, 0), wall_ns >= self._wall_end[at]


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    offset = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at_s)).astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


@functools.lru_cache(maxsize=16)
def zone_table(name: str) -> ZoneTable:
    """Raises InvalidInput for a name that is no IANA zone."""
    try:
        return ZoneTable(ZoneInfo(name))
    except (KeyError, ValueError, OSError):
        raise InvalidInput("timezone", name, "an IANA time zone such as America/New_York") from None


def settle_folds(rows: I64, walls: I64, changes: I64, groups: I64, *, descending: bool) -> Any:
    """For wall times that happened twice: 0 the first time, 1 the second, -1 if the order of rows does not tell.

    rows: positions in the file. changes: which change of the clocks. groups: series that are in order by themselves.
    It tells if, within a change and a group, the wall times run on, jump back once, and run on.
    """
    if not len(rows):
        return np.zeros(0, np.int8)
    order = np.lexsort((-rows if descending else rows, changes, groups))
    wall, change, group = walls[order], changes[order], groups[order]
    new_run = np.ones(len(order), np.bool_)
    new_run[1:] = (change[1:] != change[:-1]) | (group[1:] != group[:-1])
    back = np.zeros(len(order), np.int64)
    back[1:] = (wall[1:] <= wall[:-1]) & ~new_run[1:]
    starts = np.flatnonzero(new_run)
    run = np.cumsum(new_run) - 1
    steps = np.add.reduceat(back, starts)[run]
    total = np.cumsum(back)
    since = total - total[starts][run]
    folds = np.full(len(order), -1, np.int8)
    folds[order] = np.where(steps == 1, since, -1)
    return folds
