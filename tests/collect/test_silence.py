"""Quiet or mute: by hand for regular ticks, and how often recorded markets would have raised a false alarm."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from marketd.calendars import Calendars
from marketd.collect.silence import Silence

_ONE = np.zeros(1, np.intp)
_PULSE_S = 1.0


def silence(size: int = 1, **how: float) -> Silence:
    settings = {"factor": 10.0, "floor_s": 10.0, "cap_s": 600.0, "half_life_s": 900.0, "least_gaps": 30} | how
    made = Silence(**settings)  # type: ignore[arg-type]
    made.grow(size)
    return made


def test_ticks_as_regular_as_a_clock_have_their_own_gap_as_measure() -> None:
    s = silence(least_gaps=5)
    for second in range(0, 100, 4):
        s.mark(_ONE)
        s.fold(float(second))
    assert s.limit_s()[0] == pytest.approx(40.0)  # ten times four
    assert not s.mute(96.0 + 40.0)[0]
    assert s.mute(96.0 + 40.5)[0]
    assert s.heard_s(100.0)[0] == 4.0


def test_a_pause_between_bursts_counts_by_its_length() -> None:
    """Gaps of 1, 1, 1, … and 10: the mean is 1.9, but a random moment lies in one of 5.7 on average."""
    s = silence(least_gaps=5, half_life_s=1e9)
    now = 0.0
    s.mark(_ONE)
    s.fold(now)
    for _ in range(20):
        for gap in (1.0,) * 9 + (10.0,):
            now += gap
            s.mark(_ONE)
            s.fold(now)
    # (9 · 1² + 10²) / (9 · 1 + 10)
    assert s.limit_s()[0] == pytest.approx(10 * 109 / 19)


def test_floor_and_cap() -> None:
    s = silence(least_gaps=5)
    for i in range(50):
        s.mark(_ONE)
        s.fold(i * 0.25)
    assert s.limit_s()[0] == 10.0
    s.forget(_ONE)
    for i in range(50):
        s.mark(_ONE)
        s.fold(i * 300.0)
    assert s.limit_s()[0] == 600.0


def test_of_little_known_nothing_is_mute() -> None:
    s = silence(least_gaps=5)
    s.watch(_ONE, 0.0)
    assert not s.mute(1e6)[0]
    for i in range(5):
        s.mark(_ONE)
        s.fold(float(i + 1))
    assert s.is_known()[0]
    assert s.mute(100.0)[0]


def test_what_was_before_a_restart_or_while_the_venue_was_closed_is_no_silence() -> None:
    s = silence(least_gaps=5)
    for i in range(10):
        s.mark(_ONE)
        s.fold(float(i))
    for i in range(10, 5_000):
        s.fold(float(i), np.array([True]))
    assert not s.mute(5_005.0)[0]
    assert s.mute(5_010.0)[0]
    s.restart(6_000.0)
    assert not s.mute(6_009.0)[0]
    assert s.silent_s(6_009.0)[0] == 9.0
    s.mark(_ONE)
    s.fold(6_010.0, np.array([True]))  # a tick out of hours is no gap
    assert s.limit_s()[0] == pytest.approx(10.0)


def test_the_rate_that_counts_is_the_recent_one() -> None:
    s = silence(least_gaps=5, half_life_s=60.0)
    now = 0.0
    for gap in [60.0] * 20 + [2.0] * 300:
        now += gap
        s.mark(_ONE)
        s.fold(now)
    # ten half-lives of two-second gaps: what is left of the minutes is a thousandth of their weight
    assert 20.0 <= s.limit_s()[0] <= 22.0


def test_symbols_do_not_mix_and_room_grows() -> None:
    s = silence(least_gaps=3)
    s.grow(3)
    for i in range(200):
        s.mark(np.array([0, 0, 2]) if i % 20 else np.array([1]))
        s.fold(float(i))
    limits = s.limit_s()
    assert limits[1] == pytest.approx(200.0)
    assert limits[0] == limits[2] == pytest.approx(10 * (1 * 170 + 4 * 9) / (170 + 18), rel=0.05)
    s.grow(10)
    assert s.limit_s()[1] == limits[1]
    assert np.isinf(s.limit_s()[9])
    assert np.isnan(s.silent_s(0.0)[9])


def _stamps_s(path: Path) -> np.ndarray:
    """First column of a recording, seconds."""
    with gzip.open(path, "rt") as lines:
        unit = {"recv_ns": 1e9, "ts_ms": 1e3, "ts_us": 1e6}[next(lines).split(",")[0]]
        return np.sort(np.array([float(line.split(",", 1)[0]) for line in lines])) / unit


def _alarms(recordings: list[tuple[np.ndarray, str]]) -> tuple[list[int], float]:
    """False alarms of each recording (stamps and calendar), all played at once from their beginnings; hours of all."""
    steps = [int((stamps[-1] - stamps[0]) / _PULSE_S) + 1 for stamps, _ in recordings]
    ticked, closed = (np.zeros((max(steps), len(recordings)), np.bool_) for _ in range(2))
    for column, (stamps, calendar) in enumerate(recordings):
        ticked[((stamps - stamps[0]) / _PULSE_S).astype(int), column] = True
        moments = ((stamps[0] + np.arange(max(steps)) * _PULSE_S) * 1e9).astype(np.int64)
        spans = Calendars().named(calendar).open_spans(int(moments[0]), int(moments[-1]) + 1)
        place = np.searchsorted(spans[:, 1], moments, "right")
        closed[:, column] = (place == len(spans)) | (spans[np.minimum(place, len(spans) - 1), 0] > moments)
        closed[steps[column] :, column] = True  # it is over
    s = silence(len(recordings))
    count, before = np.zeros(len(recordings), int), np.zeros(len(recordings), np.bool_)
    for step in range(max(steps)):
        now = (step + 1) * _PULSE_S
        s.mark(np.flatnonzero(ticked[step]))
        s.fold(now, closed[step])
        mute = s.mute(now)
        count += mute & ~before
        before = mute
    return count.tolist(), sum(steps) * _PULSE_S / 3_600


def test_recorded_markets_raise_few_false_alarms(data_folder: Path) -> None:
    crypto = [(_stamps_s(path), "24/7") for path in sorted(data_folder.glob("quotes_crypto/binance*.csv.gz"))]
    alarms, hours = _alarms(crypto)
    assert (len(alarms), hours > 0.7) == (8, True)
    assert sum(alarms) == 0
    euro = [(_stamps_s(path), "FX") for path in sorted(data_folder.glob("quotes_fx/*eurusd*ticks.csv.gz"))]
    alarms, hours = _alarms(euro)
    assert hours > 100
    assert sum(alarms) <= hours / 24
    # gold comes in bursts, with a pause every day that is none of it
    gold = [(_stamps_s(path), "METALS") for path in sorted(data_folder.glob("quotes_fx/*xauusd*ticks.csv.gz"))]
    alarms, hours = _alarms(gold)
    assert hours > 90
    assert sum(alarms) <= 5 * hours / 24


def test_a_recorded_stream_that_is_cut_is_noticed(data_folder: Path) -> None:
    stamps = _stamps_s(data_folder / "quotes_crypto" / "binance_spot_btcusdt_20240808_quotes.csv.gz")
    s = silence()
    start = stamps[0]
    for step in range(200):
        if ((stamps >= start + step * _PULSE_S) & (stamps < start + (step + 1) * _PULSE_S)).any():
            s.mark(_ONE)
        s.fold((step + 1) * _PULSE_S)
    last = 200 * _PULSE_S
    assert not s.mute(last + 9.0)[0]
    assert s.mute(last + 11.0)[0]
