"""What FRED says and what it becomes; payloads typed from its documentation."""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import MalformedMessage
from marketd.sources.fred.parse import (
    ObservationsPage,
    Periods,
    VintageDatesPage,
    error_text,
    joined,
    parse_days,
    parse_periods,
)

OBSERVATIONS = b"""{"realtime_start":"2026-04-28","realtime_end":"9999-12-31","observation_start":"1600-01-01",
"observation_end":"9999-12-31","units":"lin","output_type":1,"file_type":"json","order_by":"observation_date",
"sort_order":"asc","count":3,"offset":0,"limit":100000,"observations":[
{"realtime_start":"2026-04-22","realtime_end":"9999-12-31","date":"2026-04-21","value":"2.34"},
{"realtime_start":"2026-04-23","realtime_end":"2026-04-27","date":"2026-04-22","value":"."},
{"realtime_start":"2026-04-28","realtime_end":"9999-12-31","date":"2026-04-22","value":"-36.98"}]}"""


def days(*texts):
    return np.array(texts, "datetime64[D]").astype(np.int64)


def periods(*rows):
    """Rows of (date, realtime_start, realtime_end, value)."""
    day, start, end, value = zip(*rows, strict=True)
    return Periods(days(*day), days(*start), days(*end), np.array(value, float))


def told(versions):
    stamps = (column.astype("datetime64[D]").astype(str).tolist() for column in (versions.day, versions.known))
    values = [None if np.isnan(value) else value for value in versions.value.tolist()]
    return list(zip(*stamps, values, strict=True))


def test_the_documented_answer():
    page = msgspec.json.decode(OBSERVATIONS, type=ObservationsPage)
    assert page.count == 3
    got = parse_periods(page.observations)
    assert got.day.tolist() == days("2026-04-21", "2026-04-22", "2026-04-22").tolist()
    assert got.start.tolist() == days("2026-04-22", "2026-04-23", "2026-04-28").tolist()
    assert got.end.tolist() == days("9999-12-31", "2026-04-27", "9999-12-31").tolist()
    assert got.value.tolist()[::2] == [2.34, -36.98]
    assert np.isnan(got.value[1])
    assert told(joined([got])) == [
        ("2026-04-21", "2026-04-22", 2.34),
        ("2026-04-22", "2026-04-23", None),
        ("2026-04-22", "2026-04-28", -36.98),
    ]


def test_vintage_dates():
    page = msgspec.json.decode(b'{"count":2,"vintage_dates":["1927-11-29","1970-01-02"]}', type=VintageDatesPage)
    assert parse_days(page.vintage_dates).tolist() == [-15_374, 1]


def test_what_a_refusal_says():
    body = b'{"error_code":400,"error_message":"Bad Request.  The series does not exist."}'
    assert error_text(body) == "Bad Request.  The series does not exist."
    assert error_text(b"<html>") is None
    assert error_text(b"[]") is None


GOOD = {"realtime_start": "2020-01-02", "realtime_end": "2020-01-03", "date": "2020-01-01", "value": "1.5"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": None},
        {"value": ""},
        {"value": "nan"},
        {"value": "inf"},
        {"value": "1e999"},
        {"value": "1,5"},
        {"value": 1.5},
        {"value": "0x10"},
        {"value": ".."},
        {"date": "2020-13-01"},
        {"date": "2020-01-01T00:00:00"},
        {"date": "9999-12-31"},
        {"date": "1492-10-12"},
        {"date": None},
        {"realtime_start": ""},
        {"realtime_start": "9999-12-31"},
        {"realtime_end": "2020-01-01"},
        {"realtime_end": "9998-12-31"},
    ],
)
def test_rows_that_are_not_as_documented(wrong):
    with pytest.raises(MalformedMessage):
        parse_periods([GOOD, {**GOOD, **wrong}])
    with pytest.raises(MalformedMessage):
        parse_periods([{name: value for name, value in GOOD.items() if name not in wrong}])
    assert len(parse_periods([GOOD]).day) == 1


def test_values_that_touch_are_one_version():
    first = periods(("2020-01-01", "2020-02-01", "2020-02-29", 1.0), ("2020-01-02", "2020-02-10", "2020-02-29", 2.0))
    second = periods(
        ("2020-01-01", "2020-03-01", "9999-12-31", 1.0),
        ("2020-01-02", "2020-03-01", "2020-03-09", 2.5),
        ("2020-01-02", "2020-03-10", "9999-12-31", 2.0),
    )
    assert told(joined([first, second])) == [
        ("2020-01-01", "2020-02-01", 1.0),
        ("2020-01-02", "2020-02-10", 2.0),
        ("2020-01-02", "2020-03-01", 2.5),
        ("2020-01-02", "2020-03-10", 2.0),
    ]


def test_a_period_that_ends_with_nothing_after_it_is_a_withdrawal():
    rows = periods(("2020-01-01", "2020-02-01", "2020-02-10", 1.0), ("2020-01-01", "2020-02-20", "2020-02-25", 1.0))
    assert told(joined([rows])) == [
        ("2020-01-01", "2020-02-01", 1.0),
        ("2020-01-01", "2020-02-11", None),
        ("2020-01-01", "2020-02-20", 1.0),
        ("2020-01-01", "2020-02-26", None),
    ]


def test_two_values_at_once_are_refused_and_a_row_told_twice_is_not():
    one = ("2020-01-01", "2020-02-01", "9999-12-31", 1.0)
    assert told(joined([periods(one, one)])) == [("2020-01-01", "2020-02-01", 1.0)]
    with pytest.raises(MalformedMessage, match="two values"):
        joined([periods(one, (*one[:3], 2.0))])
    assert told(joined([])) == []


histories = st.dictionaries(
    st.integers(0, 5),
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([1.0, 2.0, None, "gone"])), max_size=6, unique_by=lambda t: t[0]
    ),
    max_size=4,
)


@given(history=histories, cuts=st.sets(st.integers(2, 12), max_size=5))
def test_any_cut_into_windows_gives_the_same_versions(history, cuts):
    """history: by observation, from which vintage which value; `gone` until the next."""
    expected = []
    for day, changes in sorted(history.items()):
        told_before = []
        for known, value in sorted(changes, key=lambda change: change[0]):
            seen = None if value == "gone" else value
            if (told_before or value != "gone") and told_before[-1:] != [seen]:
                told_before.append(seen)
                expected.append((day, known, seen))
    bounds = [1, *sorted(cuts), 13]
    open_end = int(days("9999-12-31")[0])
    windows = []
    for low, high in itertools.pairwise(bounds):
        rows = []
        for day, changes in history.items():
            ordered = sorted(changes, key=lambda change: change[0])
            for place, (known, value) in enumerate(ordered):
                ends = ordered[place + 1][0] - 1 if place + 1 < len(ordered) else open_end
                last = open_end if high == 13 else high - 1
                if value != "gone" and known <= last and ends >= low:
                    rows.append((day, max(known, low), min(ends, last), np.nan if value is None else value))
        columns = np.array(rows, float).reshape(-1, 4).T
        windows.append(Periods(*(column.astype(np.int64) for column in columns[:3]), columns[3]))
    got = joined(windows)
    values = [None if np.isnan(value) else value for value in got.value.tolist()]
    assert list(zip(got.day.tolist(), got.known.tolist(), values, strict=True)) == expected


texts = st.one_of(
    st.none(), st.text(max_size=12), st.sampled_from(["2020-01-01", "9999-12-31", "1.5", "."]), st.integers()
)
rows = st.lists(
    st.one_of(
        st.fixed_dictionaries(dict.fromkeys(("realtime_start", "realtime_end", "date", "value"), texts)),
        st.dictionaries(st.text(max_size=5), texts, max_size=3),
    ),
    max_size=4,
)


@given(rows)
def test_rows_of_anything_are_read_or_refused(anything):
    with contextlib.suppress(MalformedMessage):
        assert len(parse_periods(anything).day) == len(anything)


@given(st.lists(texts, max_size=4))
def test_dates_of_anything_are_read_or_refused(anything):
    with contextlib.suppress(MalformedMessage):
        assert len(parse_days(anything)) == len(anything)


@given(st.binary(max_size=60))
def test_refusals_of_anything_are_read_or_not(anything):
    assert error_text(anything) is None or isinstance(error_text(anything), str)
