"""The request side of the contract in `marketd.sources.contract`, as tests any provider can inherit.

Subclass `RequestConformance`, name the class ``Test…`` and write `make`, which yields a `RequestHarness` over the
provider's simulator. What a provider cannot do is skipped, and said. The simulator's own truth is what answers are
compared with; every failure of `Misbehaviour` must come out as the typed failure, within a bounded wait.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from marketd.clock import Clock, SystemClock
from marketd.errors import (
    MalformedMessage,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import ADJUSTED, BAR_SCHEMA, OBSERVATION_SCHEMA, OPTION_SCHEMA, Interval, Quote, starts_of
from marketd.sources.contract import Provider
from marketd.testing.providers.misbehave import KINDS, Kind, Misbehaviour

__all__ = ["RequestConformance", "RequestHarness"]

_EXPECTED: dict[Kind, tuple[type[SourceError], ...]] = {
    "refuse": (SourceUnavailable,),
    "error_500": (SourceUnavailable,),
    "unavailable_503": (SourceUnavailable,),
    "throttle": (Throttled,),
    "unauthorised": (NotEntitled,),
    "payment_required": (NotEntitled,),
    "forbidden": (NotEntitled, Throttled),  # some say so that there were too many
    "html": (MalformedMessage, SourceUnavailable),
    "empty": (MalformedMessage, SourceUnavailable),
    "not_json": (MalformedMessage,),
    "other_json": (MalformedMessage,),
    "cut_gzip": (SourceUnavailable, MalformedMessage),
    "cut_body": (SourceUnavailable, MalformedMessage),
    "huge": (MalformedMessage,),
    "redirect": (SourceRejected, SourceUnavailable, MalformedMessage),
    "hang": (SourceUnavailable,),
}


@dataclass(kw_only=True)
class RequestHarness:
    """A provider over its simulator, and what the simulator knows.

    provider: built with a small `http.timeout_s` (≤ 0.5), few attempts, quick retries, `retry_after_max_s` of 0, and
    `body_max_bytes` below `misbehaviour.huge_bytes`. symbol: one it has, our name. bars: of `interval`, what is to come
    from `start_ns` to `end_ns`: (ts_ns, open, high, low, close, volume); the span should hold a minute without trades,
    and reach over more than one page. quote: what `quote` is to say now: bid, ask, last. series: of a macro provider.
    secrets: texts that no error may contain.
    """

    provider: Provider
    symbol: str
    misbehaviour: Misbehaviour | None = None
    clock: Clock = field(default_factory=SystemClock)
    unknown_symbol: str | None = "NOSUCH9"
    interval: Interval = field(default_factory=lambda: Interval.parse("1m"))
    start_ns: int = 0
    end_ns: int = 0
    bars: Sequence[tuple[int, float, float, float, float, float | None]] = ()
    quote: tuple[float | None, float | None, float | None] | None = None
    series: str | None = None
    secrets: Sequence[str] = ()
    deadline_s: float = 20.0


class RequestConformance:
    """See the module. Tests are synchronous: each runs a loop of its own."""

    @abstractmethod
    def make(self) -> AbstractAsyncContextManager[RequestHarness]:
        """A fresh provider over a fresh simulator; closes both."""

    def _run(self, body: Any) -> None:
        async def main() -> None:
            async with self.make() as harness:
                async with asyncio.timeout(harness.deadline_s):
                    await body(harness)

        asyncio.run(main())

    def test_capabilities_are_the_parts_there_are(self) -> None:
        async def body(h: RequestHarness) -> None:
            p, c = h.provider, h.provider.capabilities
            assert (p.quotes is not None) == c.quotes
            assert (p.bars is not None) == bool(c.bars)
            assert (p.options is not None) == c.options
            assert (p.macro is not None) == c.macro
            assert (p.actions is not None) == c.actions
            assert (p.stream is not None) == (c.stream_quotes or c.stream_trades)
            assert p.stream is None or (p.stream.name, p.stream.capabilities) == (p.name, c)
            for name in c.bars:
                assert Interval.parse(name).name == name

        self._run(body)

    def test_a_symbol_has_the_providers_name_and_comes_back(self) -> None:
        async def body(h: RequestHarness) -> None:
            theirs = h.provider.symbols.to_provider(h.symbol)
            assert theirs is not None
            assert h.provider.symbols.from_provider(theirs) == h.symbol

        self._run(body)

    def test_bars_are_those_of_the_provider_in_our_conventions(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.bars is None:
                pytest.skip(f"{h.provider.name} has no bars")
            assert h.bars, "the harness must say which bars there are"
            got = await h.provider.bars.bars(h.symbol, h.interval, h.start_ns, h.end_ns)
            assert got.schema.equals(BAR_SCHEMA)
            columns = ("open", "high", "low", "close", "volume")
            rows = list(zip(starts_of(got).tolist(), *(got[name].to_pylist() for name in columns), strict=True))
            assert rows == list(h.bars)
            assert set(got["symbol"].to_pylist()) == {h.symbol}
            assert set(got["interval"].to_pylist()) == {h.interval.name}
            assert set(got["status"].to_pylist()) == {"backfill"}
            adjusted = h.provider.capabilities.adjustment != "raw"
            assert set(got["provider"].to_pylist()) == {h.provider.name + (ADJUSTED if adjusted else "")}

        self._run(body)

    def test_a_span_is_half_open(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.bars is None:
                pytest.skip(f"{h.provider.name} has no bars")
            first, second = h.bars[0][0], h.bars[1][0]
            got = await h.provider.bars.bars(h.symbol, h.interval, first, second)
            assert starts_of(got).tolist() == [first]
            assert (await h.provider.bars.bars(h.symbol, h.interval, first, first)).num_rows == 0

        self._run(body)

    def test_the_running_bar_is_left_out(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.bars is None:
                pytest.skip(f"{h.provider.name} has no bars")
            now_ns = h.clock.time_ns()
            got = await h.provider.bars.bars(h.symbol, h.interval, now_ns - 30 * h.interval.ns, now_ns + h.interval.ns)
            assert all(h.interval.ceil(ts + 1) <= h.clock.time_ns() for ts in starts_of(got).tolist())

        self._run(body)

    def test_an_interval_that_it_does_not_have_is_out_of_range(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.bars is None:
                pytest.skip(f"{h.provider.name} has no bars")
            absent = [name for name in ("10m", "4h", "1s", "1w", "30m") if name not in h.provider.capabilities.bars]
            for name in absent:
                with pytest.raises(OutOfRange):
                    await h.provider.bars.bars(h.symbol, Interval.parse(name), h.start_ns, h.end_ns)

        self._run(body)

    def test_a_quote_is_what_the_provider_says(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.quotes is None:
                pytest.skip(f"{h.provider.name} has no quotes")
            quote = await h.provider.quotes.quote(h.symbol)
            assert (quote.symbol, quote.source) == (h.symbol, h.provider.name)
            assert 0 < quote.time_event_ns <= quote.time_received_ns + 60 * 10**9
            if h.quote is not None:
                assert (quote.bid, quote.ask, quote.last) == h.quote

        self._run(body)

    def test_many_quotes_come_with_a_reason_for_each_that_does_not(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.quotes is None or h.unknown_symbol is None:
                pytest.skip(f"{h.provider.name} has no quotes, or cannot tell an unknown symbol")
            found = await h.provider.quotes.quotes([h.symbol, h.unknown_symbol])
            assert list(found) == [h.symbol, h.unknown_symbol]
            assert isinstance(found[h.symbol], Quote)
            assert isinstance(found[h.unknown_symbol], SymbolNotFound)

        self._run(body)

    def test_an_unknown_symbol_is_said_to_be_one(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.unknown_symbol is None:
                pytest.skip(f"{h.provider.name} cannot tell an unknown symbol")
            for ask in _asks(h, h.unknown_symbol):
                with pytest.raises(SymbolNotFound):
                    await ask()

        self._run(body)

    def test_a_chain_has_the_schema_and_its_order(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.options is None:
                pytest.skip(f"{h.provider.name} has no options")
            expiries = await h.provider.options.expiries(h.symbol)
            assert list(expiries) == sorted(set(expiries))
            chain = await h.provider.options.chain(h.symbol, expiries[-1])
            assert chain.schema.equals(OPTION_SCHEMA)
            assert chain.num_rows
            assert set(chain["expiry"].to_pylist()) == {expiries[-1]}
            keys = list(zip(chain["strike"].to_pylist(), chain["right"].to_pylist(), strict=True))
            assert keys == sorted(keys)
            assert {right for _, right in keys} <= {"call", "put"}
            nearest = await h.provider.options.chain(h.symbol)
            assert set(nearest["expiry"].to_pylist()) == {expiries[0]}

        self._run(body)

    def test_a_series_has_the_schema_and_its_order(self) -> None:
        async def body(h: RequestHarness) -> None:
            if h.provider.macro is None or h.series is None:
                pytest.skip(f"{h.provider.name} has no series")
            got = await h.provider.macro.observations(h.series)
            assert got.schema.equals(OBSERVATION_SCHEMA)
            assert got.num_rows
            keys = list(zip(_ns(got, "ts"), _ns(got, "as_of"), strict=True))
            assert keys == sorted(keys)
            assert set(got["provider"].to_pylist()) == {h.provider.name}

        self._run(body)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_bad_day_is_the_typed_failure_within_a_bounded_wait(self, kind: Kind) -> None:
        async def body(h: RequestHarness) -> None:
            if h.misbehaviour is None:
                pytest.skip(f"{h.provider.name} does not speak HTTP")
            for ask in _asks(h, h.symbol):
                h.misbehaviour.kind = kind
                with pytest.raises(_EXPECTED[kind]) as caught:
                    await ask()
                told = f"{caught.value} {caught.value!r}"
                assert not any(secret in told for secret in h.secrets)
                assert str(caught.value).startswith(f"{h.provider.name}: ")
                if kind == "throttle" and isinstance(caught.value, Throttled):
                    assert caught.value.retry_after_s == h.misbehaviour.retry_after_s
                h.misbehaviour.kind = None

        self._run(body)


def _asks(h: RequestHarness, symbol: str) -> list[Any]:
    """Each of the provider's requests, as a function without arguments."""
    p = h.provider
    asks: list[Any] = []
    if p.quotes is not None:
        quotes = p.quotes
        asks.append(lambda: quotes.quote(symbol))
    if p.bars is not None:
        bars = p.bars
        asks.append(lambda: bars.bars(symbol, h.interval, h.start_ns, h.end_ns))
    if p.options is not None:
        options = p.options
        asks += [lambda: options.expiries(symbol), lambda: options.chain(symbol)]
    if p.actions is not None:
        actions = p.actions
        asks.append(lambda: actions.actions(symbol, h.start_ns, h.end_ns))
    if p.macro is not None:
        macro, series = p.macro, h.series if symbol == h.symbol and h.series is not None else symbol
        asks.append(lambda: macro.observations(series))
    return asks


def _ns(table: pa.Table, column: str) -> list[int]:
    return [int(value) for value in table[column].to_numpy().astype("int64")]
