"""What is in a data directory, and whether every byte of it is what was written.

Needs no lock, so this may be asked while the owner runs: what is merged away meanwhile is looked up again, and a
frame that is being written is given time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from zlib import crc32

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from marketd.errors import StoreCorrupt, StoreError
from marketd.store.contract import StoreStats
from marketd.store.embedded.log import log_damage, log_rows
from marketd.store.embedded.manifest import FileKind, Manifest, SealedFile, load_manifest

__all__ = ["Damage", "describe", "stats_of", "verify"]

_READ_BYTES = 4 * 2**20
_LOG_NAME = re.compile(r"log-\d{6,}\.bars")
_WRITING_S = 2.0


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not what was written. path: below the data directory. place: where in it, and what."""

    path: str
    place: str

    def __str__(self) -> str:
        return f"{self.path}: {self.place}"


def describe(data_dir: Path) -> StoreStats:
    """The store's statistics, symbols those that are sealed. Raises StoreError, StoreCorrupt."""
    _check_is_store(data_dir)
    manifest = load_manifest(data_dir / "manifest.json")
    rows = size = 0
    for path in _logs(data_dir):
        try:
            rows, size = rows + log_rows(path), size + path.stat().st_size
        except FileNotFoundError:  # sealed meanwhile
            continue
        except OSError as error:
            raise StoreError(str(path), f"cannot be read: {error.strerror}") from error
    return stats_of(manifest, len(manifest.symbols), rows, size)


def stats_of(manifest: Manifest, symbols: int, log_rows: int, log_bytes: int) -> StoreStats:
    """What is sealed, and what is in logs and memory, put together."""
    details: dict[str, int | float | str] = {"rows_in_log": log_rows, "bytes_log": log_bytes}
    for kind in get_args(FileKind):
        files = [file for file in manifest.files if file.kind == kind]
        details[f"files_{kind}"] = len(files)
        details[f"rows_{kind}"] = sum(file.rows for file in files)
        details[f"bytes_{kind}"] = sum(file.bytes + file.coverage_bytes for file in files)
    details["logs_sealed"] = manifest.log_sealed
    details["compactions"] = manifest.jobs
    return StoreStats(
        kind="embedded",
        symbols=symbols,
        versions=sum(file.rows for file in manifest.files if file.kind != "by_time") + log_rows,
        bytes=sum(file.bytes + file.coverage_bytes for file in manifest.files) + log_bytes,
        details=details,
    )


def _check_is_store(data_dir: Path) -> None:
    if not (data_dir / "marketd.lock").exists():
        raise StoreError(str(data_dir), "is not the data directory of a store")


def _logs(data_dir: Path) -> list[Path]:
    return sorted(path for path in (data_dir / "log").glob("log-*.bars") if _LOG_NAME.fullmatch(path.name))


def verify(
    data_dir: Path,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Damage]:
    """All the damage there is, empty if there is none. progress: bytes read and to read.

    Raises StoreError if there is no store or it cannot be read.
    """
    _check_is_store(data_dir)
    try:
        manifest = load_manifest(data_dir / "manifest.json")
    except StoreCorrupt as error:
        return [Damage(path="manifest.json", place=error.reason)]
    logs = _logs(data_dir)
    total = sum(f.bytes + f.coverage_bytes for f in manifest.files) + sum(path.stat().st_size for path in logs)
    done = 0
    found: list[Damage] = []

    def went_on(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for file in manifest.files:
        found += _sealed_damage(data_dir, file, went_on)
    for path in logs:
        size = path.stat().st_size if path.exists() else 0
        found += _log_damage(data_dir, path)
        went_on(size)
    return found


def _sealed_damage(data_dir: Path, file: SealedFile, went_on: Callable[[int], None]) -> list[Damage]:
    found = []
    for name, size, check in (
        (file.path, file.bytes, file.crc32),
        (file.coverage, file.coverage_bytes, file.coverage_crc32),
    ):
        if not size:
            continue
        path = data_dir / name
        try:
            read, was = _checksum(path, went_on)
        except FileNotFoundError:
            if file.path in {listed.path for listed in load_manifest(data_dir / "manifest.json").files}:
                found.append(Damage(path=name, place="is listed in the manifest, but does not exist"))
            continue
        except OSError as error:
            raise StoreError(str(path), f"cannot be read: {error.strerror}") from error
        if read != size:
            found.append(Damage(path=name, place=f"has {read} bytes; the manifest says {size}"))
        elif was != check:
            found.append(Damage(path=name, place=f"fails its checksum: {_parquet_place(path)}"))
    return found


def _checksum(path: Path, went_on: Callable[[int], None]) -> tuple[int, int]:
    check = size = 0
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            check = crc32(data, check)
            size += len(data)
            went_on(len(data))
    return size, check


def _parquet_place(path: Path) -> str:
    """Where in a damaged Parquet file: as near as its own checksums tell."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            metadata = parquet.metadata
            for number in range(metadata.num_row_groups):
                for column in range(metadata.num_columns):
                    name = metadata.schema.column(column).path
                    about: Any = metadata.row_group(number).column(column)
                    try:
                        parquet.read_row_group(number, columns=[name], use_threads=False)
                    except (OSError, pa.ArrowException) as error:
                        start = about.dictionary_page_offset or about.data_page_offset
                        end = start + about.total_compressed_size
                        return f"row group {number}, column {name}, bytes {start} to {end} ({_short(error)})"
    except (OSError, pa.ArrowException) as error:
        return f"the footer cannot be read ({_short(error)})"
    return "outside the pages of data (a header, the footer or its metadata)"


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def _log_damage(data_dir: Path, path: Path) -> list[Damage]:
    deadline = time.monotonic() + _WRITING_S
    while True:
        try:
            size = path.stat().st_size
            place = log_damage(path)
        except FileNotFoundError:  # sealed meanwhile
            return []
        except OSError as error:
            raise StoreError(str(path), f"cannot be read: {error.strerror}") from error
        if place is None:
            return []
        unchanged = path.exists() and path.stat().st_size == size
        if (unchanged and "follows" in place) or time.monotonic() > deadline:
            return [Damage(path=str(path.relative_to(data_dir)), place=place)]
        time.sleep(0.05)
