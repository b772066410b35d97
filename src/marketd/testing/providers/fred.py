"""The wire format of FRED and ALFRED as a local server: series with every vintage, in JSON and XML.

Owns series that a test publishes vintage by vintage, and the manners of the real service as they were documented and
recorded: real-time periods clamped to what was asked for, at most 2000 vintages a request, `.` for what is missing,
refusals that are a 400 with words, an archive that says the same of a series it lacks and of one that does not exist,
120 requests a minute and key. Shares no code with `marketd.sources.fred`, so that one can be tested by the other. It
refuses units other than `lin`, aggregation, and output types other than 1 and 4.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

from aiohttp import web

from marketd.clock import Clock, SystemClock
from marketd.testing.providers.misbehave import Misbehaviour

__all__ = ["GONE", "MISSING", "FredSimulator"]

MISSING = "."
"""A value that FRED says it does not have."""
GONE: None = None
"""Published instead of a value: the observation is no longer part of the series."""

_ST_LOUIS = ZoneInfo("America/Chicago")
_EARLIEST, _LATEST = "1776-07-04", "9999-12-31"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_KEY = re.compile(r"[0-9a-z]{32}")
_ID = re.compile(r"[A-Za-z0-9]{1,25}")
_NOT_ARCHIVED = (
    "The series does not exist in ALFRED but may exist in FRED.  Try setting realtime_start and realtime_end to today's"
    " date or removing the realtime_start and realtime_end variables."
)
_NAMES = {"observations": "observation", "vintage_dates": "vintage_date", "seriess": "series"}
_OBSERVED = ("realtime_start", "realtime_end", "date", "value")

Period = tuple[str, str, str, str]
"""realtime_start, realtime_end, date, value."""


class _BadRequestError(Exception):
    """Its words are what the service says after `Bad Request.`"""


@dataclass
class _Series:
    title: str
    frequency: str
    archived: bool
    vintages: list[str] = field(default_factory=list)
    values: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    """By date of the observation: from which day on which value, None for none."""

    def periods(self) -> Iterator[Period]:
        """Every value with its real-time period, by date, then by time."""
        for day in sorted(self.values):
            told = self.values[day]
            for place, (start, value) in enumerate(told):
                end = _before(told[place + 1][0]) if place + 1 < len(told) else _LATEST
                if value is not None:
                    yield start, end, day, value


def _before(day: str) -> str:
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


class FredSimulator:
    """Use as an async context. Dates are texts `2014-04-30`, values the texts that FRED sends, `MISSING` or `GONE`.

    clock: says what today is in St. Louis, and which requests are within a minute. vintages_max, requests_per_minute:
    the service's own limits, smaller ones for short tests.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        port: int = 0,
        vintages_max: int = 2_000,
        requests_per_minute: int = 120,
        retry_after_s: int | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._port = port
        self._vintages_max = vintages_max
        self._requests_per_minute = requests_per_minute
        self._retry_after_s = retry_after_s
        self._series: dict[str, _Series] = {}
        self._asked_ns: deque[int] = deque()
        self._runner: web.AppRunner | None = None
        self.api_key = "0123456789abcdef0123456789abcdef"
        self.misbehaviour = Misbehaviour()
        self.requests: deque[tuple[str, dict[str, str]]] = deque(maxlen=10_000)
        """Path and query of the requests, oldest first, without keys."""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self.misbehaviour.middleware])
        app.router.add_get("/fred/series", self._answering(self._info))
        app.router.add_get("/fred/series/observations", self._answering(self._observations))
        app.router.add_get("/fred/series/vintagedates", self._answering(self._vintage_dates))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/fred"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._series)

    # Commands

    def add(self, series: str, *, title: str = "", frequency: str = "M", archived: bool = True) -> None:
        """A series without values. archived: whether ALFRED keeps its vintages."""
        self._series[series] = _Series(title or series, frequency, archived)

    def publish(self, series: str, vintage: str, values: Mapping[str, str | None]) -> None:
        """What is new or revised on that day, by date of the observation. Vintages come in their order."""
        found = self._series[series]
        if found.vintages and vintage < found.vintages[-1]:
            raise ValueError(f"{vintage} comes after {found.vintages[-1]}")
        if not found.vintages or found.vintages[-1] != vintage:
            found.vintages.append(vintage)
        for day, value in values.items():
            told = found.values.setdefault(day, [])
            if told and told[-1][0] == vintage:
                told.pop()
            if (told[-1][1] if told else None) != value:
                told.append((vintage, value))

    def periods(self, series: str) -> list[Period]:
        """The truth: (realtime_start, realtime_end, date, value), by date, then by time."""
        return list(self._series[series].periods())

    def make_up(self, seed: int) -> None:
        """Some series to try things with: a revised quarterly one, a daily one of 2,400 vintages, one not archived."""
        rng = random.Random(seed)
        self.add("GDPC1", title="Real Gross Domestic Product", frequency="Q")
        level = 17_000.0
        for quarter in range(40):
            year, month = 2014 + quarter // 4, 3 * (quarter % 4) + 1
            level *= 1 + rng.gauss(0.006, 0.004)
            for days in (119, 148, 177):
                day = f"{year}-{month:02d}-01"
                vintage = date.fromisoformat(day) + timedelta(days=days)
                self.publish("GDPC1", vintage.isoformat(), {day: f"{level * (1 + rng.gauss(0, 0.001)):.3f}"})
        self.add("DGS10", title="Market Yield on U.S. Treasury Securities at 10-Year", frequency="D")
        traded, rate = date(2014, 1, 1), 2.5
        for _ in range(2_400):
            traded += timedelta(days=3 if traded.weekday() == 4 else 1)
            rate = max(0.1, rate + rng.gauss(0, 0.05))
            text = MISSING if rng.random() < 0.04 else f"{rate:.2f}"
            self.publish("DGS10", (traded + timedelta(days=1)).isoformat(), {traded.isoformat(): text})
        self.add("SP500", title="S&P 500", frequency="D", archived=False)
        self.publish("SP500", "2026-01-05", {"2026-01-02": "6900.10", "2026-01-05": "6921.46"})

    # Requests

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC).astimezone(_ST_LOUIS).date().isoformat()

    def _answering(self, answer: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            query = dict(request.query)
            key = query.pop("api_key", None)
            self.requests.append((request.path, query))
            as_json = query.get("file_type", "xml") == "json"
            if self._too_many():
                headers = {} if self._retry_after_s is None else {"Retry-After": str(self._retry_after_s)}
                return _refusal(429, "Too Many Requests.  Exceeded Rate Limit", as_json=as_json, headers=headers)
            try:
                if key is None:
                    raise _BadRequestError(  # noqa: TRY301 - one place that says it
                        "Variable api_key is not set.  Read https://fred.stlouisfed.org/docs/api/api_key.html for more"
                        " information."
                    )
                if _KEY.fullmatch(key) is None:
                    raise _BadRequestError(  # noqa: TRY301
                        "The value for variable api_key is not a 32 character alpha-numeric lower-case string.  Read"
                        " https://fred.stlouisfed.org/docs/api/api_key.html for more information."
                    )
                if key != self.api_key:
                    raise _BadRequestError(  # noqa: TRY301
                        "The value for variable api_key is not registered.  Read"
                        " https://fred.stlouisfed.org/docs/api/api_key.html for more information."
                    )
                return _reply(answer(query), as_json=as_json)
            except _BadRequestError as error:
                return _refusal(400, f"Bad Request.  {error}", as_json=as_json)

        return handle

    def _too_many(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        while self._asked_ns and self._asked_ns[0] <= now_ns - 60 * 10**9:
            self._asked_ns.popleft()
        if len(self._asked_ns) >= self._requests_per_minute:
            return True
        self._asked_ns.append(now_ns)
        return False

    def _named(self, query: Mapping[str, str]) -> _Series:
        name = query.get("series_id")
        if name is None:
            raise _BadRequestError("Variable series_id is not set.")
        if _ID.fullmatch(name) is None:
            raise _BadRequestError(
                "Invalid value for variable series_id.  Series IDs should be 25 or less alphanumeric characters."
            )
        found = self._series.get(name.upper())
        timed = "realtime_start" in query or "realtime_end" in query
        if found is None:
            raise _BadRequestError(_NOT_ARCHIVED if timed else "The series does not exist.")
        if timed and not found.archived:
            raise _BadRequestError(_NOT_ARCHIVED)
        return found

    def _realtime(self, query: Mapping[str, str], default: tuple[str, str]) -> tuple[str, str]:
        start = _day(query, "realtime_start", default[0])
        end = _day(query, "realtime_end", default[1])
        for name, value in (("realtime_start", start), ("realtime_end", end)):
            if value > self._today() and value != _LATEST:
                raise _BadRequestError(
                    f"Invalid value for variable {name}.  {name} can not be after today's date ({self._today()}) unless"
                    f" it is {_LATEST}."
                )
        if start > end:
            raise _BadRequestError("Invalid value for variable realtime_start.  It can not be after realtime_end.")
        return start, end

    def _info(self, query: Mapping[str, str]) -> dict[str, Any]:
        found = self._named(query)
        start, end = self._realtime(query, (self._today(), self._today()))
        row = {
            "id": query["series_id"].upper(),
            "realtime_start": start,
            "realtime_end": end,
            "title": found.title,
            "observation_start": min(found.values, default=_LATEST),
            "observation_end": max(found.values, default=_EARLIEST),
            "frequency_short": found.frequency,
            "units": "Index",
            "seasonal_adjustment_short": "NSA",
            "last_updated": f"{found.vintages[-1]} 07:46:03-05" if found.vintages else "",
        }
        return {"realtime_start": start, "realtime_end": end, "seriess": [row]}

    def _vintage_dates(self, query: Mapping[str, str]) -> dict[str, Any]:
        # without a period the whole archive is meant, so that its refusal is the same
        start, end = self._realtime(query, (_EARLIEST, _LATEST))
        found = self._named({**query, "realtime_start": start})
        dates = [day for day in found.vintages if start <= day <= end]
        return {
            "realtime_start": start,
            "realtime_end": end,
            "order_by": "vintage_date",
            **_page(query, "vintage_dates", dates, 10_000),
        }

    def _observations(self, query: Mapping[str, str]) -> dict[str, Any]:
        for name, only in (("units", "lin"), ("frequency", ""), ("vintage_dates", "")):
            if query.get(name, only) != only:
                raise _BadRequestError(f"Variable {name} is not simulated.")
        found = self._named(query)
        today = self._today()
        start, end = self._realtime(query, (today, today))
        output = query.get("output_type", "1")
        if output not in ("1", "4"):
            raise _BadRequestError("Variable output_type is not simulated but for 1 and 4.")
        if found.archived and (not found.vintages or end < found.vintages[0]):
            raise _BadRequestError(_NOT_ARCHIVED)
        count = sum(start <= day <= end for day in found.vintages)
        if count > self._vintages_max:
            raise _BadRequestError(
                f"There are {count} vintage dates in the specified real-time period: {start} to {end}.  This exceeds"
                f" the maximum number of vintage dates allowed for this file type ({self._vintages_max})."
            )
        first, last = _day(query, "observation_start", _EARLIEST), _day(query, "observation_end", _LATEST)
        if first > last:
            raise _BadRequestError("observation_start can not be after observation_end.")
        rows: list[dict[str, str]] = []
        seen: set[str] = set()
        for begins, ends, day, value in found.periods():
            if not found.archived:
                begins, ends = today, today  # noqa: PLW2901 - only the values of today are kept
            if begins > end or ends < start or not first <= day <= last or (output == "4" and day in seen):
                continue
            seen.add(day)
            rows.append(dict(zip(_OBSERVED, (max(begins, start), min(ends, end), day, value), strict=True)))
        return {
            "realtime_start": start,
            "realtime_end": end,
            "observation_start": first,
            "observation_end": last,
            "units": "lin",
            "output_type": int(output),
            "file_type": query.get("file_type", "xml"),
            "order_by": "observation_date",
            **_page(query, "observations", rows, 100_000),
        }


def _day(query: Mapping[str, str], name: str, default: str) -> str:
    text = query.get(name, default)
    try:
        if _DATE.fullmatch(text) is None:
            raise ValueError  # noqa: TRY301 - one place that says it
        date.fromisoformat(text)
    except ValueError:
        raise _BadRequestError(f"Invalid value for variable {name}.  It is no date in YYYY-MM-DD format.") from None
    return text


def _page(query: Mapping[str, str], name: str, rows: list[Any], limit_max: int) -> dict[str, Any]:
    try:
        limit, offset = int(query.get("limit", limit_max)), int(query.get("offset", 0))
    except ValueError:
        raise _BadRequestError("Variables limit and offset are whole numbers.") from None
    if not 1 <= limit <= limit_max:
        raise _BadRequestError(f"Variable limit is not between 1 and {limit_max}.")
    if offset < 0:
        raise _BadRequestError("Variable offset is not a whole number from 0.")
    order = query.get("sort_order", "asc")
    if order == "desc":
        rows.reverse()
    count = len(rows)
    return {
        "sort_order": order,
        "count": count,
        "offset": offset,
        "limit": limit,
        name: rows[offset : offset + limit],
    }


def _reply(body: dict[str, Any], *, as_json: bool) -> web.Response:
    if as_json:
        return web.json_response(body)
    name = next(name for name in _NAMES if name in body)
    root = ET.Element(name, {key: str(value) for key, value in body.items() if key != name})
    for row in body[name]:
        if isinstance(row, str):
            ET.SubElement(root, _NAMES[name]).text = row
        else:
            ET.SubElement(root, _NAMES[name], row)
    return web.Response(body=ET.tostring(root, "utf-8", xml_declaration=True), content_type="text/xml")


def _refusal(code: int, text: str, *, as_json: bool, headers: Mapping[str, str] | None = None) -> web.Response:
    if as_json:
        told = {"error_message": text} if code == 429 else {"error_code": code, "error_message": text}
        return web.json_response(told, status=code, headers=headers)
    root = ET.Element("error", {"code": str(code), "message": text})
    body = ET.tostring(root, "utf-8", xml_declaration=True)
    return web.Response(body=body, status=code, content_type="text/xml", headers=headers)
