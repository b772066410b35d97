"""The vectorised checks against one row at a time, written from the rules' own words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.ingest.symbols import SymbolTable
from marketd.ingest.validate import CROSSED, LOCKED, REASONS, ValidationConfig, Validator
from marketd.model import BOOK, LAST, TRADE, Quote, TickBatch, Trade

T0 = 1_700_000_000_000_000_000
MS = 1_000_000


class Door:
    """A validator with the symbol numbers that the pipeline would give it."""

    def __init__(self, **config) -> None:
        self.validator = Validator(ValidationConfig(**config))
        self.symbols = SymbolTable()

    def check(self, batch: TickBatch) -> tuple[list[str], list[int]]:
        ids = self.symbols.translate(batch.symbols, batch.symbol_index)
        reasons, marks = self.validator.check(batch, ids)
        names = ["ok"] * len(batch) if reasons is None else [REASONS[r] for r in reasons]
        return names, marks.tolist()

    def take(self, *events: Quote | Trade) -> list[str]:
        return self.check(TickBatch.from_events(events))[0]


def trade(price: float, symbol: str = "A", size: float | None = None, at_ms: int = 0, received_ms: int = 0) -> Trade:
    at, received = T0 + at_ms * MS, T0 + received_ms * MS
    return Trade(symbol=symbol, time_event_ns=at, time_received_ns=received, source="s", price=price, size=size)


def quote(bid: float | None, ask: float | None, symbol: str = "A", **fields) -> Quote:
    return Quote(symbol=symbol, time_event_ns=T0, time_received_ns=T0, source="s", bid=bid, ask=ask, **fields)


nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (trade(10.0), "ok"),
        (trade(5e-324), "ok"),
        (trade(0.0), "non_positive"),
        (trade(-0.0), "non_positive"),
        (trade(-1.0), "non_positive"),
        (trade(nan), "not_finite"),
        (trade(inf), "not_finite"),
        (trade(-inf), "not_finite"),
        (trade(10.0, size=0.0), "ok"),
        (trade(10.0, size=-1e-9), "negative_size"),
        (trade(10.0, size=inf), "not_finite"),
        (trade(10.0, size=-inf), "negative_size"),
        (quote(1.0, 2.0), "ok"),
        (quote(1.0, None), "ok"),
        (quote(None, 2.0), "ok"),
        (quote(None, None), "ok"),
        (quote(0.0, 2.0), "non_positive"),
        (quote(1.0, -2.0), "non_positive"),
        (quote(1.0, 2.0, last=0.0), "non_positive"),
        (quote(1.0, inf), "not_finite"),
        (quote(-inf, 1.0), "not_finite"),
        (quote(1.0, 2.0, bid_size=-1.0), "negative_size"),
        (quote(1.0, 2.0, ask_size=-1.0), "negative_size"),
        (quote(1.0, 2.0, volume=-1.0), "negative_size"),
        (quote(1.0, 2.0, volume=inf), "not_finite"),
        (quote(1.0, 2.0, bid_size=inf), "not_finite"),
        (quote(1.0, 2.0, ask_size=inf), "not_finite"),
        (quote(1.0, 2.0, bid_size=0.0, ask_size=0.0, volume=0.0), "ok"),
    ],
)
def test_one_row_and_its_reason(event: Quote | Trade, reason: str) -> None:
    assert Door().take(event) == [reason]
    # The same among good rows of the same and of another symbol, which it must not take along.
    neighbours = [quote(1.4, 1.6), quote(1.0, 1.0, "B")]
    assert Door(max_jump=None).take(neighbours[1], event, neighbours[0]) == ["ok", reason, "ok"]


@pytest.mark.parametrize(
    ("at_ms", "received_ms", "reason"),
    [
        (5_000, 0, "ok"),
        (5_001, 0, "future_stamp"),
        (5_001, 1, "ok"),
        (-(10**9), 0, "ok"),
    ],
)
def test_a_stamp_may_be_ahead_of_its_receive_time_by_five_seconds(at_ms: int, received_ms: int, reason: str) -> None:
    assert Door().take(trade(1.0, at_ms=at_ms, received_ms=received_ms)) == [reason]


def test_a_stamp_at_or_before_1970_is_no_stamp() -> None:
    def at(ns: int) -> Trade:
        return Trade(symbol="A", time_event_ns=ns, time_received_ns=T0, source="s", price=1.0)

    assert Door().take(at(0), at(-1), at(1)) == ["bad_time", "bad_time", "ok"]


def test_crossed_and_locked_books_are_accepted_with_a_remark_and_nothing_else_is() -> None:
    batch = TickBatch.from_events(
        [quote(2.0, 1.0), quote(1.0, 1.0), quote(1.0, 2.0), quote(1.0, None), quote(None, None), trade(1.0)]
    )
    reasons, marks = Door().check(batch)
    assert reasons == ["ok"] * 6
    assert marks == [CROSSED, LOCKED, 0, 0, 0, 0]
    # A row that does not state its book has none, whatever its columns hold.
    unstated = batch.replace(flags=np.full(6, LAST, np.uint8), last=np.full(6, 1.0))
    assert Door().check(unstated)[1] == [0] * 6


def test_symbols_may_be_exempt_from_being_positive_and_then_nothing_is_a_jump() -> None:
    door = Door(allow_non_positive=("SPREAD",))
    around_zero = [trade(p, "SPREAD") for p in (0.0, 0.01, -0.01, 5.0, -37.63, 0.0)]
    assert door.take(*around_zero, trade(-1.0, "A")) == ["ok"] * 6 + ["non_positive"]
    assert door.take(trade(100.0, "A"), trade(9.0, "SPREAD"), trade(200.0, "A")) == ["ok", "ok", "jump"]
    assert door.take(trade(nan, "SPREAD"), trade(inf, "SPREAD"), trade(-1.0, "SPREAD", size=-1.0)) == [
        "not_finite",
        "not_finite",
        "negative_size",
    ]
    assert door.take(quote(-2.0, -1.0, "SPREAD"), quote(-1.0, -1.0, "B")) == ["ok", "non_positive"]


def test_a_jump_is_set_apart_and_the_old_level_stays_good() -> None:
    door = Door()
    assert door.take(trade(100.0), trade(150.0), trade(225.0)) == ["ok", "ok", "ok"]  # half is just believed
    assert door.take(trade(338.0), trade(112.0), trade(225.0)) == ["jump", "jump", "ok"]


def test_the_first_row_of_a_symbol_is_believed_wherever_it_is() -> None:
    assert Door().take(trade(1.0, "A"), trade(1e6, "B"), trade(1e-6, "C")) == ["ok"] * 3


def test_a_new_level_is_believed_with_its_fifth_row_in_a_row() -> None:
    door = Door()
    assert door.take(trade(100.0)) == ["ok"]
    prices = (50.0, 49.0, 51.0, 50.5, 49.5, 50.0, 100.0)
    assert [door.take(trade(p * 0.5))[0] for p in prices] == ["jump"] * 4 + ["ok", "ok", "jump"]


def test_a_row_of_the_old_level_starts_the_count_again() -> None:
    door = Door(jump_confirmations=3)
    prices = (100.0, 10.0, 10.0, 101.0, 10.0, 10.0, 102.0, 10.0, 10.0, 10.0)
    expected = ["ok", "jump", "jump", "ok", "jump", "jump", "ok", "jump", "jump", "ok"]
    assert door.take(*map(trade, prices)) == expected


def test_rows_that_do_not_agree_with_one_another_confirm_nothing() -> None:
    door = Door(jump_confirmations=2)
    assert door.take(*map(trade, (100.0, 1.0, 1000.0, 1.0, 1000.0, 1e6))) == ["ok"] + ["jump"] * 5


def test_confirmations_count_across_batches_among_rows_of_other_symbols() -> None:
    door = Door()
    assert door.take(trade(100.0, "A"), trade(7.0, "B")) == ["ok", "ok"]
    mixed = [trade(10.0, "A"), trade(7.1, "B"), trade(10.1, "A"), trade(7.2, "B"), trade(10.2, "A")]
    assert door.take(*mixed) == ["jump", "ok", "jump", "ok", "jump"]
    assert door.take(trade(7.3, "B")) == ["ok"]
    assert door.take(trade(7.4, "B"), trade(10.1, "A"), trade(10.0, "A"), trade(7.3, "B"), trade(14.0, "A")) == [
        "ok",
        "jump",
        "ok",
        "ok",
        "ok",
    ]


def test_a_refused_row_neither_moves_the_level_nor_confirms_a_new_one() -> None:
    door = Door(jump_confirmations=2)
    assert door.take(trade(100.0), trade(10.0)) == ["ok", "jump"]
    assert door.take(trade(10.0, size=-1.0), trade(10.0, at_ms=6_000)) == ["negative_size", "future_stamp"]
    assert door.take(trade(-100.0)) == ["non_positive"]
    assert door.take(trade(100.0)) == ["ok"]
    assert door.take(trade(10.0, size=-1.0), trade(10.0)) == ["negative_size", "jump"]


def test_the_price_is_the_last_one_or_the_middle_of_a_whole_book() -> None:
    door = Door()
    assert door.take(quote(99.0, 101.0)) == ["ok"]
    assert door.take(quote(190.0, None)) == ["ok"]  # half a book says nothing of the level
    assert door.take(quote(190.0, 200.0)) == ["jump"]
    assert door.take(quote(190.0, 200.0, last=100.0)) == ["ok"]
    assert door.take(quote(99.0, 101.0, last=200.0)) == ["jump"]


def test_no_limit_no_jumps() -> None:
    assert Door(max_jump=None).take(*map(trade, (1.0, 1e9, 1e-9))) == ["ok"] * 3


def test_many_more_symbols_than_there_was_room_for() -> None:
    door = Door()
    names = [f"S{i}" for i in range(1_000)]
    for count in (1, 65, 1_000):
        assert door.take(*(trade(float(i + 1), name) for i, name in enumerate(names[:count]))) == ["ok"] * count
    doubled = [trade((i + 1) * (2.0 if i % 7 == 0 else 1.0), name) for i, name in enumerate(names)]
    assert door.take(*doubled) == ["jump" if i % 7 == 0 else "ok" for i in range(1_000)]


def test_no_row_is_a_batch_too() -> None:
    batch = TickBatch.from_events([trade(1.0)]).take(slice(0, 0))
    assert Door().check(batch) == ([], [])


class Reference:
    """One row after the other."""

    def __init__(self, config: ValidationConfig) -> None:
        self.config = config
        self.level: dict[str, float] = {}
        self.doubt: dict[str, list[float]] = {}

    def reason(self, event: Quote | Trade) -> str:
        if isinstance(event, Trade):
            prices, sizes, price = [event.price], [event.size], event.price
        else:
            prices = [p for p in (event.bid, event.ask, event.last) if p is not None]
            sizes = [event.bid_size, event.ask_size, event.volume]
            whole = event.bid is not None and event.ask is not None
            price = event.last if event.last is not None else (event.bid + event.ask) / 2 if whole else None
        if event.time_event_ns <= 0:
            return "bad_time"
        if event.time_event_ns > event.time_received_ns + self.config.max_future_ms * MS:
            return "future_stamp"
        if any(map(math.isinf, prices)):
            return "not_finite"
        if event.symbol not in self.config.allow_non_positive and any(p <= 0 for p in prices):
            return "non_positive"
        if any(s is not None and s < 0 for s in sizes):
            return "negative_size"
        if any(map(math.isnan, prices)):
            return "not_finite"
        limit = self.config.max_jump
        if limit is None or price is None or event.symbol in self.config.allow_non_positive:
            return "ok"
        return "ok" if self.believed(event.symbol, price, limit) else "jump"

    def believed(self, symbol: str, price: float, limit: float) -> bool:
        def far(a: float, b: float) -> bool:
            return abs(a - b) > limit * abs(b)

        if symbol not in self.level or not far(price, self.level[symbol]):
            self.level[symbol] = price
            self.doubt[symbol] = []
            return True
        doubted = self.doubt.setdefault(symbol, [])
        if doubted and far(price, doubted[-1]):
            doubted.clear()
        doubted.append(price)
        if len(doubted) >= self.config.jump_confirmations:
            self.level[symbol] = price
            self.doubt[symbol] = []
            return True
        return False


level = st.sampled_from([100.0, 101.0, 99.0, 149.0, 151.0, 10.0, 10.5, 1000.0, 0.0, -5.0, nan, inf])
size = st.none() | st.sampled_from([0.0, 1.0, 1.0, 1.0, -1.0])
stamps = st.sampled_from([T0] * 8 + [0, T0 + 5_000 * MS, T0 + 5_001 * MS])
symbols = st.sampled_from(["A", "B", "X"])
some_trades = st.builds(
    Trade, symbol=symbols, time_event_ns=stamps, time_received_ns=st.just(T0), source=st.just("s"), price=level,
    size=size,
)  # fmt: skip
side = st.none() | level.filter(lambda p: not math.isnan(p))
some_quotes = st.builds(
    Quote, symbol=symbols, time_event_ns=stamps, time_received_ns=st.just(T0), source=st.just("s"), bid=side, ask=side,
    last=side, bid_size=size, ask_size=size, volume=size,
)  # fmt: skip
good_trades = st.builds(trade, st.sampled_from([100.0, 120.0, 10.0, 12.0]), symbols)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(good_trades | good_trades | some_trades | some_quotes, min_size=1, max_size=10), max_size=8),
    st.sampled_from([0.5, 0.1, None]),
    st.integers(1, 4),
)
def test_batches_are_judged_as_their_rows_would_be_one_by_one(batches, max_jump, confirmations) -> None:
    config = ValidationConfig(max_jump=max_jump, jump_confirmations=confirmations, allow_non_positive=("X",))
    reference = Reference(config)
    door = Door(max_jump=max_jump, jump_confirmations=confirmations, allow_non_positive=("X",))
    for events in batches:
        assert door.take(*events) == [reference.reason(event) for event in events]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"max_jump": 0.0}, "max_jump"),
        ({"max_jump": -1.0}, "max_jump"),
        ({"max_jump": nan}, "max_jump"),
        ({"jump_confirmations": 0}, "jump_confirmations"),
        ({"max_future_ms": -1}, "max_future_ms"),
    ],
)
def test_impossible_settings_are_refused_by_name(config, field) -> None:
    with pytest.raises(InvalidInput) as caught:
        ValidationConfig(**config)
    assert (caught.value.field, caught.value.value) == (field, pytest.approx(config[field], nan_ok=True))


def test_a_row_that_is_book_and_trade_needs_its_price() -> None:
    batch = TickBatch.from_events([quote(1.0, 2.0)])
    assert Door().check(batch.replace(flags=np.array([BOOK | LAST | TRADE], np.uint8)))[0] == ["not_finite"]
