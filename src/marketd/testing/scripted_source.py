"""A source that says what a test has written down: the smallest whole implementation of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

import numpy as np

from marketd.clock import Clock
from marketd.model import Connected, Ended, Quote, SourceEvent, TickBatch, Trade
from marketd.sources.contract import Capabilities, Subscriptions

__all__ = ["ScriptedSource"]

Step = Sequence[SourceEvent] | float | Exception
"""A batch to send, seconds to wait on the clock, or what to raise."""


class ScriptedSource:
    """Plays `script` once, in order, to whoever wants its symbols.

    script: each step is a batch of events, a number of seconds to wait on `clock`, or an exception to raise. Ticks
    of symbols that are not wanted when their turn comes are left out. `Connected` is put before the first step unless
    the script begins with it. ends: whether `Ended` follows the last step; if not, the source falls silent there.
    All added events carry the clock's time and `name`; rows are sent as they were written.
    """

    def __init__(
        self,
        script: Iterable[Step],
        *,
        clock: Clock,
        name: str = "scripted",
        capabilities: Capabilities | None = None,
        ends: bool = True,
    ) -> None:
        self._script = list(script)
        self._clock = clock
        self._name = name
        self._capabilities = capabilities or Capabilities(stream_quotes=True, stream_trades=True, simulated=True)
        self._ends = ends

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def stream(self, wanted: Subscriptions) -> AsyncIterator[Sequence[SourceEvent]]:
        first = next((step for step in self._script if not isinstance(step, int | float)), ())
        if not (isinstance(first, Sequence) and first and isinstance(first[0], Connected)):
            yield [Connected(source=self._name, time_received_ns=self._clock.time_ns())]
        for step in self._script:
            match step:
                case int() | float():
                    await self._clock.sleep(step)
                case Exception():
                    raise step
                case _:
                    symbols = frozenset(wanted.symbols)
                    events = [kept for event in step if (kept := _wanted_part(event, symbols)) is not None]
                    if events:
                        yield events
        if self._ends:
            yield [Ended(source=self._name, time_received_ns=self._clock.time_ns())]
            return
        version = wanted.version
        while True:
            version = await wanted.changed(version)


def _wanted_part(event: SourceEvent, symbols: frozenset[str]) -> SourceEvent | None:
    if isinstance(event, Quote | Trade):
        return event if event.symbol in symbols else None
    if not isinstance(event, TickBatch) or symbols.issuperset(event.symbols):
        return event
    rows = np.array([symbol in symbols for symbol in event.symbols])[event.symbol_index]
    return event.take(rows) if rows.any() else None
