"""The one HTTP client: a provider's requests with its rate limit, retries and errors in our words.

Owns timeouts, the rate limit, waits between attempts, and the translation of every failure into
`SourceError`. Refuses to say a URL's query, a header or a secret in any message, and to follow redirects
(a redirect could carry a key elsewhere). A provider builds one client and shares it among its parts, so that
one limit holds for all of them. How bytes travel is a `Transport`: aiohttp's, unless a provider brings its own.

Where a `RequestBudget` is given, the same quota is shared with everything else that asks this provider. A live request
is then tried once, since whoever routes it has others to ask; `PRIORITY` says for whom a request is made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import msgspec

from marketd import __version__
from marketd.clock import Clock
from marketd.errors import (
    InvalidInput,
    MalformedMessage,
    NotEntitled,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    Throttled,
)
from marketd.model.time import NS_PER_S
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "PRIORITY",
    "USER_AGENT",
    "Answer",
    "BodyTooLarge",
    "HttpClient",
    "HttpConfig",
    "Priority",
    "RateLimit",
    "RequestBudget",
    "Transport",
    "aiohttp_transport",
]

USER_AGENT = f"marketd/{__version__}"

T = TypeVar("T")

_SHOWN_BODY = 200
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS = 408, 429
_NOT_ENTITLED = (401, 402, 403)

Priority = Literal["live", "sweep", "backfill"]

PRIORITY: ContextVar[Priority] = ContextVar("priority", default="live")
"""For whom requests are made in this task: live ones go first when a quota gets short."""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """timeout_s: of one attempt, connection to last byte. attempts: at most so many for one answer.

    requests_per_s, burst: the rate limit. retry: the waits between attempts. retry_after_max_s: a provider
    that asks for a longer pause is not waited for; the caller is told instead. body_max_bytes: larger answers
    are refused. proxy: URL of an HTTP proxy; None is none.
    """

    timeout_s: float = 10.0
    attempts: int = 4
    requests_per_s: float = 10.0
    burst: int = 10
    retry: ReconnectPolicy = ReconnectPolicy(delay_first_s=0.5, delay_max_s=10.0)
    retry_after_max_s: float = 30.0
    body_max_bytes: int = 32 * 1024 * 1024
    proxy: str | None = None

    def __post_init__(self) -> None:
        for field in ("timeout_s", "requests_per_s", "body_max_bytes"):
            if not getattr(self, field) > 0:
                raise InvalidInput(field, getattr(self, field), "a number above 0")
        for field in ("attempts", "burst"):
            if getattr(self, field) < 1:
                raise InvalidInput(field, getattr(self, field), "a whole number from 1")
        if not self.retry_after_max_s >= 0:
            raise InvalidInput("retry_after_max_s", self.retry_after_max_s, "a number from 0")
        if self.proxy is not None and not self.proxy.startswith("http://"):
            raise InvalidInput("proxy", "…", "a URL such as http://proxy:3128")  # it may hold a password


class RateLimit:
    """At most `burst` at once and `per_s` in the long run, in the order of asking.

    Keeps one number, the time at which the next turn is due if nothing is saved up (GCRA).
    """

    def __init__(self, per_s: float, burst: int, clock: Clock) -> None:
        self._step_ns = round(NS_PER_S / per_s)
        self._saved_ns = (burst - 1) * self._step_ns
        self._clock = clock
        self._due_ns = clock.monotonic_ns() - self._saved_ns

    async def take(self) -> None:
        """Return when it is the caller's turn. A turn that is cancelled while it waits is spent."""
        now_ns = self._clock.monotonic_ns()
        due_ns = max(self._due_ns, now_ns - self._saved_ns)
        self._due_ns = due_ns + self._step_ns
        if due_ns > now_ns:
            await self._clock.sleep((due_ns - now_ns) / NS_PER_S)

    def pause(self, seconds: float) -> None:
        """No turn before `seconds` from now: the provider said so."""
        self._due_ns = max(self._due_ns, self._clock.monotonic_ns() + round(seconds * NS_PER_S))


class Answer(msgspec.Struct, frozen=True):
    """What came back, whatever its status. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body's beginning, for messages and for telling HTML from JSON."""
        return self.body[:1_000].decode("utf-8", "replace")


class BodyTooLarge(Exception):
    """An answer is larger than is allowed; the rest was not read."""


class Transport(Protocol):
    """Carries one request. Follows no redirects."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        """Raises TimeoutError, OSError (its words are shown: no URL in them) or BodyTooLarge."""
        ...

    async def close(self) -> None: ...


def aiohttp_transport(config: HttpConfig) -> Transport:
    """What a client uses that is given none, for a provider that wraps it."""
    return _Aiohttp(config)


class RequestBudget(Protocol):
    """What a provider allows, shared by all that ask it."""

    async def take(self, endpoint: str, weight: int) -> None:
        """Return when it is this request's turn, by `PRIORITY`. Raises Throttled when it would wait too long."""
        ...

    def answered(self, endpoint: str, answer: Answer) -> None:
        """Learn from what the answer says of its limits."""
        ...

    def throttled(self, endpoint: str, retry_after_s: float | None) -> None:
        """The provider said that it was too much, and for how long."""
        ...


class HttpClient:
    """Requests to one provider. Use as an async context, or call `close`.

    source: the provider's name in errors. base_url: without a trailing slash. headers: sent with every
    request. secrets: texts that are cut out of everything this client says. classify: gets every answer (also with
    status 200) and returns the error that it is (its reason without method and path, which are put before it), or None
    to have it judged by its status. budget, metrics: shared with
    the rest of the server. transport: None for aiohttp.
    """

    def __init__(
        self,
        source: str,
        base_url: str,
        config: HttpConfig,
        clock: Clock,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        classify: Callable[[Answer], SourceError | None] | None = None,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
        transport: Transport | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._source = source
        self._base_url = base_url.rstrip("/")
        self._config = config
        self._clock = clock
        self._headers = {"User-Agent": USER_AGENT, "Accept": "application/json", **(headers or {})}
        self._secrets = tuple(secret for secret in secrets if secret)
        self._classify = classify
        self._budget = budget
        self._metrics = metrics
        self._transport = transport or _Aiohttp(config)
        self._rng = rng or random.Random()
        self._limit = RateLimit(config.requests_per_s, config.burst, clock)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Idempotent; requests raise SourceUnavailable afterwards."""
        self._closed = True
        await self._transport.close()

    def add_secret(self, text: str) -> None:
        """Cut this out too (a token that was given by a login)."""
        if text and text not in self._secrets:
            self._secrets = (*self._secrets, text)

    async def get_json(
        self,
        path: str,
        as_type: type[T],
        params: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        weight: int = 1,
    ) -> T:
        """GET `path` and decode the answer's JSON as `as_type`. See `request`; raises MalformedMessage too (not JSON,
        or of another shape)."""
        answer = await self.request("GET", path, params=params, headers=headers, endpoint=endpoint, weight=weight)
        return self.decode(answer, as_type, f"GET {path}")

    def decode(self, answer: Answer, as_type: type[T], what: str) -> T:
        """The answer's JSON. what: of what, for the error. Raises MalformedMessage."""
        try:
            return msgspec.json.decode(answer.body, type=as_type)
        except (ValueError, RecursionError) as error:
            payload = self._redact(answer.text)
            raise MalformedMessage(self._source, f"{what}: {self._redact(str(error))}", payload) from None

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        endpoint: str | None = None,
        weight: int = 1,
    ) -> Answer:
        """The answer to one request, of status 2xx. json: the body, encoded here. endpoint: what is counted under in
        metrics and quotas, a few words for all paths that differ by symbol only; weight: what it costs there.

        Tries again what may be cured by it, within `HttpConfig.attempts`. Raises SourceUnavailable (network,
        timeout, 5xx, 408), Throttled (429), the three with `retry_after_s` if it was told, NotEntitled (401, 402, 403),
        SourceRejected (any other status that is not 2xx), MalformedMessage (too large), and what `classify` says.
        """
        label = endpoint or "request"
        failures = 0
        while True:
            if self._budget is not None:
                await self._budget.take(label, weight)
            await self._limit.take()
            try:
                return await self._once(method, path, params, headers, json, label)
            except SourceUnavailable as error:
                pause_s = error.retry_after_s or 0.0
                if self._is_last(error, failures, pause_s):
                    raise
                await self._clock.sleep(max(self._config.retry.delay_s(failures, self._rng), pause_s))
                failures += 1

    def _is_last(self, error: SourceUnavailable, failures: int, pause_s: float) -> bool:
        routed = self._budget is not None and (isinstance(error, Throttled) or PRIORITY.get() == "live")
        spent = failures + 1 >= self._config.attempts or pause_s > self._config.retry_after_max_s
        return routed or spent or self._closed

    async def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
        json: Any,
        label: str,
    ) -> Answer:
        began_ns = self._clock.monotonic_ns()
        try:
            answer = await self._sent(method, path, params, headers, json)
            self._judge(method, path, answer, label)
        except SourceError as error:
            if self._metrics is not None:
                self._metrics.provider_errors.labels(self._source, label, error.code).inc()
            raise
        finally:
            if self._metrics is not None:
                took_ms = (self._clock.monotonic_ns() - began_ns) / 1e6
                self._metrics.provider_latency.labels(self._source, label).observe(took_ms)
        return answer

    async def _sent(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
        json: Any,
    ) -> Answer:
        if self._closed:
            raise SourceUnavailable(self._source, "the client was closed")
        sent_headers = {**self._headers, **(headers or {})}
        body = None
        if json is not None:
            body = msgspec.json.encode(json)
            sent_headers.setdefault("Content-Type", "application/json; charset=UTF-8")
        what = f"{method} {path}"
        try:
            return await self._transport.request(
                method, self._base_url + path, params=params, headers=sent_headers, body=body
            )
        except TimeoutError:
            reason = self._redact(f"{what}: no answer within {self._config.timeout_s:g} s")
            raise SourceUnavailable(self._source, reason) from None
        except OSError as error:
            raise SourceUnavailable(self._source, self._redact(f"{what}: {error}")) from None
        except BodyTooLarge:
            reason = self._redact(f"{what}: the answer is larger than {self._config.body_max_bytes} bytes")
            raise MalformedMessage(self._source, reason) from None

    def _judge(self, method: str, path: str, answer: Answer, label: str) -> None:
        if self._budget is not None:
            self._budget.answered(label, answer)
        error = self._classify(answer) if self._classify is not None else None
        if error is None:
            error = self._by_status(method, path, answer)
        else:
            self._clean(error, f"{method} {path}: ")
        if isinstance(error, Throttled):
            if self._budget is not None:
                self._budget.throttled(label, error.retry_after_s)
            if error.retry_after_s is not None:
                self._limit.pause(min(error.retry_after_s, self._config.retry_after_max_s))
        if error is not None:
            raise error

    def _by_status(self, method: str, path: str, answer: Answer) -> SourceError | None:
        status = answer.status
        if 200 <= status < 300:
            return None
        reason = self._redact(f"{method} {path}: HTTP {status}: {answer.text[:_SHOWN_BODY]}")
        if status == _TOO_MANY_REQUESTS:
            return Throttled(self._source, reason, self.retry_after_s(answer))
        if status == _REQUEST_TIMEOUT or status >= 500:
            return SourceUnavailable(self._source, reason, self.retry_after_s(answer))
        if status in _NOT_ENTITLED:
            return NotEntitled(self._source, reason)
        return SourceRejected(self._source, reason)

    def retry_after_s(self, answer: Answer) -> float | None:
        """Of the header Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
        text = answer.headers.get("retry-after")
        if text is None:
            return None
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            then = parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0.0, then.timestamp() - self._clock.time_ns() / NS_PER_S)

    def _clean(self, error: SourceError, before: str) -> None:
        reason = error.reason
        error.reason = self._redact(before + reason)
        error.args = tuple(
            error.reason if arg == reason else self._redact(arg) if isinstance(arg, str) else arg for arg in error.args
        )

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


class _Aiohttp:
    """Implements `Transport`. Its session is made with the first request, in the loop that uses it."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        import aiohttp  # here, because reading a configuration needs this module but no HTTP

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._config.timeout_s))
        try:
            async with self._session.request(
                method,
                url,
                params=params,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._config.proxy,
            ) as answer:
                found = {name.lower(): value for name, value in answer.headers.items()}
                return Answer(answer.status, found, await self._read(answer))
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            # no str(error): aiohttp's errors hold the whole URL
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            words = (isinstance(cause, OSError) and cause.strerror) or "connection failed"
            raise ConnectionError(f"{type(error).__name__}: {words}") from None

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._config.body_max_bytes:
                raise BodyTooLarge
        return bytes(body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
