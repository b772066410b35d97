"""What keeps everything that is not bars: universe, ledger, jobs, actions, observations.

Engines: `store.sqlite.SqliteRecords` (beside the embedded store), `store.postgres.PostgresRecords`. Calls block; the
server makes them from a worker thread. All methods are safe to call from several threads. Whatever is written is
durable when the call returns, whole or not at all. Raises StoreError when the engine fails or is closed, InvalidInput
for what could not be read back as it was meant (`store.record_checks`, the same for every engine); text sorts by code
point. Suite: `marketd.testing.RecordsConformance`.

Single facts (actions, observations) have versions as bars have: a row that equals the last version of its key, or the
version in force at its own `as_of`, is a repetition and none; `as_of` strictly increases within a key, so a changed row
that comes with one no later than its predecessor's is kept one nanosecond after it. A batch counts in the order of its
`as_of`, on a tie in its own. A withdrawal is a version like any other, also as the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import pyarrow as pa

from marketd.model import AnsweredSpan, BackfillJob, CorporateAction, Cursor, Instrument, JobState, Tier

__all__ = ["Records", "UniverseVersion"]


class UniverseVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One state of the universe. version: 1, 2, … source: the file it came from. changed: instruments that differ
    from the version before, the ones that went included."""

    version: int
    as_of_ns: int
    source: str
    instruments: int
    active: int
    changed: int


class Records(Protocol):
    # --- universe: versions of a whole ---------------------------------------------------------------------

    def save_universe(self, instruments: Sequence[Instrument], *, source: str, as_of_ns: int) -> UniverseVersion:
        """Make this the universe. Equal to the present one, in any order: no new version, the present one is
        returned, with the source it came from first.

        Two instruments with one id, or two active ones with one symbol, are refused, and so is an earlier name
        without an end. `as_of_ns` strictly increases: a
        version that comes with one no later than the last is kept one nanosecond after it."""
        ...

    def universe(self, *, as_of_ns: int | None = None, version: int | None = None) -> tuple[Instrument, ...]:
        """The instruments, by (symbol, id); as known at a time, or of a version, but not both. Empty when there was
        none at that time. Raises InvalidInput for a version that does not exist."""
        ...

    def universe_versions(self) -> tuple[UniverseVersion, ...]:
        """All of them, the first one first."""
        ...

    # --- ledger: what is known about what is absent --------------------------------------------------------

    def note_spans(self, spans: Sequence[AnsweredSpan]) -> None:
        """Remember answers. What was answered before keeps its first `as_of_ns`. How spans are kept is the engine's
        business, as long as `spans` tells the same for every range and every `as_of_ns`."""
        ...

    def spans(
        self, interval: str, start_ns: int, end_ns: int, *, symbol: str | None = None, as_of_ns: int | None = None
    ) -> tuple[AnsweredSpan, ...]:
        """What has been answered for bars with start_ns <= ts < end_ns, as known at a time.

        Of each symbol, provider and reason, the fewest spans that cover it: cut at the ends of the range, those that
        touch or overlap made one, whose `as_of_ns` is when all of it was known. By (symbol, start, provider, reason),
        symbol None first. symbol: that one's, with those for all symbols (symbol None in the span); without it
        everybody's."""
        ...

    def set_cursors(self, cursors: Sequence[Cursor]) -> None:
        """Insert or replace, by (symbol, interval, provider); of two with one key the last counts. A cursor may go
        back."""
        ...

    def cursor(self, symbol: str, interval: str, provider: str) -> Cursor | None: ...

    def cursors(self, interval: str) -> tuple[Cursor, ...]:
        """By (symbol, provider)."""
        ...

    # --- back-fill jobs ------------------------------------------------------------------------------------

    def add_jobs(self, jobs: Sequence[BackfillJob]) -> tuple[str, ...]:
        """Keep new jobs; returns the id under which each is kept: that of a queued or running job with the same
        symbol, interval, provider and range if there is one (then no second is kept), else its own. A job whose id is
        kept already, in whatever state, is not kept again."""
        ...

    def take_jobs(self, tier: Tier, now_ns: int, limit: int) -> tuple[BackfillJob, ...]:
        """Turn up to `limit` queued jobs of a tier whose rest is over (not_before_ns <= now_ns) into running ones,
        updated now; return them so, oldest first by (created_ns, id).

        No job is given to two callers, in one process or in several (PostgreSQL)."""
        ...

    def save_job(self, job: BackfillJob) -> bool:
        """Replace a job by its id; True if it was.

        False, and nothing is kept, if the kept one was cancelled meanwhile (unless `job` is cancelled too), or if it
        is done and `job` would cancel it. Raises InvalidInput for an id that is not kept."""
        ...

    def job(self, job_id: str) -> BackfillJob | None: ...

    def jobs(
        self, *, states: Sequence[JobState] = (), symbol: str | None = None, limit: int = 1000
    ) -> tuple[BackfillJob, ...]:
        """The newest first, by (created_ns, id). states: only in these, by default in any."""
        ...

    def requeue_running(self, before_ns: int) -> int:
        """Queue again what has been running untouched since before a time (updated_ns < before_ns: its worker died);
        returns how many. Nothing but their state changes."""
        ...

    # --- actions and observations: versions of single facts ------------------------------------------------

    def add_actions(self, actions: Sequence[CorporateAction]) -> int:
        """Keep versions, in any order; returns how many were new. Two are equal when all but `as_of_ns` is."""
        ...

    def actions(self, symbol: str, *, as_of_ns: int | None = None) -> tuple[CorporateAction, ...]:
        """The versions in force, withdrawn ones left out, by (ex_ns, kind, provider)."""
        ...

    def add_observations(self, table: pa.Table) -> int:
        """Keep versions (`OBSERVATION_SCHEMA`, any order of rows and columns); a null value is a withdrawal, one that
        is not finite is refused. Returns how many were new."""
        ...

    def observations(
        self,
        series: str,
        start_ns: int,
        end_ns: int,
        *,
        provider: str | None = None,
        as_of_ns: int | None = None,
    ) -> pa.Table:
        """The values in force with start_ns <= ts < end_ns, ascending by (ts, provider), withdrawn ones left out."""
        ...

    def series(self) -> tuple[str, ...]:
        """Every series with a version of an observation, withdrawn or not, sorted."""
        ...

    def close(self) -> None:
        """Idempotent; everything else raises StoreError afterwards."""
        ...
