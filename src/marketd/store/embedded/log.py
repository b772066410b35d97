"""The append-only log: batches of bars that are durable but not sealed yet.

A file is a sequence of frames, each written by one call and made durable by one `fdatasync` before the next
is begun. So after a crash only the *last* frame can be damaged: it was not acknowledged, and is cut off. Damage
with a whole frame behind it is not the work of a crash and is never passed over: `StoreCorrupt`.

    frame  = magic "MDF1" · payload length u32 · crc32 of payload u32 · crc32 of (the 12 bytes before, offset u64) u32
             · payload, padded to a multiple of 8       (integers little-endian)
    file   = frame whose payload is an Arrow IPC schema message (metadata `created_ns`)
             then frames whose payload is one Arrow IPC record batch message of that schema

The offset in the header's checksum keeps bytes of one place from passing for a frame in another.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from zlib import crc32

import pyarrow as pa

from marketd.errors import StoreCorrupt, StoreError
from marketd.model import BAR_SCHEMA
from marketd.store.embedded.durable import sync_folder, write_all

__all__ = ["Log"]

_log = logging.getLogger(__name__)

_MAGIC = b"MDF1"
_HEADER = struct.Struct("<4sII")
_CHECK = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECK.size


class Log:
    """One log file, open for appending. Made by `create` or `open`; used under the engine's commit lock."""

    def __init__(self, path: Path, fd: int, size: int, created_ns: int) -> None:
        self.path = path
        self.size = size
        self.created_ns = created_ns
        self._fd = fd
        self._tail_is_clean = True

    @classmethod
    def create(cls, path: Path, created_ns: int) -> Log:
        """A new, empty log; replaces what is left of an interrupted `create`. Raises StoreError."""
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            schema = BAR_SCHEMA.with_metadata({"created_ns": str(created_ns)})
            head = _frame(schema.serialize().to_pybytes(), 0)
            write_all(fd, head, 0)
            os.fdatasync(fd)
            sync_folder(path.parent)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            path.unlink(missing_ok=True)
            raise StoreError(str(path), f"cannot create the log: {error.strerror}") from error
        return cls(path, fd, len(head), created_ns)

    @classmethod
    def open(cls, path: Path, *, last: bool) -> tuple[Log | None, list[pa.RecordBatch]]:
        """The log and its batches; None instead of the log if not even its beginning was written whole.

        last: no log was begun after this one, so its end may be torn. Raises StoreCorrupt.
        """
        data = path.read_bytes()
        payloads: list[tuple[int, int]] = []
        offset = 0
        while (end := _whole_frame(data, offset)) is not None:
            payloads.append((offset + _HEADER_BYTES, end))
            offset = end
        if offset < len(data):
            _refuse_damage(path, data, offset, last=last)
        elif not payloads and not last:
            raise StoreCorrupt(str(path), "the log is empty, yet a later one exists")
        if not payloads:
            return None, []
        buffer = pa.py_buffer(data)
        schema = pa.ipc.read_schema(buffer.slice(payloads[0][0], payloads[0][1] - payloads[0][0]))
        if not schema.equals(BAR_SCHEMA):
            raise StoreCorrupt(str(path), "the log has columns that this version does not know")
        batches = [pa.ipc.read_record_batch(buffer.slice(start, end - start), schema) for start, end in payloads[1:]]
        fd = os.open(path, os.O_RDWR)
        try:
            if offset < len(data):
                os.ftruncate(fd, offset)
                os.fdatasync(fd)
        except OSError as error:
            os.close(fd)
            raise StoreError(str(path), f"cannot cut off the torn end: {error.strerror}") from error
        return cls(path, fd, offset, int(schema.metadata[b"created_ns"])), batches

    def append(self, batch: pa.RecordBatch) -> None:
        """Write one frame and return when it is durable. Raises StoreError; the log is then as it was before."""
        frame = _frame(batch.serialize().to_pybytes(), self.size)
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
        self.size += len(frame)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def delete(self) -> None:
        """Remove the file, its rows being sealed. Raises OSError."""
        self.close()
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


def _frame(payload: bytes, offset: int) -> bytes:
    payload += b"\0" * (-len(payload) % 8)
    header = _HEADER.pack(_MAGIC, len(payload), crc32(payload))
    return header + _CHECK.pack(_header_check(header, offset)) + payload


def _header_check(header: bytes, offset: int) -> int:
    return crc32(offset.to_bytes(8, "little"), crc32(header))


def _whole_frame(data: bytes, offset: int) -> int | None:
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


def _refuse_damage(path: Path, data: bytes, offset: int, *, last: bool) -> None:
    """Raise StoreCorrupt unless what is at `offset` can be the torn last frame of the last log."""
    later = data.find(_MAGIC, offset + 1)
    while later >= 0 and _whole_frame(data, later) is None:
        later = data.find(_MAGIC, later + 1)
    if later >= 0:
        raise StoreCorrupt(str(path), f"the frame at byte {offset} is damaged; an undamaged one follows at {later}")
    if not last:
        raise StoreCorrupt(str(path), f"the frame at byte {offset} is damaged, and a later log exists")
    _log.warning("%s: cut off %d bytes of an unfinished write at byte %d", path, len(data) - offset, offset)
