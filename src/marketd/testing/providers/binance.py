"""The wire format of Binance Spot as a local server: REST and combined or raw WebSocket streams on one port.

Owns a seeded market a symbol and the exchange's manners as its documentation tells them: weights, 1024 streams and five
messages a second a connection, silence about unknown streams, a cut after a day. Shares no code with
`marketd.sources.binance`, so that one can be tested by the other. It refuses accounts, orders and depth.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import WSMsgType, web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.crypto_market import Candle, Market, MarketTrade, Side
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["BinanceSimulator"]

_SECOND_US = 1_000_000
_LENGTHS_S = {
    "1s": 1,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "6h": 21_600,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
    "3d": 259_200,
    "1w": 604_800,
}
_MONDAY_S = 4 * 86_400
_ROWS_MAX = 1_000
_ROWS_DEFAULT = 500
_STREAMS_MAX = 1_024
_MESSAGES_PER_S = 5
_OUTBOX_MAX = 100_000
_QUOTES = ("USDT", "FDUSD", "USDC", "BTC", "ETH", "EUR")


class _Refused(Exception):
    """A request is answered with an error of the exchange."""

    def __init__(self, code: int, msg: str, status: int = 400) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.status = status


@dataclass(eq=False)
class _Client:
    request: web.Request
    combined: bool
    unit_us: int  # of its times
    streams: dict[str, None] = field(default_factory=dict)
    outbox: asyncio.Queue[str | None] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))
    heard_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_MESSAGES_PER_S + 1))

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class BinanceSimulator:
    """Use as an async context; then `rest_url` and `ws_url` are known.

    The history before the start is `history_minutes` long, a fifth of its minutes without a trade, and the same for the
    same seed and clock. tick_interval_s: a new book of every symbol so often, and a trade every other time; None, only
    `trade` and `quote` make them. recent_trades_max: so many are in `/trades`; older ones are in `/historicalTrades`.
    weight_per_minute: from there requests are refused. ping_interval_s, lifetime_s: of a WebSocket. misbehaviour: of
    its requests.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT", "SOLUSDT"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        tick_interval_s: float | None = None,
        history_minutes: int = 60,
        recent_trades_max: int = _ROWS_MAX,
        weight_per_minute: int = 6_000,
        ping_interval_s: float = 20.0,
        lifetime_s: float = 86_400.0,
    ) -> None:
        self.misbehaviour = Misbehaviour()
        self._clock = clock or SystemClock()
        self._port = port
        self._tick_interval_s = tick_interval_s
        self._recent_trades_max = recent_trades_max
        self._weight_per_minute = weight_per_minute
        self._ping_interval_s = ping_interval_s
        self._lifetime_s = lifetime_s
        self._markets = {name: Market(name, seed) for name in symbols}
        self._clients: list[_Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._muted = False
        self._skipped = 0
        self._refusals = 0
        self._refusal: tuple[int, dict[str, str]] = (429, {})
        self._stalled = asyncio.Event()
        self._stalled.set()
        self._withheld: dict[str, set[int]] = {}
        self._weights: dict[int, int] = {}  # by minute
        self.requests: deque[str] = deque(maxlen=1_000)
        """Path and query of the REST requests, oldest first."""
        self.commands: deque[dict[str, Any]] = deque(maxlen=1_000)
        """What clients sent over WebSocket, oldest first."""
        for market in self._markets.values():
            market.grow_history(history_minutes, self._now_us())

    def _now_us(self) -> int:
        return self._clock.time_ns() // 1_000

    async def __aenter__(self) -> Self:
        await self.come_back()
        if self._tick_interval_s is not None:
            self._tasks.append(asyncio.create_task(self._tick_by_itself(self._tick_interval_s)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._stalled.set()
        await self.go_down()
        for task in self._tasks:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """WebSocket clients connected now."""
        return len(self._clients)

    @property
    def subscribed(self) -> list[set[str]]:
        """Streams of each connection, oldest first."""
        return [set(client.streams) for client in self._clients]

    # Commands

    def trade(
        self, symbol: str, *, price: str | None = None, size: str | None = None, taker: Side | None = None
    ) -> int:
        """Execute one trade now and tell the subscribers, of the book too; what is not given is drawn. Its id."""
        market = self._markets[symbol]
        trade = market.trade(self._now_us(), Decimal(price) if price else None, Decimal(size) if size else None, taker)
        if self._skipped:
            self._skipped -= 1
        else:
            self._tell_trade(market, trade)
        self._tell_book(market)
        return trade.trade_id

    def quote(self, symbol: str, *, bid: str | None = None, ask: str | None = None) -> None:
        """The book changes; what is not given is drawn. "0" empties a side."""
        market = self._markets[symbol]
        market.quote(None if bid is None else Decimal(bid), None if ask is None else Decimal(ask))
        self._tell_book(market)

    def drop_connections(self) -> None:
        """Cut every WebSocket without a goodbye."""
        for client in self._clients:
            client.cut()

    def drop_connection(self, position: int = 0) -> None:
        """Cut one."""
        self._clients[position].cut()

    def shut_down(self) -> None:
        """Announce to every WebSocket that it will be cut."""
        for client in self._clients:
            data = {"e": "serverShutdown", "E": self._now_us() // client.unit_us}
            self._say(client, "!serverShutdown", data)

    async def go_down(self) -> None:
        """Cut every connection and refuse new ones until `come_back`. Its market goes on trading. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.drop_connections()
            await runner.cleanup()

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        app = web.Application(middlewares=[self.misbehaviour.middleware, self._guard])
        app.add_routes(
            [
                web.get("/ws", self._stream),
                web.get("/ws/{streams:.*}", self._stream),
                web.get("/stream", self._stream),
                web.get("/api/v3/ping", self._ping),
                web.get("/api/v3/time", self._time),
                web.get("/api/v3/exchangeInfo", self._exchange_info),
                web.get("/api/v3/klines", self._klines),
                web.get("/api/v3/ticker/24hr", self._ticker_24hr),
                web.get("/api/v3/ticker/bookTicker", self._book_ticker),
                web.get("/api/v3/trades", self._trades),
                web.get("/api/v3/historicalTrades", self._historical_trades),
                web.get("/api/v3/aggTrades", self._agg_trades),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self._runner = runner

    def mute(self, *, muted: bool = True) -> None:
        """Say nothing more over WebSocket, pings neither, and keep the connections open."""
        self._muted = muted

    def skip_trades(self, count: int) -> None:
        """Lose the next trades on the socket; REST has them."""
        self._skipped = count

    def withhold_trades(self, symbol: str, trade_ids: Iterable[int]) -> None:
        """Leave these trades out of REST answers, and no others."""
        self._withheld[symbol] = set(trade_ids)

    def inject(self, raw: str) -> None:
        """Send this text to every WebSocket client as it is."""
        for client in self._clients:
            self._send(client, raw)

    def refuse(self, requests: int, *, status: int = 429, retry_after: str | None = None) -> None:
        """Answer the next REST requests with this status."""
        self._refusals = requests
        self._refusal = (status, {} if retry_after is None else {"Retry-After": retry_after})

    def stall(self, *, stalled: bool = True) -> None:
        """Take REST requests and do not answer them, until called with False."""
        if stalled:
            self._stalled.clear()
        else:
            self._stalled.set()

    def market(self, symbol: str) -> Market:
        """The truth."""
        return self._markets[symbol]

    # WebSocket

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=True)
        if not socket.can_prepare(request).ok:
            return _error(404, 0, "Not Found")
        named = request.query.get("streams", "") or request.match_info.get("streams", "")
        await socket.prepare(request)
        micro = request.query.get("timeUnit", "").upper() == "MICROSECOND"
        client = _Client(request, request.path == "/stream", 1 if micro else 1_000)
        client.streams = dict.fromkeys(name for name in named.split("/") if "@" in name)
        self._clients.append(client)
        jobs = [
            asyncio.create_task(job)
            for job in (self._write(client, socket), self._keep_alive(client, socket), self._end_of_life(client))
        ]
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._obey(client, message.data)
        finally:
            self._clients.remove(client)
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
            for job in jobs:
                if not job.cancelled() and (error := job.exception()) and not isinstance(error, ConnectionError):
                    raise error
        return socket

    async def _write(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            text = await client.outbox.get()
            if text is None:
                await socket.close(code=1008, message=b"Too many requests")
            else:
                await socket.send_str(text)

    async def _keep_alive(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while True:
            await self._clock.sleep(self._ping_interval_s)
            if not self._muted and client in self._clients:
                await socket.ping(str(self._now_us() // 1_000).encode())

    async def _end_of_life(self, client: _Client) -> None:
        await self._clock.sleep(self._lifetime_s)
        client.cut()

    def _obey(self, client: _Client, text: str) -> None:
        now_ns = self._clock.monotonic_ns()
        client.heard_ns.append(now_ns)
        if len(client.heard_ns) > _MESSAGES_PER_S and now_ns - client.heard_ns[0] < 1_000_000_000:
            client.outbox.put_nowait(None)
            return
        try:
            request = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            self._answer(client, {"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"})
            return
        self.commands.append(request)
        method, params, number = request.get("method"), request.get("params", []), request.get("id")
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            for name in params:
                if method == "SUBSCRIBE":
                    client.streams[name] = None  # an unknown one is taken, and stays silent
                else:
                    client.streams.pop(name, None)
            if len(client.streams) > _STREAMS_MAX:
                client.outbox.put_nowait(None)
                return
            self._answer(client, {"result": None, "id": number})
        elif method == "LIST_SUBSCRIPTIONS":
            self._answer(client, {"result": [*client.streams], "id": number})
        else:
            words = f"Invalid request: unknown variant `{method}`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`"
            self._answer(client, {"code": 2, "msg": words, "id": number})

    def _tell_trade(self, market: Market, trade: MarketTrade) -> None:
        for client in self._clients:
            name = f"{market.name.lower()}@trade"
            if name in client.streams:
                time = trade.time_us // client.unit_us
                data = {
                    "e": "trade",
                    "E": time,
                    "s": market.name,
                    "t": trade.trade_id,
                    "p": f"{trade.price:.8f}",
                    "q": f"{trade.size:.8f}",
                    "T": time,
                    "m": trade.taker == "sell",
                    "M": True,
                }
                self._say(client, name, data)

    def _tell_book(self, market: Market) -> None:
        for client in self._clients:
            name = f"{market.name.lower()}@bookTicker"
            if name in client.streams:
                data = {
                    "u": market.update,
                    "s": market.name,
                    "b": f"{market.bid:.8f}",
                    "B": f"{market.bid_size if market.bid else 0:.8f}",
                    "a": f"{market.ask:.8f}",
                    "A": f"{market.ask_size if market.ask else 0:.8f}",
                }
                self._say(client, name, data)

    def _say(self, client: _Client, stream: str, data: dict[str, Any]) -> None:
        self._answer(client, {"stream": stream, "data": data} if client.combined else data)

    def _answer(self, client: _Client, message: dict[str, Any]) -> None:
        self._send(client, msgspec.json.encode(message).decode())

    def _send(self, client: _Client, text: str) -> None:
        if self._muted:
            return
        if client.outbox.full():
            client.cut()
        else:
            client.outbox.put_nowait(text)

    async def _tick_by_itself(self, interval_s: float) -> None:
        while True:
            for act in (self.quote, self.trade):
                await self._clock.sleep(interval_s)
                for name in self._markets:
                    act(name)

    # REST

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not request.path.startswith("/api/"):
            return await handler(request)
        self.requests.append(request.path_qs)
        await self._stalled.wait()
        if self._refusals:
            self._refusals -= 1
            status, headers = self._refusal
            told = {429: (-1003, "Too much request weight used"), 418: (-1003, "Way too much request weight used")}
            code, msg = told.get(status, (-1000, "An unknown error occurred while processing the request."))
            return _error(status, code, msg, headers)
        minute = self._now_us() // 60_000_000
        used = self._weights.get(minute, 0) + _weight(request)
        self._weights = {minute: used}
        headers = {"X-MBX-USED-WEIGHT": str(used), "X-MBX-USED-WEIGHT-1M": str(used)}
        if used > self._weight_per_minute:
            wait_s = 60 - self._now_us() // _SECOND_US % 60
            words = f"Too much request weight used; current limit is {self._weight_per_minute} per 1 MINUTE."
            return _error(429, -1003, words, {**headers, "Retry-After": str(wait_s)})
        try:
            answer = await handler(request)
        except _Refused as refused:
            return _error(refused.status, refused.code, refused.msg, headers)
        except web.HTTPNotFound:
            return _error(404, 0, "Not Found", headers)
        answer.headers.update(headers)
        return answer

    def _market_of(self, request: web.Request) -> Market:
        name = request.query.get("symbol")
        if name is None:
            raise _Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        return self._named(name)

    def _named(self, name: str) -> Market:
        if not name.isalnum() or name != name.upper():
            words = "Illegal characters found in parameter 'symbol'; legal range is '^[\\w\\-._&&[^a-z]]{1,50}$'."
            raise _Refused(-1100, words)
        market = self._markets.get(name)
        if market is None:
            raise _Refused(-1121, "Invalid symbol.")
        return market

    def _markets_of(self, request: web.Request) -> tuple[list[Market], bool]:
        """Those asked for, and whether the answer is a list."""
        if "symbol" in request.query:
            return [self._market_of(request)], False
        if "symbols" in request.query:
            return [self._named(name) for name in msgspec.json.decode(request.query["symbols"], type=list[str])], True
        return [*self._markets.values()], True

    async def _ping(self, _: web.Request) -> web.Response:
        return _json({})

    async def _time(self, request: web.Request) -> web.Response:
        return _json({"serverTime": self._now_us() // _unit_us(request)})

    async def _exchange_info(self, request: web.Request) -> web.Response:
        markets, _ = self._markets_of(request)
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
        return _json(
            {
                "timezone": "UTC",
                "serverTime": self._now_us() // _unit_us(request),
                "rateLimits": [{**limit, "limit": self._weight_per_minute}],
                "exchangeFilters": [],
                "symbols": [_described(market.name) for market in markets],
            }
        )

    async def _klines(self, request: web.Request) -> web.Response:
        market = self._market_of(request)
        length_s = _LENGTHS_S.get(request.query.get("interval", ""))
        if length_s is None:
            raise _Refused(-1120, "Invalid interval.")
        start_ms, end_ms = _number(request, "startTime"), _number(request, "endTime")
        limit = _limit(request)
        unit_us = _unit_us(request)
        rows = [
            row
            for row in self._kline_rows(market, length_s)
            if (start_ms is None or row[0] >= start_ms * 1_000) and (end_ms is None or row[0] <= end_ms * 1_000)
        ]
        page = rows[-limit:] if start_ms is None else rows[:limit]
        return _json([[row[0] // unit_us, *row[1:6], row[6] // unit_us, *row[7:]] for row in page])

    def _kline_rows(self, market: Market, length_s: int) -> list[list[Any]]:
        """Times in µs; intervals without trades are flat rows, the last one is running."""
        length_us = length_s * _SECOND_US
        offset_us = (_MONDAY_S if length_s == _LENGTHS_S["1w"] else 0) * _SECOND_US
        rows: list[list[Any]] = []
        for candle in market.candles(length_us, offset_us):
            while rows and rows[-1][0] + length_us < candle.start_us:
                rows.append(_kline(_flat(rows[-1][0] + length_us, rows[-1][4]), length_us))
            rows.append(_kline(candle, length_us))
        while rows and rows[-1][0] + length_us <= self._now_us():
            rows.append(_kline(_flat(rows[-1][0] + length_us, rows[-1][4]), length_us))
        return rows

    async def _ticker_24hr(self, request: web.Request) -> web.Response:
        markets, many = self._markets_of(request)
        now_us, unit_us = self._now_us(), _unit_us(request)
        rows = [_day_of(market, now_us, unit_us) for market in markets]
        return _json(rows if many else rows[0])

    async def _book_ticker(self, request: web.Request) -> web.Response:
        markets, many = self._markets_of(request)
        rows = [
            {
                "symbol": market.name,
                "bidPrice": f"{market.bid:.8f}",
                "bidQty": f"{market.bid_size:.8f}",
                "askPrice": f"{market.ask:.8f}",
                "askQty": f"{market.ask_size:.8f}",
            }
            for market in markets
        ]
        return _json(rows if many else rows[0])

    async def _trades(self, request: web.Request) -> web.Response:
        market = self._market_of(request)
        return self._trade_rows(request, market, market.trades[-min(_limit(request), self._recent_trades_max) :])

    async def _historical_trades(self, request: web.Request) -> web.Response:
        market = self._market_of(request)
        from_id, limit = _number(request, "fromId"), _limit(request)
        if from_id is None:
            return self._trade_rows(request, market, market.trades[-limit:])
        return self._trade_rows(request, market, market.between_ids(from_id, from_id + limit))

    def _trade_rows(self, request: web.Request, market: Market, trades: Sequence[MarketTrade]) -> web.Response:
        unit_us = _unit_us(request)
        withheld = self._withheld.get(market.name, set())
        return _json(
            [
                {
                    "id": trade.trade_id,
                    "price": f"{trade.price:.8f}",
                    "qty": f"{trade.size:.8f}",
                    "quoteQty": f"{trade.price * trade.size:.8f}",
                    "time": trade.time_us // unit_us,
                    "isBuyerMaker": trade.taker == "sell",
                    "isBestMatch": True,
                }
                for trade in trades
                if trade.trade_id not in withheld
            ]
        )

    async def _agg_trades(self, request: web.Request) -> web.Response:
        """Each trade is an aggregate of itself, numbered from 1."""
        market = self._market_of(request)
        from_id, start_ms, end_ms = (_number(request, name) for name in ("fromId", "startTime", "endTime"))
        rows = [
            {
                "a": number,
                "p": f"{trade.price:.8f}",
                "q": f"{trade.size:.8f}",
                "f": trade.trade_id,
                "l": trade.trade_id,
                "T": trade.time_us // _unit_us(request),
                "m": trade.taker == "sell",
                "M": True,
            }
            for number, trade in enumerate(market.trades, 1)
            if (from_id is None or number >= from_id)
            and (start_ms is None or trade.time_us >= start_ms * 1_000)
            and (end_ms is None or trade.time_us <= end_ms * 1_000)
        ]
        limit = _limit(request)
        return _json(rows[-limit:] if from_id is None and start_ms is None else rows[:limit])


def _weight(request: web.Request) -> int:
    path = request.path.removeprefix("/api/v3/")
    if path == "ticker/24hr":
        if "symbol" in request.query:
            return 2
        named = msgspec.json.decode(request.query.get("symbols", "[]"), type=list[str])
        return 2 if 0 < len(named) <= 20 else 40 if 0 < len(named) <= 100 else 80
    if path == "ticker/bookTicker":
        return 2 if "symbol" in request.query else 4
    weights = {"klines": 2, "trades": 25, "historicalTrades": 25, "aggTrades": 4, "exchangeInfo": 20}
    return weights.get(path, 1)


def _unit_us(request: web.Request) -> int:
    return 1 if request.headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND" else 1_000


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise _Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def _limit(request: web.Request) -> int:
    limit = _number(request, "limit")
    return min(_ROWS_DEFAULT if limit is None else limit, _ROWS_MAX)


def _flat(start_us: int, price: str) -> Candle:
    last = Decimal(price)
    return Candle(start_us, last, last, last, last, Decimal(0), Decimal(0), 0)


def _kline(candle: Candle, length_us: int) -> list[Any]:
    prices = (candle.open, candle.high, candle.low, candle.close, candle.volume)
    close_us = candle.start_us + length_us - 1_000
    half = f"{candle.volume / 2:.8f}", f"{candle.notional / 2:.8f}"
    return [
        candle.start_us,
        *(f"{value:.8f}" for value in prices),
        close_us,
        f"{candle.notional:.8f}",
        candle.trades,
        *half,
        "0",
    ]


def _day_of(market: Market, now_us: int, unit_us: int) -> dict[str, Any]:
    trades = market.last_day(now_us)
    prices = [trade.price for trade in trades] or [market.price]
    volume = sum((trade.size for trade in trades), Decimal(0))
    notional = sum((trade.price * trade.size for trade in trades), Decimal(0))
    values = {
        "priceChange": prices[-1] - prices[0],
        "weightedAvgPrice": notional / volume if volume else Decimal(0),
        "prevClosePrice": prices[0],
        "lastPrice": market.price,
        "lastQty": trades[-1].size if trades else Decimal(0),
        "bidPrice": market.bid,
        "bidQty": market.bid_size,
        "askPrice": market.ask,
        "askQty": market.ask_size,
        "openPrice": prices[0],
        "highPrice": max(prices),
        "lowPrice": min(prices),
        "volume": volume,
        "quoteVolume": notional,
    }
    return {
        "symbol": market.name,
        **{name: f"{value:.8f}" for name, value in values.items()},
        "priceChangePercent": f"{(prices[-1] / prices[0] - 1) * 100:.3f}",
        "openTime": (now_us - 86_400 * _SECOND_US) // unit_us,
        "closeTime": now_us // unit_us,
        "firstId": trades[0].trade_id if trades else -1,
        "lastId": trades[-1].trade_id if trades else -1,
        "count": len(trades),
    }


def _described(name: str) -> dict[str, Any]:
    quote = next((quote for quote in _QUOTES if name.endswith(quote) and name != quote), name[-3:])
    return {
        "symbol": name,
        "status": "TRADING",
        "baseAsset": name[: -len(quote)],
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.01000000",
                "maxPrice": "1000000.00000000",
                "tickSize": "0.01",
            },
            {"filterType": "LOT_SIZE", "minQty": "0.00000001", "maxQty": "9000.00000000", "stepSize": "0.00000001"},
        ],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
    }


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


def _error(status: int, code: int, msg: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json({"code": code, "msg": msg}, status=status, headers=headers)
