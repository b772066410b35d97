"""Frames against the `websockets` library's client side, which checks what RFC 6455 demands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from marketd.wire.frames import text_frame, text_frames


def read(data: bytes) -> list[bytes]:
    """Payloads of the text messages in what a server sent."""
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=None, state=State.OPEN)
    client.receive_data(data)
    events = client.events_received()
    assert client.parser_exc is None
    assert client.state is State.OPEN
    assert all(isinstance(e, Frame) and e.opcode is Opcode.TEXT and e.fin for e in events)
    assert not any(e.rsv1 or e.rsv2 or e.rsv3 for e in events)
    return [bytes(e.data) for e in events]


EDGES = [0, 1, 124, 125, 126, 127, 128, 255, 256, 2_047, 2_048, 2_049, 65_535, 65_536, 65_537, 1 << 20]


@pytest.mark.parametrize("size", EDGES)
def test_every_length_is_read_back_and_is_written_in_the_shortest_way(size: int) -> None:
    payload = b"x" * size
    frame = text_frame(payload)
    assert read(frame) == [payload]
    assert len(frame) - size == (2 if size < 126 else 4 if size < 65_536 else 10)
    assert text_frames([payload]) == [frame]


@given(st.lists(st.text(max_size=200).map(str.encode), max_size=8))
def test_frames_one_after_the_other_are_the_messages_in_their_order(payloads: list[bytes]) -> None:
    frames = text_frames(payloads)
    assert [read(frame) for frame in frames] == [[p] for p in payloads]
    assert read(b"".join(frames)) == payloads
    assert [text_frame(p) for p in payloads] == frames
