"""A bare ASGI application that answers everything with the bytes of a file: what the way to the client costs alone."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

PIECE_BYTES = 1 << 20


def application(body: bytes):
    """In pieces that are not copied, with their length told beforehand."""
    pieces = [memoryview(body)[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    headers = [(b"content-length", b"%d" % len(body))]

    async def app(_scope: dict, _receive: object, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


if __name__ == "__main__":
    path, port = sys.argv[1:]
    app = application(Path(path).read_bytes())
    uvicorn.run(app, port=int(port), loop="uvloop", lifespan="off", log_config=None, access_log=False)
