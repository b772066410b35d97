"""Facts about instruments and economies that change after they were published: actions and observations."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pyarrow as pa

__all__ = ["OBSERVATION_SCHEMA", "ActionKind", "CorporateAction"]

ActionKind = Literal["split", "dividend", "rename"]


class CorporateAction(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one action, as one provider tells it. Key: (symbol, kind, ex_ns, provider).

    ex_ns: midnight UTC of the first session without the right. ratio: of a split, new shares for one old (7.0).
    amount: of a dividend, cash a share *before* any later split, in `currency`. new_symbol: of a rename.
    withdrawn: the provider took it back. as_of_ns: when we learned this version.
    """

    symbol: str
    kind: ActionKind
    ex_ns: int
    provider: str
    as_of_ns: int
    ratio: float | None = None
    amount: float | None = None
    currency: str | None = None
    new_symbol: str | None = None
    withdrawn: bool = False


_TS = pa.timestamp("ns", tz="UTC")

_COLUMNS: list[pa.Field[Any]] = [
    pa.field("series", pa.string(), nullable=False),
    pa.field("ts", _TS, nullable=False),
    pa.field("value", pa.float64()),
    pa.field("provider", pa.string(), nullable=False),
    pa.field("as_of", _TS, nullable=False),
]

OBSERVATION_SCHEMA: pa.Schema = pa.schema(_COLUMNS)
"""Observations of series (macro factors, fixings). ts: the period's first instant. value: null when it was taken
back. as_of: when this version became known. Key: (series, ts, provider)."""
