"""The stream's messages: frames of the published definition, the protobuf library as referee, and fuzz."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.model import BOOK, LAST, Quarantined, TickBatch
from marketd.sources.yahoo.pricing import FIELDS, Names, message_of, read_fields, read_frames
from marketd.testing.providers.yahoo import encode_pricing

RECEIVED_NS = 1_740_051_900_000_000_000
NAMES = Names({"AAPL": "AAPL", "BTC-USD": "BTC-USD", "EURUSD": "EURUSD=X", "VOD.L": "VOD.L"})

# written by the protobuf library from the published definition
APPLE = "CgRBQVBMFR+FY0MYgLDv2btkIgNVU0QqA05NUzAIOAFFhevRPkiAxL8hZXsUbj+9AY+CY0PAAQbNAa6HY0PQAQTYAQQ="
BITCOIN = "CgdCVEMtVVNEFRbcvUcYgPDfsqRlKgNDQ0MwKTgBRbgeBb9IgKDF+M8BZZoZ/sPYAQQ="
EURO = "CghFVVJVU0Q9WBUUP4Y/GND/37KkZSoDQ0NZMA44Ab0BFD+GP80BW0KGP9gBCA=="


def frame(message):
    text = message if isinstance(message, str) else base64.b64encode(message).decode()
    return json.dumps({"type": "pricing", "message": text})


def read(*raws, names=NAMES):
    return read_frames([(RECEIVED_NS + at, raw) for at, raw in enumerate(raws)], names)


def row(batch, at=0):
    """The columns of one row, None where absent."""
    names = ("bid", "ask", "bid_size", "ask_size", "last", "volume")
    values = {name: float(getattr(batch, name)[at]) for name in names}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def test_a_message_is_a_row_in_decimals_as_they_were_meant():
    (batch,) = read(frame(APPLE), frame(BITCOIN), frame(EURO))
    assert isinstance(batch, TickBatch)
    assert [batch.symbols[at] for at in batch.symbol_index] == ["AAPL", "BTC-USD", "EURUSD"]
    assert batch.time_event_ns.tolist() == [
        1_726_000_000_000_000_000, 1_740_051_840_000_000_000, 1_740_051_841_000_000_000,
    ]  # fmt: skip
    assert batch.time_received_ns.tolist() == [RECEIVED_NS, RECEIVED_NS + 1, RECEIVED_NS + 2]
    assert batch.flags.tolist() == [BOOK | LAST, LAST, BOOK | LAST]
    assert row(batch, 0) == {
        "bid": 227.51, "ask": 227.53, "bid_size": 3.0, "ask_size": 2.0, "last": 227.52, "volume": 35_123_456.0,
    }  # fmt: skip
    assert row(batch, 1) == {
        "bid": None, "ask": None, "bid_size": None, "ask_size": None, "last": 97_208.17, "volume": 27_909_466_112.0,
    }  # fmt: skip
    assert row(batch, 2) == {
        "bid": 1.0488, "ask": 1.0489, "bid_size": None, "ask_size": None, "last": 1.0488, "volume": None,
    }  # fmt: skip
    assert batch.symbols is read(frame(APPLE))[0].symbols  # receivers know it by identity


def test_pence_are_hundredths_of_a_pound():
    fields = {"id": "VOD.L", "price": 72.36, "time": 1_740_051_841_000, "currency": "GBp", "bid": 72.34, "ask": 72.38}
    (batch,) = read(frame(APPLE), frame(encode_pricing(fields)))
    assert [row(batch, 1)[name] for name in ("last", "bid", "ask")] == [0.7236, 0.7234, 0.7238]
    assert row(batch, 0)["last"] == 227.52
    # of London without a currency it is not known whether it is pence or pounds
    (refused,) = read(frame(encode_pricing(fields | {"currency": ""})))
    assert (refused.reason, refused.time_received_ns) == ("currency_unknown", RECEIVED_NS)


def test_before_hours_the_field_of_the_hours_is_absent_and_the_price_counts():
    fields = {"id": "AAPL", "price": 12.5, "time": 1_740_051_841_000, "currency": "USD", "market_hours": 0}
    (batch,) = read(frame(encode_pricing(fields)))
    assert row(batch)["last"] == 12.5


def test_a_side_of_zero_is_absent_and_its_size_with_it():
    fields = {"id": "AAPL", "price": 12.5, "time": 1, "currency": "USD", "bid": 12.0, "bid_size": 5, "ask_size": 7}
    (batch,) = read(frame(encode_pricing(fields)))
    assert row(batch) == {
        "bid": 12.0, "ask": None, "bid_size": 5.0, "ask_size": None, "last": 12.5, "volume": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "MSFT", "price": 1.0, "time": 1},  # not wanted, or no longer
        {"id": "AAPL", "quote_type": 7, "price": 1.0},  # a heartbeat
        {"id": "AAPL", "time": 1, "day_volume": 5},  # states no price
        {},
    ],
)
def test_what_is_no_tick_gives_nothing(fields):
    assert read(frame(encode_pricing(fields))) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"price": 1.0}, "no time"),
        ({"price": 1.0, "time": -5}, "no time"),
        ({"price": 1.0, "time": 2**53}, "no time"),
        ({"price": math.inf, "time": 1}, "a price is no number"),
        ({"bid": math.nan, "time": 1}, "a price is no number"),
        ({"price": 1.0, "time": 1, "day_volume": -1}, "a size is negative"),
        ({"price": 1.0, "time": 1, "bid_size": -(2**62)}, "out of range"),
    ],
)
def test_a_row_that_cannot_be_is_quarantined_and_the_others_go_on(fields, words):
    batch, refused = read(frame(encode_pricing({"id": "AAPL"} | fields)), frame(EURO))
    assert batch.symbol_index.tolist() == [2]
    assert (refused.reason, refused.time_received_ns) == ("malformed", RECEIVED_NS)
    assert words in refused.detail


@pytest.mark.parametrize(
    "raw",
    [
        "", "null", "[]", "{", '{"message":"CgA="}', '{"type":"pricing","message":5}', frame("\u00e4"), frame("A"),
        frame(b"\x0a"), frame(b"\x0a\x05AAPL"), frame(b"\x15\x00\x00"), frame(b"\x18" + b"\xff" * 12), frame(b"\x0b"),
    ],
)  # fmt: skip
def test_what_is_not_as_documented_is_quarantined(raw):
    (refused,) = read(raw)
    assert isinstance(refused, Quarantined)
    assert (refused.source, refused.reason, refused.time_received_ns) == ("yahoo", "malformed", RECEIVED_NS)


def test_another_type_of_message_is_counted_and_no_fault():
    (other,) = read('{"type":"status","message":"ok"}')
    assert (other.reason, other.detail) == ("unknown_message", '{"type":"status","message":"ok"}')


def test_fields_in_another_order_new_ones_and_repeated_ones_are_read():
    plain = encode_pricing({"id": "AAPL", "price": 12.5, "time": 7, "currency": "USD", "bid": 12.25})
    taken = read_fields(plain)
    bid, rest = plain[-6:], plain[:-6]
    assert read_fields(bid + rest) == taken
    assert read_fields(plain + b"\xa2\x06\x03abc") == taken  # field 100, a text
    assert read_fields(b"\x15\x00\x00\x80\x3f" + plain) == taken  # the last price counts
    assert read_fields(b"\xa1\x06" + b"\0" * 8 + plain) == taken  # field 100, a double


@pytest.fixture(scope="module")
def referee():
    """The published message, built at run time; the library of its inventors reads and writes it."""
    protobuf = pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert protobuf
    unsigned = ("quote_type", "market_hours")
    types = {"text": 9, "float": 2, "double": 1, "varint": 18}  # string, float, double, sint64
    described = descriptor_pb2.FileDescriptorProto(name="pricing.proto", package="yahoo", syntax="proto3")
    message = described.message_type.add(name="PricingData")
    for number, (name, kind) in FIELDS.items():
        kind_of = 5 if name in unsigned else types[kind]
        message.field.add(name=name, number=number, type=kind_of, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(described)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("yahoo.PricingData"))


def test_the_hand_typed_frames_say_to_the_referee_what_they_say_here(referee):
    apple = referee.FromString(message_of(frame(APPLE)))
    assert (apple.id, apple.time, apple.bid_size, apple.ask_size) == ("AAPL", 1_726_000_000_000, 3, 2)
    assert (apple.price, apple.bid, apple.ask) == tuple(map(float, map(np.float32, (227.52, 227.51, 227.53))))


PRICES = st.floats(min_value=2.0**-13, max_value=2.0**20, width=32)
COUNTS = st.integers(1, 2**40)
SENT = st.fixed_dictionaries(
    {"id": st.just("AAPL"), "time": st.integers(1, 9_000_000_000_000), "currency": st.sampled_from(["USD", "EUR", ""])},
    optional={
        "price": PRICES, "bid": PRICES, "ask": PRICES, "day_volume": COUNTS, "bid_size": COUNTS, "ask_size": COUNTS,
        "exchange": st.text(max_size=60), "short_name": st.text(max_size=60), "quote_type": st.sampled_from([0, 8, 41]),
        "market_hours": st.integers(-1, 4), "change_percent": st.floats(width=32), "open_interest": st.integers(-5, 5),
        "market_cap": st.floats(), "from_currency": st.text(max_size=4), "vol_24hr": st.integers(-(2**63), 2**63 - 1),
    },
)  # fmt: skip


@given(sent=SENT)
@settings(max_examples=300)
def test_what_the_referee_writes_is_read_as_it_was_meant(referee, sent):
    raw = frame(referee(**sent).SerializeToString())
    events = read(raw)
    if not {"price", "bid", "ask"} & sent.keys():
        assert events == []
        return
    (batch,) = events
    expected = {
        "last": sent.get("price"),
        "bid": sent.get("bid"),
        "ask": sent.get("ask"),
        "volume": sent.get("day_volume"),
        "bid_size": sent.get("bid_size") if "bid" in sent else None,
        "ask_size": sent.get("ask_size") if "ask" in sent else None,
    }
    found = row(batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        got = found[name]
        if value is None or name.endswith(("size", "volume")):
            assert got == value
        else:
            assert np.float32(got) == np.float32(value)
            assert repr(got) == repr(float(str(np.float32(value))))  # the shortest decimal, as numpy writes it
    assert batch.time_event_ns.tolist() == [sent["time"] * 1_000_000]


@given(sent=SENT)
def test_the_simulators_writer_agrees_with_the_referee(referee, sent):
    known = {n: v for n, v in sent.items() if n not in ("short_name", "open_interest", "market_cap", "from_currency")}
    known.pop("vol_24hr", None)
    known.pop("market_hours", None)
    if "change_percent" in known and not known["change_percent"]:
        del known["change_percent"]  # the sign of zero
    assert encode_pricing(known) == referee(**known).SerializeToString()


@given(message=st.binary(max_size=80))
@settings(max_examples=300)
def test_no_bytes_break_the_reader_and_the_referee_is_never_stricter_about_structure(referee, message):
    from google.protobuf.message import DecodeError

    try:
        fields = read_fields(message)
    except ValueError:
        return
    assert len(fields) == 10
    events = read(frame(message))
    assert all(isinstance(event, TickBatch | Quarantined) for event in events)
    try:
        theirs = referee.FromString(message)
    except DecodeError:
        return  # it also checks UTF-8, tags of zero and fields sent as other types
    if fields[1] and len(fields[1]) == 4:
        assert fields[1] == np.float32(theirs.price).tobytes() or math.isnan(theirs.price)


@given(raws=st.lists(st.text(max_size=60) | st.binary(max_size=60).map(frame), max_size=8))
def test_no_batch_breaks_the_reader(raws):
    for event in read(*raws):
        assert isinstance(event, TickBatch | Quarantined)


@given(at=st.integers(0, 90), bit=st.integers(0, 7))
def test_a_bit_that_flips_breaks_nothing(at, bit):
    message = bytearray(base64.b64decode(APPLE))
    message[at % len(message)] ^= 1 << bit
    for event in read(frame(bytes(message)), frame(EURO)):
        assert isinstance(event, TickBatch | Quarantined)
