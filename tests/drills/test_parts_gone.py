"""A database, a Redis, a disk that fails while the whole server works: live goes on, `/health` says what is wrong,
nothing acknowledged is lost, and work resumes by itself.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import API, Client, Listener, check_announced
from exchange import MINUTE_NS, time_ns

from marketd.model import format_ns
from marketd.store.embedded import verify

SYMBOLS = [f"S{number:02d}" for number in range(12)]
SECOND_NS = 10**9


def simulated(**sections: Any) -> dict[str, Any]:
    symbols = {symbol: {"scenario": "volatile", "tick_interval_ms": 40} for symbol in SYMBOLS}
    return {"market_data": {"symbols": symbols}, **sections}


def refused(client: Client, symbol: str) -> None:
    """That nothing is acknowledged which cannot be kept."""
    body = {"symbol": symbol, "interval": "1m", "start": "2026-11-16", "end": "2026-11-17"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        client.post("/ops/backfill", body)
    assert caught.value.code == 503
    assert json.load(caught.value)["error"]["code"] == "store_error"


def quotes_go_on(client: Client) -> None:
    first = client.get(f"{API}/quote/{SYMBOLS[0]}")["seq"]
    client.wait_for(f"{API}/quote/{SYMBOLS[0]}", lambda quote: quote["seq"] > first + 20)


def check_seconds(client: Client, since: str) -> None:
    """Every second of every symbol from then until now is there once: ticks come 25 times a second."""
    until = max(now(client), format_ns(time_ns(since) + 2 * SECOND_NS))
    client.health(lambda h: time_ns(h["time"]) > time_ns(until) + 2 * SECOND_NS)
    wanted = list(range(time_ns(since), time_ns(until), SECOND_NS))
    assert len(wanted) >= 2
    for symbol in SYMBOLS:
        bars = client.bars(symbol, "1s", start=since, to=until)
        assert [time_ns(bar["timestamp"]) for bar in bars] == wanted, symbol
        assert {bar["status"] for bar in bars} <= {"final", "corrected"}


def now(client: Client) -> str:
    """The second that runs."""
    return format_ns(time_ns(client.get("/health")["time"]) // SECOND_NS * SECOND_NS)


def failing(*names: str) -> Any:
    """Whether just these parts fail, and say why."""

    def accept(health: Any) -> bool:
        parts = ("store", "cache", "backfill", "sweeper", "jobs")
        bad = {part: health[part]["error"] for part in parts if health[part]["state"] == "failing"}
        return health["status"] == "degraded" and bad.keys() == {*names} and all(bad.values())

    return accept


def is_well(health: Any) -> bool:
    return health["status"] == "ok" and health["store"]["waiting"] < 200


def test_a_database_that_goes_and_comes_back(start_server, own_postgres_server) -> None:
    config = simulated(postgres={"connect_timeout_s": 1, "statement_timeout_s": 5})
    running = start_server(config=json.dumps(config), DATABASE_URL=own_postgres_server.url("postgres"))
    client = Client(running.url)
    listener = Listener(client.url, SYMBOLS, ready_after=3 * len(SYMBOLS))
    assert listener.ready.wait(20)
    assert client.health(is_well)["store"]["kind"] == "postgres"
    since = now(client)
    own_postgres_server.stop(signal.SIGQUIT)
    health = client.health(failing("store", "backfill"))
    assert health["store"]["kind"] == "postgres"
    before = len(listener.announced)
    quotes_go_on(client)
    refused(client, SYMBOLS[0])
    client.health(lambda h: h["store"]["waiting"] > 3 * len(SYMBOLS))  # bars of a second a tick-side each
    # What is not durable is not announced as final.
    assert len(listener.announced) <= before + len(SYMBOLS)
    own_postgres_server.start()
    client.health(is_well)
    check_seconds(client, since)
    announced = listener.end()
    assert check_announced(client, announced) > 3 * len(SYMBOLS)
    assert running.stop() == 0


def test_a_redis_that_goes_and_comes_back_with_its_queues(start_server, start_exchange, durable_redis_server) -> None:
    redis = pytest.importorskip("redis", reason="the queues in Redis need the extra `redis`")
    exchange = start_exchange(["P0-USD", "P1-USD"], history_minutes=700)
    config = simulated(
        sources={"coinbase": exchange.settings | {"http": {"requests_per_s": 500, "burst": 100}}},
        backfill={"chunk_minutes": 10, "dispatch_rate_per_s": 30, "heal": False},
    )
    running = start_server(config=json.dumps(config), REDIS_URL=durable_redis_server.url, USE_RLC="true")
    client = Client(running.url)
    listener = Listener(client.url, SYMBOLS, ready_after=len(SYMBOLS))
    assert listener.ready.wait(20)
    end_ns = time.time_ns() // MINUTE_NS * MINUTE_NS - 5 * MINUTE_NS
    start_ns = end_ns - 600 * MINUTE_NS
    body = {"symbol": "P0-USD", "interval": "1m", "start": format_ns(start_ns), "end": format_ns(end_ns)}
    job = client.post("/ops/backfill", body)
    with redis.from_url(durable_redis_server.url) as queue:
        for number in range(60):
            low = start_ns + number * 10 * MINUTE_NS
            asked = {"version": 1, "type": "fetch_bars", "symbol": "P1-USD", "interval": "1m", "id": f"listed-{number}"}
            asked |= {"start": format_ns(low), "end": format_ns(low + 10 * MINUTE_NS)}
            queue.lpush("market:jobs", json.dumps(asked))
    half = client.wait_for(f"/ops/backfill/{job['id']}", lambda j: j["bars"] > 0)
    assert half["state"] == "running"
    durable_redis_server.kill()
    client.health(failing("cache", "backfill", "jobs"))
    since = now(client)
    quotes_go_on(client)
    refused(client, "P0-USD")
    check_seconds(client, since)  # bars are stored, whatever becomes of the queues
    durable_redis_server.start()
    client.health(is_well)
    done = client.wait_for(f"/ops/backfill/{job['id']}", lambda j: j["state"] == "done", 30)
    theirs = {product: exchange.bars(product, start_ns, end_ns) for product in exchange.products}
    assert done["bars"] == len(theirs["P0-USD"])
    with redis.from_url(durable_redis_server.url) as queue:
        deadline = time.monotonic() + 20
        while queue.llen("market:jobs") or queue.llen("market:jobs:in-flight"):
            assert time.monotonic() < deadline, queue.lrange("market:jobs:in-flight", 0, 5)
            time.sleep(0.05)
        assert queue.llen("market:jobs:dead") == 0
        assert queue.llen("market:backfills:T0:in-flight") == 0
    for product, expected in theirs.items():
        stored = client.rows(product, "1m")
        for ts_ns, row in expected.items():
            assert stored.get(format_ns(ts_ns)) == ("backfill", row), (product, format_ns(ts_ns))
    assert check_announced(client, listener.end()) >= len(SYMBOLS)
    assert running.stop() == 0


class Limit:
    """Files of the server that cannot grow: what anybody can do to a process of theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))

    def free(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class SmallDisk:
    """A file system of 24 MB; only root can make one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(self.folder)]
        subprocess.run(command, capture_output=True, check=True)

    def fill(self, _pid: int) -> None:
        with contextlib.suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(bytes(4_096))

    def free(self, _pid: int) -> None:
        (self.folder / "filler").unlink()

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Limit | SmallDisk]:
    try:
        made = SmallDisk(tmp_path)
    except (OSError, subprocess.CalledProcessError):
        yield Limit(tmp_path)
        return
    try:
        yield made
    finally:
        made.close()


def test_a_disk_that_is_full_for_a_while(disk, start_server, start_exchange) -> None:
    exchange = start_exchange(["P0-USD"], history_minutes=700)
    config = simulated(
        sources={"coinbase": exchange.settings | {"http": {"requests_per_s": 500, "burst": 100}}},
        backfill={"chunk_minutes": 10, "dispatch_rate_per_s": 30, "heal": False},
        store={"seal_rows": 500, "compact_every_s": 1, "compact_parts": 2},
    )
    data_dir = disk.folder / "data"
    running = start_server(config=json.dumps(config), data_dir=data_dir)
    client = Client(running.url)
    listener = Listener(client.url, SYMBOLS, ready_after=2 * len(SYMBOLS))
    assert listener.ready.wait(20)
    end_ns = time.time_ns() // MINUTE_NS * MINUTE_NS - 5 * MINUTE_NS
    body = {
        "symbol": "P0-USD",
        "interval": "1m",
        "start": format_ns(end_ns - 600 * MINUTE_NS),
        "end": format_ns(end_ns),
    }
    job = client.post("/ops/backfill", body)
    client.wait_for(f"/ops/backfill/{job['id']}", lambda j: j["bars"] > 0)
    since = now(client)
    disk.fill(running.process.pid)
    client.health(failing("store", "backfill"))
    quotes_go_on(client)
    refused(client, "P0-USD")
    disk.free(running.process.pid)
    client.health(is_well)
    check_seconds(client, since)
    done = client.wait_for(f"/ops/backfill/{job['id']}", lambda j: j["state"] == "done", 30)
    theirs = exchange.bars("P0-USD", time_ns(done["start"]), time_ns(done["end"]))
    assert done["bars"] == len(theirs)
    announced = listener.end()
    assert running.stop() == 0
    assert verify(data_dir) == []
    running = start_server(config=json.dumps(config), data_dir=data_dir)
    client = Client(running.url)
    assert check_announced(client, announced) > 2 * len(SYMBOLS)
    stored = client.rows("P0-USD", "1m")
    assert all(stored.get(format_ns(ts_ns)) == ("backfill", row) for ts_ns, row in theirs.items())
    assert running.stop() == 0
