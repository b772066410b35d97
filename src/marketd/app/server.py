"""The engine behind the doors (`api.engine.Engine`): sources → pipeline → hub, store and cache."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd import __version__
from marketd.api.engine import Backfill, Health, PartState, Rates, Session, SourceStatus, SymbolInfo
from marketd.app.collection import Collection
from marketd.app.history import HistoryRoom
from marketd.app.reload import Reload
from marketd.app.sources import Providers, live_providers, routed_providers
from marketd.app.stores import Stores
from marketd.calendars import Calendar
from marketd.clock import Clock, SystemClock
from marketd.collect.bar_writer import BarWriter
from marketd.collect.cache_writer import CacheWriter
from marketd.collect.hours import Hours
from marketd.collect.live import Desk, LiveSwitch
from marketd.collect.quote_logger import QuoteLogger
from marketd.collect.runner import SourceRunner
from marketd.collect.watch import StreamWatch, WatchedSource, present_in_any
from marketd.config import Config
from marketd.errors import InvalidInput, StoreError, UnknownSymbol
from marketd.fanout.hub import Hub
from marketd.fanout.latest import LatestQuote, LatestTable
from marketd.faults import FaultySource
from marketd.ingest.bars import BarBatch
from marketd.ingest.rollup import roll_up
from marketd.ingest.sequence import Sequencer
from marketd.ingest.symbols import SymbolTable
from marketd.model import Bar, Interval, Quarantined, Side, Tier, format_ns
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.pipeline import Pipeline
from marketd.routing import FileQuotaMemory
from marketd.sources.contract import Provider, Source, Subscriptions
from marketd.sources.registry import provider_entry
from marketd.store.quotes import RedisQuoteCache
from marketd.telemetry import Metrics
from marketd.wire.messages import SWITCHED_NAMED_MAX, ProviderSwitchMessage, SourceStatusMessage

__all__ = ["Server"]

_logger = logging.getLogger(__name__)

_MINUTE = Interval.parse("1m")
_SECOND = Interval.parse("1s")
_DAY = Interval.parse("1d")
_PULSE_S = 0.1
_DRAIN_S = 3.0
_BARS_WAITING_SOFT = 200_000
_BARS_WAITING_LIVE = 20_000
_WATCH_S = 5.0
_LOOK_EVERY_NS = 5 * _MINUTE.ns
"""Each look writes one answer a symbol that was silent: more often is more rows."""
_EXCHANGES = {"simulator": "SIM", "coinbase": "COINBASE", "replay": "REPLAY"}


class Server:
    """The engine. Everything but the store's file work runs on one event loop."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        providers: Sequence[Provider] | None = None,
        load: Callable[[], Config] | None = None,
    ) -> None:
        """providers: live ones instead of the configured. load: reads the configuration again, for `reload`.

        Raises StoreLocked, StoreError, InvalidInput.
        """
        self.config = config
        self.clock: Clock = clock or SystemClock()
        self.metrics = Metrics()
        self.stale_after_ns = config.market_data.staleness_threshold_ms * NS_PER_MS
        self._latest = LatestTable(SymbolTable())
        sequencer = Sequencer()
        self.hub = Hub(self._latest, sequencer, self.clock, config.fanout, self.metrics, self.stale_after_ns)
        self.pipeline = Pipeline(
            self.clock,
            hub=self.hub,
            latest=self._latest,
            sequencer=sequencer,
            validation=config.validation,
            bars=config.bars,
            metrics=self.metrics,
        )
        quotas = FileQuotaMemory(Path(config.server.data_dir) / "quota")
        self._providers, self.router = routed_providers(config, self.clock, self.metrics, quotas)
        live = live_providers(config, self.clock, self._providers) if providers is None else providers
        self._everyone = {**{provider.name: provider for provider in live}, **self._providers.by_name}
        self.router.replace(providers=tuple(self._everyone.values()))
        self._stores = Stores(config, self.clock)
        try:
            self.store, self.records = self._stores.bars, self._stores.records
            self._stored_symbols = frozenset(self.store.symbols())
            self._writer = BarWriter(
                self.store,
                self.clock,
                self.metrics,
                keep=self._is_kept,
                publish=self._bars_durable,
                turn=self._stores.turn,
            )
            self._cache_writer: CacheWriter | None = None
            if config.redis_url is not None:
                cache = RedisQuoteCache(config.redis_url)
                self._cache_writer = CacheWriter(self._latest, cache, self.clock, metrics=self.metrics)
                self.pipeline.on_accepted.append(lambda _batch, ids: self._cache_writer_mark(ids))
            self._infos: dict[str, SymbolInfo] = {}
            self._live: dict[str, Provider] = {}
            self._recording: SourceRunner | None = None
            self.desk = Desk(
                config.streams,
                self.clock,
                self._latest,
                self.pipeline,
                hours=Hours(self._calendar_of),
                order=self.router.order,
                report=self.router.report,
                backfill=self._ask_for_hole,
                on_switch=self._switched,
                on_change=lambda controller: self._feed_changed(controller.name),
                metrics=self.metrics,
            )
            self._wanted: dict[str, Subscriptions] = {}
            for provider in live:
                self._seat(provider)
            for name, provider in self._providers.by_name.items():
                self._wanted.setdefault(name, Subscriptions(provider.stream_symbols))
            self._room = HistoryRoom(
                config,
                self._stores,
                self.clock,
                self.metrics,
                self._everyone,
                self._wanted,
                histories=self.router.histories,
                note=self.pipeline.note_history,
                ready=self._live_is_served,
                judged_ns=lambda: self._watch.judged_ns,
            )
            self.history, self.ledger = self._room.answers, self._room.ledger
            self.backfill: Backfill = self._room.backfill
            self._collection = Collection(
                config,
                self._room,
                self.clock,
                self.metrics,
                ask=self.router.quote,
                take=self.pipeline.take_asked,
            )
            self._quote_log: QuoteLogger | None = None
            if config.database_url is not None and config.postgres.quote_log_seconds is not None:
                from marketd.store.postgres import PostgresQuoteLog

                log = PostgresQuoteLog(config.database_url, config.postgres, self.clock)
                self._quote_log = QuoteLogger(self._latest, log, config.postgres.quote_log_seconds, self.clock)
        except BaseException:  # or nobody could open them again in this process
            self._stores.close()
            raise
        self._watch = StreamWatch(self._has_bars)
        self._watch_thread = ThreadPoolExecutor(1, "stream-watch")
        self._down_ns: dict[str, int] = {}
        self._pulse: asyncio.Task[None] | None = None
        self._minder: asyncio.Task[None] | None = None
        self._started_ns = 0
        self._load = load
        self._sessions: dict[str, tuple[int, Session]] = {}
        self._look_back_ns = 0
        self._next_minute: dict[str, int] = {}
        self._jumps: dict[str, int] = {}
        self._rates = Rates(ticks_per_s=0.0, messages_per_s=0.0)

    def _cache_writer_mark(self, ids: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        assert self._cache_writer is not None
        self._cache_writer.mark(ids)

    def _seat(self, provider: Provider) -> None:
        """A provider comes to the desk, its stream faulty if that is configured."""
        name = provider.name
        provider = self._with_faults(provider)
        replay = self.config.sources.replay
        event_time = name == "replay" and not (replay is not None and replay.times == "shifted")
        self.pipeline.add_source(name, event_time=event_time)
        self._live[name] = provider
        if name == "replay" and provider.stream is not None:
            # A recording is nobody's feed: it has no provider to go over to, and a clock of its own.
            state = self.pipeline.sources[name]
            self._wanted[name] = Subscriptions(provider.stream_symbols)
            self._recording = SourceRunner(
                provider.stream,
                self._wanted[name],
                take=self.pipeline.take,
                connected=lambda: state.connected,
                on_change=lambda _: self._feed_changed(name),
                ready=self._bars_are_written if event_time else None,
                clock=self.clock,
            )
            for symbol in provider.stream_symbols:
                self.pipeline.symbols.add(symbol)
        else:
            renewable = name in self._providers.by_name and provider.stream is not None
            renew = partial(self._renewed, name) if renewable else None
            self._wanted[name] = self.desk.add(provider, renew=renew).wanted
        for symbol in provider.stream_symbols:
            self._infos.setdefault(symbol, self._describe(symbol, provider))

    def _with_faults(self, provider: Provider) -> Provider:
        faults = self.config.market_data
        if provider.stream is None or not (faults.faults.enabled or faults.symbol_faults):
            return provider
        stream = FaultySource(
            provider.stream, faults.faults, per_symbol=faults.symbol_faults, seed=faults.seed, clock=self.clock
        )
        return msgspec.structs.replace(provider, stream=stream)

    def _renewed(self, name: str) -> Source:
        """A stream made anew, as one streams only once."""
        provider = self._with_faults(self._providers.renew(name))
        assert provider.stream is not None
        return provider.stream

    @staticmethod
    def _describe(symbol: str, provider: Provider) -> SymbolInfo:
        exchange = _EXCHANGES.get(provider.name, provider.name.upper())
        simulated = provider.capabilities.simulated
        return SymbolInfo(symbol=symbol, exchange=exchange, source=provider.name, simulated=simulated)

    def _calendar_of(self, symbol: str) -> Calendar:
        return self._room.calendar_of(symbol)

    # --- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._started_ns = self.clock.time_ns()
        await asyncio.to_thread(self._seed_unfinished_bars)
        self._writer.start()
        if self._cache_writer is not None:
            self._cache_writer.start()
        self.desk.start()
        if self._recording is not None:
            self._recording.start()
        self._pulse = asyncio.create_task(self._beat(), name="pulse")
        self._minder = asyncio.create_task(self._mind_history(), name="history")
        self._room.backfill.start()
        self._collection.start()
        if self._quote_log is not None:
            self._quote_log.start()

    async def stop(self) -> None:
        """Stop the sources, store what they said (unfinished bars as provisional), release everything."""
        await self.desk.stop()
        if self._recording is not None:
            await self._recording.stop()
        running = [task for task in (self._pulse, self._minder) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._collection.stop()
        await self._room.close()
        await self.router.close()
        await self._providers.aclose()
        if self._quote_log is not None:
            await self._quote_log.stop()
        self.pipeline.tick_clock()
        for state in self.pipeline.sources.values():
            state.builder.finish()
        self._writer.put(self.pipeline.drain_bars())
        await self._writer.stop(_DRAIN_S)
        await self._last_silence()
        if self._cache_writer is not None:
            await self._cache_writer.stop()
        self._watch_thread.shutdown(wait=True)
        await asyncio.to_thread(self._stores.close)

    def _seed_unfinished_bars(self) -> None:
        """A restart within a minute goes on with that minute's bar instead of writing a shorter one over it."""
        minute_ns = _MINUTE.floor(self.clock.time_ns())
        for name in self._live:
            if self.pipeline.sources[name].event_time:
                continue
            for symbol in self._stored_symbols.intersection(self._wanted[name].symbols):
                for side in ("trade", "bid", "ask"):
                    rows = self.store.read(symbol, _MINUTE, minute_ns, minute_ns + _MINUTE.ns, side=side)
                    bars = [bar for bar in _as_bars(rows) if bar.provider == name]
                    self.pipeline.sources[name].builder.seed(bars)
                    if self._remembers_minutes(name):
                        newest = self.store.read(symbol, _MINUTE, 0, minute_ns, side=side, limit=1, newest_first=True)
                        for ts in newest["ts"].to_numpy().astype(np.int64).tolist():
                            self._next_minute[symbol] = max(self._next_minute.get(symbol, 0), ts + _MINUTE.ns)

    async def _beat(self) -> None:
        """What happens by the clock: bars close, rates are measured, silence is noticed, running bars are shown."""
        beats = 0
        counted = (self.clock.monotonic_ns(), 0, 0)
        while True:
            await self.clock.sleep(_PULSE_S)
            try:
                self.pipeline.tick_clock()
                for state in self.pipeline.sources.values():
                    state.builder.issue_1s("bars_1s" in self.hub.bar_channels() or self._keeps_1s())
                self._writer.put(self.pipeline.drain_bars())
                beats += 1
                if beats % 5 == 0:
                    self.hub.note_stale(self.clock.time_ns())
                if beats % 10 == 0:
                    counted = self._measure(counted)
                    self._show_running_bars()
            except Exception:
                _logger.exception("a defect in the server's pulse; it goes on")

    def _measure(self, before: tuple[int, int, int]) -> tuple[int, int, int]:
        ticks = sum(state.ticks for state in self.pipeline.sources.values())
        now = (self.clock.monotonic_ns(), ticks, self.hub.messages_sent)
        seconds = (now[0] - before[0]) / 1e9
        if seconds > 0:
            self._rates = Rates(
                ticks_per_s=round((now[1] - before[1]) / seconds, 1),
                messages_per_s=round((now[2] - before[2]) / seconds, 1),
            )
        return now

    def _show_running_bars(self) -> None:
        for channel in self.hub.bar_channels() - {"bars_1s"}:
            interval = Interval.parse(channel.removeprefix("bars_"))
            wanted = self.hub.bar_symbols(channel)
            one = self.pipeline.symbols.names[next(iter(wanted))] if wanted is not None and len(wanted) == 1 else None
            for side in ("trade", "bid"):
                for bars in self.pipeline.running_bars(interval, side, one):
                    self._publish_bars(bars)

    def _bars_durable(self, bars: BarBatch) -> None:
        if self._is_kept(bars) and len(bars):
            self._room.backfill.stored(bars.interval, int(bars.records.bucket.max()) + bars.interval.ns)
            if bars.interval is _MINUTE and self._remembers_minutes(bars.provider):
                self._note_jumps(bars)
        self._publish_bars(bars)

    def _note_jumps(self, bars: BarBatch) -> None:
        """A bar past the newest one of its symbol may have left some out."""
        for symbol, ts in zip(bars.symbols, bars.records.bucket.tolist(), strict=True):
            next_ns = self._next_minute.get(symbol, ts)
            if ts > next_ns:
                self._jumps[symbol] = min(next_ns, self._jumps.get(symbol, next_ns))
            self._next_minute[symbol] = max(next_ns, ts + _MINUTE.ns)

    def _publish_bars(self, bars: BarBatch) -> None:
        if bars.side != "ask":
            self.hub.publish_bars(
                bars,
                lambda number: (
                    self.pipeline.is_default_side(number, bars.side) and self.desk.speaks(bars.provider, number)
                ),
            )

    async def _bars_are_written(self) -> None:
        """Holds back a recording that is read faster than its bars can be stored."""
        if self._writer.waiting > _BARS_WAITING_SOFT:
            while self._writer.waiting > _BARS_WAITING_SOFT // 2:
                await self.clock.sleep(0.01)

    def _remembers_minutes(self, name: str) -> bool:
        provider = self._providers.by_name.get(name)
        return provider is not None and _MINUTE.name in provider.capabilities.bars

    async def _live_is_served(self) -> None:
        """Holds back-fill while live bars wait to be stored."""
        while self._writer.waiting > _BARS_WAITING_LIVE:
            await self.clock.sleep(0.05)

    # --- what is missing -----------------------------------------------------------------------------------

    async def _mind_history(self) -> None:
        """Now and then: remember what silent streams prove, ask for new holes, take up a new universe."""
        loop = asyncio.get_running_loop()
        while True:
            self._observe_streams()
            await self.clock.sleep(_WATCH_S)
            self._observe_streams()
            is_time = self.clock.time_ns() >= self._look_back_ns
            if self._writer.waiting or not (is_time or self._jumps):
                continue
            try:
                await loop.run_in_executor(self._watch_thread, self._note_silence)
                jumps, self._jumps = self._jumps, {}
                if jumps:
                    await self._ask_for_holes(min(jumps.values()), jumps)
                if is_time:
                    self._look_back_ns = _MINUTE.ceil(self.clock.time_ns() + 1) + _LOOK_EVERY_NS
                    await asyncio.to_thread(self._room.reload_universe)
                    await self._ask_for_holes(self.clock.time_ns() - 3 * _LOOK_EVERY_NS)
            except StoreError as error:
                _logger.error("history is not minded now: %s", error)  # noqa: TRY400 - it says all

    def _observe_streams(self) -> None:
        watched = []
        for name, provider in self._live.items():
            state = self.pipeline.sources[name]
            if provider.stream is not None and not state.event_time:
                covered_ns = state.builder.covered_since_ns
                watched.append(WatchedSource(name=name, covered_from_ns=covered_ns, wanted=self._wanted[name]))
        self._watch.observe(watched, self.clock.time_ns())

    def _note_silence(self) -> None:
        now_ns = self.clock.time_ns()
        closed_ns = now_ns - self.config.bars.close_delay_ms * NS_PER_MS - round(2 * _PULSE_S * NS_PER_S)
        spans = self._watch.silent_minutes(closed_ns, now_ns)
        if spans:
            self.records.note_spans(spans)

    async def _last_silence(self) -> None:
        """What was watched until now is noted before the store closes."""
        if self._writer.waiting:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._watch_thread, self._note_silence)
        except StoreError as error:
            _logger.error("what was watched last is not noted: %s", error)  # noqa: TRY400 - it says all

    def _has_bars(self, minute_ns: int, symbols: Sequence[str]) -> npt.NDArray[np.bool_]:
        end_ns = minute_ns + _MINUTE.ns
        sides: tuple[Side, ...] = ("trade", "bid", "ask")
        return present_in_any(
            [self.store.presence(_MINUTE, minute_ns, end_ns, side=side, symbols=symbols) for side in sides]
        )

    async def _ask_for_holes(self, since_ns: int, symbols: Iterable[str] | None = None) -> None:
        """Of the time since then; older ones are found by back-fill's own search."""
        now_ns = self.clock.time_ns()
        for found in await asyncio.to_thread(self._room.healable, _MINUTE, since_ns, now_ns, symbols):
            for span in found.spans:
                self._room.backfill.gap_found(found.symbol, _MINUTE, span)

    def _keeps_1s(self) -> bool:
        return len(self.pipeline.symbols) <= self.config.bars.keep_1s_max_symbols

    def _is_kept(self, bars: BarBatch) -> bool:
        return bars.interval is _MINUTE or (bars.interval is _SECOND and self._keeps_1s())

    def _feed_changed(self, name: str) -> None:
        state = self.pipeline.sources[name]
        word, reason = self._feed_state(name)
        _logger.info("source %s: %s%s", name, word, f" ({reason})" if reason else "")
        now = format_ns(self.clock.time_ns())
        self.hub.broadcast(SourceStatusMessage(name, state.connected, word, reason, now))

    def _feed_state(self, name: str) -> tuple[str, str | None]:
        """In a word, and why."""
        controller = self.desk.controllers.get(name)
        runner = self._recording if controller is None else controller.runner
        if controller is not None and (runner is None or controller.mode == "POLL"):
            return ("polling", controller.last_error) if controller.mode == "POLL" else ("connecting", None)
        assert runner is not None
        state = self.pipeline.sources[name]
        word = runner.state
        if word in ("connecting", "streaming", "reconnecting"):  # the pipeline is told before the runner takes note
            word = "streaming" if state.connected else "reconnecting" if state.reason is not None else "connecting"
        return word, runner.reason or state.reason

    def _switched(self, switch: LiveSwitch) -> None:
        named = list(switch.symbols) if len(switch.symbols) <= SWITCHED_NAMED_MAX else None
        at = format_ns(switch.at_ns)
        self.hub.broadcast(
            ProviderSwitchMessage(switch.old, switch.new, switch.reason, switch.detail, at, len(switch.symbols), named)
        )

    def _ask_for_hole(self, name: str, symbols: Sequence[str], since_ns: int) -> None:
        """What a feed missed is asked for when it is back."""
        if self._remembers_minutes(name):
            self._room.backfill.source_returned(tuple(symbols), _MINUTE, since_ns)

    # --- what the doors ask --------------------------------------------------------------------------------

    def symbols(self) -> Sequence[SymbolInfo]:
        self._learn_symbols()
        return list(self._infos.values())

    def _learn_symbols(self) -> None:
        """Symbols that a source brought along unasked (a recording with its own)."""
        if len(self._infos) < len(self.pipeline.symbols):
            for symbol in self.pipeline.symbols.names:
                if symbol not in self._infos:
                    row = self._latest.get(symbol)
                    name = self.desk.active(symbol) if row is None else row.source
                    self._infos[symbol] = self._describe(symbol, self._live[name or next(iter(self._live))])

    def info(self, symbol: str) -> SymbolInfo:
        self._learn_symbols()
        found = self._infos.get(symbol)
        if found is None:
            raise UnknownSymbol(symbol, self.pipeline.symbols.near(symbol))
        row = self._latest.get(symbol)
        if row is not None and row.source != found.source:
            found = self._infos[symbol] = self._describe(symbol, self._live[row.source])
        return found

    def symbol_number(self, symbol: str) -> int:
        number = self.pipeline.symbols.get(symbol)
        if number is None:
            raise UnknownSymbol(symbol, self.pipeline.symbols.near(symbol))
        return number

    def quote(self, symbol: str) -> LatestQuote | None:
        self.symbol_number(symbol)
        return self._latest.get(symbol)

    def default_side(self, symbol: str) -> Side:
        return self.pipeline.default_side(symbol)

    async def session(self, symbol: str) -> Session:
        self.symbol_number(symbol)
        row = self._latest.get(symbol)
        now_ns = self.clock.time_ns() if row is None else row.time_event_ns
        day_ns = _DAY.floor(now_ns)
        side = self.default_side(symbol)
        cached = self._sessions.get(symbol)
        if cached is None or cached[0] != day_ns:
            try:
                cached = (day_ns, await asyncio.to_thread(self._stored_session, symbol, side, day_ns))
            except StoreError:  # `/health` says it; a quote does not wait for the store
                return Session()
            self._sessions[symbol] = cached
        before = cached[1]
        running = [
            bar
            for batch in self.pipeline.running_bars(_DAY, side, symbol)
            if self.desk.speaks(batch.provider, self.symbol_number(symbol))
            for bar in batch.bars(0)
            if bar.ts_ns == day_ns
        ]
        if not running:
            return before
        bar = running[-1]
        if before.open is None or before.high is None or before.low is None:
            return Session(
                open=bar.open, high=bar.high, low=bar.low, volume=bar.volume, previous_close=before.previous_close
            )
        volumes = [v for v in (before.volume, bar.volume) if v is not None]
        return Session(
            open=before.open,
            high=max(before.high, bar.high),
            low=min(before.low, bar.low),
            volume=sum(volumes) if volumes else None,
            previous_close=before.previous_close,
        )

    def _stored_session(self, symbol: str, side: Side, day_ns: int) -> Session:
        """The part of the day that an earlier run saw, and the close of the day before."""
        until_ns = _MINUTE.floor(self._started_ns)
        rows = self.store.read(symbol, _MINUTE, day_ns, max(until_ns, day_ns), side=side)
        earlier = self.store.read(symbol, _MINUTE, 0, day_ns, side=side, limit=1, newest_first=True)
        previous = earlier["close"][0].as_py() if earlier.num_rows else None
        if not rows.num_rows:
            return Session(previous_close=previous)
        day = roll_up(rows, _DAY)
        return Session(
            open=day["open"][0].as_py(),
            high=day["high"][0].as_py(),
            low=day["low"][0].as_py(),
            volume=day["volume"][0].as_py(),
            previous_close=previous,
        )

    def check_history(self, symbol: str, interval: Interval | None = None) -> None:
        known = self.pipeline.symbols.get(symbol) is not None or symbol in self._stored_symbols
        if not known and self._room.instrument(symbol) is None and symbol not in self.store.symbols():
            raise UnknownSymbol(symbol, self.pipeline.symbols.near(symbol))
        if interval is _SECOND and not self._keeps_1s():
            most = self.config.bars.keep_1s_max_symbols
            raise InvalidInput("interval", "1s", f"1m or longer: bars of 1 s are stored up to {most} symbols only")

    def live_bars(self, symbol: str, base: Interval, side: Side, start_ns: int, end_ns: int) -> Sequence[Bar]:
        """Bars that are closed but not stored yet (as `live`: not durable), then those in the making."""
        now_ns = self.clock.time_ns()
        found: dict[int, Bar] = {}
        running = self.pipeline.running_bars(base, side, symbol)
        self._writer.put(self.pipeline.drain_bars())  # a bar just closed is neither running nor waiting yet
        number = self.pipeline.symbols.get(symbol)
        for batch in (*self._writer.not_durable(), *running):
            if batch.interval is not base or batch.side != side:
                continue
            if number is not None and not self.desk.speaks(batch.provider, number):
                continue
            rows = [i for i, name in enumerate(batch.symbols) if name == symbol]
            for bar in batch.take(np.array(rows, np.intp)).bars(now_ns) if rows else ():
                if start_ns <= bar.ts_ns < end_ns:
                    found[bar.ts_ns] = msgspec.structs.replace(bar, status="live")
        return list(found.values())

    def quarantine(self) -> Sequence[Quarantined]:
        return list(self.pipeline.quarantine)

    def health(self) -> Health:
        now_ns = self.clock.time_ns()
        sources = [self._status(name) for name in self._live]
        store_error = self._writer.error
        store = PartState(
            kind=self._stores.kind,
            state="failing" if store_error else "ok",
            error=store_error,
            waiting=self._writer.waiting,
        )
        writer = self._cache_writer
        cache = (
            PartState(kind="memory", state="ok", error=None, waiting=0)
            if writer is None
            else PartState(kind="redis", state=writer.state, error=writer.error, waiting=writer.waiting)
        )
        # The demo's live feed is a bonus: without a network the demo is still healthy.
        down = [
            s for s in sources if not s.connected and s.state != "ended" and not (self.config.demo and not s.simulated)
        ]
        quoted = bool(len(self._latest.known()))
        backfill, sweeper, jobs = (
            self._room.backfill_part(),
            self._collection.sweeper_part(),
            self._collection.jobs_part(),
        )
        failing = any(part.state == "failing" for part in (store, cache, backfill, sweeper, jobs))
        status = "starting" if not quoted and not failing else "degraded" if down or failing else "ok"
        return Health(
            status=status,
            version=__version__,
            epoch=self.hub.epoch,
            uptime_s=round((now_ns - self._started_ns) / NS_PER_S, 3) if self._started_ns else 0.0,
            time=format_ns(now_ns),
            demo=self.config.demo,
            symbols=len(self.pipeline.symbols),
            clients=self.hub.clients,
            rates=self._rates,
            store=store,
            cache=cache,
            backfill=backfill,
            sweeper=sweeper,
            jobs=jobs,
            sources=sources,
        )

    def _status(self, name: str) -> SourceStatus:
        controller, state = self.desk.controllers.get(name), self.pipeline.sources[name]
        word, reason = self._feed_state(name)
        return SourceStatus(
            name=name,
            connected=state.connected or (word == "polling" and controller is not None and controller.polled_well),
            state=word,
            reason=reason,
            simulated=self._live[name].capabilities.simulated,
            symbols=len(self._wanted[name].symbols),
            ticks=state.ticks,
            accepted=state.accepted,
            quarantined=dict(state.quarantined),
            last_event=format_ns(state.newest_event_ns) if state.newest_event_ns else None,
            reconnects=state.disconnects,
        )

    # --- providers -----------------------------------------------------------------------------------------

    def acquire(self, symbol: str) -> int:
        known = self.pipeline.symbols.get(symbol)
        if known is not None and self._recording is not None and symbol in self._recording.wanted:
            return known
        number = self.desk.acquire(symbol)
        if symbol not in self._infos:
            self._learn_symbols()
        return number

    def release(self, symbol: str) -> None:
        self.desk.release(symbol)

    def live_counts(self) -> dict[str, int]:
        """Symbols that are shown from each provider."""
        counts = dict.fromkeys(self._live, 0)
        for symbol in self.pipeline.symbols.names:
            name = self.desk.active(symbol)
            if name is not None:
                counts[name] += 1
        return counts

    def cadence(self) -> tuple[bool, list[tuple[str, int, dict[str, Any]]]]:
        members = Counter(i.tier for i in self._room.universe.instruments if i.active)
        cadence = msgspec.to_builtins(self.config.sweep.cadence)
        return self.config.sweep.enabled, [(tier, members[tier], cadence.get(tier, {})) for tier in get_args(Tier)]

    def symbol_mappings(self, part: str, provider: str | None) -> list[tuple[str, str, str]]:
        """(ours, provider, theirs) of the tables of providers and of all symbols that are known here, where `part` is
        in one of the names."""
        if provider is not None:
            provider = provider_entry(provider).name
            if provider not in self._providers.by_name:
                raise InvalidInput("provider", provider, f"one of {', '.join(self._providers.by_name)}")
        part = part.casefold()
        symbols = {*self.pipeline.symbols.names, *(i.symbol for i in self._room.universe.instruments)}
        found: list[tuple[str, str, str]] = []
        for name, of in self._providers.by_name.items():
            if provider not in (None, name):
                continue
            pairs = dict(of.symbols)
            for symbol in symbols - pairs.keys():
                theirs = of.symbols.to_provider(symbol)
                if theirs is not None:
                    pairs[symbol] = theirs
            found += [(o, name, t) for o, t in pairs.items() if part in o.casefold() or part in t.casefold()]
        return found

    async def reload(self, *, apply: bool) -> tuple[list[str], list[str]]:
        """See `app.reload`."""
        if self._load is None:
            raise InvalidInput("configuration", None, "a server that was started from a file or the environment")
        wanted = Reload(self.config, await asyncio.to_thread(self._load), self.router)
        if apply:
            await self._take_up(wanted)
        return wanted.changed, wanted.needs_restart

    async def _take_up(self, reload: Reload) -> None:
        """All of it, or nothing."""
        built = Providers(reload.rebuilt_config, self.clock, self.metrics, budget_of=self.router.budget_of)
        after = {**self._everyone, **built.by_name}
        retired = self.router.replace(config=reload.config.routing, providers=tuple(after.values()))
        self._everyone = after
        self._providers.take_up(built)
        self._room.take_up(built.by_name)
        for name, provider in built.by_name.items():
            if name in self._live:
                self._live[name] = self._with_faults(provider)
                await self.desk.replace(self._live[name])
        for name, symbols in reload.symbols.items():
            if name in self._live:
                self.desk.set_symbols(name, symbols)
            for symbol in symbols:
                self._infos.setdefault(symbol, self._describe(symbol, self._live[name]))
        self.config = reload.config
        for provider in retired:
            await provider.close()


def _as_bars(rows: pa.Table) -> list[Bar]:
    times = {name: rows[name].to_numpy().astype(np.int64).tolist() for name in ("ts", "as_of")}
    values = rows.drop_columns(["ts", "as_of"]).to_pylist()
    return [
        Bar(**row, ts_ns=ts, as_of_ns=as_of) for row, ts, as_of in zip(values, times["ts"], times["as_of"], strict=True)
    ]
