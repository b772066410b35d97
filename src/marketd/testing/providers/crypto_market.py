"""A seeded crypto market for simulators: books, consecutively numbered trades, and the candles that follow from them.

Exact: prices and sizes are decimals. It knows no provider and no wire format; shares no code with the connectors that
are tested by it.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

__all__ = ["Candle", "Market", "MarketTrade", "Side"]

Side = Literal["buy", "sell"]

_SIDES: tuple[Side, Side] = ("buy", "sell")
_CENT = Decimal("0.01")
_US_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class MarketTrade:
    """taker: who took. time_us: since 1970, UTC."""

    trade_id: int
    time_us: int
    price: Decimal
    size: Decimal
    taker: Side


@dataclass(frozen=True)
class Candle:
    """start_us: its start. notional: sum of price times size."""

    start_us: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    notional: Decimal
    trades: int


class Market:
    """One symbol. The same name and seed give the same market. update: grows with every change of the book."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.rng = random.Random(f"{seed}:{name}")
        self.price = Decimal(self.rng.randint(5_000, 5_000_000)) * _CENT
        self.first_id = self.rng.randint(1_000, 90_000_000)
        self.update = self.rng.randint(1_000_000, 50_000_000_000)
        self.trades: list[MarketTrade] = []
        self._times_us: list[int] = []
        self.bid, self.ask = self.price - _CENT, self.price
        self.bid_size, self.ask_size = self.draw_size(), self.draw_size()

    def draw_size(self) -> Decimal:
        return Decimal(self.rng.randint(1, 200_000_000)) / Decimal(100_000_000)

    def grow_history(self, minutes: int, now_us: int) -> None:
        """Trades of so many finished minutes before now, a fifth of the minutes without any."""
        first = now_us // 60_000_000 - minutes
        for minute in range(first, first + minutes):
            if minute == first or self.rng.random() >= 0.2:
                for offset in sorted(self.rng.randrange(60_000_000) for _ in range(self.rng.randint(1, 6))):
                    self.trade(minute * 60_000_000 + offset)

    def trade(
        self, time_us: int, price: Decimal | None = None, size: Decimal | None = None, taker: Side | None = None
    ) -> MarketTrade:
        """Execute one; what is not given is drawn. The book follows."""
        side: Side = self.rng.choice(_SIDES) if taker is None else taker
        if price is None:
            step = 1 + self.rng.uniform(-0.0005, 0.0005)
            price = max((self.price * Decimal(step)).quantize(_CENT), _CENT * 10)
        if self._times_us:
            time_us = max(time_us, self._times_us[-1])
        trade = MarketTrade(self.first_id + len(self.trades), time_us, price, size or self.draw_size(), side)
        self.trades.append(trade)
        self._times_us.append(time_us)
        self.price = price
        self.quote()
        return trade

    def quote(self, bid: Decimal | None = None, ask: Decimal | None = None) -> None:
        """The book changes; what is not given is drawn around the last price."""
        spread = _CENT * self.rng.randint(1, 5)
        bought = self.rng.random() < 0.5
        self.bid = bid if bid is not None else self.price - (spread if bought else 0)
        self.ask = ask if ask is not None else self.bid + spread
        self.bid_size, self.ask_size = self.draw_size(), self.draw_size()
        self.update += self.rng.randint(1, 50)

    def since(self, time_us: int) -> list[MarketTrade]:
        """Trades at or after this time, oldest first."""
        return self.trades[bisect.bisect_left(self._times_us, time_us) :]

    def between_ids(self, start: int, stop: int) -> list[MarketTrade]:
        """Trades with start <= trade_id < stop, oldest first."""
        return self.trades[max(0, start - self.first_id) : max(0, stop - self.first_id)]

    def last_day(self, now_us: int) -> list[MarketTrade]:
        """Trades of the 24 hours before now."""
        return self.since(now_us - _US_PER_DAY)

    def candles(self, length_us: int, offset_us: int = 0) -> Iterator[Candle]:
        """Of all trades, ascending, intervals without trades left out. offset_us: of their starts since 1970."""
        group: list[MarketTrade] = []
        start_us = 0
        for trade in self.trades:
            start_of = (trade.time_us - offset_us) // length_us * length_us + offset_us
            if group and start_of != start_us:
                yield _candle(start_us, group)
                group = []
            start_us = start_of
            group.append(trade)
        if group:
            yield _candle(start_us, group)


def _candle(start_us: int, trades: list[MarketTrade]) -> Candle:
    prices = [trade.price for trade in trades]
    return Candle(
        start_us=start_us,
        open=prices[0],
        high=max(prices),
        low=min(prices),
        close=prices[-1],
        volume=sum((trade.size for trade in trades), Decimal(0)),
        notional=sum((trade.price * trade.size for trade in trades), Decimal(0)),
        trades=len(trades),
    )
