"""The composition root: the only place that knows concrete classes and puts them together.

`Server` is the engine behind the doors (`api.engine.Engine`): sources → pipeline → hub, store and cache.
`serve` puts the web server in front of it and ends it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import uvicorn

from marketd import __version__
from marketd.api.asgi import build_app
from marketd.api.engine import Health, PartState, Rates, Session, SourceStatus, SymbolInfo
from marketd.api.uvicorn_protocol import DirectWebSocketProtocol
from marketd.api.websocket import websocket_routes
from marketd.clock import Clock, SystemClock
from marketd.collect.bar_writer import BarWriter
from marketd.collect.cache_writer import CacheWriter
from marketd.collect.runner import SourceRunner
from marketd.config import Config
from marketd.errors import InvalidInput, UnknownSymbol
from marketd.fanout.hub import Hub
from marketd.fanout.latest import LatestQuote, LatestTable
from marketd.faults import FaultySource
from marketd.ingest.bars import BarBatch
from marketd.ingest.rollup import roll_up
from marketd.ingest.sequence import Sequencer
from marketd.ingest.symbols import SymbolTable
from marketd.model import BAR_SCHEMA, Bar, Interval, Quarantined, Quote, Side, TickBatch, Trade, format_ns
from marketd.model.time import NS_PER_MS, NS_PER_S
from marketd.pipeline import Pipeline
from marketd.sources.coinbase.feed import CoinbaseSource
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.contract import RawTap, Source, Subscriptions
from marketd.sources.replay import Recorder, ReplaySource
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource
from marketd.store.embedded import EmbeddedStore
from marketd.store.quotes import RedisQuoteCache
from marketd.telemetry import Metrics
from marketd.wire.messages import SourceStatusMessage

__all__ = ["Server", "build_sources", "listen", "record", "serve"]

_logger = logging.getLogger(__name__)

_MINUTE = Interval.parse("1m")
_SECOND = Interval.parse("1s")
_DAY = Interval.parse("1d")
_PULSE_S = 0.1
_DRAIN_S = 3.0
_BARS_WAITING_SOFT = 200_000
_EXCHANGES = {"simulator": "SIM", "coinbase": "COINBASE", "replay": "REPLAY"}


def build_sources(
    config: Config, clock: Clock, tap: dict[str, RawTap] | None = None
) -> list[tuple[Source, Subscriptions]]:
    """The configured sources and what is wanted of each at first. tap: raw messages of a source, by its name.

    Raises InvalidInput for a recording that cannot be replayed.
    """
    taps = tap or {}
    built: list[tuple[Source, Subscriptions]] = []
    scenarios = config.market_data.scenarios
    if scenarios:
        simulator = SimulatorConfig(
            symbols={
                name: SimulatedSymbol(
                    scenario=s.scenario, base_price=float(s.base_price), tick_interval_ms=s.tick_interval_ms
                )
                for name, s in scenarios.items()
            },
            seed=config.market_data.seed,
        )
        built.append((SimulatorSource(simulator, clock), Subscriptions(scenarios)))
    if config.sources.coinbase is not None:
        coinbase = CoinbaseSource(config.sources.coinbase, clock, taps.get("coinbase"))
        built.append((coinbase, Subscriptions(config.sources.coinbase.symbols)))
    if config.sources.replay is not None:
        replay = ReplaySource(config.sources.replay, clock, {"coinbase": parse_message})
        built.append((replay, Subscriptions(replay.symbols)))
    return built


class Server:
    """The engine. Everything but the store's file work runs on one event loop."""

    def __init__(
        self, config: Config, clock: Clock | None = None, sources: Sequence[tuple[Source, Subscriptions]] | None = None
    ) -> None:
        """sources: instead of the configured ones. Raises StoreLocked, StoreError, InvalidInput."""
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
        configured = build_sources(config, self.clock) if sources is None else sources
        self.store = EmbeddedStore(Path(config.server.data_dir), config.store, self.clock)
        self._stored_symbols = frozenset(self.store.symbols())
        self._writer = BarWriter(self.store, self.clock, self.metrics, keep=self._is_kept, publish=self._publish_bars)
        self._cache_writer: CacheWriter | None = None
        if config.redis_url is not None:
            cache = RedisQuoteCache(config.redis_url)
            self._cache_writer = CacheWriter(self._latest, cache, self.clock, metrics=self.metrics)
            self.pipeline.on_accepted.append(lambda _batch, ids: self._cache_writer_mark(ids))
        self._runners: dict[str, SourceRunner] = {}
        self._infos: dict[str, SymbolInfo] = {}
        for source, wanted in configured:
            self._add_source(source, wanted)
        self._pulse: asyncio.Task[None] | None = None
        self._started_ns = 0
        self._sessions: dict[str, tuple[int, Session]] = {}
        self._rates = Rates(ticks_per_s=0.0, messages_per_s=0.0)

    def _cache_writer_mark(self, ids: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        assert self._cache_writer is not None
        self._cache_writer.mark(ids)

    def _add_source(self, source: Source, wanted: Subscriptions) -> None:
        faults = self.config.market_data
        if faults.faults.enabled or faults.symbol_faults:
            source = FaultySource(
                source, faults.faults, per_symbol=faults.symbol_faults, seed=faults.seed, clock=self.clock
            )
        replay = self.config.sources.replay
        event_time = source.name == "replay" and not (replay is not None and replay.times == "shifted")
        state = self.pipeline.add_source(source.name, event_time=event_time)
        runner = SourceRunner(
            source,
            wanted,
            take=self.pipeline.take,
            connected=lambda: state.connected,
            on_change=self._source_changed,
            ready=self._bars_are_written if event_time else None,
            clock=self.clock,
        )
        self._runners[source.name] = runner
        for symbol in wanted.symbols:
            self._infos.setdefault(symbol, self._describe(symbol, source))
            self.pipeline.symbols.add(symbol)

    @staticmethod
    def _describe(symbol: str, source: Source) -> SymbolInfo:
        exchange = _EXCHANGES.get(source.name, source.name.upper())
        return SymbolInfo(symbol=symbol, exchange=exchange, source=source.name, simulated=source.capabilities.simulated)

    # --- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._started_ns = self.clock.time_ns()
        await asyncio.to_thread(self._seed_unfinished_bars)
        self._writer.start()
        if self._cache_writer is not None:
            self._cache_writer.start()
        for runner in self._runners.values():
            runner.start()
        self._pulse = asyncio.create_task(self._beat(), name="pulse")

    async def stop(self) -> None:
        """Stop the sources, store what they said (unfinished bars as provisional), release everything."""
        await asyncio.gather(*(runner.stop() for runner in self._runners.values()))
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)
        self.pipeline.tick_clock()
        for state in self.pipeline.sources.values():
            state.builder.finish()
        self._writer.put(self.pipeline.drain_bars())
        await self._writer.stop(_DRAIN_S)
        if self._cache_writer is not None:
            await self._cache_writer.stop()
        await asyncio.to_thread(self.store.close)

    def _seed_unfinished_bars(self) -> None:
        """A restart within a minute goes on with that minute's bar instead of writing a shorter one over it."""
        minute_ns = _MINUTE.floor(self.clock.time_ns())
        for name, runner in self._runners.items():
            if self.pipeline.sources[name].event_time:
                continue
            for symbol in self._stored_symbols.intersection(runner.wanted.symbols):
                for side in ("trade", "bid", "ask"):
                    rows = self.store.read(symbol, _MINUTE, minute_ns, minute_ns + _MINUTE.ns, side=side)
                    bars = [bar for bar in _as_bars(rows) if bar.provider == name]
                    self.pipeline.sources[name].builder.seed(bars)

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

    def _publish_bars(self, bars: BarBatch) -> None:
        if bars.side != "ask":
            self.hub.publish_bars(bars, lambda number: self.pipeline.is_default_side(number, bars.side))

    async def _bars_are_written(self) -> None:
        """Holds back a recording that is read faster than its bars can be stored."""
        if self._writer.waiting > _BARS_WAITING_SOFT:
            while self._writer.waiting > _BARS_WAITING_SOFT // 2:
                await self.clock.sleep(0.01)

    def _keeps_1s(self) -> bool:
        return len(self.pipeline.symbols) <= self.config.bars.keep_1s_max_symbols

    def _is_kept(self, bars: BarBatch) -> bool:
        return bars.interval is _MINUTE or (bars.interval is _SECOND and self._keeps_1s())

    def _source_changed(self, runner: SourceRunner) -> None:
        state = self.pipeline.sources[runner.source.name]
        reason = runner.reason or state.reason
        _logger.info("source %s: %s%s", runner.source.name, runner.state, f" ({reason})" if reason else "")
        now = format_ns(self.clock.time_ns())
        self.hub.broadcast(SourceStatusMessage(runner.source.name, state.connected, runner.state, reason, now))

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
                    source = (
                        self._runners[row.source].source
                        if row is not None
                        else next(iter(self._runners.values())).source
                    )
                    self._infos[symbol] = self._describe(symbol, source)

    def info(self, symbol: str) -> SymbolInfo:
        self._learn_symbols()
        found = self._infos.get(symbol)
        if found is None:
            raise UnknownSymbol(symbol, self.pipeline.symbols.near(symbol))
        row = self._latest.get(symbol)
        if row is not None and row.source != found.source:
            found = self._infos[symbol] = self._describe(symbol, self._runners[row.source].source)
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
            cached = (day_ns, await asyncio.to_thread(self._stored_session, symbol, side, day_ns))
            self._sessions[symbol] = cached
        before = cached[1]
        running = [
            bar
            for batch in self.pipeline.running_bars(_DAY, side, symbol)
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

    async def bars(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> pa.Table:
        if self.pipeline.symbols.get(symbol) is None and symbol not in self._stored_symbols:
            raise UnknownSymbol(symbol, self.pipeline.symbols.near(symbol))
        if interval is _SECOND and not self._keeps_1s():
            most = self.config.bars.keep_1s_max_symbols
            raise InvalidInput("interval", "1s", f"1m or longer: bars of 1 s are stored up to {most} symbols only")
        base = _SECOND if interval is _SECOND else _MINUTE
        # The bars around the edges are needed whole to be rolled up.
        start_ns, end_ns = -(-start_ns // interval.ns) * interval.ns, -(-end_ns // interval.ns) * interval.ns
        base_limit = None if limit is None else limit * (interval.ns // base.ns)
        live = self._live_bars(symbol, base, side, start_ns, end_ns)
        stored = await asyncio.to_thread(
            self.store.read, symbol, base, start_ns, end_ns, side=side, limit=base_limit, newest_first=newest_first
        )
        if newest_first:
            stored = stored.take(np.arange(stored.num_rows)[::-1])
        if live:
            stored = _overlay(stored, live)
        rows = stored if base is interval else roll_up(stored, interval)
        if limit is not None and rows.num_rows > limit:
            rows = rows.slice(rows.num_rows - limit) if newest_first else rows.slice(0, limit)
        return rows

    def _live_bars(self, symbol: str, base: Interval, side: Side, start_ns: int, end_ns: int) -> list[Bar]:
        """Bars that are closed but not stored yet (as `live`: not durable), then those in the making."""
        now_ns = self.clock.time_ns()
        found: dict[int, Bar] = {}
        running = self.pipeline.running_bars(base, side, symbol)
        self._writer.put(self.pipeline.drain_bars())  # a bar just closed is neither running nor waiting yet
        for batch in (*self._writer.not_durable(), *running):
            if batch.interval is not base or batch.side != side:
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
        sources = [self._status(name) for name in self._runners]
        store_error = self._writer.error
        store = PartState(
            kind="embedded", state="failing" if store_error else "ok", error=store_error, waiting=self._writer.waiting
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
        failing = store.state != "ok" or cache.state != "ok"
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
            sources=sources,
        )

    def _status(self, name: str) -> SourceStatus:
        runner, state = self._runners[name], self.pipeline.sources[name]
        return SourceStatus(
            name=name,
            connected=state.connected,
            state=runner.state,
            reason=runner.reason or state.reason,
            simulated=runner.source.capabilities.simulated,
            symbols=len(runner.wanted.symbols),
            ticks=state.ticks,
            accepted=state.accepted,
            quarantined=dict(state.quarantined),
            last_event=format_ns(state.newest_event_ns) if state.newest_event_ns else None,
            reconnects=state.disconnects,
        )


def _as_bars(rows: pa.Table) -> list[Bar]:
    times = {name: rows[name].to_numpy().astype(np.int64).tolist() for name in ("ts", "as_of")}
    values = rows.drop_columns(["ts", "as_of"]).to_pylist()
    return [
        Bar(**row, ts_ns=ts, as_of_ns=as_of) for row, ts, as_of in zip(values, times["ts"], times["as_of"], strict=True)
    ]


def _overlay(stored: pa.Table, live: list[Bar]) -> pa.Table:
    """Stored bars with newer ones put in their place, by ts."""
    newer = pa.Table.from_pylist(
        [
            {
                **{f: getattr(bar, f) for f in BAR_SCHEMA.names if f not in ("ts", "as_of")},
                "ts": bar.ts_ns,
                "as_of": bar.as_of_ns,
            }
            for bar in live
        ],
        BAR_SCHEMA,
    )
    kept = ~np.isin(stored["ts"].to_numpy().astype(np.int64), [bar.ts_ns for bar in live])
    return pa.concat_tables([stored.filter(pa.array(kept)), newer]).sort_by("ts")


# --- the web server in front -----------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol spelled out asyncio turns Nagle off on accepted connections; without it answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
    except BaseException:
        listener.close()
        raise
    return listener


class _WebServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `serve`'s: uvicorn would raise them again at the end, and the exit code would not be 0."""
        yield


async def serve(server: Server, listener: socket.socket, on_started: asyncio.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain: no new work, waiting bars stored, clients told to come back (1012)."""
    # Arrow's own allocator keeps for itself what the largest append needed.
    pa.set_memory_pool(pa.system_memory_pool())
    app = build_app(server, websocket_routes(server))
    web = _WebServer(
        uvicorn.Config(
            app,
            ws=DirectWebSocketProtocol,
            ws_max_size=16 << 20,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            backlog=4096,
        )
    )
    loop = asyncio.get_running_loop()
    installed = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not the main thread, or Windows
            loop.add_signal_handler(number, lambda: setattr(web, "should_exit", True))
            installed.append(number)
    await server.start()
    # What exists now stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        if on_started is not None:
            on_started.set()
        await web.serve(sockets=[listener])
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
        await server.stop()


async def record(
    config: Config, out: Path, names: Sequence[str], seconds: float | None, progress: Callable[[int], None]
) -> int:
    """Write what the configured sources (or those named) send to a file; returns how many ticks were seen.

    Until they end, `seconds` are over, or SIGINT or SIGTERM. progress: called about once a second with the
    ticks so far. Raises InvalidInput for an unknown source or a file that cannot be written.
    """
    clock = SystemClock()
    async with Recorder(out, clock) as recorder:
        chosen = build_sources(config, clock, {"coinbase": recorder.tap("coinbase")})
        known = [source.name for source, _ in chosen]
        for name in names:
            if name not in known:
                raise InvalidInput("source", name, f"one of {', '.join(known)}")
        seen = 0
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

        async def take(source: Source, wanted: Subscriptions) -> None:
            nonlocal seen
            async with contextlib.aclosing(source.stream(wanted)) as batches:  # type: ignore[type-var]
                async for events in batches:
                    recorder.record(events)
                    seen += sum(len(e) if isinstance(e, TickBatch) else isinstance(e, Quote | Trade) for e in events)

        tasks = [asyncio.create_task(take(s, w)) for s, w in chosen if not names or s.name in names]
        everything: asyncio.Future[Any] = asyncio.gather(*tasks)
        stopped = asyncio.create_task(stop.wait())
        ends_ns = None if seconds is None else clock.monotonic_ns() + round(seconds * 1e9)
        try:
            while not everything.done() and not stopped.done():
                left = 1.0 if ends_ns is None else min(1.0, (ends_ns - clock.monotonic_ns()) / 1e9)
                if left <= 0:
                    break
                pair: set[asyncio.Future[Any]] = {everything, stopped}
                await asyncio.wait(pair, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                progress(seen)
            if everything.done():
                everything.result()
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, everything, return_exceptions=True)
        return seen
