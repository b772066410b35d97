"""What a source says, gathered for a test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from marketd.model import Quote, TickBatch, Trade


class Heard:
    """Everything a source said so far, one value an event: rows of a `TickBatch` are taken apart."""

    def __init__(self):
        self.batches = []
        self.tape = []
        self.task = None

    @property
    def events(self):
        return [single for batch in self.batches for event in batch for single in _singles(event)]

    def of(self, kind, symbol=None):
        return [e for e in self.events if isinstance(e, kind) and (symbol is None or e.symbol == symbol)]

    def trade_ids(self, symbol):
        return [trade.trade_id for trade in self.of(Trade, symbol)]

    def tap(self, time_ns, raw):
        self.tape.append((time_ns, raw))

    async def until(self, condition, deadline_s=10.0):
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while not condition():
            if self.task.done():
                self.task.result()
            assert loop.time() < deadline, f"did not come true; the last were {self.events[-8:]}"
            await asyncio.sleep(0.002)


def _singles(event):
    return event.to_events() if isinstance(event, TickBatch) else [event]


@asynccontextmanager
async def hearing(make, wanted):
    """make: a source from a tap."""
    heard = Heard()
    stream = make(heard.tap).stream(wanted)

    async def listen():
        async for batch in stream:
            assert batch
            heard.batches.append(batch)

    heard.task = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        heard.task.cancel()
        await asyncio.wait({heard.task})
        await stream.aclose()
        if not heard.task.cancelled():
            heard.task.result()


def times_never_go_back(heard):
    """Receive times of the ticks, in the order they came."""
    received = [event.time_received_ns for event in heard.events if isinstance(event, Quote | Trade)]
    return received == sorted(received)
