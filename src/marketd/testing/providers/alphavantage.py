"""The wire format of Alpha Vantage as a local server: one path, and errors that come with status 200.

Owns a seeded market (minutes, days, chains, series) and Alpha Vantage's manners: texts for numbers, local times,
notices instead of errors, a key that is repeated in them. Shares no code with `marketd.sources.alphavantage`, so that
one can be tested by the other. Symbols are Alpha Vantage's names; `EUR/USD` and `BTC/USD` are pairs.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from types import TracebackType
from typing import Any, Self
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["AlphaVantageSimulator"]

_NEW_YORK = ZoneInfo("America/New_York")
_MINUTES = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
_COMPACT = 100
_PLANS = "any of the premium plans at https://www.alphavantage.co/premium/"
_THANKS = "Thank you for using Alpha Vantage!"
_CRYPTO = frozenset({"BTC", "ETH", "SOL"})

_Rows = dict[str, dict[str, str]]
_Bar = tuple[float, float, float, float, int]


def _row(bar: _Bar, *, volume: bool) -> dict[str, str]:
    names = ("1. open", "2. high", "3. low", "4. close")
    row = {name: f"{value:.4f}" for name, value in zip(names, bar[:4], strict=True)}
    return row | {"5. volume": str(bar[4])} if volume else row


def _merged(bars: Sequence[_Bar]) -> _Bar:
    highs, lows = [bar[1] for bar in bars], [bar[2] for bar in bars]
    return bars[0][0], max(highs), min(lows), bars[-1][3], sum(bar[4] for bar in bars)


class _Market:
    """One symbol: minutes of the sessions of its last days, and days. Stocks trade in New York from 9:30 to 16:00 on
    weekdays; pairs around the clock, UTC. A fifth of all minutes is without a trade."""

    def __init__(self, symbol: str, seed: int, now: datetime, days: int, minute_days: int) -> None:
        self.symbol = symbol
        self.is_pair = "/" in symbol
        self.zone = ZoneInfo("UTC") if self.is_pair else _NEW_YORK
        self.rng = random.Random(f"{seed}:{symbol}")
        self.price = round(self.rng.uniform(20, 300), 4)
        self.minutes: dict[datetime, _Bar] = {}
        self.days: dict[date, _Bar] = {}
        local = now.astimezone(self.zone)
        for back in range(days, -1, -1):
            day = local.date() - timedelta(days=back)
            if self.is_pair or day.weekday() < 5:
                self._grow(day, local, with_minutes=back < minute_days)

    def _grow(self, day: date, now: datetime, *, with_minutes: bool) -> None:
        opens, minutes = (time(0), 1_440) if self.is_pair else (time(9, 30), 390)
        first = datetime.combine(day, opens, self.zone)
        if first > now:
            return
        if not with_minutes:
            self.days[day] = self._bar()
            return
        bars: list[_Bar] = []
        for minute in range(minutes):
            at = first + timedelta(minutes=minute)
            if at <= now and (minute == 0 or self.rng.random() >= 0.2):
                self.minutes[at.replace(tzinfo=None)] = self._bar()
                bars.append(self.minutes[at.replace(tzinfo=None)])
        self.days[day] = _merged(bars)

    def _bar(self) -> _Bar:
        path = [self.price]
        for _ in range(3):
            path.append(round(max(path[-1] * (1 + self.rng.uniform(-0.001, 0.001)), 0.01), 4))
        self.price = path[-1]
        return path[0], max(path), min(path), path[-1], self.rng.randint(1, 9_000)

    def minute_rows(self, minutes: int, keep: Callable[[datetime], bool]) -> _Rows:
        """Newest first."""
        groups: dict[datetime, list[_Bar]] = {}
        for at, bar in self.minutes.items():
            begin = at.replace(hour=0, minute=0) + timedelta(minutes=(at.hour * 60 + at.minute) // minutes * minutes)
            groups.setdefault(begin, []).append(bar)
        return {
            f"{at:%Y-%m-%d %H:%M:%S}": _row(_merged(groups[at]), volume=self._has_volume)
            for at in sorted(groups, reverse=True)
            if keep(at)
        }

    @property
    def _has_volume(self) -> bool:
        return not self.is_pair or self.symbol.partition("/")[0] in _CRYPTO

    def day_rows(self) -> _Rows:
        return {f"{day:%Y-%m-%d}": _row(self.days[day], volume=self._has_volume) for day in sorted(self.days)[::-1]}

    def week_rows(self) -> _Rows:
        """Stamped with the last day of trade, the running week too."""
        weeks: dict[date, list[date]] = {}
        for day in sorted(self.days):
            weeks.setdefault(day - timedelta(days=day.weekday()), []).append(day)
        return {
            f"{days[-1]:%Y-%m-%d}": _row(_merged([self.days[day] for day in days]), volume=self._has_volume)
            for days in list(weeks.values())[::-1]
        }

    def chain(self, today: date) -> list[dict[str, str]]:
        """The last Friday, which has passed, and the next three; five strikes each, sorted by strike."""
        rng = random.Random(f"{self.symbol}:{today}")
        friday = today + timedelta(days=(4 - today.weekday()) % 7)
        session = max(day for day in self.days if day < today)
        middle = max(round(self.price / 5) * 5, 15)
        rows = []
        for expiry in (friday + timedelta(weeks=week) for week in range(-1, 3)):
            for strike in range(middle - 10, middle + 11, 5):
                for kind in ("call", "put"):
                    bid = 0.0 if strike == middle + 10 else round(rng.uniform(1, 20), 2)
                    numbers = {
                        "strike": f"{strike:.2f}",
                        "type": kind,
                        "last": f"{bid + 0.03:.2f}",
                        "mark": f"{bid + 0.02:.2f}",
                        "bid": f"{bid:.2f}",
                        "bid_size": str(rng.randint(0, 200)),
                        "ask": f"{bid + 0.05:.2f}",
                        "ask_size": str(rng.randint(1, 200)),
                        "volume": str(rng.randint(0, 500)),
                        "open_interest": str(rng.randint(0, 5_000)),
                        "date": f"{session:%Y-%m-%d}",
                        "implied_volatility": f"{rng.uniform(0.1, 0.9):.5f}",
                        "delta": f"{rng.uniform(0, 1) * (1 if kind == 'call' else -1):.5f}",
                        "gamma": f"{rng.uniform(0, 0.05):.5f}",
                        "theta": f"{-rng.uniform(0, 0.3):.5f}",
                        "vega": f"{rng.uniform(0, 0.3):.5f}",
                        "rho": f"{rng.uniform(-0.2, 0.2):.5f}",
                    }
                    name = f"{self.symbol}{expiry:%y%m%d}{kind[0].upper()}{strike * 1_000:08d}"
                    rows.append(
                        {"contractID": name, "symbol": self.symbol, "expiration": f"{expiry:%Y-%m-%d}", **numbers}
                    )
        return rows


class _Refused(Exception):
    """A notice that is the whole answer."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(key, words)
        self.answer = {key: words}


class AlphaVantageSimulator:
    """Use as an async context; then `rest_url` is known.

    days, minute_days: how far back days and minutes go, in days of the calendar; the same for the same seed and clock.
    paid: whether the key has what is premium: minutes, full days, chains. requests_per_day, requests_per_s: of the key;
    None for no limit. misbehaviour: of its requests.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("IBM", "BRK-B", "EUR/USD", "BTC/USD"),
        *,
        seed: int = 0,
        clock: Clock | None = None,
        port: int = 0,
        api_key: str = "SIMULATED0KEY",
        paid: bool = True,
        requests_per_day: int | None = None,
        requests_per_s: int | None = None,
        days: int = 30,
        minute_days: int = 3,
    ) -> None:
        self.misbehaviour = Misbehaviour()
        self.api_key = api_key
        self.paid = paid
        self._clock = clock or SystemClock()
        self._port = port
        self._requests_per_day = requests_per_day
        self._requests_per_s = requests_per_s
        self._asked: deque[float] = deque()
        self._today = 0
        self._day = date.min
        self._runner: web.AppRunner | None = None
        self._refusals: deque[dict[str, Any]] = deque()
        self._markets = {symbol: _Market(symbol, seed, self._now(), days, minute_days) for symbol in symbols}
        self.requests: deque[dict[str, str]] = deque(maxlen=1_000)
        """The parameters of the requests, without the key, oldest first."""

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time_ns() // 1_000_000_000, UTC)

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self.misbehaviour.middleware])
        app.add_routes([web.get("/query", self._query)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # Commands

    def refuse(self, *answers: dict[str, Any]) -> None:
        """Answer the next requests so, with status 200."""
        self._refusals.extend(answers)

    # Truth

    def minutes(self, symbol: str, interval: str = "1min") -> _Rows:
        """All there are by local stamp, as they are sent."""
        return self._markets[symbol].minute_rows(_MINUTES[interval], lambda _: True)

    def days(self, symbol: str) -> _Rows:
        return self._markets[symbol].day_rows()

    def weeks(self, symbol: str) -> _Rows:
        return self._markets[symbol].week_rows()

    def chain(self, symbol: str) -> list[dict[str, str]]:
        return self._markets[symbol].chain(self._now().astimezone(_NEW_YORK).date())

    # Requests

    async def _query(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        key = query.pop("apikey", "")
        self.requests.append(query)
        if self._refusals:
            return _json(self._refusals.popleft())
        try:
            self._admit(key)
            return _json(self._answer(query))
        except _Refused as refused:
            return _json(refused.answer)

    def _admit(self, key: str) -> None:
        if key != self.api_key:
            raise _Refused(
                "Error Message",
                "the parameter apikey is invalid or missing. Please claim your free API key on "
                "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds.",
            )
        now_s = self._clock.time_ns() / 1e9
        while self._asked and self._asked[0] <= now_s - 1:
            self._asked.popleft()
        if self._requests_per_s is not None and len(self._asked) >= self._requests_per_s:
            raise _Refused(
                "Information",
                f"{_THANKS} Please consider spreading out your free API requests more sparingly (1 request per second)."
                f" You may subscribe to {_PLANS} to lift the free key rate limit (25 requests per day), raise the"
                " per-second burst limit, and instantly unlock all premium endpoints",
            )
        self._asked.append(now_s)
        day = self._now().astimezone(_NEW_YORK).date()
        if day != self._day:
            self._day, self._today = day, 0
        self._today += 1
        if self._requests_per_day is not None and self._today > self._requests_per_day:
            raise _Refused(
                "Information",
                f"We have detected your API key as {key} and our standard API rate limit is {self._requests_per_day}"
                f" requests per day. Please subscribe to {_PLANS} to instantly remove all daily rate limits.",
            )

    def _answer(self, query: dict[str, str]) -> dict[str, Any]:
        function = query.get("function", "")
        answers: dict[str, Callable[[str, dict[str, str]], dict[str, Any]]] = {
            "GLOBAL_QUOTE": self._quote,
            "CURRENCY_EXCHANGE_RATE": self._rate,
            "TIME_SERIES_INTRADAY": self._intraday,
            "FX_INTRADAY": self._intraday,
            "CRYPTO_INTRADAY": self._intraday,
            "TIME_SERIES_DAILY": self._daily,
            "FX_DAILY": self._daily,
            "DIGITAL_CURRENCY_DAILY": self._daily,
            "TIME_SERIES_WEEKLY": self._weekly,
            "FX_WEEKLY": self._weekly,
            "DIGITAL_CURRENCY_WEEKLY": self._weekly,
            "HISTORICAL_OPTIONS": self._options,
            "REALTIME_OPTIONS": self._options,
            "REAL_GDP": self._economy,
            "CPI": self._economy,
            "TREASURY_YIELD": self._economy,
        }
        if function not in answers:
            raise _Refused("Error Message", f"This API function ({function}) does not exist.")
        return answers[function](function, query)

    def _premium(self) -> None:
        if not self.paid:
            raise _Refused(
                "Information",
                f"{_THANKS} This is a premium endpoint. You may subscribe to {_PLANS} to instantly unlock all premium"
                " endpoints",
            )

    def _market(self, function: str, query: dict[str, str]) -> _Market:
        names = (("from_currency", "to_currency"), ("from_symbol", "to_symbol"), ("symbol", "market"))
        pair = next((f"{query[a]}/{query[b]}" for a, b in names if a in query and b in query), None)
        market = self._markets.get(pair or query.get("symbol", ""))
        if market is None or (pair is None and market.is_pair):
            raise _Refused(
                "Error Message",
                "Invalid API call. Please retry or visit the documentation (https://www.alphavantage.co/documentation/)"
                f" for {function}.",
            )
        return market

    def _quote(self, _: str, query: dict[str, str]) -> dict[str, Any]:
        market = self._markets.get(query.get("symbol", ""))
        if market is None or market.is_pair:
            return {"Global Quote": {}}
        before, day = sorted(market.days)[-2:]
        opened, high, low, close, volume = market.days[day]
        previous = market.days[before][3]
        key = "Global Quote"
        if query.get("entitlement") == "delayed":
            key = "Global Quote - DATA DELAYED BY 15 MINUTES"
        return {
            key: {
                "01. symbol": market.symbol,
                "02. open": f"{opened:.4f}",
                "03. high": f"{high:.4f}",
                "04. low": f"{low:.4f}",
                "05. price": f"{close:.4f}",
                "06. volume": str(volume),
                "07. latest trading day": f"{day:%Y-%m-%d}",
                "08. previous close": f"{previous:.4f}",
                "09. change": f"{close - previous:.4f}",
                "10. change percent": f"{(close / previous - 1) * 100:.4f}%",
            }
        }

    def _rate(self, function: str, query: dict[str, str]) -> dict[str, Any]:
        market = self._market(function, query)
        base, quote = market.symbol.split("/")
        return {
            "Realtime Currency Exchange Rate": {
                "1. From_Currency Code": base,
                "2. From_Currency Name": base,
                "3. To_Currency Code": quote,
                "4. To_Currency Name": quote,
                "5. Exchange Rate": f"{market.price:.8f}",
                "6. Last Refreshed": f"{self._now():%Y-%m-%d %H:%M:%S}",
                "7. Time Zone": "UTC",
                "8. Bid Price": f"{market.price - 0.0001:.8f}",
                "9. Ask Price": f"{market.price + 0.0001:.8f}",
            }
        }

    def _intraday(self, function: str, query: dict[str, str]) -> dict[str, Any]:
        self._premium()
        market = self._market(function, query)
        interval = query.get("interval", "")
        if interval not in _MINUTES:
            raise _Refused(
                "Error Message", f"Invalid API call. Please retry or visit the documentation for {function}."
            )
        month = query.get("month")
        rows = market.minute_rows(_MINUTES[interval], lambda at: month is None or f"{at:%Y-%m}" == month)
        word = {"FX_INTRADAY": " FX", "CRYPTO_INTRADAY": " Crypto"}.get(function, "")
        return {
            "Meta Data": self._meta(market, f"Intraday ({interval})", interval=interval, zone="US/Eastern"),
            f"Time Series{word} ({interval})": self._sized(rows, query),
        }

    def _daily(self, function: str, query: dict[str, str]) -> dict[str, Any]:
        if query.get("outputsize") == "full" and not self.paid and function == "TIME_SERIES_DAILY":
            raise _Refused(
                "Information",
                f"{_THANKS} The outputsize=full parameter value is a premium feature for the {function} endpoint. You"
                f" may subscribe to {_PLANS} to instantly unlock all premium features",
            )
        market = self._market(function, query)
        keys = {"FX_DAILY": "Time Series FX (Daily)", "DIGITAL_CURRENCY_DAILY": "Time Series (Digital Currency Daily)"}
        rows = market.day_rows()
        return {
            "Meta Data": self._meta(market, "Daily Prices", zone="US/Eastern"),
            keys.get(function, "Time Series (Daily)"): rows if function in keys else self._sized(rows, query),
        }

    def _weekly(self, function: str, query: dict[str, str]) -> dict[str, Any]:
        keys = {
            "FX_WEEKLY": "Time Series FX (Weekly)",
            "DIGITAL_CURRENCY_WEEKLY": "Time Series (Digital Currency Weekly)",
        }
        market = self._market(function, query)
        return {
            "Meta Data": self._meta(market, "Weekly Prices", zone="US/Eastern"),
            keys.get(function, "Weekly Time Series"): market.week_rows(),
        }

    def _sized(self, rows: _Rows, query: dict[str, str]) -> _Rows:
        return rows if query.get("outputsize") == "full" else dict(list(rows.items())[:_COMPACT])

    def _meta(self, market: _Market, what: str, *, interval: str | None = None, zone: str) -> dict[str, str]:
        told = {"Information": what, "Symbol": market.symbol, "Last Refreshed": f"{max(market.days):%Y-%m-%d}"}
        if interval is not None:
            told["Interval"] = interval
        told |= {"Output Size": "Compact", "Time Zone": "UTC" if market.is_pair else zone}
        return {f"{at}. {name}": value for at, (name, value) in enumerate(told.items(), 1)}

    def _options(self, function: str, query: dict[str, str]) -> dict[str, Any]:
        is_live = function == "REALTIME_OPTIONS"
        endpoint = "Realtime Options" if is_live else "Historical Options"
        if not self.paid and is_live:
            row = {"contractID": "XXYYZZ999999C00020000", "symbol": "XXYYZZ", "expiration": "2099-99-99"}
            row |= {"strike": "20.00", "type": "call", "last": "100.00", "bid": "100.05", "date": "2049-99-99"}
            words = "This is a premium endpoint. ***THE SAMPLE DATA SCHEMA BELOW IS ARTIFICIAL AND FOR ILLUSTRATION"
            return {"endpoint": endpoint, "message": f"{words} PURPOSES ONLY***.", "data": [row]}
        self._premium()
        market = self._markets.get(query.get("symbol", ""))
        if market is None or market.is_pair:
            symbol = query.get("symbol", "")
            return {"endpoint": endpoint, "message": f"No data for symbol {symbol}.", "data": []}
        return {"endpoint": endpoint, "message": "success", "data": self.chain(market.symbol)}

    def _economy(self, function: str, query: dict[str, str]) -> dict[str, Any]:
        """Two years of months, newest first, the last without a value."""
        rng = random.Random(f"{function}:{query.get('interval')}:{query.get('maturity')}")
        first = self._now().date().replace(day=1)
        months = [date(first.year - back // 12, 12 - back % 12, 1) for back in range(12, 36)]
        data = [{"date": f"{month:%Y-%m-%d}", "value": f"{rng.uniform(1, 9):.2f}"} for month in months]
        data[0]["value"] = "."
        return {"name": function, "interval": query.get("interval", "monthly"), "unit": "percent", "data": data}


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
