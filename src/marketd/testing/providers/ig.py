"""The wire format of IG Markets as a local server: REST, and its stream (`lightstreamer`) on the same port.

Owns a seeded market (bids and offers, the bars that follow from them), one account with its login, tokens and
allowances, and IG's manners as its documentation tells them. Shares no code with `marketd.sources.ig`. It refuses
orders, positions, and logins by OAuth.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Self
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.lightstreamer import LightstreamerSimulator, Refusal
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["IgSimulator"]

_BASE = "/gateway/deal"
_MINUTE_S = 60
_FAILURES_MAX = 3
_EPICS_MAX = 50
_RESOLUTIONS = {
    "MINUTE": 1,
    "MINUTE_2": 2,
    "MINUTE_3": 3,
    "MINUTE_5": 5,
    "MINUTE_10": 10,
    "MINUTE_15": 15,
    "MINUTE_30": 30,
    "HOUR": 60,
    "HOUR_2": 120,
    "HOUR_3": 180,
    "HOUR_4": 240,
}
_FLAGS = {
    "TRADEABLE": "DEAL",
    "CLOSED": "CLOSED",
    "EDIT": "EDIT",
    "OFFLINE": "CALL",
    "AUCTION": "AUCTION",
    "AUCTION_NO_EDIT": "AUCTIONNOEDIT",
    "SUSPENDED": "SUSPEND",
}
"""What the stream of prices says for each state of a market."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class _Bar:
    """Bids: open, high, low, close; how many ticks."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    ticks: int = 1

    def take(self, bid: Decimal) -> None:
        self.high, self.low, self.close = max(self.high, bid), min(self.low, bid), bid
        self.ticks += 1

    def after(self, other: _Bar) -> None:
        self.high, self.low, self.close = max(self.high, other.high), min(self.low, other.low), other.close
        self.ticks += other.ticks


class _Market:
    """One instrument. Its spread is constant, so offers are bids and a bit."""

    def __init__(self, epic: str, seed: int) -> None:
        self.epic = epic
        self.rng = random.Random(f"{seed}:{epic}")
        self.is_pair = epic.startswith("CS.D.") and len(epic.split(".")[2]) == 6
        self.step = Decimal("0.00001") if self.is_pair else Decimal("0.1")
        start = self.rng.randint(60_000, 160_000) if self.is_pair else self.rng.randint(10_000, 400_000)
        self.bid = start * self.step
        self.spread = self.step * (6 if self.is_pair else 4)
        self.open = self.high = self.low = self.bid
        self.time_ms = 0
        self.state = "TRADEABLE"
        self.delayed = False
        self.bars: dict[int, _Bar] = {}
        self.sizes = (Decimal(0), Decimal(0))

    @property
    def ask(self) -> Decimal:
        return self.bid + self.spread

    def tick(self, time_ms: int, bid: Decimal | None) -> None:
        if bid is None:
            bid = max(self.bid + self.step * self.rng.randint(-8, 8), self.step * 10)
        self.bid = bid
        self.time_ms = max(time_ms, self.time_ms)
        self.high, self.low = max(self.high, bid), min(self.low, bid)
        self.sizes = (Decimal(self.rng.randint(1, 40)) * 50_000, Decimal(self.rng.randint(1, 40)) * 50_000)
        minute = self.time_ms // 60_000
        bar = self.bars.get(minute)
        if bar is None:
            self.bars[minute] = _Bar(bid, bid, bid, bid)
        else:
            bar.take(bid)

    def longer(self, minutes: int, first: int, last: int) -> dict[int, _Bar]:
        """Bars of so many minutes that begin within [first, last], minutes since the epoch."""
        found: dict[int, _Bar] = {}
        for minute in sorted(self.bars):
            start = minute // minutes * minutes
            if first <= start <= last:
                bar = self.bars[minute]
                if start in found:
                    found[start].after(bar)
                else:
                    found[start] = _Bar(bar.open, bar.high, bar.low, bar.close, bar.ticks)
        return found


@dataclass
class _Tokens:
    client: str
    security: str
    until_ns: int


class IgSimulator:
    """Use as an async context; then `rest_url` is known.

    The history before the start is `history_minutes` long, a fifth of its minutes without a tick, and the same for the
    same seed and clock. tick_interval_s: a random tick of every market so often; None, only `tick` makes them.
    zone: of the account; request_zone: in which `from` and `to` of prices are read. history_points: the week's bars.
    token_life_s: extended by use. restricted: epics that the account may not stream. stream: the Lightstreamer server.
    misbehaviour: of its requests.
    """

    def __init__(
        self,
        epics: Sequence[str] = ("CS.D.EURUSD.MINI.IP", "CS.D.GBPUSD.MINI.IP", "CS.D.USDJPY.MINI.IP"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        tick_interval_s: float | None = None,
        history_minutes: int = 60,
        api_key: str = "key-of-the-simulator",
        username: str = "somebody",
        password: str = "open-sesame",  # noqa: S107
        account_id: str = "ABC123",
        zone: str = "Europe/London",
        request_zone: str = "UTC",
        history_points: int = 10_000,
        token_life_s: float = 21_600.0,
        restricted: Iterable[str] = (),
        unsupported: Iterable[str] = (),
        keepalive_s: float = 5.0,
        pages_forced: int | None = None,
    ) -> None:
        self.misbehaviour = Misbehaviour()
        self.api_key, self.username, self.password, self.account_id = api_key, username, password, account_id
        self._clock = clock or SystemClock()
        self._port = port
        self._tick_interval_s = tick_interval_s
        self._zone = ZoneInfo(zone)
        self._request_zone = ZoneInfo(request_zone)
        self._points_total = history_points
        self._token_life_ns = round(token_life_s * 1e9)
        self._restricted = frozenset(restricted)
        self._pages_forced = pages_forced
        self._rng = random.Random(f"ig:{seed}")
        self._markets = {epic: _Market(epic, seed) for epic in epics}
        self._tokens: _Tokens | None = None
        self._failures = 0
        self._refusals: deque[tuple[int, str]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self.points_left = history_points
        """Of the week's bars."""
        self.requests: deque[tuple[str, str]] = deque(maxlen=1_000)
        """Version, and method with path and query, of the REST requests, oldest first."""
        self.logins = 0
        """Logins that succeeded."""
        self.stream = LightstreamerSimulator(
            seed=seed,
            clock=self._clock,
            authenticate=self._may_stream,
            refuse_item=self._refuse_item,
            unsupported=unsupported,
            keepalive_s=keepalive_s,
        )
        self._grow_history(history_minutes)

    def _grow_history(self, minutes: int) -> None:
        first = self._now_ms() // 60_000 - minutes
        for market in self._markets.values():
            for minute in range(first, first + minutes):
                if minute == first or market.rng.random() >= 0.2:
                    for offset in sorted(market.rng.randrange(60_000) for _ in range(market.rng.randint(1, 6))):
                        market.tick(minute * 60_000 + offset, None)
            self._show(market)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self.misbehaviour.middleware, self._guard])
        app.add_routes(
            [
                web.post(f"{_BASE}/session", self._login),
                web.delete(f"{_BASE}/session", self._logout),
                web.get(f"{_BASE}/markets", self._several),
                web.get(f"{_BASE}/markets/{{epic}}", self._market),
                web.get(f"{_BASE}/prices/{{epic}}", self._prices),
                web.get(f"{_BASE}/operations/application", self._application),
                *self.stream.routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.stream.start()
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
        await self.stream.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}{_BASE}"

    @property
    def stream_url(self) -> str:
        """What the login answers as `lightstreamerEndpoint`."""
        return f"http://127.0.0.1:{self._port}"

    # Commands and truth

    def tick(self, epic: str, *, bid: str | None = None) -> tuple[float, float, int]:
        """One tick now, told to the subscribers; what is not given is drawn. Returns bid, offer, time in ms."""
        market = self._markets[epic]
        minute = market.time_ms // 60_000
        market.tick(self._now_ms(), None if bid is None else Decimal(bid))
        if market.time_ms // 60_000 != minute and minute in market.bars:
            self._show_candle(market, minute, over=True)
        self._show(market)
        return float(market.bid), float(market.ask), market.time_ms

    def set_state(self, epic: str, state: str, *, delayed: bool = False) -> None:
        """TRADEABLE, CLOSED, OFFLINE, EDIT, AUCTION, AUCTION_NO_EDIT or SUSPENDED."""
        market = self._markets[epic]
        market.state, market.delayed = state, delayed
        self._show(market, ticked=False)

    def last(self, epic: str) -> tuple[float, float]:
        """Bid and offer."""
        market = self._markets[epic]
        return float(market.bid), float(market.ask)

    def bars(
        self, epic: str, start_s: int, end_s: int, *, minutes: int = 1
    ) -> list[tuple[int, dict[str, list[float]], int]]:
        """Of bars that begin in [start_s, end_s): start in seconds, (open, high, low, close) by side, and ticks."""
        market = self._markets[epic]
        found = market.longer(minutes, -(-start_s // 60), (end_s - 1) // 60)
        return [
            (
                minute * 60,
                {
                    "bid": [float(x) for x in (bar.open, bar.high, bar.low, bar.close)],
                    "ask": [float(x + market.spread) for x in (bar.open, bar.high, bar.low, bar.close)],
                },
                bar.ticks,
            )
            for minute, bar in found.items()
        ]

    def expire_tokens(self) -> None:
        """The next request with the present tokens is refused, and the next session of the stream."""
        self._tokens = None

    def refuse(self, status: int, code: str, times: int = 1) -> None:
        """Answer so many requests, logins too, with an error code of IG."""
        self._refusals.extend([(status, code)] * times)

    # The stream

    def _may_stream(self, user: str, password: str) -> Refusal | None:
        tokens = self._tokens
        if tokens is None or user != self.account_id or password != f"CST-{tokens.client}|XST-{tokens.security}":
            return 1, "User/password check failed"
        return None

    def _refuse_item(self, adapter: str | None, item: str) -> Refusal | None:
        kind, *rest = item.split(":")
        if kind == "PRICE" and (adapter != "Pricing" or len(rest) != 2 or rest[0] != self.account_id):
            return (17, "Data Adapter not found") if adapter != "Pricing" else (-1, "Invalid account")
        epic = rest[-1] if kind in ("PRICE", "MARKET", "L1") else rest[0] if kind == "CHART" else ""
        if epic in self._restricted:
            return -1, "Insufficient permissions"
        return None if epic in self._markets else (21, "Bad Item Group name")

    def _show(self, market: _Market, *, ticked: bool = True) -> None:
        """Publish what every item of this market is now."""
        change = market.bid - market.open
        percent = f"{change / market.open * 100:.2f}"
        mid_open = market.open + market.spread / 2
        day = {"HIGH": f"{market.high}", "LOW": f"{market.low}", "MID_OPEN": f"{mid_open}"}
        delay = "1" if market.delayed else "0"
        now = datetime.fromtimestamp(market.time_ms // 1_000, ZoneInfo("Europe/London"))
        self.stream.publish(
            f"PRICE:{self.account_id}:{market.epic}",
            {
                **day,
                "BIDPRICE1": f"{market.bid}",
                "ASKPRICE1": f"{market.ask}",
                "BIDSIZE1": f"{market.sizes[0]}",
                "ASKSIZE1": f"{market.sizes[1]}",
                "CURRENCY0": "USD",
                "TIMESTAMP": str(market.time_ms),
                "DLG_FLAG": _FLAGS[market.state],
                "DELAY": delay,
                "NET_CHG": f"{change}",
                "NET_CHG_PCT": percent,
            },
        )
        for kind in ("MARKET", "L1"):
            self.stream.publish(
                f"{kind}:{market.epic}",
                {
                    **day,
                    "BID": f"{market.bid}",
                    "OFFER": f"{market.ask}",
                    "CHANGE": f"{change}",
                    "CHANGE_PCT": percent,
                    "UPDATE_TIME": f"{now:%H:%M:%S}",
                    "MARKET_STATE": market.state,
                    "MARKET_DELAY": delay,
                    "STRIKE_PRICE": None,
                    "ODDS": None,
                },
            )
        if ticked:
            self._show_tick(market)
            self._show_candle(market, market.time_ms // 60_000)

    def _show_tick(self, market: _Market) -> None:
        self.stream.publish(
            f"CHART:{market.epic}:TICK",
            {
                "BID": f"{market.bid}",
                "OFR": f"{market.ask}",
                "LTP": None,
                "LTV": "1",
                "TTV": None,
                "UTM": str(market.time_ms),
                "DAY_HIGH": f"{market.high}",
                "DAY_LOW": f"{market.low}",
            },
            event=True,
        )

    def _show_candle(self, market: _Market, minute: int, *, over: bool = False) -> None:
        bar = market.bars[minute]
        prices = {"OPEN": bar.open, "HIGH": bar.high, "LOW": bar.low, "CLOSE": bar.close}
        self.stream.publish(
            f"CHART:{market.epic}:1MINUTE",
            {
                **{f"BID_{name}": f"{price}" for name, price in prices.items()},
                **{f"OFR_{name}": f"{price + market.spread}" for name, price in prices.items()},
                "UTM": str(minute * 60_000),
                "CONS_END": "1" if over else "0",
                "CONS_TICK_COUNT": str(bar.ticks),
            },
        )

    async def _tick_by_itself(self, interval_s: float) -> None:
        while True:
            await self._clock.sleep(interval_s)
            for epic, market in self._markets.items():
                if market.state == "TRADEABLE":
                    self.tick(epic)

    # REST

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not request.path.startswith(_BASE):
            return await handler(request)
        self.requests.append(
            (request.headers.get("Version", "1"), f"{request.method} {request.path_qs.removeprefix(_BASE)}")
        )
        if self._refusals:
            return _error(*self._refusals.popleft())
        key = request.headers.get("X-IG-API-KEY")
        if key != self.api_key:
            code = "invalid" if key else "missing"
            return _error(403 if key else 400, f"error.security.api-key-{code}")
        if request.method == "POST":
            return await handler(request)
        tokens, now_ns = self._tokens, self._clock.monotonic_ns()
        given = (request.headers.get("CST"), request.headers.get("X-SECURITY-TOKEN"))
        if given == (None, None):
            return _error(401, "error.security.client-token-missing")
        if tokens is None or given != (tokens.client, tokens.security) or now_ns > tokens.until_ns:
            return _error(401, "error.security.client-token-invalid")
        tokens.until_ns = now_ns + self._token_life_ns
        return await handler(request)

    async def _login(self, request: web.Request) -> web.Response:
        if request.headers.get("Version") != "2":
            return _error(400, "error.request.invalid.version")
        if self._failures >= _FAILURES_MAX:
            return _error(403, "error.security.too-many-failed-attempts")
        identity = await request.json()
        if (identity.get("identifier"), identity.get("password")) != (self.username, self.password):
            self._failures += 1
            return _error(401, "error.security.invalid-details")
        self._failures = 0
        self.logins += 1
        client, security = (f"{self._rng.getrandbits(160):040x}" for _ in range(2))
        self._tokens = _Tokens(client, security, self._clock.monotonic_ns() + self._token_life_ns)
        offset = datetime.fromtimestamp(self._now_ms() / 1_000, self._zone).utcoffset()
        assert offset is not None
        body = {
            "accountType": "CFD",
            "accountInfo": {"balance": 10_000.0, "deposit": 0.0, "profitLoss": 0.0, "available": 10_000.0},
            "currencyIsoCode": "GBP",
            "currencySymbol": "£",
            "currentAccountId": self.account_id,
            "lightstreamerEndpoint": self.stream_url,
            "accounts": [{"accountId": self.account_id, "accountName": "CFD", "preferred": True, "accountType": "CFD"}],
            "clientId": "100112233",
            "timezoneOffset": round(offset.total_seconds() / 3_600),
            "hasActiveDemoAccounts": True,
            "hasActiveLiveAccounts": False,
            "trailingStopsEnabled": False,
            "reroutingEnvironment": None,
            "dealingEnabled": True,
        }
        return _json(body, headers={"CST": client, "X-SECURITY-TOKEN": security})

    async def _logout(self, _: web.Request) -> web.Response:
        self._tokens = None
        return web.Response(status=204)

    async def _application(self, _: web.Request) -> web.Response:
        row = {
            "name": "SIMULATOR",
            "apiKey": self.api_key,
            "status": "ENABLED",
            "allowanceApplicationOverall": 60,
            "allowanceAccountTrading": 100,
            "allowanceAccountOverall": 30,
            "allowanceAccountHistoricalData": self._points_total,
            "concurrentSubscriptionsLimit": 40,
            "allowEquities": False,
            "allowQuoteOrders": False,
            "createdDate": "2020-01-01",
        }
        return _json([row])

    def _snapshot(self, market: _Market) -> dict[str, Any]:
        local = datetime.fromtimestamp(market.time_ms // 1_000, self._zone)
        return {
            "marketStatus": market.state,
            "netChange": float(market.bid - market.open),
            "percentageChange": round(float((market.bid - market.open) / market.open * 100), 2),
            "updateTime": f"{local:%H:%M:%S}",
            "delayTime": 15 if market.delayed else 0,
            "bid": float(market.bid),
            "offer": float(market.ask),
            "high": float(market.high),
            "low": float(market.low),
            "binaryOdds": None,
            "decimalPlacesFactor": 5 if market.is_pair else 1,
            "scalingFactor": 10_000 if market.is_pair else 1,
            "controlledRiskExtraSpread": 0,
        }

    def _described(self, market: _Market) -> dict[str, Any]:
        instrument = {
            "epic": market.epic,
            "expiry": "-",
            "name": market.epic.split(".")[2],
            "lotSize": 1.0,
            "unit": "CONTRACTS",
            "type": "CURRENCIES" if market.is_pair else "INDICES",
            "streamingPricesAvailable": True,
            "marketId": market.epic.split(".")[2],
        }
        return {"instrument": instrument, "dealingRules": None, "snapshot": self._snapshot(market)}

    async def _market(self, request: web.Request) -> web.Response:
        market = self._markets.get(request.match_info["epic"])
        return _error(404, "error.public-api.epic-not-found") if market is None else _json(self._described(market))

    async def _several(self, request: web.Request) -> web.Response:
        term = request.query.get("searchTerm")
        if term is not None:
            squeezed = term.replace("/", "").replace(" ", "").upper()
            return _json({"markets": [self._found(m) for m in self._markets.values() if squeezed in m.epic]})
        epics = request.query.get("epics", "").split(",")
        if len(epics) > _EPICS_MAX:
            return _error(400, "error.public-api.too-many-epics")
        if not set(epics) <= self._markets.keys():
            return _error(404, "error.public-api.epic-not-found")
        return _json({"marketDetails": [self._described(self._markets[epic]) for epic in epics]})

    def _found(self, market: _Market) -> dict[str, Any]:
        snapshot = self._snapshot(market)
        names = (
            "marketStatus",
            "netChange",
            "percentageChange",
            "updateTime",
            "delayTime",
            "bid",
            "offer",
            "high",
            "low",
        )
        return {
            "epic": market.epic,
            "instrumentName": market.epic.split(".")[2],
            "instrumentType": "CURRENCIES" if market.is_pair else "INDICES",
            "expiry": "-",
            "otcTradeable": True,
            "streamingPricesAvailable": True,
            "scalingFactor": snapshot["scalingFactor"],
            **{name: snapshot[name] for name in names},
        }

    async def _prices(self, request: web.Request) -> web.Response:
        market = self._markets.get(request.match_info["epic"])
        if market is None:
            return _error(404, "error.public-api.epic-not-found")
        query = request.query
        minutes = _RESOLUTIONS.get(query.get("resolution", "MINUTE"))
        try:
            page_size, page = int(query.get("pageSize", "20")), int(query.get("pageNumber", "1"))
            first, last = (self._minute(query.get(name)) for name in ("from", "to"))
            count = int(query.get("max", "10"))
        except ValueError:
            return _error(400, "error.invalid.daterange")
        if minutes is None or page_size < 0 or page < 1:
            return _error(400, "error.request.invalid.page-size")
        rows = self._price_rows(market, minutes, first, last)
        if first is None and last is None:
            rows = rows[-count:]
        if len(rows) > self.points_left:
            return _error(403, "error.public-api.exceeded-account-historical-data-allowance")
        page_size = self._pages_forced or page_size
        shown = rows[(page - 1) * page_size : page * page_size] if page_size else rows
        self.points_left -= len(shown)
        metadata = {
            "allowance": {
                "remainingAllowance": self.points_left,
                "totalAllowance": self._points_total,
                "allowanceExpiry": 50_000,
            },
            "size": len(shown),
            "pageData": {
                "pageSize": page_size,
                "pageNumber": page,
                "totalPages": max(1, -(-len(rows) // page_size)) if page_size else 1,
            },
        }
        kind = "CURRENCIES" if market.is_pair else "INDICES"
        return _json({"prices": shown, "instrumentType": kind, "metadata": metadata})

    def _minute(self, text: str | None) -> int | None:
        """Of `from` or `to`, in which a second past a minute is after it."""
        if text is None:
            return None
        local = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=self._request_zone)
        return int(local.timestamp())

    def _price_rows(
        self, market: _Market, minutes: int, first_s: int | None, last_s: int | None
    ) -> list[dict[str, Any]]:
        first = -(-(first_s or 0) // _MINUTE_S)
        last = (self._now_ms() // 1_000 if last_s is None else last_s) // _MINUTE_S
        rows = []
        for minute, bar in market.longer(minutes, first, last).items():
            start = datetime.fromtimestamp(minute * _MINUTE_S, UTC)
            names = {"openPrice": bar.open, "closePrice": bar.close, "highPrice": bar.high, "lowPrice": bar.low}
            prices = {
                name: {"bid": float(bid), "ask": float(bid + market.spread), "lastTraded": None}
                for name, bid in names.items()
            }
            rows.append(
                {
                    "snapshotTime": f"{start.astimezone(self._zone):%Y/%m/%d %H:%M:%S}",
                    "snapshotTimeUTC": f"{start:%Y-%m-%dT%H:%M:%S}",
                    **prices,
                    "lastTradedVolume": bar.ticks,
                }
            )
        return rows


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


def _error(status: int, code: str) -> web.Response:
    return _json({"errorCode": code}, status=status)
