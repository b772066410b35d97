"""The simulator's request side: the contract, its agreement with the stream, and its option chains."""

from __future__ import annotations

import asyncio
import csv
import itertools
import math
from contextlib import aclosing, asynccontextmanager
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import INTERVALS, Interval, TickBatch, format_ns, parse_ns, starts_of
from marketd.sources.contract import Subscriptions
from marketd.sources.simulator import SimulatedSymbol, SimulatorConfig, Walk, simulator_provider
from marketd.sources.simulator.options import RATE, black_scholes, expiries_after
from marketd.sources.simulator.past import Past
from marketd.testing import ManualClock, RequestConformance, RequestHarness

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
MINUTE, HOUR, DAY = (Interval.parse(name) for name in ("1m", "1h", "1d"))
MS = 1_000_000
SCENARIOS = ("flat", "trend_up", "trend_down", "volatile", "jump", "stale")


def config(interval_ms=100, **changed):
    symbols = {
        name.upper(): SimulatedSymbol(scenario=name, base_price=150.0, tick_interval_ms=interval_ms)
        for name in SCENARIOS
    }
    symbols["SLOW"] = SimulatedSymbol(base_price=20.0, tick_interval_ms=95_000)
    symbols["PENNY"] = SimulatedSymbol(base_price=0.05)
    return SimulatorConfig(symbols=symbols, **changed)


def said(batches):
    """Ticks by symbol: (time_ns, price, size, bid, ask, volume)."""
    found = {}
    for batch in batches:
        columns = (batch.time_event_ns, batch.last, batch.last_size, batch.bid, batch.ask, batch.volume)
        for index, *row in zip(batch.symbol_index.tolist(), *(c.tolist() for c in columns), strict=True):
            found.setdefault(batch.symbols[index], []).append(tuple(row))
    return found


def bars_of(ticks, interval_ns, end_ns):
    """Bars of ticks, in plain Python: (ts, open, high, low, close, volume, trades)."""
    out = []
    for ts, group in itertools.groupby(ticks, key=lambda tick: tick[0] // interval_ns * interval_ns):
        rows = list(group)
        prices = [row[1] for row in rows]
        if ts + interval_ns <= end_ns:
            out.append((ts, prices[0], max(prices), min(prices), prices[-1], sum(row[2] for row in rows), len(rows)))
    return out


def rows_of(table):
    names = ("open", "high", "low", "close", "volume", "trades")
    return list(zip(starts_of(table).tolist(), *(table[name].to_pylist() for name in names), strict=True))


class Session:
    """A provider whose stream is read, on a manual clock."""

    def __init__(self, settings):
        self.clock = ManualClock(NOW_NS)
        self.provider = simulator_provider(settings, self.clock)
        self.wanted = Subscriptions()
        self.batches = []

    async def __aenter__(self):
        async def read():
            async with aclosing(self.provider.stream.stream(self.wanted)) as stream:
                async for events in stream:
                    self.batches += [event for event in events if isinstance(event, TickBatch)]

        self.task = asyncio.create_task(read())
        return self

    async def __aexit__(self, *error):
        self.task.cancel()
        await asyncio.wait({self.task})

    async def bars(self, symbol, interval=MINUTE, start_ns=NOW_NS - 10**12, end_ns=NOW_NS + 10**15):
        return rows_of(await self.provider.bars.bars(symbol, interval, start_ns, end_ns))


class TestSimulatorRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        async with Session(config(interval_ms=1_000)) as session:
            session.wanted.add(["SLOW"])
            await session.clock.advance(1_200)
            ticks = said(session.batches)["SLOW"]
            bars = [bar[:6] for bar in bars_of(ticks, MINUTE.ns, session.clock.time_ns())]
            last = ticks[-1]
            assert len(bars) in (12, 13), "minutes without a tick"
            yield RequestHarness(
                provider=session.provider,
                symbol="SLOW",
                clock=session.clock,
                start_ns=bars[0][0],
                end_ns=session.clock.time_ns(),
                bars=bars,
                quote=(last[3], last[4], last[1]),
            )


@pytest.mark.parametrize("symbol", [name.upper() for name in SCENARIOS])
def test_bars_and_quotes_are_what_the_stream_said(symbol):
    async def main():
        async with Session(config(interval_ms=250)) as session:
            session.wanted.add([symbol])
            await session.clock.advance(250)
            ticks = said(session.batches)[symbol]
            assert len(ticks) > 100
            first_ns = MINUTE.floor(ticks[0][0])
            expected = bars_of(ticks, MINUTE.ns, session.clock.time_ns())
            assert await session.bars(symbol, start_ns=first_ns) == expected
            assert len(expected) == 4
            assert (await session.bars(symbol))[-4:] == expected
            quote = await session.provider.quotes.quote(symbol)
            time_ns, price, _, bid, ask, volume = ticks[-1]
            assert (quote.time_event_ns, quote.last, quote.bid, quote.ask, quote.volume) == (
                time_ns, price, bid, ask, volume,
            )  # fmt: skip

    asyncio.run(main())


def test_a_price_at_its_bounds_is_made_again_exactly():
    """More ticks than are made at once, of symbols that reach the floor and the ceiling on the way."""
    settings = config(interval_ms=10, price_ceiling=200.0, price_floor=100.0)
    walk = Walk(settings, NOW_NS)
    walk.want(tuple(settings.symbols), NOW_NS)
    ticks = said(batch for n in range(1, 401) for batch in walk.take(NOW_NS + n * 500 * MS))
    for symbol in ("TREND_UP", "TREND_DOWN", "VOLATILE", "JUMP", "STALE", "FLAT"):
        (run,) = walk.runs(symbol)
        again = walk.stretch(symbol, run, len(ticks[symbol]))
        assert again.price.tolist() == [tick[1] for tick in ticks[symbol]]
        assert again.time_event_ns.tolist() == [tick[0] for tick in ticks[symbol]]
        assert again.volume.tolist() == [tick[5] for tick in ticks[symbol]]
        half = len(ticks[symbol]) // 2
        rest = walk.stretch(symbol, walk.stretch(symbol, run, half).after, half)
        assert rest.price.tolist() == again.price[half : 2 * half].tolist()
        assert rest.time_event_ns.tolist() == again.time_event_ns[half : 2 * half].tolist()
    assert max(tick[1] for tick in ticks["TREND_UP"]) == 200.0
    assert min(tick[1] for tick in ticks["TREND_DOWN"]) == 100.0


def test_they_agree_after_pauses_of_subscription_stalls_and_a_clock_set_back():
    class JumpingClock(ManualClock):
        def jump(self, seconds):
            self._start_ns += round(seconds * 1e9)

    async def main():
        session = Session(config(interval_ms=200))
        session.clock = clock = JumpingClock(NOW_NS)
        session.provider = simulator_provider(config(interval_ms=200), clock)
        async with session:
            session.wanted.add(["JUMP", "FLAT"])
            await clock.advance(130)
            session.wanted.discard(["JUMP"])
            await clock.advance(130)
            still = await session.provider.quotes.quote("JUMP")
            session.wanted.add(["JUMP"])
            await clock.advance(70)
            clock.jump(30)  # the process stood still: ticks older than a second never happen
            await clock.advance(200)
            clock.jump(-45)
            await clock.advance(150)
            end_ns = clock.time_ns()
            for symbol in ("JUMP", "FLAT"):
                ticks = said(session.batches)[symbol]
                # where the clock was set back a minute is told twice; in the order of the minutes, then of the telling
                ticks.sort(key=lambda tick: tick[0] // MINUTE.ns)
                expected = bars_of(ticks, MINUTE.ns, end_ns)
                assert await session.bars(symbol, start_ns=MINUTE.floor(ticks[0][0])) == expected
                assert await session.bars(symbol, start_ns=expected[2][0]) == expected[2:]
            before = [tick for tick in said(session.batches)["JUMP"] if tick[0] <= NOW_NS + 130 * 10**9][-1]
            assert (still.time_event_ns, still.last) == before[:2]

    asyncio.run(main())


def test_days_of_ticks_are_found_again_quickly_from_marks():
    async def main():
        async with Session(config(interval_ms=100)) as session:
            session.wanted.add(["FLAT"])
            await session.clock.advance(3)
            # nobody reads a day of ticks here: the walk's schedule says what the stream will say
            session.task.cancel()
            session.clock = clock = ManualClock(NOW_NS)
            walk = Walk(config(), NOW_NS)
            walk.want(("FLAT",), NOW_NS)
            from marketd.sources.simulator.history import SimulatorHistory

            history = SimulatorHistory(config(), clock, lambda: walk)
            await clock.advance(86_400)
            whole = rows_of(await history.bars("FLAT", MINUTE, NOW_NS, NOW_NS + 86_400 * 10**9))
            assert len(whole) == 1_439
            late_ns = whole[-30][0]
            assert rows_of(await history.bars("FLAT", MINUTE, late_ns, NOW_NS + 10**15)) == whole[-30:]
            assert all(bar[6] == 600 for bar in whole[1:])
            assert rows_of(await history.bars("FLAT", HOUR, NOW_NS, NOW_NS + 10**15)) == [
                (
                    ts,
                    rows[0][1],
                    max(row[2] for row in rows),
                    min(row[3] for row in rows),
                    rows[-1][4],
                    sum(row[5] for row in rows),
                    sum(row[6] for row in rows),
                )
                for ts, group in itertools.groupby(whole, key=lambda row: row[0] // HOUR.ns * HOUR.ns)
                if len(rows := list(group)) == 60
            ]

    asyncio.run(main())


# Before the stream


def ask(question, *, seed=4, now_ns=NOW_NS, **changed):
    return asyncio.run(question(simulator_provider(config(seed=seed, **changed), ManualClock(now_ns))))


def test_the_past_follows_from_the_seed_and_not_from_the_time_or_the_span_of_the_question():
    span = (NOW_NS - 86_400 * 10**9, NOW_NS)

    async def bars(provider):
        return rows_of(await provider.bars.bars("VOLATILE", MINUTE, *span))

    async def halves(provider):
        middle = MINUTE.floor(sum(span) // 2)
        first = await provider.bars.bars("VOLATILE", MINUTE, span[0], middle)
        return rows_of(first) + rows_of(await provider.bars.bars("VOLATILE", MINUTE, middle, span[1]))

    whole = ask(bars)
    assert len(whole) == 1_440 - 1
    assert ask(halves) == whole
    assert ask(bars, now_ns=NOW_NS + 10**16)[:-1] == whole
    assert ask(bars, seed=5) != whole


@pytest.mark.parametrize("interval", [i for i in INTERVALS if i.ns > MINUTE.ns], ids=str)
def test_longer_bars_are_those_of_their_minutes(interval):
    start_ns = interval.floor(NOW_NS) - 2 * interval.ns

    async def both(provider):
        minutes = rows_of(await provider.bars.bars("JUMP", MINUTE, start_ns, NOW_NS))
        return minutes, rows_of(await provider.bars.bars("JUMP", interval, start_ns, NOW_NS))

    minutes, bars = ask(both, interval_ms=1_000)
    assert [bar[0] for bar in bars] == [start_ns, start_ns + interval.ns]
    for ts, *bar in bars:
        rows = [row for row in minutes if ts <= row[0] < ts + interval.ns]
        assert bar == [
            rows[0][1],
            max(row[2] for row in rows),
            min(row[3] for row in rows),
            rows[-1][4],
            sum(row[5] for row in rows),
            sum(row[6] for row in rows),
        ]


@given(
    st.sampled_from([name.upper() for name in SCENARIOS] + ["SLOW", "PENNY"]),
    st.integers(0, 26 * 525_600),
    st.integers(0, 2**63),
)
@settings(max_examples=60)
def test_any_minute_of_the_past_is_a_sound_bar(symbol, minute, seed):
    what = config(seed=seed)
    start_ns = parse_ns("2000-01-01") + minute * MINUTE.ns
    rows = Past(what, symbol).bars(start_ns, start_ns + 50 * MINUTE.ns)
    base = what.symbols[symbol].base_price
    assert (rows.low > 0).all()
    assert (rows.low <= np.minimum(rows.open, rows.close)).all()
    assert (rows.high >= np.maximum(rows.open, rows.close)).all()
    assert (rows.high < 1.4 * base).all()
    assert (rows.low > 0.7 * base).all()
    assert (rows.volume >= 100 * rows.trades).all()
    assert (rows.volume <= 6_400 * rows.trades).all()
    assert (rows.volume % 100 == 0).all()
    if symbol != "SLOW":
        assert len(rows.ts) == 50
        assert (rows.trades == 600).all()
        assert (rows.open[1:] == rows.close[:-1]).all()
    else:
        assert 31 <= len(rows.ts) <= 32
        assert (rows.open == rows.close).all()


def test_the_past_moves_as_a_price_does():
    """Over a quarter of a year: minutes of about half the walk's deviation, days that are larger, no runaway."""
    rows = Past(config(), "FLAT").bars(NOW_NS - 90 * DAY.ns, NOW_NS)
    minute = np.diff(np.log(rows.close)).std()
    day = np.diff(np.log(rows.close[::1_440])).std()
    assert 0.0003 < minute < 0.003
    assert 10 < day / minute < 60


def test_a_quote_before_the_stream_lies_in_its_minute():
    async def question(provider):
        return await provider.quotes.quote("VOLATILE")

    quote = ask(question)
    assert quote.bid < quote.last < quote.ask
    assert NOW_NS - 100 * MS < quote.time_event_ns <= NOW_NS == quote.time_received_ns
    assert quote.volume is None

    async def bar_around(provider):
        ts = MINUTE.floor(NOW_NS)
        return rows_of(await provider.bars.bars("VOLATILE", MINUTE, ts, ts + 1))

    ((_, _, high, low, *_),) = ask(bar_around, now_ns=NOW_NS + MINUTE.ns)
    assert low <= quote.last <= high


def test_nothing_is_told_of_the_time_before_2000():
    async def question(provider):
        with pytest.raises(OutOfRange):
            await provider.bars.bars("FLAT", DAY, 0, parse_ns("2000-01-01"))
        return rows_of(await provider.bars.bars("FLAT", DAY, 0, parse_ns("2000-01-03")))

    assert [format_ns(bar[0])[:10] for bar in ask(question)] == ["2000-01-01", "2000-01-02"]


# Options


def test_expiries_are_fridays_and_third_fridays_after_their_close_in_new_york():
    got = expiries_after(parse_ns("2026-11-20T20:59:59Z"))
    assert [str(day) for day in got] == [
        "2026-11-20", "2026-11-27", "2026-12-04", "2026-12-11", "2026-12-18", "2026-12-25", "2027-01-01",
        "2027-01-15", "2027-02-19", "2027-03-19", "2027-04-16", "2027-05-21", "2027-06-18", "2027-07-16", "2027-08-20",
    ]  # fmt: skip
    assert str(expiries_after(parse_ns("2026-11-20T21:00:00Z"))[0]) == "2026-11-27"
    assert str(expiries_after(parse_ns("2026-07-03T19:59:59Z"))[0]) == "2026-07-03"
    assert str(expiries_after(parse_ns("2026-07-03T20:00:00Z"))[0]) == "2026-07-10"


def chain_of(symbol="JUMP", expiry=None, **changed):
    async def question(provider):
        return (await provider.options.chain(symbol, expiry)).to_pylist()

    return ask(question, **changed)


@pytest.mark.parametrize("expiry", [date(2026, 11, 20), date(2026, 11, 27), date(2026, 12, 18), date(2027, 8, 20)])
def test_put_call_parity_and_no_arbitrage_between_strikes(expiry):
    rows = chain_of(expiry=expiry)
    calls, puts = rows[::2], rows[1::2]
    years = (parse_ns(f"{expiry}T{'20' if expiry.month == 8 else '21'}:00:00Z") - NOW_NS) / (365 * 86_400e9)
    price = rows[0]["underlying_price"]
    both = 0
    for call, put in zip(calls, puts, strict=True):
        assert (call["strike"], call["right"], put["right"]) == (put["strike"], "call", "put")
        parity = price - call["strike"] * math.exp(-RATE * years)
        assert call["last"] - put["last"] == pytest.approx(parity, abs=1e-9)
        if call["bid"] is not None and put["bid"] is not None:
            both += 1
            middle = (call["bid"] + call["ask"] - put["bid"] - put["ask"]) / 2
            assert middle == pytest.approx(parity, abs=1e-9)
        assert call["delta"] - put["delta"] == pytest.approx(1, abs=1e-12)
        assert call["implied_volatility"] == put["implied_volatility"]
    assert both >= 1
    lasts = [call["last"] for call in calls]
    slopes = [
        (b - a) / (d["strike"] - c["strike"]) for (a, c), (b, d) in itertools.pairwise(zip(lasts, calls, strict=True))
    ]
    assert all(-1 - 1e-9 <= slope <= 1e-9 for slope in slopes)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(slopes)), "convex"
    assert calls[0]["strike"] < 0.65 * price < 1.35 * price < calls[-1]["strike"]


def test_no_arbitrage_between_expiries():
    """The total variance of a strike relative to its forward price grows with time."""
    before = None
    for expiry in expiries_after(NOW_NS):
        rows = chain_of(expiry=expiry)[::2]
        years = (expiry.toordinal() - date(2026, 11, 20).toordinal() + 0.27) / 365
        away = np.log([row["strike"] / row["underlying_price"] for row in rows]) - RATE * years
        total = np.array([row["implied_volatility"] ** 2 for row in rows]) * years
        if before is not None:
            inner = (away > before[0][0]) & (away < before[0][-1])
            assert (total[inner] > np.interp(away[inner], *before)).all()
        before = away, total


def test_a_chain_is_the_same_whenever_it_is_asked_and_another_for_another_seed():
    assert chain_of() == chain_of()
    assert [row["open_interest"] for row in chain_of(seed=9)] != [row["open_interest"] for row in chain_of()]


def test_what_a_contract_says():
    rows = chain_of(expiry=date(2026, 12, 18))
    at = min(rows, key=lambda row: abs(row["strike"] - row["underlying_price"]))
    assert at["contract"] == f"JUMP261218{at['right'][0].upper()}{round(at['strike'] * 1_000):08d}"
    assert 0.15 <= at["implied_volatility"] <= 0.46
    assert at["multiplier"] == 100
    assert at["bid"] < at["last"] < at["ask"]
    far = [row for row in rows if row["bid"] is None]
    assert far
    assert all(row["bid_size"] is None and row["last"] < 0.011 for row in far)


def test_no_options_on_too_low_a_price_nor_of_another_day():
    with pytest.raises(SymbolNotFound):
        chain_of("PENNY")
    with pytest.raises(OutOfRange, match="2026-11-27"):
        chain_of(expiry=date(2026, 11, 26))


def test_prices_and_greeks_are_those_of_another_library(data_folder):
    """`pyvollib_bs_reference`: theta a day, vega and rho a percentage point, as it gives them."""
    with (data_folder / "options" / "pyvollib_bs_reference.csv").open(encoding="utf-8") as text:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text)]
    assert len(rows) > 50
    for row in rows:
        for is_call, price, letter in ((True, "bs_call", "C"), (False, "bs_put", "P")):
            got = black_scholes(row["S"], row["K"], row["t"], row["R"], row["v"], is_call=is_call)
            assert float(got.price) == pytest.approx(row[price], rel=1e-6, abs=1e-6)
            for value, greek, scale in (
                (got.delta, "D", 1),
                (got.gamma, "G", 1),
                (got.theta, "T", 365),
                (got.vega, "V", 100),
                (got.rho, "R", 100),
            ):
                assert float(value) * scale == pytest.approx(row[letter + greek], rel=1e-6, abs=1e-6)
