"""The one login of a key, and requests under it.

A new login ends the old one, wherever that was, so it is shared by the stream and all requests, and renewed only when
the server says that it has ended: a request that meets that logs in once and is made again. Owns the token, which is
cut out of everything that is said. Refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from marketd.clock import Clock
from marketd.errors import NotEntitled, SourceError, SourceRejected, SourceUnavailable, Throttled
from marketd.model.time import NS_PER_S
from marketd.sources.http import Answer, HttpClient, RateLimit, RequestBudget
from marketd.sources.xts.config import XtsConfig
from marketd.sources.xts.parse import NAME, LoggedIn, Reply
from marketd.sources.xts.symbols import Key
from marketd.telemetry import Metrics

__all__ = ["Login", "Refused", "TokenRefused", "XtsSession"]

T = TypeVar("T")

_TOKEN_CODES = ("e-session-0007",)
_TOKEN_WORDS = re.compile(r"\btoken\b|\bsession\b.*\b(?:expired|invalid)", re.IGNORECASE)
_TOO_MANY_WORDS = re.compile(r"rate.?limit|too many requests", re.IGNORECASE)
_ERROR_BEGINS = 200


class Refused(SourceRejected):
    """The server says no, in its own words. provider_code: such as `e-session-0002`."""

    def __init__(self, source: str, reason: str, provider_code: str = "") -> None:
        super().__init__(source, reason)
        self.provider_code = provider_code


class TokenRefused(NotEntitled):
    """The session has ended: the day did, or somebody logged in with the same key."""


class _Error(msgspec.Struct, frozen=True):
    type: str = ""
    code: str = ""
    description: str = ""


class Login:
    """One session. subscribed: instruments that the server sends to it, with the kind of message: they belong to the
    session, not to a connection. ended: set when it is known to have ended."""

    def __init__(self, token: str, user_id: str) -> None:
        self.token = token
        self.user_id = user_id
        self.subscribed: dict[Key, int] = {}
        self.ended = asyncio.Event()


class XtsSession:
    """Shared by all parts of the provider; `close` releases its connections."""

    def __init__(
        self,
        config: XtsConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self.http = HttpClient(
            NAME,
            config.rest_url.rstrip("/"),
            config.http,
            clock,
            secrets=(config.secret_key or "", config.app_key or ""),
            classify=_classify,
            budget=budget,
            metrics=metrics,
            rng=rng,
        )
        pace = msgspec.structs.asdict(config.pace) if budget is None else {}
        self._paces = {endpoint: RateLimit(per_s, 1, clock) for endpoint, per_s in pace.items()}
        self._lock = asyncio.Lock()
        self._login: Login | None = None
        self._renewed_ns: int | None = None
        self.ever = False
        """Whether a login was ever accepted: if not, the keys are wrong."""

    async def close(self) -> None:
        """Idempotent. The session itself is left to the server, which ends it with the day."""
        await self.http.close()

    async def login(self) -> Login:
        """The session, begun if there is none. Raises NotEntitled, SourceUnavailable, MalformedMessage."""
        async with self._lock:
            if self._login is None:
                self._login = await self._log_in()
            return self._login

    def end(self, login: Login) -> None:
        """This session has ended, as the server says."""
        login.ended.set()
        if self._login is login:
            self._login = None

    async def _log_in(self) -> Login:
        now_ns = self._clock.monotonic_ns()
        if self.ever:
            wait_ns = round(self._config.relogin_after_s * NS_PER_S)
            if self._renewed_ns is not None and now_ns - self._renewed_ns < wait_ns:
                reason = "the session ended again right after it was renewed; does something else log in with this key?"
                raise SourceUnavailable(NAME, reason, (self._renewed_ns + wait_ns - now_ns) / NS_PER_S)
            self._renewed_ns = now_ns
        config = self._config
        body = {"appKey": config.app_key, "secretKey": config.secret_key, "source": config.application}
        try:
            answer = await self._request("POST", "/auth/login", "login", json=body)
        except Refused as error:
            raise NotEntitled(NAME, error.reason) from None
        found = self.http.decode(answer, Reply[LoggedIn], "POST login").result
        self.http.add_secret(found.token)
        self.ever = True
        return Login(found.token, found.user_id)

    async def call(
        self,
        method: str,
        path: str,
        as_type: type[T],
        *,
        endpoint: str,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
    ) -> T:
        """The `result` of an answer. path: below `XtsConfig.path`. Raises what `HttpClient.request` raises, `Refused`,
        and `TokenRefused` if a new session is refused too."""
        for attempt in (1, 2):
            login = await self.login()
            headers = {"authorization": login.token}
            try:
                answer = await self._request(method, path, endpoint, params=params, headers=headers, json=json)
            except TokenRefused:
                self.end(login)
                if attempt == 2:
                    raise
            else:
                reply: Reply[T] = self.http.decode(answer, Reply[as_type], f"{method} {path}")  # type: ignore[valid-type]
                return reply.result
        raise AssertionError("unreachable")

    async def _request(
        self,
        method: str,
        path: str,
        endpoint: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> Answer:
        pace = self._paces.get(endpoint)
        if pace is not None:
            await pace.take()
        return await self.http.request(
            method, self._config.path + path, params=params, headers=headers, json=json, endpoint=endpoint
        )


def _classify(answer: Answer) -> SourceError | None:
    """Errors come as 400 (also for a token that has ended), sometimes as 200, with their own code inside."""
    if answer.status < 300 and b'"error"' not in answer.body[:_ERROR_BEGINS]:
        return None
    if answer.status >= 500 or answer.status in (402, 403, 408, 429) or 300 <= answer.status < 400:
        return None
    try:
        error = msgspec.json.decode(answer.body, type=_Error)
    except (ValueError, RecursionError):
        error = _Error()
    reason = f"HTTP {answer.status}: {error.code} {error.description}".rstrip()
    if error.code in _TOKEN_CODES or answer.status == 401 or _TOKEN_WORDS.search(error.description):
        return TokenRefused(NAME, reason)
    if error.type != "error" and not error.code:
        return None
    if _TOO_MANY_WORDS.search(error.description):
        return Throttled(NAME, reason)
    return Refused(NAME, reason, error.code)
