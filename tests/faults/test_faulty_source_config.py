"""Names, defaults and refusals of the fault settings."""

from __future__ import annotations

import msgspec
import pytest

from marketd.errors import InvalidInput
from marketd.faults import FaultConfig


def test_names_and_defaults_are_the_documented_ones() -> None:
    assert msgspec.structs.asdict(FaultConfig()) == {
        "enabled": False,
        "delay_probability": 0.0,
        "delay_ms_range": (100, 500),
        "duplicate_probability": 0.0,
        "out_of_order_probability": 0.0,
        "out_of_order_offset_ms": 200,
        "stale_window_probability": 0.0,
        "stale_window_duration_ms": (2000, 5000),
        "drop_probability": 0.0,
        "disconnect_probability": 0.0,
        "disconnect_duration_ms": (1000, 5000),
    }


def test_lists_are_ranges() -> None:
    assert FaultConfig(delay_ms_range=[1, 2.5]).delay_ms_range == (1, 2.5)
    made = msgspec.convert({"enabled": True, "stale_window_duration_ms": [7, 7]}, FaultConfig)
    assert made == FaultConfig(enabled=True, stale_window_duration_ms=(7, 7))


@pytest.mark.parametrize(
    "field",
    [
        "delay_probability",
        "duplicate_probability",
        "out_of_order_probability",
        "stale_window_probability",
        "drop_probability",
        "disconnect_probability",
    ],
)
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), "0.5", True, None])
def test_an_impossible_probability_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        FaultConfig(**{field: value})
    assert (raised.value.field, raised.value.allowed) == (field, "a number from 0 to 1")


@pytest.mark.parametrize("field", ["delay_ms_range", "stale_window_duration_ms", "disconnect_duration_ms"])
@pytest.mark.parametrize("value", [(2, 1), (-1, 1), (1,), (1, 2, 3), 5, "12", (0, float("inf")), ("1", "2"), None])
def test_an_impossible_range_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        FaultConfig(**{field: value})
    assert (raised.value.field, raised.value.value) == (field, value)


def test_a_negative_offset_and_a_switch_that_is_none_are_refused() -> None:
    with pytest.raises(InvalidInput, match="out_of_order_offset_ms"):
        FaultConfig(out_of_order_offset_ms=-1)
    with pytest.raises(InvalidInput, match="enabled"):
        FaultConfig(enabled="yes")


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="dealy_probability"):
        msgspec.convert({"dealy_probability": 0.1}, FaultConfig)
