"""Names of symbols, both ways: ours and a provider's.

Ours are: `AAPL`, `BRK.B` (a point before the share class), `BTC-USD` (crypto, base-quote), `EURUSD` (currencies, six
letters), `^GSPC` (indices). A provider has rules, written as two pure functions, and a table of what no rule can say
(`CS.D.EURUSD.MINI.IP`), which the configuration extends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from marketd.errors import InvalidInput

__all__ = ["SymbolMap"]


def _same(symbol: str) -> str | None:
    return symbol


class SymbolMap:
    """table: our name → the provider's; it comes before the rules. to_provider, from_provider: the rules; None is "no
    such symbol here". Raises InvalidInput when two of ours are one of theirs."""

    def __init__(
        self,
        table: Mapping[str, str] | None = None,
        *,
        to_provider: Callable[[str], str | None] = _same,
        from_provider: Callable[[str], str | None] = _same,
    ) -> None:
        self._theirs = dict(table or {})
        self._ours: dict[str, str] = {}
        for ours, theirs in self._theirs.items():
            if theirs in self._ours:
                raise InvalidInput("symbols", f"{ours}: {theirs}", f"another name: {self._ours[theirs]} has it already")
            self._ours[theirs] = ours
        self._to = to_provider
        self._from = from_provider

    def to_provider(self, symbol: str) -> str | None:
        """The provider's name of ours, or None if it cannot have it."""
        return self._theirs.get(symbol) or self._to(symbol)

    def from_provider(self, name: str) -> str | None:
        """Our name of the provider's, or None if it is none that we know how to read."""
        return self._ours.get(name) or self._from(name)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(ours, theirs) of the table."""
        return iter(self._theirs.items())
