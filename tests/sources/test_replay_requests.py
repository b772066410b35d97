"""A recording's request side: the contract, no look ahead, and bars that a second publication of the data confirms."""

from __future__ import annotations

import asyncio
import csv
import gzip
import itertools
import tempfile
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import OutOfRange, SymbolNotFound
from marketd.model import Interval, TickBatch, format_ns, parse_ns, starts_of
from marketd.sources.contract import Subscriptions
from marketd.sources.replay import ReplayConfig, ReplayFile, replay_provider
from marketd.testing import ManualClock, RequestConformance, RequestHarness

NOW_NS = parse_ns("2026-11-20T14:30:20Z")
START_NS = parse_ns("2026-11-20T09:00:00Z")
MINUTE = Interval.parse("1m")
SECOND_NS = 10**9
FOREVER_NS = parse_ns("2100-01-01")


def provider_of(*paths, clock=None, **changed):
    files = tuple(ReplayFile.parse(str(path)) for path in paths)
    settings = {"speed": None, **changed}
    return replay_provider(ReplayConfig(files=files, **settings), clock or ManualClock(NOW_NS))


async def play(provider, wanted=()):
    async with aclosing(provider.stream.stream(Subscriptions(wanted))) as stream:
        async for _ in stream:
            pass


def rows_of(table, side="trade", names=("open", "high", "low", "close", "volume")):
    rows = zip(
        table["side"].to_pylist(), starts_of(table).tolist(), *(table[n].to_pylist() for n in names), strict=True
    )
    return [row[1:] for row in rows if row[0] == side]


def write(path, header, rows):
    path.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def trades(folder, count=400, symbol="AAA"):
    """(time, price, size): a trade every 7 s, but for a quiet quarter of an hour."""
    rows = [
        (START_NS + 7 * n * SECOND_NS + (n > 200) * 900 * SECOND_NS, 100 + n % 13 / 8, 1 + n % 5) for n in range(count)
    ]
    write(Path(folder) / f"{symbol}.csv", "event_ns,price,size", rows)
    return rows


def bars_of(rows, interval_ns=MINUTE.ns):
    out = []
    for ts, group in itertools.groupby(rows, key=lambda row: row[0] // interval_ns * interval_ns):
        ticks = list(group)
        prices = [tick[1] for tick in ticks]
        out.append((ts, prices[0], max(prices), min(prices), prices[-1], float(sum(tick[2] for tick in ticks))))
    return out


class TestReplayRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock(NOW_NS)
        with tempfile.TemporaryDirectory() as folder:
            rows = trades(folder)
            provider = provider_of(f"{folder}/AAA.csv", clock=clock)
            await play(provider)
            yield RequestHarness(
                provider=provider,
                symbol="AAA",
                clock=clock,
                start_ns=START_NS,
                end_ns=NOW_NS,
                bars=bars_of(rows),
                quote=(None, None, rows[-1][1]),
            )


def test_only_what_the_replay_has_told_is_the_past(tmp_path):
    rows = trades(tmp_path)
    clock = ManualClock(NOW_NS)
    provider = provider_of(tmp_path / "AAA.csv", clock=clock, speed=1.0)

    async def past():
        return rows_of(await provider.bars.bars("AAA", MINUTE, 0, FOREVER_NS))

    async def main():
        assert await past() == []
        with pytest.raises(OutOfRange, match="nothing of AAA yet"):
            await provider.quotes.quote("AAA")
        task = asyncio.create_task(play(provider, ["AAA"]))
        while provider.stream.position is None:
            await asyncio.sleep(0.001)
        for passed_s in (50, 60, 600, 1_500):
            while provider.stream.position < (
                due := max(r[0] for r in rows if r[0] <= START_NS + passed_s * SECOND_NS)
            ):
                await clock.advance(max(0.0, passed_s - clock.monotonic_ns() / 1e9))
                await asyncio.sleep(0.001)
            told = [row for row in rows if row[0] <= due]
            assert provider.stream.told_ns == due
            assert await past() == [bar for bar in bars_of(told) if bar[0] + MINUTE.ns <= due]
            quote = await provider.quotes.quote("AAA")
            assert (quote.time_event_ns, quote.last, quote.bid) == (due, told[-1][1], None)
        provider.stream.seek(START_NS + 130 * SECOND_NS)
        while provider.stream.told_ns > START_NS + 150 * SECOND_NS:
            await asyncio.sleep(0.001)
        assert await past() == bars_of(rows)[:2]
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(asyncio.wait_for(main(), 20))


def test_what_lies_before_the_start_is_the_past_and_what_lies_after_the_end_never_is(tmp_path):
    rows = trades(tmp_path)
    start_ns, end_ns = START_NS + 300 * SECOND_NS, START_NS + 600 * SECOND_NS
    provider = provider_of(tmp_path / "AAA.csv", start=format_ns(start_ns), end=format_ns(end_ns))

    async def main():
        before = await provider.bars.bars("AAA", MINUTE, 0, FOREVER_NS)
        await play(provider, ["AAA"])
        return rows_of(before), rows_of(await provider.bars.bars("AAA", MINUTE, 0, FOREVER_NS))

    before, after = asyncio.run(main())
    assert before == [bar for bar in bars_of(rows) if bar[0] < start_ns]
    assert after == [bar for bar in bars_of(rows) if bar[0] < end_ns]


def test_quotes_hold_book_and_price_of_symbols_nobody_wants(tmp_path):
    write(
        tmp_path / "ticks.csv",
        "event_ns,symbol,bid,ask,last,last_size",
        [
            (START_NS, "AAA", 1.5, 2.5, "", ""),
            (START_NS + 1, "BBB", 7, "", "", ""),
            (START_NS + 2, "AAA", "", "", 2, 10),
            (START_NS + 3, "AAA", 1.75, "", "", ""),
        ],
    )
    provider = provider_of(tmp_path / "ticks.csv")

    async def main():
        await play(provider)
        return await provider.quotes.quotes(["AAA", "BBB", "CCC"])

    found = asyncio.run(main())
    aaa, bbb = found["AAA"], found["BBB"]
    assert (aaa.bid, aaa.ask, aaa.last, aaa.time_event_ns, aaa.source) == (1.75, None, 2.0, START_NS + 3, "replay")
    assert (bbb.bid, bbb.ask, bbb.last, bbb.time_event_ns) == (7.0, None, None, START_NS + 1)
    assert isinstance(found["CCC"], SymbolNotFound)


def test_shifted_times_stream_only(tmp_path):
    trades(tmp_path)
    provider = provider_of(tmp_path / "AAA.csv", times="shifted")
    assert (provider.quotes, provider.bars) == (None, None)
    assert provider.capabilities.names == ("stream_trades",)
    assert provider_of(tmp_path / "AAA.csv").capabilities.names == ("stream_trades", "quotes_l1", "bars_1m", "eod")


def test_a_recording_of_bars_has_no_shorter_ones(tmp_path):
    days = [("2026-11-16", 1, 2, 0.5, 1.5, 10), ("2026-11-17", 2, 3, 1.5, 2.5, 20), ("2026-11-23", 3, 4, 2.5, 3.5, 30)]
    write(tmp_path / "AAA.csv", "date,open,high,low,close,volume", days)
    provider = provider_of(tmp_path / "AAA.csv")

    async def main():
        await play(provider)
        for name in ("1m", "4h"):
            with pytest.raises(OutOfRange, match="longer"):
                await provider.bars.bars("AAA", Interval.parse(name), 0, FOREVER_NS)
        table = await provider.bars.bars("AAA", Interval.parse("1d"), 0, FOREVER_NS)
        assert table["trades"].null_count == table["vwap"].null_count == 3
        return rows_of(table), rows_of(await provider.bars.bars("AAA", Interval.parse("1w"), 0, FOREVER_NS))

    daily, weekly = asyncio.run(main())
    assert daily == [(parse_ns(day[0]), *map(float, day[1:])) for day in days]
    assert weekly == [
        (parse_ns("2026-11-16"), 1.0, 3.0, 0.5, 2.5, 30.0),
        (parse_ns("2026-11-23"), 3.0, 4.0, 2.5, 3.5, 30.0),
    ]


def test_corrupt_lines_and_late_rows(tmp_path):
    """A line that is none is passed over; a row that came late opens its minute if it happened first."""
    (tmp_path / "AAA.csv").write_text(
        "event_ns,price,size\n"
        f"{START_NS + 20 * SECOND_NS},10,1\n"
        "this is no trade\n"
        f"{START_NS + 5 * SECOND_NS},9,1\n"
        f"{START_NS + 65 * SECOND_NS},12,\n"
        f"{START_NS + 50 * SECOND_NS},11,1\n",
        encoding="utf-8",
    )
    provider = provider_of(tmp_path / "AAA.csv")

    async def main():
        await play(provider)
        table = await provider.bars.bars("AAA", MINUTE, 0, FOREVER_NS)
        return rows_of(table, names=("open", "high", "low", "close", "volume", "trades", "vwap"))

    assert asyncio.run(main()) == [
        (START_NS, 9.0, 11.0, 9.0, 11.0, 3.0, 3, 10.0),
        (START_NS + MINUTE.ns, 12.0, 12.0, 12.0, 12.0, None, 1, None),
    ]


@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=60),
    st.sampled_from(["1m", "5m", "10m"]),
)
@settings(max_examples=30, deadline=None)
def test_bars_are_the_first_highest_lowest_last_and_sum_of_their_ticks(ticks, name):
    rows = sorted(((START_NS + s * SECOND_NS, p / 4, v) for s, p, v in ticks), key=lambda row: row[0])
    with tempfile.TemporaryDirectory() as folder:
        provider = provider_of(write(Path(folder) / "AAA.csv", "event_ns,price,size", rows))

        async def main():
            await play(provider)
            return await provider.bars.bars("AAA", Interval.parse(name), 0, FOREVER_NS)

        assert rows_of(asyncio.run(main())) == bars_of(rows, Interval.parse(name).ns)


# Against recorded data


def recorded(path):
    with gzip.open(path, "rt", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_minutes_of_recorded_ticks_are_the_published_minutes(data_folder):
    """OANDA's bars of 2014-05-02 were published apart from its ticks; both sides agree in every minute."""
    folder = data_folder / "quotes_fx"
    provider = provider_of(folder / "oanda_eurusd_20140502_ticks.csv.gz")

    async def main():
        await play(provider)
        return await provider.bars.bars("EURUSD", MINUTE, 0, FOREVER_NS)

    table = asyncio.run(main())
    published = [
        row
        for row in recorded(folder / "oanda_eurusd_minute_20140501-20140515.csv.gz")
        if row["ts"][:10] == "2014-05-02"
    ]
    assert len(published) > 1_200
    for side in ("bid", "ask"):
        expected = [
            (parse_ns(row["ts"]), *(float(row[f"{side}_{name}"]) for name in ("open", "high", "low", "close")))
            for row in published
        ]
        assert rows_of(table, side, ("open", "high", "low", "close")) == expected
    assert table["volume"].null_count == table.num_rows == 2 * len(published)


def test_recorded_minutes_come_back_row_by_row(data_folder):
    path = data_folder / "quotes_crypto" / "coinbase_btcusd_minute_trade.csv.gz"
    provider = provider_of(f"{path}=BTC-USD")

    async def main():
        await play(provider)
        return await provider.bars.bars("BTC-USD", MINUTE, 0, FOREVER_NS)

    expected = [
        (parse_ns(row["ts"]), *(float(row[name]) for name in ("open", "high", "low", "close", "volume")))
        for row in recorded(path)
    ]
    assert len(expected) > 5_000
    assert rows_of(asyncio.run(main())) == expected


def test_the_last_quote_is_the_last_recorded(data_folder):
    path = data_folder / "quotes_fx" / "oanda_eurusd_20140502_ticks.csv.gz"
    provider = provider_of(path)
    asyncio.run(play(provider))
    last = recorded(path)[-1]
    quote = asyncio.run(provider.quotes.quote("EURUSD"))
    assert (quote.time_event_ns, quote.bid, quote.ask) == (
        int(last["ts_us"]) * 1_000,
        float(last["bid"]),
        float(last["ask"]),
    )


def test_every_tick_that_was_streamed_is_in_a_bar(data_folder):
    path = data_folder / "quotes_crypto" / "binance_spot_btcusdt_20240809_trades.csv.gz"
    provider = provider_of(f"{path}=BTCUSDT")
    sizes = []

    async def main():
        async with aclosing(provider.stream.stream(Subscriptions(["BTCUSDT"]))) as stream:
            async for events in stream:
                for event in events:
                    if isinstance(event, TickBatch):
                        sizes.extend(event.last_size.tolist())
        return await provider.bars.bars("BTCUSDT", MINUTE, 0, FOREVER_NS)

    table = asyncio.run(main())
    rows = recorded(path)
    assert sum(table["trades"].to_pylist()) == len(rows) == len(sizes)
    assert sum(table["volume"].to_pylist()) == pytest.approx(sum(float(row["size"]) for row in rows), rel=1e-12)
