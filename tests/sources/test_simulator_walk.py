"""The walk, against the same walk written out one tick at a time in plain Python."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.model import BOOK, LAST, TRADE, TickBatch
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, Walk
from marketd.sources.simulator.walk import splitmix64

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
# drift, volatility, chance of a jump: typed from the documentation of the scenarios
DOCUMENTED = {
    "flat": (0.0, 0.0001, 0.0),
    "trend_up": (0.0005, 0.001, 0.0),
    "trend_down": (-0.0005, 0.001, 0.0),
    "volatile": (0.0, 0.01, 0.0),
    "jump": (0.0, 0.001, 0.02),
    "stale": (0.0, 0.001, 0.0),
}


def config(*, interval_ms: int = 100, **settings: object) -> SimulatorConfig:
    symbols = {
        name.upper(): SimulatedSymbol(scenario=name, base_price=150.0, tick_interval_ms=interval_ms)
        for name in DOCUMENTED
    }
    return SimulatorConfig(symbols=symbols, **settings)


def moving(settings: SimulatorConfig, *symbols: str, start_ns: int = START_NS) -> Walk:
    walk = Walk(settings, start_ns)
    assert walk.want(symbols or tuple(settings.symbols), start_ns) == ()
    return walk


def run(walk: Walk, until_ns: int, step_ns: int, start_ns: int = START_NS) -> list[TickBatch]:
    batches = []
    for now_ns in range(start_ns, until_ns + 1, step_ns):
        batches += walk.take(now_ns)
    return batches


def rows(batches: list[TickBatch], symbol: str | None = None) -> list[tuple]:
    out = []
    for b in batches:
        columns = (b.time_event_ns, b.bid, b.last, b.ask, b.bid_size, b.ask_size, b.last_size, b.volume)
        names = [b.symbols[i] for i in b.symbol_index.tolist()]
        out += zip(names, *(column.tolist() for column in columns), strict=True)
    return [row for row in out if symbol in (None, row[0])]


class Reference:
    """One symbol of the simulator, from its documentation, with Python's integers and floats."""

    def __init__(self, symbol: str, scenario: str, price: float, interval_ns: int, seed: int, pause: tuple) -> None:
        digest = hashlib.blake2b(f"{seed}\0{symbol}".encode(), digest_size=8).digest()
        self.state = int.from_bytes(digest, "little")
        self.interval_ns = interval_ns
        self.due_ns = START_NS + int(self.uniform(self.mix(self.state)) * interval_ns)
        self.drift, self.volatility, self.jump_probability = DOCUMENTED[scenario]
        self.stale = scenario == "stale"
        self.price = price
        self.volume = 0.0
        self.pause = pause

    @staticmethod
    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    @staticmethod
    def uniform(bits: int) -> float:
        return (bits >> 11) / 2**53

    def tick(self) -> tuple[int, float, float, float]:
        """(time_event_ns, price, last_size, volume) of the next tick."""
        price_bits, size_bits, jump_bits, pause_bits = (
            self.mix((self.state + draw * GOLDEN) & MASK) for draw in (1, 2, 3, 4)
        )
        change = self.drift + self.volatility * (2.0 * self.uniform(price_bits) - 1.0)
        if self.uniform(jump_bits) < self.jump_probability:
            change += 0.05 if self.uniform(jump_bits) < self.jump_probability / 2 else -0.05
        self.price = max(self.price * (1.0 + change), 0.01)
        size = 100.0 * (1 + ((size_bits >> 12) & 63))
        self.volume += size
        tick = (self.due_ns, self.price, size, self.volume)
        self.due_ns += self.interval_ns
        probability, low_ms, high_ms = self.pause
        if self.stale and self.uniform(pause_bits) < probability:
            self.due_ns += int((low_ms + self.uniform(pause_bits) / probability * (high_ms - low_ms)) * MS)
        self.state = (self.state + 4 * GOLDEN) & MASK
        return tick


def test_the_hash_issplitmix64_by_its_published_values() -> None:
    counters = np.array([(1234567 + n * GOLDEN) & MASK for n in range(1, 6)], np.uint64)
    assert splitmix64(counters).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("scenario", list(DOCUMENTED))
def test_ticks_are_those_of_the_formula(scenario: str) -> None:
    got = rows(run(moving(config(seed=42)), START_NS + 60_000 * MS, 5 * MS), scenario.upper())
    reference = Reference(scenario.upper(), scenario, 150.0, 100 * MS, 42, (0.1, 5_000, 10_000))
    expected = [reference.tick() for _ in got]
    assert [(row[1], row[3], row[7], row[8]) for row in got] == expected
    assert reference.tick()[0] > START_NS + 60_000 * MS, "a tick that was due did not come"
    assert len(got) == 600 or scenario == "stale"


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**63),
    st.lists(st.integers(0, 1_500), min_size=1, max_size=40),
    st.permutations(list(DOCUMENTED)),
    st.integers(1, 6),
)
def test_neither_batching_nor_company_nor_order_changes_a_symbols_ticks(
    seed: int, steps_ms: list[int], order: list[str], company: int
) -> None:
    made = config(seed=seed, max_catch_up_s=60, interval_ms=70, stale_pause_duration_ms=[100, 900])
    end_ns = START_NS + sum(steps_ms) * MS
    alone = moving(made, order[0].upper()).take(end_ns)
    together = moving(made, *(name.upper() for name in order[:company]))
    now_ns, batches = START_NS, []
    for step_ms in steps_ms:
        now_ns += step_ms * MS
        batches += together.take(now_ns)
    assert rows(batches, order[0].upper()) == rows(alone)


def test_the_whole_stream_is_the_same_however_it_is_cut() -> None:
    made = config(seed=3, interval_ms=7, max_catch_up_s=60)
    fine = rows(run(moving(made), START_NS + 2_100 * MS, 1 * MS))
    coarse = rows(run(moving(made), START_NS + 2_100 * MS, 700 * MS))
    assert fine == coarse
    assert len(fine) > 1_400
    assert [row[1] for row in fine] == sorted(row[1] for row in fine)


def test_another_seed_gives_other_ticks() -> None:
    one, other = (rows(moving(config(seed=seed), "FLAT").take(START_NS + 1_000 * MS)) for seed in (1, 2))
    assert len(one) == len(other) == 10
    assert not {row[3] for row in one} & {row[3] for row in other}


@pytest.mark.parametrize(
    ("scenario", "low", "high"),
    [
        ("flat", -0.0001, 0.0001),
        ("trend_up", -0.0005, 0.0015),
        ("trend_down", -0.0015, 0.0005),
        ("volatile", -0.01, 0.01),
        ("stale", -0.001, 0.001),
    ],
)
def test_each_step_is_uniform_within_the_scenarios_bounds(scenario: str, low: float, high: float) -> None:
    steps = relative_steps(scenario)
    assert steps.min() >= low - 1e-12
    assert steps.max() <= high + 1e-12
    # 5,000 uniform draws: mean within 5 standard errors, and every tenth of the range visited as often
    assert abs(steps.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * len(steps))
    tenths = np.histogram(steps, bins=10, range=(low, high))[0]
    assert (abs(tenths - len(steps) / 10) < 5 * math.sqrt(len(steps) * 0.09)).all()


def test_jumps_are_two_in_a_hundred_and_five_percent_either_way() -> None:
    steps = relative_steps("jump")
    jumps = steps[abs(steps) > 0.001 + 1e-12]
    assert ((abs(jumps) >= 0.049 - 1e-12) & (abs(jumps) <= 0.051 + 1e-12)).all()
    expected, spread = 0.02 * len(steps), math.sqrt(len(steps) * 0.02 * 0.98)
    assert abs(len(jumps) - expected) < 4 * spread
    assert abs((jumps > 0).sum() - len(jumps) / 2) < 4 * math.sqrt(len(jumps) / 4)


def relative_steps(scenario: str) -> np.ndarray:
    made = SimulatorConfig(
        symbols={"X": SimulatedSymbol(scenario=scenario, base_price=1e6, tick_interval_ms=1)},
        seed=11,
        max_catch_up_s=60,
        stale_pause_probability=0.0,
    )
    prices = np.concatenate([b.last for b in moving(made).take(START_NS + 5_001 * MS)])
    assert len(prices) >= 5_000
    return prices[1:] / prices[:-1] - 1


def test_a_stale_symbol_stops_for_five_to_ten_seconds_after_a_tenth_of_its_ticks() -> None:
    ticks = rows(run(moving(config(seed=5), "STALE"), START_NS + 1_000_000 * MS, 500 * MS))
    pauses_s = np.array([(b[1] - a[1]) / 1e9 - 0.1 for a, b in pairwise(ticks)])
    stopped = pauses_s[pauses_s > 1e-9]
    assert ((stopped >= 5) & (stopped <= 10)).all()
    assert abs(stopped.mean() - 7.5) < 5 * 5 / math.sqrt(12 * len(stopped))
    assert abs(len(stopped) - 0.1 * len(pauses_s)) < 4 * math.sqrt(0.09 * len(pauses_s))


def test_pauses_are_settable() -> None:
    never = config(stale_pause_probability=0.0)
    assert len(rows(run(moving(never, "STALE"), START_NS + 10_000 * MS, 50 * MS))) == 100
    always = config(stale_pause_probability=1.0, stale_pause_duration_ms=(900, 900))
    assert len(rows(run(moving(always, "STALE"), START_NS + 9_999 * MS, 50 * MS))) == 10


@pytest.mark.parametrize("spread_bp", [5.0, 1e-9, 10_000.0])
def test_bid_is_below_and_ask_above_the_price_even_at_the_floor(spread_bp: float) -> None:
    made = SimulatorConfig(
        symbols={
            "LOW": SimulatedSymbol(scenario="trend_down", base_price=0.0101, tick_interval_ms=1),
            "HIGH": SimulatedSymbol(scenario="trend_up", base_price=9.9e11, tick_interval_ms=1),
        },
        spread_bp=spread_bp,
        max_catch_up_s=60,
    )
    batches = moving(made).take(START_NS + 2_000 * MS)
    bid, price, ask = (np.concatenate([getattr(b, c) for b in batches]) for c in ("bid", "last", "ask"))
    assert ((bid > 0) & (bid < price) & (price < ask)).all()
    assert price.min() == 0.01
    assert price.max() == 1e12
    if spread_bp == 5.0:
        np.testing.assert_allclose((ask - bid) / price, 0.0005, rtol=1e-9)


def test_columns_are_complete_and_volume_adds_up() -> None:
    (batch,) = moving(config(), "VOLATILE").take(START_NS + 900 * MS)
    assert set(batch.flags.tolist()) == {BOOK | LAST | TRADE}
    assert batch.source == "simulator"
    assert batch.time_received_ns.tolist() == [START_NS + 900 * MS] * len(batch)
    assert batch.volume.tolist() == np.cumsum(batch.last_size).tolist()
    for sizes in (batch.bid_size, batch.ask_size, batch.last_size):
        assert set(sizes.tolist()) <= {100.0 * lots for lots in range(1, 65)}
    assert batch.trade_id is None


def test_eight_thousand_symbols_each_tick_on_their_own_interval_and_not_together() -> None:
    names = [f"S{n:04d}" for n in range(8_000)]
    made = SimulatorConfig(symbols={n: SimulatedSymbol(scenario="flat", base_price=100.0) for n in names})
    walk = moving(made)
    batches = run(walk, START_NS + 995 * MS, 5 * MS) + walk.take(START_NS + 1_000 * MS - 1)
    index = np.concatenate([b.symbol_index for b in batches])
    times = np.concatenate([b.time_event_ns for b in batches])
    assert np.bincount(index).tolist() == [10] * 8_000
    order = np.lexsort((times, index))
    assert (np.diff(times[order].reshape(8_000, 10)) == 100 * MS).all()
    assert max(len(b) for b in batches) < 2 * 400, "ticks bunch together"
    assert max(Counter(times.tolist()).values()) <= 3


def test_the_symbols_tuple_is_the_same_object_until_the_wanted_set_changes() -> None:
    walk = moving(config(), "FLAT", "JUMP")
    batches = run(walk, START_NS + 1_000 * MS, 100 * MS)
    assert len({id(b.symbols) for b in batches}) == 1
    assert batches[0].symbols == ("FLAT", "JUMP")
    walk.want(("JUMP",), START_NS + 1_000 * MS)
    assert {b.symbols for b in walk.take(START_NS + 1_200 * MS)} == {("JUMP",)}


def test_a_symbol_that_was_away_goes_on_from_its_last_price_at_its_own_phase() -> None:
    walk = moving(config(seed=8), "FLAT", "VOLATILE")
    before = rows(run(walk, START_NS + 1_000 * MS, 10 * MS), "VOLATILE")
    walk.want(("FLAT",), START_NS + 1_003 * MS)
    away = rows(run(walk, START_NS + 5_000 * MS, 10 * MS, START_NS + 1_010 * MS))
    assert {row[0] for row in away} == {"FLAT"}
    walk.want(("VOLATILE", "FLAT"), START_NS + 5_007 * MS)
    after = rows(run(walk, START_NS + 6_000 * MS, 10 * MS, START_NS + 5_010 * MS), "VOLATILE")

    reference = Reference("VOLATILE", "volatile", 150.0, 100 * MS, 8, (0.1, 5_000, 10_000))
    expected = [reference.tick() for _ in before + after]
    assert [(row[3], row[7], row[8]) for row in before + after] == [tick[1:] for tick in expected]
    assert {row[1] % (100 * MS) for row in before + after} == {reference.due_ns % (100 * MS)}
    assert 5_007 * MS <= after[0][1] - START_NS <= 5_107 * MS


def test_wanting_something_else_in_between_does_not_change_what_others_do() -> None:
    undisturbed = rows(run(moving(config(seed=9), "JUMP"), START_NS + 3_000 * MS, 5 * MS), "JUMP")
    walk = moving(config(seed=9), "JUMP")
    batches = []
    for step in range(601):
        now_ns = START_NS + step * 5 * MS
        walk.want(("JUMP", "FLAT", "STALE") if step % 7 else ("VOLATILE", "JUMP"), now_ns)
        batches += walk.take(now_ns)
    assert rows(batches, "JUMP") == undisturbed


def test_after_a_short_stall_every_missed_tick_comes_in_order() -> None:
    smooth = rows(run(moving(config(seed=1), "FLAT", "JUMP"), START_NS + 1_900 * MS, 5 * MS))
    walk = moving(config(seed=1), "FLAT", "JUMP")
    stalled = rows(walk.take(START_NS + 950 * MS) + walk.take(START_NS + 1_900 * MS))
    assert stalled == smooth


def test_after_a_long_stall_time_is_skipped_and_tick_numbers_go_on() -> None:
    walk = moving(config(seed=1, max_catch_up_s=1), "FLAT")
    before = rows(run(walk, START_NS + 1_000 * MS, 5 * MS))
    after = rows(walk.take(START_NS + 60_000 * MS))
    assert len(before) == 10
    assert len(after) == 10
    assert after[0][1] >= START_NS + 59_000 * MS
    reference = Reference("FLAT", "flat", 150.0, 100 * MS, 1, (0.1, 5_000, 10_000))
    expected = [reference.tick() for _ in before + after]
    assert [row[3] for row in before + after] == [tick[1] for tick in expected]
    assert {row[1] % (100 * MS) for row in before + after} == {reference.due_ns % (100 * MS)}


def test_when_the_clock_is_set_back_ticks_go_on_at_their_interval() -> None:
    walk = moving(config(seed=1), "FLAT")
    before = rows(run(walk, START_NS + 1_000 * MS, 5 * MS))
    back_ns = 3_600_000 * MS
    after = rows(run(walk, START_NS - back_ns + 2_000 * MS, 5 * MS, START_NS - back_ns + 1_000 * MS))
    reference = Reference("FLAT", "flat", 150.0, 100 * MS, 1, (0.1, 5_000, 10_000))
    expected = [reference.tick() for _ in before + after]
    assert len(after) == 10
    assert [row[3] for row in before + after] == [tick[1] for tick in expected]
    assert [row[1] for row in after] == [tick[0] - back_ns for tick in expected[len(before) :]]


def test_a_symbol_wanted_after_the_clock_was_set_back_ticks_at_once() -> None:
    walk = moving(config(seed=1), "FLAT")
    run(walk, START_NS + 1_000 * MS, 5 * MS)
    back_ns = START_NS - 3_600_000 * MS
    walk.want(("FLAT", "JUMP"), back_ns)
    ticks = rows(run(walk, back_ns + 1_000 * MS, 5 * MS, back_ns))
    assert Counter(row[0] for row in ticks) == {"FLAT": 10, "JUMP": 10}


def test_unknown_symbols_are_named_and_the_rest_moves() -> None:
    walk = Walk(config(), START_NS)
    assert walk.want(("NOPE", "FLAT", "ALSO NOT"), START_NS) == ("NOPE", "ALSO NOT")
    assert walk.wanted == ("FLAT",)
    assert {row[0] for row in rows(walk.take(START_NS + 500 * MS))} == {"FLAT"}


def test_next_due_is_the_event_time_of_the_next_tick() -> None:
    walk = Walk(config(interval_ms=60_000), START_NS)
    assert walk.next_due_ns() is None
    walk.want(("FLAT", "JUMP"), START_NS)
    for _ in range(6):
        due_ns = walk.next_due_ns()
        assert due_ns is not None
        assert walk.take(due_ns - 1) == []
        (batch,) = walk.take(due_ns)
        assert batch.time_event_ns.tolist() == [due_ns]
    walk.want((), START_NS)
    assert walk.next_due_ns() is None
