"""Bars in a directory, without a server: a log and memory for what is new, sorted Parquet for what is not."""

from marketd.store.embedded.config import EmbeddedStoreConfig
from marketd.store.embedded.engine import EmbeddedStore
from marketd.store.embedded.verify import Damage, describe, verify

__all__ = ["Damage", "EmbeddedStore", "EmbeddedStoreConfig", "describe", "verify"]
