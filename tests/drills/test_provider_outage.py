"""A provider dies and comes back: every minute is back from its candles, once, and nobody else noticed.

The short drill runs the whole server on a clock that is hurried, the long one `marketd serve` on the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import API, Client, values
from exchange import MINUTE_NS, Exchange, HurriedClock, time_ns

from marketd.app import Server, listen, serve
from marketd.config import Config, MarketDataConfig, ServerConfig, SourcesConfig, SymbolScenario
from marketd.model import format_ns
from marketd.sources.coinbase import CoinbaseConfig

SIMULATED = ("SIM-A", "SIM-B", "SIM-C")


class HurriedServer(Client):
    """The server on a clock of its own, in a thread; asked over its sockets like any other."""

    def __init__(self, config: Config, clock: HurriedClock) -> None:
        self._config, self._clock = config, clock
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="hurried-server")
        self._thread.start()
        assert self._started.wait(20)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        started = asyncio.Event()
        self._task = asyncio.create_task(serve(Server(self._config, self._clock), listener, started))
        await started.wait()
        self._started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        listener.close()

    def end(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(30)
        gc.unfreeze()
        assert not self._thread.is_alive()


def check_healed(server: Client, exchange: Exchange, start_ns: int, down_ns: int, back_ns: int, end_ns: int) -> int:
    """Every minute of every product is there, with the values of its candles, once; how many of the outage there are.

    start_ns, down_ns, back_ns, end_ns: the stream was watched since the first and not between the next two; by the last
    all was well again. Whole minutes; the minute of the return is one of the outage.
    """
    count = 0
    for symbol in exchange.products:
        found = server.account(symbol, start_ns, end_ns)
        assert found["complete"], (symbol, found)
        assert found["expected"] == (end_ns - start_ns) // MINUTE_NS
        assert sum(found["missing"].values()) == found["missing"].get("no_trades", 0)
        bars = server.bars(symbol, start=format_ns(start_ns), to=format_ns(end_ns))
        ours = [(time_ns(bar["timestamp"]), *values(bar)) for bar in bars]
        theirs = [(ts, *values) for ts, values in exchange.bars(symbol, start_ns, end_ns).items()]
        assert [bar[:5] for bar in ours] == [bar[:5] for bar in theirs], symbol
        assert [bar[5] for bar in ours] == pytest.approx([bar[5] for bar in theirs], rel=1e-12), symbol
        for bar in bars:
            if time_ns(bar["timestamp"]) < down_ns:
                # With its first trade a product begins to be watched.
                assert bar["status"] in ("final", "corrected") or bar is bars[0], (symbol, bar)
                continue
            versions = server.versions(symbol, bar["timestamp"])
            statuses = [version["status"] for version in versions]
            assert {version["source"] for version in versions} == {"coinbase"}, (symbol, versions)
            if statuses[-1] != "backfill":
                # The first products to be connected again saw whole minutes before the last ones were.
                assert time_ns(bar["timestamp"]) > back_ns, (symbol, versions)
                assert set(statuses) <= {"final", "corrected"}, (symbol, versions)
                continue
            # What little of it was seen is provisional; then it came back, once.
            assert set(statuses[:-1]) <= {"provisional"}, "\n".join(map(str, versions))
            count += 1
    return count


def wait_until_healed(server: Client, products: tuple[str, ...], start_ns: int, until: Any) -> int:
    """Until what was missed has been asked for and nothing is missing; the end of the last minute that was missed.

    until: raises when that has taken too long.
    """
    done: list[Any] = []
    while len(done) < len(products):
        until()
        time.sleep(0.02)
        jobs = server.get("/ops/backfill", limit=1_000)["jobs"]
        done = [job for job in jobs if job["reason"] == "reconnect" and job["state"] == "done"]
    end_ns = max(time_ns(job["end"]) for job in done)
    waiting = list(products)
    while waiting:
        until()
        accounts = [server.account(symbol, start_ns, end_ns) for symbol in waiting]
        # A bar that has just ended is not due, so not missed either.
        waiting = [a["symbol"] for a in accounts if not a["complete"] or time_ns(a["due"]) < end_ns]
    return end_ns


def up(health: Any) -> bool:
    return all(source["connected"] for source in health["sources"])


def floor(value_ns: int) -> int:
    return value_ns // MINUTE_NS * MINUTE_NS


@pytest.fixture
def hurried(tmp_path: Path, start_exchange) -> Iterator[tuple[HurriedServer, Exchange, HurriedClock]]:
    clock = HurriedClock(40)
    products = [f"P{number:02d}-USD" for number in range(24)]
    # Some trade often, some leave most minutes out.
    rates = [0.5 if number % 4 == 0 else 8.0 for number in range(24)]
    exchange = start_exchange(products, trades_per_minute=rates, clock=clock, history_minutes=5, seed=4)
    coinbase = CoinbaseConfig(**(exchange.settings | {"symbols": tuple(products)}), mute_timeout_s=120.0)
    config = Config(
        server=ServerConfig(data_dir=str(tmp_path / "data")),
        market_data=MarketDataConfig(
            symbols=[SymbolScenario(name, "volatile", tick_interval_ms=2_000) for name in SIMULATED]
        ),
        sources=SourcesConfig(providers={"coinbase": coinbase}),
    )
    server = HurriedServer(config, clock)
    try:
        yield server, exchange, clock
    finally:
        server.end()


def test_minutes_of_an_outage_come_back_within_twice_its_length(hurried) -> None:
    server, exchange, clock = hurried
    server.health(up)
    start_ns = floor(clock.time_ns()) + MINUTE_NS
    while clock.time_ns() < start_ns + 1.4 * MINUTE_NS:
        time.sleep(0.01)
    exchange.go_down()
    down_ns = clock.time_ns()
    health = server.health(lambda h: h["status"] == "degraded")
    down = {source["name"]: source for source in health["sources"]}
    assert not down["coinbase"]["connected"]
    assert down["coinbase"]["reason"]
    assert down["simulator"]["connected"]
    outage_ns = 4 * MINUTE_NS
    while clock.time_ns() < down_ns + outage_ns:
        time.sleep(0.01)
    assert not server.account(exchange.products[1], floor(down_ns), floor(clock.time_ns()) - 2 * MINUTE_NS)["complete"]
    exchange.come_back()
    back_ns = clock.time_ns()
    server.health(lambda h: up(h) and h["status"] == "ok")

    def until() -> None:
        assert clock.time_ns() < back_ns + 2 * outage_ns, "not healed within twice the outage"

    connected_ns = wait_until_healed(server, exchange.products, start_ns, until)
    healed_s = (clock.time_ns() - back_ns) / 1e9
    count = check_healed(server, exchange, start_ns, floor(down_ns), floor(back_ns), connected_ns)
    assert count > 50
    assert {job["state"] for job in server.get("/ops/backfill?limit=1000")["jobs"]} == {"done"}
    for symbol in SIMULATED:
        bars = server.bars(symbol, start=format_ns(start_ns), to=format_ns(connected_ns))
        assert len(bars) == (connected_ns - start_ns) // MINUTE_NS
        assert {bar["status"] for bar in bars} == {"final"}
    print(f"{count} bars were back {healed_s:.0f} s after an outage of {outage_ns / 1e9:.0f} s")


def latency(server: Client, seconds: float) -> dict[str, float]:
    """Of the simulator's quotes at twenty clients, milliseconds."""
    names = ",".join(f"SIM-{number:02d}" for number in range(50))
    command = [sys.executable, "-m", "marketd.testing.load", "--url", f"ws{server.url[4:]}{API}/stream"]
    command += ["--clients", "20", "--symbols", names, "--symbols-per-client", "25", "--sample-every", "1"]
    command += ["--duration", str(seconds), "--warmup", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    found: dict[str, float] = json.loads(done.stdout)["latency_ms"]
    return found


@pytest.mark.drill
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(("minutes", "count"), [(3, 60), (10, 200)])
def test_many_products_for_minutes_and_the_quotes_of_others(
    start_server, start_exchange, minutes: int, count: int
) -> None:
    products = [f"P{number:03d}-USD" for number in range(count)]
    exchange = start_exchange(products, trades_per_minute=[(0.5, 3.0, 6.0, 12.0)[n % 4] for n in range(count)])
    symbols = {f"SIM-{number:02d}": {"scenario": "volatile", "tick_interval_ms": 100} for number in range(50)}
    config = {
        "market_data": {"symbols": symbols},
        "sources": {"coinbase": exchange.settings},
        "backfill": {"scan_days": 1},  # else the search for holes of a week takes the first quarter of an hour
    }
    running = start_server(config=json.dumps(config))
    server = Client(running.url)
    server.health(up)
    start_ns = floor(time.time_ns()) + 2 * MINUTE_NS
    server.health(lambda h: time.time_ns() > start_ns + MINUTE_NS and not h["backfill"]["waiting"], 900)
    measured = {"before": latency(server, 60)}

    exchange.go_down()
    down_ns = time.time_ns()
    server.health(lambda h: h["status"] == "degraded")
    measured["outage"] = latency(server, 60)
    while time.time_ns() < down_ns + minutes * MINUTE_NS:
        time.sleep(0.1)
    exchange.come_back()
    back_ns = time.time_ns()
    measured["return"] = latency(server, 60)
    server.health(up, 120)

    def until() -> None:
        assert time.time_ns() < back_ns + 2 * minutes * MINUTE_NS, "not healed within twice the outage"

    connected_ns = wait_until_healed(server, exchange.products, start_ns, until)
    healed_s = (time.time_ns() - back_ns) / 1e9
    measured["after"] = latency(server, 60)
    print(f"{len(products)} products: healed {healed_s:.0f} s after an outage of {60 * minutes} s")
    for phase, found in measured.items():
        print(f"{phase:<7} p50 {found['p50']:.2f} ms  p99 {found['p99']:.2f} ms  {found['samples']:,} samples")
    print(f"{check_healed(server, exchange, start_ns, floor(down_ns), floor(back_ns), connected_ns)} bars were fetched")
    # The exchange, its markets and the clients share this machine with the server, and at the return they work too.
    worst = max(measured[phase]["p99"] for phase in ("outage", "return"))
    assert worst < 2 * max(measured["before"]["p99"], measured["after"]["p99"]) + 5
    assert {job["state"] for job in server.get("/ops/backfill", limit=1_000)["jobs"]} == {"done"}
    assert running.stop() == 0
