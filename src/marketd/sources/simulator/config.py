"""What is simulated: scenarios, symbols and the few numbers they share."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from marketd.errors import InvalidInput

__all__ = ["SCENARIOS", "Scenario", "SimulatedSymbol", "SimulatorConfig"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """How a price moves: ``new = old x (1 + drift + volatility x U(-1, 1))`` a tick.

    jump_probability: chance a tick that `jump` is added to or taken from the sum, either as likely. pauses: it stops
    now and then, as `SimulatorConfig` says.
    """

    drift: float = 0.0
    volatility: float
    jump_probability: float = 0.0
    jump: float = 0.05
    pauses: bool = False


SCENARIOS: dict[str, Scenario] = {
    "flat": Scenario(volatility=0.0001),
    "trend_up": Scenario(drift=0.0005, volatility=0.001),
    "trend_down": Scenario(drift=-0.0005, volatility=0.001),
    "volatile": Scenario(volatility=0.01),
    "jump": Scenario(volatility=0.001, jump_probability=0.02),
    "stale": Scenario(volatility=0.001, pauses=True),
}


class SimulatedSymbol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One symbol. scenario: a name in `SCENARIOS`. base_price: what its first step starts from."""

    scenario: str = "flat"
    base_price: float
    tick_interval_ms: int = 100

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise InvalidInput("scenario", self.scenario, f"one of {', '.join(SCENARIOS)}")
        _require("base_price", self.base_price, 0, 1e12, "a price above 0 and up to 1e12", above=True)
        interval = self.tick_interval_ms
        if not _is_whole(interval) or not 1 <= interval <= 86_400_000:
            raise InvalidInput("tick_interval_ms", interval, "whole milliseconds from 1 to 86400000 (a day)")


class SimulatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbols: what there is to subscribe to. seed: the same seed gives the same ticks.

    stale_pause_probability: chance a tick that a symbol of scenario `stale` stops, for a uniform time within
    stale_pause_duration_ms (low, high). spread_bp: ask less bid, in 1/10,000 of the price. price_floor, price_ceiling:
    no price leaves them; the ceiling only keeps a trend of days within what a float holds. batch_ms: ticks that
    fall due this close together travel together. max_catch_up_s: after a stall, missed ticks up to this age are
    still sent and older ones never happen. Raises InvalidInput naming the field.
    """

    symbols: dict[str, SimulatedSymbol]
    seed: int = 0
    stale_pause_probability: float = 0.1
    stale_pause_duration_ms: tuple[float, float] = (5_000, 10_000)
    spread_bp: float = 5.0
    price_floor: float = 0.01
    price_ceiling: float = 1e12
    batch_ms: float = 8.0
    max_catch_up_s: float = 1.0

    def __post_init__(self) -> None:
        for name in self.symbols:
            if not name:
                raise InvalidInput("symbols", name, "names that are not empty")
        if not _is_whole(self.seed):
            raise InvalidInput("seed", self.seed, "a whole number")
        _require("stale_pause_probability", self.stale_pause_probability, 0, 1, "a number from 0 to 1")
        msgspec.structs.force_setattr(
            self, "stale_pause_duration_ms", _as_range("stale_pause_duration_ms", self.stale_pause_duration_ms)
        )
        _require("spread_bp", self.spread_bp, 0, 10_000, "basis points above 0 and up to 10000", above=True)
        _require("price_floor", self.price_floor, 0, 1e12, "a price above 0 and up to 1e12", above=True)
        _require("price_ceiling", self.price_ceiling, self.price_floor, 1e15, "a price from price_floor to 1e15")
        _require("batch_ms", self.batch_ms, 0, 1_000, "milliseconds above 0 and up to 1000", above=True)
        _require("max_catch_up_s", self.max_catch_up_s, 0, 60, "seconds from 0 to 60")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(field: str, value: Any, low: float, high: float, allowed: str, *, above: bool = False) -> None:
    if not (_is_number(value) and low <= value <= high) or (above and value == low):
        raise InvalidInput(field, value, allowed)


def _as_range(field: str, value: Any) -> tuple[float, float]:
    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(ms) and ms >= 0 for ms in value):
        low, high = value
        if low <= high:
            return low, high
    raise InvalidInput(field, value, "two numbers of milliseconds, low then high, neither negative")
