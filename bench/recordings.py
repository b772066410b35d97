"""Ticks to ingest: four days of gold (XAUUSD) where the recorded data is at hand, else as many simulated rows.

The recorded files are no part of the project. They are looked for in $MARKETD_TEST_DATA and beside the checkout.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROWS = 832_580
DAYS = 4


@contextmanager
def files() -> Iterator[tuple[list[Path], str]]:
    """CSV.gz files with columns ts_us, bid, ask, in order of time, and what to call them."""
    named = os.environ.get("MARKETD_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    found = sorted(folder.glob("quotes_fx/oanda_xauusd_*_ticks.csv.gz"))
    if len(found) == DAYS:
        yield found, "recorded XAUUSD"
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield [_simulated(Path(temporary), day) for day in range(DAYS)], "simulated, the recorded ones are not here"


def _simulated(folder: Path, day: int) -> Path:
    """A random walk with the recording's row count, tick size and pace."""
    rng = np.random.default_rng(day)
    rows = ROWS // DAYS
    ts_us = 1_398_988_800_000_000 + day * 86_400_000_000 + np.sort(rng.integers(0, 86_400_000_000, rows))
    bid = 1284 * np.exp(np.cumsum(rng.uniform(-1e-5, 1e-5, rows)))
    ask = bid + rng.uniform(0.2, 0.4, rows)
    path = folder / f"walk_xauusd_{day}_ticks.csv.gz"
    with gzip.open(path, "wt", compresslevel=6) as out:
        out.write("ts_us,bid,ask\n")
        columns = (ts_us.tolist(), bid.round(3).tolist(), ask.round(3).tolist())
        out.writelines(f"{t},{b},{a}\n" for t, b, a in zip(*columns, strict=True))
    return path
