"""The wire format of Finnhub as a local server: REST and WebSocket on one port.

Owns a seeded market (trades, and what follows from them: quotes and candles; option chains) and Finnhub's manners: one
stream a key, a limit of symbols, premium paths, zeros for what it does not know. Shares no code with
`marketd.sources.finnhub`, so that one can be tested by the other. Symbols are Finnhub's names.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["FinnhubSimulator", "FinnhubTrade"]

_RESOLUTIONS = {"1": 60, "5": 300, "15": 900, "30": 1_800, "60": 3_600, "D": 86_400}
_NEW_YORK = ZoneInfo("America/New_York")
_PREMIUM = "You don't have access to this resource."
_LIMIT = "API limit reached. Please try again later. Remaining Limit: 0"
_OUTBOX_MAX = 10_000
_BASE = "/api/v1{slashes:/+}"
"""Finnhub does not mind more slashes than one; its own client sends two."""
_NO_QUOTE = {"c": 0, "d": None, "dp": None, "h": 0, "l": 0, "o": 0, "pc": 0, "t": 0}


@dataclass(frozen=True)
class FinnhubTrade:
    """size 0: a price of currencies, nothing traded."""

    time_ms: int
    price: float
    size: float

    def tick(self, symbol: str) -> dict[str, Any]:
        """As the stream writes it."""
        codes: dict[str, Any] = {"c": ["1", "12"]} if ":" not in symbol else {"c": None}
        return {**codes, "p": self.price, "s": symbol, "t": self.time_ms, "v": self.size}


class _Market:
    """One symbol. Its figures of the day are of the UTC day."""

    def __init__(self, symbol: str, seed: int) -> None:
        self.symbol = symbol
        self.rng = random.Random(f"{seed}:{symbol}")
        self.is_currency = symbol.startswith("OANDA:")
        self.digits = 5 if self.is_currency else 2
        self.price = round(1 + self.rng.random() if self.is_currency else self.rng.uniform(20, 500), self.digits)
        self.trades: list[FinnhubTrade] = []

    def trade(self, time_ms: int, price: float | None, size: float | None) -> FinnhubTrade:
        if price is None:
            price = max(round(self.price * (1 + self.rng.uniform(-0.0005, 0.0005)), self.digits), 0.01)
        if size is None:
            size = 0 if self.is_currency else self.rng.randint(1, 500)
        if self.trades:
            time_ms = max(time_ms, self.trades[-1].time_ms)
        self.price = price
        self.trades.append(FinnhubTrade(time_ms, price, size))
        return self.trades[-1]

    def quote(self) -> dict[str, Any]:
        last = self.trades[-1]
        midnight_ms = last.time_ms // 86_400_000 * 86_400_000
        today = [trade.price for trade in self.trades if trade.time_ms >= midnight_ms]
        before = next((trade.price for trade in reversed(self.trades) if trade.time_ms < midnight_ms), today[0])
        return {
            "c": last.price,
            "d": round(last.price - before, 4),
            "dp": round((last.price / before - 1) * 100, 4),
            "h": max(today),
            "l": min(today),
            "o": today[0],
            "pc": before,
            "t": last.time_ms // 1_000,
        }

    def candles(self, seconds: int, start_s: int, end_s: int) -> dict[str, Any]:
        """Those that start within start_s <= t <= end_s, the running one too."""
        found: dict[int, list[FinnhubTrade]] = {}
        for trade in self.trades:
            begin = trade.time_ms // 1_000 // seconds * seconds
            if start_s <= begin <= end_s:
                found.setdefault(begin, []).append(trade)
        if not found:
            return {"s": "no_data"}
        groups = [found[begin] for begin in sorted(found)]
        return {
            "c": [group[-1].price for group in groups],
            "h": [max(trade.price for trade in group) for group in groups],
            "l": [min(trade.price for trade in group) for group in groups],
            "o": [group[0].price for group in groups],
            "s": "ok",
            "t": sorted(found),
            "v": [sum(trade.size for trade in group) for group in groups],
        }

    def chain(self, today: date) -> list[dict[str, Any]]:
        """The last Friday, which has passed, and the next three; five strikes each."""
        friday = today + timedelta(days=(4 - today.weekday()) % 7)
        rng = random.Random(f"{self.symbol}:{today}")
        middle = round(self.price / 5) * 5
        expiries = []
        for expiry in (friday + timedelta(weeks=week) for week in range(-1, 3)):
            contracts: dict[str, list[dict[str, Any]]] = {"CALL": [], "PUT": []}
            for strike in range(middle + 10, middle - 11, -5):
                for right, rows in contracts.items():
                    bid = 0.0 if strike == middle + 10 else round(rng.uniform(1, 20), 2)
                    rows.append(
                        {
                            "contractName": f"{self.symbol}{expiry:%y%m%d}{right[0]}{strike * 1_000:08d}",
                            "contractSize": "REGULAR",
                            "contractPeriod": "WEEKLY",
                            "currency": "USD",
                            "type": right,
                            "inTheMoney": "FALSE",
                            "lastTradeDateTime": f"{today:%Y-%m-%d} 15:00:00",
                            "expirationDate": f"{expiry:%Y-%m-%d}",
                            "strike": strike,
                            "lastPrice": round(bid + 0.03, 2),
                            "bid": bid,
                            "ask": round(bid + 0.05, 2),
                            "volume": rng.randint(0, 900) or None,
                            "openInterest": rng.randint(0, 9_000),
                            "impliedVolatility": round(rng.uniform(15, 60), 4),
                            "delta": round(rng.uniform(0, 1) * (1 if right == "CALL" else -1), 4),
                            "gamma": round(rng.uniform(0, 0.05), 4),
                            "theta": round(-rng.uniform(0, 0.5), 4),
                            "vega": round(rng.uniform(0, 0.5), 4),
                            "rho": round(rng.uniform(-0.5, 0.5), 4),
                        }
                    )
            expiries.append({"expirationDate": f"{expiry:%Y-%m-%d}", "optionsCount": 10, "options": contracts})
        return expiries


@dataclass(eq=False)
class _Client:
    request: web.Request
    symbols: dict[str, None] = field(default_factory=dict)
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class FinnhubSimulator:
    """Use as an async context; then `rest_url` and `ws_url` are known.

    The history before the start is `history_minutes` long, a fifth of its minutes without a trade, and the same for the
    same seed and clock. trade_interval_s: a random trade of every symbol so often; None, only `trade` makes them.
    paid: whether the key may have candles and chains. requests_per_minute: None for no limit. symbols_max: of a stream.
    second_connection: what becomes of a second stream of the key, and the first. unknown: what is said of a
    subscription to a symbol that it does not have. daily_stamp: where a daily candle's midnight is. misbehaviour: of
    its requests.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("AAPL", "MSFT", "OANDA:EUR_USD", "BINANCE:BTCUSDT"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        api_key: str = "simulated-finnhub-key",
        trade_interval_s: float | None = None,
        ping_interval_s: float = 60.0,
        history_minutes: int = 60,
        paid: bool = True,
        requests_per_minute: int | None = None,
        symbols_max: int = 50,
        second_connection: Literal["refused", "ends_first", "ends_both"] = "ends_first",
        unknown: Literal["silent", "error", "error_with_name"] = "silent",
        daily_stamp: Literal["new_york", "utc"] = "new_york",
    ) -> None:
        self.misbehaviour = Misbehaviour()
        self.api_key = api_key
        self.paid = paid
        self.symbols_max = symbols_max
        self._clock = clock or SystemClock()
        self._port = port
        self._trade_interval_s = trade_interval_s
        self._ping_interval_s = ping_interval_s
        self._requests_per_minute = requests_per_minute
        self._second_connection = second_connection
        self._unknown = unknown
        self._daily_stamp = daily_stamp
        self._markets = {symbol: _Market(symbol, seed) for symbol in symbols}
        self._clients: list[_Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._muted = False
        self._minute = 0
        self._asked = 0
        self._refusals = 0
        self._refusal: tuple[int, str] = (500, "")
        self.requests: deque[str] = deque(maxlen=1_000)
        """Path and query of the REST requests, oldest first."""
        self.commands: deque[dict[str, Any]] = deque(maxlen=1_000)
        """What clients sent over WebSocket, oldest first."""
        self.handshakes = 0
        """How often a stream was asked for."""
        first_minute = self._now_ms() // 60_000 - history_minutes
        for market in self._markets.values():
            for minute in range(first_minute, first_minute + history_minutes):
                if minute == first_minute or market.rng.random() >= 0.2:
                    for offset in sorted(market.rng.randrange(60_000) for _ in range(market.rng.randint(1, 5))):
                        market.trade(minute * 60_000 + offset, None, None)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    async def __aenter__(self) -> Self:
        await self.come_back()
        self._tasks = [asyncio.create_task(self._ping())]
        if self._trade_interval_s is not None:
            self._tasks.append(asyncio.create_task(self._trade_by_itself(self._trade_interval_s)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.go_down()
        for task in self._tasks:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api/v1"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/"

    @property
    def connections(self) -> int:
        """WebSocket clients connected now."""
        return len(self._clients)

    @property
    def subscribed(self) -> set[str]:
        """Symbols that any client follows now."""
        return {symbol for client in self._clients for symbol in client.symbols}

    # Commands

    def trade(self, symbol: str, *, price: float | None = None, size: float | None = None) -> FinnhubTrade:
        """Execute one trade now and tell the subscribers; what is not given is drawn."""
        trade = self._markets[symbol].trade(self._now_ms(), price, size)
        self._tell([(symbol, trade)])
        return trade

    def burst(self, symbols: Sequence[str]) -> list[tuple[str, FinnhubTrade]]:
        """One drawn trade of each, told in one message."""
        trades = [(symbol, self._markets[symbol].trade(self._now_ms(), None, None)) for symbol in symbols]
        self._tell(trades)
        return trades

    def trades(self, symbol: str) -> list[FinnhubTrade]:
        """Every trade so far, oldest first."""
        return list(self._markets[symbol].trades)

    def chain(self, symbol: str) -> list[dict[str, Any]]:
        """The chain as it is sent: a list of expiries."""
        today = datetime.fromtimestamp(self._now_ms() // 1_000, UTC).astimezone(_NEW_YORK).date()
        return self._markets[symbol].chain(today)

    def drop_connections(self) -> None:
        """Cut every WebSocket without a goodbye."""
        for client in self._clients:
            client.cut()

    async def go_down(self) -> None:
        """Cut every connection and refuse new ones until `come_back`. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.drop_connections()
            await runner.cleanup()

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        app = web.Application(middlewares=[self.misbehaviour.middleware, self._guard])
        app.add_routes(
            [
                web.get("/", self._stream),
                web.get(f"{_BASE}quote", self._quote),
                web.get(f"{_BASE}{{market:stock|forex|crypto}}/candle", self._candle),
                web.get(f"{_BASE}stock/option-chain", self._chain),
                web.get(f"{_BASE}stock/symbol", self._list),
                web.get(f"{_BASE}{{unknown:.*}}", self._moved),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self._runner = runner

    def mute(self, *, muted: bool = True) -> None:
        """Say nothing more over WebSocket, not even pings, and keep the connections open."""
        self._muted = muted

    def inject(self, raw: str) -> None:
        """Send this text to every WebSocket client as it is."""
        for client in self._clients:
            client.outbox.put_nowait(raw)

    def refuse(self, requests: int, status: int, body: str) -> None:
        """Answer the next REST requests so."""
        self._refusals = requests
        self._refusal = (status, body)

    # WebSocket

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        if not socket.can_prepare(request).ok:
            return _moved()
        self.handshakes += 1
        if request.query.get("token") != self.api_key:
            return web.Response(status=401, text="Invalid API key")
        if self._clients and self._second_connection == "refused":
            return web.Response(status=429, text="too many connections")
        first = list(self._clients)
        await socket.prepare(request)
        client = _Client(request)
        self._clients.append(client)
        for other in first:
            other.cut()
        if first and self._second_connection == "ends_both":
            client.cut()
        writer = asyncio.create_task(self._write(client, socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._obey(client, message.data)
        finally:
            self._clients.remove(client)
            writer.cancel()
            await asyncio.wait([writer])
        if not writer.cancelled() and not isinstance(failure := writer.exception(), ConnectionError | None):
            raise failure
        return socket

    async def _write(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.send_str(await client.outbox.get())

    def _obey(self, client: _Client, text: str) -> None:
        try:
            request = msgspec.json.decode(text, type=dict[str, str])
        except msgspec.DecodeError:
            self._say(client, {"msg": "Invalid message", "type": "error"})
            return
        self.commands.append(request)
        kind, symbol = request.get("type"), request.get("symbol", "")
        if kind == "unsubscribe":
            client.symbols.pop(symbol, None)
        elif kind != "subscribe":
            self._say(client, {"msg": "Invalid message", "type": "error"})
        elif symbol not in self._markets and self._unknown != "silent":
            named = f": {symbol}" if self._unknown == "error_with_name" else ""
            self._say(client, {"msg": f"Invalid symbol{named}", "type": "error"})
        elif symbol not in client.symbols and len(client.symbols) >= self.symbols_max:
            self._say(client, {"msg": "Subscribing to too many symbols", "type": "error"})
        else:
            client.symbols[symbol] = None

    def _tell(self, trades: Sequence[tuple[str, FinnhubTrade]]) -> None:
        for client in self._clients:
            wanted = [trade.tick(symbol) for symbol, trade in trades if symbol in client.symbols]
            if wanted:
                self._say(client, {"data": wanted, "type": "trade"})

    def _say(self, client: _Client, message: dict[str, Any]) -> None:
        if self._muted:
            return
        try:
            client.outbox.put_nowait(msgspec.json.encode(message).decode())
        except asyncio.QueueFull:
            client.cut()

    async def _ping(self) -> None:
        while True:
            await self._clock.sleep(self._ping_interval_s)
            for client in self._clients:
                self._say(client, {"type": "ping"})

    async def _trade_by_itself(self, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            self.burst(list(self._markets))

    # REST

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/api/v1/"):
            return await handler(request)
        self.requests.append(request.path_qs)
        headers, is_over = self._limits()
        if self._refusals:
            self._refusals -= 1
            status, body = self._refusal
            return web.Response(status=status, text=body, content_type="application/json", headers=headers)
        key = request.headers.get("X-Finnhub-Token") or request.query.get("token")
        if not key:
            return _error(401, "Please use an API key.", headers)
        if key != self.api_key:
            return _error(401, "Invalid API key.", headers)
        if is_over:
            return _error(429, _LIMIT, headers)
        answer = await handler(request)
        answer.headers.update(headers)
        return answer

    def _limits(self) -> tuple[dict[str, str], bool]:
        """The headers of one more request, and whether it is one too many. The minute is the clock's."""
        if self._requests_per_minute is None:
            return {}, False
        minute = self._now_ms() // 60_000
        if minute != self._minute:
            self._minute, self._asked = minute, 0
        self._asked += 1
        left = self._requests_per_minute - self._asked
        headers = {
            "X-Ratelimit-Limit": str(self._requests_per_minute),
            "X-Ratelimit-Remaining": str(max(0, left)),
            "X-Ratelimit-Reset": str((minute + 1) * 60),
        }
        return headers, left < 0

    async def _quote(self, request: web.Request) -> web.Response:
        market = self._markets.get(request.query.get("symbol", ""))
        return _json(market.quote() if market is not None and market.trades else _NO_QUOTE)

    async def _candle(self, request: web.Request) -> web.Response:
        if not self.paid:
            return _error(403, _PREMIUM)
        query = request.query
        seconds = _RESOLUTIONS.get(query.get("resolution", ""))
        try:
            start_s, end_s = int(query["from"]), int(query["to"])
        except (KeyError, ValueError):
            return _error(422, "Wrong from or to")
        if seconds is None:
            return _error(422, "Wrong resolution")
        market = self._markets.get(query.get("symbol", ""))
        path = {"OANDA": "forex", "BINANCE": "crypto", "COINBASE": "crypto"}
        if market is None or path.get(market.symbol.partition(":")[0], "stock") != request.match_info["market"]:
            return _json({"s": "no_data"})
        answer = market.candles(seconds, start_s, end_s)
        if seconds == 86_400 and self._daily_stamp == "new_york" and "t" in answer:
            days = [datetime.fromtimestamp(at, UTC).replace(tzinfo=_NEW_YORK) for at in answer["t"]]
            answer["t"] = [int(day.timestamp()) for day in days]
        return _json(answer)

    async def _chain(self, request: web.Request) -> web.Response:
        if not self.paid:
            return _error(403, _PREMIUM)
        symbol = request.query.get("symbol", "")
        if symbol not in self._markets or ":" in symbol:
            return _json({"code": "", "data": [], "exchange": ""})
        price = self._markets[symbol].price
        return _json({"code": symbol, "data": self.chain(symbol), "exchange": "US", "lastTradePrice": price})

    async def _list(self, _: web.Request) -> web.Response:
        rows = [{"symbol": symbol, "displaySymbol": symbol} for symbol in self._markets if ":" not in symbol]
        return _json(rows)

    async def _moved(self, _: web.Request) -> web.Response:
        return _moved()


def _moved() -> web.Response:
    """What Finnhub answers to a path that it does not have."""
    page = "<html><body>Found</body></html>"
    return web.Response(status=302, text=page, content_type="text/html", headers={"Location": "/"})


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


def _error(status: int, words: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json({"error": words}, status, headers)
