"""A recording as a provider: its stream, and requests about what the stream has told so far."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import OutOfRange, SourceError, SymbolNotFound
from marketd.model import BAR_SCHEMA, Interval, Quote, Side
from marketd.sources.contract import Provider
from marketd.sources.replay.config import ReplayConfig
from marketd.sources.replay.feed import BARS, ReplaySource
from marketd.sources.replay.past import BarRows, Past
from marketd.sources.replay.recording import Decoder
from marketd.sources.replay.rows import NAME
from marketd.sources.symbols import SymbolMap

__all__ = ["ReplayHistory", "ReplayQuotes", "replay_provider"]


def replay_provider(config: ReplayConfig, clock: Clock, decoders: Mapping[str, Decoder] | None = None) -> Provider:
    """Its symbols are those of the files. Files with a column of symbols are read through for them, so build it in a
    thread where they are large.

    With `times: shifted` it streams and answers nothing: what it plays as now was not then. decoders: see
    `ReplaySource`, which says what is raised.
    """
    source = ReplaySource(config, clock, decoders)
    names = source.symbols
    known = frozenset(names)

    def same(symbol: str) -> str | None:
        return symbol if symbol in known else None

    answers = config.times == "kept"
    return Provider(
        name=NAME,
        capabilities=source.capabilities,
        symbols=SymbolMap({name: name for name in names}, to_provider=same, from_provider=same),
        stream=source,
        stream_symbols=names,
        quotes=ReplayQuotes(source) if answers else None,
        bars=ReplayHistory(source, clock) if answers else None,
    )


class ReplayHistory:
    """Implements `BarHistory`. The first question reads the files through; every one after it is quick."""

    def __init__(self, source: ReplaySource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._past: Past | None = None
        self._reading = asyncio.Lock()

    async def bars(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """See `BarHistory.bars`. Only of the time before the replay's own: a bar that is not over there is left out,
        whatever the files hold. `side` is `trade` where there were trades, `bid` and `ask` where there was a book.
        Raises OutOfRange where the recording is made of longer bars."""
        if symbol not in self._source.symbols:
            raise SymbolNotFound(NAME, f"{symbol!r} is in none of the files")
        if interval.name not in BARS:
            raise OutOfRange(NAME, f"has no {interval} bars, only {', '.join(BARS)}")
        async with self._reading:
            if self._past is None:
                self._past = await asyncio.to_thread(Past, self._source.files)
        first_ns, last_ns = interval.ceil(start_ns), min(interval.ceil(end_ns), interval.floor(self._source.told_ns))
        found = self._past.bars(symbol, interval, first_ns, max(first_ns, last_ns))
        if found is None:
            raise OutOfRange(NAME, f"the recording of {symbol} has no {interval} bars: its own are longer")
        table = pa.concat_tables(
            _table(rows, symbol, interval, side, self._clock.time_ns()) for side, rows in found.items()
        )
        return table.sort_by("ts") if len(found) > 1 else table


def _table(rows: BarRows, symbol: str, interval: Interval, side: Side, as_of_ns: int) -> pa.Table:
    count, stamp = len(rows.ts), BAR_SCHEMA.field("ts").type
    vwap = np.divide(rows.notional, rows.volume, out=np.full(count, np.nan), where=rows.volume > 0)
    return pa.Table.from_pydict(
        {
            "symbol": pa.repeat(symbol, count),
            "interval": pa.repeat(interval.name, count),
            "side": pa.repeat(side, count),
            "ts": pa.array(rows.ts).cast(stamp),
            "open": pa.array(rows.open),
            "high": pa.array(rows.high),
            "low": pa.array(rows.low),
            "close": pa.array(rows.close),
            "volume": pa.array(rows.volume, from_pandas=True),
            "vwap": pa.array(vwap, from_pandas=True),
            "trades": pa.array(rows.trades, mask=rows.trades == 0),
            "provider": pa.repeat(NAME, count),
            "status": pa.repeat("backfill", count),
            "as_of": pa.array(np.full(count, as_of_ns)).cast(stamp),
        },
        BAR_SCHEMA,
    )


class ReplayQuotes:
    """Implements `QuoteRequest`: the last that the stream told, whether or not the symbol is wanted of it."""

    def __init__(self, source: ReplaySource) -> None:
        self._source = source

    async def quote(self, symbol: str) -> Quote:
        """See `QuoteRequest.quote`. Times are the recording's. Raises OutOfRange where nothing of it was told yet."""
        found = self._find(symbol)
        if isinstance(found, SourceError):
            raise found
        return found

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """See `QuoteRequest.quotes`."""
        return {symbol: self._find(symbol) for symbol in symbols}

    def _find(self, symbol: str) -> Quote | SourceError:
        quote = self._source.latest(symbol)
        if quote is not None:
            return quote
        if symbol not in self._source.symbols:
            return SymbolNotFound(NAME, f"{symbol!r} is in none of the files")
        return OutOfRange(NAME, f"the replay has told nothing of {symbol} yet")
