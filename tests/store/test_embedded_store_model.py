"""Any sequence of appends, seals and restarts, compared with a dictionary after every step."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marketd.model import Bar, Interval
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.memory import MemoryStore
from marketd.testing import ManualClock
from marketd.testing.store_conformance import bar_table

DAY = 86_400 * 10**9
SYMBOLS = ("AAPL", "MSFT", "Ä")
INTERVALS = ("1m", "1h", "1d")
SIDES = ("trade", "bid")
# around midnight, around a new year, before 1970: where sealed files begin and end
TIMES = (-DAY, 0, 20_454 * DAY - 60 * 10**9, 20_454 * DAY, 20_454 * DAY + 60 * 10**9)
PRICES = st.sampled_from([1.0, 2.0])

BARS = st.builds(
    Bar,
    symbol=st.sampled_from(SYMBOLS),
    interval=st.sampled_from(INTERVALS),
    side=st.sampled_from(SIDES),
    ts_ns=st.sampled_from(TIMES),
    open=st.just(1.0),
    high=st.just(3.0),
    low=st.just(0.5),
    close=PRICES,
    volume=st.sampled_from([None, float("nan"), 5.0]),
    vwap=st.none(),
    trades=st.sampled_from([None, 0]),
    provider=st.sampled_from(["sim", "coinbase"]),
    status=st.sampled_from(["live", "final"]),
    as_of_ns=st.integers(0, 30),
)


class StoreAgainstDictionary(RuleBasedStateMachine):
    @initialize(seal_rows=st.sampled_from([1, 3, 8, 1000]), row_group_rows=st.sampled_from([1, 3, 100]))
    def begin(self, seal_rows: int, row_group_rows: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="marketd-model-")
        self.config = EmbeddedStoreConfig(
            seal_rows=seal_rows, row_group_rows=row_group_rows, rows_cached=4, footers_cached=2
        )
        self.clock = ManualClock(20_454 * DAY)
        self.model = MemoryStore()
        self.store = self.open()
        self.batches = [bar_table([])]

    def open(self) -> EmbeddedStore:
        return EmbeddedStore(Path(self.folder.name), self.config, self.clock)

    @rule(bars=st.lists(BARS, max_size=8))
    def append(self, bars: list[Bar]) -> None:
        batch = bar_table(bars)
        self.batches.append(batch)
        assert self.store.append(batch) == self.model.append(batch)

    @rule(data=st.data())
    def append_again(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.batches[-3:]))
        assert self.store.append(batch) == self.model.append(batch)

    @rule()
    def seal(self) -> None:
        self.store.seal()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule()
    def sleep_over_midnight(self) -> None:
        self.clock._elapsed_ns += DAY

    @rule(
        symbol=st.sampled_from(SYMBOLS),
        interval=st.sampled_from(INTERVALS),
        side=st.sampled_from(SIDES),
        start_ns=st.sampled_from((-(2**63), *TIMES)),
        end_ns=st.sampled_from((*TIMES, 2**63 - 1)),
        limit=st.none() | st.integers(1, 4),
        newest_first=st.booleans(),
        as_of_ns=st.none() | st.integers(0, 40),
    )
    def read(self, symbol: str, interval: str, start_ns: int, end_ns: int, **options: object) -> None:
        asked = (symbol, Interval.parse(interval), start_ns, end_ns)
        assert self.store.read(*asked, **options).equals(self.model.read(*asked, **options))

    @invariant()
    def every_bar_is_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.symbols() == self.model.symbols()
        for symbol in SYMBOLS:
            for interval in INTERVALS:
                asked = (symbol, Interval.parse(interval), -(2**63), 2**63 - 1)
                assert self.store.read(*asked).equals(self.model.read(*asked))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
TestStoreAgainstDictionary.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
