"""Ticks in CSV.gz files into bars, by one engine, once from the files and once from memory. Prints JSON.

    python bench/ingest.py marketd|DuckDB FILE…

minute_bars is a digest of the 1-minute bid and ask bars: how many, and the sum of all their prices. The engines must
agree on it, or they did not do the same work.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

SYMBOL = "XAUUSD"
OHLC = ("open", "high", "low", "close")


def ingest_marketd(files: Sequence[str]) -> dict:
    """Replay → validation, sequence, latest values, bars of all lengths."""
    from marketd.clock import SystemClock
    from marketd.pipeline import Pipeline
    from marketd.sources.contract import Subscriptions
    from marketd.sources.replay import ReplayConfig, ReplayFile, ReplaySource

    clock = SystemClock()

    def pipeline() -> Pipeline:
        made = Pipeline(clock)
        made.add_source("replay", event_time=True)
        return made

    def take(into: Pipeline, events: Iterable, closed: list[pa.Table]) -> None:
        into.take("replay", events)
        closed += [bars.table(0) for bars in into.drain_bars()]

    async def from_files(into: Pipeline, closed: list[pa.Table]) -> list:
        config = ReplayConfig(files=tuple(ReplayFile(path=f, symbol=SYMBOL) for f in files), speed=None)
        batches = []
        async for events in ReplaySource(config, clock).stream(Subscriptions([SYMBOL])):
            take(into, events, closed)
            batches.append(events)
        return batches

    into, closed = pipeline(), []
    began = time.perf_counter()
    batches = asyncio.run(from_files(into, closed))
    from_files_s = time.perf_counter() - began
    digest = _marketd_digest(closed)
    rows = into.sources["replay"].ticks
    into, closed = pipeline(), []
    began = time.perf_counter()
    for events in batches:
        take(into, events, closed)
    return {
        "rows": rows,
        "from_files_s": from_files_s,
        "from_memory_s": time.perf_counter() - began,
        "minute_bars": digest,
        "quarantined": dict(into.sources["replay"].quarantined),
    }


def _marketd_digest(closed: list[pa.Table]) -> tuple[int, float]:
    bars = pa.concat_tables(closed)
    bars = bars.filter((pc.field("interval") == "1m") & (pc.field("side") != "trade"))
    # A corrected bar comes again: the last one of a minute and side counts.
    last = {(ts, side): row for row, (ts, side) in enumerate(zip(bars["ts"].cast("int64"), bars["side"], strict=True))}
    bars = bars.take(list(last.values()))
    return bars.num_rows, round(sum(pc.sum(bars[name]).as_py() for name in OHLC), 3)


def ingest_duckdb(files: Sequence[str]) -> dict:
    """read_csv → first, max, min and last of bid and ask by the minute."""
    sides = ", ".join(
        f"arg_min({side}, row) AS {side}_open, max({side}) AS {side}_high, "
        f"min({side}) AS {side}_low, arg_max({side}, row) AS {side}_close"
        for side in ("bid", "ask")
    )
    minutes = f"SELECT ts_us // 60000000 AS minute, {sides} FROM {{}} GROUP BY minute"
    ticks = "(SELECT ts_us, bid, ask, row_number() OVER () AS row FROM read_csv($files, header = true, columns = "
    ticks += "{'ts_us': 'BIGINT', 'bid': 'DOUBLE', 'ask': 'DOUBLE'}))"
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        began = time.perf_counter()
        bars = database.sql(minutes.format(ticks), params={"files": list(files)}).to_arrow_table()
        from_files_s = time.perf_counter() - began
        database.execute(f"CREATE TABLE ticks AS FROM {ticks}", {"files": list(files)})
        rows = database.sql("SELECT count(*) FROM ticks").fetchall()[0][0]
        began = time.perf_counter()
        database.sql(minutes.format("ticks")).to_arrow_table()
        from_memory_s = time.perf_counter() - began
    total = sum(pc.sum(bars[f"{side}_{name}"]).as_py() for side in ("bid", "ask") for name in OHLC)
    return {
        "rows": rows,
        "from_files_s": from_files_s,
        "from_memory_s": from_memory_s,
        "minute_bars": (2 * bars.num_rows, round(total, 3)),
    }


ENGINES = {"marketd": ingest_marketd, "DuckDB": ingest_duckdb}

if __name__ == "__main__":
    print(json.dumps(ENGINES[sys.argv[1]](sys.argv[2:])))
