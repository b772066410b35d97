"""What is traded: its identity, its names over time, and how closely it is watched."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Instrument", "Name", "Tier"]

Tier = Literal["T0", "T1", "T2"]
"""T0: most liquid, fetched most often and healed first. T2: the rest."""


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol that an instrument had while start_ns <= t < end_ns. None: from the beginning, or still."""

    symbol: str
    start_ns: int | None = None
    end_ns: int | None = None


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument of the universe.

    id: stable over renames; the first symbol it was known by, unless the file says otherwise. symbol: its present
    name. exchange: MIC (`XNYS`) or the venue as configured under `calendars`, None if unknown. rank: place in the
    order in which tiers are filled, 1 first; None comes last. names: earlier names, oldest first.
    """

    id: str
    symbol: str
    exchange: str | None = None
    asset_class: str = "equity"
    currency: str | None = None
    tier: Tier = "T2"
    active: bool = True
    rank: int | None = None
    names: tuple[Name, ...] = ()
