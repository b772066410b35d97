"""The provider of `docs/add-a-provider.md`: held to the contract over a server that answers as its documentation says,
and found by its entry point when it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import pytest
from aiohttp import web

from marketd.config import load_config
from marketd.errors import InvalidInput
from marketd.model import parse_ns
from marketd.sources import registry
from marketd.sources.contract import ProviderDeps
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, RequestConformance, RequestHarness
from marketd.testing.providers.misbehave import Misbehaviour

_PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "provider_package"
NOW_NS = parse_ns("2024-11-25T17:00:00Z")
LATEST = {"amount": 1.0, "base": "EUR", "date": "2024-11-25", "rates": {"USD": 1.0495}}
SERIES = {
    "amount": 1.0,
    "base": "EUR",
    "start_date": "1999-01-04",
    "end_date": "1999-01-06",
    "rates": {"1999-01-04": {"USD": 1.1789}, "1999-01-05": {"USD": 1.179}, "1999-01-06": {"USD": 1.1743}},
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package as an installation leaves it: importable, with its entry points."""
    info = tmp_path / "frankfurter_marketd-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frankfurter-marketd\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[marketd.sources]\nfrankfurter = frankfurter_marketd:ENTRY\n")
    monkeypatch.syspath_prepend(str(_PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._brought.cache_clear()
    yield tmp_path
    registry._brought.cache_clear()


class TestFrankfurter(RequestConformance):
    @asynccontextmanager
    async def make(self):
        misbehaviour = Misbehaviour()

        async def answer(request: web.Request) -> web.Response:
            if request.query.get("symbols") != "USD" or request.query.get("base") != "EUR":
                return web.json_response({"message": "not found"}, status=404)
            return web.json_response(LATEST if request.path == "/latest" else SERIES)

        app = web.Application(middlewares=[misbehaviour.middleware])
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = HttpConfig(
            retry=ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0),
            retry_after_max_s=0.0,
            requests_per_s=1e6,
            timeout_s=0.3,
            body_max_bytes=500_000,
        )
        entry = registry.provider_entry("frankfurter")
        config = entry.config(rest_url=f"http://127.0.0.1:{runner.addresses[0][1]}", http=http)
        clock = ManualClock(NOW_NS)
        provider = entry.build(config, ProviderDeps(clock=clock, metrics=Metrics()))
        try:
            yield RequestHarness(
                provider=provider,
                symbol="EURUSD",
                unknown_symbol="EURXXX",
                misbehaviour=misbehaviour,
                clock=clock,
                quote=(None, None, 1.0495),
                series="EURUSD",
            )
        finally:
            await provider.close()
            await runner.cleanup()

    def test_fixings_are_those_of_their_days(self) -> None:
        async def body(h: RequestHarness) -> None:
            got = await h.provider.macro.observations("EURUSD")
            assert got["value"].to_pylist() == [1.1789, 1.179, 1.1743]
            assert [str(ts)[:10] for ts in got["ts"].to_pylist()] == ["1999-01-04", "1999-01-05", "1999-01-06"]

        self._run(body)


def test_an_installed_package_is_a_section_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "marketd.yaml"
    file.write_text("sources: {frankfurter: {symbols: [EURUSD]}}\n")
    config = load_config(file, {})
    assert config.sources.providers["frankfurter"].symbols == ("EURUSD",)
    assert "frankfurter" in registry.provider_names()
    with pytest.raises(InvalidInput, match="rest_url"):
        type(config.sources.providers["frankfurter"])(rest_url="ftp://x")


def test_the_package_names_the_entry_point_that_is_tested() -> None:
    text = (_PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."marketd.sources"]\nfrankfurter = "frankfurter_marketd:ENTRY"' in text
    assert (
        metadata.entry_points(group="marketd.sources", name="frankfurter")["frankfurter"].load().name == "frankfurter"
    )


def test_a_server_of_another_process_finds_it(installed: Path) -> None:
    code = "from marketd.sources.registry import provider_entry; print(provider_entry('frankfurter').name)"
    path = os.pathsep.join([str(_PACKAGE), str(installed)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "frankfurter\n"
