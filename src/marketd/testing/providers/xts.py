"""The wire format of XTS market data as a local server: requests, Engine.IO 3 and Socket.IO 2 on one port.

Owns a seeded market (touchlines, minutes of earlier days) and the manners of the real service as they were documented
and recorded: one session a key, subscriptions that belong to the session and are refused as a batch, quotes as JSON
inside JSON in two shapes, seconds that count from 1980 or pretend to be Unix, bars stamped with their last second.
Shares no code with `marketd.sources.xts`, so that one can be tested by the other. It refuses accounts and orders, and
messages other than 1501, 1502, 1105 and 1507.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import WSMsgType, web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["XtsSimulator"]

_INDIA = ZoneInfo("Asia/Kolkata")
_1980 = datetime(1980, 1, 1)  # noqa: DTZ001 of the wall clock
_1970 = datetime(1970, 1, 1)  # noqa: DTZ001 of the wall clock
_NUMBERS = {"NSECM": 1, "NSEFO": 2, "NSECD": 3, "BSECM": 11, "BSEFO": 12, "MCXFO": 51}
_COMPRESSIONS = (60, 120, 180, 300, 600, 900, 1_800, 3_600)
_OPENS_MINUTE, _CLOSES_MINUTE = 9 * 60 + 15, 15 * 60 + 30
_OUTBOX_MAX = 10_000

_MASTER = (
    (
        "NSECM|2885|8|RELIANCE|RELIANCE-EQ|EQ|RELIANCE-EQ|1100100002885|1440.4|1178.6|67662|0.1|1|1|RELIANCE|INE002A01018"
        "|1|1|RELIANCE INDUSTRIES LTD-EQ|0|-1|-1"
    ),
    (
        "NSECM|1594|8|INFY|INFY-EQ|EQ|INFY-EQ|1100100001594|1650.2|1350.2|50001|0.1|1|1|INFY|INE009A01021"
        "|1|1|INFOSYS LIMITED-EQ|0|-1|-1"
    ),
    (
        "NSECM|11536|8|TCS|TCS-EQ|EQ|TCS-EQ|1100100011536|3400|2800|30001|0.1|1|1|TCS|INE467B01029"
        "|1|1|TATA CONSULTANCY SERV LT-EQ|0|-1|-1"
    ),
    (
        "NSECM|19234|8|INFY|INFY-BL|BL|INFY-BL|1100100019234|1650.2|1350.2|50001|0.1|1|1|INFY|INE009A01021"
        "|1|1|INFOSYS LIMITED-BL|0|-1|-1"
    ),
    (
        "NSEFO|62329|1|NIFTY|NIFTY26JUNFUT|FUTIDX|NIFTY-FUTIDX|2618100062329|26237.7|21467.3|1801|0.1|65|1|-1|Nifty 50"
        "|2026-06-30T14:30:00|NIFTY 30JUN2026|1|1|NIFTY26JUNFUT"
    ),
    (
        "NSEFO|48225|2|NIFTY|NIFTY26JUN25700PE|OPTIDX|NIFTY-OPTIDX|2618100048225|588.1|14.5|1801|0.05|65|1|-1|Nifty 50"
        "|2026-06-30T14:30:00|25700|4|NIFTY 30JUN2026 PE 25700|1|1|NIFTY26JUN25700PE"
    ),
    (
        "NSEFO|9028052|4|GAIL|GAIL26JUN26JULFUT|FUTSTK|GAIL-FUTSTK|2118109028052|12.85|-12.85|40001|0.05|1000|1|-1|"
        "|2026-06-30T14:30:00|GAIL 30JUN28JUL SPD|1|1|GAIL26JUN26JULFUT"
    ),
    (
        "BSECM|500325|8|RELIANCE|RELIANCE|A|RELIANCE-A|1100100500325|1440.4|1178.6|67662|0.05|1|1|RELIANCE|INE002A01018"
        "|1|1|RELIANCE INDUSTRIES LTD|0|-1|-1"
    ),
    (
        "BSECM|532540|8|TCS|TCS|A|TCS-A|1100100532540|3400|2800|30001|0.05|1|1|TCS|INE467B01029"
        "|1|1|TATA CONSULTANCY SERVICES LTD|0|-1|-1"
    ),
    (
        "MCXFO|440939|1|CRUDEOIL|CRUDEOIL26JUNFUT|FUTCOM|CRUDEOIL-FUTCOM|5115400440939|6000|5000|10001|1|1|100|-1|"
        "|2026-06-18T23:30:00|CRUDEOIL 18JUN2026|1|1|CRUDEOIL26JUNFUT"
    ),
)
_INDICES = {
    1: ("NIFTY 50_26000", "NIFTY BANK_26001", "INDIA VIX_26002"),
    11: ("SENSEX_26065",),
}

Key = tuple[int, int]
Row = tuple[int, float, float, float, float, int]
"""Start in Unix seconds, open, high, low, close, volume."""


def _wall(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.time_ns() / 1e9, UTC).astimezone(_INDIA).replace(tzinfo=None)


def _dressed(start_s: int) -> int:
    """Unix seconds of India's wall clock."""
    wall = datetime.fromtimestamp(start_s, UTC).astimezone(_INDIA).replace(tzinfo=None)
    return round((wall - _1970).total_seconds())


class _Instrument:
    """One instrument. Prices are whole steps of 0.05, so that their decimals are exact texts."""

    def __init__(self, segment: str, number: int, name: str, seed: int, *, index: bool) -> None:
        self.segment = segment
        self.key: Key = (_NUMBERS[segment], number)
        self.name = name
        self.index = index
        self.rng = random.Random(f"{seed}:{segment}:{number}")
        self.price = self.rng.randint(2_000, 60_000) * 0.05
        self.opened = self.previous = self.high = self.low = round(self.price, 2)
        self.volume = 0
        self.size = 0
        self.bid: float | None = None
        self.ask: float | None = None
        self.bid_size = self.ask_size = 0
        self.traded: datetime | None = None
        self.sequence = self.rng.randint(10**15, 2 * 10**15)
        self.minutes: dict[int, Row] | None = None

    def tick(
        self, price: float | None, bid: float | None, ask: float | None, size: int | None, now: datetime, *, book: bool
    ) -> None:
        if price is None:
            price = max(1.0, self.price + self.rng.randint(-20, 20) * 0.05)
        self.price = round(price, 2)
        self.high, self.low = max(self.high, self.price), min(self.low, self.price)
        self.traded = now
        self.sequence += self.rng.randint(1, 1_000)
        if self.index:
            return
        self.size = self.rng.randint(1, 500) if size is None else size
        self.volume += self.size
        if not book:
            return
        self.bid = round(self.price - 0.05, 2) if bid is None else bid
        self.ask = round(self.price + 0.05, 2) if ask is None else ask
        self.bid_size, self.ask_size = self.rng.randint(1, 900), self.rng.randint(1, 900)

    def grow(self, last_day: date, days: int) -> dict[int, Row]:
        """Minutes of the sessions of so many days that end with `last_day`, by their start, a tenth without a trade."""
        found: dict[int, Row] = {}
        price = self.rng.randint(2_000, 60_000)
        for back in range(days - 1, -1, -1):
            day = last_day - timedelta(days=back)
            midnight = datetime(day.year, day.month, day.day, tzinfo=_INDIA)
            for minute in range(_OPENS_MINUTE, _CLOSES_MINUTE):
                if not self.index and minute != _OPENS_MINUTE and self.rng.random() < 0.1:
                    continue
                steps = [price, *(price + self.rng.randint(-9, 9) for _ in range(3))]
                price = max(steps[3], 100)
                opened, high, low, closed = (
                    round(step * 0.05, 2) for step in (steps[0], max(*steps, price), min(steps), price)
                )
                start = round((midnight + timedelta(minutes=minute)).timestamp())
                volume = 0 if self.index else self.rng.randint(1, 90_000)
                found[start] = (start, opened, high, low, closed, volume)
        return found


@dataclass
class _Session:
    token: str
    subscribed: dict[int, dict[Key, None]] = field(default_factory=dict)


@dataclass(eq=False)
class _Client:
    """One Engine.IO session. request: that of its WebSocket, None before there is one. told: sides of the book, of a
    client that is told only what changed."""

    sid: str
    session: _Session
    partial: bool
    heard_ns: int
    request: web.Request | None = None
    told: dict[Key, dict[str, str]] = field(default_factory=dict)
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(_OUTBOX_MAX))

    def cut(self) -> None:
        if self.request is not None and self.request.transport is not None:
            self.request.transport.abort()


class XtsSimulator:
    """Use as an async context; then `rest_url` is known.

    times: what the seconds of quotes count, `since_1980` or `unix_ist`. subscription_max: of one kind of message and
    session. quantity_name: the server's spelling of the size of the last trade. snapshot_missing: names of instruments
    whose subscription is answered without a quote. noise: messages 1105 that nobody asked for, with every quote.
    history_days: of minutes, ending with the clock's day in India. tick_interval_s: a random quote of every instrument
    so often; None, only `tick` makes them. ping_interval_s, ping_timeout_s: a client that does not ping within their
    sum is cut off.
    """

    app_key = "app-key-of-the-simulator"
    secret_key = "Secret$123"  # noqa: S105 it opens nothing

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        times: Literal["since_1980", "unix_ist"] = "since_1980",
        subscription_max: int = 50,
        quantity_name: str = "LastTradedQunatity",
        snapshot_missing: Sequence[str] = (),
        noise: bool = True,
        history_days: int = 9,
        tick_interval_s: float | None = None,
        ping_interval_s: float = 20.0,
        ping_timeout_s: float = 60.0,
        extra_master: Sequence[str] = (),
    ) -> None:
        self._clock = clock or SystemClock()
        self._port = port
        self._times = times
        self.subscription_max = subscription_max
        self._quantity_name = quantity_name
        self._snapshot_missing = set(snapshot_missing)
        self._noise = noise
        self._history_days = history_days
        self._tick_interval_s = tick_interval_s
        self._ping_interval_s = ping_interval_s
        self._ping_timeout_s = ping_timeout_s
        self._rng = random.Random(seed)
        self._master = (*_MASTER, *extra_master)
        self._by_key: dict[Key, _Instrument] = {}
        self._by_name: dict[str, _Instrument] = {}
        for line in self._master:
            cells = line.split("|")
            self._add(_Instrument(cells[0], int(cells[1]), f"{cells[0]}:{cells[4]}", seed, index=False))
        segments = {number: name for name, number in _NUMBERS.items()}
        for number, names in _INDICES.items():
            for entry in names:
                name, _, identity = entry.rpartition("_")
                segment = segments[number]
                self._add(_Instrument(segment, int(identity), f"{segment}:{name}", seed, index=True))
        self._session: _Session | None = None
        self._clients: dict[str, _Client] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._muted = False
        self.misbehaviour = Misbehaviour()
        self.logins = 0
        self.requests: deque[tuple[str, str, Any]] = deque(maxlen=1_000)
        """Method, path and decoded body or query of the requests, oldest first; without those of the stream."""

    def _add(self, instrument: _Instrument) -> None:
        self._by_key[instrument.key] = instrument
        self._by_name[instrument.name] = instrument

    async def __aenter__(self) -> Self:
        await self.come_back()
        self._tasks = [asyncio.create_task(self._cut_those_that_do_not_ping())]
        if self._tick_interval_s is not None:
            self._tasks.append(asyncio.create_task(self._tick_by_itself(self._tick_interval_s)))
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
        return f"http://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """Clients whose WebSocket is open."""
        return sum(client.request is not None for client in self._clients.values())

    @property
    def token(self) -> str | None:
        """Of the session that is valid now."""
        return None if self._session is None else self._session.token

    @property
    def names(self) -> tuple[str, ...]:
        """Every instrument, as commands call them: `NSECM:RELIANCE-EQ`, `NSECM:NIFTY 50`."""
        return tuple(self._by_name)

    @property
    def subscribed(self) -> dict[int, list[str]]:
        """By kind of message, in the order of subscribing, of the session that is valid now."""
        if self._session is None:
            return {}
        return {code: [self._by_key[key].name for key in keys] for code, keys in self._session.subscribed.items()}

    # Commands

    def tick(
        self,
        name: str,
        *,
        price: float | None = None,
        bid: float | None = None,
        ask: float | None = None,
        size: int | None = None,
        book: bool = True,
        told: bool = True,
    ) -> None:
        """A trade, after which the book stands around it; what is not given is drawn. book: False leaves it as it was.
        told: to subscribers, too."""
        instrument = self._by_name[name]
        instrument.tick(price, bid, ask, size, _wall(self._clock), book=book)
        if told:
            for code in (1501, 1502):
                self._publish(code, instrument)

    def touchline(self, name: str) -> tuple[float | None, float | None, float | None, int, int, int]:
        """What is true now: bid, ask, last, bid size, ask size, volume."""
        it = self._by_name[name]
        last = it.price if it.traded is not None else None
        return it.bid, it.ask, last, it.bid_size, it.ask_size, it.volume

    def bars(self, name: str, start_s: int, end_s: int, seconds: int = 60) -> list[Row]:
        """What is true of the past, by the start of each bar in UTC."""
        rows: dict[int, list[Any]] = {}
        for start, opened, high, low, closed, volume in self._minutes(self._by_name[name]).values():
            begin = start // seconds * seconds
            row = rows.setdefault(begin, [begin, opened, high, low, closed, 0])
            row[2], row[3], row[4] = max(row[2], high), min(row[3], low), closed
            row[5] += volume
        return [tuple(row) for begin, row in sorted(rows.items()) if start_s <= begin < end_s]

    def drop_connections(self) -> None:
        """Cut every WebSocket without a goodbye. Subscriptions stay: they belong to the session."""
        for client in self._clients.values():
            client.cut()

    def close_connections(self) -> None:
        """Say Engine.IO's goodbye to every client."""
        for client in self._clients.values():
            self._send(client, "1")

    def expire(self) -> None:
        """End the session, as the day does: its token is invalid, its stream stays open and silent."""
        self._session = None

    def mute(self, *, muted: bool = True) -> None:
        """Say nothing more over WebSocket, not even to pings, and keep the connections open."""
        self._muted = muted

    def inject(self, packet: str) -> None:
        """Send this packet to every client as it is."""
        for client in self._clients.values():
            self._send(client, packet)

    def say_status(self, segment: str, message: str, *, market: int = 1) -> None:
        """Message 1507 to everybody."""
        body = {
            "MessageCode": 1507, "MessageVersion": 4, "ApplicationType": 0, "TokenID": 0,
            "ExchangeSegment": _NUMBERS[segment], "ExchangeInstrumentID": 0,
            "ExchangeTimeStamp": self._seconds(_wall(self._clock)), "exchangeSegment": _NUMBERS[segment],
            "tradingSession": 4, "maketType": market, "message": message, "SequenceNumber": 1,
        }  # fmt: skip
        for client in self._clients.values():
            self._send(client, _event("1507-json-full", _text(body)))

    async def go_down(self) -> None:
        """Cut every connection and refuse new ones until `come_back`. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.drop_connections()
            await runner.cleanup()
            self._clients.clear()

    async def come_back(self) -> None:
        """Listen again, on the same port."""
        app = web.Application(middlewares=[self.misbehaviour.middleware, self._guard])
        root = "/apimarketdata"
        app.add_routes(
            [
                web.get(f"{root}/socket.io/", self._stream),
                web.post(f"{root}/socket.io/", self._posted),
                web.post(f"{root}/auth/login", self._log_in),
                web.delete(f"{root}/auth/logout", self._log_out),
                web.get(f"{root}/config/clientConfig", self._config),
                web.post(f"{root}/instruments/master", self._give_master),
                web.get(f"{root}/instruments/indexlist", self._index_list),
                web.get(f"{root}/search/instruments", self._search),
                web.post(f"{root}/search/instrumentsbyid", self._search_by_id),
                web.post(f"{root}/instruments/quotes", self._quotes),
                web.post(f"{root}/instruments/subscription", self._subscribe),
                web.put(f"{root}/instruments/subscription", self._unsubscribe),
                web.get(f"{root}/instruments/ohlc", self._ohlc),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._port = runner.addresses[0][1]
        self._runner = runner

    # Time

    def _seconds(self, wall: datetime) -> int:
        begin = _1980 if self._times == "since_1980" else _1970
        return int((wall - begin).total_seconds())

    def _minutes(self, instrument: _Instrument) -> dict[int, Row]:
        if instrument.minutes is None:
            instrument.minutes = instrument.grow(_wall(self._clock).date(), self._history_days)
        return instrument.minutes

    # Requests

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.endswith("/socket.io/"):
            return await handler(request)
        body = await _body(request)
        seen = {**body, "secretKey": "…"} if "secretKey" in body else body
        self.requests.append((request.method, request.path.removeprefix("/apimarketdata"), seen or dict(request.query)))
        if not request.path.endswith("/auth/login"):
            session = self._session
            if session is None or request.headers.get("authorization") != session.token:
                return _error(400, "e-session-0007", "Invalid Token")
        return await handler(request)

    async def _log_in(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if (body.get("appKey"), body.get("secretKey"), body.get("source")) != (self.app_key, self.secret_key, "WEBAPI"):
            return _error(400, "e-user-0002", "Invalid appKey or secretKey")
        self.logins += 1
        self._session = _Session(f"eyJ.{self.logins}.{self._rng.randrange(16**32):032x}")
        result = {
            "token": self._session.token,
            "userID": "SIMUSER_1",
            "appVersion": "2.0",
            "application_expiry_date": "31-12-2030",
        }
        return _success("s-user-0001", "Valid User.", result)

    async def _log_out(self, _: web.Request) -> web.Response:
        self._session = None
        return _success("s-user-0001", "Logout successfully.", {})

    async def _config(self, _: web.Request) -> web.Response:
        result = {
            "exchangeSegments": _NUMBERS,
            "xtsMessageCode": {"touchlineEvent": 1501, "marketDepthEvent": 1502, "candleDataEvent": 1505},
            "publishFormat": ["Binary", "JSON"],
            "broadCastMode": ["Full", "Partial"],
            "instrumentType": {"1": "Future", "2": "Options", "4": "Spread", "8": "Equity"},
        }
        return _success("s-response-0001", "Fetched configurations successfully", result)

    async def _give_master(self, request: web.Request) -> web.Response:
        asked = (await _body(request)).get("exchangeSegmentList", [])
        lines = [line for line in self._master if line.partition("|")[0] in asked]
        return _success("s-instrument-0010", "Fetched master contract", "\n".join(lines) + "\n")

    async def _index_list(self, request: web.Request) -> web.Response:
        segment = request.query.get("exchangeSegment", "")
        names = _INDICES.get(int(segment) if segment.isdigit() else 0)
        if names is None:
            return _error(400, "e-instrument-0003", "Data not available")
        result = {"exchangeSegment": segment, "indexList": list(names)}
        return _success("s-instrument-0002", "Index List successfully", result)

    async def _search(self, request: web.Request) -> web.Response:
        wanted = request.query.get("searchString", "").upper()
        found = [line for line in self._master if wanted in line.split("|")[4]]
        return _success("s-search-0001", "Found", [_described(line) for line in found])

    async def _search_by_id(self, request: web.Request) -> web.Response:
        keys = _keys(await _body(request))
        lines = {(_NUMBERS[cells[0]], int(cells[1])): line for line in self._master for cells in [line.split("|")]}
        return _success("s-search-0001", "Found", [_described(lines[key]) for key in keys if key in lines])

    async def _quotes(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if body.get("publishFormat") != "JSON" or body.get("xtsMessageCode") not in (1501, 1502):
            return _error(400, "e-quotes-0002", "Invalid publishFormat or xtsMessageCode")
        keys = _keys(body)
        found = self._snapshots(int(body["xtsMessageCode"]), keys)
        result = {"mdp": body["xtsMessageCode"], "quotesList": _listed(keys), "listQuotes": found}
        return _success("s-quotes-0001", "Get quotes successfully!", result)

    async def _subscribe(self, request: web.Request) -> web.Response:
        body = await _body(request)
        assert self._session is not None
        code, keys = int(body["xtsMessageCode"]), _keys(body)
        mine = self._session.subscribed.setdefault(code, {})
        if any(key in mine for key in keys):
            return _error(400, "e-session-0002", "Instrument Already Subscribed !")
        if any(key not in self._by_key for key in keys):
            return _error(400, "e-instrument-0001", "Invalid Instrument")
        if len(mine) + len(keys) > self.subscription_max:
            words = f"Exceeded Instrument Subscription Limit of {self.subscription_max}"
            return _error(400, "e-session-0004", words)
        mine.update(dict.fromkeys(keys))
        shown = [key for key in keys if self._by_key[key].name not in self._snapshot_missing]
        result = {
            "mdp": code,
            "quotesList": _listed(keys),
            "listQuotes": self._snapshots(code, shown),
            "Remaining_Subscription_Count": self.subscription_max - len(mine),
        }
        return _success("s-session-0001", "Instrument subscribed successfully!", result)

    async def _unsubscribe(self, request: web.Request) -> web.Response:
        body = await _body(request)
        assert self._session is not None
        code, keys = int(body["xtsMessageCode"]), _keys(body)
        mine = self._session.subscribed.setdefault(code, {})
        if not any(key in mine for key in keys):
            return _error(400, "e-session-0003", "Instrument not subscribed")
        for key in keys:
            mine.pop(key, None)
        result = {"mdp": code, "unsubList": _listed(keys)}
        return _success("s-session-0001", "Instrument unsubscribed successfully!", result)

    async def _ohlc(self, request: web.Request) -> web.Response:
        query = request.query
        compression = query.get("compressionValue", "")
        daily = compression == "D"
        try:
            key = (_NUMBERS[query["exchangeSegment"]], int(query["exchangeInstrumentID"]))
            begin, end = (datetime.strptime(query[name], "%b %d %Y %H%M%S") for name in ("startTime", "endTime"))  # noqa: DTZ007
            seconds = 86_400 if daily else int(compression)
        except (KeyError, ValueError):
            return _error(400, "e-instrument-0001", "Bad Request")
        if (not daily and seconds not in _COMPRESSIONS) or key not in self._by_key:
            return _error(400, "e-instrument-0001", "Bad Request")
        low, high = ((moment - _1970).total_seconds() for moment in (begin, end))
        if not daily and high - low > 7 * 86_400:
            return _error(400, "e-instrument-0002", "The period is longer than 7 days")
        now_s = self._clock.time_ns() // 10**9
        rows: dict[int, list[Any]] = {}
        for start, opened, top, bottom, closed, volume in self._minutes(self._by_key[key]).values():
            stamp = _dressed(start)
            if not low <= stamp <= high or start > now_s:
                continue
            begun = stamp // seconds * seconds
            last = begun // 86_400 * 86_400 + _CLOSES_MINUTE * 60 - 1 if daily else begun + seconds - 1
            row = rows.setdefault(begun, [last, opened, top, bottom, closed, 0])
            row[2], row[3], row[4] = max(row[2], top), min(row[3], bottom), closed
            row[5] += volume
        text = ",".join("|".join(map(str, [*row, 0])) + "|" for _, row in sorted(rows.items()))
        result = {
            "exchangeSegment": query["exchangeSegment"],
            "exchangeInstrumentID": query["exchangeInstrumentID"],
            "dataReponse": text,
        }
        return _success("s-instrument-0002", "Data found", result)

    # Messages

    def _snapshots(self, code: int, keys: Sequence[Key]) -> list[str]:
        known = [self._by_key[key] for key in keys if key in self._by_key]
        return [_text(self._message(code, it, nested=code == 1502)) for it in known if it.traded is not None]

    def _message(self, code: int, it: _Instrument, *, nested: bool) -> dict[str, Any]:
        assert it.traded is not None
        stamp = self._seconds(it.traded)
        line = {
            "BidInfo": _level(it.bid, it.bid_size),
            "AskInfo": _level(it.ask, it.ask_size),
            "LastTradedPrice": it.price,
            self._quantity_name: it.size,
            "TotalBuyQuantity": it.bid_size * 7,
            "TotalSellQuantity": it.ask_size * 7,
            "TotalTradedQuantity": it.volume,
            "AverageTradedPrice": it.price,
            "LastTradedTime": stamp,
            "LastUpdateTime": stamp,
            "PercentChange": 0.5,
            "Open": it.opened,
            "High": it.high,
            "Low": it.low,
            "Close": it.previous,
            "TotalValueTraded": None,
        }
        names = {"ExchangeSegment": it.key[0], "ExchangeInstrumentID": it.key[1]}
        if not nested:
            return {"MessageCode": code, **names, **line, "XMarketType": 1, "BookType": 1}
        head = {"MessageCode": code, "MessageVersion": 4, "ApplicationType": 0, "TokenID": 0, **names}
        tail = {"BookType": 1, "XMarketType": 1, "SequenceNumber": it.sequence}
        depth = {}
        if code == 1502:
            depth = {
                "Bids": [_level(it.bid and round(it.bid - 0.05 * step, 2), it.bid_size + step) for step in range(5)],
                "Asks": [_level(it.ask and round(it.ask + 0.05 * step, 2), it.ask_size + step) for step in range(5)],
            }
        return {**head, "ExchangeTimeStamp": stamp, **depth, "Touchline": line, **tail}

    def _partial(self, client: _Client, it: _Instrument) -> str:
        """Only what changed: the book is told when it differs from what this client was told."""
        assert it.traded is not None
        stamp = self._seconds(it.traded)
        fields: dict[str, Any] = {"t": f"{it.key[0]}_{it.key[1]}", "ltp": it.price, "ltq": it.size, "v": it.volume}
        fields |= {"lut": stamp, "ltt": stamp}
        sides = {"ai": f"0|{it.ask_size}|{it.ask or 0:.2f}|1", "bi": f"0|{it.bid_size}|{it.bid or 0:.2f}|2"}
        told = client.told.setdefault(it.key, {})
        fields |= {name: side for name, side in sides.items() if told.get(name) != side}
        client.told[it.key] = sides
        return ",".join(f"{name}:{value}" for name, value in fields.items())

    def _publish(self, code: int, it: _Instrument) -> None:
        for client in self._clients.values():
            if client.session is not self._session or it.key not in client.session.subscribed.get(code, {}):
                continue
            if client.partial:
                self._send(client, _event(f"{code}-json-partial", self._partial(client, it)))
                continue
            # cash comes flat now and then, everything else nested
            nested = code == 1502 or it.key[0] not in (1, 11) or it.sequence % 2 == 0
            self._send(client, _event(f"{code}-json-full", _text(self._message(code, it, nested=nested))))
            if self._noise:
                self._send(client, _event("1105-json-partial", f"t:{it.key[0]}_{it.key[1]},87:-7.75,88:12.90"))

    async def _tick_by_itself(self, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            for name in self._by_name:
                self.tick(name)

    # Engine.IO 3

    def _send(self, client: _Client, packet: str) -> None:
        if self._muted:
            return
        if client.outbox.full():
            client.cut()
        else:
            client.outbox.put_nowait(packet)

    def _begin(self, request: web.Request, *, upgrade: bool) -> _Client:
        """A new Engine.IO session: what it is told first is in its outbox."""
        assert self._session is not None
        sid = f"{self._rng.randrange(16**16):016x}AAAA"
        partial = request.query.get("broadcastMode") == "Partial"
        client = _Client(sid, self._session, partial, self._clock.monotonic_ns())
        self._clients[sid] = client
        hello = {
            "sid": sid,
            "upgrades": ["websocket"] if upgrade else [],
            "pingInterval": round(self._ping_interval_s * 1_000),
            "pingTimeout": round(self._ping_timeout_s * 1_000),
        }
        joined = _text(
            {
                "type": "success",
                "code": "s-socket-0001",
                "description": f"Socket joined successfully! SocketId={sid}",
            }
        )
        for packet in ("0" + _text(hello), "40", _event("joined", joined)):
            client.outbox.put_nowait(packet)
        return client

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if query.get("EIO") != "3" or query.get("transport") not in ("websocket", "polling"):
            return web.json_response({"code": 0, "message": "Transport unknown"}, status=400)
        session = self._session
        if session is None or query.get("token") != session.token or query.get("userID") != "SIMUSER_1":
            return _error(400, "e-session-0007", "Invalid Token")
        sid = query.get("sid")
        if sid is not None and sid not in self._clients:
            return web.json_response({"code": 1, "message": "Session ID unknown"}, status=400)
        if query["transport"] == "polling":
            client = self._clients[sid] if sid is not None else self._begin(request, upgrade=True)
            packets = [client.outbox.get_nowait() for _ in range(client.outbox.qsize())] or ["6"]
            payload = "".join(f"{len(packet.encode('utf-16-le')) // 2}:{packet}" for packet in packets)
            return web.Response(text=payload)
        socket = web.WebSocketResponse()
        if not socket.can_prepare(request).ok:
            return web.json_response({"code": 3, "message": "Bad request"}, status=400)
        await socket.prepare(request)
        if sid is None:
            client = self._begin(request, upgrade=False)
            client.request = request
        else:
            client = self._clients[sid]
        writer = asyncio.create_task(self._write(client, socket)) if sid is None else None
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    continue
                client.heard_ns = self._clock.monotonic_ns()
                if message.data == "2probe":
                    await socket.send_str("3probe")
                elif message.data == "5" and writer is None:
                    client.request = request
                    writer = asyncio.create_task(self._write(client, socket))
                elif message.data[:1] == "2":
                    self._send(client, "3" + message.data[1:])
                elif message.data[:1] == "1":
                    break
        finally:
            self._clients.pop(client.sid, None)
            if writer is not None:
                writer.cancel()
                await asyncio.wait({writer})
        if writer is not None and not writer.cancelled():
            error = writer.exception()
            if error is not None and not isinstance(error, ConnectionError):
                raise error
        return socket

    async def _posted(self, _: web.Request) -> web.Response:
        """Packets of a client that polls; it has none to say but pings."""
        return web.Response(text="ok")

    async def _write(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            packet = await client.outbox.get()
            await socket.send_str(packet)
            if packet == "1":
                await socket.close()

    async def _cut_those_that_do_not_ping(self) -> None:
        limit_s = self._ping_interval_s + self._ping_timeout_s
        while True:
            await self._clock.sleep(limit_s / 20)
            now_ns = self._clock.monotonic_ns()
            for client in list(self._clients.values()):
                if now_ns - client.heard_ns > limit_s * 1e9:
                    client.cut()


async def _body(request: web.Request) -> dict[str, Any]:
    """JSON, whatever its type says it is, or a form: clients send both."""
    raw = await request.read()
    if not raw:
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        return dict((await request.post()).items())


def _keys(body: dict[str, Any]) -> list[Key]:
    return [(int(one["exchangeSegment"]), int(one["exchangeInstrumentID"])) for one in body.get("instruments", [])]


def _listed(keys: Sequence[Key]) -> list[dict[str, int]]:
    return [{"exchangeSegment": segment, "exchangeInstrumentID": number} for segment, number in keys]


def _level(price: float | None, size: int) -> dict[str, Any]:
    empty = price is None
    return {
        "Size": 0 if empty else size,
        "Price": price or 0,
        "TotalOrders": 0 if empty else 1,
        "BuyBackMarketMaker": 0,
    }


def _described(line: str) -> dict[str, Any]:
    cells = line.split("|")
    return {
        "ExchangeSegment": _NUMBERS[cells[0]],
        "ExchangeInstrumentID": int(cells[1]),
        "InstrumentType": int(cells[2]),
        "Name": cells[3],
        "Description": cells[4],
        "Series": cells[5],
        "NameWithSeries": cells[6],
        "InstrumentID": int(cells[7]),
        "TickSize": float(cells[11]),
        "LotSize": float(cells[12]),
        "DisplayName": cells[14],
    }


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _event(name: str, payload: str) -> str:
    return "42" + _text([name, payload])


def _success(code: str, description: str, result: Any) -> web.Response:
    body = {"type": "success", "code": code, "description": description, "result": result}
    return web.Response(text=_text(body), content_type="application/json")


def _error(status: int, code: str, description: str) -> web.Response:
    body = {"type": "error", "code": code, "description": description, "result": {}}
    return web.Response(text=_text(body), status=status, content_type="application/json")
