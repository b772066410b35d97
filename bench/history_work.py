"""One piece of work of the history benchmark, in a process of its own.

    python history_work.py ENGINE JOB FOLDER '{"parameter": …}'

ENGINE is a module with `JOBS`. What the job returns is printed as JSON, with the peak of resident memory.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ENGINES = {
    "marketd": "history_marketd",
    "ArcticDB": "peers.arcticdb_history",
    "DuckDB": "peers.duckdb_history",
    "PostgreSQL": "peers.postgres_history",
}


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Milliseconds, and what it returned."""
    began = time.perf_counter_ns()
    result = work()
    return (time.perf_counter_ns() - began) / 1e6, result


def timed_each(
    work: Callable[[object], object], items: Iterable, warm_up: int, told: Callable[[object], object]
) -> tuple[list[float], list]:
    """Milliseconds of each after the first `warm_up`, and what `told` says of the results of these.

    A result is let go before the next is made, so that memory is used again as a server would.
    """
    times, said = [], []
    for item in items:
        ms, result = timed(lambda item=item: work(item))
        times.append(ms)
        said.append(told(result))
        del result
    return times[warm_up:], said[warm_up:]


def batches(times_ms: list[float], rows: int) -> dict:
    """What is told of appends: rows a second, and how long a batch took, also in the first and last tenth."""
    ordered = sorted(times_ms)
    tenth = max(1, len(times_ms) // 10)
    return {
        "rows": rows,
        "rows_s": rows / sum(times_ms) * 1e3,
        "p50_ms": statistics.median(times_ms),
        "p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "first_ms": statistics.median(times_ms[:tenth]),
        "last_ms": statistics.median(times_ms[-tenth:]),
        "all_ms": [round(ms, 3) for ms in times_ms],
    }


def peak_mb(pid: int | str = "self") -> float:
    """Highest resident memory of a process since it began, or since `reset_peak`."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def main() -> None:
    engine, job, folder, parameters = sys.argv[1:]
    work = importlib.import_module(ENGINES[engine]).JOBS[job]
    began = time.perf_counter()
    result = work(Path(folder), **json.loads(parameters))
    print(json.dumps({**result, "job_s": time.perf_counter() - began, "peak_mb": peak_mb()}), flush=True)
    os._exit(0)  # all is closed and told; ArcticDB's threads crash one interpreter in three on its way out


if __name__ == "__main__":
    main()
