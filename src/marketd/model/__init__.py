"""Frozen values and column schemas: what a price is, before anybody does anything with it.

No I/O, no clocks, no asyncio, no other room. What each field means is written in ``docs/model.md``.
"""

from marketd.model.bar import BAR_SCHEMA, Bar, BarStatus, Side
from marketd.model.events import Connected, Disconnected, Ended, Quarantined, SourceEvent
from marketd.model.interval import INTERVALS, Interval
from marketd.model.quote import Quote, Trade
from marketd.model.ticks import BOOK, LAST, TRADE, TickBatch
from marketd.model.time import format_ns, parse_ns

__all__ = [
    "BAR_SCHEMA",
    "BOOK",
    "INTERVALS",
    "LAST",
    "TRADE",
    "Bar",
    "BarStatus",
    "Connected",
    "Disconnected",
    "Ended",
    "Interval",
    "Quarantined",
    "Quote",
    "Side",
    "SourceEvent",
    "TickBatch",
    "Trade",
    "format_ns",
    "parse_ns",
]
