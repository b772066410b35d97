"""What failures mean: of one call for its provider, and of all calls together for who asked.

Owns the words in which a provider's failure is passed on: short, on one line, without what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from marketd.errors import (
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

__all__ = ["ALL", "Kind", "kind_of", "redacted", "verdict"]

ALL = "providers"
"""The source of an error that several providers caused together."""

Kind = Literal["answer", "throttled", "not_entitled", "failure"]
"""answer: the provider works, though not as hoped. throttled: it is asked too often. not_entitled: the key does not
cover it. failure: it, or the way to it, does not work."""

_TELLING: tuple[type[SourceRejected], ...] = (MarketClosed, OutOfRange, NotEntitled, SourceRejected, SymbolNotFound)
"""What is told when asking again would not help, the most telling first: who knows that the market is closed, or where
the symbol's history begins, has the symbol."""

_SHOWN, _READ = 300, 2_000
_SECRET = re.compile(
    r"""(?ix) ((?:token|key|secret|passwd|password|signature|authorization|cookie|crumb) [\w-]{0,20})
    (["']?\s{0,3}[=:]\s{0,3}["']?) (?:(?:bearer|basic)\s+)? [^\s"'&,;)}\]]+"""
)
_QUERY = re.compile(r"(\w{1,20}://[^\s?]*)\?\S+")
_PASSWORD = re.compile(r"(\w{1,20}://)[^\s/@]+@")


def kind_of(error: SourceError) -> Kind:
    """What a call's end says of its provider."""
    if isinstance(error, SymbolNotFound | OutOfRange | MarketClosed):
        return "answer"
    if isinstance(error, Throttled):
        return "throttled"
    return "not_entitled" if isinstance(error, NotEntitled) else "failure"


def redacted(text: str) -> str:
    """One line of at most 300 characters without queries, passwords of URLs and what is called a key or a token.

    A second net: `HttpClient` cuts out the secrets that it knows, wherever they are.
    """
    text = " ".join(text[:_READ].split())
    text = _PASSWORD.sub(r"\1…@", _QUERY.sub(r"\1?…", text))
    text = _SECRET.sub(r"\1\2…", text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def verdict(what: str, failures: Mapping[str, SourceError]) -> SourceError:
    """The one error of a question that nobody answered. what: the question, in words. failures: by provider, of all who
    could have answered; none if nobody could."""
    if not failures:
        return SourceRejected(ALL, f"no provider has {what}")
    if len(failures) == 1:
        return next(iter(failures.values()))
    reasons = "; ".join(f"{name}: {redacted(error.reason)}" for name, error in failures.items())
    reason = f"{what}: {reasons}"
    errors = list(failures.values())
    waits_s = [e.retry_after_s for e in errors if isinstance(e, SourceUnavailable) and e.retry_after_s is not None]
    soonest_s = min(waits_s, default=None)
    if all(isinstance(error, Throttled) for error in errors):
        return Throttled(ALL, reason, soonest_s)
    if any(isinstance(error, SourceUnavailable | MalformedMessage) for error in errors):
        return SourceUnavailable(ALL, reason, soonest_s)
    for kind in _TELLING:
        if any(type(error) is kind for error in errors):
            return kind(ALL, reason)
    return SourceUnavailable(ALL, reason, soonest_s)
