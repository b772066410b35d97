"""What to replay and how fast. Checked here without touching the disk; files are looked at by `ReplaySource`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from marketd.errors import InvalidInput
from marketd.model import Interval, parse_ns

__all__ = ["COLUMNS", "Kind", "ReplayConfig", "ReplayFile", "TimeUnit"]

Kind = Literal["quotes", "trades", "ticks", "bars", "recording"]
"""quotes: book rows. trades: executions. ticks: both, row by row. bars: four ticks a bar. recording: what
`Recorder` wrote as JSON lines."""

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "rfc3339"]

_SIDES = ("bid", "ask")
_OHLC = ("open", "high", "low", "close")
COLUMNS: tuple[str, ...] = (
    "time_event",
    "time_received",
    "symbol",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "last",
    "last_size",
    "volume",
    "trade_id",
    "aggressor",
    "flags",
    *_OHLC,
    *(f"{side}_{price}" for side in _SIDES for price in _OHLC),
)
"""Names a column mapping may use on its left."""


class ReplayFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file. Everything but `path` is guessed from the header and the first rows when not given.

    path: `.csv`, `.csv.gz`, `.jsonl`, `.jsonl.gz` or `.parquet`. symbol: the symbol of every row; without it the
    `symbol` column, and without one the file's name (see `layout.symbol_from_name`). columns: ours → theirs, for
    names that are not guessed. time_unit: of the event time; auto is the column's suffix, else its magnitude.
    timezone: IANA name for times written without an offset; without it such times are refused. interval: of bars;
    guessed from their spacing. delimiter: of CSV; guessed from the header.
    """

    path: str
    symbol: str | None = None
    kind: Kind | None = None
    columns: dict[str, str] = {}
    time_unit: TimeUnit = "auto"
    timezone: str | None = None
    interval: str | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise InvalidInput("path", self.path, "the path of a file")
        if self.symbol is not None and not self.symbol.strip():
            raise InvalidInput("symbol", self.symbol, "a symbol, or nothing to take it from the file")
        for ours in self.columns:
            if ours not in COLUMNS:
                raise InvalidInput("columns", ours, f"one of {', '.join(COLUMNS)}")
        if self.timezone is not None:
            try:
                ZoneInfo(self.timezone)
            except (KeyError, ValueError, OSError):
                raise InvalidInput("timezone", self.timezone, "an IANA time zone such as America/New_York") from None
        if self.interval is not None:
            try:
                Interval.parse(self.interval)
            except ValueError as error:
                raise InvalidInput("interval", self.interval, str(error)) from None
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise InvalidInput("delimiter", self.delimiter, "one character")

    @staticmethod
    def parse(text: str) -> ReplayFile:
        """The command line's form, `PATH` or `PATH=SYMBOL`. A path that exists as written is never cut at its `=`."""
        path, equals, symbol = text.rpartition("=")
        if not equals or "/" in symbol or Path(text).exists():
            return ReplayFile(path=text)
        return ReplayFile(path=path, symbol=symbol)


class ReplayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files, merged by event time, and the pace.

    speed: 1.0 is the original pace, N is N times faster, None as fast as the reader takes it.
    times: kept gives the event times of the files; shifted gives the first event the time of now and keeps the
    spacing, divided by `speed` (without a speed each batch is stamped when it goes out). loop: start over at the
    end. start, end: RFC 3339; only what lies in [start, end) is replayed. batch_rows: at most so many rows a batch.
    """

    files: tuple[ReplayFile, ...]
    speed: float | None = 1.0
    times: Literal["kept", "shifted"] = "kept"
    loop: bool = False
    start: str | None = None
    end: str | None = None
    batch_rows: int = 16_384

    def __post_init__(self) -> None:
        if not self.files:
            raise InvalidInput("files", self.files, "at least one file")
        if self.speed is not None and not (math.isfinite(self.speed) and self.speed > 0):
            raise InvalidInput("speed", self.speed, "a number above 0, or nothing for as fast as it can be read")
        if self.batch_rows < 1:
            raise InvalidInput("batch_rows", self.batch_rows, "1 or more")
        if self.start_ns is not None and self.end_ns is not None and self.start_ns >= self.end_ns:
            raise InvalidInput("end", self.end, f"a time after start, {self.start}")

    @property
    def start_ns(self) -> int | None:
        return _time("start", self.start)

    @property
    def end_ns(self) -> int | None:
        return _time("end", self.end)


def _time(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_ns(text)
    except ValueError as error:
        raise InvalidInput(field, text, str(error)) from None
