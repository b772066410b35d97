"""The wire format of Kraken Spot as a local server: REST and WebSocket v2 on one port.

Owns a seeded market a symbol and the exchange's manners as its documentation tells them: errors with status 200, only
the latest 720 bars, its own names of pairs in answers, an answer to a subscription for each symbol, heartbeats. Shares
no code with `marketd.sources.kraken`, so that one can be tested by the other. It refuses accounts, orders and books.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import WSMsgType, web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.crypto_market import Candle, Market, MarketTrade, Side
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["KrakenSimulator"]

_SECOND_US = 1_000_000
_MINUTES = (1, 5, 15, 30, 60, 240, 1_440, 10_080, 21_600)
_OHLC_ROWS = 720
_TRADES_MAX = 1_000
_SNAPSHOT_TRADES = 50
_OUTBOX_MAX = 100_000
_CHANNELS = ("ticker", "trade")

_OLD_COINS = ("XBT", "ETH", "LTC", "XRP", "XLM", "ETC", "REP", "XMR", "ZEC", "MLN")
_OLD_MONEY = ("USD", "EUR", "GBP", "JPY", "CAD", "AUD")
_IN_REQUESTS = {"BTC": "XBT", "DOGE": "XDG"}


class _Refused(Exception):
    """A request is answered with errors of the exchange, and status 200."""

    def __init__(self, *errors: str) -> None:
        super().__init__(*errors)
        self.errors = list(errors)


@dataclass(frozen=True)
class _Pair:
    """name: of the stream, `BTC/USD`. altname: `XBTUSD`. key: `XXBTZUSD`. wsname: of the old stream, `XBT/USD`."""

    name: str
    altname: str
    key: str
    wsname: str
    base: str
    quote: str

    @classmethod
    def of(cls, name: str) -> _Pair:
        base, quote = (_IN_REQUESTS.get(part, part) for part in name.split("/"))
        is_old = base in _OLD_COINS
        long_base = f"X{base}" if is_old else base
        long_quote = f"Z{quote}" if quote in _OLD_MONEY else f"X{quote}" if quote in _OLD_COINS else quote
        # only pairs of an old coin have a long name
        key = long_base + long_quote if is_old else base + quote
        return cls(name, base + quote, key, f"{base}/{quote}", long_base, long_quote)


@dataclass(eq=False)
class _Client:
    request: web.Request
    channels: dict[str, dict[str, None]] = field(default_factory=lambda: {name: {} for name in _CHANNELS})
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))
    spoke: bool = False

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class KrakenSimulator:
    """Use as an async context; then `rest_url` and `ws_url` are known.

    The history before the start is `history_minutes` long, a fifth of its minutes without a trade, and the same for the
    same seed and clock. tick_interval_s: a new book of every symbol so often, and a trade every other time; None, only
    `trade` and `quote` make them. timestamps: whether tickers tell a time. misbehaviour: of its requests.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("BTC/USD", "ETH/USD", "SOL/USD"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        tick_interval_s: float | None = None,
        heartbeat_interval_s: float = 1.0,
        history_minutes: int = 60,
        timestamps: bool = True,
    ) -> None:
        self.misbehaviour = Misbehaviour()
        self._clock = clock or SystemClock()
        self._port = port
        self._tick_interval_s = tick_interval_s
        self._heartbeat_interval_s = heartbeat_interval_s
        self._timestamps = timestamps
        self._markets = {name: Market(name, seed) for name in symbols}
        self._pairs = {name: _Pair.of(name) for name in symbols}
        self._clients: list[_Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._system = "online"
        self._muted = False
        self._skipped = 0
        self._refusals = 0
        self._refusal: tuple[int, str, dict[str, str]] = (200, "", {})
        self._stalled = asyncio.Event()
        self._stalled.set()
        self._withheld: dict[str, set[int]] = {}
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
        self._tasks = [asyncio.create_task(self._beat())]
        if self._tick_interval_s is not None:
            self._tasks.append(asyncio.create_task(self._tick_by_itself(self._tick_interval_s)))
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
        return f"ws://127.0.0.1:{self._port}/v2"

    @property
    def connections(self) -> int:
        """WebSocket clients connected now."""
        return len(self._clients)

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
            self._tell("trade", market, "update", [_trade_row(market.name, trade)])
        self._tell("ticker", market, "update", [self._ticker_row(market)])
        return trade.trade_id

    def quote(self, symbol: str, *, bid: str | None = None, ask: str | None = None) -> None:
        """The book changes; what is not given is drawn."""
        market = self._markets[symbol]
        market.quote(None if bid is None else Decimal(bid), None if ask is None else Decimal(ask))
        self._tell("ticker", market, "update", [self._ticker_row(market)])

    def set_system(self, system: str) -> None:
        """`maintenance`, `cancel_only`, `post_only`, `online`: tell it to everyone."""
        self._system = system
        for client in self._clients:
            self._say(client, self._status())

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
        public = {
            "Time": self._time,
            "SystemStatus": self._system_status,
            "Assets": self._assets,
            "AssetPairs": self._asset_pairs,
            "Ticker": self._ticker,
            "OHLC": self._ohlc,
            "Trades": self._trades,
        }
        app.add_routes([web.get("/v2", self._stream)])
        app.add_routes([web.get(f"/0/public/{name}", handler) for name, handler in public.items()])
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

    def withhold_trades(self, symbol: str, trade_ids: Iterable[int]) -> None:
        """Leave these trades out of REST answers, and no others."""
        self._withheld[symbol] = set(trade_ids)

    def inject(self, raw: str) -> None:
        """Send this text to every WebSocket client as it is."""
        for client in self._clients:
            self._send(client, raw)

    def refuse(self, requests: int, error: str, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer the next REST requests with this error."""
        self._refusals = requests
        self._refusal = (status, error, headers or {})

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
        socket = web.WebSocketResponse()
        if not socket.can_prepare(request).ok:
            return web.Response(status=400, text="Bad Request")
        await socket.prepare(request)
        client = _Client(request)
        self._clients.append(client)
        self._say(client, self._status())
        writing = asyncio.create_task(self._write(client, socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._obey(client, message.data)
        finally:
            self._clients.remove(client)
            writing.cancel()
            await asyncio.wait({writing})
            if not writing.cancelled() and (error := writing.exception()) and not isinstance(error, ConnectionError):
                raise error
        return socket

    async def _write(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.send_str(await client.outbox.get())

    def _status(self) -> dict[str, Any]:
        row = {"version": "2.0.10", "system": self._system, "api_version": "v2", "connection_id": 12393906104898154338}
        return {"channel": "status", "type": "update", "data": [row]}

    def _obey(self, client: _Client, text: str) -> None:
        now = _time_text(self._now_us())
        try:
            request = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            self._say(client, {"error": "Malformed request", "success": False, "time_in": now, "time_out": now})
            return
        self.commands.append(request)
        method, params = request.get("method"), request.get("params", {})
        base = {"method": method, "time_in": now, "time_out": now}
        if "req_id" in request:
            base["req_id"] = request["req_id"]
        if method == "ping":
            self._say(client, {**base, "method": "pong"})
            return
        channel = params.get("channel")
        if method not in ("subscribe", "unsubscribe") or channel not in _CHANNELS:
            self._say(client, {**base, "error": "Event(s) not found", "success": False})
            return
        for name in params.get("symbol", []):
            if name not in self._markets:
                error = f"Currency pair not supported {name}"
                self._say(client, {**base, "error": error, "success": False, "symbol": name})
                continue
            if method == "unsubscribe":
                client.channels[channel].pop(name, None)
                self._say(client, {**base, "result": {"channel": channel, "symbol": name}, "success": True})
                continue
            client.channels[channel][name] = None
            snapshot = params.get("snapshot", channel == "ticker")
            result = {"channel": channel, "symbol": name, "snapshot": snapshot}
            self._say(client, {**base, "result": result, "success": True})
            if snapshot:
                self._say(client, self._snapshot(channel, self._markets[name]))

    def _snapshot(self, channel: str, market: Market) -> dict[str, Any]:
        rows = [self._ticker_row(market)]
        if channel == "trade":
            rows = [_trade_row(market.name, trade) for trade in market.trades[-_SNAPSHOT_TRADES:]]
        return {"channel": channel, "type": "snapshot", "data": rows}

    def _ticker_row(self, market: Market) -> dict[str, Any]:
        day = _Day(market, self._now_us())
        row = {
            "symbol": market.name,
            "bid": _raw(market.bid),
            "bid_qty": _raw(market.bid_size),
            "ask": _raw(market.ask),
            "ask_qty": _raw(market.ask_size),
            "last": _raw(market.price),
            "volume": _raw(day.volume),
            "vwap": _raw(day.vwap),
            "low": _raw(day.low),
            "high": _raw(day.high),
            "change": _raw(market.price - day.open),
            "change_pct": _raw(round((market.price / day.open - 1) * 100, 2)),
        }
        if self._timestamps:
            row["timestamp"] = _time_text(self._now_us())
        return row

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(self._heartbeat_interval_s)
            for client in self._clients:
                if any(client.channels.values()) and not client.spoke:
                    self._say(client, {"channel": "heartbeat"})
                client.spoke = False

    async def _tick_by_itself(self, interval_s: float) -> None:
        while True:
            for act in (self.quote, self.trade):
                await self._clock.sleep(interval_s)
                for name in self._markets:
                    act(name)

    def _tell(self, channel: str, market: Market, kind: str, rows: list[dict[str, Any]]) -> None:
        for client in self._clients:
            if market.name in client.channels[channel]:
                client.spoke = True
                self._say(client, {"channel": channel, "type": kind, "data": rows})

    def _say(self, client: _Client, message: dict[str, Any]) -> None:
        self._send(client, msgspec.json.encode(message).decode())

    def _send(self, client: _Client, text: str) -> None:
        if self._muted:
            return
        if client.outbox.full():
            client.cut()
        else:
            client.outbox.put_nowait(text)

    # REST

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == "/v2":
            return await handler(request)
        self.requests.append(request.path_qs)
        await self._stalled.wait()
        if self._refusals:
            self._refusals -= 1
            status, error, headers = self._refusal
            return _json({"error": [error]}, status=status, headers=headers)
        try:
            return await handler(request)
        except _Refused as refused:
            return _json({"error": refused.errors})
        except web.HTTPNotFound:
            return _json({"error": ["EGeneral:Unknown method"]})

    def _asked(self, request: web.Request) -> list[_Pair]:
        """Pairs by any of their names."""
        names = [name for name in request.query.get("pair", "").split(",") if name]
        if not names:
            return [*self._pairs.values()]
        known = {spelling: pair for pair in self._pairs.values() for spelling in (pair.altname, pair.key, pair.wsname)}
        if any(name not in known for name in names):
            raise _Refused("EQuery:Unknown asset pair")
        return [known[name] for name in names]

    async def _time(self, _: web.Request) -> web.Response:
        now_s = self._now_us() // _SECOND_US
        return _result(
            {"unixtime": now_s, "rfc1123": datetime.fromtimestamp(now_s, UTC).strftime("%a, %d %b %y %T +0000")}
        )

    async def _system_status(self, _: web.Request) -> web.Response:
        return _result({"status": self._system, "timestamp": _time_text(self._now_us())[:19] + "Z"})

    async def _assets(self, _: web.Request) -> web.Response:
        found: dict[str, Any] = {}
        for pair in self._pairs.values():
            for long, short in zip((pair.base, pair.quote), pair.wsname.split("/"), strict=True):
                row = {
                    "aclass": "currency",
                    "altname": short,
                    "decimals": 10,
                    "display_decimals": 5,
                    "status": "enabled",
                }
                found[long] = row
        return _result(found)

    async def _asset_pairs(self, request: web.Request) -> web.Response:
        return _result({pair.key: _described(pair) for pair in self._asked(request)})

    async def _ticker(self, request: web.Request) -> web.Response:
        rows: dict[str, Any] = {}
        for pair in self._asked(request):
            market = self._markets[pair.name]
            day = _Day(market, self._now_us())
            lots = f"{market.ask_size:.3f}", f"{market.bid_size:.3f}"
            rows[pair.key] = {
                "a": [f"{market.ask:.5f}", "1", lots[0]],
                "b": [f"{market.bid:.5f}", "1", lots[1]],
                "c": [f"{market.price:.5f}", f"{market.trades[-1].size:.8f}"],
                "v": [f"{day.volume:.8f}"] * 2,
                "p": [f"{day.vwap:.5f}"] * 2,
                "t": [day.count] * 2,
                "l": [f"{day.low:.5f}"] * 2,
                "h": [f"{day.high:.5f}"] * 2,
                "o": f"{day.open:.5f}",
            }
        return _result(rows)

    async def _ohlc(self, request: web.Request) -> web.Response:
        (pair,) = self._asked(request)
        minutes = _number(request, "interval", 1)
        if minutes not in _MINUTES:
            raise _Refused("EGeneral:Invalid arguments:interval")
        since_s = _number(request, "since", 0)
        rows = self._ohlc_rows(self._markets[pair.name], minutes * 60 * _SECOND_US)[-_OHLC_ROWS:]
        committed = rows[-2][0] if len(rows) > 1 else 0
        return _result({pair.key: [row for row in rows if row[0] > since_s], "last": committed})

    def _ohlc_rows(self, market: Market, length_us: int) -> list[list[Any]]:
        """Intervals without trades are flat rows; the last one is running, and always there."""
        rows: list[list[Any]] = []

        def fill(until_us: int) -> None:
            while rows and rows[-1][0] * _SECOND_US + length_us < until_us:
                close = rows[-1][4]
                rows.append([rows[-1][0] + length_us // _SECOND_US, *[close] * 4, "0.0", "0.00000000", 0])

        for candle in market.candles(length_us):
            fill(candle.start_us)
            rows.append(_ohlc_row(candle))
        fill(self._now_us() // length_us * length_us + length_us)
        return rows

    async def _trades(self, request: web.Request) -> web.Response:
        (pair,) = self._asked(request)
        market = self._markets[pair.name]
        count = min(_number(request, "count", _TRADES_MAX), _TRADES_MAX)
        withheld = self._withheld.get(pair.name, set())
        if "since" in request.query:
            since = _number(request, "since", 0)
            since_ns = since * 10**9 if since < 10**12 else since  # seconds, or the id that `last` is
            # the times of trades are finer than a microsecond: so is the id that `last` is
            page = [t for t in market.since(since_ns // 1_000) if _time_ns(t) > since_ns][:count]
        else:
            page = market.trades[-count:]
        last_ns = _time_ns(page[-1]) if page else request.query.get("since", "0")
        rows = [
            [
                f"{trade.price:.5f}",
                f"{trade.size:.8f}",
                _raw(Decimal(_time_ns(trade)) / 10**9),
                trade.taker[0],
                "l",
                "",
                trade.trade_id,
            ]
            for trade in page
            if trade.trade_id not in withheld
        ]
        return _result({pair.key: rows, "last": str(last_ns)})


class _Day:
    """The 24 hours before now."""

    def __init__(self, market: Market, now_us: int) -> None:
        trades = market.last_day(now_us)
        prices = [trade.price for trade in trades] or [market.price]
        self.open, self.low, self.high = prices[0], min(prices), max(prices)
        self.volume = sum((trade.size for trade in trades), Decimal(0))
        notional = sum((trade.price * trade.size for trade in trades), Decimal(0))
        self.vwap = round(notional / self.volume, 5) if self.volume else market.price
        self.count = len(trades)


def _time_ns(trade: MarketTrade) -> int:
    """To 100 ns, as the exchange tells it; the stream tells the microsecond alone."""
    return trade.time_us * 1_000 + trade.trade_id % 10 * 100


def _time_text(time_us: int) -> str:
    second, micros = divmod(time_us, _SECOND_US)
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z"


def _trade_row(name: str, trade: MarketTrade) -> dict[str, Any]:
    return {
        "symbol": name,
        "side": trade.taker,
        "price": _raw(trade.price),
        "qty": _raw(trade.size),
        "ord_type": "limit",
        "trade_id": trade.trade_id,
        "timestamp": _time_text(trade.time_us),
    }


def _ohlc_row(candle: Candle) -> list[Any]:
    prices = (candle.open, candle.high, candle.low, candle.close)
    vwap = candle.notional / candle.volume
    return [
        candle.start_us // _SECOND_US,
        *(f"{price:.2f}" for price in prices),
        f"{vwap:.2f}",
        f"{candle.volume:.8f}",
        candle.trades,
    ]


def _described(pair: _Pair) -> dict[str, Any]:
    return {
        "altname": pair.altname,
        "wsname": pair.wsname,
        "aclass_base": "currency",
        "base": pair.base,
        "aclass_quote": "currency",
        "quote": pair.quote,
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": 5,
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.0001",
        "costmin": "0.5",
        "tick_size": "0.01",
        "status": "online",
    }


def _raw(value: Decimal) -> msgspec.Raw:
    """A JSON number with just these digits."""
    return msgspec.Raw(f"{value:f}".encode())


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdigit():
        raise _Refused(f"EGeneral:Invalid arguments:{name}")
    return int(text)


def _result(value: Any) -> web.Response:
    return _json({"error": [], "result": value})


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )
