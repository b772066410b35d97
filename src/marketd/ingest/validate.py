"""Which rows are believed. A refused row is told apart with one reason; a doubtful but real one gets a flag.

Refused: prices and sizes that are not numbers, prices not positive, negative sizes, impossible or future stamps,
absurd jumps. Flagged and accepted: crossed and locked books, which real venues do show.
A jump is believed after `jump_confirmations` rows in a row agree on the new level, so that a split or a
reopening does not silence a symbol for ever.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.errors import InvalidInput
from marketd.model import BOOK, LAST, TickBatch
from marketd.model.ticks import TRADE
from marketd.model.time import NS_PER_MS

__all__ = ["CROSSED", "LOCKED", "REASONS", "ValidationConfig", "Validator", "book_marks"]

U8 = npt.NDArray[np.uint8]

REASONS = ("ok", "bad_time", "future_stamp", "not_finite", "non_positive", "negative_size", "jump")
_BAD_TIME, _FUTURE, _NOT_FINITE, _NON_POSITIVE, _NEGATIVE_SIZE, _JUMP = range(1, 7)

CROSSED = 1
LOCKED = 2


class ValidationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """max_jump: largest believed relative change between two prices of a symbol (0.5 is 50 %), None for any.

    max_future_ms: how far an event time may be ahead of its receive time (clocks do differ by seconds).
    allow_non_positive: symbols whose price may be zero or negative (spreads, some futures). They have no
    relative change worth the name, so `max_jump` is not for them.
    """

    max_jump: float | None = 0.5
    jump_confirmations: int = 5
    max_future_ms: int = 5_000
    allow_non_positive: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_jump is not None and not self.max_jump > 0:
            raise InvalidInput("max_jump", self.max_jump, "a number above 0, or null for no limit")
        if self.jump_confirmations < 1:
            raise InvalidInput("jump_confirmations", self.jump_confirmations, "a whole number from 1")
        if self.max_future_ms < 0:
            raise InvalidInput("max_future_ms", self.max_future_ms, "milliseconds, 0 or more")


def book_marks(batch: TickBatch) -> U8:
    """`CROSSED`/`LOCKED` of each row."""
    book = (batch.flags & BOOK) > 0
    crossed, locked = (batch.bid > batch.ask) & book, (batch.bid == batch.ask) & book
    marks: U8 = crossed.astype(np.uint8) * CROSSED + locked.astype(np.uint8) * LOCKED
    return marks


class Validator:
    """Holds, per symbol, the last believed price and how often a doubted one was repeated."""

    def __init__(self, config: ValidationConfig) -> None:
        self._config = config
        self._max_future_ns = config.max_future_ms * NS_PER_MS
        self._believed = np.full(0, np.nan)
        self._doubted: dict[int, tuple[float, int]] = {}
        self._exempt_of: tuple[tuple[str, ...], list[int]] | None = None

    def check(self, batch: TickBatch, ids: npt.NDArray[np.intp]) -> tuple[U8 | None, U8]:
        """Reason per row as an index into `REASONS` (None: all rows are good), and `CROSSED`/`LOCKED` per row."""
        bid, ask, last, flags = batch.bid, batch.ask, batch.last, batch.flags
        reasons = np.zeros(len(batch), np.uint8)

        price = np.where(flags & LAST, last, np.nan)
        no_last = np.isnan(price)
        if no_last.any():
            price[no_last] = (bid[no_last] + ask[no_last]) / 2
            reasons[no_last & (flags & TRADE > 0)] = _NOT_FINITE
        # Comparisons with NaN are False, so an absent price or size passes each of these tests.
        bad_size = (batch.bid_size < 0) | (batch.ask_size < 0) | (batch.last_size < 0) | (batch.volume < 0)
        reasons[bad_size] = _NEGATIVE_SIZE
        low = (bid <= 0) | (ask <= 0) | (last <= 0)
        if self._config.allow_non_positive:
            exempt = np.isin(batch.symbol_index, self._exempt(batch.symbols))
            low &= ~exempt
            price[exempt] = np.nan
        reasons[low] = _NON_POSITIVE
        endless = np.isinf(bid) | np.isinf(ask) | np.isinf(last)
        endless |= (batch.bid_size == np.inf) | (batch.ask_size == np.inf)
        endless |= (batch.last_size == np.inf) | (batch.volume == np.inf)
        reasons[endless] = _NOT_FINITE
        reasons[batch.time_event_ns > batch.time_received_ns + self._max_future_ns] = _FUTURE
        reasons[batch.time_event_ns <= 0] = _BAD_TIME

        if self._config.max_jump is not None:
            self._check_jumps(ids, price, reasons, self._config.max_jump)

        return (reasons if reasons.any() else None), book_marks(batch)

    def _exempt(self, symbols: tuple[str, ...]) -> list[int]:
        if self._exempt_of is None or self._exempt_of[0] is not symbols:
            found = [i for i, name in enumerate(symbols) if name in self._config.allow_non_positive]
            self._exempt_of = (symbols, found)
        return self._exempt_of[1]

    def _check_jumps(
        self, ids: npt.NDArray[np.intp], price: npt.NDArray[np.float64], reasons: U8, limit: float
    ) -> None:
        top = int(ids.max(initial=-1)) + 1
        if top > len(self._believed):
            grown = np.full(max(top, 2 * len(self._believed)), np.nan)
            grown[: len(self._believed)] = self._believed
            self._believed = grown
        usable = (reasons == 0) & ~np.isnan(price)
        rows = slice(None) if usable.all() else np.flatnonzero(usable)
        ids, price = ids[rows], price[rows]
        if not len(ids):
            return
        before = self._believed[ids]
        if len(ids) > 1:
            order = np.argsort(ids, kind="stable")
            repeated = ids[order][1:] == ids[order][:-1]
            if repeated.any():
                before[order[1:][repeated]] = price[order[:-1][repeated]]
        suspect = np.abs(price - before) > limit * np.abs(before)
        if not suspect.any() and not self._doubted:
            self._believed[ids] = price
            return
        slow = set(ids[suspect].tolist()) | (self._doubted.keys() & set(ids.tolist()))
        is_slow = np.isin(ids, list(slow))
        self._believed[ids[~is_slow]] = price[~is_slow]
        positions = np.arange(len(reasons))[rows]
        for i in np.flatnonzero(is_slow):
            if not self._believe(int(ids[i]), float(price[i]), limit):
                reasons[positions[i]] = _JUMP

    def _believe(self, symbol: int, price: float, limit: float) -> bool:
        believed = float(self._believed[symbol])
        if not abs(price - believed) > limit * abs(believed):  # also when nothing was believed yet
            self._doubted.pop(symbol, None)
            self._believed[symbol] = price
            return True
        level, times = self._doubted.get(symbol, (price, 0))
        times = 1 if abs(price - level) > limit * abs(level) else times + 1
        if times >= self._config.jump_confirmations:
            self._doubted.pop(symbol, None)
            self._believed[symbol] = price
            return True
        self._doubted[symbol] = (price, times)
        return False
