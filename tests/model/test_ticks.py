from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.model import BOOK, LAST, TRADE, Quote, TickBatch, Trade

INT64 = st.integers(-(2**63), 2**63 - 1)
number = st.floats(allow_nan=False)
absent_or_number = st.none() | number
symbol = st.sampled_from(["A", "BRK.B", "BTC-USD", "^GSPC", "日経", ""])

quotes = st.builds(
    Quote,
    symbol=symbol,
    time_event_ns=INT64,
    time_received_ns=INT64,
    source=st.just("s"),
    bid=absent_or_number,
    ask=absent_or_number,
    bid_size=absent_or_number,
    ask_size=absent_or_number,
    last=absent_or_number,
    volume=absent_or_number,
)
trades = st.builds(
    Trade,
    symbol=symbol,
    time_event_ns=INT64,
    time_received_ns=INT64,
    source=st.just("s"),
    price=number,
    size=absent_or_number,
    trade_id=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
)


@given(st.lists(quotes | trades, min_size=1, max_size=12))
def test_events_come_back_as_they_were_put_in(events) -> None:
    batch = TickBatch.from_events(events)
    assert len(batch) == len(events)
    assert batch.to_events() == events


@given(st.lists(quotes | trades, min_size=1, max_size=12), st.data())
def test_taken_rows_are_those_events(events, data) -> None:
    batch = TickBatch.from_events(events)
    mask = data.draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    kept = [event for event, keep in zip(events, mask, strict=True) if keep]
    assert batch.take(np.array(mask)).to_events() == kept
    order = data.draw(st.permutations(range(len(events))))
    assert batch.take(np.array(order)).to_events() == [events[i] for i in order]
    assert batch.take(slice(1, None)).to_events() == events[1:]


def quote(**fields) -> Quote:
    return Quote(symbol="A", time_event_ns=5, time_received_ns=6, source="s", **fields)


def test_columns_say_what_each_row_states() -> None:
    trade = Trade(symbol="B", time_event_ns=7, time_received_ns=8, source="s", price=4.0, size=0.5, trade_id=9)
    bare = Trade(symbol="A", time_event_ns=8, time_received_ns=9, source="s", price=3.0)
    batch = TickBatch.from_events([quote(bid=1.0, volume=70.0), quote(ask=2.0, ask_size=3.0, last=1.5), trade, bare])
    nan = np.nan
    assert batch.symbols == ("A", "B")
    expected = {
        "symbol_index": [0, 0, 1, 0],
        "flags": [BOOK, BOOK | LAST, LAST | TRADE, LAST | TRADE],
        "time_event_ns": [5, 5, 7, 8],
        "time_received_ns": [6, 6, 8, 9],
        "bid": [1.0, nan, nan, nan],
        "ask": [nan, 2.0, nan, nan],
        "bid_size": [nan, nan, nan, nan],
        "ask_size": [nan, 3.0, nan, nan],
        "last": [nan, 1.5, 4.0, 3.0],
        "last_size": [nan, nan, 0.5, nan],
        "volume": [70.0, nan, nan, nan],
        "trade_id": [-(2**63), -(2**63), 9, -(2**63)],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(batch, name), values, err_msg=name, strict=False)
    kinds = {name: getattr(batch, name).dtype for name in expected}
    assert (kinds["symbol_index"], kinds["flags"], kinds["trade_id"]) == (np.int32, np.uint8, np.int64)


def test_unnumbered_ticks_have_no_column_of_numbers() -> None:
    assert TickBatch.from_events([quote(bid=1.0)]).trade_id is None


def test_a_row_that_is_both_gives_both() -> None:
    batch = TickBatch.from_events([quote(bid=1.0, ask=2.0, last=1.5, volume=9.0)])
    both = batch.replace(flags=np.array([BOOK | LAST | TRADE], np.uint8), last_size=np.array([4.0]))
    trade = Trade(symbol="A", time_event_ns=5, time_received_ns=6, source="s", price=1.5, size=4.0)
    assert both.to_events() == [quote(bid=1.0, ask=2.0, last=1.5, volume=9.0), trade]
    assert batch.to_events() == [quote(bid=1.0, ask=2.0, last=1.5, volume=9.0)]


def test_replacing_a_column_leaves_the_batch_as_it_was() -> None:
    batch = TickBatch.from_events([quote(bid=1.0)])
    assert batch.replace(bid=np.array([2.0])).to_events() == [quote(bid=2.0)]
    assert batch.to_events() == [quote(bid=1.0)]


def test_mixed_sources_are_refused_by_name_and_so_is_nothing() -> None:
    other = Quote(symbol="A", time_event_ns=1, time_received_ns=1, source="t")
    with pytest.raises(ValueError, match=r"\['s', 't'\]"):
        TickBatch.from_events([quote(), other])
    with pytest.raises(ValueError, match="one source"):
        TickBatch.from_events([])
