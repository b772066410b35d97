"""The connections of one TLCP session: opened, watched, bound again, recovered.

Owns the choice of version and transport, the watchdog and what comes in. Refuses to understand lines (`session`) and to
wait between attempts: `connection` is one attempt, for whoever reconnects (`sources.reconnect`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from marketd.clock import Clock
from marketd.errors import NotEntitled, SourceError, SourceRejected, SourceUnavailable
from marketd.model.time import NS_PER_S
from marketd.sources.contract import RawTap
from marketd.sources.lightstreamer.config import LightstreamerConfig
from marketd.sources.lightstreamer.session import Event, Over, Session, Subscription
from marketd.sources.lightstreamer.transport import HttpLink, Link, WebSocketLink, WebSocketRefused, at_control_link

__all__ = ["LightstreamerClient", "Login", "Received"]

_INBOX_MAX = 10_000
"""Texts read and not yet handed on. When full, reading stops, and the server conflates or drops."""

_USER_REFUSED, _VERSION_REFUSED = 1, 65
_FINAL = frozenset({_USER_REFUSED, 2, 60, _VERSION_REFUSED, 71})
"""Refusals that asking again does not cure; so are those of the application, which are not above 0."""

Received = tuple[int, list[Event]]
"""When a text was received, and the events in it."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom to make a session. url: http(s). adapter_set: None for the server's default."""

    url: str
    user: str | None = None
    password: str | None = None
    adapter_set: str | None = None

    def __repr__(self) -> str:
        return f"Login({self.url})"


class LightstreamerClient:
    """One session at a time, over one connection at a time.

    source: in errors. tap: sees what was received, text by text. Subscriptions are held here and asked for again in
    each new session. recovered, created: how often a lost connection was taken up again, and sessions were made.
    """

    def __init__(
        self,
        source: str,
        config: LightstreamerConfig,
        clock: Clock,
        *,
        tap: RawTap | None = None,
        proxy: str | None = None,
    ) -> None:
        self._source = source
        self._config = config
        self._clock = clock
        self._tap = tap
        self._proxy = proxy
        self._session = Session(renewals=config.renewals)
        self._versions = config.versions
        self._over_http = config.transport == "http"
        self._url = ""
        self._failed_recoveries = 0
        self.recovered = 0
        self.created = 0
        self._reset()

    def _reset(self) -> None:
        self._inbox: list[tuple[int, str]] = []
        self._heard_ns = self._sent_ns = self._clock.monotonic_ns()
        self._mute = False
        self._nudged = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def session(self) -> Session:
        """What is known of the session, for statistics and tests."""
        return self._session

    @property
    def version(self) -> str:
        """The version that worked, or that is tried first."""
        return self._versions[0]

    def subscribe(self, wanted: Subscription) -> int:
        """A handle, which its events carry. Takes effect at once if there is a connection, else with the next."""
        handle = self._session.subscribe(wanted)
        self._wake.set()
        return handle

    def unsubscribe(self, handle: int) -> None:
        self._session.unsubscribe(handle)
        self._wake.set()

    def nudge(self) -> None:
        """Have the present connection yield a batch now, even an empty one."""
        self._nudged = True
        self._wake.set()

    @asynccontextmanager
    async def connection(
        self, login: Callable[[bool], Awaitable[Login]]
    ) -> AsyncIterator[AsyncGenerator[Sequence[Received], None]]:
        """One connection that carries the session: the old one, taken up where it stopped, or a new one.

        login: called when a new session has to be made; with True when the last answer of it was refused, with
        False otherwise. The batches end with SourceUnavailable. Raises that, NotEntitled or SourceRejected.
        """
        self._reset()
        self._session.interrupted()
        link, first = await self._recovered() or await self._created(login)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._ask(link)
            tasks += [asyncio.create_task(job) for job in (self._read(link), self._watch())]
            if self._config.inactivity_s is not None:
                tasks.append(asyncio.create_task(self._beat(link, self._config.inactivity_s)))
            for task in tasks:
                task.add_done_callback(lambda _: self._wake.set())
            yield self._batches(link, first, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._session.interrupted()
            await link.close()

    # One connection

    async def _recovered(self) -> tuple[Link, list[Received]] | None:
        """The old session on a new connection; None if there is none, or the server has forgotten it."""
        if self._session.id is None or self._config.recovery_attempts == 0:
            return None
        self._failed_recoveries += 1
        link: Link | None = None
        try:
            link = await self._open(at_control_link(self._url, self._session.control_link))
            await self._send(link, "bind_session", {**self._session.bind_parameters(recover=True), **self._stream()})
            first = await self._answer(link)
        except SourceUnavailable:
            if link is not None:
                await link.close()
            if self._failed_recoveries >= self._config.recovery_attempts:
                self._forget()
            raise
        except BaseException:
            if link is not None:
                await link.close()
            raise
        self._failed_recoveries = 0
        if self._session.ended is None:
            self.recovered += 1
            return link, first
        await link.close()
        self._forget()
        return None

    async def _created(self, login: Callable[[bool], Awaitable[Login]]) -> tuple[Link, list[Received]]:
        self._forget()
        given = await login(False)
        renewed = False
        while True:
            self._url = given.url
            version = self._versions[0]
            link = await self._open(given.url)
            try:
                parameters = self._session.create_parameters(
                    given.user, given.password, given.adapter_set, diffs=version >= "2.5"
                )
                await self._send(link, "create_session", {**parameters, **self._stream()})
                first = await self._answer(link)
            except BaseException:
                await link.close()
                raise
            refused = self._session.ended
            if refused is None:
                self.created += 1
                return link, first
            await link.close()
            self._forget()
            if refused.code == _VERSION_REFUSED and len(self._versions) > 1:
                self._versions = self._versions[1:]
            elif refused.code == _USER_REFUSED and not renewed:
                renewed = True
                given = await login(True)
            else:
                raise self._refusal(refused)

    def _forget(self) -> None:
        self._session.forget()
        self._failed_recoveries = 0

    def _refusal(self, refused: Over) -> SourceError:
        reason = f"the streaming server refused the session: {refused.code} {refused.reason}"
        if refused.code == _USER_REFUSED:
            return NotEntitled(self._source, reason)
        if refused.code in _FINAL or refused.code <= 0:
            return SourceRejected(self._source, reason)
        return SourceUnavailable(self._source, reason)

    def _stream(self) -> dict[str, str | int]:
        """What both ways to get a stream have in common."""
        parameters: dict[str, str | int] = {}
        if self._config.keepalive_s is not None:
            parameters["LS_keepalive_millis"] = round(self._config.keepalive_s * 1_000)
        if self._config.inactivity_s is not None:
            parameters["LS_inactivity_millis"] = round(self._config.inactivity_s * 1_000)
        return parameters

    async def _open(self, url: str) -> Link:
        timeout_s, version = self._config.open_timeout_s, self._versions[0]
        if not self._over_http:
            try:
                return await WebSocketLink.open(self._source, url, version, timeout_s=timeout_s, proxy=self._proxy)
            except WebSocketRefused:
                if self._config.transport != "auto":
                    raise
                self._over_http = True
        return HttpLink(self._source, url, version, timeout_s=timeout_s, proxy=self._proxy)

    async def _answer(self, link: Link) -> list[Received]:
        """Read until the server has taken or refused what was asked; what came along is handed on later."""
        first: list[Received] = []
        timeout_s = self._config.open_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while not (self._session.bound or self._session.ended or self._session.loop_s is not None):
                    text = await link.receive()
                    first.append(self._take(self._clock.time_ns(), text))
        except TimeoutError:
            raise SourceUnavailable(
                self._source, f"no answer to the session's request within {timeout_s:g} s"
            ) from None
        self._heard_ns = self._clock.monotonic_ns()
        return first

    def _take(self, time_received_ns: int, text: str) -> Received:
        if self._tap is not None:
            self._tap(time_received_ns, text)
        return time_received_ns, self._session.receive(text)

    async def _send(self, link: Link, name: str, parameters: dict[str, str | int]) -> None:
        self._sent_ns = self._clock.monotonic_ns()
        await link.send(name, parameters)

    async def _ask(self, link: Link) -> None:
        for parameters in self._session.requests():
            await self._send(link, "control", self._in_session(link, parameters))

    def _in_session(self, link: Link, parameters: dict[str, str | int]) -> dict[str, str | int]:
        if isinstance(link, HttpLink) and self._session.id is not None:
            return {"LS_session": self._session.id, **parameters}
        return parameters

    async def _read(self, link: Link) -> None:
        while True:
            text = await link.receive()
            self._heard_ns = self._clock.monotonic_ns()
            self._inbox.append((self._clock.time_ns(), text))
            self._wake.set()
            if len(self._inbox) >= _INBOX_MAX:
                self._room.clear()
                await self._room.wait()

    async def _watch(self) -> None:
        """Notice a connection that is open and says nothing: with keep-alives, silence is a fault."""
        while not self._mute:
            limit_ns = round(self._silence_s() * NS_PER_S)
            silent_ns = self._clock.monotonic_ns() - self._heard_ns
            if silent_ns < limit_ns:
                await self._clock.sleep((limit_ns - silent_ns) / NS_PER_S)
            elif len(self._inbox) < _INBOX_MAX:
                self._mute = True
                self._wake.set()
            else:
                await self._clock.sleep(self._silence_s())

    def _silence_s(self) -> float:
        keepalive_s = self._session.keepalive_s or self._config.open_timeout_s
        return keepalive_s * self._config.mute_factor + (self._session.loop_s or 0.0)

    async def _beat(self, link: Link, every_s: float) -> None:
        """Keep the promise of a sign of life."""
        every_ns = round(every_s * NS_PER_S / 2)
        while True:
            idle_ns = self._clock.monotonic_ns() - self._sent_ns
            if idle_ns < every_ns:
                await self._clock.sleep((every_ns - idle_ns) / NS_PER_S)
            else:
                await self._send(link, "heartbeat", self._in_session(link, {}))

    async def _batches(
        self, link: Link, first: list[Received], tasks: list[asyncio.Task[None]]
    ) -> AsyncGenerator[Sequence[Received], None]:
        if any(events for _, events in first):
            yield first
        self._wake.set()  # what came first may have been an end
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended = [task for task in tasks if task.done()]
            inbox, self._inbox = self._inbox, []
            self._room.set()
            taken = [self._take(time_ns, text) for time_ns, text in inbox]
            if self._nudged or any(events for _, events in taken):
                self._nudged = False
                yield taken
            over = self._session.ended
            if over is not None:
                self._forget()
                raise SourceUnavailable(self._source, f"the session ended: {over.code} {over.reason}")
            if self._session.loop_s is not None:
                await self._bind_again(link, self._session.loop_s)
                continue
            for task in ended:
                task.result()
            if self._mute:
                raise SourceUnavailable(self._source, f"no message for {self._silence_s():g} s")
            await self._ask(link)

    async def _bind_again(self, link: Link, delay_s: float) -> None:
        """The server ended this stream, and not the session. The answer is read like all else."""
        await self._clock.sleep(delay_s)
        await self._send(link, "bind_session", {**self._session.bind_parameters(recover=False), **self._stream()})
        self._heard_ns = self._clock.monotonic_ns()
        self._wake.set()
