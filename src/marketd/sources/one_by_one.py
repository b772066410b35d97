"""Quotes of many symbols from a provider whose requests name one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from marketd.errors import MalformedMessage, MarketClosed, SourceError, SymbolNotFound
from marketd.model import Quote

__all__ = ["OF_ONE_SYMBOL", "one_by_one"]

OF_ONE_SYMBOL = (SymbolNotFound, MarketClosed, MalformedMessage)
"""What is said of a symbol; any other failure concerns the provider."""

_AT_ONCE = 8


async def one_by_one(ask: Callable[[str], Awaitable[Quote]], symbols: Sequence[str]) -> dict[str, Quote | SourceError]:
    """See `QuoteRequest.quotes`. ask: `QuoteRequest.quote`. The first failure that concerns all ends it."""
    found: dict[str, Quote | SourceError] = {}
    left = iter(dict.fromkeys(symbols))

    async def work() -> None:
        for symbol in left:
            try:
                found[symbol] = await ask(symbol)
            except OF_ONE_SYMBOL as error:
                found[symbol] = error

    workers = [asyncio.create_task(work()) for _ in range(min(_AT_ONCE, len(symbols)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return {symbol: found[symbol] for symbol in dict.fromkeys(symbols)}
