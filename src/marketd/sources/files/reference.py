"""Files of facts other than bars: observations of series with the time they became known, and corporate actions.

Observations: a column of dates (`observation_date`, `date`, `ts`), `value`, and if there are any `known_at` (or
`as_of`, `vintage`), `change` (`withdrawn` takes a value back) and `series`. Actions: `symbol`, `kind` (split,
dividend, rename), `ex_date`, `ratio`, `amount`, `currency`, `new_symbol`, `known_at`. Columns in any order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute

from marketd.errors import InvalidInput
from marketd.model import OBSERVATION_SCHEMA, CorporateAction
from marketd.model.ticks import I64
from marketd.sources.files.numbers import looks_like_number, number_style, numbers
from marketd.sources.files.options import FileOptions
from marketd.sources.files.stamps import NS_PER_DAY, Column, Mask, Stamps, TextForm, best_form, custom_form, text_stamps
from marketd.sources.files.tables import Chunk, Refused, Table, open_table, refused_row, words_of

__all__ = ["ActionsBatch", "ObservationsBatch", "read_actions", "read_observations"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

_DATES = ("observation_date", "date", "ts", "period", "time")
_VALUES = ("value", "obs_value", "observation")
_KNOWN = ("known_at", "as_of", "vintage", "vintage_date", "realtime_start", "release_date")
_EX_DATES = ("ex_date", "exdate", "date", "ex")
_KINDS = {
    "split": "split", "splits": "split", "stock_split": "split",
    "dividend": "dividend", "dividends": "dividend", "div": "dividend", "cash_dividend": "dividend",
    "rename": "rename", "symbol_change": "rename", "name_change": "rename",
}  # fmt: skip
_RATIO = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*[:/]\s*([0-9]+(?:\.[0-9]+)?)")
_TS = pa.timestamp("ns", tz="UTC")


class ObservationsBatch(NamedTuple):
    """table: `OBSERVATION_SCHEMA`. skipped: rows of other series than the one that was asked for."""

    table: pa.Table
    rows: int
    refused: list[Refused]
    skipped: int = 0


class ActionsBatch(NamedTuple):
    actions: list[CorporateAction]
    rows: int
    refused: list[Refused]


def read_observations(
    path: str, series: str, *, provider: str, as_of_ns: int, options: FileOptions | None = None
) -> Iterator[ObservationsBatch]:
    """The observations of a file, a piece at a time.

    series: the name under which they are kept; in a file with a column `series`, the one to take, or `all` for each
    under its own name. as_of_ns: when they became known, in a file that does not tell. A `known_at` that is a date
    without a time counts from the *end* of that day, UTC. Raises InvalidInput naming the column.
    """
    options = options or FileOptions()
    table = open_table(Path(path), options)
    place = {name: _find(table, spellings) for name, spellings in (
        ("date", _DATES), ("value", _VALUES), ("known", _KNOWN), ("change", ("change",)), ("series", ("series",)),
    )}  # fmt: skip
    for name in ("date", "value"):
        if place[name] is None:
            raise InvalidInput(
                f"{path}: columns",
                table.names,
                f"one for the {name} ({', '.join(_DATES if name == 'date' else _VALUES)})",
            )
    date_at, value_at = _place(place["date"]), _place(place["value"])
    forms = {date_at: _form(table, date_at, options)}
    known_at = place["known"]
    if known_at is not None:
        forms[known_at] = _form(table, known_at, FileOptions())
    style = number_style((text for text in table.sample[value_at] if looks_like_number(text)), options.decimal)
    positions = sorted({found for found in place.values() if found is not None})
    for chunk in table.chunks(positions, lambda _: None):
        length = len(chunk.lines)
        reasons = np.full(length, "", object)
        dates = _stamps(chunk.columns[date_at], forms[date_at])
        reasons[~dates.ok] = "bad_time"
        as_of = np.full(length, as_of_ns, np.int64)
        if known_at is not None:
            known = _stamps(chunk.columns[known_at], forms[known_at])
            reasons[~known.ok] = "bad_time"
            as_of = known.ns + np.where(known.clock, 0, NS_PER_DAY)
        values, absent, bad = numbers(chunk.columns[value_at], style)
        withdrawn = np.zeros(length, np.bool_)
        if place["change"] is not None:
            withdrawn = pc.equal(words_of(chunk.columns[place["change"]]), "withdrawn").to_numpy(zero_copy_only=False)
        reasons[(reasons == "") & (bad | (absent & ~withdrawn))] = "not_a_number"
        good = reasons == ""
        skipped = 0
        names = _repeated(series, length)
        if place["series"] is not None:
            told = words_of(chunk.columns[place["series"]])
            if series == "all":
                names = told
            else:
                other = pc.not_equal(told, series).to_numpy(zero_copy_only=False)
                skipped = int((other & good).sum())
                good &= ~other
        keep = pa.array(good)
        kept = pa.Table.from_arrays(
            [
                names.filter(keep),
                pa.array(dates.ns[good]).cast(_TS),
                pa.array(values[good], mask=(withdrawn | absent)[good]),
                _repeated(provider, int(good.sum())),
                pa.array(as_of[good]).cast(_TS),
            ],
            schema=OBSERVATION_SCHEMA,
        )
        refused = chunk.refused + _refused(table, chunk, positions, reasons)
        yield ObservationsBatch(kept, length + len(chunk.refused), refused, skipped)


def read_actions(
    path: str, *, provider: str, as_of_ns: int, options: FileOptions | None = None
) -> Iterator[ActionsBatch]:
    """The corporate actions of a file. as_of_ns: when they became known, in a file that does not tell.

    A ratio is new shares for one old, `7` or `7:1`. Raises InvalidInput naming the column that is missing.
    """
    options = options or FileOptions()
    table = open_table(Path(path), options)
    wanted = {
        "symbol": ("symbol", "ticker"), "kind": ("kind", "type", "action"), "ex_date": _EX_DATES, "known": _KNOWN,
        **{name: (name,) for name in ("ratio", "amount", "currency", "new_symbol")},
    }  # fmt: skip
    place = {name: _find(table, spellings) for name, spellings in wanted.items()}
    for name in ("symbol", "kind", "ex_date"):
        if place[name] is None:
            raise InvalidInput(f"{path}: columns", table.names, f"one named {' or '.join(wanted[name])}")
    forms = {
        name: _form(table, _place(place[name]), options) for name in ("ex_date", "known") if place[name] is not None
    }
    positions = sorted({found for found in place.values() if found is not None})
    for chunk in table.chunks(positions, lambda _: None):
        stamps = {name: _stamps(chunk.columns[_place(place[name])], form) for name, form in forms.items()}
        texts = {
            name: words_of(chunk.columns[found]).to_pylist() if found is not None else [""] * len(chunk.lines)
            for name, found in place.items()
        }
        actions: list[CorporateAction] = []
        refused = list(chunk.refused)
        for at, line in enumerate(chunk.lines.tolist()):
            row = {name: column[at] for name, column in texts.items()}
            moment = {name: int(stamp.ns[at]) if stamp.ok[at] else None for name, stamp in stamps.items()}
            if "known" in stamps and moment["known"] is not None and not stamps["known"].clock[at]:
                moment["known"] += NS_PER_DAY
            try:
                actions.append(_action(row, moment, provider, as_of_ns))
            except ValueError as error:
                refused.append(Refused("bad_action", line, str(error)))
        yield ActionsBatch(actions, len(chunk.lines) + len(chunk.refused), refused)


def _action(row: dict[str, str], moment: dict[str, int | None], provider: str, as_of_ns: int) -> CorporateAction:
    kind = _KINDS.get(re.sub(r"[^a-z]+", "_", row["kind"].lower()).strip("_"))
    if kind is None:
        raise ValueError(f"kind {row['kind']!r} is not split, dividend or rename")
    if not row["symbol"]:
        raise ValueError("the symbol is empty")
    ex_ns = moment["ex_date"]
    if ex_ns is None:
        raise ValueError(f"ex_date {row['ex_date']!r} is not a date")
    known_ns = moment.get("known", as_of_ns)
    if known_ns is None:
        raise ValueError(f"{row['known']!r} is not a time")
    ratio = _ratio(row["ratio"]) if kind == "split" else None
    amount = _amount(row["amount"]) if kind == "dividend" else None
    if kind == "rename" and not row["new_symbol"]:
        raise ValueError("a rename without new_symbol")
    return CorporateAction(
        symbol=row["symbol"],
        kind=kind,  # type: ignore[arg-type]
        ex_ns=ex_ns - ex_ns % NS_PER_DAY,
        provider=provider,
        as_of_ns=known_ns,
        ratio=ratio,
        amount=amount,
        currency=row["currency"] or None,
        new_symbol=row["new_symbol"] or None if kind == "rename" else None,
    )


def _ratio(text: str) -> float:
    match = _RATIO.fullmatch(text)
    value = float(match[1]) / float(match[2]) if match and float(match[2]) else _positive(text, "ratio")
    if value <= 0:
        raise ValueError(f"ratio {text!r} is not above 0")
    return value


def _amount(text: str) -> float:
    return _positive(text, "amount")


def _positive(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} {text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} {text!r} is not a number above 0")
    return value


# --- columns -----------------------------------------------------------------------------------------------


def _find(table: Table, spellings: Sequence[str]) -> int | None:
    plain = [re.sub(r"[^0-9a-z]+", "_", name.strip().lower()).strip("_") for name in table.names]
    return next((plain.index(name) for name in spellings if name in plain), None)


def _place(found: int | None) -> int:
    assert found is not None
    return found


def _form(table: Table, place: int, options: FileOptions) -> TextForm | None:
    """None for a column that has a type of time of its own."""
    texts = [text for text in table.sample[place] if text]
    if options.date_format not in (None, "DD/MM/YYYY", "MM/DD/YYYY"):
        return custom_form(str(options.date_format))
    form = best_form(texts)
    if form is None:
        raise InvalidInput(f"column {table.names[place]}", texts[0] if texts else "", "dates; see --date-format")
    if form.date != "PP/QQ/YYYY":
        return form
    if options.date_format is not None:
        return msgspec.structs.replace(form, day_first=options.date_format.startswith("DD"))
    read = [
        (int(text_stamps(pa.array(texts, pa.string()), one).ok.sum()), one)
        for one in (msgspec.structs.replace(form, day_first=day_first) for day_first in (True, False))
    ]
    if read[0][0] == read[1][0]:
        raise InvalidInput("date_format", texts[0], "told, DD/MM/YYYY or MM/DD/YYYY: every date can be read both ways")
    return max(read, key=lambda pair: pair[0])[1]


def _stamps(column: Column, form: TextForm | None) -> Stamps:
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        clock = pa.types.is_timestamp(column.type)
        ok = column.is_valid().to_numpy(zero_copy_only=False)
        ns = _int64(pc.fill_null(column.cast(pa.timestamp("ns")).cast(pa.int64()), 0))
        return Stamps(ns, ok, np.zeros(len(ns), np.int64), ok & clock, ok)
    assert form is not None
    return text_stamps(words_of(column), form)


def _repeated(text: str, length: int) -> Column:
    return pa.nulls(length, pa.string()).fill_null(text)


def _int64(column: Column) -> I64:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def _refused(table: Table, chunk: Chunk, positions: Sequence[int], reasons: Any) -> list[Refused]:
    bad: Mask = reasons != ""
    return [refused_row(chunk, at, str(reasons[at]), table.names, positions) for at in np.flatnonzero(bad).tolist()]
