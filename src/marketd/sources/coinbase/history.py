"""What Coinbase Exchange remembers: candles and trades, by request."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import MalformedMessage, OutOfRange, SourceError, SymbolNotFound
from marketd.model import BAR_SCHEMA, Interval
from marketd.model.time import NS_PER_S
from marketd.sources.coinbase.config import CoinbaseConfig
from marketd.sources.coinbase.parse import NAME, Candle, RestTrade, parse_candles
from marketd.sources.coinbase.symbols import product_id
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.telemetry import Metrics

__all__ = ["GRANULARITIES", "CoinbaseHistory", "http_client", "product_ids", "trade_pages"]

GRANULARITIES: dict[str, int] = {"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "1d": 86_400}
"""Seconds by interval; the exchange also has 21600, which we do not."""

_TRADES_PER_CALL = 1_000


class Product(msgspec.Struct, frozen=True):
    id: str


def http_client(
    config: CoinbaseConfig, clock: Clock, *, budget: RequestBudget | None = None, metrics: Metrics | None = None
) -> HttpClient:
    """One client for all parts of the provider: the exchange limits by address (10/s, 15 at once)."""
    return HttpClient(NAME, config.rest_url, config.http, clock, classify=_classify, budget=budget, metrics=metrics)


def _classify(answer: Answer) -> SourceError | None:
    """Of what `HttpClient` cannot know: which refusals are about the symbol."""
    if answer.status == 404:
        return SymbolNotFound(NAME, f"HTTP 404: {answer.text[:200]}")
    return None


class CoinbaseHistory:
    """Implements `BarHistory`. http: see `http_client`; the caller closes it."""

    def __init__(self, http: HttpClient, config: CoinbaseConfig, clock: Clock) -> None:
        self._http = http
        self._config = config
        self._clock = clock

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Minutes without trades are absent; `vwap` and `trades` are not told."""
        granularity_s = GRANULARITIES.get(interval.name)
        if granularity_s is None:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(GRANULARITIES)}")
        product = product_id(symbol)
        step_ns = self._config.candles_per_call * interval.ns
        tables: list[pa.Table] = []
        # the first candle at or after the start
        page_ns = -(-start_ns // interval.ns) * interval.ns
        end_ns = min(end_ns, interval.floor(self._clock.time_ns()))
        while page_ns < end_ns:
            page_end_ns = min(page_ns + step_ns, end_ns)
            rows = await self._http.get_json(
                f"/products/{product}/candles",
                list[Candle],
                {"granularity": granularity_s, "start": page_ns // NS_PER_S, "end": page_end_ns // NS_PER_S},
                endpoint="candles",
            )
            as_of_ns = self._clock.time_ns()
            tables.append(
                parse_candles(
                    rows,
                    symbol=product,
                    interval=interval,
                    start_ns=page_ns,
                    end_ns=page_end_ns,
                    as_of_ns=as_of_ns,
                )
            )
            page_ns = page_end_ns
        return pa.concat_tables(tables) if tables else BAR_SCHEMA.empty_table()


async def trade_pages(http: HttpClient, product: str, ids: range) -> AsyncGenerator[list[RestTrade], None]:
    """Trades whose id is in `ids`, newest page first, until all were seen or the exchange has no more."""
    before_id = ids.stop
    while before_id > ids.start:
        page = await http.get_json(
            f"/products/{product}/trades",
            list[RestTrade],
            {"after": before_id, "limit": min(_TRADES_PER_CALL, before_id - ids.start)},
            endpoint="trades",
        )
        yield [trade for trade in page if trade.trade_id in ids]
        if not page:
            return
        oldest_id = min(trade.trade_id for trade in page)
        if oldest_id >= before_id:
            raise MalformedMessage(NAME, f"{product}: trades after={before_id} gave {oldest_id}")
        before_id = oldest_id


async def product_ids(http: HttpClient) -> frozenset[str]:
    """Every product the exchange lists."""
    return frozenset(product.id for product in await http.get_json("/products", list[Product], endpoint="products"))
