"""One budget for all that ask a provider: no window is ever exceeded, the urgent come first, nothing waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import Throttled
from marketd.model.time import NS_PER_S
from marketd.routing import (
    Budget,
    FileQuotaMemory,
    OutOfQuota,
    QuotaConfig,
    SavedQuota,
    SavedWindow,
    SharesConfig,
    WaitsConfig,
)
from marketd.sources.contract import Limit
from marketd.sources.http import PRIORITY, Answer, RequestBudget
from marketd.testing import ManualClock

ALL_LIVE = SharesConfig(sweep=1.0, backfill=1.0)


class Kept:
    """Keeps what is saved as long as the test lives. A save takes `turns` of the loop."""

    def __init__(self, turns=1):
        self.saved = {}
        self.saves = 0
        self.turns = turns
        self.error = None

    def load(self, provider):
        return self.saved.get(provider)

    async def save(self, provider, saved):
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.saves += 1
        self.saved[provider] = saved


def budget(clock, *limits, memory=None, shares=ALL_LIVE, waits=None, config=None):
    made = Budget("acme", clock, memory=memory)
    made.configure(limits, config, shares=shares, waits=waits or WaitsConfig(live=1.0, sweep=30.0, backfill=60.0))
    return made


async def take(budget, endpoint="quote", weight=1, priority="live"):
    token = PRIORITY.set(priority)
    try:
        await budget.take(endpoint, weight)
    finally:
        PRIORITY.reset(token)


async def taken_now(budget, **kwargs):
    """How many go at once, of up to 50."""
    tasks = [asyncio.create_task(take(budget, **kwargs)) for _ in range(50)]
    for _ in range(20):
        await asyncio.sleep(0)
    count = sum(task.done() and not task.cancelled() and task.exception() is None for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return count


def answer(**headers):
    return Answer(200, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


def test_it_is_a_request_budget():
    made: RequestBudget = Budget("acme", ManualClock())
    assert made.windows == []


def test_so_many_go_and_the_next_one_waits_for_the_first_to_be_over():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=3, seconds=1.0))
        for _ in range(3):
            await take(made)
        waiting = asyncio.create_task(take(made))
        await clock.advance(0.998)
        assert not waiting.done()
        await clock.advance(0.003)
        assert waiting.done()
        assert made.windows[0].used == 1

    asyncio.run(go())


def test_who_would_wait_too_long_is_told_at_once_when_to_come_back():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=1, seconds=60.0))
        await take(made)
        await clock.advance(20)
        with pytest.raises(OutOfQuota) as caught:
            await take(made)
        assert isinstance(caught.value, Throttled)
        assert caught.value.retry_after_s == pytest.approx(40, abs=0.1)
        with pytest.raises(OutOfQuota):
            await take(made, priority="sweep")
        waiting = asyncio.create_task(take(made, priority="backfill"))
        await clock.advance(40.1)
        assert waiting.done()
        await waiting

    asyncio.run(go())


def test_the_urgent_go_first():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=1, seconds=1.0), waits=WaitsConfig(live=60.0, sweep=60.0, backfill=60.0))
        await take(made)
        went = []

        async def ask(name, priority):
            await take(made, priority=priority)
            went.append(name)

        tasks = [
            asyncio.create_task(ask(name, priority))
            for name, priority in [
                ("b1", "backfill"),
                ("s1", "sweep"),
                ("l1", "live"),
                ("b2", "backfill"),
                ("l2", "live"),
            ]
        ]
        await clock.advance(6)
        assert went == ["l1", "l2", "s1", "b1", "b2"]
        await asyncio.gather(*tasks)

    asyncio.run(go())


def test_who_waits_for_an_endpoint_does_not_hold_up_others():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=10, seconds=1.0), Limit(count=1, seconds=30.0, endpoint="chain"))
        await take(made, "chain", priority="backfill")
        waiting = asyncio.create_task(take(made, "chain", priority="backfill"))
        await asyncio.sleep(0)
        await take(made, "quote", priority="backfill")
        assert not waiting.done()
        await clock.advance(31)
        await waiting

    asyncio.run(go())


def test_who_weighs_much_is_not_starved_by_those_who_weigh_little():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=10, seconds=10.0))
        await take(made, weight=5)
        await clock.advance(5)
        heavy = asyncio.create_task(take(made, weight=10, priority="backfill"))
        await asyncio.sleep(0)
        light = asyncio.create_task(take(made, weight=1, priority="backfill"))
        await clock.advance(5.1)
        assert heavy.done()
        assert not light.done()
        await clock.advance(10.1)
        assert light.done()
        await asyncio.gather(heavy, light)

    asyncio.run(go())


def test_some_of_every_window_is_left_for_live_requests():
    async def go():
        clock = ManualClock()
        shares = SharesConfig(sweep=0.8, backfill=0.5)
        made = budget(
            clock, Limit(count=10, seconds=60.0), shares=shares, waits=WaitsConfig(live=0, sweep=0, backfill=0)
        )
        assert await taken_now(made, priority="backfill") == 5
        assert await taken_now(made, priority="sweep") == 3
        assert await taken_now(made, priority="live") == 2

    asyncio.run(go())


def test_a_share_is_never_less_than_one_request():
    async def go():
        made = budget(ManualClock(), Limit(count=1, seconds=1.0), shares=SharesConfig(sweep=0.5, backfill=0.1))
        await take(made, priority="backfill")

    asyncio.run(go())


def test_what_weighs_more_than_the_window_never_goes():
    async def go():
        made = budget(ManualClock(), Limit(count=10, seconds=1.0))
        with pytest.raises(OutOfQuota, match="weighs 11, more than 10 per 1 s") as caught:
            await take(made, weight=11)
        assert caught.value.retry_after_s is None

    asyncio.run(go())


def test_settings_take_the_place_of_what_is_documented():
    async def go():
        config = QuotaConfig(per_minute=2, weights={"bars": 0, "chain": 2})
        made = budget(ManualClock(), Limit(count=100, seconds=1.0), config=config)
        assert [(w.seconds, w.count) for w in made.windows] == [(60.0, 2)]
        await take(made, "bars")
        assert made.windows[0].left == 2
        await take(made, "chain")
        assert made.windows[0].left == 0

    asyncio.run(go())


def test_what_was_spent_counts_in_new_windows_too():
    async def go():
        clock = ManualClock()
        made = Budget("acme", clock)
        await take(made)  # the provider is being built: its limits are not known yet
        made.configure([Limit(count=5, seconds=60.0)])
        assert made.windows[0].used == 1
        await take(made)
        made.configure([Limit(count=5, seconds=60.0)], QuotaConfig(per_minute=3, per_s=10))
        assert [(w.seconds, w.used) for w in made.windows] == [(1.0, 2), (60.0, 2)]

    asyncio.run(go())


def test_a_429_closes_the_tap_for_as_long_as_it_says():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=100, seconds=1.0))
        made.throttled("quote", 42.0)
        assert made.closed_s == 42.0
        assert made.closed_until_ns == clock.time_ns() + 42 * NS_PER_S
        with pytest.raises(OutOfQuota) as caught:
            await take(made)
        assert caught.value.retry_after_s == pytest.approx(42.0)
        await clock.advance(42)
        assert made.closed_until_ns is None
        await take(made)

    asyncio.run(go())


def test_a_429_for_an_endpoint_with_a_limit_of_its_own_closes_that():
    async def go():
        made = budget(ManualClock(), Limit(count=10, seconds=30.0, endpoint="chain"))
        made.throttled("chain", 10.0)
        assert (made.closed_s, made.is_closed) == (0.0, True)
        await take(made, "quote")
        with pytest.raises(OutOfQuota):
            await take(made, "chain")

    asyncio.run(go())


def test_without_a_time_the_guess_grows_while_it_is_too_short():
    async def go():
        clock = ManualClock()
        made = budget(clock)
        rests = []
        for _ in range(11):
            made.throttled("quote", None)
            made.throttled("quote", None)  # of a request that was under way
            rests.append(made.closed_s)
            await clock.advance(made.closed_s)
        assert rests == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        await clock.advance(601)
        made.throttled("quote", None)
        assert made.closed_s == 1

    asyncio.run(go())


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -5.0, 1e300])
def test_a_senseless_rest_does_no_harm(seconds):
    made = budget(ManualClock())

    async def go():
        made.throttled("quote", seconds)
        assert 0 <= made.closed_s <= 7 * 86_400

    asyncio.run(go())


def test_what_the_provider_says_is_left_is_kept_to():
    async def go():
        clock = ManualClock()
        made = budget(clock)
        reset = str(clock.time_ns() // NS_PER_S + 30)
        said = {"x_ratelimit_limit": "60", "x_ratelimit_remaining": "2", "x_ratelimit_reset": reset}
        made.answered("quote", answer(**said))
        assert made.told_left == 2
        await take(made)
        made.answered("quote", answer(**said))  # of a request that was counted before this one
        await take(made)
        with pytest.raises(OutOfQuota):
            await take(made)
        await clock.advance(30)
        assert made.told_left is None
        await take(made)

    asyncio.run(go())


def test_back_fill_leaves_its_part_of_what_the_provider_says_is_left():
    async def go():
        clock = ManualClock()
        shares = SharesConfig(sweep=0.8, backfill=0.5)
        made = budget(
            clock, Limit(count=1000, seconds=60.0), shares=shares, waits=WaitsConfig(live=0, sweep=0, backfill=0)
        )
        made.answered("quote", answer(ratelimit_limit="10", ratelimit_remaining="10", ratelimit_reset="30"))
        assert await taken_now(made, priority="backfill") == 5
        assert await taken_now(made, priority="sweep") == 3
        assert await taken_now(made, priority="live") == 2

    asyncio.run(go())


def test_what_others_use_of_the_same_address_counts():
    async def go():
        made = budget(ManualClock(), Limit(count=6000, seconds=60.0))
        await take(made, weight=20)
        made.answered("klines", answer(x_mbx_used_weight_1m="5000"))
        assert made.windows[0].used == 5000
        made.answered("klines", answer(x_mbx_used_weight_1m="20"))
        assert made.windows[0].used == 5000

    asyncio.run(go())


def test_who_is_cancelled_while_waiting_leaves_its_place():
    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=1, seconds=1.0))
        await take(made)
        first, second = asyncio.create_task(take(made)), asyncio.create_task(take(made))
        await asyncio.sleep(0)
        first.cancel()
        await clock.advance(1.01)
        assert second.done()
        await second

    asyncio.run(go())


# --- whatever is asked ------------------------------------------------------------------------------------

LIMITS = [
    (Limit(count=3, seconds=1.0),),
    (Limit(count=5, seconds=10.0), Limit(count=2, seconds=1.0), Limit(count=2, seconds=20.0, endpoint="chain")),
    (Limit(count=25, seconds=86_400.0), Limit(count=1, seconds=1.0)),
    (Limit(count=40, seconds=60.0), Limit(count=10, seconds=5.0)),
]
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("take"),
            st.sampled_from(["live", "sweep", "backfill"]),
            st.sampled_from(["quote", "chain"]),
            st.integers(0, 4),
            st.integers(1, 6),
        ),
        st.tuples(st.just("advance"), st.sampled_from([0.0003, 0.1, 0.5, 1.0, 3.7, 20.0, 3_000.0])),
        st.tuples(st.just("cancel")),
        st.tuples(st.just("throttled"), st.sampled_from([None, 0.5, 5.0])),
        st.tuples(st.just("killed"), st.integers(0, 12)),
        st.tuples(st.just("ended")),
    ),
    max_size=40,
)


def exceeded(grants, limit):
    """The first window with more than is allowed, by the definition: all pairs."""
    span_ns = round(limit.seconds * NS_PER_S)
    for at_ns, _, _ in grants:
        used = sum(
            weight
            for then_ns, endpoint, weight in grants
            if at_ns - span_ns < then_ns <= at_ns and limit.endpoint in (None, endpoint)
        )
        if used > limit.count:
            return at_ns, used
    return None


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(LIMITS), steps, st.booleans())
def test_no_window_is_ever_exceeded(limits, steps, has_memory):
    """Also not by what was spent before the process was killed, wherever it was in saving it."""

    async def go():
        clock = ManualClock()
        memory = Kept(turns=3) if has_memory else None
        shares = SharesConfig()
        made = budget(clock, *limits, memory=memory, shares=shares)
        grants, tasks = [], []

        async def ask(made, priority, endpoint, weight):
            with suppress(OutOfQuota):
                await take(made, endpoint, weight, priority)
                grants.append((clock.monotonic_ns(), endpoint, weight))

        for step in steps:
            match step:
                case ("take", priority, endpoint, weight, times):
                    tasks += [asyncio.create_task(ask(made, priority, endpoint, weight)) for _ in range(times)]
                case ("advance", seconds):
                    await clock.advance(seconds)
                case ("cancel",):
                    if tasks:
                        tasks.pop().cancel()
                case ("throttled", seconds):
                    made.throttled("quote", seconds)
                case ("killed", turns) if has_memory:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    for task in [*tasks, made._timer, made._saving]:
                        if task is not None:
                            task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    tasks.clear()
                    made = budget(clock, *limits, memory=memory, shares=shares)
                case ("ended",) if has_memory:
                    await made.close()
                    made = budget(clock, *limits, memory=memory, shares=shares)
        await clock.advance(100)
        for limit in limits:
            assert exceeded(grants, limit) is None
        # everybody who waited has been told something
        assert all(task.done() for task in tasks)
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(go())


@given(st.integers(1, 30), st.floats(0.5, 100))
def test_the_whole_window_can_be_used(count, seconds):
    """Exact the other way, too: what is allowed goes at once, and again as soon as the window is over."""

    async def go():
        clock = ManualClock()
        made = budget(clock, Limit(count=count, seconds=seconds), waits=WaitsConfig(live=0, sweep=0, backfill=0))
        assert await taken_now(made) == count
        await clock.advance(seconds * 1.001)
        assert await taken_now(made) == count

    asyncio.run(go())


# --- memory -----------------------------------------------------------------------------------------------


def test_after_a_crash_all_that_may_have_been_spent_is_spent():
    async def go():
        clock = ManualClock()
        memory = Kept()
        made = budget(clock, Limit(count=100, seconds=86_400.0), memory=memory)
        for _ in range(12):
            await take(made)
        assert memory.saves < 12
        after = budget(clock, Limit(count=100, seconds=86_400.0), memory=memory)
        assert 12 <= after.windows[0].used <= 12 + 2 * 5  # steps are a twentieth

    asyncio.run(go())


def test_after_an_orderly_end_exactly_what_was_spent_is_spent():
    async def go():
        clock = ManualClock()
        memory = Kept()
        limits = (Limit(count=100, seconds=86_400.0), Limit(count=10, seconds=1.0))
        made = budget(clock, *limits, memory=memory)
        for _ in range(7):
            await take(made)
        await made.close()
        await clock.advance(0.5)
        again = budget(ManualClock(clock.time_ns()), *limits, memory=memory)
        assert [w.used for w in again.windows] == [7, 7]
        later = budget(ManualClock(clock.time_ns() + 3_600 * NS_PER_S), *limits, memory=memory)
        assert [w.used for w in later.windows] == [7, 0]
        tomorrow = budget(ManualClock(clock.time_ns() + 86_400 * NS_PER_S), *limits, memory=memory)
        assert [w.used for w in tomorrow.windows] == [0, 0]

    asyncio.run(go())


def test_after_a_crash_short_windows_begin_full():
    async def go():
        clock = ManualClock()
        memory = Kept()
        made = budget(clock, Limit(count=10, seconds=1.0), memory=memory)
        await take(made)
        assert memory.saves == 1
        after = budget(clock, Limit(count=10, seconds=1.0), memory=memory)
        assert after.windows[0].left == 0

    asyncio.run(go())


def test_a_tap_that_was_closed_stays_closed():
    async def go():
        clock = ManualClock()
        memory = Kept()
        made = budget(clock, memory=memory)
        made.throttled("quote", 3_600.0)
        await clock.advance(600)
        after = Budget("acme", ManualClock(clock.time_ns()), memory=memory)
        assert after.closed_s == pytest.approx(3_000)

    asyncio.run(go())


def test_it_is_saved_seldom():
    async def go():
        clock = ManualClock()
        memory = Kept()
        made = budget(clock, Limit(count=6_000, seconds=60.0), memory=memory)
        for _ in range(3_000):
            await take(made)
            await asyncio.sleep(0)
        assert memory.saves <= 3_000 / 150 + 2

    asyncio.run(go())


def test_who_waits_for_a_save_is_not_overtaken_by_those_who_need_none():
    async def go():
        made = budget(ManualClock(), Limit(count=100, seconds=60.0), memory=Kept(turns=5))
        await take(made)
        went = []

        async def ask(name, weight):
            await take(made, weight=weight)
            went.append(name)

        await asyncio.gather(ask("heavy", 10), ask("light", 1))
        assert went == ["heavy", "light"]

    asyncio.run(go())


def test_a_disk_that_is_full_stops_nobody_and_is_told():
    async def go():
        clock = ManualClock()
        memory = Kept()
        memory.error = OSError(28, "No space left on device")
        made = budget(clock, Limit(count=100, seconds=60.0), memory=memory)
        for _ in range(100):
            await take(made)
        assert "No space left" in made.error
        with pytest.raises(OutOfQuota):
            await take(made)
        memory.error = None
        await clock.advance(61)
        await take(made)
        await clock.advance(1)
        assert made.error is None

    asyncio.run(go())


def test_a_file_keeps_it(tmp_path):
    async def go():
        clock = ManualClock()
        folder = tmp_path / "quota"
        made = budget(clock, Limit(count=100, seconds=86_400.0), memory=FileQuotaMemory(folder))
        for _ in range(3):
            await take(made)
        made.throttled("quote", 60.0)
        await made.close()
        assert [path.name for path in folder.iterdir()] == ["acme.json"]
        after = budget(clock, Limit(count=100, seconds=86_400.0), memory=FileQuotaMemory(folder))
        assert after.windows[0].used == 3
        assert after.closed_s == 60.0

    asyncio.run(go())


def test_names_of_providers_stay_within_the_folder(tmp_path):
    async def go():
        memory = FileQuotaMemory(tmp_path / "quota")
        await memory.save("../../etc/passwd", SavedQuota(saved_ns=1, is_whole=True))
        assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "quota"]
        assert memory.load("../../etc/passwd") == SavedQuota(saved_ns=1, is_whole=True)

    asyncio.run(go())


@settings(max_examples=50)
@given(data=st.one_of(st.binary(max_size=60), st.just(b'{"saved_ns":1}'), st.just(b"[" * 5000)))
def test_a_file_that_cannot_be_read_is_set_aside(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("quota")
    (folder / "acme.json").write_bytes(data)
    assert FileQuotaMemory(folder).load("acme") is None
    assert (folder / "acme.json.unreadable").read_bytes() == data


whole = st.integers(-(10**20), 10**20)
saved = st.builds(
    SavedQuota,
    saved_ns=whole,
    is_whole=st.booleans(),
    windows=st.lists(
        st.builds(
            SavedWindow,
            seconds=st.sampled_from([1.0, 60.0]),
            endpoint=st.none(),
            spent=st.lists(st.tuples(whole, whole, whole, whole), max_size=4).map(tuple),
            ahead=whole,
        ),
        max_size=3,
    ).map(tuple),
    closed=st.dictionaries(st.sampled_from(["", "chain"]), whole),
)


@given(saved)
def test_whatever_a_file_says_it_is_over_one_day(saved):
    """A clock that was wrong when it was written, or somebody's edit, closes nothing for ever."""

    async def go():
        clock = ManualClock()
        memory = Kept()
        memory.saved["acme"] = saved
        made = budget(clock, Limit(count=5, seconds=60.0), Limit(count=2, seconds=1.0), memory=memory)
        await clock.advance(7 * 86_400 + 60)
        await take(made)

    asyncio.run(go())
