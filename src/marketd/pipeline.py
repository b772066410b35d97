"""The path of one batch, in one screen: what a source says comes in, and this is all that happens to it.

normalise → validate → dedupe → gate → sequence → latest values → subscribers and cache → bars. Synchronous and without
I/O; durable writing and publishing of closed bars is the `BarWriter`'s work. Bars that were fetched or imported come in
by `HistoryWriter`, which tells here what was refused.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.fanout.hub import Hub
from marketd.fanout.latest import LatestTable
from marketd.ingest.bar_checks import CheckedBars
from marketd.ingest.bars import BarBatch, BarBuilder, BarConfig
from marketd.ingest.dedupe import Deduper
from marketd.ingest.sequence import Sequencer
from marketd.ingest.symbols import SymbolTable
from marketd.ingest.validate import CROSSED, LOCKED, REASONS, ValidationConfig, Validator, book_marks
from marketd.model import (
    TRADE,
    Connected,
    Disconnected,
    Ended,
    Interval,
    MarketState,
    Quarantined,
    Quote,
    Side,
    SourceEvent,
    TickBatch,
    Trade,
)
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.telemetry import Metrics

__all__ = ["Pipeline", "SourceState"]

Ids = npt.NDArray[np.intp]

_QUARANTINE_KEPT = 1_000


class SourceState:
    """What the pipeline knows of one source. event_time: its clock is the recording's, not ours."""

    def __init__(self, name: str, builder: BarBuilder, *, event_time: bool) -> None:
        self.name = name
        self.builder = builder
        self.event_time = event_time
        self.connected = False
        self.ended = False
        self.reason: str | None = None
        self.disconnects = 0
        self.ticks = 0
        self.accepted = 0
        self.quarantined: Counter[str] = Counter()
        self.newest_event_ns = 0


class Pipeline:
    """Takes batches from any number of sources. All calls on the event loop's thread."""

    def __init__(
        self,
        clock: Clock,
        *,
        hub: Hub | None = None,
        latest: LatestTable | None = None,
        sequencer: Sequencer | None = None,
        validation: ValidationConfig | None = None,
        bars: BarConfig | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.clock = clock
        self.latest = latest or LatestTable(SymbolTable())
        self.symbols = self.latest.symbols
        self.sequencer = sequencer or Sequencer()
        self.sources: dict[str, SourceState] = {}
        self.quarantine: deque[Quarantined] = deque(maxlen=_QUARANTINE_KEPT)
        self.history_quarantined: Counter[str] = Counter()
        """Refused bars of history, by provider."""
        self.market_states: dict[str, MarketState] = {}
        """What providers last said of a symbol's market."""
        self.on_accepted: list[Callable[[TickBatch, Ids], None]] = []
        """Called with each batch of accepted rows and the numbers of the symbols whose latest value changed."""
        self.gate: Callable[[str, TickBatch, Ids], npt.NDArray[np.bool_] | None] | None = None
        """Asked with each batch of accepted rows of a source and their symbols' numbers which of them are shown; None
        for all. What is not shown is in its source's bars all the same."""
        self._hub = hub
        self._metrics = metrics or Metrics()
        self._bar_config = bars or BarConfig()
        self._validation = validation or ValidationConfig()
        self._validators: dict[str, Validator] = {}
        self._dedupers: dict[str, Deduper] = {}
        self._has_trades = np.zeros(0, np.bool_)
        self._closed_second: int | None = None

    def add_source(self, name: str, *, event_time: bool = False) -> SourceState:
        """Announce a source. event_time: its bars close by its own event times (a recording), not by our clock."""
        state = SourceState(name, BarBuilder(name, self._bar_config), event_time=event_time)
        self.sources[name] = state
        self._validators[name] = Validator(self._validation)
        self._dedupers[name] = Deduper()
        self._metrics.source_up.labels(name).set(0)
        return state

    def take(self, source: str, events: Sequence[SourceEvent]) -> None:
        """One batch of events of a source, in the order they came."""
        state = self.sources[source]
        singles: list[Quote | Trade] = []
        for event in events:
            if isinstance(event, Quote | Trade):
                singles.append(event)
                continue
            if singles:
                self._accept(state, TickBatch.from_events(singles))
                singles = []
            match event:
                case TickBatch():
                    self._accept(state, event)
                case Connected():
                    self._connected(state, event)
                case Disconnected():
                    self._disconnected(state, event)
                case Quarantined():
                    self._set_apart(state, event)
                case MarketState():
                    self.market_states[event.symbol] = event
                case Ended():
                    state.connected, state.ended, state.reason = False, True, "the recording has ended"
                    self._metrics.source_up.labels(source).set(0)
                    state.builder.finish()
        if singles:
            self._accept(state, TickBatch.from_events(singles))

    def take_asked(self, source: str, quote: Quote) -> None:
        """One quote that was asked for. It makes no bars: what is seen now and then is no bar."""
        self._accept(self.sources[source], TickBatch.from_events([quote]), builds=False)

    def take_polled(self, source: str, batch: TickBatch) -> None:
        """Quotes that were asked for, many at once; else as `take_asked`."""
        self._accept(self.sources[source], batch, builds=False)

    def show(self, batch: TickBatch) -> None:
        """Rows that were accepted before and not shown (`gate`): now they are."""
        ids = self.symbols.translate(batch.symbols, batch.symbol_index)
        self._show(batch, ids, book_marks(batch))

    def watched_from(self, source: str, symbols: Iterable[str], time_ns: int | None) -> None:
        """The source sees every tick of these symbols from then on; None: from now on it does not."""
        self.sources[source].builder.watched_from(symbols, time_ns)

    def _accept(self, state: SourceState, batch: TickBatch, *, builds: bool = True) -> None:
        received = len(batch)
        state.ticks += received
        self._metrics.ticks_received.labels(state.name).inc(received)
        ids = self.symbols.translate(batch.symbols, batch.symbol_index)
        reasons, marks = self._validators[state.name].check(batch, ids)
        if reasons is not None:
            self._refuse(state, batch, reasons)
            good = reasons == 0
            batch, ids, marks = batch.take(good), ids[good], marks[good]
        repeated = self._dedupers[state.name].duplicates(batch, ids)
        if repeated is not None:
            count = int(repeated.sum())
            state.quarantined["duplicate"] += count
            self._metrics.ticks_quarantined.labels(state.name, "duplicate").inc(count)
            batch, ids, marks = batch.take(~repeated), ids[~repeated], marks[~repeated]
        count = len(batch)
        if not count:
            return
        state.accepted += count
        self._metrics.ticks_accepted.labels(state.name).inc(count)
        if marks.any():
            self._metrics.ticks_flagged.labels(state.name, "crossed").inc(int((marks == CROSSED).sum()))
            self._metrics.ticks_flagged.labels(state.name, "locked").inc(int((marks == LOCKED).sum()))
        shown = None if self.gate is None else self.gate(state.name, batch, ids)
        if shown is None:
            self._show(batch, ids, marks)
        elif shown.any():
            self._show(batch.take(shown), ids[shown], marks[shown])
        newest = int(batch.time_event_ns.max())
        state.newest_event_ns = max(state.newest_event_ns, newest)
        if builds:
            state.builder.add(batch, since_ns=0 if state.event_time else self.clock.time_ns())
        if state.event_time:
            state.builder.advance(state.newest_event_ns - self._bar_config.close_delay_ms * NS_PER_MS)

    def _show(self, batch: TickBatch, ids: Ids, marks: npt.NDArray[np.uint8]) -> None:
        count = len(batch)
        first = self.sequencer.take(count)
        seq = np.arange(first, first + count)
        changed = self.latest.update(batch, ids, seq, marks)
        self._note_trades(batch, ids)
        if self._hub is not None:
            self._hub.mark(changed)
        for listener in self.on_accepted:
            listener(batch, changed)

    def _note_trades(self, batch: TickBatch, ids: Ids) -> None:
        if len(self._has_trades) < len(self.symbols):
            grown = np.zeros(max(len(self.symbols), 2 * len(self._has_trades)), np.bool_)
            grown[: len(self._has_trades)] = self._has_trades
            self._has_trades = grown
        self._has_trades[ids[(batch.flags & TRADE) > 0]] = True

    def default_side(self, symbol: str) -> Side:
        """What a symbol's bars are made of unless asked otherwise: trades if it has any, else bids."""
        number = self.symbols.get(symbol)
        known = number is not None and number < len(self._has_trades)
        return "trade" if not known or self._has_trades[number] or not self.latest.seq[number] else "bid"

    def is_default_side(self, number: int, side: Side) -> bool:
        """The same question for a symbol's number."""
        return side == ("trade" if number >= len(self._has_trades) or self._has_trades[number] else "bid")

    def _refuse(self, state: SourceState, batch: TickBatch, reasons: npt.NDArray[np.uint8]) -> None:
        rows = np.flatnonzero(reasons)
        for code, count in zip(*np.unique(reasons[rows], return_counts=True), strict=True):
            state.quarantined[REASONS[code]] += int(count)
            self._metrics.ticks_quarantined.labels(state.name, REASONS[code]).inc(int(count))
        for row in rows[-_QUARANTINE_KEPT:].tolist():
            self.quarantine.append(
                Quarantined(
                    source=state.name,
                    time_received_ns=int(batch.time_received_ns[row]),
                    reason=REASONS[reasons[row]],
                    detail=(
                        f"event_ns={batch.time_event_ns[row]} bid={batch.bid[row]} ask={batch.ask[row]} "
                        f"last={batch.last[row]} last_size={batch.last_size[row]}"
                    ),
                    symbol=batch.symbols[batch.symbol_index[row]],
                )
            )

    def note_history(self, provider: str, checked: CheckedBars) -> None:
        """Fetched or imported bars were judged: remember the refused ones."""
        self.history_quarantined[provider] += sum(checked.refused.values())
        self.quarantine.extend(checked.quarantined(provider, self.clock.time_ns(), _QUARANTINE_KEPT))

    def _set_apart(self, state: SourceState, event: Quarantined) -> None:
        state.quarantined[event.reason] += 1
        self._metrics.ticks_quarantined.labels(state.name, event.reason).inc()
        self.quarantine.append(event)

    def _connected(self, state: SourceState, event: Connected) -> None:
        state.connected, state.reason = True, None
        state.builder.covered_from(0 if state.event_time else event.time_received_ns)
        self._metrics.source_up.labels(state.name).set(1)

    def _disconnected(self, state: SourceState, event: Disconnected) -> None:
        was_connected = state.connected
        state.connected, state.reason = False, event.reason
        state.builder.covered_from(None)
        self._metrics.source_up.labels(state.name).set(0)
        if was_connected:  # a failed attempt to connect is told in the same way and is no loss
            state.disconnects += 1
            self._metrics.source_disconnects.labels(state.name).inc()

    def tick_clock(self) -> None:
        """Time has passed: close the bars of live sources whose end is behind us and issue corrections.

        May be called as often as one likes; something happens once a second.
        """
        watermark_ns = self.clock.time_ns() - self._bar_config.close_delay_ms * NS_PER_MS
        second = watermark_ns // NS_PER_S
        if second == self._closed_second:  # every bar ends with a second
            return
        self._closed_second = second
        for state in self.sources.values():
            if not state.event_time:
                state.builder.advance(watermark_ns)

    def drain_bars(self) -> list[BarBatch]:
        """Bars closed or corrected since the last call, of all sources; reports ticks too late for any bar."""
        out: list[BarBatch] = []
        for state in self.sources.values():
            out += state.builder.drain()
            late, state.builder.too_late = state.builder.too_late, []
            for symbol, event_ns in late:
                detail = f"event_ns={event_ns}: its bar can no longer be corrected"
                event = Quarantined(
                    source=state.name,
                    time_received_ns=self.clock.time_ns(),
                    reason="too_late_for_bar",
                    detail=detail,
                    symbol=symbol,
                )
                self._set_apart(state, event)
        return out

    def running_bars(self, interval: Interval, side: Side, symbol: str | None = None) -> list[BarBatch]:
        """The bars in the making, one batch a source that has any."""
        found = [state.builder.running(interval, side, symbol) for state in self.sources.values()]
        return [bars for bars in found if bars is not None]
