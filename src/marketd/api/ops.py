"""The doors of those who run the server: what is missing, back-fill jobs, cursors. Names are in snake_case.

Translates `continuity.ledger` and the engine's back-fill into replies; decides nothing. `rest` adds `OPS_OPERATIONS`
to its table.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from marketd.api.engine import Engine
from marketd.api.errors import NotFound
from marketd.api.openapi import Operation, choice, interval, names, text, time, whole
from marketd.api.quotes import QuarantineReply, quarantine_reply
from marketd.continuity.queue import JobRecord
from marketd.errors import InvalidInput
from marketd.model import INTERVALS, Interval, JobState, MissingReason, Side, Tier, format_ns, parse_ns
from marketd.model.time import NS_PER_S

__all__ = ["OPS_OPERATIONS", "BackfillRequest"]

_MINUTE = Interval.parse("1m")
_DAY = Interval.parse("1d")
_STATES = ("queued", "running", "done", "parked", "cancelled")
_SIDES = ("trade", "bid", "ask")
_RANGE_S = 86_400
_HEAT_MAP_CELLS = 5_000_000


class SpanReply(msgspec.Struct, frozen=True, kw_only=True):
    """Bars with start <= ts < end that are not there. count: how many are expected in it."""

    start: str
    end: str
    reason: MissingReason
    count: int


class CursorReply(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where a provider's history is continuous."""

    provider: str
    until: str
    updated: str


class LedgerReply(msgspec.Struct, frozen=True, kw_only=True):
    """One symbol's account of start <= ts < end. expected = present + the sum of `missing`.

    base: whose bars were counted: those of `interval`, or of 1m if longer bars are made of them. due: bars that start
    before it are over and could be there. outside: there, although the calendar expects none. complete: nothing is
    missing but what did not trade.
    """

    symbol: str
    interval: str
    base: str
    side: Side
    calendar: str
    start: str
    end: str
    due: str
    complete: bool
    expected: int
    present: int
    outside: int
    missing: dict[MissingReason, int]
    spans: list[SpanReply]
    cursors: list[CursorReply]


class HeatMapReply(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of bars, a list a symbol with a number a day: expected = present + explained + missing.

    explained: absent, and known to have had no trades. unknown: symbols that could not be judged, with the reason.
    """

    interval: str
    complete: bool
    symbols: list[str]
    days: list[str]
    expected: list[list[int]]
    present: list[list[int]]
    explained: list[list[int]]
    missing: list[list[int]]
    unknown: dict[str, str]


class CursorOfReply(msgspec.Struct, frozen=True, kw_only=True):
    """until: every expected bar before it is there or explained."""

    symbol: str
    interval: str
    source: str
    until: str
    updated: str


class BackfillRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bars to fetch, start <= ts < end, RFC 3339. priority: the tier to queue in, by default the symbol's own.
    provider: ask only this one. reason: kept with the job."""

    symbol: str
    interval: str
    start: str
    end: str
    priority: Tier | None = None
    provider: str | None = None
    reason: str = "manual"


class JobsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first."""

    jobs: list[JobRecord]


# --- continuity ------------------------------------------------------------------------------------------------


def _range(engine: Engine, start: int | None, end: int | None) -> tuple[int, int]:
    end_ns = engine.clock.time_ns() if end is None else end
    start_ns = end_ns - _RANGE_S * NS_PER_S if start is None else start
    if start_ns >= end_ns:
        raise InvalidInput("from", format_ns(start_ns), f"a time before `to`, which is {format_ns(end_ns)}")
    return start_ns, end_ns


async def _ledger(
    engine: Engine, symbol: str, interval: Interval, start: int | None, end: int | None, side: str | None, closed: str
) -> dict[str, Any]:
    engine.check_history(symbol)
    start_ns, end_ns = _range(engine, start, end)
    ledger = await asyncio.to_thread(
        engine.ledger.ledger,
        symbol,
        interval,
        start_ns,
        end_ns,
        side=side,  # type: ignore[arg-type]  # a word of `Side`
        closed=closed == "yes",
    )
    return ledger.as_json()


async def _heat_map(
    engine: Engine, interval: Interval, start: int | None, end: int | None, symbols: list[str] | None, side: str | None
) -> dict[str, Any]:
    start_ns, end_ns = _range(engine, start, end)
    asked = await asyncio.to_thread(engine.ledger.symbols) if symbols is None else symbols
    days = -(-(end_ns - start_ns) // _DAY.ns)
    if days * len(asked) > _HEAT_MAP_CELLS:
        raise InvalidInput(
            "from", format_ns(start_ns), f"at most {_HEAT_MAP_CELLS // max(1, len(asked))} days at a time"
        )
    found = await asyncio.to_thread(
        engine.ledger.heat_map,
        interval,
        start_ns,
        end_ns,
        asked,
        side=side,  # type: ignore[arg-type]  # a word of `Side`
    )
    return await asyncio.to_thread(found.as_json)


async def _cursor(engine: Engine, symbol: str, interval: str, source: str) -> CursorOfReply:
    engine.check_history(symbol)
    length = _interval(interval)
    cursor = await engine.backfill.cursor(symbol, length, source)
    if cursor is None:
        raise NotFound("source", source, f"a provider with a cursor of {symbol} in {length}")
    return CursorOfReply(
        symbol=symbol,
        interval=length.name,
        source=source,
        until=format_ns(cursor.until_ns),
        updated=format_ns(cursor.updated_ns),
    )


def _interval(text: str) -> Interval:
    try:
        return Interval.parse(text)
    except ValueError as error:
        raise InvalidInput("interval", text, f"one of {', '.join(i.name for i in INTERVALS)}") from error


# --- back-fill ---------------------------------------------------------------------------------------------------


def _when(field: str, text: str) -> int:
    try:
        return parse_ns(text)
    except ValueError as error:
        allowed = "an RFC 3339 time with its UTC offset, such as 2026-11-20T14:30:00Z, or a date"
        raise InvalidInput(field, text, allowed) from error


async def _submit(engine: Engine, body: BackfillRequest) -> JobRecord:
    engine.check_history(body.symbol)
    length = _interval(body.interval)
    start_ns, end_ns = _when("start", body.start), _when("end", body.end)
    if start_ns >= end_ns:
        raise InvalidInput("start", body.start, f"a time before `end`, which is {body.end}")
    job = await engine.backfill.submit(
        body.symbol,
        length,
        start_ns,
        end_ns,
        tier=body.priority,
        provider=body.provider,
        reason=body.reason,
    )
    return JobRecord.from_job(job)


async def _jobs(engine: Engine, symbol: str | None, state: str | None, limit: int) -> JobsReply:
    states: tuple[JobState, ...] = () if state is None else (state,)  # type: ignore[assignment]  # a word of `_STATES`
    jobs = await engine.backfill.jobs(states=states, symbol=symbol, limit=limit)
    return JobsReply(jobs=[JobRecord.from_job(job) for job in jobs])


async def _job(engine: Engine, id: str) -> JobRecord:  # noqa: A002 - the word in the path
    job = await engine.backfill.job(id)
    if job is None:
        raise NotFound("id", id, "a job listed by /ops/backfill")
    return JobRecord.from_job(job)


async def _cancel(engine: Engine, id: str) -> JobRecord:  # noqa: A002 - the word in the path
    job = await engine.backfill.cancel(id)
    if job is None:
        raise NotFound("id", id, "a job listed by /ops/backfill")
    return JobRecord.from_job(job)


async def _ops_quarantine(engine: Engine, limit: int) -> QuarantineReply:
    return quarantine_reply(engine, limit)


_LENGTH = interval("interval", INTERVALS, "Length of the bars.", _MINUTE)
_FROM = time("from", "start", "Start of the range; by default a day before `to`.")
_TO = time("to", "end", "End of the range, itself not in it; by default now.")
_SIDE = choice("side", _SIDES, "Whose bars are counted; by default trade, or bid where there are only those.")

OPS_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="GET",
        path="/ops/continuity/{symbol}",
        summary="What of a symbol's bars was expected, is there, is missing and why",
        tag="operations",
        handler=_ledger,
        response=LedgerReply,
        params=(
            _LENGTH,
            _FROM,
            _TO,
            _SIDE,
            choice("closed", ("yes", "no"), "Whether closed time is told among the spans.", "no"),
        ),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/ops/continuity",
        summary="What is there and what is missing of many symbols, by UTC day",
        description="At most 5,000,000 symbols times days at a time.",
        tag="operations",
        handler=_heat_map,
        response=HeatMapReply,
        params=(
            _LENGTH,
            _FROM,
            _TO,
            names("symbols", 10_000, "By default the active ones of the universe, or all with bars."),
            _SIDE,
        ),
        errors=(503,),
    ),
    Operation(
        method="POST",
        path="/ops/backfill",
        summary="Ask for bars to be fetched",
        description="An ask that an open job covers is that job: asking twice fetches once.",
        tag="operations",
        handler=_submit,
        response=JobRecord,
        body=BackfillRequest,
        status=202,
        errors=(404, 503),
    ),
    Operation(
        method="GET",
        path="/ops/backfill",
        summary="Back-fill jobs, the newest first",
        tag="operations",
        handler=_jobs,
        response=JobsReply,
        params=(
            text("symbol", 100, "Only of this symbol.", "a symbol"),
            choice("state", _STATES, "Only in this state."),
            whole("limit", 1, 1_000, "At most so many jobs.", 100),
        ),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/ops/backfill/{id}",
        summary="One back-fill job",
        tag="operations",
        handler=_job,
        response=JobRecord,
        errors=(503,),
    ),
    Operation(
        method="DELETE",
        path="/ops/backfill/{id}",
        summary="Cancel a back-fill job",
        description="The job as it is then; one that had ended stays as it was. What was fetched stays.",
        tag="operations",
        handler=_cancel,
        response=JobRecord,
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/ops/cursor/{symbol}/{interval}/{source}",
        summary="Up to where a provider's history of a symbol is continuous",
        tag="operations",
        handler=_cursor,
        response=CursorOfReply,
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/ops/quarantine",
        summary="The newest rows and lines that were refused, with the reason",
        tag="operations",
        handler=_ops_quarantine,
        response=QuarantineReply,
        params=(whole("limit", 1, 1_000, "At most so many rows.", 100),),
    ),
)
