"""`marketd backfill`: in this process, and over HTTP with a server whose answers are typed here."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from backfill_desk import Desk
from click.testing import CliRunner

from marketd.app import offline
from marketd.cli.backfill import backfill
from marketd.clock import SystemClock
from marketd.continuity.backfill import BackfillService
from marketd.continuity.plan import BackfillConfig
from marketd.testing import ScriptedHistory

RANGE = ("--start", "2026-01-05", "--end", "2026-01-07T12:00:00Z")


@pytest.fixture
def config_path(tmp_path):
    """Of a server that does not answer."""
    path = tmp_path / "desk.yaml"
    path.write_text(f"server: {{port: 1, data_dir: {tmp_path / 'data'}}}\n", encoding="utf-8")
    return path


@pytest.fixture
def desk(monkeypatch):
    """What `open_offline` opens, on the machine's clock, with a provider made up."""
    made = Desk(BackfillConfig(dispatch_rate_per_s=1e6))
    made.clock = SystemClock()
    made.queue._clock = made.clock
    made.history = ScriptedHistory(made.clock)
    made.providers = [("scripted", made.history)]

    @contextlib.asynccontextmanager
    async def open_offline(config):
        service = BackfillService(made.queue, made.records, made.store, made.config, made.clock, **made.seams())
        yield SimpleNamespace(backfill=service, store=made.store, records=made.records)

    monkeypatch.setattr(offline, "open_offline", open_offline)
    return made


def run(*arguments):
    return CliRunner().invoke(backfill, [str(a) for a in arguments])


def test_bars_are_fetched_here_when_no_server_answers(desk, config_path):
    result = run("AAPL", "MSFT", *RANGE, "--config", config_path)
    assert result.exit_code == 0, result.output
    assert "7,200 bars fetched, 7,200 new versions, 0 without trades, 0 quarantined; 2 of 2 jobs done" in result.output
    assert len(desk.stored("AAPL")) == len(desk.stored("MSFT")) == 3600
    again = run("AAPL", *RANGE, "--config", config_path)
    assert "3,600 bars fetched, 0 new versions" in again.output


def test_a_job_that_is_given_up_ends_with_1_and_the_reason(desk, config_path):
    desk.providers = []
    result = run("AAPL", *RANGE, "--config", config_path)
    assert result.exit_code == 1
    assert "0 of 1 jobs done, 1 failed" in result.output
    assert "AAPL was parked: no provider has a history of 1m bars of AAPL" in result.output


def test_status_and_cancel(desk, config_path):
    assert "no jobs" in run("--status", "--config", config_path).output
    run("AAPL", *RANGE, "--config", config_path)
    listed = run("--status", "--config", config_path)
    assert listed.exit_code == 0
    assert "done      100%  AAPL 1m 2026-01-05T00:00:00Z to 2026-01-07T12:00:00Z  3,600 bars" in listed.output
    job_id = listed.output.split()[0]
    assert run("--cancel", job_id, "--config", config_path).output.split()[:2] == [job_id, "done"]
    unknown = run("--status", "nobody", "--config", config_path)
    assert (unknown.exit_code, "no job nobody" in unknown.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "at least one symbol"),
        (("AAPL",), "--start is missing"),
        (("AAPL", "--start", "2026-01-05", "--end", "2026-01-05"), "not before --end"),
        (("AAPL", "--start", "soon"), "soon"),
        (("AAPL", "--start", "2026-01-05", "--interval", "7m"), "7m"),
        (("AAPL", "--start", "2026-01-05", "--tier", "T9"), "T9"),
        (("AAPL", "--status", ""), "take no symbols"),
        (("AAPL", "--start", "2026-01-05", "--server", "host:1"), "does not begin with http"),
    ],
)
def test_what_is_not_understood_is_said(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


JOB = {
    "version": 1,
    "id": "f00d",
    "symbol": "AAPL",
    "interval": "1m",
    "start": "2026-01-05T00:00:00Z",
    "end": "2026-01-07T12:00:00Z",
    "tier": "T1",
    "reason": "manual",
    "state": "queued",
    "created": "2026-11-20T14:30:00Z",
    "a_field_of_a_later_version": 1,
}


class Scripted(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, status, body):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        self.server.seen.append(("GET", self.path, None))
        if self.path == "/health":
            self._answer(200, {"status": "ok", "epoch": "ab"})
        elif self.path == "/ops/backfill/f00d":
            self._answer(200, JOB | (self.server.states.pop(0) if self.server.states else {}))
        elif self.path.startswith("/ops/backfill?"):
            self._answer(200, {"jobs": [JOB]})
        else:
            self._answer(404, {"error": {"code": "not_found", "message": "no such job"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(("POST", self.path, body))
        if body["symbol"] == "NOPE":
            self._answer(404, {"error": {"code": "unknown_symbol", "message": "unknown symbol 'NOPE'"}})
        else:
            self._answer(202, JOB)

    def do_DELETE(self):
        self._answer(200, JOB | {"state": "cancelled"})


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    server.seen, server.states = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_asked_and_followed_until_the_end(web):
    web.states = [
        {"state": "running", "done_until": "2026-01-06T00:00:00Z", "bars": 1440},
        {"state": "done", "bars": 3600, "new_versions": 3500, "no_trades": 20, "quarantined": 3},
    ]
    result = run("AAPL", *RANGE, "--provider", "desk", "--tier", "T1", "--server", web.url)
    assert result.exit_code == 0, result.output
    assert "3,600 bars fetched, 3,500 new versions, 20 without trades, 3 quarantined; 1 of 1 jobs done" in result.output
    assert web.seen[0] == (
        "POST",
        "/ops/backfill",
        {
            "symbol": "AAPL",
            "interval": "1m",
            "start": "2026-01-05T00:00:00Z",
            "end": "2026-01-07T12:00:00Z",
            "provider": "desk",
            "priority": "T1",
        },
    )


def test_the_configured_server_is_used_if_it_answers(web, tmp_path):
    path = tmp_path / "desk.yaml"
    path.write_text(f"server: {{port: {web.server_port}}}\n", encoding="utf-8")
    result = run("AAPL", *RANGE, "--detach", "--config", path)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("f00d  AAPL 1m")
    assert [seen[1] for seen in web.seen] == ["/health", "/ops/backfill"]
    assert "queued      0%  AAPL" in run("--status", "--config", path).output
    assert "cancelled" in run("--cancel", "f00d", "--server", web.url).output


def test_what_a_server_refuses_is_said_in_its_words(web):
    result = run("NOPE", *RANGE, "--server", web.url)
    assert result.exit_code == 2
    assert "answered 404: unknown symbol 'NOPE'" in result.output
    gone = run("AAPL", *RANGE, "--server", "http://127.0.0.1:1")
    assert gone.exit_code == 2
    assert "gave no answer" in gone.output
