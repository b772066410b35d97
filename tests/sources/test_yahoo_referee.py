"""yfinance, an independent implementation, reads the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import pytest

from marketd.clock import SystemClock
from marketd.model import Interval, TickBatch, starts_of
from marketd.sources.contract import ProviderDeps, Subscriptions
from marketd.sources.http import HttpConfig
from marketd.sources.yahoo import ENTRY, YahooConfig
from marketd.telemetry import Metrics
from marketd.testing.providers.yahoo import YahooSimulator

# what a library of others warns of is not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore")

DAY_NS = 86_400 * 10**9
NAMES = ("AAPL", "7203.T", "VOD.L", "EURUSD=X", "BTC-USD")


@pytest.fixture(scope="module")
def yfinance(tmp_path_factory):
    pytest.importorskip("curl_cffi", reason="curl_cffi is not installed")
    found = pytest.importorskip("yfinance", reason="yfinance is not installed")
    found.set_tz_cache_location(str(tmp_path_factory.mktemp("yfinance")))
    return found


@asynccontextmanager
async def both(names=NAMES, **market):
    """A simulator, our provider over it, and a session for yfinance that goes there whatever it asks for."""
    from curl_cffi import requests

    async with YahooSimulator(names, history_days=7, **market) as simulator:

        class Redirected(requests.Session):
            def request(self, method, url, *args, **kwargs):
                parts = urlsplit(url)
                path = "/fc/" if parts.hostname == "fc.yahoo.com" else parts.path
                query = f"?{parts.query}" if parts.query else ""
                return super().request(method, f"{simulator.rest_url}{path}{query}", *args, **kwargs)

        config = YahooConfig(
            rest_url=simulator.rest_url,
            cookie_url=simulator.cookie_url,
            ws_url=simulator.ws_url,
            transport="curl_cffi",
            http=HttpConfig(requests_per_s=1e6, burst=100),
        )
        deps = ProviderDeps(clock=SystemClock(), metrics=Metrics(), rng=random.Random(1))
        provider = ENTRY.build(config, deps)
        session = Redirected(impersonate="chrome", trust_env=False)
        try:
            yield simulator, provider, session
        finally:
            session.close()
            await provider.close()


def in_pounds(name):
    return 100.0 if name == "VOD.L" else 1.0


def compared(ours, theirs, name, starts_ns):
    """Rows of both, the prices of both in single precision."""
    names = ("Open", "High", "Low", "Close")
    there = {
        ts: [*(np.float32(row[n]) for n in names), row["Volume"]]
        for ts, row in zip(starts_ns, theirs.to_dict("records"), strict=True)
    }
    here = {}
    for ts, row in zip(starts_of(ours).tolist(), ours.to_pylist(), strict=True):
        prices = [np.float32(row[n.lower()] * in_pounds(name)) for n in names]
        here[ts] = [*prices, row["volume"] or 0]
    return here, there


@pytest.mark.parametrize("name", NAMES)
def test_days_and_actions_are_what_yfinance_reads(yfinance, name):
    async def main():
        async with both() as (_, provider, session):
            symbol = provider.symbols.from_provider(name)
            ticker = yfinance.Ticker(name, session=session)
            read = {"interval": "1d", "period": "2y", "auto_adjust": False, "actions": True}
            theirs = await asyncio.to_thread(ticker.history, **read)
            now_ns = SystemClock().time_ns()
            ours = await provider.bars.bars(symbol, Interval.parse("1d"), 0, now_ns)
            midnights = [int(datetime(t.year, t.month, t.day, tzinfo=UTC).timestamp()) * 10**9 for t in theirs.index]
            here, there = compared(ours, theirs, name, midnights)
            shared = here.keys() & there.keys()
            assert len(shared) > 300
            assert set(there) - shared <= {max(there), sorted(there)[-2]}  # days that are not over
            assert {ts: here[ts] for ts in shared} == {ts: there[ts] for ts in shared}

            told = {"split": theirs["Stock Splits"], "dividend": theirs["Dividends"]}
            actions = await provider.actions.actions(symbol, min(there), now_ns)
            splits = {a.ex_ns: a.ratio for a in actions if a.kind == "split"}
            assert splits == {ts: v for ts, v in zip(midnights, told["split"], strict=True) if v}
            # yfinance gives dividends in today's shares
            then = {
                ts: v * np.prod([ratio for at, ratio in splits.items() if at >= ts])
                for ts, v in zip(midnights, told["dividend"], strict=True)
                if v
            }
            dividends = {a.ex_ns: a.amount * in_pounds(name) for a in actions if a.kind == "dividend"}
            assert dividends == pytest.approx(then, rel=1e-4)
            assert bool(dividends) == (name in ("AAPL", "7203.T", "VOD.L"))

    asyncio.run(main())


@pytest.mark.parametrize("interval", ["1m", "15m"])
def test_bars_within_the_day_are_what_yfinance_reads(yfinance, interval):
    async def main():
        async with both() as (_, provider, session):
            end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            end_ns = int(end.timestamp()) * 10**9
            start_ns = end_ns - 5 * DAY_NS
            for name in ("AAPL", "BTC-USD"):
                ticker = yfinance.Ticker(name, session=session)
                start = datetime.fromtimestamp(start_ns // 10**9, UTC)
                asked = {"interval": interval, "start": start, "end": end, "auto_adjust": False}
                theirs = await asyncio.to_thread(ticker.history, **asked)
                ours = await provider.bars.bars(name, Interval.parse(interval), start_ns, end_ns)
                here, there = compared(ours, theirs, name, [int(t.timestamp()) * 10**9 for t in theirs.index])
                assert here == there
                assert len(here) > 50

    asyncio.run(main())


def test_chains_are_what_yfinance_reads(yfinance):
    async def main():
        async with both(("AAPL",)) as (_, provider, session):
            ticker = yfinance.Ticker("AAPL", session=session)
            listed = await asyncio.to_thread(lambda: ticker.options)
            expiries = await provider.options.expiries("AAPL")
            assert [day.isoformat() for day in expiries] == list(listed)[-len(expiries) :]
            theirs = await asyncio.to_thread(ticker.option_chain, expiries[1].isoformat())
            ours = (await provider.options.chain("AAPL", expiries[1])).to_pylist()
            for right, frame in (("call", theirs.calls), ("put", theirs.puts)):
                there = {
                    row["contractSymbol"]: (
                        row["strike"], row["lastPrice"], row["bid"] or None, row["ask"] or None, row["openInterest"],
                        row["lastTradeDate"].timestamp(),
                    )
                    for row in frame.to_dict("records")
                }  # fmt: skip
                here = {
                    row["contract"]: (
                        row["strike"], row["last"], row["bid"], row["ask"], row["open_interest"],
                        row["time_last"].timestamp(),
                    )
                    for row in ours
                    if row["right"] == right
                }  # fmt: skip
                assert here == there
                assert len(here) == 9

    asyncio.run(main())


def test_the_stream_is_what_yfinance_streams(yfinance):
    async def main():
        async with both(("AAPL", "BTC-USD"), tick_interval_s=None) as (simulator, provider, _):
            heard, read = [], []
            stream = provider.stream.stream(Subscriptions(["AAPL", "BTC-USD"]))

            async def listen():
                async for batch in stream:
                    heard.extend(event for event in batch if isinstance(event, TickBatch))

            referee = yfinance.AsyncWebSocket(url=simulator.ws_url, verbose=False)
            await referee.subscribe(["AAPL", "BTC-USD"])
            tasks = [asyncio.create_task(referee.listen(read.append)), asyncio.create_task(listen())]
            try:
                async with asyncio.timeout(10.0):
                    while len(simulator.commands) < 2:
                        await asyncio.sleep(0.005)
                    for n in range(20):
                        simulator.tick("AAPL", price=227.5 + n / 100)
                        simulator.tick("BTC-USD", bid=0, ask=0)
                    while len(read) < 40 or sum(map(len, heard)) < 40:
                        await asyncio.sleep(0.005)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await stream.aclose()
                await referee.close()
            ours = [
                (batch.symbols[at], ms // 1_000_000, np.float32(last), np.float32(np.nan_to_num(bid)), volume)
                for batch in heard
                for at, ms, last, bid, volume in zip(
                    batch.symbol_index, batch.time_event_ns, batch.last, batch.bid, batch.volume, strict=True
                )
            ]
            theirs = [
                (m["id"], int(m["time"]), np.float32(m["price"]), np.float32(m.get("bid", 0)), int(m["day_volume"]))
                for m in read
            ]
            assert ours == theirs

    asyncio.run(main())
