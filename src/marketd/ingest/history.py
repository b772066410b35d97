"""Bars that were fetched or imported: which of them we accept. Pure; see `docs/quarantine.md` for every reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pyarrow as pa

from marketd.model import Quarantined

__all__ = ["KeepBars", "KeptBars"]


class KeptBars(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch of bars. received = accepted + sum of refused. new_versions: of the accepted ones.

    quarantined: at most the first 1,000 refused rows, each with its reason. quarantined_rows: where each of them stood
    in the batch, from 0; empty if that is not known.
    """

    received: int
    accepted: int
    new_versions: int
    refused: dict[str, int]
    quarantined: tuple[Quarantined, ...] = ()
    quarantined_rows: tuple[int, ...] = ()


KeepBars = Callable[[str, pa.Table], Awaitable[KeptBars]]
"""The pipeline's door for history: (provider, `BAR_SCHEMA` table) in, durable and checked when it returns.

Raises StoreError when they could not be made durable; then none of the batch was kept."""
