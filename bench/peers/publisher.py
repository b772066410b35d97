"""Publishes every symbol so many times a second to NATS or Redis, at almost no cost of its own.

    python bench/peers/publisher.py --to nats://127.0.0.1:4222 --symbols 8000 --hz 10

The symbols are spread over the interval in batches 5 ms apart. A batch is encoded beforehand; sending it is two
replacements (time and sequence number) and one write. The time in a message is when it was due, so a broker that
makes its publisher wait is charged with the wait. More than a second behind, it skips ahead. Ends on SIGTERM with a
JSON line of what it published.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

STAMP = b"2000-01-01T00:00:00.000000000Z"
SEQ = b"1000000000"
BATCH_S = 0.005
BEHIND_S_MAX = 1.0


def payload(symbol: str) -> bytes:
    """The message marketd sends for fields lastPrice, bidPrice, askPrice, with places for time and sequence number."""
    last = random.Random(symbol).uniform(90, 110)
    return (
        f'{{"type":"quote_update","symbol":"{symbol}","seq":{SEQ.decode()},"lastPrice":{last!r},'
        f'"bidPrice":{last * 0.99975!r},"askPrice":{last * 1.00025!r},"timestamp":"{STAMP.decode()}"}}'
    ).encode()


def filled(template: bytes, time_s: float, seq: int) -> bytes:
    """The template with this time (to the microsecond, written with nine decimals) and sequence number."""
    whole, micros = divmod(round(time_s * 1e6), 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{micros:06d}000Z"
    return template.replace(STAMP, text.encode()).replace(SEQ, b"%d" % (1_000_000_000 + seq))


def _command(scheme: str, symbol: str) -> bytes:
    data, subject = payload(symbol), symbol.encode()
    if scheme == "nats":
        return b"PUB %s %d\r\n%s\r\n" % (subject, len(data), data)
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(subject), subject, len(data), data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", required=True, help="nats://host:port or redis://host:port")
    parser.add_argument("--symbols", type=int, default=8000)
    parser.add_argument("--hz", type=float, default=10)
    args = parser.parse_args()
    url = urlsplit(args.to)
    names = [f"S{i:04d}" for i in range(args.symbols)]
    slots = max(1, round(1 / args.hz / BATCH_S))
    batches = [b"".join(_command(url.scheme, name) for name in names[slot::slots]) for slot in range(slots)]
    sizes = [len(names[slot::slots]) for slot in range(slots)]
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    published = skipped = 0
    with socket.create_connection((url.hostname, url.port), 10) as sock:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme == "nats":
            sock.sendall(b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"1"}\r\n')
        print("publishing", flush=True)
        started = due = time.time()
        step = 0
        while not ending:
            if (behind := time.time() - due) > BEHIND_S_MAX:
                lost = int(behind / BATCH_S)
                skipped, due, step = skipped + lost, due + lost * BATCH_S, step + lost
            elif behind < 0:
                time.sleep(-behind)
            sock.sendall(filled(batches[step % slots], due, step // slots))
            published += sizes[step % slots]
            step += 1
            due += BATCH_S
            with suppress(BlockingIOError):
                if b"PING\r\n" in sock.recv(1 << 18, socket.MSG_DONTWAIT):
                    sock.sendall(b"PONG\r\n")
        elapsed = time.time() - started
    json.dump({"published_s": round(published / elapsed, 1), "batches_skipped": skipped}, sys.stdout)


if __name__ == "__main__":
    main()
