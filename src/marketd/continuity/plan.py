"""What to ask a provider for: pure decisions from what is expected, there and explained.

Owns `BackfillConfig` and the arithmetic of spans. Knows no store, queue, provider or clock; `worker` and `backfill`
fetch what these functions need and act on their answers. Spans are half-open [start_ns, end_ns), nanoseconds UTC.

Order: within a job the oldest chunk comes first, because what is done of it, and the cursor, are one number each, and a
crash costs one chunk. Between jobs of a tier the queue is first in, first out; whoever asks for many (`backfill`'s
healing) asks for the newest first, since the newest hole hurts most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.errors import InvalidInput
from marketd.model import AnsweredSpan, BackfillJob, Interval, Tier
from marketd.model.time import NS_PER_S
from marketd.sources.reconnect import ReconnectPolicy

__all__ = [
    "TIERS",
    "BackfillConfig",
    "Span",
    "Starts",
    "TierLimits",
    "answers_for",
    "chunk_ranges",
    "merged",
    "uncovered",
    "unexplained",
]

Span = tuple[int, int]
"""start_ns, end_ns."""

Starts = npt.NDArray[np.int64]
"""Starts of bars, nanoseconds UTC, ascending."""

TIERS: tuple[Tier, ...] = ("T0", "T1", "T2")
"""In the order in which they are served."""

_MINUTE_NS = 60 * NS_PER_S


class TierLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs of each tier that are worked on at the same time."""

    T0: int = 4
    T1: int = 2
    T2: int = 1

    def __post_init__(self) -> None:
        for tier in TIERS:
            if not 0 <= self.of(tier) <= 1_000:
                raise InvalidInput(tier, self.of(tier), "a whole number from 0 to 1000")

    def of(self, tier: Tier) -> int:
        return {"T0": self.T0, "T1": self.T1, "T2": self.T2}[tier]


class BackfillConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """chunk_minutes: length of one request's range for bars of up to a minute; of longer ones, as many bars.

    max_concurrency: jobs at the same time, by tier. dispatch_rate_per_s: requests for a chunk, of all tiers together.
    batch_size: bars kept at once; live_batch_size: of what is fetched as it comes (sweeper, job list). queue_max: jobs
    that wait, of a tier; more are refused. attempts_max: a job that fails so often in a row is parked; failures while
    its provider answers nobody do not count. retry: the rests between attempts. settle_s: an absent bar is believed
    absent once it has been over for so long. lease_s: a job untouched for so long has lost its worker.
    heal: whether holes are asked for by themselves. heal_delay_s: holes are collected for so long first.
    scan_interval_s: how often history is searched for holes, over the last scan_days, of scan_intervals.
    parked_rest_s: a hole whose job was parked is left alone for so long. ended_max: ended jobs that a queue in Redis
    remembers.
    """

    chunk_minutes: int = 1_440
    max_concurrency: TierLimits = TierLimits()
    dispatch_rate_per_s: float = 2.0
    live_batch_size: int = 500
    batch_size: int = 5_000
    queue_max: int = 100_000
    attempts_max: int = 8
    retry: ReconnectPolicy = ReconnectPolicy(delay_first_s=2.0, delay_max_s=120.0, jitter=0.2)
    settle_s: float = 60.0
    lease_s: float = 120.0
    heal: bool = True
    heal_delay_s: float = 5.0
    scan_interval_s: float = 600.0
    scan_days: int = 7
    scan_intervals: tuple[str, ...] = ("1m",)
    parked_rest_s: float = 86_400.0
    ended_max: int = 10_000

    def __post_init__(self) -> None:
        for field in ("chunk_minutes", "live_batch_size", "batch_size", "queue_max", "attempts_max", "ended_max"):
            if getattr(self, field) < 1:
                raise InvalidInput(field, getattr(self, field), "a whole number from 1")
        for field in ("dispatch_rate_per_s", "lease_s", "scan_interval_s"):
            if not 0 < getattr(self, field) < float("inf"):
                raise InvalidInput(field, getattr(self, field), "a number above 0")
        for field in ("settle_s", "heal_delay_s", "parked_rest_s"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InvalidInput(field, getattr(self, field), "a number from 0")
        if not 1 <= self.scan_days <= 3_660:
            raise InvalidInput("scan_days", self.scan_days, "a whole number from 1 to 3660")
        names: list[str] = []
        for text in self.scan_intervals:
            try:
                names.append(Interval.parse(text).name)
            except ValueError as error:
                raise InvalidInput("scan_intervals", text, str(error).partition("is not ")[2]) from error
        msgspec.structs.force_setattr(self, "scan_intervals", tuple(dict.fromkeys(names)))

    def chunk_ns(self, interval: Interval) -> int:
        """Length of a chunk, nanoseconds."""
        return self.chunk_minutes * max(_MINUTE_NS, interval.ns)


def chunk_ranges(interval: Interval, start_ns: int, end_ns: int, chunk_ns: int) -> Iterator[Span]:
    """The range in pieces, oldest first. They begin at multiples of chunk_ns since the Unix epoch (a chunk of 1440
    minutes is a UTC day), so that two asks that overlap cut at the same places; the first and the last may be shorter.

    Raises InvalidInput if chunk_ns is no multiple of the interval.
    """
    if chunk_ns < interval.ns or chunk_ns % interval.ns:
        raise InvalidInput("chunk_ns", chunk_ns, f"a multiple of {interval.ns}")
    at_ns = interval.ceil(start_ns)
    while at_ns < end_ns:
        next_ns = interval.ceil(at_ns - at_ns % chunk_ns + chunk_ns)
        yield at_ns, min(next_ns, end_ns)
        at_ns = next_ns


def merged(spans: Iterable[Span], join_ns: int = 0) -> list[Span]:
    """The same time in as few spans as possible, ascending; what is at most `join_ns` apart becomes one."""
    out: list[Span] = []
    for start_ns, end_ns in sorted(span for span in spans if span[0] < span[1]):
        if out and start_ns - out[-1][1] <= join_ns:
            out[-1] = (out[-1][0], max(out[-1][1], end_ns))
        else:
            out.append((start_ns, end_ns))
    return out


def uncovered(start_ns: int, end_ns: int, covers: Iterable[Span]) -> list[Span]:
    """The parts of the range that none of `covers` has, ascending."""
    out: list[Span] = []
    at_ns = start_ns
    for cover_start_ns, cover_end_ns in merged(covers):
        if cover_end_ns <= at_ns:
            continue
        if cover_start_ns >= end_ns:
            break
        if cover_start_ns > at_ns:
            out.append((at_ns, cover_start_ns))
        at_ns = cover_end_ns
    if at_ns < end_ns:
        out.append((at_ns, end_ns))
    return out


def unexplained(expected: Starts, present: Starts | None, spans: Iterable[Span]) -> Starts:
    """The expected starts that are neither present nor within one of the spans. Arrays ascending."""
    left = expected
    if present is not None and present.size and left.size:
        found = np.searchsorted(present, left)
        found[found == present.size] = 0
        left = left[present[found] != left]
    answered = merged(spans)
    if answered and left.size:
        bounds = np.array(answered, np.int64).ravel()
        left = left[np.searchsorted(bounds, left, side="right") % 2 == 0]
    return left


def answers_for(job: BackfillJob, spans: Sequence[AnsweredSpan]) -> list[Span]:
    """The spans that make asking again needless for this job.

    Of another provider than the one that is asked by name, none. A job that a person or program asked for (`manual`)
    asks again where rows were refused or a provider lacked them: either may have changed since. After a `reconnect` all
    is asked for: what was there when others asked may have been seen in part.
    """
    if job.reason == "reconnect":
        return []
    again = ("quarantined", "provider_lacks") if job.reason == "manual" else ()
    return [
        (span.start_ns, span.end_ns)
        for span in spans
        if span.reason not in again and (job.provider is None or span.provider == job.provider)
    ]
