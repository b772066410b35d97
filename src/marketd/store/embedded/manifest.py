"""The list of sealed files: what is in it exists, what is not in it does not count.

One JSON file, replaced as a whole, with a checksum over its body. It also says up to which log everything
is sealed, so that a log that a crash left behind is known to be superfluous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec
import numpy as np

from marketd.errors import StoreCorrupt, StoreError
from marketd.store.embedded.durable import replace_file

__all__ = ["Catalogue", "Manifest", "SealedFile", "load_manifest", "save_manifest"]


class SealedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file. path: below the data directory. symbol_min, symbol_max, ts, as_of: the range of its rows."""

    path: str
    interval: str
    rows: int
    bytes: int
    ts_min_ns: int
    ts_max_ns: int
    as_of_min_ns: int
    symbol_min: str
    symbol_max: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """log_sealed: logs up to this number are sealed. symbols: those with a sealed bar, sorted."""

    version: int = 1
    log_sealed: int = 0
    symbols: tuple[str, ...] = ()
    files: tuple[SealedFile, ...] = ()


class Catalogue:
    """A manifest made searchable. Immutable."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.symbols = frozenset(manifest.symbols)
        by_interval: defaultdict[str, list[SealedFile]] = defaultdict(list)
        for file in manifest.files:
            by_interval[file.interval].append(file)
        self._by_interval = {
            interval: (files, np.array([f.ts_min_ns for f in files]), np.array([f.ts_max_ns for f in files]))
            for interval, files in by_interval.items()
        }

    def overlapping(self, interval: str, ts_min_ns: int, ts_max_ns: int) -> list[SealedFile]:
        """The files of an interval that can hold a ts within the bounds, both included."""
        if interval not in self._by_interval:
            return []
        files, least, most = self._by_interval[interval]
        return [files[i] for i in np.flatnonzero((least <= ts_max_ns) & (most >= ts_min_ns)).tolist()]


class _Envelope(msgspec.Struct):
    crc32: int
    manifest: msgspec.Raw


def load_manifest(path: Path) -> Manifest:
    """The manifest, an empty one if there is no file yet. Raises StoreCorrupt, StoreError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Manifest()
    except OSError as error:
        raise StoreError(str(path), f"cannot read the manifest: {error.strerror}") from error
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if crc32(envelope.manifest) != envelope.crc32:
            raise StoreCorrupt(str(path), "the manifest fails its checksum")
        manifest = msgspec.json.decode(envelope.manifest, type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(str(path), f"the manifest cannot be read: {error}") from error
    if manifest.version != Manifest().version:
        raise StoreError(str(path), f"the manifest has version {manifest.version}; this program knows version 1")
    return manifest


def save_manifest(path: Path, manifest: Manifest, *, before_rename: Callable[[], None]) -> None:
    """Replace the manifest durably. Raises OSError; the old one is then still there."""
    body = msgspec.json.encode(manifest)
    data = msgspec.json.encode(_Envelope(crc32(body), msgspec.Raw(body))) + b"\n"
    replace_file(path, data, before_rename=before_rename)
