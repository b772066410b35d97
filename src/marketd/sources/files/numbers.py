"""Numbers as people write them in files, whole columns at a time: thousands separators, decimal commas, `$`, `1.2M`.

Pure. Which mark is the decimal one is decided once a file, from all its columns, and asked for when they do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from marketd.errors import InvalidInput
from marketd.model.ticks import F64

__all__ = ["PLAIN", "NumberStyle", "looks_like_number", "number_style", "numbers"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

Column = Any
Mask = npt.NDArray[np.bool_]

_ABSENT = pa.array(["", "null", "none", "nan", "na", "n/a", "#n/a", "-", "--", "."])
_SPACES = " \u00a0\u202f'’_"
_CURRENCY = "$€£¥"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_LOOKS = re.compile(rf"[{_CURRENCY}]?[+-]?[{_CURRENCY}]?[0-9.,{_SPACES}]*[0-9][0-9.,]*(?:[eE][+-]?[0-9]+)?[KMBkmb]?")
_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9}


class NumberStyle(msgspec.Struct, frozen=True, kw_only=True):
    """decimal: the mark before the decimals. thousands: the mark between groups of three digits, None if unused."""

    decimal: str = "."
    thousands: str | None = None


PLAIN = NumberStyle()


def looks_like_number(text: str) -> bool:
    return _LOOKS.fullmatch(text.strip()) is not None


def number_style(texts: Iterable[str], decimal: str | None) -> NumberStyle:
    """The style in which all of these texts are numbers. decimal: as told.

    Raises InvalidInput naming a text for which two readings are left (`1,234`), or when they contradict one another.
    """
    votes: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    group: str | None = None
    for text in texts:
        body = text.strip().strip(_CURRENCY).lstrip("+-")
        for space in _SPACES:
            if space in body.strip():
                group = space
                body = body.replace(space, "")
        commas, dots = body.count(","), body.count(".")
        if commas and dots:
            votes.setdefault("," if body.rfind(",") > body.rfind(".") else ".", text)
            group = group or ("." if body.rfind(",") > body.rfind(".") else ",")
        elif commas > 1:
            votes.setdefault(".", text)
            group = group or ","
        elif dots > 1:
            votes.setdefault(",", text)
            group = group or "."
        elif commas or dots:
            mark = "," if commas else "."
            whole, _, decimals = body.partition(mark)
            grouped = len(decimals) == 3 and 1 <= len(whole) <= 3 and decimals.isdigit() and whole != "0"
            (doubtful if grouped else votes).setdefault(mark, text)
    if decimal is None:
        if len(votes) > 1:
            raise InvalidInput("decimal", tuple(votes.values()), "the decimal mark told: . or ,")
        if not votes and "," in doubtful:
            raise InvalidInput("decimal", doubtful[","], "the decimal mark told, . or ,: this is 1234 or 1.234")
        decimal = next(iter(votes), ".")
    other = "," if decimal == "." else "."
    if group is None and other in doubtful:
        group = other
    return NumberStyle(decimal=decimal, thousands=None if group == decimal else group)


def numbers(column: Column, style: NumberStyle = PLAIN) -> tuple[F64, Mask, Mask]:
    """A column of texts or numbers as doubles (the nearest to the text); which are absent; which are no numbers.

    Absent is NaN. What is no number, or infinite, is marked in the last array.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan), np.ones(len(column), np.bool_), np.zeros(len(column), np.bool_)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            return np.full(len(column), np.nan), np.zeros(len(column), np.bool_), np.ones(len(column), np.bool_)
        plain = pc.cast(column, pa.float64(), safe=False)
        return _finished(plain, np.zeros(len(column), np.bool_))
    text = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    absent = pc.is_in(pc.utf8_lower(text), value_set=_ABSENT)
    text = pc.if_else(absent, pa.scalar(None, pa.string()), text)
    if style == PLAIN:
        try:
            return _finished(pc.cast(text, pa.float64()), np.zeros(len(text), np.bool_))
        except pa.ArrowInvalid:
            pass
    return _carefully(text, style)


def _finished(values: Column, bad: Mask) -> tuple[F64, Mask, Mask]:
    result = values.to_numpy(zero_copy_only=False).astype(np.float64)
    absent = np.isnan(result) & ~bad
    return result, absent, bad | np.isinf(result)


def _carefully(text: Column, style: NumberStyle) -> tuple[F64, Mask, Mask]:
    present = text.is_valid().to_numpy(zero_copy_only=False)
    text = pc.replace_substring_regex(text, f"^([+-]?)[{_CURRENCY}] ?", r"\1")
    text = pc.replace_substring_regex(text, f" ?[{_CURRENCY}]$", "")
    scale = np.ones(len(text))
    last = pc.utf8_lower(pc.utf8_slice_codeunits(pc.fill_null(text, ""), -1))
    for suffix, factor in _SUFFIXES.items():
        scale[pc.equal(last, suffix).to_numpy(zero_copy_only=False)] = factor
    text = pc.replace_substring_regex(text, "([0-9])[KMBkmb]$", r"\1")
    if style.thousands is not None:
        mark = re.escape(style.thousands)
        grouped = pc.match_substring_regex(text, rf"^[+-]?[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+(?:[{style.decimal}]|$)")
        text = pc.if_else(grouped, pc.replace_substring(text, style.thousands, ""), text)
    if style.decimal == ",":
        text = pc.if_else(pc.match_substring(text, "."), "?", text)  # a dot that is no mark of a group
        text = pc.replace_substring(text, ",", ".", max_replacements=1)
    number = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
    values = pc.cast(pc.if_else(number, text, pa.scalar(None, pa.string())), pa.float64())
    result = values.to_numpy(zero_copy_only=False).astype(np.float64) * scale
    bad = present & ~number.to_numpy(zero_copy_only=False)
    return result, ~present, bad | np.isinf(result)
