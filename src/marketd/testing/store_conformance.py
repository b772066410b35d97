"""What every bar store must do, as tests. Subclass `StoreConformance` and say how to make an empty store.

    class TestMyStore(StoreConformance):
        def make_store(self, folder: Path) -> BarStore:
            return MyStore(folder)

Expected tables are typed out here; nothing is computed by a store to be compared with itself. A store that
moves rows from one place to another is made so that this happens within the tests (few rows at a time).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from marketd.errors import InvalidInput, StoreError
from marketd.model import BAR_SCHEMA, Bar, Interval
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.contract import BarStore

__all__ = ["StoreConformance", "bar_table"]

_M1, _D1 = Interval.parse("1m"), Interval.parse("1d")
_OPENING = parse_ns("2026-11-20T14:30:00Z")
_MINUTE = 60 * NS_PER_S
_FOREVER = 2**63 - 1


def bar_table(bars: Iterable[Bar]) -> pa.Table:
    """Bars as a `BAR_SCHEMA` table, in their order."""
    rows = []
    for bar in bars:
        row = msgspec.structs.asdict(bar)
        row["ts"], row["as_of"] = row.pop("ts_ns"), row.pop("as_of_ns")
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=BAR_SCHEMA)


def _bar(minute: int = 0, close: float = 101.5, as_of: int = 1, **changed: Any) -> Bar:
    """A bar of AAPL `minute` minutes after the opening, known `as_of` seconds after its own minute."""
    ts_ns = _OPENING + minute * _MINUTE
    fields: dict[str, Any] = {
        "symbol": "AAPL",
        "interval": "1m",
        "side": "trade",
        "ts_ns": ts_ns,
        "open": 100.0,
        "high": 103.0,
        "low": 99.5,
        "close": close,
        "volume": 1200.0,
        "vwap": 101.25,
        "trades": 7,
        "provider": "sim",
        "status": "final",
        "as_of_ns": ts_ns + _MINUTE + as_of * NS_PER_S,
    }
    return Bar(**(fields | changed))


def _known(bar: Bar, as_of_ns: int) -> Bar:
    return msgspec.structs.replace(bar, as_of_ns=as_of_ns)


def _read(store: BarStore, symbol: str = "AAPL", interval: Interval = _M1, **options: Any) -> pa.Table:
    return store.read(symbol, interval, options.pop("start_ns", 0), options.pop("end_ns", _FOREVER), **options)


class StoreConformance(ABC):
    """The suite; `make_store` is the only thing to write."""

    @abstractmethod
    def make_store(self, folder: Path) -> BarStore:
        """An empty store that may use `folder`."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[BarStore]:
        store = self.make_store(tmp_path / "store")
        yield store
        store.close()

    def test_an_empty_store_answers_with_the_schema(self, store: BarStore) -> None:
        assert _read(store).equals(bar_table([]))
        assert store.symbols() == ()
        assert store.append(bar_table([])) == 0

    def test_bars_come_back_as_they_were_by_time(self, store: BarStore) -> None:
        bars = [
            _bar(0),
            _bar(1, volume=None, vwap=None, trades=None),
            _bar(2, close=0.1 + 0.2, high=1e300, low=-5.0, status="provisional"),
            _bar(3, as_of_ns=_OPENING + 123_456_789),
        ]
        assert store.append(bar_table([bars[2], bars[0], bars[3], bars[1]])) == 4
        answer = _read(store)
        assert answer.schema.equals(BAR_SCHEMA)
        assert answer.equals(bar_table(bars))

    def test_words_may_come_encoded(self, store: BarStore) -> None:
        """In whichever form: of rows that are moved elsewhere, of others, of several providers, and of none."""
        early = [_bar(n, provider="sim" if n % 3 else "yahoo", status="live" if n % 2 else "final") for n in range(40)]
        late = [_bar(n, provider="polygon", close=1.0 + n) for n in range(38, 45)]
        for rows in (early, [_bar(50, symbol="MSFT")], late):
            store.append(bar_table(rows))
        wanted = bar_table([*early[:38], *late])
        for part in (wanted, wanted.slice(3, 1), wanted.slice(0, 0)):
            start_ns = part["ts"][0].value if len(part) else 0
            end_ns = part["ts"][-1].value + 1 if len(part) else 1
            given = _read(store, coded=True, start_ns=start_ns, end_ns=end_ns)
            assert given.cast(BAR_SCHEMA).equals(part)
            for before, after in zip(BAR_SCHEMA, given.schema, strict=True):
                if after.type != before.type:
                    assert after.type.value_type == pa.string() == before.type

    def test_batches_add_up(self, store: BarStore) -> None:
        bars = [_bar(minute, close=100.0 + minute) for minute in range(12)]
        for bar in bars:
            assert store.append(bar_table([bar])) == 1
        assert _read(store).equals(bar_table(bars))

    def test_start_is_in_and_end_is_out(self, store: BarStore) -> None:
        bars = [_bar(minute) for minute in range(5)]
        store.append(bar_table(bars))
        start_ns, end_ns = _OPENING + _MINUTE, _OPENING + 3 * _MINUTE
        assert _read(store, start_ns=start_ns, end_ns=end_ns).equals(bar_table(bars[1:3]))
        assert _read(store, start_ns=start_ns + 1, end_ns=end_ns + 1).equals(bar_table(bars[2:4]))
        assert _read(store, start_ns=end_ns, end_ns=start_ns).equals(bar_table([]))
        assert _read(store, start_ns=start_ns, end_ns=start_ns).equals(bar_table([]))

    def test_symbols_intervals_and_sides_are_apart(self, store: BarStore) -> None:
        minute, bid = _bar(), _bar(side="bid", close=1.0)
        day = _bar(interval="1d", ts_ns=parse_ns("2026-11-20"), close=2.0)
        other = _bar(symbol="MSFT", close=3.0)
        assert store.append(bar_table([minute, bid, day, other])) == 4
        assert _read(store).equals(bar_table([minute]))
        assert _read(store, side="bid").equals(bar_table([bid]))
        assert _read(store, side="ask").equals(bar_table([]))
        assert _read(store, interval=_D1).equals(bar_table([day]))
        assert _read(store, "MSFT").equals(bar_table([other]))
        assert _read(store, "TSLA").equals(bar_table([]))

    def test_symbols_are_sorted_and_each_named_once(self, store: BarStore) -> None:
        names = ["MSFT", "Ä", "AAPL", "BRK.B", "EUR/USD", "aapl", "^GSPC"]
        for name in [*names, *names]:
            store.append(bar_table([_bar(symbol=name)]))
        assert store.symbols() == ("AAPL", "BRK.B", "EUR/USD", "MSFT", "^GSPC", "aapl", "Ä")

    def test_a_limit_counts_from_the_chosen_end(self, store: BarStore) -> None:
        bars = [_bar(minute) for minute in range(9)]
        for start in (3, 0, 6):
            store.append(bar_table(bars[start : start + 3]))
        assert _read(store, limit=4).equals(bar_table(bars[:4]))
        assert _read(store, limit=4, newest_first=True).equals(bar_table(bars[:4:-1]))
        assert _read(store, newest_first=True).equals(bar_table(bars[::-1]))
        assert _read(store, limit=100).equals(bar_table(bars))
        middle: dict[str, Any] = {"start_ns": bars[2].ts_ns, "end_ns": bars[7].ts_ns}
        assert _read(store, limit=2, **middle).equals(bar_table(bars[2:4]))
        assert _read(store, limit=2, newest_first=True, **middle).equals(bar_table([bars[6], bars[5]]))

    def test_a_limit_counts_bars_and_not_versions(self, store: BarStore) -> None:
        for as_of in range(1, 6):
            store.append(bar_table([_bar(minute, close=100.0 + as_of, as_of=as_of) for minute in range(3)]))
        last = [_bar(minute, close=105.0, as_of=5) for minute in range(3)]
        assert _read(store, limit=2).equals(bar_table(last[:2]))
        assert _read(store, limit=2, newest_first=True).equals(bar_table([last[2], last[1]]))

    def test_an_identical_row_is_no_version_and_keeps_its_first_as_of(self, store: BarStore) -> None:
        first = _bar(volume=None)
        assert store.append(bar_table([first, _bar(1)])) == 2
        assert store.append(bar_table([_known(first, first.as_of_ns + 5), _bar(2)])) == 1
        nan = _known(_bar(volume=float("nan")), first.as_of_ns + 6)
        assert store.append(bar_table([nan])) == 0
        assert _read(store).equals(bar_table([first, _bar(1), _bar(2)]))

    @pytest.mark.parametrize(
        "change",
        [
            {"open": 100.5},
            {"high": 104.0},
            {"low": 99.0},
            {"close": 102.0},
            {"volume": 1201.0},
            {"volume": None},
            {"vwap": 101.5},
            {"vwap": None},
            {"trades": 8},
            {"trades": None},
            {"status": "corrected"},
        ],
        ids=str,
    )
    def test_each_value_that_changes_makes_a_version(self, store: BarStore, change: dict[str, Any]) -> None:
        first, second = _bar(as_of=1), _bar(**({"as_of": 2} | change))
        assert store.append(bar_table([first])) == 1
        assert store.append(bar_table([second])) == 1
        assert _read(store).equals(bar_table([second]))
        assert _read(store, as_of_ns=second.as_of_ns - 1).equals(bar_table([first]))

    def test_a_reader_gets_what_was_known_at_the_time(self, store: BarStore) -> None:
        live = _bar(close=100.0, as_of=1, status="live")
        final = _bar(close=101.0, as_of=2)
        back = _bar(close=100.0, as_of=3, status="live")
        next_minute = _bar(1)
        for bar in (live, final, back, next_minute):
            assert store.append(bar_table([bar])) == 1
        assert _read(store).equals(bar_table([back, next_minute]))
        assert _read(store, as_of_ns=live.as_of_ns - 1).equals(bar_table([]))
        assert _read(store, as_of_ns=live.as_of_ns).equals(bar_table([live]))
        assert _read(store, as_of_ns=final.as_of_ns).equals(bar_table([final]))
        assert _read(store, as_of_ns=next_minute.as_of_ns - 1).equals(bar_table([back]))
        assert _read(store, as_of_ns=next_minute.as_of_ns, limit=1).equals(bar_table([back]))

    def test_versions_within_one_batch_follow_their_as_of(self, store: BarStore) -> None:
        one, two, three = _bar(close=100.0, as_of=1), _bar(close=101.0, as_of=2), _bar(close=101.0, as_of=3)
        assert store.append(bar_table([three, one, two])) == 2
        assert _read(store).equals(bar_table([two]))
        assert _read(store, as_of_ns=one.as_of_ns).equals(bar_table([one]))

    def test_a_repeated_batch_changes_nothing(self, store: BarStore) -> None:
        versions = [_bar(close=100.0 + n, as_of=n + 1) for n in range(4)]
        assert store.append(bar_table(versions)) == 4
        assert store.append(bar_table(versions)) == 0
        for version in versions:
            assert store.append(bar_table([version])) == 0
            assert _read(store, as_of_ns=version.as_of_ns).equals(bar_table([version]))
        assert _read(store).equals(bar_table(versions[-1:]))

    def test_a_change_that_seems_older_is_kept_after_the_last_version(self, store: BarStore) -> None:
        first = _bar(close=100.0, as_of=9)
        assert store.append(bar_table([first])) == 1
        assert store.append(bar_table([_bar(close=101.0, as_of=4)])) == 1
        assert _read(store).equals(bar_table([_known(_bar(close=101.0), first.as_of_ns + 1)]))
        assert _read(store, as_of_ns=first.as_of_ns).equals(bar_table([first]))

    def test_changes_of_the_same_instant_all_count(self, store: BarStore) -> None:
        same = [_bar(close=100.0 + n) for n in range(3)]
        assert store.append(bar_table(same)) == 3
        assert _read(store).equals(bar_table([_known(same[2], same[0].as_of_ns + 2)]))
        assert _read(store, as_of_ns=same[0].as_of_ns).equals(bar_table(same[:1]))

    def test_the_provider_that_was_heard_last_is_given(self, store: BarStore) -> None:
        early, late = _bar(provider="yahoo", close=1.0, as_of=1), _bar(provider="finnhub", close=2.0, as_of=2)
        assert store.append(bar_table([late])) == 1
        assert store.append(bar_table([early])) == 1
        assert _read(store).equals(bar_table([late]))
        assert _read(store, as_of_ns=early.as_of_ns).equals(bar_table([early]))
        revised = _bar(provider="yahoo", close=3.0, as_of=3)
        assert store.append(bar_table([revised])) == 1
        assert _read(store).equals(bar_table([revised]))
        assert _read(store, as_of_ns=late.as_of_ns).equals(bar_table([late]))

    def test_providers_heard_at_once_are_given_in_the_order_of_their_names(self, store: BarStore) -> None:
        both = [_bar(provider="yahoo", close=1.0), _bar(provider="coinbase", close=2.0)]
        assert store.append(bar_table(both)) == 2
        assert _read(store).equals(bar_table(both[1:]))

    def test_a_preferred_provider_is_given_however_old_its_bar(self, store: BarStore) -> None:
        yahoo, finnhub = _bar(provider="yahoo", close=1.0, as_of=1), _bar(provider="finnhub", close=2.0, as_of=2)
        sim, alone = _bar(provider="sim", close=3.0, as_of=3), _bar(1, provider="sim")
        assert store.append(bar_table([yahoo, finnhub, sim, alone])) == 4
        assert _read(store).equals(bar_table([sim, alone]))
        assert _read(store, prefer=("yahoo",)).equals(bar_table([yahoo, alone]))
        assert _read(store, prefer=("nobody", "finnhub", "yahoo")).equals(bar_table([finnhub, alone]))
        assert _read(store, prefer=("nobody",)).equals(bar_table([sim, alone]))
        assert _read(store, prefer=("sim",), as_of_ns=yahoo.as_of_ns).equals(bar_table([yahoo]))
        assert store.cross_section(_M1, _OPENING, prefer=("yahoo",)).equals(bar_table([yahoo]))
        scanned = list(store.scan(_M1, 0, _FOREVER, prefer=("yahoo",)))
        assert pa.Table.from_batches(scanned).equals(bar_table([yahoo, alone]))

    def test_an_adjusted_bar_is_given_where_there_is_no_raw_one(self, store: BarStore) -> None:
        early, raw = _bar(provider="file", close=1.0, as_of=1), _bar(provider="yahoo", close=2.0, as_of=2)
        adjusted = _bar(provider="file:adjusted", close=3.0, as_of=3)
        newest = _bar(provider="yahoo:adjusted", close=4.0, as_of=4)
        alone, also = (_bar(1, provider=name, close=5.0) for name in ("file:adjusted", "yahoo:adjusted"))
        # at one moment: the raw bar of a later name comes before the adjusted one of an earlier
        both = [_bar(2, provider="file:adjusted"), _bar(2, provider="yahoo", close=6.0)]
        name_only = [_bar(3, provider="adjusted", close=7.0), _bar(3, provider="b", close=8.0)]
        for rows in ([newest, adjusted, *both], [early, raw, also, alone, *name_only]):
            store.append(bar_table(rows))
        given = bar_table([raw, alone, both[1], name_only[0]])
        assert _read(store).equals(given)
        assert pa.Table.from_batches(list(store.scan(_M1, 0, _FOREVER))).equals(given)
        assert store.cross_section(_M1, _OPENING).equals(bar_table([raw]))
        assert store.cross_section(_M1, _OPENING + _MINUTE).equals(bar_table([alone]))
        assert _read(store, limit=1).equals(bar_table([raw]))
        assert _read(store, limit=1, end_ns=_OPENING + _MINUTE, newest_first=True).equals(bar_table([raw]))
        assert _read(store, as_of_ns=newest.as_of_ns).slice(0, 1).equals(bar_table([raw]))
        wanted = ("yahoo:adjusted", "nobody")
        assert _read(store, prefer=wanted).equals(bar_table([newest, also, both[1], name_only[0]]))
        assert store.cross_section(_M1, _OPENING, prefer=wanted).equals(bar_table([newest]))
        assert store.cross_section(_M1, _OPENING, prefer=("file", *wanted)).equals(bar_table([early]))
        store.append(bar_table([_bar(provider=name, as_of=9, status="withdrawn") for name in ("file", "yahoo")]))
        assert _read(store, limit=1).equals(bar_table([newest]))

    def test_a_withdrawn_bar_is_not_given_but_was(self, store: BarStore) -> None:
        first, gone, back = _bar(as_of=1), _bar(as_of=2, status="withdrawn"), _bar(as_of=3, status="corrected")
        assert store.append(bar_table([first, _bar(1)])) == 2
        assert store.append(bar_table([gone])) == 1
        assert store.append(bar_table([_known(gone, gone.as_of_ns + 1)])) == 0
        assert _read(store).equals(bar_table([_bar(1)]))
        assert _read(store, limit=1).equals(bar_table([_bar(1)]))
        assert _read(store, limit=1, newest_first=True).equals(bar_table([_bar(1)]))
        assert _read(store, as_of_ns=gone.as_of_ns - 1).equals(bar_table([first]))
        assert _read(store, as_of_ns=gone.as_of_ns).equals(bar_table([]))
        assert store.cross_section(_M1, _OPENING).equals(bar_table([]))
        assert store.versions("AAPL", _M1, _OPENING).equals(bar_table([first, gone]))
        assert store.append(bar_table([back])) == 1
        assert _read(store).equals(bar_table([back, _bar(1)]))
        assert store.versions("AAPL", _M1, _OPENING).equals(bar_table([first, gone, back]))

    def test_withdrawn_by_one_provider_the_bar_of_another_is_given(self, store: BarStore) -> None:
        mine, theirs = _bar(provider="sim", close=1.0, as_of=2), _bar(provider="yahoo", close=2.0, as_of=1)
        gone = _bar(provider="sim", close=1.0, as_of=3, status="withdrawn")
        assert store.append(bar_table([mine, theirs])) == 2
        assert store.append(bar_table([gone])) == 1
        assert _read(store, prefer=("sim",)).equals(bar_table([theirs]))
        assert _read(store, as_of_ns=mine.as_of_ns).equals(bar_table([mine]))
        assert store.presence(_M1, _OPENING, _OPENING + _MINUTE).of("AAPL").tolist() == [True]

    def test_a_limit_counts_bars_in_force(self, store: BarStore) -> None:
        bars = [_bar(minute) for minute in range(6)]
        store.append(bar_table(bars))
        store.append(bar_table([_bar(minute, as_of=2, status="withdrawn") for minute in (0, 2, 5)]))
        assert _read(store, limit=2).equals(bar_table([bars[1], bars[3]]))
        assert _read(store, limit=2, newest_first=True).equals(bar_table([bars[4], bars[3]]))

    def test_a_cross_section_has_all_symbols_at_a_time(self, store: BarStore) -> None:
        names = ("MSFT", "Ä", "AAPL", "aapl")
        first = [_bar(symbol=name, close=1.0 + n) for n, name in enumerate(names)]
        store.append(bar_table([*first, *(_bar(1, symbol=name) for name in names[:2])]))
        revised = _bar(symbol="MSFT", close=9.0, as_of=5)
        store.append(bar_table([revised, _bar(symbol="AAPL", side="bid"), _bar(interval="1h", symbol="NEW")]))
        assert store.cross_section(_M1, _OPENING).equals(bar_table([first[2], revised, first[3], first[1]]))
        then = store.cross_section(_M1, _OPENING, as_of_ns=revised.as_of_ns - 1)
        assert then.equals(bar_table([first[2], first[0], first[3], first[1]]))
        some = store.cross_section(_M1, _OPENING, symbols=["Ä", "none", "MSFT"])
        assert some.equals(bar_table([revised, first[1]]))
        assert store.cross_section(_M1, _OPENING, symbols=[]).equals(bar_table([]))
        assert store.cross_section(_M1, _OPENING - _MINUTE).equals(bar_table([]))
        assert store.cross_section(_M1, _OPENING, side="ask").equals(bar_table([]))

    def test_versions_are_of_every_provider_in_the_order_they_became_known(self, store: BarStore) -> None:
        rows = [
            _bar(provider="sim", close=1.0, as_of=1, status="live"),
            _bar(provider="yahoo", close=2.0, as_of=1),
            _bar(provider="sim", close=3.0, as_of=2),
            _bar(provider="sim", close=3.0, as_of=4, status="withdrawn"),
        ]
        store.append(bar_table([rows[3], rows[0], rows[1], _bar(1), _bar(symbol="MSFT"), _bar(side="bid")]))
        store.append(bar_table([_bar(provider="sim", close=3.0, as_of=2)]))
        late = _known(rows[2], rows[3].as_of_ns + 1)
        expected = bar_table([rows[0], rows[1], rows[3], late])
        assert store.versions("AAPL", _M1, _OPENING).equals(expected)
        assert store.versions("AAPL", _M1, _OPENING + 1).equals(bar_table([]))
        assert store.versions("none", _M1, _OPENING).equals(bar_table([]))

    def test_versions_of_a_range_hold_everything_by_time(self, store: BarStore) -> None:
        rows = [
            _bar(0, provider="sim", close=1.0, as_of=1, status="withdrawn"),
            _bar(1, provider="yahoo", close=2.0, as_of=1),
            _bar(1, provider="sim", close=3.0, as_of=2, status="live"),
            _bar(1, provider="yahoo", close=4.0, as_of=3),
            _bar(2, provider="sim", close=5.0, as_of=1),
            _bar(2, provider="yahoo", close=6.0, as_of=1),
            _bar(40_000, close=7.0),
            _bar(40_000, close=7.0, as_of=2, status="withdrawn"),
        ]
        for part in ([rows[3], rows[4]], [rows[1]], [rows[0], rows[6]], [rows[2], rows[7], rows[5]]):
            store.append(bar_table([*part, _bar(1, symbol="MSFT"), _bar(1, side="bid"), _bar(interval="1h")]))
        rows[1:4] = [rows[2], rows[3], _known(rows[1], rows[3].as_of_ns + 1)]  # it came after what it precedes

        def versions(start_ns: int = -(2**63), end_ns: int = _FOREVER, **options: Any) -> pa.Table:
            batches = list(store.read_versions("AAPL", options.pop("interval", _M1), start_ns, end_ns, **options))
            assert all(batch.num_rows for batch in batches)
            return pa.Table.from_batches(batches, BAR_SCHEMA)

        assert versions().equals(bar_table(rows))
        assert versions(_OPENING, _OPENING + 2 * _MINUTE).equals(bar_table(rows[:4]))
        assert versions(_OPENING + 1, _OPENING + 2 * _MINUTE + 1).equals(bar_table(rows[1:6]))
        assert versions(_OPENING + _MINUTE, _OPENING + _MINUTE).equals(bar_table([]))
        assert versions(_OPENING + _MINUTE, _OPENING).equals(bar_table([]))
        assert versions(side="bid").equals(bar_table([_bar(1, side="bid")]))
        assert versions(side="ask").equals(bar_table([]))
        assert versions(interval=_D1).equals(bar_table([]))
        assert list(store.read_versions("none", _M1, 0, _FOREVER)) == []
        with pytest.raises(InvalidInput, match="side"):
            versions(side="mid")

    def test_presence_is_a_bit_a_bar(self, store: BarStore) -> None:
        minutes = [0, 1, 2, 7, 8, 9, 30, 389]
        store.append(bar_table([_bar(minute) for minute in minutes]))
        store.append(bar_table([_bar(minute, symbol="MSFT") for minute in (3, 8)]))
        store.append(bar_table([_bar(5, symbol="IBM", side="bid")]))
        answer = store.presence(_M1, _OPENING, _OPENING + 390 * _MINUTE)
        assert (answer.symbols, answer.interval, answer.start_ns, answer.slots) == (
            ("AAPL", "IBM", "MSFT"),
            _M1,
            _OPENING,
            390,
        )
        assert answer.bits.shape == (3, 49)
        # 0, 1, 2 and 7 are 135 of the first byte, 8 and 9 are 3 of the second, 389 is 32 of the last
        assert answer.bits[0, [0, 1, 2, 3, 48]].tolist() == [135, 3, 0, 64, 32]
        assert not answer.bits[1].any()
        assert answer.bits[2, :2].tolist() == [8, 1]
        some = store.presence(_M1, _OPENING + 1, _OPENING + 9 * _MINUTE, symbols=["none", "AAPL"])
        assert (some.symbols, some.start_ns, some.slots) == (("none", "AAPL"), _OPENING + _MINUTE, 8)
        assert some.bits.tolist() == [[0], [195]]  # minutes 1, 2, 7 and 8: 1 + 2 + 64 + 128
        assert store.presence(_M1, _OPENING, _OPENING).bits.shape == (3, 0)
        assert store.presence(_D1, _OPENING, _OPENING + 86_400 * NS_PER_S).bits.tolist() == [[0], [0], [0]]

    def test_presence_forgets_what_was_withdrawn(self, store: BarStore) -> None:
        store.append(bar_table([_bar(minute) for minute in range(10)]))
        store.append(bar_table([_bar(minute, as_of=2, status="withdrawn") for minute in (1, 4, 8)]))
        store.append(bar_table([_bar(4, as_of=3)]))
        store.append(bar_table([_bar(12, status="withdrawn")]))
        answer = store.presence(_M1, _OPENING, _OPENING + 16 * _MINUTE)
        assert np.flatnonzero(answer.of("AAPL")).tolist() == [0, 2, 3, 4, 5, 6, 7, 9]
        assert store.symbols() == ("AAPL",)

    def test_presence_of_too_much_is_refused(self, store: BarStore) -> None:
        with pytest.raises(InvalidInput) as refused:
            store.presence(Interval.parse("1s"), 0, _FOREVER, symbols=["AAPL"])
        assert refused.value.field == "end_ns"

    def test_a_scan_is_what_reads_give_symbol_by_symbol(self, store: BarStore) -> None:
        bars = {name: [_bar(minute, symbol=name) for minute in range(4)] for name in ("MSFT", "AAPL", "Ä")}
        for minute in range(4):
            store.append(bar_table([bars[name][minute] for name in bars]))
        store.append(bar_table([_bar(2, symbol="MSFT", as_of=9, status="withdrawn")]))
        store.append(bar_table([_bar(interval="1d", ts_ns=parse_ns("2026-11-20"))]))
        batches = [pa.Table.from_batches([batch]) for batch in store.scan(_M1, _OPENING, _OPENING + 3 * _MINUTE)]
        expected = [bars["AAPL"][:3], bars["MSFT"][:2], bars["Ä"][:3]]
        assert len(batches) == len(expected)
        for table, rows in zip(batches, expected, strict=True):
            assert table.equals(bar_table(rows))
        some = list(store.scan(_M1, 0, _FOREVER, symbols=["Ä", "none"], columns=["close", "symbol"]))
        assert [batch.schema.names for batch in some] == [["close", "symbol"]]
        assert some[0].to_pydict() == {"close": [101.5] * 4, "symbol": ["Ä"] * 4}
        then = store.scan(_M1, 0, _FOREVER, symbols=["MSFT"], as_of_ns=bars["MSFT"][2].as_of_ns)
        assert [batch.num_rows for batch in then] == [3]
        assert list(store.scan(_M1, 0, _OPENING)) == []
        with pytest.raises(InvalidInput, match="columns: 'price' is not allowed"):
            list(store.scan(_M1, 0, 1, columns=["price"]))

    def test_stats_count_versions_and_symbols(self, store: BarStore) -> None:
        assert (store.stats().symbols, store.stats().versions) == (0, 0)
        store.append(bar_table([_bar(), _bar(1), _bar(symbol="MSFT"), _bar(as_of=2, close=7.0)]))
        store.append(bar_table([_bar(as_of=3, close=7.0)]))
        assert (store.stats().symbols, store.stats().versions) == (2, 4)

    def test_bars_before_1970_and_long_ago_are_kept(self, store: BarStore) -> None:
        days = [_bar(interval="1d", ts_ns=parse_ns(day)) for day in ("1928-01-03", "1969-12-31", "1970-01-01")]
        assert store.append(bar_table(days)) == 3
        assert _read(store, interval=_D1, start_ns=-(2**63)).equals(bar_table(days))
        assert _read(store, interval=_D1, start_ns=-1).equals(bar_table(days[2:]))
        assert store.append(bar_table(days)) == 0

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("interval", "7m"),
            ("interval", "../1m"),
            ("side", "mid"),
            ("status", "done"),
            ("symbol", ""),
            ("provider", ""),
            ("open", float("nan")),
            ("high", float("inf")),
            ("trades", -1),
        ],
    )
    def test_a_row_that_means_nothing_is_refused_with_its_batch(self, store: BarStore, field: str, value: Any) -> None:
        with pytest.raises(InvalidInput) as refused:
            store.append(bar_table([_bar(), _bar(1, **{field: value})]))
        assert refused.value.field == field
        assert repr(refused.value.value) == repr(value)
        assert _read(store).equals(bar_table([]))

    def test_a_table_of_other_columns_is_refused(self, store: BarStore) -> None:
        table = bar_table([_bar()])
        with pytest.raises(InvalidInput, match="missing: vwap"):
            store.append(table.drop_columns(["vwap"]))
        with pytest.raises(InvalidInput, match="bars: "):
            store.append(table.set_column(4, "open", pa.array(["dear"])))
        empty_close = table.set_column(7, "close", pa.array([None], pa.float64()))
        with pytest.raises(InvalidInput, match="close: None is not allowed"):
            store.append(empty_close)
        assert _read(store).equals(bar_table([]))

    def test_columns_in_another_order_and_encoding_are_accepted(self, store: BarStore) -> None:
        table = bar_table([_bar(), _bar(1)])
        table = table.set_column(0, "symbol", table.column("symbol").dictionary_encode())
        assert store.append(table.select(table.column_names[::-1])) == 2
        assert _read(store).equals(bar_table([_bar(), _bar(1)]))

    @pytest.mark.parametrize(
        ("options", "field"), [({"limit": 0}, "limit"), ({"side": "mid"}, "side"), ({"as_of_ns": 2**64}, "as_of_ns")]
    )
    def test_a_read_that_means_nothing_is_refused(self, store: BarStore, options: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            _read(store, **options)
        assert refused.value.field == field

    def test_threads_append_at_once_and_each_learns_of_its_own_rows(self, store: BarStore) -> None:
        made: dict[str, list[int]] = {}

        def work(symbol: str) -> None:
            own = [_bar(minute, symbol=symbol) for minute in range(10)]
            counts = [store.append(bar_table([bar, own[0], _bar(symbol="ALL")])) for bar in own]
            made[symbol] = counts

        threads = [threading.Thread(target=work, args=(f"S{n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        # 60 bars of their own and the one they share, which exactly one of them made
        assert sum(sum(counts) for counts in made.values()) == 61
        for symbol, counts in made.items():
            assert [min(count, 1) for count in counts] == [1] * 10
            assert _read(store, symbol).equals(bar_table([_bar(minute, symbol=symbol) for minute in range(10)]))
        assert _read(store, "ALL").equals(bar_table([_bar(symbol="ALL")]))

    def test_a_closed_store_says_so(self, store: BarStore) -> None:
        store.append(bar_table([_bar()]))
        store.close()
        store.close()
        for call in (
            lambda: store.append(bar_table([_bar(1)])),
            lambda: _read(store),
            lambda: store.cross_section(_M1, 0),
            lambda: list(store.scan(_M1, 0, 1)),
            lambda: store.versions("AAPL", _M1, 0),
            lambda: list(store.read_versions("AAPL", _M1, 0, 1)),
            lambda: store.presence(_M1, 0, 1),
            store.symbols,
            store.stats,
        ):
            with pytest.raises(StoreError, match="closed"):
                call()
