"""Lost trades of a stream whose trades are numbered: fetched by request, and released in the order of their ids.

Owns a `TradeSequence` and at most one fetch a symbol. Refuses to know how a provider is asked (`Pages`) or how its
messages read (`Read`): a fetched trade is written as the stream's message that would have brought it, so that it comes
in by the same door as all others, and a recording has it too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

import msgspec

from marketd.clock import Clock
from marketd.errors import SourceError
from marketd.model import Quarantined, SourceEvent, Trade
from marketd.sources.contract import RawTap
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.sequence import TradeSequence

__all__ = ["Pages", "Read", "TradeRefill"]

Pages = Callable[[str, range], AsyncGenerator[Mapping[int, str], None]]
"""Of (symbol, ids): pages of trades, each the stream's message by its id. Other ids than these are passed over."""

Read = Callable[[str, int], Sequence[SourceEvent]]
"""Of (message, time_received_ns): the events in it."""


class _Refilled(msgspec.Struct, frozen=True):
    """What a fetch brought, oldest first, of the ids it asked for, and why not more."""

    ids: range
    messages: list[str]
    reason: str


class TradeRefill:
    """max_trades: a longer hole is filled at its newer end only, and no more trades than that are held meanwhile.
    attempts: trades that are not there yet are asked for again, `retry` saying after what wait. woken: called
    when `collect` has something to say."""

    def __init__(
        self,
        source: str,
        *,
        clock: Clock,
        pages: Pages,
        read: Read,
        max_trades: int,
        attempts: int,
        retry: ReconnectPolicy,
        rng: random.Random,
        tap: RawTap | None,
        woken: Callable[[], None],
    ) -> None:
        self._source = source
        self._clock = clock
        self._pages = pages
        self._read = read
        self._max_trades = max_trades
        self._attempts = attempts
        self._retry = retry
        self._rng = rng
        self._tap = tap
        self._woken = woken
        self._sequences: dict[str, TradeSequence] = {}
        self._fetches: dict[str, asyncio.Task[_Refilled]] = {}

    def sequence(self, symbol: str) -> TradeSequence:
        """The symbol's, made when it is first asked for."""
        return self._sequences.setdefault(symbol, TradeSequence())

    def check(self, symbol: str) -> None:
        """Start to fetch what is missing of a symbol, unless that is under way."""
        ids = self.sequence(symbol).missing
        if ids is None or symbol in self._fetches:
            return
        newest = ids[-self._max_trades :] if self._max_trades else ids[:0]
        task = asyncio.create_task(self._fetch(symbol, newest))
        task.add_done_callback(lambda _: self._woken())
        self._fetches[symbol] = task

    def forget(self, symbol: str) -> None:
        """It is wanted no longer."""
        self._sequences.pop(symbol, None)
        fetch = self._fetches.pop(symbol, None)
        if fetch is not None:
            fetch.cancel()

    async def disconnected(self) -> None:
        """The connection is lost: end the fetches. What was held will be found missing again."""
        fetches = list(self._fetches.values())
        self._fetches.clear()
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        for sequence in self._sequences.values():
            sequence.disconnected()

    def collect(self) -> list[SourceEvent]:
        """Hand on what finished fetches brought, and say what they could not bring."""
        events: list[SourceEvent] = []
        for symbol, fetch in list(self._fetches.items()):
            sequence = self._sequences[symbol]
            crowded = len(sequence.held) > self._max_trades
            if not fetch.done() and not crowded:
                continue
            del self._fetches[symbol]
            if fetch.done():
                refilled = fetch.result()
            else:
                fetch.cancel()
                refilled = _Refilled(range(0), [], f"more than {self._max_trades} trades came meanwhile")
            events += self._hand_on(symbol, sequence, refilled)
            self.check(symbol)
        return events

    def _hand_on(self, symbol: str, sequence: TradeSequence, refilled: _Refilled) -> list[SourceEvent]:
        time_received_ns = self._clock.time_ns()
        events: list[SourceEvent] = []
        fetched: list[Trade] = []
        for message in refilled.messages:
            if self._tap is not None:
                self._tap(time_received_ns, message)
            for event in self._read(message, time_received_ns):
                if isinstance(event, Trade):
                    fetched.append(event)
                else:
                    events.append(event)
        released, given_up = sequence.fill(fetched)
        for ids in given_up:
            beyond = bool(refilled.ids) and ids.start < refilled.ids.start
            reason = f"only the newest {len(refilled.ids)} are fetched" if beyond else refilled.reason
            events.append(
                Quarantined(
                    source=self._source,
                    time_received_ns=time_received_ns,
                    reason="trades_missing",
                    detail=f"{symbol}: trades {ids.start} to {ids.stop - 1} were lost: {reason}",
                    symbol=symbol,
                )
            )
        # held trades are taken up only now, and receive times of a stream never go back
        events += [msgspec.structs.replace(trade, time_received_ns=time_received_ns) for trade in released]
        return events

    async def _fetch(self, symbol: str, ids: range) -> _Refilled:
        found: dict[int, str] = {}
        reason = "the exchange does not have them"
        for attempt in range(self._attempts):
            if attempt:
                await self._clock.sleep(self._retry.delay_s(attempt - 1, self._rng))
            try:
                async with aclosing(self._pages(symbol, ids)) as pages:
                    async for page in pages:
                        found.update((trade_id, message) for trade_id, message in page.items() if trade_id in ids)
            except SourceError as error:
                reason = error.reason
                break  # the client tried again already
            if len(found) == len(ids):
                break
        return _Refilled(ids, [found[trade_id] for trade_id in sorted(found)], reason)
