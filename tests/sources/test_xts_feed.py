"""The live side over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import serve

from marketd.clock import SystemClock
from marketd.errors import NotEntitled, SourceRejected
from marketd.model import Connected, Disconnected, MarketState, Quarantined, Quote
from marketd.sources.contract import ProviderDeps, Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.xts import ENTRY, XtsConfig, XtsPace
from marketd.sources.xts.parse import parse_message
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.xts import XtsSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
AT_ONCE = XtsPace(login=1e12, master=1e12, quotes=1e12, ohlc=1e12, subscription=1e12)
INFY, TCS, RELIANCE, NIFTY = "NSECM:INFY-EQ", "NSECM:TCS-EQ", "NSECM:RELIANCE-EQ", "NSECM:NIFTY 50"


def built(simulator, *, clock=None, tap=None, **fields):
    config = XtsConfig(
        **{
            "rest_url": simulator.rest_url,
            "app_key": simulator.app_key,
            "secret_key": simulator.secret_key,
            "reconnect": QUICK,
            "pace": AT_ONCE,
            "http": HttpConfig(retry=QUICK, requests_per_s=1e12, timeout_s=5.0),
            "relogin_after_s": 0.0,
            **fields,
        }
    )
    deps = ProviderDeps(clock=clock or SystemClock(), metrics=Metrics(), tap=tap, rng=random.Random(1))
    return ENTRY.build(config, deps)


class Listener:
    """Everything a source said so far."""

    def __init__(self):
        self.events = []
        self.tape = []
        self.task = None
        self.provider = None

    def of(self, kind, symbol=None):
        return [e for e in self.events if isinstance(e, kind) and (symbol is None or e.symbol == symbol)]

    def lasts(self, symbol):
        return [quote.last for quote in self.of(Quote, symbol)]

    async def until(self, condition, deadline_s=10.0):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            if self.task.done():
                self.task.result()
            assert loop.time() < deadline, f"did not come true; saw {self.events}"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(simulator, wanted, **fields):
    heard = Listener()
    heard.provider = built(simulator, tap=lambda time_ns, raw: heard.tape.append((time_ns, raw)), **fields)
    stream = heard.provider.stream.stream(wanted)

    async def listen():
        async for batch in stream:
            assert batch
            heard.events.extend(batch)

    heard.task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        heard.task.cancel()
        await asyncio.wait({heard.task})
        await stream.aclose()
        await heard.provider.close()
        if not heard.task.cancelled():
            heard.task.result()


@asynccontextmanager
async def subscribed(simulator, *symbols, **fields):
    """A listener that is connected; its subscriptions were taken up before."""
    async with listening(simulator, Subscriptions(symbols), **fields) as heard:
        await heard.until(lambda: heard.of(Connected))
        yield heard


def subscriptions(simulator):
    """Each request for or against subscriptions: method, kind of message, instruments."""
    return [
        (method, body["xtsMessageCode"], [one["exchangeInstrumentID"] for one in body["instruments"]])
        for method, path, body in simulator.requests
        if path == "/instruments/subscription"
    ]


def run(body):
    asyncio.run(body())


@pytest.mark.parametrize("handshake", ["websocket", "polling"])
@pytest.mark.parametrize("times", ["since_1980", "unix_ist"])
@pytest.mark.parametrize("broadcast", ["Full", "Partial"])
def test_quotes_come_with_both_clocks_whatever_the_shape(handshake, times, broadcast):
    async def main():
        async with (
            XtsSimulator(times=times, seed=3) as simulator,
            subscribed(simulator, "INFY", "^NIFTY50", handshake=handshake, broadcast=broadcast) as heard,
        ):
            expected = {"INFY": [], "^NIFTY50": []}
            for turn in range(12):
                for name, symbol in ((INFY, "INFY"), (NIFTY, "^NIFTY50")):
                    simulator.tick(name, book=turn % 3 != 1)
                    bid, ask, last, bid_size, ask_size, volume = simulator.touchline(name)
                    sizes = (float(bid_size), float(ask_size), float(volume)) if bid else (None, None, None)
                    expected[symbol].append((bid, ask, last, *sizes))
            await heard.until(lambda: len(heard.of(Quote)) == 24)
            for symbol, rows in expected.items():
                got = [(q.bid, q.ask, q.last, q.bid_size, q.ask_size, q.volume) for q in heard.of(Quote, symbol)]
                assert got == rows
            for quote in heard.of(Quote):
                # seconds are all that is told
                assert quote.time_received_ns - 3 * 10**9 < quote.time_event_ns <= quote.time_received_ns
            assert heard.of(Quarantined) == []
            assert heard.provider.stream.capabilities.symbols_per_connection == 100

    run(main)


def test_what_is_known_already_comes_with_the_subscription():
    async def main():
        async with XtsSimulator(snapshot_missing=[TCS]) as simulator:
            simulator.tick(INFY, price=1500.05)
            simulator.tick(TCS, price=3100.0)
            async with subscribed(simulator, "INFY", "TCS", "RELIANCE") as heard:
                await heard.until(lambda: heard.of(Quote))
                assert heard.lasts("INFY") == [1500.05]
                simulator.tick(TCS, price=3100.5)
                await heard.until(lambda: heard.of(Quote, "TCS"))
                assert heard.lasts("TCS") == [3100.5]
                assert subscriptions(simulator) == [("POST", 1501, [1594, 11536, 2885])]

    run(main)


def test_a_cut_connection_is_told_and_the_same_session_goes_on_without_subscribing_anew():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", "TCS") as heard:
            simulator.tick(INFY, price=1500.0)
            simulator.tick(TCS, price=3000.0)
            await heard.until(lambda: len(heard.of(Quote)) == 2)
            simulator.drop_connections()
            simulator.tick(INFY, price=1501.0)  # nobody is connected
            simulator.tick(INFY, price=1502.0)
            await heard.until(lambda: len(heard.of(Connected)) == 2 and len(heard.of(Quote)) == 4)
            assert heard.lasts("INFY") == [1500.0, 1502.0]  # what is true now was fetched
            simulator.tick(INFY, price=1503.0)
            await heard.until(lambda: heard.lasts("INFY")[-1] == 1503.0)
            assert simulator.logins == 1
            assert len(subscriptions(simulator)) == 1
            (lost,) = heard.of(Disconnected)
            assert lost.reason.startswith("connection closed: ")
            received = [e.time_received_ns for e in heard.events]
            assert received == sorted(received)

    run(main)


def test_the_servers_goodbye_is_a_lost_connection():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY") as heard:
            simulator.close_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            assert heard.of(Disconnected)[0].reason == "the server closed the stream"

    run(main)


def test_a_session_that_ended_is_renewed_once_and_everything_is_subscribed_again():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", "TCS") as heard:
            simulator.expire()
            simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            simulator.tick(INFY, price=1500.0)
            await heard.until(lambda: heard.lasts("INFY") == [1500.0])
            assert simulator.logins == 2
            assert simulator.subscribed == {1501: [INFY, TCS]}

    run(main)


def test_a_session_that_a_request_found_ended_ends_the_silent_stream_too():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY") as heard:
            simulator.tick(INFY, price=1500.0)
            simulator.expire()  # the socket stays open, and nothing comes any more
            quote = await heard.provider.quotes.quote("INFY")
            assert quote.last == 1500.0
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            assert heard.of(Disconnected)[0].reason == "the session has ended"
            simulator.tick(INFY, price=1501.0)
            await heard.until(lambda: 1501.0 in heard.lasts("INFY"))
            assert simulator.logins == 2

    run(main)


def test_two_that_log_in_with_one_key_do_not_throw_each_other_out_for_ever():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", relogin_after_s=60.0) as heard:
            simulator.expire()
            simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)  # the first time may be the day's end
            simulator.expire()
            simulator.drop_connections()
            await heard.until(lambda: any("something else log in" in lost.reason for lost in heard.of(Disconnected)))
            assert simulator.logins == 2

    run(main)


def test_a_wrong_key_is_final_and_not_shown():
    async def main():
        async with XtsSimulator() as simulator:
            provider = built(simulator, secret_key="WrongSecret")
            with pytest.raises(NotEntitled, match="Invalid appKey or secretKey") as caught:
                await anext(provider.stream.stream(Subscriptions(["INFY"])))
            assert "WrongSecret" not in f"{caught.value!r} {caught.value}"
            await provider.close()

    run(main)


def test_a_key_that_was_right_once_is_tried_again():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY") as heard:
            key, simulator.secret_key = simulator.secret_key, "another"  # the broker is closed for the night
            simulator.expire()
            simulator.drop_connections()
            await heard.until(lambda: any("Invalid appKey" in lost.reason for lost in heard.of(Disconnected)))
            simulator.secret_key = key
            await heard.until(lambda: len(heard.of(Connected)) == 2)

    run(main)


def test_subscriptions_that_another_program_left_are_taken_over():
    async def main():
        async with XtsSimulator() as simulator:
            provider = built(simulator)
            login = await provider.stream._session.login()
            stranger = built(simulator)
            stranger.stream._session._login = login
            # somebody subscribed one of them under the same session, unknown to us
            await stranger.stream._session.call(
                "POST", "/instruments/subscription", dict, endpoint="subscription",
                json={"instruments": [{"exchangeSegment": 1, "exchangeInstrumentID": 11536}], "xtsMessageCode": 1501},
            )  # fmt: skip
            simulator.requests.clear()
            stream = provider.stream.stream(Subscriptions(["INFY", "TCS"]))
            assert isinstance((await anext(stream))[0], Connected)
            assert [method for method, _, _ in subscriptions(simulator)] == ["POST", "PUT", "POST"]
            assert simulator.subscribed == {1501: [INFY, TCS]}
            await stream.aclose()
            await provider.close()
            await stranger.close()

    run(main)


def test_symbols_added_start_and_symbols_removed_fall_silent():
    async def main():
        async with XtsSimulator() as simulator:
            wanted = Subscriptions()
            async with listening(simulator, wanted) as heard:
                await asyncio.sleep(0)
                assert simulator.logins == 0  # nothing to say, nothing to log in for
                wanted.add(["INFY"])
                await heard.until(lambda: heard.of(Connected))
                wanted.add(["TCS"])
                await heard.until(lambda: simulator.subscribed.get(1501) == [INFY, TCS])
                simulator.tick(TCS, price=3000.0)
                await heard.until(lambda: heard.lasts("TCS") == [3000.0])
                wanted.discard(["TCS"])
                await heard.until(lambda: simulator.subscribed.get(1501) == [INFY])
                simulator.tick(TCS, price=3001.0)
                simulator.tick(INFY, price=1500.0)
                await heard.until(lambda: heard.lasts("INFY") == [1500.0])
                assert heard.lasts("TCS") == [3000.0]
                assert heard.of(Disconnected) == []

    run(main)


def test_one_instrument_by_two_names_comes_under_both():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", "NSECM:1594") as heard:
            simulator.tick(INFY, price=1500.0)
            await heard.until(lambda: len(heard.of(Quote)) == 2)
            assert heard.lasts("INFY") == heard.lasts("NSECM:1594") == [1500.0]
            assert simulator.subscribed == {1501: [INFY]}

    run(main)


def test_beyond_one_kind_of_message_the_next_is_used_and_beyond_all_it_is_said():
    async def main():
        async with XtsSimulator(subscription_max=1) as simulator:
            wanted = Subscriptions(["INFY", "TCS", "RELIANCE"])
            async with listening(simulator, wanted, symbols_per_code=1) as heard:
                await heard.until(lambda: heard.of(Quarantined) and heard.of(Connected))
                assert simulator.subscribed == {1501: [INFY], 1502: [TCS]}
                for name, price in ((INFY, 1500.0), (TCS, 3000.0), (RELIANCE, 1300.0)):
                    simulator.tick(name, price=price)
                await heard.until(lambda: len(heard.of(Quote)) == 2)
                assert (heard.lasts("INFY"), heard.lasts("TCS")) == ([1500.0], [3000.0])
                (told,) = heard.of(Quarantined)
                assert (told.reason, told.symbol) == ("subscription_limit", "RELIANCE")
                assert told.detail == "RELIANCE: a session may subscribe 2 instruments"
                simulator.drop_connections()
                await heard.until(lambda: len(heard.of(Connected)) == 2)
                assert len(heard.of(Quarantined)) == 1  # said once
                wanted.discard(["INFY"])  # makes room
                await heard.until(lambda: simulator.subscribed == {1501: [RELIANCE], 1502: [TCS]})
                simulator.tick(RELIANCE, price=1301.0)
                await heard.until(lambda: 1301.0 in heard.lasts("RELIANCE"))

    run(main)


def test_a_lower_limit_than_configured_is_learned():
    async def main():
        async with (
            XtsSimulator(subscription_max=2) as simulator,
            subscribed(simulator, "INFY", "TCS", "RELIANCE", "^NIFTY50", "^NIFTYBANK") as heard,
        ):
            assert {code: len(names) for code, names in simulator.subscribed.items()} == {1501: 2, 1502: 2}
            await heard.until(lambda: heard.of(Quarantined))
            assert [e.reason for e in heard.of(Quarantined)] == ["subscription_limit"]

    run(main)


def test_an_instrument_the_server_refuses_is_told_and_the_others_go_on():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", "NSECM:999", "TCS") as heard:
            simulator.tick(INFY, price=1500.0)
            simulator.tick(TCS, price=3000.0)
            await heard.until(lambda: len(heard.of(Quote)) == 2 and heard.of(Quarantined))
            (told,) = heard.of(Quarantined)
            assert (told.reason, told.symbol) == ("refused", "NSECM:999")
            assert "Invalid Instrument" in told.detail
            simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            assert len(heard.of(Quarantined)) == 1

    run(main)


def test_unknown_symbols_are_told_once_and_again_when_wanted_again():
    async def main():
        async with XtsSimulator() as simulator:
            wanted = Subscriptions(["NOSUCH9", "INFY"])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: heard.of(Connected) and heard.of(Quarantined))
                simulator.drop_connections()
                await heard.until(lambda: len(heard.of(Connected)) == 2)
                assert [(e.reason, e.symbol) for e in heard.of(Quarantined)] == [("unknown_symbol", "NOSUCH9")]
                wanted.discard(["NOSUCH9"])
                wanted.add(["TCS"])
                await heard.until(lambda: simulator.subscribed.get(1501) == [INFY, TCS])
                wanted.add(["NOSUCH9"])
                await heard.until(lambda: len(heard.of(Quarantined)) == 2)

    run(main)


def test_a_throttled_subscription_is_tried_again_while_the_rest_goes_on():
    async def main():
        async with XtsSimulator() as simulator:
            wanted = Subscriptions(["INFY"])
            quick = HttpConfig(retry=QUICK, requests_per_s=1e12, attempts=1)
            async with listening(simulator, wanted, http=quick) as heard:
                await heard.until(lambda: heard.of(Connected))
                simulator.misbehaviour.kind, simulator.misbehaviour.only = "throttle", "/subscription"
                simulator.misbehaviour.retry_after_s = 0
                wanted.add(["TCS"])
                await heard.until(lambda: simulator.misbehaviour.seen >= 2)
                simulator.tick(INFY, price=1500.0)
                await heard.until(lambda: heard.lasts("INFY") == [1500.0])
                simulator.misbehaviour.kind = None
                await heard.until(lambda: simulator.subscribed.get(1501) == [INFY, TCS])
                assert heard.of(Disconnected) == []

    run(main)


def test_a_connection_that_does_not_even_answer_pings_is_given_up():
    async def main():
        clock = ManualClock(SystemClock().time_ns())
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", clock=clock) as heard:
            simulator.mute()
            await clock.advance(29.9)
            assert heard.of(Disconnected) == []
            await clock.advance(0.2)
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.of(Disconnected)[0].reason == "no message for 30 s"
            simulator.mute(muted=False)
            await heard.until(lambda: clock._sleepers)
            await clock.advance(1.0)
            await heard.until(lambda: len(heard.of(Connected)) == 2)

    run(main)


def test_pings_keep_a_quiet_connection_alive_on_both_sides():
    async def main():
        # a client that did not ping would be cut off after 0.3 s
        async with (
            XtsSimulator(ping_interval_s=0.1, ping_timeout_s=0.2) as simulator,
            subscribed(simulator, "INFY", mute_timeout_s=0.6) as heard,
        ):
            await asyncio.sleep(1.0)
            assert heard.of(Disconnected) == []
            assert simulator.connections == 1

    run(main)


def test_garbage_on_the_socket_is_quarantined_and_the_rest_goes_on():
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY") as heard:
            for packet in ('42["1501-json-full","{"]', "b4AQID", "6", "x", '42["something new","{}"]'):
                simulator.inject(packet)
            simulator.tick(INFY, price=1500.0)
            await heard.until(lambda: heard.lasts("INFY") == [1500.0])
            assert [e.reason for e in heard.of(Quarantined)] == ["malformed"]

    run(main)


def test_the_market_of_a_segment_opens_and_closes():
    async def main():
        async with (
            XtsSimulator() as simulator,
            subscribed(simulator, "INFY", "NIFTY26JUNFUT", segments=("NSECM", "NSEFO")) as heard,
        ):
            simulator.say_status("NSEFO", "THE REGULAR SEGMENT HAS CLOSED FOR 11 JUN 2026")
            simulator.say_status("NSECM", "THE NORMAL MARKET HAS OPENED FOR 11 JUN 2026")
            await heard.until(lambda: len(heard.of(MarketState)) == 2)
            assert [(e.symbol, e.state) for e in heard.of(MarketState)] == [
                ("NIFTY26JUNFUT", "closed"), ("INFY", "open"),
            ]  # fmt: skip

    run(main)


def test_the_tap_gets_every_message_fetched_ones_included():
    async def main():
        async with XtsSimulator() as simulator:
            simulator.tick(INFY, price=1500.0)
            async with subscribed(simulator, "INFY") as heard:
                simulator.tick(INFY, price=1501.0)
                await heard.until(lambda: len(heard.of(Quote)) == 2)
                taped = [e for time_ns, raw in heard.tape for e in parse_message(raw, time_ns)]
                assert [e.last for e in taped] == [1500.0, 1501.0]
                assert {e.symbol for e in taped} == {"NSECM:1594"}
                assert any("1105-json-partial" in raw for _, raw in heard.tape)

    run(main)


def test_a_burst_comes_in_few_batches():
    async def main():
        async with XtsSimulator(noise=False) as simulator:
            provider = built(simulator)
            stream = provider.stream.stream(Subscriptions(["INFY"]))
            batches = [await anext(stream)]
            for _ in range(300):
                simulator.tick(INFY)
            while sum(isinstance(e, Quote) for batch in batches for e in batch) < 300:
                batches.append(await asyncio.wait_for(anext(stream), 5.0))
            await stream.aclose()
            await provider.close()
            assert len(batches) < 100

    run(main)


def test_nobody_listening_is_told_and_tried_again():
    async def main():
        async with XtsSimulator() as simulator:
            pass  # its port is free again
        http = HttpConfig(retry=QUICK, attempts=1)
        async with listening(simulator, Subscriptions(["INFY"]), http=http) as heard:
            await heard.until(lambda: len(heard.of(Disconnected)) == 2)
            assert heard.of(Connected) == []

    run(main)


def test_a_server_that_comes_back_is_found():
    async def main():
        http = HttpConfig(retry=QUICK, attempts=1)
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY", http=http) as heard:
            await simulator.go_down()
            await heard.until(lambda: len(heard.of(Disconnected)) >= 2)
            await simulator.come_back()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            simulator.tick(INFY, price=1500.0)
            await heard.until(lambda: heard.lasts("INFY") == [1500.0])

    run(main)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("not engine.io", "Engine.IO handshake"),
        ('0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":5000}|44"Not authorised"', "does not let"),
        (None, "no connection within 0.2 s"),
    ],
)
def test_a_socket_that_is_not_what_it_should_be_is_told(first, reason):
    async def greet(socket):
        for packet in (first or "").split("|"):
            if packet:
                await socket.send(packet)
        await socket.wait_closed()

    async def main():
        async with XtsSimulator() as simulator, serve(greet, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with listening(simulator, Subscriptions(["INFY"]), ws_url=url, open_timeout_s=0.2) as heard:
                await heard.until(lambda: len(heard.of(Disconnected)) >= 2)
                assert reason in heard.of(Disconnected)[0].reason
                assert heard.of(Connected) == []

    run(main)


def test_a_url_that_is_none_is_final_and_does_not_show_the_token():
    async def main():
        async with XtsSimulator() as simulator:
            provider = built(simulator, ws_url="ws://")
            with pytest.raises(SourceRejected) as caught:
                await anext(provider.stream.stream(Subscriptions(["INFY"])))
            assert simulator.token not in str(caught.value)
            await provider.close()

    run(main)


def test_no_secret_is_in_a_log_an_error_or_a_recording(caplog):
    async def main():
        async with XtsSimulator() as simulator, subscribed(simulator, "INFY") as heard:
            tokens = [simulator.token]
            simulator.tick(INFY)
            await heard.until(lambda: heard.of(Quote))
            simulator.expire()
            simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            tokens.append(simulator.token)
            await simulator.go_down()
            await heard.until(lambda: len(heard.of(Disconnected)) >= 3)
            said = " ".join([caplog.text, repr(heard.events), json.dumps(heard.tape)])
            for secret in (simulator.app_key, simulator.secret_key, *tokens):
                assert secret not in said
            await simulator.come_back()

    caplog.set_level(logging.DEBUG)
    # the simulator is the provider's side; aiohttp's own words about it are not ours
    run(main)


def test_closing_leaves_no_task_and_no_socket():
    async def main():
        async with XtsSimulator() as simulator:
            before = asyncio.all_tasks()
            async with subscribed(simulator, "INFY"):
                assert simulator.connections == 1
            for _ in range(200):
                if asyncio.all_tasks() <= before and not simulator.connections:
                    return
                await asyncio.sleep(0.005)
            raise AssertionError(asyncio.all_tasks() - before)

    run(main)
