"""A process that spends a quota as fast as it may and says so line by line, until it is killed.

Arguments: folder of the quota's memory, requests per day.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from marketd.clock import SystemClock
from marketd.routing import Budget, FileQuotaMemory, OutOfQuota, QuotaConfig, SharesConfig, WaitsConfig

ENOUGH = "enough"


async def spend(folder: Path, per_day: int) -> None:
    budget = Budget("acme", SystemClock(), memory=FileQuotaMemory(folder))
    day = QuotaConfig(per_day=per_day)
    budget.configure((), day, shares=SharesConfig(sweep=1.0, backfill=1.0), waits=WaitsConfig(live=0.0))
    while True:
        try:
            await budget.take("quote", 1)
        except OutOfQuota:
            print(ENOUGH, flush=True)
            await asyncio.Event().wait()
        print("went", flush=True)


if __name__ == "__main__":
    asyncio.run(spend(Path(sys.argv[1]), int(sys.argv[2])))
