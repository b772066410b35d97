"""The pages, seen by a real browser on the real server: prices move, candles are drawn, and nothing else is asked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need the playwright package")

pytestmark = pytest.mark.browser


_REPO = Path(__file__).resolve().parents[2]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_WAIT_MS = 20_000
sync_api.expect.set_options(timeout=_WAIT_MS)
_PRICE = re.compile(r"^\d+\.\d{2,}$")


@dataclass
class Visit:
    """One page of the browser, with all that it complained of and every host that it asked."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def text(self, testid: str) -> str:
        return str(self.page.get_by_test_id(testid).inner_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no browser is here: none of {', '.join(_BROWSERS)} is on the PATH")
    if not (_REPO / "src" / "marketd" / "api" / "static" / "index.html").is_file():
        pytest.skip("the web pages are not built; `python web/build.py` builds them")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def artifacts() -> Path:
    folder = _REPO / "test-artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1400, "height": 800}, color_scheme="dark")
    context.set_default_timeout(_WAIT_MS)
    page = context.new_page()
    visit = Visit(page)

    def heard(message: Any) -> None:
        if message.type in {"error", "warning"}:
            visit.complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: visit.hosts.add(urlsplit(socket.url).netloc))
    yield visit
    context.close()


def test_prices_move_and_a_click_draws_the_chart(server: Any, visit: Visit, artifacts: Path) -> None:
    page = visit.page
    page.goto(server.url)
    sync_api.expect(page.get_by_test_id("status")).to_have_text("connected")
    first = page.locator("[data-testid^='row-'][data-state='live']").first
    first.wait_for()
    symbol = first.get_attribute("data-symbol")

    last = page.get_by_test_id(f"last-{symbol}")
    sync_api.expect(last).to_have_text(_PRICE)
    price = last.inner_text()
    sync_api.expect(last).not_to_have_text(price)
    sync_api.expect(last).to_have_text(_PRICE)
    bid, ask = page.evaluate(
        "symbol => ['bid', 'ask'].map(side => "
        "Number(document.querySelector(`[data-testid='${side}-${symbol}']`).textContent))",
        symbol,
    )
    assert 0 < bid < ask

    # A symbol that is not shown already, so that the click is what draws.
    chosen = page.locator("[data-testid^='row-'][data-state='live']:not([aria-current])").first.get_attribute(
        "data-symbol"
    )
    page.get_by_test_id(f"row-{chosen}").click()
    chart = page.get_by_test_id("chart")
    sync_api.expect(chart).to_have_attribute("data-symbol", chosen)
    sync_api.expect(chart).to_have_attribute("data-state", "drawn")
    assert page.get_by_test_id(f"row-{chosen}").get_attribute("aria-current") == "true"
    page.wait_for_function(_HAS_CANDLE)

    sync_api.expect(page.get_by_test_id("source-simulator")).to_contain_text("streaming")
    sync_api.expect(page.get_by_test_id("rate")).to_have_text(re.compile(r"^[1-9][\d,]* msg/s$"))
    page.screenshot(path=artifacts / "live-page.png")
    assert visit.complaints == []
    assert visit.hosts == {urlsplit(server.url).netloc}


def test_the_filter_leaves_the_symbols_that_match(server: Any, visit: Visit) -> None:
    page = visit.page
    page.goto(server.url)
    page.locator("[data-testid^='row-']").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("aap")
    sync_api.expect(page.locator("[data-testid^='row-']")).to_have_count(1)
    sync_api.expect(page.get_by_test_id("row-AAPL")).to_be_visible()


def test_rows_turn_stale_when_their_quotes_stop(server: Any, visit: Visit) -> None:
    page = visit.page
    held = [False]

    def route(socket: Any) -> None:
        def forward(message: str) -> None:
            if not (held[0] and '"quote_update"' in message):
                socket.send(message)

        socket.connect_to_server().on_message(forward)

    page.route_web_socket(re.compile("/market-data/stream$"), route)
    page.goto(server.url)
    row = page.locator("[data-testid^='row-'][data-state='live']").first
    row.wait_for()
    symbol = row.get_attribute("data-symbol")
    held[0] = True
    sync_api.expect(page.get_by_test_id(f"row-{symbol}")).to_have_attribute("data-state", "stale")
    sync_api.expect(page.get_by_test_id(f"age-{symbol}")).to_have_text(re.compile(r"^stale \d"))
    sync_api.expect(page.get_by_test_id("status")).to_have_text("connected")
    held[0] = False
    sync_api.expect(page.get_by_test_id(f"row-{symbol}")).to_have_attribute("data-state", "live")


def test_a_lost_server_is_said_and_comes_back_by_itself(server: Any, visit: Visit) -> None:
    page = visit.page
    sockets: list[Any] = []
    # The browser's own end of the socket goes through the test, which can drop it and refuse the next.
    refuse = [False]

    def route(socket: Any) -> None:
        if refuse[0]:
            socket.close(code=1013, reason="refused by the test")
            return
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket(re.compile("/market-data/stream$"), route)
    page.goto(server.url)
    sync_api.expect(page.get_by_test_id("status")).to_have_text("connected")
    refuse[0] = True
    sockets[-1].close(code=1012, reason="dropped by the test")
    banner = page.get_by_test_id("banner")
    sync_api.expect(banner).to_contain_text("The server does not answer")
    sync_api.expect(page.get_by_test_id("status")).to_have_text(re.compile("reconnecting|connecting"))
    refuse[0] = False
    sync_api.expect(page.get_by_test_id("status")).to_have_text("connected")
    sync_api.expect(banner).to_be_hidden()
    row = page.locator("[data-testid^='row-'][data-state='live']").first
    row.wait_for()
    last = page.get_by_test_id(f"last-{row.get_attribute('data-symbol')}")
    price = last.inner_text()
    sync_api.expect(last).not_to_have_text(price)


def test_the_api_reference_works_without_another_host(server: Any, visit: Visit, artifacts: Path) -> None:
    page = visit.page
    page.goto(f"{server.url.rstrip('/')}/docs")
    health = page.locator(".opblock", has=page.locator("[data-path='/health']"))
    health.locator(".opblock-summary-control").click()
    health.get_by_role("button", name="Execute").click()
    sync_api.expect(health.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    page.screenshot(path=artifacts / "api-reference.png")
    assert visit.complaints == []
    assert visit.hosts == {urlsplit(server.url).netloc}


# Drawn means pixels: one of the chart's canvases has the colour of a rise or of a fall, which only bars bring.
_HAS_CANDLE = """() => {
  const style = getComputedStyle(document.documentElement);
  const wanted = ["--up", "--down"].map((name) => {
    const hex = style.getPropertyValue(name).trim();
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
  return [...document.querySelectorAll("[data-testid='chart'] canvas")].some((canvas) => {
    if (canvas.width === 0 || canvas.height === 0) return false;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < data.length; at += 4) {
      if (wanted.some((rgb) => rgb.every((value, i) => Math.abs(value - data[at + i]) < 3))) return true;
    }
    return false;
  });
}"""
