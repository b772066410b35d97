"""The durable ways of `store.durable`, under the name by which this engine's modules know them."""

from marketd.store.durable import make_folder, replace_file, sync_folder, write_all

__all__ = ["make_folder", "replace_file", "sync_folder", "write_all"]
