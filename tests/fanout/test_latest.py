"""The table against a dictionary that takes one row at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.fanout.latest import LatestQuote, LatestTable
from marketd.ingest.symbols import SymbolTable
from marketd.model import LAST, Quote, TickBatch, Trade


class Fed:
    """A table with running sequence numbers."""

    def __init__(self) -> None:
        self.symbols = SymbolTable()
        self.table = LatestTable(self.symbols)
        self.seq = 0

    def take(self, *events: Quote | Trade) -> list[str]:
        return self.take_batch(TickBatch.from_events(events))

    def take_batch(self, batch: TickBatch) -> list[str]:
        ids = self.symbols.translate(batch.symbols, batch.symbol_index)
        seq = np.arange(self.seq + 1, self.seq + 1 + len(batch))
        self.seq += len(batch)
        changed = self.table.update(batch, ids, seq, np.zeros(len(batch), np.uint8))
        return sorted(self.symbols.names[i] for i in set(changed.tolist()))


def quote(at: int, bid: float | None = None, ask: float | None = None, symbol: str = "A", **fields) -> Quote:
    base = {"source": "s", "time_received_ns": at + 1_000}
    return Quote(symbol=symbol, time_event_ns=at, bid=bid, ask=ask, **(base | fields))


def trade(at: int, price: float, symbol: str = "A", **fields) -> Trade:
    base = {"source": "s", "time_received_ns": at + 1_000}
    return Trade(symbol=symbol, time_event_ns=at, price=price, **(base | fields))


def row(**fields) -> LatestQuote:
    base = {
        "symbol": "A", "source": "s", "seq": 1, "time_event_ns": 10, "time_received_ns": 1_010, "bid": None,
        "ask": None, "bid_size": None, "ask_size": None, "last": None, "volume": None, "marks": 0,
    }  # fmt: skip
    return LatestQuote(**(base | fields))


def test_a_quote_and_then_a_trade_make_one_value() -> None:
    fed = Fed()
    assert fed.table.get("A") is None
    assert fed.take(quote(10, 1.0, 2.0, bid_size=3.0, ask_size=4.0)) == ["A"]
    assert fed.table.get("A") == row(bid=1.0, ask=2.0, bid_size=3.0, ask_size=4.0)
    assert fed.take(trade(20, 1.5, size=9.0)) == ["A"]
    expected = row(
        bid=1.0, ask=2.0, bid_size=3.0, ask_size=4.0, last=1.5, seq=2, time_event_ns=20, time_received_ns=1_020
    )
    assert fed.table.get("A") == expected


def test_a_side_that_emptied_is_absent_again() -> None:
    fed = Fed()
    fed.take(quote(10, 1.0, 2.0, bid_size=3.0, ask_size=4.0, last=1.5, volume=70.0))
    fed.take(quote(11, None, 2.5))
    expected = row(ask=2.5, last=1.5, volume=70.0, seq=2, time_event_ns=11, time_received_ns=1_011)
    assert fed.table.get("A") == expected


def test_an_older_row_is_no_news() -> None:
    fed = Fed()
    fed.take(quote(10, 1.0, 2.0))
    before = fed.table.get("A")
    assert fed.take(quote(9, 5.0, 6.0)) == []
    assert fed.table.get("A") == before
    assert fed.take(quote(10, 1.0, 2.5)) == ["A"]  # of one instant, the later row stands
    assert fed.table.get("A") == row(bid=1.0, ask=2.5, seq=3)


def test_book_and_last_price_age_apart() -> None:
    fed = Fed()
    fed.take(trade(20, 1.5))
    assert fed.take(quote(10, 1.0, 2.0)) == ["A"]
    got = fed.table.get("A")
    assert (got.bid, got.ask, got.last, got.time_event_ns) == (1.0, 2.0, 1.5, 20)
    assert fed.take(quote(15, 1.1, 2.1, last=9.0)) == ["A"]  # its book is newer, its last price is not
    got = fed.table.get("A")
    assert (got.bid, got.ask, got.last, got.time_event_ns) == (1.1, 2.1, 1.5, 20)


def test_the_newest_row_of_a_batch_in_disorder_wins_for_each_symbol() -> None:
    fed = Fed()
    events = [quote(30, 3.0), quote(10, 1.0), quote(5, 7.0, symbol="B"), quote(20, 2.0), quote(4, 8.0, symbol="B")]
    assert fed.take(*events) == ["A", "B"]
    assert fed.table.get("A") == row(bid=3.0, seq=1, time_event_ns=30, time_received_ns=1_030)
    assert fed.table.get("B") == row(symbol="B", bid=7.0, seq=3, time_event_ns=5, time_received_ns=1_005)


def test_only_rows_that_state_a_book_touch_the_book() -> None:
    fed = Fed()
    mixed = [quote(10, 1.0, 2.0), trade(11, 1.7), quote(12, 5.0, 6.0, "B"), trade(13, 5.5, "C")]
    assert fed.take(*mixed) == ["A", "B", "C"]
    assert fed.table.get("A") == row(bid=1.0, ask=2.0, last=1.7, seq=2, time_event_ns=11, time_received_ns=1_011)
    assert fed.table.get("C") == row(symbol="C", last=5.5, seq=4, time_event_ns=13, time_received_ns=1_013)


def test_a_volume_stays_until_another_is_told() -> None:
    fed = Fed()
    fed.take(quote(10, 1.0, last=1.0, volume=100.0), trade(10, 1.0, "B"))
    fed.take(quote(11, 1.1), trade(11, 1.0, "B"))
    assert (fed.table.get("A").volume, fed.table.get("B").volume) == (100.0, None)
    fed.take(quote(9, 1.0, last=1.0, volume=50.0))
    assert fed.table.get("A").volume == 100.0
    fed.take(quote(12, 1.0, volume=120.0), quote(12, 1.0, symbol="B"))
    assert (fed.table.get("A").volume, fed.table.get("B").volume) == (120.0, None)


def test_growth_keeps_what_was_there() -> None:
    fed = Fed()
    names = [f"S{i}" for i in range(1_000)]
    for count in (1, 64, 65, 130, 1_000):
        fed.take(*(quote(10, float(i + 1), symbol=name) for i, name in enumerate(names[:count])))
        got = [fed.table.get(name).bid for name in names[:count]]
        assert got == [float(i + 1) for i in range(count)]
        assert fed.table.known().tolist() == list(range(count))


def test_a_symbol_may_be_known_long_before_it_has_a_value() -> None:
    fed = Fed()
    for i in range(200):
        fed.symbols.add(f"S{i}")
    assert fed.table.get("S150") is None
    assert fed.table.known(np.array([0, 63, 64, 150, 199])).tolist() == []
    fed.take(quote(10, 1.0, symbol="S150"))
    assert fed.table.known(np.array([199, 150, 0])).tolist() == [150]
    assert fed.table.known().tolist() == [150]


def test_a_value_says_which_source_it_came_from() -> None:
    fed = Fed()
    fed.take(quote(10, 1.0))
    fed.take(quote(11, 1.1, source="t"))
    assert fed.table.get("A").source == "t"
    fed.take(quote(10, 1.0), quote(11, 3.0, symbol="B"))
    assert (fed.table.get("A").source, fed.table.get("B").source) == ("t", "s")


def test_remarks_are_those_of_the_book() -> None:
    fed = Fed()
    batch = TickBatch.from_events([quote(10, 2.0, 1.0), trade(11, 1.5)])
    ids = fed.symbols.translate(batch.symbols, batch.symbol_index)
    fed.table.update(batch, ids, np.array([1, 2]), np.array([1, 0], np.uint8))
    assert fed.table.get("A").marks == 1
    fed.table.update(
        batch.take([0]).replace(time_event_ns=np.array([12])), ids[:1], np.array([3]), np.zeros(1, np.uint8)
    )
    assert fed.table.get("A").marks == 0


def test_a_last_price_without_trade_or_book() -> None:
    fed = Fed()
    batch = TickBatch.from_events([trade(10, 1.5)])
    fed.take_batch(batch.replace(flags=np.array([LAST], np.uint8), volume=np.array([5.0])))
    assert fed.table.get("A") == row(last=1.5, volume=5.0)


prices = st.none() | st.sampled_from([1.0, 2.0, 3.0])
stamps = st.integers(1, 12)
names = st.sampled_from(["A", "B", "C"])
quotes = st.builds(quote, stamps, prices, prices, names, bid_size=prices, last=prices)
trades = st.builds(trade, stamps, st.sampled_from([5.0, 6.0, 7.0]), names)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(quotes | trades, min_size=1, max_size=9), max_size=6))
def test_batches_leave_what_their_rows_by_time_would_leave_one_by_one(batches) -> None:
    fed = Fed()
    books: dict[str, tuple[int, Quote]] = {}
    lasts: dict[str, tuple[int, float | None]] = {}
    for events in batches:
        news = set()
        before = {s: (books.get(s, (0,))[0], lasts.get(s, (0,))[0]) for s in "ABC"}
        for event in sorted(events, key=lambda e: e.time_event_ns):  # of one instant: in the order they came
            at = event.time_event_ns
            if isinstance(event, Quote) and at >= before[event.symbol][0]:
                books[event.symbol] = (at, event)
                news.add(event.symbol)
            price = event.last if isinstance(event, Quote) else event.price
            if price is not None and at >= before[event.symbol][1]:
                lasts[event.symbol] = (at, price)
                news.add(event.symbol)
        assert fed.take(*events) == sorted(news)
        for symbol in {e.symbol for e in events}:
            got = fed.table.get(symbol)
            book, last = books.get(symbol), lasts.get(symbol)
            assert got.time_event_ns == max(book[0] if book else 0, last[0] if last else 0)
            assert (got.bid, got.ask, got.bid_size) == (
                (book[1].bid, book[1].ask, book[1].bid_size) if book else (None,) * 3
            )
            assert got.last == (last[1] if last else None)
            assert got.seq <= fed.seq
