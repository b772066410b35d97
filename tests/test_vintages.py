"""A series as of any time is what its change log says: recorded revisions of VIX, WTI and CPI, and an invented one.

The reference is a walk along the log with a dictionary, in the order of publication. The log says for each date which
value was published when; an empty value withdraws it.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from marketd.model import BAR_SCHEMA, Interval, parse_ns
from marketd.model.time import NS_PER_S
from marketd.store.contract import BarStore
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.memory import MemoryStore
from marketd.store.sqlite import SqliteRecords
from marketd.testing import ManualClock, observation_table

DAY = 86_400 * NS_PER_S
DAILY = Interval.parse("1d")
FOREVER = 2**63 - 1
MOMENTS = 200
PARTS = 40
RECORDED = ("vix_close_daily", "wti_daily", "cpi_us_monthly")


@dataclass(frozen=True)
class Line:
    """`value` of the day that starts at `ts_ns` was published at `known_ns`; None: withdrawn."""

    ts_ns: int
    value: float | None
    known_ns: int


@dataclass(frozen=True)
class State:
    """The series at a moment: three columns, by ts."""

    moment_ns: int
    ts: np.ndarray
    value: np.ndarray
    known: np.ndarray


def recorded(path: Path) -> list[Line]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return [
            Line(
                parse_ns(row["observation_date"]),
                float(row["value"]) if row["value"] else None,
                parse_ns(row["known_at"]),
            )
            for row in csv.DictReader(lines)
        ]


def invented(seed: int) -> list[Line]:
    """250 publications of 300 days: new days, revisions, withdrawals, returns, and values that are published again."""
    chance = random.Random(seed)
    lines: list[Line] = []
    state: dict[int, float | None] = {}
    known_ns = parse_ns("2024-01-01T06:00:00Z")
    for _ in range(250):
        known_ns += chance.randint(1, 3 * DAY)
        fresh = [day for day in range(300) if day not in state][: chance.randint(0, 4)]
        for day in {*fresh, *(chance.choice([*state, *fresh, 0]) for _ in range(chance.randint(0, 3)))}:
            value = chance.choice([None, round(chance.uniform(-40, 90), 2), state.get(day)])
            state[day] = value
            lines.append(Line(day * DAY, value, known_ns))
    return lines


def moments(lines: list[Line], seed: int) -> list[int]:
    """Half of them anywhere from before the first publication to after the last, half at one or just before it."""
    chance = random.Random(seed)
    times = sorted({line.known_ns for line in lines})
    anywhere = [chance.randint(times[0] - DAY, times[-1] + DAY) for _ in range(MOMENTS // 2)]
    return [*anywhere, *(chance.choice(times) - chance.choice([0, 0, 1]) for _ in range(MOMENTS - len(anywhere)))]


def reconstructed(lines: list[Line], seed: int) -> list[State]:
    """What the log says at each of the moments."""
    in_order = sorted(lines, key=lambda line: line.known_ns)
    series: dict[int, tuple[float | None, int]] = {}
    states: list[State] = []
    done = 0
    for moment_ns in sorted(moments(lines, seed)):
        while done < len(in_order) and in_order[done].known_ns <= moment_ns:
            line = in_order[done]
            if line.ts_ns not in series or series[line.ts_ns][0] != line.value:
                series[line.ts_ns] = line.value, line.known_ns
            done += 1
        there = [ts for ts in sorted(series) if series[ts][0] is not None]
        states.append(
            State(
                moment_ns,
                np.array(there, np.int64),
                np.array([series[ts][0] for ts in there], np.float64),
                np.array([series[ts][1] for ts in there], np.int64),
            )
        )
    return states


def parts(lines: list[Line], seed: int) -> Iterator[list[Line]]:
    """The log in the batches in which it might have come: by time, each in any order."""
    times = np.array_split(np.array(sorted({line.known_ns for line in lines})), PARTS)
    for part in (set(chunk.tolist()) for chunk in times):
        batch = [line for line in lines if line.known_ns in part]
        random.Random(seed).shuffle(batch)
        yield batch


def bars(symbol: str, batch: list[Line], last: dict[int, float]) -> pa.Table:
    """Daily bars with one price; one that is withdrawn repeats the price that it takes back."""
    rows = []
    for line in sorted(batch, key=lambda line: line.known_ns):
        price = last.get(line.ts_ns, 0.0) if line.value is None else line.value
        last[line.ts_ns] = price
        prices = dict.fromkeys(("open", "high", "low", "close"), price)
        status = "withdrawn" if line.value is None else "final"
        rows.append({"ts": line.ts_ns, **prices, "status": status, "as_of": line.known_ns})
    random.Random(len(rows)).shuffle(rows)
    same = {"symbol": symbol, "interval": "1d", "side": "trade", "provider": "log"}
    return pa.Table.from_pylist([same | row for row in rows], schema=BAR_SCHEMA)


def assert_same(answer: pa.Table, value: str, state: State) -> None:
    ts, known = (answer.column(name).cast(pa.int64()).to_numpy() for name in ("ts", "as_of"))
    np.testing.assert_array_equal(ts, state.ts)
    np.testing.assert_array_equal(answer.column(value).to_numpy(), state.value)
    np.testing.assert_array_equal(known, state.known)


def window(state: State, chance: random.Random) -> tuple[int, int, State]:
    """A year and a half of it, anywhere, and what the series is there."""
    start_ns = chance.choice(state.ts.tolist() or [0]) - chance.randint(0, 30) * DAY
    end_ns = start_ns + 500 * DAY
    inside = (state.ts >= start_ns) & (state.ts < end_ns)
    return start_ns, end_ns, State(state.moment_ns, state.ts[inside], state.value[inside], state.known[inside])


def check_records(folder: Path, lines: list[Line], states: list[State]) -> None:
    records = SqliteRecords(folder / "records.db")
    try:
        for batch in parts(lines, 1):
            records.add_observations(
                observation_table([("series", line.ts_ns, line.value, "log", line.known_ns) for line in batch])
            )
        chance = random.Random(4)
        for number, state in enumerate(states):
            start_ns, end_ns, expected = -FOREVER, FOREVER, state
            if number % 4:
                start_ns, end_ns, expected = window(state, chance)
            answer = records.observations("series", start_ns, end_ns, as_of_ns=state.moment_ns)
            assert_same(answer, "value", expected)
        everything = [("series", line.ts_ns, line.value, "log", line.known_ns) for line in lines]
        assert records.add_observations(observation_table(everything)) == 0
    finally:
        records.close()


def check_store(store: BarStore, lines: list[Line], states: list[State], *, whole_every: int = 1) -> None:
    """whole_every: the whole series at each so-manieth moment, a window of it at the others."""
    chance = random.Random(3)
    try:
        last: dict[int, float] = {}
        for batch in parts(lines, 2):
            store.append(bars("SERIES", batch, last))
        for number, state in enumerate(states):
            start_ns, end_ns, expected = -FOREVER, FOREVER, state
            if number % whole_every:
                start_ns, end_ns, expected = window(state, chance)
            answer = store.read("SERIES", DAILY, start_ns, end_ns, as_of_ns=state.moment_ns)
            assert_same(answer, "close", expected)
    finally:
        store.close()


def embedded(folder: Path) -> BarStore:
    """Sealed more than once on the way, so that versions of one day are in several places."""
    return EmbeddedStore(folder / "store", EmbeddedStoreConfig(seal_rows=3_000), ManualClock(parse_ns("2026-11-20")))


def memory(folder: Path) -> BarStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def log_of(data_folder: Path) -> Callable[[str], tuple[list[Line], list[State]]]:
    known: dict[str, tuple[list[Line], list[State]]] = {}

    def log(name: str) -> tuple[list[Line], list[State]]:
        if name not in known:
            lines = recorded(data_folder / "macro" / "vintages" / f"{name}_revisions.csv.gz")
            known[name] = lines, reconstructed(lines, seed=20_261_120)
        return known[name]

    return log


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_observations_are_given_as_they_were_known(
    log_of: Callable[[str], tuple[list[Line], list[State]]], name: str, tmp_path: Path
) -> None:
    lines, states = log_of(name)
    assert len(states) == MOMENTS
    check_records(tmp_path, lines, states)


@pytest.mark.parametrize("make", [memory, embedded], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", RECORDED[:2])
def test_recorded_bars_are_given_as_they_were_known(
    log_of: Callable[[str], tuple[list[Line], list[State]]],
    name: str,
    make: Callable[[Path], BarStore],
    tmp_path: Path,
) -> None:
    lines, states = log_of(name)
    # the dictionary store looks at every row of the series, which takes its time
    check_store(make(tmp_path), lines, states, whole_every=10 if make is memory else 1)


@pytest.mark.parametrize("seed", range(3))
def test_an_invented_log_is_given_as_it_was_known(tmp_path: Path, seed: int) -> None:
    lines = invented(seed)
    states = reconstructed(lines, seed)
    # it has what the test is for
    assert any(line.value is None for line in lines)
    assert len({len(state.ts) for state in states}) > MOMENTS / 4
    check_records(tmp_path, lines, states)
    check_store(memory(tmp_path), lines, states)
    check_store(embedded(tmp_path), lines, states)
