"""Frames of OpenD's TCP connection: a header of 44 bytes and a body. Pure.

    0  2  "FT"
    2  4  protocol id          all numbers little endian
    6  1  format of the body   0 Protocol Buffers, 1 JSON
    7  1  version              0
    8  4  serial number        an answer has the request's, a push its own
    12 4  length of the body
    16 20 SHA-1 of the body
    36 8  reserved

https://openapi.futunn.com/futu-api-doc/en/ftapi/protocol.html
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

__all__ = ["HEADER_BYTES", "Frame", "FrameReader", "frame_bytes"]

_HEADER = struct.Struct("<2sIBBII20s8s")
_MAGIC = b"FT"
_PROTOBUF = 0
_RESERVED = bytes(8)

HEADER_BYTES = _HEADER.size


class Frame(msgspec.Struct, frozen=True):
    """proto: protocol id. raw: header and body, as they came."""

    proto: int
    serial: int
    format: int
    sha1: bytes
    raw: bytes

    def body(self) -> bytes:
        """Raises ValueError if it is not what was sent, or not Protocol Buffers."""
        body = self.raw[HEADER_BYTES:]
        if self.format != _PROTOBUF:
            raise ValueError(f"the format is {self.format}, not Protocol Buffers")
        if hashlib.sha1(body, usedforsecurity=False).digest() != self.sha1:
            raise ValueError("the checksum of the body is wrong")
        return body


def frame_bytes(proto: int, serial: int, body: bytes) -> bytes:
    """A frame to send."""
    sha1 = hashlib.sha1(body, usedforsecurity=False).digest()
    return _HEADER.pack(_MAGIC, proto, _PROTOBUF, 0, serial, len(body), sha1, _RESERVED) + body


class FrameReader:
    """Bytes in, whole frames out. body_max: a longer body is refused, in bytes."""

    def __init__(self, body_max: int) -> None:
        self._body_max = body_max
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. Raises ValueError for what is no frame: nothing after it can be read."""
        data = self._rest + data
        frames: list[Frame] = []
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES:
            magic, proto, fmt, _, serial, size, sha1, _ = _HEADER.unpack_from(data, at)
            if magic != _MAGIC:
                raise ValueError(f"a frame begins with {magic!r}")
            if size > self._body_max:
                raise ValueError(f"a body of {size} bytes; {self._body_max} are allowed")
            stop = at + HEADER_BYTES + size
            if stop > end:
                break
            frames.append(Frame(proto, serial, fmt, sha1, data[at:stop]))
            at = stop
        self._rest = data[at:]
        return frames
