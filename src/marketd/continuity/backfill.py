"""The back-fill service: takes asks, lets the worker work them off by tier, and asks by itself for what is missing.

Owns who comes when: places by tier, the search for holes, and what happens after a restart. How a job is worked off is
`worker`'s; where jobs wait is `queue`'s. Healing hears of holes in three ways: `gap_found` (on write),
`source_returned` (a stream that was down), and its own scan. What it was told but cannot queue is kept in bounded
memory, and what does not fit there the next scan finds again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from marketd.clock import Clock
from marketd.continuity.gaps import due_end
from marketd.continuity.ledger import SymbolGaps
from marketd.continuity.plan import TIERS, BackfillConfig, Span, merged, uncovered
from marketd.continuity.queue import OPEN_STATES, BackfillQueue, Waiting
from marketd.continuity.worker import SKIPS_PRESENT, BackfillWorker, Choose, Expected, Fetched, Ready
from marketd.errors import InvalidInput, MarketDataError, StoreError
from marketd.ingest.history import KeepBars
from marketd.model import BackfillJob, Cursor, Interval, JobState, MissingSpan, Tier
from marketd.model.time import NS_PER_S
from marketd.store.contract import BarStore
from marketd.store.records import Records
from marketd.telemetry import Metrics

__all__ = ["BackfillService", "BackfillState", "Scan"]

_logger = logging.getLogger(__name__)

Scan = Callable[[Interval, int, int], Sequence[SymbolGaps]]
"""(interval, start_ns, end_ns) → what nobody has asked for yet; `LedgerService.scan`. Called in a thread."""

HealReason = Literal["gap", "scan", "reconnect"]

_POLL_S = 0.5
_MEASURE_S = 5.0
_MEASURE_SHARE = 0.01
_ASKS_MAX = 50_000
_RETRY_S = 5.0


class BackfillState(msgspec.Struct, frozen=True, kw_only=True):
    """For `/health`. error: what keeps the queue or the store from doing their work, None while nothing does.

    unqueued: holes that were found and are not in the queue yet.
    """

    state: Literal["ok", "failing", "stopped"]
    error: str | None
    running: int
    waiting: dict[Tier, Waiting]
    unqueued: int


class BackfillService:
    """See the types in `worker` for choose, keep, expected and ready. tier_of: of a symbol, for what heals by itself.

    scan: None for no search. All methods belong to the event loop's thread. Owns the queue and closes it.
    """

    def __init__(
        self,
        queue: BackfillQueue,
        records: Records,
        store: BarStore,
        config: BackfillConfig,
        clock: Clock,
        *,
        choose: Choose,
        keep: KeepBars,
        expected: Expected,
        tier_of: Callable[[str], Tier] = lambda _symbol: "T2",
        scan: Scan | None = None,
        ready: Ready | None = None,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._queue = queue
        self._records = records
        self._config = config
        self._clock = clock
        self._tier_of = tier_of
        self._scan = scan
        self._metrics = metrics or Metrics()
        self._worker = BackfillWorker(
            queue,
            records,
            store,
            config,
            clock,
            choose=choose,
            keep=keep,
            expected=expected,
            ready=ready,
            metrics=self._metrics,
            rng=rng,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[Tier, set[asyncio.Task[None]]] = {tier: set() for tier in TIERS}
        self._arrived = asyncio.Event()
        self._asks: dict[tuple[str, str, HealReason], list[Span]] = {}
        self._asked = asyncio.Event()
        self._waiting: dict[Tier, Waiting] = {}
        self._stored_until_ns: dict[str, int] = {}
        self._errors: dict[str, str] = {}

    # --- life ---------------------------------------------------------------------------------------------

    def start(self, *, heal: bool = True) -> None:
        """Work, and heal if the configuration says so too. What a crash left behind is taken up again."""
        loops = {"dispatch": self._dispatch, "measure": self._measure}
        if heal and self._config.heal:
            loops |= {"heal": self._heal}
            if self._scan is not None:
                loops |= {"scan": self._search}
        self._tasks = [asyncio.create_task(run(), name=f"backfill-{name}") for name, run in loops.items()]

    async def stop(self) -> None:
        """Stop at once: whatever runs is taken up again by the next start. Idempotent."""
        tasks, self._tasks = self._tasks, []
        tasks += [task for running in self._running.values() for task in running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._queue.close()

    @property
    def state(self) -> BackfillState:
        error = self._worker.error or next(iter(self._errors.values()), None)
        return BackfillState(
            state="stopped" if not self._tasks else "ok" if error is None else "failing",
            error=error,
            running=sum(map(len, self._running.values())),
            waiting=dict(self._waiting),
            unqueued=sum(map(len, self._asks.values())),
        )

    # --- what the doors ask -------------------------------------------------------------------------------

    async def submit(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        tier: Tier | None = None,
        provider: str | None = None,
        reason: str = "manual",
    ) -> BackfillJob:
        """Ask for bars with start_ns <= ts < end_ns, cut at now; the job that will get them.

        That may be an open one: the same ask, or one that covers it with the same provider in no lower tier. tier: the
        symbol's own by default. Raises InvalidInput (an empty range, a full queue), StoreError.
        """
        over_ns = interval.ceil(due_end(interval, self._clock.time_ns(), 0))
        first_ns, end_ns = interval.ceil(start_ns), min(end_ns, over_ns)
        if first_ns >= end_ns:
            raise InvalidInput("start", start_ns, f"a range with at least one {interval} bar that is over")
        tier = self._tier_of(symbol) if tier is None else tier
        for job in await self._queue.jobs(states=OPEN_STATES, symbol=symbol):
            same = (job.interval, job.provider) == (interval.name, provider) and job.tier <= tier
            if same and job.start_ns <= first_ns and end_ns <= job.end_ns and job.reason == reason:
                return job
        job = self._new_job(symbol, interval.name, (first_ns, end_ns), tier, reason, provider)
        (kept_id,) = await self._queue.put([job])
        if kept_id != job.id:
            return await self._queue.job(kept_id) or job
        self._metrics.backfill_enqueued.labels(tier).inc()
        self._arrived.set()
        return job

    def _new_job(
        self,
        symbol: str,
        interval: str,
        span: Span,
        tier: Tier,
        reason: str,
        provider: str | None = None,
        not_before_ns: int = 0,
    ) -> BackfillJob:
        now_ns = self._clock.time_ns()
        return BackfillJob(
            id=uuid.uuid4().hex,
            symbol=symbol,
            interval=interval,
            start_ns=span[0],
            end_ns=span[1],
            tier=tier,
            reason=reason,
            provider=provider,
            created_ns=now_ns,
            updated_ns=now_ns,
            not_before_ns=not_before_ns,
        )

    async def job(self, job_id: str) -> BackfillJob | None:
        return await self._queue.job(job_id)

    async def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1_000
    ) -> tuple[BackfillJob, ...]:
        """The newest first. states: only in these, by default in any."""
        return await self._queue.jobs(states=states, symbol=symbol, limit=limit)

    async def cancel(self, job_id: str) -> BackfillJob | None:
        """The job, now cancelled, or as it ended before; None if there is none. A running one ends its request."""
        return await self._queue.cancel(job_id)

    async def cursor(self, symbol: str, interval: Interval, provider: str) -> Cursor | None:
        return await asyncio.to_thread(self._records.cursor, symbol, interval.name, provider)

    async def fetch(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, provider: str | None = None
    ) -> Fetched:
        """Ask now, past the queue: what the sweeper and the job list do. Raises SourceError, StoreError."""
        fetched = await self._worker.fetch(symbol, interval, start_ns, end_ns, provider=provider)
        self.stored(interval, end_ns)
        return fetched

    # --- what the server says -----------------------------------------------------------------------------

    def stored(self, interval: Interval, end_ns: int) -> None:
        """Bars of this length have been stored up to a time: for `ingestion_lag_seconds`."""
        self._stored_until_ns[interval.name] = max(self._stored_until_ns.get(interval.name, 0), end_ns)

    def gap_found(self, symbol: str, interval: Interval, span: MissingSpan) -> None:
        """A hole was noticed. Only what nobody has asked for (`not_fetched`) is healed."""
        if span.reason == "not_fetched":
            self._metrics.gaps_found.labels(interval.name).inc()
            self._ask(symbol, interval, (span.start_ns, span.end_ns), "gap")

    def source_returned(self, symbols: Sequence[str], interval: Interval, down_ns: int) -> None:
        """A stream of these symbols is up again after it was down since a time. The bars that it has watched only in
        part, at both ends, are asked for too."""
        end_ns = interval.floor(self._clock.time_ns()) + interval.ns
        for symbol in symbols:
            self._ask(symbol, interval, (interval.floor(down_ns), end_ns), "reconnect")

    def _ask(self, symbol: str, interval: Interval, span: Span, reason: HealReason) -> None:
        if not self._config.heal:
            return
        key = symbol, interval.name, reason
        if key not in self._asks and len(self._asks) >= _ASKS_MAX:
            return
        self._asks[key] = merged([*self._asks.get(key, ()), span])
        self._asked.set()

    # --- loops --------------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Fill the places of each tier with jobs that wait, the first tier first."""
        recovered_ns: int | None = None
        while True:
            self._arrived.clear()
            try:
                now_ns = self._clock.monotonic_ns()
                if recovered_ns is None or now_ns - recovered_ns >= self._config.lease_s * NS_PER_S:
                    # Jobs of our own are saved far more often than this.
                    before_ns = None if recovered_ns is None else self._lease_end_ns()
                    count = await self._queue.recover(before_ns)
                    recovered_ns = now_ns
                    if count:
                        _logger.info("%d back-fill jobs had lost their worker and wait again", count)
                for tier in TIERS:
                    free = self._config.max_concurrency.of(tier) - len(self._running[tier])
                    if free > 0:
                        for job in await self._queue.take(tier, free):
                            self._run(job)
                self._errors.pop("dispatch", None)
            except StoreError as error:
                self._errors["dispatch"] = str(error)
            except Exception as error:
                _logger.exception("a defect in dispatching back-fill; it goes on")
                self._errors["dispatch"] = f"{type(error).__name__}: {error}"
            await self._pause(self._arrived, _POLL_S)

    def _lease_end_ns(self) -> int:
        return self._clock.time_ns() - round(self._config.lease_s * NS_PER_S)

    def _run(self, job: BackfillJob) -> None:
        async def work() -> None:
            await self._worker.work(job)

        task = asyncio.create_task(work(), name=f"backfill-{job.id}")
        self._running[job.tier].add(task)
        task.add_done_callback(lambda ended: self._ran(job, ended))

    def _ran(self, job: BackfillJob, task: asyncio.Task[None]) -> None:
        self._running[job.tier].discard(task)
        self._arrived.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("a defect in working off back-fill %s", job.id, exc_info=error)

    async def _pause(self, event: asyncio.Event, seconds: float) -> None:
        """Until something happened, or for so long."""
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        wait = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((sleep, wait), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            wait.cancel()

    async def _heal(self) -> None:
        """Turn the holes that were found into jobs, many at a time."""
        while True:
            await self._asked.wait()
            await self._clock.sleep(self._config.heal_delay_s)
            self._asked.clear()
            asks, self._asks = self._asks, {}
            try:
                await self._queue_asks(asks)
                self._errors.pop("heal", None)
            except MarketDataError as error:
                self._errors["heal"] = str(error)
                _logger.warning("holes that were found cannot be queued yet: %s", error)
                for key, spans in asks.items():
                    self._asks[key] = merged([*self._asks.get(key, ()), *spans])
                await self._clock.sleep(_RETRY_S)
                self._asked.set()
            except Exception as error:
                _logger.exception("a defect in healing; it goes on")
                self._errors["heal"] = f"{type(error).__name__}: {error}"

    async def _queue_asks(self, asks: dict[tuple[str, str, HealReason], list[Span]]) -> None:
        """What open jobs do not cover yet; of what a parked one covers, nothing until it has rested."""
        covers: dict[tuple[str, str, bool], list[Span]] = {}  # True: also of what is there
        rested_ns = self._clock.time_ns() - round(self._config.parked_rest_s * NS_PER_S)
        limit = 3 * self._config.queue_max
        for job in await self._queue.jobs(states=(*OPEN_STATES, "parked"), limit=limit):
            if job.state == "parked" and job.updated_ns < rested_ns:
                continue
            done_ns = job.start_ns if job.done_ns is None or job.state == "parked" else job.done_ns
            for whole in {False, job.reason not in SKIPS_PRESENT}:
                covers.setdefault((job.symbol, job.interval, whole), []).append((done_ns, job.end_ns))
        jobs: list[BackfillJob] = []
        for (symbol, name, reason), spans in sorted(asks.items(), key=lambda ask: ask[0][2] in SKIPS_PRESENT):
            interval = Interval.parse(name)
            whole = reason not in SKIPS_PRESENT
            # Holes less than a chunk apart cost one request anyway; what is there between them is not kept again.
            for span in merged(spans, 0 if reason == "reconnect" else self._config.chunk_ns(interval)):
                for left in uncovered(*span, covers.get((symbol, name, whole), ())):
                    if reason == "scan":
                        self._metrics.gaps_found.labels(name).inc()
                    not_before_ns = left[1] + round(self._config.settle_s * NS_PER_S)
                    covers.setdefault((symbol, name, False), []).append(left)
                    jobs.append(
                        self._new_job(symbol, name, left, self._tier_of(symbol), reason, not_before_ns=not_before_ns)
                    )
        jobs.sort(key=lambda job: job.end_ns, reverse=True)
        # A queue serves in the order of creation.
        jobs = [msgspec.structs.replace(job, created_ns=job.created_ns + i) for i, job in enumerate(jobs)]
        for tier in TIERS:
            of_tier = [job for job in jobs if job.tier == tier]
            if of_tier:
                kept = await self._queue.put(of_tier)
                new = sum(job.id == kept_id for job, kept_id in zip(of_tier, kept, strict=True))
                self._metrics.backfill_enqueued.labels(tier).inc(new)
        self._arrived.set()

    async def _search(self) -> None:
        """Look for holes in what is stored, again and again."""
        assert self._scan is not None
        while True:
            for name in self._config.scan_intervals:
                interval = Interval.parse(name)
                end_ns = interval.ceil(
                    due_end(interval, self._clock.time_ns(), round(self._config.settle_s * NS_PER_S))
                )
                start_ns = end_ns - self._config.scan_days * 86_400 * NS_PER_S
                try:
                    found = await asyncio.to_thread(self._scan, interval, start_ns, end_ns)
                    for gaps in found:
                        for span in gaps.spans:
                            self._ask(gaps.symbol, interval, (span.start_ns, span.end_ns), "scan")
                    self._errors.pop("scan", None)
                except MarketDataError as error:
                    self._errors["scan"] = str(error)
                    _logger.warning("the search for holes failed, and is repeated: %s", error)
                except Exception as error:
                    _logger.exception("a defect in the search for holes; it goes on")
                    self._errors["scan"] = f"{type(error).__name__}: {error}"
            await self._clock.sleep(self._config.scan_interval_s)

    async def _measure(self) -> None:
        while True:
            began_ns = self._clock.monotonic_ns()
            try:
                self._waiting = await self._queue.waiting()
                self._errors.pop("measure", None)
            except StoreError as error:
                self._errors["measure"] = str(error)
            now_ns = self._clock.time_ns()
            for tier, waiting in self._waiting.items():
                age_s = 0.0 if waiting.oldest_ns is None else max(0.0, (now_ns - waiting.oldest_ns) / NS_PER_S)
                self._metrics.backfill_depth.labels(tier).set(waiting.count)
                self._metrics.backfill_oldest.labels(tier).set(age_s)
            for name, until_ns in self._stored_until_ns.items():
                self._metrics.ingestion_lag.labels(name).set(max(0.0, (now_ns - until_ns) / NS_PER_S))
            took_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
            await self._clock.sleep(max(_MEASURE_S, took_s / _MEASURE_SHARE))
