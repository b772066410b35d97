"""Names: a symbol of ours is the exchange's product id. The exchange alone knows which of them exist."""

from __future__ import annotations

import re

__all__ = ["product_id", "product_or_none"]

_PRODUCT = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{2,10}")


def product_id(symbol: str) -> str:
    """`BTC-USD` of `BTC-USD`, `BTC/USD` or `btc-usd`. Ticks come under this name."""
    return symbol.strip().upper().replace("/", "-")


def product_or_none(symbol: str) -> str | None:
    """The same; None for what cannot be a product: no base or no quote currency."""
    product = product_id(symbol)
    return product if _PRODUCT.fullmatch(product) else None
