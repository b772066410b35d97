"""What a source can say: ticks, and what happened to the connection they came on."""

from __future__ import annotations

from typing import Literal

import msgspec

from marketd.model.quote import Quote, Trade
from marketd.model.ticks import TickBatch

__all__ = ["Connected", "Disconnected", "Ended", "MarketState", "Quarantined", "SourceEvent"]


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """The stream is up and subscribed; what came before it and was not replayed is missing."""

    source: str
    time_received_ns: int


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """The stream is down. The source goes on trying. derived state that needs an unbroken stream resets."""

    source: str
    time_received_ns: int
    reason: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The source has no more to say, ever (end of a recording). Nothing comes after it."""

    source: str
    time_received_ns: int


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was received and not accepted, with the reason. where: line, row or message position."""

    source: str
    time_received_ns: int
    reason: str
    detail: str
    symbol: str | None = None
    where: str | None = None


class MarketState(msgspec.Struct, frozen=True, kw_only=True):
    """The provider says whether a symbol is traded now. delayed: its quotes are not real-time; None: not told."""

    source: str
    symbol: str
    time_received_ns: int
    state: Literal["open", "closed", "auction", "suspended", "offline"]
    delayed: bool | None = None


SourceEvent = TickBatch | Quote | Trade | Connected | Disconnected | Ended | MarketState | Quarantined
