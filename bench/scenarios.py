"""What is measured: each function runs one scenario over marketd and its peers and returns a `Section`.

Peers and marketd take turns within a repeat, every figure shown is the median over the repeats, and a ratio is the
median of the ratios inside each repeat, because absolute figures wander from minute to minute and ratios much less.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import recordings
from marketd.testing.load import process_rss_kb
from servers import BENCH, LOAD_CORE, SERVER_CORE, SERVERS, Running, Server, blaster, core

SYMBOLS = 8000
HZ = 10
SYMBOLS_PER_CLIENT = 100
SUBSCRIPTIONS = {
    "symbols": SYMBOLS,
    "symbols_per_client": SYMBOLS_PER_CLIENT,
    "fields": "lastPrice,bidPrice,askPrice",
}
US = "marketd"
NATS = "nats-server WebSocket"
HUB = "FastAPI hub"


@dataclass(frozen=True)
class Settings:
    quick: bool
    repeats: int

    def of(self, quick: float, full: float) -> float:
        return quick if self.quick else full


@dataclass(frozen=True)
class Bar:
    """Something that was promised. holds: None when it was not measured, or not for long enough to say."""

    what: str
    measured: str
    holds: bool | None


@dataclass
class Section:
    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, list] = field(default_factory=dict)


def median(values: Iterable[float | None]) -> float | None:
    """Median of what was measured, None if nothing was."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def ratio(ours: list[dict | None], theirs: list[dict | None], key: str) -> float | None:
    """Median over the repeats of ours divided by theirs."""
    pairs = zip(ours, theirs, strict=True)
    return median(a[key] / b[key] if a and b and a[key] and b[key] else None for a, b in pairs)


def shown(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def at_most(value: float | None, limit: float) -> bool | None:
    return None if value is None else value <= limit


def load(running: Running, seconds: float, **options: object) -> dict:
    """One run of the load client, in a process of its own on the load's core."""
    command = [sys.executable, "-m", "marketd.testing.load", "--url", running.url, "--pid", str(running.pid)]
    for name, value in {"duration": seconds, **options}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with core(LOAD_CORE):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    report = json.loads(done.stdout)
    if report["errors"]:
        raise RuntimeError(f"the server refused: {report['errors'][0]}")
    return report


def in_turns(
    settings: Settings, servers: dict[str, Server], measure: Callable[[str, Server], dict]
) -> dict[str, list[dict | None]]:
    """`measure` of every server, `repeats` times; None where it failed, which is said on stderr."""
    results: dict[str, list[dict | None]] = {name: [] for name in servers}
    for repeat in range(settings.repeats):
        for name, server in servers.items():
            print(f"  {name}, {repeat + 1} of {settings.repeats} …", file=sys.stderr, flush=True)
            try:
                results[name].append(measure(name, server))
            except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                notes = " ".join(getattr(error, "__notes__", ()))
                print(f"  {name} gave no result: {error} {notes}", file=sys.stderr, flush=True)
                results[name].append(None)
    return results


def _fan_out(settings: Settings, clients: int, warmup_s: float) -> Section:
    seconds = settings.of(4, 15)

    def measure(_name: str, server: Server) -> dict:
        with server(SYMBOLS, HZ) as running:
            report = load(running, seconds, warmup=warmup_s, clients=clients, **SUBSCRIPTIONS)
        latency = report["latency_ms"] or {"p50": None, "p99": None}
        return {
            **report,
            "p50_ms": latency["p50"],
            "p99_ms": latency["p99"],
            "closed_clients": sum(report["closed"].values()),
            "published": running.published,
        }

    results = in_turns(settings, SERVERS, measure)
    offered = clients * SYMBOLS_PER_CLIENT * HZ
    section = Section(
        f"{SYMBOLS:,} symbols × {HZ}/s to {clients:,} clients × {SYMBOLS_PER_CLIENT}: {offered:,} deliveries/s offered",
        [
            "server",
            "deliveries/s",
            "of offered",
            "cores",
            "µs CPU a delivery",
            "marketd ÷ it",
            "p50 ms",
            "p99 ms",
            "bytes a delivery",
            "clients closed",
            "out of order",
        ],
        raw=results,
    )
    for name, runs in results.items():
        seen = [r for r in runs if r]
        if not seen:
            section.rows.append([name, "no result", *["–"] * 9])
            continue
        section.rows.append(
            [
                name,
                shown(median(r["deliveries_s"] for r in seen), 0),
                shown(median(r["deliveries_s"] / offered * 100 for r in seen), 1, " %"),
                shown(median(r["server_cpu"] for r in seen)),
                shown(median(r["server_us_per_delivery"] for r in seen)),
                shown(ratio(results[US], runs, "server_us_per_delivery")),
                shown(median(r["p50_ms"] for r in seen), 1),
                shown(median(r["p99_ms"] for r in seen), 1),
                shown(median(r["bytes_s"] / r["deliveries_s"] if r["deliveries"] else None for r in seen), 0),
                str(max(r["closed_clients"] for r in seen)),
                str(max(r["out_of_order"] + r["misrouted"] for r in seen)),
            ]
        )
    section.notes.append(
        "CPU is the server's alone. marketd's includes the simulator, validation, sequence, bars, store and cache, the "
        "hub's the simulator; NATS and Redis only pass on, and their publisher is not counted."
    )
    section.notes.append(
        "Load client and publisher share the other core, so latency includes waiting for them. Load client: "
        + ", ".join(
            f"{shown(median(r['client_cpu'] for r in runs if r))} core for {name}" for name, runs in results.items()
        )
        + "."
    )
    for name, runs in results.items():
        held_up = [r["published"] for r in runs if r and r["published"] and not r["published"]["published_s"]]
        slow = [r["published"] for r in runs if r and r["published"] and r["published"]["batches_skipped"]]
        if held_up or slow:
            section.notes.append(f"{name} could not take what was published: its publisher was held up.")
    return section


def selective(settings: Settings) -> Section:
    """Few clients, each with a slice of a large universe."""
    section = _fan_out(settings, 200, settings.of(2, 4))
    ours = section.raw[US]
    against_nats = ratio(ours, section.raw[NATS], "server_us_per_delivery")
    p99 = median(r["p99_ms"] for r in ours if r)
    section.bars = [
        Bar("CPU a delivery ≤ 0.8 × nats-server WebSocket", shown(against_nats, 2, " ×"), at_most(against_nats, 0.8)),
        Bar("p99 source → client ≤ 20 ms", shown(p99, 1, " ms"), at_most(p99, 20)),
    ]
    return section


def broad(settings: Settings) -> Section:
    """Many clients: a million deliveries a second offered."""
    section = _fan_out(settings, 1000, settings.of(4, 8))
    ours = [r for r in section.raw[US] if r]
    cores, p99 = median(r["server_cpu"] for r in ours), median(r["p99_ms"] for r in ours)
    closed = max((r["closed_clients"] for r in ours), default=None)
    section.bars = [
        Bar("at most 1.0 core", shown(cores, 2, " core"), at_most(cores, 1.0)),
        Bar("no client closed", shown(closed, 0), at_most(closed, 0)),
        Bar("p99 source → client ≤ 120 ms", shown(p99, 1, " ms"), at_most(p99, 120)),
    ]
    return section


def ingest(settings: Settings) -> Section:
    """Recorded ticks into quotes and bars, as fast as they are taken."""
    with recordings.files() as (files, origin):

        def measure(engine: str, _server: object) -> dict:
            command = [sys.executable, str(BENCH / "ingest.py"), engine, *map(str, files)]
            with core(SERVER_CORE):
                done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr.strip()[-1000:])
            return json.loads(done.stdout)

        results = in_turns(settings, {US: None, "DuckDB": None}, measure)
    rows = max((r["rows"] for runs in results.values() for r in runs if r), default=0)
    section = Section(
        f"{rows:,} ticks ({origin}) into quotes and 1-minute bid and ask bars, one core",
        [
            "engine",
            "ticks/s from CSV.gz",
            "ticks/s from memory",
            "s from CSV.gz",
            "s from memory",
            "marketd ÷ it, CSV.gz",
        ],
        raw=results,
    )
    for name, runs in results.items():
        seen = [r for r in runs if r]
        section.rows.append(
            [
                name,
                shown(median(r["rows"] / r["from_files_s"] for r in seen), 0),
                shown(median(r["rows"] / r["from_memory_s"] for r in seen), 0),
                shown(median(r["from_files_s"] for r in seen)),
                shown(median(r["from_memory_s"] for r in seen)),
                shown(ratio(results[US], runs, "from_files_s"), 2, " × the time"),
            ]
        )
    section.notes.append(
        "marketd validates and sequences every tick, keeps latest values and builds bars of six lengths; DuckDB (one "
        "thread) computes first, max, min, last of bid and ask by the minute and nothing else."
    )
    rate = median(r["rows"] / r["from_files_s"] for r in results[US] if r)
    digests = {tuple(r["minute_bars"]) for runs in results.values() for r in runs if r}
    same = len(digests) == 1 if all(any(runs) for runs in results.values()) else None
    section.bars = [
        Bar("≥ 500,000 ticks/s from CSV.gz", shown(rate, 0), None if rate is None else rate >= 500_000),
        Bar("the same minute bars from both", " and ".join(map(str, sorted(digests))), same),
    ]
    return section


def memory(settings: Settings) -> Section:
    """Bytes a client, bytes a symbol, and whether either grows."""
    clients = int(settings.of(1000, 2000))
    idle_servers = {name: SERVERS[name] for name in (US, NATS, HUB)}

    def idle(symbols_per_client: int) -> Callable[[str, Server], dict]:
        def measure(_name: str, server: Server) -> dict:
            with server(1, None) as running:
                report = load(running, 2, clients=clients, symbols_per_client=symbols_per_client, warmup=2)
            before, _, connected = report["server_rss_kb"]
            closed = sum(report["closed"].values())
            if closed:
                raise RuntimeError(f"{closed} of {clients} idle clients were closed: {report['closed']}")
            return {"kb": (connected - before) / clients}

        return measure

    def universe(_name: str, server: Server) -> dict:
        rss = []
        for symbols in (100, SYMBOLS):
            with server(symbols, HZ) as running:
                time.sleep(settings.of(5, 15))  # the first bars are open, lazily made tables exist
                rss.append(process_rss_kb([running.pid]))
        return {"kb": (rss[1] - rss[0]) / (SYMBOLS - 100), "rss_mb": rss[1] / 1024}

    nothing = in_turns(settings, idle_servers, idle(0))
    silent = in_turns(settings, idle_servers, idle(1))
    symbols = in_turns(settings, {name: SERVERS[name] for name in (US, HUB)}, universe)
    growth = in_turns(replace(settings, repeats=1), {US: SERVERS[US]}, lambda _, server: _growth(settings, server))
    section = Section(
        f"Memory: {clients:,} idle clients, {SYMBOLS:,} against 100 symbols",
        ["server", "kB a client, no subscription", "kB a client, one silent symbol", "kB a symbol"],
        raw={"nothing": nothing, "silent": silent, "symbols": symbols, "growth": growth[US]},
    )
    for name in idle_servers:
        of = [median(r["kb"] for r in table.get(name, []) if r) for table in (nothing, silent, symbols)]
        section.rows.append([name, *(shown(kb, 1) for kb in of)])
    a_client = median(r["kb"] for r in silent[US] if r)
    a_symbol = median(r["kb"] for r in symbols[US] if r)
    section.bars = [
        Bar("≤ 40 kB a connected idle client", shown(a_client, 1, " kB"), at_most(a_client, 40)),
        Bar("≤ 2 kB a symbol", shown(a_symbol, 2, " kB"), at_most(a_symbol, 2)),
        _flat(growth[US][0]),
    ]
    return section


def _flat(growth: dict | None) -> Bar:
    what = "flat under selective fan-out: median of the last fifth at most 5 % over the second fifth"
    if growth is None:
        return Bar(what, "–", None)
    early, late, minutes = growth["early_mb"], growth["late_mb"], growth["minutes"]
    measured = f"{early:.1f} → {late:.1f} MB in {minutes} min, {growth['mb_a_minute']:+.2f} MB/min"
    return Bar(what, measured, late <= early * 1.05 if minutes >= 10 else None)


def _growth(settings: Settings, server: Server) -> dict:
    """Resident memory, second by second under selective fan-out; the first fifth counts as warming up."""
    minutes = settings.of(1, 10)
    samples: list[float] = []
    ended = threading.Event()
    with server(SYMBOLS, HZ) as running:

        def watch() -> None:
            while not ended.wait(1):
                samples.append(process_rss_kb([running.pid]) / 1024)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            load(running, minutes * 60, warmup=0, clients=200, **SUBSCRIPTIONS)
        finally:
            ended.set()
            watcher.join()
    fifth = len(samples) // 5
    slope = statistics.linear_regression(range(len(samples) - fifth), samples[fifth:]).slope
    return {
        "minutes": minutes,
        "early_mb": statistics.median(samples[fifth : 2 * fifth]),
        "late_mb": statistics.median(samples[-fifth:]),
        "mb_a_minute": slope * 60,
        "rss_mb": samples,
    }


def start(settings: Settings) -> Section:
    """From the start of the process to the first quote over REST."""
    cases = {
        f"{US}, 3 symbols": (US, 3),
        f"{US}, {SYMBOLS:,} symbols": (US, SYMBOLS),
        f"{HUB}, {SYMBOLS:,} symbols": (HUB, SYMBOLS),
    }

    def measure(name: str, _server: object) -> dict:
        server, symbols = cases[name]
        with SERVERS[server](symbols, HZ) as running:
            return {"started_s": running.started_s, "symbols": symbols}

    results = in_turns(settings, dict.fromkeys(cases), measure)
    section = Section("Start of the process → first quote over REST", ["server", "seconds"], raw=results)
    for name, runs in results.items():
        section.rows.append([name, shown(median(r["started_s"] for r in runs if r))])
        if name.startswith(US):
            seconds = median(r["started_s"] for r in runs if r)
            section.bars.append(Bar(f"≤ 2 s, {name}", shown(seconds, 2, " s"), at_most(seconds, 2)))
    return section


def client(settings: Settings) -> Section:
    """The load client against a server that does nothing but send: its own ceiling."""
    section = Section(
        "The load client itself, against pre-built frames",
        ["clients", "offered/s", "counted/s", "client core", "p99 ms"],
    )
    for clients in (200, 1000, 1200, 1500):
        with blaster() as running:
            report = load(running, settings.of(2, 5), clients=clients, symbols=100, symbols_per_client=100)
        section.raw[str(clients)] = [report]
        cells = [shown(report["deliveries_s"], 0), shown(report["client_cpu"]), shown(report["latency_ms"]["p99"], 1)]
        section.rows.append([str(clients), f"{clients * 1000:,}", *cells])
    return section


SCENARIOS: dict[str, Callable[[Settings], Section]] = {
    "selective": selective,
    "broad": broad,
    "ingest": ingest,
    "memory": memory,
    "start": start,
    "client": client,
}
