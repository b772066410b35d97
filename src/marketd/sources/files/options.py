"""What a person may say about a file of bars; everything else is found out from the file."""

from __future__ import annotations

import msgspec

from marketd.errors import InvalidInput
from marketd.model import Interval, parse_ns
from marketd.sources.files.stamps import NS_PER_UNIT, custom_form, zone_table

__all__ = ["FILE_COLUMNS", "FileOptions"]

PRICES = ("open", "high", "low", "close")
EXTRAS = ("volume", "vwap", "trades")
SIDES = ("trade", "bid", "ask")
WORDS = ("symbol", "interval", "side", "provider", "status")
FILE_COLUMNS: tuple[str, ...] = (
    *("ts", "end", "date", "time"),
    *WORDS,
    "as_of",
    *PRICES,
    *EXTRAS,
    *(f"{side}_{price}" for side in SIDES[1:] for price in (*PRICES, "volume")),
)
"""Names a mapping of columns may use on its left."""

_DATE_FORMATS = ("DD/MM/YYYY", "MM/DD/YYYY")


class FileOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbol, interval, side: of every bar, else the file's columns or name tell, or spacing does. timezone: IANA name
    for times without an offset, and for the dates of daily bars. stamp: start or end of the bar. date_format:
    `DD/MM/YYYY`, `MM/DD/YYYY`, strptime directives, or s, ms, us, ns for numbers since 1970. columns: ours → theirs
    (a name, or a number from 1 in a file without a header). decimal: the decimal mark. provider: under which the bars
    are kept; by default the file's own column, else `file`. adjusted: the prices are adjusted for splits or dividends
    already: `:adjusted` is added to the provider, so they never take the place of raw prices. as_of: when the bars
    became known, RFC 3339, or `file` for its column `as_of`; by default the time of the import.
    """

    symbol: str | None = None
    interval: str | None = None
    side: str | None = None
    provider: str | None = None
    timezone: str | None = None
    stamp: str | None = None
    date_format: str | None = None
    columns: dict[str, str] = {}
    delimiter: str | None = None
    decimal: str | None = None
    adjusted: bool = False
    as_of: str | None = None

    def __post_init__(self) -> None:
        for field in ("symbol", "provider"):
            value = getattr(self, field)
            if value is not None and not value.strip():
                raise InvalidInput(field, value, "a name that is not empty")
        if self.interval is not None:
            try:
                Interval.parse(self.interval)
            except ValueError as error:
                raise InvalidInput("interval", self.interval, str(error)) from None
        if self.side is not None and self.side not in SIDES:
            raise InvalidInput("side", self.side, f"one of {', '.join(SIDES)}")
        if self.timezone is not None:
            zone_table(self.timezone)
        if self.stamp not in (None, "start", "end"):
            raise InvalidInput("stamp", self.stamp, "start or end")
        if self.date_format is not None and self.date_format not in (*_DATE_FORMATS, *NS_PER_UNIT):
            custom_form(self.date_format)
        for ours in self.columns:
            if ours not in FILE_COLUMNS:
                raise InvalidInput("column", ours, f"one of {', '.join(FILE_COLUMNS)}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise InvalidInput("delimiter", self.delimiter, "one character")
        if self.decimal not in (None, ".", ","):
            raise InvalidInput("decimal", self.decimal, ". or ,")
        if self.as_of not in (None, "file"):
            try:
                parse_ns(str(self.as_of))
            except ValueError as error:
                raise InvalidInput("as_of", self.as_of, f"{error}, or the word file") from None
