"""From a file to chunks of `Rows`, in constant memory.

Arrow parses a block of text at a time. A block that it refuses, or that holds a value we refuse, is read again line
by line, so that only the lines at fault are put aside, with their numbers. Both ways give the same values.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from marketd.errors import InvalidInput
from marketd.model import BOOK, LAST, TRADE
from marketd.model.ticks import F64, I64, NO_TRADE_ID
from marketd.sources.lines import Block, blocks
from marketd.sources.replay.config import ReplayFile
from marketd.sources.replay.layout import BAR_SIDES, OHLC, Layout, guess
from marketd.sources.replay.recording import Decoder, Recording, looks_recorded
from marketd.sources.replay.rows import NO_TIME, Asides, Rows, SymbolTable, corrupt_line, running_key
from marketd.sources.replay.values import NS_PER_UNIT, TimeColumn, integer, moment, number

__all__ = ["FileReader", "open_file"]

_SAMPLE_ROWS = 1_000
_SAMPLE_BYTES = 1 << 18
_PARQUET_ROWS = 32_768
_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_DELIMITERS = ",;\t|"
_BOM = b"\xef\xbb\xbf"
_NUMBERS = ("bid", "ask", "bid_size", "ask_size", "last", "last_size", "volume")
_log = logging.getLogger(__name__)


class FileReader(Protocol):
    """One file whose layout is known. Each call of `chunks` reads it from the start."""

    @property
    def layout(self) -> Layout: ...

    def chunks(self, symbols: SymbolTable, asides: Asides, block_bytes: int) -> Iterator[Rows]: ...


def open_file(file: ReplayFile, decoders: Mapping[str, Decoder]) -> FileReader:
    """Look at the beginning of a file and say how it will be read. Raises `InvalidInput` naming file and column."""
    path = Path(file.path)
    suffix = next((s for s in sorted(_SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise InvalidInput("path", file.path, f"a file ending in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise InvalidInput("path", file.path, "a file that exists")
    try:
        if suffix == ".parquet":
            return _Parquet(file, path)
        head = _head(path)
        reader: FileReader = _Csv(file, path, head) if suffix.startswith(".csv") else _json(file, path, head, decoders)
    except OSError as error:
        raise InvalidInput("path", file.path, f"a readable file ({error.strerror or error})") from None
    layout = reader.layout
    _log.info(
        "%s: %s of %s, event time from %s",
        layout.path,
        layout.kind,
        layout.symbol or f"column {layout.symbol_column}",
        ", ".join(f"{time.column} ({time.unit})" for time in layout.times) or "the recording",
    )
    return reader


def _head(path: Path) -> bytes:
    """The first lines, at most a sample's worth."""
    for block in blocks(path, _SAMPLE_BYTES):
        if block.damage is not None and not block.data:
            raise InvalidInput("path", str(path), f"a readable file; its {block.damage}")
        return block.data
    raise InvalidInput("path", str(path), "a file that is not empty")


class _Csv:
    def __init__(self, file: ReplayFile, path: Path, head: bytes) -> None:
        self._path = path
        first, _, rest = head.removeprefix(_BOM).partition(b"\n")
        header = first.decode(errors="replace").rstrip("\r")
        delimiter = file.delimiter or max(_DELIMITERS, key=header.count)
        columns = _fields(header, delimiter) or []
        sample = []
        for text in rest.decode(errors="replace").split("\n")[:_SAMPLE_ROWS]:
            fields = _fields(text.rstrip("\r"), delimiter)
            if fields is not None and len(fields) == len(columns):
                sample.append(dict(zip(columns, fields, strict=True)))
        self.layout = guess(file, columns, sample, delimiter=delimiter)
        self._convert = pacsv.ConvertOptions(
            include_columns=[str(columns.index(name)) for name in self.layout.used()],
            column_types={str(columns.index(n)): t for n, t in _arrow_types(self.layout).items()},
            null_values=[""],
            strings_can_be_null=False,
        )
        self._names = [str(position) for position in range(len(columns))]
        self._parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=False)

    def chunks(self, symbols: SymbolTable, asides: Asides, block_bytes: int) -> Iterator[Rows]:
        build = _Builder(self.layout, symbols, asides)
        for block in blocks(self._path, block_bytes):
            whole = block
            if block.line == 1:
                header, newline, rest = block.data.partition(b"\n")
                if block.damage is None:
                    whole = Block(rest, 2)
                    if not newline or not rest:
                        continue
                else:
                    whole = Block(header, 1, block.damage)
            rows = None if whole.damage is not None else self._at_once(whole, build)
            yield build.carefully(whole, self._line) if rows is None else rows

    def _at_once(self, block: Block, build: _Builder) -> Rows | None:
        data = block.data
        if b"0x" in data or b"0X" in data:  # Arrow reads hexadecimal integers, we do not
            return None
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        read = pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=self._names)
        try:
            table = pacsv.read_csv(
                io.BytesIO(data), read_options=read, parse_options=self._parse, convert_options=self._convert
            )
        except pa.lib.ArrowException:
            return None
        if table.num_rows != lines:
            return None
        named = dict(zip(self.layout.used(), table.columns, strict=True))
        return build.at_once({name: column.combine_chunks() for name, column in named.items()}, lines)

    def _line(self, text: str) -> Mapping[str, object]:
        fields = _fields(text, self.layout.delimiter)
        if fields is None or len(fields) != len(self.layout.columns):
            raise ValueError(f"expected {len(self.layout.columns)} columns")
        return dict(zip(self.layout.columns, fields, strict=True))


def _fields(text: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([text], delimiter=delimiter), None)
    except csv.Error:
        return None


def _arrow_types(layout: Layout) -> dict[str, pa.DataType]:
    """What Arrow shall parse each column as; what does not fit goes the careful way."""
    types: dict[str, pa.DataType] = dict.fromkeys(layout.numbers.values(), pa.float64())
    for time in layout.times:
        if time.unit in NS_PER_UNIT:
            digits = len(str(NS_PER_UNIT[time.unit])) - 1
            types[time.column] = pa.decimal128(19 + digits, digits) if time.fractional else pa.int64()
        else:
            known: dict[str, pa.DataType] = {
                "date": pa.date32(),
                "local": pa.timestamp("ns"),
                "rfc3339": pa.timestamp("ns", tz="UTC"),
            }
            types[time.column] = known[time.unit]
    if layout.trade_id is not None:
        types[layout.trade_id] = pa.int64()
    if layout.symbol_column is not None:
        types[layout.symbol_column] = pa.dictionary(pa.int32(), pa.string())
    return types


class _Builder:
    """Makes `Rows` of one file's values, carrying the running key from chunk to chunk."""

    def __init__(self, layout: Layout, symbols: SymbolTable, asides: Asides) -> None:
        self._layout = layout
        self._symbols = symbols
        self._asides = asides
        self._key = NO_TIME

    # The fast way: whole columns.

    def at_once(self, columns: Mapping[str, Any], rows: int) -> Rows | None:
        """Rows of Arrow columns, or None if any value in them needs a closer look."""
        layout = self._layout
        try:
            times = [_times(columns[time.column], time) for time in layout.events]
            received = None if layout.received is None else _times(columns[layout.received.column], layout.received)
            numbers = {ours: _floats(columns[theirs]) for ours, theirs in layout.numbers.items()}
            trade_id = None if layout.trade_id is None else _integers(columns[layout.trade_id])
            symbol_index = self._positions(columns, rows)
        except (_Refused, pa.lib.ArrowException):
            return None
        event = np.full(rows, NO_TIME, np.int64)
        for stated in (*times, *(() if received is None else (received,))):
            missing = event == NO_TIME
            if not missing.any():
                break
            event = np.where(missing, stated, event)
        if (event == NO_TIME).any() or not _valid(layout, numbers):
            return None
        flags = self._flags(numbers, rows)
        if received is None:
            received = np.full(rows, NO_TIME, np.int64)
        return self._rows(event, received, symbol_index, flags, numbers, trade_id)

    def _positions(self, columns: Mapping[str, Any], rows: int) -> Any:
        if self._layout.symbol_column is None:
            return np.full(rows, self._symbols.position(self._layout.symbol or ""), np.int32)
        column = columns[self._layout.symbol_column]
        if not pa.types.is_dictionary(column.type):
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise _Refused
            column = column.dictionary_encode()
        names = column.dictionary.to_pylist()
        if column.null_count or any(not name or not name.strip() for name in names):
            raise _Refused
        positions = np.array([self._symbols.position(name) for name in names], np.int32)
        return positions[column.indices.to_numpy(zero_copy_only=False)]

    def _flags(self, numbers: Mapping[str, F64], rows: int) -> Any:
        kind = self._layout.kind
        if kind == "trades":
            return np.full(rows, LAST | TRADE, np.uint8)
        if kind == "bars":
            return np.full(rows, LAST | TRADE if "open" in numbers else BOOK, np.uint8)
        if "flags" in numbers:
            return numbers["flags"].astype(np.uint8)
        flags = np.full(rows, BOOK if kind == "quotes" else 0, np.uint8)
        if "last" in numbers:
            priced = ~np.isnan(numbers["last"])
            flags[priced] |= LAST
            if kind == "ticks" and "last_size" in numbers:
                flags[priced & ~np.isnan(numbers["last_size"])] |= TRADE
        if kind == "ticks":
            for side in BAR_SIDES:
                if side in numbers:
                    flags[~np.isnan(numbers[side])] |= BOOK
        return flags

    # The careful way: value by value.

    def carefully(self, block: Block, parse: Callable[[str], Mapping[str, object]]) -> Rows:
        """Rows of lines of text; a line that `parse` or a value of which is refused becomes an aside in its place."""
        if block.damage is not None:
            text = block.data.decode(errors="replace")
            return self.row_by_row([(block.line, text or block.damage, partial(_refuse, block.damage))])
        texts = block.data.decode(errors="replace").split("\n")
        if not texts[-1]:
            texts.pop()
        numbered = enumerate((text.rstrip("\r") for text in texts), block.line)
        return self.row_by_row((n, text, partial(parse, text)) for n, text in numbered if text.strip())

    def row_by_row(self, rows: Iterable[tuple[int, str, Callable[[], Mapping[str, object]]]]) -> Rows:
        """rows: (number of line or row, its text, how to get its values by their names)."""
        layout = self._layout
        event: list[int] = []
        received: list[int] = []
        symbol: list[int] = []
        trade_id: list[int] = []
        bad: list[bool] = []
        numbers: dict[str, list[float]] = {ours: [] for ours in layout.numbers}
        for line, text, get in rows:
            try:
                values = get()
                row = {ours: number(values.get(theirs)) for ours, theirs in layout.numbers.items()}
                times = [moment(values.get(time.column), time) for time in layout.times]
                time_ns = next((time for time in times if time is not None), None)
                if time_ns is None:
                    _refuse("no time")
                if not _valid(layout, {ours: np.array([value]) for ours, value in row.items()}):
                    _refuse(f"not a row of {layout.kind}")
                told = None if layout.received is None else times[-1]
                position = self._position(values)
                identity = NO_TRADE_ID if layout.trade_id is None else integer(values.get(layout.trade_id))
            except (ValueError, OverflowError, _Refused):
                aside = corrupt_line(layout.path, line, text)
                bad.append(True)
                event.append(NO_TIME)
                received.append(NO_TIME)
                symbol.append(0)
                trade_id.append(self._asides.put(aside))
                for column in numbers.values():
                    column.append(math.nan)
                continue
            bad.append(False)
            event.append(NO_TIME if time_ns is None else time_ns)
            received.append(NO_TIME if told is None else told)
            symbol.append(position)
            trade_id.append(identity)
            for ours, value in row.items():
                numbers[ours].append(value)
        columns = {ours: np.array(column, np.float64) for ours, column in numbers.items()}
        beside = np.array(bad, np.bool_)
        if "flags" in columns:
            columns["flags"][beside] = 0
        flags = self._flags(columns, len(event))
        flags[beside] = 0
        return self._rows(
            np.array(event, np.int64),
            np.array(received, np.int64),
            np.array(symbol, np.int32),
            flags,
            columns,
            np.array(trade_id, np.int64),
        )

    def _position(self, values: Mapping[str, object]) -> int:
        if self._layout.symbol_column is None:
            return self._symbols.position(self._layout.symbol or "")
        name = values.get(self._layout.symbol_column)
        if not isinstance(name, str) or not name.strip():
            raise ValueError("no symbol")
        return self._symbols.position(name)

    # Both ways end here.

    def _rows(
        self, event: I64, received: I64, symbol_index: Any, flags: Any, numbers: Mapping[str, F64], trade_id: I64 | None
    ) -> Rows:
        if trade_id is None:
            trade_id = np.full(len(event), NO_TRADE_ID, np.int64)
        if self._layout.kind == "bars":
            event, received, symbol_index, flags, numbers, trade_id = self._ticks_of_bars(
                event, received, symbol_index, flags, numbers, trade_id
            )
        absent = np.full(len(event), np.nan)
        key = running_key(event, self._key)
        if len(key):
            self._key = int(key[-1])
        stated = [numbers.get(name, absent) for name in _NUMBERS]
        return Rows(*[key, event, received, symbol_index, flags, *stated, trade_id])

    def _ticks_of_bars(
        self, event: I64, received: I64, symbol_index: Any, flags: Any, bars: Mapping[str, F64], trade_id: I64
    ) -> tuple[I64, I64, Any, Any, dict[str, F64], I64]:
        """Four ticks a bar, at 0, 1/4, 2/4 and 3/4 of its interval: open, low, high, close if the bar rose or stayed,
        open, high, low, close if it fell. All volume is on the close, so that sums are exact.
        """
        n = len(event)
        offsets = np.array([self._layout.interval_ns * part // 4 for part in range(4)], np.int64)
        times = np.where(event[:, None] == NO_TIME, NO_TIME, event[:, None] + offsets).ravel()
        numbers: dict[str, F64] = {}
        if "open" in bars:
            numbers["last"] = _path([bars[name] for name in OHLC], bars["close"] >= bars["open"])
            if "volume" in bars:
                numbers["last_size"] = _on_the_close(bars["volume"])
        else:
            lead = next(side for side in BAR_SIDES if f"{side}_open" in bars)
            rose = bars[f"{lead}_close"] >= bars[f"{lead}_open"]
            for side in BAR_SIDES:
                if f"{side}_open" in bars:
                    numbers[side] = _path([bars[f"{side}_{name}"] for name in OHLC], rose)
                if f"{side}_size" in bars:
                    told = bars[f"{side}_size"]
                    numbers[f"{side}_size"] = _on_the_close(np.where(told == 0, np.nan, told))
        fourfold = np.repeat(np.arange(n), 4)
        keep = np.ones(4 * n, np.bool_)
        keep[1:] = (flags[fourfold] != 0)[1:] | (fourfold[1:] != fourfold[:-1])
        return (
            times[keep],
            received[fourfold][keep],
            symbol_index[fourfold][keep],
            flags[fourfold][keep],
            {name: column[keep] for name, column in numbers.items()},
            trade_id[fourfold][keep],
        )


class _Refused(Exception):
    pass


def _refuse(reason: str) -> Any:
    raise _Refused(reason)


def _path(prices: Sequence[F64], rose: Any) -> F64:
    first, high, low, close = prices
    return np.stack([first, np.where(rose, low, high), np.where(rose, high, low), close], axis=1).ravel()


def _on_the_close(values: F64) -> F64:
    spread = np.full((len(values), 4), np.nan)
    spread[:, 3] = values
    return spread.ravel()


def _valid(layout: Layout, numbers: Mapping[str, F64]) -> bool:
    """Whether every row says what its kind must say."""
    if layout.kind == "trades":
        return not bool(np.isnan(numbers["last"]).any())
    if layout.kind == "bars":
        for prefix in ("", *(f"{side}_" for side in BAR_SIDES)):
            if f"{prefix}open" in numbers:
                first, high, low, close = (numbers[f"{prefix}{name}"] for name in OHLC)
                inside = (low <= first) & (low <= close) & (first <= high) & (close <= high)
                if not inside.all():
                    return False
        return True
    if layout.kind == "quotes":
        return True
    if "flags" in numbers:
        flags = numbers["flags"]
        if not ((flags >= 1) & (flags <= (BOOK | LAST | TRADE)) & (flags == np.floor(flags))).all():
            return False
        priced = flags.astype(np.uint8) & (LAST | TRADE) != 0
        return not bool((priced & np.isnan(numbers.get("last", np.full(len(flags), np.nan)))).any())
    return not bool(np.logical_and.reduce([np.isnan(numbers[n]) for n in ("bid", "ask", "last") if n in numbers]).any())


def _floats(column: Any) -> F64:
    if pa.types.is_decimal(column.type) or not (
        pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)
    ):
        raise _Refused
    values: F64 = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        if np.isinf(values).any() or int(np.isnan(values).sum()) != column.null_count:
            raise _Refused
        values = values.copy()
    return values


def _integers(column: Any) -> I64:
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise _Refused
    filled = column.cast(pa.int64())
    if filled.null_count:
        filled = pc.fill_null(filled, NO_TRADE_ID)
    values: I64 = filled.to_numpy(zero_copy_only=False)
    return values


def _times(column: Any, time: TimeColumn) -> I64:
    """int64 nanoseconds, `NO_TIME` where absent. Refuses what would overflow."""
    kind = column.type
    scale = NS_PER_UNIT.get(time.unit, 1)
    if pa.types.is_decimal128(kind):
        # Unscaled, a decimal with the unit's digits is nanoseconds already: its low 64 bits, if they can hold it.
        pairs = np.frombuffer(column.buffers()[1], np.int64)[2 * column.offset : 2 * (column.offset + len(column))]
        low, high = pairs[::2], pairs[1::2]
        if 10**kind.scale != scale:
            raise _Refused
        absent = np.asarray(column.is_null())
        if ((low >> 63 != high) & ~absent).any() or (low[~absent] == NO_TIME).any():
            raise _Refused
        decimal_ns: I64 = np.where(absent, NO_TIME, low)
        return decimal_ns
    if pa.types.is_date32(kind):
        whole, scale = column.cast(pa.int32()).cast(pa.int64()), 86_400 * NS_PER_UNIT["s"]
    elif pa.types.is_timestamp(kind):
        if kind.tz is None and time.zone is not None:
            column = pc.assume_timezone(column, time.zone.key, ambiguous="raise", nonexistent="raise")
        whole, scale = column.cast(pa.int64()), NS_PER_UNIT[kind.unit]
    elif pa.types.is_integer(kind) or pa.types.is_null(kind):
        whole = column.cast(pa.int64())
    else:
        raise _Refused
    null: Any = np.asarray(whole.is_null()) if whole.null_count else None
    values: I64 = (whole if null is None else pc.fill_null(whole, 0)).to_numpy(zero_copy_only=False)
    limit = (2**63 - 1) // scale
    if len(values) and (int(values.min()) < -limit or int(values.max()) > limit):
        raise _Refused
    values = values * scale if scale != 1 else values
    return values if null is None else np.where(null, NO_TIME, values)


class _Parquet:
    """A NaN price in a Parquet file is an absent one; infinity is a corrupt row. Where is `file:row`, from 1."""

    def __init__(self, file: ReplayFile, path: Path) -> None:
        self._path = path
        try:
            with pq.ParquetFile(path) as parquet:
                schema = parquet.schema_arrow
                sample = next(parquet.iter_batches(batch_size=_SAMPLE_ROWS), None)
        except pa.lib.ArrowException as error:
            raise InvalidInput("path", file.path, f"a Parquet file ({error})") from None
        self._zone = file.timezone
        units: dict[str, str] = {}
        for field in schema:
            if pa.types.is_timestamp(field.type):
                if field.type.tz is None and file.timezone is None and _is_time(file, field.name):
                    raise InvalidInput(
                        f"{file.path}: {field.name}", str(field.type), "a timestamp with its time zone, or `timezone`"
                    )
                units[field.name] = "ns"
            elif pa.types.is_date(field.type):
                units[field.name] = "ns"
        self._typed = frozenset(units)
        rows = [] if sample is None else self._plain(sample).to_pylist()
        self.layout = guess(file, schema.names, rows, units=units)

    def _plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Times as integers, nanoseconds: exact, and the same for both ways of reading."""
        arrays, names = [], batch.schema.names
        for name, column in zip(names, batch.columns, strict=True):
            plain: Any = column
            if name in self._typed:
                if pa.types.is_timestamp(column.type) and column.type.tz is None and self._zone is not None:
                    plain = pc.assume_timezone(plain, self._zone, ambiguous="raise", nonexistent="raise")
                plain = plain.cast(pa.timestamp("ns", tz=getattr(plain.type, "tz", None))).cast(pa.int64())
            elif pa.types.is_dictionary(column.type):
                plain = column.cast(column.type.value_type)
            arrays.append(plain)
        return pa.RecordBatch.from_arrays(arrays, names=names)

    def chunks(self, symbols: SymbolTable, asides: Asides, block_bytes: int) -> Iterator[Rows]:
        build = _Builder(self.layout, symbols, asides)
        used = list(self.layout.used())
        row = 1
        size = max(1_024, min(_PARQUET_ROWS, block_bytes // 32))
        try:
            with pq.ParquetFile(self._path) as parquet:
                for batch in parquet.iter_batches(batch_size=size, columns=used, use_threads=False):
                    plain = self._plain(batch)
                    rows = build.at_once(dict(zip(plain.schema.names, plain.columns, strict=True)), len(batch))
                    if rows is None:
                        values = enumerate(plain.to_pylist(), row)
                        rows = build.row_by_row((n, repr(value), partial(dict, value)) for n, value in values)
                    yield rows
                    row += len(batch)
        except (pa.lib.ArrowException, OSError) as error:
            damage = f"file cannot be read further ({error})"
            yield build.row_by_row([(row, damage, partial(_refuse, damage))])


def _is_time(file: ReplayFile, name: str) -> bool:
    """Whether a naive timestamp column would be read: any that is mapped, or all when none is."""
    mapped = {file.columns.get("time_event"), file.columns.get("time_received")} - {None}
    return name in mapped if mapped else True


def _json(file: ReplayFile, path: Path, head: bytes, decoders: Mapping[str, Decoder]) -> FileReader:
    sample: list[dict[str, object]] = []
    for text in head.removeprefix(_BOM).split(b"\n")[:_SAMPLE_ROWS]:
        try:
            row = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(row, dict):
            sample.append(row)
    if not sample:
        raise InvalidInput("path", file.path, "JSON lines: one object a line")
    if file.kind == "recording" or (file.kind is None and looks_recorded(sample[0])):
        return Recording(file, path, sample, decoders)
    return _JsonLines(file, path, sample)


class _JsonLines:
    def __init__(self, file: ReplayFile, path: Path, sample: Sequence[Mapping[str, object]]) -> None:
        self._path = path
        self.layout = guess(file, list(dict.fromkeys(name for row in sample for name in row)), sample)

    def chunks(self, symbols: SymbolTable, asides: Asides, block_bytes: int) -> Iterator[Rows]:
        build = _Builder(self.layout, symbols, asides)
        for block in blocks(self._path, block_bytes):
            yield build.carefully(block, _object)


def _object(text: str) -> Mapping[str, object]:
    try:
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not an object")  # noqa: TRY004 - the text is at fault, not a caller
    return row
