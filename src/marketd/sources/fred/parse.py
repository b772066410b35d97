"""What FRED says, as versions of observations. Pure: no clock, no socket, no log.

Formats: https://fred.stlouisfed.org/docs/api/fred/series_observations.html and …/series_vintagedates.html.

FRED tells a value with its *real-time period*, the first and the last day on which it was the published one, both
clamped to the period that was asked for. `joined` makes versions of such rows: a value and the day from which it held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from marketd.errors import MalformedMessage
from marketd.model import OBSERVATION_SCHEMA
from marketd.model.time import NS_PER_S

__all__ = [
    "NAME",
    "ObservationsPage",
    "Page",
    "Periods",
    "Versions",
    "VintageDatesPage",
    "error_text",
    "joined",
    "known_ns",
    "observation_table",
    "parse_days",
    "parse_periods",
]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

NAME = "fred"

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]

_NS_PER_DAY = 86_400 * NS_PER_S
_LAST_DAY = (2**63 - 1) // _NS_PER_DAY - 1
_OPEN = int(np.datetime64("9999-12-31", "D").astype(np.int64))
"""`realtime_end` of what is still the published value."""
_MISSING = "."
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_FIELDS = ("realtime_start", "realtime_end", "date", "value")
_ROW = pa.struct([(name, pa.string()) for name in _FIELDS])
_ZONE = "America/Chicago"


class Page(msgspec.Struct, frozen=True):
    """Of an answer. count: rows of all its pages."""

    count: int


# {"realtime_start":"1776-07-04","realtime_end":"9999-12-31","observation_start":"1600-01-01",
#  "observation_end":"9999-12-31","units":"lin","output_type":1,"file_type":"json","order_by":"observation_date",
#  "sort_order":"asc","count":2,"offset":0,"limit":100000,"observations":[
#  {"realtime_start":"2014-04-30","realtime_end":"2014-05-28","date":"2014-01-01","value":"17149.6"},
#  {"realtime_start":"2014-05-29","realtime_end":"9999-12-31","date":"2014-01-01","value":"17101.3"}]}
class ObservationsPage(Page, frozen=True):
    observations: list[Mapping[str, Any]]


# {"realtime_start":"1776-07-04","realtime_end":"9999-12-31","order_by":"vintage_date","sort_order":"asc","count":2,
#  "offset":0,"limit":10000,"vintage_dates":["1927-11-29","1928-01-30"]}
class VintageDatesPage(Page, frozen=True):
    vintage_dates: list[str]


# {"error_code":400,"error_message":"Bad Request.  The series does not exist."}
class _Refusal(msgspec.Struct, frozen=True):
    error_message: str


class Periods(NamedTuple):
    """Rows as they came. day, start, end: days since 1970, of the observation and of its real-time period, both ends
    inclusive. value: NaN where it is known to be missing."""

    day: _I64
    start: _I64
    end: _I64
    value: _F64


class Versions(NamedTuple):
    """Ascending by (day, known). known: the day from which the value was the published one. value: NaN where it is
    missing, or was taken back."""

    day: _I64
    known: _I64
    value: _F64


def error_text(body: bytes) -> str | None:
    """What a refusal says, None if the body is none."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error_message
    except (ValueError, RecursionError):
        return None


def parse_days(dates: Sequence[str]) -> _I64:
    """Days since 1970 of dates such as `1927-11-29`. Raises MalformedMessage."""
    try:
        return _days(pa.array(dates, pa.string()), "vintage_dates")
    except (pa.lib.ArrowException, TypeError) as error:
        raise MalformedMessage(NAME, f"vintage_dates: {error}") from None


def parse_periods(rows: Sequence[Mapping[str, Any]]) -> Periods:
    """Rows of `series/observations`. Raises MalformedMessage naming the field."""
    try:
        table: Any = pa.array(rows, _ROW)
    except (pa.lib.ArrowException, TypeError, ValueError) as error:
        raise MalformedMessage(NAME, f"observations: {error}") from None
    field = dict(zip(_FIELDS, table.flatten(), strict=True))
    start, end, day = (_days(field[name], name) for name in ("realtime_start", "realtime_end", "date"))
    if (end < start).any():
        raise MalformedMessage(NAME, "observations: a real-time period ends before it starts")
    return Periods(day, start, end, _values(field["value"]))


def _days(texts: Any, name: str) -> _I64:
    if texts.null_count:
        raise MalformedMessage(NAME, f"{name}: absent")
    try:
        days: _I64 = texts.cast(pa.date32()).cast(pa.int32()).to_numpy(zero_copy_only=False).astype(np.int64)
    except pa.lib.ArrowException as error:
        raise MalformedMessage(NAME, f"{name}: {error}") from None
    if ((np.abs(days) > _LAST_DAY) & (days != _OPEN)).any() or (name != "realtime_end" and (days == _OPEN).any()):
        raise MalformedMessage(NAME, f"{name}: a date out of range")
    return days


def _values(texts: Any) -> _F64:
    missing = pc.equal(texts, _MISSING)
    if texts.null_count or not pc.all(pc.or_(missing, pc.match_substring_regex(texts, _NUMBER))).as_py():
        if len(texts):
            raise MalformedMessage(NAME, "value: neither a number nor `.`")
        return np.empty(0)
    try:
        numbers = pc.if_else(missing, pa.scalar(None, pa.string()), texts).cast(pa.float64())
    except pa.lib.ArrowException as error:
        raise MalformedMessage(NAME, f"value: {error}") from None
    values: _F64 = numbers.to_numpy(zero_copy_only=False)
    if np.isinf(values).any():
        raise MalformedMessage(NAME, "value: not finite")
    return values


def joined(windows: Sequence[Periods]) -> Versions:
    """Versions of the rows of windows that follow one another without a hole between them, the last one open.

    A value that goes on where the period before ends is no version: neither where a window cut it, nor where FRED
    tells an unchanged value anew. A value whose period ends, with nothing after it, was taken back: a version that is
    NaN. Raises MalformedMessage for two values of one observation from one day on.
    """
    if not windows:
        return Versions(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    day, start, end, value = (np.concatenate(columns) for columns in zip(*windows, strict=True))
    order = np.lexsort((end, start, day))
    day, start, end, value = day[order], start[order], end[order], value[order]
    same = day[1:] == day[:-1]
    if (same & (start[1:] == start[:-1]) & ~_equal(value[1:], value[:-1])).any():
        raise MalformedMessage(NAME, "observations: two values of one date in one real-time period")
    ends = end != _OPEN
    ends[:-1] &= ~(same & (start[1:] <= end[:-1] + 1))
    gone = np.flatnonzero(ends)
    return _changes(
        np.concatenate([day, day[gone]]),
        np.concatenate([start, end[gone] + 1]),
        np.concatenate([value, np.full(len(gone), np.nan)]),
    )


def _equal(one: _F64, other: _F64) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (one == other) | (np.isnan(one) & np.isnan(other))
    return same


def _changes(day: _I64, known: _I64, value: _F64) -> Versions:
    """Sorted, the last of those that became known at once, without repetitions."""
    order = np.lexsort((known, day))
    day, known, value = day[order], known[order], value[order]
    superseded = np.zeros(len(day), np.bool_)
    superseded[:-1] = (day[1:] == day[:-1]) & (known[1:] == known[:-1])
    day, known, value = day[~superseded], known[~superseded], value[~superseded]
    repeated = np.zeros(len(day), np.bool_)
    repeated[1:] = (day[1:] == day[:-1]) & _equal(value[1:], value[:-1])
    return Versions(day[~repeated], known[~repeated], value[~repeated])


def known_ns(known: _I64, release: tuple[str, str] | None, now_ns: int) -> _I64:
    """When vintages of these days were known, ns UTC: at the release, which is a time of day and its zone, or without
    one at the end of the day in St. Louis; at `now_ns` where that is later."""
    if release is None:
        zone, wall_ns = _ZONE, (known + 1) * _NS_PER_DAY
    else:
        hour, minute = release[0].split(":")
        zone, wall_ns = release[1], known * _NS_PER_DAY + (int(hour) * 3_600 + int(minute) * 60) * NS_PER_S
    wall = pa.array(wall_ns).cast(pa.timestamp("ns"))
    # a time that the clocks pass twice, or not at all: the later, so that nothing is known too early
    at = pc.assume_timezone(wall, zone, ambiguous="latest", nonexistent="latest").cast(pa.int64())
    found: _I64 = np.minimum(at.to_numpy(zero_copy_only=False), now_ns)
    return found


def observation_table(series: str, day: _I64, known: _I64, value: _F64) -> pa.Table:
    """An `OBSERVATION_SCHEMA` table, ascending by (ts, as_of). day: days since 1970. known: ns UTC. Of versions that
    became known at once, the last."""
    day, known, value = _changes(day, known, value)
    count, stamp = len(day), OBSERVATION_SCHEMA.field("ts").type
    return pa.Table.from_pydict(
        {
            "series": pa.repeat(series, count),
            "ts": pa.array(day * _NS_PER_DAY).cast(stamp),
            "value": pa.array(value, from_pandas=True),
            "provider": pa.repeat(NAME, count),
            "as_of": pa.array(known).cast(stamp),
        },
        OBSERVATION_SCHEMA,
    )
