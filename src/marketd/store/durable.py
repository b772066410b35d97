"""Making changes of the file system survive a crash: what is returned from here is on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["make_folder", "replace_file", "sync_folder", "write_all"]


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: creations, renames and removals."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, durably. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls it takes. Raises OSError, having written some of it."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def replace_file(path: Path, data: bytes, *, before_rename: Callable[[], None] = lambda: None) -> None:
    """Give `path` the content `data`: after a crash it has the old or the new one, whole. Raises OSError.

    before_rename: called when the content is on disk under a temporary name.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        before_rename()
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
