"""Benchmarks of marketd side by side with its peers, as markdown tables.

    .venv/bin/python bench/run.py [--quick] [--only selective,broad] [--repeats 3] [--json FILE]

Linux only (it reads /proc and pins processes): servers run on the first core, load and publishers on the second. All
traffic is on loopback, every wait is bounded, and only what was started here is stopped.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import servers
from scenarios import SCENARIOS, Section, Settings

OPEN_FILES = 8192
DEFAULT_JSON = Path(__file__).resolve().parent.parent / "test-artifacts" / "bench.json"


def machine(*packages: str) -> dict[str, str]:
    """What a reader needs to know of the machine, and the versions of Python and of these packages."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": f"{os.cpu_count()} × {model[0] if model else platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def brokers() -> dict[str, str]:
    """Their versions."""
    facts = {}
    for name, command in (("nats-server", [servers.nats_server()]), ("redis-server", [servers.redis_server()])):
        text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
        facts[name] = re.search(r"v=?([\d.]+)", text)[1]
    return facts


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A markdown table: the first column to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in [columns, *rows]) for i in range(len(columns))]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (w - 1) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(columns), f"| {' | '.join(rule)} |", *map(line, rows)])


def report(name: str, section: Section) -> str:
    parts = [f"## {name}: {section.title}", table(section.columns, section.rows)]
    if section.bars:
        verdict = {True: "holds", False: "**missed**", None: "not judged"}
        rows = [[bar.what, bar.measured, verdict[bar.holds]] for bar in section.bars]
        parts.append(table(["bar", "measured", ""], rows))
    parts += section.notes
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--repeats", type=int, help="3, or 1 with --quick")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, help="every figure of every run goes here")
    args = parser.parse_args()
    names = args.only.split(",")
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is not one of {', '.join(SCENARIOS)}")
    if sys.platform != "linux":
        parser.error("the benchmarks need Linux: they read /proc and pin processes to cores")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    settings = Settings(quick=args.quick, repeats=args.repeats or (1 if args.quick else 3))
    packages = ("marketd", "numpy", "uvloop", "uvicorn", "websockets", "fastapi", "duckdb")
    facts = machine(*packages) | brokers()
    print("# marketd benchmarks\n")
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"\nMedians of {settings.repeats}; server on one core, load on another.\n", flush=True)
    results = {}
    for name in names:
        print(f"{name}:", file=sys.stderr, flush=True)
        section = SCENARIOS[name](settings)
        results[name] = {"title": section.title, "bars": [vars(bar) for bar in section.bars], "runs": section.raw}
        print(report(name, section), flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"machine": facts, "settings": vars(settings), "results": results}, indent=1))
    print(f"every run: {args.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
