"""The TLCP client over real sockets, against the simulator of the server, which shares no code with it."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import aclosing, asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.errors import NotEntitled, SourceRejected, SourceUnavailable
from marketd.sources.lightstreamer import LightstreamerConfig
from marketd.sources.lightstreamer.client import LightstreamerClient, Login
from marketd.sources.lightstreamer.session import Malformed, Missed, Refused, Subscribed, Subscription, Update
from marketd.sources.lightstreamer.transport import at_control_link
from marketd.sources.reconnect import ReconnectPolicy, reconnecting
from marketd.testing import ManualClock
from marketd.testing.providers.lightstreamer import LightstreamerSimulator

BOTH = pytest.mark.parametrize("transport", ["websocket", "http"])
PAIR = Subscription(items=("a", "b"), fields=("x", "y"))


class Heard:
    """What a client said, and how its connections ended."""

    def __init__(self, client):
        self.client = client
        self.events = []
        self.ends = []
        self.tape = []
        self.ups = 0
        self.logins = []
        self.task = None

    @property
    def values(self):
        return [(PAIR.items[e.item], *e.values) for e in self.events if isinstance(e, Update)]

    def of(self, kind):
        return [e for e in self.events if isinstance(e, kind)]

    async def until(self, condition, deadline_s=10.0):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            if self.task.done():
                self.task.result()
            assert loop.time() < deadline, f"did not come true; saw {self.events}, {self.ends}"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(simulator, *subscriptions, pause_s=0.01, url=None, **fields):
    config = LightstreamerConfig(**fields)
    heard = Heard(None)
    client = LightstreamerClient("tlcp", config, SystemClock(), tap=lambda at, text: heard.tape.append((at, text)))
    heard.client = client
    for subscription in subscriptions:
        client.subscribe(subscription)

    async def login(refused):
        heard.logins.append(refused)
        return Login(url=url or simulator.url, user="u", password="p|&=%+ü")

    async def listen():
        while True:
            try:
                async with client.connection(login) as batches, aclosing(batches):
                    heard.ups += 1
                    async for batch in batches:
                        for _, events in batch:
                            heard.events += events
            except SourceUnavailable as error:
                heard.ends.append(error.reason)
                await asyncio.sleep(pause_s)

    heard.task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        heard.task.cancel()
        await asyncio.wait({heard.task})
        if not heard.task.cancelled():
            heard.task.result()


@asynccontextmanager
async def subscribed(simulator, **fields):
    async with listening(simulator, PAIR, **fields) as heard:
        await heard.until(lambda: heard.of(Subscribed))
        yield heard


@BOTH
def test_updates_come_with_all_their_fields_and_the_password_arrives_as_it_is(transport):
    async def main():
        passwords = []

        def authenticate(user, password):
            passwords.append((user, password))

        async with LightstreamerSimulator(authenticate=authenticate) as simulator:
            simulator.publish("a", {"x": "1", "y": None})
            async with subscribed(simulator, transport=transport) as heard:
                simulator.publish("b", {"x": "", "y": "ü|#%^2"})
                simulator.publish("a", {"y": "$"})
                simulator.publish("a", {"x": "#"})
                await heard.until(lambda: len(heard.values) == 4)
                assert heard.values == [("a", "1", None), ("b", "", "ü|#%^2"), ("a", "1", "$"), ("a", "#", "$")]
                assert [e.snapshot for e in heard.of(Update)] == [True, True, False, False]
                assert passwords == [("u", "p|&=%+ü")]
                assert "".join(text for _, text in heard.tape).count("U,1,") == 4
            assert heard.ends == []

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("rewind", [0, 3])
@pytest.mark.parametrize("clean", [False, True])
def test_a_lost_connection_is_recovered_without_a_hole_or_a_repetition(transport, rewind, clean):
    async def main():
        async with LightstreamerSimulator() as simulator:
            simulator.rewind = rewind
            async with subscribed(simulator, transport=transport) as heard:
                for number in range(5):
                    simulator.publish("a", {"x": str(number), "y": "q"})
                await heard.until(lambda: len(heard.values) == 5)
                if clean:
                    await simulator.close_cleanly()
                else:
                    simulator.cut()
                for number in range(5, 10):
                    simulator.publish("a", {"x": str(number)})
                await heard.until(lambda: len(heard.values) == 10)
                assert heard.values == [("a", str(number), "q") for number in range(10)]
                assert (heard.client.recovered, heard.client.created, heard.ups) == (1, 1, 2)
                assert len(heard.ends) == 1
                assert heard.logins == [False]
                (bind,) = [p for name, p in simulator.requests if name == "bind_session"]
                assert bind["LS_recovery_from"] == "7"  # SUBOK, CONF and five updates
                assert len(simulator.sessions) == 1

    asyncio.run(main())


@BOTH
def test_a_loop_is_bound_again_without_an_end(transport):
    async def main():
        async with LightstreamerSimulator() as simulator, subscribed(simulator, transport=transport) as heard:
            for number in range(3):
                simulator.publish("a", {"x": str(number), "y": "q"})
                await heard.until(lambda number=number: len(heard.values) == 2 * number + 1)
                simulator.loop(delay_ms=5 * number)
                simulator.publish("b", {"x": str(number), "y": "q"})
                await heard.until(lambda number=number: len(heard.values) == 2 * number + 2)
            binds = [p for name, p in simulator.requests if name == "bind_session"]
            assert len(binds) == 3
            assert not any("LS_recovery_from" in p for p in binds)
            assert (heard.ups, heard.ends) == (1, [])

    asyncio.run(main())


@BOTH
def test_a_connection_that_is_open_and_mute_is_given_up_and_recovered(transport):
    async def main():
        async with (
            LightstreamerSimulator(keepalive_s=0.1) as simulator,
            subscribed(simulator, transport=transport, open_timeout_s=0.3) as heard,
        ):
            await asyncio.sleep(0.5)
            assert heard.ends == []  # there is nothing to say, and it is alive
            assert "PROBE" in "".join(text for _, text in heard.tape)
            simulator.mute()
            simulator.publish("a", {"x": "1", "y": "2"})
            await heard.until(lambda: heard.ends)
            assert heard.ends[0] == "no message for 0.2 s"
            simulator.mute(muted=False)
            await heard.until(lambda: heard.values)
            assert heard.values == [("a", "1", "2")]
            assert heard.client.created == 1

    asyncio.run(main())


def test_a_server_that_forgot_the_session_gives_a_new_one_with_all_subscriptions():
    async def main():
        async with LightstreamerSimulator() as simulator, subscribed(simulator) as heard:
            simulator.publish("a", {"x": "1", "y": "2"})
            await heard.until(lambda: heard.values)
            simulator.cut()
            simulator.forget()
            await heard.until(lambda: heard.client.created == 2 and len(heard.of(Subscribed)) == 2)
            await heard.until(lambda: len(heard.values) == 2)
            assert [(e.values, e.snapshot) for e in heard.of(Update)] == [(["1", "2"], True), (["1", "2"], True)]
            assert (heard.ups, heard.client.recovered) == (2, 0)

    asyncio.run(main())


@pytest.mark.parametrize("code", [31, 32, 33, 35, 40, 48])
def test_an_end_is_followed_by_a_new_session(code):
    async def main():
        async with LightstreamerSimulator() as simulator, subscribed(simulator) as heard:
            simulator.end(code, "enough")
            await heard.until(lambda: len(heard.of(Subscribed)) == 2)
            assert heard.ends == [f"the session ended: {code} enough"]
            assert (heard.client.created, heard.client.recovered) == (2, 0)

    asyncio.run(main())


def test_recovery_is_given_up_after_some_connections():
    async def main():
        async with (
            LightstreamerSimulator() as simulator,
            subscribed(simulator, recovery_attempts=2, open_timeout_s=0.2, pause_s=0.0) as heard,
        ):
            simulator.mute()
            simulator.cut()
            await heard.until(lambda: len(heard.ends) >= 3)
            simulator.mute(muted=False)
            await heard.until(lambda: len(heard.of(Subscribed)) == 2)
            names = [name for name, _ in simulator.requests if name != "control"]
            assert names[:4] == ["create_session", "bind_session", "bind_session", "create_session"]

    asyncio.run(main())


def test_versions_are_tried_until_one_is_taken_and_that_is_remembered():
    async def main():
        async with (
            LightstreamerSimulator(unsupported=["2.5.0", "2.4.0"]) as simulator,
            subscribed(simulator) as heard,
        ):
            assert heard.client.version == "2.1.0"
            assert heard.ends == []
            diffs = ["LS_supported_diffs" in p for name, p in simulator.requests if name == "create_session"]
            assert diffs == [True, False, False]
            simulator.end(48, "for today")
            await heard.until(lambda: len(heard.of(Subscribed)) == 2)
            assert sum(name == "create_session" for name, _ in simulator.requests) == 4

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, NotEntitled),
        (2, SourceRejected),
        (60, SourceRejected),
        (65, SourceRejected),
        (-3, SourceRejected),
        (5, SourceUnavailable),
        (6, SourceUnavailable),
        (9, SourceUnavailable),
        (68, SourceUnavailable),
    ],
)
def test_a_refused_session_is_final_or_not_by_its_code(code, kind):
    async def main():
        async with LightstreamerSimulator() as simulator:
            simulator.refuse(code, "not today", times=10)
            client = LightstreamerClient("tlcp", LightstreamerConfig(), SystemClock())
            logins = []

            async def login(refused):
                logins.append(refused)
                return Login(url=simulator.url, password="secret-word")

            with pytest.raises((SourceRejected, SourceUnavailable)) as caught:
                async with client.connection(login):
                    pass
            assert type(caught.value) is kind
            assert f"{code} not today" in str(caught.value)
            assert "secret-word" not in repr(caught.value) + repr(await login(False))
            assert logins[:2] == ([False, True] if code == 1 else [False, False])

    asyncio.run(main())


def test_a_refused_user_is_asked_for_again_once():
    async def main():
        async with LightstreamerSimulator() as simulator:
            simulator.refuse(1, "User/password check failed")
            async with subscribed(simulator) as heard:
                assert heard.logins == [False, True]
                assert heard.ends == []

    asyncio.run(main())


def test_http_is_taken_where_websocket_is_refused():
    async def main():
        async with LightstreamerSimulator() as simulator:
            simulator.websocket = False
            async with subscribed(simulator, transport="auto") as heard:
                simulator.publish("a", {"x": "1", "y": "2"})
                await heard.until(lambda: heard.values)
                assert heard.ends == []
            async with listening(simulator, PAIR, transport="websocket") as heard:
                await heard.until(lambda: heard.ends)
                assert heard.ends[0] == "no WebSocket: HTTP 404"

    asyncio.run(main())


def test_lines_cut_anywhere_are_put_together():
    async def main():
        async with LightstreamerSimulator() as simulator:
            simulator.broken_at = 9
            async with subscribed(simulator, transport="http") as heard:
                for number in range(20):
                    simulator.publish("a", {"x": f"ü{number}", "y": "ééé"})
                await heard.until(lambda: len(heard.values) == 20)
                assert heard.values == [("a", f"ü{number}", "ééé") for number in range(20)]

    asyncio.run(main())


def test_several_lines_in_one_message_with_two_updates_of_one_field():
    async def main():
        async with LightstreamerSimulator() as simulator, subscribed(simulator) as heard:
            simulator.gather()
            simulator.publish("a", {"x": "1", "y": "0"})
            simulator.publish("a", {"x": "2"})
            simulator.say("OV,1,1,4", data=True)
            simulator.say("WHAT,is,this")
            simulator.publish("b", {"x": "3", "y": "0"})
            simulator.release()
            await heard.until(lambda: len(heard.values) == 3)
            assert heard.values == [("a", "1", "0"), ("a", "2", "0"), ("b", "3", "0")]
            assert [e.count for e in heard.of(Missed)] == [4]
            assert heard.client.session.unknown == {"WHAT": 1}
            assert sum("U,1,1" in text for _, text in heard.tape) == 1

    asyncio.run(main())


@BOTH
def test_subscriptions_come_and_go_and_a_refusal_leaves_the_others(transport):
    async def main():
        def refuse(adapter, item):
            return (-1, "Insufficient permissions") if item == "secret" else (17, "?") if adapter == "nowhere" else None

        async with (
            LightstreamerSimulator(refuse_item=refuse) as simulator,
            subscribed(simulator, transport=transport) as heard,
        ):
            bad = heard.client.subscribe(Subscription(items=("secret",), fields=("x",)))
            lost = heard.client.subscribe(Subscription(items=("c",), fields=("x",), data_adapter="nowhere"))
            good = heard.client.subscribe(Subscription(items=("c",), fields=("x",), mode="DISTINCT"))
            await heard.until(lambda: len(heard.of(Refused)) == 2 and len(heard.of(Subscribed)) == 2)
            assert {(e.handle, e.code) for e in heard.of(Refused)} == {(bad, -1), (lost, 17)}
            simulator.publish("c", {"x": "1"})
            await heard.until(lambda: any(e.handle == good for e in heard.of(Update)))
            heard.client.unsubscribe(good)
            await heard.until(lambda: simulator.subscribed == ["a", "b"])
            simulator.publish("c", {"x": "2"})
            simulator.publish("a", {"x": "3", "y": "4"})
            await heard.until(lambda: ("a", "3", "4") in heard.values)
            assert [e.values for e in heard.of(Update) if e.handle == good] == [["1"]]
            assert not heard.of(Malformed)

    asyncio.run(main())


@BOTH
def test_a_sign_of_life_is_given_as_promised(transport):
    async def main():
        async with (
            LightstreamerSimulator() as simulator,
            subscribed(simulator, transport=transport, inactivity_s=0.1, keepalive_s=7.5) as heard,
        ):
            await heard.until(lambda: sum(name == "heartbeat" for name, _ in simulator.requests) >= 3)
            _, create = simulator.requests[0]
            assert (create["LS_inactivity_millis"], create["LS_keepalive_millis"]) == ("100", "7500")
            assert heard.ends == []

    asyncio.run(main())


def test_waits_between_attempts_are_those_of_the_rule():
    async def main():
        clock = ManualClock()
        policy = ReconnectPolicy()
        async with LightstreamerSimulator(clock=clock) as simulator:
            simulator.refuse(5, "overloaded", times=100)
            client = LightstreamerClient("tlcp", LightstreamerConfig(), SystemClock())

            async def login(_):
                return Login(url=simulator.url)

            @asynccontextmanager
            async def connect():
                async with client.connection(login) as batches:
                    yield batches

            async def listen():
                loop = reconnecting("tlcp", connect, clock=clock, policy=policy, rng=random.Random(3))
                async for _ in loop:
                    pass

            task = asyncio.create_task(listen())
            while len(simulator.attempts) < 9:
                await clock.advance(0.02 if len(simulator.attempts) < 4 else 0.2)
                await asyncio.sleep(0.0005)
            waits = [(b - a) / 1e9 for a, b in itertools.pairwise(simulator.attempts)]
            for wait, least in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
                assert least - 0.1 <= wait <= least * 1.1 + 0.4
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "link", "expected"),
    [
        ("https://push.example", None, "https://push.example"),
        ("https://push.example", "push7.example", "https://push7.example"),
        ("https://push.example:8443/x", "push7.example", "https://push7.example:8443/x"),
        ("http://127.0.0.1:80", "127.0.0.2:8080", "http://127.0.0.2:8080"),
        ("https://push.example", "http://push7.example", "https://push7.example"),
        ("https://push.example", "[::1]:99", "https://[::1]:99"),
        ("https://push.example", "me@push7.example", "https://push.example"),
        ("https://push.example", "", "https://push.example"),
        ("https://push.example", "host:port", "https://push.example"),
    ],
)
def test_a_control_link_is_a_host_for_what_follows(url, link, expected):
    assert at_control_link(url, link) == expected


def test_recovery_goes_to_the_control_link():
    async def main():
        async with LightstreamerSimulator() as other, LightstreamerSimulator() as simulator:
            simulator._control_link = other.url.removeprefix("http://")
            async with subscribed(simulator) as heard:
                simulator.cut()
                await heard.until(lambda: len(heard.of(Subscribed)) == 2)
                assert [name for name, _ in other.requests] == ["bind_session"]  # which does not know the session
                assert [name for name, _ in simulator.requests if name == "create_session"] == ["create_session"] * 2

    asyncio.run(main())
