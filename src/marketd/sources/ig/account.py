"""One login to IG, shared by requests and the stream, and the errors of IG in our words.

IG locks an account after repeated failures to log in. So a refused login is final for this object; a refused token is
answered with one login and one more attempt, and no login follows another such one within `relogin_after_s`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from marketd.clock import Clock
from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model.time import NS_PER_S
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.sources.ig.config import IgConfig
from marketd.sources.ig.parse import NAME, ErrorAnswer, LoginAnswer
from marketd.telemetry import Metrics

__all__ = ["HistoryAllowanceSpent", "IgAccount", "Tokens"]

T = TypeVar("T")

_MINUTE_S = 60.0
_UNAUTHORISED = 401


class _Refused(NotEntitled):
    """IG's own refusal, and not that of a gateway before it."""


class _TokenRefused(_Refused):
    """A token is not accepted, or not any more."""


class _JustRenewed(SourceUnavailable):
    """Another login would come too soon after the last."""


class HistoryAllowanceSpent(_Refused):
    """The week's bars are used up. Everything else goes on. `history` knows until when."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a login gave. timezone_offset: hours of the account's local time before UTC. stream_url: where to stream."""

    client: str
    security: str
    account_id: str
    timezone_offset: float
    stream_url: str

    def __repr__(self) -> str:
        return f"Tokens({self.account_id!r})"


_ERROR = msgspec.json.Decoder(ErrorAnswer)

_KINDS: tuple[tuple[str, type[SourceError]], ...] = (
    ("account-historical-data-allowance", HistoryAllowanceSpent),
    ("-allowance", Throttled),
    ("client-token", _TokenRefused),
    ("account-token", _TokenRefused),
    ("oauth-token", _TokenRefused),
    ("epic-not-found", SymbolNotFound),
    ("epic.unavailable", SymbolNotFound),
    ("invalid.daterange", OutOfRange),
    ("price-history.io-error", SourceUnavailable),
    ("error.security.", _Refused),
    ("kyc.required", _Refused),
    ("unauthorised", _Refused),
    ("unavailable.for.api-key", _Refused),
    ("stockbroking-not-supported", _Refused),
)
"""Part of an error code → what it is; the first that fits."""


def classify(answer: Answer) -> SourceError | None:
    """Of what `HttpClient` cannot know: IG says which refusal it is in the body."""
    if 200 <= answer.status < 300:
        return None
    code = _code(answer)
    reason = f"HTTP {answer.status}: {code}"
    for part, kind in _KINDS if code else ():
        if part in code:
            if kind is Throttled:
                return Throttled(NAME, reason, _MINUTE_S)  # it is counted by the minute; no Retry-After is sent
            return kind(NAME, reason)
    if answer.status == _UNAUTHORISED:
        return _TokenRefused(NAME, reason)
    return None


def _code(answer: Answer) -> str:
    """The error code, an empty text if there is none."""
    try:
        code = _ERROR.decode(answer.body).errorCode
    except (ValueError, RecursionError):
        return ""
    return code[:200]


class IgAccount:
    """One account. Use `get` for requests, `tokens` for what a login gave. Its owner closes it.

    logins: how often it logged in.
    """

    def __init__(
        self,
        config: IgConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._http = HttpClient(
            NAME,
            config.rest_url,
            config.http,
            clock,
            headers={
                "X-IG-API-KEY": config.api_key or "",
                "Accept": "application/json; charset=UTF-8",
                "Content-Type": "application/json; charset=UTF-8",
            },
            secrets=tuple(filter(None, (config.api_key, config.password, config.username))),
            classify=classify,
            budget=budget,
            metrics=metrics,
            rng=rng,
        )
        self._tokens: Tokens | None = None
        self._final: NotEntitled | None = None
        self._turn = asyncio.Lock()
        self._renewed_ns: int | None = None
        self.logins = 0

    async def close(self) -> None:
        """Release the connections. The session is left to run out: the stream may still be on it."""
        await self._http.close()

    async def tokens(self, *, refused: Tokens | None = None) -> Tokens:
        """Those of the present login, after one if there is none or the present ones are `refused`.

        Raises NotEntitled when IG refused the login (it is not tried again), SourceUnavailable, MalformedMessage.
        """
        async with self._turn:
            if self._tokens is not None and self._tokens is not refused:
                return self._tokens
            if self._final is not None:
                raise self._final
            if refused is not None:
                self._may_renew()
            self._tokens = await self._login()
            return self._tokens

    def _may_renew(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._renewed_ns is not None and now_ns - self._renewed_ns < self._config.relogin_after_s * NS_PER_S:
            left_s = self._config.relogin_after_s - (now_ns - self._renewed_ns) / NS_PER_S
            raise _JustRenewed(NAME, "the tokens of a new login are refused too", left_s)
        self._renewed_ns = now_ns

    async def _login(self) -> Tokens:
        identity = {"identifier": self._config.username, "password": self._config.password}
        try:
            answer = await self._http.request(
                "POST", "/session", headers={"Version": "2"}, json=identity, endpoint="session"
            )
        except NotEntitled as error:
            if not isinstance(error, _Refused):
                raise SourceUnavailable(NAME, error.reason) from None
            reason = f"{error.reason}: login refused; not tried again, since repeated failures lock the account"
            self._final = NotEntitled(NAME, reason)
            raise self._final from None
        found = self._http.decode(answer, LoginAnswer, "POST /session")
        client, security = answer.headers.get("cst"), answer.headers.get("x-security-token")
        if not client or not security:
            raise MalformedMessage(NAME, "POST /session: no tokens in the answer's headers")
        self._http.add_secret(client)
        self._http.add_secret(security)
        url = self._config.stream_url or found.lightstreamer_endpoint
        if not url.startswith(("https://", "http://")):
            raise MalformedMessage(NAME, "POST /session: lightstreamerEndpoint is no URL")
        self.logins += 1
        return Tokens(
            client=client,
            security=security,
            account_id=found.current_account_id,
            timezone_offset=found.timezone_offset,
            stream_url=url,
        )

    async def get(
        self,
        path: str,
        as_type: type[T],
        params: Mapping[str, str | int] | None = None,
        *,
        version: int,
        endpoint: str,
    ) -> T:
        """See `HttpClient.get_json`. version: of the endpoint. A refused token is renewed once."""
        tokens = await self.tokens()
        try:
            return await self._get(tokens, path, as_type, params, version, endpoint)
        except _TokenRefused as error:
            try:
                renewed = await self.tokens(refused=tokens)
            except _JustRenewed as too_soon:
                raise NotEntitled(NAME, f"{error.reason}: {too_soon.reason}") from None
        return await self._get(renewed, path, as_type, params, version, endpoint)

    async def _get(
        self,
        tokens: Tokens,
        path: str,
        as_type: type[T],
        params: Mapping[str, str | int] | None,
        version: int,
        endpoint: str,
    ) -> T:
        headers = {"Version": str(version), "CST": tokens.client, "X-SECURITY-TOKEN": tokens.security}
        return await self._http.get_json(path, as_type, params, headers=headers, endpoint=endpoint)
