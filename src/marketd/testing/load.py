"""A load client: many subscribers in one process, cheap enough to take a million deliveries a second on one core.

    python -m marketd.testing.load --url ws://127.0.0.1:8001/api/v1/market-data/stream \\
        --clients 200 --symbols 8000 --symbols-per-client 100 --duration 10 --pid "$(pgrep -o marketd)"

It owns its sockets, the WebSocket handshake and as much of RFC 6455 as a subscriber needs, and prints one JSON
object (`LoadReport`). Deliveries are counted by a mark in the bytes and only a sample of messages is decoded: one in
`sample_every` for latency (event time in the message against this machine's clock, so server and client share a
machine), all those of `checked_clients` connections for the order of their `seq`.

The scheme of the URL says what the server speaks, so that peers are measured by the same eyes on the same JSON:
`ws` (marketd's stream, and whatever takes the same subscribe message), `nats`, `nats+ws` (the NATS protocol in
WebSocket frames) and `redis` (pub/sub). To add a peer, add its scheme to `_SCHEMES` and its opening to `_opening`.

It refuses TLS, compressed frames, and messages that are not flat JSON objects holding `MARK`.
"""

from __future__ import annotations

import array
import base64
import hashlib
import os
import random
import selectors
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec

from marketd.errors import InvalidInput
from marketd.model import parse_ns

__all__ = [
    "MARK",
    "Latency",
    "LoadConfig",
    "LoadReport",
    "StreamReader",
    "frame",
    "process_cpu_s",
    "process_rss_kb",
    "run",
]

MARK = b'"type":"quote_update"'
"""What every delivered message holds exactly once."""

_SCHEMES = ("ws", "nats", "nats+ws", "redis")
_RECEIVE_BYTES = 1 << 18
_CLOSE, _PING = 0x8, 0x9
_TEXT = 0x81
_CONTROL_STARTS = (b"\x88", b"\x89", b"\x8a")
_NATS_PING = b"PING\r\n"
_ABNORMAL = 1006
_NO_STATUS = 1005
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to open and for how long.

    symbols_per_client: each client subscribes to that many of `symbols`, drawn with `seed`; 0 leaves it idle.
    fields: limits the message's fields (marketd only). pids: processes whose CPU and memory are reported.
    """

    url: str
    clients: int = 1
    symbols: tuple[str, ...] = ()
    symbols_per_client: int = 1
    fields: tuple[str, ...] = ()
    seed: int = 0
    warmup_s: float = 1.0
    duration_s: float = 5.0
    sample_every: int = 100
    checked_clients: int = 4
    timeout_s: float = 10.0
    pids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in _SCHEMES or not parts.hostname or not parts.port:
            raise InvalidInput("url", self.url, f"scheme://host:port/path with a scheme of {', '.join(_SCHEMES)}")
        if self.clients < 1:
            raise InvalidInput("clients", self.clients, "at least 1")
        if not 0 <= self.symbols_per_client <= len(self.symbols):
            raise InvalidInput("symbols_per_client", self.symbols_per_client, f"0 to {len(self.symbols)}, the symbols")
        if self.sample_every < 1:
            raise InvalidInput("sample_every", self.sample_every, "at least 1")
        if self.warmup_s < 0 or self.duration_s <= 0 or self.timeout_s <= 0:
            raise InvalidInput("duration_s", self.duration_s, "positive times, and a warm-up of 0 or more")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from event time to receipt; percentiles are exact to 1 %, max is exact."""

    samples: int
    p50: float
    p90: float
    p99: float
    max: float


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one run saw in its measuring window, after the warm-up.

    per_client: fewest, median and most deliveries of a client. closed: connections the server ended, by close
    code (1006: without one), from the first subscription on. order_checked, out_of_order: messages whose `seq` was
    compared with the one before of the same client and symbol, and those where it had not grown. misrouted: sampled
    messages of symbols that client had not asked for. errors: error messages of the server, the first five.
    client_cpu, server_cpu: cores. server_rss_kb: before connecting, at the start and at the end of the window.
    """

    url: str
    clients: int
    elapsed_s: float
    connect_s: float
    deliveries: int
    deliveries_s: float
    bytes_s: float
    reads_s: float
    per_client: tuple[int, int, int]
    closed: dict[int, int]
    errors: list[str]
    latency_ms: Latency | None
    order_checked: int
    out_of_order: int
    misrouted: int
    client_cpu: float
    server_cpu: float | None
    server_us_per_delivery: float | None
    server_rss_kb: tuple[int, int, int] | None


class StreamReader:
    """Counts marks in a byte stream that arrives in chunks cut anywhere, and hands out WebSocket control frames.

    The owner of the buffer calls `restore`, receives behind what that put there, and calls `feed`; what must be seen
    together with the next chunk is kept here in between.
    """

    __slots__ = ("_ahead", "_framed", "_tail")

    def __init__(self, *, framed: bool) -> None:
        self._framed = framed
        self._tail = bytearray()
        self._ahead = 0  # where the next frame starts, counted from the end of the tail: negative is inside it

    def restore(self, buffer: bytearray) -> int:
        """Put the kept bytes at the start of `buffer`; return how many, which is where to receive to."""
        kept = len(self._tail)
        buffer[:kept] = self._tail
        return kept

    def feed(self, buffer: bytearray, n: int) -> tuple[int, list[tuple[int, bytes]]]:
        """Take buffer[:n], of which `restore` put the start.

        Returns how many marks this chunk completed, and the control frames in it as (opcode, payload).
        """
        kept = len(self._tail)
        marks = buffer.count(MARK, max(0, kept - len(MARK) + 1), n)
        keep_from = max(0, n - len(MARK) + 1)
        controls: list[tuple[int, bytes]] = []
        if self._framed:
            at, controls = self._walk(buffer, kept + self._ahead, n)
            keep_from = min(keep_from, at)
            self._ahead = at - n
        self._tail = buffer[keep_from:n]
        return marks, controls

    @staticmethod
    def _walk(buffer: bytearray, at: int, n: int) -> tuple[int, list[tuple[int, bytes]]]:
        """From the frame that starts at `at` on: where the next one to look at starts, and the control frames."""
        if at < n and buffer[at] == _TEXT and all(buffer.find(first, 0, n) < 0 for first in _CONTROL_STARTS):
            # No close, ping or pong in this chunk, so go straight to its last frame. No UTF-8 character has a byte 0x81
            # after "}": the pair is the end of a JSON object and the header of the text frame behind it, or it is a
            # length of 0x7D81 in a header, and then the object's "{" follows.
            last = buffer.rfind(b"}\x81", max(0, n - 4096), n - 1) + 1
            if buffer[last + 1] != ord("{"):
                at = max(at, last)
        controls: list[tuple[int, bytes]] = []
        while at + 2 <= n:
            opcode, length, header = buffer[at] & 0x0F, buffer[at + 1], 2
            if length == 126:
                header = 4
            elif length == 127:
                header = 10
            if at + header > n:
                break
            if header > 2:
                length = int.from_bytes(buffer[at + 2 : at + header], "big")
            end = at + header + length
            if opcode & 0x8:
                if end > n:
                    break
                controls.append((opcode, bytes(buffer[at + header : end])))
            at = end
        return at, controls


class _Message(msgspec.Struct):
    symbol: str
    seq: int
    timestamp: str
    snapshot: bool = False


class _Connection:
    __slots__ = ("deliveries", "last_seq", "reader", "sock", "symbols")

    def __init__(self, sock: socket.socket, *, framed: bool) -> None:
        self.sock = sock
        self.reader = StreamReader(framed=framed)
        self.symbols: frozenset[str] = frozenset()
        self.last_seq: dict[str, int] | None = None
        self.deliveries = 0


class _Histogram:
    """Counts of nanoseconds in buckets of under 1 % width."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.largest = 0

    def add(self, value_ns: int) -> None:
        value_ns = max(0, value_ns)
        shift = max(0, value_ns.bit_length() - 8)
        self.counts[value_ns >> shift << shift] += 1
        self.largest = max(self.largest, value_ns)

    def summary(self) -> Latency | None:
        if not self.counts:
            return None
        total = self.counts.total()
        wanted = [(name, share * total) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))]
        found: dict[str, float] = {}
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            for name, rank in wanted:
                if name not in found and seen >= rank:
                    found[name] = round(value / 1e6, 3)
        return Latency(samples=total, max=round(self.largest / 1e6, 3), **found)


def process_cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds, user and system, that these processes have used (Linux)."""
    ticks = 0
    for pid in pids:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def process_rss_kb(pids: Iterable[int]) -> int:
    """Resident memory of these processes, kB (Linux)."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGESIZE") // 1024


def frame(opcode: int, payload: bytes) -> bytes:
    """One masked WebSocket frame, as a client must send it."""
    n = len(payload)
    if n < 126:
        header = bytes((0x80 | opcode, 0x80 | n))
    elif n < 1 << 16:
        header = bytes((0x80 | opcode, 0x80 | 126)) + n.to_bytes(2, "big")
    else:
        header = bytes((0x80 | opcode, 0x80 | 127)) + n.to_bytes(8, "big")
    key = os.urandom(4)
    mask = (key * (n // 4 + 1))[:n]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(n, "big")
    return header + key + masked


def _handshake(sock: socket.socket, host: str, path: str) -> None:
    key = base64.b64encode(os.urandom(16))
    sock.sendall(
        f"GET {path or '/'} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte, so that nothing behind the head is taken from the stream
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError(f"closed during the handshake after {head[:200]!r}")
        head += byte
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    if not head.startswith(b"HTTP/1.1 101") or accept not in head:
        status = head.partition(b"\r\n")[0].decode(errors="replace")
        raise ConnectionError(f"the server refused the WebSocket: {status}")


def _opening(scheme: str, symbols: tuple[str, ...], fields: tuple[str, ...]) -> bytes:
    """What a subscriber of `symbols` sends once it is connected."""
    if scheme == "ws":
        message: dict[str, object] = {"action": "subscribe", "symbols": symbols, "channels": ["quotes"]}
        if fields:
            message["fields"] = fields
        return frame(0x1, msgspec.json.encode(message)) if symbols else b""
    if scheme == "redis":
        words = [b"SUBSCRIBE", *(s.encode() for s in symbols)]
        command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
        return command if symbols else b""
    lines = ['CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"1","protocol":1}']
    lines += [f"SUB {symbol} {i}" for i, symbol in enumerate(symbols, 1)]
    text = ("\r\n".join(lines) + "\r\n").encode()
    return frame(0x2, text) if scheme == "nats+ws" else text


class _Load:
    """The sockets and the counts of one run."""

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        parts = urlsplit(config.url)
        self._scheme, self._path = parts.scheme, parts.path + (f"?{parts.query}" if parts.query else "")
        self._address = (parts.hostname or "", parts.port or 0)
        self._framed = parts.scheme.endswith("ws")
        self._nats = parts.scheme.startswith("nats")
        self._rng = random.Random(config.seed)
        self._selector = selectors.DefaultSelector()
        self._buffer = bytearray(_RECEIVE_BYTES + 4096)
        self._view = memoryview(self._buffer)
        self._connections: list[_Connection] = []
        self._open = 0
        self._measuring = False
        self._decode = msgspec.json.Decoder(_Message).decode
        self.closed: Counter[int] = Counter()
        self.errors: list[str] = []
        self._reset()

    def _reset(self) -> None:
        self._bytes = self._reads = self._credit = 0
        self._latency = _Histogram()
        self._order_checked = self._out_of_order = self._misrouted = 0
        for connection in self._connections:
            connection.deliveries = 0

    def connect(self) -> None:
        """Open every connection first and subscribe afterwards: nobody's updates wait while others connect."""
        config = self._config
        for _ in range(config.clients):
            sock = socket.create_connection(self._address, config.timeout_s)
            self._connections.append(_Connection(sock, framed=self._framed))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._framed:
                _handshake(sock, f"{self._address[0]}:{self._address[1]}", self._path)
        every = max(1, config.clients // max(1, config.checked_clients))
        for i, connection in enumerate(self._connections):
            symbols = tuple(self._rng.sample(config.symbols, config.symbols_per_client))
            connection.symbols = frozenset(symbols)
            if i % every == 0 and i // every < config.checked_clients:
                connection.last_seq = {}
            connection.sock.sendall(_opening(self._scheme, symbols, config.fields))
            connection.sock.setblocking(False)
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
            self._open += 1

    def receive(self, until_s: float) -> None:
        """Count what comes until `time.perf_counter()` reaches `until_s`, or until nobody is connected."""
        select = self._selector.select
        while self._open and (left := until_s - time.perf_counter()) > 0:
            for key, _ in select(min(left, 0.1)):
                self._read(key.data)

    def _read(self, connection: _Connection) -> None:
        buffer, reader = self._buffer, connection.reader
        start = reader.restore(buffer)
        try:
            received = connection.sock.recv_into(self._view[start:])
        except BlockingIOError:
            return
        except OSError:
            received = 0
        if not received:
            self._drop(connection, _ABNORMAL)
            return
        now_ns = time.time_ns()
        n = start + received
        marks, controls = reader.feed(buffer, n)
        self._bytes += received
        self._reads += 1
        connection.deliveries += marks
        if self._measuring:
            if connection.last_seq is not None:
                self._check_order(connection, connection.last_seq, n)
            self._credit += marks
            while self._credit >= self._config.sample_every:
                self._credit -= self._config.sample_every
                self._sample(connection, n, now_ns)
        else:
            self._look_for_errors(n)
        if self._nats and buffer.find(_NATS_PING, max(0, start - len(_NATS_PING) + 1), n) >= 0:
            pong = b"PONG\r\n"
            self._send(connection, frame(0x2, pong) if self._framed else pong)
        for opcode, payload in controls:
            if opcode == _PING:
                self._send(connection, frame(0xA, payload))
            elif opcode == _CLOSE:
                self._send(connection, frame(_CLOSE, payload[:2]))
                self._drop(connection, int.from_bytes(payload[:2], "big") if len(payload) >= 2 else _NO_STATUS)
                return

    def _send(self, connection: _Connection, data: bytes) -> None:
        try:
            sent = connection.sock.send(data)
        except OSError:  # the peer is gone or reads nothing; the next read says which
            return
        if sent < len(data):
            self._drop(connection, _ABNORMAL)

    def _drop(self, connection: _Connection, code: int) -> None:
        if connection.sock.fileno() < 0:
            return
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._open -= 1
        self.closed[code] += 1

    def _message(self, at: int, n: int) -> _Message | None:
        """The message whose mark is at `at`, None if the chunk does not hold all of it."""
        begin, end = self._buffer.rfind(b"{", 0, at), self._buffer.find(b"}", at, n)
        return self._decode(self._view[begin : end + 1]) if begin >= 0 and end >= 0 else None

    def _sample(self, connection: _Connection, n: int, now_ns: int) -> None:
        near = self._rng.randrange(n)
        at = self._buffer.find(MARK, near, n)
        if at < 0:
            at = self._buffer.rfind(MARK, 0, n)
        message = self._message(at, n) if at >= 0 else None
        if message is not None and not message.snapshot:
            self._latency.add(now_ns - parse_ns(message.timestamp))
            self._misrouted += message.symbol not in connection.symbols

    def _check_order(self, connection: _Connection, last_seq: dict[str, int], n: int) -> None:
        at = self._buffer.find(MARK, 0, n)
        while at >= 0:
            message = self._message(at, n)
            if message is not None:
                before = last_seq.get(message.symbol)
                self._order_checked += before is not None
                self._out_of_order += before is not None and message.seq <= before
                self._misrouted += message.symbol not in connection.symbols
                last_seq[message.symbol] = message.seq
            at = self._buffer.find(MARK, at + 1, n)

    def _look_for_errors(self, n: int) -> None:
        for sign in (b'"type":"error"', b"-ERR"):
            at = self._buffer.find(sign, 0, n)
            if at >= 0 and len(self.errors) < 5:
                self.errors.append(bytes(self._buffer[max(0, at - 1) : min(n, at + 300)]).decode(errors="replace"))

    def measure(self) -> LoadReport:
        """Connect, warm up, count for `duration_s`, and tell. Raises OSError when the server cannot be reached."""
        config = self._config
        rss = array.array("q")
        if config.pids:
            rss.append(process_rss_kb(config.pids))
        started = time.perf_counter()
        self.connect()
        connect_s = time.perf_counter() - started
        self.receive(time.perf_counter() + config.warmup_s)
        if config.pids:
            rss.append(process_rss_kb(config.pids))
        self._reset()
        self._measuring = True
        started, own_s = time.perf_counter(), time.process_time()
        server_s = process_cpu_s(config.pids)
        self.receive(started + config.duration_s)
        elapsed = time.perf_counter() - started
        server_s, own_s = process_cpu_s(config.pids) - server_s, time.process_time() - own_s
        each = [c.deliveries for c in self._connections]
        total = sum(each)
        return LoadReport(
            url=config.url,
            clients=config.clients,
            elapsed_s=round(elapsed, 3),
            connect_s=round(connect_s, 3),
            deliveries=total,
            deliveries_s=round(total / elapsed, 1),
            bytes_s=round(self._bytes / elapsed, 1),
            reads_s=round(self._reads / elapsed, 1),
            per_client=(min(each), round(statistics.median(each)), max(each)),
            closed=dict(self.closed),
            errors=self.errors,
            latency_ms=self._latency.summary(),
            order_checked=self._order_checked,
            out_of_order=self._out_of_order,
            misrouted=self._misrouted,
            client_cpu=round(own_s / elapsed, 4),
            server_cpu=round(server_s / elapsed, 4) if config.pids else None,
            server_us_per_delivery=round(server_s / total * 1e6, 4) if config.pids and total else None,
            server_rss_kb=(rss[0], rss[1], process_rss_kb(config.pids)) if config.pids else None,
        )

    def close(self) -> None:
        for connection in self._connections:
            if connection.sock.fileno() >= 0:
                if self._framed:
                    self._send(connection, frame(_CLOSE, (1000).to_bytes(2, "big")))
                connection.sock.close()
        self._selector.close()


def run(config: LoadConfig) -> LoadReport:
    """One run, start to end; blocks for about `warmup_s + duration_s`.

    Raises OSError when the server cannot be reached or refuses the handshake.
    """
    load = _Load(config)
    try:
        return load.measure()
    finally:
        load.close()


def _symbols(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    if text.isdigit():
        return tuple(f"S{i:04d}" for i in range(int(text)))
    return tuple(part for part in text.split(",") if part)


@click.command(help="Open many subscribers against a server and report what they got, as one JSON object.")
@click.option("--url", required=True, help="ws://host:port/path, nats://…, nats+ws://… or redis://…")
@click.option("--clients", default=1, show_default=True)
@click.option("--symbols", default="1", callback=_symbols, help="Names, or a number N for S0000, S0001, …")
@click.option("--symbols-per-client", default=1, show_default=True, help="0 leaves the clients idle.")
@click.option("--fields", default="", help="Limit messages to these fields, separated by commas.")
@click.option("--seed", default=0, show_default=True)
@click.option("--warmup", "warmup_s", default=1.0, show_default=True)
@click.option("--duration", "duration_s", default=5.0, show_default=True)
@click.option("--sample-every", default=100, show_default=True, help="Decode one message in so many.")
@click.option("--checked-clients", default=4, show_default=True, help="Clients whose every message is decoded.")
@click.option("--timeout", "timeout_s", default=10.0, show_default=True, help="For connecting, seconds.")
@click.option("--pid", "pids", type=int, multiple=True, help="Server process whose CPU and memory to report.")
def main(fields: str, **options: object) -> None:
    try:
        config = msgspec.convert({**options, "fields": tuple(f for f in fields.split(",") if f)}, LoadConfig)
        report = run(config)
    except (InvalidInput, msgspec.MsgspecError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
