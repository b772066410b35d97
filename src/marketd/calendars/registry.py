"""The calendars of a server: from a symbol to the one object that answers for it."""

from __future__ import annotations

import threading

from marketd.calendars.config import PRESETS, CalendarsConfig
from marketd.calendars.contract import Calendar
from marketd.calendars.exchange import ExchangeCalendar
from marketd.calendars.session import AlwaysOpen, SessionCalendar
from marketd.errors import InvalidInput

__all__ = ["Calendars"]

_OTHER_NAMES = {
    "24/7": ("BINANCE", "BITFINEX", "BITMEX", "BITSTAMP", "BYBIT", "COINBASE", "CRYPTO", "GEMINI", "KRAKEN", "OKX"),
    "FX": ("DUKASCOPY", "FOREX", "IDEALPRO"),
    "METALS": ("XAUUSD", "XAGUSD"),
    "CME": ("COMEX", "NYMEX"),
}
"""Venues with the hours of a preset. Where the package has a calendar of the same name, the preset is meant."""
_PRESET_BY_NAME = {other: preset for preset, names in _OTHER_NAMES.items() for other in names}

_SYMBOLS_KEPT = 100_000


class Calendars:
    """Finds and keeps calendars; safe to call from several threads.

    The calendar of an exchange is loaded when it is first asked for (about a second for the first, with pandas).
    """

    def __init__(self, config: CalendarsConfig | None = None) -> None:
        self._config = config or CalendarsConfig()
        prefixes = [p[:-1] for p in self._config.symbols if p.endswith("*")]
        self._prefixes = sorted(prefixes, key=len, reverse=True)
        self._by_name: dict[str, Calendar] = {}
        self._by_canonical: dict[str, ExchangeCalendar] = {}
        self._by_symbol: dict[tuple[str, str | None, str | None], Calendar] = {}
        self._lock = threading.RLock()

    def of(self, symbol: str, exchange: str | None = None, asset_class: str | None = None) -> Calendar:
        """The calendar of a symbol, by the first that is configured: itself, its beginning, its exchange, its asset
        class, the default. An exchange that is not configured is its own calendar.

        Raises InvalidInput for an exchange that has no calendar.
        """
        key = symbol, exchange, asset_class
        found = self._by_symbol.get(key)
        if found is None:
            found = self.named(self._name_of(symbol, exchange, asset_class))
            if len(self._by_symbol) >= _SYMBOLS_KEPT:
                self._by_symbol.clear()
            self._by_symbol[key] = found
        return found

    def named(self, name: str) -> Calendar:
        """The calendar of this name: a configured venue, a preset, or an exchange. Raises InvalidInput."""
        with self._lock:
            known = self._by_name.get(name)
            if known is None:
                known = self._by_name[name] = self._make(name, ())
            return known

    def _name_of(self, symbol: str, exchange: str | None, asset_class: str | None) -> str:
        config = self._config
        exact = config.symbols.get(symbol)
        if exact is not None:
            return exact
        for prefix in self._prefixes:
            if symbol.startswith(prefix):
                return config.symbols[prefix + "*"]
        if exchange:
            return config.exchanges.get(exchange, exchange)
        return config.asset_classes.get(asset_class or "", config.default)

    def _make(self, name: str, inside: tuple[str, ...]) -> Calendar:
        if name in inside:
            raise InvalidInput("within", name, f"a calendar that does not lead back to itself ({' > '.join(inside)})")
        upper = name.strip().upper()
        venue = self._config.venues.get(name)
        if venue is None:
            if upper == AlwaysOpen.name or _PRESET_BY_NAME.get(upper) == AlwaysOpen.name:
                return AlwaysOpen()
            venue = PRESETS.get(_PRESET_BY_NAME.get(upper, upper))
        if venue is not None:
            within = None if venue.within is None else self._make(venue.within, (*inside, name))
            return SessionCalendar(name, venue, within)
        exchange = ExchangeCalendar(name)
        return self._by_canonical.setdefault(exchange.name, exchange)
