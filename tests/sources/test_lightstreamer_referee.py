"""The official Lightstreamer client, an independent implementation, beside ours: same updates, same order.

Both go through cut connections, LOOP and rebind, recovery with repetitions, a new session. The official client does not
notice a WebSocket that was cut until its keep-alives are missing, so that is waited for where it is what is tested.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import aclosing, asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.errors import SourceUnavailable
from marketd.sources.lightstreamer import LightstreamerConfig
from marketd.sources.lightstreamer.client import LightstreamerClient, Login
from marketd.sources.lightstreamer.session import Subscribed, Subscription, Update
from marketd.testing.providers.lightstreamer import LightstreamerSimulator

official = pytest.importorskip("lightstreamer.client", reason="lightstreamer-client-lib is not installed")

FIELDS = ("BID", "OFFER", "NOTE")
WANTED = (
    Subscription(items=("m1", "m2"), fields=FIELDS),
    Subscription(items=("d1",), fields=FIELDS, mode="DISTINCT"),
)
NOTES = (None, "", "#", "$", "^3", "a|b", "ü, ok", "100%", "1+1=2 & more", "line\r\nline")


class Referee:
    """The official client; its listeners are called on threads of its own."""

    def __init__(self, url, transport):
        self._lock = threading.Lock()
        self.updates = []
        self.errors = []
        self.statuses = []
        self.subscribed = 0
        self.client = official.LightstreamerClient(url, None)
        self.client.connectionDetails.setUser("u")
        self.client.connectionDetails.setPassword("p")
        self.client.connectionOptions.setForcedTransport(transport)
        referee = self

        class Watcher(official.ClientListener):
            def onStatusChange(self, status):
                with referee._lock:
                    referee.statuses.append(status)

            def onServerError(self, code, message):
                with referee._lock:
                    referee.errors.append((code, message))

        class Listener(official.SubscriptionListener):
            def onSubscription(self):
                with referee._lock:
                    referee.subscribed += 1

            def onItemUpdate(self, update):
                with referee._lock:
                    values = [update.getValue(name) for name in FIELDS]
                    referee.updates.append((update.getItemName(), *values, update.isSnapshot()))

        self.client.addListener(Watcher())
        for wanted in WANTED:
            subscription = official.Subscription(wanted.mode, list(wanted.items), list(wanted.fields))
            subscription.setRequestedSnapshot("yes")
            subscription.addListener(Listener())
            self.client.subscribe(subscription)

    def connect(self):
        self.client.connect()

    def disconnect(self):
        self.client.disconnect()


class Ours:
    def __init__(self, url, transport):
        kind = "websocket" if transport.startswith("WS") else "http"
        self.client = LightstreamerClient("tlcp", LightstreamerConfig(transport=kind), SystemClock())
        self._url = url
        self._of = {self.client.subscribe(wanted): wanted for wanted in WANTED}
        self.updates = []
        self.subscribed = 0

    async def run(self):
        async def login(_):
            return Login(url=self._url, user="u", password="p")

        while True:
            try:
                async with self.client.connection(login) as batches, aclosing(batches):
                    async for batch in batches:
                        for _, events in batch:
                            self._take(events)
            except SourceUnavailable:
                await asyncio.sleep(0.02)

    def _take(self, events):
        for event in events:
            if isinstance(event, Update):
                name = self._of[event.handle].items[event.item]
                self.updates.append((name, *event.values, event.snapshot))
            elif isinstance(event, Subscribed):
                self.subscribed += 1


@asynccontextmanager
async def side_by_side(simulator, transport):
    logging.getLogger("lightstreamer").setLevel(logging.CRITICAL)
    theirs, ours = Referee(simulator.url, transport), Ours(simulator.url, transport)
    theirs.connect()
    task = asyncio.create_task(ours.run())
    try:
        yield ours, theirs, Publisher(simulator)
    finally:
        task.cancel()
        await asyncio.wait({task})
        await asyncio.to_thread(theirs.disconnect)
        await until(lambda: theirs.statuses[-1:] == ["DISCONNECTED"], "the official client to go")


async def until(condition, what, deadline_s=30.0):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while not condition():
        assert loop.time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


class Publisher:
    """Changes that use every way to write a value."""

    def __init__(self, simulator):
        self._simulator = simulator
        self.count = 0

    def publish(self, count):
        for _ in range(count):
            number = self.count
            self.count += 1
            fields = {"BID": f"1.{number:05d}"}
            if number % 3 == 0:
                fields["NOTE"] = NOTES[number // 3 % len(NOTES)]
            if number % 4:
                fields["OFFER"] = f"1.{number // 2:05d}"
            item = ("m1", "m2", "d1")[number % 3 if number > 2 else number]
            self._simulator.publish(
                item, {"BID": None, "OFFER": None, "NOTE": None, **fields} if number < 3 else fields
            )


def compared(ours, theirs):
    assert ours.updates == theirs.updates


@pytest.mark.parametrize("transport", ["WS-STREAMING", "HTTP-STREAMING"])
def test_the_same_updates_in_the_same_order_through_loop_and_rebind(transport):
    async def main():
        async with (
            LightstreamerSimulator() as simulator,
            side_by_side(simulator, transport) as (ours, theirs, publisher),
        ):
            await until(lambda: (ours.subscribed, theirs.subscribed) == (2, 2), "subscriptions")
            for _ in range(4):
                publisher.publish(25)
                simulator.loop()
                publisher.publish(5)
                await until(lambda: simulator.connections == 2, "both to bind again")
            publisher.publish(10)
            await until(lambda: len(ours.updates) == len(theirs.updates) == publisher.count, "all updates")
            compared(ours, theirs)
            assert len(simulator.sessions) == 2

    asyncio.run(main())


@pytest.mark.parametrize("rewind", [0, 4])
def test_the_same_updates_in_the_same_order_through_cuts_and_recovery(rewind):
    async def main():
        transport = "HTTP-STREAMING"
        async with (
            LightstreamerSimulator() as simulator,
            side_by_side(simulator, transport) as (ours, theirs, publisher),
        ):
            simulator.rewind = rewind
            await until(lambda: (ours.subscribed, theirs.subscribed) == (2, 2), "subscriptions")
            for _ in range(3):
                publisher.publish(20)
                simulator.cut()
                publisher.publish(20)
                await until(lambda: simulator.connections == 2, "both to recover")
                await until(lambda: len(ours.updates) == len(theirs.updates) == publisher.count, "all updates")
            compared(ours, theirs)
            assert len(simulator.sessions) == 2  # none was made anew
            assert ours.client.recovered == 3

    asyncio.run(main())


def test_the_same_updates_in_the_same_order_when_a_websocket_is_cut():
    async def main():
        transport = "WS-STREAMING"
        async with (
            LightstreamerSimulator(keepalive_s=0.4) as simulator,
            side_by_side(simulator, transport) as (ours, theirs, publisher),
        ):
            await until(lambda: (ours.subscribed, theirs.subscribed) == (2, 2), "subscriptions")
            publisher.publish(20)
            await until(lambda: len(theirs.updates) == 20, "updates")
            simulator.cut()
            publisher.publish(20)
            await until(lambda: len(ours.updates) == 40, "our recovery", deadline_s=2.0)
            await until(lambda: len(theirs.updates) == 40, "the official client to notice")
            publisher.publish(5)
            await until(lambda: len(ours.updates) == len(theirs.updates) == publisher.count, "all updates")
            compared(ours, theirs)
            assert len(simulator.sessions) == 2

    asyncio.run(main())


def test_the_same_snapshots_in_a_new_session():
    async def main():
        transport = "WS-STREAMING"
        async with (
            LightstreamerSimulator() as simulator,
            side_by_side(simulator, transport) as (ours, theirs, publisher),
        ):
            await until(lambda: (ours.subscribed, theirs.subscribed) == (2, 2), "subscriptions")
            publisher.publish(30)
            await until(lambda: len(ours.updates) == len(theirs.updates) == 30, "updates")
            simulator.end(48, "The session has been open for too long")
            await until(lambda: (ours.subscribed, theirs.subscribed) == (4, 4), "subscriptions again")
            publisher.publish(6)
            await until(lambda: len(ours.updates) == len(theirs.updates) == 39, "all updates")
            compared(ours, theirs)
            assert [name for name, *_, snapshot in ours.updates[30:33] if snapshot] == ["m1", "m2", "d1"]

    asyncio.run(main())


def test_ours_waits_between_attempts_where_the_other_does_not():
    async def main():
        async with LightstreamerSimulator() as simulator:
            simulator.refuse(5, "overloaded", times=100_000)
            logging.getLogger("lightstreamer").setLevel(logging.CRITICAL)
            theirs = Referee(simulator.url, "WS-STREAMING")
            theirs.connect()
            await until(lambda: len(simulator.attempts) > 30, "many attempts")
            span_s = (simulator.attempts[30] - simulator.attempts[0]) / 1e9
            assert span_s < 30  # by the rule there would be 5 in that time
            await asyncio.to_thread(theirs.disconnect)
            await until(lambda: theirs.statuses[-1:] == ["DISCONNECTED"], "the official client to go")

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["WS-POLLING", "HTTP-POLLING"])
def test_the_same_updates_in_the_same_order_as_by_polling(transport):
    async def main():
        async with (
            LightstreamerSimulator() as simulator,
            side_by_side(simulator, transport) as (ours, theirs, publisher),
        ):
            await until(lambda: (ours.subscribed, theirs.subscribed) == (2, 2), "subscriptions")
            for _ in range(10):
                publisher.publish(8)
                await asyncio.sleep(0.01)
            await until(lambda: len(ours.updates) == len(theirs.updates) == publisher.count, "all updates")
            compared(ours, theirs)

    asyncio.run(main())
