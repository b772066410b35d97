"""Works off one back-fill job: asks providers chunk by chunk, hands bars to the one door, remembers what is absent.

Owns what an answer means. The order of writes makes a crash harmless: bars first (durable and checked by `KeepBars`),
then what is known of absent ones, then the cursor, then how far the job is. After a crash the last chunk is asked for
once more and changes nothing. Decides nothing about who waits for whom (`backfill` does).

An expected bar that is absent from an answer is noted as *no trades* of that provider; one that was fetched and
refused, as *quarantined*; time before the beginning of a provider's history, as *provider lacks* once all that were to
be asked lack it. A bar that has been over for less than `settle_s` is noted as nothing: it may still come.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.continuity.gaps import continuous_until, due_end, find_missing
from marketd.continuity.plan import (
    BackfillConfig,
    Span,
    Starts,
    answers_for,
    chunk_ranges,
    uncovered,
    unexplained,
)
from marketd.continuity.queue import BackfillQueue
from marketd.errors import InvalidInput, MarketDataError, SourceError, SourceRejected, SourceUnavailable, StoreError
from marketd.ingest.history import KeepBars
from marketd.model import AnsweredSpan, BackfillJob, Cursor, Interval, starts_of
from marketd.model.time import NS_PER_S
from marketd.sources.contract import BarHistory
from marketd.sources.http import RateLimit
from marketd.store.contract import BarStore
from marketd.store.records import Records
from marketd.telemetry import Metrics

__all__ = [
    "SKIPS_PRESENT",
    "BackfillWorker",
    "Choose",
    "Expected",
    "Fetched",
    "KnowsItsStart",
    "Ready",
    "present_starts",
]

_logger = logging.getLogger(__name__)

Choose = Callable[[str, Interval], Sequence[tuple[str, BarHistory]]]
"""(symbol, interval) → providers by name, in the order in which they are asked."""

Expected = Callable[[str, Interval, int, int], Starts]
"""(symbol, interval, start_ns, end_ns) → starts of the bars that the symbol's calendar expects. Called in a thread."""

Ready = Callable[[], Awaitable[None]]
"""Returns when there is room for back-fill beside live work. Awaited before each request and each batch."""

SKIPS_PRESENT = frozenset({"gap", "scan"})
"""Reasons of jobs that want what is missing and nothing else."""

_Reason = Literal["no_trades", "provider_lacks", "quarantined"]

_CURSOR_LOOK_BARS = 10_080
_CURSOR_LOOKS = 60
_CURSOR_BEHIND_BARS_MAX = 2_000_000
_STORE_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


@runtime_checkable
class KnowsItsStart(Protocol):
    """A `BarHistory` that can say where its memory begins."""

    def history_start_ns(self, symbol: str, interval: Interval) -> int | None:
        """Bars that start earlier cannot be had from this provider; None if it is not known."""
        ...


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request. provider: who answered; None if all that were asked lack the whole range.

    bars: received. no_trades: expected bars that were absent. lacking: expected bars before everybody's history.
    """

    provider: str | None
    bars: int = 0
    new_versions: int = 0
    no_trades: int = 0
    quarantined: int = 0
    lacking: int = 0


class _Refused(MarketDataError):
    """Nobody can answer, and asking again would not help. Parks the job."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def present_starts(store: BarStore, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> Starts:
    """Starts of the bars that are in force, of any side and provider, ascending."""
    there: Starts = np.empty(0, np.int64)
    for side in ("trade", "bid", "ask"):
        presence = store.presence(interval, start_ns, end_ns, side=side, symbols=[symbol])
        slots = np.flatnonzero(presence.of(symbol))
        there = np.union1d(there, presence.start_ns + slots * interval.ns)
    return there


class BackfillWorker:
    """queue: where jobs come from and their state is saved. choose, expected, ready: see their types.

    `work` may run in many tasks at once; one dispatch rate holds for all. Nothing here runs by itself.
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
        ready: Ready | None = None,
        metrics: Metrics | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._queue = queue
        self._records = records
        self._store = store
        self._config = config
        self._clock = clock
        self._choose = choose
        self._keep = keep
        self._expected = expected
        self._ready = ready
        self._metrics = metrics or Metrics()
        self._rng = rng or random.Random()
        rate = config.dispatch_rate_per_s
        self._rate = RateLimit(rate, max(1, int(rate)), clock)
        self._answered_ns: dict[str, int] = {}
        self.error: str | None = None
        """What keeps results from being kept, None while nothing does."""

    # --- a job --------------------------------------------------------------------------------------------

    async def work(self, job: BackfillJob) -> BackfillJob:
        """Work off a job that was taken, from where it had come to; the job as it was saved last.

        It ends `done`, `parked` or `cancelled`, or goes back to the queue to rest. Raises nothing but cancellation:
        then the job is still `running` in the queue, and `recover` finds it.
        """
        run = _Run(job)
        heartbeat = asyncio.create_task(self._beat(run))
        try:
            await self._work(run)
        finally:
            heartbeat.cancel()
        if run.job.state in ("done", "parked", "cancelled"):
            self._metrics.backfill_completed.labels(job.tier, run.job.state).inc()
        return run.job

    async def _work(self, run: _Run) -> None:
        failures_of_store = 0
        while True:
            try:
                await self._chunks(run)
                ended = msgspec.structs.replace(run.job, state="done", attempts=0, error=None)
            except StoreError as error:
                # The job is not at fault: it waits here, its place taken, until results can be kept again.
                self.error = str(error)
                _logger.warning("back-fill %s waits: %s", run.job.id, error)
                await self._clock.sleep(_STORE_RETRY_S[min(failures_of_store, len(_STORE_RETRY_S) - 1)])
                failures_of_store += 1
                continue
            except (MarketDataError, OSError) as error:
                ended = self._failed(run.job, error)
            except Exception as error:
                _logger.exception("a defect in working off back-fill %s", run.job.id)
                ended = self._failed(run.job, error)
            if run.job.state != "cancelled":
                await self._end(run, ended)
            return

    async def _chunks(self, run: _Run) -> None:
        """All chunks that are left. Returns early, the job `cancelled`, when it was. Raises what stops it."""
        job = run.job
        interval = Interval.parse(job.interval)
        candidates = self._candidates(job.symbol, interval, job.provider)
        over_ns = self._due_end(interval, 0.0)
        from_ns = job.start_ns if job.done_ns is None else max(job.start_ns, job.done_ns)
        chunk_ns = self._config.chunk_ns(interval)
        for start_ns, end_ns in chunk_ranges(interval, from_ns, min(job.end_ns, over_ns), chunk_ns):
            wanted, there = await asyncio.to_thread(self._wanted, job, interval, start_ns, end_ns, candidates)
            if not wanted.size:
                continue
            asked = (int(wanted[0]), int(wanted[-1]) + interval.ns)
            size = self._config.batch_size
            fetched = await self._fetch(job.symbol, interval, asked, candidates, size, job_type="backfill", there=there)
            job = msgspec.structs.replace(
                job,
                done_ns=end_ns,
                bars=job.bars + fetched.bars,
                new_versions=job.new_versions + fetched.new_versions,
                no_trades=job.no_trades + fetched.no_trades,
                quarantined=job.quarantined + fetched.quarantined,
                attempts=0,
                error=None,
                updated_ns=self._clock.time_ns(),
            )
            async with run.lock:
                run.job = job
                kept = await self._queue.save(job)
            self.error = None
            if not kept:
                run.job = msgspec.structs.replace(job, state="cancelled")
                return
        run.job = msgspec.structs.replace(job, done_ns=job.end_ns)

    async def _end(self, run: _Run, ended: BackfillJob) -> None:
        """Save how it ended, as often as it takes: a result that is not noted would be worked for again."""
        failures = 0
        async with run.lock:
            while True:
                ended = msgspec.structs.replace(ended, updated_ns=self._clock.time_ns())
                try:
                    kept = await self._queue.save(ended)
                    break
                except StoreError as error:
                    self.error = str(error)
                    await self._clock.sleep(_STORE_RETRY_S[min(failures, len(_STORE_RETRY_S) - 1)])
                    failures += 1
            self.error = None
            run.job = ended if kept else msgspec.structs.replace(ended, state="cancelled")

    async def _beat(self, run: _Run) -> None:
        """Says that the job is being worked on while one request takes long."""
        while True:
            await self._clock.sleep(self._config.lease_s / 3)
            async with run.lock:
                if run.job.state != "running":
                    return
                run.job = msgspec.structs.replace(run.job, updated_ns=self._clock.time_ns())
                try:
                    await self._queue.save(run.job)
                except StoreError as error:
                    _logger.warning("back-fill %s: cannot say that it goes on: %s", run.job.id, error)

    def _failed(self, job: BackfillJob, error: Exception) -> BackfillJob:
        """The job given back to rest, or parked."""
        reason = str(error) if isinstance(error, MarketDataError) else f"{type(error).__name__}: {error}"
        attempts = job.attempts + 1
        if isinstance(error, SourceUnavailable) and self._answered_ns.get(error.source, 0) <= job.updated_ns:
            # It has answered nobody since this job was last touched: that is not the job's fault.
            attempts = min(attempts, max(self._config.attempts_max - 1, job.attempts))
        is_hopeless = isinstance(error, _Refused | SourceRejected | InvalidInput)
        self._metrics.jobs_failed.labels("backfill", type(error).__name__).inc()
        if is_hopeless or attempts >= self._config.attempts_max:
            _logger.warning("back-fill %s of %s %s is parked: %s", job.id, job.symbol, job.interval, reason)
            return msgspec.structs.replace(job, state="parked", attempts=attempts, error=reason)
        delay_s = self._config.retry.delay_s(attempts - 1, self._rng)
        if isinstance(error, SourceUnavailable) and error.retry_after_s is not None:
            delay_s = max(delay_s, error.retry_after_s)
        not_before_ns = self._clock.time_ns() + round(delay_s * NS_PER_S)
        return msgspec.structs.replace(
            job, state="queued", attempts=attempts, error=reason, not_before_ns=not_before_ns
        )

    # --- a request ----------------------------------------------------------------------------------------

    async def fetch(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, provider: str | None = None
    ) -> Fetched:
        """Ask for a range now, past the queue and its rate: for what is fetched as it comes.

        The range is cut at now. Raises SourceError (nobody could answer), StoreError.
        """
        end_ns = min(end_ns, self._due_end(interval, 0.0))
        start_ns = interval.ceil(start_ns)
        if start_ns >= end_ns:
            return Fetched(provider=provider)
        try:
            candidates = self._candidates(symbol, interval, provider)
            size = self._config.live_batch_size
            return await self._fetch(symbol, interval, (start_ns, end_ns), candidates, size, job_type=None)
        except _Refused as error:
            raise SourceRejected(provider or "providers", error.reason) from error

    def _candidates(self, symbol: str, interval: Interval, provider: str | None) -> list[tuple[str, BarHistory]]:
        found = [pair for pair in self._choose(symbol, interval) if provider in (None, pair[0])]
        if not found:
            who = "no provider" if provider is None else f"{provider} is not a provider that"
            raise _Refused(f"{who} has a history of {interval} bars of {symbol}")
        return found

    def _wanted(
        self,
        job: BackfillJob,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        candidates: Sequence[tuple[str, BarHistory]],
    ) -> tuple[Starts, Starts | None]:
        """Starts of the chunk's bars that are worth asking for, and of those that are there and stay as they are."""
        expected = self._expected(job.symbol, interval, start_ns, end_ns)
        if not expected.size:
            return expected, None
        names = {name for name, _ in candidates}
        spans = [span for span in self._spans(job.symbol, interval, start_ns, end_ns) if span.provider in names]
        present = None
        if job.reason in SKIPS_PRESENT:
            present = present_starts(self._store, job.symbol, interval, start_ns, end_ns)
        return unexplained(expected, present, answers_for(job, spans)), present

    def _spans(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> tuple[AnsweredSpan, ...]:
        return self._records.spans(interval.name, start_ns, end_ns, symbol=symbol)

    async def _fetch(
        self,
        symbol: str,
        interval: Interval,
        asked: Span,
        candidates: Sequence[tuple[str, BarHistory]],
        batch_size: int,
        *,
        job_type: str | None,
        there: Starts | None = None,
    ) -> Fetched:
        """Ask one after the other until one answers for the whole range, or for all of it that its history reaches.

        What lies before one's history is asked of the next. job_type: as counted; None for a request past the rate.
        there: starts of bars that are left out of what is kept.
        """
        start_ns, end_ns = asked
        failures: list[SourceError] = []
        lacking: list[str] = []
        fetched: Fetched | None = None
        for name, history in candidates:
            begins_ns = history.history_start_ns(symbol, interval) if isinstance(history, KnowsItsStart) else None
            from_ns = start_ns if begins_ns is None else max(start_ns, interval.ceil(begins_ns))
            if from_ns >= end_ns:
                lacking.append(name)
                continue
            try:
                table = await self._ask(name, history, symbol, interval, (from_ns, end_ns), job_type)
            except SourceError as error:
                failures.append(error)
                continue
            part = await self._take(name, symbol, interval, (from_ns, end_ns), table, batch_size, there)
            fetched = part if fetched is None else _sum(fetched, part)
            if from_ns <= start_ns:
                return fetched
            lacking.append(name)
            end_ns = from_ns
        if failures and not (lacking and all(isinstance(error, SourceRejected) for error in failures)):
            raise next((e for e in failures if not isinstance(e, SourceRejected)), failures[0])
        # Everybody was asked, and nobody's history reaches back to [start_ns, end_ns).
        await asyncio.to_thread(self._note, symbol, interval, lacking, [(start_ns, end_ns)], "provider_lacks")
        lost = await asyncio.to_thread(self._expected, symbol, interval, start_ns, end_ns)
        missing = Fetched(provider=None, lacking=len(lost))
        return missing if fetched is None else _sum(fetched, missing)

    async def _ask(
        self, name: str, history: BarHistory, symbol: str, interval: Interval, asked: Span, job_type: str | None
    ) -> pa.Table:
        if self._ready is not None:
            await self._ready()
        if job_type is not None:
            await self._rate.take()
        table = await history.bars(symbol, interval, *asked)
        self._answered_ns[name] = self._clock.time_ns()
        if job_type is not None:
            self._metrics.jobs_processed.labels(job_type, name).inc()
        return table

    async def _take(
        self,
        name: str,
        symbol: str,
        interval: Interval,
        asked: Span,
        table: pa.Table,
        batch_size: int,
        there: Starts | None,
    ) -> Fetched:
        """An answer through the door, and what it says about absent bars."""
        news = table if there is None else table.filter(~np.isin(starts_of(table), there))
        new_versions = refused = 0
        for at in range(0, news.num_rows, batch_size):
            if at and self._ready is not None:
                await self._ready()
            kept = await self._keep(name, news.slice(at, batch_size))
            new_versions += kept.new_versions
            refused += sum(kept.refused.values())
        no_trades = await asyncio.to_thread(
            self._explain, name, symbol, interval, asked, table, has_refused=refused > 0
        )
        return Fetched(
            provider=name, bars=table.num_rows, new_versions=new_versions, no_trades=no_trades, quarantined=refused
        )

    def _explain(
        self, name: str, symbol: str, interval: Interval, asked: Span, table: pa.Table, *, has_refused: bool
    ) -> int:
        """Note spans and move the cursor; the number of expected bars that were absent."""
        start_ns, end_ns = asked
        settled_ns = min(end_ns, self._due_end(interval, self._config.settle_s))
        expected = self._expected(symbol, interval, start_ns, end_ns)
        came = np.unique(starts_of(table))
        quarantined: list[Span] = []
        if has_refused:
            there = present_starts(self._store, symbol, interval, start_ns, end_ns)
            others = np.setdiff1d(expected, np.setdiff1d(came, there))
            quarantined = [(s.start_ns, s.end_ns) for s in find_missing(expected, others, (), interval)]
        absent = unexplained(expected, came, ())
        absent = absent[absent < settled_ns]
        if absent.size:
            self._note(symbol, interval, [name], uncovered(start_ns, settled_ns, quarantined), "no_trades")
        self._note(symbol, interval, [name], quarantined, "quarantined")
        self._move_cursor(name, symbol, interval, start_ns)
        return int(absent.size)

    def _due_end(self, interval: Interval, settle_s: float) -> int:
        """Bars that start earlier have been over for `settle_s`."""
        end_ns: int = interval.ceil(due_end(interval, self._clock.time_ns(), round(settle_s * NS_PER_S)))
        return end_ns

    def _note(
        self, symbol: str, interval: Interval, names: Sequence[str], spans: Sequence[Span], reason: _Reason
    ) -> None:
        as_of_ns = self._clock.time_ns()
        notes = [
            AnsweredSpan(
                symbol=symbol,
                interval=interval.name,
                provider=name,
                start_ns=start_ns,
                end_ns=end_ns,
                reason=reason,
                as_of_ns=as_of_ns,
            )
            for name in names
            for start_ns, end_ns in spans
        ]
        if notes:
            self._records.note_spans(notes)

    def _move_cursor(self, name: str, symbol: str, interval: Interval, start_ns: int) -> None:
        """Over all that is there or explained, now that [start_ns, …) was asked for. It begins with the first ask."""
        cursor = self._records.cursor(symbol, interval.name, name)
        before_ns = until_ns = start_ns if cursor is None else cursor.until_ns
        settled_ns = self._due_end(interval, self._config.settle_s)
        if start_ns - until_ns > _CURSOR_BEHIND_BARS_MAX * interval.ns:
            return
        for _ in range(_CURSOR_LOOKS):
            look_ns = min(max(until_ns, start_ns) + _CURSOR_LOOK_BARS * interval.ns, settled_ns)
            if look_ns <= until_ns:
                break
            until_ns = self._continuous_until(symbol, interval, until_ns, look_ns)
            if until_ns < look_ns:
                break
        if until_ns > before_ns:
            moved = Cursor(
                symbol=symbol,
                interval=interval.name,
                provider=name,
                until_ns=until_ns,
                updated_ns=self._clock.time_ns(),
            )
            self._records.set_cursors([moved])

    def _continuous_until(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> int:
        expected = self._expected(symbol, interval, start_ns, end_ns)
        present = present_starts(self._store, symbol, interval, start_ns, end_ns)
        names = {name for name, _ in self._choose(symbol, interval)}
        spans = [
            span
            for span in self._spans(symbol, interval, start_ns, end_ns)
            if span.symbol is not None or span.provider in names
        ]
        return continuous_until(expected, present, spans, interval, end_ns)


class _Run:
    """A job that is being worked on. lock: held while it is saved, so that no older state is saved over a newer one."""

    def __init__(self, job: BackfillJob) -> None:
        self.job = job
        self.lock = asyncio.Lock()


def _sum(one: Fetched, other: Fetched) -> Fetched:
    return Fetched(
        provider=one.provider or other.provider,
        bars=one.bars + other.bars,
        new_versions=one.new_versions + other.new_versions,
        no_trades=one.no_trades + other.no_trades,
        quarantined=one.quarantined + other.quarantined,
        lacking=one.lacking + other.lacking,
    )
