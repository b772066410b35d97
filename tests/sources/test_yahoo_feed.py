"""The stream over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import numpy as np
import pytest

from marketd.clock import SystemClock
from marketd.errors import SourceRejected
from marketd.model import LAST, Connected, Disconnected, Quarantined, Quote, TickBatch
from marketd.sources.contract import Subscriptions
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.symbols import SymbolMap
from marketd.sources.yahoo import YahooConfig
from marketd.sources.yahoo.feed import YahooSource
from marketd.sources.yahoo.symbols import from_yahoo, to_yahoo
from marketd.testing import ManualClock
from marketd.testing.providers.yahoo import YahooSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)


# a frame of the published definition
APPLE = '{"type":"pricing","message":"CgRBQVBMFR+FY0MYgLDv2btkIgNVU0QqA05NUzAIOAFFhevRPkiAxL8hZXsUbj+9AY+CY0PAAQY="}'


def market(*symbols):
    return YahooSimulator(symbols, history_years=0)


class Listener:
    """Everything a source said so far."""

    def __init__(self):
        self.batches = []
        self.tape = []
        self.task = None

    @property
    def events(self):
        return [event for batch in self.batches for event in batch]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def quotes(self):
        return [quote for batch in self.of(TickBatch) for quote in batch.to_events()]

    @property
    def rows(self):
        """(symbol, last) of every row."""
        return [
            (batch.symbols[at], float(last))
            for batch in self.of(TickBatch)
            for at, last in zip(batch.symbol_index, batch.last, strict=True)
        ]

    async def until(self, condition, deadline_s=10.0):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            if self.task.done():
                self.task.result()
            assert loop.time() < deadline, f"did not come true; saw {self.events}"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(simulator, wanted, *, clock=None, table=None, **fields):
    heard = Listener()
    config = YahooConfig(ws_url=simulator.ws_url, **{"reconnect": QUICK, **fields})
    source = YahooSource(
        config,
        SymbolMap(table, to_provider=to_yahoo, from_provider=from_yahoo),
        clock or SystemClock(),
        lambda time_ns, raw: heard.tape.append((time_ns, raw)),
        rng=random.Random(1),
    )
    stream = source.stream(wanted)

    async def listen():
        async for batch in stream:
            assert batch
            heard.batches.append(batch)

    heard.task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        heard.task.cancel()
        await asyncio.wait({heard.task})
        await stream.aclose()
        if not heard.task.cancelled():
            heard.task.result()


@asynccontextmanager
async def following(names, wanted, **fields):
    """A market of Yahoo's names, and who listens to ours."""
    async with market(*names) as simulator, listening(simulator, wanted, **fields) as heard:
        yield simulator, heard


async def commanded(heard, simulator, count):
    await heard.until(lambda: len(simulator.commands) >= count)


def test_ticks_come_under_our_names_with_both_clocks():
    async def main():
        wanted = Subscriptions(["AAPL", "BRK.B", "EURUSD", "BTC-USD"])
        async with following(["AAPL", "BRK-B", "EURUSD=X", "BTC-USD"], wanted) as (simulator, heard):
            await commanded(heard, simulator, 1)
            assert simulator.commands[0] == {"subscribe": ["AAPL", "BRK-B", "EURUSD=X", "BTC-USD"]}
            sent = simulator.tick("BRK-B", price=412.25, size=7)
            simulator.tick("EURUSD=X", price=1.0481, bid=1.048, ask=1.0482)
            simulator.tick("BTC-USD", price=97208.17, bid=0, ask=0)
            await heard.until(lambda: len(heard.rows) == 3)
            assert heard.rows == [("BRK.B", 412.25), ("EURUSD", 1.0481), ("BTC-USD", 97208.17)]
            assert isinstance(heard.events[0], Connected)
            brk, euro = heard.quotes
            assert brk == Quote(
                symbol="BRK.B",
                time_event_ns=sent["time"] * 1_000_000,
                time_received_ns=brk.time_received_ns,
                source="yahoo",
                bid=412.24,
                ask=412.26,
                bid_size=3.0,
                ask_size=2.0,
                last=412.25,
                volume=7.0,
            )
            assert (euro.bid, euro.ask) == (1.048, 1.0482)
            flags = np.concatenate([batch.flags for batch in heard.of(TickBatch)])
            assert flags[2] == LAST  # no book was told
            assert len(heard.tape) == 3
            assert all(time_ns >= brk.time_event_ns for time_ns, _ in heard.tape)

    asyncio.run(main())


def test_a_burst_comes_in_few_batches_and_in_order():
    async def main():
        async with following(["AAPL"], Subscriptions(["AAPL"])) as (simulator, heard):
            await commanded(heard, simulator, 1)
            prices = [simulator.tick("AAPL", price=100 + n / 100)["price"] for n in range(500)]
            await heard.until(lambda: len(heard.rows) == 500)
            assert [last for _, last in heard.rows] == prices
            assert len(heard.of(TickBatch)) < 100

    asyncio.run(main())


def test_in_a_dense_stream_batches_are_apart_and_nothing_waits_in_a_quiet_one():
    async def main():
        clock = ManualClock()
        async with following(["AAPL"], Subscriptions(["AAPL"]), clock=clock) as (simulator, heard):
            await commanded(heard, simulator, 1)
            simulator.tick("AAPL", price=10.0)
            await heard.until(lambda: len(heard.rows) == 1)  # at once
            simulator.tick("AAPL", price=11.0)
            await asyncio.sleep(0.05)
            assert len(heard.rows) == 1  # no time has passed on its clock
            await clock.advance(0.005)
            await heard.until(lambda: len(heard.rows) == 2)
            await clock.advance(1.0)
            simulator.tick("AAPL", price=12.0)
            await heard.until(lambda: len(heard.rows) == 3)

    asyncio.run(main())


def test_what_is_wanted_is_followed_and_what_is_not_falls_silent():
    async def main():
        wanted = Subscriptions(["AAPL"])
        async with following(["AAPL", "MSFT"], wanted) as (simulator, heard):
            await commanded(heard, simulator, 1)
            wanted.add(["MSFT"])
            await commanded(heard, simulator, 2)
            wanted.discard(["AAPL"])
            await commanded(heard, simulator, 3)
            assert list(simulator.commands) == [
                {"subscribe": ["AAPL"]}, {"subscribe": ["MSFT"]}, {"unsubscribe": ["AAPL"]},
            ]  # fmt: skip
            # a message that was under way is not handed on
            simulator.say_raw(APPLE)
            simulator.tick("MSFT", price=50.0)
            await heard.until(lambda: heard.rows == [("MSFT", 50.0)])

    asyncio.run(main())


def test_a_name_that_cannot_be_is_told_once_and_again_when_it_comes_back():
    async def main():
        wanted = Subscriptions(["AAPL", "BRK-B"])
        async with following(["AAPL"], wanted) as (simulator, heard):
            await heard.until(lambda: heard.of(Quarantined))
            simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            (told,) = heard.of(Quarantined)
            assert (told.reason, told.symbol) == ("unknown_symbol", "BRK-B")
            assert told.detail == "'BRK-B' is no name that Yahoo could have"
            wanted.discard(["BRK-B"])
            simulator.tick("AAPL")
            await heard.until(lambda: heard.rows)
            wanted.add(["BRK-B"])
            await heard.until(lambda: len(heard.of(Quarantined)) == 2)

    asyncio.run(main())


def test_a_name_of_the_table_comes_before_the_rules():
    async def main():
        async with following(["MKC-V"], Subscriptions(["MKC.V"]), table={"MKC.V": "MKC-V"}) as (simulator, heard):
            await commanded(heard, simulator, 1)
            simulator.tick("MKC-V", price=70.5)
            await heard.until(lambda: heard.rows == [("MKC.V", 70.5)])

    asyncio.run(main())


@pytest.mark.parametrize("goodbye", [True, False])
def test_a_lost_connection_is_told_and_everything_is_subscribed_again(goodbye):
    async def main():
        async with following(["AAPL", "MSFT"], Subscriptions(["AAPL", "MSFT"])) as (simulator, heard):
            await commanded(heard, simulator, 1)
            simulator.tick("AAPL", price=10.0)
            await heard.until(lambda: heard.rows)
            simulator.close_connections() if goodbye else simulator.drop_connections()
            await commanded(heard, simulator, 2)
            simulator.tick("MSFT", price=11.0)
            await heard.until(lambda: len(heard.rows) == 2)
            kinds = [type(e) for e in heard.events]
            assert kinds == [Connected, TickBatch, Disconnected, Connected, TickBatch]
            assert heard.of(Disconnected)[0].reason.startswith("connection closed: ")
            assert simulator.commands[1] == {"subscribe": ["AAPL", "MSFT"]}

    asyncio.run(main())


def test_the_subscription_is_repeated_to_keep_it():
    async def main():
        clock = ManualClock()
        async with following(["AAPL"], Subscriptions(["AAPL"]), clock=clock) as (simulator, heard):
            await commanded(heard, simulator, 1)
            for n in range(2, 5):
                await clock.advance(15.0)
                await commanded(heard, simulator, n)
            assert list(simulator.commands) == [{"subscribe": ["AAPL"]}] * 4

    asyncio.run(main())


def test_silence_is_a_fault_of_what_never_closes_only():
    async def main():
        clock = ManualClock()
        wanted = Subscriptions(["AAPL"])
        async with following(["AAPL", "BTC-USD"], wanted, clock=clock, mute_timeout_s=60.0) as (simulator, heard):
            await commanded(heard, simulator, 1)
            simulator.mute()
            await clock.advance(300.0)
            assert heard.of(Disconnected) == []  # the night
            wanted.add(["BTC-USD"])
            await heard.until(lambda: {"subscribe": ["BTC-USD"]} in simulator.commands)
            await clock.advance(120.0)
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.of(Disconnected)[0].reason == "no message for 60 s"

    asyncio.run(main())


def test_what_cannot_be_understood_is_quarantined_and_the_stream_goes_on():
    async def main():
        async with following(["AAPL"], Subscriptions(["AAPL"])) as (simulator, heard):
            await commanded(heard, simulator, 1)
            simulator.say_raw("<html>")
            simulator.tick("AAPL", price=10.0)
            await heard.until(lambda: heard.rows and heard.of(Quarantined))
            (refused,) = heard.of(Quarantined)
            assert refused.reason == "malformed"
            assert heard.of(Disconnected) == []

    asyncio.run(main())


def test_a_provider_that_is_down_is_tried_again():
    async def main():
        async with market("AAPL") as simulator:
            await simulator.go_down()
            async with listening(simulator, Subscriptions(["AAPL"])) as heard:
                await heard.until(lambda: len(heard.of(Disconnected)) >= 2)
                assert heard.of(Connected) == []
                await simulator.come_back()
                await commanded(heard, simulator, 1)
                simulator.tick("AAPL", price=10.0)
                await heard.until(lambda: heard.rows)

    asyncio.run(main())


def test_an_address_that_is_none_is_final():
    async def main():
        config = YahooConfig(ws_url="ws://")
        source = YahooSource(config, SymbolMap(to_provider=to_yahoo), SystemClock())
        stream = source.stream(Subscriptions(["AAPL"]))
        with pytest.raises(SourceRejected):
            await anext(stream)
        await stream.aclose()

    asyncio.run(main())
