"""Any sequence of calls, compared with a plain dictionary after every step: the other half of `StoreConformance`.

Subclass `StoreMachine`, say how to make and reopen a store, and hand `.TestCase` to pytest:

    class MyMachine(StoreMachine):
        def make_store(self) -> BarStore: ...

    TestMyStore = MyMachine.TestCase
    TestMyStore.settings = machine_settings(25)

The dictionary below is written from the words of `BarStore` and shares no code with any engine.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marketd.model import BAR_SCHEMA, Bar, Interval
from marketd.store.contract import BarStore
from marketd.testing.store_conformance import bar_table

__all__ = ["StoreMachine", "machine_settings"]

_DAY = 86_400 * 10**9
_MINUTE = 60 * 10**9
_SYMBOLS = ("AAPL", "MSFT", "Ä")
_ASKED = ("AAPL", "MSFT", "Ä", "none")
_INTERVALS = ("1m", "1h", "1d")
_SIDES = ("trade", "bid")
_PROVIDERS = ("coinbase", "file:adjusted", "sim", "sim:adjusted")
_MIDNIGHT = 20_454 * _DAY  # 2026-01-01
# around midnight and a new year, before 1970, months apart: where files, partitions and bitmaps begin and end
_TIMES = (
    -_DAY,
    0,
    _MIDNIGHT - 70 * _DAY,
    _MIDNIGHT - _MINUTE,
    _MIDNIGHT,
    _MIDNIGHT + _MINUTE,
    _MIDNIGHT + 9 * _MINUTE,
)
_FIRST_NS, _LAST_NS = -(2**63), 2**63 - 1

_Key = tuple[str, str, str, int, str]
_Row = dict[str, Any]


def machine_settings(examples: int, steps: int = 25) -> settings:
    """Settings for a machine's TestCase: no deadline, since stores touch disks and databases."""
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )


def _bars(as_of: st.SearchStrategy[int]) -> st.SearchStrategy[Bar]:
    # 1h and 1d bars are at the same times as 1m bars, where these are whole hours and days
    whole = {"1m": _TIMES, "1h": _TIMES[:3] + _TIMES[4:5], "1d": _TIMES[:3] + _TIMES[4:5]}
    places = st.sampled_from([(interval, ts) for interval in _INTERVALS for ts in whole[interval]])
    return st.builds(
        lambda place, **fields: Bar(interval=place[0], ts_ns=place[1], **fields),
        place=places,
        symbol=st.sampled_from(_SYMBOLS),
        side=st.sampled_from(_SIDES),
        open=st.just(1.0),
        high=st.just(3.0),
        low=st.just(0.5),
        close=st.sampled_from([1.0, 2.0]),
        volume=st.sampled_from([None, float("nan"), 5.0]),
        vwap=st.none(),
        trades=st.sampled_from([None, 0]),
        provider=st.sampled_from(_PROVIDERS),
        status=st.sampled_from(["live", "final", "withdrawn"]),
        as_of_ns=as_of,
    )


class _Model:
    """Every version of every key, oldest first."""

    def __init__(self) -> None:
        self.versions: dict[_Key, list[_Row]] = {}

    def append(self, bars: Iterable[Bar]) -> int:
        made = 0
        for bar in sorted(bars, key=lambda bar: bar.as_of_ns):
            row = msgspec.structs.asdict(bar)
            row["ts"], row["as_of"] = row.pop("ts_ns"), row.pop("as_of_ns")
            row = {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124 - NaN
            made += self._keep(row)
        return made

    def _keep(self, row: _Row) -> bool:
        known = self.versions.setdefault((row["symbol"], row["interval"], row["side"], row["ts"], row["provider"]), [])
        values = {name: value for name, value in row.items() if name != "as_of"}
        then = [version for version in known if version["as_of"] <= row["as_of"]]
        for version in known[-1:] + then[-1:]:
            if values == {name: value for name, value in version.items() if name != "as_of"}:
                return False
        if known and row["as_of"] <= known[-1]["as_of"]:
            row["as_of"] = known[-1]["as_of"] + 1
        known.append(row)
        return True

    def in_force(
        self, symbol: str, interval: str, side: str, as_of_ns: int | None = None, prefer: Sequence[str] = ()
    ) -> dict[int, _Row]:
        """ts to the bar that a reader is given."""
        given: dict[int, _Row] = {}
        for ts_ns in sorted({key[3] for key in self.versions if key[:3] == (symbol, interval, side)}):
            candidates = []
            for provider in _PROVIDERS:
                known = self.versions.get((symbol, interval, side, ts_ns, provider), [])
                known = [v for v in known if as_of_ns is None or v["as_of"] <= as_of_ns]
                if known and known[-1]["status"] != "withdrawn":
                    candidates.append(known[-1])
            preferred = [row for name in prefer for row in candidates if row["provider"] == name]
            if preferred:
                given[ts_ns] = preferred[0]
            elif candidates:  # in the order of their names, so that on a tie the first by name is found first
                raw = [row for row in candidates if ":adjusted" not in row["provider"]]
                given[ts_ns] = max(raw or candidates, key=lambda row: int(row["as_of"]))
        return given


def _table(rows: Sequence[_Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=BAR_SCHEMA)


class StoreMachine(RuleBasedStateMachine):
    """The rules. Half of the runs have clocks that jump about, the others a clock that only goes forward."""

    @abstractmethod
    def make_store(self) -> BarStore:
        """An empty store."""

    def reopen(self, store: BarStore) -> BarStore:
        """The store after a restart of its process; the same one if it keeps nothing."""
        return store

    def rearrange(self, store: BarStore) -> None:
        """Let the store move its rows about: seal, compact, analyse. Nothing to do for most."""

    def discard(self) -> None:
        """Remove what `make_store` made; the store is closed."""

    @initialize(steady=st.booleans())
    def begin(self, steady: bool) -> None:
        self.steady = steady
        self.now_ns = 1_000
        self.model = _Model()
        self.batches: list[list[Bar]] = [[]]
        self.remembered: list[tuple[int, str, str, str, Sequence[str], pa.Table]] = []
        self.store = self.make_store()

    @rule(bars=st.lists(_bars(st.integers(0, 30)), max_size=8))
    def append(self, bars: list[Bar]) -> None:
        if self.steady:
            bars = [msgspec.structs.replace(bar, as_of_ns=self.now_ns) for bar in bars]
            self.now_ns += 100
        self.batches.append(bars)
        assert self.store.append(bar_table(bars)) == self.model.append(bars)

    @rule(data=st.data())
    def append_again(self, data: st.DataObject) -> None:
        bars = data.draw(st.sampled_from(self.batches[-3:]))
        if self.steady:
            bars = [msgspec.structs.replace(bar, as_of_ns=self.now_ns) for bar in bars]
            self.now_ns += 100
        assert self.store.append(bar_table(bars)) == self.model.append(bars)

    @rule()
    def move_rows(self) -> None:
        self.rearrange(self.store)

    @rule()
    def restart(self) -> None:
        self.store = self.reopen(self.store)

    @rule(
        symbol=st.sampled_from(_ASKED),
        interval=st.sampled_from(_INTERVALS),
        side=st.sampled_from(_SIDES),
        start_ns=st.sampled_from((_FIRST_NS, *_TIMES)),
        end_ns=st.sampled_from((*_TIMES, _LAST_NS)),
        limit=st.none() | st.integers(1, 4),
        newest_first=st.booleans(),
        as_of_ns=st.none() | st.integers(0, 40) | st.integers(1_000, 2_000),
        prefer=st.lists(st.sampled_from((*_PROVIDERS, "nobody")), max_size=3),
    )
    def read(
        self,
        symbol: str,
        interval: str,
        side: Any,
        start_ns: int,
        end_ns: int,
        limit: int | None,
        newest_first: bool,
        as_of_ns: int | None,
        prefer: list[str],
    ) -> None:
        bars = self.model.in_force(symbol, interval, side, as_of_ns, prefer)
        rows = [bars[ts] for ts in sorted(bars, reverse=newest_first) if start_ns <= ts < end_ns][:limit]
        answer = self.store.read(
            symbol,
            Interval.parse(interval),
            start_ns,
            end_ns,
            side=side,
            limit=limit,
            newest_first=newest_first,
            as_of_ns=as_of_ns,
            prefer=prefer,
        )
        assert answer.equals(_table(rows))

    @rule(
        interval=st.sampled_from(_INTERVALS),
        side=st.sampled_from(_SIDES),
        ts_ns=st.sampled_from(_TIMES),
        symbols=st.none() | st.lists(st.sampled_from(_ASKED), unique=True),
        as_of_ns=st.none() | st.integers(0, 40),
        prefer=st.lists(st.sampled_from(_PROVIDERS), max_size=2),
    )
    def cross_section(
        self, interval: str, side: Any, ts_ns: int, symbols: list[str] | None, as_of_ns: int | None, prefer: list[str]
    ) -> None:
        rows = []
        for symbol in _SYMBOLS if symbols is None else sorted(symbols):
            bars = self.model.in_force(symbol, interval, side, as_of_ns, prefer)
            rows += [bars[ts_ns]] if ts_ns in bars else []
        answer = self.store.cross_section(
            Interval.parse(interval), ts_ns, side=side, symbols=symbols, as_of_ns=as_of_ns, prefer=prefer
        )
        assert answer.equals(_table(rows))

    @rule(
        interval=st.sampled_from(_INTERVALS),
        start_ns=st.sampled_from(_TIMES),
        end_ns=st.sampled_from(_TIMES),
        symbols=st.none() | st.lists(st.sampled_from(_ASKED), unique=True),
        as_of_ns=st.none() | st.integers(0, 40),
    )
    def scan(self, interval: str, start_ns: int, end_ns: int, symbols: list[str] | None, as_of_ns: int | None) -> None:
        expected = []
        for symbol in _SYMBOLS if symbols is None else sorted(symbols):
            bars = self.model.in_force(symbol, interval, "trade", as_of_ns)
            rows = [row for ts, row in bars.items() if start_ns <= ts < end_ns]
            expected += [_table(rows).select(["symbol", "close", "ts"])] if rows else []
        batches = self.store.scan(
            Interval.parse(interval),
            start_ns,
            end_ns,
            symbols=symbols,
            as_of_ns=as_of_ns,
            columns=["symbol", "close", "ts"],
        )
        found = [pa.Table.from_batches([batch]) for batch in batches]
        assert [table.to_pylist() for table in found] == [table.to_pylist() for table in expected]

    @rule(symbol=st.sampled_from(_ASKED), interval=st.sampled_from(_INTERVALS), ts_ns=st.sampled_from(_TIMES))
    def versions(self, symbol: str, interval: str, ts_ns: int) -> None:
        rows = [
            row
            for provider in _PROVIDERS
            for row in self.model.versions.get((symbol, interval, "trade", ts_ns, provider), [])
        ]
        rows.sort(key=lambda row: (row["as_of"], row["provider"]))
        assert self.store.versions(symbol, Interval.parse(interval), ts_ns).equals(_table(rows))

    @rule(
        symbol=st.sampled_from(_ASKED),
        interval=st.sampled_from(_INTERVALS),
        side=st.sampled_from(_SIDES),
        start_ns=st.sampled_from((_FIRST_NS, *_TIMES)),
        end_ns=st.sampled_from((*_TIMES, _LAST_NS)),
    )
    def read_versions(self, symbol: str, interval: str, side: Any, start_ns: int, end_ns: int) -> None:
        rows = [
            row
            for key, versions in self.model.versions.items()
            if key[:3] == (symbol, interval, side) and start_ns <= key[3] < end_ns
            for row in versions
        ]
        rows.sort(key=lambda row: (row["ts"], row["as_of"], row["provider"]))
        batches = list(self.store.read_versions(symbol, Interval.parse(interval), start_ns, end_ns, side=side))
        assert all(batch.num_rows for batch in batches)
        assert pa.Table.from_batches(batches, BAR_SCHEMA).equals(_table(rows))

    @rule(
        interval=st.sampled_from(_INTERVALS),
        side=st.sampled_from(_SIDES),
        start_ns=st.sampled_from((*_TIMES[2:], _MIDNIGHT + 3 * _MINUTE, _MIDNIGHT + 1)),
        end_ns=st.sampled_from((*_TIMES[2:], _MIDNIGHT + 13 * _MINUTE, _MIDNIGHT + _DAY)),
        symbols=st.none() | st.lists(st.sampled_from(_ASKED), unique=True),
    )
    def presence(self, interval: str, side: Any, start_ns: int, end_ns: int, symbols: list[str] | None) -> None:
        length = Interval.parse(interval)
        asked = [s for s in _SYMBOLS if any(key[0] == s for key in self.model.versions)] if symbols is None else symbols
        answer = self.store.presence(length, start_ns, end_ns, side=side, symbols=symbols)
        assert answer.symbols == tuple(asked)
        assert answer.start_ns - start_ns in range(length.ns)
        assert answer.slots == len(range(answer.start_ns, end_ns, length.ns))
        assert answer.bits.dtype == np.uint8
        for line, symbol in enumerate(asked):
            bars = self.model.in_force(symbol, interval, side)
            slots = [(ts - answer.start_ns) // length.ns for ts in sorted(bars) if answer.start_ns <= ts < end_ns]
            assert np.flatnonzero(answer.of(symbol)).tolist() == slots
            assert int(np.unpackbits(answer.bits[line]).sum()) == len(slots)

    @rule(
        symbol=st.sampled_from(_SYMBOLS),
        interval=st.sampled_from(_INTERVALS),
        side=st.sampled_from(_SIDES),
        prefer=st.lists(st.sampled_from(_PROVIDERS), max_size=2),
    )
    def remember_an_answer(self, symbol: str, interval: str, side: Any, prefer: list[str]) -> None:
        if self.steady:
            answer = self.store.read(symbol, Interval.parse(interval), _FIRST_NS, _LAST_NS, side=side, prefer=prefer)
            self.remembered = [*self.remembered[-8:], (self.now_ns - 1, symbol, interval, side, prefer, answer)]

    @invariant()
    def every_answer_is_the_models(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.symbols() == tuple(s for s in _SYMBOLS if any(key[0] == s for key in self.model.versions))
        assert self.store.stats().versions == sum(len(versions) for versions in self.model.versions.values())
        for symbol in _SYMBOLS:
            for interval in _INTERVALS:
                bars = self.model.in_force(symbol, interval, "trade")
                answer = self.store.read(symbol, Interval.parse(interval), _FIRST_NS, _LAST_NS)
                assert answer.equals(_table([bars[ts] for ts in sorted(bars)]))

    @invariant()
    def what_was_answered_is_answered_again(self) -> None:
        for then_ns, symbol, interval, side, prefer, answer in getattr(self, "remembered", ()):
            again: Any = self.store.read(
                symbol,
                Interval.parse(interval),
                _FIRST_NS,
                _LAST_NS,
                side=side,
                prefer=prefer,
                as_of_ns=then_ns,
            )
            assert again.equals(answer)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.discard()
