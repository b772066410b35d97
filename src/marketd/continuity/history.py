"""History as it is asked for: one series of one symbol out of what is stored, with what is missing of it.

Owns which stored bars answer a question, how a range is worked off in slices of bounded size, adjustment and
filling on the way, and the statement of what is missing. Reads only; knows no HTTP. What an expected bar is comes
from `calendars`, why one is absent from `continuity.gaps`, what an action does to prices from `analytics.adjust`.

**Which bars make a longer one.** Bars of 1 s and 1 m are given as they are stored. A longer bar is rolled up from the
1 m bars in it, so that all lengths agree with one series. It is `partial` if minutes in it are expected, are over,
and are neither there nor known to be without trades. Where the roll-up is partial or there are no minutes at all, a
stored bar of that length itself (imported, fetched) is given instead; where there is none either, whole bars of the
next shorter stored lengths that divide it are rolled up (`1w` from `1d`, `4h` from `1h`). What is left is the partial
roll-up. Which minutes a day has, `continuity.buckets` says: those of the UTC day, or of the session.

**Mids** are averages of the bid and the ask bar that start together, after rolling up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketd.analytics.adjust import ActionMark, adjusted, believed
from marketd.calendars import Calendar, date_begins, dates_of, expected_count, expected_starts
from marketd.clock import Clock
from marketd.continuity.buckets import Buckets
from marketd.continuity.gaps import due_end, find_missing, is_complete
from marketd.continuity.ledger import LedgerConfig
from marketd.errors import InvalidInput
from marketd.ingest.rollup import roll_up
from marketd.model import (
    ADJUSTED,
    BAR_SCHEMA,
    INTERVALS,
    AnsweredSpan,
    Bar,
    CorporateAction,
    Interval,
    MissingReason,
    MissingSpan,
    Side,
    starts_of,
)
from marketd.store.contract import BarStore
from marketd.store.records import Records

__all__ = ["HISTORY_SCHEMA", "HistoryAnswer", "HistoryQuery", "HistoryService"]

HISTORY_SCHEMA: pa.Schema = BAR_SCHEMA.append(pa.field("partial", pa.bool_(), nullable=False)).append(
    pa.field("filled", pa.bool_(), nullable=False)
)
"""`BAR_SCHEMA` and two flags. partial: made of fewer parts than are expected. filled: nothing was there; the prices
repeat the close of the bar before, with its provider, status and as_of, and without volume, vwap and trades."""

_MINUTE, _DAY = Interval.parse("1m"), Interval.parse("1d")
_ROWS = 32_768
_ROWS_COUNTED = 131_072
_SLOTS = 600_000
_SLOTS_FILLED = 65_536
_NS = pa.timestamp("ns", tz="UTC")
_PERIOD = {"1s": "M", "1m": "Y"}
"""Stretches in which stores keep long series together, which a read had better not divide."""

_REASONS: tuple[MissingReason, ...] = ("closed", "no_trades", "provider_lacks", "quarantined", "not_fetched")
"""The worst last."""
_UNEXPLAINED = _REASONS.index("provider_lacks")
"""From here on a reason leaves a bar partial."""

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Bars with start_ns <= ts < end_ns. order: None gives the newest `limit` of them, ascending.

    as_of_ns: as known then; None for now. fill: whether expected bars that are absent are filled in. prefer:
    providers whose bars come before those of others.
    """

    symbol: str
    interval: Interval
    start_ns: int
    end_ns: int
    side: Literal["trade", "bid", "ask", "mid"] = "trade"
    order: Literal["asc", "desc"] | None = None
    limit: int | None = None
    as_of_ns: int | None = None
    adjustment: Literal["raw", "split", "all"] = "raw"
    fill: Literal["forward"] | None = None
    prefer: tuple[str, ...] = ()


class HistoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One page, or one slice: what was asked for start_ns <= ts < end_ns. table: `HISTORY_SCHEMA`, in the order asked.

    missing: of what it covers, ascending. complete: every expected bar that is over is there or known to be without
    trades, and none is partial. rest: what to ask for the next page, None if this was all; it fixes `as_of_ns`.
    actions: that were applied to the prices; marks: what a reader should know about them. calendar: what said which
    bars are expected; None if the symbol has none, and then nothing is `complete`.
    """

    table: pa.Table
    start_ns: int
    end_ns: int
    missing: tuple[MissingSpan, ...]
    complete: bool
    rest: HistoryQuery | None = None
    actions: tuple[CorporateAction, ...] = ()
    marks: tuple[ActionMark, ...] = ()
    calendar: str | None = None

    def is_whole(self, query: HistoryQuery) -> bool:
        """Whether it covers all that was asked."""
        bounds = query.interval.ceil(query.start_ns), query.interval.ceil(query.end_ns)
        return (self.start_ns, self.end_ns) == bounds


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """A stored bar beside the roll-up of its parts. fields: in which they differ by more than 1 in 10^9."""

    stored: Bar
    rolled: Bar
    partial: bool
    fields: tuple[str, ...]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Bars of the asked length with start_ns <= ts < end_ns, ascending, and what of them is not there.

    partial: a truth value a row. codes: the worst reason in `_REASONS` for which minutes of a bucket are absent, a
    number a bucket; None if the bars are not made of others.
    """

    table: pa.Table
    partial: _Bools
    codes: npt.NDArray[np.int8] | None
    start_ns: int
    end_ns: int


class HistoryService:
    """Safe to call from several threads; every call reads the store anew."""

    def __init__(
        self,
        store: BarStore,
        records: Records,
        calendar_of: Callable[[str], Calendar],
        providers_of: Callable[[str], Sequence[str]],
        clock: Clock,
        config: LedgerConfig | None = None,
        *,
        prefer: Sequence[str] = (),
    ) -> None:
        """calendar_of: a symbol's calendar; where it raises InvalidInput, nothing can be said of what is missing.
        providers_of: whose answers for *all* symbols count for a symbol. config: when a bar counts as missing. prefer:
        the policy where a question names no provider."""
        self._store = store
        self._records = records
        self._calendar_of = calendar_of
        self._providers_of = providers_of
        self._clock = clock
        self._config = config or LedgerConfig()
        self._prefer = tuple(prefer)

    def answer(self, query: HistoryQuery, live: Sequence[Bar] = ()) -> HistoryAnswer:
        """One page of at most `query.limit` bars. live: bars that are not stored yet, which stand in the place of
        stored ones of the same start; of 1 s if 1 s is asked for, else of 1 m; left out of an answer `as_of`.

        Raises InvalidInput, StoreError.
        """
        reading = self._reading(query, live)
        forward = query.order == "asc"
        parts: list[_Part] = []
        have = 0
        for part in reading.parts(forward=forward):
            parts.append(part)
            have += part.table.num_rows
            if query.limit is not None and have > query.limit:
                break
        if not forward:
            parts.reverse()
        table = pa.concat_tables([HISTORY_SCHEMA.empty_table(), *(part.table for part in parts)])
        start_ns, end_ns = reading.start_ns, reading.end_ns
        rest = None
        if query.limit is not None and have > query.limit:
            if forward:
                end_ns = _ts_at(table, query.limit)
                table = table.slice(0, query.limit)
            else:
                table = table.slice(have - query.limit)
                start_ns = _ts_at(table, 0)
            as_of_ns = query.as_of_ns
            if as_of_ns is None:  # a version may carry a time that this clock has not reached
                as_of_ns = max(reading.now_ns, int(np.asarray(table["as_of"].cast(pa.int64())).max()))
            rest = msgspec.structs.replace(
                query,
                start_ns=end_ns if forward else query.start_ns,
                end_ns=query.end_ns if forward else start_ns,
                as_of_ns=as_of_ns,
            )
        missing = reading.missing(parts, start_ns, end_ns)
        if query.order == "desc":
            table = table.take(np.arange(table.num_rows)[::-1])
        return HistoryAnswer(
            table=table,
            start_ns=start_ns,
            end_ns=end_ns,
            missing=missing,
            complete=reading.is_complete(table, missing, start_ns, end_ns),
            rest=rest,
            actions=reading.actions,
            marks=reading.marks,
            calendar=None if reading.calendar is None else reading.calendar.name,
        )

    def slices(self, query: HistoryQuery, live: Sequence[Bar] = (), *, coded: bool = False) -> Iterator[HistoryAnswer]:
        """The whole range, whatever `limit` says, slice by slice: each of bounded size and read when it is asked for.

        Ascending unless `order` is `desc`. At least one slice; `is_whole` says of one whether it was the only one.
        coded: columns of strings may be dictionary-encoded, each slice as the store likes. Raises as `answer`.
        """
        reading = self._reading(query, live)
        forward = query.order != "desc"
        for part in reading.parts(forward=forward, counted=True, coded=coded):
            missing = reading.missing([part], part.start_ns, part.end_ns)
            table = part.table if forward else part.table.take(np.arange(part.table.num_rows)[::-1])
            yield HistoryAnswer(
                table=table,
                start_ns=part.start_ns,
                end_ns=part.end_ns,
                missing=missing,
                complete=reading.is_complete(table, missing, part.start_ns, part.end_ns),
                actions=reading.actions,
                marks=reading.marks,
                calendar=None if reading.calendar is None else reading.calendar.name,
            )
            del part, table  # what was given is not held while the next slice is read

    def outline(self, query: HistoryQuery) -> HistoryAnswer:
        """What `answer` would say of the whole range, whatever `limit` says, without its bars.

        Reads as much as it, unless the bars are stored ones as they are now: then what is there is enough.
        """
        reading = self._reading(query, ())
        nothing = HISTORY_SCHEMA.empty_table()
        if reading.are_stored:
            missing = reading.missing_of_stored()
            complete = reading.is_complete(nothing, missing, reading.start_ns, reading.end_ns)
        else:
            spans: list[MissingSpan] = []
            complete = True
            for part in reading.parts(forward=True):
                of_part = reading.missing([part], part.start_ns, part.end_ns)
                complete = complete and reading.is_complete(part.table, of_part, part.start_ns, part.end_ns)
                spans += of_part
            missing = _merged(spans)
        return HistoryAnswer(
            table=nothing,
            start_ns=reading.start_ns,
            end_ns=reading.end_ns,
            missing=missing,
            complete=complete,
            actions=reading.actions,
            marks=reading.marks,
            calendar=None if reading.calendar is None else reading.calendar.name,
        )

    def disagreements(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, side: Side = "trade"
    ) -> tuple[int, list[Disagreement]]:
        """Stored bars of a longer interval against the roll-up of the stored minutes in them.

        How many have both, and those that differ in open, high, low, close or volume, ascending. A bar with `partial`
        differs because minutes are missing. Raises InvalidInput for an interval that is not made of minutes.
        """
        if interval.ns <= _MINUTE.ns:
            longer = [i.name for i in INTERVALS if i.ns > _MINUTE.ns]
            raise InvalidInput("interval", interval.name, f"one of {', '.join(longer)}")
        query = HistoryQuery(symbol=symbol, interval=interval, start_ns=start_ns, end_ns=end_ns, side=side, order="asc")
        reading = self._reading(query, ())
        compared = 0
        found: list[Disagreement] = []
        for rolled in reading.rolled(side):
            own = self._store.read(symbol, interval, rolled.start_ns, rolled.end_ns, side=side, prefer=self._prefer)
            _, of_own, of_rolled = np.intersect1d(
                starts_of(own), starts_of(rolled.table), assume_unique=True, return_indices=True
            )
            compared += len(of_own)
            mine, parts = own.take(of_own), rolled.table.take(of_rolled)
            differs = {
                name: ~np.isclose(_floats(mine, name), _floats(parts, name), rtol=1e-9, atol=0.0, equal_nan=True)
                for name in ("open", "high", "low", "close", "volume")
            }
            found += [
                Disagreement(
                    stored=_bar(mine, row),
                    rolled=_bar(parts, row),
                    partial=bool(rolled.partial[of_rolled[row]]),
                    fields=tuple(name for name, rows in differs.items() if rows[row]),
                )
                for row in np.flatnonzero(np.logical_or.reduce(list(differs.values()))).tolist()
            ]
        return compared, found

    def present_end(self, symbol: str, interval: Interval) -> int:
        """Where a range ends that reaches to the present: now, or after the day of the session that is running, whose
        date may be tomorrow's."""
        now_ns = self._clock.time_ns()
        calendar = self._calendar_or_none(symbol)
        if calendar is None or interval.ns < _DAY.ns or not calendar.days_are_sessions:
            return now_ns
        date_ns = int(dates_of(calendar, _MINUTE, np.array([now_ns], np.int64))[0])
        return date_ns + _DAY.ns if date_ns > now_ns else now_ns

    def _calendar_or_none(self, symbol: str) -> Calendar | None:
        try:
            return self._calendar_of(symbol)
        except InvalidInput:
            return None

    def _reading(self, query: HistoryQuery, live: Sequence[Bar]) -> _Reading:
        if query.limit is not None and query.limit < 1:
            raise InvalidInput("limit", query.limit, "1 or more, or None for all")
        if query.start_ns >= query.end_ns:
            raise InvalidInput("start_ns", query.start_ns, f"a time before end_ns, which is {query.end_ns}")
        return _Reading(
            msgspec.structs.replace(query, prefer=query.prefer or self._prefer),
            self._store,
            self._records,
            self._calendar_or_none(query.symbol),
            frozenset(self._providers_of(query.symbol)),
            self._config,
            self._clock.time_ns(),
            live if query.as_of_ns is None else (),
        )


class _Reading:
    """One question being answered. Bounds are widened to nothing: buckets that start inside the range, whole."""

    def __init__(
        self,
        query: HistoryQuery,
        store: BarStore,
        records: Records,
        calendar: Calendar | None,
        providers: frozenset[str],
        config: LedgerConfig,
        now_ns: int,
        live: Sequence[Bar],
    ) -> None:
        self.query = query
        self.now_ns = now_ns
        self.calendar = calendar
        self._providers = providers
        self._config = config
        self._store = store
        self._records = records
        self._interval = interval = query.interval
        self.start_ns, self.end_ns = interval.ceil(query.start_ns), interval.ceil(query.end_ns)
        self._buckets = Buckets(calendar, interval)
        self._sides: tuple[Side, ...] = ("bid", "ask") if query.side == "mid" else (query.side,)
        self._live = self._within(_table_of(live)) if live else BAR_SCHEMA.empty_table()
        self._known_ns = now_ns if query.as_of_ns is None else min(query.as_of_ns, now_ns)
        self._bases = self._stored_bases()
        self.actions: tuple[CorporateAction, ...] = ()
        self.marks: tuple[ActionMark, ...] = ()
        self._closes = BAR_SCHEMA.empty_table()
        if query.adjustment != "raw":
            self._learn_actions()
        self._lo_ns, self._hi_ns = self._hull()

    # --- what there is -------------------------------------------------------------------------------------

    def _stored_bases(self) -> tuple[Interval, ...]:
        """Stored lengths that can answer, in the order in which they are asked."""
        interval = self._interval
        if interval.ns <= _MINUTE.ns:
            return (interval,)
        divisors = [i for i in INTERVALS if _MINUTE.ns < i.ns and self._buckets.can_hold(i)]
        candidates = (_MINUTE, interval, *reversed(divisors))
        return tuple(i for i in candidates if self._has(i)) or (_MINUTE,)

    def _has(self, base: Interval) -> bool:
        if base is _MINUTE and self._live.num_rows:
            return True
        start_ns, end_ns = self._time_of(base, self.start_ns, self.end_ns)
        return any(self._read(base, start_ns, end_ns, side, limit=1).num_rows for side in self._sides)

    def _time_of(self, base: Interval, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Where the bars of `base` lie that bars of the asked length from start_ns to end_ns are made of."""
        return self._buckets.begin(base, start_ns), self._buckets.begin(base, end_ns)

    def _within(self, live: pa.Table) -> pa.Table:
        starts = self._buckets.of(_MINUTE, starts_of(live))
        return live.filter(pa.array((starts >= self.start_ns) & (starts < self.end_ns)))

    def _hull(self) -> tuple[int, int]:
        """Where in the range anything is known; the whole range if it is short enough to look at all of it."""
        finest = min(base.ns for base in self._bases)
        if self.end_ns - self.start_ns <= _SLOTS * finest:
            return self.start_ns, self.end_ns
        ends: list[int] = []
        for base in self._bases:
            start_ns, end_ns = self._time_of(base, self.start_ns, self.end_ns)
            found = []
            for side in self._sides:
                for newest_first in (False, True):
                    rows = self._read(base, start_ns, end_ns, side, limit=1, newest_first=newest_first)
                    found += starts_of(rows).tolist()
            for span in self._spans(base, start_ns, end_ns):
                found += [max(span.start_ns, start_ns), min(span.end_ns, end_ns) - 1]
            ends += self._buckets.of(base, np.array(found, np.int64)).tolist()
        ends += self._buckets.of(_MINUTE, starts_of(self._live)).tolist()
        goes_on = self.query.fill is not None and self._last_before(self.start_ns) is not None
        if not ends and not goes_on:
            return self.start_ns, self.start_ns
        ends = ends or [self.start_ns]
        lo_ns, hi_ns = min(ends), max(ends) + self._interval.ns
        if self.query.fill is not None:
            hi_ns = max(hi_ns, self._horizon(self._interval))
            lo_ns = self.start_ns if goes_on else lo_ns
        return max(lo_ns, self.start_ns), min(hi_ns, self.end_ns)

    def _horizon(self, interval: Interval) -> int:
        """Bars that start before it are over and can be missing."""
        return due_end(interval, self._known_ns, self._config.grace_ns(interval))

    def _read(
        self,
        base: Interval,
        start_ns: int,
        end_ns: int,
        side: Side,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        coded: bool = False,
    ) -> pa.Table:
        return self._store.read(
            self.query.symbol,
            base,
            start_ns,
            end_ns,
            side=side,
            limit=limit,
            newest_first=newest_first,
            as_of_ns=self.query.as_of_ns,
            prefer=self.query.prefer,
            coded=coded,
        )

    def _spans(self, interval: Interval, start_ns: int, end_ns: int) -> tuple[AnsweredSpan, ...]:
        known = self._records.spans(
            interval.name, start_ns, end_ns, symbol=self.query.symbol, as_of_ns=self.query.as_of_ns
        )
        return tuple(span for span in known if span.symbol is not None or span.provider in self._providers)

    def _learn_actions(self) -> None:
        """The actions known, and the last bar before each: what a dividend is measured by."""
        known = self._records.actions(self.query.symbol, as_of_ns=self.query.as_of_ns)
        chosen, marks = believed(known, prefer=self.query.prefer)
        kinds = ("split",) if self.query.adjustment == "split" else ("split", "dividend")
        first_ns = self.start_ns if self._interval.ns >= _DAY.ns else self._date_at(self.start_ns)
        today_ns = self._date_at(self._known_ns)
        told = [a for a in chosen if a.kind in kinds and a.ex_ns > first_ns]
        # one that was announced and is not in force yet changes no price yet
        self.actions = tuple(a for a in told if a.ex_ns <= today_ns)
        before, around = [], []
        early: set[tuple[str, int]] = set()
        for action in self.actions:
            last, first = self._beside(action.ex_ns)
            if last is not None and last["provider"][0].as_py().endswith(ADJUSTED):
                early.add((action.kind, action.ex_ns))
                provider = last["provider"][0].as_py()
                detail = f"its prices come from {provider}: they were adjusted before, and are given as they are"
                marks += (
                    ActionMark(
                        code="already_adjusted",
                        symbol=action.symbol,
                        kind=action.kind,
                        ex_ns=action.ex_ns,
                        detail=detail,
                    ),
                )
                last = None
            before += [] if last is None else [last]
            around += [row for row in (last, first) if row is not None]
        self._closes = self._by_session(before)
        seen = adjusted(
            self._by_session(around),
            told,
            self.query.adjustment,
            closes=self._closes,
            session_of=self._sessions_of,
            until_ns=today_ns,
        )
        marks += tuple(mark for mark in seen.marks if (mark.kind, mark.ex_ns) not in early)
        places = {(a.kind, a.ex_ns) for a in told}
        marks = tuple(mark for mark in dict.fromkeys(marks) if (mark.kind, mark.ex_ns) in places)
        self.marks = tuple(sorted(marks, key=lambda mark: (mark.ex_ns, mark.code)))

    def _date_at(self, time_ns: int) -> int:
        """The date, midnight UTC, that a time counts to at the venue."""
        if self.calendar is None:
            return time_ns - time_ns % _DAY.ns
        return int(dates_of(self.calendar, _MINUTE, np.array([time_ns], np.int64))[0])

    def _sessions_of(self, bars: pa.Table) -> _Ints:
        """The date that each bar counts to, midnight UTC."""
        starts = starts_of(bars)
        dates = starts - starts % _DAY.ns
        if self.calendar is None or not self.calendar.days_are_sessions:
            return dates
        for name in pc.unique(bars["interval"]).to_pylist():
            base = Interval.parse(str(name))
            if base.ns < _DAY.ns:
                rows = np.flatnonzero(pc.equal(bars["interval"], pa.scalar(base.name)).to_numpy())
                dates[rows] = dates_of(self.calendar, base, starts[rows])
        return dates

    def _by_session(self, rows: list[pa.Table]) -> pa.Table:
        """Single bars of any length, ascending by session; what is told of a whole day comes after its minutes."""
        table = pa.concat_tables([BAR_SCHEMA.empty_table(), *rows])
        lengths = np.array([Interval.parse(row["interval"][0].as_py()).ns for row in rows], np.int64)
        return table.take(np.lexsort((lengths, self._sessions_of(table))))

    def _beside(self, ex_ns: int) -> tuple[pa.Table | None, pa.Table | None]:
        """The bar whose close is the last before an ex date, and the first from it on."""
        last, first = [], []
        for base in self._bases:
            begin_ns = ex_ns
            if self.calendar is not None and base.ns < _DAY.ns:
                begin_ns = int(date_begins(self.calendar, base, ex_ns, ex_ns + 1)[0])
            last.append(self._read(base, -(2**63), begin_ns, self._sides[0], limit=1, newest_first=True))
            first.append(self._read(base, begin_ns, self._known_ns + 2 * _DAY.ns, self._sides[0], limit=1))
        last, first = ([row for row in rows if row.num_rows] for rows in (last, first))
        return (
            self._by_session(last).slice(len(last) - 1) if last else None,
            self._by_session(first).slice(0, 1) if first else None,
        )

    # --- parts ---------------------------------------------------------------------------------------------

    def parts(self, *, forward: bool, counted: bool = False, coded: bool = False) -> Iterator[_Part]:
        """The whole range in parts of `HISTORY_SCHEMA`, the first or the last first, each ascending. At least one.

        counted: all of it will be wanted, so that bars are counted before they are read, where that can be done.
        """
        before: pa.Table | None = None
        if counted and self.are_stored and self.query.side != "mid" and self._lo_ns < self._hi_ns:
            parts = self._counted_parts(self._lo_ns, self._hi_ns, forward=forward, coded=coded)
        else:
            parts = self._parts(self._lo_ns, self._hi_ns, forward=forward)
        for part in parts:
            table, partial = part.table, part.partial
            filled = np.zeros(table.num_rows, np.bool_)
            if self.query.fill is not None:
                if before is None or not forward:
                    before = self._last_before(part.start_ns)
                table, partial, filled = self._filled(part, before)
                before = table.slice(table.num_rows - 1) if table.num_rows else before
            table = table.append_column(HISTORY_SCHEMA.field("partial"), pa.array(partial))
            table = table.append_column(HISTORY_SCHEMA.field("filled"), pa.array(filled))
            start_ns = self.start_ns if part.start_ns == self._lo_ns else part.start_ns
            end_ns = self.end_ns if part.end_ns == self._hi_ns else part.end_ns
            whole = msgspec.structs.replace(part, table=table, partial=partial, start_ns=start_ns, end_ns=end_ns)
            del part, table, partial, filled
            yield whole
            del whole

    def rolled(self, side: Side) -> Iterator[_Part]:
        """The roll-ups of the minutes alone, ascending."""
        pos_ns = self._lo_ns
        while pos_ns < self._hi_ns:
            end_ns = min(pos_ns + self._stride(), self._hi_ns)
            part = self._from_base(_MINUTE, side, pos_ns, end_ns, forward=True, limit=_ROWS)
            yield part
            pos_ns = part.end_ns

    @property
    def are_stored(self) -> bool:
        """Whether the answer is bars that are stored, as they are now."""
        query = self.query
        return query.interval.ns <= _MINUTE.ns and query.as_of_ns is None and query.fill is None

    def _counted_parts(self, lo_ns: int, hi_ns: int, *, forward: bool, coded: bool) -> Iterator[_Part]:
        """As `_parts`, fewer and larger: a read that has no limit costs a store less."""
        base, (side,) = self._interval, self._sides
        for start_ns, end_ns in self._counted(lo_ns, hi_ns, forward=forward):
            yield self._from_base(base, side, start_ns, end_ns, forward=forward, limit=None, coded=coded)

    def _counted(self, lo_ns: int, hi_ns: int, *, forward: bool) -> Iterator[tuple[int, int]]:
        """A range in pieces of few enough stored bars: whole periods, several or in pieces, the first or last first."""
        waiting: tuple[int, int, int] | None = None
        for low_ns, high_ns in self._periods(lo_ns, hi_ns, forward=forward):
            pieces = self._pieces(low_ns, high_ns)
            for low, high, count in pieces if forward else reversed(pieces):
                if waiting is None:
                    waiting = low, high, count
                elif waiting[2] + count <= _ROWS_COUNTED:
                    waiting = min(low, waiting[0]), max(high, waiting[1]), waiting[2] + count
                else:
                    yield waiting[:2]
                    waiting = low, high, count
        if waiting is not None:
            yield waiting[:2]

    def _periods(self, lo_ns: int, hi_ns: int, *, forward: bool) -> list[tuple[int, int]]:
        unit = f"M8[{_PERIOD[self._interval.name]}]"
        first, last = np.array([lo_ns, hi_ns - 1], np.int64).astype("M8[ns]").astype(unit)
        begins = np.arange(first + 1, last + 1).astype("M8[ns]").astype(np.int64).tolist()
        periods = list(itertools.pairwise([lo_ns, *begins, hi_ns]))
        return periods if forward else periods[::-1]

    def _pieces(self, start_ns: int, end_ns: int) -> list[tuple[int, int, int]]:
        """Where one can divide a period so that no piece has too many bars, and how many each has; ascending."""
        symbol, (side,) = self.query.symbol, self._sides
        presence = self._store.presence(self._interval, start_ns, end_ns, side=side, symbols=(symbol,))
        count = int(np.bitwise_count(presence.bits).sum())
        if count <= _ROWS_COUNTED:
            return [(start_ns, end_ns, count)]
        starts = presence.start_ns + np.flatnonzero(presence.of(symbol)) * self._interval.ns
        edges = [start_ns, *starts[_ROWS_COUNTED::_ROWS_COUNTED].tolist(), end_ns]
        counts = [min(_ROWS_COUNTED, count - at) for at in range(0, count, _ROWS_COUNTED)]
        return [(low, high, n) for (low, high), n in zip(itertools.pairwise(edges), counts, strict=True)]

    def _stride(self) -> int:
        finest = min(base.ns for base in self._bases)
        slots = _SLOTS if self.query.fill is None else _SLOTS_FILLED
        return max(slots * finest // self._interval.ns, 1) * self._interval.ns

    def _parts(self, lo_ns: int, hi_ns: int, *, forward: bool) -> Iterator[_Part]:
        if lo_ns >= hi_ns:
            nothing = np.zeros(0, np.bool_)
            yield _Part(
                table=BAR_SCHEMA.empty_table(), partial=nothing, codes=None, start_ns=self._lo_ns, end_ns=self._hi_ns
            )
            return
        stride = self._stride()
        while lo_ns < hi_ns:
            if forward:
                part = self._part(lo_ns, min(lo_ns + stride, hi_ns), forward=True)
                lo_ns = part.end_ns
            else:
                part = self._part(max(hi_ns - stride, lo_ns), hi_ns, forward=False)
                hi_ns = part.start_ns
            yield part

    def _part(self, start_ns: int, end_ns: int, *, forward: bool) -> _Part:
        """Bars of the asked length and side from `start_ns` on (or up to `end_ns`), as far as one read goes."""
        sides = []
        for side in self._sides:
            part = self._of_side(side, start_ns, end_ns, forward=forward)
            start_ns, end_ns = part.start_ns, part.end_ns
            sides.append(part)
        first, last = (_cut(part, start_ns, end_ns, self._interval) for part in (sides[0], sides[-1]))
        return first if len(sides) == 1 else _mids(first, last)

    def _of_side(self, side: Side, start_ns: int, end_ns: int, *, forward: bool) -> _Part:
        parts = []
        for base in self._bases:
            part = self._from_base(base, side, start_ns, end_ns, forward=forward, limit=_ROWS)
            start_ns, end_ns = part.start_ns, part.end_ns
            parts.append(part)
        best, *others = (_cut(part, start_ns, end_ns, self._interval) for part in parts)
        for other in others:
            best = _better(best, other)
        return best

    def _from_base(
        self,
        base: Interval,
        side: Side,
        start_ns: int,
        end_ns: int,
        *,
        forward: bool,
        limit: int | None,
        coded: bool = False,
    ) -> _Part:
        """Bars made of (or being) stored bars of one length. limit: how many of these are read at most."""
        interval = self._interval
        begin_ns, until_ns = self._time_of(base, start_ns, end_ns)
        coded = coded and not self._live.num_rows and not self.actions
        rows = self._read(base, begin_ns, until_ns, side, limit=limit, coded=coded)
        if rows.num_rows == limit and not forward:
            rows = self._read(base, begin_ns, until_ns, side, limit=limit, newest_first=True)
            rows = rows.take(np.arange(rows.num_rows)[::-1])
        if rows.num_rows == limit:  # there may be more: what is cut off by that is left to the next part
            ts = starts_of(rows)
            if forward:
                end_ns = min(end_ns, int(self._buckets.of(base, ts[-1:])[0]))
                until_ns = self._buckets.begin(base, end_ns)
                rows = rows.slice(0, int(np.searchsorted(ts, until_ns)))
            else:
                first_ns = int(self._buckets.of(base, ts[:1])[0])
                is_cut = self._buckets.begin(base, first_ns) < ts[0]
                start_ns = max(start_ns, first_ns + is_cut * interval.ns)
                begin_ns = self._buckets.begin(base, start_ns)
                rows = rows.slice(int(np.searchsorted(ts, begin_ns)))
        if base is _MINUTE or base is interval:
            rows = self._overlaid(rows, base, side, begin_ns, until_ns)
        present = starts_of(rows)
        if self.actions and rows.num_rows:
            rows = self._adjusted(rows)
        if base is interval:
            return _Part(
                table=rows, partial=np.zeros(rows.num_rows, np.bool_), codes=None, start_ns=start_ns, end_ns=end_ns
            )
        codes = self._codes(base, present, start_ns, end_ns)
        table = roll_up(rows, interval, lambda ts: self._buckets.of(base, ts))
        partial = codes[(starts_of(table) - start_ns) // interval.ns] >= _UNEXPLAINED
        return _Part(table=table, partial=partial, codes=codes, start_ns=start_ns, end_ns=end_ns)

    def _codes(self, base: Interval, present: _Ints, start_ns: int, end_ns: int) -> npt.NDArray[np.int8]:
        """For each bucket of the asked length, the worst reason for which bars of `base` in it are absent."""
        interval = self._interval
        codes = np.zeros((end_ns - start_ns) // interval.ns, np.int8)
        begin_ns, until_ns = self._time_of(base, start_ns, end_ns)
        until_ns = min(until_ns, self._horizon(base))
        if until_ns <= begin_ns:
            return codes
        expected = self._expected(base, begin_ns, until_ns)
        spans = self._spans(base, begin_ns, until_ns)
        gaps = find_missing(expected, present, spans, base, closed_within=(begin_ns, until_ns))
        ends = np.array([(gap.start_ns, gap.end_ns - 1) for gap in gaps], np.int64).reshape(-1, 2)
        places = (self._buckets.of(base, ends) - start_ns) // interval.ns
        for gap, (first, last) in zip(gaps, places.tolist(), strict=True):
            held = codes[max(first, 0) : last + 1]
            np.maximum(held, _REASONS.index(gap.reason), out=held)
        return codes

    def _overlaid(self, rows: pa.Table, base: Interval, side: Side, start_ns: int, end_ns: int) -> pa.Table:
        """With the bars that are not stored yet in the place of stored ones."""
        if not self._live.num_rows:
            return rows
        live = self._live
        ts = starts_of(live)
        mine = pc.and_(pc.equal(live["interval"], pa.scalar(base.name)), pc.equal(live["side"], pa.scalar(side)))
        live = live.filter(pc.and_(mine, pa.array((ts >= start_ns) & (ts < end_ns))))
        if not live.num_rows:
            return rows
        kept = rows.filter(pa.array(~np.isin(starts_of(rows), starts_of(live))))
        return pa.concat_tables([kept, live]).sort_by("ts")

    def _adjusted(self, rows: pa.Table) -> pa.Table:
        """With adjusted prices, but for bars that were adjusted before they came."""
        early = pc.ends_with(rows["provider"], ADJUSTED).to_numpy()
        raw = rows.filter(pa.array(~early)) if early.any() else rows
        mode = self.query.adjustment
        done = adjusted(raw, self.actions, mode, closes=self._closes, session_of=self._sessions_of).bars
        if not early.any():
            return done
        order = np.argsort(np.concatenate([np.flatnonzero(~early), np.flatnonzero(early)]), kind="stable")
        return pa.concat_tables([done, rows.filter(pa.array(early))]).take(order)

    # --- what is not there -----------------------------------------------------------------------------------

    def missing(self, parts: Sequence[_Part], start_ns: int, end_ns: int) -> tuple[MissingSpan, ...]:
        """Of the asked length, start_ns <= ts < end_ns, which the parts cover; ascending."""
        spans: list[MissingSpan] = []
        end_ns = min(end_ns, self._horizon(self._interval))
        spans += self._unknown(start_ns, min(end_ns, self._lo_ns))
        for part in sorted(parts, key=lambda part: part.start_ns):
            begin, until = max(start_ns, part.start_ns, self._lo_ns), min(end_ns, part.end_ns, self._hi_ns)
            if begin < until:
                spans += self._missing_of(part, begin, until)
        spans += self._unknown(max(start_ns, self._hi_ns), end_ns)
        return _merged(spans)

    def missing_of_stored(self) -> tuple[MissingSpan, ...]:
        """`missing` of the whole range, for bars that are stored as they are asked for: without reading them."""
        interval, symbol = self._interval, self.query.symbol
        end_ns = min(self.end_ns, self._horizon(interval))
        spans = self._unknown(self.start_ns, min(end_ns, self._lo_ns))
        for start_ns in range(self._lo_ns, min(end_ns, self._hi_ns), self._stride()):
            until_ns = min(start_ns + self._stride(), end_ns, self._hi_ns)
            is_there = [
                self._store.presence(interval, start_ns, until_ns, side=side, symbols=(symbol,)).of(symbol)
                for side in self._sides
            ]
            present = start_ns + np.flatnonzero(np.logical_and.reduce(is_there)) * interval.ns
            spans += self._absent(present, start_ns, until_ns)
        spans += self._unknown(max(self.start_ns, self._hi_ns), end_ns)
        return _merged(spans)

    def _missing_of(self, part: _Part, start_ns: int, end_ns: int) -> list[MissingSpan]:
        present = starts_of(part.table)
        if self.query.fill is not None:
            present = present[~part.table["filled"].to_numpy()]
        present = present[np.searchsorted(present, start_ns) : np.searchsorted(present, end_ns)]
        return self._absent(present, start_ns, end_ns, part)

    def _absent(self, present: _Ints, start_ns: int, end_ns: int, part: _Part | None = None) -> list[MissingSpan]:
        interval = self._interval
        expected = self._expected(interval, start_ns, end_ns)
        if len(present) == len(expected) and np.array_equal(present, expected):
            return []
        spans = list(self._spans(interval, start_ns, end_ns))
        if part is not None and part.codes is not None:
            spans += self._explained(part, max(part.start_ns, self._lo_ns))
        return list(find_missing(expected, present, spans, interval))

    def _explained(self, part: _Part, first_ns: int) -> list[AnsweredSpan]:
        """What is known of absent minutes, as answers for the buckets that they leave empty."""
        assert part.codes is not None
        codes = part.codes
        edges = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1], True]) if len(codes) else np.zeros(1, np.int64)
        found = []
        for begin, until in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            reason = _REASONS[codes[begin]]
            if reason in ("no_trades", "provider_lacks", "quarantined"):
                found.append(
                    AnsweredSpan(
                        symbol=self.query.symbol,
                        interval=self._interval.name,
                        provider="",
                        start_ns=first_ns + begin * self._interval.ns,
                        end_ns=first_ns + until * self._interval.ns,
                        reason=reason,
                        as_of_ns=self._known_ns,
                    )
                )
        return found

    def _unknown(self, start_ns: int, end_ns: int) -> list[MissingSpan]:
        """A stretch of which nothing at all is known, however long: one span, without looking at each bar of it."""
        start_ns, end_ns = self._covered(start_ns, end_ns)
        if self.calendar is None or start_ns >= end_ns:
            return []
        count = expected_count(self.calendar, self._interval, start_ns, end_ns)
        return [MissingSpan(start_ns=start_ns, end_ns=end_ns, reason="not_fetched", count=count)] if count else []

    def is_complete(self, table: pa.Table, missing: Sequence[MissingSpan], start_ns: int, end_ns: int) -> bool:
        """Whether nothing is partial, all that is missing is explained, and the calendar knows all of the range."""
        end_ns = min(end_ns, self._horizon(self._interval))
        judged = end_ns <= start_ns or self._covered(start_ns, end_ns) == (start_ns, end_ns)
        return judged and is_complete(missing) and not pc.any(table["partial"]).as_py()

    def _covered(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        if self.calendar is None:
            return start_ns, start_ns
        low_ns, high_ns = self.calendar.covers
        return max(start_ns, self._interval.ceil(low_ns)), min(end_ns, self._interval.floor(high_ns))

    def _expected(self, interval: Interval, start_ns: int, end_ns: int) -> _Ints:
        start_ns, end_ns = self._covered(start_ns, end_ns)
        if self.calendar is None or start_ns >= end_ns:
            return np.zeros(0, np.int64)
        return expected_starts(self.calendar, interval, start_ns, end_ns)

    # --- filling ---------------------------------------------------------------------------------------------

    def _last_before(self, end_ns: int) -> pa.Table | None:
        """The last bar that starts before a time, as a table of one row."""
        while True:
            newest = []
            for side in self._sides:
                found: list[int] = []
                for base in self._bases:
                    until_ns = self._buckets.begin(base, end_ns)
                    rows = self._read(base, -(2**63), until_ns, side, limit=1, newest_first=True)
                    found += self._buckets.of(base, starts_of(rows)).tolist()
                if not found:
                    return None
                newest.append(max(found))
            start_ns = min(newest)
            table = self._part(start_ns, start_ns + self._interval.ns, forward=True).table
            if table.num_rows:
                return table
            end_ns = start_ns

    def _filled(self, part: _Part, before: pa.Table | None) -> tuple[pa.Table, _Bools, _Bools]:
        """The bars with those that are absent and over filled in, which are partial, and which are filled in."""
        table = part.table
        ts = starts_of(table)
        absent = self._expected(self._interval, part.start_ns, min(part.end_ns, self._horizon(self._interval)))
        absent = absent[~np.isin(absent, ts, assume_unique=True)]
        if before is not None:
            known = pa.concat_tables([before, table])
        else:
            known = table
            absent = absent[absent > ts[0]] if len(ts) else absent[:0]
        if not len(absent):
            return table, part.partial, np.zeros(len(ts), np.bool_)
        source = known.take(np.searchsorted(starts_of(known), absent) - 1)
        nothing = pa.nulls(len(absent), pa.float64())
        replaced = {
            "ts": pa.array(absent).cast(_NS),
            **dict.fromkeys(("open", "high", "low"), source["close"]),
            **dict.fromkeys(("volume", "vwap"), nothing),
            "trades": pa.nulls(len(absent), pa.int64()),
        }
        columns = [replaced.get(name, source[name]) for name in BAR_SCHEMA.names]
        order = np.argsort(np.concatenate([ts, absent]), kind="stable")
        whole = pa.concat_tables([table, pa.table(columns, schema=BAR_SCHEMA)]).take(order)
        partial = np.concatenate([part.partial, np.zeros(len(absent), np.bool_)])[order]
        return whole, partial, order >= len(ts)


def _merged(spans: Sequence[MissingSpan]) -> tuple[MissingSpan, ...]:
    """Ascending spans; those that touch for the same reason become one."""
    found: list[MissingSpan] = []
    for span in spans:
        last = found[-1] if found else None
        if last is not None and last.reason == span.reason and last.end_ns == span.start_ns:
            found[-1] = msgspec.structs.replace(last, end_ns=span.end_ns, count=last.count + span.count)
        else:
            found.append(span)
    return tuple(found)


def _cut(part: _Part, start_ns: int, end_ns: int, interval: Interval) -> _Part:
    """What of a part lies within a range."""
    if (part.start_ns, part.end_ns) == (start_ns, end_ns):
        return part
    ts = starts_of(part.table)
    rows = slice(*np.searchsorted(ts, (start_ns, end_ns)).tolist())
    first, last = (start_ns - part.start_ns) // interval.ns, (end_ns - part.start_ns) // interval.ns
    return _Part(
        table=part.table.slice(rows.start, rows.stop - rows.start),
        partial=part.partial[rows],
        codes=None if part.codes is None else part.codes[first:last],
        start_ns=start_ns,
        end_ns=end_ns,
    )


def _better(one: _Part, other: _Part) -> _Part:
    """`one`, and bars of `other` where it has none, or has a partial one and `other` a whole one."""
    held, offered = starts_of(one.table), starts_of(other.table)
    is_held = np.isin(offered, held, assume_unique=True)
    is_partial = np.isin(offered, held[one.partial], assume_unique=True)
    taken = ~is_held | (is_partial & ~other.partial)
    kept = ~np.isin(held, offered[taken], assume_unique=True)
    order = np.argsort(np.concatenate([held[kept], offered[taken]]), kind="stable")
    codes = one.codes if other.codes is None else other.codes
    return _Part(
        table=pa.concat_tables([one.table.filter(pa.array(kept)), other.table.filter(pa.array(taken))]).take(order),
        partial=np.concatenate([one.partial[kept], other.partial[taken]])[order],
        codes=codes if one.codes is None or codes is None else np.minimum(one.codes, codes),
        start_ns=one.start_ns,
        end_ns=one.end_ns,
    )


_LEAST_SETTLED_FIRST = pa.array(["withdrawn", "live", "provisional", "backfill", "corrected", "final"])


def _mids(bids: _Part, asks: _Part) -> _Part:
    """Averages of the rows of both that start together. status: of the one that is less settled."""
    _, of_bid, of_ask = np.intersect1d(
        starts_of(bids.table), starts_of(asks.table), assume_unique=True, return_indices=True
    )
    bid, ask = bids.table.take(of_bid), asks.table.take(of_ask)
    n = bid.num_rows

    def both(name: str) -> tuple[Any, Any]:
        return bid.column(name), ask.column(name)

    columns: dict[str, Any] = {name: bid.column(name) for name in ("symbol", "interval", "ts")}
    columns["side"] = pa.repeat("mid", n)
    for name in ("open", "high", "low", "close"):
        columns[name] = pc.divide(pc.add(*both(name)), 2.0)
    columns["volume"] = columns["vwap"] = pa.nulls(n, pa.float64())
    columns["trades"] = pc.add(*both("trades"))
    one, other = both("provider")
    columns["provider"] = pc.if_else(pc.equal(one, other), one, pc.binary_join_element_wise(one, other, "/"))
    ranks = [pc.index_in(status, value_set=_LEAST_SETTLED_FIRST) for status in both("status")]
    least: Any = pc.min_element_wise(*ranks)
    columns["status"] = _LEAST_SETTLED_FIRST.take(least.combine_chunks())
    as_of: Any = pc.max_element_wise(*(column.cast(pa.int64()) for column in both("as_of")))
    columns["as_of"] = as_of.cast(_NS)
    codes = (bids.codes, asks.codes)
    return _Part(
        table=pa.table([columns[name] for name in BAR_SCHEMA.names], schema=BAR_SCHEMA),
        partial=bids.partial[of_bid] | asks.partial[of_ask],
        codes=None if codes[0] is None or codes[1] is None else np.maximum(codes[0], codes[1]),
        start_ns=bids.start_ns,
        end_ns=bids.end_ns,
    )


def _ts_at(table: pa.Table, row: int) -> int:
    return int(table.column("ts")[row].value)


def _floats(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """Absent as NaN."""
    return np.asarray(table.column(name).to_numpy(), np.float64)


def _table_of(bars: Sequence[Bar]) -> pa.Table:
    fields = [{"ts": bar.ts_ns, "as_of": bar.as_of_ns, **msgspec.structs.asdict(bar)} for bar in bars]
    return pa.Table.from_pylist(fields, BAR_SCHEMA)


def _bar(table: pa.Table, row: int) -> Bar:
    plain = table.slice(row, 1)
    for name in ("ts", "as_of"):
        plain = plain.set_column(plain.schema.get_field_index(name), name + "_ns", plain[name].cast(pa.int64()))
    return Bar(**plain.to_pylist()[0])
