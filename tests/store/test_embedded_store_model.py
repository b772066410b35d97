"""Any sequence of appends, seals, compactions and restarts, compared with a dictionary after every step."""

import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.embedded.compact import merge
from marketd.testing import ManualClock
from marketd.testing.store_machine import StoreMachine, machine_settings

DAY = 86_400 * 10**9


class EmbeddedMachine(StoreMachine):
    @initialize(
        seal_rows=st.sampled_from([1, 3, 8, 1000]),
        run_rows=st.sampled_from([1, 2, 1000]),
        row_group_rows=st.sampled_from([1, 3, 100]),
        file_rows=st.sampled_from([1, 5, 1000]),
        by_time_days=st.sampled_from([0, 400]),
    )
    def choose_settings(self, **settings: int) -> None:
        # the other initialiser may have run before
        self.settings = settings
        if hasattr(self, "store"):
            self.store.close()
            self.store = self.open()

    def make_store(self) -> EmbeddedStore:
        self.folder = tempfile.TemporaryDirectory(prefix="marketd-model-")
        self.clock = ManualClock(20_454 * DAY)
        return self.open()

    def open(self) -> EmbeddedStore:
        config = EmbeddedStoreConfig(
            rows_cached=4,
            footers_cached=2,
            coverage_bytes_cached=2_000,
            compact_every_s=None,
            retire_after_s=0,
            **getattr(self, "settings", {}),
        )
        return EmbeddedStore(Path(self.folder.name), config, self.clock, merge=merge)

    def reopen(self, store: EmbeddedStore) -> EmbeddedStore:
        store.close()
        return self.open()

    def rearrange(self, store: EmbeddedStore) -> None:
        store.seal()

    @rule()
    def merge_all(self) -> None:
        self.store.compact()

    @rule()
    def merge_what_is_due(self) -> None:
        self.store._compact_what_is_due()

    @rule(days=st.sampled_from([1, 20, 40]))
    def sleep_over_midnight(self, days: int) -> None:
        self.clock._elapsed_ns += days * DAY

    def discard(self) -> None:
        self.folder.cleanup()


TestEmbeddedStoreModel = EmbeddedMachine.TestCase
TestEmbeddedStoreModel.settings = machine_settings(25, 30)
