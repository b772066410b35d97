"""The one client of Alpha Vantage: one path for everything, and errors that come with status 200.

What an answer is follows from its keys. A notice (`Error Message`, `Information`, `Note`) beside no data is the error
that its words say. Notices repeat the key, which is cut out of everything said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec

from marketd.clock import Clock
from marketd.errors import MalformedMessage, NotEntitled, SourceError, SourceRejected, SymbolNotFound, Throttled
from marketd.model.time import NS_PER_S
from marketd.sources.alphavantage.config import AlphaVantageConfig
from marketd.sources.alphavantage.parse import NAME, notice_of, refusal_of
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.telemetry import Metrics

T = TypeVar("T")

__all__ = ["AlphaVantageClient", "Sections"]

Sections = Mapping[str, msgspec.Raw]
"""An answer by its top keys, each still JSON."""

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BURST_PAUSE_S = 1.5
_MINUTE_PAUSE_S = 60.0


class AlphaVantageClient:
    """Close it."""

    def __init__(
        self,
        config: AlphaVantageConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._clock = clock
        self._key = config.api_key or ""
        self._http = HttpClient(
            NAME,
            config.rest_url,
            config.http,
            clock,
            headers={"Accept": "*/*"},
            secrets=(self._key,),
            classify=self._classify,
            budget=budget,
            metrics=metrics,
        )

    async def close(self) -> None:
        await self._http.close()

    async def ask(self, function: str, params: Mapping[str, str]) -> Sections:
        """The answer's sections. Raises what `HttpClient.request` raises, and what a notice says."""
        query = {"function": function, **params, "apikey": self._key}
        answer = await self._http.request("GET", "/query", params=query, endpoint=function.lower())
        return self._http.decode(answer, dict[str, msgspec.Raw], function)

    def section(self, sections: Sections, name: str, as_type: type[T], what: str) -> T:
        """The first whose key has `name` in it (`Weekly Time Series`). what: whose it is, for errors.

        Raises SymbolNotFound for an answer without anything, MalformedMessage.
        """
        if not sections:
            raise SymbolNotFound(NAME, f"{what}: an empty answer, which is how Alpha Vantage says that it has none")
        for key, raw in sections.items():
            if name in key:
                try:
                    return msgspec.json.decode(raw, type=as_type)
                except (ValueError, RecursionError) as error:
                    raise MalformedMessage(NAME, f"{what}: {error}") from None
        raise MalformedMessage(NAME, f"{what}: no {name} among {', '.join(list(sections)[:8])[:200]}")

    def _classify(self, answer: Answer) -> SourceError | None:
        if answer.status != 200:
            return None
        words = notice_of(answer.body)
        if words is None:
            return None
        kind, said = refusal_of(words), words[:300]
        if kind in ("premium", "key"):
            return NotEntitled(NAME, said)
        if kind == "symbol":
            return SymbolNotFound(NAME, said)
        if kind == "other":
            return SourceRejected(NAME, said)
        pauses = {"second": _BURST_PAUSE_S, "minute": _MINUTE_PAUSE_S}
        return Throttled(NAME, said, pauses[kind] if kind in pauses else self._until_midnight_s())

    def _until_midnight_s(self) -> float:
        """When a day's allowance begins anew is not published; the day is taken to be New York's."""
        now = _EPOCH + timedelta(seconds=self._clock.time_ns() // NS_PER_S)
        tomorrow = now.astimezone(_NEW_YORK).date() + timedelta(days=1)
        midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=_NEW_YORK)
        return (midnight - now).total_seconds()
