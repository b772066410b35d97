"""Replay against the contract of sources: two symbols of generated ticks, at their pace, on a manual clock."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

from marketd.sources.replay import ReplayConfig, ReplayFile, ReplaySource
from marketd.testing import ManualClock
from marketd.testing.source_conformance import SourceConformance, SourceHarness

_ROWS = 400
_SPACING_NS = 4_000_000


def _ticks(path: Path, symbol: str, price: float, now_ns: int) -> None:
    rows = (
        f"{now_ns + i * _SPACING_NS + 1},{now_ns + i * _SPACING_NS},{symbol},{price + i % 7},{price + 1 + i % 7}"
        for i in range(_ROWS)
    )
    path.write_text("recv_ns,event_ns,symbol,bid,ask\n" + "\n".join(rows) + "\n")


class TestReplay(SourceConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock()
        with tempfile.TemporaryDirectory() as folder:
            for symbol, price in (("AAA", 10.0), ("BBB", 20.0)):
                _ticks(Path(folder) / f"{symbol}.csv", symbol, price, clock.time_ns())
            files = tuple(ReplayFile(path=f"{folder}/{symbol}.csv") for symbol in ("AAA", "BBB"))
            source = ReplaySource(ReplayConfig(files=files, times="shifted"), clock)

            async def let_the_reading_thread_work() -> None:
                await asyncio.sleep(0.0005)

            yield SourceHarness(
                source=source,
                symbols=("AAA", "BBB"),
                clock=clock,
                unknown_symbol="NOPE",
                drive=let_the_reading_thread_work,
                finite=True,
            )
