"""The whole server over two providers: the one whose key is refused, and the next one, which takes over."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from marketd.testing.providers.finnhub import FinnhubSimulator
from marketd.testing.providers.yahoo import YahooSimulator

KEY = "simulated-finnhub-key"
WRONG = "invalid-key-of-nobody"


@pytest.fixture
def simulators() -> Iterator[tuple[FinnhubSimulator, YahooSimulator]]:
    """Both, in a thread of their own."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    made: list[Any] = []
    over = asyncio.Event()

    async def serve() -> None:
        async with FinnhubSimulator(["AAPL"], api_key=KEY) as finnhub, YahooSimulator(["AAPL", "MSFT"]) as yahoo:
            made.extend((finnhub, yahoo))
            ready.set()
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    yield made[0], made[1]
    loop.call_soon_threadsafe(over.set)
    thread.join(20)


def ask(url: str, method: str = "GET") -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "not within its time"
        time.sleep(0.05)


def capability(stats: Any, provider: str, name: str) -> Any:
    (found,) = (p for p in stats["providers"] if p["provider"] == provider)
    (one,) = (c for c in found["capabilities"] if c["capability"] == name)
    return one


def test_a_key_that_becomes_invalid_is_taken_up_and_the_next_provider_serves(
    start_server, simulators, tmp_path: Path
) -> None:
    finnhub, yahoo = simulators
    keys = tmp_path / "keys.env"
    keys.write_text(f"FINNHUB_API_KEY={KEY}\n")
    config = {
        "sources": {
            "finnhub": {"rest_url": finnhub.rest_url, "ws_url": finnhub.ws_url, "symbols": ["AAPL"]},
            "yahoo": {
                "transport": "aiohttp",
                "rest_url": yahoo.rest_url,
                "cookie_url": yahoo.cookie_url,
                "ws_url": yahoo.ws_url,
                "symbols": ["AAPL"],
            },
        },
        "calendars": {"symbols": {"*": "24/7"}},
        "routing": {"policies": {"quotes_l1": ["finnhub", "yfinance"], "stream_quotes": ["finnhub", "yahoo"]}},
    }
    running = start_server(config=json.dumps(config), MARKETD_ENV_FILE=str(keys))
    stats = until(lambda: ask(f"{running.url}/stats/providers")[1])
    assert capability(stats, "finnhub", "quotes_l1")["state"] == "available"
    status, reply = ask(f"{running.url}/ops/validate", "POST")
    assert (status, reply) == (200, {"applied": False, "changed": [], "needs_restart": []})

    keys.write_text(f"FINNHUB_API_KEY={WRONG}\n")
    assert ask(f"{running.url}/ops/validate", "POST")[1]["changed"] == ["sources.finnhub"]
    status, reply = ask(f"{running.url}/ops/reload", "POST")
    assert (status, reply["applied"], reply["changed"]) == (200, True, ["sources.finnhub"])
    price = until(lambda: (found := ask(f"{running.url}/stocks/AAPL/price"))[1].get("source") == "yahoo" and found)
    assert price[0] == 200
    # One that nobody streams is asked of who has it, and the refused one is told with its reason.
    status, reply = ask(f"{running.url}/stocks/MSFT/price")
    assert (status, reply["source"]) == (200, "yahoo")
    refused = until(
        lambda: (
            (c := capability(ask(f"{running.url}/stats/providers")[1], "finnhub", "quotes_l1"))["state"]
            == "not_entitled"
            and c
        )
    )
    assert "401" in refused["reason"] or "key" in refused["reason"].lower()
    assert not refused["chosen"]
    assert capability(ask(f"{running.url}/stats/providers")[1], "yahoo", "quotes_l1")["chosen"]

    # A mistake changes nothing.
    keys.write_text("no assignment\n")
    status, reply = ask(f"{running.url}/ops/reload", "POST")
    assert (status, reply["error"]["code"]) == (422, "invalid_config")
    assert ask(f"{running.url}/stocks/MSFT/price")[0] == 200
    running.stop()
    said = "\n".join(running.output)
    assert KEY not in said
    assert WRONG not in said


def test_options_and_names_are_asked_of_the_providers(start_server, simulators) -> None:
    _, yahoo = simulators
    settings = {
        "transport": "aiohttp",
        "rest_url": yahoo.rest_url,
        "cookie_url": yahoo.cookie_url,
        "ws_url": yahoo.ws_url,
        "symbols": ["AAPL"],
    }
    running = start_server(config=json.dumps({"sources": {"yahoo": settings}}))
    market = f"{running.url}/api/v1/market-data"
    status, reply = ask(f"{market}/options/AAPL/expiries")
    assert (status, reply["source"]) == (200, "yahoo")
    status, chain = ask(f"{market}/options/AAPL?expiry={reply['expiries'][-1]}")
    assert (status, chain["expiry"]) == (200, reply["expiries"][-1])
    assert {c["right"] for c in chain["contracts"]} == {"call", "put"}
    assert ask(f"{market}/options/AAPL?expiry=soon")[1]["error"]["details"]["field"] == "expiry"
    status, reply = ask(f"{market}/options/NOSUCH9/expiries")
    assert (status, reply["error"]["code"]) == (404, "symbol_not_found")
    status, reply = ask(f"{market}/symbols/mappings?q=aapl")
    assert {"symbol": "AAPL", "provider": "yahoo", "provider_symbol": "AAPL"} in reply["mappings"]
