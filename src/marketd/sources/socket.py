"""A WebSocket that is read in bursts: what came meanwhile is one batch, and a silent one is noticed.

Owns the connection, its failures in our words, and the watchdog. Refuses to understand what is said. A provider makes
an `Inbox`, opens one `Socket` or several into it, runs their `read` and `watch` in tasks, and takes batches from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import WSMsgType

from marketd.clock import Clock
from marketd.errors import SourceRejected, SourceUnavailable
from marketd.model.time import NS_PER_S
from marketd.sources.http import USER_AGENT

__all__ = ["Inbox", "Socket"]

_INBOX_MAX = 20_000
"""Messages read and not yet taken. When there are so many, reading stops, and so does the sender."""
_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 1.0


class Inbox:
    """Messages that were read and that nobody has taken yet, with the time each came, ascending.

    gather_s: batches are at least so far apart; what comes in between waits for the next. The first after a pause does
    not wait.
    """

    def __init__(self, clock: Clock, gather_s: float = 0.0) -> None:
        self._clock = clock
        self._gather_ns = round(gather_s * NS_PER_S)
        self._taken_ns = clock.monotonic_ns() - self._gather_ns
        self._messages: list[tuple[int, str]] = []
        self._woken = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._messages) >= _INBOX_MAX

    def wake(self) -> None:
        """Let `wait` return, though nothing came."""
        self._woken.set()

    async def wait(self) -> None:
        """Return when there is something to take, or when woken."""
        await self._woken.wait()
        if self._gather_ns:
            left_ns = self._taken_ns + self._gather_ns - self._clock.monotonic_ns()
            if left_ns > 0:
                await self._clock.sleep(left_ns / NS_PER_S)
        self._woken.clear()

    def take(self) -> list[tuple[int, str]]:
        """All of them: (time_received_ns, message)."""
        messages, self._messages = self._messages, []
        self._taken_ns = self._clock.monotonic_ns()
        self._room.set()
        return messages

    async def put(self, text: str) -> None:
        """It came now. Waits while the inbox is full."""
        self._messages.append((self._clock.time_ns(), text))
        self._woken.set()
        if len(self._messages) >= _INBOX_MAX:
            self._room.clear()
            await self._room.wait()


class Socket:
    """An open connection. Answers pings by itself. Close it."""

    def __init__(
        self,
        source: str,
        session: aiohttp.ClientSession,
        peer: aiohttp.ClientWebSocketResponse,
        clock: Clock,
        inbox: Inbox,
    ) -> None:
        self._source = source
        self._session = session
        self._peer = peer
        self._clock = clock
        self._inbox = inbox
        self._heard_ns = clock.monotonic_ns()

    @classmethod
    async def open(
        cls, source: str, url: str, clock: Clock, inbox: Inbox, *, proxy: str | None, open_timeout_s: float
    ) -> Self:
        """Raises SourceRejected for what is no URL, SourceUnavailable. No error shows the proxy, nor its password."""
        session = aiohttp.ClientSession(headers={"User-Agent": USER_AGENT})
        try:
            async with asyncio.timeout(open_timeout_s):
                peer = await session.ws_connect(
                    url,
                    proxy=proxy,
                    autoping=False,  # a ping is a sign of life that is to be seen
                    max_msg_size=_MESSAGE_MAX_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                )
        except BaseException as error:
            await session.close()
            if isinstance(error, TimeoutError):
                raise SourceUnavailable(source, f"no connection within {open_timeout_s:g} s") from None
            if isinstance(error, aiohttp.InvalidURL):
                raise SourceRejected(source, f"{url} is no URL of a WebSocket") from None
            if isinstance(error, aiohttp.ClientError | OSError):
                raise SourceUnavailable(source, f"no connection: {_words(error)}") from None
            raise
        return cls(source, session, peer, clock, inbox)

    async def close(self) -> None:
        """Say goodbye, and wait a moment for the answer."""
        await self._peer.close()
        await self._session.close()

    async def send(self, value: Any) -> None:
        """`value` as JSON. Raises SourceUnavailable."""
        try:
            await self._peer.send_str(msgspec.json.encode(value).decode())
        except (ConnectionError, aiohttp.ClientError) as error:
            raise SourceUnavailable(self._source, f"connection closed: {_words(error)}") from error

    async def read(self) -> None:
        """Put what comes into the inbox until the connection is lost: SourceUnavailable.

        `receive` does not wait while there is more, so a burst becomes one batch.
        """
        receive, put, monotonic_ns = self._peer.receive, self._inbox.put, self._clock.monotonic_ns
        while True:
            message = await receive()
            self._heard_ns = monotonic_ns()
            match message.type:
                case WSMsgType.TEXT:
                    await put(message.data)
                case WSMsgType.BINARY:
                    await put(message.data.decode("utf-8", "replace"))
                case WSMsgType.PING:
                    await self._peer.pong(message.data)
                case WSMsgType.PONG:
                    pass
                case _:
                    raise SourceUnavailable(self._source, f"connection closed: {self._farewell(message)}")

    def _farewell(self, message: aiohttp.WSMessage) -> str:
        if message.type is WSMsgType.CLOSE and message.data:
            return f"{message.data} {message.extra or ''}".strip()
        error = self._peer.exception()
        return _words(error) if error is not None else f"without a word ({self._peer.close_code})"

    async def watch(self, mute_timeout_s: float, is_due: Callable[[], bool] = lambda: True) -> None:
        """Notice a connection that says nothing for so long: SourceUnavailable. is_due: whether it has to."""
        limit_ns = round(mute_timeout_s * NS_PER_S)
        while True:
            silent_ns = self._clock.monotonic_ns() - self._heard_ns
            if silent_ns < limit_ns:
                await self._clock.sleep((limit_ns - silent_ns) / NS_PER_S)
            elif self._inbox.is_full or not is_due():  # a full inbox: it is us who do not listen
                await self._clock.sleep(mute_timeout_s)
            else:
                raise SourceUnavailable(self._source, f"no message for {mute_timeout_s:g} s")


def _words(error: BaseException) -> str:
    """What happened, without the URL or the proxy, which aiohttp's own words hold."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"HTTP {error.status} instead of a WebSocket"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    words = (isinstance(cause, OSError) and cause.strerror) or ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
