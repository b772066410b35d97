"""What holds for any file: a time is never shifted, a number never changed, and nothing but InvalidInput is raised."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from files_of_bars import Read
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from marketd.errors import InvalidInput
from marketd.sources.files import FileOptions
from marketd.sources.files.numbers import NumberStyle, numbers
from marketd.sources.files.stamps import custom_form, epoch_parts, text_stamps, zone_table

ZONES = ("UTC", "America/New_York", "Europe/London", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

moments = st.datetimes(datetime.fromisoformat("1905-01-01"), datetime.fromisoformat("2095-01-01"))

recent = st.datetimes(datetime.fromisoformat("1990-01-01"), datetime.fromisoformat("2030-01-01"))


def ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1_000


@SETTINGS
@given(st.lists(moments, min_size=1, max_size=50), st.sampled_from(ZONES))
@example([datetime.fromisoformat("2020-11-01T01:30"), datetime.fromisoformat("2020-03-08T02:30")], "America/New_York")
def test_wall_times_become_what_the_zone_data_say(walls: list[datetime], name: str) -> None:
    zone, table = ZoneInfo(name), zone_table(name)
    ours = np.array([ns(wall.replace(tzinfo=UTC)) for wall in walls])
    first, last, change, skipped = table.moments(ours)
    for n, wall in enumerate(walls):
        early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        there = early.astimezone(zone).replace(tzinfo=None) == wall
        assert skipped[n] == (not there)
        if there:
            assert (first[n], last[n]) == (ns(early), ns(late))
            assert (change[n] > 0) == (early != late)


@SETTINGS
@given(st.lists(moments, min_size=1, max_size=50), st.sampled_from(ZONES))
def test_what_the_clock_on_the_wall_shows(moments: list[datetime], name: str) -> None:
    shown = zone_table(name).wall(np.array([ns(moment.replace(tzinfo=UTC)) for moment in moments]))
    zone = ZoneInfo(name)
    expected = [moment.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=UTC) for moment in moments]
    assert shown.tolist() == [ns(moment) for moment in expected]


FORMATS = (
    "%Y-%m-%d %H:%M:%S.%f", "%d/%m/%Y %H:%M:%S.%f", "%m/%d/%Y %I:%M:%S.%f %p", "%d %b %Y %H:%M:%S.%f",
    "%B %d, %Y %H:%M:%S.%f", "%Y%m%d%H%M%S.%f", "%a %d-%b-%Y %H:%M:%S.%f",
)  # fmt: skip


@SETTINGS
@given(st.lists(moments, min_size=1, max_size=50), st.sampled_from(FORMATS))
def test_formats_read_back_what_strftime_wrote(walls: list[datetime], form: str) -> None:
    texts = [wall.strftime(form) for wall in walls]
    found = text_stamps(pa.array(texts), custom_form(form))
    assert found.ok.all()
    assert found.ns.tolist() == [ns(wall.replace(tzinfo=UTC)) for wall in walls]


@SETTINGS
@given(
    st.lists(st.text("0123456789/-: .APMapmTZ+", max_size=24), min_size=1, max_size=30), st.sampled_from(FORMATS[:6])
)
def test_what_strptime_refuses_is_refused(texts: list[str], form: str) -> None:
    found = text_stamps(pa.array(texts), custom_form(form))
    for n, text in enumerate(texts):
        if found.ok[n] and found.ns[n] % 1_000 == 0 and "24:00" not in text:
            assert found.ns[n] == ns(datetime.strptime(text, form).replace(tzinfo=UTC))


@SETTINGS
@given(st.lists(st.integers(-(10**19), 10**19), min_size=1, max_size=30), st.sampled_from(["s", "ms", "us", "ns"]))
def test_whole_numbers_are_read_exactly_or_not_at_all(values: list[int], unit: str) -> None:
    whole, part, ok = epoch_parts(pa.array([str(value) for value in values]), unit)
    for n, value in enumerate(values):
        assert ok[n] == (abs(value) < 2**63)
        if ok[n]:
            assert (whole[n], part[n]) == (value, 0)


@SETTINGS
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_numbers_are_the_nearest_doubles(values: list[float]) -> None:
    found, absent, bad = numbers(pa.array([repr(value) for value in values]))
    assert (found.tolist(), absent.any(), bad.any()) == (values, False, False)


@SETTINGS
@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=50), st.sampled_from([".", ","]))
def test_grouped_numbers_are_read_as_python_writes_them(cents: list[int], decimal: str) -> None:
    other = "," if decimal == "." else "."
    table = str.maketrans({",": other, ".": decimal})
    texts = [f"{value / 100:,.2f}".translate(table) for value in cents]
    found, absent, bad = numbers(pa.array(texts), NumberStyle(decimal=decimal, thousands=other))
    assert (found.tolist(), absent.any(), bad.any()) == ([float(f"{v / 100:.2f}") for v in cents], False, False)


@SETTINGS
@given(st.lists(st.text("0123456789.,eE+-$% KMBx", max_size=10), min_size=1, max_size=50))
def test_no_text_becomes_a_number_that_python_reads_otherwise(texts: list[str]) -> None:
    found, absent, bad = numbers(pa.array(texts))
    for text, value, gone, wrong in zip(texts, found.tolist(), absent.tolist(), bad.tolist(), strict=True):
        if gone or wrong or set(text) & set("$KMB"):
            continue
        assert value == float(text)


def options(draw: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, values in (
        ("timezone", ZONES), ("interval", ("1m", "1d", "1w")), ("stamp", ("start", "end")), ("delimiter", (",", ";")),
        ("date_format", ("DD/MM/YYYY", "s", "ms", "%Y-%m-%d")), ("symbol", ("X",)), ("decimal", (".", ",")),
    ):  # fmt: skip
        value = draw(st.sampled_from((None, *values)))
        if value is not None:
            chosen[name] = value
    return chosen


pieces = st.sampled_from(
    ["ts", "date", "time", "open", "high", "low", "close", "volume", "symbol", "interval", "1", "2.5", "-3", "1,5", "x",
     "2020-01-02", "2020-01-02T09:30:00Z", "1/2/2020", "13/1/2020 9:30 AM", "1577975400", "1577975400000", "09:30",
     "930", '"', "'", "\u00e9", "\x00", "nan", "inf", "1e400", "9" * 20, "", " ", "{", '{"t":1,"o":1}']
)  # fmt: skip
soup = st.lists(st.lists(pieces, max_size=8), max_size=12)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_text_is_read_or_refused_in_words(data: st.DataObject) -> None:
    separator = data.draw(st.sampled_from([",", ";", "\t", " "]))
    if data.draw(st.booleans()):
        text = "\n".join(separator.join(row) for row in data.draw(soup)).encode(errors="replace")
        text = b"ts,open,high,low,close\n".replace(b",", separator.encode()) * data.draw(st.integers(0, 1)) + text
    else:
        text = data.draw(st.binary(max_size=400))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / data.draw(st.sampled_from(["AAPL.csv", "AAPL.jsonl", "AAPL.csv.gz", "AAPL.parquet"]))
        path.write_bytes(text)
        try:
            found = Read(str(path), **options(data.draw))
        except InvalidInput:
            return
    assert found.rows == found.table.num_rows + sum(found.refused.values())
    for name in ("open", "high", "low", "close"):
        assert np.isfinite(found.table.column(name).to_numpy()).all()


def written(walls: list[datetime], form: str, offset: str) -> list[str]:
    return [wall.strftime(form) + offset for wall in walls]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.data(),
    st.sampled_from(["America/New_York", "Europe/London", "Asia/Kolkata"]),
    st.sampled_from([60, 300, 3600]),
    st.booleans(),
)
def test_a_damaged_file_gives_some_of_its_bars_and_no_others(
    data: st.DataObject, zone: str, seconds: int, newest_first: bool
) -> None:
    """Each bar's prices are its own number, so that a bar at a wrong time is seen."""
    start = data.draw(recent)
    first = start.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    slots = sorted(data.draw(st.sets(st.integers(0, 200), min_size=8, max_size=60)) | {0, 1, 2})
    times = [first + timedelta(seconds=seconds * slot) for slot in slots]
    local = ZoneInfo(zone)
    form, offset = data.draw(
        st.sampled_from([("%Y-%m-%d %H:%M", ""), ("%d/%m/%Y;%H:%M:%S", ""), ("%Y%m%d %H%M%S", "")])
    )
    if zone == "Asia/Kolkata" and seconds == 3600:
        assume(False)  # half an hour off the grid: refused as a whole
    stamps = written([time.astimezone(local) for time in times], form, offset)
    lines = [f"{stamp};{n + 1};{n + 1};{n + 1};{n + 1}" for n, stamp in enumerate(stamps)]
    expected = {(ns(time), float(n + 1)) for n, time in enumerate(times)}
    if newest_first:
        lines.reverse()
    for at in data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=4)):
        lines[at] = data.draw(
            st.sampled_from(["", "garbage", '"', lines[at] + ";1", lines[at][:10], lines[at] + "x", ";;;;"])
        )
    header = ("date;time" if form.count(";") else "ts") + ";open;high;low;close"
    interval = {60: "1m", 300: "5m", 3600: "1h"}[seconds]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "AAPL.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        try:
            found = Read(str(path), timezone=zone, interval=interval)
        except InvalidInput:  # too little was left to tell day from month
            return
    ours = {(bar["ts"], bar["close"]) for bar in found.bars}
    assert ours <= expected, ours - expected
    assert len(ours) == len(found.bars)


@pytest.mark.parametrize(
    "field", ["interval", "side", "stamp", "decimal", "delimiter", "date_format", "as_of", "symbol"]
)
def test_options_that_cannot_be_are_named(field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        FileOptions(**{field: "" if field == "symbol" else "%Q??"})
