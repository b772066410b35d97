"""The web server in front of a `Server`: listens, serves, ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import signal
import socket
import sys
from collections.abc import Iterator

import pyarrow as pa
import uvicorn

from marketd.api.asgi import build_app
from marketd.api.uvicorn_protocol import DirectWebSocketProtocol
from marketd.api.websocket import websocket_routes
from marketd.app.server import Server

__all__ = ["listen", "serve"]

_M_MMAP_THRESHOLD = -3  # of malloc.h
_GIVEN_BACK_BYTES = 1 << 18


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


def _give_memory_back() -> None:
    """Let what a large append or answer needed return to the system when it is over."""
    # Arrow's own allocator keeps it for itself.
    pa.set_memory_pool(pa.system_memory_pool())
    # glibc keeps it too: each large buffer that is freed raises the size from which buffers are given back.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)


class _WebServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `serve`'s: uvicorn would raise them again at the end, and the exit code would not be 0."""
        yield


async def serve(server: Server, listener: socket.socket, on_started: asyncio.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain: no new work, waiting bars stored, clients told to come back (1012)."""
    _give_memory_back()
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
    # What exists now stays for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        if on_started is not None:
            on_started.set()
        await web.serve(sockets=[listener])
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
        await server.stop()
