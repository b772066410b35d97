"""The list of sealed files: what is in it exists, what is not in it does not count.

One JSON file, replaced as a whole, with a checksum over its body. It also says up to which log everything
is sealed, so that a log that a crash left behind is known to be superfluous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal
from zlib import crc32

import msgspec
import numpy as np

from marketd.errors import StoreCorrupt, StoreError
from marketd.store.embedded.durable import replace_file

__all__ = ["Catalogue", "FileKind", "Manifest", "SealedFile", "Span", "load_manifest", "save_manifest"]

FileKind = Literal["part", "current", "superseded", "by_time"]
"""part: the rows of one log, all versions. current: compacted, the last version of each key. superseded: compacted,
the versions before. by_time: the rows of `current` again, in the order of time."""

Span = Literal["day", "month", "year"]
"""How much time a file can hold."""


class SealedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file and its coverage. path, coverage: below the data directory.

    span, first_day: the time it can hold; first_day in days since 1970. crc32, coverage_crc32: of the whole file.
    symbol_min, symbol_max, ts, as_of: the range of its rows. log: of a part, the number of its log.
    """

    path: str
    kind: FileKind
    interval: str
    span: Span
    first_day: int
    rows: int
    bytes: int
    crc32: int
    coverage_bytes: int
    coverage_crc32: int
    ts_min_ns: int
    ts_max_ns: int
    as_of_min_ns: int
    as_of_max_ns: int
    symbol_min: str
    symbol_max: str
    log: int = 0

    @property
    def coverage(self) -> str:
        return str(PurePosixPath(self.path).with_suffix(".coverage"))


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """log_sealed: logs up to this number are sealed. jobs: number of the last compaction. symbols: with a sealed bar,
    sorted.
    """

    version: int = 2
    log_sealed: int = 0
    jobs: int = 0
    symbols: tuple[str, ...] = ()
    files: tuple[SealedFile, ...] = ()


class Catalogue:
    """A manifest made searchable. Immutable. generation: how many came before it in this process."""

    def __init__(self, manifest: Manifest, generation: int = 0) -> None:
        self.manifest = manifest
        self.generation = generation
        self.symbols = frozenset(manifest.symbols)
        by_interval: defaultdict[tuple[str, bool], list[SealedFile]] = defaultdict(list)
        for file in manifest.files:
            by_interval[file.interval, file.kind == "by_time"].append(file)
        self._by_interval = {
            interval: (files, np.array([f.ts_min_ns for f in files]), np.array([f.ts_max_ns for f in files]))
            for interval, files in by_interval.items()
        }

    def overlapping(self, interval: str, ts_min_ns: int, ts_max_ns: int) -> list[SealedFile]:
        """The files of an interval that can hold a ts within the bounds, both included; without copies by time."""
        return self._overlapping((interval, False), ts_min_ns, ts_max_ns)

    def by_time(self, interval: str, ts_ns: int) -> list[SealedFile]:
        """The copies by time that can hold a ts."""
        return self._overlapping((interval, True), ts_ns, ts_ns)

    def _overlapping(self, key: tuple[str, bool], ts_min_ns: int, ts_max_ns: int) -> list[SealedFile]:
        if key not in self._by_interval:
            return []
        files, least, most = self._by_interval[key]
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
        version = msgspec.json.decode(envelope.manifest, type=_Version).version
        if version != Manifest().version:
            raise StoreError(
                str(path), f"the manifest has version {version}; this program knows version {Manifest().version}"
            )
        return msgspec.json.decode(envelope.manifest, type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(str(path), f"the manifest cannot be read: {error}") from error


class _Version(msgspec.Struct):
    version: int


def save_manifest(path: Path, manifest: Manifest, *, before_rename: Callable[[], None]) -> None:
    """Replace the manifest durably. Raises OSError; the old one is then still there."""
    body = msgspec.json.encode(manifest)
    data = msgspec.json.encode(_Envelope(crc32(body), msgspec.Raw(body))) + b"\n"
    replace_file(path, data, before_rename=before_rename)
