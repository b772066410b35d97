"""The wire format of Yahoo Finance as a local server: charts, quotes, options, and the protobuf stream on one port.

Owns a seeded market (minutes without trades, a split, dividends, a chain) and Yahoo's manners as recorded answers and
its users tell them: the cookie and the crumb, rows of nulls, the live row after the end, prices in single precision
and in pence, refusals in four shapes. Shares no code with `marketd.sources.yahoo`, so that one can be tested by the
other.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from types import TracebackType
from typing import Any, Self
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from aiohttp import WSMsgType, web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["Row", "YahooSimulator", "encode_pricing"]

_DAY_S = 86_400
_STEPS = {"1m": 60, "2m": 120, "5m": 300, "15m": 900, "30m": 1_800, "60m": 3_600, "90m": 5_400, "1h": 3_600}
_DAILY = "1d"
_RANGES = {"1d": 1, "5d": 5, "1mo": 31, "3mo": 92, "6mo": 183, "1y": 366, "2y": 731, "5y": 1_827, "max": 36_500}
_DEPTH_DAYS = {"1m": 30, "1h": 730, "60m": 730}
_OUTBOX_MAX = 100_000

_NUMBERS: dict[str, tuple[int, str]] = {
    "id": (1, "s"), "price": (2, "f"), "time": (3, "z"), "currency": (4, "s"), "exchange": (5, "s"),
    "quote_type": (6, "v"), "market_hours": (7, "v"), "change_percent": (8, "f"), "day_volume": (9, "z"),
    "change": (12, "f"), "bid": (23, "f"), "bid_size": (24, "z"), "ask": (25, "f"), "ask_size": (26, "z"),
    "price_hint": (27, "z"),
}  # fmt: skip
"""The fields that the simulator sends, their number and how they are written: s text, f float, v varint, z zigzag."""

Row = tuple[int, float, float, float, float, float]
"""Start in epoch seconds, open, high, low, close, volume."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_pricing(fields: Mapping[str, Any]) -> bytes:
    """The protobuf message; zeros and empty texts are left out, as proto3 does."""
    out = bytearray()
    for name, (number, kind) in _NUMBERS.items():
        value = fields.get(name)
        if not value:
            continue
        if kind == "s":
            text = str(value).encode()
            out += _varint(number << 3 | 2) + _varint(len(text)) + text
        elif kind == "f":
            out += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            out += _varint(number << 3) + _varint((value << 1) ^ (value >> 63) if kind == "z" else value)
    return bytes(out)


def _single(value: float) -> float:
    """As Yahoo writes it: a single-precision number, spelled as a double."""
    return float(np.float32(value))


@dataclass(frozen=True)
class _Kind:
    """opens, closes: the session, local time; None: around the clock."""

    zone: str
    opens: time | None
    closes: time | None
    currency: str
    name: str
    number: int
    exchange: str
    decimals: int = 2
    weekends: bool = False


_US = _Kind("America/New_York", time(9, 30), time(16), "USD", "EQUITY", 8, "NMS")
_KINDS: tuple[tuple[str, _Kind], ...] = (
    ("=X", _Kind("Europe/London", None, None, "USD", "CURRENCY", 14, "CCY", decimals=4)),
    ("-USD", _Kind("UTC", None, None, "USD", "CRYPTOCURRENCY", 41, "CCC", weekends=True)),
    (".L", _Kind("Europe/London", time(8), time(16, 30), "GBp", "EQUITY", 8, "LSE")),
    (".T", _Kind("Asia/Tokyo", time(9), time(15, 30), "JPY", "EQUITY", 8, "JPX")),
)


@dataclass
class _Instrument:
    """One market. Prices are kept as traded, in ticks of `10 ** -decimals`.

    minutes, days: columns start (epoch s), open, high, low, close, volume; nulls: which minutes had no trade.
    splits: (second, new, old). dividends: (second, declared amount a share).
    """

    symbol: str
    kind: _Kind
    minutes: np.ndarray[Any, np.dtype[np.int64]]
    nulls: np.ndarray[Any, np.dtype[np.bool_]]
    days: np.ndarray[Any, np.dtype[np.int64]]
    splits: list[tuple[int, int, int]] = field(default_factory=list)
    dividends: list[tuple[int, float]] = field(default_factory=list)
    ticks: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def unit(self) -> int:
        return int(10**self.kind.decimals)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.kind.zone)

    def factor(self, second: int) -> float:
        """What prices before later splits are divided by."""
        product = 1.0
        for at, new, old in self.splits:
            if at > second:
                product *= new / old
        return product

    def last(self) -> tuple[int, int]:
        """(second, price in ticks) of the newest trade."""
        if self.ticks:
            return self.ticks[-1][:2]
        row = self.minutes[~self.nulls][-1]
        return int(row[0]) + 59, int(row[4])

    def local_day(self, second: int) -> date:
        return datetime.fromtimestamp(second, self.zone).date()

    def opening(self, day: date) -> int:
        """The stamp of a day's bar."""
        return int(datetime.combine(day, self.kind.opens or time(0), self.zone).timestamp())

    def trades_on(self, day: date) -> bool:
        return self.kind.weekends or day.weekday() < 5


def _walk(rng: np.random.Generator, price: int, n: int, spread: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """n rows of open, high, low, close, volume."""
    if not n:
        return np.empty((0, 5), np.int64)
    steps = np.rint(np.cumsum(rng.normal(0.0, spread, n)) * price).astype(np.int64)
    close = np.maximum(price + steps, price // 4)
    open_ = np.concatenate([[price], close[:-1]])
    wide = np.rint(rng.exponential(spread, (2, n)) * price).astype(np.int64)
    high, low = np.maximum(open_, close) + wide[0], np.maximum(np.minimum(open_, close) - wide[1], 1)
    return np.column_stack([open_, high, low, close, rng.integers(1, 50_000, n)])


def _made(symbol: str, seed: int, now_s: int, history_days: int, history_years: int) -> _Instrument:
    kind = next((kind for ending, kind in _KINDS if symbol.endswith(ending)), _US)
    rng = np.random.default_rng([seed, zlib.crc32(symbol.encode())])
    bare = _Instrument(symbol, kind, np.empty((0, 6), np.int64), np.empty(0, np.bool_), np.empty((0, 6), np.int64))
    today = bare.local_day(now_s)
    recent = [day for back in range(history_days, -1, -1) if bare.trades_on(day := today - timedelta(back))]
    starts: list[int] = []
    for day in recent:
        begin = bare.opening(day)
        closes = datetime.combine(day, kind.closes, bare.zone) if kind.closes else None
        end = int(closes.timestamp()) if closes else bare.opening(day + timedelta(1))
        starts += range(begin, min(end, now_s // 60 * 60), 60)
    price = int(rng.integers(50 * bare.unit, 400 * bare.unit))
    if kind.name == "CURRENCY":
        price = int(rng.integers(5_000, 20_000))
    rows = _walk(rng, price, len(starts), 0.0004)
    minutes = np.column_stack([np.array(starts, np.int64), rows])
    nulls = rng.random(len(starts)) < 0.15
    nulls[:1] = False

    first = recent[0] if recent else today
    past = [day for back in range(365 * history_years, 0, -1) if bare.trades_on(day := first - timedelta(back))]
    days = np.column_stack([[bare.opening(day) for day in past], _walk(rng, price, len(past), 0.01)])
    made = _Instrument(symbol, kind, minutes, nulls, days.astype(np.int64).reshape(-1, 6))
    if kind.name == "EQUITY" and len(past) > 200:
        split = made.opening(past[len(past) // 2])
        made.splits = [(split, 4, 1)]
        made.dividends = [
            (made.opening(past[at]), round(0.1 + 0.02 * n, 2)) for n, at in enumerate(range(30, len(past), 63))
        ]
        before = made.days[:, 0] < split
        made.days[before, 1:5] *= 4  # as traded: four times as dear before
        made.days[before, 5] //= 4
    return made


@dataclass(eq=False)
class _Client:
    request: web.Request
    symbols: dict[str, None] = field(default_factory=dict)
    outbox: asyncio.Queue[str | None] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))

    def cut(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class YahooSimulator:
    """Use as an async context; then `rest_url`, `cookie_url` and `ws_url` are known.

    symbols: Yahoo's names; what they end in says what they are. history_days: of minutes, the last one up to now;
    history_years: of days before them. tick_interval_s: a random tick of every symbol so often; None: only `tick` makes
    them. The same for the same seed and clock.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("AAPL", "BRK-B", "VOD.L", "7203.T", "^GSPC", "EURUSD=X", "BTC-USD"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        tick_interval_s: float | None = None,
        history_days: int = 3,
        history_years: int = 2,
    ) -> None:
        self._clock = clock or SystemClock()
        self._port = port
        self._tick_interval_s = tick_interval_s
        self._rng = np.random.default_rng([seed, 1])
        now_s = self._now_s()
        self._instruments = {name: _made(name, seed, now_s, history_days, history_years) for name in symbols}
        self._clients: list[_Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._muted = False
        self._sessions = 0
        self._throttles = 0
        self._pages = 0
        self.misbehaviour = Misbehaviour()
        self.consent_required = False
        """Whether the page that gives the cookie sends to another that asks for consent."""
        self.live_row = True
        """Whether charts end with the last trade, whatever was asked for."""
        self.requests: deque[str] = deque(maxlen=1_000)
        """Path and query of the requests, oldest first."""
        self.commands: deque[dict[str, Any]] = deque(maxlen=1_000)
        """What clients sent over WebSocket, oldest first."""

    def _now_s(self) -> int:
        return self._clock.time_ns() // 1_000_000_000

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
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.go_down()

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def cookie_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/fc"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/?version=2"

    @property
    def connections(self) -> int:
        """WebSocket clients connected now."""
        return len(self._clients)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._instruments)

    @property
    def secrets(self) -> tuple[str, str]:
        """The cookie and the crumb that are good now."""
        return f"A3=d=AQABB{self._sessions:04d}&S=AQAAAk", f"Ks3Zl.kd{self._sessions:02d}r"

    # Commands

    def tick(
        self,
        symbol: str,
        *,
        price: float | None = None,
        size: int | None = None,
        bid: float | None = None,
        ask: float | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """One trade now, told to the subscribers; a price that is not given is drawn. Returns the fields sent.

        bid, ask: 0 for none. others: further fields of the message, or other values of them (market_hours=0).
        """
        instrument = self._instruments[symbol]
        _, last = instrument.last()
        if price is None:
            ticks = max(int(last * (1 + float(self._rng.uniform(-0.0005, 0.0005)))), 2)
        else:
            ticks = round(price * instrument.unit)
        if size is None:
            size = int(self._rng.integers(1, 500))
        instrument.ticks.append((self._now_s(), ticks, size))
        unit, kind = instrument.unit, instrument.kind
        fields: dict[str, Any] = {
            "id": symbol,
            "price": ticks / unit,
            "time": self._clock.time_ns() // 1_000_000,
            "currency": kind.currency if kind.name == "EQUITY" else "",
            "exchange": kind.exchange,
            "quote_type": kind.number,
            "market_hours": 1,
            "change_percent": (ticks - last) * 100 / last,
            "day_volume": sum(each[2] for each in instrument.ticks),
            "change": (ticks - last) / unit,
            "bid": (ticks - 1) / unit if bid is None else bid,
            "bid_size": 3,
            "ask": (ticks + 1) / unit if ask is None else ask,
            "ask_size": 2,
            "price_hint": kind.decimals,
        } | others
        self.say(fields)
        return fields

    def say(self, fields: Mapping[str, Any]) -> None:
        """A message of the stream as it is given, to those that subscribed its id."""
        message = base64.b64encode(encode_pricing(fields)).decode()
        self.say_raw(msgspec.json.encode({"type": "pricing", "message": message}).decode(), str(fields.get("id", "")))

    def say_raw(self, text: str, symbol: str | None = None) -> None:
        """A frame, to those that subscribed the symbol, or to all."""
        if self._muted:
            return
        for client in self._clients:
            if symbol is None or symbol in client.symbols:
                if client.outbox.full():
                    client.cut()
                else:
                    client.outbox.put_nowait(text)

    def drop_connections(self) -> None:
        """Cut every WebSocket without a goodbye."""
        for client in self._clients:
            client.cut()

    def close_connections(self) -> None:
        """Say goodbye on every WebSocket."""
        for client in self._clients:
            client.outbox.put_nowait(None)

    async def go_down(self) -> None:
        """Cut every connection and refuse new ones until `come_back`. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.drop_connections()
            await runner.cleanup()

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        app = web.Application(middlewares=[self._guard, self.misbehaviour.middleware])
        app.add_routes(
            [
                web.get("/", self._stream),
                web.get("/fc/", self._cookie),
                web.get("/v1/test/getcrumb", self._crumb),
                web.get("/v7/finance/quote", self._quote),
                web.get("/v7/finance/options/{symbol}", self._options),
                web.get("/v8/finance/chart/{symbol}", self._chart),
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

    def expire_crumb(self) -> None:
        """Cookie and crumb are good no longer; others can be had."""
        self._sessions += 1

    def throttle(self, count: int) -> None:
        """Answer the next requests with 429, a line of text and no Retry-After."""
        self._throttles = count

    def be_back(self, count: int) -> None:
        """Answer the next requests with 503 and a page of HTML."""
        self._pages = count

    # Truth

    def bars(self, symbol: str, interval: str) -> list[Row]:
        """Every bar with trades, ascending, adjusted for splits: what charts show, without nulls and the live row."""
        instrument = self._instruments[symbol]
        return [row for row, is_null in self._rows(instrument, interval) if not is_null]

    def splits(self, symbol: str) -> list[tuple[date, int, int]]:
        """(ex date, new shares, for old ones)"""
        instrument = self._instruments[symbol]
        return [(instrument.local_day(at), new, old) for at, new, old in instrument.splits]

    def dividends(self, symbol: str) -> list[tuple[date, float]]:
        """(ex date, declared amount for a share of then)"""
        instrument = self._instruments[symbol]
        return [(instrument.local_day(at), amount) for at, amount in instrument.dividends]

    def _rows(self, instrument: _Instrument, interval: str) -> list[tuple[Row, bool]]:
        """Rows with whether they are nulls."""
        unit = instrument.unit
        minutes = [
            ((row[0], row[1] / unit, row[2] / unit, row[3] / unit, row[4] / unit, float(row[5])), bool(is_null))
            for row, is_null in zip(instrument.minutes.tolist(), instrument.nulls.tolist(), strict=True)
        ]
        minutes += [(row, False) for row in _of_ticks(instrument)]
        if interval == "1m":
            return minutes
        if interval != _DAILY:
            step = _STEPS[interval]
            first = {instrument.local_day(row[0]): row[0] for row, _ in reversed(minutes)}

            def start(second: int) -> int:
                begin = first[instrument.local_day(second)] if step >= 3_600 else 0
                return begin + (second - begin) // step * step

            return _merged(minutes, start)
        days: list[tuple[Row, bool]] = []
        for at, *prices, volume in instrument.days.tolist():
            factor = instrument.factor(at)
            opened, high, low, close = (price / (unit * factor) for price in prices)
            days.append(((at, opened, high, low, close, float(volume * factor)), False))
        return days + _merged(minutes, lambda second: instrument.opening(instrument.local_day(second)))

    # WebSocket

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        if not socket.can_prepare(request).ok:
            return web.Response(status=404, text="<html>", content_type="text/html")
        await socket.prepare(request)
        client = _Client(request)
        self._clients.append(client)
        try:
            async with _cancelled_afterwards(self._write(client, socket)):
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        self._obey(client, message.data)
        finally:
            self._clients.remove(client)
        return socket

    async def _write(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            text = await client.outbox.get()
            if text is None:
                await socket.close()
            else:
                await socket.send_str(text)

    def _obey(self, client: _Client, text: str) -> None:
        """Symbols that are not there are passed over in silence."""
        try:
            request = msgspec.json.decode(text, type=dict[str, list[str]])
        except msgspec.DecodeError:
            return
        self.commands.append(request)
        for symbol in request.get("subscribe", []):
            client.symbols[symbol] = None
        for symbol in request.get("unsubscribe", []):
            client.symbols.pop(symbol, None)

    async def _tick_by_itself(self, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            for symbol in self._instruments:
                self.tick(symbol)

    # Requests

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == "/":
            return await handler(request)
        self.requests.append(request.path_qs)
        if self._throttles:
            self._throttles -= 1
            return web.Response(status=429, text="Too Many Requests\r\n")
        if self._pages:
            self._pages -= 1
            page = "<html><body>Will be right back...</body></html>"
            return web.Response(status=503, text=page, content_type="text/html")
        return await handler(request)

    async def _cookie(self, _: web.Request) -> web.Response:
        if self.consent_required:
            return web.Response(status=302, headers={"Location": "https://guce.yahoo.com/consent?gcrumb=x"})
        answer = web.Response(status=404, text="<html><body>Not found on Accelerator</body></html>")
        answer.headers["Set-Cookie"] = self.secrets[0] + "; Max-Age=31557600; Path=/; HttpOnly"
        return answer

    def _has_cookie(self, request: web.Request) -> bool:
        return self.secrets[0] in request.headers.get("Cookie", "")

    async def _crumb(self, request: web.Request) -> web.Response:
        if not self._has_cookie(request):
            return _refusal("finance", 401, "Unauthorized", "Invalid Cookie")
        return web.Response(text=self.secrets[1])

    def _denied(self, request: web.Request) -> web.Response | None:
        if self._has_cookie(request) and request.query.get("crumb") == self.secrets[1]:
            return None
        return _refusal("finance", 401, "Unauthorized", "Invalid Crumb")

    async def _quote(self, request: web.Request) -> web.Response:
        if (denied := self._denied(request)) is not None:
            return denied
        names = request.query.get("symbols", "").split(",")
        rows = [self._quoted(self._instruments[name]) for name in names if name in self._instruments]
        return _json({"quoteResponse": {"result": rows, "error": None}})

    def _quoted(self, instrument: _Instrument) -> dict[str, Any]:
        second, ticks = instrument.last()
        unit, kind = instrument.unit, instrument.kind
        row: dict[str, Any] = {
            "symbol": instrument.symbol,
            "quoteType": kind.name,
            "marketState": "REGULAR",
            "currency": kind.currency,
            "exchange": kind.exchange,
            "exchangeTimezoneName": kind.zone,
            "exchangeDataDelayedBy": 0,
            "priceHint": kind.decimals,
            "regularMarketPrice": ticks / unit,
            "regularMarketTime": second,
            "regularMarketVolume": sum(each[2] for each in instrument.ticks),
        }
        if kind.name != "CRYPTOCURRENCY":
            row |= {"bid": (ticks - 1) / unit, "ask": (ticks + 1) / unit, "bidSize": 3, "askSize": 2}
        return row

    async def _options(self, request: web.Request) -> web.Response:
        if (denied := self._denied(request)) is not None:
            return denied
        instrument = self._instruments.get(request.match_info["symbol"])
        if instrument is None:
            return _json({"optionChain": {"result": [], "error": None}})
        listed = self.expiries(instrument.symbol)
        seconds = [int(datetime.combine(day, time(0), UTC).timestamp()) for day in listed]
        asked = int(request.query["date"]) if "date" in request.query else (seconds or [0])[0]
        options = [self._expiry(instrument, asked)] if asked in seconds else []
        found = {
            "underlyingSymbol": instrument.symbol,
            "expirationDates": seconds,
            "strikes": sorted({each["strike"] for option in options for each in option["calls"]}),
            "hasMiniOptions": False,
            "quote": self._quoted(instrument),
            "options": options,
        }
        return _json({"optionChain": {"result": [found], "error": None}})

    def expiries(self, symbol: str) -> list[date]:
        """Fridays from the one before today on; none but for stocks that trade in dollars."""
        instrument = self._instruments[symbol]
        if instrument.kind is not _US or symbol.startswith("^"):
            return []
        today = instrument.local_day(self._now_s())
        friday = today - timedelta((today.weekday() - 4) % 7 or 7)
        return [friday + timedelta(7 * week) for week in range(4)]

    def _expiry(self, instrument: _Instrument, second: int) -> dict[str, Any]:
        """Every third contract has neither bid nor ask, and a volatility that stands in for none."""
        _, ticks = instrument.last()
        centre = round(ticks / instrument.unit / 5) * 5
        day = datetime.fromtimestamp(second, UTC)
        sides: dict[str, list[dict[str, Any]]] = {"calls": [], "puts": []}
        for n, strike in enumerate(range(centre - 20, centre + 25, 5)):
            for side, letter in (("calls", "C"), ("puts", "P")):
                quoted = (n + (letter == "P")) % 3 != 0
                contract: dict[str, Any] = {
                    "contractSymbol": f"{instrument.symbol}{day:%y%m%d}{letter}{strike * 1_000:08d}",
                    "strike": strike,
                    "currency": "USD",
                    "lastPrice": 1.5 + n,
                    "change": 0,
                    "percentChange": 0,
                    "openInterest": 10 * n,
                    "bid": 1.25 + n if quoted else 0,
                    "ask": 1.75 + n if quoted else 0,
                    "contractSize": "REGULAR",
                    "expiration": second,
                    "lastTradeDate": self._now_s() - 3_600,
                    "impliedVolatility": 0.25 + n / 64 if quoted else 0.500005,
                    "inTheMoney": (strike < centre) == (letter == "C"),
                }
                if quoted:
                    contract["volume"] = n
                sides[side].append(contract)
        return {"expirationDate": second, "hasMiniOptions": False, **sides}

    async def _chart(self, request: web.Request) -> web.Response:
        instrument = self._instruments.get(request.match_info["symbol"])
        if instrument is None:
            return _refusal("chart", 404, "Not Found", "No data found, symbol may be delisted")
        query, now_s = request.query, self._now_s()
        interval = query.get("interval", _DAILY)
        if interval != _DAILY and interval not in _STEPS:
            return _refusal(
                "chart", 422, "Unprocessable Entity", f"Invalid input - interval={interval} is not supported"
            )
        if "period1" in query:
            start_s, end_s = int(query["period1"]), int(query["period2"])
        else:
            # counted from the last session, not from now
            start_s, end_s = instrument.last()[0] - _RANGES.get(query.get("range", "1mo"), 31) * _DAY_S, now_s + 1
        if start_s > end_s:
            return _refusal("chart", 400, "Bad Request", "Invalid input - start date cannot be after end date.")
        words = f"{interval} data not available for startTime={start_s} and endTime={end_s}."
        depth_days = _DEPTH_DAYS.get(interval, 60)
        if interval != _DAILY and start_s < now_s - depth_days * _DAY_S:
            words += f" The requested range must be within the last {depth_days} days."
            return _refusal("chart", 422, "Unprocessable Entity", words)
        if interval == "1m" and end_s - start_s > 8 * _DAY_S:
            words += " Only 8 days worth of 1m granularity data are allowed to be fetched per request."
            return _refusal("chart", 422, "Unprocessable Entity", words)
        rows = [(row, is_null) for row, is_null in self._rows(instrument, interval) if start_s <= row[0] < end_s]
        if not rows and interval == _DAILY:
            words = f"Data doesn't exist for startDate = {start_s}, endDate = {end_s}"
            return _refusal("chart", 400, "Bad Request", words)
        if rows and self.live_row:
            rows.append((self._live(instrument, rows[-1][0], interval), False))
        return _json(
            {"chart": {"result": [self._result(instrument, interval, rows, query, start_s, end_s)], "error": None}}
        )

    def _live(self, instrument: _Instrument, newest: Row, interval: str) -> Row:
        """The last trade as a row; of a day that has a row, all of that day."""
        second, ticks = instrument.last()
        price = ticks / instrument.unit
        if interval == _DAILY and instrument.local_day(newest[0]) == instrument.local_day(second):
            return (second, *newest[1:])
        return second, price, price, price, price, 0.0

    def _result(
        self,
        instrument: _Instrument,
        interval: str,
        rows: Iterable[tuple[Row, bool]],
        query: Mapping[str, str],
        start_s: int,
        end_s: int,
    ) -> dict[str, Any]:
        kind, second = instrument.kind, instrument.last()[0]
        columns: list[list[Any]] = [[] for _ in range(6)]
        for row, is_null in rows:
            columns[0].append(row[0])
            for column, value in zip(columns[1:5], row[1:5], strict=True):
                column.append(None if is_null else _single(value))
            columns[5].append(None if is_null else 0 if kind.name == "CURRENCY" else round(row[5]))
        names = ("open", "high", "low", "close", "volume")
        quote = dict(zip(names, columns[1:], strict=True)) if columns[0] else {}
        indicators: dict[str, Any] = {"quote": [quote]}
        if interval == _DAILY:
            indicators["adjclose"] = [{"adjclose": columns[4]}]
        offset = datetime.fromtimestamp(second, instrument.zone).utcoffset()
        meta: dict[str, Any] = {
            "currency": kind.currency,
            "symbol": instrument.symbol,
            "exchangeName": kind.exchange,
            "instrumentType": kind.name,
            "firstTradeDate": int(instrument.days[0][0]) if len(instrument.days) else None,
            "regularMarketTime": second,
            "gmtoffset": int(offset.total_seconds()) if offset else 0,
            "exchangeTimezoneName": kind.zone,
            "regularMarketPrice": instrument.last()[1] / instrument.unit,
            "priceHint": kind.decimals,
            "dataGranularity": interval,
            "range": query.get("range", ""),
            "validRanges": [*_RANGES],
        }
        meta |= self._sessions_of(instrument, second, columns[0])
        result: dict[str, Any] = {"meta": meta, "indicators": indicators}
        if columns[0]:
            result["timestamp"] = columns[0]
        events = self._events(instrument, query.get("events", ""), start_s, end_s)
        if events:
            result["events"] = events
        return result

    def _sessions_of(self, instrument: _Instrument, second: int, stamps: Iterable[int]) -> dict[str, Any]:
        def session(day: date) -> dict[str, Any]:
            begin = instrument.opening(day)
            closes = instrument.kind.closes
            end = datetime.combine(day, closes, instrument.zone).timestamp() if closes else begin + _DAY_S
            return {"timezone": "LCL", "start": begin, "end": int(end), "gmtoffset": 0}

        now = session(instrument.local_day(second))
        days = dict.fromkeys(map(instrument.local_day, stamps))
        return {
            "currentTradingPeriod": {"pre": now, "regular": now, "post": now},
            "tradingPeriods": [[session(day)] for day in days],
        }

    def _events(self, instrument: _Instrument, wanted: str, start_s: int, end_s: int) -> dict[str, Any]:
        events: dict[str, Any] = {}
        if "div" in wanted:
            events["dividends"] = {
                str(at): {"amount": round(amount / instrument.factor(at), 6), "date": at}
                for at, amount in instrument.dividends
                if start_s <= at < end_s
            }
        if "split" in wanted:
            events["splits"] = {
                str(at): {"date": at, "numerator": new, "denominator": old, "splitRatio": f"{new}:{old}"}
                for at, new, old in instrument.splits
                if start_s <= at < end_s
            }
        return {name: found for name, found in events.items() if found}


def _of_ticks(instrument: _Instrument) -> list[Row]:
    """Minutes of the ticks since the start."""
    rows: dict[int, list[float]] = {}
    for second, ticks, size in instrument.ticks:
        price = ticks / instrument.unit
        row = rows.setdefault(second // 60 * 60, [price, price, price, price, 0.0])
        rows[second // 60 * 60] = [row[0], max(row[1], price), min(row[2], price), price, row[4] + size]
    return [(start, row[0], row[1], row[2], row[3], row[4]) for start, row in sorted(rows.items())]


def _merged(minutes: Iterable[tuple[Row, bool]], start: Callable[[int], int]) -> list[tuple[Row, bool]]:
    """Longer bars; one of nothing but nulls is null."""
    rows: dict[int, list[float]] = {}
    begins: dict[int, None] = {}
    for (second, opened, high, low, close, volume), is_null in minutes:
        begin = start(second)
        begins[begin] = None
        if is_null:
            continue
        row = rows.get(begin)
        if row is None:
            rows[begin] = [opened, high, low, close, volume]
        else:
            rows[begin] = [row[0], max(row[1], high), min(row[2], low), close, row[4] + volume]
    empty = [0.0] * 5
    return [((begin, *_five(rows.get(begin, empty))), begin not in rows) for begin in begins]


def _five(values: Sequence[float]) -> tuple[float, float, float, float, float]:
    opened, high, low, close, volume = values
    return opened, high, low, close, volume


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _refusal(part: str, status: int, code: str, description: str) -> web.Response:
    return _json({part: {"result": None, "error": {"code": code, "description": description}}}, status=status)


@asynccontextmanager
async def _cancelled_afterwards(job: Any) -> AsyncIterator[None]:
    """Run a coroutine beside the body and end it with it; what failed in it other than a lost peer is raised."""
    task = asyncio.create_task(job)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ConnectionError):
        raise error
