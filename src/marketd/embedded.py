"""The engine inside another program: simulated quotes through the server's own pipeline, without a server.

Simulator → pipeline → faults → quote cache → stream. The faults come last, so that the program meets what the
pipeline would have kept from it: quotes that are late, twice, out of order or missing. A quote is in the cache before
it is in the stream, unless the cache fails: then the stream goes on (it waits for an answer once, for a second), and
the newest quote of each symbol is written when the cache is back. Prices are `Decimal` here and nowhere before. It
starts no web server and imports none.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Protocol, Self, runtime_checkable

import msgspec

from marketd.clock import Clock, SystemClock
from marketd.config import MarketDataConfig, SymbolScenario
from marketd.errors import InvalidInput, StoreError
from marketd.faults import FaultConfig, FaultInjector, FaultySource
from marketd.model import Ended, Quote, SourceEvent, TickBatch, Trade, format_ns, parse_ns
from marketd.model.time import NS_PER_S
from marketd.pipeline import Pipeline
from marketd.sources.contract import Capabilities, Subscriptions
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource
from marketd.store.quotes import KeyValue, QuoteRecord, RedisQuoteCache, decimal_text

__all__ = [
    "DataSource",
    "FaultConfig",
    "MarketData",
    "MarketDataConfig",
    "MarketDataService",
    "MockDataSource",
    "QuoteProcessor",
    "QuoteSnapshot",
    "SymbolScenario",
]

_logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NAMED = 10
_BATCHES_WAITING = 1_000
_WRITE_TIMEOUT_S = 1.0
_RETRY = ReconnectPolicy(delay_first_s=0.1, delay_max_s=5.0, jitter=0.2)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _as_time(time_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_ns // 1_000)


def _as_text(time: datetime) -> str:
    return format_ns((_utc(time) - _EPOCH) // _MICROSECOND * 1_000)


class MarketData(msgspec.Struct, frozen=True):
    """One quote, at the strategy's side. volume: as the source counts it. timestamp: event time; naive ones are UTC.

    Raises InvalidInput for a price that is not a finite Decimal, and for a timestamp that is no datetime.
    """

    symbol: str
    price: Decimal
    bid: Decimal
    ask: Decimal
    volume: int | float | None
    timestamp: datetime

    def __post_init__(self) -> None:
        for field in ("price", "bid", "ask"):
            value = getattr(self, field)
            if not (isinstance(value, Decimal) and value.is_finite()):
                raise InvalidInput(field, value, "a finite decimal.Decimal")
        if not isinstance(self.timestamp, datetime):
            raise InvalidInput("timestamp", self.timestamp, "a datetime")
        if self.timestamp.tzinfo is None:
            msgspec.structs.force_setattr(self, "timestamp", _utc(self.timestamp))


class QuoteSnapshot(msgspec.Struct, frozen=True):
    """A quote as it is in the cache. price, bid, ask: None where the source that wrote it told none."""

    symbol: str
    price: Decimal | None
    bid: Decimal | None
    ask: Decimal | None
    volume: int | float | None
    timestamp: datetime
    cached_at: datetime

    def __post_init__(self) -> None:
        for field in ("timestamp", "cached_at"):
            msgspec.structs.force_setattr(self, field, _utc(getattr(self, field)))

    def is_stale(self, threshold_ms: float, now: datetime | None = None) -> bool:
        """Whether its *event* is more than `threshold_ms` ago, however lately it was cached. now: the present."""
        now = _as_time(SystemClock().time_ns()) if now is None else _utc(now)
        return now - self.timestamp > timedelta(milliseconds=threshold_ms)

    @classmethod
    def from_market_data(cls, data: MarketData, cached_at: datetime | None = None) -> Self:
        """The quote as if it were cached at `cached_at`, or now."""
        return cls(
            symbol=data.symbol,
            price=data.price,
            bid=data.bid,
            ask=data.ask,
            volume=data.volume,
            timestamp=data.timestamp,
            cached_at=_as_time(SystemClock().time_ns()) if cached_at is None else cached_at,
        )


def _record(quote: MarketData, cached_at: str) -> QuoteRecord:
    return QuoteRecord(
        symbol=quote.symbol,
        price=decimal_text(quote.price),
        bid=decimal_text(quote.bid),
        ask=decimal_text(quote.ask),
        volume=quote.volume,
        timestamp=_as_text(quote.timestamp),
        cached_at=cached_at,
    )


def _snapshot(record: QuoteRecord) -> QuoteSnapshot:
    price, bid, ask = (None if t is None else Decimal(t) for t in (record.price, record.bid, record.ask))
    return QuoteSnapshot(
        symbol=record.symbol,
        price=price,
        bid=bid,
        ask=ask,
        volume=record.volume,
        timestamp=_as_time(parse_ns(record.timestamp)),
        cached_at=_as_time(parse_ns(record.cached_at)),
    )


def _quotes(events: Sequence[SourceEvent]) -> list[MarketData]:
    """The simulated ticks among these events; each of their rows has all prices."""
    return [
        MarketData(
            batch.symbols[position],
            Decimal(repr(last)),
            Decimal(repr(bid)),
            Decimal(repr(ask)),
            int(volume) if volume.is_integer() else volume,
            _as_time(event_ns),
        )
        for batch in events
        if isinstance(batch, TickBatch)
        for position, last, bid, ask, volume, event_ns in zip(
            batch.symbol_index.tolist(),
            batch.last.tolist(),
            batch.bid.tolist(),
            batch.ask.tolist(),
            batch.volume.tolist(),
            batch.time_event_ns.tolist(),
            strict=True,
        )
    ]


class _Done:
    """Of a call that has taken effect when it returns: it may be awaited, and need not be."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


@runtime_checkable
class DataSource(Protocol):
    """Something that sends quotes."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """No more quotes; those that were sent can still be read, then `quotes` ends."""
        ...

    def subscribe(self, symbols: Iterable[str]) -> Awaitable[None]:
        """Send these symbols too, from now on or from the start on. Idempotent."""
        ...

    def quotes(self) -> AsyncIterator[MarketData]:
        """Every quote from now on, until `stop`."""
        ...


class MockDataSource:
    """Implements `DataSource` with the simulator: the same config gives the same prices.

    stale_pause_probability, stale_pause_duration_ms (low, high): how scenario `stale` pauses; set them before `start`.
    """

    def __init__(self, config: MarketDataConfig, *, clock: Clock | None = None) -> None:
        self.stale_pause_probability = 0.1
        self.stale_pause_duration_ms: tuple[float, float] = (5_000, 10_000)
        self.overflow_count = 0
        """Ticks that readers lost because they were too far behind."""
        self._config = config
        self._clock = clock or SystemClock()
        self._wanted = Subscriptions()
        self._readers: list[asyncio.Queue[Sequence[SourceEvent] | None]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def subscribed(self) -> frozenset[str]:
        return frozenset(self._wanted.symbols)

    def subscribe(self, symbols: Iterable[str]) -> Awaitable[None]:
        """Send these too; in force when it returns (it may be awaited as well).

        Raises InvalidInput, and adds none of them, if one is not in the config: a price for it would be made up.
        """
        wanted = [symbols] if isinstance(symbols, str) else list(symbols)
        known = self._config.scenarios
        for symbol in wanted:
            if symbol not in known:
                more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
                allowed = f"one of the configured symbols: {', '.join(list(known)[:_NAMED]) or 'there are none'}{more}"
                raise InvalidInput("symbols", symbol, allowed)
        self._wanted.add(wanted)
        return _Done()

    async def start(self) -> None:
        """Begin to send, each symbol from its base price. Idempotent. Raises InvalidInput for a pause that is none."""
        if self._task is not None:
            return
        simulator = SimulatorConfig(
            symbols={
                name: SimulatedSymbol(
                    scenario=symbol.scenario,
                    base_price=float(symbol.base_price),
                    tick_interval_ms=symbol.tick_interval_ms,
                )
                for name, symbol in self._config.scenarios.items()
            },
            seed=self._config.seed,
            stale_pause_probability=self.stale_pause_probability,
            stale_pause_duration_ms=self.stale_pause_duration_ms,
        )
        self._task = asyncio.create_task(self._run(SimulatorSource(simulator, self._clock)), name="mock-data-source")

    async def _run(self, simulator: SimulatorSource) -> None:
        stream = simulator.stream(self._wanted)
        assert isinstance(stream, AsyncGenerator)
        async with aclosing(stream):
            async for events in stream:
                for reader in self._readers:
                    self._put(reader, events)

    def _put(self, reader: asyncio.Queue[Sequence[SourceEvent] | None], events: Sequence[SourceEvent] | None) -> None:
        if reader.full():
            lost = reader.get_nowait() or ()
            self.overflow_count += sum(len(batch) for batch in lost if isinstance(batch, TickBatch))
        reader.put_nowait(events)

    async def stop(self) -> None:
        """Send no more. Readers get what was sent, and end. Idempotent; `start` begins anew."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        readers, self._readers = self._readers, []
        for reader in readers:
            self._put(reader, None)
        if task is not None and not task.cancelled():
            task.result()

    def batches(self) -> AsyncGenerator[Sequence[SourceEvent], None]:
        """Every batch from now on, as the simulator makes them, until `stop`.

        A reader that falls more than 1,000 batches (some seconds) behind loses the oldest; `overflow_count` counts.
        """
        reader: asyncio.Queue[Sequence[SourceEvent] | None] = asyncio.Queue(_BATCHES_WAITING)
        self._readers.append(reader)
        return self._read(reader)

    async def _read(
        self, reader: asyncio.Queue[Sequence[SourceEvent] | None]
    ) -> AsyncGenerator[Sequence[SourceEvent], None]:
        try:
            while (events := await reader.get()) is not None:
                yield events
        finally:
            if reader in self._readers:
                self._readers.remove(reader)

    def quotes(self) -> AsyncGenerator[MarketData, None]:
        """Every quote from now on, until `stop`; see `batches` for readers that fall behind."""
        return self._as_quotes(self.batches())

    @staticmethod
    async def _as_quotes(batches: AsyncGenerator[Sequence[SourceEvent], None]) -> AsyncGenerator[MarketData, None]:
        async with aclosing(batches):
            async for events in batches:
                for quote in _quotes(events):
                    yield quote


class QuoteProcessor:
    """Takes quotes one at a time: what goes wrong with each, and then the cache.

    redis: anything with async `set` and `get`. faults: none unless given. seed: of the faults.
    """

    def __init__(
        self, redis: KeyValue, faults: FaultConfig | None = None, *, seed: int = 0, clock: Clock | None = None
    ) -> None:
        self._cache = RedisQuoteCache(redis)
        self._injector = FaultInjector(faults or FaultConfig(), seed=seed)
        self._clock = clock or SystemClock()

    async def process(self, quote: MarketData) -> MarketData | list[MarketData] | None:
        """The quote as it arrives: at once or after a while (delay), with an earlier timestamp (out of order), as a
        list of two (duplicate); or None if it never does (stale window, drop, disconnect).

        What arrives is in the cache when this returns; what does not leaves there what was. Raises StoreError.
        """
        if self._injector.enabled:
            verdict = self._injector.decide_one(quote.symbol, self._clock.monotonic_ns())
            if verdict.lost:
                return None
            if verdict.earlier_ns:
                earlier = timedelta(microseconds=verdict.earlier_ns // 1_000)
                quote = msgspec.structs.replace(quote, timestamp=quote.timestamp - earlier)
            if verdict.delay_ns:
                await self._clock.sleep(verdict.delay_ns / NS_PER_S)
            if verdict.duplicated:
                await self.write([quote, quote])
                return [quote, quote]
        await self.write([quote])
        return quote

    async def write(self, quotes: Sequence[MarketData]) -> None:
        """Cache these as they are, in one go if the client can; the last of each symbol stays. Raises StoreError."""
        cached_at = format_ns(self._clock.time_ns())
        await self._cache.put_records([_record(quote, cached_at) for quote in quotes])

    async def read(self, symbol: str) -> QuoteSnapshot | None:
        """What is in the cache. Raises StoreError."""
        record = await self._cache.get_record(symbol)
        if record is None:
            return None
        try:
            return _snapshot(record)
        except (ArithmeticError, ValueError) as error:
            raise StoreError("redis", f"quote:{symbol} does not hold a quote: {error}") from error


class _Accepted:
    """What the pipeline accepts of a source, as a source, so that faults can be put around it."""

    capabilities = Capabilities(stream_quotes=True, simulated=True)

    def __init__(self, batches: AsyncGenerator[Sequence[SourceEvent], None], clock: Clock) -> None:
        self.name = "simulator"
        self._batches = batches
        self._clock = clock
        self._accepted: list[SourceEvent] = []
        self._pipeline = Pipeline(clock)
        self._pipeline.add_source(self.name)
        self._pipeline.on_accepted.append(lambda batch, _changed: self._accepted.append(batch))

    async def stream(self, wanted: Subscriptions) -> AsyncGenerator[Sequence[SourceEvent], None]:
        del wanted  # the batches are of what is subscribed
        async with aclosing(self._batches):
            async for events in self._batches:
                self._pipeline.take(self.name, events)
                self._pipeline.tick_clock()
                self._pipeline.drain_bars()  # nobody here wants them, and unread they would pile up
                said = [event for event in events if not isinstance(event, TickBatch | Quote | Trade)]
                accepted, self._accepted = self._accepted, []
                if said or accepted:
                    yield [*said, *accepted]
        yield [Ended(source=self.name, time_received_ns=self._clock.time_ns())]


class MarketDataService:
    """Quotes of the subscribed symbols, in a stream and in a cache.

    redis: anything with async `set` and `get`; it stays the caller's to close. A client with `mset` or `pipeline` is
    written to in batches. config: symbols, faults, seed, size of the stream. source: has the settings of scenario
    `stale`.
    """

    def __init__(self, redis: KeyValue, config: MarketDataConfig, *, clock: Clock | None = None) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self.source = MockDataSource(config, clock=self._clock)
        self.overflow_count = 0
        """Quotes that the stream lost, oldest first, because it was full."""
        self.cache_error: str | None = None
        """Why quotes cannot be cached at present."""
        self._processor = QuoteProcessor(redis, clock=self._clock)
        self._stream: asyncio.Queue[MarketData] = asyncio.Queue(config.queue_max_size)
        self._uncached: dict[str, MarketData] = {}
        self._failures = 0
        self._retry_at_ns = 0
        self._retry: asyncio.Task[None] | None = None
        self._rng = random.Random()
        self._task: asyncio.Task[None] | None = None

    @property
    def subscribed(self) -> frozenset[str]:
        return self.source.subscribed

    def ensure_subscribed(self, symbols: Iterable[str]) -> Awaitable[None]:
        """Have these symbols sent too, before `start` or while running; in force when it returns (and awaitable).

        Idempotent. Raises InvalidInput naming the configured symbols, and adds none, if one of them is not.
        """
        return self.source.subscribe(symbols)

    def get_stream(self) -> asyncio.Queue[MarketData]:
        """The stream: one queue for all callers, of `queue_max_size` quotes; the oldest gives way to the newest."""
        return self._stream

    async def get_quote(self, symbol: str) -> QuoteSnapshot | None:
        """What the cache has, None if it never had any. Raises StoreError if the cache cannot be read."""
        return await self._processor.read(symbol)

    async def start(self) -> None:
        """Begin to send what is subscribed. Idempotent; after `stop`, the prices start anew."""
        if self._task is not None:
            return
        accepted = _Accepted(self.source.batches(), self._clock)
        faulty = FaultySource(
            accepted,
            self.config.faults,
            per_symbol=self.config.symbol_faults,
            seed=self.config.seed,
            clock=self._clock,
        )
        self._task = asyncio.create_task(self._run(faulty), name="market-data-service")
        try:
            await self.source.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Make no more quotes; those on their way (delayed ones too) are cached and streamed first. Idempotent.

        The stream stays readable. Takes a few seconds at most, if the cache does not answer.
        """
        task, self._task = self._task, None
        await self.source.stop()
        if task is not None:
            await task

    async def _run(self, source: FaultySource) -> None:
        stream = source.stream(Subscriptions())
        assert isinstance(stream, AsyncGenerator)
        try:
            async with aclosing(stream):
                async for events in stream:
                    if quotes := _quotes(events):
                        await self._deliver(quotes)
        except Exception:
            _logger.exception("the stream of quotes has ended with a defect")
            raise
        finally:
            if self._retry is not None:
                self._retry.cancel()
                await asyncio.wait({self._retry})
                self._retry = None
        await self._write()
        if self._uncached:
            _logger.error("stopped with %d quotes that could not be cached: %s", len(self._uncached), self.cache_error)

    async def _deliver(self, quotes: list[MarketData]) -> None:
        for quote in quotes:
            self._uncached[quote.symbol] = quote
        await self._cache()
        stream = self._stream
        for quote in quotes:
            if stream.full():
                stream.get_nowait()
                self.overflow_count += 1
            stream.put_nowait(quote)

    async def _cache(self) -> None:
        """Write what is not cached yet. While the cache fails the stream waits for no try, and tries grow rarer."""
        if self.cache_error is None:
            await self._write()
        elif (self._retry is None or self._retry.done()) and self._clock.monotonic_ns() >= self._retry_at_ns:
            self._retry = asyncio.create_task(self._write(), name="market-data-cache-retry")

    async def _write(self) -> None:
        quotes = list(self._uncached.values())
        if not quotes:
            return
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._processor.write(quotes)
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_WRITE_TIMEOUT_S:g} s"
            if self.cache_error is None:
                _logger.warning("quotes cannot be cached, trying again: %s", reason)
            self.cache_error = reason
            wait_s = _RETRY.delay_s(self._failures, self._rng)
            self._failures += 1
            self._retry_at_ns = self._clock.monotonic_ns() + round(wait_s * NS_PER_S)
            return
        for quote in quotes:
            if self._uncached.get(quote.symbol) is quote:
                del self._uncached[quote.symbol]
        if self.cache_error is not None:
            _logger.warning("quotes can be cached again")
        self.cache_error = None
        self._failures = 0
