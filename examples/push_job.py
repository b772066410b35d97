"""Have bars fetched by a marketd server, from another program, through Redis.

python examples/push_job.py redis://localhost:6379 AAPL 2026-11-16T00:00:00Z 2026-11-21T00:00:00Z

The server runs with `use_rlc: true` in the section `jobs`. Needs the package redis. docs/collector.md has every field.
"""

import json
import sys
import uuid
from datetime import UTC, datetime

import redis


def push(url: str, symbol: str, start: str, end: str) -> str:
    """The id under which the job can be found in the dead letters, should it be impossible."""
    job = {
        "version": 1,
        "type": "backfill",
        "id": uuid.uuid4().hex,
        "symbol": symbol,
        "interval": "1m",
        "start": start,
        "end": end,
        "tier": "T1",
        "enqueued_at": datetime.now(UTC).isoformat(),
    }
    with redis.Redis.from_url(url) as client:
        client.lpush("market:jobs", json.dumps(job))
    return job["id"]


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    print(push(*sys.argv[1:]))
