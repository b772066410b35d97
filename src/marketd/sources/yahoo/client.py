"""Requests to Yahoo: one client for all parts, with the cookie and crumb that quotes and options ask for.

Charts need neither. A cookie is given by a page at another address, with an error page around it; with it a crumb is
asked for, which goes into every further request. A request that is refused gets a fresh pair once. Yahoo says neither
what is too much nor for how long to be silent after it said so; the silence is doubled each time until something is
answered.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from marketd.clock import Clock
from marketd.errors import ConfigError, MalformedMessage, NotEntitled, SourceError, SourceRejected, Throttled
from marketd.sources.http import Answer, HttpClient, RequestBudget, Transport, aiohttp_transport
from marketd.sources.yahoo.config import YahooConfig
from marketd.sources.yahoo.parse import NAME, Refusal, refused
from marketd.telemetry import Metrics

__all__ = ["YahooClient"]

T = TypeVar("T")

_TOO_MANY = (429, 999)
"""999 is what Yahoo's older servers say."""
_SHOWN = 200
_COOKIE = re.compile(r"\b(A3=[^;,\s]+)")
_CRUMB = re.compile(r"[^\s<>{}\[\]\"]{1,64}")
_CONSENT = re.compile(r"(?:^|\.)(?:consent|guce)\.yahoo\.com$")


class _Refused(msgspec.Struct, frozen=True):
    error: Refusal | None = None


_REFUSED = msgspec.json.Decoder(dict[str, _Refused])


class _Pass(msgspec.Struct, frozen=True):
    """What quotes and options ask for."""

    cookie: str
    crumb: str

    def __repr__(self) -> str:
        return "_Pass(…)"


class YahooClient:
    """Shared by all parts of the provider; `close` releases its connections. Made outside of a loop."""

    def __init__(
        self,
        config: YahooConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._config = config
        transport = _transport(config)
        self._http = HttpClient(
            NAME,
            config.rest_url,
            config.http,
            clock,
            secrets=() if config.cookie is None else (config.cookie,),
            classify=self._classify,
            budget=budget,
            metrics=metrics,
            transport=transport,
        )
        self._door = HttpClient(
            NAME,
            config.cookie_url,
            config.http,
            clock,
            classify=self._classify,
            budget=budget,
            metrics=metrics,
            transport=_Door(transport, self),
        )
        self.cookie: str | None = config.cookie
        self._pass: _Pass | None = None
        self._renewing = asyncio.Lock()
        self._throttled = 0

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()
        await self._door.close()

    async def get(self, path: str, symbol: str, as_type: type[T], params: Mapping[str, str | int], endpoint: str) -> T:
        """An answer that needs no pass, about one of Yahoo's symbols. Raises what `HttpClient.get_json` raises."""
        return await self._http.get_json(f"{path}/{quote(symbol, safe='')}", as_type, params, endpoint=endpoint)

    async def get_with_pass(
        self, path: str, symbol: str | None, as_type: type[T], params: Mapping[str, str | int], endpoint: str
    ) -> T:
        """An answer that needs one. Raises what `HttpClient.get_json` raises."""
        if symbol is not None:
            path = f"{path}/{quote(symbol, safe='')}"
        held = await self._renewed(None)
        try:
            return await self._get(path, as_type, params, endpoint, held)
        except NotEntitled:
            held = await self._renewed(held)
        return await self._get(path, as_type, params, endpoint, held)

    async def _get(self, path: str, as_type: type[T], params: Mapping[str, str | int], endpoint: str, held: _Pass) -> T:
        return await self._http.get_json(
            path, as_type, {**params, "crumb": held.crumb}, headers={"Cookie": held.cookie}, endpoint=endpoint
        )

    async def _renewed(self, refused_one: _Pass | None) -> _Pass:
        """A pass other than the one that was refused; many who ask at once get the same."""
        async with self._renewing:
            if self._pass is None or self._pass is refused_one:
                self._pass = None
                self._pass = await self._ask_for_pass()
            return self._pass

    async def _ask_for_pass(self) -> _Pass:
        if self._config.cookie is None:
            self.cookie = None
            answer = await self._door.request("GET", "/", endpoint="cookie")
            if self.cookie is None:
                raise MalformedMessage(NAME, f"GET {self._config.cookie_url}: no cookie A3", answer.text)
            self._http.add_secret(self.cookie)
        cookie = self.cookie
        assert cookie is not None, "configured, or just given"
        answer = await self._http.request("GET", "/v1/test/getcrumb", headers={"Cookie": cookie}, endpoint="crumb")
        crumb = answer.text.strip()
        if "Too Many Requests" in crumb:
            raise self._too_many(f"GET /v1/test/getcrumb: {crumb[:_SHOWN]}", None)
        if _CRUMB.fullmatch(crumb) is None:
            raise MalformedMessage(NAME, "GET /v1/test/getcrumb: no crumb", answer.text)
        self._http.add_secret(crumb)
        return _Pass(cookie, crumb)

    def _classify(self, answer: Answer) -> SourceError | None:
        """Of what `HttpClient` cannot know: Yahoo's own words, its silence after 429, and the page for consent."""
        status = answer.status
        if status in _TOO_MANY:
            return self._too_many(f"HTTP {status}: {answer.text[:_SHOWN]}", self._http.retry_after_s(answer))
        if 200 <= status < 300:
            self._throttled = 0
            return None
        if 300 <= status < 400 and _CONSENT.search(urlsplit(answer.headers.get("location", "")).hostname or ""):
            return SourceRejected(
                NAME, "asks for consent to its terms first; set `cookie` to that of a browser that agreed"
            )
        if 400 <= status < 500:
            try:
                bodies = _REFUSED.decode(answer.body).values()
            except (ValueError, RecursionError):
                return None
            refusal = next((body.error for body in bodies if body.error is not None), None)
            if refusal is not None:
                error = refused(refusal)
                # a code that says nothing: its status does
                return error if type(error) is not SourceRejected else None
        return None

    def _too_many(self, reason: str, told_s: float | None) -> Throttled:
        if told_s is None:
            told_s = min(self._config.throttle_first_s * 2.0 ** min(self._throttled, 32), self._config.throttle_max_s)
        self._throttled += 1
        return Throttled(NAME, reason, told_s)


class _Door:
    """Implements `Transport`: takes the cookie out of an answer, whose status then says nothing."""

    def __init__(self, transport: Transport, owner: YahooClient) -> None:
        self._transport = transport
        self._owner = owner

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        answer = await self._transport.request(method, url, params=params, headers=headers, body=body)
        found = _COOKIE.search(answer.headers.get("set-cookie", ""))
        if found is None:
            return answer
        self._owner.cookie = found[1]
        return Answer(200, answer.headers, b"")

    async def close(self) -> None:
        await self._transport.close()


def _transport(config: YahooConfig) -> Transport:
    if config.transport == "aiohttp":
        return aiohttp_transport(config.http)
    try:
        from marketd.sources.yahoo.transport import CurlTransport
    except ImportError as error:
        allowed = f"`pip install marketd[yahoo]` first ({error}), or `aiohttp`"
        raise ConfigError("sources.yahoo", "transport", config.transport, allowed) from error
    return CurlTransport(config.http, config.impersonate)
