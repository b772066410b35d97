"""Bars in DBN files (`ohlcv-1s`, `-1m`, `-1h`, `-1d`, plain or `.zst`), by the format's own package, extra `dbn`.

Prices are integers of 1e-9, stamps are nanoseconds UTC of the bar's start, an instrument id is named by the mappings in
the file's head. https://databento.com/docs/standards-and-conventions/databento-binary-encoding
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from marketd.errors import InvalidInput
from marketd.model.ticks import I64
from marketd.sources.files.stamps import Column
from marketd.sources.files.tables import Chunk, Progress, Refused

__all__ = ["DbnTable"]

_NAMES = ("ts_event", "open", "high", "low", "close", "volume", "symbol", "instrument_id")
_PRICE_SCALE = 1e9
_UNDEFINED = np.iinfo(np.int64).max
_RTYPES = {"ohlcv-1s": 32, "ohlcv-1m": 33, "ohlcv-1h": 34, "ohlcv-1d": 35}
_PIECE_RECORDS = 65_536
_HEAD_BYTES = 8
_DAY = np.int64(86_400_000_000_000)


class DbnTable:
    """Implements `tables.Table`. Raises InvalidInput for other schemas, and without the package."""

    header = True
    names = _NAMES

    def __init__(self, path: Path, *, compressed: bool) -> None:
        try:
            import databento_dbn as dbn
        except ImportError:
            raise InvalidInput("path", str(path), 'the package for DBN: pip install "marketd[dbn]"') from None
        self._path, self._compressed = path, compressed
        self.bytes = path.stat().st_size
        try:
            with self._open() as stream:
                self._metadata_bytes, metadata = self._metadata(stream, dbn)
        except (pa.ArrowException, OSError, dbn.DBNError, ValueError) as error:
            raise InvalidInput("path", str(path), f"a DBN file ({error})") from None
        schema = str(metadata.schema)
        if schema not in _RTYPES:
            raise InvalidInput("path", str(path), f"DBN bars ({', '.join(_RTYPES)}); this holds {schema}")
        self._rtype = _RTYPES[schema]
        self.interval: str | None = schema.removeprefix("ohlcv-")
        self.format = f"DBN {metadata.version}, {schema} of {metadata.dataset}" + (", zstd" if compressed else "")
        fields = [(name, "<" + kind) for name, kind in dbn.OHLCVMsg._dtypes]
        if metadata.ts_out:
            fields.append(("ts_out", "<u8"))
        self._record = np.dtype(fields)
        self._by_id = _spans_by_id(metadata)
        head = next(self.chunks(range(len(_NAMES)), lambda _: None), None)
        if head is None or not len(head.lines):
            raise InvalidInput("path", str(path), "a file with bars")
        self.sample = {
            place: [str(value) for value in column.slice(0, 100).cast(pa.string()).to_pylist()]
            if place
            else ["1970-01-01"]
            for place, column in head.columns.items()
        }

    def _open(self) -> Any:
        file = pa.OSFile(str(self._path), "rb")
        return pa.CompressedInputStream(file, "zstd") if self._compressed else file

    @staticmethod
    def _metadata(stream: Any, dbn: Any) -> tuple[int, Any]:
        head = stream.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES or not head.startswith(b"DBN"):
            raise ValueError("it does not begin with DBN")
        length = int.from_bytes(head[4:8], "little")
        if length > 1 << 28:
            raise ValueError("its head is too long to be one")
        return _HEAD_BYTES + length, dbn.Metadata.decode(head + stream.read(length))

    def chunks(self, positions: Sequence[int], progress: Progress) -> Iterator[Chunk]:
        size, row, told = self._record.itemsize, 1, 0
        try:
            with self._open() as stream:
                stream.read(self._metadata_bytes)
                rest = b""
                while data := stream.read(_PIECE_RECORDS * size):
                    data = rest + data
                    whole = len(data) // size * size
                    rest = data[whole:]
                    if whole:
                        yield self._chunk(np.frombuffer(data[:whole], self._record), row, positions)
                        row += whole // size
                if rest:
                    yield self._damaged(positions, row, f"{len(rest)} bytes at the end are no whole record")
        except (pa.ArrowException, OSError) as error:
            yield self._damaged(positions, row, f"the file cannot be read further ({error})")
        progress(self.bytes - told)

    def _damaged(self, positions: Sequence[int], row: int, why: str) -> Chunk:
        empty = self._chunk(np.zeros(0, self._record), row, positions)
        return empty._replace(refused=[Refused("corrupt_line", row, why)])

    def _chunk(self, records: Any, row: int, positions: Sequence[int]) -> Chunk:
        numbers = np.arange(row, row + len(records), dtype=np.int64)
        good = (records["rtype"] == self._rtype) & (records["length"] == self._record.itemsize // 4)
        good &= records["ts_event"] <= np.uint64(_UNDEFINED)
        refused = [Refused("corrupt_line", int(n), "no record of this file's schema") for n in numbers[~good]]
        records, numbers = records[good], numbers[good]
        ts = records["ts_event"].astype(np.int64)
        columns: dict[int, Column] = {}
        for place in positions:
            name = _NAMES[place]
            if name == "ts_event":
                columns[place] = pa.array(ts, pa.int64()).cast(pa.timestamp("ns", tz="UTC"))
            elif name in ("open", "high", "low", "close"):
                prices = records[name]
                columns[place] = pa.array(np.where(prices == _UNDEFINED, np.nan, prices / _PRICE_SCALE))
            elif name == "symbol":
                columns[place] = self._symbols(records["instrument_id"], ts)
            else:
                columns[place] = pa.array(records[name].astype(np.int64))
        return Chunk(columns, numbers, refused)

    def _symbols(self, ids: Any, ts: I64) -> Column:
        """By id and day: an id may be another instrument's later. Without a mapping for its day it has no symbol."""
        symbols = np.full(len(ids), None, object)
        days = ts // _DAY
        for number in np.unique(ids):
            of_id = ids == number
            for symbol, first, end in self._by_id.get(int(number), ()):
                symbols[of_id & (days >= first) & (days < end)] = symbol
        return pa.array(symbols, pa.string())


def _spans_by_id(metadata: Any) -> dict[int, list[tuple[str, int, int]]]:
    """Of each instrument id its symbols with the days, from 1970, for which they hold (end excluded)."""
    found: dict[int, list[tuple[str, int, int]]] = {}
    epoch = dt.date(1970, 1, 1)
    for symbol, spans in metadata.mappings.items():
        for span in spans:
            if str(span["symbol"]).isdigit():
                days = ((span["start_date"] - epoch).days, (span["end_date"] - epoch).days)
                found.setdefault(int(span["symbol"]), []).append((symbol, *days))
    return found
