"""Times against datetime (to the second) and numpy datetime64 (to the nanosecond), which know nothing of us."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.model import format_ns, parse_ns

INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
"""All that numpy's datetime64[ns] can say: years 1677 to 2262. The lowest number is its NaT."""


def numpy_text(time_ns: int) -> str:
    return str(np.datetime64(time_ns, "ns"))


@given(INT64)
def test_a_formatted_time_is_numpys_without_the_zeros_that_say_nothing(time_ns: int) -> None:
    text = format_ns(time_ns)
    whole, _, fraction = numpy_text(time_ns).partition(".")
    assert text[:19] == whole
    assert text[-1] == "Z"
    shown = text[19:-1].removeprefix(".")
    assert len(shown) in {0, 3, 6, 9}
    assert shown.ljust(9, "0") == fraction
    assert not shown or shown[-3:] != "000"


@given(INT64)
def test_what_numpy_writes_is_read_to_the_nanosecond(time_ns: int) -> None:
    assert parse_ns(numpy_text(time_ns) + "Z") == time_ns
    assert parse_ns(numpy_text(time_ns), naive_is_utc=True) == time_ns


@given(st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1))
def test_formatting_and_parsing_undo_each_other_from_year_1_to_9999(time_ns: int) -> None:
    text = format_ns(time_ns)
    assert parse_ns(text) == time_ns
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    assert text[:19] == moment.isoformat()[:19]


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001 - the offset is what is tested
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.sampled_from("Tt "),
    st.booleans(),
)
def test_an_offset_is_taken_off(local: datetime, offset_minutes: int, separator: str, colon: bool) -> None:
    sign, minutes = "+-"[offset_minutes < 0], abs(offset_minutes)
    zone = f"{sign}{minutes // 60:02d}{':' if colon else ''}{minutes % 60:02d}"
    text = f"{local.year:04d}-{local:%m-%d}{separator}{local:%H:%M:%S}.{local.microsecond:06d}{zone}"
    expected = local.replace(tzinfo=UTC) - timedelta(minutes=offset_minutes) - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_ns(text) == expected // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_000, "1970-01-01T00:00:00.000001Z"),
        (100_000_000, "1970-01-01T00:00:00.100Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
        (1_795_185_000_125_000_000, "2026-11-20T14:30:00.125Z"),
        (-62_135_596_800_000_000_000, "0001-01-01T00:00:00Z"),
        (-30_610_224_000_000_000_000, "1000-01-01T00:00:00Z"),
    ],
)
def test_known_times(time_ns: int, text: str) -> None:
    assert format_ns(time_ns) == text
    assert parse_ns(text) == time_ns


def test_more_seconds_than_are_remembered_stay_right() -> None:
    for second in range(0, 6_000 * 86_400, 86_400):
        assert format_ns(second * 10**9) == numpy_text(second * 10**9)[:19] + "Z"
    assert format_ns(0) == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20", "2026-11-20T00:00:00"),
        (" 2026-11-20T14:30Z\n", "2026-11-20T14:30:00"),
        ("2026-11-20t14:30:00z", "2026-11-20T14:30:00"),
        ("2026-11-20T14:30:00.1Z", "2026-11-20T14:30:00.1"),
        ("2026-11-20T00:15:00+05:45", "2026-11-19T18:30:00"),
        ("2026-11-20T14:30:00-00:00", "2026-11-20T14:30:00"),
    ],
)
def test_accepted_spellings(text: str, expected: str) -> None:
    assert parse_ns(text) == int(np.datetime64(expected, "ns").astype(np.int64))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1795185000",
        "2026-11-20T14",
        "2026-11-20T14:30:00.Z",
        "2026-11-20T14:30:00,5Z",
        "2026-11-20T14:30:00.1234567890Z",
        "2026-11-20T14:30:00+24:00",
        "2026-11-20T14:30:00+00:60",
        "2026-11-20T14:30:00+5:00",
        "2026-11-20T24:00:00Z",
        "2026-11-20T23:59:60Z",
        "2026-02-29",
        "2026-13-01",
        "0000-01-01",
        "+2026-11-20",
        "26-11-20",
        "2026-11-20Z",
        "2026-11-20T14:30:00Z2026-11-20T14:30:00Z",
        "２０２６-11-20",  # digits that are not ASCII's
        "2026-11-20T14:30:0٠Z",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_ns(text)


def test_a_time_without_offset_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(ValueError, match=r"'2026-11-20T14:30:00' has no UTC offset; write 2026-11-20T14:30:00Z"):
        parse_ns("2026-11-20T14:30:00")
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_ns("yesterday", naive_is_utc=True)
