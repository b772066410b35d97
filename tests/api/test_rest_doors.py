"""What is true of every REST answer: one error shape, request ids, the hot doors' sameness, pages, no 5xx."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_door import Answer, Door, asgi
from starlette.routing import Router

from marketd.api.asgi import build_app
from marketd.api.errors import ErrorReply
from marketd.api.openapi import Operation
from marketd.api.pages import docs_page, live_page, prefers_html, static_route
from marketd.api.rest import OPERATIONS

POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def error_of(answer: Answer) -> dict[str, Any]:
    """The error of an answer, after its shape was found to be the documented one, exactly."""
    assert answer.headers["content-type"] == "application/json"
    decoded = msgspec.json.decode(answer.body, type=ErrorReply)
    assert msgspec.to_builtins(decoded) == answer.json
    assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]
    return answer.json["error"]  # type: ignore[no-any-return]


def test_a_path_that_is_not_served(door: Door) -> None:
    for path in ("/nope", "/api/v1/market-data", "/stocks/AAPL", "/health/", "/static/nope.js", "/static/../rest.py"):
        answer = door.get(path)
        assert answer.status == 404
        error = error_of(answer)
        assert (error["code"], error["details"]) == ("not_found", {"field": "path", "value": path})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/api/v1/market-data/quote/AAPL", "GET, HEAD"),
        ("PUT", "/stocks/AAPL/price", "GET, HEAD"),
        ("GET", "/stocks/batch", "POST"),
    ],
)
def test_a_method_that_is_not_allowed(door: Door, method: str, path: str, allow: str) -> None:
    answer = door.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    error = error_of(answer)
    assert (error["code"], error["details"]) == ("method_not_allowed", {"field": "method", "allowed": allow})


def test_head_is_get_without_a_body(door: Door) -> None:
    got, head = door.get("/stocks/AAPL/price"), door.request("HEAD", "/stocks/AAPL/price")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(got.body))


def test_parameters_of_an_operation_without_any(door: Door) -> None:
    answer = door.get("/health?verbose=1")
    assert answer.status == 422
    details = error_of(answer)["details"]
    assert details == {"field": "verbose", "value": "1", "allowed": "no query parameter"}
    assert error_of(door.get("/api/v1/market-data/quote/AAPL?depth=5"))["details"]["field"] == "depth"
    assert error_of(door.get("/api/v1/market-data/quotes"))["details"] == {
        "field": "symbols",
        "allowed": "1 to 500 symbols separated by commas",
    }


def test_a_sane_request_id_is_echoed_and_others_are_replaced(door: Door) -> None:
    for path in ("/health", "/stocks/AAPL/price", "/nope"):
        for sane in ("a", "Trace-01.b_2", "x" * 64):
            assert door.get(path, **{"X-Request-ID": sane}).headers["x-request-id"] == sane
        for mad in ("", "x" * 65, "a b", "a\tb", "<script>", "ä"):
            given_id = door.get(path, **{"X-Request-ID": mad}).headers["x-request-id"]
            assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", given_id)
    ids = [door.get("/health").headers["x-request-id"] for _ in range(10)]
    assert len(set(ids)) == 10


def test_a_defect_is_logged_with_its_request_id_and_told_without_internals(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        """An engine that can do nothing at all."""

    app = build_app(Broken())  # type: ignore[arg-type]
    for path in ("/health", "/stocks/AAPL/price"):
        caplog.clear()
        answer = asyncio.run(asgi(app, path, headers={"X-Request-ID": "find-me"}))
        assert answer.status == 500
        assert error_of(answer) == {
            "code": "internal_error",
            "message": "the server failed; its log has this request id",
            "details": {},
            "request_id": "find-me",
        }
        assert "find-me" in caplog.text
        assert "AttributeError" in caplog.text


@pytest.mark.parametrize("symbol", ["AAPL", "BTC/USD", "BRK.B", "EUR/USD", "NEWCO", "AAPLX", "", "Ünknown", "a/price"])
def test_the_hot_doors_answer_as_the_routes_do(door: Door, symbol: str) -> None:
    headers = {"X-Request-ID": "same"}

    async def both(path: str) -> tuple[Answer, Answer]:
        hot = await asgi(door.app, path, headers=headers)
        try:
            slow = await asgi(door.app.router, path, headers=headers)
        except Exception as error:  # noqa: BLE001 - the routes raise, the application answers
            return hot, Answer(0, {}, str(error).encode())
        return hot, slow

    for path in (f"/api/v1/market-data/quote/{symbol}", f"/stocks/{symbol}/price"):
        hot, slow = door.run(both(path))
        if slow.status:
            assert (hot.status, hot.body) == (200, slow.body)
            assert hot.headers == {**slow.headers, "x-request-id": "same"}
        else:
            assert hot.status in (404, 503)
            assert error_of(hot)["message"] == slow.body.decode()


def test_only_exact_requests_take_the_hot_doors(door: Door) -> None:
    for path in ("/stocks/price", "/stocks", "/api/v1/market-data/quote", "/stocks/AAPL/price/"):
        assert error_of(door.get(path))["code"] == "not_found"


def test_metrics_are_prometheus_text(door: Door) -> None:
    answer = door.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    assert 'marketd_ticks_accepted_total{source="venue"} 14.0' in lines
    assert 'marketd_ticks_quarantined_total{reason="non_positive",source="venue"} 1.0' in lines
    assert 'marketd_ticks_flagged_total{flag="crossed",source="venue"} 1.0' in lines


def test_health_names_sources_store_and_cache(door: Door) -> None:
    health = door.get("/health").json
    assert (health["status"], health["time"], health["uptime_s"]) == ("ok", "2026-11-20T14:32:10Z", 100.0)
    assert (health["symbols"], health["store"]["state"], health["cache"]["kind"]) == (6, "ok", "memory")
    venue, paper = health["sources"]
    assert (venue["name"], venue["state"], venue["simulated"], venue["ticks"]) == ("venue", "streaming", False, 15)
    assert (paper["name"], paper["connected"], paper["simulated"]) == ("paper", True, True)


# --- pages -----------------------------------------------------------------------------------------------------


def test_the_root_is_json_for_programs_and_a_page_for_browsers(door: Door) -> None:
    for accept in ("*/*", "application/json", "application/json, text/html"):
        answer = door.get("/", Accept=accept)
        assert (answer.headers["content-type"], answer.headers["vary"]) == ("application/json", "Accept")
        assert answer.json["service"] == "marketd"
    listed = {(e["method"], e["path"]) for e in answer.json["endpoints"]}
    assert listed == {(op.method, op.path) for op in OPERATIONS} | {
        ("WS", "/ws/{symbol}"),
        ("WS", "/api/v1/market-data/stream"),
    }
    page = door.get("/", Accept=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == POLICY
    assert (page.headers["vary"], page.headers["x-content-type-options"]) == ("Accept", "nosniff")


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.9, application/json;q=0.8", True),
        ("text/html;q=0.8, application/json", False),
        ("application/json, text/html", False),
        ("text/html, application/json", True),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_html_or_json_by_quality_then_by_order(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


def test_without_a_built_page_a_plain_one_says_so_and_shows_quotes(door: Door, tmp_path: Path) -> None:
    async def page() -> str:
        return bytes((await live_page(door.server, tmp_path)).body).decode()

    text = door.run(page())
    assert "make web" in text
    assert '<meta http-equiv="refresh" content="2">' in text
    assert (
        "<tr><td>AAPL</td><td class=n>152.0</td><td class=n>151.5</td><td class=n>152.5</td>"
        "<td>2026-11-20T14:32:09Z</td><td>venue</td></tr>"
    ) in text
    assert (
        "<tr class=stale><td>BRK.B</td><td class=n>–</td><td class=n>480.0</td><td class=n>480.0</td>"
        "<td>2026-11-20T14:30:40Z (stale)</td><td>venue</td></tr>"
    ) in text
    assert "<td>no quote yet</td>" in text
    assert "<td>paper (simulated)</td>" in text
    assert not re.search(r"(src|href)=.(https?:)?//", text)


def test_without_a_built_reference_a_plain_list_of_every_door(door: Door, tmp_path: Path) -> None:
    document = door.get("/schema/openapi.json").json
    text = bytes(asyncio.run(docs_page(document, tmp_path)).body).decode()
    for operation in OPERATIONS:
        assert f"<code>{operation.method} {operation.path}</code>" in text
    assert "one of 1s, 1m, 5m, 10m, 15m, 30m, 1h, 4h, 1d, 1w" in text
    assert door.get("/docs").headers["content-security-policy"] == POLICY


def test_built_pages_are_served_and_hashed_files_are_kept_for_ever(door: Door, tmp_path: Path) -> None:
    app = Router([static_route(tmp_path)])

    async def ask(path: str) -> Answer:
        return await asgi(app, path)

    (tmp_path / "index.html").write_text("<p>live</p>")
    (tmp_path / "docs.html").write_text("<p>reference</p>")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "index-BLOOzfU7.js").write_text("let x = 1")
    (tmp_path.parent / "secret.txt").write_text("not yours")

    async def file_of(response: Any) -> Answer:
        return await asgi(response, "/")

    live = door.run(file_of(door.run(live_page(door.server, tmp_path))))
    assert (live.body, live.headers["cache-control"]) == (b"<p>live</p>", "no-cache")
    assert (live.headers["content-security-policy"], live.headers["vary"]) == (POLICY, "Accept")
    reference = door.run(file_of(door.run(docs_page({}, tmp_path))))
    assert reference.body == b"<p>reference</p>"

    script = door.run(ask("/static/assets/index-BLOOzfU7.js"))
    assert (script.body, script.headers["cache-control"]) == (b"let x = 1", "public, max-age=31536000, immutable")
    assert "javascript" in script.headers["content-type"]
    assert door.run(ask("/static/index.html")).headers["cache-control"] == "no-cache"
    with pytest.raises(Exception, match="404"):
        door.run(ask("/static/../secret.txt"))


# --- anything at all -------------------------------------------------------------------------------------------

TEXT = st.text(max_size=30) | st.sampled_from(
    ["AAPL", "1m", "1d", "2026-11-20", "2026-11-20T14:30:00Z", "1", "50000", "mid", "max", "AAPL,BTC/USD", "%00", "+"]
)
NAMES = sorted({param.name for op in OPERATIONS for param in op.params})


def documented(operation: Operation, answer: Answer) -> None:
    if answer.status == 200:
        return
    assert answer.status in operation.statuses
    error_of(answer)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operation=st.sampled_from([op for op in OPERATIONS if op.method == "GET"]),
    symbol=TEXT,
    query=st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), TEXT), max_size=4),
)
def test_no_query_makes_a_get_fail_in_another_way_than_documented(
    door: Door, operation: Operation, symbol: str, query: list[tuple[str, str]]
) -> None:
    path = operation.path.replace("{symbol}", quote(symbol, safe=""))
    answer = door.get(f"{path}?{urlencode(query)}" if query else path)
    if "\n" in symbol and operation.takes_symbol:
        assert answer.status in (404, 422)  # no route has a line break
        error_of(answer)
    else:
        documented(operation, answer)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_any_path_is_answered(door: Door, path: str) -> None:
    answer = door.get("/" + path.lstrip("/"))
    if answer.status != 200:
        assert answer.status in (404, 422, 503)
        error_of(answer)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.just("symbols") | st.text(max_size=5), inner, max_size=3)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_batch_is_answered(door: Door, body: bytes) -> None:
    (batch,) = (op for op in OPERATIONS if op.path == "/stocks/batch")
    documented(batch, door.request("POST", "/stocks/batch", body))
