"""What a store accepts: one check of a table of bars, shared by every engine.

Refuses rows that could not be read back as they were meant: unknown words, absent or infinite prices,
columns that are not `BAR_SCHEMA`. Whether prices make sense is decided in `ingest`, not here.
Beside it, the checks of what a reader asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketd.errors import InvalidInput
from marketd.model import BAR_SCHEMA, INTERVALS, BarStatus, Interval, Side

__all__ = ["PRESENCE_BITS_MAX", "checked_batch", "checked_columns", "checked_range", "one_word", "presence_slots"]

PRESENCE_BITS_MAX = 2**33
"""The most that one `presence` answers: a gigabyte."""

SIDES: tuple[str, ...] = tuple(sorted(get_args(Side)))
STATUSES: tuple[str, ...] = get_args(BarStatus)

_WORDS: dict[str, tuple[str, ...]] = {
    "interval": tuple(i.name for i in INTERVALS),
    "side": SIDES,
    "status": STATUSES,
}
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def checked_batch(bars: pa.Table) -> pa.Table:
    """The rows as exactly `BAR_SCHEMA`, NaN volume and vwap as they are. Raises InvalidInput naming the column."""
    missing = [name for name in BAR_SCHEMA.names if name not in bars.schema.names]
    if missing:
        raise InvalidInput("bars", bars.schema.names, f"the columns of BAR_SCHEMA; missing: {', '.join(missing)}")
    for field in BAR_SCHEMA:
        if not field.nullable and bars.column(field.name).null_count:
            raise InvalidInput(field.name, None, "a value in every row")
    if not bars.schema.equals(BAR_SCHEMA):
        try:
            bars = bars.select(BAR_SCHEMA.names).cast(BAR_SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise InvalidInput("bars", str(error), "columns of the types in BAR_SCHEMA") from error
    for name, allowed in _WORDS.items():
        only = one_word(bars.column(name))
        for word in bars.column(name).unique().to_pylist() if only is None else [only]:
            if word not in allowed:
                raise InvalidInput(name, word, f"one of {', '.join(allowed)}")
    # in numpy: making an Arrow scalar to compare with costs more than all of this
    for name in ("symbol", "provider"):
        if not one_word(bars.column(name)) and (pc.binary_length(bars.column(name)).to_numpy() == 0).any():
            raise InvalidInput(name, "", "a name that is not empty")
    for name in ("open", "high", "low", "close"):
        prices = bars.column(name).to_numpy()
        if not np.isfinite(prices).all():
            raise InvalidInput(name, float(prices[~np.isfinite(prices)][0]), "a finite number")
    trades = bars.column("trades").drop_null().to_numpy()
    if (trades < 0).any():
        raise InvalidInput("trades", int(trades.min()), "a count, 0 or more, or null")
    return bars


def one_word(strings: Any) -> str | None:
    """The string that all of a column's are, None if they differ (or that is not cheap to tell)."""
    if isinstance(strings, pa.ChunkedArray):
        if strings.num_chunks != 1:
            return None
        strings = strings.chunk(0)
    if not pa.types.is_string(strings.type) or not len(strings) or strings.null_count:
        return None
    _, ends, data = strings.buffers()
    edges = np.frombuffer(ends, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    begin, length, end = int(edges[0]), int(edges[1] - edges[0]), int(edges[-1])
    if length == 0 or length * len(strings) != end - begin or (np.diff(edges) != length).any():
        return None
    content = np.frombuffer(data, np.uint8)[begin:end]
    same = (content[length:] == content[:-length]).all()  # each letter is that of the string before
    return content[:length].tobytes().decode() if same else None


def checked_range(start_ns: int, end_ns: int, side: str, limit: int | None, as_of_ns: int | None) -> tuple[int, int]:
    """The bounds kept within int64, after the arguments of a read were found acceptable."""
    if side not in SIDES:
        raise InvalidInput("side", side, f"one of {', '.join(SIDES)}")
    if limit is not None and limit < 1:
        raise InvalidInput("limit", limit, "1 or more, or None for all")
    if as_of_ns is not None and not _INT64_MIN <= as_of_ns <= _INT64_MAX:
        raise InvalidInput("as_of_ns", as_of_ns, "nanoseconds since 1970, UTC, in 64 bits")
    return max(start_ns, _INT64_MIN), min(end_ns, _INT64_MAX)


def checked_columns(columns: Sequence[str] | None) -> list[str]:
    """The columns a scan gives; all of them for None."""
    if columns is None:
        return list(BAR_SCHEMA.names)
    for name in columns:
        if name not in BAR_SCHEMA.names:
            raise InvalidInput("columns", name, f"of {', '.join(BAR_SCHEMA.names)}")
    return list(columns)


def presence_slots(interval: Interval, start_ns: int, end_ns: int, symbols: int) -> tuple[int, int]:
    """Where the first slot of a `Presence` starts, and how many there are. symbols: how many rows it will have."""
    first_ns = interval.ceil(start_ns)
    slots = max(0, -((first_ns - end_ns) // interval.ns))
    if slots * symbols > PRESENCE_BITS_MAX:
        raise InvalidInput("end_ns", end_ns, f"a time that makes at most {PRESENCE_BITS_MAX:,} slots of all symbols")
    return first_ns, slots
