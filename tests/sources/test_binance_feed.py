"""The live side over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager

import aiohttp
import pytest
from hearing import hearing, times_never_go_back

from marketd.clock import SystemClock
from marketd.errors import SourceRejected
from marketd.model import Connected, Disconnected, Quarantined, Quote, TickBatch, Trade
from marketd.sources.binance import BinanceConfig
from marketd.sources.binance.feed import BinanceSource
from marketd.sources.binance.parse import Names, read_batch
from marketd.sources.binance.symbols import symbol_map
from marketd.sources.contract import Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers.binance import BinanceSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
BTC, ETH = "BTC-USDT", "ETH-USDT"


def configured(simulator, **fields):
    http = HttpConfig(retry=QUICK, requests_per_s=1_000.0, timeout_s=5.0)
    urls = {"rest_url": simulator.rest_url, "old_trades_url": simulator.rest_url, "ws_url": simulator.ws_url}
    return BinanceConfig(**{**urls, "reconnect": QUICK, "http": http, "settle_s": 0.05, **fields})


def listening(simulator, wanted, *, clock=None, **fields):
    config = configured(simulator, **fields)
    names = symbol_map(config.symbol_table)
    return hearing(lambda tap: BinanceSource(config, names, clock or SystemClock(), tap, rng=random.Random(1)), wanted)


def streams_of(*symbols):
    return {f"{s.replace('-', '').lower()}@{stream}" for s in symbols for stream in ("bookTicker", "trade")}


def subscribed_to(simulator):
    return set().union(*simulator.subscribed)


@asynccontextmanager
async def subscribed(simulator, *symbols, **fields):
    """A listener whose subscription the simulator has taken up, and that has the quotes at the beginning."""
    async with listening(simulator, Subscriptions(symbols), **fields) as heard:
        await heard.until(
            lambda: subscribed_to(simulator) == streams_of(*symbols) and len(heard.of(Quote)) == len(symbols)
        )
        yield heard


def truth(simulator, name, ids):
    market = simulator.market(name)
    return [
        (t.time_us * 1_000, float(t.price), float(t.size), t.trade_id) for t in market.between_ids(ids[0], ids[-1] + 1)
    ]


def traded(heard, symbol):
    return [(t.time_event_ns, t.price, t.size, t.trade_id) for t in heard.of(Trade, symbol)]


def test_a_symbol_has_a_quote_before_anything_changes():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            market = simulator.market("BTCUSDT")
            (quote,) = heard.of(Quote)
            assert (quote.symbol, quote.bid, quote.ask, quote.last) == (
                BTC, float(market.bid), float(market.ask), float(market.price),
            )  # fmt: skip
            assert (quote.bid_size, quote.ask_size) == (float(market.bid_size), float(market.ask_size))
            assert isinstance(heard.events[0], Connected)

    asyncio.run(main())


def test_trades_and_quotes_come_with_both_clocks():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            before_ns = SystemClock().time_ns()
            simulator.quote("BTCUSDT", bid="100.10", ask="100.20")
            ids = [simulator.trade("BTCUSDT", price="100.20", size="0.5") for _ in range(2)]
            await heard.until(lambda: len(heard.of(Quote)) == 4)
            quote = heard.of(Quote)[1]
            assert (quote.bid, quote.ask, quote.last) == (100.10, 100.20, None)
            assert quote.time_event_ns == quote.time_received_ns >= before_ns
            assert traded(heard, BTC) == truth(simulator, "BTCUSDT", ids)
            for trade in heard.of(Trade):
                assert before_ns // 1_000 * 1_000 <= trade.time_event_ns <= trade.time_received_ns

    asyncio.run(main())


@pytest.mark.parametrize(("microseconds", "unit_ns"), [(True, 1_000), (False, 1_000_000)])
def test_times_are_asked_for_in_microseconds_unless_told_not_to(microseconds, unit_ns):
    async def main():
        async with (
            BinanceSimulator(["BTCUSDT"]) as simulator,
            subscribed(simulator, BTC, microseconds=microseconds) as heard,
        ):
            simulator.trade("BTCUSDT")
            simulator.skip_trades(1)
            for _ in range(40):
                simulator.trade("BTCUSDT")
            await heard.until(lambda: len(heard.of(Trade)) == 41)
            stamps = [trade.time_event_ns for trade in heard.of(Trade)]
            assert all(stamp % unit_ns == 0 for stamp in stamps)
            assert microseconds == any(stamp % 1_000_000 for stamp in stamps)

    asyncio.run(main())


def test_a_burst_comes_in_columns_and_few_batches():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            before = len(heard.batches)
            ids = [simulator.trade("BTCUSDT") for _ in range(500)]
            await heard.until(lambda: len(heard.of(Trade)) == 500)
            assert heard.trade_ids(BTC) == ids
            burst = [event for batch in heard.batches[before:] for event in batch]
            assert all(isinstance(event, TickBatch) for event in burst)
            assert len(burst) < 100
            assert len({id(event.symbols) for event in burst}) == 1

    asyncio.run(main())


def test_a_cut_connection_is_told_and_the_trades_meanwhile_are_refilled_exactly():
    async def main():
        async with BinanceSimulator(["BTCUSDT", "ETHUSDT"]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            ids = [simulator.trade("BTCUSDT") for _ in range(3)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 3)
            simulator.drop_connections()
            ids += [simulator.trade("BTCUSDT") for _ in range(5)]  # nobody is connected, and none comes after
            await heard.until(lambda: len(heard.of(Connected)) == 2 and len(heard.trade_ids(BTC)) == 8)
            await heard.until(lambda: subscribed_to(simulator) == streams_of(BTC, ETH))
            ids += [simulator.trade("BTCUSDT"), simulator.trade("BTCUSDT")]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 10)
            assert heard.trade_ids(BTC) == ids
            assert traded(heard, BTC) == truth(simulator, "BTCUSDT", ids)
            (lost,) = heard.of(Disconnected)
            assert lost.reason.startswith("connection closed: ")
            assert heard.of(Quarantined) == []
            assert times_never_go_back(heard)
            # the quotes of both are told anew
            up = [type(e) for e in heard.events].index(Disconnected)
            assert {e.symbol for e in heard.events[up:] if isinstance(e, Quote)} == {BTC, ETH}

    asyncio.run(main())


def test_trades_lost_on_the_socket_are_found_by_the_next_trade_and_come_before_it():
    async def main():
        async with BinanceSimulator(["BTCUSDT", "ETHUSDT"]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            ids = [simulator.trade("BTCUSDT")]
            simulator.skip_trades(4)
            ids += [simulator.trade("BTCUSDT") for _ in range(6)]
            other = simulator.trade("ETHUSDT")
            await heard.until(lambda: len(heard.of(Trade)) == 8)
            assert heard.trade_ids(BTC) == ids
            assert heard.trade_ids(ETH) == [other]
            assert traded(heard, BTC) == truth(simulator, "BTCUSDT", ids)
            assert heard.of(Quarantined) == []
            # a recording of the stream brings the same trades, refilled ones included
            batch = read_batch(heard.tape, Names({"BTCUSDT": BTC})).ticks
            assert sorted(e.trade_id for e in batch.to_events() if isinstance(e, Trade)) == ids
            ids += [simulator.trade("BTCUSDT") for _ in range(3)]
            await heard.until(lambda: heard.trade_ids(BTC) == ids)

    asyncio.run(main())


def test_a_hole_older_than_the_newest_trades_is_filled_from_the_old_ones_over_several_pages():
    async def main():
        async with (
            BinanceSimulator(["BTCUSDT"], recent_trades_max=300) as simulator,
            subscribed(simulator, BTC) as heard,
        ):
            ids = [simulator.trade("BTCUSDT")]
            await heard.until(lambda: heard.trade_ids(BTC) == ids)
            simulator.skip_trades(2_300)
            ids += [simulator.trade("BTCUSDT") for _ in range(2_301)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 2_302)
            assert heard.trade_ids(BTC) == ids
            asked = [request for request in simulator.requests if "rades?" in request]
            # the newest 300 are one more than the hole's end: of 2300 lost ones 2001 are older
            assert asked == [
                "/api/v3/trades?symbol=BTCUSDT&limit=1000",
                f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={ids[1]}&limit=1000",
                f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={ids[1001]}&limit=1000",
                f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={ids[2001]}&limit=1",
            ]

    asyncio.run(main())


def test_without_old_trades_a_long_hole_is_named():
    async def main():
        async with (
            BinanceSimulator(["BTCUSDT"], recent_trades_max=4) as simulator,
            subscribed(simulator, BTC, old_trades_url=None) as heard,
        ):
            ids = [simulator.trade("BTCUSDT")]
            await heard.until(lambda: heard.trade_ids(BTC) == ids)
            simulator.skip_trades(5)
            ids += [simulator.trade("BTCUSDT") for _ in range(6)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 5)
            assert heard.trade_ids(BTC) == [ids[0], *ids[-4:]]
            (missing,) = heard.of(Quarantined)
            assert (missing.reason, missing.symbol) == ("trades_missing", BTC)
            why = "older than the 4 newest, and old_trades_url is not set"
            assert missing.detail == f"BTC-USDT: trades {ids[1]} to {ids[2]} were lost: {why}"

    asyncio.run(main())


def test_trades_the_exchange_does_not_have_are_named_and_the_stream_goes_on():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            first = simulator.trade("BTCUSDT")
            await heard.until(lambda: heard.trade_ids(BTC) == [first])
            simulator.withhold_trades("BTCUSDT", [first + 2, first + 3])
            simulator.skip_trades(4)
            ids = [first, *(simulator.trade("BTCUSDT") for _ in range(5))]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 4)
            assert heard.trade_ids(BTC) == [ids[0], ids[1], ids[4], ids[5]]
            (missing,) = heard.of(Quarantined)
            assert missing.detail == (
                f"BTC-USDT: trades {ids[2]} to {ids[3]} were lost: the exchange does not have them"
            )

    asyncio.run(main())


def test_while_a_refill_waits_its_trades_are_held_and_everything_else_goes_on():
    async def main():
        async with BinanceSimulator(["BTCUSDT", "ETHUSDT"]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            btc = [simulator.trade("BTCUSDT")]
            await heard.until(lambda: heard.trade_ids(BTC) == btc)
            simulator.stall()
            simulator.skip_trades(1)
            btc += [simulator.trade("BTCUSDT") for _ in range(3)]
            eth = [simulator.trade("ETHUSDT") for _ in range(2)]
            await heard.until(lambda: len(heard.of(Quote, ETH)) == 3)
            await heard.until(lambda: len(heard.of(Quote, BTC)) == 5)
            assert heard.trade_ids(ETH) == eth
            assert heard.trade_ids(BTC) == btc[:1]
            simulator.stall(stalled=False)
            await heard.until(lambda: heard.trade_ids(BTC) == btc)
            assert times_never_go_back(heard)

    asyncio.run(main())


def test_trades_held_when_the_connection_is_lost_come_after_the_reconnect():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            ids = [simulator.trade("BTCUSDT")]
            await heard.until(lambda: heard.trade_ids(BTC) == ids)
            simulator.stall()
            simulator.skip_trades(1)
            ids += [simulator.trade("BTCUSDT") for _ in range(3)]
            await heard.until(lambda: len(heard.of(Quote)) == 5)
            simulator.drop_connections()
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.trade_ids(BTC) == ids[:1]
            simulator.stall(stalled=False)
            await heard.until(lambda: heard.trade_ids(BTC) == ids)

    asyncio.run(main())


def test_a_connection_that_is_mute_is_given_up_and_pings_keep_a_quiet_one_alive():
    async def main():
        clock = ManualClock(SystemClock().time_ns())
        async with (
            BinanceSimulator(["BTCUSDT"], clock=clock) as simulator,
            subscribed(simulator, BTC, clock=clock, gather_s=0.0) as heard,
        ):
            for _ in range(20):  # 100 s with nothing but pings
                await clock.advance(5.0)
                await asyncio.sleep(0.005)
            assert heard.of(Disconnected) == []
            simulator.mute()
            for _ in range(13):
                await clock.advance(5.0)
                await asyncio.sleep(0.005)
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.of(Disconnected)[0].reason == "no message for 60 s"
            simulator.mute(muted=False)
            await heard.until(lambda: clock._sleepers)
            await clock.advance(1.0)
            await heard.until(lambda: len(heard.of(Connected)) == 2)

    asyncio.run(main())


def test_the_cut_after_a_day_and_its_announcement_are_followed_by_a_new_connection():
    async def main():
        async with BinanceSimulator(["BTCUSDT"], lifetime_s=0.3) as simulator, subscribed(simulator, BTC) as heard:
            await heard.until(lambda: len(heard.of(Connected)) >= 2)
            assert heard.of(Disconnected)[0].reason.startswith("connection closed")
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.shut_down()
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            assert heard.of(Disconnected)[0].reason == "the exchange said that it shuts this connection"

    asyncio.run(main())


def test_unknown_symbols_are_told_once_and_the_others_go_on():
    async def main():
        async with BinanceSimulator(["BTCUSDT", "ETHUSDT"]) as simulator:
            wanted = Subscriptions(["FOO-USDT", BTC, "NOPAIR", ETH])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: len(heard.of(Quote)) == 2 and len(heard.of(Quarantined)) == 2)
                await heard.until(lambda: subscribed_to(simulator) == streams_of(BTC, ETH))
                assert {(e.reason, e.symbol) for e in heard.of(Quarantined)} == {
                    ("unknown_symbol", "FOO-USDT"), ("unknown_symbol", "NOPAIR"),
                }  # fmt: skip
                simulator.drop_connections()
                await heard.until(lambda: len(heard.of(Connected)) == 2)
                await heard.until(lambda: subscribed_to(simulator) == streams_of(BTC, ETH))
                last = simulator.trade("ETHUSDT")
                await heard.until(lambda: heard.trade_ids(ETH) == [last])
                assert len(heard.of(Quarantined)) == 2
                # given up and wanted again, it is asked for again
                wanted.discard(["FOO-USDT"])
                await asyncio.sleep(0.02)
                wanted.add(["FOO-USDT"])
                await heard.until(lambda: len(heard.of(Quarantined)) == 3)

    asyncio.run(main())


def test_more_symbols_than_a_connection_may_have_are_spread_over_several():
    async def main():
        names = [f"C{i}USDT" for i in range(7)]
        symbols = [f"C{i}-USDT" for i in range(7)]
        async with BinanceSimulator(names, history_minutes=2) as simulator:
            wanted = Subscriptions(symbols[:4])
            async with listening(simulator, wanted, streams_per_connection=4) as heard:
                await heard.until(lambda: subscribed_to(simulator) == streams_of(*symbols[:4]))
                assert simulator.connections == 2
                wanted.add(symbols[4:])
                await heard.until(lambda: subscribed_to(simulator) == streams_of(*symbols))
                assert simulator.connections == 4
                assert max(map(len, simulator.subscribed)) <= 4
                wanted.discard(symbols[:1])
                await heard.until(lambda: subscribed_to(simulator) == streams_of(*symbols[1:]))
                wanted.add(symbols[:1])  # takes the place that is free
                await heard.until(lambda: subscribed_to(simulator) == streams_of(*symbols))
                assert simulator.connections == 4
                for name in names:
                    simulator.trade(name)
                await heard.until(lambda: len(heard.of(Trade)) == 7)
                assert {t.symbol for t in heard.of(Trade)} == set(symbols)
                # one lost is all lost: the stream is one
                simulator.drop_connection(1)
                await heard.until(lambda: len(heard.of(Connected)) == 2)
                await heard.until(lambda: subscribed_to(simulator) == streams_of(*symbols))

    asyncio.run(main())


def test_commands_keep_within_the_limit_and_name_only_so_many_streams():
    async def main():
        names = [f"C{i}USDT" for i in range(30)]
        symbols = [f"C{i}-USDT" for i in range(30)]
        # the simulator closes a connection that says more than five things a second
        async with (
            BinanceSimulator(names, history_minutes=1) as simulator,
            listening(simulator, Subscriptions(symbols), names_per_command=10) as heard,
        ):
            await heard.until(lambda: subscribed_to(simulator) == streams_of(*symbols))
            assert heard.of(Disconnected) == []
            assert [len(command["params"]) for command in simulator.commands] == [10] * 6
            assert [command["id"] for command in simulator.commands] == [1, 2, 3, 4, 5, 6]

    asyncio.run(main())


def test_a_symbol_that_comes_back_begins_its_numbers_anew():
    async def main():
        async with BinanceSimulator(["BTCUSDT", "ETHUSDT"]) as simulator:
            wanted = Subscriptions([BTC, ETH])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: subscribed_to(simulator) == streams_of(BTC, ETH))
                first = simulator.trade("BTCUSDT")
                await heard.until(lambda: heard.trade_ids(BTC) == [first])
                wanted.discard([BTC])
                await heard.until(lambda: subscribed_to(simulator) == streams_of(ETH))
                simulator.trade("BTCUSDT")
                wanted.add([BTC])
                await heard.until(lambda: subscribed_to(simulator) == streams_of(BTC, ETH))
                last = simulator.trade("BTCUSDT")
                await heard.until(lambda: heard.trade_ids(BTC) == [first, last])
                assert heard.of(Quarantined) == []

    asyncio.run(main())


def test_without_the_quotes_at_the_beginning_the_stream_goes_on():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator:
            simulator.refuse(100, status=418, retry_after="120")
            async with listening(simulator, Subscriptions([BTC])) as heard:
                await heard.until(lambda: heard.of(Quarantined))
                (missing,) = heard.of(Quarantined)
                assert missing.reason == "quotes_missing"
                assert "HTTP 418" in missing.detail
                await heard.until(lambda: subscribed_to(simulator) == streams_of(BTC))
                simulator.trade("BTCUSDT")
                await heard.until(lambda: heard.of(Trade) and heard.of(Quote))
                assert heard.of(Disconnected) == []

    asyncio.run(main())


def test_bad_messages_are_told_and_the_stream_goes_on():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.inject("{")
            simulator.inject(json.dumps({"stream": "x", "data": {"e": "24hrTicker", "s": "BTCUSDT"}}))
            last = simulator.trade("BTCUSDT")
            await heard.until(lambda: heard.trade_ids(BTC) == [last])
            assert [e.reason for e in heard.of(Quarantined)] == ["malformed", "unknown_message"]

    asyncio.run(main())


def test_what_is_no_server_is_tried_again_and_what_is_no_url_is_not():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator:
            await simulator.go_down()
            async with listening(simulator, Subscriptions([BTC])) as heard:
                await heard.until(lambda: len(heard.of(Disconnected)) >= 2)
                assert heard.of(Disconnected)[0].reason.startswith("no connection: ClientConnectorError")
                await simulator.come_back()
                await heard.until(lambda: heard.of(Connected))
            # a server that is none of WebSockets
            async with listening(simulator, Subscriptions([BTC]), ws_url=simulator.ws_url + "/nothing") as heard:
                await heard.until(lambda: heard.of(Disconnected))
                assert heard.of(Disconnected)[0].reason == "no connection: HTTP 404 instead of a WebSocket"
            config = configured(simulator, ws_url="ws://")
            stream = BinanceSource(config, symbol_map({}), SystemClock()).stream(Subscriptions([BTC]))
            with pytest.raises(SourceRejected, match="is no URL of a WebSocket"):
                await anext(stream)
            await stream.aclose()

    asyncio.run(main())


def test_a_proxy_is_used_and_its_password_is_not_told():
    async def main():
        async with BinanceSimulator(["BTCUSDT"]) as simulator:
            http = HttpConfig(retry=QUICK, proxy="http://user:sesame@127.0.0.1:9")
            async with listening(simulator, Subscriptions([BTC]), http=http) as heard:
                await heard.until(lambda: heard.of(Disconnected))
                assert "sesame" not in repr(heard.events)

    asyncio.run(main())


def test_the_simulator_closes_who_says_too_much():
    async def main():
        async with (
            BinanceSimulator(["BTCUSDT"]) as simulator,
            aiohttp.ClientSession() as session,
            session.ws_connect(simulator.ws_url + "/ws") as socket,
        ):
            for number in range(6):
                await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
            kinds = [(await socket.receive(timeout=5)).type for _ in range(6)]
            assert kinds == [aiohttp.WSMsgType.TEXT] * 5 + [aiohttp.WSMsgType.CLOSE]

    asyncio.run(main())
