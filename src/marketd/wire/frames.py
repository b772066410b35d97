"""Server-to-client WebSocket text frames (RFC 6455, section 5.2): unmasked, unfragmented, uncompressed."""

from __future__ import annotations

__all__ = ["text_frame"]

_SHORT = [bytes((0x81, n)) for n in range(126)]
_MEDIUM = [b"\x81\x7e" + n.to_bytes(2, "big") for n in range(2048)]


def text_frame(payload: bytes) -> bytes:
    """`payload` (UTF-8) as one complete frame."""
    n = len(payload)
    if n < 126:
        return _SHORT[n] + payload
    if n < 2048:
        return _MEDIUM[n] + payload
    if n < 65_536:
        return b"\x81\x7e" + n.to_bytes(2, "big") + payload
    return b"\x81\x7f" + n.to_bytes(8, "big") + payload
