"""fredapi, an independent client that reads XML, over the same simulator: what it sees, we must have seen."""

from __future__ import annotations

import asyncio
import math

import pytest

from marketd.model import format_ns, parse_ns
from marketd.sources.contract import ProviderDeps
from marketd.sources.fred import ENTRY, FredConfig
from marketd.telemetry import Metrics
from marketd.testing import ManualClock
from marketd.testing.providers.fred import FredSimulator

fredapi = pytest.importorskip("fredapi", reason="fredapi is not installed")

NOW_NS = parse_ns("2026-11-20T18:00:00Z")


def refereed(body):
    """body: gets the simulator, fredapi's client and our `MacroSeries`; fredapi blocks, so it is called in a thread."""

    async def main():
        clock = ManualClock(NOW_NS)
        async with FredSimulator(clock=clock, requests_per_minute=1_000) as simulator:
            simulator.make_up(seed=5)
            theirs = fredapi.Fred(api_key=simulator.api_key)
            theirs.root_url = simulator.rest_url
            config = FredConfig(rest_url=simulator.rest_url, api_key=simulator.api_key)
            provider = ENTRY.build(config, ProviderDeps(clock=clock, metrics=Metrics()))
            try:
                await body(simulator, theirs, provider.macro)
            finally:
                await provider.close()

    asyncio.run(main())


def test_all_releases_are_the_same():
    async def body(simulator, theirs, ours):
        frame = await asyncio.to_thread(theirs.get_series_all_releases, "GDPC1")
        seen = [
            (str(d.date()), str(s.date()), v)
            for d, s, v in zip(frame.date, frame.realtime_start, frame.value, strict=True)
        ]
        table = await ours.observations("GDPC1")
        ts, as_of = (table[name].to_numpy().astype("int64").tolist() for name in ("ts", "as_of"))
        # the end of a day in St. Louis is on the next day of UTC
        known = [format_ns(stamp - 86_400 * 10**9)[:10] for stamp in as_of]
        assert list(zip([format_ns(t)[:10] for t in ts], known, table["value"].to_pylist(), strict=True)) == seen
        assert len(seen) == 120

    refereed(body)


def test_the_values_of_today_are_the_last_versions():
    async def body(simulator, theirs, ours):
        latest = await asyncio.to_thread(theirs.get_series, "DGS10")
        table = await ours.observations("DGS10")
        assert table.num_rows == len(latest) == 2_400
        for value, expected in zip(table["value"].to_pylist(), latest.tolist(), strict=True):
            assert value == expected or (value is None and math.isnan(expected))

    refereed(body)


def test_it_gives_up_where_we_split():
    async def body(simulator, theirs, ours):
        with pytest.raises(ValueError, match=r"There are 2400 vintage dates .* \(2000\)"):
            await asyncio.to_thread(theirs.get_series_all_releases, "DGS10")
        assert (await ours.observations("DGS10")).num_rows == 2_400

    refereed(body)


def test_it_understands_names_vintages_and_refusals():
    async def body(simulator, theirs, ours):
        dates = await asyncio.to_thread(theirs.get_series_vintage_dates, "GDPC1")
        assert len(dates) == 120
        assert (await asyncio.to_thread(theirs.get_series_info, "GDPC1")).title == "Real Gross Domestic Product"
        with pytest.raises(ValueError, match="The series does not exist"):
            await asyncio.to_thread(theirs.get_series, "NOSUCH")
        with pytest.raises(ValueError, match="does not exist in ALFRED"):
            await asyncio.to_thread(theirs.get_series_all_releases, "SP500")

    refereed(body)
