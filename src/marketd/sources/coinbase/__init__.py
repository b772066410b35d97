"""Coinbase Exchange: public market data of a crypto exchange, no key needed. See the README beside this file."""

from marketd.sources.coinbase.config import CoinbaseConfig
from marketd.sources.coinbase.feed import CoinbaseSource
from marketd.sources.coinbase.history import CoinbaseHistory, http_client
from marketd.sources.coinbase.parse import parse_message
from marketd.sources.coinbase.symbols import product_id

__all__ = ["CoinbaseConfig", "CoinbaseHistory", "CoinbaseSource", "http_client", "parse_message", "product_id"]
