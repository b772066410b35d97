"""The OpenAPI document: sound in itself, the same set of doors as the routes, and true of the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from rest_door import Door
from starlette.routing import Mount, Route

from marketd.api.openapi import Operation
from marketd.api.rest import OPERATIONS


@pytest.fixture(scope="module")
def document(door: Door) -> Any:
    answer = door.get("/schema/openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json


def nodes(value: Any) -> Iterator[Any]:
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


def resolve(document: Any, reference: str) -> Any:
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


def test_every_reference_resolves_and_every_schema_is_used(document: Any) -> None:
    references = {node["$ref"] for node in nodes(document) if isinstance(node, dict) and "$ref" in node}
    for reference in references:
        assert isinstance(resolve(document, reference), dict)
    used = {reference.removeprefix("#/components/schemas/") for reference in references}
    assert used == set(document["components"]["schemas"])


def test_the_required_parts_are_there(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"]["title"] == "marketd"
    assert re.fullmatch(r"\d+\.\d+\.\d+", document["info"]["version"])
    identifiers = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            identifiers.append(operation["operationId"])
            assert operation["summary"]
            assert "default" in operation["responses"]
            assert sum(status in ("200", "202") for status in operation["responses"]) == 1
            for response in operation["responses"].values():
                assert response["description"]
                assert response["content"]
            declared = operation.get("parameters", [])
            in_path = {p["name"] for p in declared if p["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            assert len({(p["in"], p["name"]) for p in declared}) == len(declared)
            for parameter in declared:
                assert parameter["schema"]["type"] in ("string", "integer")
                assert parameter["required"] or parameter["in"] == "query"
    assert len(set(identifiers)) == len(identifiers)


def test_the_document_and_the_routes_are_the_same_doors(door: Door, document: Any) -> None:
    served = {
        (route.path.replace(":path}", "}"), method)
        for route in door.app.router.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    documented = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert served == documented
    assert [r.path for r in door.app.router.routes if isinstance(r, Mount)] == ["/static"]


EXAMPLES: dict[str, list[str]] = {
    "/api/v1/market-data/symbols": [""],
    "/api/v1/market-data/quote/{symbol}": ["AAPL", "BTC/USD", "BRK.B"],
    "/api/v1/market-data/quotes": ["?symbols=AAPL,NEWCO,AAPLX"],
    "/api/v1/market-data/historical/{symbol}": ["AAPL", "EUR/USD", "NEWCO?limit=5&from=2026-11-17", "EUR/USD?side=mid"],
    "/api/v1/market-data/versions/{symbol}": ["AAPL?ts=2026-11-18T20:58:00Z", "NEWCO?ts=2020-01-01"],
    "/api/v1/market-data/cross-section": ["?ts=2026-11-18T20:58:00Z", "?ts=2020-01-01&interval=1d"],
    "/api/v1/market-data/actions/{symbol}": ["AAPL"],
    "/api/v1/market-data/consistency/{symbol}": ["AAPL", "NEWCO?interval=1h"],
    "/api/v1/market-data/quarantine": ["", "?limit=1"],
    "/stocks/{symbol}/price": ["AAPL", "EUR/USD"],
    "/stocks/{symbol}/history": ["AAPL", "NEWCO?period=max"],
    "/stocks/{symbol}/intraday": ["AAPL", "AAPL?interval=1h"],
    "/stocks/batch": [""],
    "/ops/continuity/{symbol}": ["AAPL", "AAPL?interval=1d&from=2026-11-01&closed=yes"],
    "/ops/continuity": ["", "?interval=1d&from=2026-11-01&symbols=AAPL"],
    "/ops/backfill": [""],
    "/ops/quarantine": [""],
    "/stats/providers": [""],
    "/stats/cadence": [""],
    "/diagnostics/stream_health": [""],
    "/diagnostics/cross_checks": [""],
    "/api/v1/market-data/symbols/mappings": ["", "?q=aap"],
    "/": [""],
    "/health": [""],
    "/schema/openapi.json": [""],
}

ELSEWHERE = {
    "/api/v1/market-data/observations/{series}",
    "/ops/backfill/{id}",
    "/ops/cursor/{symbol}/{interval}/{source}",
    "/ops/reload",
    "/ops/validate",
    "/api/v1/market-data/options/{symbol}",
    "/api/v1/market-data/options/{symbol}/expiries",
}
"""Need something to be there first: see test_rest_history.py and test_rest_ops.py."""

BODIES = {
    "/stocks/batch": b'{"symbols": ["AAPL", "NEWCO"]}',
    "/ops/backfill": b'{"symbol": "AAPL", "interval": "1m", "start": "2026-11-18", "end": "2026-11-19"}',
}


def test_every_documented_type_has_an_example_here() -> None:
    assert set(EXAMPLES) | ELSEWHERE == {op.path for op in OPERATIONS if op.response is not None}


@pytest.mark.parametrize(
    ("operation", "example"),
    [(op, example) for op in OPERATIONS for example in EXAMPLES.get(op.path, [])],
    ids=lambda v: v.path if isinstance(v, Operation) else v or "-",
)
def test_answers_are_exactly_what_is_documented(door: Door, document: Any, operation: Operation, example: str) -> None:
    symbol, _, query = example.partition("?")
    path = operation.path.replace("{symbol}", symbol) + (f"?{query}" if query else "")
    body = BODIES[operation.path] if operation.body is not None else None
    answer = door.request(operation.method, path, body, {"Content-Type": "application/json"} if body else None)
    assert answer.status == operation.status
    decoded = msgspec.json.decode(answer.body, type=operation.response)
    assert msgspec.to_builtins(decoded) == answer.json  # nothing more, nothing less
    documented = document["paths"][operation.path][operation.method.lower()]["responses"][str(operation.status)][
        "content"
    ]
    assert answer.headers["content-type"] in documented


def test_allowed_words_of_the_document_are_taken_and_others_refused(door: Door, document: Any) -> None:
    tried = 0
    for operation in OPERATIONS:
        if not operation.takes_symbol:
            continue
        if "{source}" in operation.path:
            continue
        path = operation.path.replace("{symbol}", "AAPL")
        needed = {p.name: "2026-11-16" for p in operation.params if p.required}  # where bars of every length start
        for parameter in document["paths"][operation.path]["get"].get("parameters", []):
            schema = parameter["schema"]
            good = [*schema.get("enum", ()), *schema.get("examples", ())]
            good += [schema[k] for k in ("minimum", "maximum", "default") if k in schema]
            if parameter["in"] != "query":
                continue
            for value in good:
                query = urlencode(needed | {parameter["name"]: value})
                assert door.get(f"{path}?{query}").status == 200, (path, query)
                tried += 1
            if parameter["name"] not in ("prefer", "source"):  # any name is a name
                query = urlencode(needed | {parameter["name"]: "no-such-value"})
                assert door.get(f"{path}?{query}").status == 422, (path, query)
    assert tried > 20


def test_the_written_reference_names_every_door_parameter_and_error(document: Any) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "rest.md").read_text(encoding="utf-8")
    for operation in OPERATIONS:
        assert operation.path in text
        for param in operation.params:
            assert f"`{param.name}`" in text or f"?{param.name}=" in text, param.name
            for word in param.schema.get("enum", ()):
                assert word in text
        for status in operation.statuses:
            assert f"| {status} |" in text
    for code in ("bad_json", "unknown_symbol", "not_found", "method_not_allowed", "body_too_large", "invalid_input"):
        assert f"`{code}`" in text
    for code in ("no_quote_yet", "store_error", "internal_error"):
        assert f"`{code}`" in text
