"""Compaction that runs by itself: a thread that looks now and then, and a process that does the work.

The work is in a process of its own so that it takes no time from the server's interpreter, at a low priority, one at
a time. Killed or failed, it is begun again later; what it left behind is not listed and does not count.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from marketd.errors import StoreError
from marketd.store.embedded.compact import Job, Report, Request
from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.manifest import SealedFile

__all__ = ["Compactor", "Merge", "Worker"]

_logger = logging.getLogger(__name__)


class Merge(Protocol):
    """How a job is done: `compact.merge` in this process, or a `Worker`. Raises StoreError, OSError."""

    def __call__(
        self, root: Path, job: Job, config: EmbeddedStoreConfig, *, progress: Callable[[int], None]
    ) -> tuple[SealedFile, ...]: ...


class Worker:
    """Does jobs in a process of its own, one at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(
        self, root: Path, job: Job, config: EmbeddedStoreConfig, *, progress: Callable[[int], None]
    ) -> tuple[SealedFile, ...]:
        with self._lock:
            if self._stopped:
                raise StoreError(str(root), "the store is closed")
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "marketd.store.embedded.compact"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        request = Request(root=str(root), job=job, config=config)
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            errors: list[bytes] = []
            listener = threading.Thread(target=lambda pipe=process.stderr: errors.append(pipe.read()), daemon=True)
            listener.start()
            files = None
            try:
                process.stdin.write(msgspec.json.encode(request) + b"\n")
                process.stdin.flush()
                for line in process.stdout:
                    report = msgspec.json.decode(line, type=Report)
                    progress(report.rows)
                    files = report.files
            except (OSError, msgspec.DecodeError) as error:
                process.kill()
                raise StoreError(str(root), f"the compaction process broke off: {error}") from error
            finally:
                process.wait()
                listener.join()
                self._process = None
        if files is None:
            last = b"".join(errors).decode("utf-8", "replace").strip().splitlines()[-1:]
            reason = last[0] if last else f"it ended with code {process.returncode}"
            raise StoreError(str(root), f"the compaction process failed: {reason}")
        return files

    def stop(self) -> None:
        """End the job that runs; none begins after that."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None:
            process.kill()


class Compactor:
    """The thread. turn: does what there is to do, and returns; it raises StoreError, OSError when that failed."""

    def __init__(self, turn: Callable[[], None], every_s: float, where: str) -> None:
        self._turn = turn
        self._every_s = every_s
        self._where = where
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="marketd-compact", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, interrupt: Callable[[], None]) -> None:
        """interrupt: makes a turn that is under way end soon."""
        self._stop.set()
        interrupt()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._turn()
            except Exception:
                if not self._stop.is_set():
                    _logger.exception("%s: compaction failed; nothing is lost, it is tried again", self._where)
