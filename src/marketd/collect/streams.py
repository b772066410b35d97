"""The settings of live feeds, and the words in which they are told. What uses them: `live.Desk` and what it drives."""

from __future__ import annotations

from typing import Literal

import msgspec

from marketd.errors import InvalidInput

__all__ = ["CrossCheckConfig", "StreamMode", "StreamsConfig", "SwitchReason"]

StreamMode = Literal["STREAM", "POLL", "RESTING", "OFF"]
"""STREAM: by the provider's stream, up or reconnecting. POLL: by request. RESTING: the stream gave up and there is
nothing to ask. OFF: stopped, or refused for good."""

SwitchReason = Literal[
    "disconnected",
    "throttled",
    "not_entitled",
    "rejected",
    "failing",
    "mute",
    "symbol_mute",
    "slow",
    "garbage",
    "outlier",
    "symbol_refused",
    "preferred",
]
"""Why the provider of a symbol changed. failing: requests fail. outlier: see `cross_check`. preferred: nothing was
wrong with the old one, the new one comes first again. All others are the old one's fault."""


def _between(config: msgspec.Struct, field: str, lowest: float, highest: float) -> None:
    value = getattr(config, field)
    if not lowest <= value <= highest:
        raise InvalidInput(field, value, f"a number from {lowest:g} to {highest:g}")


class CrossCheckConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """threshold_bp: disagreement beyond which one of two or more providers is the outlier (null: measure only).

    every_s: how often they are compared. fresh_s: older values are not compared. confirm_s: how long they must disagree
    before one is quarantined. release_s: how long they must agree, or there be nobody to compare with, before it is
    released.
    """

    threshold_bp: float | None = 100.0
    every_s: float = 1.0
    fresh_s: float = 10.0
    confirm_s: float = 3.0
    release_s: float = 30.0

    def __post_init__(self) -> None:
        if self.threshold_bp is not None and not 0 < self.threshold_bp < float("inf"):
            raise InvalidInput("threshold_bp", self.threshold_bp, "basis points above 0, or null to measure only")
        for field in ("every_s", "fresh_s", "confirm_s", "release_s"):
            _between(self, field, 0.05, 86_400)


class StreamsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How live feeds survive their providers.

    stream_health_timeout_s: a stream without a tick for so long, while a venue of its symbols is open, is mute.
    poll_interval_ms: from one poll to the next. poll_fallback_duration_s: after so long a mute stream is tried anew.
    reconnect_attempts: failures in a row after which a stream rests (null: never). backfill_on_reconnect: ask for what
    a stream missed; backfill_s: of the last so many seconds where it is not known since when.
    mute_factor, mute_floor_s, mute_cap_s, mute_half_life_s, mute_least_gaps: when a single symbol is mute, see
    `silence.Silence`. slow_after_ms: latency (event to receive, or of a poll) above which a provider is slow.
    garbage_share, garbage_least: refused rows of the last second that make a provider's data garbage. recover_s: how
    long a provider must do well again before it is preferred to one that did well throughout. linger_s: how long a
    symbol stays subscribed after the last who asked for it. on_demand_max: symbols subscribed by request at a time.
    """

    stream_health_timeout_s: float = 30.0
    poll_interval_ms: int = 500
    poll_fallback_duration_s: float = 60.0
    reconnect_attempts: int | None = 10
    backfill_on_reconnect: bool = True
    backfill_s: float = 300.0
    mute_factor: float = 10.0
    mute_floor_s: float = 10.0
    mute_cap_s: float = 600.0
    mute_half_life_s: float = 900.0
    mute_least_gaps: int = 30
    slow_after_ms: int = 3_000
    garbage_share: float = 0.5
    garbage_least: int = 5
    recover_s: float = 30.0
    linger_s: float = 30.0
    on_demand_max: int = 1_000
    cross_check: CrossCheckConfig = CrossCheckConfig()

    def __post_init__(self) -> None:
        _between(self, "stream_health_timeout_s", 0.1, 86_400)
        _between(self, "poll_interval_ms", 10, 3_600_000)
        _between(self, "poll_fallback_duration_s", 0.1, 86_400)
        if self.reconnect_attempts is not None:
            _between(self, "reconnect_attempts", 1, 1_000_000)
        _between(self, "backfill_s", 0, 31 * 86_400)
        _between(self, "mute_factor", 1, 1_000)
        _between(self, "mute_floor_s", 0.1, 86_400)
        _between(self, "mute_cap_s", self.mute_floor_s, 86_400)
        _between(self, "mute_half_life_s", 1, 86_400)
        _between(self, "mute_least_gaps", 1, 1_000_000)
        _between(self, "slow_after_ms", 1, 3_600_000)
        _between(self, "garbage_share", 0.01, 1)
        _between(self, "garbage_least", 1, 1_000_000)
        _between(self, "recover_s", 0, 86_400)
        _between(self, "linger_s", 0, 86_400)
        _between(self, "on_demand_max", 0, 1_000_000)
