"""Names: ours, and the exchange segment and instrument number that XTS goes by. Pure.

`NSECM:2885` is XTS's name of an instrument here. Ours are, of the instruments master:

    RELIANCE            a share, in the series in which it is mostly traded
    RELIANCE-BE         the same share in another series: the master's description
    NIFTY26JUNFUT       a future or option: the description
    ^NIFTY50            an index: its name without spaces after `^`; ^NSEI and ^NSEBANK are known too
    BSECM:RELIANCE      where an earlier segment of the configuration has the name
    NSECM:2885          anything
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute

from marketd.errors import InvalidInput
from marketd.sources.symbols import SymbolMap

__all__ = ["CASH", "MASTER_SCHEMA", "SEGMENTS", "SEGMENT_NAMES", "Instrument", "Key", "XtsSymbols", "normal"]

pc: Any = pyarrow.compute  # its stubs refuse much of what it accepts

SEGMENTS: dict[str, int] = {"NSECM": 1, "NSEFO": 2, "NSECD": 3, "BSECM": 11, "BSEFO": 12, "MCXFO": 51}
"""Numbers of exchange segments, which requests and messages use, by the names that the master and bars use."""

SEGMENT_NAMES = {number: name for name, number in SEGMENTS.items()}

CASH = ("NSECM", "BSECM")
"""Segments that have indices."""

Key = tuple[int, int]
"""Segment and instrument number: what messages say."""

_WELL_KNOWN = {"^NSEI": "NSECM:26000", "^NSEBANK": "NSECM:26001"}
_SERIES = ("EQ", "BE", "BZ", "SM", "ST")
"""Of several series of one name, the first here has it."""
_THEIRS = re.compile(r"([A-Z]{4,6}):([0-9]{1,15})", re.ASCII)

_COLUMNS: list[pa.Field[Any]] = [
    pa.field("symbol", pa.string(), nullable=False),
    pa.field("segment", pa.string(), nullable=False),
    pa.field("id", pa.int64(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("description", pa.string(), nullable=False),
    pa.field("series", pa.string(), nullable=False),
    pa.field("isin", pa.string()),
    pa.field("lot", pa.float64()),
    pa.field("tick", pa.float64()),
    pa.field("expiry", pa.date32()),
    pa.field("strike", pa.float64()),
    pa.field("right", pa.string()),
]

MASTER_SCHEMA: pa.Schema = pa.schema(_COLUMNS)
"""Instruments. symbol: our name. kind: equity, future, option, spread, index or other. lot: units of a lot. tick: the
smallest price step. right: call or put."""


def normal(symbol: str) -> str:
    """A name as it is looked up: upper case, no spaces around it."""
    return symbol.strip().upper()


class Instrument(msgspec.Struct, frozen=True):
    """segment: a key of `SEGMENTS`. index: it is known to be one, which has no volume."""

    segment: str
    id: int
    index: bool = False

    @property
    def key(self) -> Key:
        return SEGMENTS[self.segment], self.id

    @property
    def name(self) -> str:
        """XTS's name of it here."""
        return f"{self.segment}:{self.id}"


class _Master(NamedTuple):
    """A master and where its rows are, exchanged as a whole."""

    instruments: pa.Table
    row_by_name: dict[str, int]
    row_by_theirs: dict[str, int]


class XtsSymbols(SymbolMap):
    """The table of instruments, searchable. table: our name → `NSECM:2885`; it comes before the master.

    Until the master was fetched (`loaded`), a name that is in neither is taken as it is.
    Raises InvalidInput for a table that names no instrument.
    """

    def __init__(self, table: Mapping[str, str], segments: Sequence[str]) -> None:
        for ours, theirs in table.items():
            if _instrument(theirs) is None or not ours.strip():
                raise InvalidInput("symbol_table", f"{ours}: {theirs}", "names with instruments such as NSECM:2885")
        given = {normal(ours): theirs for ours, theirs in table.items()}
        taken = set(given.values())
        super().__init__({**{o: t for o, t in _WELL_KNOWN.items() if t not in taken}, **given})
        self._segments = tuple(segments)
        self._master = _Master(MASTER_SCHEMA.empty_table(), {}, {})
        self.loaded = False

    @property
    def instruments(self) -> pa.Table:
        """Every instrument of the master, a `MASTER_SCHEMA` table."""
        return self._master.instruments

    def load(self, instruments: pa.Table) -> None:
        """Take a new master: the columns of `MASTER_SCHEMA`, whose `symbol` is given here.

        May be called in another thread: a master of all segments takes a good part of a second.
        """
        self._master = _indexed(_named(instruments, self._segments))
        self.loaded = True

    def find(self, symbol: str) -> Instrument | None:
        """The instrument of a name of ours, None if it is not known (yet)."""
        name = normal(symbol)
        theirs = self._theirs.get(name, name)
        master = self._master
        row = master.row_by_theirs.get(theirs)
        if row is None and (instrument := _instrument(theirs)) is not None:
            return Instrument(instrument.segment, instrument.id, self._ours.get(theirs, "").startswith("^"))
        if row is None:
            row = master.row_by_name.get(name)
        if row is None:
            return None
        segment, number, kind = (master.instruments[column][row].as_py() for column in ("segment", "id", "kind"))
        return Instrument(segment, number, kind == "index")

    def to_provider(self, symbol: str) -> str | None:
        instrument = self.find(symbol)
        if instrument is not None:
            return instrument.name
        return None if self.loaded else normal(symbol)

    def from_provider(self, name: str) -> str | None:
        if name in self._ours:
            return self._ours[name]
        master = self._master
        row = master.row_by_theirs.get(name)
        return name if row is None else str(master.instruments["symbol"][row])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(ours, theirs): the table, then the master."""
        yield from super().__iter__()
        master = self._master
        symbols: list[Any] = master.instruments["symbol"].to_pylist()
        for theirs, row in master.row_by_theirs.items():
            yield symbols[row], theirs

    def search(self, text: str, limit: int = 20) -> pa.Table:
        """Instruments whose symbol, name, description or ISIN holds `text`, as a `MASTER_SCHEMA` table.

        Those called so come first, then those that begin with it, then the shorter symbols.
        """
        wanted = normal(text)
        table = self.instruments
        hit = pa.array(np.zeros(table.num_rows, np.bool_))
        for column in ("symbol", "name", "description", "isin"):
            holds = pc.match_substring(table[column], wanted).combine_chunks()
            hit = pc.or_(hit, pc.fill_null(holds, fill_value=False))
        found = table.filter(hit)
        symbols = found["symbol"]
        rank = pa.table(
            {
                "exact": pc.or_(pc.equal(symbols, wanted), pc.equal(found["name"], wanted)),
                "begins": pc.starts_with(symbols, wanted),
                "length": pc.utf8_length(symbols),
                "symbol": symbols,
            }
        )
        order = [("exact", "descending"), ("begins", "descending"), ("length", "ascending"), ("symbol", "ascending")]
        return found.take(pc.sort_indices(rank, sort_keys=order)[:limit])


def _instrument(theirs: str) -> Instrument | None:
    match = _THEIRS.fullmatch(theirs)
    if match is None or match.group(1) not in SEGMENTS:
        return None
    return Instrument(match.group(1), int(match.group(2)))


def _indexed(table: pa.Table) -> _Master:
    rows = range(table.num_rows)
    symbols: list[Any] = table["symbol"].to_pylist()
    descriptions: list[Any] = table["description"].to_pylist()
    qualified, theirs = (
        pc.binary_join_element_wise(table["segment"], table[column].cast(pa.string()), ":")
        for column in ("description", "id")
    )
    bare = pc.is_in(table["kind"], value_set=pa.array(["equity", "index"]))
    named = pc.if_else(bare, pc.binary_join_element_wise(table["segment"], table["name"], ":"), qualified)
    row_by_name: dict[str, int] = {}
    for names in (descriptions, qualified.to_pylist(), named.to_pylist()):
        row_by_name.update(zip(names[::-1], rows[::-1], strict=True))  # the first row has a name
    row_by_name.update(zip(symbols, rows, strict=True))
    return _Master(table, row_by_name, dict(zip(theirs.to_pylist(), rows, strict=True)))


def _named(instruments: pa.Table, segments: Sequence[str]) -> pa.Table:
    """The table with `symbol`: each name goes to one row, by the order of segments, of series, and of the master."""
    order, series = pa.array(segments), pa.array(_SERIES)
    rank = pa.table(
        {
            "segment": pc.fill_null(pc.index_in(instruments["segment"], value_set=order), len(order)),
            "series": pc.fill_null(pc.index_in(instruments["series"], value_set=series), len(series)),
            "row": pa.array(np.arange(instruments.num_rows)),
        }
    )
    keys = [(column, "ascending") for column in ("segment", "series", "row")]
    table = instruments.take(pc.sort_indices(rank, sort_keys=keys)) if instruments.num_rows else instruments
    index = pc.equal(table["kind"], "index")
    bare = pc.if_else(
        index, pc.binary_join_element_wise("^", pc.replace_substring(table["name"], " ", ""), ""), table["name"]
    )
    takes_bare = _firsts(bare, pc.or_(index, pc.equal(table["kind"], "equity")))
    description = table["description"]
    free = pc.invert(pc.is_in(description, value_set=bare.filter(takes_bare).combine_chunks()))
    takes_description = _firsts(description, pc.and_(free, pc.invert(takes_bare)))
    theirs = pc.binary_join_element_wise(table["segment"], table["id"].cast(pa.string()), ":")
    symbol = pc.if_else(takes_bare, bare, pc.if_else(takes_description, description, theirs))
    columns = {name: table[name] for name in MASTER_SCHEMA.names if name != "symbol"} | {"symbol": symbol}
    named = pa.table({name: columns[name] for name in MASTER_SCHEMA.names}).cast(MASTER_SCHEMA)
    return named.combine_chunks()


def _firsts(texts: pa.ChunkedArray[Any], allowed: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """Whether each row is the first of the allowed ones that has its text."""
    rows = np.flatnonzero(allowed.to_numpy(zero_copy_only=False))
    places: pa.Array[Any] = pa.array(rows)
    values = texts.take(places).to_pylist()
    first = dict(zip(values[::-1], rows[::-1].tolist(), strict=True))
    taken = np.zeros(len(texts), np.bool_)
    taken[list(first.values())] = True
    return pa.array(taken)
