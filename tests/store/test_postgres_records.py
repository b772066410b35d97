"""The PostgreSQL records against the contract."""

from pathlib import Path

import pytest

from marketd.store.postgres import PostgresConfig, PostgresRecords
from marketd.testing.records_conformance import RecordsConformance


class TestPostgresRecords(RecordsConformance):
    @pytest.fixture(autouse=True)
    def _database(self, postgres_url: str) -> None:
        self.url = postgres_url

    def make_records(self, folder: Path) -> PostgresRecords:
        return PostgresRecords(self.url, PostgresConfig())
