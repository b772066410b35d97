"""Many ticks at once, as columns: what travels from a source to the latest-value table.

Arrow arrays are immutable and cost microseconds each to make, which is too much for batches of a few
hundred rows a hundred times a second; these are numpy columns with the same meaning, and
``docs/decisions/002-tick-columns.md`` says what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.model.quote import Quote, Trade

__all__ = ["BOOK", "LAST", "TRADE", "TickBatch"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

BOOK = 1
"""The row states bid, ask and their sizes; NaN there means that side is empty."""
LAST = 2
"""The row states the last price (and volume, where not NaN)."""
TRADE = 4
"""The last price is an execution of `last_size` that is reported nowhere else: it counts in bars."""


class TickBatch:
    """Rows of one source in the order they came. Treat as immutable.

    symbols: names; reuse the same tuple object from batch to batch (receivers cache by identity).
    symbol_index: position in `symbols` of each row. flags: `BOOK`, `LAST`, `TRADE` or-ed together.
    time_event_ns, time_received_ns: int64, UTC. Prices, sizes, volume: float64, NaN where absent.
    trade_id: int64 for every row, or None when the source numbers no trades.
    aggressor is not carried: nothing derived here depends on it.
    """

    __slots__ = (
        "ask",
        "ask_size",
        "bid",
        "bid_size",
        "flags",
        "last",
        "last_size",
        "source",
        "symbol_index",
        "symbols",
        "time_event_ns",
        "time_received_ns",
        "trade_id",
        "volume",
    )

    def __init__(
        self,
        *,
        source: str,
        symbols: tuple[str, ...],
        symbol_index: npt.NDArray[np.int32],
        flags: npt.NDArray[np.uint8],
        time_event_ns: I64,
        time_received_ns: I64,
        bid: F64,
        ask: F64,
        bid_size: F64,
        ask_size: F64,
        last: F64,
        last_size: F64,
        volume: F64,
        trade_id: I64 | None = None,
    ) -> None:
        self.source = source
        self.symbols = symbols
        self.symbol_index = symbol_index
        self.flags = flags
        self.time_event_ns = time_event_ns
        self.time_received_ns = time_received_ns
        self.bid = bid
        self.ask = ask
        self.bid_size = bid_size
        self.ask_size = ask_size
        self.last = last
        self.last_size = last_size
        self.volume = volume
        self.trade_id = trade_id

    def __len__(self) -> int:
        return len(self.symbol_index)

    def take(self, rows: Any) -> TickBatch:
        """The rows selected by a boolean mask, an index array or a slice, in that order."""
        return TickBatch(
            source=self.source,
            symbols=self.symbols,
            symbol_index=self.symbol_index[rows],
            flags=self.flags[rows],
            time_event_ns=self.time_event_ns[rows],
            time_received_ns=self.time_received_ns[rows],
            bid=self.bid[rows],
            ask=self.ask[rows],
            bid_size=self.bid_size[rows],
            ask_size=self.ask_size[rows],
            last=self.last[rows],
            last_size=self.last_size[rows],
            volume=self.volume[rows],
            trade_id=None if self.trade_id is None else self.trade_id[rows],
        )

    def replace(self, **columns: Any) -> TickBatch:
        """The same batch with some columns exchanged."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields.update(columns)
        return TickBatch(**fields)

    @classmethod
    def from_events(cls, events: Sequence[Quote | Trade]) -> TickBatch:
        """Columns of quotes and trades of one source, in their order. Raises ValueError on mixed sources."""
        sources = {event.source for event in events}
        if len(sources) != 1:
            raise ValueError(f"a batch has one source, these events have {sorted(sources)}")
        n = len(events)
        positions: dict[str, int] = {}
        index = np.empty(n, np.int32)
        flags = np.empty(n, np.uint8)
        times = np.empty((2, n), np.int64)
        values = np.full((7, n), np.nan)
        trade_id: I64 | None = None
        for row, event in enumerate(events):
            index[row] = positions.setdefault(event.symbol, len(positions))
            times[0, row] = event.time_event_ns
            times[1, row] = event.time_received_ns
            if isinstance(event, Quote):
                flags[row] = BOOK if event.last is None else BOOK | LAST
                stated: Iterable[tuple[int, float | None]] = (
                    (0, event.bid),
                    (1, event.ask),
                    (2, event.bid_size),
                    (3, event.ask_size),
                    (4, event.last),
                    (6, event.volume),
                )
            else:
                flags[row] = LAST | TRADE
                stated = ((4, event.price), (5, event.size))
                if event.trade_id is not None:
                    if trade_id is None:
                        trade_id = np.full(n, NO_TRADE_ID, np.int64)
                    trade_id[row] = event.trade_id
            for column, value in stated:
                if value is not None:
                    values[column, row] = value
        return cls(
            source=sources.pop(),
            symbols=tuple(positions),
            symbol_index=index,
            flags=flags,
            time_event_ns=times[0],
            time_received_ns=times[1],
            bid=values[0],
            ask=values[1],
            bid_size=values[2],
            ask_size=values[3],
            last=values[4],
            last_size=values[5],
            volume=values[6],
            trade_id=trade_id,
        )

    def to_events(self) -> list[Quote | Trade]:
        """The rows as values, for tests, recordings and small consumers. A row that is both gives both."""
        out: list[Quote | Trade] = []
        ids = [None] * len(self) if self.trade_id is None else self.trade_id.tolist()
        for row, (flag, position) in enumerate(zip(self.flags.tolist(), self.symbol_index.tolist(), strict=True)):
            symbol = self.symbols[position]
            event_ns, received_ns = int(self.time_event_ns[row]), int(self.time_received_ns[row])
            if flag & BOOK:
                out.append(
                    Quote(
                        symbol=symbol,
                        time_event_ns=event_ns,
                        time_received_ns=received_ns,
                        source=self.source,
                        bid=_present(self.bid[row]),
                        ask=_present(self.ask[row]),
                        bid_size=_present(self.bid_size[row]),
                        ask_size=_present(self.ask_size[row]),
                        last=_present(self.last[row]) if flag & LAST else None,
                        volume=_present(self.volume[row]),
                    )
                )
            if flag & TRADE:
                out.append(
                    Trade(
                        symbol=symbol,
                        time_event_ns=event_ns,
                        time_received_ns=received_ns,
                        source=self.source,
                        price=float(self.last[row]),
                        size=_present(self.last_size[row]),
                        trade_id=None if ids[row] in (None, NO_TRADE_ID) else ids[row],
                    )
                )
        return out


NO_TRADE_ID = np.iinfo(np.int64).min
"""Stands for "no id" in the int64 column `trade_id`, which has no NaN."""


def _present(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
