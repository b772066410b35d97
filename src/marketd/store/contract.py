"""What keeps bars must be able to do. Engines: `marketd.store.embedded.EmbeddedStore`.

Calls block; the server makes them from a worker thread. All methods are safe to call from several threads.
"""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from marketd.model import Interval, Side

__all__ = ["BarStore"]


class BarStore(Protocol):
    def append(self, bars: pa.Table) -> int:
        """Keep a batch of bars (`BAR_SCHEMA`, any order); return how many new versions it made.

        Durable when it returns: a `kill -9` afterwards loses nothing of it, and one before leaves nothing
        half-written. A row whose prices, volume, vwap, trades and status equal the last version of its
        key (symbol, interval, side, ts, provider) is no new version and keeps its first `as_of`. A changed
        one is. Raises StoreError (disk full, closed); then no row of the batch was kept.
        """
        ...

    def read(
        self,
        symbol: str,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        limit: int | None = None,
        newest_first: bool = False,
        as_of_ns: int | None = None,
    ) -> pa.Table:
        """Last versions of the bars with start_ns <= ts < end_ns, ascending by ts (descending with `newest_first`).

        At most `limit` of them, the first in that order.

        With `as_of_ns`, the versions a reader would have been given at that time. `BAR_SCHEMA`; empty if
        there are none. When several providers have a bar, the one whose version has the latest `as_of` is given.
        """
        ...

    def symbols(self) -> tuple[str, ...]:
        """Every symbol with at least one bar, sorted."""
        ...

    def close(self) -> None:
        """Release the files. Idempotent; everything else raises StoreError afterwards."""
        ...
