"""The program as a user and a service manager meet it: what it prints, how it ends, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from marketd import __version__
from marketd.clock import SystemClock
from marketd.model import Interval
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig

BUSY = "market_data:\n  symbols:\n" + "".join(
    f"    S{i:03d}: {{scenario: volatile, tick_interval_ms: 20}}\n" for i in range(100)
)


def marketd(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "marketd", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "REDIS_URL"} | environment,
    )


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line on which a start was refused."""
    assert ended.returncode == 2, ended
    (line,) = ended.stderr.splitlines()
    return line


def test_version(tmp_path: Path) -> None:
    ended = marketd("--version", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"marketd, version {__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["serve", "record"]),
        (["serve"], ["--config", "--host", "--port", "--data-dir", "--replay", "--speed"]),
        (["record"], ["--out", "--config", "--source", "--seconds"]),
    ],
)
def test_help(tmp_path: Path, command: list[str], words: list[str]) -> None:
    ended = marketd(*command, "--help", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [word for word in words if word not in ended.stdout] == []
    assert marketd(*command, "-h", cwd=tmp_path).stdout == ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--bogus"], "No such option '--bogus'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["serve", "--port", "99999"], "Invalid value for '--port': 99999"),
        (["serve", "gold.csv"], "unexpected argument 'gold.csv'"),
        (["serve", "--replay", "x.csv", "--speed", "fast"], "'fast' is neither a number nor `max`"),
        (["record"], "Missing option '--out'"),
        (["record", "--out", "x.jsonl", "--seconds", "0"], "--seconds"),
    ],
)
def test_arguments_that_are_none(tmp_path: Path, arguments: list[str], told: str) -> None:
    ended = marketd(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert told in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "desk.yaml"
    assert refusal(marketd("serve", "--config", str(path), cwd=tmp_path)) == (
        f"marketd: {path}: file: '{path}' is not allowed; expected a readable YAML file (No such file or directory)"
    )
    path.write_text("market_data: {faults: {delay_probability: 1.5}}")
    assert refusal(marketd("serve", "--config", str(path), cwd=tmp_path)) == (
        f"marketd: {path}: market_data.faults.delay_probability: 1.5 is not allowed; expected a number from 0 to 1"
    )
    path.write_text("market_data: {symbols: {AAPL: {}}, symbls: {}}")
    line = refusal(marketd("serve", "--config", str(path), cwd=tmp_path))
    assert line.startswith(f"marketd: {path}: market_data.symbls: {{}} is not allowed; expected one of ")
    path.write_text("sources: {replay: {files: [{path: nowhere.csv}]}}")
    line = refusal(marketd("serve", "--config", str(path), "--port", "0", cwd=tmp_path))
    assert line == f"marketd: {path}: path: 'nowhere.csv' is not allowed; expected a file that exists"


def test_an_address_that_is_not_ours_alone(tmp_path: Path) -> None:
    line = refusal(marketd("serve", "--host", "0.0.0.0", cwd=tmp_path))
    assert line.startswith("marketd: host: '0.0.0.0' is not allowed; expected a loopback address")
    line = refusal(marketd("serve", cwd=tmp_path, MARKETD_HOST="192.168.1.1"))
    assert line.startswith("marketd: environment: MARKETD_HOST: '192.168.1.1' is not allowed; expected a loopback")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(marketd("serve", "--port", str(port), cwd=tmp_path))
    assert line == f"marketd: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert list(tmp_path.iterdir()) == []


def test_a_redis_url_that_is_none_is_told_without_its_password(tmp_path: Path) -> None:
    ended = marketd("serve", "--port", "0", cwd=tmp_path, REDIS_URL="http://user:hunter2@cache")
    assert "redis://" in refusal(ended)
    assert "hunter2" not in ended.stdout + ended.stderr


def test_a_data_dir_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("something")
    line = refusal(marketd("serve", "--port", "0", "--data-dir", str(path), cwd=tmp_path))
    assert line == f"marketd: {path}: is not a directory"
    assert path.read_text() == "something"


def test_a_data_dir_that_cannot_be_written(tmp_path: Path) -> None:
    if os.geteuid():
        folder = tmp_path / "read-only"
        folder.mkdir(mode=0o500)
    else:  # to the superuser no folder of a test is read-only
        folder = Path("/proc/marketd")
        if not folder.parent.is_dir():
            pytest.skip("no folder here that its superuser cannot write to")
    line = refusal(marketd("serve", "--port", "0", "--data-dir", str(folder), cwd=tmp_path))
    assert line.startswith(f"marketd: {folder}")


def test_a_data_dir_that_another_server_holds(tmp_path: Path, server) -> None:
    line = refusal(marketd("serve", "--port", "0", "--data-dir", str(server.data_dir), cwd=tmp_path))
    assert line.startswith(f"marketd: {server.data_dir}: ")
    assert str(server.process.pid) in line or "process" in line
    assert server.get("/health")["status"] == "ok"


def test_a_recording_that_cannot_be_replayed(tmp_path: Path) -> None:
    line = refusal(marketd("serve", "--port", "0", "--replay", "nowhere.csv", cwd=tmp_path))
    assert line == "marketd: path: 'nowhere.csv' is not allowed; expected a file that exists"
    (tmp_path / "x.csv").write_text("when,what\n1,2\n")
    line = refusal(marketd("serve", "--port", "0", "--replay", "x.csv", cwd=tmp_path))
    assert line.startswith("marketd: x.csv: columns: ")


def test_without_a_config_it_says_so(start_server) -> None:
    server = start_server()
    assert any("No --config given: serving the demo" in line for line in server.output)
    listed = server.wait_for(
        "/api/v1/market-data/symbols", lambda s: sum(r["lastPrice"] is not None for r in s["symbols"]) >= 3
    )
    simulated = {row["symbol"] for row in listed["symbols"] if row["simulated"]}
    assert simulated == {"AAPL", "TSLA", "SPY"}
    assert {row["symbol"] for row in listed["symbols"]} - simulated == {"BTC-USD", "ETH-USD", "SOL-USD"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_drains_and_ends_with_0(start_server, how: signal.Signals) -> None:
    server = start_server(config=BUSY)
    server.wait_for("/health", lambda h: h["symbols"] == 100 and h["rates"]["ticks_per_s"] > 0)

    async def watch() -> tuple[list[int], list[dict]]:
        """Close codes of five clients that get everything, and what one was told of bars."""
        url = f"ws{server.url[4:]}/api/v1/market-data/stream"
        bars: list[dict] = []
        codes: list[int] = []

        async def client(*channels: str) -> None:
            async with connect(url, max_size=None, max_queue=None, proxy=None) as connection:
                message = {"action": "subscribe", "symbols": ["*"], "channels": channels}
                await connection.send(json.dumps(message))
                try:
                    while True:
                        message = json.loads(await connection.recv())
                        if message["type"] == "bar_update" and message["status"] in {"final", "corrected"}:
                            bars.append(message)
                            if len(bars) == 100:
                                told.set()
                except ConnectionClosed:
                    codes.append(connection.close_code or 0)

        told = asyncio.Event()
        async with asyncio.timeout(30):
            clients = [asyncio.create_task(client("quotes", "bars_1s"))]
            clients += [asyncio.create_task(client("quotes")) for _ in range(4)]
            await told.wait()
            server.process.send_signal(how)
            await asyncio.gather(*clients)
        return codes, bars

    codes, bars = asyncio.run(watch())
    began = time.monotonic()
    assert server.stop(timeout_s=5) == 0
    assert time.monotonic() - began < 5
    assert codes == [1012] * 5
    assert not [line for line in server.output if "Traceback" in line or "ERROR" in line]

    # Everything that was announced is on disk, and so is the minute that was running.
    store = EmbeddedStore(server.data_dir, EmbeddedStoreConfig(), SystemClock())
    try:
        assert store.symbols() == tuple(f"S{i:03d}" for i in range(100))
        far = 2**62
        stored = {symbol: store.read(symbol, Interval.parse("1s"), 0, far) for symbol in store.symbols()}
        rows = {
            (symbol, row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ")): row
            for symbol, table in stored.items()
            for row in table.drop_columns(["as_of"]).to_pylist()
        }
        newest = {(told["symbol"], told["bar"]["ts"]): told for told in bars}
        compared = 0
        for key, told in newest.items():
            row, bar = rows[key], told["bar"]
            if (told["status"], row["status"]) == ("final", "corrected"):
                continue  # corrected on the way out, when nobody listened any more
            assert (row["open"], row["high"], row["low"], row["close"], row["volume"]) == tuple(bar[k] for k in "ohlcv")
            compared += 1
        assert compared >= 90
        for symbol in store.symbols():
            minutes = store.read(symbol, Interval.parse("1m"), 0, far)
            assert minutes.num_rows >= 1
            assert minutes["status"].to_pylist()[-1] in {"provisional", "final"}
    finally:
        store.close()


def test_a_client_that_does_not_read_does_not_hold_up_the_end(start_server) -> None:
    server = start_server(config=BUSY + "fanout: {max_rate_hz: null}\n")
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.sendall(
            b"GET /api/v1/market-data/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += deaf.recv(1_024)
        assert answer.startswith(b"HTTP/1.1 101 ")
        message = b'{"action":"subscribe","symbols":["*"]}'
        deaf.sendall(bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message)
        server.wait_for("/health", lambda h: h["clients"] == 1 and h["rates"]["messages_per_s"] > 0)
        began = time.monotonic()
        assert server.stop(timeout_s=5) == 0
        assert time.monotonic() - began < 5


def test_what_was_recorded_is_what_is_replayed(tmp_path: Path, start_server) -> None:
    config = tmp_path / "desk.yaml"
    config.write_text("market_data: {symbols: {AAPL: {scenario: volatile, tick_interval_ms: 20}, SPY: {}}}")
    out = tmp_path / "session.jsonl"
    ended = marketd("record", "--config", str(config), "--out", str(out), "--seconds", "1", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    count = int(ended.stdout.split()[0].replace(",", ""))
    assert ended.stdout == f"{count:,} ticks recorded in {out}\n"
    assert count > 20
    again = marketd("record", "--config", str(config), "--out", str(out), "--seconds", "1", cwd=tmp_path)
    assert "exist" in refusal(again)

    server = start_server("--replay", str(out), "--speed", "max")
    health = server.wait_for("/health", lambda h: h["sources"][0]["state"] == "ended")
    assert [source["name"] for source in health["sources"]] == ["replay"]
    assert (health["sources"][0]["ticks"], health["sources"][0]["quarantined"]) == (count, {})

    # Recorded once more, from the recording: the same rows with the same times.
    twin = tmp_path / "twin.jsonl"
    replay = tmp_path / "replay.yaml"
    replay.write_text(f"sources: {{replay: {{files: [{{path: {out}}}], speed: null}}}}")
    ended = marketd("record", "--config", str(replay), "--out", str(twin), cwd=tmp_path)
    assert ended.stdout == f"{count:,} ticks recorded in {twin}\n"
    assert rows_of(twin) == rows_of(out)
    last = {row["symbol"]: row for row in rows_of(out)}
    for symbol in ("AAPL", "SPY"):
        quote = server.get(f"/api/v1/market-data/quote/{symbol}")
        assert (quote["lastPrice"], quote["bidPrice"], quote["askPrice"]) == (
            last[symbol]["last"],
            last[symbol]["bid"],
            last[symbol]["ask"],
        )


def rows_of(recording: Path) -> list[dict]:
    """The ticks of a recording, without what differs from source to source."""
    rows = []
    for line in recording.read_text().splitlines():
        row = json.loads(line)
        if "symbol" in row:
            row.pop("source", None)
            rows.append(row)
    assert rows
    return rows
