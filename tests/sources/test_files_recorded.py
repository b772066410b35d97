"""Files of bars as vendors publish them. Expectations are from the notes beside the data, or by another reader."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from files_of_bars import Read

from marketd.errors import InvalidInput
from marketd.sources.files import FileOptions, understand

NEW_YORK = "America/New_York"


def rows_of(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8-sig") as file:
        return [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(file, delimiter=delimiter)]


def stamp_ns(moment: datetime) -> int:
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


def ohlc(row: dict[str, str], *names: str) -> tuple[float, ...]:
    return tuple(float(row[name]) for name in names)


def test_prices_in_another_order_and_new_york_time(data_folder: Path) -> None:
    path = data_folder / "bars_minute/mplfinance_SP500_NOV2019_IDay.csv.gz"
    with pytest.raises(InvalidInput, match="date_format"):  # 11/5 to 11/8: both readings are in order
        understand(str(path), FileOptions(symbol="SPX", timezone=NEW_YORK))
    found = Read(str(path), symbol="SPX", timezone=NEW_YORK, date_format="MM/DD/YYYY")
    assert (str(found.plan.interval), found.rows, found.refused) == ("1m", 1563, {})
    assert (found.times[0], found.times[-1]) == ("2019-11-05 14:30", "2019-11-08 20:59")
    assert found.prices[0] == (3080.8, 3081.47, 3080.3, 3080.49, 0.0)


def test_semicolons_day_first_and_eastern_time(data_folder: Path) -> None:
    path = data_folder / "bars_minute/optionstratlib_CL_1m_20080101-20080214.csv.gz"
    found = Read(str(path), symbol="CL", timezone=NEW_YORK)
    assert (str(found.plan.interval), found.rows, found.refused) == ("1m", 35_648, {})
    zone = ZoneInfo(NEW_YORK)
    expected = [
        (
            stamp_ns(datetime.strptime(f"{row['date']} {row['time']}", "%d/%m/%Y %H:%M:%S").replace(tzinfo=zone)),
            *ohlc(row, "open", "high", "low", "close", "volume"),
        )
        for row in rows_of(path, ";")
    ]
    assert [(bar["ts"], *prices) for bar, prices in zip(found.bars, found.prices, strict=True)] == expected


def test_am_pm_and_stamps_at_the_end_over_a_change_of_clocks(data_folder: Path) -> None:
    path = data_folder / "bars_minute/lean_spy_10_min_20150303-19.csv.gz"
    found = Read(str(path), symbol="SPY", timezone=NEW_YORK, stamp="end")
    assert (str(found.plan.interval), found.rows, found.refused) == ("10m", 500, {})
    zone = ZoneInfo(NEW_YORK)
    ends = [datetime.strptime(row["Date"], "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=zone) for row in rows_of(path)]
    assert [bar["ts"] for bar in found.bars] == [stamp_ns(end) - 600 * 10**9 for end in ends]
    assert (found.times[0], found.times[-1]) == ("2015-03-03 15:40", "2015-03-19 19:50")


def test_seconds_since_1970_with_three_holes(data_folder: Path) -> None:
    path = data_folder / "bars_minute/ta4j_Coinbase-BTC-USD-PT4H-20160518_20251028.csv.gz"
    found = Read(str(path), symbol="BTC-USD")
    assert (str(found.plan.interval), len(found.bars), found.refused) == ("4h", 20_695, {})
    starts = [bar["ts"] for bar in found.bars]
    step = 4 * 3600 * 10**9
    steps = zip(found.times[1:], pairwise(starts), strict=True)
    after = {time: (b - a) // step - 1 for time, (a, b) in steps if b - a != step}
    assert after == {"2017-03-01 00:00": 1, "2018-08-10 16:00": 3, "2025-10-25 20:00": 1}


def test_weeks_in_negative_milliseconds_agree_with_the_days_of_another_source(data_folder: Path) -> None:
    path = data_folder / "bars_daily/ta4j_YahooFinance-SP500-PT7D-19500103_20260310.csv.gz"
    with pytest.raises(InvalidInput, match="timezone"):  # midnights of New York
        understand(str(path), FileOptions(symbol="SPX"))
    highs: dict[str, float] = defaultdict(float)
    for row in rows_of(data_folder / "bars_daily/stockindicators_spx_SPX_1990-2022.csv.gz"):
        month, day_of_month, year = map(int, row["date"].split("/"))
        day = date(year, month, day_of_month)
        monday = f"{day - timedelta(day.weekday()):%Y-%m-%d} 00:00"
        highs[monday] = max(highs[monday], float(row["high"]))

    def agreement(stamp: str) -> float:
        found = Read(str(path), symbol="SPX", timezone=NEW_YORK, stamp=stamp)
        both = [(bar["high"], highs[at]) for bar, at in zip(found.bars, found.times, strict=True) if at in highs]
        assert len(both) > 1600
        return sum(abs(ours - theirs) < 1e-3 * theirs for ours, theirs in both) / len(both)

    # the column is named for the end, but holds the start
    assert agreement("start") > 0.95
    assert agreement("end") < 0.1
    found = Read(str(path), symbol="SPX", timezone=NEW_YORK, stamp="start")
    assert found.times[0] == "1950-01-02 00:00"
    assert dict(found.refused) == {"off_grid": 261}  # 1960 to 1964: weeks that begin on Fridays


@pytest.mark.parametrize(
    ("name", "rows", "first", "last"),
    [
        ("mplfinance_yahoofinance-AAPL-20040819-20180120", 3379, "2004-08-19", "2018-01-19"),
        ("stockindicators_spx_SPX_1990-2022", 8111, "1990-01-02", "2022-03-10"),
        ("arch_sp500_1999-2018", 5031, "1999-01-04", "2018-12-31"),
        ("iex_spy-daily_2018", 99, "2018-06-20", "2018-11-07"),
        ("lean_spy_ohlcv_2013-2015", 500, "2013-02-22", "2015-02-17"),
        ("mplfinance_SP500_NOV2019_Hist", 20, "2019-11-01", "2019-11-29"),
        ("zipline_csvdir_KO_2012-2014", 754, "2012-01-03", "2014-12-31"),
    ],
)
def test_daily_files_however_their_dates_are_written(
    data_folder: Path, name: str, rows: int, first: str, last: str
) -> None:
    path = data_folder / f"bars_daily/{name}.csv.gz"
    found = Read(str(path), symbol="X")
    assert (str(found.plan.interval), found.refused) == ("1d", {})
    assert (len(found.bars), found.times[0][:10], found.times[-1][:10]) == (rows, first, last)
    lowered = [{key.lower(): value for key, value in row.items()} for row in rows_of(path)]
    assert found.prices == [ohlc(row, "open", "high", "low", "close", "volume") for row in lowered]
    assert all(date.fromisoformat(time[:10]).weekday() < 5 for time in found.times)


def test_bid_and_ask_bars(data_folder: Path) -> None:
    found = Read(str(data_folder / "quotes_fx/oanda_eurusd_minute_20140501-20140515.csv.gz"), symbol="EURUSD")
    assert (str(found.plan.interval), found.rows, found.refused) == ("1m", 30_732, {})
    first = {bar["side"]: bar for bar in found.bars if bar["ts"] == 1398902400 * 10**9}
    assert (first["bid"]["close"], first["ask"]["close"]) == (1.38686, 1.38697)


def test_downloads_with_offsets_and_newest_first(data_folder: Path) -> None:
    found = Read(str(data_folder / "bad_data/yfinance/AET-L-1d-100x-error.csv.gz"), symbol="AET.L")
    assert (found.plan.order, str(found.plan.interval), found.times[0]) == ("descending", "1d", "2022-06-06 00:00")
    found = Read(str(data_folder / "bad_data/yfinance/1398-HK-1d-bad-div.csv.gz"), symbol="1398.HK")
    assert (found.times[0], dict(found.refused)) == ("2022-01-03 00:00", {"absent_price": 1})


@pytest.mark.parametrize(
    ("name", "symbol", "interval", "first", "bar"),
    [
        ("EQUS.MINI/test_data.ohlcv-1m", "QQQ", "1m", "2023-03-28 11:08", (307.83, 307.83, 307.8, 307.8, 1800.0)),
        (
            "GLBX.MDP3/test_data.ohlcv-1h",
            "ESH1",
            "1h",
            "2020-12-28 00:00",
            (3702.75, 3707.0, 3697.25, 3705.75, 11891.0),
        ),
        ("XNAS.ITCH/test_data.ohlcv-1d", "NVDA", "1d", "2020-12-28 00:00", (521.0, 522.86, 510.54, 515.6, 1424253.0)),
    ],
)
def test_dbn_bars(data_folder: Path, name: str, symbol: str, interval: str, first: str, bar: tuple[float, ...]) -> None:
    found = Read(str(data_folder / f"databento/{name}.dbn.zst"))
    assert (found.bars[0]["symbol"], found.bars[0]["interval"]) == (symbol, interval)
    assert (found.times[0], found.prices[0], found.refused) == (first, bar, {})


def test_every_dbn_record_equals_what_its_own_decoder_gives(data_folder: Path) -> None:
    import databento_dbn as dbn
    import pyarrow as pa

    for path in sorted((data_folder / "databento").glob("*/*ohlcv*.dbn.zst")):
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            _, *records = dbn.DBNDecoder().write_and_decode(stream.read())
        found = Read(str(path))
        assert [(bar["ts"], *prices) for bar, prices in zip(found.bars, found.prices, strict=True)] == [
            (r.ts_event, r.pretty_open, r.pretty_high, r.pretty_low, r.pretty_close, float(r.volume)) for r in records
        ]


def test_dbn_of_other_schemas_is_named(data_folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"DBN bars.*mbp-1"):
        understand(str(data_folder / "databento/GLBX.MDP3/test_data.mbp-1.dbn.zst"))
