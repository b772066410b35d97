"""What keeps bars must be able to do. Engines: `store.embedded.EmbeddedStore`, `store.postgres.PostgresStore`.

Calls block; the server makes them from a worker thread. All methods are safe to call from several threads.
Nothing is ever deleted or overwritten: a correction and a withdrawal are versions.

Which bar wins when several providers have one of the same symbol, interval, side and ts (the *policy*, applied
on read, never on write): providers named in `prefer`, in that order, come before all others; among the others those
whose prices are raw come before those whose name ends in `model.ADJUSTED`, however old their bars; among equals the
one whose version has the latest `as_of` (on a tie the first by name). A provider whose version in force is
`withdrawn` does not take part; if no other is left, the bar is not given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.model import Interval, Side

__all__ = ["BarStore", "Presence", "StoreStats"]


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Which bars exist, one bit each.

    bits: uint8 (symbols, bytes); bit k of a row (little end of each byte first) is the bar that starts at
    `start_ns + k * interval.ns`. Bits at and after `slots` are 0. start_ns: at a start of a bar.
    """

    symbols: tuple[str, ...]
    interval: Interval
    start_ns: int
    slots: int
    bits: npt.NDArray[np.uint8]

    def of(self, symbol: str) -> npt.NDArray[np.bool_]:
        """One symbol's row, a truth value a slot. Raises KeyError for one that was not asked for."""
        try:
            row = self.symbols.index(symbol)
        except ValueError:
            raise KeyError(symbol) from None
        return np.unpackbits(self.bits[row], count=self.slots, bitorder="little").astype(np.bool_)


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """kind: embedded, postgres or memory. bars: keys. versions: rows. bytes: on disk. details: the engine's own."""

    kind: str
    symbols: int
    versions: int
    bytes: int | None
    details: dict[str, int | float | str]


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
        prefer: Sequence[str] = (),
        coded: bool = False,
    ) -> pa.Table:
        """The bars in force with start_ns <= ts < end_ns, ascending by ts (descending with `newest_first`).

        At most `limit` of them, the first in that order: the latest n are `limit=n, newest_first=True`.
        One row a ts, chosen by the policy above. With `as_of_ns`, exactly what this call would have answered
        then. `BAR_SCHEMA`; empty if there are none. With `coded`, the columns of strings may be dictionary-encoded,
        with indices of any width, if that is less work for the engine.
        """
        ...

    def cross_section(
        self,
        interval: Interval,
        ts_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
    ) -> pa.Table:
        """The bars of all symbols (or of these) that start at `ts_ns`, ascending by symbol. Else as `read`."""
        ...

    def scan(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        as_of_ns: int | None = None,
        prefer: Sequence[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """What `read` gives, for all symbols (or these), one batch a symbol that has any bars, ascending by symbol.

        For roll-ups and exports: memory is a few symbols' bars, however many there are. columns: those of
        `BAR_SCHEMA` that are needed, in this order, None for all. Each symbol is as it is when its turn comes.
        Arguments are checked when the first batch is asked for.
        """
        ...

    def versions(self, symbol: str, interval: Interval, ts_ns: int, *, side: Side = "trade") -> pa.Table:
        """Every version of one bar, of every provider, withdrawn ones too, ascending by (as_of, provider)."""
        ...

    def read_versions(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, side: Side = "trade"
    ) -> Iterator[pa.RecordBatch]:
        """Every version of the bars with start_ns <= ts < end_ns, of every provider, withdrawn ones too, ascending by
        (ts, as_of, provider). `BAR_SCHEMA`; no batch is empty.

        For exports: memory is some hundred thousand rows, however long the range. Each batch is as it is when its
        turn comes. Arguments are checked when the first batch is asked for.
        """
        ...

    def presence(
        self,
        interval: Interval,
        start_ns: int,
        end_ns: int,
        *,
        side: Side = "trade",
        symbols: Sequence[str] | None = None,
    ) -> Presence:
        """Which bars with start_ns <= ts < end_ns are in force (withdrawn ones are not), of any provider.

        symbols: in the answer's order, those without a bar included; None for all, sorted. Cheap: it does not
        read prices. Raises InvalidInput for more than 2^33 bits.
        """
        ...

    def symbols(self) -> tuple[str, ...]:
        """Every symbol with at least one bar, sorted."""
        ...

    def stats(self) -> StoreStats: ...

    def close(self) -> None:
        """Release the files. Idempotent; everything else raises StoreError afterwards."""
        ...
