"""Providers of a test's own, and a router that asks them."""

from __future__ import annotations

import pyarrow as pa

from marketd.model import BAR_SCHEMA, CorporateAction, Quote
from marketd.routing import Router, RoutingConfig
from marketd.sources.contract import Capabilities, Provider
from marketd.sources.symbols import SymbolMap
from marketd.telemetry import Metrics
from marketd.testing import ManualClock

__all__ = ["Acme", "desk", "provider"]


class Acme:
    """A provider that answers by request as the test says: `answers[symbol]`, else `error`, else a quote.

    asked: what it was asked, oldest first. delay_s: how long an answer takes. price: of its quotes.
    """

    def __init__(self, name, clock, *, price=1.0):
        self.name = name
        self.clock = clock
        self.price = price
        self.error = None
        self.answers = {}
        self.delay_s = 0.0
        self.asked = []

    async def _answer(self, what, symbol):
        self.asked.append((what, symbol))
        if self.delay_s:
            await self.clock.sleep(self.delay_s)
        found = self.answers.get(symbol, self.error)
        if isinstance(found, BaseException):
            raise found
        return found

    def _quote(self, symbol):
        now_ns = self.clock.time_ns()
        return Quote(symbol=symbol, time_event_ns=now_ns, time_received_ns=now_ns, source=self.name, last=self.price)

    async def quote(self, symbol):
        return await self._answer("quote", symbol) or self._quote(symbol)

    async def quotes(self, symbols):
        self.asked.append(("quotes", tuple(symbols)))
        if self.delay_s:
            await self.clock.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return {s: self.answers.get(s, self._quote(s)) for s in symbols if self.answers.get(s) != "left out"}

    async def bars(self, symbol, interval, start_ns, end_ns):
        return await self._answer("bars", symbol) or pa.table([[] for _ in BAR_SCHEMA], schema=BAR_SCHEMA)

    async def expiries(self, symbol):
        return await self._answer("expiries", symbol) or []

    async def chain(self, symbol, expiry=None):
        return await self._answer("chain", symbol) or pa.table({"strike": [100.0]})

    async def observations(self, series, start=None, end=None):
        return await self._answer("observations", series) or pa.table({"value": [4.5]})

    async def actions(self, symbol, start_ns, end_ns):
        return await self._answer("actions", symbol) or [
            CorporateAction(symbol=symbol, kind="split", ex_ns=start_ns, provider=self.name, as_of_ns=end_ns, ratio=2.0)
        ]


def provider(acme, *, symbols=None, **capabilities):
    """With all parts, for all symbols unless some are given."""
    has = {"quotes": True, "bars": ("1m", "1d"), "options": True, "macro": True, "actions": True, **capabilities}
    names = SymbolMap() if symbols is None else SymbolMap(symbols, to_provider=lambda _: None)
    return Provider(
        name=acme.name,
        capabilities=Capabilities(**has),
        symbols=names,
        quotes=acme,
        bars=acme,
        options=acme,
        macro=acme,
        actions=acme,
    )


class Desk:
    def __init__(self, *names, config=None, memory=None, **capabilities):
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.switches = []
        self.by_name = {name: Acme(name, self.clock, price=float(n)) for n, name in enumerate(names)}
        self.providers = [provider(acme, **capabilities) for acme in self.by_name.values()]
        self.router = Router(
            self.providers,
            config or RoutingConfig(),
            self.clock,
            self.metrics,
            memory,
            on_switch=self.switches.append,
        )

    def __getitem__(self, name):
        return self.by_name[name]

    def stats(self, name, capability="quotes_l1"):
        found = next(s for s in self.router.stats() if s.provider == name)
        return next(c for c in found.capabilities if c.capability == capability)

    def counted(self, metric, **labels):
        return self.metrics.registry.get_sample_value(metric, labels)


def desk(*names, **kwargs):
    return Desk(*(names or ("alpha", "beta")), **kwargs)
