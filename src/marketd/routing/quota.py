"""What one provider may be asked: one budget, shared by live requests, the sweep and back-fill.

Owns when a request may go: when it fits in every window that concerns it, no one more urgent waits for the same room,
and the provider has not closed the tap. It waits for a bounded time, then `OutOfQuota` says when to come back. Refuses
to make requests, and to judge who is asked (`choose` does).

Windows slide: never more than `count` in any window, also where the provider counts by the clock's minute or the day.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar

import msgspec

from marketd.clock import Clock
from marketd.errors import Throttled
from marketd.model.time import NS_PER_S
from marketd.routing.config import PRIORITIES, QuotaConfig, SharesConfig, WaitsConfig
from marketd.routing.headers import told
from marketd.routing.quota_memory import QuotaMemory, SavedQuota, SavedWindow
from marketd.routing.windows import Spent, Window
from marketd.sources.contract import Limit
from marketd.sources.http import PRIORITY, Answer

__all__ = ["WAITED", "Budget", "OutOfQuota", "WindowState"]

_logger = logging.getLogger(__name__)

WAITED: ContextVar[list[int] | None] = ContextVar("waited", default=None)
"""Where a budget adds for how long a request waited for its turn, nanoseconds: that is not the provider's latency."""

_GUESS_FIRST_S, _GUESS_MAX_S = 1.0, 300.0
_CLOSED_MAX_S = 7 * 86_400.0
_REMEMBERED_S = 10.0
_STEPS = 20
_WAITING_MAX = 10_000


class OutOfQuota(Throttled):
    """Our own quota says it: the provider was not asked."""


class WindowState(msgspec.Struct, frozen=True, kw_only=True):
    """A limit and what is left of it now."""

    seconds: float
    endpoint: str | None
    count: int
    used: int
    left: int


class Budget:
    """Implements `marketd.sources.http.RequestBudget` for one provider.

    memory: where what was spent outlives the process; None forgets. Its windows come with `configure`; what is spent
    before is counted as soon as they do.
    """

    def __init__(self, provider: str, clock: Clock, *, memory: QuotaMemory | None = None) -> None:
        self.provider = provider
        self.error: str | None = None
        """Why what was spent could not be saved; None while it can."""
        self._clock = clock
        self._memory = memory
        self._offset_ns = clock.time_ns() - clock.monotonic_ns()
        self._restored = None if memory is None else memory.load(provider)
        self._weights: Mapping[str, int] = {}
        self._waits = WaitsConfig()
        self._windows: list[Window] | None = None
        self._early: list[tuple[int, str, int, int]] = []
        self._ahead: dict[tuple[float, str | None], int] = {}
        """What may still be spent of a window before it has to be saved again."""
        self._since_save: dict[tuple[float, str | None], int] = {}
        self._closed: dict[str | None, int] = {}
        self._guess_s: dict[str | None, float] = {}
        self._left: int | None = None
        self._left_limit: int | None = None
        self._left_until_ns = 0
        self._waiting: list[_Waiter] = []
        self._number = 0
        self._timer: asyncio.Task[None] | None = None
        self._timer_ns = 0
        self._saving: asyncio.Task[None] | None = None
        self._save_again = False
        self._save_weight = 0
        self._is_over = False
        self._is_marked = False
        """Whether what is saved says that there is a process that spends."""
        if self._restored is not None:
            now_ns = clock.monotonic_ns()
            for endpoint, until_ns in self._restored.closed.items():
                self._close(endpoint or None, min(until_ns - self._offset_ns, now_ns + round(_CLOSED_MAX_S * NS_PER_S)))

    def configure(
        self,
        limits: Iterable[Limit],
        config: QuotaConfig | None = None,
        *,
        shares: SharesConfig | None = None,
        waits: WaitsConfig | None = None,
    ) -> None:
        """Hold these windows from now on. limits: the documented ones, unless `config` has its own. What was spent
        before counts in the new windows."""
        config = config or QuotaConfig()
        self._weights = config.weights
        self._waits = waits or self._waits
        now_ns = self._clock.monotonic_ns()
        before = {window.key: window for window in self._windows or ()}
        by_key = {(limit.seconds, limit.endpoint): limit for limit in config.given or tuple(limits)}
        windows: list[Window] = []
        for key, limit in by_key.items():
            window = Window(limit, shares or SharesConfig())
            old = before.get(key) or max(
                (w for w in before.values() if w.limit.endpoint == limit.endpoint),
                key=lambda w: w.limit.seconds,
                default=None,
            )
            if old is not None:
                window.remember(old.spent(now_ns), now_ns)
            elif self._restored is not None:
                self._restore(window, self._restored, now_ns)
            windows.append(window)
        if self._windows is None:
            for time_ns, endpoint, weight, rank in self._early:
                for window in windows:
                    if window.concerns(endpoint):
                        window.spend(time_ns, weight, rank)
            self._early.clear()
        self._windows = windows
        self._ahead = {key: self._ahead.get(key, 0) for key in by_key}
        self._since_save = {key: self._since_save.get(key, 0) for key in by_key}
        if windows:
            self._restored = None
        self._serve()

    def _restore(self, window: Window, saved: SavedQuota, now_ns: int) -> None:
        """What was spent before the process began, and what may have been."""
        for old in saved.windows:
            if (old.seconds, old.endpoint) == window.key:
                window.remember(_shifted(old.spent, -self._offset_ns), now_ns)
                window.spend(now_ns, old.ahead, 0)
                return
        if not saved.is_whole and window.limit.seconds < _REMEMBERED_S:
            # Short windows are not written down; it may have been full a moment ago.
            window.spend(now_ns, window.limit.count, 0)

    # --- requests ------------------------------------------------------------------------------------------

    async def take(self, endpoint: str, weight: int) -> None:
        """See `RequestBudget.take`. Raises OutOfQuota."""
        if self._is_over:
            raise self._end()
        priority = PRIORITY.get()
        now_ns = self._clock.monotonic_ns()
        if len(self._waiting) >= _WAITING_MAX:
            raise OutOfQuota(self.provider, f"{_WAITING_MAX} requests wait for the quota already", 1.0)
        waiter = _Waiter(
            rank=PRIORITIES.index(priority),
            number=self._number,
            endpoint=endpoint,
            weight=max(0, self._weights.get(endpoint, weight)),
            until_ns=now_ns + round(self._waits.of(priority) * NS_PER_S),
            turn=asyncio.get_running_loop().create_future(),
        )
        self._number += 1
        bisect.insort(self._waiting, waiter, key=lambda w: (w.rank, w.number))
        self._serve()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                waiter.turn.exception()
            self._serve()
            raise
        waited = WAITED.get()
        if waited is not None:
            waited.append(self._clock.monotonic_ns() - now_ns)

    def answered(self, endpoint: str, answer: Answer) -> None:  # noqa: ARG002 - the headers say what they are about
        """See `RequestBudget.answered`."""
        said = told(answer.headers, self._clock.time_ns() / NS_PER_S)
        now_ns = self._clock.monotonic_ns()
        for window in self._windows or ():
            used = said.used.get(window.limit.seconds)
            if used is not None and window.limit.endpoint is None:
                # More than we know of: somebody else asks with this key or from this address.
                window.spend(now_ns, min(used, window.limit.count) - window.used(now_ns), 0)
        if said.left is not None:
            until_ns = now_ns + round(said.reset_s * NS_PER_S)
            self._left_limit = said.limit
            is_same = said.reset_s > 2 and abs(until_ns - self._left_until_ns) <= NS_PER_S
            if self._left is not None and now_ns < self._left_until_ns and is_same:
                # Requests under way are not in what is said: within a window what is left only shrinks.
                self._left = min(said.left, self._left)
            else:
                self._left, self._left_until_ns = said.left, until_ns

    def throttled(self, endpoint: str, retry_after_s: float | None) -> None:
        """See `RequestBudget.throttled`. Without a time a guess is made, that doubles while it turns out too short."""
        now_ns = self._clock.monotonic_ns()
        key = endpoint if any(w.limit.endpoint == endpoint for w in self._windows or ()) else None
        if retry_after_s is None or not math.isfinite(retry_after_s):
            guess_s = self._guess_s.get(key, 0.0)
            ended_ns = self._closed.get(key)
            if guess_s and ended_ns is not None and now_ns < ended_ns:
                return  # an answer to a request that went before the tap was closed
            is_soon = ended_ns is not None and now_ns - ended_ns <= 2 * guess_s * NS_PER_S
            guess_s = min(2 * guess_s, _GUESS_MAX_S) if guess_s and is_soon else _GUESS_FIRST_S
            self._guess_s[key] = guess_s
            retry_after_s = guess_s
        closed_s = min(max(retry_after_s, 0.0), _CLOSED_MAX_S)
        self._close(key, now_ns + round(closed_s * NS_PER_S))
        _logger.warning("%s asks for a rest of %.3g s (%s)", self.provider, closed_s, key or "all requests")
        self._save_soon()
        self._serve()

    def _close(self, key: str | None, until_ns: int) -> None:
        self._closed[key] = max(self._closed.get(key, until_ns), until_ns)

    # --- how it stands -------------------------------------------------------------------------------------

    @property
    def closed_s(self) -> float:
        """For how long nothing may be asked, because the provider said so; 0 if something may."""
        return self._seconds(self._closed.get(None))

    @property
    def is_closed(self) -> bool:
        """Whether anything at all is closed."""
        return any(self._seconds(until_ns) > 0 for until_ns in self._closed.values())

    @property
    def closed_until_ns(self) -> int | None:
        """UTC; None if it is not closed."""
        return self._closed[None] + self._offset_ns if self.closed_s > 0 else None

    def _seconds(self, until_ns: int | None) -> float:
        if until_ns is None:
            return 0.0
        return max(0.0, (until_ns - self._clock.monotonic_ns()) / NS_PER_S)

    @property
    def windows(self) -> Sequence[WindowState]:
        now_ns = self._clock.monotonic_ns()
        return [
            WindowState(
                seconds=window.limit.seconds,
                endpoint=window.limit.endpoint,
                count=window.limit.count,
                used=(used := window.used(now_ns)),
                left=max(0, window.limit.count - used),
            )
            for window in self._windows or ()
        ]

    @property
    def told_left(self) -> int | None:
        """What the provider says is left of its current window; None if it says nothing, or that window is over."""
        return self._left if self._clock.monotonic_ns() < self._left_until_ns else None

    async def close(self) -> None:
        """Save how it stands. Nothing may be asked afterwards, and who waits is told so."""
        self._is_over = True
        for waiter in self._waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(self._end())
        self._waiting.clear()
        self._stop_timer()
        if self._memory is None:
            return
        self._save_again = False
        if self._saving is not None:
            await self._saving
        await self._write(is_whole=True)

    def _end(self) -> OutOfQuota:
        return OutOfQuota(self.provider, "the server ends")

    # --- turns ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Let all go whose turn it is, tell those to come back who would wait too long, and wake again for the rest."""
        now_ns = self._clock.monotonic_ns()
        wake_ns: int | None = None
        blocked: set[object] = set()
        unsaved: set[object] = set()
        still: list[_Waiter] = []
        for waiter in self._waiting:
            if waiter.turn.done():
                continue
            windows = [window for window in self._windows or () if window.concerns(waiter.endpoint)]
            waits = self._waits_for(waiter, windows, now_ns)
            ready_ns = max((at_ns for at_ns in waits.values()), default=now_ns)
            concerned: set[object] = {*windows, None, waiter.endpoint}
            if ready_ns > max(now_ns, waiter.until_ns):
                waiter.turn.set_exception(self._refusal(waiter, ready_ns - now_ns))
                continue
            if unsaved & concerned and ready_ns <= now_ns:
                still.append(waiter)
                continue
            if ready_ns > now_ns or blocked & concerned:
                # Who is less urgent may not take the room that this one waits for.
                blocked |= set(waits)
                if waiter.until_ns <= now_ns:
                    waiter.turn.set_exception(self._refusal(waiter, NS_PER_S))
                    continue
                next_ns = min(ready_ns, waiter.until_ns) if ready_ns > now_ns else waiter.until_ns
                wake_ns = next_ns if wake_ns is None else min(wake_ns, next_ns)
                still.append(waiter)
            elif not self._may_spend(windows, waiter.weight):
                unsaved |= concerned  # they go as soon as what may be spent is saved
                still.append(waiter)
            else:
                self._spend(waiter, windows, now_ns)
                waiter.turn.set_result(None)
        self._waiting[:] = still
        if wake_ns is None:
            self._stop_timer()
        else:
            self._wake_at(max(wake_ns, now_ns + 1))

    def _waits_for(self, waiter: _Waiter, windows: Sequence[Window], now_ns: int) -> dict[object, int]:
        """What keeps it from going now, and until when. None as a key: what holds for all requests."""
        waits: dict[object, int] = {}
        for window in windows:
            ready_ns = window.ready_ns(now_ns, waiter.weight, waiter.rank)
            if ready_ns is None:
                waits[window] = now_ns + round(window.limit.seconds * NS_PER_S) + waiter.until_ns
            elif ready_ns > now_ns:
                waits[window] = ready_ns
        closed_ns = self._closed.get(None, now_ns)
        if self._left is not None and now_ns < self._left_until_ns and waiter.weight:
            share = (1.0, windows[0].shares.sweep, windows[0].shares.backfill)[waiter.rank] if windows else 1.0
            kept = 0 if self._left_limit is None else math.ceil(self._left_limit * (1.0 - share))
            if self._left - kept < waiter.weight:
                closed_ns = max(closed_ns, self._left_until_ns)
        if closed_ns > now_ns:
            waits[None] = closed_ns
        own_ns = self._closed.get(waiter.endpoint, now_ns)
        if own_ns > now_ns:
            waits[waiter.endpoint] = own_ns
        return waits

    def _refusal(self, waiter: _Waiter, wait_ns: int) -> OutOfQuota:
        wait_s = wait_ns / NS_PER_S
        never = next(
            (w for w in self._windows or () if w.concerns(waiter.endpoint) and waiter.weight > w.limit.count), None
        )
        if never is not None:
            reason = f"{waiter.endpoint} weighs {waiter.weight}, more than {never.limit.count} per "
            return OutOfQuota(self.provider, f"{reason}{never.limit.seconds:g} s")
        return OutOfQuota(self.provider, f"no {waiter.endpoint} within the quota for {wait_s:.3g} s", wait_s)

    def _spend(self, waiter: _Waiter, windows: Iterable[Window], now_ns: int) -> None:
        if self._windows is None:
            self._early.append((now_ns, waiter.endpoint, waiter.weight, waiter.rank))
        for window in windows:
            window.spend(now_ns, waiter.weight, waiter.rank)
            if self._memory is not None and _is_remembered(window):
                self._ahead[window.key] -= waiter.weight
                self._since_save[window.key] += waiter.weight
                if self._ahead[window.key] < _step(window) / 2 and self._saving is None:
                    self._save_soon()
        if self._left is not None and now_ns < self._left_until_ns:
            self._left -= waiter.weight

    def _wake_at(self, at_ns: int) -> None:
        if self._timer is not None:
            if self._timer_ns <= at_ns:
                return
            self._stop_timer()
        self._timer_ns = at_ns
        self._timer = asyncio.get_running_loop().create_task(self._wake(at_ns))

    async def _wake(self, at_ns: int) -> None:
        await self._clock.sleep((at_ns - self._clock.monotonic_ns()) / NS_PER_S)
        self._timer = None
        self._serve()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- memory --------------------------------------------------------------------------------------------

    def _may_spend(self, windows: Iterable[Window], weight: int) -> bool:
        """Whether what is saved allows for it; if not, it is saved anew and `_serve` called again."""
        if self._memory is None or not self._windows:
            return True
        if self._is_marked and all(self._ahead[w.key] >= weight for w in windows if _is_remembered(w)):
            return True
        self._save_soon(weight)
        return False

    def _save_soon(self, weight: int = 0) -> None:
        if self._memory is None:
            return
        self._save_weight = max(self._save_weight, weight)
        if self._saving is not None:
            self._save_again = True
            return
        self._saving = asyncio.get_running_loop().create_task(self._save())

    async def _save(self) -> None:
        self._save_again = False
        weight, self._save_weight = self._save_weight, 0
        await self._write(weight=weight)
        self._saving = None
        if self._save_again:
            self._save_soon()
        self._serve()

    async def _write(self, *, weight: int = 0, is_whole: bool = False) -> None:
        assert self._memory is not None
        now_ns = self._clock.monotonic_ns()
        ahead: dict[tuple[float, str | None], int] = {}
        saved: list[SavedWindow] = []
        for window in self._windows or ():
            if is_whole or _is_remembered(window):
                ahead[window.key] = 0 if is_whole else max(_step(window), weight)
                spent = _shifted(window.spent(now_ns), self._offset_ns)
                seconds, endpoint = window.key
                saved.append(SavedWindow(seconds=seconds, endpoint=endpoint, spent=spent, ahead=ahead[window.key]))
        if self._restored is not None:
            saved += self._restored.windows  # no windows were given yet
        self._since_save = dict.fromkeys(self._since_save, 0)
        state = SavedQuota(
            saved_ns=now_ns + self._offset_ns,
            is_whole=is_whole,
            windows=tuple(saved),
            closed={key or "": at + self._offset_ns for key, at in self._closed.items() if at > now_ns},
        )
        try:
            await self._memory.save(self.provider, state)
            self.error = None
        except OSError as error:
            # Better to go on, exact as long as the process lives, than to leave everybody without data.
            self.error = f"the quota is not saved: {error}"
            _logger.warning("%s: what was spent of the quota cannot be saved: %s", self.provider, error)
        for key, allowed in ahead.items():
            if key in self._ahead:
                self._ahead[key] = allowed - self._since_save.get(key, 0)
        self._is_marked = not is_whole


class _Waiter(msgspec.Struct, kw_only=True, eq=False):
    rank: int
    number: int
    endpoint: str
    weight: int
    until_ns: int
    turn: asyncio.Future[None]


def _shifted(entries: Iterable[Spent], by_ns: int) -> tuple[Spent, ...]:
    return tuple((t + by_ns, live, sweep, backfill) for t, live, sweep, backfill in entries)


def _is_remembered(window: Window) -> bool:
    return window.limit.seconds >= _REMEMBERED_S


def _step(window: Window) -> int:
    return max(1, window.limit.count // _STEPS)
