"""Who wants what, and the flush that gives it to them.

Accepted rows only mark their symbols dirty. A flush, some milliseconds later, encodes each dirty symbol
once per format, hands the same bytes to every subscriber and makes one write per client. The time between
flushes follows their cost. A client whose socket does not drain is left out: what it misses is replaced by
the latest value of each of its symbols when it drains again, it is told how much that was, and it is closed
if it takes too long. It costs the others nothing.

No socket here: a client is given an `Outlet`. To add a message for many clients, give it a `_Topic`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.errors import InvalidInput
from marketd.fanout.latest import LatestTable
from marketd.fanout.rate import RateLimit
from marketd.ingest.bars import BarBatch
from marketd.ingest.sequence import Sequencer
from marketd.model import format_ns
from marketd.telemetry import Metrics
from marketd.wire.close_codes import SLOW_CLIENT, CloseCode
from marketd.wire.frames import text_frame, text_frames
from marketd.wire.messages import (
    DEFAULT_FIELDS,
    BarValues,
    Lag,
    SingleBarUpdate,
    SingleQuoteUpdate,
    StaleMessage,
    StreamBarUpdate,
    encode,
    encode_each,
    quote_struct,
)

__all__ = ["SINGLE", "Client", "FanoutConfig", "Hub", "Outlet"]

Ids = npt.NDArray[np.intp]
_Append = Callable[[bytes], None]
_Gather = Callable[[list[bytes]], Iterable[bytes]]

_DENSE = 0.25
"""Share of all subscriptions touched by a flush from which on picking each client's frames out of a table of all
symbols is cheaper than handing each frame to each subscriber."""

SINGLE = "single"
"""The format of `/ws/{symbol}`; every other format is the tuple of fields of a stream subscription."""


class FanoutConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """max_rate_hz: quotes a second and symbol that a subscriber is sent (null: every flush).

    flush_ms_min, flush_ms_max: bounds of the time between flushes. flush_share: largest part of that time
    that flushing itself may take before the flushes are spread out. client_buffer_bytes: unsent bytes above
    which a client counts as slow. slow_close_s: after so long it is closed, and so it is with more than
    client_events_max bars and other events waiting.
    """

    max_rate_hz: float | None = 10.0
    flush_ms_min: float = 5.0
    flush_ms_max: float = 50.0
    flush_share: float = 0.4
    client_buffer_bytes: int = 1 << 20
    client_events_max: int = 10_000
    slow_close_s: float = 10.0
    max_symbols_per_client: int = 20_000

    def __post_init__(self) -> None:
        if self.max_rate_hz is not None and not self.max_rate_hz > 0:
            raise InvalidInput("max_rate_hz", self.max_rate_hz, "a number above 0, or null for every flush")
        if not 0 < self.flush_ms_min <= self.flush_ms_max:
            raise InvalidInput("flush_ms_min", self.flush_ms_min, "a number above 0, at most flush_ms_max")
        if not 0 < self.flush_share < 1:
            raise InvalidInput("flush_share", self.flush_share, "a number between 0 and 1")
        for name in ("client_buffer_bytes", "client_events_max", "slow_close_s", "max_symbols_per_client"):
            if not getattr(self, name) > 0:
                raise InvalidInput(name, getattr(self, name), "a number above 0")


class Outlet(Protocol):
    """Where a client's bytes go. Calls never block."""

    def write(self, data: bytes) -> None:
        """Send whole frames. Nothing happens once the connection is closing."""
        ...

    def unsent(self) -> int:
        """Bytes handed over that the client has not taken."""
        ...

    def close(self, code: CloseCode) -> None: ...


class Client:
    """One connection's subscriptions and what waits for the next flush."""

    __slots__ = (
        "bars",
        "events",
        "gathers",
        "missed",
        "outlet",
        "pending",
        "quotes",
        "single",
        "stalled_ns",
        "star_quotes",
    )

    def __init__(self, outlet: Outlet, *, single: bool) -> None:
        self.outlet = outlet
        self.single = single
        self.pending: list[bytes] = []
        """Quotes: a later one of the same symbol makes up for a lost one."""
        self.events: list[bytes] = []
        """Bars and news, which nothing makes up for."""
        self.quotes: dict[int, Any] = {}
        """Symbol number → format."""
        self.gathers: dict[Any, _Gather] | None = None
        """Format → what picks this client's frames out of those of all symbols; None until it is needed."""
        self.star_quotes: Any = None
        """The format in which this client gets all symbols, or None."""
        self.bars: dict[str, set[int] | None] = {}
        """Channel → symbol numbers, None for all."""
        self.stalled_ns: int | None = None
        self.missed = 0

    def gather(self, form: Any) -> _Gather | None:
        if self.gathers is None:
            numbers: dict[Any, list[int]] = {}
            for number, its_form in self.quotes.items():
                numbers.setdefault(its_form, []).append(number)
            # `itemgetter` of a single item gives no tuple.
            self.gathers = {f: itemgetter(*n) if len(n) > 1 else _only(n[0]) for f, n in numbers.items()}
        return self.gathers.get(form)


def _only(number: int) -> _Gather:
    return lambda slots: (slots[number],)


class _Topic:
    """Subscribers of one kind of message: by symbol, and of all symbols."""

    __slots__ = ("by_symbol", "everything")

    def __init__(self) -> None:
        self.by_symbol: dict[int, list[_Append]] = {}
        self.everything: list[_Append] = []

    def add(self, append: _Append, symbol: int | None) -> None:
        if symbol is None:
            self.everything.append(append)
        else:
            self.by_symbol.setdefault(symbol, []).append(append)

    def remove(self, append: _Append, symbol: int | None) -> None:
        if symbol is None:
            self.everything.remove(append)
            return
        appends = self.by_symbol[symbol]
        appends.remove(append)
        if not appends:
            del self.by_symbol[symbol]

    def of(self, symbol: int) -> list[_Append]:
        """Everyone who wants this symbol."""
        return [*self.by_symbol.get(symbol, ()), *self.everything]

    def __bool__(self) -> bool:
        return bool(self.by_symbol or self.everything)


class Hub:
    """The live path behind the pipeline. Everything runs on the event loop's thread."""

    def __init__(
        self,
        latest: LatestTable,
        sequencer: Sequencer,
        clock: Clock,
        config: FanoutConfig | None = None,
        metrics: Metrics | None = None,
        stale_after_ns: int = 5_000_000_000,
    ) -> None:
        self.config = config or FanoutConfig()
        """Read by the doors."""
        self.epoch = sequencer.epoch
        self._latest = latest
        self._sequencer = sequencer
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._stale_after_ns = stale_after_ns
        self._rate = RateLimit(self.config.max_rate_hz)
        self._clients: dict[Client, None] = {}
        self._quotes: dict[Any, _Topic] = {}
        self._bars: dict[tuple[str, bool], _Topic] = {}
        self._wanted = np.zeros(0, np.int32)
        self._wants_all = 0
        self._subscriptions = 0
        self._slots: list[bytes] = []
        self._dirty = np.zeros(64, np.bool_)
        self._changed_ns = np.zeros(0, np.int64)
        self._is_stale = np.zeros(0, np.bool_)
        self._any_dirty = False
        self._star_frames: dict[Any, int] = {}
        """Format → quotes in what this flush gave to those who get all symbols."""
        self._structs: dict[tuple[Any, bool], type[msgspec.Struct]] = {}
        self._spacing_ns = round(self.config.flush_ms_min * 1e6)
        self._flushed_ns = -self._spacing_ns
        self._timer: asyncio.TimerHandle | None = None
        self.messages_sent = 0

    # --- clients -------------------------------------------------------------------------------------------

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def seq(self) -> int:
        """The position of the newest accepted event."""
        return self._sequencer.seq

    def connect(self, outlet: Outlet, *, single: bool = False) -> Client:
        """A new connection. single: of `/ws/{symbol}`, with that door's message formats."""
        client = Client(outlet, single=single)
        self._clients[client] = None
        self._metrics.ws_clients.set(len(self._clients))
        return client

    def disconnect(self, client: Client) -> None:
        """Forget a client and all it subscribed to. Idempotent."""
        if client not in self._clients:
            return
        self.unsubscribe_quotes(client, None)
        self.unsubscribe_quotes(client, list(client.quotes))
        for channel, symbols in list(client.bars.items()):
            self.unsubscribe_bars(client, channel, None if symbols is None else list(symbols))
        del self._clients[client]
        self._metrics.ws_clients.set(len(self._clients))

    def subscribe_quotes(self, client: Client, symbols: Sequence[int] | None, form: Any = DEFAULT_FIELDS) -> None:
        """Send quotes of these symbols (None: of all, also later ones) in a format, from the next flush on.

        A symbol that was subscribed in another format changes to this one.
        """
        if symbols is None:
            if client.star_quotes == form:
                return
            self.unsubscribe_quotes(client, None)
            self.unsubscribe_quotes(client, list(client.quotes))
            client.star_quotes = form
            self._quotes.setdefault(form, _Topic()).add(client.pending.append, None)
            self._wants_all += 1
            return
        if client.star_quotes is not None:
            return
        self._grow(max(symbols, default=-1) + 1)
        new = [symbol for symbol in dict.fromkeys(symbols) if client.quotes.get(symbol) != form]
        if not new:
            return
        self.unsubscribe_quotes(client, new)
        client.gathers = None
        self._subscriptions += len(new)
        topic = self._quotes.setdefault(form, _Topic())  # not before: the last subscriber of a topic takes it along
        for symbol in new:
            client.quotes[symbol] = form
            topic.add(client.pending.append, symbol)
            self._wanted[symbol] += 1

    def unsubscribe_quotes(self, client: Client, symbols: Iterable[int] | None) -> None:
        """Stop quotes of these symbols; None ends a subscription to all."""
        if symbols is None:
            if client.star_quotes is not None:
                self._drop(self._quotes, client.star_quotes, client.pending.append, None)
                client.star_quotes = None
                self._wants_all -= 1
            return
        for symbol in symbols:
            if symbol in client.quotes:
                self._drop(self._quotes, client.quotes.pop(symbol), client.pending.append, symbol)
                self._wanted[symbol] -= 1
                self._subscriptions -= 1
                client.gathers = None

    def subscribe_bars(self, client: Client, channel: str, symbols: Sequence[int] | None) -> None:
        """Send the bars of a channel (`bars_1m`) of these symbols, None for all."""
        have = client.bars.get(channel, set())
        if have is None or (symbols is not None and not symbols):
            return
        topic = self._bars.setdefault((channel, client.single), _Topic())
        if symbols is None:
            for symbol in have:
                topic.remove(client.events.append, symbol)
            client.bars[channel] = None
            topic.add(client.events.append, None)
            return
        for symbol in dict.fromkeys(symbols):
            if symbol not in have:
                have.add(symbol)
                topic.add(client.events.append, symbol)
        client.bars[channel] = have

    def unsubscribe_bars(self, client: Client, channel: str, symbols: Iterable[int] | None) -> None:
        """Stop bars of these symbols; None ends the channel altogether."""
        have = client.bars.get(channel, set())
        key = (channel, client.single)
        if have is None:
            if symbols is None:
                self._drop(self._bars, key, client.events.append, None)
                del client.bars[channel]
            return
        for symbol in list(have) if symbols is None else symbols:
            if symbol in have:
                have.discard(symbol)
                self._drop(self._bars, key, client.events.append, symbol)
        if not have:
            client.bars.pop(channel, None)

    def bar_channels(self) -> set[str]:
        """The bar channels that somebody listens to."""
        return {channel for channel, _ in self._bars}

    def bar_symbols(self, channel: str) -> set[int] | None:
        """The symbols whose bars of a channel are wanted, None for all."""
        wanted: set[int] = set()
        for single in (False, True):
            topic = self._bars.get((channel, single))
            if topic is not None:
                if topic.everything:
                    return None
                wanted.update(topic.by_symbol)
        return wanted

    @staticmethod
    def _drop(topics: dict[Any, _Topic], key: Any, append: _Append, symbol: int | None) -> None:
        topic = topics[key]
        topic.remove(append, symbol)
        if not topic:
            del topics[key]

    def _grow(self, size: int) -> None:
        if size > len(self._wanted):
            self._wanted = _grown(self._wanted, size)
        if size > len(self._dirty):
            self._dirty = _grown(self._dirty, size)
        if size > len(self._changed_ns):
            self._changed_ns = _grown(self._changed_ns, size)
        if size > len(self._is_stale):
            self._is_stale = _grown(self._is_stale, size)

    # --- what is sent --------------------------------------------------------------------------------------

    def mark(self, ids: Ids) -> None:
        """These symbols have a newer value. Flushes now if the last flush is long enough ago, else soon."""
        if not len(ids):
            return
        self._grow(len(self._latest.symbols))
        self._is_stale[ids] = False
        if not self._quotes:
            return
        self._dirty[ids] = True
        self._changed_ns[ids] = self._clock.monotonic_ns()
        self._any_dirty = True
        self._flush_when_due()

    def snapshot(self, client: Client, symbols: Sequence[int] | None) -> None:
        """Write the current value of each of these symbols (None: all) that has one, marked as a snapshot."""
        known = self._latest.known(None if symbols is None else np.array(symbols, np.intp))
        if client.star_quotes is not None:
            by_form: dict[Any, list[int]] = {client.star_quotes: known.tolist()}
        else:
            by_form = {}
            for symbol in known.tolist():
                if symbol in client.quotes:
                    by_form.setdefault(client.quotes[symbol], []).append(symbol)
        frames = [f for form, ids in by_form.items() for f in self._frames(form, np.array(ids, np.intp), snapshot=True)]
        if frames:
            self._count(len(frames))
            client.outlet.write(b"".join(frames))

    def deliver(self, client: Client) -> None:
        """Write what waits for a client's next flush now."""
        if client.pending or client.events:
            self._write(client, self._clock.monotonic_ns())

    def publish_bars(self, bars: BarBatch, only: Callable[[int], bool] | None = None) -> None:
        """Send bars to those who listen to their channel. only: which symbol numbers, by default all."""
        channel = f"bars_{bars.interval.name}"
        stream, single = self._bars.get((channel, False)), self._bars.get((channel, True))
        if stream is None and single is None:
            return
        numbers = [self._latest.symbols.add(name) for name in bars.symbols]
        listened = [
            row
            for row, number in enumerate(numbers)
            if any(t is not None and (t.everything or number in t.by_symbol) for t in (stream, single))
            and (only is None or only(number))
        ]
        if not listened:
            return
        seq = self._sequencer.take(len(listened))
        for bar, row in zip(bars.take(np.array(listened, np.intp)).bars(0), listened, strict=True):
            values = BarValues(format_ns(bar.ts_ns), bar.open, bar.high, bar.low, bar.close, bar.volume)
            timeframe = bars.interval.timeframe
            if stream is not None and (appends := stream.of(numbers[row])):
                message = StreamBarUpdate(bar.symbol, seq, channel, timeframe, bar.side, bar.status, values)
                _give(appends, text_frame(encode(message)))
            if single is not None and (appends := single.of(numbers[row])):
                alone = SingleBarUpdate(bar.symbol, seq, timeframe, bar.side, bar.status, values)
                _give(appends, text_frame(encode(alone)))
            seq += 1
        self._flush_when_due()

    def broadcast(self, message: msgspec.Struct) -> None:
        """Send one message to every client of the stream door."""
        frame = text_frame(encode(message))
        for client in self._clients:
            if not client.single:
                client.events.append(frame)
        self._flush_when_due()

    def note_stale(self, now_ns: int) -> None:
        """Tell subscribers of symbols that have just passed the staleness threshold."""
        self._grow(len(self._latest.symbols))
        ids = self._latest.known()
        silent = ids[(now_ns - self._latest.time_event_ns(ids) > self._stale_after_ns) & ~self._is_stale[ids]]
        self._is_stale[silent] = True
        for number in silent.tolist():
            appends: list[_Append] = []
            for form, topic in self._quotes.items():
                if form is not SINGLE:
                    appends += topic.of(number)
            if appends:
                _give(appends, self._stale_frame(number))
        self._flush_when_due()

    def _stale_frame(self, number: int) -> bytes:
        row = self._latest.rows([number])[0]
        return text_frame(encode(StaleMessage(row.symbol, row.seq, format_ns(row.time_event_ns))))

    # --- the flush -----------------------------------------------------------------------------------------

    def _flush_when_due(self) -> None:
        if self._timer is not None:
            return
        wait_ns = self._flushed_ns + self._spacing_ns - self._clock.monotonic_ns()
        if wait_ns <= self._spacing_ns // 4:  # rather with a batch that has just come than a little after it
            self.flush()
        else:
            self._flush_in(wait_ns)

    def _flush_in(self, wait_ns: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(wait_ns / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Encode what is dirty and may be published, and write to each client what waits for it."""
        began_ns = self._clock.monotonic_ns()
        self._flushed_ns = began_ns
        if self._any_dirty:
            self._encode_dirty(began_ns)
        for client in list(self._clients):
            if client.pending or client.events:
                self._write(client, began_ns)
            elif client.stalled_ns is not None:
                self._retry(client, began_ns)
        self._star_frames.clear()
        took_ns = self._clock.monotonic_ns() - began_ns
        self._metrics.flush_seconds.observe(took_ns / 1e9)
        wanted_ns = took_ns / self.config.flush_share
        low, high = self.config.flush_ms_min * 1e6, self.config.flush_ms_max * 1e6
        self._spacing_ns = round(min(max(0.8 * self._spacing_ns + 0.2 * wanted_ns, low), high))
        if self._timer is None and (self._any_dirty or any(c.stalled_ns is not None for c in self._clients)):
            # Never at once, however long this one took: sockets drain in between.
            self._flush_in(max(self._spacing_ns - took_ns, 0))

    def _encode_dirty(self, now_ns: int) -> None:
        ids = np.flatnonzero(self._dirty)
        if not self._wants_all:
            wanted = self._wanted[ids] > 0
            if not wanted.all():
                self._dirty[ids[~wanted]] = False
                ids = ids[wanted]
        admitted = self._rate.admit(ids, now_ns, self._changed_ns[ids])
        self._any_dirty = not admitted.all()
        ids = ids[admitted]
        self._dirty[ids] = False
        if not len(ids):
            return
        sent = int(self._wanted[ids].sum())
        is_dense = sent > _DENSE * self._subscriptions
        for form, topic in self._quotes.items():
            by_symbol = topic.by_symbol
            if topic.everything:
                frames = self._frames(form, ids)
                blob = b"".join(frames)
                sent += len(frames) * len(topic.everything)
                self._star_frames[form] = len(frames)
                _give(topic.everything, blob)
                pairs = zip(ids.tolist(), frames, strict=True)
            else:
                chosen = ids
                if len(by_symbol) < len(ids):
                    chosen = np.array([i for i in ids.tolist() if i in by_symbol], np.intp)
                pairs = zip(chosen.tolist(), self._frames(form, chosen), strict=True)
            if is_dense:
                self._gather(form, pairs)
                continue
            for symbol, frame in pairs:
                appends = by_symbol.get(symbol)
                if appends:
                    for append in appends:
                        append(frame)
        self._count(sent)

    def _gather(self, form: Any, pairs: Iterable[tuple[int, bytes]]) -> None:
        """Hand frames out client by client instead of symbol by symbol."""
        slots = self._slots
        if len(slots) < len(self._wanted):
            slots.extend([b""] * (len(self._wanted) - len(slots)))
        filled = []
        for symbol, frame in pairs:
            slots[symbol] = frame
            filled.append(symbol)
        for client in self._clients:
            gather = client.gather(form)
            if gather is not None:
                client.pending.extend(filter(None, gather(slots)))
        for symbol in filled:
            slots[symbol] = b""

    def _count(self, messages: int) -> None:
        self.messages_sent += messages
        self._metrics.ws_messages.inc(messages)

    def _frames(self, form: Any, ids: Ids, *, snapshot: bool = False) -> list[bytes]:
        """The current values of these symbols as frames in a format."""
        t = self._latest
        numbers = ids.tolist()
        names = [t.symbols.names[i] for i in numbers]
        events = t.time_event_ns(ids)
        stamps = [format_ns(ns) for ns in events.tolist()]
        columns: dict[str, list[Any]] = {"symbol": names, "seq": t.seq[ids].tolist(), "timestamp": stamps}
        for field in _SINGLE_FIELDS if form == SINGLE else form:
            columns[field] = self._column(field, ids, events)
        if form == SINGLE:
            first = (self.epoch, True) if snapshot else ()
            rows = zip(*columns.values(), strict=True)
            return text_frames(encode_each(SingleQuoteUpdate(*row, *first) for row in rows))
        struct = self._structs.get((form, snapshot))
        if struct is None:
            struct = self._structs[form, snapshot] = quote_struct(form, snapshot=snapshot)
        return text_frames(encode_each(map(struct, *columns.values())))

    def _column(self, field: str, ids: Ids, events: npt.NDArray[np.int64]) -> list[Any]:
        t = self._latest
        values: npt.NDArray[Any]
        match field:
            case "midPrice":
                values = (t.bid[ids] + t.ask[ids]) / 2
            case "received":
                return [format_ns(ns) for ns in t.received_ns[ids].tolist()]
            case "source":
                return [t.source_names[i] for i in t.source[ids].tolist()]
            case "stale":
                values = self._clock.time_ns() - events > self._stale_after_ns
            case _:
                values = getattr(t, _COLUMN_OF_FIELD[field])[ids]
        numbers: list[Any] = values.tolist()  # NaN becomes null when it is encoded
        return numbers

    # --- clients that do not drain -------------------------------------------------------------------------

    def _write(self, client: Client, now_ns: int) -> None:
        pending, events = client.pending, client.events
        if client.stalled_ns is None and client.outlet.unsent() <= self.config.client_buffer_bytes:
            client.outlet.write(b"".join(pending + events) if events else b"".join(pending))
            pending.clear()
            events.clear()
            return
        if client.stalled_ns is None:
            client.stalled_ns = now_ns
        missed = len(pending)
        if client.star_quotes in self._star_frames:  # one piece with many quotes
            missed += self._star_frames[client.star_quotes] - 1
        client.missed += missed
        self._metrics.ws_missed.inc(missed)
        pending.clear()
        self._retry(client, now_ns)

    def _retry(self, client: Client, now_ns: int) -> None:
        """A stalled client: bring it up to date if it has drained, close it if it took too long.

        Quotes it missed are made good by the latest value of each of its symbols; bars and events, which
        nothing later replaces, were kept for it.
        """
        assert client.stalled_ns is not None
        if client.outlet.unsent() > self.config.client_buffer_bytes // 4:
            too_long = now_ns - client.stalled_ns > self.config.slow_close_s * 1e9
            if too_long or len(client.events) > self.config.client_events_max:
                self._metrics.ws_closed_slow.inc()
                client.outlet.close(SLOW_CLIENT)
                self.disconnect(client)
            return
        client.stalled_ns = None
        missed, client.missed = client.missed, 0
        frames = [] if client.single else [text_frame(encode(Lag(missed)))]
        if client.star_quotes is not None:
            forms = {client.star_quotes: self._latest.known()}
        else:
            forms = {
                form: np.array([i for i, f in client.quotes.items() if f == form], np.intp)
                for form in dict.fromkeys(client.quotes.values())
            }
        self._grow(len(self._latest.symbols))
        for form, ids in forms.items():
            known = self._latest.known(ids)
            frames += self._frames(form, known)
            if not client.single:
                frames += [self._stale_frame(number) for number in known[self._is_stale[known]].tolist()]
        self._count(len(frames))
        frames += client.events
        client.events.clear()
        client.outlet.write(b"".join(frames))


_COLUMN_OF_FIELD = {
    "lastPrice": "last",
    "bidPrice": "bid",
    "askPrice": "ask",
    "bidSize": "bid_size",
    "askSize": "ask_size",
    "volume": "volume",
}
_SINGLE_FIELDS = (
    "bidPrice",
    "askPrice",
    "midPrice",
    "lastPrice",
    "bidSize",
    "askSize",
    "volume",
    "received",
    "source",
    "stale",
)


def _give(appends: Iterable[_Append], frame: bytes) -> None:
    for append in appends:
        append(frame)


def _grown(column: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    grown = np.zeros(max(size, 2 * len(column)), column.dtype)
    grown[: len(column)] = column
    return grown
