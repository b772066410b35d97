"""The contract's request side over the simulator, and what FRED's vintages become."""

from __future__ import annotations

import asyncio
import csv
import gzip
from contextlib import asynccontextmanager
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from marketd.errors import InvalidInput, NotEntitled, OutOfRange, SourceError, SymbolNotFound, Throttled
from marketd.model import OBSERVATION_SCHEMA, format_ns, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.fred import ENTRY, FredConfig
from marketd.sources.http import HttpConfig
from marketd.sources.reconnect import ReconnectPolicy
from marketd.telemetry import Metrics
from marketd.testing import ManualClock, RequestConformance, RequestHarness
from marketd.testing.providers.fred import GONE, MISSING, FredSimulator

NOW_NS = parse_ns("2026-11-20T18:00:00Z")
QUICK = HttpConfig(
    retry=ReconnectPolicy(delay_first_s=0.0, delay_max_s=0.0),
    retry_after_max_s=0.0,
    requests_per_s=1e6,
    burst=1_000,
    timeout_s=0.5,
    body_max_bytes=500_000,
    attempts=2,
)


def provider_of(simulator, clock, **settings):
    settings = {"http": QUICK, "api_key": simulator.api_key, **settings}
    config = FredConfig(rest_url=simulator.rest_url, **settings)
    return ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics()))


class TestFredRequests(RequestConformance):
    @asynccontextmanager
    async def make(self):
        clock = ManualClock(NOW_NS)
        async with FredSimulator(clock=clock, requests_per_minute=10_000) as simulator:
            simulator.make_up(seed=1)
            provider = provider_of(simulator, clock)
            try:
                yield RequestHarness(
                    provider=provider,
                    symbol="GDPC1",
                    series="GDPC1",
                    misbehaviour=simulator.misbehaviour,
                    clock=clock,
                    secrets=(simulator.api_key,),
                )
            finally:
                await provider.close()


def ask(publish, *series_asks, now_ns=NOW_NS, max_vintages=2_000, simulated=None, **settings):
    """The rows of each question, and the simulator. publish: gets the simulator first."""

    async def main():
        clock = ManualClock(now_ns)
        simulated_as = {"requests_per_minute": 10_000, **(simulated or {})}
        async with FredSimulator(clock=clock, vintages_max=max_vintages, **simulated_as) as simulator:
            publish(simulator)
            provider = provider_of(simulator, clock, **settings)
            try:
                answers = []
                for question in series_asks:
                    wanted = (question,) if isinstance(question, str) else question
                    try:
                        answers.append(rows_of(await provider.macro.observations(*wanted)))
                    except SourceError as error:
                        answers.append(error)
                return answers, simulator
            finally:
                await provider.close()

    return asyncio.run(main())


def rows_of(table):
    assert table.schema.equals(OBSERVATION_SCHEMA)
    columns = (table[name].to_numpy().astype("int64").tolist() for name in ("ts", "as_of"))
    stamps = [(format_ns(ts)[:10], format_ns(as_of)) for ts, as_of in zip(*columns, strict=True)]
    return [(ts, as_of, value) for (ts, as_of), value in zip(stamps, table["value"].to_pylist(), strict=True)]


def gdp(simulator):
    """The first quarter of 2014 as it was published: the chain in fredapi's documentation."""
    simulator.add("GDP")
    simulator.publish("GDP", "2014-04-30", {"2014-01-01": "17149.6"})
    simulator.publish("GDP", "2014-05-29", {"2014-01-01": "17101.3"})
    simulator.publish("GDP", "2014-06-25", {"2014-01-01": "17016.0"})


GDP_ROWS = [
    # midnight in St. Louis after the day of the vintage, in summer
    ("2014-01-01", "2014-05-01T05:00:00Z", 17149.6),
    ("2014-01-01", "2014-05-30T05:00:00Z", 17101.3),
    ("2014-01-01", "2014-06-26T05:00:00Z", 17016.0),
]


def test_every_vintage_is_a_version_known_when_its_day_has_ended_in_st_louis():
    (rows,), simulator = ask(gdp, "gdp")
    assert rows == GDP_ROWS
    assert [path for path, _ in simulator.requests] == ["/fred/series/vintagedates", "/fred/series/observations"]


def test_in_winter_the_day_ends_an_hour_later():
    def publish(simulator):
        simulator.add("UNRATE")
        simulator.publish("UNRATE", "2026-01-09", {"2025-12-01": "4.4"})

    (rows,), _ = ask(publish, "UNRATE")
    assert rows == [("2025-12-01", "2026-01-10T06:00:00Z", 4.4)]


def test_a_known_release_time_says_it_more_exactly():
    (rows,), _ = ask(gdp, "GDP", release_times={"gdp": "08:30"})
    assert [as_of for _, as_of, _ in rows] == ["2014-04-30T12:30:00Z", "2014-05-29T12:30:00Z", "2014-06-25T12:30:00Z"]
    (rows,), _ = ask(gdp, "GDP", release_times={"GDP": "15:00"}, release_zone="Europe/Berlin")
    assert rows[0][1] == "2014-04-30T13:00:00Z"


def test_what_was_published_today_is_known_now_and_not_tomorrow():
    def publish(simulator):
        simulator.add("CPIAUCSL")
        simulator.publish("CPIAUCSL", "2026-10-14", {"2026-09-01": "320.1"})
        simulator.publish("CPIAUCSL", "2026-11-20", {"2026-09-01": "320.2", "2026-10-01": "321.0"})

    (rows,), _ = ask(publish, "CPIAUCSL")
    assert rows == [
        ("2026-09-01", "2026-10-15T05:00:00Z", 320.1),
        ("2026-09-01", "2026-11-20T18:00:00Z", 320.2),
        ("2026-10-01", "2026-11-20T18:00:00Z", 321.0),
    ]


def holed(simulator):
    simulator.add("DGS10")
    simulator.publish("DGS10", "2020-03-03", {"2020-03-02": "1.10"})
    simulator.publish("DGS10", "2020-03-04", {"2020-03-03": MISSING})
    simulator.publish("DGS10", "2020-03-05", {"2020-03-04": "1.02"})
    simulator.publish("DGS10", "2020-03-06", {"2020-03-03": "1.05", "2020-03-04": GONE})
    simulator.publish("DGS10", "2020-03-09", {"2020-03-04": "1.02"})


HOLED_ROWS = [
    ("2020-03-02", "2020-03-04T06:00:00Z", 1.1),
    ("2020-03-03", "2020-03-05T06:00:00Z", None),  # known to be missing
    ("2020-03-03", "2020-03-07T06:00:00Z", 1.05),
    ("2020-03-04", "2020-03-06T06:00:00Z", 1.02),
    ("2020-03-04", "2020-03-07T06:00:00Z", None),  # taken back
    ("2020-03-04", "2020-03-10T05:00:00Z", 1.02),  # and given again, in summer time
]


@pytest.mark.parametrize("vintages_per_call", [1, 2, 3, 4, 5])
def test_windows_do_not_invent_revisions_wherever_they_are_cut(vintages_per_call):
    (rows,), simulator = ask(holed, "DGS10", max_vintages=vintages_per_call, vintages_per_call=vintages_per_call)
    assert rows == HOLED_ROWS
    asked = [query for path, query in simulator.requests if path.endswith("observations")]
    assert len(asked) == -(-5 // vintages_per_call)
    assert (asked[0]["realtime_start"], asked[-1]["realtime_end"]) == ("2020-03-03", "9999-12-31")


def test_a_series_of_more_vintages_than_a_request_may_have():
    def publish(simulator):
        simulator.make_up(seed=3)

    (rows,), simulator = ask(publish, "DGS10")
    assert [path for path, _ in simulator.requests].count("/fred/series/observations") == 2
    truth = simulator.periods("DGS10")
    assert len(truth) == len(rows) == 2_400
    assert [(day, None if value == "." else float(value)) for _, _, day, value in truth] == [
        (day, value) for day, _, value in rows
    ]
    assert any(value is None for _, _, value in rows)


def test_pages_are_asked_for_until_all_are_there():
    (rows,), simulator = ask(holed, "DGS10", observations_per_call=2, vintage_dates_per_call=2)
    assert rows == HOLED_ROWS
    offsets = [(path.rsplit("/", 1)[1], query["offset"]) for path, query in simulator.requests]
    assert offsets == [
        ("vintagedates", "0"),
        ("vintagedates", "2"),
        ("vintagedates", "4"),
        ("observations", "0"),
        ("observations", "2"),
        ("observations", "4"),
    ]


def test_a_span_of_observations():
    spans = [(date(2020, 3, 3), None), (None, date(2020, 3, 2)), (date(2020, 3, 4), date(2020, 3, 4))]
    asks = [("DGS10", *span) for span in [*spans, (date(2020, 3, 4), date(2020, 3, 3)), (date(2021, 1, 1), None)]]
    (later, earlier, one, none, after), _ = ask(holed, *asks)
    assert later == HOLED_ROWS[1:]
    assert earlier == HOLED_ROWS[:1]
    assert one == HOLED_ROWS[3:]
    assert none == after == []


def test_before_the_first_vintage_nothing_was_known():
    """A series that ALFRED took up late: old dates, but all of them known from the first vintage on."""

    def publish(simulator):
        simulator.add("OLD")
        simulator.publish("OLD", "2005-06-01", {"1950-01-01": "1.5", "1950-02-01": "1.6"})
        simulator.publish("OLD", "2005-07-01", {"1950-02-01": "1.7"})

    (rows,), _ = ask(publish, "OLD")
    assert rows == [
        ("1950-01-01", "2005-06-02T05:00:00Z", 1.5),
        ("1950-02-01", "2005-06-02T05:00:00Z", 1.6),
        ("1950-02-01", "2005-07-02T05:00:00Z", 1.7),
    ]


def test_a_series_that_is_not_archived_is_known_since_the_request():
    def publish(simulator):
        simulator.make_up(seed=1)

    (rows, unknown), simulator = ask(publish, "SP500", "NOTASERIES123")
    assert rows == [
        ("2026-01-02", "2026-11-20T18:00:00Z", 6900.10),
        ("2026-01-05", "2026-11-20T18:00:00Z", 6921.46),
    ]
    assert "realtime_start" not in next(query for path, query in simulator.requests if path.endswith("observations"))
    # the archive says the same of it as of one that does not exist; the request without a period tells them apart
    assert isinstance(unknown, SymbolNotFound)


def test_what_is_no_name_of_a_series_is_not_asked_for():
    (error, other), simulator = ask(gdp, "BTC-USD", "X" * 26)
    assert isinstance(error, SymbolNotFound)
    assert isinstance(other, SymbolNotFound)
    assert not simulator.requests


@pytest.mark.parametrize("key", ["f" * 32, "0" * 32])
def test_a_key_that_is_not_registered(key):
    (error,), _ = ask(gdp, "GDP", api_key=key)
    assert isinstance(error, NotEntitled)
    assert "not registered" in str(error)
    assert key not in f"{error} {error!r}"


def test_more_vintages_than_allowed_is_out_of_range():
    (error,), _ = ask(holed, "DGS10", max_vintages=2)
    assert isinstance(error, OutOfRange)
    assert "5 vintage dates" in str(error)


@pytest.mark.parametrize(("retry_after_s", "told"), [(None, 60.0), (13, 13.0)])
def test_too_many_requests_say_when_to_come_back(retry_after_s, told):
    settings = {"requests_per_minute": 3, "retry_after_s": retry_after_s}
    (first, error), _ = ask(gdp, "GDP", "GDP", simulated=settings)
    assert len(first) == 3
    assert isinstance(error, Throttled)
    assert error.retry_after_s == told


def test_the_default_pace_stays_within_the_limit():
    http = FredConfig().http
    assert http.burst + 60 * http.requests_per_s <= 120


def test_keys_are_never_shown():
    key = "5ec2e7" + "0" * 26
    assert key not in repr(FredConfig(api_key=key))
    with pytest.raises(InvalidInput) as caught:
        FredConfig(api_key=key + "x")
    assert key not in f"{caught.value} {caught.value!r}"
    assert ENTRY.secrets == {"FRED_API_KEY": "api_key"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rest_url": "api.stlouisfed.org"},
        {"release_times": {"GDP": "8:30"}},
        {"release_times": {"GDP": "24:00"}},
        {"release_times": {"not a series": "08:30"}},
        {"release_zone": "St. Louis"},
        {"vintages_per_call": 2_001},
        {"observations_per_call": 0},
        {"vintage_dates_per_call": 10_001},
    ],
)
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(InvalidInput) as caught:
        FredConfig(**wrong)
    assert caught.value.field.startswith(next(iter(wrong)))


def test_without_a_key_it_is_not_built():
    with pytest.raises(InvalidInput, match="FRED_API_KEY"):
        ENTRY.build(FredConfig(), ProviderDeps(clock=ManualClock(), metrics=Metrics()))


@pytest.mark.parametrize("name", ["cpi_us_monthly", "wti_daily", "vix_close_daily"])
def test_recorded_vintages_come_back_exactly(name, data_folder):
    """Each publication of a public file, served as a vintage of its day."""
    with gzip.open(data_folder / "macro" / "vintages" / f"{name}_revisions.csv.gz", "rt", encoding="utf-8") as text:
        lines = sorted(csv.DictReader(text), key=lambda line: line["known_at"])
    by_day = {}
    for line in lines:
        day = by_day.setdefault(line["known_at"][:10], {})
        day[line["observation_date"]] = line["value"] or None
    expected, held = [], {}
    for vintage, values in by_day.items():
        midnight = datetime.combine(
            date.fromisoformat(vintage) + timedelta(days=1), time(), ZoneInfo("America/Chicago")
        )
        as_of = midnight.astimezone(ZoneInfo("UTC")).strftime("%Y-%m-%dT%H:%M:%SZ")
        for day, value in values.items():
            if held.get(day) != value:
                held[day] = value
                expected.append((day, as_of, None if value is None else float(value)))

    def publish(simulator):
        simulator.add("RECORDED")
        for vintage, values in by_day.items():
            simulator.publish("RECORDED", vintage, values)

    (rows,), simulator = ask(publish, "RECORDED", max_vintages=60, vintages_per_call=60, observations_per_call=4_000)
    assert rows == sorted(expected, key=lambda row: row[:2])
    assert len(simulator.requests) > len(by_day) // 60
