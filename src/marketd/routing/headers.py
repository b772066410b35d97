"""What an answer's headers say about how much is left. Pure, by rules that hold for many providers:

- `X-RateLimit-Limit`, `-Remaining`, `-Reset` (also `RateLimit-…` and `X-Rate-Limit-…`): what is left of the current
  window and when it ends: Unix time (seconds or milliseconds), or seconds from now.
- `RateLimit: "default";r=50;t=30`: the same in one header.
- `X-RateLimit-Limit-Minute`, `-Remaining-Minute` (also `-Second`, `-Hour`, `-Day`): the same by window.
- `X-MBX-USED-WEIGHT-1M`: what was used in a window of that length.

To add a rule, add it to `told` and to the table in ``docs/routing.md``. What cannot be understood says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

__all__ = ["Told", "told"]

_PREFIXES = ("x-ratelimit-", "ratelimit-", "x-rate-limit-")
_NUMBER = re.compile(r"\s*(\d{1,15})(?:\.\d{0,9})?\s*(?:[,;].*)?", re.ASCII | re.DOTALL)
_FIELD = re.compile(r";\s*([rt])\s*=\s*(\d{1,15})", re.ASCII)
_USED = re.compile(r"x-mbx-used-weight-(\d{1,4})([smhd])", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NAMED_S = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_EPOCH_S, _EPOCH_MS = 1_000_000_000, 1_000_000_000_000
_RESET_MAX_S = 86_400.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """left: requests that the provider still answers in the current window, which ends in reset_s; None if it does not
    say. limit: of that window, None if it does not say. used: what it has counted, by length of its window, seconds."""

    left: int | None = None
    limit: int | None = None
    reset_s: float = 0.0
    used: Mapping[float, int] = {}


def told(headers: Mapping[str, str], now_s: float) -> Told:
    """headers: names in lower case. now_s: Unix time."""
    used: dict[float, int] = {}
    for name, text in headers.items():
        window = _USED.fullmatch(name)
        if window is not None and (count := _number(text)) is not None and int(window[1]):
            used[float(int(window[1]) * _UNIT_S[window[2]])] = count
    for prefix in _PREFIXES:
        for unit, seconds in _NAMED_S.items():
            left = _number(headers.get(f"{prefix}remaining-{unit}"))
            limit = _number(headers.get(f"{prefix}limit-{unit}"))
            if left is not None and limit is not None and left <= limit:
                used[float(seconds)] = limit - left
    for prefix in _PREFIXES:
        left = _number(headers.get(prefix + "remaining"))
        reset = _number(headers.get(prefix + "reset"))
        if left is not None and reset is not None:
            limit = _number(headers.get(prefix + "limit"))
            return Told(left=left, limit=limit, reset_s=_reset_s(reset, now_s), used=used)
    fields = dict(_FIELD.findall(headers.get("ratelimit", "")[:200]))
    if "r" in fields and "t" in fields:
        return Told(left=int(fields["r"]), reset_s=_reset_s(int(fields["t"]), now_s), used=used)
    return Told(used=used)


def _number(text: str | None) -> int | None:
    match = None if text is None else _NUMBER.fullmatch(text[:200])
    return None if match is None else int(match[1])


def _reset_s(reset: int, now_s: float) -> float:
    """Seconds from now, of up to a day."""
    if reset >= _EPOCH_MS:
        seconds = reset / 1e3 - now_s
    elif reset >= _EPOCH_S:
        seconds = reset - now_s
    else:
        seconds = float(reset)
    return min(max(seconds, 0.0), _RESET_MAX_S)
