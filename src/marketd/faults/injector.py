"""Decides what goes wrong with each tick: a seeded state machine without I/O, for one row or for many.

Nine uniform numbers are drawn for every tick, whatever is switched on, so the n-th tick meets the same draws
however ticks are batched and whichever other faults are enabled. What happens to ticks is the caller's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.faults.config import FaultConfig
from marketd.model.time import NS_PER_MS

__all__ = ["FaultInjector", "Verdict", "Verdicts"]

_KINDS = ("disconnect", "stale_window", "drop", "out_of_order", "duplicate", "delay")
_DISCONNECT, _STALE_WINDOW, _DROP, _OUT_OF_ORDER, _DUPLICATE, _DELAY = range(len(_KINDS))
_RANGES = ("disconnect_duration_ms", "stale_window_duration_ms", "delay_ms_range")
_DISCONNECT_NS, _STALE_WINDOW_NS, _DELAY_NS = range(len(_RANGES))
_DRAWS = len(_KINDS) + len(_RANGES)

_Bools = npt.NDArray[np.bool_]
_I64 = npt.NDArray[np.int64]


class Verdict(NamedTuple):
    """What happens to one tick. Nothing else does when it is lost; disconnected: the connection is, with it."""

    lost: bool
    disconnected: bool
    duplicated: bool
    earlier_ns: int
    delay_ns: int


class Verdicts(NamedTuple):
    """What happens to the rows of a batch, a value a row.

    lost: the row never arrives. duplicated: it comes twice. earlier_ns: to take off its event time. delay_ns: how long
    it is held back. disconnected: a row broke the connection. untouched: nothing happens to any row.
    """

    lost: _Bools
    duplicated: _Bools
    earlier_ns: _I64
    delay_ns: _I64
    disconnected: bool
    untouched: bool


class FaultInjector:
    """Chooses faults by seed. faults: for every symbol that has none of its own in `per_symbol`.

    counts: how often each fault happened, by the name of its probability; `stale_window_rows` and
    `disconnect_rows` count the ticks that were lost by it, so what went in is what came out, less `duplicate`,
    plus `drop` and these two.
    """

    def __init__(
        self, faults: FaultConfig, *, per_symbol: Mapping[str, FaultConfig] | None = None, seed: int = 0
    ) -> None:
        self._faults = faults
        self._per_symbol = dict(per_symbol or {})
        self._random = np.random.default_rng(seed)
        self._id_by_symbol: dict[str, int] = {}
        self._ids_of: tuple[tuple[str, ...], npt.NDArray[np.intp]] = ((), np.empty(0, np.intp))
        self._silent_until_ns = np.empty(0, np.int64)
        self.outage_until_ns = 0
        """End of the current or last outage, on the clock of `now_ns`."""
        self.counts: dict[str, int] = dict.fromkeys((*_KINDS, "stale_window_rows", "disconnect_rows"), 0)
        self._rebuild()

    @property
    def enabled(self) -> bool:
        """Whether anything can happen to a tick now, an open window included only while faults are on."""
        return self._enabled

    def set_faults(self, faults: FaultConfig | None, symbol: str | None = None) -> None:
        """From the next tick on, use `faults` for `symbol`, or for all that have none of their own.

        None takes a symbol's own away, or switches the common ones off. Windows that are open close in their time,
        or with the next tick once nothing is enabled any more.
        """
        if symbol is None:
            self._faults = faults or FaultConfig()
        elif faults is None:
            self._per_symbol.pop(symbol, None)
        else:
            self._per_symbol[symbol] = faults
        self._rebuild()

    def decide(self, symbols: tuple[str, ...], symbol_index: npt.NDArray[np.int32], now_ns: int) -> Verdicts:
        """What happens to each row of a batch. now_ns: any clock that does not go back; windows are measured on it.

        A row that begins an outage moves `outage_until_ns`; it and all rows after it are lost, until then.
        """
        rows = len(symbol_index)
        ids = self._ids(symbols)[symbol_index]
        draws = self._random.random((rows, _DRAWS)).T
        hit = draws[: len(_KINDS)] < self._probability[:, ids]
        lost = np.zeros(rows, np.bool_)
        outages = self.counts["disconnect"]
        if now_ns < self.outage_until_ns:
            lost[:] = True
            self.counts["disconnect_rows"] += rows
        else:
            self._lose(ids, hit, draws, lost, now_ns)

        kept = ~lost
        changed = hit[_OUT_OF_ORDER:] & kept
        earlier_ns = np.where(changed[0], self._earlier_ns[ids], 0)
        delay_ns = np.where(changed[2], self._duration_ns(_DELAY_NS, ids, draws), 0)
        for kind, happened in zip(_KINDS[_OUT_OF_ORDER:], changed, strict=True):
            self.counts[kind] += int(np.count_nonzero(happened))
        return Verdicts(
            lost=lost,
            duplicated=changed[1],
            earlier_ns=earlier_ns,
            delay_ns=delay_ns,
            disconnected=self.counts["disconnect"] > outages,
            untouched=not (changed.any() or lost.any()),
        )

    def decide_one(self, symbol: str, now_ns: int) -> Verdict:
        """The same for one tick."""
        verdicts = self.decide((symbol,), np.zeros(1, np.int32), now_ns)
        return Verdict(
            lost=bool(verdicts.lost[0]),
            disconnected=verdicts.disconnected,
            duplicated=bool(verdicts.duplicated[0]),
            earlier_ns=int(verdicts.earlier_ns[0]),
            delay_ns=int(verdicts.delay_ns[0]),
        )

    def _lose(self, ids: npt.NDArray[np.intp], hit: _Bools, draws: Any, lost: _Bools, now_ns: int) -> None:
        breaks = np.flatnonzero(hit[_DISCONNECT])
        arrived = len(ids)
        if breaks.size:
            arrived = int(breaks[0])
            duration = self._duration_ns(_DISCONNECT_NS, ids, draws)
            self.outage_until_ns = now_ns + int(duration[arrived])
            lost[arrived:] = True
            self.counts["disconnect"] += 1
            self.counts["disconnect_rows"] += len(ids) - arrived

        silent = self._silent_until_ns[ids[:arrived]] > now_ns
        duration = self._duration_ns(_STALE_WINDOW_NS, ids, draws)
        for row in np.flatnonzero(hit[_STALE_WINDOW, :arrived] & ~silent).tolist():
            if silent[row]:
                continue  # an earlier row of this batch has begun its symbol's window
            self._silent_until_ns[ids[row]] = now_ns + int(duration[row])
            silent[row:] |= ids[row:arrived] == ids[row]
            self.counts["stale_window"] += 1
        lost[:arrived] |= silent
        self.counts["stale_window_rows"] += int(np.count_nonzero(silent))

        dropped = hit[_DROP] & ~lost
        lost |= dropped
        self.counts["drop"] += int(np.count_nonzero(dropped))

    def _duration_ns(self, which: int, ids: npt.NDArray[np.intp], draws: Any) -> _I64:
        low, span = self._low_ns[which, ids], self._span_ns[which, ids]
        duration: _I64 = (low + draws[len(_KINDS) + which] * span).astype(np.int64)
        return duration

    def _ids(self, symbols: tuple[str, ...]) -> npt.NDArray[np.intp]:
        """Rows of the tables for `symbols`; sources reuse the tuple, so it is looked up once."""
        if self._ids_of[0] is symbols:
            return self._ids_of[1]
        ids = np.array([self._id_by_symbol.setdefault(s, len(self._id_by_symbol)) for s in symbols], np.intp)
        if len(self._id_by_symbol) > len(self._earlier_ns):
            self._rebuild()
        self._ids_of = (symbols, ids)
        return ids

    def _rebuild(self) -> None:
        """Tables with a column a symbol, and room for as many again; unknown ones have the common faults."""
        self._enabled = self._faults.enabled or any(config.enabled for config in self._per_symbol.values())
        for symbol in self._per_symbol:
            self._id_by_symbol.setdefault(symbol, len(self._id_by_symbol))
        columns = 2 * len(self._id_by_symbol) + 8
        self._probability = np.empty((len(_KINDS), columns))
        self._low_ns, self._span_ns = np.empty((2, len(_RANGES), columns))
        self._earlier_ns = np.empty(columns, np.int64)
        self._fill(slice(None), self._faults)
        for symbol, own in self._per_symbol.items():
            self._fill(self._id_by_symbol[symbol], own)
        silent_until_ns = np.zeros(columns, np.int64)
        kept = min(columns, len(self._silent_until_ns))
        silent_until_ns[:kept] = self._silent_until_ns[:kept]
        self._silent_until_ns = silent_until_ns

    def _fill(self, column: int | slice, faults: FaultConfig) -> None:
        for row, kind in enumerate(_KINDS):
            self._probability[row, column] = getattr(faults, f"{kind}_probability") if faults.enabled else 0.0
        for row, name in enumerate(_RANGES):
            low, high = getattr(faults, name)
            self._low_ns[row, column] = low * NS_PER_MS
            self._span_ns[row, column] = (high - low) * NS_PER_MS
        self._earlier_ns[column] = round(faults.out_of_order_offset_ms * NS_PER_MS)
