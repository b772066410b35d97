"""Batches with any trades lost, any of them fetchable: every number once, in order, or named."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.model import Quarantined, TickBatch, Trade
from marketd.sources.binance.numbers import TradeNumbers
from marketd.sources.binance.parse import Names
from marketd.sources.reconnect import ReconnectPolicy
from marketd.sources.refill import TradeRefill
from marketd.testing import ManualClock

NAMES = Names({"AB": "A-B", "CD": "C-D", "EF": "E-F"})
SYMBOLS = NAMES.symbols


def trade(symbol, trade_id):
    return Trade(
        symbol=symbol,
        time_event_ns=trade_id + 1,
        time_received_ns=trade_id + 1,
        source="binance",
        price=1.0,
        trade_id=trade_id,
    )


def batch_of(trades):
    """As the parser makes it: the names of all symbols."""
    batch = TickBatch.from_events(trades)
    index = [SYMBOLS.index(t.symbol) for t in trades]
    return batch.replace(symbols=SYMBOLS, symbol_index=batch.symbol_index * 0 + index)


class Bench:
    def __init__(self, fetchable):
        self.fetchable = fetchable
        self.out = {symbol: [] for symbol in SYMBOLS}
        self.lost = {symbol: [] for symbol in SYMBOLS}
        self.refill = TradeRefill(
            "binance",
            clock=ManualClock(),
            pages=self.pages,
            read=lambda text, _: [trade(*self.named(text))],
            max_trades=1_000,
            attempts=1,
            retry=ReconnectPolicy(),
            rng=random.Random(1),
            tap=None,
            woken=lambda: None,
        )
        self.numbers = TradeNumbers(self.refill)
        self.numbers.follow(NAMES)

    @staticmethod
    def named(text):
        symbol, trade_id = text.split(" ")
        return symbol, int(trade_id)

    async def pages(self, symbol, ids):
        yield {i: f"{symbol} {i}" for i in ids if (symbol, i) in self.fetchable}

    def take(self, trades):
        if trades:
            batch, released = self.numbers.take(batch_of(trades))
            self.keep([*([] if batch is None else batch.to_events()), *released])

    async def collect(self):
        for _ in range(5):
            await asyncio.sleep(0)
            self.keep(self.refill.collect())
            self.numbers.collected()

    def keep(self, events):
        for event in events:
            if isinstance(event, Quarantined):
                first, last = event.detail.split("trades ")[1].split(" were")[0].split(" to ")
                self.lost[event.symbol] += range(int(first), int(last) + 1)
            else:
                self.out[event.symbol].append(event.trade_id)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=60),
    st.sets(st.integers(0, 59)),
    st.sets(st.integers(0, 59)),
    st.sets(st.integers(0, 59)),
    st.sets(st.integers(0, 59)),
)
def test_every_number_comes_once_and_in_order_or_is_named(order, lost, unfetchable, cuts, looks):
    """order: of which symbol the trades are. lost, unfetchable: positions. cuts: where batches end. looks: where what
    was fetched is collected."""

    async def main():
        count = dict.fromkeys(SYMBOLS, 0)
        made = []
        for symbol in order:
            made.append((symbol, count[symbol]))
            count[symbol] += 1
        bench = Bench({pair for i, pair in enumerate(made) if i not in unfetchable})
        batch = []
        for i, (symbol, trade_id) in enumerate(made):
            if i not in lost:
                batch.append(trade(symbol, trade_id))
            if i in cuts:
                bench.take(batch)
                batch = []
            if i in looks:
                await bench.collect()
        bench.take(batch)
        bench.numbers.expect({symbol: n - 1 for symbol, n in count.items() if n})
        await bench.collect()
        await bench.collect()
        for symbol in SYMBOLS:
            mine = [(i, n) for i, (of, n) in enumerate(made) if of == symbol]
            came = [n for i, n in mine if i not in lost]
            if not came:  # nothing is known of it
                assert (bench.out[symbol], bench.lost[symbol]) == ([], [])
                continue
            known = [(i, n) for i, n in mine if n >= came[0]]
            assert bench.out[symbol] == [n for i, n in known if i not in lost or i not in unfetchable]
            assert bench.lost[symbol] == [n for i, n in known if i in lost and i in unfetchable]
        await bench.numbers.disconnected()

    asyncio.run(main())


def test_numbers_are_remembered_over_a_reconnect_and_a_change_of_names():
    async def main():
        bench = Bench({("A-B", 1), ("A-B", 2)})
        bench.take([trade("A-B", 0), trade("C-D", 7)])
        await bench.numbers.disconnected()
        bench.numbers.follow(Names({}))
        bench.numbers.follow(NAMES)
        bench.take([trade("A-B", 3), trade("C-D", 8)])
        await bench.collect()
        assert (bench.out["A-B"], bench.out["C-D"]) == ([0, 1, 2, 3], [7, 8])
        bench.numbers.forget("A-B")

    asyncio.run(main())


def test_a_forgotten_symbol_begins_anew():
    async def main():
        bench = Bench(set())
        bench.take([trade("A-B", 0)])
        bench.numbers.follow(Names({"CD": "C-D"}))
        bench.numbers.forget("A-B")
        bench.numbers.follow(NAMES)
        bench.take([trade("A-B", 9)])
        await bench.collect()
        assert (bench.out["A-B"], bench.lost["A-B"]) == ([0, 9], [])

    asyncio.run(main())


def test_repeated_and_older_numbers_go_on_for_others_to_judge():
    async def main():
        bench = Bench(set())
        bench.take([trade("A-B", 5), trade("A-B", 6), trade("A-B", 5)])
        bench.take([trade("A-B", 6), trade("A-B", 7)])
        await bench.collect()
        assert (bench.out["A-B"], bench.lost["A-B"]) == ([5, 6, 5, 6, 7], [])

    asyncio.run(main())
