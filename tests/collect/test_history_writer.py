"""The one door for fetched bars: good ones durable, bad ones told, and nothing half-kept."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from marketd.collect.history_writer import HistoryWriter
from marketd.errors import StoreError
from marketd.ingest.bar_checks import BarContext
from marketd.model import Bar, Interval, parse_ns
from marketd.store.memory import MemoryStore
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, bar_table

_MINUTE = Interval.parse("1m")
_T0 = parse_ns("2026-11-19T15:00:00Z")
_NOW = parse_ns("2026-11-20T15:00:00Z")
_FOREVER = 2**63 - 1


def _bar(minute: int, symbol: str = "AAPL", **changed: Any) -> Bar:
    fields: dict[str, Any] = {
        "symbol": symbol, "interval": "1m", "side": "trade", "ts_ns": _T0 + minute * 60 * 10**9,
        "open": 100.0 + minute % 7 / 8,
        "high": 101.0, "low": 99.0, "close": 100.5 + minute % 5 / 16, "volume": 10.0 + minute,
        "vwap": None, "trades": None, "provider": "desk", "status": "backfill", "as_of_ns": _NOW,
    }  # fmt: skip
    return Bar(**(fields | changed))


class _Door:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.asked: list[tuple[str, str, int, int]] = []
        self.noted: list[tuple[str, dict[str, int]]] = []
        self.stored: list[tuple[str, int]] = []
        self.writer = HistoryWriter(
            self.store,
            ManualClock(_NOW),
            self.metrics,
            context_of=self._context_of,
            note=lambda provider, checked: self.noted.append((provider, checked.refused)),
            stored=lambda interval, end_ns: self.stored.append((interval.name, end_ns)),
        )

    def _context_of(self, symbol: str, interval: Interval, first_ns: int, last_ns: int) -> BarContext:
        self.asked.append((symbol, interval.name, first_ns, last_ns))
        spans = np.array([[_T0, _T0 + 3600 * 10**9]]) if symbol == "AAPL" else None
        return BarContext(now_ns=_NOW, open_spans=spans)

    def keep(self, bars: list[Bar]) -> Any:
        return asyncio.run(self.writer.keep("desk", bar_table(bars)))

    def read(self, symbol: str) -> pa.Table:
        return self.store.read(symbol, _MINUTE, 0, _FOREVER)


def test_good_bars_are_kept_and_bad_ones_told_with_the_reason() -> None:
    door = _Door()
    bars = [_bar(minute) for minute in range(6)]
    kept = door.keep([*bars[:3], _bar(3, high=98.0), *bars[4:]])
    assert (kept.received, kept.accepted, kept.new_versions) == (6, 5, 5)
    assert sum(kept.refused.values()) == 1
    assert [q.symbol for q in kept.quarantined] == ["AAPL"]
    assert door.read("AAPL").equals(bar_table([*bars[:3], *bars[4:]]))
    assert door.noted == [("desk", kept.refused)]
    assert door.stored == [("1m", _T0 + 6 * 60 * 10**9)]


def test_each_series_is_judged_by_its_own_session() -> None:
    door = _Door()
    late = 6 * 60  # six hours on: AAPL is closed, the other has no calendar
    mixed = [_bar(late, "BTC-USD"), _bar(0), _bar(late), _bar(0, "BTC-USD"), _bar(1)]
    kept = door.keep(mixed)
    assert kept.refused == {"outside_session": 1}
    assert door.read("AAPL").equals(bar_table([_bar(0), _bar(1)]))
    assert door.read("BTC-USD").equals(bar_table([_bar(0, "BTC-USD"), _bar(late, "BTC-USD")]))
    assert sorted(door.asked) == [
        ("AAPL", "1m", _bar(0).ts_ns, _bar(late).ts_ns),
        ("BTC-USD", "1m", _bar(0).ts_ns, _bar(late).ts_ns),
    ]


def test_what_is_known_already_makes_no_version() -> None:
    door = _Door()
    assert door.keep([_bar(0), _bar(1)]).new_versions == 2
    again = door.keep([_bar(1), _bar(2)])
    assert (again.accepted, again.new_versions) == (2, 1)


def test_nothing_comes_of_nothing() -> None:
    door = _Door()
    kept = door.keep([])
    assert (kept.received, kept.accepted, kept.new_versions, kept.refused) == (0, 0, 0, {})
    assert (door.asked, door.noted, door.stored) == ([], [], [])


def test_a_store_that_fails_is_the_callers_to_know() -> None:
    door = _Door()
    door.store.close()
    with pytest.raises(StoreError, match="closed"):
        door.keep([_bar(0)])
    assert (door.noted, door.stored) == ([], [])


def test_counters_tell_rows_by_interval_and_refusals_by_reason() -> None:
    door = _Door()
    day = _bar(0, "BTC-USD", interval="1d", ts_ns=parse_ns("2026-11-18"))
    door.keep([_bar(0), _bar(1), day, _bar(2, low=102.0)])
    value = door.metrics.registry.get_sample_value
    assert value("marketd_bars_stored_total", {"interval": "1m"}) == 2
    assert value("marketd_bars_stored_total", {"interval": "1d"}) == 1
    [(reason, count)] = door.noted[0][1].items()
    assert count == 1
    assert value("marketd_bars_quarantined_total", {"provider": "desk", "reason": reason}) == 1
    assert value("write_batch_ms_count") == 1
