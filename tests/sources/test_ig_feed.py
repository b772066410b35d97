"""The live side over real sockets, against the simulator of the wire format, which shares no code with it."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.errors import NotEntitled
from marketd.model import Connected, Disconnected, MarketState, Quarantined, Quote, TickBatch, Trade
from marketd.sources.contract import ProviderDeps, Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.ig import ENTRY, IgConfig
from marketd.sources.lightstreamer import LightstreamerConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing.providers.ig import IgSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
EURUSD, GBPUSD, USDJPY = (f"CS.D.{pair}.MINI.IP" for pair in ("EURUSD", "GBPUSD", "USDJPY"))


class Heard:
    def __init__(self):
        self.events = []
        self.tape = []
        self.task = None

    def of(self, kind, symbol=None):
        return [e for e in self.events if isinstance(e, kind) and (symbol is None or e.symbol == symbol)]

    def prices(self, symbol):
        return [(q.bid, q.ask, q.time_event_ns // 1_000_000) for q in self.of(Quote, symbol)]

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
    http = HttpConfig(retry=QUICK, requests_per_s=1_000.0, timeout_s=5.0)
    given = {"api_key": simulator.api_key, "username": simulator.username, "password": simulator.password}
    config = IgConfig(**{"rest_url": simulator.rest_url, "reconnect": QUICK, "http": http, **given, **fields})
    heard = Heard()
    deps = ProviderDeps(
        clock=SystemClock(),
        metrics=Metrics(),
        tap=lambda time_ns, raw: heard.tape.append((time_ns, raw)),
        rng=random.Random(1),
    )
    provider = ENTRY.build(config, deps)
    stream = provider.stream.stream(wanted)

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
        await provider.close()
        if not heard.task.cancelled():
            heard.task.result()


@asynccontextmanager
async def subscribed(simulator, *symbols, **fields):
    async with listening(simulator, Subscriptions(symbols), **fields) as heard:
        await heard.until(lambda: len(simulator.stream.subscribed) == len(symbols))
        yield heard


def test_prices_come_as_the_market_has_them_with_its_state():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD", "GBPUSD") as heard:
            await heard.until(lambda: len(heard.of(Quote)) == 2)  # what is known now
            told = [simulator.tick(EURUSD) for _ in range(20)]
            await heard.until(lambda: len(heard.of(Quote, "EURUSD")) >= 21)
            assert heard.prices("EURUSD")[1:] == told
            assert len(heard.of(Quote, "GBPUSD")) == 1
            states = [(s.symbol, s.state, s.delayed) for s in heard.of(MarketState)]
            assert sorted(states) == [("EURUSD", "open", False), ("GBPUSD", "open", False)]
            assert isinstance(heard.events[0], Connected)
            assert all(q.bid_size > 0 and q.ask_size > 0 for q in heard.of(Quote, "EURUSD"))
            assert all(q.time_received_ns >= q.time_event_ns for q in heard.of(Quote, "EURUSD"))
            assert simulator.stream.subscribed == [f"PRICE:ABC123:{EURUSD}", f"PRICE:ABC123:{GBPUSD}"]

    asyncio.run(main())


def test_a_state_changes_alone():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD") as heard:
            await heard.until(lambda: heard.of(Quote))
            for state in ("CLOSED", "AUCTION", "SUSPENDED", "OFFLINE", "EDIT", "TRADEABLE"):
                simulator.set_state(EURUSD, state)
            simulator.set_state(EURUSD, "TRADEABLE", delayed=True)
            await heard.until(lambda: len(heard.of(MarketState)) == 8)
            assert [(s.state, s.delayed) for s in heard.of(MarketState)] == [
                ("open", False), ("closed", False), ("auction", False), ("suspended", False), ("offline", False),
                ("closed", False), ("open", False), ("open", True),
            ]  # fmt: skip
            assert len(heard.of(Quote)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("channel", ["chart_tick", "market"])
def test_the_other_channels(channel):
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD", channel=channel) as heard:
            told = [simulator.tick(EURUSD) for _ in range(5)]
            await heard.until(lambda: len(heard.of(Quote)) >= (6 if channel == "market" else 5))
            ours = heard.prices("EURUSD")[-5:]
            assert [(bid, ask) for bid, ask, _ in ours] == [(bid, ask) for bid, ask, _ in told]
            step = 1_000 if channel == "market" else 1  # to the second
            assert [at // step for _, _, at in ours] == [at // step for _, _, at in told]
            assert [s.state for s in heard.of(MarketState)] == (["open"] if channel == "market" else [])

    asyncio.run(main())


def test_what_is_refused_is_told_once_and_the_others_go_on():
    async def main():
        async with IgSimulator(restricted=[USDJPY]) as simulator:
            wanted = Subscriptions(["EURUSD", "USDJPY", "USDCHF", "AAPL"])
            async with listening(simulator, wanted) as heard:
                await heard.until(lambda: len(heard.of(Quarantined)) == 3 and heard.of(Quote))
                simulator.stream.cut()
                await heard.until(lambda: len(heard.of(Connected)) == 2)
                simulator.tick(EURUSD)
                await heard.until(lambda: len(heard.of(Quote)) == 2)
                refused = {e.symbol: (e.reason, e.detail) for e in heard.of(Quarantined)}
                assert len(heard.of(Quarantined)) == 3
                assert refused["USDJPY"] == (
                    "not_entitled",
                    "USDJPY: subscription refused: -1 Insufficient permissions",
                )
                assert refused["USDCHF"][0] == refused["AAPL"][0] == "unknown_symbol"
                wanted.discard(["AAPL"])
                for _ in range(5):
                    await asyncio.sleep(0)  # its going is noticed
                wanted.add(["AAPL"])
                await heard.until(lambda: len(heard.of(Quarantined)) == 4)

    asyncio.run(main())


def test_symbols_beyond_the_limit_wait_for_a_place():
    async def main():
        async with IgSimulator() as simulator:
            wanted = Subscriptions(["EURUSD", "GBPUSD", "USDJPY"])
            async with listening(simulator, wanted, subscriptions_max=2) as heard:
                await heard.until(lambda: {q.symbol for q in heard.of(Quote)} == {"EURUSD", "GBPUSD"})
                assert [(e.symbol, e.reason) for e in heard.of(Quarantined)] == [("USDJPY", "subscription_limit")]
                wanted.discard(["EURUSD"])
                await heard.until(lambda: heard.of(Quote, "USDJPY"))
                assert simulator.stream.subscribed == [f"PRICE:ABC123:{GBPUSD}", f"PRICE:ABC123:{USDJPY}"]
                assert len(heard.of(Quarantined)) == 1

    asyncio.run(main())


def test_a_cut_is_an_event_and_nothing_is_lost_or_repeated():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD") as heard:
            told = []
            for round_ in range(3):
                told += [simulator.tick(EURUSD) for _ in range(10)]
                count = 1 + len(told)
                await heard.until(lambda count=count: len(heard.of(Quote)) == count)
                simulator.stream.cut()
                told += [simulator.tick(EURUSD) for _ in range(10)]
                await heard.until(lambda round_=round_: len(heard.of(Connected)) == 2 + round_)
            await heard.until(lambda: len(heard.of(Quote)) == 1 + len(told))
            assert heard.prices("EURUSD")[1:] == told
            assert len(heard.of(Disconnected)) == 3
            assert simulator.logins == 1
            assert len(simulator.stream.sessions) == 1

    asyncio.run(main())


def test_a_snapshot_after_a_reconnect_is_not_told_again():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD") as heard:
            simulator.tick(EURUSD)
            await heard.until(lambda: len(heard.of(Quote)) == 2)
            simulator.stream.end(32, "closed by the server")
            await heard.until(lambda: len(heard.of(Connected)) == 2 and simulator.stream.subscribed)
            told = simulator.tick(EURUSD)
            await heard.until(lambda: len(heard.of(Quote)) == 3)
            assert heard.prices("EURUSD")[-1] == told
            assert len(heard.of(MarketState)) == 1

    asyncio.run(main())


def test_stale_tokens_are_renewed_for_a_new_session():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD") as heard:
            simulator.expire_tokens()
            simulator.tick(EURUSD)
            await heard.until(lambda: len(heard.of(Quote)) == 2)  # the stream goes on
            simulator.stream.end(48, "for too long")
            await heard.until(lambda: len(heard.of(Connected)) == 2)
            assert simulator.logins == 2
            assert len(heard.of(Disconnected)) == 1

    asyncio.run(main())


def test_a_refused_login_ends_the_stream():
    async def main():
        async with IgSimulator() as simulator:
            with pytest.raises(NotEntitled, match="invalid-details"):
                async with listening(simulator, Subscriptions(["EURUSD"]), password="guessed") as heard:
                    await heard.until(lambda: False)
            assert simulator.logins == 0
            assert len(simulator.requests) == 1

    asyncio.run(main())


def test_a_server_of_an_older_version():
    async def main():
        async with IgSimulator(unsupported=["2.5.0"]) as simulator, subscribed(simulator, "EURUSD") as heard:
            simulator.tick(EURUSD)
            await heard.until(lambda: len(heard.of(Quote)) == 2)
            assert not heard.of(Disconnected)

    asyncio.run(main())


def test_a_server_that_does_not_tell_of_delays():
    async def main():
        async with IgSimulator() as simulator:
            simulator.stream.unknown_fields = {"DELAY"}
            async with subscribed(simulator, "EURUSD", "GBPUSD") as heard:
                await heard.until(lambda: len(heard.of(Quote)) == 2)
                assert [(s.state, s.delayed) for s in heard.of(MarketState)] == [("open", None)] * 2
            simulator.stream.unknown_fields = {"DLG_FLAG"}
            async with listening(simulator, Subscriptions(["EURUSD"])) as heard:
                await heard.until(lambda: heard.of(Quarantined))
                assert [e.detail for e in heard.of(Quarantined)] == [
                    "EURUSD: subscription refused: 23 Bad Field Schema name"
                ]

    asyncio.run(main())


def test_a_mute_connection_is_given_up():
    async def main():
        async with IgSimulator(keepalive_s=0.1) as simulator:
            stream = LightstreamerConfig(open_timeout_s=0.3)
            async with subscribed(simulator, "EURUSD", lightstreamer=stream) as heard:
                await heard.until(lambda: heard.of(Quote))
                simulator.stream.mute()
                told = simulator.tick(EURUSD)
                await heard.until(lambda: heard.of(Disconnected))
                assert heard.of(Disconnected)[0].reason == "no message for 0.2 s"
                simulator.stream.mute(muted=False)
                await heard.until(lambda: len(heard.of(Quote)) == 2)
                assert heard.prices("EURUSD")[-1] == told

    asyncio.run(main())


def test_nonsense_is_kept_apart_and_the_stream_goes_on():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD") as heard:
            await heard.until(lambda: heard.of(Quote))
            item = f"PRICE:ABC123:{EURUSD}"
            simulator.stream.publish(item, {"BIDPRICE1": "a lot"})
            simulator.stream.publish(item, {"BIDPRICE1": "1.1", "DLG_FLAG": "HOLIDAY"})
            simulator.stream.say("U,1,1,1|2", data=True)
            simulator.stream.say("SUBOK,x,y,z")
            await heard.until(lambda: len(heard.of(Quarantined)) >= 4)
            reasons = [(e.reason, e.symbol) for e in heard.of(Quarantined)]
            assert reasons == [
                ("malformed", "EURUSD"), ("unknown_state", "EURUSD"), ("malformed", "EURUSD"), ("malformed", None),
            ]  # fmt: skip
            await heard.until(lambda: len([1 for _, p in simulator.stream.requests if p.get("LS_op") == "add"]) == 2)
            simulator.tick(EURUSD)
            simulator.set_state(EURUSD, "TRADEABLE")
            last = simulator.last(EURUSD)
            await heard.until(lambda: heard.prices("EURUSD")[-1][:2] == last)
            assert not heard.of(Disconnected)

    asyncio.run(main())


def test_no_secret_is_on_the_tape():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD") as heard:
            await heard.until(lambda: heard.of(Quote))
            tape = "".join(raw for _, raw in heard.tape)
            tokens = simulator._tokens
            for secret in (simulator.password, simulator.api_key, tokens.client, tokens.security):
                assert secret not in tape

    asyncio.run(main())


def test_it_gives_quotes_and_nothing_that_counts_in_bars():
    async def main():
        async with IgSimulator() as simulator, subscribed(simulator, "EURUSD", channel="chart_tick") as heard:
            simulator.tick(EURUSD)
            await heard.until(lambda: heard.of(Quote))
            assert not heard.of(Trade)
            assert not heard.of(TickBatch)

    asyncio.run(main())
