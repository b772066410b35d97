"""The room of history, put together: calendars, ledger, answers, the door for fetched bars, and back-fill."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from marketd.api.engine import PartState
from marketd.app.stores import Stores
from marketd.calendars import Calendar, Calendars, expected_starts
from marketd.clock import Clock
from marketd.collect.history_writer import HistoryWriter
from marketd.collect.universe import Universe
from marketd.config import Config
from marketd.continuity.backfill import BackfillService
from marketd.continuity.history import HistoryService
from marketd.continuity.ledger import LedgerService, SymbolGaps
from marketd.continuity.plan import Starts
from marketd.continuity.queue import BackfillQueue, RecordsQueue, RedisQueue
from marketd.continuity.worker import Ready
from marketd.errors import InvalidInput
from marketd.ingest.bar_checks import BarContext, CheckedBars
from marketd.model import Instrument, Interval, Tier
from marketd.model.time import NS_PER_S
from marketd.sources.contract import BarHistory, Provider, Subscriptions
from marketd.telemetry import Metrics

_logger = logging.getLogger(__name__)

__all__ = ["HistoryRoom"]

_KNOWN_BARS = 50
_FIRST_NS, _LAST_NS = -(2**63), 2**63 - 1
_SHIFT_NS = 15 * 3_600 * NS_PER_S
_DAYS_AROUND_NS = 4 * 86_400 * NS_PER_S


class HistoryRoom:
    """providers, wanted: who there is and what is streamed of each, by name. histories: all that may have bars of a
    symbol, best first (`routing.Router.histories`). note: told on the loop of each batch of history that was judged.
    ready: see `continuity.worker.Ready`.

    judged_ns: up to where live streams have said what they proved; later minutes are not searched for holes yet.
    None: no stream is watched.
    """

    def __init__(
        self,
        config: Config,
        stores: Stores,
        clock: Clock,
        metrics: Metrics,
        providers: Mapping[str, Provider],
        wanted: Mapping[str, Subscriptions],
        *,
        histories: Callable[[str, Interval], Sequence[tuple[str, BarHistory]]],
        note: Callable[[str, CheckedBars], None],
        ready: Ready | None = None,
        judged_ns: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._judged_ns = judged_ns
        self._config = config
        self._stores = stores
        self._clock = clock
        self._providers = dict(providers)
        self._wanted = wanted
        self._histories = histories
        self._calendars = Calendars(config.calendars)
        self._universe_version = 0
        self.universe = Universe(())
        self.reload_universe()
        self.ledger = LedgerService(
            stores.bars, stores.records, self.calendar_of, self.providers_of, clock, config.ledger
        )
        self.answers = HistoryService(
            stores.bars,
            stores.records,
            self.calendar_of,
            self.providers_of,
            clock,
            config.ledger,
            prefer=config.history.prefer,
        )
        self.writer = HistoryWriter(
            stores.bars,
            clock,
            metrics,
            context_of=self._context_of,
            note=note,
            stored=self._stored,
            turn=stores.turn,
        )
        self.backfill = BackfillService(
            self._queue(),
            stores.records,
            stores.bars,
            config.backfill,
            clock,
            choose=self.choose,
            keep=self.writer.keep,
            expected=self._expected,
            tier_of=self.tier_of,
            scan=self.healable,
            ready=ready,
            metrics=metrics,
        )

    def _queue(self) -> BackfillQueue:
        settings = self._config.backfill
        if self._config.redis_url is not None:
            return RedisQueue(
                self._config.redis_url,
                self._clock,
                queue_max=settings.queue_max,
                lease_s=settings.lease_s,
                ended_max=settings.ended_max,
            )
        return RecordsQueue(
            self._stores.records,
            self._clock,
            queue_max=settings.queue_max,
            lease_s=settings.lease_s,
            shared=self._stores.kind == "postgres",
        )

    def _stored(self, interval: Interval, end_ns: int) -> None:
        self.backfill.stored(interval, end_ns)

    async def close(self) -> None:
        """End back-fill and the door. The stores stay open."""
        await self.backfill.stop()
        self.writer.close()

    def backfill_part(self) -> PartState:
        """For `/health`."""
        state = self.backfill.state
        waiting = sum(tier.count for tier in state.waiting.values()) + state.running + state.unqueued
        kind = "records" if self._config.redis_url is None else "redis"
        return PartState(
            kind=kind, state="off" if state.state == "stopped" else state.state, error=state.error, waiting=waiting
        )

    # --- who and when --------------------------------------------------------------------------------------

    def reload_universe(self) -> None:
        """Take up a universe that was loaded meanwhile. Blocks."""
        versions = self._stores.records.universe_versions()
        newest = versions[-1].version if versions else 0
        if newest != self._universe_version:
            self.universe = Universe(self._stores.records.universe())
            self._universe_version = newest

    def take_up(self, providers: Mapping[str, Provider]) -> None:
        """Those that were built anew, in place of those of the same name."""
        self._providers.update(providers)

    def instrument(self, symbol: str) -> Instrument | None:
        return self.universe.resolve(symbol)

    def calendar_of(self, symbol: str) -> Calendar:
        """Raises InvalidInput for an exchange that has no calendar."""
        instrument = self.instrument(symbol)
        if instrument is not None:
            return self._calendars.of(symbol, instrument.exchange, instrument.asset_class)
        for name in self.providers_of(symbol):
            return self._calendars.of(symbol, self._providers[name].venue)
        return self._calendars.of(symbol)

    def providers_of(self, symbol: str) -> Sequence[str]:
        return [name for name, wanted in self._wanted.items() if symbol in wanted]

    def tier_of(self, symbol: str) -> Tier:
        """The universe's; what is streamed without being in it is watched most closely."""
        instrument = self.instrument(symbol)
        if instrument is not None:
            return instrument.tier
        return "T0" if self.providers_of(symbol) else "T2"

    def able(self, symbol: str, interval: Interval) -> Sequence[str]:
        """Who can be asked for bars: those that stream the symbol, those of its exchange, those that are of no exchange
        and may have it; of a symbol that neither the universe nor a stream knows, all that may have it."""
        instrument = self.instrument(symbol)
        serving = self.providers_of(symbol)
        near: list[str] = []
        of_none: list[str] = []
        for name, provider in self._providers.items():
            if provider.symbols.to_provider(symbol) is None:
                continue
            if not serving and instrument is None:
                near.append(name)
            elif provider.venue is None:
                of_none.append(name)
            elif instrument is not None and provider.venue == instrument.exchange:
                near.append(name)
        found = []
        for name in dict.fromkeys((*serving, *near, *of_none)):
            provider = self._providers[name]
            if provider.bars is not None and interval.name in provider.capabilities.bars:
                found.append(name)
        return found

    def _is_healed(self, symbol: str, interval: Interval) -> bool:
        """Prices that are made up are fetched only when they are asked for."""
        return any(not self._providers[name].capabilities.simulated for name in self.able(symbol, interval))

    def choose(self, symbol: str, interval: Interval) -> Sequence[tuple[str, BarHistory]]:
        """Those of `able`, the healthiest first as policies say."""
        able = self.able(symbol, interval)
        best_first = self._histories(symbol, interval) if able else ()
        return [(name, history) for name, history in best_first if name in able]

    def healable(
        self, interval: Interval, start_ns: int, end_ns: int, symbols: Iterable[str] | None = None
    ) -> Sequence[SymbolGaps]:
        """Holes that somebody could be asked for: of these, or of the universe and what is streamed. Blocks."""
        judged_ns = self._judged_ns()
        end_ns = end_ns if judged_ns is None else min(end_ns, judged_ns)
        if end_ns <= start_ns:
            return []
        if symbols is None:
            active = {i.symbol for i in self.universe.instruments if i.active}
            symbols = active.union(*(wanted.symbols for wanted in self._wanted.values()))
        able = sorted(symbol for symbol in symbols if self._is_healed(symbol, interval))
        return self.ledger.scan(interval, start_ns, end_ns, able) if able else []

    def _expected(self, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> Starts:
        return expected_starts(self.calendar_of(symbol), interval, start_ns, end_ns)

    def _context_of(self, symbol: str, interval: Interval, first_ns: int, last_ns: int) -> BarContext:
        """What is known of bars about to be judged; without a calendar their session is not."""
        instrument = self.instrument(symbol)
        spans = starts = None
        try:
            calendar = self.calendar_of(symbol)
            # Wide enough to recognise bars whose clock is half a day off.
            spans = calendar.open_spans(_within(first_ns - _SHIFT_NS), _within(last_ns + _SHIFT_NS))
            starts = expected_starts(
                calendar, interval, _within(first_ns - _DAYS_AROUND_NS), _within(last_ns + _DAYS_AROUND_NS)
            )
        except InvalidInput as error:
            _logger.debug("the session of %s is not checked: %s", symbol, error)
        return BarContext(
            now_ns=self._clock.time_ns(),
            asset_class="equity" if instrument is None else instrument.asset_class,
            open_spans=spans,
            expected_starts=starts,
            actions=self._stores.records.actions(symbol),
            known=self._known(symbol, interval, first_ns, last_ns),
        )

    def _known(self, symbol: str, interval: Interval, first_ns: int, last_ns: int) -> pa.Table:
        """Stored bars within a range and some on either side of it."""
        read, prefer = self._stores.bars.read, self._config.history.prefer
        before = read(symbol, interval, _FIRST_NS, first_ns, limit=_KNOWN_BARS, newest_first=True, prefer=prefer)
        within = read(symbol, interval, first_ns, last_ns + 1, prefer=prefer)
        after = read(symbol, interval, last_ns + 1, _LAST_NS, limit=_KNOWN_BARS, prefer=prefer)
        return pa.concat_tables([before.take(np.arange(before.num_rows)[::-1]), within, after])


def _within(time_ns: int) -> int:
    return min(max(time_ns, _FIRST_NS), _LAST_NS)
