"""The random walk, pure: what each symbol's ticks are and when they are due. Reads no clock, waits for nothing.

Tick k of a symbol draws its random numbers from (seed, symbol, k) alone, by hashing a counter as splitmix64 does, so
neither batching nor other symbols nor the order of subscription changes a price. A tick's event time is when it was
due. Symbols tick out of phase with one another, by their names.

Ticks are computed for all symbols in one go, a little ahead of time, because a call of numpy costs the same for four
thousand rows as for forty; `take` then hands out slices. What turns out not to happen (a symbol was removed, the clock
was set back) is undone by returning to the state before and stepping again, which the hashing makes exact.

A `Run` is where uninterrupted ticks of a symbol began: from it `stretch` gives the same ticks again, so the walk
remembers what it said without keeping it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.model import BOOK, LAST, TRADE, TickBatch
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.sources.simulator.config import SCENARIOS, SimulatorConfig

__all__ = ["Run", "Stretch", "Walk", "book", "key_of", "splitmix64", "uniform"]

_U64 = npt.NDArray[np.uint64]
_F64 = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.intp]

_AHEAD_NS = 50 * NS_PER_MS
_NEVER_NS = np.iinfo(np.int64).max
_LOT = 100.0
_RUNS_MAX = 256
_FLAGS = BOOK | LAST | TRADE

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SHIFT_11 = np.uint64(11)
_GOLDEN = 0x9E3779B97F4A7C15
_DRAWS = tuple(np.uint64((draw + 1) * _GOLDEN % 2**64) for draw in range(4))
_PRICE, _SIZES, _JUMP, _PAUSE = _DRAWS
_TICK = np.uint64(len(_DRAWS) * _GOLDEN % 2**64)
_SIX_BITS = np.uint64(63)
_BID_SHIFT, _ASK_SHIFT, _LAST_SHIFT = np.uint64(0), np.uint64(6), np.uint64(12)


def splitmix64(counter: _U64) -> _U64:
    """The finaliser of Steele, Lea and Flood's generator, of each counter."""
    z = counter ^ (counter >> _SHIFT_30)
    z *= _MIX_1
    z ^= z >> _SHIFT_27
    z *= _MIX_2
    z ^= z >> _SHIFT_31
    return z


def uniform(bits: _U64) -> _F64:
    """[0, 1) from the upper 53 bits."""
    result: _F64 = (bits >> _SHIFT_11).astype(np.float64) * 2.0**-53
    return result


def book(price: Any, spread_bp: float) -> tuple[Any, Any]:
    """Bid and ask around a price or an array of them, never as high and never as low as it."""
    half_spread = price * (0.5e-4 * spread_bp)
    return (
        np.minimum(price - half_spread, np.nextafter(price, 0.0)),
        np.maximum(price + half_spread, np.nextafter(price, np.inf)),
    )


def _lots(bits: _U64, shift: np.uint64) -> _F64:
    """A size of 1 to 64 lots from six of the bits."""
    result: _F64 = _LOT + _LOT * ((bits >> shift) & _SIX_BITS).astype(np.float64)
    return result


def key_of(seed: int, symbol: str) -> int:
    """Where the counter of a symbol starts."""
    return int.from_bytes(blake2b(f"{seed}\0{symbol}".encode(), digest_size=8).digest(), "little")


class Run(NamedTuple):
    """The state before a tick of one symbol from which on its ticks followed without interruption.

    due_ns: of that tick. last_ns: ticks due later did not happen; None while they still follow.
    """

    counter: int
    due_ns: int
    price: float
    volume: float
    last_ns: int | None = None


class Stretch(NamedTuple):
    """Consecutive ticks of one symbol, and the state after them."""

    time_event_ns: npt.NDArray[np.int64]
    price: _F64
    last_size: _F64
    volume: _F64
    bid_size: _F64
    ask_size: _F64
    after: Run

    def head(self, count: int) -> Stretch:
        """The first of them, with the same state after them."""
        names = self._fields[:-1]
        return self._replace(**{name: getattr(self, name)[:count] for name in names})


class _Round(NamedTuple):
    """At most one tick of each symbol."""

    rows: _Rows
    time_event_ns: npt.NDArray[np.int64]
    price: _F64
    volume: _F64
    last_size: _F64
    size_bits: _U64


class Walk:
    """State of all configured symbols; only those wanted move. start_ns: event time zero of the schedule."""

    def __init__(self, config: SimulatorConfig, start_ns: int) -> None:
        self._config = config
        self._names = tuple(config.symbols)
        self._row_of = {name: row for row, name in enumerate(self._names)}
        symbols = list(config.symbols.values())
        scenarios = [SCENARIOS[symbol.scenario] for symbol in symbols]
        self._price = np.array([symbol.base_price for symbol in symbols], np.float64)
        self._price = np.clip(self._price, config.price_floor, config.price_ceiling)
        self._drift = np.array([scenario.drift for scenario in scenarios], np.float64)
        self._volatility = np.array([scenario.volatility for scenario in scenarios], np.float64)
        self._jump_probability = np.array([scenario.jump_probability for scenario in scenarios], np.float64)
        self._jump = np.array([scenario.jump for scenario in scenarios], np.float64)
        self._pauses = np.array([scenario.pauses for scenario in scenarios], np.bool_)
        self._any_jump = bool(self._jump_probability.any())
        self._any_pause = bool(self._pauses.any()) and config.stale_pause_probability > 0
        self._interval_ns = np.array([symbol.tick_interval_ms * NS_PER_MS for symbol in symbols], np.int64)
        self._counter = np.array([key_of(config.seed, name) for name in self._names], np.uint64)
        phase = uniform(splitmix64(self._counter.copy()))
        self._due_when_wanted_ns = start_ns + (phase * self._interval_ns).astype(np.int64)
        self._due_ns = np.full(len(symbols), _NEVER_NS, np.int64)
        self._volume = np.zeros(len(symbols))
        self._wanted: tuple[str, ...] = ()
        self._position = np.full(len(symbols), -1, np.int32)
        self._last_now_ns = start_ns
        self._ahead: TickBatch | None = None
        self._served = 0
        self._before = self._state()
        self._runs = [deque[Run](maxlen=_RUNS_MAX) for _ in symbols]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The symbols that move, in the order they were asked for; the same object until `want` changes them."""
        return self._wanted

    def want(self, symbols: Sequence[str], now_ns: int) -> tuple[str, ...]:
        """Move these and no others from now on; returns those that are not configured.

        A symbol that stood still goes on from its last price and tick number, at its next due time from now.
        """
        self._undo_ahead()
        self._follow_back(now_ns)
        known = tuple(symbol for symbol in symbols if symbol in self._row_of)
        rows = np.array([self._row_of[symbol] for symbol in known], np.intp)
        moved = self._due_ns != _NEVER_NS
        moves = np.zeros(len(self._names), np.bool_)
        moves[rows] = True
        stops, starts = moved & ~moves, moves & ~moved
        self._end_runs(np.flatnonzero(stops))
        self._due_when_wanted_ns[stops] = self._due_ns[stops]
        self._due_ns[stops] = _NEVER_NS
        self._due_ns[starts] = self._due_when_wanted_ns[starts]
        self._skip_to(now_ns, np.flatnonzero(starts))
        self._begin_runs(np.flatnonzero(starts))
        self._position[:] = -1
        self._position[rows] = np.arange(len(rows), dtype=np.int32)
        self._wanted = known
        return tuple(symbol for symbol in symbols if symbol not in self._row_of)

    def next_due_ns(self) -> int | None:
        """When the next tick is due; None when nothing moves."""
        if self._ahead is not None:
            return int(self._ahead.time_event_ns[self._served])
        due_ns = int(self._due_ns.min(initial=_NEVER_NS))
        return None if due_ns == _NEVER_NS else due_ns

    def take(self, now_ns: int) -> list[TickBatch]:
        """All ticks due by `now_ns` that were not taken yet, by due time, in as few batches as they come.

        They are received at `now_ns`. Ticks more than `max_catch_up_s` old are passed over: their time goes by
        without them. When `now_ns` is before the last one (the machine's clock was set back), the schedule moves
        back with it.
        """
        if now_ns < self._last_now_ns:
            self._undo_ahead()
            self._follow_back(now_ns)
        oldest_ns = now_ns - round(self._config.max_catch_up_s * NS_PER_S)
        next_ns = self.next_due_ns()
        if next_ns is not None and next_ns < oldest_ns:
            self._undo_ahead()
            late = np.flatnonzero(self._due_ns < oldest_ns)
            self._end_runs(late)
            self._skip_to(oldest_ns, late)
            self._begin_runs(late)
        self._last_now_ns = now_ns
        taken = self._serve(now_ns)
        self._step_ahead(now_ns)
        return taken + self._serve(now_ns)

    def _serve(self, now_ns: int) -> list[TickBatch]:
        """What has been computed and is due."""
        ahead, start = self._ahead, self._served
        if ahead is None:
            return []
        stop = int(np.searchsorted(ahead.time_event_ns, now_ns, side="right"))
        if stop == start:
            return []
        self._served = stop
        if stop == len(ahead):
            self._ahead = None
        received_ns = np.full(stop - start, now_ns, np.int64)
        return [ahead.take(slice(start, stop)).replace(time_received_ns=received_ns)]

    def _step_ahead(self, now_ns: int) -> None:
        """Compute what is due by `now_ns` and soon after, if anything is due and all before is served."""
        if self._ahead is None and self._due_ns.min(initial=_NEVER_NS) <= now_ns:
            self._before = self._state()
            self._ahead = self._batch(self._steps(now_ns + _AHEAD_NS))
            self._served = 0

    def _undo_ahead(self) -> None:
        """Return to where only what was served has happened."""
        if self._ahead is None:
            return
        self._ahead = None
        self._price, self._volume, self._due_ns, self._counter = self._before
        self._steps(self._last_now_ns)

    def _follow_back(self, now_ns: int) -> None:
        """Move the schedule back with a clock that was set back."""
        back_ns = self._last_now_ns - now_ns
        if back_ns > 0:
            moving = np.flatnonzero(self._due_ns != _NEVER_NS)
            self._end_runs(moving)
            self._due_ns[moving] -= back_ns
            self._due_when_wanted_ns -= back_ns
            self._begin_runs(moving)
            self._last_now_ns = now_ns

    def _begin_runs(self, rows: _Rows) -> None:
        states = (self._counter[rows], self._due_ns[rows], self._price[rows], self._volume[rows])
        for row, *state in zip(rows.tolist(), *(column.tolist() for column in states), strict=True):
            self._runs[row].append(Run(*state))

    def _end_runs(self, rows: _Rows) -> None:
        for row in rows.tolist():
            runs = self._runs[row]
            runs[-1] = runs[-1]._replace(last_ns=self._last_now_ns)

    def runs(self, symbol: str) -> tuple[Run, ...]:
        """How a symbol ticked, oldest first: the last 256 runs. Empty for one that was never wanted."""
        row = self._row_of.get(symbol)
        return () if row is None else tuple(self._runs[row])

    def stretch(self, symbol: str, run: Run, count: int) -> Stretch:
        """The next `count` ticks from there, the same as `take` gave. May be called from another thread."""
        row = self._row_of[symbol]
        counter = np.uint64(run.counter) + np.arange(count, dtype=np.uint64) * _TICK
        price = self._bounded(run.price, 1.0 + self._change(row, counter))
        size_bits = splitmix64(counter + _SIZES)
        last_size = _lots(size_bits, _LAST_SHIFT)
        volume = run.volume + np.cumsum(last_size)  # whole lots: no sum is rounded
        waits_ns = np.full(count, self._interval_ns[row])
        if self._any_pause:
            waits_ns += self._pause_ns(row, counter)
        due_ns = run.due_ns + np.cumsum(waits_ns)
        after = Run(
            (run.counter + count * int(_TICK)) % 2**64,
            int(due_ns[-1]),
            float(price[-1]),
            float(volume[-1]),
            run.last_ns,
        )
        time_ns = due_ns - waits_ns
        sizes = _lots(size_bits, _BID_SHIFT), _lots(size_bits, _ASK_SHIFT)
        return Stretch(time_ns, price, last_size, volume, *sizes, after)

    def _bounded(self, price: float, factors: _F64) -> _F64:
        """Each price is the one before times its factor, kept within floor and ceiling."""
        low, high = self._config.price_floor, self._config.price_ceiling
        with np.errstate(over="ignore"):
            prices: _F64 = np.multiply.accumulate(np.concatenate([[price], factors]))[1:]
        outside = (prices < low) | (prices > high) | np.isnan(prices)
        if not outside.any():
            return prices
        # each price depends on whether the one before was held, which no array operation can say
        first = int(outside.argmax())
        held = itertools.accumulate(
            factors[first:].tolist(),
            lambda before, factor: min(max(before * factor, low), high),
            initial=float(prices[first - 1]) if first else price,
        )
        prices[first:] = np.fromiter(itertools.islice(held, 1, None), np.float64, len(prices) - first)
        return prices

    def _state(self) -> tuple[_F64, _F64, npt.NDArray[np.int64], _U64]:
        return self._price.copy(), self._volume.copy(), self._due_ns.copy(), self._counter.copy()

    def _steps(self, until_ns: int) -> list[_Round]:
        """Every tick due by `until_ns`."""
        rounds: list[_Round] = []
        rows = np.flatnonzero(self._due_ns <= until_ns)
        while rows.size:
            rounds.append(self._step(rows))
            rows = rows[self._due_ns[rows] <= until_ns]
        return rounds

    def _skip_to(self, time_ns: int, rows: _Rows) -> None:
        """Move what is due before `time_ns` to its first due time that is not."""
        interval_ns = self._interval_ns[rows]
        behind_ns = np.maximum(time_ns - self._due_ns[rows], 0)
        self._due_ns[rows] += -(-behind_ns // interval_ns) * interval_ns

    def _step(self, rows: _Rows) -> _Round:
        """One tick of each of `rows`."""
        config = self._config
        counter = self._counter[rows]
        price = self._price[rows] * (1.0 + self._change(rows, counter))
        np.clip(price, config.price_floor, config.price_ceiling, out=price)
        size_bits = splitmix64(counter + _SIZES)
        last_size = _lots(size_bits, _LAST_SHIFT)
        volume = self._volume[rows] + last_size
        due_ns = self._due_ns[rows]
        next_ns = due_ns + self._interval_ns[rows]
        if self._any_pause:
            next_ns += self._pause_ns(rows, counter)
        self._price[rows] = price
        self._volume[rows] = volume
        self._due_ns[rows] = next_ns
        self._counter[rows] = counter + _TICK
        return _Round(rows, due_ns, price, volume, last_size, size_bits)

    def _change(self, rows: Any, counter: _U64) -> _F64:
        """What the ticks of these numbers add to the price, as a fraction. rows: one for each, or one for all."""
        change: _F64 = self._drift[rows] + self._volatility[rows] * (2.0 * uniform(splitmix64(counter + _PRICE)) - 1.0)
        if self._any_jump:
            chance = uniform(splitmix64(counter + _JUMP))
            half = 0.5 * self._jump_probability[rows]
            change += np.where(chance < half, self._jump[rows], np.where(chance < 2 * half, -self._jump[rows], 0.0))
        return change

    def _pause_ns(self, rows: Any, counter: _U64) -> npt.NDArray[np.int64]:
        low_ms, high_ms = self._config.stale_pause_duration_ms
        probability = self._config.stale_pause_probability
        bits = splitmix64(counter + _PAUSE)
        stops = self._pauses[rows] & (uniform(bits) < probability)
        # Given that it stops, the draw is uniform below the probability: what is left of it says for how long.
        duration_ms = low_ms + uniform(bits) / probability * (high_ms - low_ms)
        return np.where(stops, duration_ms * NS_PER_MS, 0.0).astype(np.int64)

    def _batch(self, rounds: list[_Round]) -> TickBatch:
        if len(rounds) == 1:
            (ticks,) = rounds
            order = np.argsort(ticks.time_event_ns, kind="stable")
        else:
            ticks = _Round(*(np.concatenate(column) for column in zip(*rounds, strict=True)))
            order = np.lexsort((ticks.rows, ticks.time_event_ns))
        price, bits = ticks.price[order], ticks.size_bits[order]
        time_event_ns = ticks.time_event_ns[order]
        bid, ask = book(price, self._config.spread_bp)
        return TickBatch(
            source="simulator",
            symbols=self._wanted,
            symbol_index=self._position[ticks.rows[order]],
            flags=np.full(len(order), _FLAGS, np.uint8),
            time_event_ns=time_event_ns,
            time_received_ns=time_event_ns,  # until it is served
            bid=bid,
            ask=ask,
            bid_size=_lots(bits, _BID_SHIFT),
            ask_size=_lots(bits, _ASK_SHIFT),
            last=price,
            last_size=ticks.last_size[order],
            volume=ticks.volume[order],
        )
