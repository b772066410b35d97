"""The universe: which instruments there are, what each was called when, and how closely each is watched.

Owns the columns of a universe file (`docs/universe.md`), the filling of tiers, and the finding of an instrument by a
name it has or had. Refuses to keep anything (`Records.save_universe` does) and to guess: a row that could be meant in
two ways is an error with its line. A new column is a field of `UniverseRow` and a line in `_COLUMNS`.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from marketd.errors import InvalidInput
from marketd.model import Instrument, Name, Tier, format_ns, parse_ns
from marketd.store.record_checks import checked_name
from marketd.store.records import Records, UniverseVersion

__all__ = [
    "TierMaxs",
    "Universe",
    "UniverseChanges",
    "UniverseConfig",
    "UniverseFile",
    "UniverseLoad",
    "UniverseRow",
    "changes",
    "fill_tiers",
    "instruments_of",
    "read_universe",
    "universe_csv",
    "update_universe",
]

_TIERS: tuple[Tier, ...] = get_args(Tier)
_BYTES_MAX = 256 * 2**20


class TierMaxs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many instruments a tier takes; the rest go to T2."""

    T0: int = 1_200
    T1: int = 3_000

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) < 0:
                raise InvalidInput(field, getattr(self, field), "a number of instruments, 0 or more")


class UniverseConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tier_maxs: TierMaxs = TierMaxs()


class UniverseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a universe file; None: the file does not say. `docs/universe.md` tells what each means."""

    line: int
    symbol: str
    id: str | None = None
    exchange: str | None = None
    asset_class: str = "equity"
    currency: str | None = None
    tier: Tier | None = None
    active: bool = True
    rank: int | None = None
    volume: float | None = None
    former_names: tuple[Name, ...] | None = None
    renamed_from: str | None = None
    renamed_on: int | None = None


class UniverseFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. warnings: what was passed over, a sentence each."""

    name: str
    rows: tuple[UniverseRow, ...]
    warnings: tuple[str, ...] = ()


# --- reading a file --------------------------------------------------------------------------------------------------


def _truth(text: str) -> bool:
    truths = {"true": True, "1": True, "yes": True, "y": True, "false": False, "0": False, "no": False, "n": False}
    if text.lower() not in truths:
        raise ValueError("true or false")
    return truths[text.lower()]


def _tier(text: str) -> Tier:
    if text.upper() not in _TIERS:
        raise ValueError(f"one of {', '.join(_TIERS)}, or nothing to fill it by rank")
    return cast("Tier", text.upper())


def _rank(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) >= 1):
        raise ValueError("a whole number, 1 for the most liquid")
    return int(text)


def _volume(text: str) -> float:
    try:
        volume = float(text)
    except ValueError:
        volume = -1.0
    if not (math.isfinite(volume) and volume >= 0):
        raise ValueError("a number, 0 or more")
    return volume


def _time(text: str) -> int:
    try:
        return parse_ns(text)
    except ValueError as error:
        raise ValueError("a date such as 2022-06-09, or a time with its UTC offset") from error


def _former_names(text: str) -> tuple[Name, ...]:
    """`FB@2012-05-18/2022-06-09|META@…`: each name with when it ended, or from when to when."""
    allowed = "names as FB@2022-06-09 or FB@2012-05-18/2022-06-09, oldest first, with | between them"
    names: list[Name] = []
    for part in text.split("|"):
        symbol, _, span = part.strip().rpartition("@")
        start, _, end = span.rpartition("/")
        try:
            name = Name(symbol=symbol.strip(), start_ns=_time(start) if start else None, end_ns=_time(end))
        except ValueError as error:
            raise ValueError(allowed) from error
        begins_ns = names[-1].end_ns if names else None
        follows = begins_ns is None or (name.start_ns or begins_ns) >= begins_ns
        if not name.symbol or not follows or (name.start_ns is not None and name.start_ns >= cast("int", name.end_ns)):
            raise ValueError(allowed)
        names.append(name)
    return tuple(names)


_COLUMNS: dict[str, Callable[[str], Any]] = {
    "symbol": str,
    "id": str,
    "exchange": str,
    "asset_class": str.lower,
    "currency": str,
    "tier": _tier,
    "active": _truth,
    "rank": _rank,
    "volume": _volume,
    "former_names": _former_names,
    "renamed_from": str,
    "renamed_on": _time,
}
_ALIASES = {"ticker": "symbol", "mic": "exchange"}
_NAMES = ("symbol", "id", "exchange", "asset_class", "currency", "renamed_from")


def read_universe(path: Path) -> UniverseFile:
    """What a CSV file says (`.gz` is unpacked). Raises InvalidInput naming line and column."""
    try:
        packed = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(packed)) as unpacked:
                packed = unpacked.read(_BYTES_MAX + 1)
    except (OSError, EOFError) as error:
        raise InvalidInput(
            "file", str(path), f"a readable file ({getattr(error, 'strerror', None) or error})"
        ) from error
    if len(packed) > _BYTES_MAX:
        raise InvalidInput("file", str(path), f"a file of at most {_BYTES_MAX:,} bytes")
    try:
        text = packed.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput("file", str(path), f"UTF-8 text (byte {error.start} is none)") from error
    return parse_universe(path.name, text)


def parse_universe(name: str, text: str) -> UniverseFile:
    """What the text of a CSV file says. name: for messages. Raises InvalidInput naming line and column."""
    # the column names tell the delimiter: none of them has one in it
    head = next((line for line in text.splitlines() if line.strip()), "")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        cells = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidInput(f"{name} line {lines.line_num}", str(error), "lines of CSV") from error
    columns, warnings = _columns(name, cells[0][1] if cells else [])
    rows = tuple(_row(name, line, columns, row) for line, row in cells[1:])
    _refuse_doubles(name, rows)
    return UniverseFile(name=name, rows=rows, warnings=tuple(warnings))


def _columns(name: str, header: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """The column that each cell of a row belongs to, None for those that are passed over."""
    warnings = []
    columns: list[str | None] = []
    for cell in header:
        spelled = cell.strip().lower().replace(" ", "_").replace("-", "_")
        column = _ALIASES.get(spelled, spelled)
        if column in columns:
            raise InvalidInput(f"{name} line 1", cell, f"each column once; {column} is there twice")
        if column not in _COLUMNS:
            warnings.append(f"column {cell.strip()!r} is not known and was passed over")
        columns.append(column if column in _COLUMNS else None)
    if "symbol" not in columns:
        raise InvalidInput(f"{name} line 1", list(header), f"column names: symbol, and any of {', '.join(_COLUMNS)}")
    return columns, warnings


def _row(name: str, line: int, columns: Sequence[str | None], row: Sequence[str]) -> UniverseRow:
    if len(row) != len(columns):
        raise InvalidInput(f"{name} line {line}", row, f"{len(columns)} cells, as the first line has")
    given: dict[str, Any] = {}
    for column, cell in zip(columns, map(str.strip, row), strict=True):
        if column is None or not cell:
            continue
        try:
            given[column] = _COLUMNS[column](cell)
        except ValueError as error:
            raise InvalidInput(f"{name} line {line}: {column}", cell, str(error)) from error
    where = f"{name} line {line}: "
    for column in _NAMES:
        if column in given or column == "symbol":
            checked_name(where + column, given.get(column, ""))
    for former in given.get("former_names", ()):
        checked_name(where + "former_names", former.symbol)
    if given.get("renamed_from") == given["symbol"]:
        raise InvalidInput(where + "renamed_from", given["symbol"], "the name that the symbol had before")
    if "renamed_on" in given and "renamed_from" not in given:
        raise InvalidInput(where + "renamed_on", format_ns(given["renamed_on"]), "renamed_from beside it")
    return UniverseRow(line=line, **given)


def _refuse_doubles(name: str, rows: Sequence[UniverseRow]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for row in rows:
        for column, value in (("symbol", row.symbol if row.active else None), ("id", row.id)):
            if value is None:
                continue
            first = lines.setdefault((column, value), row.line)
            if first != row.line:
                raise InvalidInput(f"{name} line {row.line}: {column}", value, f"one that line {first} does not have")


# --- from a file to a universe ---------------------------------------------------------------------------------------


def instruments_of(
    file: UniverseFile, present: Sequence[Instrument], config: UniverseConfig, as_of_ns: int
) -> tuple[Instrument, ...]:
    """The universe that the file describes, after the present one: ids and names go on, tiers are filled.

    as_of_ns: when a rename happened whose day the file does not say. Raises InvalidInput naming line and column.
    """
    by_id = {i.id: i for i in present}
    by_symbol = {i.symbol: i for i in sorted(present, key=lambda i: i.active)}  # an active one comes last and stays
    chosen = _ids(file, by_id, by_symbol, as_of_ns)
    ranks = _ranks(file.rows)
    instruments = [
        Instrument(
            id=id_,
            symbol=row.symbol,
            exchange=row.exchange,
            asset_class=row.asset_class,
            currency=row.currency,
            tier=row.tier or "T2",
            active=row.active,
            rank=ranks.get(row.line),
            names=_names(row, by_id.get(id_), as_of_ns),
        )
        for id_, row in chosen.items()
    ]
    explicit = {id_ for id_, row in chosen.items() if row.tier is not None}
    return tuple(sorted(fill_tiers(instruments, config, explicit), key=lambda i: (i.symbol, i.id)))


def _ids(
    file: UniverseFile, by_id: dict[str, Instrument], by_symbol: dict[str, Instrument], as_of_ns: int
) -> dict[str, UniverseRow]:
    """Each row under the id of its instrument: said by the file, or of the one it continues, or a new one."""
    chosen: dict[str, UniverseRow] = {}

    def choose(id_: str, row: UniverseRow) -> None:
        if id_ in chosen:
            column = "id" if row.id else "renamed_from" if row.renamed_from else "symbol"
            allowed = f"an instrument that line {chosen[id_].line} is not already (id {id_!r})"
            raise InvalidInput(f"{file.name} line {row.line}: {column}", getattr(row, column), allowed)
        chosen[id_] = row

    def is_done(row: UniverseRow) -> bool:
        """Whether the present instrument of that symbol had the former name already: the file was loaded before."""
        now = by_symbol.get(row.symbol)
        return now is not None and any(name.symbol == row.renamed_from for name in now.names)

    # what is said comes before what is concluded: a name may have passed from one instrument to another
    for row in file.rows:
        if row.id is not None:
            choose(row.id, row)
    for row in file.rows:
        if row.id is None and row.renamed_from is not None:
            before = by_symbol.get(row.symbol if is_done(row) else row.renamed_from)
            choose(row.renamed_from if before is None else before.id, row)
    new = []
    for row in sorted(file.rows, key=lambda row: not row.active):
        if row.id is None and row.renamed_from is None:
            before = by_symbol.get(row.symbol)
            if before is None or before.id in chosen:
                new.append(row)
            else:
                choose(before.id, row)
    for row in new:
        id_ = row.symbol
        if id_ in chosen or id_ in by_id:  # somebody else began under this name
            id_ = f"{row.symbol}@{format_ns(as_of_ns)[:10]}"
        choose(id_, row)
    return chosen


def _ranks(rows: Sequence[UniverseRow]) -> dict[int, int]:
    """Rank by line: those that are given, and after them one for each row with a volume, the highest first."""
    ranks = {row.line: row.rank for row in rows if row.rank is not None}
    by_volume = sorted(
        ((row.volume, row) for row in rows if row.rank is None and row.volume is not None),
        key=lambda pair: (-pair[0], pair[1].symbol),
    )
    return ranks | {row.line: place for place, (_, row) in enumerate(by_volume, max(ranks.values(), default=0) + 1)}


def _names(row: UniverseRow, before: Instrument | None, as_of_ns: int) -> tuple[Name, ...]:
    """Earlier names: as the file says, else those known before, and the last one if it is another now."""
    if row.former_names is not None:
        return row.former_names
    names = () if before is None else before.names
    last = row.renamed_from if before is None else before.symbol
    if last is None or last == row.symbol:
        return names
    end_ns = as_of_ns if row.renamed_on is None else row.renamed_on
    return (*names, Name(symbol=last, start_ns=names[-1].end_ns if names else None, end_ns=end_ns))


def fill_tiers(
    instruments: Sequence[Instrument], config: UniverseConfig, explicit: set[str] | frozenset[str] = frozenset()
) -> tuple[Instrument, ...]:
    """The instruments, in their order, with tiers: active ones fill T0, then T1, by rank, and the rest is T2.

    explicit: ids of those that keep the tier they have; they take places of it, and may be more than it has.
    """
    places = {"T0": config.tier_maxs.T0, "T1": config.tier_maxs.T1}
    for instrument in instruments:
        if instrument.id in explicit and instrument.active and instrument.tier in places:
            places[instrument.tier] -= 1
    t0, t1 = max(0, places["T0"]), max(0, places["T1"])
    waiting = sorted(
        (i for i in instruments if i.active and i.id not in explicit),
        key=lambda i: (math.inf if i.rank is None else i.rank, i.symbol, i.id),
    )
    tiers: dict[str, Tier] = dict.fromkeys((i.id for i in waiting[:t0]), "T0")
    tiers |= dict.fromkeys((i.id for i in waiting[t0 : t0 + t1]), "T1")
    return tuple(i if i.id in explicit else msgspec.structs.replace(i, tier=tiers.get(i.id, "T2")) for i in instruments)


# --- what changed ----------------------------------------------------------------------------------------------------


class UniverseChanges(msgspec.Struct, frozen=True, kw_only=True):
    """From one universe to another. added, removed: symbols. renamed: (old, new). tiers: (symbol, old, new).

    others: instruments that differ in something else alone, by symbol.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    tiers: tuple[tuple[str, Tier, Tier], ...] = ()
    others: tuple[str, ...] = ()


def changes(before: Sequence[Instrument], after: Sequence[Instrument]) -> UniverseChanges:
    old, new = ({i.id: i for i in instruments} for instruments in (before, after))
    both = sorted(((old[i], new[i]) for i in old.keys() & new.keys()), key=lambda pair: (pair[1].symbol, pair[1].id))
    return UniverseChanges(
        added=tuple(sorted(new[i].symbol for i in new.keys() - old.keys())),
        removed=tuple(sorted(old[i].symbol for i in old.keys() - new.keys())),
        renamed=tuple((was.symbol, now.symbol) for was, now in both if was.symbol != now.symbol),
        tiers=tuple((now.symbol, was.tier, now.tier) for was, now in both if was.tier != now.tier),
        others=tuple(
            now.symbol for was, now in both if was != now and was.symbol == now.symbol and was.tier == now.tier
        ),
    )


class UniverseLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a file. version: None if nothing was kept."""

    instruments: tuple[Instrument, ...]
    changes: UniverseChanges
    version: UniverseVersion | None
    warnings: tuple[str, ...]


def update_universe(
    records: Records, file: UniverseFile, config: UniverseConfig, *, as_of_ns: int, dry_run: bool = False
) -> UniverseLoad:
    """Make the file the universe, or with `dry_run` only say what would change.

    Raises InvalidInput naming line and column, StoreError.
    """
    present = records.universe()
    instruments = instruments_of(file, present, config, as_of_ns)
    version = None if dry_run else records.save_universe(instruments, source=file.name, as_of_ns=as_of_ns)
    return UniverseLoad(
        instruments=instruments, changes=changes(present, instruments), version=version, warnings=file.warnings
    )


# --- finding and writing ---------------------------------------------------------------------------------------------


class Universe:
    """Instruments by id, and by name at a time. Immutable."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self.instruments = tuple(instruments)
        self._by_id = {i.id: i for i in self.instruments}
        self._holders: dict[str, list[tuple[Name, Instrument]]] = {}
        for instrument in self.instruments:
            for name in _all_names(instrument):
                self._holders.setdefault(name.symbol, []).append((name, instrument))

    def get(self, id_: str) -> Instrument | None:
        return self._by_id.get(id_)

    def resolve(self, symbol: str, at_ns: int | None = None) -> Instrument | None:
        """The instrument that had this name then, by default the one that has it still; None if there is none.

        Of several, the active one, then the one that had taken the name last.
        """
        holders = [
            (instrument.active, -math.inf if name.start_ns is None else name.start_ns, instrument)
            for name, instrument in self._holders.get(symbol, ())
            if (name.end_ns is None if at_ns is None else _is_in(name, at_ns))
        ]
        return max(holders, key=lambda holder: holder[:2])[2] if holders else None

    def symbol_at(self, id_: str, at_ns: int) -> str | None:
        """What the instrument was called then; None if it is not known, or had no name that we know."""
        instrument = self._by_id.get(id_)
        if instrument is None:
            return None
        return next((name.symbol for name in reversed(_all_names(instrument)) if _is_in(name, at_ns)), None)


def _all_names(instrument: Instrument) -> tuple[Name, ...]:
    """Earlier names and the present one, oldest first."""
    start_ns = instrument.names[-1].end_ns if instrument.names else None
    return (*instrument.names, Name(symbol=instrument.symbol, start_ns=start_ns))


def _is_in(name: Name, at_ns: int) -> bool:
    return (name.start_ns is None or name.start_ns <= at_ns) and (name.end_ns is None or at_ns < name.end_ns)


_WRITTEN = ("symbol", "id", "exchange", "asset_class", "currency", "tier", "active", "rank", "former_names")


def universe_csv(instruments: Sequence[Instrument]) -> str:
    """The instruments as a universe file, with every tier and every name said: read again, it says the same."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_WRITTEN)
    writer.writerows(map(_cells, instruments))
    return text.getvalue()


def _cells(instrument: Instrument) -> Iterator[str]:
    for column in _WRITTEN:
        value = instrument.names if column == "former_names" else getattr(instrument, column)
        if column == "former_names":
            yield "|".join(map(_written_name, instrument.names))
        elif isinstance(value, bool):
            yield str(value).lower()
        else:
            yield "" if value is None else str(value)


def _written_name(name: Name) -> str:
    start = "" if name.start_ns is None else f"{_written_time(name.start_ns)}/"
    return f"{name.symbol}@{start}{_written_time(cast('int', name.end_ns))}"


def _written_time(time_ns: int) -> str:
    return format_ns(time_ns).removesuffix("T00:00:00Z")
