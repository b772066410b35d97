"""What cannot be simulated is refused by field, value and what is allowed."""

from __future__ import annotations

import msgspec
import pytest

from marketd.errors import InvalidInput
from marketd.sources.simulator import SCENARIOS, SimulatedSymbol, SimulatorConfig

NAN = float("nan")


def test_defaults_are_the_documented_ones() -> None:
    made = SimulatorConfig(symbols={"A": SimulatedSymbol(base_price=150.0)})
    assert msgspec.to_builtins(made) == {
        "symbols": {"A": {"scenario": "flat", "base_price": 150.0, "tick_interval_ms": 100}},
        "seed": 0,
        "stale_pause_probability": 0.1,
        "stale_pause_duration_ms": (5000, 10000),
        "spread_bp": 5.0,
        "price_floor": 0.01,
        "price_ceiling": 1e12,
        "batch_ms": 8.0,
        "max_catch_up_s": 1.0,
    }


def test_scenarios_are_the_documented_ones() -> None:
    assert {name: (s.drift, s.volatility, s.jump_probability, s.jump, s.pauses) for name, s in SCENARIOS.items()} == {
        "flat": (0.0, 0.0001, 0.0, 0.05, False),
        "trend_up": (0.0005, 0.001, 0.0, 0.05, False),
        "trend_down": (-0.0005, 0.001, 0.0, 0.05, False),
        "volatile": (0.0, 0.01, 0.0, 0.05, False),
        "jump": (0.0, 0.001, 0.02, 0.05, False),
        "stale": (0.0, 0.001, 0.0, 0.05, True),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scenario", "sideways"),
        ("base_price", 0.0),
        ("base_price", -1.0),
        ("base_price", NAN),
        ("base_price", float("inf")),
        ("base_price", 2e12),
        ("base_price", "150"),
        ("tick_interval_ms", 0),
        ("tick_interval_ms", 1.5),
        ("tick_interval_ms", True),
        ("tick_interval_ms", 86_400_001),
    ],
)
def test_an_impossible_symbol_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        SimulatedSymbol(**{"base_price": 1.0, field: value})
    assert (raised.value.field, raised.value.value) == (field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1.5),
        ("stale_pause_probability", 1.01),
        ("stale_pause_probability", -0.1),
        ("stale_pause_probability", NAN),
        ("stale_pause_duration_ms", (10, 5)),
        ("stale_pause_duration_ms", [5]),
        ("stale_pause_duration_ms", "10"),
        ("stale_pause_duration_ms", (-1, 5)),
        ("spread_bp", 0.0),
        ("spread_bp", 10_001),
        ("price_floor", 0),
        ("price_ceiling", 0.001),
        ("batch_ms", 0),
        ("max_catch_up_s", -1),
        ("max_catch_up_s", 61),
    ],
)
def test_an_impossible_setting_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        SimulatorConfig(symbols={}, **{field: value})
    assert raised.value.field == field
    assert field in str(raised.value)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="symbols"):
        SimulatorConfig(symbols={"": SimulatedSymbol(base_price=1.0)})


def test_a_list_is_a_range_and_unknown_keys_are_refused() -> None:
    document = {"symbols": {"A": {"base_price": 1, "scenario": "stale"}}, "stale_pause_duration_ms": [1, 2]}
    made = msgspec.convert(document, SimulatorConfig)
    assert made.stale_pause_duration_ms == (1, 2)
    assert SimulatorConfig(symbols={}, stale_pause_duration_ms=[3, 4]).stale_pause_duration_ms == (3, 4)
    with pytest.raises(msgspec.ValidationError, match="sed"):
        msgspec.convert({"symbols": {}, "sed": 1}, SimulatorConfig)
