"""Who can have what is asked for, healthy or not. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from marketd.errors import SourceError, SourceRejected, SymbolNotFound
from marketd.model import Interval
from marketd.routing.config import REST
from marketd.routing.verdict import ALL
from marketd.sources.contract import Capability, Provider

__all__ = ["able_providers", "bars_capability", "has", "nobody"]

_DAYS = ("1d", "1w")


def bars_capability(interval: Interval) -> Capability:
    """Which of the capabilities bars of an interval are."""
    return "eod" if interval.name in _DAYS else "bars_1m"


def has(provider: Provider, capability: Capability, interval: Interval | None = None) -> bool:
    """Whether it says that it has the capability, and has the part for it. interval: of bars, these."""
    if capability not in provider.capabilities.names:
        return False
    part = {
        "stream_quotes": provider.stream,
        "stream_trades": provider.stream,
        "quotes_l1": provider.quotes,
        "bars_1m": provider.bars,
        "eod": provider.bars,
        "options_chain": provider.options,
        "macro": provider.macro,
        "corporate_actions": provider.actions,
    }[capability]
    return part is not None and (interval is None or interval.name in provider.capabilities.bars)


def able_providers(
    providers: Iterable[Provider],
    names: tuple[str, ...] | None,
    capability: Capability,
    subject: str,
    interval: Interval | None = None,
) -> tuple[str, ...]:
    """Names of those that have the capability, are in the policy, and have a name for the symbol, in the given order.

    names: of the policy, None if there is none. Made-up prices stand in for real ones only where a policy names their
    provider.
    """
    found = [
        provider
        for provider in providers
        if has(provider, capability, interval)
        and _is_in(provider.name, names)
        and (capability == "macro" or provider.symbols.to_provider(subject) is not None)
    ]
    if any(not provider.capabilities.simulated for provider in found):
        found = [p for p in found if not p.capabilities.simulated or p.name in (names or ())]
    return tuple(provider.name for provider in found)


def nobody(
    providers: Iterable[Provider],
    names: tuple[str, ...] | None,
    capability: Capability,
    subject: str,
    interval: Interval | None,
    what: str,
) -> SourceError:
    """Why `able_providers` is empty: nobody has the capability, the policy asks others, or nobody has the symbol."""
    having = [provider.name for provider in providers if has(provider, capability, interval)]
    asked = [name for name in having if _is_in(name, names)]
    if asked:
        return SymbolNotFound(ALL, f"{subject} is no symbol of {', '.join(asked)}")
    if having:
        return SourceRejected(ALL, f"{what}: {', '.join(having)} could have it, but the policy asks others only")
    return SourceRejected(ALL, f"no provider has {what}")


def _is_in(name: str, names: tuple[str, ...] | None) -> bool:
    return names is None or name in names or REST in names
