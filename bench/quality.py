"""How well faulty bars are told from healthy ones, on real faulty downloads and on real data that only look odd.

    .venv/bin/python bench/quality.py [--data FOLDER] [--details]

The recorded files are no part of the project; they are looked for in $MARKETD_TEST_DATA and beside the checkout. A
download counts as faulty in the rows in which it differs from the repaired version beside it. Not seen: a faulty row
that was neither refused nor inside what a note or finding calls wrong. False alarm: the opposite. Other faults: rows
called wrong that the repaired version left as they were, and that are wrong all the same: prices that contradict
one another or are absent, and the stretches listed in `LEFT_UNREPAIRED`, each with its evidence. Events: single
dividends that are wrong, and dates at which the adjustment changes wrongly; an adjustment that is wrong once makes all
rows before it wrong, so events say more than rows.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from marketd.ingest.bar_checks import BarContext, CheckedBars, check_bars
from marketd.ingest.bar_checks_adjusted import AdjustedFinding, check_adjusted
from marketd.model import BAR_SCHEMA

NOW_NS = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
NS = 1_000_000_000
PRICES = ("open", "high", "low", "close")

LEFT_UNREPAIRED = (
    ("LSC-L", "2024-02-05", "2024-08-20", "pence among pounds: closes of 30.5 and 0.305 take turns"),
    ("SCR-TO", "2023-10-05", "2026-12-31", "from here on another company has the ticker: 1.94, the next day 29.96"),
    ("SSNLF", "2001-08-06", "2001-08-06", "139.71, and 2.79 on the next day"),
    ("SSNLF", "2009-10-02", "2009-10-22", "684.78 among 13 to 14: fifty times, the split of 2018 not applied"),
    ("sp500 weekly", "1964-12-28", "1964-12-28", "weeks of 5, 6 and 3 days: one week is there twice"),
    ("BTC-USD 4h", "2017-04-15", "2017-04-15", "a low of 0.06 below an open of 1,179 (noted, not refused)"),
)
"""What repaired and healthy files have wrong all the same: symbol, first and last day, the evidence."""


@dataclass
class Case:
    """One file. frame: for `check_adjusted`. faulty: rows that are known to be wrong. events: stamps at which the
    adjustment changes wrongly or a dividend is wrong. context: of `check_bars`."""

    family: str
    name: str
    bars: pa.Table
    frame: pa.Table | None = None
    faulty: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    events: tuple[int, ...] = ()
    context: dict[str, object] = field(default_factory=dict)

    def all_wrong(self) -> Case:
        self.faulty = np.ones(self.bars.num_rows, bool)
        return self


@dataclass
class Outcome:
    """What became of one file. called: rows that were refused or called wrong. other: rows wrong beyond `faulty`."""

    case: Case
    checked: CheckedBars
    findings: tuple[AdjustedFinding, ...]
    called: np.ndarray
    other: np.ndarray

    @property
    def hits(self) -> int:
        return int((self.called & self.case.faulty).sum())

    @property
    def misses(self) -> int:
        return int((~self.called & self.case.faulty).sum())

    @property
    def others(self) -> int:
        return int((self.called & ~self.case.faulty & self.other).sum())

    @property
    def false_alarms(self) -> int:
        return int((self.called & ~self.case.faulty & ~self.other).sum())

    @property
    def seen(self) -> int:
        """Events with a finding at their row (at most a bar away for weeks, and for dividends dated a day off)."""
        return sum(1 for event in self.case.events if any(abs(f.at_ns - event) <= self._near(f) for f in self.findings))

    @property
    def false_events(self) -> int:
        """Findings about single dividends or adjustments where there is nothing wrong."""
        told = [f for f in self.findings if not f.code.startswith(("adjusted_", "split_"))]
        return sum(1 for f in told if not any(abs(f.at_ns - event) <= self._near(f) for event in self.case.events))

    def _near(self, finding: AdjustedFinding) -> int:
        day = 86_400 * NS
        weekly = self.case.bars["interval"][0].as_py() == "1w"
        return 7 * day if weekly else day if finding.code == "dividend_day_off" else 0

    @property
    def words(self) -> dict[str, int]:
        """How often each reason, note and finding occurred."""
        counts = dict(self.checked.refused)
        for said in (*self.checked.notes, *self.findings):
            if said.code not in self.checked.refused:
                counts[said.code] = counts.get(said.code, 0) + 1
        return counts


def judge(case: Case) -> Outcome:
    checked = check_bars(case.bars, BarContext(now_ns=NOW_NS, **case.context))
    findings = check_adjusted(case.frame) if case.frame is not None else ()
    ts = case.bars["ts"].cast(pa.int64()).to_numpy()
    called = checked.reasons > 0
    for said in (*checked.notes, *findings):
        if said.code != "unordered":
            called |= (ts >= said.start_ns) & (ts <= said.end_ns)
    if not len(case.faulty):
        case.faulty = np.zeros(len(ts), bool)
    return Outcome(case, checked, findings, called, contradictory(case.bars) | left_unrepaired(case.name, ts))


def contradictory(bars: pa.Table) -> np.ndarray:
    """Rows without prices, or whose open or close is not between low and high."""
    o, h, low, c = (bars[name].to_numpy() for name in PRICES)
    with np.errstate(invalid="ignore"):
        return ~((low * (1 - 1e-6) <= np.minimum(o, c)) & (np.maximum(o, c) <= h * (1 + 1e-6)) & (low <= h))


def left_unrepaired(name: str, ts: np.ndarray) -> np.ndarray:
    wrong = np.zeros(len(ts), bool)
    for symbol, first, last, _ in LEFT_UNREPAIRED:
        if name.startswith(symbol):
            wrong |= (ts >= midnight(first)) & (ts < midnight(last) + 86_400 * NS)
    return wrong


# --- reading ---------------------------------------------------------------------------------------------------


def midnight(day: str | date) -> int:
    day = date.fromisoformat(day) if isinstance(day, str) else day
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NS


def read(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        return [
            {(k or "").strip().lower(): v for k, v in row.items()} for row in csv.DictReader(lines, delimiter=delimiter)
        ]


def number(text: str | None) -> float:
    return float(text) if text else math.nan


def table(symbol: str, interval: str, ts: list[int | None], columns: dict[str, list[float]]) -> pa.Table:
    n = len(ts)
    constant = {"symbol": symbol, "interval": interval, "side": "trade", "provider": "file", "status": "backfill"}
    made = {name: pa.array([word] * n) for name, word in constant.items()}
    made |= {name: pa.array(columns[name], pa.float64()) for name in PRICES}
    made["volume"] = pa.array([None if math.isnan(v) else v for v in columns["volume"]], pa.float64())
    stamp = pa.timestamp("ns", tz="UTC")
    made |= {"ts": pa.array(ts, pa.int64()).cast(stamp), "as_of": pa.array([NOW_NS] * n).cast(stamp)}
    made |= {"vwap": pa.nulls(n, pa.float64()), "trades": pa.nulls(n, pa.int64())}
    return pa.table([made[name] for name in BAR_SCHEMA.names], names=BAR_SCHEMA.names)


def bars_of(
    symbol: str, interval: str, rows: list[dict[str, str]], stamp: Callable[[dict[str, str]], int | None]
) -> pa.Table:
    columns = {name: [number(r.get(name, r.get("close"))) for r in rows] for name in PRICES}
    columns["volume"] = [number(r.get("volume")) for r in rows]
    return table(symbol, interval, [stamp(r) for r in rows], columns)


def us_date(text: str) -> int:
    month, day, year = text.split(maxsplit=1)[0].split("/")
    return midnight(date(int(year), int(month), int(day)))


# --- faulty downloads ------------------------------------------------------------------------------------------

ASSET_CLASS = {"DODFX": "fund", "VWILX": "fund", "EWG": "etf"}
_FRAME = {"adj close": "adj_close", "dividends": "dividend", "stock splits": "split", "capital gains": "capital_gain"}


def download(path: Path) -> tuple[pa.Table, pa.Table]:
    """The bars, and the columns that `check_adjusted` looks at."""
    rows = read(path)
    symbol, _, rest = path.name.partition("-1")
    interval = "1" + rest[0]

    def stamp(row: dict[str, str]) -> int:
        local = datetime.fromisoformat(row.get("datetime") or row["date"])
        return int(local.timestamp()) * NS if interval == "1h" else midnight(local.date())

    bars = bars_of(symbol, interval, rows, stamp)
    columns = {new: [number(r[old]) for r in rows] for old, new in _FRAME.items() if old in rows[0]}
    return bars, pa.table({"ts": bars["ts"], "open": bars["open"], "close": bars["close"], **columns})


def differing(bars: pa.Table, frame: pa.Table, fixed_bars: pa.Table, fixed_frame: pa.Table) -> np.ndarray:
    """Rows in which a download and its repaired version are not the same: prices, adjusted close, dividend."""
    differs = np.zeros(bars.num_rows, bool)
    assert bars["ts"].equals(fixed_bars["ts"])
    pairs = [(bars[n].to_numpy(), fixed_bars[n].to_numpy()) for n in PRICES]
    pairs += [(frame[n].to_numpy(), fixed_frame[n].to_numpy()) for n in ("adj_close", "dividend", "split")]
    for one, other in pairs:
        with np.errstate(invalid="ignore"):
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            same |= np.abs(one - other) <= 1e-5 * np.where(np.isfinite(one), np.maximum(np.abs(one), np.abs(other)), 0)
        differs |= ~same
    return differs


def wrong_events(frame: pa.Table, fixed: pa.Table) -> tuple[int, ...]:
    """Stamps at which a dividend, or the change of the adjustment since the row before, is not that of the repaired
    version. Where the adjusted close is no number, only dividends tell."""
    steps, dividends, stamps = [], [], np.zeros(0, np.int64)
    for one in (frame, fixed):
        order = np.argsort(one["ts"].cast(pa.int64()).to_numpy(), kind="stable")
        close, adjusted = one["close"].to_numpy()[order], one["adj_close"].to_numpy()[order]
        valid = np.isfinite(close)
        stamps = one["ts"].cast(pa.int64()).to_numpy()[order][valid]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = adjusted[valid] / close[valid]
            steps.append(np.r_[1.0, share[:-1] / share[1:]])
        dividends.append(one["dividend"].to_numpy()[order][valid])
    moved = np.abs(steps[0] - steps[1]) > 1e-4
    return tuple(stamps[moved | (np.abs(dividends[0] - dividends[1]) > 1e-9)].tolist())


def downloads(data: Path) -> Iterator[Case]:
    for path in sorted((data / "bad_data" / "yfinance").glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        if name.endswith("-fixed"):
            continue
        symbol = name.split("-1")[0]
        bars, frame = download(path)
        context: dict[str, object] = {"asset_class": ASSET_CLASS.get(symbol, "equity")}
        if symbol == "KEN-TA":  # the week begins on Sunday in Tel Aviv
            context["expected_starts"] = weekdays((6, 0, 1, 2, 3))
        case = Case(name.split("-1", 1)[1].partition("-")[2], name, bars, frame, context=context)
        fixed = path.with_name(f"{name}-fixed.csv.gz")
        if fixed.exists():
            fixed_bars, fixed_frame = download(fixed)
            case.faulty = differing(bars, frame, fixed_bars, fixed_frame)
            if case.family.endswith(("-div", "-adjust", "-count")):  # elsewhere prices are wrong, not adjustments
                case.events = wrong_events(frame, fixed_frame)
        yield case


def weekdays(days: tuple[int, ...]) -> np.ndarray:
    """Midnights of these days of the week, Monday is 0, from 1990 to 2027."""
    all_days = np.arange(midnight("1990-01-01"), midnight("2027-01-01"), 86_400 * NS, dtype=np.int64)
    return all_days[np.isin((all_days // (86_400 * NS) + 3) % 7, days)]


def altered(data: Path) -> Iterator[Case]:
    """A file of SPY that was altered by hand, against the same days as published."""
    true = {r["date"]: r for r in read(data / "bars_daily" / "stockindicators_default_SPY_2017-2018.csv.gz")}
    rows = read(data / "bad_data" / "stockindicators_bad.csv.gz")
    faulty = []
    for row in rows:
        month, day, year = row["date"].split("/") if row["date"] else ("", "", "")
        twin = true.get(f"{year}-{month}-{day}")
        same = twin is not None and all(
            row[n] and abs(float(row[n]) - float(twin[n])) <= 1e-6 * abs(float(twin[n])) for n in (*PRICES, "volume")
        )
        faulty.append(not same)
    bars = bars_of("SPY", "1d", rows, lambda r: us_date(r["date"]) if r["date"] else None)
    context: dict[str, object] = {"asset_class": "etf"}
    yield Case("altered file", "stockindicators_bad", bars, faulty=np.array(faulty), context=context)


# --- healthy data ----------------------------------------------------------------------------------------------


def calendar(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Open spans and session dates of an exchange, as recorded."""
    spans, days = [], []
    for row in read(data / "calendars" / f"{name}.csv.gz"):
        days.append(midnight(row[""][:10]))
        stamps = [row[k] for k in ("open", "break_start", "break_end", "close") if row[k]]
        at = [int(datetime.fromisoformat(s).timestamp()) * NS for s in stamps]
        spans += list(zip(at[::2], at[1::2], strict=True))
    return np.array(spans, np.int64), np.array(days, np.int64)


def local(text: str, pattern: str, zone: str) -> int:
    return int(datetime.strptime(text, pattern).replace(tzinfo=ZoneInfo(zone)).timestamp()) * NS


def crude_spans() -> np.ndarray:
    """The recorded crude oil future: 18:00 to 17:15 US Eastern, Sunday evening to Friday."""
    zone, spans = ZoneInfo("America/New_York"), []
    for i in range(60):
        day = date(2007, 12, 23) + timedelta(days=i)
        if day.weekday() in (4, 5):
            continue
        opened = datetime(day.year, day.month, day.day, 18, tzinfo=zone)
        end = day + timedelta(days=1)
        closed = datetime(end.year, end.month, end.day, 17, 15, tzinfo=zone)
        spans.append((int(opened.timestamp()) * NS, int(closed.timestamp()) * NS))
    return np.array(spans, np.int64)


def healthy(data: Path) -> Iterator[Case]:
    daily, minute = data / "bars_daily", data / "bars_minute"
    spans, days = calendar(data, "xnys")
    exchange = {"open_spans": spans, "expected_starts": days}

    def iso(row: dict[str, str]) -> int:
        return midnight(row["date"][:10])

    for name, kind, stamp in (
        ("arch_sp500_1999-2018", "index", lambda r: us_date(r["date"])),
        ("iex_spy-daily_2018", "etf", iso),
        ("lean_spy_ohlcv_2013-2015", "etf", lambda r: us_date(r["date"])),
        ("mplfinance_SP500_NOV2019_Hist", "index", lambda r: us_date(r["date"])),
        ("mplfinance_yahoofinance-AAPL-20040819-20180120", "equity", iso),
        ("mplfinance_yahoofinance-SPY-20080101-20180101", "etf", iso),
        ("stockindicators_compare_TSLA_2017-2018", "equity", iso),
        ("stockindicators_default_SPY_2017-2018", "etf", iso),
        ("stockindicators_spx_SPX_1990-2022", "index", lambda r: us_date(r["date"])),
        ("zipline_csvdir_AAPL_2012-2014", "equity", iso),
        ("zipline_csvdir_KO_2012-2014", "equity", iso),
    ):
        bars = bars_of(name, "1d", read(daily / f"{name}.csv.gz"), stamp)
        yield Case("daily bars", name, bars, context={"asset_class": kind, **exchange})
    bitcoin = read(daily / "stockindicators_bitcoin_BTCUSD_2017-2021.csv.gz")
    yield Case("daily bars", "bitcoin", bars_of("BTC-USD", "1d", bitcoin, iso), context={"asset_class": "crypto"})
    weekly = read(daily / "ta4j_YahooFinance-SP500-PT7D-19500103_20260310.csv.gz")
    week = 7 * 86_400 * NS
    offset = 4 * 86_400 * NS

    def monday(row: dict[str, str]) -> int:
        near = int(row["end_ms"]) * 1_000_000 + week // 2
        return (near - offset) // week * week + offset

    yield Case("daily bars", "sp500 weekly", bars_of("SPX", "1w", weekly, monday), context={"asset_class": "index"})
    panel = read(daily / "pypfopt_panel_adjclose_vintage2018.csv.gz")
    for symbol in list(panel[0])[1:]:
        rows = [{"date": r["date"], "close": r[symbol]} for r in panel if r[symbol] and r["date"] >= "1990"]
        yield Case("daily bars", f"panel {symbol}", bars_of(symbol, "1d", rows, iso), context=dict(exchange))
    prices = data / "corporate_actions" / "quandl_wiki_raw_and_adjusted_2014.csv.gz"
    for symbol in ("AAPL", "BRK_A"):
        rows = [r for r in read(prices) if r["ticker"] == symbol]
        from marketd.model import CorporateAction

        split = CorporateAction(
            symbol="AAPL", kind="split", ex_ns=midnight("2014-06-09"), provider="typed", as_of_ns=0, ratio=7.0
        )
        context: dict[str, object] = {**exchange, "actions": (split,)}
        yield Case("daily bars", f"{symbol} 2014 raw", bars_of(symbol, "1d", rows, iso), context=context)

    ny = "America/New_York"
    rows = read(minute / "mplfinance_SP500_NOV2019_IDay.csv.gz")
    bars = bars_of("SPX", "1m", rows, lambda r: local(r["date"], "%m/%d/%Y %H:%M", ny))
    yield Case("intraday bars", "SPX 1m", bars, context={"asset_class": "index", **exchange})
    rows = read(minute / "optionstratlib_CL_1m_20080101-20080214.csv.gz", ";")
    bars = bars_of("CL", "1m", rows, lambda r: local(f"{r['date']} {r['time']}", "%d/%m/%Y %H:%M:%S", ny))
    yield Case("intraday bars", "CL 1m", bars, context={"asset_class": "future", "open_spans": crude_spans()})
    bombay, _ = calendar(data, "xbom")
    rows = read(minute / "nse_yesbank_1m_20190709-11.csv.gz")
    bars = bars_of("YESBANK", "1m", rows, lambda r: int(datetime.fromisoformat(r["ts"]).timestamp()) * NS)
    yield Case("intraday bars", "YESBANK 1m", bars, context={"open_spans": bombay})
    rows = read(minute / "lean_spy_10_min_20150303-19.csv.gz")
    ten = 600 * NS
    bars = bars_of("SPY", "10m", rows, lambda r: local(r["date"], "%m/%d/%Y %I:%M:%S %p", ny) - ten)
    yield Case("intraday bars", "SPY 10m", bars, context={"asset_class": "etf", **exchange})
    rows = read(minute / "ta4j_Coinbase-BTC-USD-PT4H-20160518_20251028.csv.gz")
    always = np.array([[midnight("2010-01-01"), midnight("2027-01-01")]], np.int64)
    bars = bars_of("BTC-USD", "4h", rows, lambda r: int(r["start_s"]) * NS)
    yield Case("intraday bars", "BTC-USD 4h", bars, context={"asset_class": "crypto", "open_spans": always})

    rows = read(data / "macro" / "wti_daily_1986-2026.csv.gz")
    bars = bars_of("WTI", "1d", [{"date": r["date"], "close": r["price"]} for r in rows], iso)
    yield Case("real extremes", "WTI with -36.98", bars, context={"asset_class": "commodity"})
    rows = read(data / "macro" / "vix_daily_1990-2026.csv.gz")
    yield Case("real extremes", "VIX", bars_of("VIX", "1d", rows, iso), context={"asset_class": "index"})


def mislabelled(data: Path) -> Iterator[Case]:
    """Real bars with the clock misread: wall time taken for UTC, dates a day off. All rows are wrong."""
    whole = {case.name: case for case in healthy(data)}
    for name, zone in (("SPX 1m", "America/New_York"), ("CL 1m", "America/New_York"), ("YESBANK 1m", "Asia/Kolkata")):
        case = whole[name]
        stamps = case.bars["ts"].to_pylist()
        read_as_utc = [int(t.astimezone(ZoneInfo(zone)).replace(tzinfo=UTC).timestamp()) * NS for t in stamps]
        yield Case("wall time as UTC", name, moved(case.bars, read_as_utc), context=case.context).all_wrong()
    case = whole["stockindicators_default_SPY_2017-2018"]
    tomorrow = (case.bars["ts"].cast(pa.int64()).to_numpy() + 86_400 * NS).tolist()
    yield Case("dates a day off", "SPY", moved(case.bars, tomorrow), context=case.context).all_wrong()
    last = [r for r in read(data / "bars_minute" / "ta4j_Coinbase-BTC-USD-PT4H-20160518_20251028.csv.gz")
            if int(r["start_s"]) % 86_400 == 72_000]  # fmt: skip
    closes = [{"close": r["close"], "day": str(int(r["start_s"]) - 72_000)} for r in last]
    coinbase = bars_of("BTC-USD", "1d", closes, lambda r: int(r["day"]) * NS)
    context: dict[str, object] = {"asset_class": "crypto", "known": coinbase}
    yield Case("dates a day off", "bitcoin", whole["bitcoin"].bars, context=context).all_wrong()


def moved(bars: pa.Table, ts: list[int]) -> pa.Table:
    return bars.set_column(3, "ts", pa.array(ts, pa.int64()).cast(pa.timestamp("ns", tz="UTC")))


def cases(data: Path) -> Iterator[Case]:
    yield from downloads(data)
    yield from altered(data)
    yield from mislabelled(data)
    yield from healthy(data)


# --- report ----------------------------------------------------------------------------------------------------


def folder(named: str | None) -> Path:
    found = named or os.environ.get("MARKETD_TEST_DATA")
    return Path(found) if found else Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="folder of the recorded data")
    parser.add_argument("--details", action="store_true", help="one line a file, with the words that were said")
    args = parser.parse_args()
    data = folder(args.data)
    if not (data / "bad_data").is_dir():
        print(f"recorded data is not in {data}; name its folder with --data or MARKETD_TEST_DATA")
        return 0
    outcomes = [judge(case) for case in cases(data)]
    families: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        families.setdefault(outcome.case.family, []).append(outcome)
    columns = ("rows", "faulty", "hits", "misses", "other faults", "false alarms", "events", "seen", "false")
    line = "{:19}{:>6}" + "{:>9}" * 4 + "{:>14}" * 2 + "{:>9}" * 3
    print(line.format("family", "files", *columns))
    for family, members in families.items():
        counts = [
            len(members),
            sum(len(o.called) for o in members),
            sum(int(o.case.faulty.sum()) for o in members),
            *(sum(getattr(o, k) for o in members) for k in ("hits", "misses", "others", "false_alarms")),
            sum(len(o.case.events) for o in members),
            sum(o.seen for o in members),
            sum(o.false_events for o in members),
        ]
        print(line.format(family, *counts))
        if args.details:
            for o in members:
                rows = f"{o.hits} hits, {o.misses} misses, {o.others} other, {o.false_alarms} false"
                print(f"    {o.case.name}: {rows}; {o.seen} of {len(o.case.events)} events, {o.false_events} false")
                print("       ", ", ".join(f"{word} {count}" for word, count in o.words.items()) or "nothing")
    print("\nOther faults, beside rows that contradict themselves:")
    for symbol, first, last, evidence in LEFT_UNREPAIRED:
        print(f"  {symbol} {first} to {last}: {evidence}")
    return int(any(o.misses or o.false_alarms or o.false_events or o.seen < len(o.case.events) for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
