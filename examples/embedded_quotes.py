"""Quotes inside your own program: no server, and no Redis unless you have one.

python examples/embedded_quotes.py
"""

import asyncio
from decimal import Decimal

from marketd.embedded import FaultConfig, MarketDataConfig, MarketDataService, SymbolScenario


class Dictionary:
    """Stands where redis.asyncio.Redis would: anything with async `set` and `get` will do."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def set(self, name: str, value: str) -> None:
        self.values[name] = value

    async def get(self, name: str) -> str | None:
        return self.values.get(name)


async def main() -> None:
    config = MarketDataConfig(
        symbols=[
            SymbolScenario("AAPL", "volatile", Decimal("150.00"), tick_interval_ms=50),
            SymbolScenario("TSLA", "trend_up", Decimal("250.00")),
        ],
        faults=FaultConfig(enabled=True, duplicate_probability=0.05),
    )
    service = MarketDataService(Dictionary(), config)
    await service.start()
    await service.ensure_subscribed(["AAPL", "TSLA"])
    stream = service.get_stream()
    for _ in range(20):
        quote = await stream.get()
        print(f"{quote.timestamp:%H:%M:%S.%f} {quote.symbol} {quote.bid:.4f} {quote.ask:.4f} last {quote.price:.4f}")
    await service.stop()

    snapshot = await service.get_quote("AAPL")
    if snapshot is not None:
        stale = snapshot.is_stale(config.staleness_threshold_ms)
        print(f"cached: {snapshot.symbol} {snapshot.price:.4f}, {'stale' if stale else 'fresh'}")


if __name__ == "__main__":
    asyncio.run(main())
