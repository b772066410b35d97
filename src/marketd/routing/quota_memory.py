"""What was spent outlives the process: what is kept of a budget, and where.

The file is written seldom and ahead: it says what was spent, and how much more may be spent before it is written
again. After a crash all of that is taken for spent. See ``docs/routing.md``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from marketd.routing.windows import Spent
from marketd.store.durable import make_folder, replace_file

__all__ = ["FileQuotaMemory", "QuotaMemory", "SavedQuota", "SavedWindow"]

_logger = logging.getLogger(__name__)


class SavedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A limit's window. spent: with times UTC, nanoseconds since the Unix epoch. ahead: what may have been spent
    since."""

    seconds: float
    endpoint: str | None
    spent: tuple[Spent, ...]
    ahead: int


class SavedQuota(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's budget at saved_ns. is_whole: nothing was spent afterwards (the server ended as it should).
    closed: until when (UTC, nanoseconds) what is closed, by endpoint, "" for all."""

    saved_ns: int
    is_whole: bool
    windows: tuple[SavedWindow, ...] = ()
    closed: Mapping[str, int] = {}


class QuotaMemory(Protocol):
    """Keeps budgets of one server process. Processes that share a key do not share a budget."""

    def load(self, provider: str) -> SavedQuota | None:
        """What was saved last; None if nothing was. Called once per provider."""
        ...

    async def save(self, provider: str, saved: SavedQuota) -> None:
        """Return when it is durable. Raises OSError. Never called again for a provider before it returned."""
        ...


class FileQuotaMemory:
    """Implements `QuotaMemory` with a small JSON file per provider in `folder`, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, provider: str) -> Path:
        return self._folder / f"{quote(provider, safe='')}.json"

    def load(self, provider: str) -> SavedQuota | None:
        """A file that cannot be read is reported and set aside, and counts as none."""
        path = self._path(provider)
        try:
            return msgspec.json.decode(path.read_bytes(), type=SavedQuota)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            _logger.warning("what was spent of the quota of %s is not known: %s: %s", provider, path, error)
        try:
            path.replace(path.with_name(path.name + ".unreadable"))
        except OSError as error:
            _logger.warning("%s cannot be set aside: %s", path, error)
        return None

    async def save(self, provider: str, saved: SavedQuota) -> None:
        data = msgspec.json.encode(saved)
        await asyncio.to_thread(self._write, self._path(provider), data)

    def _write(self, path: Path, data: bytes) -> None:
        make_folder(path.parent)
        replace_file(path, data)
