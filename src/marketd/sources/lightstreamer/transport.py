"""How TLCP travels: one WebSocket, or HTTP with an endless answer. Owns sockets and framing, knows no session.

A `Link` is one stream connection. What it says on failure is a `SourceUnavailable` of `source`; `WebSocketRefused`
says that the server does not speak WebSocket here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from marketd.errors import SourceRejected, SourceUnavailable
from marketd.sources.http import USER_AGENT
from marketd.sources.lightstreamer.protocol import encode

__all__ = ["HttpLink", "Link", "WebSocketLink", "WebSocketRefused", "at_control_link"]

_QUEUE_MAX = 1_000
_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 1.0
_CONTENT_TYPE = "text/plain; charset=utf-8"
_STREAMED = ("create_session", "bind_session")


class WebSocketRefused(SourceUnavailable):
    """The server answers, but not with a WebSocket."""


class Link(Protocol):
    """One stream connection."""

    async def send(self, name: str, parameters: Mapping[str, str | int]) -> None:
        """One request. Raises SourceUnavailable."""
        ...

    async def receive(self) -> str:
        """The next whole lines. Raises SourceUnavailable when the connection is lost or has ended."""
        ...

    async def close(self) -> None: ...


def at_control_link(url: str, link: str | None) -> str:
    """The server's address with the host that it named for a session; scheme and, unless it is named, port stay."""
    if link is None:
        return url
    base = urlsplit(url)
    try:
        named = urlsplit(f"//{link.split('://', 1)[-1]}")
        port = named.port or base.port
    except ValueError:
        return url
    if not named.hostname or named.username is not None:
        return url
    host = f"[{named.hostname}]" if ":" in named.hostname else named.hostname
    return urlunsplit((base.scheme, host if port is None else f"{host}:{port}", base.path, "", ""))


class WebSocketLink:
    """Implements `Link`. Made by `open`."""

    def __init__(self, source: str, socket: ClientConnection) -> None:
        self._source = source
        self._socket = socket

    @classmethod
    async def open(cls, source: str, url: str, version: str, *, timeout_s: float, proxy: str | None) -> WebSocketLink:
        """url: of the server, http(s). Raises WebSocketRefused, SourceUnavailable, SourceRejected (no such address)."""
        address = f"ws{url.removeprefix('http').rstrip('/')}/lightstreamer"
        try:
            socket = await connect(
                address,
                subprotocols=[Subprotocol(f"TLCP-{version}.lightstreamer.com")],
                user_agent_header=USER_AGENT,
                proxy=proxy,
                open_timeout=timeout_s,
                close_timeout=_CLOSE_TIMEOUT_S,
                compression=None,
                ping_interval=None,
                max_queue=_QUEUE_MAX,
                max_size=_MESSAGE_MAX_BYTES,
            )
        except InvalidURI as error:
            raise SourceRejected(source, str(error)) from error
        except InvalidProxy:
            raise SourceRejected(source, "http.proxy is not the URL of a proxy") from None  # it may hold a password
        except TimeoutError as error:
            raise SourceUnavailable(source, f"no connection within {timeout_s:g} s") from error
        except InvalidStatus as error:
            raise WebSocketRefused(source, f"no WebSocket: HTTP {error.response.status_code}") from error
        except (InvalidHandshake, OSError) as error:
            raise SourceUnavailable(source, f"no connection: {error}") from error
        return cls(source, socket)

    async def send(self, name: str, parameters: Mapping[str, str | int]) -> None:
        try:
            await self._socket.send(f"{name}\r\n{encode(parameters)}")
        except ConnectionClosed as error:
            raise SourceUnavailable(self._source, f"connection closed: {error}") from error

    async def receive(self) -> str:
        """A message. `recv` does not wait while there is more, so a burst becomes one batch."""
        try:
            raw = await self._socket.recv()
        except ConnectionClosed as error:
            raise SourceUnavailable(self._source, f"connection closed: {error}") from error
        return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")

    async def close(self) -> None:
        await self._socket.close()


class HttpLink:
    """Implements `Link`: what is streamed comes as the body of `create_session` or `bind_session`, which may be asked
    for again after it ended; other requests have answers of their own, read with it."""

    def __init__(self, source: str, url: str, version: str, *, timeout_s: float, proxy: str | None) -> None:
        self._source = source
        self._url = f"{url.rstrip('/')}/lightstreamer"
        self._version = version
        self._timeout_s = timeout_s
        self._proxy = proxy
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout_s),
            headers={"User-Agent": USER_AGENT, "Content-Type": _CONTENT_TYPE},
            read_bufsize=2**18,
        )
        self._texts: asyncio.Queue[str | SourceUnavailable] = asyncio.Queue()
        self._room = asyncio.Event()
        self._streaming: asyncio.Task[None] | None = None

    async def send(self, name: str, parameters: Mapping[str, str | int]) -> None:
        if name in _STREAMED:
            if self._streaming is not None:
                self._streaming.cancel()
                await asyncio.gather(self._streaming, return_exceptions=True)
            self._streaming = asyncio.create_task(self._stream(name, parameters))
            return
        try:
            async with asyncio.timeout(self._timeout_s), self._post(name, parameters) as answer:
                text = await answer.text("utf-8", "replace")
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from None
        self._judge(name, answer.status)
        self._texts.put_nowait(text)

    def _post(self, name: str, parameters: Mapping[str, str | int]) -> aiohttp.client._RequestContextManager:
        return self._http.post(
            f"{self._url}/{name}.txt",
            params={"LS_protocol": f"TLCP-{self._version}"},
            data=encode(parameters).encode(),
            allow_redirects=False,
            proxy=self._proxy,
        )

    async def _stream(self, name: str, parameters: Mapping[str, str | int]) -> None:
        """Put whole lines on the queue until the answer ends, and then why."""
        rest = last = b""
        try:
            async with self._post(name, parameters) as answer:
                self._judge(name, answer.status)
                async for chunk in answer.content.iter_any():
                    lines, mark, rest = (rest + chunk).rpartition(b"\r\n")
                    if mark:
                        last = lines.rpartition(b"\r\n")[2]
                        if self._texts.qsize() >= _QUEUE_MAX:
                            self._room.clear()
                            await self._room.wait()
                        self._texts.put_nowait(lines.decode("utf-8", "replace"))
                    elif len(rest) > _MESSAGE_MAX_BYTES:
                        raise SourceUnavailable(self._source, "a line without end")  # noqa: TRY301
            if last.startswith(b"LOOP,"):
                return  # the next `bind_session` goes on
            reason = SourceUnavailable(self._source, "the answer ended")
        except SourceUnavailable as error:
            reason = error
        except (aiohttp.ClientError, OSError) as error:
            reason = self._lost(error)
        self._texts.put_nowait(reason)

    def _judge(self, name: str, status: int) -> None:
        if status != 200:
            raise SourceUnavailable(self._source, f"{name}: HTTP {status}")

    def _lost(self, error: Exception) -> SourceUnavailable:
        # no str(error): aiohttp's errors hold the whole URL
        if isinstance(error, TimeoutError):
            return SourceUnavailable(self._source, f"no answer within {self._timeout_s:g} s")
        return SourceUnavailable(self._source, f"connection lost: {type(error).__name__}")

    async def receive(self) -> str:
        """Whole lines, as they came."""
        found = await self._texts.get()
        self._room.set()
        if isinstance(found, SourceUnavailable):
            raise found
        return found

    async def close(self) -> None:
        if self._streaming is not None:
            self._streaming.cancel()
            await asyncio.gather(self._streaming, return_exceptions=True)
        await self._http.close()
