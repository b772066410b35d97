"""Rolled-up bars against dictionaries of lists."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.ingest.rollup import roll_up
from marketd.model import BAR_SCHEMA, Interval

MINUTE = 60 * 10**9
T0 = 1_772_461_800 * 10**9  # 2026-03-02T14:30:00Z, a multiple of every interval up to 30 minutes


def bar(minute: int, **fields) -> dict:
    row = {
        "symbol": "A", "interval": "1m", "side": "trade", "ts": T0 + minute * MINUTE, "open": 1.0, "high": 1.0,
        "low": 1.0, "close": 1.0, "volume": 1.0, "vwap": 1.0, "trades": 1, "provider": "p", "status": "final",
        "as_of": T0 + 10**15,
    }  # fmt: skip
    return row | fields


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=BAR_SCHEMA)


def rolled(*rows: dict, interval: str = "5m") -> list[dict]:
    out = roll_up(table(*rows), Interval.parse(interval))
    assert out.schema == BAR_SCHEMA
    for name in ("ts", "as_of"):
        position = out.schema.get_field_index(name)
        out = out.set_column(position, name, out.column(name).cast(pa.int64()))
    return out.to_pylist()


def test_minutes_become_one_longer_bar() -> None:
    parts = [
        bar(0, open=10.0, high=12.0, low=9.5, close=11.0, volume=2.0, vwap=11.0, trades=3, as_of=T0 + 50 * MINUTE),
        bar(1, open=11.5, high=15.0, low=11.0, close=14.0, volume=1.0, vwap=13.0, trades=2, as_of=T0 + 70 * MINUTE),
        bar(4, open=14.0, high=14.0, low=8.0, close=8.5, volume=5.0, vwap=9.0, trades=9, provider="q"),
    ]
    assert rolled(*parts, bar(5, open=3.0)) == [
        {
            "symbol": "A", "interval": "5m", "side": "trade", "ts": T0, "open": 10.0, "high": 15.0, "low": 8.0,
            "close": 8.5, "volume": 8.0, "vwap": (22.0 + 13.0 + 45.0) / 8.0, "trades": 14, "provider": "q",
            "status": "final", "as_of": T0 + 10**15,
        },
        bar(5, open=3.0, interval="5m"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [([None, None], None), ([None, 2.0], 2.0), ([0.0, None], 0.0), ([0.0, 0.0], 0.0), ([1.5, 2.0], 3.5)],
)
def test_volume_is_absent_only_if_all_are(volumes, expected) -> None:
    [row] = rolled(*(bar(i, volume=v, vwap=None if not v else 7.0) for i, v in enumerate(volumes)))
    assert row["volume"] == expected
    assert row["vwap"] == (7.0 if expected else None)


def test_a_part_with_volume_and_no_vwap_leaves_the_vwap_absent() -> None:
    [row] = rolled(bar(0, volume=2.0, vwap=None), bar(1, volume=2.0, vwap=10.0))
    assert (row["volume"], row["vwap"]) == (4.0, None)
    [row] = rolled(bar(0, volume=0.0, vwap=None), bar(1, volume=2.0, vwap=10.0))
    assert (row["volume"], row["vwap"]) == (2.0, 10.0)


@pytest.mark.parametrize(("trades", "expected"), [([None, None], None), ([None, 3], 3), ([2, 3], 5), ([0, None], 0)])
def test_counts_a_provider_does_not_tell_are_absent(trades, expected) -> None:
    [row] = rolled(*(bar(i, trades=t) for i, t in enumerate(trades)))
    assert row["trades"] == expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["final", "final"], "final"),
        (["final", "corrected"], "corrected"),
        (["corrected", "backfill", "final"], "backfill"),
        (["provisional", "backfill"], "provisional"),
        (["final", "provisional", "live"], "live"),
    ],
)
def test_a_bar_is_as_sure_as_the_least_sure_of_its_parts(statuses, expected) -> None:
    [row] = rolled(*(bar(i, status=s) for i, s in enumerate(statuses)))
    assert row["status"] == expected


def test_a_withdrawn_minute_is_no_part() -> None:
    [row] = rolled(bar(0, open=3.0, status="withdrawn", high=99.0), bar(1, open=2.0))
    assert (row["open"], row["high"], row["volume"], row["status"]) == (2.0, 1.0, 1.0, "final")
    assert rolled(bar(0, status="withdrawn")) == []


def test_nothing_gives_nothing() -> None:
    assert rolled() == []


def test_columns_in_pieces_are_one_table() -> None:
    pieces = pa.concat_tables([table(bar(0, close=2.0)), table(bar(1, close=3.0, trades=None)), table(bar(7))])
    out = roll_up(pieces, Interval.parse("15m"))
    assert (out["close"].to_pylist(), out["trades"].to_pylist()) == ([1.0], [2])


prices = st.floats(0.01, 1e6)
rows = st.lists(
    st.tuples(
        st.integers(0, 3_000),
        st.tuples(prices, prices, prices, prices),
        st.none() | st.just(0.0) | st.floats(1e-6, 1e6),
        st.none() | st.integers(0, 10**6),
        st.sampled_from(["final", "corrected", "backfill", "provisional", "live", "withdrawn"]),
    ),
    max_size=25,
    unique_by=lambda r: r[0],
)


@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from(["1m", "5m", "15m", "1h", "1d"]))
def test_any_minutes_give_what_sorting_and_grouping_gives(rows, interval) -> None:
    length = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "1d": 1440}[interval] * MINUTE
    rows = sorted(rows)
    parts = [
        bar(m, open=o, high=h, low=lo, close=c, volume=v, vwap=(o + c) / 2 if v else None, trades=t, status=s)
        for m, (o, h, lo, c), v, t, s in rows
    ]
    groups: dict[int, list[dict]] = {}
    for part in parts:
        if part["status"] != "withdrawn":
            groups.setdefault(part["ts"] // length * length, []).append(part)
    expected = []
    for ts, members in groups.items():
        volumes = [p["volume"] for p in members if p["volume"] is not None]
        counts = [p["trades"] for p in members if p["trades"] is not None]
        weighted = sum(Fraction(p["vwap"]) * Fraction(p["volume"]) for p in members if p["volume"])
        total = sum(map(Fraction, volumes))
        expected.append(
            {
                "ts": ts,
                "open": members[0]["open"],
                "high": max(p["high"] for p in members),
                "low": min(p["low"] for p in members),
                "close": members[-1]["close"],
                "volume": pytest.approx(math.fsum(volumes), rel=1e-12) if volumes else None,
                "vwap": pytest.approx(float(weighted / total), rel=1e-9) if total else None,
                "trades": sum(counts) if counts else None,
            }
        )
    got = [{name: row[name] for name in expected[0]} for row in rolled(*parts, interval=interval)] if groups else []
    assert got == expected
    if not groups:
        assert rolled(*parts, interval=interval) == []


STATUSES = ["final", "corrected", "backfill", "provisional", "live"]  # from the surest


def one_by_one(parts: list[dict], interval: str, start_of: Callable[[int], int]) -> list[dict]:
    """What the documentation says, a row at a time, in fractions."""
    groups: dict[int, list[dict]] = {}
    for part in parts:
        if part["status"] != "withdrawn":
            groups.setdefault(start_of(part["ts"]), []).append(part)
    out = []
    for ts, members in groups.items():
        first, last = members[0], members[-1]
        volumes = [Fraction(p["volume"]) for p in members if p["volume"] is not None]
        counts = [p["trades"] for p in members if p["trades"] is not None]
        heavy = [p for p in members if p["volume"]]
        vwap = None
        if heavy and all(p["vwap"] is not None for p in heavy):
            vwap = float(sum(Fraction(p["vwap"]) * Fraction(p["volume"]) for p in heavy) / sum(volumes))
        row = {
            "symbol": first["symbol"], "interval": interval, "side": first["side"], "ts": ts, "open": first["open"],
            "high": max(p["high"] for p in members), "low": min(p["low"] for p in members), "close": last["close"],
            "volume": float(sum(volumes)) if volumes else None, "vwap": vwap,
            "trades": sum(counts) if counts else None, "provider": last["provider"],
            "status": max((p["status"] for p in members), key=STATUSES.index),
            "as_of": max(p["as_of"] for p in members),
        }  # fmt: skip
        out.append(row)
    return out


def drawn(rng: random.Random, minute: int, absent: float) -> dict:
    """A bar whose volume and vwap have few binary digits, so that their sums are the same in any order."""

    def maybe(value: float) -> float | None:
        return None if rng.random() < absent else value

    return bar(
        minute,
        side="bid",
        **{name: rng.uniform(1, 1e5) for name in ("open", "high", "low", "close")},
        volume=maybe(rng.randrange(2**12) / 4 * rng.randrange(4)),
        vwap=maybe(rng.randrange(1, 2**16) / 64),
        trades=maybe(rng.randrange(10**6)),
        provider=rng.choice(["alpaca", "p", "oanda"]),
        status=rng.choices([*STATUSES, "withdrawn"], [20, 3, 3, 2, 1, absent * 10])[0],
        as_of=T0 + 10**15 + rng.randrange(10**15),
    )


def same_one_by_one(parts: list[dict], pieces: list[pa.Table], interval: str, start_of: Callable | None = None) -> None:
    length = Interval.parse(interval)
    offset = 4 * 24 * 60 * MINUTE if interval == "1w" else 0  # a Monday
    expected = one_by_one(parts, interval, start_of or (lambda ts: ts - (ts - offset) % length.ns))
    assert roll_up(pa.concat_tables(pieces), length, start_of).equals(pa.Table.from_pylist(expected, schema=BAR_SCHEMA))


@settings(max_examples=150, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sets(st.integers(0, 30_000), max_size=40),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.lists(st.integers(0, 40), max_size=3),
    st.sampled_from(["1m", "5m", "1h", "4h", "1d", "1w"]),
)
def test_every_column_in_any_pieces_is_what_a_row_at_a_time_gives(rng, minutes, absent, cuts, interval) -> None:
    parts = [drawn(rng, minute, absent) for minute in sorted(minutes)]
    whole = table(*parts)
    edges = [0, *sorted(min(cut, len(parts)) for cut in cuts), len(parts)]
    same_one_by_one(parts, [whole.slice(a, b - a) for a, b in pairwise(edges)], interval)


@pytest.mark.parametrize("absent", [0.0, 0.1])
@pytest.mark.parametrize("shift_h", [None, 7])
def test_a_month_of_minutes_is_what_a_row_at_a_time_gives(absent, shift_h) -> None:
    rng = random.Random(5)
    parts = [drawn(rng, minute, absent) for minute in sorted(rng.sample(range(30 * 1440), 8_000))]
    shift, day = (shift_h or 0) * 60 * MINUTE, 1440 * MINUTE
    # a day that begins at 17:00 UTC the evening before
    start_of = None if shift_h is None else lambda ts: (ts + shift) // day * day
    same_one_by_one(parts, [table(*parts)], "1d", start_of)
