"""marketd: one process between every market-data provider and everything that needs prices.

The package's rooms and the direction of their imports are drawn in ``docs/architecture.md``. Importing
``marketd`` itself imports none of them, so that a program that only needs the version pays nothing.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
