"""Binance's requests: what they cost, what their errors mean, and one client for all parts of the provider.

The exchange counts weight by address: 6000 a minute. An answer's `X-MBX-USED-WEIGHT-1M` says how much is spent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec

from marketd.clock import Clock
from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SymbolNotFound,
    Throttled,
)
from marketd.sources.binance.config import BinanceConfig
from marketd.sources.binance.parse import NAME, RestTrade, Ticker, parse_tickers, trade_text
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.telemetry import Metrics

__all__ = ["LIMIT_PER_MINUTE", "TICKERS_PER_REQUEST", "BinanceRequests"]

LIMIT_PER_MINUTE = 6_000
TICKERS_PER_REQUEST = 20
"""More symbols in one request cost twenty times as much."""

_KLINES_WEIGHT, _TRADES_WEIGHT = 2, 25
_TICKERS_WEIGHT, _ALL_TICKERS_WEIGHT = 2, 80
_ALL_TICKERS_FROM = 101
"""So many symbols are asked for by one request for all, which answers in one round trip."""
_TRADES_PER_REQUEST = 1_000

_TOO_MANY, _ILLEGAL_CHARACTERS, _BAD_INTERVAL, _BAD_SYMBOL = -1003, -1100, -1120, -1121
_FORBIDDEN, _BANNED, _RESTRICTED = 403, 418, 451


class _Refusal(msgspec.Struct, frozen=True):
    code: int
    msg: str = ""


class BinanceRequests:
    """Close it. Every method raises what `HttpClient.request` raises, with Binance's codes told apart."""

    def __init__(
        self,
        config: BinanceConfig,
        clock: Clock,
        *,
        budget: RequestBudget | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        def client(url: str) -> HttpClient:
            made = HttpClient(
                NAME,
                url,
                config.http,
                clock,
                classify=lambda answer: _classify(answer, made.retry_after_s(answer)),
                budget=budget,
                metrics=metrics,
            )
            return made

        self._http = client(config.rest_url)
        self._old = None if config.old_trades_url is None else client(config.old_trades_url)
        self._headers = {"X-MBX-TIME-UNIT": "MICROSECOND"} if config.microseconds else {}

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()
        if self._old is not None:
            await self._old.close()

    async def klines(self, name: str, interval: str, start_ms: int, end_ms: int, limit: int) -> bytes:
        """At most `limit` rows that open from `start_ms` to `end_ms`, both inclusive, oldest first."""
        params: dict[str, str | int] = {"symbol": name, "interval": interval}
        params |= {"startTime": start_ms, "endTime": end_ms, "limit": limit}
        path = "/api/v3/klines"
        return (await self._http.request("GET", path, params=params, endpoint="klines", weight=_KLINES_WEIGHT)).body

    async def tickers(self, names: Sequence[str]) -> dict[str, Ticker | SymbolNotFound]:
        """What `/api/v3/ticker/24hr` says of each name."""
        if len(names) >= _ALL_TICKERS_FROM:
            there = await self._tickers({}, _ALL_TICKERS_WEIGHT)
            return {name: there.get(name) or _not_listed(name) for name in names}
        found: dict[str, Ticker | SymbolNotFound] = {}
        for first in range(0, len(names), TICKERS_PER_REQUEST):
            found |= await self._page_of_tickers(names[first : first + TICKERS_PER_REQUEST])
        return found

    async def _page_of_tickers(self, names: Sequence[str]) -> dict[str, Ticker | SymbolNotFound]:
        try:
            there = await self._tickers({"symbols": msgspec.json.encode(names).decode()}, _TICKERS_WEIGHT)
        except SymbolNotFound as error:
            if len(names) == 1:
                return {names[0]: error}
            # one bad name refuses all, and the answer does not say which
            half = len(names) // 2
            return await self._page_of_tickers(names[:half]) | await self._page_of_tickers(names[half:])
        return {name: there.get(name) or _not_listed(name) for name in names}

    async def _tickers(self, params: Mapping[str, str], weight: int) -> dict[str, Ticker]:
        path = "/api/v3/ticker/24hr"
        answer = await self._http.request("GET", path, params=params, endpoint="ticker", weight=weight)
        return {ticker.symbol: ticker for ticker in parse_tickers(answer.body)}

    async def trade_pages(self, name: str, ids: range) -> AsyncGenerator[dict[int, str], None]:
        """Trades of `ids`, as messages of the stream by their id: of the thousand newest first, then the older ones."""
        newest = await self._trades(self._http, "/api/v3/trades", {"symbol": name, "limit": _TRADES_PER_REQUEST})
        yield _texts(name, newest, ids)
        older = range(ids.start, min([ids.stop, *(trade.id for trade in newest)]))
        if older and self._old is None:
            raise SourceRejected(NAME, f"older than the {len(newest)} newest, and old_trades_url is not set")
        next_id = older.start
        while next_id < older.stop and self._old is not None:
            limit = min(_TRADES_PER_REQUEST, older.stop - next_id)
            page = await self._trades(
                self._old, "/api/v3/historicalTrades", {"symbol": name, "fromId": next_id, "limit": limit}
            )
            if not page:
                return
            yield _texts(name, page, ids)
            last_id = max(trade.id for trade in page)
            if last_id < next_id:
                raise MalformedMessage(NAME, f"{name}: trades from {next_id} end at {last_id}")
            next_id = last_id + 1

    async def _trades(self, http: HttpClient, path: str, params: Mapping[str, str | int]) -> list[RestTrade]:
        return await http.get_json(
            path, list[RestTrade], params, headers=self._headers, endpoint="trades", weight=_TRADES_WEIGHT
        )


def _texts(name: str, trades: Sequence[RestTrade], ids: range) -> dict[int, str]:
    return {trade.id: trade_text(name, trade) for trade in trades if trade.id in ids}


def _not_listed(name: str) -> SymbolNotFound:
    return SymbolNotFound(NAME, f"{name} is not listed")


def _classify(answer: Answer, retry_after_s: float | None) -> SourceError | None:
    """Of what `HttpClient` cannot know: `{"code":-1121,"msg":"Invalid symbol."}`, and statuses with a meaning of
    their own here."""
    if answer.status < 400:
        return None
    shown = f"HTTP {answer.status}: {answer.text[:200]}"
    try:
        refusal = msgspec.json.decode(answer.body, type=_Refusal)
    except (ValueError, RecursionError):
        refusal = _Refusal(0)
    if answer.status in (_FORBIDDEN, _BANNED) or refusal.code == _TOO_MANY:  # 403: the firewall, mostly for haste
        return Throttled(NAME, shown, retry_after_s)
    if answer.status == _RESTRICTED:
        return NotEntitled(NAME, f"{shown}: not served where this server is")
    if refusal.code == _BAD_SYMBOL or (refusal.code == _ILLEGAL_CHARACTERS and "symbol" in refusal.msg):
        return SymbolNotFound(NAME, shown)
    if refusal.code == _BAD_INTERVAL:
        return OutOfRange(NAME, shown)
    return None
