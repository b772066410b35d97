"""The REST doors: one table of operations, their handlers, and the routes made of them.

Handlers translate between the engine and the replies of `quotes`, `bars` and `ops`; they decide nothing about data.
To add a door: write a handler (named arguments are the words of the path and the parameters), add an `Operation` to
`OPERATIONS`. Checking of parameters, the error shape and the OpenAPI document follow from the table.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from marketd import __version__
from marketd.api.bars import (
    ADJUSTMENTS,
    MAX_BARS,
    PERIODS,
    SIDES,
    ActionsReply,
    BarsReply,
    ColumnsReply,
    ConsistencyReply,
    CrossSectionReply,
    ObservationColumnsReply,
    ObservationsReply,
    SectionColumnsReply,
    VersionsReply,
    actions_reply,
    bars_response,
    consistency_reply,
    cross_section_response,
    observations_response,
    period_start,
    versions_reply,
)
from marketd.api.engine import Engine, Health
from marketd.api.errors import BadJson, BodyTooLarge
from marketd.api.formats import FORMATS, MEDIA
from marketd.api.openapi import (
    Operation,
    choice,
    interval,
    names,
    openapi_document,
    read_query,
    text,
    time,
    whole,
)
from marketd.api.ops import OPS_OPERATIONS
from marketd.api.pages import docs_page, live_page, prefers_html, static_route
from marketd.api.providers import PROVIDER_OPERATIONS, SOURCE
from marketd.api.quotes import (
    MAX_SYMBOLS,
    BatchReply,
    BatchRequest,
    PriceReply,
    QuarantineReply,
    QuoteReply,
    QuotesReply,
    SymbolsReply,
    asked_price_reply,
    prices_reply,
    quarantine_reply,
    quote_reply,
    quotes_reply,
    symbols_reply,
)
from marketd.errors import InvalidInput
from marketd.model import INTERVALS, Interval

__all__ = ["NO_STORE", "OPERATIONS", "encode", "rest_routes"]

MAX_SECTION = 10_000
MAX_BODY_BYTES = 1 << 20
NO_STORE = {"Cache-Control": "no-store"}

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One door of this server. method: WS for a WebSocket."""

    method: str
    path: str
    summary: str


class ServiceReply(msgspec.Struct, frozen=True, kw_only=True):
    """What this server is and where its doors are."""

    service: str
    version: str
    docs: str
    openapi: str
    endpoints: list[Endpoint]


STREAMS = (
    Endpoint(method="WS", path="/api/v1/market-data/stream", summary="Live quotes and bars of many symbols"),
    Endpoint(method="WS", path="/ws/{symbol}", summary="Live quotes and minute bars of one symbol"),
)


async def _service(_: Engine) -> ServiceReply:
    doors = [Endpoint(method=op.method, path=op.path, summary=op.summary) for op in OPERATIONS]
    return ServiceReply(
        service="marketd",
        version=__version__,
        docs="/docs",
        openapi="/schema/openapi.json",
        endpoints=[*doors, *STREAMS],
    )


async def _health(engine: Engine) -> Health:
    return engine.health()


async def _metrics(engine: Engine) -> bytes:
    return generate_latest(engine.metrics.registry)


async def _symbols(engine: Engine) -> SymbolsReply:
    return await symbols_reply(engine)


async def _quote(engine: Engine, symbol: str, source: str | None) -> QuoteReply:
    return await quote_reply(engine, symbol, source)


async def _quotes(engine: Engine, symbols: list[str]) -> QuotesReply:
    return await quotes_reply(engine, symbols)


async def _historical(
    engine: Engine, symbol: str, interval: Interval, start: int | None, end: int | None, **parameters: Any
) -> Response:
    return await bars_response(engine, symbol, interval, start, end, **parameters)


async def _versions(engine: Engine, symbol: str, interval: Interval, ts: int, side: str | None) -> VersionsReply:
    return await versions_reply(engine, symbol, interval, ts, side)


async def _cross_section(engine: Engine, interval: Interval, ts: int, **parameters: Any) -> Response:
    return await cross_section_response(engine, interval, ts, **parameters)


async def _actions(engine: Engine, symbol: str, as_of: int | None) -> ActionsReply:
    return await actions_reply(engine, symbol, as_of)


async def _observations(engine: Engine, series: str, start: int | None, end: int | None, **parameters: Any) -> Response:
    return await observations_response(engine, series, start, end, **parameters)


async def _consistency(
    engine: Engine, symbol: str, interval: Interval, start: int | None, end: int | None, side: str | None
) -> ConsistencyReply:
    return await consistency_reply(engine, symbol, interval, start, end, side)


async def _quarantine(engine: Engine, limit: int) -> QuarantineReply:
    return quarantine_reply(engine, limit)


async def _price(engine: Engine, symbol: str, source: str | None) -> PriceReply:
    return await asked_price_reply(engine, symbol, source)


async def _history(
    engine: Engine, symbol: str, period: str, side: str | None, adjustment: str, as_of: int | None
) -> Response:
    now_ns = engine.clock.time_ns()
    return await bars_response(
        engine,
        symbol,
        _DAY,
        period_start(period, now_ns),
        now_ns,
        side=side,
        limit=MAX_BARS,
        as_of=as_of,
        adjustment=adjustment,
        period=period,
    )


async def _intraday(
    engine: Engine, symbol: str, interval: Interval, side: str | None, adjustment: str, as_of: int | None
) -> Response:
    now_ns = engine.clock.time_ns()
    start_ns = period_start("1d", now_ns)
    return await bars_response(
        engine, symbol, interval, start_ns, now_ns, side=side, limit=MAX_BARS, as_of=as_of, adjustment=adjustment
    )


async def _batch(engine: Engine, body: BatchRequest) -> BatchReply:
    return await prices_reply(engine, body.symbols)


@functools.cache
def _document() -> dict[str, Any]:
    return openapi_document(OPERATIONS)


async def _openapi(_: Engine) -> bytes:
    return encode(_document())


async def _docs(_: Engine) -> Response:
    return await docs_page(_document())


_SIDE = choice(
    "side", SIDES, "What the prices of the bars are; by default the symbol's own: trade, or bid without trades."
)
_STORED_SIDE = choice(
    "side", SIDES[:3], "What the prices are; by default the symbol's own: trade, or bid without trades."
)
_AS_OF = time("as_of", "as_of", "As it was known then; by default as it is known now.")
_ADJUSTMENT = choice(
    "adjustment", ADJUSTMENTS, "raw: as traded; split: for splits; all: for splits and dividends.", "raw"
)
_PREFER = names("prefer", 20, "Providers whose bars come before those of others, the first first.", of="providers")
_FORMAT = choice(
    "format", FORMATS, "rows and columns are JSON; by default what the Accept header prefers, or else rows."
)
_RANGE = (
    time("from", "start", "First start of a bar; by default 500 intervals before `to`."),
    time("to", "end", "End of the range, itself not in it; by default now."),
)
_BINARY = tuple(MEDIA[f] for f in ("arrow", "parquet"))
_TABLES = ("text/csv; charset=utf-8", *_BINARY)
_API = "/api/v1/market-data"
_MINUTE, _DAY = Interval.parse("1m"), Interval.parse("1d")
_INTRADAY = tuple(i for i in INTERVALS if i.ns < _DAY.ns)
_LONGER = tuple(i for i in INTERVALS if i.ns > _MINUTE.ns)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        method="GET",
        path=f"{_API}/symbols",
        summary="Every symbol, with its last price",
        tag="market data",
        handler=_symbols,
        response=SymbolsReply,
    ),
    Operation(
        method="GET",
        path=f"{_API}/quote/{{symbol}}",
        summary="The latest quote of a symbol",
        tag="market data",
        description="A symbol that is not live is asked of the providers.",
        handler=_quote,
        response=QuoteReply,
        params=(SOURCE,),
        errors=(502, 503),
    ),
    Operation(
        method="GET",
        path=f"{_API}/quotes",
        summary="The latest quotes of several symbols",
        description="Unknown symbols are listed, they are no error.",
        tag="market data",
        handler=_quotes,
        response=QuotesReply,
        params=(names("symbols", MAX_SYMBOLS, "The symbols.", required=True),),
    ),
    Operation(
        method="GET",
        path=f"{_API}/historical/{{symbol}}",
        summary="Bars of a symbol",
        description=(
            "Ascending, the running bar included; `limit` keeps the newest of the range, and `next` is the token of "
            "the page before. With `order`, pages begin at that end of the range. JSON has 5,000 bars a page by "
            "default; the other formats have the whole range, streamed, unless `limit` is given. What is missing of "
            "the answer is told with its reason."
        ),
        tag="market data",
        handler=_historical,
        response=BarsReply,
        also=(ColumnsReply,),
        media=_TABLES,
        params=(
            interval("interval", INTERVALS, "Length of the bars.", _MINUTE),
            *_RANGE,
            _SIDE,
            whole("limit", 1, MAX_BARS, "At most so many bars."),
            _AS_OF,
            _ADJUSTMENT,
            choice("fill", ("forward",), "Repeat the last close, flagged, where an expected bar is not there."),
            _PREFER,
            choice("order", ("asc", "desc"), "Begin with the oldest or the newest bar of the range."),
            _FORMAT,
            text("page", 200, "The `next` of the answer before; other parameters as they were.", "a page token"),
        ),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/versions/{{symbol}}",
        summary="Every version of one stored bar, of every provider",
        tag="market data",
        handler=_versions,
        response=VersionsReply,
        params=(
            interval("interval", INTERVALS, "Length of the bar.", _MINUTE),
            time("ts", "ts", "Start of the bar.", required=True),
            _STORED_SIDE,
        ),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/cross-section",
        summary="The stored bars of all symbols that start at one time",
        description="Of this very length: longer bars are not made of shorter ones here.",
        tag="market data",
        handler=_cross_section,
        response=CrossSectionReply,
        also=(SectionColumnsReply,),
        media=_TABLES,
        params=(
            interval("interval", INTERVALS, "Length of the bars.", _MINUTE),
            time("ts", "ts", "Start of the bars.", required=True),
            choice("side", SIDES[:3], "What the prices are.", "trade"),
            names("symbols", MAX_SECTION, "Only these."),
            _AS_OF,
            _PREFER,
            _FORMAT,
        ),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/actions/{{symbol}}",
        summary="Splits, dividends and renames of a symbol, of every provider",
        tag="market data",
        handler=_actions,
        response=ActionsReply,
        params=(_AS_OF,),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/observations/{{series}}",
        summary="The values of a series of observations, such as a macro factor",
        tag="market data",
        handler=_observations,
        response=ObservationsReply,
        also=(ObservationColumnsReply,),
        media=_TABLES,
        params=(
            time("from", "start", "First period; by default the first there is."),
            time("to", "end", "End of the range, itself not in it; by default now."),
            _AS_OF,
            text("source", 100, "Only of this provider.", "a provider's name"),
            _FORMAT,
        ),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/consistency/{{symbol}}",
        summary="Stored bars against the same bars made of stored minutes",
        tag="market data",
        handler=_consistency,
        response=ConsistencyReply,
        params=(interval("interval", _LONGER, "Length of the bars.", _DAY), *_RANGE, _STORED_SIDE),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/quarantine",
        summary="The newest rows and lines that were refused, with the reason",
        tag="market data",
        handler=_quarantine,
        response=QuarantineReply,
        params=(whole("limit", 1, 1_000, "At most so many rows.", 100),),
    ),
    Operation(
        method="GET",
        path="/stocks/{symbol}/price",
        summary="The latest price of a symbol",
        tag="stocks",
        description="A symbol that is not live is asked of the providers.",
        handler=_price,
        response=PriceReply,
        params=(SOURCE,),
        errors=(502, 503),
    ),
    Operation(
        method="GET",
        path="/stocks/{symbol}/history",
        summary="Daily bars of a symbol",
        description="UTC days. A period ends with today, today included; days are calendar days.",
        tag="stocks",
        handler=_history,
        response=BarsReply,
        params=(choice("period", PERIODS, "How far back.", "1mo"), _SIDE, _ADJUSTMENT, _AS_OF),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/stocks/{symbol}/intraday",
        summary="Today's bars of a symbol",
        description="Since midnight UTC, the running bar included; at most the newest 100,000.",
        tag="stocks",
        handler=_intraday,
        response=BarsReply,
        params=(interval("interval", _INTRADAY, "Length of the bars.", _MINUTE), _SIDE, _ADJUSTMENT, _AS_OF),
        errors=(503,),
    ),
    Operation(
        method="POST",
        path="/stocks/batch",
        summary="The latest prices of several symbols",
        description="A symbol without a price is an entry of `errors`; the others are answered.",
        tag="stocks",
        handler=_batch,
        response=BatchReply,
        body=BatchRequest,
    ),
    *OPS_OPERATIONS,
    *PROVIDER_OPERATIONS,
    Operation(
        method="GET",
        path="/",
        summary="What this server is and where its doors are; the live page for a browser",
        tag="server",
        handler=_service,
        response=ServiceReply,
        page=live_page,
    ),
    Operation(
        method="GET",
        path="/health",
        summary="How the server, its store, its cache and its sources are doing",
        tag="server",
        handler=_health,
        response=Health,
    ),
    Operation(
        method="GET",
        path="/metrics",
        summary="Counters and gauges in Prometheus text format",
        tag="server",
        handler=_metrics,
        media_type=CONTENT_TYPE_PLAIN_0_0_4,
    ),
    Operation(
        method="GET",
        path="/docs",
        summary="This reference as a page",
        tag="server",
        handler=_docs,
        media_type="text/html",
    ),
    Operation(
        method="GET",
        path="/schema/openapi.json",
        summary="This reference as an OpenAPI document",
        tag="server",
        handler=_openapi,
        response=dict[str, Any],
    ),
)


def rest_routes(engine: Engine) -> list[BaseRoute]:
    """Every operation as a route, one a path, and the static files."""
    by_path: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, []).append(operation)
    return [*(_route(engine, operations) for operations in by_path.values()), static_route()]


def _route(engine: Engine, operations: list[Operation]) -> Route:
    path = operations[0].path.replace("{symbol}", "{symbol:path}").replace("{series}", "{series:path}")
    endpoints = {operation.method: _endpoint(engine, operation) for operation in operations}

    async def endpoint(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, endpoint, methods=list(endpoints))


def _endpoint(engine: Engine, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if operation.page is not None and prefers_html(request.headers.get("accept", "")):
            return await operation.page(engine)
        arguments = read_query(operation.params, request.scope["query_string"])
        arguments.update(request.path_params)
        if operation.media:
            arguments["accept"] = request.headers.get("accept", "")
        if operation.body is not None:
            arguments["body"] = await _read_body(request, operation)
        reply = await operation.handler(engine, **arguments)
        if isinstance(reply, Response):
            return reply
        body = reply if isinstance(reply, bytes) else encode(reply)
        headers = NO_STORE if operation.page is None else {**NO_STORE, "Vary": "Accept"}
        return Response(body, operation.status, headers, media_type=operation.media_type)

    return endpoint


async def _read_body(request: Request, operation: Operation) -> Any:
    """The body as `operation.body`. Raises BodyTooLarge, BadJson, InvalidInput naming the field."""
    kind = operation.body
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if operation.tag == "operations" and media_type != "application/json":
        # a page of another site may send forms and plain text without asking, but not this
        raise InvalidInput("Content-Type", media_type, "application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge("body", f"more than {MAX_BODY_BYTES} bytes", f"at most {MAX_BODY_BYTES} bytes")
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        shown = bytes(body[:100]).decode("utf-8", "replace")
        raise BadJson("body", shown, f"JSON ({error})") from error
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _not_of(kind, given, error) from error


def _not_of(kind: Any, given: Any, error: msgspec.ValidationError) -> InvalidInput:
    """The field that does not fit, as msgspec tells it: `Expected … - at `$.symbols[0]``."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.strip("`.")
    if "unknown field" in reason:
        field = reason.split("`")[1]
        reason = f"one of {', '.join(kind.__struct_fields__)}"
    elif "required field" in reason:
        field = reason.split("`")[1]
    value = given.get(field.split("[")[0]) if isinstance(given, dict) else given
    return InvalidInput(field or "body", value, reason)
