"""The one HTTP client: a provider's requests with its rate limit, retries and errors in our words.

Owns timeouts, the rate limit, waits between attempts, and the translation of every failure into
`SourceError`. Refuses to say a URL's query, a header or a secret in any message, and to follow redirects
(a redirect could carry a key elsewhere). A provider builds one client and shares it among its parts, so that
one limit holds for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from marketd import __version__
from marketd.clock import Clock
from marketd.errors import InvalidInput, MalformedPayload, SourceRejected, SourceUnavailable
from marketd.model.time import NS_PER_S
from marketd.sources.reconnect import ReconnectPolicy

if TYPE_CHECKING:
    import aiohttp

__all__ = ["USER_AGENT", "HttpClient", "HttpConfig", "RateLimit"]

USER_AGENT = f"marketd/{__version__}"

T = TypeVar("T")

_SHOWN_BODY = 200
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS = 408, 429


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


class HttpClient:
    """Requests to one provider. Use as an async context, or call `close`.

    source: the provider's name in errors. base_url: without a trailing slash. headers: sent with every
    request. secrets: texts that are cut out of everything this client says.
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
        rng: random.Random | None = None,
    ) -> None:
        self._source = source
        self._base_url = base_url.rstrip("/")
        self._config = config
        self._clock = clock
        self._headers = {"User-Agent": USER_AGENT, "Accept": "application/json", **(headers or {})}
        self._secrets = tuple(secret for secret in secrets if secret)
        self._rng = rng or random.Random()
        self._limit = RateLimit(config.requests_per_s, config.burst, clock)
        self._session: aiohttp.ClientSession | None = None
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
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get_json(self, path: str, as_type: type[T], params: Mapping[str, str | int] | None = None) -> T:
        """GET `path` and decode the answer's JSON as `as_type`.

        Tries again what may be cured by it, within `HttpConfig.attempts`. Raises SourceUnavailable (network,
        timeout, 5xx, 408, 429, the last two with `retry_after_s` if it was told), SourceRejected (any other
        status that is not 2xx), MalformedPayload (not JSON, or of another shape).
        """
        failures = 0
        while True:
            await self._limit.take()
            try:
                body = await self._get(path, params)
                break
            except SourceUnavailable as error:
                pause_s = error.retry_after_s or 0.0
                if failures + 1 >= self._config.attempts or pause_s > self._config.retry_after_max_s or self._closed:
                    raise
                await self._clock.sleep(max(self._config.retry.delay_s(failures, self._rng), pause_s))
                failures += 1
        try:
            return msgspec.json.decode(body, type=as_type)
        except (ValueError, RecursionError) as error:
            raise MalformedPayload(self._source, f"GET {path}: {error}", self._redact(_text(body))) from None

    async def _get(self, path: str, params: Mapping[str, str | int] | None) -> bytes:
        import aiohttp  # here, because reading a configuration needs this module but no HTTP

        if self._closed:
            raise SourceUnavailable(self._source, "the client was closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers, timeout=aiohttp.ClientTimeout(total=self._config.timeout_s)
            )
        try:
            async with self._session.get(
                self._base_url + path, params=params, allow_redirects=False, proxy=self._config.proxy
            ) as answer:
                body = await self._read(answer, path)
        except TimeoutError:
            raise SourceUnavailable(
                self._source, f"GET {path}: no answer within {self._config.timeout_s:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            # `from None`, and no str(error): aiohttp's errors hold the whole URL
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            words = (isinstance(cause, OSError) and cause.strerror) or "connection failed"
            reason = self._redact(f"GET {path}: {type(error).__name__}: {words}")
            raise SourceUnavailable(self._source, reason) from None
        status = answer.status
        if 200 <= status < 300:
            return body
        reason = self._redact(f"GET {path}: HTTP {status}: {_text(body)[:_SHOWN_BODY]}")
        if status in (_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS) or status >= 500:
            retry_after_s = self._retry_after_s(answer.headers.get("Retry-After"))
            if status == _TOO_MANY_REQUESTS and retry_after_s is not None:
                self._limit.pause(min(retry_after_s, self._config.retry_after_max_s))
            raise SourceUnavailable(self._source, reason, retry_after_s)
        raise SourceRejected(self._source, reason)

    async def _read(self, answer: aiohttp.ClientResponse, path: str) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > self._config.body_max_bytes:
                raise MalformedPayload(
                    self._source, f"GET {path}: the answer is larger than {self._config.body_max_bytes} bytes"
                )
        return bytes(body)

    def _retry_after_s(self, text: str | None) -> float | None:
        """Of the header Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
        if text is None:
            return None
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            then = parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0.0, then.timestamp() - self._clock.time_ns() / NS_PER_S)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def _text(body: bytes) -> str:
    return body[:1_000].decode("utf-8", "replace")
