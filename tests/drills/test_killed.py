"""`kill -9` of the whole server at any moment of live bars, sealing, compaction and back-fill.

What it had said before is true after the restart: bars announced as final, bars and jobs told over REST. Nothing is
there twice, no file is broken, and a job that was done is not done again.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from asking import Client, Listener, Row, check_announced
from exchange import MINUTE_NS, Exchange, time_ns

from marketd.model import format_ns
from marketd.store.embedded import verify

SYMBOLS = [f"S{number:03d}" for number in range(100)]
PRODUCTS = [f"P{number}-USD" for number in range(6)]
HISTORY_MINUTES = 3_000
JOB_MINUTES = 400


def config(exchange: Exchange) -> str:
    http = {"requests_per_s": 500, "burst": 100}
    settings = {
        "market_data": {
            "symbols": {symbol: {"scenario": "volatile", "tick_interval_ms": 40} for symbol in SYMBOLS},
        },
        "sources": {"coinbase": exchange.settings | {"http": http}},
        # Sealing and merging go on all the time, and jobs take many steps.
        "store": {"seal_rows": 400, "compact_every_s": 1, "compact_parts": 2, "day_files": 2, "retire_after_s": 0},
        "backfill": {"chunk_minutes": 10, "dispatch_rate_per_s": 60, "heal": False, "lease_s": 10},
    }
    return json.dumps(settings)


class Jobs:
    """Asks for back-fill, and remembers what it was told of each job."""

    def __init__(self, exchange: Exchange, rng: random.Random) -> None:
        self._rng = rng
        self.last_ns = time.time_ns() // MINUTE_NS * MINUTE_NS - 2 * MINUTE_NS
        self.first_ns = self.last_ns - (HISTORY_MINUTES - 10) * MINUTE_NS
        self.told: dict[str, Any] = {}
        # The past of the market does not change.
        self._candles = {product: exchange.bars(product, self.first_ns, self.last_ns) for product in PRODUCTS}

    def ask(self, client: Client) -> None:
        start_ns = self._rng.randrange(self.first_ns, self.last_ns - JOB_MINUTES * MINUTE_NS, MINUTE_NS)
        end_ns = start_ns + JOB_MINUTES * MINUTE_NS
        body = {"interval": "1m", "start": format_ns(start_ns), "end": format_ns(end_ns)}
        job = client.post("/ops/backfill", body | {"symbol": self._rng.choice(PRODUCTS)})
        self.told[job["id"]] = job

    def look(self, client: Client) -> None:
        """What is told of the open ones now."""
        for number, job in self.told.items():
            if job["state"] != "done":
                self.told[number] = client.get(f"/ops/backfill/{number}")

    def check(self, client: Client, newest: int | None = None) -> None:
        """After a restart: every one is known, none has gone back, and what a done one brought is there.

        newest: only so many, those that were asked for last.
        """
        stored: dict[str, dict[str, Row]] = {}
        for number, job in list(self.told.items())[-newest if newest else 0 :]:
            now = client.get(f"/ops/backfill/{number}")
            if job["state"] == "done":
                assert now == job, "a job that was done changed"
            assert now["state"] in ("queued", "running", "done"), now
            assert now["bars"] >= job["bars"], now
            if job.get("done_until") is None:
                continue
            assert time_ns(now["done_until"]) >= time_ns(job["done_until"])
            symbol = job["symbol"]
            if symbol not in stored:
                stored[symbol] = client.rows(symbol, "1m")
            asked = range(time_ns(job["start"]), time_ns(job["done_until"]), MINUTE_NS)
            for ts_ns, expected in self._candles[symbol].items():
                if ts_ns not in asked:
                    continue
                assert stored[symbol].get(format_ns(ts_ns)) == ("backfill", expected), (job, format_ns(ts_ns))

    def finish(self, client: Client) -> int:
        """Wait for the rest; the number of bars, each with one version."""
        deadline = time.monotonic() + 120
        while open_ := [job for job in self.told.values() if job["state"] != "done"]:
            assert time.monotonic() < deadline, open_
            time.sleep(0.1)
            self.look(client)
        self.check(client)
        count = 0
        for symbol in PRODUCTS:
            bars = [bar for bar in client.bars(symbol) if time_ns(bar["timestamp"]) < self.last_ns]
            count += len(bars)
            for bar in self._rng.sample(bars, min(20, len(bars))):
                (version,) = client.versions(symbol, bar["timestamp"])
                assert version["status"] == "backfill"
        return count


def is_merging(pid: int) -> bool:
    """Whether the process has a child that merges files."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    tasks = [Path(f"/proc/{pid}/task") / t.name / "children" for t in Path(f"/proc/{pid}/task").iterdir()]
    for path in [children, *tasks]:
        for child in path.read_text().split() if path.exists() else ():
            command = Path(f"/proc/{child}/cmdline")
            if command.exists() and b"compact" in command.read_bytes():
                return True
    return False


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=[pytest.mark.drill, pytest.mark.timeout(3_600)])])
def test_killed_at_any_moment(start_server, start_exchange, tmp_path: Path, rounds: int) -> None:
    rng = random.Random(rounds)
    data_dir = tmp_path / "data"
    exchange = start_exchange(PRODUCTS, history_minutes=HISTORY_MINUTES, trades_per_minute=6.0, seed=3)
    jobs = Jobs(exchange, rng)
    announced: dict[tuple[str, str, str], Row] = {}
    merging = working = done = 0
    running = start_server(config=config(exchange), data_dir=data_dir)
    for number in range(rounds):
        client = Client(running.url)
        listener = Listener(client.url, SYMBOLS, ready_after=len(SYMBOLS))
        jobs.ask(client)
        jobs.ask(client)
        assert listener.ready.wait(20), "no bars were announced"
        time.sleep(rng.uniform(0.0, 1.0))
        over_rest = {
            (symbol, "1s", start): row
            for symbol in rng.sample(SYMBOLS, 3)
            for start, row in client.rows(symbol, "1s").items()
            if row[0] != "live"
        }
        jobs.look(client)
        merging += is_merging(running.process.pid)
        running.process.send_signal(signal.SIGKILL)
        assert running.process.wait(10) == -signal.SIGKILL
        told = listener.end()
        working += any(job["state"] == "running" for job in jobs.told.values())
        assert len(told) >= len(SYMBOLS)
        assert over_rest
        assert verify(data_dir) == [], f"round {number}"
        announced |= told | over_rest

        running = start_server(config=config(exchange), data_dir=data_dir)
        client = Client(running.url)
        assert check_announced(client, told | over_rest) >= len(SYMBOLS), f"round {number}"
        jobs.check(client, newest=8)
    done = jobs.finish(client)
    check_announced(client, announced)
    assert running.stop() == 0
    assert verify(data_dir) == []
    print(
        f"{rounds} kills, {merging} while files were merged, {working} while back-fill worked: {len(announced)} "
        f"announced bars, {len(jobs.told)} jobs and their {done} bars are there once"
    )
