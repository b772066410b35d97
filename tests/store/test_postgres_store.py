"""The PostgreSQL store against the contract."""

from pathlib import Path

import pytest

from marketd.model import parse_ns
from marketd.store.contract import BarStore
from marketd.store.postgres import PostgresConfig, PostgresStore
from marketd.testing import ManualClock
from marketd.testing.store_conformance import StoreConformance
from marketd.testing.store_machine import StoreMachine, machine_settings
from postgres_server import empty_tables

NOW_NS = parse_ns("2026-11-20T14:30:00Z")


class TestPostgresStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _database(self, postgres_url: str) -> None:
        self.url = postgres_url

    def make_store(self, folder: Path) -> PostgresStore:
        return PostgresStore(self.url, PostgresConfig(), ManualClock(NOW_NS))


class PostgresMachine(StoreMachine):
    url: str

    def make_store(self) -> PostgresStore:
        empty_tables(self.url)
        return self._open()

    def _open(self) -> PostgresStore:
        return PostgresStore(self.url, PostgresConfig(migrate_at_start=False), ManualClock(NOW_NS))

    def reopen(self, store: BarStore) -> PostgresStore:
        store.close()
        return self._open()


@pytest.mark.usefixtures("machine_database")
class TestPostgresStoreModel(PostgresMachine.TestCase):  # type: ignore[misc]  # made by hypothesis
    settings = machine_settings(8, 20)


@pytest.fixture
def machine_database(migrated_database: str) -> None:
    PostgresMachine.url = migrated_database
