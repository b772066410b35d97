"""A connection to Redis, with its failures in our words.

Owns what every user of Redis needs alike: short timeouts, no retries of its own (the caller decides, and must know
at once), errors that are StoreError and show no password. What is kept in Redis belongs to the modules that use this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from marketd.errors import ConfigError, InvalidInput, StoreError

__all__ = ["checked", "connect_redis", "without_secrets"]

_T = TypeVar("_T")

_CONNECT_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 2.0


def without_secrets(url: str) -> str:
    """Scheme, host, port and path: a URL's user, password and query stay out of every message."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "redis"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}" if parts.scheme else "redis"


def connect_redis(url: str, purpose: str) -> Any:
    """A `redis.asyncio.Redis` that connects with its first call. purpose: what needs it, for the error.

    Raises ConfigError without the extra ``marketd[redis]``, InvalidInput for a URL that is none.
    """
    where = without_secrets(url)
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        allowed = f"the package redis, which the {purpose} in Redis needs: pip install 'marketd[redis]'"
        raise ConfigError(purpose, "redis_url", where, allowed) from error
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        # Without its cause, whose words may hold the URL.
        raise InvalidInput("redis_url", where, "redis://, rediss:// or unix:// and where the server is") from None


async def checked(call: Awaitable[_T], where: str) -> _T:
    """Await a client's call; whatever it raises is a StoreError. Which classes these are, every client decides.

    redis-py can turn a cancellation into an error of the connection, or into an answer; the task would live on.
    """
    task = asyncio.current_task()
    assert task is not None
    cancelled_before = task.cancelling()
    try:
        answer = await call
    except Exception as error:
        if task.cancelling() > cancelled_before:
            raise asyncio.CancelledError from error
        raise StoreError(where, f"{type(error).__name__}: {error}") from error
    if task.cancelling() > cancelled_before:
        raise asyncio.CancelledError
    return answer
