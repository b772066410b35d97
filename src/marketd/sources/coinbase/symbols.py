"""Names: a symbol of ours is the exchange's product id. The exchange alone knows which of them exist."""

from __future__ import annotations

__all__ = ["product_id"]


def product_id(symbol: str) -> str:
    """`BTC-USD` of `BTC-USD`, `BTC/USD` or `btc-usd`. Ticks come under this name."""
    return symbol.strip().upper().replace("/", "-")
