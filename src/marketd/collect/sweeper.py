"""Asks for bars and quotes of the whole universe again and again, each tier at its own cadence.

Owns when which symbol is asked for. A *lane* is a tier and a kind of data (for `eod` also a calendar); its symbols are
spread evenly over the period, at places that every process computes alike from the time alone. After a stall a symbol
is owed once, not once a period, and what is owed is worked off at twice the usual pace. What the fetch functions do is
not known here; longer holes belong to back-fill. To add a kind: a word in `SweepKind`, a cadence, a fetch function.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.calendars import Calendar
from marketd.clock import Clock
from marketd.collect.lease import Lease
from marketd.errors import InvalidInput, MarketDataError, SourceRejected, StoreError
from marketd.model import Instrument, Tier
from marketd.model.time import NS_PER_S
from marketd.telemetry import Metrics

__all__ = ["LaneState", "SweepConfig", "SweepFetch", "SweepKind", "SweepState", "SweepTask", "Sweeper"]

_logger = logging.getLogger(__name__)

SweepKind = Literal["bars_1m", "quotes_l1", "eod"]
"""bars_1m, quotes_l1: every so many seconds while the venue is open. eod: the daily bar, once a session after its
close."""

_KINDS: tuple[SweepKind, ...] = get_args(SweepKind)
_TIERS: tuple[Tier, ...] = get_args(Tier)
_MINUTE_NS = 60 * NS_PER_S
_DAY_NS = 86_400 * NS_PER_S
_REFRESH_S = 60.0
_LOOK_BACK_DAYS = 10
_CATCH_UP = 2.0
_REJECTED_REST_S = 3_600.0


_CADENCE: dict[str, dict[str, float]] = {
    "T0": {"bars_1m": 60, "quotes_l1": 5},
    "T1": {"bars_1m": 300, "quotes_l1": 15},
    "T2": {"eod": 1},
}


class SweepConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """cadence: of each tier, seconds from one time to the next (`bars_1m`, `quotes_l1`), for `eod` 1 for once a
    session; 0 is never, and what is not given is as by default. eod_delay_s: after a close, before the first is asked
    for; eod_spread_s: until the last is. in_flight_max: fetches at the same time. lease_s: a process that dies is
    replaced after so long. pulse_s: how often it is looked what is due.
    """

    enabled: bool = False
    cadence: dict[str, dict[str, float]] = msgspec.field(default_factory=lambda: _CADENCE)
    eod_delay_s: float = 1_800.0
    eod_spread_s: float = 1_800.0
    in_flight_max: int = 32
    lease_s: float = 15.0
    pulse_s: float = 0.25

    def __post_init__(self) -> None:
        for tier, kinds in self.cadence.items():
            if tier not in _TIERS:
                raise InvalidInput("cadence", tier, f"tiers {', '.join(_TIERS)}")
            for kind, value in kinds.items():
                if kind not in _KINDS:
                    raise InvalidInput(f"cadence.{tier}", kind, f"kinds {', '.join(_KINDS)}")
                if kind == "eod" and value not in (0, 1):
                    raise InvalidInput(f"cadence.{tier}.eod", value, "1 for once a session, or 0 for never")
                if kind != "eod" and value != 0 and not 1 <= value <= 86_400:
                    raise InvalidInput(f"cadence.{tier}.{kind}", value, "seconds from 1 to 86400, or 0 for never")
        whole = {tier: _CADENCE[tier] | self.cadence.get(tier, {}) for tier in _TIERS}
        msgspec.structs.force_setattr(self, "cadence", whole)
        for field in ("eod_spread_s", "lease_s", "pulse_s"):
            if not 0 < getattr(self, field) < float("inf"):
                raise InvalidInput(field, getattr(self, field), "a number above 0")
        if not 0 <= self.eod_delay_s < float("inf"):
            raise InvalidInput("eod_delay_s", self.eod_delay_s, "a number from 0")
        if self.in_flight_max < 1:
            raise InvalidInput("in_flight_max", self.in_flight_max, "a whole number from 1")


class SweepTask(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to fetch. Bars with start_ns <= ts < end_ns; for quotes both are the time at which it is due."""

    kind: SweepKind
    symbol: str
    tier: Tier
    start_ns: int
    end_ns: int


SweepFetch = Callable[[SweepTask], Awaitable[str | None]]
"""Fetch and keep; the provider that answered, if one did. Raises SourceError, StoreError."""


class LaneState(msgspec.Struct, frozen=True, kw_only=True):
    """held: this process sweeps it. owed: symbols that are due and were not asked for yet."""

    name: str
    symbols: int
    held: bool
    owed: int


class SweepState(msgspec.Struct, frozen=True, kw_only=True):
    state: Literal["ok", "failing", "stopped"]
    error: str | None
    in_flight: int
    lanes: tuple[LaneState, ...]


_Groups = dict[str, tuple[Tier, SweepKind, str | None, tuple[str, ...]]]
"""Of each lane its tier, kind, calendar (of `eod`) and symbols, by name."""


class _Hours(msgspec.Struct, frozen=True, kw_only=True):
    """Of one calendar, about now. spans: open time, int64 (n, 2); None: not known, so taken for open. label_ns,
    close_ns: of the last session that is over."""

    spans: npt.NDArray[np.int64] | None
    label_ns: int | None = None
    close_ns: int | None = None

    def overlaps(self, start_ns: int, end_ns: int) -> bool:
        """Whether any of the time is open."""
        if self.spans is None:
            return True
        first = int(np.searchsorted(self.spans[:, 1], start_ns, side="right"))
        return first < len(self.spans) and int(self.spans[first, 0]) < end_ns


class _Lane:
    """Turns of the symbols of a tier and kind, numbered without end; the symbol of a turn is turn % symbols."""

    def __init__(
        self, name: str, tier: Tier, kind: SweepKind, period_s: float, calendar: str | None, pulse_s: float
    ) -> None:
        self.name = name
        self.tier = tier
        self.kind = kind
        self.calendar = calendar
        self.symbols: tuple[str, ...] = ()
        self.held_until_ns = 0
        self.owed = 0
        self._period_ns = round(period_s * NS_PER_S)
        self._next: int | None = None
        self._begin_ns = 0
        self._credit = 1.0
        self._pulse_s = pulse_s

    @property
    def period_ns(self) -> int:
        return self._period_ns

    def set_symbols(self, symbols: tuple[str, ...]) -> None:
        if symbols != self.symbols:
            self.symbols = symbols
            if self.kind != "eod":
                self._next = None

    def begin(self, begin_ns: int) -> None:
        """A round of `eod` starts at a time; the same time again changes nothing."""
        if begin_ns != self._begin_ns:
            self._begin_ns, self._next = begin_ns, 0

    def forget(self) -> None:
        """Somebody else has it."""
        self._next, self._begin_ns, self._credit, self.owed = None, 0, 1.0, 0

    def due(self, now_ns: int, elapsed_s: float, room: int) -> list[str]:
        """Whose turn it is, at most `room`; and for what is owed at most twice the usual pace."""
        count = len(self.symbols)
        if not count:
            return []
        if self.kind == "eod":
            if not self._begin_ns or now_ns < self._begin_ns:
                return []
            reached = min(count, (now_ns - self._begin_ns) * count // self._period_ns + 1)
            first = self._next or 0
        else:
            reached = now_ns * count // self._period_ns
            first = reached if self._next is None else max(self._next, reached - count)
        per_s = count * NS_PER_S / self._period_ns
        # What is saved up lasts for a pulse, or a second, and one turn more.
        saved_max = 1.0 + _CATCH_UP * per_s * max(1.0, self._pulse_s)
        self._credit = min(self._credit + _CATCH_UP * per_s * elapsed_s, saved_max)
        taken = max(0, min(reached - first, room, int(self._credit)))
        self._credit -= taken
        self._next = first + taken
        self.owed = max(0, reached - self._next)
        return [self.symbols[turn % count] for turn in range(first, self._next)]


class Sweeper:
    """members: the universe as it is. calendar_of: a symbol's; may raise InvalidInput, then it counts as open. fetch:
    by kind; a kind without one is not swept. Both of the first are called in a thread.
    """

    def __init__(
        self,
        config: SweepConfig,
        clock: Clock,
        *,
        members: Callable[[], Sequence[Instrument]],
        calendar_of: Callable[[str], Calendar],
        fetch: Mapping[SweepKind, SweepFetch],
        lease: Lease,
        metrics: Metrics | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._members = members
        self._calendar_of = calendar_of
        self._fetch = fetch
        self._lease = lease
        self._metrics = metrics or Metrics()
        self._lanes: dict[str, _Lane] = {}
        self._hours: dict[str, _Hours] = {}
        self._calendar_by_symbol: dict[str, str] = {}
        self._fetched_ns: dict[str, int] = {}
        self._rests_ns: dict[tuple[str, SweepKind], int] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._busy: set[tuple[str, SweepKind]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._error: str | None = None
        self._lease_error: str | None = None
        self._fetch_error: str | None = None

    def start(self) -> None:
        """Nothing happens unless the configuration enables it."""
        if self._config.enabled:
            self._tasks = [
                asyncio.create_task(self._run(), name="sweeper"),
                asyncio.create_task(self._refresh(), name="sweeper-refresh"),
            ]

    async def stop(self) -> None:
        """Stop at once and let others have the lanes. Idempotent."""
        tasks, self._tasks = [*self._tasks, *self._in_flight], []
        for running in tasks:
            running.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in self._lanes.values():
            if lane.held_until_ns:
                lane.held_until_ns = 0
                try:
                    await self._lease.release(lane.name)
                except StoreError as error:
                    self._error = str(error)

    @property
    def state(self) -> SweepState:
        error = self._error or self._lease_error or self._fetch_error
        now_ns = self._clock.monotonic_ns()
        return SweepState(
            state="stopped" if not self._tasks else "ok" if error is None else "failing",
            error=error,
            in_flight=len(self._in_flight),
            lanes=tuple(
                LaneState(name=lane.name, symbols=len(lane.symbols), held=lane.held_until_ns > now_ns, owed=lane.owed)
                for lane in self._lanes.values()
            ),
        )

    # --- the loop -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        pulsed_ns = self._clock.monotonic_ns()
        while True:
            now_ns = self._clock.monotonic_ns()
            try:
                await self._pulse((now_ns - pulsed_ns) / NS_PER_S)
            except Exception:
                _logger.exception("a defect in the sweeper; it goes on")
            pulsed_ns = now_ns
            await self._clock.sleep(self._config.pulse_s)

    async def _refresh(self) -> None:
        """Lanes, symbols and hours as they are, once a minute; what goes on meanwhile goes on with the last."""
        while True:
            try:
                groups, hours, calendars = await asyncio.to_thread(self._look)
                self._set(groups, hours, calendars)
                self._error = None
            except MarketDataError as error:
                self._error = str(error)
            except Exception as error:
                _logger.exception("a defect in reading the universe; the sweeper goes on with the last")
                self._error = f"{type(error).__name__}: {error}"
            await self._clock.sleep(_REFRESH_S)

    def _set(self, groups: _Groups, hours: dict[str, _Hours], calendars: dict[str, str]) -> None:
        self._hours, self._calendar_by_symbol = hours, calendars
        for name, (tier, kind, calendar, symbols) in groups.items():
            lane = self._lanes.get(name)
            if lane is None:
                period_s = self._config.eod_spread_s if kind == "eod" else self._config.cadence[tier][kind]
                lane = _Lane(name, tier, kind, period_s, calendar, self._config.pulse_s)
                self._lanes[name] = lane
            lane.set_symbols(symbols)
        for name in self._lanes.keys() - groups.keys():
            self._lanes[name].set_symbols(())

    def _look(self) -> tuple[_Groups, dict[str, _Hours], dict[str, str]]:
        now_ns = self._clock.time_ns()
        last = float("inf")
        members = [i for i in self._members() if i.active]
        members.sort(key=lambda i: (last if i.rank is None else i.rank, i.symbol))
        hours: dict[str, _Hours] = {}
        calendars: dict[str, str] = {}
        for instrument in members:
            try:
                calendar = self._calendar_of(instrument.symbol)
            except InvalidInput:
                calendars[instrument.symbol] = ""
                hours.setdefault("", _Hours(spans=None))
                continue
            calendars[instrument.symbol] = calendar.name
            if calendar.name not in hours:
                hours[calendar.name] = _hours(calendar, now_ns, round(self._config.eod_delay_s * NS_PER_S))
        groups: _Groups = {}
        for tier in _TIERS:
            symbols = tuple(i.symbol for i in members if i.tier == tier)
            for kind in _KINDS:
                if kind not in self._fetch or not self._config.cadence.get(tier, {}).get(kind):
                    continue
                if kind != "eod":
                    groups[f"{tier}:{kind}"] = tier, kind, None, symbols
                    continue
                for calendar_name in hours:
                    theirs = tuple(s for s in symbols if calendars[s] == calendar_name)
                    if theirs and calendar_name:
                        groups[f"{tier}:eod:{calendar_name}"] = tier, kind, calendar_name, theirs
        return groups, hours, calendars

    async def _pulse(self, elapsed_s: float) -> None:
        for lane in list(self._lanes.values()):
            if not lane.symbols or not await self._holds(lane):
                continue
            if not lane.symbols:  # they went while the lease was asked for
                continue
            now_ns = self._clock.time_ns()
            if lane.calendar is not None:
                hours = self._hours[lane.calendar]
                if hours.close_ns is not None:
                    lane.begin(hours.close_ns + round(self._config.eod_delay_s * NS_PER_S))
            room = self._config.in_flight_max - len(self._in_flight)
            for symbol in lane.due(now_ns, elapsed_s, room):
                self._begin(lane, symbol, now_ns)

    async def _holds(self, lane: _Lane) -> bool:
        """Whether the lane is ours now. What counts is the time before it was asked for."""
        now_ns = self._clock.monotonic_ns()
        if lane.held_until_ns - now_ns < self._config.lease_s / 2 * NS_PER_S:
            try:
                is_ours = await self._lease.hold(lane.name, self._config.lease_s)
                self._lease_error = None
            except StoreError as error:
                self._lease_error = str(error)
                is_ours = False
                if lane.held_until_ns > self._clock.monotonic_ns():
                    return True
            if is_ours:
                lane.held_until_ns = now_ns + round(self._config.lease_s * NS_PER_S)
            else:
                lane.held_until_ns = 0
                lane.forget()
        return lane.held_until_ns > self._clock.monotonic_ns()

    # --- a fetch ------------------------------------------------------------------------------------------

    def _begin(self, lane: _Lane, symbol: str, now_ns: int) -> None:
        key = symbol, lane.kind
        if key in self._busy or self._rests_ns.get(key, 0) > now_ns:
            return
        task = self._task_of(lane, symbol, now_ns)
        if task is None:
            return
        self._busy.add(key)
        running = asyncio.create_task(self._work(task), name=f"sweep-{lane.kind}-{symbol}")
        self._in_flight.add(running)
        running.add_done_callback(self._in_flight.discard)

    def _task_of(self, lane: _Lane, symbol: str, now_ns: int) -> SweepTask | None:
        """What to fetch; None where the venue has been closed since the last time."""
        hours = self._hours[self._calendar_by_symbol[symbol]]
        if lane.kind == "eod":
            assert hours.label_ns is not None
            start_ns, end_ns = hours.label_ns, hours.label_ns + _DAY_NS
        elif lane.kind == "quotes_l1":
            start_ns = end_ns = now_ns
            if not hours.overlaps(now_ns, now_ns + 1):
                return None
        else:
            # The bar before the last fetch is asked for again: providers finish their bars late.
            end_ns = now_ns - now_ns % _MINUTE_NS
            reach_ns = end_ns - max(2 * lane.period_ns, 5 * _MINUTE_NS)
            start_ns = max(self._fetched_ns.get(symbol, 0) - _MINUTE_NS, reach_ns)
            start_ns -= start_ns % _MINUTE_NS
            if start_ns >= end_ns or not hours.overlaps(start_ns, end_ns):
                return None
        return SweepTask(kind=lane.kind, symbol=symbol, tier=lane.tier, start_ns=start_ns, end_ns=end_ns)

    async def _work(self, task: SweepTask) -> None:
        key = task.symbol, task.kind
        try:
            provider = await self._fetch[task.kind](task)
            self._metrics.jobs_processed.labels(task.kind, provider or "none").inc()
            if task.kind == "bars_1m":
                self._fetched_ns[task.symbol] = task.end_ns
            self._rests_ns.pop(key, None)
            self._fetch_error = None
        except Exception as error:
            self._metrics.jobs_failed.labels(task.kind, type(error).__name__).inc()
            self._fetch_error = f"{task.kind} of {task.symbol}: {error}"
            if isinstance(error, SourceRejected):
                self._rests_ns[key] = self._clock.time_ns() + round(_REJECTED_REST_S * NS_PER_S)
                _logger.warning("%s; asked again in an hour", self._fetch_error)
            elif not isinstance(error, MarketDataError):
                _logger.exception("a defect in fetching %s of %s; the sweeper goes on", task.kind, task.symbol)
        finally:
            self._busy.discard(key)


def _hours(calendar: Calendar, now_ns: int, eod_delay_ns: int) -> _Hours:
    low, high = calendar.covers
    try:
        spans = calendar.open_spans(max(now_ns - 2 * _DAY_NS, low), min(now_ns + 2 * _DAY_NS, high))
        first_ns = max(now_ns - _LOOK_BACK_DAYS * _DAY_NS, low)
        sessions = calendar.sessions(first_ns, min(now_ns + 2 * _DAY_NS, high))
    except InvalidInput:
        return _Hours(spans=None)
    over = np.flatnonzero(sessions.close_ns + eod_delay_ns <= now_ns)
    if not over.size:
        return _Hours(spans=spans)
    last = int(over[-1])
    return _Hours(spans=spans, label_ns=int(sessions.label_ns[last]), close_ns=int(sessions.close_ns[last]))
