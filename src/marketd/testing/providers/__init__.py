"""Local servers that speak providers' wire formats, for tests and for trying things without a network.

Each is seeded, listens on 127.0.0.1, and takes commands in-process (`drop_connections`, `mute`, …). By hand:
``python -m marketd.testing.providers``. To add one, write a module here and name it in ``__main__``.
"""

from marketd.testing.providers.coinbase import CoinbaseSimulator

__all__ = ["CoinbaseSimulator"]
