"""The consumer of a job list in Redis, by which other programs have data fetched.

Owns the JSON of a job (`ListedJob`, version 1, see docs/collector.md) and what becomes of one: taken in order, in
flight until its handler is done, tried again when a provider or a store fails, and in the dead-letter list with the
reason when it is none or cannot be done. Delivery is at least once: handlers are idempotent, and an id that was done
lately is not done again. What a handler does is not known here. To add a type: a word in `JobType`, its fields in
`_checked`, a handler.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from marketd.clock import Clock
from marketd.errors import InvalidInput, MarketDataError, SourceUnavailable, StoreError
from marketd.model import Interval, Tier, parse_ns
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.sources.reconnect import ReconnectPolicy
from marketd.store.redis_client import checked, connect_redis, without_secrets
from marketd.store.redis_list import RedisList
from marketd.telemetry import Metrics

__all__ = ["JobConsumer", "JobHandler", "JobType", "JobsConfig", "JobsState", "ListedJob", "parse_job"]

_logger = logging.getLogger(__name__)

JobType = Literal["backfill", "fetch_bars", "fetch_quotes", "eod"]
"""backfill: put into the back-fill queue. fetch_bars, fetch_quotes, eod: fetched at once."""

_RECONNECT = ReconnectPolicy(delay_first_s=0.1, delay_max_s=5.0, jitter=0.2)


class JobsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """use_rlc: whether there is a consumer. redis_url: of the list; None for the server's Redis. jobs_key: the list.

    concurrency: jobs at the same time. attempts_max: one that fails so often is given up. retry: the rests between.
    lease_s: a consumer that has not said for so long that it works on a job has lost it. done_max: ids that are
    remembered as done. dead_max: the dead-letter list keeps the newest so many. poll_s: between looks at an empty list.
    """

    use_rlc: bool = False
    redis_url: str | None = None
    jobs_key: str = "market:jobs"
    concurrency: int = 4
    attempts_max: int = 6
    retry: ReconnectPolicy = ReconnectPolicy(delay_first_s=1.0, delay_max_s=60.0, jitter=0.2)
    lease_s: float = 120.0
    done_max: int = 10_000
    dead_max: int = 10_000
    poll_s: float = 0.2

    def __post_init__(self) -> None:
        if not self.jobs_key.strip():
            raise InvalidInput("jobs_key", self.jobs_key, "the name of a list")
        for field in ("concurrency", "attempts_max", "done_max", "dead_max"):
            if getattr(self, field) < 1:
                raise InvalidInput(field, getattr(self, field), "a whole number from 1")
        for field in ("lease_s", "poll_s"):
            if not 0 < getattr(self, field) < float("inf"):
                raise InvalidInput(field, getattr(self, field), "a number above 0")


class ListedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the list, understood. start_ns, end_ns: what is asked for, start_ns <= ts < end_ns; None for quotes."""

    id: str
    type: JobType
    symbol: str
    interval: Interval | None
    start_ns: int | None
    end_ns: int | None
    tier: Tier
    provider: str | None
    enqueued_ns: int | None


class _Pushed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    type: JobType
    symbol: str
    interval: str | None = None
    start: str | None = None
    end: str | None = None
    tier: Tier = "T1"
    provider: str | None = None
    id: str | None = None
    enqueued_at: str | None = None


JobHandler = Callable[[ListedJob], Awaitable[str | None]]
"""Do the job, idempotently; the provider that answered, if one did. Raises InvalidInput or SourceRejected for what will
never work (the job is given up), SourceUnavailable, MalformedMessage or StoreError for what may (it is tried again)."""


class JobsState(msgspec.Struct, frozen=True, kw_only=True):
    """For `/health`. failing: Redis does not answer, and `error` says how. done, dead: since the start."""

    state: Literal["ok", "failing", "stopped"]
    error: str | None
    running: int
    done: int
    dead: int


def parse_job(text: bytes) -> ListedJob:
    """The job that a text is. Raises ValueError saying what is wrong with it."""
    try:
        pushed = msgspec.json.decode(text, type=_Pushed)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not pushed.symbol.strip():
        raise ValueError("symbol is empty")
    if pushed.id == "":
        raise ValueError("id is empty")
    return _checked(pushed, pushed.id or hashlib.blake2b(text, digest_size=16).hexdigest())


def _checked(pushed: _Pushed, job_id: str) -> ListedJob:
    interval: Interval | None = None
    start_ns = end_ns = None
    if pushed.type == "fetch_quotes":
        for field in ("interval", "start", "end"):
            if getattr(pushed, field) is not None:
                raise ValueError(f"a {pushed.type} job has no {field}")
    else:
        default = "1d" if pushed.type == "eod" else "1m"
        interval = Interval.parse(pushed.interval or default)
        if pushed.type == "eod" and interval.name != "1d":
            raise ValueError(f"an eod job has the interval 1d, not {interval}")
        if pushed.start is None or pushed.end is None:
            raise ValueError(f"a {pushed.type} job has start and end")
        start_ns, end_ns = parse_ns(pushed.start), parse_ns(pushed.end)
        if interval.ceil(start_ns) >= end_ns:
            raise ValueError(f"no {interval} bar starts from {pushed.start} to {pushed.end}")
    return ListedJob(
        id=job_id,
        type=pushed.type,
        symbol=pushed.symbol,
        interval=interval,
        start_ns=start_ns,
        end_ns=end_ns,
        tier=pushed.tier,
        provider=pushed.provider,
        enqueued_ns=None if pushed.enqueued_at is None else parse_ns(pushed.enqueued_at),
    )


_FINISH = """
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('LREM', KEYS[1], 1, ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - tonumber(ARGV[4]))
"""


class JobConsumer:
    """handlers: by type; a job of a type without one is given up. url: of the Redis with the list.

    Keys beside those of `store.redis_list`: `{jobs_key}:done`, a sorted set of ids by when they were done (ms).
    Raises ConfigError without the extra ``marketd[redis]``, InvalidInput for a URL that is none.
    """

    def __init__(
        self,
        config: JobsConfig,
        url: str,
        clock: Clock,
        handlers: Mapping[JobType, JobHandler],
        *,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._handlers = handlers
        self._metrics = metrics or Metrics()
        self._rng = rng or random.Random()
        self._where = without_secrets(url)
        self._client: Any = connect_redis(url, "job list")
        self.list = RedisList(self._client, config.jobs_key, self._where, dead_max=config.dead_max)
        self._done_key = f"{config.jobs_key}:done"
        self._tasks: list[asyncio.Task[None]] = []
        self._working: set[bytes] = set()
        self._error: str | None = None
        self._done = 0
        self._dead = 0

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._consume(), name=f"jobs-{number}") for number in range(self._config.concurrency)
        ]
        self._tasks.append(asyncio.create_task(self._keep_leases(), name="jobs-leases"))

    async def stop(self) -> None:
        """Stop at once. What is in flight stays there, and is taken up when its lease is over. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    @property
    def state(self) -> JobsState:
        return JobsState(
            state="stopped" if not self._tasks else "ok" if self._error is None else "failing",
            error=self._error,
            running=len(self._working),
            done=self._done,
            dead=self._dead,
        )

    async def _consume(self) -> None:
        failures = 0
        while True:
            try:
                text = await self.list.take(self._clock.time_ns())
                self._error = None
                failures = 0
            except StoreError as error:
                self._error = str(error)
                await self._clock.sleep(_RECONNECT.delay_s(failures, self._rng))
                failures += 1
                continue
            if text is None:
                await self._clock.sleep(self._config.poll_s)
                continue
            self._working.add(text)
            try:
                await self._work(text)
            finally:
                self._working.discard(text)

    async def _keep_leases(self) -> None:
        """Say what is still being worked on, and take up what others no longer are."""
        while True:
            try:
                now_ns = self._clock.time_ns()
                for text in tuple(self._working):
                    await self.list.touch(text, now_ns)
                count = await self.list.recover(now_ns - round(self._config.lease_s * NS_PER_S))
                if count:
                    _logger.info("%d jobs of %s had lost their consumer and wait again", count, self._config.jobs_key)
            except StoreError as error:
                self._error = str(error)
            await self._clock.sleep(self._config.lease_s / 4)

    async def _work(self, text: bytes) -> None:
        try:
            job = parse_job(text)
        except ValueError as error:
            await self._bury(text, "unknown", "malformed", str(error))
            return
        handler = self._handlers.get(job.type)
        if handler is None:
            await self._bury(text, job.type, "no_handler", f"this server does no {job.type} jobs")
            return
        score = await self._persist(lambda: self._client.zscore(self._done_key, job.id))
        if score is not None:
            await self._persist(lambda: self._finish(text, job.id))
            return
        failures = 0
        while True:
            try:
                provider = await handler(job)
            except MarketDataError as error:
                failures += 1
                reason, is_over = str(error), not _may_be_cured(error) or failures >= self._config.attempts_max
                retry_after_s = (error.retry_after_s or 0.0) if isinstance(error, SourceUnavailable) else 0.0
            except Exception as error:
                _logger.exception("a defect in doing a %s job of %s", job.type, job.symbol)
                reason, is_over, retry_after_s = f"{type(error).__name__}: {error}", True, 0.0
            else:
                self._metrics.jobs_processed.labels(job.type, provider or "none").inc()
                await self._persist(lambda: self._finish(text, job.id))
                self._done += 1
                return
            if is_over:
                await self._bury(text, job.type, "given_up", reason)
                return
            await self._clock.sleep(max(self._config.retry.delay_s(failures - 1, self._rng), retry_after_s))

    async def _finish(self, text: bytes, job_id: str) -> None:
        keys = [self.list.keys[1], self.list.keys[2], self._done_key]
        now_ms = self._clock.time_ns() // NS_PER_MS
        await self._client.eval(_FINISH, 3, *keys, text, job_id, now_ms, self._config.done_max)

    async def _bury(self, text: bytes, job_type: str, kind: str, reason: str) -> None:
        _logger.warning("a job of %s goes to the dead letters: %s", self._config.jobs_key, reason)
        await self._persist(lambda: self.list.bury(text, reason, self._clock.time_ns()))
        self._metrics.jobs_failed.labels(job_type, kind).inc()
        self._dead += 1

    async def _persist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Its answer, as often as it takes to get one: the job is in flight, and what was done is not forgotten."""
        failures = 0
        while True:
            try:
                answer = await checked(call(), self._where)
            except StoreError as error:
                self._error = str(error)
                await self._clock.sleep(_RECONNECT.delay_s(failures, self._rng))
                failures += 1
            else:
                self._error = None
                return answer


def _may_be_cured(error: MarketDataError) -> bool:
    return error.retryable or error.code in ("malformed_message", "store_error")
