"""History side by side with its peers: H1 to H10, as markdown tables.

    .venv/bin/python bench/history.py [--quick | --full] [--only h1,h3] [--repeats 3] [--folder DIR] [--json FILE]

Linux only. Every piece of work runs in a process of its own (`history_work.py`) on the first core, with all threads of
the engine and, for PostgreSQL, its server; the client of the HTTP rows has the second core. Contestants take turns
within a repeat. What several rows need (a day, a year) is built once, in a folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

import history_data as data
from history_work import peak_mb, reset_peak, timed
from marketd.store.embedded import EmbeddedStoreConfig
from run import machine, report
from scenarios import Bar, Section, Settings, at_most, in_turns, median, ratio, shown
from servers import (
    BENCH,
    BIN,
    LOAD_CORE,
    QUIET_INTERVAL_MS,
    SERVER_CORE,
    accepts,
    core,
    free_port,
    get_json,
    process,
    wait_for,
)

US, ARCTIC, DUCKDB, POSTGRES = "marketd", "ArcticDB", "DuckDB", "PostgreSQL"
DEFAULT_JSON = BENCH.parent / "test-artifacts" / "bench-history.json"
WORK_S_MAX = 3600
FAR_NS = data.open_of(500)
"""A time at which everything has been merged into years."""
WARM_UP = 2
ANSWER_BYTES_MAX = 1 << 26
MIB_AN_ANSWER = 64
MIB_STORE_CACHE = EmbeddedStoreConfig().rows_cached * 89 / 2**20
"""What the store may keep of decoded rows by default: `rows_cached` of 11 columns."""


@dataclass(frozen=True)
class Sizes:
    """symbols, minutes: of a live day. year_symbols, sessions: of the year. long_sessions: of one long series."""

    symbols: int
    minutes: int
    year_symbols: int
    sessions: int
    backfill_symbols: int
    version_symbols: int
    long_sessions: int
    reads: int


QUICK = Sizes(1000, 60, 20, 60, 4, 5, 504, 5)
DEFAULT = Sizes(8000, 390, 100, 252, 10, 12, 5040, 20)
FULL = replace(DEFAULT, year_symbols=500)


@dataclass
class Lab:
    """Where the work is done, how large it is, and what has been built already."""

    folder: Path
    sizes: Sizes
    settings: Settings
    built: dict[str, dict] = field(default_factory=dict)

    def work(self, engine: str, job: str, folder: Path, **parameters: object) -> dict:
        """What the job said. Raises RuntimeError with the end of its errors; a job that kills itself says nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(BENCH / "history_work.py"), engine, job, str(folder), json.dumps(parameters)]
        with core(SERVER_CORE):
            done = subprocess.run(command, capture_output=True, text=True, timeout=WORK_S_MAX, check=False)
        if parameters.get("end") == "kill" and done.returncode == -9:
            return {}
        if done.returncode:
            raise RuntimeError(f"{engine} {job} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A folder for one job."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)

    def build(self, name: str, engine: str, job: str, **parameters: object) -> Path:
        """The folder of that name, in which the job was done before or is done now."""
        folder = self.folder / name
        if name not in self.built:
            say(f"  building {name} …")
            self.built[name] = self.work(engine, job, folder, **parameters)
        return folder

    def sample(self, symbols: int, repeat: int) -> list[int]:
        """Numbers of different symbols: the first `WARM_UP` are not counted."""
        return random.Random(repeat).sample(range(symbols), min(symbols, WARM_UP + self.sizes.reads))

    def judge(self, holds: bool | None) -> bool | None:
        """Short runs say nothing about speed."""
        return None if self.settings.quick else holds

    # --- what is built once -------------------------------------------------------------------------------

    @property
    def year(self) -> data.Year:
        return data.Year(self.folder / "year", self.sizes.year_symbols, self.sizes.sessions)

    def of_year(self, name: str, engine: str, **parameters: object) -> Path:
        if not self.year.folder.exists():
            say("  making the year …")
            with core(SERVER_CORE):
                self.year.make()
        shape = {"symbols": self.sizes.year_symbols, "sessions": self.sizes.sessions}
        return self.build(name, engine, "build_year", year=str(self.year.folder), **shape, **parameters)

    @property
    def natural_ns(self) -> int:
        """When the year is over and its last weeks are in files of a day."""
        return data.open_of(self.sizes.sessions) + 10 * 3600 * data.NS

    def natural(self) -> Path:
        return self.of_year("marketd-year", US)

    def merged(self) -> Path:
        """The same when all of it is in files of a year."""
        folder = self.folder / "marketd-merged"
        if folder.name not in self.built:
            _copy_store(self.natural(), folder)
        return self.build(folder.name, US, "settle", now_ns=FAR_NS)

    def day(self) -> Path:
        """A store at the end of a live day: what a server has in memory, log and parts."""
        return self.build("marketd-day", US, "append_day", **self.live_day(), holes=True, paced=True)

    def sealed_day(self) -> Path:
        """The same on the next day."""
        folder = self.folder / "marketd-sealed-day"
        if folder.name not in self.built:
            _copy_store(self.day(), folder)
        return self.build(folder.name, US, "settle", now_ns=data.open_of(1))

    def duckdb_day(self) -> Path:
        folder = self.build("duckdb-day", DUCKDB, "append_day", **self.live_day(), holes=True)
        if "duckdb-day-sorted" not in self.built:
            self.built["duckdb-day-sorted"] = self.work(DUCKDB, "sort_day", folder)
        return folder

    def live_day(self) -> dict:
        return {"symbols": self.sizes.symbols, "minutes": self.sizes.minutes, "session": 0}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _copy_store(source: Path, target: Path) -> None:
    """Files that never change are linked, the others copied."""

    def copy(one: str, other: str) -> None:
        (os.link if one.endswith((".parquet", ".coverage")) else shutil.copyfile)(one, other)

    shutil.copytree(source, target, copy_function=copy)


def same(results: dict[str, list[dict | None]], key: str) -> Bar:
    """Whether all contestants gave the same in each repeat."""
    what = f"the same {key} from all {len(results)}"
    if not all(all(runs) for runs in results.values()):
        return Bar(what, "–", None)
    each = [[run[key] for run in runs] for runs in zip(*results.values(), strict=True)]
    differ = [seen for seen in each if any(other != seen[0] for other in seen)]
    return Bar(what, f"{differ[0]}"[:200] if differ else "yes", not differ)


def bound(lab: Lab, what: str, value: float | None, limit: float, *, unit: str = " ×", digits: int = 2) -> Bar:
    return Bar(what, shown(value, digits, unit), lab.judge(at_most(value, limit)))


def floor(lab: Lab, what: str, value: float | None, limit: float) -> Bar:
    return Bar(what, shown(value, 2, " ×"), lab.judge(None if value is None else value >= limit))


def times_table(section: Section, results: dict[str, list[dict | None]], *, digits: int = 1) -> None:
    """A row a contestant: its median, and ours divided by it."""
    for name, runs in results.items():
        ms = median(run["ms"] for run in runs if run)
        section.rows.append([name, shown(ms, digits), shown(ratio(results[US], runs, "ms"))])
    section.raw |= results


# --- H1, H2: writing ---------------------------------------------------------------------------------------------


def h1(lab: Lab) -> Section:
    """Live append."""
    from peers import postgres_history

    checked = f"{DUCKDB}, version check in SQL"
    paced = f"{US}, sealing beside it"
    contestants: dict[str, tuple[str, dict]] = {
        US: (US, {"end": "seal"}),
        paced: (US, {"end": "seal", "paced": True}),
        f"{ARCTIC}, one table": (ARCTIC, {}),
        DUCKDB: (DUCKDB, {}),
        checked: (DUCKDB, {"checked": True}),
        f"{POSTGRES} COPY binary": (POSTGRES, {}),
    }

    def measure(_name: str, contestant: object) -> dict:
        engine, how = contestant
        with lab.fresh() as folder:
            if engine != POSTGRES:
                return lab.work(engine, "append_day", folder, **lab.live_day(), **how)
            with core(SERVER_CORE), postgres_history.server(lab.folder.parent) as url:
                return lab.work(engine, "append_day", folder, **lab.live_day(), url=url)

    results = in_turns(lab.settings, contestants, measure)
    section = Section(
        f"live append, {lab.sizes.minutes} minutes of {lab.sizes.symbols:,} rows, durable before acknowledged",
        [
            "store",
            "rows/s",
            "marketd ÷ it",
            "p50 ms",
            "p99 ms",
            "first tenth ms",
            "last tenth ms",
            "rows/s with sealing",
            "peak MB",
        ],
        raw=results,
    )
    for name, runs in results.items():
        keys = {"p50_ms": 1, "p99_ms": 1, "first_ms": 1, "last_ms": 1, "sealed_rows_s": 0, "peak_mb": 0}
        cells = [shown(median(run.get(key) for run in runs if run), digits) for key, digits in keys.items()]
        rows_s = shown(median(run["rows_s"] for run in runs if run), 0)
        section.rows.append([name, rows_s, shown(ratio(results[US], runs, "rows_s")), *cells])
    ours = results[US]
    slower = median(run["last_ms"] / run["first_ms"] for run in ours if run)
    arctic, postgres = results[f"{ARCTIC}, one table"], results[f"{POSTGRES} COPY binary"]
    section.bars = [
        floor(lab, "rows/s ≥ 1.3 × ArcticDB", ratio(ours, arctic, "rows_s"), 1.3),
        floor(lab, "rows/s ≥ 1.5 × DuckDB insert", ratio(ours, results[DUCKDB], "rows_s"), 1.5),
        floor(lab, "rows/s ≥ 6 × PostgreSQL COPY binary", ratio(ours, postgres, "rows_s"), 6),
        bound(lab, "p99 ≤ 0.2 × DuckDB's", ratio(ours, results[DUCKDB], "p99_ms"), 0.2),
        bound(lab, "p99 ≤ 0.2 × DuckDB's, sealing beside it", ratio(results[paced], results[DUCKDB], "p99_ms"), 0.2),
        bound(lab, "the day's last batches ≤ 1.5 × its first", slower, 1.5),
    ]
    section.notes.append(
        "marketd checks versions, the others take every row as new, but for the DuckDB that says so. Frames for "
        "ArcticDB and the bytes of the COPY are made beforehand. marketd seals in pauses, of which this run has none: "
        "its rows/s are those of log and memory, and the day is sealed at the end. With `sealing beside it`, it seals "
        "on the same core when it would in a live day."
    )
    return section


def h2(lab: Lab) -> Section:
    """Back-fill."""
    small = f"{US}, batches of 5,000"
    contestants = {US: (US, 4_194_304), small: (US, 5_000), ARCTIC: (ARCTIC, None), DUCKDB: (DUCKDB, None)}

    def measure(_name: str, contestant: object) -> dict:
        engine, rows = contestant
        how = {} if rows is None else {"rows_a_batch": rows}
        sizes = {"symbols": lab.sizes.backfill_symbols, "sessions": lab.sizes.sessions}
        with lab.fresh() as folder:
            return lab.work(engine, "backfill", folder, **sizes, **how)

    results = in_turns(lab.settings, contestants, measure)
    rows = lab.sizes.sessions * data.MINUTES
    section = Section(
        f"back-fill, {lab.sizes.backfill_symbols} symbols × {rows:,} rows, one after the other",
        ["store", "rows/s", "marketd ÷ it", "ms a symbol"],
        raw=results,
    )
    for name, runs in results.items():
        per_symbol = median(run["p50_ms"] for run in runs if run)
        rows_s = shown(median(run["rows_s"] for run in runs if run), 0)
        section.rows.append([name, rows_s, shown(ratio(results[US], runs, "rows_s")), shown(per_symbol, 1)])
    section.bars = [
        floor(lab, "rows/s ≥ 1.0 × ArcticDB", ratio(results[US], results[ARCTIC], "rows_s"), 1.0),
        floor(lab, "rows/s ≥ 2 × DuckDB", ratio(results[US], results[DUCKDB], "rows_s"), 2),
    ]
    return section


# --- H3, H4, H5: reading -----------------------------------------------------------------------------------------


def h3(lab: Lab) -> Section:
    """A symbol-year."""
    before, over_http = f"{US}, weeks of day files", f"{US}, over HTTP as Arrow"
    by_symbol, by_arrival = f"{DUCKDB}, sorted, versions", f"{DUCKDB}, in arrival order, versions"
    contestants: dict[str, Callable[[list[int]], dict]] = {
        US: functools.partial(_read, lab, US, lab.merged(), now_ns=FAR_NS),
        before: functools.partial(_read, lab, US, lab.natural(), now_ns=lab.natural_ns),
        over_http: functools.partial(_read_over_http, lab),
        ARCTIC: functools.partial(_read, lab, ARCTIC, lab.of_year("arctic-year", ARCTIC)),
        by_symbol: functools.partial(_read, lab, DUCKDB, lab.of_year("duckdb-symbol", DUCKDB, order="symbol")),
        by_arrival: functools.partial(_read, lab, DUCKDB, lab.of_year("duckdb-arrival", DUCKDB, order="arrival")),
    }
    results = in_turns(lab.settings, contestants, _with_samples(lab, lab.sizes.year_symbols))
    section = Section(
        f"latest bars of one of {lab.sizes.year_symbols} symbols, {lab.sizes.sessions * data.MINUTES:,} minutes",
        ["store", "ms", "marketd ÷ it"],
    )
    times_table(section, results)
    ours = results[US]
    section.bars = [
        bound(lab, "merged ≤ 1.5 × ArcticDB", ratio(ours, results[ARCTIC], "ms"), 1.5),
        bound(lab, "merged ≤ 0.5 × DuckDB sorted", ratio(ours, results[by_symbol], "ms"), 0.5),
        bound(
            lab,
            "weeks of day files ≤ 0.3 × DuckDB in arrival order",
            ratio(results[before], results[by_arrival], "ms"),
            0.3,
        ),
        bound(lab, "over HTTP ≤ 2 × in process", ratio(results[over_http], ours, "ms"), 2),
        same({name: runs for name, runs in results.items() if name != over_http}, "digests"),
    ]
    arctic = {key: median(run[key] for run in results[ARCTIC] if run) for key in ("pyarrow_ms", "pandas_ms")}
    files = sum(1 for _ in (lab.natural() / "bars" / "bars").rglob("*.parquet"))
    section.notes.append(
        f"ArcticDB as Arrow {shown(arctic['pyarrow_ms'], 1)} ms, as pandas {shown(arctic['pandas_ms'], 1)} ms; the "
        f"faster counts. It has the latest bars alone. Before merging: {files} files. Over HTTP: "
        f"{median(run['bytes'] for run in results[over_http] if run) / 1e6:.1f} MB, which a bare ASGI application on "
        f"uvicorn sends the same client in {shown(median(run['bare_ms'] for run in results[over_http] if run), 1)} ms."
    )
    return section


def _read(lab: Lab, engine: str, folder: Path, numbers: list[int], **how: object) -> dict:
    return lab.work(engine, "read", folder, numbers=numbers, warm_up=WARM_UP, **how)


def _with_samples(lab: Lab, symbols: int) -> Callable[[str, object], dict]:
    """Everybody reads the same symbols within a repeat, and others in the next."""
    turns: dict[str, int] = {}

    def measure(name: str, read: object) -> dict:
        repeat = turns[name] = turns.get(name, -1) + 1
        return read(lab.sample(symbols, repeat))

    return measure


def _read_over_http(lab: Lab, numbers: list[int]) -> dict:
    """From the request to a table, on a connection that stays open; and the bytes of the last answer, from a server
    that has nothing else to do."""
    client = _ArrowClient()
    with served(lab, lab.merged()) as (port, _, _), core(LOAD_CORE), client.connected(port):
        told = [client.fetch(f"{_bars_of(data.names(number + 1)[-1])}&format=arrow") for number in numbers]
    with lab.fresh() as folder:
        (folder / "answer").write_bytes(client.body)
        port = free_port()
        command = [sys.executable, str(BENCH / "peers" / "bare_bytes.py"), str(folder / "answer"), str(port)]
        with process(command, on=SERVER_CORE) as child:
            wait_for(lambda: accepts(port), child)
            with core(LOAD_CORE), client.connected(port):
                bare = [client.fetch("/")[0] for _ in numbers]
    ms = [ms for ms, _ in told]
    return {
        "ms": median(ms[WARM_UP:]),
        "all_ms": ms,
        "rows": [rows for _, rows in told],
        "bytes": len(client.body),
        "bare_ms": median(bare[WARM_UP:]),
    }


class _ArrowClient:
    """Reads every answer into the same memory, as the reads in process use theirs again."""

    def __init__(self) -> None:
        self._memory = bytearray(ANSWER_BYTES_MAX)
        self._length = 0

    @contextmanager
    def connected(self, port: int) -> Iterator[None]:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        yield
        self._connection.close()

    @property
    def body(self) -> bytes:
        """Of the last answer."""
        return bytes(memoryview(self._memory)[: self._length])

    def fetch(self, path: str) -> tuple[float, int]:
        """Milliseconds until the table was there, and its rows."""
        ms, table = timed(lambda: self._table(path))
        return ms, table.num_rows

    def _table(self, path: str) -> pa.Table:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        memory, self._length = memoryview(self._memory), 0
        while count := response.readinto(memory[self._length :]):
            self._length += count
        if response.status != 200 or self._length == ANSWER_BYTES_MAX:
            raise RuntimeError(f"{response.status}: {self.body[:300]!r}")
        return pa.ipc.open_stream(memory[: self._length]).read_all()


def _bars_of(symbol: str, start: str = "2025-01-01", end: str = "2026-02-01") -> str:
    return f"/api/v1/market-data/historical/{symbol}?interval=1m&from={start}&to={end}"


@contextmanager
def served(lab: Lab, folder: Path, **store: int) -> Iterator[tuple[int, int, float]]:
    """`marketd serve` on a copy of a store: its port, its process, and the seconds it took to answer."""
    venue = {"time_zone": "UTC", "open": "Mon 14:30", "close": "Fri 21:00", "breaks": ["21:00-14:30"]}
    quiet = {"scenario": "flat", "base_price": "100.00", "tick_interval_ms": QUIET_INTERVAL_MS}
    settings = {
        "market_data": {"symbols": {"QUIET": quiet}},
        "calendars": {"venues": {"BENCH": venue}, "default": "BENCH"},
        "store": store,
    }
    with lab.fresh() as copy:
        _copy_store(folder / "bars", copy / "data")
        config = copy / "bench.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        port = free_port()
        command = [str(BIN / "marketd"), "serve", "--config", str(config), "--port", str(port)]
        began = time.monotonic()
        with process([*command, "--data-dir", str(copy / "data")], on=SERVER_CORE) as child:
            wait_for(lambda: get_json(f"127.0.0.1:{port}", "/health"), child)
            yield port, child.pid, time.monotonic() - began


def h4(lab: Lab) -> Section:
    """As of a time."""
    sizes = {"symbols": lab.sizes.version_symbols, "sessions": lab.sizes.sessions}
    section = Section(
        f"the same as of a time between the versions, one of {sizes['symbols']} symbols",
        ["versions a bar", "marketd ms", "DuckDB window SQL ms", "marketd ÷ it"],
    )
    for versions, limit in ((1, 1.0), (2, 1.0), (10, 1.3)):
        as_of_ns = data.open_of(lab.sizes.sessions) + 50 * data.DAY_NS
        known = {"versions": versions}
        ours = lab.build(f"marketd-{versions}-versions", US, "build_versions", **sizes, **known)
        theirs = lab.build(f"duckdb-{versions}-versions", DUCKDB, "build_versions", **sizes, **known)
        contestants = {
            US: functools.partial(_read, lab, US, ours, now_ns=FAR_NS, as_of_ns=as_of_ns),
            DUCKDB: functools.partial(_read, lab, DUCKDB, theirs, as_of_ns=as_of_ns),
        }
        results = in_turns(lab.settings, contestants, _with_samples(lab, lab.sizes.version_symbols))
        against = ratio(results[US], results[DUCKDB], "ms")
        ms = [shown(median(run["ms"] for run in runs if run), 1) for runs in results.values()]
        section.rows.append([str(versions), *ms, shown(against)])
        section.raw |= {f"{name}, {versions}": runs for name, runs in results.items()}
        section.bars += [
            bound(lab, f"versions a bar {versions}: ≤ {limit} × DuckDB", against, limit),
            same(results, "digests"),
        ]
    section.notes.append(
        "Version n came 20 n days after the bar; the time asked about is 50 days after the last bar, so that early "
        "bars have all of their versions by then and the last ones the first three."
    )
    return section


def h5(lab: Lab) -> Section:
    """One minute of all symbols."""
    rng = random.Random(5)
    every = [data.open_of(0) + minute * data.MINUTE_NS for minute in range(lab.sizes.minutes)]

    def minutes(of: list[int]) -> list[int]:
        return [rng.choice(of) for _ in range(WARM_UP + lab.sizes.reads)]

    earlier, sealed, hot = "marketd, earlier today", "marketd, a sealed day", "marketd, the last minute (hot)"
    end_ns = every[-1] + data.MINUTE_NS
    lab.day(), lab.sealed_day(), lab.duckdb_day()
    asked: dict[tuple[str, int], list[int]] = {}
    turns: dict[str, int] = {}

    def measure(name: str, contestant: object) -> dict:
        engine, folder, of, how = contestant
        repeat = turns[name] = turns.get(name, -1) + 1
        wanted = asked.setdefault((len(of), repeat), minutes(of))
        return lab.work(engine, "cross_section", folder, minutes=wanted, warm_up=WARM_UP, **how)

    results = in_turns(
        lab.settings,
        {
            hot: (US, lab.day(), every[-1:], {"now_ns": end_ns}),
            earlier: (US, lab.day(), every[: lab.sizes.minutes // 2], {"now_ns": end_ns}),
            sealed: (US, lab.sealed_day(), every, {"now_ns": data.open_of(1)}),
            f"{DUCKDB} sorted": (DUCKDB, lab.duckdb_day(), every, {}),
        },
        measure,
    )
    section = Section(f"one minute of {lab.sizes.symbols:,} symbols", ["store", "ms", "÷ DuckDB"], raw=results)
    for name, runs in results.items():
        ms = median(run["ms"] for run in runs if run)
        section.rows.append([name, shown(ms, 2), shown(ratio(runs, results[f"{DUCKDB} sorted"], "ms"), 3)])
    hot_ms = median(run["ms"] for run in results[hot] if run)
    section.bars = [
        bound(lab, "hot ≤ 1 ms", hot_ms, 1, unit=" ms"),
        bound(
            lab, "a sealed day ≤ 0.5 × DuckDB sorted", ratio(results[sealed], results[f"{DUCKDB} sorted"], "ms"), 0.5
        ),
        same({name: results[name] for name in (sealed, f"{DUCKDB} sorted")}, "digests"),
    ]
    return section


# --- H6, H7, H8: all of it ---------------------------------------------------------------------------------------


def h6(lab: Lab) -> Section:
    """Gaps."""
    sizes = lab.sizes
    day_end = data.open_of(0) + sizes.minutes * data.MINUTE_NS
    year_end = data.open_of(sizes.sessions)
    a_day, a_year = f"{sizes.symbols:,} × 1", f"{sizes.year_symbols} × {sizes.sessions}"
    day = {"symbols": sizes.symbols, "start_ns": data.open_of(0), "end_ns": day_end, "times": 5}
    year = {"symbols": sizes.year_symbols, "start_ns": data.open_of(0), "end_ns": year_end, "times": 3}
    sql_day = {"symbols": sizes.symbols, "sessions": [0], "times": 3, "minutes": sizes.minutes}
    sql_year = {"symbols": sizes.year_symbols, "sessions": list(range(sizes.sessions)), "times": 1}
    today, next_day = f"{US}, {a_day}, today", f"{US}, {a_day}, sealed"
    merged, weeks = f"{US}, {a_year}, merged", f"{US}, {a_year}, weeks of day files"
    duckdb_day, duckdb_year = f"{DUCKDB} anti-join, {a_day}", f"{DUCKDB} anti-join, {a_year}"
    contestants = {
        today: (US, lab.day(), {**day, "now_ns": day_end + 3600 * data.NS}),
        next_day: (US, lab.sealed_day(), {**day, "now_ns": data.open_of(1)}),
        duckdb_day: (DUCKDB, lab.duckdb_day(), sql_day),
        merged: (US, lab.merged(), {**year, "now_ns": FAR_NS}),
        weeks: (US, lab.natural(), {**year, "now_ns": lab.natural_ns}),
        duckdb_year: (DUCKDB, lab.of_year("duckdb-symbol", DUCKDB, order="symbol"), sql_year),
    }

    def measure(_name: str, contestant: object) -> dict:
        engine, folder, how = contestant
        return lab.work(engine, "gaps", folder, **how)

    results = in_turns(lab.settings, contestants, measure)
    section = Section(
        "what is missing, by symbol and minute",
        ["store, symbols × sessions", "ms", "÷ DuckDB", "first time ms", "presence alone ms", "peak MB", "missing"],
        raw=results,
    )
    for name, runs in results.items():
        against = results[duckdb_day if a_day in name else duckdb_year]
        of = {key: median(run.get(key) for run in runs if run) for key in ("ms", "first_ms", "presence_ms", "peak_mb")}
        cells = [shown(of["first_ms"], 1), shown(of["presence_ms"], 1), shown(of["peak_mb"], 0)]
        missing = shown(median(run["missing"] for run in runs if run), 0)
        section.rows.append([name, shown(of["ms"], 1), shown(ratio(runs, against, "ms"), 3), *cells, missing])
    peaks = [median(run["peak_mb"] for run in results[name] if run) for name in (merged, weeks)]
    section.bars = [
        *(
            bound(lab, f"{name} ≤ 0.1 × anti-join", ratio(results[name], results[duckdb_day], "ms"), 0.1, digits=3)
            for name in (today, next_day)
        ),
        *(
            bound(lab, f"{name} ≤ 0.25 × anti-join", ratio(results[name], results[duckdb_year], "ms"), 0.25, digits=3)
            for name in (merged, weeks)
        ),
        *(
            bound(lab, f"{name}: under 500 MB", peak, 500, unit=" MB", digits=0)
            for name, peak in zip((merged, weeks), peaks, strict=True)
        ),
        same({name: results[name] for name in (today, next_day, duckdb_day)}, "missing"),
        same({name: results[name] for name in (merged, weeks, duckdb_year)}, "missing"),
    ]
    section.notes.append(
        "marketd gives spans with their reasons, from the store, the calendar and the records; DuckDB the rows of an "
        "anti-join with expected minutes that it has at hand. Peak is that of the whole process."
    )
    return section


def h7(lab: Lab) -> Section:
    """Minutes to days."""
    contestants = {
        US: (US, lab.merged(), {"now_ns": FAR_NS}),
        f"{US}, weeks of day files": (US, lab.natural(), {"now_ns": lab.natural_ns}),
        f"{DUCKDB}, no versions": (DUCKDB, lab.of_year("duckdb-latest", DUCKDB, order="latest"), {}),
    }

    def measure(_name: str, contestant: object) -> dict:
        engine, folder, how = contestant
        return lab.work(engine, "roll_up", folder, times=1, **how)

    results = in_turns(lab.settings, contestants, measure)
    ours, theirs = results[US], results[f"{DUCKDB}, no versions"]
    rows = median(run["rows"] for run in ours if run)
    section = Section(
        f"1m → 1d of {shown(rows, 0)} bars, latest versions",
        ["store", "s", "marketd ÷ it", "the scan alone s", "peak MB"],
        raw=results,
    )
    for name, runs in results.items():
        seconds = [median(run.get(key) for run in runs if run) for key in ("ms", "scan_ms")]
        cells = [shown(None if s is None else s / 1e3) for s in seconds]
        peak = shown(median(run["peak_mb"] for run in runs if run), 0)
        section.rows.append([name, cells[0], shown(ratio(ours, runs, "ms")), cells[1], peak])
    section.bars = [
        bound(lab, "≤ 1.5 × DuckDB without versions", ratio(ours, theirs, "ms"), 1.5),
        bound(lab, "under 2 GB", median(run["peak_mb"] for run in ours if run), 2048, unit=" MB", digits=0),
        same(results, "digest"),
    ]
    section.notes.append(
        "marketd rolls up all columns (vwap, trades, status, provider, as_of too), DuckDB open, high, low, close, "
        "volume. " + _full_size(lab)
    )
    return section


def _full_size(lab: Lab) -> str:
    if lab.sizes.year_symbols >= FULL.year_symbols:
        return "This is the size that was promised for."
    return f"{lab.sizes.year_symbols} of {FULL.year_symbols} symbols; `--full` has all."


def h8(lab: Lab) -> Section:
    """Bytes a row."""
    lab.merged(), lab.natural()
    names = {
        US: "marketd-merged",
        f"{US}, weeks of day files": "marketd-year",
        f"{DUCKDB}, sorted, versions": "duckdb-symbol",
        f"{DUCKDB}, in arrival order, versions": "duckdb-arrival",
        f"{ARCTIC}, latest": "arctic-year",
    }
    lab.of_year("duckdb-symbol", DUCKDB, order="symbol")
    lab.of_year("duckdb-arrival", DUCKDB, order="arrival")
    lab.of_year("arctic-year", ARCTIC)
    section = Section("bytes a sealed row", ["store", "rows", "bytes a row", "marketd ÷ it"])
    each = {name: lab.built[built]["bytes"] / lab.built[built]["versions"] for name, built in names.items()}
    for name, built in names.items():
        rows = shown(lab.built[built]["versions"], 0)
        section.rows.append([name, rows, shown(each[name], 1), shown(each[US] / each[name])])
        section.raw[name] = [lab.built[built]]
    *duckdb, arctic = (each[name] for name in list(names)[2:])
    section.bars = [
        bound(lab, "≤ 0.75 × DuckDB, the smaller", each[US] / min(duckdb), 0.75),
        bound(lab, "≤ 0.6 × ArcticDB", each[US] / arctic, 0.6),
    ]
    section.notes.append(
        "marketd: all sealed files with their coverage, of every version; before merging with the copies by time of "
        "the last days. " + _full_size(lab)
    )
    return section


# --- H9, H10: answers, and beginning again ---------------------------------------------------------------------------


def h9(lab: Lab) -> Section:
    """Encoding."""
    sessions = {"sessions": lab.sizes.sessions}
    one = lab.build("marketd-one", US, "backfill", symbols=1, rows_a_batch=4_194_304, **sessions)
    alone = "pyarrow, orjson"
    times = int(lab.settings.of(3, 9))

    def measure(name: str, _contestant: object) -> dict:
        return lab.work(US, "encode" if name == US else "encode_alone", one, times=times, **sessions)

    results = in_turns(lab.settings, {US: None, alone: None}, measure)
    kinds = list(dict.fromkeys(kind for runs in results.values() for run in runs if run for kind in run["ms"]))

    def of(name: str, kind: str) -> list[dict | None]:
        return [{"ms": run["ms"].get(kind)} if run else None for run in results[name]]

    memory, rows = _answers(lab)
    section = Section(
        f"encoding {lab.sizes.sessions * data.MINUTES:,} bars; answers of {rows:,} bars over HTTP",
        [
            "format",
            "marketd ms",
            "pyarrow, orjson ms",
            "marketd ÷ it",
            "bytes a bar",
            "server's growth MiB",
            "slow client",
        ],
        raw={**results, "answers": [memory]},
    )
    count = median(run["rows"] for run in results[US] if run)
    for kind in kinds:
        size = median(run["bytes"].get(kind) for run in results[US] if run)
        cells = [shown(median(run["ms"] for run in of(name, kind) if run), 1) for name in (US, alone)]
        told = memory.get(kind, {})
        section.rows.append(
            [
                kind,
                *cells,
                shown(ratio(of(US, kind), of(alone, kind), "ms")),
                shown(size / count if size and count else None, 0),
                shown(told.get("growth_mib"), 0),
                shown(told.get("slow_growth_mib"), 0),
            ]
        )
    growth = max(value for told in memory.values() for key, value in told.items() if key.endswith("growth_mib"))
    allowed = MIB_AN_ANSWER + MIB_STORE_CACHE
    section.bars = [
        bound(lab, "Arrow ≤ 2 × pyarrow alone", ratio(of(US, "arrow"), of(alone, "arrow"), "ms"), 2),
        bound(
            lab,
            "JSON rows ≤ 0.5 × orjson on `to_pylist`",
            ratio(of(US, "json rows"), of(alone, "json rows"), "ms"),
            0.5,
        ),
        bound(
            lab,
            f"no answer holds more than {MIB_AN_ANSWER} MiB beside the store's cache ({MIB_STORE_CACHE:.0f} MiB)",
            growth,
            allowed,
            unit=" MiB",
            digits=0,
        ),
    ]
    section.notes.append(
        "Growth is the peak of resident memory during an answer over what the server had before, in a server of its "
        "own for each; the slow client waits 3 s after the first 64 KB. JSON over HTTP is a page of 100,000 bars, the "
        "most there is; the other formats have the whole range."
    )
    return section


def _answers(lab: Lab) -> tuple[dict[str, dict], int]:
    """How much a server grows while it answers, by format."""
    folder = lab.build("marketd-long", US, "build_long", sessions=lab.sizes.long_sessions, first="2006-01-02")
    whole = _bars_of("S0000", "2006-01-01", "2026-02-01")
    asked = {
        "arrow": f"{whole}&format=arrow",
        "csv": f"{whole}&format=csv",
        "parquet": f"{whole}&format=parquet",
        "json rows": f"{whole}&format=rows&limit=100000&order=asc",
        "json columns": f"{whole}&format=columns&limit=100000&order=asc",
    }
    told: dict[str, dict] = {}
    for kind, path in asked.items():
        say(f"  {kind} of {lab.built['marketd-long']['rows']:,} bars …")
        told[kind] = {}
        for key, pause_s in (("growth_mib", 0), ("slow_growth_mib", 3)):
            with served(lab, folder) as (port, pid, _), core(LOAD_CORE):
                _drain(port, f"{_bars_of('S0000', '2025-01-01', '2025-01-08')}&format={path.split('format=')[1]}", 0)
                reset_peak(pid)
                before = peak_mb(pid)
                told[kind][key.replace("growth_mib", "bytes")] = _drain(port, path, pause_s)
                told[kind][key] = peak_mb(pid) - before
    return told, lab.built["marketd-long"]["rows"]


def _drain(port: int, path: str, pause_s: float) -> int:
    """Read an answer away and count its bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    count = len(response.read(65_536))
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}")
    time.sleep(pause_s)
    while part := response.read(1 << 20):
        count += len(part)
    connection.close()
    return count


def h10(lab: Lab) -> Section:
    """Restart."""
    whole_log = {"seal_rows": 4_000_000, "seal_rows_idle": 4_000_000, "log_bytes_max": 2**32}
    contestants = {"a full day in the log": whole_log, "default settings": {}}

    def measure(_name: str, config: object) -> dict:
        with lab.fresh() as folder:
            lab.work(US, "append_day", folder, **lab.live_day(), paced=True, end="kill", config=config)
            now_ns = data.open_of(0) + lab.sizes.minutes * data.MINUTE_NS
            with served(lab, folder, **config) as (_, _, seconds):
                pass
            return lab.work(US, "restart", folder, now_ns=now_ns, config=config) | {"serving_s": seconds}

    results = in_turns(lab.settings, contestants, measure)
    section = Section(
        f"restart after `kill -9` at the end of a day of {lab.sizes.symbols * lab.sizes.minutes:,} bars",
        ["store", "bars in the log", "opening s", "`marketd serve` to the first answer s", "lost"],
        raw=results,
    )
    for (name, runs), config in zip(results.items(), contestants.values(), strict=True):
        seen = [run for run in runs if run]
        opening, serving = median(run["ms"] / 1e3 for run in seen), median(run["serving_s"] for run in seen)
        in_log = median(run["in_log"] for run in seen)
        if config is whole_log and in_log != lab.sizes.symbols * lab.sizes.minutes:
            section.notes.append(f"{name}: the log had {shown(in_log, 0)} bars only.")
        lost = max((run["lost"] for run in seen), default=None)
        section.rows.append([name, shown(in_log, 0), shown(opening), shown(serving), shown(lost, 0)])
        section.bars += [
            bound(lab, f"{name}: opening ≤ 2 s", opening, 2, unit=" s"),
            bound(lab, f"{name}: serving ≤ 2 s", serving, 2, unit=" s"),
            Bar(f"{name}: nothing acknowledged is lost", shown(lost, 0), None if lost is None else lost == 0),
        ]
    return section


SCENARIOS: dict[str, Callable[[Lab], Section]] = {
    scenario.__name__: scenario for scenario in (h1, h2, h3, h4, h5, h6, h7, h8, h9, h10)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small and short, to see that everything works")
    size.add_argument("--full", action="store_true", help="a year of 500 symbols: 49 million bars")
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--repeats", type=int, help="3, or 1 with --quick")
    parser.add_argument(
        "--folder", type=Path, help="where to work: a disk whose sync means something, 20 GB with --full"
    )
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, help="every figure of every run goes here")
    args = parser.parse_args()
    wanted = args.only.split(",")
    unknown = [name for name in wanted if name not in SCENARIOS]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is not one of {', '.join(SCENARIOS)}")
    if sys.platform != "linux":
        parser.error("the benchmarks need Linux: they read /proc and pin processes to cores")
    settings = Settings(quick=args.quick, repeats=args.repeats or (1 if args.quick else 3))
    facts = machine("marketd", "numpy", "pyarrow", "arcticdb", "duckdb", "psycopg", "orjson")
    print("# marketd history benchmarks\n")
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"\nMedians of {settings.repeats}; everything on one core.\n", flush=True)
    results = {}
    with tempfile.TemporaryDirectory(prefix="marketd-bench-", dir=args.folder) as folder:
        lab = Lab(Path(folder), QUICK if args.quick else FULL if args.full else DEFAULT, settings)
        for name in wanted:
            say(f"{name}:")
            began, load = time.monotonic(), os.getloadavg()[0]
            section = SCENARIOS[name](lab)
            section.notes.append(f"Load before {load:.2f}; took {time.monotonic() - began:.0f} s.")
            bars = [vars(bar) for bar in section.bars]
            results[name] = {"title": section.title, "bars": bars, "load": load, "runs": section.raw}
            print(report(name.upper(), section), flush=True)
            told = {"machine": facts, "settings": vars(settings), "results": results, "built": lab.built}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(told, indent=1))
    say(f"every run: {args.json}")


if __name__ == "__main__":
    main()
