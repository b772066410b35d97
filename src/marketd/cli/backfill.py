"""`marketd backfill`: have bars fetched, by the running server or, when none answers, right here."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from marketd.cli.asking import NoAnswer, error_words, server_url
from marketd.cli.given import config_option, interval_of, time_ns

if TYPE_CHECKING:
    import aiohttp

    from marketd.continuity.backfill import BackfillService
    from marketd.continuity.queue import JobRecord
    from marketd.model import Interval, Tier

__all__ = ["backfill"]

_POLL_S = 0.25
_PROBE_S = 1.0
_ANSWER_S = 30.0
_STEPS = 1_000
_ENDED = ("done", "parked", "cancelled")


@click.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]…")
@click.option("--interval", "interval_text", default="1m", show_default=True, help="Length of the bars.")
@click.option("--start", "start_text", metavar="TIME", help="Date or RFC 3339 time of the first bar.")
@click.option("--end", "end_text", metavar="TIME", help="The same; itself not in the range.  [default: now]")
@click.option("--provider", help="Ask only this one.")
@click.option("--tier", type=click.Choice(["T0", "T1", "T2"]), help="Queue to wait in.  [default: the symbol's own]")
@click.option("--detach", is_flag=True, help="Leave it to the server and do not wait.")
@click.option("--status", metavar="[ID]", is_flag=False, flag_value="", help="Show a job, or the newest ones.")
@click.option("--cancel", metavar="ID", help="Cancel a job; what was fetched stays.")
@click.option("--server", metavar="URL", help="The running server.  [default: the configured one, if it answers]")
@config_option
def backfill(
    symbols: tuple[str, ...],
    interval_text: str,
    start_text: str | None,
    end_text: str | None,
    provider: str | None,
    tier: Tier | None,
    status: str | None,
    cancel: str | None,
    server: str | None,
    config_path: Path | None,
    *,
    detach: bool,
) -> None:
    """Fetch bars of a past time from the providers, and wait until they are there.

    Ends with 0 when all were fetched, 1 when a job was given up or cancelled, 2 when nothing could be started. What is
    interrupted is in the queue and goes on with the server, or with the next `marketd backfill`.

    \b
    marketd backfill AAPL MSFT --interval 1m --start 2026-11-16 --end 2026-11-21
    marketd backfill --status
    """
    if status is not None or cancel is not None:
        if symbols:
            raise click.UsageError("--status and --cancel take no symbols")
        asyncio.run(_show(status, cancel, server, config_path))
        return
    if not symbols:
        raise click.UsageError("name at least one symbol")
    if start_text is None:
        raise click.UsageError("--start is missing: the time of the first bar")
    from marketd.clock import SystemClock

    interval = interval_of("--interval", interval_text)
    end_ns = SystemClock().time_ns() if end_text is None else time_ns("--end", end_text)
    asked = _Asked(symbols, interval, time_ns("--start", start_text), end_ns, provider, tier)
    if asked.start_ns >= asked.end_ns:
        raise click.BadParameter("is not before --end", param_hint="--start")
    ended = asyncio.run(_fetch(asked, server, config_path, detach=detach))
    if any(job.state in ("parked", "cancelled") for job in ended):
        sys.exit(1)


class _Asked:
    def __init__(
        self,
        symbols: Sequence[str],
        interval: Interval,
        start_ns: int,
        end_ns: int,
        provider: str | None,
        tier: Tier | None,
    ) -> None:
        self.symbols = symbols
        self.interval = interval
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.provider = provider
        self.tier = tier


class _Desk(Protocol):
    """Who takes jobs."""

    is_server: bool

    async def submit(self, symbol: str, asked: _Asked) -> JobRecord: ...

    async def job(self, job_id: str) -> JobRecord | None: ...

    async def jobs(self) -> Sequence[JobRecord]: ...

    async def cancel(self, job_id: str) -> JobRecord | None: ...


class _Here:
    """The back-fill service of this process."""

    is_server = False

    def __init__(self, service: BackfillService) -> None:
        self._service = service

    async def submit(self, symbol: str, asked: _Asked) -> JobRecord:
        job = await self._service.submit(
            symbol, asked.interval, asked.start_ns, asked.end_ns, tier=asked.tier, provider=asked.provider
        )
        return _record(job)

    async def job(self, job_id: str) -> JobRecord | None:
        job = await self._service.job(job_id)
        return None if job is None else _record(job)

    async def jobs(self) -> Sequence[JobRecord]:
        return [_record(job) for job in await self._service.jobs(limit=50)]

    async def cancel(self, job_id: str) -> JobRecord | None:
        job = await self._service.cancel(job_id)
        return None if job is None else _record(job)


def _record(job: Any) -> JobRecord:
    from marketd.continuity.queue import JobRecord

    return JobRecord.from_job(job)


class _Server:
    """A running server, over HTTP."""

    is_server = True

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def submit(self, symbol: str, asked: _Asked) -> JobRecord:
        from marketd.model import format_ns

        body = {
            "symbol": symbol,
            "interval": asked.interval.name,
            "start": format_ns(asked.start_ns),
            "end": format_ns(asked.end_ns),
            "provider": asked.provider,
            "priority": asked.tier,
        }
        found = await self._record("POST", "/ops/backfill", {k: v for k, v in body.items() if v is not None})
        assert found is not None
        return found

    async def job(self, job_id: str) -> JobRecord | None:
        return await self._record("GET", f"/ops/backfill/{job_id}")

    async def jobs(self) -> Sequence[JobRecord]:
        import msgspec

        from marketd.continuity.queue import JobRecord

        answer = await self._asked("GET", "/ops/backfill?limit=50")
        return msgspec.json.decode(answer or b"{}", type=dict[str, list[JobRecord]]).get("jobs", [])

    async def cancel(self, job_id: str) -> JobRecord | None:
        return await self._record("DELETE", f"/ops/backfill/{job_id}")

    async def _record(self, method: str, path: str, body: dict[str, str] | None = None) -> JobRecord | None:
        import msgspec

        from marketd.continuity.queue import JobRecord

        answer = await self._asked(method, path, body)
        return None if answer is None else msgspec.json.decode(answer, type=JobRecord)

    async def _asked(self, method: str, path: str, body: dict[str, str] | None = None) -> bytes | None:
        """The answer's body; None if the server does not know the job."""
        import aiohttp

        try:
            async with self._session.request(method, self._url + path, json=body) as answer:
                told = await answer.read()
                if answer.status == 404 and method != "POST":
                    return None
                if answer.status >= 400:
                    raise NoAnswer(f"{self._url} answered {answer.status}: {error_words(told)}")
                return told
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoAnswer(f"{self._url} gave no answer: {str(error) or type(error).__name__}") from error


@contextlib.asynccontextmanager
async def _desk(server: str | None, config_path: Path | None, *, works: bool) -> AsyncIterator[_Desk]:
    """The server that was named, or the configured one if it answers, else this process. works: whether jobs are
    worked off here, if it is here."""
    import aiohttp

    from marketd.config import load_config

    config = load_config(config_path)
    host = config.server.host
    url = server_url(server or f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
        if server is not None or await _answers(session, url):
            yield _Server(session, url)
            return
    from marketd.app.offline import open_offline

    async with open_offline(config) as engine:
        if works:
            engine.backfill.start(heal=False)
        try:
            yield _Here(engine.backfill)
        finally:
            await engine.backfill.stop()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a server of ours is there, and not something else on the port."""
    import aiohttp
    import msgspec

    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=_PROBE_S)) as answer:
            health = msgspec.json.decode(await answer.read())
            return isinstance(health, dict) and "epoch" in health
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
        return False


async def _fetch(asked: _Asked, server: str | None, config_path: Path | None, *, detach: bool) -> list[JobRecord]:
    async with _desk(server, config_path, works=True) as desk:
        if detach and not desk.is_server:
            raise NoAnswer("no server answers that it could be left to")
        jobs = {job.id: job for job in [await desk.submit(symbol, asked) for symbol in asked.symbols]}
        if detach:
            for job in jobs.values():
                click.echo(f"{job.id}  {job.symbol} {job.interval} {job.start} to {job.end}, {job.tier}")
            return list(jobs.values())
        label = f"{len(jobs)} job{'s' * (len(jobs) > 1)}"
        with click.progressbar(length=_STEPS, label=label, file=sys.stderr) as bar:
            while True:
                bar.update(round(_STEPS * sum(map(_share, jobs.values())) / len(jobs)) - bar.pos)
                if all(job.state in _ENDED for job in jobs.values()):
                    break
                await asyncio.sleep(_POLL_S)
                for job_id in [job.id for job in jobs.values() if job.state not in _ENDED]:
                    found = await desk.job(job_id)
                    if found is None:
                        raise NoAnswer(f"job {job_id} is no longer known")
                    jobs[job_id] = found
    ended = list(jobs.values())
    click.echo(_summary(ended))
    for job in ended:
        if job.state != "done":
            why = f": {job.error}" if job.error else ""
            click.echo(f"{job.symbol} was {job.state}{why}", err=True)
    return ended


def _share(job: JobRecord) -> float:
    """How much of a job is done, 0 to 1."""
    from marketd.model import parse_ns

    if job.state in _ENDED:
        return 1.0
    if job.done_until is None:
        return 0.0
    start_ns = parse_ns(job.start)
    return (parse_ns(job.done_until) - start_ns) / (parse_ns(job.end) - start_ns)


def _summary(jobs: Sequence[JobRecord]) -> str:
    failed = sum(job.state != "done" for job in jobs)
    return (
        f"{sum(job.bars for job in jobs):,} bars fetched, {sum(job.new_versions for job in jobs):,} new versions, "
        f"{sum(job.no_trades for job in jobs):,} without trades, "
        f"{sum(job.quarantined for job in jobs):,} quarantined; "
        f"{len(jobs) - failed:,} of {len(jobs):,} jobs done" + (f", {failed:,} failed" if failed else "")
    )


async def _show(status: str | None, cancel: str | None, server: str | None, config_path: Path | None) -> None:
    async with _desk(server, config_path, works=False) as desk:
        if cancel is not None:
            found = [await desk.cancel(cancel)]
        elif status:
            found = [await desk.job(status)]
        else:
            found = list(await desk.jobs())
    for job in found:
        if job is None:
            raise NoAnswer(f"there is no job {cancel or status}")
        error = f"  {job.error}" if job.error else ""
        click.echo(
            f"{job.id}  {job.state:9} {_share(job):4.0%}  {job.symbol} {job.interval} {job.start} to {job.end}  "
            f"{job.bars:,} bars{error}"
        )
    if not found:
        click.echo("no jobs")
