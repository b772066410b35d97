"""Keeps one source streaming into the pipeline, and knows how it is doing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from marketd.clock import Clock, SystemClock
from marketd.errors import SourceRejected
from marketd.model import Disconnected, Ended, SourceEvent
from marketd.sources.contract import Source, Subscriptions

__all__ = ["SourceRunner"]

_logger = logging.getLogger(__name__)


class SourceRunner:
    """take: called on the loop with every batch (the pipeline's door). on_change: called when the state changes.
    ready: awaited before the next batch is asked for (for sources that can wait).

    state: connecting, streaming, reconnecting, ended, rejected (retrying cannot cure it; reason says what) or
    failed (a defect of ours: logged, and the source stays down rather than take the server with it).
    A source that goes down in one of the last two ways is told to `take` as disconnected, if it was connected.
    """

    def __init__(
        self,
        source: Source,
        wanted: Subscriptions,
        take: Callable[[str, Sequence[SourceEvent]], None],
        connected: Callable[[], bool],
        on_change: Callable[[SourceRunner], None],
        ready: Callable[[], Awaitable[None]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.source = source
        self.wanted = wanted
        self.state = "connecting"
        self.reason: str | None = None
        self.error: Exception | None = None
        """What brought it down, in the states rejected and failed."""
        self._take = take
        self._connected = connected
        self._on_change = on_change
        self._ready = ready
        self._clock = clock or SystemClock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"source-{self.source.name}")

    async def stop(self) -> None:
        """End the stream and release what it holds."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        name = self.source.name
        was_connected = False
        try:
            async with aclosing(self.source.stream(self.wanted)) as batches:  # type: ignore[type-var]
                async for events in batches:
                    self._take(name, events)
                    connected = self._connected()
                    if connected != was_connected and not any(isinstance(event, Ended) for event in events):
                        was_connected = connected
                        self._set("streaming" if connected else "reconnecting", None)
                    # A source that always has more must not keep others from their turn.
                    await asyncio.sleep(0)
                    if self._ready is not None:
                        await self._ready()
            self._set("ended", "the recording has ended")
        except asyncio.CancelledError:
            raise
        except SourceRejected as error:
            _logger.error("%s", error)  # noqa: TRY400 - it says all there is
            self.error = error
            self._down("rejected", str(error))
        except Exception as error:
            _logger.exception("source %s failed", name)
            self.error = error
            self._down("failed", f"{type(error).__name__}: {error}")

    def _down(self, state: str, reason: str) -> None:
        if self._connected():  # or its unwatched bars would pass for final
            name, now_ns = self.source.name, self._clock.time_ns()
            self._take(name, [Disconnected(source=name, time_received_ns=now_ns, reason=reason)])
        self._set(state, reason)

    def _set(self, state: str, reason: str | None) -> None:
        self.state, self.reason = state, reason
        self._on_change(self)
