"""The dictionary store against the contract, and against another dictionary."""

from pathlib import Path

from marketd.store.memory import MemoryStore
from marketd.testing.store_conformance import StoreConformance
from marketd.testing.store_machine import StoreMachine, machine_settings


class TestMemoryStore(StoreConformance):
    def make_store(self, folder: Path) -> MemoryStore:
        return MemoryStore()


class MemoryMachine(StoreMachine):
    def make_store(self) -> MemoryStore:
        return MemoryStore()


TestMemoryStoreModel = MemoryMachine.TestCase
TestMemoryStoreModel.settings = machine_settings(30)
