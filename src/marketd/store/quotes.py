"""The newest quote of every symbol where other programs can read it: the contract, in memory, and in Redis.

Owns the Redis schema: key ``quote:{symbol}``, a JSON object with the fields of `QuoteRecord`, without expiry (how old
a quote is, its timestamp says). Refuses to decide what is worth writing or when (`collect.cache_writer` does), and
to retry: a failed call raises StoreError, and writing the same quotes again does no harm. Another engine implements
`QuoteCache`; ``REDIS_URL`` chooses between these two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol, runtime_checkable

import msgspec

from marketd.errors import InvalidInput, StoreError
from marketd.model import format_ns, parse_ns
from marketd.store.redis_client import checked, connect_redis, without_secrets

__all__ = [
    "CachedQuote",
    "KeyValue",
    "MemoryQuoteCache",
    "QuoteCache",
    "QuoteRecord",
    "RedisQuoteCache",
    "decimal_text",
    "quote_key",
]


def quote_key(symbol: str) -> str:
    return f"quote:{symbol}"


def decimal_text(price: float | Decimal | None) -> str | None:
    """The price in decimal digits, never with an exponent; None if it is absent.

    Of a float, the shortest text that reads back as the same float; of a Decimal, its own digits.
    """
    if price is None:
        return None
    if isinstance(price, Decimal):
        return format(price, "f")
    text = repr(price)
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


class QuoteRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The JSON object under ``quote:{symbol}``.

    price, bid, ask: decimal text, null when absent. volume: a number, or null. timestamp: event time, cached_at: when
    it was written; both RFC 3339, UTC.
    """

    symbol: str
    price: str | None
    bid: str | None
    ask: str | None
    volume: int | float | None
    timestamp: str
    cached_at: str


class CachedQuote(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The newest quote of a symbol. price: the last price, else the middle of bid and ask. Absent is None."""

    symbol: str
    price: float | None
    bid: float | None
    ask: float | None
    volume: float | None
    time_event_ns: int
    time_cached_ns: int

    def to_record(self) -> QuoteRecord:
        volume = self.volume
        return QuoteRecord(
            symbol=self.symbol,
            price=decimal_text(self.price),
            bid=decimal_text(self.bid),
            ask=decimal_text(self.ask),
            volume=int(volume) if volume is not None and volume.is_integer() else volume,
            timestamp=format_ns(self.time_event_ns),
            cached_at=format_ns(self.time_cached_ns),
        )

    @classmethod
    def from_record(cls, record: QuoteRecord) -> CachedQuote:
        """Raises ValueError for a price or a time that is none."""
        return cls(
            symbol=record.symbol,
            price=_number(record.price),
            bid=_number(record.bid),
            ask=_number(record.ask),
            volume=None if record.volume is None else float(record.volume),
            time_event_ns=parse_ns(record.timestamp),
            time_cached_ns=parse_ns(record.cached_at),
        )


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"{text!r} is not a decimal number")
    return float(number)


class QuoteCache(Protocol):
    """Keeps one quote a symbol: the one put last."""

    async def put(self, quotes: Sequence[CachedQuote]) -> None:
        """Keep these, instead of what their symbols had. Not more than a few round trips, however many there are.

        Raises StoreError; then any of them may or may not have been kept, and putting them again is safe.
        """
        ...

    async def get(self, symbol: str) -> CachedQuote | None:
        """What was put last, None if nothing ever was. Raises StoreError."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...


class MemoryQuoteCache:
    """Implements `QuoteCache`; forgets with the process."""

    def __init__(self) -> None:
        self._quote_by_symbol: dict[str, CachedQuote] = {}

    async def put(self, quotes: Sequence[CachedQuote]) -> None:
        for quote in quotes:
            self._quote_by_symbol[quote.symbol] = quote

    async def get(self, symbol: str) -> CachedQuote | None:
        return self._quote_by_symbol.get(symbol)

    async def close(self) -> None:
        """Holds nothing that must be released."""


@runtime_checkable
class KeyValue(Protocol):
    """The least a Redis client can be. One that has `mset` or `pipeline`, as redis.asyncio's, is given batches."""

    def set(self, name: str, value: str, /) -> Awaitable[Any]: ...

    def get(self, name: str, /) -> Awaitable[str | bytes | None]: ...


class RedisQuoteCache:
    """Implements `QuoteCache` on Redis, or on anything with async `set` and `get`.

    redis: a URL (``redis://``, ``rediss://`` or ``unix://``), which needs the extra ``marketd[redis]`` and connects
    with the first call, or a client, which stays its owner's to close. Whatever a client raises is a StoreError here.
    Raises ConfigError without the extra, InvalidInput for what is neither; no error shows the password in a URL.
    """

    def __init__(self, redis: str | KeyValue) -> None:
        self._owned: Any = None
        if isinstance(redis, str):
            self._where = without_secrets(redis)
            self._client: Any = connect_redis(redis, "quote cache")
            self._owned = self._client
        elif isinstance(redis, KeyValue):
            self._where = "redis"
            self._client = redis
        else:
            raise InvalidInput("redis", redis, "a URL, or an object with async set and get")

    async def put(self, quotes: Sequence[CachedQuote]) -> None:
        await self.put_records([quote.to_record() for quote in quotes])

    async def put_records(self, records: Sequence[QuoteRecord]) -> None:
        """`put`, of the JSON as it is to be. Of several with one symbol the last is kept."""
        if records:
            await checked(self._write({quote_key(r.symbol): msgspec.json.encode(r) for r in records}), self._where)

    async def _write(self, value_by_key: dict[str, bytes]) -> None:
        client = self._client
        if len(value_by_key) == 1:
            ((key, value),) = value_by_key.items()
            await client.set(key, value.decode())
        elif hasattr(client, "mset"):
            await client.mset(value_by_key)
        elif hasattr(client, "pipeline"):
            pipeline = client.pipeline(transaction=False)
            for key, value in value_by_key.items():
                pipeline.set(key, value)
            await pipeline.execute()
        else:
            for key, value in value_by_key.items():
                await client.set(key, value.decode())

    async def get(self, symbol: str) -> CachedQuote | None:
        record = await self.get_record(symbol)
        if record is None:
            return None
        try:
            return CachedQuote.from_record(record)
        except ValueError as error:
            raise self._not_a_quote(symbol, error) from error

    async def get_record(self, symbol: str) -> QuoteRecord | None:
        """`get`, of the JSON as it is. Raises StoreError, also when there is something else under the key."""
        raw = await checked(self._client.get(quote_key(symbol)), self._where)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=QuoteRecord)
        except msgspec.DecodeError as error:
            raise self._not_a_quote(symbol, error) from error

    def _not_a_quote(self, symbol: str, error: Exception) -> StoreError:
        return StoreError(self._where, f"{quote_key(symbol)} does not hold a quote: {error}")

    async def close(self) -> None:
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.aclose()
