"""The hub in virtual time: its own timers run, on a loop whose clock jumps to the next of them.

What a client was sent is read back by a frame parser written from RFC 6455, not by the code that made the frames.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.fanout.hub import SINGLE, Client, FanoutConfig, Hub
from marketd.fanout.latest import LatestTable
from marketd.ingest.bars import BarBuilder
from marketd.ingest.sequence import Sequencer
from marketd.ingest.symbols import SymbolTable
from marketd.ingest.validate import ValidationConfig
from marketd.model import Interval, Quote, TickBatch, Trade
from marketd.pipeline import Pipeline
from marketd.telemetry import Metrics
from marketd.wire.close_codes import CloseCode
from marketd.wire.messages import DEFAULT_FIELDS, SourceStatusMessage

T0 = 1_772_461_800 * 10**9  # 2026-03-02T14:30:00Z
MINUTE = 60 * 10**9
ONE_MINUTE = Interval.parse("1m")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while everybody waits, and then at once."""

    def __init__(self) -> None:
        self.now_ns = 0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now_ns / 1e9


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits, for nothing"
        self._loop.now_ns += max(0, -int(-timeout * 1e9 // 1))
        return super().select(0)


class LoopClock:
    """The loop's time as a `Clock`."""

    def time_ns(self) -> int:
        return T0 + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return asyncio.get_running_loop().now_ns  # type: ignore[attr-defined]

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(body: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(body())


def messages(data: bytes) -> list[dict[str, Any]]:
    """Server-to-client frames, each a whole text message (RFC 6455, 5.2): FIN, opcode 1, no mask, shortest length."""
    out, at = [], 0
    while at < len(data):
        assert data[at] == 0x81
        length, at = data[at + 1], at + 2
        assert length < 128
        if length == 126:
            length, at = int.from_bytes(data[at : at + 2], "big"), at + 2
            assert length > 125
        elif length == 127:
            length, at = int.from_bytes(data[at : at + 8], "big"), at + 8
            assert length > 65_535
        assert at + length <= len(data)
        out.append(json.loads(data[at : at + length].decode()))
        at += length
    return out


class Socket:
    """The hub's port: takes everything, and tells what the other end has not read."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, list[dict[str, Any]]]] = []
        self.reading = True
        self.waiting = 0
        self.closed: CloseCode | None = None

    def write(self, data: bytes) -> None:
        assert self.closed is None
        self.writes.append((asyncio.get_running_loop().now_ns, messages(data)))  # type: ignore[attr-defined]
        if not self.reading:
            self.waiting += len(data)

    def unsent(self) -> int:
        return self.waiting

    def close(self, code: CloseCode) -> None:
        self.closed = code

    def stall(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading, self.waiting = True, 0

    def got(self, kind: str | None = None) -> list[dict[str, Any]]:
        return [m for _, write in self.writes for m in write if kind is None or m["type"] == kind]

    def taken(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What came since the last call."""
        out = self.got(kind)
        self.writes.clear()
        return out


class House:
    """A hub with what it needs around it."""

    def __init__(self, **config: Any) -> None:
        self.clock = LoopClock()
        self.metrics = Metrics()
        self.latest = LatestTable(SymbolTable())
        sequencer = Sequencer("epoch")
        self.hub = Hub(self.latest, sequencer, self.clock, FanoutConfig(**config), self.metrics)
        self.pipeline = Pipeline(
            self.clock,
            hub=self.hub,
            latest=self.latest,
            sequencer=sequencer,
            validation=ValidationConfig(max_jump=None),
            metrics=self.metrics,
        )
        self.pipeline.add_source("s")
        self.bars = BarBuilder("s")

    def tick(self, *prices: tuple[str, float]) -> None:
        now = self.clock.time_ns()
        quotes = [
            Quote(symbol=symbol, time_event_ns=now, time_received_ns=now, source="s", bid=p, ask=p + 1)
            for symbol, p in prices
        ]
        self.pipeline.take("s", quotes)

    def bar(self, symbol: str, price: float) -> None:
        event = Trade(symbol=symbol, time_event_ns=T0, time_received_ns=T0, source="s", price=price)
        self.bars.add(TickBatch.from_events([event]))
        running = self.bars.running(ONE_MINUTE, "trade", symbol)
        assert running is not None
        self.hub.publish_bars(running)

    def number(self, symbol: str) -> int:
        return self.pipeline.symbols.add(symbol)

    def numbers(self, symbols: str) -> list[int]:
        return [self.number(s) for s in symbols]

    def join(self, symbols: str | None = None, form: Any = DEFAULT_FIELDS) -> tuple[Socket, Client]:
        """A client with quotes of these symbols of one letter each, `*` for all."""
        socket = Socket()
        client = self.hub.connect(socket, single=form == SINGLE)
        if symbols is not None:
            self.hub.subscribe_quotes(client, None if symbols == "*" else self.numbers(symbols), form)
        return socket, client


def seqs(got: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(m["symbol"], m["seq"]) for m in got]


BIG = {"client_buffer_bytes": 1_000}
"""A buffer that a second of one symbol's quotes fills."""


async def fill(house: House, socket: Socket, symbol: str = "A") -> None:
    """Tick until the socket, which is not read, holds more than the hub accepts; the hub has noticed it."""
    socket.stall()
    for price in range(1_000, 1_012):
        house.tick((symbol, float(price)))
        await asyncio.sleep(0.11)
    assert socket.waiting > 1_000


# --- what the messages say ---------------------------------------------------------------------------------


def test_the_messages_of_the_stream_door() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join("A")
        house.tick(("A", 10.0))
        [first] = socket.taken()
        time = "2026-03-02T14:30:00Z"
        expected = {
            "type": "quote_update", "symbol": "A", "seq": 1, "timestamp": time, "lastPrice": None, "bidPrice": 10.0,
            "askPrice": 11.0, "bidSize": None, "askSize": None, "volume": None, "received": time, "source": "s",
            "stale": False,
        }  # fmt: skip
        assert first == expected
        house.hub.snapshot(client, [house.number("A")])
        assert socket.taken() == [expected | {"snapshot": True}]
        house.hub.subscribe_bars(client, "bars_1m", None)
        await asyncio.sleep(0.01)
        house.bar("A", 7.0)
        assert socket.taken() == [
            {
                "type": "bar_update", "symbol": "A", "seq": 2, "channel": "bars_1m", "timeframe": "M1", "side": "trade",
                "status": "live", "bar": {"ts": time, "o": 7.0, "h": 7.0, "l": 7.0, "c": 7.0, "v": None},
            }
        ]  # fmt: skip
        assert list(first) == list(expected)  # the order of the fields, too

    run(body)


def test_the_messages_of_a_symbols_own_door() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join("A", SINGLE)
        house.tick(("A", 10.0))
        time = "2026-03-02T14:30:00Z"
        expected = {
            "type": "quote_update", "symbol": "A", "seq": 1, "ts": time, "bid": 10.0, "ask": 11.0, "mid": 10.5,
            "last": None, "bid_size": None, "ask_size": None, "volume": None, "received": time, "source": "s",
            "stale": False,
        }  # fmt: skip
        assert socket.taken() == [expected]
        house.hub.snapshot(client, [house.number("A")])
        assert socket.taken() == [expected | {"epoch": "epoch", "snapshot": True}]
        house.hub.subscribe_bars(client, "bars_1m", house.numbers("A"))
        await asyncio.sleep(0.01)
        house.bar("A", 7.0)
        assert socket.taken() == [
            {
                "type": "bar_update", "symbol": "A", "seq": 2, "timeframe": "M1", "side": "trade", "status": "live",
                "bar": {"ts": time, "o": 7.0, "h": 7.0, "l": 7.0, "c": 7.0, "v": None},
            }
        ]  # fmt: skip
        # News of sources is for the stream door only, and so is the message about silence.
        house.hub.broadcast(SourceStatusMessage("s", connected=True, state="streaming", reason=None, time=time))
        house.hub.note_stale(T0 + 3_600 * 10**9)
        await asyncio.sleep(1)
        assert socket.taken() == []

    run(body)


def test_fields_limit_what_is_sent_and_absent_is_null() -> None:
    async def body() -> None:
        house = House()
        some, _ = house.join("A", ("midPrice", "stale"))
        none, _ = house.join("A", ())
        now = house.clock.time_ns()
        half = Quote(symbol="A", time_event_ns=now, time_received_ns=now, source="s", bid=1.0)
        house.pipeline.take("s", [half])
        base = {"type": "quote_update", "symbol": "A", "seq": 1, "timestamp": "2026-03-02T14:30:00Z"}
        assert some.taken() == [base | {"midPrice": None, "stale": False}]
        assert none.taken() == [base]

    run(body)


def test_times_and_staleness_are_those_of_the_event() -> None:
    async def body() -> None:
        house = House()
        socket, _ = house.join("A", ("received", "stale"))
        now = house.clock.time_ns()
        for age_ns in (5 * 10**9 + 1, 5 * 10**9):
            old = Quote(symbol="A", time_event_ns=now - age_ns, time_received_ns=now, source="s", bid=1.0)
            house.pipeline.take("s", [old])
            house.hub.flush()
        assert [(m["timestamp"], m["received"], m["stale"]) for m in socket.got()] == [
            ("2026-03-02T14:29:54.999999999Z", "2026-03-02T14:30:00Z", True),
            ("2026-03-02T14:29:55Z", "2026-03-02T14:30:00Z", False),
        ]

    run(body)


# --- subscriptions -----------------------------------------------------------------------------------------


def test_a_symbol_subscribed_in_another_format_changes_to_it() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join("AB")
        house.hub.subscribe_quotes(client, house.numbers("A"), ("bidPrice",))
        house.tick(("A", 1.0), ("B", 2.0))
        got = {m["symbol"]: m for m in socket.taken()}
        assert got["A"].keys() == {"type", "symbol", "seq", "timestamp", "bidPrice"}
        assert "askPrice" in got["B"]
        house.hub.subscribe_quotes(client, house.numbers("BA"), ("bidPrice",))
        await asyncio.sleep(0.2)
        house.tick(("A", 1.0), ("B", 2.0))
        assert [len(m) for m in socket.taken()] == [5, 5]

    run(body)


@pytest.mark.parametrize("others", [0, 1])
def test_all_symbols_after_some_in_the_same_format(others: int) -> None:
    async def body() -> None:
        house = House()
        rest = [house.join("A") for _ in range(others)]
        socket, client = house.join("A")
        house.hub.subscribe_quotes(client, None)
        house.hub.subscribe_quotes(client, None)
        house.tick(("A", 1.0), ("B", 2.0))
        assert seqs(socket.taken()) == [("A", 1), ("B", 2)]
        house.hub.unsubscribe_quotes(client, None)
        house.hub.subscribe_quotes(client, house.numbers("B"))
        await asyncio.sleep(1)
        house.tick(("A", 1.0), ("B", 2.0))
        assert seqs(socket.taken()) == [("B", 4)]
        house.hub.disconnect(client)
        house.hub.disconnect(client)
        await asyncio.sleep(1)
        house.tick(("A", 1.0), ("B", 2.0))
        assert socket.taken() == []
        assert [seqs(s.got()) for s, _ in rest] == [[("A", 1), ("A", 3), ("A", 5)]] * others
        assert house.hub.clients == others
        assert house.metrics.registry.get_sample_value("ws_clients_gauge") == others

    run(body)


def test_bars_of_some_then_all_then_none() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join()
        hub, [a, b] = house.hub, house.numbers("AB")
        hub.subscribe_bars(client, "bars_1m", [a, a])
        assert (hub.bar_channels(), hub.bar_symbols("bars_1m")) == ({"bars_1m"}, {a})
        house.bar("A", 1.0)
        house.bar("B", 2.0)
        hub.subscribe_bars(client, "bars_1m", None)
        assert hub.bar_symbols("bars_1m") is None
        house.bar("B", 3.0)
        hub.unsubscribe_bars(client, "bars_1m", None)
        assert (hub.bar_channels(), hub.bar_symbols("bars_1m")) == (set(), set())
        house.bar("B", 4.0)
        hub.subscribe_bars(client, "bars_5m", [b])
        house.bar("B", 5.0)
        hub.unsubscribe_bars(client, "bars_5m", [a, b])
        hub.subscribe_bars(client, "bars_5m", [])
        assert hub.bar_channels() == set()
        await asyncio.sleep(0.1)
        assert [(m["symbol"], m["bar"]["c"]) for m in socket.taken()] == [("A", 1.0), ("B", 3.0)]

    run(body)


def test_disconnecting_ends_bars_too() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join("*")
        house.hub.subscribe_bars(client, "bars_1m", None)
        house.hub.subscribe_bars(client, "bars_1h", house.numbers("AB"))
        single, alone = house.join("A", SINGLE)
        house.hub.subscribe_bars(alone, "bars_1m", house.numbers("A"))
        house.hub.disconnect(client)
        assert house.hub.bar_channels() == {"bars_1m"}
        assert house.hub.bar_symbols("bars_1m") == set(house.numbers("A"))
        house.tick(("A", 1.0))
        house.bar("A", 2.0)
        await asyncio.sleep(0.1)
        assert socket.got() == []
        assert [m["type"] for m in single.got()] == ["quote_update", "bar_update"]

    run(body)


def test_only_chosen_bars_are_published_and_unheard_ones_take_no_number() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join()
        house.bar("A", 1.0)
        assert house.hub.seq == 0
        house.hub.subscribe_bars(client, "bars_1m", house.numbers("AB"))
        running = house.bars.running(ONE_MINUTE, "trade", "A")
        assert running is not None
        house.hub.publish_bars(running, lambda number: number != house.number("A"))
        house.bar("C", 1.0)
        assert (house.hub.seq, socket.got()) == (0, [])

    run(body)


def test_snapshots_of_symbols_without_a_value_are_left_out() -> None:
    async def body() -> None:
        house = House()
        names = [f"S{i}" for i in range(200)]
        numbers = [house.number(name) for name in names]
        socket, client = house.join()
        house.hub.subscribe_quotes(client, numbers)
        house.hub.snapshot(client, numbers)
        assert socket.writes == []
        house.tick(("S150", 1.0))
        await asyncio.sleep(0.1)
        socket.taken()
        house.hub.snapshot(client, numbers)
        assert [(m["symbol"], m["snapshot"]) for m in socket.taken()] == [("S150", True)]
        star, everything = house.join("*")
        house.hub.snapshot(everything, None)
        house.hub.snapshot(everything, numbers)
        assert seqs(star.taken()) == [("S150", 1), ("S150", 1)]

    run(body)


def test_a_client_that_stalls_with_symbols_that_have_no_value_yet() -> None:
    async def body() -> None:
        house = House(**BIG)
        numbers = [house.number(f"S{i}") for i in range(200)]
        socket, client = house.join()
        house.hub.subscribe_quotes(client, numbers)
        await fill(house, socket, "S0")
        socket.taken()
        socket.resume()
        await asyncio.sleep(0.1)
        got = socket.taken()
        assert [m["type"] for m in got] == ["lag", "quote_update"]
        assert (got[1]["symbol"], got[1]["bidPrice"]) == ("S0", 1_011.0)

    run(body)


def test_symbols_that_come_later_belong_to_all() -> None:
    async def body() -> None:
        house = House(max_rate_hz=None)
        star, _ = house.join("*")
        for count in (1, 60, 70, 300):
            await asyncio.sleep(0.1)
            house.tick(*((f"S{i}", 1.0) for i in range(count)))
            assert [m["symbol"] for m in star.taken()] == [f"S{i}" for i in range(count)]

    run(body)


# --- rate and order ----------------------------------------------------------------------------------------


def test_the_last_of_a_burst_arrives_when_the_rate_allows_it() -> None:
    async def body() -> None:
        house = House()
        socket, _ = house.join("A")
        for price in range(1, 6):
            house.tick(("A", float(price)))
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
        got = [(at / 1e6, [m["bidPrice"] for m in write]) for at, write in socket.writes]
        assert [prices for _, prices in got] == [[1.0], [2.0], [5.0]]
        assert got[0][0] == 0
        assert 10 <= got[1][0] <= 20
        assert 100 <= got[2][0] <= 110

    run(body)


def test_flushes_asked_for_in_between_start_no_second_timer() -> None:
    async def body() -> None:
        house = House()
        house.join("A")
        for price in range(1, 11):
            house.tick(("A", float(price)))
            house.hub.flush()
        waiting = [h for h in asyncio.get_running_loop()._scheduled if not h.cancelled()]  # type: ignore[attr-defined]
        assert len(waiting) == 1

    run(body)


def test_a_value_that_nobody_wanted_is_not_sent_to_who_comes_later() -> None:
    async def body() -> None:
        house = House()
        house.join("B")
        house.tick(("A", 1.0))
        await asyncio.sleep(0.1)
        socket, _ = house.join("A")
        house.tick(("B", 1.0))
        await asyncio.sleep(0.1)
        assert socket.got() == []

    run(body)


def test_quotes_come_before_the_bars_that_were_made_with_them() -> None:
    async def body() -> None:
        house = House()
        socket, client = house.join("A")
        house.hub.subscribe_bars(client, "bars_1m", None)
        house.tick(("A", 1.0))
        house.tick(("A", 2.0))
        house.bar("A", 3.0)
        await asyncio.sleep(0.1)
        assert [(m["type"], m["seq"]) for m in socket.got()] == [
            ("quote_update", 1),
            ("quote_update", 2),
            ("bar_update", 3),
        ]

    run(body)


def test_one_flush_is_one_write_a_client() -> None:
    async def body() -> None:
        house = House()
        sockets = [house.join(symbols)[0] for symbols in ("ABC", "AB", "*")]
        house.tick(("A", 1.0), ("B", 2.0), ("C", 3.0))
        assert [[seqs(write) for _, write in s.writes] for s in sockets] == [
            [[("A", 1), ("B", 2), ("C", 3)]],
            [[("A", 1), ("B", 2)]],
            [[("A", 1), ("B", 2), ("C", 3)]],
        ]
        assert house.hub.messages_sent == 8

    run(body)


def test_a_flush_that_takes_long_never_starts_the_next_one_itself() -> None:
    async def body() -> None:
        house = House(**BIG)

        class Tedious(Socket):
            def unsent(self) -> int:
                asyncio.get_running_loop().now_ns += 10**9  # type: ignore[attr-defined]
                return 10**9

        socket = Tedious()
        client = house.hub.connect(socket)
        house.hub.subscribe_quotes(client, None)
        entered = deepest = 0
        flush = house.hub.flush

        def counted(*args: Any) -> None:
            nonlocal entered, deepest
            entered += 1
            deepest = max(deepest, entered)
            flush(*args)
            entered -= 1

        house.hub.flush = counted  # type: ignore[method-assign]
        house.tick(("A", 1.0))
        house.tick(("A", 2.0))
        await asyncio.sleep(30)
        assert deepest == 1
        assert socket.closed == (4508, "slow client: it did not read for too long")

    run(body)


# --- silence -----------------------------------------------------------------------------------------------


def test_silence_is_told_once_and_again_after_it_was_broken() -> None:
    async def body() -> None:
        house = House()
        [stream, star], [single] = [house.join("A")[0], house.join("*")[0]], [house.join("A", SINGLE)[0]]
        house.tick(("A", 1.0), ("B", 1.0))
        for socket in (stream, star, single):
            socket.taken()
        house.hub.note_stale(T0 + 5 * 10**9)
        await asyncio.sleep(0.1)
        assert stream.taken() + star.taken() == []
        for _ in range(2):
            house.hub.note_stale(T0 + 5 * 10**9 + 1)
        await asyncio.sleep(0.1)
        told = {"type": "stale", "symbol": "A", "seq": 1, "timestamp": "2026-03-02T14:30:00Z", "stale": True}
        assert stream.taken() == [told]
        assert star.taken() == [told, told | {"symbol": "B", "seq": 2}]
        house.tick(("A", 2.0))
        await asyncio.sleep(0.1)
        assert [m["type"] for m in stream.taken()] == ["quote_update"]
        house.hub.note_stale(house.clock.time_ns() + 6 * 10**9)
        await asyncio.sleep(0.1)
        assert [(m["type"], m["seq"]) for m in stream.taken()] == [("stale", 3)]
        assert {m["type"] for m in single.got()} == {"quote_update"}

    run(body)


def test_a_client_that_stalled_learns_of_the_silence_it_missed() -> None:
    async def body() -> None:
        house = House(**BIG, slow_close_s=60.0)
        socket, _ = house.join("AB", ("bidPrice",))
        house.tick(("B", 5.0))
        socket.stall()
        socket.waiting = 1_001
        house.tick(("A", 1.0))
        await asyncio.sleep(6)
        house.tick(("B", 6.0))
        house.hub.note_stale(house.clock.time_ns())
        await asyncio.sleep(0.1)
        socket.taken()
        socket.resume()
        await asyncio.sleep(0.1)
        got = socket.taken()
        assert [(m["type"], m.get("symbol"), m.get("bidPrice")) for m in got] == [
            ("lag", None, None),
            ("quote_update", "A", 1.0),
            ("quote_update", "B", 6.0),
            ("stale", "A", None),
        ]

    run(body)


# --- clients that do not read ------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", ["ABC", "*"])
def test_a_client_that_reads_again_is_told_how_much_it_missed_and_gets_the_latest(symbols: str) -> None:
    async def body() -> None:
        house = House(**BIG)
        socket, client = house.join(symbols)
        house.hub.subscribe_bars(client, "bars_1m", None)
        other, _ = house.join("ABC")
        await asyncio.sleep(1)
        socket.waiting = 1_001
        for price in range(1, 11):
            house.tick(("A", price * 1.0), ("B", price * 2.0))
            house.bar("A", price * 3.0)
            await asyncio.sleep(0.1)
        assert socket.got() == []
        assert len(other.got()) == 20
        socket.waiting = 250  # a quarter of the buffer
        await asyncio.sleep(0.1)
        got = socket.taken()
        assert got[0] == {"type": "lag", "conflated": 20}
        assert [(m["symbol"], m["bidPrice"], m["seq"]) for m in got[1:3]] == [("A", 10.0, 28), ("B", 20.0, 29)]
        assert [(m["type"], m["bar"]["c"]) for m in got[3:]] == [("bar_update", p * 3.0) for p in range(1, 11)]
        assert house.metrics.registry.get_sample_value("ws_missed_messages_total") == 20
        house.tick(("A", 50.0))
        await asyncio.sleep(0.1)
        assert [m["bidPrice"] for m in socket.taken()] == [50.0]

    run(body)


def test_a_quarter_of_the_buffer_must_be_free_before_it_is_written_to_again() -> None:
    async def body() -> None:
        house = House(**BIG)
        socket, _ = house.join("A")
        socket.waiting = 1_000
        house.tick(("A", 1.0))
        assert len(socket.taken()) == 1  # not above the limit
        socket.waiting = 1_001
        house.tick(("A", 2.0))
        for waiting in (1_001, 1_000, 251):
            socket.waiting = waiting
            await asyncio.sleep(0.5)
            assert socket.writes == []
        socket.waiting = 250
        await asyncio.sleep(0.1)
        assert [m.get("bidPrice") for m in socket.taken()] == [None, 2.0]

    run(body)


def test_the_door_of_one_symbol_has_no_message_for_lag() -> None:
    async def body() -> None:
        house = House(**BIG)
        socket, _ = house.join("A", SINGLE)
        await fill(house, socket)
        socket.taken()
        socket.resume()
        await asyncio.sleep(0.1)
        assert [(m["type"], m["bid"]) for m in socket.got()] == [("quote_update", 1_011.0)]

    run(body)


@pytest.mark.parametrize("form", [DEFAULT_FIELDS, SINGLE])
def test_who_takes_too_long_is_closed_and_nobody_else_notices(form: Any) -> None:
    async def body() -> None:
        house = House(**BIG, slow_close_s=2.0)
        slow, client = house.join("A", form)
        quick, _ = house.join("A")
        slow.waiting = 2_000
        began_ns = asyncio.get_running_loop().now_ns  # type: ignore[attr-defined]
        house.tick(("A", 1.0))
        await asyncio.sleep(1.9)
        assert slow.closed is None
        await asyncio.sleep(0.2)
        assert slow.closed is not None
        assert (slow.closed.code, slow.writes, house.hub.clients) == (4508, [], 1)
        house.tick(("A", 2.0))
        await asyncio.sleep(1)
        assert [m["bidPrice"] for m in quick.got()] == [1.0, 2.0]
        house.hub.disconnect(client)  # its door does this as well
        assert began_ns == 0
        assert house.metrics.registry.get_sample_value("ws_closed_slow_total") == 1

    run(body)


def test_a_client_with_too_many_bars_waiting_is_closed_before_its_time() -> None:
    async def body() -> None:
        house = House(**BIG, client_events_max=10)
        socket, client = house.join()
        house.hub.subscribe_bars(client, "bars_1m", None)
        socket.waiting = 2_000
        for price in range(1, 11):
            house.bar("A", float(price))
            await asyncio.sleep(0.01)
        assert socket.closed is None
        house.bar("A", 11.0)
        await asyncio.sleep(0.01)
        assert socket.closed is not None
        assert socket.closed.code == 4508

    run(body)


def test_news_waits_for_who_stalls_and_is_not_lost() -> None:
    async def body() -> None:
        house = House(**BIG)
        socket, _ = house.join("A")
        socket.waiting = 2_000
        status = SourceStatusMessage("s", connected=False, state="reconnecting", reason="gone", time="t")
        house.hub.broadcast(status)
        await asyncio.sleep(1)
        assert socket.writes == []
        socket.resume()
        await asyncio.sleep(0.1)
        assert socket.got() == [
            {"type": "lag", "conflated": 0},
            {
                "type": "source_status", "source": "s", "connected": False, "state": "reconnecting", "reason": "gone",
                "time": "t",
            },
        ]  # fmt: skip

    run(body)


# --- anything may happen -----------------------------------------------------------------------------------

SYMBOLS = "ABCD"
clients = st.integers(0, 3)
subsets = st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=4, unique=True).map("".join)
forms = st.sampled_from([DEFAULT_FIELDS, ("bidPrice",)])
steps = st.one_of(
    st.tuples(st.just("burst"), subsets, st.integers(1, 60), st.sampled_from([0, 1, 3, 20, 97, 100, 103])),
    st.tuples(st.just("burst"), subsets, st.integers(1, 60), st.sampled_from([0, 1, 3, 20, 97, 100, 103])),
    st.tuples(st.just("bar"), subsets),
    st.tuples(st.just("wait"), st.integers(1, 1_500)),
    st.tuples(st.just("subscribe"), clients, subsets, forms, st.booleans()),
    st.tuples(st.just("unsubscribe"), clients, subsets),
    st.tuples(st.just("star"), clients, forms, st.booleans()),
    st.tuples(st.just("unstar"), clients),
    st.tuples(st.just("stall"), clients, st.booleans()),
    st.tuples(st.just("resume"), clients),
)


class Watcher:
    """One client and what it must see: written down beside the hub, from what was asked and what happened."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.socket = Socket()
        self.client = house.hub.connect(self.socket)
        house.hub.subscribe_bars(self.client, "bars_1m", None)
        self.wanted: dict[str, Any] = {}
        self.star: Any = None
        self.due: dict[str, int] = {}
        """Symbol → number of the newest value it must have or get."""
        self.bars: list[float] = []
        self.stalled_at: int | None = None
        self.longest_stall_ns = 0

    def wants(self, symbol: str) -> bool:
        return self.star is not None or symbol in self.wanted

    def note_stall(self) -> None:
        if self.stalled_at is not None:
            self.longest_stall_ns = max(self.longest_stall_ns, self.house.clock.monotonic_ns() - self.stalled_at)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, max_size=25), st.sampled_from([10.0, 10.0, 3.0, None]))
def test_whatever_happens(script: list[tuple[Any, ...]], rate: float | None) -> None:
    async def body() -> None:
        house = House(max_rate_hz=rate, client_buffer_bytes=2_000, slow_close_s=2.0)
        hub = house.hub
        watchers = [Watcher(house) for _ in range(4)]
        star, union = house.join("*"), house.join(SYMBOLS)
        born: dict[int, int] = {}  # number of a value → when it was accepted
        price_of: dict[int, float] = {}
        newest: dict[str, int] = {}
        counter = 0

        def tick(symbols: str) -> None:
            nonlocal counter
            values = []
            for symbol in symbols:
                counter += 1
                values.append((symbol, float(counter)))
            before = hub.seq
            for offset, (symbol, price) in enumerate(values, 1):
                born[before + offset], price_of[before + offset] = house.clock.monotonic_ns(), price
                newest[symbol] = before + offset
                for w in watchers:
                    if w.wants(symbol):
                        w.due[symbol] = before + offset
            house.tick(*values)

        for step in script:
            for w in watchers:
                w.note_stall()
            match step:
                case "burst", symbols, count, every_ms:
                    for _ in range(count):
                        tick(symbols)
                        if every_ms:
                            await asyncio.sleep(every_ms / 1e3)
                case "bar", symbols:
                    for symbol in symbols:
                        counter += 1
                        for w in watchers:
                            w.bars.append(float(counter))
                        house.bar(symbol, float(counter))
                case "wait", ms:
                    await asyncio.sleep(ms / 1e3)
                case "stall", i, full:
                    watchers[i].socket.stall()
                    if full:
                        watchers[i].socket.waiting += 2_001
                    if watchers[i].stalled_at is None:
                        watchers[i].stalled_at = house.clock.monotonic_ns()
                case "resume", i:
                    watchers[i].socket.resume()
                    watchers[i].stalled_at = None
                case kind, i, *what:
                    w = watchers[i]
                    if w.socket.closed is not None:
                        continue  # its door is gone, too
                    match kind, *what:
                        case "subscribe", symbols, form, snapshot if w.star is None:
                            hub.subscribe_quotes(w.client, house.numbers(symbols), form)
                            if snapshot:
                                hub.snapshot(w.client, house.numbers(symbols))
                            for symbol in symbols:
                                w.wanted[symbol] = form
                                if snapshot and symbol in newest:
                                    w.due[symbol] = newest[symbol]
                        case "unsubscribe", symbols if w.star is None:
                            hub.unsubscribe_quotes(w.client, house.numbers(symbols))
                            for symbol in symbols:
                                w.wanted.pop(symbol, None)
                                w.due.pop(symbol, None)
                        case "star", form, snapshot:
                            hub.subscribe_quotes(w.client, None, form)
                            if snapshot:
                                hub.snapshot(w.client, None)
                                w.due |= newest
                            w.star, w.wanted = form, {}
                        case ("unstar",) if w.star is not None:
                            hub.unsubscribe_quotes(w.client, None)
                            w.star, w.due = None, {}

        for w in watchers:
            w.note_stall()
            w.socket.resume()
        await asyncio.sleep(2)
        assert hub._timer is None, "nothing is left to send, yet the hub goes on"

        most = None if rate is None else rate + 1
        second_ns = 990_000_000  # tokens are taken as of the tick, a flush before the write
        slowest_ns = (0 if rate is None else 10**9 / rate) + 2 * 8.01e6  # a token, and a flush before and after
        for w in watchers:
            socket = w.socket
            seen: dict[str, int] = {}
            ordinary: dict[str, list[int]] = {}
            for at, write in socket.writes:
                recovering = write[0]["type"] == "lag"
                assert all(m["type"] != "lag" for m in write[1:])
                for m in write:
                    if m["type"] != "quote_update":
                        assert m["type"] in {"lag", "bar_update"}
                        continue
                    symbol, seq = m["symbol"], m["seq"]
                    assert m["bidPrice"] == price_of[seq]
                    assert seq >= seen.get(symbol, 0)  # (3)
                    seen[symbol] = seq
                    if not recovering and "snapshot" not in m:
                        ordinary.setdefault(symbol, []).append(at)
                        assert at - born[seq] <= slowest_ns
            for times in ordinary.values():  # (2)
                for first in times:
                    assert most is None or sum(first <= t < first + second_ns for t in times) <= most
            bars = [m["bar"]["c"] for m in socket.got("bar_update")]
            if socket.closed is None:
                assert {s: seen.get(s) for s in w.due} == w.due  # (1)
                assert bars == w.bars  # (4)
            else:
                assert socket.closed.code == 4508
                assert w.longest_stall_ns > 2 * 10**9
                assert bars == w.bars[: len(bars)]
        # (5): all symbols are the union of each, in the same writes
        assert star[0].writes == union[0].writes
        last = {m["symbol"]: m["seq"] for m in star[0].got()}
        assert last == newest

    run(body)


def test_the_timer_is_the_loops_own() -> None:
    """On a real loop, by a real clock: the value held back by the rate arrives without anybody's help."""
    from marketd.clock import SystemClock

    class Plain(Socket):
        def write(self, data: bytes) -> None:
            self.writes.append((0, messages(data)))

    async def body() -> None:
        clock = SystemClock()
        latest = LatestTable(SymbolTable())
        sequencer = Sequencer()
        hub = Hub(latest, sequencer, clock)
        pipeline = Pipeline(clock, hub=hub, latest=latest, sequencer=sequencer)
        pipeline.add_source("s")
        socket = Plain()
        hub.subscribe_quotes(hub.connect(socket), None)
        now = clock.time_ns()
        for price in (1.0, 2.0, 3.0):
            quote = Quote(symbol="A", time_event_ns=now, time_received_ns=now, source="s", bid=price)
            pipeline.take("s", [quote])
            hub.flush()
        assert [m["bidPrice"] for m in socket.got()] == [1.0, 2.0]
        async with asyncio.timeout(5):
            while len(socket.got()) < 3:
                await asyncio.sleep(0.005)
        assert [m["bidPrice"] for m in socket.got()] == [1.0, 2.0, 3.0]

    asyncio.run(body())


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"max_rate_hz": 0.0}, "max_rate_hz"),
        ({"max_rate_hz": -1.0}, "max_rate_hz"),
        ({"flush_ms_min": 0.0}, "flush_ms_min"),
        ({"flush_ms_min": 61.0}, "flush_ms_min"),
        ({"flush_share": 0.0}, "flush_share"),
        ({"flush_share": 1.0}, "flush_share"),
        ({"client_buffer_bytes": 0}, "client_buffer_bytes"),
        ({"client_events_max": 0}, "client_events_max"),
        ({"slow_close_s": 0.0}, "slow_close_s"),
        ({"max_symbols_per_client": 0}, "max_symbols_per_client"),
    ],
)
def test_impossible_settings_are_refused_by_name(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        FanoutConfig(**config)
    assert (caught.value.field, caught.value.value) == (field, config[field])
