"""The dictionary store against the contract."""

from pathlib import Path

from marketd.store.memory import MemoryStore
from marketd.testing.store_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    def make_store(self, folder: Path) -> MemoryStore:
        return MemoryStore()
