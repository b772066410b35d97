"""Files of history into the store, through the one door that all fetched history takes.

Owns: batching, the time at which it became known, and the sum of what became of every row. Reading files is
`sources.files`; whether a bar is believed is decided behind `KeepBars`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from marketd.calendars.contract import Calendar
from marketd.calendars.expected import expected_starts
from marketd.clock import Clock
from marketd.errors import InvalidInput
from marketd.ingest.bar_checks_adjusted import AdjustedFinding, check_adjusted
from marketd.ingest.history import KeepBars
from marketd.model import Interval, Quarantined, parse_ns, starts_of
from marketd.model.ticks import I64
from marketd.sources.files import FileBatch, FilePlan, read

__all__ = ["BATCH_ROWS", "AdjustmentCheck", "ImportSummary", "SessionCheck", "import_file"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

BATCH_ROWS = 100_000
_QUARANTINED_MAX = 1_000
_DAY_NS = Interval.parse("1d").ns
_HOUR_NS = Interval.parse("1h").ns
_SAMPLE = 50_000
_HALF = 0.5
_NEARLY_ALL = 0.98
_COMPARED_MAX = 2_000_000


class ImportSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file. rows = accepted + sum of refused; one row a side where a line has several sides.

    accepted, new_versions: 0 in a dry run, where `readable` says how many bars there are. refused: by reason, those of
    the file and those of the door. quarantined: the first 1,000 of them. first_ns, last_ns: starts of the earliest and
    the latest readable bar. symbols: at most the first 1,000. notes: what else struck. adjustment: where adjusted
    closes, dividends and splits of the file contradict one another, with the symbol; no row is refused for it.
    """

    path: str
    rows: int
    readable: int
    accepted: int
    new_versions: int
    refused: dict[str, int]
    quarantined: tuple[Quarantined, ...]
    first_ns: int | None
    last_ns: int | None
    symbols: tuple[str, ...]
    notes: tuple[str, ...] = ()
    adjustment: tuple[tuple[str, AdjustedFinding], ...] = ()


async def import_file(
    plan: FilePlan,
    keep: KeepBars | None,
    progress: Callable[[int], None] = lambda _: None,
    *,
    clock: Clock,
    calendar_of: Callable[[str], Calendar | None] = lambda _: None,
) -> ImportSummary:
    """Keep the bars of a file in batches of `BATCH_ROWS`; durable when this returns.

    keep: None for a dry run. progress: told the bytes of the file that were read. calendar_of: for the note that most
    bars lie outside of the session; None if there is no telling. Importing a file again makes no new versions.
    Raises InvalidInput when the file cannot be read on, StoreError when bars could not be kept; what was kept until
    then stays, and importing the file again completes it.
    """
    now_ns = clock.time_ns()
    told = plan.options.as_of
    as_of_ns = now_ns if told in (None, "file") else parse_ns(str(told))
    if told == "file" and plan.layout.as_of is None:
        raise InvalidInput("as_of", told, "a time: the file has no column as_of or known_at")
    tally = _Tally(plan.path, now_ns)
    sessions = SessionCheck(calendar_of)
    adjustment = AdjustmentCheck()
    batches = read(plan, as_of_ns, progress)
    waiting: list[_Numbered] = []
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        tally.see(batch)
        sessions.see(batch.bars)
        adjustment.see(batch.beside)
        if keep is None or not batch.bars.num_rows:
            continue
        waiting.append((batch.bars, batch.lines))
        if sum(len(lines) for _, lines in waiting) >= BATCH_ROWS:
            bars, lines = _joined(waiting)
            full = len(lines) // BATCH_ROWS * BATCH_ROWS
            for start in range(0, full, BATCH_ROWS):
                await _keep(keep, bars.slice(start, BATCH_ROWS), lines[start : start + BATCH_ROWS], tally)
            waiting = [(bars.slice(full), lines[full:])] if full < len(lines) else []
    if keep is not None and waiting:
        await _keep(keep, *_joined(waiting), tally)
    return tally.summary(sessions.notes(), await asyncio.to_thread(adjustment.findings))


_Numbered = tuple[pa.Table, I64]
"""Bars, and the file's line of each."""


def _joined(parts: list[_Numbered]) -> _Numbered:
    return pa.concat_tables([bars for bars, _ in parts]), np.concatenate([lines for _, lines in parts])


async def _keep(keep: KeepBars, bars: pa.Table, lines: I64, tally: _Tally) -> None:
    for provider, of_provider, its_lines in _by_provider(bars, lines):
        for part, part_lines in _by_version(of_provider, its_lines):
            kept = await keep(provider, part)
            tally.accepted += kept.accepted
            tally.new_versions += kept.new_versions
            tally.refused.update(kept.refused)
            tally.quarantine_lines(kept.quarantined, part_lines[list(kept.quarantined_rows)].tolist())


def _by_provider(bars: pa.Table, lines: I64) -> Iterator[tuple[str, pa.Table, I64]]:
    names = sorted(_distinct(bars, "provider"))
    for name in names:
        if len(names) == 1:
            yield name, bars, lines
        else:
            rows = np.flatnonzero(pc.equal(bars.column("provider"), name))
            yield name, bars.take(rows), lines[rows]


def _by_version(bars: pa.Table, lines: I64) -> Iterator[_Numbered]:
    """Of one provider: versions of a bar that became known one after the other, one after the other. The door would
    take them for bars that contradict one another."""
    as_of = bars.column("as_of").to_numpy().astype(np.int64)
    words = [bars.column(name).combine_chunks().dictionary_encode().indices for name in ("symbol", "interval", "side")]
    key = [starts_of(bars), *(codes.to_numpy() for codes in words)]
    order = np.lexsort((as_of, *key))
    as_of = as_of[order]
    begins = np.ones(len(order), bool)
    begins[1:] = np.logical_or.reduce([column[order[1:]] != column[order[:-1]] for column in key])
    later = np.zeros(len(order), np.int64)
    later[1:] = as_of[1:] != as_of[:-1]
    later = np.cumsum(np.where(begins, 0, later))
    turn = np.empty_like(later)
    turn[order] = later - np.maximum.accumulate(np.where(begins, later, 0))
    if not turn.any():
        yield bars, lines
        return
    for number in range(int(turn.max()) + 1):
        rows = np.flatnonzero(turn == number)
        yield bars.take(rows), lines[rows]


def _distinct(bars: pa.Table, column: str) -> list[str]:
    return [str(value) for value in bars.column(column).unique().to_pylist()]


class _Tally:
    def __init__(self, path: str, now_ns: int) -> None:
        self._path, self._now_ns = path, now_ns
        self._rows = self._readable = self.accepted = self.new_versions = 0
        self.refused: Counter[str] = Counter()
        self._quarantined: list[Quarantined] = []
        self._first: int | None = None
        self._last: int | None = None
        self._symbols: dict[str, None] = {}

    def see(self, batch: FileBatch) -> None:
        self._rows += batch.rows
        self._readable += batch.bars.num_rows
        self.refused.update(batch.refused)
        self.quarantine(
            Quarantined(
                source=self._path,
                time_received_ns=self._now_ns,
                reason=refused.reason,
                detail=refused.detail,
                where=f"{self._path}:{refused.line}",
            )
            for refused in batch.examples[: _QUARANTINED_MAX - len(self._quarantined)]
        )
        if batch.bars.num_rows:
            starts = batch.bars.column("ts").cast(pa.int64())
            low, high = pc.min_max(starts).as_py().values()
            self._first = low if self._first is None else min(low, self._first)
            self._last = high if self._last is None else max(high, self._last)
            if len(self._symbols) < _QUARANTINED_MAX:
                self._symbols.update(dict.fromkeys(_distinct(batch.bars, "symbol")))

    def quarantine(self, rows: Iterator[Quarantined] | tuple[Quarantined, ...]) -> None:
        for row in rows:
            if len(self._quarantined) >= _QUARANTINED_MAX:
                return
            self._quarantined.append(row)

    def quarantine_lines(self, rows: tuple[Quarantined, ...], lines: list[int]) -> None:
        """Rows that the door refused. lines: of each; none if the door does not tell which rows they were."""
        if len(lines) == len(rows):
            places = [f"{self._path}:{line}" for line in lines]
            rows = tuple(msgspec.structs.replace(row, where=where) for row, where in zip(rows, places, strict=True))
        self.quarantine(rows)

    def summary(self, notes: tuple[str, ...], adjustment: tuple[tuple[str, AdjustedFinding], ...]) -> ImportSummary:
        return ImportSummary(
            path=self._path,
            rows=self._rows,
            readable=self._readable,
            accepted=self.accepted,
            new_versions=self.new_versions,
            refused=dict(self.refused),
            quarantined=tuple(self._quarantined),
            first_ns=self._first,
            last_ns=self._last,
            symbols=tuple(self._symbols)[:_QUARANTINED_MAX],
            notes=notes,
            adjustment=adjustment,
        )


class AdjustmentCheck:
    """Whether the adjusted closes, dividends and splits that a file tells beside its bars agree; see `check_adjusted`.

    Looks at no more than the first 2,000,000 rows.
    """

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._seen = 0

    def see(self, beside: pa.Table | None) -> None:
        room = _COMPARED_MAX - self._seen
        if beside is not None and room > 0:
            self._parts.append(beside.slice(0, room))
            self._seen += self._parts[-1].num_rows

    def findings(self) -> tuple[tuple[str, AdjustedFinding], ...]:
        """With the symbol of each, by symbol and time."""
        if not self._parts:
            return ()
        table = pa.concat_tables(self._parts)
        found: list[tuple[str, AdjustedFinding]] = []
        for symbol in sorted(_distinct(table, "symbol")):
            of_symbol = table.filter(pc.equal(table.column("symbol"), symbol))
            for interval in sorted(_distinct(of_symbol, "interval")):
                frame = of_symbol.filter(pc.equal(of_symbol.column("interval"), interval))
                found += [(symbol, finding) for finding in check_adjusted(frame)]
        return tuple(found)


class SessionCheck:
    """Whether the first bars of each symbol lie where its calendar expects them; if not, what would put them there.

    Looks at intervals below a day. Says nothing of a symbol without a calendar, or of time that it does not cover.
    """

    def __init__(self, calendar_of: Callable[[str], Calendar | None]) -> None:
        self._calendar_of = calendar_of
        self._starts: dict[tuple[str, str], list[I64]] = {}
        self._seen = 0

    def see(self, bars: pa.Table) -> None:
        room = _SAMPLE - self._seen
        if room <= 0 or not bars.num_rows:
            return
        bars = bars.slice(0, room)
        self._seen += bars.num_rows
        for interval in _distinct(bars, "interval"):
            if Interval.parse(interval).ns >= _DAY_NS:
                continue
            of_interval = bars.filter(pc.equal(bars.column("interval"), interval))
            for symbol in _distinct(of_interval, "symbol"):
                of_symbol = of_interval.filter(pc.equal(of_interval.column("symbol"), symbol))
                starts = starts_of(of_symbol)
                self._starts.setdefault((symbol, interval), []).append(starts)

    def notes(self) -> tuple[str, ...]:
        return tuple(
            note for key, parts in self._starts.items() if (note := self._note(*key, np.unique(np.concatenate(parts))))
        )

    def _note(self, symbol: str, name: str, starts: I64) -> str | None:
        interval, reach = Interval.parse(name), 15 * _HOUR_NS
        try:
            calendar = self._calendar_of(symbol)
            if calendar is None:
                return None
            expected = expected_starts(calendar, interval, int(starts[0]) - reach, int(starts[-1]) + reach)
        except InvalidInput:  # no such calendar, or time that it does not cover: there is no telling
            return None
        inside = self._share(starts, expected)
        ends = self._share(starts - interval.ns, expected)
        where = f"{symbol}: {1 - inside:.0%} of its {name} bars lie outside the sessions of {calendar.name}"
        if ends == 1 > inside:
            return f"{where}; none would if the stamps are the bars' ends (--stamp end)"
        if inside >= _HALF:
            return None
        shifts = [hours for hours in range(-14, 15) if hours]
        best = max(shifts, key=lambda hours: self._share(starts + hours * _HOUR_NS, expected))
        if self._share(starts + best * _HOUR_NS, expected) >= _NEARLY_ALL:
            return f"{where}; nearly none would {abs(best)} h {'later' if best > 0 else 'earlier'}: see --timezone"
        return where

    @staticmethod
    def _share(starts: I64, expected: npt.NDArray[np.int64]) -> float:
        return float(np.isin(starts, expected).mean())
