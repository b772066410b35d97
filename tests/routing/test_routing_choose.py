"""Who is asked, and why: the rules one by one, and what holds whatever is known of the providers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.routing import Candidate, Policy, choose
from marketd.routing.config import REST

A, B, C = (Candidate(provider=name) for name in ("alpha", "beta", "gamma"))


def like(candidate, **changes):
    return Candidate(**{f: getattr(candidate, f) for f in Candidate.__struct_fields__} | changes)


def test_the_first_of_the_policy_that_is_healthy_is_chosen():
    choice = choose([A, B, C], Policy(names=("gamma", "beta", "alpha")))
    assert choice.order == ("gamma", "beta", "alpha")
    assert choice.reasons["gamma"] == "the first of the order that is healthy (1.00)"
    assert choice.reasons["beta"] == "healthy (1.00), after gamma"


def test_without_a_policy_the_given_order_holds():
    assert choose([B, A, C], Policy()).order == ("beta", "alpha", "gamma")


def test_who_is_not_in_the_policy_is_not_asked():
    choice = choose([A, B, C], Policy(names=("beta",)))
    assert choice.order == ("beta",)
    assert choice.reasons["alpha"] == "not in the policy"


def test_a_star_stands_for_everybody_else():
    assert choose([A, B, C], Policy(names=("gamma", REST, "alpha"))).order == ("gamma", "beta", "alpha")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "open", "has_turn": False, "open_s": 4.25}, "circuit open for 4.25 s more"),
        ({"throttled_s": 12.0}, "throttled for 12 s more"),
        ({"barred": "not entitled: no access"}, "not entitled: no access"),
        ({"state": "half_open", "has_turn": False, "score": 0.7}, "half-open: its trial is under way"),
    ],
)
def test_who_cannot_be_asked_now_is_left_out_with_its_reason(changes, words):
    choice = choose([like(A, **changes), B], Policy(names=("alpha", "beta")))
    assert choice.order == ("beta",)
    assert choice.reasons["alpha"] == words


def test_the_reason_names_the_last_failure():
    choice = choose([like(A, state="open", has_turn=False, open_s=3.0, because="HTTP 503"), B], Policy())
    assert choice.reasons["alpha"] == "circuit open for 3 s more (HTTP 503)"


def test_half_open_comes_after_the_healthy_and_before_the_unhealthy():
    trial = like(A, state="half_open", score=0.75)
    ailing = like(B, score=0.55)
    assert choose([trial, ailing, C], Policy()).order == ("gamma", "alpha", "beta")


def test_a_score_of_exactly_the_limit_is_not_usable():
    assert choose([like(A, score=0.55), like(B, score=0.551)], Policy()).order == ("beta", "alpha")


def test_nobody_is_chosen_when_nobody_can_be_asked():
    choice = choose([like(A, throttled_s=1.0)], Policy())
    assert (choice.order, choice.chosen) == ((), None)
    assert choose([], Policy()).order == ()


def test_the_current_one_stays_until_the_preferred_one_has_been_healthy_for_long():
    policy = Policy(names=("alpha", "beta"), recover_s=30.0)
    early = choose([like(A, healthy_s=29.9), B], policy, current="beta")
    assert early.order == ("beta", "alpha")
    assert early.reasons["alpha"] == "healthy (1.00) for 29.9 s; gone back to after 30 s"
    assert early.reasons["beta"] == "stays: it is healthy (1.00)"
    assert choose([like(A, healthy_s=30.0), B], policy, current="beta").chosen == "alpha"


def test_the_current_one_is_left_at_once_when_it_is_not_healthy():
    choice = choose([like(A, healthy_s=0.0), like(B, score=0.4)], Policy(), current="beta")
    assert choice.order == ("alpha", "beta")


def test_a_policy_is_kept_to_however_much_better_another_is():
    better = like(B, score=1.0, ahead_s=1e6)
    assert choose([like(A, score=0.6), better], Policy(names=("alpha", "beta")), current="alpha").chosen == "alpha"


def test_without_a_policy_one_that_was_better_for_long_overtakes():
    policy = Policy(overtake_margin=0.15, overtake_s=30.0)
    slow = like(A, score=0.8)
    assert choose([slow, like(B, ahead_s=29.0)], policy, current="alpha").chosen == "alpha"
    choice = choose([slow, like(B, ahead_s=30.0)], policy, current="alpha")
    assert choice.chosen == "beta"
    assert choice.reasons["beta"] == "better than alpha (1.00 against 0.80) for 30 s"
    # and it is not gone back from before the difference has halved
    assert choose([like(A, score=0.9), B], policy, current="beta").chosen == "beta"
    assert choose([like(A, score=0.93), B], policy, current="beta").chosen == "alpha"


def test_a_hint_is_heeded_when_it_is_allowed():
    choice = choose([A, B, C], Policy(names=("alpha", "beta", "gamma"), allow_hint=True), hint="gamma")
    assert choice.order == ("gamma", "alpha", "beta")
    assert choice.reasons["gamma"] == "it was asked for"


def test_a_hint_is_not_heeded_when_it_is_not_allowed():
    choice = choose([A, B], Policy(), hint="beta")
    assert choice.order == ("alpha", "beta")
    assert "allow_source_override" in choice.reasons["beta"]


def test_a_hint_cannot_ask_who_cannot_be_asked():
    choice = choose([A, like(B, barred="not entitled: x")], Policy(allow_hint=True), hint="beta")
    assert choice.order == ("alpha",)
    assert choice.reasons["beta"] == "not entitled: x"
    assert choose([A], Policy(allow_hint=True), hint="delta").order == ("alpha",)


NAMES = ["alpha", "beta", "gamma", "delta", "epsilon"]
seconds = st.floats(0, 100)
candidates = st.lists(
    st.builds(
        Candidate,
        provider=st.sampled_from(NAMES),
        score=st.floats(0, 1),
        state=st.sampled_from(["closed", "half_open", "open"]),
        has_turn=st.booleans(),
        open_s=seconds,
        throttled_s=st.one_of(st.just(0.0), seconds),
        barred=st.one_of(st.none(), st.just("not entitled")),
        healthy_s=seconds,
        ahead_s=seconds,
    ),
    unique_by=lambda c: c.provider,
    max_size=5,
)
policies = st.builds(
    Policy,
    names=st.one_of(st.none(), st.lists(st.sampled_from([*NAMES, REST, "zeta"]), unique=True, min_size=1).map(tuple)),
    usable_above=st.floats(0, 0.99),
    recover_s=seconds,
    overtake_margin=st.floats(0, 1),
    overtake_s=seconds,
    allow_hint=st.booleans(),
)
names = st.one_of(st.none(), st.sampled_from([*NAMES, "zeta"]))


@given(candidates, policies, names, names)
def test_whatever_is_known_the_choice_is_lawful(given_, policy, current, hint):
    choice = choose(given_, policy, current=current, hint=hint)
    by_name = {c.provider: c for c in given_}
    assert len(set(choice.order)) == len(choice.order)
    assert choice.chosen == (choice.order[0] if choice.order else None)
    assert by_name.keys() <= choice.reasons.keys()
    assert all(choice.reasons.values())
    for name in choice.order:
        candidate = by_name[name]
        assert candidate.barred is None
        assert candidate.throttled_s == 0
        assert candidate.state != "open"
        assert policy.names is None or name in policy.names or REST in policy.names
    is_healthy = [
        c.state == "closed" and c.score > policy.usable_above for c in (by_name[name] for name in choice.order)
    ]
    if hint is None or not policy.allow_hint:
        assert is_healthy == sorted(is_healthy, reverse=True)
    if policy.allow_hint and hint in choice.order:
        assert choice.chosen == hint
    # everybody who can be asked is in the order
    for candidate in given_:
        asked = policy.names is None or candidate.provider in policy.names or REST in policy.names
        can = candidate.barred is None and candidate.throttled_s == 0 and candidate.state != "open"
        if asked and can and candidate.has_turn:
            assert candidate.provider in choice.order


@given(candidates, policies, names, names)
def test_the_same_knowledge_gives_the_same_choice(given_, policy, current, hint):
    assert choose(given_, policy, current=current, hint=hint) == choose(
        list(given_), policy, current=current, hint=hint
    )


@given(candidates, policies.filter(lambda p: p.names is not None and REST not in p.names), names, st.randoms())
def test_under_a_policy_it_does_not_matter_in_which_order_they_are_looked_at(given_, policy, current, rng):
    shuffled = list(given_)
    rng.shuffle(shuffled)
    assert choose(given_, policy, current=current).order == choose(shuffled, policy, current=current).order


@given(candidates, policies, names)
def test_asking_again_with_the_chosen_one_current_changes_nothing_if_it_is_healthy(given_, policy, current):
    choice = choose(given_, policy, current=current)
    if choice.chosen is None:
        return
    calm = [like(c, ahead_s=0.0, healthy_s=0.0) for c in given_]
    chosen = next(c for c in calm if c.provider == choice.chosen)
    if chosen.state == "closed" and chosen.score > policy.usable_above and policy.recover_s > 0 < policy.overtake_s:
        assert choose(calm, policy, current=choice.chosen).chosen == choice.chosen


@pytest.mark.parametrize("names", [None, ("alpha", "beta")])
def test_scores_that_waver_about_the_limit_do_not_make_it_flap(names):
    """An hour of a score that crosses the limit every few seconds: one way and back at most once in recover_s."""
    rng = random.Random(5)
    policy = Policy(names=names, recover_s=30.0)
    current, switches, healthy_since = "alpha", 0, 0.0
    for now in range(3600):
        score = 0.55 + rng.uniform(-0.1, 0.1)
        if score <= policy.usable_above:
            healthy_since = now + 1
        choice = choose([like(A, score=score, healthy_s=now - healthy_since), B], policy, current=current)
        switches += choice.chosen != current
        current = choice.chosen
    assert switches <= 1  # it is never healthy for 30 s, so nobody goes back
