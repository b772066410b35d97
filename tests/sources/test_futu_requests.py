"""What is asked of OpenD: bars, quotes, options, actions, over real sockets against the simulator."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from contextlib import asynccontextmanager
from datetime import date

import pytest

from marketd.errors import (
    MalformedMessage,
    MarketClosed,
    NotEntitled,
    OutOfRange,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import Interval, Quote, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.futu import ENTRY, FutuConfig
from marketd.sources.http import PRIORITY
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.futu import FutuSimulator

AAPL, MSFT, TENCENT = "US.AAPL", "US.MSFT", "HK.00700"
M1, M15, D1 = (Interval.parse(name) for name in ("1m", "15m", "1d"))
MINUTE_NS = 60_000_000_000
DAY_NS = 1_440 * MINUTE_NS
NOW_NS = parse_ns("2026-11-20T15:00:20Z")  # a Friday, ten in the morning in New York
AT_ONCE = ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0)


@asynccontextmanager
async def provided(symbols=(AAPL, MSFT, TENCENT), *, fields=None, deps=None, now_ns=NOW_NS, **simulated):
    """(simulator, provider, clock): all on one clock that a test owns."""
    clock = ManualClock(now_ns)
    async with FutuSimulator(symbols, clock=clock, **simulated) as simulator:
        config = FutuConfig(port=simulator.port, retry=AT_ONCE, **(fields or {}))
        provider = ENTRY.build(
            config, ProviderDeps(clock=clock, metrics=Metrics(), rng=random.Random(1), **(deps or {}))
        )
        try:
            yield simulator, provider, clock
        finally:
            await provider.close()


def asked(simulator, proto):
    return [request for number, request in simulator.requests if number == proto]


def rows_of(table):
    columns = (table[name].to_pylist() for name in ("open", "high", "low", "close", "volume"))
    return list(zip(table["ts"].to_numpy().astype(int).tolist(), *columns, strict=True))


def truth(simulator, name, interval, start_ns, end_ns):
    rows = [(row[0] * 10**9, *row[1:]) for row in simulator.bars(name, interval)]
    return [row for row in rows if start_ns <= row[0] < end_ns]


def test_minutes_come_in_pages_as_traded_and_begin_where_ours_begin():
    async def main():
        async with provided(fields={"bars_per_call": 10}) as (simulator, provider, _):
            simulator.trade(AAPL)  # the running minute
            start_ns, end_ns = parse_ns("2026-11-20T14:10:00Z"), parse_ns("2026-11-20T15:05:00Z")
            got = await provider.bars.bars("AAPL", M1, start_ns, end_ns)
            expected = truth(simulator, AAPL, "1m", start_ns, parse_ns("2026-11-20T15:00:00Z"))
            assert rows_of(got) == expected
            assert 30 < len(expected) < 50  # a fifth of the minutes is blank
            pages = asked(simulator, 3103)
            assert [page.get("nextReqKey") for page in pages] == [None, *(b"%d0" % n for n in range(1, len(pages)))]
            assert {(page["rehabType"], page["klType"], page["maxAckKLNum"]) for page in pages} == {(0, 1, 10)}
            # at the exchange; to where the clock is, and a minute for the end's stamp
            assert (pages[0]["beginTime"], pages[0]["endTime"]) == ("2026-11-20 09:10:00", "2026-11-20 10:01:00")

    asyncio.run(main())


@pytest.mark.parametrize("timestamps", [True, False])
def test_hong_kong_and_longer_bars(timestamps):
    async def main():
        async with provided(timestamps=timestamps) as (simulator, provider, _):
            start_ns, end_ns = parse_ns("2026-11-20T13:30:00Z"), parse_ns("2026-11-20T15:00:00Z")
            got = await provider.bars.bars("0700.HK", M15, start_ns, end_ns)
            assert rows_of(got) == truth(simulator, TENCENT, "15m", start_ns, end_ns)
            assert got.num_rows == 6
            assert set(got["symbol"].to_pylist()) == {"0700.HK"}
            assert asked(simulator, 3103)[0]["beginTime"] == "2026-11-20 21:30:00"

    asyncio.run(main())


def test_days_are_raw_and_today_is_left_out():
    async def main():
        async with provided() as (simulator, provider, _):
            simulator.trade(AAPL)
            assert simulator.bars(AAPL, "1d")[-1][0] == parse_ns("2026-11-20T00:00:00Z") // 10**9
            start_ns = NOW_NS - 40 * DAY_NS
            got = await provider.bars.bars("AAPL", D1, start_ns, NOW_NS + DAY_NS)
            assert rows_of(got) == truth(simulator, AAPL, "1d", start_ns, NOW_NS // DAY_NS * DAY_NS)
            assert got.num_rows > 15
            assert provider.capabilities.adjustment == "raw"

    asyncio.run(main())


def test_hours_before_and_after_the_session_are_asked_for_when_they_are_wanted():
    async def main():
        async with provided(fields={"extended_hours": True}) as (simulator, provider, _):
            await provider.bars.bars("AAPL", M1, NOW_NS - 10 * MINUTE_NS, NOW_NS)
            await provider.bars.bars("AAPL", D1, NOW_NS - 10 * DAY_NS, NOW_NS)
            minutes, days = asked(simulator, 3103)
            assert (minutes["extendedTime"], minutes["session"]) == (True, 2)
            assert "extendedTime" not in days

    asyncio.run(main())


def test_an_empty_span_costs_no_request():
    async def main():
        async with provided() as (simulator, provider, _):
            got = await provider.bars.bars("AAPL", M1, NOW_NS, NOW_NS + 10 * MINUTE_NS)
            assert got.num_rows == 0
            assert asked(simulator, 3103) == []
            with pytest.raises(OutOfRange, match="has no 1h bars, only 1m, 5m, 15m, 30m, 1d"):
                await provider.bars.bars("AAPL", Interval.parse("1h"), 0, NOW_NS)

    asyncio.run(main())


def test_pages_that_do_not_go_on_are_malformed():
    async def main():
        async with provided(fields={"bars_per_call": 5}) as (simulator, provider, _):
            whole = simulator._history
            again = b"\x1a\x01x"  # field 3: the same key for ever
            simulator._history = lambda client, request: whole(client, request | {"nextReqKey": b"0"}) + again
            with pytest.raises(MalformedMessage, match="a page that does not go on"):
                await provider.bars.bars("AAPL", M1, NOW_NS - 60 * MINUTE_NS, NOW_NS)

    asyncio.run(main())


def test_four_hundred_quotes_come_with_one_request():
    async def main():
        names = [f"SH.{600_000 + number}" for number in range(450)]
        ours = [f"{name[3:]}.SS" for name in names]
        async with provided(names, history_minutes=1, history_days=1) as (simulator, provider, _):
            found = await provider.quotes.quotes([*ours, "NOSUCH9"])
            assert list(found) == [*ours, "NOSUCH9"]
            assert isinstance(found["NOSUCH9"], SymbolNotFound)
            assert [len(request["securityList"]) for request in asked(simulator, 3203)] == [400, 50]
            for name, symbol in zip(names, ours, strict=True):
                bid, ask, last, volume, _ = simulator.quote(name)
                quote = found[symbol]
                assert (quote.bid, quote.ask, quote.last, quote.volume) == (bid, ask, last, volume)

    asyncio.run(main())


def test_quotes_that_are_not_there_have_their_reason_and_the_others_come():
    async def main():
        async with provided() as (simulator, provider, _):
            found = await provider.quotes.quotes(["AAPL", "NOSUC", "0700.HK", "NEVER"])
            assert [type(quote) for quote in found.values()] == [Quote, SymbolNotFound, Quote, SymbolNotFound]
            assert len(asked(simulator, 3203)) == 5  # OpenD names one at a time, and who is named is asked alone
            simulator.refuse(1, "未知股票")  # now it names nobody: half by half
            found = await provider.quotes.quotes(["AAPL", "MSFT", "0700.HK", "NEVER"])
            assert [type(quote) for quote in found.values()] == [Quote, Quote, Quote, SymbolNotFound]
            with pytest.raises(SymbolNotFound, match="Unknown stock NOSUC"):
                await provider.quotes.quote("NOSUC")

    asyncio.run(main())


def test_a_security_without_any_price_is_closed():
    async def main():
        async with provided() as (simulator, provider, _):
            simulator.empty_book(AAPL)
            simulator._instruments[AAPL].price = 0.0
            with pytest.raises(MarketClosed, match=r"US\.AAPL has no price"):
                await provider.quotes.quote("AAPL")

    asyncio.run(main())


def test_a_chain_has_every_contract_of_its_expiry():
    async def main():
        async with provided() as (simulator, provider, _):
            expiries = await provider.options.expiries("AAPL")
            assert expiries == [date(2026, 11, 20), date(2026, 11, 27), date(2026, 12, 18)]
            got = await provider.options.chain("AAPL", date(2026, 12, 18))
            listed = [row for row in simulator.contracts(AAPL) if row[0] == date(2026, 12, 18)]
            keys = list(
                zip(got["expiry"].to_pylist(), got["strike"].to_pylist(), got["right"].to_pylist(), strict=True)
            )
            assert keys == [row[:3] for row in listed]
            code = listed[0][3]  # AAPL261218C and the strike in thousandths
            assert got["contract"][0].as_py() == f"AAPL261218C{code[11:].zfill(8)}"
            assert set(got["underlying_price"].to_pylist()) == {simulator.quote(AAPL)[2]}
            assert None in got["bid"].to_pylist()
            with pytest.raises(
                OutOfRange, match="no options of 2026-12-19, only of 2026-11-20, 2026-11-27, 2026-12-18"
            ):
                await provider.options.chain("AAPL", date(2026, 12, 19))
            for ask in (provider.options.expiries, provider.options.chain):
                with pytest.raises(SymbolNotFound, match="MSFT has no options"):
                    await ask("MSFT")

    asyncio.run(main())


def test_actions_are_those_of_the_span():
    async def main():
        async with provided() as (_, provider, _clock):
            got = await provider.actions.actions("AAPL", 0, NOW_NS)
            told = [(action.kind, action.ex_ns, action.ratio, action.amount, action.currency) for action in got]
            assert told == [
                ("dividend", parse_ns("2026-11-03"), None, 0.24, "USD"),
                ("split", parse_ns("2026-11-10"), 2.0, None, None),
            ]
            assert await provider.actions.actions("AAPL", NOW_NS - 10 * DAY_NS, NOW_NS) == []

    asyncio.run(main())


def asks(provider):
    return [
        lambda: provider.quotes.quote("AAPL"),
        lambda: provider.bars.bars("AAPL", M1, NOW_NS - 10 * MINUTE_NS, NOW_NS),
        lambda: provider.options.expiries("AAPL"),
        lambda: provider.options.chain("AAPL"),
        lambda: provider.actions.actions("AAPL", 0, NOW_NS),
    ]


@pytest.mark.parametrize(
    ("words", "ret_type", "kind"),
    [
        ("请求频率太高，请求失败，每30秒最多60次", -1, Throttled),
        ("The frequency of this request is too high", -1, Throttled),
        ("历史K线额度不足", -1, NotEntitled),
        ("No quote right", -1, NotEntitled),
        ("Unknown stock AAPL", -1, SymbolNotFound),
        ("what is this", -1, SourceRejected),
        ("timed out", -100, SourceUnavailable),
    ],
)
def test_a_refusal_is_typed_for_every_request(words, ret_type, kind):
    async def main():
        async with provided() as (simulator, provider, _):
            for ask in asks(provider):
                simulator.refuse(3 if kind is SourceUnavailable else 1, words, ret_type=ret_type)
                with pytest.raises(kind) as caught:
                    await ask()
                assert type(caught.value) is kind
                assert words in str(caught.value)
                assert simulator._refusals == []

    asyncio.run(main())


def test_what_passes_is_tried_again():
    async def main():
        async with provided() as (simulator, provider, _):
            for ask in asks(provider):
                simulator.refuse(2, "disconnected", ret_type=-200)
                await ask()
                simulator.drop_connections()
                while simulator.connections:
                    await asyncio.sleep(0)
                await ask()

    asyncio.run(main())


def test_a_gateway_that_is_not_there_or_not_logged_in_is_unavailable_and_then_is_there_again():
    async def main():
        async with provided(fields={"attempts": 2}) as (simulator, provider, _):
            await simulator.go_down()
            for ask in asks(provider):
                with pytest.raises(SourceUnavailable, match=r"no connection to OpenD at 127\.0\.0\.1"):
                    await ask()
            await simulator.come_back()
            simulator.log_out()
            with pytest.raises(SourceUnavailable, match="not logged in"):
                await provider.quotes.quote("AAPL")
            simulator.log_in()
            for ask in asks(provider):
                await ask()
            assert simulator.connections == 1

    asyncio.run(main())


def test_a_gateway_that_does_not_answer_is_waited_for_no_longer_than_allowed():
    async def main():
        async with provided(fields={"timeout_s": 0.05, "attempts": 2}) as (simulator, provider, _):
            await provider.quotes.quote("AAPL")
            simulator.stall()
            for ask in asks(provider):
                with pytest.raises(SourceUnavailable, match=r"no answer within 0\.05 s"):
                    await ask()
            simulator.stall(stalled=False)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"\x08", MalformedMessage),
        (b"\x08\x00\x22\x02\x0a\x05", MalformedMessage),
        (b"<html><body>We will be back soon</body></html>", MalformedMessage),
        (b"", SourceUnavailable),  # a message without a result is of the result unknown
    ],
)
def test_an_answer_that_is_none_is_malformed(raw, kind):
    async def main():
        async with provided(fields={"attempts": 1}) as (simulator, provider, _):
            await provider.quotes.quote("AAPL")

            async def answer(client, proto, serial, body):
                whole = FutuSimulator.push(proto, b"")
                frame = whole[:8] + serial.to_bytes(4, "little")
                client.send(frame + len(raw).to_bytes(4, "little") + hashlib.sha1(raw).digest() + bytes(8) + raw)

            simulator._answer = answer
            for ask in asks(provider):
                with pytest.raises(kind):
                    await ask()

    asyncio.run(main())


def test_limits_are_kept_without_a_budget_and_the_gateway_never_refuses():
    async def main():
        async with provided() as (simulator, provider, clock):
            jobs = [asyncio.create_task(provider.quotes.quote("AAPL")) for _ in range(130)]
            while len(asked(simulator, 3203)) < 60:
                await asyncio.sleep(0.001)
            assert len(asked(simulator, 3203)) == 60
            await clock.advance(30.0)
            await asyncio.sleep(0.01)
            assert len(asked(simulator, 3203)) == 60
            await clock.advance(1.0)
            while len(asked(simulator, 3203)) < 120:
                await asyncio.sleep(0.001)
            await clock.advance(31.0)
            assert all(isinstance(quote, Quote) for quote in await asyncio.gather(*jobs))

    asyncio.run(main())


def test_asking_too_often_elsewhere_is_throttled_until_the_window_is_over():
    async def main():
        async with provided() as (simulator, provider, clock):
            simulator._windows[3203] = deque([clock.monotonic_ns() / 1e9] * 60)
            with pytest.raises(Throttled) as caught:
                await provider.quotes.quote("AAPL")
            assert caught.value.retry_after_s == 30.0
            await clock.advance(30.1)
            await provider.quotes.quote("AAPL")

    asyncio.run(main())


def test_the_history_quota_is_of_symbols():
    async def main():
        async with provided(history_quota=1, language="zh") as (_, provider, _clock):
            for _ in range(2):
                await provider.bars.bars("AAPL", M1, NOW_NS - 10 * MINUTE_NS, NOW_NS)
            with pytest.raises(NotEntitled, match="历史K线额度不足"):
                await provider.bars.bars("MSFT", M1, NOW_NS - 10 * MINUTE_NS, NOW_NS)

    asyncio.run(main())


class Budget:
    """A quota that allows everything and writes it down."""

    def __init__(self):
        self.taken = []
        self.slowed = []

    async def take(self, endpoint, weight):
        self.taken.append((endpoint, weight))

    def answered(self, endpoint, answer):
        pass

    def throttled(self, endpoint, retry_after_s):
        self.slowed.append((endpoint, retry_after_s))


def test_a_shared_budget_is_asked_for_every_request_and_told_of_throttling():
    async def main():
        budget = Budget()
        async with provided(fields={"bars_per_call": 5}, deps={"budget": budget}) as (simulator, provider, _):
            await provider.bars.bars("AAPL", M1, NOW_NS - 10 * MINUTE_NS, NOW_NS)
            assert budget.taken == [("history", 1), *[("history_page", 1)] * (len(budget.taken) - 1)]
            assert len(budget.taken) > 1
            budget.taken.clear()
            await provider.options.chain("AAPL")
            assert budget.taken == [("option_expiries", 1), ("option_chain", 1), ("snapshot", 1)]
            simulator.refuse(1, "frequency")
            with pytest.raises(Throttled):
                await provider.quotes.quote("AAPL")
            assert budget.slowed == [("snapshot", 30.0)]
            # a live request is tried once, one of a back-fill again
            simulator.refuse(1, "timeout", ret_type=-100)
            with pytest.raises(SourceUnavailable):
                await provider.quotes.quote("AAPL")
            PRIORITY.set("backfill")
            simulator.refuse(1, "timeout", ret_type=-100)
            await provider.quotes.quote("AAPL")

    asyncio.run(main())


def test_requests_and_failures_are_counted():
    async def main():
        metrics = Metrics()
        async with provided() as (simulator, _, clock):
            config = FutuConfig(port=simulator.port)
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=metrics))
            await provider.quotes.quote("AAPL")
            with pytest.raises(SymbolNotFound):
                await provider.quotes.quote("NOSUC")
            await provider.close()
            counted = metrics.provider_errors.labels("futu", "snapshot", "symbol_not_found")._value.get()
            assert counted == 1
            with pytest.raises(SourceUnavailable, match="the provider was closed"):
                await provider.quotes.quote("AAPL")
            await provider.close()

    asyncio.run(main())
