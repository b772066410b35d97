"""What every `Records` must do, as tests. Subclass `RecordsConformance` and say how to make empty ones.

    class TestMyRecords(RecordsConformance):
        def make_records(self, folder: Path) -> Records:
            return MyRecords(folder)

Expected values are typed out here or come from plain dictionaries; nothing is computed by an engine to be compared
with itself. The model-based tests use names of their own in each example, so that one engine serves them all.
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput, StoreError
from marketd.model import (
    OBSERVATION_SCHEMA,
    AnsweredSpan,
    BackfillJob,
    CorporateAction,
    Cursor,
    Instrument,
    Name,
)
from marketd.model.time import NS_PER_S, parse_ns
from marketd.store.records import Records

__all__ = ["RecordsConformance", "observation_table"]

_FOREVER = 2**63 - 1
_DAY = 86_400 * NS_PER_S
_NOW = parse_ns("2026-11-20T15:00:00Z")

_AAPL = Instrument(
    id="AAPL", symbol="AAPL", exchange="XNAS", currency="USD", tier="T0", rank=1, asset_class="equity", active=True
)
_META = Instrument(
    id="FB",
    symbol="META",
    exchange="XNAS",
    tier="T1",
    rank=2,
    names=(Name(symbol="FB", start_ns=None, end_ns=parse_ns("2022-06-09")),),
)
_GONE = Instrument(id="TWTR", symbol="TWTR", active=False)
_GOLD = Instrument(id="XAU/USD", symbol="XAU/USD", exchange="OANDA", asset_class="metal", tier="T2")

_examples = itertools.count()

# one engine for all examples, which use other names each; and every engine is to agree on every example
_SHARED_ENGINE = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)


def observation_table(rows: Iterable[tuple[str, int, float | None, str, int]]) -> pa.Table:
    """(series, ts_ns, value, provider, as_of_ns) as an `OBSERVATION_SCHEMA` table, in their order."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    arrays = [pa.array(column, field.type) for column, field in zip(columns, OBSERVATION_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=OBSERVATION_SCHEMA)


def _span(start: int, end: int, as_of: int = 100, **changed: Any) -> AnsweredSpan:
    """AAPL had no trades from second `start` to `end`, as we know since second `as_of`."""
    fields: dict[str, Any] = {
        "symbol": "AAPL",
        "interval": "1m",
        "provider": "sim",
        "start_ns": start * NS_PER_S,
        "end_ns": end * NS_PER_S,
        "reason": "no_trades",
        "as_of_ns": as_of * NS_PER_S,
    }
    return AnsweredSpan(**(fields | changed))


def _spans(records: Records, start: int = -1000, end: int = 1000, **options: Any) -> tuple[AnsweredSpan, ...]:
    if "as_of" in options:
        options["as_of_ns"] = options.pop("as_of") * NS_PER_S
    return records.spans(options.pop("interval", "1m"), start * NS_PER_S, end * NS_PER_S, **options)


def _job(number: int, **changed: Any) -> BackfillJob:
    """A job for hour `number` of 1970 of AAPL, made at second `number`."""
    fields: dict[str, Any] = {
        "id": f"job-{number}",
        "symbol": "AAPL",
        "interval": "1m",
        "start_ns": number * 3600 * NS_PER_S,
        "end_ns": (number + 1) * 3600 * NS_PER_S,
        "tier": "T0",
        "reason": "gap",
        "created_ns": number * NS_PER_S,
        "updated_ns": number * NS_PER_S,
    }
    return BackfillJob(**(fields | changed))


def _split(as_of: int = 0, **changed: Any) -> CorporateAction:
    fields: dict[str, Any] = {
        "symbol": "AAPL",
        "kind": "split",
        "ex_ns": parse_ns("2014-06-09"),
        "provider": "sim",
        "as_of_ns": parse_ns("2014-04-23T20:30:00Z") + as_of,
        "ratio": 7.0,
    }
    return CorporateAction(**(fields | changed))


def _run_at_once(works: Sequence[Callable[[], None]]) -> None:
    """Each in a thread; raises what one of them raised."""
    errors: list[BaseException] = []
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            begin.wait(30)
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


class RecordsConformance(ABC):
    """The suite; `make_records` is the only thing to write."""

    @abstractmethod
    def make_records(self, folder: Path) -> Records:
        """Empty records that may use `folder`."""

    @pytest.fixture
    def records(self, tmp_path: Path) -> Iterator[Records]:
        records = self.make_records(tmp_path / "records")
        yield records
        records.close()

    # --- universe ----------------------------------------------------------------------------------------------

    def test_there_is_no_universe_at_first(self, records: Records) -> None:
        assert records.universe() == ()
        assert records.universe(as_of_ns=_NOW) == ()
        assert records.universe_versions() == ()
        with pytest.raises(InvalidInput) as refused:
            records.universe(version=1)
        assert refused.value.field == "version"

    def test_a_universe_comes_back_whole_and_by_symbol(self, records: Records) -> None:
        version = records.save_universe([_META, _GOLD, _AAPL, _GONE], source="first.csv", as_of_ns=_NOW)
        assert (version.version, version.as_of_ns, version.source) == (1, _NOW, "first.csv")
        assert (version.instruments, version.active, version.changed) == (4, 3, 4)
        assert records.universe() == (_AAPL, _META, _GONE, _GOLD)
        assert records.universe_versions() == (version,)

    def test_the_same_universe_in_any_order_is_no_version(self, records: Records) -> None:
        first = records.save_universe([_AAPL, _META], source="first.csv", as_of_ns=_NOW)
        assert records.save_universe([_META, _AAPL], source="other.csv", as_of_ns=_NOW + 5) == first
        assert records.universe_versions() == (first,)

    def test_each_state_of_the_universe_stays_readable(self, records: Records) -> None:
        moved = msgspec.structs.replace(_META, tier="T0")
        first = records.save_universe([_AAPL, _META], source="a", as_of_ns=_NOW)
        second = records.save_universe([moved, _GOLD], source="b", as_of_ns=_NOW + 10)
        third = records.save_universe([_AAPL, moved, _GOLD], source="c", as_of_ns=_NOW + 20)
        empty = records.save_universe([], source="d", as_of_ns=_NOW + 30)
        assert [v.changed for v in (first, second, third, empty)] == [2, 3, 1, 3]
        assert [v.instruments for v in (first, second, third, empty)] == [2, 2, 3, 0]
        assert records.universe_versions() == (first, second, third, empty)
        assert records.universe() == ()
        assert records.universe(version=1) == (_AAPL, _META)
        assert records.universe(version=2) == (moved, _GOLD)
        assert records.universe(version=3) == (_AAPL, moved, _GOLD)
        assert records.universe(as_of_ns=_NOW - 1) == ()
        assert records.universe(as_of_ns=_NOW) == (_AAPL, _META)
        assert records.universe(as_of_ns=_NOW + 9) == (_AAPL, _META)
        assert records.universe(as_of_ns=_NOW + 10) == (moved, _GOLD)
        assert records.universe(as_of_ns=_NOW + 29) == (_AAPL, moved, _GOLD)
        assert records.universe(as_of_ns=_NOW + 30) == ()
        for version in (0, 5, -1):
            with pytest.raises(InvalidInput) as refused:
                records.universe(version=version)
            assert refused.value.field == "version"
        with pytest.raises(InvalidInput):
            records.universe(version=1, as_of_ns=_NOW)

    def test_a_universe_that_seems_older_is_kept_after_the_last(self, records: Records) -> None:
        records.save_universe([_AAPL], source="a", as_of_ns=_NOW)
        assert records.save_universe([_META], source="b", as_of_ns=_NOW - 5).as_of_ns == _NOW + 1
        assert records.universe() == (_META,)
        assert records.universe(as_of_ns=_NOW) == (_AAPL,)

    def test_two_instruments_that_cannot_be_told_apart_are_refused(self, records: Records) -> None:
        retired = msgspec.structs.replace(_AAPL, id="AAPL-1985", active=False)
        kept = records.save_universe([_AAPL, retired], source="a", as_of_ns=_NOW)
        assert records.universe() == (_AAPL, retired)
        for other, field in (
            (msgspec.structs.replace(_GOLD, id="AAPL"), "id"),
            (msgspec.structs.replace(retired, active=True), "symbol"),
            (msgspec.structs.replace(_GOLD, symbol=""), "symbol"),
            (msgspec.structs.replace(_GOLD, id=""), "id"),
            (msgspec.structs.replace(_GOLD, names=(Name(symbol="GOLD"),)), "names"),
        ):
            with pytest.raises(InvalidInput) as refused:
                records.save_universe([_AAPL, other], source="b", as_of_ns=_NOW)
            assert refused.value.field == field
        assert records.universe_versions() == (kept,)

    def test_a_universe_of_eight_thousand(self, records: Records) -> None:
        instruments = [Instrument(id=f"S{n:05}", symbol=f"S{n:05}", rank=n + 1) for n in range(8_500)]
        records.save_universe(instruments[:8_000], source="a", as_of_ns=_NOW)
        version = records.save_universe(instruments[1:], source="b", as_of_ns=_NOW + 1)
        assert (version.instruments, version.changed) == (8_499, 501)
        assert records.universe() == tuple(instruments[1:])
        assert records.universe(version=1) == tuple(instruments[:8_000])

    # --- ledger ------------------------------------------------------------------------------------------------

    def test_nothing_has_been_answered_at_first(self, records: Records) -> None:
        records.note_spans([])
        records.set_cursors([])
        assert _spans(records) == ()
        assert records.cursor("AAPL", "1m", "sim") is None
        assert records.cursors("1m") == ()

    def test_an_answer_is_told_for_the_part_that_was_asked(self, records: Records) -> None:
        records.note_spans([_span(10, 20)])
        assert _spans(records) == (_span(10, 20),)
        assert _spans(records, 5, 12) == (_span(10, 12),)
        assert _spans(records, 12, 15) == (_span(12, 15),)
        assert _spans(records, 15, 99) == (_span(15, 20),)
        for start, end in ((0, 10), (20, 30), (15, 15), (17, 12)):
            assert _spans(records, start, end) == ()
        assert records.spans("1m", -(2**70), 2**70) == (_span(10, 20),)

    def test_answers_of_symbols_intervals_providers_and_reasons_are_apart(self, records: Records) -> None:
        spans = [
            _span(10, 20, symbol=None),
            _span(10, 20),
            _span(10, 20, provider="yahoo"),
            _span(10, 20, provider="yahoo", reason="provider_lacks"),
            _span(10, 20, provider="yahoo", reason="quarantined"),
            _span(5, 8, symbol="MSFT"),
            _span(20, 30, symbol="MSFT"),
        ]
        hour = _span(20, 30, interval="1h")
        records.note_spans([*spans[::-1], hour])
        apart = (spans[0], spans[1], spans[2], spans[3], spans[4])
        assert _spans(records) == (
            spans[0],
            spans[1],
            spans[2],
            spans[3],
            spans[4],
            _span(5, 8, symbol="MSFT"),
            _span(20, 30, symbol="MSFT"),
        )
        assert _spans(records, symbol="AAPL") == apart
        assert _spans(records, symbol="MSFT") == (spans[0], spans[5], spans[6])
        assert _spans(records, symbol="TSLA") == (spans[0],)
        assert _spans(records, interval="1h") == (hour,)
        assert _spans(records, interval="5m") == ()

    def test_answers_that_touch_are_told_as_one(self, records: Records) -> None:
        records.note_spans([_span(10, 20, as_of=30)])
        records.note_spans([_span(20, 25, as_of=40), _span(30, 35, as_of=40)])
        assert _spans(records) == (_span(10, 25, as_of=40), _span(30, 35, as_of=40))
        # what was known in between, and what only the first answer had told
        assert _spans(records, as_of=29) == ()
        assert _spans(records, as_of=39) == (_span(10, 20, as_of=30),)
        assert _spans(records, 0, 20) == (_span(10, 20, as_of=30),)
        records.note_spans([_span(0, 50, as_of=60)])
        assert _spans(records) == (_span(0, 50, as_of=60),)
        assert _spans(records, as_of=59) == (_span(10, 25, as_of=40), _span(30, 35, as_of=40))
        assert _spans(records, 12, 18) == (_span(12, 18, as_of=30),)

    def test_a_repeated_answer_keeps_its_first_time(self, records: Records) -> None:
        records.note_spans([_span(10, 20, as_of=30)])
        records.note_spans([_span(10, 20, as_of=99)])
        records.note_spans([_span(12, 15, as_of=98), _span(12, 15, as_of=98)])
        assert _spans(records) == (_span(10, 20, as_of=30),)

    def test_an_answer_that_was_learned_earlier_counts_from_then(self, records: Records) -> None:
        records.note_spans([_span(10, 20, as_of=50)])
        records.note_spans([_span(12, 15, as_of=40)])
        assert _spans(records) == (_span(10, 20, as_of=50),)
        assert _spans(records, as_of=49) == (_span(12, 15, as_of=40),)
        assert _spans(records, 12, 15) == (_span(12, 15, as_of=40),)

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"symbol": ""}, "symbol"),
            ({"provider": ""}, "provider"),
            ({"interval": "7m"}, "interval"),
            ({"reason": "closed"}, "reason"),
            ({"end_ns": 0}, "end_ns"),
            ({"start_ns": -(2**64)}, "start_ns"),
            ({"as_of_ns": 2**63}, "as_of_ns"),
        ],
    )
    def test_a_span_that_means_nothing_is_refused_with_its_batch(
        self, records: Records, changed: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            records.note_spans([_span(1, 2), _span(10, 20, **changed)])
        assert refused.value.field == field
        assert _spans(records) == ()

    @_SHARED_ENGINE
    @given(
        batches=st.lists(
            st.lists(
                st.tuples(
                    st.sampled_from([None, "A", "B"]),
                    st.sampled_from(["no_trades", "provider_lacks"]),
                    st.integers(0, 11),
                    st.integers(1, 6),
                    st.integers(0, 5),
                ),
                min_size=1,
                max_size=4,
            ),
            max_size=4,
        ),
        asked=st.lists(
            st.tuples(
                st.sampled_from([None, "A", "B", "C"]),
                st.integers(-1, 12),
                st.integers(0, 18),
                st.none() | st.integers(-1, 6),
            ),
            max_size=5,
        ),
    )
    def test_spans_tell_what_a_dictionary_of_points_tells(
        self, records: Records, batches: list[list[Any]], asked: list[Any]
    ) -> None:
        provider = f"example-{next(_examples)}"
        first_known: dict[tuple[str | None, str, int], int] = {}
        for batch in batches:
            spans = []
            for symbol, reason, start, length, as_of in batch:
                end = start + length
                spans.append(_span(start, end, as_of, symbol=symbol, reason=reason, provider=provider))
                for point in range(start, end):
                    key = (symbol, reason, point)
                    first_known[key] = min(as_of, first_known.get(key, as_of))
            records.note_spans(spans)
        for symbol, start, end, as_of in [(None, -5, 40, None), *asked]:
            options = {} if as_of is None else {"as_of": as_of}
            answer = [s for s in _spans(records, start, end, symbol=symbol, **options) if s.provider == provider]
            expected = []
            wanted = (None, "A", "B") if symbol is None else (None, symbol)
            for its_symbol, reason in itertools.product(wanted, ("no_trades", "provider_lacks")):
                run: list[tuple[int, int]] = []
                for point in range(start, end + 1):
                    known = first_known.get((its_symbol, reason, point)) if point < end else None
                    if known is not None and (as_of is None or known <= as_of):
                        run.append((point, known))
                    elif run:
                        known = max(k for _, k in run)
                        expected.append(
                            _span(run[0][0], point, known, symbol=its_symbol, reason=reason, provider=provider)
                        )
                        run = []
            assert answer == sorted(expected, key=lambda s: (s.symbol or "", s.start_ns, s.reason))

    def test_cursors_are_replaced_and_each_is_found(self, records: Records) -> None:
        def cursor(symbol: str = "AAPL", interval: str = "1m", provider: str = "sim", until: int = 5) -> Cursor:
            return Cursor(symbol=symbol, interval=interval, provider=provider, until_ns=until, updated_ns=_NOW + until)

        first = [cursor(), cursor("MSFT"), cursor(provider="yahoo"), cursor(interval="1d")]
        records.set_cursors(first)
        assert records.cursors("1m") == (cursor(), cursor(provider="yahoo"), cursor("MSFT"))
        assert records.cursors("1d") == (cursor(interval="1d"),)
        records.set_cursors([cursor(until=3), cursor("MSFT", until=7), cursor("MSFT", until=6)])
        assert records.cursor("AAPL", "1m", "sim") == cursor(until=3)
        assert records.cursor("MSFT", "1m", "sim") == cursor("MSFT", until=6)
        assert records.cursor("AAPL", "1m", "yahoo") == cursor(provider="yahoo")
        assert records.cursor("AAPL", "5m", "sim") is None
        with pytest.raises(InvalidInput):
            records.set_cursors([cursor(until=9), cursor("")])
        assert records.cursor("AAPL", "1m", "sim") == cursor(until=3)

    # --- back-fill jobs ----------------------------------------------------------------------------------------

    def test_jobs_come_back_as_they_were(self, records: Records) -> None:
        full = _job(
            2,
            provider="yahoo",
            state="parked",
            done_ns=7,
            bars=12,
            attempts=3,
            error="429: too many",
            not_before_ns=_NOW,
            tier="T2",
        )
        assert records.add_jobs([]) == ()
        assert records.add_jobs([_job(1), full]) == ("job-1", "job-2")
        assert records.job("job-1") == _job(1)
        assert records.job("job-2") == full
        assert records.job("job-3") is None

    def test_a_job_that_is_under_way_already_is_not_kept_twice(self, records: Records) -> None:
        assert records.add_jobs([_job(1), _job(1, id="twin"), _job(2)]) == ("job-1", "job-1", "job-2")
        assert records.add_jobs([_job(2, id="again")]) == ("job-2",)
        assert records.job("twin") is None
        others: list[dict[str, Any]] = [
            {"symbol": "MSFT"},
            {"interval": "5m"},
            {"provider": "sim"},
            {"start_ns": 0},
            {"end_ns": _DAY},
        ]
        for number, other in enumerate(others):
            assert records.add_jobs([_job(1, id=f"other-{number}", **other)]) == (f"other-{number}",)
        assert records.add_jobs([_job(1, id="twin-2", provider="sim", tier="T1")]) == ("other-2",)

    @pytest.mark.parametrize("state", ["done", "parked", "cancelled"])
    def test_a_range_that_is_over_can_be_asked_for_again(self, records: Records, state: Any) -> None:
        records.add_jobs([_job(1)])
        assert records.take_jobs("T0", _NOW, 1) != ()
        assert records.add_jobs([_job(1, id="second")]) == ("job-1",)
        assert records.save_job(_job(1, state=state))
        assert records.add_jobs([_job(1, id="second")]) == ("second",)
        assert records.jobs() == (_job(1, id="second"), _job(1, state=state))

    def test_an_id_that_is_kept_is_not_kept_again(self, records: Records) -> None:
        records.add_jobs([_job(1)])
        records.save_job(_job(1, state="done"))
        assert records.add_jobs([_job(1), _job(1, symbol="MSFT")]) == ("job-1", "job-1")
        assert records.jobs() == (_job(1, state="done"),)

    def test_the_oldest_due_jobs_of_a_tier_are_taken(self, records: Records) -> None:
        records.add_jobs(
            [
                _job(3),
                _job(1),
                _job(2, not_before_ns=_NOW + 1),
                _job(4, tier="T1"),
                _job(5, id="a", created_ns=NS_PER_S),
            ]
        )
        assert records.take_jobs("T0", _NOW, 0) == ()
        taken = records.take_jobs("T0", _NOW, 2)
        assert taken == (
            _job(5, id="a", created_ns=NS_PER_S, state="running", updated_ns=_NOW),
            _job(1, state="running", updated_ns=_NOW),
        )
        assert records.job("job-1") == taken[1]
        assert [job.id for job in records.take_jobs("T0", _NOW, 9)] == ["job-3"]
        assert records.take_jobs("T0", _NOW, 9) == ()
        assert [job.id for job in records.take_jobs("T0", _NOW + 1, 9)] == ["job-2"]
        assert [job.id for job in records.take_jobs("T1", _NOW, 9)] == ["job-4"]
        assert records.take_jobs("T2", _NOW, 9) == ()

    def test_a_job_is_given_to_one_taker_only(self, records: Records) -> None:
        records.add_jobs([_job(n) for n in range(60)])
        taken: list[str] = []

        def take() -> None:
            while jobs := records.take_jobs("T0", _NOW, 7):
                taken.extend(job.id for job in jobs)

        _run_at_once([take] * 6)
        assert sorted(taken) == sorted(f"job-{n}" for n in range(60))
        assert {job.state for job in records.jobs()} == {"running"}

    def test_of_jobs_that_are_added_at_once_one_is_kept(self, records: Records) -> None:
        given_ids: list[str] = []

        def add(name: str) -> None:
            given_ids.extend(records.add_jobs([_job(n, id=f"{name}-{n}") for n in range(5)]))

        _run_at_once([partial(add, name) for name in "abcdef"])
        assert len(given_ids) == 30
        assert set(given_ids) == {job.id for job in records.jobs()}
        assert len(records.jobs()) == 5

    def test_a_saved_job_replaces_the_kept_one(self, records: Records) -> None:
        records.add_jobs([_job(1), _job(2)])
        later = _job(1, state="running", done_ns=5, bars=60, attempts=1, error="timeout", updated_ns=_NOW)
        assert records.save_job(later)
        assert records.job("job-1") == later
        assert records.job("job-2") == _job(2)
        assert records.save_job(_job(1))
        assert records.job("job-1") == _job(1)
        with pytest.raises(InvalidInput) as refused:
            records.save_job(_job(3))
        assert refused.value.field == "id"
        assert records.job("job-3") is None

    def test_a_cancelled_job_stays_cancelled(self, records: Records) -> None:
        records.add_jobs([_job(1)])
        cancelled = _job(1, state="cancelled", updated_ns=5)
        assert records.save_job(cancelled)
        for state in ("queued", "running", "done", "parked"):
            assert not records.save_job(_job(1, state=state, bars=9))
        assert records.job("job-1") == cancelled
        assert records.save_job(_job(1, state="cancelled", bars=9))
        assert records.job("job-1") == _job(1, state="cancelled", bars=9)
        assert records.take_jobs("T0", _NOW, 9) == ()
        assert records.requeue_running(_NOW) == 0

    def test_a_job_that_is_done_cannot_be_cancelled(self, records: Records) -> None:
        records.add_jobs([_job(1), _job(2)])
        records.save_job(_job(1, state="done", bars=60))
        assert not records.save_job(_job(1, state="cancelled"))
        assert records.job("job-1") == _job(1, state="done", bars=60)
        records.save_job(_job(2, state="parked", error="poison"))
        assert records.save_job(_job(2, state="cancelled", error="poison"))

    def test_whoever_comes_first_worker_or_canceller_both_learn_of_it(self, records: Records) -> None:
        records.add_jobs([_job(n, state="running") for n in range(12)])
        for n in range(12):
            told: dict[str, list[bool]] = {"worker": [], "canceller": []}

            def work(n: int = n, told: dict[str, list[bool]] = told) -> None:
                told["worker"].append(records.save_job(_job(n, state="running", bars=1)))
                told["worker"].append(records.save_job(_job(n, state="done", bars=2)))

            def cancel(n: int = n, told: dict[str, list[bool]] = told) -> None:
                told["canceller"].append(records.save_job(_job(n, state="cancelled")))

            _run_at_once([work, cancel])
            kept = records.job(f"job-{n}")
            assert kept is not None
            if told["canceller"] == [True]:
                assert kept == _job(n, state="cancelled")
                assert told["worker"] in ([False, False], [True, False])
            else:
                assert kept == _job(n, state="done", bars=2)
                assert told["worker"] == [True, True]

    def test_jobs_are_listed_newest_first(self, records: Records) -> None:
        records.add_jobs(
            [
                _job(1, state="done"),
                _job(3),
                _job(2, symbol="MSFT"),
                _job(4, id="tie", created_ns=3 * NS_PER_S, state="parked"),
            ]
        )
        assert [job.id for job in records.jobs()] == ["tie", "job-3", "job-2", "job-1"]
        assert [job.id for job in records.jobs(limit=2)] == ["tie", "job-3"]
        assert [job.id for job in records.jobs(symbol="MSFT")] == ["job-2"]
        assert [job.id for job in records.jobs(states=("queued",))] == ["job-3", "job-2"]
        assert [job.id for job in records.jobs(states=("done", "parked"), symbol="AAPL")] == ["tie", "job-1"]
        assert records.jobs(states=("cancelled",)) == ()
        assert records.jobs(symbol="TSLA") == ()
        for options, field in (({"limit": 0}, "limit"), ({"states": ("over",)}, "states")):
            with pytest.raises(InvalidInput) as refused:
                records.jobs(**options)
            assert refused.value.field == field

    def test_what_a_dead_worker_left_is_queued_again(self, records: Records) -> None:
        records.add_jobs([_job(1), _job(2), _job(3), _job(4, state="done")])
        taken = records.take_jobs("T0", _NOW, 2)
        records.save_job(msgspec.structs.replace(taken[1], updated_ns=_NOW + 50, done_ns=9, bars=3))
        assert records.requeue_running(_NOW) == 0
        assert records.requeue_running(_NOW + 1) == 1
        assert records.job("job-1") == _job(1, updated_ns=_NOW)
        assert records.job("job-2") == _job(2, state="running", updated_ns=_NOW + 50, done_ns=9, bars=3)
        assert records.requeue_running(_NOW + 51) == 1
        assert [job.id for job in records.take_jobs("T0", _NOW, 9)] == ["job-1", "job-2", "job-3"]
        job = records.job("job-2")
        assert job is not None
        assert (job.done_ns, job.bars) == (9, 3)

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"id": ""}, "id"),
            ({"symbol": ""}, "symbol"),
            ({"provider": ""}, "provider"),
            ({"interval": "1y"}, "interval"),
            ({"tier": "T9"}, "tier"),
            ({"state": "over"}, "state"),
            ({"end_ns": 0}, "end_ns"),
        ],
    )
    def test_a_job_that_means_nothing_is_refused_with_its_batch(
        self, records: Records, changed: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            records.add_jobs([_job(1), _job(2, **changed)])
        assert refused.value.field == field
        assert records.jobs() == ()

    # --- actions -----------------------------------------------------------------------------------------------

    def test_actions_come_back_as_they_were(self, records: Records) -> None:
        actions = [
            _split(),
            _split(provider="yahoo", ratio=0.125),
            _split(kind="dividend", ratio=None, amount=0.47, currency="USD", ex_ns=parse_ns("2014-08-07")),
            _split(kind="rename", ratio=None, new_symbol="APPL", ex_ns=parse_ns("2014-01-02")),
            _split(kind="dividend", ratio=None, amount=3.05),
        ]
        other = _split(symbol="KO", ratio=2.0)
        assert records.add_actions([]) == 0
        assert records.add_actions([*actions, other]) == 6
        assert records.actions("AAPL") == (actions[3], actions[4], actions[0], actions[1], actions[2])
        assert records.actions("KO") == (other,)
        assert records.actions("MSFT") == ()

    def test_an_action_is_known_from_when_we_learned_it(self, records: Records) -> None:
        first, second = _split(ratio=6.0), _split(10, ratio=7.0)
        gone, back = _split(20, ratio=7.0, withdrawn=True), _split(30, ratio=7.0)
        for version in (first, second, gone, back):
            assert records.add_actions([version]) == 1
        assert records.actions("AAPL") == (back,)
        assert records.actions("AAPL", as_of_ns=first.as_of_ns - 1) == ()
        assert records.actions("AAPL", as_of_ns=first.as_of_ns) == (first,)
        assert records.actions("AAPL", as_of_ns=gone.as_of_ns - 1) == (second,)
        assert records.actions("AAPL", as_of_ns=gone.as_of_ns) == ()
        assert records.actions("AAPL", as_of_ns=back.as_of_ns - 1) == ()

    @pytest.mark.parametrize(
        "change", [{"ratio": 2.0}, {"ratio": None}, {"amount": 1.0}, {"currency": "USD"}, {"new_symbol": "A"}], ids=str
    )
    def test_each_value_of_an_action_that_changes_makes_a_version(
        self, records: Records, change: dict[str, Any]
    ) -> None:
        assert records.add_actions([_split()]) == 1
        assert records.add_actions([_split(5)]) == 0
        assert records.actions("AAPL") == (_split(),)
        assert records.add_actions([_split(5, **change)]) == 1
        assert records.actions("AAPL") == (_split(5, **change),)

    def test_versions_of_an_action_follow_their_time_in_any_order(self, records: Records) -> None:
        versions = [_split(n, ratio=2.0 + n) for n in range(4)]
        assert records.add_actions([versions[n] for n in (2, 0, 3, 1)]) == 4
        assert records.add_actions(versions) == 0
        for version in versions:
            assert records.add_actions([version]) == 0
            assert records.actions("AAPL", as_of_ns=version.as_of_ns) == (version,)
        assert records.add_actions([_split(1, ratio=9.0)]) == 1
        assert records.actions("AAPL") == (_split(4, ratio=9.0),)

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"symbol": ""}, "symbol"),
            ({"provider": ""}, "provider"),
            ({"kind": "merger"}, "kind"),
            ({"ratio": float("nan")}, "ratio"),
            ({"amount": float("inf")}, "amount"),
            ({"ex_ns": 2**63}, "ex_ns"),
            ({"as_of_ns": 2**63 - 1}, "as_of_ns"),
        ],
    )
    def test_an_action_that_means_nothing_is_refused_with_its_batch(
        self, records: Records, changed: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            records.add_actions([_split(), _split(**({"ex_ns": 5} | changed))])
        assert refused.value.field == field
        assert records.actions("AAPL") == ()

    # --- observations ------------------------------------------------------------------------------------------

    def test_there_are_no_observations_at_first(self, records: Records) -> None:
        assert records.observations("VIX", 0, _FOREVER).equals(observation_table([]))
        assert records.series() == ()
        assert records.add_observations(observation_table([])) == 0

    def test_observations_come_back_as_they_were_by_time(self, records: Records) -> None:
        rows: list[tuple[str, int, float | None, str, int]] = [
            ("WTI", parse_ns("1928-01-03"), 0.1 + 0.2, "eia", _NOW),
            ("WTI", 5, -36.98, "eia", _NOW + 1),
            ("WTI", 5, 1e300, "yahoo", _NOW + 2),
            ("WTI", 6, 0.0, "eia", _NOW + 123_456_789),
        ]
        other = ("Ä", 5, 1.0, "eia", _NOW)
        shuffled = [other, rows[2], rows[0], rows[3], rows[1]]
        assert records.add_observations(observation_table(shuffled)) == 5
        answer = records.observations("WTI", -(2**63), _FOREVER)
        assert answer.schema.equals(OBSERVATION_SCHEMA)
        assert answer.equals(observation_table(rows))
        assert records.observations("WTI", 5, 6).equals(observation_table(rows[1:3]))
        assert records.observations("WTI", 6, 7).equals(observation_table(rows[3:]))
        assert records.observations("WTI", 7, 6).equals(observation_table([]))
        assert records.observations("WTI", 0, _FOREVER, provider="yahoo").equals(observation_table(rows[2:3]))
        assert records.observations("WTI", 0, _FOREVER, provider="bls").equals(observation_table([]))
        assert records.series() == ("WTI", "Ä")

    def test_a_series_is_given_as_it_was_known(self, records: Records) -> None:
        first, revised = ("CPI", 1, 100.0, "bls", 10), ("CPI", 1, 101.0, "bls", 20)
        gone, back = ("CPI", 1, None, "bls", 30), ("CPI", 1, 101.0, "bls", 40)
        for row in (first, revised, gone, back):
            assert records.add_observations(observation_table([row])) == 1
        for as_of, known in ((9, []), (10, [first]), (19, [first]), (20, [revised]), (30, []), (39, []), (40, [back])):
            assert records.observations("CPI", 0, 9, as_of_ns=as_of).equals(observation_table(known))
        assert records.observations("CPI", 0, 9).equals(observation_table([back]))
        assert records.series() == ("CPI",)

    def test_a_repeated_change_log_changes_nothing(self, records: Records) -> None:
        log = observation_table(
            [("CPI", 1, 100.0, "bls", 10), ("CPI", 1, None, "bls", 20), ("CPI", 1, 100.0, "bls", 30)]
        )
        assert records.add_observations(log) == 3
        assert records.add_observations(log) == 0
        for row in range(3):
            assert records.add_observations(log.slice(row, 1)) == 0
        assert records.observations("CPI", 0, 9).equals(observation_table([("CPI", 1, 100.0, "bls", 30)]))

    def test_an_identical_value_keeps_its_first_as_of(self, records: Records) -> None:
        row = ("VIX", 1, 18.22, "cboe", 10)
        assert records.add_observations(observation_table([row, ("VIX", 1, 18.22, "cboe", 15)])) == 1
        assert records.add_observations(observation_table([("VIX", 1, 18.22, "cboe", 99)])) == 0
        assert records.observations("VIX", 0, 9).equals(observation_table([row]))

    def test_a_change_that_seems_older_is_kept_after_the_last_version_of_it(self, records: Records) -> None:
        records.add_observations(observation_table([("VIX", 1, 1.0, "cboe", 10)]))
        assert records.add_observations(observation_table([("VIX", 1, 2.0, "cboe", 4)])) == 1
        assert records.observations("VIX", 0, 9).equals(observation_table([("VIX", 1, 2.0, "cboe", 11)]))
        same = observation_table(
            [("VIX", 1, 3.0, "cboe", 20), ("VIX", 1, 4.0, "cboe", 20), ("VIX", 1, 5.0, "cboe", 20)]
        )
        assert records.add_observations(same) == 3
        assert records.observations("VIX", 0, 9, as_of_ns=20).column("value").to_pylist() == [3.0]
        assert records.observations("VIX", 0, 9).equals(observation_table([("VIX", 1, 5.0, "cboe", 22)]))

    def test_a_withdrawal_of_what_was_never_told_is_a_version(self, records: Records) -> None:
        gone = observation_table([("CPI", 1, None, "bls", 10)])
        assert records.add_observations(gone) == 1
        assert records.add_observations(gone) == 0
        assert records.observations("CPI", 0, 9).equals(observation_table([]))
        assert records.series() == ("CPI",)

    def test_zero_has_no_sign(self, records: Records) -> None:
        assert records.add_observations(observation_table([("R", 1, -0.0, "bls", 10)])) == 1
        assert records.add_observations(observation_table([("R", 1, 0.0, "bls", 20)])) == 0
        assert str(records.observations("R", 0, 9).column("value").to_pylist()) == "[0.0]"

    def test_observations_in_other_columns_and_encodings(self, records: Records) -> None:
        table = observation_table([("VIX", 1, 18.22, "cboe", 10)])
        encoded = table.set_column(0, "series", table.column("series").dictionary_encode())
        assert records.add_observations(encoded.select(table.column_names[::-1])) == 1
        assert records.observations("VIX", 0, 9).equals(table)
        with pytest.raises(InvalidInput, match="missing: provider"):
            records.add_observations(table.drop_columns(["provider"]))
        with pytest.raises(InvalidInput, match="observations: "):
            records.add_observations(table.set_column(2, "value", pa.array(["much"])))
        with pytest.raises(InvalidInput, match="as_of: None is not allowed"):
            records.add_observations(table.set_column(4, "as_of", pa.array([None], pa.timestamp("ns", "UTC"))))

    @pytest.mark.parametrize(
        ("row", "field"),
        [
            (("", 1, 1.0, "cboe", 10), "series"),
            (("VIX", 1, 1.0, "", 10), "provider"),
            (("VIX", 1, float("nan"), "cboe", 10), "value"),
            (("VIX", 1, float("-inf"), "cboe", 10), "value"),
            (("VIX", 1, 1.0, "cboe", 2**63 - 1), "as_of_ns"),
        ],
    )
    def test_an_observation_that_means_nothing_is_refused_with_its_batch(
        self, records: Records, row: Any, field: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            records.add_observations(observation_table([("VIX", 2, 1.0, "cboe", 10), row]))
        assert refused.value.field == field
        assert records.series() == ()

    @_SHARED_ENGINE
    @given(
        batches=st.lists(
            st.lists(
                st.tuples(
                    st.integers(0, 2),
                    st.sampled_from([None, 1.0, 2.0]),
                    st.sampled_from(["bls", "fred"]),
                    st.integers(0, 6),
                ),
                max_size=8,
            ),
            max_size=5,
        )
    )
    def test_observations_are_what_a_dictionary_of_versions_tells(
        self, records: Records, batches: list[list[Any]]
    ) -> None:
        series = f"example-{next(_examples)}"
        kept: dict[tuple[int, str], list[tuple[int, float | None]]] = {}
        for batch in [*batches, *batches[-1:]]:
            new = 0
            for ts, value, provider, as_of in sorted(batch, key=lambda row: int(row[3])):
                versions = kept.setdefault((ts, provider), [])
                in_force = [v for v in versions if v[0] <= as_of]
                if any(v[1] == value for v in (*versions[-1:], *in_force[-1:])):
                    continue
                versions.append((max(as_of, versions[-1][0] + 1) if versions else as_of, value))
                new += 1
            rows = [(series, ts, value, provider, as_of) for ts, value, provider, as_of in batch]
            assert records.add_observations(observation_table(rows)) == new
            for as_of in (None, *range(-1, 12)):
                expected: list[tuple[str, int, float | None, str, int]] = []
                for (ts, provider), versions in sorted(kept.items()):
                    known = [v for v in versions if as_of is None or v[0] <= as_of][-1:]
                    expected += [(series, ts, v[1], provider, v[0]) for v in known if v[1] is not None]
                answer = records.observations(series, 0, 3, as_of_ns=as_of)
                assert answer.equals(observation_table(expected))

    # --- all of it ---------------------------------------------------------------------------------------------

    def test_a_time_beyond_64_bits_is_refused(self, records: Records) -> None:
        for ask in (
            lambda: records.universe(as_of_ns=2**63),
            lambda: records.spans("1m", 0, 1, as_of_ns=2**63),
            lambda: records.actions("AAPL", as_of_ns=-(2**64)),
            lambda: records.observations("VIX", 0, 1, as_of_ns=2**63),
        ):
            with pytest.raises(InvalidInput) as refused:
                ask()
            assert refused.value.field == "as_of_ns"

    def test_names_of_any_alphabet_are_kept_and_sorted_by_code_point(self, records: Records) -> None:
        names = ["a", "B", "Ä", "^GSPC", "EUR/USD", "日経", "'; DROP TABLE x; --", "%_", "z" * 200]
        records.add_observations(observation_table([(name, 1, 1.0, name, 1) for name in names]))
        records.set_cursors([Cursor(symbol=n, interval="1m", provider="sim", until_ns=1, updated_ns=1) for n in names])
        records.save_universe([Instrument(id=n, symbol=n) for n in names], source="", as_of_ns=1)
        ordered = ["%_", "'; DROP TABLE x; --", "B", "EUR/USD", "^GSPC", "a", "z" * 200, "Ä", "日経"]
        assert records.series() == tuple(ordered)
        assert [cursor.symbol for cursor in records.cursors("1m")] == ordered
        assert [instrument.symbol for instrument in records.universe()] == ordered
        assert records.observations("日経", 0, 9).column("provider").to_pylist() == ["日経"]

    def test_threads_write_and_read_at_once(self, records: Records) -> None:
        def write(number: int) -> None:
            for n in range(8):
                records.add_observations(
                    observation_table([(f"S{number}", n, float(n), "sim", 1), ("ALL", n, 1.0, "sim", 1)])
                )
                records.note_spans([_span(n, n + 1, symbol=f"S{number}")])
                records.set_cursors(
                    [Cursor(symbol=f"S{number}", interval="1m", provider="sim", until_ns=n, updated_ns=n)]
                )

        def read() -> None:
            seen = 0
            while seen < 8:
                values = records.observations("S0", 0, 9).column("value").to_pylist()
                assert values == [float(n) for n in range(len(values))]
                assert len(values) >= seen
                seen = len(values)

        _run_at_once([*(partial(write, n) for n in range(4)), read, read])
        assert records.observations("ALL", 0, 9).num_rows == 8
        for n in range(4):
            assert records.observations(f"S{n}", 0, 9).num_rows == 8
            assert _spans(records, symbol=f"S{n}") == (_span(0, 8, symbol=f"S{n}"),)

    def test_closed_records_say_so(self, records: Records) -> None:
        records.add_jobs([_job(1)])
        records.close()
        records.close()
        calls: list[Callable[[], Any]] = [
            lambda: records.save_universe([_AAPL], source="a", as_of_ns=1),
            records.universe,
            records.universe_versions,
            lambda: records.note_spans([_span(1, 2)]),
            lambda: _spans(records),
            lambda: records.set_cursors([Cursor(symbol="A", interval="1m", provider="p", until_ns=1, updated_ns=1)]),
            lambda: records.cursor("A", "1m", "p"),
            lambda: records.cursors("1m"),
            lambda: records.add_jobs([_job(2)]),
            lambda: records.take_jobs("T0", _NOW, 1),
            lambda: records.save_job(_job(1)),
            lambda: records.job("job-1"),
            records.jobs,
            lambda: records.requeue_running(_NOW),
            lambda: records.add_actions([_split()]),
            lambda: records.actions("AAPL"),
            lambda: records.add_observations(observation_table([("VIX", 1, 1.0, "cboe", 1)])),
            lambda: records.observations("VIX", 0, 1),
            records.series,
        ]
        for call in calls:
            with pytest.raises(StoreError, match="closed"):
                call()
