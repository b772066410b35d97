"""Economic series of FRED with all their vintages, by request."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import date
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import MalformedMessage, NotEntitled, OutOfRange, SourceError, SymbolNotFound, Throttled
from marketd.model import OBSERVATION_SCHEMA
from marketd.sources.fred.config import FredConfig
from marketd.sources.fred.parse import (
    NAME,
    ObservationsPage,
    Page,
    Periods,
    VintageDatesPage,
    error_text,
    joined,
    known_ns,
    observation_table,
    parse_days,
    parse_periods,
)
from marketd.sources.fred.symbols import series_id
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.telemetry import Metrics

__all__ = ["FredSeries", "NoVintages", "http_client"]

T = TypeVar("T", bound=Page)

_FOREVER = "9999-12-31"
_LIMIT_WINDOW_S = 60.0
_TOO_MANY_REQUESTS = 429


class NoVintages(OutOfRange):
    """The archive has nothing of the series. It says the same of one that does not exist."""


def http_client(
    config: FredConfig,
    clock: Clock,
    *,
    budget: RequestBudget | None = None,
    metrics: Metrics | None = None,
    rng: random.Random | None = None,
) -> HttpClient:
    """The key travels in the query, which no message of the client shows; it is cut out of everything else."""
    return HttpClient(
        NAME,
        config.rest_url,
        config.http,
        clock,
        secrets=(config.api_key or "",),
        classify=_classify,
        budget=budget,
        metrics=metrics,
        rng=rng,
    )


def _classify(answer: Answer) -> SourceError | None:
    """Of what a status does not tell: every refusal is a 400 and means what its text says."""
    if answer.status == _TOO_MANY_REQUESTS and "retry-after" not in answer.headers:
        return Throttled(NAME, f"HTTP 429: {answer.text[:200]}", _LIMIT_WINDOW_S)
    if answer.status != 400:
        return None
    text = error_text(answer.body)
    if text is None:
        return None
    reason = f"HTTP 400: {text[:300]}"
    if "api_key" in text:
        return NotEntitled(NAME, reason)
    if "does not exist in ALFRED" in text or "No vintage dates exist" in text:
        return NoVintages(NAME, reason)
    if "series does not exist" in text or "variable series_id" in text:
        return SymbolNotFound(NAME, reason)
    if "vintage dates" in text:
        return OutOfRange(NAME, reason)
    return None


class FredSeries:
    """Implements `MacroSeries`. http: see `http_client`; the caller closes it."""

    def __init__(self, http: HttpClient, config: FredConfig, clock: Clock) -> None:
        self._http = http
        self._config = config
        self._clock = clock

    async def observations(self, series: str, start: date | None = None, end: date | None = None) -> pa.Table:
        """See `MacroSeries.observations`. A version whose value is null: FRED says that it is missing (`.`), or took it
        back. Of a series that ALFRED does not archive, the values of today with the time of the request."""
        name = series_id(series)
        if name is None:
            raise SymbolNotFound(NAME, f"{series!r} is no series: its names have at most 25 letters and digits")
        if start is not None and end is not None and start > end:
            return OBSERVATION_SCHEMA.empty_table()
        span = {}
        if start is not None:
            span["observation_start"] = start.isoformat()
        if end is not None:
            span["observation_end"] = end.isoformat()
        try:
            vintages = await self._vintages(name)
        except NoVintages:
            vintages = np.empty(0, np.int64)
        if not len(vintages):
            periods = _together([page async for page in self._periods(name, span)])
            now = np.full(len(periods.day), self._clock.time_ns())
            return observation_table(name, periods.day, now, periods.value)
        versions = await asyncio.to_thread(joined, [page async for page in self._archived(name, span, vintages)])
        at = self._config.release_times.get(name)
        release = None if at is None else (at, self._config.release_zone)
        known = known_ns(versions.known, release, self._clock.time_ns())
        return observation_table(name, versions.day, known, versions.value)

    async def _archived(
        self, series: str, span: dict[str, str], vintages: npt.NDArray[np.int64]
    ) -> AsyncIterator[Periods]:
        """Every real-time period, in as many requests as the number of vintages asks for."""
        firsts = vintages[:: self._config.vintages_per_call].astype("datetime64[D]")
        lasts = [str(first - 1) for first in firsts[1:]] + [_FOREVER]
        for first, last in zip(firsts, lasts, strict=True):
            period = {"realtime_start": str(first), "realtime_end": last}
            async for page in self._periods(series, {**span, **period}):
                yield page

    async def _vintages(self, series: str) -> npt.NDArray[np.int64]:
        """Days since 1970, ascending."""
        found = [
            parse_days(page.vintage_dates)
            async for page in self._pages(
                "/series/vintagedates",
                VintageDatesPage,
                lambda page: page.vintage_dates,
                {"series_id": series},
                self._config.vintage_dates_per_call,
                "vintagedates",
            )
        ]
        return np.unique(np.concatenate(found))

    async def _periods(self, series: str, params: dict[str, str]) -> AsyncIterator[Periods]:
        async for page in self._pages(
            "/series/observations",
            ObservationsPage,
            lambda page: page.observations,
            {"series_id": series, **params},
            self._config.observations_per_call,
            "observations",
        ):
            yield await asyncio.to_thread(parse_periods, page.observations)

    async def _pages(
        self,
        path: str,
        page_type: type[T],
        rows: Callable[[T], list[Any]],
        params: dict[str, str],
        limit: int,
        endpoint: str,
    ) -> AsyncIterator[T]:
        """At least one. A page is decoded in a thread: it may be of several megabytes."""
        offset = 0
        while True:
            asked: dict[str, str | int] = {
                **params,
                "api_key": self._config.api_key or "",
                "file_type": "json",
                "limit": limit,
                "offset": offset,
            }
            answer = await self._http.request("GET", path, params=asked, endpoint=endpoint)
            page = await asyncio.to_thread(self._http.decode, answer, page_type, f"GET {path}")
            yield page
            offset += len(rows(page))
            if offset >= page.count:
                return
            if not rows(page):
                raise MalformedMessage(NAME, f"GET {path}: a page without rows at {offset} of {page.count}")


def _together(pages: list[Periods]) -> Periods:
    return Periods(*(np.concatenate(columns) for columns in zip(*pages, strict=True)))
