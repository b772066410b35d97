"""Which historical bars are believed. Pure: a table in, the same rows out as good, refused with a reason, or noted.

Refused is what one row shows by itself or beside its neighbours: such a row goes to the quarantine with one word of
`REASONS`. Noted is what only the whole series shows and no row can be blamed for (a level that stays, dates on
weekends): the rows are kept, and a `BarNote` says what to look at. Nothing is repaired.

`bar_checks_time` judges stamps, `bar_checks_prices` prices; `bar_checks_adjusted` files that carry adjusted closes.
To add a reason: a word at the end of `REASONS`, a line in `docs/quarantine.md`, a check that marks rows with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.ingest.bar_checks_prices import check_levels, check_prices, check_repeats, check_signs
from marketd.ingest.bar_checks_time import check_duplicates, check_sessions, check_shift, check_stamps
from marketd.ingest.bar_series import NOTES, REASONS, BarNote, Findings, Rows, may_be_negative, series_of
from marketd.model import CorporateAction, Quarantined, format_ns

__all__ = ["NOTES", "REASONS", "BarContext", "BarNote", "CheckedBars", "check_bars"]

_FEWEST = 5  # rows that a series needs before one of them can look odd among the others


class BarContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the bars of one batch; all its series share it.

    now_ns: the present, UTC; a bar whose interval ends later is refused. asset_class: as in the universe. It decides
    whether a price may be zero or negative, unless `allow_negative` does, and whether the price level is judged.
    open_spans: int64 (n, 2), half-open, ascending, UTC: when the venue is open, from 15 hours before the first bar to
    15 hours after the last, so that a wrong time zone can be told. expected_starts: int64, ascending: the bar starts
    that the calendar expects, from 4 days before the first to 4 days after the last; decides for 1d and 1w. None:
    unknown.
    after_close_ns: bars shorter than this may still start so long after a close (auctions, late prints).
    actions: known splits, which explain steps. known: bars kept before (`BAR_SCHEMA`, any provider), around or within
    the range: evidence about level and shift, never judged.
    """

    now_ns: int
    asset_class: str = "equity"
    allow_negative: bool | None = None
    open_spans: npt.NDArray[np.int64] | None = None
    expected_starts: npt.NDArray[np.int64] | None = None
    after_close_ns: int = 15 * 60 * 1_000_000_000
    max_future_ns: int = 5_000_000_000
    actions: Sequence[CorporateAction] = ()
    known: pa.Table | None = None

    def __post_init__(self) -> None:
        if self.open_spans is not None and (self.open_spans.ndim != 2 or self.open_spans.shape[1] != 2):
            raise InvalidInput("open_spans", self.open_spans.shape, "an array of shape (n, 2)")
        for field in ("after_close_ns", "max_future_ns"):
            if getattr(self, field) < 0:
                raise InvalidInput(field, getattr(self, field), "nanoseconds, 0 or more")


class CheckedBars(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one batch. bars: as they came. reasons: per row of it an index into `REASONS`, 0 for good."""

    bars: pa.Table
    reasons: npt.NDArray[np.uint8]
    notes: tuple[BarNote, ...]

    @property
    def good(self) -> pa.Table:
        """The accepted rows, in the order in which they came."""
        return self.bars if not self.reasons.any() else self.bars.filter(pa.array(self.reasons == 0))

    @property
    def refused(self) -> dict[str, int]:
        """How many rows, by reason; only reasons that occurred."""
        counts = np.bincount(self.reasons, minlength=len(REASONS))
        return {REASONS[i]: int(counts[i]) for i in np.flatnonzero(counts) if i}

    def quarantined(
        self, source: str, received_ns: int, limit: int = 1000, places: npt.NDArray[np.integer] | None = None
    ) -> tuple[Quarantined, ...]:
        """The first refused rows. where: the row's place in the batch, from 0; detail: stamp, prices, volume.

        places: of each row in what this batch was taken from, instead.
        """
        rows = np.flatnonzero(self.reasons)[:limit]
        shown = self.bars.select(["symbol", "interval", "ts", "open", "high", "low", "close", "volume"]).take(rows)
        columns = shown.set_column(2, "ts", shown["ts"].cast(pa.timestamp("ns")).cast(pa.int64())).to_pylist()
        return tuple(
            Quarantined(
                source=source,
                time_received_ns=received_ns,
                reason=REASONS[self.reasons[row]],
                detail=_shown(bar),
                symbol=bar["symbol"],
                where=f"row {place}",
            )
            for row, place, bar in zip(
                rows.tolist(), (rows if places is None else places[rows]).tolist(), columns, strict=True
            )
        )


def check_bars(bars: pa.Table, context: BarContext) -> CheckedBars:
    """Judge a `BAR_SCHEMA` table: rows in any order, any number of series that share the context.

    Nulls and NaN are allowed in, and refused row by row. Raises InvalidInput when columns are missing or `interval`
    has an unknown word.
    """
    rows = Rows.of(bars)
    found = Findings(rows)
    negative = may_be_negative(context.asset_class) if context.allow_negative is None else context.allow_negative
    with np.errstate(over="ignore", invalid="ignore"):  # absurd prices compare well enough
        check_stamps(rows, found, context.now_ns, context.max_future_ns, context.open_spans)
        check_prices(rows, found, context.asset_class, negative=negative, zero=context.allow_negative is True)
        check_duplicates(rows, found)
        check_sessions(rows, found, context)
        for series in series_of(rows, found, context.known, fewest=_FEWEST):
            check_shift(series, found)
            check_repeats(series, found)
            if negative:
                check_signs(series, found)
            check_levels(series, found, context.asset_class, context.actions)
    return CheckedBars(bars=bars, reasons=found.reasons, notes=tuple(found.notes))


def _shown(bar: dict[str, object]) -> str:
    ts = bar["ts"]
    stamp = format_ns(ts) if isinstance(ts, int) and abs(ts) < 2**62 else str(ts)
    prices = " ".join(f"{name[0]}={bar[name]}" for name in ("open", "high", "low", "close", "volume"))
    return f"{bar['interval']} {stamp} {prices}"
