"""The REST doors: one table of operations, their handlers, and the routes made of them.

Handlers translate between the engine and the replies of `quotes` and `bars`; they decide nothing about data.
To add a door: write a handler (named arguments are the symbol and the parameters), add an `Operation` to
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
from marketd.api.bars import PERIODS, SIDES, BarsReply, bars_reply, history_range, period_start
from marketd.api.engine import Engine, Health
from marketd.api.errors import BadJson, BodyTooLarge
from marketd.api.openapi import (
    Operation,
    choice,
    interval,
    openapi_document,
    read_query,
    symbol_list,
    time,
    whole,
)
from marketd.api.pages import docs_page, live_page, prefers_html, static_route
from marketd.api.quotes import (
    MAX_SYMBOLS,
    BatchReply,
    BatchRequest,
    PriceReply,
    QuarantineReply,
    QuoteReply,
    QuotesReply,
    SymbolsReply,
    price_reply,
    prices_reply,
    quarantine_reply,
    quote_reply,
    quotes_reply,
    symbols_reply,
)
from marketd.errors import InvalidInput
from marketd.model import INTERVALS, Interval

__all__ = ["NO_STORE", "OPERATIONS", "encode", "rest_routes"]

MAX_BODY_BYTES = 1 << 20
MAX_BARS = 50_000
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


async def _quote(engine: Engine, symbol: str) -> QuoteReply:
    return await quote_reply(engine, symbol)


async def _quotes(engine: Engine, symbols: list[str]) -> QuotesReply:
    return await quotes_reply(engine, symbols)


async def _historical(
    engine: Engine, symbol: str, interval: Interval, start: int | None, end: int | None, side: str | None, limit: int
) -> bytes:
    start_ns, end_ns = history_range(engine, interval, start, end)
    return await bars_reply(engine, symbol, interval, start_ns, end_ns, side=side, limit=limit)


async def _quarantine(engine: Engine, limit: int) -> QuarantineReply:
    return quarantine_reply(engine, limit)


async def _price(engine: Engine, symbol: str) -> PriceReply:
    return price_reply(engine, symbol)


async def _history(engine: Engine, symbol: str, period: str, side: str | None) -> bytes:
    now_ns = engine.clock.time_ns()
    start_ns = period_start(period, now_ns)
    day = Interval.parse("1d")
    return await bars_reply(engine, symbol, day, start_ns, now_ns, side=side, limit=MAX_BARS, period=period)


async def _intraday(engine: Engine, symbol: str, interval: Interval, side: str | None) -> bytes:
    now_ns = engine.clock.time_ns()
    return await bars_reply(engine, symbol, interval, period_start("1d", now_ns), now_ns, side=side, limit=MAX_BARS)


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
_API = "/api/v1/market-data"

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
        handler=_quote,
        response=QuoteReply,
        errors=(503,),
    ),
    Operation(
        method="GET",
        path=f"{_API}/quotes",
        summary="The latest quotes of several symbols",
        description="Unknown symbols are listed, they are no error.",
        tag="market data",
        handler=_quotes,
        response=QuotesReply,
        params=(symbol_list("symbols", MAX_SYMBOLS, "The symbols."),),
    ),
    Operation(
        method="GET",
        path=f"{_API}/historical/{{symbol}}",
        summary="Bars of a symbol",
        description="Ascending, the running bar included; `limit` keeps the newest of the range.",
        tag="market data",
        handler=_historical,
        response=BarsReply,
        params=(
            interval("interval", INTERVALS, "Length of the bars.", Interval.parse("1m")),
            time("from", "start", "First start of a bar; by default 500 intervals before `to`."),
            time("to", "end", "End of the range, itself not in it; by default now."),
            _SIDE,
            whole("limit", 1, MAX_BARS, "At most so many bars.", 5_000),
        ),
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
        handler=_price,
        response=PriceReply,
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/stocks/{symbol}/history",
        summary="Daily bars of a symbol",
        description="UTC days. A period ends with today, today included; days are calendar days.",
        tag="stocks",
        handler=_history,
        response=BarsReply,
        params=(choice("period", PERIODS, "How far back.", "1mo"), _SIDE),
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/stocks/{symbol}/intraday",
        summary="Today's bars of a symbol",
        description="Since midnight UTC, the running bar included; at most the newest 50,000.",
        tag="stocks",
        handler=_intraday,
        response=BarsReply,
        params=(interval("interval", INTERVALS[:-1], "Length of the bars.", Interval.parse("1m")), _SIDE),
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
    """Every operation as a route, and the static files."""
    return [*(_route(engine, operation) for operation in OPERATIONS), static_route()]


def _route(engine: Engine, operation: Operation) -> Route:
    path = operation.path.replace("{symbol}", "{symbol:path}")
    return Route(path, _endpoint(engine, operation), methods=[operation.method])


def _endpoint(engine: Engine, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if operation.page is not None and prefers_html(request.headers.get("accept", "")):
            return await operation.page(engine)
        arguments = read_query(operation.params, request.scope["query_string"])
        arguments.update(request.path_params)
        if operation.body is not None:
            arguments["body"] = await _read_body(request, operation.body)
        reply = await operation.handler(engine, **arguments)
        if isinstance(reply, Response):
            return reply
        body = reply if isinstance(reply, bytes) else encode(reply)
        headers = NO_STORE if operation.page is None else {**NO_STORE, "Vary": "Accept"}
        return Response(body, headers=headers, media_type=operation.media_type)

    return endpoint


async def _read_body(request: Request, kind: Any) -> Any:
    """The body as `kind`. Raises BodyTooLarge, BadJson, InvalidInput naming the field."""
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
