"""What a provider does on a bad day, for every simulator that speaks HTTP.

A simulator hangs `Misbehaviour.middleware` into its aiohttp application; a test sets `kind`, and every request (or
those whose path contains `only`) is answered that way until `kind` is None again.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import Literal, get_args

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["KINDS", "Kind", "Misbehaviour"]

Kind = Literal[
    "refuse",  # the connection is cut before an answer
    "error_500",
    "unavailable_503",
    "throttle",  # 429 with Retry-After of `retry_after_s`
    "unauthorised",  # 401
    "payment_required",  # 402
    "forbidden",  # 403
    "html",  # a page, with status 200
    "empty",  # nothing, with status 200
    "not_json",
    "other_json",  # a list of nothing that was asked for
    "cut_gzip",
    "cut_body",  # fewer bytes than were announced
    "huge",  # more than `huge_bytes`
    "redirect",  # to itself
    "hang",  # never answers
]

KINDS: tuple[Kind, ...] = get_args(Kind)


class Misbehaviour:
    """kind: None is none. only: in the path of the requests concerned. seen: how many requests were answered so."""

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self.only = ""
        self.retry_after_s = 7
        self.huge_bytes = 1_000_000
        self.seen = 0

    @property
    def middleware(self) -> Middleware:
        """For `web.Application(middlewares=[…])`."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self.kind is None or self.only not in request.path:
                return await handler(request)
            self.seen += 1
            return await self._answer(self.kind, request)

        return middleware

    async def _answer(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        plain: dict[Kind, tuple[int, str, str]] = {
            "error_500": (500, "Internal Server Error", "text/plain"),
            "unavailable_503": (503, "Service Unavailable", "text/plain"),
            "unauthorised": (401, '{"error":"unauthorised"}', "application/json"),
            "payment_required": (402, '{"error":"payment required"}', "application/json"),
            "forbidden": (403, '{"error":"forbidden"}', "application/json"),
            "html": (200, "<html><body>We will be back soon</body></html>", "text/html"),
            "empty": (200, "", "application/json"),
            "not_json": (200, '{"a": [1, 2', "application/json"),
            "other_json": (200, '[["x", {"y": [null]}]]', "application/json"),
        }
        if kind in plain:
            status, text, content_type = plain[kind]
            return web.Response(status=status, text=text, content_type=content_type)
        if kind == "throttle":
            return web.Response(status=429, text="slow down", headers={"Retry-After": str(self.retry_after_s)})
        if kind == "cut_gzip":
            body = gzip.compress(b'{"a": "' + b"x" * 5_000 + b'"}')[:-20]
            return web.Response(body=body, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})
        if kind == "redirect":
            return web.Response(status=302, headers={"Location": request.path_qs})
        if kind == "hang":
            await asyncio.Event().wait()
        if kind in ("huge", "cut_body"):
            return await self._streamed(kind, request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _streamed(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if kind == "cut_body":
            response.content_length = 1_000
        await response.prepare(request)
        if kind == "cut_body":
            await response.write(b'{"a": 1')
            assert request.transport is not None
            request.transport.close()
            return response
        for _ in range(0, self.huge_bytes, 65_536):
            await response.write(b" " * 65_536)
        return response
