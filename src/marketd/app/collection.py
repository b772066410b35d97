"""What keeps data coming by request: the sweeper and the job list, put to the providers' memories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from marketd.api.engine import PartState
from marketd.app.history import HistoryRoom
from marketd.clock import Clock
from marketd.collect.jobs import JobConsumer, JobHandler, JobType, ListedJob
from marketd.collect.lease import LocalLease, RedisLease
from marketd.collect.sweeper import Sweeper, SweepFetch, SweepKind, SweepTask
from marketd.config import Config
from marketd.errors import ConfigError, InvalidInput
from marketd.model import Instrument, Interval, Quote
from marketd.routing import Routed
from marketd.sources.http import PRIORITY
from marketd.telemetry import Metrics

__all__ = ["Collection"]

_MINUTE = Interval.parse("1m")
_DAY = Interval.parse("1d")


class AskQuote(Protocol):
    """source: who is asked first."""

    def __call__(self, symbol: str, /, *, source: str | None = None) -> Awaitable[Routed[Quote]]: ...


class Collection:
    """ask: gets a quote of whoever is best (`routing.Router.quote`). take: the pipeline's door for it, on the loop."""

    def __init__(
        self,
        config: Config,
        room: HistoryRoom,
        clock: Clock,
        metrics: Metrics,
        *,
        ask: AskQuote,
        take: Callable[[str, Quote], None],
    ) -> None:
        self._room = room
        self._ask = ask
        self._take = take
        self._lease = LocalLease(clock) if config.redis_url is None else RedisLease(config.redis_url)
        sweeps: dict[SweepKind, SweepFetch] = {
            "bars_1m": self._sweep_minutes,
            "eod": self._sweep_day,
            "quotes_l1": self._sweep_quote,
        }
        self.sweeper = Sweeper(
            config.sweep,
            clock,
            members=self._members,
            calendar_of=room.calendar_of,
            fetch=sweeps,
            lease=self._lease,
            metrics=metrics,
        )
        self.jobs: JobConsumer | None = None
        if config.jobs.use_rlc:
            url = config.jobs.redis_url or config.redis_url
            if url is None:
                raise ConfigError("jobs", "redis_url", None, "a Redis URL (RLC_REDIS_URL), since use_rlc is on")
            handlers: dict[JobType, JobHandler] = {
                "backfill": self._backfill,
                "fetch_bars": self._fetch_bars,
                "fetch_quotes": self._fetch_quotes,
                "eod": self._fetch_bars,
            }
            self.jobs = JobConsumer(config.jobs, url, clock, handlers, metrics=metrics)

    def start(self) -> None:
        self.sweeper.start()
        if self.jobs is not None:
            self.jobs.start()

    async def stop(self) -> None:
        await self.sweeper.stop()
        if isinstance(self._lease, RedisLease):
            await self._lease.close()
        if self.jobs is not None:
            await self.jobs.stop()

    def sweeper_part(self) -> PartState:
        """For `/health`."""
        state = self.sweeper.state
        return PartState(
            kind="local",
            state="off" if state.state == "stopped" else state.state,
            error=state.error,
            waiting=state.in_flight + sum(lane.owed for lane in state.lanes),
        )

    def jobs_part(self) -> PartState:
        """For `/health`."""
        if self.jobs is None:
            return PartState(kind="redis", state="off", error=None, waiting=0)
        state = self.jobs.state
        return PartState(
            kind="redis",
            state="off" if state.state == "stopped" else state.state,
            error=state.error,
            waiting=state.running,
        )

    def _members(self) -> list[Instrument]:
        return [instrument for instrument in self._room.universe.instruments if instrument.active]

    # --- the sweeper's turns -------------------------------------------------------------------------------

    async def _sweep_minutes(self, task: SweepTask) -> str | None:
        return (await self._room.backfill.fetch(task.symbol, _MINUTE, task.start_ns, task.end_ns)).provider

    async def _sweep_day(self, task: SweepTask) -> str | None:
        return (await self._room.backfill.fetch(task.symbol, _DAY, task.start_ns, task.end_ns)).provider

    async def _sweep_quote(self, task: SweepTask) -> str | None:
        return await self._quote(task.symbol, None)

    # --- listed jobs ---------------------------------------------------------------------------------------

    async def _backfill(self, job: ListedJob) -> str | None:
        interval, start_ns, end_ns = _range(job)
        await self._room.backfill.submit(
            job.symbol, interval, start_ns, end_ns, tier=job.tier, provider=job.provider, reason="job"
        )
        return None

    async def _fetch_bars(self, job: ListedJob) -> str | None:
        interval, start_ns, end_ns = _range(job)
        fetched = await self._room.backfill.fetch(job.symbol, interval, start_ns, end_ns, provider=job.provider)
        return fetched.provider

    async def _fetch_quotes(self, job: ListedJob) -> str | None:
        return await self._quote(job.symbol, job.provider)

    async def _quote(self, symbol: str, provider: str | None) -> str | None:
        """Who answered. Raises SourceError."""
        PRIORITY.set("sweep")
        found = await self._ask(symbol, source=provider)
        self._take(found.provider, found.value)
        return found.provider


def _range(job: ListedJob) -> tuple[Interval, int, int]:
    if job.interval is None or job.start_ns is None or job.end_ns is None:
        raise InvalidInput("interval", None, "interval, start and end")
    return job.interval, job.start_ns, job.end_ns
