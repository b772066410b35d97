"""futu-api, OpenD's own client, reads the same simulator: what it sees, we must have seen.

It runs in a process of its own: it starts threads, writes logs into the home directory, and warns.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import sys
from contextlib import asynccontextmanager
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from marketd.clock import SystemClock
from marketd.model import BOOK, LAST, TRADE, Connected, Disconnected, Interval, TickBatch, parse_ns
from marketd.sources.contract import ProviderDeps, Subscriptions
from marketd.sources.futu import ENTRY, FutuConfig
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.futu import FutuSimulator

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("futu") is None, reason="futu-api, the referee, is not installed"
)

AAPL, TENCENT = "US.AAPL", "HK.00700"
MINUTE_NS = 60_000_000_000
NOW_NS = parse_ns("2026-11-20T15:00:20Z")

CLIENT = """
import json, sys
from futu import *

def say(kind, ret, data, *more):
    if hasattr(data, "to_json"):
        data = json.loads(data.to_json(orient="records"))
    print(json.dumps([kind, ret, data, *more], default=str), flush=True)

class Quotes(StockQuoteHandlerBase):
    def on_recv_rsp(self, rsp):
        say("quote", *super().on_recv_rsp(rsp)[:2])
        return RET_OK, None

class Books(OrderBookHandlerBase):
    def on_recv_rsp(self, rsp):
        ret, data = super().on_recv_rsp(rsp)[:2]
        say("book", ret, {"code": data["code"], "Bid": data["Bid"], "Ask": data["Ask"]})
        return RET_OK, None

class Trades(TickerHandlerBase):
    def on_recv_rsp(self, rsp):
        say("trade", *super().on_recv_rsp(rsp)[:2])
        return RET_OK, None

SysConfig.set_all_thread_daemon(True)
context = OpenQuoteContext(host="127.0.0.1", port=int(sys.argv[1]))
for handler in (Quotes(), Books(), Trades()):
    context.set_handler(handler)
for line in sys.stdin:
    name, arguments = json.loads(line)
    if name == "history":
        rows, key = [], None
        while True:
            ret, data, key = context.request_history_kline(page_req_key=key, **arguments)
            rows += json.loads(data.to_json(orient="records")) if ret == RET_OK else [data]
            if key is None or ret != RET_OK:
                break
        say(name, ret, rows)
    else:
        say(name, *getattr(context, name)(**arguments))
context.close()
"""


class Referee:
    def __init__(self, process):
        self.process = process
        self.said = []

    async def ask(self, name, **arguments):
        """(ret, data) of one call of the client; pushes that come meanwhile are kept in `said`."""
        self.process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        await self.process.stdin.drain()
        while True:
            kind, ret, data, *_ = await self.hear()
            if kind == name:
                return ret, data

    async def hear(self):
        while True:
            line = await asyncio.wait_for(self.process.stdout.readline(), 30.0)
            assert line, "the client ended"
            if line.startswith(b"["):
                try:
                    said = json.loads(line)
                except ValueError:  # its log goes to the same place
                    continue
                self.said.append(said)
                return said

    async def pushes(self, kind, count):
        """The rows of the first `count` pushes of a kind."""
        while sum(said[0] == kind for said in self.said) < count:
            await self.hear()
        return [said[2] for said in self.said if said[0] == kind][:count]


@asynccontextmanager
async def referee_of(simulator, home):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        CLIENT,
        str(simulator.port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HOME": str(home)},
    )
    try:
        yield Referee(process)
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


def provider_over(simulator, clock=None, **fields):
    config = FutuConfig(port=simulator.port, **fields)
    return ENTRY.build(config, ProviderDeps(clock=clock or SystemClock(), metrics=Metrics(), rng=random.Random(1)))


def utc_ns(text, zone):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9


def test_the_official_client_and_ours_give_the_same_answers(tmp_path):
    async def main():
        clock = ManualClock(NOW_NS)
        async with (
            FutuSimulator([AAPL, TENCENT], clock=clock, history_minutes=70, history_days=40) as simulator,
            referee_of(simulator, tmp_path) as referee,
        ):
            ours = provider_over(simulator, clock, bars_per_call=20)
            try:
                ret, state = await referee.ask("get_global_state")
                assert (ret, state["qot_logined"]) == (0, True)

                ret, rows = await referee.ask("get_market_snapshot", code_list=[AAPL, TENCENT])
                assert ret == 0
                quotes = await ours.quotes.quotes(["AAPL", "0700.HK"])
                for row, quote in zip(rows, quotes.values(), strict=True):
                    assert (quote.bid, quote.ask, quote.last) == (row["bid_price"], row["ask_price"], row["last_price"])
                    assert (quote.bid_size, quote.ask_size) == (row["bid_vol"], row["ask_vol"])
                    assert quote.volume == row["volume"]
                zones = ("America/New_York", "Asia/Hong_Kong")
                for row, quote, zone in zip(rows, quotes.values(), zones, strict=True):
                    assert quote.time_event_ns // 10**9 == utc_ns(row["update_time"], zone) // 10**9

                for name, symbol, zone in ((AAPL, "AAPL", zones[0]), (TENCENT, "0700.HK", zones[1])):
                    now_ns = NOW_NS // MINUTE_NS * MINUTE_NS
                    days = [
                        datetime.fromtimestamp(t / 1e9, ZoneInfo(zone)) for t in (now_ns - 2 * 86_400 * 10**9, now_ns)
                    ]
                    start, end = (day.strftime("%Y-%m-%d") for day in days)
                    ret, rows = await referee.ask(
                        "history", code=name, start=start, end=end, ktype="K_1M", autype="None", max_count=20
                    )
                    assert ret == 0
                    got = await ours.bars.bars(symbol, Interval.parse("1m"), now_ns - 60 * MINUTE_NS, now_ns)
                    theirs = {
                        utc_ns(row["time_key"], zone) - MINUTE_NS: tuple(
                            row[c] for c in ("open", "high", "low", "close")
                        )
                        for row in rows
                    }
                    mine = dict(
                        zip(
                            got["ts"].to_numpy().astype(int).tolist(),
                            zip(*(got[c].to_pylist() for c in ("open", "high", "low", "close")), strict=True),
                            strict=True,
                        )
                    )
                    assert mine == {ts: row for ts, row in theirs.items() if now_ns - 60 * MINUTE_NS <= ts < now_ns}
                    assert len(mine) > 30

                days = {"code": AAPL, "ktype": "K_DAY", "start": "2026-08-20", "end": "2026-11-20", "max_count": 20}
                _, raw = await referee.ask("history", autype="None", **days)
                _, adjusted = await referee.ask("history", autype="qfq", **days)
                now_ns = NOW_NS
                got = await ours.bars.bars("AAPL", Interval.parse("1d"), now_ns - 90 * 86_400 * 10**9, now_ns)
                mine = dict(zip([str(t)[:10] for t in got["ts"].to_pylist()], got["close"].to_pylist(), strict=True))
                assert mine.items() <= {row["time_key"][:10]: row["close"] for row in raw}.items()
                assert not mine.items() <= {row["time_key"][:10]: row["close"] for row in adjusted}.items()

                ret, dates = await referee.ask("get_option_expiration_date", code=AAPL)
                expiries = await ours.options.expiries("AAPL")
                assert [str(day) for day in expiries] == [row["strike_time"] for row in dates]
                ret, rows = await referee.ask(
                    "get_option_chain", code=AAPL, start=str(expiries[1]), end=str(expiries[1])
                )
                assert ret == 0
                ret, shots = await referee.ask("get_market_snapshot", code_list=[row["code"] for row in rows])
                assert ret == 0
                chain = await ours.options.chain("AAPL", expiries[1])
                assert chain.num_rows == len(rows)
                by_key = {(s["option_strike_price"], s["option_type"].lower()): s for s in shots}
                for option in chain.to_pylist():
                    shot = by_key[option["strike"], option["right"]]
                    assert (option["bid"] or 0.0, option["ask"]) == (shot["bid_price"], shot["ask_price"])
                    assert (option["last"], option["volume"]) == (shot["last_price"], shot["volume"])
                    assert option["open_interest"] == shot["option_open_interest"]
                    assert option["implied_volatility"] == shot["option_implied_volatility"] / 100
                    greeks = ("delta", "gamma", "theta", "vega", "rho")
                    assert [option[g] for g in greeks] == [shot[f"option_{g}"] for g in greeks]
                    assert option["multiplier"] == shot["option_contract_multiplier"] == 100
                    assert option["underlying_price"] == quotes["AAPL"].last

                ret, rehab = await referee.ask("get_rehab", code=AAPL)
                actions = await ours.actions.actions("AAPL", 0, now_ns)
                told = [(row["per_cash_div"], row["split_ratio"]) for row in rehab]
                assert [(a.kind, a.ratio or a.amount) for a in actions] == [("dividend", 0.24), ("split", 2.0)]
                assert (told[0][0], told[1][1]) == (0.24, 1 / 2.0)  # its ratio is of old shares to new
                assert [row["ex_div_date"] for row in rehab] == [
                    datetime.fromtimestamp(a.ex_ns / 1e9, ZoneInfo("UTC")).strftime("%Y-%m-%d") for a in actions
                ]

                ret, words = await referee.ask("get_market_snapshot", code_list=["US.BAD"])
                assert (ret, words) == (-1, "Unknown stock BAD")
            finally:
                await ours.close()

    asyncio.run(main())


class Ours:
    """Everything our stream said so far."""

    def __init__(self):
        self.events = []
        self.task = None

    def trades(self):
        return [
            (int(batch.trade_id[row]), float(batch.last[row]), float(batch.last_size[row]))
            for batch in self.events
            if isinstance(batch, TickBatch)
            for row in range(len(batch))
            if batch.flags[row] & TRADE
        ]

    def last(self, symbol, flags):
        """(batch, row) of the newest row of a symbol with just these flags."""
        return [
            (batch, row)
            for batch in self.events
            if isinstance(batch, TickBatch)
            for row in range(len(batch))
            if batch.flags[row] == flags and batch.symbols[batch.symbol_index[row]] == symbol
        ][-1]


async def until(condition, deadline_s=20.0):
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while not condition():
        assert loop.time() < deadline, "did not come true"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def both_streaming(simulator, home):
    """The referee and our stream, both subscribed."""
    ours = Ours()
    stream = provider_over(simulator).stream.stream(Subscriptions(["AAPL", "0700.HK"]))

    async def listen():
        async for batch in stream:
            ours.events.extend(batch)

    ours.task = asyncio.create_task(listen())
    try:
        async with referee_of(simulator, home) as referee:
            ret, _ = await referee.ask(
                "subscribe",
                code_list=[AAPL, TENCENT],
                subtype_list=["QUOTE", "ORDER_BOOK", "TICKER"],
                is_first_push=False,
            )
            assert ret == 0
            await until(lambda: subscribed(simulator) == 2)
            yield referee, ours
    finally:
        ours.task.cancel()
        await asyncio.wait({ours.task})
        await stream.aclose()


def subscribed(simulator):
    """How many clients have every subscription."""
    return sum(len(client.subscribed) == 6 for client in simulator._clients)


async def trade_and_compare(simulator, referee, ours, count):
    """Make trades; both hear them, with the same prices and in the same order."""
    sequences = [simulator.trade(name) for _ in range(count) for name in (AAPL, TENCENT)]
    await until(lambda: {number for number, *_ in ours.trades()} >= set(sequences))
    theirs = []
    while len(theirs) < len(sequences):
        kind, _, rows, *_ = await referee.hear()
        if kind == "trade":
            # after a reconnect it is told old ones again
            theirs += [(r["sequence"], r["price"], r["volume"]) for r in rows if r["sequence"] in sequences]
    mine = [trade for trade in ours.trades() if trade[0] in sequences]
    assert [number for number, *_ in mine] == sequences
    assert mine == theirs


def test_the_official_client_and_ours_hear_the_same_pushes(tmp_path):
    async def main():
        async with (
            FutuSimulator([AAPL, TENCENT]) as simulator,
            both_streaming(simulator, tmp_path) as (referee, ours),
        ):
            await trade_and_compare(simulator, referee, ours, 20)
            books = await referee.pushes("book", 40)
            quotes = await referee.pushes("quote", 40)
            for name, symbol in ((AAPL, "AAPL"), (TENCENT, "0700.HK")):
                their_book = [book for book in books if book["code"] == name][-1]
                batch, row = ours.last(symbol, BOOK)
                assert [batch.bid[row], batch.bid_size[row]] == their_book["Bid"][0][:2]
                assert [batch.ask[row], batch.ask_size[row]] == their_book["Ask"][0][:2]
                their_quote = [rows[0] for rows in quotes if rows[0]["code"] == name][-1]
                batch, row = ours.last(symbol, LAST)
                assert [batch.last[row], batch.volume[row]] == [their_quote["last_price"], their_quote["volume"]]

    asyncio.run(main())


@pytest.mark.drill
def test_the_official_client_and_ours_hear_the_same_after_a_cut(tmp_path):
    async def main():
        async with (
            FutuSimulator([AAPL, TENCENT]) as simulator,
            both_streaming(simulator, tmp_path) as (referee, ours),
        ):
            await trade_and_compare(simulator, referee, ours, 3)
            simulator.drop_connections()
            await until(lambda: subscribed(simulator) == 0)
            await until(lambda: subscribed(simulator) == 2)  # the client comes back after 6 s, we after one
            await trade_and_compare(simulator, referee, ours, 3)
            kinds = [type(event) for event in ours.events if isinstance(event, Connected | Disconnected)]
            assert kinds == [Connected, Disconnected, Connected]

    asyncio.run(main())
