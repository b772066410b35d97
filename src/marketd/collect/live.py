"""The desk: whose ticks of a symbol are shown, and what happens when that provider fails.

Of each symbol one provider is active; the others that are configured for it stay subscribed and warm. Rows of the
active one pass the gate (`Desk.gate`, asked by the pipeline for every batch); those of the others are kept as latest
values only, in bars of their own provider, and are what is shown first after a switch. After a switch nothing goes out
that is not newer than what had. Symbols that nobody streams are subscribed on demand (`acquire`), at the
active provider alone. How a provider's feed is kept alive is `StreamController`'s work; which healthy provider is
preferred is the order's (`routing`).

A provider stands, best first: good; recovering (good again for less than `recover_s`); polled; troubled (slow,
garbage); down. Symbols of one that are mute count as troubled, those that are outliers or refused as none at all. The
better standing comes first, then the order. Everything runs on the loop; a switch is a `LiveSwitch`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.collect.cross_check import CrossCheck, CrossCheckRow, Values
from marketd.collect.hours import Hours
from marketd.collect.silence import Silence
from marketd.collect.stream_controller import Report, StreamController, StreamHealth
from marketd.collect.streams import StreamsConfig, SwitchReason
from marketd.errors import InvalidInput, UnknownSymbol
from marketd.fanout.latest import LatestTable
from marketd.model import BOOK, LAST, Quarantined, SourceEvent, TickBatch
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.sources.contract import Capability, Provider, Source, Subscriptions
from marketd.sources.symbols import SymbolMap
from marketd.telemetry import Metrics

__all__ = ["Desk", "Door", "LiveSwitch", "Ordering"]

_logger = logging.getLogger(__name__)

Ids = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

_ANY, _NOBODY = -1, -2
_GOOD, _RECOVERING, _POLLED, _TROUBLED, _DOWN, _NEVER = range(6)
_MUTE, _OUTLIER, _REFUSED = 1, 2, 4

_PULSE_S = 0.25
_WINDOW_S = 1.0
_SLOW_WINDOWS = 3
_START_GRACE_S = 2.0
_SWITCHES_KEPT = 1_000
_SYMBOL_LONGEST = 64
_NOT_GARBAGE = frozenset(
    ("duplicate", "unknown_symbol", "trades_missing", "too_late_for_bar", "outlier", "outlier_over")
)
_NO_LAG = np.iinfo(np.int64).max


class LiveSwitch(msgspec.Struct, frozen=True, kw_only=True):
    """The provider of these symbols changed. old: None if there was none; new: None if nobody is left. detail: the old
    one's last words."""

    old: str | None
    new: str | None
    reason: SwitchReason
    detail: str | None
    at_ns: int
    symbols: tuple[str, ...]


class SourceTally(Protocol):
    """What the pipeline knows of a source (`pipeline.SourceState`)."""

    connected: bool
    accepted: int
    quarantined: Any


class Door(Protocol):
    """The pipeline, as the desk uses it (`pipeline.Pipeline`)."""

    gate: Callable[[str, TickBatch, Ids], Mask | None] | None

    @property
    def sources(self) -> Mapping[str, Any]:
        """A `SourceTally` of each source."""
        ...

    def take(self, source: str, events: Sequence[SourceEvent]) -> None: ...

    def take_polled(self, source: str, batch: TickBatch) -> None: ...

    def show(self, batch: TickBatch) -> None: ...

    def watched_from(self, source: str, symbols: Iterable[str], time_ns: int | None) -> None: ...


class Ordering(Protocol):
    """The preferred of these providers first: `routing.Router.order`. Who is left out is not to be used."""

    def __call__(self, capability: Capability, names: Sequence[str], /, *, current: str | None) -> Sequence[str]: ...


def _as_given(_capability: Capability, names: Sequence[str], /, *, current: str | None) -> Sequence[str]:
    del current
    return names


class _Line:
    """One provider at the desk."""

    def __init__(
        self,
        number: int,
        controller: StreamController,
        provider: Provider,
        config: StreamsConfig,
        latest: LatestTable,
    ) -> None:
        self.number = number
        self.name = provider.name
        self.controller = controller
        self.maps: SymbolMap = provider.symbols
        self.streams = provider.stream is not None
        can = provider.capabilities
        self.capability: Capability = (
            ("stream_quotes" if can.stream_quotes or not can.stream_trades else "stream_trades")
            if self.streams
            else "quotes_l1"
        )
        full = None if can.symbols_per_connection is None or can.connections is None else can.symbols_per_connection
        self.room = None if full is None or can.connections is None else full * can.connections
        self.delayed_ns = round(can.delayed_s * NS_PER_S)
        self.silence = Silence(
            factor=config.mute_factor,
            floor_s=config.mute_floor_s,
            cap_s=config.mute_cap_s,
            half_life_s=config.mute_half_life_s,
            least_gaps=config.mute_least_gaps,
        )
        self.held = LatestTable(latest.symbols)
        """What was said and not shown."""
        self.muted_until_s = np.zeros(0)
        self.refused = np.zeros(0, np.bool_)
        self.ids = np.empty(0, np.intp)
        self.version = -1
        self.streamed_well = False
        self.standing = _GOOD
        self.fault: SwitchReason | None = None
        self.good_since_s: float | None = None
        self.was_bad = False
        self.trouble: SwitchReason | None = None
        self.trouble_until_s = 0.0
        self.lag_ns = _NO_LAG
        self.slow_windows = 0
        self.tallies: deque[tuple[float, int, int]] = deque()

    def can_have(self, symbol: str) -> bool:
        """Whether it may have a symbol and has room for it."""
        if self.room is not None and len(self.controller.wanted.symbols) >= self.room:
            return False
        return self.maps.to_provider(symbol) is not None


class _Demand:
    """A symbol that is subscribed because somebody asked. release_s: when it is given up, None while it is wanted."""

    __slots__ = ("asked", "release_s")

    def __init__(self) -> None:
        self.asked = 0
        self.release_s: float | None = None


class Desk:
    """latest: the pipeline's table. door: the pipeline; its gate is set here. hours: of the symbols.

    order: which provider is preferred, as given by default. report: told how streams and polls fare. backfill: called
    with a provider, symbols and since when they were missed. on_switch: called with every switch. on_change: called
    when a provider's mode or connection changed.
    """

    def __init__(
        self,
        config: StreamsConfig,
        clock: Clock,
        latest: LatestTable,
        door: Door,
        *,
        hours: Hours | None = None,
        order: Ordering = _as_given,
        report: Report | None = None,
        backfill: Callable[[str, Sequence[str], int], None] | None = None,
        on_switch: Callable[[LiveSwitch], None] | None = None,
        on_change: Callable[[StreamController], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.config = config
        self.hours = hours or Hours()
        self.switches: deque[LiveSwitch] = deque(maxlen=_SWITCHES_KEPT)
        """The newest, oldest first."""
        self._clock = clock
        self._latest = latest
        self._symbols = latest.symbols
        self._door = door
        self._order = order
        self._report = report
        self._backfill = backfill
        self._on_switch = on_switch
        self._on_change = on_change
        self._metrics = metrics or Metrics()
        self._lines: list[_Line] = []
        self._by_name: dict[str, _Line] = {}
        self._active = np.full(0, _ANY, np.int16)
        self._floor_ns = np.zeros(0, np.int64)
        self._venue = np.zeros(0, np.int16)
        self._candidates: dict[int, tuple[int, ...]] = {}
        self._groups: dict[tuple[int, ...], Ids] = {}
        self._needed: list[tuple[str, ...]] | None = None
        self._regroup = True
        self._gated = False
        self._demands: dict[str, _Demand] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._cross = CrossCheck(config.cross_check)
        self._window_s = self._cross_s = self._now_s()
        self._started_s = self._now_s()
        self._running = False
        self._choosing = False
        self._pulse: asyncio.Task[None] | None = None
        door.gate = self.gate

    # --- who is at the desk --------------------------------------------------------------------------------

    def add(
        self,
        provider: Provider,
        *,
        ready: Callable[[], Awaitable[None]] | None = None,
        renew: Callable[[], Source] | None = None,
    ) -> StreamController:
        """Seat a provider with its `stream_symbols`; the first seated comes first unless the order says otherwise. The
        pipeline must know its source. ready, renew: see `StreamController`."""
        wanted = Subscriptions(provider.stream_symbols)
        number = len(self._lines)
        name = provider.name
        backfill = self._backfill
        controller = StreamController(
            name,
            self.config,
            self._clock,
            wanted=wanted,
            hours=self.hours,
            take=self._door.take,
            take_polled=self._door.take_polled,
            connected=lambda: bool(self._door.sources[name].connected),
            on_change=self._changed,
            source=provider.stream,
            quotes=provider.quotes,
            needed=lambda: self._needed_of(number),
            on_refused=lambda symbol, detail: self._refused(name, symbol, detail),
            backfill=None if backfill is None else lambda symbols, since_ns: backfill(name, symbols, since_ns),
            report=self._report,
            ready=ready,
            renew=renew,
        )
        line = _Line(number, controller, provider, self.config, self._latest)
        self._lines.append(line)
        self._by_name[name] = line
        for symbol in wanted.symbols:
            self._seat(self._symbols.add(symbol), number)
        return controller

    def set_symbols(self, name: str, symbols: Sequence[str]) -> None:
        """Change which symbols a provider streams by configuration; those subscribed on demand stay."""
        line = self._by_name[name]
        self._grow()
        before = [s for s in line.controller.wanted.symbols if s not in self._demands]
        gone = [s for s in before if s not in symbols]
        line.controller.wanted.discard(gone)
        self._door.watched_from(name, gone, None)
        for symbol in gone:
            number = self._symbols.add(symbol)
            left = tuple(other for other in self._candidates[number] if other != line.number)
            if left:
                self._candidates[number] = left
            else:
                self._unseat(number)
        new = line.controller.wanted.add(symbols)
        self._door.watched_from(name, new, self._clock.time_ns())
        for symbol in symbols:
            number = self._symbols.add(symbol)
            if self._demands.pop(symbol, None) is not None:  # from now on whether or not somebody asks
                self._candidates[number] = (line.number,)
            self._seat(number, line.number)
        self._regroup = True
        if self._running:
            self._prepare(symbols)
            self._choose()

    def _seat(self, number: int, line: int) -> None:
        before = self._candidates.get(number, ())
        if line not in before:
            self._candidates[number] = (*before, line)
            self._regroup = True

    async def replace(self, provider: Provider) -> None:
        """A provider goes on with other settings. Its symbols stay."""
        line = self._by_name[provider.name]
        line.maps = provider.symbols
        line.refused[:] = False
        await line.controller.replace(provider.stream, provider.quotes)
        self._regroup = True

    @property
    def controllers(self) -> Mapping[str, StreamController]:
        """By provider, in the order they were seated."""
        return {line.name: line.controller for line in self._lines}

    def active(self, symbol: str) -> str | None:
        """The provider whose ticks of a symbol are shown; None if there is none, or it is not a matter of this desk."""
        number = self._symbols.get(symbol)
        line = _ANY if number is None or number >= len(self._active) else int(self._active[number])
        return None if line < 0 else self._lines[line].name

    def speaks(self, provider: str, number: int) -> bool:
        """Whether what a provider says of a symbol (its number) is for clients: its bars, for one."""
        line = self._by_name.get(provider)
        if line is None or number >= len(self._active):
            return True
        return int(self._active[number]) in (_ANY, line.number)

    def stream_health(self) -> list[StreamHealth]:
        """Of every provider, in the order they were seated."""
        return [line.controller.health() for line in self._lines]

    def cross_checks(self) -> list[CrossCheckRow]:
        """Every pair of providers and symbol that was compared."""
        return self._cross.rows([line.name for line in self._lines], self._symbols.names)

    # --- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._started_s = self._window_s = self._cross_s = self._now_s()
        self._prepare([name for line in self._lines for name in line.controller.wanted.symbols])
        for line in self._lines:
            line.controller.start()
        self._running = True
        self._choose()  # before the first tick
        self._pulse = asyncio.create_task(self._beat(), name="desk")

    async def stop(self) -> None:
        """End all streams and polls."""
        self._running = False
        tasks = [*self._preparing, *([] if self._pulse is None else [self._pulse])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(line.controller.stop() for line in self._lines))

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(_PULSE_S)
            try:
                self.look()
            except Exception:
                _logger.exception("a defect in the desk's pulse; it goes on")

    def look(self) -> None:
        """Judge every feed by the time that passed, and switch where one is better."""
        now_s = self._now_s()
        for line in self._lines:
            line.controller.look()
        self._grow()
        self._judge_silence(now_s)
        self._judge_lines(now_s)
        self._linger(now_s)
        if now_s - self._cross_s >= self.config.cross_check.every_s:
            self._cross_s = now_s
            self._compare()
        self._choose()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    def _grow(self) -> None:
        size = len(self._symbols)
        if size > len(self._active):
            room = max(size, 2 * len(self._active), 64)
            for name, absent in (("_active", _ANY), ("_floor_ns", 0), ("_venue", 0)):
                before = getattr(self, name)
                grown = np.full(room, absent, before.dtype)
                grown[: len(before)] = before
                setattr(self, name, grown)
        for line in self._lines:
            if len(self._active) > len(line.muted_until_s):
                line.silence.grow(len(self._active))
                line.muted_until_s = _longer(line.muted_until_s, len(self._active))
                line.refused = _longer(line.refused, len(self._active))
        self._cross.grow(len(self._lines), len(self._active))

    # --- the gate ------------------------------------------------------------------------------------------

    def gate(self, source: str, batch: TickBatch, ids: Ids) -> Mask | None:
        """Which rows of a batch are shown, None for all. Rows that are not are kept as the source's latest."""
        line = self._by_name.get(source)
        if line is None:
            return None
        if len(self._symbols) > len(line.muted_until_s):
            self._grow()
        line.silence.mark(ids)
        lag_ns = int((batch.time_received_ns - batch.time_event_ns).min())
        line.lag_ns = min(line.lag_ns, lag_ns)
        if not self._gated:
            return None
        active = self._active[ids]
        shown: Mask = (active == line.number) | (active == _ANY)
        shown &= batch.time_event_ns > self._floor_ns[ids]
        if shown.all():
            return None
        back = ~shown
        kept, kept_ids = batch.take(back), ids[back]
        line.held.update(kept, kept_ids, np.ones(len(kept), np.int64), np.zeros(len(kept), np.uint8))
        return shown

    def _show_held(self, line: _Line, ids: Ids) -> None:
        """What the new provider said before it was its turn, as far as it is news."""
        held = line.held
        ids = held.known(ids)
        books = ids[held.book_ns[ids] > self._floor_ns[ids]]
        lasts = ids[held.last_ns[ids] > self._floor_ns[ids]]
        if not len(books) + len(lasts):
            return
        rows = np.concatenate([books, lasts])
        book = np.arange(len(rows)) < len(books)
        absent = np.full(len(rows), np.nan)
        batch = TickBatch(
            source=line.name,
            symbols=tuple(self._symbols.names[i] for i in rows.tolist()),
            symbol_index=np.arange(len(rows), dtype=np.int32),
            flags=np.where(book, BOOK, LAST).astype(np.uint8),
            time_event_ns=np.where(book, held.book_ns[rows], held.last_ns[rows]),
            time_received_ns=held.received_ns[rows],
            bid=np.where(book, held.bid[rows], np.nan),
            ask=np.where(book, held.ask[rows], np.nan),
            bid_size=np.where(book, held.bid_size[rows], np.nan),
            ask_size=np.where(book, held.ask_size[rows], np.nan),
            last=np.where(book, np.nan, held.last[rows]),
            last_size=absent,
            volume=np.where(book, np.nan, held.volume[rows]),
        )
        self._door.show(batch.take(np.argsort(batch.time_event_ns, kind="stable")))

    # --- how providers do ----------------------------------------------------------------------------------

    def _changed(self, controller: StreamController) -> None:
        if self._on_change is not None:
            self._on_change(controller)
        if self._running and not self._choosing:
            self._choose()

    def _judge_silence(self, now_s: float) -> None:
        closed: Mask | None = None
        is_open = self.hours.open_by_number(self._clock.time_ns())
        if not is_open.all():
            closed = ~is_open[self._venue]
        muted: dict[int, Mask] = {}
        for line in self._lines:
            self._follow_wanted(line, now_s)
            well = line.controller.streams_well
            if well and not line.streamed_well:
                line.silence.restart(now_s)
                line.silence.watch(line.ids, now_s)
                line.refused[:] = False
            line.streamed_well = well
            if well:
                line.silence.fold(now_s, closed)
                muted[line.number] = line.silence.mute(now_s)
        self._hear_the_others(muted, now_s)
        for number, mute in muted.items():
            self._lines[number].muted_until_s[mute] = now_s + self.config.recover_s

    def _hear_the_others(self, muted: Mapping[int, Mask], now_s: float) -> None:
        """Where another stream has the symbol too: while none of them says anything, the market is quiet; and silence
        for the whole timeout is a fault also where the rate is not known, if another ticks."""
        timeout_s = self.config.stream_health_timeout_s
        for lines, ids in self._groups.items():
            well = [line for line in lines if line in muted]
            if len(well) < 2:
                continue
            silent = np.array([self._lines[line].silence.silent_s(now_s)[ids] for line in well])
            heard = np.array([self._lines[line].silence.heard_s(now_s)[ids] for line in well])
            for row, number in enumerate(well):
                others = heard[np.arange(len(well)) != row].min(axis=0)
                known = self._lines[number].silence.is_known()[ids]
                by_rate = muted[number][ids] & (others <= silent[row] / 2)
                muted[number][ids] = by_rate | (~known & (silent[row] >= timeout_s) & (others <= timeout_s / 4))

    def _follow_wanted(self, line: _Line, now_s: float) -> None:
        wanted = line.controller.wanted
        if wanted.version == line.version:
            return
        line.version = wanted.version
        ids = np.array([self._symbols.add(symbol) for symbol in wanted.symbols], np.intp)
        self._grow()
        line.silence.forget(np.setdiff1d(line.ids, ids))
        line.silence.watch(ids, now_s)
        line.ids = ids

    def _judge_lines(self, now_s: float) -> None:
        window_over = now_s - self._window_s >= _WINDOW_S
        if window_over:
            self._window_s = now_s
        for line in self._lines:
            if window_over:
                self._judge_lag(line)
            if line.slow_windows >= _SLOW_WINDOWS or line.controller.poll_age_s * 1e3 >= self.config.slow_after_ms:
                line.trouble, line.trouble_until_s = "slow", now_s + self.config.recover_s
            elif self._is_garbage(line, now_s):
                line.trouble, line.trouble_until_s = "garbage", now_s + self.config.recover_s

    def _judge_lag(self, line: _Line) -> None:
        lag_ns, line.lag_ns = line.lag_ns, _NO_LAG
        if lag_ns == _NO_LAG or not line.controller.streams_well:
            return
        lag_ns = max(lag_ns - line.delayed_ns, 0)
        slow = lag_ns > self.config.slow_after_ms * NS_PER_MS
        line.slow_windows = line.slow_windows + 1 if slow else 0
        if self._report is not None:
            self._report(line.name, line.capability, None, lag_ns / NS_PER_S)

    def _is_garbage(self, line: _Line, now_s: float) -> bool:
        tally = self._door.sources[line.name]
        bad: int = sum(count for reason, count in tally.quarantined.items() if reason not in _NOT_GARBAGE)
        tallies = line.tallies
        tallies.append((now_s, bad, tally.accepted))
        while len(tallies) > 1 and now_s - tallies[1][0] >= _WINDOW_S:
            tallies.popleft()
        bad -= tallies[0][1]
        good: int = tally.accepted - tallies[0][2]
        return bad >= self.config.garbage_least and bad >= self.config.garbage_share * (bad + good)

    def _stand(self, line: _Line, now_s: float) -> None:
        """How a provider stands now, and what is wrong with it."""
        controller = line.controller
        line.fault = controller.fault
        if line.trouble is not None and now_s >= line.trouble_until_s:
            line.trouble = None
        if controller.mode == "POLL":
            failed = controller.poll_error is not None and now_s < controller.poll_again_s + self.config.recover_s
            raw = _DOWN if failed else _POLLED
        elif controller.streams_well or (controller.starting and now_s - self._started_s < _START_GRACE_S):
            raw = _GOOD
        else:
            raw = _DOWN
            line.fault = line.fault or "disconnected"
        if line.trouble is not None and raw < _TROUBLED:
            raw, line.fault = _TROUBLED, line.trouble
        if raw == _GOOD:
            line.good_since_s = now_s if line.good_since_s is None else line.good_since_s
            if line.was_bad and now_s - line.good_since_s < self.config.recover_s:
                raw = _RECOVERING
            else:
                line.was_bad = False
        else:
            line.good_since_s = None
            line.was_bad = True
        line.standing = raw

    # --- the choice ----------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Give every symbol the best of its providers."""
        self._choosing = True
        try:
            now_s = self._now_s()
            self._grow()
            if self._regroup:
                self._make_groups()
            for line in self._lines:
                self._stand(line, now_s)
            for lines, ids in list(self._groups.items()):
                self._choose_among(lines, ids, now_s)
        finally:
            self._choosing = False

    def _make_groups(self) -> None:
        self._regroup = False
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, lines in self._candidates.items():
            groups.setdefault(lines, []).append(number)
        self._groups = {lines: np.array(numbers, np.intp) for lines, numbers in groups.items()}
        for ids in self._groups.values():
            new = ids[self._active[ids] == _ANY]
            self._active[new] = _NOBODY
        self._gated = self._gated or bool(self._demands) or any(len(lines) > 1 for lines in self._groups)
        self._needed = None

    def _choose_among(self, lines: tuple[int, ...], ids: Ids, now_s: float) -> None:
        keys = self._active[ids].astype(np.int64) - _NOBODY
        flags = [self._flags(self._lines[line], ids, now_s) for line in lines]
        for column in flags:
            keys = keys * 8 + column
        for key, first in zip(*np.unique(keys, return_index=True), strict=True):
            current = int(self._active[ids[first]])
            marks = [int(column[first]) for column in flags]
            best = self._best(lines, marks, current)
            if best != current:
                mark = marks[lines.index(current)] if current in lines else 0
                self._switch(ids[keys == key], current, best, self._reason(current, mark, best))

    def _flags(self, line: _Line, ids: Ids, now_s: float) -> npt.NDArray[np.int64]:
        flags = (line.muted_until_s[ids] > now_s) * _MUTE
        flags += self._cross.quarantined[line.number, ids] * _OUTLIER
        flags += line.refused[ids] * _REFUSED
        return flags.astype(np.int64)

    def _best(self, lines: tuple[int, ...], marks: Sequence[int], current: int) -> int:
        rank = self._ranks(lines, current)
        standings: dict[int, int] = {}
        for line, mark in zip(lines, marks, strict=True):
            standing = self._lines[line].standing
            if mark & (_OUTLIER | _REFUSED):
                standing = _NEVER
            elif mark & _MUTE or line not in rank:
                standing = max(standing, _TROUBLED)
            standings[line] = standing
        best = min(lines, key=lambda line: (standings[line], rank.get(line, len(lines)), line))
        if standings[best] == _NEVER:
            return _NOBODY
        if current in standings and standings[best] == standings[current] and standings[best] >= _TROUBLED:
            return current  # not from one that is bad to another
        return best

    def _ranks(self, lines: tuple[int, ...], current: int) -> dict[int, int]:
        """Place in the order of those it does not leave out; who streams comes first."""
        if len(lines) == 1:
            return {lines[0]: 0}
        found: list[str] = []
        for streams in (True, False):
            able = [self._lines[line] for line in lines if self._lines[line].streams is streams]
            name = next((line.name for line in able if line.number == current), None)
            for capability in dict.fromkeys(line.capability for line in able):
                names = [line.name for line in able if line.capability == capability]
                found += self._order(capability, names, current=name if name in names else None)
        return {self._by_name[name].number: place for place, name in enumerate(found)}

    def _reason(self, old: int, mark: int, new: int) -> SwitchReason:
        if mark & _REFUSED:
            return "symbol_refused"
        if mark & _OUTLIER:
            return "outlier"
        if old < 0:
            return "preferred"
        line = self._lines[old]
        better = new >= 0 and self._lines[new].standing < line.standing
        if better and line.standing >= _POLLED and line.fault is not None:
            return line.fault
        return "symbol_mute" if mark & _MUTE else "preferred"

    def _switch(self, ids: Ids, old: int, new: int, reason: SwitchReason) -> None:
        known = self._latest.known(ids)
        self._floor_ns[known] = np.maximum(self._floor_ns[known], self._latest.time_event_ns(known))
        self._active[ids] = new
        self._needed = None
        self._gated = self._gated or new == _NOBODY or old >= 0
        names = [self._symbols.names[i] for i in ids.tolist()]
        demanded = [name for name in names if name in self._demands]
        if demanded:
            self._move(demanded, old, new)
        if new >= 0:
            self._show_held(self._lines[new], ids)
        if old == _NOBODY and not len(known):
            return  # the first provider of a symbol follows nobody
        self._tell(
            LiveSwitch(
                old=None if old < 0 else self._lines[old].name,
                new=None if new < 0 else self._lines[new].name,
                reason=reason,
                detail=None if old < 0 or reason == "preferred" else self._lines[old].controller.last_error,
                at_ns=self._clock.time_ns(),
                symbols=tuple(names),
            )
        )

    def _tell(self, switch: LiveSwitch) -> None:
        self.switches.append(switch)
        self._metrics.provider_switches.labels("stream_quotes", switch.new or "none", switch.reason).inc()
        _logger.warning(
            "%s instead of %s for %d symbols: %s%s",
            switch.new,
            switch.old,
            len(switch.symbols),
            switch.reason,
            f" ({switch.detail})" if switch.detail else "",
        )
        if self._on_switch is not None:
            self._on_switch(switch)

    def _needed_of(self, line: int) -> tuple[str, ...]:
        """The symbols that a provider is active for."""
        if self._needed is None:
            names: list[list[str]] = [[] for _ in self._lines]
            for number in self._candidates:
                if self._active[number] >= 0:
                    names[self._active[number]].append(self._symbols.names[number])
            self._needed = [tuple(part) for part in names]
        return self._needed[line]

    # --- symbols on demand ---------------------------------------------------------------------------------

    def acquire(self, symbol: str) -> int:
        """Somebody wants a symbol's quotes: subscribe it if nobody streams it. Returns its number; `release` it as
        often as it was acquired. Raises UnknownSymbol if no provider can have it, InvalidInput if there is no room."""
        number = self._symbols.get(symbol)
        demand = self._demands.get(symbol)
        if demand is None:
            if number is not None and (number in self._candidates or self._is_brought(number)):
                return number
            demand = self._demand(symbol)
            number = self._symbols.get(symbol)
        assert number is not None
        demand.asked += 1
        demand.release_s = None
        return number

    def _is_brought(self, number: int) -> bool:
        """Whether somebody who is not at this desk says something of it."""
        row = self._latest.get(self._symbols.names[number])
        return row is not None and row.source not in self._by_name

    def _demand(self, symbol: str) -> _Demand:
        well_formed = 0 < len(symbol) <= _SYMBOL_LONGEST and symbol.isprintable() and not any(map(str.isspace, symbol))
        lines = tuple(line.number for line in self._lines if well_formed and line.can_have(symbol))
        if not lines:
            raise UnknownSymbol(symbol, self._symbols.near(symbol))
        if len(self._demands) >= self.config.on_demand_max:
            most = f"a symbol that is streamed: {self.config.on_demand_max} are subscribed by request already"
            raise InvalidInput("symbol", symbol, most)
        number = self._symbols.add(symbol)
        self._grow()
        demand = self._demands[symbol] = _Demand()
        self._candidates[number] = lines
        self._active[number] = _NOBODY
        self._regroup = True
        self._prepare([symbol])
        self._choose()
        return demand

    def release(self, symbol: str) -> None:
        """One who acquired a symbol wants it no longer; after the last it stays subscribed for `linger_s`."""
        demand = self._demands.get(symbol)
        if demand is not None and demand.asked:
            demand.asked -= 1
            if not demand.asked:
                demand.release_s = self._now_s() + self.config.linger_s

    def _linger(self, now_s: float) -> None:
        over = [s for s, d in self._demands.items() if d.release_s is not None and now_s >= d.release_s]
        for symbol in over:
            number = self._symbols.add(symbol)
            self._move([symbol], int(self._active[number]), _NOBODY)
            del self._demands[symbol]
            self._unseat(number)

    def _unseat(self, number: int) -> None:
        """A symbol is no longer a matter of this desk."""
        del self._candidates[number]
        self._active[number] = _ANY
        self._cross.forget(np.array([number], np.intp))
        for line in self._lines:
            line.refused[number] = False
            line.muted_until_s[number] = 0.0
        self._regroup = True

    def _move(self, symbols: Sequence[str], old: int, new: int) -> None:
        """Subscribed is only where it is shown from."""
        if old >= 0:
            line = self._lines[old]
            line.controller.wanted.discard(symbols)
            self._door.watched_from(line.name, symbols, None)
        if new >= 0:
            line = self._lines[new]
            line.controller.wanted.add(symbols)
            self._door.watched_from(line.name, symbols, self._clock.time_ns())

    def _refused(self, name: str, symbol: str, detail: str) -> None:
        """A provider says that it does not have a symbol."""
        number = self._symbols.get(symbol)
        line = self._by_name[name]
        if number is None or number not in self._candidates:
            return
        self._grow()
        if not line.refused[number]:
            line.refused[number] = True
            _logger.info("%s does not have %s: %s", name, symbol, detail)
            if self._running and not self._choosing:
                self._choose()

    def _prepare(self, symbols: Sequence[str]) -> None:
        """Learn the hours of symbols, off the loop if a calendar is to be loaded."""
        new = [symbol for symbol in symbols if not self.hours.is_prepared(symbol)]
        if new:
            task = asyncio.get_running_loop().create_task(self._learn_hours(new))
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    async def _learn_hours(self, symbols: Sequence[str]) -> None:
        try:
            await asyncio.to_thread(self.hours.prepare, symbols)
        except Exception:
            _logger.exception("the hours of %d symbols are not known", len(symbols))
            return
        ids = np.array([self._symbols.add(symbol) for symbol in symbols], np.intp)
        self._grow()
        self._venue[ids] = self.hours.numbers(symbols)

    # --- cross-check ---------------------------------------------------------------------------------------

    def _compare(self) -> None:
        now_ns = self._clock.time_ns()
        for lines, ids in self._groups.items():
            if len(lines) < 2:
                continue
            for judged in self._cross.compare(lines, ids, self._values(lines, ids), now_ns):
                self._note_judged(self._lines[judged.line], judged.ids, judged.quarantined, judged.detail, now_ns)

    def _values(self, lines: tuple[int, ...], ids: Ids) -> Values:
        value = np.full((len(lines), len(ids)), np.nan)
        event_ns = np.zeros((len(lines), len(ids)), np.int64)
        received_ns = np.zeros((len(lines), len(ids)), np.int64)
        for row, line in enumerate(lines):
            for table, chosen in (
                (self._lines[line].held, self._active[ids] != line),
                (self._latest, self._active[ids] == line),
            ):
                columns = np.flatnonzero(chosen)
                known = np.isin(ids[columns], table.known(ids[columns]))
                columns = columns[known]
                numbers = ids[columns]
                middle = (table.bid[numbers] + table.ask[numbers]) / 2
                value[row, columns] = np.where(np.isnan(middle), table.last[numbers], middle)
                event_ns[row, columns] = table.time_event_ns(numbers)
                received_ns[row, columns] = table.received_ns[numbers]
        return Values(value=value, event_ns=event_ns, received_ns=received_ns)

    def _note_judged(self, line: _Line, ids: Ids, quarantined: bool, detail: str, now_ns: int) -> None:
        names = [self._symbols.names[i] for i in ids.tolist()]
        told = f"{', '.join(names[:10])}{' and others' if len(names) > 10 else ''}"
        if quarantined:
            _logger.warning("%s is an outlier and set apart for %s: %s", line.name, told, detail)
        else:
            _logger.info("%s is no outlier any more for %s", line.name, told)
        reason = "outlier" if quarantined else "outlier_over"
        said = detail if quarantined else "it agrees again, or there is nobody to compare it with"
        events = [
            Quarantined(source=line.name, time_received_ns=now_ns, reason=reason, detail=said, symbol=name)
            for name in names
        ]
        self._door.take(line.name, events)


def _longer(column: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    grown = np.zeros(size, column.dtype)
    grown[: len(column)] = column
    return grown
