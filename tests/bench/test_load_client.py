"""The load client counts exactly, whatever the chunks, and sees closes, disorder and latency as they are."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.testing import load

Handler = Callable[[socket.socket, bytes], None]


def quote(symbol: str, seq: int, time_s: float | None = None, filler: str = "") -> bytes:
    stamp = datetime.fromtimestamp(time.time() if time_s is None else time_s, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps(
        {"type": "quote_update", "symbol": symbol, "seq": seq, "lastPrice": 1.5, "timestamp": stamp, "x": filler},
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


def server_frame(opcode: int, payload: bytes) -> bytes:
    """RFC 6455 section 5.2, from a server: not masked."""
    n = len(payload)
    if n < 126:
        return bytes((0x80 | opcode, n)) + payload
    if n < 65536:
        return bytes((0x80 | opcode, 126)) + n.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + n.to_bytes(8, "big") + payload


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """One masked frame of the client, unmasked byte by byte."""
    first, second = exactly(sock, 2)
    assert second & 0x80, "a client masks its frames"
    length = second & 0x7F
    if length == 126:
        length = int.from_bytes(exactly(sock, 2), "big")
    elif length == 127:
        length = int.from_bytes(exactly(sock, 8), "big")
    key = exactly(sock, 4)
    return first & 0x0F, bytes(b ^ key[i % 4] for i, b in enumerate(exactly(sock, length)))


def exactly(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data


def upgrade(sock: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(sock, 1)
    key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


@contextmanager
def serving(handler: Handler, *, websocket: bool = True) -> Iterator[int]:
    """A server of one thread a client; the handler gets the socket and the client's first message. Gives its port."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def client(sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(10)
                if websocket:
                    upgrade(sock)
                    handler(sock, read_frame(sock)[1])
                else:
                    handler(sock, sock.recv(65536))
        except BaseException as error:  # noqa: BLE001  # raised again in the test's thread
            errors.append(error)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=client, args=(sock,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(10)
        for thread in threads:
            thread.join(10)
    if errors:
        raise errors[0]


def until_closed(sock: socket.socket) -> list[tuple[int, bytes]]:
    """What the client still sends, up to its close."""
    frames = []
    try:
        while not frames or frames[-1][0] != 0x8:
            frames.append(read_frame(sock))
    except OSError:
        return frames
    return frames


def feed_in_chunks(stream: bytes, sizes: list[int], *, framed: bool) -> tuple[int, list[tuple[int, bytes]]]:
    reader, buffer = load.StreamReader(framed=framed), bytearray(1 << 18)
    marks, controls, at, turn = 0, [], 0, 0
    while at < len(stream):
        chunk = stream[at : at + sizes[turn % len(sizes)]]
        start = reader.restore(buffer)
        buffer[start : start + len(chunk)] = chunk
        more, found = reader.feed(buffer, start + len(chunk))
        marks, controls = marks + more, controls + found
        at, turn = at + len(chunk), turn + 1
    return marks, controls


frames = st.lists(
    st.one_of(
        st.tuples(st.just(0x1), st.builds(quote, st.text(max_size=6), st.integers(0, 9), st.just(1.0), st.text())),
        st.tuples(st.just(0x1), st.integers(0, 260).map(lambda n: quote("A", 1, 1.0, "é" * n))),
        st.tuples(st.just(0x1), st.binary(max_size=3).map(lambda b: b'{"type":"lag","x":"' + b.hex().encode() + b'"}')),
        st.tuples(st.sampled_from([0x8, 0x9, 0xA]), st.binary(max_size=125)),
    ),
    max_size=30,
)
chunk_sizes = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 3000)), min_size=1, max_size=8)


@settings(deadline=None)
@given(frames, chunk_sizes)
def test_marks_and_control_frames_are_exact_however_the_stream_is_cut(sent, sizes):
    stream = b"".join(server_frame(opcode, payload) for opcode, payload in sent)
    marks, controls = feed_in_chunks(stream, sizes, framed=True)
    assert marks == sum(payload.startswith(b'{"type":"quote_update"') for opcode, payload in sent if opcode == 0x1)
    assert controls == [(opcode, payload) for opcode, payload in sent if opcode & 0x8]


@settings(deadline=None)
@given(st.integers(0, 20), chunk_sizes)
def test_marks_in_a_stream_without_frames_are_exact_however_it_is_cut(count, sizes):
    line = quote("A", 1, 1.0)
    stream = b"".join(b"MSG A 1 %d\r\n%s\r\n" % (len(line), line) for _ in range(count))
    assert feed_in_chunks(stream, sizes, framed=False) == (count, [])


@pytest.mark.parametrize("length", [136, 137, 0x8888, 0x7D81, 0x8181, 70_000])
@pytest.mark.parametrize("sizes", [[1 << 17], [4096], [7]])
def test_lengths_that_look_like_frame_headers_do_not_mislead_it(length, sizes):
    short = quote("A", 1, 1.0)
    long = quote("A", 1, 1.0, "x" * (length - len(short)))
    assert len(long) == length
    sent = [(0x1, short), (0x1, long), (0x9, b"are you there"), (0x1, long), (0x1, short), (0x8, b"\x0f\xa0")]
    stream = b"".join(server_frame(opcode, payload) for opcode, payload in sent)
    assert feed_in_chunks(stream, sizes, framed=True) == (4, [(0x9, b"are you there"), (0x8, b"\x0f\xa0")])


@pytest.mark.parametrize("length", [100, 137, 0x7D81, 70_000])
@pytest.mark.parametrize("sizes", [[1 << 17], [4096], [7]])
def test_binary_frames_of_many_lines_are_walked_exactly(length, sizes):
    line = b"MSG A 1 99\r\n" + quote("A", 1, 1.0)
    body = line + b"\r\n" * ((length - len(line)) // 2) + b"\n" * ((length - len(line)) % 2)
    stream = server_frame(0x2, body) * 3 + server_frame(0x9, b"?") + server_frame(0x2, body) + server_frame(0x8, b"")
    assert feed_in_chunks(stream, sizes, framed=True) == (4, [(0x9, b"?"), (0x8, b"")])


@pytest.mark.parametrize("n", [0, 1, 125, 126, 127, 65535, 65536])
def test_a_sent_frame_reads_back(n):
    payload = os.urandom(n)
    left, right = socket.socketpair()
    with left, right:
        sender = threading.Thread(target=left.sendall, args=(load.frame(0x2, payload),))
        sender.start()
        assert read_frame(right) == (0x2, payload)
        sender.join(10)


def test_every_client_subscribes_to_its_own_symbols_and_every_delivery_counts():
    asked: list[dict] = []

    def handler(sock, first):
        message = json.loads(first)
        asked.append(message)
        seq = 0
        while not select.select([sock], [], [], 0.01)[0]:  # until the client says goodbye
            seq += 1
            for symbol in message["symbols"]:
                sock.sendall(server_frame(0x1, quote(symbol, seq)))
        assert until_closed(sock)[-1] == (0x8, (1000).to_bytes(2, "big"))

    with serving(handler) as port:
        report = load.run(
            load.LoadConfig(
                url=f"ws://127.0.0.1:{port}/stream",
                clients=3,
                symbols=("A", "B", "C", "D"),
                symbols_per_client=2,
                fields=("lastPrice",),
                warmup_s=0.2,
                duration_s=0.5,
                sample_every=1,
                pids=(os.getpid(),),
            )
        )
    assert [len(set(m["symbols"])) for m in asked] == [2, 2, 2]
    assert {(m["action"], tuple(m["channels"]), tuple(m["fields"])) for m in asked} == {
        ("subscribe", ("quotes",), ("lastPrice",))
    }
    assert report.deliveries > 0
    assert report.deliveries == pytest.approx(report.deliveries_s * report.elapsed_s, rel=0.01)
    assert report.per_client[0] > 0
    assert (report.closed, report.errors, report.out_of_order, report.misrouted) == ({}, [], 0, 0)
    assert report.order_checked > 0
    assert report.latency_ms is not None
    assert 0 <= report.latency_ms.p50 <= report.latency_ms.p99 <= report.latency_ms.max < 5_000
    assert report.server_cpu is not None
    assert report.server_rss_kb is not None
    assert min(report.server_rss_kb) > 1000


def test_a_burst_of_known_size_is_counted_to_the_last_message():
    sent = 20_000

    def handler(sock, _first):
        sock.sendall(b"".join(server_frame(0x1, quote("A", seq, 1.0)) for seq in range(sent)))
        sock.sendall(server_frame(0x8, (1000).to_bytes(2, "big")))
        until_closed(sock)

    with serving(handler) as port:
        report = load.run(
            load.LoadConfig(url=f"ws://127.0.0.1:{port}/", symbols=("A",), warmup_s=0, duration_s=10, checked_clients=1)
        )
    assert (report.deliveries, report.out_of_order, report.closed) == (sent, 0, {1000: 1})


def test_latency_is_the_age_of_the_message():
    def handler(sock, _first):
        for seq in range(100):
            sock.sendall(server_frame(0x1, quote("A", seq, time.time() - (2.0 if seq < 90 else 4.0))))
        sock.sendall(server_frame(0x8, b""))
        until_closed(sock)

    with serving(handler) as port:
        report = load.run(
            load.LoadConfig(url=f"ws://127.0.0.1:{port}/", symbols=("A",), warmup_s=0, duration_s=10, sample_every=1)
        )
    latency = report.latency_ms
    assert latency is not None
    assert latency.samples > 50
    assert latency.p50 == pytest.approx(2000, rel=0.2)
    assert latency.max == pytest.approx(4000, rel=0.1)


def test_disorder_and_foreign_symbols_are_noticed():
    def handler(sock, _first):
        for symbol, seq in (("A", 1), ("A", 2), ("A", 2), ("A", 1), ("B", 9), ("A", 3)):
            sock.sendall(server_frame(0x1, quote(symbol, seq)))
        sock.sendall(server_frame(0x8, b""))
        until_closed(sock)

    with serving(handler) as port:
        report = load.run(load.LoadConfig(url=f"ws://127.0.0.1:{port}/", symbols=("A",), warmup_s=0, duration_s=10))
    assert (report.order_checked, report.out_of_order, report.misrouted) == (4, 2, 1)


def test_pings_are_answered_and_closes_are_told_by_code():
    answers: list[tuple[int, bytes]] = []

    def handler(sock, _first):
        sock.sendall(server_frame(0x9, b"hello"))
        answers.append(read_frame(sock))
        sock.sendall(server_frame(0x8, (4008).to_bytes(2, "big") + b"too slow"))
        answers.extend(until_closed(sock))

    with serving(handler) as port:
        report = load.run(load.LoadConfig(url=f"ws://127.0.0.1:{port}/", symbols=("A",), warmup_s=5))
    assert answers[:2] == [(0xA, b"hello"), (0x8, (4008).to_bytes(2, "big"))]
    assert report.closed == {4008: 1}


def test_a_connection_cut_without_a_close_is_1006_and_a_refused_subscription_is_told():
    def handler(sock, _first):
        sock.sendall(server_frame(0x1, b'{"type":"error","code":"unknown_symbol","message":"no A"}'))

    with serving(handler) as port:
        report = load.run(load.LoadConfig(url=f"ws://127.0.0.1:{port}/", symbols=("A",), warmup_s=5))
    assert report.closed == {1006: 1}
    assert report.errors == ['{"type":"error","code":"unknown_symbol","message":"no A"}']


def test_the_nats_protocol_is_spoken_and_its_pings_answered():
    seen: list[bytes] = []

    def handler(sock, first):
        seen.append(first)
        sock.sendall(b'INFO {"server_id":"x"}\r\nPING\r\n')
        seen.append(exactly(sock, 6))
        for seq in range(5):
            message = quote("A", seq)
            sock.sendall(b"MSG A 1 %d\r\n%s\r\n" % (len(message), message))

    with serving(handler, websocket=False) as port:
        report = load.run(
            load.LoadConfig(url=f"nats://127.0.0.1:{port}", symbols=("A",), warmup_s=0, duration_s=10, sample_every=1)
        )
    lines = seen[0].split(b"\r\n")
    assert lines[0].startswith(b"CONNECT {")
    assert lines[1:] == [b"SUB A 1", b""]
    assert seen[1] == b"PONG\r\n"
    assert (report.deliveries, report.out_of_order) == (5, 0)


def test_the_redis_protocol_is_spoken():
    seen: list[bytes] = []

    def handler(sock, first):
        seen.append(first)
        for seq in range(5):
            message = quote("A", seq)
            sock.sendall(b"*3\r\n$7\r\nmessage\r\n$1\r\nA\r\n$%d\r\n%s\r\n" % (len(message), message))

    with serving(handler, websocket=False) as port:
        report = load.run(load.LoadConfig(url=f"redis://127.0.0.1:{port}", symbols=("A",), warmup_s=0, duration_s=10))
    assert seen == [b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nA\r\n"]
    assert report.deliveries == 5


def test_a_server_that_is_no_websocket_is_refused_by_name():
    def handler(sock, _first):
        sock.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")

    with serving(handler, websocket=False) as port, pytest.raises(ConnectionError, match="404 Not Found"):
        load.run(load.LoadConfig(url=f"ws://127.0.0.1:{port}/", symbols=("A",)))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("url", {"url": "http://127.0.0.1:1/"}),
        ("url", {"url": "ws://127.0.0.1/"}),
        ("clients", {"clients": 0}),
        ("symbols_per_client", {"symbols_per_client": 2}),
        ("sample_every", {"sample_every": 0}),
        ("duration_s", {"duration_s": 0.0}),
    ],
)
def test_impossible_settings_are_refused_by_name(field, values):
    with pytest.raises(InvalidInput) as caught:
        load.LoadConfig(**{"url": "ws://127.0.0.1:1/", "symbols": ("A",), **values})
    assert caught.value.field == field


def test_the_command_prints_one_json_object():
    asked: list[dict] = []

    def handler(sock, first):
        asked.append(json.loads(first))
        sock.sendall(server_frame(0x1, quote("S0001", 1)) + server_frame(0x8, b""))
        until_closed(sock)

    with serving(handler) as port:
        arguments = (
            f"--url ws://127.0.0.1:{port}/ --symbols 2 --symbols-per-client 2 --warmup 0 --fields bidPrice,askPrice"
        )
        result = CliRunner().invoke(load.main, arguments.split())
    assert result.exit_code == 0, result.output
    assert sorted(asked[0]["symbols"]) == ["S0000", "S0001"]
    assert asked[0]["fields"] == ["bidPrice", "askPrice"]
    printed = json.loads(result.output)
    assert (printed["deliveries"], printed["closed"]) == (1, {"1005": 1})


def test_the_command_says_in_one_line_why_it_cannot():
    result = CliRunner().invoke(load.main, ["--url", "ws://127.0.0.1:1/", "--clients", "0"])
    assert result.exit_code == 1
    assert result.output == "Error: clients: 0 is not allowed; expected at least 1\n"
