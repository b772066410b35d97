"""The live side over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import base64
import random
from contextlib import asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.errors import InvalidInput
from marketd.model import BOOK, LAST, TRADE, Connected, Disconnected, MarketState, Quarantined, TickBatch
from marketd.sources.contract import Subscriptions
from marketd.sources.futu import FutuConfig
from marketd.sources.futu.feed import FutuSource
from marketd.sources.futu.frame import FrameReader
from marketd.sources.futu.symbols import symbol_map
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers.futu import FutuSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
AAPL, MSFT, TENCENT = "US.AAPL", "US.MSFT", "HK.00700"


class Listener:
    """Everything a source said so far."""

    def __init__(self):
        self.events = []
        self.tape = []
        self.task = None

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def rows(self, symbol, flags):
        """(batch, row) of the rows of a symbol with just these flags."""
        return [
            (batch, row)
            for batch in self.of(TickBatch)
            for row in range(len(batch))
            if batch.flags[row] == flags and batch.symbols[batch.symbol_index[row]] == symbol
        ]

    def trades(self, symbol):
        return [
            (int(b.trade_id[r]), float(b.last[r]), float(b.last_size[r])) for b, r in self.rows(symbol, LAST | TRADE)
        ]

    def refused(self):
        return [(event.reason, event.symbol) for event in self.of(Quarantined)]

    async def until(self, condition, deadline_s=10.0, step=None):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            if self.task.done():
                self.task.result()
            assert loop.time() < deadline, f"did not come true; saw {self.events}"
            await (step() if step else asyncio.sleep(0.002))


@asynccontextmanager
async def listening(simulator, wanted, *, clock=None, **fields):
    heard = Listener()
    config = FutuConfig(port=simulator.port, **({"reconnect": QUICK, "market_state_s": None} | fields))
    source = FutuSource(
        config,
        clock or SystemClock(),
        lambda time_ns, raw: heard.tape.append((time_ns, raw)),
        symbols=symbol_map(config.symbol_table),
        rng=random.Random(1),
    )
    stream = source.stream(wanted)

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
        if not heard.task.cancelled():
            heard.task.result()


def subscribed(simulator, *names):
    return lambda: simulator.subscriptions == {(name, kind) for name in names for kind in (1, 2, 4)}


def test_quotes_books_and_trades_come_with_both_clocks_and_old_trades_do_not():
    async def main():
        async with (
            FutuSimulator([AAPL, TENCENT]) as simulator,
            listening(simulator, Subscriptions(["AAPL", "0700.HK"])) as heard,
        ):
            await heard.until(lambda: heard.rows("0700.HK", LAST) and heard.rows("AAPL", BOOK))  # what OpenD had
            assert heard.trades("AAPL") == []
            before_ns = SystemClock().time_ns()
            first = simulator.trade(AAPL, price=231.25, volume=300, direction=1)
            second = simulator.trade(AAPL, price=231.2, volume=100, direction=2)
            await heard.until(lambda: len(heard.trades("AAPL")) == 2)
            assert heard.trades("AAPL") == [(first, 231.25, 300.0), (second, 231.2, 100.0)]
            bid, ask, last, volume, time_s = simulator.quote(AAPL)
            await heard.until(lambda: heard.rows("AAPL", LAST)[-1][0].last[-1] == last)
            batch, row = heard.rows("AAPL", LAST)[-1]
            assert (batch.last[row], batch.volume[row]) == (last, volume)
            assert batch.time_event_ns[row] == round(time_s * 1e6) * 1_000
            batch, row = heard.rows("AAPL", BOOK)[-1]
            assert (batch.bid[row], batch.ask[row]) == (bid, ask)
            for batch, row in heard.rows("AAPL", LAST | TRADE):
                assert before_ns // 1_000 * 1_000 <= batch.time_event_ns[row] <= batch.time_received_ns[row]
            assert heard.of(Quarantined) == []
            assert isinstance(heard.events[0], Connected)
            greeting = simulator.requests[0]
            assert (greeting[0], greeting[1]["packetEncAlgo"], greeting[1]["pushProtoFmt"]) == (1001, -1, 0)
            subs = [(r["subTypeList"], r["isFirstPush"]) for proto, r in simulator.requests if proto == 3001]
            assert subs == [([1, 2, 4], True)]

    asyncio.run(main())


def test_times_are_those_of_the_exchange_where_no_timestamp_is_told():
    async def main():
        async with (
            FutuSimulator([AAPL, TENCENT], timestamps=False) as simulator,
            listening(simulator, Subscriptions(["AAPL", "0700.HK"])) as heard,
        ):
            await heard.until(lambda: heard.rows("AAPL", LAST) and heard.rows("0700.HK", LAST))
            for name, symbol in ((AAPL, "AAPL"), (TENCENT, "0700.HK")):
                batch, row = heard.rows(symbol, LAST)[0]
                assert batch.time_event_ns[row] == int(simulator.quote(name)[4]) * 10**9

    asyncio.run(main())


def test_a_burst_comes_in_few_batches_of_columns():
    async def main():
        async with (
            FutuSimulator([AAPL]) as simulator,
            listening(simulator, Subscriptions(["AAPL"]), streams=("trades",)) as heard,
        ):
            await heard.until(lambda: simulator.subscriptions == {(AAPL, 4)})
            numbers = [simulator.trade(AAPL) for _ in range(500)]
            await heard.until(lambda: len(heard.trades("AAPL")) == 500)
            assert [number for number, *_ in heard.trades("AAPL")] == numbers
            assert len(heard.of(TickBatch)) < 100
            assert len({id(batch.symbols) for batch in heard.of(TickBatch)}) == 1

    asyncio.run(main())


def test_a_cut_connection_is_told_and_everything_is_subscribed_again():
    async def main():
        wanted = Subscriptions(["AAPL", "0700.HK"])
        async with FutuSimulator([AAPL, MSFT, TENCENT]) as simulator, listening(simulator, wanted) as heard:
            await heard.until(subscribed(simulator, AAPL, TENCENT))
            wanted.add(["MSFT"])
            await heard.until(subscribed(simulator, AAPL, TENCENT, MSFT))
            simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            assert subscribed(simulator, AAPL, TENCENT, MSFT)()
            (lost,) = heard.of(Disconnected)
            assert lost.reason
            number = simulator.trade(MSFT)
            await heard.until(lambda: [n for n, *_ in heard.trades("MSFT")] == [number])
            received = [ns for batch in heard.of(TickBatch) for ns in batch.time_received_ns.tolist()]
            assert received == sorted(received)

    asyncio.run(main())


def test_a_gateway_that_is_down_is_tried_again_until_it_is_there():
    async def main():
        async with FutuSimulator([AAPL]) as simulator:
            await simulator.go_down()
            async with listening(simulator, Subscriptions(["AAPL"])) as heard:
                await heard.until(lambda: len(heard.of(Disconnected)) >= 2)
                assert heard.of(Connected) == []
                assert "no connection to OpenD at 127.0.0.1:" in heard.of(Disconnected)[0].reason
                await simulator.come_back()
                await heard.until(lambda: heard.rows("AAPL", LAST))

    asyncio.run(main())


def test_a_connection_that_says_nothing_is_given_up_though_it_is_open():
    async def main():
        clock = ManualClock()
        async with (
            FutuSimulator([AAPL], clock=clock, keep_alive_s=5) as simulator,
            listening(simulator, Subscriptions(["AAPL"]), clock=clock, mute_timeout_s=20.0) as heard,
        ):

            async def second():
                await clock.advance(1.0)
                await asyncio.sleep(0.001)

            await heard.until(lambda: heard.rows("AAPL", LAST))
            # answers to keep-alives are enough to be well: one every 4 s
            began_ns = clock.monotonic_ns()
            await heard.until(lambda: clock.monotonic_ns() - began_ns > 90e9, step=second)
            assert heard.of(Disconnected) == []
            assert 15 <= simulator.keep_alives <= 23
            simulator.mute()
            began_ns = clock.monotonic_ns()
            await heard.until(lambda: heard.of(Disconnected), step=second)
            assert 15e9 <= clock.monotonic_ns() - began_ns <= 23e9  # the last answer came up to 4 s before
            assert heard.of(Disconnected)[0].reason == "no message for 20 s"
            simulator.mute(muted=False)
            await heard.until(lambda: len(heard.of(Connected)) == 2, step=second)

    asyncio.run(main())


@pytest.mark.parametrize("notify", [True, False])
def test_a_gateway_that_lost_its_servers_is_no_connection(notify):
    async def main():
        async with FutuSimulator([AAPL]) as simulator, listening(simulator, Subscriptions(["AAPL"])) as heard:
            await heard.until(subscribed(simulator, AAPL))
            simulator.log_out(notify=notify)
            if not notify:
                simulator.drop_connections()
            await heard.until(lambda: len(heard.of(Disconnected)) >= 3)
            reasons = [event.reason for event in heard.of(Disconnected)]
            if notify:
                assert reasons[0] == "OpenD lost its connection to the quote servers"
            assert set(reasons[1:]) == {"OpenD is not logged in to the quote servers"}
            assert len(heard.of(Connected)) == 1
            simulator.log_in()
            await heard.until(lambda: len(heard.of(Connected)) == 2)

    asyncio.run(main())


def test_symbols_that_opend_does_not_know_are_told_once_and_the_others_go_on():
    async def main():
        wanted = Subscriptions(["NOSUC", "AAPL", "BTC-USD", "MSFT", "^N225"])
        async with (
            FutuSimulator([AAPL, MSFT]) as simulator,
            listening(simulator, wanted) as heard,
        ):
            for connections in (1, 2):
                await heard.until(lambda count=connections: len(heard.of(Connected)) == count)
                await heard.until(subscribed(simulator, AAPL, MSFT))
                # once in the beginning, and once for every time that it was wanted again
                told = [("unknown_symbol", name) for name in ("BTC-USD", *["NOSUC"] * connections, "^N225")]
                await heard.until(lambda told=told: sorted(heard.refused()) == told)
                wanted.discard(["NOSUC"])
                simulator.trade(AAPL)
                await heard.until(lambda count=connections: len(heard.trades("AAPL")) == count)
                wanted.add(["NOSUC"])
                again = connections + 1
                await heard.until(lambda count=again: heard.refused().count(("unknown_symbol", "NOSUC")) == count)
                simulator.drop_connections()

    asyncio.run(main())


def test_a_refusal_that_names_nobody_is_found_by_halves():
    async def main():
        names = [f"US.A{letter}" for letter in "BCDEFGH"]
        async with FutuSimulator(names, language="zh") as simulator:
            simulator.take_rights("US.AC", "US.AG")
            simulator._words = lambda key, *args: "没有行情权限"  # the words of a market, not of a stock
            wanted = Subscriptions([name[3:] for name in names])
            async with listening(simulator, wanted) as heard:
                await heard.until(subscribed(simulator, *(name for name in names if name not in ("US.AC", "US.AG"))))
                assert sorted(heard.refused()) == [("not_entitled", "AC"), ("not_entitled", "AG")]

    asyncio.run(main())


def test_what_is_beyond_the_subscription_quota_is_refused_and_the_rest_streams():
    async def main():
        async with FutuSimulator([AAPL, MSFT, TENCENT], sub_quota=7) as simulator:
            wanted = Subscriptions(["AAPL", "MSFT", "0700.HK"])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: len(heard.of(Connected)) == 1)
                assert subscribed(simulator, AAPL, MSFT)()
                assert heard.refused() == [("not_entitled", "0700.HK")]
                (event,) = heard.of(Quarantined)
                assert "quota" in event.detail
                numbers = [simulator.trade(AAPL), simulator.trade(MSFT)]
                await heard.until(lambda: heard.trades("AAPL") and heard.trades("MSFT"))
                assert [heard.trades("AAPL")[0][0], heard.trades("MSFT")[0][0]] == numbers

    asyncio.run(main())


def test_what_the_quota_refused_is_subscribed_when_there_is_room():
    async def main():
        clock = ManualClock()
        wanted = Subscriptions(["AAPL", "MSFT", "NOSUC"])
        async with (
            FutuSimulator([AAPL, MSFT], clock=clock, sub_quota=3) as simulator,
            listening(simulator, wanted, clock=clock) as heard,
        ):

            async def second():
                await clock.advance(1.0)
                await asyncio.sleep(0.001)

            await heard.until(subscribed(simulator, AAPL))
            await heard.until(lambda: len(heard.refused()) == 2)
            assert sorted(heard.refused()) == [("not_entitled", "MSFT"), ("unknown_symbol", "NOSUC")]
            wanted.discard(["AAPL"])
            await heard.until(subscribed(simulator, MSFT), step=second)
            simulator.trade(MSFT)
            await heard.until(lambda: heard.trades("MSFT"))
            assert len(heard.refused()) == 2

    asyncio.run(main())


def test_a_subscription_is_ended_no_sooner_than_opend_allows():
    async def main():
        clock = ManualClock()
        wanted = Subscriptions(["AAPL", "MSFT"])
        async with (
            FutuSimulator([AAPL, MSFT], clock=clock) as simulator,
            listening(simulator, wanted, clock=clock) as heard,
        ):

            async def second():
                await clock.advance(1.0)
                await asyncio.sleep(0.001)

            await heard.until(subscribed(simulator, AAPL, MSFT))
            began_ns = clock.monotonic_ns()
            wanted.discard(["MSFT"])
            await heard.until(lambda: clock.monotonic_ns() - began_ns > 20e9, step=second)
            batches = len(heard.of(TickBatch))
            simulator.trade(MSFT)
            simulator.trade(AAPL)
            await heard.until(lambda: heard.trades("AAPL"))
            later = heard.of(TickBatch)[batches:]
            assert {batch.symbols[index] for batch in later for index in batch.symbol_index} == {"AAPL"}
            await heard.until(subscribed(simulator, AAPL), step=second)
            assert 60e9 <= clock.monotonic_ns() - began_ns <= 64e9
            ends = [request for proto, request in simulator.requests if proto == 3001 and not request["isSubOrUnSub"]]
            assert [(r["securityList"], r["subTypeList"]) for r in ends] == [
                ([{"market": 11, "code": "MSFT"}], [1, 2, 4])
            ]
            assert heard.of(Quarantined) == []

    asyncio.run(main())


def test_a_symbol_wanted_again_before_the_minute_is_over_was_never_given_up():
    async def main():
        clock = ManualClock()
        wanted = Subscriptions(["AAPL", "MSFT"])
        async with (
            FutuSimulator([AAPL, MSFT], clock=clock) as simulator,
            listening(simulator, wanted, clock=clock) as heard,
        ):

            async def second():
                await clock.advance(1.0)
                await asyncio.sleep(0.001)

            await heard.until(subscribed(simulator, AAPL, MSFT))
            wanted.discard(["MSFT"])
            began_ns = clock.monotonic_ns()
            await heard.until(lambda: clock.monotonic_ns() - began_ns > 10e9, step=second)
            wanted.add(["MSFT"])
            await heard.until(lambda: clock.monotonic_ns() - began_ns > 100e9, step=second)
            assert subscribed(simulator, AAPL, MSFT)()
            assert sum(proto == 3001 for proto, _ in simulator.requests) == 1
            simulator.trade(MSFT)
            await heard.until(lambda: heard.trades("MSFT"))

    asyncio.run(main())


def test_states_of_markets_are_told_when_they_change():
    async def main():
        clock = ManualClock()
        async with (
            FutuSimulator([AAPL, TENCENT], clock=clock) as simulator,
            listening(simulator, Subscriptions(["AAPL", "0700.HK"]), clock=clock, market_state_s=60.0) as heard,
        ):

            async def second():
                await clock.advance(1.0)
                await asyncio.sleep(0.001)

            def states():
                return [(event.symbol, event.state) for event in heard.of(MarketState)]

            await heard.until(lambda: len(states()) == 2)
            assert sorted(states()) == [("0700.HK", "open"), ("AAPL", "open")]
            simulator.set_market_state(TENCENT, 4)
            await heard.until(lambda: len(states()) == 3, step=second)
            assert states()[-1] == ("0700.HK", "closed")
            simulator.suspend(AAPL)
            await heard.until(lambda: len(states()) == 4)
            assert states()[-1] == ("AAPL", "suspended")
            simulator.suspend(AAPL, suspended=False)
            await heard.until(lambda: len(states()) == 5)
            assert states()[-1] == ("AAPL", "open")
            began_ns = clock.monotonic_ns()
            await heard.until(lambda: clock.monotonic_ns() - began_ns > 300e9, step=second)
            assert len(states()) == 5
            asked = sum(proto == 3223 for proto, _ in simulator.requests)
            assert 5 <= asked <= 8
            # what passes is told and asked again, what was refused is told and ends it
            for words, ret_type in (("too often: frequency", -1), ("what is this", -1)):
                simulator.refuse(1, words, ret_type=ret_type, proto=3223)
                count = len(heard.of(Quarantined))
                await heard.until(lambda count=count: len(heard.of(Quarantined)) > count, step=second)
                assert words in heard.of(Quarantined)[-1].detail
            asked = sum(proto == 3223 for proto, _ in simulator.requests)
            began_ns = clock.monotonic_ns()
            await heard.until(lambda: clock.monotonic_ns() - began_ns > 130e9, step=second)
            assert sum(proto == 3223 for proto, _ in simulator.requests) == asked
            assert heard.of(Disconnected) == []

    asyncio.run(main())


def test_an_empty_side_of_the_book_is_told_as_empty():
    async def main():
        async with FutuSimulator([AAPL]) as simulator, listening(simulator, Subscriptions(["AAPL"])) as heard:
            await heard.until(lambda: heard.rows("AAPL", BOOK))
            simulator.empty_book(AAPL, asks=False)
            await heard.until(lambda: len(heard.rows("AAPL", BOOK)) == 2)
            batch, row = heard.rows("AAPL", BOOK)[-1]
            assert str(batch.bid[row]) == "nan"
            assert batch.ask[row] == simulator.quote(AAPL)[1]

    asyncio.run(main())


def test_late_and_average_prices_are_no_trades_of_now():
    async def main():
        async with FutuSimulator([AAPL]) as simulator, listening(simulator, Subscriptions(["AAPL"])) as heard:
            await heard.until(subscribed(simulator, AAPL))
            simulator.trade(AAPL, price=1.0, kind=24)
            good = simulator.trade(AAPL, kind=1)
            late = simulator.trade(
                AAPL, kind=1, pushed=2
            )  # made up for a lost connection of OpenD: a trade like others
            await heard.until(lambda: len(heard.trades("AAPL")) == 2)
            assert [number for number, *_ in heard.trades("AAPL")] == [good, late]

    asyncio.run(main())


def test_what_cannot_be_understood_is_told_and_the_stream_goes_on():
    async def main():
        async with FutuSimulator([AAPL]) as simulator, listening(simulator, Subscriptions(["AAPL"])) as heard:
            await heard.until(subscribed(simulator, AAPL))
            good = simulator.push(3005, b"")
            simulator.inject(simulator.push(3011, b"\x08"))
            simulator.inject(good[:16] + bytes(20) + good[36:])  # another checksum
            simulator.inject(simulator.push(3005, b"", ret_type=-1, text="No quote right for AAPL"))
            simulator.inject(simulator.push(3999, b"what is that"))
            simulator.inject(simulator.push(3021, b"a broker queue"))
            simulator.gateway_event(7, "the account is logged in elsewhere")
            number = simulator.trade(AAPL)
            await heard.until(lambda: [n for n, *_ in heard.trades("AAPL")] == [number])
            assert heard.refused() == [("malformed", None)] * 2 + [("provider_error", None)] * 2
            details = [event.detail for event in heard.of(Quarantined)]
            assert "push 3011" in details[0]
            assert "checksum" in details[1]
            assert "No quote right" in details[2]
            assert details[3] == "OpenD tells event 7: the account is logged in elsewhere"
            assert heard.of(Disconnected) == []

    asyncio.run(main())


@pytest.mark.parametrize("raw", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(20), b"FT" + b"\xff" * 60])
def test_what_is_no_frame_ends_the_connection(raw):
    async def main():
        async with FutuSimulator([AAPL]) as simulator, listening(simulator, Subscriptions(["AAPL"])) as heard:
            await heard.until(subscribed(simulator, AAPL))
            simulator.inject(raw)
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            (lost,) = heard.of(Disconnected)
            assert lost.reason.startswith("what came is no frame: ")

    asyncio.run(main())


def test_a_gateway_that_does_not_answer_is_given_up_in_time():
    async def main():
        async with FutuSimulator([AAPL]) as simulator:
            simulator.stall()
            wanted = Subscriptions(["AAPL"])
            async with listening(simulator, wanted, timeout_s=0.05, open_timeout_s=5.0) as heard:
                await heard.until(lambda: heard.of(Disconnected))
                assert heard.of(Disconnected)[0].reason == "InitConnect: no answer within 0.05 s"
            async with listening(simulator, wanted, timeout_s=5.0, open_timeout_s=0.05) as heard:
                await heard.until(lambda: heard.of(Disconnected))
                assert heard.of(Disconnected)[0].reason == "OpenD did not greet within 0.05 s"

    asyncio.run(main())


def test_the_tap_has_every_push_as_it_came():
    async def main():
        async with FutuSimulator([AAPL]) as simulator, listening(simulator, Subscriptions(["AAPL"])) as heard:
            await heard.until(subscribed(simulator, AAPL))
            simulator.trade(AAPL)
            await heard.until(lambda: heard.trades("AAPL"))
            frames = [FrameReader(10_000).feed(base64.b64decode(raw))[0] for _, raw in heard.tape]
            assert {frame.proto for frame in frames} == {3005, 3011, 3013}
            assert all(frame.body() for frame in frames)

    asyncio.run(main())


def test_two_names_of_one_security_are_one():
    async def main():
        wanted = Subscriptions(["AAPL", "APPLE"])
        async with (
            FutuSimulator([AAPL]) as simulator,
            listening(simulator, wanted, symbol_table={"APPLE": AAPL}) as heard,
        ):
            await heard.until(lambda: heard.rows("AAPL", LAST))
            await heard.until(lambda: heard.of(Quarantined))
            assert heard.refused() == [("unknown_symbol", "APPLE")]
            assert heard.of(Quarantined)[0].detail == "APPLE is AAPL by another name"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"symbols": ("EURUSD",)}, "symbols"),
        ({"symbol_table": {"X": "AAPL"}}, "symbol_table"),
        ({"host": " "}, "host"),
        ({"port": 0}, "port"),
        ({"streams": ()}, "streams"),
        ({"streams": ("basic", "basic")}, "streams"),
        ({"mute_timeout_s": 0.0}, "mute_timeout_s"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"market_state_s": 1.0}, "market_state_s"),
        ({"attempts": 0}, "attempts"),
        ({"bars_per_call": 1_001}, "bars_per_call"),
        ({"message_max_bytes": 1}, "message_max_bytes"),
    ],
)
def test_a_setting_that_cannot_be_is_named(fields, field):
    with pytest.raises(InvalidInput) as caught:
        FutuConfig(**fields)
    assert caught.value.field == field
    assert FutuConfig(symbols=(" aapl", "AAPL", "0700.hk")).symbols == ("AAPL", "0700.HK")
