"""Bytes of a text file in blocks of whole lines, unpacked on the way, with the number of the first line of each.

A damaged or cut-off compressed file gives all that could be unpacked, and then says so; a line without an end gives
its beginning and is skipped. Memory is bounded by the block, whatever the file holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["LINE_BYTES_MAX", "Block", "blocks"]

LINE_BYTES_MAX = 1 << 20
_COMPRESSED_BYTES = 1 << 18


class Block(NamedTuple):
    """data: whole lines. line: number of the first, from 1. damage: None, or why `data` is no whole line."""

    data: bytes
    line: int
    damage: str | None = None


class _Damaged(Exception):
    pass


def blocks(path: Path, block_bytes: int, progress: Callable[[int], None] = lambda _: None) -> Iterator[Block]:
    """Blocks of about `block_bytes`; the last line may lack its newline. progress: told the bytes that were read."""
    pending = b""
    line = 1
    skipping = False
    damage: str | None = None
    chunks = _chunks(path, block_bytes, progress)
    while True:
        try:
            data = next(chunks, None)
        except _Damaged as error:
            damage, data = str(error), None
        if data is None:
            break
        if skipping:
            _, newline, data = data.partition(b"\n")
            if not newline:
                continue
            skipping = False
            line += 1
        end = data.rfind(b"\n") + 1
        if end:
            block = pending + data[:end]
            yield Block(block, line)
            line += block.count(b"\n")
            pending = data[end:]
        else:
            pending += data
        if len(pending) > LINE_BYTES_MAX:
            yield Block(pending[:1000], line, f"a line longer than {LINE_BYTES_MAX} bytes")
            pending = b""
            skipping = True
    if damage is not None:
        yield Block(pending[:1000], line, damage)
    elif pending:
        yield Block(pending, line)


def _chunks(path: Path, size: int, progress: Callable[[int], None]) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".gz":
                yield from _unzipped(_read(file, _COMPRESSED_BYTES, progress), size)
            else:
                yield from _read(file, size, progress)
    except zlib.error as error:
        raise _Damaged(f"compressed data are damaged ({error})") from None
    except OSError as error:
        raise _Damaged(f"file cannot be read further ({error.strerror})") from None


def _read(file: BinaryIO, size: int, progress: Callable[[int], None]) -> Iterator[bytes]:
    while data := file.read(size):
        progress(len(data))
        yield data


def _unzipped(compressed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Members of a gzip file one after another. Python's `gzip` drops what came before a missing end; this does not."""
    unpack = zlib.decompressobj(31)
    fed = False
    for piece in compressed:
        data = piece
        while data or unpack.unconsumed_tail:
            if unpack.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                unpack = zlib.decompressobj(31)
            fed = True
            out = unpack.decompress(unpack.unconsumed_tail + data, size)
            if out:
                yield out
            data = unpack.unused_data if unpack.eof else b""
    while not unpack.eof and (out := unpack.decompress(unpack.unconsumed_tail, size)):
        yield out
    if fed and not unpack.eof:
        raise _Damaged("compressed data end early")
