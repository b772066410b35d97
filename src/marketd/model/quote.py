"""One quote, one trade. Field meanings are in ``docs/model.md``."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Quote", "Trade"]


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """Best bid and ask of one symbol at one event time, with the last price if the provider tells it.

    Prices in the symbol's quote currency, sizes in its own units. `None` is absent: no bid, not told, not known.
    volume: as the provider counts it (session or rolling 24 h), never summed by us.
    `last` informs; it is counted into bars only when it comes as a `Trade`.
    """

    symbol: str
    time_event_ns: int
    time_received_ns: int
    source: str
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    last: float | None = None
    volume: float | None = None


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One execution. aggressor: the side of the taker. trade_id: the provider's, per symbol, increasing."""

    symbol: str
    time_event_ns: int
    time_received_ns: int
    source: str
    price: float
    size: float | None = None
    aggressor: Literal["buy", "sell"] | None = None
    trade_id: int | None = None
