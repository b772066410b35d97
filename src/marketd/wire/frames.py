"""Server-to-client WebSocket text frames (RFC 6455, section 5.2): unmasked, unfragmented, uncompressed."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["text_frame", "text_frames"]


def _header(size: int) -> bytes:
    if size < 126:
        return bytes((0x81, size))
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


_HEADERS = [_header(size) for size in range(2048)]


def text_frame(payload: bytes) -> bytes:
    """`payload` (UTF-8) as one complete frame."""
    return _header(len(payload)) + payload


def text_frames(payloads: Iterable[bytes]) -> list[bytes]:
    """Each payload as one complete frame."""
    headers = _HEADERS
    return [headers[n] + p if (n := len(p)) < 2048 else text_frame(p) for p in payloads]
