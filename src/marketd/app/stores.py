"""The configured stores: embedded beside SQLite in the data directory, or PostgreSQL for both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from marketd.clock import Clock, SystemClock
from marketd.config import Config
from marketd.store.contract import BarStore
from marketd.store.records import Records

__all__ = ["Stores", "open_history", "open_records"]


class Stores:
    """Bars and records. kind: which engine keeps them. turn: see `BarWriter`.

    Raises StoreLocked, StoreError, StoreCorrupt, InvalidInput.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self.bars: BarStore
        self.records: Records
        self.kind: Literal["embedded", "postgres"]
        self.turn = threading.Lock()
        if config.database_url is not None:
            from marketd.store.postgres import PostgresStore

            self.kind = "postgres"
            self.bars = PostgresStore(config.database_url, config.postgres, clock)
        else:
            from marketd.store.embedded import EmbeddedStore

            self.kind = "embedded"
            self.bars = EmbeddedStore(Path(config.server.data_dir), config.store, clock)
        try:
            self.records = _records(config)
        except BaseException:
            self.bars.close()
            raise

    def close(self) -> None:
        try:
            self.records.close()
        finally:
            self.bars.close()


def _records(config: Config) -> Records:
    if config.database_url is not None:
        from marketd.store.postgres import PostgresRecords

        return PostgresRecords(config.database_url, config.postgres)
    from marketd.store.sqlite import SqliteRecords

    return SqliteRecords(Path(config.server.data_dir) / "records.db")


@contextlib.contextmanager
def open_history(config: Config) -> Iterator[tuple[BarStore, Records]]:
    """Bars and records, for a command. Raises StoreLocked while a server owns the data directory."""
    stores = Stores(config, SystemClock())
    try:
        yield stores.bars, stores.records
    finally:
        stores.close()


@contextlib.contextmanager
def open_records(config: Config) -> Iterator[Records]:
    """The records alone, for a command; also beside a running server."""
    records = _records(config)
    try:
        yield records
    finally:
        records.close()
