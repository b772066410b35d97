"""One TCP connection to OpenD: greeted, kept alive, watched; answers go to who asked, pushes to a function.

Owns the socket, serial numbers, keep-alives and the watchdog. Refuses to reconnect: the stream does that with
`sources.reconnect`, requests with the next one (`requests`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Self, TypeVar

import msgspec

from marketd.clock import Clock
from marketd.errors import MalformedMessage, SourceRejected, SourceUnavailable
from marketd.model.time import NS_PER_S
from marketd.sources.futu.config import FutuConfig
from marketd.sources.futu.frame import Frame, FrameReader, frame_bytes
from marketd.sources.futu.messages import (
    PUSHES,
    GlobalStateAnswer,
    GlobalStateRequest,
    InitAnswer,
    InitRequest,
    KeepAlive,
    Proto,
    Request,
)
from marketd.sources.futu.parse import NAME, answer_of
from marketd.sources.futu.protobuf import encode

__all__ = ["Connection", "OnPushes"]

T = TypeVar("T", bound=msgspec.Struct)

OnPushes = Callable[[int, list[Frame]], bool]
"""Called with the time of receipt and the pushes that came at once; False stops reading until `Connection.resume`."""

_CLIENT_VERSION = 300  # 3.0, as its own client says
_READ_BYTES = 256 * 1024
_CLOSE_TIMEOUT_S = 1.0
_ALIVE_SHARE = 0.8  # of the interval that OpenD asks for, as its own client does
_ALIVE_MIN_S = 1.0


class Connection:
    """Made by `open`. lost: done with the reason once nothing more can come; None while it is well."""

    def __init__(
        self,
        config: FutuConfig,
        clock: Clock,
        on_pushes: OnPushes | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._config = config
        self._clock = clock
        self._on_pushes = on_pushes
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader(config.message_max_bytes)
        self._serials = itertools.count(1)
        self._asked: dict[tuple[int, int], asyncio.Future[Frame]] = {}
        self._heard_ns = clock.monotonic_ns()
        self._room = asyncio.Event()
        self._room.set()
        self._jobs: list[asyncio.Task[None]] = []
        self._lost: str | None = None
        self.lost: asyncio.Event = asyncio.Event()

    @classmethod
    async def open(cls, config: FutuConfig, clock: Clock, on_pushes: OnPushes | None = None) -> Self:
        """Connect and greet. Raises SourceUnavailable (also when OpenD is not logged in) or MalformedMessage."""
        try:
            async with asyncio.timeout(config.open_timeout_s):
                reader, writer = await asyncio.open_connection(config.host, config.port)
                connection = cls(config, clock, on_pushes, reader, writer)
                try:
                    await connection._greet()
                except BaseException:
                    await connection.close()
                    raise
        except TimeoutError:
            reason = f"OpenD did not greet within {config.open_timeout_s:g} s"
            raise SourceUnavailable(NAME, reason) from None
        except OSError as error:
            reason = f"no connection to OpenD at {config.host}:{config.port}: {error.strerror or error}"
            raise SourceUnavailable(NAME, reason) from None
        return connection

    async def _greet(self) -> None:
        self._jobs.append(asyncio.create_task(self._read()))
        greeting = InitRequest(client_ver=_CLIENT_VERSION, client_id=self._config.client_id)
        try:
            answer = await self.ask(Proto.INIT_CONNECT, greeting, InitAnswer, "InitConnect")
            state = await self.ask(Proto.GLOBAL_STATE, GlobalStateRequest(), GlobalStateAnswer, "GetGlobalState")
        except SourceRejected as error:
            raise SourceUnavailable(NAME, error.reason) from error  # an update or a login in OpenD may cure it
        if not state.quotes_logged_in:
            raise SourceUnavailable(NAME, "OpenD is not logged in to the quote servers")
        self._jobs.append(asyncio.create_task(self._keep_alive(answer.keep_alive_interval)))
        self._jobs.append(asyncio.create_task(self._watch()))

    @property
    def reason(self) -> str | None:
        """Why it is lost; None while it is well."""
        return self._lost

    async def ask(self, proto: int, c2s: msgspec.Struct, answer: type[T], what: str) -> T:
        """The answer to one request. what: of what, in errors. Raises what `parse.refusal` says, SourceUnavailable (no
        answer in time, or the connection is lost) or MalformedMessage."""
        if self._lost is not None:
            raise SourceUnavailable(NAME, f"{what}: {self._lost}")
        serial = next(self._serials) & 0xFFFF_FFFF
        coming: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._asked[proto, serial] = coming
        try:
            self._writer.write(frame_bytes(proto, serial, encode(Request(encode(c2s)))))
            async with asyncio.timeout(self._config.timeout_s):
                frame = await coming
        except TimeoutError:
            raise SourceUnavailable(NAME, f"{what}: no answer within {self._config.timeout_s:g} s") from None
        finally:
            self._asked.pop((proto, serial), None)
        try:
            body = frame.body()
        except ValueError as error:
            raise MalformedMessage(NAME, f"{what}: {error}", frame.raw) from None
        return answer_of(answer, body, what)

    def resume(self) -> None:
        """Read on, after `OnPushes` said False."""
        self._room.set()

    async def close(self) -> None:
        """Idempotent."""
        self._lose("the connection was closed")
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
            self.lost.set()
            for coming in self._asked.values():
                if not coming.done():
                    coming.set_exception(SourceUnavailable(NAME, reason))

    async def _read(self) -> None:
        while True:
            try:
                data = await self._reader.read(_READ_BYTES)
            except OSError as error:
                self._lose(f"connection lost: {error.strerror or error}")
                return
            if not data:
                self._lose("OpenD closed the connection")
                return
            self._heard_ns = self._clock.monotonic_ns()
            try:
                frames = self._frames.feed(data)
            except ValueError as error:
                self._lose(f"what came is no frame: {error}")
                return
            pushes = [frame for frame in frames if not self._answered(frame)]
            if pushes and self._on_pushes is not None and not self._on_pushes(self._clock.time_ns(), pushes):
                self._room.clear()
                await self._room.wait()

    def _answered(self, frame: Frame) -> bool:
        """Whether it was no push. An answer that nobody waits for any more is dropped."""
        if frame.proto in PUSHES:
            return False
        coming = self._asked.get((frame.proto, frame.serial))
        if coming is not None and not coming.done():
            coming.set_result(frame)
        return True

    async def _keep_alive(self, interval_s: int) -> None:
        pause_s = max(_ALIVE_MIN_S, min(interval_s * _ALIVE_SHARE, self._config.mute_timeout_s / 3))
        while True:
            await self._clock.sleep(pause_s)
            # its answer counts as any message: `_watch` sees when nothing comes
            serial = next(self._serials) & 0xFFFF_FFFF
            alive = KeepAlive(self._clock.time_ns() // NS_PER_S)
            self._writer.write(frame_bytes(Proto.KEEP_ALIVE, serial, encode(Request(encode(alive)))))

    async def _watch(self) -> None:
        """Notice a connection that is open and says nothing: keep-alives are answered, so silence is a fault."""
        limit_ns = round(self._config.mute_timeout_s * NS_PER_S)
        while self._lost is None:
            silent_ns = self._clock.monotonic_ns() - self._heard_ns
            if silent_ns < limit_ns or not self._room.is_set():
                await self._clock.sleep(max(limit_ns - silent_ns, limit_ns // 10) / NS_PER_S)
            else:
                self._lose(f"no message for {self._config.mute_timeout_s:g} s")
