"""What a drill asks of a running server, over HTTP and WebSocket."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from marketd.model import format_ns

API = "/api/v1/market-data"

Row = tuple[str, tuple[float | None, ...]]
"""status, and open, high, low, close, volume."""


class Client:
    """url: of the server, without a slash at the end."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **words: object) -> Any:
        """The JSON that is served at a path."""
        url = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(words)}" if words else "")
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def wait_for(self, path: str, accept: Callable[[Any], Any], timeout_s: float = 20.0, **words: object) -> Any:
        """Ask until `accept` says yes; the JSON it accepted. An HTTP error counts as a no."""
        deadline = time.monotonic() + timeout_s
        last: Any = None
        while time.monotonic() < deadline:
            try:
                last = self.get(path, **words)
                if accept(last):
                    return last
            except OSError as error:
                last = error
            time.sleep(0.02)
        raise AssertionError(f"{path} did not become what was waited for within {timeout_s} s; the last was {last!r}")

    def health(self, accept: Callable[[Any], Any], timeout_s: float = 20.0) -> Any:
        return self.wait_for("/health", accept, timeout_s)

    def account(self, symbol: str, start_ns: int, end_ns: int) -> Any:
        """What `/ops/continuity` says of a symbol's minutes."""
        return self.get(
            f"/ops/continuity/{symbol}", **{"interval": "1m", "from": format_ns(start_ns), "to": format_ns(end_ns)}
        )

    def bars(self, symbol: str, interval: str = "1m", start: str = "2000-01-01", **words: object) -> list[Any]:
        words = {"interval": interval, "side": "trade", "from": start, "limit": 100_000} | words
        return list(self.get(f"{API}/historical/{symbol}", **words)["bars"])

    def rows(self, symbol: str, interval: str) -> dict[str, Row]:
        """All bars by start. Fails if one is there twice."""
        bars = self.bars(symbol, interval)
        found = {bar["timestamp"]: (bar["status"], values(bar)) for bar in bars}
        assert len(found) == len(bars), f"{symbol} {interval} has a bar twice"
        return found

    def versions(self, symbol: str, ts: str, interval: str = "1m") -> list[Any]:
        return list(self.get(f"{API}/versions/{symbol}", interval=interval, side="trade", ts=ts)["versions"])


def values(bar: dict[str, Any]) -> tuple[float | None, ...]:
    return tuple(bar[name] for name in ("open", "high", "low", "close", "volume"))


class Listener:
    """Notes every bar that is announced as durable, until the connection breaks."""

    def __init__(self, url: str, symbols: Sequence[str], ready_after: int) -> None:
        self.announced: dict[tuple[str, str, str], Row] = {}
        """(symbol, interval, start) → what it was announced as last."""
        self.ready = threading.Event()
        """Set when so many final bars have been announced."""
        self._left = ready_after
        self._symbols = list(symbols)
        self._socket = connect(f"ws{url[4:]}{API}/stream", max_size=None, proxy=None)
        self._thread = threading.Thread(target=self._listen, name="listener")
        self._thread.start()

    def _listen(self) -> None:
        with self._socket as socket:
            try:
                socket.send(
                    json.dumps({"action": "subscribe", "symbols": self._symbols, "channels": ["bars_1s", "bars_1m"]})
                )
                while True:
                    self._note(json.loads(socket.recv()))
            except ConnectionClosed:
                return

    def _note(self, message: Any) -> None:
        if message["type"] != "bar_update" or message["status"] == "live":
            return
        bar = message["bar"]
        key = (message["symbol"], message["channel"].removeprefix("bars_"), bar["ts"])
        self.announced[key] = (message["status"], tuple(bar[name] for name in "ohlcv"))
        self._left -= message["status"] == "final"
        if self._left <= 0:
            self.ready.set()

    def end(self) -> dict[tuple[str, str, str], Row]:
        """What it heard. Closes the connection if it is still open."""
        self._socket.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.announced


def check_announced(client: Client, announced: dict[tuple[str, str, str], Row]) -> int:
    """Every announced bar is there, once, with its values; how many could be compared."""
    stored: dict[tuple[str, str], dict[str, Row]] = {}
    missing = []
    compared = 0
    for (symbol, interval, start), (status, expected) in announced.items():
        if (symbol, interval) not in stored:
            stored[symbol, interval] = client.rows(symbol, interval)
        found = stored[symbol, interval].get(start)
        if found is None:
            missing.append((symbol, interval, start))
        elif found[0] == status != "provisional":
            assert found[1] == expected, f"{symbol} {interval} {start} was announced with other values"
            compared += 1
        else:
            # What was changed and stored at the last moment had not been announced again yet.
            assert (status, found[0]) in {
                ("final", "corrected"),
                ("provisional", "provisional"),
                ("provisional", "corrected"),
                ("provisional", "backfill"),
            }, (symbol, interval, start, status, found)
    assert missing == [], f"{len(missing)} of {len(announced)} announced bars are gone, such as {missing[:3]}"
    return compared
