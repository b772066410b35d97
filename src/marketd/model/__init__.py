"""Frozen values and column schemas: what a price is, before anybody does anything with it.

No I/O, no clocks, no asyncio, no other room. What each field means is written in ``docs/model.md``.
"""

from marketd.model.bar import ADJUSTED, BAR_SCHEMA, Bar, BarStatus, Side, starts_of
from marketd.model.events import Connected, Disconnected, Ended, MarketState, Quarantined, SourceEvent
from marketd.model.gap import (
    MISSING_REASONS,
    AnsweredSpan,
    BackfillJob,
    Cursor,
    JobState,
    MissingReason,
    MissingSpan,
)
from marketd.model.instrument import Instrument, Name, Tier
from marketd.model.interval import BUILT_INTERVALS, INTERVALS, Interval
from marketd.model.option import OPTION_SCHEMA
from marketd.model.quote import Quote, Trade
from marketd.model.reference import OBSERVATION_SCHEMA, ActionKind, CorporateAction
from marketd.model.ticks import BOOK, LAST, TRADE, TickBatch
from marketd.model.time import format_ns, parse_ns

__all__ = [
    "ADJUSTED",
    "BAR_SCHEMA",
    "BOOK",
    "BUILT_INTERVALS",
    "INTERVALS",
    "LAST",
    "MISSING_REASONS",
    "OBSERVATION_SCHEMA",
    "OPTION_SCHEMA",
    "TRADE",
    "ActionKind",
    "AnsweredSpan",
    "BackfillJob",
    "Bar",
    "BarStatus",
    "Connected",
    "CorporateAction",
    "Cursor",
    "Disconnected",
    "Ended",
    "Instrument",
    "Interval",
    "JobState",
    "MarketState",
    "MissingReason",
    "MissingSpan",
    "Name",
    "Quarantined",
    "Quote",
    "Side",
    "SourceEvent",
    "TickBatch",
    "Tier",
    "Trade",
    "format_ns",
    "parse_ns",
    "starts_of",
]
