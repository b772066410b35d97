"""Keeps one provider's quotes coming: by its stream, and by request while the stream is of no use.

Owns the mode (`streams.StreamMode`) and what leads from one to another. The stream reconnects by itself
(`sources.reconnect`); here it is judged: lost or mute, its symbols are polled until it ticks again. After
`reconnect_attempts` failures in a row it rests until `ask` or the next session. What was missed meanwhile is asked for
by `backfill`. Which symbols are polled, and what becomes of the quotes, is not decided here.

    STREAM ──lost, mute──▶ POLL ──first tick──▶ STREAM
       │ (nothing to poll)   └──requests refused for good──▶ as without them
       └──out of attempts──▶ RESTING ──ask, next session──▶ STREAM
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np

from marketd.clock import Clock
from marketd.collect.hours import Hours
from marketd.collect.runner import SourceRunner
from marketd.collect.silence import Silence
from marketd.collect.streams import StreamMode, StreamsConfig, SwitchReason
from marketd.errors import (
    MarketClosed,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import Connected, Disconnected, Quarantined, Quote, SourceEvent, TickBatch, Trade, format_ns
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.sources.contract import Capability, QuoteRequest, Source, Subscriptions

__all__ = ["Report", "StreamController", "StreamHealth"]

_logger = logging.getLogger(__name__)

_ONE = np.zeros(1, np.intp)
_OF_ONE_SYMBOL = (SymbolNotFound, OutOfRange, MarketClosed)
_POLL_DELAY_MAX_S = 60.0
_POLL_DELAY_FIRST_S = 1.0


class StreamHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's live feed now. connected: its stream is up and not mute. stale: no tick for longer than
    `stale_threshold_s` while a venue of its symbols is open. last_tick_ts: receive time of the last one, streamed or
    polled, RFC 3339. subscriptions: symbols. reconnect_attempts: failures in a row."""

    provider: str
    connected: bool
    mode: StreamMode
    stale: bool
    stale_threshold_s: float
    last_tick_ts: str | None
    subscriptions: int
    reconnect_attempts: int
    last_error: str | None


class Report(Protocol):
    """Told of every outcome: `routing.Router.report`. error: None if it went well. latency_s: of an answer."""

    def __call__(
        self, provider: str, capability: Capability, error: SourceError | None, latency_s: float | None, /
    ) -> None: ...


class StreamController:
    """source, quotes: what the provider has of both, at least one. hours: of its symbols.

    take: the pipeline's door for what the stream says; take_polled: for quotes that were asked for. connected: whether
    the pipeline holds the stream for connected. on_change: called after the mode, its cause or the connection changed.
    needed: which symbols to poll, by default all that are wanted. on_refused: called with a symbol that the provider
    says it does not have. backfill: called with the symbols and since when they were missed. report: see `Report`.
    ready: see `SourceRunner`. renew: makes another source of the same kind, since one streams only once; without it a
    mute stream is left to its own watchdog, and a rejected one stays so.

    Everything runs on the loop. `look` is called a few times a second by the owner.
    """

    def __init__(
        self,
        name: str,
        config: StreamsConfig,
        clock: Clock,
        *,
        wanted: Subscriptions,
        hours: Hours,
        take: Callable[[str, Sequence[SourceEvent]], None],
        take_polled: Callable[[str, TickBatch], None],
        connected: Callable[[], bool],
        on_change: Callable[[StreamController], None],
        source: Source | None = None,
        quotes: QuoteRequest | None = None,
        needed: Callable[[], Sequence[str]] | None = None,
        on_refused: Callable[[str, str], None] | None = None,
        backfill: Callable[[Sequence[str], int], None] | None = None,
        report: Report | None = None,
        ready: Callable[[], Awaitable[None]] | None = None,
        renew: Callable[[], Source] | None = None,
    ) -> None:
        if source is None and quotes is None:
            raise ValueError(f"{name} neither streams nor answers requests for quotes")
        self.name = name
        self.wanted = wanted
        self.mode: StreamMode = "OFF"
        self.cause: SwitchReason | None = None
        """Why the stream is of no use, None if it is of use (or there is none)."""
        self.attempts = 0
        """Failures of the stream in a row."""
        self.last_error: str | None = None
        self.last_tick_ns: int | None = None
        """Receive time of the last tick."""
        self.polled_well = False
        """Whether the last poll brought quotes; False before the first."""
        self.poll_error: SourceError | None = None
        """Why the last poll failed."""
        self.poll_again_s = 0.0
        """When the next poll is due after one that failed, on the monotonic clock."""
        self._config = config
        self._clock = clock
        self._hours = hours
        self._quotes = quotes
        self._take_downstream = take
        self._take_polled = take_polled
        self._connected = connected
        self._on_change = on_change
        self._needed = needed or (lambda: wanted.symbols)
        self._on_refused = on_refused
        self._backfill = backfill
        self._report = report
        self._ready = ready
        self._renew = renew
        self._capability: Capability = "stream_quotes"
        self.runner: SourceRunner | None = None
        if source is not None:
            self.runner = self._runner_of(source)
            wanted.attempts = config.reconnect_attempts
        self._running = False
        self._poller: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._polling = asyncio.Event()
        self._poll_began_ns: int | None = None
        self._poll_refused = False
        self._poll_failures = 0
        self._down = False  # the stream is of no use until it ticks
        self._mute = False  # it is connected all the same
        self._was_connected = False
        self._ticked = False
        self._hole_ns: int | None = None
        self._tried_ns = 0
        self._rest_until_ns: int | None = None
        floor_s = config.stream_health_timeout_s
        self._silence = Silence(
            factor=config.mute_factor,
            floor_s=floor_s,
            cap_s=max(config.mute_cap_s, floor_s),
            half_life_s=config.mute_half_life_s,
            least_gaps=config.mute_least_gaps,
        )
        self._silence.grow(1)

    def _runner_of(self, source: Source) -> SourceRunner:
        can = source.capabilities
        self._capability = "stream_quotes" if can.stream_quotes or not can.stream_trades else "stream_trades"
        return SourceRunner(
            source,
            self.wanted,
            take=self._take,
            connected=self._connected,
            on_change=self._runner_changed,
            ready=self._ready,
            clock=self._clock,
        )

    # --- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._running = True
        self._tried_ns = self._clock.monotonic_ns()
        if self._quotes is not None:
            self._poller = asyncio.create_task(self._poll(), name=f"poll-{self.name}")
        if self.runner is not None:
            self.runner.start()
        self._settle()

    async def stop(self) -> None:
        """End the stream and the polling, and release what they hold."""
        self._running = False
        tasks = [task for task in (self._poller, self._renewal) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.runner is not None:
            await self.runner.stop()
        self._settle()

    def ask(self) -> None:
        """Try again what was given up: a stream that rests or was rejected, requests that were refused."""
        self._poll_refused = False
        self.wanted.ask()
        if self.runner is not None and self.runner.state in ("rejected", "failed"):
            self._renew_stream()
        self._settle()

    async def replace(self, source: Source | None, quotes: QuoteRequest | None) -> None:
        """Go on with these, made with other settings (a key, for one): what the old ones were refused is forgotten."""
        if self._quotes is not None and quotes is not None:
            self._quotes = quotes
        self._poll_refused, self.poll_error, self.poll_again_s = False, None, 0.0
        if self.runner is not None and source is not None:
            await self._replace(lambda: source)
        self._settle()

    # --- how it is -----------------------------------------------------------------------------------------

    @property
    def streams_well(self) -> bool:
        """The stream is up and says something."""
        return self.mode == "STREAM" and self._connected() and not self._down

    @property
    def fault(self) -> SwitchReason | None:
        """Why its quotes do not come, or do not come by its stream; None if all is well."""
        return self.cause if self.poll_error is None else _cause_of(self.poll_error)

    @property
    def starting(self) -> bool:
        """The stream was not heard of yet."""
        return self.mode == "STREAM" and not self._was_connected and not self._down

    @property
    def poll_age_s(self) -> float:
        """For how long the poll under way has been, 0 if none is."""
        if self._poll_began_ns is None:
            return 0.0
        return (self._clock.monotonic_ns() - self._poll_began_ns) / NS_PER_S

    def health(self) -> StreamHealth:
        now_ns = self._clock.time_ns()
        threshold_s = self._config.stream_health_timeout_s
        silent = self.last_tick_ns is None or now_ns - self.last_tick_ns > threshold_s * NS_PER_S
        return StreamHealth(
            provider=self.name,
            connected=self._connected() and not self._mute,
            mode=self.mode,
            stale=silent and self._hours.any_open(self.wanted.symbols, now_ns),
            stale_threshold_s=threshold_s,
            last_tick_ts=None if self.last_tick_ns is None else format_ns(self.last_tick_ns),
            subscriptions=len(self.wanted.symbols),
            reconnect_attempts=self.attempts,
            last_error=self.last_error,
        )

    # --- what the stream says ------------------------------------------------------------------------------

    def _take(self, name: str, events: Sequence[SourceEvent]) -> None:
        ticked = signalled = False
        refused: list[tuple[str, str]] = []
        for event in events:
            match event:
                case TickBatch() | Quote() | Trade():
                    ticked = True
                    self.attempts = 0
                case Connected():
                    signalled = True
                    self._up(event)
                case Disconnected():
                    signalled = True
                    self._lost(event)
                case Quarantined(reason="unknown_symbol", symbol=str() as symbol, detail=detail):
                    refused.append((symbol, detail))
                case _:
                    pass
        if ticked:
            self.last_tick_ns = self._clock.time_ns()
            self._ticked = True
            if self._mute:
                self._mute = False
                if self._quotes is not None:
                    back = Connected(source=name, time_received_ns=self.last_tick_ns)
                    self._take_downstream(name, [back])
                self._ask_for_hole()
        self._take_downstream(name, events)
        if self._down and ticked and self._connected():
            self._down, self.cause = False, None
            signalled = True
        if signalled:
            self._settle(told=True)
        if self._on_refused is not None:
            for symbol, detail in refused:
                self._on_refused(symbol, detail)

    def _up(self, event: Connected) -> None:
        self._mute = False
        self._silence.restart(self._now_s())
        self._silence.watch(_ONE, self._now_s())
        self._tried_ns = self._clock.monotonic_ns()
        if self._was_connected or self._down:
            self._ask_for_hole()
        self._was_connected = True
        is_open = self._hours.any_open(self.wanted.symbols, event.time_received_ns)
        if self._down and (self._quotes is None or not is_open):
            self._down, self.cause = False, None  # nothing better to wait for a tick with

    def _lost(self, event: Disconnected) -> None:
        self.attempts += 1
        self.last_error = event.reason
        self._fail("disconnected", SourceUnavailable(self.name, event.reason), event.time_received_ns)

    def _fail(self, cause: SwitchReason, error: SourceError, since_ns: int) -> None:
        self._down, self.cause = True, cause
        if self._hole_ns is None:
            self._hole_ns = since_ns if self._was_connected else None
        if self._report is not None:
            self._report(self.name, self._capability, error, None)

    def _runner_changed(self, runner: SourceRunner) -> None:
        if runner.state in ("rejected", "failed"):
            error = runner.error
            cause: SwitchReason = "not_entitled" if isinstance(error, NotEntitled) else "rejected"
            if not isinstance(error, SourceError):
                error = SourceRejected(self.name, runner.reason or runner.state)
            self.last_error = runner.reason
            self._fail(cause, error, self._clock.time_ns())
        self._settle(told=True)

    # --- the mode ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Judge the stream by the time that passed."""
        if not self._running or self.runner is None:
            return
        now_ns = self._clock.time_ns()
        is_open = self._hours.any_open(self.wanted.symbols, now_ns)
        if self._ticked:
            self._ticked = False
            self._silence.mark(_ONE)
        self._silence.fold(self._now_s(), None if is_open else np.ones(len(self._silence), np.bool_))
        if is_open and not self._mute:
            self._judge_silence(now_ns)
        self._mind_rest(now_ns)
        waited_ns = self._clock.monotonic_ns() - self._tried_ns
        if self._mute and self.mode != "STREAM" and waited_ns >= self._config.poll_fallback_duration_s * NS_PER_S:
            self._tried_ns = self._clock.monotonic_ns()
            self._renew_stream()
        self._settle()

    def _judge_silence(self, now_ns: int) -> None:
        timeout_s = self._config.stream_health_timeout_s
        if not self._connected():
            waited_s = (self._clock.monotonic_ns() - self._tried_ns) / NS_PER_S
            if not self._was_connected and not self._down and waited_s >= timeout_s:
                reason = f"not connected after {timeout_s:g} s"
                self.last_error = reason
                self._fail("disconnected", SourceUnavailable(self.name, reason), now_ns)
            return
        silent_s = float(self._silence.silent_s(self._now_s())[0])
        limit_s = float(self._silence.limit_s()[0]) if self._silence.is_known()[0] else timeout_s
        if not silent_s >= limit_s:
            return
        reason = f"connected, but no tick for {silent_s:.1f} s"
        self.last_error = reason
        self._mute = True
        self._tried_ns = self._clock.monotonic_ns()
        lost = Disconnected(source=self.name, time_received_ns=now_ns, reason=reason)
        self._fail("mute", SourceUnavailable(self.name, reason), now_ns - round(silent_s * NS_PER_S))
        if self._quotes is not None:
            self._take_downstream(self.name, [lost])  # or its minutes would pass for watched

    def _mind_rest(self, now_ns: int) -> None:
        given_up = self.runner is not None and self.runner.state in ("rejected", "failed")
        if not self.wanted.resting and not given_up:
            self._rest_until_ns = None
        elif self._rest_until_ns is None:
            self._rest_until_ns = self._hours.next_session_ns(self.wanted.symbols, now_ns)
        elif now_ns >= self._rest_until_ns:
            self._rest_until_ns = None
            self.ask()

    def _wanted_mode(self) -> StreamMode:
        if not self._running:
            return "OFF"
        can_stream = self.runner is not None and self.runner.state not in ("rejected", "failed", "ended")
        if can_stream and not self._down:
            return "STREAM"
        if self._quotes is not None and not self._poll_refused:
            return "POLL"
        if not can_stream:
            return "OFF"
        return "RESTING" if self.wanted.resting else "STREAM"

    def _settle(self, *, told: bool = False) -> None:
        """Go over to the mode that is due. told: something else has changed that the owner must know."""
        before, self.mode = self.mode, self._wanted_mode()
        if self.mode == "POLL":
            self._polling.set()
        else:
            self._polling.clear()
        if before == self.mode:
            if told:
                self._on_change(self)
            return
        if before != "OFF" and self.mode != "OFF":
            _logger.info("source %s: %s instead of %s (%s)", self.name, self.mode, before, self.last_error or "back")
            if self._hole_ns is not None:
                self._ask_for_hole(forget=False)
        if self.mode == "STREAM":
            self.polled_well, self.poll_error = False, None
        self._on_change(self)

    def _ask_for_hole(self, *, forget: bool = True) -> None:
        """What was missed until now; without `forget` it goes on being missed."""
        since_ns = self._hole_ns
        if since_ns is None:
            since_ns = self._clock.time_ns() - round(self._config.backfill_s * NS_PER_S)
        if forget:
            self._hole_ns = None
        if self._config.backfill_on_reconnect and self._backfill is not None:
            self._backfill(self.wanted.symbols, since_ns)

    def _renew_stream(self) -> None:
        if self._renew is None or self.runner is None or (self._renewal is not None and not self._renewal.done()):
            return
        self._renewal = asyncio.create_task(self._replace(self._renew), name=f"renew-{self.name}")

    async def _replace(self, renew: Callable[[], Source]) -> None:
        assert self.runner is not None
        await self.runner.stop()
        try:
            source = renew()
        except Exception as error:
            _logger.exception("source %s cannot be made anew", self.name)
            self.last_error = f"{type(error).__name__}: {error}"
            return
        self.runner = self._runner_of(source)
        self.runner.start()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS_PER_S

    # --- polling -------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """One round after another while the mode is POLL; failures are spread out."""
        interval_s = self._config.poll_interval_ms * NS_PER_MS / NS_PER_S
        while True:
            await self._polling.wait()
            now_ns = self._clock.time_ns()
            symbols = [symbol for symbol in self._needed() if self._hours.is_open(symbol, now_ns)]
            began_ns = self._clock.monotonic_ns()
            if symbols:
                await self._poll_once(symbols)
            delay_s = 0.0 if self.poll_error is None else self.poll_again_s - self._now_s()
            took_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
            await self._clock.sleep(max(interval_s - took_s, delay_s, interval_s / 10))

    async def _poll_once(self, symbols: Sequence[str]) -> None:
        assert self._quotes is not None
        self._poll_began_ns = began_ns = self._clock.monotonic_ns()
        error: SourceError | None = None
        try:
            answers = await self._quotes.quotes(symbols)
        except SourceError as failure:
            error = failure
        except Exception as failure:
            _logger.exception("polling %s failed", self.name)
            error = SourceUnavailable(self.name, f"{type(failure).__name__}: {failure}")
        finally:
            self._poll_began_ns = None
        latency_s = (self._clock.monotonic_ns() - began_ns) / NS_PER_S
        if self._report is not None:
            self._report(self.name, "quotes_l1", error, latency_s if error is None else None)
        changed = (error is None) != self.polled_well or type(error) is not type(self.poll_error)
        self.poll_error, self.polled_well = error, error is None
        if error is not None:
            self.last_error = error.reason
            self._poll_failures += 1
            self.poll_again_s = self._now_s() + _delay_s(error, self._poll_failures)
            self._poll_refused = isinstance(error, SourceRejected) and not isinstance(error, _OF_ONE_SYMBOL)
        else:
            self._poll_failures = 0
            self._polled(answers)
        self._settle(told=changed)

    def _polled(self, answers: Mapping[str, Quote | SourceError]) -> None:
        quotes = [answer for answer in answers.values() if isinstance(answer, Quote)]
        if quotes:
            self.last_tick_ns = self._clock.time_ns()
            self._take_polled(self.name, TickBatch.from_events(quotes))
        if self._on_refused is not None:
            for symbol, answer in answers.items():
                if isinstance(answer, SymbolNotFound):
                    self._on_refused(symbol, answer.reason)


def _cause_of(error: SourceError) -> SwitchReason:
    match error:
        case NotEntitled():
            return "not_entitled"
        case SourceRejected():
            return "rejected"
        case Throttled():
            return "throttled"
        case _:
            return "failing"


def _delay_s(error: SourceError, failures: int) -> float:
    """Until the next poll after so many failures in a row: as the provider says, else ever longer."""
    told_s = error.retry_after_s if isinstance(error, SourceUnavailable) else None
    grown_s = min(_POLL_DELAY_FIRST_S * 2.0 ** min(failures - 1, 16), _POLL_DELAY_MAX_S)
    return grown_s if told_s is None else told_s
