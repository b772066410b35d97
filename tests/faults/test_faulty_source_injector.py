"""What is decided for each tick, without a source."""

from __future__ import annotations

import math

import numpy as np
import pytest

from marketd.faults import FaultConfig, FaultInjector, Verdict

MS = 1_000_000
ALL = FaultConfig(
    enabled=True,
    delay_probability=0.2,
    duplicate_probability=0.3,
    out_of_order_probability=0.1,
    stale_window_probability=0.001,
    stale_window_duration_ms=(0, 0),
    drop_probability=0.05,
)


def decide(injector: FaultInjector, rows: int, now_ns: int = 0, symbols: tuple[str, ...] = ("A", "B")) -> list[Verdict]:
    v = injector.decide(symbols, (np.arange(rows) % len(symbols)).astype(np.int32), now_ns)
    rows_of = zip(*(c.tolist() for c in (v.lost, v.duplicated, v.earlier_ns, v.delay_ns)), strict=True)
    return [
        Verdict(lost=lost, disconnected=v.disconnected, duplicated=duplicated, earlier_ns=earlier_ns, delay_ns=delay_ns)
        for lost, duplicated, earlier_ns, delay_ns in rows_of
    ]


def test_the_same_seed_decides_the_same_and_another_does_not() -> None:
    assert decide(FaultInjector(ALL, seed=1), 500) == decide(FaultInjector(ALL, seed=1), 500)
    assert decide(FaultInjector(ALL, seed=1), 500) != decide(FaultInjector(ALL, seed=2), 500)


def test_decisions_do_not_depend_on_how_ticks_are_batched() -> None:
    no_windows = FaultConfig(enabled=True, delay_probability=0.4, duplicate_probability=0.4, drop_probability=0.4)
    whole = decide(FaultInjector(no_windows, seed=3), 300)
    pieces = FaultInjector(no_windows, seed=3)
    cut = decide(pieces, 2) + decide(pieces, 298)
    singly = FaultInjector(no_windows, seed=3)
    one_by_one = [singly.decide_one("AB"[row % 2], 0) for row in range(300)]
    assert whole == cut == one_by_one


def test_one_fault_does_not_change_when_another_is_switched_on() -> None:
    only = decide(FaultInjector(FaultConfig(enabled=True, duplicate_probability=0.3), seed=5), 400)
    also = decide(
        FaultInjector(FaultConfig(enabled=True, duplicate_probability=0.3, delay_probability=0.5), seed=5), 400
    )
    assert [v.duplicated for v in only] == [v.duplicated for v in also]


@pytest.mark.parametrize(
    ("field", "count"),
    [
        ("delay_probability", "delay"),
        ("duplicate_probability", "duplicate"),
        ("out_of_order_probability", "out_of_order"),
        ("drop_probability", "drop"),
    ],
)
def test_each_happens_as_often_as_its_probability_says(field: str, count: str) -> None:
    injector = FaultInjector(FaultConfig(enabled=True, **{field: 0.25}), seed=1)
    verdicts = decide(injector, 20_000)
    happened = {
        "delay": [v.delay_ns > 0 for v in verdicts],
        "duplicate": [v.duplicated for v in verdicts],
        "out_of_order": [v.earlier_ns == 200 * MS for v in verdicts],
        "drop": [v.lost for v in verdicts],
    }
    assert abs(sum(happened[count]) - 5_000) < 4 * math.sqrt(20_000 * 0.25 * 0.75)
    assert injector.counts == {**dict.fromkeys(injector.counts, 0), count: sum(happened[count])}
    assert all(sum(h) == 0 for name, h in happened.items() if name != count)


def test_delays_are_uniform_in_their_range() -> None:
    injector = FaultInjector(FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(100, 500)))
    delays = np.array([v.delay_ns for v in decide(injector, 10_000)])
    assert delays.min() >= 100 * MS
    assert delays.max() <= 500 * MS
    assert abs(delays.mean() - 300 * MS) < 5 * 400 * MS / math.sqrt(12 * 10_000)


def test_a_stale_window_silences_its_symbol_alone_and_ends_in_its_time() -> None:
    stale = FaultConfig(enabled=True, stale_window_probability=1.0, stale_window_duration_ms=(50, 50))
    injector = FaultInjector(FaultConfig(), per_symbol={"A": stale})
    assert [v.lost for v in decide(injector, 6)] == [True, False] * 3
    assert injector.counts["stale_window"] == 1
    injector.set_faults(FaultConfig(enabled=True), "A")
    assert injector.decide_one("A", 50 * MS - 1).lost
    assert not injector.decide_one("A", 50 * MS).lost
    assert injector.counts["stale_window_rows"] == 4


def test_an_outage_takes_the_tick_that_began_it_and_all_after_until_it_ends() -> None:
    broken = FaultConfig(enabled=True, disconnect_probability=1.0, disconnect_duration_ms=(30, 30))
    injector = FaultInjector(FaultConfig(), per_symbol={"C": broken})
    assert [v.lost for v in decide(injector, 5, now_ns=7, symbols=("A", "B", "C"))] == [False, False, True, True, True]
    assert injector.outage_until_ns == 7 + 30 * MS
    assert injector.decide_one("A", 6 + 30 * MS).lost
    assert not injector.decide_one("A", 7 + 30 * MS).lost
    assert injector.decide_one("C", 7 + 30 * MS) == Verdict(
        lost=True, disconnected=True, duplicated=False, earlier_ns=0, delay_ns=0
    )
    assert injector.counts["disconnect"] == 2
    assert injector.counts["disconnect_rows"] == 5


def test_a_symbol_of_its_own_is_set_and_taken_away_while_running() -> None:
    injector = FaultInjector(FaultConfig())
    assert not injector.enabled
    injector.set_faults(FaultConfig(enabled=True, drop_probability=1.0), "B")
    assert injector.enabled
    assert [v.lost for v in decide(injector, 4)] == [False, True, False, True]
    injector.set_faults(FaultConfig(enabled=True, drop_probability=1.0))
    injector.set_faults(FaultConfig(), "B")
    assert [v.lost for v in decide(injector, 4)] == [True, False, True, False]
    injector.set_faults(None, "B")
    assert [v.lost for v in decide(injector, 4)] == [True] * 4
    injector.set_faults(None)
    assert not injector.enabled


def test_switched_off_probabilities_do_nothing() -> None:
    everything = FaultConfig(
        enabled=False, drop_probability=1, duplicate_probability=1, delay_probability=1, disconnect_probability=1
    )
    injector = FaultInjector(everything)
    assert (
        decide(injector, 50)
        == [Verdict(lost=False, disconnected=False, duplicated=False, earlier_ns=0, delay_ns=0)] * 50
    )


def test_thousands_of_symbols_one_at_a_time() -> None:
    injector = FaultInjector(FaultConfig(enabled=True, drop_probability=0.5), seed=1)
    lost = sum(injector.decide_one(f"S{n}", 0).lost for n in range(4_000))
    assert injector.counts["drop"] == lost
    assert abs(lost - 2_000) < 4 * math.sqrt(1_000)
