"""Independent clients on the same simulator: what they see, we must have seen."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from marketd.clock import SystemClock
from marketd.model import Interval, Quote, starts_of
from marketd.sources.contract import ProviderDeps, Subscriptions
from marketd.sources.ig import ENTRY, IgConfig
from marketd.telemetry import Metrics
from marketd.testing.providers.ig import IgSimulator

EURUSD = "CS.D.EURUSD.MINI.IP"
MINUTE = Interval.parse("1m")


def provider_of(simulator):
    config = IgConfig(
        rest_url=simulator.rest_url,
        api_key=simulator.api_key,
        username=simulator.username,
        password=simulator.password,
    )
    return ENTRY.build(config, ProviderDeps(clock=SystemClock(), metrics=Metrics()))


def test_requests_are_what_trading_ig_reads(monkeypatch):
    rest = pytest.importorskip("trading_ig.rest", reason="trading-ig is not installed", exc_type=ImportError)

    def theirs(simulator):
        monkeypatch.setitem(rest.D_BASE_URL, "demo", simulator.rest_url)
        service = rest.IGService(
            simulator.username,
            simulator.password,
            simulator.api_key,
            "DEMO",
            return_dataframe=False,
            return_munch=False,
        )
        session = service.create_session(version="2")
        market = service.fetch_market_by_epic(EURUSD)
        several = service.fetch_markets_by_epics(EURUSD)
        found = service.search_markets("EURUSD")
        prices = service.fetch_historical_prices_by_epic(EURUSD, numpoints=30, pagesize=7, wait=0)
        service.session.close()
        return session, market, several, found, prices

    async def main():
        async with IgSimulator([EURUSD], history_minutes=90) as simulator:
            simulator.tick(EURUSD)
            session, market, several, found, prices = await asyncio.to_thread(theirs, simulator)
            assert session["lightstreamerEndpoint"] == simulator.stream_url
            assert (several[0]["instrument"]["epic"], len(found["markets"])) == (EURUSD, 1)
            provider = provider_of(simulator)
            quote = await provider.quotes.quote("EURUSD")
            assert (quote.bid, quote.ask) == (market["snapshot"]["bid"], market["snapshot"]["offer"])
            starts = [row["snapshotTimeUTC"] for row in prices["prices"]]
            rows = [row for row in prices["prices"] if row["snapshotTimeUTC"] < starts[-1]]  # the last one may go on
            first_ns = Interval.parse("1m").floor(SystemClock().time_ns()) - 80 * MINUTE.ns
            table = await provider.bars.bars("EURUSD", MINUTE, first_ns, SystemClock().time_ns())
            ours = {
                (start, side): tuple(values)
                for start, side, *values in zip(
                    starts_of(table).astype("datetime64[ns]").astype("datetime64[s]").astype(str).tolist(),
                    table["side"].to_pylist(),
                    *(table[name].to_pylist() for name in ("open", "high", "low", "close", "trades")),
                    strict=True,
                )
            }
            names = ("openPrice", "highPrice", "lowPrice", "closePrice")
            for row in rows:
                for side in ("bid", "ask"):
                    values = (*(row[name][side] for name in names), row["lastTradedVolume"])
                    assert ours[row["snapshotTimeUTC"], side] == values
            assert len(rows) > 20
            await provider.close()

    asyncio.run(main())


def test_the_stream_is_what_the_official_client_streams():
    official = pytest.importorskip("lightstreamer.client", reason="lightstreamer-client-lib is not installed")
    logging.getLogger("lightstreamer").setLevel(logging.CRITICAL)
    lock = threading.Lock()
    theirs, statuses = [], []

    class Watcher(official.ClientListener):
        def onStatusChange(self, status):
            with lock:
                statuses.append(status)

    class Listener(official.SubscriptionListener):
        def onItemUpdate(self, update):
            names = ("BIDPRICE1", "ASKPRICE1", "BIDSIZE1", "ASKSIZE1", "TIMESTAMP")
            with lock:
                theirs.append([float(update.getValue(name)) for name in names])

    async def until(condition, what, deadline_s=20.0):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            assert loop.time() < deadline, f"waited in vain for {what}"
            await asyncio.sleep(0.005)

    async def main():
        async with IgSimulator([EURUSD]) as simulator:
            provider = provider_of(simulator)
            quotes = []
            stream = provider.stream.stream(Subscriptions(["EURUSD"]))

            async def listen():
                async for batch in stream:
                    quotes.extend(event for event in batch if isinstance(event, Quote))

            task = asyncio.create_task(listen())
            await until(lambda: len(quotes) == 1, "our snapshot")
            tokens = simulator._tokens  # one login for both, as an account has it
            client = official.LightstreamerClient(simulator.stream_url, None)
            client.connectionDetails.setUser(simulator.account_id)
            client.connectionDetails.setPassword(f"CST-{tokens.client}|XST-{tokens.security}")
            client.addListener(Watcher())
            fields = ["BIDPRICE1", "ASKPRICE1", "BIDSIZE1", "ASKSIZE1", "TIMESTAMP"]
            subscription = official.Subscription("MERGE", [f"PRICE:{simulator.account_id}:{EURUSD}"], fields)
            subscription.setDataAdapter("Pricing")
            subscription.setRequestedSnapshot("yes")
            subscription.addListener(Listener())
            client.subscribe(subscription)
            client.connect()
            await until(lambda: len(theirs) == 1, "their snapshot")
            for _ in range(200):
                simulator.tick(EURUSD)
            await until(lambda: len(quotes) == len(theirs) == 201, "all ticks")
            ours = [[q.bid, q.ask, q.bid_size, q.ask_size, q.time_event_ns / 1_000_000] for q in quotes]
            assert ours == theirs
            task.cancel()
            await asyncio.wait({task})
            await stream.aclose()
            await provider.close()
            await asyncio.to_thread(client.disconnect)
            await until(lambda: statuses[-1:] == ["DISCONNECTED"], "the official client to go")

    asyncio.run(main())
