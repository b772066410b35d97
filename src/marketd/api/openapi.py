"""The REST doors as values: parameters that read themselves, operations, and the OpenAPI document of them.

One table (`marketd.api.rest.OPERATIONS`) is what requests are checked against, what routes are made of and
what the document says, so that they cannot drift. Owns no handler and no route. To add a kind of parameter,
write a function here that returns a `Param`: its `parse` and its `schema` side by side.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.responses import Response

from marketd import __version__
from marketd.api.errors import ErrorReply
from marketd.errors import InvalidInput
from marketd.model import INTERVALS, Interval, parse_ns

__all__ = [
    "PATH_PARAMS",
    "Operation",
    "Param",
    "choice",
    "interval",
    "names",
    "openapi_document",
    "read_query",
    "text",
    "time",
    "whole",
]

JSON = "application/json"


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One query parameter. parse: text to value, ValueError if it is not `allowed`. default: if it is absent.

    schema: JSON Schema of the text. argument: the handler's name for it, where `name` is a word of Python.
    """

    name: str
    description: str
    allowed: str
    schema: dict[str, Any]
    parse: Callable[[str], Any]
    default: Any = None
    required: bool = False
    argument: str | None = None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path; words in braces are described in `PATH_PARAMS`.

    handler: called with the engine and, by name, the words of the path, the parameters and `body`; returns a value
    of `response`, its JSON, or a whole Response. also: further types that JSON answers can have. media: further
    content types of answers; then the handler is given `accept` too. page: what a browser that prefers HTML gets
    instead. status: of an answer. errors: statuses besides those that follow from path, parameters and body.
    """

    method: str
    path: str
    summary: str
    tag: str
    handler: Callable[..., Awaitable[Any]]
    response: Any = None
    also: tuple[Any, ...] = ()
    media_type: str = JSON
    media: tuple[str, ...] = ()
    status: int = 200
    description: str = ""
    params: tuple[Param, ...] = ()
    body: Any = None
    page: Callable[[Any], Awaitable[Response]] | None = None
    errors: tuple[int, ...] = ()

    @property
    def path_params(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def takes_symbol(self) -> bool:
        return "symbol" in self.path_params

    @property
    def statuses(self) -> list[int]:
        """Every error status this operation may answer, but 500."""
        found = {422, *self.errors}
        if self.path_params:
            found.add(404)
        if self.body is not None:
            found |= {400, 413}
        return sorted(found)


PATH_PARAMS: dict[str, dict[str, Any]] = {
    "symbol": {
        "description": "As /api/v1/market-data/symbols lists it. A slash in it may be written as it is or as %2F.",
        "schema": {"type": "string"},
        "example": "AAPL",
    },
    "series": {
        "description": "A series of observations. A slash in it may be written as it is or as %2F.",
        "schema": {"type": "string"},
        "example": "cpi_us_monthly",
    },
    "interval": {
        "description": "Length of the bars.",
        "schema": {"type": "string", "enum": [i.name for i in INTERVALS]},
        "example": "1m",
    },
    "source": {"description": "A provider, as bars name it.", "schema": {"type": "string"}, "example": "coinbase"},
    "id": {"description": "A back-fill job's id.", "schema": {"type": "string"}, "example": "5f0c2a91"},
}
"""Words in the paths of operations. Symbol and series may have slashes in them."""


def choice(name: str, values: Sequence[str], description: str, default: str | None = None) -> Param:
    """One of a few words, spelled exactly so."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    schema: dict[str, Any] = {"type": "string", "enum": list(values)}
    allowed = f"one of {', '.join(values)}"
    return Param(
        name=name, description=description, allowed=allowed, schema=_with(schema, default), parse=parse, default=default
    )


def whole(name: str, low: int, high: int, description: str, default: int | None = None) -> Param:
    """A whole number within bounds, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    schema = {"type": "integer", "minimum": low, "maximum": high}
    allowed = f"a whole number from {low} to {high}"
    return Param(
        name=name, description=description, allowed=allowed, schema=_with(schema, default), parse=parse, default=default
    )


def interval(name: str, intervals: Sequence[Interval], description: str, default: Interval | None = None) -> Param:
    """A bar length, in any spelling that `Interval.parse` takes; the document lists the first of each."""

    def parse(text: str) -> Interval:
        found = Interval.parse(text)
        if found not in intervals:
            raise ValueError(text)
        return found

    lengths = [i.name for i in intervals]
    return Param(
        name=name,
        description=f"{description} M1 and 1min are other spellings of 1m, and so on.",
        allowed=f"one of {', '.join(lengths)}",
        schema=_with({"type": "string", "enum": lengths}, None if default is None else default.name),
        parse=parse,
        default=default,
        required=default is None,
    )


_TIMES_NS = parse_ns("1800-01-01"), parse_ns("2200-01-01")
_PLUS_READ_AS_SPACE = re.compile(r"(.*[Tt].*) (\d{2}:?\d{2})")


def time(name: str, argument: str, description: str, *, required: bool = False) -> Param:
    """A moment, as nanoseconds; None if absent. A `+` of the offset may come unescaped."""

    def parse(text: str) -> int:
        time_ns = parse_ns(_PLUS_READ_AS_SPACE.sub(r"\1+\2", text))
        if not _TIMES_NS[0] <= time_ns < _TIMES_NS[1]:
            raise ValueError(text)
        return time_ns

    return Param(
        name=name,
        argument=argument,
        description=description,
        allowed="an RFC 3339 time with its UTC offset, such as 2026-11-20T14:30:00Z, or a date; from 1800 to 2199",
        schema={"type": "string", "examples": ["2026-11-20T14:30:00Z", "2026-11-20"]},
        parse=parse,
        required=required,
    )


def names(name: str, most: int, description: str, *, of: str = "symbols", required: bool = False) -> Param:
    """Names separated by commas; repeated ones count once. None if absent."""

    def parse(text: str) -> list[str]:
        found = list(dict.fromkeys(s.strip() for s in text.split(",")))
        if len(found) > most or not all(found):
            raise ValueError(text)
        return found

    return Param(
        name=name,
        description=description,
        allowed=f"1 to {most} {of} separated by commas",
        schema={"type": "string", "examples": ["AAPL,BTC-USD" if of == "symbols" else "coinbase,simulator"]},
        parse=parse,
        required=required,
    )


def text(name: str, most: int, description: str, allowed: str) -> Param:
    """A word of at most so many characters, not empty; None if absent."""

    def parse(text: str) -> str:
        if not 0 < len(text) <= most:
            raise ValueError(text)
        return text

    return Param(
        name=name,
        description=description,
        allowed=allowed,
        schema={"type": "string", "minLength": 1, "maxLength": most},
        parse=parse,
    )


def _with(schema: dict[str, Any], default: Any) -> dict[str, Any]:
    return schema if default is None else {**schema, "default": default}


def read_query(params: Sequence[Param], query: bytes) -> dict[str, Any]:
    """The handler's arguments from a query string. Raises InvalidInput for any parameter that is not as declared."""
    by_name = {param.name: param for param in params}
    given: dict[str, str] = {}
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else ():
        if name not in by_name:
            known = f"one of {', '.join(by_name)}" if by_name else "no query parameter"
            raise InvalidInput(name[:100], text, known)
        if name in given:
            raise InvalidInput(name, f"{given[name]}, {text}", "the parameter once")
        given[name] = text
    arguments: dict[str, Any] = {}
    for name, param in by_name.items():
        value = param.default
        if name in given:
            try:
                value = param.parse(given[name])
            except ValueError as error:
                raise InvalidInput(name, given[name], param.allowed) from error
        elif param.required:
            raise InvalidInput(name, None, param.allowed)
        arguments[param.argument or name] = value
    return arguments


_STATUS_WORDS = {
    400: "The body is not JSON",
    404: "What the path names is not known; for a symbol, `details.near` has similar ones",
    413: "The body is too large",
    422: "A parameter or field is not allowed; `details` names it, its value and what is",
    502: "A provider refused, or sent what cannot be understood; `details` names it",
    503: "Not now; ask again after Retry-After",
}


def openapi_document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a table of operations, as plain values."""
    types = [t for op in operations for t in (op.response, *op.also, op.body) if t is not None]
    types = list(dict.fromkeys([*types, ErrorReply]))
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, references, strict=True))
    failure = {JSON: {"schema": schema_of[ErrorReply]}}
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        schema = schema_of[op.response] if op.response is not None else {"type": "string"}
        if op.also:
            schema = {"anyOf": [schema, *(schema_of[t] for t in op.also)]}
        content = {op.media_type: {"schema": schema}}
        content |= {media: {"schema": {"type": "string", "format": "binary"}} for media in op.media}
        if op.page is not None:
            content["text/html"] = {"schema": {"type": "string"}}
        entry: dict[str, Any] = {
            "operationId": op.handler.__name__.strip("_"),
            "tags": [op.tag],
            "summary": op.summary,
            "responses": {
                str(op.status): {"description": "What was asked for", "content": content},
                **{str(s): {"description": _STATUS_WORDS[s], "content": failure} for s in op.statuses},
                "default": {"description": "The server failed", "content": failure},
            },
        }
        if op.description:
            entry["description"] = op.description
        parameters = [{"name": name, "in": "path", "required": True, **PATH_PARAMS[name]} for name in op.path_params]
        parameters += [
            {
                "name": param.name,
                "in": "query",
                "required": param.required,
                "description": f"{param.description} Allowed: {param.allowed}.",
                "schema": param.schema,
            }
            for param in op.params
        ]
        if parameters:
            entry["parameters"] = parameters
        if op.body is not None:
            entry["requestBody"] = {"required": True, "content": {JSON: {"schema": schema_of[op.body]}}}
        paths.setdefault(op.path, {})[op.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "marketd",
            "version": __version__,
            "summary": "Live quotes and bars of every source of this server",
            "description": (
                "Times are RFC 3339 in UTC; `timestamp` is the event time, `received` when it got here. "
                "Absent values are null. Live updates: WebSocket /api/v1/market-data/stream and /ws/{symbol}."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
