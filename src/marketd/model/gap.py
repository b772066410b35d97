"""What is missing of history, and why."""

from __future__ import annotations

from typing import Literal

import msgspec

from marketd.model.instrument import Tier

__all__ = ["MISSING_REASONS", "AnsweredSpan", "BackfillJob", "Cursor", "JobState", "MissingReason", "MissingSpan"]

MissingReason = Literal["closed", "no_trades", "not_fetched", "provider_lacks", "quarantined"]
"""closed: the calendar expects nothing. no_trades: a provider was asked (or watched live) and there was none.
not_fetched: nobody has asked yet. provider_lacks: every provider that was asked does not have that time at all.
quarantined: it came and was refused."""

MISSING_REASONS: tuple[MissingReason, ...] = ("closed", "no_trades", "not_fetched", "provider_lacks", "quarantined")


class MissingSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Bars with start_ns <= ts < end_ns that are not there. count: expected bars in it (0 where closed)."""

    start_ns: int
    end_ns: int
    reason: MissingReason
    count: int


class AnsweredSpan(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about bars that are absent: a provider's answer for start_ns <= ts < end_ns.

    symbol: None for all symbols of the provider (a live stream that was watched). as_of_ns: when we learned it.
    """

    symbol: str | None
    interval: str
    provider: str
    start_ns: int
    end_ns: int
    reason: Literal["no_trades", "provider_lacks", "quarantined"]
    as_of_ns: int


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where history is continuous: every expected bar before `until_ns` is there or explained."""

    symbol: str
    interval: str
    provider: str
    until_ns: int
    updated_ns: int


JobState = Literal["queued", "running", "done", "parked", "cancelled"]


class BackfillJob(msgspec.Struct, frozen=True, kw_only=True):
    """A request for the bars of a symbol with start_ns <= ts < end_ns.

    done_ns: up to where it has been worked off. attempts: failures in a row so far. reason: why it was asked for
    (`gap`, `manual`, …). error: the last failure; of a parked job the one that parked it. not_before_ns: rests until
    then. bars: fetched. new_versions: of these. no_trades: expected bars that the provider answered not to have.
    quarantined: fetched and refused.
    """

    id: str
    symbol: str
    interval: str
    start_ns: int
    end_ns: int
    tier: Tier
    reason: str
    provider: str | None = None
    state: JobState = "queued"
    done_ns: int | None = None
    bars: int = 0
    new_versions: int = 0
    no_trades: int = 0
    quarantined: int = 0
    attempts: int = 0
    error: str | None = None
    created_ns: int = 0
    updated_ns: int = 0
    not_before_ns: int = 0
