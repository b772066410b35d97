"""A small engine made by hand for the doors of history: a store in memory, records, and the services over them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rest_door import Answer, asgi

from marketd.api.asgi import build_app
from marketd.calendars import AlwaysOpen, expected_starts
from marketd.continuity.backfill import BackfillService
from marketd.continuity.history import HistoryService
from marketd.continuity.ledger import LedgerService
from marketd.continuity.plan import BackfillConfig
from marketd.continuity.queue import RecordsQueue
from marketd.errors import InvalidInput, UnknownSymbol
from marketd.ingest.history import KeptBars
from marketd.model import BAR_SCHEMA, Bar, Interval, Quarantined, Side, parse_ns
from marketd.store.memory import MemoryStore
from marketd.store.sqlite import SqliteRecords
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

MINUTE = 60_000_000_000
NOW = "2026-11-20T12:00:00Z"
API = "/api/v1/market-data"


def at(text: str) -> int:
    """`10:31` of 20 November 2026, or a whole time."""
    return parse_ns(text if len(text) > 8 else f"2026-11-20T{text}:00Z")


def row(ts: str | int, price: float, interval: str = "1m", **changes: Any) -> dict[str, Any]:
    """A bar of X that opens at a price, rises by 2, falls by 1 below and closes 1 above it."""
    ts_ns = at(ts) if isinstance(ts, str) else ts
    return {
        "symbol": "X", "interval": interval, "side": "trade", "ts": ts_ns,
        "open": price, "high": price + 2, "low": price - 1, "close": price + 1,
        "volume": 10.5, "vwap": None, "trades": 2, "provider": "venue", "status": "final", "as_of": ts_ns + MINUTE,
        **changes,
    }  # fmt: skip


class Desk:
    """Implements as much of `api.engine.Engine` as these doors ask for."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] | pa.Table, keep_1s: bool = True) -> None:
        self.clock = ManualClock(parse_ns(NOW))
        self.metrics = Metrics()
        self.store = MemoryStore()
        if len(rows):
            self.store.append(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), BAR_SCHEMA))
        self.records = SqliteRecords(None)
        self.live: list[Bar] = []
        self._keep_1s = keep_1s
        calendar = AlwaysOpen()
        over = (self.store, self.records, lambda _: calendar, lambda _: ("venue",), self.clock)
        self.history, self.ledger = HistoryService(*over), LedgerService(*over)
        self.backfill = BackfillService(
            RecordsQueue(self.records, self.clock, queue_max=100),
            self.records,
            self.store,
            BackfillConfig(),
            self.clock,
            choose=lambda _symbol, _interval: (),
            keep=_keep_nothing,
            expected=lambda _symbol, interval, start_ns, end_ns: expected_starts(calendar, interval, start_ns, end_ns),
        )
        self._app = build_app(self)  # type: ignore[arg-type]

    def check_history(self, symbol: str, interval: Interval | None = None) -> None:
        if symbol not in self.store.symbols():
            raise UnknownSymbol(symbol, self.store.symbols())
        if interval is not None and interval.name == "1s" and not self._keep_1s:
            raise InvalidInput("interval", "1s", "1m or longer")

    def default_side(self, _symbol: str) -> Side:
        return "trade"

    def live_bars(self, symbol: str, base: Interval, side: Side, start_ns: int, end_ns: int) -> Sequence[Bar]:
        wanted = (symbol, base.name, side)
        return [b for b in self.live if (b.symbol, b.interval, b.side) == wanted and start_ns <= b.ts_ns < end_ns]

    def quarantine(self) -> Sequence[Quarantined]:
        return [Quarantined(source="venue", time_received_ns=at("11:00"), reason="high_below_low", detail="1 < 2")]

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, times: int = 1
    ) -> Answer:
        """The answer to a request, made so many times; the last one."""
        bare, _, query = path.partition("?")

        async def run() -> Answer:
            for _ in range(times - 1):
                await asgi(self._app, bare, method=method, query=query.encode(), headers=headers, body=body)
            return await asgi(self._app, bare, method=method, query=query.encode(), headers=headers, body=body)

        return asyncio.run(run())


async def _keep_nothing(provider: str, bars: pa.Table) -> KeptBars:
    raise AssertionError(f"nothing is fetched here, but {len(bars)} bars came from {provider}")
