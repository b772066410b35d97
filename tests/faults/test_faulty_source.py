"""Faults carried out around a source, to the nanosecond, on a clock the test owns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import SourceRejected
from marketd.faults import FaultConfig, FaultySource
from marketd.model import Connected, Disconnected, Ended, Quote, SourceEvent, TickBatch, Trade
from marketd.sources.contract import Source, Subscriptions
from marketd.testing import ManualClock, ScriptedSource

NOW_NS = 1_700_000_000_000_000_000
MS = 1_000_000
UP = Connected(source="scripted", time_received_ns=NOW_NS)


def trade(symbol: str, price: float, at_ms: float = 0, trade_id: int | None = None) -> Trade:
    at_ns = NOW_NS + round(at_ms * MS)
    return Trade(
        symbol=symbol,
        time_event_ns=at_ns - 5,
        time_received_ns=at_ns,
        source="scripted",
        price=price,
        size=1.0,
        trade_id=trade_id,
    )


def quote(symbol: str, bid: float, at_ms: float = 0) -> Quote:
    at_ns = NOW_NS + round(at_ms * MS)
    return Quote(symbol=symbol, time_event_ns=at_ns, time_received_ns=at_ns, source="scripted", bid=bid, ask=bid + 1)


def batch(*ticks: Quote | Trade) -> TickBatch:
    return TickBatch.from_events(ticks)


@asynccontextmanager
async def heard(source: Source, clock: ManualClock, wanted: Subscriptions) -> AsyncIterator[list]:
    """(time since the beginning in ms, event) of everything the source says."""
    out: list[tuple[float, SourceEvent]] = []

    async def read() -> None:
        async with aclosing(source.stream(wanted)) as stream:
            async for events in stream:
                out.extend(((clock.time_ns() - NOW_NS) / MS, event) for event in events)

    task = asyncio.create_task(read())
    try:
        yield out
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is not None:
            out.append(((clock.time_ns() - NOW_NS) / MS, task.exception()))


def play(script: list, faults: FaultConfig, seconds: float = 10, symbols: str = "AB", **options: object) -> list:
    """What comes of a script in which batches, waits and errors follow one another; single ticks spelled out."""

    async def main() -> list:
        clock = ManualClock(NOW_NS)
        ends = options.pop("ends", True)
        source = FaultySource(ScriptedSource(script, clock=clock, ends=ends), faults, clock=clock, **options)
        async with heard(source, clock, Subscriptions(symbols)) as out:
            await clock.advance(seconds)
        return [
            (at, tick) for at, event in out for tick in (event.to_events() if isinstance(event, TickBatch) else [event])
        ]

    return asyncio.run(main())


def later(tick: Quote | Trade, ms: float) -> Quote | Trade:
    return msgspec.structs.replace(tick, time_received_ns=tick.time_received_ns + round(ms * MS))


def ended(ms: float) -> Ended:
    return Ended(source="scripted", time_received_ns=NOW_NS + round(ms * MS))


@pytest.mark.parametrize("faults", [FaultConfig(), FaultConfig(drop_probability=1.0), FaultConfig(enabled=True)])
def test_with_nothing_to_do_batches_are_the_very_same_objects(faults: FaultConfig) -> None:
    async def main() -> None:
        clock = ManualClock(NOW_NS)
        columns = batch(trade("A", 1.0), trade("B", 2.0))
        single = quote("A", 3.0)
        inner = ScriptedSource([[columns], [single, columns]], clock=clock)
        passed: list = []
        inner_stream = inner.stream

        async def recording(wanted: Subscriptions) -> AsyncIterator:
            async for events in inner_stream(wanted):
                passed.append(events)
                yield events

        inner.stream = recording
        stream = FaultySource(inner, faults, clock=clock).stream(Subscriptions("AB"))
        got = [events async for events in stream]
        assert len(got) == 4
        assert all(a is b for a, b in zip(got, passed, strict=True))
        assert got[1][0] is columns
        assert got[2][0] is single

    asyncio.run(main())


@pytest.mark.parametrize("columns", [True, False])
def test_delay_holds_a_tick_back_and_restamps_only_its_receive_time(columns: bool) -> None:
    ticks = [trade("A", 1.0, trade_id=7), trade("B", 2.0)]
    script = [[batch(*ticks)] if columns else ticks, 1.0]
    out = play(script, FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(100, 100)))
    assert out == [(0, UP), (100, later(ticks[0], 100)), (100, later(ticks[1], 100)), (1000, ended(1000))]


def test_single_ticks_keep_what_columns_do_not_carry() -> None:
    tick = msgspec.structs.replace(trade("A", 1.0), aggressor="sell")
    out = play([[tick], 1.0], FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(20, 20)))
    assert out[1] == (20, later(tick, 20))


def test_held_ticks_come_in_the_order_they_are_due_whatever_they_came_in() -> None:
    script: list = []
    for n in range(40):
        ticks = [trade("A", 1.0 + 2 * n, at_ms=n), trade("B", 2.0 + 2 * n, at_ms=n)]
        script += [[batch(*ticks)] if n % 3 else ticks, 0.001]
    out = play([*script, 1.0], FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(5, 90)), seed=2)
    trades = [(at, tick) for at, tick in out if isinstance(tick, Trade)]
    assert sorted(t.price for _, t in trades) == [float(n) for n in range(1, 81)]
    assert [t.price for _, t in trades] != sorted(t.price for _, t in trades)
    sent_ms = {t.price: (t.price - 1) // 2 for _, t in trades}
    for at, tick in trades:
        assert 5 <= at - sent_ms[tick.price] <= 95
        assert tick.time_received_ns - NOW_NS == pytest.approx(at * MS, abs=1)
        assert tick.time_event_ns == NOW_NS + round(sent_ms[tick.price] * MS) - 5
    received = [t.time_received_ns for _, t in trades]
    assert received == sorted(received)


def test_what_is_held_comes_out_though_the_source_is_silent() -> None:
    faults = FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(300, 300))
    tick = trade("A", 1.0)
    assert play([[tick]], faults, ends=False) == [(0, UP), (300, later(tick, 300))]


def test_what_is_held_comes_out_before_the_end() -> None:
    faults = FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(300, 300))
    ticks = [trade("A", 1.0), quote("B", 2.0)]
    out = play([[batch(ticks[0])], [ticks[1]], 0.02], faults)
    assert out == [(0, UP), (20, later(ticks[0], 20)), (20, later(ticks[1], 20)), (20, ended(20))]


def test_what_is_held_comes_out_before_the_source_gives_up() -> None:
    faults = FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(300, 300))
    refusal = SourceRejected("scripted", "no")
    tick = trade("A", 1.0)
    assert play([[tick], 0.02, refusal], faults) == [(0, UP), (20, later(tick, 20)), (10_000, refusal)]


def test_what_is_held_of_a_removed_symbol_is_forgotten() -> None:
    async def main() -> None:
        clock = ManualClock(NOW_NS)
        script = [
            [batch(trade("A", 1.0), trade("B", 2.0))],
            [trade("A", 3.0), trade("B", 4.0)],
            0.05,
            [quote("B", 5.0)],
        ]
        faults = FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(100, 100))
        source = FaultySource(ScriptedSource(script, clock=clock, ends=False), faults, clock=clock)
        wanted = Subscriptions("AB")
        async with heard(source, clock, wanted) as out:
            await clock.advance(0.01)
            wanted.discard("A")
            await clock.advance(1)
        ticks = [t for _, e in out for t in (e.to_events() if isinstance(e, TickBatch) else [e]) if e != UP]
        assert [(t.symbol, getattr(t, "price", None)) for t in ticks] == [("B", 2.0), ("B", 4.0), ("B", None)]

    asyncio.run(main())


@pytest.mark.parametrize("columns", [True, False])
def test_duplicate_follows_its_tick_with_the_same_times(columns: bool) -> None:
    ticks = [trade("A", 1.0, trade_id=1), trade("B", 2.0, trade_id=2)]
    out = play([[batch(*ticks)] if columns else ticks], FaultConfig(enabled=True, duplicate_probability=1.0))
    assert [event for _, event in out] == [UP, ticks[0], ticks[0], ticks[1], ticks[1], ended(0)]


@pytest.mark.parametrize("columns", [True, False])
def test_out_of_order_takes_the_offset_off_the_event_time_alone(columns: bool) -> None:
    tick = quote("A", 1.0)
    faults = FaultConfig(enabled=True, out_of_order_probability=1.0, out_of_order_offset_ms=250)
    out = play([[batch(tick)] if columns else [tick]], faults)
    assert out[1][1] == msgspec.structs.replace(tick, time_event_ns=NOW_NS - 250 * MS)


def test_a_late_double_out_of_order_tick_is_all_three() -> None:
    faults = FaultConfig(
        enabled=True,
        delay_probability=1,
        delay_ms_range=(40, 40),
        duplicate_probability=1,
        out_of_order_probability=1,
        out_of_order_offset_ms=7,
    )
    tick = trade("A", 1.0)
    expected = msgspec.structs.replace(later(tick, 40), time_event_ns=tick.time_event_ns - 7 * MS)
    for script in ([[tick]], [[batch(tick)]]):
        assert play(script, faults, ends=False) == [(0, UP), (40, expected), (40, expected)]


def test_drop_loses_the_tick_and_nothing_else() -> None:
    script = [[batch(trade("A", 1.0), quote("B", 2.0), trade("A", 3.0))], [trade("A", 4.0), quote("B", 5.0)]]
    dropping = FaultConfig(enabled=True, drop_probability=1.0)
    out = play(script, FaultConfig(), per_symbol={"A": dropping})
    assert [event for _, event in out] == [UP, quote("B", 2.0), quote("B", 5.0), ended(0)]


def test_a_stale_window_is_silence_of_one_symbol_for_its_duration() -> None:
    script: list = []
    for n in range(10):
        script += [[batch(trade("A", 1.0 + n, at_ms=10 * n), trade("B", 100.0 + n, at_ms=10 * n))], 0.01]

    async def main() -> list:
        clock = ManualClock(NOW_NS)
        stale = FaultConfig(enabled=True, stale_window_probability=1.0, stale_window_duration_ms=(45, 45))
        inner = ScriptedSource(script, clock=clock)
        source = FaultySource(inner, FaultConfig(), per_symbol={"A": stale}, clock=clock)
        async with heard(source, clock, Subscriptions("AB")) as out:
            await clock.advance(0.005)
            source.set_faults(FaultConfig(enabled=True), "A")
            await clock.advance(1)
        assert source.counts["stale_window"] == 1
        assert source.counts["stale_window_rows"] == 5
        return [t.price for _, e in out if isinstance(e, TickBatch) for t in e.to_events()]

    prices = asyncio.run(main())
    assert [p for p in prices if p < 100] == [6.0, 7.0, 8.0, 9.0, 10.0]
    assert [p for p in prices if p >= 100] == [100.0 + n for n in range(10)]


def test_a_disconnect_is_told_swallows_ticks_and_comes_back_by_itself() -> None:
    async def main() -> None:
        clock = ManualClock(NOW_NS)
        script = [
            [batch(trade("A", 1.0), trade("B", 2.0), trade("A", 3.0))],
            0.01,
            [trade("A", 4.0, at_ms=10)],
            0.5,
            [trade("A", 5.0, at_ms=510)],
        ]
        breaking = FaultConfig(enabled=True, disconnect_probability=1.0, disconnect_duration_ms=(200, 200))
        inner = ScriptedSource(script, clock=clock, ends=False)
        source = FaultySource(inner, FaultConfig(), per_symbol={"B": breaking}, clock=clock)
        async with heard(source, clock, Subscriptions("AB")) as out:
            await clock.advance(1)
        (_, up), (at_first, first), (at_down, down), (at_again, again), (at_last, last) = out
        assert up == UP
        assert (at_first, first.to_events()) == (0, [trade("A", 1.0)])
        assert (at_down, down) == (
            0,
            Disconnected(source="scripted", time_received_ns=NOW_NS, reason="injected fault"),
        )
        assert (at_again, again) == (200, Connected(source="scripted", time_received_ns=NOW_NS + 200 * MS))
        assert (at_last, last) == (510, trade("A", 5.0, at_ms=510))
        assert source.counts["disconnect"] == 1
        assert source.counts["disconnect_rows"] == 3

    asyncio.run(main())


def test_what_is_held_when_the_connection_breaks_comes_after_it_is_back() -> None:
    faults = {
        "A": FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(50, 50)),
        "B": FaultConfig(enabled=True, disconnect_probability=1.0, disconnect_duration_ms=(200, 200)),
    }
    tick = trade("A", 1.0)
    out = play([[batch(tick, trade("B", 2.0))]], FaultConfig(), per_symbol=faults, ends=False)
    assert [(at, type(event)) for at, event in out] == [
        (0, Connected),
        (0, Disconnected),
        (200, Connected),
        (200, Trade),
    ]
    assert out[-1][1] == later(tick, 200)
    at_the_end = play([[batch(tick, trade("B", 2.0))], 0.1], FaultConfig(), per_symbol=faults)
    assert [(at, type(event)) for at, event in at_the_end] == [
        (0, Connected),
        (0, Disconnected),
        (100, Connected),
        (100, Trade),
        (100, Ended),
    ]


@pytest.mark.parametrize("inner_back_ms", [100, 300])
def test_a_source_that_loses_its_own_connection_during_an_outage_is_back_when_both_are(inner_back_ms: int) -> None:
    breaking = FaultConfig(enabled=True, disconnect_probability=1.0, disconnect_duration_ms=(200, 200))
    script = [
        [trade("B", 1.0)],
        0.05,
        [Disconnected(source="scripted", time_received_ns=NOW_NS, reason="its own")],
        inner_back_ms / 1000 - 0.05,
        [Connected(source="scripted", time_received_ns=NOW_NS + inner_back_ms * MS)],
        0.5,
        [trade("A", 2.0)],
    ]
    out = play(script, FaultConfig(), per_symbol={"B": breaking}, ends=False)
    assert [(at, type(event)) for at, event in out] == [
        (0, Connected),
        (0, Disconnected),
        (max(200, inner_back_ms), Connected),
        (inner_back_ms + 500, Trade),
    ]


def test_faults_are_switched_while_running() -> None:
    async def main() -> None:
        clock = ManualClock(NOW_NS)
        script: list = []
        for n in range(6):
            script += [[batch(trade("A", 1.0 + n))], 0.01]
        source = FaultySource(ScriptedSource(script, clock=clock), FaultConfig(), clock=clock)
        async with heard(source, clock, Subscriptions("A")) as out:
            await clock.advance(0.015)
            source.set_faults(FaultConfig(enabled=True, duplicate_probability=1.0))
            await clock.advance(0.02)
            source.set_faults(None)
            await clock.advance(1)
        prices = [t.price for _, e in out if isinstance(e, TickBatch) for t in e.to_events()]
        assert prices == [1.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 6.0]
        assert source.counts["duplicate"] == 2

    asyncio.run(main())


def test_held_ticks_of_batches_with_other_symbols_are_joined_with_their_trade_ids() -> None:
    script = [
        [batch(trade("A", 1.0, trade_id=10), trade("B", 2.0))],
        [batch(trade("B", 3.0), trade("A", 4.0))],
        [batch(trade("C", 5.0, trade_id=11))],
    ]
    faults = FaultConfig(enabled=True, delay_probability=1.0, delay_ms_range=(30, 30))
    out = play(script, faults, symbols="ABC", ends=False)
    assert [event for _, event in out[1:]] == [
        later(tick, 30)
        for tick in (
            trade("A", 1.0, trade_id=10),
            trade("B", 2.0),
            trade("B", 3.0),
            trade("A", 4.0),
            trade("C", 5.0, trade_id=11),
        )
    ]


def test_name_and_capabilities_are_those_of_the_source() -> None:
    inner = ScriptedSource([], clock=ManualClock(), name="inner")
    source = FaultySource(inner, FaultConfig(), clock=ManualClock())
    assert isinstance(source, Source)
    assert source.name == "inner"
    assert source.capabilities is inner.capabilities


chances = st.sampled_from([0.0, 0.1, 0.5, 1.0])
ranges = st.sampled_from([(0, 0), (0, 5), (3, 40)])
fault_configs = st.builds(
    FaultConfig,
    enabled=st.booleans(),
    delay_probability=chances,
    delay_ms_range=ranges,
    duplicate_probability=chances,
    out_of_order_probability=chances,
    stale_window_probability=chances,
    stale_window_duration_ms=ranges,
    drop_probability=st.sampled_from([0.0, 0.2]),
    disconnect_probability=st.sampled_from([0.0, 0.05]),
    disconnect_duration_ms=ranges,
)


@settings(max_examples=60, deadline=None)
@given(
    fault_configs,
    fault_configs,
    st.integers(0, 100),
    st.lists(st.tuples(st.text("ABC", min_size=1, max_size=6), st.booleans(), st.integers(0, 20)), max_size=12),
)
def test_nothing_is_invented_and_every_missing_tick_is_counted(
    common: FaultConfig, own: FaultConfig, seed: int, steps: list[tuple[str, bool, int]]
) -> None:
    async def main() -> tuple[list, Counter, dict[str, int]]:
        clock = ManualClock(NOW_NS)
        script: list = []
        sent: Counter = Counter()
        now_ms = 0
        for symbols, columns, wait_ms in steps:
            ticks = [trade(s, 1.0 + sent.total() + n, at_ms=now_ms) for n, s in enumerate(symbols)]
            sent.update((t.symbol, t.price) for t in ticks)
            script += [[batch(*ticks)] if columns else ticks, wait_ms / 1000]
            now_ms += wait_ms
        inner = ScriptedSource(script, clock=clock)
        source = FaultySource(inner, common, per_symbol={"B": own}, seed=seed, clock=clock)
        async with heard(source, clock, Subscriptions("ABC")) as out:
            await clock.advance(2)
        return [event for _, event in out], sent, source.counts

    events, sent, counts = asyncio.run(main())
    ticks = [t for e in events for t in (e.to_events() if isinstance(e, TickBatch) else [e]) if isinstance(t, Trade)]
    came = Counter((t.symbol, t.price) for t in ticks)
    assert set(came) <= set(sent)
    assert max(came.values(), default=0) <= 2
    assert sum(n - 1 for n in came.values()) == counts["duplicate"]
    lost = counts["drop"] + counts["stale_window_rows"] + counts["disconnect_rows"]
    assert sent.total() - len(came) == lost
    assert isinstance(events[-1], Ended)
    received = [t.time_received_ns for t in ticks]
    assert received == sorted(received)
    assert len([e for e in events if isinstance(e, Disconnected)]) == counts["disconnect"]
    up = False
    for event in events:
        if isinstance(event, Connected | Disconnected):
            assert up != isinstance(event, Connected)
            up = isinstance(event, Connected)
        elif not isinstance(event, Ended):
            assert up


def test_the_same_seed_and_ticks_give_the_same_faults() -> None:
    faults = FaultConfig(
        enabled=True,
        delay_probability=0.3,
        duplicate_probability=0.3,
        drop_probability=0.2,
        stale_window_probability=0.05,
        stale_window_duration_ms=(5, 20),
        disconnect_probability=0.02,
        disconnect_duration_ms=(5, 20),
    )
    script: list = []
    for n in range(100):
        script += [[batch(trade("A", 1.0 + n, at_ms=n), trade("B", 200.0 + n, at_ms=n))], 0.001]
    one, same, other = (play(script, faults, seed=seed) for seed in (6, 6, 7))
    assert one == same
    assert one != other
