"""Writes what sources send to a file that can be replayed.

Messages of a provider are written as they came (`tap`); what has no messages (simulator, replay) is written as rows
(`record`). The format is `recording.py`; a Parquet file holds rows only. Encoding and writing happen in a thread,
every second and at the end. After a crash a JSON-lines recording lacks at most its last second and may end within a
line, which replay puts aside; a Parquet file is readable only once it was closed.
"""

from __future__ import annotations

import asyncio
import math
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marketd.clock import Clock
from marketd.errors import InvalidInput, StoreError
from marketd.model import Connected, Disconnected, Ended, Quote, SourceEvent, TickBatch, Trade
from marketd.model.ticks import NO_TRADE_ID
from marketd.sources.contract import RawTap
from marketd.sources.replay.recording import EventLine, RawLine, TickLine

__all__ = ["Recorder"]

_FLUSH_S = 1.0
_ROWS_WAITING_MAX = 500_000
_ROW_BYTES = 128
_ROW_GROUP_ROWS = 65_536
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_PRICES = ("bid", "ask", "bid_size", "ask_size", "last", "last_size", "volume")
_Item = TickBatch | RawLine | EventLine

_FIELDS: list[tuple[str, pa.DataType]] = [
    ("time_received_ns", pa.int64()),
    ("time_event_ns", pa.int64()),
    ("source", pa.string()),
    ("symbol", pa.string()),
    ("flags", pa.uint8()),
    *[(name, pa.float64()) for name in _PRICES],
    ("trade_id", pa.int64()),
]
_PARQUET_SCHEMA = pa.schema(_FIELDS)


class _Writer(Protocol):
    def write(self, items: Sequence[_Item]) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """`async with Recorder(path, clock) as recorder:` writes every second and closes the file at the end.

    path: a new file ending in `.jsonl`, `.jsonl.gz` or `.parquet`. Raises `InvalidInput` if it exists already or
    cannot be made. When writing fails later (disk full), the next `record`, tap or `close` raises `StoreError`.
    """

    def __init__(self, path: Path | str, clock: Clock) -> None:
        self._path = Path(path)
        self._clock = clock
        self._tapped: set[str] = set()
        self._waiting: deque[_Item] = deque()
        self._rows_waiting = 0
        self._writing = threading.Lock()
        self._failure: OSError | None = None
        self._closed = False
        self._flusher: asyncio.Task[None] | None = None
        name = self._path.name.lower()
        if not name.endswith(_SUFFIXES):
            raise InvalidInput("out", str(path), f"a file ending in {', '.join(_SUFFIXES)}")
        self._raw = not name.endswith(".parquet")
        try:
            self._writer: _Writer = _Lines(self._path, packed=name.endswith(".gz")) if self._raw else _Table(self._path)
        except FileExistsError:
            raise InvalidInput("out", str(path), "a file that does not exist yet") from None
        except OSError as error:
            raise InvalidInput("out", str(path), f"a file that can be written ({error.strerror})") from None

    def tap(self, source: str) -> RawTap:
        """What to give a source that has raw messages; from then on `record` writes none of its ticks."""
        if not self._raw:
            return lambda _time_received_ns, _raw: None
        self._tapped.add(source)

        def write_raw(time_received_ns: int, raw: str) -> None:
            self._put(RawLine(time_received_ns=time_received_ns, source=source, raw=raw), 1 + len(raw) // _ROW_BYTES)

        return write_raw

    def record(self, events: Sequence[SourceEvent]) -> None:
        """Take what a source yielded. Call it for every source; it knows which are tapped."""
        for event in events:
            if isinstance(event, TickBatch):
                if event.source not in self._tapped:
                    self._put(event, len(event))
            elif isinstance(event, Quote | Trade):
                if event.source not in self._tapped:
                    self._put(TickBatch.from_events([event]), 1)
            elif isinstance(event, Connected | Disconnected | Ended):
                line = EventLine(
                    time_received_ns=event.time_received_ns,
                    source=event.source,
                    event=_EVENTS[type(event)],
                    reason=event.reason if isinstance(event, Disconnected) else None,
                )
                self._put(line, 1)

    def flush(self) -> None:
        """Write what is waiting; from any thread. The bytes are then the operating system's."""
        with self._writing:
            items = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._rows_waiting = 0
            if not items or self._failure is not None:
                return
            try:
                self._writer.write(items)
            except OSError as error:
                self._failure = error

    def close(self) -> None:
        """Write the rest and close the file. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        with self._writing:
            try:
                self._writer.close()
            except OSError as error:
                self._failure = self._failure or error
        self._check()

    async def __aenter__(self) -> Self:
        self._flusher = asyncio.create_task(self._flush_always(), name="recorder")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        self.close()

    async def _flush_always(self) -> None:
        while True:
            await self._clock.sleep(_FLUSH_S)
            await asyncio.to_thread(self.flush)

    def _put(self, item: _Item, rows: int) -> None:
        self._check()
        self._waiting.append(item)
        self._rows_waiting += rows
        if self._rows_waiting > _ROWS_WAITING_MAX:  # the writer does not keep up: now the source waits
            self.flush()

    def _check(self) -> None:
        if self._failure is not None:
            raise StoreError(str(self._path), f"cannot be written ({self._failure.strerror or self._failure})")


_EVENTS: dict[type, Literal["connected", "disconnected", "ended"]] = {
    Connected: "connected",
    Disconnected: "disconnected",
    Ended: "ended",
}


class _Lines:
    """JSON lines, perhaps packed; every write leaves whole lines that can be unpacked."""

    def __init__(self, path: Path, *, packed: bool) -> None:
        self._encode = msgspec.json.Encoder().encode_lines
        self._pack = zlib.compressobj(6, zlib.DEFLATED, 31) if packed else None
        self._file = path.open("xb", buffering=0)

    def write(self, items: Sequence[_Item]) -> None:
        lines: list[object] = []
        for item in items:
            if isinstance(item, TickBatch):
                lines.extend(_tick_lines(item))
            else:
                lines.append(item)
        data = self._encode(lines)
        if self._pack is not None:
            data = self._pack.compress(data) + self._pack.flush(zlib.Z_SYNC_FLUSH)
        self._write(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        with self._file:
            if self._pack is not None:
                self._write(self._pack.flush())


def _tick_lines(batch: TickBatch) -> list[TickLine]:
    prices = [[None if math.isnan(value) else value for value in getattr(batch, name).tolist()] for name in _PRICES]
    ids = [None] * len(batch) if batch.trade_id is None else batch.trade_id.tolist()
    columns = zip(
        batch.time_received_ns.tolist(),
        batch.time_event_ns.tolist(),
        batch.symbol_index.tolist(),
        batch.flags.tolist(),
        ids,
        *prices,
        strict=True,
    )
    return [
        TickLine(
            time_received_ns=received,
            time_event_ns=event,
            source=batch.source,
            symbol=batch.symbols[position],
            flags=flags,
            trade_id=None if identity == NO_TRADE_ID else identity,
            bid=bid,
            ask=ask,
            bid_size=bid_size,
            ask_size=ask_size,
            last=last,
            last_size=last_size,
            volume=volume,
        )
        for received, event, position, flags, identity, bid, ask, bid_size, ask_size, last, last_size, volume in columns
    ]


class _Table:
    """Parquet; rows wait in memory until there are enough for a row group."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._writer = pq.ParquetWriter(self._file, _PARQUET_SCHEMA, compression="zstd")
        self._parts: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, items: Sequence[_Item]) -> None:
        for item in items:
            if isinstance(item, TickBatch):
                self._parts.append(_record_batch(item))
                self._rows += len(item)
        if self._rows >= _ROW_GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._parts, _PARQUET_SCHEMA).combine_chunks())
        self._parts.clear()
        self._rows = 0

    def close(self) -> None:
        with self._file:
            if self._parts:
                self._write_group()
            self._writer.close()


def _record_batch(batch: TickBatch) -> pa.RecordBatch:
    ids: Any = pa.nulls(len(batch), pa.int64())
    if batch.trade_id is not None:
        ids = pa.array(batch.trade_id, mask=batch.trade_id == NO_TRADE_ID)
    positions: Any = pa.array(batch.symbol_index)
    names: Any = pa.DictionaryArray.from_arrays(positions, pa.array(batch.symbols, pa.string()))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(batch.time_received_ns),
            pa.array(batch.time_event_ns),
            pa.array(np.full(len(batch), batch.source, object), pa.string()),
            names.cast(pa.string()),
            pa.array(batch.flags),
            *(pa.array(getattr(batch, name), mask=np.isnan(getattr(batch, name))) for name in _PRICES),
            ids,
        ],
        schema=_PARQUET_SCHEMA,
    )
