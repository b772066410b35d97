"""TLCP lines and requests as values. Pure: no clock, no socket, no state.

Specification: "TLCP Specification", <https://lightstreamer.com/sdks/ls-generic-client>. A line that breaks it is a
`MalformedMessage`, whatever it holds; a tag that is not known is none of our business and comes back as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote

from marketd.errors import MalformedMessage

__all__ = ["CLIENT_ID", "DATA_TAGS", "NAME", "Values", "decode_values", "encode", "read_line", "whole"]

NAME = "lightstreamer"

CLIENT_ID = "mgQkwtwdysogQz2BJ4Ji kOj2Bg"
"""What the specification has every client say that is not Lightstreamer's own."""

DATA_TAGS = frozenset({"U", "SUBOK", "SUBCMD", "UNSUB", "EOS", "CS", "OV", "CONF", "MSGDONE", "MSGFAIL"})
"""Lines that count as data notifications: the unit of recovery."""

Values = list[str | None]
"""The fields of an item, None where the server says null. Treat as immutable."""

_ARGUMENTS = {
    "WSOK": 0,
    "CONOK": 4,
    "CONERR": 2,
    "PROG": 1,
    "LOOP": 1,
    "END": 2,
    "REQOK": 1,
    "REQERR": 3,
    "ERROR": 2,
    "SUBOK": 3,
    "SUBCMD": 5,
    "UNSUB": 1,
    "CONF": 3,
    "EOS": 2,
    "CS": 2,
    "OV": 3,
}
"""Of the tags that a session understands. The last argument may hold commas."""

_RUNS = {f"^{count}": ("",) * count for count in range(1, 100)}
_DIGITS_MAX = 15
_UNCHANGED_MAX_DIGITS = 6


def encode(parameters: Mapping[str, str | int]) -> str:
    """A parameter line."""
    return "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())


# CONOK,S1d7c802482843a26T5626355,50000,5000,*
# REQERR,1,-1,Insufficient permissions
def read_line(line: str) -> tuple[str, tuple[str, ...]]:
    """Tag and arguments of a line that is no `U`, percent-decoded. Of a tag that is not known: no arguments."""
    tag, _, rest = line.partition(",")
    count = _ARGUMENTS.get(tag)
    if count is None:
        return tag, ()
    if tag == "REQOK" and not rest:
        return tag, ()  # the answer to a heartbeat
    arguments = rest.split(",", count - 1) if count else []
    if len(arguments) != count:
        raise MalformedMessage(NAME, f"{tag} with {len(arguments)} arguments, not {count}", line)
    if "%" not in rest:
        return tag, tuple(arguments)
    try:
        return tag, tuple(unquote(argument, errors="strict") for argument in arguments)
    except UnicodeDecodeError:
        raise MalformedMessage(NAME, f"{tag} is not UTF-8 when decoded", line) from None


def whole(text: str) -> int:
    """A whole number, with or without a sign."""
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise MalformedMessage(NAME, "not a whole number", text)
    return int(text)


# of "U,3,1,20:00:33|3.04|0.0|2.41|3.67|3.03|3.04|#|#|$" the part after the third comma
# of "U,3,1,20:04:16|3.02|-0.65||^2|3.01|3.02||" the same
def decode_values(text: str, before: Sequence[str | None] | None, count: int) -> Values:
    """The item's fields after an update. before: those it had, None if there was no update yet. count: of fields."""
    if before is None or "%" in text or "#" in text or "$" in text:
        return _decode_any(text, before, count)
    tokens = parts = text.split("|")
    if "^" in text:
        tokens = []
        for part in parts:
            if part[:1] != "^":
                tokens.append(part)
            elif part in _RUNS:
                tokens += _RUNS[part]
            else:
                return _decode_any(text, before, count)
    if len(tokens) != count:
        raise _wrong_count(len(tokens), count, text)
    return [token or old for token, old in zip(tokens, before, strict=True)]


def _decode_any(text: str, before: Sequence[str | None] | None, count: int) -> Values:
    """The same, token by token."""
    values: Values = []
    for part in text.split("|"):
        if not part:
            values += _unchanged(before, len(values), 1, text)
        elif part == "#":
            values.append(None)
        elif part == "$":
            values.append("")
        elif part[0] != "^":
            values.append(_decoded(part, text))
        elif part[1:2] == "T":
            (old,) = _unchanged(before, len(values), 1, text)
            if old is None:
                raise MalformedMessage(NAME, "a difference to null", text)
            values.append(_patched(old, _decoded(part[2:], text)))
        else:
            digits = part[1:]
            if not (digits.isascii() and digits.isdigit() and len(digits) <= _UNCHANGED_MAX_DIGITS):
                raise MalformedMessage(NAME, "a difference in a form that was not agreed", text)
            values += _unchanged(before, len(values), int(digits), text)
    if len(values) != count:
        raise _wrong_count(len(values), count, text)
    return values


def _unchanged(before: Sequence[str | None] | None, start: int, count: int, text: str) -> Sequence[str | None]:
    if before is None:
        raise MalformedMessage(NAME, "an item's first update leaves fields out", text)
    found = before[start : start + count]
    if len(found) != count or not count:
        raise MalformedMessage(NAME, "fields left unchanged that are not there", text)
    return found


def _wrong_count(got: int, count: int, text: str) -> MalformedMessage:
    return MalformedMessage(NAME, f"an update with {got} fields, not {count}", text)


def _decoded(token: str, text: str) -> str:
    if "%" not in token:
        return token
    try:
        return unquote(token, errors="strict")
    except UnicodeDecodeError:
        raise MalformedMessage(NAME, "an update is not UTF-8 when decoded", text) from None


# "fbXf" makes "helloX" of "hello world": copy 5, add 1, delete 5
def _patched(old: str, difference: str) -> str:
    """TLCP-diff: copy, add, delete in turn, each with a number in base 26 whose last digit is in lower case."""
    parts: list[str] = []
    place = at = step = 0
    while place < len(difference):
        number = 0
        while True:
            letter = difference[place : place + 1]
            if not (letter.isascii() and letter.isalpha()):
                raise MalformedMessage(NAME, "a difference without a number", difference)
            number = number * 26 + ord(letter.lower()) - ord("a")
            place += 1
            if letter.islower():
                break
            if number > len(old) + len(difference):
                raise MalformedMessage(NAME, "a difference that reaches beyond its value", difference)
        if step == 1:
            parts.append(difference[place : place + number])
            place += number
            beyond = place > len(difference)
        else:
            if step == 0:
                parts.append(old[at : at + number])
            at += number
            beyond = at > len(old)
        if beyond:
            raise MalformedMessage(NAME, "a difference that reaches beyond its value", difference)
        step = (step + 1) % 3
    return "".join(parts)
