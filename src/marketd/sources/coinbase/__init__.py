"""Coinbase Exchange: public market data of a crypto exchange, no key needed. See the README beside this file.

`feed.CoinbaseSource` streams, `history.CoinbaseHistory` fetches bars, `quotes.CoinbaseQuotes` the latest quote, `parse`
understands them all. They are not imported here: a program that only reads its configuration needs no HTTP or WebSocket
library.
"""

from marketd.sources.coinbase.config import CoinbaseConfig

__all__ = ["CoinbaseConfig"]
