"""Where back-fill jobs wait: the contract, and its two engines.

`RecordsQueue` keeps jobs where the other records are (SQLite beside the embedded store, or PostgreSQL). `RedisQueue`
keeps them in Redis lists `market:backfills:T0`, `…:T1`, `…:T2`, into which other programs can push too: the JSON of
`PushedJob`, see docs/backfill.md. `app` chooses. Another engine implements `BackfillQueue` and runs the tests of
tests/continuity/test_queue.py.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from marketd.clock import Clock
from marketd.continuity.plan import TIERS
from marketd.errors import InvalidInput, StoreError
from marketd.model import BackfillJob, Interval, JobState, Tier, format_ns, parse_ns
from marketd.model.time import NS_PER_MS
from marketd.store.records import Records
from marketd.store.redis_client import checked, connect_redis, without_secrets
from marketd.store.redis_list import RedisList

__all__ = [
    "OPEN_STATES",
    "BackfillQueue",
    "JobRecord",
    "PushedJob",
    "RecordsQueue",
    "RedisQueue",
    "Waiting",
    "job_from_json",
]

OPEN_STATES: tuple[JobState, ...] = ("queued", "running")
"""Of jobs that have not ended."""

_T = TypeVar("_T")

_PREFIX = "market:backfills"
_VERSION: Literal[1] = 1


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of a tier that wait (those that rest included), and since when the oldest does (None: none waits)."""

    count: int
    oldest_ns: int | None


class BackfillQueue(Protocol):
    """Jobs by tier. Whatever is changed is durable when the call returns. All methods raise StoreError when the engine
    fails; then it may or may not have happened, and doing it again is safe."""

    async def put(self, jobs: Sequence[BackfillJob]) -> tuple[str, ...]:
        """Let them wait; the id under which each is kept: that of an open job with the same symbol, interval, provider
        and range if there is one (then no second is kept), else its own. Raises InvalidInput when a tier is full; then
        none was kept."""
        ...

    async def take(self, tier: Tier, limit: int) -> tuple[BackfillJob, ...]:
        """Up to `limit` jobs, oldest first, now `running`. None is given to two callers."""
        ...

    async def save(self, job: BackfillJob) -> bool:
        """Keep the state of a job that was taken: still running, given back (`queued`, resting until not_before_ns), or
        ended. False if it was cancelled meanwhile; then nothing is kept."""
        ...

    async def cancel(self, job_id: str) -> BackfillJob | None:
        """The job, now cancelled, or as it ended before; None if there is no such job."""
        ...

    async def job(self, job_id: str) -> BackfillJob | None: ...

    async def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1_000
    ) -> tuple[BackfillJob, ...]:
        """The newest first. states: only in these, by default in any."""
        ...

    async def recover(self, before_ns: int | None = None) -> int:
        """Let what nobody has saved since a time wait again; returns how many. None: since before now, if the queue
        belongs to this process alone; else the engine's own lease."""
        ...

    async def waiting(self) -> dict[Tier, Waiting]: ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as other programs see it (HTTP answers, Redis): `BackfillJob` with times in RFC 3339, UTC."""

    version: int = _VERSION
    id: str
    symbol: str
    interval: str
    start: str
    end: str
    tier: Tier
    provider: str | None = None
    reason: str = "manual"
    state: JobState = "queued"
    done_until: str | None = None
    bars: int = 0
    new_versions: int = 0
    no_trades: int = 0
    quarantined: int = 0
    attempts: int = 0
    error: str | None = None
    created: str | None = None
    updated: str | None = None
    not_before: str | None = None

    @classmethod
    def from_job(cls, job: BackfillJob) -> JobRecord:
        same: dict[str, Any] = {name: getattr(job, name) for name in _SAME_FIELDS}
        times: dict[str, Any] = {theirs: _time_text(getattr(job, ours)) for theirs, ours in _TIME_FIELDS}
        return cls(start=format_ns(job.start_ns), end=format_ns(job.end_ns), **same, **times)

    def to_job(self) -> BackfillJob:
        """Raises ValueError for what is no job."""
        if self.version != _VERSION:
            raise ValueError(f"version {self.version} is not {_VERSION}")
        interval = Interval.parse(self.interval)
        start_ns, end_ns = interval.ceil(parse_ns(self.start)), parse_ns(self.end)
        if not self.symbol.strip():
            raise ValueError("symbol is empty")
        if start_ns >= end_ns:
            raise ValueError(f"no {interval} bar starts from {self.start} to {self.end}")
        same: dict[str, Any] = {name: getattr(self, name) for name in _SAME_FIELDS} | {"interval": interval.name}
        times: dict[str, Any] = {
            ours: parse_ns(text) for theirs, ours in _TIME_FIELDS if (text := getattr(self, theirs)) is not None
        }
        return BackfillJob(start_ns=start_ns, end_ns=end_ns, **same, **times)


_TIME_FIELDS = (
    ("done_until", "done_ns"),
    ("created", "created_ns"),
    ("updated", "updated_ns"),
    ("not_before", "not_before_ns"),
)
_SAME_FIELDS = tuple(name for name in JobRecord.__struct_fields__ if name in BackfillJob.__struct_fields__)


def _time_text(time_ns: int | None) -> str | None:
    return format_ns(time_ns) if time_ns else None


class PushedJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a program pushes into `market:backfills:{tier}`. id: of its own, or made from the text."""

    version: Literal[1]
    symbol: str
    interval: str
    start: str
    end: str
    tier: Tier | None = None
    provider: str | None = None
    reason: str = "manual"
    id: str | None = None
    created: str | None = None


def job_from_json(text: bytes, tier: Tier, now_ns: int) -> BackfillJob:
    """A `PushedJob` as a job of the list's tier. Raises ValueError saying what is wrong with it."""
    try:
        pushed = msgspec.json.decode(text, type=PushedJob)
    except (msgspec.DecodeError, RecursionError) as error:  # bytes that are no UTF-8 are a DecodeError too
        raise ValueError(str(error)) from error
    if pushed.tier not in (None, tier):
        raise ValueError(f"tier {pushed.tier} is not that of the list, {tier}")
    if pushed.id == "":
        raise ValueError("id is empty")
    return JobRecord(
        id=pushed.id or hashlib.blake2b(text, digest_size=16).hexdigest(),
        symbol=pushed.symbol,
        interval=pushed.interval,
        start=pushed.start,
        end=pushed.end,
        tier=tier,
        provider=pushed.provider,
        reason=pushed.reason,
        created=pushed.created or format_ns(now_ns),
    ).to_job()


def _full(tier: Tier, count: int, queue_max: int) -> InvalidInput:
    return InvalidInput("jobs", count, f"at most {queue_max} jobs that wait in {tier}; try again later")


def _added(jobs: Sequence[BackfillJob]) -> dict[Tier, int]:
    return {tier: sum(job.tier == tier for job in jobs) for tier in TIERS}


class RecordsQueue:
    """Implements `BackfillQueue` over `Records`. shared: other processes work on the same records (PostgreSQL);
    then only jobs untouched for lease_s are recovered."""

    def __init__(
        self, records: Records, clock: Clock, *, queue_max: int, lease_s: float = 120.0, shared: bool = False
    ) -> None:
        self._records = records
        self._clock = clock
        self._queue_max = queue_max
        self._lease_ns = round(lease_s * 1e9)
        self._shared = shared
        self._counts: dict[Tier, int] | None = None
        """Jobs that wait, as `waiting` counted them and changed here since: a full queue is known without counting."""

    async def put(self, jobs: Sequence[BackfillJob]) -> tuple[str, ...]:
        if self._counts is None:
            await self.waiting()
        assert self._counts is not None
        added = _added(jobs)
        for tier, count in added.items():
            if count and self._counts[tier] + count > self._queue_max:
                await self.waiting()
                if self._counts[tier] + count > self._queue_max:
                    raise _full(tier, self._counts[tier] + count, self._queue_max)
        kept = await asyncio.to_thread(self._records.add_jobs, jobs)
        for tier, count in added.items():
            self._counts[tier] += count
        return kept

    async def take(self, tier: Tier, limit: int) -> tuple[BackfillJob, ...]:
        taken = await asyncio.to_thread(self._records.take_jobs, tier, self._clock.time_ns(), limit)
        if self._counts is not None:
            self._counts[tier] -= len(taken)
        return taken

    async def save(self, job: BackfillJob) -> bool:
        return await asyncio.to_thread(self._records.save_job, job)

    async def cancel(self, job_id: str) -> BackfillJob | None:
        return await asyncio.to_thread(self._cancel, job_id)

    def _cancel(self, job_id: str) -> BackfillJob | None:
        job = self._records.job(job_id)
        if job is None or job.state not in OPEN_STATES:
            return job
        self._records.save_job(msgspec.structs.replace(job, state="cancelled", updated_ns=self._clock.time_ns()))
        return self._records.job(job_id)

    async def job(self, job_id: str) -> BackfillJob | None:
        return await asyncio.to_thread(self._records.job, job_id)

    async def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1_000
    ) -> tuple[BackfillJob, ...]:
        return await asyncio.to_thread(self._records.jobs, states=states, symbol=symbol, limit=limit)

    async def recover(self, before_ns: int | None = None) -> int:
        if before_ns is None:
            now_ns = self._clock.time_ns()
            before_ns = now_ns - self._lease_ns if self._shared else now_ns + 1
        return await asyncio.to_thread(self._records.requeue_running, before_ns)

    async def waiting(self) -> dict[Tier, Waiting]:
        jobs = await self.jobs(states=("queued",), limit=3 * self._queue_max)
        found: dict[Tier, Waiting] = {}
        for tier in TIERS:
            times = [job.created_ns for job in jobs if job.tier == tier]
            found[tier] = Waiting(count=len(times), oldest_ns=min(times, default=None))
        self._counts = {tier: waiting.count for tier, waiting in found.items()}
        return found

    async def close(self) -> None:
        """The records are their owner's to close."""


# KEYS of both scripts: jobs, open, ended, then those of the tier's list: itself, in-flight, since, resting. Texts are
# moved and compared, never rewritten: Lua's numbers are doubles, and would not keep a time.
_ADD = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known and known ~= ARGV[2] then
  local record = redis.call('HGET', KEYS[1], known)
  local state = record and cjson.decode(record).state
  if state == 'queued' or state == 'running' then return known end
end
if redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3]) == 0 then return ARGV[2] end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if ARGV[5] == '' then redis.call('LPUSH', KEYS[4], ARGV[4])
else redis.call('ZADD', KEYS[7], ARGV[5], ARGV[4]) end
return ARGV[2]
"""
_SAVE = """
local asked, id, record, state, now, ended_max, text, rests = unpack(ARGV)
local old = redis.call('HGET', KEYS[1], id)
local was = old and cjson.decode(old).state or 'queued'
local kept = was == 'queued' or was == 'running'
if kept then redis.call('HSET', KEYS[1], id, record) else state = was end
if text ~= '' and state == 'running' then redis.call('HSET', KEYS[6], text, now)
elseif text ~= '' then
  redis.call('HDEL', KEYS[6], text)
  local was_in_flight = redis.call('LREM', KEYS[5], 1, text) == 1
  if was_in_flight and state == 'queued' then redis.call('ZADD', KEYS[7], rests, text) end
end
if state == 'running' or state == 'queued' then redis.call('HSET', KEYS[2], asked, id)
else
  if redis.call('HGET', KEYS[2], asked) == id then redis.call('HDEL', KEYS[2], asked) end
  redis.call('ZADD', KEYS[3], 'NX', now, id)
  for _, forgotten in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1 - tonumber(ended_max))) do
    redis.call('ZREM', KEYS[3], forgotten)
    redis.call('HDEL', KEYS[1], forgotten)
  end
end
return kept and 1 or 0
"""


class RedisQueue:
    """Implements `BackfillQueue` in Redis (6.2 or newer). Keys, beside those of `store.redis_list` for each list
    `{prefix}:{tier}`:

        {prefix}:jobs    hash, id to the JSON of `JobRecord`: every open job, and the newest `ended_max` that ended
        {prefix}:open    hash, what is asked for to the id of the open job that asks for it
        {prefix}:ended   sorted set of ids by when they ended (ms)

    A text that is no job goes to the dead-letter list of its tier, with the reason. Jobs are as durable as Redis is
    set up to be: `appendfsync always` for those that must not be lost. lease_s: as in `BackfillConfig`.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        queue_max: int,
        lease_s: float = 120.0,
        ended_max: int = 10_000,
        prefix: str = _PREFIX,
    ) -> None:
        self._where = without_secrets(url)
        self._client: Any = connect_redis(url, "back-fill queue")
        self._clock = clock
        self._queue_max = queue_max
        self._lease_ns = round(lease_s * 1e9)
        self._ended_max = ended_max
        self._keys = [f"{prefix}:{name}" for name in ("jobs", "open", "ended")]
        self.lists: dict[Tier, RedisList] = {
            tier: RedisList(self._client, f"{prefix}:{tier}", self._where) for tier in TIERS
        }
        self._texts: dict[str, bytes] = {}
        """Of the jobs this process works on: their texts in flight."""

    async def put(self, jobs: Sequence[BackfillJob]) -> tuple[str, ...]:
        for tier, added in _added(jobs).items():
            if added:
                waiting, _, _ = await self.lists[tier].counts()
                if waiting + added > self._queue_max:
                    raise _full(tier, waiting + added, self._queue_max)
        now_ns = self._clock.time_ns()
        kept: list[str] = []
        for job in jobs:
            rests = "" if job.not_before_ns <= now_ns else -(-job.not_before_ns // NS_PER_MS)
            kept_as = await self._run(_ADD, job, _asked(job), job.id, _record(job), _pushed(job), rests)
            kept.append(kept_as.decode())
        return tuple(kept)

    async def take(self, tier: Tier, limit: int) -> tuple[BackfillJob, ...]:
        taken: list[BackfillJob] = []
        while len(taken) < limit:
            now_ns = self._clock.time_ns()
            text = await self.lists[tier].take(now_ns)
            if text is None:
                break
            job = await self._started(text, tier, now_ns)
            if job is not None:
                taken.append(job)
        return tuple(taken)

    async def _started(self, text: bytes, tier: Tier, now_ns: int) -> BackfillJob | None:
        """The job of a text in flight, now running; None if there is nothing to do. A failure leaves it in flight."""
        try:
            pushed = job_from_json(text, tier, now_ns)
        except ValueError as error:
            await self.lists[tier].bury(text, str(error), now_ns)
            return None
        job = await self.job(pushed.id) or pushed
        if job.state not in OPEN_STATES:
            await self.lists[tier].done(text)
            return None
        self._texts[job.id] = text
        twin_id = await self._checked(self._client.hget(self._keys[1], _asked(job)))
        twin = None if twin_id is None or twin_id.decode() == job.id else await self.job(twin_id.decode())
        if twin is not None and twin.state in OPEN_STATES:
            reason = f"the same as {twin.id}"
            await self.save(msgspec.structs.replace(job, state="cancelled", error=reason, updated_ns=now_ns))
            return None
        job = msgspec.structs.replace(job, state="running", updated_ns=now_ns)
        return job if await self.save(job) else None

    async def save(self, job: BackfillJob) -> bool:
        kept = await self._save(job, self._texts.get(job.id, b""))
        if not kept or job.state != "running":
            self._texts.pop(job.id, None)
        return kept

    async def _save(self, job: BackfillJob, text: bytes) -> bool:
        now_ms = self._clock.time_ns() // NS_PER_MS
        rests = -(-job.not_before_ns // NS_PER_MS)
        arguments = (_asked(job), job.id, _record(job), job.state, now_ms, self._ended_max, text, rests)
        return bool(await self._run(_SAVE, job, *arguments))

    async def cancel(self, job_id: str) -> BackfillJob | None:
        job = await self.job(job_id)
        if job is None or job.state not in OPEN_STATES:
            return job
        # Its text is dropped when its turn comes; one in flight, by whoever works on it.
        await self._save(msgspec.structs.replace(job, state="cancelled", updated_ns=self._clock.time_ns()), b"")
        return await self.job(job_id)

    async def job(self, job_id: str) -> BackfillJob | None:
        record = await self._checked(self._client.hget(self._keys[0], job_id))
        return None if record is None else self._known([record])[0]

    def _known(self, records: Sequence[bytes]) -> list[BackfillJob]:
        try:
            return [msgspec.json.decode(record, type=JobRecord).to_job() for record in records]
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreError(self._where, f"{self._keys[0]} does not hold jobs alone: {error}") from error

    async def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1_000
    ) -> tuple[BackfillJob, ...]:
        records = await self._checked(self._client.hvals(self._keys[0]))
        jobs = await asyncio.to_thread(self._known, records)
        found = [job for job in jobs if (not states or job.state in states) and symbol in (None, job.symbol)]
        found.sort(key=lambda job: (job.created_ns, job.id), reverse=True)
        return tuple(found[:limit])

    async def recover(self, before_ns: int | None = None) -> int:
        before_ns = self._clock.time_ns() - self._lease_ns if before_ns is None else before_ns
        return sum([await texts.recover(before_ns) for texts in self.lists.values()])

    async def waiting(self) -> dict[Tier, Waiting]:
        found: dict[Tier, Waiting] = {}
        now_ns = self._clock.time_ns()
        for tier, texts in self.lists.items():
            count, _, _ = await texts.counts()
            next_text = await texts.next()
            oldest_ns: int | None = None
            if next_text is not None:
                try:
                    oldest_ns = job_from_json(next_text, tier, now_ns).created_ns
                except ValueError:  # it will be buried when its turn comes
                    oldest_ns = now_ns
            found[tier] = Waiting(count=count, oldest_ns=oldest_ns)
        return found

    async def close(self) -> None:
        await self._client.aclose()

    async def _run(self, script: str, job: BackfillJob, *arguments: object) -> Any:
        keys = [*self._keys, *self.lists[job.tier].keys]
        return await self._checked(self._client.eval(script, len(keys), *keys, *arguments))

    async def _checked(self, call: Awaitable[_T]) -> _T:
        return await checked(call, self._where)


def _asked(job: BackfillJob) -> str:
    """What a job asks for: two open jobs never ask for the same."""
    return msgspec.json.encode([job.symbol, job.interval, job.provider, job.start_ns, job.end_ns]).decode()


def _record(job: BackfillJob) -> bytes:
    return msgspec.json.encode(JobRecord.from_job(job))


def _pushed(job: BackfillJob) -> bytes:
    """The job as another program would push it."""
    return msgspec.json.encode(
        PushedJob(
            version=_VERSION,
            id=job.id,
            symbol=job.symbol,
            interval=job.interval,
            start=format_ns(job.start_ns),
            end=format_ns(job.end_ns),
            tier=job.tier,
            provider=job.provider,
            reason=job.reason,
            created=_time_text(job.created_ns),
        )
    )
