"""The doors of those who run the server: the ledger, the heat map, back-fill jobs, cursors, quarantine."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from history_door import MINUTE, Desk, at, row

from marketd.api.rest import OPERATIONS
from marketd.model import AnsweredSpan, Cursor

JSON = {"Content-Type": "application/json"}
RANGE = "from=2026-11-20T10:00:00Z&to=2026-11-20T10:05:00Z"


@pytest.fixture
def desk() -> Desk:
    return Desk([row(at("10:00") + i * MINUTE, 100.25 + i) for i in (0, 1, 2)])


def _ask(**changes: Any) -> bytes:
    body = {"symbol": "X", "interval": "1m", "start": "2026-11-20T10:00:00Z", "end": "2026-11-20T11:00:00Z"}
    return json.dumps(body | changes).encode()


def documented(path: str, told: Any) -> bool:
    """Whether an answer is exactly of the type that the document tells for it."""
    (operation,) = (op for op in OPERATIONS if (op.method, op.path) == ("GET", path))
    return bool(msgspec.to_builtins(msgspec.convert(told, operation.response)) == told)


def test_the_ledger_of_a_symbol(desk: Desk) -> None:
    desk.records.note_spans(
        [
            AnsweredSpan(
                symbol="X", interval="1m", provider="venue", start_ns=at("10:03"), end_ns=at("10:04"),
                reason="no_trades", as_of_ns=at("11:00"),
            )
        ]
    )  # fmt: skip
    desk.records.set_cursors(
        [Cursor(symbol="X", interval="1m", provider="venue", until_ns=at("10:04"), updated_ns=at("11:00"))]
    )
    cursors = [{"provider": "venue", "until": "2026-11-20T10:04:00Z", "updated": "2026-11-20T11:00:00Z"}]
    answer = desk.get(f"/ops/continuity/X?{RANGE}")
    assert answer.status == 200
    assert {k: v for k, v in answer.json.items() if k not in ("due", "side")} == {
        "symbol": "X",
        "interval": "1m",
        "base": "1m",
        "calendar": "24/7",
        "start": "2026-11-20T10:00:00Z",
        "end": "2026-11-20T10:05:00Z",
        "complete": False,
        "expected": 5,
        "present": 3,
        "outside": 0,
        "missing": {"not_fetched": 1, "provider_lacks": 0, "no_trades": 1, "quarantined": 0},
        "spans": [
            {"start": "2026-11-20T10:03:00Z", "end": "2026-11-20T10:04:00Z", "reason": "no_trades", "count": 1},
            {"start": "2026-11-20T10:04:00Z", "end": "2026-11-20T10:05:00Z", "reason": "not_fetched", "count": 1},
        ],
        "cursors": cursors,
    }
    cursor = desk.get("/ops/cursor/X/1m/venue").json
    assert cursor == {
        "symbol": "X", "interval": "1m", "source": "venue", "until": "2026-11-20T10:04:00Z",
        "updated": "2026-11-20T11:00:00Z",
    }  # fmt: skip
    assert documented("/ops/cursor/{symbol}/{interval}/{source}", cursor)
    assert desk.get("/ops/cursor/X/1m/other").json["error"]["code"] == "not_found"
    assert desk.get("/ops/cursor/X/2m/venue").json["error"]["details"]["field"] == "interval"
    assert desk.get("/ops/continuity/Y").json["error"]["code"] == "unknown_symbol"
    reversed_ = desk.get("/ops/continuity/X?from=2026-11-20&to=2026-11-19").json["error"]
    assert reversed_["details"]["field"] == "from"


def test_the_heat_map(desk: Desk) -> None:
    answer = desk.get("/ops/continuity?from=2026-11-18&to=2026-11-20").json
    assert (answer["symbols"], answer["days"]) == (["X"], ["2026-11-18", "2026-11-19"])
    assert (answer["expected"], answer["present"], answer["missing"]) == ([[1440, 1440]], [[0, 0]], [[1440, 1440]])
    today = desk.get("/ops/continuity?from=2026-11-20&to=2026-11-21&symbols=X").json
    assert today["present"] == [[3]]
    assert (
        desk.get("/ops/continuity?from=1800-01-01&to=2199-01-01&symbols=" + ",".join(map(str, range(100)))).status
        == 422
    )


def test_a_job_is_taken_once_and_can_be_cancelled(desk: Desk) -> None:
    answer = desk.ask("POST", "/ops/backfill", _ask(priority="T0"), JSON)
    assert answer.status == 202
    job = answer.json
    assert {k: job[k] for k in ("symbol", "interval", "start", "end", "tier", "state", "reason", "provider")} == {
        "symbol": "X",
        "interval": "1m",
        "start": "2026-11-20T10:00:00Z",
        "end": "2026-11-20T11:00:00Z",
        "tier": "T0",
        "state": "queued",
        "reason": "manual",
        "provider": None,
    }
    assert desk.ask("POST", "/ops/backfill", _ask(priority="T0"), JSON).json["id"] == job["id"]
    other = desk.ask("POST", "/ops/backfill", _ask(end="2026-11-20T11:30:00Z"), JSON).json
    assert other["id"] != job["id"]
    assert desk.get(f"/ops/backfill/{job['id']}").json == job
    assert documented("/ops/backfill/{id}", job)
    assert {j["id"] for j in desk.get("/ops/backfill").json["jobs"]} == {job["id"], other["id"]}
    cancelled = desk.ask("DELETE", f"/ops/backfill/{job['id']}")
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert [j["id"] for j in desk.get("/ops/backfill?state=cancelled&symbol=X").json["jobs"]] == [job["id"]]
    assert desk.get("/ops/backfill?symbol=Y").json["jobs"] == []


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"symbol": "Y"}, 404, "symbol"),
        ({"interval": "2m"}, 422, "interval"),
        ({"start": "soon"}, 422, "start"),
        ({"end": "2026-11-20T09:00:00Z"}, 422, "start"),
        ({"start": "2027-01-01", "end": "2027-01-02"}, 422, "start"),
        ({"priority": "T9"}, 422, "priority"),
        ({"priorty": "T0"}, 422, "priorty"),
    ],
)
def test_what_cannot_be_asked_for_is_named(desk: Desk, changes: dict[str, str], status: int, field: str) -> None:
    answer = desk.ask("POST", "/ops/backfill", _ask(**changes), JSON)
    assert (answer.status, answer.json["error"]["details"]["field"]) == (status, field)


def test_a_page_of_another_site_cannot_start_a_job(desk: Desk) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = desk.ask("POST", "/ops/backfill", _ask(), {"Content-Type": kind} if kind else {})
        assert (answer.status, answer.json["error"]["details"]["field"]) == (422, "Content-Type")
    assert desk.get("/ops/backfill").json["jobs"] == []


def test_unknown_jobs_and_methods(desk: Desk) -> None:
    for method in ("GET", "DELETE"):
        answer = desk.ask(method, "/ops/backfill/none")
        assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
    refused = desk.ask("PUT", "/ops/backfill/none")
    assert (refused.status, refused.headers["allow"]) == (405, "DELETE, GET, HEAD")


def test_the_quarantine(desk: Desk) -> None:
    answer = desk.get("/ops/quarantine").json
    assert json.dumps(answer).count("high_below_low") == 1
