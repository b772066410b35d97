"""History as the REST doors tell it: which range is meant, pages, and answers in every format.

Translates between parameters and `continuity.history`, `store` and `records`; chooses and computes no bar.
What JSON cannot carry beside Arrow, Parquet and CSV travels in their schema's metadata and in headers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import calendar
import functools
import hashlib
import itertools
import json
import operator
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from marketd.analytics.adjust import ActionMark, believed
from marketd.api.engine import Engine
from marketd.api.errors import NotFound
from marketd.api.formats import (
    MEDIA,
    Format,
    Piece,
    arrow_stream,
    coded,
    csv_stream,
    json_columns,
    json_rows,
    negotiate,
    parquet_stream,
)
from marketd.continuity.history import HISTORY_SCHEMA, HistoryAnswer, HistoryQuery
from marketd.errors import InvalidInput
from marketd.model import (
    BAR_SCHEMA,
    OBSERVATION_SCHEMA,
    ActionKind,
    Bar,
    BarStatus,
    CorporateAction,
    Interval,
    MissingReason,
    MissingSpan,
    Side,
    format_ns,
    parse_ns,
)
from marketd.model.time import NS_PER_S

__all__ = [
    "ADJUSTMENTS",
    "MAX_BARS",
    "PERIODS",
    "SIDES",
    "ActionsReply",
    "BarsReply",
    "ColumnsReply",
    "ConsistencyReply",
    "CrossSectionReply",
    "MissingReply",
    "ObservationColumnsReply",
    "ObservationsReply",
    "SectionColumnsReply",
    "VersionsReply",
    "actions_reply",
    "bars_response",
    "consistency_reply",
    "cross_section_response",
    "history_range",
    "missing_replies",
    "observations_response",
    "period_start",
    "versions_reply",
]

SIDES = ("trade", "bid", "ask", "mid")
PERIODS = ("1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max")
ADJUSTMENTS = ("raw", "split", "all")
MAX_BARS = 100_000
"""Bars in one answer that is not streamed to the end of its range."""
DEFAULT_BARS = 500
_DEFAULT_LIMIT = 5_000
_AT_ONCE = 16_384
_SPANS_TOLD = 1_000
_TOLD_IN_HEADER = 20
_DISAGREEMENTS_TOLD = 1_000
_FIRST_NS = parse_ns("1800-01-01")
_DAY = Interval.parse("1d")
_NO_STORE = {"Cache-Control": "no-store", "Vary": "Accept"}

_VALUES = ("ts", "open", "high", "low", "close", "volume", "vwap", "trades", "status", "provider")
_ROW = (*_VALUES, "partial", "filled")
_CSV = ("symbol", "interval", "side", *_VALUES, "as_of", "partial", "filled")
_SECTION_ROW = ("symbol", *_VALUES)
_SECTION_CSV = ("symbol", "interval", "side", *_VALUES, "as_of")
_OBSERVATION = ("ts", "value", "provider", "as_of")

_TABLE = operator.attrgetter("table")

_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode

AsOf = Annotated[str, msgspec.Meta(description="When this version became known here. RFC 3339, UTC.")]


class BarReply(msgspec.Struct, frozen=True, gc=False):
    """One bar. timestamp: its start, UTC. volume, vwap: null without sizes. trades: number of ticks in it.

    source: who provided it. status: live is still running; final was watched throughout; corrected was
    final until late data came; provisional is over but was not watched throughout; backfill was fetched afterwards.
    partial: made of fewer parts than are expected. filled: nothing was there, the close before is repeated.
    """

    timestamp: str
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    vwap: float | None
    trades: int | None
    status: BarStatus
    source: str
    partial: bool | msgspec.UnsetType = msgspec.UNSET
    filled: bool | msgspec.UnsetType = msgspec.UNSET


class BarColumns(msgspec.Struct, frozen=True):
    """The same as `BarReply`, a list a field, all of one length."""

    timestamp: list[str]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float | None]
    vwap: list[float | None]
    trades: list[int | None]
    status: list[BarStatus]
    source: list[str]
    partial: list[bool]
    filled: list[bool]


class MissingReply(msgspec.Struct, frozen=True, kw_only=True):
    """Expected bars with from <= timestamp < to that are not there. count: how many."""

    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    reason: MissingReason
    count: int


class ActionReply(msgspec.Struct, frozen=True, kw_only=True):
    """A split, dividend or rename. ex_date: the first day without the right. ratio: of a split, new shares for one old.

    amount: of a dividend, a share before any later split. as_of: when this version became known here.
    """

    kind: ActionKind
    ex_date: str
    ratio: float | None
    amount: float | None
    currency: str | None
    new_symbol: str | None
    source: str
    as_of: AsOf


class MarkReply(msgspec.Struct, frozen=True, kw_only=True):
    """What to know about an action. code: single_source, providers_disagree, dates_disagree, …"""

    code: str
    kind: ActionKind
    ex_date: str
    detail: str


class BarsHead(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer with bars says of itself, in every format. truncated: bars of the range were left out; `next` is
    the page token of the rest.

    missing: of what this answer covers, at most the first 1,000 of `missing_total` spans. complete: every expected bar
    that is over is there or known to be without trades, and none is partial; never where the symbol has no `calendar`.
    actions: applied to the prices; marks: what to know about them. Both only if `adjustment` is not raw.
    """

    symbol: str
    period: str | msgspec.UnsetType = msgspec.UNSET
    interval: str
    side: Annotated[
        Literal["trade", "bid", "ask", "mid"],
        msgspec.Meta(description="What the prices are. mid: the average of each bid and ask value, without volume."),
    ]
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    as_of: str | None
    adjustment: Literal["raw", "split", "all"]
    count: int | msgspec.UnsetType = msgspec.UNSET
    truncated: bool
    next: str | None
    calendar: str | None
    complete: bool
    missing: list[MissingReply]
    missing_total: int
    actions: list[ActionReply] | msgspec.UnsetType = msgspec.UNSET
    marks: list[MarkReply] | msgspec.UnsetType = msgspec.UNSET


class BarsReply(BarsHead, frozen=True, kw_only=True):
    """Bars with from <= timestamp < to, ascending unless `order` says otherwise."""

    bars: list[BarReply]


class ColumnsReply(BarsHead, frozen=True, kw_only=True):
    """The same bars, column by column."""

    columns: BarColumns


class VersionReply(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one bar. status `withdrawn`: the provider took the bar back."""

    source: str
    status: BarStatus
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    vwap: float | None
    trades: int | None
    as_of: AsOf


class VersionsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was ever known of one stored bar, of every provider, in the order in which it became known."""

    symbol: str
    interval: str
    side: str
    timestamp: str
    versions: list[VersionReply]


class SectionRow(msgspec.Struct, frozen=True):
    """`BarReply` with the symbol before it."""

    symbol: str
    timestamp: str
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    vwap: float | None
    trades: int | None
    status: BarStatus
    source: str


class SectionColumns(msgspec.Struct, frozen=True):
    """The same as `SectionRow`, a list a field, all of one length."""

    symbol: list[str]
    timestamp: list[str]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float | None]
    vwap: list[float | None]
    trades: list[int | None]
    status: list[BarStatus]
    source: list[str]


class SectionHead(msgspec.Struct, frozen=True, kw_only=True):
    interval: str
    side: str
    timestamp: str
    as_of: str | None
    count: int


class CrossSectionReply(SectionHead, frozen=True, kw_only=True):
    """The stored bars of many symbols that start at one time, by symbol."""

    bars: list[SectionRow]


class SectionColumnsReply(SectionHead, frozen=True, kw_only=True):
    """The same bars, column by column."""

    columns: SectionColumns


class ActionsReply(msgspec.Struct, frozen=True, kw_only=True):
    """What every provider tells, by ex date. marks: where one alone tells of an action, or they do not agree."""

    symbol: str
    as_of: str | None
    actions: list[ActionReply]
    marks: list[MarkReply]


class ObservationRow(msgspec.Struct, frozen=True):
    """timestamp: the first instant of the period."""

    timestamp: str
    value: float
    source: str
    as_of: AsOf


class ObservationColumns(msgspec.Struct, frozen=True):
    """The same as `ObservationRow`, a list a field, all of one length."""

    timestamp: list[str]
    value: list[float]
    source: list[str]
    as_of: list[str]


class ObservationsHead(msgspec.Struct, frozen=True, kw_only=True):
    series: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    as_of: str | None
    count: int


class ObservationsReply(ObservationsHead, frozen=True, kw_only=True):
    """The values of a series in force, ascending."""

    observations: list[ObservationRow]


class ObservationColumnsReply(ObservationsHead, frozen=True, kw_only=True):
    """The same values, column by column."""

    columns: ObservationColumns


class DisagreementReply(msgspec.Struct, frozen=True, kw_only=True):
    """stored: the bar of this length as it was fetched. rolled: the same made of minutes. fields: that differ by more
    than 1 in 10^9. partial: minutes are missing, which may be why."""

    timestamp: str
    fields: list[str]
    partial: bool
    stored: BarReply
    rolled: BarReply


class ConsistencyReply(msgspec.Struct, frozen=True, kw_only=True):
    """Stored bars against those made of stored minutes. compared: bars that there are of both. different: of these;
    `differences` has the first 1,000."""

    symbol: str
    interval: str
    side: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    compared: int
    different: int
    differences: list[DisagreementReply]


# --- ranges ----------------------------------------------------------------------------------------------------


def history_range(engine: Engine, interval: Interval, start: int | None, end: int | None) -> tuple[int, int]:
    """The range in nanoseconds: up to now, and 500 intervals long, unless told. Raises InvalidInput if reversed."""
    end_ns = engine.clock.time_ns() if end is None else end
    start_ns = end_ns - DEFAULT_BARS * interval.ns if start is None else start
    if start_ns >= end_ns:
        raise InvalidInput("from", format_ns(start_ns), f"a time before `to`, which is {format_ns(end_ns)}")
    return start_ns, end_ns


def period_start(period: str, now_ns: int) -> int:
    """Midnight UTC of the first day of a period that ends with today, today included. `5d` is five calendar days.

    Months and years go back to the same day of the month, or its last day if it is shorter.
    """
    today = datetime.fromtimestamp(now_ns // NS_PER_S, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "max":
        return _FIRST_NS
    if period == "ytd":
        first = today.replace(month=1, day=1)
    elif period.endswith("mo"):
        first = _months_before(today, int(period[:-2]))
    elif period.endswith("y"):
        first = _months_before(today, 12 * int(period[:-1]))
    else:
        first = today - timedelta(days=int(period[:-1]) - 1)
    return int(first.timestamp()) * NS_PER_S


def _months_before(day: datetime, months: int) -> datetime:
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1]))


# --- pages -----------------------------------------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """What a page token holds. question: of which question it is the rest."""

    question: bytes
    start_ns: int
    end_ns: int
    as_of_ns: int


def _question(asked: Mapping[str, Any]) -> bytes:
    """A short name of a question, so that a token is not taken for the rest of another."""
    return hashlib.blake2b(_encode({k: str(v) for k, v in asked.items()}), digest_size=8).digest()


def _page_token(rest: HistoryQuery, question: bytes) -> str:
    assert rest.as_of_ns is not None
    place = _Place(question, rest.start_ns, rest.end_ns, rest.as_of_ns)
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode().rstrip("=")


def _turned(query: HistoryQuery, page: str, question: bytes) -> HistoryQuery:
    """The question for the rest that a token stands for. Raises InvalidInput."""
    try:
        raw = base64.b64decode(page + "=" * (-len(page) % 4), altchars=b"-_", validate=True)
        place = msgspec.msgpack.decode(raw, type=_Place)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidInput("page", page, "the `next` of an answer") from error
    in_64_bits = all(-(2**63) <= t < 2**63 for t in (place.start_ns, place.end_ns, place.as_of_ns))
    if place.question != question or place.start_ns >= place.end_ns or not in_64_bits:
        raise InvalidInput(
            "page", page, "the `next` of an answer to this question: only `limit` and `format` may change"
        )
    return msgspec.structs.replace(query, start_ns=place.start_ns, end_ns=place.end_ns, as_of_ns=place.as_of_ns)


# --- bars ------------------------------------------------------------------------------------------------------


async def bars_response(
    engine: Engine,
    symbol: str,
    interval: Interval,
    start: int | None,
    end: int | None,
    *,
    side: str | None,
    limit: int | None,
    as_of: int | None,
    adjustment: str,
    fill: str | None = None,
    prefer: Sequence[str] | None = None,
    order: str | None = None,
    format: str | None = "rows",  # noqa: A002 - the parameter's name
    page: str | None = None,
    accept: str = "",
    period: str | msgspec.UnsetType = msgspec.UNSET,
) -> Response:
    """Bars of a range in the format that is asked for, or that `accept` prefers.

    limit: None for the default of JSON, and for the whole range in the other formats, which is then read while it
    is sent. Raises UnknownSymbol, InvalidInput, StoreError.
    """
    engine.check_history(symbol, interval)
    kind: Format = format or negotiate(accept)  # type: ignore[assignment]  # a word of `FORMATS`
    until = engine.history.present_end(symbol, interval) if end is None else end
    start_ns, end_ns = history_range(engine, interval, start, until)
    query = HistoryQuery(
        symbol=symbol,
        interval=interval,
        start_ns=start_ns,
        end_ns=end_ns,
        side=side or engine.default_side(symbol),  # type: ignore[arg-type]  # a word of `SIDES`
        order=order,  # type: ignore[arg-type]
        limit=limit,
        as_of_ns=as_of,
        adjustment=adjustment,  # type: ignore[arg-type]  # a word of `ADJUSTMENTS`
        fill=fill,  # type: ignore[arg-type]
        prefer=tuple(prefer or ()),
    )
    asked = (symbol, interval, start, end, query.side, order, as_of, adjustment, fill, query.prefer, period)
    question = _question(dict(enumerate(asked)))  # type: ignore[arg-type]
    if page is not None:
        query = _turned(query, page, question)
    if limit is None and kind in ("rows", "columns"):
        query = msgspec.structs.replace(query, limit=_DEFAULT_LIMIT)
    # Taken before the store is read: a bar that is stored in between is then in both, not in neither.
    live = _live(engine, query)
    if query.limit is None:
        return await _whole(engine, query, live, kind, period)
    answer = await asyncio.to_thread(engine.history.answer, query, live)
    head = _head(query, answer, None if answer.rest is None else _page_token(answer.rest, question), period)
    if kind == "rows":
        return await _json(head, '"bars":[', "]", json_rows(answer.table, _ROW), b",", answer.table.num_rows)
    if kind == "columns":
        return await _json(head, '"columns":', "", json_columns(answer.table, _ROW), b"", answer.table.num_rows)
    return await asyncio.to_thread(_encoded, kind, _CSV, HISTORY_SCHEMA, [answer.table], _encode(head), _headers(head))


def _live(engine: Engine, query: HistoryQuery) -> list[Bar]:
    if query.as_of_ns is not None:
        return []
    base = Interval.parse("1s" if query.interval.name == "1s" else "1m")
    sides: tuple[Side, ...] = ("bid", "ask") if query.side == "mid" else (query.side,)
    start_ns, end_ns = query.interval.ceil(query.start_ns), query.interval.ceil(query.end_ns)
    if query.interval.ns >= _DAY.ns:  # a session may begin on the UTC day before its date, and end after it
        start_ns, end_ns = start_ns - _DAY.ns, end_ns + _DAY.ns
    return [bar for side in sides for bar in engine.live_bars(query.symbol, base, side, start_ns, end_ns)]


async def _whole(
    engine: Engine, query: HistoryQuery, live: Sequence[Bar], kind: Format, period: str | msgspec.UnsetType
) -> Response:
    """A range of any length: never more than a slice of it is held."""

    def begin() -> Response:
        slices = engine.history.slices(query, live, coded=kind == "arrow")
        first = next(slices)
        is_whole = first.is_whole(query)
        answer = first if is_whole else engine.history.outline(query)
        head = msgspec.structs.replace(_head(query, answer, None, period), count=msgspec.UNSET)
        tables = [first.table] if is_whole else map(_TABLE, itertools.chain([first], slices))
        return _encoded(kind, _CSV, HISTORY_SCHEMA, tables, _encode(head), _headers(head))

    return await asyncio.to_thread(begin)


def _head(query: HistoryQuery, answer: HistoryAnswer, token: str | None, period: str | msgspec.UnsetType) -> BarsHead:
    is_raw = query.adjustment == "raw"
    return BarsHead(
        symbol=query.symbol,
        period=period,
        interval=query.interval.name,
        side=query.side,
        start=format_ns(query.start_ns),
        end=format_ns(query.end_ns),
        as_of=_time(query.as_of_ns),
        adjustment=query.adjustment,
        count=answer.table.num_rows,
        truncated=token is not None,
        next=token,
        calendar=answer.calendar,
        complete=answer.complete,
        missing=missing_replies(answer.missing[:_SPANS_TOLD]),
        missing_total=len(answer.missing),
        actions=msgspec.UNSET if is_raw else [_action(action) for action in answer.actions],
        marks=msgspec.UNSET if is_raw else _marks(answer.marks),
    )


def _marks(marks: Iterable[ActionMark]) -> list[MarkReply]:
    return [MarkReply(code=m.code, kind=m.kind, ex_date=format_ns(m.ex_ns)[:10], detail=m.detail) for m in marks]


def missing_replies(spans: Iterable[MissingSpan]) -> list[MissingReply]:
    spans = list(spans)
    starts, ends = _times([s.start_ns for s in spans]), _times([s.end_ns for s in spans])
    return [
        MissingReply(start=start, end=end, reason=s.reason, count=s.count)
        for start, end, s in zip(starts, ends, spans, strict=True)
    ]


def _times(times_ns: Sequence[int]) -> list[str]:
    """`format_ns` of starts and ends of bars, which are whole seconds; many at once."""
    texts = np.datetime_as_string(np.array(times_ns, np.int64).astype("M8[ns]"), unit="s")
    return [f"{text}Z" for text in texts.tolist()]


def _headers(head: BarsHead) -> dict[str, str]:
    """What a format without room for it is told beside it; at most 20 of a kind: the first missing spans, the latest
    actions and marks."""
    headers = {
        "X-Marketd-Complete": "true" if head.complete else "false",
        "X-Marketd-Missing": _encode(head.missing[:_TOLD_IN_HEADER]).decode(),
        "X-Marketd-Missing-Total": str(head.missing_total),
    }
    if head.next is not None:
        headers["X-Marketd-Next"] = head.next
    for name, told in (("Actions", head.actions), ("Marks", head.marks)):
        if told is not msgspec.UNSET:
            latest = msgspec.to_builtins(told[-_TOLD_IN_HEADER:])
            headers[f"X-Marketd-{name}"] = json.dumps(latest, separators=(",", ":"))  # ASCII, as headers are
            headers[f"X-Marketd-{name}-Total"] = str(len(told))
    return headers


async def _json(head: Any, opening: str, closing: str, parts: Iterator[bytes], comma: bytes, rows: int) -> Response:
    """A JSON object: the members of `head`, then one whose value comes in pieces. Long ones are made as they go."""

    def pieces() -> Iterator[bytes]:
        yield _encode(head)[:-1] + b"," + opening.encode()
        for i, part in enumerate(parts):
            yield comma + part if i else part
        yield closing.encode() + b"}"

    if rows <= _AT_ONCE:
        return Response(
            await asyncio.to_thread(lambda: b"".join(pieces())), headers=_NO_STORE, media_type=MEDIA["rows"]
        )
    return StreamingResponse(pieces(), headers=_NO_STORE, media_type=MEDIA["rows"])


def _encoded(
    kind: Format,
    names: Sequence[str],
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    head: bytes,
    headers: Mapping[str, str],
    *,
    plain: Sequence[str] = (),
) -> Response:
    """CSV, Arrow or Parquet. tables: a list if it is all of the answer, which Arrow is then made of at once.

    head: JSON for the schema's metadata, under the key `marketd`. plain: columns of many words.
    """
    schema = schema.with_metadata({b"marketd": head})
    headers = {**_NO_STORE, **headers}
    # "text/csv; charset=utf-8" is what Starlette makes of text/csv
    if kind == "csv":
        return StreamingResponse(csv_stream(names, tables), headers=headers, media_type=MEDIA[kind])
    if kind == "parquet":
        return StreamingResponse(parquet_stream(schema, tables), headers=headers, media_type=MEDIA[kind])
    slices = arrow_stream(coded(schema, plain=plain), tables)
    if isinstance(tables, list):
        return _Ready(list(itertools.chain.from_iterable(slices)), headers=headers, media_type=MEDIA[kind])
    return StreamingResponse(_pieces(slices), headers=headers, media_type=MEDIA[kind])


async def _pieces(slices: Iterator[list[Piece]]) -> AsyncIterator[Piece]:
    """Slice after slice, each made by a worker thread when the client has taken the one before."""
    while True:
        pieces = await run_in_threadpool(next, slices, None)
        if pieces is None:
            return
        pieces.reverse()
        while pieces:
            yield pieces.pop()


class _Ready(Response):
    """An answer that is there, in pieces that are sent as they are."""

    def __init__(self, pieces: Sequence[Piece], *, headers: Mapping[str, str], media_type: str) -> None:
        length = sum(len(piece) for piece in pieces)
        super().__init__(headers={**headers, "Content-Length": str(length)}, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - of ASGI
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _time(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_ns(time_ns)


# --- one bar, many symbols -------------------------------------------------------------------------------------


async def versions_reply(engine: Engine, symbol: str, interval: Interval, ts: int, side: str | None) -> VersionsReply:
    """Raises UnknownSymbol, InvalidInput for a time at which no bar starts."""
    engine.check_history(symbol)
    ts_ns = _start_of_bar(interval, ts)
    shown = side or engine.default_side(symbol)
    table = await asyncio.to_thread(engine.store.versions, symbol, interval, ts_ns, side=shown)  # type: ignore[arg-type]
    return VersionsReply(
        symbol=symbol, interval=interval.name, side=shown, timestamp=format_ns(ts_ns), versions=_versions(table)
    )


def _versions(table: pa.Table) -> list[VersionReply]:
    """A handful of rows."""
    known = [format_ns(as_of) for as_of in np.asarray(table["as_of"].cast(pa.int64()), np.int64).tolist()]
    values = table.select(_VALUES[1:]).rename_columns({"provider": "source"}).to_pylist()
    return [VersionReply(as_of=as_of, **row) for as_of, row in zip(known, values, strict=True)]


async def cross_section_response(
    engine: Engine,
    interval: Interval,
    ts: int,
    *,
    side: str,
    symbols: Sequence[str] | None,
    as_of: int | None,
    prefer: Sequence[str] | None,
    format: str | None,  # noqa: A002 - the parameter's name
    accept: str,
) -> Response:
    """Stored bars of one start. Raises InvalidInput for a time at which no bar starts, StoreError."""
    kind: Format = format or negotiate(accept)  # type: ignore[assignment]  # a word of `FORMATS`
    ts_ns = _start_of_bar(interval, ts)
    table = await asyncio.to_thread(
        engine.store.cross_section,
        interval,
        ts_ns,
        side=side,  # type: ignore[arg-type]  # a word of `Side`
        symbols=symbols,
        as_of_ns=as_of,
        prefer=prefer or (),
    )
    head = SectionHead(
        interval=interval.name, side=side, timestamp=format_ns(ts_ns), as_of=_time(as_of), count=table.num_rows
    )
    if kind == "rows":
        return await _json(head, '"bars":[', "]", json_rows(table, _SECTION_ROW), b",", table.num_rows)
    if kind == "columns":
        return await _json(head, '"columns":', "", json_columns(table, _SECTION_ROW), b"", table.num_rows)
    return await asyncio.to_thread(
        functools.partial(_encoded, kind, _SECTION_CSV, BAR_SCHEMA, [table], _encode(head), {}, plain=("symbol",))
    )


def _start_of_bar(interval: Interval, ts_ns: int) -> int:
    if interval.floor(ts_ns) != ts_ns:
        near = format_ns(interval.floor(ts_ns))
        raise InvalidInput("ts", format_ns(ts_ns), f"the start of a bar of {interval}, such as {near}")
    return ts_ns


async def consistency_reply(
    engine: Engine, symbol: str, interval: Interval, start: int | None, end: int | None, side: str | None
) -> ConsistencyReply:
    """Raises UnknownSymbol, InvalidInput, StoreError."""
    engine.check_history(symbol)
    start_ns, end_ns = history_range(engine, interval, start, end)
    shown = side or engine.default_side(symbol)
    compared, found = await asyncio.to_thread(
        engine.history.disagreements,
        symbol,
        interval,
        start_ns,
        end_ns,
        side=shown,  # type: ignore[arg-type]
    )
    return ConsistencyReply(
        symbol=symbol,
        interval=interval.name,
        side=shown,
        start=format_ns(start_ns),
        end=format_ns(end_ns),
        compared=compared,
        different=len(found),
        differences=[
            DisagreementReply(
                timestamp=format_ns(d.stored.ts_ns),
                fields=list(d.fields),
                partial=d.partial,
                stored=_bar(d.stored),
                rolled=_bar(d.rolled),
            )
            for d in found[:_DISAGREEMENTS_TOLD]
        ],
    )


def _bar(bar: Bar) -> BarReply:
    values = [getattr(bar, name) for name in _VALUES[1:]]
    return BarReply(format_ns(bar.ts_ns), *values)


# --- actions and observations ------------------------------------------------------------------------------------


def _action(action: CorporateAction) -> ActionReply:
    return ActionReply(
        kind=action.kind,
        ex_date=format_ns(action.ex_ns)[:10],
        ratio=action.ratio,
        amount=action.amount,
        currency=action.currency,
        new_symbol=action.new_symbol,
        source=action.provider,
        as_of=format_ns(action.as_of_ns),
    )


async def actions_reply(engine: Engine, symbol: str, as_of: int | None) -> ActionsReply:
    """Raises UnknownSymbol, StoreError."""
    engine.check_history(symbol)
    actions = await asyncio.to_thread(engine.records.actions, symbol, as_of_ns=as_of)
    _, marks = believed(actions)
    return ActionsReply(
        symbol=symbol, as_of=_time(as_of), actions=[_action(action) for action in actions], marks=_marks(marks)
    )


async def observations_response(
    engine: Engine,
    series: str,
    start: int | None,
    end: int | None,
    *,
    as_of: int | None,
    source: str | None,
    format: str | None,  # noqa: A002 - the parameter's name
    accept: str,
) -> Response:
    """Raises NotFound for a series without any observation, StoreError."""
    kind: Format = format or negotiate(accept)  # type: ignore[assignment]  # a word of `FORMATS`
    start_ns = _FIRST_NS if start is None else start
    end_ns = max(engine.clock.time_ns(), start_ns) + 1 if end is None else end
    if start_ns >= end_ns:
        raise InvalidInput("from", format_ns(start_ns), f"a time before `to`, which is {format_ns(end_ns)}")
    table = await asyncio.to_thread(
        engine.records.observations, series, start_ns, end_ns, provider=source, as_of_ns=as_of
    )
    if not table.num_rows and series not in await asyncio.to_thread(engine.records.series):
        raise NotFound("series", series, "a series that has observations")
    head = ObservationsHead(
        series=series, start=format_ns(start_ns), end=format_ns(end_ns), as_of=_time(as_of), count=table.num_rows
    )
    if kind == "rows":
        return await _json(head, '"observations":[', "]", json_rows(table, _OBSERVATION), b",", table.num_rows)
    if kind == "columns":
        return await _json(head, '"columns":', "", json_columns(table, _OBSERVATION), b"", table.num_rows)
    names = ("series", *_OBSERVATION)
    return await asyncio.to_thread(_encoded, kind, names, OBSERVATION_SCHEMA, [table], _encode(head), {})
