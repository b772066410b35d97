"""The one tree of errors. Fields are set in ``__init__``, words are made in ``__str__``.

    MarketDataError
    ├── InvalidInput          the caller's fault: names the field, the value and what is allowed
    │   ├── ConfigError       the same for a file or the environment: adds where it was read
    │   └── UnknownSymbol     adds near matches
    ├── SourceError           the provider's fault, or what it has to say
    │   ├── SourceRejected    retrying cannot cure it
    │   │   ├── NotEntitled   the key is missing or wrong, or does not cover what was asked for
    │   │   ├── SymbolNotFound  the provider does not have the symbol
    │   │   ├── OutOfRange    it has the symbol, but not that interval or time
    │   │   └── MarketClosed  there is nothing now because the market is closed
    │   ├── SourceUnavailable retrying may cure it (network, 5xx)
    │   │   └── Throttled     we ask too often; later it answers again
    │   └── MalformedMessage  the provider sent what its documentation rules out
    └── StoreError            our disk's or our database's fault
        ├── StoreLocked       another process owns the data directory
        └── StoreCorrupt      bytes on disk are not what was written

Every error answers two questions: whose fault (the branch) and try again or not (``retryable``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "ConfigError",
    "InvalidInput",
    "MalformedMessage",
    "MarketClosed",
    "MarketDataError",
    "NotEntitled",
    "OutOfRange",
    "SourceError",
    "SourceRejected",
    "SourceUnavailable",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "SymbolNotFound",
    "Throttled",
    "UnknownSymbol",
]

_SHOWN = 120


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class MarketDataError(Exception):
    """Base of everything marketd raises on purpose."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class InvalidInput(MarketDataError):
    """A value from outside that is not acceptable.

    field: the parameter, key or column as the caller spelled it. value: what was given (never a secret).
    allowed: what would have been accepted, in words.
    """

    code = "invalid_input"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.field = field
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.value)} is not allowed; expected {self.allowed}"


class ConfigError(InvalidInput):
    """A configuration file or environment variable that cannot be used. where: file name or 'environment'."""

    code = "invalid_config"

    def __init__(self, where: str, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.args = (where, field, value, allowed)
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {super().__str__()}"


class UnknownSymbol(InvalidInput):
    """No source of this server has the symbol. near: symbols that look like it, best first."""

    code = "unknown_symbol"

    def __init__(self, symbol: str, near: Sequence[str] = ()) -> None:
        super().__init__("symbol", symbol, "a symbol listed by /api/v1/market-data/symbols")
        self.args = (symbol, tuple(near))
        self.symbol = symbol
        self.near = tuple(near)

    def __str__(self) -> str:
        hint = f"; did you mean {', '.join(self.near)}?" if self.near else ""
        return f"unknown symbol {_shown(self.symbol)}{hint}"


class SourceError(MarketDataError):
    """Something a provider did. source: the provider's name in this server."""

    code = "source_error"

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class SourceRejected(SourceError):
    """The provider refused, and asking again would be refused again."""

    code = "source_rejected"


class NotEntitled(SourceRejected):
    """No key, a wrong one, or one whose plan does not cover this (HTTP 401, 402, 403)."""

    code = "not_entitled"


class SymbolNotFound(SourceRejected):
    """The provider does not have the symbol. Others may."""

    code = "symbol_not_found"


class OutOfRange(SourceRejected):
    """The provider has the symbol, but no such interval, or nothing so far back."""

    code = "out_of_range"


class MarketClosed(SourceRejected):
    """There is nothing now because the market is closed."""

    code = "market_closed"


class SourceUnavailable(SourceError):
    """The provider could not be reached or failed; asking again may work. retry_after_s: if it said when."""

    code = "source_unavailable"
    retryable = True

    def __init__(self, source: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(source, reason)
        self.args = (source, reason, retry_after_s)
        self.retry_after_s = retry_after_s


class Throttled(SourceUnavailable):
    """The provider says that we ask too often (HTTP 429 and its cousins), or our own quota says it first."""

    code = "throttled"


class MalformedMessage(SourceError):
    """A message that does not have the documented shape. payload: its beginning, for the log."""

    code = "malformed_message"

    def __init__(self, source: str, reason: str, payload: str | bytes = "") -> None:
        super().__init__(source, reason)
        self.args = (source, reason, payload)
        self.payload = payload[:500]

    def __str__(self) -> str:
        return f"{super().__str__()}: {_shown(self.payload)}"


class StoreError(MarketDataError):
    """The store could not do what was asked; nothing was half-written. where: file or database."""

    code = "store_error"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class StoreLocked(StoreError):
    """Another process owns the data directory."""

    code = "store_locked"


class StoreCorrupt(StoreError):
    """Bytes on disk fail their checksum."""

    code = "store_corrupt"
