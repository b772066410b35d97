"""The router with providers of the test's own: who is asked, who is asked next, and what is said when nobody can."""

from __future__ import annotations

import asyncio
import itertools
import math
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_desk import Acme, desk, provider

from marketd.continuity.worker import KnowsItsStart
from marketd.errors import (
    InvalidInput,
    MalformedMessage,
    MarketClosed,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.model import Interval
from marketd.routing import BreakerConfig, QuotaConfig, RoutingConfig, SharesConfig, WaitsConfig
from marketd.sources.contract import Limit
from marketd.sources.http import PRIORITY
from marketd.testing import ScriptedHistory

MINUTE, DAY = Interval.parse("1m"), Interval.parse("1d")
DOWN = SourceUnavailable("alpha", "GET /quote: HTTP 503: overloaded")


def run(scenario):
    asyncio.run(scenario)


async def eventually(clock, awaitable, seconds=60.0):
    """Its result, with time moving on meanwhile."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(round(seconds * 10)):
        if task.done():
            break
        await clock.advance(0.1)
    return await task


# --- failover ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        MalformedMessage("alpha", "not JSON", "<html>"),
        SourceRejected("alpha", "HTTP 400"),
        Throttled("alpha", "HTTP 429", 30.0),
        NotEntitled("alpha", "HTTP 401"),
        SymbolNotFound("alpha", "no such symbol"),
        MarketClosed("alpha", "closed"),
        KeyError("price"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_whatever_goes_wrong_the_next_provider_is_asked(error):
    async def go():
        d = desk()
        d["alpha"].error = error
        routed = await d.router.quote("AAPL")
        assert (routed.provider, routed.value.source) == ("beta", "beta")
        assert "alpha" in routed.why

    run(go())


@pytest.mark.parametrize(
    ("ask", "value"),
    [
        (lambda r: r.bars("AAPL", MINUTE, 0, 60), lambda v: v.num_rows == 0),
        (lambda r: r.bars("AAPL", DAY, 0, 60), lambda v: v.num_rows == 0),
        (lambda r: r.expiries("AAPL"), lambda v: v == []),
        (lambda r: r.chain("AAPL", date(2026, 12, 18)), lambda v: v.num_rows == 1),
        (lambda r: r.observations("DGS10"), lambda v: v.num_rows == 1),
        (lambda r: r.actions("AAPL", 5, 60), lambda v: v[0].provider == "beta"),
    ],
)
def test_every_question_goes_to_the_next_provider(ask, value):
    async def go():
        d = desk()
        d["alpha"].error = DOWN
        routed = await ask(d.router)
        assert routed.provider == "beta"
        assert value(routed.value)

    run(go())


def test_who_does_not_answer_in_time_is_given_up_and_the_next_one_answers():
    async def go():
        d = desk()
        d["alpha"].delay_s = 10.0
        asked = asyncio.create_task(d.router.quote("AAPL"))
        await d.clock.advance(1.999)
        assert not asked.done()
        await d.clock.advance(0.002)
        assert (await asked).provider == "beta"
        assert d.stats("alpha").last_error.reason == "no answer within 2 s"
        assert d.stats("alpha").latency_p50_ms == pytest.approx(2_000)

    run(go())


def test_other_requests_may_take_longer():
    async def go():
        d = desk()
        d["alpha"].delay_s = 10.0
        assert (await eventually(d.clock, d.router.chain("AAPL"))).provider == "alpha"
        token = PRIORITY.set("sweep")
        assert (await eventually(d.clock, d.router.quote("AAPL"))).provider == "alpha"
        PRIORITY.reset(token)

    run(go())


def test_the_circuit_opens_and_the_provider_is_left_in_peace():
    async def go():
        d = desk(config=RoutingConfig(breaker=BreakerConfig(failures=3, open_first_s=5.0)))
        d["alpha"].error = DOWN
        for _ in range(10):
            assert (await d.router.quote("AAPL")).provider == "beta"
        assert len(d["alpha"].asked) == 3
        assert d.counted("circuit_state", provider="alpha") == 0.0
        assert d.counted("circuit_state", provider="beta") == 1.0
        assert d.counted("provider_selected_total", capability="quotes_l1", provider="alpha") == 3
        assert d.counted("provider_selected_total", capability="quotes_l1", provider="beta") == 10
        assert d.stats("alpha").state == "open"
        # of another capability nothing is known
        assert d.stats("alpha", "bars_1m").state == "available"

    run(go())


def test_a_switch_is_told_once_and_so_is_going_back():
    async def go():
        config = RoutingConfig(
            policies={"quotes_l1": "alpha,beta"}, recover_s=30.0, breaker=BreakerConfig(failures=3, open_first_s=5.0)
        )
        d = desk(config=config)
        await d.router.quote("AAPL")
        d["alpha"].error = DOWN
        for _ in range(5):
            await d.router.quote("AAPL")
        [switch] = d.switches
        assert (switch.capability, switch.old, switch.new, switch.cause) == (
            "quotes_l1",
            "alpha",
            "beta",
            "circuit_open",
        )
        assert "HTTP 503" in switch.reason
        assert switch.at_ns == d.clock.time_ns()
        labels = {"capability": "quotes_l1", "provider": "beta", "reason": "circuit_open"}
        assert d.counted("provider_switches_total", **labels) == 1
        d["alpha"].error = None
        await d.clock.advance(5)
        for _ in range(3):  # one of these is also put to alpha, which answers
            assert (await d.router.quote("AAPL")).provider == "beta"
            await d.clock.advance(0)
        assert d.counted("circuit_state", provider="alpha") == 1.0
        await d.clock.advance(29)
        assert (await d.router.quote("AAPL")).provider == "beta"
        await d.clock.advance(2)
        assert (await d.router.quote("AAPL")).provider == "alpha"
        assert [(s.old, s.new, s.cause) for s in d.switches[1:]] == [("beta", "alpha", "preferred")]

    run(go())


def test_a_half_open_circuit_is_probed_beside_the_answer_and_never_delays_it():
    async def go():
        d = desk(config=RoutingConfig(breaker=BreakerConfig(failures=1, open_first_s=5.0)))
        d["alpha"].error = DOWN
        await d.router.quote("AAPL")
        await d.clock.advance(5)
        d["alpha"].delay_s = 1.0
        d["alpha"].asked.clear()
        for _ in range(4):
            assert (await d.router.quote("AAPL")).provider == "beta"
        await d.clock.advance(0)
        assert len(d["alpha"].asked) == 1  # one probe at a time
        await d.clock.advance(1)
        assert d.stats("alpha").state == "open"
        await d.router.close()

    run(go())


def test_a_half_open_one_is_asked_when_nobody_else_is_left():
    async def go():
        d = desk("alpha", config=RoutingConfig(breaker=BreakerConfig(failures=1, open_first_s=5.0)))
        d["alpha"].error = DOWN
        with pytest.raises(SourceUnavailable):
            await d.router.quote("AAPL")
        with pytest.raises(SourceUnavailable, match="not asked for 5 s more after: GET /quote: HTTP 503") as caught:
            await d.router.quote("AAPL")
        assert caught.value.retry_after_s == 5.0
        d["alpha"].error = None
        await d.clock.advance(5)
        assert (await d.router.quote("AAPL")).provider == "alpha"
        assert (await d.router.quote("AAPL")).provider == "alpha"

    run(go())


# --- entitlement --------------------------------------------------------------------------------------------


def test_a_key_that_never_worked_bars_the_capability_without_tripping_the_circuit():
    async def go():
        d = desk(config=RoutingConfig(policies={"quotes_l1": ["alpha", "beta"]}))
        d["alpha"].error = NotEntitled("alpha", "GET /quote: HTTP 401: Invalid API key")
        for symbol in ("AAPL", "MSFT", "AAPL"):
            assert (await d.router.quote(symbol)).provider == "beta"
        assert d["alpha"].asked == [("quote", "AAPL")]
        stats = d.stats("alpha")
        assert (stats.state, stats.chosen) == ("not_entitled", False)
        assert stats.why == "not entitled: GET /quote: HTTP 401: Invalid API key"
        assert d.counted("circuit_state", provider="alpha") == 1.0
        assert [s.cause for s in d.switches] == ["not_entitled"]
        assert d.stats("alpha", "bars_1m").state == "available"
        # with another key the provider is another object, and is asked again
        d["alpha"].error = None
        d.router.replace(providers=[provider(d["alpha"]), d.providers[1]])
        await d.clock.advance(31)
        assert (await d.router.quote("AAPL")).provider == "alpha"

    run(go())


def test_a_symbol_that_the_plan_does_not_cover_costs_no_other():
    async def go():
        d = desk()
        await d.router.quote("AAPL")
        d["alpha"].answers = {s: NotEntitled("alpha", "HTTP 403") for s in ("VOD.L", "7203.T", "SAP.DE")}
        for _ in range(3):
            assert (await d.router.quote("VOD.L")).provider == "beta"
        assert d["alpha"].asked.count(("quote", "VOD.L")) == 1
        assert (await d.router.quote("MSFT")).provider == "alpha"
        assert d.switches == []
        # three different ones in a row are not about symbols any longer
        await d.router.quote("7203.T")
        await d.router.quote("SAP.DE")
        d["alpha"].answers["AIR.PA"] = NotEntitled("alpha", "HTTP 403")
        await d.router.quote("AIR.PA")
        assert d.stats("alpha").state == "not_entitled"

    run(go())


# --- quota --------------------------------------------------------------------------------------------------


def test_a_throttled_provider_is_not_asked_for_as_long_as_it_says():
    async def go():
        d = desk(config=RoutingConfig(policies={"quotes_l1": "alpha,beta"}))
        d["alpha"].error = Throttled("alpha", "HTTP 429", 60.0)
        assert (await d.router.quote("AAPL")).provider == "beta"
        assert (await d.router.quote("AAPL")).provider == "beta"
        assert len(d["alpha"].asked) == 1
        stats = next(s for s in d.router.stats() if s.provider == "alpha")
        assert stats.throttled_until_ns == d.clock.time_ns() + 60 * 10**9
        assert stats.state == "closed"
        assert d.stats("alpha").state == "throttled"
        assert [s.cause for s in d.switches] == ["throttled"]
        # another capability of the same key is throttled too
        assert (await d.router.chain("AAPL")).provider == "beta"

    run(go())


def test_our_own_quota_sends_requests_on_and_counts_against_nobody():
    class Asking(Acme):
        """Asks its budget, as `HttpClient` does."""

        async def quote(self, symbol):
            await self.budget.take("quote", 1)
            return await super().quote(symbol)

    async def go():
        d = desk()
        alpha = Asking("alpha", d.clock)
        alpha.budget = d.router.budget_of("alpha")
        assert alpha.budget is d.router.budget_of("alpha")
        d.router.replace(
            providers=[provider(alpha, limits=(Limit(count=3, seconds=60.0),)), d.providers[1]],
        )
        got = [(await d.router.quote(f"S{n}")).provider for n in range(5)]
        assert got == ["alpha", "alpha", "alpha", "beta", "beta"]
        stats = next(s for s in d.router.stats() if s.provider == "alpha")
        assert (stats.error_ewma, stats.throttled_until_ns) == (0.0, None)
        assert [(w.count, w.left) for w in stats.quota] == [(3, 0)]
        assert d.switches == []

    run(go())


def test_waiting_for_a_turn_is_not_latency():
    class Asking(Acme):
        async def quote(self, symbol):
            await self.budget.take("quote", 1)
            await self.clock.sleep(0.1)
            return await super().quote(symbol)

    async def go():
        d = desk("alpha")
        alpha = Asking("alpha", d.clock)
        alpha.budget = d.router.budget_of("alpha")
        d.router.replace(providers=[provider(alpha, limits=(Limit(count=1, seconds=0.8),))])
        await eventually(d.clock, d.router.quote("A"))
        await eventually(d.clock, d.router.quote("B"))
        assert d.stats("alpha").latency_p95_ms == pytest.approx(100, abs=1)

    run(go())


# --- what is said when nobody can -----------------------------------------------------------------------------

NOT_FOUND = SymbolNotFound("x", "no such symbol")


@pytest.mark.parametrize(
    ("alpha", "beta", "kind", "words", "retry_s"),
    [
        (NOT_FOUND, NOT_FOUND, SymbolNotFound, "alpha: no such symbol; beta: no such symbol", None),
        (Throttled("x", "429", 50.0), Throttled("x", "429", 20.0), Throttled, "alpha: 429; beta: 429", 20.0),
        (DOWN, NOT_FOUND, SourceUnavailable, "alpha: GET /quote: HTTP 503: overloaded; beta: no such symbol", None),
        (Throttled("x", "429", 50.0), DOWN, SourceUnavailable, "alpha: 429; beta: GET", 50.0),
        (NOT_FOUND, MarketClosed("x", "holiday"), MarketClosed, "beta: holiday", None),
        (OutOfRange("x", "before 2020"), NOT_FOUND, OutOfRange, "before 2020", None),
        (NOT_FOUND, NotEntitled("x", "HTTP 403"), NotEntitled, "HTTP 403", None),
        (MalformedMessage("x", "HTML"), NOT_FOUND, SourceUnavailable, "alpha: HTML", None),
        (SourceRejected("x", "HTTP 400"), NOT_FOUND, SourceRejected, "HTTP 400", None),
    ],
)
def test_the_best_reason_is_given(alpha, beta, kind, words, retry_s):
    async def go():
        d = desk()
        d["alpha"].error, d["beta"].error = alpha, beta
        with pytest.raises(SourceError, match=words) as caught:
            await d.router.quote("AAPL")
        assert type(caught.value) is kind
        assert "quotes_l1 of AAPL" in str(caught.value)
        assert getattr(caught.value, "retry_after_s", None) == retry_s

    run(go())


def test_nobody_who_could_have_it_is_a_reason_too():
    async def go():
        d = desk("alpha", symbols={"AAPL": "aapl"}, macro=False)
        with pytest.raises(SymbolNotFound, match="MSFT is no symbol of alpha"):
            await d.router.quote("MSFT")
        assert d["alpha"].asked == []
        with pytest.raises(SourceRejected, match="no provider has macro of DGS10"):
            await d.router.observations("DGS10")
        with pytest.raises(SourceRejected, match="no provider has 5m bars of AAPL"):
            await d.router.bars("AAPL", Interval.parse("5m"), 0, 1)
        d.router.replace(config=RoutingConfig(policies={"quotes_l1": "gamma"}))
        with pytest.raises(SourceRejected, match="alpha could have it, but the policy asks others only"):
            await d.router.quote("AAPL")

    run(go())


def test_a_caller_s_mistake_is_the_caller_s():
    async def go():
        d = desk()
        d["alpha"].error = InvalidInput("expiry", "x", "a date")
        with pytest.raises(InvalidInput):
            await d.router.chain("AAPL")
        assert d["beta"].asked == []
        assert d.stats("alpha", "options_chain").error_ewma == 0

    run(go())


def test_nothing_that_looks_like_a_key_is_passed_on():
    async def go():
        d = desk()
        d["alpha"].error = SourceUnavailable("alpha", "GET https://u:pw1@x.test/q?token=s3cret: X-Api-Key: k3y")
        d["beta"].error = SourceUnavailable("beta", '{"apikey": "abc123", "note": "we have seen apikey=ABC9"}')
        with pytest.raises(SourceUnavailable) as caught:
            await d.router.quote("AAPL")
        said = str(caught.value) + repr(d.router.stats())
        for secret in ("s3cret", "k3y", "pw1", "abc123", "ABC9"):
            assert secret not in said

    run(go())


outcomes = st.sampled_from(
    [None, DOWN, NOT_FOUND, Throttled("x", "429"), NotEntitled("x", "401"), MarketClosed("x", "closed"), "slow"]
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.tuples(outcomes, outcomes, outcomes), st.sampled_from([0.0, 1.0, 7.0, 40.0])), max_size=15)
)
def test_whatever_happens_there_is_an_answer_or_a_reason_in_time(script):
    async def go():
        d = desk("alpha", "beta", "gamma")
        for number, (errors, pause_s) in enumerate(script):
            for acme, outcome in zip(d.by_name.values(), errors, strict=True):
                acme.delay_s = 100.0 if outcome == "slow" else 0.0
                acme.error = None if outcome == "slow" else outcome
            asked = asyncio.create_task(d.router.quote(f"S{number}"))
            await d.clock.advance(3 * 2.0 + 0.001)
            assert asked.done()
            failure = asked.exception()
            if failure is not None:
                assert isinstance(failure, SourceError)
                assert failure.reason
            else:
                routed = asked.result()
                assert routed.why
                assert errors[["alpha", "beta", "gamma"].index(routed.provider)] is None
            await d.clock.advance(pause_s)
        for old, new in itertools.pairwise(d.switches):
            assert old.new == new.old
        await d.router.close()

    run(go())


# --- who may be asked ------------------------------------------------------------------------------------------


def test_a_policy_sets_the_order_and_aliases_are_known():
    async def go():
        d = desk("alpha", "beta", "gamma")
        d.router._alias = lambda name: {"bee": "beta"}.get(name, name)
        d.router.replace(config=RoutingConfig(policies={"quotes_l1": "gamma, BEE", "bars_1m": ("beta", "*")}))
        assert (await d.router.quote("AAPL")).provider == "gamma"
        d["gamma"].error = d["beta"].error = DOWN
        with pytest.raises(SourceUnavailable):
            await d.router.quote("AAPL")
        assert d["alpha"].asked == []
        assert (await d.router.bars("AAPL", MINUTE, 0, 1)).provider == "alpha"
        assert (await d.router.bars("AAPL", DAY, 0, 1)).provider == "alpha"

    run(go())


def test_a_source_that_is_asked_for_is_asked_first_where_that_is_allowed():
    async def go():
        d = desk(config=RoutingConfig(allow_source_override=True))
        routed = await d.router.quote("AAPL", source="BETA")
        assert (routed.provider, routed.why) == ("beta", "it was asked for")
        assert (await d.router.quote("AAPL")).provider == "alpha"
        assert d.switches == []
        d["beta"].error = DOWN
        routed = await d.router.quote("AAPL", source="beta")
        assert routed.provider == "alpha"
        assert "beta: GET /quote: HTTP 503" in routed.why
        with pytest.raises(InvalidInput, match="one of alpha, beta"):
            await d.router.quote("AAPL", source="nobody")

    run(go())


def test_a_source_that_is_asked_for_is_not_heeded_where_that_is_not_allowed():
    async def go():
        d = desk()
        assert (await d.router.quote("AAPL", source="beta")).provider == "alpha"
        assert (await d.router.quote("AAPL", source="nobody")).provider == "alpha"

    run(go())


def test_made_up_prices_do_not_stand_in_for_real_ones():
    async def go():
        d = desk()
        made_up = provider(d["beta"], simulated=True)
        d.router.replace(providers=[made_up, provider(d["alpha"], symbols={"AAPL": "aapl"})])
        d["alpha"].error = DOWN
        with pytest.raises(SourceUnavailable):
            await d.router.quote("AAPL")
        assert (await d.router.quote("SIM1")).provider == "beta"
        d.router.replace(config=RoutingConfig(policies={"quotes_l1": "alpha,beta"}))
        assert (await d.router.quote("AAPL")).provider == "beta"

    run(go())


# --- many at once ----------------------------------------------------------------------------------------------


def test_the_same_question_at_the_same_time_goes_out_once():
    async def go():
        d = desk()
        d["alpha"].delay_s = 1.0
        asked = [asyncio.create_task(d.router.quote("AAPL")) for _ in range(50)]
        asked.append(asyncio.create_task(d.router.quote("MSFT")))
        await asyncio.sleep(0)
        asked[0].cancel()  # the others still get their answer
        await d.clock.advance(1)
        assert asked[0].cancelled()
        assert {task.result().value.symbol for task in asked[1:]} == {"AAPL", "MSFT"}
        assert d["alpha"].asked == [("quote", "AAPL"), ("quote", "MSFT")]
        assert len(d.router._flights) == 0

    run(go())


def test_a_question_that_nobody_waits_for_any_longer_ends():
    async def go():
        d = desk()
        d["alpha"].delay_s = 1.0
        asked = asyncio.create_task(d.router.quote("AAPL"))
        await d.clock.advance(0.5)
        asked.cancel()
        await d.clock.advance(0)
        assert len(d.router._flights) == 0
        # it said nothing of the provider
        assert d.stats("alpha").error_ewma == 0
        assert (await eventually(d.clock, d.router.quote("AAPL"))).provider == "alpha"

    run(go())


def test_quotes_of_many_symbols_come_from_whoever_has_them():
    async def go():
        d = desk("alpha", "beta", quotes_per_request=100)
        d.router.replace(
            providers=[
                provider(d["alpha"], quotes_per_request=100),
                provider(d["beta"], symbols={"BTC-USD": "BTC", "OLD": "OLD"}, quotes_per_request=100),
            ]
        )
        d["alpha"].answers = {
            "BTC-USD": SymbolNotFound("alpha", "unknown"),
            "OLD": "left out",
            "GONE": SymbolNotFound("alpha", "delisted"),
        }
        got = await d.router.quotes(["AAPL", "BTC-USD", "GONE", "OLD", "AAPL"])
        assert list(got) == ["AAPL", "BTC-USD", "GONE", "OLD"]
        assert {s: q.provider for s, q in got.items() if not isinstance(q, SourceError)} == {
            "AAPL": "alpha",
            "BTC-USD": "beta",
            "OLD": "beta",
        }
        assert isinstance(got["GONE"], SymbolNotFound)
        assert d["alpha"].asked == [("quotes", ("AAPL", "BTC-USD", "GONE", "OLD"))]
        assert d["beta"].asked == [("quotes", ("BTC-USD", "OLD"))]
        assert d.stats("alpha").parts.completeness == pytest.approx(1 - 0.2 * 0.25)

    run(go())


def test_quotes_of_many_go_to_the_next_provider_when_one_is_down():
    async def go():
        d = desk()
        d["alpha"].error = DOWN
        symbols = [f"S{n}" for n in range(30)]
        got = await d.router.quotes(symbols)
        assert [got[s].provider for s in symbols] == ["beta"] * 30
        d["beta"].error = SourceUnavailable("beta", "reset")
        got = await d.router.quotes(symbols)
        assert all(isinstance(e, SourceUnavailable) and "reset" in e.reason for e in got.values())
        assert await d.router.quotes([]) == {}

    run(go())


# --- for those who ask by themselves -----------------------------------------------------------------------------


def test_streams_are_ordered_by_what_is_reported_of_them():
    async def go():
        d = desk(config=RoutingConfig(policies={"stream_quotes": "beta,alpha"}, breaker=BreakerConfig(failures=2)))
        streams = [provider(a, stream_quotes=True) for a in d.by_name.values()]
        streams = [type(p)(**{f: getattr(p, f) for f in p.__struct_fields__} | {"stream": object()}) for p in streams]
        d.router.replace(providers=streams)
        router = d.router
        assert router.order("stream_quotes", ["alpha", "beta"], current=None) == ("beta", "alpha")
        assert router.order("stream_quotes", ["alpha"]) == ("alpha",)
        for _ in range(2):
            router.report("beta", "stream_quotes", SourceUnavailable("beta", "connection lost"), 0.0)
        assert router.order("stream_quotes", ["alpha", "beta"], current="beta") == ("alpha",)
        assert "connection lost" in router.explain("stream_quotes", current="alpha").reasons["beta"]
        assert d.stats("beta", "stream_quotes").latency_p50_ms is None
        await d.clock.advance(5)
        router.report("beta", "stream_quotes", None, 0.05)
        assert router.order("stream_quotes", ["alpha", "beta"], current="alpha") == ("alpha", "beta")
        await d.clock.advance(30)
        assert router.order("stream_quotes", ["alpha", "beta"], current="alpha") == ("beta", "alpha")
        router.report("gone", "stream_quotes", None, 0.05)
        assert d.switches == []  # who asks by itself tells its own switches

    run(go())


def test_histories_are_all_that_can_have_the_bars_best_first():
    async def go():
        d = desk(config=RoutingConfig(breaker=BreakerConfig(failures=1, open_first_s=5.0)))
        alpha, beta = ScriptedHistory(d.clock, name="alpha"), d["beta"]
        with_start = provider(d["alpha"])
        with_start = type(with_start)(
            **{f: getattr(with_start, f) for f in with_start.__struct_fields__} | {"bars": alpha}
        )
        d.router.replace(providers=[with_start, provider(beta)])
        assert d.router.histories("AAPL", Interval.parse("1h")) == []
        histories = dict(d.router.histories("AAPL", MINUTE))
        assert list(histories) == ["alpha", "beta"]
        assert isinstance(histories["alpha"], KnowsItsStart)
        assert not isinstance(histories["beta"], KnowsItsStart)
        alpha.failures.append(DOWN)
        end_ns = MINUTE.floor(d.clock.time_ns())
        asked = ("AAPL", MINUTE, end_ns - 600 * 10**9, end_ns)
        with pytest.raises(SourceUnavailable):
            await histories["alpha"].bars(*asked)
        # still there, so that a job rests instead of being given up; and it says why at once
        assert [name for name, _ in d.router.histories("AAPL", MINUTE)] == ["beta", "alpha"]
        with pytest.raises(SourceUnavailable, match="not asked for 5 s more") as caught:
            await histories["alpha"].bars(*asked)
        assert caught.value.retry_after_s == 5.0
        assert len(alpha.asked) == 1
        await d.clock.advance(5)
        assert [name for name, _ in d.router.histories("AAPL", MINUTE)] == ["alpha", "beta"]
        assert (await eventually(d.clock, histories["alpha"].bars(*asked))).num_rows == 10
        d.router.completed("alpha", "bars_1m", 10, 5)
        assert d.stats("alpha", "bars_1m").parts.completeness == pytest.approx(0.9)
        beta.error = NotEntitled("beta", "HTTP 403")
        for _ in range(2):
            with pytest.raises(NotEntitled):
                await histories["beta"].bars(*asked)
        assert len(beta.asked) == 1
        d.router.replace(providers=[provider(beta)])
        with pytest.raises(SourceUnavailable, match="not asked for 1m bars of AAPL any longer"):
            await histories["alpha"].bars(*asked)

    run(go())


# --- reload -----------------------------------------------------------------------------------------------------


def test_a_reload_keeps_what_is_known_of_those_that_stay():
    async def go():
        d = desk(config=RoutingConfig(breaker=BreakerConfig(failures=1)))
        d["alpha"].error = DOWN
        d["beta"].error = NotEntitled("beta", "HTTP 401")
        with pytest.raises(SourceUnavailable):
            await d.router.quote("AAPL")
        gone = d.router.replace(config=RoutingConfig(recover_s=1.0))
        assert gone == ()
        assert (d.stats("alpha").state, d.stats("beta").state) == ("open", "not_entitled")
        anew = provider(d["beta"])
        gone = d.router.replace(providers=[d.providers[0], anew])
        assert gone == (d.providers[1],)
        assert (d.stats("alpha").state, d.stats("beta").state) == ("open", "available")

    run(go())


def test_a_reload_that_cannot_be_changes_nothing():
    async def go():
        d = desk()

        def known(name):
            if name not in ("alpha", "beta"):
                raise InvalidInput("provider", name, "one of alpha, beta")
            return name

        d.router._alias = known
        before = d.router._setup
        for config in (
            RoutingConfig(policies={"quotes_l1": "beta", "eod": "delta"}),
            RoutingConfig(quotas={"delta": QuotaConfig(per_s=1)}),
        ):
            with pytest.raises(InvalidInput):
                d.router.check(config)
            with pytest.raises(InvalidInput):
                d.router.replace(config=config)
        with pytest.raises(InvalidInput):
            d.router.replace(providers=[d.providers[0], d.providers[0]])
        assert d.router._setup is before
        assert (await d.router.quote("AAPL")).provider == "alpha"

    run(go())


def test_requests_under_way_end_as_they_began():
    async def go():
        d = desk()
        d["alpha"].delay_s = 1.0
        asked = asyncio.create_task(d.router.quote("AAPL"))
        await d.clock.advance(0.5)
        assert d.router.replace(providers=[d.providers[1]]) == (d.providers[0],)
        await d.clock.advance(0.5)
        assert asked.result().provider == "alpha"
        assert (await d.router.quote("AAPL")).provider == "beta"
        assert [(s.old, s.new, s.cause) for s in d.switches] == [("alpha", "beta", "reconfigured")]
        assert d.counted("circuit_state", provider="alpha") is None

    run(go())


def test_what_an_old_key_is_told_late_does_not_bar_the_new_one():
    async def go():
        d = desk()
        d["alpha"].delay_s, d["alpha"].error = 1.0, NotEntitled("alpha", "HTTP 401")
        asked = asyncio.create_task(d.router.quote("AAPL"))
        await d.clock.advance(0.5)
        good = Acme("alpha", d.clock)
        d.router.replace(providers=[provider(good), d.providers[1]])
        await d.clock.advance(0.5)
        assert asked.result().provider == "beta"
        assert d.stats("alpha").state == "available"
        assert (await d.router.quote("AAPL")).provider == "alpha"

    run(go())


def test_quotas_change_with_a_reload():
    d = desk(config=RoutingConfig(quotas={"alpha": QuotaConfig(per_minute=10)}))
    assert [(w.seconds, w.count) for w in d.router.budget_of("alpha").windows] == [(60.0, 10)]
    config = RoutingConfig(
        quotas={"alpha": QuotaConfig(per_day=25)},
        shares=SharesConfig(sweep=0.5, backfill=0.2),
        waits=WaitsConfig(live=0.1),
    )
    d.router.replace(config=config)
    assert [(w.seconds, w.count) for w in d.router.budget_of("alpha").windows] == [(86_400.0, 25)]
    d.router.replace(config=RoutingConfig())
    assert list(d.router.budget_of("alpha").windows) == []


def test_stats_say_why():
    async def go():
        d = desk(config=RoutingConfig(policies={"quotes_l1": "beta,alpha"}))
        await d.router.quote("AAPL")
        alpha, beta = d.router.stats()
        assert (alpha.provider, alpha.health_score, alpha.state) == ("alpha", 1.0, "closed")
        assert [c.capability for c in alpha.capabilities] == [
            "quotes_l1",
            "bars_1m",
            "eod",
            "options_chain",
            "macro",
            "corporate_actions",
        ]
        assert alpha.capabilities[0].why == "healthy (1.00), after beta"
        assert beta.capabilities[0].why == "the first of the order that is healthy (1.00)"
        assert beta.capabilities[0].chosen
        assert beta.last_error is None

    run(go())


def test_the_worked_example_of_the_documentation():
    """`docs/routing.md`. The score is computed by hand: an error EWMA of 1 - 0.8^5 that fades for 5 s, takes a success
    of weight 0.2 and fades for 12 s more, with a half-life of 120 s; a median of 2 s between 250 ms and 5 s."""

    async def go():
        config = RoutingConfig(policies={"quotes_l1": "finnhub, alphavantage, yahoo"})
        d = desk("finnhub", "alphavantage", "yahoo", config=config)
        assert (await d.router.quote("A")).why == "the first of the order that is healthy (1.00)"
        d = desk("finnhub", "alphavantage", "yahoo", config=config)
        d["finnhub"].delay_s = 10.0
        five = [asyncio.create_task(d.router.quote(f"S{n}")) for n in range(5)]
        await d.clock.advance(2.0)
        assert [task.result().provider for task in five] == ["alphavantage"] * 5
        d["finnhub"].delay_s = 0.0
        assert (await d.router.quote("A")).provider == "alphavantage"
        [switch] = d.switches
        assert switch.reason == (
            "alphavantage: the first of the order that is healthy (1.00); "
            "finnhub: circuit open for 5 s more (no answer within 2 s)"
        )
        await d.clock.advance(5.0)
        await d.router.quote("B")
        await d.clock.advance(12.0)
        errors = ((1 - 0.8**5) * 0.5 ** (5 / 120) * 0.8) * 0.5 ** (12 / 120)
        latency = 1 - math.log(2_000 / 250) / math.log(5_000 / 250)
        score = 0.45 + 0.25 * latency + 0.20 * (1 - errors) + 0.10
        stats = d.stats("finnhub")
        assert stats.health_score == pytest.approx(score, abs=1e-6)
        assert stats.why == f"healthy ({score:.2f}) for 12 s; gone back to after 30 s"
        assert stats.why == "healthy (0.73) for 12 s; gone back to after 30 s"
        await d.clock.advance(18.0)
        assert (await d.router.quote("C")).provider == "finnhub"

    run(go())
