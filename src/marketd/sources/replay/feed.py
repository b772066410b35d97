"""Plays files as if they were a provider, at their pace or another.

Reading and merging run in one worker thread, one batch ahead; the event loop only waits, filters and hands over.
The times by which files are merged, paced, cut and sought are running event times: the greatest so far in a file,
so a row that is late in its file keeps its place there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from marketd.clock import Clock
from marketd.model import (
    BOOK,
    INTERVALS,
    LAST,
    Connected,
    Disconnected,
    Ended,
    Quarantined,
    Quote,
    SourceEvent,
    TickBatch,
)
from marketd.model.ticks import I64, NO_TRADE_ID
from marketd.model.time import NS_PER_S
from marketd.sources.contract import Capabilities, Subscriptions
from marketd.sources.replay.config import ReplayConfig
from marketd.sources.replay.merge import cut, merge, window
from marketd.sources.replay.readers import FileReader, open_file
from marketd.sources.replay.recording import Decoder
from marketd.sources.replay.rows import NAME, NO_TIME, Asides, Rows, SymbolTable

__all__ = ["BARS", "ReplaySource"]

BARS = tuple(interval.name for interval in INTERVALS if interval.ns >= 60 * NS_PER_S)
"""Of which a recording can tell, if its own rows are no coarser."""
_BOOK_FIELDS = ("bid", "ask", "bid_size", "ask_size")
_LAST_FIELDS = ("last", "volume")
_END_NS = 2**63 - 1

_BLOCK_BYTES_MIN = 1 << 16
_BLOCK_BYTES_MAX = 1 << 20
_BLOCKS_BYTES = 1 << 23


class ReplaySource:
    """Implements `marketd.sources.contract.Source`; finite unless it loops.

    decoders: for recordings of raw messages, the parser of each source in them. Raises `InvalidInput` naming file
    and column when a file is missing or cannot be what it is said to be. `pause`, `resume`, `seek` and `position`
    belong to the event loop's thread.
    """

    def __init__(self, config: ReplayConfig, clock: Clock, decoders: Mapping[str, Decoder] | None = None) -> None:
        self._config = config
        self._clock = clock
        self._files = [open_file(file, decoders or {}) for file in config.files]
        self._block_bytes = max(_BLOCK_BYTES_MIN, min(_BLOCK_BYTES_MAX, _BLOCKS_BYTES // len(self._files)))
        self._table = SymbolTable()
        self._asides = Asides()
        self._scanned = False
        self._started = False
        self._connected = False
        self._wake = asyncio.Event()
        self._paused_at_ns: int | None = None
        self._held_ns = 0
        self._seek_ns: int | None = None
        self._position: int | None = None
        self._allowed = np.zeros(0, np.bool_)
        self._allowed_all = False
        self._followed = -1
        self._refused: set[str] = set()
        self._told_ns = NO_TIME if config.start_ns is None else config.start_ns
        self._latest = _Latest()

    @property
    def name(self) -> str:
        return NAME

    @property
    def capabilities(self) -> Capabilities:
        kinds = {file.layout.kind for file in self._files}
        trade_bars = any("open" in file.layout.numbers for file in self._files)
        quote_bars = any("bid_open" in f.layout.numbers or "ask_open" in f.layout.numbers for f in self._files)
        return Capabilities(
            stream_quotes=quote_bars or bool(kinds & {"quotes", "ticks", "recording"}),
            stream_trades=trade_bars or bool(kinds & {"trades", "ticks", "recording"}),
            quotes=self._config.times == "kept",
            bars=BARS if self._config.times == "kept" else (),
            quotes_per_request=1_000,
        )

    @property
    def files(self) -> Sequence[FileReader]:
        """Each can be read from its start, whatever the stream does."""
        return self._files

    @property
    def symbols(self) -> tuple[str, ...]:
        """All symbols in the files. Known from the names for files of one symbol; files with a symbol column and
        recordings are read through once, at the first call (call it in a thread if they are large).
        """
        if not self._scanned:
            asides = Asides()
            for file in self._files:
                if file.layout.symbol is not None:
                    self._table.position(file.layout.symbol)
                    continue
                for rows in file.chunks(self._table, asides, self._block_bytes):
                    for number in rows.trade_id[rows.flags == 0].tolist():
                        asides.pop(number)
            self._scanned = True
        return self._table.names

    @property
    def position(self) -> int | None:
        """Running event time of the last row handed over, ns; None before the first."""
        return self._position

    @property
    def told_ns(self) -> int:
        """Up to which event time it has told everything, ns: all that is earlier is the past. It goes back when the
        replay does. Once the replay is over: the end of time, or `ReplayConfig.end`."""
        return self._told_ns

    def latest(self, symbol: str) -> Quote | None:
        """What was told last of a symbol's book and price since the start, the last seek or the last round; also of one
        that is not wanted."""
        return self._latest.quote(symbol, self._table.position(symbol)) if symbol in self._table else None

    @property
    def paused(self) -> bool:
        return self._paused_at_ns is not None

    def pause(self) -> None:
        """Hand over nothing more until `resume`. Calling it twice is calling it once."""
        if self._paused_at_ns is None:
            self._paused_at_ns = self._clock.monotonic_ns()
            self._wake.set()

    def resume(self) -> None:
        """Go on where it stopped; the time of the pause counts as if it had not been."""
        if self._paused_at_ns is not None:
            self._held_ns += self._clock.monotonic_ns() - self._paused_at_ns
            self._paused_at_ns = None
            self._wake.set()

    def seek(self, time_ns: int) -> None:
        """Go on with the first row at or after this event time, forward or back, by reading the files again.

        The stream says `Disconnected` and `Connected`, because what was derived from it no longer holds.
        """
        self._seek_ns = time_ns
        self._wake.set()

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        """See the contract. Called once. A symbol that no file has is `Quarantined` as `unknown_symbol`."""
        if self._started:
            raise RuntimeError("a ReplaySource is streamed once")
        self._started = True
        config = self._config
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1, thread_name_prefix=NAME)
        rows_of: Iterator[Rows] = iter(())
        upcoming: asyncio.Future[Rows | None] | None = None
        try:
            await loop.run_in_executor(executor, lambda: self.symbols)
            self._connected = True
            yield [Connected(source=NAME, time_received_ns=self._clock.time_ns()), *self._follow(wanted)]
            from_ns = config.start_ns
            while True:
                rows_of = self._rows(from_ns)
                upcoming = loop.run_in_executor(executor, next, rows_of, None)
                pace = _Pace(config, self._clock, self._held_ns)
                rows_seen = 0
                while self._seek_ns is None and (rows := await upcoming) is not None:
                    upcoming = loop.run_in_executor(executor, next, rows_of, None)
                    done = 0
                    while done < len(rows.key) and self._seek_ns is None:
                        if refused := self._follow(wanted):
                            yield refused
                        elif self._paused_at_ns is not None:
                            await self._wait(None, wanted)
                        elif count := pace.due(rows.key[done:], self._held_ns):
                            out = self._out(rows.take(slice(done, done + count)), pace)
                            done += count
                            if out:
                                yield out
                        else:
                            await self._wait(pace.wait_s(int(rows.key[done]), self._held_ns), wanted)
                    rows_seen += done
                upcoming.cancel()
                executor.submit(_close, rows_of)
                while self._paused_at_ns is not None and self._seek_ns is None:
                    await self._wait(None, wanted)
                if self._seek_ns is not None:
                    from_ns, self._seek_ns = self._seek_ns, None
                    self._forget(from_ns)
                    yield self._break(f"moved to another time of the recording ({from_ns} ns)")
                elif config.loop and pace.started:
                    from_ns = config.start_ns
                    await self._wait(pace.gap_s(rows_seen), wanted)
                    if config.times == "kept":
                        self._forget(from_ns)
                        yield self._break("the recording starts over")
                else:
                    break
            self._told_ns = _END_NS if config.end_ns is None else config.end_ns
            yield [Ended(source=NAME, time_received_ns=self._clock.time_ns())]
        finally:
            if upcoming is not None:
                upcoming.cancel()
            executor.submit(_close, rows_of)
            executor.shutdown(wait=False)

    def _rows(self, from_ns: int | None) -> Iterator[Rows]:
        self._asides = Asides()
        start_ns, end_ns = self._config.start_ns, self._config.end_ns
        if from_ns is not None:
            start_ns = from_ns if start_ns is None else max(start_ns, from_ns)
        files = [
            window(file.chunks(self._table, self._asides, self._block_bytes), start_ns, end_ns) for file in self._files
        ]
        return cut(merge(files), self._config.batch_rows)

    def _break(self, reason: str) -> list[SourceEvent]:
        now_ns = self._clock.time_ns()
        self._connected = True
        return [
            Disconnected(source=NAME, time_received_ns=now_ns, reason=reason),
            Connected(source=NAME, time_received_ns=now_ns),
        ]

    async def _wait(self, seconds: float | None, wanted: Subscriptions) -> None:
        """Until the time is over (None: no time), somebody pauses, resumes or seeks, or `wanted` changes."""
        waiting: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(wanted.changed(self._followed)),
        ]
        if seconds is not None:
            waiting.append(asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        self._wake.clear()

    def _follow(self, wanted: Subscriptions) -> list[SourceEvent]:
        """Bring the filter up to date; what was asked for and is in no file is said once."""
        names = self._table.names
        if wanted.version == self._followed and len(names) == len(self._allowed):
            return []
        self._followed = wanted.version
        symbols = wanted.symbols
        chosen = set(symbols)
        self._allowed = np.array([name in chosen for name in names], np.bool_)
        self._allowed_all = bool(self._allowed.all())
        unknown = [s for s in symbols if s not in self._table and s not in self._refused]
        self._refused.update(unknown)
        now_ns = self._clock.time_ns()
        return [
            Quarantined(
                source=NAME,
                time_received_ns=now_ns,
                reason="unknown_symbol",
                detail=f"{symbol} is in none of the files",
                symbol=symbol,
            )
            for symbol in unknown
        ]

    def _forget(self, from_ns: int | None) -> None:
        self._told_ns = NO_TIME if from_ns is None else from_ns
        self._latest.clear()

    def _out(self, rows: Rows, pace: _Pace) -> list[SourceEvent]:
        if rows.key[-1] != NO_TIME:
            self._position = self._told_ns = int(rows.key[-1])
        if self._config.times == "kept":
            self._latest.add(rows, len(self._table.names))
        out: list[SourceEvent] = []
        if not self._allowed_all:
            rows = rows.take(self._allowed[rows.symbol_index] | (rows.flags == 0)) if len(self._allowed) else rows
        beside = np.flatnonzero(rows.flags == 0).tolist()
        start = 0
        for place in [*beside, len(rows.key)]:
            if start < place:
                out.append(self._batch(rows.take(slice(start, place)), pace))
            if place < len(rows.key):
                event = self._asides.pop(int(rows.trade_id[place]))
                if not (isinstance(event, Connected) and self._connected):
                    out.append(self._aside(event, int(rows.time_received_ns[place])))
            start = place + 1
        return out

    def _aside(self, event: SourceEvent, received_ns: int) -> SourceEvent:
        if isinstance(event, Connected | Disconnected):
            self._connected = isinstance(event, Connected)
        if received_ns == NO_TIME or self._config.times == "shifted":
            received_ns = self._clock.time_ns()
        return msgspec.structs.replace(event, source=NAME, time_received_ns=received_ns)  # type: ignore[type-var]

    def _batch(self, rows: Rows, pace: _Pace) -> TickBatch:
        event, received = pace.stamp(rows, self._held_ns)
        return TickBatch(
            source=NAME,
            symbols=self._table.names,
            symbol_index=rows.symbol_index,
            flags=rows.flags,
            time_event_ns=event,
            time_received_ns=received,
            bid=rows.bid,
            ask=rows.ask,
            bid_size=rows.bid_size,
            ask_size=rows.ask_size,
            last=rows.last,
            last_size=rows.last_size,
            volume=rows.volume,
            trade_id=rows.trade_id if (rows.trade_id != NO_TRADE_ID).any() else None,
        )


class _Latest:
    """What was told last, of symbols by their position in the table."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._values = np.full((len(_BOOK_FIELDS) + len(_LAST_FIELDS), 0), np.nan)
        self._times = np.full((2, 0), NO_TIME)

    def add(self, rows: Rows, symbols: int) -> None:
        """The last row of each symbol that states a book, and the last that states a price."""
        new = symbols - self._times.shape[1]
        if new > 0:
            self._values = np.pad(self._values, ((0, 0), (0, new)), constant_values=np.nan)
            self._times = np.pad(self._times, ((0, 0), (0, new)), constant_values=NO_TIME)
        for flag, fields, place in ((BOOK, _BOOK_FIELDS, 0), (LAST, _LAST_FIELDS, len(_BOOK_FIELDS))):
            stating = np.flatnonzero(rows.flags & flag)
            if not len(stating):
                continue
            last = np.full(symbols, -1)
            last[rows.symbol_index[stating]] = stating  # where a symbol comes twice, the later one stays
            at = np.flatnonzero(last >= 0)
            row = last[at]
            for offset, name in enumerate(fields):
                self._values[place + offset, at] = getattr(rows, name)[row]
            received = rows.time_received_ns[row]
            self._times[0, at] = np.maximum(self._times[0, at], rows.time_event_ns[row])
            self._times[1, at] = np.where(received == NO_TIME, rows.key[row], received)

    def quote(self, symbol: str, position: int) -> Quote | None:
        if position >= self._times.shape[1] or self._times[0, position] == NO_TIME:
            return None
        stated = self._values[:, position].tolist()
        values = {
            name: None if math.isnan(value) else value
            for name, value in zip((*_BOOK_FIELDS, *_LAST_FIELDS), stated, strict=True)
        }
        event_ns, received_ns = self._times[:, position].tolist()
        return Quote(symbol=symbol, source=NAME, time_event_ns=event_ns, time_received_ns=received_ns, **values)


def _close(rows_of: Iterator[Rows]) -> None:
    """Ends a generator, and with it its open files; in the thread that runs it."""
    close = getattr(rows_of, "close", None)
    if close is not None:
        close()


class _Pace:
    """When a row is due, and what its stamps become. It starts with the first row that has a time."""

    def __init__(self, config: ReplayConfig, clock: Clock, held_ns: int) -> None:
        self._speed = config.speed
        self._shifted = config.times == "shifted"
        self._clock = clock
        self._held_before_ns = held_ns
        self._first_ns: int | None = None
        self._last_ns = 0
        self._monotonic_ns = 0
        self._wall_ns = 0

    @property
    def started(self) -> bool:
        return self._first_ns is not None

    def due(self, key: I64, held_ns: int) -> int:
        """How many of these rows may go out now."""
        if self._first_ns is None:
            timed = int(np.searchsorted(key, NO_TIME, side="right"))
            if timed == len(key):
                return timed
            self._first_ns = int(key[timed])
            self._monotonic_ns = self._clock.monotonic_ns()
            self._wall_ns = self._clock.time_ns()
            self._held_before_ns = held_ns
        self._last_ns = int(key[-1])
        if self._speed is None:
            return len(key)
        passed_ns = self._clock.monotonic_ns() - self._monotonic_ns - (held_ns - self._held_before_ns)
        limit_ns = self._first_ns + math.floor(passed_ns * self._speed)
        count = int(np.searchsorted(key, min(limit_ns, 2**63 - 1), side="right"))
        return count or int(self._wait_ns(int(key[0]), held_ns) <= 0)

    def _wait_ns(self, key_ns: int, held_ns: int) -> int:
        if self._first_ns is None or self._speed is None:
            return 0
        due_ns = (
            self._monotonic_ns + (held_ns - self._held_before_ns) + math.ceil((key_ns - self._first_ns) / self._speed)
        )
        return due_ns - self._clock.monotonic_ns()

    def wait_s(self, key_ns: int, held_ns: int) -> float:
        return self._wait_ns(key_ns, held_ns) / 1e9

    def gap_s(self, rows: int) -> float:
        """Between the last row and the first of the next round: the mean spacing; a second after a single row."""
        if self._speed is None or self._first_ns is None:
            return 0.0
        return (self._last_ns - self._first_ns) / self._speed / 1e9 / (rows - 1) if rows > 1 else 1.0

    def stamp(self, rows: Rows, held_ns: int) -> tuple[I64, I64]:
        """Event and receive times as they go out.

        Where the file tells no receive time: kept, it is the running event time; shifted, it is now. Where it does,
        shifted times keep the difference to the event time as it was.
        """
        untold = rows.time_received_ns == NO_TIME
        if not self._shifted or self._first_ns is None:
            received = np.where(untold, rows.key, rows.time_received_ns) if untold.any() else rows.time_received_ns
            return rows.time_event_ns, received
        now_ns = self._clock.time_ns()
        if self._speed is None:
            event = np.full(len(rows.key), now_ns, np.int64)
        else:
            since = rows.time_event_ns - self._first_ns
            if self._speed != 1.0:
                since = np.rint(since / self._speed).astype(np.int64)
            event = since + (self._wall_ns + held_ns - self._held_before_ns)
        received = np.where(untold, now_ns, event + (rows.time_received_ns - rows.time_event_ns))
        return event, received
