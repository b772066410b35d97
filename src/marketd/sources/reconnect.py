"""The one reconnect loop: what a stream does when its connection is lost.

Owns the delays (exponential, capped, with jitter) and the events `Connected` and `Disconnected`. Refuses to
know what a connection is: a feed hands in a function that opens one and gives its batches. Every streaming
provider uses `reconnecting`; requests that are tried again use `ReconnectPolicy.delay_s` for their waits.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

import msgspec

from marketd.clock import Clock
from marketd.errors import InvalidInput, SourceError, SourceRejected, SourceUnavailable
from marketd.model import Connected, Disconnected, Quote, SourceEvent, TickBatch, Trade
from marketd.model.time import NS_PER_S

__all__ = ["Batches", "ReconnectPolicy", "reconnecting"]

Batches = AsyncGenerator[Sequence[SourceEvent], None]
"""Events in the batches they came in."""


class ReconnectPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait before trying again.

    The n-th wait in a row (n from 0) is min(delay_first_s × 2^n, delay_max_s), plus up to jitter × that.
    lived_s: a connection that lasted this long, or brought a tick, starts the count anew.
    """

    delay_first_s: float = 1.0
    delay_max_s: float = 60.0
    jitter: float = 0.1
    lived_s: float = 30.0

    def __post_init__(self) -> None:
        for field, lowest, highest in (
            ("delay_first_s", 0.0, 3_600.0),
            ("delay_max_s", self.delay_first_s, 86_400.0),
            ("jitter", 0.0, 1.0),
            ("lived_s", 0.0, 86_400.0),
        ):
            value = getattr(self, field)
            if not lowest <= value <= highest:
                raise InvalidInput(field, value, f"a number from {lowest:g} to {highest:g}")

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after `failures` earlier failures in a row."""
        # 2.0**1024 overflows; the cap is reached long before
        delay = min(math.ldexp(self.delay_first_s, min(failures, 64)), self.delay_max_s)
        return delay * (1.0 + self.jitter * rng.random())


async def reconnecting(
    source: str,
    connect: Callable[[], AbstractAsyncContextManager[Batches]],
    *,
    clock: Clock,
    policy: ReconnectPolicy,
    rng: random.Random,
    rest: Callable[[int], Awaitable[bool]] | None = None,
) -> Batches:
    """Yield `[Connected]`, the batches of one connection, `[Disconnected]`, wait, and so on for ever.

    connect: opens a connection and subscribes; its context releases everything it opened. It, or its
    batches, ends or raises SourceError or OSError when the connection is lost; an attempt that fails
    gives a `Disconnected` with its reason too. `SourceRejected`, and what is not a provider's doing, passes
    through. `SourceUnavailable.retry_after_s` is a lower limit of the wait. rest: awaited with the
    number of failures in a row (`Subscriptions.rest`); True says that it took a rest, and the count starts anew.
    """
    failures = 0
    while True:
        opened_ns: int | None = None
        brought_ticks = False
        retry_after_s = 0.0
        try:
            async with connect() as batches, aclosing(batches):
                opened_ns = clock.monotonic_ns()
                yield [Connected(source=source, time_received_ns=clock.time_ns())]
                async for batch in batches:
                    brought_ticks = brought_ticks or any(isinstance(e, Quote | Trade | TickBatch) for e in batch)
                    yield batch
            reason = "the provider ended the stream"
        except SourceRejected:
            raise
        except SourceError as error:
            reason = error.reason
            if isinstance(error, SourceUnavailable) and error.retry_after_s is not None:
                retry_after_s = error.retry_after_s
        except OSError as error:
            reason = f"{type(error).__name__}: {error.strerror or error}"
        yield [Disconnected(source=source, time_received_ns=clock.time_ns(), reason=reason)]
        lived_ns = 0 if opened_ns is None else clock.monotonic_ns() - opened_ns
        if brought_ticks or (opened_ns is not None and lived_ns >= policy.lived_s * NS_PER_S):
            failures = 0
        if rest is not None and await rest(failures + 1):
            failures = 0
            continue
        await clock.sleep(max(policy.delay_s(failures, rng), retry_after_s))
        failures += 1
