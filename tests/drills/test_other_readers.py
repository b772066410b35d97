"""DuckDB in another process reads the sealed files of a server that seals and merges: the same numbers as over REST.

Its queries are those that docs/store-layout.md tells.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asking import Client, values
from exchange import time_ns

from marketd.model import format_ns

pytest.importorskip("duckdb", reason="reads the files as another program would")

LAYOUT = Path(__file__).resolve().parents[2] / "docs" / "store-layout.md"
SYMBOLS = [f"S{number:02d}" for number in range(20)]

READER = """
import json, sys, duckdb
listing, bars, symbols = json.loads(sys.argv[1])
while True:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(listing)
    everything = "read_parquet(getvariable('files'), hive_partitioning = false)"
    rows, keys, known_ns = connection.execute(
        "SELECT count(*), count(DISTINCT (symbol, interval, side, epoch_ns(ts), provider, epoch_ns(as_of))),"
        f" max(epoch_ns(as_of)) FROM {everything}"
    ).fetchone()
    answer = {}
    for symbol in symbols:
        found = connection.execute(f"SELECT epoch_ns(ts), * EXCLUDE (ts) FROM ({bars.replace('SYMBOL', symbol)})")
        answer[symbol] = found.fetchall()
    print(json.dumps([rows, keys, known_ns, answer]), flush=True)
    if sys.stdin.readline() != "again\\n":
        break
"""


def documented() -> tuple[str, str]:
    """The statement that lists the files, and the query of the bars as they are now."""
    blocks = re.findall(r"```sql\n(.*?)```", LAYOUT.read_text(encoding="utf-8"), re.DOTALL)
    listing = next(block for block in blocks if "SET VARIABLE files" in block)
    bars = next(block for block in blocks if "PARTITION BY ts, provider" in block)
    return listing, bars


def test_duckdb_gets_the_same_numbers_while_the_server_runs(start_server, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    config = {
        "market_data": {"symbols": {name: {"scenario": "volatile", "tick_interval_ms": 50} for name in SYMBOLS}},
        "store": {"seal_rows": 20, "compact_every_s": 1, "compact_parts": 2},
    }
    running = start_server(config=json.dumps(config), data_dir=data_dir)
    client = Client(running.url)
    manifest = data_dir / "manifest.json"

    def merges() -> int:
        return json.loads(manifest.read_bytes())["manifest"]["jobs"] if manifest.exists() else 0

    deadline = time.monotonic() + 30
    while not merges():
        assert time.monotonic() < deadline, "nothing was merged"
        time.sleep(0.05)
    first_merges = merges()

    listing, bars = documented()
    listing = listing.replace("marketd-data", str(data_dir))
    bars = bars.replace("'AAPL'", "'SYMBOL'").replace("'1m'", "'1s'")
    bars = bars.replace("2026-11-20 00:00:00+00", "2020-01-01 00:00:00+00")
    bars = bars.replace("2026-11-21 00:00:00+00", "2120-01-01 00:00:00+00")
    rounds = compared = 0
    command = [sys.executable, "-c", READER, json.dumps([listing, bars, SYMBOLS])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        while rounds < 6 or merges() < first_merges + 2:
            if rounds:
                time.sleep(0.2)
                reader.stdin.write("again\n")
                reader.stdin.flush()
            rounds += 1
            rows, keys, known_ns, answer = json.loads(reader.stdout.readline())
            assert rows == keys, f"round {rounds}: a version is there twice"
            for symbol in SYMBOLS:
                # What was known when the newest sealed row became known is what is sealed: batches are sealed whole.
                ours = client.bars(symbol, "1s", as_of=format_ns(known_ns))
                theirs = [(ts, tuple(row)) for ts, *row in answer[symbol]]
                assert [(time_ns(bar["timestamp"]), values(bar)) for bar in ours] == theirs, (rounds, symbol)
                compared += len(theirs)
        reader.stdin.write("enough\n")
        reader.stdin.flush()
        assert reader.wait(20) == 0
    assert running.stop() == 0
    print(f"{rounds} readings of {compared:,} bars in all, while {merges() - first_merges} merges went on")
