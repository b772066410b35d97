"""Who is asked, in which order, and why. Pure: the same arguments give the same answer, in the same words.

The rules, in this order:

1. Who is not in the policy, is not entitled, is throttled, or whose circuit is open (or half-open with its probe under
   way) is not asked.
2. The healthy come first: circuit closed and score above `usable_above`. Then the half-open, then those that are not
   healthy: better to ask them than nobody.
3. Within each of the three by the policy; without one by the given order.
4. The current one stays first while it is healthy, until one that comes earlier in the order has been healthy for
   `recover_s` (and, without a policy, is not worse by more than half of `overtake_margin`), or, without a policy, until
   one has been better by `overtake_margin` for `overtake_s`.
5. Who is hinted at goes to the front if that is allowed and it is asked at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from marketd.routing.breaker import BreakerState
from marketd.routing.config import REST

__all__ = ["Candidate", "Choice", "Policy", "choose"]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one provider for one capability.

    has_turn: its circuit would let a call through. open_s, throttled_s: for how long it stays so; 0 if it is not.
    barred: why it cannot be asked at all, None if it can. healthy_s: since when it has been healthy without a break.
    ahead_s: since when it has been better than the current one by `overtake_margin`; 0 if it is not. because: its last
    failure, for the words.
    """

    provider: str
    score: float = 1.0
    state: BreakerState = "closed"
    has_turn: bool = True
    open_s: float = 0.0
    throttled_s: float = 0.0
    barred: str | None = None
    healthy_s: float = float("inf")
    ahead_s: float = 0.0
    because: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """names: who is asked, the preferred one first, with `*` for everybody else; None for all in the given order. The
    rest as in `RoutingConfig`."""

    names: tuple[str, ...] | None = None
    usable_above: float = 0.55
    recover_s: float = 30.0
    overtake_margin: float = 0.15
    overtake_s: float = 30.0
    allow_hint: bool = False


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """order: who is asked, one after the other. chosen: the first of them, None if there is none. reasons: of every
    candidate, why it is there or not."""

    order: tuple[str, ...]
    chosen: str | None
    reasons: Mapping[str, str]


def choose(
    candidates: Sequence[Candidate], policy: Policy, *, current: str | None = None, hint: str | None = None
) -> Choice:
    """Decide. candidates: in the order of the configuration, each provider once."""
    ranks = _ranks(candidates, policy)
    reasons: dict[str, str] = {}
    healthy: list[Candidate] = []
    half_open: list[Candidate] = []
    ailing: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (ranks.get(c.provider, len(ranks)), c.provider)):
        why_not = _why_not(candidate, ranks)
        if why_not is not None:
            reasons[candidate.provider] = why_not
        elif candidate.state == "half_open":
            reasons[candidate.provider] = "half-open: on trial, after those that are healthy" + _because(candidate)
            half_open.append(candidate)
        elif candidate.score > policy.usable_above:
            healthy.append(candidate)
        else:
            words = f"its score {candidate.score:.2f} is not above {policy.usable_above:g}: asked last"
            reasons[candidate.provider] = words + _because(candidate)
            ailing.append(candidate)
    first = _first(healthy, policy, current, reasons)
    order = [c.provider for c in healthy if c.provider != first]
    if first is not None:
        order.insert(0, first)
    order += [c.provider for c in (*half_open, *ailing)]
    if hint is not None:
        _heed(hint, order, reasons, is_allowed=policy.allow_hint)
    for place, name in enumerate(order):
        if name not in reasons:
            score = next(c.score for c in healthy if c.provider == name)
            before = "" if place == 0 else f", after {order[place - 1]}"
            reasons[name] = f"healthy ({score:.2f}){before}"
    return Choice(order=tuple(order), chosen=order[0] if order else None, reasons=reasons)


def _ranks(candidates: Sequence[Candidate], policy: Policy) -> dict[str, int]:
    """Place in the order, by provider; who is not asked has none."""
    given = [c.provider for c in candidates]
    if policy.names is None:
        names = given
    else:
        others = [name for name in given if name not in policy.names]
        names = [n for name in policy.names for n in (others if name == REST else [name])]
    return {name: rank for rank, name in enumerate(names)}


def _why_not(candidate: Candidate, ranks: Mapping[str, int]) -> str | None:
    if candidate.provider not in ranks:
        return "not in the policy"
    if candidate.barred is not None:
        return candidate.barred
    if candidate.throttled_s > 0:
        return f"throttled for {candidate.throttled_s:.3g} s more"
    if candidate.state == "open":
        return f"circuit open for {candidate.open_s:.3g} s more" + _because(candidate)
    if not candidate.has_turn:
        return "half-open: its trial is under way" + _because(candidate)
    return None


def _because(candidate: Candidate) -> str:
    return f" ({candidate.because})" if candidate.because else ""


def _first(healthy: Sequence[Candidate], policy: Policy, current: str | None, reasons: dict[str, str]) -> str | None:
    """The healthy one that is asked first; `healthy` in the order of preference."""
    if not healthy:
        return None
    now = next((c for c in healthy if c.provider == current), None)
    if now is None:
        best = healthy[0]
        reasons[best.provider] = f"the first of the order that is healthy ({best.score:.2f})"
        return best.provider
    for earlier in healthy[: healthy.index(now)]:
        is_worse = policy.names is None and now.score > earlier.score + policy.overtake_margin / 2
        if earlier.healthy_s >= policy.recover_s and not is_worse:
            words = f"comes before {now.provider} and has been healthy for {policy.recover_s:g} s"
            reasons[earlier.provider] = f"{words} ({earlier.score:.2f})"
            return earlier.provider
        if is_worse:
            words = f"healthy ({earlier.score:.2f}), but {now.provider} is better ({now.score:.2f})"
        else:
            words = f"healthy ({earlier.score:.2f}) for {earlier.healthy_s:.3g} s; gone back to after "
            words += f"{policy.recover_s:g} s"
        reasons[earlier.provider] = words
    if policy.names is None:
        better = [
            c
            for c in healthy
            if c is not now and c.score >= now.score + policy.overtake_margin and c.ahead_s >= policy.overtake_s
        ]
        if better:
            best = max(better, key=lambda c: (c.score, -healthy.index(c)))
            words = f"better than {now.provider} ({best.score:.2f} against {now.score:.2f})"
            reasons[best.provider] = f"{words} for {policy.overtake_s:g} s"
            return best.provider
    is_first = now is healthy[0]
    words = "the first of the order that is healthy" if is_first else "stays: it is healthy"
    reasons[now.provider] = f"{words} ({now.score:.2f})"
    return now.provider


def _heed(hint: str, order: list[str], reasons: dict[str, str], *, is_allowed: bool) -> None:
    if not is_allowed:
        reasons[hint] = f"{reasons.get(hint, 'healthy')}; that it was asked for is not heeded (allow_source_override)"
    elif hint in order:
        order.remove(hint)
        order.insert(0, hint)
        reasons[hint] = "it was asked for"
    elif hint not in reasons:
        reasons[hint] = "it was asked for, but cannot have this"
