"""What tests of back-fill share: a desk with a clock of its own, real records, a store, and a provider made up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from marketd.continuity.plan import BackfillConfig
from marketd.continuity.queue import RecordsQueue
from marketd.continuity.worker import BackfillWorker
from marketd.ingest.history import KeptBars
from marketd.model import Interval, parse_ns
from marketd.store.memory import MemoryStore
from marketd.store.sqlite import SqliteRecords
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, ScriptedHistory

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE = Interval.parse("1m")


@dataclass
class Desk:
    """Everything that a back-fill needs, put together as a server does it, on a clock that the test moves."""

    config: BackfillConfig = field(default_factory=lambda: BackfillConfig(dispatch_rate_per_s=1e6))

    def __post_init__(self):
        self.clock = ManualClock(NOW_NS)
        self.records = SqliteRecords(None)
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.history = ScriptedHistory(self.clock)
        self.providers = [("scripted", self.history)]
        self.batches = []
        self.refuse = set()
        self.keep_errors = []
        self.queue = RecordsQueue(self.records, self.clock, queue_max=1_000)

    async def keep(self, provider, table):
        """The door: refuses the starts in `refuse`, raises what is in `keep_errors`."""
        if self.keep_errors:
            raise self.keep_errors.pop(0)
        self.batches.append((provider, table.num_rows))
        starts = table["ts"].cast("int64").to_numpy()
        good = table.filter(~np.isin(starts, list(self.refuse)))
        new = self.store.append(good)
        refused = table.num_rows - good.num_rows
        return KeptBars(
            received=table.num_rows,
            accepted=good.num_rows,
            new_versions=new,
            refused={"bad_price": refused} if refused else {},
        )

    def choose(self, symbol, interval):
        return self.providers

    def expected(self, symbol, interval, start_ns, end_ns):
        return interval.starts(start_ns, end_ns)

    def seams(self):
        return {
            "choose": self.choose,
            "keep": self.keep,
            "expected": self.expected,
            "metrics": self.metrics,
            "rng": random.Random(7),
        }

    def worker(self, **others):
        return BackfillWorker(self.queue, self.records, self.store, self.config, self.clock, **(self.seams() | others))

    def stored(self, symbol="AAPL", interval=MINUTE):
        table = self.store.read(symbol, interval, 0, 2**62)
        return dict(zip(table["ts"].cast("int64").to_pylist(), table["close"].to_pylist(), strict=True))

    def versions(self, symbol="AAPL", interval=MINUTE):
        return sum(self.store.versions(symbol, interval, ts).num_rows for ts in self.stored(symbol, interval))
