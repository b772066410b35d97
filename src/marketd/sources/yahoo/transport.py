"""HTTP that greets servers as a browser does, by curl_cffi: Yahoo turns away what greets as a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curl_cffi import CurlECode, CurlOpt
from curl_cffi.requests import AsyncSession, Response
from curl_cffi.requests.exceptions import RequestException

from marketd.sources.http import Answer, BodyTooLarge, HttpConfig

__all__ = ["CurlTransport"]

_STOP = 0xFFFFFFFF
"""What a write callback answers to end the transfer (CURL_WRITEFUNC_ERROR)."""

_OF_THE_BROWSER = ("user-agent", "accept")


class CurlTransport:
    """Implements `Transport`. impersonate: which browser, as curl_cffi names them; the headers that tell one are its.

    Keeps no cookies and reads no environment. The session is made with the first request, in the loop that uses it.
    """

    def __init__(self, config: HttpConfig, impersonate: str) -> None:
        self._config = config
        self._impersonate = impersonate
        self._session: AsyncSession[Response] | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        """See `Transport.request`. Headers that came more than once are joined by line breaks."""
        if self._session is None:
            self._session = AsyncSession(
                impersonate=self._impersonate,
                trust_env=False,
                allow_redirects=False,
                timeout=self._config.timeout_s,
                proxy=self._config.proxy,
                curl_options={CurlOpt.MAXFILESIZE_LARGE: self._config.body_max_bytes},
            )
        verb: Any = method
        received = bytearray()

        def receive(chunk: bytes) -> int:
            received.extend(chunk)
            return len(chunk) if len(received) <= self._config.body_max_bytes else _STOP

        try:
            answer = await self._session.request(
                verb,
                url,
                params={name: str(value) for name, value in (params or {}).items()},
                headers={name: value for name, value in headers.items() if name.lower() not in _OF_THE_BROWSER},
                data=body,
                content_callback=receive,
                discard_cookies=True,
            )
        except RequestException as error:
            if error.code == CurlECode.OPERATION_TIMEDOUT:
                raise TimeoutError from None
            if error.code == CurlECode.FILESIZE_EXCEEDED or len(received) > self._config.body_max_bytes:
                raise BodyTooLarge from None
            # no str(error): it may hold the URL
            raise ConnectionError(f"{type(error).__name__}: curl ended with {int(error.code)}") from None
        found: dict[str, str] = {}
        for name, value in answer.headers.multi_items():
            key = name.lower()
            found[key] = f"{found[key]}\n{value}" if key in found else str(value)
        return Answer(answer.status_code, found, bytes(received))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
