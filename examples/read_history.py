"""Bars of a running server as an Arrow table: as they are known now, or as they were known then. Needs pyarrow alone.

python examples/read_history.py EURUSD --from 2026-11-13T21:50:00Z --to 2026-11-15T22:10:00Z
python examples/read_history.py EURUSD --from 2026-11-13T21:50:00Z --to 2026-11-15T22:10:00Z --as-of 2026-11-17
"""

import argparse
import json
import urllib.parse
import urllib.request
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def read_bars(server: str, symbol: str, **parameters: str | None) -> tuple[pa.Table, dict[str, Any]]:
    """The bars, and what is told beside them: `complete`, `missing`, `as_of`, …

    parameters: of docs/rest.md. Without `limit` the whole range comes, however long it is.
    """
    query = {"format": "arrow"} | {name: value for name, value in parameters.items() if value is not None}
    path = f"/api/v1/market-data/historical/{urllib.parse.quote(symbol, safe='')}"
    with urllib.request.urlopen(f"{server}{path}?{urllib.parse.urlencode(query)}") as answer:  # noqa: S310 - yours
        bars = pa.ipc.open_stream(answer).read_all()
    return bars, json.loads(bars.schema.metadata[b"marketd"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("symbol")
    parser.add_argument("--from", dest="start", help="RFC 3339 or a date")
    parser.add_argument("--to", dest="end", help="the same; itself not in the range")
    parser.add_argument("--as-of", help="as it was known at this time")
    parser.add_argument("--interval", default="1m")
    parser.add_argument("--server", default="http://127.0.0.1:8001")
    told = parser.parse_args()
    times = {"from": told.start, "to": told.end, "as_of": told.as_of}
    bars, about = read_bars(told.server, told.symbol, interval=told.interval, **times)

    print(f"{bars.num_rows} bars of {about['symbol']}, {'complete' if about['complete'] else 'not complete'}")
    for span in about["missing"]:
        print(f"  {span['count']} {span['reason']} from {span['from']} to {span['to']}")
    if bars.num_rows:
        print(f"  low {pc.min(bars['low'])}, high {pc.max(bars['high'])}, mean close {pc.mean(bars['close'])}")
        print(f"  the last became known at {pc.strftime(pc.max(bars['as_of']), '%Y-%m-%dT%H:%M:%SZ')}")


if __name__ == "__main__":
    main()
