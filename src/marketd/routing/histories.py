"""A provider's memory as back-fill gets it: asked through the router, so that every outcome counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pyarrow as pa

from marketd.model import Interval
from marketd.sources.contract import BarHistory

__all__ = ["AskBars", "asked_through"]

AskBars = Callable[[str, Interval, int, int], Awaitable[pa.Table]]
"""As `BarHistory.bars`."""

BeginsAt = Callable[[str, Interval], int | None]


def asked_through(ask: AskBars, history: BarHistory) -> BarHistory:
    """A history that is asked by `ask`. It knows where its memory begins if `history` does."""
    begins_at: BeginsAt | None = getattr(history, "history_start_ns", None)
    return _Bars(ask) if begins_at is None else _BarsFromStart(ask, begins_at)


class _Bars:
    def __init__(self, ask: AskBars) -> None:
        self._ask = ask

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        return await self._ask(symbol, interval, start_ns, end_ns)


class _BarsFromStart(_Bars):
    """Implements `continuity.worker.KnowsItsStart` too."""

    def __init__(self, ask: AskBars, begins_at: BeginsAt) -> None:
        super().__init__(ask)
        self._begins_at = begins_at

    def history_start_ns(self, symbol: str, interval: Interval) -> int | None:
        return self._begins_at(symbol, interval)
