"""One option contract's market at one moment, as a provider tells it: the schema of option chains."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["OPTION_SCHEMA"]

_TS = pa.timestamp("ns", tz="UTC")

_COLUMNS: list[pa.Field[Any]] = [
    pa.field("underlying", pa.string(), nullable=False),
    pa.field("contract", pa.string(), nullable=False),
    pa.field("expiry", pa.date32(), nullable=False),
    pa.field("strike", pa.float64(), nullable=False),
    pa.field("right", pa.string(), nullable=False),
    pa.field("bid", pa.float64()),
    pa.field("ask", pa.float64()),
    pa.field("bid_size", pa.float64()),
    pa.field("ask_size", pa.float64()),
    pa.field("last", pa.float64()),
    pa.field("time_last", _TS),
    pa.field("volume", pa.float64()),
    pa.field("open_interest", pa.float64()),
    pa.field("implied_volatility", pa.float64()),
    pa.field("delta", pa.float64()),
    pa.field("gamma", pa.float64()),
    pa.field("theta", pa.float64()),
    pa.field("vega", pa.float64()),
    pa.field("rho", pa.float64()),
    pa.field("underlying_price", pa.float64()),
    pa.field("multiplier", pa.float64()),
    pa.field("currency", pa.string()),
    pa.field("provider", pa.string(), nullable=False),
    pa.field("time_event", _TS),
    pa.field("time_received", _TS, nullable=False),
]

OPTION_SCHEMA: pa.Schema = pa.schema(_COLUMNS)
"""Rows ascending by (expiry, strike, right). right: `call` or `put`. contract: the OCC symbol (`AAPL261218C00150000`)
where there is one, else the provider's. Prices a share; multiplier: shares a contract. implied_volatility: a year's, as
a fraction (0.25 is 25 %). Greeks are the provider's own: a price point of the underlying, a calendar day (theta), a
percentage point of volatility or rate (vega, rho). time_event: of the chain as the provider states it, null if it does
not. Absent is null: a side without a bid is no zero."""
