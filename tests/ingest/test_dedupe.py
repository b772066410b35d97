from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.ingest.dedupe import Deduper
from marketd.ingest.symbols import SymbolTable
from marketd.model import BOOK, LAST, TRADE, Quote, TickBatch, Trade


class Door:
    def __init__(self) -> None:
        self.deduper = Deduper()
        self.symbols = SymbolTable()

    def check(self, batch: TickBatch) -> list[bool]:
        found = self.deduper.duplicates(batch, self.symbols.translate(batch.symbols, batch.symbol_index))
        assert found is None or found.any()
        return [False] * len(batch) if found is None else found.tolist()

    def take(self, *events: Quote | Trade) -> list[bool]:
        return self.check(TickBatch.from_events(events))


def quote(symbol: str, at: int, bid: float | None, **fields) -> Quote:
    return Quote(symbol=symbol, time_event_ns=at, time_received_ns=at + 7, source="s", bid=bid, **fields)


def trade(number: int | None, at: int = 1, symbol: str = "A", price: float = 1.0) -> Trade:
    return Trade(symbol=symbol, time_event_ns=at, time_received_ns=at, source="s", price=price, trade_id=number)


def trades(numbers, at: int = 0) -> list[Trade]:
    return [trade(n, at + n) for n in numbers]


def test_a_book_is_a_repetition_only_of_the_book_before_it() -> None:
    door = Door()
    assert door.take(quote("A", 1, 5.0), quote("A", 1, 5.0), quote("A", 1, 5.0)) == [False, True, True]
    assert door.take(quote("A", 1, 5.0)) == [True]
    assert door.take(quote("A", 1, 6.0), quote("A", 1, 5.0), quote("A", 2, 5.0)) == [False, False, False]
    assert door.take(quote("B", 2, 5.0), quote("A", 2, 5.0), quote("B", 2, 5.0)) == [False, True, True]


@pytest.mark.parametrize("field", ["ask", "bid_size", "ask_size", "last", "volume"])
def test_each_column_counts_and_absent_equals_absent_only(field: str) -> None:
    door = Door()
    assert door.take(quote("A", 1, 5.0)) == [False]
    assert door.take(quote("A", 1, 5.0, **{field: 2.0})) == [False]
    assert door.take(quote("A", 1, 5.0, **{field: 2.0})) == [True]
    assert door.take(quote("A", 1, 5.0), quote("A", 1, 5.0)) == [False, True]


def test_the_receive_time_does_not_make_a_book_new() -> None:
    door = Door()
    again = Quote(symbol="A", time_event_ns=1, time_received_ns=10**9, source="s", bid=5.0)
    assert door.take(quote("A", 1, 5.0)) == [False]
    assert door.take(again) == [True]


def test_books_are_compared_across_the_trades_between_them() -> None:
    door = Door()
    mixed = [quote("A", 1, 5.0), trade(None), quote("B", 1, 5.0), trade(None), quote("A", 1, 5.0), quote("B", 1, 6.0)]
    assert door.take(*mixed) == [False, False, False, False, True, False]
    assert door.take(trade(None), quote("B", 1, 6.0)) == [False, True]


def test_unnumbered_trades_are_never_repetitions() -> None:
    door = Door()
    assert door.take(trade(None), trade(None)) == [False, False]
    assert door.take(trade(None)) == [False]
    assert door.take(trade(1), trade(None), trade(1), trade(None)) == [False, False, True, False]


def test_a_number_seen_with_its_stamp_is_a_repetition_in_one_batch_and_between_batches() -> None:
    door = Door()
    assert door.take(*trades([1, 2, 3])) == [False] * 3
    assert door.take(*trades([3, 4])) == [True, False]
    assert door.take(*trades([5, 5, 4])) == [False, True, True]
    assert door.take(trade(5, 999)) == [False]  # a source that counts from anew
    assert door.take(trade(5, 5, "B")) == [False]


def test_a_late_number_is_new_once() -> None:
    door = Door()
    assert door.take(*trades([1, 2, 5])) == [False] * 3
    assert door.take(*trades([4])) == [False]
    assert door.take(*trades([4, 3, 6])) == [True, False, False]
    assert door.take(*trades([1, 2, 3, 4, 5, 6, 7])) == [True] * 6 + [False]


def test_several_symbols_in_one_batch_have_numbers_of_their_own() -> None:
    door = Door()
    assert door.take(trade(1, 1, "A"), trade(1, 1, "B"), trade(2, 2, "A"), trade(2, 2, "B")) == [False] * 4
    assert door.take(trade(2, 2, "B"), trade(3, 3, "A"), trade(1, 1, "A")) == [True, False, True]


@pytest.mark.parametrize("chunk", [1, 10, 200])
def test_a_reconnect_that_sends_the_last_trades_again_tells_nothing_new(chunk: int) -> None:
    door = Door()
    for start in range(1, 1_001, chunk):
        assert door.take(*trades(range(start, min(start + chunk, 1_001)))) == [False] * min(chunk, 1_001 - start)
    # 128 are remembered; more are sent. Those beyond memory must not push out those within it.
    resent = list(range(801, 1_001))
    found = [f for start in range(0, 200, chunk) for f in door.take(*trades(resent[start : start + chunk]))]
    assert found[-128:] == [True] * 128
    assert door.take(*trades(range(990, 1_005))) == [True] * 11 + [False] * 4


def test_a_source_that_counts_from_anew_is_remembered_too() -> None:
    door = Door()
    assert door.take(*trades(range(10_000, 10_300))) == [False] * 300
    anew = trades(range(1, 301), at=10**9)
    assert door.take(*anew) == [False] * 300
    assert door.take(*anew[-128:]) == [True] * 128


def with_flags(events, flags: int) -> TickBatch:
    batch = TickBatch.from_events(events)
    return batch.replace(flags=np.full(len(batch), flags, np.uint8))


def test_of_a_row_that_is_book_and_trade_the_number_decides() -> None:
    book = [quote("A", 1, 5.0, ask=6.0, last=5.5) for _ in range(3)]
    both = with_flags(book, BOOK | LAST | TRADE)
    numbered = both.replace(trade_id=np.array([7, 8, 8], np.int64))
    assert Door().check(numbered) == [False, False, True]
    assert Door().check(both) == [False, True, True]


def test_many_more_symbols_than_there_was_room_for() -> None:
    door = Door()
    names = [f"S{i}" for i in range(500)]
    for count in (1, 70, 500):
        found = door.take(*(quote(name, 9, float(i)) for i, name in enumerate(names[:count])))
        known = {1: 0, 70: 1, 500: 70}[count]
        assert found == [True] * known + [False] * (count - known)


def test_no_row_is_a_batch_too() -> None:
    empty = TickBatch.from_events([trade(1)]).take(slice(0, 0))
    assert Door().check(empty) == []


books = st.builds(
    quote, st.sampled_from("AB"), st.sampled_from([1, 2]), st.sampled_from([None, 5.0, 6.0]),
    last=st.sampled_from([None, 5.0]),
)  # fmt: skip
some_trades = st.builds(trade, st.none() | st.integers(1, 9), st.sampled_from([1, 2]), st.sampled_from("AB"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(books | some_trades, min_size=1, max_size=8), max_size=6))
def test_batches_are_judged_as_their_rows_would_be_one_by_one(batches) -> None:
    door, last_book, seen = Door(), {}, set()
    for events in batches:
        expected = []
        for e in events:
            if isinstance(e, Quote):
                said = (e.time_event_ns, e.bid, e.last)
                expected.append(last_book.get(e.symbol) == said)
                last_book[e.symbol] = said
            else:
                said = (e.symbol, e.trade_id, e.time_event_ns)
                expected.append(e.trade_id is not None and said in seen)
                seen.add(said)
        assert door.take(*events) == expected
