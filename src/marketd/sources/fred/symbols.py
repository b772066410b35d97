"""Names of series: FRED's own identifiers (`GDPC1`, `CPIAUCSL`, `DGS10`), which are ours too. Pure."""

from __future__ import annotations

import re

__all__ = ["series_id"]

_ID = re.compile(r"[A-Z0-9]{1,25}", re.ASCII)


def series_id(name: str) -> str | None:
    """FRED's identifier: at most 25 letters and digits, upper case. None for what cannot be one."""
    found = name.strip().upper()
    return found if _ID.fullmatch(found) else None
