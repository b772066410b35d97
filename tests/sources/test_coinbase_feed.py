"""The live side over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
from websockets.asyncio.server import serve

from marketd.clock import SystemClock
from marketd.errors import InvalidInput, SourceRejected
from marketd.model import Connected, Disconnected, Quarantined, Quote, Trade
from marketd.sources.coinbase import CoinbaseConfig
from marketd.sources.coinbase.feed import CoinbaseSource
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.contract import Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers import CoinbaseSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
BTC, ETH = "BTC-USD", "ETH-USD"


def configured(simulator, **fields):
    http = HttpConfig(retry=QUICK, requests_per_s=1_000.0, timeout_s=5.0)
    fields = {"reconnect": QUICK, "http": http, **fields}
    return CoinbaseConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, **fields)


class Listener:
    """Everything a source said so far."""

    def __init__(self):
        self.events = []
        self.tape = []
        self.task = None

    def of(self, kind, symbol=None):
        return [e for e in self.events if isinstance(e, kind) and (symbol is None or e.symbol == symbol)]

    def trade_ids(self, symbol):
        return [trade.trade_id for trade in self.of(Trade, symbol)]

    async def until(self, condition, deadline_s=10.0):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            if self.task.done():
                self.task.result()
            assert loop.time() < deadline, f"did not come true; saw {self.events}"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(simulator, wanted, *, clock=None, **fields):
    heard = Listener()
    source = CoinbaseSource(
        configured(simulator, **fields),
        clock or SystemClock(),
        lambda time_ns, raw: heard.tape.append((time_ns, raw)),
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


@asynccontextmanager
async def subscribed(simulator, *symbols, **fields):
    """A listener whose subscription the simulator has taken up: `last_match` of every symbol is in."""
    async with listening(simulator, Subscriptions(symbols), **fields) as heard:
        await heard.until(lambda: all(any("last_match" in raw and s in raw for _, raw in heard.tape) for s in symbols))
        yield heard


def as_trade(row, symbol):
    """A REST row as the documentation says to read it: side is the maker's."""
    time = datetime.fromisoformat(row["time"])
    return (
        symbol,
        int(time.timestamp()) * 10**9 + time.microsecond * 1_000,
        float(row["price"]),
        float(row["size"]),
        {"sell": "buy", "buy": "sell"}[row["side"]],
        row["trade_id"],
    )


def traded(heard, symbol):
    return [(t.symbol, t.time_event_ns, t.price, t.size, t.aggressor, t.trade_id) for t in heard.of(Trade, symbol)]


def test_trades_and_quotes_come_with_both_clocks_and_the_last_match_is_not_a_trade():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            before_ns = SystemClock().time_ns()
            first = simulator.trade(BTC, price="100.10", size="0.50000000", taker="buy")
            simulator.trade(BTC, price="100.05", size="0.25", taker="sell")
            await heard.until(lambda: len(heard.of(Quote)) == 2)
            assert heard.events[0] == Connected(source="coinbase", time_received_ns=heard.events[0].time_received_ns)
            assert traded(heard, BTC) == [as_trade(row, BTC) for row in simulator.trade_rows(BTC)[-2:]]
            assert [(t.price, t.size, t.aggressor, t.trade_id) for t in heard.of(Trade)] == [
                (100.10, 0.5, "buy", first), (100.05, 0.25, "sell", first + 1),
            ]  # fmt: skip
            up, down = heard.of(Quote)
            assert (up.last, up.ask, down.last, down.bid) == (100.10, 100.10, 100.05, 100.05)
            for event in heard.of(Trade) + heard.of(Quote):
                assert before_ns // 1000 * 1000 <= event.time_event_ns <= event.time_received_ns
                assert event.time_received_ns <= SystemClock().time_ns()

    asyncio.run(main())


def test_a_burst_comes_in_few_batches():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator:
            batches = []
            source = CoinbaseSource(configured(simulator), SystemClock())
            stream = source.stream(Subscriptions([BTC]))
            batches.append(await anext(stream))
            await wait_until(lambda: simulator.commands)
            ids = [simulator.trade(BTC) for _ in range(200)]
            while sum(isinstance(e, Trade) for batch in batches for e in batch) < 200:
                batches.append(await asyncio.wait_for(anext(stream), 5.0))
            await stream.aclose()
            assert [e.trade_id for batch in batches for e in batch if isinstance(e, Trade)] == ids
            assert len(batches) < 100

    asyncio.run(main())


def test_a_cut_connection_is_told_and_the_trades_meanwhile_are_refilled_exactly():
    async def main():
        async with CoinbaseSimulator([BTC, ETH]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            ids = [simulator.trade(BTC) for _ in range(3)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 3)
            simulator.drop_connections()
            ids += [simulator.trade(BTC) for _ in range(5)]  # nobody is connected
            await heard.until(lambda: len(heard.of(Connected)) == 2 and len(heard.trade_ids(BTC)) == 8)
            ids += [simulator.trade(BTC), simulator.trade(BTC)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 10)
            assert heard.trade_ids(BTC) == ids
            assert traded(heard, BTC) == [as_trade(row, BTC) for row in simulator.trade_rows(BTC)[-10:]]
            (lost,) = heard.of(Disconnected)
            assert lost.reason.startswith("connection closed: ")
            order = [type(e) for e in heard.events if isinstance(e, Connected | Disconnected | Trade)]
            assert order == [Connected, *[Trade] * 3, Disconnected, Connected, *[Trade] * 7]
            assert heard.of(Quarantined) == []
            received = [e.time_received_ns for e in heard.events]
            assert received == sorted(received)

    asyncio.run(main())


def test_trades_lost_on_the_socket_are_found_by_the_next_trade_and_come_before_it():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            ids = [simulator.trade(BTC)]
            simulator.skip_trades(4)
            ids += [simulator.trade(BTC) for _ in range(6)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 7)
            assert heard.trade_ids(BTC) == ids
            assert heard.of(Quarantined) == []
            # a recording of the stream brings the same trades, refilled ones included
            replayed = [e for time_ns, raw in heard.tape for e in parse_message(raw, time_ns) if isinstance(e, Trade)]
            assert sorted(trade.trade_id for trade in replayed) == ids

    asyncio.run(main())


def test_trades_lost_in_a_quiet_time_are_found_by_heartbeats():
    async def main():
        async with (
            CoinbaseSimulator([BTC], heartbeat_interval_s=0.05) as simulator,
            subscribed(simulator, BTC) as heard,
        ):
            simulator.skip_trades(3)
            ids = [simulator.trade(BTC) for _ in range(3)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 3)
            assert heard.trade_ids(BTC) == ids

    asyncio.run(main())


def test_a_long_hole_is_refilled_over_several_pages():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.skip_trades(2_300)
            ids = [simulator.trade(BTC) for _ in range(2_301)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 2_301)
            assert heard.trade_ids(BTC) == ids
            # 1000 is the most a page may have, newest first, `after` means older than
            last = ids[-1]
            assert list(simulator.requests) == [
                f"/products/BTC-USD/trades?after={last - skipped}&limit={limit}"
                for skipped, limit in ((0, 1_000), (1_000, 1_000), (2_000, 300))
            ]

    asyncio.run(main())


def test_a_hole_beyond_the_limit_is_filled_at_its_newer_end_and_the_rest_is_named():
    async def main():
        async with (
            CoinbaseSimulator([BTC]) as simulator,
            subscribed(simulator, BTC, refill_max_trades=10) as heard,
        ):
            simulator.skip_trades(25)
            ids = [simulator.trade(BTC) for _ in range(26)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 11)
            assert heard.trade_ids(BTC) == ids[15:]
            (missing,) = heard.of(Quarantined)
            assert (missing.reason, missing.symbol) == ("trades_missing", BTC)
            assert missing.detail == (
                f"BTC-USD: trades {ids[0]} to {ids[14]} were lost: only the newest 10 are fetched"
            )

    asyncio.run(main())


def test_trades_the_exchange_does_not_have_are_named_and_the_stream_goes_on():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            next_id = simulator.last_trade_id(BTC) + 1
            simulator.withhold_trades(BTC, [next_id + 1, next_id + 2])
            simulator.skip_trades(4)
            began_s = asyncio.get_running_loop().time()
            ids = [simulator.trade(BTC) for _ in range(5)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 3)
            assert asyncio.get_running_loop().time() - began_s >= 0.02 + 0.04  # the waits between the attempts
            assert heard.trade_ids(BTC) == [ids[0], ids[3], ids[4]]
            (missing,) = heard.of(Quarantined)
            assert missing.detail == (
                f"BTC-USD: trades {ids[1]} to {ids[2]} were lost: the exchange does not have them"
            )
            assert len(simulator.requests) >= 3  # it was asked again before it was given up

    asyncio.run(main())


def test_trades_that_the_requests_show_a_little_later_are_not_given_up():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC, refill_attempts=50) as heard:
            next_id = simulator.last_trade_id(BTC) + 1
            simulator.withhold_trades(BTC, [next_id])
            simulator.skip_trades(1)
            ids = [simulator.trade(BTC) for _ in range(2)]
            await heard.until(lambda: len(simulator.requests) >= 2)
            simulator.withhold_trades(BTC, [])
            await heard.until(lambda: heard.trade_ids(BTC) == ids)
            assert heard.of(Quarantined) == []

    asyncio.run(main())


@pytest.mark.parametrize(("status", "words"), [(503, "HTTP 503"), (404, "HTTP 404"), (429, "HTTP 429")])
def test_a_refill_that_is_refused_says_so_and_quotes_go_on(status, words):
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.refuse(100, status=status)
            simulator.skip_trades(2)
            ids = [simulator.trade(BTC) for _ in range(3)]
            await heard.until(lambda: heard.trade_ids(BTC) == [ids[2]])
            (missing,) = heard.of(Quarantined)
            assert missing.detail.startswith(f"BTC-USD: trades {ids[0]} to {ids[1]} were lost: GET ")
            assert words in missing.detail
            assert len(heard.of(Quote)) == 1
            assert heard.of(Disconnected) == []

    asyncio.run(main())


def test_while_a_refill_waits_its_trades_are_held_and_everything_else_goes_on():
    async def main():
        async with CoinbaseSimulator([BTC, ETH]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            simulator.stall()
            simulator.skip_trades(1)
            btc = [simulator.trade(BTC) for _ in range(3)]
            eth = [simulator.trade(ETH) for _ in range(2)]
            await heard.until(lambda: len(heard.of(Quote, ETH)) == 2)
            assert heard.trade_ids(ETH) == eth
            assert len(heard.of(Quote, BTC)) == 2
            assert heard.trade_ids(BTC) == []
            simulator.stall(stalled=False)
            await heard.until(lambda: heard.trade_ids(BTC) == btc)
            received = [e.time_received_ns for e in heard.events]
            assert received == sorted(received)

    asyncio.run(main())


def test_trades_held_when_the_connection_is_lost_come_after_the_reconnect():
    async def main():
        async with (
            CoinbaseSimulator([BTC], heartbeat_interval_s=60.0) as simulator,
            subscribed(simulator, BTC, mute_timeout_s=60.0) as heard,
        ):
            simulator.stall()
            simulator.skip_trades(1)
            ids = [simulator.trade(BTC) for _ in range(3)]
            await heard.until(lambda: len(heard.of(Quote)) == 2)
            simulator.drop_connections()
            ids += [simulator.trade(BTC), simulator.trade(BTC)]
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.trade_ids(BTC) == []
            simulator.stall(stalled=False)
            await heard.until(lambda: heard.trade_ids(BTC) == ids)

    asyncio.run(main())


def test_too_many_trades_held_end_the_refill():
    async def main():
        async with (
            CoinbaseSimulator([BTC]) as simulator,
            subscribed(simulator, BTC, refill_max_trades=5) as heard,
        ):
            simulator.stall()
            simulator.skip_trades(1)
            ids = [simulator.trade(BTC) for _ in range(8)]
            await heard.until(lambda: heard.trade_ids(BTC) == ids[1:])
            (missing,) = heard.of(Quarantined)
            assert missing.detail == (
                f"BTC-USD: trades {ids[0]} to {ids[0]} were lost: more than 5 trades came meanwhile"
            )

    asyncio.run(main())


def test_a_connection_that_is_open_and_mute_is_given_up_after_five_seconds():
    async def main():
        clock = ManualClock(SystemClock().time_ns())
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC, clock=clock) as heard:
            simulator.mute()
            await clock.advance(4.9)
            assert heard.of(Disconnected) == []
            await clock.advance(0.2)
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.of(Disconnected)[0].reason == "no message for 5 s"
            simulator.mute(muted=False)
            await heard.until(lambda: clock._sleepers)
            await clock.advance(1.0)
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            missed = simulator.trade(BTC)
            await heard.until(lambda: heard.trade_ids(BTC) == [missed])

    asyncio.run(main())


def test_heartbeats_keep_a_quiet_connection_alive():
    async def main():
        async with (
            CoinbaseSimulator([BTC], heartbeat_interval_s=0.05) as simulator,
            subscribed(simulator, BTC, mute_timeout_s=0.5) as heard,
        ):
            beats = sum("heartbeat" in raw for _, raw in heard.tape)
            await heard.until(lambda: sum("heartbeat" in raw for _, raw in heard.tape) >= beats + 20)
            assert heard.of(Disconnected) == []

    asyncio.run(main())


@pytest.mark.parametrize("named", [True, False], ids=["error names it", "error names nothing"])
def test_unknown_symbols_are_told_once_and_the_others_go_on(named):
    async def main():
        async with CoinbaseSimulator([BTC, ETH], error_names_product=named) as simulator:
            wanted = Subscriptions(["FOO-USD", BTC, "BTC-USDX", ETH])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: sum("last_match" in raw for _, raw in heard.tape) == 2)
                ids = [simulator.trade(BTC), simulator.trade(ETH)]
                await heard.until(lambda: len(heard.of(Trade)) == 2)
                assert heard.trade_ids(BTC) + heard.trade_ids(ETH) == ids
                told = heard.of(Quarantined)
                assert {(e.reason, e.symbol) for e in told} == {
                    ("unknown_symbol", "FOO-USD"), ("unknown_symbol", "BTC-USDX"),
                }  # fmt: skip
                assert len(told) == 2
                assert all(e.symbol in e.detail for e in told)
                simulator.drop_connections()
                await heard.until(lambda: len(heard.of(Connected)) == 2)
                last = simulator.trade(ETH)
                await heard.until(lambda: heard.trade_ids(ETH)[-1:] == [last])
                assert len(heard.of(Quarantined)) == 2
                # given up and wanted again, it is asked for again
                wanted.discard(["FOO-USD"])
                wanted.add(["SOL-USD"])
                await heard.until(lambda: len(heard.of(Quarantined)) == 3)
                wanted.add(["FOO-USD"])
                await heard.until(lambda: [e.symbol for e in heard.of(Quarantined)][2:] == ["SOL-USD", "FOO-USD"])

    asyncio.run(main())


def test_a_bad_symbol_added_while_running_takes_nobody_down():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator:
            wanted = Subscriptions([BTC])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: any("last_match" in raw for _, raw in heard.tape))
                wanted.add(["FOO-USD"])
                await heard.until(lambda: heard.of(Quarantined))
                await heard.until(lambda: simulator.commands[-1]["product_ids"] == [BTC])
                first = simulator.trade(BTC)
                await heard.until(lambda: heard.trade_ids(BTC) == [first])
                assert heard.of(Disconnected) == []

    asyncio.run(main())


def test_symbols_added_start_and_symbols_removed_fall_silent():
    async def main():
        async with CoinbaseSimulator([BTC, ETH]) as simulator:
            wanted = Subscriptions()
            async with listening(simulator, wanted) as heard:
                await asyncio.sleep(0)
                assert simulator.connections == 0  # nothing to say, nothing to connect for
                wanted.add(["BTC/USD"])
                await heard.until(lambda: any("last_match" in raw for _, raw in heard.tape))
                wanted.add([ETH])
                await heard.until(lambda: sum("last_match" in raw for _, raw in heard.tape) == 2)
                eth = simulator.trade(ETH)
                await heard.until(lambda: heard.trade_ids(ETH) == [eth])
                wanted.discard([ETH])
                await heard.until(lambda: simulator.commands[-1]["type"] == "unsubscribe")
                simulator.trade(ETH)
                btc = simulator.trade(BTC)
                await heard.until(lambda: heard.trade_ids(BTC) == [btc])
                assert heard.trade_ids(ETH) == [eth]
                wanted.add([ETH])  # what was traded meanwhile was not wanted, so it is not a hole
                await heard.until(lambda: sum("last_match" in raw for _, raw in heard.tape) == 3)
                again = simulator.trade(ETH)
                await heard.until(lambda: heard.trade_ids(ETH) == [eth, again])
                assert [(c["type"], c["product_ids"]) for c in simulator.commands] == [
                    ("subscribe", [BTC]), ("subscribe", [ETH]), ("unsubscribe", [ETH]), ("subscribe", [ETH]),
                ]  # fmt: skip
                assert {tuple(c["channels"]) for c in simulator.commands} == {("ticker", "matches", "heartbeat")}
                assert not simulator.requests

    asyncio.run(main())


def test_nothing_wanted_for_a_while_keeps_the_connection_and_is_not_muteness():
    async def main():
        clock = ManualClock(SystemClock().time_ns())
        async with CoinbaseSimulator([BTC]) as simulator:
            wanted = Subscriptions([BTC])
            async with listening(simulator, wanted, clock=clock) as heard:
                await heard.until(lambda: any("last_match" in raw for _, raw in heard.tape))
                wanted.discard([BTC])
                await heard.until(lambda: simulator.commands[-1]["type"] == "unsubscribe")
                await clock.advance(60.0)
                assert heard.of(Disconnected) == []
                wanted.add([BTC])
                await heard.until(lambda: sum("last_match" in raw for _, raw in heard.tape) == 2)
                first = simulator.trade(BTC)
                await heard.until(lambda: heard.trade_ids(BTC) == [first])

    asyncio.run(main())


def test_garbage_on_the_socket_is_quarantined_and_the_rest_goes_on():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.inject("\x00 not json")
            simulator.inject('{"type":"error","message":"Slow down"}')
            first = simulator.trade(BTC)
            await heard.until(lambda: heard.trade_ids(BTC) == [first])
            assert [e.reason for e in heard.of(Quarantined)] == ["malformed", "provider_error"]
            assert heard.of(Quarantined)[1].detail == "Slow down"

    asyncio.run(main())


def test_the_tap_gets_every_message_as_it_came():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.inject('{"type":"subscriptions",  "channels":[]}')
            simulator.trade(BTC)
            await heard.until(lambda: heard.of(Quote))
            assert '{"type":"subscriptions",  "channels":[]}' in [raw for _, raw in heard.tape]
            parsed = [event for time_ns, raw in heard.tape for event in parse_message(raw, time_ns)]
            assert parsed == heard.events[1:]

    asyncio.run(main())


def test_nobody_listening_is_told_and_tried_again():
    async def main():
        async with CoinbaseSimulator([BTC]) as simulator:
            pass  # its port is free again
        async with listening(simulator, Subscriptions([BTC])) as heard:
            await heard.until(lambda: len(heard.of(Disconnected)) == 2)
            assert heard.of(Connected) == []
            assert all(e.reason.startswith("no connection: ") for e in heard.of(Disconnected))

    asyncio.run(main())


def test_a_server_that_refuses_the_handshake_is_tried_again():
    async def main():
        async with serve(lambda _: None, "127.0.0.1", 0, process_request=lambda c, _: c.respond(403, "no")) as server:
            config = CoinbaseConfig(ws_url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", reconnect=QUICK)
            stream = CoinbaseSource(config, SystemClock()).stream(Subscriptions([BTC]))
            for _ in range(2):
                (lost,) = await asyncio.wait_for(anext(stream), 5.0)
                assert isinstance(lost, Disconnected)
                assert "HTTP 403" in lost.reason
            await stream.aclose()

    asyncio.run(main())


def test_a_url_that_is_none_is_final():
    async def main():
        stream = CoinbaseSource(CoinbaseConfig(ws_url="ws://"), SystemClock()).stream(Subscriptions([BTC]))
        with pytest.raises(SourceRejected):
            await anext(stream)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"symbols": ("BTC-USD", " ")}, "symbols"),
        ({"rest_url": "ftp://x"}, "rest_url"),
        ({"ws_url": "https://x"}, "ws_url"),
        ({"mute_timeout_s": 0.0}, "mute_timeout_s"),
        ({"open_timeout_s": float("nan")}, "open_timeout_s"),
        ({"refill_max_trades": -1}, "refill_max_trades"),
        ({"refill_attempts": 0}, "refill_attempts"),
        ({"candles_per_call": 301}, "candles_per_call"),
    ],
)
def test_an_impossible_setting_is_refused_by_field(fields, named):
    with pytest.raises(InvalidInput) as caught:
        CoinbaseConfig(**fields)
    assert caught.value.field == named


def test_configured_symbols_are_product_ids():
    assert CoinbaseConfig(symbols=("BTC/USD", "eth-usd", "BTC-USD")).symbols == (BTC, ETH)


async def wait_until(condition, deadline_s=5.0):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while not condition():
        assert loop.time() < deadline, "did not come true"
        await asyncio.sleep(0.002)
