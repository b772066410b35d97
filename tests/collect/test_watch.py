"""Silence on an unbroken stream is an answer; silence on a broken one is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marketd.collect.watch import StreamWatch, WatchedSource, present_in_any
from marketd.model import AnsweredSpan, Interval, parse_ns
from marketd.sources.contract import Subscriptions
from marketd.store.contract import Presence

_MINUTE = 60 * 10**9
_T0 = parse_ns("2026-11-20T14:30:00Z")


class _Bars:
    """Which (symbol, minute) have a bar."""

    def __init__(self, *present: tuple[str, int]) -> None:
        self._present = {(symbol, _T0 + minute * _MINUTE) for symbol, minute in present}

    def __call__(self, minute_ns: int, symbols: Sequence[str]) -> Any:
        return np.array([(symbol, minute_ns) in self._present for symbol in symbols])


class _Exchange:
    """A source whose stream and subscriptions change."""

    def __init__(self, *symbols: str) -> None:
        self.wanted = Subscriptions(symbols)

    def __call__(self, covered_from: float | None) -> WatchedSource:
        covered_ns = None if covered_from is None else _at(covered_from)
        return WatchedSource(name="coinbase", covered_from_ns=covered_ns, wanted=self.wanted)


def _at(minutes: float) -> int:
    return _T0 + round(minutes * _MINUTE)


def _silent(symbol: str, minute: int, as_of: float, minutes: int = 1) -> AnsweredSpan:
    return AnsweredSpan(
        symbol=symbol,
        interval="1m",
        provider="coinbase",
        start_ns=_at(minute),
        end_ns=_at(minute + minutes),
        reason="no_trades",
        as_of_ns=_at(as_of),
    )


def test_a_watched_minute_without_a_bar_had_no_trades() -> None:
    watch, exchange = StreamWatch(_Bars(("A", 0), ("A", 1), ("B", 1))), _Exchange("A", "B")
    for minutes in (-0.5, 0.5, 1.5, 2.1):
        watch.observe([exchange(-1)], _at(minutes))
    assert watch.silent_minutes(_at(2), _at(2.2)) == [_silent("B", 0, 2.2)]
    assert watch.silent_minutes(_at(2), _at(2.3)) == []


def test_minutes_before_and_around_an_outage_prove_nothing_but_those_watched() -> None:
    watch, exchange = StreamWatch(_Bars()), _Exchange("A")
    watch.observe([exchange(-1)], _at(-0.5))
    watch.observe([exchange(-1)], _at(1.4))
    watch.observe([exchange(None)], _at(1.5))
    watch.observe([exchange(2.5)], _at(2.6))
    watch.observe([exchange(2.5)], _at(4.2))
    assert watch.silent_minutes(_at(4), _at(4.3)) == [_silent("A", 0, 4.3), _silent("A", 3, 4.3)]


def test_a_symbol_counts_from_its_own_subscription_on() -> None:
    watch, exchange = StreamWatch(_Bars()), _Exchange("A")
    watch.observe([exchange(-1)], _at(-0.5))
    exchange.wanted.add(["B"])
    watch.observe([exchange(-1)], _at(0.5))
    watch.observe([exchange(-1)], _at(2.1))
    assert watch.silent_minutes(_at(2), _at(2.2)) == [
        _silent("A", 0, 2.2, minutes=2),
        _silent("B", 1, 2.2),
    ]
    exchange.wanted.discard(["A"])
    watch.observe([exchange(-1)], _at(2.5))
    watch.observe([exchange(-1)], _at(3.5))
    assert watch.silent_minutes(_at(3), _at(3.6)) == [_silent("B", 2, 3.6)]


def test_a_minute_that_is_not_stored_yet_is_not_judged() -> None:
    watch, exchange = StreamWatch(_Bars()), _Exchange("A")
    watch.observe([exchange(-1)], _at(-0.5))
    watch.observe([exchange(-1)], _at(3))
    assert watch.silent_minutes(_at(0.9), _at(3)) == []
    assert watch.silent_minutes(_at(1.9), _at(3)) == [_silent("A", 0, 3)]


def test_far_behind_the_oldest_minutes_stay_unexplained() -> None:
    watch, exchange = StreamWatch(_Bars()), _Exchange("A")
    watch.observe([exchange(-1)], _at(-0.5))
    watch.observe([exchange(-1)], _at(100.5))
    assert watch.silent_minutes(_at(100), _at(100.5)) == [_silent("A", 40, 100.5, minutes=60)]
    assert watch.judged_ns == _at(100)


def test_nothing_was_observed_nothing_is_said() -> None:
    assert StreamWatch(_Bars()).silent_minutes(_at(5), _at(5)) == []


def test_a_bar_of_any_side_is_a_bar() -> None:
    def side(*bits: int) -> Presence:
        column = np.array([[bit] for bit in bits], np.uint8)
        return Presence(symbols=("A", "B", "C"), interval=Interval.parse("1m"), start_ns=_T0, slots=1, bits=column)

    assert present_in_any([side(1, 0, 0), side(0, 0, 1)]).tolist() == [True, False, True]
