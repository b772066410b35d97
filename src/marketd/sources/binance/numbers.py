"""Trades without holes, looked at a batch at a time: only a symbol that misses some is taken one by one.

Binance numbers each symbol's trades consecutively. Where a batch continues what came before, it goes on as it is; the
trades of a symbol with a hole leave the batch and wait in its `TradeSequence` until the hole is filled.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from marketd.model import TRADE, TickBatch, Trade
from marketd.sources.binance.parse import Names
from marketd.sources.refill import TradeRefill

__all__ = ["TradeNumbers"]

_UNKNOWN = -1


class TradeNumbers:
    """Remembers the last number of each symbol, over reconnects too, until it is forgotten. refill: fetches holes."""

    def __init__(self, refill: TradeRefill) -> None:
        self._refill = refill
        self._names = Names({})
        self._kept: dict[str, int] = {}  # by symbol, of those that are not in `_names`
        self._last = np.empty(0, np.int64)  # by position in `_names`
        self._waiting = np.empty(0, np.bool_)  # there is a hole
        self._due: dict[str, int] = {}  # what was expected of symbols that have one

    def follow(self, names: Names) -> None:
        """From now on batches are of these."""
        self._kept |= dict(zip(self._names.symbols, self._last.tolist(), strict=True))
        waiting = {self._names.symbols[position] for position in np.flatnonzero(self._waiting).tolist()}
        self._names = names
        self._last = np.array([self._kept.pop(symbol, _UNKNOWN) for symbol in names.symbols], np.int64)
        self._waiting = np.array([symbol in waiting for symbol in names.symbols], np.bool_)

    def forget(self, symbol: str) -> None:
        """It is wanted no longer."""
        self._kept.pop(symbol, None)
        self._refill.forget(symbol)

    async def disconnected(self) -> None:
        """The connection is lost. Holes are found again by what comes next."""
        await self._refill.disconnected()
        for position in np.flatnonzero(self._waiting).tolist():
            last_id = self._refill.sequence(self._names.symbols[position]).last_id
            self._last[position] = _UNKNOWN if last_id is None else last_id
        self._waiting[:] = False
        self._due.clear()

    def take(self, batch: TickBatch) -> tuple[TickBatch | None, list[Trade]]:
        """A batch came. Returns what of it may go on now, and the trades that go on after it."""
        rows = np.flatnonzero(batch.flags & TRADE)
        if batch.trade_id is None or not len(rows):
            return batch, []
        rows = rows[np.argsort(batch.symbol_index[rows], kind="stable")]
        index, ids = batch.symbol_index[rows], batch.trade_id[rows]
        is_first = np.ones(len(rows), np.bool_)
        is_first[1:] = index[1:] != index[:-1]
        before = np.empty_like(ids)
        before[1:] = ids[:-1]
        before[is_first] = self._last[index[is_first]]
        hole = (before != _UNKNOWN) & (ids > before + 1)
        if hole.any() or self._waiting[index].any():
            return self._take_apart(batch, np.union1d(index[hole], np.flatnonzero(self._waiting)))
        firsts = np.flatnonzero(is_first)
        symbols = index[firsts]
        self._last[symbols] = np.maximum(self._last[symbols], np.maximum.reduceat(ids, firsts))
        return batch, []

    def _take_apart(self, batch: TickBatch, slow: np.ndarray) -> tuple[TickBatch | None, list[Trade]]:
        """slow: positions of the symbols that have a hole."""
        is_slow = np.isin(batch.symbol_index, slow) & (batch.flags & TRADE > 0)
        others = batch.take(~is_slow)
        released: list[Trade] = []
        for trade in batch.take(is_slow).to_events():
            if isinstance(trade, Trade):
                released += self._take_one(trade)
        if not len(others):
            return None, released
        rest, _ = self.take(others)
        return rest, released

    def _take_one(self, trade: Trade) -> list[Trade]:
        position = self._names.position_of[trade.symbol]
        sequence = self._refill.sequence(trade.symbol)
        if not self._waiting[position]:
            last_id = int(self._last[position])
            sequence.last_id = None if last_id == _UNKNOWN else last_id
        released = sequence.trade(trade)
        self._settle(position)
        return released

    def expect(self, ids: Mapping[str, int]) -> None:
        """The exchange counts trades up to these, by symbol; what did not come of them will not."""
        for symbol, trade_id in ids.items():
            position = self._names.position_of.get(symbol)
            if position is None:
                continue
            if self._waiting[position]:
                self._due[symbol] = trade_id  # looked at when the hole is filled
                continue
            if not _UNKNOWN < self._last[position] < trade_id:
                continue
            sequence = self._refill.sequence(symbol)
            sequence.last_id = int(self._last[position])
            sequence.expect(trade_id)
            self._settle(position)

    def collected(self) -> None:
        """`TradeRefill.collect` was called: symbols whose hole is filled go the short way again."""
        for position in np.flatnonzero(self._waiting).tolist():
            self._settle(position)
        if self._due:
            due, self._due = self._due, {}
            self.expect(due)

    def _settle(self, position: int) -> None:
        symbol = self._names.symbols[position]
        sequence = self._refill.sequence(symbol)
        self._waiting[position] = sequence.missing is not None
        if sequence.last_id is not None:
            self._last[position] = sequence.last_id
        self._refill.check(symbol)
