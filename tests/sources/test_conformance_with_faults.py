"""The conformance suite itself: it passes what is right, wrapped however deep, and fails what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest

from marketd.clock import Clock, SystemClock
from marketd.faults import FaultConfig, FaultySource
from marketd.model import Connected, Disconnected, Ended, Quarantined, Quote, SourceEvent, TickBatch
from marketd.sources.contract import Capabilities, Subscriptions
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, SimulatorSource
from marketd.testing import ManualClock, SourceConformance, SourceHarness

START_NS = 1_700_000_000_000_000_000
KNOWN = ("A", "B", "C")


def simulator(clock: Clock) -> SimulatorSource:
    symbols = {s: SimulatedSymbol(scenario="jump", base_price=10.0, tick_interval_ms=10) for s in KNOWN}
    return SimulatorSource(SimulatorConfig(symbols=symbols), clock)


class TestAFaultySourceOfAFaultySource(SourceConformance):
    """Wrapped once here and once more by the suite, with a symbol that has faults of its own."""

    @asynccontextmanager
    async def make(self) -> AsyncIterator[SourceHarness]:
        clock = ManualClock(START_NS)
        faults = FaultConfig(
            enabled=True,
            delay_probability=0.3,
            delay_ms_range=[1, 20],
            duplicate_probability=0.1,
            disconnect_probability=0.02,
            disconnect_duration_ms=[5, 20],
        )
        own = {"B": FaultConfig(enabled=True, out_of_order_probability=0.5)}
        source = FaultySource(simulator(clock), faults, per_symbol=own, seed=3, clock=clock)
        yield SourceHarness(source=source, symbols=KNOWN, unknown_symbol="NOPE", clock=clock)


class TestOnTheMachinesClock(SourceConformance):
    @asynccontextmanager
    async def make(self) -> AsyncIterator[SourceHarness]:
        clock = SystemClock()
        yield SourceHarness(source=simulator(clock), symbols=KNOWN, unknown_symbol="NOPE", clock=clock)


class Steady:
    """A small correct source: one quote a symbol every 5 ms. Each wrong one below differs from it in one thing."""

    name = "steady"
    capabilities = Capabilities(stream_quotes=True)
    rows_in_all: int | None = None

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent = 0

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        refused = False
        for event in self.opening():
            yield [event]
        while self.rows_in_all is None or self.sent < self.rows_in_all:
            await self.clock.sleep(0.005)
            symbols = self.followed(wanted)
            if "NOPE" in wanted.symbols and not refused:
                refused = True
                yield self.refusal()
            if symbols:
                self.sent += 1
                yield self.tick(TickBatch.from_events([self.quote(symbol) for symbol in symbols]))
            if self.sent == 30:
                for event in self.reconnection():
                    yield [event]
        for event in self.ending():
            yield [event]

    def stamp(self) -> int:
        return self.clock.time_ns()

    def quote(self, symbol: str) -> Quote:
        return Quote(
            symbol=symbol,
            time_event_ns=self.stamp(),
            time_received_ns=self.stamp(),
            source="steady",
            bid=1.0,
            ask=2.0,
            last=1.5,
        )

    def opening(self) -> list[SourceEvent]:
        return [Connected(source="steady", time_received_ns=self.stamp())]

    def reconnection(self) -> list[SourceEvent]:
        lost = Disconnected(source="steady", time_received_ns=self.stamp(), reason="for once")
        return [lost, *self.opening()]

    def ending(self) -> list[SourceEvent]:
        return [Ended(source="steady", time_received_ns=self.stamp())]

    def followed(self, wanted: Subscriptions) -> list[str]:
        return [symbol for symbol in wanted.symbols if symbol != "NOPE"]

    def refusal(self) -> list[SourceEvent]:
        refused = Quarantined(
            source="steady", time_received_ns=self.stamp(), reason="unknown_symbol", detail="'NOPE'", symbol="NOPE"
        )
        return [refused]

    def tick(self, batch: TickBatch) -> list[SourceEvent]:
        return [batch]


async def _nothing() -> None:
    """`Steady` reconnects by itself."""


class Suite(SourceConformance):
    """The suite over one class of source, to be called by hand."""

    def __init__(self, source: type[Steady], deadline_s: float = 20.0) -> None:
        self.source = source
        self.deadline_s = deadline_s

    @asynccontextmanager
    async def make(self) -> AsyncIterator[SourceHarness]:
        clock = ManualClock(START_NS)
        source = self.source(clock)
        yield SourceHarness(
            source=source,
            symbols=KNOWN,
            unknown_symbol="NOPE",
            clock=clock,
            disconnect=_nothing,
            finite=source.rows_in_all is not None,
            deadline_s=self.deadline_s,
        )


class Finite(Steady):
    rows_in_all = 40


TESTS = [name for name in dir(SourceConformance) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("source", [Steady, Finite])
def test_the_correct_source_passes(source: type[Steady], test: str) -> None:
    if source is Steady and test == "test_ended_is_the_last_event":
        return
    getattr(Suite(source), test)("none")


def differing(**methods: object) -> type[Steady]:
    return type("Wrong", (Steady,), methods)


def columns(**changes: Callable[[TickBatch], object]) -> type[Steady]:
    """A source whose batches have these columns exchanged."""
    return differing(tick=lambda _, batch: [batch.replace(**{name: make(batch) for name, make in changes.items()})])


class Leaking(Steady):
    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        self.leaked = asyncio.create_task(asyncio.Event().wait())
        async for events in super().stream(wanted):
            yield events


class Afterthought(Finite):
    def ending(self) -> list[SourceEvent]:
        return [*super().ending(), *super().ending()]


class Unended(Finite):
    def ending(self) -> list[SourceEvent]:
        return []


class Backwards(Steady):
    def stamp(self) -> int:
        return self.clock.time_ns() - 10_000_000 * self.sent


class Deaf(Steady):
    heard: tuple[str, ...] | None = None

    def followed(self, wanted: Subscriptions) -> list[str]:
        self.heard = self.heard or wanted.symbols
        return [symbol for symbol in self.heard if symbol != "NOPE"]


FORM = "test_connected_comes_first_and_rows_are_well_formed"
EVENTS = "test_a_lost_connection_is_an_event_and_ticks_come_again"
WRONG = {
    "upper case name": (
        differing(name="Steady"),
        "test_it_is_a_source_with_a_stable_lower_case_name",
        "not lower case",
    ),
    "no Connected": (differing(opening=lambda _: []), FORM, "no Connected before"),
    "two Connected": (differing(opening=lambda self: 2 * Steady.opening(self)), FORM, "Connected came twice"),
    "another source's rows": (
        differing(quote=lambda self, s: msgspec.structs.replace(Steady.quote(self, s), source="other")),
        FORM,
        "source is 'other'",
    ),
    "receive times go back": (Backwards, FORM, "receive times of ticks went back"),
    "received long ago": (differing(stamp=lambda _: START_NS - 10**18), FORM, "before the stream was opened"),
    "received in the future": (differing(stamp=lambda _: START_NS + 10**18), FORM, "in the future"),
    "milliseconds": (columns(time_event_ns=lambda b: b.time_event_ns // 1_000_000), FORM, "not nanoseconds"),
    "empty batch": (differing(tick=lambda _, b: [b.take(slice(0)), b]), FORM, "empty batch"),
    "float32 price": (columns(bid=lambda b: b.bid.astype(np.float32)), FORM, "bid is float32"),
    "short column": (columns(ask=lambda b: b.ask[:-1]), FORM, "ask has shape"),
    "flag unknown": (columns(flags=lambda b: b.flags | np.uint8(8)), FORM, "none of BOOK, LAST, TRADE"),
    "nothing stated": (columns(flags=lambda b: b.flags & np.uint8(0)), FORM, "states nothing"),
    "TRADE without LAST": (columns(flags=lambda b: b.flags & np.uint8(1) | np.uint8(4)), FORM, "it is LAST too"),
    "LAST without last": (columns(last=lambda b: b.last * np.nan), FORM, "without a last price"),
    "negative price": (columns(bid=lambda b: -b.bid), FORM, "bid is not positive"),
    "infinite price": (columns(ask=lambda b: b.ask * np.inf), FORM, "ask is infinite"),
    "negative size": (columns(bid_size=lambda b: -b.bid), FORM, "bid_size is negative"),
    "crossed": (columns(bid=lambda b: b.ask, ask=lambda b: b.bid), FORM, "bid above ask"),
    "index out of range": (columns(symbol_index=lambda b: b.symbol_index + np.int32(3)), FORM, "out of range"),
    "a name twice": (columns(symbols=lambda b: (*b.symbols, b.symbols[0])), FORM, "twice"),
    "NaN in a value": (
        differing(tick=lambda self, b: [msgspec.structs.replace(self.quote(b.symbols[0]), last=float("nan"))]),
        "test_only_wanted_symbols_come",
        "absent is None",
    ),
    "unwanted symbols": (differing(followed=lambda *_: ["A", "B"]), "test_only_wanted_symbols_come", "not asked for"),
    "added symbols ignored": (Deaf, "test_a_symbol_added_while_running_starts", "two ticks of B"),
    "removed symbols go on": (Deaf, "test_a_removed_symbol_falls_silent_after_at_most_one_batch", "B was removed"),
    "never back": (
        differing(followed=lambda self, w: [s for s in Steady.followed(self, w) if s != "B" or w.version == 0]),
        "test_a_symbol_wanted_again_comes_again",
        "wanted again",
    ),
    "unknown passed over": (
        differing(refusal=lambda _: []),
        "test_an_unknown_symbol_is_quarantined_and_the_others_go_on",
        "a Quarantined that names NOPE",
    ),
    "no reason": (
        differing(refusal=lambda self: [msgspec.structs.replace(Steady.refusal(self)[0], detail="")]),
        "test_an_unknown_symbol_is_quarantined_and_the_others_go_on",
        "must show what was refused",
    ),
    "connection never lost": (differing(reconnection=lambda _: []), EVENTS, "Disconnected, then Connected"),
    "lost and not back": (
        differing(reconnection=lambda self: Steady.reconnection(self)[:1]),
        EVENTS,
        "Disconnected, then Connected",
    ),
    "more after the end": (Afterthought, "test_ended_is_the_last_event", "not once, last"),
    "no end": (Unended, "test_ended_is_the_last_event", "not once, last"),
    "a task left behind": (Leaking, "test_cancelling_the_reader_releases_everything", "tasks left behind"),
    "a task left after closing": (Leaking, "test_closing_the_iterator_releases_everything", "tasks left behind"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_wrong_source_fails(case: str) -> None:
    source, test, words = WRONG[case]
    with pytest.raises(AssertionError, match=words):
        getattr(Suite(source, deadline_s=0.5), test)("none")
