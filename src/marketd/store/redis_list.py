"""A list of jobs in Redis that a crash does not shorten: what is taken stays in an in-flight list until it is done.

Owns these keys, for a list called ``K``; every step is one atomic script:

    K                    list of texts that wait. Producers LPUSH; the oldest is taken first, from the right
    K:resting            sorted set of texts that wait until a time (score, ms since the Unix epoch)
    K:in-flight          list of texts that somebody is working on
    K:in-flight:since    hash, text to when it was taken or last touched (ms)
    K:dead               list of {"job", "reason", "at"}, the newest first: what nobody can work on

Texts are never read here, only moved. `continuity.queue` and `collect.jobs` say what is in them.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from marketd.model import format_ns
from marketd.model.time import NS_PER_MS
from marketd.store.redis_client import checked

__all__ = ["DeadJob", "RedisList"]

_TAKE = """
for _, text in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[1], 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[4], text)
  redis.call('RPUSH', KEYS[1], text)
end
local text = redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
if text then redis.call('HSET', KEYS[3], text, ARGV[1]) end
return text
"""
_TOUCH = """
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then redis.call('HSET', KEYS[3], ARGV[1], ARGV[2]) end
"""
_GIVE_BACK = """
if redis.call('LREM', KEYS[2], 1, ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[2] == '' then redis.call('RPUSH', KEYS[1], ARGV[1])
else redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1]) end
return 1
"""
_DONE = """
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('LREM', KEYS[2], 1, ARGV[1])
"""
_BURY = """
redis.call('HDEL', KEYS[3], ARGV[1])
if redis.call('LREM', KEYS[2], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[5], ARGV[2])
redis.call('LTRIM', KEYS[5], 0, tonumber(ARGV[3]) - 1)
return 1
"""
_RECOVER = """
local count = 0
for _, text in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  local since = redis.call('HGET', KEYS[3], text)
  if not since or tonumber(since) < tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[3], text)
    if redis.call('LREM', KEYS[2], 1, text) == 1 then
      redis.call('RPUSH', KEYS[1], text)
      count = count + 1
    end
  end
end
return count
"""


class DeadJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the dead-letter list. job: the text as it came; bytes that are no UTF-8 are shown as U+FFFD."""

    job: str
    reason: str
    at: str


class RedisList:
    """One such list. client: a `redis.asyncio.Redis`, which stays its owner's. where: its place, for errors.

    dead_max: the dead-letter list keeps the newest so many. Every method raises StoreError when Redis fails; then it
    may or may not have happened, and doing it again is safe.
    """

    def __init__(self, client: Any, key: str, where: str, *, dead_max: int = 10_000) -> None:
        self.key = key
        self._client = client
        self._where = where
        self._dead_max = dead_max
        self.keys = [key, f"{key}:in-flight", f"{key}:in-flight:since", f"{key}:resting"]
        self._keys = [*self.keys, f"{key}:dead"]

    async def push(self, text: bytes) -> None:
        """Put behind all that waits."""
        await checked(self._client.lpush(self.key, text), self._where)

    async def take(self, now_ns: int) -> bytes | None:
        """The oldest that waits, now in flight; None if nothing does. What has rested long enough comes first."""
        text: bytes | None = await self._run(_TAKE, now_ns // NS_PER_MS)
        return text

    async def next(self) -> bytes | None:
        """What waits longest, left where it is; resting ones do not count."""
        text: bytes | None = await checked(self._client.lindex(self.key, -1), self._where)
        return text

    async def touch(self, text: bytes, now_ns: int) -> None:
        """Still being worked on."""
        await self._run(_TOUCH, text, now_ns // NS_PER_MS)

    async def done(self, text: bytes) -> None:
        """Out of flight, for good."""
        await self._run(_DONE, text)

    async def give_back(self, text: bytes, not_before_ns: int | None = None) -> None:
        """Out of flight: to be taken next, or first of all at a time. What is not in flight is left alone."""
        await self._run(_GIVE_BACK, text, "" if not_before_ns is None else math.ceil(not_before_ns / NS_PER_MS))

    async def bury(self, text: bytes, reason: str, now_ns: int) -> None:
        """Out of flight, into the dead-letter list."""
        dead = DeadJob(job=text.decode("utf-8", "replace"), reason=reason, at=format_ns(now_ns))
        await self._run(_BURY, text, msgspec.json.encode(dead), self._dead_max)

    async def recover(self, before_ns: int) -> int:
        """Give back what was neither taken nor touched since a time: its worker died. Returns how many."""
        return int(await self._run(_RECOVER, before_ns // NS_PER_MS))

    async def dead(self, limit: int = 100) -> list[DeadJob]:
        """The newest of the dead-letter list."""
        rows = await checked(self._client.lrange(self._keys[4], 0, limit - 1), self._where)
        return [msgspec.json.decode(row, type=DeadJob) for row in rows]

    async def counts(self) -> tuple[int, int, int]:
        """How many wait (resting ones included), are in flight, are dead."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.llen(self.key)
        pipeline.zcard(self._keys[3])
        pipeline.llen(self._keys[1])
        pipeline.llen(self._keys[4])
        waiting, resting, in_flight, dead = await checked(pipeline.execute(), self._where)
        return waiting + resting, in_flight, dead

    async def _run(self, script: str, *arguments: object) -> Any:
        return await checked(self._client.eval(script, len(self._keys), *self._keys, *arguments), self._where)
