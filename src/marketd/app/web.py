"""The web server in front of a `Server`: listens, serves, ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import mmap
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import uvicorn

from marketd.api.asgi import build_app
from marketd.api.uvicorn_protocol import DirectWebSocketProtocol
from marketd.api.websocket import websocket_routes
from marketd.app.server import Server

__all__ = ["listen", "serve"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_KEPT_BYTES = 32 << 20
_LARGE_BYTES = 32 << 20
_LOOK_S = 2.0
_LOOKS = 5
_TRIM_BYTES = 8 << 20
_RESIDENT = Path("/proc/self/statm")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol spelled out asyncio turns Nagle off on accepted connections; without it answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
    except BaseException:
        listener.close()
        raise
    return listener


class _Memory:
    """What a large append or answer needed is kept for the next one, and given back to the system when it is over.

    A page that the system gives anew costs more than to fill it: an answer of a year is made three times as fast in
    memory that was used before.
    """

    def __init__(self) -> None:
        # Arrow's own allocators keep what they have for each thread.
        pa.set_memory_pool(pa.system_memory_pool())
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(libc, "malloc_trim", None)
        if self._trim is None or libc is None or not _RESIDENT.exists():  # not glibc, or nothing can be seen
            self._trim = None
            return
        libc.mallopt(_M_ARENA_MAX, 1)  # threads take turns at answers: what one has freed the next one can have
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        self._resident = self._resident_bytes()
        self._looks_left = 0

    async def look_after(self) -> None:
        """Until cancelled."""
        while self._trim is not None:
            await asyncio.sleep(_LOOK_S)
            await asyncio.to_thread(self.give_back)

    def give_back(self) -> None:
        """What is free, a few times after much was taken: what took it may go on for a while."""
        if self._trim is None:
            return
        if self._resident_bytes() > self._resident + _TRIM_BYTES:
            self._looks_left = _LOOKS
        if self._looks_left:
            self._looks_left -= 1
            self._trim(0)
            self._resident = self._resident_bytes()
        self._resident = min(self._resident, self._resident_bytes())

    @staticmethod
    def _resident_bytes() -> int:
        return int(_RESIDENT.read_bytes().split()[1]) * mmap.PAGESIZE


class _WebServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `serve`'s: uvicorn would raise them again at the end, and the exit code would not be 0."""
        yield


async def serve(server: Server, listener: socket.socket, on_started: asyncio.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain: no new work, waiting bars stored, clients told to come back (1012)."""
    memory = _Memory()
    app = build_app(server, websocket_routes(server))
    web = _WebServer(
        uvicorn.Config(
            app,
            ws=DirectWebSocketProtocol,
            ws_max_size=16 << 20,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            backlog=4096,
        )
    )
    loop = asyncio.get_running_loop()
    installed = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not the main thread, or Windows
            loop.add_signal_handler(number, lambda: setattr(web, "should_exit", True))
            installed.append(number)
    await server.start()
    looking = asyncio.create_task(memory.look_after(), name="memory")
    # What exists now stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        if on_started is not None:
            on_started.set()
        await web.serve(sockets=[listener])
    finally:
        looking.cancel()
        for number in installed:
            loop.remove_signal_handler(number)
        await server.stop()
