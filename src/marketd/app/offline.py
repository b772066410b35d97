"""The room of history without a running server: for commands that fetch, import or look."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from marketd.app.history import HistoryRoom
from marketd.app.sources import live_providers, routed_providers
from marketd.app.stores import Stores
from marketd.clock import Clock, SystemClock
from marketd.config import Config
from marketd.continuity.backfill import BackfillService
from marketd.continuity.ledger import LedgerService
from marketd.ingest.history import KeepBars
from marketd.pipeline import Pipeline
from marketd.sources.contract import Subscriptions
from marketd.store.contract import BarStore
from marketd.store.records import Records
from marketd.telemetry import Metrics

__all__ = ["Offline", "open_offline"]


class Offline:
    """Stores, the one door for bars, the ledger, and back-fill that works on nothing until it is started."""

    def __init__(self, stores: Stores, room: HistoryRoom) -> None:
        self.store: BarStore = stores.bars
        self.records: Records = stores.records
        self.keep: KeepBars = room.writer.keep
        self.ledger: LedgerService = room.ledger
        self.backfill: BackfillService = room.backfill
        self.room = room


@contextlib.asynccontextmanager
async def open_offline(config: Config, clock: Clock | None = None) -> AsyncIterator[Offline]:
    """Open the configured stores. Raises StoreLocked while a server owns the data directory."""
    clock = clock or SystemClock()
    metrics = Metrics()
    providers, router = routed_providers(config, clock, metrics)
    stores = Stores(config, clock)
    try:
        known = {p.name: p for p in (*live_providers(config, clock, providers), *providers.by_name.values())}
        room = HistoryRoom(
            config,
            stores,
            clock,
            metrics,
            known,
            {name: Subscriptions(provider.stream_symbols) for name, provider in known.items()},
            histories=router.histories,
            note=Pipeline(clock).note_history,
        )
        try:
            yield Offline(stores, room)
        finally:
            await room.close()
    finally:
        await router.close()
        await providers.aclose()
        stores.close()
