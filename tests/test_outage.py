"""The outage drill: a provider is dead for ten minutes over 200 symbols, and then nothing is missing.

Time is the test's. Live bars are written as a watched stream writes them; the back-fill service, the ledger, the store
and the records are those of a server.
"""

from __future__ import annotations

import asyncio
import random

import pyarrow as pa

from marketd.calendars import AlwaysOpen
from marketd.continuity.backfill import BackfillService
from marketd.continuity.ledger import LedgerService
from marketd.continuity.plan import BackfillConfig
from marketd.continuity.queue import RecordsQueue
from marketd.ingest.history import KeptBars
from marketd.model import Interval, parse_ns
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.sqlite import SqliteRecords
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, ScriptedHistory

MINUTE = Interval.parse("1m")
M = 60 * 10**9
START_NS = parse_ns("2026-11-20T14:00:00Z")
SYMBOLS = [f"S{n:03d}" for n in range(200)]
TIERS = {symbol: ("T0", "T1", "T2")[n % 3] for n, symbol in enumerate(SYMBOLS)}


class Desk:
    """A stream that writes each minute's bars while it is up, and everything that heals."""

    def __init__(self, folder):
        self.clock = ManualClock(START_NS)
        self.store = EmbeddedStore(folder, EmbeddedStoreConfig(), self.clock)
        self.records = SqliteRecords(None)
        self.metrics = Metrics()
        self.history = ScriptedHistory(self.clock, name="desk")
        self.ledger = LedgerService(self.store, self.records, lambda _: AlwaysOpen(), lambda _: ["desk"], self.clock)
        self.up = True
        self.service = BackfillService(
            RecordsQueue(self.records, self.clock, queue_max=10_000),
            self.records,
            self.store,
            BackfillConfig(),
            self.clock,
            choose=lambda *_: [("desk", self.history)],
            keep=self.keep,
            expected=lambda _symbol, interval, start_ns, end_ns: interval.starts(start_ns, end_ns),
            tier_of=TIERS.__getitem__,
            scan=lambda interval, start_ns, end_ns: self.ledger.scan(
                interval, max(start_ns, START_NS), end_ns, SYMBOLS
            ),
            metrics=self.metrics,
            rng=random.Random(5),
        )

    async def keep(self, provider, table):
        new = await asyncio.to_thread(self.store.append, table)
        return KeptBars(received=table.num_rows, accepted=table.num_rows, new_versions=new, refused={})

    async def live_minute(self):
        """The bars of the minute that has just ended, of every symbol."""
        ended_ns = MINUTE.floor(self.clock.time_ns())
        twin = ScriptedHistory(self.clock, name="desk")
        tables = [await twin.bars(symbol, MINUTE, ended_ns - M, ended_ns) for symbol in SYMBOLS]
        table = pa.concat_tables(tables)
        statuses = pa.repeat("final", table.num_rows)
        table = table.set_column(table.schema.get_field_index("status"), table.schema.field("status"), statuses)
        assert await asyncio.to_thread(self.store.append, table) == len(SYMBOLS)

    async def run(self, minutes):
        for _ in range(minutes):
            for _ in range(120):
                await self.clock.advance(0.5)
                await asyncio.sleep(0.0005)
            if self.up:
                await self.live_minute()

    def missing(self, until_ns):
        return {
            symbol: found.missing
            for symbol in SYMBOLS
            if not (found := self.ledger.ledger(symbol, MINUTE, START_NS, until_ns)).complete
        }


def test_ten_minutes_of_200_symbols_come_back_within_twenty(tmp_path):
    async def main():
        desk = Desk(tmp_path)
        desk.service.start()
        await desk.run(5)
        assert desk.missing(START_NS + 5 * M) == {}

        desk.up, desk.history.down = False, True
        down_ns = desk.clock.time_ns()
        # Somebody asks for a hole while the provider is dead: that must not cost the job.
        await desk.service.submit("S000", MINUTE, START_NS - 10 * M, START_NS, tier="T0")
        await desk.run(10)
        assert len(desk.missing(desk.clock.time_ns() - 2 * M)) == 200

        desk.up, desk.history.down = True, False
        back_ns = desk.clock.time_ns()
        desk.service.source_returned(SYMBOLS, MINUTE, down_ns)
        healed_after = None
        for minute in range(1, 21):
            await desk.run(1)
            if not desk.missing(back_ns):
                healed_after = minute
                break
        assert healed_after is not None, "not healed within twice the outage"
        await desk.run(2)

        # No bar twice, none missing, and the jobs have ended.
        until_ns = desk.clock.time_ns() - 2 * M
        assert desk.missing(until_ns) == {}
        count = (until_ns - START_NS) // M
        for symbol in SYMBOLS:
            starts = desk.store.read(symbol, MINUTE, START_NS, until_ns)["ts"].cast("int64").to_pylist()
            assert starts == [START_NS + n * M for n in range(count)], symbol
            assert all(desk.store.versions(symbol, MINUTE, back_ns - n * M).num_rows == 1 for n in range(1, 10)), (
                f"{symbol}: a bar that was fetched has more than one version"
            )
        jobs = await desk.service.jobs(limit=1_000)
        assert {job.state for job in jobs} == {"done"}
        assert sum(job.reason == "reconnect" for job in jobs) == 200
        await desk.service.stop()
        desk.store.close()
        print(f"healed {healed_after} minutes after the return")

    asyncio.run(main())
