"""How the Alpha Vantage provider is set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.http import HttpConfig

__all__ = ["AlphaVantageConfig"]


class AlphaVantageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """symbol_table: our name to Alpha Vantage's, where no rule says it. price_divisors: our names → what prices of
    quotes and bars are divided by, for shares that are quoted in pence.

    requests_per_day, requests_per_minute: what the plan allows; None is unlimited. A free key has 25 a day and one a
    second. entitlement: to US prices within the day, as the plan grants it; None: at the end of the day.
    extended_hours: whether bars within the day have trade before and after the session. options: chains of the last
    session that is over, or of now.
    """

    api_key: str | None = None
    rest_url: str = "https://www.alphavantage.co"
    symbol_table: Mapping[str, str] = {}
    price_divisors: Mapping[str, float] = {}
    requests_per_day: int | None = 25
    requests_per_minute: int | None = None
    entitlement: Literal["delayed", "realtime"] | None = None
    extended_hours: bool = False
    options: Literal["historical", "realtime"] = "historical"
    http: HttpConfig = HttpConfig(requests_per_s=0.9, burst=1, timeout_s=30.0, attempts=2)

    def __post_init__(self) -> None:
        key = self.api_key
        if key is not None and (not key.isprintable() or key != key.strip() or not key.isascii()):
            raise InvalidInput("api_key", "…", "printable ASCII without spaces around it")
        if not self.rest_url.startswith(("https://", "http://")):
            raise InvalidInput("rest_url", self.rest_url, "a URL that begins with https:// or http://")
        for symbol, divisor in self.price_divisors.items():
            if not 0 < divisor < float("inf"):
                raise InvalidInput(f"price_divisors.{symbol}", divisor, "a number above 0")
        for field in ("requests_per_day", "requests_per_minute"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InvalidInput(field, value, "a whole number from 1, or null for no limit")
        for field, allowed in (("entitlement", (None, "delayed", "realtime")), ("options", ("historical", "realtime"))):
            if getattr(self, field) not in allowed:
                raise InvalidInput(field, getattr(self, field), f"one of {', '.join(map(str, allowed))}")

    def __repr__(self) -> str:
        shown = (
            f"{field}='…'" if field == "api_key" and self.api_key else f"{field}={getattr(self, field)!r}"
            for field in self.__struct_fields__
        )
        return f"AlphaVantageConfig({', '.join(shown)})"
