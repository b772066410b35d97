"""The ids of trades and heartbeats in, the released ids out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketd.model import Trade
from marketd.sources.sequence import TradeSequence


def trade(trade_id: int) -> Trade:
    return Trade(symbol="BTC-USD", time_event_ns=1, time_received_ns=2, source="coinbase", price=1.0, trade_id=trade_id)


def ids(trades: list[Trade]) -> list[int | None]:
    return [t.trade_id for t in trades]


def test_consecutive_trades_go_on_and_the_first_needs_no_anchor():
    sequence = TradeSequence()
    assert [ids(sequence.trade(trade(i))) for i in (7, 8, 9)] == [[7], [8], [9]]
    assert sequence.missing is None


def test_a_trade_after_a_hole_waits_until_it_is_filled():
    sequence = TradeSequence()
    sequence.anchor(10)
    assert ids(sequence.trade(trade(11))) == [11]
    assert sequence.trade(trade(14)) == []
    assert sequence.missing == range(12, 14)
    assert sequence.trade(trade(15)) == []
    released, given_up = sequence.fill([trade(13), trade(12)])
    assert (ids(released), given_up) == ([12, 13, 14, 15], [])
    assert ids(sequence.trade(trade(16))) == [16]


def test_what_cannot_be_filled_is_named_exactly():
    sequence = TradeSequence()
    sequence.anchor(10)
    sequence.trade(trade(20))
    released, given_up = sequence.fill([trade(13), trade(14), trade(17), trade(99)])
    assert ids(released) == [13, 14, 17, 20]
    assert given_up == [range(11, 13), range(15, 17), range(18, 20)]


def test_a_second_hole_among_the_held_is_found():
    sequence = TradeSequence()
    sequence.anchor(1)
    for i in (3, 6, 7):
        sequence.trade(trade(i))
    assert ids(sequence.fill([trade(2)])[0]) == [2, 3]
    assert sequence.missing == range(4, 6)
    assert ids(sequence.fill([trade(4), trade(5)])[0]) == [4, 5, 6, 7]


def test_a_heartbeat_counts_when_the_next_one_comes():
    sequence = TradeSequence()
    sequence.anchor(10)
    sequence.heartbeat(12)
    assert sequence.missing is None  # 11 and 12 may be on their way
    assert ids(sequence.trade(trade(11))) == [11]
    sequence.heartbeat(12)
    assert sequence.missing == range(12, 13)


def test_after_a_reconnect_the_anchor_tells_what_was_missed_and_itself_is_part_of_it():
    sequence = TradeSequence()
    sequence.anchor(10)
    sequence.trade(trade(12))  # 11 is being fetched, 12 is held
    sequence.disconnected()
    assert sequence.missing is None
    sequence.anchor(15)
    assert sequence.missing == range(11, 16)


def test_an_anchor_before_the_last_trade_begins_anew():
    sequence = TradeSequence()
    sequence.anchor(1_000)
    sequence.anchor(5)
    assert ids(sequence.trade(trade(6))) == [6]
    assert sequence.trade(trade(8)) == []


def test_a_repeated_trade_goes_on_for_others_to_judge():
    sequence = TradeSequence()
    sequence.anchor(10)
    assert [ids(sequence.trade(trade(i))) for i in (11, 11, 12)] == [[11], [11], [12]]


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_released_and_given_up_together_are_every_id_in_order(lost, fetchable, beats):
    """Lose any trades, be able to fetch any of them, beat at any time: nothing is out of order or unsaid."""
    sequence = TradeSequence()
    sequence.anchor(-1)
    released: list[int | None] = []
    given_up: list[int] = []
    for i in range(61):
        if i not in lost:
            released += ids(sequence.trade(trade(i)))
        if i in beats:
            sequence.heartbeat(i)
        if sequence.missing is not None and i % 3 == 0:
            more, holes = sequence.fill([trade(j) for j in sequence.missing if j in fetchable])
            released += ids(more)
            given_up += [j for hole in holes for j in hole]
    for _ in range(3):  # heartbeats go on every second; one that comes during a refill counts only after it
        sequence.heartbeat(60)
        while sequence.missing is not None:
            more, holes = sequence.fill([trade(j) for j in sequence.missing if j in fetchable])
            released += ids(more)
            given_up += [j for hole in holes for j in hole]
    assert released == sorted(set(range(61)) - set(given_up))
    assert set(given_up) == lost - fetchable
