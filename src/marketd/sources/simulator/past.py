"""The market before anybody listened: what a symbol's minutes were, from the seed alone. Pure.

The logarithm of the price is the base price's plus fourteen layers of noise, one for each doubling from a minute to
about eleven days: at whole multiples of its length a layer has a random height, and straight lines between. A layer is
larger than the one before by the square root of two, as the sum of independent steps would be. So any minute can be
had without the minutes before it, and the price stays within a third of the base price.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.model import Interval, parse_ns
from marketd.model.time import NS_PER_MS
from marketd.sources.simulator.config import SCENARIOS, SimulatorConfig
from marketd.sources.simulator.walk import key_of, splitmix64, uniform

__all__ = ["FIRST_NS", "MINUTE", "Past", "Rows", "concatenated", "rolled"]

FIRST_NS = parse_ns("2000-01-01")
"""Nothing is told of what was before."""

MINUTE = Interval.parse("1m")

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]

_LAYERS = 14
_HEIGHT_MAX = 0.3
"""Of all layers together."""
_LAYERS_SUM = sum(2 ** (layer / 2) for layer in range(_LAYERS))
_LOT = 100.0
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Rows(NamedTuple):
    """Bars as columns, ascending. notional: sum of price times size."""

    ts: _I64
    open: _F64
    high: _F64
    low: _F64
    close: _F64
    volume: _F64
    notional: _F64
    trades: _I64

    def take(self, rows: Any) -> Rows:
        """Those selected by a slice, a mask or an index array."""
        return Rows(*(column[rows] for column in self))

    @staticmethod
    def empty() -> Rows:
        whole, real = np.empty(0, np.int64), np.empty(0)
        return Rows(whole, real, real, real, real, real, real, whole)


def concatenated(parts: list[Rows]) -> Rows:
    """At least one part."""
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def rolled(rows: Rows, interval: Interval) -> Rows:
    """Rows of longer bars; those of the same bar follow one another."""
    if not len(rows.ts):
        return rows
    bar = interval.floor(rows.ts)
    first = np.concatenate([[0], np.flatnonzero(bar[1:] != bar[:-1]) + 1])
    last = np.concatenate([first[1:] - 1, [len(bar) - 1]])
    return Rows(
        ts=bar[first],
        open=rows.open[first],
        high=np.maximum.reduceat(rows.high, first),
        low=np.minimum.reduceat(rows.low, first),
        close=rows.close[last],
        volume=np.add.reduceat(rows.volume, first),
        notional=np.add.reduceat(rows.notional, first),
        trades=np.add.reduceat(rows.trades, first),
    )


class Past:
    """Of one symbol, which is configured. It ticks at whole multiples of its interval since 1970, out of phase."""

    def __init__(self, config: SimulatorConfig, symbol: str) -> None:
        what = config.symbols[symbol]
        self._base = what.base_price
        self._low, self._high = config.price_floor, config.price_ceiling
        self._keys = {
            name: np.uint64(key_of(config.seed, f"{symbol}\0{name}")) for name in ("high", "low", "volume", "sizes")
        }
        self._layer_keys = [np.uint64(key_of(config.seed, f"{symbol}\0layer {layer}")) for layer in range(_LAYERS)]
        # half of what the walk does in a minute, a uniform step's deviation being 1 / sqrt(3)
        minute = SCENARIOS[what.scenario].volatility * math.sqrt(60_000 / what.tick_interval_ms / 3) / 2
        self._height = min(minute, _HEIGHT_MAX / _LAYERS_SUM)
        self._interval_ns = what.tick_interval_ms * NS_PER_MS
        phase = uniform(splitmix64(np.array([key_of(config.seed, symbol)], np.uint64)))
        self._phase_ns = int(phase[0] * self._interval_ns)

    def prices(self, minutes: _I64) -> _F64:
        """At the beginning of each of some minutes since 1970, which are consecutive."""
        level = np.zeros(len(minutes))
        for layer, key in enumerate(self._layer_keys):
            cell = minutes >> layer
            corners = np.arange(cell[0], cell[-1] + 2)
            height = _signed(key, corners)
            left = height[cell - cell[0]]
            part = (minutes - (cell << layer)) * 2.0**-layer
            level += self._height * 2 ** (layer / 2) * (left + (height[cell - cell[0] + 1] - left) * part)
        return np.clip(self._base * np.exp(level), self._low, self._high)

    def bars(self, start_ns: int, end_ns: int) -> Rows:
        """Minutes with start_ns <= ts < end_ns in which it ticked."""
        ts = MINUTE.starts(start_ns, end_ns)
        if not len(ts):
            return Rows.empty()
        number = ts // MINUTE.ns
        price = self.prices(np.append(number, number[-1] + 1))
        open_, close = price[:-1], price[1:]
        ticks = self._ticks_before(ts + MINUTE.ns) - self._ticks_before(ts)
        open_ = np.where(ticks == 1, close, open_)
        reach = np.where(ticks == 1, 0.0, self._height)
        high = np.maximum(open_, close) * (1.0 + reach * _unit(self._keys["high"], number))
        low = np.minimum(open_, close) * (1.0 - reach * _unit(self._keys["low"], number))
        high, low = np.minimum(high, self._high), np.maximum(low, self._low)
        lots: _F64 = np.floor(63 * ticks * _unit(self._keys["volume"], number)) + ticks
        volume = _LOT * lots
        rows = Rows(ts, open_, high, low, close, volume, volume * (high + low + close) / 3, ticks)
        kept = ticks > 0
        return rows if kept.all() else rows.take(kept)

    def last_tick(self, now_ns: int) -> tuple[int, float, float, float]:
        """(time_event_ns, price, bid_size, ask_size) of the last one due by then."""
        count = (now_ns - self._phase_ns) // self._interval_ns
        time_ns = self._phase_ns + count * self._interval_ns
        minute = time_ns // MINUTE.ns
        before, after = self.prices(np.array([minute, minute + 1])).tolist()
        price = before + (after - before) * (time_ns - minute * MINUTE.ns) / MINUTE.ns
        lots = np.floor(64 * _unit(self._keys["sizes"], np.array([2 * count, 2 * count + 1])))
        bid_size, ask_size = (_LOT + _LOT * lots).tolist()
        return time_ns, price, bid_size, ask_size

    def _ticks_before(self, time_ns: _I64) -> _I64:
        before: _I64 = -((self._phase_ns - time_ns) // self._interval_ns)
        return before


def _unit(key: np.uint64, numbers: _I64) -> _F64:
    """[0, 1) of each number, the same whenever it is asked."""
    return uniform(splitmix64(key + numbers.astype(np.uint64) * _GOLDEN))


def _signed(key: np.uint64, numbers: _I64) -> _F64:
    """[-1, 1)."""
    signed: _F64 = 2.0 * _unit(key, numbers) - 1.0
    return signed
