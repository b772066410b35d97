"""ArcticDB's part of the history benchmark: a library on LMDB, default settings. It syncs each write by itself.

It is given pandas frames, which is what it takes; making them is not counted. It keeps no versions of single rows.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import arcticdb
import numpy as np
import pandas as pd
import pyarrow as pa

import history_data as data
from history_work import batches, timed, timed_each

_OUTPUTS = ("PYARROW", "PANDAS")


def _library(folder: Path) -> arcticdb.version_store.library.Library:
    """The one library of the folder. Its file may grow to 64 GB, and is as long as what was written."""
    return arcticdb.Arctic(f"lmdb://{folder / 'arctic'}?map_size=64GB").get_library("bars", create_if_missing=True)


def _frame(bars: pa.Table, without: tuple[str, ...]) -> pd.DataFrame:
    """Indexed by ts, as ArcticDB wants series to be."""
    columns = {
        name: bars[name].cast(pa.timestamp("ns")).to_numpy() if name == "as_of" else bars[name].to_pandas()
        for name in bars.schema.names
        if name not in ("ts", "interval", "side", *without)
    }
    index = pd.DatetimeIndex(bars["ts"].cast(pa.timestamp("ns")).to_numpy(), name="ts")
    return pd.DataFrame({name: np.asarray(column) for name, column in columns.items()}, index=index)


def append_day(folder: Path, *, symbols: int, minutes: int, session: int) -> dict:
    """All symbols in one table: a table each takes a hundred times as long."""
    day = data.Day(symbols, minutes, session, holes=False)
    frames = [_frame(day.minute(number), ()) for number in range(minutes)]
    library = _library(folder)
    times = [timed(lambda frame=frame: library.append("bars", frame))[0] for frame in frames]
    return batches(times, sum(map(len, frames)))


def backfill(folder: Path, *, symbols: int, sessions: int) -> dict:
    """A table for each symbol."""
    library = _library(folder)
    known = np.int64(data.open_of(sessions))
    times, rows = [], 0
    for name in data.names(symbols):
        ts, values = data.series(int(name[1:]), sessions)
        frame = _frame(data.table(name, ts, values, np.full(len(ts), known), "backfill"), ("symbol",))
        times.append(timed(lambda name=name, frame=frame: library.write(name, frame))[0])
        rows += len(frame)
    return batches(times, rows)


def build_year(folder: Path, *, year: str, symbols: int, sessions: int) -> dict:
    """The last versions, a table for each symbol."""
    source = data.Year(Path(year), symbols, sessions)
    library = _library(folder)
    rows = 0
    for number, name in enumerate(source.names):
        frame = _frame(source.symbol(number, versions=False), ("symbol",))
        library.write(name, frame)
        rows += len(frame)
    used = (path.stat() for path in (folder / "arctic").rglob("data.mdb"))
    return {"versions": rows, "bytes": sum(file.st_blocks * 512 for file in used)}


def read(folder: Path, *, numbers: list[int], warm_up: int) -> dict:
    """Whole series, as Arrow and as pandas; whichever is faster counts."""
    library = _library(folder)
    result: dict = {}
    for output in _OUTPUTS:
        times, digests = timed_each(
            lambda number, output=output: library.read(data.names(number + 1)[-1], output_format=output).data,
            numbers,
            warm_up,
            data.digest if output == "PYARROW" else len,
        )
        result[output.lower() + "_ms"] = statistics.median(times)
        result[output.lower() + "_all_ms"] = times
        if output == "PYARROW":
            result["digests"] = digests
    return result | {"ms": min(result["pyarrow_ms"], result["pandas_ms"])}


JOBS = {"append_day": append_day, "backfill": backfill, "build_year": build_year, "read": read}
