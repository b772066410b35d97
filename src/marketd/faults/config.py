"""What can go wrong with a stream, and how often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from marketd.errors import InvalidInput

__all__ = ["FaultConfig"]


class FaultConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chances are per tick, within 0 to 1; ranges are (low, high), uniform, in milliseconds, and may be lists.

    enabled: nothing happens without it. delay: a tick is held back and comes later. duplicate: it comes twice with
    the same event time. out_of_order: its event time is `out_of_order_offset_ms` earlier than it was. stale_window:
    nothing of its symbol for a while, beginning with it. drop: it is lost. disconnect: it is lost with the connection,
    which is back after a while. Raises InvalidInput naming the field.
    """

    enabled: bool = False
    delay_probability: float = 0.0
    delay_ms_range: tuple[float, float] = (100, 500)
    duplicate_probability: float = 0.0
    out_of_order_probability: float = 0.0
    out_of_order_offset_ms: float = 200
    stale_window_probability: float = 0.0
    stale_window_duration_ms: tuple[float, float] = (2000, 5000)
    drop_probability: float = 0.0
    disconnect_probability: float = 0.0
    disconnect_duration_ms: tuple[float, float] = (1000, 5000)

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise InvalidInput("enabled", self.enabled, "true or false")
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field.endswith("_probability") and not (_is_number(value) and 0 <= value <= 1):
                raise InvalidInput(field, value, "a number from 0 to 1")
            if field in {"delay_ms_range", "stale_window_duration_ms", "disconnect_duration_ms"}:
                msgspec.structs.force_setattr(self, field, _as_range(field, value))
        offset = self.out_of_order_offset_ms
        if not (_is_number(offset) and offset >= 0):
            raise InvalidInput("out_of_order_offset_ms", offset, "milliseconds, not negative")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_range(field: str, value: Any) -> tuple[float, float]:
    allowed = "two numbers of milliseconds, low then high, neither negative"
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise InvalidInput(field, value, allowed)
    low, high = value
    if not (_is_number(low) and _is_number(high) and 0 <= low <= high):
        raise InvalidInput(field, value, allowed)
    return low, high
