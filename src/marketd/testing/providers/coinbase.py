"""The wire format of Coinbase Exchange as a local server: REST and WebSocket on one port.

Owns a seeded market (trades, and what follows from them: tickers, candles) and the exchange's manners as its
documentation tells them. Shares no code with `marketd.sources.coinbase`, so that one can be tested by the
other. It refuses accounts and orders, and the channels that marketd does not use.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from aiohttp import WSMsgType, web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["CoinbaseSimulator"]

Side = Literal["buy", "sell"]

_CHANNELS = ("ticker", "matches", "heartbeat")
_GRANULARITIES = (60, 300, 900, 3_600, 21_600, 86_400)
_CANDLES_MAX = 300
_TRADES_DEFAULT, _TRADES_MAX = 100, 1_000
_OUTBOX_MAX = 10_000
_CENT = Decimal("0.01")


def _other(side: Side) -> Side:
    return "sell" if side == "buy" else "buy"


def _time_text(time_us: int) -> str:
    second, micros = divmod(time_us, 1_000_000)
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z"


@dataclass(frozen=True)
class _Trade:
    trade_id: int
    time_us: int
    price: Decimal
    size: Decimal
    maker_side: Side

    def row(self) -> dict[str, Any]:
        """As `/products/{id}/trades` and `match` write it."""
        return {
            "trade_id": self.trade_id,
            "side": self.maker_side,
            "size": f"{self.size:.8f}",
            "price": f"{self.price:.2f}",
            "time": _time_text(self.time_us),
        }


class _Product:
    """One market. The figures of 24 hours count from the beginning of its history."""

    def __init__(self, product_id: str, seed: int) -> None:
        self.id = product_id
        self.rng = random.Random(f"{seed}:{product_id}")
        self.price = Decimal(self.rng.randint(5_000, 5_000_000)) * _CENT
        self.first_id = self.rng.randint(1_000, 90_000_000)
        self.sequence = self.rng.randint(1_000_000, 12_000_000_000)
        self.trades: list[_Trade] = []
        self.volume = Decimal(0)
        self.low = self.high = self.price
        self.bid = self.ask = self.price
        self.bid_size = self.ask_size = Decimal(0)
        self.withheld: set[int] = set()

    def size(self) -> Decimal:
        return Decimal(self.rng.randint(1, 200_000_000)) / Decimal(100_000_000)

    def trade(self, time_us: int, price: Decimal | None, size: Decimal | None, taker: Side | None) -> _Trade:
        sides: tuple[Side, Side] = ("buy", "sell")
        aggressor = self.rng.choice(sides) if taker is None else taker
        if price is None:
            step = 1 + self.rng.uniform(-0.0005, 0.0005)
            price = max((self.price * Decimal(step)).quantize(_CENT), _CENT * 10)
        if self.trades:
            time_us = max(time_us, self.trades[-1].time_us)
        trade = _Trade(self.first_id + len(self.trades), time_us, price, size or self.size(), _other(aggressor))
        self.trades.append(trade)
        self.price = price
        self.volume += trade.size
        self.low, self.high = min(self.low, price), max(self.high, price)
        spread = _CENT * self.rng.randint(1, 5)
        self.bid, self.ask = (price - spread, price) if aggressor == "buy" else (price, price + spread)
        self.bid_size, self.ask_size = self.size(), self.size()
        self.sequence += self.rng.randint(1, 50)  # orders that nobody here sees count too
        return trade

    def ticker(self) -> dict[str, Any]:
        last = self.trades[-1]
        return {
            "type": "ticker",
            "sequence": self.sequence,
            "product_id": self.id,
            "price": f"{last.price:.2f}",
            "open_24h": f"{self.trades[0].price:.8f}",
            "volume_24h": f"{self.volume:.8f}",
            "low_24h": f"{self.low:.8f}",
            "high_24h": f"{self.high:.8f}",
            "volume_30d": f"{self.volume:.8f}",
            "best_bid": f"{self.bid:.2f}",
            "best_bid_size": f"{self.bid_size:.8f}",
            "best_ask": f"{self.ask:.2f}",
            "best_ask_size": f"{self.ask_size:.8f}",
            "side": _other(last.maker_side),
            "time": _time_text(last.time_us),
            "trade_id": last.trade_id,
            "last_size": f"{last.size:.8f}",
        }

    def match(self, kind: Literal["match", "last_match"], trade: _Trade) -> dict[str, Any]:
        return {
            "type": kind,
            "maker_order_id": f"0f358725-0000-4000-8000-{trade.trade_id:012d}",
            "taker_order_id": f"252b7002-0000-4000-8000-{trade.trade_id:012d}",
            "product_id": self.id,
            "sequence": self.sequence,
            **trade.row(),
        }

    def candles(self, granularity: int, start_s: int, end_s: int) -> list[list[float]]:
        """Newest first; only intervals with trades."""
        rows: dict[int, list[Decimal]] = {}
        for trade in self.trades:
            begin = trade.time_us // 1_000_000 // granularity * granularity
            if not start_s <= begin <= end_s:
                continue
            row = rows.setdefault(begin, [trade.price, trade.price, trade.price, trade.price, Decimal(0)])
            low, high, opened, _, volume = row
            rows[begin] = [min(low, trade.price), max(high, trade.price), opened, trade.price, volume + trade.size]
        return [[begin, *map(float, rows[begin])] for begin in sorted(rows, reverse=True)]

    def described(self) -> dict[str, Any]:
        base, quote = self.id.split("-")
        return {
            "id": self.id,
            "base_currency": base,
            "quote_currency": quote,
            "quote_increment": "0.01",
            "base_increment": "0.00000001",
            "display_name": f"{base}/{quote}",
            "min_market_funds": "1",
            "margin_enabled": False,
            "post_only": False,
            "limit_only": False,
            "cancel_only": False,
            "status": "online",
            "status_message": "",
            "trading_disabled": False,
            "fx_stablecoin": False,
            "max_slippage_percentage": "0.02000000",
            "auction_mode": False,
            "high_bid_limit_percentage": "",
        }


@dataclass(eq=False)
class _Client:
    request: web.Request
    channels: dict[str, dict[str, None]] = field(default_factory=lambda: {name: {} for name in _CHANNELS})
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))

    @property
    def subscribed(self) -> bool:
        return any(self.channels.values())

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class CoinbaseSimulator:
    """Use as an async context; then `rest_url` and `ws_url` are known.

    The history before the start is `history_minutes` long, a fifth of its minutes without a trade, and the same
    for the same seed and clock. trade_interval_s: a random trade of every product so often; None, only
    `trade` makes them. row_before_start: candles answer one row too many. error_names_product: whether a refused
    subscription says which product it was about. misbehaviour: of its requests.
    """

    def __init__(
        self,
        products: Sequence[str] = ("BTC-USD", "ETH-USD", "SOL-USD"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        trade_interval_s: float | None = None,
        heartbeat_interval_s: float = 1.0,
        subscribe_within_s: float = 5.0,
        history_minutes: int = 60,
        row_before_start: bool = True,
        error_names_product: bool = True,
    ) -> None:
        self.misbehaviour = Misbehaviour()
        self._clock = clock or SystemClock()
        self._port = port
        self._trade_interval_s = trade_interval_s
        self._heartbeat_interval_s = heartbeat_interval_s
        self._subscribe_within_s = subscribe_within_s
        self._row_before_start = row_before_start
        self._error_names_product = error_names_product
        self._products = {name: _Product(name, seed) for name in products}
        self._clients: list[_Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._muted = False
        self._skipped = 0
        self._refusals = 0
        self._refusal: tuple[int, dict[str, str]] = (429, {})
        self._stalled = asyncio.Event()
        self._stalled.set()
        self.requests: deque[str] = deque(maxlen=1_000)
        """Path and query of the REST requests, oldest first."""
        self.commands: deque[dict[str, Any]] = deque(maxlen=1_000)
        """What clients sent over WebSocket, oldest first."""
        self._grow_history(history_minutes)

    def _grow_history(self, minutes: int) -> None:
        first_minute = self._now_us() // 60_000_000 - minutes
        for product in self._products.values():
            for minute in range(first_minute, first_minute + minutes):
                if minute == first_minute or product.rng.random() >= 0.2:
                    offsets = sorted(product.rng.randrange(60_000_000) for _ in range(product.rng.randint(1, 6)))
                    for offset in offsets:
                        product.trade(minute * 60_000_000 + offset, None, None, None)

    def _now_us(self) -> int:
        return self._clock.time_ns() // 1_000

    async def __aenter__(self) -> Self:
        await self.come_back()
        self._tasks = [asyncio.create_task(self._beat())]
        if self._trade_interval_s is not None:
            self._tasks.append(asyncio.create_task(self._trade_by_itself(self._trade_interval_s)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
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

    # Commands

    def trade(
        self, product_id: str, *, price: str | None = None, size: str | None = None, taker: Side | None = None
    ) -> int:
        """Execute one trade now and tell the subscribers; what is not given is drawn. Returns its trade_id."""
        product = self._products[product_id]
        trade = product.trade(self._now_us(), Decimal(price) if price else None, Decimal(size) if size else None, taker)
        if self._skipped:
            self._skipped -= 1
        else:
            self._tell("matches", product, product.match("match", trade))
            self._tell("ticker", product, product.ticker())
        return trade.trade_id

    def drop_connections(self) -> None:
        """Cut every WebSocket without a goodbye."""
        for client in self._clients:
            client.cut()

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
                web.get("/", self._stream),
                web.get("/time", self._time),
                web.get("/currencies", self._currencies),
                web.get("/products", self._list),
                web.get("/products/{id}", self._describe),
                web.get("/products/{id}/ticker", self._ticker),
                web.get("/products/{id}/trades", self._trades),
                web.get("/products/{id}/candles", self._candles),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self._runner = runner

    def mute(self, *, muted: bool = True) -> None:
        """Say nothing more over WebSocket, and keep the connections open."""
        self._muted = muted

    def skip_trades(self, count: int) -> None:
        """Lose the next trades on the socket; REST has them."""
        self._skipped = count

    def withhold_trades(self, product_id: str, trade_ids: Iterable[int]) -> None:
        """Leave these trades out of REST answers, and no others."""
        self._products[product_id].withheld = set(trade_ids)

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

    def last_trade_id(self, product_id: str) -> int:
        return self._products[product_id].trades[-1].trade_id

    def trade_rows(self, product_id: str) -> list[dict[str, Any]]:
        """Every trade so far, oldest first, as REST rows."""
        return [trade.row() for trade in self._products[product_id].trades]

    # WebSocket

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        if not socket.can_prepare(request).ok:
            return _error(404, "NotFound")
        await socket.prepare(request)
        client = _Client(request)
        self._clients.append(client)
        try:
            async with _cancelled_afterwards(self._write(client, socket), self._cut_if_silent(client)):
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        self._obey(client, message.data)
        finally:
            self._clients.remove(client)
        return socket

    async def _write(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.send_str(await client.outbox.get())

    async def _cut_if_silent(self, client: _Client) -> None:
        await self._clock.sleep(self._subscribe_within_s)
        if not client.subscribed:
            client.cut()

    def _obey(self, client: _Client, text: str) -> None:
        try:
            request = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            self._say(client, {"type": "error", "message": "Malformed JSON"})
            return
        self.commands.append(request)
        kind = request.get("type")
        if kind not in ("subscribe", "unsubscribe"):
            self._say(client, {"type": "error", "message": "Type has to be either subscribe or unsubscribe"})
            return
        pairs = [
            (channel, product)
            for entry in request.get("channels", _CHANNELS)
            for channel, products in [
                (entry, []) if isinstance(entry, str) else (entry["name"], entry.get("product_ids", []))
            ]
            for product in products or request.get("product_ids", [])
        ]
        bad = [f"{c} is not a valid channel" for c, _ in pairs if c not in _CHANNELS]
        bad += [f"{p} is not a valid product" for _, p in pairs if p not in self._products]
        if bad:
            for products in client.channels.values():
                products.clear()  # the harshest reading of "failed to subscribe"
            reason = bad[0] if self._error_names_product else "the request holds an invalid product"
            self._say(client, {"type": "error", "message": "Failed to subscribe", "reason": reason})
            return
        fresh = [p for c, p in pairs if kind == "subscribe" and c == "matches" and p not in client.channels[c]]
        for channel, product in pairs:
            if kind == "subscribe":
                client.channels[channel][product] = None
            else:
                client.channels[channel].pop(product, None)
        channels = [
            {"name": name, "product_ids": [*products]} for name, products in client.channels.items() if products
        ]
        self._say(client, {"type": "subscriptions", "channels": channels})
        for name in fresh:
            product = self._products[name]
            if product.trades:
                self._say(client, product.match("last_match", product.trades[-1]))

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(self._heartbeat_interval_s)
            for product in self._products.values():
                beat = {
                    "type": "heartbeat",
                    "sequence": product.sequence,
                    "last_trade_id": product.trades[-1].trade_id if product.trades else 0,
                    "product_id": product.id,
                    "time": _time_text(self._now_us()),
                }
                self._tell("heartbeat", product, beat)

    async def _trade_by_itself(self, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            for name in self._products:
                self.trade(name)

    def _tell(self, channel: str, product: _Product, message: dict[str, Any]) -> None:
        for client in self._clients:
            if product.id in client.channels[channel]:
                self._say(client, message)

    def _say(self, client: _Client, message: dict[str, Any]) -> None:
        self._send(client, msgspec.json.encode(message).decode())

    def _send(self, client: _Client, text: str) -> None:
        if self._muted:
            return
        if client.outbox.full():
            client.cut()  # slow readers are dropped
        else:
            client.outbox.put_nowait(text)

    # REST

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == "/":
            return await handler(request)
        self.requests.append(request.path_qs)
        await self._stalled.wait()
        if not request.headers.get("User-Agent"):
            return _error(400, "User-Agent header is required.")
        if self._refusals:
            self._refusals -= 1
            status, headers = self._refusal
            words = "Public rate limit exceeded" if status == 429 else "Internal server error"
            return _error(status, words, headers)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _error(404, "NotFound")

    def _product(self, request: web.Request) -> _Product:
        product = self._products.get(request.match_info["id"])
        if product is None:
            raise web.HTTPNotFound
        return product

    async def _time(self, _: web.Request) -> web.Response:
        now_us = self._now_us()
        return _json({"iso": _time_text(now_us), "epoch": now_us / 1_000_000})

    async def _currencies(self, _: web.Request) -> web.Response:
        names = dict.fromkeys(part for product in self._products for part in product.split("-"))
        details = {"type": "crypto", "symbol": None, "network_confirmations": 6}
        row = {"min_size": "0.00000001", "status": "online", "message": "", "max_precision": "0.00000001"}
        extra = {"convertible_to": [], "details": details, "default_network": "", "supported_networks": []}
        return _json([{"id": name, "name": name, **row, **extra} for name in names])

    async def _list(self, _: web.Request) -> web.Response:
        return _json([product.described() for product in self._products.values()])

    async def _describe(self, request: web.Request) -> web.Response:
        return _json(self._product(request).described())

    async def _ticker(self, request: web.Request) -> web.Response:
        product = self._product(request)
        ticker = product.ticker()
        return _json(
            {
                "ask": ticker["best_ask"],
                "bid": ticker["best_bid"],
                "volume": ticker["volume_24h"],
                "trade_id": ticker["trade_id"],
                "price": ticker["price"],
                "size": ticker["last_size"],
                "time": ticker["time"],
                "rfq_volume": "0.000000",
            }
        )

    async def _trades(self, request: web.Request) -> web.Response:
        product = self._product(request)
        query = request.query
        try:
            limit = min(int(query.get("limit", _TRADES_DEFAULT)), _TRADES_MAX)
            after = int(query["after"]) if "after" in query else None
            before = int(query["before"]) if "before" in query else None
        except ValueError:
            return _error(400, "limit, after and before have to be numbers")
        stop = len(product.trades) if after is None else max(0, after - product.first_id)
        start = 0 if before is None else max(0, before - product.first_id + 1)
        known = [trade for trade in product.trades[start:stop] if trade.trade_id not in product.withheld]
        page = known[::-1][:limit]
        headers = {"CB-BEFORE": str(page[0].trade_id), "CB-AFTER": str(page[-1].trade_id)} if page else {}
        return _json([trade.row() for trade in page], headers=headers)

    async def _candles(self, request: web.Request) -> web.Response:
        product = self._product(request)
        try:
            granularity = int(request.query.get("granularity", "60"))
            start_s, end_s = _seconds(request.query.get("start")), _seconds(request.query.get("end"))
        except ValueError:
            return _error(400, "start and end have to be ISO 8601 or epoch seconds")
        if granularity not in _GRANULARITIES:
            return _error(400, "Unsupported granularity")
        if start_s is None or end_s is None:
            end_s = self._now_us() // 1_000_000
            start_s = end_s - (_CANDLES_MAX - 1) * granularity
        slots = end_s // granularity - -(-start_s // granularity) + 1
        if slots > _CANDLES_MAX:
            words = "granularity too small for the requested time range. Count of aggregations requested exceeds 300"
            return _error(400, words)
        rows = product.candles(granularity, start_s, end_s)
        if self._row_before_start:
            rows += product.candles(granularity, 0, start_s - 1)[:1]
        return _json(rows)


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    return int(text) if text.isdigit() else int(datetime.fromisoformat(text).timestamp())


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json({"message": message}, status=status, headers=headers)


@asynccontextmanager
async def _cancelled_afterwards(*jobs: Any) -> AsyncIterator[None]:
    """Run coroutines beside the body and end them with it; what failed in them other than a lost peer is raised."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ConnectionError):
            raise error
