"""Files through the door that all history takes: batches, times of knowledge, notes, and the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from marketd.app import open_offline
from marketd.calendars import Calendars
from marketd.cli.files import export_bars, import_files
from marketd.collect.importer import ImportSummary, import_file
from marketd.config import Config, ServerConfig
from marketd.errors import InvalidInput, MarketDataError
from marketd.ingest.history import KeepBars, KeptBars
from marketd.model import BAR_SCHEMA, Interval, parse_ns
from marketd.sources.files import FileOptions, understand
from marketd.testing import ManualClock

NEW_YORK = "America/New_York"
NOW = parse_ns("2026-11-20T15:00:00Z")
START_S = 1_577_923_200  # 2020-01-02T00:00:00Z


def csv(folder: Path, rows: list[str], header: str = "ts,open,high,low,close,volume", name: str = "AAPL.csv") -> str:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def minutes(count: int) -> list[str]:
    return [
        f"{START_S + 60 * n},{100 + n % 7 / 10},{101 + n % 5 / 10},{99 + n % 3 / 10},100.5,{n}" for n in range(count)
    ]


class Door:
    """Accepts everything; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, pa.Table]] = []

    async def __call__(self, provider: str, bars: pa.Table) -> KeptBars:
        self.batches.append((provider, bars))
        return KeptBars(received=len(bars), accepted=len(bars), new_versions=len(bars), refused={})


def run(
    path: str, keep: KeepBars | None, calendar_of: Callable[[str], Any] = lambda _: None, **told: Any
) -> ImportSummary:
    plan = understand(path, FileOptions(**told))
    return asyncio.run(import_file(plan, keep, clock=ManualClock(NOW), calendar_of=calendar_of))


def test_bars_come_in_batches_with_the_time_of_the_import(tmp_path: Path) -> None:
    door = Door()
    summary = run(csv(tmp_path, minutes(230_000)), door)
    assert [(provider, len(bars)) for provider, bars in door.batches] == [
        ("file", 100_000), ("file", 100_000), ("file", 30_000),
    ]  # fmt: skip
    table = pa.concat_tables([bars for _, bars in door.batches])
    assert table.column("ts").cast(pa.int64()).to_pylist() == [(START_S + 60 * n) * 10**9 for n in range(230_000)]
    assert table.column("as_of").unique().cast(pa.int64()).to_pylist() == [NOW]
    assert (summary.rows, summary.readable, summary.accepted, summary.new_versions) == (230_000,) * 4
    assert (summary.first_ns, summary.last_ns) == (START_S * 10**9, (START_S + 60 * 229_999) * 10**9)


def test_refused_rows_are_counted_with_their_lines(tmp_path: Path) -> None:
    rows = minutes(5)
    rows[2] = "nonsense"
    rows[3] = rows[3].replace("100.5", "?")
    path = csv(tmp_path, rows)
    summary = run(path, Door())
    assert summary.refused == {"corrupt_line": 1, "not_a_number": 1}
    assert [(row.reason, row.where) for row in summary.quarantined] == [
        ("corrupt_line", f"{path}:4"),
        ("not_a_number", f"{path}:5"),
    ]
    assert summary.rows == summary.accepted + sum(summary.refused.values()) == 5


def test_what_the_door_refuses_is_counted_too(tmp_path: Path) -> None:
    async def door(_provider: str, bars: pa.Table) -> KeptBars:
        return KeptBars(received=len(bars), accepted=len(bars) - 2, new_versions=1, refused={"high_below_low": 2})

    summary = run(csv(tmp_path, minutes(5)), door)
    assert (summary.accepted, summary.new_versions, summary.refused) == (3, 1, {"high_below_low": 2})


def test_the_time_of_knowledge_may_be_told_or_in_the_file(tmp_path: Path) -> None:
    header = "ts,open,high,low,close,known_at"
    rows = ["2020-01-02,1,1,1,1,2020-01-03T08:00:00Z", "2020-01-03,1,1,1,1,2020-01-06T08:00:00+01:00"]
    path = csv(tmp_path, rows, header)

    def known(**told: str) -> list[int]:
        door = Door()
        run(path, door, interval="1d", **told)
        return [value for _, bars in door.batches for value in bars.column("as_of").cast(pa.int64()).to_pylist()]

    assert known() == [NOW, NOW]
    assert known(as_of="2020-02-01T00:00:00Z") == [parse_ns("2020-02-01")] * 2
    assert known(as_of="file") == [parse_ns("2020-01-03T08:00:00Z"), parse_ns("2020-01-06T07:00:00Z")]
    with pytest.raises(InvalidInput, match="as_of"):
        run(csv(tmp_path, minutes(3)), Door(), as_of="file")


def test_providers_of_a_file_come_in_separately(tmp_path: Path) -> None:
    header = "ts,open,high,low,close,provider"
    path = csv(tmp_path, ["2020-01-02,1,1,1,1,a", "2020-01-02,2,2,2,2,b", "2020-01-03,1,1,1,1,a"], header)
    door = Door()
    run(path, door, interval="1d")
    assert [(provider, bars.column("close").to_pylist()) for provider, bars in door.batches] == [
        ("a", [1.0, 1.0]),
        ("b", [2.0]),
    ]


def test_versions_of_a_bar_come_in_one_after_the_other(tmp_path: Path) -> None:
    header = "ts,open,high,low,close,known_at,provider"
    rows = [
        "2020-01-02,1,1,1,1,2020-01-03T00:00Z,a", "2020-01-02,2,2,2,2,2020-01-04T00:00Z,a",
        "2020-01-03,1,1,1,3,2020-01-04T00:00Z,a", "2020-01-02,1,1,1,4,2020-01-04T00:00Z,b",
        "2020-01-02,1,1,1,5,2020-01-04T00:00Z,a", "2020-01-03,1,1,1,6,2020-01-03T00:00Z,a",
    ]  # fmt: skip
    door = Door()
    run(csv(tmp_path, rows, header), door, interval="1d", as_of="file")
    assert [(provider, bars.column("close").to_pylist()) for provider, bars in door.batches] == [
        ("a", [1.0, 6.0]),
        ("a", [2.0, 3.0, 5.0]),  # 2 and 5 became known at once: the door judges that
        ("b", [4.0]),
    ]


def test_a_dry_run_reads_everything_and_keeps_nothing(tmp_path: Path) -> None:
    summary = run(csv(tmp_path, [*minutes(10), "x"]), None)
    assert (summary.rows, summary.readable, summary.accepted, summary.refused) == (11, 10, 0, {"corrupt_line": 1})


# --- sessions ------------------------------------------------------------------------------------------------


def session(*, shift_minutes: int, offset: str) -> list[str]:
    """Two sessions of 5-minute bars, 09:30 to 16:00 on the wall of New York, stamped this much later."""
    at = [(h, m) for h in range(9, 16) for m in range(0, 60, 5) if (h, m) >= (9, 30)]
    rows = []
    for day in ("2020-01-02", "2020-01-03"):
        for h, m in at:
            total = h * 60 + m + shift_minutes
            rows.append(f"{day} {total // 60:02}:{total % 60:02}{offset},1,1,1,1,1")
    return rows


def test_times_within_the_sessions_give_no_note(tmp_path: Path) -> None:
    calendar = Calendars().named("XNYS")
    path = csv(tmp_path, session(shift_minutes=0, offset=""))
    assert run(path, None, lambda _: calendar, timezone=NEW_YORK).notes == ()


def test_stamps_at_the_end_that_were_taken_for_the_start_are_noticed(tmp_path: Path) -> None:
    calendar = Calendars().named("XNYS")
    path = csv(tmp_path, session(shift_minutes=5, offset=""))
    (note,) = run(path, None, lambda _: calendar, timezone=NEW_YORK).notes
    assert "--stamp end" in note
    assert run(path, None, lambda _: calendar, timezone=NEW_YORK, stamp="end").notes == ()


def test_a_wrong_time_zone_is_noticed(tmp_path: Path) -> None:
    calendar = Calendars().named("XNYS")
    path = csv(tmp_path, session(shift_minutes=0, offset=""))
    (note,) = run(path, None, lambda _: calendar, timezone="UTC").notes
    assert "5 h later" in note
    assert "--timezone" in note


def test_the_time_zone_and_stamps_of_recorded_files(data_folder: Path) -> None:
    calendar = Calendars().named("XNYS")
    spy = str(data_folder / "bars_minute/lean_spy_10_min_20150303-19.csv.gz")
    (note,) = run(spy, None, lambda _: calendar, symbol="SPY", timezone=NEW_YORK).notes
    assert "--stamp end" in note
    assert run(spy, None, lambda _: calendar, symbol="SPY", timezone=NEW_YORK, stamp="end").notes == ()


# --- the real door -------------------------------------------------------------------------------------------


def test_importing_again_makes_no_new_versions(tmp_path: Path) -> None:
    path = csv(tmp_path, minutes(500))
    config = Config(server=ServerConfig(data_dir=str(tmp_path / "data")))

    async def twice() -> tuple[ImportSummary, ImportSummary, pa.Table]:
        clock = ManualClock(NOW)
        async with open_offline(config, clock) as engine:
            first = await import_file(understand(path), engine.keep, clock=clock)
            await clock.advance(3600)
            second = await import_file(understand(path), engine.keep, clock=clock)
            return first, second, engine.store.read("AAPL", Interval.parse("1m"), 0, NOW)

    first, second, stored = asyncio.run(twice())
    assert (first.accepted, first.new_versions, first.refused) == (500, 500, {})
    assert (second.accepted, second.new_versions) == (500, 0)
    assert stored.num_rows == 500
    assert stored.column("status").unique().to_pylist() == ["backfill"]
    assert stored.column("as_of").unique().cast(pa.int64()).to_pylist() == [NOW]


def _daily(folder: Path, adj: list[str], name: str = "X.csv") -> str:
    """Four days; a dividend of 1 on the third, when the close before was 100."""
    closes = ["100", "100", "99", "99"]
    dividends = ["0", "0", "1", "0"]
    rows = [
        f"2024-03-{5 + n:02},{close},{close},{close},{close},{a},{dividend},0,1000"
        for n, (close, a, dividend) in enumerate(zip(closes, adj, dividends, strict=True))
    ]
    return csv(folder, rows, "Date,Open,High,Low,Close,Adj Close,Dividends,Stock Splits,Volume", name)


def test_an_adjusted_close_that_agrees_with_the_dividends_is_nothing_to_tell(tmp_path: Path) -> None:
    summary = run(_daily(tmp_path, ["99", "99", "99", "99"]), Door(), interval="1d")
    assert (summary.accepted, summary.adjustment) == (4, ())


@pytest.mark.parametrize("kept", [True, False])
def test_an_adjustment_that_lacks_a_dividend_is_told_and_the_raw_bars_are_kept(tmp_path: Path, kept: bool) -> None:
    summary = run(_daily(tmp_path, ["100", "100", "99", "99"]), Door() if kept else None, interval="1d")
    ((symbol, finding),) = summary.adjustment
    assert (symbol, finding.code, finding.rows) == ("X", "adjustment_missing", 2)
    assert (finding.at_ns, finding.end_ns) == (parse_ns("2024-03-07"), parse_ns("2024-03-06"))
    assert (summary.readable, summary.refused) == (4, {})


def test_a_dividend_on_a_row_without_prices_is_not_lost(tmp_path: Path) -> None:
    path = Path(_daily(tmp_path, ["99", "99", "99", "99"]))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].replace(",1,0,", ",0,0,")
    lines.insert(3, "2024-03-06,,,,,,1,0,")
    path.write_text("\n".join(lines), encoding="utf-8")
    summary = run(str(path), Door(), interval="1d")
    assert (summary.refused, summary.adjustment) == ({"absent_price": 1}, ())


def test_findings_are_those_of_each_symbol(tmp_path: Path) -> None:
    """One file of two symbols, of which the second lacks the dividend."""
    parts = [
        Path(_daily(tmp_path, adj)).read_text(encoding="utf-8") for adj in (["99"] * 4, ["100", "100", "99", "99"])
    ]
    rows = [f"{symbol},{line}" for symbol, part in zip("AB", parts, strict=True) for line in part.splitlines()[1:]]
    header = "Symbol," + parts[0].splitlines()[0]
    summary = run(csv(tmp_path, rows, header, "both.csv"), Door(), interval="1d")
    assert [(symbol, finding.code) for symbol, finding in summary.adjustment] == [("B", "adjustment_missing")]


@pytest.mark.parametrize(
    ("family", "files", "doubtful"),
    [("bad-div", 11, 11), ("cg-double-count", 2, 2), ("missing-div-adjust", 1, 1), ("no-bad-divs", 4, 0)],
)
def test_recorded_files_whose_dividends_are_wrong_are_noticed(
    data_folder: Path, family: str, files: int, doubtful: int
) -> None:
    paths = sorted((data_folder / "bad_data" / "yfinance").glob(f"*-1d-{family}.csv.gz"))
    found = [run(str(path), None, interval="1d", symbol="X").adjustment for path in paths]
    assert (len(found), sum(map(bool, found))) == (files, doubtful)


def test_the_door_names_the_files_line(tmp_path: Path) -> None:
    """Two symbols by turns, so that neither is where it was in the file; a high below the low in lines 4 and 9."""
    rows = [f"{'AB'[n % 2]},{START_S + 60 * (n // 2)},100.{n},101.{n},99.{n},100.{n},5" for n in range(12)]
    rows[2] = rows[2].replace("101.2,99.2", "99.2,101.2")
    rows[7] = rows[7].replace("101.7,99.7", "99.7,101.7")
    rows[4] = "A,nonsense"
    path = csv(tmp_path, rows, "symbol,ts,open,high,low,close,volume", "two.csv")

    async def main() -> ImportSummary:
        config = Config(server=ServerConfig(data_dir=str(tmp_path / "data")))
        async with open_offline(config) as engine:
            plan = understand(path, FileOptions(interval="1m"))
            return await import_file(plan, engine.keep, clock=ManualClock(NOW))

    summary = asyncio.run(main())
    told = sorted((row.reason, row.symbol, row.where) for row in summary.quarantined)
    assert told == [
        ("corrupt_line", None, f"{path}:6"),
        ("high_below_low", "A", f"{path}:4"),
        ("high_below_low", "B", f"{path}:9"),
    ]


# --- the commands --------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "marketd.yaml"
    path.write_text(f"server:\n  data_dir: {tmp_path / 'data'}\nmarket_data: {{}}\n", encoding="utf-8")
    return str(path)


def invoke(command: Any, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=True)
    if isinstance(result.exception, MarketDataError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_dry_run_shows_how_the_file_was_understood(tmp_path: Path) -> None:
    rows = [
        "01/02/2020 09:35 AM,1,3,1,2,7",
        "13/02/2020 09:40 AM,1,3,1,2,7",
        "x,1,3,1,2,7",
        "13/02/2020 09:45 AM,1,3,1,2,7",
    ]
    path = csv(tmp_path, rows, "Date,Open,High,Low,Close,Volume")
    code, said = invoke(import_files, path, "--timezone", NEW_YORK, "--stamp", "end", "--interval", "5m", "--dry-run")
    assert code == 0
    for words in (
        "'Date': ts", "DD/MM/YYYY [HH:MM], America/New_York", "end of the bar", "interval  5m", "oldest first",
        "bars      3 can be read", "2020-02-01T14:30:00Z", "2020-02-13T14:40:00Z", "refused   1 bad_time",
        f"{path}:4: bad_time: Date=x", "nothing was kept",
    ):  # fmt: skip
        assert words in said, said


def test_the_command_checks_times_against_a_calendar(tmp_path: Path, config: str) -> None:
    path = csv(tmp_path, session(shift_minutes=0, offset=""))
    arguments = (path, "--dry-run", "--timezone", "UTC")
    assert "lie outside" in invoke(import_files, *arguments, "--calendar", "XNYS")[1]
    assert "lie outside" not in invoke(import_files, *arguments)[1]  # nothing is known about AAPL
    with Path(config).open("a", encoding="utf-8") as file:
        file.write("calendars:\n  symbols: {AAPL: XNYS}\n")
    assert "lie outside" in invoke(import_files, *arguments, "--config", config)[1]
    code, said = invoke(import_files, path, "--calendar", "XNOPE", "--dry-run")
    assert (code, "XNOPE" in said) == (2, True)


def test_import_export_and_import_again(tmp_path: Path, config: str) -> None:
    path = csv(tmp_path, minutes(300))
    code, said = invoke(import_files, path, "--config", config)
    assert code == 0, said
    assert "300 bars: 300 new, 0 known before" in said
    out = str(tmp_path / "out.csv.gz")
    code, said = invoke(export_bars, "--out", out, "--symbol", "AAPL", "--config", config)
    assert code == 0, said
    assert "300 bars of 1 symbols" in said
    code, said = invoke(import_files, out, "--config", config)
    assert code == 0, said
    assert "300 bars: 0 new, 300 known before" in said


@pytest.mark.parametrize("ending", ["parquet", "csv.gz"])
def test_an_export_of_versions_is_imported_as_the_same_versions(tmp_path: Path, config: str, ending: str) -> None:
    step = 60 * 10**9
    start_ns = START_S * 10**9
    template = {
        "symbol": "AAPL", "interval": "1m", "side": "trade", "open": 100.0, "high": 102.0, "low": 99.0,
        "volume": 7.0, "vwap": None, "trades": 3,
    }  # fmt: skip
    told = [  # minute, close, provider, status, known so many seconds after its start
        (0, 100.5, "sim", "final", 60), (0, 100.5, "sim", "withdrawn", 90), (1, 100.25, "sim", "provisional", 60),
        (1, 100.5, "sim", "final", 61), (1, 100.75, "yahoo", "backfill", 61), (1, 100.25, "sim", "provisional", 95),
        (1, 101.0, "file:adjusted", "backfill", 99), (3, 100.0, "sim", "final", 60), (3, 100.0, "sim", "withdrawn", 70),
    ]  # fmt: skip
    bars = [
        template
        | {"ts": start_ns + n * step, "close": close, "provider": provider, "status": status}
        | {"as_of": start_ns + n * step + known * 10**9}
        for n, close, provider, status, known in told
    ]
    table = pa.Table.from_pylist(bars, schema=BAR_SCHEMA)
    folders = [tmp_path / "data", tmp_path / "other"]

    async def stored(folder: Path, new: pa.Table | None = None) -> pa.Table:
        async with open_offline(Config(server=ServerConfig(data_dir=str(folder)))) as engine:
            if new is not None:
                engine.store.append(new)
            batches = engine.store.read_versions("AAPL", Interval.parse("1m"), 0, NOW)
            return pa.Table.from_batches(batches, BAR_SCHEMA)

    assert asyncio.run(stored(folders[0], table)).equals(table)
    out = str(tmp_path / f"out.{ending}")
    code, said = invoke(export_bars, "--out", out, "--versions", "--config", config)
    assert (code, "9 bars of 1 symbols" in said) == (0, True)
    other = tmp_path / "other.yaml"
    other.write_text(f"server:\n  data_dir: {folders[1]}\nmarket_data: {{}}\n", encoding="utf-8")
    for new in (9, 0):
        code, said = invoke(import_files, out, "--as-of", "file", "--config", str(other))
        assert code == 0, said
        assert f"9 bars: {new} new" in said
        assert asyncio.run(stored(folders[1])).equals(table)


def test_what_is_left_open_is_asked_before_anything_is_kept(tmp_path: Path, config: str) -> None:
    good = csv(tmp_path, minutes(10))
    bad = csv(tmp_path, ["1/2/2020,1,1,1,1,1", "1/3/2020,1,1,1,1,1", "1/4/2020,1,1,1,1,1"], name="MSFT.csv")
    code, said = invoke(import_files, good, bad, "--config", config)
    assert code == 2
    assert "date_format" in said
    code, said = invoke(export_bars, "--out", str(tmp_path / "out.parquet"), "--config", config)
    assert (code, "0 bars" in said) == (1, True)


def test_a_file_with_nothing_to_keep_is_exit_code_1(tmp_path: Path, config: str) -> None:
    path = csv(tmp_path, ["2020-01-02T14:30Z,1,1,1,,1", "2020-01-02T14:31Z,1,1,1,,1"])
    code, said = invoke(import_files, path, "--interval", "1m", "--config", config)
    assert (code, "2 absent_price" in said) == (1, True)


def test_observations_with_the_times_they_became_known(tmp_path: Path, config: str) -> None:
    rows = [
        "2020-01-01,1.5,2020-02-01T12:00:00Z,new", "2020-02-01,1.75,2020-03-01T12:00:00Z,new",
        "2020-01-01,1.6,2020-03-01T12:00:00Z,revised", "2020-02-01,,2020-03-02T12:00:00Z,withdrawn",
        "2020-03-01,,2020-03-02T12:00:00Z,new", "2020-04-01,2.5,2020-05-04,new",
    ]  # fmt: skip
    path = csv(tmp_path, rows, "observation_date,value,known_at,change")
    code, said = invoke(import_files, path, "--observations", "CPI", "--config", config)
    assert code == 0, said
    assert "5 new, 0 known before" in said
    assert f"{path}:6: not_a_number" in said

    async def at(time: str) -> list[tuple[int, float]]:
        async with open_offline(Config(server=ServerConfig(data_dir=str(tmp_path / "data")))) as engine:
            table = engine.records.observations("CPI", 0, NOW, as_of_ns=parse_ns(time))
            return list(
                zip(table.column("ts").cast(pa.int64()).to_pylist(), table.column("value").to_pylist(), strict=True)
            )

    january, february, april = (parse_ns(f"2020-{month}-01") for month in ("01", "02", "04"))
    assert asyncio.run(at("2020-02-15")) == [(january, 1.5)]
    assert asyncio.run(at("2020-03-01T12:00:00Z")) == [(january, 1.6), (february, 1.75)]
    assert asyncio.run(at("2020-05-04T23:59:59Z")) == [(january, 1.6)]
    assert asyncio.run(at("2020-05-05")) == [(january, 1.6), (april, 2.5)]


def test_corporate_actions(tmp_path: Path, config: str) -> None:
    rows = [
        "AAPL,split,2014-06-09,7:1,",
        "AAPL,dividend,2014-08-07,,0.47",
        "FB,rename,2022-06-09,,",
        "X,merger,2020-01-01,,",
    ]
    path = csv(tmp_path, rows, "symbol,kind,ex_date,ratio,amount")
    code, said = invoke(import_files, path, "--actions", "--as-of", "2014-06-01T00:00:00Z", "--config", config)
    assert code == 0, said
    assert "2 new" in said
    assert "2 bad_action" in said

    async def actions() -> Any:
        async with open_offline(Config(server=ServerConfig(data_dir=str(tmp_path / "data")))) as engine:
            return engine.records.actions("AAPL")

    split, dividend = asyncio.run(actions())
    assert (split.kind, split.ratio, split.ex_ns, split.as_of_ns) == (
        "split", 7.0, parse_ns("2014-06-09"), parse_ns("2014-06-01"),
    )  # fmt: skip
    assert (dividend.kind, dividend.amount, dividend.ex_ns) == ("dividend", 0.47, parse_ns("2014-08-07"))


def test_recorded_vintages_are_read_whole(data_folder: Path, tmp_path: Path, config: str) -> None:
    path = str(data_folder / "macro/vintages/cpi_us_monthly_revisions.csv.gz")
    code, said = invoke(import_files, path, "--observations", "CPI", "--config", config)
    assert code == 0, said
    assert "refused" not in said


def test_the_command_shows_what_is_doubtful(tmp_path: Path) -> None:
    path = _daily(tmp_path, ["100", "100", "99", "99"])
    code, said = invoke(import_files, path, "--interval", "1d", "--dry-run")
    assert code == 0
    for words in (
        "'Adj Close': adj_close, compared only", "'Dividends': dividend, compared only",
        "doubtful  1 adjustment_missing",
        "X 2024-03-07: adjustment_missing: the dividend of 1 was not taken off (2 rows up to 2024-03-06)",
    ):  # fmt: skip
        assert words in said, said
