"""`marketd gaps` over a data directory and over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from marketd.app.stores import open_history
from marketd.cli.gaps import gaps
from marketd.config import Config, ServerConfig, load_config
from marketd.model import BAR_SCHEMA, AnsweredSpan, Instrument, parse_ns

OPEN = parse_ns("2025-11-28T14:30:00Z")
M = 60 * 10**9


def bars(symbol: str, minutes: list[int]) -> pa.Table:
    count = len(minutes)
    stamps = pa.timestamp("ns", tz="UTC")
    ts = pa.array([OPEN + n * M for n in minutes], pa.int64()).cast(stamps)
    as_of = pa.array([parse_ns("2025-11-29")] * count, pa.int64()).cast(stamps)
    columns = [[symbol] * count, ["1m"] * count, ["trade"] * count, ts, *[[1.0] * count] * 6, [1] * count]
    return pa.table([*columns, ["yahoo"] * count, ["backfill"] * count, as_of], schema=BAR_SCHEMA)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """New York's half day of 2025-11-28: A is all there, B lacks three minutes and had one without trades."""
    config: Config = load_config(None, {})
    folder = tmp_path / "data"
    with open_history(_with(config, folder)) as (store, records):
        store.append(bars("A", list(range(210))))
        store.append(bars("B", [n for n in range(210) if n not in (7, 8, 9, 50)]))
        records.save_universe(
            [Instrument(id=s, symbol=s, exchange="XNYS") for s in ("A", "B")], source="test", as_of_ns=1
        )
        span = AnsweredSpan(
            symbol="B", interval="1m", provider="yahoo", start_ns=OPEN + 50 * M, end_ns=OPEN + 51 * M,
            reason="no_trades", as_of_ns=1,
        )  # fmt: skip
        records.note_spans([span])
    return folder


def _with(config: Config, folder: Path) -> Config:
    import msgspec

    server = ServerConfig(**msgspec.to_builtins(config.server) | {"data_dir": str(folder)})
    return msgspec.structs.replace(config, server=server)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gaps, [*arguments, "--from", "2025-11-28", "--to", "2025-11-29"])


def test_a_symbol_with_gaps_is_told_and_ends_with_1(data_dir: Path) -> None:
    done = run("B", "--data-dir", str(data_dir))
    assert done.exit_code == 1, done.output
    assert done.output.splitlines() == [
        "B 1m, trade, calendar XNYS",
        "2025-11-28T00:00:00Z to 2025-11-29T00:00:00Z",
        "expected 210, present 206, absent 4 (3 not_fetched, 1 no_trades)",
        "  start                 end                   bars  reason",
        "  2025-11-28T14:37:00Z  2025-11-28T14:40:00Z     3  not_fetched",
        "  2025-11-28T15:20:00Z  2025-11-28T15:21:00Z     1  no_trades",
        "not complete",
    ]


def test_a_symbol_that_is_all_there_ends_with_0(data_dir: Path) -> None:
    done = run("A", "--data-dir", str(data_dir))
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-2:] == ["expected 210, present 210, absent 0", "complete"]


def test_without_a_symbol_those_with_gaps_are_listed(data_dir: Path) -> None:
    done = run("--data-dir", str(data_dir))
    assert done.exit_code == 1, done.output
    assert done.output.splitlines() == [
        "  symbol  expected  present  no trades  missing  days  first",
        "  B            210      206          1        3     1  2025-11-28",
        "2 symbols, 1m: 1 with gaps, 3 bars missing",
    ]


def test_json_is_the_whole_account(data_dir: Path) -> None:
    done = run("A", "B", "--json", "--data-dir", str(data_dir))
    assert done.exit_code == 1
    told = json.loads(done.output)
    assert [t["symbol"] for t in told] == ["A", "B"]
    assert told[1]["missing"] == {"not_fetched": 3, "provider_lacks": 0, "no_trades": 1, "quarantined": 0}
    assert json.loads(run("--json", "--data-dir", str(data_dir)).output)["missing"] == [[0], [3]]


def test_a_data_directory_in_use_says_whom_to_ask(data_dir: Path) -> None:
    with open_history(_with(load_config(None, {}), data_dir)):
        done = run("A", "--data-dir", str(data_dir))
    assert done.exit_code == 2
    assert "--server http://127.0.0.1:8001" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interval", "7m"], "'7m' is not one of 1s, 1m"),
        (["--from", "yesterday"], "RFC 3339"),
        (["--from", "2025-11-28", "--to", "2025-11-28"], "is not before --to"),
        (["--server", "file:///etc/passwd"], "does not begin with http"),
    ],
)
def test_a_wrong_argument_is_a_line(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(gaps, arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


@contextmanager
def answering(status: int, body: Any) -> Iterator[tuple[str, list[str]]]:
    """A server with one answer; the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_is_asked_by_its_doors(data_dir: Path) -> None:
    [account] = json.loads(run("B", "--json", "--data-dir", str(data_dir)).output)
    with answering(200, account) as (url, asked):
        done = run("BTC/USD", "--server", url, "--closed")
    assert done.exit_code == 1
    assert "not complete" in done.output
    [path] = asked
    assert urlsplit(path).path == "/ops/continuity/BTC%2FUSD"
    assert parse_qs(urlsplit(path).query) == {
        "interval": ["1m"],
        "from": ["2025-11-28T00:00:00Z"],
        "to": ["2025-11-29T00:00:00Z"],
        "closed": ["yes"],
    }


def test_what_a_server_refuses_is_said_in_its_words() -> None:
    with answering(404, {"error": {"message": "unknown symbol 'X'"}}) as (url, _):
        done = run("X", "--server", url)
    assert done.exit_code == 2
    assert "answered 404: unknown symbol 'X'" in done.output


def test_no_server_is_said_too() -> None:
    done = run("--server", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "gave no answer" in done.output
