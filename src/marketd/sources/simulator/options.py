"""Simulated option chains: European options on the simulated price, by Black and Scholes with a smile.

Everything follows from the seed, the price and the time. The underlying pays nothing, so at every strike the middle of
the call less that of the put is price − strike × exp(−rate × years), but for a side without a bid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import OPTION_SCHEMA
from marketd.model.time import NS_PER_S
from marketd.sources.simulator.config import SimulatorConfig
from marketd.sources.simulator.feed import NAME
from marketd.sources.simulator.history import SimulatorHistory
from marketd.sources.simulator.walk import key_of, splitmix64, uniform

__all__ = ["RATE", "Priced", "SimulatorOptions", "black_scholes", "expiries_after"]

RATE = 0.04
"""A year's, continuous, of all maturities."""

_F64 = npt.NDArray[np.float64]

_ZONE = ZoneInfo("America/New_York")
_CLOSE = time(16, 0)
_NS_PER_YEAR = 365 * 86_400 * NS_PER_S
_WEEKS, _MONTHS = 6, 9
_LOWEST, _HIGHEST = 0.6, 1.4
"""Strikes, of the price."""
_SPACING = 0.025
_SPACING_MIN = 0.01
_VOLATILITY = (0.15, 0.45)
"""Of a strike at the forward price: where between, the symbol's name decides."""
_SMILE, _SKEW = 1.0, -0.3
_MULTIPLIER = 100.0
_TICK = 0.01
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_erfc: Any = np.vectorize(math.erfc, otypes=[np.float64])  # numpy has none; a chain has some thirty strikes


class Priced(NamedTuple):
    """A share. theta: a calendar day. vega, rho: a percentage point."""

    price: _F64
    delta: _F64
    gamma: _F64
    theta: _F64
    vega: _F64
    rho: _F64


def black_scholes(spot: Any, strike: Any, years: float, rate: float, volatility: Any, *, is_call: bool) -> Priced:
    """European options on what pays nothing. spot, strike, volatility: numbers or arrays."""
    root = math.sqrt(years)
    d1 = (np.log(spot / strike) + (rate + 0.5 * volatility**2) * years) / (volatility * root)
    d2 = d1 - volatility * root
    density = np.exp(-0.5 * d1**2) / math.sqrt(2 * math.pi)
    sign = 1.0 if is_call else -1.0
    in_1, in_2 = _normal(sign * d1), _normal(sign * d2)
    discounted = strike * math.exp(-rate * years)
    theta = -spot * density * volatility / (2 * root) - sign * rate * discounted * in_2
    return Priced(
        price=sign * (spot * in_1 - discounted * in_2),
        delta=sign * in_1,
        gamma=density / (spot * volatility * root),
        theta=theta / 365,
        vega=spot * density * root / 100,
        rho=sign * years * discounted * in_2 / 100,
    )


def _normal(x: Any) -> Any:
    """The cumulative normal distribution."""
    return 0.5 * _erfc(-x / math.sqrt(2))


def expiries_after(now_ns: int) -> list[date]:
    """The next six Fridays, and the third Fridays of the next nine months, that have not passed: at 16:00 New York."""
    today = datetime.fromtimestamp(now_ns / NS_PER_S, UTC).astimezone(_ZONE).date()
    friday = today + timedelta(days=(4 - today.weekday()) % 7)
    found = {friday + timedelta(weeks=week) for week in range(_WEEKS + 1)}
    for month in range(_MONTHS + 1):
        year, index = divmod(today.year * 12 + today.month - 1 + month, 12)
        first = date(year, index + 1, 1)
        found.add(first + timedelta(days=(4 - first.weekday()) % 7 + 14))
    return [day for day in sorted(found) if _expires_ns(day) > now_ns]


def _expires_ns(day: date) -> int:
    return int(datetime.combine(day, _CLOSE, _ZONE).timestamp()) * NS_PER_S


class SimulatorOptions:
    """Implements `OptionChains`."""

    def __init__(self, config: SimulatorConfig, clock: Clock, history: SimulatorHistory) -> None:
        self._config = config
        self._clock = clock
        self._history = history

    async def expiries(self, symbol: str) -> Sequence[date]:
        """See `OptionChains.expiries`, `expiries_after`."""
        await self._price(symbol)
        return expiries_after(self._clock.time_ns())

    async def chain(self, symbol: str, expiry: date | None = None) -> pa.Table:
        """See `OptionChains.chain`. Strikes from 0.6 to 1.4 of the price. Symbols below a price of 0.40 have none."""
        price, time_event_ns = await self._price(symbol)
        now_ns = self._clock.time_ns()
        expiries = expiries_after(now_ns)
        day = expiries[0] if expiry is None else expiry
        if day not in expiries:
            raise OutOfRange(NAME, f"{symbol} has no options of {day}, only {', '.join(map(str, expiries))}")
        spacing = _spacing(price)
        numbers = np.arange(math.ceil(_LOWEST * price / spacing), math.floor(_HIGHEST * price / spacing) + 1)
        strike = np.round(numbers * spacing, 3)
        years = (_expires_ns(day) - now_ns) / _NS_PER_YEAR
        volatility = self._smile(symbol, price, strike, years)
        sides = [black_scholes(price, strike, years, RATE, volatility, is_call=is_call) for is_call in (True, False)]
        count = 2 * len(strike)

        def rows(name: str) -> _F64:
            """Call and put of each strike, side by side."""
            return np.stack([getattr(side, name) for side in sides], axis=1).reshape(-1)

        middle = rows("price")
        half = np.maximum(_TICK, 0.01 * middle)
        draws = self._draws(symbol, day, strike)
        stamp = OPTION_SCHEMA.field("time_event").type
        of_event = pa.array(np.full(count, time_event_ns)).cast(stamp)
        columns = {
            "underlying": pa.repeat(symbol, count),
            "contract": pa.array(_contracts(symbol, day, strike)),
            "expiry": pa.array([day] * count, pa.date32()),
            "strike": pa.array(np.repeat(strike, 2)),
            "right": pa.array(["call", "put"] * len(strike)),
            "bid": pa.array(np.where(middle > half, middle - half, np.nan), from_pandas=True),
            "ask": pa.array(middle + half),
            "bid_size": pa.array(np.where(middle > half, 1 + np.floor(200 * draws[0]), np.nan), from_pandas=True),
            "ask_size": pa.array(1 + np.floor(200 * draws[1])),
            "last": pa.array(middle),
            "time_last": of_event,
            "volume": pa.array(np.floor(1_000 * draws[2] ** 3)),
            "open_interest": pa.array(np.floor(10_000 * draws[3] ** 2)),
            "implied_volatility": pa.array(np.repeat(volatility, 2)),
            **{name: pa.array(rows(name)) for name in ("delta", "gamma", "theta", "vega", "rho")},
            "underlying_price": pa.repeat(price, count),
            "multiplier": pa.repeat(_MULTIPLIER, count),
            "currency": pa.nulls(count, pa.string()),
            "provider": pa.repeat(NAME, count),
            "time_event": of_event,
            "time_received": pa.array(np.full(count, now_ns)).cast(stamp),
        }
        return pa.Table.from_pydict(columns, OPTION_SCHEMA)

    async def _price(self, symbol: str) -> tuple[float, int]:
        """And its event time."""
        quote = await self._history.last(symbol)
        if quote.last is None or _spacing(quote.last) < _SPACING_MIN:
            raise SymbolNotFound(NAME, f"{symbol} has no options: its price is too low")
        return quote.last, quote.time_event_ns

    def _smile(self, symbol: str, price: float, strike: _F64, years: float) -> _F64:
        """A year's volatility by strike: higher below the price than above, and at both ends.

        The surface SSVI of Gatheral and Jacquier (2014) with a power law of 1/2, whose conditions rule out arbitrage
        between strikes and between expiries.
        """
        low, high = _VOLATILITY
        key = np.array([key_of(self._config.seed, f"{symbol}\0volatility")], np.uint64)
        level = low + (high - low) * float(uniform(splitmix64(key))[0])
        variance = level**2 * years
        away = np.log(strike / price) - RATE * years
        scaled = _SMILE / math.sqrt(variance) * away
        total = variance / 2 * (1 + _SKEW * scaled + np.sqrt((scaled + _SKEW) ** 2 + 1 - _SKEW**2))
        volatility: _F64 = np.sqrt(total / years)
        return volatility

    def _draws(self, symbol: str, day: date, strike: _F64) -> _F64:
        """Four of [0, 1) a contract, the same whenever it is asked."""
        key = np.uint64(key_of(self._config.seed, f"{symbol}\0options of {day}"))
        thousandths = np.repeat(np.rint(strike * 1_000).astype(np.uint64), 2)
        numbers = 8 * thousandths + np.tile(np.array([0, 4], np.uint64), len(strike))
        return np.stack([uniform(splitmix64(key + (numbers + np.uint64(n)) * _GOLDEN)) for n in range(4)])


def _spacing(price: float) -> float:
    """A round number near a fortieth of the price: 1, 2.5 or 5 times a power of ten, never larger."""
    wanted = _SPACING * price
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in (5.0, 2.5, 1.0) if step * power <= wanted)


def _contracts(symbol: str, day: date, strike: _F64) -> list[str]:
    """OCC symbols: root, date, right, strike in thousandths."""
    root = "".join(letter for letter in symbol.upper() if letter.isalnum())
    return [
        f"{root}{day:%y%m%d}{right}{thousandths:08d}"
        for thousandths in np.rint(strike * 1_000).astype(np.int64).tolist()
        for right in "CP"
    ]
