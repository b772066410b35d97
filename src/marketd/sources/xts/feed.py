"""The live side of XTS: one WebSocket that speaks Engine.IO 3, and subscriptions that are made by request.

Owns the socket, its pings, the watchdog and the subscriptions. Refuses to understand payloads (`parse`, `engineio`).
Subscriptions belong to the session, not to the socket: after a reconnect those of the same session are still there,
so only what is missing is asked for, and the quotes meanwhile are fetched. What is fetched comes in as the message it
would have been.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI

from marketd.clock import Clock
from marketd.errors import NotEntitled, SourceError, SourceRejected, SourceUnavailable
from marketd.model import Quarantined, SourceEvent
from marketd.model.time import NS_PER_S
from marketd.sources.contract import Capabilities, Limit, RawTap, Subscriptions
from marketd.sources.http import USER_AGENT
from marketd.sources.reconnect import Batches, reconnecting
from marketd.sources.xts import engineio
from marketd.sources.xts.config import XtsConfig, XtsPace
from marketd.sources.xts.history import COMPRESSION
from marketd.sources.xts.instruments import XtsInstruments
from marketd.sources.xts.parse import NAME, Reader, Subscribed
from marketd.sources.xts.quotes import PER_REQUEST, instruments_of, latest
from marketd.sources.xts.session import Login, Refused, TokenRefused, XtsSession
from marketd.sources.xts.symbols import Key

__all__ = ["XtsSource"]

_INBOX_MAX = 10_000
"""Packets read and not yet handed on. When full, reading stops."""
_QUEUE_MAX = 1_000
"""Frames that wait inside the client before it stops reading: what one batch can drain at once."""
_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_CLOSE_TIMEOUT_S = 1.0
_PINGS_PER_MUTE = 3
_ALREADY = "e-session-0002"
_LIMIT_WORDS = re.compile(r"subscription limit(?: of (\d{1,6}))?", re.IGNORECASE)

_SILENT = logging.getLogger(f"{__name__}.socket")
_SILENT.setLevel(logging.INFO)
"""For the WebSocket library, which would write the URL, and with it the token, at level DEBUG."""


class XtsSource:
    """Implements `Source`. tap: sees every message, and every fetched quote as the message it would have been.

    session, instruments: those of the other parts of the provider, whose owner closes them.
    rng: for the jitter of the waits.
    """

    def __init__(
        self,
        config: XtsConfig,
        clock: Clock,
        session: XtsSession,
        instruments: XtsInstruments,
        tap: RawTap | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._session = session
        self._instruments = instruments
        self._tap = tap
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        pace: XtsPace = self._config.pace
        return Capabilities(
            stream_quotes=True,
            quotes=True,
            bars=tuple(COMPRESSION),
            quotes_per_request=PER_REQUEST,
            stamp="end",
            time_zone="Asia/Kolkata",
            limits=tuple(
                Limit(count=max(1, round(per_s)), seconds=max(1.0, 1.0 / per_s), endpoint=endpoint)
                for endpoint in pace.__struct_fields__
                for per_s in [getattr(pace, endpoint)]
            ),
            symbols_per_connection=self._config.symbols_per_code * len(self._config.message_codes),
            connections=1,
        )

    async def stream(self, wanted: Subscriptions) -> Batches:
        """See `Source.stream`. Logs in and connects once anything is wanted."""
        feed = _Feed(self._config, self._clock, self._session, self._instruments, self._tap, wanted, self._rng)
        loop = reconnecting(NAME, feed.connection, clock=self._clock, policy=self._config.reconnect, rng=self._rng)
        async with aclosing(loop):
            async for batch in loop:
                yield batch


class _Feed:
    """What outlives a connection (`_left_out`) and one connection at a time."""

    def __init__(
        self,
        config: XtsConfig,
        clock: Clock,
        session: XtsSession,
        instruments: XtsInstruments,
        tap: RawTap | None,
        wanted: Subscriptions,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._clock = clock
        self._session = session
        self._instruments = instruments
        self._tap = tap
        self._wanted = wanted
        self._rng = rng
        self._left_out: dict[str, str] = {}  # symbols that were told as unknown, refused or too many, and why
        self._room = dict.fromkeys(config.message_codes, config.symbols_per_code)
        self._reset()

    def _reset(self) -> None:
        """Nothing is connected."""
        self._followed: int | None = None  # version of `wanted` that the subscriptions agree with
        self._seen: int | None = None  # version of `wanted` that `_names` agrees with
        self._names: dict[Key, tuple[str, ...]] = {}
        self._reader = Reader(
            self._names,
            times=self._config.times,
            future_max_s=self._config.future_max_s,
            merge=self._config.broadcast == "Partial",
        )
        self._inbox: list[tuple[int, str]] = []
        self._told: list[SourceEvent] = []
        self._heard_ns = self._clock.monotonic_ns()
        self._mute = False
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Batches]:
        """One connection, subscribed; its batches end with SourceUnavailable."""
        while not self._wanted.symbols:
            await self._wanted.changed(self._wanted.version)
        self._reset()
        try:
            login = await self._session.login()
        except NotEntitled as error:
            if self._session.ever:  # the keys were right once: the broker may be closed for the night
                raise SourceUnavailable(NAME, error.reason) from error
            raise
        socket, ping_s = await self._open(login)
        jobs = [self._read(socket), self._ping(socket, ping_s), self._watch(), self._until_ended(login)]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            try:
                await self._follow(login)
            except SourceRejected as error:
                raise SourceUnavailable(NAME, error.reason) from error
            tasks.append(asyncio.create_task(self._follow_wanted(login)))
            for task in tasks:
                task.add_done_callback(lambda _: self._wake.set())
            yield self._batches(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await socket.close()

    async def _open(self, login: Login) -> tuple[ClientConnection, float]:
        """A socket on which Socket.IO is connected, and how many seconds may pass between our pings."""
        query = {
            "token": login.token,
            "userID": login.user_id,
            "publishFormat": "JSON",
            "broadcastMode": self._config.broadcast,
            "EIO": "3",
        }
        path = f"{self._config.path}/socket.io/"
        begun: engineio.Open | None = None
        if self._config.handshake == "polling":
            begun = await self._poll(path, query, login)
            query["sid"] = begun.sid
        try:
            async with asyncio.timeout(self._config.open_timeout_s):
                socket = await connect(
                    f"{self._config.socket_url}{path}?{urlencode({**query, 'transport': 'websocket'})}",
                    user_agent_header=USER_AGENT,
                    proxy=self._config.http.proxy,
                    open_timeout=None,
                    close_timeout=_CLOSE_TIMEOUT_S,
                    ping_interval=None,  # Engine.IO has its own
                    compression=None,
                    max_queue=_QUEUE_MAX,
                    max_size=_MESSAGE_MAX_BYTES,
                    logger=_SILENT,
                )
                try:
                    begun = await self._greet(socket, begun, login)
                except BaseException:
                    await socket.close()
                    raise
        except InvalidURI:
            raise SourceRejected(NAME, "ws_url is not the URL of a server") from None  # the whole of it has the token
        except InvalidProxy:
            raise SourceRejected(NAME, "http.proxy is not the URL of a proxy") from None  # it may hold a password
        except TimeoutError:
            raise SourceUnavailable(NAME, f"no connection within {self._config.open_timeout_s:g} s") from None
        except ConnectionClosed as error:
            raise SourceUnavailable(NAME, f"connection closed: {error}") from error
        except InvalidStatus as error:
            if error.response.status_code in (400, 401, 403):
                self._session.end(login)
            raise SourceUnavailable(NAME, f"no connection: HTTP {error.response.status_code}") from error
        except (InvalidHandshake, OSError) as error:
            raise SourceUnavailable(NAME, f"no connection: {error}") from error
        return socket, min(begun.ping_interval / 1_000, self._config.mute_timeout_s / _PINGS_PER_MUTE)

    async def _poll(self, path: str, query: dict[str, str], login: Login) -> engineio.Open:
        try:
            answer = await self._session.http.request(
                "GET", path, params={**query, "transport": "polling"}, endpoint="handshake"
            )
        except TokenRefused as error:
            self._session.end(login)
            raise SourceUnavailable(NAME, error.reason) from error
        except SourceRejected as error:
            raise SourceUnavailable(NAME, error.reason) from error
        packets = engineio.packets(NAME, answer.body.decode("utf-8", "replace"))
        begun = engineio.opened(NAME, packets[0] if packets else "")
        if "websocket" not in begun.upgrades:
            raise SourceUnavailable(NAME, "the server does not offer a WebSocket after polling")
        return begun

    async def _greet(self, socket: ClientConnection, begun: engineio.Open | None, login: Login) -> engineio.Open:
        """See that the far end speaks Engine.IO 3 and has let us in."""
        if begun is not None:
            await socket.send(engineio.PROBE)
            if await _text(socket) != engineio.PROBED:
                raise SourceUnavailable(NAME, "the server did not answer the probe of the WebSocket")
            await socket.send(engineio.UPGRADE)
            return begun  # the connect packet came by polling, or comes as any other message
        begun = engineio.opened(NAME, await _text(socket))
        while (packet := await _text(socket)) != engineio.CONNECTED:
            if packet.startswith((engineio.ERROR, engineio.DISCONNECT, engineio.CLOSE)):
                self._session.end(login)
                raise SourceUnavailable(NAME, "the server does not let this session in")
        return begun

    async def _read(self, socket: ClientConnection) -> None:
        """Take in what comes; `recv` does not wait while there is more, so a burst becomes one batch."""
        while True:
            try:
                raw = await socket.recv()
            except ConnectionClosed as error:
                raise SourceUnavailable(NAME, f"connection closed: {error}") from error
            self._heard_ns = self._clock.monotonic_ns()
            if not isinstance(raw, str):
                continue  # a binary attachment; we ask for JSON
            if raw.startswith(engineio.EVENT):
                await self._take_in(raw)
            elif raw.startswith((engineio.CLOSE, engineio.DISCONNECT, engineio.ERROR)):
                raise SourceUnavailable(NAME, "the server closed the stream")

    async def _take_in(self, packet: str) -> None:
        self._inbox.append((self._clock.time_ns(), packet))
        self._wake.set()
        if len(self._inbox) >= _INBOX_MAX:
            self._drained.clear()
            await self._drained.wait()

    async def _ping(self, socket: ClientConnection, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            try:
                await socket.send(engineio.PING)
            except ConnectionClosed as error:
                raise SourceUnavailable(NAME, f"connection closed: {error}") from error

    async def _watch(self) -> None:
        """Notice a connection that is open and says nothing, not even to pings."""
        limit_ns = round(self._config.mute_timeout_s * NS_PER_S)
        while True:
            silent_ns = self._clock.monotonic_ns() - self._heard_ns
            if silent_ns < limit_ns:
                await self._clock.sleep((limit_ns - silent_ns) / NS_PER_S)
            elif len(self._inbox) < _INBOX_MAX:
                raise SourceUnavailable(NAME, f"no message for {self._config.mute_timeout_s:g} s")
            else:
                await self._clock.sleep(self._config.mute_timeout_s)

    async def _until_ended(self, login: Login) -> None:
        await login.ended.wait()
        raise SourceUnavailable(NAME, "the session has ended")

    async def _batches(self, tasks: list[asyncio.Task[None]]) -> Batches:
        # what came while subscribing waited for `Connected`, and receive times of a stream never go back
        connected_ns = self._clock.time_ns()
        self._inbox = [(connected_ns, packet) for _, packet in self._inbox]
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended = [task for task in tasks if task.done()]
            self._forget()
            inbox, self._inbox = self._inbox, []
            self._drained.set()
            events, self._told = self._told, []
            for time_received_ns, packet in inbox:
                if self._tap is not None:
                    self._tap(time_received_ns, packet)
                events += self._reader.read(packet, time_received_ns)
            if events:
                yield events
            for task in ended:
                task.result()

    def _forget(self) -> None:
        """What is wanted no longer falls silent at once; its subscription ends a little later."""
        if self._seen == self._wanted.version:
            return
        self._seen = self._wanted.version
        for key, symbols in list(self._names.items()):
            left = tuple(symbol for symbol in symbols if symbol in self._wanted)
            if left:
                self._names[key] = left
            else:
                del self._names[key]

    async def _follow_wanted(self, login: Login) -> None:
        failures = 0
        while True:
            await self._wanted.changed(self._followed if self._followed is not None else -1)
            self._wake.set()
            try:
                await self._follow(login)
                failures = 0
            except SourceUnavailable as error:  # what is subscribed goes on
                delay_s = self._config.reconnect.delay_s(failures, self._rng)
                await self._clock.sleep(max(delay_s, error.retry_after_s or 0.0))
                failures += 1
            except SourceError as error:
                raise SourceUnavailable(NAME, error.reason) from error

    async def _follow(self, login: Login) -> None:
        """Subscribe what is wanted and is not yet, unsubscribe what no longer is."""
        while self._followed != self._wanted.version:
            version, symbols = self._wanted.version, self._wanted.symbols
            self._left_out = {symbol: why for symbol, why in self._left_out.items() if symbol in self._wanted}
            instruments = await self._instruments.find(symbols)
            names: dict[Key, tuple[str, ...]] = {}
            for symbol, instrument in instruments.items():
                if instrument is None:
                    self._leave_out([symbol], "unknown_symbol", f"{symbol} is not in the master")
                else:
                    names[instrument.key] = (*names.get(instrument.key, ()), symbol)
            await self._unsubscribe(login, [key for key in login.subscribed if key not in names])
            first = self._followed is None
            self._names.clear()
            self._names.update(names)
            self._seen = version
            if first and (kept := [key for key in names if key in login.subscribed]):
                for begin in range(0, len(kept), PER_REQUEST):
                    await self._bring(1501, await latest(self._session, kept[begin : begin + PER_REQUEST]))
            for key in names.keys() & login.subscribed.keys():
                for symbol in names[key]:
                    self._left_out.pop(symbol, None)
            await self._subscribe_new(login, [key for key in names if key not in login.subscribed])
            self._followed = version

    async def _subscribe_new(self, login: Login, keys: Sequence[Key]) -> None:
        """Each with the first kind of message that has room."""
        left = [key for key in keys if not self._is_refused(key)]
        for code in self._config.message_codes:
            room = self._room[code] - sum(1 for used in login.subscribed.values() if used == code)
            chosen, left = left[: max(0, room)], left[max(0, room) :]
            for begin in range(0, len(chosen), PER_REQUEST):
                left = await self._subscribe(login, code, chosen[begin : begin + PER_REQUEST]) + left
        for key in left:
            total = sum(self._room.values())
            detail = f"{', '.join(self._names[key])}: a session may subscribe {total} instruments"
            self._leave_out(self._names.get(key, ()), "subscription_limit", detail)

    def _is_refused(self, key: Key) -> bool:
        return any(self._left_out.get(symbol) == "refused" for symbol in self._names[key])

    async def _subscribe(self, login: Login, code: int, keys: Sequence[Key]) -> list[Key]:
        """Subscribe these. Returns those for which there is no room."""
        try:
            await self._ask(login, code, keys)
        except Refused as error:
            limit = _LIMIT_WORDS.search(error.reason)
            if limit is not None:
                if limit.group(1) is not None:
                    self._room[code] = int(limit.group(1))
                return await self._one_by_one(login, code, keys) if len(keys) > 1 else list(keys)
            if error.provider_code == _ALREADY or "already subscribed" in error.reason.lower():
                # one of them refuses them all; whichever it is, begin anew
                await self._unsubscribe_all(code, keys)
                try:
                    await self._ask(login, code, keys)
                except Refused as again:
                    raise SourceUnavailable(NAME, again.reason) from again
                return []
            if len(keys) > 1:
                return await self._one_by_one(login, code, keys)
            symbols = self._names.get(keys[0], ())
            self._leave_out(symbols, "refused", f"{', '.join(symbols)}: {error.reason}")
        return []

    async def _one_by_one(self, login: Login, code: int, keys: Sequence[Key]) -> list[Key]:
        left: list[Key] = []
        for place, key in enumerate(keys):
            if await self._subscribe(login, code, [key]):
                left += keys[place:]
                break
        return left

    async def _ask(self, login: Login, code: int, keys: Sequence[Key]) -> None:
        body = {"instruments": instruments_of(keys), "xtsMessageCode": code}
        answer = await self._session.call(
            "POST", "/instruments/subscription", Subscribed, endpoint="subscription", json=body
        )
        login.subscribed.update(dict.fromkeys(keys, code))
        if answer.remaining is not None:
            used = sum(1 for other in login.subscribed.values() if other == code)
            self._room[code] = used + max(0, answer.remaining)
        await self._bring(code, answer.quotes)

    async def _unsubscribe(self, login: Login, keys: Sequence[Key]) -> None:
        for code in self._config.message_codes:
            mine = [key for key in keys if login.subscribed.get(key) == code]
            for begin in range(0, len(mine), PER_REQUEST):
                chosen = mine[begin : begin + PER_REQUEST]
                await self._unsubscribe_all(code, chosen)
                for key in chosen:
                    login.subscribed.pop(key, None)

    async def _unsubscribe_all(self, code: int, keys: Sequence[Key]) -> None:
        body = {"instruments": instruments_of(keys), "xtsMessageCode": code}
        try:
            await self._session.call("PUT", "/instruments/subscription", dict, endpoint="subscription", json=body)
        except Refused:  # none of them is subscribed, which is what was wanted
            return

    async def _bring(self, code: int, messages: Iterable[str]) -> None:
        """Fetched messages come in as events of the stream."""
        for message in messages:
            await self._take_in(engineio.event_text(f"{code}-json-full", message))

    def _leave_out(self, symbols: Iterable[str], reason: str, detail: str) -> None:
        """Tell once why a symbol does not come."""
        for symbol in symbols:
            if self._left_out.get(symbol) == reason:
                continue
            self._left_out[symbol] = reason
            now_ns = self._clock.time_ns()
            self._told.append(
                Quarantined(source=NAME, time_received_ns=now_ns, reason=reason, detail=detail, symbol=symbol)
            )
            self._wake.set()


async def _text(socket: ClientConnection) -> str:
    raw = await socket.recv()
    return raw if isinstance(raw, str) else ""
