"""Who of several processes does a piece of work: the contract, within one process, and in Redis.

A lease ends by itself, so that the work of a process that died is taken over. A holder must stop when its time is up,
whatever it hears: `hold` is asked again well before.
"""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from marketd.clock import Clock
from marketd.model.time import NS_PER_S
from marketd.store.redis_client import checked, connect_redis, without_secrets

__all__ = ["Lease", "LocalLease", "RedisLease"]


class Lease(Protocol):
    """One owner's view of what it holds."""

    async def hold(self, name: str, seconds: float) -> bool:
        """Hold `name` for `seconds` from now, or go on holding it; False while another does. Raises StoreError."""
        ...

    async def release(self, name: str) -> None:
        """Let others have it at once. What is not held is left alone. Raises StoreError."""
        ...


class LocalLease:
    """Implements `Lease` for owners within one process. others: the lease of another owner, to share with."""

    def __init__(self, clock: Clock, others: LocalLease | None = None) -> None:
        self._clock = clock
        self._held: dict[str, tuple[LocalLease, int]] = {} if others is None else others._held

    async def hold(self, name: str, seconds: float) -> bool:
        now_ns = self._clock.monotonic_ns()
        owner, until_ns = self._held.get(name, (self, 0))
        if owner is not self and until_ns > now_ns:
            return False
        self._held[name] = self, now_ns + round(seconds * NS_PER_S)
        return True

    async def release(self, name: str) -> None:
        if name in self._held and self._held[name][0] is self:
            del self._held[name]


_HOLD = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisLease:
    """Implements `Lease` with one key a name, `{prefix}:{name}`, whose value is the owner. Every object is an owner."""

    def __init__(self, url: str, *, prefix: str = "market:lease", owner: str | None = None) -> None:
        self._where = without_secrets(url)
        self._client: Any = connect_redis(url, "sweeper's lease")
        self._prefix = prefix
        self._owner = owner or uuid.uuid4().hex

    async def hold(self, name: str, seconds: float) -> bool:
        call = self._client.eval(_HOLD, 1, f"{self._prefix}:{name}", self._owner, round(seconds * 1e3))
        return bool(await checked(call, self._where))

    async def release(self, name: str) -> None:
        await checked(self._client.eval(_RELEASE, 1, f"{self._prefix}:{name}", self._owner), self._where)

    async def close(self) -> None:
        """Release the connection, not what is held. Idempotent."""
        await self._client.aclose()
