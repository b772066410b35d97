"""Latest values as the REST doors tell them: camelCase under /api/v1, snake_case under /stocks.

Translates `LatestQuote`; every answer says event time, receive time, source, whether it is stale and how old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from marketd.api.engine import Engine
from marketd.api.errors import NoQuoteYet
from marketd.errors import InvalidInput, SourceRejected, UnknownSymbol
from marketd.fanout.latest import LatestQuote
from marketd.ingest.validate import CROSSED, LOCKED
from marketd.model import Quote, format_ns
from marketd.model.time import NS_PER_MS

__all__ = [
    "MAX_SYMBOLS",
    "BatchError",
    "BatchReply",
    "BatchRequest",
    "PriceReply",
    "QuarantineReply",
    "QuarantinedRow",
    "QuoteReply",
    "QuotesReply",
    "SymbolReply",
    "SymbolsReply",
    "UnknownReply",
    "price_reply",
    "prices_reply",
    "quarantine_reply",
    "quote_reply",
    "quotes_reply",
    "symbols_reply",
]

MAX_SYMBOLS = 500
"""Symbols in one request for several."""
_NEAR_GIVEN = 5
_ROWS_A_TURN = 256
_QUOTES_A_TURN = 16

EventTime = Annotated[str, msgspec.Meta(description="Event time: when the provider says it happened. RFC 3339, UTC.")]
ReceivedTime = Annotated[str, msgspec.Meta(description="When it got here. RFC 3339, UTC.")]
Stale = Annotated[bool, msgspec.Meta(description="The event is older than the server's threshold (5 s by default).")]
Age = Annotated[
    int, msgspec.Meta(description="Milliseconds since the event; negative if the provider's clock is ahead of ours.")
]
Volume = Annotated[
    float | None, msgspec.Meta(description="As the provider counts it (session or rolling 24 h), never summed here.")
]
PreviousClose = Annotated[float | None, msgspec.Meta(description="Close of the last stored UTC day before this one.")]


class QuoteReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The latest accepted value of a symbol. Open, high and low are of the current UTC day."""

    symbol: str
    exchange: str
    source: str
    last_price: float | None
    bid_price: float | None
    ask_price: float | None
    bid_size: float | None
    ask_size: float | None
    volume: Volume
    open_price: float | None
    high_price: float | None
    low_price: float | None
    close_price: PreviousClose
    timestamp: EventTime
    received: ReceivedTime
    stale: Stale
    age_ms: Age
    seq: int
    flags: list[Literal["crossed", "locked"]]


class UnknownReply(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol that was asked for and is not known. near: similar ones, for the first few of an answer."""

    symbol: str
    near: list[str]


class QuotesReply(msgspec.Struct, frozen=True, kw_only=True):
    """Several quotes, in the order asked for. waiting: known symbols without a quote yet."""

    quotes: list[QuoteReply]
    waiting: list[str]
    unknown: list[UnknownReply]


class SymbolReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A symbol that can be asked for; price (last, else mid) and event time are null while it has no quote."""

    symbol: str
    exchange: str
    source: str
    simulated: bool
    last_price: float | None
    timestamp: str | None


class SymbolsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Every symbol of the server."""

    symbols: list[SymbolReply]
    count: int


class PriceReply(msgspec.Struct, frozen=True, kw_only=True):
    """The latest accepted value of a symbol. price: the last price, else the mid; null with neither."""

    symbol: str
    price: float | None
    bid: float | None
    ask: float | None
    mid: float | None
    volume: Volume
    source: str
    timestamp: EventTime
    received: ReceivedTime
    stale: Stale
    age_ms: Age


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The symbols whose prices are wanted; repeated ones count once."""

    symbols: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_SYMBOLS)]


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no price of a symbol."""

    symbol: str
    code: Literal["unknown_symbol", "no_quote_yet"]
    message: str


class BatchReply(msgspec.Struct, frozen=True, kw_only=True):
    """Prices in the order asked for, and an error for each symbol that has none."""

    prices: list[PriceReply]
    errors: list[BatchError]


class QuarantinedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row or line that was received and not accepted. where: its line, row or position, if known."""

    source: str
    symbol: str | None
    reason: str
    detail: str
    where: str | None
    received: ReceivedTime


class QuarantineReply(msgspec.Struct, frozen=True, kw_only=True):
    """The newest refused rows, newest first. count: how many rows this answer has."""

    quarantined: list[QuarantinedRow]
    count: int


def _mid(quote: LatestQuote | Quote) -> float | None:
    return None if quote.bid is None or quote.ask is None else (quote.bid + quote.ask) / 2


def _flags(marks: int) -> list[Literal["crossed", "locked"]]:
    flags: list[Literal["crossed", "locked"]] = []
    if marks & CROSSED:
        flags.append("crossed")
    if marks & LOCKED:
        flags.append("locked")
    return flags


async def quote_reply(engine: Engine, symbol: str, source: str | None = None) -> QuoteReply:
    """source: ask this provider now, if hints are allowed. A symbol that is not live is asked of whoever may have it.
    Raises UnknownSymbol, NoQuoteYet, SourceError."""
    if source is not None and engine.router.takes_hints:
        return _asked(engine, (await engine.router.quote(symbol, source=source)).value)
    try:
        info = engine.info(symbol)
    except UnknownSymbol as error:
        return _asked(engine, await _ask(engine, symbol, error))
    quote = engine.quote(info.symbol)
    if quote is None:
        return _asked(engine, await _ask(engine, symbol, NoQuoteYet(info.symbol)))
    session = await engine.session(info.symbol)
    age_ns = engine.clock.time_ns() - quote.time_event_ns
    return QuoteReply(
        symbol=quote.symbol,
        exchange=info.exchange,
        source=quote.source,
        last_price=quote.last,
        bid_price=quote.bid,
        ask_price=quote.ask,
        bid_size=quote.bid_size,
        ask_size=quote.ask_size,
        volume=quote.volume,
        open_price=session.open,
        high_price=session.high,
        low_price=session.low,
        close_price=session.previous_close,
        timestamp=format_ns(quote.time_event_ns),
        received=format_ns(quote.time_received_ns),
        stale=age_ns > engine.stale_after_ns,
        age_ms=age_ns // NS_PER_MS,
        seq=quote.seq,
        flags=_flags(quote.marks),
    )


async def _ask(engine: Engine, symbol: str, unknown: UnknownSymbol | NoQuoteYet) -> Quote:
    """Of the providers; if there is none that has it, it is as unknown as before."""
    try:
        return (await engine.router.quote(symbol)).value
    except SourceRejected:
        raise unknown from None


def _asked(engine: Engine, quote: Quote) -> QuoteReply:
    """Of a quote that was asked for: it has no place in the stream, and nothing is known of its day."""
    age_ns = engine.clock.time_ns() - quote.time_event_ns
    return QuoteReply(
        symbol=quote.symbol,
        exchange=quote.source.upper(),
        source=quote.source,
        last_price=quote.last,
        bid_price=quote.bid,
        ask_price=quote.ask,
        bid_size=quote.bid_size,
        ask_size=quote.ask_size,
        volume=quote.volume,
        open_price=None,
        high_price=None,
        low_price=None,
        close_price=None,
        timestamp=format_ns(quote.time_event_ns),
        received=format_ns(quote.time_received_ns),
        stale=age_ns > engine.stale_after_ns,
        age_ms=age_ns // NS_PER_MS,
        seq=0,
        flags=[],
    )


async def asked_price_reply(engine: Engine, symbol: str, source: str | None = None) -> PriceReply:
    """See `quote_reply`."""
    if source is not None and engine.router.takes_hints:
        return _price(engine, (await engine.router.quote(symbol, source=source)).value)
    try:
        return price_reply(engine, symbol)
    except (UnknownSymbol, NoQuoteYet) as error:
        return _price(engine, await _ask(engine, symbol, error))


def price_reply(engine: Engine, symbol: str) -> PriceReply:
    """Raises UnknownSymbol, NoQuoteYet."""
    quote = engine.quote(symbol)
    if quote is None:
        raise NoQuoteYet(symbol)
    return _price(engine, quote)


def _price(engine: Engine, quote: LatestQuote | Quote) -> PriceReply:
    mid = _mid(quote)
    age_ns = engine.clock.time_ns() - quote.time_event_ns
    return PriceReply(
        symbol=quote.symbol,
        price=mid if quote.last is None else quote.last,
        bid=quote.bid,
        ask=quote.ask,
        mid=mid,
        volume=quote.volume,
        source=quote.source,
        timestamp=format_ns(quote.time_event_ns),
        received=format_ns(quote.time_received_ns),
        stale=age_ns > engine.stale_after_ns,
        age_ms=age_ns // NS_PER_MS,
    )


async def quotes_reply(engine: Engine, symbols: Sequence[str]) -> QuotesReply:
    """Quotes of those that are known and have one; the others by name. Never raises for a symbol."""
    known = {info.symbol for info in engine.symbols()}
    quotes: list[QuoteReply] = []
    waiting: list[str] = []
    unknown: list[UnknownReply] = []
    for number, symbol in enumerate(symbols, 1):
        if number % _QUOTES_A_TURN == 0:
            await asyncio.sleep(0)  # a long list lets the live path through
        if symbol not in known:
            unknown.append(
                UnknownReply(symbol=symbol, near=_near(engine, symbol) if len(unknown) < _NEAR_GIVEN else [])
            )
            continue
        try:
            quotes.append(await quote_reply(engine, symbol))
        except NoQuoteYet:
            waiting.append(symbol)
    return QuotesReply(quotes=quotes, waiting=waiting, unknown=unknown)


def _near(engine: Engine, symbol: str) -> list[str]:
    """Similar symbols. Looked for only a few times an answer: each is a search through all of them."""
    try:
        engine.info(symbol)
    except UnknownSymbol as error:
        return list(error.near)
    return []


async def prices_reply(engine: Engine, symbols: Sequence[str]) -> BatchReply:
    """Prices of those that are known and have one, an error for each of the others. Raises InvalidInput for blanks."""
    if not all(symbols):
        raise InvalidInput("symbols", "", "names that are not empty")
    known = {info.symbol for info in engine.symbols()}
    prices: list[PriceReply] = []
    errors: list[BatchError] = []
    near_given = 0
    for symbol in dict.fromkeys(symbols):
        if symbol not in known:
            near = _near(engine, symbol) if near_given < _NEAR_GIVEN else []
            near_given += 1
            errors.append(BatchError(symbol=symbol, code="unknown_symbol", message=str(UnknownSymbol(symbol, near))))
            continue
        try:
            prices.append(price_reply(engine, symbol))
        except NoQuoteYet as error:
            errors.append(BatchError(symbol=symbol, code="no_quote_yet", message=str(error)))
    return BatchReply(prices=prices, errors=errors)


async def symbols_reply(engine: Engine) -> SymbolsReply:
    """Every symbol, giving way to live work between parts of a long list."""
    out: list[SymbolReply] = []
    for info in engine.symbols():
        quote = engine.quote(info.symbol)
        price: float | None = None
        if quote is not None:
            price = _mid(quote) if quote.last is None else quote.last
        out.append(
            SymbolReply(
                symbol=info.symbol,
                exchange=info.exchange,
                source=info.source,
                simulated=info.simulated,
                last_price=price,
                timestamp=None if quote is None else format_ns(quote.time_event_ns),
            )
        )
        if len(out) % _ROWS_A_TURN == 0:
            await asyncio.sleep(0)
    return SymbolsReply(symbols=out, count=len(out))


def quarantine_reply(engine: Engine, limit: int) -> QuarantineReply:
    """The newest `limit` refused rows."""
    newest: list[Any] = list(engine.quarantine())[-limit:][::-1]
    rows = [
        QuarantinedRow(
            source=row.source,
            symbol=row.symbol,
            reason=row.reason,
            detail=row.detail,
            where=row.where,
            received=format_ns(row.time_received_ns),
        )
        for row in newest
    ]
    return QuarantineReply(quarantined=rows, count=len(rows))
