"""The two questions that are asked most, answered before any routing: one quote, one price.

Takes exactly ``GET /api/v1/market-data/quote/{symbol}`` and ``GET /stocks/{symbol}/price`` without a query;
everything else is left to the routes. The same functions make the reply, so the bodies are the same.
"""

from __future__ import annotations

from starlette.types import Scope

from marketd.api.engine import Engine
from marketd.api.quotes import asked_price_reply, quote_reply
from marketd.api.rest import encode

__all__ = ["HOT_HEADERS", "hot_body"]

HOT_HEADERS = ((b"cache-control", b"no-store"), (b"content-type", b"application/json"))

_QUOTE = "/api/v1/market-data/quote/"
_PRICE, _PRICE_END = "/stocks/", "/price"


async def hot_body(engine: Engine, scope: Scope) -> bytes | None:
    """The JSON of a request this module takes, else None. Raises what the routes would raise."""
    if scope["method"] != "GET" or scope["query_string"]:
        return None
    path: str = scope["path"]
    if path.startswith(_QUOTE) and path.isprintable():
        return encode(await quote_reply(engine, path[len(_QUOTE) :]))
    if path.startswith(_PRICE) and path.endswith(_PRICE_END) and path.isprintable():
        symbol = path[len(_PRICE) : -len(_PRICE_END)]
        if len(path) >= len(_PRICE) + len(_PRICE_END):
            return encode(await asked_price_reply(engine, symbol))
    return None
