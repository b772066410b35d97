"""The composition root: the only place that knows concrete classes and puts them together.

`server` is the engine behind the doors, `sources` and `stores` build what it works with, `web` puts the doors in front.
"""

from marketd.app.offline import Offline, open_offline
from marketd.app.server import Server
from marketd.app.sources import build_sources, record
from marketd.app.stores import open_history, open_records
from marketd.app.web import listen, serve

__all__ = [
    "Offline",
    "Server",
    "build_sources",
    "listen",
    "open_history",
    "open_offline",
    "open_records",
    "record",
    "serve",
]
