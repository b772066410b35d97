"""Every failure of a REST door as one JSON shape: ``{"error": {"code", "message", "details", "request_id"}}``.

Owns the table of statuses. What nobody foresaw is logged with its request id and told as `internal_error`,
nothing more. To add a kind: give the exception a ``code`` and a line in `_STATUS`.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from marketd.errors import (
    InvalidInput,
    MarketClosed,
    MarketDataError,
    OutOfRange,
    SourceError,
    SourceUnavailable,
    StoreError,
    SymbolNotFound,
    UnknownSymbol,
)
from marketd.wire.messages import ErrorBody

__all__ = ["BadJson", "BodyTooLarge", "ErrorInfo", "ErrorReply", "NoQuoteYet", "NotFound", "error_response"]

_log = logging.getLogger(__name__)
_SHOWN = 120


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """code: stable, for programs. message: for people. details: which field, its value, what is allowed."""

    code: str
    message: str
    details: ErrorBody
    request_id: str


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """What every REST door answers when it cannot do what was asked."""

    error: ErrorInfo


class NoQuoteYet(MarketDataError):
    """A known symbol for which nothing has been accepted so far. Asking again may work."""

    code = "no_quote_yet"
    retryable = True

    def __init__(self, symbol: str) -> None:
        super().__init__(symbol)
        self.symbol = symbol

    def __str__(self) -> str:
        return f"{self.symbol} is known, but no quote has come yet"


class BadJson(InvalidInput):
    """A body that is not JSON at all."""

    code = "bad_json"


class BodyTooLarge(InvalidInput):
    """A body longer than the door takes."""

    code = "body_too_large"


class NotFound(InvalidInput):
    """A well-formed name of something that is not there."""

    code = "not_found"


_STATUS: tuple[tuple[type[MarketDataError], int], ...] = (
    (UnknownSymbol, 404),
    (NotFound, 404),
    (BadJson, 400),
    (BodyTooLarge, 413),
    (InvalidInput, 422),
    (NoQuoteYet, 503),
    (StoreError, 503),
    (SymbolNotFound, 404),
    (OutOfRange, 422),
    (MarketClosed, 503),
    (SourceUnavailable, 503),
    (SourceError, 502),
)
"""In the order in which they are looked through. A provider's refusal is nobody's fault here: 502."""


def error_response(error: Exception, request_id: str, path: str) -> Response:
    """The answer to any exception that came out of a route. path: what was asked for, for the log and 404."""
    headers = {"Cache-Control": "no-store"}
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    code, message, details = "internal_error", "the server failed; its log has this request id", ErrorBody()
    if isinstance(error, HTTPException):
        status = error.status_code
        code = HTTPStatus(status).phrase.lower().replace(" ", "_")
        message, details = _of_routing(error, path)
        headers.update(error.headers or {})
        if "Allow" in headers:
            headers["Allow"] = details.allowed or ""
    elif isinstance(error, InvalidInput):
        near = list(error.near) if isinstance(error, UnknownSymbol) else None
        details = ErrorBody(field=error.field, value=_plain(error.value), allowed=error.allowed, near=near)
        code, message = error.code, str(error)
    elif isinstance(error, NoQuoteYet):
        code, message = error.code, str(error)
        details = ErrorBody(field="symbol", value=error.symbol)
    elif isinstance(error, StoreError):
        _log.error("%s %s: %s", request_id, path, error)
        code, message = error.code, "the bar store cannot answer now; the server's log has this request id"
    elif isinstance(error, SourceError):
        code, message = error.code, str(error)
        details = ErrorBody(field="source", value=error.source)
    if status == 500:
        _log.error("%s %s", request_id, path, exc_info=error)
    if status == 503:
        after_s = error.retry_after_s if isinstance(error, SourceUnavailable) else None
        headers["Retry-After"] = str(max(1, math.ceil(after_s or 1.0)))
    reply = ErrorReply(error=ErrorInfo(code=code, message=message, details=details, request_id=request_id))
    return Response(msgspec.json.encode(reply), status, headers, media_type="application/json")


def _of_routing(error: HTTPException, path: str) -> tuple[str, ErrorBody]:
    shown = _plain(path)
    if error.status_code == 404:
        return f"nothing is served at {shown}; GET / lists what is", ErrorBody(field="path", value=shown)
    if error.status_code == 405 and error.headers:
        allowed = ", ".join(sorted(m.strip() for m in error.headers["Allow"].split(",")))
        return f"{shown} is asked with {allowed}", ErrorBody(field="method", allowed=allowed)
    return error.detail, ErrorBody()


def _plain(value: Any) -> Any:
    """A value as it may be repeated in JSON: short, and of a JSON type."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 1 << 53:
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
