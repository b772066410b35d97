"""What Yahoo's stream says: protobuf in base64 in JSON, read by the batch. Pure: no clock, no socket, no log.

Owns the table of the message's fields, from which a pattern is made that takes a whole message apart at once, and a
slower reader for messages with fields in another order, or that are new. Numbers are made of columns of bytes, not one
by one. To read another field, name it in `_TAKEN` and use its column in `read_frames`.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.model import BOOK, LAST, Quarantined, SourceEvent, TickBatch
from marketd.sources.yahoo.parse import HUNDREDTHS, NAME
from marketd.sources.yahoo.single import as_meant, hundredths

__all__ = ["FIELDS", "Names", "message_of", "read_fields", "read_frames"]

Kind = Literal["text", "float", "double", "varint"]

FIELDS: dict[int, tuple[str, Kind]] = {
    1: ("id", "text"),
    2: ("price", "float"),
    3: ("time", "varint"),
    4: ("currency", "text"),
    5: ("exchange", "text"),
    6: ("quote_type", "varint"),
    7: ("market_hours", "varint"),
    8: ("change_percent", "float"),
    9: ("day_volume", "varint"),
    10: ("day_high", "float"),
    11: ("day_low", "float"),
    12: ("change", "float"),
    13: ("short_name", "text"),
    14: ("expire_date", "varint"),
    15: ("open_price", "float"),
    16: ("previous_close", "float"),
    17: ("strike_price", "float"),
    18: ("underlying_symbol", "text"),
    19: ("open_interest", "varint"),
    20: ("options_type", "varint"),
    21: ("mini_option", "varint"),
    22: ("last_size", "varint"),
    23: ("bid", "float"),
    24: ("bid_size", "varint"),
    25: ("ask", "float"),
    26: ("ask_size", "varint"),
    27: ("price_hint", "varint"),
    28: ("vol_24hr", "varint"),
    29: ("vol_all_currencies", "varint"),
    30: ("from_currency", "text"),
    31: ("last_market", "text"),
    32: ("circulating_supply", "double"),
    33: ("market_cap", "double"),
}
"""Of the message PricingData, by number. Varints are zigzag, but for quote_type and market_hours. proto3: a value of
zero is not sent. time: milliseconds. quote_type: 7 is a heartbeat. market_hours: 0 before, 1 in, 2 after hours."""

_TAKEN = ("id", "price", "time", "currency", "quote_type", "day_volume", "bid", "bid_size", "ask", "ask_size")
_WIRE_TYPES: dict[Kind, int] = {"varint": 0, "double": 1, "text": 2, "float": 5}
_LONGEST_TEXT = 40
_LONGEST_VARINT = 8
"""Bytes. A taken number that is longer is none that a price feed could mean."""

_HEARTBEAT = b"\x07"
_TIME_MAX_MS = 9_000_000_000_000
_UNIT_NOT_SAID = (b".L", b".IL", b".JO", b".TA")
"""How symbols end whose prices may be in hundredths: their currency has to be told."""
_IN_HUNDREDTHS = frozenset(bytes([len(name)]) + name.encode() for name in HUNDREDTHS)

_SHOWN = 200


# {"type":"pricing","message":"CgRBQVBMFR+FY0MYgLDv2btkIgNVU0QqA05NUzAIOAFFhevRPkiAxL8hZXsUbj+9AY+CY0PAAQbNAa6HY0PQ…"}
class Envelope(msgspec.Struct, frozen=True):
    type: str
    message: str = ""


_ENVELOPE = msgspec.json.Decoder(Envelope)


class Names:
    """Which messages are wanted, and under which names of ours. wanted: ours → Yahoo's."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self.symbols = tuple(wanted)
        self._index = {_text(theirs): at for at, theirs in enumerate(wanted.values())}

    def indices(self, ids: Sequence[bytes]) -> npt.NDArray[np.int32]:
        """Positions in `symbols` of ids as they are sent, -1 for others."""
        index = self._index
        return np.array([index.get(each, -1) for each in ids], np.int32)


def _text(value: str) -> bytes:
    """As it is sent, behind its length."""
    encoded = value.encode()
    return bytes([len(encoded)]) + encoded


def _pattern() -> re.Pattern[bytes]:
    """All fields in the order of their numbers, each at most once: how messages are written."""
    lengths = (re.escape(bytes([n])) + b".{%d}" % n for n in range(1, _LONGEST_TEXT + 1))
    values: dict[Kind, bytes] = {
        "float": b".{4}",
        "double": b".{8}",
        "varint": b"[\x80-\xff]{0,%d}+[\x00-\x7f]" % (_LONGEST_VARINT - 1),
        "text": b"(?:" + b"|".join(lengths) + b")",
    }
    parts = []
    for number, (name, kind) in FIELDS.items():
        value = b"(" + values[kind] + b")" if name in _TAKEN else values[kind]
        parts.append(b"(?:" + re.escape(_tag(number, kind)) + value + b")?+")
    return re.compile(b"".join(parts), re.DOTALL)


def _tag(number: int, kind: Kind) -> bytes:
    tag = number << 3 | _WIRE_TYPES[kind]
    return bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])


_WHOLE = _pattern().fullmatch
_TAKEN_TAGS = {
    int.from_bytes(_tag(number, kind), "little"): _TAKEN.index(name)
    for number, (name, kind) in FIELDS.items()
    if name in _TAKEN
}


def message_of(raw: str) -> bytes | None:
    """The protobuf message in a frame, None for a frame of another type. Raises ValueError."""
    envelope = _ENVELOPE.decode(raw)
    return a2b_base64(envelope.message) if envelope.type == "pricing" else None


def read_fields(message: bytes) -> tuple[bytes, ...]:
    """The bytes of each field of `_TAKEN`, texts behind their length, empty where absent. Raises ValueError."""
    whole = _WHOLE(message)
    return _read_any(message) if whole is None else whole.groups(b"")


def _read_any(message: bytes) -> tuple[bytes, ...]:
    """Fields in any order; of one that comes twice the last counts, and those that are not known are passed over."""
    found = [b""] * len(_TAKEN)
    at, end = 0, len(message)
    while at < end:
        begin, at = at, _after_varint(message, at)
        wire_type = message[begin] & 7
        value = at
        if wire_type == 0:
            at = _after_varint(message, at)
        elif wire_type == 2:
            length_end = _after_varint(message, at)
            at = length_end + _number(message[at:length_end])
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {begin}")
        if at > end:
            raise ValueError(f"the field at byte {begin} is cut")
        taken = _TAKEN_TAGS.get(int.from_bytes(message[begin:value], "little"))
        if taken is not None:
            found[taken] = message[value:at]
            if wire_type == 0 and at - value > _LONGEST_VARINT:
                raise ValueError(f"the number at byte {begin} is out of range")
    return tuple(found)


def _after_varint(message: bytes, at: int) -> int:
    for after in range(at, min(at + 10, len(message))):
        if message[after] < 128:
            return after + 1
    raise ValueError(f"no end of the number at byte {at}")


def _number(varint: bytes) -> int:
    return sum((byte & 127) << 7 * at for at, byte in enumerate(varint))


def read_frames(frames: Sequence[tuple[int, str]], names: Names) -> list[SourceEvent]:
    """The ticks in messages of the stream, as one batch, and what could not be understood, as `Quarantined`.

    frames: (time_received_ns, message as it came). Never raises. Heartbeats, messages of symbols that `names` does not
    have and those that state no price give nothing. A row has the last price, and the book where bid or ask is told; a
    size or volume of zero is not sent, and so is absent.
    """
    events: list[SourceEvent] = []
    rows: list[tuple[bytes, ...]] = []
    times: list[int] = []
    raws: list[str] = []
    for time_ns, raw in frames:
        try:
            message = message_of(raw)
            if message is None:
                events.append(_quarantined("unknown_message", raw, time_ns))
                continue
            rows.append(read_fields(message))
        except (ValueError, RecursionError) as error:
            events.append(_quarantined("malformed", f"{error}: {raw[:_SHOWN]!r}", time_ns))
            continue
        times.append(time_ns)
        raws.append(raw)
    if rows:
        batch, refused = _columns(rows, np.array(times, np.int64), names)
        events += [
            _quarantined(reason, f"{detail}: {raws[row][:_SHOWN]!r}", times[row]) for row, reason, detail in refused
        ]
        if batch is not None:
            events.insert(0, batch)
    return events


def _columns(
    rows: Sequence[tuple[bytes, ...]], time_received_ns: npt.NDArray[np.int64], names: Names
) -> tuple[TickBatch | None, list[tuple[int, str, str]]]:
    """The rows that are ticks; of those that are wanted and wrong (row, reason, detail)."""
    ids, price, time, currency, quote_type, day_volume, bid, bid_size, ask, ask_size = zip(*rows, strict=True)
    index = names.indices(ids)
    with np.errstate(invalid="ignore"):  # of a signalling NaN, which is refused below
        sent = np.array((price, bid, ask), "S4").view("<f4").astype(np.float64)  # absent: no bytes, which are 0.0
    whole = _zigzag(np.array((time, day_volume, bid_size, ask_size), "S8").view("<u8"))
    time_ms, counts = whole[0], whole[1:].astype(np.float64)

    wanted = (index >= 0) & (np.array(quote_type) != _HEARTBEAT) & (sent != 0).any(axis=0)
    refused: list[tuple[int, str, str]] = []
    faults = (
        ((time_ms <= 0) | (time_ms > _TIME_MAX_MS), "malformed", "no time"),
        (~np.isfinite(sent).all(axis=0), "malformed", "a price is no number"),
        ((counts < 0).any(axis=0), "malformed", "a size is negative"),
        (_unit_unknown(ids, currency), "currency_unknown", "prices may be in hundredths"),
    )
    for wrong, reason, detail in faults:
        refused += [(int(row), reason, detail) for row in np.flatnonzero(wrong & wanted)]
        wanted &= ~wrong
    if not wanted.any():
        return None, refused

    rows_kept = slice(None) if wanted.all() else wanted
    sent, counts = sent[:, rows_kept], counts[:, rows_kept]
    stated = sent != 0
    prices = as_meant(sent.ravel()).reshape(sent.shape)
    if not _IN_HUNDREDTHS.isdisjoint(currency):
        in_hundredths = np.array([each in _IN_HUNDREDTHS for each in currency])[rows_kept]
        prices[:, in_hundredths] = hundredths(prices[:, in_hundredths].ravel()).reshape(len(prices), -1)
    last, bid_price, ask_price = np.where(stated, prices, np.nan)
    counts[counts == 0] = np.nan
    counts[1:][~stated[1:]] = np.nan
    batch = TickBatch(
        source=NAME,
        symbols=names.symbols,
        symbol_index=index[rows_kept],
        flags=(BOOK * (stated[1] | stated[2]) + LAST * stated[0]).astype(np.uint8),
        time_event_ns=time_ms[rows_kept] * 1_000_000,
        time_received_ns=time_received_ns[rows_kept],
        bid=bid_price,
        ask=ask_price,
        bid_size=counts[1],
        ask_size=counts[2],
        last=last,
        last_size=np.full(last.size, np.nan),
        volume=counts[0],
    )
    return batch, refused


def _zigzag(varints: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Numbers of the bytes of varints, seven bits in each, with the sign in the lowest."""
    value = np.zeros(varints.shape, np.uint64)
    for byte in range(_LONGEST_VARINT):
        value |= (varints >> np.uint64(byte)) & np.uint64(0x7F << 7 * byte)
    return (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64)


def _unit_unknown(ids: Sequence[bytes], currency: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    if b"" not in currency:
        return np.zeros(len(ids), np.bool_)
    return np.array([not unit and each.endswith(_UNIT_NOT_SAID) for each, unit in zip(ids, currency, strict=True)])


def _quarantined(reason: str, detail: str, time_received_ns: int) -> Quarantined:
    return Quarantined(source=NAME, time_received_ns=time_received_ns, reason=reason, detail=detail[: _SHOWN * 2])
