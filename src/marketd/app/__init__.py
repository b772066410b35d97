"""The composition root: the only place that knows concrete classes and puts them together.

`server` is the engine behind the doors, `sources` and `stores` build what it works with, `web` puts the doors in front.
"""

from marketd.app.offline import Offline, open_offline
from marketd.app.server import Server
from marketd.app.sources import live_providers, record
from marketd.app.stores import open_history, open_records
from marketd.app.web import listen, serve

__all__ = [
    "Offline",
    "Server",
    "listen",
    "live_providers",
    "open_history",
    "open_offline",
    "open_records",
    "record",
    "serve",
]
