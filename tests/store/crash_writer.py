"""The process that the crash tests kill: it appends batch after batch and says which are acknowledged.

Imports little, since it is started a hundred times. Arguments: a JSON object, see `main`.
"""

import functools
import json
import os
import sys
import threading
from pathlib import Path

import pyarrow as pa

from marketd.model import BAR_SCHEMA
from marketd.store.embedded import EmbeddedStore, EmbeddedStoreConfig
from marketd.store.embedded.compact import merge
from marketd.testing import ManualClock

MINUTE = 60 * 10**9
OPENING = 1_795_185_000 * 10**9  # 2026-11-20T14:30:00Z
BATCH = 25


def batch(number: int) -> pa.Table:
    """Minute `number` of 25 symbols, and of every fifth the corrected minute before it."""
    rows = [(f"S{n}", number, 100.0) for n in range(BATCH)]
    if number:
        rows += [(f"S{n}", number - 1, 100.0 + number) for n in range(0, BATCH, 5)]
    as_of = OPENING + (number + 1) * MINUTE
    columns = {
        "symbol": [symbol for symbol, _, _ in rows],
        "interval": ["1m"] * len(rows),
        "side": ["trade"] * len(rows),
        "ts": [OPENING + minute * MINUTE for _, minute, _ in rows],
        "open": [100.0] * len(rows),
        "high": [103.0] * len(rows),
        "low": [99.5] * len(rows),
        "close": [close for _, _, close in rows],
        "volume": [None] * len(rows),
        "vwap": [None] * len(rows),
        "trades": [3] * len(rows),
        "provider": ["sim"] * len(rows),
        "status": ["final"] * len(rows),
        "as_of": [as_of] * len(rows),
    }
    return pa.table(columns, schema=BAR_SCHEMA)


def settings(seal_rows: int) -> EmbeddedStoreConfig:
    return EmbeddedStoreConfig(
        seal_rows=seal_rows, compact_every_s=None, retire_after_s=0, row_group_rows=100, file_rows=3_000
    )


def main(folder: str, first: int, last: int, seal_rows: int, step: str, countdown: int, merging: str) -> None:
    """step: end at this step, the `countdown`th time. merging: how compaction runs: "", between, thread or process."""

    def on_step(reached: str) -> None:
        nonlocal countdown
        if reached == step:
            countdown -= 1
            if countdown == 0:
                os._exit(9)

    here = functools.partial(merge, on_step=lambda reached: on_step("merge_" + reached))
    store = EmbeddedStore(
        Path(folder),
        settings(seal_rows),
        ManualClock(OPENING),
        on_step=on_step,
        merge=None if merging == "process" else here,
    )

    def keep_merging() -> None:
        while True:
            store.compact()

    if merging in ("thread", "process"):
        threading.Thread(target=keep_merging, daemon=True).start()
    for number in range(first, last):
        store.append(batch(number))
        os.write(1, b"acked %d\n" % number)
        if merging == "between" and number % 7 == 6:
            store.compact()
    store.close()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
