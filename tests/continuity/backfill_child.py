"""A process that works off the back-fill jobs in a folder until none is left, and says what it does. Made to be killed.

Lines: `asked SYMBOL START` before each request, `kept SYMBOL JOB DONE_NS BARS` once a job's progress is durable, `end`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from marketd.clock import SystemClock
from marketd.continuity.backfill import BackfillService
from marketd.continuity.plan import BackfillConfig
from marketd.continuity.queue import RecordsQueue
from marketd.ingest.history import KeptBars
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.sqlite import SqliteRecords
from marketd.testing import ScriptedHistory


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class ToldQueue(RecordsQueue):
    async def save(self, job):
        kept = await super().save(job)
        if kept and job.done_ns is not None and job.state in ("running", "done"):
            say("kept", job.symbol, job.id, job.done_ns, job.state)
        return kept


class ToldHistory(ScriptedHistory):
    async def bars(self, symbol, interval, start_ns, end_ns):
        say("asked", symbol, start_ns)
        return await super().bars(symbol, interval, start_ns, end_ns)


async def main(folder):
    clock = SystemClock()
    store = EmbeddedStore(folder / "bars", EmbeddedStoreConfig(seal_rows=3_000), clock)
    records = SqliteRecords(folder / "records.db")
    history = ToldHistory(clock)

    async def keep(_provider, table):
        new = await asyncio.to_thread(store.append, table)
        return KeptBars(received=table.num_rows, accepted=table.num_rows, new_versions=new, refused={})

    queue = ToldQueue(records, clock, queue_max=1_000)
    service = BackfillService(
        queue,
        records,
        store,
        BackfillConfig(chunk_minutes=60, dispatch_rate_per_s=1e6, batch_size=25, heal=False),
        clock,
        choose=lambda *_: [("scripted", history)],
        keep=keep,
        expected=lambda _symbol, interval, start_ns, end_ns: interval.starts(start_ns, end_ns),
    )
    say("ready")
    service.start()
    while await service.jobs(states=["queued", "running"]):
        await clock.sleep(0.02)
    await service.stop()
    store.close()
    records.close()
    say("end")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
