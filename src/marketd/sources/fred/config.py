"""How the FRED provider is set up."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

import msgspec

from marketd.errors import InvalidInput
from marketd.sources.fred.symbols import series_id
from marketd.sources.http import HttpConfig

__all__ = ["FredConfig"]

_KEY = re.compile(r"[0-9a-z]{32}", re.ASCII)
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)


class FredConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """rest_url: where requests go. api_key: 32 lower-case letters and digits, from the account's page.

    release_times: series → time of day (`08:30`) at which a vintage is known on its own date, in `release_zone`; the
    vintages of other series are known when that date has ended in St. Louis. vintages_per_call: FRED allows 2000 in
    one request; fewer leaves room for one that is published between two requests. observations_per_call,
    vintage_dates_per_call: of a page, at most 100000 and 10000. http: at most 120 requests fit in any minute.
    """

    rest_url: str = "https://api.stlouisfed.org/fred"
    api_key: str | None = None
    release_times: dict[str, str] = {}
    release_zone: str = "America/New_York"
    vintages_per_call: int = 1_990
    observations_per_call: int = 100_000
    vintage_dates_per_call: int = 10_000
    http: HttpConfig = HttpConfig(timeout_s=30.0, requests_per_s=1.75, burst=15)

    def __post_init__(self) -> None:
        if not self.rest_url.startswith(("https://", "http://")):
            raise InvalidInput("rest_url", self.rest_url, "a URL that begins with https:// or http://")
        if self.api_key is not None and _KEY.fullmatch(self.api_key) is None:
            raise InvalidInput("api_key", "…", "32 lower-case letters and digits, as the account's page shows them")
        times = {}
        for series, text in self.release_times.items():
            name = series_id(series)
            if name is None:
                raise InvalidInput("release_times", series, "a series such as CPIAUCSL")
            if _TIME.fullmatch(text) is None:
                raise InvalidInput(f"release_times.{series}", text, "a time of day from 00:00 to 23:59")
            times[name] = text
        msgspec.structs.force_setattr(self, "release_times", times)
        try:
            ZoneInfo(self.release_zone)
        except (KeyError, ValueError, OSError):
            raise InvalidInput("release_zone", self.release_zone, "an IANA time zone: America/New_York") from None
        for field, highest in (
            ("vintages_per_call", 2_000),
            ("observations_per_call", 100_000),
            ("vintage_dates_per_call", 10_000),
        ):
            if not 1 <= getattr(self, field) <= highest:
                raise InvalidInput(field, getattr(self, field), f"a whole number from 1 to {highest}")

    def __repr__(self) -> str:
        """Without the key."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["api_key"] = "…" if fields["api_key"] else None
        return f"FredConfig({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
