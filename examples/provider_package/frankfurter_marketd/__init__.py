"""Reference rates of the European Central Bank from the Frankfurter API (v1): no key, one fixing a working day.

A complete provider in a package of its own: quotes and series by request. `docs/add-a-provider.md` walks through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

import msgspec
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import InvalidInput, MalformedMessage, SourceError, SymbolNotFound
from marketd.model import OBSERVATION_SCHEMA, Quote
from marketd.sources.contract import Capabilities, Limit, Provider, ProviderDeps, ProviderEntry
from marketd.sources.http import Answer, HttpClient, HttpConfig
from marketd.sources.one_by_one import one_by_one
from marketd.sources.symbols import SymbolMap

NAME = "frankfurter"


# --- what can be configured --------------------------------------------------------------------------------------


class FrankfurterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """rest_url: of the public service, or of your own. symbols: pairs to ask for regularly, such as EURUSD."""

    rest_url: str = "https://api.frankfurter.dev/v1"
    symbols: tuple[str, ...] = ()
    http: HttpConfig = HttpConfig(requests_per_s=2.0, burst=4)

    def __post_init__(self) -> None:
        if not self.rest_url.startswith(("https://", "http://")):
            raise InvalidInput("rest_url", self.rest_url, "a URL that begins with https:// or http://")


# --- names: EURUSD is base EUR in USD -----------------------------------------------------------------------------


def pair_of(symbol: str) -> str | None:
    """`EUR/USD` of `EURUSD`; None for what is no pair."""
    return f"{symbol[:3]}/{symbol[3:]}" if len(symbol) == 6 and symbol.isalpha() and symbol.isupper() else None


def symbol_of(pair: str) -> str | None:
    return pair.replace("/", "") if len(pair) == 7 and pair[3] == "/" else None


# --- parsing: pure -----------------------------------------------------------------------------------------------


class Latest(msgspec.Struct):
    """The answer of `/latest`."""

    date: date
    rates: dict[str, float]


class Series(msgspec.Struct):
    """The answer of `/2024-01-01..2024-01-31`: days, each with its rates."""

    rates: dict[date, dict[str, float]]


def fixing_ns(day: date) -> int:
    """A fixing is dated by its day; ours are at midnight UTC of it."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**9


def parse_latest(answer: Latest, symbol: str, time_received_ns: int) -> Quote:
    rate = answer.rates.get(symbol[3:])
    if rate is None or not rate > 0:
        raise MalformedMessage(NAME, f"{symbol}: no rate in the answer of /latest")
    event_ns = fixing_ns(answer.date)
    return Quote(symbol=symbol, source=NAME, time_event_ns=event_ns, time_received_ns=time_received_ns, last=rate)


def parse_series(answer: Series, symbol: str, as_of_ns: int) -> pa.Table:
    days = sorted(day for day, rates in answer.rates.items() if symbol[3:] in rates)
    columns = {
        "series": [symbol] * len(days),
        "ts": pa.array([fixing_ns(day) for day in days], pa.timestamp("ns", tz="UTC")),
        "value": [answer.rates[day][symbol[3:]] for day in days],
        "provider": [NAME] * len(days),
        "as_of": pa.array([as_of_ns] * len(days), pa.timestamp("ns", tz="UTC")),
    }
    return pa.table(columns, schema=OBSERVATION_SCHEMA)


# --- requests ----------------------------------------------------------------------------------------------------


def classify(answer: Answer) -> SourceError | None:
    """404 is a currency that it does not have; everything else `HttpClient` judges by the status."""
    return SymbolNotFound(NAME, "no such currency") if answer.status == 404 else None


class Frankfurter:
    """Implements `QuoteRequest` and `MacroSeries`."""

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    async def quote(self, symbol: str) -> Quote:
        params = self._pair(symbol)
        answer = await self._http.get_json("/latest", Latest, params, endpoint="latest")
        return parse_latest(answer, symbol, self._clock.time_ns())

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        return await one_by_one(self.quote, symbols)

    async def observations(self, series: str, start: date | None = None, end: date | None = None) -> pa.Table:
        params = self._pair(series)
        span = f"{start or date(1999, 1, 4)}..{end or ''}"
        answer = await self._http.get_json(f"/{span}", Series, params, endpoint="series")
        return parse_series(answer, series, self._clock.time_ns())

    def _pair(self, symbol: str) -> dict[str, str | int]:
        if pair_of(symbol) is None:
            raise SymbolNotFound(NAME, f"{symbol} is no pair of currencies such as EURUSD")
        return {"base": symbol[:3], "symbols": symbol[3:]}


# --- what marketd asks for ---------------------------------------------------------------------------------------


def build(config: FrankfurterConfig, deps: ProviderDeps) -> Provider:
    http = HttpClient(
        NAME, config.rest_url, config.http, deps.clock, classify=classify, budget=deps.budget, metrics=deps.metrics
    )
    client = Frankfurter(http, deps.clock)
    return Provider(
        name=NAME,
        capabilities=Capabilities(quotes=True, macro=True, limits=(Limit(count=2, seconds=1.0),), delayed_s=86_400.0),
        symbols=SymbolMap(to_provider=pair_of, from_provider=symbol_of),
        stream_symbols=config.symbols,
        quotes=client,
        macro=client,
        venue="FX",
        close=http.close,
    )


ENTRY = ProviderEntry(name=NAME, config=FrankfurterConfig, build=build)
