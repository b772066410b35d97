"""Kraken's requests: what their errors mean, which come with status 200, and one client for all parts of the
provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import msgspec

from marketd.clock import Clock
from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.sources.kraken.config import KrakenConfig
from marketd.sources.kraken.parse import NAME, RestTrade, parse_rest_trades
from marketd.sources.kraken.symbols import request_pair
from marketd.telemetry import Metrics

__all__ = ["TRADES_PER_REQUEST", "KrakenRequests"]

TRADES_PER_REQUEST = 1_000


class _Envelope(msgspec.Struct, frozen=True):
    error: list[str] = []


class _Body(msgspec.Struct, frozen=True):
    """result: rows by Kraken's own name of the pair, and `last`."""

    result: dict[str, msgspec.Raw]


class KrakenRequests:
    """Close it. Every method raises what `HttpClient.request` raises, with Kraken's errors told apart."""

    def __init__(
        self,
        config: KrakenConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._http = HttpClient(
            NAME, config.rest_url, config.http, clock, classify=_classify, budget=budget, metrics=metrics
        )

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    async def ohlc(self, name: str, minutes: int, since_s: int) -> msgspec.Raw:
        """Rows of `/0/public/OHLC`: at most the latest 720, the last one running."""
        params: dict[str, str | int] = {"pair": request_pair(name), "interval": minutes, "since": since_s}
        return _rows(await self._get("OHLC", params), name)

    async def tickers(self, names: list[str]) -> dict[str, msgspec.Raw]:
        """Rows of `/0/public/Ticker`, by the answer's own keys."""
        return dict(await self._get("Ticker", {"pair": ",".join(map(request_pair, names))}))

    async def trade_pages(self, name: str, since_ns: int) -> AsyncGenerator[list[RestTrade], None]:
        """Trades after `since_ns`, a thousand a page, oldest first, to the newest."""
        while True:
            params: dict[str, str | int] = {"pair": request_pair(name), "since": since_ns, "count": TRADES_PER_REQUEST}
            result = await self._get("Trades", params)
            page = parse_rest_trades(_rows(result, name), name)
            yield page
            try:
                last_ns = int(msgspec.json.decode(result.get("last", b"0"), type=str))
            except ValueError as error:
                raise MalformedMessage(NAME, f"{name}: trades: last: {error}") from None
            if len(page) < TRADES_PER_REQUEST or last_ns <= since_ns:
                return
            since_ns = last_ns

    async def _get(self, what: str, params: Mapping[str, str | int]) -> Mapping[str, msgspec.Raw]:
        body = await self._http.get_json(f"/0/public/{what}", _Body, params, endpoint=what.lower())
        return body.result


def _rows(result: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw:
    """Of an answer about one pair: the only key beside `last` is Kraken's own name of it."""
    found = [rows for key, rows in result.items() if key != "last"]
    if len(found) != 1:
        raise MalformedMessage(NAME, f"{name}: an answer about {len(found)} pairs")
    return found[0]


def _classify(answer: Answer) -> SourceError | None:
    """Of what `HttpClient` cannot know: `{"error":["EQuery:Unknown asset pair"]}`, with status 200."""
    if answer.body.startswith(b'{"error":[]'):
        return None
    if b"error code: 1015" in answer.body or b"Error 1015" in answer.body:  # of the network in front of Kraken
        return Throttled(NAME, f"HTTP {answer.status}: {answer.text[:200]}")
    try:
        errors = msgspec.json.decode(answer.body, type=_Envelope).error
    except (ValueError, RecursionError):
        return None
    if not errors:
        return None
    told = ", ".join(errors)[:200]
    if any(words in told for words in ("Unknown asset pair", "Unknown asset")):
        return SymbolNotFound(NAME, told)
    if any(words in told for words in ("Too many requests", "Rate limit", "lockout")):
        return Throttled(NAME, told)
    if "Permission denied" in told:
        return NotEntitled(NAME, told)
    if told.startswith("EService") or "Internal error" in told:
        return SourceUnavailable(NAME, told)
    return SourceRejected(NAME, told)
