"""The ledger: what was expected, what is there, what is missing and why. For one symbol, for many by day, and as work.

Reads the store's presence bits and the answers in the records; writes nothing. `gaps` has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.calendars import Calendar, expected_bits, expected_starts
from marketd.clock import Clock
from marketd.continuity.gaps import (
    Bits,
    Int64s,
    count_bits,
    due_end,
    due_slots,
    find_missing,
    is_complete,
    missing_by_reason,
    pack_answers,
    spans_of_bits,
    without_tail,
)
from marketd.errors import InvalidInput
from marketd.model import AnsweredSpan, Cursor, Interval, MissingReason, MissingSpan, Side, format_ns
from marketd.model.time import NS_PER_S
from marketd.store.contract import BarStore, Presence
from marketd.store.records import Records

__all__ = ["HeatMap", "Ledger", "LedgerConfig", "LedgerService", "SymbolGaps"]

_MINUTE = Interval.parse("1m")
_DAY = Interval.parse("1d")
_BITS_AT_A_TIME = 1 << 28
"""Symbols are asked for in groups that need at most 32 MiB of presence."""


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a bar that is not there counts as missing.

    grace_s: so many seconds after its end. grace_daily_s: the same for bars of a day and longer, which providers
    publish hours after the close. Raises InvalidInput naming the field.
    """

    grace_s: float = 90.0
    grace_daily_s: float = 21_600.0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidInput(field, value, "seconds, not negative")

    def grace_ns(self, interval: Interval) -> int:
        return int((self.grace_daily_s if interval.ns >= _DAY.ns else self.grace_s) * NS_PER_S)


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """One symbol's account of start_ns <= ts < end_ns. expected = present + the sum of `missing`.

    base: the interval whose bars were counted: `interval`, or `1m` if only those are kept and longer bars are made of
    them. due_ns: bars that start before it are over and could be there; later ones are not expected yet. outside:
    bars that are there although the calendar expects none. missing: numbers of bars by reason. spans: the same, in
    order. complete: nothing is missing but what did not trade. cursors: of the providers that serve the symbol.
    """

    symbol: str
    interval: str
    base: str
    side: Side
    calendar: str
    start_ns: int
    end_ns: int
    due_ns: int
    expected: int
    present: int
    outside: int
    missing: dict[MissingReason, int]
    spans: tuple[MissingSpan, ...]
    complete: bool
    cursors: tuple[Cursor, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """With times in RFC 3339: `start`, `end`, `due`, `until`, `updated`."""
        return {
            "symbol": self.symbol,
            "interval": self.interval,
            "base": self.base,
            "side": self.side,
            "calendar": self.calendar,
            "start": format_ns(self.start_ns),
            "end": format_ns(self.end_ns),
            "due": format_ns(self.due_ns),
            "complete": self.complete,
            "expected": self.expected,
            "present": self.present,
            "outside": self.outside,
            "missing": dict(self.missing),
            "spans": [
                {"start": format_ns(s.start_ns), "end": format_ns(s.end_ns), "reason": s.reason, "count": s.count}
                for s in self.spans
            ],
            "cursors": [
                {"provider": c.provider, "until": format_ns(c.until_ns), "updated": format_ns(c.updated_ns)}
                for c in self.cursors
            ],
        }


class HeatMap(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Numbers of bars, int64 arrays (symbols, days): expected = present + explained + missing.

    days_ns: where each column starts: UTC days; weeks for `1w`. explained: absent, and known to have had no trades.
    unknown: symbols that could not be judged (no calendar), with the reason; they have no row.
    """

    interval: str
    symbols: tuple[str, ...]
    days_ns: tuple[int, ...]
    expected: npt.NDArray[np.int64]
    present: npt.NDArray[np.int64]
    explained: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int64]
    unknown: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing in any symbol and all could be judged."""
        return not self.unknown and not self.missing.any()

    def as_json(self) -> dict[str, Any]:
        """With the days as dates and the arrays as lists of rows."""
        return {
            "interval": self.interval,
            "complete": self.complete,
            "symbols": list(self.symbols),
            "days": [format_ns(day)[:10] for day in self.days_ns],
            "expected": self.expected.tolist(),
            "present": self.present.tolist(),
            "explained": self.explained.tolist(),
            "missing": self.missing.tolist(),
            "unknown": dict(self.unknown),
        }


class SymbolGaps(msgspec.Struct, frozen=True, kw_only=True):
    """What is `not_fetched` of one symbol, in order."""

    symbol: str
    interval: str
    spans: tuple[MissingSpan, ...]


class LedgerService:
    """Answers what is missing. Calls block; safe to call from several threads.

    calendar_of: a symbol's calendar; may raise InvalidInput. providers_of: names of the providers that serve a
    symbol, whose answers for *all* symbols count for it.
    """

    def __init__(
        self,
        store: BarStore,
        records: Records,
        calendar_of: Callable[[str], Calendar],
        providers_of: Callable[[str], Sequence[str]],
        clock: Clock,
        config: LedgerConfig | None = None,
    ) -> None:
        self._store = store
        self._records = records
        self._calendar_of = calendar_of
        self._providers_of = providers_of
        self._clock = clock
        self._config = config or LedgerConfig()

    def ledger(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side | None = None,
        closed: bool = False,
    ) -> Ledger:
        """The account of a range. side: None for `trade`, or `bid` if the symbol has only these there.

        closed: tell closed time too, as spans. Raises InvalidInput for time that the calendar does not cover, more
        than 2^27 bars, or end_ns < start_ns.
        """
        _check_range(start_ns, end_ns)
        calendar = self._calendar_of(symbol)
        base = interval
        presence, used = self._presence(interval, start_ns, end_ns, (symbol,), side)
        if interval.ns > _MINUTE.ns and not presence.bits.any():
            finer, finer_used = self._presence(_MINUTE, start_ns, end_ns, (symbol,), side)
            if finer.bits.any():
                base, presence, used = _MINUTE, finer, finer_used
        due_ns = self._due_end(base)
        until_ns = max(min(end_ns, due_ns), start_ns)
        here = presence.start_ns + np.flatnonzero(presence.of(symbol)) * base.ns
        wanted = expected_starts(calendar, base, start_ns, max(until_ns, int(here[-1]) + 1 if len(here) else start_ns))
        expected = wanted[: np.searchsorted(wanted, until_ns)]
        spans = self._answers(base, start_ns, end_ns, symbol)
        within = (start_ns, until_ns) if closed else None
        missing = find_missing(expected, here, spans, base, closed_within=within)
        by_reason = missing_by_reason(missing)
        cursors = (self._records.cursor(symbol, base.name, p) for p in self._providers_of(symbol))
        return Ledger(
            symbol=symbol,
            interval=interval.name,
            base=base.name,
            side=used[0],
            calendar=calendar.name,
            start_ns=start_ns,
            end_ns=end_ns,
            due_ns=due_ns,
            expected=len(expected),
            present=len(expected) - sum(by_reason.values()),
            outside=int((~np.isin(here, wanted)).sum()),
            missing=by_reason,
            spans=tuple(missing),
            complete=is_complete(missing),
            cursors=tuple(c for c in cursors if c is not None),
        )

    def heat_map(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        symbols: Sequence[str] | None = None,
        *,
        side: Side | None = None,
    ) -> HeatMap:
        """Numbers by symbol and UTC day, of the whole days that the range touches. symbols: None for the universe's.

        Counts the bars of this very interval. A symbol without a calendar is named in `unknown`.
        """
        _check_range(start_ns, end_ns)
        column = _DAY if interval.ns <= _DAY.ns else interval
        first, beyond = column.floor(start_ns), column.ceil(end_ns)
        slots, column_slots = (beyond - first) // interval.ns, column.ns // interval.ns
        unknown: dict[str, str] = {}
        names: list[str] = []
        parts: list[tuple[Int64s, Int64s, Int64s, Int64s]] = []
        for group in self._groups(symbols, interval, first, slots, unknown, side):
            counts = count_bits(group.present, group.expected, group.no_trades, slots=slots, column_slots=column_slots)
            names += group.symbols
            parts.append((counts.expected, counts.present, counts.explained, counts.missing))
        order = sorted(range(len(names)), key=names.__getitem__)
        columns = slots // column_slots
        whole = [np.concatenate(p)[order] for p in zip(*parts, strict=True)] or [np.zeros((0, columns), np.int64)] * 4
        return HeatMap(
            interval=interval.name,
            symbols=tuple(names[n] for n in order),
            days_ns=tuple(range(first, beyond, column.ns)),
            expected=whole[0],
            present=whole[1],
            explained=whole[2],
            missing=whole[3],
            unknown=unknown,
        )

    def scan(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        symbols: Sequence[str] | None = None,
        *,
        side: Side | None = None,
    ) -> list[SymbolGaps]:
        """What nobody has asked for yet in start_ns <= ts < end_ns: the symbols with gaps, by name.

        symbols: None for the universe's. Counts the bars of this very interval; symbols without a calendar are
        left out (`heat_map` names them).
        """
        _check_range(start_ns, end_ns)
        first = interval.ceil(start_ns)
        slots = (interval.ceil(end_ns) - first) // interval.ns
        starts_by_calendar: dict[Calendar, Int64s] = {}
        found: list[SymbolGaps] = []
        for group in self._groups(symbols, interval, first, slots, {}, side):
            missing = group.expected & ~group.present
            if group.answered is not None:
                missing &= ~group.answered
            starts = starts_by_calendar.get(group.calendar)
            if starts is None:
                flags = np.unpackbits(group.expected, count=slots, bitorder="little")
                starts = starts_by_calendar[group.calendar] = first + np.flatnonzero(flags) * interval.ns
            found += [
                SymbolGaps(symbol=group.symbols[row], interval=interval.name, spans=tuple(spans))
                for row, spans in spans_of_bits(missing, starts, first, interval).items()
            ]
        return sorted(found, key=lambda gaps: gaps.symbol)

    def symbols(self) -> tuple[str, ...]:
        """Whom the heat map and the scan are about: the active ones of the universe, or all that are kept."""
        universe = tuple(i.symbol for i in self._records.universe() if i.active)
        return universe or self._store.symbols()

    def _due_end(self, interval: Interval) -> int:
        return due_end(interval, self._clock.time_ns(), self._config.grace_ns(interval))

    def _answers(self, interval: Interval, start_ns: int, end_ns: int, symbol: str) -> list[AnsweredSpan]:
        providers = set(self._providers_of(symbol))
        spans = self._records.spans(interval.name, start_ns, end_ns, symbol=symbol)
        return [s for s in spans if s.symbol is not None or s.provider in providers]

    def _presence(
        self, interval: Interval, start_ns: int, end_ns: int, symbols: Sequence[str], side: Side | None
    ) -> tuple[Presence, list[Side]]:
        """Presence, and the side that it is of, symbol by symbol."""
        presence = self._store.presence(interval, start_ns, end_ns, side=side or "trade", symbols=symbols)
        sides: list[Side] = [side or "trade"] * len(presence.symbols)
        if side is not None:
            return presence, sides
        without = np.flatnonzero(~presence.bits.any(axis=1)).tolist()
        if not without:
            return presence, sides
        names = [presence.symbols[row] for row in without]
        bids = self._store.presence(interval, start_ns, end_ns, side="bid", symbols=names)
        some = np.flatnonzero(bids.bits.any(axis=1))
        if not len(some):
            return presence, sides
        bits = presence.bits.copy()
        row_by_name = dict(zip(names, without, strict=True))
        rows = [row_by_name[bids.symbols[n]] for n in some.tolist()]
        bits[rows] = bids.bits[some]
        for row in rows:
            sides[row] = "bid"
        return msgspec.structs.replace(presence, bits=bits), sides

    def _groups(
        self,
        symbols: Sequence[str] | None,
        interval: Interval,
        first_ns: int,
        slots: int,
        unknown: dict[str, str],
        side: Side | None,
    ) -> Iterator[_Group]:
        """The symbols with what is there and what is expected: one calendar and a bounded amount at a time."""
        by_calendar: dict[Calendar, list[str]] = {}
        bits_by_calendar: dict[Calendar, Bits] = {}
        due = due_slots(first_ns, slots, interval, self._due_end(interval))
        for symbol in dict.fromkeys(self.symbols() if symbols is None else symbols):
            try:
                calendar = self._calendar_of(symbol)
                if calendar not in bits_by_calendar:
                    bits = expected_bits(calendar, interval, first_ns, slots)
                    bits_by_calendar[calendar] = without_tail(bits, due)
            except InvalidInput as error:
                unknown[symbol] = str(error)
                continue
            by_calendar.setdefault(calendar, []).append(symbol)
        if not by_calendar or not slots:
            return
        end_ns = first_ns + slots * interval.ns
        known = _Answers(self._records.spans(interval.name, first_ns, end_ns), self._providers_of)
        at_a_time = max(1, _BITS_AT_A_TIME // slots)
        for calendar, members in by_calendar.items():
            for low in range(0, len(members), at_a_time):
                presence, _ = self._presence(interval, first_ns, end_ns, members[low : low + at_a_time], side)
                packed = known.packed(presence.symbols, first_ns, slots, interval)
                yield _Group(
                    calendar=calendar,
                    symbols=presence.symbols,
                    present=presence.bits,
                    expected=bits_by_calendar[calendar],
                    no_trades=None if packed is None else packed[0],
                    answered=None if packed is None else packed[1],
                )


class _Group(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Symbols of one calendar. no_trades, answered: bits that count where a bar is absent; None if none is known."""

    calendar: Calendar
    symbols: tuple[str, ...]
    present: Bits
    expected: Bits
    no_trades: Bits | None
    answered: Bits | None


class _Answers:
    """Everybody's answers in a range, as bits of those who ask."""

    def __init__(self, spans: Sequence[AnsweredSpan], providers_of: Callable[[str], Sequence[str]]) -> None:
        self._own: dict[str, list[AnsweredSpan]] = {}
        self._of_provider: dict[str, list[AnsweredSpan]] = {}
        for span in spans:
            if span.symbol is None:
                self._of_provider.setdefault(span.provider, []).append(span)
            else:
                self._own.setdefault(span.symbol, []).append(span)
        self._providers_of = providers_of

    def packed(self, symbols: Sequence[str], first_ns: int, slots: int, interval: Interval) -> tuple[Bits, Bits] | None:
        """(no trades, any answer), uint8 (symbols, bytes); None if nothing is known."""
        if not self._own and not self._of_provider:
            return None
        shared: dict[frozenset[str], tuple[Bits, Bits]] = {}
        width = -(-slots // 8)
        no_trades, answered = np.zeros((2, len(symbols), width), np.uint8)
        for row, symbol in enumerate(symbols):
            providers = frozenset(self._of_provider.keys() & set(self._providers_of(symbol)))
            own = self._own.get(symbol)
            general = [s for p in providers for s in self._of_provider[p]]
            if own:
                bits = pack_answers([*general, *own], first_ns, slots, interval)
            elif general:
                if providers not in shared:
                    shared[providers] = pack_answers(general, first_ns, slots, interval)
                bits = shared[providers]
            else:
                continue
            no_trades[row], answered[row] = bits
        return no_trades, answered


def _check_range(start_ns: int, end_ns: int) -> None:
    if end_ns < start_ns:
        raise InvalidInput("end", format_ns(end_ns), f"a time not before the start, {format_ns(start_ns)}")
