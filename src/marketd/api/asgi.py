"""The server as one ASGI application: request ids, the hot doors, the routes, one shape of error.

Owns what is true of every HTTP answer: `X-Request-ID` on it, and an error reply instead of an exception.
WebSockets and the lifespan go straight to the router.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from collections.abc import Sequence

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Router
from starlette.types import Lifespan, Message, Receive, Scope, Send

from marketd.api.engine import Engine
from marketd.api.errors import error_response
from marketd.api.hot import HOT_HEADERS, hot_body
from marketd.api.rest import rest_routes

__all__ = ["Application", "build_app"]

_log = logging.getLogger(__name__)
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def build_app(
    engine: Engine, websocket_routes: Sequence[BaseRoute] = (), *, lifespan: Lifespan[Application] | None = None
) -> Application:
    """All doors of an engine. lifespan: as Starlette has it, for a server that starts and stops the engine."""
    router = Router([*websocket_routes, *rest_routes(engine)], redirect_slashes=False, lifespan=lifespan)
    return Application(engine, router)


class Application:
    """ASGI 3. One per engine."""

    def __init__(self, engine: Engine, router: Router) -> None:
        self.router = router
        self._engine = engine
        self._prefix = secrets.token_hex(4)
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # where the router finds it, it raises 404 and 405 instead of answering them itself
        if scope["type"] != "http":
            await self.router(scope, receive, send)
            return
        request_id = self._request_id(scope)
        named = (b"x-request-id", request_id)
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], named]
            await send(message)

        try:
            body = await hot_body(self._engine, scope)
            if body is None:
                await self.router(scope, receive, send_named)
                return
            headers = [*HOT_HEADERS, (b"content-length", b"%d" % len(body)), named]
            started = True
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        except ClientDisconnect:
            _log.debug("%s: the client left before its request was whole", scope["path"])
        except Exception as error:
            if started:
                raise  # half an answer is out; the web server logs it and drops the connection
            answer = error_response(error, request_id.decode(), scope["path"])
            await answer(scope, receive, send_named)

    def _request_id(self, scope: Scope) -> bytes:
        """The client's own id if it is short and harmless, else a new one."""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _SANE_ID.fullmatch(value):
                return bytes(value)
        return f"{self._prefix}-{next(self._count):x}".encode()
