"""What records accept: one check of each kind of value, shared by every engine.

Refuses what could not be read back as it was meant: unknown words, empty names, spans that end before they start,
numbers that are none. Whether an action or an observation is believable is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import InvalidInput
from marketd.model import (
    INTERVALS,
    OBSERVATION_SCHEMA,
    ActionKind,
    AnsweredSpan,
    BackfillJob,
    CorporateAction,
    Cursor,
    Instrument,
    JobState,
    Tier,
    parse_ns,
)

__all__ = [
    "checked_actions",
    "checked_as_of",
    "checked_cursors",
    "checked_jobs",
    "checked_limit",
    "checked_name",
    "checked_observations",
    "checked_range",
    "checked_spans",
    "checked_states",
    "checked_tier",
    "checked_universe",
]

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_AS_OF_END = parse_ns("2262-01-01")
"""Versions begin before it: room for the nanoseconds that keep them apart."""

_INTERVALS: tuple[str, ...] = tuple(i.name for i in INTERVALS)
_TIERS: tuple[str, ...] = get_args(Tier)
_STATES: tuple[str, ...] = get_args(JobState)
_KINDS: tuple[str, ...] = get_args(ActionKind)
_REASONS: tuple[str, ...] = get_args(get_type_hints(AnsweredSpan)["reason"])


def checked_name(field: str, name: str) -> str:
    if not name or "\0" in name or not _is_text(name):
        raise InvalidInput(field, name, "a name: text that is not empty")
    return name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _word(field: str, word: str, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        raise InvalidInput(field, word, f"one of {', '.join(allowed)}")


def _time(field: str, time_ns: int) -> None:
    if not _INT64_MIN <= time_ns <= _INT64_MAX:
        raise InvalidInput(field, time_ns, "nanoseconds since 1970, UTC, in 64 bits")


def _span(start_ns: int, end_ns: int) -> None:
    _time("start_ns", start_ns)
    _time("end_ns", end_ns)
    if start_ns >= end_ns:
        raise InvalidInput("end_ns", end_ns, f"a time after the start, {start_ns}")


def _finite(field: str, number: float | None) -> None:
    if number is not None and not math.isfinite(number):
        raise InvalidInput(field, number, "a finite number, or None")


def checked_as_of(as_of_ns: int | None) -> int:
    """The time up to which versions count: as given, or the end of all times."""
    if as_of_ns is None:
        return _INT64_MAX
    _time("as_of_ns", as_of_ns)
    return as_of_ns


def _version_time(as_of_ns: int) -> None:
    if not _INT64_MIN <= as_of_ns < _AS_OF_END:
        raise InvalidInput("as_of_ns", as_of_ns, "nanoseconds since 1970, UTC, before the year 2262")


def checked_range(start_ns: int, end_ns: int) -> tuple[int, int]:
    """The bounds of a read kept within int64."""
    return max(start_ns, _INT64_MIN), min(end_ns, _INT64_MAX)


def checked_limit(limit: int, least: int) -> int:
    if limit < least:
        raise InvalidInput("limit", limit, f"{least} or more")
    return min(limit, _INT64_MAX)


def checked_tier(tier: str) -> str:
    _word("tier", tier, _TIERS)
    return tier


def checked_states(states: Sequence[str]) -> tuple[str, ...]:
    for state in states:
        _word("states", state, _STATES)
    return tuple(states)


def checked_universe(instruments: Sequence[Instrument], source: str, as_of_ns: int) -> tuple[Instrument, ...]:
    """The instruments by (symbol, id). Raises InvalidInput for two with one id, or two active ones with one symbol."""
    _version_time(as_of_ns)
    if source:
        checked_name("source", source)
    ids: set[str] = set()
    symbols: set[str] = set()
    for instrument in instruments:
        checked_name("id", instrument.id)
        checked_name("symbol", instrument.symbol)
        _word("tier", instrument.tier, _TIERS)
        for name in instrument.names:
            checked_name("names", name.symbol)
            if name.end_ns is None:
                raise InvalidInput("names", name.symbol, "an earlier name, with the time at which it ended")
        for field in ("exchange", "asset_class", "currency"):
            text = getattr(instrument, field)
            if text is not None:
                checked_name(field, text)
        if instrument.id in ids:
            raise InvalidInput("id", instrument.id, "an id that no other instrument of the universe has")
        ids.add(instrument.id)
        if instrument.active:
            if instrument.symbol in symbols:
                raise InvalidInput("symbol", instrument.symbol, "a symbol that no other active instrument has")
            symbols.add(instrument.symbol)
    return tuple(sorted(instruments, key=lambda i: (i.symbol, i.id)))


def checked_spans(spans: Sequence[AnsweredSpan]) -> None:
    for span in spans:
        if span.symbol is not None:
            checked_name("symbol", span.symbol)
        checked_name("provider", span.provider)
        _word("interval", span.interval, _INTERVALS)
        _word("reason", span.reason, _REASONS)
        _span(span.start_ns, span.end_ns)
        _time("as_of_ns", span.as_of_ns)


def checked_cursors(cursors: Sequence[Cursor]) -> None:
    for cursor in cursors:
        checked_name("symbol", cursor.symbol)
        checked_name("provider", cursor.provider)
        _word("interval", cursor.interval, _INTERVALS)
        _time("until_ns", cursor.until_ns)
        _time("updated_ns", cursor.updated_ns)


def checked_jobs(jobs: Sequence[BackfillJob]) -> None:
    for job in jobs:
        checked_name("id", job.id)
        checked_name("symbol", job.symbol)
        if job.provider is not None:
            checked_name("provider", job.provider)
        _word("interval", job.interval, _INTERVALS)
        _word("tier", job.tier, _TIERS)
        _word("state", job.state, _STATES)
        _span(job.start_ns, job.end_ns)
        for field in ("created_ns", "updated_ns", "not_before_ns"):
            _time(field, getattr(job, field))


def checked_actions(actions: Sequence[CorporateAction]) -> list[CorporateAction]:
    """The actions in the order in which they count."""
    for action in actions:
        checked_name("symbol", action.symbol)
        checked_name("provider", action.provider)
        for field in ("currency", "new_symbol"):
            text = getattr(action, field)
            if text is not None:
                checked_name(field, text)
        _word("kind", action.kind, _KINDS)
        _time("ex_ns", action.ex_ns)
        _version_time(action.as_of_ns)
        _finite("ratio", action.ratio)
        _finite("amount", action.amount)
    return sorted(actions, key=lambda a: a.as_of_ns)


def checked_observations(table: pa.Table) -> pa.Table:
    """The rows as exactly `OBSERVATION_SCHEMA`, in the order in which they count. Raises InvalidInput naming the
    column."""
    missing = [name for name in OBSERVATION_SCHEMA.names if name not in table.schema.names]
    if missing:
        allowed = f"the columns of OBSERVATION_SCHEMA; missing: {', '.join(missing)}"
        raise InvalidInput("observations", table.schema.names, allowed)
    for field in OBSERVATION_SCHEMA:
        if not field.nullable and table.column(field.name).null_count:
            raise InvalidInput(field.name, None, "a value in every row")
    try:
        table = table.select(OBSERVATION_SCHEMA.names).cast(OBSERVATION_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise InvalidInput("observations", str(error), "columns of the types in OBSERVATION_SCHEMA") from error
    for name in ("series", "provider"):
        for text in table.column(name).unique().to_pylist():
            checked_name(name, str(text))
    values = table.column("value").drop_null().to_numpy()
    if not np.isfinite(values).all():
        raise InvalidInput("value", float(values[~np.isfinite(values)][0]), "a finite number, or null")
    times = table.column("as_of").cast(pa.int64()).to_numpy()
    if len(times):
        _version_time(int(times.max()))
    # -0.0 becomes 0.0: they are equal, so they must not differ by engine
    table = table.set_column(2, OBSERVATION_SCHEMA.field("value"), pc.add(table.column("value"), 0.0))
    return table.take(np.argsort(times, kind="stable"))
