"""The connection class that lets the hub write its own frames beside uvicorn's.

uvicorn keeps the handshake, pings, closing and reassembly; whole pre-built frames are written to the
transport between its own, which is safe because both run on the loop's thread and write whole frames only.
It leans on attributes that uvicorn does not document: ``tests/api/test_uvicorn_protocol.py`` names them and
fails when one is gone.
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from marketd.wire.close_codes import CloseCode

__all__ = ["OUTLET", "DirectWebSocketProtocol"]

OUTLET = "marketd.outlet"
"""Key in ``scope["extensions"]`` under which the connection is found."""

_CLOSE_GRACE_S = 2.0


class DirectWebSocketProtocol(WebSocketsSansIOProtocol):
    """A `marketd.fanout.hub.Outlet`."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if "scope" in self.__dict__:  # not when the handshake was refused
            extensions = cast("dict[str, Any]", self.scope["extensions"])
            extensions[OUTLET] = self

    def write(self, data: bytes) -> None:
        if self.handshake_complete and not self.close_sent and not self.transport.is_closing():
            self.transport.write(data)

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until the client has taken most of what it was sent, or is gone."""
        await self.writable.wait()

    def close(self, code: CloseCode) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code.code, "reason": code.reason})
        self.conn.send_close(code.code, code.reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.close_timer is None:
            # A client that does not read would never see the close frame: do not wait for it long.
            self.close_timer = self.loop.call_later(_CLOSE_GRACE_S, self.transport.abort)
