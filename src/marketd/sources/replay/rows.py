"""Columns on their way from a file to a batch: ticks, and in between them what else has to be said at that place.

A row with flags 0 is no tick: it stands for an event (a corrupt line, a recorded disconnect) kept in `Asides`
under its `trade_id`. So everything keeps its place through sorting and cutting.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.model import Quarantined, SourceEvent
from marketd.model.ticks import F64, I64

__all__ = ["NAME", "NO_TIME", "Asides", "Rows", "SymbolTable", "corrupt_line", "running_key"]

NAME = "replay"
"""Of this source, in every row it gives."""

_DETAIL_MAX = 200

NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for "not told" in the int64 time columns."""


class Rows(NamedTuple):
    """key: the greatest event time of the file up to this row: its place in the merge. Others as in `TickBatch`."""

    key: I64
    time_event_ns: I64
    time_received_ns: I64
    symbol_index: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    bid: F64
    ask: F64
    bid_size: F64
    ask_size: F64
    last: F64
    last_size: F64
    volume: F64
    trade_id: I64

    def take(self, rows: Any) -> Rows:
        """The rows selected by a slice, a mask or an index array."""
        return Rows(*(column[rows] for column in self))

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def running_key(time_event_ns: I64, before: int) -> I64:
    """Event time that never goes back. before: the last key of the rows that came earlier in the file."""
    if not len(time_event_ns):
        return time_event_ns
    key = time_event_ns.copy()
    key[0] = max(int(key[0]), before)
    np.maximum.accumulate(key, out=key)
    return key


class Asides:
    """Events that wait for their turn among the rows."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._events: dict[int, SourceEvent] = {}

    def put(self, event: SourceEvent) -> int:
        number = next(self._numbers)
        self._events[number] = event
        return number

    def pop(self, number: int) -> SourceEvent:
        return self._events.pop(number)


class SymbolTable:
    """Names to positions, the same for all files, so that batches share one tuple of names."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}
        self._names: tuple[str, ...] = ()

    def position(self, name: str) -> int:
        return self._positions.setdefault(name, len(self._positions))

    def __contains__(self, name: str) -> bool:
        return name in self._positions

    @property
    def names(self) -> tuple[str, ...]:
        """In the order first seen; the same object until there is a new one."""
        if len(self._names) != len(self._positions):
            self._names = tuple(self._positions)
        return self._names


def corrupt_line(path: str, line: int, text: str) -> Quarantined:
    """What is said of a line that cannot be understood. The receive time is filled in when it is said."""
    return Quarantined(
        source=NAME, time_received_ns=0, reason="corrupt_line", detail=text[:_DETAIL_MAX], where=f"{path}:{line}"
    )
