"""The append-only log: batches of bars that are durable but not sealed yet.

A file is a sequence of frames, each written by one call and made durable by one `fdatasync` before the next
is begun. So after a crash only the *last* frame can be damaged: it was not acknowledged, and is cut off. Damage
with a whole frame behind it is not the work of a crash and is never passed over: `StoreCorrupt`.

    frame  = magic "MDF1" · payload length u32 · crc32 of payload u32 · crc32 of (the 12 bytes before, offset u64) u32
             · payload, padded to a multiple of 8       (integers little-endian)
    file   = frame whose payload is JSON: format (2), created_ns, and the words that numbers stand for:
             intervals, sides, statuses
             then frames of rows
    rows   = length of the JSON u32 · JSON: rows; the symbols and providers that occur for the first time in this file,
             which number themselves from 0; same: columns of which every value is the same, and that value; scaled:
             columns that are written as i32, of which each value is that whole number divided by the scale · zeros up
             to a multiple of 8 · then by column, in the order of `_LAYOUT` and but for the same ones, its values

The offset in the header's checksum keeps bytes of one place from passing for a frame in another.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from marketd.errors import StoreCorrupt, StoreError
from marketd.store.batch import SIDES, STATUSES
from marketd.store.embedded.columns import I64, INTERVAL_NAMES, Columns, Names, distinct
from marketd.store.embedded.durable import sync_folder, write_all

__all__ = ["Frame", "Log", "log_damage", "log_rows"]

_log = logging.getLogger(__name__)

_MAGIC = b"MDF1"
_HEADER = struct.Struct("<4sII")
_CHECK = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECK.size


_LAYOUT: tuple[tuple[str, str], ...] = (
    ("ts", "<i8"),
    ("as_of", "<i8"),
    ("trades", "<i8"),
    ("open", "<f8"),
    ("high", "<f8"),
    ("low", "<f8"),
    ("close", "<f8"),
    ("volume", "<f8"),
    ("vwap", "<f8"),
    ("symbol", "<u4"),
    ("provider", "<u2"),
    ("interval", "<u1"),
    ("side", "<u1"),
    ("status", "<u1"),
)
"""Column and type. trades: the least int64 for null. volume, vwap: NaN for null."""

_SCALES = (1, 100, 10_000, 100_000)
_SAMPLE = 16
_MAYBE_SAME = ("ts", "as_of", "symbol", "provider", "interval", "side", "status")
_ROWS_AT_ONCE = 8_192


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    created_ns: int
    intervals: tuple[str, ...]
    sides: tuple[str, ...]
    statuses: tuple[str, ...]


class _Rows(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    rows: int
    same: dict[str, int] = {}
    scaled: dict[str, int] = {}
    symbols: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()


class _Numbers:
    """The numbers that names have in one file, by the numbers they have in this process."""

    def __init__(self) -> None:
        self._of = np.zeros(0, np.int64)
        self._count = 0

    def encode(self, codes: I64) -> tuple[I64, I64]:
        """The file's numbers of these; and those among them that have none yet, which `add` must then be told of."""
        top = int(codes.max(initial=-1)) + 1
        if top > len(self._of):
            self._of = np.append(self._of, np.full(2 * top - len(self._of), -1, np.int64))
        found = self._of[codes]
        new = distinct(codes[found < 0])
        if not len(new):
            return found, new
        numbers = self._of.copy()
        numbers[new] = self._count + np.arange(len(new))
        return numbers[codes], new

    def add(self, codes: I64) -> None:
        if len(codes):
            self.encode(codes)  # makes room
            self._of[codes] = self._count + np.arange(len(codes))
            self._count += len(codes)


class Log:
    """One log file, open for appending. Made by `create` or `open`; used under the engine's commit lock."""

    def __init__(self, path: Path, fd: int, size: int, created_ns: int) -> None:
        self.path = path
        self.size = size
        self.created_ns = created_ns
        self._fd = fd
        self._tail_is_clean = True
        self._buffer = bytearray()
        self._symbols = _Numbers()
        self._providers = _Numbers()
        self._mapped: mmap.mmap | None = None
        self._map_lock = threading.Lock()
        self._read_back = False

    @classmethod
    def create(cls, path: Path, created_ns: int) -> Log:
        """A new, empty log; replaces what is left of an interrupted `create`. Raises StoreError."""
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            head = _Head(format=2, created_ns=created_ns, intervals=INTERVAL_NAMES, sides=SIDES, statuses=STATUSES)
            frame = _frame(msgspec.json.encode(head), 0)
            write_all(fd, frame, 0)
            os.fdatasync(fd)
            sync_folder(path.parent)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            path.unlink(missing_ok=True)
            raise StoreError(str(path), f"cannot create the log: {error.strerror}") from error
        return cls(path, fd, len(frame), created_ns)

    @classmethod
    def open(cls, path: Path, names: Names, *, last: bool) -> tuple[Log | None, int, Iterator[Columns]]:
        """The log, how many rows it has, and these, some thousands at a time, each time in the order `by_version`.

        None instead of the log if not even its beginning was written whole. last: no log was begun after this one,
        so its end may be torn, and is then cut off. Raises StoreCorrupt, StoreError.
        """
        data = _content(path)
        frames, offset = _frames(data)
        if offset < len(data):
            _refuse_damage(path, data, offset, last=last)
        elif not frames and not last:
            raise StoreCorrupt(str(path), "the log is empty, yet a later one exists")
        if not frames:
            return None, 0, iter(())
        try:
            head = msgspec.json.decode(_text(data, *frames[0]), type=_Head)
            rows = [_rows_of(data, start) for start, _ in frames[1:]]
            translated = {
                "interval": np.array([INTERVAL_NAMES.index(word) for word in head.intervals], np.int64),
                "side": np.array([SIDES.index(word) for word in head.sides], np.int64),
                "status": np.array([STATUSES.index(word) for word in head.statuses], np.uint8),
            }
        except (msgspec.DecodeError, struct.error, ValueError) as error:
            raise StoreCorrupt(str(path), f"the log is of a kind that this version does not know: {error}") from error
        fd = os.open(path, os.O_RDWR)
        try:
            if offset < len(data):
                os.ftruncate(fd, offset)
                os.fdatasync(fd)
        except OSError as error:
            os.close(fd)
            raise StoreError(str(path), f"cannot cut off the torn end: {error.strerror}") from error
        log = cls(path, fd, offset, head.created_ns)
        return log, sum(r.rows for r, _ in rows), log._columns(data, rows, translated, names)

    def _columns(
        self, data: Any, rows: list[tuple[_Rows, int]], translated: dict[str, Any], names: Names
    ) -> Iterator[Columns]:
        symbols: list[int] = []
        providers: list[int] = []
        for described, _ in rows:
            symbols += names.symbols.add(described.symbols)
            providers += names.providers.add(described.providers)
        self._symbols.add(np.array(symbols, np.int64))
        self._providers.add(np.array(providers, np.int64))
        translated |= {"symbol": np.array(symbols, np.int64), "provider": np.array(providers, np.int64)}
        parts: list[Columns] = []
        for described, start in rows:
            parts.append(_decoded(data, described, start, translated))
            if sum(map(len, parts)) >= _ROWS_AT_ONCE:
                yield _ordered(parts)
                parts = []
        if parts:
            yield _ordered(parts)

    def append(self, rows: Columns, names: Names) -> Frame:
        """Write one frame and return when it is durable. Raises StoreError; the log is then as it was before."""
        one = bool((rows.series == rows.series[0]).all())  # history, of which the words are told once
        named = rows.take(slice(0, 1)) if one else rows
        symbols, new_symbols = self._symbols.encode(named.symbol)
        providers, new_providers = self._providers.encode(named.provider)
        columns = _columns_of(rows, named, symbols, providers)
        described = _Rows(
            rows=len(rows),
            same={name: int(columns[name][0]) for name in _MAYBE_SAME if (columns[name] == columns[name][0]).all()},
            scaled=_scaled(columns),
            symbols=tuple(names.symbols.names[code] for code in new_symbols.tolist()),
            providers=tuple(names.providers.names[code] for code in new_providers.tolist()),
        )
        frame = self._filled_frame(described, columns)
        try:
            if not self._tail_is_clean:
                os.ftruncate(self._fd, self.size)
            self._tail_is_clean = False
            write_all(self._fd, frame, self.size)
            os.fdatasync(self._fd)
        except OSError as error:
            reason = f"cannot append to the log: {error.strerror}"
            try:
                os.ftruncate(self._fd, self.size)
            except OSError as second:  # tried again before the next frame
                reason += f" (nor cut off what was written: {second.strerror})"
            else:
                self._tail_is_clean = True
            raise StoreError(str(self.path), reason) from error
        self._tail_is_clean = True
        start = self.size + _HEADER_BYTES
        self.size += len(frame)
        self._symbols.add(new_symbols)
        self._providers.add(new_providers)
        return Frame(self, start, self.size)

    def _filled_frame(self, described: _Rows, columns: dict[str, Any]) -> memoryview:
        """The frame of these rows, in the one buffer that is used again: fresh memory costs more than filling it."""
        text = msgspec.json.encode(described)
        written = [
            (name, "<i4" if name in described.scaled else kind) for name, kind in _LAYOUT if name not in described.same
        ]
        begin = _LENGTH.pack(len(text)) + text
        begin += b"\0" * (-len(begin) % 8)
        length = len(begin) + described.rows * sum(np.dtype(kind).itemsize for _, kind in written)
        length += -length % 8
        if len(self._buffer) < _HEADER_BYTES + length:
            self._buffer = bytearray(_HEADER_BYTES + length + length // 8)
        view = memoryview(self._buffer)[: _HEADER_BYTES + length]
        view[_HEADER_BYTES : _HEADER_BYTES + len(begin)] = begin
        place = _HEADER_BYTES + len(begin)
        for name, kind in written:
            column = np.frombuffer(self._buffer, kind, described.rows, place)
            column[:] = columns[name]
            place += column.nbytes
        view[place:] = bytes(len(view) - place)
        header = _HEADER.pack(_MAGIC, length, crc32(view[_HEADER_BYTES:]))
        view[:_HEADER_BYTES] = header + _CHECK.pack(_header_check(header, self.size))
        return view

    def keep(self) -> None:
        """Have `content` stay readable when the log is closed or removed."""
        self._read_back = True

    def content(self, end: int) -> mmap.mmap:
        """The file, mapped at least up to here, which must be durable."""
        with self._map_lock:
            if self._mapped is None or len(self._mapped) < end:
                if self._fd < 0:
                    raise StoreError(str(self.path), "the log is closed")
                self._mapped = mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ)
            return self._mapped

    def close(self) -> None:
        """Nothing is appended any more. Who holds a `Frame` can read it still."""
        self._buffer = bytearray()
        if self._fd >= 0:
            if self._read_back:
                self.content(self.size)
            os.close(self._fd)
            self._fd = -1

    def delete(self) -> None:
        """Remove the file, its rows being sealed. Raises OSError."""
        self.close()
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


class Frame:
    """Rows of one series as they are in a log, in the order of time: read from the file when they are asked for."""

    __slots__ = ("_end", "_log", "_start")

    def __init__(self, log: Log, start: int, end: int) -> None:
        self._log = log
        self._start = start
        self._end = end

    def keep(self) -> None:
        """Announce that it will be read, before the log is closed."""
        self._log.keep()

    @property
    def ts(self) -> I64:
        """In the memory of the file."""
        data = self._log.content(self._end)
        ts: I64 = _arrays(data, *_rows_of(data, self._start))["ts"]
        return ts

    def rows(self, series: int, part: Any) -> Columns:
        """Some rows, by a slice or an index array. series: what all rows are of."""
        data = self._log.content(self._end)
        described, start = _rows_of(data, self._start)
        held = {name: array[part] for name, array in _arrays(data, described, start).items()}
        value = {name: _unscaled(described, name, held[name]) for name, _ in _LAYOUT[:9]}
        ts, as_of, trades, *floats = (np.array(column) for column in value.values())
        ints = np.full(len(ts), series), ts, as_of, trades
        return Columns(ints, tuple(floats), np.array(held["status"]))

    def check(self) -> None:
        """Raises StoreCorrupt if the file does not say any longer what was written."""
        if _whole_frame(self._log.content(self._end), self._start - _HEADER_BYTES) is None:
            reason = f"the frame at byte {self._start - _HEADER_BYTES} is damaged"
            raise StoreCorrupt(str(self._log.path), reason)


def log_damage(path: Path) -> str | None:
    """What is wrong with a log, None if every frame is whole. Raises OSError."""
    data = path.read_bytes()  # not mapped: the owner may cut the file off meanwhile
    _, offset = _frames(data)
    if offset == len(data):
        return None
    try:
        _refuse_damage(path, data, offset, last=True, warn=False)
    except StoreCorrupt as error:
        return error.reason
    return f"the frame at byte {offset} is damaged or was never finished; none follows"


def log_rows(path: Path) -> int:
    """How many rows a log has, of its whole frames. Raises OSError, StoreCorrupt."""
    data = path.read_bytes()
    frames, _ = _frames(data)
    try:
        return sum(_rows_of(data, start)[0].rows for start, _ in frames[1:])
    except (msgspec.DecodeError, struct.error) as error:
        raise StoreCorrupt(str(path), f"the log is of a kind that this version does not know: {error}") from error


def _content(path: Path) -> Any:
    """The bytes of a file, which are not read before they are needed."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _frames(data: Any) -> tuple[list[tuple[int, int]], int]:
    """Start and end of the payload of each undamaged frame from the beginning, and where they end."""
    found: list[tuple[int, int]] = []
    offset = 0
    while (end := _whole_frame(data, offset)) is not None:
        found.append((offset + _HEADER_BYTES, end))
        offset = end
    return found, offset


def _text(data: Any, start: int, end: int) -> bytes:
    return bytes(data[start:end]).rstrip(b"\0")


def _rows_of(data: Any, start: int) -> tuple[_Rows, int]:
    """What a frame of rows says of itself, and where its columns start."""
    (length,) = _LENGTH.unpack_from(data, start)
    start += _LENGTH.size
    described = msgspec.json.decode(data[start : start + length], type=_Rows)
    return described, start + length + -(_LENGTH.size + length) % 8


def _columns_of(rows: Columns, named: Columns, symbols: I64, providers: I64) -> dict[str, Any]:
    """The columns by name. named: the rows, or the first one if all are of one series."""
    columns: dict[str, Any] = {
        "ts": rows.ts,
        "as_of": rows.as_of,
        "trades": rows.ints[3],
        "symbol": symbols,
        "provider": providers,
        "interval": named.interval,
        "side": named.side,
        "status": rows.status,
    }
    return columns | {name: rows.floats[position] for position, (name, _) in enumerate(_LAYOUT[3:9])}


def _scaled(columns: dict[str, Any]) -> dict[str, int]:
    """Replaces values by whole numbers of 32 bits where dividing these gives them back to the bit; by what to divide.

    Most are so many cents or shares, and what is written is what an append waits for.
    """
    found = {}
    for name, _ in _LAYOUT[3:9]:
        values = columns[name]
        for scale in _SCALES:
            if _whole(values[:_SAMPLE], scale) is None:
                continue
            whole = _whole(values, scale)
            if whole is not None:
                columns[name] = whole
                found[name] = scale
            break
    trades = columns["trades"]
    if trades.min() > -(2**31) and trades.max() < 2**31:  # which they are not where one is null
        found["trades"] = 1
    return found


def _whole(values: Any, scale: int) -> Any:
    scaled = values * scale
    if not (np.abs(scaled) < 2**31 - 1).all():  # neither what is absent
        return None
    whole = np.rint(scaled).astype(np.int32)
    same = ((whole / scale).view(np.int64) == values.view(np.int64)).all()
    return whole if same else None


def _decoded(data: Any, described: _Rows, start: int, translated: dict[str, Any]) -> Columns:
    arrays = _arrays(data, described, start)
    columns = {name: _unscaled(described, name, array) for name, array in arrays.items()}
    word = {name: codes[columns[name]] for name, codes in translated.items()}
    groups = Names.groups(word["symbol"], Names.kinds(word["interval"], word["side"]))
    ints = Names.series(groups, word["provider"]), columns["ts"], columns["as_of"], columns["trades"]
    return Columns(ints, tuple(columns[name] for name, _ in _LAYOUT[3:9]), word["status"])


def _arrays(data: Any, described: _Rows, start: int) -> dict[str, Any]:
    """The columns of a frame by name, as they are stored."""
    columns: dict[str, Any] = {}
    for name, kind in _LAYOUT:
        if name in described.same:
            columns[name] = np.broadcast_to(np.array(described.same[name], kind), described.rows)
        else:
            columns[name] = np.frombuffer(data, "<i4" if name in described.scaled else kind, described.rows, start)
            start += columns[name].nbytes
    return columns


def _unscaled(described: _Rows, name: str, array: Any) -> Any:
    scale = described.scaled.get(name)
    if scale is None:
        return array
    return array.astype(np.int64) if name == "trades" else array / scale


def _ordered(parts: list[Columns]) -> Columns:
    rows = Columns.concat(parts)
    order = rows.by_version()
    return rows if order is None else rows.take(order)


def _frame(payload: bytes, offset: int) -> bytes:
    payload += b"\0" * (-len(payload) % 8)
    header = _HEADER.pack(_MAGIC, len(payload), crc32(payload))
    return header + _CHECK.pack(_header_check(header, offset)) + payload


def _header_check(header: bytes, offset: int) -> int:
    return crc32(offset.to_bytes(8, "little"), crc32(header))


def _whole_frame(data: Any, offset: int) -> int | None:
    """Where the frame at `offset` ends, None if there is no undamaged frame."""
    header = data[offset : offset + _HEADER.size]
    start = offset + _HEADER_BYTES
    if len(data) < start or header[:4] != _MAGIC:
        return None
    _, length, payload_check = _HEADER.unpack(header)
    if _CHECK.unpack_from(data, offset + _HEADER.size)[0] != _header_check(header, offset):
        return None
    end = start + int(length)
    if end > len(data) or crc32(memoryview(data)[start:end]) != payload_check:
        return None
    return end


def _refuse_damage(path: Path, data: Any, offset: int, *, last: bool, warn: bool = True) -> None:
    """Raise StoreCorrupt unless what is at `offset` can be the torn last frame of the last log."""
    later = data.find(_MAGIC, offset + 1)
    while later >= 0 and _whole_frame(data, later) is None:
        later = data.find(_MAGIC, later + 1)
    if later >= 0:
        raise StoreCorrupt(str(path), f"the frame at byte {offset} is damaged; an undamaged one follows at {later}")
    if not last:
        raise StoreCorrupt(str(path), f"the frame at byte {offset} is damaged, and a later log exists")
    if warn:
        _log.warning("%s: cut off %d bytes of an unfinished write at byte %d", path, len(data) - offset, offset)
