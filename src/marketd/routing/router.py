"""Asks the right provider, and the next one when it fails.

Owns what is remembered between choices: circuits, budgets, who is current. `choose` decides who is asked, `verdict`
what all failures together mean, `quota` when a request may go. Refuses to know a provider by name, to look at the data
that passes, and to run by itself: it works when it is asked, apart from one probe at a time for a half-open circuit,
which asks the same question as a request that another provider has answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
import pyarrow as pa

from marketd.clock import Clock
from marketd.errors import (
    InvalidInput,
    NotEntitled,
    SourceError,
    SourceUnavailable,
)
from marketd.model import CorporateAction, Interval, Quote
from marketd.model.time import NS_PER_S
from marketd.routing.able import able_providers, bars_capability, has, nobody
from marketd.routing.choose import Candidate, Choice, Policy, choose
from marketd.routing.config import REST, QuotaConfig, RoutingConfig
from marketd.routing.deadline import Deadlines
from marketd.routing.flight import Flights
from marketd.routing.histories import asked_through
from marketd.routing.quota import WAITED, Budget
from marketd.routing.quota_memory import QuotaMemory
from marketd.routing.standing import Standing
from marketd.routing.stats import ProviderStats, Switch, SwitchCause
from marketd.routing.verdict import kind_of, redacted, verdict
from marketd.sources.contract import CAPABILITIES, BarHistory, Capability, Provider
from marketd.sources.http import PRIORITY
from marketd.telemetry import Metrics

__all__ = ["Routed", "Router"]

_logger = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK_MIN = 8
_AT_ONCE = 8
_ABLE_MAX = 100_000


class Routed(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An answer. provider: who gave it. why: why it was that one."""

    value: T
    provider: str
    why: str


class _Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a request goes by from its beginning to its end, whatever is reloaded meanwhile. able: a memory of
    `_able`."""

    config: RoutingConfig
    providers: Mapping[str, Provider]
    policies: Mapping[Capability, Policy]
    quotas: Mapping[str, QuotaConfig]
    able: dict[tuple[Capability, str, str], tuple[str, ...]]


class Router:
    """providers: in the order of the configuration. memory: where quotas outlive the process. alias: the name under
    which a provider is configured, from one in a policy or a hint; raises InvalidInput for one that nobody has.
    on_switch: told on the loop when requests of a capability go to another provider.

    A provider needs its budget when it is built: make the router without providers, build them with `budget_of`, and
    give them to `replace`.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        config: RoutingConfig,
        clock: Clock,
        metrics: Metrics,
        memory: QuotaMemory | None = None,
        *,
        alias: Callable[[str], str] = str,
        on_switch: Callable[[Switch], None] | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._standing = Standing(clock, memory)
        self._alias = alias
        self._on_switch = on_switch
        self._current: dict[tuple[Capability, tuple[str, ...]], str] = {}
        self._ahead_ns: dict[tuple[Capability, str, str], int] = {}
        self._flights = Flights()
        self._probes: set[asyncio.Task[None]] = set()
        self._deadlines = Deadlines(clock)
        self._setup = _Setup(config=RoutingConfig(), providers={}, policies={}, quotas={}, able={})
        self.replace(config=config, providers=providers)

    # --- how it is set up ----------------------------------------------------------------------------------

    def budget_of(self, name: str) -> Budget:
        """The budget of a provider, also before it is there. The same object for as long as the router lives."""
        return self._standing.budget(name)

    @property
    def takes_hints(self) -> bool:
        """Whether who is asked first may be said with a question."""
        return self._setup.config.allow_source_override

    def check(self, config: RoutingConfig) -> None:
        """Whether `replace` would take it. Raises InvalidInput for a name in policies or quotas that `alias` does not
        know."""
        self._policies(config)
        self._quotas(config)

    def replace(
        self, config: RoutingConfig | None = None, providers: Sequence[Provider] | None = None
    ) -> tuple[Provider, ...]:
        """Go on with these; None: with those there are. Returns the providers that are no longer asked, to be closed
        once what they were asked is answered.

        All or nothing: raises InvalidInput (a name that `alias` does not know, a provider twice) before anything
        changes. Requests under way end as they began. Circuits and budgets of providers that stay are kept; a provider
        that is another object was built anew, so what its key did not cover is forgotten.
        """
        old = self._setup
        config = old.config if config is None else config
        there = tuple(old.providers.values()) if providers is None else tuple(providers)
        by_name = {provider.name: provider for provider in there}
        if len(by_name) < len(there):
            raise InvalidInput("providers", [provider.name for provider in there], "each name once")
        policies = self._policies(config)
        quotas = self._quotas(config)
        self._setup = _Setup(config=config, providers=by_name, policies=policies, quotas=quotas, able={})
        self._standing.configure(config, quotas)
        for name, provider in by_name.items():
            self._standing.admit(provider)
            if old.providers.get(name) is not provider:
                self._standing.forgive(name)
            self._metrics.circuit_state.labels(name).set_function(partial(self._standing.worst_circuit, provider))
        for name in old.providers.keys() - by_name.keys():
            self._metrics.circuit_state.remove(name)
        # Who is current stays so for those that are left: if it is gone, the next choice is a switch.
        self._current = {
            (capability, left): current
            for (capability, able), current in self._current.items()
            if (left := tuple(name for name in by_name if name in able))
        }
        kept = {id(provider) for provider in there}
        return tuple(provider for provider in old.providers.values() if id(provider) not in kept)

    def _policies(self, config: RoutingConfig) -> dict[Capability, Policy]:
        policies: dict[Capability, Policy] = {}
        for capability in CAPABILITIES:
            given = config.policy(capability)
            names = None
            if given is not None:
                names = tuple(dict.fromkeys(name if name == REST else self._alias(name) for name in given))
            policies[capability] = Policy(
                names=names,
                usable_above=config.usable_above,
                recover_s=config.recover_s,
                overtake_margin=config.overtake_margin,
                overtake_s=config.overtake_s,
                allow_hint=config.allow_source_override,
            )
        return policies

    def _quotas(self, config: RoutingConfig) -> dict[str, QuotaConfig]:
        return {self._alias(name): quota for name, quota in config.quotas.items()}

    async def close(self) -> None:
        """End probes and save what was spent. The providers stay open."""
        probes = [*self._probes]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await self._deadlines.close()
        await self._standing.close()

    # --- questions -----------------------------------------------------------------------------------------

    async def quote(self, symbol: str, *, source: str | None = None) -> Routed[Quote]:
        """The latest quote. source: who is asked first, if hints are allowed.

        Like all questions: raises InvalidInput (a source that nobody is), SymbolNotFound, MarketClosed, OutOfRange,
        NotEntitled, SourceRejected (nobody can answer, whenever), Throttled (nobody may be asked until
        `retry_after_s`), SourceUnavailable (the reasons of all).
        """

        def ask(provider: Provider) -> Awaitable[Quote]:
            assert provider.quotes is not None
            return provider.quotes.quote(symbol)

        return await self._route("quotes_l1", symbol, ask, source=source, key=(symbol,))

    async def bars(
        self, symbol: str, interval: Interval, start_ns: int, end_ns: int, *, source: str | None = None
    ) -> Routed[pa.Table]:
        """Finished bars, as `BarHistory.bars` gives them. See `quote`."""

        def ask(provider: Provider) -> Awaitable[pa.Table]:
            assert provider.bars is not None
            return provider.bars.bars(symbol, interval, start_ns, end_ns)

        key = (symbol, interval.name, start_ns, end_ns)
        return await self._route(bars_capability(interval), symbol, ask, interval=interval, source=source, key=key)

    async def expiries(self, symbol: str, *, source: str | None = None) -> Routed[Sequence[date]]:
        """Expiries of options, ascending. See `quote`."""

        def ask(provider: Provider) -> Awaitable[Sequence[date]]:
            assert provider.options is not None
            return provider.options.expiries(symbol)

        return await self._route("options_chain", symbol, ask, source=source, key=("expiries", symbol))

    async def chain(self, symbol: str, expiry: date | None = None, *, source: str | None = None) -> Routed[pa.Table]:
        """An option chain, as `OptionChains.chain` gives it. See `quote`."""

        def ask(provider: Provider) -> Awaitable[pa.Table]:
            assert provider.options is not None
            return provider.options.chain(symbol, expiry)

        return await self._route("options_chain", symbol, ask, source=source, key=("chain", symbol, expiry))

    async def observations(
        self, series: str, start: date | None = None, end: date | None = None, *, source: str | None = None
    ) -> Routed[pa.Table]:
        """An economic series, as `MacroSeries.observations` gives it. See `quote`."""

        def ask(provider: Provider) -> Awaitable[pa.Table]:
            assert provider.macro is not None
            return provider.macro.observations(series, start, end)

        return await self._route("macro", series, ask, source=source, key=(series, start, end))

    async def actions(
        self, symbol: str, start_ns: int, end_ns: int, *, source: str | None = None
    ) -> Routed[Sequence[CorporateAction]]:
        """Splits and dividends, as `ActionHistory.actions` gives them. See `quote`."""

        def ask(provider: Provider) -> Awaitable[Sequence[CorporateAction]]:
            assert provider.actions is not None
            return provider.actions.actions(symbol, start_ns, end_ns)

        return await self._route("corporate_actions", symbol, ask, source=source, key=(symbol, start_ns, end_ns))

    async def quotes(
        self, symbols: Sequence[str], *, source: str | None = None
    ) -> dict[str, Routed[Quote] | SourceError]:
        """The latest quote of each, or why there is none, in as few requests as the providers allow. What one provider
        does not have is asked of the next. Raises InvalidInput (a source that nobody is)."""
        wanted = tuple(dict.fromkeys(symbols))
        hint = self._hint(source)
        key = ("quotes", wanted, hint, PRIORITY.get())
        return await self._flights.join(key, lambda: self._quotes_of(wanted, hint))

    # --- for those who ask by themselves -------------------------------------------------------------------

    def order(
        self, capability: Capability, names: Iterable[str] | None = None, *, current: str | None = None
    ) -> tuple[str, ...]:
        """Who is to be asked now, of these (None: of all), the preferred one first. Who cannot be asked now is left
        out. current: who is asked at present."""
        return self.explain(capability, names, current=current).order

    def explain(
        self, capability: Capability, names: Iterable[str] | None = None, *, current: str | None = None
    ) -> Choice:
        """`order` with the reasons. Of all, and without `current`: as requests that most providers could answer."""
        setup = self._setup
        given = setup.providers if names is None else set(names)
        able = tuple(n for n, p in setup.providers.items() if n in given and has(p, capability))
        if names is None and current is None:
            groups = [group for group in self._current if group[0] == capability]
            widest = max(groups, key=lambda group: len(group[1]), default=None)
            current = None if widest is None else self._current[widest]
        return self._choose(setup, capability, able, None, current=current)

    def report(
        self, provider: str, capability: Capability, error: SourceError | None = None, latency_s: float | None = None
    ) -> None:
        """How a call, or a stream, went: None as an error means that it answers. latency_s: of an answer, seconds; None
        if there is nothing to measure. A provider that is gone is not counted."""
        if provider in self._setup.providers:
            is_answer = error is None or kind_of(error) == "answer"
            self._standing.record(provider, capability, error, latency_s if is_answer else None)

    def completed(self, provider: str, capability: Capability, expected: int, got: int) -> None:
        """Of so many rows that were expected of an answer, so many came."""
        if provider in self._setup.providers:
            self._standing.circuit(provider, capability).health.completed(expected, got)

    def histories(self, symbol: str, interval: Interval) -> list[tuple[str, BarHistory]]:
        """All that can have bars of a symbol, best first, also those that cannot be asked now: these say so when they
        are. What they are asked counts like any request; waiting is up to the provider, without a deadline."""
        setup = self._setup
        capability = bars_capability(interval)
        able = self._able(setup, capability, symbol, interval)
        choice = self._choose(setup, capability, able, symbol, is_patient=True)
        found: list[tuple[str, BarHistory]] = []
        for name in dict.fromkeys((*choice.order, *able)):
            history = setup.providers[name].bars
            assert history is not None
            found.append((name, asked_through(partial(self._bars_from, name), history)))
        return found

    async def _bars_from(self, name: str, symbol: str, interval: Interval, start_ns: int, end_ns: int) -> pa.Table:
        """Of this provider, as it is now."""
        setup = self._setup
        capability = bars_capability(interval)
        provider = setup.providers.get(name)
        if provider is None or provider.bars is None or name not in self._able(setup, capability, symbol, interval):
            raise SourceUnavailable(name, f"is not asked for {interval} bars of {symbol} any longer")
        if name not in self._choose(setup, capability, (name,), symbol).order:
            raise self._standing.not_asked(name, capability, symbol)
        history = provider.bars

        def ask() -> Awaitable[pa.Table]:
            return history.bars(symbol, interval, start_ns, end_ns)

        return await self._attempt(setup, name, capability, ask, (symbol,), has_deadline=False)

    # --- one question --------------------------------------------------------------------------------------

    async def _route(
        self,
        capability: Capability,
        subject: str,
        ask: Callable[[Provider], Awaitable[T]],
        *,
        key: tuple[Hashable, ...],
        interval: Interval | None = None,
        source: str | None = None,
    ) -> Routed[T]:
        hint = self._hint(source)

        def go() -> Coroutine[Any, Any, Routed[T]]:
            return self._routed(capability, subject, ask, interval, hint)

        return await self._flights.join((capability, *key, hint, PRIORITY.get()), go)

    def _hint(self, source: str | None) -> str | None:
        """Raises InvalidInput for a source that nobody is, where hints are allowed."""
        if source is None:
            return None
        name = source.strip().lower()
        if not self._setup.config.allow_source_override:
            return name
        there = self._setup.providers
        name = name if name in there else self._alias(name)
        if name not in there:
            raise InvalidInput("source", source, f"one of {', '.join(there)}")
        return name

    async def _routed(
        self,
        capability: Capability,
        subject: str,
        ask: Callable[[Provider], Awaitable[T]],
        interval: Interval | None,
        hint: str | None,
    ) -> Routed[T]:
        setup = self._setup
        able = self._able(setup, capability, subject, interval)
        choice = self._chosen(setup, capability, able, subject, hint)
        failures: dict[str, SourceError] = {}
        for name in choice.order:
            provider = setup.providers[name]
            try:
                value = await self._attempt(setup, name, capability, partial(ask, provider), (subject,))
            except SourceError as error:
                failures[name] = error
                continue
            untried = [other for other in able if other != name and other not in failures]
            self._probe(setup, capability, untried, ask, subject)
            return Routed(value=value, provider=name, why=_why(choice.reasons[name], failures))
        raise self._verdict(setup, capability, able, subject, interval, failures)

    async def _attempt(
        self,
        setup: _Setup,
        name: str,
        capability: Capability,
        ask: Callable[[], Awaitable[T]],
        subjects: Sequence[str],
        *,
        has_deadline: bool = True,
    ) -> T:
        """One provider's answer. What it says of the provider is remembered. Raises SourceError."""
        circuit = self._standing.circuit(name, capability)
        if not circuit.breaker.take():
            raise self._standing.not_asked(name, capability, None)
        self._metrics.provider_selected.labels(capability, name).inc()
        waited: list[int] = []
        token = WAITED.set(waited)
        began_ns = self._clock.monotonic_ns()
        is_noted = False

        def note(error: SourceError | None, latency_s: float | None) -> None:
            nonlocal is_noted
            # What one says that was replaced meanwhile, perhaps for its key, says nothing of its successor.
            if self._setup.providers.get(name) is setup.providers[name]:
                self._standing.record(name, capability, error, latency_s, subjects)
                is_noted = True

        try:
            if has_deadline:
                value = await self._deadlines.within(ask(), self._deadline_s(setup, capability))
            else:
                value = await ask()
            note(None, self._took_s(began_ns, waited))
        except SourceError as error:
            note(error, self._took_s(began_ns, waited) if kind_of(error) == "answer" else None)
            raise
        except TimeoutError:
            late = SourceUnavailable(name, f"no answer within {self._took_s(began_ns, ()):.3g} s")
            note(late, self._took_s(began_ns, waited))
            raise late from None
        except InvalidInput:
            raise
        except Exception as error:
            _logger.exception("a defect in asking %s for %s", name, capability)
            broken = SourceUnavailable(name, f"failed with {type(error).__name__}")
            note(broken, None)
            raise broken from error
        finally:
            WAITED.reset(token)
            if not is_noted:
                circuit.breaker.released()
        return value

    def _took_s(self, began_ns: int, waited: Sequence[int]) -> float:
        return max(0, self._clock.monotonic_ns() - began_ns - sum(waited)) / NS_PER_S

    def _deadline_s(self, setup: _Setup, capability: Capability) -> float:
        is_live = capability == "quotes_l1" and PRIORITY.get() == "live"
        return setup.config.attempt_live_s if is_live else setup.config.attempt_s

    def _probe(
        self,
        setup: _Setup,
        capability: Capability,
        names: Iterable[str],
        ask: Callable[[Provider], Awaitable[Any]],
        subject: str,
    ) -> None:
        """Put the same question to those that are on trial, beside the answer that is given."""
        for name in names:
            circuit = self._standing.circuit(name, capability)
            is_on_trial = circuit.breaker.state == "half_open" and circuit.breaker.has_turn
            if not is_on_trial or name not in self._choose(setup, capability, (name,), subject).order:
                continue
            task = asyncio.create_task(self._try_out(setup, name, capability, ask, subject))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _try_out(
        self,
        setup: _Setup,
        name: str,
        capability: Capability,
        ask: Callable[[Provider], Awaitable[Any]],
        subject: str,
    ) -> None:
        try:
            await self._attempt(setup, name, capability, partial(ask, setup.providers[name]), (subject,))
        except (SourceError, InvalidInput) as error:
            _logger.info("%s is not back for %s: %s", name, capability, redacted(str(error)))

    # --- quotes of many ------------------------------------------------------------------------------------

    async def _quotes_of(self, symbols: Sequence[str], hint: str | None) -> dict[str, Routed[Quote] | SourceError]:
        setup = self._setup
        found: dict[str, Routed[Quote] | SourceError] = {}
        failures: dict[str, dict[str, SourceError]] = {symbol: {} for symbol in symbols}
        choices: dict[Hashable, Choice] = {}
        choice_of: dict[str, Choice] = {}
        able_of: dict[str, tuple[str, ...]] = {}
        for symbol in symbols:
            able = able_of[symbol] = self._able(setup, "quotes_l1", symbol, None)
            refused = tuple(name for name in able if self._standing.circuit(name, "quotes_l1").refusal_of(symbol))
            choice = choices.get((able, refused))
            if choice is None:
                choice = choices[able, refused] = self._chosen(setup, "quotes_l1", able, symbol, hint)
            choice_of[symbol] = choice
        turn = 0
        left = list(symbols)
        while left:
            by_name: dict[str, list[str]] = {}
            for symbol in left:
                order = choice_of[symbol].order
                if turn < len(order):
                    by_name.setdefault(order[turn], []).append(symbol)
                else:
                    found[symbol] = self._verdict(setup, "quotes_l1", able_of[symbol], symbol, None, failures[symbol])
            answers = await asyncio.gather(*(self._quotes_from(setup, n, some) for n, some in by_name.items()))
            left = []
            for name, answer in zip(by_name, answers, strict=True):
                for symbol in by_name[name]:
                    got = answer.get(symbol)
                    if isinstance(got, Quote):
                        why = _why(choice_of[symbol].reasons[name], failures[symbol])
                        found[symbol] = Routed(value=got, provider=name, why=why)
                    else:
                        failures[symbol][name] = got or SourceUnavailable(name, f"left {symbol} out of its answer")
                        left.append(symbol)
            turn += 1
        self._probe_quotes(setup, able_of)
        return {symbol: found[symbol] for symbol in symbols}

    def _probe_quotes(self, setup: _Setup, able_of: Mapping[str, Sequence[str]]) -> None:
        """Of each provider on trial that can have one of the symbols, the first."""
        first: dict[str, str] = {}
        for symbol, able in able_of.items():
            for name in able:
                first.setdefault(name, symbol)
        for name, symbol in first.items():

            def ask(provider: Provider, symbol: str = symbol) -> Awaitable[Quote]:
                assert provider.quotes is not None
                return provider.quotes.quote(symbol)

            self._probe(setup, "quotes_l1", (name,), ask, symbol)

    async def _quotes_from(self, setup: _Setup, name: str, symbols: Sequence[str]) -> Mapping[str, Quote | SourceError]:
        """One provider's answers, in pieces, so that a deadline costs a piece."""
        provider = setup.providers[name]
        size = max(provider.capabilities.quotes_per_request, _CHUNK_MIN)
        found: dict[str, Quote | SourceError] = {}
        pieces = iter([symbols[at : at + size] for at in range(0, len(symbols), size)])

        async def work() -> None:
            for piece in pieces:
                found.update(await self._piece(setup, name, provider, piece))

        await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, -(-len(symbols) // size)))))
        return found

    async def _piece(
        self, setup: _Setup, name: str, provider: Provider, symbols: Sequence[str]
    ) -> Mapping[str, Quote | SourceError]:
        quotes = provider.quotes
        assert quotes is not None
        circuit = self._standing.circuit(name, "quotes_l1")

        async def ask() -> Mapping[str, Quote | SourceError]:
            answer = await quotes.quotes(symbols)
            failures = [e for e in answer.values() if isinstance(e, SourceError) and kind_of(e) != "answer"]
            if failures and len(failures) == len(answer):
                raise failures[0]
            return answer

        try:
            answer = await self._attempt(setup, name, "quotes_l1", ask, symbols)
        except SourceError as error:
            return dict.fromkeys(symbols, error)
        circuit.health.completed(len(symbols), sum(symbol in answer for symbol in symbols))
        for symbol, got in answer.items():
            if isinstance(got, NotEntitled):
                circuit.refused(symbol, got)
        return answer

    # --- who ----------------------------------------------------------------------------------------------

    def _able(self, setup: _Setup, capability: Capability, subject: str, interval: Interval | None) -> tuple[str, ...]:
        """See `able_providers`."""
        key = (capability, subject, "" if interval is None else interval.name)
        found = setup.able.get(key)
        if found is None:
            names = setup.policies[capability].names
            found = able_providers(setup.providers.values(), names, capability, subject, interval)
            if len(setup.able) >= _ABLE_MAX:
                setup.able.clear()
            setup.able[key] = found
        return found

    def _choose(
        self,
        setup: _Setup,
        capability: Capability,
        able: Sequence[str],
        subject: str | None,
        *,
        current: str | None = None,
        hint: str | None = None,
        is_patient: bool = False,
    ) -> Choice:
        """is_patient: the half-open are tried in their place, since who asks can wait for the next one."""
        scores = {name: self._standing.circuit(name, capability).score for name in able}
        now_ns = self._clock.monotonic_ns()
        candidates: list[Candidate] = []
        for name in able:
            circuit = self._standing.circuit(name, capability)
            throttled_s = self._standing.budget(name).closed_s
            state, score = circuit.breaker.state, scores[name]
            if is_patient and state == "half_open" and circuit.breaker.has_turn:
                state, score = "closed", 1.0
            candidates.append(
                Candidate(
                    provider=name,
                    score=score,
                    state=state,
                    has_turn=circuit.breaker.has_turn,
                    open_s=circuit.breaker.open_s,
                    throttled_s=throttled_s,
                    barred=circuit.refusal_of(subject),
                    healthy_s=circuit.healthy_s(is_throttled=throttled_s > 0),
                    ahead_s=self._ahead_s(setup, capability, name, current, scores, now_ns),
                    because="" if circuit.last_error is None else circuit.last_error.reason,
                )
            )
        return choose(candidates, setup.policies[capability], current=current, hint=hint)

    def _ahead_s(
        self,
        setup: _Setup,
        capability: Capability,
        name: str,
        current: str | None,
        scores: Mapping[str, float],
        now_ns: int,
    ) -> float:
        """For how long it has been better than the current one by the margin, as far as it was looked at."""
        if current is None or name == current or current not in scores:
            return 0.0
        key = (capability, name, current)
        if scores[name] < scores[current] + setup.config.overtake_margin:
            self._ahead_ns.pop(key, None)
            return 0.0
        return (now_ns - self._ahead_ns.setdefault(key, now_ns)) / NS_PER_S

    def _chosen(
        self, setup: _Setup, capability: Capability, able: tuple[str, ...], subject: str | None, hint: str | None
    ) -> Choice:
        """The choice of a request. Without a hint it makes the first one current, and a change is told."""
        group = (capability, able)
        current = self._current.get(group)
        heeded = hint is not None and setup.config.allow_source_override
        if hint is not None and heeded:
            return self._choose(setup, capability, able, subject, current=current, hint=hint)
        choice = self._choose(setup, capability, able, subject, current=current, hint=hint)
        chosen = choice.chosen
        circuits = [self._standing.circuit(name, capability) for name in able]
        is_of_symbol = any(circuit.barred is None and circuit.refusal_of(subject) for circuit in circuits)
        if chosen is not None and chosen != current and not is_of_symbol:
            self._current[group] = chosen
            if current is not None:
                self._switched(setup, capability, current, chosen, choice, able)
        return choice

    def _switched(
        self, setup: _Setup, capability: Capability, old: str, new: str, choice: Choice, able: tuple[str, ...]
    ) -> None:
        cause = self._cause(setup, capability, old, new, able)
        reason = f"{new}: {choice.reasons[new]}"
        if old in choice.reasons:
            reason += f"; {old}: {choice.reasons[old]}"
        switch = Switch(
            capability=capability,
            old=old,
            new=new,
            reason=reason,
            cause=cause,
            at_ns=self._clock.time_ns(),
            among=able,
        )
        _logger.warning("%s now comes from %s instead of %s (%s)", capability, new, old, reason)
        self._metrics.provider_switches.labels(capability, new, cause).inc()
        if self._on_switch is not None:
            self._on_switch(switch)

    def _cause(self, setup: _Setup, capability: Capability, old: str, new: str, able: Sequence[str]) -> SwitchCause:
        if old not in able or old not in setup.providers:
            return "reconfigured"
        circuit = self._standing.circuit(old, capability)
        if circuit.barred is not None:
            return "not_entitled"
        if self._standing.budget(old).closed_s > 0:
            return "throttled"
        if circuit.breaker.state != "closed":
            return "circuit_open"
        if circuit.score <= setup.config.usable_above:
            return "unhealthy"
        names = setup.policies[capability].names
        order = able if names is None else names
        is_earlier = new in order and old in order and order.index(new) < order.index(old)
        return "preferred" if is_earlier else "better"

    def _verdict(
        self,
        setup: _Setup,
        capability: Capability,
        names: Sequence[str],
        subject: str,
        interval: Interval | None,
        failures: Mapping[str, SourceError],
    ) -> SourceError:
        what = f"{capability} of {subject}" if interval is None else f"{interval} bars of {subject}"
        if not names:
            policy = setup.policies[capability].names
            return nobody(setup.providers.values(), policy, capability, subject, interval, what)
        not_asked = self._standing.not_asked
        reasons = {name: failures.get(name) or not_asked(name, capability, subject) for name in names}
        return verdict(what, reasons)

    # --- what is shown -------------------------------------------------------------------------------------

    def stats(self) -> list[ProviderStats]:
        """Of every provider, in the order of the configuration."""
        setup = self._setup
        choices = {capability: self.explain(capability) for capability in CAPABILITIES}
        return [self._standing.stats(provider, choices) for provider in setup.providers.values()]


def _why(reason: str, failures: Mapping[str, SourceError]) -> str:
    before = "".join(f"; {name}: {redacted(error.reason)}" for name, error in failures.items())
    return reason + before
