"""The one HTTP client of Finnhub: the key in a header, limits and refusals in our words."""

from __future__ import annotations

import msgspec

from marketd.clock import Clock
from marketd.errors import NotEntitled, SourceError, SourceRejected, SymbolNotFound, Throttled
from marketd.model.time import NS_PER_S
from marketd.sources.finnhub.config import FinnhubConfig
from marketd.sources.finnhub.parse import NAME
from marketd.sources.http import Answer, HttpClient, RequestBudget
from marketd.telemetry import Metrics

__all__ = ["http_client"]

_SHOWN = 200
_LONGEST_RESET_S = 3_600.0


class _Refusal(msgspec.Struct, frozen=True):
    error: str


_REFUSAL = msgspec.json.Decoder(_Refusal)


def http_client(
    config: FinnhubConfig, clock: Clock, *, budget: RequestBudget | None = None, metrics: Metrics | None = None
) -> HttpClient:
    """One client for all parts of the provider: Finnhub limits by key."""
    key = config.api_key or ""

    def classify(answer: Answer) -> SourceError | None:
        return _classify(answer, clock)

    return HttpClient(
        NAME,
        config.rest_url,
        config.http,
        clock,
        headers={"X-Finnhub-Token": key},
        secrets=(key,),
        classify=classify,
        budget=budget,
        metrics=metrics,
    )


def _classify(answer: Answer, clock: Clock) -> SourceError | None:
    """Of what `HttpClient` cannot know: when a limit ends, and refusals told by words alone."""
    words = _refusal(answer)
    said = f"HTTP {answer.status}: {words or answer.text[:_SHOWN]}"
    low = (words or "").lower()
    if "sign up" in low or "api key" in low:
        return NotEntitled(NAME, said)
    if answer.status == 429 and "retry-after" not in answer.headers:
        return Throttled(NAME, said, _until_reset_s(answer, clock))
    if answer.status not in (200, 400, 404, 422) or words is None:
        return None
    if "symbol" in low:
        return SymbolNotFound(NAME, said)
    if answer.status != 200:
        return None
    if "limit" in low:
        return Throttled(NAME, said, _until_reset_s(answer, clock))
    return NotEntitled(NAME, said) if "access" in low else SourceRejected(NAME, said)


# {"error":"You don't have access to this resource."}
def _refusal(answer: Answer) -> str | None:
    """The words of an answer that is a refusal, whatever its status."""
    if b'"error"' not in answer.body[:_SHOWN]:
        return None
    try:
        return _REFUSAL.decode(answer.body).error[:_SHOWN]
    except (ValueError, RecursionError):
        return None


def _until_reset_s(answer: Answer, clock: Clock) -> float | None:
    """Seconds to `X-Ratelimit-Reset`; one if there is still something left of the minute: then it was the limit of a
    second. None if nothing usable was told."""
    left, reset = answer.headers.get("x-ratelimit-remaining", ""), answer.headers.get("x-ratelimit-reset", "")
    if left.isascii() and left.isdigit() and int(left[:9]) > 0:
        return 1.0
    if not (reset.isascii() and reset.isdigit()):
        return None
    seconds = int(reset[:12]) - clock.time_ns() / NS_PER_S
    return max(0.0, seconds) if seconds <= _LONGEST_RESET_S else None
