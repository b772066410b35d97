"""The live side over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager

import pytest
from hearing import hearing, times_never_go_back

from marketd.clock import SystemClock
from marketd.model import Connected, Disconnected, MarketState, Quarantined, Quote, Trade
from marketd.sources.contract import Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.kraken import KrakenConfig
from marketd.sources.kraken.feed import KrakenSource
from marketd.sources.kraken.symbols import symbol_map
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers.kraken import KrakenSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
BTC, ETH = "BTC-USD", "ETH-USD"
TRADE_AT_NO_TIME = (
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":1.5,"qty":1,'
    '"ord_type":"limit","trade_id":5,"timestamp":"never"}]}'
)


def configured(simulator, **fields):
    http = HttpConfig(retry=QUICK, requests_per_s=1_000.0, burst=100, timeout_s=5.0)
    return KrakenConfig(
        **{"rest_url": simulator.rest_url, "ws_url": simulator.ws_url, "reconnect": QUICK, "http": http, **fields}
    )


def listening(simulator, wanted, *, clock=None, **fields):
    config = configured(simulator, **fields)
    names = symbol_map(config.symbol_table)
    return hearing(lambda tap: KrakenSource(config, names, clock or SystemClock(), tap, rng=random.Random(1)), wanted)


def snapshots(heard, symbol):
    name = json.dumps(symbol.replace("-", "/"))
    return sum('"channel":"trade","type":"snapshot"' in raw and name in raw for _, raw in heard.tape)


@asynccontextmanager
async def subscribed(simulator, *symbols, **fields):
    """A listener that has the snapshots of every symbol."""
    async with listening(simulator, Subscriptions(symbols), **fields) as heard:
        await heard.until(lambda: all(snapshots(heard, s) and heard.of(Quote, s) for s in symbols))
        yield heard


def truth(simulator, name, ids):
    market = simulator.market(name)
    return [
        (t.time_us * 1_000, float(t.price), float(t.size), t.taker, t.trade_id)
        for t in market.between_ids(ids[0], ids[-1] + 1)
    ]


def traded(heard, symbol):
    return [(t.time_event_ns, t.price, t.size, t.aggressor, t.trade_id) for t in heard.of(Trade, symbol)]


def test_trades_and_quotes_come_with_both_clocks_and_the_snapshot_of_trades_is_no_news():
    async def main():
        async with KrakenSimulator(["BTC/USD"]) as simulator, subscribed(simulator, BTC) as heard:
            before_ns = SystemClock().time_ns()
            market = simulator.market("BTC/USD")
            (first,) = heard.of(Quote)
            assert (first.bid, first.ask, first.last) == (float(market.bid), float(market.ask), float(market.price))
            assert heard.of(Trade) == []
            simulator.quote("BTC/USD", bid="100.10", ask="100.20")
            ids = [simulator.trade("BTC/USD", price="100.20", size="0.5", taker=side) for side in ("buy", "sell")]
            await heard.until(lambda: len(heard.of(Quote)) == 4)
            quote = heard.of(Quote)[1]
            assert (quote.bid, quote.ask) == (100.10, 100.20)
            assert traded(heard, BTC) == truth(simulator, "BTC/USD", ids)
            for event in heard.of(Trade) + heard.of(Quote)[1:]:
                assert before_ns // 1_000 * 1_000 <= event.time_event_ns <= event.time_received_ns

    asyncio.run(main())


def test_a_cut_connection_is_told_and_the_trades_meanwhile_come_from_the_snapshot():
    async def main():
        async with KrakenSimulator(["BTC/USD", "ETH/USD"]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            ids = [simulator.trade("BTC/USD") for _ in range(3)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 3)
            simulator.drop_connections()
            ids += [simulator.trade("BTC/USD") for _ in range(5)]  # nobody is connected
            await heard.until(lambda: len(heard.of(Connected)) == 2 and len(heard.trade_ids(BTC)) == 8)
            ids += [simulator.trade("BTC/USD"), simulator.trade("BTC/USD")]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 10)
            assert heard.trade_ids(BTC) == ids
            assert traded(heard, BTC) == truth(simulator, "BTC/USD", ids)
            (lost,) = heard.of(Disconnected)
            assert lost.reason.startswith("connection closed: ")
            assert heard.of(Quarantined) == []
            assert not simulator.requests
            assert times_never_go_back(heard)

    asyncio.run(main())


def test_a_hole_longer_than_the_snapshot_is_refilled_by_requests():
    async def main():
        async with KrakenSimulator(["BTC/USD"]) as simulator, subscribed(simulator, BTC) as heard:
            ids = [simulator.trade("BTC/USD")]
            await heard.until(lambda: heard.trade_ids(BTC) == ids)
            simulator.drop_connections()
            ids += [simulator.trade("BTC/USD") for _ in range(2_300)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 2_301)
            assert heard.trade_ids(BTC) == ids
            assert traded(heard, BTC) == truth(simulator, "BTC/USD", ids)
            assert len(simulator.requests) == 3
            assert heard.of(Quarantined) == []

    asyncio.run(main())


def test_trades_lost_on_the_socket_are_found_by_the_next_trade_and_come_before_it():
    async def main():
        async with KrakenSimulator(["BTC/USD"]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.skip_trades(4)  # right after the snapshot
            ids = [simulator.trade("BTC/USD") for _ in range(6)]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 6)
            assert heard.trade_ids(BTC) == ids
            assert traded(heard, BTC) == truth(simulator, "BTC/USD", ids)
            assert heard.of(Quarantined) == []
            assert times_never_go_back(heard)

    asyncio.run(main())


def test_trades_the_exchange_does_not_have_are_named_and_the_stream_goes_on():
    async def main():
        async with KrakenSimulator(["BTC/USD"]) as simulator, subscribed(simulator, BTC) as heard:
            first = simulator.trade("BTC/USD")
            await heard.until(lambda: heard.trade_ids(BTC) == [first])
            simulator.withhold_trades("BTC/USD", [first + 2, first + 3])
            simulator.skip_trades(4)
            ids = [first, *(simulator.trade("BTC/USD") for _ in range(5))]
            await heard.until(lambda: len(heard.trade_ids(BTC)) == 4)
            assert heard.trade_ids(BTC) == [ids[0], ids[1], ids[4], ids[5]]
            (missing,) = heard.of(Quarantined)
            assert missing.detail == (
                f"BTC-USD: trades {ids[2]} to {ids[3]} were lost: the exchange does not have them"
            )

    asyncio.run(main())


def test_a_refill_that_is_refused_says_so_and_quotes_go_on():
    async def main():
        async with KrakenSimulator(["BTC/USD"]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.refuse(100, "EService:Unavailable")
            simulator.skip_trades(2)
            ids = [simulator.trade("BTC/USD") for _ in range(3)]
            await heard.until(lambda: heard.trade_ids(BTC) == [ids[2]])
            (missing,) = heard.of(Quarantined)
            assert "EService:Unavailable" in missing.detail
            assert heard.of(Disconnected) == []

    asyncio.run(main())


def test_a_connection_that_is_mute_is_given_up_after_five_seconds_and_heartbeats_keep_a_quiet_one_alive():
    async def main():
        clock = ManualClock(SystemClock().time_ns())
        async with (
            KrakenSimulator(["BTC/USD"], clock=clock) as simulator,
            subscribed(simulator, BTC, clock=clock, gather_s=0.0) as heard,
        ):
            for _ in range(30):
                await clock.advance(1.0)
                await asyncio.sleep(0.002)
            assert heard.of(Disconnected) == []
            simulator.mute()
            await clock.advance(3.9)
            assert heard.of(Disconnected) == []
            await clock.advance(2.0)
            await heard.until(lambda: heard.of(Disconnected))
            assert heard.of(Disconnected)[0].reason == "no message for 5 s"
            simulator.mute(muted=False)
            await heard.until(lambda: clock._sleepers)
            await clock.advance(1.0)
            await heard.until(lambda: len(heard.of(Connected)) == 2)

    asyncio.run(main())


def test_unknown_symbols_are_told_once_and_the_others_go_on():
    async def main():
        async with KrakenSimulator(["BTC/USD", "ETH/USD"]) as simulator:
            wanted = Subscriptions(["FOO-USD", BTC, "NOPAIR", ETH])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: snapshots(heard, ETH) and len(heard.of(Quarantined)) == 2)
                assert {(e.reason, e.symbol) for e in heard.of(Quarantined)} == {
                    ("unknown_symbol", "FOO-USD"), ("unknown_symbol", "NOPAIR"),
                }  # fmt: skip
                simulator.drop_connections()
                await heard.until(lambda: snapshots(heard, ETH) == 2)
                last = simulator.trade("ETH/USD")
                await heard.until(lambda: heard.trade_ids(ETH) == [last])
                assert len(heard.of(Quarantined)) == 2
                # given up and wanted again, it is asked for again
                wanted.discard(["FOO-USD"])
                await asyncio.sleep(0.02)
                wanted.add(["FOO-USD"])
                await heard.until(lambda: len(heard.of(Quarantined)) == 3)

    asyncio.run(main())


def test_symbols_come_and_go_in_commands_of_so_many():
    async def main():
        names = [f"C{i}/USD" for i in range(5)]
        symbols = [name.replace("/", "-") for name in names]
        async with KrakenSimulator(names, history_minutes=1) as simulator:
            wanted = Subscriptions(symbols)
            async with listening(simulator, wanted, names_per_command=2) as heard:
                await heard.until(lambda: all(snapshots(heard, s) for s in symbols))
                sent = [(c["method"], c["params"]["channel"], len(c["params"]["symbol"])) for c in simulator.commands]
                assert sent == [("subscribe", channel, n) for n in (2, 2, 1) for channel in ("ticker", "trade")]
                assert simulator.commands[0]["params"]["event_trigger"] == "bbo"
                first = simulator.trade(names[0])
                await heard.until(lambda: heard.trade_ids(symbols[0]) == [first])
                wanted.discard(symbols[:1])
                await heard.until(lambda: simulator.commands[-1]["method"] == "unsubscribe")
                simulator.trade(names[0])
                wanted.add(symbols[:1])
                await heard.until(lambda: snapshots(heard, symbols[0]) == 2)
                last = simulator.trade(names[0])
                await heard.until(lambda: heard.trade_ids(symbols[0]) == [first, last])
                assert heard.of(Quarantined) == []

    asyncio.run(main())


def test_maintenance_is_told_of_every_symbol_when_it_begins_and_ends():
    async def main():
        async with KrakenSimulator(["BTC/USD", "ETH/USD"]) as simulator, subscribed(simulator, BTC, ETH) as heard:
            assert heard.of(MarketState) == []
            for system in ("maintenance", "maintenance", "cancel_only", "post_only", "online", "unheard_of"):
                simulator.set_system(system)
            await heard.until(lambda: len(heard.of(MarketState)) == 6)
            assert [(e.symbol, e.state) for e in heard.of(MarketState)] == [
                (symbol, state) for state in ("offline", "suspended", "open") for symbol in (BTC, ETH)
            ]

    asyncio.run(main())


def test_tickers_without_a_time_have_that_of_their_receipt():
    async def main():
        async with KrakenSimulator(["BTC/USD"], timestamps=False) as simulator, subscribed(simulator, BTC) as heard:
            (quote,) = heard.of(Quote)
            assert quote.time_event_ns == quote.time_received_ns

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("{", "malformed"),
        ('{"channel":"ohlc","type":"update","data":[]}', "unknown_message"),
        ('{"error":"Event(s) not found","method":"subscribe","success":false}', "provider_error"),
        (TRADE_AT_NO_TIME, "malformed"),
    ],
)
def test_bad_messages_are_told_and_the_stream_goes_on(raw, reason):
    async def main():
        async with KrakenSimulator(["BTC/USD"]) as simulator, subscribed(simulator, BTC) as heard:
            simulator.inject(raw)
            last = simulator.trade("BTC/USD")
            await heard.until(lambda: heard.trade_ids(BTC) == [last])
            assert [e.reason for e in heard.of(Quarantined)] == [reason]

    asyncio.run(main())
