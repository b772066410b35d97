"""Protocol Buffers to and from frozen Structs, for the kinds of fields that OpenD's messages have.

Owns the wire encoding (https://protobuf.dev/programming-guides/encoding/). A message is a Struct whose fields say their
number in the annotation:

    class Security(msgspec.Struct, frozen=True):
        market: Annotated[int, 1]
        code: Annotated[str, 2]

int is int32, int64 or an enum, bool a bool, float a double, str and bytes are themselves, a Struct or a list of them is
a message in it, `list[bytes]` are messages as they came, to be read when they are needed, `list[int]` is for requests
only. A field without a default is required. Fields that are not named are skipped, so a Struct names what is used of a
message and no more.
"""

from __future__ import annotations

import struct
import types
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

__all__ = ["decode", "encode"]

T = TypeVar("T", bound=msgspec.Struct)

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_INT, _BOOL, _FLOAT, _STR, _BYTES, _MESSAGE, _MESSAGES, _PARTS, _INTS = range(9)
_KINDS = {int: _INT, bool: _BOOL, float: _FLOAT, str: _STR, bytes: _BYTES}
_WIRE = (_VARINT, _VARINT, _FIXED64, _LENGTH, _LENGTH, _LENGTH, _LENGTH, _LENGTH, _VARINT)
_DOUBLE = struct.Struct("<d")
_VARINT_BITS = 70
_MASK, _SIGN, _WRAP = 2**64 - 1, 2**63, 2**64

_Field = tuple[str, int, Any]
"""name, kind, and for a message its (Struct, fields by tag)."""


def decode(kind: type[T], data: bytes) -> T:
    """The message in `data`. A field whose wire type is another than expected counts as one that is not known.

    Raises ValueError for bytes that are no message, or one that lacks a required field.
    """
    try:
        message: T = _read(kind, _fields(kind), data, 0, len(data))
    except (IndexError, struct.error):
        raise ValueError("the message is cut") from None
    return message


def encode(message: msgspec.Struct) -> bytes:
    """None and an empty list are left out."""
    out = bytearray()
    for tag, (name, kind, _) in _fields(type(message)).items():
        value = getattr(message, name)
        if value is None:
            continue
        if kind == _MESSAGES:
            for item in value:
                _write(out, tag, _BYTES, encode(item))
        elif kind in (_INTS, _PARTS):
            for item in value:
                _write(out, tag, _INT if kind == _INTS else _BYTES, item)
        else:
            _write(out, tag, kind, encode(value) if kind == _MESSAGE else value)
    return bytes(out)


@cache
def _fields(message: type[msgspec.Struct]) -> dict[int, _Field]:
    """By tag: field number × 8 + wire type."""
    fields: dict[int, _Field] = {}
    for name, hint in get_type_hints(message, include_extras=True).items():
        declared, number = get_args(hint)
        if get_origin(declared) in (types.UnionType, None):
            options = [option for option in get_args(declared) if option is not types.NoneType]
            declared = options[0] if options else declared
        inner = get_args(declared)[0] if get_origin(declared) is list else None
        if inner in (int, bytes):
            kind, of = _INTS if inner is int else _PARTS, None
        elif inner is not None:
            kind, of = _MESSAGES, (inner, _fields(inner))
        elif declared in _KINDS:
            kind, of = _KINDS[declared], None
        else:
            kind, of = _MESSAGE, (declared, _fields(declared))
        fields[number << 3 | _WIRE[kind]] = (name, kind, of)
    return fields


def _read(message: type[Any], fields: dict[int, _Field], data: bytes, at: int, end: int) -> Any:
    found: dict[str, Any] = {}
    while at < end:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _varint(data, at - 1)
        wire = tag & 7
        field = fields.get(tag)
        if wire == _FIXED64:
            if field is not None:
                found[field[0]] = _DOUBLE.unpack_from(data, at)[0]
            at += 8
        elif wire == _VARINT:
            value = data[at]
            at += 1
            if value > 127:
                value, at = _varint(data, at - 1)
            if field is not None:
                if value >= _SIGN:
                    value -= _WRAP
                found[field[0]] = value != 0 if field[1] == _BOOL else value
        elif wire == _LENGTH:
            size = data[at]
            at += 1
            if size > 127:
                size, at = _varint(data, at - 1)
            start, at = at, at + size
            if at > end:
                break
            if field is not None:
                name, kind, of = field
                if kind == _STR:
                    found[name] = data[start:at].decode()
                elif kind == _PARTS:
                    found.setdefault(name, []).append(data[start:at])
                elif kind == _MESSAGES:
                    found.setdefault(name, []).append(_read(of[0], of[1], data, start, at))
                elif kind == _MESSAGE:
                    found[name] = _read(of[0], of[1], data, start, at)
                else:
                    found[name] = data[start:at]
        elif wire == _FIXED32:
            at += 4
        else:
            raise ValueError(f"wire type {wire} is none that is in use")
    if at != end:
        raise ValueError("the message is cut")
    try:
        return message(**found)
    except TypeError as error:
        raise ValueError(f"{message.__name__}: {error}") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _VARINT_BITS:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, at
        shift += 7
    raise ValueError("a number of more than ten bytes")


def _write(out: bytearray, tag: int, kind: int, value: Any) -> None:
    _write_varint(out, tag)
    if kind in (_INT, _BOOL):
        _write_varint(out, int(value) & _MASK)
    elif kind == _FLOAT:
        out += _DOUBLE.pack(value)
    else:
        data = value.encode() if kind == _STR else value
        _write_varint(out, len(data))
        out += data


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
