"""The stream over real sockets: one connection, its limit, its silences, and what is refused."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from marketd.clock import SystemClock
from marketd.errors import InvalidInput, NotEntitled
from marketd.model import LAST, TRADE, Connected, Disconnected, Quarantined, TickBatch
from marketd.sources.contract import Subscriptions
from marketd.sources.finnhub import ENTRY, FinnhubConfig
from marketd.sources.finnhub.feed import FinnhubSource
from marketd.sources.finnhub.symbols import symbol_map
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.testing import ManualClock
from marketd.testing.providers.finnhub import FinnhubSimulator

QUICK = ReconnectPolicy(delay_first_s=0.02, delay_max_s=0.1)
STOCKS = ("AAPL", "MSFT", "IBM", "TSLA")


class Heard:
    """Everything a source said so far."""

    def __init__(self):
        self.events = []
        self.tape = []
        self.task = None

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def quarantined(self):
        return [(each.reason, each.symbol) for each in self.of(Quarantined)]

    def ticked(self):
        return {batch.symbols[at] for batch in self.of(TickBatch) for at in batch.symbol_index}

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
    heard = Heard()
    fields = {"api_key": simulator.api_key, "reconnect": QUICK, **fields}
    config = FinnhubConfig(rest_url=simulator.rest_url, ws_url=simulator.ws_url, **fields)
    source = FinnhubSource(
        config,
        symbol_map(config.symbol_table),
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


def run(body, symbols=STOCKS, wanted=STOCKS, *, clock=None, market=None, **fields):
    async def main():
        async with FinnhubSimulator(symbols, history_minutes=2, **(market or {})) as simulator:
            subscriptions = Subscriptions(wanted)
            async with listening(simulator, subscriptions, clock=clock, **fields) as heard:
                await body(simulator, subscriptions, heard)

    asyncio.run(main())


def test_one_message_of_many_trades_is_one_batch_and_every_message_goes_to_the_tap():
    async def body(simulator, _, heard):
        await heard.until(lambda: simulator.subscribed == {*STOCKS})
        sent = simulator.burst(STOCKS)
        await heard.until(lambda: heard.of(TickBatch))
        (batch,) = heard.of(TickBatch)
        assert [batch.symbols[at] for at in batch.symbol_index] == [symbol for symbol, _ in sent]
        assert batch.last.tolist() == [trade.price for _, trade in sent]
        assert batch.last_size.tolist() == [trade.size for _, trade in sent]
        assert batch.time_event_ns.tolist() == [trade.time_ms * 1_000_000 for _, trade in sent]
        assert set(batch.flags.tolist()) == {LAST | TRADE}
        assert len(heard.tape) == 1

    run(body)


def test_currencies_are_prices_and_not_trades():
    async def body(simulator, _, heard):
        await heard.until(lambda: simulator.subscribed == {"OANDA:EUR_USD"})
        simulator.trade("OANDA:EUR_USD", price=1.0841)
        await heard.until(lambda: heard.of(TickBatch))
        (batch,) = heard.of(TickBatch)
        assert (batch.symbols, batch.last.tolist(), batch.flags.tolist()) == (("EURUSD",), [1.0841], [LAST])

    run(body, ["OANDA:EUR_USD"], ["EURUSD"])


def test_what_is_beyond_the_limit_is_told_and_taken_up_when_there_is_room():
    async def body(simulator, wanted, heard):
        await heard.until(lambda: len(heard.of(Quarantined)) == 2)
        assert heard.quarantined() == [("subscription_limit", "IBM"), ("subscription_limit", "TSLA")]
        assert simulator.subscribed == {"AAPL", "MSFT"}
        wanted.discard(["AAPL"])
        await heard.until(lambda: simulator.subscribed == {"MSFT", "IBM"})
        simulator.burst(STOCKS)
        await heard.until(lambda: heard.ticked() == {"MSFT", "IBM"})
        assert len(heard.of(Quarantined)) == 2, "told once"
        assert simulator.handshakes == 1

    run(body, stream_symbols_max=2)


def test_a_lower_limit_of_the_key_is_learned_from_its_refusals():
    async def body(simulator, wanted, heard):
        await heard.until(lambda: len(heard.of(Quarantined)) == 2)
        assert {*heard.quarantined()} == {("subscription_limit", "IBM"), ("subscription_limit", "TSLA")}
        simulator.burst(STOCKS)
        await heard.until(lambda: heard.ticked() == {"AAPL", "MSFT"})
        before = len(simulator.commands)
        wanted.add(["NVDA"])
        await heard.until(lambda: ("subscription_limit", "NVDA") in heard.quarantined())
        assert len(simulator.commands) == before, "not asked for again"
        wanted.discard(["MSFT"])
        await heard.until(lambda: simulator.subscribed == {"AAPL", "IBM"})

    run(body, market={"symbols_max": 2})


def test_a_symbol_that_an_error_names_is_left_out_and_the_others_go_on():
    async def body(simulator, _, heard):
        await heard.until(lambda: heard.of(Quarantined))
        assert heard.quarantined() == [("unknown_symbol", "NOSUCH")]
        simulator.burst(["AAPL"])
        await heard.until(lambda: heard.ticked() == {"AAPL"})

    run(body, wanted=["NOSUCH", "AAPL"], market={"unknown": "error_with_name"})


def test_an_error_without_a_name_is_told_as_it_is():
    async def body(simulator, _, heard):
        await heard.until(lambda: heard.of(Quarantined))
        assert heard.quarantined() == [("provider_error", None)]
        simulator.burst(["AAPL"])
        await heard.until(lambda: heard.ticked() == {"AAPL"})

    run(body, wanted=["NOSUCH", "AAPL"], market={"unknown": "error"})


def test_messages_that_nobody_documented_harm_nothing():
    async def body(simulator, _, heard):
        await heard.until(lambda: simulator.subscribed == {*STOCKS})
        for raw in ('{"type":"news","data":[]}', "<html>", '{"type":"trade","data":null}'):
            simulator.inject(raw)
        simulator.burst(STOCKS)
        await heard.until(lambda: heard.ticked() == {*STOCKS})
        assert [reason for reason, _ in heard.quarantined()] == ["unknown_message", "malformed", "malformed"]
        assert not heard.of(Disconnected)

    run(body)


def test_pings_keep_it_and_ninety_seconds_of_nothing_end_it():
    clock = ManualClock()

    async def body(simulator, _, heard):
        await heard.until(lambda: simulator.subscribed == {*STOCKS})
        for count in range(1, 4):
            await clock.advance(80.0)
            simulator.inject('{"type":"ping"}')
            await heard.until(lambda count=count: len(heard.tape) == count)
        assert not heard.of(Disconnected)
        await clock.advance(90.0)
        await heard.until(lambda: heard.of(Disconnected))
        assert "90" in heard.of(Disconnected)[0].reason

    run(body, clock=clock)


def test_it_waits_five_seconds_before_it_comes_back_and_asks_for_all_again():
    clock = ManualClock()

    async def body(simulator, _, heard):
        await heard.until(lambda: simulator.subscribed == {*STOCKS})
        simulator.drop_connections()
        await heard.until(lambda: heard.of(Disconnected))
        await clock.advance(4.99)
        assert simulator.handshakes == 1
        await clock.advance(2.52)  # the jitter is up to a half
        await heard.until(lambda: simulator.subscribed == {*STOCKS})
        await heard.until(lambda: len(heard.of(Connected)) == 2)
        simulator.burst(STOCKS)
        await heard.until(lambda: heard.ticked() == {*STOCKS})

    run(body, clock=clock, reconnect=FinnhubConfig().reconnect)


def test_another_user_of_the_key_is_a_lost_connection_and_not_the_end():
    async def main():
        async with (
            FinnhubSimulator(["AAPL"], history_minutes=2, second_connection="refused") as simulator,
            listening(simulator, Subscriptions(["AAPL"])) as first,
        ):
            await first.until(lambda: simulator.subscribed == {"AAPL"})
            async with listening(simulator, Subscriptions(["AAPL"])) as second:
                await second.until(lambda: len(second.of(Disconnected)) >= 2)
                assert "429" in second.of(Disconnected)[0].reason
                assert not second.of(Connected)
                first.task.cancel()
                await second.until(lambda: second.of(Connected))

    asyncio.run(main())


def test_a_key_that_is_refused_ends_the_stream_and_is_not_said():
    async def main():
        async with (
            FinnhubSimulator(["AAPL"], history_minutes=2) as simulator,
            listening(simulator, Subscriptions(["AAPL"]), api_key="invalid-key-7f") as heard,
        ):
            with pytest.raises(NotEntitled) as caught:
                await heard.until(lambda: False)
            assert "invalid-key-7f" not in f"{caught.value} {caught.value!r}"
            assert simulator.handshakes == 1

    asyncio.run(main())


def test_a_server_that_is_away_is_told_without_the_url():
    async def main():
        async with FinnhubSimulator(["AAPL"], history_minutes=2) as simulator:
            await simulator.go_down()
            async with listening(simulator, Subscriptions(["AAPL"])) as heard:
                await heard.until(lambda: heard.of(Disconnected))
                assert simulator.api_key not in heard.of(Disconnected)[0].reason
                await simulator.come_back()
                await heard.until(lambda: heard.of(Connected))

    asyncio.run(main())


def test_the_key_is_not_in_the_words_of_an_error():
    async def body(simulator, _, heard):
        await heard.until(lambda: simulator.subscribed == {*STOCKS})
        simulator.inject('{"type":"error","msg":"the key %s is odd"}' % simulator.api_key)  # noqa: UP031
        await heard.until(lambda: heard.of(Quarantined))
        assert heard.of(Quarantined)[0].detail == "the key … is odd"

    run(body)


def test_the_configuration_shows_no_key():
    config = FinnhubConfig(api_key="secret-key", symbols=(" aapl", "AAPL", "btc/usd"))
    assert "secret-key" not in f"{config!r} {config}"
    assert config.symbols == ("AAPL", "BTC-USD")
    with pytest.raises(InvalidInput) as caught:
        FinnhubConfig(api_key="two words\n")
    assert "two words" not in str(caught.value)
    assert ENTRY.secrets == {"FINNHUB_API_KEY": "api_key"}


@pytest.mark.parametrize(
    "fields",
    [
        {"symbols": ("VOD.L",)},
        {"rest_url": "ftp://x"},
        {"ws_url": "https://x"},
        {"mute_timeout_s": 0.0},
        {"open_timeout_s": float("nan")},
        {"stream_symbols_max": 0},
        {"candle_days_per_call": 0},
        {"implied_volatility": "basis points"},
    ],
)
def test_what_cannot_be_configured_names_its_field(fields):
    with pytest.raises(InvalidInput) as caught:
        FinnhubConfig(**fields)
    assert caught.value.field == next(iter(fields))


def test_proxy_is_used_by_the_stream():
    async def main():
        async with (
            FinnhubSimulator(["AAPL"], history_minutes=2) as simulator,
            listening(
                simulator, Subscriptions(["AAPL"]), http=HttpConfig(proxy="http://user:hidden@127.0.0.1:9")
            ) as heard,
        ):
            await heard.until(lambda: heard.of(Disconnected))
            assert "hidden" not in heard.of(Disconnected)[0].reason
            assert simulator.handshakes == 0

    asyncio.run(main())
