"""The simplest server that can saturate a load client: pre-built frames, one `send` a client and flush, no checks.

    python bench/blaster.py --port 9100

Whoever connects gets a hundred quote messages ten times a second, whatever it subscribes to. What the load client
takes from it is the client's own ceiling; a server can't be measured beyond it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import selectors
import signal
import socket
import time

from peers.publisher import filled, payload

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FLUSHES_S = 100


def _accept(listener: socket.socket) -> socket.socket | None:
    sock, _ = listener.accept()
    sock.settimeout(5)
    request = b""
    while b"\r\n\r\n" not in request:
        part = sock.recv(4096)
        if not part:  # somebody only looked whether the port is open
            sock.close()
            return None
        request += part
    key = request.lower().index(b"sec-websocket-key:")
    nonce = request[key:].partition(b":")[2].partition(b"\r\n")[0].strip()
    accept = base64.b64encode(hashlib.sha1(nonce + GUID, usedforsecurity=False).digest())
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    return sock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, default=100, help="a client and flush")
    parser.add_argument("--hz", type=float, default=10, help="flushes a client and second")
    args = parser.parse_args()
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    messages = [payload(f"S{i:04d}") for i in range(args.messages)]
    template = b"".join(b"\x81\x7e" + len(m).to_bytes(2, "big") + m for m in messages)
    groups: list[list[socket.socket]] = [[] for _ in range(round(FLUSHES_S / args.hz))]
    clients = step = 0
    with (
        socket.create_server(("127.0.0.1", args.port), backlog=2048) as listener,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(listener, selectors.EVENT_READ)
        due = time.time()
        while not ending:
            if selector.select(max(0, due - time.time())):
                sock = _accept(listener)
                if sock is not None:
                    groups[clients % len(groups)].append(sock)
                    clients += 1
            if time.time() >= due:
                data = filled(template, due, step // len(groups))
                group = groups[step % len(groups)]
                for sock in tuple(group):
                    try:
                        sock.sendall(data)
                    except OSError:
                        sock.close()
                        group.remove(sock)
                step += 1
                due += 1 / FLUSHES_S


if __name__ == "__main__":
    main()
